"""A stack of recurrent layers: each layer's outputs are the inputs of the layer above.

Slides: "Recurrent Encoder-Decoder"; Table 2, "All models use 2 layers of LSTMs". Read next:
models.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..errors import ConfigError
from . import samples
from .dropout import Dropout
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect, expect_entries
from .lstm import PeepholeLSTM
from .rnn import Recurrent
from .segments import WHOLE, Segments
from .workspace import empty


class Stack(Layer, sample=samples.stack, variants=samples.whole_and_recomputed):
    """`layers` recurrent layers with dropout between them.

    x (T, B, D), state: one tuple of (B, H) arrays per layer or None, masks: one (T, B, H) of
    bool per gap between layers or None -> (y (T, B, H) of the top layer, final state of all).

    The attribute `unrolling` cuts the run into segments: see segments.py.
    """

    unrolling = WHOLE

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
        if layers < 1:
            raise ConfigError(f"expected at least 1 layer, got {layers}: add one")
        self.layers = tuple(cell(D if k == 0 else H, H, rng, init) for k in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, x, state=None, masks=None):
        self._expect(x, state, masks)
        segments = Segments(self.unrolling, len(x), partial(self._forward_steps, x, masks))
        outputs = segments.forward(state)
        return outputs, Cache(segments=segments, masks=masks, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        dy, dfinal = doutputs
        run = cache.consume()
        if dy is not None:
            expect("dy", dy, (run.segments.T, "B", self.layers[-1].H), self.dtype)
        expect_entries("layers in the gradient of the final state", dfinal, len(self.layers))
        run_backward = partial(self._backward_steps, dy, run.masks, want_dx)
        dx, dstate = run.segments.backward(run_backward, dfinal)
        return dx, dstate if run.has_state else None, None

    def _forward_steps(self, x, masks, steps, state):
        """A slice of the steps -> y of the top layer, final state, the caches of all layers."""
        x, masks, state = x[steps], part_of(masks, steps), self._absent(state)
        caches, final = [], []
        for k, layer in enumerate(self.layers):
            if k > 0:
                x, _ = self.dropout.forward(x, masks and masks[k - 1])
            (x, layer_final), cache = layer.forward(x, state[k])
            final.append(layer_final)
            caches.append(cache)
        return x, tuple(final), caches

    def _backward_steps(self, dy, masks, want_dx, steps, dfinal, caches):
        """The same slice -> dx, gradient of its start state."""
        dx = None if dy is None else dy[steps]
        masks, dfinal, dstate = part_of(masks, steps), self._absent(dfinal), []
        for k in reversed(range(len(self.layers))):
            dx, dlayer_state = self.layers[k].backward((dx, dfinal[k]), caches[k], want_dx or k > 0)
            dstate.append(dlayer_state)
            if k > 0:
                dx = self.dropout.apply(dx, masks and masks[k - 1])
        return dx, tuple(reversed(dstate))

    def _expect(self, x, state, masks):
        expect("Stack input x", x, ("T", "B", self.layers[0].D), self.dtype)
        expect_entries("layers in the start state", state, len(self.layers))
        self.expect_masks(masks, *x.shape[:2])

    def expect_masks(self, masks, T, B):
        """Raise ShapeError unless there is one (T, B, H) of bool per gap, or None."""
        expect_entries("dropout masks, one between two layers", masks, len(self.layers) - 1)
        for mask in masks or ():
            expect("dropout mask", mask, (T, B, self.layers[0].H), bool)

    def _absent(self, per_layer):
        return (None,) * len(self.layers) if per_layer is None else per_layer

    # The same step by step, for a decoder whose next input depends on this step's output.

    def begin(self, x, state, masks=None):
        """Buffers for a run over x (T, B, D), whose frames are filled in as they become known."""
        self._expect(x, state, masks)
        runs = []
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = empty((*x.shape[:2], layer.D), x.dtype)
            runs.append(layer.begin(x, self._absent(state)[k]))
            runs[k].mask = masks[k - 1] if masks and k > 0 else None
        return runs

    def step(self, runs, t):
        """One step of all layers. Returns the top layer's output (B, H)."""
        for k, (layer, run) in enumerate(zip(self.layers, runs, strict=True)):
            if k > 0:
                mask = None if run.mask is None else run.mask[t]
                run.x[t] = self.dropout.apply(runs[k - 1].y[t], mask)
            layer.project(run, slice(t, t + 1))
            layer.step(run, t)
        return runs[-1].y[t]

    def final_state(self, runs):
        return tuple(layer.final_state(run) for layer, run in zip(self.layers, runs, strict=True))

    def begin_backward(self, runs, dfinal=None):
        for layer, run, dlayer_final in zip(self.layers, runs, self._absent(dfinal), strict=True):
            layer.begin_backward(run, dlayer_final)

    def step_backward(self, runs, t, dy):
        """One step back through all layers. dy (B, H) of the top layer -> dx (B, D)."""
        for k in reversed(range(len(self.layers))):
            layer, run = self.layers[k], runs[k]
            layer.step_backward(run, t, dy)
            dy = layer.project_backward(run, slice(t, t + 1))[0]
            if run.mask is not None:
                dy = self.dropout.apply(dy, run.mask[t])
        return dy

    def end_backward(self, runs):
        """The gradients of the weights, and that of the start state."""
        for layer, run in zip(self.layers, runs, strict=True):
            layer.accumulate(run)
        return tuple(
            layer.start_gradient(run) for layer, run in zip(self.layers, runs, strict=True)
        )


def part_of(masks, steps):
    """The masks of a slice of the steps."""
    return None if masks is None else tuple(mask[steps] for mask in masks)
