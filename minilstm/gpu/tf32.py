"""CuPy's switch for tf32 products. The process has one switch, which all threads share.

A choice of CuPy claims the position of the switch that it needs, and releases it at its end. A
claim of the other position by another thread is refused, because one of the two threads would then
compute with the wrong precision. This file imports only errors.py, so that backend.py can use it.
"""

from __future__ import annotations

import threading

import numpy as np

from ..errors import BackendError

_lock = threading.Lock()
_claims: list[tuple[int, bool]] = []  # (thread, tf32), in the order in which they were made


class Claim:
    """Switch tf32 products on or off for this thread, until `release`.

    Raises BackendError if another thread has claimed the other position.
    """

    def __init__(self, tf32: bool):
        self._mine = here, _ = threading.get_ident(), tf32
        with _lock:
            if any(thread != here and other != tf32 for thread, other in _claims):
                wanted, used = ("tf32", "float32")[:: 1 if tf32 else -1]
                raise BackendError(
                    f"expected one precision of CuPy's products in all threads, got {wanted} while "
                    f"another thread uses {used}: use a process for each"
                )
            _claims.append(self._mine)
            _switch(tf32)

    def release(self) -> None:
        """Give the claim back. The claim that this thread made before is in force again."""
        with _lock:
            last = max(k for k, claim in enumerate(_claims) if claim == self._mine)
            del _claims[last]
            before = [tf32 for thread, tf32 in _claims if thread == self._mine[0]]
            if before:
                _switch(before[-1])


def offered() -> bool:
    """Say whether the GPU in use multiplies in tf32: NVIDIA's do since 2020 (capability 8.0)."""
    from cupy.cuda import Device, runtime

    return not runtime.is_hip and int(Device().compute_capability) >= 80


def _switch(tf32):
    # CuPy reads its public switch, the variable CUPY_TF32, only once
    from cupy._core import _routines_linalg as products

    kind = products.COMPUTE_TYPE_TF32 if tf32 else products.COMPUTE_TYPE_DEFAULT
    products.set_compute_type(np.float32, kind)
