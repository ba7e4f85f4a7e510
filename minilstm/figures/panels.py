"""Pages of panels: activity over time, weights, histograms of gates, confusion, tables as dots.

The slides' Figure 7 is `activity`, Figures 9 and 10 are `weights`: rows are models (trained,
randomly initialised), columns are what is looked at. Gates have the colours of cividis, which runs
from dark to bright for every eye; what has a sign is brown below zero and violet above; weights are
grey at zero. Pages have the shape of a slide.

Matplotlib is imported when the first page is drawn. Read next: visualize.py and
reproduce.py, which call this.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .strips import FAINT, INK, PALETTE, write_caption, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = (13.33, 6.5)  # inches: with a caption, a slide
SMALL, LARGE = 14, 17  # points, of its letters
BETWEEN = 1.0  # white, between the images of a panel


def _page(rows: int, columns: int, **keywords) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE, dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return figure, figure.subplots(rows, columns, squeeze=False, **keywords)


def _name_row(axes, name):
    axes.set_ylabel(name.replace(" ", "\n", 1), fontsize=LARGE, color=INK)


# ---------------------------------------------------------------- Figure 7


def activity(
    rows: dict[str, dict[str, tuple[np.ndarray, tuple[float, float] | None, str]]],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw Figure 7: units down, time to the right. Every panel's title ends with its number.

    `rows` has, for every model, {title: (signal (T, units), its range or None, number)}. Where the
    range is None it reaches as far as 99 % of the values of all models. Source: slides,
    "Qualitative Analysis: What does the LSTM actually learn to do?".
    """
    titles = list(next(iter(rows.values())))
    figure, axes = _page(len(rows), len(titles))
    for k, title in enumerate(titles):
        column = [row[title] for row in rows.values()]
        limits = column[0][1]
        if limits is None:
            sizes = np.abs(np.concatenate([signal.ravel() for signal, _, _ in column]))
            most = float(np.quantile(sizes, 0.99)) or 1.0
            limits = (-most, most)
        low, high = limits
        colours = "PuOr" if low < 0 else "cividis"
        for r, (a, (signal, _, number)) in enumerate(zip(axes[:, k], column, strict=True)):
            image = a.imshow(
                signal.T, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high
            )
            a.set_yticks([])
            a.set_xticks([0, len(signal) - 1], ["1", str(len(signal))])
            a.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
            a.set_title(f"{title}\n{number}" if r == 0 else number, fontsize=SMALL, color=INK)
        bar = figure.colorbar(image, ax=axes[:, k], orientation="horizontal", aspect=12)
        bar.set_ticks([low, high], labels=[f"{low:.2g}", f"{high:.2g}"])
        bar.ax.tick_params(labelsize=SMALL, labelcolor=INK)
        bar.outline.set_visible(False)
    for a, name in zip(axes[:, 0], rows, strict=True):
        _name_row(a, name)
    write_caption(figure, caption)
    write_figure(figure, path)


# ---------------------------------------------------------------- Figures 9 and 10


def weights(
    rows: dict[str, dict[str, np.ndarray]],
    shape: tuple[int, ...],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw Figures 9 and 10: {model: {title: weights (N, D)}}, each of the N an image of `shape`.

    Within a panel images of the same place belong to the same unit. Each image is scaled on its
    own: grey is 0, white or black the largest weight. Source: paper, Figures 9 and 10.
    """
    titles = list(next(iter(rows.values())))
    figure, axes = _page(len(rows), len(titles))
    panel = PAGE[0] / len(titles) / (0.9 * PAGE[1] / len(rows))  # width by height, about
    for a, (name, row) in zip(axes, rows.items(), strict=True):
        for k, images in enumerate(row.values()):
            a[k].imshow(tiled(images, shape, panel), cmap="gray", vmin=0, vmax=1)
            a[k].set_xticks([])
            a[k].set_yticks([])
            a[k].spines[:].set_visible(False)
        _name_row(a[0], name)
    for a, title in zip(axes[0], titles, strict=True):
        a.set_title(title, fontsize=LARGE, color=INK)
    write_caption(figure, caption)
    write_figure(figure, path)


def tiled(images: np.ndarray, shape: tuple[int, ...], panel: float) -> np.ndarray:
    """Weights (N, D) as one picture in [0, 1], about `panel` times as wide as it is high.

    0 becomes 0.5, and the largest weight of each image, by its size, 0 or 1.
    """
    N = len(images)
    most = np.abs(images).max(axis=1, keepdims=True)
    images = np.divide(images, 2 * most, out=np.zeros(images.shape), where=most > 0) + 0.5
    height, width, *colours = shape
    columns = min(N, max(1, round(np.sqrt(N * panel * height / width))))
    rows = -(-N // columns)
    page = np.full((rows, height + 1, columns, width + 1, *colours), BETWEEN)
    for n, image in enumerate(images):
        page[n // columns, :height, n % columns, :width] = image.reshape(shape)
    return page.reshape(rows * (height + 1), columns * (width + 1), *colours)[:-1, :-1]


# ---------------------------------------------------------------- saturation


def histograms(
    rows: dict[str, dict[str, dict[str, tuple[np.ndarray, tuple[float, float], str]]]],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw how often a gate has which value: {stack: {title: {model: (values, range, number)}}}.

    The first model is filled, the others are outlines; each panel names them with their numbers.
    """
    columns = max(len(row) for row in rows.values())
    figure, axes = _page(len(rows), columns)
    for a, (name, row) in zip(axes, rows.items(), strict=True):
        for k, (title, models) in enumerate(row.items()):
            for m, (model, (values, limits, number)) in enumerate(models.items()):
                share, edges = np.histogram(values, bins=40, range=limits)
                share, colour = share / share.sum(), PALETTE[m]
                a[k].stairs(share, edges, fill=m == 0, color=colour, alpha=0.35 if m == 0 else 1)
                a[k].stairs(share, edges, color=colour, linewidth=2, label=f"{model}: {number}")
            a[k].set_title(title, fontsize=LARGE, color=INK)
            a[k].set_yticks([])
            a[k].set_xticks(limits)
            a[k].tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
            a[k].spines[["top", "right", "left"]].set_visible(False)
            a[k].margins(y=0.45)  # room for the names
            a[k].set_ylim(bottom=0)
            a[k].legend(loc="upper center", frameon=False, fontsize=SMALL - 1, handlelength=1)
        _name_row(a[0], name)
    write_caption(figure, caption)
    write_figure(figure, path)


# ---------------------------------------------------------------- action recognition


def confusion(
    counts: np.ndarray, classes: tuple[str, ...], path: str | os.PathLike, caption: str = ""
) -> None:
    """Draw a confusion matrix: counts (K, K), row i the clips of class i, by what they were called.

    The darker, the larger the share of the row; the number is the share in percent, 0 left out.
    """
    from matplotlib.figure import Figure

    K = len(classes)
    figure = Figure(figsize=(3 + 0.45 * K, 2.5 + 0.45 * K), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(K), classes, rotation=90)
    axes.set_yticks(range(K), classes)
    axes.set_xlabel("taken for", fontsize=SMALL, color=INK)
    axes.set_ylabel("is", fontsize=SMALL, color=INK)
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[i, j] > 0.5 else INK
        axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", color=colour)
    write_caption(figure, caption)
    write_figure(figure, path)


# ---------------------------------------------------------------- tables as pictures


class Dots(NamedTuple):
    """One line of `dots`: a value of every seed, their mean with its interval, and what else.

    `published` is the slides' number; what lies within +-`blind` of 0 could not have been found.
    """

    values: Sequence[float]
    low: float
    high: float
    published: float | None = None
    blind: float | None = None


def dots(
    rows: list[dict[str, dict[str, Dots]]],
    path: str | os.PathLike,
    caption: str = "",
    zero: Sequence[str] = (),
) -> None:
    """Draw tables as dots on lines: rows of {title of a panel: {name of a line: Dots}}.

    The panels named in `zero` get a line at 0, for differences. NaN as an interval draws none.
    Source: slides, "Benchmarking", whose tables have neither seeds nor intervals.
    """
    columns = max(len(row) for row in rows)
    figure, axes = _page(len(rows), columns)
    figure.set_figheight(0.6 + sum(1.2 + 0.45 * max(map(len, row.values())) for row in rows))
    for a, row in zip(axes, rows, strict=True):
        for k, (title, lines) in enumerate(row.items()):
            _dots_panel(a[k], title, lines)
            if title in zero:
                a[k].axvline(0, color=INK, linewidth=1.2, zorder=1)
        for unused in a[len(row) :]:
            unused.set_visible(False)
    handles = {}  # of the legend: each thing once, wherever it is shown
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
                label="too small for this design to find",
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
    a.tick_params(axis="y", labelsize=SMALL - 2)
    a.spines[["top", "right", "left"]].set_visible(False)
    a.grid(axis="x", color="#dddddd", linewidth=0.8)
    a.set_axisbelow(True)
    a.margins(x=0.08)


def error_bars(
    rows: dict[str, dict[str, dict[float, Dots]]],
    path: str | os.PathLike,
    caption: str = "",
    xlabel: str = "",
    zero: Sequence[str] = (),
) -> None:
    """Draw Figure 12: {title of a panel: {name of a curve: {x: Dots}}}, x on a logarithmic scale.

    Means are joined, bars are intervals, dots beside them the single values. The panels named in
    `zero` get a line at 0. Source: slides, "Transfer Learning for Action Recognition".
    """
    figure, (axes,) = _page(1, len(rows))
    for a, (title, curves) in zip(axes, rows.items(), strict=True):
        for k, (name, points) in enumerate(curves.items()):
            means = np.array([np.mean(point.values) for point in points.values()])
            reach = np.array(
                [[m - p.low, p.high - m] for m, p in zip(means, points.values(), strict=True)]
            ).T
            for x, point in points.items():
                at = np.full(len(point.values), 1.08 * x)
                a.plot(at, point.values, "o", color=PALETTE[k], markersize=4, alpha=0.6)
            a.errorbar(
                list(points), means, np.nan_to_num(reach), color=PALETTE[k], linewidth=2.5,
                marker="os^D"[k % 4], markersize=9, capsize=6, label=name,
            )  # fmt: skip
            ticks = list(points)
        a.set_xscale("log")
        a.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        a.set_xticks([], minor=True)
        a.set_xlabel(xlabel, fontsize=SMALL, color=INK)
        a.set_title(title, fontsize=LARGE, color=INK)
        a.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
        a.spines[["top", "right"]].set_visible(False)
        a.grid(axis="y", color="#dddddd", linewidth=0.8)
        a.set_axisbelow(True)
        if title in zero:
            a.axhline(0, color=INK, linewidth=1.2, zorder=1)
        else:
            a.legend(frameon=False, fontsize=SMALL)
    write_caption(figure, caption)
    write_figure(figure, path)
