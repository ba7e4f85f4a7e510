"""The cost of sharing a training step among ranks: the sum of the gradients, measured and computed.

Read next: training/distributed.py, which makes the sum.
"""

from __future__ import annotations

import math
import time

import numpy as np

from .. import config
from ..backend import synchronize, use_backend
from ..errors import number_of
from ..layers.init import Blank
from ..runs import build
from ..training import resources
from ..training.distributed import Alone
from .profile import prepared_training

# GFLOP/s of a rank and GB/s that it sends: assumed round numbers, to be replaced by yours
ASSUMED: dict[str, tuple[float, float]] = {
    "CPU, 10 Gb/s Ethernet": (500, 1.25),
    "CPU, 100 Gb/s InfiniBand": (500, 12.5),
    "GPU, 100 Gb/s InfiniBand": (20_000, 12.5),
    "GPU, NVLink": (20_000, 200),
}
RANK_COUNTS = (1, 2, 4, 8, 16, 32)
SCALING_ASSUMES = """\
Computed: milliseconds per step on N ranks, and the share of it that is not spent on the sum,

    GFLOP / (N GFLOP/s) + 2 (N-1)/N bytes / (GB/s)

for the same batch on any N. This assumes that nothing overlaps, that a message has no latency, and
that products of few rows are as fast as products of many rows. In truth they are slower."""


def step_size(settings: config.Config) -> tuple[float, int, int]:
    """Return a training step's GFLOP, its number of parameters, and the bytes of its gradients."""
    D = math.prod(build.open_source(settings, "train").frame_shape)
    with use_backend("numpy", settings.run.dtype):
        blank = build.build_model(settings, D, Blank())
    params = sum(param.value.size for param in blank.params().values())
    nbytes = params * np.dtype(settings.run.dtype).itemsize
    return resources.gflop_per_step(blank, settings), params, nbytes


def sum_seconds(nbytes: float, bandwidth: float, N: int) -> float:
    """Return the seconds to add up arrays of `nbytes` over N ranks, each sending `bandwidth` B/s.

    By any method every rank must send and receive at least 2 (N-1)/N of the bytes: parts of its own
    terms to all others, and its part of the sum to all others.
    """
    return 2 * (N - 1) / N * nbytes / bandwidth


def measured_ranks(settings: config.Config, steps: int, ranks: Alone) -> tuple[float, float]:
    """Return median seconds of a training step, and of the sum of the gradients alone.

    The ranks wait for each other before every step and every sum.
    """
    with prepared_training(settings, steps, ranks) as run:
        grad, medians = run.model.flat().grad, []
        for work in (run.step, lambda: ranks.sum(grad)):
            seconds = []
            for _ in range(steps):
                grad.fill(0)  # sums of sums would soon be infinite
                synchronize()
                ranks.largest(0)
                begun = time.perf_counter()
                work()
                synchronize()
                seconds.append(time.perf_counter() - begun)
            medians.append(float(np.median(seconds)))
    return medians[0], medians[1]


def scaling(gflop: float, nbytes: float, machines: dict[str, tuple[float, float]]) -> str:
    """Compute the time of a step on N ranks, as a Markdown table.

    `machines` is {name: (GFLOP/s, GB/s)} of each rank.
    """
    titles = ["each rank", "GFLOP/s", "GB/s", *(f"N = {N}" for N in RANK_COUNTS)]
    lines = [titles, ["---"] * len(titles)]
    for name, (speed, bandwidth) in machines.items():
        row = [name, f"{speed:,.0f}", f"{bandwidth:.3g}"]
        for N in RANK_COUNTS:
            compute = gflop / speed / N
            seconds = compute + sum_seconds(nbytes, 1e9 * bandwidth, N)
            row.append(f"{1e3 * seconds:,.4g} ms, {100 * compute / seconds:.0f} %")
        lines.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def ranks_in_words(settings: config.Config, steps: int, ranks: Alone) -> str:
    """Measure a step on the ranks of this run, and compute it for more ranks, in Markdown.

    With one rank nothing is measured. Every rank must call this function.
    """
    gflop, params, nbytes = step_size(settings)
    machines, N = dict(ASSUMED), ranks.count
    lines = [
        f"{number_of(settings.run.batch_size, 'sequence')} a step: {gflop:,.3g} GFLOP, "
        f"{params:,} parameters, "
        f"{nbytes / 1e6:,.0f} MB of gradients."
    ]
    if N > 1:
        step, added = measured_ranks(settings, steps, ranks)
        sent = sum_seconds(nbytes, 1e9, N) / added
        lines.append(
            f"Measured: {1e3 * step:.1f} ms a step on {N} ranks, {1e3 * added:.1f} ms of it "
            f"({100 * added / step:.1f} %) for the sum, to which each sends {sent:.2g} GB/s."
        )
        machines["as measured here"] = (gflop / N / (step - added), sent)
    return "\n\n".join([*lines, SCALING_ASSUMES, scaling(gflop, nbytes, machines)])
