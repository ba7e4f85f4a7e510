"""Train a model: the main command.

    python -m minilstm.train                                   a composite model, five minutes
    python -m minilstm.train table2-composite toronto2015      a row of Table 2, as in 2015
    python -m minilstm.train --resume RUN                      go on where a run stopped
    mpiexec -n 4 python -m minilstm.train --distributed        on four processes (distributed.py)

`training_step` is the whole of learning: forward, losses, backward, update. The rest of this
file brings the batches, writes log and checkpoints, and draws what came of it; the run folder is
described in runfolder.py.

Slides: "Objectives", "Predicting The Future". Read next: evaluate.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import checkpoint, config, cost, evaluate, experiment, figures
from .backend import asarray, to_numpy, use_backend, xp
from .command import Interrupted, Parser, run_command, stop_signals
from .config import Config, differences
from .cost import Memory
from .data import as_frames, as_vectors
from .data.shuffle import keyed_rng
from .distributed import ALONE, Alone, Ranks
from .errors import ConfigError, MinilstmError, NonFiniteError, RunError
from .files import write_file
from .models import EncoderDecoder
from .optim import Optimizer, clip_norm, gradient_norms, make_optimizer, schedule
from .runfolder import RunFolder, Watched, environment
from .transfers import Readings, Uploads
from .workspace import Reused, use_workspace

FEEDING, DROPOUT = 3, 4  # the purposes of random numbers; see data/shuffle.py
VALIDATION = 200  # sequences
SPIKE = 2.0  # times the usual loss: worth a line
LENGTH = ("run.steps", "run.minutes", "run.keep")  # settings that --resume may change
REGROUPED = ("ranks", "blas num_threads")  # what another number of ranks changes
PATIENCE = 10  # steps in a row that are not finite, after which no --on-nan helps
LATE = 100  # steps at most that a device may be ahead of the log
OF_ARRAY = "gradient_norm "  # and its name: a column of the log


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
    fewer = 1 if c.start == "read" else 0  # "read" makes its first frame without a step
    lengths = (config.data.past, config.data.past - fewer, config.data.future - fewer)
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


# ---------------------------------------------------------------- the run


def announce(
    model: EncoderDecoder,
    config: Config,
    memory: Memory,
    shape: tuple[int, ...],
    out: Path,
    ranks: Alone = ALONE,
) -> str:
    """What is about to happen, in five lines."""
    c, d, r = config.model, config.data, config.run
    conditional = {"none": "", "both": ", both decoders conditional"}
    conditional = conditional.get(c.conditional, f", {c.conditional} conditional")
    rows = ranks.rows(r.batch_size)
    rows = rows.stop - rows.start
    memory = cost.in_words(memory.needed(rows))
    gflop = cost.gflop_per_step(model, config) * rows / r.batch_size
    each = f" for each of {ranks.count} ranks" * (ranks.count > 1)
    length = f"{r.steps:,} steps" + (f" or {r.minutes:g} minutes" if r.minutes else "")
    return "\n".join(
        (
            f"model     {c.kind}{conditional}: {c.layers} layer{'s' * (c.layers > 1)} of "
            f"{c.hidden} units ({c.cell}), {model.flat().value.size:,} parameters",
            f"data      {d.source}: {d.past} frames in, {d.future} to predict, {_in_words(shape)}",
            f"training  {length} of {r.batch_size} sequences, {config.optimizer.rule}, "
            f"seed {r.seed}",
            f"cost      {memory} of memory, {gflop:.3g} GFLOP per step{each}, on {r.backend} in "
            f"{r.precision}",
            f"run       {out}",
        )
    )


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
    source = experiment.open_source(config, "train")
    validation = experiment.open_source(config, "validation")
    D = math.prod(source.frame_shape)
    cost.refuse_weights(config, D, ranks)
    model = experiment.build_model(config, D)
    memory = cost.memory_of(model, config)
    cost.refuse_memory(memory, config, ranks)
    optimizer = build_optimizer(model, config)
    description = announce(model, config, memory, source.frame_shape, out, ranks)
    with folder.claim():
        run = _Run(config, folder, model, optimizer, source, validation, quiet, ranks)
        if not resume:
            folder.empty()
        if resume and folder.checkpoint.exists():
            run.restore(force)
        elif config.init.readout_bias == "mean-image":
            start_readouts(model, evaluate.mean_image(config))
        folder.cut_log(run.step)
        if ranks.is_first:
            write_file(folder.config, config.to_toml())
        if not quiet:
            print(description, flush=True)
            if run.step:
                print(f"resumed   after step {run.step:,}{run.regrouped}", flush=True)
        # numbers that are not finite end the run, in words; NumPy's warnings say it twice
        with use_workspace(Reused()), np.errstate(all="ignore"), stop_signals() as stop:
            try:
                run.loop(stop)
            except BaseException:
                with contextlib.suppress(MinilstmError):  # the first error is the one to report
                    if run.whole:
                        run.save()
                raise
            run.save()
        if stop.received:
            raise Interrupted(stop.received)
        if ranks.is_first:
            run.draw()
    return model


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
    """The learning rate as a function of the number of updates made."""
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


class _Run:
    """One run: the loop, its log, its checkpoints and its pictures."""

    def __init__(self, config, folder, model, optimizer, source, validation, quiet, ranks):
        self.config, self.folder, self.model, self.optimizer = config, folder, model, optimizer
        self.ranks, self.regrouped = ranks, ""
        self.source, self.rate = source, build_schedule(config)
        self.validation = evaluate.sequences(validation, VALIDATION)
        self.quiet = quiet
        self.saved = None  # the step of the newest checkpoint
        self.whole = True  # whether all of a step is done: update, log, validation
        # what goes on in a resumed run, apart from weights and optimizer
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self.interval = Interval()
        self.usual = math.inf  # the mean loss of the interval before
        self.unusable = 0  # steps in a row whose numbers were not finite
        self.readings = Readings(min(config.run.log_every or LATE, LATE), ranks.count > 1)
        optimizer.patience = PATIENCE if config.run.on_nan == "skip" else 0

    def loop(self, stop):
        from tqdm import tqdm

        run = self.config.run
        started = time.monotonic() - self.seconds
        until = time.monotonic() + 60 * run.minutes if run.minutes else math.inf
        self.bar = tqdm(
            total=run.steps, initial=self.step, unit="step", disable=self.quiet, dynamic_ncols=True
        )
        self.draw_ahead()
        last = self.step >= run.steps
        try:
            while not (last or self.ranks.stopped(stop)):
                rate, batch = self.rate(self.step), self.batches.next()
                self.whole = False  # what fails from here on must be done again, all of it
                now = training_step(
                    self.model, self.optimizer, batch, self.config, rate, self.ranks
                )
                self.step += 1
                self.bar.update()
                self.seconds = time.monotonic() - started
                self.readings.add((self.step, rate, self.seconds), now)
                late = run.minutes and self.ranks.largest(time.monotonic() > until)
                last = self.step == run.steps or bool(late)
                validating = last or _every(run.validate_every, self.step)
                saving = _every(run.checkpoint_every, self.step) and not last
                if self.read(wait=validating or saving or bool(stop.received)):
                    if last and not _every(run.log_every, self.step):
                        self.write_interval(self.step, rate, self.seconds)
                    if validating:
                        self.validate()
                    self.whole = True
                    if saving:
                        self.save_or_warn()
                else:  # the device had gone on from a step that must be made again
                    last, self.bar.n = False, self.step
                    self.batches.stop()
                    self.draw_ahead()
        finally:
            self.bar.close()
            self.batches.stop()

    def draw_ahead(self):
        """Have the batches drawn that are still to come."""
        steps = self.step, self.config.run.steps
        self.batches = BatchesAhead(self.source, self.config, *steps, self.ranks)

    def read(self, wait=False):
        """Log what has arrived of the steps made; with `wait`, all of it.

        False if that took the run back to an earlier step: numbers come late from a device.
        """
        made = self.step
        for (step, rate, seconds), now in self.readings.take(wait):
            if all(map(math.isfinite, now.values())):
                self.learned(step, now)
            else:
                self.not_finite(step, now)
            if _every(self.config.run.log_every, step):
                self.write_interval(step, rate, seconds)
            if self.step < made:
                self.readings.clear()
                return False
        return True

    def say(self, text):
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def learned(self, step, now):
        """Count a step that changed the weights; say so if its loss stands out."""
        self.unusable = 0
        loss = sum(_losses(now).values())
        if loss > SPIKE * self.usual:
            if self.interval.spikes == 0:  # one line for an interval is enough
                self.say(
                    f"step {step}: the loss rose to {loss:.4g}, from {self.usual:.4g} on "
                    "average before",
                )
            self.interval.spikes += 1
        self.interval.add(now)

    def not_finite(self, step, now):
        """A step that did not change the weights, because they would not be finite any more.

        Unless it was only left out, a device has changed nothing in the steps that it made since.
        """
        self.unusable += 1
        if self.config.run.on_nan == "stop" or self.unusable > PATIENCE:
            self.step = step - 1
            self.stop_not_finite(now)
        if self.config.run.on_nan == "rewind":
            if self.saved is not None:
                arrays, about = checkpoint.read(self.folder.checkpoint)
                checkpoint.fill(self.model, arrays, self.folder.checkpoint)
                checkpoint.fill_optimizer(self.optimizer, arrays, about, self.folder.checkpoint)
                self.interval.rewound += 1
            self.step, self.optimizer.unusable = step, 0
        what = "left out" if self.config.run.on_nan == "skip" else f"back to {self.saved_name()}"
        self.say(f"step {step}: not finite, {what}")
        self.interval.skipped += 1

    def stop_not_finite(self, now):
        """Raise NonFiniteError with the step, the numbers, the arrays, and the way back."""
        self.readings.clear()
        self.save()
        wrong = {name: x for name, x in now.items() if not math.isfinite(x)}
        arrays = [name.removeprefix(OF_ARRAY) for name in wrong if name.startswith(OF_ARRAY)]
        arrays = ", ".join(arrays[:3]) + (" and others" if len(arrays) > 3 else "")
        found = ", ".join(f"{k} = {x}" for k, x in wrong.items() if not k.startswith(OF_ARRAY))
        in_a_row = f", for {self.unusable} steps in a row" * (self.unusable > 1)
        raise NonFiniteError(
            f"expected finite losses and gradients, got {found} in step {self.step + 1}{in_a_row}"
            f"{arrays and f' (gradients of {arrays})'}; {self.saved_name()} is good: lower "
            "--learning-rate, bound gradients by --clip-norm, or see --on-nan"
        )

    def saved_name(self):
        if self.saved is None:
            return "no checkpoint"
        return f"{self.folder.checkpoint} of step {self.saved}"

    def write_interval(self, step, rate, seconds):
        means = self.interval.means()
        row = {"step": step, "learning_rate": rate, "seconds": round(seconds, 2)}
        self.folder.append(row | means | self.interval.counts())
        losses = _losses(means)
        self.bar.set_postfix({name: f"{x:.1f}" for name, x in losses.items()}, refresh=False)
        if losses:
            self.usual = sum(losses.values())
        self.interval = Interval()

    def validate(self):
        """Log the losses on validation sequences; keep the weights that did best so far."""
        past = self.config.data.past
        logits = evaluate.decode(self.model, self.validation, past)
        row, loss = {}, 0.0
        for name, z, truth, weight in (
            ("reconstruction", logits[0], self.validation[:past], "reconstruction_weight"),
            ("future", logits[1], self.validation[past:], "future_weight"),
        ):
            if z is not None:
                mean = float(evaluate.loss_per_step(self.model.loss, z, truth).mean())
                row[f"validation {name}"] = mean
                loss += getattr(self.config.loss, weight) * mean
        if not math.isfinite(loss):
            self.stop_not_finite(row)
        self.folder.append({"step": self.step} | row)
        if loss < self.best:
            self.best = loss
            about = {"step": self.step, "D": self.model.D, "validation loss": loss}
            if self.ranks.is_first:
                checkpoint.save(self.folder.best, self.model, None, about)

    def save_or_warn(self):
        """A checkpoint on the way. A full disk may have room again before the next one."""
        try:
            self.save()
        except RunError as error:
            self.bar.write(f"warning: {error}; training goes on from here", file=sys.stderr)

    def save(self):
        """A checkpoint, unless its numbers are not finite: those must not replace good ones."""
        self.read(wait=True)
        if self.saved == self.step:
            return
        for name, param in self.model.params().items():
            if not np.isfinite(to_numpy(param.value)).all():
                raise NonFiniteError(
                    f"expected finite parameters, got others in {name} after step {self.step}; "
                    f"{self.saved_name()} is good: lower --learning-rate"
                )
        about = {
            "step": self.step,
            "D": self.model.D,
            "seconds": self.seconds,
            "best": self.best if math.isfinite(self.best) else None,
            "usual": self.usual if math.isfinite(self.usual) else None,
            "unusable": self.unusable,
            "interval": vars(self.interval),
            "config": self.config.to_toml(),
            "environment": environment(self.ranks.count),
        }
        self.folder.sync_log()
        if self.ranks.is_first:
            checkpoint.save(self.folder.checkpoint, self.model, self.optimizer, about)
        self.saved = self.step
        self.folder.keep(self.step, self.config.run.keep)

    def restore(self, force):
        """Be where the checkpoint was."""
        path = self.folder.checkpoint
        arrays, about = checkpoint.read(path)
        if about.get("step") == 0 and "optimizer_steps" not in about:
            # weights alone, as interop.py imports them: training starts there
            checkpoint.fill(self.model, arrays, path)
            return
        try:
            saved = Config.from_toml(str(about["config"]))
            self.step, self.seconds = _count(about["step"]), _finite(about["seconds"])
            self.best, self.usual = (
                math.inf if about[name] is None else _finite(about[name])
                for name in ("best", "usual")
            )
            self.unusable, interval = _count(about["unusable"]), dict(about["interval"])
            sums = {name: _finite(x) for name, x in interval.pop("sums").items()}
            counts = {name: _count(x) for name, x in interval.items()}
            self.interval = Interval(sums=sums, **counts)
            if sums and not self.interval.steps:
                raise ValueError("sums over no steps")
            then = dict(about["environment"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{path}: expected the state of a run to resume, got {error!r}: use another one"
            ) from error
        now = environment(self.ranks.count)
        if then.get("ranks") != now["ranks"]:  # their sums round differently: no reason to refuse
            self.regrouped = (
                f", on {now['ranks']} ranks, not {then.get('ranks', 'unknown')}: equal within "
                "rounding, not to the bit"
            )
            then |= {name: now[name] for name in REGROUPED if name in now}
        changed = _differences(saved, self.config, then, now)
        if changed and not force:
            raise RunError(
                f"expected what {path} was made with, so that every bit comes out the same, got "
                f"{'; '.join(changed)}: restore that, or go on with --force"
            )
        checkpoint.fill(self.model, arrays, path)
        checkpoint.fill_optimizer(self.optimizer, arrays, about, path)
        self.optimizer.unusable = min(self.unusable, self.optimizer.patience)
        self.saved = self.step
        self.folder.keep(self.step, self.config.run.keep)  # it may have been killed before that

    def draw(self, N=3):
        """curves.png, and unless frames are no pictures, prediction.png and prediction.gif."""
        names = ("reconstruction", "future", "validation reconstruction", "validation future")
        mean = evaluate.mean_image(self.config)
        mean = evaluate.loss_of_mean_image(
            self.model.loss, mean, self.validation[self.config.data.past :]
        )
        series = figures.series_from_rows(self.folder.rows(), names)
        baseline, unit = {"mean image": mean}, self.model.loss.unit
        figures.curves(series, self.folder.path / "curves.png", baseline, unit)
        if len(self.source.frame_shape) == 1:  # percepts
            return
        test, past = experiment.open_source(self.config, "test"), self.config.data.past
        frames = evaluate.sequences(test, N)
        logits = evaluate.decode(self.model, frames, past)
        means = (evaluate.mean_frames(self.model.loss, z) for z in logits)
        drawn = [frames[:past], frames[past:], *means]
        drawn = [x if x is None else as_frames(x, test.frame_shape, test.scale) for x in drawn]
        drawn = *drawn[:2], {"model": drawn[2:]}
        figures.prediction_strip(*drawn, self.folder.path / "prediction.png")
        figures.prediction_gif(*drawn, self.folder.path / "prediction.gif")


@dataclass
class Interval:
    """What has come together since the last row of the log."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    rewound: int = 0
    spikes: int = 0

    def add(self, now: dict[str, float]) -> None:
        """Count one step."""
        self.steps += 1
        self.sums = {name: self.sums.get(name, 0.0) + x for name, x in now.items()}

    def means(self) -> dict[str, float]:
        """The means over the steps that were not skipped."""
        return {name: x / self.steps for name, x in self.sums.items()}

    def counts(self) -> dict[str, int]:
        """What happened that should not; empty in a good interval."""
        counts = {"skipped": self.skipped, "rewound": self.rewound, "spikes": self.spikes}
        return {name: count for name, count in counts.items() if count}


def _in_words(shape):
    """The shape of a frame."""
    if len(shape) == 1:
        return f"{shape[0]} numbers each"
    return f"{shape[0]}x{shape[1]} pixels{' in colour' * (len(shape) == 3)}"


def _losses(numbers):
    return {name: x for name, x in numbers.items() if not name.startswith("gradient_norm")}


def _count(value):
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _finite(value):
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _every(count, step):
    return count > 0 and step % count == 0


def _differences(saved, config, then, now):
    """What is not as it was, in words. The length of a run may change: nothing else."""
    names = [*then, *(name for name in now if name not in then)]
    return differences(saved, config, but=LENGTH) + [
        f"{name} {now.get(name, 'unknown')}, not {then.get(name, 'unknown')}"
        for name in names
        if now.get(name) != then.get(name)
    ]


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
    settings = experiment.read_config(options.resume)
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
