# %% [markdown]
# # 02 · Check a neural network's gradient
#
# *Slides: "Neural Networks".*
#
# * **You will do:** run a small network forward and backward by hand, compare with the library, and
#   check the gradient without trusting either.
# * **You will learn:** the chain rule as code; the gradient check that every later tutorial leans
#   on.
# * **You need:** matrix products and the chain rule.
#
# ![a network of two layers](images/02_network.png)
#
# Numbers flow to the right (blue). Their gradients flow back to the left (orange), through the same
# boxes in the opposite order. That is all there is to *back-propagation*; the rest is care.

# %%
import kit
import numpy as np

from minilstm import Adam, Layer, Linear, Sample, SquaredError, use_backend
from minilstm.gradcheck import check
from minilstm.layers.cells import elman_cell, elman_cell_backward
from minilstm.layers.layer import Cache, Init

use_backend("numpy", "float64")  # for checks; training is happy with float32

drawn, ax = kit.diagram(8, 3.4)
for k, (name, colour) in enumerate(
    (("x", kit.FAINT), ("x W1 + b1", kit.BLUE), ("tanh", kit.BLUE),
     ("h W2 + b2", kit.BLUE), ("loss", kit.GREEN))
):  # fmt: skip
    kit.box(ax, 1.9 * k, 0, name, colour, width=1.25)
for k, (up, down) in enumerate((("x", "dx"), ("a", "da"), ("h", "dh"), ("z", "dz"))):
    kit.arrow(ax, (1.9 * k + 0.63, 0.12), (1.9 * k + 1.27, 0.12), up, kit.BLUE)
    kit.arrow(ax, (1.9 * k + 1.27, -0.12), (1.9 * k + 0.63, -0.12), "", kit.ORANGE)
    ax.text(1.9 * k + 0.95, -0.22, down, color=kit.ORANGE, fontsize=12, ha="center", va="top")
ax.set_xlim(-0.8, 8.4)
ax.set_ylim(-1, 1)
kit.save(drawn, "02_network", show=False)  # it stands above

# %% [markdown]
# ## Forward
#
# $$a = x W_1 + b_1, \quad h = \tanh(a), \quad z = h W_2 + b_2, \quad L = \tfrac12 (z - y)^2$$
#
# With one number of each, and all letters as in the formula:

# %%
x, y = 2.0, 1.0
W1, b1, W2, b2 = 0.5, -0.6, 3.0, 0.1

a = x * W1 + b1
h = np.tanh(a)
z = h * W2 + b2
L = 0.5 * (z - y) ** 2
print(f"a = {a:.3f}   h = {h:.3f}   z = {z:.3f}   L = {L:.4f}")

# %% [markdown]
# ## Backward
#
# Write `dz` for $\partial L / \partial z$: how much the loss rises per unit of $z$. Start at the
# loss and walk back. Every line of forward gives a line of backward:
#
# $$dz = z - y, \quad dW_2 = h\,dz, \quad dh = W_2\,dz, \quad
#   da = (1 - h^2)\,dh, \quad dW_1 = x\,da$$
#
# **Predict:** the loss is positive because $z$ is too large. Should `dW1` be positive or negative?

# %%
dz = z - y
dW2, db2, dh = h * dz, dz, W2 * dz
da = (1 - h**2) * dh
dW1, db1, dx = x * da, da, W1 * da
print(f"dW1 = {dW1:.4f}   dW2 = {dW2:.4f}")
assert dW1 > 0  # more of W1 makes a larger z, and z is too large already

# %% [markdown]
# ## The same from the library
#
# In the library a layer is two functions, and one rule holds everywhere:
#
#     outputs, cache = layer.forward(*inputs)
#     dinputs        = layer.backward(doutputs, cache)
#
# *Backward takes what forward returned, and returns what forward took.* The cache is what forward
# must remember, here `x` for `dW1` and `h` for `da`. `Linear` is $xW + b$; tanh and its backward
# are two functions in `cells.py`. Arrays are `(T, B, D)`: time, batch, numbers. Ours are `(1, 1,
# 1)`.

# %%
rng = np.random.default_rng(0)
first, second, loss = Linear(1, 1, rng), Linear(1, 1, rng), SquaredError()
for layer, W, b in ((first, W1, b1), (second, W2, b2)):
    layer.W.value[...], layer.b.value[...] = W, b


def number(value):
    """A number as an array of one time step, one sequence, one entry."""
    return np.array(value, dtype=float).reshape(1, 1, 1)


a1, cache1 = first.forward(number(x))
h1, _ = elman_cell(a1, out=np.empty_like(a1))
z1, cache2 = second.forward(h1)
value, cache3 = loss.forward(z1, number(y))

dz1, _ = loss.backward(1.0, cache3)
dh1 = second.backward(dz1, cache2)
da1 = elman_cell_backward(dh1, h1, out=np.empty_like(h1))
dx1 = first.backward(da1, cache1)

for name, by_hand, by_library in (
    ("L", L, value), ("dW1", dW1, first.W.grad), ("db1", db1, first.b.grad),
    ("dW2", dW2, second.W.grad), ("db2", db2, second.b.grad), ("dx", dx, dx1),
):  # fmt: skip
    by_library = by_library.item()
    print(f"{name:<4}  by hand {by_hand: .6f}   library {by_library: .6f}")
    assert abs(by_hand - by_library) < 1e-14

# %% [markdown]
# ## How would you know that *both* are not wrong?
#
# By asking the definition of a derivative. Push $W_1$ a little each way and watch the loss:
#
# $$\frac{\partial L}{\partial W_1} \approx
#   \frac{L(W_1 + \epsilon) - L(W_1 - \epsilon)}{2 \epsilon}$$
#
# It needs only the forward pass, so a slip in the backward pass can't hide from it.
#
# **Predict:** is a smaller $\epsilon$ always better?


# %%
def loss_at(W1):
    """The forward pass as a function of W1 alone. W1 may be complex."""
    return 0.5 * (np.tanh(x * W1 + b1) * W2 + b2 - y) ** 2


steps = 10.0 ** np.arange(-15, 0)
central = [abs((loss_at(W1 + e) - loss_at(W1 - e)) / (2 * e) - dW1) / abs(dW1) for e in steps]
complex_step = [abs(loss_at(W1 + 1j * e).imag / e - dW1) / abs(dW1) for e in steps]

drawn, ax = kit.figure(8, 3.6)
floor = 1e-17  # an error of exactly 0 has no logarithm
ax.loglog(steps, np.maximum(central, floor), "o-", color=kit.ORANGE, label="central difference")
ax.loglog(steps, np.maximum(complex_step, floor), "s-", color=kit.BLUE, label="complex step")
ax.set_xlabel("step ε")
ax.set_ylabel("relative error of the derivative")
ax.legend(frameon=False)
kit.save(drawn, "02_steps")
best = steps[np.argmin(central)]
print(f"central difference: best at {best:.0e} with {min(central):.0e}; at 1e-15: {central[0]:.0e}")
print(f"complex step: at 1e-15 an error of {complex_step[0]:.0e}")
assert central[0] > 1e-3 and 1e-8 <= best <= 1e-3
assert complex_step[0] < 1e-14

# %% [markdown]
# Not always. A large $\epsilon$ is a bad approximation. A tiny one subtracts two numbers that agree
# in almost all their digits. Those digits cancel, and what is left is mostly rounding error. In
# between lies the best the difference can do.
#
# The *complex step* is a trick with no such floor. Push by $i\epsilon$, an imaginary amount:
#
# $$L(W_1 + i\epsilon) = L(W_1) + i\epsilon\, L'(W_1) + O(\epsilon^2), \qquad
#   \frac{\operatorname{Im} L(W_1 + i\epsilon)}{\epsilon} = L'(W_1) + O(\epsilon^2).$$
#
# Nothing is subtracted, so nothing cancels. The library uses both, on every layer it has.
#
# ## A layer of our own
#
# Put the pieces into a class. The library insists on one thing: a `sample`, a small instance with
# random inputs, so that there is something to check. Without it Python refuses the class.

# %%
try:

    class Unchecked(Layer):
        """A layer without a sample."""
except TypeError as refusal:
    print("refused:", refusal)
else:
    raise AssertionError("a layer without a sample was accepted")


class TwoLayers(Layer):
    """z = tanh(x W1 + b1) W2 + b2. x (T, B, D) -> z (T, B, K)"""

    def __init__(self, D, H, K, rng):
        wide = Init("uniform", scale=1.0)
        self.first, self.second = Linear(D, H, rng, wide), Linear(H, K, rng, wide)

    def forward(self, x):
        a, cache1 = self.first.forward(x)
        h, _ = elman_cell(a, out=np.empty_like(a))
        z, cache2 = self.second.forward(h)
        return z, Cache(h=h, first=cache1, second=cache2)

    def backward(self, dz, cache):
        run = cache.consume()
        dh = self.second.backward(dz, run.second)
        da = elman_cell_backward(dh, run.h, out=np.empty_like(run.h))
        return self.first.backward(da, run.first)

    @classmethod
    def sample(cls, rng):
        return Sample(cls(2, 5, 3, rng), (rng.standard_normal((4, 6, 2)),))


def report(rows):
    """The worst error of every gradient, beside the two ways to know it."""
    for row in rows:
        mark = "ok" if row.passed else "WRONG"
        print(f"{row.array:<10} difference {row.difference:.0e}  complex {row.complex:.0e}  {mark}")


rows = check(TwoLayers.sample(rng))
report(rows)
assert all(row.passed for row in rows)

# %% [markdown]
# ## Break it on purpose
#
# The classic slip: forget the slope of tanh, $1 - h^2$. The broken network still trains, a little
# worse, and nobody would notice. The check does.
#
# **Predict:** which of the five gradients are wrong?


# %%
class Forgetful(TwoLayers):
    """The same without the slope of tanh."""

    def backward(self, dz, cache):
        run = cache.consume()
        dh = self.second.backward(dz, run.second)
        return self.first.backward(dh, run.first)  # dh where da belongs

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


rows = check(Forgetful.sample(rng))
report(rows)
wrong = {row.array for row in rows if not row.passed}
assert wrong == {"first.W", "first.b", "x"}

# %% [markdown]
# Everything *before* the slip is wrong, everything after it is right. So the check does not only
# say that there is a fault, it points to the place.
#
# ## Learn something
#
# XOR: the output is 1 when exactly one of two inputs is. No straight line separates the two cases,
# so a network without a hidden layer can do no better than answer 0.5 to everything: an error of
# $\tfrac12 \cdot 0.5^2 = 0.125$.

# %%
xor_x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)[None]  # (T=1, B=4, D=2)
xor_y = np.array([[0], [1], [1], [0]], dtype=float)[None]


def fit(network, steps=400):
    """Train on the four cases; return the final loss."""
    optimizer = Adam(network.flat())
    for _ in range(steps):
        z, cache = network.forward(xor_x)
        value, loss_cache = loss.forward(z, xor_y)
        dz, _ = loss.backward(1.0, loss_cache)
        network.zero_grad()
        network.backward(dz, cache)
        optimizer.step(learning_rate=0.03)
    return float(value)


line, curved = fit(Linear(2, 1, rng)), fit(TwoLayers(2, 8, 1, rng))
print(f"no hidden layer: {line:.4f}     eight tanh units: {curved:.6f}")
assert abs(line - 0.125) < 1e-3
assert curved < 1e-3

# %% [markdown]
# These six lines of loop (forward, loss, loss backward, zero, backward, update) are the loop of
# every tutorial, and of the paper.
#
# ## Exercises
#
# 1. `dW2 = h * dz` became `h.T @ dz` for whole batches. Why the transpose, and over what is summed?
# 2. Why does the library check with *random* weights on the outputs, instead of summing them?
# 3. `Forgetful` trains on XOR as well. Try it. Why is a falling loss no proof of a right gradient?
#
# ### Answers
#
# 1. `dW2` has the shape of `W2`, `(H, K)`; `h` is `(B, H)`, `dz` is `(B, K)`. Every sequence of the
#    batch used the same `W2`, so their gradients add up: the product sums over the batch.
# 2. Some mistakes cancel in a sum. For a softmax, all gradients of the summed outputs are zero,
#    because the outputs always sum to one: right code and wrong code would agree.
# 3. `dh` and `da` have the same sign, so the step still goes down. A gradient can be wrong in
#    length and direction and still help. Only the definition of a derivative is a proof.

# %%
forgetful = fit(Forgetful(2, 8, 1, rng))
print(f"with the wrong gradient: {forgetful:.6f}")
assert forgetful < 0.1

# %% [markdown]
# **In the library:** [linear.py](../minilstm/layers/linear.py) `Linear`, `affine`, `affine_dw`;
# [gradcheck.py](../minilstm/gradcheck.py) `check`, `numeric`;
# [layer.py](../minilstm/layers/layer.py) `Layer`. `python -m minilstm.gradcheck` checks them all.
# **Next:** 03, a network that must squeeze.
