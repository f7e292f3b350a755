"""A data set that a classifier learns at once, and a game that draws from it or beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Game, Player, Turn

SIZE = 8


class Bars:
    """Noisy images, 1×8×8, of three classes: a bar at the left, in the middle, at the right."""

    name = "bars"
    channels = 1
    resolution = SIZE
    class_names = ("left", "middle", "right")
    num_classes = 3

    def __init__(self, length: int = 240, seed: int = 0, shares: Sequence[int] = (0, 1, 2)) -> None:
        self.labels = torch.tensor(shares).repeat(length)[:length]
        self.images = draw_bars(self.labels, torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class Unlabelled(Bars):
    """The same without classes."""

    num_classes = 1
    class_names = ("bar",)

    def __init__(self, length: int = 240, seed: int = 0) -> None:
        super().__init__(length, seed)
        self.labels = torch.zeros(length, dtype=torch.int64)


def draw_bars(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Bars of these classes, uint8 (B, 1, 8, 8)."""
    images = torch.randint(0, 60, (len(labels), 1, SIZE, SIZE), generator=generator)
    heights = torch.randint(2, SIZE + 1, (len(labels),), generator=generator).tolist()
    for image, label, height in zip(images, labels.tolist(), heights):
        image[0, :height, 3 * label : 3 * label + 2] += 150
    return images.to(torch.uint8)


class BarGame(Game):
    """Draws the bars themselves, blurred with gray by the share `gray`; remembers which labels it was asked for."""

    name = "bars"

    def __init__(self, gray: float = 0.0, num_classes: int | None = 3) -> None:
        super().__init__()
        self.generator = nn.Linear(1, 1)
        self.gray = gray
        self.num_classes = num_classes
        self.asked: list[int] = []

    def players(self) -> Sequence[Player]:
        return ()

    def turns(self) -> Sequence[Turn]:
        return ()

    def sample(self, n, *, labels=None, rng=None):
        chosen = torch.randint(3, (n,), generator=rng) if labels is None else labels
        self.asked += chosen.tolist()
        images = draw_bars(chosen, rng).float() / 127.5 - 1
        return images * (1 - self.gray)
