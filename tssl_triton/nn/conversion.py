"""An ANN as a spiking network: firing rates in place of activations, thresholds balanced by data. ::

    scale[l] = percentile of the activations of layer l on training images;  scale[0] = 1, the images'
    W'[l]    = W[l] scale[l-1] / scale[l],   b'[l] = b[l] / scale[l]
    u[t]     = v[t-1] + W'[l] s[t] + b'[l]                        integrate: no leak, no synaptic filter
    fires where u[t] > 1,   v[t] = u[t] - 1 where it fires        and fire, reset by subtraction

The neurons are those of this package with tau_mem = inf, tau_syn = 1, threshold 1 and reset "subtract". The image is a
constant input current. For a constant input x, a neuron's rate over T steps is ``clip(x, 0, 1)`` to within 1/T, or to
within 1/(2T) if its membrane starts at half a threshold. A layer's rates therefore approach its activations divided by
its scale, clipped at 1. The output neurons do not fire: their membrane accumulates ``scale[L-1] W[L] s[t] + b[L]``,
which divided by T estimates the logits.

Sources: Rueckauer et al., Frontiers in Neuroscience 11:682 (2017), for percentiles and reset by subtraction; Diehl et
al., IJCNN 2015, for balancing by data, there with the largest activation: percentile 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from tssl_triton._checks import check_count, check_finite, check_pair
from tssl_triton._errors import UserError
from tssl_triton.encoding import StaticInput, static
from tssl_triton.functional import LIFState
from tssl_triton.parameters import LIFParameters

from .ann import ANN, Pool2d
from .pooling import SpikePool2d
from .sequential import SpikingSequential
from .weighted import SpikingConv2d, SpikingLinear

#: Integrate and fire: no leak, no synaptic filter; the part above the threshold is kept for the next spike.
INTEGRATE_AND_FIRE = LIFParameters(tau_mem=math.inf, tau_syn=1.0, threshold=1.0, reset="subtract")

#: Steps presented at once; memory grows with them alone.
LONGEST_WINDOW = 16


class ConversionError(UserError, ValueError):
    """A network that cannot be converted."""


class ConvertedNetwork(nn.Module):
    """Spiking layers and an integrating output, made by `convert`.

    Args:
        hidden: all layers but the last.
        readout: the last layer, from mean spikes per step to logits.
        initial: membrane potential at the first step, as a share of the threshold, in [0, 1].
    """

    def __init__(self, hidden: SpikingSequential, readout: nn.Linear, initial: float = 0.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.readout = readout
        self.initial = initial

    @torch.no_grad()
    def forward(self, images: Tensor, marks: Sequence[int]) -> Tensor:
        """Estimates of the logits, ``(len(marks), B, classes)``, after each number of time steps in ``marks``.

        One run serves all marks. It is split into windows, so memory does not grow with time.

        Args:
            images: ``(B, *in_shape)``, the constant input current.
            marks: increasing numbers of time steps.

        Raises:
            TypeError, ValueError: if ``marks`` are not rising integers >= 1.
        """
        window = _window(marks)
        state = self._initial_state(images)
        counts: Tensor | None = None
        logits = []
        for before, mark in zip([0, *marks], marks, strict=False):
            for _ in range(before, mark, window):
                spikes, state = self.hidden(static(images, window), state, return_state=True)
                # Without a layer of neurons, as after a single pooling, the image itself arrives at every step.
                arrived = (spikes.dense() if isinstance(spikes, StaticInput) else spikes).sum(0).flatten(1)
                counts = arrived if counts is None else counts + arrived
            assert counts is not None
            logits.append(self.readout(counts / mark))
        return torch.stack(logits)

    def _initial_state(self, images: Tensor) -> list[LIFState | None] | None:
        if self.initial == 0:
            return None
        # One step from rest tells the shape of every layer.
        _, after = self.hidden(static(images, 1), return_state=True)
        return [None if state is None else self._charged(state) for state in after]

    def _charged(self, state: LIFState) -> LIFState:
        zeros = torch.zeros_like(state.membrane)
        return LIFState(zeros, zeros + self.initial * INTEGRATE_AND_FIRE.threshold, zeros)


def convert(ann: ANN, scales: Sequence[float], initial: float = 0.0) -> ConvertedNetwork:
    """The spiking network whose rates represent an ANN's activations; the ANN is not changed.

    Args:
        ann: as `tssl_triton.nn.ann.build_ann` makes it.
        scales: activation represented by a rate of one spike per step, one per rectified layer, > 0;
            `activation_scales` measures them.
        initial: initial membrane potential, as a share of the threshold, in [0, 1]. With 0.5 rates round to the
            nearest count, with 0 they round down.

    Raises:
        ConversionError: for a layer without a spiking counterpart, such as max pooling, whose maximum over spikes is
            not the maximum over rates.
        TypeError, ValueError: naming the argument.
    """
    if not isinstance(ann, ANN):
        raise TypeError(f"ann must be an ANN, as build_ann makes it, got {type(ann).__name__}")
    rectifiers = sum(isinstance(layer, nn.ReLU) for layer in ann)
    if len(scales) != rectifiers:
        raise ValueError(f"scales must hold one number per rectified layer, {rectifiers}, got {len(scales)}")
    for scale in scales:
        if not check_finite("every scale", scale) > 0:
            raise ValueError(f"every scale must be > 0, got {scale!r}")
    check_initial(initial)

    *hidden, last = [layer for layer in ann if not isinstance(layer, (nn.ReLU, nn.Flatten, nn.Dropout))]
    edges = iter(zip([1.0, *scales], [*scales, 1.0], strict=True))
    layers = [_spiking(layer, *(next(edges) if isinstance(layer, (nn.Conv2d, nn.Linear)) else ())) for layer in hidden]
    if not isinstance(last, nn.Linear):
        raise ConversionError(f"the last layer must be linear, got {type(last).__name__}")
    readout = nn.utils.skip_init(nn.Linear, last.in_features, last.out_features, bias=last.bias is not None)
    _set_parameters(readout, last, *next(edges))
    converted = ConvertedNetwork(SpikingSequential(*layers), readout, initial)
    return converted.to(last.weight.device).eval()


def _spiking(layer: nn.Module, before: float = 1.0, after: float = 1.0) -> nn.Module:
    """The spiking counterpart of a layer between activations of the scales ``before`` and ``after``."""
    bias = isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None
    if isinstance(layer, nn.Conv2d) and _is_plain(layer):
        kernel, stride, padding = (
            check_pair("size", size, 0) for size in (layer.kernel_size, layer.stride, layer.padding)
        )
        convolution = SpikingConv2d(
            layer.in_channels, layer.out_channels, kernel, INTEGRATE_AND_FIRE, stride=stride, padding=padding, bias=bias
        )
        return _set_parameters(convolution, layer, before, after)
    if isinstance(layer, nn.Linear):
        connected = SpikingLinear(layer.in_features, layer.out_features, INTEGRATE_AND_FIRE, bias=bias)
        return _set_parameters(connected, layer, before, after)
    if isinstance(layer, Pool2d) and layer.kind != "max":
        return SpikePool2d(layer.kernel_size, layer.kind, layer.scale)
    raise ConversionError(
        f"cannot be converted: {layer!r}; pooling must be a sum or an average, layers those of an ANN, convolutions "
        "without groups or dilation and padded with a number of zeros"
    )


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether `SpikingConv2d` supports all settings of a convolution."""
    named_padding = isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    return not named_padding and layer.groups == 1 and all(step == 1 for step in layer.dilation)


def _set_parameters(target: nn.Module, source: nn.Conv2d | nn.Linear, before: float, after: float) -> nn.Module:
    with torch.no_grad():
        target.weight = nn.Parameter(source.weight * (before / after))
        if source.bias is not None:
            target.bias = nn.Parameter(source.bias / after)
    return target


def _window(marks: Sequence[int]) -> int:
    """Steps to run at once: the largest common divisor of the marks up to `LONGEST_WINDOW`.

    With one length for the whole run there is one compiled loop per layer.
    """
    check_marks(marks)
    common = math.gcd(*marks)
    return max(length for length in range(1, LONGEST_WINDOW + 1) if common % length == 0)


@torch.no_grad()
def activation_scales(ann: ANN, batches: Iterable[Tensor], samples: int, percentile: float = 99.9) -> list[float]:
    """The scale of each rectified layer: a percentile of all its activations, zeros included.

    Args:
        ann: the trained network.
        batches: images ``(B, *in_shape)``, ``samples`` in total.
        samples: number of images.
        percentile: in (0, 100]; 100 is the largest activation.

    Raises:
        ConversionError: if a layer's percentile is 0.
        TypeError, ValueError: naming the argument.
    """
    check_percentile(percentile)
    check_count("samples", samples)
    rectifiers = [layer for layer in ann if isinstance(layer, nn.ReLU)]
    percentiles: dict[nn.Module, RunningPercentile] = {}

    def record(layer: nn.Module, args: object, activations: Tensor) -> None:
        if layer not in percentiles:
            percentiles[layer] = RunningPercentile(percentile, samples * activations[0].numel())
        percentiles[layer].add(activations)

    hooks = [layer.register_forward_hook(record) for layer in rectifiers]
    was_training = ann.training
    try:
        ann.eval()
        for images in batches:
            ann(images)
    finally:
        ann.train(was_training)
        for hook in hooks:
            hook.remove()
    scales = [percentiles[layer].value() for layer in rectifiers]
    for number, scale in enumerate(scales, 1):
        if not scale > 0:
            raise ConversionError(
                f"percentile {percentile:g} of the activations of layer {number} is {scale:g}: "
                "more of them are silent than that; raise the percentile"
            )
    return scales


class RunningPercentile:
    """The exact percentile of values that arrive in pieces; it stores only the values above it.

    It is interpolated linearly between two values as by `numpy.percentile`: at index ``(n - 1) percentile / 100`` of n
    sorted values.

    Args:
        percentile: in (0, 100].
        count: number of values n.
    """

    def __init__(self, percentile: float, count: int) -> None:
        place = (count - 1) * percentile / 100
        below = math.floor(place)
        self._fraction = place - below
        self._kept = count - below
        self._count = count
        self._seen = 0
        self._largest: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add values, a tensor of any shape."""
        self._seen += values.numel()
        values = values.flatten()
        if self._largest is not None:
            values = torch.cat([self._largest, values])
        self._largest = values.topk(min(self._kept, len(values))).values

    def value(self) -> float:
        """The percentile.

        Raises:
            ValueError: if fewer or more values than ``count`` were added.
        """
        if self._largest is None or self._seen != self._count:
            raise ValueError(f"{self._count} values were to come, {self._seen} did")
        lower, upper = self._largest[-1].item(), self._largest[max(self._kept - 2, 0)].item()
        return lower + self._fraction * (upper - lower)


def check_marks(marks: Sequence[int]) -> None:
    """Increasing numbers of time steps, at least one."""
    for mark in marks:
        check_count("every number of steps", mark)
    if not marks or list(marks) != sorted(set(marks)):
        raise ValueError(f"marks must be rising numbers of time steps, at least one, got {list(marks)}")


def check_initial(value: float) -> float:
    """A membrane potential as a share of the threshold, in [0, 1]; outside, rates are wrong by more than 1/T."""
    if not 0 <= check_finite("initial", value) <= 1:
        raise ValueError(f"initial must be in [0, 1], got {value!r}")
    return float(value)


def check_percentile(value: float) -> float:
    """``value`` as a number in (0, 100]."""
    if not 0 < check_finite("percentile", value) <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {value!r}")
    return float(value)
