"""Slow, obviously right implementations of the slides and the paper, and what the library says.

The first half is plain Python: lists, loops over time, sequence and unit, `math.exp`. It is
written from the formulas, uses no code of the library, and agrees with it to 1e-12. The second
half asks PyTorch, where it is installed, and compares gradients too.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from minilstm.backend import use_backend
from minilstm.checker import analytic_gradients, layer_classes
from minilstm.errors import ConfigError, DataError, ShapeError
from minilstm.layers.losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.rnn import ElmanRNN, Recurrent, SlidesRNN
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.models import STARTS, Autoencoder, Composite, Decoder, Encoder, FuturePredictor

CELLS = [cls for cls in layer_classes() if issubclass(cls, Recurrent)]


def made(make):
    """A layer or a sample made in float64, with random parameters."""
    rng = np.random.default_rng(0)
    with use_backend("numpy", "float64"):
        return randomize(make(rng), rng)


def agree(got, expected, of, tolerance=1e-12):
    """The library's arrays and the reference's nested lists, number by number."""
    if isinstance(got, tuple):
        assert len(got) == len(expected), f"{of}: expected {len(expected)} parts, got {len(got)}"
        for k, (part, want) in enumerate(zip(got, expected, strict=True)):
            agree(part, want, f"{of}.{k}", tolerance)
    else:
        expected = np.array(expected)
        assert got.shape == expected.shape, f"{of}: expected {expected.shape}, got {got.shape}"
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance, err_msg=of)


# ---------------------------------------------------------------- plain Python: the cells


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def dot(x, W, k):
    """sum over j of x[j] W[j][k]"""
    return math.fsum(x[j] * W[j][k] for j in range(len(x)))


def lists(layer):
    """The parameters of a layer as nested lists."""
    values = {name: param.value.tolist() for name, param in layer.params().items()}
    return SimpleNamespace(H=layer.H, **values)


def slides_rnn(p, x, state):
    """h' = W h, o = sigmoid(Wi x + h' + b), returning (o, h')"""
    (h,) = state
    h_new = [dot(h, p.W, k) for k in range(p.H)]
    o = [sigmoid(dot(x, p.Wi, k) + h_new[k] + p.b[k]) for k in range(p.H)]
    return o, (h_new,)


def elman_rnn(p, x, state):
    """h = tanh(Wx x + Wh h' + b)"""
    (h,) = state
    h_new = [math.tanh(dot(x, p.Wx, k) + dot(h, p.Wh, k) + p.b[k]) for k in range(p.H)]
    return h_new, (h_new,)


def paper_lstm(p, x, state):
    """Section 2.1, unit by unit. Without Wp it is the standard LSTM."""
    h_old, c_old = state
    wci, wcf, wco = getattr(p, "Wp", [[0.0] * p.H] * 3)
    h_new, c_new = [], []
    for k in range(p.H):
        column = {"i": k, "f": p.H + k, "g": 2 * p.H + k, "o": 3 * p.H + k}
        a = {gate: dot(x, p.Wx, at) + dot(h_old, p.Wh, at) + p.b[at] for gate, at in column.items()}
        i = sigmoid(a["i"] + wci[k] * c_old[k])
        f = sigmoid(a["f"] + wcf[k] * c_old[k])
        c = f * c_old[k] + i * math.tanh(a["g"])
        o = sigmoid(a["o"] + wco[k] * c)
        c_new.append(c)
        h_new.append(o * math.tanh(c))
    return h_new, (h_new, c_new)


def slides_lstm(p, x, state):
    """The slides: gates of the joined [I x, h], no bias, h' = tanh(g_o m')"""
    h_old, m_old = state
    joined = [dot(x, p.Wi, k) for k in range(p.H)] + h_old
    h_new, m_new = [], []
    for k in range(p.H):
        g_u = sigmoid(dot(joined, p.W, k))
        g_f = sigmoid(dot(joined, p.W, p.H + k))
        g_c = math.tanh(dot(joined, p.W, 2 * p.H + k))
        g_o = sigmoid(dot(joined, p.W, 3 * p.H + k))
        m = g_f * m_old[k] + g_u * g_c
        m_new.append(m)
        h_new.append(math.tanh(g_o * m))
    return h_new, (h_new, m_new)


STEP = {
    SlidesRNN: slides_rnn,
    ElmanRNN: elman_rnn,
    LSTM: paper_lstm,
    PeepholeLSTM: paper_lstm,
    SlidesLSTM: slides_lstm,
}


def test_every_cell_of_the_package_has_a_reference():
    assert set(STEP) == set(CELLS)


def unrolled(layer, x, state):
    """Outputs [t][b][k] and final state [part][b][k], one sequence and one step at a time."""
    p, step = lists(layer), STEP[type(layer)]
    outputs, final = [], []
    for b in range(x.shape[1]):
        now, ys = tuple(part[b].tolist() for part in state), []
        for t in range(len(x)):
            y, now = step(p, x[t, b].tolist(), now)
            ys.append(y)
        outputs.append(ys)
        final.append(now)
    return np.swapaxes(outputs, 0, 1), np.swapaxes(final, 0, 1)


@pytest.mark.parametrize("D", [3, 1, 0])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_unrolled_does_what_the_formula_says(cell, D):
    T, B, H = 6, 2, 4
    layer = made(lambda rng: cell(D, H, rng))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((T, B, D))
    state = tuple(rng.standard_normal((B, H)) for _ in layer.state_names)
    (y, final), _ = layer.forward(x, state)
    agree((y, final), unrolled(layer, x, state), cell.__name__)


# ---------------------------------------------------------------- plain Python: the stack


def stack_step(stack, xs, states, masks, t, b):
    """One step of all layers for one sequence; returns the top output and the new states."""
    new = []
    for k, layer in enumerate(stack.layers):
        if k > 0 and masks is not None:
            kept, rate = masks[k - 1][t, b].tolist(), stack.dropout.rate
            xs = [x / (1 - rate) if keep else 0.0 for x, keep in zip(xs, kept, strict=True)]
        xs, state = STEP[type(layer)](lists(layer), xs, states[k])
        new.append(state)
    return xs, new


def states_of(code, b):
    return [tuple(part[b].tolist() for part in layer) for layer in code]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layer_count", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_stack_feeds_each_layer_the_outputs_of_the_one_below(cell, layer_count, dropout):
    T, B, D, H = 4, 2, 5, 3
    stack = made(lambda rng: Stack(D, H, layer_count, rng, cell=cell, dropout=dropout))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((T, B, D))
    parts = len(stack.layers[0].state_names)
    state = tuple(tuple(rng.standard_normal((parts, B, H))) for _ in range(layer_count))
    masks = tuple(rng.random((layer_count - 1, T, B, H)) < 0.6) if dropout else None
    (y, final), _ = stack.forward(x, state, masks)
    for b in range(B):
        now = states_of(state, b)
        for t in range(T):
            top, now = stack_step(stack, x[t, b].tolist(), now, masks, t, b)
            agree(y[t, b], top, f"output at t={t} b={b}")
        agree(tuple(tuple(part[b] for part in layer) for layer in final), now, f"final of b={b}")


# ---------------------------------------------------------------- plain Python: the decoder


def mean_frame(decoder_loss, logits):
    if isinstance(decoder_loss, BernoulliCrossEntropy):
        return [sigmoid(z) for z in logits]
    assert isinstance(decoder_loss, SquaredError)
    return list(logits)


def decoded(decoder, loss, code, T, truth, feed_truth, masks):
    """Logits [t][b][pixel], frame by frame, as the class docstring of Decoder tells it."""
    W, b_out = decoder.readout.W.value.tolist(), decoder.readout.b.value.tolist()
    D, sequences = decoder.D, []
    for b in range(len(code[0][0])):
        now, frames, step = states_of(code, b), [], 0
        top = now[-1][0]  # h of the top layer
        for t in range(T):
            if decoder.start == "step" or t > 0:
                if not decoder.conditional:
                    seen = []
                elif t == 0:
                    seen = [0.0] * D
                elif feed_truth is True or (feed_truth is not False and feed_truth[t - 1][b]):
                    seen = truth[t - 1, b].tolist()
                else:
                    seen = mean_frame(loss, frames[t - 1])
                top, now = stack_step(decoder.stack, seen, now, masks, step, b)
                step += 1
            frames.append([dot(top, W, d) + b_out[d] for d in range(D)])
        sequences.append(frames)
    return np.swapaxes(sequences, 0, 1)


FEEDS = ["unconditional", "teacher-forced", "free-running", "scheduled"]


@pytest.mark.parametrize("cell", [PeepholeLSTM, LSTM, SlidesLSTM, ElmanRNN])
@pytest.mark.parametrize("loss", [BernoulliCrossEntropy(), SquaredError()], ids=["bits", "squares"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("feed", FEEDS)
def test_a_decoder_does_what_its_docstring_says(feed, start, loss, cell):
    T, B, D, H, layer_count = 5, 3, 4, 2, 2
    conditional = feed != "unconditional"
    decoder = made(
        lambda rng: Decoder(D, H, layer_count, rng, conditional, start, loss, cell, dropout=0.3)
    )
    rng = np.random.default_rng(3)
    parts = len(decoder.stack.layers[0].state_names)
    code = tuple(tuple(rng.standard_normal((parts, B, H))) for _ in range(layer_count))
    truth = rng.random((T, B, D))
    mixed = rng.random((T, B)) < 0.5
    feed_truth = {"teacher-forced": True, "scheduled": mixed}.get(feed, False)
    masks = (rng.random((T if start == "step" else T - 1, B, H)) < 0.7,)
    logits, _ = decoder.forward(code, T, truth, feed_truth, masks)
    agree(logits, decoded(decoder, loss, code, T, truth, feed_truth, masks), f"{feed} {start}")


@pytest.mark.parametrize("start", STARTS)
def test_choosing_the_truth_always_or_never_is_teacher_forcing_or_free_running(start):
    T, B, D = 5, 3, 4
    decoder = made(lambda rng: Decoder(D, 2, 2, rng, True, start))
    rng = np.random.default_rng(4)
    code = tuple(tuple(rng.standard_normal((2, B, 2))) for _ in range(2))
    truth = rng.random((T, B, D))
    for constant in (True, False):
        expected, _ = decoder.forward(code, T, truth, constant)
        got, _ = decoder.forward(code, T, truth, np.full((T, B), constant))
        agree(got, expected, f"feed_truth={constant}", 1e-14)


def test_the_last_true_frame_is_never_fed():
    decoder = made(lambda rng: Decoder(4, 2, 2, rng, True))
    rng = np.random.default_rng(5)
    code = tuple(tuple(rng.standard_normal((2, 3, 2))) for _ in range(2))
    truth = rng.random((5, 3, 4))
    before, _ = decoder.forward(code, 5, truth, True)
    truth[-1] = 7
    after, _ = decoder.forward(code, 5, truth, True)
    assert (before == after).all()
    truth[-2] = 7
    changed, _ = decoder.forward(code, 5, truth, True)
    assert (changed[:-1] == before[:-1]).all() and (changed[-1] != before[-1]).all()


# ---------------------------------------------------------------- plain Python: the models


def encoded(encoder, past):
    """The code [layer][part][b][k]: the final states of a stack that starts from zeros."""
    H, parts = encoder.layers[0].H, len(encoder.layers[0].state_names)
    finals = []
    for b in range(past.shape[1]):
        now = [tuple([0.0] * H for _ in range(parts)) for _ in encoder.layers]
        for t in range(len(past)):
            _, now = stack_step(encoder, past[t, b].tolist(), now, None, t, b)
        finals.append(now)
    return tuple(tuple(np.moveaxis(np.array(finals), 0, 2)[k]) for k in range(len(encoder.layers)))


def test_the_code_is_the_final_state_of_every_layer():
    encoder = made(lambda rng: Encoder(4, 2, 3, rng))
    past = np.random.default_rng(6).random((5, 3, 4))
    code, _ = encoder.forward(past)
    agree(code, encoded(encoder, past), "code")


@pytest.mark.parametrize("model", [Autoencoder, FuturePredictor, Composite])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("conditional", ["none", "reconstruction", "future", "both"])
@pytest.mark.parametrize("feed_truth", [True, False])
def test_a_model_rebuilds_the_past_in_reverse_and_continues_it(
    model, start, conditional, feed_truth
):
    T_past, T_future, B, D = 4, 5, 2, 3
    layer = made(lambda rng: model(D, 2, 2, rng, conditional, start))
    rng = np.random.default_rng(7)
    past, future = rng.random((T_past, B, D)), rng.random((T_future, B, D))
    (reconstruction, prediction), _ = layer.forward(past, future, T_future, feed_truth)
    code, loss = encoded(layer.encoder, past), layer.loss
    if model is not FuturePredictor:
        backwards = np.array(past.tolist()[::-1])
        assert layer.reconstruct.conditional is (conditional in ("reconstruction", "both"))
        expected = decoded(layer.reconstruct, loss, code, T_past, backwards, feed_truth, None)
        agree(reconstruction, expected, "reconstruction")
    if model is not Autoencoder:
        assert layer.predict.conditional is (conditional in ("future", "both"))
        expected = decoded(layer.predict, loss, code, T_future, future, feed_truth, None)
        agree(prediction, expected, "prediction")
    assert (reconstruction is None) is (model is FuturePredictor)
    assert (prediction is None) is (model is Autoencoder)
    targets = layer.targets(past, future)
    assert [target is None for target in targets] == [reconstruction is None, prediction is None]
    assert reconstruction is None or (targets[0][0] == past[-1]).all()
    assert prediction is None or targets[1] is future


@pytest.mark.parametrize("loss", [BernoulliCrossEntropy(), SquaredError()], ids=["bits", "squares"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("conditional", ["none", "both"])
def test_rollout_is_the_free_running_mean_and_goes_on_for_longer_than_trained(
    conditional, start, loss
):
    layer = made(lambda rng: Composite(6, 2, 2, rng, conditional, start, loss))
    past = np.random.default_rng(8).random((3, 2, 2, 3))  # frames of 2 x 3 pixels
    flat = past.reshape(3, 2, 6)
    frames = layer.rollout(past, 50)
    assert frames.shape == (50, 2, 2, 3) and type(frames) is np.ndarray
    logits = decoded(layer.predict, loss, encoded(layer.encoder, flat), 12, None, False, None)
    mean = [[mean_frame(loss, logits[t][b]) for b in range(2)] for t in range(12)]
    agree(frames[:12].reshape(12, 2, 6), mean, "rollout")
    agree(layer.rollout(past, 10), frames[:10], "the first ten of fifty", 0)
    agree(layer.rollout(past, 1), frames[:1], "the first of fifty", 0)
    again, _ = layer.forward(flat, None, 4, False)
    agree(layer.rollout(past, 4).reshape(4, 2, 6), loss.mean(again[1], np.empty((4, 2, 6))), "", 0)


def test_reconstruction_is_in_forward_order():
    layer = made(lambda rng: Autoencoder(4, 2, 2, rng))
    past = np.random.default_rng(9).random((5, 3, 4))
    (logits, _), _ = layer.forward(past)
    expected = [[[sigmoid(z) for z in frame] for frame in row] for row in logits.tolist()][::-1]
    agree(layer.reconstruction(past), expected, "reconstruction")


def test_asking_for_what_a_model_does_not_do_is_refused():
    past = np.ones((5, 3, 4))
    with pytest.raises(ConfigError, match="autoencoder"):
        made(lambda rng: Autoencoder(4, 2, 1, rng)).rollout(past, 5)
    with pytest.raises(ConfigError, match="predictor"):
        made(lambda rng: FuturePredictor(4, 2, 1, rng)).reconstruction(past)
    composite = made(lambda rng: Composite(4, 2, 1, rng))
    with pytest.raises(ShapeError, match="divide bytes by 255"):
        composite.rollout((255 * past).astype("uint8"), 5)
    with pytest.raises(ShapeError, match="expected T >= 1 frames to decode, got 0"):
        composite.rollout(past, 0)
    with pytest.raises(ShapeError, match=r"expected .* with 4 pixels a frame, got \(5, 3, 5\)"):
        composite.rollout(np.ones((5, 3, 5)), 5)
    for wrong in (np.nan, 255.0):
        with pytest.raises(DataError, match=r"expected past within \[0, 1\]"):
            composite.rollout(wrong * past, 5)


def test_the_slides_literal_rnn_cannot_remember_its_input():
    """Its x never reaches the next state: the tutorial shows it, this proves it."""
    layer = made(lambda rng: SlidesRNN(3, 4, rng))
    rng = np.random.default_rng(10)
    state = (rng.standard_normal((2, 4)),)
    finals = []
    for x in rng.standard_normal((2, 5, 2, 3)):
        (_, final), cache = layer.forward(x, state)
        dx, _ = layer.backward((None, (rng.standard_normal((2, 4)),)), cache)
        assert not dx.any()
        finals.append(final[0])
    assert finals[0].tobytes() == finals[1].tobytes()


@pytest.mark.parametrize("cell", sorted(set(CELLS) - {SlidesRNN}, key=lambda cls: cls.__name__))
def test_every_other_cell_can_remember_its_first_input(cell):
    layer = made(lambda rng: cell(3, 4, rng))
    rng = np.random.default_rng(11)
    (_, final), cache = layer.forward(rng.standard_normal((5, 2, 3)))
    dx, _ = layer.backward((None, tuple(map(np.ones_like, final))), cache)
    assert (np.abs(dx[0]) > 1e-9).all()


# ---------------------------------------------------------------- plain Python: the losses


def log_sum_exp(numbers):
    top = max(numbers)
    return top + math.log(math.fsum(math.exp(number - top) for number in numbers))


def cross_entropy_of_bits(z, y):
    """-[y log p + (1-y) log(1-p)]: two classes with logits z and 0."""
    return y * (log_sum_exp([z, 0.0]) - z) + (1 - y) * log_sum_exp([z, 0.0])


def framewise(of_frame, logits, target):
    """Summed over a frame, averaged over frames and sequences."""
    frames = [
        of_frame(z, y)
        for z_step, y_step in zip(logits.tolist(), target.tolist(), strict=True)
        for z, y in zip(z_step, y_step, strict=True)
    ]
    return math.fsum(frames) / len(frames)


def bernoulli(z, y):
    return math.fsum(map(cross_entropy_of_bits, z, y))


def squared(z, y):
    return math.fsum(0.5 * (a - b) ** 2 for a, b in zip(z, y, strict=True))


def categorical(z, label):
    return log_sum_exp(z) - z[label]


@pytest.mark.parametrize("scale", [0.1, 3, 100, 1000])
def test_losses_are_the_sums_written_out_by_hand(scale):
    rng = np.random.default_rng(12)
    logits = scale * rng.standard_normal((4, 3, 6))
    grey, labels = rng.random((4, 3, 6)), rng.integers(0, 6, (4, 3))
    for loss, reference, target in (
        (BernoulliCrossEntropy(), bernoulli, grey),
        (SquaredError(), squared, grey),
        (SoftmaxCrossEntropy(), categorical, labels),
    ):
        got, _ = loss.forward(logits, target)
        want = framewise(reference, logits, target)
        assert got == pytest.approx(want, rel=1e-14, abs=1e-12), type(loss).__name__


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("logit", "pixel", "expected"),
    [
        (1000, 0, 1000),
        (1000, 1, 0),
        (-1000, 1, 1000),
        (-1000, 0, 0),
        (0, 0, math.log(2)),
        (0, 1, math.log(2)),
        (1000, 0.25, 750),
        (-40, 0, math.exp(-40)),
        (30, 1, math.exp(-30)),
    ],
)
def test_the_cross_entropy_of_bits_is_stable_and_so_is_its_gradient(logit, pixel, expected, dtype):
    loss, D = BernoulliCrossEntropy(), 7
    logits, target = np.full((2, 3, D), logit, dtype), np.full((2, 3, D), pixel, dtype)
    got, cache = loss.forward(logits, target)
    lost = 2 * float(np.finfo(dtype).eps) * max(1, abs(logit))  # of 1 + exp(-|z|) and of |z| - y z
    assert float(got) == pytest.approx(D * expected, rel=1e-6, abs=D * lost)
    dlogits, _ = loss.backward(np.ones((), dtype), cache)
    p = 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
    np.testing.assert_allclose(dlogits, (p - pixel) / 6, atol=1e-7, err_msg=str(logit))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_softmax_cross_entropy_is_stable_and_so_is_its_gradient(dtype):
    loss = SoftmaxCrossEntropy()
    logits = np.array([[[1000, -1000, 0], [-1000, -1000, -1000], [1000, 1000, -1000]]], dtype)
    for label, expected in (
        (0, (0, math.log(3), math.log(2))),
        (1, (2000, math.log(3), math.log(2))),
    ):
        got, cache = loss.forward(logits, np.full((1, 3), label))
        assert got == pytest.approx(sum(expected) / 3, rel=1e-6)
        dlogits, _ = loss.backward(np.ones((), dtype), cache)
        p = np.array([[[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]]])
        np.testing.assert_allclose(dlogits, (p - np.eye(3)[label]) / 3, atol=1e-7)


def test_the_unit_is_nats_per_frame():
    """Chance on 64 x 64 pixels: every pixel costs log 2, whatever T and B are."""
    for T, B in ((1, 1), (3, 2), (10, 4)):
        loss, _ = BernoulliCrossEntropy().forward(np.zeros((T, B, 4096)), np.ones((T, B, 4096)))
        assert loss == pytest.approx(4096 * math.log(2))


@pytest.mark.parametrize("loss", [BernoulliCrossEntropy, SquaredError, SoftmaxCrossEntropy])
def test_mean_is_where_the_loss_is_least_and_mean_backward_its_derivative(loss):
    rng = np.random.default_rng(13)
    z, dmean = 2 * rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    mean = loss().mean(z, np.empty_like(z))
    kinds = {
        BernoulliCrossEntropy: lambda row: [sigmoid(a) for a in row],
        SquaredError: list,
        SoftmaxCrossEntropy: lambda row: [math.exp(a - log_sum_exp(row)) for a in row],
    }
    expected = [[kinds[loss](row) for row in rows] for rows in z.tolist()]
    agree(mean, expected, "mean")
    stepped = loss().mean(z + 1e-30j * np.eye(4)[1], np.empty(z.shape, complex)).imag / 1e-30
    want = (dmean * stepped).sum(-1)
    got = loss().mean_backward(dmean.copy(), mean)[..., 1]
    agree(got, want, "mean_backward")


# ---------------------------------------------------------------- an optional witness: PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: an optional witness")


PYTORCH_TOLERANCE = {"float64": 1e-12, "float32": 2e-6}


@pytest.mark.parametrize("dtype", PYTORCH_TOLERANCE)
@pytest.mark.parametrize(("cell", "name"), [(LSTM, "LSTM"), (ElmanRNN, "RNN")])
def test_the_standard_cells_are_pytorchs_in_value_and_in_every_gradient(torch, cell, name, dtype):
    T, B, D, H = 7, 3, 5, 4
    layer = made(lambda rng: cell(D, H, rng)).astype(dtype)
    theirs = getattr(torch.nn, name)(D, H, dtype=getattr(torch, dtype))
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(layer.Wx.value.T.copy()))
        theirs.weight_hh_l0.copy_(torch.tensor(layer.Wh.value.T.copy()))
        theirs.bias_ih_l0.copy_(torch.tensor(layer.b.value))
        theirs.bias_hh_l0.zero_()
    rng = np.random.default_rng(14)
    x = rng.standard_normal((T, B, D)).astype(dtype)
    state = tuple(rng.standard_normal((B, H)).astype(dtype) for _ in layer.state_names)
    (y, final), cache = layer.forward(x, state)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dfinal = tuple(rng.standard_normal(part.shape).astype(dtype) for part in final)
    dx, dstate = layer.backward((dy, dfinal), cache)

    x_, *state_ = (torch.tensor(array, requires_grad=True) for array in (x, *state))
    starts = tuple(part[None] for part in state_)
    y_, final_ = theirs(x_, starts if cell is LSTM else starts[0])
    final_ = tuple(part[0] for part in (final_ if cell is LSTM else (final_,)))
    loss = (y_ * torch.tensor(dy)).sum()
    loss = loss + sum((a * torch.tensor(b)).sum() for a, b in zip(final_, dfinal, strict=True))
    loss.backward()
    tolerance = PYTORCH_TOLERANCE[dtype]
    for what, ours, witness in (
        ("y", y, y_),
        *((f"final {k}", final[k], final_[k]) for k in range(len(final))),
        ("dx", dx, x_.grad),
        *((f"dstate {k}", dstate[k], state_[k].grad) for k in range(len(state))),
        ("dWx", layer.Wx.grad, theirs.weight_ih_l0.grad.T),
        ("dWh", layer.Wh.grad, theirs.weight_hh_l0.grad.T),
        ("db", layer.b.grad, theirs.bias_ih_l0.grad),
    ):
        witness = witness.detach().numpy()
        scale = np.abs(witness).max()
        np.testing.assert_allclose(
            ours / scale, witness / scale, rtol=0, atol=tolerance, err_msg=f"{name} {what}"
        )


def torch_lstm(torch, p, prefix, x, h, c):
    """The paper's section 2.1 for autograd; peepholes where there are some."""
    a = x @ p[prefix + "Wx"] + h @ p[prefix + "Wh"] + p[prefix + "b"]
    i, f, g, o = a.chunk(4, dim=-1)
    wci, wcf, wco = p.get(prefix + "Wp", (0.0, 0.0, 0.0))
    i, f = torch.sigmoid(i + wci * c), torch.sigmoid(f + wcf * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + wco * c)
    return o * torch.tanh(c), c


def torch_stack_step(torch, p, prefix, x, states, mask, rate):
    new = []
    for k, (h, c) in enumerate(states):
        if k > 0:
            x = x * mask[k - 1] / (1 - rate)
        h, c = torch_lstm(torch, p, f"{prefix}{k}.", x, h, c)
        new.append((h, c))
        x = h
    return x, new


def torch_decoder(torch, p, prefix, decoder, mean, code, T, truth, feed, masks):
    rate, B, states = decoder.stack.dropout.rate, len(code[0][0]), code
    top, frames, step = code[-1][0], [], 0
    for t in range(T):
        if decoder.start == "step" or t > 0:
            if not decoder.conditional:
                x = top.new_zeros((B, 0))
            elif t == 0:
                x = top.new_zeros((B, decoder.D))
            else:
                x = mean(frames[-1])
                if feed is True:
                    x = truth[t - 1]
                elif feed is not False:
                    x = torch.where(torch.tensor(feed[t - 1])[:, None], truth[t - 1], x)
            mask = [torch.tensor(gap[step]) for gap in masks]
            top, states = torch_stack_step(torch, p, prefix + "stack.", x, states, mask, rate)
            step += 1
        frames.append(top @ p[prefix + "readout.W"] + p[prefix + "readout.b"])
    return torch.stack(frames)


def torch_model(torch, model, p, past, future, T, feed_truth, masks):
    """Encoder and decoders, written once more for autograd. Returns the list of logits."""
    mean = torch.sigmoid if isinstance(model.loss, BernoulliCrossEntropy) else (lambda z: z)
    feeds = feed_truth if isinstance(feed_truth, tuple) else (feed_truth, feed_truth)
    H, B = model.encoder.layers[0].H, past.shape[1]
    code = [(past.new_zeros((B, H)),) * 2 for _ in model.encoder.layers]
    for t in range(len(past)):
        mask = [torch.tensor(gap[t]) for gap in masks[0]]
        rate = model.encoder.dropout.rate
        _, code = torch_stack_step(torch, p, "encoder.", past[t], code, mask, rate)
    logits = []
    for name, length, truth, feed, gaps in (
        ("reconstruct", len(past), past.flip(0), feeds[0], masks[1]),
        ("predict", T, future, feeds[1], masks[2]),
    ):
        if (decoder := getattr(model, name)) is not None:
            arguments = (mean, code, length, truth, feed, gaps)
            logits.append(torch_decoder(torch, p, f"{name}.", decoder, *arguments))
    return logits


VARIANTS = [
    (cls, variant)
    for cls in (Autoencoder, FuturePredictor, Composite)
    for variant in cls.samples(np.random.default_rng(0))
]


@pytest.mark.parametrize(
    ("cls", "variant"), VARIANTS, ids=[f"{cls.__name__} {variant}" for cls, variant in VARIANTS]
)
def test_autograd_finds_the_same_gradients_of_whole_models(torch, cls, variant):
    with use_backend("numpy", "float64"):
        sample = cls.samples(np.random.default_rng(15))[variant]
    model = sample.layer
    past, future, T, feed_truth, masks = sample.inputs
    inputs = dict(zip(("past", "future", "T", "feed_truth", "masks"), sample.inputs, strict=True))
    ours, doutputs = analytic_gradients(model, inputs, "float64")
    p = {
        name: torch.tensor(param.value, requires_grad=True)
        for name, param in model.params().items()
    }
    past_ = torch.tensor(past, requires_grad=True)
    future_ = None if future is None else torch.tensor(future, requires_grad=True)
    logits = torch_model(torch, model, p, past_, future_, T, feed_truth, masks)
    (reconstruction, prediction), _ = model.forward(past, future, T, feed_truth, masks)
    present = [got for got in (reconstruction, prediction) if got is not None]
    for k, (got, want) in enumerate(zip(present, logits, strict=True)):
        agree(got, want.detach().numpy(), f"logits {k}")
    sum((z * torch.tensor(d)).sum() for z, d in zip(logits, doutputs, strict=True)).backward()
    theirs = {name: tensor.grad for name, tensor in (*p.items(), ("past", past_))}
    if future_ is not None:
        theirs["future"] = future_.grad
    assert ours.keys() == theirs.keys()
    for name, got in ours.items():
        agree(got, theirs[name].numpy(), f"gradient of {name}")


@pytest.mark.parametrize("cell", [LSTM, PeepholeLSTM])
def test_autograd_finds_the_same_gradients_of_an_lstm(torch, cell):
    T, B, D, H = 6, 2, 3, 4
    layer = made(lambda rng: cell(D, H, rng))
    rng = np.random.default_rng(16)
    x, state = rng.standard_normal((T, B, D)), tuple(rng.standard_normal((2, B, H)))
    ours, (dy, dh, dc) = analytic_gradients(layer, {"x": x, "state": state}, "float64")
    p = {n: torch.tensor(v.value, requires_grad=True) for n, v in layer.params().items()}
    x_, h, c = (torch.tensor(array, requires_grad=True) for array in (x, *state))
    start, loss = (h, c), 0
    for t in range(T):
        h, c = torch_lstm(torch, p, "", x_[t], h, c)
        loss = loss + (h * torch.tensor(dy[t])).sum()
    (loss + (h * torch.tensor(dh)).sum() + (c * torch.tensor(dc)).sum()).backward()
    theirs = {**p, "x": x_, "state.0": start[0], "state.1": start[1]}
    assert ours.keys() == theirs.keys()
    for name, got in ours.items():
        agree(got, theirs[name].grad.numpy(), f"gradient of {name}")


@pytest.mark.parametrize("scale", [1, 30])
def test_pytorch_computes_the_same_losses_and_gradients(torch, scale):
    functional = torch.nn.functional
    rng = np.random.default_rng(17)
    logits, grey = scale * rng.standard_normal((4, 3, 6)), rng.random((4, 3, 6))
    labels, frames = rng.integers(0, 6, (4, 3)), 12
    for loss, target, theirs in (
        (
            BernoulliCrossEntropy(),
            grey,
            lambda z, y: functional.binary_cross_entropy_with_logits(z, y, reduction="sum"),
        ),
        (SquaredError(), grey, lambda z, y: 0.5 * functional.mse_loss(z, y, reduction="sum")),
        (
            SoftmaxCrossEntropy(),
            labels,
            lambda z, y: functional.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="sum"),
        ),
    ):
        name = type(loss).__name__
        z = torch.tensor(logits, requires_grad=True)
        want = theirs(z, torch.tensor(target)) / frames
        (1.7 * want).backward()
        got, cache = loss.forward(logits, target)
        assert got == pytest.approx(want.item(), rel=1e-13), name
        dlogits, none = loss.backward(1.7, cache)
        assert none is None
        agree(dlogits, z.grad.numpy(), name)
