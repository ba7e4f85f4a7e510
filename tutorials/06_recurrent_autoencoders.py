# %% [markdown]
# # 06 · Rebuild a film from one code
#
# *Slides: "Recurrent AutoEncoders?".*
#
# * **You will do:** write the training loop that all later tutorials use, and squeeze films of six
#   frames into the state of an LSTM.
# * **You will learn:** where the code of a film is, why the paper rebuilds it backwards, and what
#   the deck's question mark is about.
# * **You need:** tutorials 03 and 05.
#
# ![films through codes of different sizes](images/06_codes.png)
#
# A film that the network never saw, and what came back through states of 4, 16 and 64 units.

# %%
import kit
import numpy as np

from minilstm import Autoencoder, asarray
from minilstm.evaluation import judging, metrics
from minilstm.runs import build
from minilstm.training.batches import draw_batch

# %% [markdown]
# ## Two LSTMs and a hand-over
#
# One LSTM, the *encoder*, watches the film. After the last frame we take its state $(h, c)$ and
# forget everything else. A second LSTM, the *decoder*, starts from that state and gets **no input
# at all**. At each step a linear layer reads a frame out of it:
#
# $$(h, c) = \text{encoder}(x_1, \dots, x_T), \qquad
#   z_T, z_{T-1}, \dots, z_1 = \text{decoder}(h, c), \qquad \hat x_t = \operatorname{sig}(z_t)$$
#
# Note the order: last frame first. The target is the film in reverse.
#
# ## The training loop, all of it
#
# The library's own command does this with logs and checkpoints. Here are its working parts. The
# data are those of tutorial 01: one digit, drifting over 16 x 16 pixels.


# %%
def train_autoencoder(hidden, steps, past=6, backwards=True, seed=0):
    """Train on random films; return the model and its settings."""
    settings = kit.small(
        steps,
        model={"kind": "autoencoder", "hidden": hidden},
        data={"past": past, "future": 1},
        run={"steps": steps, "batch_size": 32, "seed": seed},
    )
    source = build.open_source(settings, "train")  # an endless supply of films
    rate = build.build_schedule(settings)  # the learning rate as a function of the step
    model = build.build_model(settings, D=256)
    build.start_readouts(model, judging.mean_image(settings, 400))
    optimizer = build.build_optimizer(model, settings)
    for k in range(steps):
        x = draw_batch(source, settings, k).past  # (T, B, D), in [0, 1]
        (logits, _), cache = model.forward(x, T=1)
        loss, loss_cache = model.loss.forward(logits, x[::-1] if backwards else x)
        dlogits, _ = model.loss.backward(1.0, loss_cache)
        model.zero_grad()
        model.backward((dlogits, None), cache, want_dinputs=False)
        optimizer.step(rate(k))
        if k % (steps // 3) == 0:
            print(f"   H = {hidden}, step {k:>4}: {loss:.1f} nats per frame")
    return model, settings


def films(settings, N=200):
    """N films of digits that training never used: (T, N, D)."""
    return judging.sequences(build.open_source(settings, "test"), N)[: settings.data.past]


def judged(model, x, backwards=True):
    """Nats per frame on films x."""
    (logits, _), _ = model.forward(x, T=1)
    return judging.loss_per_step(model.loss, logits, x[::-1] if backwards else x).mean()


steps = 200 if kit.FAST else 800
models = {hidden: train_autoencoder(hidden, steps) for hidden in (4, 16, 64)}

# %% [markdown]
# **Predict:** a film is 6 x 256 = 1536 pixels. The code of an LSTM of $H$ units is $2H$ numbers.
# What will 8, 32 and 128 numbers be able to say: where the digit is, how it moves, which one it is?

# %%
_, settings = models[4]
x = films(settings)
mean = metrics.mean_image_loss(judging.mean_image(settings, 400), x).mean()
losses = {hidden: judged(model, x) for hidden, (model, _) in models.items()}
print(f"the mean image, whatever the film: {mean:.1f} nats per frame")
for hidden, loss in losses.items():
    print(f"H = {hidden:>2}, a code of {2 * hidden:>3} numbers:     {loss:.1f}")
print(f"nobody can get below:              {metrics.entropy_bound(x).mean():.1f}")
assert mean > losses[4] > losses[16] > losses[64] > metrics.entropy_bound(x).mean()

rows = [x[:, 3]] + [model.reconstruction(x)[:, 3] for model, _ in models.values()]
drawn, ax = kit.figure(8, 5.2)
kit.pictures(ax, np.stack(rows), (16, 16))
for row, name in enumerate(("film", "H = 4", "H = 16", "H = 64")):
    ax.text(-3, 17 * row + 8, name, ha="right", va="center", fontsize=12, color=kit.INK)
kit.save(drawn, "06_codes")

# %% [markdown]
# Place first, motion next, shape last: a code spends its numbers where the loss is largest. (The
# baselines, and what a nat is, come in tutorial 09.)
#
# ## Why backwards?
#
# The encoder's last frame is freshest in its state. Decoding in reverse, that frame is needed
# *first*, and the distance from seeing a frame to drawing it is 1 step for the last one. In forward
# order it is $T$ steps for every frame. Short distances learn first; tutorial 05 showed why.
#
# **Predict:** same network, same films of twelve frames, same number of steps. Who is ahead?

# %%
few = 200
seeds = (0,) if kit.FAST else (0, 1, 2)
orders = {True: [], False: []}
for seed in seeds:
    for backwards, found in orders.items():
        model, settings = train_autoencoder(64, few, past=12, backwards=backwards, seed=seed)
        found.append(judged(model, films(settings), backwards))
print("backwards:", *(f"{value:.2f}" for value in orders[True]))
print("forwards: ", *(f"{value:.2f}" for value in orders[False]))
assert all(b < f for b, f in zip(orders[True], orders[False], strict=True))

# %% [markdown]
# Backwards wins, each time, but not by much. These films are simple: once the code has place and
# motion, the decoder can draw the frames in either order.
#
# ## The question mark
#
# Tutorial 03 ended with a trap: an autoencoder that is wide enough may copy, and learn nothing. Can
# a recurrent one copy? Its state has fixed size, while films may have any length, so a long film
# can't be stored. But *short* films and *large* states can: 6 x 256 pixels fit easily into the 4096
# numbers of the paper's network.
#
# A test that tells: give it films of white noise. A copier would return them.

# %%
model, _ = models[64]
noise = np.random.default_rng(0).random((6, 50, 256), np.float32)
back = model.reconstruction(noise)
digits = np.abs(model.reconstruction(x) - x).mean()
print(f"error per pixel: {np.abs(back - noise).mean():.2f} on noise, {digits:.3f} on digits")
assert np.abs(back - noise).mean() > 4 * digits

# %% [markdown]
# Ours is no copier; it knows digits. The paper's second answer to the question mark is to ask for
# something that no copy can give: the *future*. That is tutorials 07 and 10.
#
# ## Break it on purpose: a fault that no gradient check can find
#
# Train backwards, but judge forwards, as if someone forgot the reversal in one place.
#
# **Predict:** will the gradient check catch it?

# %%
forgot = judged(model, x, backwards=False)
print(f"right order {losses[64]:.1f}, wrong order {forgot:.1f}, mean image {mean:.1f}")
assert forgot > losses[64] + 1

# %% [markdown]
# It cannot. Every gradient is exactly that of the loss that was written down; the *loss* is wrong.
# What catches it is judging: a number beside baselines, and a look at the picture. That is why
# tutorial 09 exists.
#
# ## Exercises
#
# 1. The decoder has no input. What are the shapes of its input weights `Wx`?
# 2. Where in the loop above does the digit's *label* enter?
# 3. Rebuild a film of 12 frames with the model trained on 6. What do you expect?
#
# ### Answers
#
# 1. `(0, 4H)`: width zero, so no special case is needed anywhere. Checked below.
# 2. Nowhere. The film is its own target: this is unsupervised learning.
# 3. It draws the last frames and then makes something up. It has never had to keep more than six.

# %%
assert model.reconstruct.stack.layers[0].Wx.value.shape == (0, 4 * 64)
assert isinstance(model, Autoencoder)
long, _ = model.forward(asarray(films(kit.small(1, data={"past": 12, "future": 1}))), T=1)
assert long[0].shape == (12, 200, 256)

# %% [markdown]
# **In the library:** [models/composite.py](../minilstm/models/composite.py) `Autoencoder`,
# `Encoder`, `Decoder`; [step.py](../minilstm/training/step.py) `training_step` is the loop's body.
# **Next:** 07, the hand-over itself.
