"""Fair comparison of times: equal work first, then turns A B A B, then the median ratio of pairs.

* Both sides compute the same outputs and gradients from the same weights before anything is timed.
  If they differ beyond rounding, the benchmark ends with an error.
* The two sides take turns, and the ratio is the median over pairs of turns. So a machine that slows
  down slows both sides. A pair is dropped if other processes used the CPUs meanwhile.
* All libraries have the same number of threads.
* "tuned" is a library with glibc told to keep freed memory. By default glibc returns large blocks
  to the system and must clear every page again in every step.

A ratio is the time of the other side over ours: above 1 we are faster.

Read next: growth.py, profile.py, ranks.py, which measure this package alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from ..errors import RunError, number_of
from ..training.resources import in_words
from .contenders import Work
from .processes import TUNED, UNSET, Process

# T, B, D, H: those of the paper, then ever smaller ones
SIZES = (
    (10, 100, 4096, 2048), (16, 32, 4096, 2048), (10, 100, 1024, 512), (10, 100, 256, 128),
    (20, 64, 64, 64),
)  # fmt: skip
COMPOSITE = (10, 100, 4096, 512)
DEFAULT = (10, 40, 1600, 128, 2)  # with the number of layers: the step of the default run
QUICK_SIZE, QUICK_COMPOSITE, QUICK_DEFAULT = (3, 4, 6, 5), (3, 4, 16, 5), (3, 4, 16, 5, 2)

# kind of work, contender that we are compared with, the ratio aimed at by H
LAYER_CONTENDERS: tuple[tuple[str, str, dict[int, float]], ...] = (
    ("standard", "products", {2048: 0.95, 512: 0.88, 128: 0.78, 64: 0.52}),
    ("standard", "torch", {2048: 1.40, 512: 1.08, 128: 1.0, 64: 0.85}),
    ("standard", "torch tuned", {2048: 0.92, 512: 0.90, 128: 0.95, 64: 0.85}),
    ("standard", "jax", {2048: 1.2, 512: 1.2, 128: 1.2, 64: 1.2}),
    ("peephole", "torch loop", {2048: 2.5, 512: 2.2, 128: 2.8, 64: 5.0}),
    ("peephole", "torch loop tuned", {}),
    ("peephole", "jax", {2048: 1.2, 512: 1.2, 128: 1.2, 64: 1.2}),
)
COMPOSITE_CONTENDERS = (("products", None), ("torch", None), ("torch tuned", 1.4))
DEFAULT_CONTENDERS = ("products", "torch")
ONE_THREAD_CONTENDERS = ("products", "torch")  # of the smallest standard layer, with one thread
MEMORY_CONTENDERS = (("torch", 2.0), ("jax", None))

PAUSE_SECONDS = 0.05  # between turns: idle threads spin for up to 30 ms before they sleep
TURN_SECONDS = 0.3  # a turn takes at least this long, because the system counts in units of 10 ms
OTHERS = 0.05  # of all CPU time: a turn in which other processes used more is disturbed
TOLERANCE = 1e-4  # of the largest element: sums of thousands of float32 in different orders
CLIPPED = 1e-3  # the same, where gradients are scaled by their norm: a sum of millions


@dataclass
class Contest:
    """A row of the table: the work, the other side, the ratio aimed at, and the measurement."""

    kind: str  # of Work, or "memory": the peak memory of a standard layer
    size: tuple  # T, B, D, H, and the number of layers where it is not 1
    contender: str  # its name in contenders.py
    target: float | None
    ratio: float | None = None  # other / ours
    quartiles: tuple = ()
    ours: float | None = None  # seconds per step, or bytes
    other: float | None = None
    kept: int = 0  # pairs of turns
    dropped: int = 0
    difference: float | None = None  # of the two results: the largest relative one
    threads: int | None = None  # of the row; None for the number that the command was given
    note: str = ""

    @property
    def against(self) -> str:
        """The name of the contender, with the number of threads if the row sets its own."""
        return self.contender + f", {self.threads} thread" * (self.threads is not None)

    @property
    def name(self) -> str:
        """The text that --only searches."""
        return f"{self.kind} {','.join(map(str, self.size))} {self.against}"

    @property
    def work(self) -> Work:
        """The step that both sides do."""
        return Work("standard" if self.kind == "memory" else self.kind, *self.size)


def all_contests(quick: bool = False) -> list[Contest]:
    """Return every row of the table, not yet measured. `quick` rows are tiny, without targets."""
    sizes = (QUICK_SIZE,) if quick else SIZES
    composite, default = (QUICK_COMPOSITE, QUICK_DEFAULT) if quick else (COMPOSITE, DEFAULT)
    rows = [
        Contest(kind, size, contender, targets.get(size[-1]))
        for size in sizes
        for kind, contender, targets in LAYER_CONTENDERS
    ]
    rows += [Contest("composite", composite, *contender) for contender in COMPOSITE_CONTENDERS]
    rows += [
        Contest("composite", default, contender, None, threads=threads)
        for contender in DEFAULT_CONTENDERS
        for threads in (None, 1)
    ]
    rows += [
        Contest("standard", sizes[-1], contender, None, threads=1)
        for contender in ONE_THREAD_CONTENDERS
    ]
    rows += [Contest("memory", sizes[0], *contender) for contender in MEMORY_CONTENDERS]
    if quick:
        for row in rows:
            row.target = None
    return rows


@dataclass(frozen=True)
class Duration:
    """Seconds to measure a row, with at least `pairs` pairs, and seconds that a turn must take."""

    seconds: float = 20.0
    pairs: int = 5
    turn: float = TURN_SECONDS


QUICK = Duration(0.0, 2, 0.001)


def compare(row: Contest, threads: int, duration: Duration) -> dict:
    """Measure a row, in place. Returns {name: versions and threads} of the two processes.

    Raises RunError if the two sides do not compute the same.
    """
    threads = row.threads or threads
    with contextlib.ExitStack() as processes:
        other = processes.enter_context(Process(row.contender, row.work, threads))
        if other.missing:
            row.note = other.missing
            return {row.contender: {}}
        ours = processes.enter_context(Process("ours", row.work, threads))
        if row.kind == "memory":
            row.ours, row.other = (side.ask("peak")["bytes"] for side in (ours, other))
            if row.ours and row.other:
                row.ratio = row.other / row.ours
            else:
                row.note = "peak memory is not known on this system"
        else:
            if row.contender != "products":
                tolerance = CLIPPED if row.kind == "composite" else TOLERANCE
                row.difference = largest_difference(ours, other, tolerance)
            subnormal = [side.ask("subnormals")["count"] for side in (ours, other)]
            summarize(row, take_turns(ours, other, duration))
            subnormal += [side.ask("subnormals")["count"] for side in (ours, other)]
            if any(subnormal):
                found = f"up to {max(subnormal)} subnormal gradients"
                row.note = ", ".join(filter(None, (row.note, found)))
        return {"ours": ours.about, row.contender: other.about}


def largest_difference(ours: Process, other: Process, tolerance: float = TOLERANCE) -> float:
    """Return the largest relative difference of their results. Raises RunError beyond tolerance."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{k}.npz") for k in range(2)]
        for side, path in zip((ours, other), paths, strict=True):
            side.ask("check", path)
        with np.load(paths[0]) as mine, np.load(paths[1]) as theirs:
            if set(mine) != set(theirs):
                raise RunError(f"expected {sorted(mine)} of {other.name}, got {sorted(theirs)}")
            for name in mine:
                a, b = mine[name], theirs[name]
                if a.shape != b.shape:
                    raise RunError(
                        f"expected the same {name} from {other.name} as from us, got shape "
                        f"{b.shape} instead of {a.shape}: only equal work can be compared"
                    )
                error = abs(a - b).max(initial=0.0) / max(abs(a).max(initial=0.0), 1e-30)
                if not error <= tolerance:  # also true of NaN
                    raise RunError(
                        f"expected the same {name} from {other.name} as from us, got a difference "
                        f"of {error:.1e}: only equal work can be compared"
                    )
                worst = max(worst, float(error))
    return worst


def take_turns(ours: Process, other: Process, duration: Duration) -> list[tuple[dict, dict]]:
    """Return pairs of timed turns, A B A B, until the time is up."""
    counts = [steps_per_turn(side, duration) for side in (ours, other)]
    until, pairs = time.monotonic() + duration.seconds, []
    while len(pairs) < duration.pairs or time.monotonic() < until:
        pair = []
        for side, count in zip((ours, other), counts, strict=True):
            time.sleep(PAUSE_SECONDS)
            pair.append(side.ask("time", count))
        pairs.append((pair[0], pair[1]))
    return pairs


def steps_per_turn(process: Process, duration: Duration) -> int:
    """Return how many steps make a turn long enough."""
    process.ask("time", 1)  # the first step compiles, and writes to new memory
    return math.ceil(duration.turn / process.ask("time", 1)["seconds"])


def summarize(row: Contest, pairs: list[tuple[dict, dict]]) -> None:
    """Set a row's ratio and times: medians over the undisturbed pairs.

    If every pair was disturbed, the medians are over all pairs, and the row's note says so.
    """
    kept = [pair for pair in pairs if all(turn["others"] <= OTHERS for turn in pair)]
    row.kept, row.dropped = len(kept), len(pairs) - len(kept)
    if not kept:
        kept, row.note = pairs, "disturbed"
    seconds = np.array([[turn["seconds"] for turn in pair] for pair in kept])
    ratios = seconds[:, 1] / seconds[:, 0]
    row.ratio = float(np.median(ratios))
    row.quartiles = tuple(map(float, np.quantile(ratios, (0.25, 0.75))))
    row.ours, row.other = map(float, np.median(seconds, axis=0))


# ---------------------------------------------------------------- in Markdown


def conditions(threads: int, libraries: dict) -> str:
    """Describe what the numbers depend on: threads, versions, environment variables."""
    each = f"{number_of(threads, 'thread')} each, where a row names no other number"
    lines = [f"{each}, float32, one process per library."]
    for name in sorted(libraries):
        about = ", ".join(f"{key} {value}" for key, value in libraries[name].items())
        lines.append(f"{name}: {about or 'not installed'}.")
    changed = [f"{name}={os.environ[name]}" for name in UNSET if name in os.environ]
    lines.append(
        f"Unset for all of them: {', '.join(UNSET)} ({', '.join(changed) or 'none was set'}); "
        f"torch tuned: GLIBC_TUNABLES={TUNED}."
    )
    return "\n".join(f"* {line}" for line in lines)


def table(rows: list[Contest]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | T,B,D,H | against | other / ours | target | quartiles | ours | other | pairs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        pairs = f"{row.kept} ({row.dropped} dropped)" if row.dropped else f"{row.kept}"
        words = (
            row.kind,
            ",".join(map(str, row.size)),
            row.against,
            " ".join(filter(None, (ratio, row.note and f"({row.note})"))),
            "" if row.target is None else f">= {row.target:.2f}",
            "-".join(f"{x:.2f}" for x in row.quartiles),
            *(_amount(row, x) for x in (row.ours, row.other)),
            pairs if row.kept + row.dropped else "",
        )
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _amount(row, x):
    if x is None:
        return ""
    return in_words(x) if row.kind == "memory" else f"{1e3 * x:.3g} ms"
