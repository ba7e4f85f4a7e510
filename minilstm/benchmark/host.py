"""Checks and speed of the CPU, for the command `python -m minilstm.doctor`.

Read next: device.py, the same for a GPU.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import config
from ..errors import number_of
from ..training.pace import seconds_per_step

TIMED = 4  # training steps on the clock


def describe() -> Iterator[tuple[str, str]]:
    """Yield what training on this CPU depends on: (name, finding) of each. The last takes seconds.

    The step is one of the default run.
    """
    yield "python", f"{platform.python_version()} on {platform.system()}, {platform.machine()}"
    yield "numpy", np.__version__
    blas, threads = _blas()
    yield "BLAS", blas
    yield "threads", f"{threads} of BLAS, on {number_of(_cores(), 'core')}"
    settings = config.load()
    seconds, steps = seconds_per_step(settings, TIMED), settings.run.steps
    minutes = seconds * steps / 60
    yield "step", f"{1000 * seconds:.0f} ms: the default run of {steps:,} takes {minutes:.0f} min"


def _blas():
    """Return the name of NumPy's BLAS, and how many threads it uses."""
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    own = [pool for pool in pools if "numpy" in Path(pool["filepath"]).parent.name]
    for pool in own or pools:
        words = (pool["internal_api"], pool.get("version"), pool.get("architecture"))
        return " ".join(filter(None, words)), str(pool["num_threads"])
    return "unknown", "an unknown number"


def _cores():
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
