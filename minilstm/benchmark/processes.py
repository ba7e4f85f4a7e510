"""A process for each contender, which sleeps until the benchmark asks it to work.

Every library runs in a process of its own, because idle threads of one library would take CPU time
from another. `Process` is the side of the benchmark, `serve` the side of the contender. They
exchange one line of JSON per request and per answer.

Read next: timing.py, which asks in turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, named, number_of, one_line
from ..threads import VARIABLES, cpus
from .contenders import CONTENDERS, Work

# Variables that would change how a library computes. All processes run without them.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "GLIBC_TUNABLES")
KEEP_BYTES = 1 << 34  # blocks smaller than this stay with the process when they are freed
# The program of a process. An error at its start becomes an answer, too.
PROGRAM = """
import json
try:
    from {module} import serve
except Exception as error:
    print(json.dumps(dict(failed=f"{{type(error).__name__}} ({{error}})")))
else:
    serve(*{arguments})
"""
TUNED = f"glibc.malloc.mmap_threshold={KEEP_BYTES}:glibc.malloc.trim_threshold={KEEP_BYTES}"


class Process:
    """A contender in its own process. Use it in a `with` statement, which ends the process.

    name      "ours", "products", "jax", "torch", or such a word with "loop" or "tuned" after it
    about     versions and threads of its libraries, as it reports them
    missing   the reason why it can't run, or ""
    """

    def __init__(self, name: str, work: Work, threads: int):
        self.name = name
        library, *words = name.split()
        environ = {key: value for key, value in os.environ.items() if key not in UNSET}
        environ |= dict.fromkeys(VARIABLES, str(threads))
        if "tuned" in words:
            environ["GLIBC_TUNABLES"] = TUNED
        arguments = json.dumps([library, work, cpus()[:threads]])
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(module=__name__, arguments=arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        try:
            hello = self._answer()
        except BaseException:
            self.__exit__()
            raise
        self.missing, self.about = hello.get("missing", ""), hello.get("about", {})

    def ask(self, request: str, *arguments) -> dict:
        """Send a request of `serve` and return the answer. Raises RunError if there is none."""
        with contextlib.suppress(BrokenPipeError):  # `_answer` then finds that it has died
            print(json.dumps([request, *arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RunError(
                f"expected an answer of the process that times {self.name}, got its end (status "
                f"{self._process.wait()}): is there enough memory?"
            )
        answer = json.loads(line)
        if "failed" in answer:
            raise RunError(
                f"expected an answer of the process that times {self.name}, got "
                f"{one_line(answer['failed'])}: repair what it needs, or choose other rows"
            )
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


# ---------------------------------------------------------------- inside the process


def serve(name: str, work: list, cpus: list) -> None:
    """Answer the requests on standard input, one line of JSON each, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark itself handles Ctrl-C
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)  # JAX starts a thread for every CPU that it may use
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not among the answers

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        answer_requests(name, Work(*work), say)
    except Exception as error:  # the benchmark reports it in one line
        say({"failed": named(error)})


def answer_requests(name: str, work: Work, say: Callable[[dict], None]) -> None:
    """Prepare the work of a contender, and answer the requests on standard input by `say`."""
    try:
        step, gradients = CONTENDERS[name](work)
    except ModuleNotFoundError as error:
        if name not in ("torch", "jax"):  # only these two may be missing
            raise
        say({"missing": f"{error.name} is not installed"})
        return
    say({"about": about()})
    requests = {
        "check": lambda path: check(step, gradients, path),
        "time": lambda count: timed(step, count),
        "peak": lambda: peak(step),
        "subnormals": lambda: subnormals(gradients),
    }
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        say(requests[request](*arguments))


def about() -> dict[str, str]:
    """Name the libraries in this process that multiply matrices, with threads and kernels."""
    from threadpoolctl import threadpool_info

    found = {"numpy": np.__version__}
    for name in ("torch", "jax"):
        if name in sys.modules:
            found[name] = sys.modules[name].__version__
    for pool in threadpool_info():
        known = (pool.get(key) for key in ("version", "architecture"))
        words = (*filter(None, known), number_of(pool["num_threads"], "thread"))
        found[pool["internal_api"]] = ", ".join(words)
    return found


def check(step, gradients, path: str) -> dict:
    """Write the outputs of two steps, and the gradients of the first, to an .npz file."""
    arrays: dict[str, Any] = {
        f"{name} of step 1": np.array(value) for name, value in step().items()
    }
    arrays |= {f"gradient of {name}": np.array(value) for name, value in gradients().items()}
    arrays |= {f"{name} of step 2": value for name, value in step().items()}
    np.savez(path, **arrays)
    return {}


def timed(step, count: int) -> dict[str, float]:
    """Return seconds per step over `count` steps, and the share of all CPUs used by others.

    If `count` is above 1, one more step runs first, untimed: after a pause threads sleep, and the
    caches hold other data.
    """
    if count > 1:
        step()
    busy, own, now = machine_seconds(), time.process_time(), time.perf_counter()
    for _ in range(count):
        step()
    seconds = time.perf_counter() - now
    others = machine_seconds() - busy - (time.process_time() - own)
    return {"seconds": seconds / count, "others": max(0, others) / seconds / os.cpu_count()}


def subnormals(gradients) -> dict[str, int]:
    """Count the subnormal numbers in the gradients of the last step: some CPUs are slow with them.

    Returns {"count": number}.
    """
    arrays = gradients().values() if gradients else ()
    tiny = np.finfo(np.float32).tiny
    return {"count": sum(int(((x != 0) & (abs(x) < tiny)).sum()) for x in arrays)}


def machine_seconds() -> float:
    """Return the CPU seconds used so far by all processes together, and by the hypervisor."""
    import psutil

    times = psutil.cpu_times()._asdict()  # Linux counts a guest's time also as user time
    return sum(times[name] for name in times.keys() - {"idle", "iowait", "guest", "guest_nice"})


def peak(step) -> dict[str, int | None]:
    """Return the most memory that this process held during three steps, in bytes, or None.

    `ru_maxrss` would not do: on Linux it begins with the size of the parent process.
    """
    with contextlib.suppress(OSError):  # reset the peak, which the set-up has raised
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {"bytes": None}
    return {"bytes": 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])}
