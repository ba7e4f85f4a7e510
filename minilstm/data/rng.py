"""Random numbers that depend on a key and on nothing else: what all sources of frames share.

A generator that is made once and drawn from forever has a memory: batch 1000 exists only after
batches 0 to 999. Here every batch gets a generator of its own, keyed (purpose, seed, k), so a run
that was interrupted, or shared out over machines, sees the same batches as one that was not.

Read next: moving_mnist.py.
"""

from __future__ import annotations

from enum import IntEnum, unique
from functools import lru_cache

import numpy as np

from ..errors import ConfigError, ShapeError


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
    order.flags.writeable = False  # the cache hands the same array to everybody
    return order


def endless_shuffle(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Entries start, ..., start + count - 1 of an endless shuffled list of 0, ..., n - 1.

    The list is permutation 0, permutation 1, ... one after the other, so every index comes once
    before any comes twice. Returns int64 (count,), a function of the arguments alone.
    """
    first, last = start // n, (start + count - 1) // n
    order = np.concatenate([_permutation(n, seed, epoch) for epoch in range(first, last + 1)])
    return order[start - first * n :][:count]


def part(groups: np.ndarray, split: str) -> np.ndarray:
    """The members, indices of `groups`, of one split of a set that came without one.

    `groups` (N,) are integers: what is alike, such as pieces of one film, has the same; where
    nothing is, 0, ..., N - 1. Of every ten, number 8 is for "test", 9 for "validation", the others
    for "train"; "all" is all. Raises ShapeError for other groups.
    """
    tenth = group_numbers(groups) % 10
    wanted = {"all": tenth >= 0, "train": tenth < 8, "test": tenth == 8, "validation": tenth == 9}
    return np.flatnonzero(wanted[split])


def group_numbers(groups: np.ndarray) -> np.ndarray:
    """`groups` as an array (N,), or ShapeError unless they are whole numbers, one for each."""
    groups = np.asarray(groups)
    if groups.ndim != 1 or (groups.dtype.kind not in "iu" and groups.size):
        raise ShapeError(
            f"expected groups (N,), a whole number for each member, got {groups.dtype} "
            f"{groups.shape}: give each its recording's number"
        )
    return groups


def whole_number(name: str, value: int, at_least: int) -> int:
    """`value` as an int, or ConfigError unless it is a whole number >= `at_least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ConfigError(f"expected a whole number for {name}, got {value!r}: pass an int")
    if value < at_least:
        raise ConfigError(f"expected {name} >= {at_least}, got {value}: raise {name}")
    return int(value)
