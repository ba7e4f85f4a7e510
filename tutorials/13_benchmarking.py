# %% [markdown]
# # 13 · Compare only what can be compared
#
# *Slides: "Benchmarking", "Table 2", "Table 4".*
#
# * **You will do:** find out what the numbers in two tables of the slides mean, train a small Table
#   2 with five seeds, and average two classifiers as Table 4 does.
# * **You will learn:** the unit of each number, what one seed can show and what five seeds can
#   show, and which rows of a table may be compared.
# * **You need:** tutorials 09, 10 and 12.
#
# ![Table 4, sorted by the input of the methods](images/13_table4.png)
#
# Table 4, sorted by the input of the methods: RGB frames, *optical flow*, or both. (Optical flow
# says for each pixel how far it moves to the next frame.) The model of the slides is blue. The
# lines are 95 % confidence intervals of the *sampling error* of the test set alone (tutorial 12).
# Before you ask which method is best, ask *what its input was*.

# %%
import dataclasses
import tempfile
from pathlib import Path

import kit
import numpy as np

from minilstm import config, data, reproduce
from minilstm.config import ClassifySettings
from minilstm.evaluation import judging, metrics
from minilstm.evaluation.clip_scores import accuracy, nats_per_clip
from minilstm.experiments import table2
from minilstm.experiments.markdown import p_value, percent, plus_minus
from minilstm.experiments.scales import ActionScale
from minilstm.experiments.significance import HOLDS, detectable, judge, mean_of
from minilstm.experiments.table_definitions import table_4
from minilstm.experiments.verdicts import lines, tested
from minilstm.runs import build
from minilstm.runs.build import open_clips
from minilstm.training.classifier import fit

kit.save_diagram("two-streams", "13_two_streams")

# %% [markdown]
# ## The unit of each number
#
# The slides use three units:
#
# | table | unit | better |
# | --- | --- | --- |
# | Table 2, left | nats per frame: cross-entropy, **summed** over 64 x 64 pixels | less |
# | Table 2, right | $\tfrac12 \sum (z - y)^2$ per frame, over 32 x 32 pixels, 3 colours | less |
# | Tables 1, 3, 4 | per cent of test films recognised | more |
#
# **Predict:** a film is enlarged so that each pixel becomes four pixels. How does the loss of the
# mean image change, in nats per frame?

# %%
digits, _ = data.load_digits(split="test")
source = data.MovingMNIST(data.resize_digits(digits, 8), 1, 16, 8, num_frames=12)
x = judging.sequences(source, 200)
mean = x.mean(axis=(0, 1))
small = metrics.mean_image_loss(mean, x).mean()
larger = np.kron(x.reshape(12, 200, 16, 16), np.ones((2, 2))).reshape(12, 200, -1)
large = metrics.mean_image_loss(larger.mean(axis=(0, 1)), larger).mean()
print(f"mean image, 16 x 16: {small:.1f} nats per frame; enlarged to 32 x 32: {large:.1f}")
assert abs(large / small - 4) < 1e-3

nats = 341.2
print(f"341.2 nats per frame = {nats / 64**2:.4f} per pixel = {nats / np.log(2):.0f} bits per frame"
      f" = {10 * nats:.0f} per ten frames")  # fmt: skip

# %% [markdown]
# The loss becomes four times as large. The prediction is neither better nor worse; there are more
# pixels. So compare nats only on the *same frames*. For other frames, compare the share of the mean
# image's loss.
#
# The right column of Table 2 has another trap. The paper's patches are normalised: each colour has
# mean 0 and standard deviation 1. Then the constant prediction 0 costs
#
# $$\tfrac12 \cdot 32 \cdot 32 \cdot 3 \cdot 1 = 1536.$$
#
# **Predict:** for normalised patches the mean colour has a squared error of 1536. What is its
# squared error on the same patches if the pixels stay between 0 and 1?

# %%
films = kit.camera_films(60, side=32)  # patches of a photograph: see tutorial 11
with tempfile.TemporaryDirectory() as folder:
    np.save(Path(folder) / "films.npy", films)
    patches = data.Patches(Path(folder) / "films.npy", split="train")
    batch = patches.batch(0, 48)  # all 48 training films
normalised, plain = data.as_vectors(batch, patches.scale), data.as_vectors(batch)
cost = metrics.squared_error(normalised, np.zeros(3072)).mean()
cost_plain = metrics.squared_error(plain, np.tile(patches.scale.mean, 1024)).mean()
print(f"squared error of the mean colour: {cost:.1f} with normalised pixels, "
      f"{cost_plain:.1f} with pixels between 0 and 1")  # fmt: skip
assert abs(cost - 1536) < 1
assert cost_plain < 0.2 * cost

for name, row in table2.ROWS.items():
    if not row.ours:
        shares = [table2.published_shares(kind)[name] for kind in ("digits", "patches")]
        print(f"{row.title:<52}{row.published['digits']:6.1f} = {shares[0]:.3f} of the mean image"
              f"{row.published['patches']:8.1f} = {shares[1]:.3f}")  # fmt: skip
assert table2.MEAN_IMAGE["patches"] == 1536

# %% [markdown]
# The prediction is the same, but the two numbers differ. The 208.1 of the slides fits normalised
# patches: it is about a seventh of 1536. (The slides have no mean image. For digits we use 629
# nats, measured on one sample of test digits at the size of the slides. With all test digits of
# MNIST it is 672, and the shares are 0.51 to 0.52.)
#
# Tutorial 10 showed a third trap: all numbers of Table 2 are **free-running**. Teacher-forced
# numbers measure something else.
#
# ## Table 2 in a small version, with five seeds
#
# We train the four rows of the table on the small films of tutorial 10, with 32 units. A seed
# decides the start weights *and* the training films. With the same seed, all four models see the
# same films, and arrays with the same name and shape start from the same weights. (Only a
# conditional decoder has weights for its inputs.)

# %%
seeds = range(2 if kit.FAST else 5)
rows = {name: row for name, row in table2.ROWS.items() if not row.ours}
free, forced = ({name: [] for name in rows} for _ in range(2))
for seed in seeds:
    starts = {}  # start weights by name and shape: the Wx of a conditional decoder is wider
    for name, row in rows.items():
        kind = config.load([row.preset]).model
        settings = kit.small(
            30 if kit.FAST else 400,
            model={"kind": kind.kind, "conditional": kind.conditional, "hidden": 32},
        )
        settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, seed=seed))
        for array, param in build.build_model(settings, 256).params().items():
            start = starts.setdefault((array, param.value.shape), param.value)
            assert (param.value == start).all()
        model = kit.learn(settings)
        N = 50 if kit.FAST else 300
        x = judging.sequences(build.open_source(settings, "test"), N)
        mean = judging.mean_image(settings, 400)
        result = judging.evaluate(model, x, 6, mean, (16, 16))
        of_mean = result["baselines"]["mean image"]["mean"]
        free[name].append(result["future"]["free_running"]["mean"])
        if kind.conditional != "none":
            forced[name].append(result["future"]["teacher_forced"]["mean"])

print(f"mean image {of_mean:.1f} nats per frame")
for name, row in rows.items():
    by_seed = "".join(f"{loss:7.2f}" for loss in free[name])
    print(f"{row.title:<52}{plus_minus(mean_of(free[name]), 2):>14}   seeds: {by_seed}")
free = {name: np.array(losses) for name, losses in free.items()}

# %% [markdown]
# **Predict:** one model is best on average over five seeds. Is it also the best with every single
# seed?

# %%
for seed in seeds:
    order = sorted(free, key=lambda name: free[name][seed])
    print(f"seed {seed}: best to worst:", ", ".join(rows[name].short for name in order))

# %% [markdown]
# No: the order changes from seed to seed. The slides have one number for each row. So they can't
# say how much of a difference is chance. Five seeds can: above, ± is the standard error of the
# mean. We test the *differences*, seed by seed. Then everything that makes a seed easy or hard for
# both models cancels: the same films, the same start weights. And we also state which differences
# such an experiment can detect.

# %%
shares = {name: losses / of_mean for name, losses in free.items()}
claims = {"the slides'": table2.CLAIMS["the slides'"]}
found = tested(claims, shares, table2.published_shares("digits"))
print(*lines(found, "% of the mean image"), sep="\n")

pairs = {"composite": "predictor", "conditional-composite": "conditional-predictor"}
for better, worse in pairs.items():
    n = len(seeds)
    paired = mean_of(free[worse] - free[better]).error
    apart = np.sqrt((free[worse].var(ddof=1) + free[better].var(ddof=1)) / n)
    print(f"{rows[worse].short} - {rows[better].short}: standard error of the difference "
          f"{paired:.3f} nats in pairs, {apart:.3f} without pairs")  # fmt: skip

# %% [markdown]
# The verdict "undecided" does not mean "no difference". The column "detectable with 80 % power" is
# the *minimum detectable effect*: a true gain of this size is detected in four of five such
# experiments, and a smaller gain less often. Two of the four claims of the slides were decided
# here, and both were decided against the slides. This need not be so with 2048 units and two
# million films. (`python -m minilstm.reproduce table2` trains larger models and compares them with
# the slides.) Pairing made the standard error smaller for one of the two differences above, and not
# for the other. It can't cancel what two models do not share.
#
# How many seeds are needed? The minimum detectable effect becomes smaller with more seeds. (The
# next cell tests one claim at 5 %. The table above tests each of four claims at 1.25 %, so its
# numbers are larger.)

# %%
scatter = np.std(free["predictor"] - free["composite"], ddof=1)
smallest = {n: detectable(scatter / np.sqrt(n), n) for n in (2, 3, 5, 10, 20)}
print("minimum detectable effect:",
      *(f"{n} seeds: {gain:.2f} nats" for n, gain in smallest.items()), sep="   ")  # fmt: skip
assert list(smallest.values()) == sorted(smallest.values(), reverse=True)
assert smallest[2] > 5 * smallest[5]

# %% [markdown]
# Two seeds can show almost nothing. From two numbers, even their standard deviation is uncertain.
#
# ## Many claims
#
# **Predict:** six pairs of models are compared, and in each pair the models are *the same*. Each
# comparison is tested at a level of 5 %. In how many of such experiments is at least one difference
# "significant"?

# %%
rng = np.random.default_rng(0)
experiments = 20 if kit.FAST else 100
alone = together = 0
for _ in range(experiments):
    nothing = judge({f"claim {k}": rng.standard_normal(5) for k in range(6)})
    alone += any(finding.p < 0.05 for finding in nothing.values())
    together += any(finding.adjusted < 0.05 for finding in nothing.values())
print(f"at least one p below 5 %: in {alone / experiments:.0%} of the experiments without "
      f"correction, in {together / experiments:.0%} with Holm's method")  # fmt: skip
assert together < alone and together / experiments < 0.12
assert alone / experiments > 0.1

# %% [markdown]
# In 30 of the 100 experiments at least one of six differences is "significant", although there is
# none. (In theory it is $1 - 0.95^6$, 26 %.) Holm's method corrects for this: it multiplies the
# smallest of six p by 6, the next one by 5, and so on. The column "p, Holm" in the table above
# shows the corrected p.
#
# ## Table 4: what was the input?
#
# In the slides, the groups of Table 4 are not separated. Here they are:

# %%
scale = ActionScale({}, {}, small=8, full=32, counts=(8, 32), draws=1)
quoted = table_4(scale, {"rgb": "pixels", "flow": "changes"})[0].quoted
for kind in ("RGB", "flow", "both"):
    group = [(name, ucf, hmdb) for which, name, ucf, hmdb in quoted if which == kind]
    print(kind)
    for name, ucf, hmdb in group:
        print(f"    {name:<60}{ucf:6.1f}{hmdb:>7}")
    best = max(group, key=lambda row: row[1])[0]
    assert best != "Composite LSTM Model"
others = {name.split(" (")[0] for _, name, *_ in quoted} - {"Composite LSTM Model"}
assert len(others) == 7

drawn, axes = kit.figure(9, 4.4, rows=3, sharex=True, height_ratios=(5, 3, 4))
for ax, kind in zip(axes, ("RGB", "flow", "both"), strict=True):
    for name, ucf in sorted((row[1:3] for row in quoted if row[0] == kind), key=lambda row: row[1]):
        half = 196 * np.sqrt(ucf / 100 * (1 - ucf / 100) / 3783)  # of the 95 % interval, in points
        colour = kit.BLUE if name.startswith("Composite") else kit.FAINT
        ax.errorbar(ucf, name, xerr=half, fmt="o", color=colour, ms=8, lw=1.5, capsize=3)
    ax.set_ylabel(kind)
    ax.grid(axis="x", color="#dddddd", lw=0.8)
    ax.margins(y=0.15)
axes[-1].set_xlabel("UCF-101, per cent of the 3783 test films that are recognised")
drawn.align_ylabels(axes)
kit.save(drawn, "13_table4", show=False)

# %% [markdown]
# The composite model is not the best in any group. Did it fail? Look at what else is different.
# (The next table is from the papers of the other methods, not from the slides, and may contain
# mistakes. Check the papers before you quote it.)
#
# | method | input | trained before on |
# | --- | --- | --- |
# | Spatial Convolutional Net | single frames, RGB | ImageNet, with labels |
# | C3D | 16 frames at a time, RGB | a million sport films, with labels |
# | C3D + fc6 | the same, and features of an ImageNet network | ImageNet and sport films |
# | LRCN | 16 frames, RGB or flow, through an LSTM | ImageNet, with labels |
# | Temporal Convolutional Net | ten fields of optical flow, stacked | action films only |
# | Two-stream Convolutional Net | RGB and flow, two networks | as the two networks above |
# | Multi-skip feature stacking | tracks of points at several speeds; hand-made, no network | - |
# | Composite LSTM Model | features of an ImageNet network, LSTM | ImageNet; unlabelled films |
#
# Each method in a few sentences:
#
# * **Spatial Convolutional Net**: an ImageNet network is trained further to name the action in
#   single frames. Its answers are averaged. It sees no motion.
# * **Temporal Convolutional Net**: the same for the optical flow of ten frames. It sees motion, and
#   no colour or texture.
# * **Two-stream Convolutional Net**: the two above together. Their answers are joined at the end.
# * **C3D**: a network with convolution windows in height, width and time. It is trained on sports
#   films; a linear classifier of its features is trained for other films.
# * **C3D + fc6**: C3D's features beside those of layer fc6 of an ImageNet network.
# * **LRCN**: a convolutional network describes every frame, and an LSTM reads the descriptions.
#   Both are trained together, with labels. (In the slides only the LSTM is trained.)
# * **Multi-skip feature stacking**: points are tracked through the film, and hand-made features
#   describe the motion around them. This is repeated with frames left out, for actions at other
#   speeds.
#
# So the table mixes four questions: a network or hand-made features, RGB or flow, how many labels,
# one model or two. Rows that differ in one point only are in Tables 1 and 3: the same features,
# films and classifier, with and without pretraining. They can answer "does pretraining help?".
# Table 4 answers another question: is this model in the range of other methods?
#
# (With flow even the slides' own model has two numbers: 74.9 in Table 1 and 77.7 in Table 4.)
#
# ## Both: average the probabilities
#
# In the last group of Table 4, two models have two different inputs, and their probabilities are
# averaged:
#
# ![two streams: one classifier of frames, one of optical flow](images/13_two_streams.png)
#
# $$p = \tfrac12 (p_\text{RGB} + p_\text{flow}).$$
#
# Here is a small version: two LSTMs for the actions of tutorial 12, from random weights. The input
# of one is pixels. The input of the other is only the *change* from frame to frame, as a simple
# replacement for optical flow.
#
# **Predict:** one classifier gets pixels, the other gets the changes from frame to frame. Which of
# the two recognises more of these actions? How many does their average recognise?

# %%
labels = 4 if kit.FAST else 32
p = {}
for name in ("pixels", "changes"):
    settings = ClassifySettings(
        frame_size=16, hidden=64, labels=labels, validation=5, test=20, encoder="scratch",
        changes=name == "changes", learning_rate=5e-3, steps=40 if kit.FAST else 600,
    )  # fmt: skip
    learn_from, decide_by, test = open_clips(settings)
    p[name] = fit(settings, learn_from, decide_by).predict(test)
truth = test.labels
p["both"] = (p["pixels"] + p["changes"]) / 2
nats = {name: nats_per_clip(probabilities, truth) for name, probabilities in p.items()}
for name, probabilities in p.items():
    print(f"{name:<8}{percent(accuracy(probabilities, truth)):>8} recognised{nats[name]:8.3f} nats")
right = {name: probabilities.argmax(axis=1) == truth for name, probabilities in p.items()}
print("recognised by only one of the two:", percent(np.mean(right["pixels"] != right["changes"])))
assert nats["both"] <= (nats["pixels"] + nats["changes"]) / 2

# %% [markdown]
# The last assertion is a theorem, because the logarithm is concave: in nats, the average is never
# worse than the mean of the two. For the share recognised there is no such theorem. It rises if the
# two models are wrong about *different* clips. In the slides: 75.8 and 77.7 alone, 84.3 together.
#
# ## Break it on purpose: an unfair comparison
#
# Compare the conditional predictor, *teacher-forced*, with the unconditional predictor, which can
# only run free. Use the same statistical test as above.
#
# **Predict:** a teacher-forced model is compared with a free-running one. Does the test warn you?

# %%
wrong = free["predictor"] - np.array(forced["conditional-predictor"])
honest = free["predictor"] - free["conditional-predictor"]
for name, gains in (("teacher-forced against free-running", wrong), ("both free-running", honest)):
    finding = judge({name: gains})[name]
    p = p_value(finding.p)
    print(f"{name:<38} gain {np.mean(gains):5.2f} nats   p {p:<9}{finding.verdict}")
if not kit.FAST:
    assert judge({"": wrong})[""].verdict == HOLDS
assert np.mean(wrong) > np.mean(honest)

# %% [markdown]
# It does not warn you. It says with high confidence that two different things are different. A
# statistical test protects against chance. It does not protect against comparing what can't be
# compared.
#
# (Tutorial 18 compares the numbers of later papers.)
#
# ## A checklist
#
# Before you put two numbers into one table, check:
#
# * Are the **films** the same?
# * Is the **split** the same, and does it keep recordings together (tutorial 12)?
# * Is the **unit** the same, summed over the same pixels?
# * Are both **free-running**?
# * Is the **input** the same?
# * Did both use the same amount of other **labelled** data?
# * Were the settings chosen on **validation** data, with the same number of trials?
# * How many **seeds** are there?
#
# The next cell prints what it costs to train Table 2 at the size of the slides, with five seeds (1
# TFLOP is 1000 GFLOP, tutorial 08). The table has six rows: the four of the slides, and two with
# scheduled sampling.

# %%
assert reproduce.main(["table2", "--scale", "paper", "--plan"]) == 0

# %% [markdown]
# ## Exercises
#
# 1. A later paper reports 3670.85 for ten frames, on its authors' own films of moving digits. Is
#    this better than 341.2?
# 2. You tried six variants. One of them is better than the baseline, with p = 0.03. What do you
#    write?
# 3. Which two rows of Table 2 differ in *one* point only?
#
# ### Answers
#
# 1. It is 367 per frame. But the films are different, so it is neither better nor worse. Ask for
#    the loss of the mean image on those films.
# 2. "Undecided", if 0.03 was the smallest of six: Holm's method makes it 0.18. Then train *this
#    variant* again with new seeds, and test it alone.
# 3. Predictor and composite model, both unconditional or both conditional: two pairs. An
#    unconditional and a conditional decoder, of the predictor or of the composite model: two more
#    pairs. These four pairs are the four claims that were tested above.

# %%
assert round(3670.85 / 10) == 367 and min(1, 6 * 0.03) == 0.18
assert len(claims["the slides'"]) == 4

# %% [markdown]
# **In the library:** [significance.py](../minilstm/experiments/significance.py),
# [verdicts.py](../minilstm/experiments/verdicts.py),
# [table2.py](../minilstm/experiments/table2.py),
# [table_definitions.py](../minilstm/experiments/table_definitions.py),
# [reproduce.py](../minilstm/reproduce.py): `python -m minilstm.reproduce table2`. **Next:** 14,
# faults that training hides.
