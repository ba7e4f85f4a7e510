"""Train a model: the main command.

    python -m minilstm.train                                   a composite model, four minutes
    python -m minilstm.train one-digit                         one digit, four minutes
    python -m minilstm.train table2-composite toronto2015      a row of Table 2, as in 2015
    python -m minilstm.train table2-composite large --digits DIR --backend cupy
                                                               the same row by our recipe, on a GPU
    python -m minilstm.train --resume RUN                      go on where a run stopped
    mpiexec -n 4 python -m minilstm.train --distributed        on four processes

This file reads the command line and calls training/loop.py.

Read next: training/step.py.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from . import config, threads
from .backend import use_backend
from .command import Parser, run_command
from .config import Config
from .errors import ConfigError
from .runs import build
from .runs.trained import find_run
from .training import loop
from .training.distributed import ALONE, Ranks

PLACES = ("data.path", "data.source", "data.digits")  # settings that say where the data are
CELL = "model.cell"  # names the cell, or a file with the user's own cell
THREADS = "run.threads"  # the setting that changes the speed, and results only by rounding
FREE = ("minutes", "keep", "graph")  # settings of [run] that do not change how a step is computed


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.train",
        usage="%(prog)s [PRESET ...] [--config FILE] [--out RUN] [--SETTING VALUE ...]\n"
        "       %(prog)s --resume RUN [--extend-to STEPS] [--threads N]",
        description="Train a model of the paper. Without arguments: a composite model on bundled "
        "moving digits, in four minutes on two cores.",
    )
    parser.add_argument("--out", metavar="RUN", help="the run folder (default: runs/MODEL-SEED)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, with its own settings; the result has the same "
        "bits as that of a run that never stopped, unless --threads, --force or another number of "
        "ranks is given. --minutes, --keep and --graph may be changed, and keep their new values",
    )
    parser.add_argument(
        "--extend-to", metavar="STEPS", type=int, help="with --resume: the new number of steps"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite a run that is there; with --resume: go on in another environment",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="divide every batch among the processes that mpiexec starts: mpiexec -n 4 python "
        "-m minilstm.train --distributed; needs the extra [mpi]",
    )
    config.add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)  # presets may stand between flags
    if options.resume is not None:
        settings, out = resumed_settings(options), Path(options.resume)
    elif options.extend_to is not None:
        raise ConfigError(
            "expected --extend-to with --resume RUN, got it alone: name the run, or use --steps"
        )
    else:
        settings = config.from_arguments(options)
        default = f"runs/{settings.model.kind}-{settings.run.seed}"
        out = Path(default if options.out is None else options.out)
    parser.expect_effect(settings.conditions())
    run, resumes = settings.run, options.resume is not None
    with (
        Ranks(run.backend) if options.distributed else ALONE as ranks,
        use_backend(run.backend, run.precision, run.fused),
    ):
        own_cpus = ranks.count == 1
        parser.expect_effect([("--threads --graph --no-graph", own_cpus, "a single process")])
        new_threads = vars(options).get(THREADS, "") if resumes else ""
        loop.train(
            settings, out, options.force, options.quiet, resumes, ranks, new_threads=new_threads
        )
    return 0


def resumed_settings(options) -> Config:
    """The settings of the run that --resume names.

    --extend-to may change its length. --minutes, --keep and --graph do not change how a step is
    computed; the new values are kept. --path, --data FILE.npy and --digits say where the same data
    lie now, and --cell where the file of the run's own cell lies. --threads N changes no setting:
    the number of threads is recorded with each checkpoint.
    """
    may_change = (*PLACES, CELL, THREADS, *(f"run.{name}" for name in FREE))
    others = [name for name in vars(options) if "." in name and name not in may_change]
    others += options.presets
    others += [f"--{name}" for name in ("config", "out") if getattr(options, name) is not None]
    if others:
        raise ConfigError(
            f"expected no settings beside --resume, which keeps those of its run, got {others[0]}: "
            "leave it out, or train a new run"
        )
    run = find_run(options.resume, or_trained=False)
    settings = build.read_config(run, config.given(options, "model").get("cell"))
    places, number = config.given(options, "data"), vars(options).get(THREADS, "1")
    if THREADS in vars(options) and (options.distributed or threads.checked(number) == "auto"):
        got = "--distributed" if options.distributed else f"--threads {number}"
        raise ConfigError(
            f"expected --threads N beside --resume, a number for a single process, got {got}: give "
            "a number, or leave --threads out to keep that of the run"
        )
    given = config.given(options, "run")
    free = {name: given[name] for name in FREE if name in given}
    settings = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, **places),
        run=dataclasses.replace(settings.run, **free),
    )
    if options.extend_to is None:
        return settings
    if options.extend_to < settings.run.steps:
        raise ConfigError(
            f"expected --extend-to >= {settings.run.steps}, the steps of the run, got "
            f"{options.extend_to}: raise it"
        )
    return dataclasses.replace(
        settings, run=dataclasses.replace(settings.run, steps=options.extend_to)
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
