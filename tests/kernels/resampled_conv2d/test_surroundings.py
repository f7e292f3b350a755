"""Under autocast, torch.compile, torch.func and in penalties."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.assertions import assert_as_accurate
from tests.kernels.resampled_conv2d.definitions import FUNCTIONS, inputs

CL = torch.channels_last


class Convolutions(TorchDispatchMode):
    """Of each backward of a convolution: which gradients it computed."""

    def __init__(self):
        super().__init__()
        self.masks = []
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == "convolution_backward":
            self.masks.append(tuple(args[-1]))
        self.products += name in ("bmm", "mm")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("form", ["plain", "folded"])
def test_penalties_compute_no_weight_gradient(name, form):
    x, weight, bias = inputs()
    total = FUNCTIONS[name](x, weight, bias, form=form).sin().sum()
    with Convolutions() as seen:
        torch.autograd.grad(total, [x], create_graph=True)
    assert seen.masks == [(True, False, False)]
    # Nor does the fold's backward run.
    assert seen.products == 0
    with Convolutions() as seen:
        torch.autograd.grad(total, [weight])
    assert seen.masks == [(False, True, False)]
    assert seen.products == (form == "folded")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("form", ["plain", "folded"])
def test_autocast(name, layout, form):
    """float32 parameters, activations of either type; the weight is folded before it is rounded."""
    x, weight, bias = (t.detach().float() for t in inputs((2, 8, 6, 6), 8))
    x, weight = (t.to(memory_format=layout) for t in (x, weight))
    exact = FUNCTIONS[name](x.bfloat16().double(), weight.double(), bias.double(), form="plain")
    plain = FUNCTIONS[name](*(t.bfloat16() for t in (x, weight, bias)), form="plain")
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [x.to(dtype), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16):
            y = FUNCTIONS[name](*leaves, form=form)
        # Four sums of a mean, rounded apart, are in a bfloat16 sum of their own where the form is plain.
        assert_as_accurate(y, plain, exact)
        y.float().sum().backward()
        assert leaves[1].grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="weight must have the type of x"):
        FUNCTIONS[name](x.double(), weight, bias)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile(name):
    def loss(x, weight, bias):
        return FUNCTIONS[name](x, weight, bias, form="folded").sin().sum()

    tensors = [t.float().detach().requires_grad_() for t in inputs((2, 3, 4, 4), 4)]
    expected = torch.autograd.grad(loss(*tensors), tensors)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, e in zip(torch.autograd.grad(compiled(*tensors), tensors), expected):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_rule_follows_the_batch(name):
    """A shape that the rule asks about is guarded, not frozen."""
    run = torch.compile(functools.partial(FUNCTIONS[name]), fullgraph=True, backend="aot_eager", dynamic=True)
    weight = inputs((1, 3, 4, 4), 4)[1].detach()
    for batch in (2, 3, 40):
        x = inputs((batch, 3, 4, 4), 4)[0].detach()
        torch.testing.assert_close(run(x, weight), FUNCTIONS[name](x, weight, form="plain"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms(name):
    x, weight, bias = (t.detach() for t in inputs())

    def total(w, sample):
        return FUNCTIONS[name](sample[None], w, bias, form="folded").sin().sum()

    per_sample = torch.func.vmap(torch.func.grad(total), (None, 0))(weight, x)
    for i in range(2):
        w = weight.clone().requires_grad_()
        FUNCTIONS[name](x[i : i + 1], w, bias, form="plain").sin().sum().backward()
        torch.testing.assert_close(per_sample[i], w.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_on_a_gpu(name, layout, dtype, padding_mode, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    tensors = [t.detach().to("cuda", dtype) for t in inputs((4, 32, 16, 16), 48)]
    tensors[:2] = [t.to(memory_format=layout) for t in tensors[:2]]
    results = {}
    for form, to in (("folded", dtype), ("plain", dtype), ("exact", torch.float64)):
        leaves = [t.to(to).detach().requires_grad_() for t in tensors]
        y = FUNCTIONS[name](*leaves, padding_mode=padding_mode, form="plain" if form == "exact" else form)
        first = torch.autograd.grad(y.square().mean(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.float().square().sum() for g in first), leaves)
        results[form] = [y, *first, *second]
        assert y.is_contiguous(memory_format=layout)
    for a, p, e in zip(results["folded"], results["plain"], results["exact"]):
        assert_as_accurate(a, p, e.detach().double())


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_cuda_graph(name):
    x, weight, bias = (t.detach().to("cuda", torch.float32) for t in inputs((4, 32, 16, 16), 48))
    x, weight = (t.contiguous(memory_format=CL) for t in (x, weight))
    weight.requires_grad_()

    def step():
        y = FUNCTIONS[name](x, weight, bias, form="folded")
        return y, torch.autograd.grad(y.square().sum(), weight)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()
    x.copy_(F.relu(x))
    expected = step()
    graph.replay()
    for a, e in zip(kept, expected):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-3)
