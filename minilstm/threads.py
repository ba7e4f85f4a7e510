"""Number of threads of the matrix products: a short trial finds the fastest on this machine.

    with threads.chosen("auto", step) as said:      times a few calls of step(), and chooses
        ...                                         said: one line, or "" if there was no trial

The number changes the speed, and it may change the last bit of a result. So it is chosen once,
before the first step of a run, and recorded in the run.

More threads are not always faster. A product ends when its slowest thread ends. If another program
takes the core of one thread, the other threads wait for a time slice of the operating system, and
keep their cores busy meanwhile. Times of products of the default step on two cores, in
microseconds:

                               one thread              two threads
    one other busy program     median 64, mean 70      median 38, mean 88
    two other busy programs                            mean 185 and more

With two threads one product in a hundred waited for 4 milliseconds. So the mean is far above the
median.

BLAS is the library that multiplies matrices. Read next: backend.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .backend import current_backend
from .errors import ConfigError

# environment variables that BLAS and other libraries read when they start
VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
ROUND_SECONDS = 0.35  # duration of a round of the trial, for each number of threads
ROUNDS = 2  # because the load of a machine changes; a step longer than a round is timed once
TOO_SLOW = 1.5  # if a step takes this many times the best so far, fewer threads are not tried
WORTH = 1.1  # more threads must be faster by this factor, because other programs may start later


class Choice(NamedTuple):
    """A number of threads that was chosen: `said` in one line, and the seconds of a step with it.

    Without a trial `said` is "" and `seconds` is None.
    """

    said: str = ""
    seconds: float | None = None


def cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def blas() -> dict:
    """Return threadpoolctl's description of NumPy's BLAS, or {} if it does not know the library.

    The keys are "num_threads", "internal_api", "version" and others.
    """
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    own = [pool for pool in pools if "numpy" in Path(pool["filepath"]).parent.name]
    return next(iter(own or pools), {})


def limit(number: int) -> None:
    """Set the number of threads of all matrix products from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(number, "blas")


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """At the end of the block, set the number of threads that was in force at its start."""
    before = blas().get("num_threads")
    try:
        yield
    finally:
        if before is not None:
            limit(before)


def checked(wanted: str) -> str:
    """Return `wanted` if it is "auto" or a number of threads. Raises ConfigError."""
    if not re.fullmatch("auto|[1-9][0-9]{0,2}", wanted):
        raise ConfigError(
            f"expected threads auto or a number from 1 to 999, got {wanted!r}: set --threads"
        )
    return wanted


@contextlib.contextmanager
def chosen(
    wanted: str, step: Callable[[], object], seconds: float = ROUND_SECONDS
) -> Iterator[str]:
    """Set the number of threads for a block: `wanted`, or with "auto" the fastest for `step`.

    "auto" tries the present number of threads, half as many, and so on down to 1. The present
    number is that of all cores, unless the user has set another by OPENBLAS_NUM_THREADS. `step` is
    called for about 2 * `seconds` with each number. It must not change a result. Yields the choice
    in one line, or "" if there was no trial. With CuPy nothing happens. Raises ConfigError for a
    given number if the threads of this BLAS can't be set.
    """
    with restored():
        yield choose(wanted, step, seconds).said


def choose(wanted: str, step: Callable[[], object], seconds: float = ROUND_SECONDS) -> Choice:
    """Set the number of threads as `chosen` does, but not only for a block. Raises ConfigError."""
    most = blas().get("num_threads", 1)
    if current_backend().name != "numpy":
        return Choice()
    if wanted != "auto":
        if not blas():
            raise ConfigError(
                "expected a BLAS that threadpoolctl knows, such as OpenBLAS or MKL, got another, "
                "whose threads can't be set: leave --threads out"
            )
        limit(int(wanted))
        return Choice()
    if most == 1:
        return Choice()
    found = timed(step, most, seconds)
    best = min(n for n, x in found.items() if x <= WORTH * min(found.values()))
    limit(best)
    others = ", ".join(f"{_in_ms(x)} with {n}" for n, x in found.items() if n != best)
    said = f"{best} of {most}: a step takes {_in_ms(found[best])}, {others}"
    return Choice(said, found[best])


def timed(step: Callable[[], object], most: int, seconds: float) -> dict[int, float]:
    """Return {number: mean seconds of a step} for `most` threads, half as many, down to 1.

    It stops early at a number that is TOO_SLOW, because fewer threads would be slower still.
    """
    step()  # the first call writes to new memory
    found: dict[int, list[float]] = {}
    number = most
    while number >= 1 and (not found or _last(found) <= TOO_SLOW * _best(found)):
        found[number] = [_seconds(step, number, seconds)]
        number //= 2
    if max(x for (x,) in found.values()) < seconds:
        for _ in range(1, ROUNDS):
            for number, times in found.items():
                times.append(_seconds(step, number, seconds))
    return {number: sum(times) / len(times) for number, times in found.items()}


def _seconds(step, number, enough):
    limit(number)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < enough:
        step()
        count += 1
    return passed / count


def _best(found):
    return min(x for (x,) in found.values())


def _last(found):
    return list(found.values())[-1][0]


def _in_ms(seconds):
    return f"{1e3 * seconds:.3g} ms"
