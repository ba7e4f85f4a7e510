"""Signals are those of forward, rhythms are found where there are some, and nowhere else."""

import numpy as np
import pytest

from minilstm.backend import use_backend
from minilstm.errors import ConfigError, NonFiniteError
from minilstm.evaluation import activations
from minilstm.layers.losses import SquaredError
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.rnn import ElmanRNN, SlidesRNN
from minilstm.layers.samples import randomize
from minilstm.models import Autoencoder, Composite, Encoder

LSTMS = [LSTM, PeepholeLSTM, SlidesLSTM]
CELLS = [*LSTMS, ElmanRNN, SlidesRNN]


@pytest.fixture(autouse=True)
def double_precision():
    with use_backend("numpy", "float64"):
        yield


def one_layer(cell, rng, T=6, B=2, D=4, H=3):
    layer = randomize(cell(D, H, rng), rng)
    state = tuple(rng.standard_normal((B, H)) for _ in layer.state_names)
    return layer, rng.standard_normal((T, B, D)), state


@pytest.mark.parametrize("cell", LSTMS)
def test_the_signals_of_an_lstm_fulfil_its_equations(cell):
    layer, x, state = one_layer(cell, np.random.default_rng(0))
    found, y = activations.unrolled(layer, x, state)
    assert list(found) == ["i", "f", "g", "o", "c", "h"]
    i, f, g, o, c, h = found.values()
    before = np.concatenate([state[1][None], c[:-1]])
    np.testing.assert_allclose(c, f * before + i * g, atol=1e-12)
    squashed = np.tanh(o * c) if cell is SlidesLSTM else o * np.tanh(c)
    np.testing.assert_allclose(h, squashed, atol=1e-12)
    np.testing.assert_array_equal(y, layer.forward(x, state)[0][0])
    for gate in (i, f, o):
        assert ((gate > 0) & (gate < 1)).all()


@pytest.mark.parametrize("cell", [ElmanRNN, SlidesRNN])
def test_an_rnn_has_one_signal(cell):
    layer, x, state = one_layer(cell, np.random.default_rng(0))
    found, y = activations.unrolled(layer, x, state)
    assert list(found) == ["h"]
    (y_again, (final,)), _ = layer.forward(x, state)
    np.testing.assert_array_equal(found["h"][-1], final)
    np.testing.assert_array_equal(y, y_again)


@pytest.mark.parametrize("loss", [None, SquaredError()])
@pytest.mark.parametrize("start", ["step", "read"])
@pytest.mark.parametrize("conditional", ["none", "future"])
def test_the_signals_of_the_future_are_those_of_the_free_running_decoder(conditional, start, loss):
    rng = np.random.default_rng(0)
    model = randomize(Composite(4, 3, 2, rng, conditional, start, loss), rng)
    past = rng.random((5, 2, 4))
    bottom, top = activations.future_signals(model, past, 6)
    assert bottom["h"].shape == top["h"].shape == (6, 2, 3)
    # what the top layer puts out is what frames are read from
    W, b = model.predict.readout.W.value, model.predict.readout.b.value
    late = 1 if start == "read" else 0  # whose first frame is read before the first step
    logits, _ = model.predict.forward(model.encoder.forward(past)[0], 6 + late)
    np.testing.assert_allclose(top["h"] @ W + b, logits[late:], atol=1e-10)


def test_the_signals_of_an_encoder_end_in_its_code():
    rng = np.random.default_rng(0)
    encoder = randomize(Encoder(4, 3, 2, rng), rng)
    past = rng.random((5, 2, 4))
    found = activations.encoder_signals(encoder, past)
    code, _ = encoder.forward(past)
    for layer, (h, c) in zip(found, code, strict=True):
        np.testing.assert_array_equal(layer["h"][-1], h)
        np.testing.assert_array_equal(layer["c"][-1], c)


def test_an_autoencoder_has_no_signals_of_the_future():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="autoencoder"):
        activations.future_signals(Autoencoder(4, 3, 1, rng), rng.random((5, 2, 4)), 6)


# ----------------------------------------------------------------------------------- rhythms

t = np.arange(100.0)
WAVES = {
    "a wave": (np.sin(2 * np.pi * t / 17), 17),
    "a wave that is small": (0.05 * np.sin(2 * np.pi * t / 17) + 3, 17),
    "a square wave": (np.sign(np.sin(2 * np.pi * (t + 0.5) / 20)), 20),
    "a wave after a long start": (np.where(t < 20, 9 * t, np.sin(2 * np.pi * t / 17)), 17),
}
NO_WAVES = {
    "rest": np.full(100, 0.7),
    "zero": np.zeros(100),
    "a slow approach": np.exp(-t / 30),
    "a rise": t / 100,
    "a wave that dies": np.exp(-t / 8) * np.sin(2 * np.pi * t / 17),
    "a wave too slow to come twice": np.sin(2 * np.pi * t / 160),
    "one step": np.where(t < 60, 0.0, 1.0),
}


@pytest.mark.parametrize("name", WAVES)
def test_a_rhythm_has_a_peak_near_1_at_its_period(name):
    wave, expected = WAVES[name]
    peak, period = activations.periodicity(wave[:, None])
    assert peak > 0.99 and period == expected


@pytest.mark.parametrize("name", NO_WAVES)
def test_what_has_no_rhythm_has_no_peak(name):
    peak, period = activations.periodicity(NO_WAVES[name][:, None])
    assert (peak, period) == (0, 0)


def test_noise_has_a_small_peak_and_every_unit_of_every_sequence_its_own():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((100, 3, 40))
    signal[:, 1, 7] = np.sin(2 * np.pi * t / 17)
    peak, period = activations.periodicity(signal)
    assert peak.shape == period.shape == (3, 40)
    assert peak[1, 7] > 0.99 and period[1, 7] == 17
    peak[1, 7] = 0
    assert 0.2 < peak.mean() < 0.35


@pytest.mark.parametrize("T", [1, 2, 3, 5, 30])
def test_a_signal_of_any_length_has_an_answer(T):
    peak, period = activations.periodicity(np.random.default_rng(0).random((T, 2, 3)))
    assert peak.shape == period.shape == (2, 3) and np.isfinite(peak).all()


def test_saturation_counts_what_is_within_a_tenth_of_an_end():
    assert activations.saturation(np.array([0.05, 0.5, 0.89, 0.95]), (0, 1)) == 0.5
    assert activations.saturation(np.array([-0.85, -0.75, 0.0, 0.85, 1.0]), (-1, 1)) == 0.6


# ----------------------------------------------------------------------- weights and gradients


@pytest.mark.parametrize("cell", CELLS)
def test_input_weights_are_what_an_input_adds_before_the_squashing(cell):
    layer, x, _ = one_layer(cell, np.random.default_rng(0), T=1)

    def before_squashing(x):
        found, y = activations.unrolled(layer, x, None)
        if layer.num_gates == 4:
            i, f, g, o = (found[letter][0] for letter in "ifgo")
            inner = np.log(i / (1 - i)), np.log(f / (1 - f)), np.arctanh(g), np.log(o / (1 - o))
            if cell is PeepholeLSTM:  # o also sees the new cell
                inner[3][...] -= layer.Wp.value[2] * found["c"][0]
            return np.concatenate(inner, axis=-1)
        return np.arctanh(y[0]) if cell is ElmanRNN else np.log(y[0] / (1 - y[0]))

    added = before_squashing(x) - before_squashing(0 * x)
    np.testing.assert_allclose(added, x[0] @ activations.input_weights(layer), atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_are_shown_are_copies(cell):
    rng = np.random.default_rng(0)
    model = Composite(4, 3, 1, rng, cell=cell)
    before = model.flat().value.copy()
    for weights in (
        activations.input_weights(model.encoder.layers[0]),
        activations.output_weights(model.predict),
    ):
        weights[...] = 7
    np.testing.assert_array_equal(model.flat().value, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_signal_that_is_not_finite_has_no_rhythm_and_no_saturation(value):
    signal = np.random.default_rng(0).random((40, 2))
    signal[30, 1] = value
    with pytest.raises(NonFiniteError, match="signal: expected finite numbers"):
        activations.periodicity(signal)
    with pytest.raises(NonFiniteError, match="signal: expected finite numbers"):
        activations.saturation(signal, (0, 1))


def test_the_largest_come_first():
    weights = np.diag([3.0, -7.0, 5.0, 1.0])
    assert activations.largest(weights, 3).tolist() == [1, 2, 0]
    assert activations.largest(weights, 200).tolist() == [1, 2, 0, 3]


def test_no_gradient_reaches_an_input_of_the_slides_rnn():
    rng = np.random.default_rng(0)
    encoder = randomize(Encoder(4, 6, 1, rng, SlidesRNN), rng)
    assert not activations.gradient_over_time(encoder, rng.random((5, 3, 4)), rng).any()


def test_a_gradient_shrinks_by_the_factor_of_the_recurrent_matrix():
    rng = np.random.default_rng(0)
    encoder = Encoder(4, 6, 1, rng, ElmanRNN)
    layer = encoder.layers[0]
    layer.Wh.value[...] = 0.5 * np.linalg.qr(rng.standard_normal((6, 6)))[0]
    layer.Wx.value[...] = 1e-9 * np.linalg.qr(rng.standard_normal((6, 4)))[0].T  # tanh stays linear
    norms = activations.gradient_over_time(encoder, rng.random((8, 300, 4)), rng)
    assert norms[0] == 1
    np.testing.assert_allclose(norms[1:] / norms[:-1], 0.5, rtol=0.05)


def test_measuring_a_gradient_over_time_keeps_the_gradients_that_were_accumulated():
    rng = np.random.default_rng(0)
    encoder = randomize(Encoder(4, 6, 2, rng), rng)
    grad = encoder.flat().grad
    grad[...] = rng.standard_normal(grad.shape)
    before = grad.copy()
    activations.gradient_over_time(encoder, rng.random((5, 3, 4)), rng)
    np.testing.assert_array_equal(grad, before)
