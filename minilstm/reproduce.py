"""Reproduce a table or figure of the slides: train what it needs, judge it, draw it.

    python -m minilstm.reproduce table2                    the four models of Table 2, with verdicts
    python -m minilstm.reproduce table2 --patches FILE     and its second column, natural patches
    python -m minilstm.reproduce table3                    seven pretrainings, few labels and many
    python -m minilstm.reproduce table1 --rgb FOLDER       the same tables on percepts of real clips
    python -m minilstm.reproduce fig5 --scale smoke        Figure 5 in seconds: models that learned
                                                           nothing, to see that it runs

`--scale small`, the default, takes at most 45 minutes per command on two cores. `paper` has the
slides' sizes, for a GPU and days. All runs of a scale lie in one folder and serve every target that
needs them. Interrupted commands resume, run by run and step by step.

Slides: all tables and figures. Read next: experiments/targets.py, which does the work.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .command import Parser, run_command
from .experiments.scales import SCALES
from .experiments.targets import TARGETS, Request, reproduce


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.reproduce",
        description="Reproduce a table or figure of the slides: train, judge, draw, and compare.",
    )
    parser.add_argument("target", metavar="TARGET", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="small",
        help="smoke: seconds, learns nothing; small: at most 45 minutes on two cores (default); "
        "paper: the slides' size, days even on a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_positive, metavar="N", default=0,
        help="repetitions of a table, seeds 0 to N - 1 (default: "
        f"{_each(lambda scale: scale.seeds)}; on patches {_each(lambda scale: scale.patch_seeds)}; "
        f"for fig12 {_each(lambda scale: scale.actions.draws)})",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER",
        help="folder for runs, tables and figures (default: runs/reproduce-SCALE)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_positive, metavar="N", default=os.cpu_count() or 1,
        help="runs at a time, of one thread each (default: the number of cores)",
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
        "--folds", type=_positive, metavar="N", default=10,
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
        "--plan", action="store_true", help="print the runs and their cost; train nothing"
    )
    options = parser.parse_args(arguments)
    request = Request(
        options.target,
        options.scale,
        Path(options.out or f"runs/reproduce-{options.scale}").resolve(),
        options.workers,
        options.seeds,
        _absolute(options.digits) or "bundled",
        _absolute(options.patches),
        options.backend,
        options.plan,
        _absolute(options.rgb),
        _absolute(options.flow),
        options.folds,
        _absolute(options.lists),
        options.partly,
    )
    print(reproduce(request))
    if not request.plan:
        print(f"written to {request.out}")
    return 0


def _absolute(path):
    return str(Path(path).resolve()) if path else ""


def _each(number):
    return ", ".join(f"{name} {number(scale)}" for name, scale in SCALES.items())


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
