"""Real and generated images with the same u: a step in the first forward of a turn only."""

import copy
import pickle

import pytest
import torch
import torch.nn.utils as reference
from torch import nn

from ganfuse.engine.ema import EMA
from ganfuse.engine.layers import fuse_spectral_norms, hold_spectral_norms, spectral_norm

F64 = torch.float64
KINDS = {
    "ours": spectral_norm,
    "hook": reference.spectral_norm,
    "parametrization": reference.parametrizations.spectral_norm,
}


def make(kind: str = "ours", *, fuse: bool = True) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    norm = KINDS[kind]
    net = nn.Sequential(norm(nn.Conv2d(2, 3, 3)), nn.LeakyReLU(), nn.Flatten(), norm(nn.Linear(12, 2))).double()
    return fuse_spectral_norms(net) if fuse else net, torch.randn(2, 2, 4, 4, dtype=F64)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def moves(net: nn.Module, x: torch.Tensor) -> bool:
    """Whether a forward steps; all vectors do, or none."""
    before = state(net)
    net(x)
    moved = {not torch.equal(before[k], v) for k, v in net.state_dict().items() if k.endswith(("_u", "_v"))}
    assert len(moved) == 1
    return moved.pop()


@pytest.mark.parametrize(("kind", "fuse"), [("ours", False), ("ours", True), ("hook", True), ("parametrization", True)])
def test_steps_once(kind, fuse):
    net, x = make(kind, fuse=fuse)
    unheld, _ = make(kind, fuse=fuse)
    for _ in range(2):
        with hold_spectral_norms(net):
            first = net(x)
            once = state(net)
            first.sum().backward()  # each graph is its own
            second = net(x)
            second.sum().backward()
            torch.testing.assert_close(state(net), once, rtol=0, atol=0)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(unheld(x), first, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state(unheld), once, rtol=1e-12, atol=1e-12)
    assert moves(net, x)
    assert moves(net, x)


def test_gradients_through_both_forwards_equal_one_batch():
    """With the same u, two forwards are one over both batches."""
    net, x = make()
    other, _ = make()
    with hold_spectral_norms(net):
        (net(x).square().sum() + net(2 * x).square().sum()).backward()
    other(torch.cat([x, 2 * x])).square().sum().backward()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("fuse", [False, True])
def test_nested(fuse):
    """The outer one holds to its end; an inner one for more holds the rest to the inner end."""
    net, x = make(fuse=fuse)
    with hold_spectral_norms(net):
        assert moves(net, x)
        with hold_spectral_norms(net):
            assert not moves(net, x)
        assert not moves(net, x)
    assert moves(net, x)
    conv, image = net[0], x
    with hold_spectral_norms(conv):
        conv(image)
        with hold_spectral_norms(net):
            before = state(net)
            net(x)
            after = state(net)
            assert torch.equal(before["0.weight_u"], after["0.weight_u"])
            assert not torch.equal(before["3.weight_u"], after["3.weight_u"])
            assert not moves(net, x)
        before = state(net)
        net(x)
        assert torch.equal(before["0.weight_u"], net[0].weight_u)
        assert not torch.equal(before["3.weight_u"], net[3].weight_u)


@pytest.mark.parametrize("fuse", [False, True])
def test_exceptions(fuse):
    net, x = make(fuse=fuse)
    with pytest.raises(RuntimeError), hold_spectral_norms(net):
        net(x[:, :1])
    assert moves(net, x)
    with hold_spectral_norms(net):
        # The first layer took its weight, the last one was not reached: only the first one's step is behind us.
        with pytest.raises(RuntimeError):
            net(x[:, :, :3, :3])
        before = state(net)
        net(x)
        assert torch.equal(before["0.weight_u"], net[0].weight_u)
    assert moves(net, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda net: EMA(net).module.train(), "pickle"], ids=["deepcopy", "EMA", "pickle"]
)
def test_copies_are_not_held(kind, clone):
    if clone == "pickle":
        if kind == "parametrization":
            pytest.skip("PyTorch does not pickle parametrised modules")
        clone = lambda net: pickle.loads(pickle.dumps(net))  # noqa: E731
    net, x = make(kind)
    with hold_spectral_norms(net):
        net(x)
        other = clone(net)
        assert moves(other, x)
        assert moves(other, x)
        assert not moves(net, x)
    assert moves(other, x)


def test_state_goes_in_and_out():
    net, x = make()
    plain, _ = make(fuse=False)
    with hold_spectral_norms(net):
        net(x)
        plain.load_state_dict(net.state_dict())
        net.load_state_dict(plain.state_dict())
        assert not moves(net, x)
    torch.testing.assert_close(net.eval()(x), plain.eval()(x), rtol=1e-12, atol=1e-12)


def test_evaluation_never_steps():
    net, x = make()
    with hold_spectral_norms(net.eval()):
        assert not moves(net, x)
        assert moves(net.train(), x)
        assert not moves(net, x)


def test_compiled():
    torch.compiler.reset()
    net, x = make()
    plain, _ = make(fuse=False)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        for model, call in ((net, compiled), (plain, plain)):
            with hold_spectral_norms(model):
                (call(x).square().sum() + call(2 * x).sum()).backward()
        torch.testing.assert_close(state(net), state(plain), rtol=1e-10, atol=1e-10)
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("fuse", [False, True])
def test_a_compiled_graph_that_was_held_keeps_vectors_that_move_later(fuse):
    torch.compiler.reset()
    net, x = make(fuse=fuse)
    plain, _ = make(fuse=fuse)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager_decomp_partition")
    for model, call in ((net, compiled), (plain, plain)):
        with hold_spectral_norms(model):
            loss = call(x).square().sum() + call(2 * x).sum()
        (loss + call(x).sin().sum()).backward()
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["hook", "parametrization"])
def test_refuses_what_it_cannot_hold(kind):
    net, _ = make(kind, fuse=False)
    with pytest.raises(ValueError, match="apply fuse_spectral_norms"), hold_spectral_norms(net):
        pass
    with hold_spectral_norms(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2), name="bias")):
        pass  # of a vector: no power method
