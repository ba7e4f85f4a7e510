"""See a trained model predict digits that it has never seen, in ten seconds.

    python -m minilstm.demo                    writes a film and a page into the folder demo
    python -m minilstm.demo --open             also opens the page in a browser
    python -m minilstm.demo runs/composite-0   the same for a run of your own

The model comes with the package. Its predictions are computed now, on this machine, from the first
ten frames of each test sequence.

Read next: experiments/demo_page.py, which makes both files.
"""

from __future__ import annotations

import sys
import webbrowser

from .command import Parser, at_least, run_command
from .errors import number_of
from .experiments.demo_page import make_demo, what_next
from .runs.own_cell import add_cell_argument


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.demo",
        description="See a trained model predict digits that it has never seen: a film and a page, "
        "in ten seconds.",
    )
    parser.add_argument(
        "run",
        nargs="?",
        default="one-digit",
        metavar="RUN",
        help="the name of a trained model, or a run folder of minilstm.train (default: one-digit)",
    )
    parser.add_argument(
        "--out", default="demo", metavar="DIR", help="folder for the two files (default: demo)"
    )
    parser.add_argument(
        "--sequences",
        metavar="N",
        type=at_least(int, 1),
        default=200,
        help="test sequences to judge by (default: 200)",
    )
    add_cell_argument(parser)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(arguments)
    demo = make_demo(options.run, options.out, options.sequences, options.cell)
    N, unit = demo.result["sequences"], demo.result["unit"]
    print(f"model   {demo.summary}")
    print(f"data    {number_of(N, 'test sequence')} that it has never seen")
    if "future" in demo.result:
        future = demo.result["future"]["free_running"]
        mean = demo.result["baselines"]["mean image"]["mean"]
        print(f"future  {future['mean']:.1f} ({unit}), sharpness {future['sharpness']:.2f}")
        print(f"        {mean:.1f} ({unit}) by the mean image, which needs no model")
    print(f"film    {demo.film.resolve()}")
    print(f"page    {demo.page.resolve()}")
    print("\nwhat to type next:")
    found = what_next(options.run)
    for command, why in found.items():
        print(f"  {command:<{max(map(len, found))}}  {why}")
    if options.open and not webbrowser.open(demo.page.resolve().as_uri()):
        print("\nno browser was found: open the page yourself", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
