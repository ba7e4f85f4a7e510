# %% [markdown]
# # 09 · Judge a model before you believe it
#
# *Slides: "Unsupervised Evaluation Strategy", "Qualitative", "Quantitative", "Benchmarking", "Table
# 2".*
#
# * **You will do:** compute the loss of three baselines: answering 0.5 everywhere, copying the last
#   frame, and showing the mean image. Then place the 341.2 of the slides among them. Then judge a
#   model of your own.
# * **You will learn:** what a nat is, why a loss without baselines says little, and why blurred
#   pictures have a low loss.
# * **You need:** tutorial 06.
#
# ![the results of Table 2 among baselines](images/09_ruler.png)
#
# The axis shows nats per frame, for two digits on 64 x 64 pixels. It is logarithmic: equal
# distances are equal *factors*. Grey: baselines, which need no model. Orange: the four results of
# Table 2. Blue: the entropy bound, the lowest loss that is possible.

# %%
import kit
import numpy as np

from minilstm import data
from minilstm.evaluation import judging, metrics
from minilstm.figures import strips
from minilstm.runs import build

# %% [markdown]
# ## What is a nat?
#
# A model says: this pixel is white with probability $p$. The true value is $y$, between 0 (black)
# and 1 (white). The loss is the *cross-entropy*
#
# $$-\,[\,y \log p + (1 - y) \log(1 - p)\,].$$
#
# Its unit is the *nat*, because the logarithm is the natural one. With $p = 0.5$ the loss is
# $\log 2 = 0.69$ nats for any $y$. A confident right answer costs almost nothing. A confident wrong
# answer costs a lot.
#
# **Predict:** the true value of a pixel is *grey*, y = 0.5. Which probability p has the lowest
# loss, and how large is this loss?

# %%
print("           p = 0.01    p = 0.5    p = 0.99")
for y in (0.0, 0.5, 1.0):
    costs = [metrics.cross_entropy(np.full((1, 1, 1), y), np.full((1, 1, 1), p)).item()
             for p in (0.01, 0.5, 0.99)]  # fmt: skip
    print(f"y = {y:.1f}", *(f"{cost:10.2f}" for cost in costs))
    if y == 0.5:
        assert min(costs) == costs[1] and abs(costs[1] - np.log(2)) < 1e-12

# %% [markdown]
# A grey pixel costs at least 0.69 nats. Digits have grey edges. So even the *perfect* prediction,
# the true frame itself, has a loss above zero. This loss is the *entropy bound*, the lowest value
# on the axis above.
#
# In Table 2 the loss is **summed** over the 4096 pixels of a frame. It is **averaged** over the ten
# predicted frames and over the films. Other papers use other units (tutorial 13).
#
# ## The baselines
#
# These are test films of the size in the slides: 10 frames to read, 10 to predict. Their digits are
# not used in training.

# %%
N = 100 if kit.FAST else 1000
digits, _ = data.load_digits(split="test")
films = judging.sequences(data.MovingMNIST(digits, seed=2_000_000_011), N)  # (20, N, 4096)
past, future = films[:10], films[10:]
training_digits, _ = data.load_digits(split="train")
mean = judging.sequences(data.MovingMNIST(training_digits), N).mean((0, 1))

baselines = {name: x.mean() for name, x in metrics.baselines(past, future, mean).items()}
for name, value in baselines.items():
    print(f"{name:<26}{value:8.0f} nats per frame")
half, copy, mean_image, bound = baselines.values()
assert abs(half - 4096 * np.log(2)) < 1e-6
assert half > copy > mean_image > 2 * bound

# %% [markdown]
# **Predict:** on films of two digits we compute the loss of four predictions: p = 0.5 for every
# pixel, a copy of the last frame, the mean image, and the perfect prediction (the entropy bound).
# The best model of the slides has 341.2 nats per frame. Between which of the four losses is it?

# %%
table2 = {
    "Future Predictor": 350.2,
    "Composite Model": 344.9,
    "Conditional Future Predictor": 343.5,
    "Composite Model with Conditional Future Predictor": 341.2,
}
for name, value in table2.items():
    done = (mean_image - value) / (mean_image - bound)
    print(f"{name:<52}{value:6.1f}   {done:.0%} of the way from mean image to entropy bound")
    assert bound < value < mean_image

drawn, ax = kit.figure(9, 2.4)
ax.set_xscale("log")
for name, value in baselines.items():
    ax.plot(value, 0, "|", ms=30, mew=3, color=kit.BLUE if value == bound else kit.FAINT)
    y = -0.62 if value == half else 0.35  # below the axis, because its neighbour's label is above
    ax.text(value, y, f"{name}\n{value:.0f}", ha="center", fontsize=10, color=kit.INK)
for value in table2.values():
    ax.plot(value, 0, "|", ms=22, mew=1.5, color=kit.ORANGE)
ax.text(345, -0.62, "Table 2\n350.2 … 341.2", ha="center", fontsize=10, color=kit.ORANGE)
ax.set_ylim(-0.7, 0.9)
ax.set_xlim(70, 4200)
ax.set_yticks([])
ax.spines["left"].set_visible(False)
ax.set_xticks([], [], minor=True)
marks = (100, 200, 500, 1000, 2000)
ax.set_xticks(marks, marks)
ax.set_xlabel("nats per frame (logarithmic)")
ax.axhline(0, color=kit.FAINT, lw=1, zorder=0)
kit.save(drawn, "09_ruler", show=False)

spread = 350.2 - 341.2
print(f"first and last row differ by {spread:.1f} nats, {spread / (mean_image - bound):.1%} "
      f"of the {mean_image - bound:.0f} nats from mean image to entropy bound")  # fmt: skip
assert spread < 0.02 * (mean_image - bound)

# %% [markdown]
# The results are a little more than half way from the mean image to the bound, in nats. (On the
# logarithmic axis it looks like a third.) The whole table spans 9 nats, which is 1.5 % of this way.
# So all four models are much more similar to each other than to the perfect prediction. The number
# 341.2 alone says none of this.
#
# (The bound and the baselines are computed on *our* films. With other test digits the mean image
# costs 629 to 678 nats. So compare a result only with baselines on the same data.)
#
# ## Why blurred pictures have a low loss
#
# Take the true frames and change them in two ways. Move them by a few pixels: they stay sharp, but
# they are in the wrong place. Or blur them: they are in the right place, but not sharp.
#
# **Predict:** compare the true frames moved by 3 pixels with the true frames strongly blurred.
# Which look better? Which have the lower loss?


# %%
def moved(frames, pixels):
    """Return the films with every frame moved to the right by so many pixels."""
    pictures = frames.reshape(*frames.shape[:2], 64, 64)
    return np.roll(pictures, pixels, axis=3).reshape(frames.shape)


def blurred(frames, times):
    """Return the films after averaging over 3 x 3 pixels, repeated `times` times."""
    pictures = frames.reshape(*frames.shape[:2], 64, 64)
    for _ in range(times):
        for axis in (2, 3):
            pictures = (np.roll(pictures, 1, axis) + pictures + np.roll(pictures, -1, axis)) / 3
    return pictures.reshape(frames.shape)


few = future[:, :50].astype(float)
spoiled = {"truth": few, "moved by 3 pixels": moved(few, 3), "blurred 8 times": blurred(few, 8),
           "mean image": np.broadcast_to(mean.astype(float), few.shape)}  # fmt: skip
found = {}
print(f"{'':<18}nats per frame   sharpness")
for name, frames in spoiled.items():
    nats = metrics.cross_entropy(few, np.clip(frames, 1e-4, 1 - 1e-4)).mean()
    sharp = metrics.sharpness(few, frames, (64, 64)).mean()
    found[name] = nats, sharp
    print(f"{name:<18}{nats:12.0f}{sharp:14.2f}")

drawn, ax = kit.figure(9, 2.6)
kit.pictures(ax, np.stack([frames[0, 4] for frames in spoiled.values()])[None], (64, 64), gap=6)
for k, name in enumerate(spoiled):
    ax.text(70 * k + 32, -4, f"{name}: {found[name][0]:.0f}", ha="center", fontsize=11)
kit.save(drawn, "09_fog")

assert found["blurred 8 times"][0] < found["mean image"][0] < found["moved by 3 pixels"][0]
assert found["blurred 8 times"][1] < 0.2

# %% [markdown]
# Above each picture are the nats per frame, over 50 of the films. (So the mean image costs 669, and
# not 678.) Sharp digits, three pixels away, cost more than the mean image, which is the same
# picture for every film. A blurred picture is cheap, because it is never *confident* and wrong. So
# a model that is trained with this loss blurs where it is uncertain. For this loss, blurring is
# right.
#
# This is why the slides use two kinds of evaluation. **Quantitative**: nats, with baselines.
# **Qualitative**: look at the pictures. The library also has a number for the second: `sharpness`,
# the share of the true edges that the picture contains. We call a picture sharp from 0.5 on. (Sharp
# digits three pixels away score low as well, because their edges are in the wrong places. A high
# score needs edges that are sharp *and* right.)
#
# The other quantitative test of the slides is *action recognition*: is the representation useful
# for another task (tutorial 12)?
#
# ## Judge a model of your own
#
# We train a small composite model on small films, with a conditional decoder for the future
# (tutorial 10 explains both). The output calls a film a *sequence*; its last three lines are for
# tutorial 18. There are two ways to evaluate such a decoder, and they give **two different
# numbers**:
#
# * *free-running*: the decoder gets the code of the past, and then its own output as input. Table 2
#   shows this number.
# * *teacher-forced*: before each frame the decoder gets the true previous frame. In a real
#   prediction this frame is not known.

# %%
settings = kit.small(
    150 if kit.FAST else 1500, model={"kind": "composite", "conditional": "future"}
)
model = kit.learn(settings)
x = judging.sequences(build.open_source(settings, "test"), 200)  # (12, 200, 256)
result = judging.evaluate(model, x, 6, judging.mean_image(settings, 400), (16, 16))
print(judging.table(result))

free = result["future"]["free_running"]["mean"]
forced = result["future"]["teacher_forced"]["mean"]
of_mean = result["baselines"]["mean image"]["mean"]
assert forced < free < of_mean


# %%
def frames(vectors):
    """Return three of the films (T, N, 256) as pictures (T, 3, 16, 16)."""
    return vectors[:, 2:5].reshape(-1, 3, 16, 16)


reconstruction = model.reconstruction(x[:6])
prediction = model.rollout(x[:6], 6)
models = {"model": (frames(reconstruction), frames(prediction))}
kit.save_file(
    lambda path: strips.prediction_strip(frames(x[:6]), frames(x[6:]), models, path), "09_strip"
)

# %% [markdown]
# ## Break it on purpose: "stuck at 2600"
#
# A user of the authors' code reported that the loss would not go below 2600. We know one mistake
# that gives a similar number: the output goes through the sigmoid **twice**. Then a
# probability between 0 and 1 becomes a number between 0.5 and 0.73, and the model can never say
# "black".
#
# **Predict:** the *perfect* prediction goes through the sigmoid once more. How large is its loss,
# in nats per frame of 64 x 64 pixels?

# %%
squashed = metrics.cross_entropy(future, 1 / (1 + np.exp(-future))).mean()
print(f"perfect prediction through one more sigmoid: {squashed:.0f} nats per frame; "
      f"p = 0.5 everywhere: {half:.0f}")  # fmt: skip
assert 2500 < squashed < half

# %% [markdown]
# The baselines show this at once. A loss this close to "p = 0.5" means that something is wrong with
# the output, not with the learning. (On our films this mistake can't reach 2600. The user may have
# made another mistake.)
#
# ## Exercises
#
# 1. How many *bits* per frame are 341.2 nats?
# 2. Why must the mean image be computed from the *training* data?
# 3. Your model has a loss of 80 nats per frame on these films of 64 x 64 pixels. Is this good news?
#
# ### Answers
#
# 1. $341.2 / \log 2 = 492$.
# 2. The mean of the test films contains information about the answers. A baseline may not know more
#    than a model may know.
# 3. No. It is below the entropy bound, which is impossible. Look for the mistake: other films, a
#    mean in place of a sum, or true frames as input.

# %%
assert round(341.2 / np.log(2)) == 492
assert bound > 80

# %% [markdown]
# **In the library:** [metrics.py](../minilstm/evaluation/metrics.py) `cross_entropy`, `baselines`,
# `sharpness`; [judging.py](../minilstm/evaluation/judging.py) `evaluate`, `table`;
# `python -m minilstm.evaluate RUN`. **Next:** 10, predicting the future.
