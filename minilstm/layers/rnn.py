"""Recurrent layers: a cell unrolled through time, and back-propagation through it.

`Recurrent` is the loop that all four cells share, forward and backward; the slides' literal RNN
and the standard (Elman) RNN are here, the LSTMs in lstm.py.

Slides: "Recurrent Neural Networks: Unrolling Recurrent Networks", "Cells: Simple RNN".
Read next: lstm.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from . import cells, samples
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect, expect_entries
from .linear import affine_by_feature, affine_dw, affine_dx
from .workspace import BY_FEATURE, BY_STEP, empty, reordered, zeros


class Recurrent(Layer, abstract=True, sample=samples.recurrent):
    """A cell unrolled through time: x (T, B, D) and a start state -> y (T, B, H) and a final state.

    A state is a tuple of (B, H) arrays: (h,) of an RNN, (h, c) of an LSTM; `None` is all zeros.
    Each is stored for every step as (T+1, B, H), with the start at index 0.

    The pieces of the loop serve two masters. When the inputs are known beforehand, `forward` and
    `backward` below make ONE matrix product for the inputs of all steps. A decoder that feeds on
    its own output (models.py) calls the same pieces step by step.
    """

    state_names: tuple[str, ...] = ("h",)

    def forward(self, x, state=None):
        """x (T, B, D), state of (B, H) arrays -> (y (T, B, H), final state), cache."""
        run = self.begin(x, state)
        T = len(x)
        self.project(run, slice(0, T))
        for t in range(T):
            self.step(run, t)
        return (run.y, self.final_state(run)), Cache(run=run, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        """(dy, dfinal_state), either of them None for zero -> dx (T, B, D), dstate.

        Without `want_dx` dx is None: data needs no gradient, and its product is a large one.
        """
        dy, dfinal = doutputs
        values = cache.consume()
        run = values.run
        if dy is not None:
            expect("dy", dy, run.y.shape, run.y.dtype)
            dy = reordered(dy, BY_STEP)
        self.begin_backward(run, dfinal)
        for t in reversed(range(len(run.x))):
            self.step_backward(run, t, None if dy is None else dy[t])
        del dy  # its memory may serve the products
        self.accumulate(run)
        dx = self.project_backward(run, slice(0, len(run.x))) if want_dx else None
        return dx, self.start_gradient(run) if values.has_state else None

    def begin(self, x, state):
        """Buffers for a run over x (T, B, D), whose frames may be filled in later."""
        H, dtype = self.H, self.dtype
        expect(f"{type(self).__name__} input x", x, ("T", "B", self.D), dtype)
        T, B, _ = x.shape
        run = Run()
        run.x = x
        run.a = empty((T, B, self.gates * H), dtype, BY_STEP)
        run.product = empty((B, self.gates * H), dtype, BY_STEP)
        expect_entries("start states", state, len(self.state_names))
        for k, name in enumerate(self.state_names):
            states = empty((T + 1, B, H), dtype, BY_STEP)
            if state is None:
                states[0].fill(0)
            else:
                expect(f"start state {name}", state[k], (B, H), dtype)
                states[0] = state[k]
            setattr(run, name, states)
        run.y = run.h[1:]
        return run

    def final_state(self, run):
        return tuple(getattr(run, name)[-1] for name in self.state_names)

    def begin_backward(self, run, dfinal):
        """Make room for the gradient that travels back through the states."""
        expect_entries("gradients of the final state", dfinal, len(self.state_names))
        for k, name in enumerate(self.state_names):
            final = getattr(run, name)[-1]
            dstate = zeros(final.shape, final.dtype, BY_STEP)
            if dfinal is not None:
                expect(f"gradient of the final state {name}", dfinal[k], final.shape, final.dtype)
                dstate += dfinal[k]
            setattr(run, "d" + name, dstate)

    def start_gradient(self, run):
        return tuple(getattr(run, "d" + name) for name in self.state_names)

    def project(self, run, steps):
        """a = x Wx + b for a slice of steps."""
        affine_by_feature(run.x[steps], self.Wx.value, self.b.value, out=run.a[steps])

    def project_backward(self, run, steps):
        """dx = da Wx^T for a slice of steps."""
        dx = empty(run.x[steps].shape, run.x.dtype, BY_FEATURE)
        return affine_dx(run.a[steps], self.Wx.value, out=dx)

    def accumulate(self, run):
        """The gradients of the weights, once `run.a` holds da of all steps."""
        run.a = reordered(run.a, BY_FEATURE)
        affine_dw(run.x, run.a, self.Wx.grad, self.b.grad)
        affine_dw(run.h[:-1], run.a, self.Wh.grad, None)


class Run:
    """The arrays of one unrolled run, by the names that the equations use.

    x               (T, B, D)         the inputs
    a               (T, B, gates*H)   one after the other: pre-activations; of an LSTM the gates
                                      i f g o; their slopes, unless a fused kernel makes them
                                      itself; da. Of an RNN pre-activations, then da
    product         (B, gates*H)      h_prev Wh of one step; SlidesRNN has no use for it
    h, c            (T+1, B, H)       the states, the start at index 0; c of an LSTM only
    y               (T, B, H)         the outputs: h[1:], or the o of SlidesRNN
    dh, dc          (B, H)            the gradient on its way back through the states
    h_to_c, c_to_c  (T, B, H)         of an LSTM: the other slopes (lstm_slopes in cells.py)
    Ix              (T, B, H)         of SlidesLSTM: the projected inputs
    dhs             (T, B, H)         of SlidesRNN: dL/dh of every step
    mask            (T, B, D) or None in a stack: the dropout of the inputs
    """


class ElmanRNN(Recurrent):
    """The standard RNN: h = tanh(x Wx + h_prev Wh + b), output h; PyTorch's `nn.RNN`."""

    gates = 1

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, H)
        self.Wh = init.recurrent(rng, H)
        self.b = init.bias(H)

    def step(self, run, t):
        run.a[t] += xp.matmul(run.h[t], self.Wh.value, out=run.product)
        cells.elman_cell(run.a[t], out=run.h[t + 1])

    def step_backward(self, run, t, dy):
        if dy is not None:
            run.dh += dy
        da = cells.elman_cell_backward(run.dh, run.h[t + 1], out=run.a[t])
        affine_dx(da, self.Wh.value, out=run.dh)


class SlidesRNN(Recurrent):
    """The slides' RNN, read literally: h = h_prev W, o = sigmoid(x Wi + h + b), output o.

    The input reaches the output but never the next state: this cell can't remember what it saw.
    """

    gates = 1

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wi = init.input_weight(rng, D, H)
        self.W = init.recurrent(rng, H)
        self.b = init.bias(H)

    def begin(self, x, state):
        run = super().begin(x, state)
        run.y = empty(run.a.shape, run.a.dtype, BY_STEP)  # here the output o is not the state h
        return run

    def project(self, run, steps):
        affine_by_feature(run.x[steps], self.Wi.value, self.b.value, out=run.a[steps])

    def step(self, run, t):
        xp.matmul(run.h[t], self.W.value, out=run.h[t + 1])
        cells.slides_rnn_cell(run.a[t], run.h[t + 1], out=run.y[t])

    def begin_backward(self, run, dfinal):
        super().begin_backward(run, dfinal)
        run.dhs = empty(run.a.shape, run.a.dtype, BY_STEP)  # dL/dh, for the gradient of W

    def step_backward(self, run, t, dy):
        if dy is None:
            run.a[t].fill(0)
        else:
            cells.slides_rnn_cell_backward(dy, run.y[t], out=run.a[t])
        xp.add(run.dh, run.a[t], out=run.dhs[t])
        affine_dx(run.dhs[t], self.W.value, out=run.dh)

    def project_backward(self, run, steps):
        dx = empty(run.x[steps].shape, run.x.dtype, BY_FEATURE)
        return affine_dx(run.a[steps], self.Wi.value, out=dx)

    def accumulate(self, run):
        run.a = reordered(run.a, BY_FEATURE)
        affine_dw(run.x, run.a, self.Wi.grad, self.b.grad)
        affine_dw(run.h[:-1], run.dhs, self.W.grad, None)
