"""A strict stand-in for CuPy, made of NumPy: it refuses what CuPy refuses, and counts operations.

    import strict_cupy
    strict_cupy.install(monkeypatch)
    with use_backend("cupy"), strict_cupy.counting() as counts:
        ...                                             # counts["upload"], counts["launch"], ...

It has only the functions that the package uses. Any other name raises AttributeError, so that no
function is used unchecked. `audit` compares all of it with an installed CuPy.

Arrays are never converted silently, and arrays of host and device never mix. Every read of a value
counts as a wait. An asynchronous copy arrives as late as possible. Kernels in CUDA C++
(`RawModule`) are compiled for the CPU if there is a compiler.

The launches per operation are those of the real CuPy 14.2, on which tests/on_cupy.py counts them.
"""

import contextlib
import ctypes
import functools
import hashlib
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from minilstm.gpu import kernels, products

KINDS = ("launch", "gemm", "copy", "upload", "download", "sync")
TOTAL = dict.fromkeys(KINDS, 0)
_forbidden = []


def happened(kind, times=1):
    """Count an operation. Raises AssertionError inside `forbidding` of this kind."""
    TOTAL[kind] += times
    here = threading.get_ident()
    if times and any(kind in kinds and thread == here for kinds, thread in _forbidden):
        raise AssertionError(f"expected no {kind} here")


@contextlib.contextmanager
def counting():
    """Count the operations of a block: `with counting() as counts: ...`."""
    before, counts = dict(TOTAL), {}
    yield counts
    counts |= {kind: TOTAL[kind] - before[kind] for kind in KINDS}


@contextlib.contextmanager
def forbidding(*kinds):
    """Let operations of these kinds fail in this thread: `with forbidding("sync"): ...`."""
    entry = (kinds, threading.get_ident())
    _forbidden.append(entry)
    try:
        yield
    finally:
        _forbidden.remove(entry)


# ---------------------------------------------------------------- arrays


def number(x):
    return isinstance(x, bool | int | float | complex | np.generic)


def inner(x):
    """Return the NumPy array of a device array; a scalar stays, as an argument of the kernel."""
    if isinstance(x, ndarray):
        return x._a
    if number(x):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def wrap(a):
    a = np.asarray(a)
    if a.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {a.dtype}")
    array = object.__new__(ndarray)
    array._a = a
    return array


class ndarray:  # noqa: N801  (CuPy's name)
    """An array on the device. Reading a value on the host counts as a wait."""

    __array_priority__ = 100
    __hash__ = None

    def __array__(self, *arguments, **keywords):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):  # np.tanh(there), host + there
        found = vars(cupy).get(ufunc.__name__)
        if found is None or method != "__call__":
            return NotImplemented
        return found(*inputs, **{k: v[0] if k == "out" else v for k, v in keywords.items()})

    def __array_function__(self, function, kinds, arguments, keywords):
        found = vars(cupy).get(function.__name__)
        return NotImplemented if found is None else found(*arguments, **keywords)

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: self._a.flags)
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data))

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self)))

    # views cost nothing

    real = property(lambda self: self if self.dtype.kind != "c" else wrap(self._a.real))
    T = property(lambda self: wrap(self._a.T))

    def reshape(self, *shape, order="C"):
        reshaped = self._a.reshape(*shape, order=order)
        if reshaped.size and not np.shares_memory(reshaped, self._a):
            happened("launch")
        return wrap(reshaped)

    def ravel(self, order="C"):
        return self.reshape(-1)

    def transpose(self, *axes):
        return wrap(self._a.transpose(*axes))

    def view(self, dtype=None):
        return wrap(self._a.view(dtype))

    # the ways to the host

    def get(self, stream=None, order="C", out=None, blocking=True):
        happened("download")
        if blocking:
            happened("sync")
            return np.array(self._a, order=order)
        if stream is not None or out is None or not is_pinned(out):
            raise ValueError("a copy that nobody waits for needs pinned memory")
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError("Shape or dtype mismatch")
        now, bytes_out = self._a.copy(), out.reshape(-1).view(np.uint8)
        bytes_out.fill(255)
        current_stream().pending.append(lambda: np.copyto(out, now))
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("Shape or dtype mismatch")
        if stream is None or not is_pinned(arr):
            raise ValueError("a copy that nobody waits for needs pinned memory and a stream")
        happened("upload")
        self._a.reshape(-1).view(np.uint8).fill(255)  # NaN until the copy arrives
        stream.pending.append(lambda: np.copyto(self._a, arr))

    def _value(self):
        happened("download")
        happened("sync")
        return self._a

    def item(self):
        return self._value().item()

    def tolist(self):
        return self._value().tolist()

    def __float__(self):
        return float(self._value())

    def __int__(self):
        return int(self._value())

    def __bool__(self):
        return bool(self._value())

    def __repr__(self):
        return repr(self._value())

    def __format__(self, spec):
        return format(self._value()[()], spec)

    # CuPy has no __index__, __contains__, __round__

    def _key(self, key):
        parts = []
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, np.ndarray | list):
                raise TypeError("an index from the host would be uploaded")
            if isinstance(part, ndarray):
                if part.dtype.kind not in "iu":
                    raise TypeError("a boolean index waits for the number of elements")
                raise TypeError("not used by the package: model it first")
            parts.append(part)
        ended = any(part is ... for part in parts)
        return tuple(parts) if ended else (*parts, ...)  # an element is a 0-d array

    def __getitem__(self, key):
        return wrap(self._a[self._key(key)])

    def __setitem__(self, key, value):
        place = self._a[self._key(key)]
        if isinstance(value, ndarray):
            same = value._a.__array_interface__["data"] == place.__array_interface__["data"]
            if same and value.shape == place.shape:
                happened("launch", 2 * (1 in place.shape))  # CuPy copies it all the same
                return  # a[k] += b writes a[k] back to itself
            same = value.shape == place.shape and value.dtype == place.dtype
            contiguous = value._a.flags.c_contiguous and place.flags.c_contiguous
            happened("copy" if same and contiguous else "launch", place.size > 0)
        else:
            happened("launch", place.size > 0)  # CuPy launches nothing for an empty array
        place[...] = inner(value)

    def fill(self, value):
        happened("launch", self.size > 0)
        self._a.fill(inner(value))

    def all(self):
        happened("launch")
        return wrap(self._a.all())

    def copy(self, order="C"):
        happened("copy" if self._a.flags.c_contiguous else "launch")
        return wrap(self._a.copy(order))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == dtype:
            return self
        happened("launch")
        return wrap(self._a.astype(dtype))


# ---------------------------------------------------------------- functions


class ufunc:  # noqa: N801  (CuPy's name)
    """A pointwise function: one launch, `out` and `dtype`, no `where`."""

    def __init__(self, function):
        self.function, self.__name__ = function, function.__name__

    def __call__(self, *arguments, out=None, dtype=None, casting="same_kind"):
        arguments = [inner(x) for x in arguments]
        with np.errstate(all="ignore"):
            result = self.function(*arguments, dtype=dtype)
            happened("launch", np.size(result) > 0)
            if out is None:
                return wrap(result)
            if not np.can_cast(result.dtype, out.dtype, casting):
                raise TypeError(f"output (typecode {result.dtype}) could not be coerced")
            if result.shape != out.shape:
                raise ValueError("Out shape is mismatched")
            out._a[...] = result
        return out


UFUNCS = (
    "add subtract multiply divide power negative absolute sqrt exp log tanh sign maximum minimum "
    "isfinite greater greater_equal less less_equal equal not_equal logical_and logical_not "
    "bitwise_and bitwise_or invert"
).split()
OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "and": "bitwise_and", "or": "bitwise_or", "lt": "less", "le": "less_equal",
    "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}  # fmt: skip


def operators(ufuncs):
    for name, of_numpy in OPERATORS.items():
        function = ufuncs[of_numpy]
        setattr(ndarray, f"__{name}__", lambda a, b, f=function: f(a, b))
        if name[0] not in "lgen":  # comparisons have no other forms
            setattr(ndarray, f"__r{name}__", lambda a, b, f=function: f(b, a))
            setattr(ndarray, f"__i{name}__", lambda a, b, f=function: f(a, b, out=a))
    ndarray.__neg__ = lambda a: ufuncs["negative"](a)
    ndarray.__invert__ = lambda a: ufuncs["invert"](a)


def reduction(function):
    def reduce(a, axis=None, dtype=None, out=None, keepdims=False):
        if not isinstance(a, ndarray):
            raise TypeError(f"{function.__name__} of {type(a)} would run on the host")
        happened("launch")
        keywords = {} if dtype is None else {"dtype": dtype}
        result = wrap(function(a._a, axis=axis, keepdims=keepdims, **keywords))
        if out is None:
            return result
        out._a[...] = result._a
        return out

    return reduce


def total(a, axis=None, dtype=None, out=None, keepdims=False):
    return reduction(np.sum)(a, axis, dtype, out, keepdims)


def largest(a, axis=None, out=None, keepdims=False):
    return reduction(np.max)(a, axis, None, out, keepdims)


def average(a, axis=None, dtype=None, out=None, keepdims=False):
    return reduction(np.mean)(a, axis, dtype, out, keepdims)


def matmul(x1, x2, /, *, out=None):
    for x in (x1, x2):
        if not isinstance(x, ndarray):
            raise TypeError(f"Argument has incorrect type (got {type(x).__name__})")
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            happened("launch")  # CuPy copies it first, in an order that cuBLAS reads
    if x1.dtype != x2.dtype:
        raise TypeError("not used by the package: operands of two dtypes")
    happened("gemm")
    result = np.matmul(x1._a, x2._a)
    if out is None:
        return wrap(result)
    if out.shape != result.shape:
        raise ValueError("Output array has an invalid size")
    if out.dtype != result.dtype or not out.flags.c_contiguous:
        happened("launch")
    out._a[...] = result
    return out


def matmul_by_cublas(a, b, out, add=False):
    """Stand in for gpu/products.py, which calls cuBLAS by itself."""
    if not out.size:
        return
    for x in (a, b, out):
        if 1 not in x.shape and x.itemsize not in x.strides:
            raise ValueError(f"expected contiguous rows or columns, got strides {x.strides}")
    if {a.dtype, b.dtype} != {out.dtype}:
        raise TypeError("operands of two dtypes")
    happened("gemm")
    with np.errstate(all="ignore"):
        result = np.matmul(a._a, b._a)
        out._a[...] = out._a + result if add else result


def dot(a, b, out=None):
    if a.ndim != 1 or b.ndim != 1:
        raise TypeError("not used by the package: matmul says what it does")
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    if out is not None and out.dtype != a.dtype:
        raise ValueError("Not supported dtype combination.")
    happened("launch")
    with np.errstate(all="ignore"):
        result = np.dot(a._a, b._a)
    if out is None:
        return wrap(result)
    out._a[...] = result
    return out


def empty(shape, dtype=float, order="C"):
    array = np.empty(shape, dtype, order)
    array.reshape(-1).view(np.uint8).fill(255)  # NaN if it is floating
    return wrap(array)


def zeros(shape, dtype=float, order="C"):
    happened("launch")
    return wrap(np.zeros(shape, dtype, order))


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return zeros(a.shape if shape is None else shape, dtype or a.dtype)


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    happened("launch")
    return wrap(np.full(a.shape if shape is None else shape, fill_value, dtype or a.dtype))


def arange(start, stop=None, step=1, dtype=None):
    happened("launch")
    return wrap(np.arange(start, stop, step, dtype) if stop is not None else np.arange(start))


def asarray(a, dtype=None, order=None):
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    happened("upload")
    return wrap(np.array(a, dtype, order="C"))


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    if len(tup) > 8:
        raise TypeError("more than eight small arrays make an upload")
    happened("launch", len(tup))
    return wrap(np.concatenate([inner(x) for x in tup], axis))


def broadcast_to(array, shape):
    return wrap(np.broadcast_to(inner(array), shape))


def pad(array, pad_width):
    happened("launch", 2)
    return wrap(np.pad(inner(array), pad_width))


def where(condition, x=None, y=None):
    if x is None or y is None or not isinstance(condition, ndarray):
        raise TypeError("expected a condition on the device and two values")
    happened("launch")
    return wrap(np.where(condition._a, inner(x), inner(y)))


def clip(a, a_min, a_max, out=None):
    happened("launch")
    result = np.clip(inner(a), a_min, a_max)
    if out is None:
        return wrap(result)
    out._a[...] = result
    return out


def copyto(dst, src, casting="same_kind", where=None):
    if where is None or not isinstance(where, ndarray) or not isinstance(src, ndarray):
        raise TypeError("not used by the package: model it first")
    happened("launch")
    np.copyto(dst._a, src._a, casting=casting, where=where._a)


def take_along_axis(a, indices, axis):
    happened("launch", 2)
    return wrap(np.take_along_axis(inner(a), inner(indices), axis))


# ---------------------------------------------------------------- cupy.cuda

_pinned = []  # addresses that were given out; some may be freed by now


def alloc_pinned_memory(size):
    memory = bytearray(max(size, 1))
    _pinned.append(np.frombuffer(memory, np.uint8).__array_interface__["data"][0])
    return memory


def is_pinned(array):
    base = array
    while isinstance(base, np.ndarray) and isinstance(base.base, np.ndarray):
        base = base.base
    return base.__array_interface__["data"][0] in _pinned


class Stream:
    """A queue of copies. They are made when an event recorded after them is waited for."""

    null = None

    def __init__(self, null=False, non_blocking=False):
        if not non_blocking and not null:
            raise ValueError("a stream that is not non_blocking waits for the one of all kernels")
        self.pending = []
        self.ptr = id(self)

    def __enter__(self):  # kernels are run at once, in whichever stream
        _streams.of_thread = [*_streams_of_thread(), self]
        return self

    def __exit__(self, *exception):
        _streams.of_thread.pop()

    def record(self):
        event = Event()
        event.record(self)
        return event

    def synchronize(self):
        happened("sync")
        while self.pending:
            self.pending.pop(0)()

    def wait_event(self, event):
        event.arrive()


class Event:
    """A mark in a stream. `done` is False the first `LATE` times."""

    LATE = 0

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.before, self.asked = [], 0

    def record(self, stream=None):
        stream = stream or current_stream()
        self.before, stream.pending = stream.pending, []
        self.asked = 0

    def arrive(self):
        while self.before:
            self.before.pop(0)()

    @property
    def done(self):
        if self.before and self.asked < Event.LATE:
            self.asked += 1
            return False
        self.arrive()
        return True

    def synchronize(self):
        happened("sync")
        self.arrive()


Stream.null = Stream(null=True)
_streams = threading.local()


def _streams_of_thread():
    return getattr(_streams, "of_thread", [Stream.null])


def current_stream():
    """Return the stream of the innermost `with stream:` of this thread."""
    return _streams_of_thread()[-1]


class Device:
    """The one device, as a context manager."""

    cublas_handle, compute_capability = 1, "90"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


class RawModule:
    """CUDA C++ compiled for the CPU: one thread after another; one in a block if they must wait.

    CuPy checks no argument's type. The stand-in compares them with the kernel's text.
    """

    def __init__(self, *, code, options=()):
        self.types = {
            name: [parameter.rpartition(" ")[0].strip() for parameter in parameters.split(",")]
            for name, parameters in re.findall(r"__global__\s+void\s+(\w+)\s*\(([^)]*)\)", code)
        }
        self.real = next(o.rpartition("=")[2] for o in options if o.startswith("-DREAL="))
        self.threads = 1 if "__syncthreads" in code else 7  # in a block
        self.library = host_library(code, tuple(o for o in options if o.startswith("-D")))

    def get_function(self, name):
        run = getattr(self.library, f"{name}_run")
        return lambda grid, block, arguments: self._launch(run, self.types[name], grid, arguments)

    def _launch(self, run, types_, grid, arguments):
        if len(arguments) != len(types_):
            raise TypeError(f"expected {len(types_)} arguments, got {len(arguments)}")
        happened("launch")
        held = []
        for kind, x in zip(types_, arguments, strict=True):
            if isinstance(x, np.ndarray):  # a struct, by value
                held.append((ctypes.c_char * x.nbytes).from_buffer_copy(x.tobytes()))
                continue
            dtype = DTYPES[kind.removeprefix("const ").rstrip("*").replace("REAL", self.real)]
            if "*" in kind:
                if x is None:
                    held.append(ctypes.c_void_p(0))
                    continue
                if x.dtype != dtype or not x.flags.c_contiguous:
                    raise TypeError(f"{kind} from {x.dtype}, contiguous: {x.flags.c_contiguous}")
                held.append(ctypes.c_void_p(x._a.ctypes.data))
            elif isinstance(x, dtype):
                held.append(np.ctypeslib.as_ctypes_type(dtype)(x.item()))
            else:
                raise TypeError(f"{kind} from {type(x)}")
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(x) for x in held))
        run(ctypes.c_uint(grid[0]), ctypes.c_uint(self.threads), pointers)


DTYPES = {
    "float": np.float32, "double": np.float64, "bool": np.bool_, "unsigned char": np.uint8,
    "int": np.int32, "long long": np.int64,
}  # fmt: skip


SHIM = r"""
#include <cmath>
#include <utility>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads()
using std::fabs;
using std::log;
using std::sqrt;
using std::tanh;
struct Three { unsigned x, y, z; };
static thread_local Three threadIdx, blockIdx, blockDim, gridDim;
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** p, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(p[I])...);
}
template <class... A>
void run(void (*kernel)(A...), unsigned grid, unsigned block, void** p) {
    gridDim = {grid, 1, 1}, blockDim = {block, 1, 1};
    for (unsigned g = 0; g < grid; g++)
        for (unsigned t = 0; t < block; t++) {
            blockIdx = {g, 0, 0}, threadIdx = {t, 0, 0};
            call(kernel, p, std::index_sequence_for<A...>{});
        }
}
"""


def compiler():
    """Return the path of this machine's C++ compiler, or None."""
    return shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


@functools.cache
def host_library(code, options, sanitize=()):
    """Compile kernels in CUDA C++ for the CPU: `NAME_run(grid, block, arguments)`."""
    if compiler() is None:
        pytest.skip("no C++ compiler here: kernels can't be run on the CPU")
    names = re.findall(r"__global__\s+void\s+(\w+)\s*\(", code)
    entries = (
        f'extern "C" void {name}_run(unsigned grid, unsigned block, void** p)'
        f" {{ run({name}, grid, block, p); }}\n"
        for name in names
    )
    source = SHIM + code + "\n" + "".join(entries)
    key = hashlib.sha256((source + " ".join(options)).encode()).hexdigest()[:16]
    folder = Path(tempfile.mkdtemp(prefix=f"kernels-{key}-"))
    try:
        (folder / "kernels.cpp").write_text(source)
        words = [compiler(), "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        words += ["-ffp-contract=off", *options, *sanitize, "kernels.cpp", "-o", "kernels.so"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(folder / "kernels.so"))
    finally:
        shutil.rmtree(folder)


# ---------------------------------------------------------------- the modules


def _modules():
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    ufuncs = {name: ufunc(getattr(np, name)) for name in UFUNCS}
    operators(ufuncs)
    ndarray.sum, ndarray.max, ndarray.mean = total, largest, average
    ndarray.__matmul__ = lambda a, b: matmul(a, b)
    functions = (
        matmul, dot, empty, zeros, zeros_like, full_like, arange, asarray, concatenate, where,
        broadcast_to, pad, clip, copyto, take_along_axis, ndarray, RawModule,
    )  # fmt: skip
    vars(cupy).update(ufuncs | {f.__name__: f for f in functions})
    vars(cupy).update(
        sum=total, abs=ufuncs["absolute"], finfo=np.finfo, cuda=cuda, __version__="14.2.0"
    )
    cuda.runtime = types.SimpleNamespace(
        is_hip=False,
        driverGetVersion=lambda: 13020,
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        deviceGetAttribute=lambda what, n: {16: 132}[what],  # multiprocessors
        getDeviceProperties=lambda n: {"name": b"A GPU", "totalGlobalMem": 8_000_000_000},
        memGetInfo=lambda: (8_000_000_000, 8_000_000_000),
    )
    cuda.cublas = types.SimpleNamespace(getVersion=lambda handle: 130100)
    cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (13, 0))
    cuda.Device, cuda.Stream, cuda.Event = Device, Stream, Event
    cuda.alloc_pinned_memory = alloc_pinned_memory
    cuda.get_current_stream = current_stream
    return cupy, cuda


cupy, cuda = _modules()


def forget_kernels():
    """Compile kernels again, after a change of the array library or of their text."""
    kernels.function.cache_clear()
    kernels._module.cache_clear()


def install(monkeypatch):
    """Let `import cupy` find a new stand-in, in its initial state."""
    global cupy, cuda
    cupy, cuda = _modules()
    forget_kernels()
    monkeypatch.setattr(products, "matmul", matmul_by_cublas)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)


def audit(real):
    """Return one line for each difference between the stand-in and the installed CuPy."""
    wrong = []
    for ours, theirs, where_ in (
        (vars(cupy), real, "cupy"),
        (vars(cuda), real.cuda, "cupy.cuda"),
        (vars(ndarray), real.ndarray, "ndarray"),
        (vars(Stream), real.cuda.Stream, "Stream"),
        (vars(Event), real.cuda.Event, "Event"),
    ):
        for name, item in ours.items():
            python = ("__module__", "__dict__", "__weakref__", "__doc__", "__init__")
            if name in (*python, "pending", "arrive", "LATE") or re.fullmatch("_[a-z].*", name):
                continue
            if name.startswith("__") and ours is not vars(ndarray):
                continue
            if isinstance(item, types.ModuleType | types.SimpleNamespace):
                continue  # used by diagnosis, which tests/test_doctor.py covers
            if not hasattr(theirs, name):
                wrong.append(f"{where_} has no {name}")
            elif isinstance(item, ufunc) and type(getattr(theirs, name)).__name__ != "ufunc":
                wrong.append(f"{where_}.{name} is no ufunc")
            elif isinstance(item, types.FunctionType) and not name.startswith("__"):
                wrong += _parameters_unknown(item, getattr(theirs, name), f"{where_}.{name}")
    return wrong


def _parameters_unknown(ours, theirs, name):
    try:
        known = inspect.signature(theirs).parameters
    except (ValueError, TypeError):  # compiled without a signature
        return []
    if any(p.kind is p.VAR_POSITIONAL or p.kind is p.VAR_KEYWORD for p in known.values()):
        return []
    extra = [p for p in inspect.signature(ours).parameters if p not in known]
    return [f"{name} has no parameter {', '.join(extra)}"] if extra else []
