"""Two neighbouring layers of a stack, computed by a GPU at the same time.

Time step t of a layer needs its own time step t - 1, and time step t of the layer below. So a layer
can compute time step t while the layer below it computes time step t + 1. This order is called a
wavefront. Each column below is computed at the same time, and the numbers are time steps:

    layer 0    0  1  2  3
    layer 1       0  1  2  3

In the backward pass the top layer is ahead, and the time steps count down.

The matrix product of one time step of a small layer leaves most of a GPU idle. There is a wavefront
if six such products fit on the GPU, and if there are several layers and time steps, no dropout
masks, and no cell with loops of its own. (Six products: in each of two decoders one for each of two
layers, and one with Wx.) Otherwise, and always with NumPy, a layer begins when the one before has
ended. Then all inputs of a layer are multiplied by Wx in ONE product, which takes less time than
one product for each time step.

Streams are explained in side_by_side.py. Layers 0, 2, ... are computed in the current stream,
layers 1, 3, ... in a second one. So at most two layers overlap. A third stream computes the
products with Wx, one time step at a time. Python still calls the loop of one layer after the other
(stack.py, rnn.py). That only puts operations into the queues of the streams. Events make a stream
wait until another one has computed what it needs.

Read next: capture.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar

from ..backend import current_backend, xp
from .side_by_side import record_event, side_stream

# A wavefront adds these streams to a training step. For each of two decoders: one for layers 1, 3,
# ..., two for what these layers put aside, and one for the products with Wx
MORE_STREAMS = 2 * (1 + 2 + 1)
MULTIPROCESSOR_COUNT = 16  # CUDA's number for the question: how many multiprocessors has a GPU?
AT_ONCE = 2 * 3  # products at the same time: three in each of two decoders
TILE = 64  # a multiprocessor computes about 64 rows and 64 columns of a product at a time

_wave: ContextVar[_Wave | None] = ContextVar("wave", default=None)


def has_room(B: int, width: int) -> bool:
    """Say if an NVIDIA GPU can compute six products (B, width) side by side; False with NumPy."""
    if current_backend().name == "numpy" or xp.cuda.runtime.is_hip:
        return False
    tiles = -(-B // TILE) * -(-width // TILE)
    return AT_ONCE * tiles <= _multiprocessors(xp.cuda.runtime.getDevice())


@contextlib.contextmanager
def wavefront(layers: Sequence, wanted: bool) -> Iterator[Callable]:
    """Yield call(layer, function, *arguments), which calls a function of one of the layers.

    Call the layers one after another, up or down. If a wavefront is wanted, each is computed in its
    stream, and operations after the block wait for all layers.
    """
    if not wanted:
        yield lambda layer, function, *arguments: function(*arguments)
        return
    wave = _Wave(layers)
    before = _wave.set(wave)
    try:
        yield wave.call
    finally:
        _wave.reset(before)
        wave.end()


def each_step(layer, steps: Iterable[int]) -> Iterator[int]:
    """Yield the time steps of a layer's loop, in their order.

    In a wavefront, each waits for its input: x Wx in the forward pass, dy in the backward pass.
    """
    wave = _wave_of(layer)
    return iter(steps) if wave is None else wave.each_step(steps)


def project_all(layer, run) -> None:
    """Call layer.project(run, slice) before the loop: for all time steps at once.

    In a wavefront it is called for each time step of layers 1, 2, ..., as soon as the layer below
    has computed that time step.
    """
    wave = _wave_of(layer)
    if wave is None or not wave.step_done:
        layer.project(run, slice(0, len(run.x)))
    else:
        wave.project(run)


def project_all_backward(layer, run, want_dx: bool):
    """Return layer.project_backward(run, slice, want_dx) for all time steps, after the loop.

    In a wavefront, a wanted dx is computed for each time step, as soon as the loop has computed
    that time step.
    """
    wave = _wave_of(layer)
    if wave is not None:
        wave.kept.append(run)
    if wave is None or not want_dx:
        return layer.project_backward(run, slice(0, len(run.x)), want_dx)
    return wave.project_backward(run)


def _wave_of(layer):
    """Return the wavefront of a layer, or None. A layer that a cell calls in its step has none."""
    wave = _wave.get()
    return wave if wave is not None and wave.layer is layer else None


class _Wave:
    """The streams of a wavefront, and the events for which they wait.

    step_done    {t: event after time step t} of the newest loop. Empty before the first loop
    input_done   {t: event after the product with Wx of time step t}, for the next loop

    CuPy lends freed memory again to the stream that allocated it, while other streams may still
    read it. So the arrays of all layers are kept until the end of the backward pass. dx is not:
    when it is freed, `between` already waits for the loop that reads it.
    """

    def __init__(self, layers):
        self.layers, self.layer = layers, None  # all layers, and the one that is being called
        self.here = xp.cuda.get_current_stream()
        self.odd = side_stream(self.here, "odd layers")
        self.between = side_stream(self.here, "between layers")
        self.kept = []
        self.step_done, self.input_done = {}, {}
        start = record_event(self.here)
        for stream in (self.odd, self.between):
            stream.wait_event(start)

    def call(self, layer, function, *arguments):
        """Call a function of a layer in the stream of this layer."""
        self.layer = layer
        with self.odd if self.layers.index(layer) % 2 else contextlib.nullcontext():
            return function(*arguments)

    def each_step(self, steps):
        """Before each time step wait for its input. After it record an event."""
        here, self.step_done = xp.cuda.get_current_stream(), {}
        for t in steps:
            if t in self.input_done:
                here.wait_event(self.input_done[t])
            yield t
            self.step_done[t] = record_event(here)

    def project(self, run):
        """Multiply the outputs of the layer below by Wx."""
        # `begin` may have written to the arrays of run
        self.between.wait_event(record_event(xp.cuda.get_current_stream()))
        for t in range(len(run.x)):
            with self._after_step(t):
                self.layer.project(run, slice(t, t + 1))

    def project_backward(self, run):
        """Return dx (T, B, D)."""
        with self.between:
            dx = xp.empty(run.x.shape, run.x.dtype)
        for t in reversed(range(len(run.x))):
            with self._after_step(t):
                dx[t] = self.layer.project_backward(run, slice(t, t + 1), True)[0]
        # `accumulate` may read what these calls wrote
        xp.cuda.get_current_stream().wait_event(record_event(self.between))
        return dx

    @contextlib.contextmanager
    def _after_step(self, t):
        """Run the body in `between`, after time step t of the newest loop."""
        self.between.wait_event(self.step_done[t])
        with self.between:
            yield
        self.input_done[t] = record_event(self.between)

    def end(self):
        """Let the stream of the stack wait for the other two, so that it sees their results.

        CUDA also demands it: a recording must end in the stream in which it began, even after an
        error.
        """
        for stream in (self.odd, self.between):
            self.here.wait_event(record_event(stream))


@functools.cache
def _multiprocessors(device):
    return xp.cuda.runtime.deviceGetAttribute(MULTIPROCESSOR_COUNT, device)
