"""Custom ops, compiled graphs, results of their own, messages."""

import pytest
import torch

from ganfuse.kernels import no_weight_gradients
from ganfuse.kernels.launch import record_launches
from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from tests.kernels.derivative_checks import check, check_custom_ops
from tests.kernels.scaled_bias_act.problems import both, call, make_inputs

ATTRIBUTES = ("lrelu", 0.2, 1.4, 2.0)


def test_custom_ops():
    check_custom_ops("scaled_bias_act", make_inputs("all", (2, 2, 2, 2)), (*ATTRIBUTES, "eager"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice"])
def test_custom_ops_of_all_backends_in_every_layout(backend, layout):
    check_custom_ops("scaled_bias_act", make_inputs("all", layout=layout), (*ATTRIBUTES, backend))
    x, b = make_inputs("bias", layout=layout)
    check_custom_ops("scaled_bias_act", (x, None, None, b), (*ATTRIBUTES, backend))
    if backend == "triton":
        inputs = make_inputs("shared noise", layout=layout)
        check_custom_ops("scaled_bias_act", inputs, ("swish", 0.0, 1.4, -1.0, backend))


def test_compile(backend):
    torch.compiler.reset()
    ours, plain = both("all", backend, act="lrelu", clamp=2.0)
    check(torch.compile(ours, fullgraph=True, backend="aot_eager"), plain, make_inputs("all"), order=1)


def test_empty_batch(backend):
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    scale, b = torch.randn(0, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    noise = torch.randn(1, 1, 4, 4, requires_grad=True)
    y = scaled_bias_act(x, scale, noise, b, "lrelu", backend=backend)
    gradients = torch.autograd.grad(y.sum(), (x, scale, noise, b), create_graph=True)
    assert [tuple(g.shape) for g in gradients] == [tuple(t.shape) for t in (x, scale, noise, b)]
    assert gradients[3].tolist() == [0, 0, 0]
    assert torch.equal(torch.autograd.grad(gradients[0].sum(), scale)[0], torch.zeros_like(scale))


def test_output_is_its_own_and_may_be_changed_in_place(backend):
    for parts, act in (("all", "lrelu"), ("scale", "linear"), ("none", "linear")):
        inputs = make_inputs(parts)
        before = [t.detach().clone() for t in inputs]
        expected = torch.autograd.grad(call(parts, backend, act=act)(*inputs).sum(), inputs)
        y = call(parts, backend, act=act)(*inputs)
        assert not y._is_view()
        assert y.data_ptr() != inputs[0].data_ptr()
        y.mul_(3.0)
        for actual, e in zip(torch.autograd.grad(y, inputs, torch.ones_like(y) / 3), expected):
            torch.testing.assert_close(actual, e)
        assert all(torch.equal(t, b) for t, b in zip(inputs, before))


@pytest.mark.parametrize("order", ["expanded", "permuted"])
def test_gradients_in_any_layout(backend, order):
    ours, plain = both("all", backend, act="lrelu")
    inputs = make_inputs("all", layout="channels_last")
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    grad = values[:, :1].expand_as(values) if order == "expanded" else values.permute(0, 3, 2, 1).contiguous().mT.mT
    grad = grad if order == "expanded" else grad.permute(0, 3, 2, 1)
    results = []
    for f in (ours, plain):
        first = torch.autograd.grad(f(*inputs), inputs, grad, create_graph=True)
        results.append([*first, *torch.autograd.grad(first[0], inputs[1], grad.sin())])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected)


def test_the_same_bits_each_time(backend):
    inputs = make_inputs("all", (2, 5, 9, 7), torch.float32)
    runs = [torch.autograd.grad(call("all", backend, act="lrelu")(*inputs).square().sum(), inputs) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@pytest.mark.interpreter
def test_launches():
    """One kernel per level, and without gradients that nobody waits for."""
    x, scale, noise, b = make_inputs("all", dtype=torch.float32)
    with record_launches("sm90") as launches:
        y = scaled_bias_act(x, scale, noise, b, "lrelu", backend="triton")
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True, retain_graph=True)
        torch.autograd.grad(gradient, scale, torch.ones_like(gradient), retain_graph=True)
        with no_weight_gradients():
            torch.autograd.grad(y, (x, scale), torch.ones_like(y))
    names = [launch.kernel.fn.__name__ for launch in launches]
    assert names == ["epilogue_forward", "epilogue_backward", "epilogue_double_backward", "epilogue_backward"]
    assert launches[3].constants["SCALE_GRAD"]
    assert not launches[3].constants["BIAS_GRAD"]


X = torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((X[0],), "scaled_bias_act: x must have 4 dimensions"),
        ((X, torch.randn(3)), r"scale must have shape \(2, 3\) for x of \(2, 3, 4, 4\), got \(3,\)"),
        ((X, None, torch.randn(4, 4)), r"noise must have shape \(2, 1, 4, 4\) or \(1, 1, 4, 4\)"),
        ((X, None, None, torch.randn(4)), r"b must have shape \(3,\)"),
        ((X, torch.randn(2, 3).double()), "scale must be float32 or have x's type"),
        ((X, None, None, None, "leaky"), "act must be one of linear, relu, lrelu"),
        ((X, None, None, None, "relu", None, None, -1.0), "clamp must be at least 0 or None, got -1.0"),
    ],
)
def test_messages(arguments, said):
    with pytest.raises(ValueError, match=said):
        scaled_bias_act(*arguments)
