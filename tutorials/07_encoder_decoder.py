# %% [markdown]
# # 07 · Pass a code from encoder to decoder
#
# *Slides: "Recurrent Encoder-Decoder".*
#
# * **You will do:** take a future predictor apart into its two LSTMs, pass the code from one to the
#   other by hand, and exchange the codes of two films.
# * **You will learn:** that the decoder knows nothing but the code, how gradients go from the
#   decoder to the encoder, and how many parameters the paper's model has.
# * **You need:** tutorials 05 and 06.
#
# ![encoder, code, decoder](images/07_encoder_decoder.png)
#
# The encoder reads frames. The decoder reads nothing. The code, the state $(h, c)$, goes from the
# encoder to the decoder, and its gradient (orange) goes back. Nothing else goes from one to the
# other.

# %%
import kit
import numpy as np

from minilstm import Composite, FuturePredictor, asarray
from minilstm.evaluation import judging
from minilstm.gradcheck import check
from minilstm.layers.init import Blank
from minilstm.layers.layer import Sample
from minilstm.layers.samples import randomize
from minilstm.runs import build

kit.save_diagram("encoder-decoder", "07_encoder_decoder")

# %% [markdown]
# ## Train one
#
# A future predictor reads six frames and continues them. `kit.learn` is the loop of tutorial 06.

# %%
settings = kit.small(150 if kit.FAST else 1500, model={"kind": "predictor"})
model = kit.learn(settings)
films = judging.sequences(build.open_source(settings, "test"), 200)
past, future = asarray(films[:6]), asarray(films[6:])  # (6, 200, 256) each

# %% [markdown]
# ## Take it apart
#
# `model.encoder` returns the code: one pair $(h, c)$ for every layer. `model.predict` is the
# decoder. It takes the code and the number of frames to predict.
#
# **Predict:** a future predictor has one layer of 64 units and reads 200 films. What are the shapes
# of the arrays in the code?

# %%
code, _ = model.encoder.forward(past)
((h, c),) = code
print("code: one layer, h", h.shape, "and c", c.shape)
assert h.shape == c.shape == (200, 64)

logits, _ = model.predict.forward(code, 6)
(_, whole), _ = model.forward(past, T=6)  # the first output would be a reconstruction
assert (logits == whole).all()  # model.forward consists of these two calls
loss = judging.loss_per_step(model.loss, logits, future).mean()
print(f"loss of the predicted frames: {loss:.1f} nats per frame")

# %% [markdown]
# Now go one level deeper. The encoder is an LSTM whose outputs are not used. The decoder is an LSTM
# with inputs of width 0, followed by a linear readout of its outputs.

# %%
(_, final), _ = model.encoder.layers[0].forward(past)
nothing = np.empty((6, 200, 0), np.float32)  # six inputs of width 0
(y, _), _ = model.predict.stack.layers[0].forward(nothing, final)
by_hand, _ = model.predict.readout.forward(y)
print("largest difference of the logits:", np.abs(by_hand - logits).max())
assert np.allclose(by_hand, logits, atol=1e-4)

# %% [markdown]
# ## The decoder knows nothing but the code
#
# **Predict:** the decoder gets the code of film 0 in place of the code of film 1. Which film does
# it continue?

# %%
swapped = tuple((h[[1, 0]], c[[1, 0]]) for h, c in code)
crossed, _ = model.predict.forward(swapped, 6)
print("film 1 gets the code of film 0; largest difference to the prediction of film 0:",
      np.abs(crossed[:, 1] - logits[:, 0]).max())  # fmt: skip
assert np.allclose(crossed[:, 1], logits[:, 0], atol=1e-4)

# %% [markdown]
# Which half of the code matters, $h$ or $c$? Set each of them to zero and look at the loss.

# %%
losses = {}
for name, altered in {
    "h and c": (h, c),
    "only c (h = 0)": (0 * h, c),
    "only h (c = 0)": (h, 0 * c),
    "nothing": (0 * h, 0 * c),
}.items():
    logits, _ = model.predict.forward((altered,), 6)
    losses[name] = judging.loss_per_step(model.loss, logits, future).mean()
    print(f"{name:<16}{losses[name]:6.1f} nats per frame")
assert losses["h and c"] < min(losses["only c (h = 0)"], losses["only h (c = 0)"])
assert losses["only c (h = 0)"] < losses["only h (c = 0)"]

# %% [markdown]
# Without $c$ nearly everything is lost: $c$ is the memory. $h$ is what the output gate shows of it.
# Both are passed to the decoder.
#
# ## Predict more frames than in training
#
# The decoder needs no input, so it can run for any number of frames. In training it predicted 6.
#
# **Predict:** a decoder was trained to predict 6 frames. It now predicts 18. What does frame 18
# look like?

# %%
longer = kit.small(1, data={"past": 6, "future": 18})
x = judging.sequences(build.open_source(longer, "test"), 3)
prediction = model.rollout(x[:6], 18)
rows = np.stack([film for n in range(3) for film in (x[6:, n], prediction[:, n])])
drawn, ax = kit.figure(9, 3.4)
kit.pictures(ax, rows, (16, 16))
for row in range(6):
    name = "model" if row % 2 else "truth"
    ax.text(-3, 17 * row + 8, name, ha="right", va="center", fontsize=10, color=kit.INK)
ax.axvline(17 * 6 - 1, color=kit.ORANGE, lw=2)
ax.set_title("predicted frames 1 to 18; training used the frames left of the line", fontsize=11)
kit.save(drawn, "07_rollout")

x = judging.sequences(build.open_source(longer, "test"), 200)
(_, logits), _ = model.forward(asarray(x[:6]), T=18)
per_step = judging.loss_per_step(model.loss, logits, x[6:])
print("nats at predicted frames 1, 6, 12, 18:", *per_step[[0, 5, 11, 17]].round(1))
assert per_step[17] > per_step[5] > 0

# %% [markdown]
# The loss is lowest within the six frames of training. Beyond them it grows. Each state is slightly
# wrong, and the next state starts from it. At frame 18 the model draws a dim, blurred spot,
# sometimes in the wrong place, and the loss is no better than with an empty code.
#
# ## Two ways to start
#
# How does the decoder compute the first predicted frame? The authors' two code releases differ. The
# library has both ways:
#
# * `start="step"`: run one step of the decoder from the code, then read out a frame;
# * `start="read"`: read out the first frame from the code itself, then run the steps.
#
# ## Gradients from decoder to encoder
#
# In the backward pass the decoder returns the gradient of its start state, `dcode`: $dh$ *and* $dc$
# of every layer. The encoder takes it as the gradient of its final state. The encoder has no loss
# of its own, so everything that it learns comes from this gradient.

# %%
for start in ("step", "read"):
    tiny = FuturePredictor(4, 3, 2, np.random.default_rng(0), start=start)
    randomize(tiny, np.random.default_rng(1))  # all parameters, also biases and peepholes
    frames = np.random.default_rng(2).random((5, 2, 4))
    rows = check(Sample(tiny, (frames, None, 6)))  # past, future (None: free-running), T
    worst = max(row.complex for row in rows)
    print(f"start={start!r}: {len(rows)} gradients, largest error {worst:.0e}")
    assert all(row.passed for row in rows)

# %% [markdown]
# ## Break it on purpose
#
# Pass $dh$ to the encoder and forget $dc$.
#
# **Predict:** the encoder gets only half of the gradient of its code. Which gradients will the
# check find wrong, those of the encoder or those of the decoder?


# %%
class ForgetsTheCell(FuturePredictor):
    """Future predictor whose encoder does not get the decoder's dc."""

    def backward(self, doutputs, cache, want_dinputs=True):
        values = cache.consume()
        dcode, *_ = self.predict.backward(doutputs[1], values.decoders["predict"])
        dcode = tuple((dh, 0 * dc) for dh, dc in dcode)
        dpast, _ = self.encoder.backward(dcode, values.encoder)
        return dpast, None, None, None, None  # for past, future, T, feed_truth, masks

    @classmethod
    def sample(cls, rng):
        model = randomize(cls(4, 3, 2, rng), rng)
        return Sample(model, (rng.random((5, 2, 4)), None, 6))


wrong = [row.array for row in check(ForgetsTheCell.sample(np.random.default_rng(0)))
         if not row.passed]  # fmt: skip
print("wrong:", *wrong)
assert wrong and all(name.startswith("encoder") or name == "past" for name in wrong)

# %% [markdown]
# All gradients of the encoder are wrong, and none of the decoder. So the mistake is between the
# two.
#
# ## How large is the paper's model?
#
# It has 2048 units, frames of 64 x 64 = 4096 pixels, one encoder and two unconditional decoders
# (tutorial 10). The slides train it with one layer and with two. We count the parameters of the
# model with one layer. `Blank` builds a model without filling its memory.

# %%
paper = Composite(4096, 2048, 1, np.random.default_rng(0), init=Blank())
total = sum(param.value.size for param in paper.params().values())
lstm = 4 * 2048 * 2048 + 4 * 2048 + 3 * 2048  # recurrence, biases, peepholes
by_hand = (4096 * 4 * 2048 + lstm) + 2 * (lstm + 2048 * 4096 + 4096)
print(f"{total:,} parameters, {4 * total / 1e6:.0f} MB in float32")
assert total == by_hand and round(total / 1e6, 1) == 100.7

# %% [markdown]
# ## Exercises
#
# 1. How many arrays are in the code of a stack of two layers?
# 2. Why does a decoder without input not draw the same frame for ever?
# 3. Which weight matrix of this model is the largest?
#
# ### Answers
#
# 1. Four: $h$ and $c$ of both layers. Layer 1 of the decoder starts from layer 1 of the encoder,
#    and layer 2 from layer 2.
# 2. Its state changes, because $h_{t+1}$ depends on $h_t$ through `Wh`. The motion of the film is
#    in the state.
# 3. The encoder's input weights, $4096 \times 8192$. They are a third of all parameters of the
#    model with one layer, and a sixth with two layers (201.4 million parameters).

# %%
assert max(param.value.size for param in paper.params().values()) == 4096 * 8192
assert 4096 * 8192 > total / 3.1

# %% [markdown]
# **In the library:** [models/encoder.py](../minilstm/models/encoder.py) `Encoder`;
# [models/decoder.py](../minilstm/models/decoder.py) `Decoder`;
# [models/composite.py](../minilstm/models/composite.py) `FuturePredictor`;
# [stack.py](../minilstm/layers/stack.py). **Next:** 08, the input at each time step.
