"""StyleGAN2 as one writes it in plain PyTorch, with our parameters: what `benchmarks.stylegan2_turn` compares with.

Two ways of modulating: "demodulated" makes a weight for each sample only to know by how much the result is to be
scaled, and convolves the scaled input with the shared weight; "grouped" convolves with the samples' weights, as one
convolution with a group for each. Resampling inserts zeros, pads, and filters with a depthwise convolution. Noise, bias
and leaky ReLU, gain and limit follow one by one; the training loop has PyTorch's default Adam and a moving average
of one tensor after the other. Skip generator, residual discriminator, no classes.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.models.stylegan2 import StyleGAN2Game

FORMS = ("demodulated", "grouped")
_CLAMP = 256.0
_SQRT2, _SQRT_HALF = math.sqrt(2.0), math.sqrt(0.5)


def fir(x: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0), gain: float = 1.0) -> Tensor:
    """Zeros between the pixels, padding, the filter 1-3-3-1, every `down`-th pixel."""
    batch, channels, height, width = x.shape
    if up > 1:
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(batch, channels, height * up, width * up)
    x = F.pad(x, [*padding, *padding])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    kernel = (torch.outer(taps, taps) * gain).expand(channels, 1, 4, 4)
    x = F.conv2d(x, kernel, groups=channels)
    return x[:, :, ::down, ::down] if down > 1 else x


def activated(x: Tensor, bias: Tensor, gain: float = _SQRT2) -> Tensor:
    limit = _CLAMP * gain / _SQRT2
    return (F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * gain).clamp(-limit, limit)


def dense(layer: Any, x: Tensor, *, active: bool = False) -> Tensor:
    weight = layer.weight * (layer.lr_multiplier / math.sqrt(layer.weight.shape[1]))
    y = F.linear(x, weight, layer.bias * layer.lr_multiplier)
    return F.leaky_relu(y, 0.2) * _SQRT2 if active else y


def convolved(layer: Any, x: Tensor, *, down: int = 1) -> Tensor:
    weight = layer.weight / math.sqrt(layer.weight[0].numel())
    size = weight.shape[-1]
    if down == 1:
        return F.conv2d(x, weight, padding=size // 2)
    if size == 1:
        return F.conv2d(fir(x, down=2, padding=(1, 1)), weight)
    return F.conv2d(fir(x, padding=(2, 2)), weight, stride=2)


def modulated(x: Tensor, weight: Tensor, styles: Tensor, *, up: int, demodulate: bool, grouped: bool) -> Tensor:
    """The modulated convolution, without noise and bias."""
    batch, (outputs, inputs, size, _) = len(x), weight.shape
    of_samples = weight.unsqueeze(0) * styles.view(batch, 1, inputs, 1, 1)
    scales = (of_samples.square().sum((2, 3, 4)) + 1e-8).rsqrt() if demodulate else None
    if not grouped:
        x = _resampled(x * styles.view(batch, inputs, 1, 1), weight, up, 1)
        return x if scales is None else x * scales.view(batch, outputs, 1, 1)
    if scales is not None:
        of_samples = of_samples * scales.view(batch, outputs, 1, 1, 1)
    x = x.reshape(1, batch * inputs, *x.shape[2:])
    x = _resampled(x, of_samples.reshape(batch * outputs, inputs, size, size), up, batch)
    return x.reshape(batch, outputs, *x.shape[2:])


def _resampled(x: Tensor, weight: Tensor, up: int, groups: int) -> Tensor:
    if up == 1:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    kernel = weight.view(groups, outputs, inputs, 3, 3).transpose(1, 2).reshape(groups * inputs, outputs, 3, 3)
    return fir(F.conv_transpose2d(x, kernel, stride=2, groups=groups), padding=(1, 1), gain=4.0)


def synthesis_layer(layer: Any, x: Tensor, w: Tensor, *, up: int, grouped: bool) -> Tensor:
    x = modulated(x, layer.weight, dense(layer.affine, w), up=up, demodulate=True, grouped=grouped)
    noise = torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    return activated(x + noise * layer.noise_strength, layer.bias)


def image_layer(layer: Any, x: Tensor, w: Tensor, *, grouped: bool) -> Tensor:
    styles = dense(layer.affine, w) / math.sqrt(layer.weight.shape[1])
    x = modulated(x, layer.weight, styles, up=1, demodulate=False, grouped=grouped)
    return (x + layer.bias.view(1, -1, 1, 1)).clamp(-_CLAMP, _CLAMP)


class PlainTraining:
    """Two players with copies of a game's networks, their optimisers and the generator's moving average.

    Args:
        game: an unconditional game of the skip and residual architectures.
        form: one of `FORMS`.
    """

    def __init__(self, game: StyleGAN2Game, form: str) -> None:
        self.grouped = form == "grouped"
        self.generator = copy.deepcopy(game.generator)
        self.discriminator = copy.deepcopy(game.discriminator)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.r1_gamma, self.r1_interval = game.penalties["r1"], game.penalty_interval
        self.path_weight, self.path_interval = game.path_length_weight, game.path_length_interval
        self.path_mean = game.path_length_mean.value.clone()
        self.mapping_mean = torch.zeros_like(self.generator.mapping.get_buffer("w_avg.value"))
        generator_share = self.path_interval / (self.path_interval + 1)
        discriminator_share = self.r1_interval / (self.r1_interval + 1)
        self.generator_adam = _adam(self.generator, generator_share)
        self.discriminator_adam = _adam(self.discriminator, discriminator_share)

    def styles(self, z: Tensor, mixed: tuple[Tensor, Tensor]) -> Tensor:
        w = self._map(z)
        self.mapping_mean.copy_(w.detach().mean(0).lerp(self.mapping_mean, 0.995))
        ws = w.unsqueeze(1).repeat(1, self.generator.synthesis.num_ws, 1)
        second, crossover = mixed
        layer = torch.arange(ws.shape[1], device=w.device).view(1, -1, 1)
        return torch.where(layer < crossover, ws, self._map(second).unsqueeze(1))

    def _map(self, z: Tensor) -> Tensor:
        mapping = self.generator.mapping
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for index in range(mapping.num_layers):
            w = dense(mapping.get_submodule(f"fc{index}"), w, active=True)
        return w

    def synthesis(self, ws: Tensor) -> Tensor:
        image: Tensor | None = None
        x = torch.empty(0)
        for index, block in enumerate(self.generator.synthesis.blocks):
            if index == 0:
                x = block.const.unsqueeze(0).repeat(len(ws), 1, 1, 1)
                x = synthesis_layer(block.conv1, x, ws[:, 0], up=1, grouped=self.grouped)
                image = image_layer(block.torgb, x, ws[:, 1], grouped=self.grouped)
                continue
            assert image is not None
            x = synthesis_layer(block.conv0, x, ws[:, 2 * index - 1], up=2, grouped=self.grouped)
            x = synthesis_layer(block.conv1, x, ws[:, 2 * index], up=1, grouped=self.grouped)
            image = fir(image, up=2, padding=(2, 1), gain=4.0)
            image = image + image_layer(block.torgb, x, ws[:, 2 * index + 1], grouped=self.grouped)
        assert image is not None
        return image

    def logits(self, images: Tensor) -> Tensor:
        net = self.discriminator
        first = net.blocks[0].fromrgb
        x = activated(convolved(first, images), first.bias)
        for block in net.blocks:
            shortcut = convolved(block.skip, x, down=2) * _SQRT_HALF
            x = activated(convolved(block.conv0, x), block.conv0.bias)
            x = shortcut + activated(convolved(block.conv1, x, down=2), block.conv1.bias, 1.0)
        size = min(int(net.epilogue.mbstd.group_size), len(x))
        groups = x.reshape(size, -1, *x.shape[1:])
        deviation = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, deviation.repeat(size).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)
        x = activated(convolved(net.epilogue.conv, x), net.epilogue.conv.bias)
        return dense(net.epilogue.out, dense(net.epilogue.fc, x.flatten(1), active=True)).squeeze(1)

    def generator_loss(self, z: Tensor, mixed: tuple[Tensor, Tensor]) -> Tensor:
        return F.softplus(-self.logits(self.synthesis(self.styles(z, mixed)))).mean()

    def discriminator_loss(self, images: Tensor, z: Tensor, mixed: tuple[Tensor, Tensor]) -> Tensor:
        with torch.no_grad():
            fakes = self.synthesis(self.styles(z, mixed))
        return F.softplus(-self.logits(images)).mean() + F.softplus(self.logits(fakes)).mean()

    def penalty_loss(self, images: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        (slope,) = torch.autograd.grad([self.logits(images).sum()], [images], create_graph=True)
        return self.r1_interval * self.r1_gamma / 2 * slope.square().sum((1, 2, 3)).mean()

    def path_length_loss(self, z: Tensor, mixed: tuple[Tensor, Tensor], directions: Tensor) -> Tensor:
        ws = self.styles(z, mixed)
        images = self.synthesis(ws)
        scaled = directions / math.sqrt(images.shape[2] * images.shape[3])
        (slope,) = torch.autograd.grad([(images * scaled).sum()], [ws], create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        loss = self.path_interval * self.path_weight * (lengths - self.path_mean).square().mean()
        self.path_mean.copy_(lengths.detach().mean().lerp(self.path_mean, 0.99))
        return loss

    def step(self, player: str, loss: Tensor) -> float:
        """Moves a player along the loss, that was computed with the other one frozen."""
        loss.backward()
        adam = self.generator_adam if player == "generator" else self.discriminator_adam
        adam.step()
        adam.zero_grad()
        return loss.item()

    def freeze_all_but(self, player: str) -> None:
        for name, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            network.requires_grad_(name == player)

    @torch.no_grad()
    def update_average(self) -> None:
        for average, parameter in zip(self.average.parameters(), self.generator.parameters()):
            average.copy_(parameter.lerp(average, 0.999))
        for average, buffer in zip(self.average.buffers(), self.generator.buffers()):
            average.copy_(buffer)


def _adam(network: nn.Module, share: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=0.002 * share, betas=(0.0, 0.99**share), eps=1e-8)
