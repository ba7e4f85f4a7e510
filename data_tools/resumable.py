"""Work that goes on where it was stopped: what the commands that extract_ and make_ share.

    with parts_of(folder, settings) as parts:
        paths = [parts.make(f"{n:06}.npy", partial(draw, n)) for n in range(100)]
        ...                                 # put them together in a file
        parts.remove()

A result is made in parts: of every video, or of every hundred sequences. A part is a file, written
whole or not at all. A command that was killed finds those that are there, makes the others, and
puts all together: the same bytes as without the kill. `settings.json` beside them says what they
are parts of, and what is begun with some settings is not finished with others.

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
from pathlib import Path

import numpy as np

from minilstm.errors import DataError, RunError, named, one_line
from minilstm.files import SUFFIX, make_folder, replacing, write_file

from .video import VideoError

ABOUT, LOCK = "settings.json", ".lock"
Arrays = np.ndarray | dict[str, np.ndarray]


def unfinished(path: Path) -> Path:
    """The folder for the parts of a file."""
    return path.with_name(f"{path.name}.parts")


class Parts:
    """The parts of one result, in a folder; `parts_of` opens it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def made(self) -> Iterator[Path]:
        """All that is in the folder, but what says of what, and hidden files."""
        names = (path for path in self.folder.iterdir() if path.name != ABOUT)
        return (path for path in names if not path.name.startswith("."))

    def make(self, name: str, arrays_of: Callable[[], Arrays]) -> Path:
        """The file of that name, .npy of an array or .npz of several; made if it isn't there."""
        path = self.folder / name
        if not path.exists():
            arrays = arrays_of()
            make_folder(path.parent)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays) if isinstance(arrays, dict) else np.save(file, arrays)
        return path

    def remove(self) -> None:
        """Remove the folder, and last what says of what it was: a kill may come here, too."""
        for path in self.made():
            path.unlink()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def parts_of(folder: Path, settings: Mapping) -> Iterator[Parts]:
    """Open the folder, made if need be, for this process alone; one without parts does not stay.

    Raises RunError where its parts were made with other settings, or another process makes them.
    """
    from filelock import FileLock, Timeout

    parts, about = Parts(make_folder(folder)), folder / ABOUT
    try:
        if any(parts.made()) and (other := _other(about, json.loads(json.dumps(settings)))):
            raise RunError(
                f"{folder}: expected the settings that its parts were made with ({ABOUT}), got "
                f"other {other}: repeat those, write elsewhere, or remove that folder"
            )
        lock = FileLock(folder / LOCK, blocking=False).acquire()
        if about.exists():  # so the folder is ours
            for path in folder.rglob(f".*{SUFFIX}"):  # of a process that was killed while it wrote
                path.unlink()
    except Timeout as error:
        raise RunError(
            f"{folder}: expected parts that nobody else makes, got a process that does: wait for it"
        ) from error
    except OSError as error:
        raise RunError(
            f"{folder}: expected a folder to write parts to, got {one_line(error)}: "
            "choose another place"
        ) from error
    with lock:
        try:
            write_file(about, json.dumps(settings, indent=1))
            yield parts
        finally:
            if folder.exists() and not any(parts.made()):
                for name in (ABOUT, LOCK):
                    (folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it has hidden files of others
                    folder.rmdir()


def _other(about, settings):
    """The names of the settings that are not as the file has them."""
    try:
        found = json.loads(about.read_text("utf-8"))
        return ", ".join(name for name in settings if found.get(name) != settings[name])
    except (OSError, ValueError, AttributeError):
        return "files"


def read_part(path: Path) -> Arrays:
    """The array, or the arrays by name, of a part. Raises DataError for a damaged one."""
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if path.suffix == ".npy" else dict(found)
    except Exception as error:  # damaged files fail in many ways
        raise DataError(
            f"{path}: expected the part that was written, got {named(error)}: remove it, "
            "and start again"
        ) from error


def as_they_are(videos: Iterable[Path]) -> list:
    """[path, bytes] of every video: settings by which another video of that name is noticed."""
    return [[str(v), os.path.getsize(v) if os.path.isfile(v) else None] for v in videos]


def of_videos(
    parts: Parts, names: Sequence[str], arrays_of: Callable[[int, list[str]], Arrays]
) -> tuple[dict[int, Path], str]:
    """{n: part} of the videos that give one, called names[n]; and the others, counted, in words.

    `arrays_of(n, remarks)` makes the part of video n. VideoErrors are said and counted, and what it
    adds to `remarks` is said.
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
    return found, f"; left out: {counted}" * bool(counted)
