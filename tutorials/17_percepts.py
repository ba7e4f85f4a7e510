# %% [markdown]
# # 17 · Describe a frame by 1280 numbers
#
# *Slides: "Input at each timestep", "Transfer Learning for Action Recognition", "Table 1".*
#
# * **You will do:** build the network that describes a frame, convolution by convolution. Measure
#   what can be read from its 1280 numbers. Train a composite model to predict them.
# * **You will learn:** why this network is cheap, what one frame does not show, and how to run
#   UCF-101 and HMDB-51 here.
# * **You need:** tutorials 01, 08, 10 and 12.
#
# ![views of a photograph, and the view whose percept is nearest](images/17_neighbours.png)
#
# Top row: views of a photograph. Middle row: the same views, mirrored. Bottom row: for each
# mirrored view, the view whose *percept* is nearest to it.
#
# A **percept** is the description of one frame by a network that was trained on ImageNet, on more
# than a million photographs with labels. The paper uses a network with 4096 numbers per frame. This
# library uses MobileNetV2 (Sandler et al. 2018) with 1280 numbers, because it needs about a
# fiftieth of the multiplications. [mobilenet.py](../minilstm/data/mobilenet.py) computes it in
# plain NumPy. Only the forward pass is needed, because its weights never change.

# %%
import kit
import numpy as np
from PIL import Image

from minilstm import data
from minilstm.data import mobilenet
from minilstm.data.mobilenet import depthwise, pointwise, relu6
from minilstm.data.splits import hmdb51_split
from minilstm.errors import MinilstmError
from minilstm.evaluation import judging, metrics

network, trained = kit.imagenet_network()
print("weights:", "those of ImageNet" if trained else "random. " + kit.NO_WEIGHTS)

# %% [markdown]
# The weights (14 MB) do not come with the package. The page in the gallery was made with them. To
# use them yourself, save torchvision's public file `mobilenet_v2-b0353104.pth` as
# `mobilenet_v2.pth` in the project's folder, and convert it there:
#
# ```
# python -m data_tools.convert_pth mobilenet_v2.pth tutorials/build/mobilenet_v2.safetensors
# ```
#
# Without this file the network has random weights, and text that begins with "With ImageNet's
# weights" does not describe your output.
#
# ## Two cheap convolutions in place of one
#
# A picture $x$ has $h \times w$ positions and $C$ channels: at first three colours, later features.
# A convolution with a 3x3 window computes $K$ new channels at every position $p$, from the nine
# positions around $p$. Its weights $W$ have the shape (3, 3, C, K), its output $y$ (h, w, K):
#
# $$y[p, k] = \sum_{d} \sum_{c} W[d, c, k] \, x[p + d, c], \qquad
#   d = (-1, -1), \dots, (1, 1).$$
#
# MobileNetV2 does this in two steps:
#
# * **depthwise**: $u[p, c] = \sum_d V[d, c] \, x[p + d, c]$ is a sum over the neighbours, for each
#   channel alone. $V$ is (9, C): one row for each of the nine $d$. $u$ is (h, w, C).
# * **pointwise**: $y[p, k] = \sum_c u[p, c] \, U[c, k]$ is a sum over the channels, for each
#   position alone. $U$ is (C, K). So this step is one matrix product, (hw, C) times (C, K).
#
# Both together are a full convolution with $W[d, c, k] = V[d, c] \, U[c, k]$. The next cell checks
# this on a small picture.

# %%
rng = np.random.default_rng(0)
h, w, C, K = 5, 6, 4, 3
# one picture x (1, h, w, C)
x, V, U = rng.random((1, h, w, C)), rng.standard_normal((9, C)), rng.standard_normal((C, K))
padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros around the picture

cheap = pointwise(depthwise(padded, V, np.zeros(C), 1), U, np.zeros(K))

W = (V[:, :, None] * U).reshape(3, 3, C, K)
full = np.zeros((h, w, K))
for row in range(h):
    for column in range(w):
        full[row, column] = np.einsum(
            "ijc,ijck->k", padded[0, row : row + 3, column : column + 3], W
        )
print("largest difference:", np.abs(cheap[0] - full).max())
assert np.allclose(cheap[0], full)

# %% [markdown]
# **Predict:** a picture of 14 x 14 positions has 384 channels, and 384 new ones are computed. How
# many times fewer products do the two cheap convolutions need than the full one?

# %%
positions, C, K = 14 * 14, 384, 384
products = positions * 9 * C * K, positions * (9 * C + C * K)
print(f"full: {products[0] / 1e6:.0f} million products; depthwise and pointwise: "
      f"{products[1] / 1e6:.0f} million; {products[0] / products[1]:.1f} times fewer")  # fmt: skip
assert 8 < products[0] / products[1] < 9

# %% [markdown]
# Almost nine times fewer: the depthwise step costs almost nothing, and the pointwise step needs a
# ninth of the products of the full convolution. The disadvantage: most $W$ can't be written as such
# a product. So the network has many layers.
#
# ## A block: widen, look, narrow
#
# The network has 17 blocks. Each has three convolutions (only block 1 has no *widen*):
#
# 1. **widen** (pointwise): six times as many channels, then $\min(\max(x, 0), 6)$, called ReLU6;
# 2. **look** (depthwise, 3x3): sums over the neighbours, then ReLU6;
# 3. **narrow** (pointwise): back to few channels, without a ReLU6.
#
# If input and output have the same shape, the block *adds* its result to its input. So the three
# convolutions compute a correction of the input, called a *residual*. Older residual networks have
# few channels inside a block, and MobileNetV2 has many. So its blocks are called **inverted
# residuals**. ReLU6 sets negative numbers to zero. After *narrow* there are few channels, and a
# ReLU6 would lose information that no other channel has. So *narrow* has no ReLU6.
#
# The next cell computes block 3 by hand:


# %%
def by_hand(n, x):
    """Compute block n for x (N, h, w, C), in three lines, and add x."""
    wide = relu6(pointwise(x, *network.weights[f"{n} widen"]))
    wide = np.pad(wide, ((0, 0), (1, 1), (1, 1), (0, 0)))
    looked = relu6(depthwise(wide, *network.weights[f"{n} look"], mobilenet.STRIDES[n - 1]))
    return x + pointwise(looked, *network.weights[f"{n} narrow"])


x = rng.standard_normal((1, 8, 8, 24)).astype(np.float32)
print("channels of block 3: 24 ->", network.weights["3 widen"][0].shape[1], "-> 24")
assert np.allclose(by_hand(3, x), network.block(3, x), atol=1e-4)

# %% [markdown]
# The first convolution and four of the blocks move their window by two positions at a time
# (*stride* 2). So the height and the width are halved five times, from 224 to 7. The number of
# channels grows:


# %%
def steps(pictures):
    """Yield (name, array) of every step of the network, for pictures uint8 (N, h, w, 3)."""
    x = (pictures.astype(np.float32) / 255 - network.mean) / network.std
    x = np.concatenate(mobilenet.views_3x3(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 2), axis=3)
    x = relu6(pointwise(x, *network.weights["first"]))
    yield "first", x
    for n in range(1, 18):
        x = network.block(n, x)
        yield f"block {n}", x
    yield "last", relu6(pointwise(x, *network.weights["last"]))


photograph = kit.photograph()  # matplotlib's portrait of Grace Hopper
portrait = mobilenet.prepare(np.asarray(photograph)[None])
shape = None
for name, x in steps(portrait):
    if x.shape != shape and (shape := x.shape):
        print(f"{name:<9} {x.shape[1]:>3} x {x.shape[2]:<3} positions {x.shape[3]:>4} channels")
grid = x  # (1, 7, 7, 1280)
percept = network.percepts(portrait)
assert grid.shape == (1, 7, 7, 1280)
assert np.allclose(grid.mean(axis=(1, 2)), percept, atol=1e-4)

# %% [markdown]
# The last operation of the network is the mean over all 7 x 7 positions: **1280 numbers for the
# frame.** They are never negative. Each number says how strongly one learned feature is present.
#
# **Predict:** one pixel in the middle of the frame changes. How many of the 7 x 7 positions of the
# last layer does this change?

# %%
changed = portrait.copy()
changed[0, 112, 112] = 255 - changed[0, 112, 112]
for (name, x), (_, y) in zip(steps(portrait), steps(changed), strict=True):
    if name in ("first", "block 3", "block 6", "block 13", "last"):
        share = (np.abs(x - y).max(axis=(0, 3)) > 0).mean()
        print(f"{name:<9} share of positions that changed: {share:.4f}")
assert share == 1

# %% [markdown]
# All 49. Each 3x3 window reaches one position further, and each stride doubles the distance between
# two positions, in pixels. After 18 such windows every position of the last layer depends on nearly
# the whole frame. A convolutional network need not learn which pixels are neighbours.
#
# ## What does one percept know?
#
# One more matrix product, (1, 1280) times (1280, 1000), gives the logits of the 1000 classes of
# ImageNet. (The next cell names the classes that we need.)

# %%
NAMES = {400: "academic gown", 457: "bow tie", 652: "military uniform", 667: "mortarboard",
         834: "suit", 906: "Windsor tie"}  # fmt: skip
for whole in (False, True):
    z = network.logits(network.percepts(mobilenet.prepare(np.asarray(photograph)[None], whole)))[0]
    p = np.exp(z - z.max())
    p /= p.sum()
    best = np.argsort(-p)[:4]
    print("whole photograph:" if whole else "middle, cut out: ",
          ", ".join(f"{NAMES.get(int(k), f'class {k}')} {p[k]:.2f}" for k in best))  # fmt: skip
if trained:
    assert 652 in best

# %% [markdown]
# With ImageNet's weights: the two most probable classes are a bow tie and a military uniform. The
# order of the two depends on how the photograph was cut.
#
# Now compare views of the photograph. Each view is changed, but it still shows the same thing. For
# each changed view we look for the nearest of all original views. We do this twice: by the distance
# between pixels, and by the distance between percepts.
#
# **Predict:** a view is mirrored. Is its own original the nearest one, by pixels and by percepts?
# And if the view is turned upside down?

# %%
SIDE = 32 if kit.FAST else 96  # the network takes pictures of any size
N = 8 if kit.FAST else 100


def look(x, y, size):
    """Return a square view of the photograph: uint8 (SIDE, SIDE, 3)."""
    box = (x, y, x + size, y + size)
    return np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))


def percepts_of(frames):
    """Describe frames uint8 (..., height, width, 3) -> (..., 1280), a few at a time."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    parts = [network.percepts(flat[n : n + 16]) for n in range(0, len(flat), 16)]
    return np.concatenate(parts).reshape(*frames.shape[:-3], -1)


def nearest(a, b):
    """Return for each row of a (N, D) the nearest row of b (M, D)."""
    a, b = (v.reshape(len(v), -1).astype(float) for v in (a, b))
    return ((b**2).sum(axis=1) - 2 * a @ b.T).argmin(axis=1)


size = rng.uniform(80, 160, N)
x, y = rng.uniform(0, photograph.width - size), rng.uniform(0, photograph.height - size)
views = np.stack([look(*view) for view in zip(x, y, size, strict=True)])
variants = {
    "brighter": np.clip(views * 1.4, 0, 255).astype(np.uint8),
    "mirrored": views[:, :, ::-1],
    "upside down": views[:, ::-1],
    "nearer": np.stack([look(x[n] + size[n] / 10, y[n] + size[n] / 10, 0.8 * size[n])
                        for n in range(N)]),
}  # fmt: skip
known = percepts_of(views)
found, right = {}, {}
print("share of views whose nearest original is their own")
for name, changed in variants.items():
    found[name] = nearest(percepts_of(changed), known)
    right[name] = (np.mean(nearest(changed, views) == range(N)), np.mean(found[name] == range(N)))
    print(f"{name:<13} by pixels {right[name][0]:.2f}   by percepts {right[name][1]:.2f}")
if trained:
    assert right["mirrored"][1] > right["mirrored"][0] + 0.5

drawn, ax = kit.figure(7, 3.1)
rows = np.stack([views[:6], variants["mirrored"][:6], views[found["mirrored"][:6]]])
names = ("view", "mirrored", "nearest view")
kit.pictures(ax, rows.reshape(3, 6, -1) / 255, (SIDE, SIDE, 3), gap=4, names=names)
kit.save(drawn, "17_neighbours", show=False)

# %% [markdown]
# With ImageNet's weights: by pixels, the original of a mirrored view is found in 23 % of the cases,
# by percepts in 96 %. For a view upside down it is 55 % by percepts. For a view from nearer,
# percepts are no better than pixels. So a percept also depends on the size of what is shown.
#
# ## What does one percept lose?
#
# The last operation is a mean over the positions, and a mean does not depend on their order.
#
# **Predict:** the 7 x 7 positions of the last layer are shuffled. How much does the percept change?
# And a small picture is moved over a grey frame: can a linear probe (tutorial 01) still read its
# position from the 1280 numbers?


# %%
def score(r, v, fit, ridge=0.1):
    """Return R^2 on new rows: the share of v's variance that a linear probe of r explains.

    The probe learns from the first `fit` rows.
    """
    r = r.reshape(len(r), -1).astype(float)
    r = (r - r[:fit].mean(axis=0)) / (r[:fit].std(axis=0) + 1e-3) / np.sqrt(r.shape[1])
    mean = v[:fit].mean(axis=0)
    # ridge regression as in tutorial 01, in the form that is faster for fewer rows than columns
    weights = np.linalg.solve(r[:fit] @ r[:fit].T + ridge * np.eye(fit), v[:fit] - mean)
    answer = r[fit:] @ r[:fit].T @ weights + mean
    return 1 - ((v[fit:] - answer) ** 2).sum() / ((v[fit:] - mean) ** 2).sum()


flat = grid.reshape(49, 1280)
moved = flat[rng.permutation(49)].mean(axis=0)
print("shuffled positions: largest change", np.abs(moved - percept[0]).max())
assert np.allclose(moved, percept[0], atol=1e-4)

M = 12 if kit.FAST else 240
patch = np.asarray(photograph.crop((130, 60, 380, 310)).resize((SIDE // 3, SIDE // 3)))
corners = rng.integers(0, SIDE - SIDE // 3 + 1, (M, 2))
frames = np.full((M, SIDE, SIDE, 3), 110, np.uint8)
for frame, (row, column) in zip(frames, corners, strict=True):
    frame[row : row + SIDE // 3, column : column + SIDE // 3] = patch
of_position = score(percepts_of(frames), corners.astype(float), 2 * M // 3)
print(f"R^2 of the position from the percept: {of_position:.2f}")
if not kit.FAST:
    assert of_position > 0.5

# %% [markdown]
# The shuffle changes nothing (except rounding). Yet the position of the small picture can be read,
# because the channels depend on it. There are zeros around the frame, so a channel near the border
# differs from the same channel in the middle.
#
# A percept can't contain **motion**, since it is computed from one frame. Here are films of a
# camera that moves over the photograph in one of six ways.
#
# **Predict:** a linear probe gets the percept of one frame of a film. In what share of the films
# does it recognise the motion? And from the last percept minus the first?

# %%
MOTIONS = ("left", "right", "up", "down", "nearer", "away")
T, films_each = (6, 3) if kit.FAST else (12, 50)
FILM_SIDE = 32 if kit.FAST else 64


def film(motion):
    """Return a film uint8 (T, FILM_SIDE, FILM_SIDE, 3) of a camera that moves."""
    step = rng.uniform(0.03, 0.06)  # of the view's width, per frame
    dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
    zoom = {"nearer": 1 / (1 + step), "away": 1 + step}.get(motion, 1.0)
    t = np.arange(T) - (T - 1) / 2
    while True:
        width = rng.uniform(90, 160)
        size = width * zoom**t
        x = rng.uniform(0, photograph.width) + dx * step * width * t - size / 2
        y = rng.uniform(0, photograph.height) + dy * step * width * t - size / 2
        inside = min(x.min(), y.min()) >= 0
        if inside and (x + size).max() < photograph.width and (y + size).max() < photograph.height:
            break
    boxes = zip(x, y, x + size, y + size, strict=True)
    side = (FILM_SIDE, FILM_SIDE)
    return np.stack([photograph.resize(side, Image.Resampling.BILINEAR, box) for box in boxes])


labels = np.arange(6 * films_each) % 6
sequences = percepts_of(np.stack([film(MOTIONS[k]) for k in labels]))  # (films, T, 1280)
fit = 2 * len(labels) // 3


def recognised(r, ridge=1.0):
    """Return the share of new films whose motion a linear probe recognises."""
    r = r.reshape(len(r), -1).astype(float)
    r = (r - r[:fit].mean(axis=0)) / (r[:fit].std(axis=0) + 1e-3) / np.sqrt(r.shape[1])
    weights = np.linalg.solve(r[:fit] @ r[:fit].T + ridge * np.eye(fit), np.eye(6)[labels[:fit]])
    return np.mean((r[fit:] @ r[:fit].T @ weights).argmax(axis=1) == labels[fit:])


one, change = recognised(sequences[:, T // 2]), recognised(sequences[:, -1] - sequences[:, 0])
error = np.sqrt(1 / 6 * 5 / 6 / (len(labels) - fit))
print(f"a guess {1 / 6:.2f} ± {error:.2f}; one percept {one:.2f}; last minus first {change:.2f}")
if trained:
    assert one < 1 / 6 + 3 * error < change

# %% [markdown]
# From one percept the probe is no better than a guess. With ImageNet's weights it recognises 38 %
# of the motions from the difference of two percepts. So *sequences* of percepts contain motion, and
# the paper gives such sequences to an LSTM.
#
# ## Sequences of percepts for the composite model
#
# A percept is a vector, so it can be the input $x_t$ of an LSTM. The composite model reads the
# percepts of the first half of a film, reconstructs them and predicts those of the second half.
# First each of the 1280 numbers is normalised to mean 0 and standard deviation 1 over the training
# films (tutorial 08). `data.Percepts` does this. Percepts are not probabilities, so the loss is the
# squared error per frame, $\tfrac12 \sum (z - y)^2$, with the prediction $z$ and the true percept
# $y$, both of 1280 numbers. Of every ten recordings, eight are for training, one is for validation
# and one for the test.
#
# **Predict:** which has the lowest squared error for the future percepts: the mean percept, a copy
# of the last one, or the model?

# %%
clips = data.Clips(
    frames=sequences.reshape(-1, 1280), lengths=np.full(len(labels), T), labels=labels,
    classes=MOTIONS,
)  # fmt: skip
half = T // 2
settings = kit.small(
    10 if kit.FAST else 400,
    data={"source": "percepts", "path": "in memory", "past": half, "future": half},
    model={"kind": "composite"},
    optimizer={"learning_rate": 2e-3, "schedule_steps": 10 if kit.FAST else 400},
)
source = data.Percepts(clips, T, split="train")
test_source = data.Percepts(clips, T, split="test", scale=source.scale)
model = kit.learn(settings, source)
test = judging.sequences(test_source, 100)  # (T, films, 1280)
_, predicted = judging.decode(model, test, half)
costs = {"mean percept": metrics.squared_error(test[half:], np.zeros(1280)),
         "copy of the last": metrics.squared_error(test[half:], test[half - 1]),
         "model": metrics.squared_error(test[half:], predicted)}  # fmt: skip
print("squared error per future frame: mean, first, last")
for name, cost in costs.items():
    print(f"{name:<17}{cost.mean():6.0f}{cost[0].mean():7.0f}{cost[-1].mean():7.0f}")
if trained:
    assert costs["copy of the last"].mean() < costs["model"].mean() < costs["mean percept"].mean()

((h, c),), _ = model.encoder.forward(data.as_vectors(sequences.swapaxes(0, 1), source.scale)[:half])
by_code = recognised(np.concatenate([h, c], axis=1))
print(f"motions recognised by a linear probe of the code: {by_code:.2f} (one percept: {one:.2f})")
if trained:
    assert abs(by_code - 1 / 6) < 3 * error

# %% [markdown]
# With ImageNet's weights: the model is better than the mean percept. Over all future frames it is
# worse than the copy, because percepts change slowly and there are only 240 training films, all of
# one photograph. In the last frame the model is better than the copy (last column). The result for
# natural patches was similar (tutorial 11).
#
# A linear probe finds no more motion in the code of this model than in a single percept. So
# training a composite model on percepts does not always give a code that contains the motion. On 84
# real clips pretraining did not help either ([experiments](../minilstm/experiments/README.md),
# "Real clips"). The slides report a gain after pretraining on many more films.
#
# ## UCF-101 and HMDB-51
#
# These are the films of the slides' Tables 1, 3 and 4. **UCF-101** has 13,320 films of sports,
# music and daily life, in 101 classes. **HMDB-51** (Kuehne et al. 2011) has 6,766 clips in 51
# classes, most of them cut out of cinema films: *chew, hug, sit, stand, wave*. HMDB-51 is harder:
# one frame of *stand* can look like one of *sit*. The slides' Table 1 has for RGB, accuracy in %:
#
# | | UCF-101 | HMDB-51 |
# | --- | --- | --- |
# | Single Frame | 72.2 | 40.1 |
# | LSTM classifier | 74.5 | 42.8 |
# | Composite LSTM Model + Finetuning | 75.8 | 44.1 |
#
# Each set has three official **splits**. HMDB-51 has one list for each class and split. Each of its
# lines is the name of a clip and a number: 1 for training (70 clips), 2 for test (30 clips), 0 for
# neither. So a test set has $51 \cdot 30 = 1530$ clips. Results are the mean over the three splits.
#
# **Predict:** the slides' gain of pretraining on HMDB-51 is 1.3 points. How large is the sampling
# error of an accuracy of 44.1 % on 1530 clips?

# %%
gain = 44.1 - 42.8
sampling = 100 * np.sqrt(0.441 * 0.559 / 1530)
print(f"gain {gain:.1f} points; sampling error of one accuracy ± {sampling:.1f} points")
assert abs(sampling - gain) < 0.1
print(f"with 4243 test clips ± {100 * np.sqrt(0.441 * 0.559 / 4243):.1f} points")

# %% [markdown]
# The gain and the sampling error are equal. The mean over three splits has a smaller error. Any two
# test sets share few clips (104 to 155 of 1530), and all three together have 4,243 different clips.
# This gives 0.8 points.
#
# The next cell writes small lists of the same form and reads them with the library's function.

# %%
names, lists = [f"wave_{n}.avi" for n in range(10)], kit.FOLDER / "build" / "lists"
lists.mkdir(parents=True, exist_ok=True)
for split in (1, 2, 3):
    which = np.array([1] * 5 + [2] * 3 + [0] * 2)[rng.permutation(10)]
    lines = [f"{name} {number} \n" for name, number in zip(names, which, strict=True)]
    (lists / f"wave_test_split{split}.txt").write_text("".join(lines))
tests = []
for split in (1, 2, 3):
    train, test = hmdb51_split(names, lists, split)
    tests.append(set(test.tolist()))
    print(f"split {split}: training clips {train.tolist()}, test clips {test.tolist()}")
    assert len(train) == 5 and len(test) == 3 and not set(train) & set(test)
print("clips in at least one test set:", len(set.union(*tests)))

# %% [markdown]
# To run it on the real films: unpack HMDB-51 so that each class is a folder of clips, and its lists
# (`testTrainMulti_7030_splits`) beside it. Then, from the project's folder, with the path of the
# converted file for WEIGHTS:
#
# ```
# python -m data_tools.extract_percepts hmdb51 rgb --fps 10 --weights WEIGHTS
# python -m data_tools.extract_flow hmdb51 flow --fps 10 --weights WEIGHTS
# python -m minilstm.reproduce table1 --rgb rgb --flow flow --lists testTrainMulti_7030_splits
# ```
#
# The last command trains the composite model without labels, finetunes the classifier on each of
# the three splits, and prints its Table 1 beside that of the slides. `table3`, `table4` and `fig12`
# take the same options. For UCF-101 add `--groups 'v_(.*)_c'` to the first two commands, because
# several of its clips are cut out of one recording. Its lists are in `ucfTrainTestlist`. We had no
# copy of the films: we tested the readers on small films of the same layout, and on the real lists.
#
# ## Break it on purpose: blue for red
#
# Some video libraries (OpenCV) give the colours in the order blue, green, red.
#
# **Predict:** the network gets frames whose red and blue are exchanged. Is there an error? Are the
# percepts wrong?

# %%
try:
    exchanged = percepts_of(np.ascontiguousarray(views[..., ::-1]))
except MinilstmError as error:
    raise AssertionError("the network looked at the colours") from error


def apart(a, b):
    """Return the mean distance of percepts, row by row."""
    return np.linalg.norm(a - b, axis=1).mean()


print(f"distance of percepts: colours exchanged {apart(known, exchanged):.1f}, "
      f"mirrored {apart(known, percepts_of(variants['mirrored'])):.1f}, "
      f"another view {apart(known, np.roll(known, 1, axis=0)):.1f}")  # fmt: skip
assert apart(known, exchanged) > 0

# %% [markdown]
# There is no error, and the output has the right shape. With ImageNet's weights, exchanged colours
# change the percepts more than mirroring does. So extract all percepts with *one* program, and look
# at the most probable classes of a few frames before you extract a million.
# (`data_tools.extract_percepts` reads red, green, blue.)
#
# ## Exercises
#
# 1. A film is played backwards. Which of these change: the set of its percepts, their mean, the
#    code of an LSTM that reads them?
# 2. Why is there no ReLU6 at the end of a block, but one at the end of the network?
# 3. Can one draw the predicted frames from the percepts that the composite model predicts?
#
# ### Answers
#
# 1. Only the code. So a classifier of the mean percept can't tell *sit down* from the same film
#    played backwards.
# 2. Between the blocks a few channels carry all information, and a ReLU6 would set their negative
#    numbers to zero. At the end there are 1280 channels. They are averaged over the positions, and
#    numbers that are never negative do not cancel in a mean.
# 3. Not from the percepts alone. One needs another network that computes pixels from percepts. The
#    slides show predicted frames only for digits and patches.

# %% [markdown]
# **In the library:** [mobilenet.py](../minilstm/data/mobilenet.py) `MobileNetV2`, `depthwise`,
# `pointwise`; [data/percepts.py](../minilstm/data/percepts.py) `Percepts`, `read_percepts`;
# [data/splits.py](../minilstm/data/splits.py) `hmdb51_split`, `ucf101_split`;
# [extract_percepts.py](../data_tools/extract_percepts.py). **Next:** 18, what came after.
