"""The cells of the slides: pure pointwise functions, each next to its backward.

This is the mathematics of one time step, without the matrix products around it. The layers in
rnn.py and lstm.py call these functions, so the equations below are the code that runs. Vectors are
rows: a state h is (B, H), with one sequence per row, and a weight stands on its right, h W. The
slides write columns, W h.

The functions write their results into arrays that the caller passes. The last axis of an array is
H, or 4H for the gates in the order i f g o. There may be any number of axes before it. The names of
the input gate, for example, are:

    a_i     its pre-activation
    i       the gate
    s_i     the slope: the derivative of the cell c with respect to a_i
            (s_o is the derivative of the output h with respect to a_o)
    da_i    the gradient of the loss with respect to a_i

These four arrays may share one piece of memory: i overwrites a_i, s_i overwrites i, and da_i
overwrites s_i.

The backward of an LSTM step has two parts. `..._slopes` computes every factor that does not depend
on the gradient from later steps, so it is called once for all time steps. `lstm_cell_backward` is
called in the loop over time: it has six products and a sum.

All functions accept complex arrays, because the gradient check by complex steps (checker.py) calls
them with complex numbers. So no function compares two numbers: complex numbers have no order.

Slides: "Cells: Simple RNN", "Cells: Long-Short Term Memory". Paper: section 2.1.
Read next: linear.py, rnn.py.
"""

from __future__ import annotations

from ..backend import xp


def sigmoid(a, out):
    """out = 1 / (1 + exp(-a)), written with tanh, which never overflows. (...,) -> (...,)"""
    xp.multiply(a, 0.5, out=out)
    xp.tanh(out, out=out)
    out *= 0.5
    out += 0.5
    return out


def absolute(a, out):
    """out = |a|. For complex a: a times the sign of its real part, as the complex step needs."""
    if a.dtype.kind == "c":
        return xp.multiply(a, xp.sign(a.real), out=out)
    return xp.abs(a, out=out)


def split_gates(a):
    """Return the parts for i, f, g and o as views: (..., 4H) -> four times (..., H)."""
    H = a.shape[-1] // 4
    return a[..., :H], a[..., H : 2 * H], a[..., 2 * H : 3 * H], a[..., 3 * H :]


def part_for_i_and_f(a):
    """Return the parts for i and f, which lie side by side, as one view: (..., 4H) -> (..., 2H)."""
    return a[..., : a.shape[-1] // 2]


# ------------------------------------------------------------- slides: "Cells: Simple RNN"


def slides_rnn_cell(a, h, out):
    """The slides' RNN, read literally: the input never reaches the next state.

    o = sigmoid(Wi x + h + b)        with h = W h_prev, and a = Wi x + b

    a, h (..., H) -> output o (..., H), state (h,).
    """
    xp.add(a, h, out=out)
    return sigmoid(out, out=out), (h,)


def slides_rnn_cell_backward(do, o, out):
    """da = do * o (1 - o). The gradient of h is the same. (..., H)"""
    da = xp.subtract(1, o, out=out)
    da *= o
    da *= do
    return da


# ------------------------------------------------------------- the standard (Elman) RNN


def elman_cell(a, out):
    """h = tanh(a)        with a = x Wx + h_prev Wh + b

    a (..., H) -> output h (..., H), state (h,).
    """
    h = xp.tanh(a, out=out)
    return h, (h,)


def elman_cell_backward(dh, h, out):
    """da = dh * (1 - h^2). (..., H)"""
    da = xp.multiply(h, h, out=out)
    xp.subtract(1, da, out=da)
    da *= dh
    return da


# ------------------------------------------------------------- paper, section 2.1: the LSTM


def lstm_cell(a, c_prev, Wp, c, h):
    """One step of the paper's LSTM, or of the standard LSTM if `Wp` is None (no peepholes).

    i = sigmoid(a_i + Wp_i * c_prev)   a = x Wx + h_prev Wh + b, in the order i f g o
    f = sigmoid(a_f + Wp_f * c_prev)   i and f see the OLD cell
    g = tanh(a_g)
    c = f * c_prev + i * g
    o = sigmoid(a_o + Wp_o * c)        o sees the NEW cell
    h = o * tanh(c)

    a (..., 4H) becomes the gates; c_prev (..., H), Wp (3, H) or None; writes c, h (..., H).
    Returns output h, state (h, c).
    """
    a_i, a_f, a_g, a_o = split_gates(a)
    scratch = h  # h is computed last; before that its memory is free
    if Wp is not None:
        a_i += xp.multiply(Wp[0], c_prev, out=scratch)
        a_f += xp.multiply(Wp[1], c_prev, out=scratch)
    a_i_and_f = part_for_i_and_f(a)
    sigmoid(a_i_and_f, out=a_i_and_f)
    i, f = a_i, a_f
    g = xp.tanh(a_g, out=a_g)
    xp.multiply(f, c_prev, out=c)
    c += xp.multiply(i, g, out=scratch)
    if Wp is not None:
        a_o += xp.multiply(Wp[2], c, out=scratch)
    o = sigmoid(a_o, out=a_o)
    xp.tanh(c, out=h)
    h *= o
    return h, (h, c)


def lstm_slopes(gates, c_prev, Wp, c, h, h_to_c, c_to_c, scratch):
    """Compute the slopes of an LSTM, for any number of steps at once.

    The names h_to_c and c_to_c follow the gradient: h_to_c is the factor from dh to dc, and c_to_c
    the factor from dc to dc_prev.

    s_i, s_f, s_g, c_to_c = f             see `_cell_slopes`
    h_to_c = o (1 - tanh(c)^2)            slope of h with respect to c
           = o - h tanh(c)
    s_o = tanh(c) o (1 - o) = h (1 - o)
    h_to_c += s_o Wp_o                    the peepholes are further paths from c to h
    c_to_c += s_i Wp_i + s_f Wp_f         and from c_prev to c

    gates (..., 4H) become the slopes s_i s_f s_g s_o; writes h_to_c, c_to_c (..., H). scratch
    (..., H) is overwritten.
    """
    i, f, g, o = split_gates(gates)
    s_i, s_f, s_g = _cell_slopes(i, f, g, c_prev, c_to_c, scratch)
    xp.tanh(c, out=h_to_c)
    h_to_c *= h
    xp.subtract(o, h_to_c, out=h_to_c)
    s_o = xp.subtract(1, o, out=o)
    s_o *= h
    if Wp is not None:
        c_to_c += xp.multiply(Wp[0], s_i, out=scratch)
        c_to_c += xp.multiply(Wp[1], s_f, out=scratch)
        h_to_c += xp.multiply(Wp[2], s_o, out=scratch)


def _cell_slopes(i, f, g, c_prev, c_to_c, scratch):
    """Compute the slopes of c = f * c_prev + i * g, an equation of both LSTMs. Overwrites i, f, g.

    s_g = i (1 - g^2) = i - (i g) g
    s_i = (i g) (1 - i)
    c_to_c = f                            slope of c with respect to c_prev
    s_f = f (1 - f) c_prev

    Returns s_i, s_f, s_g.
    """
    i_g = xp.multiply(i, g, out=scratch)
    s_g = xp.multiply(i_g, g, out=g)
    xp.subtract(i, s_g, out=s_g)
    s_i = xp.subtract(1, i, out=i)
    s_i *= i_g
    c_to_c[...] = f
    s_f = xp.subtract(1, f, out=f)
    s_f *= c_to_c
    s_f *= c_prev
    return s_i, s_f, s_g


def lstm_cell_backward(dh, dc, slopes, h_to_c, c_to_c):
    """One step back through any LSTM whose slopes are given.

    da_o = dh * s_o
    dc  += dh * h_to_c
    da_i, da_f, da_g = dc * s_i, dc * s_f, dc * s_g
    dc_prev = dc * c_to_c

    slopes (..., 4H) become da, dc (..., H) becomes dc_prev, dh (..., H) is overwritten.
    """
    s_i, s_f, s_g, s_o = split_gates(slopes)
    xp.multiply(s_o, dh, out=s_o)  # da_o
    scratch = xp.multiply(dh, h_to_c, out=dh)
    dc += scratch
    xp.multiply(s_i, dc, out=s_i)  # da_i
    xp.multiply(s_f, dc, out=s_f)  # da_f
    xp.multiply(s_g, dc, out=s_g)  # da_g
    xp.multiply(dc, c_to_c, out=dc)  # dc_prev


# ------------------------------------------------------------- slides: "Cells: LSTM"


def slides_lstm_cell(a, m_prev, m, h):
    """The slides' LSTM, read literally: no bias, no peepholes, tanh around the gated cell.

    g^u, g^f, g^o = sigmoid(a_u), sigmoid(a_f), sigmoid(a_o)      a = W [I x, h_prev]
    g^c = tanh(a_c)
    m = g^f * m_prev + g^u * g^c
    h = tanh(g^o * m)

    The slides' u f c o are i f g o in this package. The slides' m is c.
    a (..., 4H) becomes the gates; m_prev (..., H); writes m, h (..., H). Returns h, (h, m).
    """
    a_i, a_f, a_g, a_o = split_gates(a)
    scratch = h  # h is computed last; before that its memory is free
    a_i_and_f = part_for_i_and_f(a)
    sigmoid(a_i_and_f, out=a_i_and_f)
    i, f = a_i, a_f
    g = xp.tanh(a_g, out=a_g)
    o = sigmoid(a_o, out=a_o)
    xp.multiply(f, m_prev, out=m)
    m += xp.multiply(i, g, out=scratch)
    xp.multiply(o, m, out=h)
    xp.tanh(h, out=h)
    return h, (h, m)


def slides_lstm_slopes(gates, m_prev, m, h, h_to_m, m_to_m, scratch):
    """Compute the slopes of the slides' LSTM, for any number of steps at once.

    s_i, s_f, s_g, m_to_m = g^f           see `_cell_slopes`
    h_to_m = (1 - h^2) g^o                slope of h with respect to m
    s_o = (1 - h^2) g^o (1 - g^o) m

    The arrays are those of `lstm_slopes`, with m for c.
    """
    i, f, g, o = split_gates(gates)
    _cell_slopes(i, f, g, m_prev, m_to_m, scratch)
    xp.multiply(h, h, out=h_to_m)
    xp.subtract(1, h_to_m, out=h_to_m)
    h_to_m *= o
    s_o = xp.subtract(1, o, out=o)
    s_o *= h_to_m
    s_o *= m
