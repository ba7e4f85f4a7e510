"""Memory for the arrays of layers: new arrays (`Fresh`, the default) or used ones (`Reused`).

A training step needs arrays of the same shapes again and again. A new large array costs more time
than the arithmetic in it, because the operating system clears every page of its memory. `Reused`
keeps the arrays of earlier steps and lends them out again.

A buffer is free if no Python object refers to it: no cache that waits for its backward pass, no
frame that the user kept. Python counts the references to each buffer. So no code has to give a
buffer back. Two caches of one layer never share memory while both wait for their backward pass. An
array that the user keeps is never overwritten. On a GPU CuPy's own memory pool does the same, so
both classes take their arrays from CuPy.

    with use_workspace(Reused()):
        ...                             # training: no allocation after the first step

Read next: memory_order.py.
"""

from __future__ import annotations

import math
import sys
import threading
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..backend import current_backend, xp
from ..errors import ConfigError


class Fresh:
    """A new array for every request. Suits checks and short runs."""

    def empty(self, shape: tuple[int, ...], dtype):
        """Return a new uninitialised array."""
        return xp.empty(shape, dtype)


class Reused:
    """Arrays from a pool, which stops growing after the first training step.

    `allocated` counts the buffers of the pool, `nbytes` is their size in bytes. With `poison=True`
    floating-point buffers are lent full of NaN, so that a read before the first write is noticed.
    """

    def __init__(self, poison: bool = False):
        self.poison = poison
        self.allocated = 0
        self.nbytes = 0
        self._buffers: dict[tuple, list] = {}
        self._lock = threading.Lock()  # two threads must not be lent the same free buffer

    def empty(self, shape: tuple[int, ...], dtype):
        """Return an uninitialised array, in a free buffer or else in a new one."""
        if current_backend().name != "numpy":  # CuPy has this pool built in
            array = xp.empty(shape, dtype)
        else:
            buffer = self._free_buffer(math.prod(shape), np.dtype(dtype))
            array = buffer.view().reshape(shape)
        if self.poison and array.dtype.kind in "fc":
            array.fill(math.nan)
        return array

    def lent(self) -> int:
        """Return the size in bytes of all buffers that are in use."""
        return sum(
            buffers[k].nbytes
            for buffers in self._buffers.values()
            for k in range(len(buffers))
            if sys.getrefcount(buffers[k]) != _UNUSED
        )

    def _free_buffer(self, size, dtype):
        with self._lock:
            buffers = self._buffers.setdefault((size, dtype), [])
            for k in range(len(buffers)):
                if sys.getrefcount(buffers[k]) == _UNUSED:
                    return buffers[k]
            buffers.append(np.empty(size, dtype))
            self.allocated += 1
            self.nbytes += buffers[-1].nbytes
            return buffers[-1]


def _references_to_an_unused_buffer():
    # This code refers to the buffer in the same way as the code of `_free_buffer`. Both add the
    # same number of references to the count.
    buffers = [np.empty(1)]
    k = 0
    return sys.getrefcount(buffers[k])


_UNUSED = _references_to_an_unused_buffer()


_fresh = Fresh()
_of_context: ContextVar[Any] = ContextVar("workspace", default=_fresh)


def current_workspace() -> Fresh | Reused:
    """Return the workspace of the innermost `with use_workspace(...)`, by default a Fresh one."""
    return _of_context.get()


class use_workspace:  # noqa: N801  (reads like a function)
    """Take buffers from `workspace` in a block: `with use_workspace(Reused()):`.

    Other threads keep the workspace that they had (see `current_backend`). Without `with`, the
    next request for a buffer raises ConfigError, because such a call would have no effect. After
    this error the workspace before the call is in force again.
    """

    def __init__(self, workspace: Fresh | Reused):
        self._workspace, self._previous = workspace, _of_context.get()
        # This object is no workspace: until `with` replaces it, `__getattr__` raises the error.
        _of_context.set(self)

    def __getattr__(self, name):  # called for `empty`, which only a workspace has
        if name != "empty":  # a notebook asks how to show this object
            raise AttributeError(name)
        previous = self._previous
        while isinstance(previous, use_workspace):  # more calls without `with`: one error for all
            previous = previous._previous
        _of_context.set(previous)
        raise ConfigError(
            "expected `with use_workspace(...):`, got use_workspace(...) without `with`: add it"
        )

    def __enter__(self) -> Fresh | Reused:
        _of_context.set(self._workspace)
        return self._workspace

    def __exit__(self, *exception):
        _of_context.set(self._previous)


def empty(shape: tuple[int, ...], dtype):
    """Return an uninitialised array."""
    return current_workspace().empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype):
    """Return an array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
