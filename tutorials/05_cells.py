# %% [markdown]
# # 05 · Compare the cells, and see which one can remember
#
# *Slides: "Cells": "Simple RNN", "Long-Short Term Memory (LSTM)".*
#
# * **You will do:** type in the two cells of the slides exactly as written, compare them with the
#   standard cells, and train all of them to remember one bit.
# * **You will learn:** why the simple RNN of the slides, read literally, can't remember its input;
#   what a gate does; the backward pass of an LSTM; where gradients vanish.
# * **You need:** tutorial 04.
#
# ![how far back a gradient reaches](images/05_vanishing.png)
#
# The picture shows how much of a gradient is left after it went back a number of steps. In the
# plain network nothing is left after a few dozen steps. In the LSTM it depends on one number, the
# bias of the forget gate.

# %%
import kit
import numpy as np

from minilstm import (
    LSTM,
    Adam,
    ElmanRNN,
    Init,
    Linear,
    PeepholeLSTM,
    SlidesLSTM,
    SlidesRNN,
    SoftmaxCrossEntropy,
    asarray,
    clip_norm,
    set_backend,
)
from minilstm.gradcheck import check

set_backend("numpy", "float64")


def sig(a):
    """Return the sigmoid of `a` (tutorial 03). The slides call it sig, the pictures s."""
    return 1 / (1 + np.exp(-a))


kit.save_diagram("simple-rnn", "05_simple_rnn")
kit.save_diagram("slides-lstm", "05_slides_lstm")
kit.save_diagram("paper-lstm", "05_paper_lstm")

rng = np.random.default_rng(0)
T, B, D, H = 6, 4, 3, 5
x = rng.standard_normal((T, B, D))  # steps, batch, inputs; H is the number of units

# %% [markdown]
# ## The simple RNN of the slides, read literally
#
# ![the simple RNN of the slides, and the standard one](images/05_simple_rnn.png)
#
# Left is the cell of the slides, right the standard one. Follow the blue arrows from $x$.
#
# $$h_{i+1} = W h_i, \qquad o_{i+1} = \operatorname{sig}(W^i x_i + h_{i+1} + b), \qquad
#   \text{return } o_{i+1}, h_{i+1}$$
#
# The library calls this cell `SlidesRNN`. The index $i$ is the time step, but in $W^i$ it means
# *input*. (In the slides a vector is a column, and the matrix stands on the left: $W h$. In the
# library a vector is a row, and the matrix stands on the right: `h @ W`. This is the same,
# transposed.)

# %%
literal = SlidesRNN(D, H, rng)
Wi, W, b = literal.Wi.value, literal.W.value, literal.b.value
h = start = rng.standard_normal((B, H))
for t in range(T):
    h = h @ W
    o = sig(x[t] @ Wi + h + b)
(y, (final,)), _ = literal.forward(x, (start,))
print("difference to the library:", np.abs(o - y[-1]).max(), np.abs(h - final).max())
assert np.allclose(o, y[-1], atol=1e-14) and np.allclose(h, final, atol=1e-14)

# %% [markdown]
# **Predict:** the input of the simple RNN has six time steps. We change the first input, `x[0]`.
# Which of the six outputs change?

# %%
other = x.copy()
other[0] += 1.0


def outputs_that_change(layer):
    """Return one boolean per time step: does the output change when the FIRST input changes?"""
    (before, _), _ = layer.forward(x)
    (after, _), _ = layer.forward(other)
    return [bool((before[t] != after[t]).any()) for t in range(T)]


for cell in (SlidesRNN, ElmanRNN, SlidesLSTM, LSTM, PeepholeLSTM):
    changed = outputs_that_change(cell(D, H, np.random.default_rng(1)))
    print(f"{cell.__name__:<14}", *("changes" if c else "   -   " for c in changed))
    assert changed == [True] + [cell is not SlidesRNN] * (T - 1)

# %% [markdown]
# Look at the formula again. $x_i$ enters the output $o_{i+1}$. But the next state is $W h_i$, and
# there is no $x$ in it. **The input never reaches the state.** So the literal cell is a network
# without memory, plus a hidden state that changes regardless of the input. If this state starts at
# zero, it stays at zero:

# %%
(y, (final,)), cache = literal.forward(x)  # without a start state it is zero
literal.zero_grad()
literal.backward((rng.standard_normal(y.shape), None), cache)
print("largest final state:", np.abs(final).max(),
      "  largest gradient of W:", np.abs(literal.W.grad).max())  # fmt: skip
assert np.abs(final).max() == 0 and np.abs(literal.W.grad).max() == 0

# %% [markdown]
# `W` has no effect, so it learns nothing. The slides surely mean the standard cell of tutorial 04,
# $h_{i+1} = \tanh(W^i x_i + W h_i + b)$, which is `ElmanRNN`. The library keeps both cells, one
# after the other, in [rnn.py](../minilstm/layers/rnn.py).
#
# ## The LSTM of the slides, read literally
#
# ![the LSTM of the slides](images/05_slides_lstm.png)
#
# Careful: in this formula the prime marks the *new* states, $m$ is the *cell state*, and $I$
# projects the input. $H$ is the joined vector.
#
# $$H = [I x_i, h], \quad g^u = \operatorname{sig}(W^u H), \quad g^f = \operatorname{sig}(W^f H),
#   \quad g^o = \operatorname{sig}(W^o H), \quad g^c = \tanh(W^c H)$$
# $$m' = g^f \odot m + g^u \odot g^c, \qquad h' = \tanh(g^o \odot m')$$
#
# The cell has two states, $h$ and $m$. Three *gates*, with values between 0 and 1, control it.
# $g^f$ says how much of the old cell state to keep, $g^u$ how much of the new content $g^c$ (the
# *candidate*) to add, and $g^o$ how much to output.
#
# In the picture and in all that follows the prime marks the *old* states, $m$ is called $c$, and
# $g^u$, $g^f$, $g^o$ and $g^c$ are called $i$, $f$, $o$ and $g$.

# %%
slides = SlidesLSTM(D, H, rng)
projection, W = slides.Wi.value, slides.W.value
start, cell_start = rng.standard_normal((2, B, H))
h, m = start, cell_start
for t in range(T):
    joined = np.concatenate([x[t] @ projection, h], axis=1)  # H = [I x, h]
    a_u, a_f, a_c, a_o = np.split(joined @ W, 4, axis=1)  # the library's order: i f g o
    m = sig(a_f) * m + sig(a_u) * np.tanh(a_c)
    h = np.tanh(sig(a_o) * m)
(y, (final_h, final_m)), _ = slides.forward(x, (start, cell_start))
print("difference to the library:", np.abs(h - final_h).max(), np.abs(m - final_m).max())
assert np.allclose(h, final_h, atol=1e-14) and np.allclose(m, final_m, atol=1e-14)

# %% [markdown]
# ## The LSTM of the paper
#
# ![the LSTM of the paper; its peepholes are dashed](images/05_paper_lstm.png)
#
# It has biases and no projection $I$. Its output gate stands outside the tanh. And it has
# *peepholes* (dashed, their way back is not drawn): weights $p$, through which the gates of a unit
# see the cell state of this unit. $i$ and $f$ see the old one, $o$ the new one. Vectors are rows
# again, and $H$ is the number of units. $W_x$ is (D, 4H), $W_h$ is (H, 4H), $b$ is (4H,) and each
# $p$ is (H,):
#
# $$a = x W_x + h' W_h + b = [a_i, a_f, a_g, a_o]$$
# $$i = s(a_i + p_i \odot c'), \quad f = s(a_f + p_f \odot c'), \quad g = \tanh(a_g)$$
# $$c = f \odot c' + i \odot g, \quad o = s(a_o + p_o \odot c), \quad h = o \odot \tanh(c)$$
#
# In the library this is `PeepholeLSTM`. Without peepholes it is the standard LSTM, `LSTM`.
#
# ## Back through one step
#
# Let $dh$ and $dc$ be the gradients of the two states after the step. Go through the equations from
# the last to the first. The slope of $s$ is $s(1 - s)$. The state $c$ has three ways to the loss:
# the next step, $h$, and the peephole of $o$.
#
# $$da_o = dh \odot \tanh(c) \odot o(1 - o), \qquad
#   dc \leftarrow dc + dh \odot o \odot (1 - \tanh^2(c)) + da_o \odot p_o$$
# $$da_i = dc \odot g \odot i(1 - i), \quad da_f = dc \odot c' \odot f(1 - f), \quad
#   da_g = dc \odot i \odot (1 - g^2)$$
# $$dc' = dc \odot f + da_i \odot p_i + da_f \odot p_f, \qquad dh' = da\,W_h^T$$
#
# The weights and the input follow from $da$ as in tutorial 04. Each $dp$ is $da$ times the cell
# state that the gate saw, summed over batch and steps.

# %%
layer = PeepholeLSTM(D, H, np.random.default_rng(5), Init(peephole_scale=0.5))
h_prev, c_prev, dh, dc = np.random.default_rng(6).standard_normal((4, B, H))  # (B, H) each
_, cache = layer.forward(x[:1], (h_prev, c_prev))
_, (dh_library, dc_library) = layer.backward((None, (dh, dc)), cache)

p_i, p_f, p_o = layer.Wp.value
a = x[0] @ layer.Wx.value + h_prev @ layer.Wh.value + layer.b.value  # (B, 4H)
a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
i, f, g = sig(a_i + p_i * c_prev), sig(a_f + p_f * c_prev), np.tanh(a_g)
c = f * c_prev + i * g
o = sig(a_o + p_o * c)

da_o = dh * np.tanh(c) * o * (1 - o)
dc = dc + dh * o * (1 - np.tanh(c) ** 2) + da_o * p_o
da_i, da_f, da_g = dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2)
dc_prev = dc * f + da_i * p_i + da_f * p_f
dh_prev = np.concatenate([da_i, da_f, da_g, da_o], axis=1) @ layer.Wh.value.T
dWp_f = (da_f * c_prev).sum(axis=0)

by_hand, library = (dh_prev, dc_prev, dWp_f), (dh_library, dc_library, layer.Wp.grad[1])
worst = max(np.abs(ours - theirs).max() for ours, theirs in zip(by_hand, library, strict=True))
print(f"largest difference to the library: {worst:.0e}")
assert worst < 1e-14

# %% [markdown]
# (In [cells.py](../minilstm/layers/cells.py) these lines are `lstm_slopes` and
# `lstm_cell_backward`.)
#
# All cells pass the gradient check of tutorial 02, with random states, biases and peepholes:

# %%
for cell in (SlidesRNN, ElmanRNN, SlidesLSTM, LSTM, PeepholeLSTM):
    rows = check(cell.sample(np.random.default_rng(2)))
    worst = max(row.complex for row in rows)
    print(f"{cell.__name__:<14}{len(rows)} gradients, largest error {worst:.0e}")
    assert all(row.passed for row in rows)

# %% [markdown]
# ## Where gradients vanish
#
# In a plain network one step back multiplies the gradient by $W_h$ and by a slope of tanh that is
# at most 1. In an LSTM, the term $dc' = dc \odot f$ multiplies the gradient of the cell state by
# the forget gate, and by nothing else. At the start of training a forget gate is near
# $s(\text{bias})$. This is 0.5 for bias 0, 0.88 for bias 2, and 0.993 for bias 5. One of the
# authors' two code releases uses bias 5.
#
# **Predict:** a gradient is multiplied by the forget gate at each of 50 steps. The value of the
# gate is 0.5, 0.88 or 0.993. For which of these three values is something left after 50 steps?

# %%
steps, H = 50, 32
x = rng.standard_normal((steps, 8, H))
curves = {}
for name, layer in {
    "plain RNN": ElmanRNN(H, H, np.random.default_rng(3)),
    "LSTM, forget bias 0": LSTM(H, H, np.random.default_rng(3)),
    "LSTM, forget bias 2": LSTM(H, H, np.random.default_rng(3), Init(forget_bias=2)),
    "LSTM, forget bias 5": LSTM(H, H, np.random.default_rng(3), Init(forget_bias=5)),
}.items():
    (y, _), cache = layer.forward(x)
    dy = np.zeros_like(y)
    dy[-1] = np.random.default_rng(4).standard_normal(y[-1].shape)
    dx, _ = layer.backward((dy, None), cache)
    size = np.sqrt((dx**2).sum((1, 2)))[::-1]  # the last step comes first
    curves[name] = size / size[0]
    print(f"{name:<22} left after 10 steps {curves[name][10]:.1e}, after 49 {curves[name][-1]:.1e}")

drawn, ax = kit.figure(8, 3.8)
for (name, curve), colour in zip(curves.items(), (kit.FAINT, kit.PINK, kit.ORANGE, kit.BLUE),
                                 strict=True):  # fmt: skip
    ax.semilogy(curve, color=colour, lw=2.2)
    ax.text(steps, curve[-1], name, color=colour, va="center", fontsize=11)
ax.set_xlabel("steps back in time")
ax.set_ylabel("gradient, relative to the last step")
ax.set_xlim(0, steps)
kit.save(drawn, "05_vanishing")

plain, bias0, bias2, bias5 = (curve[-1] for curve in curves.values())
assert plain < 1e-6 and bias0 < 1e-6
assert bias2 > 1e3 * bias0 and bias5 > 0.1

# %% [markdown]
# The gradient of a plain network is gone. The gradient of an LSTM *with a forget gate of 0.5* is
# gone as well: $0.5^{50}$ is 1e-15. So it is not enough to use an LSTM: its forget gate must be
# near 1. With 0.88 only 0.002 is left after 50 steps ($0.88^{50}$), with 0.993 it is 0.7
# ($0.993^{50}$). The curves are higher, because at every step the gradient also comes back on the
# other paths, through the gates. With bias 5 it even grows. If it grows too much, the problem is
# called *exploding* gradients. `clip_norm` below is the usual remedy.
#
# ## Remember one bit
#
# This is the smallest task that needs memory. At step 0 the input is +1 or -1. Then the input is
# noise. After the last step the network must say which of the two it was.
#
# **Predict:** five kinds of cell must remember one bit over 8 steps, and over 30 steps. Which of
# them will be right in only 50 % of the cases, like a coin?


# %%
def films(rng, T, B=64):
    """Return x (T, B, 1), with the bit in x[0], and the bits (B,)."""
    bits = rng.integers(0, 2, B)
    x = 0.3 * rng.standard_normal((T, B, 1))
    x[0, :, 0] = 2 * bits - 1
    return asarray(x), bits


def accuracy(cell, init, T, seed):
    """Train for 300 steps. Return the share of right answers on 1,000 new films."""
    rng = np.random.default_rng(seed)
    # the readout turns the last output into two logits, one for each answer (see tutorial 12)
    rnn, readout, loss = cell(1, 16, rng, init), Linear(16, 2, rng), SoftmaxCrossEntropy()
    optimizers = [Adam(layer.flat()) for layer in (rnn, readout)]
    for _ in range(300):
        x, bits = films(rng, T)
        (y, _), cache = rnn.forward(x)
        z, readout_cache = readout.forward(y[-1:])
        _, loss_cache = loss.forward(z, bits[None])
        dz, _ = loss.backward(1.0, loss_cache)
        for layer in (rnn, readout):
            layer.zero_grad()
        dy = np.zeros_like(y)
        dy[-1:] = readout.backward(dz, readout_cache)
        rnn.backward((dy, None), cache)
        clip_norm(rnn.flat().grad, 1.0)  # a gradient longer than 1 is scaled to length 1
        for optimizer in optimizers:
            optimizer.step(0.01)
    x, bits = films(rng, T, 1000)
    (y, _), _ = rnn.forward(x)
    z, _ = readout.forward(y[-1:])
    return (z[0].argmax(-1) == bits).mean()


set_backend("numpy", "float32")
contestants = {
    "SlidesRNN": (SlidesRNN, Init()),
    "ElmanRNN": (ElmanRNN, Init()),
    "SlidesLSTM": (SlidesLSTM, Init()),
    "LSTM, bias 0": (LSTM, Init()),
    "LSTM, bias 2": (LSTM, Init(forget_bias=2)),
    "PeepholeLSTM, bias 2": (PeepholeLSTM, Init(forget_bias=2)),
}
seeds = range(1) if kit.FAST else range(5)
results = {}
print(f"{'':<22}delay 8   delay 30")
for name, (cell, init) in contestants.items():
    results[name] = [np.mean([accuracy(cell, init, T, seed) for seed in seeds]) for T in (8, 30)]
    print(f"{name:<22}{results[name][0]:7.0%}{results[name][1]:11.0%}")

drawn, ax = kit.figure(8, 3)
at = np.arange(len(results))
for k, (delay, colour) in enumerate(((8, kit.ORANGE), (30, kit.BLUE))):
    values = [100 * result[k] for result in results.values()]
    ax.barh(at + 0.36 * k, values, height=0.34, color=colour, label=f"delay {delay}")
ax.set_yticks(at + 0.18, list(results))
ax.invert_yaxis()
ax.axvline(50, color=kit.INK, lw=1, ls="--")
ax.set_xlabel("% of bits remembered (dashed: guessing)")
ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
kit.save(drawn, "05_one_bit")

for name, (short, long) in results.items():
    if name == "SlidesRNN":
        assert max(short, long) < 0.6
    else:
        assert short > 0.95
assert results["SlidesLSTM"][1] < 0.6 and results["LSTM, bias 0"][1] < 0.6
assert results["LSTM, bias 2"][1] > 0.95 and results["PeepholeLSTM, bias 2"][1] > 0.95

# %% [markdown]
# The literal RNN is right in about 50 % of the cases at both delays. It can't remember, no matter
# how it is trained. All other cells manage 8 steps. Over 30 steps the forget bias decides. The LSTM
# of the slides has no bias, so it can't be improved in this way. The plain network manages 30 steps
# with one *seed* (set of random numbers) of five, which gives 61 % on average.
#
# ## Break it on purpose
#
# Repair the literal RNN by adding the input to the state, in one line of the forward pass. Do *not*
# change its backward pass.


# %%
class HalfRepaired(SlidesRNN):
    """RNN with h' = h W + x Wi + b in its forward pass, and the old backward pass."""

    def step(self, run, t):
        super().step(run, t)
        run.h[t + 1] += run.a[t]


set_backend("numpy", "float64")
wrong = [
    row.array for row in check(HalfRepaired.sample(np.random.default_rng(0))) if not row.passed
]
print("gradients that the check finds wrong:", *wrong)
assert {"Wi", "b", "x"} <= set(wrong)

# %% [markdown]
# `Wi`, `b` and `x` now reach the loss on a second path, through the state. The old backward pass
# does not know it. The path of `W` did not change, so its gradient is right.
#
# ## Exercises
#
# 1. How many parameters does an LSTM have with $D = 4096$ inputs and $H = 2048$ units? How many
#    parameters do peepholes add?
# 2. Which forget bias keeps half of a gradient over 50 steps?
# 3. Let the new cell state be 3 and the output gate 0.5. How large is the new $h$ in the LSTM of
#    the slides, and how large in the standard LSTM?
#
# ### Answers
#
# 1. $4H(D + H + 1) = 50{,}339{,}840$. The peepholes add only $3H = 6144$.
# 2. $f^{50} = 0.5$ gives $f = 0.986$, and the bias is $\log(f / (1 - f)) = 4.27$.
# 3. It is $\tanh(1.5) = 0.91$, and $0.5 \tanh(3) = 0.50$ in the standard LSTM. In the cell of the
#    slides a large cell state still gives a large output when the gate is half closed. In the
#    standard LSTM the output is never larger than the gate.

# %%
assert 4 * 2048 * (4096 + 2048 + 1) == 50_339_840
f = 0.5 ** (1 / 50)
assert round(np.log(f / (1 - f)), 2) == 4.27
assert round(np.tanh(1.5), 2) == 0.91 and round(0.5 * np.tanh(3), 2) == 0.50

# %% [markdown]
# **In the library:** [cells.py](../minilstm/layers/cells.py), one screen for each cell;
# [rnn.py](../minilstm/layers/rnn.py), [lstm.py](../minilstm/layers/lstm.py). **Next:** 06, an
# autoencoder made of LSTMs.
