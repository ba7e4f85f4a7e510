"""Look inside a model: gates and cells over time, weights as images, gradients through time.

Figure 7 of the paper shows six signals of an LSTM while it predicts: the gates i, f, o, the
candidate g, the cell c and the output h. In a trained model they follow the rhythm of the motion.
With random weights they become constant. `periodicity` measures the difference. Figures 9 and 10
show `input_weights` and `output_weights`. `gradient_over_time` measures how a gradient vanishes on
its way back through time.

All of it runs on NumPy, from the results of forward and backward.

Read next: figures/panels.py, which draws it.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from ..layers.rnn import ElmanRNN, Recurrent, SlidesRNN
from ..models import Decoder, Encoder, EncoderDecoder
from .metrics import expect_finite

PACKAGE_CELLS = (PeepholeLSTM, LSTM, SlidesLSTM, ElmanRNN, SlidesRNN)
WORDS = {
    "i": "input gate",
    "f": "forget gate",
    "g": "candidate",
    "o": "output gate",
    "c": "cell",
    "h": "output",
}
SETTLING_STEPS = 20  # left out, so that a rhythm can begin
STILL_DEVIATION = 1e-2  # standard deviation below which a unit is at rest


def unrolled(
    layer: Recurrent, x: np.ndarray, state: tuple | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the signals of one recurrent layer over x (T, B, D), each (T, B, H), and its output y.

    The signals are the gates, by the names in `gate_ranges`, and then the states, with h last:
    i f g o c h of an LSTM, h of an RNN. The values are those of `forward`, taken from its cache.
    """
    (y, _), cache = layer.forward(x, state)
    run, H = cache.consume().run, layer.H
    found = {name: run.a[..., k * H : (k + 1) * H] for k, name in enumerate(layer.gate_ranges)}
    for name in reversed(layer.state_names):
        found[name] = getattr(run, name)[1:]
    return found, y


def title_and_range(layer: Recurrent, name: str) -> tuple[str, tuple[float, float] | None]:
    """Return the title of a signal, "forget gate f", and its range, or None where it has none.

    Only the package's own cells have such titles. The title of another cell's signal is its name.
    """
    known = type(layer) in PACKAGE_CELLS
    title = f"{WORDS[name]} {name}" if known else name
    return title, layer.gate_ranges.get(name, (-1, 1) if known and name == "h" else None)


def encoder_signals(encoder: Encoder, past: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the signals of every layer of an encoder that sees past (T, B, D), bottom first."""
    return _stack_signals(encoder, past, (None,) * len(encoder.layers))


def future_signals(model: EncoderDecoder, past: np.ndarray, T: int) -> list[dict[str, np.ndarray]]:
    """Return the signals of every layer of the future decoder in T steps from past (Tp, B, D).

    The decoder is free-running. Raises ConfigError for a model without one.
    """
    if model.predict is None:
        raise ConfigError("expected a model that predicts, got an autoencoder: train another")
    code, _ = model.encoder.forward(past)
    return _stack_signals(model.predict.stack, _inputs(model.predict, code, T), code)


def _inputs(decoder: Decoder, code, T):
    """Return the inputs of T steps of a free-running decoder: its own frames, or width 0."""
    B = len(code[0][0])
    if not decoder.conditional:
        return np.zeros((T, B, 0), decoder.dtype)
    logits, _ = decoder.forward(code, T)
    frames = decoder.loss.mean(logits, out=np.empty_like(logits))
    if decoder.start == "read":
        return frames
    return np.concatenate([np.zeros_like(frames[:1]), frames[:-1]])


def _stack_signals(stack, x, states):
    found = []
    for layer, state in zip(stack.layers, states, strict=True):
        signals, x = unrolled(layer, x, state)
        found.append(signals)
    return found


# ---------------------------------------------------------------- rhythm


def periodicity(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the rhythm of each unit: signal (T, ...) -> peak and period, (...) each.

    The first SETTLING_STEPS steps are left out. The autocorrelation r(k) is the correlation of the
    rest with itself k steps later, for k up to half its length. Near k = 0 every smooth signal
    resembles itself. So `peak` is the largest local maximum of r after r has first fallen to 0 or
    below. `period` is the first k at which r is within 5 % of the peak, so that no multiple of the
    period is taken. Peak and period are 0 where there is no such maximum, and where the last
    quarter of the signal has a standard deviation below STILL_DEVIATION. White noise of 100 steps
    has a peak of 0.27 on average. Raises NonFiniteError for a signal with NaN or infinity.
    """
    expect_finite(signal, "signal")
    T, *shape = signal.shape
    x = signal[min(SETTLING_STEPS, T // 2) :].reshape(-1, signal[0].size).astype(float)
    T = len(x)
    if T < 6:  # r is too short for a maximum inside
        return np.zeros(shape), np.zeros(shape, int)
    r = np.stack([_correlation(x[: T - k], x[k:]) for k in range(1, T // 2 + 1)])
    fallen = np.logical_or.accumulate(r <= 0, axis=0)
    moves = x[-(T // 4) :].std(axis=0) > STILL_DEVIATION
    tops = np.zeros_like(r)  # 0 at both ends of r, where a local maximum can't be recognised
    tops[1:-1] = np.where((r[1:-1] >= r[:-2]) & (r[1:-1] > r[2:]), r[1:-1], 0)
    tops = np.where(fallen & moves, tops, 0).clip(0)
    peak = tops.max(axis=0)
    period = np.where(peak > 0, 1 + (tops >= 0.95 * peak).argmax(axis=0), 0)
    return peak.reshape(shape), period.reshape(shape)


def _correlation(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros_like(size), where=size > 0)


def saturation(signal: np.ndarray, limits: tuple[float, float]) -> float:
    """Return the share of a gate's values within a tenth of its range from either end.

    There the gate's slope is small. Raises NonFiniteError for a signal with NaN or infinity.
    """
    expect_finite(signal, "signal")
    low, high = limits
    tenth = (high - low) / 10
    return float(((signal < low + tenth) | (signal > high - tenth)).mean())


# ---------------------------------------------------------------- weights, gradients


def input_weights(layer: Recurrent) -> np.ndarray | None:
    """Return the weights from each input to each unit: (D, G * H), gates in the order i f g o.

    They are a copy. Returns None for a cell without such weights.
    """
    if isinstance(layer, SlidesLSTM):  # the input is first projected to Ix
        return layer.Wi.value @ layer.W.value[: layer.H]
    weight = layer.params().get("Wi" if isinstance(layer, SlidesRNN) else "Wx")
    fits = weight is not None and weight.value.shape == (layer.D, layer.num_gates * layer.H)
    return weight.value.copy() if fits else None


def output_weights(decoder: Decoder) -> np.ndarray:
    """Return a copy of the weights from each unit of the top layer to each pixel: (H, D)."""
    return decoder.readout.W.value.copy()


def largest(weights: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` rows of (N, D) with the largest L2 norm, largest first."""
    return np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")[:count]


def gradient_over_time(encoder: Encoder, past: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Measure how a gradient at the end fades on its way back: past (T, B, D) -> (T,).

    A random gradient enters at h of the top layer after the last frame. Returns the norm of dL/dx
    at the last frame, at the one before, and so on, each divided by the first. The gradients of the
    encoder's parameters stay as they were.
    """
    params = encoder.params().values()
    accumulated = [param.grad.copy() for param in params]
    code, cache = encoder.forward(past)
    dcode = tuple(tuple(np.zeros_like(state) for state in layer) for layer in code)
    dcode[-1][0][...] = rng.standard_normal(dcode[-1][0].shape)
    dpast, _ = encoder.backward(dcode, cache)
    for param, grad in zip(params, accumulated, strict=True):
        param.grad[...] = grad
    norms = np.linalg.norm(dpast.astype(float), axis=(1, 2))[::-1]
    return norms / (norms[0] or 1.0)  # 0 for the slides' RNN, whose state sees no input
