"""Percepts: features of each frame of a set of videos, by a network trained on ImageNet.

A set is a folder in the layout of the authors' second release (data_tools/extract_percepts.py):

    features.h5      the array "features", or the only one: (frames of all videos, D) of floats
    num_frames.txt   a line per video: its number of frames
    labels.txt       a line per video: its class, from 0, or -1: unlabelled

Four more files are optional:

    names.txt, classes.txt, groups.txt (the number of a video's recording), sizes.txt (width and
    height in pixels)

`read_percepts` and `write_percepts` read and write a folder. `Percepts` is the source of frames
that models are trained from.

Slides: "Input at each timestep". Read next: splits.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, named, one_line, whole_number
from ..files import replacing, write_file
from .clips import Clips, windows
from .rng import endless_shuffle, members_of_split
from .vectors import Scale

ARRAY = "features"
CHUNK_NUMBERS = 2**24  # checked together
UNPACKED = 1100  # an array has at most this many times its file's bytes: gzip's limit is lower


def read_percepts(folder: str | Path, which: np.ndarray | None = None) -> Clips:
    """Read the clips of a folder of percepts: frames (sum of lengths, D) of the file's own type.

    With `which`, read only the clips of these indices, in their order. Raises DataError, in one
    line, for files that are missing, damaged, of other types, or do not fit together, for numbers
    that are not finite, and without h5py.
    """
    folder = Path(folder)
    lengths = _whole_numbers(folder / "num_frames.txt")[:, 0]
    labels = _whole_numbers(folder / "labels.txt")[:, 0]
    names, classes = (_lines(folder / f"{name}.txt", None) for name in ("names", "classes"))
    groups = _whole_numbers(folder / "groups.txt", optional=True)
    optional: dict[str, Any] = {
        "groups": groups if groups is None else groups[:, 0],
        "sizes": _whole_numbers(folder / "sizes.txt", columns=2, optional=True),
        "names": names and tuple(names),
    }
    if classes is None:
        classes = map(str, range(labels.max() + 1))
    try:
        clips = Clips(
            np.empty((max(0, lengths.sum()), 0), np.float16),  # frames without numbers, for now
            lengths,
            labels,
            tuple(classes),
            **optional,
        )
        if which is not None:
            clips = clips.select(which)
        return replace(clips, frames=_read_frames(folder / "features.h5", lengths, which))
    except DataError as error:
        prefix = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise DataError(f"{prefix}{error}") from error


def write_percepts(folder: str | Path, clips: Clips) -> None:
    """Write clips of floats (.., D) as a folder of percepts.

    features.h5 is written last, whole or not at all. Raises RunError if a file can't be written,
    DataError without h5py.
    """
    folder, h5py = Path(folder), _h5py()
    texts: dict[str, Iterable] = {
        "num_frames": clips.lengths,
        "labels": clips.labels,
        "names": clips.names,
        "classes": clips.classes,
        "groups": clips.groups,
        "sizes": (f"{width} {height}" for width, height in clips.sizes),
    }
    for name, lines in texts.items():
        write_file(folder / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    with replacing(folder / "features.h5") as temporary, h5py.File(temporary, "w") as file:
        file[ARRAY] = clips.frames


def _h5py():
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            "expected the library h5py for percepts, got none: pip install -e '.[video]'"
        ) from error
    return h5py


def _read_frames(path, lengths, which):
    h5py, total = _h5py(), int(lengths.sum())
    try:
        with h5py.File(path, "r") as file:
            name = ARRAY if ARRAY in file or len(file) != 1 else next(iter(file))
            array = file[name]
            if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not floats (frames, D)")
            if array.nbytes > UNPACKED * path.stat().st_size:
                raise ValueError(f"{name} of {array.shape} in {path.stat().st_size} bytes")
            if len(array) != total:
                raise ValueError(f"{len(array)} frames, where num_frames.txt has {total}")
            if which is None:
                frames = array[:]
            else:
                ends = np.cumsum(lengths)
                pieces = (array[ends[n] - lengths[n] : ends[n]] for n in which)
                frames = np.concatenate([array[:0], *pieces])
    except Exception as error:  # a damaged file fails in many ways
        raise DataError(
            f"{path}: expected an HDF5 file with an array {ARRAY} of floats (frames, D), got "
            f"{named(error)}: extract them again"
        ) from error
    for start in range(0, len(frames), rows := max(1, CHUNK_NUMBERS // frames.shape[1])):
        if not (finite := np.isfinite(frames[start : start + rows]).all(axis=1)).all():
            raise DataError(
                f"{path}: expected finite numbers, got others in frame {start + finite.argmin()} "
                f"of the {len(frames)} that were read: extract them again"
            )
    return frames


def _lines(path, default):
    """Return the lines of a text. It may begin with the byte-order mark of an editor."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        if default is None:
            return None
        raise DataError(
            f"{path}: expected a line for every video, got no file: extract them again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected lines of text, got {one_line(error)}: check the path"
        ) from error


def _whole_numbers(path, columns=1, optional=False):
    """Return the numbers of a file, int64 (lines, columns), or None if optional and missing."""
    lines = _lines(path, None if optional else ())
    if lines is None:
        return None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append([int(word) for word in line.split()])
            if len(found[-1]) != columns or not all(abs(n) < 2**31 for n in found[-1]):
                raise ValueError
        except ValueError:
            words = f"{columns} whole numbers" if columns > 1 else "a whole number"
            raise DataError(
                f"{path}: expected {words} in line {number}, got {line!r:.60}: mend that line"
            ) from None
    if not found:
        raise DataError(f"{path}: expected a line for every video, got none: extract them again")
    return np.array(found, np.int64)


class Percepts:
    """Source of windows of percepts: batches float32 (T, B, D), shuffled.

    `percepts` is a folder or `Clips`. A window is T = `num_frames` frames of one video. The next
    window begins `stride` frames later. A video of fewer than T frames is left out, because
    repeating its last frame, as a classifier does, would teach that videos stop. `split` chooses
    recordings (Clips.groups): of every ten, eight are for "train", one for "test", one for
    "validation"; "all" takes all.

    `scale` has the mean and standard deviation of each of the D numbers over the frames of the
    TRAINING windows, whatever the split. For a set that is not trained on, pass the scale of the
    set that is. Raises what `read_percepts` raises, and DataError if a split has no window.
    """

    def __init__(
        self,
        percepts: str | Path | Clips,
        num_frames: int,
        seed: int = 0,
        split: str = "all",
        stride: int = 1,
        scale: Scale | None = None,
    ):
        self.num_frames = whole_number("num_frames", num_frames, 1)
        self.seed = whole_number("seed", seed, 0)
        self.stride = whole_number("stride", stride, 1)
        clips = percepts if isinstance(percepts, Clips) else read_percepts(percepts)
        if clips.frames.ndim != 2 or clips.frames.dtype.kind != "f":
            raise ConfigError(
                f"expected percepts, floats (frames, D), got {clips.frames.dtype} "
                f"{clips.frames.shape}: use data.Patches for frames of pixels"
            )
        self._clips = clips
        self._which, self._first = self._windows(split)
        if not len(self._which):
            where = "given clips" if clips is percepts else percepts
            raise DataError(
                f"{where}: expected a video of at least {self.num_frames} frames for {split}, got "
                f"none in {len(np.unique(clips.groups))} recordings (of every ten, number 8 is for "
                "test, 9 for validation): give more videos, or fewer past or future frames"
            )
        self.scale = scale or self._scale()

    def _windows(self, split):
        """Return (clip, first frame) of every window of a split, int64 (W,) each."""
        long_enough = self._clips.lengths >= self.num_frames
        chosen = members_of_split(self._clips.groups, split)
        chosen = chosen[long_enough[chosen]]
        which, first = windows(self._clips.lengths[chosen], self.num_frames, self.stride)
        return chosen[which], first

    def _scale(self):
        """Return mean and deviation of the frames of training windows, each counted once."""
        frames, D = self._clips.frames, self._clips.frames.shape[1]
        which, first = self._windows("train")
        total, squares, count = np.zeros(D), np.zeros(D), 0
        for n in np.unique(which):
            here = np.zeros(self._clips.lengths[n], bool)  # a stride > num_frames leaves some out
            for start in first[which == n]:
                here[start : start + self.num_frames] = True
            x = self._clips.clip(n)[here].astype(np.float64)
            total, squares, count = total + x.sum(0), squares + (x * x).sum(0), count + len(x)
        mean = total / max(count, 1)
        std = np.sqrt(np.maximum(squares / max(count, 1) - mean * mean, 0))
        tiny = std < 1e-6 * max(std.max(), np.finfo(frames.dtype).tiny)
        std[tiny] = 1  # a number that never changes becomes 0
        return Scale(mean.astype(np.float32), std.astype(np.float32))

    @property
    def frame_shape(self) -> tuple[int]:
        """Shape of a frame: (D,), because a percept is not a picture."""
        return self._clips.frames.shape[1:]

    @property
    def num_sequences(self) -> int:
        """Number of windows to draw from."""
        return len(self._which)

    def batch(self, k: int, B: int) -> np.ndarray:
        """Return batch k (from 0) of B shuffled windows: float32 (T, B, D), not normalised."""
        k, B = whole_number("k", k, 0), whole_number("B", B, 1)
        chosen = endless_shuffle(len(self._which), self.seed, k * B, B)
        frames = self._clips.cut(self._which[chosen], self._first[chosen], self.num_frames)
        return frames.astype(np.float32)
