"""CycleGAN as it is written with plain PyTorch: modules of torch.nn, six translations, a step each for the two players.

The padding, the normalisation and the activation are modules of their own, every image goes through a network by
itself, the discriminators are frozen while the generators move, and their own step follows.
"""

import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganfuse.engine.game import Batch


class ResidualBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(features, features, 3),
            nn.InstanceNorm2d(features),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(features, features, 3),
            nn.InstanceNorm2d(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def make_generator(channels: int, width: int, blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), *_norm_relu(width)]
    for inputs in (width, 2 * width):
        layers += [nn.Conv2d(inputs, 2 * inputs, 3, 2, 1), *_norm_relu(2 * inputs)]
    layers += [ResidualBlock(4 * width) for _ in range(blocks)]
    for inputs in (4 * width, 2 * width):
        layers += [nn.ConvTranspose2d(inputs, inputs // 2, 3, 2, 1, 1), *_norm_relu(inputs // 2)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7), nn.Tanh())


def make_discriminator(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for inputs, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(inputs, 2 * inputs, 4, stride, 1), nn.InstanceNorm2d(2 * inputs), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


def _norm_relu(features: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(features), nn.ReLU(True)]


class ImagePool:
    """The last fifty images, a batch at a time; all that has to be random here."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.images: list[Tensor] = []
        self.random = random.Random(0)

    def exchange(self, images: Tensor) -> Tensor:
        shown = []
        for image in images.detach():
            if len(self.images) < self.capacity:
                self.images.append(image)
                shown.append(image)
            elif self.random.random() < 0.5:
                place = self.random.randrange(self.capacity)
                shown.append(self.images[place])
                self.images[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


class PlainCycleGAN:
    """The same step as `ganfuse.models.cyclegan`'s, from the same weights.

    Args:
        game: of `create("cyclegan", ...)`; its weights are copied.
        width, blocks: that it was made with.
    """

    def __init__(self, game: Any, *, width: int, blocks: int) -> None:
        channels = game.image_shape[0]
        parameter = next(game.parameters())
        networks = [make_generator(channels, width, blocks) for _ in "ab"]
        networks += [make_discriminator(channels, width) for _ in "ab"]
        originals = (game.generator_ab, game.generator_ba, game.discriminator_a, game.discriminator_b)
        for network, original in zip(networks, originals):
            network.to(parameter.device, parameter.dtype)
            with torch.no_grad():
                for mine, its in zip(network.parameters(), original.parameters(), strict=True):
                    mine.copy_(its)
        self.generator_ab, self.generator_ba, self.discriminator_a, self.discriminator_b = networks
        self.generators = [p for network in networks[:2] for p in network.parameters()]
        self.discriminators = [p for network in networks[2:] for p in network.parameters()]
        self.pools = ImagePool(50), ImagePool(50)
        self.optimizers = [
            torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))
            for parameters in (self.generators, self.discriminators)
        ]

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The generators' loss, and the generated images of A and B."""
        a, b = batch.images, batch.images_b
        assert b is not None
        fake_b, fake_a = self.generator_ab(a), self.generator_ba(b)
        cycle_a, cycle_b = self.generator_ba(fake_b), self.generator_ab(fake_a)
        loss = _squared_error(self.discriminator_b(fake_b), 1.0) + _squared_error(self.discriminator_a(fake_a), 1.0)
        loss = loss + 10.0 * (F.l1_loss(cycle_a, a) + F.l1_loss(cycle_b, b))
        identity = F.l1_loss(self.generator_ba(a), a) + F.l1_loss(self.generator_ab(b), b)
        return loss + 5.0 * identity, fake_a, fake_b

    def discriminator_loss(self, batch: Batch, fake_a: Tensor, fake_b: Tensor) -> Tensor:
        """The discriminators' loss on real images and what the pools show."""
        assert batch.images_b is not None
        loss: Tensor = torch.zeros((), dtype=fake_a.dtype, device=fake_a.device)
        for judge, pool, real, fake in (
            (self.discriminator_a, self.pools[0], batch.images, fake_a),
            (self.discriminator_b, self.pools[1], batch.images_b, fake_b),
        ):
            shown = pool.exchange(fake)
            loss = loss + 0.5 * (_squared_error(judge(real), 1.0) + _squared_error(judge(shown), 0.0))
        return loss

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and gradients of a step from the beginning, by player."""
        loss, fake_a, fake_b = self.generator_loss(batch)
        judged = self.discriminator_loss(batch, fake_a, fake_b)
        found = {"generators": loss.detach(), "discriminators": judged.detach()}
        found |= _named("generators", torch.autograd.grad(loss, self.generators))
        return found | _named("discriminators", torch.autograd.grad(judged, self.discriminators))

    def step(self, batch: Batch) -> None:
        """Both players' moves."""
        for parameter in self.discriminators:
            parameter.requires_grad_(False)
        loss, fake_a, fake_b = self.generator_loss(batch)
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        for parameter in self.discriminators:
            parameter.requires_grad_(True)
        self.optimizers[1].zero_grad()
        self.discriminator_loss(batch, fake_a, fake_b).backward()
        self.optimizers[1].step()


def _squared_error(logits: Tensor, target: float) -> Tensor:
    return F.mse_loss(logits, torch.full_like(logits, target))


def _named(player: str, gradients: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{player} {index}": gradient for index, gradient in enumerate(gradients)}
