"""Small models written the way public codebases write theirs, for the patches to find: same attributes, same behaviour.

None of it is their code; what a patch looks at is names of children, parameters and buffers, and what comes out.
"""

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit(vector: Tensor, eps: float) -> Tensor:
    return vector / vector.norm().clamp(min=eps)


class Normalising:
    """A weight divided by its largest singular value, in a method: buffers u0 and sv0 (the style of BigGAN-PyTorch)."""

    def start(self: Any, rows: int, num_svs: int = 1) -> None:
        self.num_svs, self.num_itrs, self.transpose, self.eps = num_svs, 1, False, 1e-8
        for i in range(num_svs):
            self.register_buffer(f"u{i}", torch.randn(1, rows))
            self.register_buffer(f"sv{i}", torch.ones(1))

    def W_(self: Any) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = unit(self.u0[0] @ matrix, self.eps)
            u = unit(matrix @ v, self.eps)
            if self.training:
                self.u0[0] = u
        sigma = u @ (matrix @ v)
        if self.training:
            self.sv0[0] = sigma.detach()
        return self.weight / sigma  # type: ignore[no-any-return]


class NormalisedConv(nn.Conv2d, Normalising):
    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, bias: bool = True, num_svs: int = 1) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)
        self.start(outputs, num_svs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W_(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormalisedLinear(nn.Linear, Normalising):
    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias)
        self.start(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W_(), self.bias)


class StoredConditionalNorm(nn.Module):
    """Conditional batch norm with the running statistics in buffers of its own."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain, self.bias = (
            NormalisedLinear(condition, channels, False),
            NormalisedLinear(condition, channels, False),
        )
        self.eps, self.momentum = 1e-5, 0.1
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        normal = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, self.eps)
        return normal * (1 + self.gain(y))[..., None, None] + self.bias(y)[..., None, None]


class StoredNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps, self.momentum = 1e-5, 0.1
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        momentum, eps = self.momentum, self.eps
        return F.batch_norm(x, self.stored_mean, self.stored_var, self.gain, self.bias, self.training, momentum, eps)


class ChildConditionalNorm(nn.Module):
    """Conditional batch norm around a layer of torch.nn (the style of StudioGAN)."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-4, affine=False)
        linear = functools.partial(nn.Linear, condition, channels, bias=False)
        self.gain, self.bias = (nn.utils.spectral_norm(linear(), eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = (1 + self.gain(y)).view(len(y), -1, 1, 1), self.bias(y).view(len(y), -1, 1, 1)
        return self.bn(x) * gain + bias


class PooledAttention(nn.Module):
    def __init__(self, channels: int, names: tuple[str, ...] = ("theta", "phi", "g", "o", "gamma"), conv: Any = None):
        super().__init__()
        conv = conv or functools.partial(NormalisedConv, kernel_size=1, bias=False)
        self.names = names
        sizes = (
            (channels, channels // 8),
            (channels, channels // 8),
            (channels, channels // 2),
            (channels // 2, channels),
        )
        for name, size in zip(names, sizes):
            setattr(self, name, conv(*size))
        setattr(self, names[4], nn.Parameter(torch.zeros(()) if names[4] == "gamma" else torch.zeros(1)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        query, key, value, output, factor = (getattr(self, name) for name in self.names)
        k, v = F.max_pool2d(key(x), 2).flatten(2), F.max_pool2d(value(x), 2).flatten(2)
        weights = (query(x).flatten(2).mT @ k).softmax(-1)
        return factor * output((v @ weights.mT).unflatten(2, x.shape[2:])) + x


class UpBlock(nn.Module):
    """A generator's residual block: norm, activation, ×2, convolution, norm, activation, convolution; shortcut."""

    def __init__(self, inputs: int, outputs: int, condition: int, norm: Any, conv: Any, activation: nn.Module) -> None:
        super().__init__()
        self.bn1, self.bn2 = norm(inputs, condition), norm(outputs, condition)
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.conv_sc = conv(inputs, outputs, 1)
        self.activation, self.upsample = activation, functools.partial(F.interpolate, scale_factor=2)
        self.learnable = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.activation(self.bn1(x, y))
        if self.upsample:
            h, x = self.upsample(h), self.upsample(x)
        h = self.conv2(self.activation(self.bn2(self.conv1(h), y)))
        return h + (self.conv_sc(x) if self.learnable else x)


class DownBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, conv: Any, activation: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv_sc = conv(inputs, outputs), conv(outputs, outputs), conv(inputs, outputs, 1)
        self.activation, self.downsample = activation, nn.AvgPool2d(2)

    def shortcut(self, x: Tensor) -> Tensor:
        return self.downsample(self.conv_sc(x))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.activation(self.conv1(F.relu(x))))
        return self.downsample(h) + self.shortcut(x)


class BigGenerator(nn.Module):
    """In the style of BigGAN-PyTorch, or, with `child`, of StudioGAN (whose activations are in place)."""

    def __init__(self, child: bool = False) -> None:
        super().__init__()
        if child:
            conv = lambda i, o, k=3: nn.utils.spectral_norm(nn.Conv2d(i, o, k, padding=k // 2), eps=1e-6)  # noqa: E731
            norm, last = ChildConditionalNorm, nn.BatchNorm2d(8)
            attention = PooledAttention(
                8, ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", "sigma"),
                lambda i, o: nn.utils.spectral_norm(nn.Conv2d(i, o, 1, bias=False)),
            )  # fmt: skip
        else:
            conv, norm, last, attention = NormalisedConv, StoredConditionalNorm, StoredNorm(8), PooledAttention(8)
        self.linear = NormalisedLinear(4, 8 * 4) if not child else nn.utils.spectral_norm(nn.Linear(4, 8 * 4))
        self.activation = nn.ReLU(inplace=child)
        blocks = [
            [UpBlock(8, 8, 5, norm, conv, self.activation), attention],
            [UpBlock(8, 8, 5, norm, conv, self.activation)],
        ]
        self.blocks = nn.ModuleList([nn.ModuleList(block) for block in blocks])
        self.output_layer = nn.Sequential(last, self.activation, conv(8, 3))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(z).view(-1, 8, 2, 2)
        for block in self.blocks:
            for layer in block:
                h = layer(h, y)
        return torch.tanh(self.output_layer(h))


class BigDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [
            DownBlock(3, 8, NormalisedConv, nn.ReLU()),
            PooledAttention(8),
            DownBlock(8, 8, NormalisedConv, nn.ReLU()),
        ]
        self.blocks = nn.ModuleList(blocks)
        self.linear = NormalisedLinear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.linear(F.relu(x).sum((2, 3)))


class AdaptiveLayerInstanceNorm(nn.Module):
    """The style of U-GAT-IT: rho, and gamma and beta given (or learnt), four-dimensional."""

    def __init__(self, channels: int, learnt: bool = False, unbiased: bool = True) -> None:
        super().__init__()
        self.eps, self.unbiased = 1e-5, unbiased
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.4))
        if learnt:
            self.gamma, self.beta = (
                nn.Parameter(torch.ones(1, channels, 1, 1)),
                nn.Parameter(torch.zeros(1, channels, 1, 1)),
            )

    def forward(self, x: Tensor, *styles: Tensor) -> Tensor:
        parts = []
        for dims in ((2, 3), (1, 2, 3)):
            var, mean = torch.var_mean(x, dims, keepdim=True, correction=int(self.unbiased))
            parts.append((x - mean) / (var + self.eps).sqrt())
        mixed = self.rho * parts[0] + (1 - self.rho) * parts[1]
        gamma, beta = (s[..., None, None] for s in styles) if styles else (self.gamma, self.beta)
        return mixed * gamma + beta


class StyledBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad1, self.conv1 = nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False)
        self.norm1, self.relu1 = AdaptiveLayerInstanceNorm(channels), nn.ReLU(True)
        self.pad2, self.conv2 = nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False)
        self.norm2 = AdaptiveLayerInstanceNorm(channels)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        out = self.relu1(self.norm1(self.conv1(self.pad1(x)), gamma, beta))
        return self.norm2(self.conv2(self.pad2(out)), gamma, beta) + x


class AttentiveTranslator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.DownBlock = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 6, 7, bias=False), nn.InstanceNorm2d(6), nn.ReLU(True)
        )
        self.gamma, self.beta = nn.Linear(6, 6), nn.Linear(6, 6)
        self.block = StyledBlock(6)
        self.UpBlock2 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(6, 4, 3, bias=False),
            AdaptiveLayerInstanceNorm(4, learnt=True), nn.ReLU(True), nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7),
            nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.DownBlock(x)
        style = h.mean((2, 3))
        return self.UpBlock2(self.block(h, self.gamma(style), self.beta(style)))


class ResidualTranslator(nn.Module):
    """The style of pytorch-CycleGAN-and-pix2pix: one Sequential, residual blocks around others."""

    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            half = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]  # noqa: E731
            self.conv_block = nn.Sequential(*half(), nn.ReLU(True), nn.Dropout(0.3), *half())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv_block(x)

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), nn.InstanceNorm2d(4), nn.ReLU(True),
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8), nn.ReLU(True), self.Residual(8),
            nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1), nn.InstanceNorm2d(4), nn.ReLU(True),
            nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PatchCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1, True), nn.Conv2d(8, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 4, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64, its gains and factors moved from 0 and 1, its power methods under way."""
    rng = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or parameter.shape[0] == 1:
                parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64), alpha=0.3)
        for buffer in itertools.chain(model.buffers()):
            if buffer.dim() == 2 and buffer.shape[0] == 1:
                buffer.copy_(F.normalize(buffer, dim=1))
    return model
