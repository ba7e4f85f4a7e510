"""Batches between the thread that draws them and the training step: packed small for a GPU.

A CPU learns from the batch as it was drawn. For a GPU the host sends less than the frames. The GPU
computes the frames itself, to the same bytes (gpu/frames.py). For Moving MNIST and actions the host
sends the indices of the digits and their places, for other pictures bytes, for percepts floats.

    packing = packing_of(source, config, ranks)
    packed  = packing.pack(k)          on the host, in a thread of its own: tuples of small arrays
    batch   = packing.open(packed)     in the step; with CuPy `packed` is on the GPU by then

Read next: batches.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import asarray, current_backend
from ..config import Config
from ..data import Actions, MovingMNIST, actions
from ..gpu import frames
from . import batches
from .distributed import ALONE, Alone
from .step import Batch


class Packing:
    """Batches of a source as they are drawn, for a CPU."""

    def __init__(self, source, config: Config, ranks: Alone = ALONE):
        self.source, self.config, self.ranks = source, config, ranks
        self.rows = ranks.rows(config.run.batch_size)

    def pack(self, k: int):
        """Draw batch number k."""
        return batches.draw_batch(self.source, self.config, k, self.ranks)

    def open(self, packed) -> Batch:
        """Return the batch that was packed."""
        return packed


class NumbersPacking(Packing):
    """Frames as floats (T, B, D), for a GPU. The base of the packings that send less."""

    def pack(self, k: int) -> tuple:
        """Return what the device needs of batch k: the plan of its frames, and its choices."""
        feed_truth, masks, share, rate = batches.choices_of(self.config, k, self.rows)
        return self.plan(k), feed_truth, masks, share, np.array(rate)

    def open(self, packed: tuple) -> Batch:
        """Make the frames on the device, and return the batch."""
        plan, *choices = packed
        x, past = self.draw(*plan), self.config.data.past
        return Batch(x[:past], x[past:], *choices)

    def plan(self, k: int) -> tuple:
        """Return the arrays from which `draw` makes the frames of batch k."""
        batch = batches.draw_batch(self.source, self.config, k, self.ranks)
        return (np.concatenate((batch.past, batch.future)),)

    def draw(self, *plan):
        """Make the frames (T, B, D) on the device."""
        return plan[0]


class BytesPacking(NumbersPacking):
    """Frames as bytes."""

    def __init__(self, source, config, ranks=ALONE):
        super().__init__(source, config, ranks)
        scale = (None, None) if source.scale is None else (source.scale.mean, source.scale.std)
        self.mean, self.std = (x if x is None else asarray(x, np.float32) for x in scale)

    def plan(self, k):
        """Return the frames of batch k as bytes."""
        return (self.source.batch(k, self.config.run.batch_size)[:, self.rows],)

    def draw(self, pictures):
        """Normalise bytes on the device: frames (T, B, D)."""
        return frames.from_bytes(pictures, self.mean, self.std, self.config.run.dtype)


class MovingPacking(NumbersPacking):
    """Moving MNIST as the indices and corners of digits. The digits themselves are sent once."""

    def __init__(self, source, config, ranks=ALONE):
        super().__init__(source, config, ranks)
        self.digits = asarray(source.images, np.uint8)

    def plan(self, k):
        """Return the indices of the digits of batch k, and their corners."""
        chosen, corners = self.source.plan(k, self.config.run.batch_size)
        return chosen[self.rows].astype(np.int32), corners[:, self.rows].astype(np.int32)

    def draw(self, chosen, corners):
        """Draw the digits at their corners on the device: frames (T, B, D)."""
        size, dtype = self.source.frame_size, self.config.run.dtype
        return frames.moving_digits(self.digits, chosen, corners, size, dtype)


class ActingPacking(BytesPacking):
    """Actions as the indices and places of digits. The digits themselves are sent once."""

    def __init__(self, source, config, ranks=ALONE):
        super().__init__(source, config, ranks)
        self.digits = asarray(source.images, np.uint8)
        self.middle = asarray(actions.middles(source.frame_size), np.float32)

    def plan(self, k):
        """Return the indices of the digits of batch k, and their places."""
        chosen, at = self.source.plan(k, self.config.run.batch_size)
        places = actions.places(at, self.source.images.shape[1])
        return chosen[self.rows].astype(np.int32), places[:, self.rows]

    def draw(self, chosen, places):
        """Draw the digits at their places on the device: frames (T, B, D)."""
        return frames.acting_digits(
            self.digits, chosen, places, self.middle, self.mean, self.std, self.config.run.dtype
        )


def packing_of(source, config: Config, ranks: Alone = ALONE) -> Packing:
    """Choose the packing for a source and the library in use."""
    if current_backend().name == "numpy":
        return Packing(source, config, ranks)
    if isinstance(source, MovingMNIST):
        return MovingPacking(source, config, ranks)
    if isinstance(source, Actions):
        return ActingPacking(source, config, ranks)
    pictures = len(source.frame_shape) > 1
    return (BytesPacking if pictures else NumbersPacking)(source, config, ranks)
