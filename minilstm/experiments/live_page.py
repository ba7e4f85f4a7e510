"""The page of a run that still trains: report.html, written again and again until the run ends.

The browser loads the page anew by itself. It shows the newest checkpoint's predictions, the losses,
the norms of the gradients, the speed and the time that is left. When the run has ended, the whole
report takes its place.

Read next: report_page.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ..backend import use_backend
from ..command import Interrupted, stop_signals
from ..config import Config
from ..errors import number_of
from ..files import write_file
from ..runs import build
from ..runs.run_folder import RunFolder
from ..runs.trained import find_run, trained_models
from .report_page import (
    duration,
    evaluated,
    open_pictures,
    player_page,
    summary_of,
    training_section,
    write_report,
)
from .tensorboard_log import TensorBoardLog

JUDGED = 40  # test sequences: few, so that the page takes little time from the training
RECENT = 20  # rows of the log from which the speed is taken
NAP = 0.2  # seconds between two looks for a stop signal, or for a run that is yet to start


def watch(
    path: str | Path,
    every: float,
    sequences: int,
    log: TensorBoardLog | None = None,
    cell: str | None = None,
) -> Path:
    """Write the report.html of a run every `every` seconds until the run ends. Returns its path.

    After the first page it prints the path. The last page is that of `write_report`, judged on so
    many test sequences. `log` is updated with every page. Raises what `write_report` raises, and
    Interrupted after a stop signal.
    """
    folder = RunFolder(find_run(path))
    page, shown = LivePage(folder, every, cell), False
    with stop_signals() as stop:
        while folder.is_training() and not stop.received:
            begun = folder.checkpoint.exists()  # written before the first step
            if begun:
                page.write()
            if begun and not shown:
                print(f"open {folder.report} in a browser", flush=True)
                shown = True
            if log is not None:
                log.update()
            _sleep(every if begun else NAP, stop)
    if stop.received:
        if shown:
            page.write(refresh=False)
        raise Interrupted(stop.received)
    return write_report(path, sequences, cell=cell)


def wait_for_run(path: str | Path) -> Path:
    """Return the folder of a run, or of a trained model. Wait for a run that has not started yet.

    A new run makes its folder and writes config.toml into it. So a folder that does not exist or is
    empty may become a run; a line on stderr says that the command waits. Raises RunError for
    everything else that is no run, and Interrupted after a stop signal.
    """
    folder, said = RunFolder(path), False
    with stop_signals() as stop:
        while _may_become_a_run(folder) and not stop.received:
            if not said:
                print(f"waiting for a run in {path}: Ctrl-C ends it", file=sys.stderr, flush=True)
                said = True
            _sleep(NAP, stop)
    if stop.received:
        raise Interrupted(stop.received)
    return find_run(path)


def _may_become_a_run(folder):
    if str(folder.path) in trained_models():
        return False
    try:
        # hidden files are the lock of a run, and temporary files
        return not any(name[0] != "." for name in os.listdir(folder.path))
    except FileNotFoundError:
        return True
    except OSError:  # a file, or a folder that can't be read
        return False


class LivePage:
    """The report.html of a run that trains. Its predictions are made once for each checkpoint."""

    def __init__(self, folder: RunFolder, every: float, cell: str | None = None):
        self.folder, self.every, self.cell = folder, every, cell
        self.config = build.read_config(folder.path, cell)
        self.shown = 0  # the time at which the checkpoint was written whose predictions are shown

    def write(self, refresh: bool = True) -> None:
        """Write the page as the run is now."""
        changed = self.folder.checkpoint.stat().st_mtime_ns
        if changed != self.shown:
            self.run = open_pictures(self.folder.path, cell=self.cell)
            with use_backend("numpy", self.config.run.dtype), np.errstate(all="ignore"):
                self.result = evaluated(self.run, JUDGED)
            self.shown = changed
        rows = self.folder.rows() if self.folder.log.exists() else []
        summary = f"{summary_of(self.run)}; written at {time.strftime('%H:%M:%S')}"
        page = player_page(
            self.run,
            self.result,
            summary,
            {"Training": training_section(self.run, rows)},
            numbers(self.config, rows),
            self.every if refresh else 0,
            weights=about_weights(self.config, self.run.about["step"]),
        )
        write_file(self.folder.report, page)


def about_weights(config: Config, step: int) -> str:
    """Say of which step the newest checkpoint is, and when the next follows."""
    every, last = config.run.checkpoint_every, config.run.steps
    following = min(last, (step // every + 1) * every) if every else last
    untrained = ", before training" if step == 0 else ""
    then = f"; the next are saved at step {following:,}" if step < last else ""
    return f"Computed with the weights of step {step:,}{untrained}{then}."


def numbers(config: Config, rows: Iterable[dict]) -> list[tuple[str, str]]:
    """Return what a log says of the run's progress, as (number, words): steps, speed, time left."""
    timed = [row for row in rows if "seconds" in row]
    step = timed[-1]["step"] if timed else 0
    found = [(f"{step:,}", f"of {number_of(config.run.steps, 'step', ',')}")]
    recent = timed[-RECENT:]
    if len(recent) > 1 and recent[-1]["step"] > recent[0]["step"]:
        first, last = recent[0], recent[-1]
        pace = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
        found.append((f"{1000 * pace:.3g} ms", "for each step"))
        if not config.run.minutes:  # each start counts them from zero, and no row says when
            found.append((duration(pace * (config.run.steps - step)), "left"))
    if timed and "future" in timed[-1]:
        found.append((f"{timed[-1]['future']:.1f}", f"training loss of the future, step {step:,}"))
    return found


def _sleep(seconds: float, stop: SimpleNamespace) -> None:
    """Wait, but not after a stop signal."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.received:
        time.sleep(min(NAP, seconds))
