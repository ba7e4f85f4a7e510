"""The array library in use: NumPy on the CPU or CuPy on the GPU. The only file that imports CuPy.

    from minilstm.backend import xp, asarray, to_numpy, use_backend

`xp` holds the functions of the library that `use_backend` chose, so `xp.tanh` is `numpy.tanh` or
`cupy.tanh`, and every layer is written once. Arrays cross between host and device here alone:
through `asarray` and `to_numpy`, which wait, and through `start_upload` and `start_download`,
which do not (transfers.py). Random numbers are always drawn on the host, so that both libraries
start from identical numbers.

Read next: cells.py.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import numpy as np

from .errors import BackendError

BACKENDS = ("numpy", "cupy")
DTYPES = ("float32", "float64", "complex128")  # complex128 serves the complex-step gradient check

INSTALL = (
    "pip install 'cupy-cuda12x[ctk]' (CUDA 12), 'cupy-cuda13x[ctk]' (CUDA 13) or cupy-rocm-7-0 "
    "(AMD, ROCm 7)"
)

xp = types.SimpleNamespace()


class use_backend:  # noqa: N801  (used like a function, or in a `with` statement)
    """Choose the array library and the dtype of everything made from now on.

    dtype "tf32" is float32 whose matrix products a GPU may make of shortened operands; only CuPy
    has it, and no other dtype does so. Without `fused`, CuPy computes the LSTM's cells operation by
    operation, as NumPy does (kernels.py). `use_backend("cupy")` lasts until the next call; `with
    use_backend("numpy", "float64"):` puts the previous choice back at its end. Raises BackendError
    when the library is missing.
    """

    name = "numpy"
    dtype = np.dtype("float32")
    tf32 = False
    fused = True

    def __init__(self, name: str = "numpy", dtype: str = "float32", fused: bool = True):
        if name not in BACKENDS:
            raise BackendError(f"expected backend {' or '.join(BACKENDS)}, got {name!r}")
        tf32 = dtype == "tf32"
        if tf32 and name != "cupy":
            raise BackendError(
                f"expected backend cupy for tf32, got {name!r}: use it, or float32, which is exact"
            )
        dtype = np.dtype("float32" if tf32 else dtype)
        if dtype.name not in DTYPES:
            raise BackendError(f"expected dtype {', '.join(DTYPES)}, got {dtype.name!r}")
        now = use_backend
        self._previous = (now.name, now.dtype, now.tf32, now.fused)
        self._choose(name, dtype, tf32, fused)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._choose(*self._previous)

    @staticmethod
    def _choose(name, dtype, tf32, fused):
        library = _cupy() if name == "cupy" else np
        if name == "cupy":
            _allow_tf32(tf32)
        use_backend.name, use_backend.dtype = name, dtype
        use_backend.tf32, use_backend.fused = tf32, fused
        vars(xp).clear()
        vars(xp).update(vars(library))


def _cupy():
    """CuPy, once everything it needs is known to be there; what is missing is a BackendError.

    Nothing falls back to NumPy: who asks for a GPU and silently gets a CPU, waits.
    """
    find_cupy()
    import cupy

    _ask_for_pieces(cupy)
    return cupy


@functools.cache  # asked once, because `use_backend` is called again and again
def _ask_for_pieces(cupy):
    for find in CUPY_PIECES.values():
        find()


def _allow_tf32(allow):
    """Say how cuBLAS may multiply float32; CuPy's public switch, CUPY_TF32, is read only once."""
    from cupy._core import _routines_linalg as products

    kind = products.COMPUTE_TYPE_TF32 if allow else products.COMPUTE_TYPE_DEFAULT
    products.set_compute_type(np.float32, kind)


def find_cupy() -> str:
    """The version of CuPy."""
    try:
        import cupy
    except Exception as error:  # a wheel for another NumPy or Python may fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise BackendError(
                f"expected an installed CuPy for --backend cupy, got none: {INSTALL}"
            ) from error
        raise BackendError(
            f"expected a CuPy that can be imported for --backend cupy, got {_in_a_line(error)}: "
            f"pip uninstall it, whatever its name in `pip list`, then {INSTALL}"
        ) from error
    return f"CuPy {cupy.__version__}"


def find_driver() -> str:
    """The version of the GPU's driver, which comes with the system, not from pip."""
    from cupy.cuda import runtime

    if runtime.is_hip:
        return f"HIP {_asked('a driver for AMD GPUs', runtime.driverGetVersion, 'install ROCm')}"
    advice = "install NVIDIA's, so that `nvidia-smi` lists the GPU"
    driver = _asked("an NVIDIA driver", runtime.driverGetVersion, advice)
    if driver == 0:
        raise BackendError(
            f"expected an NVIDIA driver for --backend cupy, got none: {advice} (for an AMD GPU: "
            "pip install cupy-rocm-7-0)"
        )
    found, wanted = driver // 1000, runtime.runtimeGetVersion() // 1000
    if found < wanted:
        older = f", or pip uninstall cupy-cuda{wanted}x && pip install 'cupy-cuda{found}x[ctk]'"
        raise BackendError(
            f"expected a driver for CUDA {wanted}, which this CuPy was made for, got one for CUDA "
            f"{found}: update it{older if found >= 12 else ''}"  # no wheel for what is older
        )
    return f"CUDA {found}.{driver % 1000 // 10}"


def find_device() -> str:
    """The name and the memory of the GPU in use."""
    from cupy.cuda import runtime

    advice = "see whether nvidia-smi or rocm-smi lists one, and what CUDA_VISIBLE_DEVICES says"
    count = _asked("a GPU", runtime.getDeviceCount, advice)
    if count == 0:
        raise BackendError(f"expected a GPU for --backend cupy, got none: {advice}")
    device = runtime.getDeviceProperties(runtime.getDevice())
    return f"{device['name'].decode()}, {device['totalGlobalMem'] / 1e9:.0f} GB"


def find_cublas() -> str:
    """The library of matrix products: it answers, on the device."""
    import cupy

    version = _asked(
        "cuBLAS, the library of matrix products",
        lambda: cupy.cuda.cublas.getVersion(cupy.cuda.Device().cublas_handle),
        _toolkit(),
    )
    return f"version {version}"


def find_nvrtc() -> str:
    """The compiler of kernels."""
    import cupy

    found = _asked("NVRTC, the compiler of kernels", cupy.cuda.nvrtc.getVersion, _toolkit())
    return "version " + ".".join(map(str, found))


def find_kernel() -> str:
    """A kernel that was compiled, for this device, and ran."""
    import cupy

    def run():
        return float(cupy.tanh(cupy.zeros(3, "float32")).sum())

    _asked("a kernel that compiles and runs", run, _toolkit())
    return f"compiled for compute capability {cupy.cuda.Device().compute_capability}"


# What a CuPy that is installed needs beside itself, in the order in which one piece needs another.
CUPY_PIECES = {
    "driver": find_driver,
    "device": find_device,
    "cuBLAS": find_cublas,
    "NVRTC": find_nvrtc,
    "kernel": find_kernel,
}


def about_device() -> dict[str, str]:
    """What the last bit of a result on the device depends on; nothing on the host."""
    if use_backend.name == "numpy":
        return {}
    found = {"driver": find_driver(), "device": find_device(), "cublas": find_cublas()}
    return {"cupy": find_cupy(), **found}


def use_device(number: int) -> int:
    """Choose the GPU of this number, counted round, for this process; return how many there are.

    For one of several processes on a machine, before its `use_backend`. Raises BackendError.
    Neither this nor `sum_over_devices` has yet run on more than one GPU.
    """
    for find in (find_cupy, find_driver, find_device):
        find()
    from cupy.cuda import runtime

    count = runtime.getDeviceCount()
    runtime.setDevice(number % count)
    return count


def sum_over_devices(count: int, rank: int) -> Callable[[np.ndarray], None]:
    """A function that replaces an array on the device by its sum over `count` processes, by NCCL.

    Every process must call it with the same arrays in the same order. Nobody waits for the result
    but the device's own stream. MPI makes the processes known to one another. Raises BackendError.
    """

    def connected():
        from cupyx.distributed import NCCLBackend

        return NCCLBackend(count, rank, use_mpi=True)

    advice = "pip install nvidia-nccl-cu12 or nvidia-nccl-cu13, and start one rank for each GPU"
    nccl = _asked("NCCL, which adds over GPUs,", connected, advice)
    return lambda array: nccl.all_reduce(array, array)


def _asked(what, question, advice):
    """The answer; a BackendError if there is none, for a missing library fails in its own way."""
    try:
        return question()
    except Exception as error:
        raise BackendError(
            f"expected {what} for --backend cupy, got {_in_a_line(error)}: {advice}"
        ) from error


def _toolkit():
    from cupy.cuda import runtime

    if runtime.is_hip:
        return "install ROCm, all of it"
    return f"pip install 'cupy-cuda{runtime.runtimeGetVersion() // 1000}x[ctk]'"


def _in_a_line(error):
    lines = [line.strip(" =") for line in str(error).splitlines()]  # CuPy underlines with "==="
    return f"{type(error).__name__} ({' '.join(filter(None, lines))[:160]})"


def asarray(array, dtype=None):
    """Host -> device: `array` as an array of the library in use, `dtype` by default its own."""
    return xp.asarray(array, dtype=dtype or use_backend.dtype)


def to_numpy(array) -> np.ndarray:
    """Device -> host: `array` as a NumPy array. Waits for the device."""
    return np.asarray(array) if isinstance(array, np.ndarray | np.generic) else array.get()


def compiled(source: str, real: str):
    """The kernels of a text in CUDA C++, with REAL = "float" or "double": `.get_function(name)`."""
    return xp.RawModule(code=source, options=("-std=c++17", f"-DREAL={real}"))


def pinned(size: int, cuda) -> np.ndarray:
    """Bytes of the host's memory that a device can copy by itself, while the host goes on."""
    return np.frombuffer(cuda.alloc_pinned_memory(max(size, 1)), np.uint8, size)


def start_upload(host: np.ndarray, device, stream) -> None:
    """Pinned `host` -> `device` of the same shape and dtype, in the order of `stream`."""
    device.set(host, stream=stream)


def start_download(device) -> tuple[np.ndarray, object]:
    """`device` -> a pinned array, good when the event returned with it is `done`."""
    host = pinned(device.nbytes, xp.cuda).view(device.dtype).reshape(device.shape)
    device.get(out=host, blocking=False)
    event = xp.cuda.Event(disable_timing=True)
    event.record()
    return host, event


def synchronize() -> None:
    """Wait until the device has finished all work given to it; nothing to wait for on a CPU."""
    if use_backend.name == "cupy":
        xp.cuda.get_current_stream().synchronize()


use_backend("numpy")
