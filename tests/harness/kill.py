"""Kill training at any moment, make its writes fail, and see that nothing is lost.

    python tests/harness/kill.py --kills 200                          all of it
    python tests/harness/kill.py --kills 5 --first 7 --every 0        journey 7 again, and no faults
    python tests/harness/kill.py --backend cupy                       with the thread that writes

A journey is one run that is killed with SIGKILL and resumed, a few times, until it finishes. It is
a real process of `python -m minilstm.train`, or a forked child, which starts faster. Kills come at
random moments, in the start-up, when the temporary file of a checkpoint is there, in the drawing,
and in forked children before, after or half-way through any one call to the operating system that
writes. After every kill all that the folder holds must be readable; at the end weights, optimizer,
log, kept checkpoints and pictures must be, to the bit, those of a run that nobody disturbed.

Then faults: a short training is done again and again, and each of its writing calls fails once: the
disk is full (for that call, or from then on), broken, or the process dies. Training must go on, or
stop with one line; what is there must be readable, and resuming must lead to the same bits.

With `--backend cupy` a thread writes checkpoints while training goes on. Without a GPU, start this
program by the `run` of the emulation (tests/README.md).

The exit status is 1 if anything failed; the folders that did are kept. tests/test_kill.py does a
part of this, and the same with real system calls and a full disk.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import functools
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import minilstm
from minilstm import train
from minilstm.command import run_command
from minilstm.files import write_file
from minilstm.runs import build, checkpoint, run_folder
from minilstm.training.progress import Progress

with contextlib.suppress(ImportError):
    import fakegpu  # noqa: F401  the emulated driver, for the processes that are started here

BACKEND = os.environ.get("KILLED_BACKEND", "numpy")  # from --backend
TINY = (
    "--frame-size 8 --digit-size 5 --num-digits 1 --past 3 --future 3 --hidden 6 --batch-size 4 "
    "--log-every 1 --keep 2 --quiet"
).split()
LONG = [*TINY, "--validate-every", "7"]
VARIANTS = (
    [*LONG, "--checkpoint-every", "1"],
    [*LONG, "--checkpoint-every", "2", "--layers", "2", "--dropout", "0.3"],
    [*LONG, "--checkpoint-every", "3", "--optimizer", "sgd", "--conditional", "both"],
)
SHORT = [*TINY, "--steps", "5", "--validate-every", "2", "--checkpoint-every", "2"]
KILLS = 5  # of one journey
PLACES = ("start-up", "step", "checkpoint write", "log write", "drawing")
FAULTS = ("full", "full from then on", "broken", "done, but an error", "half, then full") + (
    "killed before", "killed after", "killed half-way"
)  # fmt: skip


# ---------------------------------------------------------------- calls that fail


def error(code: int) -> Callable[[], None]:
    """A function that raises what the operating system would."""

    def fail():
        raise OSError(code, os.strerror(code))

    return fail


def kill() -> None:
    """Die at once, without a last word: no `finally`, no buffer is written."""
    os.kill(os.getpid(), signal.SIGKILL)


class Calls:
    """`with Calls(folder) as calls:` names every writing call to the operating system in it.

    Call number `number` suffers `fault()` "before" or "after" it is done, or "half" way: then half
    of the bytes are written. With "on", all that need room suffer it from there on. `short` bounds
    the bytes that one write takes, which the system is always free to do. Only calls whose names
    start with `only` are counted: "write metrics.jsonl" is one to the log.
    """

    def __init__(self, folder, number=None, when="before", fault=kill, short=None, only=""):
        self.folder, self.number, self.when, self.fault = str(folder), number, when, fault
        self.short, self.only, self.names = short, only, []

    def __enter__(self):
        self._patches = contextlib.ExitStack()
        for name in ("open", "replace", "link", "unlink", "mkdir", "fsync"):
            self._patches.enter_context(mock.patch.object(os, name, self._patched(name)))
        for module in (io, builtins):  # of pathlib, and of everyone else
            self._patches.enter_context(mock.patch.object(module, "open", self._open))
        return self

    def __exit__(self, *_):
        self._patches.close()

    def call(self, name: str, function: Callable, *arguments, **keywords):
        """Do one call, or what is to happen instead."""
        if not name.startswith(self.only):
            return function(*arguments, **keywords)
        n, self.names = len(self.names), [*self.names, name]
        hit = n == self.number
        needs_room = name.split()[0] in ("open", "write", "link", "mkdir")
        if hit and self.when == "before":
            self.fault()
        if self.when == "on" and n >= self.number and needs_room:
            self.fault()
        result = function(*arguments, **keywords)
        if hit and self.when in ("after", "half"):
            if name == "open":  # failed, so that nobody else will close it
                os.close(result) if isinstance(result, int) else result.close()
            self.fault()
        return result

    def write(self, name: str, function: Callable, data):
        """One write of a raw file."""
        name, size = f"write {name}", len(data)
        half = name.startswith(self.only) and len(self.names) == self.number and self.when == "half"
        if not half:
            return self.call(name, function, data[: self.short or size])
        try:
            return self.call(name, function, data[: size // 2])
        except OSError:  # the system tells of what it took first, and fails when asked again
            self.number, self.when = self.number + 1, "before"
            return size // 2

    def _patched(self, name):
        real = getattr(os, name)

        def patched(path, *arguments, **keywords):
            reads = name == "open" and arguments[0] == os.O_RDONLY
            if name != "fsync" and (reads or not str(path).startswith(self.folder)):
                return real(path, *arguments, **keywords)
            return self.call(name, real, path, *arguments, **keywords)

        return patched

    def _open(self, path, mode="r", *arguments, **keywords):
        if not (set(mode) & set("wax+") and str(path).startswith(self.folder)):
            return OPEN(path, mode, *arguments, **keywords)
        raw = self.call("open", Raw, path, mode.replace("b", ""))
        raw.calls = self
        if (arguments[0] if arguments else keywords.get("buffering", -1)) == 0:
            return raw
        file = io.BufferedWriter(raw)
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


class Raw(io.FileIO):
    """A raw file whose writes are counted, and may fail; all buffering is Python's own, above."""

    def write(self, data):
        with memoryview(data).cast("B") as bytes_:
            return self.calls.write(Path(self.name).name, super().write, bytes_)


OPEN = io.open


# ---------------------------------------------------------------- what must hold


def damage(run: Path) -> list[str]:
    """List the faults of a run folder: files that can't be read, or that contradict the rest."""
    found = []

    def attempt(what, read, *arguments, **keywords):
        try:
            return read(*arguments, **keywords)
        except Exception as problem:
            found.append(f"{what}: {type(problem).__name__}: {problem}")

    folder = run_folder.RunFolder(run)
    if not folder.config.exists():
        others = [path.name for path in run.glob("[!.]*")]
        return [f"no config.toml, but {others}"] if others else []
    attempt("config", build.read_config, run)
    rows = attempt("log", folder.rows) if folder.log.exists() else []
    if folder.checkpoint.exists():
        attempt("load", minilstm.load, run)
        about = (attempt("checkpoint", checkpoint.read, folder.checkpoint) or [0, {}])[1]
        logged = max((row["step"] for row in rows or ()), default=0)
        if logged < about.get("step", 0):
            found.append(f"a checkpoint of step {about.get('step')}, but a log up to {logged}")
    if folder.best.exists():
        attempt("best", minilstm.load, run, best=True)
    for path in folder.numbered():
        _, about = attempt(path.name, checkpoint.read, path) or (0, {})
        if about.get("step") != int(path.stem.partition("-")[2]):
            found.append(f"{path.name} is of step {about.get('step')}")
    return found


def content(path: Path):
    """A file without what may differ between two runs: the seconds that they took."""
    if path.suffix == ".safetensors":
        arrays, about = checkpoint.read(path)
        about.pop("seconds", None)
        return {name: array.tobytes() for name, array in arrays.items()}, about
    if path.suffix == ".jsonl":
        return [
            {k: v for k, v in row.items() if k != "seconds"} for row in run_folder.read_log(path)
        ]
    return path.read_bytes()


def differences(one: Path, two: Path, numbered: bool = True) -> list[str]:
    """The names of what isn't the same in two finished runs."""

    def contents(run):
        paths = [p for p in run.iterdir() if numbered or not p.name.startswith("checkpoint-")]
        return {path.name: content(path) for path in paths}

    a, b = contents(one), contents(two)
    return [f"{name} differs" for name in sorted(a | b) if a.get(name) != b.get(name)]


def step_of(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    path = run / "checkpoint.safetensors"
    return checkpoint.read(path)[1]["step"] if path.exists() else 0


# ---------------------------------------------------------------- processes that are killed


class Training:
    """A process that trains: `poll`, `kill` and `wait`, as of Popen; status -9 means killed."""

    def __init__(self, arguments, errors: Path, real: bool, calls: Calls | None = None, draw=True):
        if real:
            with open(errors, "wb") as file:
                emulation = os.environ.get("MINILSTM_EMULATED_CUDA", "")
                run = [str(Path(emulation, "run"))] if emulation and BACKEND == "cupy" else []
                command = [*run, sys.executable, "-m", "minilstm.train", *arguments]
                process = subprocess.Popen(command, stderr=file)
            self.poll, self.kill, self.wait = process.poll, process.kill, process.wait
            return
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_child, args=(arguments, errors, calls, draw))
        process.start()
        self.poll, self.kill = lambda: process.exitcode, process.kill
        self.wait = lambda: process.join() or process.exitcode


def _child(arguments, errors, calls, draw):
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 2)
    if not draw:
        Progress.draw = lambda run: write_file(run.folder.path / "curves.png", b"picture")
    with calls or contextlib.nullcontext():
        status = run_command(lambda: train.main(arguments))
    if calls and calls.number is None:
        errors.with_suffix(".calls").write_text(json.dumps(calls.names))
    sys.exit(status)


def killed_when(training: Training, moment: Callable[[], bool]) -> int:
    """Kill it as soon as `moment()` is true. Returns the exit status."""
    while training.poll() is None:
        if moment():
            training.kill()
            break
        time.sleep(0.0002)
    return training.wait()


def complaint(status: int, errors: Path, fault: bool = False) -> list[str]:
    """List the faults in the way a training ended.

    Its status must be 0, without a word. After a fault it may warn, and end with 2 and one line.
    """
    lines = errors.read_text().splitlines()
    if fault:
        lines = [line for line in lines if not line.startswith("warning: ")]
    fits = status == 0 and not lines
    if fault and status == 2:
        fits = len(lines) == 1 and lines[0].startswith("error: ")
    return [] if fits else [f"status {status}:\n{errors.read_text()}"]


def new_or_resume(run: Path, flags: list[str]) -> list[str]:
    """Return the arguments that begin a run, or that resume it."""
    if (run / "config.toml").exists():
        return ["--resume", str(run), "--quiet"]
    return [*flags, "--backend", BACKEND, "--out", str(run)]


def straight(flags: list[str], run: Path, draw: bool = True) -> tuple[list[str], float, float]:
    """An undisturbed run in a forked child: its calls, and its seconds with and without drawing."""
    started, begun = time.monotonic(), None
    errors = run.with_suffix(".errors")
    training = Training(new_or_resume(run, flags), errors, False, Calls(run), draw)
    while training.poll() is None:
        if begun is None and list(run.glob("*prediction.png")):
            begun = time.monotonic()
        time.sleep(0.001)
    assert training.wait() == 0, errors.read_text()
    calls = json.loads(errors.with_suffix(".calls").read_text())
    return calls, time.monotonic() - started, (begun or time.monotonic()) - started


# ---------------------------------------------------------------- journeys


@dataclass
class Found:
    """Results of a journey, or of a fault."""

    name: str
    places: Counter = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    finished: bool = False

    def problems(self) -> list[str]:
        """Everything that is not as it must be."""
        return [*self.unreadable, *self.different, *self.failed]


def place(run: Path, before: bytes | None, steps: int) -> str:
    """Name the part of training that a kill hit, by the files it left behind."""
    left = " ".join(path.name for path in run.glob(".*.tmp"))
    if ".checkpoint" in left or ".best" in left:
        return "checkpoint write"
    log = run / "metrics.jsonl"
    now = log.read_bytes() if log.exists() else None
    if now and not now.endswith(b"\n"):
        return "log write"
    if step_of(run) == steps:
        return "drawing"
    return "start-up" if now == before else "step"


def moment(aim: str, wait: float, run: Path, steps: int) -> Callable[[], bool]:
    """Tells when to kill: after so many seconds, with "draw" of drawing; and with "write" then."""
    since = None if aim == "draw" else time.monotonic()

    def come() -> bool:
        nonlocal since
        if since is None:  # the last checkpoint is there: what remains is the drawing
            if (run / f"checkpoint-{steps:010}.safetensors").exists():
                since = time.monotonic()
            return False
        return time.monotonic() > since + wait and (aim != "write" or _writing(run))

    return come


def journey(number: int, seed: int, steps: int, work: Path, reference: tuple) -> Found:
    """One run, killed some times and resumed as often, compared with one that was not."""
    rng = random.Random(f"{seed} {number}")
    variant = number % len(VARIANTS)
    flags = [*VARIANTS[variant], "--steps", str(steps)]
    calls, seconds, drawing_after = reference
    real = rng.random() < 0.25
    run, errors = work / f"journey-{number}", work / f"journey-{number}.errors"
    undisturbed = work / f"straight-{variant}"
    found = Found(f"journey {number} ({'process' if real else 'fork'}, variant {variant})")
    aims = rng.choices(("any", "start", "write", "call", "log"), (2, 1, 1, 1, 1), k=KILLS - 1)
    aims += [rng.choice(("any", "draw", "draw", "call")), None]  # at last, until it finishes
    start, went = (0.5 if real else 0.0), 0
    for i, aim in enumerate(aims):
        log = run / "metrics.jsonl"
        before = log.read_bytes() if log.exists() else None
        call = None
        if aim == "call" and not real:
            first = len(calls) * went // steps if i == KILLS - 1 else 0
            n = rng.randrange(max(1, (len(calls) - first) // (KILLS - i)))
            call = Calls(run, n, rng.choice(("before", "after", "half")))
        elif aim == "log" and not real:
            call = Calls(run, rng.randrange(10), "half", only="write metrics.jsonl")
        part = drawing_after * (steps - went) / steps / max(1, KILLS - i)  # for this kill
        wait = rng.uniform(0, start + 0.05) if aim == "start" else start + rng.uniform(0, 2 * part)
        if aim == "draw":
            wait = rng.uniform(0, seconds - drawing_after + 0.05)
        training = Training(new_or_resume(run, flags), errors, real, call)
        if aim is None or call:  # which kills the process from inside
            status = training.wait()
        else:
            status = killed_when(training, moment(aim, wait, run, steps))
        if status != -signal.SIGKILL:
            found.finished = status == 0
            found.failed += complaint(status, errors)
            break
        found.places[place(run, before, steps)] += 1
        found.unreadable += damage(run)
        if not found.unreadable:
            now = step_of(run)
            if now < went:
                found.failed.append(f"went back from step {went} to {now}")
            went = now
            rows = content(log) if log.exists() else []
            if rows != content(undisturbed / "metrics.jsonl")[: len(rows)]:
                found.different.append(f"the log differs, killed at step {now}")
        if found.problems():
            break
    if found.finished:
        found.unreadable += damage(run)
        found.different += differences(run, undisturbed)
    if not found.problems():
        shutil.rmtree(run)
        errors.unlink()
    return found


def _writing(run):
    try:
        return any(name.startswith(".checkpoint.safetensors") for name in os.listdir(run))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- faults


def fault(number: int, kind: str, work: Path) -> Found:
    """The short training with a fault in its call `number`, then resumed without any.

    Its pictures are replaced by one small file: drawing takes long, and writes in the same way.
    """
    run = work / f"fault-{number}-{kind.replace(' ', '-').replace(',', '')}"
    errors = run.with_suffix(".errors")
    when, action = {
        "full": ("before", error(errno.ENOSPC)),
        "full from then on": ("on", error(errno.ENOSPC)),
        "broken": ("before", error(errno.EIO)),
        "done, but an error": ("after", error(errno.EIO)),
        "half, then full": ("half", error(errno.ENOSPC)),
        "killed before": ("before", kill),
        "killed after": ("after", kill),
        "killed half-way": ("half", kill),
    }[kind]
    found = Found(f"call {number}, {kind}")
    calls = Calls(run, number, when, action)
    status = Training(new_or_resume(run, SHORT), errors, False, calls, draw=False).wait()
    if status == -signal.SIGKILL and "killed" in kind:
        found.places[place(run, None, 5)] += 1
    else:
        found.failed += complaint(status, errors, fault=True)
        if status == 0 and list(run.glob(".*.tmp")) and kind != "broken":
            found.failed.append("a temporary file is left")
    found.unreadable += damage(run)
    if not found.problems():
        status = Training(new_or_resume(run, SHORT), errors, False, draw=False).wait()
        found.finished = status == 0
        found.failed += complaint(status, errors)
        found.unreadable += damage(run)
        # a checkpoint that found no room is not there under its step
        found.different += differences(run, work / "straight-short", numbered="killed" in kind)
    if not found.problems():
        shutil.rmtree(run)
        errors.unlink()
    return found


# ---------------------------------------------------------------- the command


def _caught(function, *arguments):
    """An error of the harness itself must not look like a pass."""
    try:
        return function(*arguments)
    except Exception:
        return Found(f"{function.__name__} {arguments[0]}", failed=[traceback.format_exc()])


def main() -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="at least so many in journeys")
    parser.add_argument("--steps", type=int, default=150, help="of a run that is killed")
    parser.add_argument("--every", type=int, default=1, help="faults in every Nth call; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first journey")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--backend", default="numpy", choices=("numpy", "cupy"))
    options = parser.parse_args()
    os.environ["KILLED_BACKEND"] = options.backend  # for the workers, too
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the workers, which import NumPy anew
    os.environ.setdefault("MPLBACKEND", "agg")
    work = Path(tempfile.mkdtemp(prefix="minilstm-kill-"))
    began, kept = time.monotonic(), 0
    spawn = multiprocessing.get_context("spawn")  # forking is for processes without threads
    with futures.ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:

        @functools.cache  # few journeys need few of them
        def reference(variant):
            flags = [*VARIANTS[variant], "--steps", str(options.steps)]
            return pool.submit(straight, flags, work / f"straight-{variant}").result()

        total, journeys = Counter(), []
        with tqdm(total=options.kills, desc="kills", unit="kill", leave=False) as bar:
            number, waiting = options.first, set()
            while total.total() < options.kills or waiting:
                while len(waiting) < options.jobs and total.total() < options.kills:
                    arguments = number, options.seed, options.steps, work
                    undisturbed = reference(number % len(VARIANTS))
                    waiting.add(pool.submit(_caught, journey, *arguments, undisturbed))
                    number += 1
                done, waiting = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
                for future in done:
                    journeys.append(found := future.result())
                    total += found.places
                    bar.update(found.places.total())
                if sum(bool(found.problems()) for found in journeys) >= 5:
                    break
        kept += report(journeys, work)
        where = ", ".join(f"{total[name]} {name}" for name in PLACES)
        print(
            f"kills     {total.total()} ({where}): "
            f"{sum(bool(found.unreadable) for found in journeys)} unreadable runs, "
            f"{sum(found.finished for found in journeys)} of {len(journeys)} runs finished, "
            f"{sum(found.finished and not found.different for found in journeys)} bit-identical; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )

        if options.every:
            began = time.monotonic()
            calls, _, _ = pool.submit(straight, SHORT, work / "straight-short", False).result()
            numbers = range(0, len(calls), options.every)
            tasks = [pool.submit(_caught, fault, n, k, work) for k in FAULTS for n in numbers]
            done = futures.as_completed(tasks)
            bar = tqdm(done, total=len(tasks), desc="faults", unit="fault", leave=False)
            faults = [future.result() for future in bar]
            kept += report(faults, work)
            print(
                f"faults    {len(faults)} ({len(FAULTS)} kinds in each of {len(numbers)} of "
                f"{len(calls)} calls): {sum(bool(found.unreadable) for found in faults)} "
                f"unreadable runs, {sum(found.finished for found in faults)} finished, "
                f"{sum(found.finished and not found.different for found in faults)} "
                f"bit-identical; {time.monotonic() - began:.0f} s"
            )
    if not kept:
        shutil.rmtree(work)
    print(f"{kept} failures")
    return 1 if kept else 0


def report(all_found: list[Found], work: Path, most: int = 10) -> int:
    """Print what failed. Returns how many did."""
    bad = [found for found in all_found if found.problems()]
    for found in bad[:most]:
        print(f"\n{found.name}, in {work}:", *found.problems(), sep="\n  ", flush=True)
    return len(bad)


if __name__ == "__main__":
    sys.exit(main())
