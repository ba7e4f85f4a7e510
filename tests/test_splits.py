"""Official lists and folds by recordings: what is trained on is never tested on."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from minilstm.data.rng import members_of_split
from minilstm.data.splits import grouped_folds, hmdb51_split, ucf101_split
from minilstm.errors import MinilstmError, ShapeError

DATA = os.environ.get("MINILSTM_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="needs the official lists: set MINILSTM_DATA to the folder with splits/"
)
UCF_TRAIN = "Archery/v_Archery_g08_c01.avi 1\r\nArchery/v_Archery_g08_c02.avi 1\r\n"
UCF_TEST = "Archery/v_Archery_g01_c01.avi\r\n"
UCF_NAMES = ["v_Archery_g01_c01.avi", "a/b/v_Archery_g08_c02.mp4", "v_Archery_g08_c01"]
HMDB_A = "kiss_a_0.avi 1 \nkiss_b_0.avi 2 \nkiss_c_0.avi 0 \n"
HMDB_B = "me & you#1_run.avi 2 \nrun_b_0.avi 1 \n"
HMDB_NAMES = ["kiss/kiss_b_0.avi", "kiss/kiss_c_0.avi", "run/run_b_0.avi", "kiss/kiss_a_0.avi",
              "run/me & you#1_run.avi"]  # fmt: skip


def write_ucf(folder, train=UCF_TRAIN, test=UCF_TEST):
    folder.joinpath("trainlist01.txt").write_text(train, newline="")
    folder.joinpath("testlist01.txt").write_text(test, newline="")


def write_hmdb(folder, a=HMDB_A, b=HMDB_B):
    folder.joinpath("kiss_test_split1.txt").write_text(a)
    folder.joinpath("run_test_split1.txt").write_text(b)


def refused(function, *arguments, **keywords):
    """The message of a refusal: one line."""
    with pytest.raises(MinilstmError) as refusal:
        result = function(*arguments, **keywords)
        list(result)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_ucf101_lists_find_clips_by_name_whatever_their_folder_or_ending(tmp_path):
    write_ucf(tmp_path)
    train, test = ucf101_split(UCF_NAMES, tmp_path, 1)
    assert train.tolist() == [1, 2] and test.tolist() == [0]


def test_hmdb51_lists_leave_out_what_is_for_neither(tmp_path):
    write_hmdb(tmp_path)
    train, test = hmdb51_split(HMDB_NAMES, tmp_path, 1)
    assert train.tolist() == [2, 3] and test.tolist() == [0, 4]


@pytest.mark.parametrize("write, split", [(write_ucf, ucf101_split), (write_hmdb, hmdb51_split)])
def test_lists_that_an_editor_has_given_a_byte_order_mark_are_the_same(tmp_path, write, split):
    write(tmp_path)
    names = UCF_NAMES if split is ucf101_split else HMDB_NAMES
    expected = [part.tolist() for part in split(names, tmp_path, 1)]
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [part.tolist() for part in split(names, tmp_path, 1)] == expected
    # --partly says nothing of clips that are listed and not there: the first must not be lost
    assert [part.tolist() for part in split(names, tmp_path, 1, partly=True)] == expected


def test_a_part_of_the_set_is_an_error_unless_that_is_meant(tmp_path):
    write_ucf(tmp_path)
    assert "v_Archery_g08_c01" in refused(ucf101_split, UCF_NAMES[:2], tmp_path, 1)
    train, test = ucf101_split(UCF_NAMES[:2], tmp_path, 1, partly=True)
    assert train.tolist() == [1] and test.tolist() == [0]
    assert "1 and 0" in refused(ucf101_split, UCF_NAMES[1:2], tmp_path, 1, partly=True)


def test_wrong_lists_are_refused_in_a_line(tmp_path):
    assert "trainlist01.txt" in refused(ucf101_split, UCF_NAMES, tmp_path, 1)
    assert "got none" in refused(hmdb51_split, HMDB_NAMES, tmp_path, 1)
    for split in (0, 4, "1"):
        assert "1, 2 or 3" in refused(ucf101_split, UCF_NAMES, tmp_path, split)
    write_ucf(tmp_path, test=UCF_TEST + UCF_TRAIN)
    assert "for training and for test" in refused(ucf101_split, UCF_NAMES, tmp_path, 1)
    write_ucf(tmp_path, test="\n")
    assert "empty" in refused(ucf101_split, UCF_NAMES, tmp_path, 1)
    write_ucf(tmp_path)
    assert "twice" in refused(ucf101_split, [*UCF_NAMES, UCF_NAMES[0]], tmp_path, 1)
    for line in ("a.avi 3", "a.avi", "1"):
        write_hmdb(tmp_path, HMDB_A + line + "\n")
        assert "line 4" in refused(hmdb51_split, HMDB_NAMES, tmp_path, 1)


@needs_data
def test_the_official_lists_have_their_published_sizes_and_keep_recordings_apart(tmp_path):
    for archive in ("ucf101", "hmdb51"):
        with tarfile.open(Path(DATA, f"splits/{archive}_splits.tar.gz")) as file:
            file.extractall(tmp_path, filter="data")
    ucf, hmdb = tmp_path / "data/ucf101_splits", tmp_path / "data/hmdb51_splits"
    lists = [ucf / f"{part}list01.txt" for part in ("train", "test")]
    names = [line.split()[0] for path in lists for line in path.read_text().splitlines()]
    recordings = np.array([name.rsplit("_c", 1)[0] for name in names])
    for split, sizes in ((1, (9537, 3783)), (2, (9586, 3734)), (3, (9624, 3696))):
        train, test = ucf101_split(names, ucf, split)
        assert (len(train), len(test)) == sizes
        assert not set(recordings[train]) & set(recordings[test])
    names = sorted(
        {line.rsplit(" ", 2)[0] for p in hmdb.glob("*.txt") for line in p.read_text().splitlines()}
    )
    for split in (1, 2, 3):
        train, test = hmdb51_split(names, hmdb, split)
        assert (len(train), len(test)) == (70 * 51, 30 * 51) and not set(train) & set(test)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_keep_groups_whole_test_every_clip_once_and_are_of_a_size(count, seed):
    groups = np.random.default_rng(5).permutation(np.repeat([3, 8, 20, 21, 40, 41, 99], 6))
    folds = list(grouped_folds(groups, count, seed))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(42))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == 42 and 0 < len(test) <= 6 * -(-7 // count)
    again = list(grouped_folds(groups, count, seed))
    assert all((a[1] == b[1]).all() for a, b in zip(folds, again, strict=True))


def test_seeds_deal_other_folds():
    groups = np.arange(20)
    one, other = (next(grouped_folds(groups, 4, seed))[1].tolist() for seed in (0, 1))
    assert one != other


def test_uneven_groups_fill_every_fold():
    groups = np.repeat(np.arange(5), [30, 1, 1, 1, 1])
    assert sorted(len(test) for _, test in grouped_folds(groups, 4)) == [1, 1, 2, 30]


def test_nested_folds_never_meet_the_outer_test_clips():
    groups = np.repeat(np.arange(6), 3)
    for train, test in grouped_folds(groups, 3):
        for inner, validation in grouped_folds(groups[train], 2):
            parts = train[inner], train[validation], test
            assert sorted(np.concatenate(parts)) == list(range(18))
            assert len(set.union(*(set(groups[p]) for p in parts))) == 6
            assert sum(len(set(groups[p])) for p in parts) == 6


def test_more_folds_than_groups_or_fewer_than_two_are_refused():
    for count in (0, 1, 4):
        assert "folds" in refused(grouped_folds, np.array([0, 0, 1, 2]), count)


@pytest.mark.parametrize("groups", [7, [[1, 2], [3, 4]], [0.5, 1.5, 2.5], ["a", "b", "c"]])
def test_groups_that_are_no_numbers_one_for_each_are_refused(groups):
    assert "expected groups (N,)" in refused(grouped_folds, groups, 2)
    with pytest.raises(ShapeError, match="expected groups"):
        members_of_split(groups, "train")
