"""The reference's linear maps and networks: values by hand, transposes by inner products."""

import numpy as np
import pytest
from comparing import assert_close
from tssl_triton.reference import (
    Conv2d,
    Linear,
    Pool,
    lif_backward,
    lif_forward,
    run_network,
    squared_spike_error,
    van_rossum,
)

PARAMETERS = {"tau_mem": 5.0, "tau_syn": 3.0, "threshold": 1.0}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


LINEAR_MAPS = {
    "linear": (lambda w: Linear(w), (4, 18), (3, 2, 3)),
    "conv": (lambda w: Conv2d(w), (4, 3, 2, 3), (3, 5, 6)),
    "conv with padding": (lambda w: Conv2d(w, padding=2), (4, 3, 5, 5), (3, 4, 6)),
    "sum": (lambda w: Pool(2), (), (3, 4, 6)),
    "sum with rest": (lambda w: Pool(2, scale=0.7), (), (3, 5, 7)),
    "average": (lambda w: Pool(3, "average"), (), (3, 6, 7)),
}


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_backward_is_the_transpose(name):
    make, weight_shape, x_shape = LINEAR_MAPS[name]
    weight, x = normal(1, *weight_shape), normal(2, 5, *x_shape)
    layer = make(weight)
    y = layer.forward(x)
    grad_y = normal(3, *y.shape)
    result = layer.backward(x, grad_y)
    grad_x = result if isinstance(layer, Pool) else result[0]
    assert grad_x.shape == x.shape
    assert_close("<y, g> in x", np.vdot(grad_x, x), np.vdot(y, grad_y), rtol=1e-12)
    if not isinstance(layer, Pool):
        # y is linear in the weight as well.
        assert result[1].shape == weight.shape
        assert_close("<y, g> in the weight", np.vdot(result[1], weight), np.vdot(y, grad_y), rtol=1e-12)


@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_is_its_definition(padding):
    weight, x, bias = normal(4, 2, 3, 3, 2), normal(5, 2, 3, 5, 4), normal(6, 2)
    y = Conv2d(weight, bias, padding).forward(x)
    padded = np.zeros((2, 3, 5 + 2 * padding, 4 + 2 * padding))
    padded[:, :, padding : padding + 5, padding : padding + 4] = x
    assert y.shape == (2, 2, 3 + 2 * padding, 3 + 2 * padding)
    for m, o, h, w in np.ndindex(*y.shape):
        want = np.sum(weight[o] * padded[m, :, h : h + 3, w : w + 2]) + bias[o]
        assert_close(f"y[{m}, {o}, {h}, {w}]", y[m, o, h, w], want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [lambda w, b: Linear(w.reshape(2, -1), b), lambda w, b: Conv2d(w, b, 1)])
def test_gradients_agree_with_finite_differences(make):
    weight, bias, x = normal(7, 2, 3, 3, 3), normal(8, 2), normal(9, 2, 3, 3, 3)

    def loss(weight, bias, x):
        return np.sum(np.sin(make(weight, bias).forward(x)))

    layer = make(weight, bias)
    grads = layer.backward(x, np.cos(layer.forward(x)))
    arguments = {"weight": (weight, grads[1]), "bias": (bias, grads[2]), "x": (x, grads[0])}
    for name, (value, grad) in arguments.items():
        finite = np.zeros_like(value)
        for index in np.ndindex(*value.shape):
            step = np.zeros_like(value)
            step[index] = 1e-5
            up = {"weight": weight, "bias": bias, "x": x, name: value + step}
            down = {"weight": weight, "bias": bias, "x": x, name: value - step}
            finite[index] = (loss(**up) - loss(**down)) / 2e-5
        assert_close(name, grad.reshape(value.shape), finite, atol=1e-8)


def test_pooling_by_hand():
    x = np.array([[[[1.0, 0, 0, 0, 5], [1, 1, 0, 2, 5], [9, 9, 9, 9, 9]]]])
    assert_close("sum", Pool(2).forward(x), [[[[3.3, 2.2]]]], rtol=1e-15)
    assert_close("average", Pool(2, "average").forward(x), [[[[0.75, 0.5]]]])
    assert_close("max", Pool(2, "max").forward(x), [[[[1.0, 2.0]]]])
    # Of equal elements the first, row by row, takes the error; what fills no window gets none.
    grad = Pool(2, "max").backward(x, np.array([[[[10.0, 20.0]]]]))
    assert grad.tolist() == [[[[10, 0, 0, 0, 0], [0, 0, 0, 20, 0], [0, 0, 0, 0, 0]]]]


def test_network_is_its_layers_one_after_the_other():
    """Two layers with biases and a padded convolution, spelled out."""
    conv = Conv2d(normal(10, 2, 1, 3, 3), normal(11, 2), padding=1)
    linear = Linear(normal(12, 3, 8), normal(13, 3))
    x = (normal(14, 6, 2, 1, 4, 4) > 0).astype(float)
    target = (normal(15, 6, 2, 3) > 0).astype(float)
    result = run_network([conv, Pool(2, "max"), linear], x, target, reset="subtract", **PARAMETERS)

    def each_step(function, *series):
        return np.stack([function(*steps) for steps in zip(*series, strict=True)])

    hidden = lif_forward(each_step(conv.forward, x), reset="subtract", **PARAMETERS)
    pool = Pool(2, "max")
    pooled = each_step(pool.forward, hidden.spikes)
    output = lif_forward(each_step(linear.forward, pooled), reset="subtract", **PARAMETERS)
    assert hidden.spikes.any()
    assert output.spikes.any()
    assert np.array_equal(result.spikes, output.spikes)
    assert np.array_equal(result.psc, output.psc)

    loss, grad = van_rossum(output.spikes, target, 3.0)
    assert result.loss == loss
    grad_y = lif_backward(output, grad, reset="subtract", **PARAMETERS)
    steps = [linear.backward(p, g) for p, g in zip(pooled, grad_y, strict=True)]
    assert_close("second weight", result.weight_grads[1], sum(s[1] for s in steps), atol=1e-13)
    assert_close("second bias", result.bias_grads[1], sum(s[2] for s in steps), atol=1e-13)
    grad = each_step(pool.backward, hidden.spikes, np.stack([s[0] for s in steps]))
    grad_y = lif_backward(hidden, grad, reset="subtract", **PARAMETERS)
    steps = [conv.backward(p, g) for p, g in zip(x, grad_y, strict=True)]
    assert_close("first weight", result.weight_grads[0], sum(s[1] for s in steps), atol=1e-13)
    assert_close("first bias", result.bias_grads[0], sum(s[2] for s in steps), atol=1e-13)
    assert_close("input", result.input_grad, np.stack([s[0] for s in steps]), atol=1e-13)


def test_other_losses_and_no_bias():
    x, target = normal(16, 4, 3, 5), np.ones((4, 3, 2))
    result = run_network([Linear(normal(17, 2, 5))], x, target, loss=squared_spike_error, **PARAMETERS)
    assert result.loss == 0.5 * np.sum((result.spikes - target) ** 2)
    assert result.bias_grads == [None]


@pytest.mark.parametrize("layers", [[], [Linear(np.eye(4)), Pool(2)]], ids=["none", "pool last"])
def test_a_network_ends_with_neurons(layers):
    with pytest.raises(ValueError, match="layers must end with a weighted layer"):
        run_network(layers, np.zeros((1, 1, 4)), np.zeros((1, 1, 4)), **PARAMETERS)


def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="kind must be one of 'sum', 'average', 'max', got 'median'"):
        Pool(2, "median").forward(np.zeros((1, 1, 2, 2)))
