"""A film and a page of what a trained model predicts of digits that it has never seen.

The predictions are computed when the page is made. If the package has predictions of a model of the
slides' size, which is too large to come with it, the page shows them below.

Read next: report_page.py, which lays the page out.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from ..backend import use_backend
from ..data import as_frames
from ..evaluation import judging
from ..evaluation.kept_predictions import KEPT, read_kept
from ..figures import strips
from ..files import expect_writable, make_folder, shell_word, write_file
from ..runs.trained import find_run
from .report_page import (
    commands_section,
    evaluated,
    evaluation_table,
    full_size_picture,
    open_pictures,
    player_page,
    summary_of,
)

FILMED = 4  # test sequences in the film


@dataclass(frozen=True)
class Demo:
    """The two files that were made, what the run is, and the result of `evaluate`."""

    film: Path
    page: Path
    summary: str
    result: dict


def make_demo(name: str, out: str | Path, sequences: int, cell: str | None = None) -> Demo:
    """Write prediction.gif and demo.html into the folder `out`, judged on so many test sequences.

    `name` is that of a trained model, or a run folder. `cell` is FILE.py:CLASS for a run whose own
    cell's file was moved or changed. Raises RunError, ConfigError, DataError.
    """
    path, out = find_run(name), Path(out)
    film, page = out / "prediction.gif", out / "demo.html"
    expect_writable(page, folders=True)
    run = open_pictures(path, cell=cell)
    with use_backend("numpy", run.config.run.dtype), np.errstate(all="ignore"):
        result = evaluated(run, sequences)
        make_folder(out)
        _film(run, film)
        sections = {
            "Evaluation": evaluation_table(result),
            "Full size": _full_size(),
            "Yours": commands_section(what_next(name)),
        }
        text = player_page(run, result, summary_of(run), sections)
    write_file(page, text)
    return Demo(film, page, summary_of(run), result)


def _film(run, path):
    """Predict some test sequences, and write the film."""
    past, shape, scale = run.config.data.past, run.source.frame_shape, run.source.scale
    frames = run.frames[:, :FILMED]
    truth = as_frames(frames, shape, scale)
    made = judging.pictures(run.trained, frames, past, shape, scale)
    strips.prediction_gif(truth[:past], truth[past:], {"model": made}, path)


def _full_size():
    """Return the section about the model of the slides' size, or "" without its predictions."""
    if not KEPT.is_file():
        return ""
    kept = read_kept(KEPT)
    model, result = kept.config.model, kept.result
    future, mean = result["future"]["free_running"], result["baselines"]["mean image"]
    words = (
        f"A model of the slides' size, {model.layers} layers of {model.hidden} units, needs a GPU "
        "and is too large to come with the package. These are its predictions of test sequences, "
        "made when it was trained, not now. The loss of its predicted future is "
        f"{future['mean']:.1f} {result['unit']}, that of the mean image {mean['mean']:.1f}."
    )
    return f"<p>{escape(words)}</p>{full_size_picture(kept)}"


def what_next(name: str | Path) -> dict[str, str]:
    """Return the commands to type next: {command: why}."""
    run = shell_word(name)
    return {
        "python -m minilstm.train one-digit": "train such a model for four minutes only, on two "
        "cores (40.5 nats per frame, sharpness 0.28)",
        "python -m minilstm.train": "train on the slides' task, two digits, in four minutes",
        f"python -m minilstm.report {run}": "see more about this model",
        "python -m minilstm": "list all commands",
    }
