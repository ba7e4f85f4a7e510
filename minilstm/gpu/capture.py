"""A training step recorded once as a CUDA graph, and replayed.

A step has hundreds of small operations. The host takes longer to launch them one by one than the
GPU takes to compute them. A graph is a recording of all operations, which the host launches by one
call. A graph contains addresses: every replay reads and writes the same memory as the recording. So

    batches must be at the same address    they alternate between two buffers (transfers.py), and
                                           each buffer has its own graph
    temporary arrays of the step           come from a memory pool that nothing else uses
    results of the step                    go to arrays that existed before: weights, the
                                           optimizer's state, the table of readings

`training_step` is recorded without any change in its code. Operations, their order and their
arguments are those of a step without a graph, so every bit of the result is the same.

Read next: products.py, transfers.py.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable

from ..backend import xp
from ..errors import BackendError

RECORDING = threading.Lock()  # held while a graph is recorded: no other thread may use the GPU then


class Captured:
    """A function of tuples of arrays that is recorded as a CUDA graph.

        step = Captured(step)
        step(batch)         first call for a kind of `batch`: runs without a graph
        step(batch)         second call: recorded, then launched
        step(batch)         later calls: only launched

    If the GPU was full and memory of the graphs was freed, all kinds begin again with a first call.

    The kind of `batch` is the address, shape and dtype of each array, and the value of everything
    that is not an array. The function returns nothing. Arrays that are not arguments must stay at
    their addresses. Call it inside `on_stream`.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._pool = xp.cuda.MemoryPool()
        self.launched = 0  # number of launches
        self._graphs = {}  # by kind of the arguments; None after the first call

    def __call__(self, *arguments) -> None:
        kind = _kind_of(arguments)
        with xp.cuda.using_allocator(self._pool.malloc):
            if kind not in self._graphs:
                held = self._pool.total_bytes()
                self._function(*arguments)  # compiles kernels and fills the pool
                if self._pool.total_bytes() < held:  # a full GPU: what graphs use was freed
                    self._graphs.clear()
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
                f"({error}): train with --no-graph, which gives the same results"
            ) from error
        return graph


def _kind_of(tree):
    """Return the addresses, shapes and dtypes of the arrays in a tree, and its other values."""
    if isinstance(tree, tuple):
        return tuple(map(_kind_of, tree))
    if hasattr(tree, "data"):
        return tree.data.ptr, tree.shape, tree.dtype.str
    return tree


@contextlib.contextmanager
def on_stream():
    """Use a stream that can be recorded. Wait for all earlier work first, and for its own work.

    Wait after an error, too. Otherwise another stream could read the weights too early.
    """
    xp.cuda.get_current_stream().synchronize()
    with _stream(xp.cuda.runtime.getDevice()) as stream:
        try:
            yield
        finally:
            stream.synchronize()


@functools.cache  # only one for each device, because every stream has scratch memory of cuBLAS
def _stream(device):
    return xp.cuda.Stream(non_blocking=True)
