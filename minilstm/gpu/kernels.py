"""The LSTM cells on a GPU: launches the kernels of cells.cuh.

A step of cells.py is a dozen operations on whole arrays. A GPU needs a launch for each of them, and
each one reads and writes whole arrays in memory. Here a step is one kernel. Functions named as
in cells.py compute the same. The backward functions also add dy and compute the
slopes. With `--no-fused` they are not used. The other files with kernels use `launch` of this file.

Read next: cells.cuh.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

import numpy as np

from ..backend import current_backend, xp

THREADS = 256  # in a block
BLOCKS = 65_535  # at most; with more units, every thread computes several of them
ROWS = 16  # of (T, B) over which one thread adds up the gradient of a peephole


def wanted(dtype) -> bool:
    """Return True if cells of this dtype are computed by kernels: with CuPy, and fused."""
    return current_backend().name == "cupy" and current_backend().fused and dtype.kind == "f"


def lstm_cell(a, c_prev, Wp, c, h) -> None:
    """`cells.lstm_cell`. a (B, 4H), c_prev (B, H), Wp (3, H) or None; writes c, h (B, H)."""
    _launch("lstm_cell", c, a, c_prev, Wp, c, h)


def lstm_cell_backward(dy, dh, dc, a, c_prev, c, Wp) -> None:
    """dh + dy, `cells.lstm_slopes` and `cells.lstm_cell_backward`; dy may be None. dh is only read.

    a (B, 4H), the gates, becomes da; dc becomes dc_prev.
    """
    _launch("lstm_cell_backward", dc, in_rows(dy), dh, dc, a, c_prev, c, Wp)


def slides_lstm_cell(a, m_prev, m, h) -> None:
    """`cells.slides_lstm_cell`. a (B, 4H), m_prev (B, H); writes m, h (B, H)."""
    _launch("slides_lstm_cell", m, a, m_prev, m, h)


def slides_lstm_cell_backward(dy, dh, dm, a, m_prev, m, h) -> None:
    """Do the same as `lstm_cell_backward`, with `cells.slides_lstm_slopes`."""
    _launch("slides_lstm_cell_backward", dm, in_rows(dy), dh, dm, a, m_prev, m, h)


def peephole_sums(da, c):
    """Sums of da_i c_prev, da_f c_prev and da_o c over some rows each, (parts, 3H).

    da (T, B, 4H), c (T+1, B, H). The sum over the parts is the gradient of the peepholes.
    """
    T, B, H = c.shape[0] - 1, *c.shape[1:]
    parts = -(-T * B // ROWS)
    sums = xp.empty((parts, 3 * H), c.dtype)
    sizes = map(np.int32, (T, B, H, ROWS))
    launch("cells.cuh", "peephole_sums", c.dtype, parts * H, *sizes, da, c, sums)
    return sums


def source(file: str) -> str:
    """Return the text of a file of this folder, with the files that it includes."""
    text = files(__package__).joinpath(file).read_text(encoding="utf-8")
    return re.sub(r'#include "(.*)"\n', lambda found: source(found[1]), text)


@functools.cache
def function(file: str, name: str, dtype: str):
    """Return the kernel `name` of a file of this folder, with REAL of this dtype. Compiled once."""
    return _module(file, dtype).get_function(name)


def launch(file: str, name: str, dtype, units: int, *arguments) -> None:
    """Run a kernel on `units` units, with at most one thread for each unit."""
    blocks = min(-(-units // THREADS), BLOCKS)
    if blocks:
        function(file, name, np.dtype(dtype).name)((blocks,), (THREADS,), arguments)


@functools.cache
def _module(file, dtype):
    return compiled(source(file), {"float32": "float", "float64": "double"}[dtype])


def compiled(source: str, real: str):
    """Return the kernels of a text in CUDA C++ with REAL = "float" or "double".

    `.get_function(name)` of what is returned is one kernel.
    """
    return xp.RawModule(code=source, options=("-std=c++17", f"-DREAL={real}"))


def _launch(name, units, *arrays):
    B, H = units.shape
    launch("cells.cuh", name, units.dtype, B * H, np.int32(B), np.int32(H), *arrays)


def in_rows(x):
    """Return x, or a contiguous copy, because a kernel gets only an address. None stays None."""
    return x if x is None or x.flags.c_contiguous else x.copy()
