"""The LSTM cells as single kernels of a GPU: cells.cuh, launched.

A step of cells.py is a dozen operations on whole arrays, each of which a GPU must be asked for and
reads and writes all its memory. Here it is one. The functions have the names of those in cells.py
and do the same, with two sums more: the forward ones add h_prev Wh, the backward ones add dy, and
they make the slopes where they need them. `--no-fused` does without this file.

Read next: cells.cuh.
"""

from __future__ import annotations

import functools
from importlib.resources import files

import numpy as np

from ..backend import current_backend, xp

THREADS = 256  # in a block
BLOCKS = 65_535  # at most; threads then take several units each


def wanted(dtype) -> bool:
    """Whether arrays of this dtype go through the kernels: on a GPU, unless told otherwise."""
    return current_backend().name == "cupy" and current_backend().fused and dtype.kind == "f"


def lstm_cell(a, product, c_prev, Wp, c, h) -> None:
    """a += product, then `cells.lstm_cell`. (B, 4H) twice, (B, H), (3, H) or None, (B, H) twice."""
    _launch("lstm_cell", c, a, product, c_prev, Wp, c, h)


def lstm_cell_backward(dy, dh, dc, a, c_prev, c, Wp) -> None:
    """dh + dy, `cells.lstm_slopes` and `cells.lstm_cell_backward`; dy may be None. dh is only read.

    a (B, 4H), the gates, becomes da; dc becomes dc_prev.
    """
    _launch("lstm_cell_backward", dc, _in_rows(dy), dh, dc, a, c_prev, c, Wp)


def slides_lstm_cell(a, product, m_prev, m, h) -> None:
    """a += product, then `cells.slides_lstm_cell`."""
    _launch("slides_lstm_cell", m, a, product, m_prev, m, h)


def slides_lstm_cell_backward(dy, dh, dm, a, m_prev, m, h) -> None:
    """As `lstm_cell_backward`, with `cells.slides_lstm_slopes`."""
    _launch("slides_lstm_cell_backward", dm, _in_rows(dy), dh, dm, a, m_prev, m, h)


def source() -> str:
    """The text of cells.cuh."""
    return files(__package__).joinpath("cells.cuh").read_text(encoding="utf-8")


def _launch(name, units, *arrays):
    B, H = units.shape
    kernel = _module({"float32": "float", "float64": "double"}[units.dtype.name]).get_function(name)
    blocks = min(-(-B * H // THREADS), BLOCKS)
    if blocks:
        kernel((blocks,), (THREADS,), (np.int32(B), np.int32(H), *arrays))


def compiled(source: str, real: str):
    """Return the kernels of a text in CUDA C++ with REAL = "float" or "double".

    `.get_function(name)` of what is returned is one kernel.
    """
    return xp.RawModule(code=source, options=("-std=c++17", f"-DREAL={real}"))


@functools.cache
def _module(real):
    return compiled(source(), real)


def _in_rows(dy):
    # a kernel is given bare addresses; of all arrays only this one may come from a caller
    return dy if dy is None or dy.flags.c_contiguous else dy.copy()
