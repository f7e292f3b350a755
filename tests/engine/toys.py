"""Small networks and data for the tests of the engine: all that makes resuming hard, in a few hundred weights."""

import torch
from torch import Tensor, nn

from ganfuse.engine import AdversarialGame

SIZE = 8


class ToyData:
    """In memory, with the interface of the library's data sets. Each class has a brightness of its own."""

    name = "toy"
    channels = 1
    resolution = SIZE

    def __init__(self, length: int = 22, num_classes: int = 3) -> None:
        generator = torch.Generator().manual_seed(5)
        self.labels = torch.arange(length) % num_classes
        noise = torch.randint(0, 40, (length, 1, SIZE, SIZE), generator=generator)
        self.images = (noise + 60 * self.labels.view(-1, 1, 1, 1)).to(torch.uint8)
        self.num_classes = num_classes
        self.class_names = tuple("abcdefghij"[:num_classes])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class ToyGenerator(nn.Module):
    """Labels, batch norm and dropout."""

    latent_dim = 4

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, 4)
        self.body = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, SIZE * SIZE), nn.Tanh()
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.body(torch.cat([z, self.embed(labels)], dim=1)).view(-1, 1, SIZE, SIZE)


class ToyDiscriminator(nn.Module):
    """Labels, dropout and the spectral norm of torch.nn.utils, whose u is state."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.utils.spectral_norm(nn.Conv2d(1, 8, 3, stride=2, padding=1)), nn.LeakyReLU(0.2), nn.Dropout(0.2)
        )
        self.out = nn.Linear(8 * 16, 1)
        self.embed = nn.Embedding(num_classes, 8 * 16)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(images).flatten(1)
        return self.out(features).squeeze(1) + (self.embed(labels) * features).sum(1)


class PlainGenerator(nn.Module):
    """Takes no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, SIZE * SIZE)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).tanh().view(-1, 1, SIZE, SIZE)


class PlainDiscriminator(nn.Module):
    """Takes no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE * SIZE, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)).squeeze(1)


def toy_game(init_seed: int = 0, **options: object) -> AdversarialGame:
    """A class-conditional game; two init seeds give different weights."""
    torch.manual_seed(init_seed)
    options.setdefault("num_classes", 3)
    return AdversarialGame(ToyGenerator(), ToyDiscriminator(), **options)  # type: ignore[arg-type]


def plain_game(**options: object) -> AdversarialGame:
    """A game without labels."""
    torch.manual_seed(0)
    options.setdefault("latent_dim", 4)
    return AdversarialGame(PlainGenerator(), PlainDiscriminator(), **options)  # type: ignore[arg-type]
