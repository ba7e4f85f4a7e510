"""A stack of recurrent layers: each layer's outputs are the inputs of the layer above.

With NumPy, call(layer, function, ...) below is function(...). A GPU computes two small layers at
the same time (gpu/wavefront.py).

Slides: "Recurrent Encoder-Decoder"; Table 2, "All models use 2 layers of LSTMs". Read next:
losses.py, then models/encoder.py.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, whole_number
from ..gpu.wavefront import has_room, wavefront
from . import samples
from .dropout import Dropout
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect, expect_entries
from .lstm import PeepholeLSTM
from .rnn import Recurrent, has_shared_loop


class Stack(Layer, sample=samples.stack):
    """`layers` recurrent layers with dropout between them.

    x (T, B, D), state: one tuple of (B, H) arrays per layer or None, masks: one (T, B, H) of
    bool per gap between layers or None -> (y (T, B, H) of the top layer, final state of all).

    Raises ConfigError for fewer than one layer, ShapeError for inputs that do not fit.
    """

    def __init__(
        self,
        D: int,
        H: int,
        layers: int,
        rng: np.random.Generator,
        cell: type[Recurrent] = PeepholeLSTM,
        init: Init = PAPER_INIT,
        dropout: float = 0.0,
    ):
        for name, size, least in (("D", D, 0), ("H", H, 1), ("layers", layers, 1)):
            whole_number(name, size, least)
        if not callable(cell):
            raise ConfigError(f"expected the class of a cell, got {cell!r}: pass LSTM, for example")
        self.layers = tuple(cell(D if k == 0 else H, H, rng, init) for k in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, x, state=None, masks=None):
        """x (T, B, D), state, masks -> (y (T, B, H), final state), cache."""
        self.expect_inputs(x, state, masks)
        final, caches, dropout_caches = [], [], []
        wave = self.wants_wavefront(*x.shape[:2], masks)
        with wavefront(self.layers, wave) as call:
            for k, layer in enumerate(self.layers):
                if k > 0:
                    x, dropout_cache = self.dropout.forward(x, masks and masks[k - 1])
                    dropout_caches.append(dropout_cache)
                (x, layer_final), cache = call(layer, layer.forward, x, state and state[k])
                final.append(layer_final)
                caches.append(cache)
        cache = Cache(
            layers=caches,
            dropouts=dropout_caches,
            has_state=state is not None,
            wave=wave,  # the backward pass makes the same choice
        )
        return (x, tuple(final)), cache

    def backward(self, doutputs, cache, want_dx=True):
        """(dy (T, B, H), dfinal), either of them None for zero -> dx (T, B, D), dstate, None.

        Without `want_dx` dx is None.
        """
        expect_entries("gradients, dy and those of the final states", doutputs, 2)
        dy, dfinal = doutputs
        values, dstate = cache.consume(), []
        expect_entries("layers in the gradient of the final state", dfinal, len(self.layers))
        with wavefront(self.layers, values.wave) as call:
            for k in reversed(range(len(self.layers))):
                layer, dlayer = self.layers[k], (dy, dfinal and dfinal[k])
                arguments = dlayer, values.layers[k], want_dx or k > 0
                dy, dlayer_state = call(layer, layer.backward, *arguments)
                dstate.insert(0, dlayer_state)
                if k > 0:
                    dy, _ = self.dropout.backward(dy, values.dropouts[k - 1])
        return dy, tuple(dstate) if values.has_state else None, None

    def wants_wavefront(self, T, B, masks):
        """Say if a GPU should compute two layers at the same time. Always False with NumPy."""
        possible = len(self.layers) > 1 and T > 1 and masks is None
        return possible and all(_can_overlap(layer, B) for layer in self.layers)

    def expect_inputs(self, x, state, masks):
        """Raise ShapeError unless the inputs of `forward` fit. Each layer checks its own state."""
        expect("Stack input x", x, ("T", "B", self.layers[0].D), self.dtype)
        expect_entries("layers in the start state", state, len(self.layers))
        self.expect_masks(masks, *x.shape[:2])

    def expect_masks(self, masks, T, B):
        """Raise ShapeError unless there is one (T, B, H) of bool per gap, or None."""
        expect_entries("dropout masks, one between two layers", masks, len(self.layers) - 1)
        for mask in masks or ():
            expect("dropout mask", mask, (T, B, self.layers[0].H), bool)


def _can_overlap(layer, B):
    """Say if a layer can be in a wavefront: it has the loops of Recurrent, and is small."""
    return has_shared_loop(type(layer)) and has_room(B, layer.num_gates * layer.H)
