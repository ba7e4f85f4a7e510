"""The layers of a stack computed by a GPU at the same time, each one time step behind the other.

Step t of a layer needs its own step t - 1, and step t of the layer below. So a layer can make step
t while the layer below it makes step t + 1. This order is called a wavefront:

    layer 0    0  1  2  3
    layer 1       0  1  2  3

A product of one time step leaves most of a GPU idle if the layer is small. Two such products at the
same time take little longer than one. The backward pass goes from the top layer down, and from the
last step back.

The loops over time are those of rnn.py and stack.py, and the host makes their calls in the same
order as without a wavefront. But layers with odd numbers work in a stream of their own, and the
products between two layers are made in a third stream, step by step. A stream waits for an event: a
mark in the queue of another stream. There is no wavefront with NumPy, with dropout, or if a layer
is so large that its product fills the GPU. Then the product between two layers is made once for all
steps, which is faster than step by step.

Read next: capture.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

from ..backend import current_backend, xp
from .side_by_side import mark, side_stream

# of a training step, besides those of side_by_side.py: for each of two decoders one for layers with
# odd numbers, two for what these layers put aside, and one for the products between layers
STREAMS = 8
MULTIPROCESSORS = 16  # cudaDevAttrMultiProcessorCount of CUDA's header driver_types.h
TILE = 64  # a multiprocessor computes about so many rows and columns of a product at a time

_wave: ContextVar[_Wave | None] = ContextVar("wave", default=None)


def has_room(B: int, width: int) -> bool:
    """Say if the GPU can compute two products (B, width) at the same time. Never with NumPy."""
    if current_backend().name == "numpy":
        return False
    tiles = -(-B // TILE) * -(-width // TILE)
    return 2 * tiles <= _multiprocessors(xp.cuda.runtime.getDevice())


@contextlib.contextmanager
def wavefront(wanted: bool) -> Iterator[Callable]:
    """Yield call(k, function, *arguments), which calls a function of layer k.

    If a wavefront is wanted, the layers are computed at the same time, and all operations after the
    block wait for them. Call them one after another, from the bottom up or from the top down.
    """
    if not wanted:
        yield lambda k, function, *arguments: function(*arguments)
        return
    wave = _Wave()
    before = _wave.set(wave)
    try:
        yield wave.call
    finally:
        _wave.reset(before)
        wave.end()


def in_wave(steps: Iterable[int]) -> Iterator[int]:
    """Yield the steps of a layer's loop over time, in their order.

    In a wavefront a step waits for the product between it and the layer before.
    """
    wave = _wave.get()
    return iter(steps) if wave is None else wave.steps(steps)


def project_all(function: Callable, run) -> None:
    """Call function(run, slice) for all steps, before the loop over time.

    In a wavefront it is called for one step after another. Each waits for the layer below.
    """
    wave = _wave.get()
    if wave is None or not wave.made:  # the inputs of the lowest layer are known
        function(run, slice(0, len(run.x)))
    else:
        wave.project(function, run)


def project_all_backward(function: Callable, run, want_dx: bool):
    """Return function(run, slice, want_dx) of all steps, after the loop over time.

    In a wavefront it is called for one step after another. Each waits for that step of the loop.
    """
    wave = _wave.get()
    if wave is None:
        return function(run, slice(0, len(run.x)), want_dx)
    return wave.project_backward(function, run, want_dx)


class _Wave:
    """The streams of a wavefront, and events: what the layer before has computed so far.

    CuPy's memory pool lends freed memory again to the stream that took it. The gradients that go
    from layer to layer are taken by `between`. It makes those of the next layer after the loop that
    reads these ones.
    """

    def __init__(self):
        device, self.here = xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream()
        self.odd, self.between = (side_stream(device, self.here.ptr, k) for k in ("odd", "between"))
        self.made, self.projected = {}, {}  # {t: event}: of the loop, and of the product between
        start = mark(self.here)
        for stream in (self.odd, self.between):
            stream.wait_event(start)

    def call(self, k, function, *arguments):
        """Call a function of layer k in the stream of this layer."""
        with self.odd if k % 2 else contextlib.nullcontext():
            return function(*arguments)

    def steps(self, steps):
        """Yield the steps. Each waits for its product, and leaves a mark when it is made."""
        here, self.made = xp.cuda.get_current_stream(), {}
        for t in steps:
            if t in self.projected:
                here.wait_event(self.projected[t])
            yield t
            self.made[t] = mark(here)

    def project(self, function, run):
        """Project the outputs of the layer below."""
        self.between.wait_event(mark(xp.cuda.get_current_stream()))  # `begin` may have written
        for t in range(len(run.x)):
            with self._product(t):
                function(run, slice(t, t + 1))

    def project_backward(self, function, run, want_dx):
        """Return dx (T, B, D) or None, the gradient of the outputs of the layer below."""
        dx = None
        for t in reversed(range(len(run.x))):
            with self._product(t):
                part = function(run, slice(t, t + 1), want_dx)
                if part is None:
                    continue
                if dx is None:
                    dx = xp.empty((len(run.x), *part.shape[1:]), part.dtype)
                dx[t] = part[0]
        xp.cuda.get_current_stream().wait_event(mark(self.between))
        return dx

    @contextlib.contextmanager
    def _product(self, t):
        """Compute a product between two layers, as soon as step t of the layer before is made."""
        self.between.wait_event(self.made[t])
        with self.between:
            yield
        self.projected[t] = mark(self.between)

    def end(self):
        """Let the stream of the stack wait for the others: so a recording ends in one stream."""
        for stream in (self.odd, self.between):
            self.here.wait_event(mark(stream))


@functools.cache
def _multiprocessors(device):
    return xp.cuda.runtime.deviceGetAttribute(MULTIPROCESSORS, device)
