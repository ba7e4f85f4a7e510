"""Check every gradient of every layer and model, and print a table.

    python -m minilstm.gradcheck
    python -m minilstm.gradcheck LSTM
    python -m minilstm.gradcheck mycell.py:GRU       a cell in a file of your own

This file reads the command line and prints. `check` is also here, for a layer of your own.

Read next: checker.py.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from .backend import use_backend
from .checker import TOLERANCE, check, check_samples, layer_classes
from .command import Parser, run_command
from .config import cell_file, refuse_no_class
from .errors import ConfigError, number_of
from .promises import expect_promises
from .runs.own_cell import read_cell
from .streams import print_above, shown_on_terminal

__all__ = ["check", "main"]


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.gradcheck",
        description="Check every gradient of every layer and model by finite differences and by "
        "complex steps. Exits with 1 if any is wrong, with 2 if a cell breaks a rule of Recurrent.",
    )
    parser.add_argument(
        "only",
        nargs="?",
        default="",
        metavar="ONLY",
        help="check layers with this in their name, or FILE.py:CLASS",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random samples (default: 0)"
    )
    parser.add_argument("--backend", default="numpy", choices=("numpy", "cupy"))
    options = parser.parse_args(arguments)
    if options.seed < 0:
        raise ConfigError(f"expected --seed >= 0, got {options.seed}: choose another")
    own = cell_file(options.only)
    layers = [] if own else layer_classes()
    chosen = [cls for cls in layers if options.only.lower() in cls.__name__.lower()]
    if not own and not chosen:
        refuse_no_class(options.only)
        raise ConfigError(
            f"expected a part of a layer's name, or FILE.py:CLASS, got {options.only!r}: the "
            f"layers are {', '.join(cls.__name__ for cls in layers)}"
        )
    cell = read_cell(own) if own else None
    if cell:
        expect_promises(cell, options.seed)
    limits = " ".join(f"{'< ' + format(limit, '.0e'):>12}" for limit in TOLERANCE.values())
    print(f"{'layer':<50} {'gradient of':<24} {'size':>6}", *(f"{n:>12}" for n in TOLERANCE))
    print(f"{'':<82} {limits}")
    rows, previous = [], ""
    with use_backend(options.backend):
        for cls in shown_on_terminal([cell] if cell else chosen, "checking layers"):
            for row in check_samples(cls, options.seed):
                rows.append(row)
                mark = "" if row.passed else f"   WRONG{row.why and ': '}{row.why}"
                name = row.layer if row.layer != previous else ""
                previous = row.layer
                print_above(
                    f"{name:<50} {row.array:<24} {row.size:>6} {row.difference:>12.1e} "
                    f"{row.complex:>12.1e} {row.float32:>12.1e}{mark}"
                )
    wrong = sum(not row.passed for row in rows)
    layers = number_of(1 if own else len(chosen), "layer")
    print(f"\n{number_of(len(rows), 'gradient')} of {layers}, {wrong} wrong")
    if own and not wrong:
        path, project = Path(own.path).resolve(), Path(__file__).resolve().parents[1]
        if path.is_relative_to(project):
            path = path.relative_to(project)
        cell = shlex.quote(f"{path}:{own.name}")
        print(
            "for the tests of every layer on this cell, in the project's folder: python -m pytest "
            f"tests/test_contracts.py --cell {cell}"
        )
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
