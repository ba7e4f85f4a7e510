# %% [markdown]
# # 14 · Find the faults that training hides
#
# *Slides: none. This tutorial is about the authors' published code.*
#
# * **You will do:** take faults that were found in the published code of the paper, and build them
#   into a model. See that each faulty model still trains, and find each fault by a check.
# * **You will learn:** which checks find which faults, and why the *whole* model is checked, with
#   random states and no parameter at zero.
# * **You need:** tutorials 02, 07 and 10.
#
# ![which check finds which fault](images/14_who_sees.png)
#
# The picture shows three faults and five ways to look for them. Looking at a falling loss finds
# none of the three.
#
# The authors published their code in 2015 and in 2016, which many authors did not. Their results
# are not in question. Such faults happen to everybody. This is why checks are needed.

# %%
import kit
import numpy as np

from minilstm import (
    SGD,
    Composite,
    Decoder,
    Encoder,
    Init,
    PeepholeLSTM,
    RMSProp,
    Sample,
    asarray,
    clip_norm,
    schedule,
    set_backend,
    use_backend,
)
from minilstm.checker import analytic_gradients
from minilstm.evaluation import judging
from minilstm.gradcheck import check
from minilstm.layers import cells
from minilstm.layers.layer import Flat
from minilstm.layers.samples import randomize
from minilstm.runs import build
from minilstm.training.batches import draw_batch
from minilstm.training.step import training_step

set_backend("numpy", "float64")


def wrong(sample):
    """Return the names of the gradients that the check finds wrong."""
    return {row.array for row in check(sample) if not row.passed}


# %% [markdown]
# ## Fault 1: one decoder's gradient overwrites the other's
#
# The composite model has two decoders and one code. In the backward pass each decoder returns a
# gradient of the code. The two gradients must be **added**, $dh$ and $dc$ alike:
#
# $$dh = dh_\text{rec} + dh_\text{fut}, \qquad dc = dc_\text{rec} + dc_\text{fut}.$$
#
# The 2016 code adds $dh$, but it *assigns* $dc$. So the $dc$ of the second decoder overwrites the
# $dc$ of the first.
#
# **Predict:** in a composite model the dc of one decoder overwrites the dc of the other. The
# encoder and each decoder are checked alone, and are right. What does the check of the whole model
# say?


# %%
class OneOverwrites(Composite):
    """Composite model of the 2016 code: dc is assigned where it should be added."""

    def backward(self, doutputs, cache, want_dinputs=True):
        values = cache.consume()
        reconstruction, *_ = self.reconstruct.backward(doutputs[0], values.decoders["reconstruct"])
        future, *_ = self.predict.backward(doutputs[1], values.decoders["predict"])
        dcode = tuple((r[0] + f[0], f[1]) for r, f in zip(reconstruction, future, strict=True))
        dpast, _ = self.encoder.backward(dcode, values.encoder, want_dinputs)
        return dpast, None, None, None, None

    @classmethod
    def sample(cls, rng):
        model = randomize(cls(4, 3, 1, rng), rng)
        return Sample(model, (rng.random((5, 2, 4)), None, 6))  # past, future (none given), T


parts = wrong(Encoder.sample(np.random.default_rng(0))) | wrong(
    Decoder.samples(np.random.default_rng(0))["unconditional step"]
)
whole = wrong(OneOverwrites.sample(np.random.default_rng(0)))
right = wrong(Composite.samples(np.random.default_rng(0))["none step"])
print("wrong gradients")
print("   encoder and decoder alone:    ", sorted(parts))
print("   composite model, this library:", sorted(right))
print("   composite model, 2016 code:    ", sorted(whole))
assert parts == set() and right == set()
assert whole and all(name.startswith("encoder") or name == "past" for name in whole)

# %% [markdown]
# Each part is right, but their sum is wrong. So the library also checks whole models.
#
# How large is the error? We compare the two gradients for the same model and the same film.

# %%
model = OneOverwrites.sample(np.random.default_rng(1))
inputs = dict(zip(("past", "future", "T"), model.inputs, strict=True))
inputs |= {"feed_truth": False, "masks": None}  # all inputs of `forward`, by name
published, _ = analytic_gradients(model.layer, inputs, "float64")
model.layer.__class__ = Composite  # the same weights, the right backward pass
correct, _ = analytic_gradients(model.layer, inputs, "float64")
for name in ("encoder.0.Wx", "encoder.0.Wh", "predict.readout.W"):
    off = np.linalg.norm(published[name] - correct[name]) / np.linalg.norm(correct[name])
    print(f"{name:<20} relative error of the published gradient: {off:.0%}")
    assert off > 0.1 if name.startswith("encoder") else off < 1e-12

# %% [markdown]
# The model still trains. We train two models with the same start weights and the same films. Only
# their backward passes differ.
#
# **Predict:** one composite model trains with the right gradient, and one with the wrong dc. How do
# their losses differ after training?

# %%
settings = kit.small(100 if kit.FAST else 600, model={"kind": "composite"})
source = build.open_source(settings, "train")
x = judging.sequences(build.open_source(settings, "test"), 200)
mean = judging.loss_of_mean_image(
    build.build_loss(settings), judging.mean_image(settings, 400), x[6:]
)


def trained(kind, cell=PeepholeLSTM):
    """Train a composite model of class `kind`, its LSTMs of class `cell`. Return its loss.

    The loss is that of the predicted frames, in nats per frame.
    """
    with use_backend("numpy", "float32"):
        model = build.build_model(settings, 256)
        model.__class__ = kind
        for stack in (model.encoder, model.reconstruct.stack, model.predict.stack):
            stack.layers[0].__class__ = cell
        build.start_readouts(model, judging.mean_image(settings, 400))
        optimizer, rate = build.build_optimizer(model, settings), build.build_schedule(settings)
        for k in range(settings.run.steps):
            batch = draw_batch(source, settings, k)
            training_step(model, optimizer, batch, settings, rate(k))
        (_, logits), _ = model.forward(asarray(x[:6]), T=6)
        return judging.loss_per_step(model.loss, logits, x[6:]).mean()


losses = {"right": trained(Composite), "as published": trained(OneOverwrites)}
print(f"nats per frame: mean image {mean:.1f}   ",
      *(f"{name} {value:.2f}   " for name, value in losses.items()))  # fmt: skip
assert max(losses.values()) < 0.9 * mean  # both learn

# %% [markdown]
# Both models learn. If you had seen only the second number, you would have been content. **No
# learning curve shows this fault.**
#
# ## Fault 2: every unit uses the peephole of unit 0
#
# Peepholes are diagonal: unit 5 sees its own cell state through its own weight. In the backward
# pass of the 2015 code every unit uses the peephole weight of unit **0**.


# %%
class UnitZeroForAll(PeepholeLSTM):
    """LSTM whose backward pass uses the peepholes of unit 0 for every unit."""

    def slopes(self, run, scratch):
        Wp = self.peepholes()
        first = np.repeat(Wp[:, :1], self.H, axis=1)
        a, h, c = run.a, run.h, run.c
        cells.lstm_slopes(a, c[:-1], first, c[1:], h[1:], run.h_to_c, run.c_to_c, scratch)


# %% [markdown]
# **Predict:** in the backward pass every unit uses the peephole of unit 0. We check the layer in
# three ways: with a single unit; with all peepholes at zero, as at the start of the paper's
# training; with everything random. Which of the three checks can find the fault?


# %%
def of_size(kind, H, peepholes):
    """Return a sample with H units. Its random peepholes are multiplied by `peepholes`, 0 or 1."""
    rng = np.random.default_rng(2)
    layer = randomize(kind(3, H, rng, Init()), rng)
    layer.Wp.value *= peepholes
    state = tuple(rng.standard_normal((2, 2, H)))
    return Sample(layer, (rng.standard_normal((5, 2, 3)), state))


one_unit = wrong(of_size(UnitZeroForAll, 1, peepholes=1))
at_zero = wrong(of_size(UnitZeroForAll, 4, peepholes=0))
at_random = wrong(of_size(UnitZeroForAll, 4, peepholes=1))
for name, names in (("one unit", one_unit), ("at zero", at_zero), ("at random", at_random)):
    print(f"check {name:<10} finds wrong:", *(sorted(names) or ["nothing"]))
assert one_unit == at_zero == set()
assert {"Wx", "Wh", "Wp", "b"} <= at_random

# %% [markdown]
# A check with one unit can't find it, because this unit *is* unit 0. Nor can a check with peepholes
# at zero, because then all are equal. So there is a rule for every `sample`: all sizes are
# different, there are at least three time steps, and all states, peepholes and biases are random.
#
# The same release had a second fault at the same place. Two calls were in the wrong order, so the
# gradient of the peepholes was always zero. The peepholes never learned.


# %%
class PeepholesNeverLearn(PeepholeLSTM):
    """LSTM whose gradient of the peepholes is always zero."""

    def accumulate(self, run):
        super().accumulate(run)
        self.Wp.grad[...] = 0


never = {H: wrong(of_size(PeepholesNeverLearn, H, peepholes=1)) for H in (1, 4)}
never_at_zero = wrong(of_size(PeepholesNeverLearn, 4, peepholes=0))
print("every check finds wrong:", *never[4])
assert never[1] == never[4] == never_at_zero == {"Wp"}

# %% [markdown]
# With either fault the model still trains:

# %%
for kind in (UnitZeroForAll, PeepholesNeverLearn):
    losses[kind.__name__] = trained(Composite, cell=kind)
    print(f"nats per frame: mean image {mean:.1f}, {kind.__name__} {losses[kind.__name__]:.2f}")
assert max(losses.values()) < 0.9 * mean

faults = {
    "dc overwritten": [False, False, False, False, True],
    "unit 0 for all": [False, bool(one_unit), bool(at_zero), bool(at_random), True],
    "peepholes never learn": [False, bool(never[1]), bool(never_at_zero), bool(never[4]), True],
}
ways = ["does the loss fall?", "layer, one unit", "layer, zeros", "layer, random", "model, random"]
drawn, ax = kit.figure(8, 2.6)
seen = np.array(list(faults.values()))
ax.imshow(np.where(seen[..., None], (0.0, 0.62, 0.45), (0.88, 0.88, 0.88)), aspect="auto")
for (row, column), caught in np.ndenumerate(seen):
    ax.text(column, row, "found" if caught else "not found", ha="center", va="center",
            color="white" if caught else kit.INK)  # fmt: skip
ax.set_xticks(range(5), ways)
ax.set_yticks(range(3), list(faults))
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
kit.save(drawn, "14_who_sees", show=False)

# %% [markdown]
# ## Break it on purpose
#
# The last column of the picture says that a check of the whole model also finds the two faults of
# the peepholes. Build each faulty layer into a composite model and run the check.

# %%
for kind in (UnitZeroForAll, PeepholesNeverLearn):
    rng = np.random.default_rng(3)
    broken = randomize(Composite(4, 3, 1, rng, cell=kind), rng)
    found = wrong(Sample(broken, (rng.random((5, 2, 4)), None, 6)))
    print(f"{kind.__name__}: {len(found)} gradients of the composite model are wrong")
    assert "encoder.0.Wp" in found

# %% [markdown]
# ## Faults that no gradient check can find
#
# The check compares a gradient with its function. If the *function* is not what you meant, the
# check finds nothing. If the gradient is *used* in a wrong way, the check finds nothing either.
# Here are three such faults. Each was found by arithmetic.
#
# **A learning rate that never decays.** Both releases compute a decayed learning rate and then use
# another variable. After 17,000 steps the learning rate should have been:

# %%
decayed = schedule("exponential", 1e-3, decay_factor=0.9, decay_every=10_000)
print(f"decayed learning rate: {decayed(17_000):.1e}   used learning rate: 1.0e-03")
assert np.isclose(decayed(17_000), 0.9e-3)

# %% [markdown]
# **A limit for each element in place of the norm.** A setting called `gradient_clip` does not limit
# the norm of the gradient. It limits every element of the *update*. This changes the direction of
# the update.
#
# **Predict:** the gradient is (3, 0.01, -4). What is left of it if its norm is limited to 1? What
# is left if every element of the update is limited to 0.001?

# %%
dw = np.array([3.0, 0.01, -4.0])
clipped = dw.copy()
norm = clip_norm(clipped, 1.0)
weights = Flat(np.zeros(3), dw.copy(), 3)
SGD(weights, momentum=0, clamp_update=1e-3).step(learning_rate=1.0)
print("after clip_norm:   ", clipped.round(3), "  the norm was", norm)
print("after clamp_update:", -weights.value)


def cosine(a, b):
    """Return the cosine of the angle between a and b: 1 if their directions agree."""
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


assert np.isclose(cosine(dw, clipped), 1)
assert cosine(dw, -weights.value) < 0.85

# %% [markdown]
# The small element was 300 times smaller than the others, and now it is as large as they are. (In
# the library these are two settings with two names, `clip_norm` and `clamp_update`.)
#
# **A division by zero that comes later.** RMSProp divides by $\sqrt s$, where $s$ is a running mean
# of squared gradients. The 2015 code adds no $\epsilon$. If the gradient of a weight stays zero,
# its $s$ is multiplied by 0.95 at every step. In float32, numbers below 1.2e-38 have less than full
# precision. Many processors, including GPUs, can round them to zero.
#
# **Predict:** let s start at 1 and be multiplied by 0.95 at every step. Below 1.2e-38 it may be
# rounded to zero, and 0 / 0 is NaN. After how many steps is this possible?

# %%
s, silent, factor = np.float32(1), 0, np.float32(0.95)
while s >= np.finfo(np.float32).tiny:
    s, silent = s * factor, silent + 1
print(f"after {silent} steps with gradient zero s = {s:.1e}, which may be rounded to 0")
with np.errstate(invalid="ignore"):
    quotient = np.float32(0) / np.sqrt(np.float32(0))
assert 1000 < silent < 2000 and np.isnan(quotient)

weights = Flat(np.zeros(1, np.float32), np.zeros(1, np.float32), 1)
optimizer = RMSProp(weights, epsilon=0.0)
for _ in range(2 * silent):
    optimizer.step(1e-3)
print(f"0 / sqrt(0) = {quotient}; the weight in this library, without epsilon: {weights.value[0]}")
assert np.isfinite(weights.value).all() and optimizer.state["mean_square"][0] > 0

# %% [markdown]
# A published training log of that code ends in NaN after 17,000 steps. Perhaps one weight had a
# zero gradient in as many steps in a row as the cell printed. (This library keeps $s$ far above
# 1.2e-38.)
#
# ## Exercises
#
# 1. Why does the check of the future predictor alone not find fault 1?
# 2. Fault 1 does no harm if one of the two losses has weight 0. Which one?
# 3. Invent a fault in `Linear.backward` that a check with batch size 1 does not find.
#
# ### Answers
#
# 1. It has one decoder. With one gradient there is nothing to add, so `=` and `+=` give the same.
# 2. The loss of the first decoder, which reconstructs. Its $dc$ is then zero, so nothing is lost
#    when it is overwritten.
# 3. `db = dy[0]` in place of the sum over the batch. With one sequence in the batch both are equal.

# %% [markdown]
# **In the library:** [checker.py](../minilstm/checker.py) `layer_classes`, which finds every
# layer; [tests/test_gradients.py](../tests/test_gradients.py), which shows that the check finds
# these three faults and thirty others; [optim.py](../minilstm/optim.py)
# `clip_norm`, `Optimizer`, `RMSProp`. **Next:** 15, the same code on a GPU.
