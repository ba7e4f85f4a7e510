"""Work that resumes where it was stopped. The extract_ commands and make_actions share it.

    with parts_of(folder, settings) as parts:
        paths = [parts.make(f"{n:06}.npy", partial(draw, n)) for n in range(100)]
        ...                                 # join them in one file
        parts.remove()

A result is made in parts, for instance one for each video, or for each hundred sequences. A part is
a file, written whole or not at all. A command that was killed finds the parts that exist, makes the
others, and joins all: the same bytes as without the kill. `settings.json` beside the parts holds
the settings they were made with. Parts are never continued with other settings.

Read next: make_moving_mnist.py, extract_patches.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from minilstm.data.fingerprint import fingerprint
from minilstm.errors import DataError, RunError, named, one_line
from minilstm.files import SUFFIX, make_folder, replacing, write_file

from .video import VideoError

ABOUT, LOCK = "settings.json", ".lock"
Arrays = np.ndarray | dict[str, np.ndarray]
Rows = Iterator[np.ndarray]  # arrays of one shape, which are written one by one


def unfinished(path: Path) -> Path:
    """Return the folder for the parts of a file."""
    return path.with_name(f"{path.name}.parts")


class Parts:
    """The parts of one result, in a folder. `parts_of` opens it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def made(self) -> Iterator[Path]:
        """Yield what is in the folder, except settings.json and hidden files."""
        names = (path for path in self.folder.iterdir() if path.name != ABOUT)
        return (path for path in names if not path.name.startswith("."))

    def make(self, name: str, arrays_of: Callable[[], Arrays | Rows]) -> Path:
        """Return the file of that name, .npy of an array (or of its rows) or .npz of several.

        If it does not exist, `arrays_of()` makes its arrays. Raises RunError.
        """
        path = self.folder / name
        if not os.path.exists(path):  # Path.exists fails on a name that is too long
            arrays = arrays_of()
            if not isinstance(arrays, dict | np.ndarray):
                arrays = chain([next(arrays)], arrays)  # fail before a file is begun
            make_folder(path.parent)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                if isinstance(arrays, dict):
                    np.savez(file, **arrays)
                elif isinstance(arrays, np.ndarray):
                    np.save(file, arrays)
                else:
                    _save_rows(file, arrays)
        return path

    def remove(self) -> None:
        """Remove the folder, settings.json last, so that an interrupted removal can be resumed."""
        for path in self.made():
            path.unlink()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def parts_of(folder: Path, settings: Mapping) -> Iterator[Parts]:
    """Open the folder for this process alone, and make it if need be.

    At the end it is removed if it holds no parts. Raises RunError if its parts were made with other
    settings, or if another process has opened it.
    """
    from filelock import FileLock, Timeout

    parts, about = Parts(make_folder(folder)), folder / ABOUT
    try:
        if other := _other(parts, about, json.loads(json.dumps(settings))):
            raise RunError(
                f"{folder}: expected the settings that its parts were made with ({ABOUT}), got "
                f"other {other}: repeat those settings, write elsewhere, or remove that folder"
            )
        lock = FileLock(folder / LOCK, blocking=False).acquire()
        if about.exists():  # so the folder is ours
            for path in folder.rglob(f".*{SUFFIX}"):  # a process that was killed has left it
                path.unlink()
    except Timeout as error:
        raise RunError(
            f"{folder}: expected parts that no other process makes, got one that does: wait for it"
        ) from error
    except OSError as error:
        raise RunError(
            f"{folder}: expected a folder to write parts to, got {one_line(error)}: choose another"
        ) from error
    with lock:
        try:
            write_file(about, json.dumps(settings, indent=1))
            yield parts
        finally:
            if folder.exists() and not any(parts.made()):
                for name in (ABOUT, LOCK):
                    (folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it may have hidden files of others
                    folder.rmdir()


def _save_rows(file, rows):
    """Write rows, at least one, as np.save writes the array of all, without holding them."""
    count = 0
    for row in rows:
        if not count:
            _write_header(file, 0, row)
        file.write(np.ascontiguousarray(row).data)
        count += 1
    file.seek(0)
    _write_header(file, count, row)  # as long as the first: NumPy leaves room for any count


def _write_header(file, count, row):
    about = {"descr": row.dtype.str, "fortran_order": False, "shape": (count, *row.shape)}
    np.lib.format.write_array_header_1_0(file, about)


def _other(parts, about, settings):
    """Return the names of the settings that differ from those in the file, "" if none matters.

    Before the first part is made, other values do not matter. Other names do: they show that the
    file is not of this command.
    """
    made = any(parts.made())
    if not made and not about.exists():
        return ""
    try:
        found = json.loads(about.read_text("utf-8"))
        if not made and found.keys() == settings.keys():
            return ""
        return ", ".join(name for name in settings if found.get(name) != settings[name])
    except (OSError, ValueError, AttributeError):
        return "files"


def read_part(path: Path) -> Arrays:
    """Return the array of a part, or its arrays by name. Raises DataError for a damaged part."""
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if path.suffix == ".npy" else dict(found)
    except Exception as error:  # damaged files fail in many ways
        raise DataError(
            f"{path}: expected the part that was written, got {named(error)}: remove it, and "
            "start again"
        ) from error


def as_they_are(videos: Iterable[Path]) -> list:
    """Return [path, fingerprint] of every video: settings that notice another of that name.

    The fingerprint is None for what can't be read. At most 16 MiB of each video are read.
    """

    def of_file(path):
        with contextlib.suppress(DataError):
            return fingerprint(path) if os.path.isfile(path) else None

    return [[str(video), of_file(video)] for video in videos]


def of_videos(
    parts: Parts, names: Sequence[str], arrays_of: Callable[[int, list[str]], Arrays | Rows]
) -> tuple[dict[int, Path], str]:
    """Make the part names[n] of every video n by `arrays_of(n, remarks)`.

    Returns {n: part} of the videos that give one, and a phrase that counts the others by reason. A
    VideoError leaves its video out. stderr gets its message, and what `arrays_of` adds to
    `remarks`.
    """
    from tqdm import tqdm

    found, reasons = {}, Counter()
    for n, name in enumerate(tqdm(names, unit="video", dynamic_ncols=True, disable=None)):
        remarks = []
        try:
            found[n] = parts.make(name, partial(arrays_of, n, remarks))
        except VideoError as error:
            reasons[error.reason] += 1
            remarks.append(f"left out: {error}")
        for remark in remarks:
            tqdm.write(remark, file=sys.stderr)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return found, f"; left out: {counted}" if counted else ""
