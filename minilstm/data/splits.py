"""Splits of clips into training and test: the official lists, and folds by recordings.

    train, test = ucf101_split(clips.names, "ucfTrainTestlist", 1)     # of three
    train, test = hmdb51_split(clips.names, "testTrainMulti_7030_splits", 1)
    for train, test in grouped_folds(clips.groups, 10): ...

All results are indices of clips, int64, rising. Videos of one recording look alike: the same
people, the same room. If some of them are in training and some in test, a model can do well by
recognising the room. The official lists keep recordings apart. `grouped_folds` does so for any
other set.

Paper: "Action Recognition on UCF-101/HMDB-51". Read next: training/classifier.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import ConfigError, DataError, one_line, whole_number
from .rng import Purpose, group_numbers, keyed_rng

OFFICIAL_SPLITS = (1, 2, 3)

Indices = np.ndarray


def ucf101_split(
    names: Sequence[str], folder: str | Path, split: int, partly: bool = False
) -> tuple[Indices, Indices]:
    """Return training and test clips of UCF-101, by its official lists in `folder`.

    The lists of split N are `trainlist0N.txt` and `testlist0N.txt`. A line is
    "CLASS/v_CLASS_gGG_cCC.avi". In a training list the class number follows; it is not needed. A
    clip is found by the last part of its name, without the suffix. With `partly`, listed clips that
    are missing from `names` are no error. Raises DataError, ConfigError for `split`.
    """
    folder = Path(folder)
    lists = [
        [line.split()[0] for line in _lines(folder / f"{part}list{_known(split):02}.txt")]
        for part in ("train", "test")
    ]
    return _found(names, lists, folder, partly)


def hmdb51_split(
    names: Sequence[str], folder: str | Path, split: int, partly: bool = False
) -> tuple[Indices, Indices]:
    """Return training and test clips of HMDB-51, by its official lists in `folder`.

    The lists of split N are `CLASS_test_splitN.txt`, one for each class. A line is "NAME.avi 1" for
    training, 2 for test, 0 for neither. The rest is as in `ucf101_split`.
    """
    folder = Path(folder)
    paths = sorted(folder.glob(f"*_test_split{_known(split)}.txt"))
    if not paths:
        raise DataError(
            f"{folder}: expected lists CLASS_test_split{split}.txt, got none: check the path"
        )
    lists = [], []
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            name, _, which = line.strip().rpartition(" ")
            if not name or which not in ("0", "1", "2"):
                raise DataError(
                    f"{path}: expected NAME and 0, 1 or 2 in line {number}, got {line!r:.80}: "
                    "mend that line"
                )
            if which != "0":
                lists[int(which) - 1].append(name)
    return _found(names, lists, folder, partly)


def grouped_folds(groups: Indices, count: int, seed: int = 0) -> Iterator[tuple[Indices, Indices]]:
    """Yield `count` pairs (training, test) of clips. Each clip is in test exactly once.

    Groups (N,) stay whole. They are dealt out in random order, the largest first, always to the
    smallest fold so far. With as many folds as groups, each test has one group. For nested folds,
    which choose settings without the test clips, call it again with the groups of the training
    clips:

        for train, test in grouped_folds(groups, 10):
            for inner, validation in grouped_folds(groups[train], 5):
                ... train[inner], train[validation] ...

    Raises ConfigError unless 2 <= count <= the number of groups, ShapeError for other groups.
    """
    groups = group_numbers(groups)
    members, sizes = np.unique(groups, return_counts=True)
    if whole_number("folds", count, 2) > len(members):
        raise ConfigError(
            f"expected at most {len(members)} folds, one for every recording, got {count}: ask for "
            "fewer"
        )
    order = keyed_rng(Purpose.FOLDS, whole_number("seed", seed, 0)).permutation(len(members))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(members), np.int64), np.zeros((count, 2), np.int64)
    for g in order:
        # the fold with the fewest clips; of equal ones the fewest groups, so that none stays empty
        fold_of[g] = np.lexsort((filled[:, 1], filled[:, 0]))[0]
        filled[fold_of[g]] += sizes[g], 1
    fold = fold_of[np.searchsorted(members, groups)]
    for n in range(count):
        yield np.flatnonzero(fold != n), np.flatnonzero(fold == n)


def few_per_class(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Draw `per_class` clips of every label in labels (N,), or all of a label that has fewer.

    Returns indices, int64, which depend on `seed`. A larger `per_class` includes the clips of a
    smaller one.
    """
    order = keyed_rng(Purpose.LABELLED_CLIPS, seed).permutation(len(labels))
    return np.sort(
        np.concatenate([order[labels[order] == k][:per_class] for k in np.unique(labels)])
    )


def _known(split):
    if split not in OFFICIAL_SPLITS:
        raise ConfigError(f"expected split 1, 2 or 3, got {split!r}: choose one")
    return split


def _lines(path):
    """Return the lines that are not empty, without an editor's byte-order mark."""
    try:
        lines = [line for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a list of an official split, got {one_line(error)}: check the path"
        ) from error
    if not lines:
        raise DataError(
            f"{path}: expected a list of an official split, got an empty file: copy it again"
        )
    return lines


def _found(names, lists, folder, partly):
    """Return the indices of listed clips. Each name must be in one list, once."""
    where = {}
    for n, name in enumerate(names):
        if where.setdefault(PurePosixPath(name).stem, n) != n:
            raise DataError(f"expected clips of different names, got {name} twice: remove one")
    listed = [[PurePosixPath(name).stem for name in part] for part in lists]
    if twice := set(listed[0]) & set(listed[1]):
        raise DataError(f"{folder}: {min(twice)} is for training and for test: mend the lists")
    missing = [stem for part in listed for stem in part if stem not in where]
    if missing and not partly:
        raise DataError(
            f"{folder}: expected all clips of the lists, got none named {missing[0]} and "
            f"{len(missing) - 1} others: extract them, or use the existing ones by --partly"
        )
    found = tuple(
        np.array(sorted(where[stem] for stem in set(part) if stem in where), np.int64)
        for part in listed
    )
    if not all(map(len, found)):
        raise DataError(
            f"{folder}: expected clips for training and for test, got {len(found[0])} and "
            f"{len(found[1])}: are these the lists of this set?"
        )
    return found
