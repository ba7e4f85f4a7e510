"""From frames, which are looked at, to vectors, which are learned from, and back.

Frames are bytes, 0 black to 255 white. Digits are learned as probabilities of ink, in [0, 1].
Patches of natural video have none: the paper gives them a linear output and a squared error, and
then it is best that every number has mean 0 and standard deviation 1. `Scale` holds the two.

Read next: patches.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ShapeError


@dataclass(frozen=True)
class Scale:
    """What frames in [0, 1] are normalised by: float32 (colours,), or (1,) of grey frames.

    Percepts are normalised number by number: (D,).
    """

    mean: np.ndarray
    std: np.ndarray


CHUNK = 1000  # frames at a time


def scale_of(frames: np.ndarray) -> Scale:
    """Return the mean and standard deviation of each number of frames, floats (N, D).

    Sums are made in float64, because in float32 a sum of millions of frames stops growing. A number
    that never changes has the deviation 1.
    """
    mean = frames.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for n in range(0, len(frames), CHUNK):
        squares += ((frames[n : n + CHUNK] - mean) ** 2).sum(axis=0)
    std = np.sqrt(squares / len(frames))
    std[std <= 1e-6] = 1
    return Scale(mean.astype(np.float32), std.astype(np.float32))


def as_vectors(frames: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    """Bytes (T, B, height, width[, colours]) as float32 (T, B, D), D the product of the rest.

    In [0, 1], or normalised by the `scale` of their source; percepts, floats (T, B, D), only that.
    Raises ShapeError.
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
    """The way back, for the eye: floats (T, B, D) as frames (T, B, *shape), 0 black to 1 white.

    What a model has made may lie outside; a figure shows the nearer end. Raises ShapeError.
    """
    if vectors.ndim != 3 or vectors.shape[2] != math.prod(shape):
        raise ShapeError(
            f"expected vectors (T, B, {math.prod(shape)}) for frames of shape {shape}, got "
            f"{vectors.shape}: see as_vectors"
        )
    frames = vectors.reshape(*vectors.shape[:2], *shape)
    return frames if scale is None else frames * scale.std + scale.mean
