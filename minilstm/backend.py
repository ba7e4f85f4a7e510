"""The array library in use: NumPy on the CPU or CuPy on the GPU. The only file that imports CuPy.

    from minilstm.backend import xp, asarray, to_numpy, use_backend

`xp` holds the functions of the library that `use_backend` chose, so `xp.tanh` is `numpy.tanh` or
`cupy.tanh`, and every layer is written once. Arrays cross between host and device in two places
only, `asarray` and `to_numpy`, both here. Random numbers are always drawn on the host, so that
both libraries start from identical numbers.

Read next: cells.py.
"""

from __future__ import annotations

import types

import numpy as np

from .errors import BackendError

BACKENDS = ("numpy", "cupy")
DTYPES = ("float32", "float64", "complex128")  # complex128 serves the complex-step gradient check

xp = types.SimpleNamespace()


class use_backend:  # noqa: N801  (used like a function, or in a `with` statement)
    """Choose the array library and the dtype of everything made from now on.

    `use_backend("cupy")` lasts until the next call; `with use_backend("numpy", "float64"):`
    puts the previous choice back at its end. Raises BackendError when the library is missing.
    """

    name = "numpy"
    dtype = np.dtype("float32")

    def __init__(self, name: str = "numpy", dtype: str = "float32"):
        if name not in BACKENDS:
            raise BackendError(f"expected backend {' or '.join(BACKENDS)}, got {name!r}")
        if np.dtype(dtype).name not in DTYPES:
            raise BackendError(f"expected dtype {', '.join(DTYPES)}, got {np.dtype(dtype).name!r}")
        self._previous = (use_backend.name, use_backend.dtype)
        self._choose(name, dtype)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._choose(*self._previous)

    @staticmethod
    def _choose(name, dtype):
        library = _cupy() if name == "cupy" else np
        use_backend.name, use_backend.dtype = name, np.dtype(dtype)
        vars(xp).clear()
        vars(xp).update(vars(library))


def _cupy():
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            "expected an installed CuPy for --backend cupy, got none: "
            "pip install 'cupy-cuda12x[ctk]' (CUDA 12) or 'cupy-cuda13x[ctk]' (CUDA 13)"
        ) from error
    return cupy


def asarray(array, dtype=None):
    """Host -> device: `array` as an array of the library in use, `dtype` by default its own."""
    return xp.asarray(array, dtype=dtype or use_backend.dtype)


def to_numpy(array) -> np.ndarray:
    """Device -> host: `array` as a NumPy array. Waits for the device."""
    return np.asarray(array) if isinstance(array, np.ndarray | np.generic) else array.get()


def synchronize() -> None:
    """Wait until the device has finished all work given to it; nothing to wait for on a CPU."""
    if use_backend.name == "cupy":
        xp.cuda.get_current_stream().synchronize()


use_backend("numpy")
