"""Metrics of a model: nats per frame, its baselines, and sharpness.

The slides' Table 2 ("Future prediction results") counts in nats per frame: the Bernoulli
cross-entropy SUMMED over the pixels of a frame and averaged over the sequences. A number such as
341.2 says little alone. So it is printed between predictions without a model (the mean image, a
copy of the last frame) and the entropy bound, which no model can beat. For two digits of MNIST's
test set on 64x64 pixels:

    p = 0.5  2839  >  copy of the last frame  2153  >  mean image  672  >  entropy bound  87

These depend on the digits: the first 1,000 of the test set are thinner and give 2007, 639 and 85.
So a result is compared with the baselines of its own sequences, which `baselines` computes.

The mean image is a hard baseline, because a grey pixel is never very wrong. So a second number,
`sharpness`, measures whether the picture shows digits.

Arrays are NumPy floats of shape (T, N, D): time, sequences, pixels. They are in [0, 1], except for
`squared_error`. A function returns one number per time step, (T,), whose `.mean()` is the number
for the whole. `baselines` returns several such arrays, `equivalent_blur` one number.

Read next: figures/strips.py, which draws the frames that are measured here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import product
from typing import Any

import numpy as np

from ..errors import DataError, NonFiniteError, ShapeError

# the least probability that a baseline gives: at 0 one wrong pixel would cost infinity
MIN_PROBABILITY = 1e-4
# numbers computed at a time by a thread: 1 MB in float64 stays in a cache, and a test set may have
# any size
BLOCK_NUMBERS = 2**17
MAX_THREADS = 8

SHARP = 0.5  # at least half of the truth's edges; a blur over 3x3 pixels scores less
BLUR_SEQUENCES = 100  # measured for `equivalent_blur`: more would take minutes
MAX_BLUR_PIXELS = 10.0  # standard deviation of the widest blur that is compared


# ---------------------------------------------------------------- the two distances


def cross_entropy(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Nats per frame: -sum over pixels of t log(p) + (1-t) log(1-p), averaged over sequences.

    truth (T, N, D); probability (T, N, D), or one frame for all steps (N, D), or one for all (D,)
    -> (T,). A grey target t = 0.3 is a random pixel that is 1 with probability 0.3. Nothing is
    clipped: the loss of p = 0 on a pixel that is not black is infinite, as it should be.
    Raises ShapeError, and DataError for values outside [0, 1]. Source: slides, Table 2.
    """

    def nats(t, p):
        check_range(t, "truth"), check_range(p, "probability")
        return -(_x_log_y(t, p) + _x_log_y(1 - t, 1 - p)).sum(axis=-1)

    return _mean_over_sequences(nats, truth, probability)


def squared_error(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Half the squared error of a frame: 0.5 * sum over pixels of (t-p)^2, averaged over sequences.

    truth (T, N, D); prediction (T, N, D), (N, D) or (D,) -> (T,). Any real values.
    Raises ShapeError. Source: slides, Table 2, image patches.
    """

    def half_square(t, p):
        return 0.5 * ((t - p) ** 2).sum(axis=-1)

    return _mean_over_sequences(half_square, truth, prediction)


def _mean_over_sequences(distance, truth, prediction):
    """Average `distance` over sequences, in blocks and in float64.

    Each frame is summed whole, so the result does not depend on the size of the blocks.
    """
    _check_frames(truth, prediction)

    def per_frame(block):
        p = prediction[..., block, :] if prediction.ndim > 1 else prediction
        return distance(truth[:, block].astype(np.float64), p.astype(np.float64))

    return np.concatenate(in_blocks(per_frame, truth), axis=1).mean(axis=1)


def in_blocks(measure: Callable[[slice], np.ndarray], frames: np.ndarray) -> list[np.ndarray]:
    """Return `measure(block)` for blocks of the sequences of frames (T, N, D), in their order."""
    T, N, D = frames.shape
    step = max(1, BLOCK_NUMBERS // (T * D))
    return in_threads(measure, [slice(n, n + step) for n in range(0, N, step)])


def in_threads(measure: Callable[[Any], Any], parts: Sequence) -> list:
    """Return `measure(part)` for all parts, in their order.

    Several threads compute them at the same time, because NumPy releases Python's lock. Each thread
    has the caller's settings: backend, workspace and np.errstate.
    """
    threads = min(len(parts), MAX_THREADS, os.cpu_count() or 1)
    if threads == 1:
        return [measure(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(copy_context().run, measure, part) for part in parts]
        return [task.result() for task in tasks]


def _x_log_y(x, y):
    """x log(y), with 0 log(0) = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):  # log(0) = -inf is intended
        products = x * np.log(y)
    products[x == 0] = 0
    return products


# ---------------------------------------------------------------- predictions without a model


def half(future: np.ndarray) -> np.ndarray:
    """Nats per frame of p = 0.5 everywhere: D ln 2 for every truth. future (T, N, D) -> (T,)."""
    T, N, D = future.shape
    return np.full(T, D * np.log(2))


def copy_last(past: np.ndarray, future: np.ndarray) -> np.ndarray:
    """Nats per frame of repeating the last frame of the past, clipped, at every step.

    past (Tp, N, D), future (T, N, D) -> (T,). For patches: `squared_error(future, past[-1])`.
    """
    return cross_entropy(future, _clipped(past[-1], "past"))


def mean_image_loss(mean: np.ndarray, future: np.ndarray) -> np.ndarray:
    """Nats per frame of predicting the mean frame of the TRAINING data, clipped.

    mean (D,), future (T, N, D) -> (T,). For patches: `squared_error(future, mean)`.
    """
    return cross_entropy(future, _clipped(mean, "mean"))


def _clipped(frame, name):
    """Return a frame with probabilities that are neither 0 nor 1, in float32 or better."""
    _check_floats(frame, name)
    p = frame.astype(np.promote_types(frame.dtype, np.float32))  # float16 would round up to 1
    return np.clip(p, MIN_PROBABILITY, 1 - MIN_PROBABILITY)


def entropy_bound(future: np.ndarray) -> np.ndarray:
    """Nats per frame of predicting the truth itself. future (T, N, D) -> (T,).

    No model can beat it. It is above zero because a grey pixel costs something even when it is
    predicted exactly.
    """
    return cross_entropy(future, future)


def baselines(past: np.ndarray, future: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Return the four baselines by the names that tables and figures print, from worst to best.

    past (Tp, N, D), future (T, N, D), mean (D,) -> {name: (T,)}.
    """
    return {
        "p = 0.5": half(future),
        "copy of the last frame": copy_last(past, future),
        "mean image": mean_image_loss(mean, future),
        "entropy bound": entropy_bound(future),
    }


# ---------------------------------------------------------------- sharpness


def sharpness(truth: np.ndarray, prediction: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The share of the truth's edges that the prediction draws, give or take one pixel.

    truth, prediction (T, N, D); `shape` of a frame (H, W) or (H, W, channels) -> (T,).

    An edge is the difference g of neighbouring pixels, downwards and to the right. For a frame,

        agreement = max over shifts s in {-1,0,1}^2 of  sum g_truth(x) g_prediction(x+s)
        sharpness = agreement / max(sum g_truth^2, sum g_prediction^2)

    with numerator and denominator summed over the sequences of a step. It is at most 1 (Cauchy and
    Schwarz), and 1 for the truth. Contrast counts: the truth at half its contrast scores 0.5. A
    flat picture has no edges and scores 0. Noise has edges, but they do not agree with those of the
    truth, so they add to the denominator and not to the numerator. Only the choice of the best
    shift can raise the score of a noisy frame, by a few hundredths. Sharpening a blurred digit does
    raise the score.

    A displacement by one pixel is not measured: a sharp digit one pixel off is not blurred, and
    the cross-entropy already measures the displacement. If a digit is further off, its edges do not
    agree with those of the truth, and it scores low. A copy of the last frame scores low for the
    same reason. Two digits that are displaced in different directions share one shift, so only one
    of them can have the full score.

    A prediction is called sharp from `SHARP` on. tests/test_metrics.py has a table of the scores of
    true frames that were blurred, moved or made noisy. If truth and prediction are both flat the
    result is 1. Raises ShapeError, and NonFiniteError for frames with NaN or infinity.
    """
    check_pictures(truth, prediction, shape)

    def measure(block):
        t, p = truth[:, block], prediction[:, block]
        expect_finite(t, "truth"), expect_finite(p, "prediction")
        return _agreement_and_energy(_edges(t, shape), p, shape)

    return _sharpness_of(in_blocks(measure, truth))


def _sharpness_of(measured):
    """Sharpness (T,) from `_agreement_and_energy` of all blocks."""
    agreement, energy = np.concatenate(measured, axis=2).sum(axis=2)
    return np.divide(agreement, energy, out=np.ones_like(energy), where=energy > 0)


def equivalent_blur(truth: np.ndarray, prediction: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how much the truth must be blurred to have the sharpness of the prediction.

    truth, prediction (T, N, D); `shape` as in `sharpness` -> standard deviation of a Gaussian in
    pixels, 0 to MAX_BLUR_PIXELS. Measured on the first hundred sequences. Raises ShapeError, and
    NonFiniteError for frames with NaN or infinity.
    """
    truth, prediction = truth[:, :BLUR_SEQUENCES], prediction[:, :BLUR_SEQUENCES]
    wanted = sharpness(truth, prediction, shape).mean()
    if wanted >= 1:  # black frames have this at any blur
        return 0.0
    T, N, D = truth.shape
    H, W = shape[:2]
    channels = np.moveaxis(truth.reshape(T, N, H, W, -1), -1, 2)  # (T, N, channels, H, W)
    true_edges = _edges(truth, shape)

    def sharpness_of(blur):
        down, across = _blurring(H, blur), _blurring(W, blur)

        def measure(block):
            blurred = down @ channels[:, block] @ across
            blurred = np.moveaxis(blurred, 2, -1).reshape(T, -1, D)
            return _agreement_and_energy(true_edges[:, :, block], blurred, shape)

        return _sharpness_of(in_blocks(measure, truth)).mean()

    low, high = 0.0, MAX_BLUR_PIXELS
    if sharpness_of(high) >= wanted:
        return high
    while high - low > 0.01:  # a wider blur is less sharp
        middle = (low + high) / 2
        low, high = (middle, high) if sharpness_of(middle) > wanted else (low, middle)
    return low


def _blurring(size, blur):
    """Return the matrix (size, size) that blurs along one axis of a frame; outside it is black.

    Each column is a Gaussian. Its standard deviation is `blur`, in pixels. Beyond 4 standard
    deviations it is 0.
    """
    radius = int(4 * blur + 0.5)
    whole = np.exp(-0.5 * (np.arange(-radius, radius + 1) / blur) ** 2).sum()
    distance = abs(np.arange(size)[:, None] - np.arange(size))
    matrix = np.exp(-0.5 * (distance / blur) ** 2) / whole
    return np.where(distance <= radius, matrix, 0).astype(np.float32)


def _agreement_and_energy(true_edges, prediction, shape):
    """Numerator and denominator of `sharpness`, frame by frame -> (2, T, N).

    true_edges (2, T, N, L) from `_edges`, prediction (T, N, D).
    """
    edges = _edges(prediction, shape)
    energy = np.maximum(_dot(true_edges, true_edges), _dot(edges, edges))
    return np.stack([_best_shift(true_edges, edges, shape), energy])


def _edges(frames, shape):
    """(T, N, D) -> (2, T, N, L): neighbour below minus pixel, neighbour right minus pixel.

    L counts the pixels of a frame with a border of one pixel, whose edges are 0.
    """
    T, N, D = frames.shape
    H, W = shape[:2]
    x = frames.astype(np.float64).reshape(T, N, H, W, -1)
    g = np.zeros((2, T, N, H + 2, W + 2, x.shape[-1]))
    # stays 0 in the last row and column of the frame too, which have no such neighbour
    g[0, :, :, 1:H, 1:-1] = x[:, :, 1:] - x[:, :, :-1]
    g[1, :, :, 1:-1, 1:W] = x[:, :, :, 1:] - x[:, :, :, :-1]
    return g.reshape(2, T, N, -1)


def _dot(a, b):
    """Inner product of two edge fields, frame by frame: (2, T, N, L) twice -> (T, N)."""
    return np.einsum("etnl,etnl->tn", a, b)


def _best_shift(true_edges, edges, shape):
    """The largest inner product over nine shifts: a shift is a distance in the flat array."""
    row = (shape[1] + 2) * (shape[2] if len(shape) > 2 else 1)
    pixel = row // (shape[1] + 2)
    first, last = row + pixel, edges.shape[-1] - row - pixel  # around them is only the border
    inner = true_edges[..., first:last]
    shifts = [y * row + x * pixel for y, x in product((-1, 0, 1), repeat=2)]
    return np.max([_dot(inner, edges[..., first + s : last + s]) for s in shifts], axis=0)


# ---------------------------------------------------------------- refusals


def _check_floats(array, name):
    if not np.issubdtype(array.dtype, np.floating):
        raise ShapeError(f"{name}: expected floats, got {array.dtype}: divide bytes by 255")


def _check_frames(truth, prediction):
    for name, array in (("truth", truth), ("prediction", prediction)):
        _check_floats(array, name)
    if truth.ndim != 3 or truth.size == 0:
        raise ShapeError(f"truth: expected (T, N, D), none of them 0, got {truth.shape}")
    if prediction.shape not in (truth.shape, truth.shape[1:], truth.shape[2:]):
        raise ShapeError(f"prediction: expected {truth.shape} like truth, got {prediction.shape}")


def expect_finite(values: np.ndarray, name: str) -> None:
    """Raise NonFiniteError if `values` have NaN or infinity, which a comparison would hide."""
    if values.size and not np.isfinite([values.min(), values.max()]).all():  # without a copy
        raise NonFiniteError(
            f"{name}: expected finite numbers, got NaN or infinity: look for them in the data; if "
            "it is clean, train again with a lower --learning-rate"
        )


def check_pictures(
    truth: np.ndarray,
    prediction: np.ndarray,
    shape: tuple[int, ...],
    dimensions: tuple[int, ...] = (2, 3),
) -> None:
    """Raise ShapeError unless both are floats (T, N, D) of frames of `shape`.

    `dimensions` are the lengths that `shape` may have: 2 for (H, W), 3 for (H, W, channels).
    """
    _check_frames(truth, prediction)
    D = truth.shape[2]
    if prediction.shape != truth.shape or len(shape) not in dimensions or np.prod(shape) != D:
        raise ShapeError(
            f"expected truth and prediction (T, N, {' * '.join(map(str, shape))}) for frames of "
            f"shape {shape}, got {truth.shape} and {prediction.shape}"
        )


def check_range(values: np.ndarray, name: str) -> None:
    """Raise DataError unless all values are in [0, 1]."""
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN is refused too
        raise DataError(
            f"{name}: expected values in [0, 1], got {values.min():g} to {values.max():g}; "
            "logits must go through the sigmoid first"
        )
