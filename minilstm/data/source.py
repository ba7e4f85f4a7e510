"""The interface that all sources of frames share, so that training needs no branches.

Read next: moving_mnist.py (the slides' Figure 5).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .vectors import Scale


class Source(Protocol):
    """A supply of sequences of T frames: MovingMNIST, Actions, SequenceFile, Patches or Percepts.

    A batch is a pure function of the source's settings, its seed, k and B. Any batch can be drawn
    at any time, in any order and by any process, and has the same bits.
    """

    @property
    def num_frames(self) -> int:
        """T, the frames of each sequence."""

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of a frame: (height, width), (height, width, 3) in colour, (D,) of percepts."""

    @property
    def num_sequences(self) -> int | float:
        """The number of sequences; math.inf for sources that draw them."""

    @property
    def scale(self) -> Scale | None:
        """The scale by which frames are normalised; None where they stay in [0, 1]."""

    def batch(self, k: int, B: int) -> np.ndarray:
        """Draw batch number k of B sequences: bytes (T, B, height, width[, 3]), time first.

        Percepts are floats (T, B, D).
        """
