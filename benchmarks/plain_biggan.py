"""BigGAN as one writes it in plain PyTorch, with the state dict of ours: what `benchmarks.biggan_turn` compares with.

Resampling beside the convolutions, each layer's own spectral norm (`torch.nn.utils.spectral_norm`), batch normalisation
times gain plus bias and then a ReLU, attention by two matrix products; a training loop with PyTorch's default Adam and
a moving average of one tensor after the other.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ganfuse.models.biggan import Discriminator, Generator

_EPS = 1e-6


def _conv(like: nn.Conv2d) -> nn.Conv2d:
    size = like.kernel_size[0]
    conv = nn.Conv2d(like.in_channels, like.out_channels, size, padding=size // 2, bias=like.bias is not None)
    return spectral_norm(conv, eps=_EPS)


def _linear(like: nn.Linear) -> nn.Linear:
    return spectral_norm(nn.Linear(like.in_features, like.out_features, bias=like.bias is not None), eps=_EPS)


class _ConditionalNorm(nn.Module):
    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.gain = _linear(like.gain)
        self.bias = _linear(like.bias)
        self.eps = like.eps
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(like, name).clone())

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        y = F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, 0.1, self.eps)
        return F.relu(y * gain[:, :, None, None] + bias[:, :, None, None])


class _Attention(nn.Module):
    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.o = (_conv(layer) for layer in (like.theta, like.phi, like.g, like.o))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)
        key, value = F.max_pool2d(self.phi(x), 2).flatten(2), F.max_pool2d(self.g(x), 2).flatten(2)
        beta = F.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
        attended = torch.bmm(value, beta.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
        return self.gamma * self.o(attended) + x


class _Block(nn.Module):
    """What the residual blocks of both players have."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(like.conv1), _conv(like.conv2)
        self.conv_sc = None if like.conv_sc is None else _conv(like.conv_sc)


class _UpBlock(_Block):
    def __init__(self, like: nn.Module) -> None:
        super().__init__(like)
        self.bn1, self.bn2 = _ConditionalNorm(like.bn1), _ConditionalNorm(like.bn2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(self.bn1(x, condition), scale_factor=2))
        return self.conv2(self.bn2(h, condition)) + self.conv_sc(F.interpolate(x, scale_factor=2))


class _DownBlock(_Block):
    def __init__(self, like: nn.Module) -> None:
        super().__init__(like)
        self.preactivation = like.preactivation
        self.downsample = like.downsample

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(F.relu(x) if self.preactivation else x)))
        shortcut = x if self.conv_sc is None else self.conv_sc(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if self.downsample else h + shortcut


class PlainGenerator(nn.Module):
    """Built after one of ours; its weights are copied."""

    def __init__(self, like: Generator) -> None:
        super().__init__()
        self.shared = nn.Embedding(*like.shared.weight.shape)
        self.linear = _linear(like.linear)
        self.piece = like.piece
        self.blocks = nn.ModuleList(_UpBlock(block) for block in like.blocks)
        self.attention_after = like.attention_after
        self.attention = None if like.attention is None else _Attention(like.attention)
        self.output_bn = nn.BatchNorm2d(like.output_bn.num_features)
        self.output_conv = _conv(like.output_conv)
        self.load_state_dict(like.state_dict())

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        first, *pieces = torch.split(z, self.piece, 1)
        embedded = self.shared(labels)
        # Channels fastest, as ours, so that the weights mean the same.
        h = self.linear(first).view(z.shape[0], 4, 4, -1).permute(0, 3, 1, 2).contiguous()
        for index, (block, piece) in enumerate(zip(self.blocks, pieces)):
            h = block(h, torch.cat([embedded, piece], 1))
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        return torch.tanh(self.output_conv(F.relu(self.output_bn(h))))


class PlainDiscriminator(nn.Module):
    """Built after one of ours; its weights are copied."""

    def __init__(self, like: Discriminator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_DownBlock(block) for block in like.blocks)
        self.attention_after = like.attention_after
        self.attention = None if like.attention is None else _Attention(like.attention)
        self.linear = _linear(like.linear)
        self.embedding = spectral_norm(nn.Embedding(*like.embedding.weight_orig.shape), eps=_EPS)
        self.load_state_dict(like.state_dict())

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = images
        for index, block in enumerate(self.blocks):
            h = block(h)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        features = F.relu(h).sum((2, 3))
        return self.linear(features).squeeze(1) + (self.embedding(labels) * features).sum(1)


class PlainTraining:
    """Two players, their optimisers and the generator's moving average.

    Args:
        generator, discriminator: ours, to be built after.
        dtype: of autocast; None: no autocast.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator, dtype: torch.dtype | None = None) -> None:
        device = next(generator.parameters()).device
        self.generator = PlainGenerator(generator).to(device).train()
        self.discriminator = PlainDiscriminator(discriminator).to(device).train()
        if dtype is not None:
            for network in (self.generator, self.discriminator):
                network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(PlainGenerator(generator).to(device).requires_grad_(False))
        settings = {"betas": (0.0, 0.999), "eps": 1e-6}
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), lr=5e-5, **settings)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, **settings)
        self.autocast = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def discriminator_loss(self, images: Tensor, labels: Tensor, z: Tensor, fake_labels: Tensor) -> Tensor:
        with torch.no_grad():
            fakes = self.generator(z, fake_labels)
        logits = self.discriminator(torch.cat([images, fakes.to(images.dtype)]), torch.cat([labels, fake_labels]))
        real, fake = logits.chunk(2)
        return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()

    def generator_loss(self, z: Tensor, labels: Tensor) -> Tensor:
        return -self.discriminator(self.generator(z, labels), labels).mean()

    def turn(self, images: Tensor, labels: Tensor, draws: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Each player moves once. Draws: latents and labels for the discriminator's turn, and for the generator's."""
        _require_grad(self.generator, False)
        with self.autocast:
            first = self.discriminator_loss(images, labels, *draws[0])
        first.backward()
        self.discriminator_adam.step()
        self.discriminator_adam.zero_grad()
        _require_grad(self.generator, True)
        _require_grad(self.discriminator, False)
        with self.autocast:
            second = self.generator_loss(*draws[1])
        second.backward()
        self.generator_adam.step()
        self.generator_adam.zero_grad()
        _require_grad(self.discriminator, True)
        with torch.no_grad():
            state = self.generator.state_dict()
            for name, average in self.average.state_dict().items():
                average.copy_(average * 0.9999 + state[name] * (1 - 0.9999))
        return first.item(), second.item()


def _require_grad(module: nn.Module, requires_grad: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(requires_grad)
