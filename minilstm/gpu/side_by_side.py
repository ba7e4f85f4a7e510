"""Parts of a step that do not depend on one another, computed by a GPU at the same time.

    side_by_side({"reconstruct": f, "predict": g})    the two decoders of a composite model
    aside(layer.accumulate, run)                      gradients of weights, needed at the end only
    with joined(): ...                                waits at the end for all calls of `aside`

A product of one time step leaves a part of a GPU idle, and must wait for the step before. So the
two decoders, which start from the same code, get a stream each. A stream is a queue of the GPU. The
gradients of weights go to further streams, because no later product needs them.

Results do not change by a bit: each stream does what it would do alone, with scratch memory of its
own (products.py). CuPy's memory pool lends freed memory again to the stream that took it. So an
array that another stream reads must be kept until the current stream has waited for that stream.
With NumPy, all functions are called immediately, one after another.

Read next: wavefront.py, which computes two layers of a stack at the same time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextvars import ContextVar

from ..backend import current_backend, xp

# streams of a training step. For each of two decoders: one, one for what it puts aside, and one for
# what is put aside there
STREAMS = 2 * (1 + 1 + 1)

# The streams of the innermost `with joined()`. The functions that they run are kept with their
# arguments, so that no array of theirs is freed before the block ends
_put_aside: ContextVar[tuple[dict, list] | None] = ContextVar("put_aside", default=None)


def side_by_side(functions: dict[str, Callable]) -> dict:
    """Call independent functions without arguments. Return their results by name.

    With NumPy they are called one after another. With CuPy the host also calls them in this order,
    but the first function works in the current stream and every other function in a stream of its
    own. These streams start after all earlier operations, and all later operations wait for them.
    Freed memory may be used again in the stream that took it. So the first function must not free
    an array that another function allocated in an earlier call: the other stream could overwrite it
    while the first one still reads it.
    """
    if current_backend().name == "numpy" or len(functions) < 2:
        return {name: function() for name, function in functions.items()}
    here, results = xp.cuda.get_current_stream(), {}
    start = record_event(here)
    for k, (name, function) in enumerate(functions.items()):
        if k == 0:
            results[name] = function()
            continue
        side = side_stream(here, k)
        side.wait_event(start)
        try:
            with side:
                results[name] = function()
        finally:  # a recording ends only if all its streams have come together again
            here.wait_event(record_event(side))
    return results


def aside(function: Callable, *arguments) -> None:
    """Call a function whose results are needed only at the end of the block `with joined()`.

    Until the block ends, nothing else may read the arrays that it changes, or change the arrays
    that it reads. Calls from one stream are computed in order. A call from a function that was put
    aside goes to a further stream. Outside such a block `aside` calls the function immediately.
    """
    if _put_aside.get() is None:
        function(*arguments)
        return
    streams, kept = _put_aside.get()
    here = xp.cuda.get_current_stream()
    side = side_stream(here, "aside")
    streams[side.ptr] = side
    kept.append((function, arguments))
    side.wait_event(record_event(here))
    with side:
        function(*arguments)


@contextlib.contextmanager
def joined():
    """Wait at the end of the block for all calls of `aside` in it. Also a decorator."""
    if current_backend().name == "numpy":
        yield
        return
    streams, kept = {}, []
    before = _put_aside.set((streams, kept))
    try:
        yield
    finally:
        _put_aside.reset(before)
        for side in streams.values():
            xp.cuda.get_current_stream().wait_event(record_event(side))


def record_event(stream):
    """Return an event that comes after all operations in `stream` so far."""
    event = xp.cuda.Event(disable_timing=True)
    event.record(stream)
    return event


def side_stream(stream, use):
    """Return the stream beside another one, for one use, such as "aside"."""
    return _stream_of(xp.cuda.runtime.getDevice(), stream.ptr, use)


@functools.cache  # streams are used again, because each has scratch memory of cuBLAS
def _stream_of(device, stream, use):
    return xp.cuda.Stream(non_blocking=True)
