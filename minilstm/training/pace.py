"""The pace of training: seconds per step, measured before a run.

    seconds = seconds_per_step(config)             on the device that the run would use
    config = with_steps(config, int(60 * minutes / seconds))

A learning-rate schedule must end with its run. So a run that should take a given time gets its
number of steps first, from the time of a few steps.

Read next: step.py, which is timed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time

import numpy as np

from .. import threads
from ..backend import current_backend, synchronize, use_backend, xp
from ..config import Config
from ..gpu.capture import Captured, on_stream
from ..layers.workspace import Reused, use_workspace
from ..runs import build
from .batches import BatchesAhead, draw_batch
from .loop import use_graphs
from .packing import packing_of
from .step import training_step, trial_step

WARM = 8  # steps that are not timed: in them kernels are compiled and CUDA graphs recorded
TIMED = 24  # steps that are timed


def seconds_per_step(config: Config, timed: int = TIMED) -> float:
    """Return the mean seconds of a training step, with the drawing of its batch.

    The first steps of the run are made on a model that is then discarded. Validation and
    checkpoints are not timed. Raises ConfigError, DataError and BackendError as training does.
    """
    run = config.run
    with use_backend(run.backend, run.precision, run.fused):
        seconds = _timed(config, timed)
        if current_backend().name == "cupy":
            xp.get_default_memory_pool().free_all_blocks()  # for the run that follows
    return seconds


def _timed(config, timed):
    source = build.open_source(config, "train")
    model = build.build_model(config, math.prod(source.frame_shape))
    optimizer = build.build_optimizer(model, config)
    packing = packing_of(source, config)

    def step(packed):
        batch = packing.open(packed)
        training_step(model, optimizer, batch, config, batch.rate)

    graphs = use_graphs(config)
    step = Captured(step) if graphs else step
    stream = on_stream() if graphs else contextlib.nullcontext()
    trial = trial_step(model, optimizer, draw_batch(source, config, 1), config)
    with (
        use_workspace(Reused()),
        np.errstate(all="ignore"),
        stream,
        threads.chosen(config.run.threads, trial),
    ):
        batches = BatchesAhead(packing, 0, WARM + timed)
        try:
            for k in range(WARM + timed):
                if k == WARM:
                    synchronize()
                    started = time.perf_counter()
                step(batches.receive())
            synchronize()
            return (time.perf_counter() - started) / timed
        finally:
            batches.stop()


def with_steps(config: Config, steps: int) -> Config:
    """Return `config` for a run of `steps` steps. The cosine schedule ends with the last step.

    Scheduled sampling takes the same fraction of the run as before.
    """
    feeding = config.feeding
    if feeding.inputs == "scheduled":
        truth_steps = max(1, round(steps / config.run.steps * feeding.truth_steps))
        feeding = dataclasses.replace(feeding, truth_steps=truth_steps)
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, schedule_steps=steps),
        feeding=feeding,
        run=dataclasses.replace(config.run, steps=steps),
    )
