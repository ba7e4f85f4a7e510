"""Random numbers that depend on a key alone. All sources of frames draw from these.

A generator that is made once has a memory: to draw batch 1000 it must first draw batches 0 to 999.
Here every batch has a generator of its own, keyed (purpose, seed, k). So a run that was
interrupted, or that several machines share, sees the same batches as one that was not.

Read next: moving_mnist.py.
"""

from __future__ import annotations

from enum import IntEnum, unique
from functools import lru_cache

import numpy as np

from ..errors import ConfigError, ShapeError

SPLITS = ("train", "validation", "test")


@unique
class Purpose(IntEnum):
    """Purposes of random numbers: the first number of a key.

    A number that is in use never changes its meaning, because it would change all draws.
    """

    SHUFFLE = 0  # order of an endless shuffled list
    MOTION = 1  # places and velocities of moving digits
    WEIGHTS = 2  # initial parameters
    FEEDING = 3  # scheduled sampling: steps at which a decoder is fed the true frame
    DROPOUT = 4  # units dropped in training
    ACTIONS = 5  # speed, place and digit of an action
    FIGURE = 6  # gradients that a figure shows
    CLASSIFIER_BATCH = 7  # windows of labelled clips in a batch
    CLASSIFIER_DROPOUT = 8  # units dropped in training a classifier
    LABELLED_CLIPS = 9  # clips that keep their label
    FOLDS = 10  # groups dealt out to folds
    PATCH_GRID = 100  # grid from which patches are cut
    FILM_SQUARES = 101  # candidate squares of a film, and the choice among them


def keyed_rng(*key: int) -> np.random.Generator:
    """Return a counter-based generator (Philox) whose draws depend on `key` alone.

    `key` is a `Purpose` and further integers >= 0. Keys of one purpose have one length. Two keys
    that differ in any number give unrelated draws.
    """
    # NumPy joins the 32-bit words of all numbers, so (2**32, 0) and (0, 1) would be one key. Where
    # a number has several words, their counts are part of the key, too.
    key = [int(number) for number in key]
    more_words = [max(number.bit_length() - 1, 0) // 32 for number in key]
    sequence = np.random.SeedSequence(key, spawn_key=more_words if any(more_words) else ())
    return np.random.Generator(np.random.Philox(sequence))


@lru_cache(maxsize=4)  # neighbouring batches read the same one or two permutations
def _permutation(n, seed, epoch):
    order = keyed_rng(Purpose.SHUFFLE, seed, epoch).permutation(n)
    order.flags.writeable = False  # all callers get the same array from the cache
    return order


def endless_shuffle(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Return entries start, ..., start + count - 1 of an endless shuffled list of 0, ..., n - 1.

    The list is a permutation, followed by another one, and so on. So every index comes once before
    any comes twice. The result, int64 (count,), depends on the arguments alone.
    """
    first, last = start // n, (start + count - 1) // n
    order = np.concatenate([_permutation(n, seed, epoch) for epoch in range(first, last + 1)])
    return order[start - first * n :][:count]


def members_of_split(groups: np.ndarray, split: str) -> np.ndarray:
    """Return the members of one split of a set that has no official split: indices, int64.

    `groups` (N,) holds an integer for each member. Members that are alike, such as pieces of one
    film, have the same number; without such groups they are numbered 0, ..., N - 1. Groups whose
    number ends in 8 are for "test", in 9 for "validation", and the others for "train". "all" is
    every member. Raises ShapeError for other groups, ConfigError for an unknown split.
    """
    expect_split(split, (*SPLITS, "all"))
    tenth = group_numbers(groups) % 10
    wanted = {"all": tenth >= 0, "train": tenth < 8, "test": tenth == 8, "validation": tenth == 9}
    return np.flatnonzero(wanted[split])


def expect_split(split: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless `split` is one of the `known` names."""
    if split not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        raise ConfigError(f"expected split {names}, got {split!r}: choose one")


def group_numbers(groups: np.ndarray) -> np.ndarray:
    """Return `groups` as an array (N,). Raises ShapeError unless they are whole numbers."""
    groups = np.asarray(groups)
    if groups.ndim != 1 or (groups.dtype.kind not in "iu" and groups.size):
        raise ShapeError(
            f"expected groups (N,), a whole number for each member, got {groups.dtype} "
            f"{groups.shape}: give each its recording's number"
        )
    return groups
