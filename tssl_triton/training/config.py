"""The settings of a training run: one flat record, its checks, and TOML, both ways."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import torch

from tssl_triton import data
from tssl_triton._errors import UserError
from tssl_triton.encoding import PATTERNS, pattern_steps
from tssl_triton.functional import LIFConstants
from tssl_triton.losses import Readout
from tssl_triton.nn import parse_architecture
from tssl_triton.parameters import LIFParameters, Reset, Variant, WarmUp
from tssl_triton.rules import RULES, SLAYER, STBP, WINDOWS, ResetGradient, Rule, checked_rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOSSES = ("van-rossum", "spike-train", "count", "softmax")
_DEVICES = "auto, cpu, cuda or cuda:N"
_SURROGATES = "rules stbp and slayer; auto is rectangular for stbp, exponential for slayer"


class ConfigError(UserError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


def _setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run; each field is a key of the TOML file and a flag of ``tssl train``.

    Raises:
        ConfigError: (a ValueError) naming the setting, the value and what is accepted.
    """

    dataset: str = _setting("digits", "data set", tuple(data.LOADERS))
    data_root: str = _setting("data", "folder of the data sets; docs/datasets.md lists the files")
    download: bool = _setting(True, "download missing files of the data set")
    augment: bool = _setting(False, "crop and mirror training images at random; cifar10 only")
    bin_ms: float = _setting(3.0, "event sets: milliseconds per time step")
    downsample: int = _setting(1, "event sets: side of the square of pixels merged into one; divides the sensor's")

    arch: str = _setting("400-400", "architecture, such as 15C5-P2-40C5-P2-300")
    padding: str = _setting("0", "zero padding of the convolutions: a number, 'same', or one per convolution: 1,0")
    pool: str = _setting("sum", "pooling operation", ("sum", "average", "max"))
    dropout: float = _setting(0.0, "share of inputs dropped before each weighted layer except the first")
    weight_scale: float = _setting(1.0, "factor on the initial weights")
    conv_weight_scale: float = _setting(1.0, "additional factor on the initial weights of convolutions")
    rule: str = _setting("tssl", "learning rule; ann is the same network without spikes and time", (*RULES, "ann"))
    surrogate: str = _setting("auto", f"surrogate derivative of {_SURROGATES}", ("auto", *WINDOWS))
    surrogate_width: float = _setting(1.0, "width of the surrogate, in units of membrane potential")
    reset_gradient: str = _setting("full", "rule stbp: gradient through the reset", get_args(ResetGradient))
    fused: str = _setting("auto", "which layers run as one kernel, on GPUs", ("auto", "always", "never"))
    recompute: bool = _setting(False, "store only spike bits, recompute the rest in backward: less memory, more time")

    tau_mem: float = _setting(5.0, "membrane time constant, in time steps; inf for no leak")
    tau_syn: float = _setting(3.0, "synaptic time constant, in time steps")
    threshold: float = _setting(1.0, "firing threshold")
    reset: str = _setting("zero", "reset of the membrane after a spike", get_args(Reset))
    max_slope: float = _setting(8.0, "bound on the slope of spike time against membrane potential")
    warmup: str = _setting("psc", "which neurons use the warm-up surrogate gradient", get_args(WarmUp))
    variant: str = _setting("released", "reading of eq. (14)", get_args(Variant))
    learn: str = _setting("", "neuron constants to learn, initialised above: some of tau_mem,tau_syn,threshold")
    per: str = _setting("layer", "one value of each learnt constant per layer or per neuron", ("layer", "neuron"))

    steps: int = _setting(5, "time steps per image")
    loss: str = _setting("van-rossum", "loss on the output spikes", LOSSES)
    reduction: str = _setting("sum", "reduction of the loss over a batch", ("sum", "mean"))
    pattern: str = _setting("three-spikes", f"target spikes: {', '.join(PATTERNS)}, or digits such as 01011")
    count: str = _setting("psc", "loss 'count': what is counted, postsynaptic current or spikes", ("psc", "spikes"))
    desired_count: float = _setting(4.0, "loss 'count': target count of the labelled class")
    undesired_count: float = _setting(1.0, "loss 'count': largest count of other classes without a loss")
    readout: str = _setting("psc", "predicted class: most spikes or largest summed current", get_args(Readout))

    optimizer: str = _setting("adamw", "optimizer", ("adamw", "adam"))
    lr: float = _setting(1e-3, "learning rate")
    schedule: str = _setting("cosine", "learning rate: constant, or falling to 0", ("constant", "cosine"))
    weight_decay: float = _setting(0.01, "weight decay")
    clip_norm: float = _setting(1.0, "bound on the norm of the whole gradient; 0 for none")
    clip_weight: float = _setting(4.0, "bound on the absolute value of every weight; 0 for none")
    epochs: int = _setting(10, "passes over the training images")
    batch_size: int = _setting(50, "training images per step")
    test_batch_size: int = _setting(500, "images per step of the test")

    seed: int = _setting(0, "seed of the weights, the data order and the dropout masks")
    tensorboard: bool = _setting(False, "log metrics of each epoch for TensorBoard, in the run's folder")
    device: str = _setting("auto", f"{_DEVICES}; auto is the GPU if there is one")

    def __post_init__(self) -> None:
        for name, expected in FIELD_TYPES.items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), expected))
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            if choices:
                self._require(field.name, getattr(self, field.name) in choices, f"one of {', '.join(choices)}")
        for name in ("steps", "batch_size", "test_batch_size", "downsample"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        for name in ("epochs", "seed", "weight_decay", "clip_norm", "clip_weight", "undesired_count"):
            self._require(name, getattr(self, name) >= 0, ">= 0")
        for name in ("lr", "bin_ms", "surrogate_width", "weight_scale", "conv_weight_scale"):
            self._require(name, getattr(self, name) > 0, "> 0")
        self._require("seed", self.seed < 2**63, "below 2**63")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        if self.augment and self.dataset not in data.AUGMENTED:
            raise ConfigError(f"augment must be false for {self.dataset}; {', '.join(data.AUGMENTED)} can be augmented")
        if self.loss == "count":
            bounds = f"undesired_count <= desired_count <= steps ({self.undesired_count:g}, {self.steps})"
            self._require("desired_count", self.undesired_count <= self.desired_count <= self.steps, bounds)
        try:
            self.neuron()
            self.learning_rule()
            pattern_steps(self.pattern)
            parse_architecture(self.arch)
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error
        self._check_device()
        self.paddings()
        names = self.learnt()
        known = LIFConstants._fields
        distinct = len(set(names)) == len(names) and set(names) <= set(known)
        self._require("learn", distinct, f"names among {', '.join(known)}, each at most once")
        if names:
            self._require("learn", self.rule != "ann", "empty for rule ann")
            dense = not self.recompute and self.fused != "always"
            self._require("learn", dense, "empty with recompute or fused always")

    def neuron(self) -> LIFParameters:
        """The constants of every neuron."""
        names = (field.name for field in dataclasses.fields(LIFParameters))
        return LIFParameters(**{name: getattr(self, name) for name in names})

    def learnt(self) -> tuple[str, ...]:
        """Names of the constants that are learnt."""
        return tuple(name.strip() for name in self.learn.split(",")) if self.learn else ()

    def learning_rule(self) -> Rule | None:
        """The learning rule of every layer; None for the network without spikes, which PyTorch differentiates."""
        if self.rule == "ann":
            return None
        if self.rule == "stbp":
            window = "rectangular" if self.surrogate == "auto" else self.surrogate
            return STBP(window, self.surrogate_width, self.reset_gradient)  # type: ignore[arg-type]
        if self.rule == "slayer":
            self._require("surrogate", self.surrogate in ("auto", "exponential"), "auto or exponential for rule slayer")
            return SLAYER(self.surrogate_width)
        return checked_rule(self.rule)

    def paddings(self) -> Any:
        """``padding`` as `tssl_triton.build_network` takes it: a number, ``"same"``, or a list of these."""
        words = [word.strip() for word in self.padding.split(",")]
        valid = all(word == "same" or word.isdecimal() for word in words)
        self._require("padding", valid, "a number, 'same', or one of these per convolution such as 1,0")
        entries = [word if word == "same" else int(word) for word in words]
        return entries[0] if len(entries) == 1 else entries

    def _check_device(self) -> None:
        try:
            valid = self.device == "auto" or torch.device(self.device).type in ("cpu", "cuda")
        except RuntimeError:
            valid = False
        self._require("device", valid, _DEVICES)

    def _require(self, name: str, holds: bool, accepted: str) -> None:
        if not holds:
            raise ConfigError(f"{name} must be {accepted}, got {getattr(self, name)!r}")


FIELD_TYPES: dict[str, type] = get_type_hints(TrainConfig)

#: Settings that a resumed run may change, because they do not affect the result of a step.
MAY_CHANGE = frozenset({"epochs", "device", "data_root", "download", "test_batch_size", "recompute", "tensorboard"})


def check_known(name: str, source: str = "") -> None:
    """Raise ConfigError unless ``name`` is a setting; the message suggests the nearest one."""
    if name in FIELD_TYPES:
        return
    near = difflib.get_close_matches(name.replace("-", "_"), FIELD_TYPES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(FIELD_TYPES)}"
    raise ConfigError(f"unknown setting {name!r}{source}{hint}")


def parse_toml(path: str | os.PathLike[str], noun: str, error_class: type[UserError]) -> dict[str, Any]:
    """The content of a TOML file; errors are of ``error_class`` and call the file a ``noun``."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise error_class(f"cannot read {noun} {os.fspath(path)}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise error_class(f"{noun} {os.fspath(path)} is not valid TOML: {error}") from error


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a TOML file, checked for unknown names; a recipe's table ``[paper]`` is skipped.

    Raises:
        ConfigError: if the file is missing, is not TOML or names an unknown setting.
    """
    settings = parse_toml(path, "configuration file", ConfigError)
    if isinstance(settings.get("paper"), dict):
        del settings["paper"]
    for name in settings:
        check_known(name, f" in {os.fspath(path)}")
    return settings


def write_toml(config: TrainConfig) -> str:
    """The configuration as TOML, one line per setting; `read_toml` and `resolve` return it unchanged."""
    # Strings and booleans of JSON are strings and booleans of TOML; repr of a float is a TOML float.
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)}"
        for name, value in dataclasses.asdict(config).items()
    )
    return "\n".join(lines) + "\n"


def _typed(name: str, value: Any, expected: type[Any]) -> Any:
    """``value`` as ``expected``, where the conversion is lossless."""
    if name in ("pattern", "padding", "learn"):
        value = _list_as_text(name, value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
        raise ConfigError(f"{name} must be {words[expected]}, got {value!r}")
    # Only tau_mem may be infinite: a membrane without leak.
    if expected is float and not math.isfinite(value) and (name, value) != ("tau_mem", math.inf):
        raise ConfigError(f"{name} must be finite, got {value!r}")
    return value


def _list_as_text(name: str, value: Any) -> Any:
    """A pattern, padding or names given as a list, as the text that a flag would have."""
    joint = "" if name == "pattern" else ","
    if isinstance(value, (list, tuple)) and (value or name == "learn"):
        return joint.join(str(entry) for entry in value)
    if name == "padding" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value
