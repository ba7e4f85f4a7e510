"""The LSTM layers: the paper's with peepholes, the standard one, and the slides' literal one.

All matrix products that need no recurrence are made once for all time steps: the inputs' before
the forward loop, the weight gradients' and the inputs' gradients after the backward loop. What
remains in the loops is one product with Wh and the pointwise cell; on a GPU that cell is one kernel
(kernels.py).

Slides: "Cells: Long-Short Term Memory (LSTM)". Paper: section 2.1. Read next: stack.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from ..gpu import kernels
from . import cells
from .init import PAPER_INIT, Init
from .linear import affine, affine_by_feature, affine_dw, affine_dx, sum_of_rows
from .rnn import Recurrent
from .workspace import BY_FEATURE, BY_STEP, empty, reordered


class LSTM(Recurrent):
    """The standard LSTM, without peepholes; PyTorch's `nn.LSTM`. Output h, state (h, c).

    Wx (D, 4H), Wh (H, 4H), b (4H,), gates in the order i f g o. The equations: cells.lstm_cell.
    """

    state_names = ("h", "c")
    gates = 4

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 4 * H)
        self.Wh = init.recurrent(rng, H, gates=4)
        self.b = init.gate_bias(H)

    def step(self, run, t):
        xp.matmul(run.h[t], self.recurrent_weight(), out=run.product)
        if kernels.wanted(run.a.dtype):
            self.fused_cell(run, t)
        else:
            run.a[t] += run.product
            self.cell(run, t)

    def step_backward(self, run, t, dy):
        if kernels.wanted(run.a.dtype):
            self.fused_cell_backward(run, t, dy)
        else:
            if dy is not None:
                run.dh += dy
            slopes = run.a[t]
            cells.lstm_cell_backward(run.dh, run.dc, slopes, run.h_to_c[t], run.c_to_c[t])
        da = run.a[t]  # what the gates or their slopes have become
        affine_dx(da, self.recurrent_weight(), out=run.dh)

    def begin_backward(self, run, dfinal):
        super().begin_backward(run, dfinal)
        if kernels.wanted(run.a.dtype):
            return  # the kernel of a step makes its slopes itself
        run.h_to_c, run.c_to_c, scratch = (
            empty(run.y.shape, run.y.dtype, BY_STEP) for _ in range(3)
        )
        self.slopes(run, scratch)

    def accumulate(self, run):
        run.h_to_c = run.c_to_c = None
        super().accumulate(run)

    def cell(self, run, t):
        a, h, c = run.a, run.h, run.c
        cells.lstm_cell(a[t], c[t], self.peepholes(), c[t + 1], h[t + 1])

    def slopes(self, run, scratch):
        a, h, c = run.a, run.h, run.c
        cells.lstm_slopes(
            a, c[:-1], self.peepholes(), c[1:], h[1:], run.h_to_c, run.c_to_c, scratch
        )

    def fused_cell(self, run, t):
        a, h, c = run.a, run.h, run.c
        kernels.lstm_cell(a[t], run.product, c[t], self.peepholes(), c[t + 1], h[t + 1])

    def fused_cell_backward(self, run, t, dy):
        kernels.lstm_cell_backward(
            dy, run.dh, run.dc, run.a[t], run.c[t], run.c[t + 1], self.peepholes()
        )

    def recurrent_weight(self):
        return self.Wh.value

    def peepholes(self):
        return None


class PeepholeLSTM(LSTM):
    """The paper's LSTM: diagonal peepholes Wp (3, H) let the gates i f o see the cell."""

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        super().__init__(D, H, rng, init)
        self.Wp = init.peepholes(rng, H)

    def peepholes(self):
        return self.Wp.value

    def accumulate(self, run):
        di, df, _, do = cells.gates(run.a)
        c_prev, c = run.c[:-1], run.c[1:]
        run.h_to_c = None  # its slopes have done their work
        scratch = empty(c.shape, c.dtype, BY_STEP)
        for k, (da, seen) in enumerate(((di, c_prev), (df, c_prev), (do, c))):
            self.Wp.grad[k] += sum_of_rows(xp.multiply(da, seen, out=scratch))
        del scratch, di, df, do, da  # their memory may serve the products
        super().accumulate(run)


class SlidesLSTM(LSTM):
    """The slides' LSTM, read literally: the input is projected, then joined with h.

    Wi (D, H) makes I x; W (2H, 4H) takes [I x, h]; no bias, no peepholes. The equations:
    cells.slides_lstm_cell. Splitting W = [W_I; W_h] keeps the input products out of the loop.
    """

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wi = init.input_weight(rng, D, H)
        self.W = init.weight(rng, 2 * H, 4 * H)
        init.weaken(self.W.value[H:])

    def begin(self, x, state):
        run = super().begin(x, state)
        run.Ix = empty((*x.shape[:2], self.H), self.dtype, BY_FEATURE)
        return run

    def project(self, run, steps):
        Ix = affine(run.x[steps], self.Wi.value, None, out=run.Ix[steps])
        affine_by_feature(Ix, self.W.value[: self.H], None, out=run.a[steps])

    def cell(self, run, t):
        a, h, m = run.a, run.h, run.c
        cells.slides_lstm_cell(a[t], m[t], m[t + 1], h[t + 1])

    def slopes(self, run, scratch):
        a, h, m = run.a, run.h, run.c
        cells.slides_lstm_slopes(a, m[:-1], m[1:], h[1:], run.h_to_c, run.c_to_c, scratch)

    def fused_cell(self, run, t):
        a, h, m = run.a, run.h, run.c
        kernels.slides_lstm_cell(a[t], run.product, m[t], m[t + 1], h[t + 1])

    def fused_cell_backward(self, run, t, dy):
        h, m = run.h, run.c
        kernels.slides_lstm_cell_backward(dy, run.dh, run.dc, run.a[t], m[t], m[t + 1], h[t + 1])

    def recurrent_weight(self):
        return self.W.value[self.H :]

    def project_backward(self, run, steps):
        dIx = empty(run.Ix[steps].shape, run.Ix.dtype, BY_FEATURE)
        affine_dx(run.a[steps], self.W.value[: self.H], out=dIx)
        dx = empty(run.x[steps].shape, run.x.dtype, BY_FEATURE)
        return affine_dx(dIx, self.Wi.value, out=dx)

    def accumulate(self, run):
        run.a = reordered(run.a, BY_FEATURE)
        dIx = empty(run.Ix.shape, run.Ix.dtype, BY_FEATURE)
        affine_dx(run.a, self.W.value[: self.H], out=dIx)
        affine_dw(run.x, dIx, self.Wi.grad, None)
        affine_dw(run.Ix, run.a, self.W.grad[: self.H], None)
        affine_dw(run.h[:-1], run.a, self.W.grad[self.H :], None)
