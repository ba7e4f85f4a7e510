"""The cells of the slides: pure pointwise functions, each next to its backward.

This is the mathematics of one time step, without the matrix products around it. What is read
here is what runs: rnn.py and lstm.py call these very functions. They work in place, in buffers
that the caller owns, on arrays of any leading shape; the last axis is H, or 4H for gates in the
order i f g o.

The backward of an LSTM step has two parts. `..._slopes` holds every factor that needs no
recurrence, so it is called once for all time steps; `lstm_cell_backward` is what remains inside
the loop: four products.

Complex numbers pass through, as the gradient check needs: nothing compares them.

Slides: "Cells: Simple RNN", "Cells: Long-Short Term Memory". Paper: section 2.1.
Read next: rnn.py.
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
    """out = |a|, of complex numbers by the sign of the real part, as the complex step needs it."""
    if a.dtype.kind == "c":
        return xp.multiply(a, xp.sign(a.real), out=out)
    return xp.abs(a, out=out)


def gates(a):
    """The four gates i, f, g, o as views: (..., 4H) -> four times (..., H)."""
    H = a.shape[-1] // 4
    return a[..., :H], a[..., H : 2 * H], a[..., 2 * H : 3 * H], a[..., 3 * H :]


def i_and_f(a):
    """The gates i and f, which lie side by side, as one view: (..., 4H) -> (..., 2H)."""
    return a[..., : a.shape[-1] // 2]


# ------------------------------------------------------------- slides: "Cells: Simple RNN"


def slides_rnn_cell(a, h, out):
    """The slides' RNN, read literally: the input never reaches the next state.

    o = sigmoid(Wi x + h + b)        with h = W h_prev, and a = Wi x + b

    a, h (..., H) -> output o (..., H), state h.
    """
    xp.add(a, h, out=out)
    return sigmoid(out, out=out), (h,)


def slides_rnn_cell_backward(do, o, out):
    """da = do * o (1 - o); the gradient of h is the same. (..., H)"""
    xp.subtract(1, o, out=out)
    out *= o
    out *= do
    return out


# ------------------------------------------------------------- the standard (Elman) RNN


def elman_cell(a, out):
    """h = tanh(a)        with a = x Wx + h_prev Wh + b

    a (..., H) -> output h (..., H), state h.
    """
    h = xp.tanh(a, out=out)
    return h, (h,)


def elman_cell_backward(dh, h, out):
    """da = dh * (1 - h^2). (..., H)"""
    xp.multiply(h, h, out=out)
    xp.subtract(1, out, out=out)
    out *= dh
    return out


# ------------------------------------------------------------- paper, section 2.1: the LSTM


def lstm_cell(a, c_prev, Wp, c, h):
    """One step of the paper's LSTM; without peepholes (`Wp` None) of the standard one.

    i = s(a_i + Wp_i * c_prev)         a = x Wx + h_prev Wh + b, in the order i f g o
    f = s(a_f + Wp_f * c_prev)         i and f see the OLD cell
    g = tanh(a_g)
    c = f * c_prev + i * g
    o = s(a_o + Wp_o * c)              o sees the NEW cell
    h = o * tanh(c)

    a (..., 4H) becomes the gates, c_prev (..., H), Wp (3, H) or None; writes c, h (..., H).
    Returns output h, state (h, c).
    """
    i, f, g, o = gates(a)
    if Wp is not None:
        i += xp.multiply(Wp[0], c_prev, out=h)
        f += xp.multiply(Wp[1], c_prev, out=h)
    both = i_and_f(a)
    sigmoid(both, out=both)
    xp.tanh(g, out=g)
    xp.multiply(f, c_prev, out=c)
    c += xp.multiply(i, g, out=h)
    if Wp is not None:
        o += xp.multiply(Wp[2], c, out=h)
    sigmoid(o, out=o)
    xp.tanh(c, out=h)
    h *= o
    return h, (h, c)


def lstm_slopes(a, c_prev, Wp, c, h, h_to_c, c_to_c, scratch):
    """Every factor of the LSTM's backward pass that needs no recurrence, for any number of steps.

    s_i, s_f, s_g and f as c_to_c         see `_cell_slopes`
    h_to_c = o (1 - tanh(c)^2)            how a gradient at h reaches c
           = o - h tanh(c)
    s_o = tanh(c) o (1 - o) = h (1 - o)
    h_to_c += s_o Wp_o                    the peepholes are further ways from h to c
    c_to_c += s_i Wp_i + s_f Wp_f         and from c to c_prev

    a (..., 4H), the gates, become the slopes s_i s_f s_g s_o; writes h_to_c, c_to_c (..., H).
    """
    i, f, g, o = gates(a)
    _cell_slopes(i, f, g, c_prev, c_to_c, scratch)
    xp.tanh(c, out=h_to_c)
    h_to_c *= h
    xp.subtract(o, h_to_c, out=h_to_c)
    xp.subtract(1, o, out=o)
    o *= h
    if Wp is not None:
        c_to_c += xp.multiply(Wp[0], i, out=scratch)
        c_to_c += xp.multiply(Wp[1], f, out=scratch)
        h_to_c += xp.multiply(Wp[2], o, out=scratch)


def _cell_slopes(i, f, g, c_prev, c_to_c, scratch):
    """The slopes of c = f * c_prev + i * g, which both LSTMs share; i f g become their slopes.

    s_g = i (1 - g^2) = i - (i g) g
    s_i = (i g) (1 - i)
    c_to_c = f                            how a gradient at c reaches c_prev
    s_f = f (1 - f) c_prev
    """
    xp.multiply(i, g, out=scratch)
    g *= scratch
    xp.subtract(i, g, out=g)
    xp.subtract(1, i, out=i)
    i *= scratch
    c_to_c[...] = f
    xp.subtract(1, f, out=f)
    f *= c_to_c
    f *= c_prev


def lstm_cell_backward(dh, dc, slopes, h_to_c, c_to_c):
    """One step back through any LSTM whose slopes are given.

    da_o = dh * s_o
    dc  += dh * h_to_c
    da_i, da_f, da_g = dc * s_i, dc * s_f, dc * s_g
    dc_prev = dc * c_to_c

    dh, dc (..., H) and slopes (..., 4H) are overwritten: slopes become da, dc becomes dc_prev.
    """
    i, f, g, o = gates(slopes)
    o *= dh
    dh *= h_to_c
    dc += dh
    i *= dc
    f *= dc
    g *= dc
    dc *= c_to_c


# ------------------------------------------------------------- slides: "Cells: LSTM"


def slides_lstm_cell(a, m_prev, m, h):
    """The slides' LSTM, read literally: no bias, no peepholes, tanh around the gated cell.

    g^u = s(a_u), g^f = s(a_f), g^c = tanh(a_c), g^o = s(a_o)     a = W [I x, h_prev]
    m = g^f * m_prev + g^u * g^c
    h = tanh(g^o * m)

    The deck's letters u f c o are this package's i f g o, its m is c.
    a (..., 4H) becomes the gates, m_prev (..., H); writes m, h (..., H). Returns h, (h, m).
    """
    i, f, g, o = gates(a)
    both = i_and_f(a)
    sigmoid(both, out=both)
    xp.tanh(g, out=g)
    sigmoid(o, out=o)
    xp.multiply(f, m_prev, out=m)
    m += xp.multiply(i, g, out=h)
    xp.multiply(o, m, out=h)
    xp.tanh(h, out=h)
    return h, (h, m)


def slides_lstm_slopes(a, m_prev, m, h, h_to_m, m_to_m, scratch):
    """As `lstm_slopes`, for the slides' cell.

    s_i, s_f, s_g and g^f as m_to_m       see `_cell_slopes`
    h_to_m = (1 - h^2) g^o
    s_o = (1 - h^2) g^o (1 - g^o) m
    """
    i, f, g, o = gates(a)
    _cell_slopes(i, f, g, m_prev, m_to_m, scratch)
    xp.multiply(h, h, out=h_to_m)
    xp.subtract(1, h_to_m, out=h_to_m)
    h_to_m *= o
    xp.subtract(1, o, out=o)
    o *= h_to_m
    o *= m
