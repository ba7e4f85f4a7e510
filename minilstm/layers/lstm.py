"""The LSTM layers: the paper's with peepholes, the standard one, and the slides' literal one.

A matrix product that does not need the state of the step before is computed once for all time
steps. The products with the inputs come before the forward loop. The gradients of the weights and
of the inputs come after the backward loop. The loops contain only one product with Wh, and the
pointwise cell. On a GPU the cell is one kernel (gpu/kernels.py).

Slides: "Cells: Long-Short Term Memory (LSTM)". Paper: section 2.1. Read next: stack.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from ..gpu import kernels
from ..gpu.side_by_side import aside
from . import cells
from .init import PAPER_INIT, Init
from .linear import add_product, add_sum_of_rows, affine, affine_dw, affine_dx
from .rnn import Recurrent
from .unrolled import UnrolledLSTM, UnrolledSlidesLSTM


class LSTM(Recurrent):
    """The standard LSTM, without peepholes; PyTorch's `nn.LSTM`. Output h, state (h, c).

    Wx (D, 4H), Wh (H, 4H), b (4H,), gates in the order i f g o. The equations: cells.lstm_cell.

    An LSTM with other equations replaces these methods:

    cell(run, t)                      gates from run.a[t], then h and c after step t
    slopes(run, scratch)              turn the gates of all steps into slopes; scratch (T, B, H)
    fused_cell(run, t)                as `cell`, by one kernel of a GPU
    fused_cell_backward(run, t, dy)   slopes of step t and the step back, by one kernel of a GPU
    recurrent_weight()                (H, 4H), by which h_prev is multiplied
    peepholes()                       (3, H) or None

    A subclass with its own `cell` or `slopes` uses kernels only if it also defines both fused
    methods, because the kernels of this class have the equations of this class.
    """

    num_gates = 4
    gate_ranges = {"i": (0, 1), "f": (0, 1), "g": (-1, 1), "o": (0, 1)}
    state_names = ("h", "c")
    unrolled = UnrolledLSTM
    has_kernels = True  # the fused methods compute the same as `cell` and `slopes`

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        own = vars(cls)
        if "cell" in own or "slopes" in own:
            cls.has_kernels = "fused_cell" in own and "fused_cell_backward" in own

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 4 * H)
        self.Wh = init.recurrent(rng, H, gates=4)
        self.b = init.gate_bias(H)

    def is_fused(self, run):
        """Return True if kernels of a GPU compute this cell."""
        return self.has_kernels and kernels.wanted(run.a.dtype)

    def step(self, run, t):
        """a += h_prev Wh, then the cell."""
        add_product(run.h[t], self.recurrent_weight(), out=run.a[t], scratch=run.product)
        if self.is_fused(run):
            self.fused_cell(run, t)
        else:
            self.cell(run, t)

    def begin_backward(self, run, dfinal):
        """Turn the gates of all steps into slopes. On a GPU the kernel of each step does it."""
        super().begin_backward(run, dfinal)
        if not self.is_fused(run):
            run.h_to_c, run.c_to_c = run.array(self.H), run.array(self.H)
            self.slopes(run, scratch=run.array(self.H))

    def step_backward(self, run, t, dy):
        """Run the cell back to da and dc_prev, then dh_prev = da Wh^T."""
        if self.is_fused(run):
            self.fused_cell_backward(run, t, dy)
        else:
            if dy is not None:
                run.dh += dy
            slopes = run.a[t]  # which become da
            cells.lstm_cell_backward(run.dh, run.dc, slopes, run.h_to_c[t], run.c_to_c[t])
        da = run.a[t]
        affine_dx(da, self.recurrent_weight(), out=run.dh)

    def cell(self, run, t):
        """Gates from run.a[t], then run.c[t+1] and run.h[t+1]."""
        a, h, c = run.a, run.h, run.c
        cells.lstm_cell(a[t], c[t], self.peepholes(), c[t + 1], h[t + 1])

    def slopes(self, run, scratch):
        """Turn the gates of all steps in run.a into slopes; write run.h_to_c and run.c_to_c."""
        a, h, c = run.a, run.h, run.c
        cells.lstm_slopes(
            a, c[:-1], self.peepholes(), c[1:], h[1:], run.h_to_c, run.c_to_c, scratch
        )

    def fused_cell(self, run, t):
        """Compute the same as `cell`, by one kernel of a GPU."""
        a, h, c = run.a, run.h, run.c
        kernels.lstm_cell(a[t], c[t], self.peepholes(), c[t + 1], h[t + 1])

    def fused_cell_backward(self, run, t, dy):
        """Turn the gates in run.a[t] into da and run.dc into dc_prev, by one kernel."""
        kernels.lstm_cell_backward(
            dy, run.dh, run.dc, run.a[t], run.c[t], run.c[t + 1], self.peepholes()
        )

    def recurrent_weight(self):
        """Return the (H, 4H) weight by which h_prev is multiplied."""
        return self.Wh.value

    def peepholes(self):
        """Return Wp (3, H), or None for a cell without peepholes."""
        return None


class PeepholeLSTM(LSTM):
    """The paper's LSTM: diagonal peepholes Wp (3, H) let the gates i f o see the cell."""

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        super().__init__(D, H, rng, init)
        self.Wp = init.peepholes(rng, H)

    def peepholes(self):
        """Return Wp (3, H)."""
        return self.Wp.value

    def accumulate(self, run):
        """Add to the gradients of all weights."""
        aside(self.accumulate_peepholes, run)  # on a GPU at the same time as the next line
        super().accumulate(run)

    def accumulate_peepholes(self, run):
        """dWp += sum of da * c_prev for i and f, of da * c for o."""
        if kernels.wanted(run.a.dtype):
            sums = kernels.peephole_sums(run.a, run.c)
            add_sum_of_rows(sums, out=self.Wp.grad.reshape(-1))
        else:
            da_i, da_f, _, da_o = cells.split_gates(run.a)
            c_prev, c = run.c[:-1], run.c[1:]
            scratch = run.array(self.H)
            for k, (da, seen) in enumerate(((da_i, c_prev), (da_f, c_prev), (da_o, c))):
                add_sum_of_rows(xp.multiply(da, seen, out=scratch), out=self.Wp.grad[k])


class SlidesLSTM(LSTM):
    """The slides' LSTM, read literally: the input is projected, then joined with h.

    Wi (D, H) is the slides' I: it projects x to Ix. W (2H, 4H) multiplies [Ix, h]. There is no
    bias and no peephole. The equations: cells.slides_lstm_cell. With W = [W_I; W_h], the product
    with W_I is computed before the loop, and only the product with W_h inside it.
    """

    unrolled = UnrolledSlidesLSTM

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wi = init.input_weight(rng, D, H)
        self.W = init.weight(rng, 2 * H, 4 * H)
        init.weaken(self.W.value[H:])

    def begin(self, x, state):
        """Allocate the projected inputs too."""
        run = super().begin(x, state)
        run.Ix = run.array(self.H)
        return run

    def project(self, run, steps):
        """Ix = x Wi, a = Ix W_I for a slice of steps."""
        affine(run.x[steps], self.Wi.value, None, out=run.Ix[steps])
        affine(run.Ix[steps], self.W.value[: self.H], None, out=run.a[steps])

    def cell(self, run, t):
        """Gates from run.a[t], then run.c[t+1] and run.h[t+1]."""
        a, h, m = run.a, run.h, run.c
        cells.slides_lstm_cell(a[t], m[t], m[t + 1], h[t + 1])

    def begin_backward(self, run, dfinal):
        """Allocate the gradients of the projected inputs too."""
        super().begin_backward(run, dfinal)
        run.dIx = run.array(self.H)

    def slopes(self, run, scratch):
        """Turn the gates of all steps in run.a into slopes; write run.h_to_c and run.c_to_c."""
        a, h, m = run.a, run.h, run.c
        cells.slides_lstm_slopes(a, m[:-1], m[1:], h[1:], run.h_to_c, run.c_to_c, scratch)

    def fused_cell(self, run, t):
        """Compute the same as `cell`, by one kernel of a GPU."""
        a, h, m = run.a, run.h, run.c
        kernels.slides_lstm_cell(a[t], m[t], m[t + 1], h[t + 1])

    def fused_cell_backward(self, run, t, dy):
        """Turn the gates in run.a[t] into da and run.dc into dc_prev, by one kernel."""
        h, m = run.h, run.c
        kernels.slides_lstm_cell_backward(dy, run.dh, run.dc, run.a[t], m[t], m[t + 1], h[t + 1])

    def recurrent_weight(self):
        """Return W_h (H, 4H)."""
        return self.W.value[self.H :]

    def project_backward(self, run, steps, want_dx):
        """dIx = da W_I^T, dx = dIx Wi^T for a slice of steps; dx is None if it is not wanted."""
        affine_dx(run.a[steps], self.W.value[: self.H], out=run.dIx[steps])
        return affine_dx(run.dIx[steps], self.Wi.value) if want_dx else None

    def accumulate(self, run):
        """dWi += x^T dIx, dW_I += Ix^T da, dW_h += h_prev^T da."""
        affine_dw(run.x, run.dIx, self.Wi.grad, None)
        affine_dw(run.Ix, run.a, self.W.grad[: self.H], None)
        affine_dw(run.h[:-1], run.a, self.W.grad[self.H :], None)
