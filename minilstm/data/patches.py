"""Patches of natural video (the slides' Figure 6, Table 2's second column), from a file.

The file is an .npy file, or an .npz file with an array `patches` (or with one array of any name).
The array holds bytes in one of these shapes:

    (N, T, height, width, 3)    colours last
    (N, T, 3, height, width)    colours first, as in the file of the authors' second release
    (N, T, height, width)       grey. A further axis of length 1, in place of the 3, is removed

The paper cuts 32x32 pixels out of UCF-101. The model sees 16 frames, reconstructs them and predicts
the next 13. Such data is normalised: `Patches.scale` has the mean and standard deviation of each
colour over the TRAINING sequences, whatever the split, so that the model knows nothing of the test
set.

Patches of one film are alike, so they must not be in training and test at once. An .npz file of
data_tools/extract_patches.py therefore has an array `groups`, int64 (N,), with the number of each
patch's group. The program cuts every film into stretches of time. The patches of one stretch are
one group. A split takes whole groups, by the rule of `members_of_split` in rng.py. Without
`groups`, every sequence is a group of its own, and eight of every ten, in the order of the file,
are for training.

Read next: ../config/presets/patches.toml.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError, named
from ..files import refuse_pipe
from .rng import members_of_split
from .sequences import MAX_HEADER, SequenceFile, map_npy
from .vectors import Scale

COLOURS = (1, 3)
CHUNK_SEQUENCES = 100  # counted at a time


def read_patches(path: str | Path) -> np.ndarray:
    """Read the patches of a file, time first: uint8 (T, N, height, width) or (..., 3) in colour.

    An .npy file becomes a read-only memory map; an .npz file is read whole. Raises DataError for a
    file that is missing, damaged, or holds anything but such bytes. Pickled objects are refused
    unread.
    """
    path = Path(path)
    patches = _read_npz(path, "patches") if path.suffix == ".npz" else map_npy(path)
    if patches.dtype != np.uint8:
        raise DataError(
            f"{path}: expected uint8 patches, 0 to 255, got {patches.dtype}: convert them, for "
            "values in [0, 1] with np.save(path, np.rint(255 * patches).astype(np.uint8))"
        )
    if patches.ndim not in (4, 5) or 0 in patches.shape:
        raise DataError(
            f"{path}: expected shape (N, T, height, width) or (N, T, height, width, 3), none of "
            f"them 0, got {patches.shape}: reshape and save again"
        )
    if patches.ndim == 5:
        axes = [axis for axis in (2, 4) if patches.shape[axis] in COLOURS]
        if len(axes) != 1:
            raise DataError(
                f"{path}: expected 3 colours, or 1, on the last axis or on axis 2, got "
                f"{'both in' if axes else 'neither in'} shape {patches.shape}: reshape and save "
                "again"
            )
        patches = np.moveaxis(patches, axes[0], 4)
        if patches.shape[4] == 1:
            patches = patches[..., 0]
    return patches.swapaxes(0, 1)


def read_groups(path: str | Path, N: int) -> np.ndarray | None:
    """Read the array `groups` of an .npz file of N patches: int64 (N,), or None without one.

    Raises DataError for anything but a number >= 0 for each patch.
    """
    groups = _read_npz(Path(path), "groups") if Path(path).suffix == ".npz" else None
    if groups is None:
        return None
    if groups.shape != (N,) or groups.dtype.kind not in "iu" or groups.min(initial=0) < 0:
        raise DataError(
            f"{path}: expected groups, a whole number >= 0 for each of {N} patches, got "
            f"{groups.dtype} {groups.shape}: save them again, or without groups"
        )
    return groups.astype(np.int64)


def _read_npz(path, wanted):
    """Read an array of the archive. A single array is that of the patches, whatever its name."""
    refuse_pipe(path)
    try:
        with (
            open(path, "rb") as file,
            np.load(file, allow_pickle=False, max_header_size=MAX_HEADER) as arrays,
        ):
            name = wanted
            if wanted == "patches" and len(arrays.files) == 1:
                name = arrays.files[0]
            if wanted == "groups" and wanted not in arrays.files:
                return None
            return np.asarray(arrays[name])
    except Exception as error:  # a damaged zip fails in many ways
        raise DataError(
            f"{path}: expected an .npz file with an array named patches, got "
            f"{named(error)}: check the path, or save it again"
        ) from error


class Patches(SequenceFile):
    """Source of the patches of a file: batches of bytes (T, B, height, width[, 3]).

    `num_frames` and the order of batches are as in `SequenceFile`. `split` is as there, but takes
    whole `groups` if the file has them. `scale` is that of the file's own training sequences; for a
    file that is not trained on, pass the scale of the training file. Raises what `SequenceFile`
    raises.
    """

    def __init__(
        self,
        path: str | Path,
        num_frames: int | None = None,
        seed: int = 0,
        split: str = "all",
        scale: Scale | None = None,
    ):
        patches = read_patches(path)
        self._take(path, patches, num_frames, seed, split, read_groups(path, patches.shape[1]))
        self.scale = scale or self._scale(path)

    def _scale(self, path):
        """Return mean and standard deviation of each colour, from exact counts of the 256 bytes."""
        colours = self.frame_shape[2] if len(self.frame_shape) == 3 else 1
        counts = np.zeros((colours, 256))
        members = members_of_split(self._groups, "train")
        if not len(members):
            raise DataError(
                f"{path}: expected patches to train on, got only groups for validation and test "
                "(numbers that end in 8 or 9): number the groups from 0, or save without groups"
            )
        for n in range(0, len(members), CHUNK_SEQUENCES):
            values = self._frames[:, members[n : n + CHUNK_SEQUENCES]].reshape(-1, colours)
            for c in range(colours):
                counts[c] += np.bincount(values[:, c], minlength=256)
        share = counts / counts.sum(axis=1, keepdims=True)
        levels = np.arange(256) / 255
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
        if not std.all():
            raise DataError(
                f"{path}: expected patches whose colours vary, got one value for all pixels of "
                f"colour {int(std.argmin())} in the training sequences: use another file"
            )
        return Scale(mean.astype(np.float32), std.astype(np.float32))
