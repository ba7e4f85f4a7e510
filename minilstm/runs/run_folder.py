"""The folder of a run: its files, its lock, and its log.

    config.toml               the settings. A folder with this file is a run folder
    metrics.jsonl             the log, a row of JSON for every interval
    checkpoint.safetensors    everything that --resume needs (checkpoint.py)
    checkpoint-STEP...        with --keep N: the last N checkpoints, named by their steps
    best.safetensors          the weights with the smallest validation loss
    curves.png, prediction.png, prediction.gif
    report.html               one page about the run, if report.py was run

Read next: ../training/progress.py, which fills it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import platform
import shutil
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from .. import threads
from ..backend import current_backend
from ..errors import RunError
from ..files import flush, make_folder, remove_temporaries, replacing, shell_word, write_file
from ..gpu.diagnosis import about_device

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # the disk or the quota is full
NAMES = (
    "metrics.jsonl",
    "checkpoint.safetensors",
    "best.safetensors",
    "curves.png",
    "prediction.png",
    "prediction.gif",
    "config.toml",  # removed last, so that a half removed run is still recognised as a run
)


class RunFolder:
    """The files of one run. Nothing on the disk changes before `claim`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.log = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.best = self.path / "best.safetensors"
        self.report = self.path / "report.html"
        self.waiting: list[bytes] = []  # rows of the log that could not be written yet
        self.writing = threading.Lock()  # a thread writes checkpoints, and the log before each

    def refuse(self, force: bool) -> None:
        """Raise RunError if a new run can't be made in this folder."""
        path = self.path
        try:
            if path.exists() and not path.is_dir():
                raise RunError(
                    f"expected --out to name a folder, got the file {path}: choose another"
                )
            if self._is_run() and not force:
                raise RunError(
                    f"expected a new run folder, got {path}, which holds a run: choose another "
                    "--out, overwrite it with --force, or go on with --resume"
                )
            others = [p for p in path.iterdir() if p.name[0] != "."] if path.is_dir() else []
            if others and not self._is_run():
                raise RunError(
                    f"expected a new or empty run folder, got {path} with other files in it: "
                    "choose another --out"
                )
        except OSError as error:
            raise self._unusable(error) from error

    def _is_run(self):
        """Return True if config.toml is there and has a section [model], or is empty."""
        text = self.config.read_bytes() if self.config.is_file() else b"x"
        return b"[model]" in text or not text.strip()

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the folder for this process alone, and make the folder if it does not exist.

        Raises RunError if another process has the lock. The operating system releases the lock
        when the process ends, even if it is killed.
        """
        from filelock import FileLock, Timeout

        try:
            make_folder(self.path)
            # `is_training` of another process has the lock for a moment
            lock = FileLock(self.path / ".lock", timeout=0.2).acquire(poll_interval=0.02)
            remove_temporaries(self.path)  # left by a process that was killed while it wrote
        except Timeout as error:
            raise RunError(
                f"expected {self.path} to be free, got another process that works in it: wait for "
                "it, stop it, or choose another --out"
            ) from error
        except OSError as error:
            raise self._unusable(error) from error
        with lock:
            yield

    def is_training(self) -> bool:
        """Say whether a process trains in this folder now."""
        from filelock import FileLock, Timeout

        if not (self.path / ".lock").exists():
            return False
        try:
            FileLock(self.path / ".lock", blocking=False).acquire().lock.release()
        except Timeout:
            return True
        except OSError:  # a folder that is read only
            return False
        return False

    def warn_if_training(self, name: str, about: dict) -> None:
        """If the run of this name still trains, print the step of its weights to stderr.

        `about` is the description in the checkpoint of these weights.
        """
        if self.is_training():
            print(f"weights   of step {about['step']:,}: {name} still trains", file=sys.stderr)

    def refuse_lost_checkpoint(self) -> None:
        """Raise RunError if this folder has files of a run but no checkpoint.

        Every run writes a checkpoint before its first step, so the file was lost. Without it,
        --resume would silently start from random weights.
        """
        numbered = self.numbered()
        rest = [self.path / name for name in NAMES if name != self.config.name]
        there = [path.name for path in (*numbered, *rest) if path.exists()]
        if not there:
            return
        remedy = (
            "copy it from where the run was made, or train anew by --force --config "
            f"{shell_word(self.config)} --out {shell_word(self.path)}"
        )
        if numbered:
            command = f"cp {shell_word(numbered[-1])} {shell_word(self.checkpoint)}"
            remedy = f"go on from the newest one left, {command}"
        raise RunError(
            f"expected {self.checkpoint} to go on from, got a folder without it, but with "
            f"{there[-1]}: {remedy}"
        )

    def remove_files(self) -> None:
        """Remove the files that training and report write. Folders, such as figures/, stay."""
        try:
            for name in (*(path.name for path in self.numbered()), self.report.name, *NAMES):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def numbered(self) -> list[Path]:
        """Return the checkpoints that are named by their steps, oldest first."""
        found = sorted(self.path.glob("checkpoint-*.safetensors"))
        return [path for path in found if _step_of(path) >= 0]  # not a user's own copies

    def later_than(self, step: int) -> list[Path]:
        """Return the numbered checkpoints of later steps: the run went back to an earlier one."""
        return [path for path in self.numbered() if _step_of(path) > step]

    def keep(self, step: int, count: int) -> None:
        """Copy the newest checkpoint to a file that is named by its step.

        The last `count` such files up to this step remain. They are copies, so that writing to
        checkpoint.safetensors changes none of them. Raises RunError.
        """
        if count < 2:
            return
        with replacing(self.path / f"checkpoint-{step:010}.safetensors") as temporary:
            shutil.copyfile(self.checkpoint, temporary)
        for old in [path for path in self.numbered() if _step_of(path) <= step][:-count]:
            with contextlib.suppress(OSError):  # the next call tries again
                old.unlink()

    def append(self, row: dict) -> str:
        """Write one row at the end of the log. Return "", or in words why it could not be written.

        On a full disk the row is kept, and is written with the next row or by `sync_log`. Raises
        RunError if the log can't be written for another reason.
        """
        with self.writing:
            self.waiting.append(json.dumps(row).encode() + b"\n")
        try:
            self._write_waiting()
        except OSError as error:
            said = (
                f"{self.log}: expected a log that can be written, got {error.strerror!r}: make "
                "room, or restore the run folder"
            )
            if error.errno not in FULL:
                raise RunError(said) from error
            return said
        return ""

    def _write_waiting(self):
        """Write the waiting rows, all or none."""
        with self.writing:
            if not self.waiting:
                return
            with self.log.open("ab", buffering=0) as file:
                size, left = file.tell(), memoryview(b"".join(self.waiting))
                try:
                    while left:  # a write may take a few bytes only
                        left = left[file.write(left) :]
                except OSError:
                    self._cut(file, size)
                    raise
            self.waiting.clear()

    def _cut(self, file, size):
        """Cut the log back to `size`, so that the next row does not join an incomplete one."""
        try:
            file.truncate(size)
        except OSError as error:
            raise self._unusable(error) from error

    def sync_log(self) -> None:
        """Flush the log to the disk. Call it before a checkpoint is written.

        So no checkpoint is ever on the disk without the rows of the log up to it.
        """
        try:
            self._write_waiting()
            flush(self.log)
        except FileNotFoundError:  # nothing was logged yet
            pass
        except OSError as error:
            raise RunError(
                f"{self.log}: expected to flush the log to the disk, got {error.strerror!r}: is "
                "there room?"
            ) from error

    def rows(self) -> list[dict]:
        """Return the rows of the log, without an incomplete last line. Raises RunError."""
        return read_log(self.log)

    def cut_log(self, step: int) -> int:
        """Remove the rows after `step` from the log. Return the step of the last row, or 0.

        So no step is logged twice.
        """
        if not self.log.exists():
            return 0
        kept = [row for row in self.rows() if row["step"] <= step]
        write_file(self.log, "".join(json.dumps(row) + "\n" for row in kept))
        return kept[-1]["step"] if kept else 0

    def _unusable(self, error):
        return RunError(
            f"expected to write to the run folder {self.path}, got {error.strerror!r}: choose "
            "another, which you may write to"
        )


class Watched(RunFolder):
    """Read-only view of the run folder, for ranks other than the first."""

    def claim(self):
        """Take no lock: the first rank has it."""
        return contextlib.nullcontext()

    def _leave_it(self, *_):
        """Do nothing: the first rank does it."""

    refuse = remove_files = keep = append = sync_log = cut_log = _leave_it

    def later_than(self, step):
        """Return nothing: the first rank tells the user."""
        return []


def _step_of(path):
    digits = path.stem.removeprefix("checkpoint-")
    return int(digits) if digits.isdecimal() else -1


def read_log(path: str | Path) -> list[dict]:
    """Return the rows of a metrics.jsonl. Each has an integer "step" and other finite numbers.

    A crash may leave an incomplete last line, without a newline. It is ignored, and so are empty
    lines. Raises RunError for any other line that is not such a row.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"expected a log at {path}, got {error.strerror!r}: check RUN") from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        if not line.strip():  # an editor may add empty lines
            continue
        try:
            row = json.loads(line)
            fits = isinstance(row, dict) and type(row.get("step")) is int
            fits = fits and 0 <= row["step"] < 2**63
            fits = fits and all(type(value) in (int, float) for value in row.values())
            fits = fits and all(abs(value) <= sys.float_info.max for value in row.values())
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise RunError(
                f"{path}: expected a row of numbers with a step in line {number}, got "
                f"{line[:40]!r}: remove that line"
            )
        rows.append(row)
    return rows


def environment(ranks: int = 1) -> dict[str, str]:
    """Return everything but settings and data that affects bit-for-bit results."""
    found = {"minilstm": _version(), "numpy": np.__version__}
    found |= {"machine": platform.machine(), "ranks": str(ranks)}
    if current_backend().name == "cupy":
        found |= about_device()
    blas = threads.blas()
    keys = ("internal_api", "version", "architecture", "num_threads") if blas else ()
    return found | {f"blas {key}": str(blas.get(key)) for key in keys}


@functools.cache
def source_hash() -> str:
    """Return the first 12 hex digits of a hash of the package's source files."""
    package = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".cuh") and path.is_file():  # an editor may leave other things
            with contextlib.suppress(OSError):
                found.update(path.relative_to(package).as_posix().encode() + b"\0")
                found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _version():
    try:
        return version("minilstm")
    except PackageNotFoundError:  # a copy of the source tree
        return "not installed"
