"""Write one page about a run, to open in any browser and to send to anybody.

    python -m minilstm.report RUN              writes RUN/report.html
    python -m minilstm.report RUN --watch      the same page while the run still trains
    python -m minilstm.report one-digit        of a trained model: writes one-digit-report.html

Everything is in that one file, pictures too, and the page needs no network: what was trained,
predictions with a slider over time, the table of `minilstm.evaluate`, training curves, the figures
of `minilstm.visualize` with their captions, all settings, and the environment.

Read next: experiments/report_page.py, which writes it.
"""

from __future__ import annotations

import math
import sys

from .command import Parser, at_least, run_command
from .errors import ConfigError
from .experiments.live_page import wait_for_run, watch
from .experiments.report_page import write_report
from .experiments.tensorboard_log import TensorBoardLog
from .files import shell_word
from .runs.own_cell import add_cell_argument
from .runs.run_folder import RunFolder
from .runs.trained import find_run, is_packed


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.report",
        description="Write one page about a run, with everything in it: RUN/report.html.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run folder of minilstm.train, or the name of a trained model: one-digit",
    )
    parser.add_argument(
        "--sequences",
        metavar="N",
        type=at_least(int, 1),
        default=1000,
        help="test sequences to judge by (default: 1000)",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the weights with the smallest validation loss, not the newest",
    )
    add_cell_argument(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write the page repeatedly while the run trains; the browser reloads it by itself. If "
        "the run has not started yet, wait for it",
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=float,
        default=15.0,
        help="with --watch: time between two pages (default: 15)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write the log in TensorBoard's format, into RUN/tensorboard; needs the extra "
        "[tensorboard]",
    )
    options = parser.parse_args(arguments)
    parser.expect_effect([("--every", options.watch, "--watch")])
    if not 0 < options.every < math.inf:
        raise ConfigError(
            f"expected --every > 0, in seconds, got {options.every:g}: take 15, for instance"
        )
    if options.watch and options.best:
        raise ConfigError("expected --watch or --best, got both: leave one out")
    folder = RunFolder(wait_for_run(options.run) if options.watch else find_run(options.run))
    for flag in ("watch", "tensorboard"):
        if getattr(options, flag) and is_packed(folder.path):
            raise ConfigError(
                f"expected a run folder for --{flag}, got the trained model {options.run}: leave "
                f"--{flag} out"
            )
    log = TensorBoardLog(folder) if options.tensorboard else None
    if options.watch:
        print(watch(folder.path, options.every, options.sequences, log, options.cell))
    else:
        print(write_report(folder.path, options.sequences, options.best, options.cell))
    if log is not None:
        print(f"{log.update()}: tensorboard --logdir {shell_word(folder.path)}")
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
