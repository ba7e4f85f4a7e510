"""Trained models that come with the package, each known by a name.

    minilstm.load("one-digit")               the model of that name
    find_run("one-digit")                    its folder, minilstm/trained/one-digit

A trained model is a run folder: everything that takes a RUN also takes the name. Its weights are
stored as float16, without the optimizer's state. Beside them about.toml has the command that
trained the model, the commit of the code, the hash of the weights and the table of
`minilstm.evaluate`.
`python -m data_tools.pack_model RUN OUT` makes such a folder.

Read next: run_folder.py.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path

from ..errors import RunError, named
from .run_folder import RunFolder

MODELS = Path(__file__).parents[1] / "trained"
ABOUT = "about.toml"


def trained_models() -> list[str]:
    """Return the names of the trained models in the package, in alphabetical order."""
    return sorted(path.parent.name for path in MODELS.glob(f"*/{ABOUT}"))


def find_run(run: str | Path) -> Path:
    """Return the folder of a run: `run` itself, or that of the trained model of this name.

    A folder here of the same name wins; a line on stderr says so. Raises RunError if the weights of
    the trained model are not those that were packed.
    """
    if str(run) not in trained_models():
        return Path(run)
    if Path(run).is_dir():
        print(
            f"note: {run} is a folder here: it is used, not the trained model of that name",
            file=sys.stderr,
        )
        return Path(run).absolute()  # a path, not a name, so that the line is printed only once
    check_weights(MODELS / run)
    return MODELS / run


def is_packed(run: str | Path) -> bool:
    """Say whether a folder belongs to the package, where commands write nothing."""
    return Path(run).resolve().parent == MODELS.resolve()


def read_about(folder: Path) -> dict:
    """Return what about.toml says of a trained model. Raises RunError."""
    path = folder / ABOUT
    try:
        about = tomllib.loads(path.read_text("utf-8"))
        if not isinstance(about["sha256"], str):
            raise TypeError("sha256 is no text")
        return about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: expected a description of a trained model, got {named(error)}: install "
            "minilstm again"
        ) from error


def check_weights(folder: Path) -> None:
    """Raise RunError unless the weights of a trained model have the hash in its about.toml."""
    expected, found = read_about(folder)["sha256"], hash_of(RunFolder(folder).checkpoint)
    if found != expected:
        raise RunError(
            f"{folder}: expected weights with the SHA-256 {expected[:16]}..., got "
            f"{found[:16]}...: the file is damaged, install minilstm again"
        )


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises RunError."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path}: expected a file, got {named(error)}: check RUN") from error
