import copy
import pickle

import pytest
import torch
import torch.nn.utils as reference
from torch import nn
from torch.func import functional_call

from ganfuse.engine.layers import UpsampleConv2d, fuse_spectral_norms, remove_spectral_norm, spectral_norm

F64 = torch.float64

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), (2, 3, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3), (2, 3, 6, 5)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 5)),
    "conv2d channels_last": (lambda: nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last), (2, 3, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 5, 3, stride=2), (2, 3, 4, 3)),
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "embedding": (lambda: nn.Embedding(6, 4), None),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().double()
    return layer, torch.tensor([0, 5, 5, 2]) if shape is None else torch.randn(shape, dtype=F64)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_torch_over_several_steps(name, iterations):
    ours, x = make(name)
    theirs = copy.deepcopy(ours)
    spectral_norm(ours, n_power_iterations=iterations)
    reference.spectral_norm(theirs, n_power_iterations=iterations)
    theirs.load_state_dict(ours.state_dict())
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        first = {}
        for layer in (ours, theirs):
            y = layer(x)
            (gradient,) = torch.autograd.grad(y.square().sum(), layer.weight_orig, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), layer.weight_orig)
            first[layer] = y, gradient, second
        for a, b in zip(first[ours], first[theirs]):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.weight, theirs.weight.detach(), rtol=1e-12, atol=1e-12)
        with torch.no_grad():  # an optimiser's step, the same for both
            for layer in (ours, theirs):
                layer.weight_orig.sub_(0.01 * first[theirs][1])


def test_equals_the_parametrization():
    """For the same vectors; while iterating only in the limit, since that one updates u before v."""
    ours, x = make("conv2d")
    theirs = reference.parametrizations.spectral_norm(copy.deepcopy(ours), n_power_iterations=300)
    spectral_norm(ours, n_power_iterations=300)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    ours.weight_u.copy_(theirs.parametrizations.weight[0]._u)
    ours.weight_v.copy_(theirs.parametrizations.weight[0]._v)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_converges_to_the_largest_singular_value(name):
    layer, x = make(name)
    spectral_norm(layer, n_power_iterations=200)
    layer(x)
    rows = layer.weight.transpose(0, 1) if "transpose" in name else layer.weight
    assert torch.linalg.matrix_norm(rows.flatten(1), 2).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["conv2d", "conv2d channels_last", "conv_transpose2d", "linear"])
def test_gradcheck_to_second_order(name):
    layer, x = make(name)
    spectral_norm(layer).eval()  # in eval mode u and v stand still, as the derivative takes them

    def run(weight):
        return functional_call(layer, {"weight_orig": weight}, x)

    weight = layer.weight_orig.detach().requires_grad_()
    assert torch.autograd.gradcheck(run, weight)
    assert torch.autograd.gradgradcheck(run, weight)


def test_works_under_torch_func():
    layer, x = make("conv2d")
    spectral_norm(layer).eval()
    weight = layer.weight_orig.detach().clone()

    def loss(weight, x):
        return functional_call(layer, {"weight_orig": weight}, x[None]).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    for i in range(len(x)):
        leaf = weight.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, x[i]), leaf)
        torch.testing.assert_close(per_sample[i], expected, rtol=1e-10, atol=1e-10)


def test_keeps_the_layout_without_copying_the_weight():
    layer, x = make("conv2d channels_last")
    spectral_norm(layer)
    layer(x).sum().backward()
    for tensor in (layer.weight, layer.weight_orig.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_u_moves_once_per_training_forward_and_never_in_eval():
    layer, x = make("linear")
    spectral_norm(layer)

    def moved() -> bool:
        before = layer.weight_u.clone()
        layer(x)
        return not torch.equal(before, layer.weight_u)

    assert moved()
    with torch.no_grad():
        assert moved()
    layer.eval()
    assert not moved()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert moved()


def test_graphs_keep_their_own_vectors():
    """Two forwards, then one backward through both: what discriminators do with real and generated images."""
    ours, x = make("conv2d")
    theirs = copy.deepcopy(ours)
    spectral_norm(ours)
    reference.spectral_norm(theirs)
    theirs.load_state_dict(ours.state_dict())
    for layer in (ours, theirs):
        (layer(x).square().sum() + layer(2 * x).sum()).backward()
    torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad, rtol=1e-12, atol=1e-12)
    ours.eval()
    loss = ours(x).square().sum()
    ours.train()(x)  # moves the buffers that the graph of `loss` was made from
    loss.backward()


def test_checkpoints_go_both_ways():
    ours, x = make("conv_transpose2d")
    theirs = reference.spectral_norm(copy.deepcopy(ours))
    spectral_norm(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)
    ours.train()(x)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_independent(clone):
    layer, x = make("conv2d")
    spectral_norm(layer)
    layer(x).sum()  # a graph is alive, which torch.nn.utils.spectral_norm cannot be copied with
    other = clone(layer)
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    before = layer.weight_u.clone()
    other(x)
    assert torch.equal(layer.weight_u, before)
    assert not torch.equal(other.weight_u, before)
    with torch.no_grad():
        other.weight_orig.zero_()
    assert layer.eval()(x).abs().sum() > 0
    remove_spectral_norm(other)
    assert "weight_orig" in dict(layer.named_parameters())


def test_an_initialiser_applied_to_weight_reaches_the_parameter():
    layer = spectral_norm(nn.Linear(4, 3))
    nn.init.constant_(layer.weight, 0.25)
    assert torch.equal(layer.weight_orig, torch.full((3, 4), 0.25))


def test_zero_weight_stays_finite_and_recovers():
    layer, x = make("conv2d")
    spectral_norm(layer)
    kept = layer.weight_u.clone()
    with torch.no_grad():
        layer.weight_orig.zero_()
    for _ in range(2):
        y = layer(x)
        assert torch.equal(y, layer.bias[None, :, None, None].expand_as(y))
    assert torch.equal(layer.weight_u, kept)
    layer.eval()(x).sum().backward()
    assert layer.weight_orig.grad.isfinite().all()
    with torch.no_grad():
        layer.weight_orig.normal_()
    layer.train()
    for _ in range(100):
        layer(x)
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-6)


def test_moves_between_types_and_devices():
    with torch.device("meta"):
        layer = spectral_norm(nn.Conv2d(3, 5, 3))
    assert layer(torch.empty(2, 3, 6, 6, device="meta")).shape == (2, 5, 4, 4)
    source = spectral_norm(nn.Conv2d(3, 5, 3)).double()
    layer = layer.to_empty(device="cpu").double()
    layer.load_state_dict(source.state_dict())
    x = torch.randn(2, 3, 6, 6, dtype=F64)
    assert torch.equal(layer(x), source(x))
    assert layer.weight_u.dtype == F64


def test_autocast_leaves_the_power_method_in_full_precision():
    layer = spectral_norm(nn.Linear(64, 48), n_power_iterations=2)
    twin = copy.deepcopy(layer)
    x = torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    twin(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(layer.weight_u, twin.weight_u)
    assert torch.equal(layer.weight_v, twin.weight_v)
    y.sum().backward()
    assert layer.weight_orig.grad.dtype == torch.float32


def test_under_autocast_the_weight_is_rounded_once_where_the_layer_would_round_it():
    rounded = (nn.Linear(12, 8), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), UpsampleConv2d(4, 6, 1))
    # An embedding is not cast, and a kernel that may be folded is rounded when its taps are summed.
    kept = (nn.Embedding(5, 8), UpsampleConv2d(4, 6, 3))
    for layer in map(spectral_norm, (*rounded, *kept)):
        twin = copy.deepcopy(layer)
        shape = (3, 12) if isinstance(layer, nn.Linear) else (2, 4, 6, 6)
        x = torch.randint(5, (3,)) if isinstance(layer, nn.Embedding) else torch.randn(shape)
        twin(x)
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        dtype = torch.float32 if layer in kept else torch.bfloat16
        assert layer.weight.dtype == dtype
        assert torch.equal(layer.weight, twin.weight.to(dtype))


def test_removed_under_autocast_the_weight_keeps_its_type():
    layer = spectral_norm(nn.Linear(12, 8))
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 12))
        remove_spectral_norm(layer)
    assert layer.weight.dtype == torch.float32


def test_compiles_without_a_graph_break():
    layer = spectral_norm(nn.Conv2d(3, 5, 3))
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 6, 6)
    for _ in range(2):
        compiled(x).square().sum().backward()
        twin(x).square().sum().backward()
    torch.testing.assert_close(layer.weight_orig.grad, twin.weight_orig.grad)
    torch.testing.assert_close(layer.weight_u, twin.weight_u)


class EveryKind(nn.Module):
    """Layers of few rows: there a compiler would rather compute u and v again from the buffers than keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(2, 2, 1))
        self.up = spectral_norm(nn.ConvTranspose2d(2, 2, 1))
        self.linear = spectral_norm(nn.Linear(32, 2))
        self.embedding = spectral_norm(nn.Embedding(2, 50))

    def forward(self, x, labels):
        outputs = self.conv(x), self.up(x), self.linear(x.flatten(1)), self.embedding(labels)
        return sum(y.to(x.dtype).sin().sum() for y in outputs)


def compiled_and_eager(fused: str, compiler: str, dtype: torch.dtype = F64):
    """A model and the function that calls it, compiled and not, and their arguments."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = EveryKind().to(dtype)
    twin = copy.deepcopy(model)
    for some in (model, twin):
        for part in {"none": [], "each layer": some.children(), "all layers": [some]}[fused]:
            fuse_spectral_norms(part)
    call = torch.compile(model, fullgraph=True, backend=compiler)
    return ((model, call), (twin, twin)), (torch.randn(3, 2, 4, 4, dtype=dtype), torch.tensor([0, 1, 1]))


def assert_graphs_keep_vectors(fused: str, autocast: bool, compiler: str) -> None:
    """Of two forwards before a backward, after one in evaluation mode, which moves nothing."""
    pairs, inputs = compiled_and_eager(fused, compiler, torch.float32 if autocast else F64)
    for model, call in pairs:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = sum(call(*inputs) for training in (False, True, True) if model.train(training))
        loss.backward()
    (model, _), (twin, _) = pairs
    # Under autocast, an output is rounded before what follows or not, as the compiler likes.
    tolerance = 2e-2 if autocast else 1e-10
    for (name, p), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        error = (p.grad - expected.grad).abs().max() / expected.grad.abs().max()
        assert error < tolerance, f"{name}: {error}"
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


# Inductor's partitioner, without inductor's compilations.
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("fused", ["none", "each layer", "all layers"])
def test_compiled_graphs_keep_the_vectors_that_made_them(fused, autocast):
    assert_graphs_keep_vectors(fused, autocast, "aot_eager_decomp_partition")


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_inductor_keeps_the_vectors_that_made_a_graph(autocast):
    assert_graphs_keep_vectors("none", autocast, "inductor")


def test_compiled_without_gradients_steps_too():
    ((model, call), (twin, _)), inputs = compiled_and_eager("none", "aot_eager_decomp_partition")
    with torch.no_grad():
        torch.testing.assert_close(call(*inputs), twin(*inputs))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_remove():
    layer, x = make("conv2d")
    spectral_norm(layer)
    layer(x)
    expected = layer.eval()(x)
    layer.weight_orig.requires_grad_(False)
    assert remove_spectral_norm(layer) is layer
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert not layer.weight.requires_grad
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks
    spectral_norm(layer)
    with pytest.raises(ValueError, match="not normalised"):
        remove_spectral_norm(nn.Linear(2, 2))


def test_refuses_what_it_cannot_normalise():
    with pytest.raises(ValueError, match="already"):
        spectral_norm(spectral_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="has none"):
        spectral_norm(nn.ReLU())
    with pytest.raises(ValueError, match="2 or more dimensions"):
        spectral_norm(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="lazy"):
        spectral_norm(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="sparse=False"):
        spectral_norm(nn.Embedding(3, 2, sparse=True))
    with pytest.raises(ValueError, match="n_power_iterations"):
        spectral_norm(nn.Linear(2, 2), n_power_iterations=0)
    with pytest.raises(ValueError, match="eps"):
        spectral_norm(nn.Linear(2, 2), eps=0.0)
    with pytest.raises(ValueError, match="dim"):
        spectral_norm(nn.Linear(2, 2), dim=2)


def test_biggan_style_evaluates_with_one_step_that_is_not_stored():
    layer, x = make("conv2d")
    spectral_norm(layer, style="biggan")
    layer(x)
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    other = copy.deepcopy(layer)  # in training mode the same step is taken, and stored
    expected = other(x)
    for _ in range(2):
        torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dict(layer.state_dict()), kept, rtol=0, atol=0)
    plain = spectral_norm(make("conv2d")[0])
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(plain.eval()(x), expected)
    with pytest.raises(ValueError, match="style must be one of 'torch', 'biggan', got 'tf'"):
        spectral_norm(nn.Linear(2, 2), style="tf")
