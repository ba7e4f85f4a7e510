"""Many runs, a few at a time: trained, taken up again, and judged.

    trials = [Trial(out / f"seed{seed}", settings) for seed, settings in ...]
    train_all(trials, workers=2)          # what is finished is left alone
    results = evaluate_all(trials, workers=2, sequences=1000)

Every trial is an ordinary run folder of `python -m minilstm.train`, which a process of its own
fills, on one BLAS thread: two small runs side by side are faster than one after the other on two
threads. Beside a folder NAME lie NAME.toml, what its process was told, and what NAME was found
to be worth, NAME.evaluation-N.json.

The processes end with the one that started them, however that ends: each reads from a pipe that
nobody writes to, and that closes by itself when the process at its other end is gone.

Read next: reproduce.py, which says which runs.
"""

from __future__ import annotations

import json
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
from ..config import Config, differences
from ..errors import MinilstmError, RunError
from ..files import write_file
from ..runs import build, checkpoint
from ..runs.run_folder import RunFolder, read_log

LOOK = 0.2  # seconds between two looks at the processes
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Trial:
    """A run folder, whose name is the trial's, and what is trained there."""

    path: Path
    config: Config


@dataclass(frozen=True)
class Task:
    """A command of this package: its words after `python -m`, and what it leaves.

    `made` counts its steps of `steps`; what it prints goes into the file `output`, if it has one.
    """

    name: str
    words: Sequence[str]
    steps: int = 1
    made: Callable[[], int] = lambda: 0
    output: Path | None = None


def train_all(trials: Sequence[Trial], workers: int) -> None:
    """Train what is not trained yet; a trial that stopped half-way goes on from there.

    Raises RunError for a folder with other settings, and for a run that fails, by name.
    """
    tasks, finished = [], 0
    for trial in trials:
        steps = steps_made(trial)
        if steps == trial.config.run.steps:
            finished += steps
            continue
        words = ["minilstm.train", "--resume", str(trial.path)]
        if steps is None:
            settings = trial.path.with_name(f"{trial.path.name}.toml")
            trial.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(settings, trial.config.to_toml())
            words[1:] = ["--config", str(settings), "--out", str(trial.path)]
        made = _counter(RunFolder(trial.path).log)
        tasks.append(Task(trial.path.name, [*words, "--quiet"], trial.config.run.steps, made))
    run_all(tasks, workers, "training", "step", finished)


def steps_made(trial: Trial) -> int | None:
    """The steps of which a trial has a checkpoint; None for a folder that holds no run."""
    folder = RunFolder(trial.path)
    if not folder.config.exists():
        return None
    if found := differences(build.read_config(trial.path), trial.config):
        raise RunError(
            f"expected {trial.path} to hold the run that this command asks for, got other "
            f"settings: {'; '.join(found)}: choose another --out"
        )
    if not folder.checkpoint.exists():
        return 0
    return checkpoint.read(folder.checkpoint, arrays=False)[1].get("step")


def evaluate_all(trials: Sequence[Trial], workers: int, sequences: int) -> list[dict]:
    """What `python -m minilstm.evaluate` says of each trial on so many sequences, as it orders.

    It is kept beside the run, and asked for again only where the run went on since.
    """
    paths = [t.path.with_name(f"{t.path.name}.evaluation-{sequences}.json") for t in trials]
    tasks = []
    for trial, path in zip(trials, paths, strict=True):
        written = RunFolder(trial.path).checkpoint.stat().st_mtime
        if not path.exists() or path.stat().st_mtime < written:
            words = ["minilstm.evaluate", str(trial.path), "--sequences", str(sequences), "--json"]
            tasks.append(Task(trial.path.name, words, output=path))
    run_all(tasks, workers, "evaluation", "run", len(trials) - len(tasks))
    return [json.loads(path.read_text()) for path in paths]


def run_all(
    tasks: Sequence[Task], workers: int, label: str, unit: str = "run", finished: int = 0
) -> None:
    """Run all tasks, so many at a time, behind one line of progress.

    `finished` steps were made before. SIGINT, SIGTERM or an error stop all of them as a signal
    would stop each, so that they can be taken up again: Interrupted, or RunError that names the
    task that failed and what it said. So does `kill -9`, after which nobody is left to say it.
    """
    from tqdm import tqdm

    if not tasks:
        return
    waiting, running = list(tasks), []
    total = finished + sum(task.steps for task in tasks)
    with (
        stop_signals() as stop,
        tqdm(total=total, initial=finished, desc=label, unit=unit, dynamic_ncols=True) as bar,
    ):
        try:
            while (waiting or running) and not stop.received:
                while waiting and len(running) < workers:
                    running.append(_Process(waiting.pop(0)))
                time.sleep(LOOK)
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    process.finish()
                    finished += process.task.steps
                bar.set_postfix_str(f"{len(waiting) + len(running)} to go", refresh=False)
                bar.update(finished + sum(process.task.made() for process in running) - bar.n)
        finally:
            for process in running:
                process.let_go()
            for process in running:
                process.popen.wait()
                process.close()
    if stop.received:
        raise Interrupted(stop.received)


class _Process:
    """A task at work. A Ctrl-C at the terminal doesn't reach it: `run_all` passes it on, once."""

    def __init__(self, task: Task):
        self.task = task
        self.out, self.err = (tempfile.TemporaryFile() for _ in range(2))
        self.popen = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import attended; attended()", *task.words],
            env=os.environ | dict.fromkeys(THREADS, "1"),
            stdin=subprocess.PIPE,
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
        )

    def ended(self) -> bool:
        return self.popen.poll() is not None

    def finish(self) -> None:
        """Keep what it printed; RunError if it failed."""
        said, errors = _text(self.out), _text(self.err).strip().splitlines()
        self.close()
        if status := self.popen.returncode:
            error = (errors or [f"status {status}"])[-1].removeprefix("error: ")
            raise RunError(f"{self.task.name}: python -m {self.task.words[0]} failed: {error}")
        if self.task.output:
            write_file(self.task.output, said)

    def let_go(self) -> None:
        """Have it stop in good order, as it would if this process were gone."""
        self.popen.stdin.close()

    def close(self) -> None:
        """Forget a process that has ended, and what it printed."""
        for file in (self.popen.stdin, self.out, self.err):
            file.close()


def attended() -> None:
    """In the process of a task: run its command until it ends, or until it is let go of.

    A command that was started by hand knows nothing of this, and ends when it has done its work.
    """
    threading.Thread(target=_stop_when_let_go, daemon=True).start()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


def _stop_when_let_go():
    while os.read(0, 1):  # comes back empty-handed once nobody holds the other end
        pass
    signal.raise_signal(signal.SIGTERM)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _counter(log):
    """How many steps a run's log has come to, as a function."""

    def made():
        try:
            return read_log(log)[-1]["step"]
        except (MinilstmError, IndexError):  # not there yet, or being cut
            return 0

    return made
