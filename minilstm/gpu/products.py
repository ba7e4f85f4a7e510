"""Matrix products by cuBLAS that a CUDA graph can record and that can add to their result.

`matmul(a, b, out)` makes out = a b, and with `add` out += a b in the same pass over memory.

CuPy has no product that adds, and refuses its own products while a graph is recorded. The library
itself allows both, so this file calls `cublasGemmEx` of the cuBLAS that CuPy has loaded, by ctypes.
NVIDIA's nvmath-python has bindings for the same call; it would be one more package to install,
with a second copy of cuBLAS to find, for one function of nineteen arguments.

cuBLAS promises the same bits for the same call only while its scratch memory is the same, so every
stream has its own handle with its own scratch memory. Then a product has the same kernel with and
without a graph. Read next: capture.py.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from ..backend import current_backend, xp
from ..errors import BackendError

WORKSPACE = 64 << 20  # bytes of scratch memory for each stream
OF_HANDLE = 32 << 20  # bytes that a new handle takes for itself (NVIDIA's manual, for an H100)

# names of the header cublas_api.h: cublasComputeType_t, cudaDataType_t, cublasOperation_t
COMPUTE = {"float32": 68, "tf32": 77, "float64": 70}
DATA = {"float32": 0, "float64": 1}
AS_IS, TRANSPOSED = 0, 1
DEFAULT_ALGORITHM = -1


def wanted(dtype) -> bool:
    """Say whether products of this dtype are made here: real numbers on an NVIDIA GPU."""
    return current_backend().name == "cupy" and dtype.kind == "f" and not xp.cuda.runtime.is_hip


def matmul(a, b, out, add: bool = False) -> None:
    """out = a b, or out += a b. a (M, K), b (K, N), out (M, N), of one dtype.

    a and b may be transposed views or slices, which are read where they are. The rows of `out`
    must be contiguous. Raises BackendError if cuBLAS refuses.
    """
    (rows, inner), columns = a.shape, b.shape[1]
    if not rows or not columns:
        return
    if not inner:  # a sum over nothing
        if not add:
            out.fill(0)
        return
    name = out.dtype.name
    scalar = ctypes.c_double if name == "float64" else ctypes.c_float
    compute = COMPUTE["tf32" if name == "float32" and current_backend().tf32 else name]
    # cuBLAS stores matrices by columns, so it reads our arrays as transposes: out^T = b^T a^T
    (b_order, b_step), (a_order, a_step), (_, out_step) = map(_order, (b, a, out))
    status = _library().cublasGemmEx(
        _handle(), b_order, a_order, columns, rows, inner,
        ctypes.byref(scalar(1)),
        b.data.ptr, DATA[b.dtype.name], b_step,
        a.data.ptr, DATA[a.dtype.name], a_step,
        ctypes.byref(scalar(add)),
        out.data.ptr, DATA[name], out_step,
        compute, DEFAULT_ALGORITHM,
    )  # fmt: skip
    _expect_success("cublasGemmEx", status)


def dot(a, b):
    """Return the sum of a b, for a and b (K,) of one dtype, as a 0-d array."""
    out = xp.empty((1, 1), a.dtype)
    matmul(a[None], b[:, None], out)
    return out[0, 0]


def _order(x):
    """Return if cuBLAS must transpose a matrix, and the distance between its rows or columns."""
    rows, columns = x.shape
    down, right = (stride // x.itemsize for stride in x.strides)
    if columns == 1 or right == 1:
        return AS_IS, max(down if rows > 1 else 0, columns)
    if rows == 1 or down == 1:
        return TRANSPOSED, max(right if columns > 1 else 0, rows)
    raise ValueError(f"expected a matrix with contiguous rows or columns, got strides {x.strides}")


def _handle():
    """The handle of cuBLAS for the current stream of the current device."""
    return _handle_of(xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream().ptr)[0]


@functools.cache  # the scratch memory must stay where it is as long as graphs use it
def _handle_of(device, stream):
    library, handle = _library(), ctypes.c_void_p()
    _expect_success("cublasCreate", library.cublasCreate_v2(ctypes.byref(handle)))
    _expect_success("cublasSetStream", library.cublasSetStream_v2(handle, stream))
    memory = None
    if hasattr(library, "cublasSetWorkspace_v2"):  # an emulation may lack it
        memory = xp.empty(WORKSPACE, np.uint8)
        status = library.cublasSetWorkspace_v2(handle, memory.data.ptr, memory.nbytes)
        _expect_success("cublasSetWorkspace", status)
    return handle, memory


@functools.cache
def _library():
    """The cuBLAS that CuPy has loaded, whatever its version and wherever it came from."""
    from cupy_backends.cuda.libs import cublas

    library = ctypes.CDLL(cublas.__file__)  # finds symbols also in the libraries that it loads
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    try:
        library.cublasCreate_v2.argtypes = (pointer,)
        library.cublasSetStream_v2.argtypes = (pointer, pointer)
        library.cublasGemmEx.argtypes = (
            *(pointer, number, number, number, number, number, pointer),
            *(pointer, number, number, pointer, number, number, pointer),
            *(pointer, number, number, number, number),
        )
    except AttributeError as error:
        raise BackendError(
            f"expected the cuBLAS of CuPy to be reachable, got {error}: use CuPy's wheel for "
            "Linux, or --backend numpy"
        ) from error
    if hasattr(library, "cublasSetWorkspace_v2"):
        library.cublasSetWorkspace_v2.argtypes = (pointer, pointer, size)
    return library


def _expect_success(what, status):
    if status:
        raise BackendError(
            f"expected {what} to succeed, got status {status} of cuBLAS: see `python -m "
            "minilstm.doctor`"
        )
