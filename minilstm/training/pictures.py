"""Pictures of a finished run: its losses, and what it predicts.

Read next: figures/curves.py, figures/strips.py.
"""

from __future__ import annotations

import numpy as np

from ..config import Config
from ..data import as_frames
from ..evaluation import judging
from ..figures import curves, strips
from ..layers.losses import Loss
from ..models import EncoderDecoder
from ..runs import build
from ..runs.run_folder import RunFolder

LOSSES = ["reconstruction", "future", "validation reconstruction", "validation future"]


def draw_curves(config: Config, folder: RunFolder, loss: Loss, validation: np.ndarray) -> None:
    """Draw curves.png: the losses of the log beside the loss of the mean image.

    validation (T, N, D) are the frames on which the mean image is judged.
    """
    mean = judging.mean_image(config)
    baseline = judging.loss_of_mean_image(loss, mean, validation[config.data.past :])
    series = curves.series_from_rows(folder.rows(), LOSSES)
    path = folder.path / "curves.png"
    caption = why_below(series, config.model.dropout > 0)
    curves.plot_curves(series, path, {"mean image": baseline}, loss.unit, caption=caption)


def why_below(series: dict[str, tuple], dropout: bool) -> str:
    """Explain why a validation loss is below its training loss, if one of `series` is.

    series {name: (steps, values)}, as `draw_curves` names them. Returns "" if none is.
    """
    for name in ("reconstruction", "future"):
        if name in series and f"validation {name}" in series:
            (steps, training), (at, validation) = series[name], series[f"validation {name}"]
            if (np.asarray(validation) < np.interp(at, steps, training)).any():
                without = ", and without dropout" if dropout else ""
                return (
                    "A training loss is the mean over all steps since the previous point; during "
                    "these steps the weights improved. A validation loss is computed for a fixed "
                    f"set of other sequences, with the weights of its step{without}. So it can be "
                    "lower."
                )
    return ""


def draw_predictions(
    config: Config, folder: RunFolder, model: EncoderDecoder, count: int = 3
) -> None:
    """Draw prediction.png and prediction.gif of the first `count` test sequences."""
    test, past = build.open_source(config, "test"), config.data.past
    frames = judging.sequences(test, count)
    truth = as_frames(frames, test.frame_shape, test.scale)
    made = judging.pictures(model, frames, past, test.frame_shape, test.scale)
    shown = truth[:past], truth[past:], {"model": made}
    strips.prediction_strip(*shown, folder.path / "prediction.png")
    strips.prediction_gif(*shown, folder.path / "prediction.gif")
