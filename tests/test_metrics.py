"""Metrics: against hand arithmetic, against landmarks, and against pictures spoilt on purpose."""

import math
import os
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter

from minilstm.data import MovingMNIST, as_vectors, load_digits
from minilstm.errors import DataError, NonFiniteError, ShapeError
from minilstm.evaluation import metrics
from minilstm.evaluation.metrics import (
    SHARP,
    baselines,
    copy_last,
    cross_entropy,
    entropy_bound,
    equivalent_blur,
    half,
    mean_image_loss,
    sharpness,
    squared_error,
)

SIZES = {64: 28, 32: 14}  # frame -> digit, in pixels
MNIST = Path(os.environ.get("MINILSTM_DATA", "")) / "mnist"


def moving_digits(images, size, num_sequences, seed=3):
    source = MovingMNIST(images, frame_size=size, digit_size=SIZES[size], seed=seed)
    return as_vectors(source.batch(0, num_sequences))


def random_frames(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


# ---------------------------------------------------------------- the two distances


def test_cross_entropy_is_the_sum_over_pixels_and_the_mean_over_sequences_computed_by_hand():
    truth, p = random_frames(3, 2, 5), random_frames(3, 2, 5, seed=1)
    expected = [0.0, 0.0, 0.0]
    for t, n, d in product(range(3), range(2), range(5)):
        y, q = truth[t, n, d], p[t, n, d]
        expected[t] -= (y * math.log(q) + (1 - y) * math.log(1 - q)) / 2
    np.testing.assert_allclose(cross_entropy(truth, p), expected, rtol=1e-13)


def test_squared_error_is_half_the_sum_over_pixels_and_the_mean_over_sequences():
    truth = np.zeros((2, 2, 3))
    prediction = np.zeros((2, 2, 3))
    prediction[0, 1] = [1, -2, 3]  # 0.5 * 14 in one of two sequences
    np.testing.assert_array_equal(squared_error(truth, prediction), [3.5, 0])


def test_one_frame_per_sequence_or_one_for_all_stands_for_every_step():
    truth, frames = random_frames(4, 3, 5), random_frames(3, 5, seed=1)
    for distance in (cross_entropy, squared_error):
        repeated = np.repeat(frames[None], 4, axis=0)
        np.testing.assert_array_equal(distance(truth, frames), distance(truth, repeated))
        one = np.tile(frames[0], (4, 3, 1))
        np.testing.assert_array_equal(distance(truth, frames[0]), distance(truth, one))


def test_a_certain_prediction_costs_nothing_when_right_and_infinity_when_wrong():
    truth = np.array([[[0.0, 1.0]], [[0.0, 0.5]]])
    certain = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    np.testing.assert_array_equal(cross_entropy(truth, certain), [0, np.inf])


def test_float32_frames_are_summed_in_float64():
    truth = random_frames(2, 3, 4096).astype(np.float32)
    p = random_frames(2, 3, 4096, seed=1).astype(np.float32)
    exact = cross_entropy(truth.astype(np.float64), p.astype(np.float64))
    np.testing.assert_array_equal(cross_entropy(truth, p), exact)


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    truth, p = random_frames(3, 7, 36), random_frames(3, 7, 36, seed=1)
    whole = cross_entropy(truth, p), squared_error(truth, p), sharpness(truth, p, (6, 6))
    monkeypatch.setattr(metrics, "BLOCK_NUMBERS", 2 * truth[:, 0].size)  # 2, 2, 2 and 1 sequences
    np.testing.assert_array_equal(cross_entropy(truth, p), whole[0])
    np.testing.assert_array_equal(squared_error(truth, p), whole[1])
    np.testing.assert_allclose(sharpness(truth, p, (6, 6)), whole[2], rtol=1e-13)


def test_threads_change_no_bit_and_keep_the_settings_of_their_caller(monkeypatch):
    truth, p = random_frames(3, 7, 36), random_frames(3, 7, 36, seed=1)
    monkeypatch.setattr(metrics, "BLOCK_NUMBERS", truth[:, 0].size)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(metrics, "MAX_THREADS", threads)
        monkeypatch.setattr(metrics.os, "cpu_count", lambda: 4)
        found.append((cross_entropy(truth, p), sharpness(truth, p, (6, 6))))
    np.testing.assert_array_equal(*found)
    p[0, 6] = 2
    with pytest.raises(DataError, match="to 2;"):
        cross_entropy(truth, p)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        squared_error(truth, 1e200 * p)


def test_a_long_test_set_is_measured_in_little_memory():
    truth = np.broadcast_to(random_frames(20, 1, 4096).astype(np.float32), (20, 200, 4096))
    tracemalloc.start()
    cross_entropy(truth, truth)
    sharpness(truth, truth, (64, 64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < truth.size * 8, f"expected less than one float64 copy, got {peak / 1e6:.0f} MB"


def test_inputs_are_not_written_to():
    past, future = random_frames(2, 3, 16), random_frames(4, 3, 16, seed=1)
    mean = random_frames(16, seed=2)
    for array in (past, future, mean):
        array.flags.writeable = False
    baselines(past, future, mean)
    sharpness(future, future, (4, 4))


# ---------------------------------------------------------------- predictions without a model


def test_baselines_copy_the_last_frame_of_the_past_and_clip_only_what_they_must():
    past, future = np.zeros((2, 1, 2)), np.zeros((3, 1, 2))
    past[-1, 0] = [1, 0.25]
    wrong = -math.log(1e-4) - math.log(0.75)  # a white pixel that goes black, a grey one too
    np.testing.assert_allclose(copy_last(past, future), [wrong] * 3, rtol=1e-12)
    np.testing.assert_allclose(mean_image_loss(past[-1, 0], future), [wrong] * 3, rtol=1e-12)


def test_the_baselines_of_half_precision_frames_are_finite_and_those_of_single_precision():
    frames = (random_frames(4, 2, 9) > 0.5).astype(np.float16)
    single = frames.astype(np.float32)
    past, future = frames[:2], frames[2:]
    np.testing.assert_array_equal(copy_last(past, future), copy_last(single[:2], single[2:]))
    found, expected = mean_image_loss(past[0, 0], future), mean_image_loss(single[0, 0], future)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()


def test_half_costs_ln_2_per_pixel_whatever_happens():
    future = random_frames(3, 2, 7)
    np.testing.assert_allclose(half(future), cross_entropy(future, np.full(7, 0.5)), rtol=1e-13)


def test_no_prediction_is_below_the_entropy_bound():
    future = random_frames(4, 3, 16)
    bound = entropy_bound(future)
    assert (bound > 0).all()
    for seed in range(1, 6):
        nudged = np.clip(future + 0.05 * (random_frames(4, 3, 16, seed=seed) - 0.5), 1e-6, 1 - 1e-6)
        assert (cross_entropy(future, nudged) > bound).all()


# size: copy of the last frame, mean image, entropy bound. Measured on 500 sequences that use every
# digit once, so that only where the digits move is left to chance.
ALL_DIGITS = {64: (2140, 675, 87.4), 32: (457, 169, 40.0)}  # the bundled 1,000: 100 of each class
FIRST_1000 = {64: (1992, 636, 84.6), 32: (423, 159, 39.0)}  # of MNIST's test set, thinner


def check_landmarks(train, test, size, expected):
    mean = moving_digits(train, size, 600).mean(axis=(0, 1))
    frames = moving_digits(test, size, 500)
    table = baselines(frames[:10], frames[10:], mean)
    assert list(table) == ["p = 0.5", "copy of the last frame", "mean image", "entropy bound"]
    got = [per_step.mean() for per_step in table.values()]
    np.testing.assert_allclose(got, [size * size * math.log(2), *expected], rtol=0.03)
    copied = table["copy of the last frame"]
    assert (np.diff(copied[:4]) > 0).all(), "a copy gets worse while the digits move away"


@pytest.mark.parametrize("size", SIZES)
def test_baselines_on_the_bundled_digits_reproduce_the_landmarks(size):
    train, test = load_digits(split="train")[0], load_digits(split="test")[0]
    check_landmarks(train, test, size, ALL_DIGITS[size])


@pytest.mark.skipif(not MNIST.is_dir(), reason="MINILSTM_DATA names no folder with mnist/")
@pytest.mark.parametrize("size", SIZES)
def test_baselines_on_the_first_digits_of_mnist_reproduce_the_landmarks(size):
    train, test = load_digits(MNIST, "train")[0], load_digits(MNIST, "test")[0]
    check_landmarks(train, test[:1000], size, FIRST_1000[size])


# ---------------------------------------------------------------- digits or fog?


def noise(truth, deviation):
    return np.random.default_rng(9).normal(0, deviation, truth.shape)


def blur3(x):
    return uniform_filter(x, (0, 0, 3, 3))


def gauss(x, sigma):
    return gaussian_filter(x, (0, 0, sigma, sigma))


def fog(x):
    """The drawing of a model that knows the digit but not its place: the mean of nine places."""
    places = product((-2, 0, 2), repeat=2)
    return np.mean([np.roll(x, place, axis=(2, 3)) for place in places], axis=0)


def mean_of(x):
    return np.broadcast_to(x.mean(axis=(0, 1)), x.shape)


SPOILT = {  # name: (how, sharpness at 64x64, at 32x32)
    "the truth": (lambda x: x, 1.00, 1.00),
    "displaced by a pixel": (lambda x: np.roll(x, (1, -1), axis=(2, 3)), 1.00, 1.00),
    "blurred, sigma 0.5": (lambda x: gauss(x, 0.5), 0.78, 0.70),
    "thresholded at 0.5": (lambda x: (x > 0.5).astype(float), 0.65, 0.61),
    "truth + noise 0.1": (lambda x: np.clip(x + noise(x, 0.1), 0, 1), 0.655, 0.76),
    # ---- SHARP = 0.5: pass above, fail below
    "at 0.45 of its contrast": (lambda x: 0.45 * x, 0.45, 0.45),
    "blurred 3x3": (blur3, 0.415, 0.24),
    "blurred 3x3 + noise 0.05": (lambda x: blur3(x) + noise(x, 0.05), 0.415, 0.24),
    "blurred 3x3 + noise 0.2": (lambda x: blur3(x) + noise(x, 0.2), 0.065, 0.07),
    "blurred, sigma 1": (lambda x: gauss(x, 1), 0.395, 0.25),
    "blurred, sigma 2": (lambda x: gauss(x, 2), 0.125, 0.06),
    "displaced by 4 pixels": (lambda x: np.roll(x, 4, axis=3), 0.06, 0.09),
    "fog over nine places": (fog, 0.12, 0.07),
    "mean image": (mean_of, 0.00, 0.01),
    "mean image + noise 0.1": (lambda x: mean_of(x) + noise(x, 0.1), 0.015, 0.04),
    "p = 0.5": (lambda x: np.full(x.shape, 0.5), 0.00, 0.00),
    "noise alone": (lambda x: 0.5 + noise(x, 0.2), 0.005, 0.015),
    "another sequence": (lambda x: np.roll(x, 1, axis=1), 0.025, 0.055),
    "the negative": (lambda x: 1 - x, -0.14, 0.09),
}


@pytest.fixture(scope="module", params=SIZES)
def digits(request):
    size = request.param
    truth = moving_digits(load_digits(split="test")[0], size, 50)[10:].astype(float)
    return truth.reshape(10, 50, size, size)


@pytest.mark.parametrize("name", SPOILT)
def test_sharpness_tells_digits_from_fog(digits, name):
    spoil, at_64, at_32 = SPOILT[name]
    size = digits.shape[-1]
    spoilt = spoil(digits).reshape(10, 50, -1)
    score = sharpness(digits.reshape(10, 50, -1), spoilt, (size, size)).mean()
    expected = {64: at_64, 32: at_32}[size]
    assert score == pytest.approx(expected, abs=0.03)
    assert (score >= SHARP) == (expected >= SHARP)


def test_the_truth_is_exactly_sharp_at_every_step(digits):
    frames, size = digits.reshape(10, 50, -1), digits.shape[-1]
    np.testing.assert_allclose(sharpness(frames, frames, (size, size)), np.ones(10), rtol=1e-14)


@pytest.mark.parametrize("blur", [0.0, 0.7, 1.5, 3.0])
def test_the_equivalent_blur_of_a_blurred_truth_is_its_blur(digits, blur):
    size = digits.shape[-1]
    frames = digits[:, :5]
    blurred = gaussian_filter(frames, (0, 0, blur, blur), mode="constant").reshape(10, 5, -1)
    found = equivalent_blur(frames.reshape(10, 5, -1), blurred, (size, size))
    assert found == pytest.approx(blur, abs=0.02)


def test_black_frames_that_are_predicted_black_are_not_blurred():
    black = np.zeros((2, 3, 16))
    assert equivalent_blur(black, black, (4, 4)) == 0


def test_what_is_blurred_beyond_the_widest_blur_has_that(digits):
    frames = digits[:, :5].reshape(10, 5, -1)
    assert equivalent_blur(frames, np.full_like(frames, 0.1), digits.shape[-2:]) == 10.0


@pytest.mark.parametrize("deviation", [0.02, 0.05, 0.1, 0.2, 0.5])
def test_noise_does_not_raise_the_sharpness_of_a_blurred_frame(digits, deviation):
    frames, size = digits.reshape(10, 50, -1), digits.shape[-1]
    blurred = blur3(digits).reshape(10, 50, -1)
    noisy = blurred + noise(frames, deviation)
    before, after = (sharpness(frames, x, (size, size)).mean() for x in (blurred, noisy))
    assert after < before + 0.005, "more than the luck of nine shifts"


def test_sharpness_agrees_with_a_slow_reference_on_frames_with_colour():
    T, N, H, W, C = 2, 3, 4, 5, 3
    truth, guess = random_frames(T, N, H, W, C), random_frames(T, N, H, W, C, seed=1)
    guess = 0.7 * truth + 0.3 * guess

    def edge(frame, axis, y, x, c):
        """Neighbour minus pixel; 0 outside the frame and where there is no such neighbour."""
        y2, x2 = (y + 1, x) if axis == 0 else (y, x + 1)
        inside = 0 <= y and 0 <= x and y2 < H and x2 < W
        return frame[y2, x2, c] - frame[y, x, c] if inside else 0.0

    def dot(a, b, dy, dx):
        places = product(range(2), range(H), range(W), range(C))
        return sum(edge(a, e, y, x, c) * edge(b, e, y + dy, x + dx, c) for e, y, x, c in places)

    expected = []
    for t in range(T):
        agreement = energy = 0
        for a, b in zip(truth[t], guess[t], strict=True):
            agreement += max(dot(a, b, *s) for s in product((-1, 0, 1), repeat=2))
            energy += max(dot(a, a, 0, 0), dot(b, b, 0, 0))
        expected.append(agreement / energy)
    got = sharpness(truth.reshape(T, N, -1), guess.reshape(T, N, -1), (H, W, C))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_flat_prediction_of_a_flat_truth_is_sharp_and_of_edges_is_not():
    flat, edges = np.zeros((1, 1, 9)), np.eye(3).reshape(1, 1, 9)
    assert sharpness(flat, flat, (3, 3)) == [1]
    assert sharpness(edges, flat, (3, 3)) == [0]


# ---------------------------------------------------------------- refusals


def test_bytes_are_refused_with_the_way_out():
    frames, future = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4))
    for measure in (cross_entropy, squared_error):
        with pytest.raises(ShapeError, match="got uint8: divide bytes by 255"):
            measure(frames, frames)
    with pytest.raises(ShapeError, match="past: expected floats, got uint8"):
        copy_last(frames, future)
    with pytest.raises(ShapeError, match="mean: expected floats, got uint8"):
        mean_image_loss(frames[0, 0], future)


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 5), (1, 3, 4), (3, 2, 4), ()])
def test_a_prediction_of_another_shape_is_refused(shape):
    truth = random_frames(2, 3, 4)
    for measure in (cross_entropy, squared_error):
        with pytest.raises(ShapeError, match=r"expected \(2, 3, 4\) like truth"):
            measure(truth, np.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 4), (2, 0, 4), (2, 2, 2, 2)])
def test_a_truth_that_is_not_time_sequences_pixels_is_refused(shape):
    with pytest.raises(ShapeError, match=r"truth: expected \(T, N, D\)"):
        cross_entropy(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_probabilities_outside_0_to_1_are_refused(value):
    truth, p = random_frames(2, 3, 4), random_frames(2, 3, 4)
    p[1, 2, 3] = value
    with pytest.raises(DataError, match=r"probability: expected values in \[0, 1\]"):
        cross_entropy(truth, p)
    with pytest.raises(DataError, match=r"truth: expected values in \[0, 1\]"):
        cross_entropy(p, truth)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_has_no_sharpness(value):
    truth, prediction = random_frames(2, 3, 16), random_frames(2, 3, 16)
    prediction[1, 2, 3] = value
    for measure in (sharpness, equivalent_blur):
        with pytest.raises(NonFiniteError, match="prediction: expected finite numbers"):
            measure(truth, prediction, (4, 4))
        with pytest.raises(NonFiniteError, match="truth: expected finite numbers"):
            measure(prediction, truth, (4, 4))


@pytest.mark.parametrize("shape", [(4, 5), (16,), (2, 2, 2, 2)])
def test_sharpness_refuses_a_frame_shape_that_does_not_fit(shape):
    with pytest.raises(ShapeError, match="expected truth and prediction"):
        sharpness(np.zeros((1, 1, 16)), np.zeros((1, 1, 16)), shape)
