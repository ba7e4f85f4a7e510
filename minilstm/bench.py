"""How fast, against whom: time the layers and whole steps beside PyTorch, JAX and bare products.

    python -m minilstm.bench                         a table of ratios; half an hour
    python -m minilstm.bench --only composite        the rows whose name contains that word
    python -m minilstm.bench growth                  time and memory against T, B, layers, H
    python -m minilstm.bench profile paper           where a training step's time goes
    mpiexec -n 2 python -m minilstm.bench ranks paper     what it costs to share the step out

A ratio is the time of the other over ours: above 1 we are faster. How it is measured:

* Every library has a process of its own (contenders.py), because idle threads of one would take
  CPU time from the other, and all have the same number of threads.
* Before anything is timed, both sides compute the same outputs and gradients from the same
  weights, or the benchmark ends with an error.
* The two take turns, A B A B, and the ratio is the median of those of the pairs, so that a machine
  that slows down slows both. A pair is dropped if other processes used the CPUs meanwhile.
* "torch tuned" is PyTorch with glibc told to keep the memory that is freed. As installed, it
  gives large blocks back and has every page cleared anew, at every step.

Read next: contenders.py, the work itself.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace

import numpy as np

from . import config, train
from .backend import synchronize, use_backend, xp
from .benchmark.contenders import Work, start
from .command import Parser, run_command
from .errors import ConfigError, RunError
from .figures import curves
from .files import write_file
from .layers import cells
from .layers.layer import Blank
from .layers.workspace import Reused, use_workspace
from .runs import build
from .training import resources
from .training.batches import BatchesAhead
from .training.distributed import ALONE, Alone, Ranks, cpus
from .training.step import training_step

# T, B, D, H: of the paper, then ever smaller
SIZES = (
    (10, 100, 4096, 2048), (16, 32, 4096, 2048), (10, 100, 1024, 512), (10, 100, 256, 128),
    (20, 64, 64, 64),
)  # fmt: skip
COMPOSITE = (10, 100, 4096, 512)
QUICK_SIZE, QUICK_COMPOSITE = (3, 4, 6, 5), (3, 4, 16, 5)

# What the layers are measured against, and the ratio aimed at, by H
LAYER_RIVALS = (
    ("standard", "products", {2048: 0.95, 512: 0.88, 128: 0.78, 64: 0.52}),
    ("standard", "torch", {2048: 1.40, 512: 1.08, 128: 1.0, 64: 0.85}),
    ("standard", "torch tuned", {2048: 0.92, 512: 0.90, 128: 0.95, 64: 0.85}),
    ("standard", "jax", {2048: 1.2, 512: 1.2, 128: 1.2, 64: 1.2}),
    ("peephole", "torch loop", {2048: 2.5, 512: 2.2, 128: 2.8, 64: 5.0}),
    ("peephole", "torch loop tuned", {}),
    ("peephole", "jax", {2048: 1.2, 512: 1.2, 128: 1.2, 64: 1.2}),
)
COMPOSITE_RIVALS = (("products", None), ("torch", None), ("torch tuned", 1.4))
MEMORY_RIVALS = (("torch", 2.0), ("jax", None))

# Variables that would make a process other than installed. All processes run without them.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "GLIBC_TUNABLES")
KEEP = 1 << 34  # bytes: blocks below this stay with the process when they are freed
TUNED = f"glibc.malloc.mmap_threshold={KEEP}:glibc.malloc.trim_threshold={KEEP}"
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

PAUSE = 0.05  # seconds between turns: threads spin for up to 30 ms before they sleep
TURN = 0.3  # seconds that a turn takes at least, for the operating system counts in 10 ms
OTHERS = 0.05  # of all CPU time: a turn in which other processes used more is disturbed
TOLERANCE = 1e-4  # of the largest element: sums of thousands of float32 in different orders
CLIPPED = 1e-3  # the same where gradients are scaled by their norm: a sum of millions


# ---------------------------------------------------------------- one row


@dataclass
class Row:
    """One comparison: what, with whom, the ratio aimed at, and what came of it."""

    kind: str  # of Work, or "memory": of a standard layer
    size: tuple
    rival: str
    target: float | None
    ratio: float | None = None  # other / ours
    quartiles: tuple = ()
    ours: float | None = None  # seconds per step, or bytes
    other: float | None = None
    kept: int = 0  # pairs
    dropped: int = 0
    difference: float | None = None  # of the two results, relative: the largest found
    note: str = ""

    @property
    def name(self) -> str:
        """The words that --only looks in."""
        return f"{self.kind} {','.join(map(str, self.size))} {self.rival}"

    @property
    def work(self) -> Work:
        """What both of them do."""
        return Work("standard" if self.kind == "memory" else self.kind, *self.size)


def all_rows(quick: bool = False) -> list[Row]:
    """Every row of the table, or the same of tiny sizes, without targets."""
    sizes = (QUICK_SIZE,) if quick else SIZES
    composite = QUICK_COMPOSITE if quick else COMPOSITE
    rows = [
        Row(kind, size, rival, targets.get(size[-1]))
        for size in sizes
        for kind, rival, targets in LAYER_RIVALS
    ]
    rows += [Row("composite", composite, *rival) for rival in COMPOSITE_RIVALS]
    rows += [Row("memory", sizes[0], *rival) for rival in MEMORY_RIVALS]
    if quick:
        for row in rows:
            row.target = None
    return rows


@dataclass(frozen=True)
class Effort:
    """How long is measured: seconds per row, but so many pairs; seconds per turn at least."""

    seconds: float = 20.0
    pairs: int = 5
    turn: float = TURN


QUICK = Effort(0.0, 2, 0.001)


def measure(row: Row, threads: int, effort: Effort) -> dict:
    """Fill in `row`. Returns what the two processes say about themselves."""
    with contextlib.ExitStack() as processes:
        other = processes.enter_context(Rival(row.rival, row.work, threads))
        if other.missing:
            row.note = other.missing
            return {row.rival: {}}
        ours = processes.enter_context(Rival("ours", row.work, threads))
        if row.kind == "memory":
            row.ours, row.other = (rival.ask("peak")["bytes"] for rival in (ours, other))
            if row.ours and row.other:
                row.ratio = row.other / row.ours
            else:
                row.note = "peak memory is not known on this system"
        else:
            if row.rival != "products":
                tolerance = CLIPPED if row.kind == "composite" else TOLERANCE
                row.difference = compared(ours, other, tolerance)
            summarize(row, take_turns(ours, other, effort))
        return {"ours": ours.about, row.rival: other.about}


def compared(ours: Rival, other: Rival, tolerance: float = TOLERANCE) -> float:
    """The largest relative difference of their results. Raises RunError beyond rounding."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{k}.npz") for k in range(2)]
        for rival, path in zip((ours, other), paths, strict=True):
            rival.ask("check", path)
        with np.load(paths[0]) as mine, np.load(paths[1]) as theirs:
            if set(mine) != set(theirs):
                raise RunError(f"expected {sorted(mine)} of {other.name}, got {sorted(theirs)}")
            for name in mine:
                a, b = mine[name], theirs[name]
                if a.shape != b.shape:
                    raise RunError(
                        f"expected the same {name} from {other.name} as from us, got shape "
                        f"{b.shape} and not {a.shape}: times of different things say nothing"
                    )
                error = abs(a - b).max(initial=0.0) / max(abs(a).max(initial=0.0), 1e-30)
                if not error <= tolerance:  # NaN is not, either
                    raise RunError(
                        f"expected the same {name} from {other.name} as from us, got a difference "
                        f"of {error:.1e}: times of different things say nothing"
                    )
                worst = max(worst, float(error))
    return worst


def take_turns(ours: Rival, other: Rival, effort: Effort) -> list[tuple[dict, dict]]:
    """Pairs of timed turns, A B A B, until the time is up."""
    counts = [steps_per_turn(rival, effort) for rival in (ours, other)]
    until, pairs = time.monotonic() + effort.seconds, []
    while len(pairs) < effort.pairs or time.monotonic() < until:
        pair = []
        for rival, count in zip((ours, other), counts, strict=True):
            time.sleep(PAUSE)
            pair.append(rival.ask("time", count))
        pairs.append(tuple(pair))
    return pairs


def steps_per_turn(rival: Rival, effort: Effort) -> int:
    """How many steps make a turn long enough."""
    rival.ask("time", 1)  # the first one compiles, and touches new memory
    return math.ceil(effort.turn / rival.ask("time", 1)["seconds"])


def summarize(row: Row, pairs: list[tuple[dict, dict]]) -> None:
    """Medians over the undisturbed pairs; over all of them, with a note, if there is none."""
    kept = [pair for pair in pairs if all(turn["others"] <= OTHERS for turn in pair)]
    row.kept, row.dropped = len(kept), len(pairs) - len(kept)
    if not kept:
        kept, row.note = pairs, "disturbed"
    seconds = np.array([[turn["seconds"] for turn in pair] for pair in kept])
    ratios = seconds[:, 1] / seconds[:, 0]
    row.ratio = float(np.median(ratios))
    row.quartiles = tuple(map(float, np.quantile(ratios, (0.25, 0.75))))
    row.ours, row.other = map(float, np.median(seconds, axis=0))


# ---------------------------------------------------------------- one process per library


class Rival:
    """A contender of contenders.py in its own process, which sleeps until it is asked.

    `about` is what it says about itself, `missing` why it can't run, or "".
    """

    def __init__(self, name: str, work: Work, threads: int):
        self.name = name
        library, *words = name.split()
        environ = {key: value for key, value in os.environ.items() if key not in UNSET}
        environ |= dict.fromkeys(THREADS, str(threads))
        if "tuned" in words:
            environ["GLIBC_TUNABLES"] = TUNED
        arguments = json.dumps([library, work, cpus()[:threads]])
        code = f"from minilstm.benchmark import contenders; contenders.serve(*{arguments})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        try:
            hello = self._answer()
        except BaseException:
            self.__exit__()
            raise
        self.missing, self.about = hello.get("missing", ""), hello.get("about", {})

    def ask(self, request: str, *arguments) -> dict:
        """Its answer. Raises RunError if it has died."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, either
            print(json.dumps([request, *arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RunError(
                f"expected an answer of the process that times {self.name}, got its end (status "
                f"{self._process.wait()}): is there enough memory?"
            )
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()


# ---------------------------------------------------------------- the table


def conditions(threads: int, libraries: dict) -> str:
    """What the numbers depend on, in a few lines."""
    lines = [f"{threads} threads each, float32, one process per library."]
    for name in sorted(libraries):
        about = ", ".join(f"{key} {value}" for key, value in libraries[name].items())
        lines.append(f"{name}: {about or 'not installed'}.")
    changed = [f"{name}={os.environ[name]}" for name in UNSET if name in os.environ]
    lines.append(
        f"Unset for all of them: {', '.join(UNSET)} ({', '.join(changed) or 'none was set'}); "
        f"torch tuned: GLIBC_TUNABLES={TUNED}."
    )
    return "\n".join(f"* {line}" for line in lines)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| what | T,B,D,H | against | other / ours | target | quartiles | ours | other | pairs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        pairs = f"{row.kept}" + f" ({row.dropped} dropped)" * (row.dropped > 0)
        words = (
            row.kind,
            ",".join(map(str, row.size)),
            row.rival,
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
    return resources.in_words(x) if row.kind == "memory" else f"{1e3 * x:.3g} ms"


def compare(options) -> int:
    """Measure the rows that were asked for, and print the table."""
    rows = all_rows(options.quick)
    if options.only:
        chosen = [row for row in rows if any(word in row.name for word in options.only)]
        if not chosen:
            raise ConfigError(
                f"expected --only to be a part of a row's name, such as {rows[0].name!r}, got "
                f"{options.only[0]!r}: see the table of --quick"
            )
        rows = chosen
    effort, libraries = _effort(options), {}
    for k, row in enumerate(rows, 1):
        print(f"{k}/{len(rows)} {row.name}", file=sys.stderr, flush=True)
        libraries |= measure(row, options.threads, effort)
    print(conditions(options.threads, libraries), table(rows), sep="\n\n")
    if options.json:
        found = {
            "threads": options.threads,
            "unset": UNSET,
            "tuned": TUNED,
            "libraries": libraries,
            "rows": [{"name": row.name} | asdict(row) for row in rows],
        }
        write_file(options.json, json.dumps(found, indent=1) + "\n")
    return 0


# ---------------------------------------------------------------- growth

BASE = {"T": 10, "B": 32, "layers": 2, "H": 256}  # frames as wide as the layers: D = H
FACTORS = (1, 2, 4, 8)
QUICK_BASE, QUICK_FACTORS = {"T": 2, "B": 3, "layers": 1, "H": 4}, (1, 2)
POWERS = {"T": 1, "B": 1, "layers": 1, "H": 2}  # what time should grow with: the products' size


@dataclass
class Sweep:
    """Times of a stack while one of its sizes grows and the others stay."""

    name: str
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: int = 0

    @property
    def power(self) -> float:
        """The exponent: slope of log time over log size, by least squares."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def sweep(name: str, base: dict, factors: tuple, threads: int, effort: Effort) -> Sweep:
    """Time the base with `name` multiplied by each of the factors."""
    found = Sweep(name)
    for factor in factors:
        size = base | {name: base[name] * factor}
        work = Work("stack", size["T"], size["B"], size["H"], size["H"], size["layers"])
        with Rival("ours", work, threads) as ours:
            count = steps_per_turn(ours, effort)
            until, turns = time.monotonic() + effort.seconds / len(factors), []
            while len(turns) < effort.pairs or time.monotonic() < until:
                turns.append(ours.ask("time", count))
        kept = [turn for turn in turns if turn["others"] <= OTHERS]
        found.dropped += len(turns) - len(kept)
        found.sizes.append(size[name])
        found.seconds.append(float(np.median([turn["seconds"] for turn in kept or turns])))
    return found


def memory_per_step(size: dict) -> dict[str, float]:
    """Numbers per sequence and time step: that a cache holds, and that the pool grows to.

    Measured as the growth from T steps to 2T. What is held is named in segments.py: after forward
    gates, h and c, 6 H of every layer.
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
    """The same by segments.py; the pool also has dy by step, the slopes, and x of an upper layer.

    The pool lends the same buffers to one after the other, so it is larger than what is held at
    any one moment.
    """
    H, layers = size["H"], size["layers"]
    forward = 6 * H * layers
    return {"forward": forward, "peak": forward + 4 * H + 4 * H + H * (layers > 1)}


def draw_growth(sweeps: list[Sweep], path: str) -> None:
    """The times, each relative to its first, as a PNG; dashed what is expected."""
    series = {
        f"{s.name}: {s.sizes[0]} to {s.sizes[-1]}": (
            np.array(s.sizes) / s.sizes[0],
            np.array(s.seconds) / s.seconds[0],
        )
        for s in sweeps
    }
    x = np.array(max((xs for xs, _ in series.values()), key=len))
    curves.growth_curves(series, {"linear": x, "square": x**2}, path)


def growth(options) -> int:
    """Measure how time and memory grow, print both, and draw the times."""
    base, factors = (QUICK_BASE, QUICK_FACTORS) if options.quick else (BASE, FACTORS)
    sweeps = []
    for name in base:
        print(f"growth with {name}", file=sys.stderr, flush=True)
        sweeps.append(sweep(name, base, factors, options.threads, _effort(options)))
    shown = ", ".join(f"{name} {size}" for name, size in base.items())
    print(f"A stack of the paper's LSTM, {shown}, D = H, float32, {options.threads} threads.\n")
    print("| grows | sizes | ms per step | power | expected | turns dropped |")
    print("| --- | --- | --- | --- | --- | --- |")
    for s in sweeps:
        sizes, ms = ", ".join(map(str, s.sizes)), ", ".join(f"{1e3 * x:.3g}" for x in s.seconds)
        print(f"| {s.name} | {sizes} | {ms} | {s.power:.2f} | {POWERS[s.name]} | {s.dropped} |")
    found, expected = memory_per_step(base), stored_set(base)
    print("\n| numbers held per sequence and time step | found | segments.py | ratio |")
    print("| --- | --- | --- | --- |")
    for key, words in (
        ("forward", "after forward: gates i f g o, h, c"),
        ("peak", "the pool: also the gates of one layer twice, dy, its slopes, x between layers"),
    ):
        ratio = found[key] / expected[key]
        print(f"| {words} | {found[key]:.0f} | {expected[key]} | {ratio:.3f} |")
    draw_growth(sweeps, options.out)
    print(f"\nwrote {options.out}")
    if options.json:
        everything = {"base": base, "sweeps": [asdict(s) | {"power": s.power} for s in sweeps]}
        everything |= {"memory": found, "stored set": expected}
        write_file(options.json, json.dumps(everything, indent=1) + "\n")
    return 0


# ---------------------------------------------------------------- where a training step goes


class Stopwatch:
    """Seconds by name. A wrapped call inside a wrapped call counts for the inner one alone."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._inner = [0.0]  # seconds spent deeper, for every call that is running

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
def training(
    settings: config.Config, steps: int, ranks: Alone = ALONE
) -> Iterator[SimpleNamespace]:
    """`with training(...) as run:` run.step() makes a training step, of at most `steps` now.

    Two were made before, to touch all memory. `run` also has what is trained.
    """
    source = build.open_source(settings, "train")
    model = build.build_model(settings, math.prod(source.frame_shape))
    resources.refuse_memory(resources.memory_of(model, settings), settings, ranks)
    optimizer = build.build_optimizer(model, settings)
    warm = 2
    batches = BatchesAhead(source, settings, 0, warm + steps, ranks)

    def step():
        rate = settings.optimizer.learning_rate
        now = training_step(model, optimizer, batches.next(), settings, rate, ranks)
        return {name: float(value) for name, value in now.items()}

    try:
        with use_workspace(Reused()):
            for _ in range(warm):
                step()
            yield SimpleNamespace(step=step, model=model, optimizer=optimizer, batches=batches)
    finally:
        batches.stop()


def profile(settings: config.Config, steps: int) -> dict[str, float]:
    """Seconds per training step by what they went into, and the "whole" step."""
    watch = Stopwatch()
    with training(settings, steps) as run, contextlib.ExitStack() as stack:
        watch.wrap(stack, xp, "matmul", "matrix products")
        for name in _pointwise():
            watch.wrap(stack, cells, name, "cells")
        watch.wrap(stack, run.model.loss, "forward", "losses")
        watch.wrap(stack, run.model.loss, "backward", "losses")
        watch.wrap(stack, train, "clip_norm", "optimizer")
        watch.wrap(stack, run.optimizer, "step", "optimizer")
        watch.wrap(stack, run.batches, "next", "waiting for data")
        begun = time.perf_counter()
        for _ in range(steps):
            run.step()
        whole = time.perf_counter() - begun
    rest = whole - sum(watch.seconds.values())
    found = dict(watch.seconds) | {"everything else": rest, "whole": whole}
    return {name: seconds / steps for name, seconds in found.items()}


def _pointwise():
    return [
        name for name, item in vars(cells).items()
        if callable(item) and item.__module__ == cells.__name__
        and name[0] != "_" and name not in ("gates", "sigmoid")  # parts of the others
    ]  # fmt: skip


def print_profile(options) -> int:
    """Print where the time of a training step goes."""
    settings = config.from_arguments(options)
    if settings.run.backend != "numpy":
        raise ConfigError(
            f"expected --backend numpy, got {settings.run.backend}, which works on while we time: "
            "leave it out"
        )
    use_backend("numpy", settings.run.precision)
    found = profile(settings, options.count)
    whole = found.pop("whole")
    print("| | ms per step | share |")
    print("| --- | --- | --- |")
    for name, seconds in sorted(found.items(), key=lambda item: -item[1]):
        print(f"| {name} | {1e3 * seconds:.2f} | {100 * seconds / whole:.1f} % |")
    print(f"| the whole step | {1e3 * whole:.2f} | 100 % |")
    return 0


# ---------------------------------------------------------------- what sharing a step out costs

# A rank computes so many GFLOP/s and sends so many GB/s: round numbers, to be replaced by yours
ASSUMED = {
    "CPU, 10 Gb/s Ethernet": (500, 1.25),
    "CPU, 100 Gb/s InfiniBand": (500, 12.5),
    "GPU, 100 Gb/s InfiniBand": (20_000, 12.5),
    "GPU, NVLink": (20_000, 200),
}
RANK_COUNTS = (1, 2, 4, 8, 16, 32)
SCALING_ASSUMES = """\
Computed: milliseconds per step on N ranks, and the part of them that is not spent on the sum,

    GFLOP / (N GFLOP/s) + 2 (N-1)/N bytes / (GB/s)

for the same batch on any N. Nothing overlaps, a message takes no time to start, and products of few
rows are taken to be as fast as those of many, which they are not."""


def sum_seconds(nbytes: float, bandwidth: float, N: int) -> float:
    """Seconds to add up arrays of so many bytes over N ranks that each send `bandwidth` bytes/s.

    Whatever the way, every rank sends, and receives, at least 2 (N-1)/N of them: a share of its own
    terms to everybody, and its share of the sum to everybody.
    """
    return 2 * (N - 1) / N * nbytes / bandwidth


def measured_ranks(settings: config.Config, steps: int, ranks: Alone) -> tuple[float, float]:
    """Median seconds of a training step, and of the sum of the gradients alone, ranks lined up."""
    with training(settings, steps, ranks) as run:
        grad, medians = run.model.flat().grad, []
        for work in (run.step, lambda: ranks.sum(grad)):
            seconds = []
            for _ in range(steps):
                grad.fill(0)  # the sums of sums would soon be infinite
                synchronize()
                ranks.largest(0)
                begun = time.perf_counter()
                work()
                synchronize()
                seconds.append(time.perf_counter() - begun)
            medians.append(float(np.median(seconds)))
    return tuple(medians)


def scaling(gflop: float, nbytes: float, machines: dict[str, tuple[float, float]]) -> str:
    """What a step takes on N ranks, computed, in Markdown; (GFLOP/s, GB/s) by name of machine."""
    titles = ["each rank", "GFLOP/s", "GB/s", *(f"N = {N}" for N in RANK_COUNTS)]
    lines = [titles, ["---"] * len(titles)]
    for name, (speed, bandwidth) in machines.items():
        row = [name, f"{speed:,.0f}", f"{bandwidth:.3g}"]
        for N in RANK_COUNTS:
            compute = gflop / speed / N
            seconds = compute + sum_seconds(nbytes, 1e9 * bandwidth, N)
            row.append(f"{1e3 * seconds:,.4g} ms, {100 * compute / seconds:.0f} %")
        lines.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def print_ranks(options) -> int:
    """Measure the sum of the gradients over the ranks there are; compute what more would bring."""
    settings, machines = config.from_arguments(options), dict(ASSUMED)
    D = math.prod(build.open_source(settings, "train").frame_shape)
    with use_backend("numpy", settings.run.dtype):
        blank = build.build_model(settings, D, Blank())
    params = sum(param.value.size for param in blank.params().values())
    nbytes = params * np.dtype(settings.run.dtype).itemsize
    gflop = resources.gflop_per_step(blank, settings)
    lines = [
        f"{settings.run.batch_size} sequences a step: {gflop:,.3g} GFLOP, {params:,} parameters, "
        f"{nbytes / 1e6:,.0f} MB of gradients."
    ]
    with Ranks(settings.run.backend) as ranks:
        use_backend(settings.run.backend, settings.run.precision, settings.run.fused)
        N = ranks.count
        if N > 1:
            step, added = measured_ranks(settings, options.count, ranks)
            sent = sum_seconds(nbytes, 1e9, N) / added
            lines.append(
                f"Measured: {1e3 * step:.1f} ms a step on {N} ranks, {1e3 * added:.1f} ms of it "
                f"({100 * added / step:.1f} %) for the sum, to which each sends {sent:.2g} GB/s."
            )
            machines["as measured here"] = (gflop / N / (step - added), sent)
        if ranks.is_first:
            lines.append(SCALING_ASSUMES)
            print(*lines, scaling(gflop, nbytes, machines), sep="\n\n")
    return 0


# ---------------------------------------------------------------- the command


def _effort(options):
    return QUICK if options.quick else Effort(options.seconds)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    actions = ("growth", "profile", "ranks")
    action = arguments[0] if arguments and arguments[0] in actions else ""
    parser = Parser(
        prog=f"python -m minilstm.bench {action}".rstrip(),
        usage="%(prog)s [--only WORD ...]\n"
        "       %(prog)s growth [--out PNG]\n"
        "       %(prog)s profile [PRESET ...] [--SETTING VALUE ...]\n"
        "       mpiexec -n N %(prog)s ranks [PRESET ...] [--SETTING VALUE ...]"
        if not action else None,
        description={
            "": "Time layers and training steps against PyTorch, JAX and their bare matrix "
            "products. Above 1 we are faster.",
            "growth": "How time and memory grow with T, B, layers and H.",
            "profile": "Where the time of a training step goes. It takes the settings of "
            "minilstm.train.",
            "ranks": "What the ranks that mpiexec started pay for adding up their gradients, and "
            "what more of them would bring. It takes the settings of minilstm.train.",
        }[action],
    )  # fmt: skip
    if action in ("profile", "ranks"):
        parser.add_argument(
            "--count", metavar="STEPS", type=_positive(int), default=10, help="steps to time (10)"
        )
        config.add_arguments(parser)
        options = parser.parse_intermixed_args(arguments[1:])
        return print_profile(options) if action == "profile" else print_ranks(options)
    available = len(cpus())
    parser.add_argument("--json", metavar="FILE", help="write all numbers there, too")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, few repetitions: does it run?"
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_positive(int, available),
        default=available,
        help=f"threads of every library (default: all {available} CPUs)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=_positive(float),
        default=Effort.seconds,
        help="time for each row (default: %(default)g)",
    )
    if action == "growth":
        parser.add_argument(
            "--out", metavar="PNG", default="growth.png", help="the plot (default: %(default)s)"
        )
        return growth(parser.parse_args(arguments[1:]))
    parser.add_argument(
        "--only",
        metavar="WORD",
        action="append",
        help="only rows with this in their name, such as 'torch tuned', 1024,512 or composite",
    )
    return compare(parser.parse_args(arguments))


def _positive(kind, most=math.inf):
    def parse(text):
        value = kind(text)
        if not 0 < value <= most:
            raise ValueError
        return value

    parse.__name__ = f"{kind.__name__} above 0" + f" and at most {most}" * (most < math.inf)
    return parse


if __name__ == "__main__":
    sys.exit(run_command(main))
