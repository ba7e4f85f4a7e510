# %% [markdown]
# # 01 · Ask what a representation is for
#
# *Slides: "Unsupervised Learning of Video Representations using LSTMs", "Motivation", "Objectives",
# "Understand", "Compare".*
#
# * **You will do:** draw films from a few numbers, their *causes*. Then measure what can be read
#   from their pixels, and what can be read from the memory of a network.
# * **You will learn:** what makes a representation good, and why one frame is never enough.
# * **You need:** Python and a little NumPy. Nothing is downloaded.
#
# ![ten frames that a model has seen, and ten frames that it predicts](images/01_prediction.png)
#
# In these tutorials a *film* is a short video: a sequence of frames. The upper row of each pair
# shows the true film. The lower row shows a model's work: on the left it reconstructs the ten
# frames that it has seen, and on the right it predicts the ten frames that follow. It has never
# seen these digits. At the end of these tutorials you will understand every line of its code.

# %%
import kit  # draws pictures and trains small models: the file kit.py in this folder
import numpy as np

import minilstm
from minilstm.backend import to_numpy
from minilstm.data import as_vectors, draw_frames, load_digits, resize_digits, trajectories
from minilstm.evaluation import judging
from minilstm.runs import build, trained

rng = np.random.default_rng(0)

# %% [markdown]
# ## See it in ten seconds
#
# This model comes with the package. Its name is `one-digit`. The next cell loads it and lets it
# predict now, on your computer. (`python -m minilstm.demo` does the same, and writes a film and a
# page.)

# %%
model = minilstm.load("one-digit")
settings = build.read_config(trained.find_run("one-digit"))
N = 20 if kit.FAST else 200
films = judging.sequences(build.open_source(settings, "test"), N)  # (20 frames, N films, 576)
past, future = films[:10], films[10:]  # (10, N, 576): 24 x 24 = 576 pixels per frame
reconstruction, prediction = (  # the model's frames, (10, N, 576) each
    judging.mean_frames(model.loss, logits) for logits in judging.decode(model, films, 10)
)

rows = []
for n in (0, 2, 4):
    gap = np.full((1, 576), 0.55)  # a grey frame between past and future
    for seen, unseen in ((past, future), (reconstruction, prediction)):
        rows.append(np.concatenate([seen[:, n], gap, unseen[:, n]]))
drawn, ax = kit.figure(10, 2.7)
kit.pictures(ax, np.stack(rows), (24, 24), names=("truth", "model") * 3)
for x, words in ((125, "ten frames that it has seen"), (400, "the next ten frames")):
    ax.text(x, -4, words, ha="center", va="bottom", fontsize=12, color=kit.INK)
kit.save(drawn, "01_prediction", show=False)

wrong = {"the model": np.abs(prediction - future).mean(),
         "a copy of the last frame": np.abs(past[-1] - future).mean()}  # fmt: skip
for name, error in wrong.items():
    print(f"{name:<25} is wrong by {error:.3f} per pixel (black 0, white 1)")
assert wrong["the model"] < wrong["a copy of the last frame"] / 2

# %% [markdown]
# `python -m minilstm.train one-digit` trains such a model in a few minutes. The digits are still
# blurred then: their *sharpness* is 0.28, where 1 is as sharp as the truth (tutorial 09). The model
# above has 0.58. The same code trained it on a GPU, on many more films of ten times as many digits.
#
# ## A film has few causes and many pixels
#
# We make films ourselves, so that we know what is in them. One digit, 14 pixels high, moves over a
# black frame of 24 x 24 pixels and bounces off the walls. A film of twenty frames has
#
# $$20 \times 24 \times 24 = 11520 \text{ pixels.}$$
#
# Only four numbers *cause* these pixels: which digit it is (one of 1,000), where it starts (2
# numbers) and in which direction it moves. The speed is always the same. Two library functions turn
# causes into pixels: `trajectories` computes the positions, and `draw_frames` draws the digit
# there.
#
# **Predict:** a film has 11520 pixels. In every frame its digit is moved by one pixel down and one
# to the right, unless it is at the wall. How many pixels change?

# %%
images, labels = load_digits(split="test")  # 1,000 handwritten digits that no model has seen
images = resize_digits(images, 14)  # (1000, 14, 14)
T, N, size, slack = 20, 800, 24, 10  # slack: a 14-pixel digit on 24 pixels can move by 10
corners = trajectories(rng, N, T, slack)  # (T, N, 2): the digit's top-left corner in every frame
digits = images[rng.integers(0, len(images), N)]
frames = draw_frames(digits[:, None], corners[:, :, None], size)  # (T, N, 24, 24) bytes
x = as_vectors(frames)  # (T, N, 576), values in [0, 1]: the input of a network

moved = draw_frames(digits[:, None], np.clip(corners + 1, 0, slack)[:, :, None], size)
changed = (moved != frames).sum(axis=(0, 2, 3)).mean()
print(f"a film has {x[:, 0].size} pixels; on average {changed:.0f} of them change")
assert changed > 1000

# %% [markdown]
# The position changed by one pixel, and more than a thousand pixels of the film changed. So a
# small change of a cause is a large change of the pixels.
#
# The next cell computes the distance between two frames, each a vector of 576 pixels. The *same*
# digit, moved by four pixels, is further away than *another* digit in the same place. So the
# distance depends on the position more than on the shape.

# %%
here, there = np.array([3, 3]), np.array([7, 3])


def still(digit, corner):
    """Return one frame (576,) with the digit's top-left corner at `corner`."""
    return as_vectors(draw_frames(digit[None, None], corner[None, None, None], size))[0, 0]


pairs = [(digits[k], digits[k + 1]) for k in range(200)]
same_digit = np.mean([np.linalg.norm(still(a, here) - still(a, there)) for a, _ in pairs])
same_place = np.mean([np.linalg.norm(still(a, here) - still(b, here)) for a, b in pairs])
print(f"distance to the same digit, moved by 4 pixels: {same_digit:.2f}")
print(f"distance to another digit in the same place:   {same_place:.2f}")
assert same_digit > same_place

# %% [markdown]
# ## Three tests of a good representation
#
# A representation is a list of numbers that stands for a film. The slides name three things that
# must be possible with a good representation:
#
# 1. to **reproduce** the frames: nothing important is lost;
# 2. to **predict** the future frames: everything that the future depends on is there;
# 3. to **use it later** for a supervised task, such as recognising an action: the information is
#    easy to read.
#
# The first two need no labels, only films. This is the *unsupervised learning* of the title: train
# a network on tasks 1 and 2, for which data are free, and hope that task 3 becomes easier. The
# slides' "Objectives" then ask two questions: *what does the LSTM actually learn to do?* and *how
# useful is it for other tasks?*
#
# ## One frame is not enough
#
# A digit crosses the middle of the frame, once to the right and once to the left.
#
# **Predict:** two films of seven frames show the same digit. In one it moves to the right, in the
# other to the left. In which frames do the two films agree?

# %%
column = np.arange(2, 9)  # 2 ... 8: one pixel to the right per frame; reversed: to the left
to_right = np.stack([np.full(7, 5), column], axis=1)
to_left = to_right[::-1]
digit = images[np.flatnonzero(labels == 3)[0]]
twins = draw_frames(
    np.stack([digit, digit])[:, None], np.stack([to_right, to_left], axis=1)[:, :, None], size
)
twins = as_vectors(twins)  # (7, 2, 576)
equal = [bool((twins[t, 0] == twins[t, 1]).all()) for t in range(7)]
print("frame      ", *range(1, 8))
print("films agree", *("y" if e else "-" for e in equal))
assert equal == [False, False, False, True, False, False, False]

drawn, ax = kit.figure(8, 2.7)
kit.pictures(ax, twins.transpose(1, 0, 2), (size, size))
ax.set_title("the two films agree in frame 4 only", color=kit.INK)
kit.save(drawn, "01_twins")

# %% [markdown]
# Both films share frame 4, but their frames 5 differ. So no function of frame 4 alone can predict
# both. A model that predicts must *remember* earlier frames. This is why the slides turn to
# recurrent networks: their state is a memory.
#
# ## Used later: reading the motion
#
# Now we test the third point by an experiment. The task: compute the digit's motion from its past.
# The motion is two numbers, in pixels per frame downwards and to the right. We use the simplest
# possible model for this, a linear one. It is called a *linear probe*:
#
# $$\hat v = W r + b, \qquad r = \text{the representation.}$$
#
# $r$ is a vector of $D$ numbers, $W$ is $2 \times D$, and $b$ and $\hat v$ are vectors of 2
# numbers. (In the code each film is a row, so it computes `r @ W`. There $W$ is transposed, and its
# last row is $b$.)
#
# A linear probe can only use what is easy to read in $r$. We compare three representations $r$ of
# the same films. The last two come from networks that have seen ten frames:
#
# * the pixels of the last frame (576 numbers);
# * the state of an LSTM that was **not** trained (512 numbers);
# * the state of the same LSTM after training: the model `one-digit`. It was trained to reconstruct
#   the past and to predict the future, without any label.
#
# The next ten tutorials explain what an LSTM is and how it learns. Here we only use it.
#
# **Predict:** a linear probe reads the motion from the pixels of the last frame, from the state of
# an untrained LSTM, or from the state of a trained LSTM. Which works best? Does the untrained LSTM
# work at all?

# %%
untrained = build.build_model(settings, 576)  # the same network before training


def state(model, past):
    """Return the encoder's final state: h and c side by side, (N, 512)."""
    ((h, c),), _ = model.encoder.forward(past)
    return np.concatenate([to_numpy(h), to_numpy(c)], axis=1)


def score(r, v):
    """Return R^2: the share of v's variance that a linear probe explains on new films."""
    r = np.concatenate([r, np.ones((len(r), 1))], axis=1)
    fit, test = slice(0, 600), slice(600, None)
    ridge = 1.0 * np.eye(r.shape[1])  # keeps W small (ridge regression), so that it is unique
    W = np.linalg.solve(r[fit].T @ r[fit] + ridge, r[fit].T @ v[fit])
    return 1 - ((v[test] - r[test] @ W) ** 2).sum() / ((v[test] - v[fit].mean(0)) ** 2).sum()


past = x[:10]
v = (corners[9] - corners[6]) / 3  # pixels per frame over the last three moves
scores = {
    "the last frame's pixels": score(past[-1].astype(float), v),
    "an untrained LSTM's state": score(state(untrained, past).astype(float), v),
    "a trained LSTM's state": score(state(model, past).astype(float), v),
}
for name, value in scores.items():
    print(f"{name:<28}{value:6.2f}")

drawn, ax = kit.figure(7, 2.2)
ax.barh(list(scores), np.maximum(list(scores.values()), 0), color=[kit.FAINT, kit.ORANGE, kit.BLUE])
ax.invert_yaxis()
ax.set_xlim(0, 1)
ax.set_xlabel("R², share of the motion's variance that a linear probe explains")
kit.save(drawn, "01_reading_motion")

# %% [markdown]
# The share in the picture is called $R^2$. It is 1 for a perfect probe and 0 for a probe that
# always answers the average motion. Below 0 the probe is worse than the average, and the picture
# shows no bar. (On the pixels the probe has 577 weights for each number, and only 600 films to fit
# them. It fits these films, and fails on new ones.)
#
# From the pixels of one frame the probe can't read the motion. From a state it can read more,
# because the network has seen ten frames. From the state of the *trained* network it can read most,
# although this network was trained without labels. To predict frames, the network had to learn the
# motion.

# %%
pixels, random, learned = scores.values()
assert learned > random + 0.1 and random > pixels + 0.1
assert learned > pixels + 0.3

# %% [markdown]
# ## Break it on purpose
#
# Can we trust this score? Shuffle the motions, so that every film is paired with the motion of
# another film. Now there is nothing to read. If the probe still scored well, the score would be
# wrong.

# %%
shuffled = score(state(model, past).astype(float), v[rng.permutation(N)])
print(f"R^2 with shuffled motions: {shuffled:.2f}")
assert shuffled < 0.1

# %% [markdown]
# ## Exercises
#
# 1. The causes of a film are four numbers: which digit, where (2), in which direction. So a code of
#    four numbers is enough. Why can a network not easily *learn* such a code?
# 2. Give the linear probe the pixels of the last *two* frames. Is it better than with one frame? Is
#    it as good as with the state?
# 3. Name a task for which the trained state would be a bad representation.
#
# ### Answers
#
# 1. "Which digit" is one number with 1,000 values, and neighbouring values are unrelated shapes. A
#    small network learns more easily if a small change of the code is a small change of the film.
# 2. It is `score(np.concatenate([past[-2], past[-1]], axis=1).astype(float), v)`. It is better than
#    one frame and than the untrained state, and not as good as the trained state. Motion is a
#    *product* of two frames ("ink was here before AND ink is there now"), and a linear probe can't
#    multiply. The next cell computes it.
# 3. Any task that needs something that prediction does not need. For example: who wrote the digit?
#    Or: what happened in frame 1 of a film of a thousand frames?

# %%
two = np.concatenate([past[-2], past[-1]], axis=1).astype(float)
print(f"R^2 from the pixels of two frames: {score(two, v):.2f}")
assert score(two, v) < learned

# %% [markdown]
# **In the library:** [data/moving_mnist.py](../minilstm/data/moving_mnist.py) `trajectories`,
# `draw_frames`; [models/encoder.py](../minilstm/models/encoder.py) `Encoder`. **Next:** 02, the
# smallest part of such a network and its gradient.
