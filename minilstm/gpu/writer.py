"""Files written from arrays of a GPU by a thread, while the GPU goes on.

A large model takes seconds to write. `Writer` first copies its arrays on the GPU, which takes
milliseconds. A thread brings the copies to the host piece by piece and writes them. Meanwhile
training changes the arrays themselves. With NumPy everything is written at once.

Read next: ../training/progress.py, which uses it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..backend import current_backend, xp
from .capture import RECORDING
from .pinned import start_download

PIECE = 32 << 20  # bytes that are brought to the host at a time; uploads of batches wait for them


class Writer:
    """A thread that writes files. It makes one call after another.

        with Writer() as writer:
            writer.start(write, arrays)     write(arrays as they are now) is called soon
            writer.wait()                   write has ended

    `start` waits for the call before. An error of a call is raised by the next `start`, `wait` or
    `raise_error`, and by each one after that. So nothing is written after a failed call. The end of
    the block waits for the last call and raises nothing.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._last = None  # the last call

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._thread.shutdown()

    def start(self, write: Callable, arrays: dict) -> None:
        """Call write(arrays): with NumPy now, with CuPy in the thread and with copies."""
        self.wait()
        if current_backend().name == "numpy":
            write(arrays)
            return
        copies = {name: array.copy() for name, array in arrays.items()}
        copied = xp.cuda.get_current_stream().record()
        # a new thread has an empty context: it would not see the backend that is in force here
        call = contextvars.copy_context().run, _write, write, copies, copied, xp.cuda.Device()
        self._last = self._thread.submit(*call)

    def raise_error(self) -> None:
        """Raise the error of the last call, if it has ended with one."""
        if self._last is not None and self._last.done():
            self._last.result()

    def wait(self) -> None:
        """Wait until the last call has ended. Raises its error."""
        if self._last is not None:
            self._last.result()


def _write(write, copies, copied, device):
    with device, xp.cuda.Stream(non_blocking=True) as stream:
        stream.wait_event(copied)
        try:
            write(copies)
        finally:
            copies.clear()  # free their memory before the next call may take as much


def in_pieces(array) -> Iterator[np.ndarray]:
    """Yield the bytes of an array, (n,) of uint8 on the host, in one piece or more.

    The bytes of a number are in the order of a file: the least significant byte is the first.
    """
    if isinstance(array, np.ndarray):
        in_order = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        yield in_order.reshape(-1).view(np.uint8)
        return
    whole = array.reshape(-1).view(np.uint8)
    for start in range(0, len(whole), PIECE):
        with RECORDING:
            piece, brought = start_download(whole[start : start + PIECE])
        brought.synchronize()
        yield piece
