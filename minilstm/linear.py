"""The matrix products: y = x W + b, and its three gradients.

The functions are shared by all layers that multiply by a weight; `Linear` is the layer that
reads frames out of hidden states.

Slides: "Neural Networks". Read next: rnn.py.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import xp
from .layer import PAPER_INIT, Cache, Init, Layer, Sample, expect, randomize
from .workspace import empty


def affine(x, W, b, out):
    """out = x W + b. x (..., D), W (D, K), b (K,) or None -> out (..., K); D = 0 gives b."""
    xp.matmul(_rows(x), W, out=_rows(out))
    if b is not None:
        out += b
    return out


def affine_dx(dy, W, out):
    """dx = dy W^T. dy (..., K), W (D, K) -> out (..., D)"""
    xp.matmul(_rows(dy), W.T, out=_rows(out))
    return out


def affine_dw(x, dy, dW, db):
    """dW += x^T dy, db += sum of dy: one product each over all time steps and sequences."""
    x, dy = _rows(x), _rows(dy)
    dW += xp.matmul(x.T, dy, out=empty(dW.shape, dW.dtype))
    if db is not None:
        ones = empty((len(dy),), dy.dtype)
        ones.fill(1)
        db += xp.matmul(ones, dy, out=empty(db.shape, db.dtype))  # faster than dy.sum(axis=0)


def _rows(x):
    # (T, B, D) -> (T*B, D): a matrix product does not care which time step a row comes from
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class Linear(Layer):
    """y = x W + b at every time step. x (T, B, D) -> y (T, B, K)"""

    def __init__(self, D: int, K: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.W = init.weight(rng, D, K)
        self.b = init.bias(K)

    def forward(self, x):
        W, b = self.W.value, self.b.value
        expect("Linear input x", x, ("T", "B", len(W)), W.dtype)
        y = affine(x, W, b, out=empty((*x.shape[:-1], len(b)), W.dtype))
        return y, Cache(x=x)

    def backward(self, dy, cache):
        x = cache.consume().x
        affine_dw(x, dy, self.W.grad, self.b.grad)
        return affine_dx(dy, self.W.value, out=empty(x.shape, x.dtype))

    @classmethod
    def sample(cls, rng):
        layer = randomize(cls(4, 5, rng), rng)
        return Sample(layer, (rng.standard_normal((3, 2, 4)),))
