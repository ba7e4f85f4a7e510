"""Train a model: the main command.

    python -m minilstm.train                                   a composite model, five minutes
    python -m minilstm.train table2-composite toronto2015      a row of Table 2, as in 2015
    python -m minilstm.train --resume RUN                      go on where a run stopped
    mpiexec -n 4 python -m minilstm.train --distributed        on four processes (distributed.py)

`training_step` is the whole of learning: forward, losses, backward, update. The rest of this
file draws the batches, starts the weights, repeats the step, and is the command around that. What
is written down on the way, so that a run can be followed and resumed, is progress.py's.

Slides: "Objectives", "Predicting The Future". Read next: gradcheck.py, or evaluate.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from . import config, evaluate
from .backend import asarray, use_backend, xp
from .command import Interrupted, Parser, run_command, stop_signals
from .config import Config
from .data import as_vectors
from .data.rng import keyed_rng
from .errors import ConfigError, MinilstmError
from .files import write_file
from .gpu.transfers import Uploads
from .layers.workspace import Reused, use_workspace
from .models import EncoderDecoder, decoder_steps
from .optim import Optimizer, clip_norm, gradient_norms, make_optimizer, schedule
from .runs import build
from .runs.run_folder import RunFolder, Watched
from .training import resources
from .training.distributed import ALONE, Alone, Ranks
from .training.progress import OF_ARRAY, Progress, announce

FEEDING, DROPOUT = 3, 4  # the purposes of random numbers; see data/rng.py


@dataclass(frozen=True)
class Batch:
    """What one step learns from: frames (T, B, D), and the step's random choices.

    They are the rows of one rank, a `share` of the whole batch.
    """

    past: np.ndarray
    future: np.ndarray
    feed_truth: tuple | bool
    masks: tuple | None
    share: float = 1.0


def training_step(
    model: EncoderDecoder,
    optimizer: Optimizer,
    batch: Batch,
    config: Config,
    rate: float,
    ranks: Alone = ALONE,
) -> dict:
    """One update. Returns the losses (nats per frame) and the gradient's norm, whole and by array.

    They are those of the whole batch, of which every rank gives its rows. If a loss or the norm is
    not finite, weights and optimizer stay as they are. All are 0-d arrays: on a GPU the host only
    asks for the step here, and has seen no number of it at the end.
    """
    T, B, _ = batch.future.shape
    logits, cache = model.forward(batch.past, batch.future, T, batch.feed_truth, batch.masks)

    losses, dlogits = {}, []
    for name, z, target, weight in (
        ("reconstruction", logits[0], batch.past[::-1], config.loss.reconstruction_weight),
        ("future", logits[1], batch.future, config.loss.future_weight),
    ):
        if z is None:
            dlogits.append(None)
            continue
        losses[name], loss_cache = model.loss.forward(z, target)
        # the loss is a mean over frames and sequences; the gradient may be that of a sum
        sums = {"mean": 1, "batch_mean": len(z), "sum": len(z) * B / batch.share}
        scale = weight * batch.share * sums[config.loss.gradient_scale]
        dz, _ = model.loss.backward(scale, loss_cache)
        dlogits.append(dz)

    grad = model.flat().grad
    grad.fill(0)
    model.backward(tuple(dlogits), cache, want_dinputs=False)
    losses = ranks.add_losses(losses, batch.share)
    ranks.sum(grad)
    norms = gradient_norms(model)
    norm = clip_norm(grad, config.optimizer.clip_norm, norms)
    finite = xp.isfinite(norm + sum(losses.values()))
    optimizer.step(rate, finite)  # what is not finite is not learned
    by_array = {OF_ARRAY + name: x for name, x in zip(model.params(), norms, strict=True)}
    return losses | {"gradient_norm": norm} | by_array


# ---------------------------------------------------------------- what a step is given


def draw_batch(source, config: Config, k: int, ranks: Alone = ALONE) -> Batch:
    """This rank's rows of batch number k, on the host: a function of (config, k) and the rank.

    Whole batches are drawn, with their random choices, so that these do not depend on the ranks.
    """
    B, rows = config.run.batch_size, ranks.rows(config.run.batch_size)
    frames = as_vectors(source.batch(k, B)[:, rows], source.scale)
    if frames.dtype != config.run.dtype:
        frames = frames.astype(config.run.dtype)
    past = config.data.past
    choices = (_rows_of(draw(config, k), rows) for draw in (draw_feeding, draw_masks))
    return Batch(frames[:past], frames[past:], *choices, frames.shape[1] / B)


def _rows_of(choices, rows):
    """Copies of some rows of nested tuples of arrays (T, B, ...)."""
    if isinstance(choices, tuple):
        return tuple(_rows_of(part, rows) for part in choices)
    return choices[:, rows].copy() if isinstance(choices, np.ndarray) else choices


def draw_feeding(config: Config, k: int) -> tuple | bool:
    """True, False, or which true frames the two decoders are fed: (T, B) of bool each."""
    feeding, B = config.feeding, config.run.batch_size
    if feeding.inputs != "scheduled":
        return feeding.inputs == "truth"
    progress = min(k / feeding.truth_steps, 1.0)
    truth = feeding.truth_start + progress * (feeding.truth_end - feeding.truth_start)
    if truth in (0.0, 1.0):
        return truth == 1.0
    rng = keyed_rng(FEEDING, config.run.seed, k)
    lengths = (config.data.past, config.data.future)
    return tuple(rng.random((T, B), np.float32) < truth for T in lengths)


def draw_masks(config: Config, k: int) -> tuple | None:
    """Dropout masks of the encoder and both decoders, one (T, B, H) per gap between layers."""
    c, B = config.model, config.run.batch_size
    if c.dropout == 0 or c.layers == 1:
        return None
    rng = keyed_rng(DROPOUT, config.run.seed, k)
    past, future = config.data.past, config.data.future
    lengths = (past, decoder_steps(c.start, past), decoder_steps(c.start, future))
    return tuple(
        tuple(rng.random((c.layers - 1, T, B, c.hidden), np.float32) >= c.dropout) for T in lengths
    )


class BatchesAhead:
    """Batches k = first, ..., last - 1, drawn by a thread while the training step computes.

    For a GPU it sends them there, too.
    """

    def __init__(self, source, config: Config, first: int, last: int, ranks: Alone = ALONE):
        self._uploads = Uploads() if use_backend.name == "cupy" else None
        self._queue = queue.Queue(maxsize=3)
        self._stopped = threading.Event()
        arguments = (source, config, range(first, last), ranks)
        self._thread = threading.Thread(target=self._draw, args=arguments, daemon=True)
        self._thread.start()

    def _draw(self, source, config, numbers, ranks):
        for k in numbers:
            try:
                batch = draw_batch(source, config, k, ranks)
                if self._uploads:
                    batch = self._uploads.send(tuple(vars(batch).values()))
            except Exception as error:  # raised again where it is waited for
                batch = error
            while not self._stopped.is_set():
                try:
                    self._queue.put(batch, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set() or isinstance(batch, Exception):
                return

    def next(self) -> Batch:
        """The next batch, on the device; there it is good until the one after it is asked for."""
        batch = self._queue.get()
        if isinstance(batch, Exception):
            raise batch
        return Batch(*self._uploads.receive(batch)) if self._uploads else batch

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()
        if self._uploads:
            self._uploads.stop()
        self._thread.join()
        if self._uploads:
            self._uploads.finish()


# ---------------------------------------------------------------- what a step starts from


def start_readouts(model: EncoderDecoder, mean: np.ndarray) -> None:
    """Let both decoders start from the mean image (D,), so that no unit is spent on learning it.

    From zero a bias of -5 is a thousand updates away; until then hidden units are driven to +-1 to
    stand in for it, where they stay and learn nothing else.
    """
    bias = model.loss.logits(asarray(mean, model.dtype))
    for decoder in (model.reconstruct, model.predict):
        if decoder is not None:
            decoder.readout.b.value[...] = bias


def build_optimizer(model: EncoderDecoder, config: Config) -> Optimizer:
    """The update rule of a configuration, over all parameters of the model."""
    o = config.optimizer
    return make_optimizer(
        o.rule,
        model.flat(),
        momentum=o.momentum,
        decay=o.mean_square_decay,
        epsilon=o.epsilon,
        l2=o.l2,
        clamp_update=o.clamp_update,
    )


def build_schedule(config: Config):
    """The learning rate as a function of the steps made before, those left out among them."""
    o = config.optimizer
    return schedule(
        o.schedule,
        o.learning_rate,
        steps=o.schedule_steps,
        floor=o.schedule_floor,
        decay_factor=o.decay_factor,
        decay_every=o.decay_every,
        warmup_steps=o.warmup_steps,
    )


def loop(progress: Progress, stop: SimpleNamespace) -> None:
    """Make the steps that are still to come, up to the last one or a stop signal."""
    config, ranks = progress.config, progress.ranks
    rate_at, last = build_schedule(config), config.run.steps
    progress.start()
    batches = BatchesAhead(progress.source, config, progress.step, last, ranks)
    try:
        while not (progress.finished or ranks.stopped(stop)):
            rate, batch = rate_at(progress.step), batches.next()
            progress.whole = False  # what fails from here on must be done again, all of it
            now = training_step(progress.model, progress.optimizer, batch, config, rate, ranks)
            if not progress.account(rate, now, stop):
                batches.stop()  # the device had gone on from a step that must be made again
                batches = BatchesAhead(progress.source, config, progress.step, last, ranks)
    finally:
        progress.bar.close()
        batches.stop()


def train(
    config: Config,
    out: Path,
    force: bool = False,
    quiet: bool = False,
    resume: bool = False,
    ranks: Alone = ALONE,
) -> EncoderDecoder:
    """Train what `config` describes into the run folder `out`. Returns the model.

    With `resume`, go on from the checkpoint that is there, to the same last bit as if nothing had
    happened. All `ranks` call this alike. Raises NonFiniteError for losses or gradients that are
    not finite, RunError for a folder that can't be used, Interrupted (a KeyboardInterrupt) after
    SIGINT or SIGTERM. The checkpoint is then that of the last step, or of the last
    --checkpoint-every if an error cut a step short.
    """
    folder = RunFolder(out) if ranks.is_first else Watched(out)
    quiet = quiet or not ranks.is_first
    if not resume:
        folder.refuse(force)
    source = build.open_source(config, "train")
    validation = build.open_source(config, "validation")
    D = math.prod(source.frame_shape)
    resources.refuse_weights(config, D, ranks)
    model = build.build_model(config, D)
    memory = resources.memory_of(model, config)
    resources.refuse_memory(memory, config, ranks)
    optimizer = build_optimizer(model, config)
    description = announce(model, config, memory, source.frame_shape, out, ranks)
    with folder.claim():
        progress = Progress(config, folder, model, optimizer, source, validation, quiet, ranks)
        if not resume:
            folder.empty()
        if resume and folder.checkpoint.exists():
            progress.restore(force)
        elif config.init.readout_bias == "mean-image":
            start_readouts(model, evaluate.mean_image(config))
        folder.cut_log(progress.step)
        if ranks.is_first:
            write_file(folder.config, config.to_toml())
        if not quiet:
            print(description, flush=True)
            if progress.step:
                print(f"resumed   after step {progress.step:,}{progress.regrouped}", flush=True)
        # numbers that are not finite end the run, in words; NumPy's warnings say it twice
        with use_workspace(Reused()), np.errstate(all="ignore"), stop_signals() as stop:
            try:
                loop(progress, stop)
            except BaseException:
                with contextlib.suppress(MinilstmError):  # the first error is the one to report
                    if progress.whole:
                        progress.save()
                raise
            progress.save()
        if stop.received:
            raise Interrupted(stop.received)
        if ranks.is_first:
            progress.draw()
    return model


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.train",
        usage="%(prog)s [PRESET ...] [--config FILE] [--out RUN] [--SETTING VALUE ...]\n"
        "       %(prog)s --resume RUN [--extend-to STEPS]",
        description="Train a model of the paper. Without arguments: a composite model on bundled "
        "moving digits, in five minutes on two cores.",
    )
    parser.add_argument("--out", metavar="RUN", help="the run folder (default: runs/MODEL-SEED)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, with its own settings, to the bit as if it had "
        "never stopped",
    )
    parser.add_argument(
        "--extend-to", metavar="STEPS", type=int, help="with --resume: the new number of steps"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite a run that is there; with --resume: go on in another environment",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="share every batch out among the processes that mpiexec starts: mpiexec -n 4 python "
        "-m minilstm.train --distributed; needs the extra [mpi]",
    )
    config.add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)  # presets may stand between flags
    if options.resume:
        settings, out = resumed_settings(options), Path(options.resume)
    elif options.extend_to:
        raise ConfigError(
            "expected --extend-to with --resume RUN, got it alone: name the run, or use --steps"
        )
    else:
        settings = config.from_arguments(options)
        out = Path(options.out or f"runs/{settings.model.kind}-{settings.run.seed}")
    with Ranks(settings.run.backend) if options.distributed else ALONE as ranks:
        use_backend(settings.run.backend, settings.run.precision, settings.run.fused)
        train(settings, out, options.force, options.quiet, bool(options.resume), ranks)
    return 0


def resumed_settings(options) -> Config:
    """The settings of the run that --resume names, which nothing but --extend-to may change."""
    others = [name for name in vars(options) if "." in name]
    others += options.presets + ["--config"] * bool(options.config) + ["--out"] * bool(options.out)
    if others:
        raise ConfigError(
            f"expected no settings beside --resume, which keeps those of its run, got {others[0]}: "
            "leave it out, or train a new run"
        )
    settings = build.read_config(options.resume)
    if options.extend_to is None:
        return settings
    if options.extend_to < settings.run.steps:
        raise ConfigError(
            f"expected --extend-to >= {settings.run.steps}, the steps of the run, got "
            f"{options.extend_to}: raise it"
        )
    return dataclasses.replace(
        settings, run=dataclasses.replace(settings.run, steps=options.extend_to)
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
