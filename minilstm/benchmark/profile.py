"""A profile of the training step: the time in products, cells, losses, optimizer and waiting.

Read next: ranks.py.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace

from .. import config, threads
from ..backend import xp
from ..layers import cells
from ..layers.workspace import Reused, use_workspace
from ..runs import build
from ..training import resources, step
from ..training.batches import BatchesAhead, draw_batch
from ..training.distributed import ALONE, Alone
from ..training.packing import packing_of

WARM_UP_STEPS = 2  # before anything is timed: they write to all memory once


class Stopwatch:
    """Seconds by name. If a wrapped call makes another one, its time counts only for the other."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._inner = [0.0]  # for every running call: seconds spent in wrapped calls inside it

    def wrap(self, stack: contextlib.ExitStack, owner, attribute: str, name: str) -> None:
        """Time `owner.attribute` under `name`, until `stack` is left."""
        inherited = attribute not in vars(owner)
        function = getattr(owner, attribute)

        def timed(*arguments, **keywords):
            self._inner.append(0.0)
            begun = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                whole = time.perf_counter() - begun
                self.seconds[name] += whole - self._inner.pop()
                self._inner[-1] += whole

        setattr(owner, attribute, timed)
        restore = (
            (delattr, owner, attribute) if inherited else (setattr, owner, attribute, function)
        )
        stack.callback(*restore)


@contextlib.contextmanager
def prepared_training(
    settings: config.Config, steps: int, ranks: Alone = ALONE
) -> Iterator[SimpleNamespace]:
    """Prepare a model for at most `steps` timed training steps, after two untimed ones.

    `with prepared_training(...) as run:` gives `run.step()`, and `run.model`, `run.optimizer`,
    `run.batches`. A single process chooses its threads as training does; `run.threads` says so in
    one line, or is "". Several ranks share the CPUs. Raises RunError if there is not enough memory.
    """
    source = build.open_source(settings, "train")
    model = build.build_model(settings, math.prod(source.frame_shape))
    resources.refuse_memory(resources.memory_of(model, settings), settings, ranks)
    optimizer = build.build_optimizer(model, settings)
    batches = BatchesAhead(packing_of(source, settings, ranks), 0, WARM_UP_STEPS + steps)

    def one_step():
        rate = settings.optimizer.learning_rate
        now = step.training_step(model, optimizer, batches.next(), settings, rate, ranks)
        return {name: float(value) for name, value in now.items()}

    try:
        with use_workspace(Reused()), threads.restored():
            said = ""
            if ranks.count == 1:
                trial = step.trial_step(model, optimizer, draw_batch(source, settings, 1), settings)
                said = threads.choose(settings.run.threads, trial).said
            for _ in range(WARM_UP_STEPS):
                one_step()
            yield SimpleNamespace(
                step=one_step, model=model, optimizer=optimizer, batches=batches, threads=said
            )
    finally:
        batches.stop()


def profile(settings: config.Config, steps: int) -> tuple[dict[str, float], str]:
    """Measure the seconds per training step by part of the work, and of the "whole" step.

    Also returns the choice of threads in one line, or "" if there was no trial.
    """
    watch = Stopwatch()
    with prepared_training(settings, steps) as run, contextlib.ExitStack() as stack:
        watch.wrap(stack, xp, "matmul", "matrix products")
        for name in _cell_functions():
            watch.wrap(stack, cells, name, "cells")
        watch.wrap(stack, run.model.loss, "forward", "losses")
        watch.wrap(stack, run.model.loss, "backward", "losses")
        watch.wrap(stack, run.optimizer, "gradient_norms", "optimizer")
        watch.wrap(stack, run.optimizer, "step", "optimizer")
        watch.wrap(stack, run.batches, "next", "waiting for data")
        begun = time.perf_counter()
        for _ in range(steps):
            run.step()
        whole = time.perf_counter() - begun
    rest = whole - sum(watch.seconds.values())
    found = dict(watch.seconds) | {"everything else": rest, "whole": whole}
    return {name: seconds / steps for name, seconds in found.items()}, run.threads


def _cell_functions():
    """Return the names of the cells' functions, without helpers such as sigmoid."""
    steps = ("_cell", "_slopes", "_backward")
    return [name for name in vars(cells) if name[0] != "_" and name.endswith(steps)]


def profile_in_words(found: dict[str, float]) -> str:
    """Return a profile as a Markdown table, the largest part first."""
    parts, whole = dict(found), found["whole"]
    del parts["whole"]
    lines = ["| | ms per step | share |", "| --- | --- | --- |"]
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {1e3 * seconds:.2f} | {100 * seconds / whole:.1f} % |")
    lines.append(f"| the whole step | {1e3 * whole:.2f} | 100 % |")
    return "\n".join(lines)
