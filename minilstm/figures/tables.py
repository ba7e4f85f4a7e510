"""Tables as pictures: dots with confidence intervals, and curves with error bars.

Gains and levels of every seed or draw are shown beside their mean and its interval, and beside the
slides' number where there is one. Matplotlib is imported when the first page is drawn.

Source: slides, "Benchmarking", whose tables have neither seeds nor intervals. Read next: style.py
(colours and files); experiments/charts.py, which says what is drawn.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .style import (
    FAINT,
    GRID,
    INK,
    LARGE,
    PALETTE,
    SMALL,
    new_page,
    own_settings,
    write_caption,
    write_figure,
)


class Dots(NamedTuple):
    """One line of a picture: the values of all seeds or draws, and the interval of their mean.

    `published` is the slides' number. A true gain within +-`blind` of 0 is too small for the design
    to detect with 80 % power.
    """

    values: np.ndarray | Sequence[float]
    low: float
    high: float
    published: float | None = None
    blind: float | None = None


@own_settings()
def dots(
    rows: list[dict[str, dict[str, Dots]]],
    path: str | os.PathLike,
    caption: str = "",
    zero: Sequence[str] = (),
) -> None:
    """Draw tables as dots on lines: rows of {title of a panel: {name of a line: Dots}}.

    The panels named in `zero` show differences and get a line at 0. Intervals of NaN are left out.
    """
    columns = max(len(row) for row in rows)
    figure, axes = new_page(len(rows), columns)
    figure.set_figheight(0.6 + sum(1.2 + 0.45 * max(map(len, row.values())) for row in rows))
    for a, row in zip(axes, rows, strict=True):
        for k, (title, lines) in enumerate(row.items()):
            _dots_panel(a[k], title, lines)
            if title in zero:
                a[k].axvline(0, color=INK, linewidth=1.2, zorder=1)
        for unused in a[len(row) :]:
            unused.set_visible(False)
    handles: dict = {}  # of the legend: each label once, in whatever panel it occurs
    for a in axes.flat:
        handles |= {
            label: handle for handle, label in zip(*a.get_legend_handles_labels(), strict=True)
        }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False,
        fontsize=SMALL,
    )  # fmt: skip
    write_caption(figure, caption)
    write_figure(figure, path)


def _dots_panel(a, title, lines):
    for y, line in enumerate(lines.values()):
        if line.blind is not None and np.isfinite(line.blind):
            a.barh(
                y, 2 * line.blind, 0.62, -line.blind, color="#e4e4e4", zorder=0,
                label="too small to detect with 80 % power",
            )  # fmt: skip
        a.plot([line.low, line.high], [y, y], color=PALETTE[0], linewidth=3, zorder=3)
        a.plot(
            np.mean(line.values), y, "o", color=PALETTE[0], markersize=10, zorder=4,
            label="mean and 95 % interval",
        )  # fmt: skip
        if len(line.values) > 1:
            heights = np.full(len(line.values), y - 0.24)
            a.plot(line.values, heights, "o", color=PALETTE[4], markersize=5, label="single values")
        if line.published is not None:
            a.plot(
                line.published, y, "D", markerfacecolor="none", color=PALETTE[1], markersize=10,
                markeredgewidth=2, label="slides", zorder=5,
            )  # fmt: skip
    a.set_yticks(range(len(lines)), [textwrap.fill(name, 30) for name in lines])
    a.set_ylim(len(lines) - 0.5, -0.6)
    a.set_title(title, fontsize=LARGE - 1, color=INK)
    a.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
    a.tick_params(axis="y", labelsize=SMALL - 2, length=0)
    a.spines[["top", "right", "left"]].set_visible(False)
    a.grid(axis="x", color=GRID, linewidth=0.8)
    a.set_axisbelow(True)
    a.margins(x=0.08)


@own_settings()
def error_bars(
    rows: dict[str, dict[str, dict[float, Dots]]],
    path: str | os.PathLike,
    caption: str = "",
    xlabel: str = "",
    zero: Sequence[str] = (),
) -> None:
    """Draw Figure 12: {title of a panel: {name of a curve: {x: Dots}}}, x on a logarithmic scale.

    Lines join the means, bars are intervals, and the dots beside them are single values. The panels
    named in `zero` get a line at 0. Source: slides, "Transfer Learning for Action Recognition".
    """
    figure, (axes,) = new_page(1, len(rows))
    for a, (title, curves) in zip(axes, rows.items(), strict=True):
        for k, (name, points) in enumerate(curves.items()):
            means = np.array([np.mean(point.values) for point in points.values()])
            reach = np.array(
                [[m - p.low, p.high - m] for m, p in zip(means, points.values(), strict=True)]
            ).T
            # each curve is moved sideways a little, so that no interval hides another
            apart = 1.03 ** (2 * k - len(curves) + 1)
            for x, point in points.items():
                at = np.full(len(point.values), 1.08 * apart * x)
                a.plot(at, point.values, "o", color=PALETTE[k], markersize=4, alpha=0.6)
            a.errorbar(
                apart * np.array(list(points)), means, np.nan_to_num(reach), color=PALETTE[k],
                linewidth=2.5, marker="os^D"[k % 4], markersize=9, capsize=6, label=name,
            )  # fmt: skip
            ticks = list(points)
        a.set_xscale("log")
        a.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        a.set_xticks([], minor=True)
        a.set_xlabel(xlabel, fontsize=SMALL, color=INK)
        a.set_title(title, fontsize=LARGE, color=INK)
        a.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
        a.spines[["top", "right"]].set_visible(False)
        a.grid(axis="y", color=GRID, linewidth=0.8)
        a.set_axisbelow(True)
        if title in zero:
            a.axhline(0, color=INK, linewidth=1.2, zorder=1)
        else:
            a.legend(frameon=False, fontsize=SMALL)
    write_caption(figure, caption)
    write_figure(figure, path)
