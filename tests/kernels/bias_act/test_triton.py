"""The kernels, interpreted, against the definition: every activation, layout, type and derivative."""

import functools

import pytest
import torch

from ganfuse.kernels import bias_act
from tests.kernels.derivative_checks import check, check_custom_ops, check_third, lay_out, numbers

pytestmark = pytest.mark.interpreter

ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
# Shape and dimension of the bias. NCHW rows of 16 and more, fewer, vectors, one channel, several tiles.
SHAPES = {
    "rows": ((2, 3, 4, 5), 1),
    "short rows": ((3, 5, 3, 2), 1),
    "vectors": ((5, 7), 1),
    "last": ((2, 3, 4, 6), 3),
    "first": ((3, 2, 5), 0),
    "one channel": ((2, 1, 3, 7), 1),
    "24 channels": ((2, 24, 3, 3), 1),
    "tiles": ((2, 3, 47, 53), 1),
    "many rows": ((700, 33), 1),
}


def _inputs(shape, dim, dtype=torch.float64, layout="nchw"):
    x = lay_out((2 * numbers(shape, torch.float64, 0)).to(dtype), layout)
    return x, numbers((shape[dim],), torch.float64, 1).to(dtype).requires_grad_()


def _both(**options):
    return (functools.partial(bias_act, backend=b, **options) for b in ("triton", "reference"))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("clamp", [None, 1.5])
def test_activations(act, clamp):
    check(*_both(act=act, clamp=clamp), _inputs((2, 3, 4, 5), 1))
    check(*_both(act=act, clamp=clamp, gain=0.7, alpha=0.1), _inputs((2, 3, 4, 5), 1)[:1])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice", "transposed"])
def test_shapes_and_layouts(name, layout):
    shape, dim = SHAPES[name]
    if len(shape) != 4 and layout == "channels_last":
        pytest.skip("channels_last is of 4 dimensions")
    if name in ("tiles", "many rows") and layout in ("slice", "transposed"):
        pytest.skip("large, and the copy is tested on the others")
    check(*_both(dim=dim, act="swish", clamp=2.0), _inputs(shape, dim, layout=layout))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_types(act, dtype):
    check(*_both(act=act), _inputs((3, 5, 6, 6), 1, dtype, "channels_last"))


def test_float32_bias_of_half_precision():
    x, b = _inputs((2, 3, 4, 5), 1, torch.float16)
    b = b.detach().float().requires_grad_()
    for a, e in zip(*(torch.autograd.grad(f(x, b).float().square().sum(), (x, b)) for f in _both(act="lrelu"))):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=1e-2, atol=1e-2)


def test_values_near_zero_keep_their_digits():
    x = torch.tensor([[1e-12, -1e-12, 1e-5, -3e-4, 0.2, -0.3, 0.4, -30.0, 30.0, 200.0, -200.0]], requires_grad=True)
    for act in ("tanh", "elu", "selu", "softplus"):
        a, e = (f(x) for f in _both(act=act))
        torch.testing.assert_close(a, e, rtol=1e-6, atol=0.0)


def test_nan_and_infinity_come_through():
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0]])
    for act in ACTS:
        a, e = (f(x) for f in _both(act=act, clamp=3.0))
        # sigmoid(−∞) · −∞ is NaN in either.
        torch.testing.assert_close(a, e, equal_nan=True, rtol=1e-6, atol=1e-6)
        assert a[0, 0].isnan()


def test_first_and_second_by_finite_differences():
    x, b = _inputs((2, 3, 2, 3), 1)
    for act in ("lrelu", "tanh", "softplus"):
        f = functools.partial(bias_act, act=act, backend="triton")
        assert torch.autograd.gradcheck(f, (x, b), fast_mode=True)
        assert torch.autograd.gradgradcheck(f, (x, b), fast_mode=True)


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_third(act):
    check_third(*_both(act=act), _inputs((2, 3, 2, 3), 1))
    check_third(*_both(act=act), _inputs((2, 3, 2, 3), 1)[:1])


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice"])
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_custom_ops(layout, act):
    attributes = (1, act, 0.2, 1.4, 2.0, "triton")
    x, b = _inputs((2, 3, 4, 5), 1, layout=layout)
    check_custom_ops("bias_act", (x, b), attributes)
    check_custom_ops("bias_act", (x, None), attributes)


@pytest.mark.parametrize("with_bias", [True, False])
def test_compile(with_bias):
    torch.compiler.reset()
    inputs = _inputs((2, 3, 4, 5), 1)[: 1 + with_bias]
    ours, plain = _both(act="swish", clamp=2.0)
    check(torch.compile(ours, fullgraph=True, backend="aot_eager"), plain, inputs, order=1)


def test_empty_batch():
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    y = bias_act(x, b, act="swish", backend="triton")
    gx, gb = torch.autograd.grad(y.sum(), (x, b), create_graph=True)
    assert gx.shape == x.shape
    assert gb.tolist() == [0, 0, 0]
    assert torch.autograd.grad(gx.sum() + gb.sum(), b)[0].tolist() == [0, 0, 0]


def test_expanded_and_strided_vectors():
    """The bias and what comes for its gradient need not be packed; sums hand out expanded ones."""
    x, _ = _inputs((2, 3, 4, 5), 1)
    b = numbers((3, 2), torch.float64, 3)[:, 0].requires_grad_()

    def second(f):
        gx, gb = torch.autograd.grad(f(x, b).square().sum(), (x, b), create_graph=True)
        return torch.autograd.grad(gx.sum() + gb.sum(), (x, b))

    for a, e in zip(*map(second, _both(act="swish"))):
        torch.testing.assert_close(a, e)


def test_deterministic_and_fresh():
    x, b = _inputs((4, 3, 40, 40), 1, torch.float32)
    runs = [torch.autograd.grad(bias_act(x, b, act="swish", backend="triton").square().sum(), (x, b)) for _ in range(2)]
    for first, second in zip(*runs):
        assert torch.equal(first, second)
    y = bias_act(x.detach(), backend="triton")
    assert y.data_ptr() != x.data_ptr()
