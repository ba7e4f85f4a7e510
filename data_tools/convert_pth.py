"""Convert PyTorch's weights (.pth) to safetensors, without PyTorch and without unpickling.

    python -m data_tools.convert_pth mobilenet_v2-b0353104.pth mobilenet_v2.safetensors

A .pth file is a pickle: a program for a small stack machine that may call any Python function. To
load a stranger's file is to run a stranger's program, so this module does not load it. The
disassembler in Python's library (pickletools) lists its instructions, and `run` interprets the
three dozen that a table of tensors needs. It can't call anything. The numbers lie beside the
program as plain bytes ("storages"). Every tensor is a view of one.

    zip archive (PyTorch 1.6 and later)   NAME/data.pkl is the program, NAME/data/KEY a storage
    legacy file (before)                  pickles one after the other: magic number, version,
                                          machine, the program, keys; then each key's storage

The file may be the table itself, or a training checkpoint such as {"state_dict": ..., "epoch": 3}.
bfloat16, which NumPy lacks, becomes float32 without loss.

Time and memory are bounded by the size of the file. Storages in an archive must be uncompressed.
Every number is at most MOST_BITS long before anything is computed with it. Every view must lie
inside its storage, and all tensors together may have at most MOST times the bytes of the file.

Read next: minilstm/data/mobilenet.py, which uses such weights.
"""

from __future__ import annotations

import argparse
import io
import math
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.errors import DataError, named, number_of, one_line
from minilstm.files import refuse_pipe, write_file

from .options import new_file

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a legacy file
DTYPES = {
    f"{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4",
        "Short": "<i2", "Char": "<i1", "Byte": "<u1", "Bool": "?", "BFloat16": "<u2",
    }.items()
}  # fmt: skip
MOST = 4  # times the size of the file; above 1 because two names may share one storage
MOST_BITS = 80  # of a whole number: MAGIC has 77, and numbers in tensors must be below 2**63
MAX_DIMENSIONS = 32  # NumPy's own limit is 64
TABLES = ("state_dict", "model_state_dict", "model")  # names of the table in a checkpoint, in order


@dataclass(frozen=True)
class Name:
    """A function or class that the program names. It is only compared, never called."""

    module: str
    name: str


@dataclass(eq=False)
class Storage:
    """The numbers that tensors are views of. `values` is None until their bytes are found."""

    kind: str  # a key of DTYPES
    count: int
    values: np.ndarray | None = field(default=None, repr=False)

    @property
    def dtype(self) -> np.dtype:
        """NumPy's type of the numbers in the file; bfloat16 as its 16 bits."""
        return DTYPES[self.kind]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage. Offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False  # it stands for minus the numbers in the storage


class Refused(Exception):  # noqa: N818  (it names what happened)
    """A reason to refuse the file, in words. `read_pth` makes a DataError of it."""


# ------------------------------------------------------------------------- the stack machine


def run(file: io.BytesIO, storage_of: Callable[[tuple], Storage] | None = None):
    """Interpret the pickle at the file's position, and return what it describes.

    The result holds only None, booleans, numbers, text, bytes, lists, tuples, dictionaries and
    names, and, given `storage_of` (from a storage's persistent id), storages and tensors.
    Afterwards the position is behind the pickle. Raises Refused, and ValueError, IndexError,
    KeyError, TypeError or AttributeError for a program that makes no sense.
    """
    stack, marks, memo = [], [], {}

    def pop_to_mark():
        found = stack[(start := marks.pop()) :]
        del stack[start:]
        return found

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                if argument.bit_length() > MOST_BITS:
                    raise Refused(f"a whole number of {argument.bit_length()} bits")
                stack.append(argument)
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = pop_to_mark()
                stack[-1].extend(values)
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                stack[-1][_key(key)] = value
            case "SETITEMS":
                items = pop_to_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    stack[-1][_key(key)] = value
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise Refused("a function whose name is no text")
                stack[-2:] = [Name(module, name)]
            case "BINPERSID":
                stack.append((storage_of or _no_storage)(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuilt(stack.pop(), arguments))
            case "BUILD":  # a state dict carries version numbers of its layers as an attribute
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise Refused("an object with attributes")
            case "STOP":
                return stack.pop()
            case other:
                raise Refused(f"the pickle instruction {other}")


def _rebuilt(name, arguments):
    """Return what the three known calls return. No other call is known."""
    match (name.module, name.name), arguments:
        case ("collections", "OrderedDict"), ():
            return {}
        case ("torch._utils", "_rebuild_parameter"), (Tensor() as data, *_):
            return data
        case (
            ("torch._utils", "_rebuild_tensor_v2"),
            (Storage() as storage, offset, tuple() as shape, tuple() as strides, _, _, *more),
        ):
            if len(shape) > MAX_DIMENSIONS or len(strides) > MAX_DIMENSIONS:
                raise Refused(f"a tensor of {len(shape)} dimensions, {len(strides)} strides")
            if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
                raise Refused("a tensor whose sizes are no whole numbers from 0 to 2**63")
            return Tensor(storage, offset, shape, strides, _negative(more))
    raise Refused(f"a call of {f'{name.module}.{name.name}':.60}")


def _negative(more):
    """Read the last argument of a tensor, {"neg": True} or {"conj": True}: bits of the view."""
    match more:
        case [] | [None]:
            return False
        case [dict() as bits] if set(bits) <= {"conj", "neg"}:
            if bits.get("conj"):
                raise Refused("a conjugate view of complex numbers")
            return bool(bits.get("neg"))
    raise Refused("a tensor with unknown arguments")


def _key(key):
    if not isinstance(key, str | int):
        raise Refused(f"a table with a key of type {type(key).__name__}")
    return key


def _no_storage(_):
    raise Refused("a storage where none can be")


# ------------------------------------------------------------------------- the two formats


class Storages:
    """The storages that a program has named, by their keys."""

    def __init__(self):
        self.by_key = {}

    def __call__(self, persistent_id: tuple) -> Storage:
        """Return the storage of ("storage", type, key, device, count[, None]). Raises Refused."""
        match persistent_id:
            case ("storage", Name("torch", kind), str(key), str(), int(count), *rest):
                if rest not in ([], [None]):
                    raise Refused("a storage inside another, as PyTorch 0.3 wrote")
                if kind not in DTYPES:
                    raise Refused(f"a tensor of torch.{kind:.60}, which NumPy has no type for")
                found = self.by_key.setdefault(key, Storage(kind, count))
                if (found.kind, found.count) != (kind, count) or count < 0:
                    raise Refused(f"storage {key:.60} in two sizes")
                return found
        raise Refused("something that is no storage in a storage's place")


def _read_archive(raw):
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        programs = [name for name in entries if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise Refused(f"an archive with {len(programs)} programs data.pkl")
        folder = programs[0].removesuffix("data.pkl")

        def read(name):
            entry = entries[folder + name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(raw):
                raise Refused(f"a compressed {name:.60}")  # it could unpack to any size
            return archive.read(entry)

        if folder + "byteorder" in entries and read("byteorder") != b"little":
            raise Refused("numbers in the byte order of other machines")
        storages = Storages()
        table = run(io.BytesIO(read("data.pkl")), storages)
        total = 0
        for key, storage in storages.by_key.items():
            total += storage.count * storage.dtype.itemsize
            if total > len(raw):  # entries of an archive may overlap
                raise Refused("storages larger than the file")
            storage.values = _numbers(storage, read(f"data/{key}"))
    return table


def _read_legacy(raw):
    file = io.BytesIO(raw)
    if run(file) != MAGIC or run(file) != VERSION:
        raise Refused("neither an archive nor PyTorch's magic number")
    if run(file).get("little_endian") is not True:
        raise Refused("numbers in the byte order of other machines")
    storages = Storages()
    table = run(file, storages)
    keys = run(file)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise Refused("keys of storages that are no text")
    if sorted(keys) != sorted(storages.by_key):
        raise Refused("other storages than its tensors name")
    for key in keys:
        storage = storages.by_key[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise Refused(f"storage {key:.60} in two sizes")
        storage.values = _numbers(storage, file.read(count * storage.dtype.itemsize))
    return table


def _numbers(storage, raw):
    expected = storage.count * storage.dtype.itemsize
    if len(raw) != expected:
        raise Refused(f"{len(raw)} bytes of a storage of {expected}")
    return np.frombuffer(raw, np.uint8 if storage.dtype == bool else storage.dtype)


def _table(tree):
    """Find the table of tensors: the whole tree, or one of its entries."""
    if not isinstance(tree, dict) or not tree:
        raise Refused("no table of tensors")
    if any(isinstance(value, Tensor) for value in tree.values()):
        return tree
    inner = {
        key: value
        for key, value in tree.items()
        if isinstance(value, dict) and any(isinstance(tensor, Tensor) for tensor in value.values())
    }
    wanted = [key for key in TABLES if key in inner] or list(inner)
    if not wanted:
        raise Refused("no table of tensors")
    if wanted[0] not in TABLES and len(wanted) > 1:
        names = ", ".join(f"{key!r:.20}" for key in wanted[:5])
        raise Refused(f"{len(wanted)} tables of tensors, {names}")
    if len(inner) > 1:
        names = ", ".join(f"{key!r:.20}" for key in [key for key in inner if key != wanted[0]][:5])
        print(f"using the table {wanted[0]!r}; the file also has {names}", file=sys.stderr)
    return inner[wanted[0]]


def _view(name, tensor):
    """Copy a tensor into an array. Refused if the tensor reaches outside its storage."""
    if not isinstance(name, str):
        raise Refused(f"a tensor named {name!r:.30}, a number where a text should be")
    if not isinstance(tensor, Tensor):
        raise Refused(f"{name!r:.60}: a {type(tensor).__name__} where a tensor should be")
    values, shape, strides = tensor.storage.values, tensor.shape, tensor.strides
    if len(shape) != len(strides):
        raise Refused(f"{name:.60}: {len(strides)} strides for {len(shape)} dimensions")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(values):
        raise Refused(f"{name:.60}: a view of {last + 1} numbers of a storage of {len(values)}")
    in_bytes = [stride * values.itemsize for stride in strides]
    array = np.ndarray(shape, values.dtype, values[tensor.offset :], 0, in_bytes).copy()
    if tensor.storage.kind == "BFloat16Storage":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if tensor.storage.dtype == bool:
        array = array != 0  # a byte of 2 is no boolean
    return -array if tensor.negative else array


# ------------------------------------------------------------------------- the command


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """Read all tensors of a .pth file, by name, in its order. Raises DataError, in one line.

    Parameters are among them, and counters such as BatchNorm's `num_batches_tracked`.
    """
    refuse_pipe(path)
    try:
        raw = Path(path).read_bytes()
        table = _table(_read_archive(raw) if raw[:4] == b"PK\3\4" else _read_legacy(raw))
        total = sum(
            math.prod(tensor.shape) * tensor.storage.dtype.itemsize
            for tensor in table.values()
            if isinstance(tensor, Tensor)
        )
        if not total <= MOST * len(raw):
            raise Refused(f"tensors of {total:.3g} bytes in a file of {len(raw):.3g}")
        return {name: _view(name, tensor) for name, tensor in table.items()}
    except OSError as error:
        raise DataError(
            f"{path}: expected a .pth file, got {one_line(error)}: check the path"
        ) from error
    except Refused as error:
        reason = str(error)
    except Exception as error:  # a damaged file fails in many ways
        reason = f"a damaged one, {named(error)}"
    raise DataError(
        f"{path}: expected a .pth file with a table of tensors, got {reason}: download it again, "
        "or save the model's state_dict()"
    )


def convert(source: str | Path, out: str | Path) -> dict[str, np.ndarray]:
    """Write the tensors of a .pth file as safetensors, whole or not at all. Returns them by name.

    Raises DataError for the source, RunError if `out` can't be written.
    """
    from safetensors.numpy import save

    arrays = read_pth(source)
    write_file(out, save(arrays))
    return arrays


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.convert_pth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FILE.pth", help="weights that PyTorch saved")
    parser.add_argument("out", metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    options = parser.parse_args(arguments)
    arrays = convert(options.source, new_file(options.out, ".safetensors", options.force))
    numbers = sum(array.size for array in arrays.values())
    print(f"{options.out}: {number_of(len(arrays), 'tensor')}, {number_of(numbers, 'number', ',')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
