"""`load` and `sources`: checkpoints of other codebases, by the codebase's name."""

import difflib
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from ganfuse.interop.network import Network, Source, fill
from ganfuse.interop.reading import ignore, read_file, tensors_of
from ganfuse.interop.source_list import SOURCES

__all__ = ["held_networks", "load", "read_network", "source_info", "sources"]


def sources() -> list[str]:
    """Names of the codebases whose checkpoints `load` reads."""
    return sorted(SOURCES)


def source_info(name: str) -> Source:
    """What there is to know about a source.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(str(name), SOURCES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"source: expected one of {', '.join(map(repr, sources()))}, got {name!r}{meant}")
    return SOURCES[name]


def load(
    source: str, checkpoint: str | os.PathLike[str] | Mapping[str, Any], part: str | None = None, **config: Any
) -> nn.Module:
    """A network of ganfuse with the weights of another codebase's checkpoint, in eval mode, on the CPU.

    In eval mode it computes what the original computes. It is called like all networks of ganfuse: a generator with
    ``(z, labels)``, labels being integers, images in [-1, 1]. Reading is strict: every tensor is used or on the list
    of what is left out (``source_info(source).ignored``). Nothing in a file is executed.

    Args:
        source: one of `sources()`.
        checkpoint: a file, or what it holds: the state dict of one network, or a dict of several.
        part: "generator" or "discriminator", or the network's own name where a file holds several. None: what a file of
            one network holds; of a network and its average, the average.
        config: what the tensors' shapes leave open; see ``source_info(source).keywords``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument is unknown, the file holds more than tensors and plain values, or the tensors do not
            fit the network; the message lists what either side lacks.

    Example::

        generator = ganfuse.interop.load("biggan-pytorch", "weights/G_ema.pth")
        images = generator(torch.randn(8, 120), torch.randint(1000, (8,)))
    """
    return fill(read_network(source, checkpoint, part, **config), source)


def read_network(
    source: str, checkpoint: str | os.PathLike[str] | Mapping[str, Any], part: str | None = None, **config: Any
) -> Network:
    """The module that `load` would fill, and what with."""
    info = source_info(source)
    if part is not None and part not in info.parts:
        raise ValueError(f"part: {source} has {', '.join(map(repr, info.parts))}, got {part!r}")
    for key in config:
        if key not in info.keywords:
            known = f"takes {', '.join(info.keywords)}" if info.keywords else "reads all of it from the tensors' shapes"
            raise ValueError(f"{key}: {source} {known}; there is no such keyword")
    found = checkpoint if isinstance(checkpoint, Mapping) else read_file(checkpoint)
    reader = import_module(f"ganfuse.interop.{info.home}")
    held = held_networks(found, info)
    beside: dict[str, Tensor] = {}
    if held:
        part = _chosen(held, part, info)
        own = [name for name, place in info.companions.items() if place == info.places[part]]
        given = {name: found[name] for name in own if isinstance(found.get(name), Tensor)}
        beside = tensors_of(given, info) if given else {}
        found = found[part]
    tensors = ignore(tensors_of(found, info), info)
    tensors |= beside
    try:
        network: Network = reader.read(tensors, part, dict(config))
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint: the tensors have names or shapes that are of no network of {source} ({error})"
        ) from error
    return network


def _chosen(held: list[str], part: str | None, info: Source) -> str:
    """Which of the networks in a file is meant: by its own name, or else by its kind."""
    names = ", ".join(map(repr, held))
    if part is None:
        if len({info.places[name] for name in held}) > 1:
            raise ValueError(f"part: this file holds several networks, {names}; say which")
        return held[-1]
    matching = [part] if part in held else [name for name in held if info.places[name] == part]
    if not matching:
        raise ValueError(f"part: the file holds {names}, got {part!r}")
    return matching[-1]


def held_networks(found: Mapping[str, Any], info: Source) -> list[str]:
    """Names of the networks in a file that holds several; empty for a state dict."""
    return [name for name in info.places if isinstance(found.get(name), Mapping)]
