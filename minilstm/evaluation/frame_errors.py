"""Errors that later papers on Moving MNIST print, per predicted frame: squared, absolute, SSIM.

    squared error    sum over the pixels of (t - p)^2, pixels in [0, 1]
    absolute error   sum over the pixels of |t - p|
    SSIM             structural similarity (Wang et al. 2004), 1 for equal frames, with
                     scikit-image's defaults: bytes, a uniform window of 7x7 pixels

Each is a mean over the predicted frames and the sequences. That is how the public code of PredRNN
(Wang et al. 2017; thuml/predrnn-pytorch, core/trainer.py) computes its squared error and SSIM, and
SimVP (Gao et al. 2022; core/metrics.py) its absolute error. Predictions are free-running.

Where a pixel may be black or white, the loss of this package is smallest for a grey prediction.
This also holds for the squared error, but not for the absolute error or SSIM.

Read next: metrics.py.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import number_of
from .metrics import check_pictures, check_range, in_blocks

WINDOW = 7  # pixels


def frame_errors(truth: np.ndarray, prediction: np.ndarray, shape: tuple[int, ...]) -> dict:
    """Return {name: {"mean", "standard_error", "sequences"}}; SSIM may have {"skipped": reason}.

    truth, prediction (T, N, D) in [0, 1], `shape` (H, W) of a frame. A sequence counts as one
    number, the mean over its frames. The standard error is that of the mean of these numbers. It is
    None if there is only one sequence. Raises ShapeError, and DataError for values outside [0, 1].
    """
    check_pictures(truth, prediction, shape, dimensions=(1, 2, 3))
    check_range(truth, "truth")
    check_range(prediction, "prediction")

    def per_sequence(block):
        error = truth[:, block].astype(np.float64) - prediction[:, block]
        sums = (error**2).sum(axis=2), np.abs(error).sum(axis=2)  # (T, N) each
        return np.mean(sums, axis=1)

    squared, absolute = np.concatenate(in_blocks(per_sequence, truth), axis=1)
    found = {"squared error": _mean_of(squared), "absolute error": _mean_of(absolute)}
    return found | {"SSIM": _ssim(truth, prediction, shape)}


def _ssim(truth, prediction, shape):
    if len(shape) != 2 or min(shape) < WINDOW:
        return {"skipped": f"frames are not grey pictures of {WINDOW}x{WINDOW} pixels or more"}
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        return {"skipped": "scikit-image is missing: pip install -e '.[metrics]'"}
    inside = slice(WINDOW // 2, -(WINDOW // 2)), slice(WINDOW // 2, -(WINDOW // 2))

    def per_sequence(block):
        # All frames are stacked to one tall picture, because in many short calls the threads would
        # wait for Python's lock. Windows that reach into the next frame are left out. For a single
        # frame scikit-image leaves out the same windows, which reach over its border.
        t, p = (np.rint(255 * x[:, block]).astype(np.uint8) for x in (truth, prediction))
        tall = (-1, shape[1])
        _, similarity = structural_similarity(t.reshape(tall), p.reshape(tall), full=True)
        return similarity.reshape(*t.shape[:2], *shape)[:, :, *inside].mean(axis=(0, 2, 3))

    return _mean_of(np.concatenate(in_blocks(per_sequence, truth)))


def _mean_of(values):
    """Return the mean of one number per sequence (N,), with its standard error."""
    N = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(N) if N > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "sequences": N}


def in_words(errors: dict) -> list[str]:
    """Return `frame_errors` as lines of text."""
    lines = ["the predicted frames, free-running, as later papers judge them:"]
    for name, about in errors.items():
        if "skipped" in about:
            lines.append(f"{name:<36}not computed: {about['skipped']}")
            continue
        digits = 4 if name == "SSIM" else 1
        text = f"{about['mean']:.{digits}f}"
        if about["standard_error"] is not None:
            text += f" ± {about['standard_error']:.{digits}f}"
        kind = "per frame" if name == "SSIM" else "per frame, summed over pixels"
        lines.append(f"{name:<36}{text} {kind}, {number_of(about['sequences'], 'sequence')}")
    return lines
