"""Hostile files for every reader: each must end in a valid result or in minilstm's own error.

    python tests/harness/fuzz.py --inputs 10000    try every reader on 10,000 inputs
    python tests/harness/fuzz.py --readers idx --seed 0 --first 123 --inputs 1    input 123 again

A reader is given small valid files that were damaged: bits flipped, bytes put in, cut out,
repeated and mixed with another valid file, lengths replaced by hostile ones, words of a text or
header swapped. What a length or a checksum protects is also damaged from inside, so that the
damage gets past the protection. Input n of a reader is a function of (reader, seed, n) alone.

A failure is: an exception that isn't MinilstmError, a warning, a crash, more than SECONDS, more
than MEMORY above the start, anything written, started, fetched or unpickled, and a result that
breaks what the reader promises. Each reader runs in a process of its own, so that the next input
is tried even after a crash. The exit status is 1 if anything failed; the inputs that did are kept.

A new reader is one more line in READERS. tests/test_fuzz.py tries some hundred inputs of each.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import safetensors.numpy

import minilstm
from minilstm import config, data, evaluate
from minilstm.backend import use_backend
from minilstm.command import run_command
from minilstm.errors import ConfigError, MinilstmError
from minilstm.runs import build, checkpoint, run_folder, torch_names
from minilstm.training.distributed import ALONE
from minilstm.training.progress import Interval, Progress

SECONDS = 10  # an input that takes longer hangs; real time, on a machine that may be busy
MEMORY = 1 << 30  # bytes above the start
LARGEST = 1 << 20  # bytes of an input: "small files"

Tree = dict[str, bytes]  # an input: the content of one or several files, by path


@dataclass(frozen=True)
class Reader:
    """Valid files, and a function that reads them in the current folder and checks what it got."""

    make: Callable[[], list[Tree]]
    read: Callable[[], None]

    @functools.cached_property
    def valid(self) -> list[Tree]:
        """The files that inputs are made from."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            return self.make()


# ---------------------------------------------------------------- the readers


def saved(save: Callable, *arguments, **keywords) -> bytes:
    """The bytes that `save(path, ...)` writes."""
    save(Path("saved.npy"), *arguments, **keywords)  # np.save would add the suffix to another name
    return Path("saved.npy").read_bytes()


def make_idx():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in ((7,), (3, 4, 5), (40, 2, 1))]
    files = [
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        for array in arrays
    ]
    files += [gzip.compress(raw, mtime=0) for raw in files]
    return [{"idx": raw} for raw in files]


def read_idx():
    array = data.read_idx("idx")
    assert array.dtype == np.uint8 and array.ndim in (1, 3) and array.size > 0
    raw = Path("idx").read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    assert raw[4 + 4 * array.ndim :] == array.tobytes(), "other values than those in the file"


def make_bundled():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, N in (("train", 3), ("test", 2)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (N, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, N, np.uint8)
    with mock.patch("time.localtime", lambda *_: time.gmtime(10**9)):  # the same bytes every day
        np.savez_compressed("digits.npz", **arrays)
        np.savez("stored.npz", **arrays)
    return [{"digits.npz": Path(name).read_bytes()} for name in ("digits.npz", "stored.npz")]


def read_bundled():
    for split in ("train", "test"):
        images, labels = data.digits.read_bundled(Path("digits.npz"), split)
        assert images.dtype == labels.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28) and labels.ndim == 1


def make_npy():
    rng = np.random.default_rng(0)
    shapes = (20, 12, 2, 3), (11, 20, 3, 2), (20, 10, 1, 1), (5, 20, 4), (20, 20, 2, 2)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    arrays += [np.asfortranarray(arrays[0]), arrays[0].astype("<f4"), arrays[0].astype(">u2")]
    files = [saved(np.save, array) for array in arrays]

    def as_version(path, major):
        with path.open("wb") as file:
            np.lib.format.write_array(file, arrays[0], (major, 0))

    files += [saved(as_version, major) for major in (2, 3)]
    files += [saved(np.save, arrays[0][:, :0])]
    files += [saved(np.save, np.array([{}, []], object), allow_pickle=True)]
    return [{"my.npy": raw} for raw in files]


def read_npy():
    raw = Path("my.npy").read_bytes()
    with contextlib.suppress(MinilstmError):  # it may still be readable with a given axis
        frames = data.read_sequences("my.npy")
        assert 20 in frames.shape[:2]
    first = data.read_sequences("my.npy", time_axis=0)
    assert first.dtype == np.uint8 and first.ndim == 4
    assert 0 < first.nbytes == len(raw) - npy_header(raw).stop, "not all of the file"
    source = data.SequenceFile("my.npy", num_frames=2, split="train", time_axis=1)
    batch = source.batch(0, 3)
    assert batch.shape == (2, 3, *source.frame_shape) and batch.dtype == np.uint8
    vectors = data.as_vectors(batch)
    assert vectors.min() >= 0 and vectors.max() <= 1
    expected = np.moveaxis(first, 0, 1)[:2]
    assert np.array_equal(source.all(), expected)


def make_patches():
    array = np.random.default_rng(0).integers(0, 256, (12, 5, 2, 4, 3), np.uint8)
    arrays = array, np.moveaxis(array, 4, 2), array[..., :1], array[..., 0], array[:, :0]
    return [{"my.npy": saved(np.save, one)} for one in arrays]


def make_zipped_patches():
    array = np.random.default_rng(0).integers(0, 256, (12, 5, 2, 4, 3), np.uint8)
    named = {"patches": array, "source": np.array(["a.avi"] * 12)}
    with mock.patch("time.localtime", lambda *_: time.gmtime(10**9)):  # the same bytes every day
        np.savez("named.npz", **named)
        np.savez_compressed("small.npz", patches=array[..., 0])
        np.savez("only.npz", any=np.moveaxis(array, 4, 2))
    return [{"my.npz": Path(f"{name}.npz").read_bytes()} for name in ("named", "small", "only")]


def read_patches():
    (path,) = Path().glob("my.np?")
    patches = data.read_patches(path)
    assert patches.dtype == np.uint8 and patches.size > 0
    assert patches.ndim == 4 or (patches.ndim == 5 and patches.shape[4] == 3)
    source = data.Patches(path, num_frames=2, split="train")
    vectors = data.as_vectors(source.batch(0, 3), source.scale)
    assert vectors.dtype == np.float32 and np.isfinite(vectors).all()


def small_config(**sections) -> config.Config:
    """A configuration of a tiny model, on the frames in the file beside the run folder."""
    tiny = {
        "data": {"source": "frames.npy", "past": 3, "future": 2},
        "model": {"hidden": 4},
        "run": {"batch_size": 4, "steps": 2},
    }
    return config.load(
        [], None, {k: tiny.get(k, {}) | sections.get(k, {}) for k in config.SECTIONS}
    )


def make_config():
    trees = [config.Config(), *(config.load([name]) for name in config.preset_names())]
    files = [tree.to_toml().encode() for tree in (*trees, small_config())]
    files += [path.read_bytes() for path in sorted(config.PRESETS.glob("*.toml"))]
    return [{"my.toml": raw} for raw in files]


def read_config():
    found = config.from_toml(Path("my.toml"))
    assert config.from_toml(found.to_toml()) == found
    assert config.load(["paper"], "my.toml", {}).run == config.load(["paper"], "my.toml").run


def make_log():
    rows = [
        {"step": 10, "learning_rate": 0.001, "seconds": 1.52, "future": 210.25, "gradient_norm": 1},
        {"step": 10, "validation future": 212.125, "validation reconstruction": 180.5},
        {"step": 20, "learning_rate": 9e-4, "seconds": 3.01, "future": 199.0, "gradient_norm": 0.5},
    ]
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return [{"metrics.jsonl": raw} for raw in (whole, whole[:-20], whole[: whole.index(b"\n") + 1])]


def read_log():
    for row in run_folder.read_log("metrics.jsonl"):
        assert type(row["step"]) is int and 0 <= row["step"] < 2**63
        assert all(np.isfinite(float(value)) for value in row.values())


def small_runs() -> list[Tree]:
    """Run folders of three models, and the frames that they are evaluated on."""
    frames = np.random.default_rng(0).integers(0, 256, (20, 12, 4, 2), np.uint8)
    frames = saved(np.save, frames)
    settings = [
        small_config(),
        small_config(model={"kind": "predictor", "cell": "elman", "layers": 2}),
        small_config(
            model={"kind": "autoencoder", "conditional": "reconstruction"},
            run={"precision": "float64"},
        ),
    ]
    trees = []
    for one in settings:
        with use_backend("numpy", one.run.precision):
            model = build.build_model(one, D=8)
            optimizer = build.build_optimizer(model, one)
            about = {"step": 2, "D": 8, "config": one.to_toml(), "environment": {"machine": "a"}}
            about |= {"seconds": 1.5, "best": 200.5, "usual": None, "unusable": 0}
            about |= {"interval": {"steps": 1, "sums": {"future": 210.5}, "skipped": 0}}
            arrays = saved(checkpoint.save, model, optimizer, about)
        trees.append(
            {
                "run/config.toml": one.to_toml().encode(),
                "run/checkpoint.safetensors": arrays,
                "run/metrics.jsonl": make_log()[0]["metrics.jsonl"],
                "frames.npy": frames,
            }
        )
    return trees


def make_checkpoint():
    files = [tree["run/checkpoint.safetensors"] for tree in small_runs()]
    small = {name: np.ones((2, 3), name) for name in ("float16", "uint8", "int64", "complex64")}
    files.append(safetensors.numpy.save(small, {"minilstm": "{}"}))
    return [{"my.safetensors": raw} for raw in files]


def read_checkpoint():
    arrays, about = checkpoint.read(Path("my.safetensors"))
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) < Path("my.safetensors").stat().st_size
    assert isinstance(about, dict)


def make_interop():
    arrays = torch_names.to_torch(build.build_model(small_config(), D=8), keep_peepholes=True)
    return [{"my.safetensors": saved(checkpoint.write, arrays, {})}]


def read_interop():
    model = build.build_model(small_config(), D=8)
    torch_names.from_torch(model, torch_names.read_arrays("my.safetensors"))
    assert np.isfinite(model.flat().value).all()


def read_run():
    model = minilstm.load("run")
    found = build.read_config("run")
    assert len(model.encoder.layers) == found.model.layers
    for name, param in model.params().items():
        assert np.isfinite(param.value).all(), f"{name} is not finite"


def read_resumed():
    """Read a run folder as `train --resume` does before its first step."""
    one = small_config()
    model = build.build_model(one, D=8)
    run = SimpleNamespace(folder=run_folder.RunFolder("run"), config=one, model=model)
    run.ranks, run.step, run.seconds, run.interval, run.data = ALONE, 0, 0.0, Interval(), {}
    run.notes, run.forced, run.best = [], [], 0.0
    run.optimizer = build.build_optimizer(model, one)
    Progress.restore(run, force=True)
    assert np.isfinite(model.flat().value).all()
    assert type(run.step) is int and type(run.optimizer.steps) is int
    assert all(np.isfinite(x) for x in (run.seconds, *run.interval.means().values()))


def read_evaluate():
    refuse_much_work()
    out, err = io.StringIO(), io.StringIO()
    words = ["run", "--sequences", "3", "--json"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(lambda: evaluate.main(words))
    out, err = out.getvalue(), err.getvalue()
    if status == 2:
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (out, err)
        raise MinilstmError(err.removeprefix("error: "))
    assert status == 0 and err == "", (status, err)
    json.loads(out, parse_constant=not_json)


def not_json(word):
    """NaN and Infinity, which Python's reader takes."""
    raise AssertionError(f"expected finite results, got {word}")


def refuse_much_work():
    """Raise ConfigError where the configuration honestly asks for work: that is no damage."""
    asked = build.read_config("run").data
    pixels = 1 if asked.source.endswith(".npy") else asked.frame_size**2
    if (asked.past + asked.future) * pixels > 20_000:
        raise ConfigError("expected little work, got much: fuzzing has no time for it")


READERS = {
    "idx": Reader(make_idx, read_idx),
    "bundled": Reader(make_bundled, read_bundled),
    "npy": Reader(make_npy, read_npy),
    "patches": Reader(make_patches, read_patches),
    "patches-npz": Reader(make_zipped_patches, read_patches),
    "config": Reader(make_config, read_config),
    "log": Reader(make_log, read_log),
    "checkpoint": Reader(make_checkpoint, read_checkpoint),
    "interop": Reader(make_interop, read_interop),
    "run": Reader(small_runs, read_run),
    "resumed": Reader(small_runs, read_resumed),
    "evaluate": Reader(small_runs, read_evaluate),
}


# ---------------------------------------------------------------- the damage

NUMBERS = sorted({0, 1, 2, 20} | {2**k + d for k in (7, 8, 15, 16, 31, 32, 63) for d in (-1, 0)})
WORDS = (
    *(b"-1 -9223372036854775809 18446744073709551616 1e999 -1e308 1e308 1e39 1e-400 0.5 nan inf "
      b"NaN -Infinity true false null None True () [] {} (,) '' \"\" ''' \"\"\" # = : , . [[ ]] "
      b"\\ \\u0000 \\ud800 \xff \0 \r \x1b[2J 1979-05-27 99999-99-99T99:99:99Z ../../up /dev/zero "
      b"moving-mnist patches predictor autoencoder composite float64 cupy O |O u1 >u1 |V0 <f8 <c16 "
      b"m8[s] F16 BF16 F64 I64 U8 BOOL F8_E4M3 C64 minilstm __metadata__ data_offsets").split(),
    *(str(number).encode() for number in NUMBERS),
    b"\n", b" ", b"7" * 5000, b"0x" + b"f" * 5000, b"a" * 300, b"\xc3\xa9" * 3000,
    b"[" * 3000, b"{\"a\":" * 3000, b"(" * 300, b"-" * 3000, b"a." * 2000 + b"a = 1\n",
    b"past." + b"a." * 2000 + b"a = 1\n", b"1" + b"_0" * 3000,
)  # fmt: skip


def flip(rng, raw, other):
    """One to eight bits, anywhere."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(raw))
        raw[place] ^= 1 << rng.randrange(8)


def put_in(rng, raw, other):
    place = rng.randrange(len(raw) + 1)
    raw[place:place] = rng.randbytes(rng.choice((1, 1, 2, 4, 8, 100)))


def cut_out(rng, raw, other):
    place = rng.randrange(len(raw))
    del raw[place : place + rng.choice((1, 1, 2, 4, 8, 100))]


def truncate(rng, raw, other):
    del raw[rng.randrange(len(raw)) :]


def splice(rng, raw, other):
    """The rest of another valid file, or a piece of it."""
    place, start = rng.randrange(len(raw) + 1), rng.randrange(len(other) + 1)
    if rng.random() < 0.5:
        place = start = min(place, start)
    length = rng.choice((8, 64, len(other)))
    raw[place : place + length] = other[start : start + length]


def number(rng, raw, other):
    """An integer of 1 to 8 bytes, of either byte order, anywhere or where lengths tend to be."""
    size = rng.choice((1, 2, 4, 8))
    last = len(raw) if rng.random() < 0.5 else 32
    place = rng.randrange(max(1, min(last, len(raw)) - size + 1))
    value = rng.choice((*NUMBERS, len(raw), len(raw) - place, rng.randrange(2 * len(raw))))
    value = (value + rng.choice((0, 0, -1, 1, -8, 8))) % (1 << 8 * size)
    raw[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def repeat(rng, raw, other):
    start = rng.randrange(len(raw))
    block = raw[start : start + rng.choice((1, 4, 16, 256))]
    raw[start:start] = block * rng.choice((1, 2, 10, 1000))


def fill(rng, raw, other):
    """Many equal bytes: zeros, NaN, the largest number."""
    start, length = rng.randrange(len(raw)), rng.choice((4, 8, 64, len(raw)))
    pattern = rng.choice((b"\0", b"\xff", b"\xff\xff\x7f\x7f", b"\0\0\xc0\x7f", b"\1\0\0\0"))
    raw[start : start + length] = (pattern * length)[: len(raw[start : start + length])]


def words(rng, raw, other):
    """Words of a text: swapped, cut out, doubled, or replaced by hostile ones."""
    found = _words(raw)
    visible = [k for k, word in enumerate(found) if not word.isspace()] or [0]
    for _ in range(rng.choice((1, 1, 2, 5))):
        one, two = rng.choice(visible), rng.choice(visible)
        match rng.randrange(6):
            case 0:
                found[one], found[two] = found[two], found[one]
            case 1:
                found[one] = b""
            case 2:
                found[one] = found[two]
            case 3:
                found[one] += rng.choice(WORDS)
            case 4:
                found[one] = rng.choice(_words(other) or [b""])
            case 5:
                found[one] = rng.choice(WORDS)
    raw[:] = b"".join(found)


def value(rng, raw, other):
    """Replace the value behind one `=` or `:` by a hostile word or by another such value."""
    values = list(re.finditer(rb"(?<=[=:]) *(\[.*?\]|[^\s,}]+)", raw))
    if values:
        one, two = rng.choice(values), rng.choice(values)
        raw[one.start(1) : one.end(1)] = rng.choice((two[1], *(rng.choice(WORDS) for _ in "123")))


def integer(rng, raw, other):
    """A whole number of a text, replaced by another: sizes, shapes, offsets."""
    found = list(re.finditer(rb"\d+", raw))
    if found:
        one = rng.choice(found)
        near = int(one[0][:18]) + rng.choice((-1, 1))
        new = rng.choice((near, -near, rng.choice(NUMBERS), 10 ** rng.randrange(2, 20)))
        raw[one.start() : one.end()] = str(new).encode()


def lines(rng, raw, other):
    found, more = raw.splitlines(keepends=True), bytes(other).splitlines(keepends=True)
    one, two = rng.randrange(len(found)), rng.randrange(len(found))
    match rng.randrange(4):
        case 0:
            found[one], found[two] = found[two], found[one]
        case 1:
            del found[one]
        case 2:
            found.insert(one, rng.choice(more or [b"\n"]))
        case 3:
            found.insert(one, rng.choice(WORDS))
    raw[:] = b"".join(found)


def _words(raw):
    return re.findall(rb"[A-Za-z_]\w*|[-+]?\d[\w.+-]*|\s+|.", bytes(raw), re.DOTALL)


BYTES = (flip, put_in, cut_out, truncate, splice, number, number, repeat, fill)
TEXT = (
    words,
    words,
    value,
    value,
    integer,
    integer,
    lines,
    flip,
    put_in,
    cut_out,
    truncate,
    splice,
    repeat,
)


def inside(name: str, raw: bytes) -> tuple[bytes, Callable[[bytes], bytes]] | None:
    """Return bytes that a length or checksum protects, and a function that protects new ones."""
    if raw[:2] == b"\x1f\x8b":
        return gzip.decompress(raw), lambda new: gzip.compress(new, 1, mtime=0)
    if name.endswith(".safetensors"):
        end = 8 + int.from_bytes(raw[:8], "little")
        return raw[8:end], lambda new: len(new).to_bytes(8, "little") + new + raw[end:]
    if raw[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        first = next(iter(members))

        def zip_anew(new):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in (members | {first: new}).items():
                    archive.writestr(zipfile.ZipInfo(name), content)
            return file.getvalue()

        return members[first], zip_anew
    if raw[:6] == b"\x93NUMPY":
        header = npy_header(raw)
        size = header.start - 8

        def protect(new):
            length = min(len(new), 256**size - 1).to_bytes(size, "little")
            return raw[:8] + length + new + raw[header.stop :]

        return raw[header], protect
    return None


def npy_header(raw: bytes) -> slice:
    """Return the slice of an .npy file that is the text of its header."""
    start = 10 if raw[6] == 1 else 12  # a length of 2 bytes in version 1, of 4 in 2 and 3
    return slice(start, start + int.from_bytes(raw[8:start], "little"))


def damaged(reader: Reader, name: str, seed: int, n: int) -> Tree:
    """Input n of a reader: one or two files of one of its valid trees, damaged."""
    rng = random.Random(f"{name} {seed} {n}")
    tree, other = dict(rng.choice(reader.valid)), rng.choice(reader.valid)
    for path in rng.sample(sorted(tree), min(len(tree), rng.choice((1, 1, 1, 2)))):
        tree[path] = damage(rng, path, tree[path], other[path])
    return tree


def damage(rng: random.Random, name: str, raw: bytes, other: bytes) -> bytes:
    """`raw` after one or several kinds of damage; `other` is a valid file of the same kind."""
    protect, text = bytes, Path(name).suffix in (".toml", ".jsonl")
    parts, others = inside(name, raw), inside(name, other)
    if parts and rng.random() < 0.5:
        text = raw[:2] not in (b"\x1f\x8b", b"PK")  # headers are text
        raw, protect = parts
        other = others[0] if others else other
    new = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if new:
            rng.choice(TEXT if text else BYTES)(rng, new, other)
            del new[LARGEST:]
    return protect(bytes(new))


# ---------------------------------------------------------------- one input


class Forbidden(BaseException):
    """An act that no reader may do. It is not an Exception, so that no reader can swallow it."""


class Hang(BaseException):
    """An input that takes too long."""


FORBIDDEN = (
    "os.chmod os.chown os.exec os.fork os.link os.mkdir os.posix_spawn os.remove os.rename "
    "os.rmdir os.symlink os.system os.truncate pickle.find_class shutil socket subprocess.Popen"
).split()
_watching = False


def _audit(event, arguments):
    if not _watching:
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    forbidden = event in FORBIDDEN or event.split(".")[0] in FORBIDDEN
    if forbidden or (event == "open" and isinstance(arguments[2], int) and arguments[2] & writes):
        raise Forbidden(f"{event} {arguments}")


def _on_alarm(*_):
    raise Hang(f"more than {SECONDS} seconds")


@contextlib.contextmanager
def watched():
    """Stop the code inside after SECONDS, on a warning, and before it does harm.

    Python reports every file opened for writing, process, connection and unpickled class as an
    "audit event". A hook can't be removed, so there is one, and a switch.
    """
    global _watching
    if not hasattr(watched, "hooked"):
        sys.addaudithook(_audit)
        watched.hooked = True
    before, late = signal.signal(signal.SIGALRM, _on_alarm), []
    hook, sys.unraisablehook = sys.unraisablehook, late.append  # such as a file left open
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _watching = True
            yield
        assert not late, f"left behind: {late[0].exc_value!r}"
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook, sys.dont_write_bytecode = hook, bytecode


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attempt(reader: Reader, tree: Tree) -> tuple[str, str]:
    """Read the files of `tree` in the current folder, which must be empty, and is again.

    Returns ("valid", ""), ("refused", message) or ("failed", what happened).
    """
    for path, raw in tree.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(raw)
    before = peak()
    try:
        with watched():
            reader.read()
        found = "valid", ""
    except MinilstmError as error:
        found = "refused", str(error)
        if "expected" not in str(error):
            found = "failed", f"expected an error that says what was expected, got: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        found = "failed", "".join(traceback.format_exception(error, limit=-6))
    if peak() > before + MEMORY:
        found = "failed", f"{(peak() - before) >> 20} MB of memory\n{found}"
    after = {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    if after != tree:
        changed = sorted(path for path in after | tree if after.get(path) != tree.get(path))
        found = "failed", f"files were written: {changed}\n{found}"
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def again(name: str, seed: int, n: int) -> str:
    """The command that tries one input again."""
    return f"python tests/harness/fuzz.py --readers {name} --seed {seed} --first {n} --inputs 1"


# ---------------------------------------------------------------- the command


def _child(connection, now, name, seed, numbers):
    """Try inputs in this process; send each failure, then what became of all."""
    reader, counts = READERS[name], Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for tree in reader.valid:
            found = attempt(reader, tree)
            assert found[0] != "failed", found
        # far above MEMORY, which is measured: it only keeps the machine alive
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY, resource.RLIM_INFINITY))
        for n in numbers:
            now.value = n
            kind, message = attempt(reader, damaged(reader, name, seed, n))
            counts[kind] += 1
            if kind == "failed":
                connection.send((n, message))
    connection.send(counts)


def fuzz(name: str, seed: int, numbers: range, bar) -> tuple[Counter, list[tuple[int, str]]]:
    """Try inputs of one reader in processes of their own: how they ended, and the failures."""
    context = multiprocessing.get_context("spawn")
    counts, failures = Counter(), []
    while numbers:
        now, (ours, theirs) = context.Value("q", -1), context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, now, name, seed, numbers))
        process.start()
        theirs.close()
        last, since, message = -1, time.monotonic(), None
        while not isinstance(message, Counter):
            if now.value != last:
                bar.update(max(0, now.value - max(last, numbers[0])))
                last, since = now.value, time.monotonic()
            if last >= 0 and time.monotonic() > since + 3 * SECONDS:  # hangs inside C
                process.kill()
            try:
                message = ours.recv() if ours.poll(0.1) else None
            except EOFError:
                break
            if isinstance(message, tuple):
                failures.append(message)
        process.join()
        if isinstance(message, Counter):
            counts += message
            break
        if last < 0:
            raise SystemExit(f"{name}: the reader fails on a valid file")
        counts["failed"] += 1  # those of the dead process that went well are not known any more
        failures.append((last, f"the process ended with status {process.exitcode}"))
        numbers = range(last + 1, numbers.stop)
    return counts, failures


def main() -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--keep", type=Path, help="folder for what fails (default: a new one)")
    options = parser.parse_args()
    numbers, failed = range(options.first, options.first + options.inputs), 0
    for name in options.readers:
        started = time.monotonic()
        with tqdm(total=len(numbers), desc=name, unit="input", leave=False) as bar:
            counts, failures = fuzz(name, options.seed, numbers, bar)
        seconds = time.monotonic() - started
        ended = ", ".join(f"{counts[kind]} {kind}" for kind in ("valid", "refused", "failed"))
        print(f"{name:<12} {len(numbers)} inputs: {ended}; {seconds:.0f} s", flush=True)
        for n, message in failures[:20]:
            options.keep = options.keep or Path(tempfile.mkdtemp(prefix="minilstm-fuzz-"))
            for path, raw in damaged(READERS[name], name, options.seed, n).items():
                kept = options.keep / f"{name}-{options.seed}-{n}" / path
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(raw)
            print(f"\n{message.rstrip()}\n  kept in {kept.parent}; again: ", end="")
            print(again(name, options.seed, n), flush=True)
        failed += len(failures)
    print(f"{failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
