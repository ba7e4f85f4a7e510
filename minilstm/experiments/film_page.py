"""The page about a user's own film: whole frames, predicted by a model of its squares.

The model predicts one square at a time. Here whole frames are assembled. Squares, half a square
apart, cover a frame, and each is predicted from its own past alone. Where squares overlap, the
picture is their weighted mean. Pixels in the middle of a square have the largest weight.

Read next: report_page.py, which lays the page out; data_tools/learn_video.py, which cuts the film.
"""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..backend import use_backend
from ..data import as_vectors
from ..evaluation import judging
from ..figures import strips
from ..files import write_file
from ..runs import build
from ..runs.run_folder import RunFolder
from . import run_figures
from .report_page import (
    Played,
    commands_section,
    evaluated,
    evaluation_table,
    image,
    player_page,
    summary_of,
    training_section,
)
from .run_figures import TrainedRun

JUDGED = 500  # test squares that are evaluated, and as many squares of the training split
COPY, MEAN = "copy of the last frame", "mean image"  # names of baselines in the table of evaluate


@dataclass(frozen=True)
class Film:
    """A small film, and how it was cut.

    name      name of its file
    frames    uint8 (n, height, width, 3)
    step      distance between two frames of a sequence, in frames of the film
    seconds   the same distance in seconds
    trained   number of frames, from the first on, that contain the training split
    test      first frames of sequences of the test split to show
    known     first frame of a sequence of the training split to show
    told      sentences about the film and its splits
    """

    name: str
    frames: np.ndarray
    step: int
    seconds: float
    trained: int
    test: list[int]
    known: int
    told: list[str]


@dataclass(frozen=True)
class FilmPage:
    """The path of a page that was written, and the table of `evaluate` about its model."""

    path: Path
    table: str


def cut_squares(film: np.ndarray, places: np.ndarray, T: int, step: int, size: int) -> np.ndarray:
    """Cut squares out of a film (n, height, width, 3): uint8 (M, T, size, size, 3).

    places int (M, 3) are first frame, row and column of each. T frames are taken, `step` apart.
    """
    cuts = sliding_window_view(film, (size, size), axis=(1, 2))  # (n, rows, columns, 3, size, size)
    start, row, column = places.T[..., None]
    return np.moveaxis(cuts[start + step * np.arange(T), row, column], 2, -1)


def whole_frames(
    run: TrainedRun, film: Film, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reconstruct and predict whole frames of a film from frame `start` on.

    Returns floats in [0, 1]: the truth (T, 1, height, width, 3), the reconstruction of its past
    (past, 1, height, width, 3), and the prediction of its future (T - past, 1, height, width, 3).
    """
    config, size = run.config, run.source.frame_shape[0]
    past, T = config.data.past, config.data.past + config.data.future
    n, height, width, _ = film.frames.shape
    corners = [(start, y, x) for y in _covering(height, size) for x in _covering(width, size)]
    squares = cut_squares(film.frames, np.array(corners), T, film.step, size).swapaxes(0, 1)
    vectors = as_vectors(np.ascontiguousarray(squares), run.source.scale).astype(config.run.dtype)
    shape, scale = run.source.frame_shape, run.source.scale
    pictures = judging.pictures(run.trained, vectors, past, shape, scale)
    truth = film.frames[start + film.step * np.arange(T)][:, None] / np.float32(255)
    window = np.minimum(np.arange(size) + 1, size - np.arange(size)).astype(np.float32)
    weight = (window[:, None] * window)[..., None]  # of a square's pixels: small at its border
    found = []
    for made in pictures:  # of the past and of the future
        made = np.clip(made, 0, 1)
        total = np.zeros((len(made), height, width, 3), np.float32)
        weights = np.zeros((height, width, 1), np.float32)
        for k, (_, y, x) in enumerate(corners):
            total[:, y : y + size, x : x + size] += weight * made[:, k]
            weights[y : y + size, x : x + size] += weight
        found.append((total / weights)[:, None])
    past_frames, future_frames = found
    return truth, past_frames, future_frames


def _covering(length, size):
    """Return first pixels of squares, about half a square apart, that cover `length` pixels."""
    count = -(-2 * (length - size) // size) + 1
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def write_film_page(
    path: str | Path, out: Path, film: Film, next_commands: dict[str, str]
) -> FilmPage:
    """Write film.html, film.gif and film.png into the folder `out`.

    `path` is the run folder. `next_commands` are {command: why}. Raises RunError, ConfigError
    and DataError for a run or data that can't be read.
    """
    run = run_figures.open_run(path, film.name)
    with use_backend("numpy", run.config.run.dtype), np.errstate(all="ignore"):
        shown = [whole_frames(run, film, start) for start in film.test]
        truth, rebuilt, predicted = (np.concatenate(x, axis=1) for x in zip(*shown, strict=True))
        result = evaluated(run, JUDGED)
        past = run.config.data.past
        models = _strip_rows(run, film, truth, rebuilt, predicted)
        strips.prediction_gif(truth[:past], truth[past:], models, out / "film.gif")
        first = {name: tuple(_first(x) for x in both) for name, both in models.items()}
        strips.prediction_strip(truth[:past, :1], truth[past:, :1], first, out / "film.png")
        sections = {
            "Film": _film_section(film, out),
            "Evaluation": SQUARES + evaluation_table(result),
            "Memory": _memory_section(run, film, result),
            "Limits": LIMITS,
            "Training": training_section(run, RunFolder(path).rows()),
            "Next": commands_section(next_commands),
        }
        page = player_page(
            run, result, summary_of(run), sections,
            played=Played(_told(film, past), truth, rebuilt, predicted),
        )  # fmt: skip
    write_file(out / "film.html", page)
    return FilmPage(out / "film.html", judging.table(result))


# ---------------------------------------------------------------- sections


def _told(film, past):
    return (
        f"Parts of {film.name} on which the model was not trained. It sees the first {past} "
        f"frames, {film.seconds:.2g} seconds apart, reconstructs them, and predicts the next from "
        "them alone."
    )


def _strip_rows(run, film, truth, rebuilt, predicted):
    """Return the model and two baselines: {name: (reconstruction or None, prediction)}."""
    past, T = run.config.data.past, len(truth)
    copy = np.repeat(truth[past - 1 : past], T - past, axis=0)
    mean = film.frames[: film.trained].mean(axis=0, dtype=np.float32) / 255
    mean = np.broadcast_to(mean, copy.shape)
    return {"model": (rebuilt, predicted), COPY: (None, copy), MEAN: (None, mean)}


def _film_section(film, out):
    told = "".join(f"<p>{escape(line)}</p>" for line in film.told)
    moving = base64.b64encode((out / "film.gif").read_bytes()).decode()
    return (
        f"{told}<h3>In motion</h3>"
        f'<img src="data:image/gif;base64,{moving}" alt="truth, model, and both baselines">'
        f"<h3>Frame by frame</h3>{image(out / 'film.png', 'the same, frame by frame')}"
        f'<p class="faint">{escape(PALE)}</p>'
    )


def _memory_section(run, film, result):
    """Compare the loss of test squares with that of squares that the model was trained on."""
    past = run.config.data.past
    truth, rebuilt, predicted = whole_frames(run, film, film.known)
    source = build.open_source(run.config, "train")
    frames = judging.sequences(source, JUDGED).astype(run.config.run.dtype)
    losses, _ = judging.losses_and_means(run.trained, frames, past, with_means=False)["future"]
    known = losses.mean()
    unknown = result["future"]["free_running"]["mean"]
    words = (
        f"The loss of the predicted future is {known:.1f} on squares that the model was trained "
        f"on, and {unknown:.1f} on test squares ({result['unit']}). "
        + (BY_HEART if known < 0.7 * unknown else SKILL)
    )
    with tempfile.TemporaryDirectory() as scratch:
        strip = Path(scratch, "known.png")
        models = {"model": (rebuilt, predicted)}
        strips.prediction_strip(truth[:past], truth[past:], models, strip)
        picture = image(strip, "a part of the film that the model was trained on")
    return f"<p>{escape(words)}</p>{picture}"


def _first(frames):
    return None if frames is None else frames[:, :1]


SQUARES = (
    "<p>The model predicts squares, and so it is judged on squares: the squares of the test "
    "split, in which something moves. In a square at rest a copy of the last frame is hard to "
    "beat.</p>"
)
PALE = (
    "The copy of the last frame and the mean image of the training frames need no model. They "
    "reconstruct nothing, so their past is left pale."
)
BY_HEART = (
    "The model has learned parts of the film by heart. A longer film, with more motion of the "
    "same kind, makes the two losses more alike."
)
SKILL = (
    "The two losses are close, so the model also predicts parts of the film that it was not "
    "trained on. More minutes of training may lower both: the section Next has the command."
)
LIMITS = """
<p>From one film a model can learn its colours, edges, patches of light, and steady motion, such as
that of a camera or of a large thing.</p>
<p>It can't learn texture, faces and letters, because the code of a square is small. It can't
predict what enters a square from outside, because it sees only the square. It can't predict what
people do next, because one film shows too little of that. Where several futures are possible, it
predicts their mean, because the mean has the smallest squared error. A mean is blurred.</p>
"""
