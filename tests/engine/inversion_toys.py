"""Tiny generators, whose latents are known, for the tests of inversion."""

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame


class ToyGenerator(nn.Module):
    """z (B, 4), and labels if there are classes, to images (B, 1, 8, 8), by batch normalisation and two layers."""

    latent_dim = 4

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.hidden = nn.Linear(4, 24)
        self.norm = nn.BatchNorm1d(24)
        self.output = nn.Linear(24, 64)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, 24)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            self.norm.weight.fill_(1.0)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.norm(self.hidden(z))
        if self.embedding is not None and labels is not None:
            h = h + 2.0 * self.embedding(labels)
        return torch.tanh(self.output(nn.functional.leaky_relu(h, 0.2))).view(-1, 1, 8, 8)


class ToySynthesis(nn.Module):
    """ws (B, 3, 5), one w for each of three layers, to images (B, 1, 8, 8)."""

    num_ws = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.layers = nn.ModuleList(nn.Linear(5, 64) for _ in range(3))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        image = sum(torch.tanh(layer(ws[:, index])) for index, layer in enumerate(self.layers))
        if noise_mode == "random":
            image = image + torch.randn_like(image)
        return (0.5 * image).view(-1, 1, 8, 8)


class ToyMapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.tanh(self.layer(z)) + 0.5


class ToyStyleGenerator(nn.Module):
    """A generator with a mapping network and noise, as StyleGAN's."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.mapping = ToyMapping()
        self.synthesis = ToySynthesis()

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z).unsqueeze(1).expand(-1, 3, -1))


def toy_game(generator: nn.Module, **options: object) -> AdversarialGame:
    judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
    return AdversarialGame(generator, judge, name="toy", **options)
