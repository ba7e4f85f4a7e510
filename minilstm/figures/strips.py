"""Strips and films of frames: the truth beside the reconstruction and prediction of each model.

`prediction_strip` is the slides' Figure 5 ("Reconstruction and future prediction obtained from
the Composite Model") and, with colour frames, Figure 6; `prediction_gif` shows the same in motion.

Frames are NumPy arrays (T, N, H, W) for grey or (T, N, H, W, 3) for colour, floats in [0, 1] or
bytes. They are enlarged by repeating pixels, never by interpolation, which would make sharp models
look blurred and blurred models look smooth. Matplotlib and Pillow are imported when the first
picture is drawn, not with this module.

Read next: style.py (colours and files); experiments/run_figures.py, which calls this.
"""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, ShapeError
from ..files import write_file
from .style import FAINT, INK, PALE, PALETTE, PAPER, load_matplotlib, own_settings, write_figure

# name of a model: (its reconstruction, its prediction), either of them None
Models = dict[str, tuple[np.ndarray | None, np.ndarray | None]]

STRIP_WIDTH = 2600  # pixels: all frames of a strip together are at most this wide
STRIP_FRAME, FILM_FRAME = 128, 192  # pixels: one enlarged frame is at most this wide and high


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

    truth_past (Tp, N, H, W[, 3]), truth_future (Tf, N, H, W[, 3]). `models` is {name of the row:
    (reconstruction, prediction)}. A reconstruction has the shape and the order of the past, so the
    decoder's output is reversed first. A prediction has the shape of the future. Either is None if
    the model does not make it, and is drawn pale. truth_future is None to leave the future out. The
    N sequences stand below each other. The first frame shown has number `first`. Raises ShapeError,
    DataError for NaN, and RunError for a path that can't be written. Source: slides, Figures 5, 6.
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
    """Write a GIF of the truth beside each model, past then future, 5 frames a second, in a loop.

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


# ---------------------------------------------------------------- frames


class _Half(NamedTuple):
    """The past or the future: the truth, each model's frames, and the titles."""

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
    """Return frames in [0, 1] as bytes. Values outside (of a linear output) are clipped.

    `name` is for the error message. Raises ShapeError for other dtypes, DataError for NaN or
    infinity.
    """
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ShapeError(f"{name}: expected floats in [0, 1] or uint8, got {frames.dtype}")
    if not np.isfinite(frames).all():
        raise DataError(
            f"{name}: expected finite values, got NaN or infinity: did the training diverge?"
        )
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def _enlarge(frame, scale):
    """Enlarge one frame (H, W[, 3]) to (H*scale, W*scale, 3): every pixel becomes a square."""
    if frame.ndim == 2:
        frame = np.stack([frame] * 3, axis=-1)
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


# ---------------------------------------------------------------- letters and files


def _drawing(canvas):
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    return picture, ImageDraw.Draw(picture)


def _font(size):
    """Load the font that comes with Matplotlib, so that every machine draws the same letters."""
    from PIL import ImageFont

    fonts = Path(load_matplotlib().get_data_path(), "fonts/ttf")
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)


def _room_for(caption, canvas, size):
    """Return the canvas with white space below for a caption, and the lines of the caption."""
    width = int(canvas.shape[1] / (0.62 * size))  # a letter is about that wide
    lines = textwrap.wrap(caption, max(20, width))
    height = 40 * len(lines) + 16 if lines else 0
    room = np.full((height, *canvas.shape[1:]), PAPER, np.uint8)
    return np.concatenate([canvas, room]), lines


@own_settings()
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
