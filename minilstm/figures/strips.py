"""Pictures of what a model does: strips and films of frames, curves of nats.

`prediction_strip` is the slides' Figure 5 ("Reconstruction and future prediction obtained from
the Composite Model") and, with colour frames, Figure 6; `prediction_gif` is the same in motion;
`curves` shows training, `per_step_curve` how the error grows along the predicted future. What goes
on inside a model is drawn by panels.py.

Frames are NumPy arrays (T, N, H, W) for grey or (T, N, H, W, 3) for colour, floats in [0, 1] or
bytes. A path that ends in .pdf gets a PDF, any other a PNG. Every file is written whole or not at
all, and equal input gives equal bytes: pictures can be compared by checksum. Frames are enlarged by
repeating pixels, never by interpolation, which would make sharp models look blurred and blurred
models look smooth.

Matplotlib and Pillow are imported when the first picture is drawn, not with this module.

Read next: panels.py; evaluate.py and visualize.py, which call both.
"""

from __future__ import annotations

import io
import os
import textwrap
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import DataError, ShapeError
from ..files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name of a model: (its reconstruction, its prediction), either of them None
Models = dict[str, tuple[np.ndarray | None, np.ndarray | None]]

# Okabe and Ito's palette without its yellow: distinct for colour-blind readers, on white paper
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, FAINT = "#222222", "#777777"
PAPER, PALE = 255, 235  # grey levels: of empty space, and of frames the model wasn't asked for

STRIP_WIDTH, STRIP_FRAME = 2600, 128  # pixels: all frames of a strip at most, one frame at most
FILM_FRAME = 192  # pixels: one frame of a film


# ---------------------------------------------------------------- Figure 5: a strip of frames


def prediction_strip(
    truth_past: np.ndarray,
    truth_future: np.ndarray | None,
    models: Models,
    path: str | os.PathLike,
    first: int = 1,
    caption: str = "",
) -> None:
    """Draw Figure 5: the truth above, each model below, the past left, the future right.

    truth_past (Tp, N, H, W[, 3]), truth_future (Tf, N, H, W[, 3]). `models` has, by the name that
    its row gets, each model's reconstruction, of the shape of the past and in ITS order (the
    decoder's output turned round), and its prediction, of the shape of the future. An autoencoder's
    prediction is None (and truth_future, to leave the future out), a future predictor's
    reconstruction; what a model wasn't asked for is pale. The N sequences are stacked.
    The first frame shown has number `first`. Raises ShapeError, DataError for NaN, RunError for a
    path that can't be written. Source: slides, Figures 5 and 6.
    """
    halves = _halves(truth_past, truth_future, models, first)
    T = sum(len(half.truth) for half in halves)
    N, H, W = halves[0].truth.shape[1:4]
    rows = ("truth", *models)

    scale = max(1, min(STRIP_WIDTH // (T * W), STRIP_FRAME // max(H, W)))
    cell_h, cell_w = H * scale, W * scale
    row_name = _font(min(32, max(8, cell_h)))
    line, gap = 4, 40  # between frames; between sequences, and between past and future
    margin, top = 16, 108  # around it all; for titles and times
    left = max(130, margin + 18 + max(int(row_name.getlength(name)) for name in rows))
    height = top + N * len(rows) * (cell_h + line) + (N - 1) * gap + margin
    xs, spans = [], []  # of each half: the left edges of its frames; where it begins and ends
    x = left
    for half in halves:
        xs.append([x + t * (cell_w + line) for t in range(len(half.truth))])
        spans.append((x, max(xs[-1][-1] + cell_w, x + 350)))  # never narrower than its title
        x = spans[-1][1] + gap
    width = x - gap + margin
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    ys = [
        [top + (n * len(rows) + r) * (cell_h + line) + n * gap for r in range(len(rows))]
        for n in range(N)
    ]
    for half, half_xs in zip(halves, xs, strict=True):
        for r, frames in enumerate((half.truth, *half.models)):
            for t, x in enumerate(half_xs):
                for n in range(N):
                    y = ys[n][r]
                    frame = PALE if frames is None else _enlarge(frames[t, n], scale)
                    canvas[y : y + cell_h, x : x + cell_w] = frame

    canvas, lines = _room_for(caption, canvas, 30)
    picture, draw = _drawing(canvas)
    title, small = _font(32), _font(26)
    every = 1 + 50 // (cell_w + line)  # narrow frames: only some times have room for their number
    for half, half_xs, (x0, x1) in zip(halves, xs, spans, strict=True):
        draw.text(((x0 + x1) / 2, 24), half.title, font=title, fill=INK, anchor="mm")
        draw.rectangle((x0, 50, x1 - 1, 52), fill=half.colour)
        for t, x in list(enumerate(half_xs))[::every]:
            number = str(half.first + t)
            draw.text((x + cell_w / 2, 82), number, font=small, fill=FAINT, anchor="mm")
    for n in range(N):
        for r, name in enumerate(rows):
            at = (left - 18, ys[n][r] + cell_h / 2)
            draw.text(at, name, font=row_name, fill=INK, anchor="rm")
    for k, text in enumerate(lines):
        draw.text((margin, height + 40 * k), text, font=_font(30), fill=INK, anchor="la")
    _write_picture(picture, path)


# ---------------------------------------------------------------- the same in motion


def prediction_gif(
    truth_past: np.ndarray,
    truth_future: np.ndarray | None,
    models: Models,
    path: str | os.PathLike,
    first: int = 1,
) -> None:
    """Film the truth beside each model, past then future, 5 frames a second, in a loop.

    Arrays and errors as in `prediction_strip`. A caption says which frame it is. The last frame
    stays for a second.
    """
    halves = _halves(truth_past, truth_future, models, first)
    N, H, W = halves[0].truth.shape[1:4]
    scale = max(1, FILM_FRAME // max(H, W))
    cell_h, cell_w = H * scale, W * scale
    names = ("truth", *models)
    size = max(11, min(22, cell_w // 9))
    while size > 11 and max(_font(size).getlength(name) for name in names) > cell_w:
        size -= 1  # every name must fit over its frames
    line, band = 8, 2 * size  # around the frames; of text above and below
    height = 2 * band + N * (cell_h + line) - line
    width = line + len(names) * (cell_w + line)
    lefts = [line + k * (cell_w + line) for k in range(len(names))]

    films = []
    for half in halves:
        for t in range(len(half.truth)):
            canvas = np.full((height, width, 3), PAPER, np.uint8)
            for left, frames in zip(lefts, (half.truth, *half.models), strict=True):
                for n in range(N):
                    y = band + n * (cell_h + line)
                    frame = PALE if frames is None else _enlarge(frames[t, n], scale)
                    canvas[y : y + cell_h, left : left + cell_w] = frame
            picture, draw = _drawing(canvas)
            font, middle = _font(size), cell_w / 2
            for left, name in zip(lefts, names, strict=True):
                draw.text((left + middle, band / 2), name, font=font, fill=INK, anchor="mm")
            caption = f"{half.name}, frame {half.first + t}"
            at = (width / 2, height - band / 2)
            draw.text(at, caption, font=font, fill=INK, anchor="mm")
            films.append(picture)
    if halves[0].truth.ndim == 4:
        films = [film.convert("L") for film in films]  # 256 greys are a GIF's 256 colours, exactly
    durations = [200] * (len(films) - 1) + [1000]  # milliseconds

    data = io.BytesIO()
    films[0].save(data, "GIF", save_all=True, append_images=films[1:], duration=durations, loop=0)
    write_file(path, data.getvalue())


# ---------------------------------------------------------------- curves


def series_from_rows(rows: list[dict], names: list[str]) -> dict[str, tuple[list, list]]:
    """Turn metrics rows into curves: {name: (steps, values)} for each of `names` that occurs.

    A row is a dict with "step" and what was measured then; a row without a name is skipped for
    that curve (validation is rarer than training).
    """
    found = {name: [row for row in rows if name in row] for name in names}
    return {
        name: ([row["step"] for row in having], [row[name] for row in having])
        for name, having in found.items()
        if having
    }


def curves(
    series: dict[str, tuple],
    path: str | os.PathLike,
    baselines: dict[str, float] | None = None,
    ylabel: str = "nats per frame",
    xlabel: str = "step",
    caption: str = "",
) -> None:
    """Draw curves, of training by default: {name: (steps, values)}, dashed lines {name: value}.

    Every line carries its name at its right end. The scale is logarithmic where values span more
    than a factor of ten. A NaN leaves a hole. Raises DataError without any finite value, RunError.
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


def per_step_curve(
    series: dict[str, np.ndarray],
    path: str | os.PathLike,
    baselines: dict[str, np.ndarray] | None = None,
    ylabel: str = "nats per frame",
) -> None:
    """Draw the error of each predicted step as a PNG: {name: (T,)}, baselines dashed.

    Step 1 is the first predicted frame. Free-running and teacher-forced curves of one model part
    here: truth fed back hides the errors that predictions fed back accumulate.
    Raises DataError without any finite value, RunError.
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


def _axes(xlabel, ylabel, values, baselines):
    """A figure without pyplot, so that nobody's open figures or chosen backend are touched."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, fontsize=15, color=INK)
    axes.set_ylabel(ylabel, fontsize=15, color=INK)
    axes.tick_params(labelsize=13, color=FAINT, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)

    shown = np.concatenate([np.ravel(y) for y in [*values, *baselines.values()]] or [[]])
    shown = shown[np.isfinite(shown)]
    if shown.size == 0:
        raise DataError("expected at least one finite value to draw, got none")
    if 0 < 10 * shown.min() < shown.max():
        axes.set_yscale("log")
        few = shown.max() < 1e3 * shown.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure, axes


def _styles():
    """Seven colours solid, then the same seven dotted, and again."""
    return cycle([(colour, dash) for dash in ("-", ":") for colour in PALETTE])


def _last_finite(values):
    finite = values[np.isfinite(values)]
    return finite[-1] if finite.size else np.nan


def _name_lines(axes, ends):
    """Write each line's name beside its right end, pushed apart where two would overlap."""
    ends = sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0])
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    heights = np.array([to_axes.transform((x, value))[1] for value, _, _ in ends])
    room = 0.062  # one line of text, as a part of the height of the axes
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + room)
    for k in reversed(range(len(heights))):  # and back down from the top
        above = heights[k + 1] - room if k + 1 < len(heights) else 1.0
        heights[k] = min(heights[k], above)
    for (_, name, colour), height in zip(ends, heights, strict=True):
        place = {"transform": axes.transAxes, "va": "center", "ha": "left"}
        axes.text(1.015, height, name, color=colour, fontsize=13, **place)


# ---------------------------------------------------------------- frames


class _Half(NamedTuple):
    """The past or the future: what happened, what the models made of it, and their words."""

    name: str
    truth: np.ndarray  # bytes
    models: list[np.ndarray | None]  # bytes
    title: str
    first: int  # the time of its first frame
    colour: str


def _half(name, truth, made, models, first, colour):
    if truth.ndim not in (4, 5) or truth.shape[4:] not in ((), (3,)) or truth.size == 0:
        raise ShapeError(
            f"{name}: expected (T, N, H, W) or (T, N, H, W, 3), none of them 0, got {truth.shape}"
        )
    for model in models:
        if model is not None and model.shape != truth.shape:
            raise ShapeError(f"{made}: expected {truth.shape} like the {name}, got {model.shape}")
    models = [model if model is None else as_bytes(made, model) for model in models]
    asked = any(model is not None for model in models)
    title = f"{name} \N{RIGHTWARDS ARROW} {made}" if asked else name
    return _Half(name, as_bytes(name, truth), models, title, first, colour)


def _halves(truth_past, truth_future, models, first):
    reconstructions = [reconstruction for reconstruction, _ in models.values()]
    predictions = [prediction for _, prediction in models.values()]
    past = _half("past", truth_past, "reconstruction", reconstructions, first, FAINT)
    if truth_future is None:
        if any(prediction is not None for prediction in predictions):
            raise ShapeError("prediction: expected None without truth_future, got an array")
        return [past]
    first += len(truth_past)
    future = _half("future", truth_future, "prediction", predictions, first, PALETTE[0])
    if truth_future.shape[1:] != truth_past.shape[1:]:
        raise ShapeError(
            f"future: expected (T, {', '.join(map(str, truth_past.shape[1:]))}) like the past, "
            f"got {truth_future.shape}"
        )
    return [past, future]


def as_bytes(name: str, frames: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] -> bytes. What lies outside (a linear output may) is shown as the limit."""
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ShapeError(f"{name}: expected floats in [0, 1] or uint8, got {frames.dtype}")
    if not np.isfinite(frames).all():
        raise DataError(f"{name}: expected finite values, got NaN or infinity: did it diverge?")
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def _enlarge(frame, scale):
    """One frame (H, W[, 3]) -> (H*scale, W*scale, 3), every pixel a square."""
    if frame.ndim == 2:
        frame = np.stack([frame] * 3, axis=-1)
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


# ---------------------------------------------------------------- letters and files


def _drawing(canvas):
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    return picture, ImageDraw.Draw(picture)


def _font(size):
    """The font that comes with Matplotlib, so that every machine draws the same letters."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _room_for(caption, canvas, size):
    """The canvas with white below for a caption of this size, and the caption's lines."""
    width = int(canvas.shape[1] / (0.62 * size))  # a letter is about that wide
    lines = textwrap.wrap(caption, max(20, width))
    room = np.full((40 * len(lines) + 16 * bool(lines), *canvas.shape[1:]), PAPER, np.uint8)
    return np.concatenate([canvas, room]), lines


def _write_picture(picture, path):
    if Path(path).suffix == ".pdf":  # the pixels as they are, on a page of their size
        from matplotlib.figure import Figure

        figure = Figure(figsize=(picture.width / 200, picture.height / 200), dpi=200)
        figure.figimage(np.asarray(picture))
        write_figure(figure, path)
        return
    data = io.BytesIO()
    picture.save(data, "PNG")
    write_file(path, data.getvalue())


def write_caption(figure: Figure, caption: str, size: int = 14) -> None:
    """Make room below a figure of Matplotlib, and put a caption there in lines that fit."""
    lines = textwrap.wrap(caption, int(figure.get_figwidth() * 72 / (0.54 * size)))
    figure.set_figheight(figure.get_figheight() + len(lines) * 1.3 * size / 72)
    figure.supxlabel("\n".join(lines), fontsize=size, color=INK, x=0.01, ha="left")


def write_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure of Matplotlib, PDF or PNG, without a date or a version. Raises RunError."""
    data = io.BytesIO()
    if Path(path).suffix == ".pdf":
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        FigureCanvasPdf(figure)
        nameless = {"Creator": None, "Producer": None, "CreationDate": None}
        figure.savefig(data, format="pdf", metadata=nameless)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        figure.savefig(data, format="png", metadata={"Software": None})
    write_file(path, data.getvalue())
