# %% [markdown]
# # 04 · Unroll a network through time
#
# *Slides: "Recurrent Neural Networks" (Unrolling Recurrent Networks).*
#
# * **You will do:** run a recurrent network for three steps, forward and backward, with a pencil;
#   then get the same numbers from the library.
# * **You will learn:** that a recurrent network is a deep network with shared weights, and that
#   back-propagation through time is nothing but tutorial 02, three times, with a sum.
# * **You need:** tutorial 02.
#
# ![one network, unrolled over three steps](images/04_unrolling.png)
#
# Left, a network with a loop: its state `h` comes back as an input. Right, the same thing drawn
# once per time step. The three boxes are **one** box: the same `Wx`, the same `Wh`, the same `b`.

# %%
import kit
import numpy as np

from minilstm import ElmanRNN, set_backend
from minilstm.gradcheck import check

set_backend("numpy", "float64")

drawn, ax = kit.diagram(9, 3)
kit.box(ax, 0, 0, "cell")
kit.arrow(ax, (0, -1), (0, -0.3), "x", kit.FAINT)
kit.arrow(ax, (0, 0.3), (0, 1), "y", kit.GREEN)
kit.arrow(ax, (0.5, 0.15), (0.5, -0.15), "h", kit.BLUE, bend=-2.6)
ax.text(1.75, 0, "=", fontsize=24, ha="center", va="center", color=kit.INK)
for t in range(3):
    x = 3.4 + 1.9 * t
    kit.box(ax, x, 0, "cell")
    kit.arrow(ax, (x, -1), (x, -0.3), f"x[{t}]", kit.FAINT)
    kit.arrow(ax, (x, 0.3), (x, 1), f"y[{t}]", kit.GREEN)
    kit.arrow(ax, (x - 1.4, 0) if t else (x - 1.2, 0), (x - 0.5, 0), f"h[{t}]", kit.BLUE)
kit.arrow(ax, (7.7, 0), (8.5, 0), "h[3]", kit.BLUE)
ax.set_xlim(-0.8, 8.8)
ax.set_ylim(-1.1, 1.1)
kit.save(drawn, "04_unrolling", show=False)

# %% [markdown]
# ## Forward
#
# The standard recurrent network, also named after Elman:
#
# $$h_{t+1} = \tanh(x_t W_x + h_t W_h + b), \qquad y_t = h_{t+1}.$$
#
# All sizes are 1, so that every letter is a number. Three steps, no loop, to see them all:

# %%
Wx, Wh, b = 0.8, -0.5, 0.1
x = [1.0, 0.5, -1.0]
h = [0.2, None, None, None]  # h[0] is the start; h[t+1] is the state after step t

h[1] = np.tanh(x[0] * Wx + h[0] * Wh + b)
h[2] = np.tanh(x[1] * Wx + h[1] * Wh + b)
h[3] = np.tanh(x[2] * Wx + h[2] * Wh + b)
print("h =", *(f"{value:.4f}" for value in h))

# %% [markdown]
# ## Backward: through time
#
# Let the loss be $L = \tfrac12 (h_3 - 1)^2$: only the last state matters. Walk back. At each step
# the gradient passes through tanh, $da = (1 - h^2)\, dh$, and then leaves by three doors: to the
# input, to the weights, and to the state *before*.
#
# **Predict:** does `x[0]` influence the loss more or less than `x[2]`?

# %%
dh3 = h[3] - 1.0

da2 = (1 - h[3] ** 2) * dh3  # step 2
dx2, dh2 = da2 * Wx, da2 * Wh

da1 = (1 - h[2] ** 2) * dh2  # step 1
dx1, dh1 = da1 * Wx, da1 * Wh

da0 = (1 - h[1] ** 2) * dh1  # step 0
dx0, dh0 = da0 * Wx, da0 * Wh

# one Wx, one Wh, one b, used three times: their gradients are SUMS over the steps
dWx = x[0] * da0 + x[1] * da1 + x[2] * da2
dWh = h[0] * da0 + h[1] * da1 + h[2] * da2
db = da0 + da1 + da2
print(f"dx  = {dx0:.4f} {dx1:.4f} {dx2:.4f}")
print(f"dWx = {dWx:.4f}   dWh = {dWh:.4f}   db = {db:.4f}")
print(f"x[0] has {abs(dx0 / dx2):.2f} of the influence of x[2]")
assert abs(dx0) < abs(dx2) / 7 and abs(dx1) < abs(dx2) / 2

# %% [markdown]
# Less. Each step back multiplies by $W_h (1 - h^2)$, here less than 1/2 in size. Two steps back,
# less than a seventh is left; tutorial 05 asks what is left after fifty.
#
# ## The same numbers from the library
#
# `ElmanRNN` takes `x (T, B, D)` and a start state, and returns all outputs and the final state. Its
# `backward` takes the gradients of exactly those two, and returns those of exactly the inputs.


# %%
def numbers(values):
    """Numbers as T steps of one sequence of one entry: (T, 1, 1)."""
    return np.array(values, dtype=float).reshape(-1, 1, 1)


rnn = ElmanRNN(1, 1, np.random.default_rng(0))
rnn.Wx.value[...], rnn.Wh.value[...], rnn.b.value[...] = Wx, Wh, b

(y, (final,)), cache = rnn.forward(numbers(x), (numbers(h[0])[0],))
dy = numbers([0, 0, dh3])  # the loss looks at the last output only
dx, (dstart,) = rnn.backward((dy, None), cache)

by_hand = {"h1": h[1], "h2": h[2], "h3": h[3], "dx0": dx0, "dx1": dx1, "dx2": dx2,
           "dh0": dh0, "dWx": dWx, "dWh": dWh, "db": db}  # fmt: skip
library = [*y, *dx, dstart, rnn.Wx.grad, rnn.Wh.grad, rnn.b.grad]
for (name, ours), theirs in zip(by_hand.items(), library, strict=True):
    print(f"{name:<4} by hand {ours: .6f}   library {theirs.item(): .6f}")
    assert abs(ours - theirs.item()) < 1e-15

# %% [markdown]
# To the last digit. And with real sizes it is the same algorithm with matrices. Here it is as a
# loop; compare it line by line with `Recurrent.forward` and `backward` in
# [rnn.py](../minilstm/layers/rnn.py).

# %%
T, B, D, H = 7, 4, 3, 5
rng = np.random.default_rng(1)
rnn = ElmanRNN(D, H, rng)
x, start, dy = rng.standard_normal((T, B, D)), rng.standard_normal((B, H)), rng.random((T, B, H))

h = np.empty((T + 1, B, H))
h[0] = start
for t in range(T):
    h[t + 1] = np.tanh(x[t] @ rnn.Wx.value + h[t] @ rnn.Wh.value + rnn.b.value)

dWh, dh = np.zeros((H, H)), np.zeros((B, H))
for t in reversed(range(T)):
    dh = dh + dy[t]  # from the output of this step, and from the step after
    da = (1 - h[t + 1] ** 2) * dh
    dWh += h[t].T @ da
    dh = da @ rnn.Wh.value.T

(y, _), cache = rnn.forward(x, (start,))
_, (dstart,) = rnn.backward((dy, None), cache)
print("largest differences:", np.abs(y - h[1:]).max(), np.abs(dWh - rnn.Wh.grad).max())
assert np.allclose(y, h[1:], atol=1e-14)
assert np.allclose(dWh, rnn.Wh.grad, atol=1e-13)
assert np.allclose(dh, dstart, atol=1e-13)

# %% [markdown]
# The library does one thing cleverer. `x[t] @ Wx` needs no state, so it can be computed for *all*
# steps in one large matrix product before the loop, and the gradients of the weights in one after
# it. Only `h[t] @ Wh` must wait its turn.
#
# ## Carry the state by hand
#
# A film may be cut: run the first half, keep the final state, give it to the second half. Going
# back, hand the gradient of the second half's start to the first half's end.
#
# **Predict:** are the gradients then exactly those of the whole film?

# %%
whole = rnn.Wh.grad.copy()
rnn.zero_grad()
(_, middle), cache1 = rnn.forward(x[:4], (start,))
_, cache2 = rnn.forward(x[4:], middle)
_, dmiddle = rnn.backward((dy[4:], None), cache2)
rnn.backward((dy[:4], dmiddle), cache1)
print("two halves, gradient handed over:", np.abs(rnn.Wh.grad - whole).max())
assert np.allclose(rnn.Wh.grad, whole, atol=1e-13)

# %% [markdown]
# Exactly (up to the last digit, because the sum has another order). Gradients *accumulate* in the
# library until `zero_grad`, which makes this work.
#
# If you do **not** hand `dmiddle` over, you have *truncated* back-propagation: cheaper, and wrong
# on purpose, since nothing before the cut learns from what came after.

# %%
rnn.zero_grad()
(_, middle), cache1 = rnn.forward(x[:4], (start,))
_, cache2 = rnn.forward(x[4:], middle)
rnn.backward((dy[4:], None), cache2)
rnn.backward((dy[:4], None), cache1)  # None: "nothing depends on the final state"
truncated = np.abs(rnn.Wh.grad - whole).max() / np.abs(whole).max()
print(f"truncated: {truncated:.0%} off")
assert truncated > 0.01

# %% [markdown]
# ## Break it on purpose
#
# The most natural slip: `=` instead of `+=`. Then the gradient of the weights is that of the last
# visited step only, and not the sum. Here is a network with that slip, before the check.


# %%
class Overwriting(ElmanRNN):
    """Wh's gradient from step 0 alone, as if the loop had assigned and not added."""

    def accumulate(self, run):
        super().accumulate(run)
        self.Wh.grad[...] = run.h[0].T @ run.a[0]

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


for row in check(Overwriting.sample(np.random.default_rng(0))):
    mark = "ok" if row.passed else "WRONG"
    print(f"{row.array:<8} difference {row.difference:.0e}   {mark}")
    assert row.passed == (row.array != "Wh")

# %% [markdown]
# Shapes are right, values are finite, training would even work a little. Only the check sees it.
#
# ## Exercises
#
# 1. In the three-step example, let the loss look at *every* state: $L = \sum_t h_t$. Which lines of
#    the hand-written backward pass change?
# 2. How much memory does back-propagation through time need for $T$ steps, and why?
# 3. Set `Wh = 0`. What is `dx0` then, and why?
#
# ### Answers
#
# 1. Only where `dh` begins: `dh3 = 1`, and each earlier state adds its own 1 to what comes back:
#    `dh2 = 1 + da2 * Wh`. In the loop that is the line `dh = dh + dy[t]`. Checked below.
# 2. It grows with $T$: backward needs every `h[t]`. (The library can keep only every K-th state and
#    compute the others again: `--memory recompute=K`.)
# 3. Zero: without `Wh` there is no path from step 0 to the last state.

# %%
rnn = ElmanRNN(1, 1, np.random.default_rng(0))
rnn.Wx.value[...], rnn.Wh.value[...], rnn.b.value[...] = Wx, Wh, b
(y, _), cache = rnn.forward(numbers([1.0, 0.5, -1.0]), (numbers(0.2)[0],))
dx, _ = rnn.backward((np.ones((3, 1, 1)), None), cache)
h1, h2, h3 = y[:, 0, 0]
dh2 = 1 + (1 - h3**2) * Wh
dh1 = 1 + (1 - h2**2) * dh2 * Wh
assert np.isclose(dx[0, 0, 0], (1 - h1**2) * dh1 * Wx)

# %% [markdown]
# **In the library:** [rnn.py](../minilstm/layers/rnn.py) `Recurrent` (the loop), `ElmanRNN`;
# [cells.py](../minilstm/layers/cells.py) `elman_cell`;
# [segments.py](../minilstm/layers/segments.py) for cutting long films. **Next:** 05, cells that
# remember, and one that can't.
