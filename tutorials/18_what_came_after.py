# %% [markdown]
# # 18 · See what came after
#
# *Slides: "Conclusion & Discussion", "Table 2".*
#
# * **You will do:** turn an LSTM into a ConvLSTM by replacing its matrix products by convolutions.
#   Compute how many nats it costs to predict each pixel alone.
# * **You will learn:** two weaknesses of this paper's models, what later models do about them, and
#   which of their numbers can be compared with Table 2.
# * **You need:** tutorials 05, 08, 09 and 13.
#
# ![the states of an LSTM and of a ConvLSTM for a digit that is moved](images/18_shift.png)
#
# Each row is one film. In the second film the digit is four pixels further to the right. Left: the
# last frame. Middle: the output $h$ of an LSTM, 256 units drawn as 16 x 16. Right: one channel of
# the output $h$ of a ConvLSTM. Only the ConvLSTM's output has moved with the digit.

# %%
import kit
import numpy as np

from minilstm import Composite, PeepholeLSTM, data
from minilstm.evaluation import frame_errors, kept_predictions, metrics
from minilstm.layers.cells import lstm_cell
from minilstm.layers.init import Blank

rng = np.random.default_rng(0)

# %% [markdown]
# ## Weakness 1: an LSTM does not know neighbours
#
# The LSTM of the paper reads a frame as a list of numbers (tutorial 08). It must learn the same
# digit again in every place. In a **ConvLSTM** (Shi et al. 2015) the matrix products are replaced
# by convolutions, written $*$. For frames of $C$ channels and a state of $H$ channels:
#
# $$a = W_x * x_t + W_h * h_{t-1} + b, \qquad c_t = f \, c_{t-1} + i \, g, \qquad
#   h_t = o \tanh(c_t).$$
#
# At every position $x_t$ has $C$ channels, $h_t$ and $c_t$ have $H$, and $a$ has $4H$. The shape of
# $W_x$ is (k, k, C, 4H), that of $W_h$ (k, k, H, 4H), and that of $b$ (4H). The four parts of $a$
# give $i, f, g, o$ as in tutorial 05, and $\odot$ is not written. So the library's own `lstm_cell`
# computes the rest, here without peepholes:


# %%
def convolution(x, W):
    """Convolve x (B, h, w, C) with W (k, k, C, K), zeros around it -> (B, h, w, K)."""
    k = len(W)
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = ((i, j, x[:, i : i + height, j : j + width]) for i in range(k) for j in range(k))
    return sum(window @ W[i, j] for i, j, window in windows)


def conv_lstm(x, Wx, Wh, b):
    """Return the last h (B, height, width, H) of a ConvLSTM for x (T, B, height, width, C)."""
    h = np.zeros((*x.shape[1:4], Wh.shape[2]))
    c = np.zeros_like(h)
    for x_t in x:
        a = convolution(x_t, Wx) + convolution(h, Wh) + b
        h, (_, c) = lstm_cell(a, c, None, np.empty_like(c), np.empty_like(h))
    return h


# %% [markdown]
# **Predict:** a digit moves over a frame. In a second film everything is the same, four pixels
# further to the right. How does the last $h$ of an LSTM change, and that of a ConvLSTM? (Both have
# random weights.)

# %%
digits, labels = data.load_digits()
digit = data.resize_digits(digits[:1], 8)
corners = np.stack([np.arange(4, 8), np.full(4, 2)], axis=1)  # row and column of the digit
frames = [
    data.draw_frames(digit[None], (corners + shift)[:, None, None], 16) / 255.0
    for shift in ((0, 0), (0, 4))
]
film, moved = (x.reshape(4, 1, 16, 16, 1) for x in frames)

H = 8  # channels
Wx, Wh = rng.normal(0, 0.5, (3, 3, 1, 4 * H)), rng.normal(0, 0.1, (3, 3, H, 4 * H))
b = np.zeros(4 * H)
by_convolution = [conv_lstm(x, Wx, Wh, b) for x in (film, moved)]

lstm = PeepholeLSTM(256, 256, np.random.default_rng(1))
by_matrix = []
for x in (film, moved):
    (y, _), _ = lstm.forward(x.reshape(4, 1, 256).astype(np.float32))
    by_matrix.append(y[-1].reshape(16, 16))


def moved_by_4(a, b):
    """Return how far b is from a moved by 4 columns, relative to the largest a."""
    return np.abs(b[..., 4:] - a[..., :-4]).max() / np.abs(a).max()


of_lstm = moved_by_4(*by_matrix)
of_conv = moved_by_4(*(h[0].transpose(2, 0, 1) for h in by_convolution))
print(f"state of the moved film minus the moved state: LSTM {of_lstm:.2f}, ConvLSTM {of_conv:.2f}")
assert of_conv < 1e-6 < of_lstm

channel = np.abs(by_convolution[0][0]).max(axis=(0, 1)).argmax()
drawn, axes = kit.figure(8, 5.4, columns=3, rows=2)
for row, (x, h, conv) in zip(
    axes, zip((film, moved), by_matrix, by_convolution, strict=True), strict=True
):
    for ax, picture in zip(row, (x[-1, 0, :, :, 0], h, conv[0, :, :, channel]), strict=True):
        ax.imshow(picture, cmap="gray", interpolation="nearest")
        ax.set_axis_off()
for ax, name in zip(axes[0], ("last frame", "LSTM: 256 units", "ConvLSTM: a channel"), strict=True):
    ax.set_title(name, color=kit.INK)
kit.save(drawn, "18_shift", show=False)

# %% [markdown]
# The ConvLSTM's $h$ is the same, moved by four columns. A ConvLSTM also has far fewer weights,
# because a convolution uses the same weights at every position:

# %%
size = sum(p.value.size for p in Composite(4096, 2048, 2, rng, init=Blank()).params().values())
channels, window = 64, 5
layer = 4 * channels * (window**2 * 2 * channels + 1)
print(f"the paper's composite model: {size / 1e6:.0f} million parameters")
print(f"one ConvLSTM layer of {channels} channels, {window} x {window}: {layer / 1e6:.2f} million")
assert size > 200 * layer

# %% [markdown]
# A disadvantage: the code of an LSTM is one list of numbers, which a classifier can read. The state
# of a ConvLSTM has $H$ channels at every position.
#
# Three more families of models:
#
# * **PredRNN** (Wang et al. 2017; PredRNN++ 2018) is a ConvLSTM with a second memory. This memory
#   goes from each layer to the layer above, and from the top layer to the bottom layer of the next
#   time step.
# * **Models without recurrence** (SimVP, Gao et al. 2022) compute all future frames at once from
#   all past frames. No output is fed back.
# * **Video transformers** cut frames into small squares. Each square receives a weighted sum over
#   other squares. The weights are computed from the squares; this is called *attention*. If each
#   square attends to all others, the work grows with the square of their number.
#
# ## Weakness 2: every pixel is predicted alone
#
# The loss of the paper treats the pixels of a frame as independent, given the past. If the future
# is uncertain, the best independent prediction is the mean of the possible futures: a blur. **Video
# Pixel Networks** (VPN, Kalchbrenner et al. 2016) predict one pixel after another. Each prediction
# depends on the frames before, and on the pixels before it in the same frame.
#
# Here is a small example. A digit goes to the left or to the right, with probability 1/2 each. So
# there are two possible pictures.
#
# **Predict:** how many nats does this frame cost if each pixel is predicted alone, as well as
# possible? And how many if a model gives each of the two pictures the probability 1/2?

# %%
zero = data.resize_digits(digits[labels == 0][:1], 8)[0]
shape = (zero > 60).astype(float)  # only 0 and 1: no grey pixels
left, right = np.zeros((2, 16, 16))
left[4:12, 0:8], right[4:12, 8:16] = shape, shape
mean = (left + right) / 2
p = np.clip(mean, 1e-12, 1 - 1e-12)
alone = -(left * np.log(p) + (1 - left) * np.log(1 - p)).sum()
together = -np.log(1 / 2)
print(f"independent pixels: {alone:.1f} nats; one of two pictures: {together:.2f} nats")
assert np.isclose(alone, (left != right).sum() * np.log(2))

# %% [markdown]
# If pixels are predicted alone, each pixel in which the two pictures differ costs $\log 2$. The
# other model pays $\log 2$ once for the whole frame. VPN can be such a model. It uses the chain
# rule, $p(y) = \prod_k p(y_k \mid y_1, \dots, y_{k-1})$. The first pixel in which the two
# pictures differ costs $\log 2$ and shows where the digit is. Then the other pixels are certain.
#
# This is one reason why the number of VPN is so low. In nats per frame, on two digits and 64 x 64
# pixels:
#
# | model | nats per frame | what the number is |
# | --- | --- | --- |
# | Future Predictor (slides) | 350.2 | free-running, independent pixels |
# | Composite Model (slides) | 344.9 | the same |
# | Composite, Conditional Future Predictor (slides) | 341.2 | the same |
# | Dynamic Filter Networks (2016) | 285.2 | as published |
# | our composite model, 6.3 minutes on a GPU | 244.2 | free-running, independent pixels |
# | Video Pixel Networks (2016) | 87.6 | likelihood: each pixel given all *true* pixels before |
# | entropy bound (public test file) | 86.3 | no prediction can be better |
#
# VPN is 1.3 nats above the bound. But **its number is another quantity**: predicted frame 5 is
# computed from the true frame 4, and each pixel from true pixels of the same frame. So it is closer
# to our *teacher-forced* numbers (tutorial 10) than to free-running ones. To predict a film, VPN
# must draw one pixel after the other: 4096 pixels for each frame.
#
# ## Squared error: the numbers of the last years
#
# Many later papers print three numbers per frame: squared error and absolute error, both summed
# over pixels, and the structural similarity SSIM. Our `python -m minilstm.evaluate RUN` prints
# them, too. The rows of the table below differ in more than the model:
#
# * **Training films.** The public code of PredRNN reads its training films from a file. We and the
#   benchmark OpenSTL draw new films for every batch. Our model saw 5 million. An "epoch" of OpenSTL
#   is 10,000 films, so 200 epochs are 2 million.
# * **Test films.** Some papers use the public file of 10,000 films, some use films of a similar
#   generator with other digits. OpenSTL uses the test films for validation, too.
# * **The loss in training.** Ours is the cross-entropy, which is none of the three columns.
# * **Size.** Our model has 201 million parameters. The models of OpenSTL below have 15 to 46
#   million.
#
# | model | trained | squared error | absolute error | SSIM |
# | --- | --- | --- | --- | --- |
# | ConvLSTM, numbers of the first papers | | 103.3 | 182.9 | 0.707 |
# | ConvLSTM-S, OpenSTL | to convergence | 46.26 | 142.18 | 0.878 |
# | ConvLSTM-L, OpenSTL | to convergence | 29.88 | 95.05 | 0.925 |
# | PredRNN, first paper | | 56.8 | 126.1 | 0.867 |
# | PredRNN, OpenSTL | to convergence | 25.04 | 76.26 | 0.944 |
# | PredRNN++, first paper | | 46.5 | 106.8 | 0.898 |
# | PredRNN++, OpenSTL | to convergence | 22.45 | 69.70 | 0.950 |
# | SimVP with a vision transformer | 200 epochs | 35.15 | 95.87 | 0.914 |
# | SimVP with a vision transformer | 2000 epochs | 19.74 | 61.65 | 0.954 |
#
# (First papers: as listed by paperswithcode.com. OpenSTL: `docs/en/model_zoos/video_benchmarks.md`
# of chengtan9907/OpenSTL, and its loader of Moving MNIST. Check the sources before you quote them.)
#
# **Predict:** PredRNN has a squared error of 56.8 in its own paper and of 25.04 in OpenSTL. Which
# is larger: this difference, or the difference between PredRNN and PredRNN++ in OpenSTL?

# %%
own_paper, benchmark, plus = 56.8, 25.04, 22.45
print(f"other training: {own_paper - benchmark:.1f}; other model: {benchmark - plus:.1f}")
assert own_paper - benchmark > 10 * (benchmark - plus)
kept = kept_predictions.read_kept()
print(f"ours: {kept.config.model.layers} layers of {kept.config.model.hidden} units, "
      f"{kept.about['step'] * kept.config.run.batch_size:,} training films")  # fmt: skip
print(*frame_errors.in_words(kept.result["frame_errors"]), sep="\n")

# %% [markdown]
# The step from PredRNN to PredRNN++ changes the error less than a tenth as much as other code and
# training. The slides' Table 2 depends on the training, too. Our composite model has the size of
# that of the slides. Its loss is 100 nats lower, after 6.3 minutes on a GPU of today, with Adam and
# a learning rate that falls along a cosine. Its squared error, 51.5, is between those of PredRNN
# (56.8) and PredRNN++ (46.5) in the first papers.
#
# ## Break it on purpose: the wall
#
# **Predict:** the digit is moved by six pixels, so that it touches the right wall. Is the
# ConvLSTM's $h$ still the same, moved by six columns?

# %%
touching = data.draw_frames(digit[None], (corners + (0, 6))[:, None, None], 16) / 255.0
there = conv_lstm(touching.reshape(4, 1, 16, 16, 1), Wx, Wh, b)[0]
here = by_convolution[0][0]
off = np.abs(there[:, 6:] - here[:, :-6]).max() / np.abs(here).max()
print(f"state minus the moved state: {off:.2f} of the largest value")
assert off > 1e-3

# %% [markdown]
# No. Near the wall the windows reach over the border and read zeros there, so $h$ depends on the
# distance to the wall. This is useful: to predict a bounce, the model must know where the wall is.
#
# ## Discussion
#
# Three *questions* of the paper are still asked. Can a model learn from films without labels, by
# prediction? Does this help in another task? What helps more, reconstruction or prediction?
# Exposure bias can occur in every model that reads its own output, also in a model that writes a
# text word by word.
#
# ## Exercises
#
# 1. The window of a ConvLSTM is so large that every position sees the whole frame. Is the model
#    then the LSTM of the paper?
# 2. Why are the predictions of a model that is trained with the squared error blurred, too?
# 3. A new model reports 18 as squared error on Moving MNIST. What do you ask before you believe
#    that it is better than 19.74?
#
# ### Answers
#
# 1. No. Every position still uses the same weights. It is an LSTM whose matrices have many equal
#    weights.
# 2. The prediction with the lowest mean squared error is the *mean* of the possible futures. The
#    next cell shows it for the two pictures.
# 3. How many training films? Which test films, and were settings chosen on them? How many seeds? In
#    the table above the error of one SimVP falls from 35.15 to 19.74 with longer training.

# %%
costs = {name: np.mean([metrics.squared_error(y.reshape(1, 1, 256), q.reshape(256))[0]
                        for y in (left, right)])
         for name, q in (("left", left), ("right", right), ("the mean of both", mean))}  # fmt: skip
print({name: round(float(cost), 1) for name, cost in costs.items()})
assert min(costs, key=costs.get) == "the mean of both"

# %% [markdown]
# **In the library:** [cells.py](../minilstm/layers/cells.py) `lstm_cell`;
# [frame_errors.py](../minilstm/evaluation/frame_errors.py),
# [kept_predictions.py](../minilstm/evaluation/kept_predictions.py) `read_kept`;
# [metrics.py](../minilstm/evaluation/metrics.py). This is the last tutorial.
