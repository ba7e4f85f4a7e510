"""Three cells of one's own: the GRU of tutorial 16, and the answers to its first two exercises.

    python -m minilstm.gradcheck tutorials/own_cells.py:GRU
    python -m minilstm.train --cell tutorials/own_cells.py:GRU

Write your own before you read these.
"""

from dataclasses import dataclass

import numpy as np

from minilstm.backend import xp
from minilstm.layers import cells
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.linear import add_product, affine_dw, affine_dx
from minilstm.layers.rnn import Recurrent
from minilstm.layers.unrolled import Unrolled, UnrolledLSTM

# ---------------------------------------------------------------- the GRU of the tutorial


@dataclass
class UnrolledGRU(Unrolled):
    """The arrays of a GRU over T time steps."""

    rh: np.ndarray | None = None  # (T, B, H) r * h_prev


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014). Wx (D, 3H), Wh (H, 3H), b (3H,), order r z n.

    r = sigmoid(x Wx_r + h_prev Wh_r + b_r)
    z = sigmoid(x Wx_z + h_prev Wh_z + b_z)
    n = tanh(x Wx_n + (r * h_prev) Wh_n + b_n)
    h = (1 - z) n + z h_prev
    """

    num_gates = 3
    gate_ranges = {"r": (0, 1), "z": (0, 1), "n": (-1, 1)}
    unrolled = UnrolledGRU

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 3 * H)
        self.Wh = init.recurrent(rng, H, 3)
        self.b = init.bias(3 * H)
        self.b.value[H : 2 * H] = init.forget_bias  # z keeps h_prev, as f of an LSTM keeps c_prev

    def begin(self, x, state):
        run = super().begin(x, state)
        run.rh = run.array(self.H)
        return run

    def step(self, run, t):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        a_rz, a_n = run.a[t, :, : 2 * H], run.a[t, :, 2 * H :]  # x Wx + b is there already
        add_product(h_prev, Wh[:, : 2 * H], out=a_rz)
        rz = cells.sigmoid(a_rz, out=a_rz)
        r, z = rz[:, :H], rz[:, H:]
        run.rh[t] = r * h_prev
        add_product(run.rh[t], Wh[:, 2 * H :], out=a_n)
        n = xp.tanh(a_n, out=a_n)
        run.h[t + 1] = (1 - z) * n + z * h_prev  # run.a[t] keeps r, z and n for the way back

    def step_backward(self, run, t, dy):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        if dy is not None:
            run.dh += dy
        r, z, n = (run.a[t, :, k * H : (k + 1) * H] for k in range(3))
        da_n = run.dh * (1 - z) * (1 - n * n)
        da_z = run.dh * (h_prev - n) * z * (1 - z)
        drh = affine_dx(da_n, Wh[:, 2 * H :])
        da_r = drh * h_prev * r * (1 - r)
        da_rz = xp.concatenate((da_r, da_z), axis=1)
        run.dh[...] = run.dh * z + drh * r + affine_dx(da_rz, Wh[:, : 2 * H])
        run.a[t] = xp.concatenate((da_rz, da_n), axis=1)

    def accumulate(self, run):
        H, da = self.H, run.a
        affine_dw(run.x, da, self.Wx.grad, self.b.grad)
        affine_dw(run.h[:-1], da[..., : 2 * H], self.Wh.grad[:, : 2 * H], None)
        affine_dw(run.rh, da[..., 2 * H :], self.Wh.grad[:, 2 * H :], None)


# ---------------------------------------------------------------- exercise 1


class CoupledLSTM(Recurrent):
    """An LSTM whose input gate is 1 - f (Greff et al. 2015). Order f o g, state (h, c).

    f = sigmoid(a_f)        o = sigmoid(a_o)        g = tanh(a_g)        a = x Wx + h_prev Wh + b
    c = f c_prev + (1 - f) g
    h = o tanh(c)
    """

    num_gates = 3
    gate_ranges = {"f": (0, 1), "o": (0, 1), "g": (-1, 1)}
    state_names = ("h", "c")
    unrolled = UnrolledLSTM  # it has c and dc

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 3 * H)
        self.Wh = init.recurrent(rng, H, 3)
        self.b = init.bias(3 * H)
        self.b.value[:H] = init.forget_bias

    def step(self, run, t):
        H, c_prev = self.H, run.c[t]
        add_product(run.h[t], self.Wh.value, out=run.a[t], scratch=run.product)
        a_fo, a_g = run.a[t, :, : 2 * H], run.a[t, :, 2 * H :]
        fo, g = cells.sigmoid(a_fo, out=a_fo), xp.tanh(a_g, out=a_g)
        f, o = fo[:, :H], fo[:, H:]
        run.c[t + 1] = f * c_prev + (1 - f) * g
        run.h[t + 1] = o * xp.tanh(run.c[t + 1])

    def step_backward(self, run, t, dy):
        H, c_prev = self.H, run.c[t]
        if dy is not None:
            run.dh += dy
        f, o, g = (run.a[t, :, k * H : (k + 1) * H] for k in range(3))
        tanh_c = xp.tanh(run.c[t + 1])
        run.dc += run.dh * o * (1 - tanh_c * tanh_c)
        da_o = run.dh * tanh_c * o * (1 - o)
        da_f = run.dc * (c_prev - g) * f * (1 - f)
        da_g = run.dc * (1 - f) * (1 - g * g)
        run.dc *= f
        run.a[t] = xp.concatenate((da_f, da_o, da_g), axis=1)
        affine_dx(run.a[t], self.Wh.value, out=run.dh)


# ---------------------------------------------------------------- exercise 2


class MinimalUnit(Recurrent):
    """The minimal gated unit (Zhou et al. 2016), with one gate and no cell state. Order f g.

    f = sigmoid(x Wx_f + h_prev Wh_f + b_f)
    g = tanh(x Wx_g + (f * h_prev) Wh_g + b_g)
    h = (1 - f) h_prev + f g
    """

    num_gates = 2
    gate_ranges = {"f": (0, 1), "g": (-1, 1)}
    unrolled = UnrolledGRU  # rh holds f * h_prev

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 2 * H)
        self.Wh = init.recurrent(rng, H, 2)
        self.b = init.bias(2 * H)
        self.b.value[:H] = -init.forget_bias  # here 1 - f keeps h_prev

    def begin(self, x, state):
        run = super().begin(x, state)
        run.rh = run.array(self.H)
        return run

    def step(self, run, t):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        a_f, a_g = run.a[t, :, :H], run.a[t, :, H:]
        add_product(h_prev, Wh[:, :H], out=a_f)
        f = cells.sigmoid(a_f, out=a_f)
        run.rh[t] = f * h_prev
        add_product(run.rh[t], Wh[:, H:], out=a_g)
        g = xp.tanh(a_g, out=a_g)
        run.h[t + 1] = (1 - f) * h_prev + f * g

    def step_backward(self, run, t, dy):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        if dy is not None:
            run.dh += dy
        f, g = run.a[t, :, :H], run.a[t, :, H:]
        da_g = run.dh * f * (1 - g * g)
        dfh = affine_dx(da_g, Wh[:, H:])
        da_f = (run.dh * (g - h_prev) + dfh * h_prev) * f * (1 - f)
        run.dh[...] = run.dh * (1 - f) + dfh * f + affine_dx(da_f, Wh[:, :H])
        run.a[t] = xp.concatenate((da_f, da_g), axis=1)

    def accumulate(self, run):
        H, da = self.H, run.a
        affine_dw(run.x, da, self.Wx.grad, self.b.grad)
        affine_dw(run.h[:-1], da[..., :H], self.Wh.grad[:, :H], None)
        affine_dw(run.rh, da[..., H:], self.Wh.grad[:, H:], None)
