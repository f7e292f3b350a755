"""Models as folders in the conventions of the Hugging Face Hub: config.json, model.safetensors, README.md."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ganfuse.engine import registry
from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.checkpoint import CheckpointError, load_tensors, unshared
from ganfuse.engine.game import Game
from ganfuse.engine.loading import load_run
from ganfuse.engine.options import resolve_device
from ganfuse.engine.run_folder import RunFolder, plain
from ganfuse.interop.export.staging import staged
from ganfuse.interop.model_card import SAMPLES, Card, training_facts
from ganfuse.version import __version__

__all__ = ["CONFIG", "WEIGHTS", "from_pretrained", "push_to_hub", "save_pretrained"]

#: The Hub counts downloads by the one, and shows the parameters of the other.
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1

Path_ = str | os.PathLike[str]


def save_pretrained(
    model: Game | Path_,
    folder: Path_,
    *,
    parts: Sequence[str] | None = None,
    weights: str = "ema",
    checkpoint: str | int = "latest",
    license: str | None = None,
    repo_id: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a folder that `from_pretrained` reads, here or from the Hub.

    The folder holds config.json (name and configuration of the model), model.safetensors (the tensors by their names in
    the game), README.md (a model card with its metadata) and, of a run, samples.png, the last samples of the training.

    Args:
        model: a game of a registered model, or the folder of a run; of a run the card tells how it was trained.
        folder: is made.
        parts: the networks to keep, such as ``["generator"]``; None: all, so that training can go on from them.
        weights, checkpoint: of a run, see `ganfuse.engine.load_run`.
        license: an identifier of the Hub, such as ``"apache-2.0"``; None: the card says none.
        repo_id: where the model will be on the Hub, for the example in the card.
        overwrite: replace a model in the folder.

    Returns:
        The folder.

    Raises:
        ValueError: names the argument; a game that cannot be built by name is refused.
        FileNotFoundError: there is no such run.
        FileExistsError: the folder holds a model already, or is a file.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    training = None
    if isinstance(model, Game):
        game = model
    else:
        game = load_run(model, weights=weights, checkpoint=checkpoint)
        training = training_facts(RunFolder(model), game, weights, checkpoint)
    if game.config is None:
        raise ValueError(
            f"model: the game {game.name!r} was made from its owner's networks, so nobody could build it by name; "
            "export_onnx and export_program take it"
        )
    kept = _kept(game, parts)
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"folder: {target} is a file, expected a folder")
    if (target / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"folder: {target} already holds a model; overwrite=True (--overwrite) replaces it")
    config = {
        "library_name": "ganfuse",
        "ganfuse_version": __version__,
        "format": FORMAT,
        "model": game.name,
        "config": plain(game.config),
        "parts": kept,
    }
    card = Card(game, kept, training, license=license, repo_id=repo_id)
    if card.class_names:
        config["class_names"] = card.class_names
    _write_weights(game, kept, target / WEIGHTS)
    picture = None if training is None else training.samples
    if picture is not None:
        _write(target / SAMPLES, picture.read_bytes())
    elif (target / SAMPLES).exists():
        (target / SAMPLES).unlink()
    _write(target / CARD, card.text().encode())
    # Last: whoever finds it finds the rest.
    _write(target / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
    return target


def from_pretrained(
    folder_or_repo_id: Path_,
    *,
    part: str | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    cache_dir: Path_ | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Any:
    """The game that `save_pretrained` wrote, with its weights, in evaluation mode.

    Networks that were left out begin with new weights.

    Args:
        folder_or_repo_id: a folder, or a repository of the Hub such as ``"someone/sagan-digits"``.
        part: give this network of it alone, such as ``"generator"``.
        device: where it goes.
        revision, cache_dir, force_download, local_files_only, token: of `huggingface_hub.hf_hub_download`.

    Raises:
        FileNotFoundError: there is no such folder, repository or revision, or a file is missing in it.
        ValueError: the files are damaged or do not fit together, or the model or the part is unknown.
        ModuleNotFoundError: a repository is named, and huggingface_hub is not installed.

    Example::

        game = ganfuse.interop.from_pretrained("someone/sagan-digits")
        images = game.sample(16, labels=list(range(10)) + [0] * 6)
    """
    options = {
        "revision": revision,
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
        "token": token,
    }
    target = resolve_device(device)
    found = _read_config(_find(folder_or_repo_id, CONFIG, options))
    try:
        game = registry.create(found["model"], **found["config"])
        kept = list(found["parts"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder_or_repo_id}: {CONFIG} is not that of a ganfuse model ({error!r})") from error
    if part is not None and part not in dict(game.named_modules()):
        raise ValueError(f"part: {game.name} has {', '.join(map(repr, _networks(game)))}, got {part!r}")
    if part is not None and part.partition(".")[0] in set(_networks(game)) - set(kept):
        raise ValueError(f"part: {part!r} was left out of {folder_or_repo_id}, which has {', '.join(map(repr, kept))}")
    _read_weights(game, kept, _find(folder_or_repo_id, WEIGHTS, options))
    game = game.to(target).eval()
    return game if part is None else game.get_submodule(part)


def push_to_hub(
    model: Game | Path_,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload a model of ganfuse",
    revision: str | None = None,
    create_pr: bool = False,
    **options: Any,
) -> str:
    """Uploads a model to the Hub, whose repository is made if need be.

    Args:
        model: what `save_pretrained` takes, or a folder that it wrote, whose files are uploaded as they are.
        repo_id: such as ``"someone/sagan-digits"``.
        private: make a new repository private.
        token: None: that of ``hf auth login``.
        commit_message, revision, create_pr: of the upload.
        **options: of `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        ValueError, FileNotFoundError, CheckpointError: see `save_pretrained`.
    """
    hub = _hub()
    is_saved = not isinstance(model, Game) and (Path(model) / CONFIG).is_file()
    if is_saved and options:
        raise ValueError(f"{next(iter(options))}: {model} was written already, with what it was written with")
    api = hub.HfApi(token=token, library_name="ganfuse", library_version=__version__)
    with tempfile.TemporaryDirectory() as temporary:
        if is_saved:
            folder = Path(os.fspath(model))  # type: ignore[arg-type]
        else:
            folder = save_pretrained(model, Path(temporary) / "model", repo_id=repo_id, **options)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=[CONFIG, WEIGHTS, CARD, SAMPLES],
        )
    return str(commit.commit_url)


def _networks(game: Game) -> list[str]:
    """The networks that the players move."""
    return list(dict.fromkeys(name for player in game.players() for name in player.modules))


def _kept(game: Game, parts: Sequence[str] | None) -> list[str]:
    networks = _networks(game)
    if parts is None:
        return networks
    if isinstance(parts, str):
        raise ValueError(f"parts: expected a list of names, got the string {parts!r}")
    unknown = [name for name in parts if name not in networks]
    if unknown or not parts:
        wrong = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"parts: {game.name} has {', '.join(map(repr, networks))}, got {wrong}")
    return [name for name in networks if name in parts]


def _is_kept(key: str, game_networks: Sequence[str], kept: Sequence[str]) -> bool:
    """Whether a tensor is saved: it is no network's (counters, the state of a growth), or one's that is kept."""
    owner = next((name for name in game_networks if key.startswith(f"{name}.")), None)
    return owner is None or owner in kept


def _write_weights(game: Game, kept: Sequence[str], path: Path) -> None:
    from safetensors.torch import save_file

    networks = _networks(game)
    tensors = {key: value for key, value in game.state_dict().items() if _is_kept(key, networks, kept)}
    with staged(path, overwrite=True) as temporary:
        # What other libraries look for: that tensors are PyTorch's.
        save_file(unshared(tensors), temporary, metadata={"format": "pt"})


def _read_weights(game: Game, kept: Sequence[str], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: the file is truncated or damaged ({error})") from error
    networks = _networks(game)
    new = {key: value for key, value in game.state_dict().items() if not _is_kept(key, networks, kept)}
    stray = [key for key in tensors if key in new]
    if stray:
        raise ValueError(f"{path}: holds {stray[0]}, of a network that {CONFIG} does not name among its parts")
    try:
        load_tensors(game, {**new, **tensors}, what=str(path))
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict) or found.get("library_name") != "ganfuse":
        raise ValueError(f"{path}: not the configuration of a ganfuse model")
    if found.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, found {found.get('format')!r}; a newer ganfuse wrote it")
    return found


def _find(name: Path_, file: str, options: Mapping[str, Any]) -> Path:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder}: has no {file}; expected what save_pretrained writes")
        return folder / file
    text = os.fspath(name)
    # The Hub's names: one / at most, and none of a path's beginnings.
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{text}: there is no such folder, and it is not the name of a repository (user/name)")
    hub = _hub()
    try:
        return Path(hub.hf_hub_download(text, file, library_name="ganfuse", library_version=__version__, **options))
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"{text}: there is no such folder, and the Hub gives no {file}: {first}") from error


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _hub() -> Any:
    try:
        import huggingface_hub  # type: ignore[import-not-found,unused-ignore]
        import huggingface_hub.errors  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the Hub needs huggingface_hub: pip install 'ganfuse[export]'") from error
    return huggingface_hub
