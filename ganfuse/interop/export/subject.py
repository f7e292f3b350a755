"""What of a game leaves Python: a network, its inputs and outputs, and which of their sizes are open."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Game
from ganfuse.engine.noise import Noise
from ganfuse.engine.translation import TranslationGame
from ganfuse.interop.export.networks import (
    Encoding,
    Finish,
    FromLatents,
    FromLatentsAndLabels,
    FromTexts,
    Mapped,
    Rendered,
    Translation,
)
from ganfuse.models.bigan import BiGANGame
from ganfuse.models.cogan import CoGANGame
from ganfuse.models.gan_cls import TextToImageGame
from ganfuse.models.style_game import StyleGame
from ganfuse.models.style_generator import StyleGenerator
from ganfuse.version import __version__

__all__ = ["Axis", "Input", "Options", "Subject", "describe", "exportable_parts"]


@dataclass(frozen=True)
class Axis:
    """An open size: every multiple of `multiple` from `least` on."""

    name: str
    multiple: int = 1
    least: int = 1

    def up_to(self, size: int) -> int:
        """The largest that is not above `size`, or else the smallest."""
        return max(size // self.multiple * self.multiple, -(-self.least // self.multiple) * self.multiple)


@dataclass(frozen=True)
class Input:
    """An input of an exported network.

    Attributes:
        name: in the graph.
        draw: a sample of it, from the batch, the (height, width) of images, and a source of randomness.
        axes: open sizes by dimension.
        meaning: for whoever finds the file.
    """

    name: str
    draw: Callable[[int, tuple[int, int], Noise], Tensor]
    axes: Mapping[int, Axis]
    meaning: str


@dataclass(frozen=True)
class Options:
    """What is settled when a network is exported, since a graph has no keywords.

    Attributes:
        batch_size: None: any.
        size: (height, width) of images that come in; None: any that the network takes.
        truncation: ψ of style models; of BigGAN's kin the threshold that latents will be truncated at, for which
            statistics are collected.
        truncation_cutoff: of style models: truncate the first so many layers only; None: all.
        standing_statistics: batches that batch normalisation's statistics are collected from; None: 16 where truncated,
            else those of training.
        noise: "const" or "none", of style models.
    """

    batch_size: int | None = None
    size: tuple[int, int] | None = None
    truncation: float | None = None
    truncation_cutoff: int | None = None
    standing_statistics: int | None = None
    noise: str = "const"


@dataclass(frozen=True)
class Subject:
    """A network to export, as a function of tensors alone.

    Attributes:
        part: its name in the game.
        network: in evaluation mode, on the CPU.
        inputs, outputs: in order.
        size: (height, width) of images that come in, of training; no matter where none do.
        facts: strings that are stored in the file.
        prepared: a context within which the network has the statistics that it is to be exported with.
    """

    part: str
    network: nn.Module
    inputs: Sequence[Input]
    outputs: Sequence[str]
    size: tuple[int, int]
    facts: Mapping[str, str]
    prepared: Callable[[], AbstractContextManager[Any]] = field(default=ExitStack)

    def draw(self, batch: int, size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
        """Inputs for a batch of images of a size; always the same for the same seed."""
        noise = Noise(torch.Generator().manual_seed(seed))
        return tuple(each.draw(batch, size, noise) for each in self.inputs)

    @property
    def takes_images(self) -> bool:
        """Whether `size` is that of what comes in."""
        return any(each.name == "images" for each in self.inputs)

    @property
    def open_sizes(self) -> dict[str, Axis]:
        """The open sizes by name."""
        return {axis.name: axis for each in self.inputs for axis in each.axes.values()}


def exportable_parts(game: Game) -> list[str]:
    """Names of the networks that can be exported, the usual one first.

    Raises:
        ValueError: the game has none.
    """
    if isinstance(game, TranslationGame):
        return ["generator_ab", "generator_ba"]
    if not isinstance(game, AdversarialGame):
        raise ValueError(f"game: expected one that generates or translates images, got {type(game).__name__}")
    further = ["encoder"] if isinstance(game, BiGANGame) else []
    return ["generator", *(["mapping", "synthesis"] if isinstance(game, StyleGame) else further)]


def describe(game: Game, part: str | None, options: Options) -> Subject:
    """The network of a game to export.

    Raises:
        ValueError: there is no such part, or an option does not fit.
    """
    parts = exportable_parts(game)
    part = parts[0] if part is None else part
    if part not in parts:
        raise ValueError(
            f"part: {game.name} exports {', '.join(map(repr, parts))}, got {part!r}"
            + ("; discriminators serve training alone" if "discriminator" in part else "")
        )
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"batch_size: expected a positive number, or None for any, got {options.batch_size!r}")
    _require_sense(game, part, options)
    if isinstance(game, TranslationGame):
        return _translator(game, part, options)
    assert isinstance(game, AdversarialGame)
    if part == "encoder":
        return _encoder(game, options)
    return _generator(game, part, options)


def _require_sense(game: Game, part: str, options: Options) -> None:
    """Refuses options that the network has no use for."""
    style, narrowed = isinstance(game, StyleGame), hasattr(game, "truncated")
    steered = part == "generator" or (part == "mapping" and style)
    if options.truncation is not None and not (steered and (style or narrowed)):
        raise ValueError(f"truncation: {game.name}'s {part} has none")
    if options.truncation_cutoff is not None and not (steered and style and options.truncation is not None):
        raise ValueError("truncation_cutoff: has a meaning only with the truncation of a style model")
    if options.standing_statistics and not hasattr(game, "standing_statistics"):
        raise ValueError(f"standing_statistics: {game.name} does not collect statistics")
    if options.noise not in ("const", "none"):
        raise ValueError(
            f"noise: expected 'const' or 'none', got {options.noise!r}; a graph that draws cannot be compared"
        )
    if options.noise != "const" and not (style and part in ("generator", "synthesis")):
        raise ValueError(f"noise: {game.name}'s {part} has none")
    if options.size is not None and not (isinstance(game, TranslationGame) or part == "encoder"):
        raise ValueError(f"size: {game.name}'s {part} takes no images")


def _batch(options: Options) -> dict[int, Axis]:
    return {0: Axis("batch")} if options.batch_size is None else {}


def _translator(game: TranslationGame, part: str, options: Options) -> Subject:
    network = Translation(game.translator(part.removeprefix("generator_")))
    channels, size = game.image_shape[0], (game.training_size, game.training_size)
    axes = _batch(options)
    if options.size is not None:
        size = options.size
        for side in size:
            wrong = game.wrong_size(side)
            if wrong:
                raise ValueError(f"size: {wrong}")
    elif not game.one_size and min(size) > game.size_multiple:
        # Otherwise the innermost maps are of one pixel, and PyTorch records those for one pixel alone.
        axes[2] = Axis("height", game.size_multiple, game.least_size)
        axes[3] = Axis("width", game.size_multiple, game.least_size)
    sides = "height, width" if 2 in axes else f"{size[0]}, {size[1]}"
    meaning = f"images, float32 (batch, {channels}, {sides}), {'RGB order, ' if channels == 3 else ''}in [-1, 1]"
    if 2 in axes and game.size_multiple > 1:
        meaning += f"; sides are multiples of {game.size_multiple}"
    source = Input("images", _images(channels), axes, meaning)
    return Subject(part, network, [source], ["translated"], size, _facts(game, part, [source], options))


def _encoder(game: AdversarialGame, options: Options) -> Subject:
    channels, side = int(game.generator.channels), int(game.generator.resolution)  # type: ignore[arg-type]
    if options.size not in (None, (side, side)):
        raise ValueError(f"size: the encoder takes images of {side}×{side} alone, got {options.size!r}")
    source = Input(
        "images", _images(channels), _batch(options), f"images, float32 (batch, {channels}, {side}, {side}), in [-1, 1]"
    )
    facts = _facts(game, "encoder", [source], options)
    return Subject("encoder", Encoding(game.get_submodule("encoder")), [source], ["z"], (side, side), facts)


def _generator(game: AdversarialGame, part: str, options: Options) -> Subject:
    axes, given = _batch(options), game.generator_options()
    style = isinstance(game, StyleGame)
    growth = getattr(game, "growth", None)
    finish = Finish(_enlargement(growth), clamp=style or growth is not None)
    truncation = 1.0 if options.truncation is None else options.truncation
    if style:
        given = {
            **given,
            "truncation": truncation,
            "truncation_cutoff": options.truncation_cutoff,
            "noise_mode": options.noise,
        }
    text = f"latents, float32 (batch, {', '.join(map(str, game.latent_shape))}), "
    text += "from N(0, 1)" if game.latent == "normal" else "uniform in [-1, 1]"
    if not style and options.truncation is not None:
        text += f", truncated at {options.truncation:g}"
    inputs = [Input("z", lambda n, size, noise: game.draw_latents(n, noise), axes, text)]
    labelled = game.generator_takes_labels
    if labelled:
        classes = int(game.num_classes or 0)
        meaning = f"classes, int64 (batch,), from 0 to {classes - 1}"
        inputs.append(Input("labels", lambda n, size, noise: noise.integers(classes, n), axes, meaning))
    outputs = ["images"]
    network: nn.Module
    if part == "mapping":
        assert isinstance(game, StyleGame)
        assert isinstance(game.generator, StyleGenerator)
        network = Mapped(game.generator.mapping, game.layers, truncation, options.truncation_cutoff)
        outputs = ["ws"]
    elif part == "synthesis":
        assert isinstance(game, StyleGame)
        shape = (game.layers, int(game.generator.get_submodule("synthesis").style_features))  # type: ignore[arg-type]
        inputs = [Input("ws", _normal(*shape), axes, f"styles, float32 (batch, {shape[0]}, {shape[1]}), of each layer")]
        network = Rendered(game.generator.get_submodule("synthesis"), given, finish)
    elif isinstance(game, TextToImageGame):
        length = game.generator.embedding_dim
        meaning = f"of texts, float32 (batch, {length}), by the encoder of the training data"
        inputs.append(Input("embeddings", _normal(length), axes, meaning))
        network = FromTexts(game.generator, given, finish)
    else:
        network = (FromLatentsAndLabels if labelled else FromLatents)(game.generator, given, finish)
        outputs = ["images_a", "images_b"] if isinstance(game, CoGANGame) else outputs
    return Subject(
        part, network, inputs, outputs, (0, 0), _facts(game, part, inputs, options), _statistics(game, part, options)
    )


def _enlargement(growth: Any) -> int:
    """How many times the images of the present level are enlarged to the final size."""
    return 1 if growth is None else 1 << (growth.last - growth.level)


def _statistics(game: Any, part: str, options: Options) -> Callable[[], AbstractContextManager[Any]]:
    """Within: batch normalisation's statistics of latents as they will be drawn."""
    if part != "generator" or not (hasattr(game, "truncated") and hasattr(game, "standing_statistics")):
        return ExitStack
    batches = options.standing_statistics
    if batches is None:
        batches = 0 if options.truncation is None else 16

    def prepared() -> ExitStack:
        stack = ExitStack()
        if options.truncation is not None:
            stack.enter_context(game.truncated(options.truncation))
        if batches:
            stack.enter_context(game.standing_statistics(batches))
        return stack

    return prepared


def _images(channels: int) -> Callable[[int, tuple[int, int], Noise], Tensor]:
    def draw(n: int, size: tuple[int, int], noise: Noise) -> Tensor:
        return noise.uniform(n, channels, *size).mul(2.0).sub(1.0)

    return draw


def _normal(*shape: int) -> Callable[[int, tuple[int, int], Noise], Tensor]:
    return lambda n, size, noise: noise.normal(n, *shape)


def _facts(game: Game, part: str, inputs: Sequence[Input], options: Options) -> dict[str, str]:
    facts = {"ganfuse_version": __version__, "model": game.name, "part": part}
    facts.update((f"input.{each.name}", each.meaning) for each in inputs)
    for key in ("truncation", "truncation_cutoff"):
        if getattr(options, key) is not None:
            facts[key] = str(getattr(options, key))
    if isinstance(game, StyleGame):
        facts["noise"] = options.noise
    return facts
