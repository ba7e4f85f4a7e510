"""The update rules and the norms of the gradient on a GPU.

optim.py makes an update by a dozen operations on whole arrays. A GPU would read and write all
weights a dozen times. It would also need a copy of them, to undo a step that is not finite. Here a
small kernel first decides whether to update. Then one kernel makes the update (optimizers.cuh). The
norms need one pass over the gradient (norms.cuh). The host never waits.

Read next: optimizers.cuh, norms.cuh.
"""

from __future__ import annotations

import numpy as np

from ..backend import asarray, xp
from . import kernels

PIECE = 1 << 12  # least number of elements whose squares one block of threads adds up
PIECES = 1 << 12  # of a large gradient, about: enough to occupy a GPU, few enough to add up fast
SHARED = 5  # numbers that the kernel `decide` passes to the kernel of the rule


class OnDevice:
    """The part of an optimizer on the device: its counts, and tables for the gradient's norms.

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

        rate, finite and scale may be 0-d arrays on the device. On the host, rate is a number,
        finite is True and scale is None. `decays` are momentum and decay for Adam's corrections,
        and (0, 0) for the other rules. `numbers` are the settings of the rule, in the order of its
        kernel. `state` are its arrays.
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
        """Return the norms of the gradient and of each of its parts: (1 + P,).

        Squares are added in float64, so those of float32 gradients neither overflow nor lose small
        numbers. The norms are exact to the rounding of the gradient's dtype.
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
    """Cut the parts into K pieces, for a block of threads each.

    Returns where the pieces start and where the last ends, (K + 1,), and for each norm its first
    piece and the one after its last, (1 + P, 2).
    """
    starts, ranges = [0], np.zeros((1 + len(parts), 2), np.int64)
    piece = max(PIECE, max((stop for _, stop in parts), default=0) // PIECES)
    for k in sorted(range(len(parts)), key=lambda k: parts[k]):
        start, stop = parts[k]
        first = len(starts) - 1
        if stop > start:
            starts += [*range(start + piece, stop, piece), stop]
        ranges[1 + k] = first, len(starts) - 1
    ranges[0] = 0, len(starts) - 1
    return np.array(starts, np.int64), ranges
