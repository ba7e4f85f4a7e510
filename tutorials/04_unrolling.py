# %% [markdown]
# # 04 · Unroll a network through time
#
# *Slides: "Recurrent Neural Networks" (Unrolling Recurrent Networks).*
#
# * **You will do:** compute three steps of a recurrent network by hand, forward and backward. Then
#   get the same numbers from the library.
# * **You will learn:** that a recurrent network is a deep network whose layers share their weights,
#   and that back-propagation through time is the method of tutorial 02, with a sum over the time
#   steps.
# * **You need:** tutorial 02.
#
# ![one network, unrolled over three steps](images/04_unrolling.png)
#
# Left: a network with a loop. Its state `h` comes back as an input. Right: the same network, drawn
# once for every time step. This drawing is called *unrolled*. The three boxes are **one** box: they
# have the same `Wx`, the same `Wh` and the same `b`. Blue arrows go forward. Orange arrows carry
# gradients back: they take the same way in the other direction.

# %%
import kit
import numpy as np

from minilstm import ElmanRNN, set_backend
from minilstm.gradcheck import check

set_backend("numpy", "float64")

kit.save_diagram("unrolling", "04_unrolling")

# %% [markdown]
# ## Forward
#
# This is the standard recurrent network, also called the Elman network:
#
# $$h_{t+1} = \tanh(x_t W_x + h_t W_h + b), \qquad y_t = h_{t+1}.$$
#
# Here all sizes are 1, so every letter is one number. We write the three steps without a loop, to
# see every number:

# %%
Wx, Wh, b = 0.8, -0.5, 0.1
x = [1.0, 0.5, -1.0]
h = [0.2, None, None, None]  # h[0] is the start state; h[t+1] is the state after step t

h[1] = np.tanh(x[0] * Wx + h[0] * Wh + b)
h[2] = np.tanh(x[1] * Wx + h[1] * Wh + b)
h[3] = np.tanh(x[2] * Wx + h[2] * Wh + b)
print("h =", *(f"{value:.4f}" for value in h))

# %% [markdown]
# ## Backward: through time
#
# Let the loss be $L = \tfrac12 (h_3 - 1)^2$. It depends on the last state only. Now go backwards.
# Let $a$ be what is inside the brackets. At each step the gradient first passes through tanh: $da =
# (1 - h^2)\, dh$, with the $h$ *after* the step. From there it goes to three places: to the input,
# to the weights, and to the *previous* state.
#
# **Predict:** the loss depends on the last of three states. Which input has more influence on the
# loss, the first, `x[0]`, or the last, `x[2]`?

# %%
dh3 = h[3] - 1.0

da2 = (1 - h[3] ** 2) * dh3  # step 2
dx2, dh2 = da2 * Wx, da2 * Wh  # of x[2], and of h[2]

da1 = (1 - h[2] ** 2) * dh2  # step 1
dx1, dh1 = da1 * Wx, da1 * Wh

da0 = (1 - h[1] ** 2) * dh1  # step 0
dx0, dh0 = da0 * Wx, da0 * Wh

# Wx, Wh and b are used in all three steps, so their gradients are SUMS over the steps
dWx = x[0] * da0 + x[1] * da1 + x[2] * da2
dWh = h[0] * da0 + h[1] * da1 + h[2] * da2
db = da0 + da1 + da2
print(f"dx  = {dx0:.4f} {dx1:.4f} {dx2:.4f}")
print(f"dWx = {dWx:.4f}   dWh = {dWh:.4f}   db = {db:.4f}")
print(f"the size of dx[0] is {abs(dx0 / dx2):.2f} of the size of dx[2]")
assert abs(dx0) < abs(dx2) / 7 and abs(dx1) < abs(dx2) / 2

# %% [markdown]
# `x[0]` has less influence. Each step back multiplies the gradient by $W_h (1 - h^2)$. Its size is
# 0.49 and then 0.28 here, so 0.14 is left after two steps. Tutorial 05 looks at fifty steps.
#
# ## The same numbers from the library
#
# `ElmanRNN` takes `x (T, B, D)` and a start state. It returns all outputs and the final state. A
# state is a tuple, because an LSTM has two arrays: `(h,)` here, `(h, c)` there. Its `backward`
# takes the gradients of the outputs and of the final state. It returns the gradients of `x` and of
# the start state.


# %%
def numbers(values):
    """Return the numbers as T time steps of one sequence: an array (T, 1, 1)."""
    return np.array(values, dtype=float).reshape(-1, 1, 1)


rnn = ElmanRNN(1, 1, np.random.default_rng(0))
rnn.Wx.value[...], rnn.Wh.value[...], rnn.b.value[...] = Wx, Wh, b

(y, (final,)), cache = rnn.forward(numbers(x), (numbers(h[0])[0],))
dy = numbers([0, 0, dh3])  # the loss depends on the last output only
dx, (dstart,) = rnn.backward((dy, None), cache)

by_hand = {"h1": h[1], "h2": h[2], "h3": h[3], "dx0": dx0, "dx1": dx1, "dx2": dx2,
           "dh0": dh0, "dWx": dWx, "dWh": dWh, "db": db}  # fmt: skip
library = [*y, *dx, dstart, rnn.Wx.grad, rnn.Wh.grad, rnn.b.grad]
for (name, ours), theirs in zip(by_hand.items(), library, strict=True):
    print(f"{name:<4} by hand {ours: .6f}   library {theirs.item(): .6f}")
    assert abs(ours - theirs.item()) < 1e-15

# %% [markdown]
# The numbers agree. With larger sizes the algorithm is the same, with matrices in place of numbers.
# In $a = h W$ the state $h_j$ reaches every $a_k$ with the weight $W_{jk}$. So $dh_j = \sum_k da_k
# W_{jk}$, which is $dh = da\,W^T$, and $dW_{jk} = h_j\,da_k$, summed over the batch: $dW = h^T da$.
# The next cell writes this as a loop. Compare it line by line with `Recurrent.forward` and
# `Recurrent.backward` in [rnn.py](../minilstm/layers/rnn.py).

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
    dh = dh + dy[t]  # the sum of two gradients: from the next step, and from this step's output
    da = (1 - h[t + 1] ** 2) * dh
    dWh += h[t].T @ da  # h[t] and da are (B, H)
    dh = da @ rnn.Wh.value.T

(y, _), cache = rnn.forward(x, (start,))
_, (dstart,) = rnn.backward((dy, None), cache)
print("largest differences:", np.abs(y - h[1:]).max(), np.abs(dWh - rnn.Wh.grad).max())
assert np.allclose(y, h[1:], atol=1e-14)
assert np.allclose(dWh, rnn.Wh.grad, atol=1e-13)
assert np.allclose(dh, dstart, atol=1e-13)

# %% [markdown]
# The library differs in one point, to be faster. `x[t] @ Wx` does not depend on the state, so it is
# computed for *all* time steps in one large matrix product before the loop. After the loop, the
# gradient of each weight is one large product too. Only `h[t] @ Wh` must be computed step by step.
#
# ## Carry the state by hand
#
# A film may be cut into two parts. Run the first part, keep its final state, and start the second
# part from it. In the backward pass, the gradient of the second part's start state is the gradient
# of the first part's final state.
#
# **Predict:** a film is cut into two parts, and the gradient of the state at the cut is passed
# back. Are the gradients of the weights equal to those of the whole film?

# %%
whole = rnn.Wh.grad.copy()
rnn.zero_grad()
(_, middle), cache1 = rnn.forward(x[:4], (start,))
_, cache2 = rnn.forward(x[4:], middle)
_, dmiddle = rnn.backward((dy[4:], None), cache2)
rnn.backward((dy[:4], dmiddle), cache1)
print("two parts, gradient passed back: difference of dWh", np.abs(rnn.Wh.grad - whole).max())
assert np.allclose(rnn.Wh.grad, whole, atol=1e-13)

# %% [markdown]
# They are equal up to rounding: the terms are added in another order. No extra code is needed,
# because gradients *accumulate* in the library until `zero_grad`.
#
# If you do **not** pass `dmiddle` back, this is *truncated back-propagation*. It is cheaper, and
# its gradient is not exact: nothing before the cut learns from the loss after the cut.

# %%
rnn.zero_grad()
(_, middle), cache1 = rnn.forward(x[:4], (start,))
_, cache2 = rnn.forward(x[4:], middle)
rnn.backward((dy[4:], None), cache2)
rnn.backward((dy[:4], None), cache1)  # None: the gradient of the final state is zero
truncated = np.abs(rnn.Wh.grad - whole).max() / np.abs(whole).max()
print(f"truncated: dWh differs by {truncated:.0%} of its largest entry")
assert truncated > 0.01

# %% [markdown]
# ## Break it on purpose
#
# A common mistake is to write `=` in place of `+=`. Then the gradient of the weights comes from the
# last step that the backward loop visits, which is step 0, and not from all steps. Here is a
# network with that mistake, and the gradient check.


# %%
class Overwriting(ElmanRNN):
    """Elman network whose gradient of Wh comes from step 0 alone, as with = in place of +=."""

    def accumulate(self, run):
        super().accumulate(run)
        self.Wh.grad[...] = run.h[0].T @ run.a[0]  # run.a holds da now, no longer a


for row in check(Overwriting.sample(np.random.default_rng(0))):
    mark = "ok" if row.passed else "WRONG"
    print(f"{row.array:<8} difference {row.difference:.0e}   {mark}")
    assert row.passed == (row.array != "Wh")

# %% [markdown]
# The shapes are right and the values are finite. The gradient check finds the mistake. (`state.0`
# is the start state.)
#
# ## Exercises
#
# 1. In the example with three steps, let the loss depend on *every* state: $L = \sum_t h_t$. Which
#    lines of the backward pass change?
# 2. How much memory does back-propagation through time need for $T$ steps, and why?
# 3. Set `Wh = 0`. What is `dx0` then, and why?
#
# ### Answers
#
# 1. Only the lines that compute `dh3`, `dh2` and `dh1` change. `dh3` is 1. Each earlier state adds
#    1 to the gradient from the next step: `dh2 = 1 + da2 * Wh`. In the loop this is the line
#    `dh = dh + dy[t]`. The next cell checks it.
# 2. It grows in proportion to $T$, because the backward pass needs every `h[t]`. (The library can
#    also keep only every K-th state and compute the others again: `--memory recompute=K`.)
# 3. Zero. Without `Wh` there is no path from step 0 to the last state.

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
