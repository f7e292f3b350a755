"""What `ganfuse sample` draws of text-to-image models: sentences, or embeddings of a file."""

import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine import Game

logger = logging.getLogger("ganfuse.sample")


def chosen_embeddings(
    run: Path | None, game: "Game", texts: Sequence[str] | None, file: Path | None
) -> "Tensor | None":
    """Embeddings (N, features) of the sentences, or of the file; None where neither is given.

    Args:
        run: whose data say by what sentences are embedded.
        texts: of words that `captioned:` sources embed; "each" alone: the names of the classes of the data.
        file: .npy, or .safetensors with a tensor "embeddings"; (features,), (N, features), or (N, captions, features),
            whose mean over the captions counts.

    Raises:
        CommandError: both, a game that draws no texts, another encoder's sentences, or a file that does not fit.
    """
    if not texts and file is None:
        return None
    option = "--text" if texts else "--embeddings"
    if texts and file is not None:
        raise CommandError("--text and --embeddings: give one of the two")
    if "embeddings" not in inspect.signature(game.sample).parameters:
        raise CommandError(f"{option}: {game.name} draws images of no texts")
    features = int((game.config or {})["embedding_dim"])
    if file is None:
        return _of_sentences(run, texts or (), features)
    found = _read(file)
    shape = tuple(found.shape)
    if found.ndim == 1:
        found = found[None]
    if found.ndim == 3:
        found = found.mean(1)
    if found.ndim != 2 or found.shape[1] != features or 0 in shape:
        raise CommandError(f"--embeddings: {file} has the shape {shape}, expected (N, {features})")
    return found


def _of_sentences(run: Path | None, texts: Sequence[str], features: int) -> "Tensor":
    from ganfuse.engine.data.captioned import PREFIX, class_captions, embed_words
    from ganfuse.engine.run_folder import RunFolder

    data: dict[str, Any] = (RunFolder(run).read_config().get("data") or {}) if run is not None else {}
    if not str(data.get("name", "")).startswith(PREFIX):
        raise CommandError(
            f"--text: {run} has embeddings of an encoder of its own, and only those of {PREFIX}SOURCE can be made here",
            hint="--embeddings FILE takes what that encoder makes of sentences; see examples/embed_captions.py",
        )
    names = [str(name) for name in data.get("class_names") or []]
    if list(texts) == ["each"] and names:
        texts = names
    known = _words(caption for name in names for caption in class_captions(name))
    strange = sorted(_words(texts) - known) if known else []
    if strange:
        logger.warning(
            "--text: no caption of the data has the words %s, so nothing is known of them", ", ".join(strange)
        )
    return embed_words(texts, features)


def _words(texts: Any) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}


def _read(file: Path) -> "Tensor":
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise FileNotFoundError(f"--embeddings: there is no file {file}")
    try:
        if file.suffix == ".npy":
            found = torch.from_numpy(np.load(file, allow_pickle=False))
        else:
            found = load_file(file)["embeddings"]
    except (SafetensorError, ValueError, TypeError, EOFError) as error:
        raise CommandError(f"--embeddings: {file} is neither .npy nor .safetensors ({error})") from error
    except KeyError as error:
        raise CommandError(f"--embeddings: {file} has no tensor 'embeddings'") from error
    if not found.is_floating_point():
        raise CommandError(f"--embeddings: {file} has {found.dtype}, expected floating point numbers")
    return found.float()
