# %% [markdown]
# # 08 · Choose what goes in at each time step
#
# *Slides: "Input at each timestep".*
#
# * **You will do:** turn frames into vectors, shuffle their pixels, compute the cost of larger
#   frames, and read a film from a file of your own.
# * **You will learn:** that an LSTM does not know which pixels are neighbours, what follows from
#   this, and why the loss must fit the input.
# * **You need:** tutorials 03 and 07.
#
# ![the same film with its pixels shuffled](images/08_shuffled.png)
#
# Top row: a film. Bottom row: the same film with its pixels shuffled, in the same way in each
# frame. You can follow only the first. For an LSTM both are equally easy.

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
# The slides list two kinds of input. The first kind is **image patches**, such as MNIST's: all
# pixels of a frame in one row,
#
# $$x_t \in [0, 1]^D, \qquad D = \text{height} \times \text{width}.$$
#
# `batch` returns bytes, with time as the first axis. `as_vectors` turns them into vectors.

# %%
digits, _ = data.load_digits()
# one digit of 8 x 8 pixels on frames of 16 x 16
source = data.MovingMNIST(data.resize_digits(digits, 8), 1, 16, 8, num_frames=12)
frames = source.batch(0, 32)
x = data.as_vectors(frames)
print(frames.dtype, frames.shape, "->", x.dtype, x.shape)
assert x.shape == (12, 32, 256) and 0 <= x.min() and x.max() <= 1

# %% [markdown]
# ## An LSTM does not know neighbours
#
# A vector does not say which pixels are neighbours.
#
# **Predict:** the 256 pixels of every frame are shuffled, in the same way in all frames. Are the
# films now harder to learn for an LSTM?

# %%
order = np.random.default_rng(0).permutation(256)
shuffled = np.ascontiguousarray(x[..., order])  # (12, 32, 256)

drawn, ax = kit.figure(8, 2.8)
kit.pictures(ax, np.stack([x[:8, 3], shuffled[:8, 3]]), (16, 16))
kit.save(drawn, "08_shuffled", show=False)

lstm = PeepholeLSTM(256, 32, np.random.default_rng(1))
(y, _), cache = lstm.forward(x)
lstm.backward((np.ones_like(y), None), cache)
gradient = lstm.Wx.grad.copy()

lstm.Wx.value[...] = lstm.Wx.value[order]  # shuffle the rows of Wx in the same way as the pixels
lstm.zero_grad()
(again, _), cache = lstm.forward(shuffled)
lstm.backward((np.ones_like(y), None), cache)
scale = np.abs(gradient).max()
print("largest difference of outputs:", np.abs(again - y).max())
print("largest relative difference of gradients of Wx, in the same order of rows:",
      np.abs(lstm.Wx.grad - gradient[order]).max() / scale)  # fmt: skip
assert np.allclose(again, y, atol=1e-5)
assert np.allclose(lstm.Wx.grad, gradient[order], atol=1e-5 * scale)

# %% [markdown]
# They are not harder. If we shuffle the rows of `Wx` in the same way, the outputs and the gradients
# are the same. And `Wx` starts with random values, so shuffled rows are an equally likely start.
# So an LSTM must learn from data what is true for every picture: neighbouring pixels belong
# together, and a digit keeps its shape when it moves by two pixels.
#
# This is the reason for the second kind of input in the slides: **features** of each frame,
# computed by a convolutional network that was trained on ImageNet (Krizhevsky, Sutskever, Hinton
# 2012). A convolutional network knows which pixels are neighbours, and this one has seen a million
# photographs. Using again what a network has learned is called *transfer learning*. For an LSTM,
# features are just another vector $x_t$. Tutorial 17 builds such a network.
# ([data_tools/extract_percepts.py](../data_tools/extract_percepts.py) computes such features from
# videos, and `--data percepts --path FOLDER` trains on them.)
#
# ## The cost of a larger frame
#
# **Predict:** frames have 128 x 128 pixels, not 64 x 64. By what factor does the number of
# parameters grow, in a composite model with one layer of 2048 units?

# %%
sizes = {}
for side in (16, 32, 64, 128):
    model = Composite(side * side, 2048, 1, np.random.default_rng(0), init=Blank())
    settings = config.load(overrides={"data": {"frame_size": side, "digit_size": side // 2},
                                      "model": {"hidden": 2048}})  # fmt: skip
    sizes[side] = sum(param.value.size for param in model.params().values())
    gflop = resources.gflop_per_step(model, settings)
    print(f"{side:>3} x {side:<3}  {sizes[side] / 1e6:6.0f} million parameters  "
          f"{gflop:6.0f} GFLOP per training step")  # fmt: skip
assert 2 < sizes[128] / sizes[64] < 4

# %% [markdown]
# By about 2.5. (1 GFLOP is a billion additions or multiplications.) At 64 x 64,
# the paper's size, half of all weights are connected to pixels: a third are the encoder's input
# weights (4096 inputs, four gates), and a sixth are the readouts of the two decoders. At 128 x 128
# they are four fifths. (A second layer adds weights that no pixel is connected to.)
#
# ## The loss must fit the input
#
# The pixels of digits are probabilities of ink. They are between 0 and 1, and most are near one of
# the two. For them the paper uses the Bernoulli cross-entropy. Natural patches and features are
# real numbers around a mean. For them the paper uses the squared error,
# $\tfrac12 \sum (z - y)^2$ per frame.
#
# **Predict:** a model with the cross-entropy as its loss gets a film with negative values. What
# does the library do?

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
# The authors cut their natural patches out of UCF-101: 32 x 32 pixels in 3 colours, which are 3072
# numbers, 16 frames to read and 13 to predict. `data.Patches` reads such a file (`--data patches
# --path FILE`) and *normalises* it: over the **training** films each colour gets mean 0 and
# standard deviation 1. No such file comes with the package, so we make one: clouds of colour that
# move to the right.

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
print("back to pictures: largest difference", np.abs(back - batch / 255).max())
assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3
assert np.abs(back - batch / 255).max() < 1e-6

# %% [markdown]
# A conditional decoder (tutorial 10) uses its own output as its next input. With its output $z$ the
# next input is the sigmoid of $z$ for digits, and $z$ itself for real numbers. In the code this is
# `loss.mean`.
#
# ## Your own films
#
# `--data FILE.npy` trains on any file of bytes of shape `(T, N, height, width)` or
# `(N, T, height, width)`. The public Moving MNIST files have one of these two shapes. We make a
# film of something that is not a digit: a bright bar that moves downwards.

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
print(f"bars: model {loss:.1f} nats per frame; mean image {of_mean:.1f}")
assert loss < of_mean / 2

# %% [markdown]
# A bar has no grey pixels, and it can move in one way only. Its entropy bound is zero: these films
# can be predicted exactly.
#
# ## Break it on purpose: bytes that were not divided
#
# A common mistake with one's own data is to give values from 0 to 255 in place of 0 to 1.
#
# **Predict:** a model for values from 0 to 1 gets values from 0 to 255. Is there an error, or only
# a bad result?

# %%
for name, wrong in (("as floats", bars.astype(np.float32)), ("as bytes", bars)):
    try:
        model.rollout(asarray(wrong[:6, :3], wrong.dtype), 3)
    except MinilstmError as error:
        print(f"{name}: {error}")
    else:
        raise AssertionError("bytes were accepted as probabilities")

# %% [markdown]
# There is an error. Its message is one line, and it says what to do. Without this check, the loss
# could fall far below zero, and you might search for the reason for a day.
#
# ## Exercises
#
# 1. Shuffle the pixels *differently in every frame*. Is the film still as easy to learn?
# 2. Half of the pixels of your films are always black. What do they cost in parameters? What do
#    they cost in loss?
#
# ### Answers
#
# 1. No. Now a pixel's place says nothing about its place in the next frame, so there is no motion
#    to learn.
# 2. They cost as many parameters as the other pixels. They cost almost no loss, because the bias of
#    such a pixel becomes strongly negative. It even starts there, since readouts start at the mean
#    image.

# %% [markdown]
# **In the library:** [data/vectors.py](../minilstm/data/vectors.py) `as_vectors`;
# [data/sequences.py](../minilstm/data/sequences.py) `SequenceFile`;
# [data/patches.py](../minilstm/data/patches.py) `Patches`;
# [losses.py](../minilstm/layers/losses.py) `mean`;
# [resources.py](../minilstm/training/resources.py) `gflop_per_step`. **Next:** 09, how to judge a
# model.
