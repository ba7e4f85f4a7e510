"""The training loop: repeat the step until the last one or a stop signal.

`train` builds the model, optimizer and data from the settings, locks the run folder, and trains.
progress.py writes the log and the checkpoints.

Read next: progress.py.
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from .. import threads
from ..backend import current_backend
from ..command import Interrupted, stop_signals
from ..config import Config
from ..errors import MinilstmError
from ..evaluation import judging
from ..files import write_file
from ..gpu.capture import Captured, on_stream
from ..layers.workspace import Reused, use_workspace
from ..models import EncoderDecoder
from ..promises import expect_promises
from ..runs import build, own_cell
from ..runs.run_folder import RunFolder, Watched
from . import resources
from .batches import BatchesAhead, draw_batch
from .distributed import ALONE, Alone
from .packing import packing_of
from .progress import Progress
from .step import training_step, trial_step


def make_steps(progress: Progress, stop: SimpleNamespace) -> None:
    """Make the remaining steps, up to the last one or a stop signal."""
    config, ranks = progress.config, progress.ranks
    rate_at, last = build.build_schedule(config), config.run.steps
    packing = packing_of(progress.source, config, ranks)

    def step(packed):
        batch = packing.open(packed)
        arguments = progress.model, progress.optimizer, batch, config, batch.rate, ranks
        progress.readings.write(training_step(*arguments))

    if use_graphs(config, ranks):
        step = Captured(step)
    progress.start()
    batches = BatchesAhead(packing, progress.step, last)
    try:
        while not (progress.is_finished or ranks.stopped(stop)):
            packed = batches.receive()
            progress.is_step_complete = False  # an error in this step must not save a part of it
            step(packed)
            if not progress.finish_step(rate_at(progress.step), stop):
                batches.stop()  # the run went back to an earlier step: draw from there again
                batches = BatchesAhead(packing, progress.step, last)
    finally:
        progress.bar.close()
        batches.stop()


def choose_threads(progress: Progress, workspace: Reused, wanted: str) -> None:
    """Set the number of threads of the matrix products: `wanted`, or with "auto" by a trial.

    After a trial it prints the number, unless the run is quiet.
    """
    config = progress.config
    batch = draw_batch(progress.source, config, 1)  # scheduled sampling begins with batch 1
    step = trial_step(progress.model, progress.optimizer, batch, config)
    with use_workspace(workspace), np.errstate(all="ignore"):
        said, progress.trial_seconds = threads.choose(wanted, step)
    if said and not progress.quiet:
        print(f"threads   {said}", flush=True)


def use_graphs(config: Config, ranks: Alone = ALONE) -> bool:
    """Say whether steps are recorded as CUDA graphs: on one GPU, unless told otherwise."""
    return current_backend().name == "cupy" and config.run.graph and ranks.count == 1


def train(
    config: Config,
    out: Path,
    force: bool = False,
    quiet: bool = False,
    resume: bool = False,
    ranks: Alone = ALONE,
    go_on: str = "",
    new_threads: str = "",
) -> EncoderDecoder:
    """Train a model by `config` and write the run folder `out`. Return the model.

    With `resume`, continue from the checkpoint in the folder. The result has the same bits as that
    of an uninterrupted run, unless `new_threads`, `force` or another number of ranks changes the
    way in which it is computed. The first checkpoint is written before the first step, so a run
    folder without a checkpoint has lost it and is refused. All ranks must call this function with
    the same arguments. `go_on` is the command that continues an interrupted run, train --resume by
    default.

    Raises NonFiniteError for losses or gradients that are not finite, RunError for a folder that
    can't be used. After SIGINT, SIGTERM or SIGHUP the function finishes the step, writes a
    checkpoint, draws the pictures, and then raises Interrupted (a KeyboardInterrupt). If an error
    interrupts a step halfway, no checkpoint is written. The newest one is then the last that
    --checkpoint-every wrote.
    """
    folder = RunFolder(out) if ranks.is_first else Watched(out)
    quiet = quiet or not ranks.is_first
    config = own_cell.pinned(config)
    own_cell.refuse_inside(config, out)
    if not resume:
        folder.refuse(force)
        if config.model.cell_file is not None:
            expect_promises(build.cell_of(config))
    source = build.open_source(config, "train")
    validation = build.open_source(config, "validation")
    if len(source.frame_shape) > 1:  # for the pictures: if it fails, it should fail before training
        build.open_source(config, "test")
    D = math.prod(source.frame_shape)
    resources.refuse_weights(config, D, ranks)
    model = build.build_model(config, D)
    memory = resources.memory_of(model, config)
    resources.refuse_memory(memory, config, ranks)
    optimizer = build.build_optimizer(model, config)
    description = resources.announce(model, config, memory, source, out, ranks)
    with folder.claim(), threads.restored():
        progress = Progress(config, folder, model, optimizer, source, validation, quiet, ranks)
        progress.validation_chunk = memory.validation_chunk(
            -(-config.run.batch_size // ranks.count)
        )
        if not resume:
            folder.remove_files()
        if resume and folder.checkpoint.exists():
            progress.restore(force, new_threads)
        else:
            if resume:
                folder.refuse_lost_checkpoint()
            if config.init.readout_bias == "mean-image":
                build.start_readouts(model, judging.mean_image(config))
        if not quiet:
            print(description, flush=True)
            if resume and not progress.step:
                print("resumed   before the first step: none was made", flush=True)
            elif resume:
                print(f"resumed   after step {progress.step:,}{progress.regrouped}", flush=True)
        for note in progress.notes:
            print(f"note: {note}", file=sys.stderr)
        workspace = Reused()
        if progress.saved is None and ranks.count == 1:  # ranks share the CPUs by their own rule
            choose_threads(progress, workspace, new_threads or config.run.threads)
        last = folder.cut_log(progress.step)
        if ranks.is_first and resume and progress.step - last >= config.run.log_every > 0:
            print(f"note: {folder.log} has lost its rows after step {last}", file=sys.stderr)
        stream = on_stream if use_graphs(config, ranks) else contextlib.nullcontext
        if ranks.is_first:
            write_file(folder.config, config.to_toml())
        # numbers that are not finite end the run with a message, so NumPy need not warn of them
        quietly = np.errstate(all="ignore")
        with use_workspace(workspace), quietly, stop_signals() as stop, progress.writer:
            progress.save()  # from now on the folder has a checkpoint
            try:
                with stream():
                    make_steps(progress, stop)
            except BaseException:
                with contextlib.suppress(MinilstmError):  # the first error is the one to report
                    if progress.is_step_complete:
                        progress.save()
                raise
            progress.save()
        if ranks.is_first and progress.step:
            with stream():  # whose scratch memory is there already
                progress.draw()
        if not quiet:
            print(progress.what_next(go_on), flush=True)
        if stop.received:
            raise Interrupted(stop.received)
    return model
