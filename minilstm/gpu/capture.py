"""A training step recorded once as a CUDA graph, and replayed.

The host needs longer to ask for the hundreds of small operations of a step than a GPU needs to make
them. A graph is a recording of all of them, which the host launches by one call. It contains
addresses: every replay reads and writes the memory that the recording did. So

    arguments that change must lie where they lay: batches alternate between two buffers
                                       (transfers.py), and there is one graph for each
    memory that the step takes for a while comes from a pool of its own, which nothing else uses
    what the step leaves behind it leaves in arrays that existed before: weights, state, the log

The text that is recorded is training_step, which knows nothing of it. Operations, their order and
their arguments are those of a step without a graph, so that every bit is the same.

Read next: products.py, transfers.py.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable

from ..backend import xp
from ..errors import BackendError

RECORDING = threading.Lock()  # held while a graph is recorded: no other thread may send anything


class Captured:
    """A function of tuples of arrays, run as a graph from the second time that they lie there on.

        step = Captured(step)
        step(batch)         the first time for a place and kind of `batch`: operation by operation
        step(batch)         the second time: recorded, then launched; after that only launched

    The function returns nothing. Arrays that are not arguments must stay where they are; numbers
    that are not in arrays are part of the kind. Call it inside `on_stream`.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._pool = xp.cuda.MemoryPool()
        self.launched = 0  # graphs
        self._graphs = {}  # by place and kind of the arguments; None after the first time

    def __call__(self, *arguments) -> None:
        kind = _kind_of(arguments)
        with xp.cuda.using_allocator(self._pool.malloc):
            if kind not in self._graphs:
                self._function(*arguments)  # compiles kernels and fills the pool
                self._graphs[kind] = None
                return
            if self._graphs[kind] is None:
                self._graphs[kind] = self._recorded(arguments)
        self._graphs[kind].launch(xp.cuda.get_current_stream())
        self.launched += 1

    def _recorded(self, arguments):
        stream = xp.cuda.get_current_stream()
        try:
            with RECORDING:
                stream.begin_capture()
                try:
                    self._function(*arguments)
                finally:
                    graph = stream.end_capture()
        except Exception as error:
            raise BackendError(
                f"expected a step that can be recorded as a CUDA graph, got {type(error).__name__} "
                f"({error}): go on with --no-graph, which gives the same results"
            ) from error
        return graph


def _kind_of(tree):
    """What distinguishes recordings: where arrays lie, their shapes and dtypes, other values."""
    if isinstance(tree, tuple):
        return tuple(map(_kind_of, tree))
    if hasattr(tree, "data"):
        return tree.data.ptr, tree.shape, tree.dtype.str
    return tree


@contextlib.contextmanager
def on_stream():
    """Work in a stream that can be recorded; what was asked for before and in it is waited for."""
    xp.cuda.get_current_stream().synchronize()
    with _stream(xp.cuda.runtime.getDevice()) as stream:
        yield
        stream.synchronize()


@functools.cache  # one for good, since cuBLAS keeps scratch memory for every stream
def _stream(device):
    return xp.cuda.Stream(non_blocking=True)
