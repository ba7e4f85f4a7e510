"""What crosses between host and device while training goes on, without either waiting.

`Uploads` brings batches in: each is ONE copy, made while the step before is computed. `Readings`
brings the numbers of every step out: the log gets them a little later, in their order. On a CPU
there is nothing to cross; train.py then does without the first, and the second hands back at once
what it was given.

A GPU works through a queue, a "stream", of what the host asks of it, and the host runs ahead. To
wait for an answer empties the queue, so a training step asks for none. What must not happen too
early is ordered by events: marks in one stream that another stream waits for.

Read next: step.py.
"""

from __future__ import annotations

import queue
from collections import deque

import numpy as np

from ..backend import current_backend, xp
from . import kernels
from .capture import RECORDING
from .pinned import pinned, start_download, start_upload

ALIGNED = 256  # bytes: where an array may start in a buffer of several


class Uploads:
    """Batches on their way to the device, in two buffers: one is used while the other is filled.

    `send` may be called by another thread than `receive`; the buffer of what `receive` returned
    before is then free. So a batch is good until the next one is asked for. CuPy only.
    """

    def __init__(self):
        self._device = xp.cuda.Device()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._free_queue = queue.SimpleQueue()
        for _ in range(2):
            self._free_queue.put(_Buffer())
        self._in_use = None

    def send(self, tree):
        """Start to copy the arrays in a tree of tuples. Returns what `receive` wants.

        Waits for a free buffer; returns None if `stop` comes first.
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
        """The same tree with arrays on the device; what is computed from now on finds them."""
        now = xp.cuda.get_current_stream()
        if self._in_use is not None:
            self._in_use.used.record(now)
            self._free_queue.put(self._in_use)
        self._in_use, tree = sent
        now.wait_event(self._in_use.sent)
        return tree

    def stop(self) -> None:
        """Let the one `send` that waits for a buffer, or the next that would, return."""
        self._free_queue.put(None)

    def finish(self) -> None:
        """Wait for copies under way, so that their buffers may be given back."""
        self._stream.synchronize()


class _Buffer:
    """Memory on both sides, and when it is free: `sent` the host's side, `used` the device's."""

    def __init__(self):
        self.host = self.device = None
        self.sent, self.used = (xp.cuda.Event(disable_timing=True) for _ in range(2))

    def make_room(self, size):
        """Wait until the host's side is free, and let both have `size` bytes."""
        if not self.sent.done:
            self.sent.synchronize()
        if self.host is None or len(self.host) < size:
            if self.host is not None:
                self.used.synchronize()
            self.host, self.device = pinned(size), xp.empty(size, np.uint8)
            self.used.record()  # by kernels under way, if the memory pool had this before


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
    """Numbers of every step, on their way to the host, in order.

        readings.write({"future": loss, ...})          0-d arrays, the same names every time
        readings.add(step)                             says what was written is about
        for step, numbers in readings.take(): ...      those that have arrived, as floats

    On the device `write` puts them into a table of `rows` rows, which is sent when it is full. It
    is a part of the step: where the row goes is known to the device alone, so that a graph can
    record it. `together` of several ranks
    means that whoever sent them waits for them: all then know of a number after the same step.
    """

    def __init__(self, rows: int, together: bool = False):
        self._rows, self._together = rows, together
        self._table = None  # on the device: a row, a ring of rows, and the number of rows written
        self._first = 0  # the row of the table that is to be sent first
        self._about = []  # what the rows that are not yet sent are about
        self._sent = deque()  # (about, names, table on the host, event)

    def write(self, numbers: dict) -> None:
        """Write one row."""
        self._names = list(numbers)
        if current_backend().name == "numpy":
            self._values = [float(x) for x in numbers.values()]
            return
        if self._table is None:
            dtype, width = next(iter(numbers.values())).dtype, len(numbers)
            self._row, self._table = xp.empty(width, dtype), xp.empty((self._rows, width), dtype)
            self._written = xp.zeros(1, np.int64)
        for k, value in enumerate(numbers.values()):
            self._row[k] = value
        sizes = np.int32(self._rows), np.int32(len(numbers))
        arrays = self._row, self._table, self._written
        kernels.launch("log.cuh", "append", self._row.dtype, 1, *sizes, *arrays)

    def add(self, about) -> None:
        """Say what the row is about that was written last; `about` comes back with it."""
        if current_backend().name == "numpy":
            self._sent.append(([about], self._names, [self._values], None))
            return
        self._about.append(about)
        if self._first + len(self._about) == self._rows:
            self._send()

    def take(self, wait: bool = False) -> list:
        """What has arrived since; all that was added, with `wait`."""
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
        """Forget all that was not taken."""
        self.take(wait=True)  # memory that a copy still writes to must not be given back

    def _send(self):
        stop = self._first + len(self._about)
        table = self._table[self._first : stop]
        self._sent.append((self._about, self._names, *start_download(table)))
        self._first, self._about = stop % self._rows, []
