# %% [markdown]
# # 03 · Squeeze pictures through a bottleneck
#
# *Slides: "Autoencoders".*
#
# * **You will do:** train networks to copy their input through a few numbers, and find out when
#   such a copy is useful.
# * **You will learn:** what a code is, why it must be narrow, and what a linear autoencoder learns.
# * **You need:** tutorial 02.
#
# ![digits through codes of different widths](images/03_codes.png)
#
# Top row: digits that the network did not see in training. The rows below: the same digits after
# they passed through 2, 8 and 32 numbers. These few numbers are the *code*, the narrowest place of
# the network. The network draws each picture from its code alone.

# %%
import kit
import numpy as np

from minilstm import Adam, BernoulliCrossEntropy, Layer, Linear, Sample, SquaredError
from minilstm.data import as_vectors, load_digits, resize_digits
from minilstm.gradcheck import check
from minilstm.layers.cells import elman_cell, elman_cell_backward
from minilstm.layers.layer import Cache


def digits(split, N):
    """Return N digits as vectors of one time step: float32 (1, N, 196), values in [0, 1]."""
    images, _ = load_digits(split=split)
    order = np.random.default_rng(0).permutation(len(images))[:N]
    return as_vectors(resize_digits(images[order], 14)[None])


train, test = digits("train", 2000), digits("test", 500)
D = train.shape[-1]  # 14 x 14
print("pixels of a digit:", D)

# %% [markdown]
# ## Two networks in a row
#
# An *encoder* computes a code of $K$ numbers from the picture. A *decoder* computes a picture from
# the code:
#
# $$k = \text{encode}(x), \qquad \hat x = \text{decode}(k), \qquad L = \text{distance}(x, \hat x).$$
#
# No labels are needed, because the input is its own target. The simplest autoencoder is linear,
# $k = x W_e + b_e$ and $\hat x = k W_d + b_d$, with squared error as the loss.


# %%
class LinearAutoencoder(Layer):
    """Linear encoder and decoder: x (T, B, D) -> code (T, B, K) -> (T, B, D)."""

    def __init__(self, D, K, rng):
        self.encode, self.decode = Linear(D, K, rng), Linear(K, D, rng)

    def forward(self, x):
        k, encode_cache = self.encode.forward(x)
        z, decode_cache = self.decode.forward(k)
        return z, Cache(encode=encode_cache, decode=decode_cache)

    def backward(self, dz, cache):
        values = cache.consume()
        dk = self.decode.backward(dz, values.decode)
        return self.encode.backward(dk, values.encode)

    @classmethod
    def sample(cls, rng):
        return Sample(cls(5, 3, rng), (rng.standard_normal((4, 2, 5)),))


assert all(row.passed for row in check(LinearAutoencoder.sample(np.random.default_rng(0))))


def fit(network, loss, steps, rate=0.003):
    """Train on random batches of 100 digits, with the loop of tutorial 02. Return the test loss."""
    rng, optimizer = np.random.default_rng(1), Adam(network.flat())
    for step in range(steps):
        x = np.ascontiguousarray(train[:, rng.integers(0, train.shape[1], 100)])
        z, cache = network.forward(x)
        _, loss_cache = loss.forward(z, x)
        dz, _ = loss.backward(1.0, loss_cache)
        network.zero_grad()
        network.backward(dz, cache)
        optimizer.step(rate * (1 - step / steps))
    return judged(network, loss)


def judged(network, loss):
    """Return the loss on test digits, which are not used in training."""
    z, _ = network.forward(test)
    value, _ = loss.forward(z, test)
    return float(value)


# %% [markdown]
# ## What a linear autoencoder learns
#
# The best linear code is known. Project the data on the $K$ directions in which they vary most, the
# *principal components* (PCA). One singular value decomposition computes them, without any
# training.
#
# **Predict:** a linear autoencoder with a code of 8 numbers is trained by gradient descent. How
# close does its loss come to that of the 8 principal components?

# %%
K, steps = 8, 1500 if kit.FAST else 6000
linear = LinearAutoencoder(D, K, np.random.default_rng(2))
trained = fit(linear, SquaredError(), steps)

mean = train[0].mean(0)
_, _, directions = np.linalg.svd(train[0] - mean, full_matrices=False)  # (D, D): one in each row
best = directions[:K].T @ directions[:K]  # (D, D): the projection on the first K components
pca = 0.5 * (((test[0] - mean) - (test[0] - mean) @ best) ** 2).sum(-1).mean()
nothing = 0.5 * ((test[0] - mean) ** 2).sum(-1).mean()
print("squared error per digit (half the sum over its pixels):")
print(f"   mean digit, without a code         {nothing:.2f}")
print(f"   trained linear autoencoder, K = 8  {trained:.2f}")
print(f"   principal components, K = 8        {pca:.2f}")
assert abs(trained - pca) < 0.1 * pca < 0.1 * nothing

# %% [markdown]
# Gradient descent reaches the same loss to two decimals. No linear code of 8 numbers has a lower
# loss (exercise 2), and all that reach it draw the same pictures: the mean digit plus weighted sums
# of 8 fixed pictures. An autoencoder generalises PCA: with tanh layers in between, the code can
# also follow curved shapes.
#
# ## How narrow?
#
# Now the encoder and the decoder each get a hidden layer. The pixels are read as probabilities of
# ink. The decoder's output $z$, the *logit*, can be any number. The *sigmoid* $s(z) = 1 / (1 +
# e^{-z})$, with the slope $s(1 - s)$, makes a probability $p$ of it. The loss is that of the paper,
# the Bernoulli cross-entropy. For one pixel $x$:
#
# $$p = s(z), \qquad L = -x \log p - (1 - x) \log(1 - p)$$
# $$dp = -\frac{x}{p} + \frac{1 - x}{1 - p} = \frac{p - x}{p (1 - p)}, \qquad
#   dz = dp \cdot p (1 - p) = p - x$$
#
# Its unit is the nat. Tutorial 09 explains it; for now, less is better.


# %%
class Autoencoder(Layer):
    """Autoencoder with two hidden layers: x -> tanh -> K numbers -> tanh -> logits of x."""

    def __init__(self, D, H, K, rng):
        sizes = (D, H, K, H, D)
        self.layers = tuple(Linear(a, b, rng) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, x):
        caches, hidden = [], []
        for n, layer in enumerate(self.layers):
            x, cache = layer.forward(x)
            if n in (0, 2):  # tanh in hidden layers; the code, the output of layer 1, is linear
                x, _ = elman_cell(x, out=np.empty_like(x))
            caches.append(cache)
            hidden.append(x)
        return x, Cache(caches=caches, hidden=hidden)

    def backward(self, dx, cache):
        values = cache.consume()
        for n in reversed(range(len(self.layers))):
            if n in (0, 2):
                dx = elman_cell_backward(dx, values.hidden[n], out=np.empty_like(dx))
            dx = self.layers[n].backward(dx, values.caches[n])
        return dx

    @classmethod
    def sample(cls, rng):
        return Sample(cls(5, 4, 3, rng), (rng.standard_normal((4, 2, 5)),))


assert all(row.passed for row in check(Autoencoder.sample(np.random.default_rng(0))))

loss, widths, drawn_rows, losses = BernoulliCrossEntropy(), (2, 8, 32), [test[0, :12]], []
for K in widths:
    network = Autoencoder(D, 128, K, np.random.default_rng(3))
    losses.append(fit(network, loss, steps))
    z, _ = network.forward(test[:, :12])
    drawn_rows.append(loss.mean(z, out=np.empty_like(z))[0])  # the sigmoid of the logits
    print(f"K = {K:>2}: {losses[-1]:.1f} nats per digit")
assert losses[0] > losses[1] > losses[2]

drawn, ax = kit.figure(9, 3.2)
kit.pictures(ax, np.stack(drawn_rows), (14, 14))
for row, name in enumerate(("digit", "K = 2", "K = 8", "K = 32")):
    ax.text(-3, 15 * row + 7, name, ha="right", va="center", fontsize=12, color=kit.INK)
kit.save(drawn, "03_codes")

# %% [markdown]
# ## The trap: a code that is too wide
#
# **Predict:** what does an autoencoder learn if its code has as many numbers as the picture?
#
# We can answer this without training. Set both matrices to the identity:

# %%
copier = LinearAutoencoder(D, D, np.random.default_rng(4))
for layer in (copier.encode, copier.decode):
    layer.W.value[...] = np.eye(D)
perfect = judged(copier, SquaredError())
print("loss of a network that learned nothing:", perfect)  # it copies every input
assert perfect == 0

noise = np.random.default_rng(5).random((1, 10, D), np.float32)
back, _ = copier.forward(noise)
squeezed, _ = linear.forward(noise)
print("it also copies white noise exactly:", bool(np.allclose(back, noise)))
assert np.allclose(back, noise)
assert np.abs(squeezed - noise).mean() > 0.1

# %% [markdown]
# The loss is 0, and the network knows nothing about digits. *A small loss does not prove a good
# representation.* The narrow network is worse at copying noise. This is what we want: it spends its
# few numbers on what digits have in common.
#
# Remember this trap. A recurrent autoencoder has it too. This may be why the slides put a question
# mark behind "Recurrent AutoEncoders?" (tutorial 06).
#
# ## Break it on purpose
#
# Pass no gradient on to the encoder. The decoder still gets the right gradient and learns. The
# encoder does not learn.


# %%
class DeafEncoder(LinearAutoencoder):
    """Autoencoder whose encoder gets a gradient of zero."""

    def backward(self, dz, cache):
        values = cache.consume()
        dk = self.decode.backward(dz, values.decode)
        return self.encode.backward(0 * dk, values.encode)

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


wrong = [row.array for row in check(DeafEncoder.sample(np.random.default_rng(0))) if not row.passed]
deaf = fit(DeafEncoder(D, 8, np.random.default_rng(2)), SquaredError(), steps)
print("gradients that the check finds wrong:", *wrong)
print(f"squared error after training: {deaf:.2f}; the mean digit: {nothing:.2f}")
assert set(wrong) == {"encode.W", "encode.b", "x"}
assert trained < deaf < nothing

# %% [markdown]
# It still trains, because the decoder learns to draw from a random code. The loss curve looks fine.
# The gradient check finds the mistake.
#
# ## Exercises
#
# 1. How many parameters does the linear autoencoder have with $D = 196$, $K = 8$?
# 2. Why is the loss of the trained network never *below* that of PCA, apart from chance in the test
#    digits?
# 3. Train `LinearAutoencoder` with $K = 2$ and draw the codes of zeros and ones as points. Could a
#    linear probe tell them apart?
# 4. What does this autoencoder know about *motion*?
#
# ### Answers
#
# 1. $196 \cdot 8 + 8 + 8 \cdot 196 + 196 = 3340$. The next cell checks it.
# 2. Among all linear codes of that width, PCA has the smallest loss on the data from which it is
#    computed. This is the theorem of Eckart and Young.
# 3. Yes, nearly always. Zeros have a hole where ones have ink, and this is the direction in which
#    the digits vary most.
# 4. Nothing. It sees one frame at a time. Twelve frames give twelve codes, and nothing says that
#    they belong together. For this the network needs a memory: tutorial 04.

# %%
assert linear.flat().value.size == 3340

# %% [markdown]
# **In the library:** [linear.py](../minilstm/layers/linear.py);
# [losses.py](../minilstm/layers/losses.py) `SquaredError`, `BernoulliCrossEntropy`;
# [models/composite.py](../minilstm/models/composite.py) `Autoencoder`, which is recurrent.
# **Next:** 04, a network with a memory.
