"""Pages of panels: activity over time, weights as images, histograms of gates, confusion.

The slides' Figure 7 is `activity`, the paper's Figures 9 and 10 are `weights`. Rows are models
(trained, randomly initialised), columns are quantities. Gates have the colours of cividis, which
runs from dark to bright also for colour-blind readers. Signed values are brown below zero and
violet above. Weights are grey at zero.

Matplotlib is imported when the first page is drawn. Read next: style.py (colours and files);
experiments/run_figures.py, which calls this.
"""

from __future__ import annotations

import os

import numpy as np

from . import style
from .style import (
    FAINT,
    INK,
    LARGE,
    PAGE,
    PALETTE,
    SMALL,
    new_page,
    own_settings,
    write_caption,
    write_figure,
)

BETWEEN = 1.0  # white: the space between the images of a panel


def _name_row(axes, name, more=""):
    axes.set_ylabel(name.replace(" ", "\n", 1) + more, fontsize=LARGE, color=INK)


# ---------------------------------------------------------------- Figure 7


@own_settings()
def activity(
    rows: dict[str, dict[str, tuple[np.ndarray, tuple[float, float] | None, str]]],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw Figure 7: a line for each unit, time to the right, a number in each panel's title.

    `rows` has, for every model, {title: (signal (T, units), its range or None, number)}. For None
    the range is chosen so that it contains 99 % of the values of all models. Source: slides,
    "Qualitative Analysis: What does the LSTM actually learn to do?".
    """
    titles = list(next(iter(rows.values())))
    figure, axes = new_page(len(rows), len(titles))
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
        axes[-1, k].set_xlabel("predicted step", fontsize=SMALL - 2, color=INK)
        bar = figure.colorbar(image, ax=axes[:, k], orientation="horizontal", aspect=12)
        bar.set_ticks([low, high], labels=[f"{low:.2g}", f"{high:.2g}"])
        bar.ax.tick_params(labelsize=SMALL, labelcolor=INK)
        bar.outline.set_visible(False)
    for a, (name, row) in zip(axes[:, 0], rows.items(), strict=True):
        units = next(iter(row.values()))[0].shape[1]
        _name_row(a, name, f"\n{units} units")
    write_caption(figure, caption)
    write_figure(figure, path)


# ---------------------------------------------------------------- Figures 9 and 10


@own_settings()
def weights(
    rows: dict[str, dict[str, np.ndarray]],
    shape: tuple[int, ...],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw Figures 9 and 10: {model: {title: weights (N, D)}}, N images of the given `shape`.

    Images at the same place of two panels in a row belong to the same unit. Each image is scaled on
    its own: grey is 0, white or black is the largest weight. Source: paper, Figures 9 and 10.
    """
    titles = list(next(iter(rows.values())))
    figure, axes = new_page(len(rows), len(titles))
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
    """Tile weights (N, D) into one picture in [0, 1], about `panel` times as wide as it is high.

    Weight 0 becomes 0.5. The largest absolute weight of each image becomes 0 or 1.
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


@own_settings()
def histograms(
    rows: dict[str, dict[str, dict[str, tuple[np.ndarray, tuple[float, float], str]]]],
    path: str | os.PathLike,
    caption: str = "",
) -> None:
    """Draw histograms of gate values: {stack: {title: {model: (values, range, number)}}}.

    The height is the share of the values. The first model is filled, the others are outlines. Each
    panel has a legend with the numbers.
    """
    columns = max(len(row) for row in rows.values())
    figure, axes = new_page(len(rows), columns)
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
            a[k].legend(loc="upper center", frameon=False, fontsize=SMALL - 3, handlelength=1)
        _name_row(a[0], name)
    for a in axes[-1]:
        a.set_xlabel("value", fontsize=SMALL, color=INK)
    write_caption(figure, caption)
    write_figure(figure, path)


# ---------------------------------------------------------------- action recognition


@own_settings()
def confusion(
    counts: np.ndarray, classes: tuple[str, ...], path: str | os.PathLike, caption: str = ""
) -> None:
    """Draw a confusion matrix: counts (K, K), rows are true classes, columns predicted classes.

    Darker means a larger share of the row. The numbers are shares in per cent; 0 is left out.
    """
    from matplotlib.figure import Figure

    K = len(classes)
    figure = Figure(figsize=(3 + 0.45 * K, 2.5 + 0.45 * K), dpi=style.DPI, layout="constrained")
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
