"""Backwards leave out the weight gradients that nobody waits for, or that `no_weight_gradients` forbids."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ganfuse
from ganfuse.kernels import autograd as doors
from ganfuse.kernels import batch_norm_act, bias_act, instance_norm_act, spectral_normalize, weight_gradients
from ganfuse.kernels.channel_norm.differentiable import CHANNEL_NORM
from tests.kernels.derivative_checks import numbers

SHAPE = (2, 3, 4, 4)


class CountOps(TorchDispatchMode):
    """How often each ATen operation ran."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def asked(monkeypatch):
    """What the launchers of norms were asked for: of x, gain and bias; in the second backward, of grad_output first."""
    seen = []
    implementation = CHANNEL_NORM.implementations["eager"]

    def backward(attributes, needs, *rest):
        seen.append(needs[:3])
        return implementation.backward(attributes, needs, *rest)

    def double_backward(attributes, needs, *rest):
        seen.append(needs[:4])
        return implementation.double_backward(attributes, needs, *rest)

    fields = {name: getattr(implementation, name) for name in implementation.__dataclass_fields__}
    fields |= {"backward": backward, "double_backward": double_backward}
    monkeypatch.setitem(CHANNEL_NORM.implementations, "eager", doors.Implementation(**fields))
    return seen


def _parameters(*shapes):
    return [numbers(shape, torch.float64, 5 + i).requires_grad_() for i, shape in enumerate(shapes)]


def _norm(x, gain, bias):
    return instance_norm_act(x, gain, bias, activation="leaky_relu", backend="eager")


def test_engine_is_asked(asked):
    x, gain, bias = _parameters(SHAPE, (3,), (3,))
    total = _norm(x * 2, gain, bias).sin().sum()
    for inputs, needs in (
        ([x], (True, False, False)),
        ([gain], (False, True, True)),  # one weight that autograd.grad collects stands for all
        ([x, gain, bias], (True, True, True)),
    ):
        torch.autograd.grad(total, inputs, retain_graph=True)
        assert asked.pop() == needs, inputs
    total.backward(retain_graph=True)
    assert asked.pop() == (True, True, True)
    total.backward(inputs=[x], retain_graph=True)
    assert asked.pop() == (True, False, False)
    total.backward(inputs=[bias])
    assert asked.pop() == (False, False, True)


def test_computed_weights_are_asked_about_by_their_nodes(asked):
    x, gain, bias = _parameters(SHAPE, (3,), (3,))
    scaled = gain * 2
    total = _norm(x, scaled, bias).sin().sum()
    torch.autograd.grad(total, [x], retain_graph=True)
    assert asked.pop() == (True, False, False)
    torch.autograd.grad(total, [scaled], retain_graph=True)
    assert asked.pop()[1:] == (True, False)
    torch.autograd.grad(total, [gain])
    assert asked.pop()[1:] == (True, False)


def test_styles_are_no_weights(asked):
    x, gain, bias = _parameters(SHAPE, (2, 3), (3,))
    total = _norm(x, gain * 1, bias).sin().sum()
    with ganfuse.no_weight_gradients():
        torch.autograd.grad(total, [x, gain], retain_graph=True)
        assert asked.pop() == (True, True, False)
        torch.autograd.grad(total, [gain])
    assert asked.pop()[1:] == (True, False)


def test_without_the_private_function_everything_is_wanted(asked, monkeypatch):
    monkeypatch.setattr(weight_gradients, "_will_execute", None)
    x, gain, bias = _parameters(SHAPE, (3,), (3,))
    total = _norm(x, gain, bias).sin().sum()
    torch.autograd.grad(total, [x], retain_graph=True)
    assert asked.pop() == (True, True, True)
    with ganfuse.no_weight_gradients():
        torch.autograd.grad(total, [x])
    assert asked.pop() == (True, False, False)


def test_context_is_read_in_the_backward_and_nests(asked):
    x, gain, bias = _parameters(SHAPE, (3,), (3,))
    with ganfuse.no_weight_gradients():
        total = _norm(x, gain, bias).sin().sum()
    total.backward(retain_graph=True)
    assert asked.pop() == (True, True, True)
    gain.grad = None
    with ganfuse.no_weight_gradients():
        with ganfuse.no_weight_gradients():
            pass
        total.backward(retain_graph=True)
        assert asked.pop() == (True, False, False)
        assert gain.grad is None
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(total, [gain], retain_graph=True)
        assert not asked.pop()[1]
    with pytest.raises(KeyError), ganfuse.no_weight_gradients():
        raise KeyError
    assert not weight_gradients.weight_gradients_disabled()


def test_context_holds_for_other_threads():
    seen = []
    with ganfuse.no_weight_gradients():
        thread = threading.Thread(target=lambda: seen.append(weight_gradients.weight_gradients_disabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def _penalty_gradients(x, parameters, network, forbid):
    """Gradients of an R1 penalty plus the scores, for the parameters."""
    scores = network(x, *parameters)
    if forbid:
        with ganfuse.no_weight_gradients():
            (grad,) = torch.autograd.grad(scores.sum(), [x], create_graph=True)
    else:
        (grad,) = torch.autograd.grad(scores.sum(), [x], create_graph=True)
    return torch.autograd.grad(grad.square().sum() + scores.sum(), parameters)


@pytest.mark.parametrize("backend", ["eager", pytest.param("triton", marks=pytest.mark.interpreter)])
def test_penalties_are_whole(backend):
    """Through norms, a bias and a spectrally normalised convolution, against the definitions."""

    def network(kind):
        def run(x, weight, gain, bias, b):
            u = torch.nn.functional.normalize(numbers((3,), torch.float64, 9), dim=0)
            (w,), _ = spectral_normalize([weight], [u], update=False, backend=kind)
            h = torch.nn.functional.conv2d(x, w, padding=1)
            h = instance_norm_act(h, gain, bias, activation="silu", backend=kind)
            return bias_act(h, b, act="swish", backend="triton" if kind == "triton" else "reference").sum((1, 2, 3))

        return run

    x, *parameters = _parameters((2, 2, 3, 3), (3, 2, 3, 3), (3,), (3,), (3,))
    expected = _penalty_gradients(x, parameters, network("reference"), False)
    for forbid in (False, True):
        for a, e in zip(_penalty_gradients(x, parameters, network(backend), forbid), expected):
            torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def test_second_backward_leaves_out_what_nobody_waits_for(asked):
    x, gain, bias = _parameters(SHAPE, (3,), (3,))
    (grad,) = torch.autograd.grad(_norm(x, gain, bias).sin().sum(), [x], create_graph=True)
    asked.clear()
    torch.autograd.grad(grad.square().sum(), [x], retain_graph=True)
    # Of the backward's gradient, which leads to x through the sine, and of x.
    assert asked[0] == (True, True, False, False)
    asked.clear()
    with ganfuse.no_weight_gradients():
        grad.square().sum().backward()
    assert asked[0] == (True, True, False, False)
    assert gain.grad is None


@pytest.mark.parametrize("by", ["engine", "context"])
def test_spectral_normalisation_in_a_penalty(by):
    """Nothing of the size of the weight runs but the convolution's own two backwards."""
    x, weight = _parameters((2, 2, 4, 4), (3, 2, 3, 3))
    u = torch.nn.functional.normalize(numbers((3,), torch.float64, 9), dim=0)
    (w,), _ = spectral_normalize([weight], [u], update=False, backend="eager")
    total = torch.nn.functional.conv2d(x, w).sin().sum()
    with CountOps() as ops:
        if by == "engine":
            torch.autograd.grad(total, [x], create_graph=True)
        else:
            with ganfuse.no_weight_gradients():
                total.backward(retain_graph=True)
            assert weight.grad is None
    assert not {"dot", "addcmul"} & ops.counts.keys()
    with CountOps() as ops:
        total.backward()
    assert ops.counts["dot"] == 1
    assert weight.grad is not None


def _counted(monkeypatch):
    started = []
    from ganfuse.kernels.bias_act import triton as bias_launchers
    from ganfuse.kernels.channel_norm import triton as norm_launchers
    from ganfuse.kernels.channel_norm import triton_passes
    from ganfuse.kernels.spectral_normalize import triton as spectral_launchers

    for module in (bias_launchers, norm_launchers, triton_passes, spectral_launchers):
        original = module.launch

        def counted(kernel, *args, original=original, **kwargs):
            started.append(kernel.fn.__name__)
            original(kernel, *args, **kwargs)

        monkeypatch.setattr(module, "launch", counted)
    return started


@pytest.mark.interpreter
@pytest.mark.parametrize("by", ["engine", "context"])
def test_launches_of_a_penalty(monkeypatch, by):
    """Of a frozen norm, a bias and a normalised matrix: only what the gradient of x takes."""
    started = _counted(monkeypatch)
    x, gain, bias, b, weight = _parameters((2, 3, 4, 5), (3,), (3,), (3,), (3, 3))
    u = torch.nn.functional.normalize(numbers((3,), torch.float64, 9), dim=0)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    (w,), _ = spectral_normalize([weight], [u], update=False, backend="triton")
    h = batch_norm_act(x, gain, bias, mean, var, training=False, backend="triton")
    h = bias_act(h, b, act="lrelu", backend="triton")
    total = torch.einsum("bchw,cd->bdhw", h, w).sin().sum()

    def penalised():
        started.clear()
        with CountOps() as ops:
            if by == "engine":
                torch.autograd.grad(total, [x], retain_graph=True)
            else:
                with ganfuse.no_weight_gradients():
                    total.backward(retain_graph=True)
        return list(started), ops.counts

    names, counts = penalised()
    started.clear()
    with CountOps() as everything:
        total.backward(retain_graph=True)
    whole = list(started)
    assert [n for n in names if "spectral" in n] == []
    assert len([n for n in whole if "spectral" in n]) == 3
    # The maps of the norm are passed over once, not twice.
    assert [n for n in names if n.startswith("norm")] == ["norm_apply_backward"], names
    assert len([n for n in whole if n.startswith("norm")]) == 3, whole
    # The bias's gradient is summed from what the programs leave.
    assert counts.get("sum", 0) < everything.counts["sum"]
