"""Curves: losses over training steps, the error of each predicted step, growth with size.

Every line carries its name at its right end, so that no legend is needed.

Read next: style.py (colours and files); training/pictures.py and
experiments/report_page.py, which call this.
"""

from __future__ import annotations

import os
from itertools import cycle

import numpy as np

from ..errors import DataError
from . import style
from .style import FAINT, GRID, INK, PALETTE, own_settings, write_caption, write_figure


def series_from_rows(rows: list[dict], names: list[str]) -> dict[str, tuple[list, list]]:
    """Turn rows of metrics.jsonl into curves: {name: (steps, values)} for each name that occurs.

    A row is a dict with "step" and the numbers measured at that step. A row that lacks a name is
    skipped for that curve, because validation is rarer than training.
    """
    found = {name: [row for row in rows if name in row] for name in names}
    return {
        name: ([row["step"] for row in having], [row[name] for row in having])
        for name, having in found.items()
        if having
    }


@own_settings()
def plot_curves(
    series: dict[str, tuple],
    path: str | os.PathLike,
    baselines: dict[str, float] | None = None,
    ylabel: str = "nats per frame",
    xlabel: str = "step",
    caption: str = "",
) -> None:
    """Draw curves {name: (steps, values)}, and baselines {name: value} as dashed lines.

    The scale is logarithmic where values span more than a factor of ten. A NaN leaves a gap. Raises
    DataError if no value is finite, and RunError if the file can't be written.
    """
    lines = {name: (np.asarray(x), np.asarray(y, float)) for name, (x, y) in series.items()}
    figure, axes = _axes(xlabel, ylabel, [y for _, y in lines.values()], baselines or {})
    ends = []
    for (name, (x, y)), (colour, dash) in zip(lines.items(), _styles(), strict=False):
        lone = "o" if len(x) == 1 else None  # a line through one point can't be seen
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=2.2, marker=lone)
        ends.append((_last_finite(y), name, colour))
    for name, value in (baselines or {}).items():
        axes.axhline(value, color=FAINT, linestyle="--", linewidth=1.5)
        ends.append((value, name, FAINT))
    axes.margins(x=0)
    _name_lines(axes, ends)
    write_caption(figure, caption)
    write_figure(figure, path)


@own_settings()
def per_step_curve(
    series: dict[str, np.ndarray],
    path: str | os.PathLike,
    baselines: dict[str, np.ndarray] | None = None,
    ylabel: str = "nats per frame",
) -> None:
    """Draw the error of each predicted step: {name: (T,)}, with baselines dashed.

    Step 1 is the first predicted frame. The free-running and the teacher-forced curve of a model
    separate here: teacher forcing hides the errors that a free-running model accumulates. Raises
    DataError if no value is finite, and RunError if the file can't be written.
    """
    solid = {name: np.asarray(y, float) for name, y in series.items()}
    dashed = {name: np.asarray(y, float) for name, y in (baselines or {}).items()}
    figure, axes = _axes("predicted step", ylabel, list(solid.values()), dashed)
    ends = []
    for (name, y), (colour, dash) in zip(solid.items(), _styles(), strict=False):
        x = np.arange(1, len(y) + 1)
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=2.2, marker="o", markersize=6)
        ends.append((_last_finite(y), name, colour))
    for name, y in dashed.items():
        axes.plot(np.arange(1, len(y) + 1), y, color=FAINT, linestyle="--", linewidth=1.5)
        ends.append((_last_finite(y), name, FAINT))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _name_lines(axes, ends)
    write_figure(figure, path)


@own_settings()
def growth_curves(
    series: dict[str, tuple[np.ndarray, np.ndarray]],
    expected: dict[str, np.ndarray],
    path: str | os.PathLike,
) -> None:
    """Draw time against size, both relative to the first: {name: (sizes, times)}, log-log.

    `expected` has curves over the sizes of the longest series, which are drawn dashed.
    """
    x = max((sizes for sizes, _ in series.values()), key=len)
    figure, axes = _axes(
        "size, relative to the first", "time, relative to the first",
        [y for _, y in series.values()], expected,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ends = []
    for (name, (xs, ys)), (colour, dash) in zip(series.items(), _styles(), strict=False):
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=2.2, marker="o", markersize=6)
        ends.append((ys[-1], name, colour))
    for name, ys in expected.items():
        axes.plot(x, ys, color=FAINT, linestyle="--", linewidth=1.5)
        ends.append((ys[-1], name, FAINT))
    axes.margins(x=0)
    _name_lines(axes, ends)
    write_figure(figure, path)


def _axes(xlabel, ylabel, values, baselines):
    """Return a figure and its axes, logarithmic if values span more than a factor of ten."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullLocator

    figure = Figure(figsize=(9, 5), dpi=style.DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, fontsize=15, color=INK)
    axes.set_ylabel(ylabel, fontsize=15, color=INK)
    axes.tick_params(labelsize=13, color=FAINT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)

    shown = np.concatenate([np.ravel(y) for y in [*values, *baselines.values()]] or [[]])
    shown = shown[np.isfinite(shown)]
    if shown.size == 0:
        raise DataError(
            "expected at least one finite value to draw, got none: did the training diverge?"
        )
    if 0 < 10 * shown.min() < shown.max():
        axes.set_yscale("log")
        few = shown.max() < 1e3 * shown.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain if few else LogFormatterMathtext())
    return figure, axes


def _styles():
    """Yield line styles: seven colours solid, then the same seven dotted, then again."""
    return cycle([(colour, dash) for dash in ("-", ":") for colour in PALETTE])


def _last_finite(values):
    finite = values[np.isfinite(values)]
    return finite[-1] if finite.size else np.nan


def _name_lines(axes, ends):
    """Write each line's name beside its right end, and push overlapping names apart."""
    ends = sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0])
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    heights = np.array([to_axes.transform((x, value))[1] for value, _, _ in ends])
    room = 0.062  # one line of text, relative to the height of the axes
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + room)
    for k in reversed(range(len(heights))):  # and back down from the top
        above = heights[k + 1] - room if k + 1 < len(heights) else 1.0
        heights[k] = min(heights[k], above)
    for (_, name, colour), height in zip(ends, heights, strict=True):
        place = {"transform": axes.transAxes, "va": "center", "ha": "left"}
        axes.text(1.015, height, name, color=colour, fontsize=13, **place)
