# %% [markdown]
# # 08 · Choose what goes in at each time step
#
# *Slides: "Input at each timestep".*
#
# * **You will do:** turn frames into vectors, shuffle their pixels, count what a larger frame
#   costs, and read a film from a file of your own.
# * **You will learn:** that an LSTM has no eyes, what that costs, and why the loss must fit the
#   input.
# * **You need:** tutorials 03 and 07.
#
# ![the same film with its pixels shuffled](images/08_shuffled.png)
#
# Above, a film. Below, the same film with its pixels shuffled, each frame in the same way. You can
# follow only the first. For an LSTM they are equally easy.

# %%
import tempfile
from pathlib import Path

import kit
import numpy as np

from minilstm import (
    Composite,
    FuturePredictor,
    PeepholeLSTM,
    SquaredError,
    asarray,
    config,
    data,
)
from minilstm.errors import MinilstmError
from minilstm.evaluation import judging
from minilstm.gradcheck import check
from minilstm.layers.init import Blank
from minilstm.layers.layer import Sample
from minilstm.layers.samples import randomize
from minilstm.runs import build
from minilstm.training import resources

# %% [markdown]
# ## A frame becomes a vector
#
# The deck lists two kinds of input. The first are **image patches**, such as MNIST's: all pixels of
# a frame in one row,
#
# $$x_t \in [0, 1]^D, \qquad D = \text{height} \times \text{width}.$$
#
# `batch` gives bytes, time first; `as_vectors` makes the vectors.

# %%
digits, _ = data.load_digits()
source = data.MovingMNIST(data.resize_digits(digits, 8), 1, 16, 8, num_frames=12)
frames = source.batch(0, 32)
x = data.as_vectors(frames)
print(frames.dtype, frames.shape, "->", x.dtype, x.shape)
assert x.shape == (12, 32, 256) and 0 <= x.min() and x.max() <= 1

# %% [markdown]
# ## An LSTM has no eyes
#
# The vector has forgotten which pixels were neighbours.
#
# **Predict:** shuffle the 256 pixels of every frame in one fixed way. Will an LSTM find the films
# harder to learn?

# %%
order = np.random.default_rng(0).permutation(256)
shuffled = np.ascontiguousarray(x[..., order])

drawn, ax = kit.figure(8, 2.8)
kit.pictures(ax, np.stack([x[:8, 3], shuffled[:8, 3]]), (16, 16))
kit.save(drawn, "08_shuffled", show=False)

lstm = PeepholeLSTM(256, 32, np.random.default_rng(1))
(y, _), cache = lstm.forward(x)
lstm.backward((np.ones_like(y), None), cache)
gradient = lstm.Wx.grad.copy()

lstm.Wx.value[...] = lstm.Wx.value[order]  # shuffle the rows of Wx in the same way
lstm.zero_grad()
(again, _), cache = lstm.forward(shuffled)
lstm.backward((np.ones_like(y), None), cache)
scale = np.abs(gradient).max()
print("outputs differ by", np.abs(again - y).max())
print("gradients, unshuffled, differ by", np.abs(lstm.Wx.grad - gradient[order]).max() / scale)
assert np.allclose(again, y, atol=1e-5)
assert np.allclose(lstm.Wx.grad, gradient[order], atol=1e-5 * scale)

# %% [markdown]
# Not at all. Shuffle the rows of `Wx` along, and outputs and gradients are the same. Since `Wx`
# starts random, a shuffled start is as likely as any. So the network must learn from data what
# every picture has: that neighbouring pixels belong together, and that a digit looks the same two
# pixels further on.
#
# That is the reason for the deck's second kind of input: **features** of each frame from a
# convolutional network that was trained on ImageNet (Krizhevsky, Sutskever, Hinton 2012). Such a
# network has eyes, and has seen a million photographs. Carrying over what it learned is *transfer
# learning*. For an LSTM, features are just another vector $x_t$.
# ([data_tools/extract_percepts.py](../data_tools/extract_percepts.py) makes such features from
# videos, and `--data percepts --path FOLDER` learns from them; their loss is below.)
#
# ## What a larger frame costs
#
# **Predict:** frames of twice the height and width. How many times more parameters, for 2048 units?

# %%
sizes = {}
for side in (16, 32, 64, 128):
    model = Composite(side * side, 2048, 1, np.random.default_rng(0), init=Blank())
    settings = config.load(overrides={"data": {"frame_size": side, "digit_size": side // 2},
                                      "model": {"hidden": 2048}})  # fmt: skip
    sizes[side] = sum(param.value.size for param in model.params().values())
    gflop = resources.gflop_per_step(model, settings)
    print(f"{side:>3} x {side:<3}  {sizes[side] / 1e6:6.0f} million parameters  {gflop:6.0f} GFLOP")
assert 2 < sizes[128] / sizes[64] < 4

# %% [markdown]
# At 64 x 64, the paper's size, the weights that touch pixels are half of all: the encoder's input
# weights (4096 inputs, four gates) are a third, the two decoders' readouts a sixth. At 128 x 128
# they are four fifths. The paper's natural patches, of 32 x 32 pixels in 3 colours, are 3072
# numbers.
#
# ## The loss must fit the input
#
# Pixels of digits are probabilities of ink: between 0 and 1, mostly at the ends. For them the paper
# uses the Bernoulli cross-entropy. Natural patches and features are real numbers around a mean. For
# them it uses the squared error, $\tfrac12 \sum (z - y)^2$ per frame.
#
# **Predict:** what does the library say to a film with negative values and cross-entropy?

# %%
rng = np.random.default_rng(2)
normalised = rng.standard_normal((6, 4, 256)).astype(np.float32)
for_digits = FuturePredictor(256, 8, 1, rng)
for_reals = FuturePredictor(256, 8, 1, rng, loss=SquaredError())
try:
    for_digits.rollout(normalised, 3)
except MinilstmError as error:
    print("cross-entropy:", error)
else:
    raise AssertionError("values outside [0, 1] were accepted")
print("squared error:", for_reals.rollout(normalised, 3).shape)

rows = check(Sample(randomize(FuturePredictor(4, 3, 1, rng, loss=SquaredError()), rng),
                    (rng.standard_normal((5, 2, 4)), None, 6)))  # fmt: skip
assert all(row.passed for row in rows)

# %% [markdown]
# The authors cut their natural patches out of UCF-101: 32 x 32 pixels in colour, 16 frames to see
# and 13 to predict. `data.Patches` reads such a file (`--data patches --path FILE`) and
# *normalises* it: each colour gets mean 0 and standard deviation 1 over the **training** films.
# None comes with the package, so here is a made-up one: clouds of colour that drift to the right.

# %%
rng = np.random.default_rng(3)
clouds = rng.random((30, 1, 8, 8, 3)).cumsum(3)  # (N, T, height, width, colours)
clouds = np.concatenate([np.roll(clouds, t, axis=3) for t in range(29)], axis=1)
clouds = np.rint(255 * clouds / clouds.max()).astype(np.uint8)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "clouds.npy"
    np.save(path, clouds)
    patches = data.Patches(path, num_frames=29, split="train")
    batch = patches.batch(0, 24)  # all 24 training films: 8 of every 10
x = data.as_vectors(batch, patches.scale)
back = data.as_frames(x, patches.frame_shape, patches.scale)
print("vectors:", x.shape, f" mean {x.mean():.3f}, standard deviation {x.std():.3f}")
print("and back to pictures:", np.abs(back - batch / 255).max())
assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3
assert np.abs(back - batch / 255).max() < 1e-6

# %% [markdown]
# What a conditional decoder feeds back (tutorial 10) goes with the loss: the *mean* of what its
# logits stand for. That is the sigmoid for digits, and the number itself for reals.
#
# ## Your own films
#
# `--data FILE.npy` trains on any file of bytes `(T, N, height, width)` or `(N, T, height, width)`.
# The public Moving MNIST files are of these two kinds. Let us make a film that is no digit: a
# bright bar that travels downwards.

# %%
bars = np.zeros((20, 30, 16, 16), np.uint8)  # (T, N, height, width)
for t in range(20):
    for n in range(30):
        bars[t, n, (n + t) % 16] = 255

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "bars.npy"
    np.save(path, bars)
    settings = kit.small(
        200 if kit.FAST else 1500, data={"source": str(path)}, model={"kind": "predictor"}
    )
    model = kit.learn(settings)
    test = judging.sequences(build.open_source(settings, "test"), 3)
    mean = judging.mean_image(settings, 400)

_, logits = judging.decode(model, test, 6)
loss = judging.loss_per_step(model.loss, logits, test[6:]).mean()
of_mean = judging.loss_of_mean_image(model.loss, mean, test[6:])
print(f"bars: {loss:.1f} nats per frame; the mean image costs {of_mean:.1f}")
assert loss < of_mean / 2

# %% [markdown]
# A bar has no grey pixels and one way to move. Its entropy bound is zero: here the future can be
# known.
#
# ## Break it on purpose: bytes that were not divided
#
# The commonest mistake with one's own data: 0 to 255 in place of 0 to 1.
#
# **Predict:** an error, or a bad result?

# %%
for name, wrong in (("as floats", bars.astype(np.float32)), ("as bytes", bars)):
    try:
        model.rollout(asarray(wrong[:6, :3], wrong.dtype), 3)
    except MinilstmError as error:
        print(f"{name}: {error}")
    else:
        raise AssertionError("bytes were accepted as probabilities")

# %% [markdown]
# An error, in one line that says what to do. A loss of minus four thousand nats, and a day of
# wonder, would be the alternative.
#
# ## Exercises
#
# 1. Shuffle the pixels *differently in every frame*. Is that still as easy?
# 2. Why does the library read only the frames it needs from a file of 800 MB?
# 3. Half of the pixels of your films are always black. What do they cost in parameters? In loss?
#
# ### Answers
#
# 1. No. Then nothing is the same from frame to frame, and there is no motion to find.
# 2. Through a memory map: the array is a window on the file, and slicing it reads the slice.
# 3. In parameters as much as all others. In loss almost nothing: the bias of such a pixel goes far
#    below zero, or starts there, since readouts start at the mean image.

# %% [markdown]
# **In the library:** [data/vectors.py](../minilstm/data/vectors.py) `as_vectors`;
# [data/sequences.py](../minilstm/data/sequences.py) `SequenceFile`;
# [data/patches.py](../minilstm/data/patches.py);
# [losses.py](../minilstm/layers/losses.py) `mean`;
# [resources.py](../minilstm/training/resources.py). **Next:** 09, judging.
