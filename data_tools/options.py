"""What the commands of this folder ask of their options: numbers in a range, a file to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from minilstm.errors import RunError

MOST = 10**9


def at_least(kind: type, least: float) -> Callable[[str], float]:
    """A `type` for argparse: an int or float from `least` to 1e9."""

    def parsed(text):
        value = kind(text)
        if not least <= value <= MOST:
            raise ValueError
        return value

    parsed.__name__ = f"number from {least} up, {kind.__name__}"  # which argparse prints
    return parsed


def new_file(path: str, suffix: str, force: bool) -> Path:
    """The path of a file that may be written, cleared of what a killed command has left of it.

    Raises RunError for another suffix, a missing folder, or a file that is there without `force`.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise RunError(f"expected the name of a file to write, *{suffix}, got {path}: change it")
    if not path.parent.is_dir() or path.is_dir():
        raise RunError(f"expected a file's name in a folder that is there, got {path}: make it")
    if os.path.lexists(path) and not force:
        raise RunError(f"expected a new file, got {path}, which is there: use it, or add --force")
    for temporary in path.parent.iterdir():  # no glob: names may have brackets
        if temporary.name.startswith(f".{path.name}.") and temporary.suffix == ".tmp":
            temporary.unlink(missing_ok=True)
    return path
