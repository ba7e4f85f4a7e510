"""Many runs, a few at a time: trained, resumed, and evaluated.

    trials = [Trial(out / f"seed{seed}", settings) for seed, settings in ...]
    train_all(trials, workers=2)          # finished runs are left alone
    results = evaluate_all(trials, workers=2, sequences=1000)

Every trial is an ordinary run folder of `python -m minilstm.train`, filled by a process of its own
on one BLAS thread. Two small runs side by side are faster than one after the other on two threads.
Two files lie beside a folder NAME: NAME.toml has the settings given to its process, and
NAME.evaluation-N.json has its evaluation on N sequences.

The processes end when the process that started them ends, even if it is killed. Each of them reads
from a pipe to which nothing is written. The pipe closes when the process at its other end is gone.

Read next: targets.py, which says which runs are needed.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..command import Interrupted, stop_signals
from ..config import Config
from ..errors import MinilstmError, RunError
from ..files import read_json, write_file
from ..runs import build, checkpoint
from ..runs.run_folder import RunFolder, read_log
from ..streams import progress_bar
from ..threads import VARIABLES

POLL_SECONDS = 0.2  # between two looks at the processes


@dataclass(frozen=True)
class Trial:
    """A run folder and the settings of the run. The folder's name is the trial's name."""

    path: Path
    config: Config


@dataclass(frozen=True)
class Task:
    """A command of this package to be run: its words after `python -m`.

    `made()` returns how many of its `steps` are done. What the command prints is written to the
    file `output`, unless that is None.
    """

    name: str
    words: Sequence[str]
    steps: int = 1
    made: Callable[[], int] = lambda: 0
    output: Path | None = None


def train_all(trials: Sequence[Trial], workers: int) -> None:
    """Train the trials that are not finished. A trial that was interrupted is resumed.

    If a run's data were moved, its config.toml gets the new place. Raises RunError if a folder has
    other settings or other data, if a run fails (the message names it), and if another process
    trains or evaluates runs in the same folder.
    """
    _record_places(trials)
    if any(steps_made(trial) != trial.config.run.steps for trial in trials):
        with RunFolder(trials[0].path.parent).claim():  # no other process may work in this folder
            _train_unfinished(trials, workers)


def _train_unfinished(trials, workers):
    tasks, finished = [], 0
    for trial in trials:
        steps = steps_made(trial)
        if steps == trial.config.run.steps:
            finished += steps
            continue
        # a --minutes typed for an earlier start would stop this one too
        minutes = f"{trial.config.run.minutes:g}"
        words = ["minilstm.train", "--resume", str(trial.path), "--minutes", minutes]
        if steps is None:
            settings = trial.path.with_name(f"{trial.path.name}.toml")
            write_file(settings, trial.config.to_toml())
            words[1:] = ["--config", str(settings), "--out", str(trial.path)]
        made = _counter(RunFolder(trial.path).log)
        tasks.append(Task(trial.path.name, [*words, "--quiet"], trial.config.run.steps, made))
    run_all(tasks, workers, "training", "step", finished)


def steps_made(trial: Trial) -> int | None:
    """Return the step of a trial's checkpoint, 0 without one, or None if there is no run yet.

    Settings that change no result may differ: build.FREE, threads, and the place of known data.
    Raises RunError if the folder holds a run with other settings, or on other data.
    """
    folder = RunFolder(trial.path)
    if not folder.config.exists():
        return None
    about = None
    if folder.checkpoint.exists():
        _, about = checkpoint.read(folder.checkpoint, arrays=False)
    there = build.read_config(trial.path)
    may_move = about is None or bool(about.get("data"))
    but = ("run.threads",)  # each of several workers has its share
    if found := build.other_settings(trial.config, there, but, may_move):
        raise RunError(
            f"expected {trial.path} to hold the run that this command asks for, got "
            f"{'; '.join(found)}: delete this folder to train this run anew, or choose another "
            "--out"
        )
    if about is None:
        return 0
    build.expect_same_data(trial.path, trial.config, about)
    return about.get("step")


def _record_places(trials):
    """Write the new place of the data into config.toml of each run whose data were moved.

    `steps_made` raises RunError first if the data at the new place are not the run's own.
    """
    for trial in trials:
        folder = RunFolder(trial.path)
        if not folder.config.exists():
            continue
        settings = build.read_config(trial.path)
        if settings.data != trial.config.data and steps_made(trial) is not None:
            with folder.claim():
                moved = dataclasses.replace(settings, data=trial.config.data)
                write_file(folder.config, moved.to_toml())


def evaluate_all(
    trials: Sequence[Trial], workers: int, sequences: int, backend: str = "numpy"
) -> list[dict]:
    """Return the results of `python -m minilstm.evaluate` on so many sequences, one per trial.

    A result is kept in a file beside its run, and made again only if the run has continued since.
    The file gets the modification time of the checkpoint. Equal times show that the result is
    current, even if the computer's clock was set back. If a run's data were moved, its config.toml
    gets the new place. Raises RunError if a result is damaged, if a run can't be judged (the
    message names it), and if another process works in the folder.
    """
    _record_places(trials)
    paths = [t.path.with_name(f"{t.path.name}.evaluation-{sequences}.json") for t in trials]
    if any(_is_old(*pair) for pair in zip(trials, paths, strict=True)):
        with RunFolder(trials[0].path.parent).claim():  # no other process may work in this folder
            _evaluate_anew(trials, paths, workers, sequences, backend)
    return [read_json(path, "delete it: the same command writes it again") for path in paths]


def _evaluate_anew(trials, paths, workers, sequences, backend):
    old = [pair for pair in zip(trials, paths, strict=True) if _is_old(*pair)]
    tasks = []
    for trial, path in old:
        path.unlink(missing_ok=True)
        words = ["minilstm.evaluate", str(trial.path), "--sequences", str(sequences), "--json"]
        tasks.append(Task(trial.path.name, [*words, "--backend", backend], output=path))
    try:
        run_all(tasks, workers, "evaluation", "run", len(trials) - len(tasks))
    finally:
        for trial, path in old:
            if path.exists():
                written = _written(RunFolder(trial.path).checkpoint)
                os.utime(path, ns=(written, written))


def _is_old(trial, path):
    """Say if an evaluation is missing, or older than its run."""
    return not path.exists() or _written(path) != _written(RunFolder(trial.path).checkpoint)


def _written(path):
    return path.stat().st_mtime_ns


def run_all(
    tasks: Sequence[Task], workers: int, label: str, unit: str = "run", finished: int = 0
) -> None:
    """Run all tasks, `workers` at a time, and show one progress bar.

    `finished` steps were made before. SIGINT, SIGTERM or an error of a task sends a stop signal to
    all tasks, so that they can be resumed. Then Interrupted is raised, or RunError with the name of
    the failed task and its message. After `kill -9` of this process the tasks stop in the same way.
    """
    if not tasks:
        return
    waiting, running = list(tasks), []
    total = finished + sum(task.steps for task in tasks)
    with (
        stop_signals() as stop,
        progress_bar(total=total, initial=finished, desc=label, unit=unit) as bar,
    ):
        try:
            while (waiting or running) and not stop.received:
                while waiting and len(running) < workers:
                    running.append(_Process(waiting.pop(0)))
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    process.finish()
                    finished += process.task.steps
                bar.set_postfix_str(f"{len(waiting) + len(running)} to go", refresh=False)
                bar.update(finished + sum(process.task.made() for process in running) - bar.n)
        finally:
            for process in running:
                process.stop()
            for process in running:
                process.popen.wait()
                process.close()
    if stop.received:
        raise Interrupted(stop.received)


class _Process:
    """A running task. Ctrl-C at the terminal does not reach it; `run_all` passes it on, once."""

    def __init__(self, task: Task):
        self.task = task
        self.out, self.err = (tempfile.TemporaryFile() for _ in range(2))
        self.popen = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import attended; attended()", *task.words],
            env=os.environ | dict.fromkeys(VARIABLES, "1"),
            stdin=subprocess.PIPE,
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self.popen.poll() is not None

    def finish(self) -> None:
        """Write what it printed to the task's output. Raises RunError if the task failed."""
        said, errors = _text(self.out), _text(self.err).strip().splitlines()
        self.close()
        if status := self.popen.returncode:
            error = (errors or [f"status {status}"])[-1].removeprefix("error: ")
            raise RunError(f"{self.task.name}: python -m {self.task.words[0]} failed: {error}")
        if self.task.output:
            write_file(self.task.output, said)

    def stop(self) -> None:
        """Make it save and stop, by closing the pipe that it reads from."""
        self.popen.stdin.close()

    def close(self) -> None:
        """Close the files of a process that has ended."""
        for file in (self.popen.stdin, self.out, self.err):
            file.close()


def attended() -> None:
    """Run the command of a task, inside its process, until it ends or its pipe is closed."""
    threading.Thread(target=_stop_when_the_pipe_closes, daemon=True).start()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


def _stop_when_the_pipe_closes():
    while os.read(0, 1):  # returns no bytes once the other end is closed
        pass
    signal.raise_signal(signal.SIGTERM)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _counter(log):
    """Return a function that returns the last step in a run's log."""

    def made():
        try:
            return read_log(log)[-1]["step"]
        except (MinilstmError, IndexError):  # no log yet, or one that is being cut on resuming
            return 0

    return made
