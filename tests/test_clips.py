"""Clips of different lengths, and the windows that a classifier sees of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilstm.data.clips import Clips, windows
from minilstm.errors import ConfigError, DataError


def some_clips(lengths=(3, 1, 4)):
    frames = np.arange(sum(lengths), dtype=np.float32)[:, None] * [1, 10]
    labels = np.arange(len(lengths)) % 2
    return Clips(frames, np.array(lengths), labels, ("run", "walk"))


def test_a_clip_is_its_own_frames():
    clips = some_clips()
    assert [clips.clip(n)[:, 0].tolist() for n in range(3)] == [[0, 1, 2], [3], [4, 5, 6, 7]]


def test_selected_clips_keep_everything_that_is_theirs():
    clips = some_clips().select([2, 0])
    assert (len(clips), clips.lengths.tolist(), clips.labels.tolist()) == (2, [4, 3], [0, 0])
    assert clips.names == ("clip 2", "clip 0") and clips.groups.tolist() == [2, 0]
    assert clips.frames[:, 0].tolist() == [4, 5, 6, 7, 0, 1, 2]
    assert len(some_clips().select([])) == 0
    assert len(some_clips().select(np.array([False, True, True]))) == 2


def test_a_window_repeats_the_last_frame_of_its_own_clip_and_never_sees_the_next_one():
    x = some_clips().cut(np.array([0, 1]), np.array([1, 0]), 3)
    assert x.shape == (3, 2, 2)
    assert x[:, 0, 0].tolist() == [1, 2, 2]
    assert x[:, 1, 0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("which, first", [(2, -1), (2, 4), (-1, 0), (3, 0)])
def test_a_window_that_begins_outside_of_its_clip_is_refused(which, first):
    with pytest.raises(
        DataError, match=f"got frame {first} of clip {which}: call minilstm.data.windows"
    ):
        some_clips().cut(np.array([0, which]), np.array([0, first]), 2)


def test_windows_by_hand():
    which, first = windows(np.array([10, 2, 4]), window=4, stride=4)
    assert which.tolist() == [0, 0, 0, 1, 2]
    assert first.tolist() == [0, 4, 6, 0, 0]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 12))
def test_windows_cover_every_frame_of_every_clip_once_at_least(lengths, window, stride):
    which, first = windows(np.array(lengths), window, stride)
    for n, length in enumerate(lengths):
        starts = first[which == n]
        assert (
            len(starts) >= 1 and (np.diff(starts) > 0).all() and (np.diff(starts) <= stride).all()
        )
        assert starts[0] == 0 and starts[-1] == max(length - window, 0)
        if stride <= window:
            seen = {t for s in starts for t in range(s, s + window)}
            assert set(range(length)) <= seen


@pytest.mark.parametrize(
    "change, word",
    [
        ({"lengths": np.array([3, 1, 5])}, "expected 9 frames"),
        ({"lengths": np.array([3, 0, 5])}, "at least 1 frame, got 0 in clip 1"),
        ({"labels": np.array([0, 1])}, "expected labels of 3 clips"),
        ({"labels": np.array([0, 1, 2])}, "expected labels -1 to 1, got 2 in clip 2"),
        ({"labels": np.array([0.0, 1, 1])}, "expected whole numbers for labels"),
        ({"sizes": np.array([1, 2, 3])}, r"expected sizes of shape \(N, 2\), got \(3,\)"),
        ({"sizes": np.ones((3, 3), int)}, r"expected sizes of shape \(N, 2\), got \(3, 3\)"),
        ({"groups": np.ones((3, 1), int)}, r"expected groups of shape \(N,\), got \(3, 1\)"),
        ({"names": ("a",)}, "expected names of 3 clips"),
    ],
)
def test_parts_that_do_not_fit_together_are_named(change, word):
    parts = dict(vars(some_clips())) | change
    with pytest.raises(DataError, match=word):
        Clips(**parts)


@pytest.mark.parametrize("window, stride", [(0, 1), (1, 0), (2.5, 1)])
def test_windows_of_no_length_are_refused(window, stride):
    with pytest.raises(ConfigError):
        windows(np.array([3]), window, stride)
