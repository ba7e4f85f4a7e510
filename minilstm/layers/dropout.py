"""Dropout: set random outputs of a layer to zero in training. Never in the recurrence.

Paper: "Action Recognition on UCF-101/HMDB-51" (the classifier). Read next: stack.py.
"""

from __future__ import annotations

from ..backend import xp
from ..errors import ConfigError
from . import samples
from .layer import Cache, Layer, expect
from .workspace import empty


class Dropout(Layer, sample=samples.dropout):
    """y = x * mask / (1 - rate); without a mask (evaluation) y = x.

    x (T, B, H), mask (T, B, H) of bool, True where a unit is kept; the training loop draws it.
    Raises ConfigError for a rate outside [0, 1).
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ConfigError(f"expected a dropout rate in [0, 1), got {rate}: choose another")
        self.rate = rate

    def forward(self, x, mask=None):
        """x (T, B, H), mask (T, B, H) or None -> y (T, B, H), cache."""
        return self.apply(x, mask), Cache(mask=mask, shape=x.shape, dtype=x.dtype)

    def backward(self, dy, cache):
        """dy (T, B, H) -> dx (T, B, H), None."""
        values = cache.consume()
        expect("dy", dy, values.shape, values.dtype)
        return self.apply(dy, values.mask), None

    def apply(self, x, mask):
        """Return x * mask / (1 - rate), (..., H). The backward pass applies it to dy."""
        if mask is None:
            return x
        expect("dropout mask", mask, x.shape, bool)
        y = xp.multiply(x, mask, out=empty(x.shape, x.dtype))
        y *= 1 / (1 - self.rate)
        return y
