"""Conversion between frames, which figures show, and vectors, which models take.

Frames are bytes, 0 black to 255 white. Pixels of digits are learned as probabilities of ink, in
[0, 1]. Pixels of natural video are no probabilities. The paper gives them a linear output and a
squared error, which work best if every number has mean 0 and standard deviation 1. `Scale` holds
mean and standard deviation.

Read next: patches.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of frames in [0, 1]: float32 (colours,), (1,) for grey frames.

    Percepts have one of each for every number: (D,). Other floats are rounded to float32, so that
    vectors are float32 whatever the scale was computed in.
    """

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))


CHUNK_FRAMES = 1000  # summed at a time


def scale_of(frames: np.ndarray) -> Scale:
    """Return the mean and standard deviation of each number of frames, floats (N, D).

    Sums are made in float64, because in float32 a sum of millions of frames stops growing. A number
    that never changes has the deviation 1.
    """
    mean = frames.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for n in range(0, len(frames), CHUNK_FRAMES):
        squares += ((frames[n : n + CHUNK_FRAMES] - mean) ** 2).sum(axis=0)
    std = np.sqrt(squares / len(frames))
    std[std <= 1e-6] = 1
    return Scale(mean.astype(np.float32), std.astype(np.float32))


def as_vectors(frames: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    """Convert bytes (T, B, height, width[, colours]) to float32 (T, B, D), D numbers per frame.

    The result is in [0, 1], or normalised by the `scale` of the source. Percepts, floats (T, B, D),
    need a scale. Raises ShapeError for other frames.
    """
    if frames.ndim == 3 and frames.dtype.kind == "f" and scale is not None:
        return (frames.astype(np.float32) - scale.mean) / scale.std
    if frames.ndim not in (4, 5) or frames.dtype != np.uint8:
        raise ShapeError(
            f"expected frames uint8 (T, B, height, width[, colours]), got {frames.dtype} "
            f"{frames.shape}: see MovingMNIST.batch"
        )
    T, B, *shape = frames.shape
    x = frames / np.float32(255)
    if scale is not None:
        x -= scale.mean
        x /= scale.std
    return x.reshape(T, B, math.prod(shape))


def as_frames(
    vectors: np.ndarray, shape: tuple[int, ...], scale: Scale | None = None
) -> np.ndarray:
    """Convert vectors (T, B, D) back to frames (T, B, *shape), floats, 0 black to 1 white.

    Values that a model predicts may lie outside [0, 1]. Figures clip them. Raises ShapeError.
    """
    if vectors.ndim != 3 or vectors.shape[2] != math.prod(shape):
        raise ShapeError(
            f"expected vectors (T, B, {math.prod(shape)}) for frames of shape {shape}, got "
            f"{vectors.shape}: see as_vectors"
        )
    frames = vectors.reshape(*vectors.shape[:2], *shape)
    return frames if scale is None else frames * scale.std + scale.mean
