"""The losses: they compare logits with a target. A target has no gradient.

    loss, cache = layer.forward(logits, target)      a 0-d array: nats (or error) per frame
    dlogits, _  = layer.backward(dloss, cache)

The loss is SUMMED over the pixels of a frame and averaged over frames and sequences. The slides'
Table 2 uses the same unit. `mean` turns logits into the predicted frame. A free-running decoder
takes this frame as its next input.

Slides: "Benchmarking" (Table 2), "Transfer Learning for Action Recognition" (Fig 11).
Read next: models/encoder.py.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import xp
from ..errors import DataError, ShapeError
from ..gpu import cross_entropy, kernels
from . import cells, samples
from .layer import Cache, Layer, expect
from .workspace import empty

ROUNDING = 1e-5  # by which a target may leave [0, 1]: a sum of products may give 1.0000001


class Loss(Layer, abstract=True):
    """A loss of logits against a target that has no gradient."""

    constants = ("target",)
    range = "finite numbers"  # the values that a target may have, in words
    unit = "nats per frame"

    def allows(self, values: np.ndarray) -> bool:
        """Return True if all `values`, a NumPy array, lie in `range`."""
        return bool(np.isfinite(values).all())

    def mean(self, logits, out):
        """Write the prediction for `logits` (..., D) to `out` (..., D) and return it."""
        raise NotImplementedError  # every loss defines its own

    def mean_backward(self, dmean, mean):
        """Return dlogits (..., D) from dmean (..., D), the gradient of `mean`; overwrite dmean."""
        raise NotImplementedError  # every loss defines its own

    def logits(self, mean):
        """Return logits for which `mean` is the prediction. A readout's bias may start there."""
        raise NotImplementedError  # every loss defines its own


class BernoulliCrossEntropy(Loss, sample=samples.bernoulli):
    """-[y log p + (1 - y) log(1 - p)] with p = sigmoid(logits), for pixels in [0, 1]; in nats.

    logits, target (T, B, D). Targets may be grey. On a CPU a target outside [0, 1] raises
    DataError. (On a GPU the host would have to wait for the answer.) Stable for logits z of any
    size:

    loss = max(z, 0) - log(max(p, 1 - p)) - y z
    dz = p - y
    """

    range = "[0, 1]"

    def allows(self, values: np.ndarray) -> bool:
        """Return True if all `values`, a NumPy array, lie in [0, 1], within rounding."""
        return bool(((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all())

    def forward(self, logits, target):
        """logits (T, B, D), target (T, B, D) -> loss (0-d array), cache."""
        _expect_logits(logits)
        expect("target", target, logits.shape, logits.dtype)
        _expect_between("target", target, 0, 1, "scale it, bytes by 1 / 255")
        if kernels.wanted(logits.dtype):
            target = kernels.in_rows(target)  # if this makes a copy, backward uses the copy too
            loss, p = cross_entropy.bernoulli(logits, target)
            return loss, Cache(p=p, target=target)
        p, likely, loss = (empty(logits.shape, logits.dtype) for _ in range(3))
        cells.sigmoid(logits, out=p)
        xp.subtract(p, 0.5, out=likely)
        cells.absolute(likely, out=likely)
        likely += 0.5  # max(p, 1 - p)
        cells.absolute(logits, out=loss)
        loss += logits
        loss *= 0.5  # max(z, 0) = (z + |z|) / 2
        loss -= xp.log(likely, out=likely)
        loss -= xp.multiply(target, logits, out=likely)
        return loss.sum() / _frames(logits), Cache(p=p, target=target)

    def backward(self, dloss, cache):
        """dloss (a number) -> dlogits (T, B, D), None."""
        values = cache.consume()
        if kernels.wanted(values.p.dtype):
            return cross_entropy.bernoulli_backward(dloss, values.p, values.target), None
        dlogits = xp.subtract(values.p, values.target, out=values.p)
        dlogits *= dloss / _frames(dlogits)
        return dlogits, None

    def mean(self, logits, out):
        """out = sigmoid(logits)."""
        return cells.sigmoid(logits, out=out)

    def mean_backward(self, dmean, mean):
        """dlogits = dmean * mean (1 - mean), in the memory of dmean."""
        scratch = xp.subtract(1, mean, out=empty(mean.shape, mean.dtype))
        scratch *= mean
        dmean *= scratch
        return dmean

    def logits(self, mean):
        """Return log(p / (1 - p)) for p = mean, with p kept 1e-4 away from 0 and 1."""
        p = xp.clip(mean, 1e-4, 1 - 1e-4)  # a pixel that was never lit may be lit later
        return xp.log(p / (1 - p))


class SquaredError(Loss, sample=samples.squared):
    """0.5 (z - y)^2, for logits z and target y (T, B, D).

    It is the loss for patches of natural video and for percepts: the features that a convolutional
    network computes from a frame.
    """

    unit = "half the squared error per frame"

    def forward(self, logits, target):
        """logits (T, B, D), target (T, B, D) -> loss (0-d array), cache."""
        _expect_logits(logits)
        expect("target", target, logits.shape, logits.dtype)
        error = xp.subtract(logits, target, out=empty(logits.shape, logits.dtype))
        square = xp.multiply(error, error, out=empty(error.shape, error.dtype))
        return square.sum() * 0.5 / _frames(logits), Cache(error=error)

    def backward(self, dloss, cache):
        """dloss (a number) -> dlogits (T, B, D), None."""
        error = cache.consume().error
        error *= dloss / _frames(error)
        return error, None

    def mean(self, logits, out):
        """out = logits."""
        out[...] = logits
        return out

    def mean_backward(self, dmean, mean):
        """dlogits = dmean."""
        return dmean

    def logits(self, mean):
        """Return the mean itself."""
        return mean


class SoftmaxCrossEntropy(Loss, sample=samples.softmax):
    """-log softmax(z)[label] at every step, averaged over steps and sequences; in nats.

    logits (T, B, K), target (T, B) of integer labels from 0 to K-1. On a CPU another label raises
    DataError.
    """

    def forward(self, logits, target):
        """logits (T, B, K), target (T, B) of integers -> loss (0-d array), cache."""
        _expect_logits(logits, "K")
        kind = getattr(target, "dtype", np.dtype(int))
        expect("target", target, logits.shape[:2], kind if kind.kind in "iu" else int)
        _expect_between(
            "labels", target, 0, logits.shape[-1] - 1, "leave unlabelled ones out, or raise K"
        )
        # subtracting the largest logit avoids overflow; the result does not depend on it
        largest = logits.real.max(axis=-1, keepdims=True)
        p = xp.subtract(logits, largest, out=empty(logits.shape, logits.dtype))
        picked = xp.take_along_axis(p, target[..., None], axis=-1)
        xp.exp(p, out=p)
        total = p.sum(axis=-1, keepdims=True)
        p /= total
        loss = (xp.log(total) - picked).sum() / _frames(logits)
        return loss, Cache(p=p, target=target)

    def backward(self, dloss, cache):
        """dloss (a number) -> dlogits (T, B, K), None."""
        values = cache.consume()
        labels = xp.arange(values.p.shape[-1]) == values.target[..., None]
        dlogits = xp.subtract(values.p, labels, out=values.p)
        dlogits *= dloss / _frames(dlogits)
        return dlogits, None

    def mean(self, logits, out):
        """out = softmax(logits)."""
        xp.subtract(logits, logits.real.max(axis=-1, keepdims=True), out=out)
        xp.exp(out, out=out)
        out /= out.sum(axis=-1, keepdims=True)
        return out

    def mean_backward(self, dmean, mean):
        """dlogits = mean (dmean - sum of dmean * mean), in the memory of dmean."""
        dmean *= mean
        dmean -= mean * dmean.sum(axis=-1, keepdims=True)
        return dmean

    def logits(self, mean):
        """Return log(mean), with mean at least 1e-4."""
        return xp.log(xp.clip(mean, 1e-4, 1))


def _expect_logits(logits, width="D"):
    """Raise ShapeError unless there is a frame: the mean over no frames is NaN."""
    expect("logits", logits, ("T", "B", width), None)
    if not _frames(logits):
        raise ShapeError(f"expected logits with T, B >= 1, got {logits.shape}: pass a frame")


def _expect_between(name, array, low, high, advice):
    """Raise DataError if a number is below `low` or above `high` by more than rounding.

    Do nothing on a GPU, or if any number is not finite: training has rules for such losses.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind == "c" or not array.size:
        return
    least, largest = array.min(), array.max()
    outside = least < low - ROUNDING or largest > high + ROUNDING
    if outside and np.isfinite(least) and np.isfinite(largest):
        raise DataError(f"expected {name} from {low} to {high}, got {least} to {largest}: {advice}")


def _frames(array):
    return math.prod(array.shape[:-1])
