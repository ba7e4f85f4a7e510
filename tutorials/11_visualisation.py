# %% [markdown]
# # 11 · Look at what it learned
#
# *Slides: "Visualization and Qualitative Analysis", "Unsupervised Learning with LSTMs", "Figure 5",
# "Figure 6".*
#
# * **You will do:** draw the figures of the slides and of the paper from a trained model, and
#   compute a number for each.
# * **You will learn:** what the units of a trained LSTM do while it predicts, which parts of a
#   frame they respond to, and how not to be deceived by a picture.
# * **You need:** tutorials 07, 09 and 10.
#
# ![units of a decoder over 100 predicted steps, trained and random](images/11_fig7.png)
#
# The slides' "(a) Trained Future Predictor" is above, "(b) Randomly Initialized" below. Each line
# is one unit of the future decoder. Time goes to the right, over 100 predicted steps. The columns
# are the gates, the cell state and the output (tutorial 05). Look at $h$, on the right: in (a) its
# colours change until the end, in (b) they stop changing.

# %%
import tempfile
from pathlib import Path

import kit
import numpy as np
from PIL import Image

from minilstm import config
from minilstm.evaluation import activations, judging
from minilstm.experiments import run_figures
from minilstm.training import loop

# %% [markdown]
# ## A model to look at
#
# The library draws its figures from a *run folder* or from a model that comes with the package.
# (The training command writes a run folder.) We look at `one-digit`, the model of tutorial 01. It
# has one layer of 256 units. It reads ten frames and predicts ten. A frame has 24 x 24 pixels, and
# shows one digit 14 pixels high. To look at a run of your own, give its folder in place of the
# name.

# %%
folder = tempfile.TemporaryDirectory()
run = run_figures.open_run("one-digit")
settings, shape = run.config, run.source.frame_shape
print("models to compare:", *run.models)

# %% [markdown]
# `run` contains the trained model **and** the same model before training. Every picture below shows
# both. A picture of a trained network alone proves little, because pictures of untrained networks
# have structure, too.


# %%
def draw(figure, name, *runs):
    """Draw one of the library's figures, of this run or of other runs. Return its caption."""
    figures = run_figures.FigureFolder(Path(folder.name), ("png",), captioned=False)
    run_figures.draw(list(runs) or [run], figures, (figure,))
    (drawn,) = figures.drawn
    with Image.open(drawn.files[0]) as picture:
        kit.save_file(picture.save, name)
    return drawn.caption


# %% [markdown]
# ## Figure 5: reconstruction and prediction
#
# **Predict:** a model reconstructs ten frames and predicts ten. In which frame will its picture be
# worst?

# %%
caption = draw("fig5", "11_fig5")
print(caption)
outputs = judging.decode(run.trained, run.frames, 10)  # logits (10, films, 576), twice
for name, logits, frames in zip(
    ("reconstruction", "prediction"), outputs, (run.frames[:10], run.frames[10:]), strict=True
):
    nats = judging.loss_per_step(run.trained.loss, logits, frames)
    print(f"{name:<15}nats of each frame:", *(f"{cost:5.1f}" for cost in nats))

# %% [markdown]
# The reconstruction is equally good in all frames. The prediction is worse, and becomes slowly
# worse: 30 nats over its first five frames, 32 over its last five. (The frame with the largest loss
# need not be the last one: here it is the sixth of the prediction.) In the picture look for three
# things, in this order. *Position*: is there something where the digit is? *Motion*: does it turn
# at the wall? *Shape*: is it this digit? This is the order of their share in the loss, and the
# order in which the model learns them.
#
# ## Figure 6: natural patches
#
# The next figure of the slides shows patches of real films: 16 frames to read, 13 to predict, by
# two models. We have no such films, but matplotlib comes with a photograph of Grace Hopper. We let
# a *camera* move over it and zoom. The training films show the left three fifths of the photograph,
# and the test films show the rest.
#
# The pixels are normalised, and the loss is the squared error (tutorial 08).
#
# **Predict:** a camera moves over a photograph. To have a lower loss than a copy of the last frame,
# what must a model know?

# %%
np.save(Path(folder.name) / "films.npy", kit.camera_films(100 if kit.FAST else 600))
patches = {}
for hidden in (32, 128):
    steps = 30 if kit.FAST else 400
    own = config.load(["patches"], overrides={
        "data": {"path": str(Path(folder.name) / "films.npy")},
        "model": {"kind": "composite", "layers": 1, "hidden": hidden},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 20, "schedule_steps": steps},
        "run": {"steps": steps, "batch_size": 16, "validate_every": 0},
    })  # fmt: skip
    name = f"{hidden} units"
    loop.train(own, Path(folder.name) / name, quiet=True)
    patches[name] = run_figures.open_run(Path(folder.name) / name)
    mean = judging.mean_image(own, 400)
    result = judging.evaluate(
        patches[name].trained, patches[name].frames, 16, mean, patches[name].source.frame_shape
    )
    loss = result["future"]["free_running"]["mean"]
    print(f"{name}: {loss:.0f} ({result['unit']})")
    assert loss < result["baselines"]["mean image"]["mean"]
print(*(f"{name}: {baseline['mean']:.0f}   " for name, baseline in result["baselines"].items()))
caption = draw("fig6", "11_fig6", *patches.values())
print(caption)

# %% [markdown]
# The models draw large light and dark areas, and no details. Both models are better than the mean
# image. Neither is better than a *copy of the last frame*: the copy has all the texture, and it is
# only a little late. A better model must keep the texture *and* know the motion. The larger model
# is hardly better than the smaller on films that it did not see. One photograph is not enough; the
# models of the slides saw many films.
#
# ## Figure 7: does the decoder keep a rhythm?
#
# A digit that bounces between walls comes back. So a decoder that has learned this motion should go
# on for ever, also long after the ten frames of its training. The *autocorrelation* measures this.
# It says how similar the activity of a unit is to its own activity $k$ steps later:
#
# $$r(k) = \operatorname{corr}(h_t, h_{t+k}).$$
#
# Its highest peak is 1 for a perfect rhythm, and 0 for a unit whose activity has become constant.
# (For small $k$ every smooth signal resembles itself. So only a peak after $r$ has fallen to 0 is
# counted. Noise has a peak of about 0.27.)
#
# **Predict:** a decoder with random weights and without input runs for 100 steps. Does its activity
# look like noise, or does it become constant?

# %%
peaks = {}
for name, model in run.models.items():
    h = activations.future_signals(model, run.past, 100)[0]["h"]  # (100, films, 256 units)
    peak, period = activations.periodicity(h)
    late = np.abs(np.diff(h[80:], axis=0)).mean()
    peaks[name] = peak.mean(), late
    rhythm = f"period {np.median(period[period > 0]):.0f} steps" if period.any() else "no period"
    print(f"{name:<22} peak {peak.mean():.2f}, {rhythm}; change per step after step 80: {late:.4f}")
draw("fig7", "11_fig7")
(trained_peak, trained_late), (random_peak, random_late) = peaks.values()
assert random_peak < 0.05 and random_late < 1e-3
assert trained_peak > 0.3 and trained_late > 10 * random_late

# %% [markdown]
# The activity of the random decoder becomes constant. Its forget gates are below 1 and nothing
# comes in, so every cell state decays. The activity of the trained decoder goes on.
#
# The period of the trained decoder is nearly right. The way from wall to wall is 10 pixels, and a
# digit moves at most 1 pixel per frame. So it needs ten frames from wall to wall, and twenty to
# come back. It needs more when it moves diagonally. The decoder was trained to predict ten frames
# and ran for a hundred.
#
# ## Figure 8: two digits
#
# **Predict:** our model has always seen exactly one digit. Give it a film of two digits. What does
# it draw?

# %%
caption = draw("fig8", "11_fig8")
print(caption)

# %% [markdown]
# The model draws one object. It has about the size of one digit, and parts of both digits. Where
# the digits are apart (frames 9 and 10), the object breaks into pieces. In the prediction it stays
# in one place. On films of two digits the loss is 301 nats per frame, on films of one digit 31. So
# the model has learned that there is one digit, and not only how digits move.

# %% [markdown]
# ## Figures 9 and 10: the weights of a unit as pictures
#
# Each unit of the encoder has one weight for every pixel and gate. So its weights *are* a picture.
# The picture shows which pixels the unit responds to. In the same way, each unit of a decoder has a
# picture of what it adds to the frame.
#
# **Predict:** before training, the weights of a unit look like noise when they are drawn as a
# picture. What do they look like after training?


# %%
def smoothness(weights):
    """Return the correlation of neighbouring pixels in weight pictures (N, 576). Noise has 0."""
    pictures = weights.reshape(-1, *shape)
    return np.corrcoef(pictures[:, :, 1:].ravel(), pictures[:, :, :-1].ravel())[0, 1]


def shown(weights):
    """Return the 12 largest of weight pictures (N, 576), each scaled to [0, 1]; 0.5 is weight 0."""
    w = weights[activations.largest(weights, 12)]
    return 0.5 + 0.5 * w / np.abs(w).max(axis=1, keepdims=True)


rows = {}
for name, model in run.models.items():
    H = settings.model.hidden
    inputs = activations.input_weights(model.encoder.layers[0])[:, 2 * H : 3 * H].T  # of gate g
    outputs = activations.output_weights(model.predict)
    word = "trained" if name == run_figures.TRAINED else "random"
    rows |= {f"{word}: input": shown(inputs), f"{word}: output": shown(outputs)}
    print(f"{name:<22} correlation of neighbouring pixels: input weights {smoothness(inputs):.2f}, "
          f"output weights {smoothness(outputs):.2f}")  # fmt: skip
    assert (smoothness(outputs) > 0.3) == (name == run_figures.TRAINED)

drawn, ax = kit.figure(9, 3.2)
kit.pictures(ax, np.stack(list(rows.values())), shape)
for row, name in enumerate(rows):
    ax.text(-3, 25 * row + 12, name, ha="right", va="center", fontsize=11, color=kit.INK)
kit.save(drawn, "11_weights")

# %% [markdown]
# Each row of the picture has the 12 units with the largest weights: the input weights of the
# candidate $g$ of the encoder (tutorial 05), or the output weights of the future decoder. After
# training we see spots and strokes: neighbouring pixels have similar weights. The network was not
# told which pixels are neighbours (tutorial 08). It has learned it from the films. (`python -m
# minilstm.visualize RUN --only fig9 fig10` draws 200 units, for every gate and both decoders.)
#
# ## Break it on purpose: a beautiful picture that means nothing
#
# Could a picture like Figure 7 deceive us? Give an untrained network an input with a rhythm, and
# look at its units.

# %%
random = run.models[run_figures.RANDOM]
T, B = 100, 1
beat = np.zeros((T, B, 576), np.float32)
beat[::10] = 1.0  # all pixels are white in every tenth frame
found, _ = activations.unrolled(random.encoder.layers[0], beat, None)
peak, period = activations.periodicity(found["h"])
print(f"random encoder with this input: peak {peak.mean():.2f}, "
      f"period {np.median(period):.0f} steps")  # fmt: skip
assert peak.mean() > 0.7 and np.median(period) == 10

# %% [markdown]
# The rhythm is strong, and the network has learned nothing. The rhythm comes from the input. Figure
# 7 means something only because its decoder has *no input*. For every beautiful picture, ask what
# else could have made it.
#
# ## Exercises
#
# 1. `python -m minilstm.visualize RUN` draws all of these figures, and two more. Which?
# 2. Figures 9 and 10 show the units with the *largest* weights. Why? Is this fair?
# 3. The paper's Figure 7 shows a predictor for two digits. What would its period be, if a digit
#    needs about ten frames from wall to wall?
#
# ### Answers
#
# 1. `gates` shows how often the gates are near 0 or 1. `gradients` shows how far back a gradient
#    reaches (tutorial 05).
# 2. Units with small weights look like noise. It is fair if the caption says it, and if the units
#    of the random network are chosen in the same way.
# 3. About twenty frames: ten to the other wall and ten back.

# %%
assert {"gates", "gradients"} < set(run_figures.NAMES)
folder.cleanup()

# %% [markdown]
# **In the library:** [run_figures.py](../minilstm/experiments/run_figures.py) chooses the figures,
# [activations.py](../minilstm/evaluation/activations.py) computes the numbers,
# [strips.py](../minilstm/figures/strips.py) and [panels.py](../minilstm/figures/panels.py) draw.
# **Next:** 12, transfer learning.
