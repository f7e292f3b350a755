"""Walks between samples: in the space of latents z, of styles w, or between classes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.engine.latent_space import LatentSpace, latent_space
from ganfuse.engine.noise import Noise

__all__ = ["SPACES", "interpolate", "lerp", "slerp"]

SPACES = ("z", "w", "class")


def lerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Straight lines: (1 − t)·start + t·end for every t. start, end (D...), share (T,) → (T, D...)."""
    t: Tensor = share.to(start).view(-1, *[1] * start.dim())
    return start + t * (end - start)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Arcs: spherical interpolation (Shoemake 1985; for latents White 2016, arXiv 1609.04468, section 2.1).

    The norm moves from that of the start to that of the end, since a Gaussian's samples all have about the same norm,
    which the middle of a straight line has not. Where the two are parallel it is the straight line.

    Args:
        start, end: of any shape, (D...).
        share: t in [0, 1], (T,).

    Returns:
        (T, D...).
    """
    a, b = start.flatten(), end.flatten()
    norms = a.norm(), b.norm()
    cosine = (a @ b / (norms[0] * norms[1]).clamp_min(1e-12)).clamp(-1.0, 1.0)
    angle = torch.arccos(cosine)
    t = share.to(start).view(-1, 1)
    if bool(angle.sin() < 1e-4):
        return lerp(start, end, share)
    arc = (torch.sin((1.0 - t) * angle) * a / norms[0] + torch.sin(t * angle) * b / norms[1]) / angle.sin()
    moved: Tensor = arc * torch.lerp(norms[0], norms[1], t)
    return moved.view(len(share), *start.shape)


def interpolate(
    game: Game,
    *,
    walks: int = 8,
    steps: int = 8,
    space: str = "z",
    labels: Tensor | None = None,
    rng: torch.Generator | None = None,
    loop: bool = False,
    domain: str = "a",
) -> Tensor:
    """Images along walks, each from one sample to another. Inside a game's `truncated` they are truncated.

    Args:
        game: a game that draws images from noise.
        walks: how many.
        steps: images of each, both ends included.
        space: ``"z"``, along arcs between latents; ``"w"``, along lines between styles, for games that are
            `StyleBased` (see `ganfuse.engine.latent_space`); ``"class"``, along lines between the embeddings of
            classes, with the same latent; of `StyleBased` games between their styles. Text-to-image games have texts of
            their data for classes; between them are texts halfway (Reed et al. 2016, arXiv 1605.05396, section 4.3).
        labels: int64 (walks,), the class of each walk in z and w; for "class" (walks, 2): from which to which. None:
            drawn at random.
        rng: of latents and labels, on the CPU or the game's device.
        loop: come back: the walk goes on from the end to the beginning, 2·steps − 2 images, for endless animations.
        domain: "a" or "b": which images of a game that draws pairs. The same generator walks through their partners.

    Returns:
        (walks, T, C, H, W) in [-1, 1].

    Raises:
        ValueError: an argument is out of range, or the game has not what the space needs.
    """
    if space not in SPACES:
        raise ValueError(f"space: expected one of {', '.join(map(repr, SPACES))}, got {space!r}")
    if walks < 1 or steps < 2:
        raise ValueError(f"steps: expected at least 1 walk of at least 2 images, got {walks} of {steps}")
    if not isinstance(game, AdversarialGame):
        raise ValueError(f"game: {game.name!r} does not draw images from noise, so there is nothing to walk between")
    walker: Callable[..., Tensor]
    if space == "z":
        walker = partial(_walk_latents, latents=latent_space(game, domain=domain))
    elif space == "w":
        walker = _walk_styles
    else:
        walker = _walk_classes if getattr(game, "texts", None) is None else _walk_texts
    share = torch.linspace(0.0, 1.0, steps)
    if loop:
        share = torch.cat([share, share[1:-1].flip(0)])
    with evaluation_mode(game):
        images: Tensor = walker(game, walks, share, labels, Noise(rng))
    # Of networks that are growing, images are smaller than their samples.
    finished: Callable[[Tensor], Tensor] | None = getattr(game, "finished", None)
    return images if finished is None else torch.stack([finished(walk) for walk in images])


def _walk_latents(
    game: AdversarialGame, walks: int, share: Tensor, labels: Tensor | None, noise: Noise, *, latents: LatentSpace
) -> Tensor:
    chosen = _labels(game, walks, labels, noise)
    if chosen is None and latents.num_classes is not None:
        chosen = latents.draw_labels(walks, noise)  # texts
    start, end = game.draw_latents(2 * walks, noise).chunk(2)
    between = slerp if game.latent == "normal" else lerp
    found = []
    for walk in range(walks):
        z = between(start[walk], end[walk], share)
        found.append(latents.render(z, None if chosen is None else chosen[walk].expand(len(z))))
    return torch.stack(found)


def _walk_texts(game: AdversarialGame, walks: int, share: Tensor, labels: Tensor | None, noise: Noise) -> Tensor:
    _labels(game, walks, labels, noise)
    known: Tensor = torch.unique(game.texts, dim=0)  # type: ignore[arg-type]
    if len(known) < 2:
        raise ValueError(
            f"space: {game.name!r} knows {len(known)} texts of its data, so there are none to walk between"
        )
    pairs = _pairs(len(known), walks, noise).to(known.device)
    z = game.draw_latents(walks, noise)
    found = []
    for walk in range(walks):
        between = lerp(known[pairs[walk, 0]], known[pairs[walk, 1]], share)
        found.append(game.generator(z[walk].expand(len(share), *z.shape[1:]), between))
    return torch.stack(found)


def _walk_styles(game: AdversarialGame, walks: int, share: Tensor, labels: Tensor | None, noise: Noise) -> Tensor:
    mapping = _mapping_of(game)
    if mapping is None:
        raise ValueError(f"space: {game.name!r} has no styles w (no mapping network)")
    chosen = _labels(game, walks, labels, noise)
    z = game.draw_latents(2 * walks, noise)
    start, end = mapping(z, None if chosen is None else chosen.repeat(2)).chunk(2)
    return _between_styles(game, start, end, share)


def _mapping_of(game: AdversarialGame) -> nn.Module | None:
    """What makes styles of latents; None for a game that is not `StyleBased`."""
    mapping = getattr(game.generator, "mapping", None)
    return mapping if hasattr(game, "synthesize") and hasattr(game, "layers") else None


def _between_styles(game: Any, start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Images along the lines between w (walks, features) and w."""
    truncate = getattr(game, "truncate", None)
    found = []
    for first, last in zip(start, end):
        ws = lerp(first, last, share).unsqueeze(1).expand(-1, game.layers, -1)
        found.append(game.synthesize(ws if truncate is None else truncate(ws)))
    return torch.stack(found)


def _walk_classes(game: AdversarialGame, walks: int, share: Tensor, labels: Tensor | None, noise: Noise) -> Tensor:
    classes = torch.tensor(game.drawn_classes)
    if len(classes) < 2:
        raise ValueError(f"space: {game.name!r} was trained without classes, so there are none to walk between")
    device = next(game.parameters()).device
    pairs = classes[_pairs(len(classes), walks, noise).cpu()]
    if labels is not None:
        if labels.shape != (walks, 2):
            raise ValueError(f"labels: expected ({walks}, 2), from which class to which, got {tuple(labels.shape)}")
        pairs = labels
    z = game.draw_latents(walks, noise)
    mapping = _mapping_of(game)
    if mapping is not None:
        start, end = (mapping(z, labels) for labels in pairs.to(device).unbind(1))
        return _between_styles(game, start, end, share)
    found = []
    for walk, (first, second) in enumerate(pairs.tolist()):
        with _between_classes(game.generator, second, share.to(device)):
            found.append(
                game.generate(z[walk].expand(len(share), *z.shape[1:]), torch.full((len(share),), first, device=device))
            )
    return torch.stack(found)


def _pairs(count: int, walks: int, noise: Noise) -> Tensor:
    """Places from which to walk, and to which, which is another one: int64 (walks, 2)."""
    pairs = torch.stack([noise.integers(count, walks), noise.integers(count - 1, walks)], 1)
    pairs[:, 1] += pairs[:, 1] >= pairs[:, 0]
    return pairs


@contextmanager
def _between_classes(generator: nn.Module, other: int, share: Tensor) -> Iterator[None]:
    """Inside, what embeds a batch of labels gives points on the lines to the embedding of another label."""
    hooked = []

    def move(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if getattr(module, "_ganfuse_walking", False) or inputs[0].shape != share.shape:
            return None
        hooked.append(module)
        module._ganfuse_walking = True  # type: ignore[assignment]
        try:
            end = module(torch.full_like(inputs[0], other))
        finally:
            del module._ganfuse_walking
        return torch.lerp(output, end, share.to(output).view(-1, 1))

    handles = [m.register_forward_hook(move) for m in generator.modules() if isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not hooked:
        raise ValueError("space: the generator does not embed its labels by nn.Embedding, so classes cannot be mixed")


def _labels(game: AdversarialGame, walks: int, labels: Tensor | None, noise: Noise) -> Tensor | None:
    drawn = game.draw_labels(walks, noise)
    if labels is None:
        return drawn
    if drawn is None:
        raise ValueError("labels: this game has no classes; leave labels out")
    if labels.shape != (walks,):
        raise ValueError(f"labels: expected ({walks},), got {tuple(labels.shape)}")
    return labels.to(drawn)
