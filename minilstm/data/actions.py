"""Synthetic actions: MNIST digits that do one of eighteen things, drawn as they are needed.

No single frame shows what a digit does. A clip of any action starts with five numbers, drawn from
the uniform distribution on [0, 1): the digit's place (down and right), size, angle and brightness.
Each number is a point on a circle: 1 is 0 again. For example, a digit that leaves the frame on the
right comes back on the left. An action moves some of the points from frame to frame. How far they
move does not depend on where they are. A uniform distribution on a circle stays uniform when all of
it is moved by the same amount. So place, size, angle, brightness and digit have the same joint
distribution in every class and at every frame. Only the CHANGES from frame to frame show the class.

    Motion        the points that an action moves, and the direction: the table ACTIONS
    states        the points at every frame, as places, sizes, angles and brightnesses
    draw_digits   the pixels

The paper's action data (UCF-101, HMDB-51) are large, and a single frame of them often shows the
class.

Read next: training/classifier.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..backend import free_host_memory
from ..errors import ConfigError, DataError, whole_number
from .clips import Clips
from .digits import expect_bytes, resize_digits
from .rng import Purpose, keyed_rng
from .vectors import Scale

SEQUENCES, CLIPS = 0, 1  # two series of draws that share nothing
INK = 14  # pixels of a digit before it is drawn larger or smaller

# Lengths are shares of the frame's side, rates are per frame; every clip has its own pace.
PACE = (0.7, 1.3)
SPEED = 0.05
CIRCLE, CIRCLE_RATE = 0.2, 1 / 14  # radius; turns
BOUNCE, BOUNCE_RATE = 0.4, 1 / 10  # height; bounces
SHAKE, SHAKE_RATE = 0.1, 1 / 3.7  # to either side; shakes
GROW_RATE = 1 / 16  # of the way from smallest to largest, then again from the smallest
SPIN_RATE = 1 / 20  # turns
BLINK_RATE, LIGHT_RATE = 1 / 4, 1 / 40  # of a blinking digit; the largest of any other action
SIZES = (0.5, 0.9)  # of the whole 28x28 picture of a digit; its strokes fill only 20x20
LIGHTS = (0.3, 1.0)
# Normalises changes: the byte 127 (no change) becomes 0, and the standard deviation, which was
# measured, becomes 1.
CHANGES = Scale(np.array([127 / 255], np.float32), np.array([0.044], np.float32))


class Motion(NamedTuple):
    """Motion of an action: the direction of each of its components, 0 for none."""

    right: float = 0
    down: float = 0
    circle: float = 0  # clockwise
    bounce: float = 0
    shake: float = 0
    grow: float = 0
    spin: float = 0  # clockwise
    blink: float = 0


DIAGONAL = math.sqrt(0.5)
ACTIONS = {
    "left": Motion(right=-1),
    "right": Motion(right=1),
    "up": Motion(down=-1),
    "down": Motion(down=1),
    "up-left": Motion(right=-DIAGONAL, down=-DIAGONAL),
    "up-right": Motion(right=DIAGONAL, down=-DIAGONAL),
    "down-left": Motion(right=-DIAGONAL, down=DIAGONAL),
    "down-right": Motion(right=DIAGONAL, down=DIAGONAL),
    "circle clockwise": Motion(circle=1),
    "circle anticlockwise": Motion(circle=-1),
    "bounce": Motion(bounce=1),
    "shake": Motion(shake=1),
    "grow": Motion(grow=1),
    "shrink": Motion(grow=-1),
    "spin clockwise": Motion(spin=1),
    "spin anticlockwise": Motion(spin=-1),
    "blink": Motion(blink=1),
    "still": Motion(),
}
CLASSES = tuple(ACTIONS)
COPIES = 3  # while clips are drawn and joined, memory holds this many arrays of their size


class States(NamedTuple):
    """Places and looks of digits, (T, N) each.

    down, right   place of the digit's middle, in [0, 1): a share of the frame's side
    size          side of the whole digit, a share of the frame's side
    angle         clockwise, in turns
    light         factor of the brightness
    """

    down: np.ndarray
    right: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    light: np.ndarray


def states(rng: np.random.Generator, labels: np.ndarray, T: int) -> States:
    """Draw the states of N digits for T frames, given their actions `labels` (N,)."""
    N, t = len(labels), np.arange(T)[:, None]
    down, right, size, angle, light = rng.random((5, N))  # points on circles: 1 is 0 again
    phase, light_rate = rng.random(N), LIGHT_RATE * rng.uniform(-1, 1, N)
    steps = t * rng.uniform(*PACE, N)
    do = Motion(*np.array(list(ACTIONS.values()))[labels].T)

    turn = 2 * np.pi * (phase + do.circle * CIRCLE_RATE * steps)
    on_circle = CIRCLE * abs(do.circle)
    flight = (phase + BOUNCE_RATE * steps) % 1
    shaken = np.sin(2 * np.pi * (phase + SHAKE_RATE * steps))
    down = down + SPEED * do.down * steps + on_circle * np.sin(turn)
    down -= BOUNCE * do.bounce * 4 * flight * (1 - flight)
    right = right + SPEED * do.right * steps + on_circle * np.cos(turn) + SHAKE * do.shake * shaken
    size = (size + GROW_RATE * do.grow * steps) % 1
    angle = angle + SPIN_RATE * do.spin * steps
    light = light + np.where(do.blink, BLINK_RATE * steps, light_rate * t)
    to_and_fro = abs(2 * (light % 1) - 1)  # a triangle wave over the circle is uniform, too
    smallest, largest = SIZES
    darkest, brightest = LIGHTS
    return States(
        down % 1,
        right % 1,
        smallest * (largest / smallest) ** size,
        angle % 1,
        darkest + (brightest - darkest) * to_and_fro,
    )


def draw_digits(digits: np.ndarray, at: States, frame_size: int) -> np.ndarray:
    """Paint digits uint8 (N, side, side) on black as `at` says: uint8 (T, N, height, width).

    A pixel of the frame gets the bilinear interpolation of the four nearest pixels of the digit.
    Raises ShapeError for digits that are no bytes.
    """
    expect_bytes(digits, "(N, S, S)")
    N, side, _ = digits.shape
    padded = np.zeros((N, side + 2, side + 2), np.float32)  # nothing but black around it
    padded[:, 1:-1, 1:-1] = digits

    middle = middles(frame_size)
    down, right, cos, sin, light = np.moveaxis(places(at, side)[..., None, None], 2, 0)
    y = (middle[:, None] - down + 0.5) % 1 - 0.5  # from the digit's middle, the short way round
    x = (middle - right + 0.5) % 1 - 0.5
    row, column = cos * y - sin * x, cos * x + sin * y  # turned back, in the digit's pixels
    for place in (row, column):
        place += (side + 1) / 2
        np.clip(place, 0, side + 0.999, out=place)
    i, j = row.astype(np.int32), column.astype(np.int32)
    row -= i
    column -= j
    corner = np.arange(N, dtype=np.int32)[:, None, None] * (side + 2) ** 2 + i * (side + 2) + j
    frames = _between(padded, corner, column)
    frames += row * (_between(padded, corner + (side + 2), column) - frames)
    frames *= light
    return np.rint(frames).astype(np.uint8)


def places(at: States, side: int) -> np.ndarray:
    """Return what drawing needs: down, right, cos, sin, light as float32 (T, N, 5).

    cos and sin are those of the angle, times a factor that converts shares of the frame's side to
    pixels of the digit, which has `side` pixels.
    """
    at = States(*(x.astype(np.float32) for x in at))
    turn = 2 * np.pi * at.angle
    cos, sin = np.cos(turn) * (side / at.size), np.sin(turn) * (side / at.size)
    return np.stack((at.down, at.right, cos, sin, at.light), axis=-1)


def middles(frame_size: int) -> np.ndarray:
    """Return where the middles of pixels are, as shares of the frame's side: float32."""
    return (np.arange(frame_size, dtype=np.float32) + 0.5) / frame_size


def _between(image, left, share):
    """Interpolate between the pixels number `left` and those to their right."""
    pixels = image.ravel()
    a, b = pixels.take(left), pixels.take(left + 1)
    b -= a
    b *= share
    a += b
    return a


class Actions:
    """Endless source of acting digits: unlabelled by `batch`, labelled by `clips`.

    `batch(k, B)` is a pure function of (seed, k, B), with the interface of `MovingMNIST`. `images`
    are digits uint8 (N, 28, 28), as `load_digits` returns them. The digit of a clip is drawn
    independently of its action. With `changes`, frames are the changes between successive frames.
    Raises ConfigError or ShapeError for settings that do not fit.
    """

    num_sequences = math.inf

    def __init__(
        self,
        images: np.ndarray,
        frame_size: int = 24,
        num_frames: int = 20,
        seed: int = 0,
        changes: bool = False,
    ):
        self.frame_size = whole_number("frame_size", frame_size, 1)
        self.num_frames = whole_number("num_frames", num_frames, 1)
        self.seed, self.changes = whole_number("seed", seed, 0), changes
        self.scale = CHANGES if changes else None
        self.images = resize_digits(images, INK)
        if not len(images):
            raise DataError("expected at least one digit to choose from, got none: give more")

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Shape of a frame: (height, width), in pixels."""
        return self.frame_size, self.frame_size

    def batch(self, k: int, B: int) -> np.ndarray:
        """Return batch k (from 0) of B clips of any action: uint8 (T, B, height, width)."""
        return self._drawn(*self.plan(k, B))

    def plan(self, k: int, B: int) -> tuple[np.ndarray, States]:
        """Return the random draws of batch k: which of `images` (B,), and the states (T, B).

        With `changes` there is one more state than there are frames.
        """
        k, B = whole_number("k", k, 0), whole_number("B", B, 1)
        rng = keyed_rng(Purpose.ACTIONS, self.seed, SEQUENCES, k)
        return self._plan(rng, rng.integers(len(CLASSES), size=B))

    def clips(self, per_class: int, first: int = 0) -> Clips:
        """Return `per_class` labelled clips of every class, from number `first` on.

        The classes come in turn. A larger set begins with the clips of a smaller one. Raises
        ConfigError if so many do not fit into memory.
        """
        K, labels = whole_number("per_class", per_class, 1), np.arange(len(CLASSES))
        fit = free_host_memory() // (COPIES * len(labels) * self.num_frames * self.frame_size**2)
        if K > fit:
            raise ConfigError(
                f"expected clips that fit into the {free_host_memory() / 1e9:.1f} GB of memory "
                f"that are free, got {K} of each class: ask for {fit} or fewer"
            )
        numbers = range(whole_number("first", first, 0), first + K)
        rngs = (keyed_rng(Purpose.ACTIONS, self.seed, CLIPS, k) for k in numbers)
        rounds = [self._drawn(*self._plan(rng, labels)) for rng in rngs]
        frames = np.concatenate(rounds, axis=1).swapaxes(0, 1)
        N = K * len(labels)
        return Clips(
            frames.reshape(-1, *self.frame_shape),
            np.full(N, self.num_frames),
            np.tile(labels, K),
            CLASSES,
            sizes=np.full((N, 2), self.frame_size),
            scale=self.scale,
            names=tuple(f"{name} {k}" for k in numbers for name in CLASSES),
        )

    def _plan(self, rng, labels):
        chosen = rng.integers(len(self.images), size=len(labels))
        return chosen, states(rng, labels, self.num_frames + self.changes)

    def _drawn(self, chosen, at):
        frames = draw_digits(self.images[chosen], at, self.frame_size)
        return changes_of(frames) if self.changes else frames


def changes_of(frames: np.ndarray) -> np.ndarray:
    """Return the changes from each frame to the next: bytes (T, ...) -> bytes (T - 1, ...).

    A change is half the difference, plus 127: so 127 means no change. Changes of pixels are the
    simplest replacement for optical flow.
    """
    return ((255 + frames[1:].astype(np.int16) - frames[:-1]) // 2).astype(np.uint8)
