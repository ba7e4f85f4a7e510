"""The matrix products: y = x W + b, and its three gradients.

The functions are shared by all layers that multiply by a weight; `Linear` is the layer that
reads frames out of hidden states.

Slides: "Neural Networks". Read next: rnn.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from . import samples
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect
from .workspace import BY_FEATURE, empty, place, reordered

BLOCK = 1 << 22  # numbers of a weight's gradient that are made at a time: 16 MB in float32


def affine(x, W, b, out):
    """out = x W + b. x (..., D), W (D, K), b (K,) or None -> out (..., K); D = 0 gives b.

    `out` of several steps must be PLAIN or BY_FEATURE: the rows of a BY_STEP one would be a copy.
    """
    if len(W):
        xp.matmul(rows(x), W, out=rows(out))
    else:
        out.fill(0)  # what the product is, too
    if b is not None:
        out += b
    return out


def affine_by_feature(x, W, b, out):
    """`affine` for an `out` of any order: one product BY_FEATURE, and a copy where it belongs."""
    made = affine(x, W, b, out=place(out, BY_FEATURE))
    if made is not out:
        out[...] = made
    return out


def affine_dx(dy, W, out):
    """dx = dy W^T. dy (..., K), W (D, K) -> out (..., D), of several steps not BY_STEP."""
    xp.matmul(rows(dy), W.T, out=rows(out))
    return out


def affine_dw(x, dy, dW, db):
    """dW += x^T dy, db += sum of dy: one product each over all time steps and sequences."""
    x, dy = rows(x), rows(dy)
    D, K = dW.shape
    step = max(1, BLOCK // K)  # a large product need not be held whole before it is added
    for first in range(0, D, step):
        part = slice(first, first + step)
        dW[part] += xp.matmul(x[:, part].T, dy, out=empty(dW[part].shape, dW.dtype))
    if db is not None:
        db += sum_of_rows(dy)


def sum_of_rows(x):
    """The sum over all time steps and sequences. x (..., K) -> (K,)"""
    x = rows(x)
    ones = empty((len(x),), x.dtype)
    ones.fill(1)
    return xp.matmul(ones, x, out=empty(x.shape[1:], x.dtype))  # faster than x.sum(axis=0)


def rows(x):
    """(T, B, D) -> (T*B, D): a matrix product does not care which time step a row comes from.

    A view where the order in memory allows it, as of every array made PLAIN or BY_FEATURE; a copy
    BY_FEATURE of others.
    """
    if x.ndim == 2:
        return x
    T, B, D = x.shape
    if T > 1 and x.strides[0] != B * x.strides[1]:
        x = reordered(x, BY_FEATURE)
    return x.reshape(T * B, D)


class Linear(Layer, sample=samples.linear):
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
        return affine_dx(dy, self.W.value, out=empty(x.shape, x.dtype, BY_FEATURE))
