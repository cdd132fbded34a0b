"""What a training run is: one flat record, read from flags, a TOML file and defaults."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import torch

from tssl_triton import data
from tssl_triton.encoding import PATTERNS, pattern_steps
from tssl_triton.losses import Readout
from tssl_triton.nn.learnable import PER, checked_learn
from tssl_triton.nn.network import ArchitectureError, Padding, Pool, parse_architecture
from tssl_triton.parameters import LIFParameters, Reset, Variant, WarmUp
from tssl_triton.rules import RULES, SLAYER, STBP, WINDOWS, ResetGradient, Rule, checked_rule

from .presets import DATASET_DEFAULTS
from .toml import tomllib

SURROGATE_HELP = "slope of a spike in rules stbp and slayer; auto is rectangular for stbp, exponential for slayer"
LOSSES = ("van-rossum", "spike-train", "count", "softmax")
OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("constant", "cosine")
ACCEPTED_DEVICES = "auto, cpu, cuda or cuda:N"


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


def _setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run; each field is a key of the TOML file and a flag of ``tssl train``.

    Raises:
        ConfigError: (a ValueError) naming the setting, what was given and what is accepted.
    """

    dataset: str = _setting("digits", "data set to learn", tuple(data.LOADERS))
    data_root: str = _setting("data", "folder under which data sets are kept, as docs/datasets.md says")
    download: bool = _setting(True, "download files of the data set that are not there")
    augment: bool = _setting(False, "crop and mirror training images at random; cifar10 only")
    bin_ms: float = _setting(3.0, "event sets: milliseconds per time step")
    downsample: int = _setting(1, "event sets: side of the square of pixels that become one; divides the sensor's")

    arch: str = _setting("400-400", "architecture, such as 15C5-P2-40C5-P2-300")
    padding: str = _setting("0", "zeros around convolution inputs: a number, 'same', or one per convolution: 1,0")
    pool: str = _setting("sum", "what pooling does", get_args(Pool))
    dropout: float = _setting(0.0, "share of inputs dropped before each weighted layer but the first")
    weight_scale: float = _setting(1.0, "factor on the initial weights")
    conv_weight_scale: float = _setting(1.0, "one more such factor, for convolutions")
    rule: str = _setting("tssl", "learning rule; ann is the same network without spikes and time", (*RULES, "ann"))
    surrogate: str = _setting("auto", SURROGATE_HELP, ("auto", *WINDOWS))
    surrogate_width: float = _setting(1.0, "width of the surrogate, in units of membrane potential")
    reset_gradient: str = _setting(
        "full", "rule stbp: whether the reset's spike is learnt through", get_args(ResetGradient)
    )
    fused: str = _setting("auto", "which layers run as one kernel, on GPUs", ("auto", "always", "never"))
    recompute: bool = _setting(False, "keep bits only and work the rest out again in backward: less memory, more time")

    tau_mem: float = _setting(5.0, "membrane time constant, in time steps; inf for no leak")
    tau_syn: float = _setting(3.0, "synaptic time constant, in time steps")
    threshold: float = _setting(1.0, "firing threshold")
    reset: str = _setting("zero", "what a spike does to the membrane", get_args(Reset))
    max_slope: float = _setting(8.0, "bound on the slope of spike time against membrane potential")
    warmup: str = _setting("psc", "where the surrogate gradient takes over", get_args(WarmUp))
    variant: str = _setting("released", "reading of eq. (14)", get_args(Variant))
    learn: str = _setting("", "constants that layers learn from their values above: tau_mem,tau_syn,threshold or some")
    per: str = _setting("layer", "what has a value of each learnt constant: a layer, or every neuron", PER)

    steps: int = _setting(5, "time steps per image")
    loss: str = _setting("van-rossum", "what the output spikes are compared with", LOSSES)
    reduction: str = _setting("sum", "loss of a batch from the losses of its images", ("sum", "mean"))
    pattern: str = _setting("three-spikes", f"target spikes: {', '.join(PATTERNS)}, or digits such as 01011")
    count: str = _setting("psc", "loss 'count': what is counted, postsynaptic current or spikes", ("psc", "spikes"))
    desired_count: float = _setting(4.0, "loss 'count': wanted spikes of the labelled class")
    undesired_count: float = _setting(1.0, "loss 'count': spikes that other classes may fire")
    readout: str = _setting("psc", "class by most spikes or by largest summed current", get_args(Readout))

    optimizer: str = _setting("adamw", "optimizer", OPTIMIZERS)
    lr: float = _setting(1e-3, "learning rate")
    schedule: str = _setting("cosine", "learning rate over the run: as it is, or falling to 0 at its end", SCHEDULES)
    weight_decay: float = _setting(0.01, "weight decay")
    clip_norm: float = _setting(1.0, "bound on the norm of the whole gradient; 0 for none")
    clip_weight: float = _setting(4.0, "bound on the size of every weight; 0 for none")
    epochs: int = _setting(10, "passes over the training images")
    batch_size: int = _setting(50, "training images per step")
    test_batch_size: int = _setting(500, "images per step of the test")

    seed: int = _setting(0, "seed of the weights, the data order and the dropout masks")
    tensorboard: bool = _setting(False, "log metrics of each epoch for TensorBoard, in the run's folder")
    device: str = _setting("auto", f"{ACCEPTED_DEVICES}; auto takes a GPU where there is one")

    def __post_init__(self) -> None:
        for name, expected in FIELD_TYPES.items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), expected))
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            if choices and getattr(self, field.name) not in choices:
                accepted = ", ".join(choices)
                raise ConfigError(f"{field.name} must be one of {accepted}, got {getattr(self, field.name)!r}")
        for name in ("steps", "batch_size", "test_batch_size", "downsample"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        for name in ("epochs", "seed", "weight_decay", "clip_norm", "clip_weight", "undesired_count"):
            self._require(name, getattr(self, name) >= 0, ">= 0")
        self._require("seed", self.seed < 2**63, "below 2**63")
        self._require("lr", self.lr > 0, "> 0")
        self._require("bin_ms", self.bin_ms > 0, "> 0")
        if self.augment and self.dataset not in data.AUGMENTED:
            raise ConfigError(f"augment must be false for {self.dataset}; {', '.join(data.AUGMENTED)} can be augmented")
        self._require("surrogate_width", self.surrogate_width > 0, "> 0")
        self._require("weight_scale", self.weight_scale > 0, "> 0")
        self._require("conv_weight_scale", self.conv_weight_scale > 0, "> 0")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        if self.loss == "count":
            bounds = f"undesired_count <= desired_count <= steps ({self.undesired_count:g}, {self.steps})"
            self._require("desired_count", self.undesired_count <= self.desired_count <= self.steps, bounds)
        try:
            self.neuron()
            self.learning_rule()
            checked_learn(self.learnt())
            pattern_steps(self.pattern)
            parse_architecture(self.arch)
            if self.device != "auto" and torch.device(self.device).type not in ("cpu", "cuda"):
                raise ConfigError(f"device must be {ACCEPTED_DEVICES}, got {self.device!r}")
        except (ArchitectureError, ConfigError):
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error
        except RuntimeError as error:
            raise ConfigError(f"device must be {ACCEPTED_DEVICES}, got {self.device!r}") from error
        self.paddings()
        if self.learn:
            self._require("learn", self.rule != "ann", "empty for rule ann")
            self._require(
                "learn", not self.recompute and self.fused != "always", "empty with recompute or fused always"
            )

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

    def paddings(self) -> Padding:
        """``padding`` as `tssl_triton.nn.network.build_network` takes it."""
        entries: list[Any] = []
        for entry in self.padding.split(","):
            word = entry.strip()
            if word != "same" and not word.isdecimal():
                raise ConfigError(
                    f"padding must be a number, 'same', or one of these per convolution as in 1,0; got {self.padding!r}"
                )
            entries.append(word if word == "same" else int(word))
        return entries[0] if len(entries) == 1 else entries

    def _require(self, name: str, holds: bool, accepted: str) -> None:
        if not holds:
            raise ConfigError(f"{name} must be {accepted}, got {getattr(self, name)!r}")


FIELD_TYPES: dict[str, type] = get_type_hints(TrainConfig)

#: Settings that say where and how a run is computed, not what is computed: a resumed run may change them.
MAY_CHANGE = frozenset({"epochs", "device", "data_root", "download", "test_batch_size", "recompute", "tensorboard"})


def resolve(flags: dict[str, Any], file: dict[str, Any]) -> TrainConfig:
    """Settings from ``flags``, else from the ``file``, else the data set's default, else the general default.

    Raises:
        ConfigError: for an unknown or invalid setting.
    """
    given = {**file, **flags}
    for name in given:
        check_known(name)
    dataset = given.get("dataset", TrainConfig.dataset)
    defaults = DATASET_DEFAULTS.get(dataset, {}) if isinstance(dataset, str) else {}
    return TrainConfig(**{**defaults, **given})


def check_known(name: str, source: str = "") -> None:
    """Raise ConfigError for a name that is no setting, with the nearest one that is."""
    if name in FIELD_TYPES:
        return
    near = difflib.get_close_matches(name.replace("-", "_"), FIELD_TYPES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(FIELD_TYPES)}"
    raise ConfigError(f"unknown setting {name!r}{source}{hint}")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a TOML file, checked for unknown names; a recipe's table ``[paper]`` is no setting.

    Raises:
        ConfigError: if the file is missing, is not TOML or names an unknown setting.
    """
    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read configuration file {os.fspath(path)}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {os.fspath(path)} is not valid TOML: {error}") from error
    if isinstance(settings.get("paper"), dict):
        del settings["paper"]
    for name in settings:
        check_known(name, f" in {os.fspath(path)}")
    return settings


def write_toml(config: TrainConfig) -> str:
    """The configuration as TOML, one line per setting; `read_toml` and `resolve` give it back unchanged."""
    # Strings and booleans of JSON are strings and booleans of TOML; repr of a float is a TOML float.
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)}"
        for name, value in dataclasses.asdict(config).items()
    )
    return "\n".join(lines) + "\n"


def _typed(name: str, value: Any, expected: type[Any]) -> Any:
    """``value`` as ``expected``, where nothing is lost by it."""
    if name in ("pattern", "padding", "learn"):
        value = _spelled_out(name, value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
        raise ConfigError(f"{name} must be {words[expected]}, got {value!r}")
    # A membrane may keep its potential for ever; nothing else may be infinite.
    if expected is float and not math.isfinite(value) and (name, value) != ("tau_mem", math.inf):
        raise ConfigError(f"{name} must be finite, got {value!r}")
    return value


def _spelled_out(name: str, value: Any) -> Any:
    """A pattern, padding or names that a TOML file gives as a list, in the spelling of a flag."""
    joint = "" if name == "pattern" else ","
    if isinstance(value, (list, tuple)) and (value or name == "learn"):
        return joint.join(str(entry) for entry in value)
    if name == "padding" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value
