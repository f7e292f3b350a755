"""The door that torch.compile goes through."""

import pytest
import torch
from torch.autograd import forward_ad

from ganfuse.kernels import Prologue, batch_norm_act, instance_norm_act, layer_instance_norm_act
from ganfuse.kernels.channel_norm.allocation import Attributes
from tests.kernels.channel_norm.problems import Problem, make_inputs

ALL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def _arguments(kind, backend, layout):
    """Of the three ops; kind "prologue" is an instance norm behind StyleGAN's, "noise" a batch norm with noise."""
    norm = {"mix": "mix", "prologue": "instance"}.get(kind, "batch")
    noise = {"prologue": "own", "noise": "shared"}.get(kind, "")
    prologue = "leaky_relu" if kind == "prologue" else ""
    problem = Problem(norm, (2, 4, 3, 5), "own", "silu", layout, noise, prologue)
    kind = {"prologue": "row", "noise": "batch"}.get(kind, kind)
    attributes = Attributes(kind, 1, 1e-5, kind == "mix", "silu", 0.2, "", backend, prologue, 0.2)
    x, gain, bias, *rest = make_inputs(problem)
    noises = [rest.pop(0) if noise else None for _ in range(2)]
    shift = rest.pop(0) if prologue else None
    constants = (torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype)) if kind == "given" else (None, None)
    inputs = (x, gain, bias, rest[0] if rest else None, *constants, *noises, shift)
    output, *state = torch.ops.ganfuse.channel_norm(*inputs, *attributes)
    grad = torch.randn_like(output).requires_grad_()
    saved = (grad, *inputs, *(s.detach() for s in state))
    needs = [t is not None and t.requires_grad for t in inputs]
    gradients = torch.ops.ganfuse.channel_norm_backward(*saved, needs, *attributes)
    cotangents = [g.detach() if needed else None for g, needed in zip(gradients, needs)]
    constant = [s.detach() if s is not None else None for s in saved]
    return {
        "channel_norm": (*inputs, *attributes),
        "channel_norm_backward": (*saved, needs, *attributes),
        "channel_norm_double_backward": (*cotangents, *constant, [True, *needs], *attributes),
    }


@pytest.mark.parametrize("kind", ["batch", "mix", "given", "prologue", "noise"])
@pytest.mark.parametrize("op", ["channel_norm", "channel_norm_backward", "channel_norm_double_backward"])
def test_opcheck(backend, op, kind):
    arguments = _arguments(kind, backend, "channels_last" if kind == "batch" else "nchw")[op]
    torch.library.opcheck(getattr(torch.ops.ganfuse, op).default, arguments, test_utils=ALL)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "channels_last slice"])
def test_fakes_promise_the_strides_that_come(backend, layout):
    for op, arguments in _arguments("prologue" if layout == "nchw" else "mix", backend, layout).items():
        real = getattr(torch.ops.ganfuse, op)(*arguments)
        with torch._subclasses.FakeTensorMode() as mode:
            fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
            promised = getattr(torch.ops.ganfuse, op)(*fakes)
        for r, p in zip(real, promised, strict=True):
            assert (r.shape, r.stride(), r.dtype) == (p.shape, p.stride(), p.dtype), op


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_fullgraph(backend, activation):
    mean, var = torch.zeros(4), torch.ones(4)
    x, gain, rho = torch.randn(3, 4, 5, 5, requires_grad=True), torch.randn(3, 4, requires_grad=True), torch.rand(4)

    noise = torch.randn(3, 1, 5, 5)

    def network(x, gain):
        y = batch_norm_act(x, gain, None, mean, var, training=True, activation=activation, backend=backend)
        y = instance_norm_act(y, None, gain, prologue=Prologue(noise, rho, rho, "leaky_relu"), backend=backend)
        return layer_instance_norm_act(y, rho, gain, gain, activation=activation, backend=backend)

    expected = network(x, gain)
    updated = mean.clone()
    mean.zero_()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")(x, gain)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(mean, updated)
    cotangent = torch.randn_like(expected)
    ours = torch.autograd.grad(compiled, (x, gain), cotangent)
    for a, e in zip(ours, torch.autograd.grad(expected, (x, gain), cotangent)):
        torch.testing.assert_close(a, e)


def test_torch_func_gradients_of_gradients(backend):
    x, gain = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def penalty(x, which):
        total = torch.func.grad(
            lambda t: instance_norm_act(t, gain, None, activation="silu", backend=which).sin().sum()
        )
        return total(x).square().sum()

    ours, theirs = (torch.func.grad(lambda t, w=which: penalty(t, w))(x) for which in (backend, "reference"))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("create_graph", [False, True])
def test_tangents_of_cotangents_are_refused_not_lost(backend, create_graph):
    x, gain = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(4)
    y = instance_norm_act(x, gain, None, backend=backend)
    with forward_ad.dual_level():
        cotangent = forward_ad.make_dual(torch.randn_like(y), torch.randn_like(y))
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.autograd.grad(y, x, cotangent, create_graph=create_graph)
