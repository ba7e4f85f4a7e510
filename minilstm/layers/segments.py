"""Unrolling in segments: less memory by recomputation, and truncated back-propagation.

A run of T steps keeps the gates and states of every step for its backward pass. Cut into segments
that carry the state on, it can keep less, or send its gradient back less far:

    recompute=K   forward keeps only the state at the start of every K steps; backward runs each
                  segment forward again from there, and then back. The gradient is the same; the
                  price is a second forward pass.
    tbptt=K       truncated back-propagation through time: forward is the same, but no gradient
                  goes from a window of K steps into the one before. K >= T is the exact gradient.

What an LSTM stack of L layers of H units holds, in numbers per sequence: gates i f g o, h and c
(6 H) of every layer and step, and 4 H more of the layer at work (its gates, or their gradients,
for a moment in a second order; see workspace.py):

    whole         (6 L + 4) H T
    recompute=K   (6 L + 4) H K + 2 L H T/K + H T

The parts are one segment, the h and c where segments start, and the outputs y of the stack; x, dx
and dy, as long as T in either case, come on top. The first two are least for K near the square
root of T.

Used by stack.py and, where a decoder feeds on its own output, models.py. Read next: stack.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ..errors import ConfigError
from . import samples
from .layer import Cache, expect
from .stack import Stack
from .workspace import empty


@dataclass(frozen=True)
class Unrolling:
    """How a stack is unrolled: lengths in steps of what is recomputed and of what is cut; 0: off.

    With both, every window is recomputed in segments of its own. Raises ConfigError.
    """

    recompute: int = 0
    tbptt: int = 0

    def __post_init__(self):
        for name, K in vars(self).items():
            if type(K) is not int or K < 0:
                raise ConfigError(f"expected {name} of K >= 0 steps, got {K!r}: 0 is off")

    def segments(self, T: int) -> list[slice]:
        """The steps of each segment: all T in one, unless something is on."""
        window = self.tbptt or max(T, 1)
        length = min(self.recompute or window, window)
        starts = [
            start
            for first in range(0, T, window)
            for start in range(first, min(first + window, T), length)
        ]
        return [slice(*steps) for steps in pairwise([*(starts or [0]), T])]

    def cuts(self, step: int) -> bool:
        """Whether no gradient goes from this step into the one before."""
        return step > 0 and self.tbptt > 0 and step % self.tbptt == 0


WHOLE = Unrolling()


class Segments:
    """One run of T steps in segments, and what is kept of each: its start state, or its cache.

    run(steps, state) -> (output of these steps, final state, cache), for a slice of the steps; a
    state is nested tuples of arrays: all that one segment leaves to the next.
    """

    def __init__(self, unrolling: Unrolling, T: int, run: Callable):
        self.unrolling, self.T, self.run = unrolling, T, run
        self.kept = []

    def forward(self, state):
        """The output (T, ...) of all steps, and the final state."""
        output = None
        for steps in self.unrolling.segments(self.T):
            part, final, cache = self.run(steps, state)
            if self.unrolling.recompute:
                self.kept.append((steps, state))
                final = _copied(final)  # a view would keep the whole segment alive
            else:
                self.kept.append((steps, cache))
            output, state = self._joined(output, steps, part), final
            del part, final, cache  # the next segment may have their memory
        return output, state

    def backward(self, run_backward: Callable, dstate):
        """run_backward(steps, dstate, cache) -> (dinput of these steps, dstate at their start).

        Returns dinput (T, ...) of all steps or None, and dstate at the start.
        """
        dinput = None
        for steps, kept in reversed(self.kept):
            cache = self.run(steps, kept)[2] if self.unrolling.recompute else kept
            part, dstate = run_backward(steps, dstate, cache)
            dinput = self._joined(dinput, steps, part)
            if self.unrolling.cuts(steps.start):
                dstate = None
            del part, cache
        return dinput, dstate

    def _joined(self, whole, steps, part):
        """`whole` (T, ...) with `part` in its place; a part of all T steps is the whole."""
        if part is None or len(part) == self.T:
            return part
        if whole is None:
            whole = empty((self.T, *part.shape[1:]), part.dtype)
        whole[steps] = part
        return whole


class SegmentedStack(Stack, sample=samples.stack, variants=samples.whole_and_recomputed):
    """A Stack whose run may be cut into segments: by its attribute `unrolling`."""

    unrolling = WHOLE

    def forward(self, x, state=None, masks=None):
        """x (T, B, D), state, masks -> (y (T, B, H), final state), cache."""
        if self.unrolling == WHOLE:
            outputs, cache = super().forward(x, state, masks)
            return outputs, Cache(whole=cache, segments=None)
        self.expect_inputs(x, state, masks)

        def run(steps, state):
            (y, final), cache = Stack.forward(self, x[steps], state, part_of(masks, steps))
            return y, final, cache

        segments = Segments(self.unrolling, len(x), run)
        outputs = segments.forward(state)
        return outputs, Cache(segments=segments, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        """(dy (T, B, H), dfinal), either of them None for zero -> dx (T, B, D), dstate, None."""
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
    """Return the masks of a slice of the steps; of None, None."""
    return None if masks is None else tuple(mask[steps] for mask in masks)


def _copied(state):
    if isinstance(state, tuple):
        return tuple(_copied(part) for part in state)
    copy = empty(state.shape, state.dtype)
    copy[...] = state
    return copy
