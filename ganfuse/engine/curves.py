"""Curves of a run's numbers as SVG text, to stand inside a page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["Series", "draw_curves", "svg_of"]

Series = dict[str, list[tuple[int, float | None]]]
"""By the name of a curve: step and value; None where the value was not finite."""

# More points than pixels only make the page heavy.
_MOST_POINTS = 600
# More names than these hide the curves; then those that end highest have names and colours.
_MOST_NAMES = 8


def draw_curves(title: str, series: Mapping[str, Sequence[tuple[int, float | None]]]) -> str:
    """An <svg> element with one line per series over the step; long ones are averaged in bins, pale behind.

    Of very many series those that end highest are named, and the others are grey.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError("curves are drawn by matplotlib: pip install 'ganfuse[report]'") from error
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    named = _named(series)
    if len(named) < len(series):
        title = f"{title} (the highest of {len(series)})"
    for name, points in sorted(series.items(), key=lambda item: item[0] in named):
        steps, values = _finite(points)
        color = f"C{named.index(name)}" if name in named else "0.8"
        smooth_steps, smooth = _binned(steps, values)
        if len(smooth) < len(values):
            axes.plot(*_thinned(steps, values), color=color, alpha=0.2, linewidth=0.8)
        axes.plot(
            smooth_steps,
            smooth,
            color=color,
            linewidth=1.4,
            label=name if name in named else "_",
            marker="." if len(smooth) == 1 else "",
        )
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return svg_of(figure, title)


def _named(series: Mapping[str, Sequence[tuple[int, float | None]]]) -> list[str]:
    if len(series) <= _MOST_NAMES:
        return list(series)
    ends = {name: values[-1] for name, points in series.items() if (values := _finite(points)[1])}
    return sorted(ends, key=lambda name: -ends[name])[:_MOST_NAMES]


def svg_of(figure: Any, name: str) -> str:
    """A matplotlib figure as an <svg> element; `name` keeps its identifiers apart from those of others on the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Several drawings share a page: their identifiers must not meet.
    prefix = re.sub(r"\W", "", name) or "curves"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", svg)


def _finite(points: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    kept = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def _binned(steps: list[int], values: list[float], bins: int = 80) -> tuple[list[float], list[float]]:
    if len(values) <= bins:
        return [float(step) for step in steps], values
    edges = [round(i * len(values) / bins) for i in range(bins + 1)]
    parts = [(steps[a:b], values[a:b]) for a, b in pairwise(edges)]
    return [sum(s) / len(s) for s, _ in parts], [sum(v) / len(v) for _, v in parts]


def _thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    stride = -(-len(values) // _MOST_POINTS)
    return steps[::stride], values[::stride]
