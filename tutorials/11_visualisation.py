# %% [markdown]
# # 11 · Look at what it learned
#
# *Slides: "Visualization and Qualitative Analysis", "Unsupervised Learning with LSTMs", "Figure
# 5", "Figure 6".*
#
# * **You will do:** draw the figures of the slides and the paper from a model that you trained a
#   minute ago, and put a number on each.
# * **You will learn:** what the units of a trained LSTM do while it predicts, what they look for in
#   a frame, and how to look without fooling yourself.
# * **You need:** tutorials 07, 09 and 10.
#
# ![units of a decoder over 100 predicted steps, trained and random](images/11_fig7.png)
#
# The deck's "(a) Trained Future Predictor" above "(b) Randomly Initialized". One line is one unit
# of the future decoder, time runs to the right for 100 predicted steps.

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
# ## A run to look at
#
# The library draws from a *run folder*, as its training command leaves it. So we use that command's
# own function once, on the small films of tutorial 01: one digit, six frames in, six to predict.

# %%
steps = 400 if kit.FAST else 2500
settings = kit.small(
    steps,
    model={"kind": "composite"},
    run={"steps": steps, "batch_size": 32, "validate_every": 0},
)
folder = tempfile.TemporaryDirectory()
loop.train(settings, Path(folder.name) / "run", quiet=True)
run = run_figures.open_run(Path(folder.name) / "run")
print("models to compare:", *run.models)

# %% [markdown]
# `run` holds the trained model **and** the same model as it was before training. Every picture
# below shows both. A picture of a trained network alone proves little: random networks look busy
# too.


# %%
def draw(figure, name, *runs):
    """Draw one of the library's figures, of this run or of others; return its caption."""
    figures = run_figures.FigureFolder(Path(folder.name), ("png",), captioned=False)
    run_figures.draw(list(runs) or [run], figures, (figure,))
    (drawn,) = figures.drawn
    with Image.open(drawn.files[0]) as picture:
        kit.save_file(picture.save, name)
    return drawn.caption


# %% [markdown]
# ## Figure 5: reconstruction and prediction
#
# **Predict:** in which frame will the model's picture be worst?

# %%
caption = draw("fig5", "11_fig5")
print(caption)

# %% [markdown]
# Look for three things, in this order. *Place*: is the blob where the digit is? *Motion*: does it
# turn at the wall? *Shape*: is it this digit? The loss pays for them in this order, and in this
# order they are learned.
#
# ## Figure 6: natural patches
#
# The deck's next figure is of photographs in motion, cut out of real films: 16 frames to see, 13 to
# predict, two models. We have no films, but matplotlib brings a photograph, of Grace Hopper. Let a
# *camera* glide over it and zoom: real textures, made-up motion. Training cameras see the left
# three fifths, test cameras the rest.
#
# The pixels are normalised, and the loss is the squared error (tutorial 08).
#
# **Predict:** to beat a copy of the last frame, what must a model know?

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
    print(f"{name}: {loss:.0f} {result['unit']}")
    assert loss < result["baselines"]["mean image"]["mean"]
print(*(f"{name}: {baseline['mean']:.0f}   " for name, baseline in result["baselines"].items()))
caption = draw("fig6", "11_fig6", *patches.values())
print(caption)

# %% [markdown]
# Light and dark in the large, and nothing small. The light blue wall behind her hardly occurs in
# the left of the photograph, so the models draw it pink or white, and blue at most at the edges:
# light, in colours that they know. Both beat the mean image. Neither beats a *copy of the last
# frame*, which has all the texture and only lags behind. The larger model is hardly better on what
# it never saw. One photograph is not enough; the slides' models saw many films. The figure alone
# would not have told you.
#
# ## Figure 7: does it keep time?
#
# A digit that bounces between walls comes back. So a decoder that has understood must go on
# swinging, also long after the six frames that it was trained to predict. A number for it: the
# *autocorrelation*, how much a unit's activity resembles itself $k$ steps later,
#
# $$r(k) = \operatorname{corr}(h_t, h_{t+k}).$$
#
# Its highest peak is 1 for a perfect rhythm and 0 for a unit that has come to rest.
#
# **Predict:** a decoder with random weights, without input, for 100 steps: noise, or rest?

# %%
peaks = {}
for name, model in run.models.items():
    h = activations.future_signals(model, run.past, 100)[0]["h"]  # (100, 20 films, 64 units)
    peak, period = activations.periodicity(h)
    late = np.abs(np.diff(h[80:], axis=0)).mean()
    peaks[name] = peak.mean(), late
    every = f"every {np.median(period[period > 0]):.0f} steps" if period.any() else "at rest"
    print(f"{name:<22} peak {peak.mean():.2f}, {every}; after 80 steps it moves {late:.4f} a step")
draw("fig7", "11_fig7")
(trained_peak, trained_late), (random_peak, random_late) = peaks.values()
assert random_peak < 0.05 and random_late < 1e-3
assert trained_peak > 0.3 and trained_late > 10 * random_late

# %% [markdown]
# The random decoder comes to rest. With forget gates below 1 and nothing coming in, every cell
# drains. The trained one goes on moving, and by this the eye can tell them apart at once. That is
# the finding of the deck's figure.
#
# And, trained for long enough, its period nearly makes sense: 18 steps, in the picture at the top.
# A digit needs ten frames from wall to wall (8 pixels of slack, at most 0.8 pixels a frame), so
# there and back takes twenty, and more on a slant. Trained to predict six frames, and left alone
# for a hundred, the model runs a little fast.
#
# ## Figure 8: what if there are two digits?
#
# **Predict:** our model has seen one digit at a time, always. Give it two. What does it draw?

# %%
caption = draw("fig8", "11_fig8")
print(caption)

# %% [markdown]
# One thing. While the two digits touch (frames 1 to 3) it rebuilds *one* ring between them, of
# about one digit's size. When they part, the ring becomes a smear from one to the other. It
# predicts one dim cloud, larger than a digit, at 60 nats a frame; one digit costs it 19. It has
# learned that there is one digit, and not only how digits move.

# %% [markdown]
# ## Figures 9 and 10: what units look for, what they draw
#
# Each unit of the encoder has one weight for every pixel and gate. So its weights *are* a picture:
# of what it takes from a frame. Likewise each unit of a decoder has a picture of what it gives to
# the frame.
#
# **Predict:** before training these pictures are noise. What will training turn them into?


# %%
def smoothness(weights):
    """How much neighbouring pixels of weight pictures (N, 256) agree: 0 for noise, up to 1."""
    pictures = weights.reshape(-1, 16, 16)
    return np.corrcoef(pictures[:, :, 1:].ravel(), pictures[:, :, :-1].ravel())[0, 1]


def shown(weights):
    """The 12 largest of weight pictures (N, 256), each scaled by itself; grey is 0."""
    w = weights[activations.largest(weights, 12)]
    return 0.5 + 0.5 * w / np.abs(w).max(axis=1, keepdims=True)


rows = {}
for name, model in run.models.items():
    H = settings.model.hidden
    takes = activations.input_weights(model.encoder.layers[0])[:, 2 * H : 3 * H].T  # of the input g
    gives = activations.output_weights(model.predict)
    word = "trained" if name == run_figures.TRAINED else "random"
    rows |= {f"{word}: takes": shown(takes), f"{word}: gives": shown(gives)}
    print(f"{name:<22} takes {smoothness(takes):.2f}   gives {smoothness(gives):.2f}")
    assert (smoothness(gives) > 0.3) == (name == run_figures.TRAINED)

drawn, ax = kit.figure(9, 3.2)
kit.pictures(ax, np.stack(list(rows.values())), (16, 16))
for row, name in enumerate(rows):
    ax.text(-3, 17 * row + 8, name, ha="right", va="center", fontsize=11, color=kit.INK)
kit.save(drawn, "11_weights")

# %% [markdown]
# Blobs and strokes: neighbouring pixels have learned to agree. Nobody told the network which pixels
# are neighbours (tutorial 08). It found out. (`python -m minilstm.visualize RUN --only fig9 fig10`
# draws 200 units, for every gate and both decoders.)
#
# ## Break it on purpose: a beautiful picture of nothing
#
# Could a picture like Figure 7 deceive us? Drive the *random* decoder with a rhythm from outside,
# and look at its units.

# %%
random = run.models[run_figures.RANDOM]
T, B = 100, 1
beat = np.zeros((T, B, 256), np.float32)
beat[::10] = 1.0  # a flash every ten frames
found, _ = activations.unrolled(random.encoder.layers[0], beat, None)
peak, period = activations.periodicity(found["h"])
print(f"random encoder, driven: peak {peak.mean():.2f}, period {np.median(period):.0f}")
assert peak.mean() > 0.7 and np.median(period) == 10

# %% [markdown]
# A strong rhythm, in a network that knows nothing. The rhythm is the input's. Figure 7 means
# something only because that decoder has *no input*. Ask of every beautiful picture what else could
# have made it.
#
# ## Exercises
#
# 1. `python -m minilstm.visualize RUN` draws all of this, and two figures more. Which?
# 2. Why are the units with the *largest* weights shown in Figures 9 and 10, and is that fair?
# 3. The paper's Figure 7 is about a predictor of two digits. What would its period be, if a digit
#    needs about ten frames from wall to wall?
#
# ### Answers
#
# 1. `gates`, how saturated the gates are, and `gradients`, how far back a gradient reaches
#    (tutorial 05).
# 2. Units that are hardly connected look like noise. It is fair if it is said, and if the random
#    network's are chosen in the same way.
# 3. About twenty: there and back.

# %%
assert {"gates", "gradients"} < set(run_figures.NAMES)
folder.cleanup()

# %% [markdown]
# **In the library:** [run_figures.py](../minilstm/experiments/run_figures.py) says what is drawn,
# [activations.py](../minilstm/evaluation/activations.py) measures,
# [strips.py](../minilstm/figures/strips.py) and [panels.py](../minilstm/figures/panels.py) do the
# drawing. **Next:** 12, transfer.
