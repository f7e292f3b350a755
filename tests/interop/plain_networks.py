"""Other codebases' networks in eval mode, in plain functions of their state dicts, to compare imported ones with."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Tensors of the shapes: variances positive, unit vectors where a power method keeps them, else small numbers."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=rng)
        if key.endswith(("var", "vars")):
            value = value.abs() + 0.5
        elif key.split(".")[-1] in ("u0", "weight_u", "weight_v"):
            value = F.normalize(value, dim=-1)
        elif len(shape) > 1:
            value = value / (value[0].numel() ** 0.5)
        state[key] = value
    for key in state:
        layer = key.removesuffix(".weight_orig")
        if layer != key and f"{layer}.weight_u" in state:
            # On the way to the largest singular value: far from it, σ would be next to nothing.
            matrix = state[key].flatten(1)
            state[f"{layer}.weight_u"] = F.normalize(matrix @ (matrix.T @ state[f"{layer}.weight_u"]), dim=0)
            state[f"{layer}.weight_v"] = F.normalize(matrix.T @ state[f"{layer}.weight_u"], dim=0)
    return state


def stepped_sigma(weight: Tensor, u: Tensor) -> Tensor:
    """σ as of a code that takes a step of the power method in every forward."""
    matrix = weight.reshape(len(weight), -1)
    v = matrix.T @ u.reshape(-1)
    v = v / v.norm()
    return (matrix @ v).norm()


def stored_sigma(state: State, layer: str) -> Tensor:
    """σ as of torch.nn.utils.spectral_norm in eval mode."""
    weight = state[f"{layer}.weight_orig"]
    return state[f"{layer}.weight_u"] @ weight.reshape(len(weight), -1) @ state[f"{layer}.weight_v"]


def doubled(x: Tensor) -> Tensor:
    """Nearest neighbours, twice the size."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def standardised(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Batch normalisation by stored statistics, without gain and bias."""
    return (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + eps).sqrt()


def scaled(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Gain and bias for each channel, or for each sample's."""
    return x * gain.reshape(-1, x.shape[1], 1, 1) + bias.reshape(-1, x.shape[1], 1, 1)


def attended(x: Tensor, theta: Tensor, phi: Tensor, g: Tensor, o: Tensor, gamma: Tensor) -> Tensor:
    """BigGAN's attention: keys and values max-pooled, 1×1 convolutions without bias."""
    n, _channels, height, width = x.shape
    query = F.conv2d(x, theta).flatten(2)
    key = F.max_pool2d(F.conv2d(x, phi), 2).flatten(2)
    value = F.max_pool2d(F.conv2d(x, g), 2).flatten(2)
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    mixed = (value @ weights.transpose(1, 2)).view(n, -1, height, width)
    return x + gamma * F.conv2d(mixed, o)


def assert_same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Values and input gradients agree to 1e-4 of the largest of them."""
    results = []
    for network in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = network(leaf)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        (gradient,) = torch.autograd.grad((y * weights).sum(), leaf)
        results.append((y.detach(), gradient))
    for got, expected in zip(*results):
        assert got.shape == expected.shape
        assert expected.abs().max() > 1e-5
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
