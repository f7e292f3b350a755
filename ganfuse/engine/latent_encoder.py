"""Encoders for inversion: networks that guess the latent of an image, trained on what a generator makes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.inversion import OnStep
from ganfuse.engine.latent_space import LatentSpace, frozen
from ganfuse.engine.layers import GroupNormAct2d
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32

__all__ = ["LatentEncoder", "train_encoder"]


class LatentEncoder(nn.Module):
    """Images (B, C, H, W) to latents (B, *latent_shape).

    4×4 convolutions with stride 2 until the maps are at most 4 places high and wide, each with group normalisation and
    leaky ReLU of slope 0.2, then a linear layer.

    Args:
        image_shape: (C, H, W).
        latent_shape: of a latent, such as (128,), or (layers, features) in W+.
        width: channels of the first convolution; doubled by each further one, up to eight times.

    Raises:
        ValueError: sizes that are not positive.
    """

    def __init__(self, image_shape: Sequence[int], latent_shape: Sequence[int], *, width: int = 32) -> None:
        super().__init__()
        for name, sizes in (("image_shape", image_shape), ("latent_shape", latent_shape), ("width", (width,))):
            if not sizes or any(size < 1 for size in sizes):
                raise ValueError(f"{name}: expected positive sizes, got {tuple(sizes)}")
        if len(image_shape) != 3:
            raise ValueError(f"image_shape: expected (C, H, W), got {tuple(image_shape)}")
        channels, height, side = image_shape
        self.image_shape = tuple(image_shape)
        self.latent_shape = tuple(latent_shape)
        self.blocks = nn.ModuleList()
        outputs = width
        while max(height, side) > 4:
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels, outputs, 4, stride=2, padding=1),
                    GroupNormAct2d(math.gcd(8, outputs), outputs, activation="leaky_relu"),
                )
            )
            channels, outputs = outputs, min(2 * outputs, 8 * width)
            height, side = max(1, height // 2), max(1, side // 2)
        self.linear = nn.Linear(channels * height * side, math.prod(latent_shape))

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images: expected (B, {', '.join(map(str, self.image_shape))}), got {tuple(images.shape)}"
            )
        h = images
        for block in self.blocks:
            h = block(h)
        latents: Tensor = self.linear(h.flatten(1))
        return latents.view(len(images), *self.latent_shape)


def train_encoder(
    encoder: nn.Module,
    space: LatentSpace,
    *,
    steps: int = 1000,
    batch_size: int = 16,
    lr: float = 1e-3,
    rng: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> float:
    """Trains an encoder on latents and the generator's images of them, E (E(G(z)) − z)², without any real image.

    What it has not seen are images that the generator cannot make: hence the search from its guess (`invert`).

    Args:
        encoder: images to latents; changed in place.
        space: where the latents are drawn. With classes they are of random ones, which the encoder is not told.
        steps, batch_size, lr: of Adam; the rate falls along half a cosine to 0.
        rng: of the latents.
        on_step: for progress.

    Returns:
        The mean loss over the last tenth of the steps.

    Raises:
        ValueError: names the argument.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected a positive number, got {value!r}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive learning rate, got {lr!r}")
    noise = Noise(rng)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=lr)
    was_training = encoder.training
    encoder.train()
    recent: list[Tensor] = []
    try:
        with frozen(space.generator):
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = lr * 0.5 * (1.0 + math.cos(math.pi * step / steps))
                with torch.no_grad():
                    labels = space.draw_labels(batch_size, noise)
                    latents = space.draw(batch_size, noise, labels)
                    images = space.render(latents, labels)
                loss = (at_least_float32(encoder(images)) - latents).square().mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                if step >= steps - max(1, steps // 10):
                    recent.append(loss.detach())
                if on_step is not None:
                    on_step(step + 1, float(loss.detach()))
    finally:
        optimizer.zero_grad(set_to_none=True)
        encoder.train(was_training)
    return float(torch.stack(recent).mean())
