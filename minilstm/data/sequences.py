"""Sequences from a file: the public Moving MNIST test sets, and files like them.

`mnist_test_seq.npy` holds (20, N, 64, 64) and `bouncing_mnist_test.npy` (N, 20, 64, 64) bytes. Both
are read through a memory map, so that only the frames of a batch enter memory. `SequenceFile` gives
them to training shuffled, with the interface of `MovingMNIST`, and to evaluation in the order of
the file.

Read next: the package's own docstring, __init__.py, for the interface.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError, named, one_line, whole_number
from ..files import refuse_pipe
from .rng import endless_shuffle, members_of_split

MAX_HEADER = 1000  # bytes: NumPy writes 118. To read a damaged header of 10,000 takes a minute
LOOKED_AT = 100  # entries of each of the first two axes that are searched for bytes above 1
PUBLIC_T = 20  # frames per sequence of both public files; the axis of that length is time


def read_sequences(
    path: str | Path, time_axis: int | None = None, num_frames: int | None = None
) -> np.ndarray:
    """Map the sequences of an .npy file, uint8 (T, N, height, width), read-only.

    Time is axis `time_axis`, 0 or 1. Without it, time is the one of these axes with length 20, as
    in both public files, or with length `num_frames`. Raises DataError for a file that is missing,
    damaged, or holds anything but four-dimensional bytes from 0 to 255, or if neither axis or both
    could be time. Pickled objects are refused unread.
    """
    if time_axis not in (None, 0, 1):
        raise ConfigError(f"expected time_axis 0, 1 or None, got {time_axis!r}: choose one")
    frames = map_npy(Path(path))
    if frames.dtype != np.uint8:
        raise DataError(
            f"{path}: expected uint8 frames, 0 to 255, got {frames.dtype}: convert them, for "
            "values in [0, 1] with np.save(path, np.rint(255 * frames).astype(np.uint8))"
        )
    if frames.ndim != 4 or 0 in frames.shape:
        raise DataError(
            f"{path}: expected shape (T, N, height, width) or (N, T, height, width), none of them "
            f"0, got {frames.shape}: reshape and save again"
        )
    if frames[:LOOKED_AT, :LOOKED_AT].max() == 1:
        raise DataError(
            f"{path}: expected bytes of up to 255 for white, got none above 1 in its first "
            "sequences: multiply them by 255"
        )
    if time_axis is None:
        time_axis = _time_axis(path, frames.shape[:2], num_frames)
    return np.moveaxis(frames, time_axis, 0)


def _time_axis(path, lengths, num_frames):
    """Return 0 or 1: the axis of time, by its length."""
    expected = f"{PUBLIC_T} frames"
    if num_frames not in (None, PUBLIC_T):
        expected += f" or {num_frames}"
    axes = [axis for axis in (0, 1) if lengths[axis] in (PUBLIC_T, num_frames)]
    if len(axes) == 1:
        return axes[0]
    if axes:
        raise DataError(
            f"{path}: expected {expected} on one of the first two axes, got {lengths[0]} and "
            f"{lengths[1]}, so that both could be time: add or remove a sequence (in Python pass "
            "time_axis)"
        )
    raise DataError(
        f"{path}: expected {expected} on one of the first two axes, got {lengths[0]} and "
        f"{lengths[1]}: give a file whose sequences are as long, or train with another --past and "
        "--future (in Python pass time_axis)"
    )


def map_npy(path: Path) -> np.ndarray:
    """Map the array in an .npy file, read-only. The file must be exactly as long as its array.

    Raises DataError for a file that is missing, damaged, or holds pickled objects.
    """
    refuse_pipe(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header written by Python 2 does no harm
            frames = np.lib.format.open_memmap(path, mode="r", max_header_size=MAX_HEADER)
        expected, got = frames.offset + frames.nbytes, path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable .npy file, got {one_line(error)}: check the path"
        ) from error
    except Exception as error:  # NumPy's reader fails in many ways on a damaged header
        raise DataError(
            f"{path}: expected a whole .npy file of uint8 frames, got {named(error)}: "
            "download or save it again, without pickled objects"
        ) from error
    if expected != got:
        raise DataError(
            f"{path}: expected {expected} bytes for its shape {frames.shape}, got {got}: "
            "download or save it again"
        )
    return frames


class SequenceFile:
    """Source of the sequences of a file. `batch(k, B)` is a pure function of (seed, k, B).

    `num_frames` takes the first frames of each sequence, by default all. `split` takes eight of ten
    sequences for "train", one for "validation" and one for "test"; "all" takes all. Batches are
    shuffled without replacement: every sequence comes once before any comes twice. Raises what
    `read_sequences` raises, ConfigError for `num_frames` longer than the sequences, and DataError
    for a split without sequences.
    """

    scale = None

    def __init__(
        self,
        path: str | Path,
        num_frames: int | None = None,
        seed: int = 0,
        time_axis: int | None = None,
        split: str = "all",
    ):
        self._take(path, read_sequences(path, time_axis, num_frames), num_frames, seed, split)

    def _take(self, path, frames, num_frames, seed, split, groups=None):
        T, N = frames.shape[:2]
        self.num_frames = T if num_frames is None else whole_number("num_frames", num_frames, 1)
        self.seed = whole_number("seed", seed, 0)
        if self.num_frames > T:
            raise ConfigError(
                f"expected num_frames <= {T}, the length of the sequences in {path}, "
                f"got {num_frames}: ask for fewer frames of past or future"
            )
        self._frames = frames[: self.num_frames]
        self._groups = np.arange(N) if groups is None else groups
        self._members = members_of_split(self._groups, split)
        if not len(self._members) and groups is None:
            raise DataError(
                f"{path}: expected at least 10 sequences to split, got {N} and none for {split}: "
                "use a longer file"
            )
        if not len(self._members):
            raise DataError(
                f"{path}: expected patches for {split}, got none in {len(np.unique(groups))} "
                "groups (numbers that end in 8 are for test, in 9 for validation): extract patches "
                "of more or longer videos"
            )

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of a frame: (height, width) in pixels, with colours (height, width, 3)."""
        return self._frames.shape[2:]

    @property
    def num_sequences(self) -> int:
        """Number of different sequences to draw from."""
        return len(self._members)

    def batch(self, k: int, B: int) -> np.ndarray:
        """Return batch k (from 0) of B shuffled sequences: uint8 (T, B, height, width)."""
        k, B = whole_number("k", k, 0), whole_number("B", B, 1)
        chosen = endless_shuffle(len(self._members), self.seed, k * B, B)
        return np.ascontiguousarray(self._frames[:, self._members[chosen]])

    def all(self) -> np.ndarray:
        """Return all sequences in the order of the file, whatever the split: (T, N, height, width).

        The result is a memory map. Of a slice, `all()[:, i : i + B]`, only that part is read.
        """
        return self._frames
