# %% [markdown]
# # 01 · Ask what a representation is for
#
# *Slides: "Unsupervised Learning of Video Representations using LSTMs", "Motivation", "Objectives",
# "Understand", "Compare".*
#
# * **You will do:** draw videos whose cause you know, and ask what can be read from their pixels
#   and what from a network's memory of them.
# * **You will learn:** what makes a representation good, and why one frame is never enough.
# * **You need:** Python and a little NumPy. Nothing is downloaded.
#
# ![one digit, two pasts, one last frame, two futures](images/01_twins.png)
#
# Two films of one digit. They agree in one frame only, the fourth, in the middle. From that frame
# alone, nobody can say what comes next. With the three frames before it, one can.

# %%
import kit  # pictures and short trainings, in kit.py beside this file
import numpy as np

from minilstm.backend import to_numpy
from minilstm.data import as_vectors, draw_frames, load_digits, resize_digits, trajectories

rng = np.random.default_rng(0)
images, labels = load_digits()  # 6,000 handwritten digits that come with the package
images = resize_digits(images, 8)

# %% [markdown]
# ## A video has few causes and many pixels
#
# We make the videos ourselves, so that we know what is in them: one digit, 8 pixels high, drifts
# over a black frame of 16 x 16 pixels and bounces off the walls. Twelve frames are
#
# $$12 \times 16 \times 16 = 3072 \text{ pixels.}$$
#
# What *causes* them is much less: which digit it is (one of 6,000), where it starts (2 numbers) and
# how it moves (2 numbers). Two library functions turn causes into pixels: `trajectories` says
# where, `draw_frames` paints.
#
# **Predict:** how many of the 3072 pixels change when every frame shows the digit one pixel further
# down and to the right (unless the wall is there)?

# %%
T, N, size, slack = 12, 600, 16, 8  # slack: the pixels that an 8-pixel digit can move on 16
corners = trajectories(rng, N, T, slack)  # (T, N, 2): the digit's top-left corner in every frame
digits = images[rng.integers(0, len(images), N)]
frames = draw_frames(digits[:, None], corners[:, :, None], size)  # (T, N, 16, 16) bytes
x = as_vectors(frames)  # (T, N, 256) in [0, 1]: what a network is given

moved = draw_frames(digits[:, None], np.clip(corners + 1, 0, slack)[:, :, None], size)
changed = (moved != frames).sum(axis=(0, 2, 3)).mean()
print(f"{x[:, 0].size} pixels in a film; {changed:.0f} of them change on average")
assert changed > 300

# %% [markdown]
# One small change of place, hundreds of changed pixels. The cause is simple; the pixels hide it.
#
# It gets worse. The plain distance between pixel vectors calls the *same* digit four pixels away
# more different than *another* digit in the same place. Pixels care about where. A person cares
# about what.

# %%
here, there = np.array([2, 2]), np.array([6, 2])


def still(digit, corner):
    """One frame (256,) with one digit at one corner."""
    return as_vectors(draw_frames(digit[None, None], corner[None, None, None], size))[0, 0]


pairs = [(digits[k], digits[k + 1]) for k in range(200)]
same_digit = np.mean([np.linalg.norm(still(a, here) - still(a, there)) for a, _ in pairs])
same_place = np.mean([np.linalg.norm(still(a, here) - still(b, here)) for a, b in pairs])
print(f"same digit, 4 pixels away: distance {same_digit:.2f}")
print(f"another digit, same place: distance {same_place:.2f}")
assert same_digit > same_place

# %% [markdown]
# ## What the deck asks of a good representation
#
# A representation is a list of numbers that stands for a video. The slides name three things that a
# good one must be able to do:
#
# 1. **reproduce** the sequence of frames: nothing important is lost;
# 2. **predict** the future frames: what matters for the future is there;
# 3. be **used later** for a supervised task, such as recognising an action: it is easy to read.
#
# The first two need no labels, only videos. That is the *unsupervised learning* of the title: train
# on 1 and 2, which cost nothing, and hope for 3. The deck's "Objectives" then ask two questions:
# *what does the LSTM actually learn?* and *how well does it carry over?* These tutorials go the
# same way.
#
# ## One frame is not enough
#
# Now the picture from the top. A digit crosses the middle of the frame, once to the right, once to
# the left.
#
# **Predict:** in which frames do the two films agree?

# %%
column = np.arange(1, 8)  # 1 ... 7: one pixel to the right per frame; backwards: to the left
to_right = np.stack([np.full(7, 4), column], axis=1)
to_left = to_right[::-1]
digit = images[np.flatnonzero(labels == 3)[0]]
films = draw_frames(
    np.stack([digit, digit])[:, None], np.stack([to_right, to_left], axis=1)[:, :, None], size
)
films = as_vectors(films)  # (7, 2, 256)
equal = [bool((films[t, 0] == films[t, 1]).all()) for t in range(7)]
print("frame      ", *range(1, 8))
print("films agree", *("y" if e else "-" for e in equal))
assert equal == [False, False, False, True, False, False, False]

drawn, ax = kit.figure(8, 2.7)
kit.pictures(ax, films.transpose(1, 0, 2), (size, size))
ax.set_title("the two films share frame 4, and no other", color=kit.INK)
kit.save(drawn, "01_twins")

# %% [markdown]
# So no function of frame 4 alone can predict frame 5 of both films. Whatever predicts must
# *remember*. That is why the deck goes to recurrent networks, whose state is a memory.
#
# ## Used later: reading the motion
#
# The third wish, as an experiment. The task: tell the digit's motion from its past, as two numbers,
# pixels per frame downwards and to the right. The reader is the simplest there is, a linear one
# (its usual name is *linear probe*):
#
# $$\hat v = W r + b, \qquad r = \text{the representation.}$$
#
# If $W$ must be simple, then what it reads must lie open in $r$. We compare three $r$ of the same
# videos, each seen for six frames:
#
# * the pixels of the last frame (256 numbers);
# * the state of an LSTM that has learned **nothing** (128 numbers);
# * the state of the same LSTM after it learned, without any label, to rebuild the past and to
#   predict the future.
#
# What an LSTM is, and how it learns, fills the next ten tutorials. Here it is a box.
#
# **Predict:** which of the three reads the motion best, and does the untrained box read anything?

# %%
kind = {"model": {"kind": "composite"}, "init": {"weights": "fan-in"}}
trained = kit.learn(kit.small(200 if kit.FAST else 1000, **kind))
untrained = kit.learn(kit.small(1, **kind))  # one step: as good as none


def state(model, past):
    """What the encoder remembers: h and c of its last step, side by side, (N, 128)."""
    ((h, c),), _ = model.encoder.forward(past)
    return np.concatenate([to_numpy(h), to_numpy(c)], axis=1)


def score(r, v):
    """R^2: the share of v's variance that a linear reader explains on unseen films."""
    r = np.concatenate([r, np.ones((len(r), 1))], axis=1)
    fit, test = slice(0, 400), slice(400, None)
    ridge = 0.3 * np.eye(r.shape[1])
    W = np.linalg.solve(r[fit].T @ r[fit] + ridge, r[fit].T @ v[fit])
    return 1 - ((v[test] - r[test] @ W) ** 2).sum() / ((v[test] - v[fit].mean(0)) ** 2).sum()


past = x[:6]
v = (corners[5] - corners[2]) / 3  # pixels per frame over the last three moves
scores = {
    "the last frame's pixels": score(past[-1].astype(float), v),
    "an untrained LSTM's state": score(state(untrained, past).astype(float), v),
    "a trained LSTM's state": score(state(trained, past).astype(float), v),
}
for name, value in scores.items():
    print(f"{name:<28}{value:6.2f}")

drawn, ax = kit.figure(7, 2.2)
ax.barh(list(scores), np.maximum(list(scores.values()), 0), color=[kit.FAINT, kit.ORANGE, kit.BLUE])
ax.invert_yaxis()
ax.set_xlim(0, 1)
ax.set_xlabel("share of the motion that a linear reader explains")
kit.save(drawn, "01_reading_motion")

# %% [markdown]
# (This share is called $R^2$. 1 is perfect, 0 is guessing the average motion; below 0 is worse than
# that.)
#
# The pixels of one frame say nothing about motion. A state says more, because it has seen six
# frames. The state that was *trained*, on nothing but frames, says most. Nobody told it about
# motion; prediction needed it.

# %%
pixels, random, learned = scores.values()
assert learned > random + 0.1 and random > pixels + 0.1
assert learned > pixels + 0.3

# %% [markdown]
# ## Break it on purpose
#
# Is the score honest? Shuffle the motions, so that every film gets the motion of another. A reader
# that still scores well would be a cheat.

# %%
shuffled = score(state(trained, past).astype(float), v[rng.permutation(N)])
print(f"with shuffled motions: {shuffled:.2f}")
assert shuffled < 0.1

# %% [markdown]
# ## Exercises
#
# 1. The causes of a film are five numbers: which digit, where (2), how it moves (2). Why can no
#    code of five numbers be *learned* easily here, although five are enough?
# 2. Give the linear reader the pixels of the last *two* frames. Better than one frame? As good as
#    the state?
# 3. Name a task for which the state would be a bad representation.
#
# ### Answers
#
# 1. "Which digit" is one number of 6,000 values, and neighbouring values are unrelated shapes. A
#    small network needs codes in which small changes of the code make small changes of the video.
# 2. `score(np.concatenate([past[-2], past[-1]], axis=1).astype(float), v)`. Motion is a *product*
#    of two frames ("ink here before AND there now"), and a linear reader can't multiply. Run it
#    below.
# 3. Any that needs what prediction does not: who wrote the digit, or what happened in frame 1 of a
#    thousand.

# %%
two = np.concatenate([past[-2], past[-1]], axis=1).astype(float)
print(f"two frames of pixels: {score(two, v):.2f}")
assert score(two, v) < learned

# %% [markdown]
# **In the library:** [data/moving_mnist.py](../minilstm/data/moving_mnist.py) `trajectories`,
# `draw_frames`; [models.py](../minilstm/models/composite.py) `Encoder`. **Next:** 02, what is in
# the box, from its smallest part.
