"""A recurrent cell in a file of the user's own: mycell.py:GRU.

To use the cell, Python must execute the file. So a file is executed only in two cases: the user
names it now (`--cell mycell.py:GRU`, `load(run, cell=...)`), or its bytes are still those that the
run was made with. A run records the absolute path, the class and the SHA-256 of the bytes. It never
stores a copy, and nothing inside a run folder is executed. The hash covers this one file, not the
files that it imports.

Read next: build.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ..command import Parser
from ..config import CellFile, Config, cell_file, refuse_no_class
from ..errors import ConfigError, RunError
from ..layers.rnn import Recurrent


def add_cell_argument(parser: Parser) -> None:
    """Add `--cell FILE:CLASS` to a command that reads runs."""
    parser.add_argument(
        "--cell",
        metavar="FILE:CLASS",
        help="for a run with a cell of your own: the file, if it was changed or moved since",
    )


def pinned(config: Config) -> Config:
    """Add the absolute path and the present hash of a cell's file, unless there is a hash.

    Raises ConfigError for a file that can't be read.
    """
    own = config.model.cell_file
    if own is None or own.sha256:
        return config
    path = Path(own.path).resolve()
    own = CellFile(str(path), own.name, hashlib.sha256(_read(path)).hexdigest())
    return dataclasses.replace(config, model=dataclasses.replace(config.model, cell=str(own)))


def with_cell(config: Config, cell: str, run: str | Path) -> Config:
    """Return the settings of a run with another file for its cell, or the same file elsewhere.

    If the file was changed since the run was made, a line on stderr says so. Raises ConfigError for
    text that names no file, and for a run whose cell is the package's.
    """
    expect_own_cell(config, cell, run)
    if cell_file(cell) is None:
        refuse_no_class(cell)
        raise ConfigError(f"expected a cell as FILE.py:CLASS, got {cell!r}: name a class in a file")
    before = config.model.cell_file.sha256
    model = dataclasses.replace(config.model, cell=cell)
    config = pinned(dataclasses.replace(config, model=model))
    own = config.model.cell_file
    if before not in ("", own.sha256):
        _tell(
            f"note: {own.path} differs from the file that {run} was made with (SHA-256 "
            f"{own.sha256[:12]}..., not {before[:12]}...): its weights may not fit the new text"
        )
    return config


def expect_own_cell(config: Config, cell: object, run: str | Path) -> None:
    """Raise ConfigError if `cell` is given for a run whose cell is the package's."""
    if config.model.cell_file is None:
        got = cell.__name__ if isinstance(cell, type) else repr(cell)
        raise ConfigError(
            f"expected no cell for {run}, whose cell is {config.model.cell!r}, got {got}: leave "
            "it out"
        )


def expect_class(cell: object) -> None:
    """Raise ConfigError unless `cell` is a subclass of Recurrent."""
    if not (isinstance(cell, type) and issubclass(cell, Recurrent)):
        got = cell.__name__ if isinstance(cell, type) else f"an object of {type(cell).__name__}"
        raise ConfigError(
            f"expected a cell as FILE.py:CLASS or as a subclass of Recurrent, got {got}: pass the "
            "class itself"
        )


def refuse_inside(config: Config, run: str | Path) -> None:
    """Raise RunError if the file of the cell lies in the run folder."""
    own = config.model.cell_file
    if own and Path(own.path).resolve().is_relative_to(Path(run).resolve()):
        raise RunError(
            f"expected the file of the cell outside the run folder, got {own.path}: nothing in a "
            "run folder is executed; read it, move it out, and name it by --cell FILE:CLASS or "
            "load(run, cell=...)"
        )


def read_cell(own: CellFile) -> type[Recurrent]:
    """Run the file and return the class that it names: the same class each time for equal bytes.

    A file with a hash runs only if its bytes have it. Raises RunError for another hash, ConfigError
    for a file that can't be read, that fails, or that has no such cell.
    """
    path = Path(own.path)
    if own.sha256 and not path.is_absolute():
        raise RunError(
            f"expected the absolute path of a cell's file in a run, got {own.path}: nothing of it "
            "was run; name it by --cell FILE:CLASS or load(run, cell=...)"
        )
    code = _read(path)
    found = hashlib.sha256(code).hexdigest()
    if own.sha256 not in ("", found):
        raise RunError(
            f"expected {path} as it was when the run was made (SHA-256 {own.sha256[:12]}...), got "
            f"another file ({found[:12]}...): nothing of it was run; if you trust it, name it by "
            f"--cell {shlex.quote(f'{path}:{own.name}')} or load(run, cell=...)"
        )
    module = _run(code, path, f"minilstm_cell_{found}")
    cell = getattr(module, own.name, None)
    if not (isinstance(cell, type) and issubclass(cell, Recurrent)) or cell.is_abstract:
        cells = [
            name
            for name, item in vars(module).items()
            if isinstance(item, type) and item.__module__ == module.__name__
            and issubclass(item, Recurrent)
        ]  # fmt: skip
        raise ConfigError(
            f"expected a subclass of Recurrent in {path}, got {own.name!r}: the file has "
            f"{', '.join(cells) or 'none'}"
        )
    return cell


@lru_cache
def _tell(text):
    """Print a line on stderr, but only once: a command may read the settings of a run twice."""
    print(text, file=sys.stderr)


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"expected the file of a cell at {path}, got {error.strerror!r}: check the path, "
            "or name the file by --cell FILE:CLASS or load(run, cell=...)"
        ) from error


def _run(code, path, name):
    """Execute these bytes and return the module. The same bytes are executed only once."""
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        exec(compile(code, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]  # fmt: skip
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        said = " ".join(str(error).split()) or "no message"
        if isinstance(error, ModuleNotFoundError) and (path.parent / f"{error.name}.py").is_file():
            said += f"; the file's folder is not searched: set PYTHONPATH={path.parent}"
        raise ConfigError(
            f"{path}, line {lines[-1] if lines else '?'}: expected a file that defines a cell, got "
            f"{type(error).__name__}: {said}"
        ) from error
    return module
