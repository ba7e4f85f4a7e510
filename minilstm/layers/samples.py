"""Small instances of every layer with inputs, for the gradient check and tests/test_contracts.py.

A class names its sample where it is defined: `class Linear(Layer, sample=samples.linear)`. Every
sample has three time steps or more, sizes that all differ, and no zeros in parameters, inputs and
start states, so that no wrong index and no forgotten term can hide. Not part of the mathematics:
skip this file at a first reading.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from ..backend import asarray
from .init import PAPER_INIT
from .layer import Layer, Sample

L = TypeVar("L", bound=Layer)


def randomize(layer: L, rng: np.random.Generator, scale: float = 0.5) -> L:
    """Give every parameter normal random values of this standard deviation, biases too."""
    for param in layer.params().values():
        param.value[...] = asarray(scale * rng.standard_normal(param.value.shape))
    return layer


def linear(cls, rng) -> Sample:
    """x (T, B, D) = (3, 2, 4) -> y of width 5."""
    layer = randomize(cls(4, 5, rng), rng)
    return Sample(layer, (rng.standard_normal((3, 2, 4)),))


def dropout(cls, rng) -> Sample:
    """x (T, B, H) = (3, 2, 8) and a mask that keeps about half of the units."""
    mask = rng.random((3, 2, 8)) < 0.5
    mask[:, 0, 0] = True  # no time step may be all zero
    return Sample(cls(0.5), (rng.standard_normal((3, 2, 8)), mask))


def recurrent(cls, rng) -> Sample:
    """x (T, B, D) = (5, 2, 3) and a start state of 4 units: for `cls(D, H, rng, init)`."""
    return _recurrent(cls, rng, 5, 2, 3, 4)


def recurrents(cls, rng) -> dict[str, Sample]:
    """The sample of `recurrent`, and one of other sizes: T, B, D, H = 7, 3, 2, 8.

    A cell that defines `sample`, because it can't have these sizes, is checked on its own alone.
    """
    found = {"": cls.sample(rng)}
    if getattr(cls.sample, "__func__", None) is recurrent:
        found["of 8 units"] = _recurrent(cls, rng, 7, 3, 2, 8)
    return found


def _recurrent(cls, rng, T, B, D, H):
    layer = randomize(cls(D, H, rng, PAPER_INIT), rng)
    state = tuple(rng.standard_normal((B, H)) for _ in layer.state_names)
    return Sample(layer, (rng.standard_normal((T, B, D)), state))


def stack(cls, rng) -> Sample:
    """Three layers, x (T, B, D) = (5, 3, 4), H = 2, a start state and dropout masks."""
    T, B, D, H = 5, 3, 4, 2
    layer = randomize(cls(D, H, 3, rng, dropout=0.3), rng)
    state = tuple(tuple(rng.standard_normal((2, B, H))) for _ in range(3))
    masks = tuple(rng.random((2, T, B, H)) < 0.7)
    return Sample(layer, (rng.standard_normal((T, B, D)), state, masks))


def whole_and_recomputed(cls, rng) -> dict[str, Sample]:
    """The sample of a stack, and another one that is recomputed in segments of two steps."""
    found = {"": cls.sample(rng), "recompute=2": cls.sample(rng)}
    layer = found["recompute=2"].layer
    layer.lengths = dataclasses.replace(layer.lengths, recompute=2)
    return found


def bernoulli(cls, rng) -> Sample:
    """Logits and grey targets (T, B, D) = (4, 2, 5)."""
    logits, target = 3 * rng.standard_normal((4, 2, 5)), rng.random((4, 2, 5))
    return Sample(cls(), (logits, target))


def squared(cls, rng) -> Sample:
    """Logits and normally distributed targets (T, B, D) = (4, 2, 5)."""
    return Sample(cls(), (rng.standard_normal((4, 2, 5)), rng.standard_normal((4, 2, 5))))


def softmax(cls, rng) -> Sample:
    """Logits (T, B, K) = (4, 2, 5) and integer labels (T, B)."""
    return Sample(cls(), (3 * rng.standard_normal((4, 2, 5)), rng.integers(0, 5, (4, 2))))
