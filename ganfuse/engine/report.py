"""One self-contained HTML page about a run: curves, how the samples came about, configuration, environment."""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.checkpoint import list_checkpoints
from ganfuse.engine.curves import Series, draw_curves
from ganfuse.engine.html_page import html_page
from ganfuse.engine.run_folder import RunFolder

__all__ = ["write_report"]

# Grids that are embedded: the first, the last, and others evenly between them.
_MOST_GRIDS = 24

_SCRIPT = """
const grids = [...document.querySelectorAll('#samples figure')];
const slider = document.querySelector('#samples input');
const show = () => grids.forEach((grid, i) => grid.hidden = i !== Number(slider.value));
slider.addEventListener('input', show);
show();
"""


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Writes the page; everything that it shows is inside it.

    Args:
        run: the run's folder.
        out: where to; by default report.html in the run's folder.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: no such folder, or it holds no run.
        ModuleNotFoundError: matplotlib is not installed.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    lines = _read_lines(folder.metrics_file)
    evaluations = _read_lines(folder.path / "evaluations.jsonl")
    target = Path(out) if out is not None else folder.path / "report.html"
    name = f"{config['game']['name']} on {(config.get('data') or {}).get('name', 'unnamed data')}"
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p class='quiet'>{html.escape(str(folder.path.resolve()))}</p>",
        _summary(config, lines, folder),
        _samples(folder.samples),
        _curves(lines, evaluations),
        _evaluations(evaluations),
        _tables(config),
    ]
    page = html_page(name, "".join(parts))
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(page.encode())
    return target


def _read_lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # half written by a run that goes on, or was killed
    return [line for line in found if isinstance(line, dict)]


def _summary(config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], folder: RunFolder) -> str:
    last = lines[-1] if lines else {}
    checkpoints = list_checkpoints(folder.checkpoints)
    steps = (config.get("trainer") or {}).get("steps")
    # A run may end between two lines of its log, or before the first.
    step = max(last.get("step", 0), checkpoints[-1].step if checkpoints else 0)
    facts = {"step": f"{step:,}" + (f" of {steps:,}" if isinstance(steps, int) else "")}
    if last:
        at = "" if last["step"] == step else f", at step {last['step']:,}"
        facts |= {
            f"images seen{at}": f"{last.get('images', 0):,}",
            f"time{at}": _clock(float(last.get("seconds", 0.0))),
            "images/s, latest": f"{last.get('images_per_second', 0.0):,.1f}",
        }
    facts["newest checkpoint"] = f"step {checkpoints[-1].step:,}" if checkpoints else "none"
    if last.get("skipped"):
        facts["steps left out"] = f"{last['skipped']:,}"
    tiles = "".join(
        f"<div><b>{html.escape(value)}</b><span class='quiet'>{html.escape(key)}</span></div>"
        for key, value in facts.items()
    )
    return f"<div class='tiles'>{tiles}</div>"


def _samples(folder: Path) -> str:
    grids = sorted(folder.glob("step_*.png"), key=lambda path: int(path.stem.removeprefix("step_")))
    if not grids:
        return "<h2>Samples</h2><p class='quiet'>none yet</p>"
    chosen = [grids[i] for i in _evenly(len(grids), _MOST_GRIDS)]
    figures = "".join(
        f"<figure><figcaption>step {int(path.stem.removeprefix('step_')):,}</figcaption>"
        f"<img alt='samples' src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'></figure>"
        for path in chosen
    )
    top = len(chosen) - 1
    slider = f"<input type='range' aria-label='step' min='0' max='{top}' value='{top}'>"
    return f"<h2>Samples</h2><div id='samples'>{slider}{figures}</div><script>{_SCRIPT}</script>"


def _evenly(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _curves(lines: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not lines:
        return "<h2>Curves</h2><p class='quiet'>nothing logged yet</p>"
    logged: dict[str, Series] = {}
    for line in lines:
        for key, value in line.get("losses", {}).items():
            place = _place_of(key)
            # Scores have figures of their own, from where they are written with their circumstances.
            if place is not None and not (evaluations and place[0] == "evaluation"):
                logged.setdefault(place[0], {}).setdefault(place[1], []).append((line["step"], value))
    speed: Series = {"images/s": [(line["step"], line.get("images_per_second")) for line in lines]}
    rates: Series = {}
    for line in lines:
        for player, rate in line.get("learning_rates", {}).items():
            rates.setdefault(player, []).append((line["step"], rate))
    scores: Series = {}
    for record in evaluations:
        for key, value in (record.get("scores") or {}).items():
            if isinstance(value, int | float):
                scores.setdefault(key, []).append((record.get("step", 0), float(value)))
    figures = {**logged, "throughput": speed, "learning rates": rates}
    drawn = [draw_curves(title, series) for title, series in figures.items() if series]
    drawn += [draw_curves(key, {key: values}) for key, values in scores.items() if len(values) > 1]
    return f"<h2>Curves</h2><div class='curves'>{''.join(drawn)}</div>"


def _place_of(key: str) -> tuple[str, str] | None:
    """In which figure a logged number stands, and under which name; None: in none."""
    turn, _, entry = key.partition("/")
    if turn == "collapse":
        kind = "logits" if entry.endswith("_logit") else "accuracy"
        return f"collapse monitor: {kind}", entry
    if turn == "singular_values":
        weight, _, index = entry.rpartition("/")
        network, _, layer = weight.partition(".")
        # The first of each weight tells; the others are in the log.
        return (f"first singular values: {network}", layer or weight) if index == "0" else None
    return turn, entry


def _evaluations(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    keys = list(dict.fromkeys(key for record in records for key in (record.get("scores") or {})))
    head = "".join(f"<th>{html.escape(key)}</th>" for key in ["step", *keys, "extractor", "images"])
    rows = []
    for record in records:
        scores = record.get("scores") or {}
        extractor = record.get("extractor")
        extractor = extractor.get("name") if isinstance(extractor, Mapping) else extractor
        cells = [record.get("step"), *(scores.get(key) for key in keys), extractor, record.get("num_fake")]
        rows.append("".join(f"<td>{html.escape(_text(cell))}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>Evaluations</h2><table><tr>{head}</tr>{body}</table>"


def _tables(config: Mapping[str, Any]) -> str:
    game = config.get("game") or {}
    sections = {
        "Model": game.get("config") or {},
        "Data": config.get("data") or {},
        "Trainer": config.get("trainer") or {},
        "Environment": config.get("versions") or {},
    }
    return "".join(f"<h2>{title}</h2>{_table(entries)}" for title, entries in sections.items() if entries)


def _table(entries: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(_text(value))}</td></tr>"
        for key, value in entries.items()
    )
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
