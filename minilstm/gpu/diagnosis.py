"""Check all software that a GPU needs. For a missing piece raise a BackendError with advice.

`import_cupy` returns CuPy after it has checked every piece. The command
`python -m minilstm.doctor` prints what it found. This file imports only errors.py, so that
backend.py can use it.

Read next: ../doctor.py.
"""

from __future__ import annotations

import functools
from types import ModuleType

from ..errors import BackendError

INSTALL = (
    "pip install 'cupy-cuda12x[ctk]' (CUDA 12), 'cupy-cuda13x[ctk]' (CUDA 13) or cupy-rocm-7-0 "
    "(AMD, ROCm 7)"
)


def import_cupy() -> ModuleType:
    """Return the module `cupy`. Raises BackendError if it, or a piece that it needs, is missing."""
    find_cupy()
    import cupy

    _ask_for_pieces(cupy)
    return cupy


@functools.cache  # checked only once, because `use_backend` is called often
def _ask_for_pieces(cupy):
    for find in CUPY_PIECES.values():
        find()


def find_cupy() -> str:
    """Return the version of CuPy."""
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
    """Return the version of the GPU's driver, which comes with the system, not from pip."""
    from cupy.cuda import runtime

    if runtime.is_hip:
        return f"HIP {asked('a driver for AMD GPUs', runtime.driverGetVersion, 'install ROCm')}"
    advice = "install NVIDIA's, so that `nvidia-smi` lists the GPU"
    driver = asked("an NVIDIA driver", runtime.driverGetVersion, advice)
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
            f"{found}: update it{older if found >= 12 else ''}"  # older drivers have no wheel
        )
    return f"CUDA {found}.{driver % 1000 // 10}"


def find_device() -> str:
    """Return the name and memory of the GPU in use."""
    from cupy.cuda import runtime

    advice = "see whether nvidia-smi or rocm-smi lists one, and what CUDA_VISIBLE_DEVICES says"
    count = asked("a GPU", runtime.getDeviceCount, advice)
    if count == 0:
        raise BackendError(f"expected a GPU for --backend cupy, got none: {advice}")
    device = runtime.getDeviceProperties(runtime.getDevice())
    return f"{device['name'].decode()}, {device['totalGlobalMem'] / 1e9:.0f} GB"


def find_cublas() -> str:
    """Return the version of cuBLAS, the library of matrix products."""
    import cupy

    version = asked(
        "cuBLAS, the library of matrix products",
        lambda: cupy.cuda.cublas.getVersion(cupy.cuda.Device().cublas_handle),
        _toolkit(),
    )
    return f"version {version}"


def find_nvrtc() -> str:
    """Return the version of NVRTC, the compiler of kernels."""
    import cupy

    found = asked("NVRTC, the compiler of kernels", cupy.cuda.nvrtc.getVersion, _toolkit())
    return "version " + ".".join(map(str, found))


def find_kernel() -> str:
    """Compile a kernel and run it; return the compute capability that it was compiled for."""
    import cupy

    def run():
        return float(cupy.tanh(cupy.zeros(3, "float32")).sum())

    asked("a kernel that compiles and runs", run, _toolkit())
    return f"compiled for compute capability {cupy.cuda.Device().compute_capability}"


def tf32_is_offered() -> bool:
    """Say whether the GPU in use multiplies in tf32: NVIDIA's do since 2020 (capability 8.0)."""
    from cupy.cuda import Device, runtime

    return not runtime.is_hip and int(Device().compute_capability) >= 80


def expect_tf32() -> None:
    """Raise BackendError if the GPU in use has no tf32 products: it would compute in float32."""
    if not tf32_is_offered():
        raise BackendError(
            f"expected an NVIDIA GPU of 2020 or later for tf32, got {find_device()}: use float32"
        )


# The pieces that an installed CuPy needs. Each needs those before it.
CUPY_PIECES = {
    "driver": find_driver,
    "device": find_device,
    "cuBLAS": find_cublas,
    "NVRTC": find_nvrtc,
    "kernel": find_kernel,
}


def about_device() -> dict[str, str]:
    """Return everything on the device that affects the last bit of a result."""
    found = {"driver": find_driver(), "device": find_device(), "cublas": find_cublas()}
    return {"cupy": find_cupy(), **found}


def asked(what, question, advice):
    """Return `question()`; turn any exception into a BackendError with `advice`."""
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
