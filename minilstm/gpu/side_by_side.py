"""Parts of a step that do not depend on one another, computed by a GPU at the same time.

The two decoders of a composite model start from the same code, and neither needs the other. One of
them alone leaves a part of a GPU idle: its products are small, and each must wait for the one
before. So each decoder is given to a stream of its own. A stream is a queue of the GPU.

Results do not change by a bit: each stream does what it would do alone, with scratch memory of its
own (products.py). CuPy's memory pool, too, gives memory back to the stream that took it.

Read next: capture.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..backend import current_backend, xp


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


def _mark(stream):
    """An event: everything that `stream` was asked for until now."""
    event = xp.cuda.Event(disable_timing=True)
    event.record(stream)
    return event


@functools.cache  # for good, since cuBLAS keeps scratch memory for every stream
def _side_stream(device, stream, k):
    """The stream number k at the side of `stream` of a device."""
    return xp.cuda.Stream(non_blocking=True)
