"""Copies between host and device during training. Neither the host nor the device waits for them.

`Uploads` sends batches to the device: each by ONE copy, while the step before is computed.
`Readings` brings the losses and norms of every step to the host. They reach the log a little later,
in their order. On a CPU nothing is copied: `Uploads` is not used, and `Readings` returns its
numbers at once.

A GPU works through a queue of operations, a "stream", and the host adds operations to its end. If
the host waits for a result, the queue runs empty. So a training step never waits. Where one stream
must not be too early, it waits for an event: a mark in another stream.

Read next: ../training/step.py.
"""

from __future__ import annotations

import queue
from collections import deque
from typing import Any

import numpy as np

from ..backend import current_backend, xp
from . import kernels
from .capture import RECORDING
from .pinned import pinned, start_download, start_upload

ALIGNED = 256  # bytes: where an array may start in a buffer of several
AT_ONCE = 64  # numbers of a row that one kernel writes: their addresses are its arguments


class Uploads:
    """Batches on their way to the device, in two buffers: one is used while the other is filled.

    `send` and `receive` may be called by different threads. `receive` frees the buffer of the batch
    that it returned before. So a batch is valid until the next `receive`. CuPy only.
    """

    def __init__(self):
        self._device = xp.cuda.Device()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._free_queue = queue.SimpleQueue()
        for _ in range(2):
            self._free_queue.put(_Buffer())
        self._in_use = None

    def send(self, tree):
        """Start to copy the arrays in a tree of tuples. Return the argument for `receive`.

        Waits for a free buffer. Returns None if `stop` is called before there is one.
        """
        buffer = self._free_queue.get()
        if buffer is None:
            return None
        arrays = list(_arrays(tree))
        starts = np.cumsum([0] + [-(-x.nbytes // ALIGNED) * ALIGNED for x in arrays])
        with RECORDING, self._device:
            buffer.make_room(int(starts[-1]))
            for start, x in zip(starts, arrays, strict=False):
                buffer.host[start : start + x.nbytes] = x.reshape(-1).view(np.uint8)
            self._stream.wait_event(buffer.used)
            size = starts[-1]
            start_upload(buffer.host[:size], buffer.device[:size], self._stream)
            buffer.sent.record(self._stream)
        there = (
            buffer.device[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
            for start, x in zip(starts, arrays, strict=False)
        )
        return buffer, _replaced(tree, there)

    def receive(self, sent):
        """Return the same tree with arrays on the device, for operations from now on."""
        now = xp.cuda.get_current_stream()
        if self._in_use is not None:
            self._in_use.used.record(now)
            self._free_queue.put(self._in_use)
        self._in_use, tree = sent
        now.wait_event(self._in_use.sent)
        return tree

    def stop(self) -> None:
        """Let a `send` that waits for a buffer return None, now or the next time."""
        self._free_queue.put(None)

    def finish(self) -> None:
        """Wait for unfinished copies, so that their buffers can be freed."""
        self._stream.synchronize()


class _Buffer:
    """Memory for a batch on the host and on the device.

    After the event `sent` the host's memory is free, after the event `used` the device's.
    """

    def __init__(self):
        self.host = self.device = None
        self.sent, self.used = (xp.cuda.Event(disable_timing=True) for _ in range(2))

    def make_room(self, size):
        """Wait until the host's memory is free. Make both at least `size` bytes long."""
        if not self.sent.done:
            self.sent.synchronize()
        if self.host is None or len(self.host) < size:
            if self.host is not None:
                self.used.synchronize()
            self.host, self.device = pinned(size), xp.empty(size, np.uint8)
            self.used.record()  # unfinished kernels may use this memory of the pool


def _arrays(tree):
    if isinstance(tree, tuple):
        for part in tree:
            yield from _arrays(part)
    elif isinstance(tree, np.ndarray):
        yield tree


def _replaced(tree, arrays):
    if isinstance(tree, tuple):
        return tuple(_replaced(part, arrays) for part in tree)
    return next(arrays) if isinstance(tree, np.ndarray) else tree


class Readings:
    """Losses and norms of every step on their way to the host, in order.

        readings.write({"future": loss, ...})          0-d arrays, the same names every time
        readings.add(step)                             label the numbers just written
        for step, numbers in readings.take(): ...      those that have arrived, as floats

    On the device `write` puts them into a table of `rows` rows, which is sent when it is full.
    Only the device counts the rows, so that a graph can record `write` as a part of the step. With
    `together`, `take` waits for the rows that were sent. Then several ranks get a number after the
    same step.
    """

    def __init__(self, rows: int, together: bool = False):
        self._rows, self._together = rows, together
        self._table: Any = None  # a ring of rows on the device. `_written` counts the rows there
        self._first = 0  # first row of the table that is not yet sent
        self._about = []  # labels of the rows that are not yet sent
        self._sent = deque()  # (about, names, table on the host, event)

    def write(self, numbers: dict) -> None:
        """Write one row."""
        self._names = list(numbers)
        if current_backend().name == "numpy":
            self._values = [float(x) for x in numbers.values()]
            return
        values, width = list(numbers.values()), len(numbers)
        if self._table is None:
            self._table = xp.empty((self._rows, width), values[0].dtype)
            self._written = xp.zeros(1, np.int64)
        dtype = self._table.dtype
        for first in range(0, width, AT_ONCE):
            part = [x.astype(dtype, copy=False) for x in values[first : first + AT_ONCE]]
            addresses = np.zeros((), [("of", np.uint64, AT_ONCE)])
            addresses["of"][: len(part)] = [x.data.ptr for x in part]
            sizes = map(np.int32, (self._rows, width, first, len(part)))
            arrays = addresses, self._table, self._written
            kernels.launch("log.cuh", "append", dtype, 1, *sizes, *arrays)

    def add(self, about) -> None:
        """Label the row that was written last. `take` returns the label with the row."""
        if current_backend().name == "numpy":
            self._sent.append(([about], self._names, [self._values], None))
            return
        self._about.append(about)
        if self._first + len(self._about) == self._rows:
            self._send()

    def take(self, wait: bool = False) -> list:
        """Return (label, numbers) of the rows that have arrived since the last call.

        With `wait`, wait for all rows.
        """
        if wait and self._about:
            self._send()
        found = []
        while self._sent:
            about, names, table, event = self._sent[0]
            if event is not None and not event.done:
                if not (wait or self._together):
                    break
                event.synchronize()
            self._sent.popleft()
            rows = (dict(zip(names, map(float, row), strict=True)) for row in table)
            found += zip(about, rows, strict=True)
        return found

    def clear(self) -> None:
        """Discard all rows that were not taken."""
        self.take(wait=True)  # a copy may still write to memory, which must not be freed before

    def _send(self):
        stop = self._first + len(self._about)
        table = self._table[self._first : stop]
        self._sent.append((self._about, self._names, *start_download(table)))
        self._first, self._about = stop % self._rows, []
