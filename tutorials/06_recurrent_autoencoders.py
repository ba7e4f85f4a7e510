# %% [markdown]
# # 06 · Rebuild a film from one code
#
# *Slides: "Recurrent AutoEncoders?".*
#
# * **You will do:** write the training loop that all later tutorials use, and compress films of six
#   frames into the state of an LSTM.
# * **You will learn:** which numbers are the code of a film, why the paper reconstructs a film
#   backwards, and why the slides put a question mark here.
# * **You need:** tutorials 03 and 05.
#
# ![films through codes of different sizes](images/06_codes.png)
#
# Top row: a film that the network did not see in training. The rows below: its reconstruction by
# networks with 4, 16 and 64 units.

# %%
import kit
import numpy as np

from minilstm import Autoencoder, asarray
from minilstm.evaluation import judging, metrics
from minilstm.runs import build
from minilstm.training.batches import draw_batch

kit.save_diagram("autoencoder", "06_autoencoder")

# %% [markdown]
# ## Two LSTMs and one code
#
# One LSTM, the *encoder*, reads the film. After the last frame we keep its state $(h, c)$ and
# nothing else. This state is the *code*. A second LSTM, the *decoder*, starts from the code and
# gets **no input at all**. At each step a linear layer, the *readout*, computes the logits $z$ of a
# frame from the decoder's output. The sigmoid $s$ makes probabilities of them:
#
# $$(h, c) = \text{encoder}(x_1, \dots, x_T), \qquad
#   z_T, z_{T-1}, \dots, z_1 = \text{decoder}(h, c), \qquad \hat x_t = s(z_t)$$
#
# ![encoder and decoder of an autoencoder](images/06_autoencoder.png)
#
# Note the order: the last frame comes first. The target is the film in reverse order.
#
# ## The whole training loop
#
# `python -m minilstm.train` does the same, with logs and checkpoints. Here are its working parts.
# The films are small, so that they are learned in seconds: one digit on 16 x 16 pixels.


# %%
def train_autoencoder(hidden, steps, past=6, backwards=True, seed=0):
    """Train on random films. Return the model and its settings."""
    settings = kit.small(
        steps,
        model={"kind": "autoencoder", "hidden": hidden},
        data={"past": past, "future": 1},
        run={"steps": steps, "batch_size": 32, "seed": seed},
    )
    source = build.open_source(settings, "train")  # an endless supply of films
    rate = build.build_schedule(settings)  # the learning rate as a function of the step
    model = build.build_model(settings, D=256)
    build.start_readouts(model, judging.mean_image(settings, 400))  # biases: draw the mean image
    optimizer = build.build_optimizer(model, settings)
    for k in range(steps):
        x = draw_batch(source, settings, k).past  # (T, B, D), in [0, 1]
        (logits, _), cache = model.forward(x, T=1)  # T, the frames to predict, is not used here
        loss, loss_cache = model.loss.forward(logits, x[::-1] if backwards else x)
        dlogits, _ = model.loss.backward(1.0, loss_cache)
        model.zero_grad()
        model.backward((dlogits, None), cache, want_dinputs=False)  # no gradient of the films
        optimizer.step(rate(k))
        if k % (steps // 3) == 0:
            order = "backwards" if backwards else "forwards"
            print(f"   H = {hidden}, {order}, seed {seed}, step {k:>3}: {loss:.1f} nats per frame")
    return model, settings


def films(settings, N=200):
    """Return N test films (T, N, D). Their digits are not used in training."""
    return judging.sequences(build.open_source(settings, "test"), N)[: settings.data.past]


def judged(model, x, backwards=True):
    """Return the loss on films x (T, N, D), in nats per frame."""
    (logits, _), _ = model.forward(x, T=1)
    return judging.loss_per_step(model.loss, logits, x[::-1] if backwards else x).mean()


steps = 200 if kit.FAST else 800
models = {hidden: train_autoencoder(hidden, steps) for hidden in (4, 16, 64)}

# %% [markdown]
# **Predict:** a film has 6 x 256 = 1536 pixels, and an LSTM of H units has a code of 2H numbers.
# What can codes of 8, 32 and 128 numbers hold: the digit's position, its motion, its shape?

# %%
_, settings = models[4]
x = films(settings)
mean = metrics.mean_image_loss(judging.mean_image(settings, 400), x).mean()
losses = {hidden: judged(model, x) for hidden, (model, _) in models.items()}
print(f"mean image, the same for every film: {mean:.1f} nats per frame")
for hidden, loss in losses.items():
    print(f"H = {hidden:>2}, a code of {2 * hidden:>3} numbers:       {loss:.1f}")
print(f"entropy bound, the lowest possible:  {metrics.entropy_bound(x).mean():.1f}")
assert mean > losses[4] > losses[16] > losses[64] > metrics.entropy_bound(x).mean()

rows = [x[:, 3]] + [model.reconstruction(x)[:, 3] for model, _ in models.values()]
drawn, ax = kit.figure(8, 5.2)
kit.pictures(ax, np.stack(rows), (16, 16), names=("film", "H = 4", "H = 16", "H = 64"))
kit.save(drawn, "06_codes")

# %% [markdown]
# With H = 4 we see the position, with H = 64 also the motion. The shape is still blurred: it comes
# last. Training uses the numbers of the code for what reduces the loss most. (Tutorial 09 explains
# the baselines, and what a nat is.)
#
# ## Why backwards?
#
# The encoder read the last frame most recently. When the decoder works in reverse order, it needs
# this frame *first*. So there is only 1 step between reading the last frame and drawing it, and the
# first frame has $2T - 1$. In forward order every frame has $T$ steps. The average is the same, but
# short distances are easier to learn (tutorial 05).
#
# **Predict:** two networks train on the same films of twelve frames, for the same number of steps.
# One reconstructs the film backwards, the other forwards. Which has the lower loss?

# %%
few = 200
seeds = (0,) if kit.FAST else (0, 1, 2)
orders = {True: [], False: []}
for seed in seeds:
    for backwards, found in orders.items():
        model, settings = train_autoencoder(64, few, past=12, backwards=backwards, seed=seed)
        found.append(judged(model, films(settings), backwards))
print("nats per frame, by seed")
print("backwards:", *(f"{value:.2f}" for value in orders[True]))
print("forwards: ", *(f"{value:.2f}" for value in orders[False]))
assert all(b < f for b, f in zip(orders[True], orders[False], strict=True))

# %% [markdown]
# Backwards is better with every seed, by about 1 nat of 20. These films are simple: once the code
# holds position and motion, the decoder can draw the frames in either order.
#
# ## The question mark
#
# Tutorial 03 ended with a trap: an autoencoder whose code is too wide can copy its input and learn
# nothing. Can a recurrent autoencoder copy? Its code has a fixed size, and a film can have any
# length. So it can't store a long film. But it could store a *short* film in a *large* code: 6 x
# 256 = 1536 pixels fit easily into the code of one layer of 2048 units, the paper's size. That code
# has 2 x 2048 = 4096 numbers.
#
# White noise shows the difference, because noise has no structure. A network that copies would
# return the noise.

# %%
model, _ = models[64]
noise = np.random.default_rng(0).random((6, 50, 256), np.float32)
back = model.reconstruction(noise)
digits = np.abs(model.reconstruction(x) - x).mean()
print(f"mean error per pixel: {np.abs(back - noise).mean():.2f} on noise, {digits:.3f} on digits")
assert np.abs(back - noise).mean() > 4 * digits

# %% [markdown]
# Our network does not copy noise: black pictures would have an error of 0.50. It has learned about
# digits. But 1536 random pixels do not fit into its 128 numbers. Whether a code of 4096 numbers
# copies noise, this test can't say. The paper has a second answer to the question mark: ask for
# something that is not in the input, the *future*. Tutorials 07 and 10 do this.
#
# ## Break it on purpose: a mistake that no gradient check can find
#
# Train backwards, but compute the test loss forwards, as if someone forgot the reversal in one
# place.
#
# **Predict:** the test loss compares the reconstruction with the frames in the wrong order. Can the
# gradient check find this mistake?

# %%
forgot = judged(model, x, backwards=False)
print(f"nats per frame: right order {losses[64]:.1f}, wrong order {forgot:.1f}, "
      f"mean image {mean:.1f}")  # fmt: skip
assert forgot > losses[64] + 1

# %% [markdown]
# It can't. Every gradient is exactly the gradient of the loss in the code. But the *loss* is wrong.
# Two things find this mistake: comparing the number with baselines, and looking at the picture.
# Tutorial 09 is about both.
#
# ## Exercises
#
# 1. The decoder has no input. What shape do its input weights `Wx` have?
# 2. Where does the *label* of the digit enter the loop above?
# 3. Reconstruct a film of 12 frames with the model that was trained on 6. What do you expect?
#
# ### Answers
#
# 1. The shape is `(0, 4H)`. With width zero, no special case is needed anywhere. The next cell
#    checks it.
# 2. Nowhere. The film is its own target. This is unsupervised learning.
# 3. It draws the last frames, and then frames that are not in the film. In training it never had to
#    keep more than six frames.

# %%
assert model.reconstruct.stack.layers[0].Wx.value.shape == (0, 4 * 64)
assert isinstance(model, Autoencoder)
long, _ = model.forward(asarray(films(kit.small(1, data={"past": 12, "future": 1}))), T=1)
assert long[0].shape == (12, 200, 256)

# %% [markdown]
# **In the library:** [models/encoder.py](../minilstm/models/encoder.py) `Encoder`;
# [models/decoder.py](../minilstm/models/decoder.py) `Decoder`;
# [models/composite.py](../minilstm/models/composite.py) `Autoencoder`;
# [step.py](../minilstm/training/step.py) `training_step` is the loop's body. **Next:** 07, more
# about the code.
