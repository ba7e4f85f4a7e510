"""Judge a trained run on frames that it has never seen.

    python -m minilstm.evaluate RUN
    python -m minilstm.evaluate RUN RUN ...    one after the other, then a table of all

This file reads the command line, calls evaluation/judging.py and prints the table.

Read next: evaluation/judging.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np

from . import threads
from .backend import use_backend
from .command import Parser, at_least, run_command
from .data import load_digits
from .errors import ConfigError, RunError
from .evaluation import judging, kept_predictions
from .files import expect_writable
from .runs import build
from .runs.own_cell import add_cell_argument
from .runs.run_folder import RunFolder
from .runs.trained import find_run

TRIAL_SECONDS = 0.02  # for each number of threads: all sequences take about a second


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.evaluate",
        description="Judge a trained run on unseen test sequences, beside baselines.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder of minilstm.train, or the name of a trained model: one-digit. Several "
        "are judged one after the other, then compared in one table",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="a file of sequences or patches, a folder of percepts, or moving-mnist, in place of "
        "the run's own test data. Of a file that the run was trained on, only the test split is "
        "used",
    )
    parser.add_argument("--digits", metavar="DIR", help="a folder of MNIST's full IDX files")
    parser.add_argument(
        "--sequences",
        metavar="N",
        type=at_least(int, 1),
        default=1000,
        help="how many (default: 1000)",
    )
    parser.add_argument(
        "--backend", default="numpy", choices=("numpy", "cupy"), help="array library"
    )
    parser.add_argument(
        "--best", action="store_true", help="the weights with the smallest validation loss"
    )
    parser.add_argument(
        "--keep", metavar="FILE",
        help="also write the predictions for the first 16 sequences as bytes, with these losses, "
        "the settings and the GPU, to this .npz file",
    )  # fmt: skip
    parser.add_argument(
        "--commit", metavar="TEXT", default="", help="with --keep: the commit of the code, where "
        "git does not know it",
    )  # fmt: skip
    add_cell_argument(parser)
    parser.add_argument(
        "--threads", metavar="auto|N", default="auto", help="threads of the matrix products on a "
        "CPU: a number, or auto, the smallest that is nearly the fastest in a short trial "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)
    parser.expect_effect(
        (
            ("--commit", options.keep is not None, "--keep FILE"),
            ("--threads", options.backend == "numpy", "--backend numpy"),
        )
    )
    runs = {name: find_run(name) for name in options.runs}  # all, before the first is judged
    several = len(runs) > 1
    if options.keep is not None:
        expect_writable(options.keep, suffix=".npz")
        if several:
            raise ConfigError(
                f"expected --keep with one RUN, got {len(runs)}: judge them one by one"
            )
    threads.checked(options.threads)
    results, frames = {}, set()
    for name, run in runs.items():
        results[name], seen = judge(name, run, options, several)
        frames.add(seen)
        if not options.json:
            found = judging.table(results[name])
            print(f"{name}\n\n{found}\n" if several else found, flush=True)
    if options.json:
        print(json.dumps(results if several else results[name], indent=2))
    elif several:
        print(
            judging.comparison(results)
            if len(frames) == 1
            else "no common table: these runs see or predict different frames, so their numbers "
            "can't be compared"
        )
    return 0


def judge(name: str, run: Path, options, several: bool) -> tuple[dict, str]:
    """Return the result of one run, and a hash of the frames that it was judged on.

    If it is the only one, the hash is "". If it is one of `several`, --cell applies only to a run
    that has a cell of the user's own.
    """
    cell = options.cell
    if several and cell is not None and build.read_config(run).model.cell_file is None:
        cell = None
    config = build.read_config(run, cell)
    if options.digits is not None:
        source = config.data.source if options.data is None else options.data
        if source not in ("moving-mnist", "actions", "action-changes"):
            raise ConfigError(
                f"expected no --digits for {source}, which has none, got {options.digits}: leave "
                "it out"
            )
        load_digits(options.digits, "test")  # first, so that an error names these digits
        data = dataclasses.replace(config.data, digits=options.digits)
        config = dataclasses.replace(config, data=data)
    precision = config.run.dtype if options.backend == "numpy" else config.run.precision
    # if numbers overflow, NonFiniteError says so, and NumPy's warnings are not needed
    with use_backend(options.backend, precision, config.run.fused), np.errstate(all="ignore"):
        model, about = build.read_run(run, options.best, cell)
        RunFolder(run).warn_if_training(name, about)
        other = options.data
        if other is not None and (moved := build.own_data_at(config, other, about)):
            print(
                f"data      only the test split of {other}: {name} was trained on this file",
                file=sys.stderr,
            )
            config, other = moved, None
        build.expect_data(name, config)
        build.expect_same_data(name, config, about)
        source = build.open_test_source(config, other)
        shape, trained = source.frame_shape, build.open_source(config, "train").frame_shape
        if shape != trained:
            raise ConfigError(
                f"expected frames of {'x'.join(map(str, trained))} pixels, which {name} was "
                f"trained on, got {'x'.join(map(str, shape))}: give other --data"
            )
        if math.prod(shape) != model.D:
            raise RunError(
                f"expected frames of {model.D} numbers, as {name} was trained on, got "
                f"{math.prod(shape)}: was its config.toml, or its data, changed since?"
            )
        frames, mean = judging.sequences(source, options.sequences), judging.mean_image(config)
        some = frames[:, : config.run.batch_size]
        trial = partial(judging.decode, model, some, config.data.past)
        with threads.chosen(options.threads, trial, TRIAL_SECONDS) as said:
            if said:
                print(f"threads   {said}", file=sys.stderr)
            result = judging.evaluate(model, frames, config.data.past, mean, shape)
        if options.keep is not None:
            kept_predictions.keep(
                options.keep, model, about, frames, config, result, options.commit
            )
    if not several:
        return result, ""
    seen = hashlib.sha256(np.ascontiguousarray(frames, "float32").data)
    seen.update(f"{frames.shape}, {config.data.past} of them seen".encode())
    return result, seen.hexdigest()


if __name__ == "__main__":
    sys.exit(run_command(main))
