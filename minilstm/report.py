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

import sys

from .command import Parser, run_command
from .errors import ConfigError
from .experiments.live_page import watch
from .experiments.report_page import write_report
from .runs.own_cell import add_cell_argument
from .runs.run_folder import RunFolder
from .runs.trained import find_run


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
        type=int,
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
        help="write the page again and again while the run trains; a browser that shows it loads "
        "it anew by itself",
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=float,
        default=15.0,
        help="with --watch: time between two pages (default: 15)",
    )
    options = parser.parse_args(arguments)
    if options.sequences < 1:
        raise ConfigError(f"expected --sequences >= 1, got {options.sequences}: ask for more")
    if not options.every > 0:
        raise ConfigError(f"expected --every > 0 seconds, got {options.every:g}: raise it")
    if options.watch:
        if options.best:
            raise ConfigError("expected --watch or --best, got both: leave one out")
        print(f"open {RunFolder(find_run(options.run)).report} in a browser", flush=True)
        print(watch(options.run, options.every, options.sequences))
        return 0
    print(write_report(options.run, options.sequences, options.best, options.cell))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
