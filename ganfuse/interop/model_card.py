"""The model card of a saved model: metadata for the Hub, how to use it, and how it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganfuse.engine.game import Game
from ganfuse.engine.metrics.evaluation_log import read_evaluations
from ganfuse.engine.run_folder import RunFolder
from ganfuse.engine.translation import TranslationGame
from ganfuse.models import ModelInfo, list_models, model_info
from ganfuse.models.gan_cls import TextToImageGame

__all__ = ["SAMPLES", "Card", "Training", "training_facts"]

SAMPLES = "samples.png"
_MANY_CLASSES = 20
_TRAINER_KEYS = ("batch_size", "accumulation", "precision", "seed", "flip")
#: As the Hub names them, and as readers do.
_METRICS = {"fid": "FID", "kid": "KID", "is": "Inception Score", "precision": "Precision", "recall": "Recall"}
#: Errors of translators, which need no features.
_OF_PIXELS = ("cycle_", "paired_")


@dataclass(frozen=True)
class Training:
    """What a run tells about its weights.

    Attributes:
        step: of the checkpoint.
        weights: "ema" or "raw".
        config: content of config.yaml.
        evaluations: records of these weights at that step.
        samples: the grid of that step, or else the newest before it.
    """

    step: int
    weights: str
    config: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]] = ()
    samples: Path | None = None


def training_facts(run: RunFolder, game: Game, weights: str, checkpoint: str | int) -> Training:
    """Reads them, of a run of that game.

    Raises:
        FileNotFoundError, ValueError, CheckpointError: as `ganfuse.engine.load_run`.
    """
    config = run.read_config()
    step = run.checkpoint(checkpoint).step
    averaged = bool(game.ema_targets())
    # Without averages both names are of the same weights.
    same = (weights,) if averaged else ("ema", "raw")
    evaluations = [
        record
        for record in read_evaluations(run)
        if record.get("step") == step and record.get("weights") in same and isinstance(record.get("scores"), dict)
    ]
    grids = sorted(path for path in run.samples.glob("step_*.png") if _step_of(path) <= step)
    return Training(step, weights if averaged else "raw", config, evaluations, grids[-1] if grids else None)


@dataclass(frozen=True)
class Card:
    """README.md of a saved model.

    Args:
        game: the model.
        parts: the networks that are saved.
        training: of a run; None: nothing is known.
        license: an identifier of the Hub; None: none is named.
        repo_id: where the model will be.
    """

    game: Game
    parts: Sequence[str]
    training: Training | None = None
    license: str | None = None
    repo_id: str | None = None
    info: ModelInfo | None = field(init=False)

    def __post_init__(self) -> None:
        known = self.game.name in list_models()
        object.__setattr__(self, "info", model_info(self.game.name) if known else None)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; empty where the run has none, or none but their numbers."""
        names = self._data.get("class_names") or []
        if len(names) != getattr(self.game, "num_classes", None):
            return []
        # Digits are called what they are numbered.
        return [] if all(str(name) == str(i) for i, name in enumerate(names)) else [str(name) for name in names]

    def text(self) -> str:
        """The whole file."""
        import yaml

        header = yaml.safe_dump(self.metadata(), sort_keys=False, allow_unicode=True)
        sections = (self._head(), self._usage(), self._training(), self._scores())
        return f"---\n{header}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"

    def metadata(self) -> dict[str, Any]:
        """What the Hub searches by."""
        found: dict[str, Any] = {"library_name": "ganfuse", "pipeline_tag": self._task}
        if self.license is not None:
            found["license"] = self.license
        found["tags"] = ["gan", "pytorch", "ganfuse", self.game.name]
        if self.info is not None and self.info.arxiv:
            found["tags"].append(f"arxiv:{self.info.arxiv}")
        results = self._results()
        if results:
            found["model-index"] = [{"name": self._title, "results": results}]
        return found

    @property
    def _task(self) -> str:
        if isinstance(self.game, TranslationGame):
            return "image-to-image"
        return "text-to-image" if isinstance(self.game, TextToImageGame) else "unconditional-image-generation"

    @property
    def _title(self) -> str:
        data = self._data.get("name")
        return self.game.name if data is None else f"{self.game.name} on {_plain_name(data)}"

    @property
    def _data(self) -> Mapping[str, Any]:
        return {} if self.training is None else self.training.config.get("data") or {}

    def _results(self) -> list[dict[str, Any]]:
        found = []
        for record in () if self.training is None else self.training.evaluations:
            data = _plain_name(record.get("data", "unknown"))
            metrics = [
                {"type": key, "value": value, "name": _described(key, record)}
                for key, value in record["scores"].items()
                if isinstance(value, int | float)
            ]
            found.append(
                {
                    "task": {"type": self._task},
                    "dataset": {"type": data, "name": data},
                    "metrics": metrics,
                }
            )
        return found

    def _head(self) -> str:
        lines = [f"# {self._title}", ""]
        if self.info is not None:
            paper = f"[{self.info.paper}]({self.info.url})" if self.info.url else self.info.paper
            lines.append(f"A {self.game.name} ({self.info.summary}) of *{paper}*, made with ganfuse.")
        else:
            lines.append(f"A {self.game.name}, made with ganfuse.")
        if self.training is not None and self.training.samples is not None:
            lines += ["", f"![Samples of the training]({SAMPLES})"]
        lines += ["", "| network | parameters |", "| --- | --- |"]
        for name in self.parts:
            count = sum(parameter.numel() for parameter in self.game.get_submodule(name).parameters())
            lines.append(f"| `{name}` | {count:,} |")
        return "\n".join(lines)

    def _usage(self) -> str:
        name = self.repo_id or "this/repository"
        code = ["import ganfuse.interop, torch", "", f'game = ganfuse.interop.from_pretrained("{name}")']
        notes = ["Images are float32 (B, C, H, W) in [-1, 1]."]
        game = self.game
        generators = [name for name in self.parts if name.startswith("generator")]
        if not generators:
            notes.append("No generator is among the networks: that of the game has new weights.")
        elif isinstance(game, TranslationGame):
            channels, size = game.image_shape[0], game.training_size
            way = "ab" if "generator_ab" in generators else "ba"
            back = f'; "{way[::-1]}" is the way back' if len(generators) > 1 else ""
            code.append(f'translated = game.translate(images, "{way}")  # (B, {channels}, H, W){back}')
            sides = f"are {game.least_size}" if game.one_size else f"are multiples of {game.size_multiple}"
            notes.append(f"Trained on images of {size}×{size}; sides {sides}.")
        elif isinstance(game, TextToImageGame):
            code.append(f"images = game.sample(16, embeddings=embeddings)  # (16, {game.generator.embedding_dim})")
            notes.append("Texts are embedded by the encoder that embedded those of the training data.")
        else:
            classes = getattr(game, "num_classes", None)
            takes_labels = classes is not None and getattr(game, "generator_takes_labels", False)
            code.append("images = game.sample(16, labels=0)" if takes_labels else "images = game.sample(16)")
            if takes_labels:
                notes.append(f"{classes} classes" + (f": {self._listed_classes()}." if self.class_names else "."))
        rest = (generators or list(self.parts))[:1]
        code += [f"network = game.{name}  # a torch.nn.Module" for name in rest]
        return "## Use\n\n```python\n" + "\n".join(code) + "\n```\n\n" + " ".join(notes)

    def _listed_classes(self) -> str:
        shown = ", ".join(f"{i} {name}" for i, name in enumerate(self.class_names[:_MANY_CLASSES]))
        more = len(self.class_names) - _MANY_CLASSES
        return shown + (f" and {more} more (in config.json)" if more > 0 else "")

    def _training(self) -> str:
        if self.training is None:
            return ""
        config, trainer = self.training.config, self.training.config.get("trainer") or {}
        rows: list[tuple[str, Any]] = []
        data = self._data
        if data:
            size = f", {data['length']:,} images" if isinstance(data.get("length"), int) else ""
            pixels = f", {data['resolution']} px" if data.get("resolution") else ""
            rows.append(("data", f"{_plain_name(data.get('name', 'unknown'))}{size}{pixels}"))
        rows.append(("steps", f"{self.training.step:,}"))
        rows += [(key, trainer[key]) for key in _TRAINER_KEYS if key in trainer]
        rows.append(("weights", "moving averages, where kept" if self.training.weights == "ema" else "as trained"))
        rows += [(name, version) for name, version in (config.get("versions") or {}).items()]
        table = "\n".join(f"| {key} | {value} |" for key, value in rows)
        return f"## Training\n\n| | |\n| --- | --- |\n{table}\n\nThe model's configuration is in config.json."

    def _scores(self) -> str:
        rows = []
        for record in () if self.training is None else self.training.evaluations:
            counts = f"{record.get('num_fake', '?')} generated, {record.get('num_real', '?')} real"
            for key, value in record["scores"].items():
                rows.append(f"| {_described(key, record)} | {value:.4g} | {counts} |")
        if not rows:
            return ""
        return "## Evaluation\n\n| metric | value | images |\n| --- | --- | --- |\n" + "\n".join(rows)


def _described(key: str, record: Mapping[str, Any]) -> str:
    """A metric's name with what its features are of: distances of different features do not compare."""
    extractor = record.get("extractor") or {}
    name = extractor.get("name")
    trained = f", trained on {_plain_name(extractor['trained_on'])}" if extractor.get("trained_on") else ""
    if key.startswith(_OF_PIXELS):
        return f"{key} (mean absolute difference of images in [-1, 1])"
    if key.startswith("accuracy"):
        return f"{key} (of the game's classifier)"
    return _METRICS.get(key, key) + (f" (features of: {name}{trained})" if name else "")


def _plain_name(source: Any) -> str:
    """A data source without the folders of the machine that it was on."""
    text = str(source)
    return Path(text).name if "/" in text or "\\" in text else text


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdecimal() else -1
