"""The array library in use: NumPy on the CPU or CuPy on the GPU.

    from minilstm.backend import xp, asarray, to_numpy, set_backend, use_backend

`xp` stands for the library in use: `xp.tanh` is `numpy.tanh` or `cupy.tanh`. So every layer is
written once. `asarray` and `to_numpy` copy arrays between host and device. Only the files in gpu/
copy in another way, without making the host wait. Random numbers are always drawn on the host, so
that both libraries start from identical numbers.

`set_backend` chooses for the whole process. `use_backend` chooses for a `with` block. Without
either, the library is NumPy and the dtype float32.

Read next: layers/cells.py.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from .errors import BackendError, ShapeError

BACKENDS = ("numpy", "cupy")
DTYPES = ("float32", "float64", "complex128")  # complex128 serves the complex-step gradient check


@dataclass(frozen=True)
class Backend:
    """A choice of array library and precision.

    name     "numpy" or "cupy"
    dtype    dtype of new arrays
    tf32     use a 10-bit mantissa instead of 23 bits in float32 matrix products; CuPy only
    fused    compute an LSTM cell by one kernel (gpu/kernels.py); NumPy ignores it
    library  the module `numpy` or `cupy`
    """

    name: str = "numpy"
    dtype: np.dtype = np.dtype("float32")
    tf32: bool = False
    fused: bool = True
    library: ModuleType = field(default=np, repr=False)


_of_process = Backend()
_of_context: ContextVar[Any] = ContextVar("backend", default=None)


def current_backend() -> Backend:
    """Return the choice in force: that of the innermost `with use_backend(...)`, or the process's.

    A new thread starts outside every `with` block of its creator. The threads of this package run
    in a copy of their creator's context (`contextvars.copy_context`), so they share its choice.
    """
    return _of_context.get() or _of_process


class _Library:
    def __getattr__(self, name: str) -> Any:  # called for a name that is not in vars(xp)
        return getattr(current_backend().library, name)


xp = _Library()
# Until CuPy is chosen, xp holds all of NumPy's names, so xp.tanh is a plain attribute read. The
# first choice of CuPy empties vars(xp). From then on `__getattr__` looks up each name in the
# library that the current thread uses.
vars(xp).update(vars(np))


def set_backend(name: str = "numpy", dtype: str = "float32", fused: bool = True) -> None:
    """Choose the array library and dtype for the whole process, all threads included.

    name   "numpy" or "cupy"
    dtype  "float32", "float64", "complex128", or "tf32": float32 with faster, less exact matrix
           products (CuPy only)
    fused  with False, CuPy computes LSTM cells operation by operation, as NumPy does

    There is no silent fall-back to NumPy: it would show only as slow training. Raises BackendError
    if the library is missing or broken. Also raises it inside a `with use_backend(...)` block,
    because the block's choice is in force there, and the new choice would have no effect.
    """
    global _of_process
    if isinstance(_of_context.get(), Backend):
        raise BackendError(
            "expected set_backend outside `with use_backend(...)`, got it inside, where it has no "
            "effect: use a nested `with use_backend(...)`"
        )
    _of_process = _backend(name, dtype, fused)
    _of_context.set(None)


class use_backend:  # noqa: N801  (reads like a function)
    """Choose the array library and dtype for a block: `with use_backend("numpy", "float64"):`.

    The arguments are those of `set_backend`. Other threads keep the choice that they had. At the
    end of the block the choice before it is in force again. Without `with`, the next use of the
    backend raises BackendError, because such a call would have no effect. After this error the
    choice before the call is in force again.
    """

    def __init__(self, name: str = "numpy", dtype: str = "float32", fused: bool = True):
        self._backend = _backend(name, dtype, fused)
        self._previous = _of_context.get()
        # This object is no Backend: until `with` replaces it, `__getattr__` raises the error.
        _of_context.set(self)

    def __getattr__(self, name):  # called for `name`, `dtype`, ..., which only a Backend has
        if name not in Backend.__dataclass_fields__:  # a notebook asks how to show this object
            raise AttributeError(name)
        previous = self._previous
        while isinstance(previous, use_backend):  # more calls without `with`: one error for all
            previous = previous._previous
        _of_context.set(previous)
        raise BackendError(
            "expected `with use_backend(...):`, got use_backend(...) without `with`: write "
            "set_backend(...) to choose for the whole process"
        )

    def __enter__(self) -> Backend:
        _of_context.set(self._backend)
        return self._backend

    def __exit__(self, *exception):
        _of_context.set(self._previous)


def asarray(array, dtype=None):
    """Host -> device: return `array` in the library in use, by default with the dtype in use."""
    return xp.asarray(array, dtype=dtype or current_backend().dtype)


def to_numpy(array) -> np.ndarray:
    """Device -> host: return an array of NumPy or CuPy as a NumPy array. Waits for the device."""
    return np.asarray(array) if library_of(array) == "numpy" else array.get()


def library_of(array) -> str:
    """Return the library of an array, "numpy" or "cupy". Raises ShapeError for other values."""
    if isinstance(array, np.ndarray | np.generic):
        return "numpy"
    if not (hasattr(array, "dtype") and hasattr(array, "get")):
        raise ShapeError(
            f"expected an array of NumPy or CuPy, got {type(array).__name__}: pass an array"
        )
    return "cupy"


def synchronize() -> None:
    """Wait until the device has finished all its work; with NumPy, return at once."""
    if current_backend().name == "cupy":
        xp.cuda.get_current_stream().synchronize()


def free_host_memory() -> int:
    """Return the bytes of memory that are free on the host, for all processes together."""
    import psutil

    return psutil.virtual_memory().available


def _backend(name, dtype, fused):
    if name not in BACKENDS:
        raise BackendError(f"expected backend {' or '.join(BACKENDS)}, got {name!r}")
    tf32 = dtype == "tf32"
    if tf32 and name != "cupy":
        raise BackendError(
            f"expected backend cupy for tf32, got {name!r}: use it, or float32, which is exact"
        )
    dtype = "float32" if tf32 else str(dtype)
    if dtype not in DTYPES:
        raise BackendError(f"expected dtype {', '.join(DTYPES)} or tf32, got {dtype!r}")
    dtype = np.dtype(dtype)
    if name == "numpy":
        return Backend(name, dtype, tf32, fused)
    from .gpu.diagnosis import expect_tf32, import_cupy

    cupy = import_cupy()
    if tf32:
        expect_tf32()
    vars(xp).clear()
    return Backend(name, dtype, tf32, fused, cupy)
