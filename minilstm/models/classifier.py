"""The action classifier: a stack of LSTMs that names a class at every step.

Slides: "Transfer Learning for Action Recognition" (Fig 11). Paper: "Action Recognition on
UCF-101/HMDB-51". Read next: training/classifier.py.
"""

from __future__ import annotations

import numpy as np

from ..layers.dropout import Dropout
from ..layers.init import PAPER_INIT, Init
from ..layers.layer import Cache, Layer, expect_entries
from ..layers.linear import Linear
from ..layers.losses import SoftmaxCrossEntropy
from ..layers.lstm import PeepholeLSTM
from ..layers.rnn import Recurrent
from ..layers.stack import Stack
from . import samples


class Classifier(Layer, sample=samples.classifier):
    """Logits of the class at every step, from the frames so far.

    x (T, B, D), masks -> logits (T, B, K). The masks are one (T, B, H) for each gap between
    layers, and one for the readout's input. In evaluation masks is None.

    Every step has a loss. Slides: "Transfer Learning for Action Recognition" (Fig 11).
    """

    def __init__(
        self,
        D: int,
        H: int,
        layers: int,
        K: int,
        rng: np.random.Generator,
        cell: type[Recurrent] = PeepholeLSTM,
        init: Init = PAPER_INIT,
        dropout: float = 0.0,
    ):
        self.loss = SoftmaxCrossEntropy()
        self.encoder = Stack(D, H, layers, rng, cell, init, dropout)
        self.dropout = Dropout(dropout)
        self.readout = Linear(H, K, rng, init)

    def forward(self, x, masks=None):
        """x (T, B, D), masks -> logits (T, B, K), cache."""
        expect_entries("dropout masks, one for each layer", masks, len(self.encoder.layers))
        (y, _), encoder_cache = self.encoder.forward(x, None, masks and masks[:-1])
        y, dropout_cache = self.dropout.forward(y, masks and masks[-1])
        logits, readout_cache = self.readout.forward(y)
        return logits, Cache(encoder=encoder_cache, dropout=dropout_cache, readout=readout_cache)

    def backward(self, dlogits, cache, want_dx=True):
        """dlogits (T, B, K) -> dx (T, B, D), or None if it is not wanted; None."""
        values = cache.consume()
        dy = self.readout.backward(dlogits, values.readout)
        dy, _ = self.dropout.backward(dy, values.dropout)
        dx, _, _ = self.encoder.backward((dy, None), values.encoder, want_dx)
        return dx, None
