"""The cross-entropy on a GPU: launches the kernels of cross_entropy.cuh.

losses.py computes it by fifteen operations on whole arrays. Here the forward pass reads the
logits once, and the backward pass the probabilities p. With `--no-fused` the kernels are not used.

Read next: cross_entropy.cuh.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import xp
from . import kernels

BLOCKS = 2048  # at most; with more pixels, every block adds up several parts of them


def bernoulli(logits, target):
    """`BernoulliCrossEntropy.forward`. (T, B, D) both -> loss (0-d array), p (T, B, D)."""
    logits, target = kernels.in_rows(logits), kernels.in_rows(target)
    size, real = logits.size, logits.dtype.type
    blocks = max(1, min(-(-size // kernels.THREADS), BLOCKS))
    p, loss = xp.empty(logits.shape, real), xp.empty((), real)
    sums = xp.empty(blocks, np.float64)
    arrays = np.int64(size), logits, target, p, sums
    _launch("bernoulli", real, blocks, *arrays)
    frames = np.float64(math.prod(logits.shape[:-1]))
    _launch("mean_loss", real, 1, np.int64(blocks), frames, sums, loss)
    return loss, p


def bernoulli_backward(dloss, p, target):
    """`BernoulliCrossEntropy.backward`. dloss (a number or 0-d array); p becomes dlogits."""
    real = p.dtype.type
    there, given = None, dloss
    if not isinstance(dloss, float | int):
        there, given = xp.asarray(dloss, real), 0
    frames = real(math.prod(p.shape[:-1]))
    arguments = np.int64(p.size), there, real(given), frames, kernels.in_rows(target), p
    kernels.launch("cross_entropy.cuh", "bernoulli_backward", real, p.size, *arguments)
    return p


def _launch(name, real, blocks, *arguments):
    kernel = kernels.function("cross_entropy.cuh", name, np.dtype(real).name)
    kernel((blocks,), (kernels.THREADS,), arguments)
