"""Run tests/on_cupy.py while the emulated GPU computes in any order that streams and events allow.

    python tests/harness/any_order.py --orders 20              all tests, in 20 random orders
    python tests/harness/any_order.py --first 7 --orders 1     order 7 again
    python tests/harness/any_order.py --lose 10                lose one wait of ten: must fail
    python tests/harness/any_order.py -k captured              tests by words of their names
    python tests/harness/any_order.py --count                  the operations of a training step

A GPU may compute two streams at the same time, unless one waits for the other. If such a wait is
missing, results are wrong now and then, on some GPUs. The emulation itself executes everything
immediately. Here any_order.c takes the place of its driver: it delays every operation as long as it
can, and chooses at random among the streams. The tests compare results with NumPy's, and steps by
graphs with steps one by one, to the bit. A recording that CUDA would refuse, because one of its
streams is not waited for, ends the tests. Memory that is freed is overwritten as soon as CuPy could
lend it again, except while a recording is made.

`--count` records the step of the default model as a graph. It prints the number of operations, and
the length of the longest chain of operations in which each waits for the one before: once with two
layers at the same time, and once with one after the other (gpu/wavefront.py).

Needs the emulation (tests/README.md), gcc, and MINILSTM_EMULATED_CUDA. Tests that count the
operations of the emulated driver are skipped. The exit status is 1 if a test failed.

With `--lose 10` each wait in a recording is ignored with a probability of 1/10. Tests must fail.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

HERE = Path(__file__).parent
FINISHED = 60  # seconds: a younger file may still be written by another process
DRIVER, ORIGINAL = "libcuda.so.1", "liboriginal.so"


def build(folder: Path) -> dict[str, str]:
    """Build the emulation in a folder, with the driver of any_order.c -> environment for `run`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}
    subprocess.run([*_run(), "-m", "platform"], env=environment, check=True, capture_output=True)
    (built,) = folder.glob("emulated_cuda-*")
    (built / DRIVER).rename(built / ORIGINAL)
    kernels = built / "so"  # compiled for the CPU. Use those that are there, which saves a minute
    kernels.mkdir(exist_ok=True)
    for kernel in (cache / built.name / "so").glob("*.so"):
        if time.time() - kernel.stat().st_mtime > FINISHED and not (kernels / kernel.name).exists():
            (kernels / kernel.name).symlink_to(kernel)
    # The new driver is linked with the original one, which is renamed. The original file does not
    # contain its new name. So gcc is given an empty library that does
    nothing, stub = built / "nothing.c", built / "stub" / ORIGINAL
    stub.parent.mkdir()
    nothing.write_text("")
    _compile("-o", stub, nothing, f"-Wl,-soname,{ORIGINAL}")
    link = ["-L", stub.parent, "-Wl,--no-as-needed,-rpath,$ORIGIN", f"-l:{ORIGINAL}", "-ldl"]
    _compile("-o", built / DRIVER, HERE / "any_order.c", f"-Wl,-soname,{DRIVER}", *link)
    return environment


def run(environment: dict[str, str], *words: str) -> tuple[int, str]:
    """Run this program in a process that the emulation starts. Return its status and output."""
    done = subprocess.run(
        [*_run(), __file__, "--inside", *words],
        env=environment | {"PYTEST_ADDOPTS": ""}, cwd=HERE.parents[1],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout.rstrip()


def _compile(*words):
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-pthread", *words], check=True)


def _run():
    return [str(Path(os.environ["MINILSTM_EMULATED_CUDA"], "run")), sys.executable]


def inside(words: list[str]) -> int:
    """Do the work in this process, which the emulation has started."""
    return count() if words == ["--count"] else test(words)


def test(words: list[str]) -> int:
    """Run the tests, except those that import the module of the emulation to count operations."""
    import cupy
    import pytest

    class Overwrites(cupy.cuda.MemoryHook):
        """Fill all memory that a stream may be lent again, before it is lent any."""

        name = "overwrites"

        def __init__(self):
            self.streams, self.freed, self.lock = {}, {}, threading.RLock()

        def malloc_preprocess(self, **_):
            self.lock.acquire()  # until memory is lent: no other thread may be lent it meanwhile
            stream = cupy.cuda.get_current_stream()
            if not stream.is_capturing():
                for address, size in self.freed.pop(stream.ptr, ()):
                    cupy.cuda.runtime.memsetAsync(address, 0xFF, size, stream.ptr)  # NaN

        def malloc_postprocess(self, mem_ptr, **_):
            self.streams[mem_ptr] = cupy.cuda.get_current_stream().ptr
            self.lock.release()

        def free_preprocess(self, **_):
            self.lock.acquire()

        def free_postprocess(self, mem_ptr, mem_size, **_):
            stream = self.streams.pop(mem_ptr, None)
            self.freed.setdefault(stream, []).append((mem_ptr, mem_size))
            self.lock.release()

    kept = sys.modules["fakegpu"]  # still in use
    sys.modules["fakegpu"] = None  # makes the import fail, which skips the test
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    options += ["-W", "ignore::ResourceWarning"]
    hook, run_thread = Overwrites(), threading.Thread.run

    def run_with_hook(thread):  # CuPy has a list of hooks for each thread
        with hook:
            run_thread(thread)

    threading.Thread.run = run_with_hook
    with hook:
        status = pytest.main([str(HERE.parent / "on_cupy.py"), *options, *words])
    del kept
    return status


def count() -> int:
    """Record the default model's step, with a wavefront and without one."""
    from minilstm.backend import use_backend
    from minilstm.benchmark import gpu
    from minilstm.gpu.capture import Captured, on_stream
    from minilstm.layers import stack
    from minilstm.training.batches import BatchesAhead

    never = mock.patch.object(stack, "has_room", lambda B, width: False)
    ways = {"two layers at the same time": contextlib.nullcontext(), "one after the other": never}
    for name, way in ways.items():
        print(name, end=": ", flush=True)
        with way, use_backend("cupy", "float32"), on_stream():
            training = gpu.Training(gpu.ROWS[-1].settings())
            batches, step = BatchesAhead(training.packing, 0, 1), Captured(training.step)
            packed = batches.receive()
            step(packed)
            step(packed)  # is recorded
            batches.stop()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=20, help="number of random orders (20)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first order")
    parser.add_argument("--lose", type=int, default=0, help="lose one wait of so many (none)")
    parser.add_argument("-k", default="", help="only tests with these words in their names")
    parser.add_argument("--count", action="store_true", help="count the operations of a step")
    options, failed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        environment = build(Path(folder)) | {"ANY_ORDER_LOSE": str(options.lose)}
        if options.count:
            status, output = run(environment | {"ANY_ORDER_COUNT": "1"}, "--count")
            print(output)
            return status
        words = ["-k", options.k] if options.k else []
        orders = range(options.first, options.first + options.orders)
        seeds = ({"ANY_ORDER_SEED": str(order)} for order in orders)
        results = pool.map(lambda seed: run(environment | seed, *words), seeds)
        for order, (status, output) in zip(orders, results, strict=True):
            print(f"order {order}: {output.rpartition(chr(10))[2]}", flush=True)
            if status:
                failed += 1
                print(output)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(inside(sys.argv[2:]) if sys.argv[1:2] == ["--inside"] else main())
