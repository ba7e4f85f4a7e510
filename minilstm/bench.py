"""Time the layers and whole training steps beside PyTorch, JAX and the bare matrix products.

    python -m minilstm.bench                         a table of ratios; half an hour
    python -m minilstm.bench --only composite        only rows whose name contains that word
    python -m minilstm.bench growth                  time and memory against T, B, layers, H
    python -m minilstm.bench profile paper           the parts of a training step's time
    python -m minilstm.bench gpu                     steps on a GPU, beside PyTorch; two minutes
    mpiexec -n 2 python -m minilstm.bench ranks paper     the cost of sharing a step among ranks

A ratio is the time of the other library over ours: above 1 we are faster.

Read next: benchmark/timing.py (how it is measured), benchmark/contenders.py (what is timed).
"""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import asdict

from . import config
from .backend import use_backend
from .benchmark import gpu
from .benchmark.growth import (
    BASE,
    FACTORS,
    QUICK_BASE,
    QUICK_FACTORS,
    draw_growth,
    growth_in_words,
    memory_per_step,
    stored_set,
    sweep,
)
from .benchmark.processes import TUNED, UNSET
from .benchmark.profile import profile, profile_in_words
from .benchmark.ranks import ranks_in_words
from .benchmark.timing import QUICK, Duration, all_contests, compare, conditions, table
from .command import Parser, at_least, run_command
from .errors import ConfigError
from .files import expect_writable, write_file
from .threads import cpus
from .training.distributed import Ranks

ACTIONS = {
    "": "Time layers and training steps against PyTorch, JAX and their bare matrix products. "
    "Above 1 we are faster.",
    "growth": "Measure how time and memory grow with T, B, layers and H.",
    "profile": "Show where the time of a training step goes. It takes the settings of "
    "minilstm.train. Those of the schedule, the log, validation and checkpoints change nothing.",
    "gpu": "Time training steps on a GPU beside PyTorch, as used and as a graph, and beside their "
    "own matrix products. Above 1 we are faster. Needs CuPy and a PyTorch with a GPU.",
    "ranks": "Measure the time that the ranks started by mpiexec need to add up their gradients, "
    "and compute the gain of more ranks. With one rank nothing is measured. It takes the settings "
    "of minilstm.train except --threads, because ranks share the CPUs equally. Those of the "
    "schedule, the log, validation and checkpoints change nothing.",
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    action = arguments[0] if arguments and arguments[0][:1] != "-" else ""
    if action not in ACTIONS:
        known = list(filter(None, ACTIONS))
        nearest = difflib.get_close_matches(action, known, n=1, cutoff=0)[0]
        raise ConfigError(
            f"expected one of {', '.join(known)}, or flags alone, got {action!r}: did you mean "
            f"{nearest!r}?"
        )
    late = [] if action else [word for word in arguments[1:] if word and word in ACTIONS]
    if late:
        raise ConfigError(f"expected {late[0]} before the flags, got it after one: write it first")
    parser = Parser(
        prog=f"python -m minilstm.bench {action}".rstrip(),
        usage="%(prog)s [--only WORD ...]\n"
        "       %(prog)s growth [--out PNG]\n"
        "       %(prog)s profile [PRESET ...] [--SETTING VALUE ...]\n"
        "       %(prog)s gpu [--only WORD ...] [--json FILE]\n"
        "       mpiexec -n N %(prog)s ranks [PRESET ...] [--SETTING VALUE ...]"
        if not action else None,
        description=ACTIONS[action],
    )  # fmt: skip
    if action in ("profile", "ranks"):
        parser.add_argument(
            "--count", metavar="STEPS", type=at_least(int, 1), default=10, help="steps to time (10)"
        )
        config.add_arguments(parser)
        options = parser.parse_intermixed_args(arguments[1:])
        settings = config.from_arguments(options)
        parser.expect_effect(settings.conditions())
        if action == "profile":
            return print_profile(settings, options.count)
        parser.expect_effect([("--threads", False, "minilstm.train on one rank")])
        return print_ranks(settings, options.count)
    available = len(cpus())
    parser.add_argument("--json", metavar="FILE", help="also write all numbers to this file")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, few repetitions: does it run?"
    )
    if action == "gpu":
        _add_only(parser, "paper, tf32 or default")
        return print_gpu(parser.parse_args(arguments[1:]))
    parser.add_argument(
        "--threads",
        metavar="N",
        type=at_least(int, 1, available),
        default=available,
        help=f"threads of every library (default: all {available} CPUs)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=at_least(float, 0.001),
        default=Duration.seconds,
        help="time for each row (default: %(default)g)",
    )
    if action == "growth":
        parser.add_argument(
            "--out", metavar="PNG", default="growth.png", help="the plot (default: %(default)s)"
        )
        options = parser.parse_args(arguments[1:])
    else:
        _add_only(parser, "'torch tuned', 1024,512 or composite")
        options = parser.parse_args(arguments)
    parser.expect_effect([("--seconds", not options.quick, "no --quick")])
    return print_growth(options) if action == "growth" else print_comparisons(options)


def print_comparisons(options) -> int:
    """Measure the rows that were asked for, and print the table."""
    if options.json is not None:
        expect_writable(options.json)
    rows = _chosen(all_contests(options.quick), options.only, lambda row: row.name)
    libraries = {}
    for k, row in enumerate(rows, 1):
        print(f"{k}/{len(rows)} {row.name}", file=sys.stderr, flush=True)
        found = compare(row, options.threads, _duration(options))
        libraries |= found if row.threads is None else {}
    print(conditions(options.threads, libraries), table(rows), sep="\n\n")
    if options.json is not None:
        found = {
            "threads": options.threads,
            "unset": UNSET,
            "tuned": TUNED,
            "libraries": libraries,
            "rows": [{"name": row.name} | asdict(row) for row in rows],
        }
        write_file(options.json, json.dumps(found, indent=1) + "\n")
    return 0


def print_gpu(options) -> int:
    """Measure training steps on a GPU, and print the table."""
    if options.json is not None:
        expect_writable(options.json)
    rows = gpu.TINY if options.quick else gpu.ROWS
    rows = _chosen(rows, options.only, lambda row: f"{row.name}, {row.precision}")

    def keep(found):
        if options.json is not None:
            write_file(options.json, json.dumps(found, indent=1) + "\n")

    with use_backend("cupy"):
        found = gpu.measure_all(rows, lambda text: print(text, file=sys.stderr, flush=True), keep)
    print(gpu.in_words(found))
    return 0


def print_growth(options) -> int:
    """Measure how time and memory grow, print both, and draw the times."""
    expect_writable(options.out, suffix=".png")
    if options.json is not None:
        expect_writable(options.json)
    base, factors = (QUICK_BASE, QUICK_FACTORS) if options.quick else (BASE, FACTORS)
    sweeps = []
    for name in base:
        print(f"growth with {name}", file=sys.stderr, flush=True)
        sweeps.append(sweep(name, base, factors, options.threads, _duration(options)))
    print(growth_in_words(base, sweeps, options.threads))
    draw_growth(sweeps, options.out)
    print(f"\nwrote {options.out}")
    if options.json is not None:
        everything = {"base": base, "sweeps": [asdict(s) | {"power": s.power} for s in sweeps]}
        everything |= {"memory": memory_per_step(base), "stored set": stored_set(base)}
        write_file(options.json, json.dumps(everything, indent=1) + "\n")
    return 0


def print_profile(settings: config.Config, count: int) -> int:
    """Print the parts of the time of `count` training steps."""
    if settings.run.backend != "numpy":
        raise ConfigError(
            f"expected --backend numpy, got {settings.run.backend}, which computes in the "
            "background while we time: leave it out"
        )
    with use_backend("numpy", settings.run.precision):
        found, said = profile(settings, count)
    if said:
        print(f"threads   {said}", file=sys.stderr)
    print(profile_in_words(found))
    return 0


def print_ranks(settings: config.Config, count: int) -> int:
    """Print the measured cost of the ranks of this run, and the computed cost of more ranks."""
    run = settings.run
    with Ranks(run.backend) as ranks, use_backend(run.backend, run.precision, run.fused):
        said = ranks_in_words(settings, count, ranks)
        if ranks.is_first:
            print(said)
    return 0


def _add_only(parser, examples):
    parser.add_argument(
        "--only",
        metavar="WORD",
        nargs="+",
        action="extend",
        default=[],
        help=f"only rows with one of these words in their name, such as {examples}",
    )


def _chosen(rows, words, name_of):
    """Return the rows whose names contain one of `words`: all of them if `words` is empty."""
    for word in words:
        if not any(word in name_of(row) for row in rows):
            known = dict.fromkeys(w.strip(",") for row in rows for w in name_of(row).split())
            raise ConfigError(
                f"expected --only to be a part of a row's name, such as {name_of(rows[0])!r}, got "
                f"{word!r}: the names are made of {' '.join(known)}"
            )
    return [row for row in rows if not words or any(word in name_of(row) for word in words)]


def _duration(options):
    return QUICK if options.quick else Duration(options.seconds)


if __name__ == "__main__":
    sys.exit(run_command(main))
