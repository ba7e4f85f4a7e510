"""Train a model: the main command.

    python -m minilstm.train                                   a composite model, five minutes
    python -m minilstm.train table2-composite toronto2015      a row of Table 2, as in 2015

`training_step` is the whole of learning: forward, losses, backward, update. The rest of this
file brings the batches, writes the log, and draws what came of it into a run folder:

    config.toml   metrics.jsonl   checkpoint.safetensors   curves.png   prediction.png / .gif

Slides: "Objectives", "Predicting The Future". Read next: evaluate.py.
"""

from __future__ import annotations

import json
import math
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import checkpoint, config, evaluate, experiment, figures, metrics
from .backend import asarray, to_numpy, use_backend
from .command import Parser, run_command
from .config import Config
from .data import as_vectors
from .data.shuffle import keyed_rng
from .errors import NonFiniteError, RunError
from .files import write_file
from .models import EncoderDecoder
from .optim import Optimizer, clip_norm, make_optimizer, schedule
from .workspace import Reused, use_workspace

FEEDING, DROPOUT = 3, 4  # the purposes of random numbers; see data/shuffle.py
VALIDATION = 200  # sequences


@dataclass(frozen=True)
class Batch:
    """What one step learns from: frames (T, B, D), and the step's random choices."""

    past: np.ndarray
    future: np.ndarray
    feed_truth: tuple | bool
    masks: tuple | None


def training_step(
    model: EncoderDecoder, optimizer: Optimizer, batch: Batch, config: Config, rate: float
) -> dict:
    """One update. Returns the losses (0-d arrays, nats per frame) and the gradient's norm."""
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
        frames = {"mean": 1, "batch_mean": len(z), "sum": len(z) * B}[config.loss.gradient_scale]
        dz, _ = model.loss.backward(weight * frames, loss_cache)
        dlogits.append(dz)

    grad = model.flat().grad
    grad.fill(0)
    model.backward(tuple(dlogits), cache, want_dinputs=False)
    norm = clip_norm(grad, config.optimizer.clip_norm)
    optimizer.step(rate)
    return losses | {"gradient_norm": norm}


# ---------------------------------------------------------------- what a step is given


def draw_batch(source, config: Config, k: int) -> Batch:
    """Batch number k with its random choices, on the host: a function of (config, k) alone."""
    frames = as_vectors(source.batch(k, config.run.batch_size))
    if frames.dtype != config.run.precision:
        frames = frames.astype(config.run.precision)
    past = config.data.past
    return Batch(frames[:past], frames[past:], draw_feeding(config, k), draw_masks(config, k))


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
    """Batches k = first, ..., last - 1, drawn by a thread while the training step computes."""

    def __init__(self, source, config: Config, first: int, last: int):
        self._queue = queue.Queue(maxsize=3)
        self._stopped = threading.Event()
        arguments = (source, config, range(first, last))
        self._thread = threading.Thread(target=self._draw, args=arguments, daemon=True)
        self._thread.start()

    def _draw(self, source, config, numbers):
        for k in numbers:
            try:
                batch = draw_batch(source, config, k)
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
        """The next batch, on the device."""
        batch = self._queue.get()
        if isinstance(batch, Exception):
            raise batch
        return Batch(*(_to_device(item) for item in vars(batch).values()))

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()
        self._thread.join()


def _to_device(item):
    if isinstance(item, tuple):
        return tuple(_to_device(part) for part in item)
    return asarray(item, item.dtype) if isinstance(item, np.ndarray) else item


# ---------------------------------------------------------------- what a step costs


def gflop_per_step(model: EncoderDecoder, config: Config) -> float:
    """Multiplications and additions of the matrix products of one step, in 1e9."""
    past, future = config.data.past, config.data.future
    steps = {"encoder": past, "reconstruct": past, "predict": future}
    data = ["encoder.0."]
    if config.feeding.inputs == "truth":
        data += ["reconstruct.stack.0.", "predict.stack.0."]
    products = 0
    for name, param in model.params().items():
        if param.value.ndim == 2 and not name.endswith("Wp"):
            # forward, gradient of the weight, gradient of the input; data needs no gradient
            passes = 2 if name in [prefix + W for prefix in data for W in ("Wx", "Wi")] else 3
            uses = steps[name.partition(".")[0]]
            uses -= config.model.start == "read" and ".stack." in name
            products += passes * param.value.size * uses
    return 2 * products * config.run.batch_size / 1e9


def memory_needed(model: EncoderDecoder, config: Config) -> int:
    """Bytes that training takes: parameters, gradients, optimizer state, and a step's buffers.

    The buffers are measured on batches of one and two sequences, and grow evenly from there.
    """
    on_host = use_backend.name == "numpy"
    states = {"adam": 2, "rmsprop": 2, "sgd": 1}[config.optimizer.rule]
    weights = (2 + states) * model.flat().value.nbytes
    with use_backend("numpy", config.run.precision):  # the pool that counts is the host's
        twin = model if on_host else experiment.build_model(config, model.D)
        one, two = (_buffers(twin, config, B) for B in (1, 2))
    frames = (config.data.past + config.data.future) * model.D * model.flat().value.itemsize
    B = config.run.batch_size
    return weights + one + (B - 1) * (two - one) + 4 * B * frames  # batches that wait, too


def _buffers(model, config, B):
    past, future = config.data.past, config.data.future
    frames = np.zeros((past + future, B, model.D), config.run.precision)
    x = asarray(frames, frames.dtype)
    feed = config.feeding.inputs == "truth"
    with use_workspace(Reused()) as workspace:
        outputs, cache = model.forward(x[:past], x[past:], future, feed)
        dlogits = []
        for z in outputs:
            if z is not None:
                _, loss_cache = model.loss.forward(z, z)
                z = model.loss.backward(1.0, loss_cache)[0]
            dlogits.append(z)
        model.backward(tuple(dlogits), cache, want_dinputs=False)
    model.flat().grad.fill(0)
    return workspace.nbytes


def announce(model: EncoderDecoder, config: Config, shape: tuple[int, int], out: Path) -> str:
    """What is about to happen, in five lines."""
    c, d, r = config.model, config.data, config.run
    conditional = {"none": "", "both": ", both decoders conditional"}
    conditional = conditional.get(c.conditional, f", {c.conditional} conditional")
    memory = memory_needed(model, config)
    memory = f"{memory / 1e9:.1f} GB" if memory >= 1e9 else f"{memory / 1e6:.0f} MB"
    length = f"{r.steps:,} steps" + (f" or {r.minutes:g} minutes" if r.minutes else "")
    return "\n".join(
        (
            f"model     {c.kind}{conditional}: {c.layers} layer{'s' * (c.layers > 1)} of "
            f"{c.hidden} units ({c.cell}), {model.flat().value.size:,} parameters",
            f"data      {d.source}: {d.past} frames in, {d.future} to predict, "
            f"{shape[0]}x{shape[1]} pixels",
            f"training  {length} of {r.batch_size} sequences, {config.optimizer.rule}, "
            f"seed {r.seed}",
            f"cost      {memory} of memory, {gflop_per_step(model, config):.3g} GFLOP per "
            f"step, on {r.backend} in {r.precision}",
            f"run       {out}",
        )
    )


# ---------------------------------------------------------------- the run


def refuse_folder(out: Path, force: bool) -> None:
    """Raise RunError if `out` is no place for a new run: before anything is computed or printed."""
    try:
        if out.exists() and not out.is_dir():
            raise RunError(f"expected --out to name a folder, got the file {out}: choose another")
        if (out / "config.toml").exists() and not force:
            raise RunError(
                f"expected a new run folder, got {out}, which holds a run: choose another "
                "--out, or overwrite it with --force"
            )
        if out.is_dir() and any(out.iterdir()) and not (out / "config.toml").exists():
            raise RunError(
                f"expected a new or empty run folder, got {out} with other files in it: choose "
                "another --out"
            )
    except OSError as error:
        raise _no_folder(out, error) from error


def make_folder(out: Path) -> None:
    """Make the run folder, or empty it of the run that it holds."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise _no_folder(out, error) from error


def _no_folder(out, error):
    return RunError(
        f"expected to make the run folder {out}, got {error.strerror!r}: choose another --out"
    )


FILES = (
    "metrics.jsonl",
    "checkpoint.safetensors",
    "curves.png",
    "prediction.png",
    "prediction.gif",
    "config.toml",
)


def train(config: Config, out: Path, force: bool = False, quiet: bool = False) -> EncoderDecoder:
    """Train what `config` describes into the run folder `out`. Returns the model.

    Raises NonFiniteError when a loss or gradient is not a finite number, and KeyboardInterrupt
    after writing a checkpoint.
    """
    refuse_folder(out, force)
    source = experiment.open_source(config, "train")
    validation = experiment.open_source(config, "validation")
    D = math.prod(source.frame_shape)
    model = experiment.build_model(config, D)
    optimizer = build_optimizer(model, config)
    description = announce(model, config, source.frame_shape, out)
    if not quiet:
        print(description, flush=True)
    make_folder(out)
    write_file(out / "config.toml", config.to_toml())

    run = _Run(config, out, model, optimizer, source, validation)
    try:
        # numbers that are not finite end the run, in words; NumPy's warnings say it twice
        with use_workspace(Reused()), np.errstate(all="ignore"):
            run.loop(quiet)
    finally:
        run.save()
    run.draw()
    return model


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
    """One run: the loop, its log, its checkpoint and its pictures."""

    def __init__(self, config, out, model, optimizer, source, validation):
        self.config, self.out, self.model, self.optimizer = config, out, model, optimizer
        self.source, self.rate = source, build_schedule(config)
        self.validation = evaluate.sequences(validation, VALIDATION)
        self.log = out / "metrics.jsonl"
        self.step = 0

    def loop(self, quiet):
        from tqdm import tqdm

        run = self.config.run
        started = time.monotonic()
        bar = tqdm(total=run.steps, unit="step", disable=quiet, dynamic_ncols=True)
        batches = BatchesAhead(self.source, self.config, self.step, run.steps)
        summed, since, last = None, self.step, False
        try:
            while not last:
                rate = self.rate(self.step)
                now = training_step(self.model, self.optimizer, batches.next(), self.config, rate)
                self.step += 1
                summed = {k: summed[k] + x for k, x in now.items()} if summed else now
                bar.update()
                seconds = time.monotonic() - started
                late = run.minutes and seconds > 60 * run.minutes
                last = self.step == run.steps or late
                if last or (run.log_every and self.step % run.log_every == 0):
                    row = {k: float(x) / (self.step - since) for k, x in summed.items()}
                    self.check_finite(row)
                    self.write({"learning_rate": rate, "seconds": round(seconds, 2)} | row)
                    shown = {k: f"{x:.1f}" for k, x in row.items() if k != "gradient_norm"}
                    bar.set_postfix(shown, refresh=False)
                    summed, since = None, self.step
                if last or (run.validate_every and self.step % run.validate_every == 0):
                    self.validate()
                if run.checkpoint_every and self.step % run.checkpoint_every == 0:
                    self.save()
        finally:
            bar.close()
            batches.stop()

    def write(self, row):
        try:
            with self.log.open("a") as file:
                file.write(json.dumps({"step": self.step} | row) + "\n")
        except OSError as error:
            raise RunError(
                f"{self.log}: expected a log that can be written, got {error.strerror!r}: is the "
                "run folder still there, and is there room?"
            ) from error

    def check_finite(self, row):
        for name, value in row.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"expected finite losses and gradients, got {name} = {value} by step "
                    f"{self.step}: lower --learning-rate, or bound gradients by --clip-norm"
                )

    def validate(self):
        past = self.config.data.past
        logits = evaluate.decode(self.model, self.validation, past)
        row = {}
        for name, z, truth in (
            ("reconstruction", logits[0], self.validation[:past]),
            ("future", logits[1], self.validation[past:]),
        ):
            if z is not None:
                loss = evaluate.loss_per_step(self.model.loss, z, truth).mean()
                row[f"validation {name}"] = float(loss)
        self.check_finite(row)
        self.write(row)

    def save(self):
        """A checkpoint, unless its numbers are not finite: those must not replace good ones."""
        if not np.isfinite(to_numpy(self.model.flat().value)).all():
            return
        about = {"step": self.step, "D": self.model.D}
        checkpoint.save(self.out / "checkpoint.safetensors", self.model, self.optimizer, about)

    def draw(self, N=3):
        """curves.png, prediction.png and prediction.gif, from unseen test digits."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        names = ("reconstruction", "future", "validation reconstruction", "validation future")
        mean = metrics.mean_image(evaluate.mean_image(self.config), self.validation).mean()
        series = figures.series_from_rows(rows, names)
        figures.curves(series, self.out / "curves.png", {"mean image": mean})
        test, past = experiment.open_source(self.config, "test"), self.config.data.past
        frames = evaluate.sequences(test, N)
        logits = evaluate.decode(self.model, frames, past)
        means = (evaluate.mean_frames(self.model.loss, z) for z in logits)
        drawn = [frames[:past], frames[past:], *means]
        drawn = [x if x is None else x.reshape(*x.shape[:2], *test.frame_shape) for x in drawn]
        figures.prediction_strip(*drawn, self.out / "prediction.png")
        figures.prediction_gif(*drawn, self.out / "prediction.gif")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.train",
        usage="%(prog)s [PRESET ...] [--config FILE] [--out RUN] [--SETTING VALUE ...]",
        description="Train a model of the paper. Without arguments: a composite model on bundled "
        "moving digits, in five minutes on two cores.",
    )
    parser.add_argument("--out", metavar="RUN", help="the run folder (default: runs/MODEL-SEED)")
    parser.add_argument("--force", action="store_true", help="overwrite a run that is there")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    config.add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)  # presets may stand between flags
    settings = config.from_arguments(options)
    default = f"runs/{settings.model.kind}-{settings.run.seed}"
    use_backend(settings.run.backend, settings.run.precision)
    train(settings, Path(options.out or default), options.force, options.quiet)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
