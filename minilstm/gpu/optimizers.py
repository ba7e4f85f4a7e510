"""The update rules and the norms of the gradient as kernels of a GPU.

optim.py makes an update by a dozen operations on whole arrays. On a GPU that would read and write
all memory a dozen times, and a copy of everything for a step that turns out not to be finite.
Here a rule is one kernel (optimizers.cuh) after a tiny one that decides whether it acts, and the
norms are one pass over the gradient (norms.cuh). The host waits for none of it.

Read next: optimizers.cuh, norms.cuh.
"""

from __future__ import annotations

import numpy as np

from ..backend import asarray, xp
from . import kernels

PIECE = 1 << 16  # elements whose squares one block of threads adds up
SHARED = 5  # numbers that `decide` leaves to the rule


class OnDevice:
    """An optimizer's place on the device: its counts, and tables for the norms of its gradient.

    `counts` int64 (2,): updates so far, and steps in a row that were not finite. `flat` is
    `model.flat()`, with the start and stop of each parameter in `flat.parts`.
    """

    def __init__(self, flat):
        self._flat = flat
        self.counts = xp.zeros(2, np.int64)
        self._shared = xp.empty(SHARED, np.float64)
        starts, ranges = _pieces(flat.parts)
        self._starts, self._ranges = asarray(starts, np.int64), asarray(ranges, np.int64)
        self._threads = 32  # a power of two, as the kernels need
        while self._threads < min(kernels.THREADS, max(np.diff(starts), default=0)):
            self._threads *= 2

    def step(self, rule, rate, finite, scale, *, patience, l2, clamp, c, decays, numbers, state):
        """Decide whether to update, count that, and update the weights by the kernel `rule`.

        rate, finite and scale are 0-d arrays on the device, or a number, True and None. `decays`
        are Adam's momentum and decay, for its corrections, and (0, 0) of the other rules.
        `numbers` are the rule's own, in the order of its kernel, and `state` its arrays.
        """
        flat, size = self._flat, self._flat.value.size
        real = flat.value.dtype.type
        rate_there, rate = (None, rate) if isinstance(rate, float | int) else (rate, 0.0)
        kernels.launch(
            "optimizers.cuh", "decide", real, 1,
            None if finite is True else finite, rate_there, np.float64(rate),
            scale, np.float64(patience), *map(np.float64, decays),
            self.counts, self._shared,
        )  # fmt: skip
        kernels.launch(
            "optimizers.cuh", rule, real, size,
            np.int64(size), np.int64(flat.decayed), self._shared,
            *map(real, (l2, clamp, c, *numbers)), flat.grad, flat.value, *state,
        )  # fmt: skip

    def norms(self):
        """The norm of the gradient and of each of its parts: (1 + P,).

        Squares are added in float64: the sums neither overflow nor lose small numbers, and the
        norms are exact to the rounding of the gradient's dtype.
        """
        sums = xp.empty(len(self._starts) - 1, np.float64)
        found = xp.empty(len(self._ranges), self._flat.grad.dtype)
        self._launch("squares", len(sums), self._starts, self._flat.grad, sums)
        self._launch("roots", len(found), self._ranges, sums, found)
        return found

    def _launch(self, name, blocks, *arrays):
        kernel = kernels.function("norms.cuh", name, self._flat.grad.dtype.name)
        if blocks:
            kernel((blocks,), (self._threads,), arrays)


def _pieces(parts):
    """Where pieces start, with the end of the last (K + 1,); from which to which is each norm's."""
    starts, ranges = [0], np.zeros((1 + len(parts), 2), np.int64)
    for k in sorted(range(len(parts)), key=lambda k: parts[k]):
        start, stop = parts[k]
        first = len(starts) - 1
        if stop > start:
            starts += [*range(start + PIECE, stop, PIECE), stop]
        ranges[1 + k] = first, len(starts) - 1
    ranges[0] = 0, len(starts) - 1
    return np.array(starts, np.int64), ranges
