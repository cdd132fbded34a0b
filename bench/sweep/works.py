"""The workloads of `bench sweep`: neurons alone, one layer, or a network of the paper.

All contenders have the same inputs, loss, optimizer and number of products: an image that does not change over time is
multiplied by the first layer's weights once. A floor is work that no implementation can avoid:

* neurons: a copy of as many bytes as must move, forward and (for training) backward;
* layers and networks: the matrix products and convolutions, forward and (for training) backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.steps import TrainingStep, build, layer_shapes
from tssl_triton import LIFParameters, SpikePool2d, SpikingConv2d, SpikingLinear, SpikingSequential
from tssl_triton.encoding import StaticInput, static
from tssl_triton.rules import RULES
from tssl_triton.training.presets import EXPERIMENTS

from .contenders import OURS, Contender, Neurons

Step = Callable[[], object]

LIF = "lif"
LAYERS = ("linear", "conv")
WHAT = (LIF, *LAYERS, *EXPERIMENTS)
TRAINING, FORWARD, INFERENCE = "training", "forward", "inference"
MODES = TRAINING, FORWARD, INFERENCE
"""A whole step; its forward pass, with everything saved that backward needs; and forward without gradients."""

INPUTS = 512
"""Inputs of ``linear``; ``conv`` has an eighth as many input channels."""

IMAGE = 16
"""Side of the images of ``conv``."""

ACTIVITY = 0.1
"""Fraction of ones in a layer's input."""


@dataclass(frozen=True)
class Size:
    """Size, type and place of a workload.

    Args:
        steps, batch: time steps T and samples.
        neurons: per sample; None for networks.
        channels_last: memory format of images, for all contenders and the floor.
    """

    steps: int
    batch: int
    neurons: int | None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    channels_last: bool = False

    def placed(self, module: nn.Module) -> nn.Module:
        """``module`` moved to this device, type and memory format."""
        module = module.to(self.device, self.dtype)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module

    def tensor(self, *shape: int, seed: int = 0) -> Tensor:
        """Normally distributed values, the same on every device."""
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return values.to(self.device, self.dtype)

    def spikes(self, *shape: int) -> Tensor:
        """A random spike train."""
        values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        return (values < ACTIVITY).to(self.device, self.dtype)


def work(what: str, mode: str, contender: Contender, size: Size, rule: str) -> Step:
    """One step of ``what`` by a contender, as a function to call repeatedly."""
    if what == LIF:
        return neuron_step(contender.make(LIFParameters(), rule), mode, size)
    if what in LAYERS:
        module = layer(what, contender, size, rule)
        return layer_step(module, what, mode, size)
    return network_step(what, mode, contender, size, rule)


def floor(what: str, mode: str, size: Size) -> Step:
    """The floor of ``what``."""
    if what == LIF:
        return copy_step(mode, size)
    plain = Contender("floor", lambda params, rule: lambda current: current)
    if what in LAYERS:
        return products_step(layer(what, plain, size, RULES[0]), layer_input(what, size), mode)
    step = training_step(what, plain, size, RULES[0])
    return products_step(step.network, step.presented(), mode)


# --- the neuron -------------------------------------------------------------------------------------------------


def neuron_step(neurons: Neurons, mode: str, size: Size) -> Step:
    """Spikes from currents, and in training the gradient of the currents."""
    assert size.neurons is not None
    current = 1.5 * size.tensor(size.steps, size.batch, size.neurons)
    if mode == INFERENCE:
        return torch.no_grad()(lambda: neurons(current))
    if mode == FORWARD:
        current.requires_grad_()
        return lambda: neurons(current)
    grad = size.tensor(*current.shape, seed=1)

    def step() -> Tensor:
        leaf = current.detach().requires_grad_()
        neurons(leaf).backward(grad)
        assert leaf.grad is not None
        return leaf.grad

    return step


#: Tensors that must be read or written: y, spikes; in training also the spikes' gradient, y again, and y's gradient.
ACCESSES = {INFERENCE: 2, FORWARD: 2, TRAINING: 5}


def copy_step(mode: str, size: Size) -> Step:
    """A copy that reads and writes as many bytes as the neurons must move."""
    assert size.neurons is not None
    elements = size.steps * size.batch * size.neurons
    source = size.tensor(ACCESSES[mode] * elements // 2)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# --- layers and networks ----------------------------------------------------------------------------------------


class PerStep(nn.Module):
    """Applies a module to each step of ``(T, B, *)``, or once to a `StaticInput`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | StaticInput) -> Tensor:
        if isinstance(x, StaticInput):
            return static(self._apply_to(x.values), x.steps).dense()
        return self._apply_to(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _apply_to(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(1) if isinstance(self.module, nn.Linear) else x)


class SpikingNeurons(nn.Module):
    """A contender's neurons, as a module."""

    def __init__(self, neurons: Neurons) -> None:
        super().__init__()
        self.neurons = neurons

    def forward(self, current: Tensor) -> Tensor:
        return self.neurons(current)


class ScaledPool2d(nn.Module):
    """The paper's pooling, a scaled sum over windows, by PyTorch's average pooling."""

    def __init__(self, size: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.size, divisor_override=1) * self.scale


def as_contender(ours: nn.Module, contender: Contender, rule: str) -> nn.Module:
    """The layers and weights of ``ours``, with PyTorch's products and a contender's neurons."""
    if contender.name == OURS:
        return ours
    layers: list[nn.Module] = []
    for module in ours if isinstance(ours, SpikingSequential) else [ours]:
        if isinstance(module, SpikePool2d):
            layers.append(PerStep(ScaledPool2d(module.kernel_size, module.scale)))
            continue
        assert isinstance(module, (SpikingLinear, SpikingConv2d))
        product: nn.Linear | nn.Conv2d
        if isinstance(module, SpikingLinear):
            product = nn.Linear(module.in_features, module.out_features, bias=False)
        else:
            shape = module.in_channels, module.out_channels, module.kernel_size
            product = nn.Conv2d(*shape, stride=module.stride, padding=module.padding, bias=False)
        product.weight = module.weight
        layers += [PerStep(product), SpikingNeurons(contender.make(module.params, rule))]
    return nn.Sequential(*layers)


def layer(what: str, contender: Contender, size: Size, rule: str) -> nn.Module:
    """One layer of ``size.neurons`` neurons."""
    assert size.neurons is not None
    torch.manual_seed(0)
    if what == "linear":
        ours: nn.Module = SpikingLinear(INPUTS, size.neurons, rule=rule)
    else:
        channels = max(1, size.neurons // IMAGE**2)
        ours = SpikingConv2d(INPUTS // 8, channels, 3, padding=1, rule=rule)
    return as_contender(size.placed(ours), contender, rule)


def layer_input(what: str, size: Size) -> Tensor:
    features = (INPUTS,) if what == "linear" else (INPUTS // 8, IMAGE, IMAGE)
    return size.spikes(size.steps, size.batch, *features)


def layer_step(module: nn.Module, what: str, mode: str, size: Size) -> Step:
    """Spikes of a layer, and in training the gradients of weight and input."""
    x = layer_input(what, size)
    if mode == INFERENCE:
        return torch.no_grad()(lambda: module(x))
    if mode == FORWARD:
        x.requires_grad_()
        return lambda: module(x)
    grad = torch.ones_like(module(x).detach())

    def step() -> object:
        leaf = x.detach().requires_grad_()
        module.zero_grad(set_to_none=True)
        module(leaf).backward(grad)
        return leaf.grad

    return step


def network(what: str, contender: Contender, size: Size, rule: str) -> nn.Module:
    """The network of an experiment."""
    return as_contender(size.placed(build(EXPERIMENTS[what], size.device, rule=rule)), contender, rule)


def training_step(what: str, contender: Contender, size: Size, rule: str) -> TrainingStep:
    """A training step of an experiment's network, with loss and optimizer."""
    module = network(what, contender, size, rule)
    return TrainingStep(what, size.batch, size.device, steps=size.steps, network=module, dtype=size.dtype)


def network_step(what: str, mode: str, contender: Contender, size: Size, rule: str) -> Step:
    """A training step, or only the spikes of the last layer."""
    step = training_step(what, contender, size, rule)
    if mode == TRAINING:
        return step
    if mode == FORWARD:
        return lambda: step.network(step.presented())
    step.network.eval()
    return torch.no_grad()(lambda: step.network(step.presented()))


# --- the floor of products --------------------------------------------------------------------------------------


def products_step(module: nn.Module, x: Tensor | StaticInput, mode: str) -> Step:
    """The products of a network made by `as_contender`, in training with the gradients of weights and inputs."""
    calls: list[tuple[nn.Linear | nn.Conv2d, Tensor]] = []

    def record(product: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(product, (nn.Linear, nn.Conv2d))
        calls.append((product, inputs[0].detach().clone()))

    hooks = [m.register_forward_hook(record) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    runs = [_product(call, mode == TRAINING, first=call is calls[0]) for call in calls]

    def step() -> None:
        for run in runs:
            run()

    return torch.no_grad()(step)


def _product(call: tuple[nn.Linear | nn.Conv2d, Tensor], learning: bool, first: bool) -> Step:
    """One product, and in training the two of backward; the first layer's input needs no gradient."""
    product, x = call
    weight = product.weight.detach()
    with torch.no_grad():
        grad = torch.randn_like(product(x))

    def linear() -> None:
        F.linear(x, weight)
        if learning:
            grad.t() @ x
            if not first:
                grad @ weight

    def convolution() -> None:
        assert isinstance(product, nn.Conv2d)
        margin = list(product.padding)
        F.conv2d(x, weight, None, product.stride, product.padding)
        if learning:
            shared = [0], list(product.stride), margin, [1, 1], False, [0, 0], 1
            torch.ops.aten.convolution_backward(grad, x, weight, *shared, [not first, True, False])

    return linear if isinstance(product, nn.Linear) else convolution


def neuron_steps(what: str, size: Size) -> int:
    """Neurons x samples x time steps of one step of work."""
    if size.neurons is not None:
        return size.steps * size.batch * size.neurons
    return size.steps * size.batch * sum(math.prod(shape) for shape in layer_shapes(what))
