"""Baselines for a classifier of clips: what can be recognised without an LSTM.

Paper: Table 1 ("Single Frame"). Read next: logistic.py.
"""

from __future__ import annotations

import numpy as np

from ..data import Clips
from ..data.clips import clip_vectors, scale_of_clips
from .clip_scores import nats_per_clip
from .logistic import Logistic, choose_logistic


def clip_baselines(train: Clips, validation: Clips, test: Clips) -> dict[str, np.ndarray]:
    """Probabilities (N, K) of the test clips by baselines without an LSTM, by name.

    middle frame           logistic regression of frames: the probabilities of the middle frame
    single frame           the same regression: the mean probabilities over all frames (Table 1)
    mean frame             logistic regression of the mean of a clip's frames
    size and length        logistic regression of a clip's width, height and number of frames
    most frequent class    the shares of the classes in training, the same for every test clip

    By design, one frame of an action says nothing about its class. The mean over frames says
    something: its pixels are brighter where a digit stays and fainter where it moves.
    """
    scale, K = scale_of_clips(train), len(train.classes)
    parts = (train, validation, test)

    def frames(clips):
        return clip_vectors(clips.frames[:, None], scale)[:, 0], np.repeat(
            np.arange(len(clips)), clips.lengths
        )

    def means(clips):
        return mean_by(*frames(clips)), np.arange(len(clips))

    def sizes(clips):
        x = np.column_stack([clips.sizes, clips.lengths])
        return np.log(np.maximum(x, 1)), np.arange(len(clips))

    found = {}
    for name, inputs in (
        ("single frame", frames),
        ("mean frame", means),
        ("size and length", sizes),
    ):
        x, x_validation, x_test = map(inputs, parts)
        logistic = logistic_of_clips(x, train, x_validation, validation)
        p = logistic.probabilities(x_test[0])
        if name == "single frame":
            found["middle frame"] = p[test.starts + test.lengths // 2]
        found[name] = mean_by(p, x_test[1])
    share = np.bincount(train.labels, minlength=K) / len(train)
    return found | {"most frequent class": np.tile(share, (len(test), 1))}


def logistic_of_clips(
    inputs: tuple, train: Clips, inputs_validation: tuple, validation: Clips
) -> Logistic:
    """Fit a logistic regression to rows of clips. inputs = (x, which): row x[m] of clip which[m].

    x is (M, D), which (M,). The validation clips choose the strength of L2.
    """
    (x, which), (x_validation, which_validation) = inputs, inputs_validation

    def nats(logistic):
        p = mean_by(logistic.probabilities(x_validation), which_validation)
        return nats_per_clip(p, validation.labels)

    return choose_logistic(x, train.labels[which], len(train.classes), nats)


def mean_by(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Average the rows of values (N, ...) by group: which (N,) in 0, ..., M - 1 -> (M, ...)."""
    total = np.zeros((which.max() + 1, values.shape[1]))
    np.add.at(total, which, values)
    return total / np.bincount(which)[:, None]
