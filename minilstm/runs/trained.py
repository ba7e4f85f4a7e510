"""Trained models that come with the package, each known by a name.

    minilstm.load("one-digit")               the model of that name
    find_run("one-digit")                    its folder, minilstm/trained/one-digit

A trained model is a run folder: everything that takes a RUN also takes the name. Its weights are
stored as float16, without the optimizer's state. Its file about.toml has the command that trained
the model, the commit of the code, the hash of the weights and the table of `minilstm.evaluate`.
`python -m data_tools.pack_model RUN OUT` makes such a folder.

Read next: run_folder.py.
"""

from __future__ import annotations

import hashlib
import os
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


def find_run(run: str | Path, or_trained: bool = True) -> Path:
    """Return the folder of a run: `run` itself, or that of the trained model of this name.

    If the current directory has a folder of this name, the folder is used, and a line on stderr
    says so. Raises RunError for a path that is no run folder, and for a trained model whose weights
    are not those that were packed. Unless `or_trained`, it raises RunError for every trained model.
    """
    if not isinstance(run, str | os.PathLike):
        raise RunError(f"expected the path or the name of a run, got {run!r:.80}: pass a text")
    path, names = Path(run), trained_models()
    if str(run) in names and path.is_dir():
        print(
            f"note: {run} is a folder here: it is used, not the trained model of that name",
            file=sys.stderr,
        )
        path = path.absolute()  # a path, not a name, so that the line is printed only once
    elif str(run) in names:
        path = MODELS / run
        check_weights(path)
    if is_packed(path) and not or_trained:
        raise RunError(
            f"expected a run folder of minilstm.train, got {run}, a model that comes with the "
            "package, without the optimizer's state: train a new run"
        )
    if os.path.isfile(path / "config.toml"):  # Path.is_file fails on a name that is too long
        return path
    problem, remedy = "which has no config.toml", "give the folder that --out named"
    if os.path.isfile(path):
        problem, remedy = "which is a file", "give its folder"
    elif not os.path.lexists(path):
        problem = "which does not exist"
    elif not os.access(path, os.R_OK | os.X_OK):
        problem, remedy = "which you may not read", "ask its owner, or give another"
    if or_trained and names:
        remedy += f", or the name of a trained model: {', '.join(names)}"
    raise RunError(f"expected a run folder of minilstm.train, got {run}, {problem}: {remedy}")


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
