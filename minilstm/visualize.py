"""Draw the figures of the slides and the paper from trained runs.

    python -m minilstm.visualize RUN [RUN ...] [--out DIR] [--only FIGURE ...]

    fig5       strips and a film: truth, reconstruction, prediction; a row for every run
    fig6       the same on patches of natural video
    fig7       200 units of the future decoder over 100 predicted steps, trained and random
    fig8       one digit more and one fewer than in training
    fig9       input weights of the encoder's gates, as images
    fig10      output weights of both decoders, as images
    gates      histograms of the gates: are they saturated?
    gradients  how far back in time a gradient reaches: LSTM against RNN

Each is written as PNG and as PDF. All captions are in figures.md, and with --captions also in the
pictures.

Read next: experiments/run_figures.py, which draws them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .command import Parser, run_command
from .errors import number_of
from .experiments.run_figures import NAMES, FigureFolder, captions, draw, open_runs
from .files import expect_writable, make_folder, write_file
from .runs.own_cell import add_cell_argument
from .runs.run_folder import RunFolder
from .runs.trained import find_run, is_packed


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.visualize",
        description="Draw the figures of the slides from trained runs, as PNG and PDF.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder of minilstm.train, or the name of a trained model: one-digit",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the figures (default: figures/ in the first RUN, NAME-figures/ here for a "
        "trained model)",
    )
    parser.add_argument(
        "--only", nargs="+", action="extend", choices=NAMES, metavar="FIGURE",
        help=f"some of {', '.join(NAMES)}",
    )  # fmt: skip
    parser.add_argument(
        "--best",
        action="store_true",
        help="the weights with the smallest validation loss, not the newest",
    )
    parser.add_argument(
        "--captions", action="store_true", help="also write each caption into its picture"
    )
    add_cell_argument(parser)
    options = parser.parse_args(arguments)
    folders = [find_run(run) for run in options.runs]
    here = f"{folders[0].name}-figures" if is_packed(folders[0]) else folders[0] / "figures"
    out = Path(options.out or here)
    # before the figures are drawn, which takes time
    remedy = "choose another folder by --out DIR"
    expect_writable(out / "figures.md", folders=True, remedy=remedy)
    runs = open_runs(folders, options.best, options.cell)
    for path, run in zip(folders, runs, strict=True):
        RunFolder(path).warn_if_training(run.name, run.about)
    folder = FigureFolder(make_folder(out), captioned=options.captions)
    draw(runs, folder, tuple(options.only or NAMES))
    write_file(out / "figures.md", captions(runs, folder))
    titles = {figure.name: figure.title for figure in folder.drawn}
    titles |= {name: f"not drawn: {why}" for name, why in folder.left_out.items()}
    for name, words in titles.items():
        print(f"{name:<{max(map(len, titles))}}  {words}")
    drawn = number_of(len(folder.drawn), "figure")
    print(f"{drawn}, PNG and PDF, and their captions: {out / 'figures.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
