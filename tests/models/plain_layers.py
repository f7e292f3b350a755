"""Layers in plain PyTorch, as the papers' figures have them, on the parameters of ours: for comparison in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def weight(layer: nn.Module) -> Tensor:
    """W / uᵀWv."""
    w = layer.weight_orig
    return w / (layer.weight_u @ w.flatten(1) @ layer.weight_v)


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(x, weight(layer), layer.bias, stride=layer.stride, padding=layer.padding)


def standardised(layer: nn.Module, x: Tensor) -> Tensor:
    return (x - layer.running_mean[:, None, None]) / (layer.running_var[:, None, None] + 1e-5).sqrt()


def activated(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def batch_norm(layer: nn.Module, x: Tensor, slope: float = 0.0) -> Tensor:
    return activated(standardised(layer, x) * layer.weight[:, None, None] + layer.bias[:, None, None], slope)


def conditioned(layer: nn.Module, x: Tensor, condition: Tensor, slope: float = 0.0) -> Tensor:
    """Batch normalisation whose gain and bias are linear maps of the condition."""
    gain, bias = 1 + condition @ weight(layer.gain).t(), condition @ weight(layer.bias).t()
    return activated(standardised(layer, x) * gain[:, :, None, None] + bias[:, :, None, None], slope)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def attention(layer: nn.Module, x: Tensor) -> Tensor:
    query, key, value = conv(layer.theta, x), F.max_pool2d(conv(layer.phi, x), 2), F.max_pool2d(conv(layer.g, x), 2)
    beta = torch.softmax(query.flatten(2).transpose(1, 2) @ key.flatten(2), dim=-1)
    attended = (value.flatten(2) @ beta.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
    return layer.gamma * conv(layer.o, attended) + x


def projected(net: nn.Module, h: Tensor, labels: Tensor | None, slope: float = 0.0) -> Tensor:
    """The end of a projection discriminator."""
    features = activated(h, slope).sum((2, 3))
    logits = F.linear(features, weight(net.linear), net.linear.bias)[:, 0]
    return logits if labels is None else logits + (weight(net.embedding)[labels] * features).sum(1)


def settle(game: nn.Module, latent_dim: int, num_classes: int | None) -> None:
    """Some forwards, for running statistics and singular vectors that are worth something; then evaluation mode."""
    with torch.no_grad():
        for _ in range(10):
            labels = None if num_classes is None else torch.randint(num_classes, (8,))
            game.discriminator(game.generator(torch.randn(8, latent_dim, dtype=torch.float64), labels), labels)
    game.eval()


def assert_same_functions(game: nn.Module, z: Tensor, labels: Tensor | None, plain: tuple) -> None:
    """The players and their plain forms give the same images, logits and gradients of z and all parameters."""
    z.requires_grad_()
    results = []
    for make, judge in ((game.generator, game.discriminator), plain):
        images = make(z, labels)
        logits = judge(images, labels)
        gradients = torch.autograd.grad(logits.sum(), [z, *game.parameters()], allow_unused=True)
        results.append([images, logits, *gradients])
    assert all(gradient is not None for gradient in results[1])
    for ours, expected in zip(*results, strict=True):
        scale = expected.abs().max().clamp_min(1).item()
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9 * scale)
