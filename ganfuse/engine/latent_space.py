"""The latent spaces of generators: where inversion looks for the latent of an image."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Game
from ganfuse.engine.noise import Noise

__all__ = ["LATENT_SPACES", "LatentSpace", "StyleBased", "frozen", "latent_space"]

LATENT_SPACES = ("z", "w", "w+")
DOMAINS = ("a", "b")
# Latents from which the centre and the spread of W are computed (Karras et al. 2020, StyleGAN2, appendix D).
_STATISTICS = 10_000
_AT_A_TIME = 1_000


class StyleBased(Protocol):
    """What a game has that gives the spaces W and W+, beside a `mapping` (z, labels) → w (B, F) in its generator.

    A game without it will do whose generator has a `synthesis` that is called with ws and ``noise_mode="const"`` and
    has the attribute `num_ws`.
    """

    @property
    def layers(self) -> int:
        """How many layers take a w, at present."""

    def synthesize(self, ws: Tensor) -> Tensor:
        """ws (B, layers, F) to images, a function of ws alone: noise inputs are constant."""


@dataclass(frozen=True)
class LatentSpace:
    """Latents of a generator and the images that they stand for.

    Attributes:
        name: "z", "w" or "w+".
        generator: whose parameters and mode `frozen` takes care of.
        draw: n latents (n, *shape) as the generator gets them in training, for labels (n,) or None.
        render: latents (n, *shape) and labels (n,) or None to images (n, C, H, W), differentiable.
        num_classes: None: the generator takes no labels.
        spread: standard deviation of the noise that explores with strength 1.
        bound: the prior is uniform in [-bound, bound]; None: it has no bounds.
        centre: the mean latent, (*shape), where a search may begin; None: there is none that means anything.
        classes: those that it has learnt, to try and to draw; None: all.
    """

    name: str
    generator: nn.Module
    draw: Callable[[int, Noise, Tensor | None], Tensor]
    render: Callable[[Tensor, Tensor | None], Tensor]
    num_classes: int | None = None
    spread: float = 1.0
    bound: float | None = None
    centre: Tensor | None = None
    classes: Sequence[int] | None = None

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.generator.parameters()).device

    @property
    def learnt_classes(self) -> Tensor:
        """The classes that it has learnt, int64, on the generator's device; none of a generator without labels."""
        classes = range(self.num_classes or 0) if self.classes is None else self.classes
        return torch.tensor(list(classes), dtype=torch.int64, device=self.device)

    def draw_labels(self, n: int, noise: Noise) -> Tensor | None:
        """Labels of learnt classes at random, int64 (n,); None for a generator without."""
        if self.num_classes is None:
            return None
        classes = self.learnt_classes
        return classes[noise.integers(len(classes), n).to(classes.device)]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, and parameters that want no gradients, inside; all as before afterwards.

    Evaluation mode matters: with batch statistics an image would depend on the other candidates of its batch.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    wants = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for module in modules:
            module.eval()
        # One by one: TorchScript modules have no requires_grad_ of their own.
        for parameter, _ in wants:
            parameter.requires_grad_(False)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)


def latent_space(game: Game, name: str = "z", *, domain: str = "a", rng: torch.Generator | None = None) -> LatentSpace:
    """A latent space of a game's generator.

    Args:
        game: an `AdversarialGame`, or any with its `generator`, `draw_latents` and `generate`.
        name: "z", what the generator is fed with. For games that are `StyleBased` also "w", what their mapping network
            makes of it, and "w+", a w of its own for each layer (Abdal et al. 2019, arXiv 1904.03189).
            Of a text-to-image model the texts that it keeps of its data (`texts`) are the classes.
        domain: "a" or "b": which images of a generator that makes one of each domain, as CoGAN's does.
        rng: for the latents from which the mean and the spread of W are computed.

    Raises:
        ValueError: an unknown space, a game that has no such space, or one that draws nothing from noise.
    """
    if name not in LATENT_SPACES:
        raise ValueError(f"space: expected one of {', '.join(map(repr, LATENT_SPACES))}, got {name!r}")
    if domain not in DOMAINS:
        raise ValueError(f"domain: expected one of {', '.join(map(repr, DOMAINS))}, got {domain!r}")
    if domain != DOMAINS[0] and "domain" not in inspect.signature(game.sample).parameters:
        raise ValueError(f"domain: {game.name} draws images of one domain, got {domain!r}")
    generator = getattr(game, "generator", None)
    draw_latents, generate = getattr(game, "draw_latents", None), getattr(game, "generate", None)
    if not isinstance(generator, nn.Module) or draw_latents is None or generate is None:
        raise ValueError(f"game: {game.name} has no generator that draws images from latents, so none to invert")
    texts: Tensor | None = getattr(game, "texts", None)
    if texts is not None:
        if name != "z":
            raise ValueError(f"space: {game.name} has no mapping network, so no space {name!r}; its space is 'z'")
        if not len(texts):
            raise ValueError(f"game: {game.name} has met no data yet, so there is no text to try")
        return _space_of_texts(generator, draw_latents, texts, bound=_bound(game))
    classes: int | None = getattr(game, "num_classes", None)
    learnt: Sequence[int] | None = getattr(game, "drawn_classes", None) if classes else None
    if name == "z":

        def draw(n: int, noise: Noise, labels: Tensor | None) -> Tensor:
            return draw_latents(n, noise)  # type: ignore[no-any-return]

        def draw_image(z: Tensor, labels: Tensor | None) -> Tensor:
            made = generate(z, labels)
            image: Tensor = made[DOMAINS.index(domain)] if isinstance(made, tuple) else made
            return image

        return LatentSpace("z", generator, draw, draw_image, classes, bound=_bound(game), classes=learnt)
    mapping = getattr(generator, "mapping", None)
    synthesize, layers = _synthesis(game, generator)
    if mapping is None or synthesize is None:
        raise ValueError(f"space: {game.name} has no mapping network, so no space {name!r}; its space is 'z'")

    def map_latents(n: int, noise: Noise, labels: Tensor | None) -> Tensor:
        w: Tensor = mapping(draw_latents(n, noise), labels)
        return w if name == "w" else w.unsqueeze(1).repeat(1, layers, 1)

    def render(latents: Tensor, labels: Tensor | None) -> Tensor:
        ws = latents if name == "w+" else latents.unsqueeze(1).expand(-1, layers, -1)
        return synthesize(ws)

    space = LatentSpace(name, generator, map_latents, render, classes, classes=learnt)
    with frozen(generator), torch.no_grad():
        noise = Noise(rng)
        parts = []
        for _ in range(0, _STATISTICS, _AT_A_TIME):
            labels = space.draw_labels(_AT_A_TIME, noise)
            parts.append(mapping(draw_latents(_AT_A_TIME, noise), labels))
        drawn = torch.cat(parts)
        mean = drawn.mean(0)
        # The length of a typical step from the mean, as in the projector of StyleGAN2 (appendix D).
        spread = float((drawn - mean).square().sum(1).mean().sqrt())
    centre = mean if name == "w" else mean.expand(layers, -1).clone()
    return replace(space, spread=spread, centre=centre)


def _bound(game: Game) -> float | None:
    return 1.0 if getattr(game, "latent", "normal") == "uniform" else None


def _space_of_texts(
    generator: nn.Module, draw_latents: Callable[[int, Noise], Tensor], texts: Tensor, *, bound: float | None
) -> LatentSpace:
    """z of a generator called with (z, texts), in which each text is a class."""

    def draw(n: int, noise: Noise, labels: Tensor | None) -> Tensor:
        return draw_latents(n, noise)

    def render(z: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        images: Tensor = generator(z, texts[labels])
        return images

    return LatentSpace("z", generator, draw, render, len(texts), bound=bound)


def _synthesis(game: Game, generator: nn.Module) -> tuple[Callable[[Tensor], Tensor] | None, int]:
    """What makes images of ws, and how many w it takes for each; None if there is no such thing."""
    own, layers = getattr(game, "synthesize", None), getattr(game, "layers", None)
    if own is not None and isinstance(layers, int):
        return own, layers
    synthesis = getattr(generator, "synthesis", None)
    layers = getattr(synthesis, "num_ws", None)
    if synthesis is None or not isinstance(layers, int):
        return None, 0
    return lambda ws: synthesis(ws, noise_mode="const"), layers
