# %% [markdown]
# # 10 · Predict the future: why composite, why conditional
#
# *Slides: "Predicting The Future".*
#
# * **You will do:** train an autoencoder, a future predictor and their composite, and test what
#   each code contains. Then use a decoder's own output as its input, and see its errors grow.
# * **You will learn:** the answers to two questions of the slides: why a composite model, and why a
#   conditional decoder. You will also learn the price of a conditional decoder, which is called
#   exposure bias.
# * **You need:** tutorials 07 and 09.
#
# ![the same decoder, teacher-forced and free-running](images/10_exposure_bias.png)
#
# The picture shows one trained model, evaluated in two ways. Teacher-forced, it gets the true
# previous frame before each frame that it draws. Then it is as good at the sixth frame as at the
# second. Free-running, it gets its own previous frame, and its errors grow.

# %%
import kit
import numpy as np

from minilstm.data import as_vectors, draw_frames, load_digits, resize_digits, trajectories
from minilstm.evaluation import judging
from minilstm.figures import curves
from minilstm.gradcheck import check
from minilstm.layers.layer import Sample
from minilstm.layers.samples import randomize
from minilstm.models import Composite

kit.save_diagram("composite", "10_composite")
kit.save_diagram("conditional", "10_conditional")

# %% [markdown]
# ## Why a composite model?
#
# The slides leave this question open. The paper's answer has two parts:
#
# * An **autoencoder** stores what helps to draw the past again. It has no reason to store what is
#   needed to *continue* the film.
# * A **future predictor** has no reason to store the past. The last frames and the motion are
#   enough, so it may forget the rest.
#
# A composite model does both tasks from *one* code, so the code must be good for both:
#
# $$L = L_\text{reconstruction} + L_\text{future}.$$
#
# ![the composite model: one encoder and two decoders, whose gradients add](images/10_composite.png)
#
# We can test what the codes contain. As in tutorial 01 we use a linear probe. Here it draws a frame
# from the code: the *first* frame of the past, or a *future* frame, three steps ahead. The encoder
# of all three models has only 32 units, so there is not room for everything.
#
# **Predict:** a linear probe draws a frame from the code of an autoencoder, of a future predictor
# and of a composite model. Which code is best for the first frame of the past? Which is best for a
# future frame? Where is the composite model?

# %%
rng = np.random.default_rng(0)
digits = resize_digits(load_digits(split="test")[0], 8)
corners = trajectories(rng, 1000, 12, 8)  # (12, 1000, 2)
x = as_vectors(draw_frames(digits[:, None], corners[:, :, None], 16))  # (12, 1000, 256)
past, future = x[:6], x[6:]  # (6, 1000, 256) each


def readable(model, frame):
    """Return R^2: the share of a frame's variance that a linear probe explains on new films."""
    ((h, c),), _ = model.encoder.forward(past)
    code = np.concatenate([h, c, np.ones((1000, 1))], axis=1).astype(float)
    fit, test = slice(0, 700), slice(700, None)
    ridge = 0.3 * np.eye(code.shape[1])
    W = np.linalg.solve(code[fit].T @ code[fit] + ridge, code[fit].T @ frame[fit])
    error = ((frame[test] - code[test] @ W) ** 2).sum()
    return 1 - error / ((frame[test] - frame[fit].mean(0)) ** 2).sum()


steps = 150 if kit.FAST else 800
codes = {}
print("R^2 of a probe   first frame   three steps ahead")
for kind in ("autoencoder", "predictor", "composite"):
    model = kit.learn(kit.small(steps, model={"kind": kind, "hidden": 32}))
    codes[kind] = readable(model, past[0]), readable(model, future[2])
    print(f"{kind:<17}{codes[kind][0]:11.3f}{codes[kind][1]:20.3f}")

drawn, axes = kit.figure(8, 2.4, columns=2, sharey=True, sharex=True)
for k, (ax, name) in enumerate(zip(axes, ("the first frame", "three steps ahead"), strict=True)):
    ax.barh(list(codes), [value[k] for value in codes.values()],
            color=[kit.ORANGE, kit.GREEN, kit.BLUE])  # fmt: skip
    ax.set_xlabel(f"R², {name}")
axes[0].invert_yaxis()
kit.save(drawn, "10_codes")

assert codes["autoencoder"][0] > codes["predictor"][0]  # its code contains more of the past
assert codes["predictor"][1] > codes["autoencoder"][1] + 0.03  # its code: more of the future
# the composite's code: more of the future than the autoencoder's, more of the past than the
# predictor's
assert codes["composite"][1] > codes["autoencoder"][1] + 0.03
assert codes["composite"][0] > codes["predictor"][0] + 0.01

# %% [markdown]
# The code of the autoencoder contains more of the past than the code of the predictor, and less of
# the future. The composite model is about as good as the better of the two in each task. For the
# first frame the differences are small, because these films are simple: position and motion are
# enough for both tasks. In Table 2 the composite model gains 5 nats over the future predictor
# (344.9 against 350.2).
#
# ## Why a conditional decoder?
#
# An unconditional decoder draws all frames from its state alone. A *conditional* decoder also gets
# the previous frame as input. The paper has an argument **for** it: several futures may be
# possible. A decoder that sees the frame that it has just drawn knows which future it has begun. A
# decoder that does not see it must draw the average of all futures. The paper also has an argument
# **against** it: neighbouring frames are nearly equal. So a decoder that gets the true previous
# frame learns to copy it. Little gradient is left to teach the code what later frames need.
#
# There is one more problem. In training the decoder gets the *true* previous frame. This is called
# *teacher forcing*. After training, when the decoder predicts a real future, the true frame is not
# known. So the decoder gets its own output. This is called *free-running*:
#
# $$\text{teacher forcing: } x_{t-1} \to z_t \qquad\qquad
#   \text{free-running: } \hat x_{t-1} = s(z_{t-1}) \to z_t$$
#
# Before its first frame the decoder gets zeros.
#
# ![a conditional decoder in training and free-running](images/10_conditional.png)
#
# **Predict:** a conditional predictor was trained with teacher forcing. Draw two curves of its loss
# over the six predicted frames: one teacher-forced, one free-running.

# %%
models = {
    "unconditional": kit.small(steps, model={"kind": "predictor"}),
    "conditional": kit.small(steps, model={"kind": "predictor", "conditional": "future"}),
    "scheduled": kit.small(
        steps,
        model={"kind": "predictor", "conditional": "future"},
        feeding={"inputs": "scheduled", "truth_start": 1.0, "truth_end": 0.0, "truth_steps": steps},
    ),
}


def per_step(model, feed_truth):
    """Return the nats of each of the six predicted frames: teacher-forced, or free-running."""
    (_, logits), _ = model.forward(past, future, 6, feed_truth)
    return judging.loss_per_step(model.loss, logits, future)


free, forced = {}, {}
for name, settings in models.items():
    model = kit.learn(settings)
    free[name], forced[name] = per_step(model, False), per_step(model, True)
    print(f"{name:<15}free-running  ", *(f"{nats:6.1f}" for nats in free[name]))
    if name != "unconditional":
        print(f"{'':<15}teacher-forced", *(f"{nats:6.1f}" for nats in forced[name]))

kit.save_file(
    lambda path: curves.per_step_curve(
        {"teacher-forced": forced["conditional"], "free-running": free["conditional"]}, path
    ),
    "10_exposure_bias",
)

gap = free["conditional"] - forced["conditional"]
assert abs(gap[0]) < 1e-3  # at the first frame no previous frame is given in either case
assert all(gap[1:] > 0) and gap[5] > 2 * gap[1]

# %% [markdown]
# At the first frame both losses are equal, because there is no previous frame yet. Then the curves
# separate. This is **exposure bias**: in training the decoder never saw its own mistakes, so it did
# not learn to correct them. It may explain what users of the authors' code reported: *only the
# first predicted frame is sharp*.
#
# It is also the reason why a paper must say which of the two numbers it prints. Teacher-forced, our
# conditional model looks far better than the unconditional one. A fair comparison evaluates both
# models free-running.

# %%
for name in models:
    mean, first, last = free[name].mean(), free[name][0], free[name][-1]
    print(f"{name:<15} free-running: mean {mean:.2f}, first frame {first:.2f}, last {last:.2f}")
assert free["conditional"][0] < free["unconditional"][0]
assert free["conditional"][-1] > free["unconditional"][-1]

# %% [markdown]
# The conditional model is ahead at the first frame and behind at the last. On average the two are
# close here (18.95 against 19.14). In Table 2, at full size, the conditional model is ahead (343.5
# against 350.2).
#
# ## The remedy: scheduled sampling
#
# Begin training with true frames. Then, step by step, give the decoder its own frames more and more
# often. This is *scheduled sampling* (`--feeding scheduled`). For every frame and film, the library
# draws at random whether the decoder gets the true frame or its own. The gradient flows *through*
# the decoder's own frames.

# %%
gap_scheduled = free["scheduled"] - forced["scheduled"]
print("free-running minus teacher-forced, last frame, in nats:")
print(f"   trained with teacher forcing      {gap[-1]:.1f}")
print(f"   trained with scheduled sampling   {gap_scheduled[-1]:.1f}")
assert gap_scheduled[-1] < gap[-1]
assert free["scheduled"][-1] < free["conditional"][-1]

# %% [markdown]
# Scheduled sampling closes more than a third of the gap. At the last frame the model is now as good
# as the unconditional one (19.75 against 19.78).
#
# ## Break it on purpose
#
# When a decoder runs free, frame $t-1$ has two paths to the loss: through its own target, and
# through all frames that are drawn after it. Leave out the second path and run the gradient check.


# %%
class BlindToItself(Composite):
    """Composite model without the gradient through the future decoder's own frames."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.predict.loss.mean_backward = lambda dmean, mean: 0 * dmean

    @classmethod
    def sample(cls, rng):
        model = randomize(cls(4, 3, 1, rng, conditional="future"), rng)
        return Sample(model, (rng.random((5, 2, 4)), None, 6))  # past, future (none given), T


rows = check(BlindToItself.sample(np.random.default_rng(0)))
wrong = [row.array for row in rows if not row.passed]
print("wrong:", len(wrong), "of", len(rows), "gradients, for example", wrong[0])
right = [row.array for row in rows if row.passed]
assert wrong and all(name.startswith("reconstruct") for name in right)

# %% [markdown]
# Everything is wrong except the decoder for the reconstruction. That decoder does not use its own
# output as input.
#
# ## Exercises
#
# 1. Train the conditional model with `feeding={"inputs": "own"}` from the start. What becomes
#    better, and what becomes worse?
# 2. For scheduled sampling, `forward` has an *input* `feed_truth`, and the training loop draws it.
#    Why is it not drawn inside `forward`?
# 3. The paper found that a conditional decoder gives no clear gain for recognising actions. Which
#    of the two arguments above does this support?
#
# ### Answers
#
# 1. The gap should close, because training is now like the test. Learning may be slower at first:
#    the early outputs are blurred, and blurred frames teach little about digits.
# 2. So that `forward` is a function of its inputs. The gradient check calls it hundreds of times
#    and needs the same choices in each call. A resumed run needs the same choices, too.
# 3. The argument against: the decoder relies on the previous frame, so the code learns less.
#
# **In the library:** [models/composite.py](../minilstm/models/composite.py) `Composite`;
# [models/feedback.py](../minilstm/models/feedback.py), the free-running decoder;
# [batches.py](../minilstm/training/batches.py) `draw_feeding`. **Next:** 11, pictures of what a
# model learned.
