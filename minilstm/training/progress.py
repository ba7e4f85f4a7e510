"""Progress of a run: its log, validation, checkpoints and pictures.

`Progress` counts the steps and logs their results. It handles numbers that are not finite, and
restores the state that `--resume` continues from.

Read next: ../runs/run_folder.py (the files), ../runs/checkpoint.py, ../evaluation/judging.py.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from .. import threads
from ..backend import current_backend, xp
from ..config import Config, from_toml
from ..data import Source
from ..errors import NonFiniteError, RunError, number_of
from ..evaluation import judging
from ..files import shell_word
from ..gpu.transfers import Readings
from ..gpu.writer import Writer
from ..layers.workspace import Fresh, use_workspace
from ..models import EncoderDecoder
from ..optim import Optimizer
from ..runs import build, checkpoint
from ..runs.run_folder import NAMES, RunFolder, environment, source_hash
from ..streams import progress_bar, warn_instead
from . import pictures
from .distributed import ALONE, Alone
from .step import OF_ARRAY

VALIDATION_SEQUENCES = 200
SLOWER = 2.0  # if steps take this many times as long as at first, a line says so
SLOWER_SECONDS = 10.0  # over which the time of a step is averaged before it is compared
SPIKE_RATIO = 2.0  # a loss this many times the usual one is reported
PATIENCE_STEPS = 10  # steps in a row that are not finite, after which training stops
MAX_STEPS_AHEAD = 100  # steps that a device may be ahead of the log
# parts of the environment that another number of ranks changes
CHANGED_BY_RANKS = ("ranks", "blas num_threads")


class Progress:
    """The state of a run besides weights and optimizer, and its output to the run folder.

    step, seconds          steps made, and seconds of training, resumed ones included
    best                   lowest validation loss so far
    is_finished            True after the last step, or when the minutes are over
    is_step_complete       False during a step: the weights may be updated, and the step not yet
                           counted
    unusable               steps in a row whose losses or gradients were not finite
    saved                  step of the newest checkpoint, or None
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        model: EncoderDecoder,
        optimizer: Optimizer,
        source: Source,
        validation: Source,
        quiet: bool = False,
        ranks: Alone = ALONE,
    ):
        self.config, self.folder, self.model, self.optimizer = config, folder, model, optimizer
        self.ranks, self.regrouped = ranks, ""
        self.notes: list[str] = []  # what the user of a resumed run must know
        self.forced: list[str] = []  # differences that --force accepted
        self.is_disk_full = False
        self.trial_seconds: float | None = None  # of a step, in the trial of threads
        self.source = source
        self.validation = judging.sequences(validation, VALIDATION_SEQUENCES)
        self.validation_chunk = config.run.batch_size  # sequences at a time
        self.data = build.data_fingerprints(config)
        self.quiet = quiet
        self.writer = Writer()
        self.saved = None
        self.is_step_complete = True
        # a resumed run continues with these
        self.step, self.seconds, self.best, self.best_on_disk = 0, 0.0, math.inf, math.inf
        self.interval = Interval()
        self.usual = math.inf  # mean loss of the previous interval
        self.unusable = 0
        self.readings = Readings(
            min(config.run.log_every or MAX_STEPS_AHEAD, MAX_STEPS_AHEAD), ranks.count > 1
        )
        optimizer.patience = PATIENCE_STEPS if config.run.on_nan == "skip" else 0

    def start(self) -> None:
        """Start the clock and the progress bar."""
        run = self.config.run
        self.started = time.monotonic() - self.seconds
        self.until = time.monotonic() + 60 * run.minutes if run.minutes else math.inf
        self.bar = progress_bar(total=run.steps, initial=self.step, unit="step", quiet=self.quiet)
        self.is_finished = self.step >= run.steps
        self.clock = StepClock(self.folder.path, self.trial_seconds)

    def finish_step(self, rate: float, stop: SimpleNamespace) -> bool:
        """Count one more step, and log, validate and save when that is due.

        Returns False if the run is back at an earlier step, so that its batch has to be drawn
        again.
        """
        run = self.config.run
        self.writer.raise_error()
        self.step += 1
        self.bar.update()
        if slower := self.clock.slower():
            self.say(f"step {self.step}: {slower}")
        self.seconds = time.monotonic() - self.started
        self.readings.add((self.step, rate, self.seconds))
        late = run.minutes and self.ranks.largest(time.monotonic() > self.until)
        self.is_finished = self.step == run.steps or bool(late)
        validating = self.is_finished or _every(run.validate_every, self.step)
        saving = _every(run.checkpoint_every, self.step) and not self.is_finished
        if not self.read(wait=validating or saving or bool(stop.received)):
            self.is_finished, self.bar.n = False, self.step
            return False
        if self.is_finished and not _every(run.log_every, self.step):
            self.write_interval(self.step, rate, self.seconds)
        is_best = validating and self.validate()
        if is_best or saving:
            self.write(is_best, saving)
        self.is_step_complete = True
        self.clock.next()
        return True

    def read(self, wait: bool = False) -> bool:
        """Log the results of steps that have arrived from the device; with `wait`, of all steps.

        Returns False if a result took the run back to an earlier step.
        """
        made = self.step
        for (step, rate, seconds), results in self.readings.take(wait):
            if all(map(math.isfinite, results.values())):
                self.learned(step, results)
            else:
                self.not_finite(step, results)
            if _every(self.config.run.log_every, step):
                self.write_interval(step, rate, seconds)
            if self.step < made:
                self.readings.clear()
                return False
        return True

    def log(self, row: dict) -> None:
        """Append a row to the log. On a full disk it is written later; the first time warns."""
        trouble = self.folder.append(row)
        if trouble and not self.is_disk_full:
            self.warn(f"{trouble}; the row is written later")
        self.is_disk_full = bool(trouble)

    def warn(self, trouble: object) -> None:
        """Print above the progress bar an error that does not end the run."""
        self.bar.write(f"warning: {trouble}; training continues", file=sys.stderr)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def learned(self, step: int, results: dict[str, float]) -> None:
        """Count a step that changed the weights. Report a loss that stands out."""
        self.unusable = 0
        loss = sum(_losses(results).values())
        if loss > SPIKE_RATIO * self.usual:
            if self.interval.spikes == 0:  # one line per interval is enough
                self.say(
                    f"step {step}: the loss rose to {loss:.4g}, from {self.usual:.4g} on "
                    "average before",
                )
            self.interval.spikes += 1
        self.interval.add(results)

    def not_finite(self, step: int, results: dict[str, float]) -> None:
        """Handle a step whose loss or gradient was not finite; it did not change the weights.

        With --on-nan skip the next step follows. With rewind the newest checkpoint is restored.
        With stop, or after PATIENCE_STEPS such steps in a row, NonFiniteError is raised.
        """
        self.unusable += 1
        if self.config.run.on_nan == "stop" or self.unusable > PATIENCE_STEPS:
            self.step = step - 1
            self.stop_not_finite(results)
        what = "left out"
        if self.config.run.on_nan == "rewind":
            what = f"back to {self.saved_name()}"
            self.ranks.largest(0)  # the other ranks wait until the first has written it
            arrays, about = checkpoint.read(self.folder.checkpoint)
            checkpoint.fill(self.model, arrays, self.folder.checkpoint)
            checkpoint.fill_optimizer(self.optimizer, arrays, about, self.folder.checkpoint)
            self.interval.rewound += 1
            self.step, self.optimizer.unusable = step, 0
        self.say(f"step {step}: not finite, {what}")
        self.interval.skipped += 1

    def stop_not_finite(self, results: dict[str, float]) -> NoReturn:
        """Raise NonFiniteError with the step, the numbers, the arrays and the remedy."""
        self.readings.clear()
        if self._are_losses_finite():  # if not, the previous checkpoint is better
            self.save()
        wrong = {name: x for name, x in results.items() if not math.isfinite(x)}
        arrays = [name.removeprefix(OF_ARRAY) for name in wrong if name.startswith(OF_ARRAY)]
        arrays = ", ".join(arrays[:3]) + (" and others" if len(arrays) > 3 else "")
        found = ", ".join(f"{k} = {x}" for k, x in wrong.items() if not k.startswith(OF_ARRAY))
        in_a_row = f", for {self.unusable} steps in a row" if self.unusable > 1 else ""
        raise NonFiniteError(
            f"expected finite losses and gradients, got {found} in step {self.step + 1}{in_a_row}"
            f"{arrays and f' (gradients of {arrays})'}; the newest checkpoint is "
            f"{self.saved_name()}: lower --learning-rate, bound gradients by --clip-norm, or see "
            "--on-nan"
        )

    def _validation_losses(self):
        """Return the losses on validation sequences."""
        rows = -(-self.config.run.batch_size // self.ranks.count)
        own = use_workspace(Fresh()) if self.validation_chunk > rows else contextlib.nullcontext()
        with own:  # a chunk of the batch size uses the buffers of a training step
            return judging.losses_and_means(
                self.model, self.validation, self.config.data.past, with_means=False,
                chunk=self.validation_chunk,
            )  # fmt: skip

    def _are_losses_finite(self):
        """Return True if training on the validation sequences would give finite losses."""
        found = self._validation_losses()
        # Validation adds in float64 and gives means over sequences. Training adds the losses of all
        # sequences of a batch in the run's dtype, where a smaller sum overflows.
        largest = float(xp.finfo(self.model.dtype).max) / self.config.run.batch_size
        return all(per_step.sum() <= largest for per_step, _ in found.values())

    def saved_name(self) -> str:
        """Wait until the newest checkpoint is written, and return it in words."""
        self.writer.wait()
        if self.saved is None:
            return "no checkpoint"
        return f"{self.folder.checkpoint} of step {self.saved}"

    def write_interval(self, step: int, rate: float, seconds: float) -> None:
        """Append a row to the log, with means since the row before."""
        means = self.interval.means()
        row = {"step": step, "learning_rate": rate, "seconds": round(seconds, 2)}
        self.log(row | means | self.interval.counts())
        losses = _losses(means)
        self.bar.set_postfix({name: f"{x:.1f}" for name, x in losses.items()}, refresh=False)
        if losses:
            self.usual = sum(losses.values())
        self.interval = Interval()

    def validate(self) -> bool:
        """Log the losses on validation sequences. Return True if their sum is the lowest so far."""
        found = self._validation_losses()
        row, loss = {}, 0.0
        for name, (per_step, _) in found.items():
            mean = float(per_step.mean())
            row[f"validation {name}"] = mean
            loss += self.config.loss.weights[name] * mean
        if not math.isfinite(loss):
            found = ", ".join(f"{name} = {x}" for name, x in row.items())
            raise NonFiniteError(  # nothing is saved: these weights are bad
                f"expected finite losses, got {found} after step {self.step}; "
                f"{self.saved_name()} is older: lower --learning-rate"
            )
        self.log({"step": self.step} | row)
        is_best = loss < self.best
        self.best = min(loss, self.best)
        return is_best

    def save(self) -> None:
        """Save a checkpoint, unless one of this step exists. Wait until it is on the disk.

        Raises NonFiniteError for parameters that are not finite, which must not replace good ones.
        """
        self.read(wait=True)
        self.writer.wait()
        if self.saved != self.step:
            self.write(best=False, saving=True, is_last=True)
            self.writer.wait()

    def write(self, best: bool, saving: bool, is_last: bool = False) -> None:
        """Write the best weights, a checkpoint, or both. On a GPU training goes on meanwhile.

        Raises RunError if the last checkpoint can't be written. For an earlier one, or for the best
        weights, it only warns, because the next may succeed. Raises NonFiniteError for parameters
        that are not finite.
        """
        step, keep = self.step, self.config.run.keep
        for name, param in self.model.params().items():
            if not xp.isfinite(param.value).all():
                raise NonFiniteError(
                    f"expected finite parameters, got others in {name} after step {step}; "
                    f"the newest checkpoint is {self.saved_name()}: lower --learning-rate"
                )
        if not self.ranks.is_first:
            self.saved = step if saving else self.saved
            return
        about = {"step": step, "D": self.model.D}
        lowest = self.best
        about_best = about | {"validation loss": lowest}
        arrays, about_best = checkpoint.contents(self.model, None, about_best)
        if saving:
            about |= self.state()
            arrays, about = checkpoint.contents(self.model, self.optimizer, about)

        def write_both(arrays):
            if best:
                weights = {name: arrays[name] for name in self.model.params()}
                try:
                    checkpoint.write(self.folder.best, weights, about_best)
                    self.best_on_disk = lowest
                except RunError as error:
                    self.best = self.best_on_disk  # the next better weights are written again
                    self.warn(error)
            try:
                if saving:
                    self.folder.sync_log()
                    checkpoint.write(self.folder.checkpoint, arrays, about)
                    self.saved = step
                if saving and step:  # step 0 is not kept: nothing is learned in it
                    self.folder.keep(step, keep)
            except RunError as error:
                if is_last:
                    raise
                self.warn(error)

        self.writer.start(write_both, arrays)

    def state(self) -> dict:
        """Return what a checkpoint holds besides arrays, such as the time and the settings."""
        return {
            "seconds": self.seconds,
            "best": self.best if math.isfinite(self.best) else None,
            "usual": self.usual if math.isfinite(self.usual) else None,
            "unusable": self.unusable,
            "interval": vars(self.interval),
            "config": self.config.to_toml(),
            "environment": environment(self.ranks.count),
            "source_hash": source_hash(),
            "forced": self.forced,
        } | ({"data": self.data} if self.data else {})

    def restore(self, force: bool, new_threads: str = "") -> None:
        """Restore the state of the checkpoint. Raises RunError if it is not that of this run.

        With `force` other settings, versions and data are accepted. `new_threads` is the number of
        threads to use in place of that of the first part of the run.
        """
        path = self.folder.checkpoint
        arrays, about = checkpoint.read(path)
        if about.get("step") == 0 and "optimizer_steps" not in about:
            # weights without an optimizer, from interop.py: training starts from them
            checkpoint.fill(self.model, arrays, path)
            return
        try:
            saved = from_toml(str(about["config"]))
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
            data = dict(about.get("data", {}))  # older runs have none
            self.forced = [str(text) for text in about.get("forced", [])]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{path}: expected the state of a run to resume, got {error!r}: use another one"
            ) from error
        if then.get("ranks") == "1" and str(then.get("blas num_threads")).isdecimal():
            threads.limit(int(then["blas num_threads"]))  # as in the first part of the run
        if new_threads:
            threads.choose(new_threads, lambda: None)
        now = environment(self.ranks.count)
        grouped = []  # otherwise than before: sums round differently, which is allowed and reported
        if then.get("ranks") != now["ranks"]:
            grouped.append(f"on {now['ranks']} ranks, not {then.get('ranks', 'unknown')}")
            then |= {name: now[name] for name in CHANGED_BY_RANKS if name in now}
        before, number = (about.get("blas num_threads", "unknown") for about in (then, now))
        if new_threads and before != number:
            count = "1 thread" if number == "1" else f"{number} threads"
            grouped.append(f"with {count}, not {before} as before")
            then["blas num_threads"] = number
        if grouped:
            self.regrouped = f", {', '.join(grouped)}: equal within rounding, not to the bit"
        changed = build.other_settings(saved, self.config, ("run.steps",), may_move=bool(data))
        changed += [
            f"{name} {now.get(name, 'unknown')}, not {then.get(name, 'unknown')}"
            for name in dict.fromkeys((*then, *now))
            if now.get(name) != then.get(name)
        ]
        changed += [
            f"other {role} ({self.data.get(role, 'none')})"
            for role in build.other_data(data, self.data)
        ]
        if changed and not force:
            raise RunError(
                f"expected the settings, data and machine of {path}, so that the result has the "
                f"same bits, got {'; '.join(changed)}: restore them, or go on with --force"
            )
        if changed:
            self.forced.append(f"after step {self.step}: {'; '.join(changed)}")
            self.notes.append(f"--force accepts {'; '.join(changed)}")
        if about.get("source_hash") != source_hash():
            self.notes.append(
                "minilstm's source files have changed since this checkpoint, so the last bits may "
                "differ"
            )
        if math.isfinite(self.best) and self.ranks.is_first and not self.folder.best.exists():
            self.best = math.inf
            self.notes.append(f"{self.folder.best} is lost: the next validation makes it anew")
        self.best_on_disk = self.best
        if later := self.folder.later_than(self.step):
            self.notes.append(
                f"{later[0].name} and later ones were made before the run went back to step "
                f"{self.step}: delete them if you do not need them"
            )
        checkpoint.fill(self.model, arrays, path)
        checkpoint.fill_optimizer(self.optimizer, arrays, about, path)
        self.optimizer.unusable = min(self.unusable, self.optimizer.patience)
        # after --force the newest settings and data must be in a checkpoint at once
        self.saved = -1 if changed else self.step
        if self.step:
            try:  # the run may have been interrupted before it kept this checkpoint
                self.folder.keep(self.step, self.config.run.keep)
            except RunError as error:
                self.notes.append(str(error))

    def draw(self) -> None:
        """Draw curves.png. If frames are pictures, also draw prediction.png and prediction.gif.

        A picture that can't be drawn is only a warning, because the run itself is saved.
        """
        with warn_instead("there is no picture of the loss"):
            pictures.draw_curves(self.config, self.folder, self.model.loss, self.validation)
        if len(self.source.frame_shape) > 1:  # percepts are no pictures
            with warn_instead("there is no picture of predictions"):
                pictures.draw_predictions(self.config, self.folder, self.model)

    def what_next(self, go_on: str = "") -> str:
        """Say which files the run has written, and what to type next.

        `go_on` is the command that continues the run, train --resume by default.
        """
        run = shell_word(self.folder.path)
        written = [name for name in NAMES if (self.folder.path / name).exists()]
        commands = {f"python -m minilstm.evaluate {run}": "judge it on unseen sequences"}
        if self.step < self.config.run.steps:
            commands = {go_on or f"python -m minilstm.train --resume {run}": "go on"} | commands
        if len(self.source.frame_shape) > 1:  # percepts are no pictures
            commands[f"python -m minilstm.report {run}"] = "write one page about it"
        width = max(map(len, commands))
        rows = [f"{command:<{width}}  {why}" for command, why in commands.items()]
        return "\n".join(
            (
                f"made      {self.step:,} of {number_of(self.config.run.steps, 'step', ',')}",
                f"wrote     {', '.join(written)} in {self.folder.path}",
                "next      " + "\n          ".join(rows),
            )
        )


class StepClock:
    """Compare the time of a step with that at the start, to report a run that slows down.

    The time of a step is a mean over SLOWER_SECONDS. That at the start is the time in the trial of
    threads, or that of the fastest of the first steps if it is longer, because the trial makes no
    update. If there was no trial, it is the mean of the first steps. On a GPU nothing is compared.
    """

    def __init__(self, run: Path, trial_seconds: float | None = None):
        self.run, self.trial, self.first = run, trial_seconds, None
        self.said = current_backend().name != "numpy"
        self.steps, self.seconds, self.fastest = 0, 0.0, math.inf
        self.next()

    def next(self) -> None:
        """Start the clock of a step. Validations and checkpoints before it do not count."""
        self.begun = time.monotonic()

    def slower(self) -> str:
        """Stop the clock of a step. Return a message once, if steps have become slower, else ""."""
        seconds = time.monotonic() - self.begun
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        self.fastest = min(seconds, self.fastest)
        if self.said or self.seconds < SLOWER_SECONDS:
            return ""
        mean = self.seconds / self.steps
        self.steps, self.seconds = 0, 0.0
        if self.first is None:
            self.first = mean if self.trial is None else max(self.trial, self.fastest)
        if mean < SLOWER * self.first:
            return ""
        self.said = True
        said = (
            f"a step takes {1e3 * mean:.3g} ms by now, {1e3 * self.first:.3g} ms "
            f"{'at first' if self.trial is None else 'at best'}: other programs use the CPUs"
        )
        if threads.blas().get("num_threads", 1) == 1:
            return said
        return (
            f"{said}; it may be faster to stop with Ctrl-C and to go on by python -m "
            f"minilstm.train --resume {shell_word(self.run)} --threads 1"
        )


@dataclass
class Interval:
    """Sums and counts since the last row of the log."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    rewound: int = 0
    spikes: int = 0

    def add(self, results: dict[str, float]) -> None:
        """Count one step."""
        self.steps += 1
        self.sums = {name: self.sums.get(name, 0.0) + x for name, x in results.items()}

    def means(self) -> dict[str, float]:
        """Return the means over the steps that were not skipped."""
        return {name: x / self.steps for name, x in self.sums.items()}

    def counts(self) -> dict[str, int]:
        """Return the counts of skipped, rewound and spiking steps, where not zero."""
        counts = {"skipped": self.skipped, "rewound": self.rewound, "spikes": self.spikes}
        return {name: count for name, count in counts.items() if count}


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
