"""The look of all figures: colours, letters, page size, captions, and how a file is written.

A path that ends in .pdf gets a PDF, any other path a PNG. A file is written whole or not at all.
Equal input gives equal bytes, because no date and no version is stored, so pictures can be compared
by checksum. Matplotlib is imported when the first figure is drawn, not with this module.

Read next: curves.py, strips.py, panels.py and tables.py, which draw.
"""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, named
from ..files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow: distinct for colour-blind readers, on white paper
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, FAINT, GRID = "#222222", "#777777", "#dddddd"
PAPER, PALE = 255, 235  # grey levels: empty space, and a frame that the model was not asked for

PAGE = (13.33, 6.5)  # inches: with a caption below it, a page has the shape of a slide
DPI = 150  # pixels per inch
SMALL, LARGE = 14, 17  # points: the two sizes of letters on a page


def load_matplotlib():
    """Import Matplotlib and return it. Raises ConfigError if it can't read its own settings."""
    try:
        import matplotlib
    except Exception as error:
        raise ConfigError(
            f"expected settings that Matplotlib can read, got {named(error)}: mend your "
            "matplotlibrc, or the variable MPLBACKEND"
        ) from error
    return matplotlib


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw with Matplotlib's own defaults, whatever a user's matplotlibrc says.

    A decorator of every function that draws: `@own_settings()`. Afterwards the user's settings are
    back.
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def new_page(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return a figure of Matplotlib and its axes (rows, columns).

    It is made without pyplot, so that figures and the backend chosen by the caller stay untouched.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=PAGE, dpi=DPI, layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def write_caption(figure: Figure, caption: str) -> None:
    """Make room below a figure and write the caption there."""
    lines = textwrap.wrap(caption, int(figure.get_figwidth() * 72 / (0.54 * SMALL)))
    figure.set_figheight(figure.get_figheight() + len(lines) * 1.3 * SMALL / 72)
    figure.supxlabel("\n".join(lines), fontsize=SMALL, color=INK, x=0.01, ha="left")


def write_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PDF or PNG, without a date or a version. Raises RunError."""
    data = io.BytesIO()
    if Path(path).suffix == ".pdf":
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        FigureCanvasPdf(figure)
        nameless = {"Creator": None, "Producer": None, "CreationDate": None}
        figure.savefig(data, format="pdf", metadata=nameless)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        figure.savefig(data, format="png", metadata={"Software": None})
    write_file(path, data.getvalue())
