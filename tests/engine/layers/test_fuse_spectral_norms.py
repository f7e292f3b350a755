import copy
import os
import pickle
import sys

import pytest
import torch
import torch.nn.utils as reference
from torch import nn
from torch.func import functional_call

import ganfuse
from ganfuse.engine.ema import EMA
from ganfuse.engine.layers import fuse_spectral_norms, spectral_norm, unfuse_spectral_norms
from ganfuse.engine.layers.fuse_spectral_norms import fuse_networks
from ganfuse.kernels.spectral_normalize import op

F64 = torch.float64
KINDS = {
    "ours": spectral_norm,
    "biggan": lambda layer: spectral_norm(layer, style="biggan"),
    "hook": reference.spectral_norm,
    "parametrization": reference.parametrizations.spectral_norm,
}


class Net(nn.Module):
    """Every kind of layer; one that is called twice, one never, one frozen."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.conv = norm(nn.Conv2d(3, 4, 3, padding=1))
        self.wide = norm(nn.Conv2d(4, 4, 3, padding=1).to(memory_format=torch.channels_last))
        self.up = norm(nn.ConvTranspose2d(4, 3, 2, stride=2))
        self.twice = norm(nn.Conv2d(3, 3, 1))
        self.never = norm(nn.Linear(3, 3))
        self.plain = nn.Linear(3, 3)
        self.frozen = norm(nn.Linear(3, 3)).requires_grad_(False)
        self.embedding = norm(nn.Embedding(5, 3))
        self.linear = norm(nn.Linear(3, 1))

    def forward(self, x, labels):
        h = self.up(torch.relu(self.wide(torch.relu(self.conv(x)))))
        h = self.twice(torch.relu(self.twice(h))).mean((2, 3))
        h = self.frozen(self.plain(h)) * self.embedding(labels)
        return self.linear(h)


def make(kind: str) -> tuple[nn.Module, nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A fused net, the same one unfused, and their arguments."""
    torch.manual_seed(0)
    plain = Net(KINDS[kind]).double()
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    return fused, plain, (torch.randn(2, 3, 5, 5, dtype=F64), torch.tensor([1, 4]))


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-10, atol=1e-10)


def step(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    net.zero_grad()
    out = net(*inputs)
    out.square().sum().backward()
    return out


def assert_same(fused: nn.Module, plain: nn.Module, inputs: tuple[torch.Tensor, ...], steps: int = 2) -> None:
    for _ in range(steps):
        torch.testing.assert_close(step(fused, inputs), step(plain, inputs), rtol=1e-10, atol=1e-10)
        gradients = [{k: p.grad for k, p in net.named_parameters() if p.grad is not None} for net in (fused, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
        assert_same_state(fused, plain)
        with torch.no_grad():  # an optimiser's step
            for net in (fused, plain):
                for name, p in net.named_parameters():
                    if name in gradients[1]:
                        p.sub_(0.01 * gradients[1][name])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_unfused_in_training_and_evaluation(kind):
    fused, plain, inputs = make(kind)
    assert_same(fused, plain, inputs, 3)
    with torch.no_grad():
        torch.testing.assert_close(fused(*inputs), plain(*inputs), rtol=1e-10, atol=1e-10)
    fused.eval(), plain.eval()
    assert_same(fused, plain, inputs, 2)
    fused.train(), plain.train()
    fused.conv.eval(), plain.conv.eval()  # part of it
    assert_same(fused, plain, inputs, 2)


@pytest.mark.interpreter
@pytest.mark.parametrize("kind", ["ours", "biggan", "parametrization"])
def test_equals_unfused_by_the_kernels(kind):
    fused, plain, inputs = make(kind)
    with ganfuse.use_backend("triton"):
        fused_out = step(fused, inputs)
    with ganfuse.use_backend("auto"):
        plain_out = step(plain, inputs)
    torch.testing.assert_close(fused_out, plain_out, rtol=1e-10, atol=1e-10)
    assert_same_state(fused, plain)
    assert fused.frozen.weight.requires_grad is False
    for (name, a), (_, b) in zip(fused.named_parameters(), plain.named_parameters()):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10)


def test_mixed_kinds_are_one_model():
    torch.manual_seed(0)
    plain = nn.Sequential(*(KINDS[kind](nn.Linear(4, 4)) for kind in KINDS)).double()
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    x = torch.randn(3, 4, dtype=F64)
    assert_same(fused, plain, (x,))


def test_one_batch_per_forward(monkeypatch):
    """All layers at once, and those that are called again by themselves."""
    sizes = []
    original = op.normalise_batch

    def counted(weights, *args, **kwargs):
        sizes.append(len(weights))
        return original(weights, *args, **kwargs)

    for name in ("fuse_spectral_norms", "spectral_norm"):  # modules that the package's functions of that name hide
        monkeypatch.setattr(sys.modules[f"ganfuse.engine.layers.{name}"], "normalise_batch", counted)
    fused, _, inputs = make("ours")
    fused(*inputs)
    assert sizes == [8, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_called_from_outside_compute_for_themselves(kind):
    fused, plain, (x, labels) = make(kind)
    fused(x, labels), plain(x, labels)
    for net in (fused, plain):
        net.conv(x).sum().backward()
    torch.testing.assert_close(fused.conv(x), plain.conv(x), rtol=1e-10, atol=1e-10)
    assert_same_state(fused, plain)
    assert_same(fused, plain, (x, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_the_forward_leaves_no_trace(kind):
    fused, plain, inputs = make(kind)
    for net in (fused, plain):
        with pytest.raises(IndexError):
            net(inputs[0], torch.tensor([7, 8]))
    assert_same_state(fused, plain)
    assert_same(fused, plain, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_unfuse(kind):
    fused, plain, inputs = make(kind)
    assert_same(fused, plain, inputs, 1)
    assert unfuse_spectral_norms(fused) is fused
    assert not fused._forward_pre_hooks
    assert not fused._forward_hooks
    assert [type(m) for m in fused.modules()] == [type(m) for m in plain.modules()]
    for a, b in zip(fused.modules(), plain.modules()):
        assert [type(h) for h in a._forward_pre_hooks.values()] == [type(h) for h in b._forward_pre_hooks.values()]
        assert len(a._forward_hooks) == len(b._forward_hooks)
    assert_same(fused, plain, inputs)
    assert_same(fuse_spectral_norms(fused), plain, inputs)
    with pytest.raises(ValueError, match="not fused"):
        unfuse_spectral_norms(plain)


def _pickled(net: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(net))


# PyTorch does not pickle parametrised modules.
@pytest.mark.parametrize(
    ("kind", "clone"), [*((kind, copy.deepcopy) for kind in KINDS), ("ours", _pickled), ("hook", _pickled)]
)
def test_copies_are_fused_and_independent(kind, clone):
    fused, plain, inputs = make(kind)
    other = clone(fused)
    before = {k: v.clone() for k, v in fused.state_dict().items()}
    assert_same(other, plain, inputs)
    torch.testing.assert_close(dict(fused.state_dict()), before, rtol=0, atol=0)
    unfuse_spectral_norms(other)


def test_a_copied_part_works_alone():
    fused, plain, (x, _) = make("ours")
    part, whole = copy.deepcopy(fused.conv), plain.conv
    torch.testing.assert_close(part(x), whole(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_go_both_ways(kind):
    fused, plain, inputs = make(kind)
    step(fused, inputs)
    plain.load_state_dict(fused.state_dict())
    assert_same(fused, plain, inputs)
    step(plain, inputs)
    fused.load_state_dict(plain.state_dict())
    assert_same(fused, plain, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_moves_to_another_type(kind):
    fused, plain, (x, labels) = make(kind)
    fused.float(), plain.float()
    torch.testing.assert_close(fused(x.float(), labels), plain(x.float(), labels), rtol=1e-4, atol=1e-5)
    fused.double(), plain.double()
    plain.load_state_dict(fused.state_dict())
    assert_same(fused, plain, (x, labels))


@pytest.mark.parametrize("kind", ["ours", "parametrization"])
def test_moves_to_another_layout_and_device(kind):
    fused, plain, inputs = make(kind)
    step(fused, inputs), step(plain, inputs)
    for net in (fused, plain):
        net.to(memory_format=torch.channels_last)
    weight = fused.conv.weight_orig if kind == "ours" else fused.conv.parametrizations.weight.original
    assert not weight.is_contiguous()
    assert_same(fused, plain, inputs)
    state = copy.deepcopy(fused.state_dict())
    fused.to("meta")
    assert fused(inputs[0].to("meta"), inputs[1].to("meta")).is_meta
    fused.to_empty(device="cpu").load_state_dict(state)
    assert_same(fused, plain, inputs)


def test_a_copy_made_within_a_forward_is_not_in_one():
    fused, plain, inputs = make("ours")
    copies = []

    def hook(module, *_):
        if not copies:
            copies.append(None)
            copies[0] = EMA(fused, 0.9).module

    fused.wide.register_forward_hook(hook)
    fused(*inputs), plain(*inputs)
    fused.wide._forward_hooks.popitem()
    assert_same(fused, plain, inputs)
    average = copies[0].train().requires_grad_(True)
    average.load_state_dict(fused.state_dict())
    for layer in (average.never, average.frozen):
        layer.requires_grad_(layer is not average.frozen)
    average.wide._forward_hooks.popitem()
    assert_same(average, plain, inputs)


def test_fused_models_within_each_other():
    """A part that is fused by itself after the whole was: results and steps are still those of the unfused model."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Sequential(*(spectral_norm(nn.Linear(3, 3)) for _ in range(2))), nn.Linear(3, 2)).double()
    spectral_norm(plain[1])
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    fuse_spectral_norms(fused[0])
    x = torch.randn(4, 3, dtype=F64)
    assert_same(fused, plain, (x,))
    fused[0](x), plain[0](x)
    assert_same(fused, plain, (x,))


def test_networks_of_a_game():
    torch.manual_seed(0)
    game = nn.Module()
    game.generator = nn.Sequential(nn.Linear(3, 3), nn.utils.spectral_norm(nn.Linear(3, 3)))
    game.discriminator = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 1))
    game.encoder = nn.Linear(3, 3)
    game.shared = nn.Sequential(fuse_spectral_norms(spectral_norm(nn.Linear(3, 3))))
    plain, x = copy.deepcopy(game), torch.randn(2, 3)
    names = ["generator", "discriminator", "encoder", "shared", "generator"]
    assert fuse_networks(game, names) == ["generator", "discriminator"]
    assert fuse_networks(game, names) == []
    assert fuse_networks(game, ["generator.1"]) == []
    for name in names[:4]:
        network, other = game.get_submodule(name), plain.get_submodule(name)
        torch.testing.assert_close(network(x), other(x))
        assert_same_state(network, other)
    unfuse_spectral_norms(game.generator), unfuse_spectral_norms(game.discriminator)


@pytest.mark.parametrize("kind", ["ours", "hook", "parametrization"])
def test_exponential_moving_average(kind):
    fused, plain, inputs = make(kind)
    averages = []
    for net in (fused, plain):
        step(net, inputs)
        average = EMA(net, 0.9)
        step(net, inputs)
        average.update(net)
        averages.append(average.module(*inputs))
    torch.testing.assert_close(*averages, rtol=1e-10, atol=1e-10)


def test_functional_call_sees_other_weights():
    fused, plain, inputs = make("ours")
    fused.eval(), plain.eval()
    weights = {k: 2 * v.detach() for k, v in plain.named_parameters()}
    torch.testing.assert_close(
        functional_call(fused, weights, inputs), functional_call(plain, weights, inputs), rtol=1e-10, atol=1e-10
    )


def test_distributed_data_parallel(tmp_path):
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fused, plain, inputs = make("ours")
        wrapped = nn.parallel.DistributedDataParallel(fused, find_unused_parameters=True)
        torch.testing.assert_close(step(wrapped, inputs), step(plain, inputs), rtol=1e-10, atol=1e-10)
        assert_same_state(fused, plain)
        torch.testing.assert_close(fused.conv.weight_orig.grad, plain.conv.weight_orig.grad, rtol=1e-9, atol=1e-10)
    finally:
        dist.destroy_process_group()


def _train_on_half_a_batch(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    fused, _, (x, labels) = make("ours")
    if rank == 1:  # it must not matter what the others had
        with torch.no_grad():
            for tensor in (*fused.parameters(), *fused.buffers()):
                tensor.mul_(0.5)
    wrapped = nn.parallel.DistributedDataParallel(fused, find_unused_parameters=True)
    for _ in range(2):
        step(wrapped, (x[rank : rank + 1], labels[rank : rank + 1]))
    gradients = {k: p.grad for k, p in fused.named_parameters() if p.grad is not None}
    torch.save((dict(fused.state_dict()), gradients), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_of_distributed_data_parallel_equal_one(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(_train_on_half_a_batch, args=(str(tmp_path),), nprocs=2)
    _, plain, inputs = make("ours")
    for _ in range(2):
        step(plain, inputs)
    for rank in range(2):
        state, gradients = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(state, dict(plain.state_dict()), rtol=1e-10, atol=1e-10)
        for name, gradient in gradients.items():  # of the mean over processes of sums over halves
            if plain.get_parameter(name).grad is not None:
                expected = plain.get_parameter(name).grad / 2
                torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    assert gradients["conv.weight_orig"].abs().max() > 0


@pytest.mark.parametrize("kind", ["ours", "biggan"])
def test_compiles_without_a_graph_break(kind):
    torch.compiler.reset()
    if kind == "ours":
        fused, plain, inputs = make(kind)
    else:
        plain = nn.Sequential(*(KINDS[kind](nn.Linear(3, 3)) for _ in range(2))).double()
        fused, inputs = fuse_spectral_norms(copy.deepcopy(plain)), (torch.randn(2, 3, dtype=F64),)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        fused.train(mode), plain.train(mode)
        for _ in range(2):
            torch.testing.assert_close(step(compiled, inputs), step(plain, inputs), rtol=1e-10, atol=1e-10)
            assert_same_state(fused, plain)
        for (name, a), (_, b) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
            if b.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.interpreter
def test_compiles_with_the_kernels():
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.ReLU(), spectral_norm(nn.Linear(5, 3))).double()
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    x = torch.randn(2, 4, dtype=F64)
    with ganfuse.use_backend("triton"):
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        for _ in range(2):
            out = step(compiled, (x,))
    for _ in range(2):
        expected = step(plain, (x,))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert_same_state(fused, plain)
    torch.testing.assert_close(fused[0].weight_orig.grad, plain[0].weight_orig.grad, rtol=1e-9, atol=1e-10)


def test_the_model_may_be_the_layer():
    plain = spectral_norm(nn.Linear(3, 4)).double()
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    assert_same(fused, plain, (torch.randn(2, 3, dtype=F64),))


@pytest.mark.parametrize("kind", ["ours", "hook"])
def test_autocast(kind):
    torch.manual_seed(0)
    plain = nn.Sequential(*(KINDS[kind](nn.Linear(8, 8)) for _ in range(2)))
    fused = fuse_spectral_norms(copy.deepcopy(plain))
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = fused(x), plain(x)
        a.float().sum().backward()
    assert a.dtype == torch.bfloat16
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    assert fused[0].weight.dtype == torch.bfloat16  # written so, not cast
    assert fused[0].weight_orig.grad.dtype == torch.float32


def test_refuses_what_it_cannot_fuse():
    with pytest.raises(ValueError, match="no spectrally normalised layer"):
        fuse_spectral_norms(nn.Linear(2, 2))
    inner = nn.Sequential(spectral_norm(nn.Linear(2, 2)))
    fuse_spectral_norms(inner)
    with pytest.raises(ValueError, match="fused already"):
        fuse_spectral_norms(inner)
    with pytest.raises(ValueError, match="0 is fused already"):
        fuse_spectral_norms(nn.Sequential(inner))
