"""Reproduce a table or figure of the slides: train what it needs, judge it, draw it.

    python -m minilstm.reproduce table2                    the four models of Table 2, with verdicts
    python -m minilstm.reproduce table2 --patches FILE     and its second column, natural patches
    python -m minilstm.reproduce table3                    seven pretrainings, few labels and many
    python -m minilstm.reproduce table1 --rgb FOLDER       the same tables on percepts of real clips
    python -m minilstm.reproduce table2 --scale paper --digits DIR --backend cupy --only composite
                                                           one row at the slides' size, on a GPU
    python -m minilstm.reproduce fig5 --scale smoke        Figure 5 in seconds: models that learned
                                                           nothing, to see that it runs

`--scale small`, the default, takes at most 45 minutes per command on two cores. `paper` has the
slides' sizes, for a GPU: with `--plan` the command says how many minutes. All runs of a scale lie
in one folder and serve every target that needs them. Interrupted commands resume, run by run and
step by step.

Slides: all tables and figures. Read next: experiments/targets.py, which does the work.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .command import Parser, at_least, run_command
from .experiments.scales import SCALES
from .experiments.table2 import ROWS
from .experiments.targets import FIGURES, MOST_HOURS, TARGETS, Request, reproduce


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.reproduce",
        description="Reproduce a table or figure of the slides: train, judge, draw, and compare.",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        choices=TARGETS,
        help=f"{', '.join(TARGETS)}; fig9 draws Figure 10, too",
    )
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="small",
        help="smoke: seconds, learns nothing; small: at most 45 minutes on two cores (default); "
        "paper: the slides' size, for a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=at_least(int, 1), metavar="N", default=0,
        help="repetitions of a table, seeds 0 to N - 1 (default: "
        f"{_each(lambda scale: scale.seeds)}; on patches {_each(lambda scale: scale.patch_seeds)}; "
        f"for fig12 {_each(lambda scale: scale.actions.draws)}; for table2 with --backend cupy 1). "
        "For fig12 of percepts the number is raised until every fold is held out equally often",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER",
        help="folder for runs, tables and figures (default: runs/reproduce-SCALE)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=at_least(int, 1), metavar="N", default=0,
        help="runs at a time, of one thread each (default: the number of cores; with --backend "
        "cupy 1)",
    )  # fmt: skip
    parser.add_argument("--digits", metavar="DIR", help="a folder of MNIST's full IDX files")
    parser.add_argument(
        "--patches", metavar="FILE",
        help="patches of natural video (data_tools/extract_patches.py), for table2 and fig6",
    )  # fmt: skip
    for stream, kind in (("rgb", "the frames"), ("flow", "the optical flow")):
        parser.add_argument(
            f"--{stream}", metavar="FOLDER",
            help=f"percepts of {kind} of real clips (data_tools/extract_"
            f"{'percepts' if stream == 'rgb' else 'flow'}.py), for tables 1, 3, 4 and fig12 in "
            "place of the synthetic clips; with both, a third stream joins them",
        )  # fmt: skip
    parser.add_argument(
        "--folds", type=at_least(int, 1), metavar="N", default=10,
        help="with percepts: parts of the recordings, each held out once (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--lists", metavar="FOLDER",
        help="with percepts: the official lists of UCF-101 or HMDB-51, whose three splits replace "
        "the folds",
    )  # fmt: skip
    parser.add_argument(
        "--partly",
        action="store_true",
        help="with --lists: leave out listed clips that are missing",
    )
    parser.add_argument(
        "--backend", choices=("numpy", "cupy"), default="numpy", help="array library of the runs"
    )
    parser.add_argument(
        "--precision", choices=("float32", "tf32", "float64"), default="",
        help="of all numbers of table2 and fig5 to fig9 (default: float32). tf32 is faster on a "
        "GPU of 2020 or later: its matrix products use a 10-bit mantissa",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", action="extend", choices=tuple(ROWS), metavar="ROW", default=[],
        help="with table2: train these rows alone. Other rows are in the table if they were "
        f"trained before. ROW is one of {', '.join(ROWS)}",
    )  # fmt: skip
    parser.add_argument(
        "--minutes-per-run", type=at_least(float, 0.001), metavar="M", default=0,
        help="with --backend cupy, for table2 and fig5 to fig9: a run makes the steps that this "
        "GPU makes in M minutes. They are timed before the first run of a row and written to "
        "OUT/runs/steps.json, so that all seeds of the row make as many (default: the steps of the "
        "scale)",
    )  # fmt: skip
    parser.add_argument(
        "--preset", choices=("large", "paper"), default="",
        help="with --scale paper, for models of digits: large is our recipe for a GPU (default), "
        "paper the settings of the paper",
    )  # fmt: skip
    parser.add_argument(
        "--plan", action="store_true", help="print the runs and their cost; train nothing. With "
        "--rgb or --flow the percepts of each fold are written"
    )  # fmt: skip
    parser.add_argument(
        "--long", action="store_true", help="start runs that will take a CPU more than "
        f"{MOST_HOURS} hours"
    )  # fmt: skip
    parser.add_argument(
        "--captions", action="store_true", help="also write each caption into its picture"
    )
    options = parser.parse_args(arguments)
    parser.expect_effect(_conditions(options))
    workers = 1 if options.backend == "cupy" else os.cpu_count() or 1
    request = Request(
        target=options.target,
        scale_name=options.scale,
        out=Path(options.out or f"runs/reproduce-{options.scale}").resolve(),
        workers=options.workers or workers,
        seeds=options.seeds,
        digits=_absolute(options.digits) or "bundled",
        patches=_absolute(options.patches),
        backend=options.backend,
        plan=options.plan,
        rgb=_absolute(options.rgb),
        flow=_absolute(options.flow),
        folds=options.folds,
        lists=_absolute(options.lists),
        partly=options.partly,
        only=tuple(options.only),
        minutes=options.minutes_per_run,
        precision=options.precision,
        preset=options.preset,
        long=options.long,
        captions=options.captions,
    )
    print(reproduce(request))
    if not request.plan:
        print(f"written to {request.out}")
    return 0


def _conditions(options):
    """Return the options that only some targets have: rows for `Parser.expect_effect`."""
    target, on_gpu = options.target, options.backend == "cupy"
    many_models = target == "table2" or target in FIGURES
    of_actions = target in ("table1", "table3", "table4", "fig12")
    real = bool(options.rgb or options.flow)
    return (
        ("--only", target == "table2", "table2"),
        ("--precision --minutes-per-run --preset", many_models, "table2 or fig5 to fig9"),
        # runs on a CPU share its cores, so their pace is not known before
        ("--minutes-per-run", on_gpu, "--backend cupy"),
        ("--preset", options.scale == "paper", "--scale paper"),
        ("--seeds", target not in FIGURES, "a table or fig12"),
        ("--digits", target != "fig6" and not real, "a target on digits"),
        ("--patches", target in ("table2", "fig6"), "table2 or fig6"),
        ("--rgb --flow", of_actions, "table1, table3, table4 or fig12"),
        ("--folds --lists", real, "--rgb or --flow"),
        ("--folds", not options.lists, "no --lists"),
        ("--partly", bool(options.lists), "--lists"),
        ("--long", not on_gpu, "--backend numpy"),
    )


def _absolute(path):
    return str(Path(path).resolve()) if path else ""


def _each(number):
    return ", ".join(f"{name} {number(scale)}" for name, scale in SCALES.items())


if __name__ == "__main__":
    sys.exit(run_command(main))
