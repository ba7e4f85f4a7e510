"""Recognise actions: does an encoder that was trained without labels help where labels are few?

    python -m minilstm.train actions --out runs/actions         without labels
    python -m minilstm.classify --init-from runs/actions        ten labelled clips of each class
    python -m minilstm.classify --encoder scratch               the same without the first run
    python -m minilstm.classify --data percepts --path FOLDER --init-from RUN

This file reads the command line, calls training/classifier.py and writes the results.

Read next: training/classifier.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from . import config
from .command import Parser, run_command
from .config import ClassifySettings
from .errors import RunError
from .evaluation.baselines import clip_baselines
from .evaluation.clip_scores import results_of, results_table
from .figures import panels
from .files import expect_writable, make_folder, remove_temporaries, text_of, write_file
from .runs import build
from .runs.own_cell import add_cell_argument
from .streams import warn_instead
from .training.classifier import fit

NAMES = ("results.json", "table.txt", "confusion.png")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.classify",
        usage="%(prog)s [--init-from RUN] [--out FOLDER] [--SETTING VALUE ...]",
        description="Recognise actions, from a few labelled clips, by an encoder that was trained "
        "without labels, and compare it with baselines without an LSTM. Takes seconds; start again "
        "after an interruption.",
    )
    parser.add_argument(
        "--init-from", metavar="RUN", help="a run folder of minilstm.train, for its encoder"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="for the results (default: runs/classify-ENCODER-SEED)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite results that are there")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    add_cell_argument(parser)
    config.add_section(parser, "classify", ClassifySettings)
    options = parser.parse_args(arguments)
    settings = ClassifySettings(**config.given(options, "classify"))
    has_run = options.init_from is not None
    parser.expect_effect(
        (
            *settings.conditions(),
            ("--layers --hidden", not has_run, "no --init-from"),
            ("--cell", has_run, "--init-from RUN"),
        )
    )
    default = f"runs/classify-{settings.encoder}-{settings.seed}"
    out = Path(default if options.out is None else options.out)
    _refuse(out, options.force)
    expect_writable(out / NAMES[0], folders=True)
    train, validation, test = build.open_clips(settings)
    fitted = fit(settings, train, validation, options.init_from, options.quiet, options.cell)
    name = f"LSTM, {settings.encoder}"
    rows = {name: fitted.predict(test)} | clip_baselines(train, validation, test)
    result = results_of(name, rows, test)
    text = results_table(result)
    init_from = None if options.init_from is None else text_of(options.init_from)
    about = {"settings": dataclasses.asdict(settings), "init_from": init_from}
    about |= {"threads": fitted.threads}
    make_folder(out)
    with warn_instead("there is no confusion.png"):
        panels.confusion(np.array(result["confusion"]), test.classes, out / "confusion.png", name)
    write_file(out / "table.txt", text + "\n")
    result = about | result | {"history": fitted.history}
    write_file(out / "results.json", json.dumps(result, indent=1, ensure_ascii=False))
    if not options.quiet:
        print(text)
    return 0


def _refuse(out, force):
    try:
        others = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise RunError(
            f"expected --out to name a folder, got {out} ({error.strerror}): choose another"
        ) from error
    hidden = {name for name in others if name.startswith(".")}
    if foreign := sorted(others - hidden - set(NAMES)):
        raise RunError(
            f"expected a new or empty folder, got {out} with {foreign[0]} in it: choose another "
            "--out"
        )
    if "results.json" in others and not force:  # which is written last
        raise RunError(
            f"expected a new or empty folder, got {out}, which holds results: choose another "
            "--out, or overwrite them with --force"
        )
    remove_temporaries(out)  # of a command that was killed


if __name__ == "__main__":
    sys.exit(run_command(main))
