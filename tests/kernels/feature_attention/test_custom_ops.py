"""The door that torch.compile goes through: the three custom ops, called as it calls them."""

import pytest
import torch

from tests.kernels.feature_attention.problems import Problem, check, make_inputs, ours

ALL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def _ops():
    import ganfuse.kernels  # noqa: F401  registers them

    return torch.ops.ganfuse


def _through_the_door(backend):
    return lambda *inputs: _ops().attention(*inputs, 1.0, False, "map", backend)[0]


def _arguments(backend, layout, dtype=torch.float64):
    """Arguments of the three ops, in a problem that has every kind of edge."""
    inputs = make_inputs(Problem(2, 3, 5, (3, 4), (2, 3)), dtype, layout)
    attributes = (1.0, False, "map", backend)
    output, state = _ops().attention(*inputs, *attributes)
    grad = torch.randn_like(output).requires_grad_()
    saved = (grad, *inputs, output.detach(), state.detach())
    *gradients, delta = _ops().attention_backward(*saved, [True] * 3, *attributes)
    cotangents = tuple(g.detach() for g in gradients)
    constant = tuple(x.detach() for x in (*saved, delta))
    return {
        "attention": (*inputs, *attributes),
        "attention_backward": (*saved, [True] * 3, *attributes),
        "attention_double_backward": (*cotangents, *constant, [True] * 4, *attributes),
    }


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "channels_last slice"])
@pytest.mark.parametrize("op", ["attention", "attention_backward", "attention_double_backward"])
def test_opcheck(backend, layout, op):
    arguments = _arguments(backend, layout)[op]
    torch.library.opcheck(getattr(_ops(), op).default, arguments, test_utils=ALL)


@pytest.mark.parametrize("needs", [(True, False, True), (False, True, False), (False, False, False)], ids=str)
@pytest.mark.parametrize("op", ["attention_backward", "attention_double_backward"])
def test_opcheck_when_some_gradients_are_not_asked_for(backend, op, needs):
    arguments = list(_arguments(backend, "nchw")[op])
    place = next(i for i, a in enumerate(arguments) if isinstance(a, list))
    arguments[place] = [*needs, False][: len(arguments[place])]
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    torch.library.opcheck(getattr(_ops(), op).default, tuple(arguments), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_fakes_promise_the_strides_that_come(backend, layout):
    for op, arguments in _arguments(backend, layout, torch.float32).items():
        real = getattr(_ops(), op)(*arguments)
        with torch._subclasses.FakeTensorMode() as mode:
            fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
            promised = getattr(_ops(), op)(*fakes)
        for r, p in zip(real, promised, strict=True):
            assert (r.shape, r.stride(), r.dtype) == (p.shape, p.stride(), p.dtype), op


def test_same_derivatives_as_the_other_door(backend):
    check(_through_the_door(backend), ours("reference"), make_inputs(Problem(2, 3, 5, (3, 4), (2, 3))))


def test_gradgradcheck(backend):
    inputs = make_inputs(Problem(1, 2, 3, (2, 2), (2, 1)))
    assert torch.autograd.gradgradcheck(_through_the_door(backend), inputs, fast_mode=True)


def test_third_derivative_is_right_or_raises(backend):
    """Derivatives beyond the second are for the eager door; here they may be missing, but not wrong."""
    inputs = make_inputs(Problem(1, 2, 3, (2, 2), (2, 1)))

    def third(attend):
        total = attend(*inputs).sin().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
            total = sum(g.square().sum() for g in gradients if g is not None)
        return gradients

    try:
        actual = third(_through_the_door(backend))
    except (RuntimeError, NotImplementedError):
        return
    for a, e in zip(actual, third(ours("reference"))):
        assert a is not None
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)
