# %% [markdown]
# # 09 · Judge a model before you believe it
#
# *Slides: "Unsupervised Evaluation Strategy", "Qualitative", "Quantitative", "Benchmarking",
# "Table 2".*
#
# * **You will do:** compute what it costs to know nothing, to copy and to guess the average; then
#   put the deck's 341.2 among them; then judge a model of your own.
# * **You will learn:** what a nat is, why a number without baselines says little, and why fog
#   scores well.
# * **You need:** tutorial 06.
#
# ![the ruler of Table 2](images/09_ruler.png)
#
# A ruler in nats per frame, for two digits on 64 x 64 pixels. It is logarithmic: equal distances
# are equal *factors*. Grey: what needs no model. Orange: the four results of Table 2. Blue: what
# nobody can beat.

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
# A model says: this pixel is lit with probability $p$. The truth is $y$, between 0 (black) and 1
# (white). The *cross-entropy* charges
#
# $$-\,[\,y \log p + (1 - y) \log(1 - p)\,],$$
#
# in *nats*, because the logarithm is natural. A coin ($p = 0.5$) costs $\log 2 = 0.69$ whatever
# happens. Being sure and right costs almost nothing. Being sure and wrong costs a lot.
#
# **Predict:** the truth is *grey*, $y = 0.5$. What is the best $p$, and what does it cost?

# %%
print("           p = 0.01    p = 0.5    p = 0.99")
for y in (0.0, 0.5, 1.0):
    costs = [metrics.cross_entropy(np.full((1, 1, 1), y), np.full((1, 1, 1), p)).item()
             for p in (0.01, 0.5, 0.99)]  # fmt: skip
    print(f"y = {y:.1f}", *(f"{cost:10.2f}" for cost in costs))
    if y == 0.5:
        assert min(costs) == costs[1] and abs(costs[1] - np.log(2)) < 1e-12

# %% [markdown]
# A grey pixel costs at least 0.69. So even the *perfect* prediction, the truth itself, costs
# something, because digits have grey edges. That is the entropy bound, where the ruler begins.
#
# The unit of Table 2: nats **summed** over the 4096 pixels of a frame, **averaged** over the ten
# predicted frames and over the films. Papers differ here. A published 3670.85 for a later model is
# summed over ten frames, on other data: it is not comparable with 341.2.
#
# ## The ruler
#
# Test films at the deck's size, from digits that no training uses: 10 frames seen, 10 to predict.

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
# **Predict:** where between these four does the deck's best model belong?

# %%
table2 = {
    "Future Predictor": 350.2,
    "Composite Model": 344.9,
    "Conditional Future Predictor": 343.5,
    "Composite Model with Conditional Future Predictor": 341.2,
}
for name, value in table2.items():
    done = (mean_image - value) / (mean_image - bound)
    print(f"{name:<52}{value:6.1f}   {done:.0%} of the way from the mean image to the bound")
    assert bound < value < mean_image

drawn, ax = kit.figure(9, 2.4)
ax.set_xscale("log")
for name, value in baselines.items():
    ax.plot(value, 0, "|", ms=30, mew=3, color=kit.BLUE if value == bound else kit.FAINT)
    y = -0.62 if value == half else 0.35  # its neighbour needs the room above
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
      f"of the {mean_image - bound:.0f} from the mean image to the bound")  # fmt: skip
assert spread < 0.02 * (mean_image - bound)

# %% [markdown]
# A little more than half way from the mean image to the bound, in nats. (On the logarithmic ruler
# it looks like a third.) And the whole table spans 9 nats, 1.5 % of that way. All four models are
# much more like each other than like the truth. "341.2" alone says none of this.
#
# (The bound and the baselines are of *our* films, of the 1,000 test digits that come with the
# package: their mean image costs 678. With the whole of MNIST's test set it costs 672
# ([metrics.py](../minilstm/evaluation/metrics.py)), with another sample of test digits 629, which
# tutorial 13 uses. So a result belongs beside the baselines of its own data.)
#
# ## Why fog scores well
#
# Take the truth and spoil it in two ways. Move it by a few pixels: crisp, but misplaced. Or blur
# it: in place, but fog.
#
# **Predict:** which one looks better? Which one scores better?


# %%
def moved(frames, pixels):
    """The films with every frame moved to the right."""
    pictures = frames.reshape(*frames.shape[:2], 64, 64)
    return np.roll(pictures, pixels, axis=3).reshape(frames.shape)


def blurred(frames, times):
    """The films after averaging over 3 x 3 pixels, so many times."""
    pictures = frames.reshape(*frames.shape[:2], 64, 64)
    for _ in range(times):
        for axis in (2, 3):
            pictures = (np.roll(pictures, 1, axis) + pictures + np.roll(pictures, -1, axis)) / 3
    return pictures.reshape(frames.shape)


few = future[:, :50].astype(float)
spoiled = {"truth": few, "moved by 3": moved(few, 3), "blurred 8 times": blurred(few, 8),
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

assert found["blurred 8 times"][0] < found["mean image"][0] < found["moved by 3"][0]
assert found["blurred 8 times"][1] < 0.2

# %% [markdown]
# The crisp digits three pixels away cost more than one average picture shown for every film. Fog is
# cheap, because it is never *sure* of anything wrong. So a model under this loss blurs where it is
# uncertain, and rightly so, for the loss.
#
# Hence the two halves of the deck's strategy. **Quantitative**: nats, beside baselines.
# **Qualitative**: look. And a number for looking: `sharpness`, the share of the truth's edges that
# were drawn. Below 0.5 the library calls it fog. (Crisp digits three pixels off score low as well:
# their edges agree with nothing. To score high, a prediction must be crisp *and* right.)
#
# The deck's other quantitative test is *action recognition*: is the representation of use later?
# Tutorial 01 gave a small taste of it, with motion in place of actions.
#
# ## Judge a model of your own
#
# A small composite model (tutorial 10) on small films, with a conditional decoder for the future.
# Such a decoder can be asked in two ways, and they are **two different numbers**:
#
# * *free-running*: it sees the past, then only its own output. Table 2 is this.
# * *teacher-forced*: before each frame it is shown the true one before. Nobody has that in reality.

# %%
settings = kit.small(
    150 if kit.FAST else 1500, model={"kind": "composite", "conditional": "future"}
)
model = kit.learn(settings)
x = judging.sequences(build.open_source(settings, "test"), 200)
result = judging.evaluate(model, x, 6, judging.mean_image(settings, 400), (16, 16))
print(judging.table(result))

free = result["future"]["free_running"]["mean"]
forced = result["future"]["teacher_forced"]["mean"]
of_mean = result["baselines"]["mean image"]["mean"]
assert forced < free < of_mean


# %%
def frames(vectors):
    """(T, N, 256) -> (T, N, 16, 16), of three films."""
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
# A user of the authors' code reported that the loss would not go below 2600. One explanation comes
# close. Suppose that the output passes through the sigmoid **twice**. A probability between 0 and 1
# becomes one between 0.5 and 0.73: the model can't say "black" any more.
#
# **Predict:** what does the *perfect* prediction cost, if it is squashed once more?

# %%
squashed = metrics.cross_entropy(future, 1 / (1 + np.exp(-future))).mean()
print(f"perfect, but squashed twice: {squashed:.0f} nats per frame; a coin: {half:.0f}")
assert 2500 < squashed < half

# %% [markdown]
# The ruler tells at once: a number that close to "p = 0.5" means that something is wrong with the
# output, not with the learning.
#
# ## Exercises
#
# 1. How many *bits* per frame are 341.2 nats?
# 2. Why must the mean image come from the *training* data?
# 3. Your model scores 80 nats per frame on these 64 x 64 films. Celebrate?
#
# ### Answers
#
# 1. $341.2 / \log 2 = 492$.
# 2. A mean of the test films has seen the answers. A baseline may know no more than a model may.
# 3. No: that is below the entropy bound. Look for the mistake: other films, a mean over something,
#    a teacher.

# %%
assert round(341.2 / np.log(2)) == 492
assert bound > 80

# %% [markdown]
# **In the library:** [metrics.py](../minilstm/evaluation/metrics.py) `cross_entropy`, `baselines`,
# `sharpness`; [judging.py](../minilstm/evaluation/judging.py) `evaluate`, `table`; `python -m
# minilstm.evaluate RUN`. **Next:** 10, the future.
