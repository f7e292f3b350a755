"""What all norm layers have in common: state, copies, devices, types, layouts, and PyTorch's layers beside them."""

import copy
import io

import pytest
import torch
from torch import nn

import ganfuse
from ganfuse.engine.layers import (
    AdaIN2d,
    AdaLIN2d,
    BatchNormAct2d,
    ConditionalBatchNorm2d,
    GroupNormAct2d,
    ILN2d,
    InstanceNormAct2d,
    MinibatchStdDev,
    PixelNorm,
)

C = 6


def _vectors(x, features):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(x.shape[0], features, generator=generator).to(
        x.device, torch.promote_types(x.dtype, torch.float32)
    )


def _noise(x):
    return torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(2)).to(x.device)[None, None]


# How to build each, and what it is called with besides x.
LAYERS = {
    "batch": (lambda **o: BatchNormAct2d(C, activation="relu", **o), lambda x: ()),
    "conditional batch": (
        lambda **o: ConditionalBatchNorm2d(C, num_classes=3, activation="silu", **o),
        lambda x: (torch.arange(x.shape[0], device=x.device) % 3,),
    ),
    "conditional batch, vector": (
        lambda **o: ConditionalBatchNorm2d(C, condition_features=5, **o),
        lambda x: (_vectors(x, 5),),
    ),
    "instance": (lambda **o: InstanceNormAct2d(C, affine=True, activation="relu", **o), lambda x: ()),
    "group": (lambda **o: GroupNormAct2d(2, C, activation="silu", **o), lambda x: ()),
    "adain": (lambda **o: AdaIN2d(C, 5, activation="leaky_relu", **o), lambda x: (_vectors(x, 5),)),
    "adain, noise given": (
        lambda **o: AdaIN2d(C, 5, noise=True, prologue_bias=True, prologue_activation="leaky_relu", **o),
        lambda x: (_vectors(x, 5), _noise(x)),
    ),
    "adalin": (lambda **o: AdaLIN2d(C, activation="relu", **o), lambda x: (_vectors(x, C), _vectors(x, C))),
    "iln": (lambda **o: ILN2d(C, rho=0.3, activation="relu", **o), lambda x: ()),
    "pixel": (lambda **o: PixelNorm(), lambda x: ()),
    "minibatch stddev": (lambda **o: MinibatchStdDev(), lambda x: ()),
}


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def _map(dtype=torch.float32):
    return torch.randn(4, C, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_copies_compute_the_same(name):
    build, extra = LAYERS[name]
    layer = build()
    x = _map()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    others = [copy.deepcopy(layer), torch.load(buffer, weights_only=False), build()]
    others[2].load_state_dict(layer.state_dict())
    expected = layer(x, *extra(x))
    for other in others:
        assert torch.equal(other(x, *extra(x)), expected)
        assert repr(other) == repr(layer)
        for a, b in zip(other.state_dict().values(), layer.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_meta_device(name):
    build, extra = LAYERS[name]
    with torch.device("meta"):
        layers = [build()]
    layers.append(build(device="meta"))
    x = _map().to("meta")
    for layer in layers:
        assert all(t.is_meta for t in layer.state_dict().values())
        assert layer(x, *extra(x)).shape[2:] == x.shape[2:]
    real = build()
    layers[0].to_empty(device="cpu").load_state_dict(real.state_dict())


def test_dtype_argument(name):
    build, extra = LAYERS[name]
    layer = build(dtype=torch.float64)
    x = _map(torch.float64)
    assert all(t.dtype in (torch.float64, torch.int64) for t in layer.state_dict().values())
    assert layer(x, *extra(x)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_maps(name, dtype):
    """float32 parameters, half precision maps, with autocast and without."""
    build, extra = LAYERS[name]
    expected = build()
    layer = copy.deepcopy(expected)
    x = _map(dtype)
    exact = expected(x.float(), *extra(x))
    y = layer(x, *extra(x))
    assert y.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), exact, rtol=tolerance, atol=2 * tolerance)
    if dtype == torch.float16:
        return  # not a type of autocast on CPUs
    with torch.autocast("cpu", torch.bfloat16):
        z = copy.deepcopy(expected).eval()(x, *extra(x))
        w = copy.deepcopy(expected).eval()(x.float(), *extra(x))
    assert z.dtype == dtype
    # As PyTorch's norms: autocast leaves a float32 map as it is.
    assert w.dtype == torch.float32
    for buffer in layer.buffers():
        assert buffer.dtype != dtype


def test_channels_last_stays(name):
    build, extra = LAYERS[name]
    x = _map()
    expected = build()
    layer = copy.deepcopy(expected)
    y = layer(x.to(memory_format=torch.channels_last), *extra(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected(x, *extra(x)))


def test_gradients_reach_every_parameter(name):
    build, extra = LAYERS[name]
    layer = build()
    x = _map().requires_grad_()
    y = layer(x, *extra(x))
    (g,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), x, create_graph=True)
    g.square().sum().backward()
    for key, parameter in layer.named_parameters():
        if "bias" not in key and not key.startswith("style.bias"):
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    assert x.grad.isfinite().all()


def test_compiles_without_a_break(name):
    torch.compiler.reset()
    build, extra = LAYERS[name]
    layer = build().eval()
    x = _map()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, *extra(x)), layer(x, *extra(x)))


def test_wrong_channels(name):
    build, extra = LAYERS[name]
    if not name.startswith(("pixel", "minibatch")):
        x = torch.randn(4, C + 1, 3, 3)
        with pytest.raises(ValueError, match=rf"x: expected \(B, {C}, H, W\), got \(4, {C + 1}, 3, 3\)"):
            build()(x, *extra(x))


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}], ids=str
)
def test_batch_norm_takes_over(activation, options):
    theirs = nn.BatchNorm2d(C, eps=1e-3, **options)
    if theirs.affine:
        nn.init.normal_(theirs.weight)
        nn.init.normal_(theirs.bias)
    ours = BatchNormAct2d.from_torch(copy.deepcopy(theirs), activation=activation)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    _same(ours, theirs, activation)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_takes_over(affine):
    theirs = nn.InstanceNorm2d(C, eps=1e-3, affine=affine)
    ours = InstanceNormAct2d.from_torch(theirs, activation="relu")
    assert ours.weight is theirs.weight
    _same(ours, theirs, "relu")
    with pytest.raises(ValueError, match="track_running_stats"):
        InstanceNormAct2d.from_torch(nn.InstanceNorm2d(C, track_running_stats=True))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_takes_over(groups):
    theirs = nn.GroupNorm(groups, C, eps=1e-3)
    nn.init.normal_(theirs.weight)
    ours = GroupNormAct2d.from_torch(theirs, activation="silu")
    assert ours.weight is theirs.weight
    _same(ours, theirs, "silu")


def _same(ours, theirs, activation):
    after = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "silu": nn.SiLU()}[activation]
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x, z = (_map().mul(3).add(2).requires_grad_() for _ in range(2))
        y, expected = ours(x), after(theirs(z))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        weights = torch.linspace(-1, 1, y.numel()).view_as(y)
        for a, b in zip(
            torch.autograd.grad((y * weights).sum(), x), torch.autograd.grad((expected * weights).sum(), z)
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [BatchNormAct2d, InstanceNormAct2d, GroupNormAct2d])
def test_takes_over_its_own_kind_only(layer):
    with pytest.raises(ValueError, match=r"module: expected nn\.\w+.*, got Conv2d"):
        layer.from_torch(nn.Conv2d(1, 1, 1))


def test_evaluation_mode_and_frozen_parameters_are_taken_over():
    theirs = nn.BatchNorm2d(C).eval().requires_grad_(False)
    ours = BatchNormAct2d.from_torch(theirs)
    assert not ours.training
    assert not ours.weight.requires_grad
    assert ours.running_mean is theirs.running_mean


def test_group_of_processes(tmp_path):
    dist = pytest.importorskip("torch.distributed")
    with pytest.raises(ValueError, match=r"torch\.distributed to be initialised"):
        BatchNormAct2d.from_torch(nn.SyncBatchNorm(C))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = BatchNormAct2d.from_torch(nn.SyncBatchNorm(C))
        assert layer.process_group is dist.group.WORLD
        other = copy.deepcopy(
            nn.Sequential(layer, ConditionalBatchNorm2d(C, num_classes=2, process_group=dist.group.WORLD))
        )
        assert other[0].process_group is other[1].process_group is dist.group.WORLD
        assert other[0].weight is not layer.weight
        assert "synchronised" in repr(other)
        torch.testing.assert_close(other[0](_map()), nn.BatchNorm2d(C)(_map()))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: BatchNormAct2d(0), "num_features must be at least 1, got 0"),
        (lambda: InstanceNormAct2d(0), "num_features must be at least 1, got 0"),
        (lambda: GroupNormAct2d(4, 6), "num_groups must divide num_channels, 6, got 4"),
        (lambda: GroupNormAct2d(0, 6), "num_groups must divide num_channels, 6, got 0"),
        (lambda: AdaIN2d(6, 0), "style_features must be at least 1, got 0"),
        (lambda: AdaLIN2d(6, rho=1.5), r"rho must be in \[0, 1\], got 1.5"),
        (lambda: ILN2d(6, activation="gelu"), "activation must be one of"),
        (lambda: PixelNorm(0.0), "eps must be more than 0, got 0.0"),
        (lambda: MinibatchStdDev(0), "group_size must be at least 1 or None, got 0"),
        (lambda: MinibatchStdDev(4, 0), "num_channels must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_all_are_public():
    for layer in (
        "AdaIN2d",
        "AdaLIN2d",
        "GroupNormAct2d",
        "ILN2d",
        "InstanceNormAct2d",
        "MinibatchStdDev",
        "PixelNorm",
    ):
        assert getattr(ganfuse, layer) is getattr(ganfuse.engine.layers, layer)
