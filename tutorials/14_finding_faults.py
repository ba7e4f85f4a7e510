# %% [markdown]
# # 14 · Find the faults that training hides
#
# *Slides: none. This is about what stands behind them, the authors' published code.*
#
# * **You will do:** plant faults that were found in the paper's own public code, watch each of them
#   train happily, and catch it.
# * **You will learn:** which checks see which faults; why the *whole* model is checked, with random
#   states and nothing zero.
# * **You need:** tutorials 02, 07 and 10.
#
# ![which check sees which fault](images/14_who_sees.png)
#
# Three faults, five ways to look. "Does the loss fall?" sees none of them.
#
# A word first. The authors published their code, which most did not, in 2015 and in 2016, and their
# results stand. These slips are of the kind that every one of us makes. That is the point.

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
    """The names of the gradients that the check finds wrong."""
    return {row.array for row in check(sample) if not row.passed}


# %% [markdown]
# ## Fault 1: one decoder's gradient overwrites the other's
#
# The composite has two decoders and one code. Backward, each returns a gradient of the code, and
# the two must **add**, $dh$ and $dc$ alike:
#
# $$dh = dh_\text{rec} + dh_\text{fut}, \qquad dc = dc_\text{rec} + dc_\text{fut}.$$
#
# The 2016 code adds $dh$, and *assigns* $dc$. The second decoder's overwrites the first's.
#
# **Predict:** every layer, the encoder and each decoder are checked on their own, and are right.
# What will the check of the whole say?


# %%
class OneOverwrites(Composite):
    """The composite of the 2016 code: dc is assigned where it should be added."""

    def backward(self, doutputs, cache, want_dinputs=True):
        run = cache.consume()
        reconstruction, *_ = self.reconstruct.backward(doutputs[0], run.decoders["reconstruct"])
        future, *_ = self.predict.backward(doutputs[1], run.decoders["predict"])
        dcode = tuple((r[0] + f[0], f[1]) for r, f in zip(reconstruction, future, strict=True))
        dpast, _ = self.encoder.backward(dcode, run.encoder, want_dinputs)
        return dpast, None, None, None, None

    @classmethod
    def sample(cls, rng):
        model = randomize(cls(4, 3, 1, rng), rng)
        return Sample(model, (rng.random((5, 2, 4)), None, 6))


parts = wrong(Encoder.sample(np.random.default_rng(0))) | wrong(
    Decoder.samples(np.random.default_rng(0))["unconditional step"]
)
whole = wrong(OneOverwrites.sample(np.random.default_rng(0)))
right = wrong(Composite.samples(np.random.default_rng(0))["none step"])
print("encoder and decoder alone: wrong", sorted(parts))
print("the library's composite:   wrong", sorted(right))
print("the 2016 composite:        wrong", sorted(whole))
assert parts == set() and right == set()
assert whole and all(name.startswith("encoder") or name == "past" for name in whole)

# %% [markdown]
# Each part is right; only their sum is wrong. So the library's check walks over whole models too.
#
# How wrong? Compare both gradients of the same model on the same film.

# %%
model = OneOverwrites.sample(np.random.default_rng(1))
inputs = dict(zip(("past", "future", "T"), model.inputs, strict=True))
inputs |= {"feed_truth": False, "masks": None}
published, _ = analytic_gradients(model.layer, inputs, "float64")
model.layer.__class__ = Composite  # the same weights, the right backward pass
correct, _ = analytic_gradients(model.layer, inputs, "float64")
for name in ("encoder.0.Wx", "encoder.0.Wh", "predict.readout.W"):
    off = np.linalg.norm(published[name] - correct[name]) / np.linalg.norm(correct[name])
    print(f"{name:<20}{off:.0%} off")
    assert off > 0.1 if name.startswith("encoder") else off < 1e-12

# %% [markdown]
# And yet it trains. Two models, same start, same films; only the backward pass differs.
#
# **Predict:** how much worse is the wrong one?

# %%
settings = kit.small(100 if kit.FAST else 600, model={"kind": "composite"})
source = build.open_source(settings, "train")
x = judging.sequences(build.open_source(settings, "test"), 200)
mean = judging.loss_of_mean_image(
    build.build_loss(settings), judging.mean_image(settings, 400), x[6:]
)


def trained(kind, cell=PeepholeLSTM):
    """Nats of the future after training a composite of this class, with cells of that class."""
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
print(f"mean image {mean:.1f}   ", *(f"{name} {value:.2f}   " for name, value in losses.items()))
assert max(losses.values()) < 0.9 * mean  # both learn

# %% [markdown]
# Both learn. Had you seen only the second number, you would have been content. **No learning curve
# would ever have shown this.**
#
# ## Fault 2: everybody sees unit 0's peephole
#
# Peepholes are diagonal: unit 5 sees its own cell through its own weight. In the backward pass of
# the 2015 code every unit uses the peephole of unit **0**.


# %%
class UnitZeroForAll(PeepholeLSTM):
    """Backward, each unit looks through the peephole of unit 0."""

    def slopes(self, run, scratch):
        Wp = self.peepholes()
        first = np.repeat(Wp[:, :1], self.H, axis=1)
        a, h, c = run.a, run.h, run.c
        cells.lstm_slopes(a, c[:-1], first, c[1:], h[1:], run.h_to_c, run.c_to_c, scratch)

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


# %% [markdown]
# **Predict:** three tests of this layer: one with a single unit; one with all peepholes at zero,
# where the paper starts; one with random everything. Which of them can see the fault?


# %%
def of_size(kind, H, peepholes):
    """A sample with H units, and peepholes random or zero."""
    rng = np.random.default_rng(2)
    layer = randomize(kind(3, H, rng, Init()), rng)
    layer.Wp.value *= peepholes
    state = tuple(rng.standard_normal((2, 2, H)))
    return Sample(layer, (rng.standard_normal((5, 2, 3)), state))


one_unit = wrong(of_size(UnitZeroForAll, 1, peepholes=1))
at_zero = wrong(of_size(UnitZeroForAll, 4, peepholes=0))
at_random = wrong(of_size(UnitZeroForAll, 4, peepholes=1))
for name, names in (("one unit", one_unit), ("at zero", at_zero), ("at random", at_random)):
    print(f"{name:<10} wrong:", *sorted(names))
assert one_unit == at_zero == set()
assert {"Wx", "Wh", "Wp", "b"} <= at_random

# %% [markdown]
# A test that starts from zeros and ones tests little. Hence the rule for every `sample`: all sizes
# different, at least three time steps, all states, peepholes and biases random.
#
# The same release had a second slip at the same place: two calls in the wrong order, so that the
# peepholes' own gradient was always zero. They never learned.


# %%
class PeepholesNeverLearn(PeepholeLSTM):
    """The gradient of the peepholes is always zero."""

    def accumulate(self, run):
        super().accumulate(run)
        self.Wp.grad[...] = 0

    @classmethod
    def sample(cls, rng):
        return super().sample(rng)


never = {H: wrong(of_size(PeepholesNeverLearn, H, peepholes=1)) for H in (1, 4)}
never_at_zero = wrong(of_size(PeepholesNeverLearn, 4, peepholes=0))
print("wrong:", never[4], "in every test")
assert never[1] == never[4] == never_at_zero == {"Wp"}

# %% [markdown]
# Both train as well, of course:

# %%
for kind in (UnitZeroForAll, PeepholesNeverLearn):
    losses[kind.__name__] = trained(Composite, cell=kind)
    print(f"mean image {mean:.1f}, {kind.__name__} {losses[kind.__name__]:.2f}")
assert max(losses.values()) < 0.9 * mean

faults = {
    "dc overwritten": [False, False, False, False, True],
    "unit 0 for all": [False, bool(one_unit), bool(at_zero), bool(at_random), True],
    "peepholes never learn": [False, bool(never[1]), bool(never_at_zero), bool(never[4]), True],
}
ways = ["does the loss fall?", "layer, one unit", "layer, zeros", "layer, random", "whole, random"]
drawn, ax = kit.figure(8, 2.6)
seen = np.array(list(faults.values()))
ax.imshow(np.where(seen[..., None], (0.0, 0.62, 0.45), (0.88, 0.88, 0.88)), aspect="auto")
for (row, column), caught in np.ndenumerate(seen):
    ax.text(column, row, "caught" if caught else "missed", ha="center", va="center",
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
# The last column claims that a check of the whole model sees the peepholes too. Put the broken
# layer into a composite, and see.

# %%
for kind in (UnitZeroForAll, PeepholesNeverLearn):
    rng = np.random.default_rng(3)
    broken = randomize(Composite(4, 3, 1, rng, cell=kind), rng)
    found = wrong(Sample(broken, (rng.random((5, 2, 4)), None, 6)))
    print(f"{kind.__name__}: {len(found)} gradients wrong")
    assert "encoder.0.Wp" in found

# %% [markdown]
# ## Faults that no gradient check can see
#
# The check compares a gradient with its function. If the *function* is not what you meant, or what
# is *done* with the gradient, the check is content. Three such faults, each found by arithmetic.
#
# **A learning rate that never decays.** Both releases compute a decayed rate, and then use the
# other variable. After 17,000 steps it should have been:

# %%
decayed = schedule("exponential", 1e-3, decay_factor=0.9, decay_every=10_000)
print(f"decayed: {decayed(17_000):.1e}   used: 1.0e-03")
assert np.isclose(decayed(17_000), 0.9e-3)

# %% [markdown]
# **A clip that is a clamp.** A setting called `gradient_clip` does not limit the gradient. It
# limits every element of the *update*. That turns the direction.
#
# **Predict:** a gradient of (3, 0.01, -4). What does each of the two leave of it?

# %%
dw = np.array([3.0, 0.01, -4.0])
clipped = dw.copy()
norm = clip_norm(clipped, 1.0)
weights = Flat(np.zeros(3), dw.copy(), 3)
SGD(weights, momentum=0, clamp_update=1e-3).step(learning_rate=1.0)
print("clip_norm:   ", clipped.round(3), "  norm was", norm)
print("clamp_update:", -weights.value)


def cosine(a, b):
    """1 where directions agree."""
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


assert np.isclose(cosine(dw, clipped), 1)
assert cosine(dw, -weights.value) < 0.85

# %% [markdown]
# The small element, 300 times smaller, now counts as much as the large ones. (In the library they
# are two settings with two names, `clip_norm` and `clamp_update`.)
#
# **A division by zero in waiting.** RMSProp divides by $\sqrt s$, a running mean of squared
# gradients. The 2015 code adds no $\epsilon$. If a unit is silent, its $s$ decays by 0.95 at every
# step. Numbers below 1.2e-38 have no full precision in float32, and many processors, GPUs among
# them, may flush them to zero.
#
# **Predict:** after how many silent steps is $s$ zero there, and $0 / 0$ NaN?

# %%
s, silent, factor = np.float32(1), 0, np.float32(0.95)
while s >= np.finfo(np.float32).tiny:
    s, silent = s * factor, silent + 1
print(f"after {silent} silent steps s = {s:.1e}: flushed to 0")
with np.errstate(invalid="ignore"):
    quotient = np.float32(0) / np.sqrt(np.float32(0))
assert 1000 < silent < 2000 and np.isnan(quotient)

weights = Flat(np.zeros(1, np.float32), np.zeros(1, np.float32), 1)
optimizer = RMSProp(weights, epsilon=0.0)
for _ in range(2 * silent):
    optimizer.step(1e-3)
print(f"0 / sqrt(0) = {quotient}; the library, also without epsilon: {weights.value[0]}")
assert np.isfinite(weights.value).all() and optimizer.state["mean_square"][0] > 0

# %% [markdown]
# A public training log of that code ends in NaN after 17,000 steps. This may be why.
#
# ## Exercises
#
# 1. Why does the check of the future predictor alone not see fault 1?
# 2. Fault 1 does no harm if one of the two losses has weight 0. Which one?
# 3. Invent a fault in `Linear.backward` that a check with batch size 1 misses.
#
# ### Answers
#
# 1. It has one decoder. With nothing to add, `=` and `+=` are the same.
# 2. The first decoder's, the reconstruction. Its $dc$ is zero then, and nothing is lost by
#    overwriting it.
# 3. `db = dy[0]` in place of the sum over the batch. With one row they agree.

# %% [markdown]
# **In the library:** [checker.py](../minilstm/checker.py) `layer_classes` (finds every layer by
# itself); [tests/test_gradients.py](../tests/test_gradients.py), where these faults and two dozen
# others are planted; [optim.py](../minilstm/optim.py) `clip_norm`, `Optimizer`, `RMSProp`.
# **Next:** 15, a GPU.
