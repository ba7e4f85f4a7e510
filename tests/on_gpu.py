"""The whole check on one GPU, within four minutes and without a network.

    python tests/on_gpu.py OUT                     all of it
    python tests/on_gpu.py OUT SECTION ...         a part of it
    python tests/on_gpu.py OUT --size small        tiny sizes, for the emulation, which has no times

Sections, in their order:

    doctor    python -m minilstm.doctor --backend cupy
    bench     python -m minilstm.bench gpu: the rows that have targets
    choices   the default model's step as it is; with its two layers one after the other; with
              less priority for gradients of weights; with 32 hardware queues in place of 8; and
              with other sizes of cuBLAS's scratch memory
    streams   gradients computed in several streams against those in one, bit by bit, 20 times
    presets   100 steps of each preset. With few units each is also trained with and without a CUDA
              graph: the weights must have the same bits
    tests     python -m pytest tests/on_cupy.py

The first three are alone on the GPU, because they measure times. The others run side by side. Each
section writes its output to OUT/SECTION.txt. OUT/results.json has its status ("ok", or what
failed), its numbers and its seconds. A section that has not ended after --seconds in all is stopped
and said to have failed. Runs are written to /dev/shm if it has room. The exit status is 1 if a
section failed. Needs CuPy, PyTorch, pytest, pytest-xdist and a GPU.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from minilstm import config  # noqa: E402
from minilstm.backend import use_backend, xp  # noqa: E402
from minilstm.benchmark import gpu  # noqa: E402
from minilstm.config import preset_names  # noqa: E402
from minilstm.gpu import capture, products, side_by_side, wavefront  # noqa: E402
from minilstm.gpu.capture import Captured, on_stream  # noqa: E402
from minilstm.gpu.wavefront import has_room  # noqa: E402
from minilstm.layers import linear, lstm, rnn, stack  # noqa: E402
from minilstm.layers.init import Blank  # noqa: E402
from minilstm.models import composite  # noqa: E402
from minilstm.runs import checkpoint  # noqa: E402
from minilstm.training.batches import BatchesAhead  # noqa: E402

TIMED = ("paper, 128", "1x512, tf32", "default, float32")  # rows of bench gpu that have targets
SCRATCH = (16 << 10, 4 << 20)  # bytes for cuBLAS, which chooses its kernels by them
AS_IT_IS, IN_TURN = "as it is", "layers one after the other"
FIRST, QUEUES = "streams with priorities", "32 hardware queues"
CHOICES = (AS_IT_IS, IN_TURN, FIRST, QUEUES, *map(str, SCRATCH))
ROOM = 32 << 30  # bytes of /dev/shm from which runs of large models are written there
SMALL = {"--frame-size": 16, "--digit-size": 8, "--past": 4, "--future": 3, "--hidden": 8}
SMALL |= {"--batch-size": 4}
TOGETHER = 4  # presets trained at the same time
WORKERS = 6  # of pytest


class Check:
    """The options, the deadline, and what the sections found."""

    def __init__(self, options):
        self.options, self.small = options, options.size == "small"
        self.until = time.monotonic() + options.seconds
        self.results, self.writing = {}, threading.Lock()

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(1.0, self.until - time.monotonic())

    def run(self, name: str, *words: str, **environment: str) -> str:
        """Run Python in a process of its own. Return what it printed. Raises if it failed."""
        emulation = os.environ.get("MINILSTM_EMULATED_CUDA")
        command = [str(Path(emulation, "run"))] if emulation else []
        file = self.options.out / f"{name}.txt"
        with open(file, "w", encoding="utf-8") as output:
            done = subprocess.run(
                [*command, sys.executable, *words],
                stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, timeout=self.left(),
                env=os.environ | environment,
            )  # fmt: skip
        text = file.read_text(encoding="utf-8", errors="replace")
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}: {text[-1500:]}")
        return text

    def section(self, name: str) -> None:
        """Run one section, and write what came of it."""
        begun = time.monotonic()
        try:
            found = {"status": "ok", "found": globals()[name](self)}
        except Exception as error:
            with open(self.options.out / f"{name}.txt", "a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            found = {"status": f"{type(error).__name__}: {error}"[:2000]}
        found["seconds"] = round(time.monotonic() - begun, 1)
        print(f"{name:8} {found['seconds']:6.1f} s  {found['status'][:300]}", flush=True)
        with self.writing:
            self.results[name] = found
            text = json.dumps(self.results, indent=1)
            (self.options.out / "results.json").write_text(text + "\n", encoding="utf-8")

    def alone(self, name: str, option: str, value: str, **environment: str):
        """Run a part of this file in a process of its own. Return what it found."""
        words = [__file__, str(self.options.out), option, value, "--size", self.options.size]
        return json.loads(self.run(name, *words, **environment).splitlines()[-1])


def doctor(check):
    return check.run("doctor", "-m", "minilstm.doctor", "--backend", "cupy").splitlines()


def bench(check):
    words = [word for row in TIMED for word in ("--only", row)] if not check.small else ["--quick"]
    words += ["--json", str((check.options.out / "bench.json").resolve())]
    print(found := check.run("bench", "-m", "minilstm.bench", "gpu", *words))
    return found.splitlines()


def choices(check):
    """Milliseconds of the default model, computed in other ways. Each has a process of its own."""
    found = {}
    for name in CHOICES:
        queues = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"} if name == QUEUES else {}
        try:
            found[name] = check.alone("choices", "--choice", name, **queues)
        except Exception as error:  # the other choices go on
            found[name] = f"FAILED: {type(error).__name__}: {error}"[:500]
    if failed := {name: said for name, said in found.items() if isinstance(said, str)}:
        raise AssertionError(f"{failed}; the others: {found}")
    return found


def milliseconds_of_a_step(row, choice):
    """Milliseconds of a step, captured, with one of CHOICES."""
    scratch = int(choice) if choice.isdecimal() else products.WORKSPACE

    @functools.cache
    def stream_of(device, stream, use):
        first = choice == FIRST and use != "aside"  # a smaller number goes first
        return xp.cuda.Stream(non_blocking=True, priority=-1 if first else 0)

    with (
        mock.patch.object(products, "WORKSPACE", scratch),
        mock.patch.object(stack, "has_room", lambda *x: choice != IN_TURN and has_room(*x)),
        mock.patch.object(side_by_side, "_stream_of", stream_of),
        mock.patch.object(capture, "_stream", lambda device: stream_of(device, 0, "step")),
        use_backend("cupy", row.precision),
        on_stream(),
    ):
        training = gpu.Training(row.settings())
        batches = BatchesAhead(training.packing, 0, 10**9)
        run = Captured(training.step)
        for _ in range(6):
            run(batches.receive())
        packed = batches.receive()
        found = gpu.median(lambda: run(packed), row.repeats)
        batches.stop()
    return found


def streams(check):
    """Compare gradients in a process of its own, which can be stopped."""
    return check.alone("streams", "--streams", "all")


def differing_in_streams(small):
    """Numbers of a gradient that differ from those computed in one stream: none may."""
    found = {}
    for row in gpu.TINY[-1:] if small else (gpu.ROWS[0], gpu.ROWS[4], gpu.ROWS[-1]):
        with use_backend("cupy", row.precision), on_stream():
            training = gpu.Training(row.settings(), Blank())
            weights, grad = training.model.flat().value, training.model.flat().grad
            weights[...] = 0.02 * xp.sin(xp.arange(weights.size, dtype=weights.dtype))
            batches = BatchesAhead(training.packing, 0, 2)
            packed = batches.receive()

            def gradient(run, grad=grad, packed=packed):
                grad.fill(0)
                run(packed)
                return grad

            with in_one_stream():
                expected = gradient(training.forward_and_backward).copy()
            captured = Captured(training.forward_and_backward)
            for how, run in (("one by one", training.forward_and_backward), ("graph", captured)):
                differing = [int((gradient(run) != expected).sum()) for _ in range(20)]
                found[f"{row.name} {row.precision}, {how}"] = sum(differing)
            batches.stop()
            nonzero = int((expected != 0).sum())
        if not nonzero or any(found.values()):
            raise AssertionError(f"numbers that differ: {found}, of {nonzero}")
    return found


@contextlib.contextmanager
def in_one_stream():
    """Compute everything in the current stream, in the order of the calls."""
    with contextlib.ExitStack() as stack:
        for module in (linear, rnn, lstm):
            stack.enter_context(mock.patch.object(module, "aside", lambda f, *a: f(*a)))
        one_by_one = mock.patch.object(
            composite, "side_by_side", lambda functions: {k: f() for k, f in functions.items()}
        )
        stack.enter_context(one_by_one)
        here = mock.patch.object(wavefront, "side_stream", lambda *_: xp.cuda.get_current_stream())
        stack.enter_context(here)
        yield


def presets(check):
    """Train each preset as it is; and, with few units, by graphs and one by one."""
    memory = Path("/dev/shm")  # the checkpoints of the large presets have 42 GB in all
    fast = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(dir=memory if fast else check.options.out.resolve()) as folder:
        return presets_in(Path(folder), check)


def presets_in(folder, check):
    patches = folder / "patches.npy"
    np.save(patches, np.random.default_rng(0).integers(0, 256, (60, 29, 32, 32), np.uint8))

    def trained(name, how, *words):
        run = folder / f"{name}-{how}"
        sizes = SMALL if check.small else {}
        source = config.load([name]).data.source
        if source == "actions":
            sizes = {k: x for k, x in sizes.items() if k != "--digit-size"}
        if source == "patches":  # films of the user's
            sizes = {k: x for k, x in sizes.items() if "size" not in k} | {"--path": patches}
        words = [*words, *(str(word) for pair in sizes.items() for word in pair)]
        words += ["--validate-every", "0", "--quiet", "--backend", "cupy", "--out", str(run)]
        check.run(run.name, "-m", "minilstm.train", name, *words)
        arrays, about = checkpoint.read(run / "checkpoint.safetensors", arrays=how != "whole")
        shutil.rmtree(run)
        return arrays, about["step"]

    def compared(name):
        try:
            return same_by_graphs(name)
        except Exception as error:  # the other presets go on
            return f"FAILED: {type(error).__name__}: {error}"

    def same_by_graphs(name):
        steps, few = ("4", "4") if check.small else ("100", "20")
        _, made = trained(name, "whole", "--steps", steps)
        few = "--hidden", "8", "--steps", few
        one, two = trained(name, "graphs", *few), trained(name, "no-graph", *few, "--no-graph")
        if one[1] != two[1] or one[0].keys() != two[0].keys():
            raise AssertionError(f"{name}: expected the same arrays and steps by graphs")
        differing = [k for k, x in one[0].items() if x.tobytes() != two[0][k].tobytes()]
        if differing:
            raise AssertionError(f"{name}: expected the same bits by graphs, got other {differing}")
        return f"{made} steps; {one[1]} with few units have the same bits by graphs"

    with ThreadPoolExecutor(1 if check.small else TOGETHER) as pool:
        found = dict(zip(preset_names(), pool.map(compared, preset_names()), strict=True))
    failed = {name: said for name, said in found.items() if said.startswith("FAILED")}
    if failed:
        raise AssertionError(f"{failed}; the others passed: {found}")
    return found


def tests(check):
    """Run tests/on_cupy.py. The benchmark plug-in of some images refuses pytest's workers."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not slow"]
    words += ["--durations=10", "tests/on_cupy.py"]
    if check.small:
        words += ["-n", "0", "-k", "captured_step or losses_of"]
    else:
        words += ["-n", str(WORKERS), "-p", "no:benchmark"]
    return check.run("tests", *words).splitlines()[-30:]


ALONE, SHARED = ("doctor", "bench", "choices"), ("streams", "presets", "tests")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("section", nargs="*", help=", ".join((*ALONE, *SHARED)))
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--seconds", type=float, default=235, help="for everything (235)")
    parser.add_argument("--choice", choices=CHOICES, help=argparse.SUPPRESS)
    parser.add_argument("--streams", help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.size == "small"
    if options.choice is not None:
        print(
            json.dumps(
                milliseconds_of_a_step((gpu.TINY if small else gpu.ROWS)[-1], options.choice)
            )
        )
        return 0
    if options.streams is not None:
        print(json.dumps(differing_in_streams(small)))
        return 0
    if unknown := set(options.section) - {*ALONE, *SHARED}:
        parser.error(f"expected sections of {', '.join((*ALONE, *SHARED))}, got {unknown}")
    options.out.mkdir(parents=True, exist_ok=True)
    check = Check(options)
    wanted = options.section or [*ALONE, *SHARED]
    for name in ALONE:
        if name in wanted:
            check.section(name)
    with ThreadPoolExecutor(len(SHARED)) as pool:
        list(pool.map(check.section, [name for name in SHARED if name in wanted]))
    return int(any(found["status"] != "ok" for found in check.results.values()))


if __name__ == "__main__":
    sys.exit(main())
