"""The matrix products: y = x W + b, and its three gradients.

The functions are shared by all layers that multiply by a weight. `Linear` is the layer that reads
frames out of hidden states. Vectors are rows: x is (B, D), with one sequence per row, and a weight
stands on its right. The slides write columns, W x.

Slides: "Neural Networks". Read next: rnn.py.
"""

from __future__ import annotations

import numpy as np

from ..backend import xp
from ..gpu import products
from ..gpu.side_by_side import aside
from . import samples
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect
from .memory_order import matmul, rows
from .workspace import empty

BLOCK = 1 << 22  # elements of a weight's gradient that are computed at a time: 16 MB in float32


def affine(x, W, b, out):
    """out = x W + b. x (..., D), W (D, K), b (K,) or None -> out (..., K). D = 0 gives b."""
    matmul(x, W, out)
    if b is not None:
        out += b
    return out


def affine_dx(dy, W, out=None):
    """dx = dy W^T. dy (..., K), W (D, K) -> dx (..., D), written to `out` if it is given."""
    return matmul(dy, W.T, out)


def affine_dw(x, dy, dW, db):
    """dW += x^T dy, db += sum of dy: one product each over all time steps and sequences.

    x (..., D), dy (..., K), dW (D, K), db (K,) or None.
    """
    x, dy = rows(x), rows(dy)
    D, K = dW.shape
    # on a GPU the product itself adds to dW
    for block in [slice(D)] if products.wanted(dW.dtype) else blocks(D, K):
        add_product(x[:, block].T, dy, out=dW[block])
    if db is not None:
        add_sum_of_rows(dy, out=db)


def blocks(D, K):
    """Return slices of the rows of dW (D, K), so that a large product needs little memory."""
    step = max(1, BLOCK // K)
    return [slice(first, min(first + step, D)) for first in range(0, D, step)]


def add_product(a, b, out, scratch=None):
    """out += a b, for a (M, K) and b (K, N). `scratch` (M, N) may be used for the product."""
    if products.wanted(out.dtype):
        products.matmul(a, b, out, add=True)
        return
    if scratch is None:
        scratch = empty(out.shape, out.dtype)
    out += xp.matmul(a, b, out=scratch)


def add_sum_of_rows(x, out):
    """out += the sum over all time steps and sequences. x (..., K), out (K,)"""
    x = rows(x)
    ones = empty((1, len(x)), x.dtype)
    ones.fill(1)
    if products.wanted(x.dtype):
        products.matmul(ones, x, out[None], add=True)
    else:
        out += xp.matmul(ones[0], x, out=empty(out.shape, x.dtype))  # faster than x.sum(axis=0)


class Linear(Layer, sample=samples.linear):
    """y = x W + b at every time step. x (T, B, D) -> y (T, B, K)"""

    def __init__(self, D: int, K: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.W = init.weight(rng, D, K)
        self.b = init.bias(K)

    def forward(self, x):
        """x (T, B, D) -> y (T, B, K), cache."""
        W, b = self.W.value, self.b.value
        expect("Linear input x", x, ("T", "B", len(W)), W.dtype)
        y = affine(x, W, b, out=empty((*x.shape[:-1], len(b)), W.dtype))
        return y, Cache(x=x)

    def backward(self, dy, cache):
        """dy (T, B, K) -> dx (T, B, D)."""
        x = cache.consume().x
        expect("dy", dy, (*x.shape[:-1], len(self.b.value)), x.dtype)
        aside(affine_dw, x, dy, self.W.grad, self.b.grad)
        return affine_dx(dy, self.W.value)
