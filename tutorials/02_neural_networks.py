# %% [markdown]
# # 02 · Check a neural network's gradient
#
# *Slides: "Neural Networks".*
#
# * **You will do:** run a small network forward and backward by hand, and compare the numbers with
#   the library's. Then check the gradient in a third way, by the forward pass alone.
# * **You will learn:** the chain rule as code, and the gradient check that all later tutorials use.
# * **You need:** matrix products and the chain rule.
#
# ![a network of two layers](images/02_network.png)
#
# Numbers flow to the right (blue). Their gradients flow back to the left (orange), through the same
# boxes in the opposite order. This is *back-propagation*.

# %%
import kit
import numpy as np

from minilstm import Adam, Layer, Linear, Sample, SquaredError, set_backend
from minilstm.gradcheck import check
from minilstm.layers.cells import elman_cell, elman_cell_backward
from minilstm.layers.init import Init
from minilstm.layers.layer import Cache

set_backend("numpy", "float64")  # checks need float64; for training float32 is enough

kit.save_diagram("network", "02_network")

# %% [markdown]
# ## Forward
#
# $$a = x W_1 + b_1, \quad h = \tanh(a), \quad z = h W_2 + b_2, \quad L = \tfrac12 (z - y)^2$$
#
# Here every letter is a single number. The code uses the letters of the formula:

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
# Write `dz` for $\partial L / \partial z$: how fast the loss rises when $z$ rises. Every other
# letter has such a gradient, too. The slope of $h = \tanh(a)$ is $1 - h^2$. Start at the loss and
# go back:
#
# $$dz = z - y, \quad dW_2 = h\,dz, \quad db_2 = dz, \quad dh = W_2\,dz,$$
# $$da = (1 - h^2)\,dh, \quad dW_1 = x\,da, \quad db_1 = da, \quad dx = W_1\,da.$$
#
# **Predict:** in this example x = 2 and W2 = 3, and the output z is larger than the target y. Is
# the gradient dW1 positive or negative?

# %%
dz = z - y
dW2, db2, dh = h * dz, dz, W2 * dz
da = (1 - h**2) * dh
dW1, db1, dx = x * da, da, W1 * da
print(f"dW1 = {dW1:.4f}   dW2 = {dW2:.4f}")
assert dW1 > 0  # a larger W1 makes z larger, and z is already too large

# %% [markdown]
# ## The same computation with the library
#
# In the library a layer has two methods, and one rule holds for every layer:
#
#     outputs, cache = layer.forward(*inputs)
#     dinputs        = layer.backward(doutputs, cache)
#
# *`backward` takes one gradient for each output of `forward`, and returns one for each input.* The
# cache holds what the backward pass needs from the forward pass: here `x` for `dW1`, and `h` for
# `da`. `Linear` computes $xW + b$. Its parameters have a `value` and a `grad`; `backward` adds
# their gradient to `grad`. `elman_cell` is tanh and `elman_cell_backward` its backward pass; they
# write their result into the array `out`. Arrays are `(T, B, D)`: time steps, films that are
# computed together (the *batch*), numbers per frame. Ours are `(1, 1, 1)`.

# %%
rng = np.random.default_rng(0)
first, second, loss = Linear(1, 1, rng), Linear(1, 1, rng), SquaredError()
for layer, W, b in ((first, W1, b1), (second, W2, b2)):
    layer.W.value[...], layer.b.value[...] = W, b


def number(value):
    """Return an array (1, 1, 1) that holds `value`."""
    return np.array(value, dtype=float).reshape(1, 1, 1)


a1, cache1 = first.forward(number(x))
h1, _ = elman_cell(a1, out=np.empty_like(a1))
z1, cache2 = second.forward(h1)
value, cache3 = loss.forward(z1, number(y))

dz1, _ = loss.backward(1.0, cache3)  # 1: the gradient of L with respect to L itself
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
# ## Both agree. Could both be wrong?
#
# Use the definition of a derivative. Change $W_1$ a little in each direction and look at the loss:
#
# $$\frac{\partial L}{\partial W_1} \approx
#   \frac{L(W_1 + \epsilon) - L(W_1 - \epsilon)}{2 \epsilon}$$
#
# This needs only the forward pass. So it finds a mistake in the backward pass.
#
# **Predict:** a derivative is approximated by the difference of two losses, at W1 + ε and W1 - ε.
# Is a smaller step ε always better?


# %%
def loss_at(W1):
    """Run the forward pass as a function of W1 alone. W1 may be complex."""
    return 0.5 * (np.tanh(x * W1 + b1) * W2 + b2 - y) ** 2


steps = 10.0 ** np.arange(-15, 0)
central = [abs((loss_at(W1 + e) - loss_at(W1 - e)) / (2 * e) - dW1) / abs(dW1) for e in steps]
complex_step = [abs(loss_at(W1 + 1j * e).imag / e - dW1) / abs(dW1) for e in steps]

drawn, ax = kit.figure(8, 3.6)
floor = 1e-17  # drawn instead of an error of 0, which has no logarithm
ax.loglog(steps, np.maximum(central, floor), "o-", color=kit.ORANGE, label="central difference")
ax.loglog(steps, np.maximum(complex_step, floor), "s-", color=kit.BLUE, label="complex step")
ax.set_xlabel("step ε")
ax.set_ylabel("relative error of the derivative")
ax.legend(frameon=False)
kit.save(drawn, "02_steps")
best = steps[np.argmin(central)]
print(f"central difference: smallest error {min(central):.0e}, at step {best:.0e}; "
      f"error at step 1e-15: {central[0]:.0e}")  # fmt: skip
print(f"complex step: error at step 1e-15: {complex_step[0]:.0e}")
assert central[0] > 1e-3 and 1e-8 <= best <= 1e-3
assert complex_step[0] < 1e-14

# %% [markdown]
# A smaller step is not always better. With a large $\epsilon$ the approximation is bad. With a tiny
# $\epsilon$ we subtract two numbers that agree in almost all their digits. Those digits cancel, and
# mostly rounding error is left. The best step is in between, and even there the error is far above
# the precision of the numbers.
#
# The *complex step* does not have this problem. Change $W_1$ by $i\epsilon$, an imaginary amount:
#
# $$L(W_1 + i\epsilon) = L(W_1) + i\epsilon\, L'(W_1) - \tfrac{\epsilon^2}{2} L''(W_1) +
#   O(\epsilon^3), \qquad
#   \frac{\operatorname{Im} L(W_1 + i\epsilon)}{\epsilon} = L'(W_1) + O(\epsilon^2).$$
#
# The term with $\epsilon^2$ is real, so it is not in the imaginary part. No two losses are
# subtracted, so nothing cancels. The library uses both methods on every layer. Its differences use
# four losses in place of two, and are more exact.
#
# ## Write a layer
#
# Now we put the pieces into a class. The library asks for one thing more: a `sample`, which is a
# small instance of the layer with random inputs. A class without a sample can't be defined: Python
# raises an error. A gradient needs one number, the loss. `check` makes one: it multiplies the
# outputs by random weights and sums them. Then it compares every gradient of the sample with both
# methods. A gradient is ok if its largest error, relative to its largest element, is below 1e-6
# (differences) and 1e-12 (complex steps).

# %%
try:

    class Unchecked(Layer):
        """Layer without a sample."""
except TypeError as refusal:
    print("refused:", refusal)
else:
    raise AssertionError("a layer without a sample was accepted")


class TwoLayers(Layer):
    """Compute z = tanh(x W1 + b1) W2 + b2. x (T, B, D) -> z (T, B, K)"""

    def __init__(self, D, H, K, rng):
        wide = Init("uniform", scale=1.0)  # start weights between -1 and 1
        self.first, self.second = Linear(D, H, rng, wide), Linear(H, K, rng, wide)

    def forward(self, x):
        a, cache1 = self.first.forward(x)
        h, _ = elman_cell(a, out=np.empty_like(a))
        z, cache2 = self.second.forward(h)
        return z, Cache(h=h, first=cache1, second=cache2)

    def backward(self, dz, cache):
        values = cache.consume()  # what forward kept; it can be used once
        dh = self.second.backward(dz, values.second)
        da = elman_cell_backward(dh, values.h, out=np.empty_like(values.h))
        return self.first.backward(da, values.first)

    @classmethod
    def sample(cls, rng):
        return Sample(cls(2, 5, 3, rng), (rng.standard_normal((4, 6, 2)),))


def report(rows):
    """Print the largest error of every gradient, measured in two ways."""
    for row in rows:
        mark = "ok" if row.passed else "WRONG"
        print(f"{row.array:<10} difference {row.difference:.0e}  complex {row.complex:.0e}  {mark}")


rows = check(TwoLayers.sample(rng))
report(rows)
assert all(row.passed for row in rows)

# %% [markdown]
# ## Break it on purpose
#
# A classic mistake is to forget the slope of tanh, $1 - h^2$. The loss of the broken network still
# falls (exercise 3), so the mistake is easy to overlook. The gradient check finds it.
#
# **Predict:** the backward pass of a two-layer network forgets the slope of tanh. Which of its five
# gradients are wrong: x, first.W, first.b, second.W, second.b?


# %%
class Forgetful(TwoLayers):
    """Two layers whose backward pass forgets the slope of tanh."""

    def backward(self, dz, cache):
        values = cache.consume()
        dh = self.second.backward(dz, values.second)
        return self.first.backward(dh, values.first)  # should be da, not dh

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


rows = check(Forgetful.sample(rng))
report(rows)
wrong = {row.array for row in rows if not row.passed}
assert wrong == {"first.W", "first.b", "x"}

# %% [markdown]
# Every gradient that is computed *after* the mistake is wrong, and every gradient before it is
# right. So the check also shows where the mistake is.
#
# ## Train it
#
# The task is XOR: the output is 1 if exactly one of the two inputs is 1. No straight line separates
# the inputs with output 1 from the others. A network without a hidden layer can do no better than
# answer 0.5 to everything. Its loss is then $\tfrac12 \cdot 0.5^2 = 0.125$.

# %%
xor_x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)[None]  # (T=1, B=4, D=2)
xor_y = np.array([[0], [1], [1], [0]], dtype=float)[None]


def fit(network, steps=400):
    """Train on the four cases of XOR. Return the final loss."""
    optimizer = Adam(network.flat())  # flat: all parameters in one array, all gradients in another
    for _ in range(steps):
        z, cache = network.forward(xor_x)
        value, loss_cache = loss.forward(z, xor_y)
        dz, _ = loss.backward(1.0, loss_cache)
        network.zero_grad()
        network.backward(dz, cache)
        optimizer.step(learning_rate=0.03)
    return float(value)


line, curved = fit(Linear(2, 1, rng)), fit(TwoLayers(2, 8, 1, rng))
print(f"loss without a hidden layer: {line:.4f}     with eight tanh units: {curved:.6f}")
assert abs(line - 0.125) < 1e-3
assert curved < 1e-3

# %% [markdown]
# The loop has six lines: forward, loss, loss backward, zero the gradients, backward, update. All
# tutorials use this loop. `Adam` is gradient descent with a step size for every weight, which it
# computes from running averages of the gradient and of its square.
#
# ## Exercises
#
# 1. For whole batches, `dW2 = h * dz` becomes `h.T @ dz`. Why the transpose? What does the product
#    sum over?
# 2. The library multiplies the outputs by *random* weights before it sums them and checks the
#    gradient of that sum. Why not simply sum the outputs?
# 3. Train `Forgetful` on XOR. Its loss falls, too, but not to zero. Why does a falling loss not
#    prove that the gradient is right?
#
# ### Answers
#
# 1. `dW2` has the shape of `W2`, `(H, K)`; `h` is `(B, H)` and `dz` is `(B, K)`. Every sequence of
#    the batch used the same `W2`, so their gradients add up: the product sums over the batch. (In
#    the same way `dh` becomes `dz @ W2.T`, which sums over the $K$ outputs that each $h$ reaches.)
# 2. Some mistakes cancel in a plain sum. Example: the outputs of a softmax always sum to one, so
#    all gradients of their sum are zero. Right code and wrong code would agree.
# 3. For one case, `dh` and `da` have the same signs, because $1 - h^2 > 0$. So the step still goes
#    downhill. Summed over four cases the direction is wrong, but right enough to reduce the loss.
#    Only a comparison with the definition of a derivative shows that a gradient is right.

# %%
forgetful = fit(Forgetful(2, 8, 1, rng))
print(f"loss after training with the wrong gradient: {forgetful:.6f}")
assert forgetful < 0.1

# %% [markdown]
# **In the library:** [linear.py](../minilstm/layers/linear.py) `Linear`, `affine`, `affine_dw`;
# [checker.py](../minilstm/checker.py) `check`, `numeric_gradient`;
# [layer.py](../minilstm/layers/layer.py) `Layer`. `python -m minilstm.gradcheck` checks every
# layer. **Next:** 03, a network with a narrow middle.
