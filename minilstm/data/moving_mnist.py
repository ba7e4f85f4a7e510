"""Moving MNIST: digits that drift over a black frame and bounce off its walls (the slides' Fig. 5).

Every digit starts at a random place and keeps one direction and one speed until it meets a wall. So
the first frames of a sequence determine the rest, and a model can learn to continue it.

    digits        the next entries of an endless shuffled list      (rng.py)
    trajectories  the top-left corner of every digit in every frame
    draw_frames   the pixels; where digits overlap, the brighter one

Everything works on a whole batch at once. Only time is a loop, because a step needs the one before.

Source: the paper's experiments on MNIST; for details that the text leaves open, its authors'
generator.
Read next: sequences.py, for the same frames from a file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ConfigError, DataError, whole_number
from .digits import SIZE, expect_bytes, resize_digits
from .rng import Purpose, endless_shuffle, keyed_rng

SPEEDS = ("constant", "random")
STEP = 0.1  # per frame, of the way from wall to wall: 3.6 pixels with 28-pixel digits, 64x64 frames


def _check_speed(speed):
    if speed not in SPEEDS:
        raise ConfigError(f"expected speed {' or '.join(SPEEDS)}, got {speed!r}: choose one")


def trajectories(
    rng: np.random.Generator, N: int, num_frames: int, slack: int, speed: str = "constant"
) -> np.ndarray:
    """Draw the paths of N digits: top-left corners (row, column), in pixels (num_frames, N, 2).

    The corner of a digit can move `slack` = frame_size - digit_size pixels from wall to wall.
    Positions are computed as fractions of the slack, in [0, 1]. Corners are whole numbers in
    0..slack, rounded down. The direction is uniform. The speed per frame, as a fraction of the
    slack, is 0.1 ("constant", as in the authors' generator), or uniform in 0..0.2 for each digit
    ("random": the paper's text has a random speed but no range; this one has the same mean). Draws
    from `rng` only. Raises ConfigError for an unknown speed.
    """
    _check_speed(speed)
    position = rng.random((N, 2))
    angle = rng.uniform(0, 2 * np.pi, (N, 1))
    step = STEP if speed == "constant" else rng.uniform(0, 2 * STEP, (N, 1))
    velocity = step * np.hstack([np.sin(angle), np.cos(angle)])

    corners = np.empty((num_frames, N, 2), np.int64)
    for t in range(num_frames):
        position = position + velocity  # before drawing, so frame 0 is already one step on
        at_wall = (position <= 0) | (position >= 1)
        position = np.clip(position, 0, 1)  # stop at the wall: clamp, not reflect
        velocity = np.where(at_wall, -velocity, velocity)
        corners[t] = (slack * position).astype(np.int64)
    return corners


def draw_frames(digits: np.ndarray, corners: np.ndarray, frame_size: int) -> np.ndarray:
    """Paint digits uint8 (B, n, S, S) at corners (T, B, n, 2) on black: uint8 (T, B, size, size).

    Where digits overlap, the brighter pixel is kept, so their order does not matter. Raises
    ShapeError for digits that are no bytes, DataError for a digit that is not whole in the frame.
    """
    expect_bytes(digits, "(B, n, S, S)")
    T, B, n, _ = corners.shape
    side = digits.shape[-1]
    if corners.size and not 0 <= corners.min() <= corners.max() <= frame_size - side:
        raise DataError(
            f"expected corners 0 to {frame_size - side} (frame {frame_size}, digit {side}), got "
            f"{corners.min()} to {corners.max()}: use those of trajectories()"
        )
    frames = np.zeros((T, B, frame_size, frame_size), np.uint8)
    # windows[t, b, row, column] is the side x side piece of frame (t, b) with that top-left
    # corner. It is a view, so writing to it writes to the frame.
    windows = sliding_window_view(frames, (side, side), axis=(2, 3), writeable=True)
    t, b = np.ogrid[:T, :B]
    for d in range(n):  # one digit of each frame at a time, because the windows must not overlap
        here = t, b, corners[:, :, d, 0], corners[:, :, d, 1]
        windows[here] = np.maximum(windows[here], digits[:, d])
    return frames


class MovingMNIST:
    """Endless source of moving digits. `batch(k, B)` is a pure function of (seed, k, B).

    `images` are digits uint8 (N, 28, 28), as `load_digits` returns them. They are scaled down to
    `digit_size` pixels. Sequences take digits without replacement: each of the N is used once
    before any is used twice. Raises ConfigError or ShapeError for settings that do not fit,
    DataError for fewer digits than one sequence needs.
    """

    scale = None
    num_sequences = math.inf

    def __init__(
        self,
        images: np.ndarray,
        num_digits: int = 2,
        frame_size: int = 64,
        digit_size: int = SIZE,
        num_frames: int = 20,
        speed: str = "constant",
        seed: int = 0,
    ):
        self.num_digits = whole_number("num_digits", num_digits, 1)
        self.frame_size = whole_number("frame_size", frame_size, 1)
        self.digit_size = whole_number("digit_size", digit_size, 1)
        self.num_frames = whole_number("num_frames", num_frames, 1)
        self.seed = whole_number("seed", seed, 0)
        _check_speed(speed)
        self.speed = speed
        if digit_size > frame_size:
            raise ConfigError(
                f"expected digit_size <= frame_size = {frame_size}, got {digit_size}: "
                "lower digit_size or raise frame_size"
            )
        self.images = resize_digits(images, digit_size)
        if len(images) < num_digits:
            raise DataError(
                f"expected at least num_digits = {num_digits} digits to choose from, "
                f"got {len(images)}: give more images or lower num_digits"
            )

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Shape of a frame: (height, width), in pixels."""
        return self.frame_size, self.frame_size

    def batch(self, k: int, B: int) -> np.ndarray:
        """Return batch k (from 0) of B sequences: uint8 (T, B, height, width), 0 black to 255."""
        chosen, corners = self.plan(k, B)
        return draw_frames(self.images[chosen], corners, self.frame_size)

    def plan(self, k: int, B: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the random draws of batch k: which of `images` (B, n), corners (T, B, n, 2)."""
        k, B = whole_number("k", k, 0), whole_number("B", B, 1)
        T, n = self.num_frames, self.num_digits
        chosen = endless_shuffle(len(self.images), self.seed, k * B * n, B * n)
        slack = self.frame_size - self.digit_size
        corners = trajectories(keyed_rng(Purpose.MOTION, self.seed, k), B * n, T, slack, self.speed)
        return chosen.reshape(B, n), corners.reshape(T, B, n, 2)
