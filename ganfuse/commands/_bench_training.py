"""`ganfuse bench --train`: whole training steps of a model, with one speed feature more or less."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._settings import SUBJECTS, parse_assignments, sort_settings
from ganfuse.commands.train import create_game, default_data, supported_resolution

if TYPE_CHECKING:
    import torch

    from ganfuse.bench.training import Subject
    from ganfuse.engine.data.sources import DataKind

# Of the trainer's options, these are what variants are about, or belong to a run.
_BY_VARIANT = {
    "precision": "bf16 or fp16", "channels_last": "channels_last", "compile": "compile", "cuda_graphs": "cuda_graphs",
    "activation_checkpointing": "checkpointing", "accumulation": "accumulation=N",
}  # fmt: skip
_OF_A_RUN = ("steps", "kimg", "time_limit", "device", "shard_optimizer")
_FEW, _MANY, _PAIR = 8, 64, 1


def measure_model(
    model: str,
    data: str | None,
    variants: Sequence[str],
    assignments: Sequence[str],
    path: Path,
    device: "torch.device",
    *,
    seconds: float,
    command: str,
    restart: bool,
) -> list[dict[str, Any]]:
    """All records of the result file, with the rows of this measurement.

    Args:
        variants: as `parse_variants` takes them; none: those that may pay on the device.
        assignments: "key=value", as ``ganfuse train --set`` takes them.
        seconds: after which no further round begins.
    """
    from ganfuse.bench import records
    from ganfuse.bench.training import measure_training
    from ganfuse.bench.training_variants import default_variants, parse_variants

    chosen = parse_variants(variants or default_variants(device))
    subject = _subject(model, data, parse_assignments(assignments), device)
    try:
        # Everything between a command and a kernel takes part in a step.
        about = records.header("train", device, command, folder=".")
        results = records.ResultFile(path, about, restart=restart)
    except records.OtherRunError as error:
        raise CommandError(str(error), "--restart throws them away") from error
    measure_training(subject, chosen, results, device, seconds=seconds, say=lambda line: typer.echo(line, err=True))
    return results.records


def _subject(model: str, source: str | None, assigned: Mapping[str, Any], device: "torch.device") -> "Subject":
    from ganfuse.bench.training import Subject
    from ganfuse.engine.data import default_resolution, open_dataset
    from ganfuse.engine.options import option_names
    from ganfuse.models import model_info

    for key in assigned:
        if key in _BY_VARIANT:
            raise CommandError(f"--set {key}: that is for variants", f"--variants {_BY_VARIANT[key]},...")
        if key in SUBJECTS or key in _OF_A_RUN:
            raise CommandError(f"--set {key} has no meaning for a measurement")
    info = model_info(model)
    settings = sort_settings(assigned, trainer_keys=option_names(), game_keys=info.config)
    source = source or default_data(info.name)
    settings.data.setdefault("resolution", supported_resolution(default_resolution(source), info.resolutions))
    few = _PAIR if info.data_kind in ("unpaired", "paired") else _FEW if device.type == "cpu" else _MANY
    batch_size = settings.trainer.setdefault("batch_size", few)
    data = open_dataset(source, kind=cast("DataKind", info.data_kind), **settings.data)

    def game() -> Any:
        import torch

        torch.manual_seed(0)
        return create_game(info.name, info.config, settings, data)

    parameters = sum(parameter.numel() for parameter in game().parameters())
    own = {**settings.game, **{k: v for k, v in settings.trainer.items() if k != "batch_size"}}
    resolution = settings.data["resolution"]
    name = f"train/{info.name}/{source}/{resolution}/batch {batch_size}"
    name += "".join(f"/{key}={own[key]}" for key in sorted(own))
    sizes = {"data": source, "resolution": resolution, "batch": batch_size, **own, "parameters": f"{parameters:,}"}
    options = {**settings.trainer, "device": str(device), "progress": False}
    return Subject(name, info.name, sizes, game, data, options)
