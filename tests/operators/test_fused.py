"""The fused layer's kernels: each output against the float64 product, the reference, or the kernels it replaces."""

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close, relative_error, to_float64
from judging import draw_gradient, name_of
from tssl_triton.kernels.layout import word_dtype

from tssl_triton import LIFParameters, pack_spikes
from tssl_triton.operators import fused_weight_gradient, lif_forward, spike_weighted, write_settings

pytestmark = [pytest.mark.interpret, pytest.mark.usefixtures("poisoned")]

DEFAULTS = LIFParameters()
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# Of y against the float64 product of the same operands, relative to the largest: float32 sums of some hundred terms;
# half a unit of float16's last place; a whole one of bfloat16's, which Triton's interpreter cuts off.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-11 + 1e-6, torch.bfloat16: 2**-7 + 1e-6}

# batch, input channels, height and width, neurons, kernel, stride, padding
GEOMETRIES = {
    "linear": (5, 37, (1, 1), 19, (1, 1), (1, 1), (0, 0)),
    "linear, one neuron": (1, 3, (1, 1), 1, (1, 1), (1, 1), (0, 0)),
    "3x3, padding 1": (2, 5, (4, 3), 9, (3, 3), (1, 1), (1, 1)),
    "5x5": (1, 17, (5, 6), 4, (5, 5), (1, 1), (0, 0)),
    "3x2, stride 2, padding (0, 1)": (2, 3, (7, 6), 18, (3, 2), (2, 2), (0, 1)),
}


class Case:
    """One layer: operands drawn in ``dtype``, and its answer by the product in float64 and the plain operators."""

    def __init__(self, steps, geometry, dtype, bias=False, state=False, params=DEFAULTS, channels_last=False):
        batch, channels, size, neurons, kernel, self.stride, self.padding = GEOMETRIES[geometry]
        generator = torch.Generator().manual_seed(steps + channels)
        self.spikes = (torch.rand(steps, batch, channels, *size, generator=generator) < 0.4).to(dtype)
        inputs = channels * kernel[0] * kernel[1]
        noise = torch.randn(neurons, channels, *kernel, generator=generator)
        self.weight = (3.0 / inputs**0.5 * noise + 1.0 / inputs).to(dtype)
        self.bias = torch.randn(neurons, generator=generator).to(dtype) if bias else None
        self.words = pack_spikes(self.spikes, word_dtype(steps))
        if channels_last:
            self.words = self.words.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.steps, self.dtype, self.params = steps, dtype, params
        y = self.product(self.weight.double(), self.bias)
        self.y = y.unflatten(0, (steps, batch))
        self.state = torch.rand(3, *self.y.shape[1:], generator=generator) if state else None

    def product(self, weight, bias=None):
        return F.conv2d(
            self.spikes.double().flatten(0, 1),
            weight,
            bias if bias is None else bias.double(),
            self.stride,
            self.padding,
        )

    def run(self, save=True, emit=True, carry=True):
        return spike_weighted(
            self.words,
            self.weight,
            self.bias,
            self.state,
            write_settings(self.params),
            self.steps,
            self.stride,
            self.padding,
            save,
            emit,
            carry,
        )


def check(case):
    spikes, words, y, checkpoints, state = case.run()
    assert y.dtype == spikes.dtype == case.dtype
    assert relative_error(y, case.y) <= ROUNDING[case.dtype]
    # From y on it is the neuron, in the same arithmetic: equal to the last bit, checkpoints and state too.
    neuron = write_settings(case.params)
    want = lif_forward(y, None, case.state, neuron, case.steps, True, True, True, None)
    for name, got, expected in zip(
        ("spikes", "words", "checkpoints", "state"), (spikes, words, checkpoints, state), want, strict=True
    ):
        assert torch.equal(got, expected), name
    assert 0.05 < to_float64(spikes).mean() < 0.95


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_geometry(geometry, dtype):
    check(Case(9, geometry, dtype, bias=True))


@pytest.mark.parametrize("steps", [1, 5, 8, 16, 17, 32, 33, 70])
def test_every_word_and_window(steps):
    check(Case(steps, "linear", torch.float32, state=True))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_state_reset_and_constants(dtype, reset):
    params = LIFParameters(tau_mem=9.0, tau_syn=2.0, threshold=0.7, reset=reset)
    check(Case(11, "linear", dtype, bias=True, state=True, params=params))


@pytest.mark.parametrize("geometry", ["3x3, padding 1", "5x5"])
def test_channels_last_inputs(geometry):
    check(Case(5, geometry, torch.float32, channels_last=True))


def test_only_what_is_asked_for_is_made():
    case = Case(12, "linear", torch.float32)
    spikes, words, y, checkpoints, state = case.run(save=False, emit=False, carry=False)
    assert [len(x) for x in (spikes, y, checkpoints, state)] == [0, 0, 0, 0]
    assert torch.equal(words, case.run()[1])


def test_y_is_the_same_bit_for_bit_whatever_else_is_made():
    case = Case(12, "3x2, stride 2, padding (0, 1)", torch.float32, bias=True)
    assert torch.equal(case.run()[2], case.run(emit=False, carry=False)[2])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_weight_gradient(geometry, dtype):
    case = Case(9, geometry, dtype)
    e = draw_gradient(case.y.shape).to(dtype)
    got = fused_weight_gradient(e, case.words, case.weight, case.steps, case.stride, case.padding)
    weight = case.weight.double().requires_grad_()
    case.product(weight).backward(e.double().flatten(0, 1))
    assert got.dtype == dtype
    assert relative_error(got, weight.grad) <= ROUNDING[dtype]


@pytest.mark.parametrize("steps", [1, 33, 70])
def test_weight_gradient_over_words_and_shares(steps):
    # 40 x 6 x 5 pixels make several shares, whose sums are added up.
    generator = torch.Generator().manual_seed(steps)
    spikes = (torch.rand(steps, 70, 3, generator=generator) < 0.4).float()
    e = draw_gradient((steps, 70, 5)).float()
    words = pack_spikes(spikes, word_dtype(steps))[..., None, None]
    weight = torch.empty(5, 3, 1, 1, dtype=torch.float32)
    got = fused_weight_gradient(e[..., None, None], words, weight, steps, (1, 1), (0, 0))
    want = torch.einsum("tbn,tbk->nk", e.double(), spikes.double())
    assert_close("weight gradient", got[..., 0, 0], want, atol=1e-5, rtol=1e-5)


def test_nothing_outside_the_outputs_is_written():
    from tssl_triton.kernels.geometry import Geometry
    from tssl_triton.kernels.launch import spike_weighted as launch

    steps, batch, inputs, neurons, guard = 9, 5, 7, 19, 4096
    words = torch.randint(0, 512, (1, batch, inputs, 1, 1), dtype=torch.int16)
    weight = torch.randn(neurons, inputs, 1, 1)
    shapes = {"words": 1, "spikes": steps, "current": steps, "checkpoints": 3, "new_state": 3}
    memory, outputs = {}, {}
    for name, rows in shapes.items():
        dtype = torch.int16 if name == "words" else torch.float32
        memory[name] = torch.full((2 * guard + rows * batch * neurons,), 77, dtype=dtype)
        outputs[name] = memory[name][guard:-guard].view(rows, batch, neurons)
    launch(words, weight, None, **outputs, state=None, steps=steps, geometry=Geometry(), params=LIFParameters())
    for name, whole in memory.items():
        assert (whole[:guard] == 77).all(), name
        assert (whole[-guard:] == 77).all(), name


def test_no_neurons_and_no_samples():
    weight = torch.randn(4, 3, 1, 1)
    empty = torch.empty(1, 0, 3, 1, 1, dtype=torch.uint8)
    outputs = spike_weighted(
        empty, weight, None, None, write_settings(LIFParameters()), 5, (1, 1), (0, 0), True, True, True
    )
    assert [tuple(x.shape) for x in outputs] == [
        (5, 0, 4, 1, 1),
        (1, 0, 4, 1, 1),
        (5, 0, 4, 1, 1),
        (0, 0, 4, 1, 1),
        (3, 0, 4, 1, 1),
    ]
    grad = torch.empty(5, 0, 4, 1, 1)
    assert not fused_weight_gradient(grad, empty, weight, 5, (1, 1), (0, 0)).any()


def test_operators_are_registered_as_pytorch_expects():
    case = Case(9, "linear, one neuron", torch.float32, bias=True)
    settings = (write_settings(case.params), case.steps, list(case.stride), list(case.padding))
    operators = torch.ops.tssl_triton
    torch.library.opcheck(
        operators.spike_weighted.default,
        (case.words, case.weight, case.bias, case.state, *settings, True, True, True),
    )
    e = draw_gradient(case.y.shape).float()
    torch.library.opcheck(operators.spike_weight_gradient.default, (e, case.words, case.weight, *settings[1:]))
