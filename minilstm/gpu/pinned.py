"""Copies between host and device that the host does not wait for.

They need pinned memory: pages of the host that the operating system never moves, so that the device
can copy them by itself.

Read next: transfers.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import xp


def pinned(size: int) -> np.ndarray:
    """Return `size` bytes of pinned memory, uint8 (size,)."""
    return np.frombuffer(xp.cuda.alloc_pinned_memory(max(size, 1)), np.uint8, size)


def start_upload(host: np.ndarray, device, stream) -> None:
    """Copy pinned `host` to `device` of the same shape and dtype, in the order of `stream`."""
    device.set(host, stream=stream)


def start_download(device) -> tuple[np.ndarray, Any]:
    """Copy `device` to a pinned array; return that array and an event.

    The array holds the numbers once the event is `done`.
    """
    host = pinned(device.nbytes).view(device.dtype).reshape(device.shape)
    device.get(out=host, blocking=False)
    event = xp.cuda.Event(disable_timing=True)
    event.record()
    return host, event
