"""Networks from the architecture strings of the literature.

An architecture is a sequence of tokens joined by ``-``:

=========  ==================================================================================
``15C5``   convolution, 15 output channels, 5x5 kernel, stride 1, followed by spiking neurons
``P2``     pooling over non-overlapping 2x2 windows, without neurons
``300``    fully connected layer of 300 spiking neurons
=========  ==================================================================================

`build_network` adds the output layer, one spiking neuron per class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from tssl_triton._checks import check_choice, check_count, check_finite
from tssl_triton._errors import UserError
from tssl_triton.parameters import LIFParameters
from tssl_triton.rules import Rule, checked_rule

from .neurons import LIF
from .pooling import SpikePool2d, TimeSharedDropout
from .sequential import SpikingSequential
from .weighted import SpikingConv2d, SpikingLinear

Pool = Literal["sum", "average", "max"]
Padding = int | Literal["same"] | Sequence[int | Literal["same"]]

ACCEPTED_TOKENS = "a convolution like 15C5, a pooling like P2 or a number of neurons like 300"
ACCEPTED_PADDING = "an integer >= 0, 'same' or a sequence of these, one per convolution"
_CONVOLUTION = re.compile(r"([0-9]+)C([0-9]+)")
_POOLING = re.compile(r"P([0-9]+)")
_NEURONS = re.compile(r"([0-9]+)")


class ArchitectureError(UserError, ValueError):
    """An architecture string that cannot be built; the message underlines the token at fault.

    Attributes:
        architecture: the whole string.
        position: where the token begins, counted from 1.
    """

    def __init__(self, problem: str, architecture: str, start: int, length: int) -> None:
        self.architecture = architecture
        self.position = start + 1
        underline = " " * start + "^" * max(length, 1)
        super().__init__(f"architecture: {problem}\n    {architecture}\n    {underline} position {self.position}")


@dataclass(frozen=True)
class Token:
    """One layer of an architecture: its kind, its numbers and its place in the string.

    Args:
        kind: ``"conv"``, ``"pool"`` or ``"linear"``.
        width: output channels, or neurons; 0 for a pooling.
        window: side of the kernel or of the pooling window; 0 for a fully connected layer.
        text: the token as written.
        start: index of its first character.
    """

    kind: Literal["conv", "pool", "linear"]
    width: int
    window: int
    text: str
    start: int


def parse_architecture(architecture: str) -> list[Token]:
    """Split ``"15C5-P2-300"`` into tokens.

    Raises:
        TypeError: if ``architecture`` is not a string.
        ArchitectureError: (a ValueError) at the first token that cannot be read or whose number is 0.
    """
    if not isinstance(architecture, str):
        raise TypeError(f"architecture must be a string like '15C5-P2-300', got {type(architecture).__name__}")
    tokens = []
    start = 0
    for text in architecture.split("-"):
        tokens.append(_read_token(text, start, architecture))
        start += len(text) + 1
    return tokens


def _read_token(text: str, start: int, architecture: str) -> Token:
    if match := _CONVOLUTION.fullmatch(text):
        token = Token("conv", int(match[1]), int(match[2]), text, start)
    elif match := _POOLING.fullmatch(text):
        token = Token("pool", 0, int(match[1]), text, start)
    elif match := _NEURONS.fullmatch(text):
        token = Token("linear", int(match[1]), 0, text, start)
    else:
        problem = f"token {text!r} is not {ACCEPTED_TOKENS}" if text else f"empty token; expected {ACCEPTED_TOKENS}"
        raise ArchitectureError(problem, architecture, start, len(text))
    # A pooling has no width, a fully connected layer no window.
    if (token.kind != "pool" and token.width < 1) or (token.kind != "linear" and token.window < 1):
        raise ArchitectureError(f"the numbers of token {text!r} must be >= 1", architecture, start, len(text))
    return token


def build_network(
    architecture: str,
    in_shape: Sequence[int],
    classes: int,
    *,
    params: LIFParameters | None = None,
    padding: Padding = 0,
    pool: Pool = "sum",
    dropout: float = 0.0,
    weight_scale: float = 1.0,
    conv_weight_scale: float = 1.0,
    rule: Rule | str = "tssl",
    recompute: bool = False,
    fused: str = "auto",
    learn: Sequence[str] = (),
    per: str = "layer",
) -> SpikingSequential:
    """Build the network of an architecture string, with one output neuron per class at its end.

    Args:
        architecture: for example ``"15C5-P2-40C5-P2-300"``; see the top of this module.
        in_shape: shape of one input without time and batch: ``(C, H, W)``, or ``(N,)`` for
            fully connected layers only.
        classes: number of output neurons.
        params: neuron constants of every layer; ``LIFParameters()`` if not given.
        padding: zeros around each convolution's input: one number for all of them, ``"same"`` for half of
            an odd kernel (the size stays), or a sequence with one entry per convolution.
        pool: ``"sum"`` over each window (times 1.1, as in the authors' released program), ``"average"`` or ``"max"``.
        dropout: probability of dropping an input of every weighted layer but the first, one mask per
            sample for all time steps; 0 adds no dropout layers.
        weight_scale: factor on the initial weights.
        conv_weight_scale: a second factor, on the weights of convolutions.
        rule: learning rule of every layer: a name, or one of `tssl_triton.rules`.
        recompute: whether every layer computes its weighted input again in backward instead of keeping it.
        fused: which layers run as one kernel: ``"auto"``, ``"always"`` or ``"never"``, see `SpikingLinear`.
        learn: constants that every layer learns, of ``"tau_mem"``, ``"tau_syn"`` and ``"threshold"``.
        per: one value of each per ``"layer"``, or per ``"neuron"`` (of a convolution, per channel).

    Returns:
        A network from ``(T, B, *in_shape)``, or a `StaticInput` of ``(B, *in_shape)``, to spikes ``(T, B, classes)``.

    Raises:
        ArchitectureError: (a ValueError) for a token that cannot be read, that does not fit the one before it, or
            whose output would be smaller than 1x1.
        TypeError, ValueError: for any other argument, naming it.
    """
    tokens = parse_architecture(architecture)
    shape = checked_shape(in_shape)
    classes = check_count("classes", classes)
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool):
        raise TypeError(f"dropout must be a number in [0, 1), got {dropout!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
    check_choice("pool", pool, get_args(Pool))
    params = LIFParameters() if params is None else params
    margins = iter(_paddings(padding, [token for token in tokens if token.kind == "conv"], architecture))

    options: dict[str, Any] = {
        "rule": checked_rule(rule),
        "recompute": recompute,
        "fused": fused,
        "learn": learn,
        "per": per,
    }
    conv_scale = check_finite("weight_scale", weight_scale) * check_finite("conv_weight_scale", conv_weight_scale)
    layers: list[nn.Module] = []
    weighted = 0
    for token in tokens:
        margin = next(margins) if token.kind == "conv" else 0
        after = _shape_after(token, shape, margin, architecture)
        if token.kind == "pool":
            layers.append(SpikePool2d(token.window, pool))
        else:
            if dropout and weighted:
                layers.append(TimeSharedDropout(dropout))
            if token.kind == "conv":
                layers.append(
                    SpikingConv2d(
                        shape[0],
                        token.width,
                        token.window,
                        params,
                        padding=margin,
                        weight_scale=conv_scale,
                        **options,
                    )
                )
            else:
                layers.append(
                    SpikingLinear(math.prod(shape), token.width, params, weight_scale=weight_scale, **options)
                )
            weighted += 1
        shape = after
    if dropout and weighted:
        layers.append(TimeSharedDropout(dropout))
    layers.append(SpikingLinear(math.prod(shape), classes, params, weight_scale=weight_scale, **options))
    return SpikingSequential(*layers)


def _shape_after(token: Token, shape: tuple[int, ...], margin: int, architecture: str) -> tuple[int, ...]:
    """The shape of one sample after ``token``, rounded down as in PyTorch; errors point at the token."""
    if token.kind == "linear":
        return (token.width,)

    def reject(problem: str) -> ArchitectureError:
        return ArchitectureError(problem, architecture, token.start, len(token.text))

    name = "convolution" if token.kind == "conv" else "pooling"
    if len(shape) != 3:
        raise reject(f"{name} {token.text!r} needs an input (C, H, W), but here the input is flat, ({shape[0]},)")
    channels, height, width = shape
    padded = (height + 2 * margin, width + 2 * margin)
    if token.window > min(padded):
        size = f"{height}x{width}" + (f" with padding {margin}" if margin else "")
        raise reject(f"the {token.window}x{token.window} window of {token.text!r} does not fit its input, {size}")
    if token.kind == "pool":
        return (channels, height // token.window, width // token.window)
    return (token.width, padded[0] - token.window + 1, padded[1] - token.window + 1)


def _paddings(padding: Padding, convolutions: list[Token], architecture: str) -> list[int]:
    if isinstance(padding, (int, str)):
        each: list[int | str] = [padding] * len(convolutions)
    elif isinstance(padding, Iterable):
        each = list(padding)
        if len(each) != len(convolutions):
            raise ValueError(
                f"padding has {len(each)} entries, but {architecture!r} has {len(convolutions)} convolutions"
            )
    else:
        raise TypeError(f"padding must be {ACCEPTED_PADDING}, got {padding!r}")
    for entry in [padding] if isinstance(padding, (int, str)) else each:
        _check_padding(entry)
    return [_margin(entry, token, architecture) for entry, token in zip(each, convolutions, strict=True)]


def _check_padding(padding: object) -> None:
    if padding == "same":
        return
    if isinstance(padding, bool) or not isinstance(padding, (int, str)):
        raise TypeError(f"padding must be {ACCEPTED_PADDING}, got {padding!r}")
    if isinstance(padding, str) or padding < 0:
        raise ValueError(f"padding must be {ACCEPTED_PADDING}, got {padding!r}")


def _margin(padding: int | str, token: Token, architecture: str) -> int:
    if isinstance(padding, int):
        return padding
    if token.window % 2 == 0:
        problem = f"padding 'same' needs an odd kernel, {token.text!r} has {token.window}"
        raise ArchitectureError(problem, architecture, token.start, len(token.text))
    return token.window // 2


def checked_shape(in_shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one input, ``(C, H, W)`` or ``(N,)``, as a tuple.

    Raises:
        TypeError, ValueError: naming ``in_shape``.
    """
    accepted = "(C, H, W) or (N,), integers >= 1"
    if isinstance(in_shape, (str, int)) or not isinstance(in_shape, Iterable):
        raise TypeError(f"in_shape must be {accepted}, got {in_shape!r}")
    shape = tuple(in_shape)
    if len(shape) not in (1, 3) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"in_shape must be {accepted}, got {shape!r}")
    return shape


def spiking_layers(network: nn.Module) -> dict[str, LIF]:
    """The spiking layers by name, from input to output: ``conv 1``, ``conv 2``, ``full 1``, ..., ``output``."""
    layers = [module for module in network.modules() if isinstance(module, LIF)]
    names: list[str] = []
    numbers = {"conv": 0, "full": 0, "neurons": 0}
    for layer in layers:
        kind = {SpikingConv2d: "conv", SpikingLinear: "full"}.get(type(layer), "neurons")
        numbers[kind] += 1
        names.append(f"{kind} {numbers[kind]}")
    return dict(zip([*names[:-1], "output"], layers, strict=True)) if layers else {}
