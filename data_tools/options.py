"""Options that the commands of this folder share: whole numbers, digits, a file to write."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from minilstm.command import at_least
from minilstm.errors import RunError
from minilstm.files import SUFFIX, temporary_prefix


def add_numbers(parser: argparse.ArgumentParser, *rows: tuple[str, int, int, str]) -> None:
    """Add options `--flag N` that take a whole number: (flag, default, least, help) of each."""
    for flag, default, least, help in rows:
        help = f"{help} (default: {default})"
        parser.add_argument(
            flag, type=at_least(int, least), default=default, metavar="N", help=help
        )


def add_file(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Add --out and --force, for `new_file`."""
    parser.add_argument("--out", required=True, metavar="FILE", help=f"the {suffix} file to write")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def add_fps(parser: argparse.ArgumentParser) -> None:
    """Add --fps, for `read_frames`."""
    parser.add_argument(
        "--fps",
        type=at_least(float, 0.001, 1000),
        metavar="RATE",
        help="frames per second, by the video's clock (default: every frame once)",
    )


def add_digits(parser: argparse.ArgumentParser) -> None:
    """Add --digits, with the meaning that it has in all commands."""
    parser.add_argument(
        "--digits",
        default="bundled",
        metavar="DIR",
        help="bundled, or a folder of MNIST's IDX files (default: bundled)",
    )


def new_file(path: str, suffix: str, force: bool) -> Path:
    """Return the path of a file that may be written. Removes what a killed command left of it.

    Raises RunError for another suffix, a missing folder, or an existing file without `force`.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise RunError(f"expected the name of a file to write, *{suffix}, got {path}: change it")
    if not path.parent.is_dir() or path.is_dir():
        raise RunError(
            f"expected a file's name in an existing folder, got {path}: make the folder, or change "
            "the name"
        )
    if os.path.lexists(path) and not force:
        raise RunError(f"expected a new file, got {path}, which exists: use it, or add --force")
    for temporary in path.parent.iterdir():  # no glob: names may have brackets
        if temporary.name.startswith(temporary_prefix(path)) and temporary.suffix == SUFFIX:
            temporary.unlink(missing_ok=True)
    return path


def expect_room(path: Path, needed: int) -> None:
    """Raise RunError if the disk of `path` has less than `needed` bytes free."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise RunError(
            f"{path}: expected a file that fits into the {free / 1e6:,.1f} MB that are free there, "
            f"got one that needs {needed / 1e6:,.1f} MB: ask for less, or write elsewhere"
        )


def settings_of(options: argparse.Namespace) -> dict:
    """Return the options that decide a file's bytes: all but those that say where to write."""
    return {k: v for k, v in vars(options).items() if k not in ("out", "film", "force")}
