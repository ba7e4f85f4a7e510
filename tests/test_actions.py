"""Synthetic actions: what they look like, and that no single frame tells which one it is."""

import numpy as np
import pytest
from PIL import Image

from data_tools import make_actions
from minilstm.command import run_command
from minilstm.config import ClassifySettings, load
from minilstm.data import Actions, MovingMNIST, actions, as_vectors, load_digits
from minilstm.data.actions import ACTIONS, CLASSES, States, draw_digits, states
from minilstm.data.rng import Purpose, keyed_rng
from minilstm.errors import ConfigError, DataError, ShapeError
from minilstm.evaluation.logistic import fit_logistic
from minilstm.layers.losses import SquaredError
from minilstm.runs.build import build_loss, open_clips, split_digits
from minilstm.training.classifier import fit

DIGITS = load_digits()[0][:50]


def drawn(action, T=20, N=400, seed=0):
    return states(np.random.default_rng(seed), np.full(N, CLASSES.index(action)), T)


# ---------------------------------------------------------------- what the classes do


def moved(x):
    """By how much a circle turns from frame to frame, the short way round."""
    return (np.diff(x, axis=0) + 0.5) % 1 - 0.5


@pytest.mark.parametrize("action", CLASSES)
def test_each_action_moves_what_it_says_and_nothing_else(action):
    do, at = ACTIONS[action], drawn(action)
    down, right, angle = moved(at.down), moved(at.right), moved(at.angle)
    tall, wide = do.down or do.circle or do.bounce, do.right or do.circle or do.shake
    assert (abs(down).max() > 0.01) == bool(tall) and (abs(right).max() > 0.01) == bool(wide)
    assert (abs(angle) > 0.01).all() == bool(do.spin) and np.ptp(at.size, axis=0).any() == bool(
        do.grow
    )
    for change, way in ((down, do.down), (right, do.right), (angle, do.spin)):
        if way:
            assert (np.sign(change) == np.sign(way)).all()
    if do.grow:  # apart from the jumps back
        assert (np.sign(np.diff(at.size, axis=0)) == do.grow).mean() > 0.9
    if do.circle:  # a step to the right is followed by one down, clockwise
        turn = right[:-1] * down[1:] - down[:-1] * right[1:]
        assert (np.sign(turn) == do.circle).all()
    assert (abs(np.diff(at.light, axis=0)).max() > 0.1) == bool(do.blink)


RECORDED = {  # of every fourth action in the fourth frame
    "down": [0.0187, 0.6999, 0.1986, 0.4768, 0.6477],
    "right": [0.5995, 0.2498, 0.5786, 0.4578, 0.038],
    "size": [0.601, 0.593, 0.7045, 0.6453, 0.5338],
    "angle": [0.0298, 0.683, 0.1886, 0.3055, 0.829],
    "light": [0.9895, 0.3051, 0.897, 0.6421, 0.8507],
}


def test_actions_are_drawn_as_they_always_were():
    """Tables that were made before stand; any change of a rate or a draw shows here."""
    at = states(keyed_rng(Purpose.ACTIONS, 0, 1, 0), np.arange(len(CLASSES)), 4)
    for name, expected in RECORDED.items():
        np.testing.assert_allclose(getattr(at, name)[3, ::4], expected, atol=1e-4)


def test_which_digit_acts_is_drawn_by_chance_for_every_clip(monkeypatch):
    images = np.repeat(np.arange(200, dtype=np.uint8), 28 * 28).reshape(200, 28, 28)
    acting = []

    def noted(digits, at, frame_size):
        acting.append(digits[:, 7, 7].tolist())
        return np.zeros((len(at.down), len(digits), frame_size, frame_size), np.uint8)

    monkeypatch.setattr(actions, "draw_digits", noted)
    source = Actions(images, 8, 3)
    source.clips(2)
    source.batch(0, 18)
    source.batch(1, 18)
    assert len(acting) == 4 and all(len(set(digits)) > 12 for digits in acting)
    assert len({tuple(digits) for digits in acting}) == 4
    assert all(digits != sorted(digits) for digits in acting)


def test_a_digit_is_drawn_where_and_how_it_should_be():
    bar = np.zeros((1, 14, 14), np.uint8)
    bar[0, 2:12, 6:8] = 200  # upright
    one = np.ones((1, 1))
    upright = draw_digits(bar, States(0.5 * one, 0.5 * one, 0.5 * one, 0 * one, one), 28)[0, 0]
    expected = np.zeros((28, 28), np.uint8)
    expected[9:19, 13:15] = 200  # 14 pixels of digit on 28 of frame: pixel for pixel
    np.testing.assert_array_equal(upright, expected)
    lying = draw_digits(bar, States(0.5 * one, 0.5 * one, 0.5 * one, 0.25 * one, one), 28)[0, 0]
    np.testing.assert_array_equal(lying, expected.T)
    dim = draw_digits(bar, States(0.5 * one, 0.5 * one, 0.5 * one, 0 * one, 0.5 * one), 28)[0, 0]
    np.testing.assert_array_equal(dim, expected // 2)
    cut = draw_digits(bar, States(0 * one, 0.5 * one, 0.5 * one, 0 * one, one), 28)[0, 0]
    np.testing.assert_array_equal(cut, np.roll(expected, 14, axis=0))


def test_digits_that_are_no_bytes_are_not_drawn():
    """Floats in [0, 1] would be rounded to the bytes 0 and 1, which are almost black."""
    one = np.ones((1, 1))
    with pytest.raises(ShapeError, match=r"expected digits uint8 \(N, S, S\), got float64"):
        draw_digits(np.ones((1, 28, 28)), States(one / 2, one / 2, one / 2, 0 * one, one), 28)


def test_a_digit_turns_clockwise():
    bar = np.zeros((1, 14, 14), np.uint8)
    bar[0, 2:7, 6:8] = 200  # from the middle up
    at = np.full((1, 1), 0.5)
    frame = draw_digits(bar, States(at, at, at, np.full((1, 1), 0.125), 2 * at), 28)[0, 0]
    assert frame[:14, 14:].sum() > 0.9 * frame.sum()  # now up and to the right


# ---------------------------------------------------------------- no single frame tells


def features(frames, t, T):
    """Features of frames (N, H, W) at times t for a linear classifier.

    They are the digit's place, the time, the spectrum (brightness, size and angle, independent of
    the place), and random rectified sums of them.
    """
    x = frames / np.float32(255)
    N, wave = len(x), np.fft.fft2(x)
    place = np.column_stack([wave[:, 0, 1], wave[:, 1, 0]]) / wave[:, 0, 0].real[:, None].clip(1e-3)
    spectrum = np.log(1 + abs(np.concatenate([wave[:, :5, :5], wave[:, -4:, :5]], axis=1)))
    coarse = x.reshape(N, 6, x.shape[1] // 6, 6, x.shape[2] // 6).mean(axis=(2, 4))
    plain = np.column_stack([x.mean((1, 2)), x.max((1, 2)), x.std((1, 2)), place.real, place.imag])
    time = np.eye(T)[t]
    with_time = (time[:, :, None] * plain[:, None]).reshape(N, -1)
    told = np.column_stack([plain, spectrum.reshape(N, -1), coarse.reshape(N, -1)])
    told = (told - told.mean(0)) / told.std(0)
    mix = np.random.default_rng(1).standard_normal((told.shape[1], 60)) / 6
    return np.column_stack([told, time, with_time, np.maximum(told @ mix, 0)]).astype(np.float32)


def single_frames(split, per_class, rng, T=20):
    """One frame of each of many clips, so that no two are of one: frames, their times, labels."""
    digits = Actions(split_digits("bundled", split)).images
    labels = np.tile(np.arange(len(CLASSES)), per_class)
    n, t = np.arange(len(labels)), rng.integers(T, size=len(labels))
    at = actions.states(rng, labels, T)
    at = States(*(state[t, n][None] for state in at))
    return draw_digits(digits[rng.integers(len(digits), size=len(n))], at, 24)[0], t, labels


def standard_errors_above_chance(per_class, seed=0):
    """Distance from chance of a classifier of single frames, on digits of another split."""
    rng, T = np.random.default_rng(seed), 20
    found = []
    for split in ("train", "validation"):
        frames, t, labels = single_frames(split, per_class, rng, T)
        found.append((features(frames, t, T), labels))
    (x, labels), (x_test, labels_test) = found
    fit = fit_logistic(x, labels, len(CLASSES), l2=0.01)
    right = fit.probabilities(x_test).argmax(axis=1) == labels_test
    chance = 1 / len(CLASSES)
    return (right.mean() - chance) / (chance * (1 - chance) / len(right)) ** 0.5


def test_no_single_frame_tells_the_action():
    assert abs(standard_errors_above_chance(per_class=400)) < 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10, 20])
def test_no_single_frame_tells_the_action_to_who_sees_many_more(seed):
    assert abs(standard_errors_above_chance(per_class=2000, seed=seed)) < 3


def planted(monkeypatch, change):
    """Let `states` go wrong: `change(states, labels)` may alter what it returns."""
    right = states

    def wrong(rng, labels, T):
        return change(right(rng, labels, T), labels)

    monkeypatch.setattr(actions, "states", wrong)


LEAKS = {
    "growing digits all start small": lambda at, labels: at._replace(
        size=np.where(labels == CLASSES.index("grow"), at.size - at.size[0] + 0.5, at.size)
    ),
    "blinking digits are darker": lambda at, labels: at._replace(
        light=np.where(labels == CLASSES.index("blink"), 0.6, 1) * at.light
    ),
    "digits that move left start on the right": lambda at, labels: at._replace(
        right=np.where(labels == CLASSES.index("left"), at.right - at.right[0] + 0.9, at.right) % 1
    ),
    "only spinning digits stand at an angle": lambda at, labels: at._replace(
        angle=np.where(np.char.startswith(np.array(CLASSES)[labels], "spin"), at.angle, 0)
    ),
}


@pytest.mark.parametrize(
    "leak",  # two of them always
    [pytest.param(name, marks=pytest.mark.slow if k < 2 else ()) for k, name in enumerate(LEAKS)],
)
def test_the_check_finds_a_leak_that_is_planted(monkeypatch, leak):
    planted(monkeypatch, LEAKS[leak])
    assert standard_errors_above_chance(per_class=400) > 5


@pytest.mark.parametrize("t", [0, 7, 19])
def test_every_class_has_the_same_distribution_of_every_state_at_every_time(t):
    """Kolmogorov's distance to a uniform circle, for each class, below its 0.1 % point."""
    N = 2000
    smallest, largest = actions.SIZES
    darkest, brightest = actions.LIGHTS
    for action in CLASSES:
        at = drawn(action, N=N, seed=t)
        circles = at._replace(
            size=np.log(at.size / smallest) / np.log(largest / smallest),
            light=(at.light - darkest) / (brightest - darkest),
        )
        for name, circle in circles._asdict().items():
            x = np.sort(circle[t])
            distance = abs(x - (np.arange(N) + 0.5) / N).max()
            assert distance < 1.95 / N**0.5, f"{action}: {name} is not uniform"
        together = np.corrcoef([circle[t] for circle in circles])
        assert abs(together - np.eye(5)).max() < 5 / N**0.5, f"{action}: not independent"


# ---------------------------------------------------------------- the source


def test_batches_are_a_function_of_seed_number_and_size_alone():
    a, b = (Actions(DIGITS, seed=3) for _ in range(2))
    b.batch(0, 7)
    np.testing.assert_array_equal(a.batch(5, 4), b.batch(5, 4))
    assert (a.batch(5, 4) != a.batch(6, 4)).any()
    assert (a.batch(5, 4) != Actions(DIGITS, seed=4).batch(5, 4)).any()
    assert a.batch(0, 4).shape == (20, 4, 24, 24) and a.batch(0, 4).dtype == np.uint8


def test_the_interface_is_that_of_moving_mnist():
    here, there = Actions(DIGITS), MovingMNIST(DIGITS)
    for name in ("num_frames", "frame_shape", "num_sequences", "scale"):
        assert type(getattr(here, name)) is type(getattr(there, name)), name


def test_a_larger_labelled_set_contains_the_smaller():
    source = Actions(DIGITS, 16, 5)
    few, more = source.clips(2), source.clips(3)
    np.testing.assert_array_equal(more.frames[: len(few.frames)], few.frames)
    assert np.bincount(more.labels).tolist() == [3] * len(CLASSES)
    assert few.classes == CLASSES and (few.lengths == 5).all()
    assert few.names[:2] == ("left 0", "right 0")


def test_labelled_clips_are_not_those_of_the_unlabelled_batches():
    source = Actions(DIGITS, 16, 5)
    clips = source.clips(1).frames.reshape(len(CLASSES), 5, 16, 16)
    unlabelled = source.batch(0, len(CLASSES)).swapaxes(0, 1)
    assert not any((clip == other).all() for clip in clips for other in unlabelled)


@pytest.mark.parametrize(
    "settings, error",
    [
        ({"frame_size": 0}, ConfigError),
        ({"num_frames": 1.5}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"images": DIGITS[:0]}, DataError),
        ({"images": DIGITS[0]}, ShapeError),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, error):
    with pytest.raises(error):
        Actions(**{"images": DIGITS} | settings)


# ---------------------------------------------------------------- the command


def make(*arguments):
    try:
        return run_command(lambda: make_actions.main([str(word) for word in arguments]))
    except SystemExit as stopped:
        return stopped.code


def test_make_actions_writes_what_classify_learns_from(tmp_path, capsys):
    out, film = tmp_path / "a.npz", tmp_path / "a.gif"
    assert make("--out", out, "--film", film, "--per-class", 2, "--seed", 3, "--length", 6) == 0
    clips = open_clips(ClassifySettings(labels=2, seed=3, length=6, test=1, validation=1))[0]
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["frames"].shape == (36, 6, 24, 24)
        np.testing.assert_array_equal(arrays["frames"].reshape(-1, 24, 24), clips.frames)
        np.testing.assert_array_equal(arrays["labels"], clips.labels)
        assert tuple(arrays["classes"]) == CLASSES
    with Image.open(film) as gif:
        assert gif.n_frames == 6
    before = out.read_bytes()
    assert make("--out", out, "--per-class", 2, "--seed", 3, "--length", 6) == 2
    assert "add --force" in capsys.readouterr().err
    assert make("--out", out, "--per-class", 2, "--seed", 3, "--length", 6, "--force") == 0
    assert out.read_bytes() == before


def test_make_actions_that_is_stopped_at_its_film_goes_on_without_force(tmp_path, monkeypatch):
    out, film = tmp_path / "a.npz", tmp_path / "a.gif"
    words = "--out", out, "--film", film, "--per-class", 2, "--length", 4
    with monkeypatch.context() as patched:

        def stopped(*_, **__):
            raise KeyboardInterrupt

        patched.setattr(make_actions, "write_film", stopped)
        assert make(*words) == 130
    assert not film.exists() and not out.exists()
    assert make(*words) == 0
    assert film.exists() and out.exists()
    assert make(*words) == 2  # now both are there


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--out", "a.npy"], r"*.npz"),
        (["--out", "a.npz", "--film", "a.png"], r"*.gif"),
        (["--out", "a.npz", "--per-class", "0"], "per-class"),
        (["--out", "a.npz", "--digits", "nowhere"], "put MNIST's four files there"),
    ],
)
def test_make_actions_refuses_in_one_line(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert make(*arguments) == 2
    message = capsys.readouterr().err
    assert word in message and message.count("\n") == 1 and not list(tmp_path.iterdir())


def test_changes_are_what_is_different_and_are_learned_with_mean_0_and_deviation_1():
    frames, changes = (Actions(DIGITS, 16, n, changes=n == 4) for n in (5, 4))
    seen, steps = frames.batch(0, 300), changes.batch(0, 300)
    assert (abs(np.diff(seen.astype(int), axis=0) / 2 - (steps.astype(int) - 127)) <= 0.5).all()
    x = as_vectors(steps, changes.scale)
    assert abs(x.mean()) < 0.02 and 0.7 < x.std() < 1.4
    clips = changes.clips(2)
    assert clips.scale is changes.scale and clips.select([0]).scale is changes.scale
    assert frames.clips(2).scale is None


def test_changes_have_squared_error_and_a_classifier_sees_them_normalised():
    assert isinstance(
        build_loss(load(overrides={"data": {"source": "action-changes"}})), SquaredError
    )
    clips = Actions(DIGITS, 16, 4, changes=True).clips(2)
    settings = ClassifySettings(encoder="scratch", hidden=4, window=4, steps=1, batch_size=4)
    fitted = fit(settings, clips, clips)
    x = fitted.inputs(clips, np.arange(36), np.zeros(36, int))
    assert abs(x.mean()) < 0.1 and 0.5 < x.std() < 2
