"""Labelled clips of different lengths, and windows of equal length for a classifier.

The frames of all clips stand end to end in one array, as in the files of the authors' second
release. A clip is a slice of that array:

    clips = Clips(frames, lengths, labels, classes)
    which, first = windows(clips.lengths, window=16, stride=8)
    x = clips.cut(which[:32], first[:32], 16)      # (16, 32, ...): time first, then the batch

Slides: "Transfer Learning for Action Recognition" (Fig 11).
Read next: actions.py, which draws such clips; percepts.py, which reads them;
training/classifier.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, whole_number
from .vectors import Scale, as_vectors, scale_of

UNLABELLED = -1


def expect_classes(clips: Clips) -> None:
    """Raise DataError unless the labelled clips are of two classes or more."""
    found = np.unique(clips.labels[clips.labels > UNLABELLED])
    if len(found) < 2:
        raise DataError(
            f"expected clips of at least 2 classes, got {len(found)}: name the class of each "
            "video, by its folder or in a list"
        )


@dataclass(frozen=True)
class Clips:
    """N labelled clips of different lengths.

    frames   (sum of lengths, ...) the frames of all clips end to end: floats (.., D), or bytes
             (.., height, width[, 3])
    lengths  (N,) number of frames of each clip
    labels   (N,) index into `classes`, or -1: unlabelled
    groups   (N,) clips of one recording share a number, so that no split separates them. By default
             each clip is a recording of its own
    sizes    (N, 2) width and height of the original video in pixels; 0 if unknown
    names    N texts, the origin of each clip
    scale    normalises bytes; without one they are learned in [0, 1]

    Raises DataError for parts that do not fit together, or two classes of one name.
    """

    frames: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray = None
    sizes: np.ndarray = None
    names: tuple[str, ...] = None
    scale: Scale | None = None

    def __post_init__(self):
        N = len(self.lengths)
        defaults = {
            "groups": np.arange(N),
            "sizes": np.zeros((N, 2), np.int64),
            "names": tuple(f"clip {n}" for n in range(N)),
        }
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in ("lengths", "labels", "groups", "sizes"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        for name, wanted in (("lengths", ()), ("labels", ()), ("groups", ()), ("sizes", (2,))):
            shape = getattr(self, name).shape
            if shape[1:] != wanted or not shape:
                raise DataError(
                    f"expected {name} of shape {'(N, 2)' if wanted else '(N,)'}, got {shape}: give "
                    f"{'width and height' if wanted else 'a number'} for each clip"
                )
        for name in ("labels", "groups", "sizes", "names"):
            if len(getattr(self, name)) != N:
                raise DataError(
                    f"expected {name} of {N} clips, as many as lengths, got "
                    f"{len(getattr(self, name))}: give one entry for each clip"
                )
        if (self.lengths < 1).any():
            n = int((self.lengths < 1).argmax())
            raise DataError(
                f"expected clips of at least 1 frame, got {self.lengths[n]} in {self.names[n]}: "
                "leave it out"
            )
        if self.lengths.sum() != len(self.frames):
            raise DataError(
                f"expected {self.lengths.sum()} frames, the sum of all lengths, got "
                f"{len(self.frames)}: are lengths and frames of the same file?"
            )
        check_classes(self.classes)
        wrong = (self.labels < UNLABELLED) | (self.labels >= len(self.classes))
        if wrong.any():
            n = int(wrong.argmax())
            raise DataError(
                f"expected labels -1 to {len(self.classes) - 1}, got {self.labels[n]} in "
                f"{self.names[n]}: name all classes"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """Index of each clip's first frame, (N,)."""
        return np.cumsum(self.lengths) - self.lengths

    def clip(self, n: int) -> np.ndarray:
        """Return the frames of clip n: a view (T, ...)."""
        start = self.starts[n]
        return self.frames[start : start + self.lengths[n]]

    def select(self, indices: np.ndarray) -> Clips:
        """Return the clips of these indices, in their order, or of a mask (N,) of bool."""
        chosen = np.arange(len(self))[indices]
        starts = self.starts
        parts = [self.frames[starts[n] : starts[n] + self.lengths[n]] for n in chosen]
        return replace(
            self,
            frames=np.concatenate(parts) if parts else self.frames[:0],
            lengths=self.lengths[chosen],
            labels=self.labels[chosen],
            groups=self.groups[chosen],
            sizes=self.sizes[chosen],
            names=tuple(self.names[n] for n in chosen),
        )

    def cut(self, which: np.ndarray, first: np.ndarray, window: int) -> np.ndarray:
        """Cut windows out of clips `which` (B,), from frame `first` (B,) of each: (window, B, ...).

        A window that reaches beyond the end of its clip repeats the clip's last frame. Raises
        DataError for a window that begins outside of its clip.
        """
        which, first = np.broadcast_arrays(which, first)
        outside = (which < 0) | (which >= len(self))
        if not outside.any():
            outside = (first < 0) | (first >= self.lengths[which])
        if outside.any():
            b = outside.argmax()
            raise DataError(
                f"expected windows that begin inside a clip, got frame {first[b]} of clip "
                f"{which[b]}: call minilstm.data.windows"
            )
        t = first + np.arange(window)[:, None]
        return self.frames[self.starts[which] + np.minimum(t, self.lengths[which] - 1)]


def expect_labels(labels: np.ndarray, K: int) -> None:
    """Raise DataError unless all labels are 0 to K - 1. A label of -1 would be the last class."""
    labels = np.asarray(labels)
    wrong = (labels < 0) | (labels >= K)
    if wrong.any():
        raise DataError(
            f"expected labels 0 to {K - 1}, got {labels[wrong].flat[0]}: leave out clips without a "
            "label, or name all classes"
        )


def check_classes(classes: Iterable[str]) -> None:
    """Raise DataError if two class names differ only by spaces at their ends, or not at all.

    Accented letters count as the same in both of Unicode's spellings (one or two characters).
    """
    known = {}
    for name in classes:
        plain = unicodedata.normalize("NFC", name).strip()
        if plain in known:
            raise DataError(
                f"expected classes of different names, got {known[plain]!r} and {name!r}: rename "
                "one, or put their clips together"
            )
        known[plain] = name


def windows(lengths: np.ndarray, window: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows that cover clips of these lengths (N,): (clip, first frame), int64 (W,) each.

    A clip's windows begin every `stride` frames. If the clip's last frames would be left out, one
    more window ends with them. A clip shorter than a window has one window.
    """
    whole_number("window", window, 1)
    whole_number("stride", stride, 1)
    last = np.maximum(np.asarray(lengths, np.int64) - window, 0)
    count = -(-last // stride) + 1
    which = np.repeat(np.arange(len(last)), count)
    number = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, np.minimum(number * stride, last[which])


def clip_vectors(frames: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Convert frames of clips (T, B, ...) to the vectors that a layer takes: float32 (T, B, D).

    Bytes are scaled to [0, 1], or normalised by `scale`. Floats are normalised by `scale` if it is
    given.
    """
    if frames.dtype != np.uint8 and scale is None:
        return frames.astype(np.float32)
    return as_vectors(frames, scale)


def scale_of_clips(clips: Clips) -> Scale | None:
    """Return the scale of the frames of `clips`: mean and standard deviation of each number.

    For bytes it is `clips.scale`. That is None for clips of digits, which stay in [0, 1].
    """
    if clips.frames.dtype == np.uint8:
        return clips.scale
    return scale_of(clips.frames)


def _whole_numbers(name, values):
    values = np.asarray(values)
    if values.dtype.kind not in "iu" and values.size:
        raise DataError(f"expected whole numbers for {name}, got {values.dtype}: convert them")
    return values.astype(np.int64)
