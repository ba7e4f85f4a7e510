"""Checks and speed of the CPU, for the command `python -m minilstm.doctor`.

Read next: device.py, the same for a GPU.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator

import numpy as np

from .. import config, threads
from ..errors import number_of
from ..training.pace import seconds_per_step

TIMED = 4  # training steps on the clock


def describe() -> Iterator[tuple[str, str]]:
    """Yield what training on this CPU depends on: (name, finding) of each. The last takes seconds.

    The step is one of the default run.
    """
    yield "python", f"{platform.python_version()} on {platform.system()}, {platform.machine()}"
    yield "numpy", np.__version__
    blas = threads.blas()
    words = (blas.get(key) for key in ("internal_api", "version", "architecture"))
    yield "BLAS", " ".join(filter(None, words)) or "unknown"
    most = blas.get("num_threads", "an unknown number")
    yield "threads", f"{most} of BLAS, on {number_of(len(threads.cpus()), 'core')}"
    settings = config.load()
    seconds, steps = seconds_per_step(settings, TIMED), settings.run.steps
    minutes = seconds * steps / 60
    yield "step", f"{1000 * seconds:.0f} ms: the default run of {steps:,} takes {minutes:.0f} min"
