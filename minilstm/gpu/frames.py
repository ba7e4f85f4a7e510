"""Frames drawn or converted on the device, from bytes and from what the host drew at random.

The host sends little: which digits and where, or bytes. The kernels of frames.cuh make the frames
of a batch from it, (T, B, D) of the model's dtype, with the same numbers as on the host.

Read next: frames.cuh; ../training/packing.py chooses among these functions.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from . import kernels


def from_bytes(frames, mean, std, dtype):
    """Bytes (T, B, ...) on the device as (T, B, D): `as_vectors`. mean, std (colours,) or None."""
    T, B, *shape = frames.shape
    x = xp.empty((T, B, int(np.prod(shape))), dtype)
    colours = 1 if mean is None else len(mean)
    _launch("from_bytes", x, np.int32(colours), frames, mean, std)
    return x


def moving_digits(digits, chosen, corners, frame_size: int, dtype):
    """Moving MNIST: `draw_frames`, then `as_vectors`.

    digits uint8 (N, S, S), chosen int32 (B, n), corners int32 (T, B, n, 2) -> (T, B, D).
    """
    T, B, n, _ = corners.shape
    x = xp.empty((T, B, frame_size * frame_size), dtype)
    sizes = map(np.int32, (B, n, digits.shape[1], frame_size))
    _launch("moving_digits", x, *sizes, digits, chosen, corners)
    return x


def acting_digits(digits, chosen, places, middle, mean, std, dtype):
    """Actions: `draw_digits`, `changes_of` if there is a mean to normalise by, and `as_vectors`.

    digits uint8 (N, S, S), chosen int32 (B,), places float32 (T, B, 5), middle float32 (side of a
    frame,), mean and std (1,) or None -> (T, B, D), of changes (T - 1, B, D).
    """
    changes, frame_size = mean is not None, len(middle)
    T, B, _ = places.shape
    x = xp.empty((T - changes, B, frame_size * frame_size), dtype)
    sizes = map(np.int32, (B, digits.shape[1], frame_size, changes))
    _launch("acting_digits", x, *sizes, digits, chosen, places, middle, mean, std)
    return x


def _launch(name, x, *arguments):
    kernels.launch("frames.cuh", name, x.dtype, x.size, np.int64(x.size), *arguments, x)
