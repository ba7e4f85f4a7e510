"""Convert PyTorch's weights (.pth) to safetensors, without PyTorch and without unpickling.

    python -m data_tools.convert_pth mobilenet_v2-b0353104.pth mobilenet_v2.safetensors

A .pth file is a pickle: a program for a small stack machine, which may call any function of
Python, so to load a stranger's file is to run a stranger's program. Here it is not loaded. The
library's disassembler (pickletools) lists its instructions, and `run` is a machine of our own that
knows the two dozen of them that a table of tensors needs, and no way to call anything. The numbers
lie beside the program as plain bytes ("storages"), of which every tensor is a view:

    zip archive (PyTorch 1.6 and later)   NAME/data.pkl is the program, NAME/data/KEY a storage
    legacy file (before)                  pickles one after the other: magic number, version,
                                          machine, the program, keys; then each key's storage

Memory is bounded by the size of the file: storages in an archive must be uncompressed, every view
must lie inside its storage, and all tensors together may have MOST times the bytes of the file.

Read next: minilstm/data/mobilenet.py, which takes these weights.
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
from minilstm.errors import DataError, named, one_line
from minilstm.files import write_file

from .options import new_file

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a legacy file
DTYPES = {
    f"{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4",
        "Short": "<i2", "Char": "<i1", "Byte": "<u1", "Bool": "?",
    }.items()
}  # fmt: skip
MOST = 4  # times the size of the file; above 1 because two names may share one storage
MAX_DIMENSIONS = 32  # NumPy's own limit is 64


@dataclass(frozen=True)
class Name:
    """A function or class that the program names; all that is done with it is to compare it."""

    module: str
    name: str


@dataclass(eq=False)
class Storage:
    """Numbers that tensors are views of. `values` stays None until their bytes are found."""

    dtype: np.dtype
    count: int
    values: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides are counted in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Refused(Exception):  # noqa: N818  (it names what happened)
    """What is wrong with the file, in words; `read_pth` makes a DataError of it."""


# ------------------------------------------------------------------------- the stack machine


def run(file: io.BytesIO, storage_of: Callable[[tuple], Storage] | None = None):
    """What the pickle at the file's position describes; the position is then behind it.

    Only None, booleans, numbers, text, lists, tuples, dictionaries, and, given `storage_of` (from
    a storage's persistent id), tensors. Raises Refused, and ValueError, IndexError, KeyError,
    TypeError or AttributeError for a program that makes no sense.
    """
    stack, marks, memo = [], [], {}

    def pop_to_mark():
        found = stack[(start := marks.pop()) :]
        del stack[start:]
        return found

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
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
                stack[-1][_text(key)] = value
            case "SETITEMS":
                items = pop_to_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    stack[-1][_text(key)] = value
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
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
    """What the three calls in a file of tensors return; no other is known."""
    match (name.module, name.name), arguments:
        case ("collections", "OrderedDict"), ():
            return {}
        case ("torch._utils", "_rebuild_parameter"), (Tensor() as data, *_):
            return data
        case (
            ("torch._utils", "_rebuild_tensor_v2"),
            (Storage() as storage, offset, tuple() as shape, tuple() as strides, *_),
        ):
            if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
                raise Refused("a tensor of sizes that are no numbers >= 0")  # a text times 10**10
            return Tensor(storage, offset, shape, strides)
    raise Refused(f"a call of {f'{name.module}.{name.name}':.60}")


def _text(key):
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
        """The storage of ("storage", type, key, device, count[, None])."""
        match persistent_id:
            case ("storage", Name("torch", kind), str(key), str(), int(count), *rest):
                if rest not in ([], [None]):
                    raise Refused("a storage inside another, as PyTorch 0.3 wrote")
                if kind not in DTYPES:
                    raise Refused(f"a tensor of torch.{kind:.60}, which NumPy has no type for")
                found = self.by_key.setdefault(key, Storage(DTYPES[kind], count))
                if (found.dtype, found.count) != (DTYPES[kind], count) or count < 0:
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
                raise Refused(f"a compressed {name:.60}")  # of any size, once unpacked
            return archive.read(entry)

        if folder + "byteorder" in entries and read("byteorder") != b"little":
            raise Refused("numbers with their bytes in the order of other machines")
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
        raise Refused("numbers with their bytes in the order of other machines")
    storages = Storages()
    table = run(file, storages)
    keys = run(file)
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


def _view(name, tensor):
    """The array of a tensor, which owns its memory. Refused if it reaches outside its storage."""
    if not isinstance(tensor, Tensor) or not isinstance(name, str):
        raise Refused(f"{name!r:.60}: a {type(tensor).__name__} where a tensor should be")
    values, shape, strides = tensor.storage.values, tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise Refused(f"{name:.60}: {len(strides)} strides for {len(shape)} dimensions")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(values):
        raise Refused(f"{name:.60}: a view of {last + 1} numbers of a storage of {len(values)}")
    in_bytes = [stride * values.itemsize for stride in strides]
    array = np.ndarray(shape, values.dtype, values[tensor.offset :], 0, in_bytes).copy()
    return array != 0 if tensor.storage.dtype == bool else array  # a byte of 2 is no boolean


# ------------------------------------------------------------------------- the command


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a .pth file by name, in its order. Raises DataError, in one line.

    A parameter is a tensor; what a layer counted (`num_batches_tracked`) is one, too.
    """
    try:
        raw = Path(path).read_bytes()
        table = _read_archive(raw) if raw[:4] == b"PK\3\4" else _read_legacy(raw)
        if not isinstance(table, dict) or not table:
            raise Refused("no table of tensors")
        total = sum(
            math.prod(tensor.shape) * tensor.storage.dtype.itemsize
            for tensor in table.values()
            if isinstance(tensor, Tensor)
        )
        if not total <= MOST * len(raw):
            raise Refused(f"tensors of {total:.3g} bytes in a file of {len(raw):.3g}")
        return {name: _view(name, tensor) for name, tensor in table.items()}
    except OSError as error:
        raise DataError(f"{path}: expected a .pth file, got {one_line(error)}") from error
    except Refused as error:
        reason = str(error)
    except Exception as error:  # a damaged file fails in many ways
        reason = f"a damaged one, {named(error)}"
    raise DataError(
        f"{path}: expected a .pth file with a table of tensors, got {reason}: download it again, "
        "or save the model's state_dict()"
    )


def convert(source: str | Path, out: str | Path) -> dict[str, np.ndarray]:
    """Write the tensors of a .pth file as safetensors, whole or not at all; returns them."""
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
    parser.add_argument("source", metavar="FILE.pth", help="weights as PyTorch saves them")
    parser.add_argument("out", metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    options = parser.parse_args(arguments)
    arrays = convert(options.source, new_file(options.out, ".safetensors", options.force))
    numbers = sum(array.size for array in arrays.values())
    print(f"{options.out}: {len(arrays)} tensors, {numbers:,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
