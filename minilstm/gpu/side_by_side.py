"""Parts of a step that do not depend on one another, computed by a GPU at the same time.

    side_by_side({"reconstruct": f, "predict": g})    the two decoders of a composite model
    aside(layer.accumulate, run)                      gradients of weights, needed at the end only
    with joined(): ...                                what was put aside in this block is finished

A product of one time step leaves a part of a GPU idle, and must wait for the step before. So the
two decoders, which start from the same code, are given a stream each; a stream is a queue of the
GPU. The gradients of weights go to further streams, because no later product needs them.

Results do not change by a bit: each stream does what it would do alone, with scratch memory of its
own (products.py). CuPy's memory pool gives memory back to the stream that took it. So an array that
another stream reads must be kept until that stream has been waited for. With NumPy, all functions
are called at once, one after another.

Read next: capture.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextvars import ContextVar

from ..backend import current_backend, xp

STREAMS = 4  # of a training step: two decoders, and what each puts aside

# of the innermost `with joined()`: the streams that were used, and what they were given
_put_aside: ContextVar[tuple[dict, list] | None] = ContextVar("put_aside", default=None)


def side_by_side(functions: dict[str, Callable]) -> dict:
    """Call functions without arguments that do not depend on one another; results by name.

    With NumPy they are called one after another. With CuPy the host also calls them in this order,
    but the first works in the current stream and each other one in a stream at its side. These
    streams start after everything that was asked for before, and what is asked for afterwards finds
    their results. Memory that is given back may be used again in the stream that took it. So the
    first function must not be the last user of an array that another one made in an earlier call.
    """
    if current_backend().name == "numpy" or len(functions) < 2:
        return {name: function() for name, function in functions.items()}
    here, results = xp.cuda.get_current_stream(), {}
    device = xp.cuda.runtime.getDevice()
    start = _mark(here)
    for k, (name, function) in enumerate(functions.items()):
        if k == 0:
            results[name] = function()
            continue
        side = _side_stream(device, here.ptr, k)
        side.wait_event(start)
        try:
            with side:
                results[name] = function()
        finally:  # a recording ends only if all its streams have come together again
            here.wait_event(_mark(side))
    return results


def aside(function: Callable, *arguments) -> None:
    """Call a function whose results are needed only at the end of the block `with joined()`.

    It must not change what is still read, and what it reads must not be changed any more. What is
    put aside in one stream is done in order. Outside such a block it is done at once.
    """
    if _put_aside.get() is None:
        function(*arguments)
        return
    streams, kept = _put_aside.get()
    here = xp.cuda.get_current_stream()
    side = _side_stream(xp.cuda.runtime.getDevice(), here.ptr, 0)
    streams[side.ptr] = side
    kept.append((function, arguments))
    side.wait_event(_mark(here))
    with side:
        function(*arguments)


@contextlib.contextmanager
def joined():
    """Wait, at the end of the block, for what was put aside in it; also a decorator."""
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
            xp.cuda.get_current_stream().wait_event(_mark(side))


def _mark(stream):
    """An event: everything that `stream` was asked for until now."""
    event = xp.cuda.Event(disable_timing=True)
    event.record(stream)
    return event


@functools.cache  # for good, since cuBLAS keeps scratch memory for every stream
def _side_stream(device, stream, k):
    """Stream number k at the side of `stream` of a device; number 0 is for what is put aside."""
    return xp.cuda.Stream(non_blocking=True)
