"""Recomputation, which saves memory, and truncated back-propagation. Read this file late.

A stack of LSTMs keeps the gates and states of all T steps for its backward pass. If the steps are
cut into segments, each starting from the final state of the one before, there are two options:

    recompute=K   The forward pass keeps only the state at the start of every K steps. The backward
                  pass runs each segment forward again from there, and then back. The gradient is
                  the same; the price is a second forward pass.
    tbptt=K       Truncated back-propagation through time: the forward pass is the same, but no
                  gradient goes from a window of K steps into the one before. The gradient is
                  exact for K >= T.

The memory of one sequence in a stack of L LSTM layers of H units, counted in numbers: for every
time step a layer stores 6 H numbers (the gates i f g o, h and c). The layer that is being computed
needs 4 H more per step, for a second copy of its gates or of their gradients (see memory_order.py):

    without recompute   (6 L + 4) H T
    recompute=K         (6 L + 4) H K + 2 L H T/K + H T

The three terms are one segment, h and c at the start of all segments, and the outputs y of the
stack. In both cases x, dx and dy of T steps need further memory. The sum of the first two terms is
smallest for K near half the square root of T. Up to the square root it grows by little, and a
larger K has fewer segments.

`SegmentedStack` is a stack with these options. models/feedback.py uses `Segments` for a decoder
whose inputs are its own outputs. Read next: memory_order.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ..errors import whole_number
from ..gpu.side_by_side import joined
from . import samples
from .layer import Cache, expect, expect_entries
from .stack import Stack
from .workspace import empty


@dataclass(frozen=True)
class SegmentLengths:
    """The options of this file: lengths K in steps, 0 for off.

    If both are on, each window of `tbptt` steps is cut into segments of `recompute` steps. Raises
    ConfigError unless each length is a whole number >= 0.
    """

    recompute: int = 0
    tbptt: int = 0

    def __post_init__(self):
        for name, K in vars(self).items():
            whole_number(name, K, 0)

    def segments(self, T: int) -> list[slice]:
        """Return the steps of each segment of T steps: all in one if both options are off."""
        window = self.tbptt or max(T, 1)
        length = min(self.recompute or window, window)
        starts = [
            start
            for first in range(0, T, window)
            for start in range(first, min(first + window, T), length)
        ]
        return [slice(*steps) for steps in pairwise([*(starts or [0]), T])]

    def cuts(self, step: int) -> bool:
        """Return True if no gradient goes from this step into the one before."""
        return step > 0 and self.tbptt > 0 and step % self.tbptt == 0


WHOLE = SegmentLengths()


class Segments:
    """T time steps, computed one segment after the other.

    run(steps, state) -> (output of these steps, final state, cache), for a slice of the steps. A
    state is nested tuples of arrays: everything that one segment passes on to the next. Each
    segment keeps its cache. If it will be recomputed, it keeps only its start state.
    """

    def __init__(self, lengths: SegmentLengths, T: int, run: Callable):
        self.lengths, self.T, self.run = lengths, T, run
        self.kept = []

    def forward(self, state):
        """Run all segments from `state` -> output (T, ...) of all steps, final state."""
        output = None
        for steps in self.lengths.segments(self.T):
            part, final, cache = self.run(steps, state)
            if self.lengths.recompute:
                self.kept.append((steps, state))
                final = _copied(final)  # a view would keep the memory of the whole segment
            else:
                self.kept.append((steps, cache))
            output, state = self._joined(output, steps, part), final
            del part, final, cache  # so that the next segment can use their memory
        return output, state

    def backward(self, run_backward: Callable, dstate):
        """Run all segments back from `dstate` -> dinput (T, ...) or None, dstate at the start.

        run_backward(steps, dstate, cache) -> (dinput of these steps, dstate at their start).
        """
        dinput = None
        for steps, kept in reversed(self.kept):
            cache = self.run(steps, kept)[2] if self.lengths.recompute else kept
            with joined():  # so that the next segment can use the memory of this one
                part, dstate = run_backward(steps, dstate, cache)
            dinput = self._joined(dinput, steps, part)
            if self.lengths.cuts(steps.start):
                dstate = None
            del part, cache
        return dinput, dstate

    def _joined(self, whole, steps, part):
        """Return `whole` (T, ...) with `part` written to its steps, or `part` if it has T steps."""
        if part is None or len(part) == self.T:
            return part
        if whole is None:
            whole = empty((self.T, *part.shape[1:]), part.dtype)
        whole[steps] = part
        return whole


class SegmentedStack(Stack, sample=samples.stack, variants=samples.whole_and_recomputed):
    """A Stack whose time steps may be cut into segments, as its attribute `lengths` says."""

    lengths = WHOLE

    def forward(self, x, state=None, masks=None):
        """x (T, B, D), state, masks -> (y (T, B, H), final state), cache."""
        if self.lengths == WHOLE:
            outputs, cache = super().forward(x, state, masks)
            return outputs, Cache(whole=cache, segments=None)
        self.expect_inputs(x, state, masks)

        def run(steps, state):
            (y, final), cache = Stack.forward(self, x[steps], state, part_of(masks, steps))
            return y, final, cache

        segments = Segments(self.lengths, len(x), run)
        outputs = segments.forward(state)
        return outputs, Cache(segments=segments, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        """(dy (T, B, H), dfinal), either of them None for zero -> dx (T, B, D), dstate, None."""
        expect_entries("gradients, dy and those of the final states", doutputs, 2)
        values = cache.consume()
        if values.segments is None:
            return super().backward(doutputs, values.whole, want_dx)
        dy, dfinal = doutputs
        if dy is not None:
            expect("dy", dy, (values.segments.T, "B", self.layers[-1].H), self.dtype)

        def run_backward(steps, dfinal, cache):
            dpart = None if dy is None else dy[steps]
            dx, dstate, _ = Stack.backward(self, (dpart, dfinal), cache, want_dx)
            return dx, dstate

        dx, dstate = values.segments.backward(run_backward, dfinal)
        return dx, dstate if values.has_state else None, None


def part_of(masks, steps):
    """Return the masks of a slice of the steps, or None for None."""
    return None if masks is None else tuple(mask[steps] for mask in masks)


def _copied(state):
    if isinstance(state, tuple):
        return tuple(_copied(part) for part in state)
    copy = empty(state.shape, state.dtype)
    copy[...] = state
    return copy
