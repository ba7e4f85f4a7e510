"""Growth of time and memory with the number of frames, sequences, layers and units.

A stack of the paper's LSTM is timed while one of T, B, layers and H grows and the others stay.

Read next: profile.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from ..errors import number_of
from ..figures.curves import growth_curves
from ..layers.workspace import Reused, use_workspace
from .contenders import Work, start
from .processes import Process
from .timing import OTHERS, Duration, steps_per_turn

BASE = {"T": 10, "B": 32, "layers": 2, "H": 256}  # frames are as wide as the layers: D = H
FACTORS = (1, 2, 4, 8)
QUICK_BASE, QUICK_FACTORS = {"T": 2, "B": 3, "layers": 1, "H": 4}, (1, 2)
POWERS = {"T": 1, "B": 1, "layers": 1, "H": 2}  # expected growth of time: that of the products


@dataclass
class Sweep:
    """Times of a stack while the size called `name` grows and the others stay."""

    name: str
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # per step: medians over turns
    dropped: int = 0  # turns during which other processes were busy

    @property
    def power(self) -> float:
        """The exponent of growth: slope of log time over log size, by least squares."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def sweep(name: str, base: dict, factors: tuple, threads: int, duration: Duration) -> Sweep:
    """Time the base with the size `name` multiplied by each of the factors."""
    found = Sweep(name)
    for factor in factors:
        size = base | {name: base[name] * factor}
        work = Work("stack", size["T"], size["B"], size["H"], size["H"], size["layers"])
        with Process("ours", work, threads) as ours:
            count = steps_per_turn(ours, duration)
            until, turns = time.monotonic() + duration.seconds / len(factors), []
            while len(turns) < duration.pairs or time.monotonic() < until:
                turns.append(ours.ask("time", count))
        kept = [turn for turn in turns if turn["others"] <= OTHERS]
        found.dropped += len(turns) - len(kept)
        found.sizes.append(size[name])
        found.seconds.append(float(np.median([turn["seconds"] for turn in kept or turns])))
    return found


def memory_per_step(size: dict) -> dict[str, float]:
    """Measure the numbers held per sequence and time step, as the growth from T steps to 2T.

    "forward" is what the cache of a forward pass holds, "peak" what the pool of buffers grows to.
    """
    held = []
    for T in (size["T"], 2 * size["T"]):
        work = Work("stack", T, size["B"], size["H"], size["H"], size["layers"])
        layer, x, dy = start(work)
        with use_workspace(Reused()) as workspace:
            _, cache = layer.forward(x)
            forward = workspace.lent()
            layer.backward((dy, None), cache)
            held.append(np.array([forward, workspace.nbytes]))
    numbers = (held[1] - held[0]) / (size["T"] * size["B"] * x.itemsize)
    return dict(zip(("forward", "peak"), map(float, numbers), strict=True))


def stored_set(size: dict) -> dict[str, float]:
    """Return how many numbers should be held per sequence and time step.

    After forward these are the gates, h and c: 6 H for each layer (layers/segments.py). The pool
    also holds dy by step, the slopes, and x of an upper layer. It lends its buffers to one user
    after another, so it is larger than what is held at any one moment.
    """
    H, layers = size["H"], size["layers"]
    forward = 6 * H * layers
    return {"forward": forward, "peak": forward + 4 * H + 4 * H + (H if layers > 1 else 0)}


def growth_in_words(base: dict, sweeps: list[Sweep], threads: int) -> str:
    """Describe the sweeps and the memory of a stack as two Markdown tables."""
    shown = ", ".join(f"{name} {size}" for name, size in base.items())
    lines = [
        f"A stack of the paper's LSTM, {shown}, D = H, float32, "
        f"{number_of(threads, 'thread')}.", "",
        "| grows | sizes | ms per step | power | expected | turns dropped |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for s in sweeps:
        sizes, ms = ", ".join(map(str, s.sizes)), ", ".join(f"{1e3 * x:.3g}" for x in s.seconds)
        words = (s.name, sizes, ms, f"{s.power:.2f}", str(POWERS[s.name]), str(s.dropped))
        lines.append(f"| {' | '.join(words)} |")
    found, expected = memory_per_step(base), stored_set(base)
    lines += [
        "", "| numbers held per sequence and time step | found | expected | ratio |",
        "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for key, words in (
        ("forward", "after forward: gates i f g o, h, c"),
        ("peak", "the pool: also the gates of one layer twice, dy, its slopes, x between layers"),
    ):
        ratio = found[key] / expected[key]
        lines.append(f"| {words} | {found[key]:.0f} | {expected[key]} | {ratio:.3f} |")
    return "\n".join(lines)


def draw_growth(sweeps: list[Sweep], path: str) -> None:
    """Draw the times, each relative to its first, with linear and square growth dashed."""
    series = {
        f"{s.name}: {s.sizes[0]} to {s.sizes[-1]}": (
            np.array(s.sizes) / s.sizes[0],
            np.array(s.seconds) / s.seconds[0],
        )
        for s in sweeps
    }
    x = max((xs for xs, _ in series.values()), key=len)
    growth_curves(series, {"linear": x, "square": x**2}, path)
