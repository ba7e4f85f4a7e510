"""Predictions of a model of the slides' size for 16 test sequences, kept inside the package.

    kept = read_kept()
    kept.prediction            bytes (10, 16, 64, 64), free-running
    kept.result["future"]      its losses, as `python -m minilstm.evaluate` gives them

The weights of such a model, two layers of 2048 units, take 800 MB. Its training takes minutes on a
GPU. So tutorials and reports show these predictions. They are written by

    python -m minilstm.evaluate RUN --keep FILE

Read next: judging.py.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config, from_toml
from ..data import as_frames
from ..errors import ConfigError, RunError, named
from ..files import replacing
from ..layers.losses import SquaredError
from ..models import EncoderDecoder
from . import judging

KEPT = Path(__file__).parents[1] / "data" / "full_size_predictions.npz"
FROM_START_TO_END = "6.3 minutes"  # of the run in KEPT; the file has only the time of its steps
SEQUENCES = 16
FRAMES = ("past", "future", "reconstruction", "prediction")


@dataclass(frozen=True)
class KeptPredictions:
    """Frames as bytes (T, N, height, width), 255 is white, and where they come from.

    past, future                  the truth
    reconstruction, prediction    of the past in forward order, and of the future; free-running;
                                  None for a decoder that the model does not have
    result                        the result of `evaluate` on all its test sequences
    config                        the settings of the run
    about                         step, seconds of training, commit of the code, and what the
                                  checkpoint knows of the machine: "device" is the GPU
    """

    past: np.ndarray
    future: np.ndarray
    reconstruction: np.ndarray | None
    prediction: np.ndarray | None
    result: dict
    config: Config
    about: dict


def keep(
    path: str | Path,
    model: EncoderDecoder,
    about: dict,
    frames: np.ndarray,
    config: Config,
    result: dict,
    commit: str = "",
) -> None:
    """Write the predictions for the first 16 of frames (T, N, D) to an .npz file.

    `about` is the description in the model's checkpoint (`build.read_run`). `result` is that of
    `evaluate` on all frames. `commit` is that of the code. If it is empty, git
    is asked for it. Raises ConfigError for a model whose frames are not pixels in [0, 1].
    """
    if isinstance(model.loss, SquaredError):
        raise ConfigError(
            f"expected a run on pixels in [0, 1] for --keep, got one on {config.data.source}: "
            "leave --keep out"
        )
    frames, shape, past = frames[:, :SEQUENCES], tuple(result["frame_shape"]), config.data.past
    truth = as_frames(frames, shape)
    made = judging.pictures(model, frames, past, shape)
    arrays = {
        name: np.rint(255 * x).astype(np.uint8)
        for name, x in zip(FRAMES, (truth[:past], truth[past:], *made), strict=True)
        if x is not None
    }
    told = {
        "step": about.get("step"),
        "seconds": about.get("seconds"),
        "commit": commit or _commit(),
        **about.get("environment", {}),
    }
    texts = {"result": json.dumps(result), "about": json.dumps(told), "config": config.to_toml()}
    arrays |= {name: np.array(text) for name, text in texts.items()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_kept(path: str | Path = KEPT) -> KeptPredictions:
    """Read such a file, by default that of the package. Raises RunError if there is none."""
    if not Path(path).is_file():
        raise RunError(
            f"expected kept predictions at {path}, got no such file: make it from a trained run "
            "with python -m minilstm.evaluate RUN --keep FILE"
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            frames: dict[str, Any] = {
                name: arrays[name] if name in arrays else None for name in FRAMES
            }
            result, about = (json.loads(str(arrays[name])) for name in ("result", "about"))
            config = from_toml(str(arrays["config"]))
    except Exception as error:  # a damaged zip fails in many ways
        raise RunError(
            f"{path}: expected kept predictions, got {named(error)}: make the file anew"
        ) from error
    return KeptPredictions(**frames, result=result, config=config, about=about)


def _commit():
    """Return the commit of the code, as git knows it, or "unknown"."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(
            words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip() or "unknown"
