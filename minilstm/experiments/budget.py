"""Runs that have minutes to keep: their steps are chosen before they start, and written down.

    trials = in_time(trials, minutes=5)        # times a few steps of each row on the GPU
    print(cost_on_gpu(trials))

A learning-rate schedule ends with its run, so the number of steps must be known first. The file
steps.json beside the runs has it for each row of a table. All seeds of a row and every later
command take their steps from there.

Read next: targets.py; training/pace.py, which measures.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ..backend import use_backend
from ..errors import BackendError, ConfigError, RunError, named, number_of
from ..files import make_folder, write_file
from ..layers.init import Blank
from ..runs import build
from ..runs.run_folder import RunFolder
from ..training import pace, resources
from .many_runs import Trial

STEPS = "steps.json"


def in_time(trials: Sequence[Trial], minutes: float = 0, plan: bool = False) -> list[Trial]:
    """Return the trials with the steps of steps.json, in the same order.

    With `minutes`, rows that it does not have are timed and entered; with `plan` the file is left
    as it is. Raises ConfigError for a row that has other minutes, or has begun without any, and
    what training raises.
    """
    file = trials[0].path.parent / STEPS
    chosen = _read(file)
    for trial in trials:
        row = _row(trial)
        if not minutes:
            continue
        if row in chosen:
            if chosen[row]["minutes"] != minutes:
                raise ConfigError(
                    f"expected --minutes-per-run {chosen[row]['minutes']:g} for {row}, as in "
                    f"{file}, got {minutes:g}: leave it out, or choose another --out"
                )
            continue
        if RunFolder(trial.path).config.exists():
            raise ConfigError(
                f"expected no --minutes-per-run for {row}, which has begun with a number of steps, "
                f"got {minutes:g}: leave it out, or choose another --out"
            )
        seconds = pace.seconds_per_step(trial.config)
        steps = max(1, int(60 * minutes / seconds))
        chosen[row] = {"minutes": minutes, "seconds_per_step": seconds, "steps": steps}
        if not plan:  # at once: the next row may be interrupted
            make_folder(file.parent)
            write_file(file, json.dumps(chosen, indent=2))
    return [
        dataclasses.replace(
            trial, config=pace.with_steps(trial.config, chosen[_row(trial)]["steps"])
        )
        if _row(trial) in chosen
        else trial
        for trial in trials
    ]


def cost_on_gpu(trials: Sequence[Trial]) -> str:
    """Return minutes and memory of each row on the GPU that is here, one line for each.

    Times a few steps of each row. Without a GPU the text says so.
    """
    rows: dict[str, list[Trial]] = {}
    for trial in trials:
        rows.setdefault(_row(trial), []).append(trial)
    lines, whole = [], 0.0
    for row, of_row in rows.items():
        config = of_row[0].config
        D = math.prod(build.open_source(config, "train").frame_shape)
        model = build.build_model(config, D, Blank())
        try:
            with use_backend(config.run.backend, config.run.precision, config.run.fused):
                free = resources.free_memory()
                memory = resources.memory_of(model, config).needed(config.run.batch_size)
        except BackendError as error:
            return f"Minutes and memory are told where there is a GPU: {error}"
        said = (
            f"{row}: {number_of(len(of_row), 'run')} of {number_of(config.run.steps, 'step', ',')}"
        )
        memory_said = f"{resources.in_words(memory)} of {resources.in_words(free)} free memory"
        if memory > free:
            lines.append(f"{said} do not fit: {memory_said}")
            continue
        seconds = pace.seconds_per_step(config)
        minutes = seconds * config.run.steps / 60
        whole += minutes * len(of_row)
        lines.append(
            f"{said}, {1e3 * seconds:.3g} ms each: {minutes:.1f} minutes a run; {memory_said}"
        )
    lines.append(
        f"Together {whole:.0f} minutes of training steps. Start, validation, saving and judging "
        "are not counted, nor that some runs may be finished."
    )
    return "\n".join(lines)


def _row(trial):
    """Return the name that all seeds of a row share."""
    return re.sub(r"-seed\d+$", "", trial.path.name)


def _read(file: Path) -> dict[str, dict]:
    if not file.exists():
        return {}
    try:
        chosen = json.loads(file.read_text("utf-8"))
        for about in chosen.values():
            if about["steps"] < 1 or about["minutes"] <= 0:
                raise ValueError("a number is not positive")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file}: expected steps and minutes of runs, got {named(error)}: choose another --out"
        ) from error
    return chosen
