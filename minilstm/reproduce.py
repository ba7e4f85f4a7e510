"""A table or figure of the slides, from nothing: train what it needs, judge it, draw it.

    python -m minilstm.reproduce table2                    the four models of Table 2, with verdicts
    python -m minilstm.reproduce table2 --patches FILE     and its second column, natural patches
    python -m minilstm.reproduce table3                    seven pretrainings, few labels and many
    python -m minilstm.reproduce table1 --rgb FOLDER       the same tables on percepts of real clips
    python -m minilstm.reproduce fig5 --scale smoke        Figure 5 in seconds, of models that
                                                           learned nothing: does it run?

`--scale small` is made for two cores and 45 minutes a command; `paper` is the slides' size, for a
GPU and patience. All runs of a scale lie in one folder and serve every target that needs them. A
command that was stopped goes on where it was, run by run and step by step.

Slides: all tables and figures. Read next: many_runs.py (many runs), significance.py (verdicts),
table2.py (what is said of it).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import config, visualize
from .command import Parser, run_command
from .errors import ConfigError
from .experiments import accuracy_table, table2
from .experiments.action_experiments import ALL, METHODS, Effort, Plan, accuracy, fit_all
from .experiments.many_runs import Trial, evaluate_all, steps_made, train_all
from .experiments.real_clips import recorded
from .experiments.table_definitions import TABLES
from .experiments.verdicts import clean, count
from .figures import tables
from .files import write_file
from .layers.init import Blank
from .runs import build
from .training import resources

FIGURES = ("fig5", "fig6", "fig7", "fig8", "fig9")
TARGETS = ("table1", "table2", "table3", "table4", *FIGURES, "fig12")


@dataclass(frozen=True)
class Scale:
    """How large everything is: presets, then settings for each kind of data, then what is asked.

    Table 2 takes `seeds` on digits and `patch_seeds` on patches, where seeds differ more, and
    `evaluated` test sequences; `actions` is for Tables 1, 3 and 4 and Figure 12 on the synthetic
    clips, `percepts` on recorded ones.
    """

    seeds: int
    patch_seeds: int
    evaluated: int
    digits: Mapping[str, Mapping]
    patches: Mapping[str, Mapping]
    actions: Effort
    percepts: Effort
    presets: tuple[str, ...] = ()
    why: str = ""


def _lengths(steps: int, batch_size: int = 40, **schedule) -> dict:
    """Sections for a run of so many steps whose cosine ends with it."""
    return {
        "optimizer": {"schedule_steps": steps} | schedule,
        "run": {"steps": steps, "batch_size": batch_size, "checkpoint_every": 200},
    }


SCALES = {
    "smoke": Scale(
        seeds=2,
        patch_seeds=2,
        evaluated=20,
        digits=_lengths(20, 4, warmup_steps=2)
        | {
            "data": {"frame_size": 12, "digit_size": 7, "past": 4, "future": 3},
            "model": {"hidden": 8},
        },
        patches=_lengths(20, 4, warmup_steps=2) | {"model": {"hidden": 8}},
        actions=Effort(
            pretraining=_lengths(20, 4, warmup_steps=2)
            | {"data": {"frame_size": 8, "past": 4, "future": 4}, "model": {"hidden": 8}},
            classifier={
                "frame_size": 8,
                "length": 8,
                "validation": 1,
                "test": 2,
                "window": 6,
                "stride": 2,
                "steps": 20,
                "validate_every": 10,
                "batch_size": 18,
            },
            small=1,
            full=3,
            counts=(1, 2, 3),
            draws=2,
        ),
        percepts=Effort(
            pretraining=_lengths(4, 4, warmup_steps=2)
            | {"data": {"past": 3, "future": 2}, "model": {"layers": 1, "hidden": 4}},
            classifier={"window": 4, "stride": 4, "steps": 4, "validate_every": 2, "batch_size": 6},
            small=2,
            full=ALL,
            counts=(2, 4),
            draws=2,
        ),
        why="At this scale nothing is learned: it shows that the command runs.",
    ),
    "small": Scale(
        seeds=5,
        patch_seeds=8,
        evaluated=1000,
        digits=_lengths(1600)
        | {"data": {"frame_size": 32, "digit_size": 14}, "model": {"hidden": 128}},
        patches=_lengths(450) | {"model": {"hidden": 128}},
        actions=Effort(
            pretraining=_lengths(1000) | {"model": {"hidden": 128}},
            classifier={},
            small=10,
            full=100,
            counts=(1, 2, 5, 10, 20, 50),
            draws=10,
        ),
        percepts=Effort(
            pretraining=_lengths(400, 20)
            | {"data": {"past": 8, "future": 8}, "model": {"layers": 1, "hidden": 64}},
            classifier={"window": 16, "stride": 7, "steps": 200, "batch_size": 12},
            small=4,
            full=ALL,
            counts=(2, 4, 8, 16),
            draws=10,
            candidates=({}, {"dropout": 0.5}, {"dropout": 0.5, "learning_rate": 1e-3}),
        ),
        why="What differs besides: the slides' models have 2048 units and learned from some 2 "
        "million sequences of 64x64 pixels (patches: 32x32 in colour); these have 128 units, and "
        "learned from a thirtieth of that or less. A gain at the end of long training need not "
        "show early, nor one that shows early last.",
    ),
    "paper": Scale(
        seeds=5,
        patch_seeds=5,
        evaluated=10_000,
        digits={"run": {"steps": 20_000}},
        patches={"run": {"steps": 20_000}},
        actions=Effort(
            pretraining=_lengths(20_000) | {"model": {"hidden": 2048}},
            classifier={},
            small=10,
            full=100,
            counts=(1, 2, 5, 10, 20, 50, 100),
            draws=10,
        ),
        percepts=Effort(
            pretraining=_lengths(20_000, 128)
            | {"data": {"past": 16, "future": 13}, "model": {"layers": 1, "hidden": 2048}},
            classifier={"window": 16, "stride": 8, "steps": 5000, "batch_size": 128},
            small=10,
            full=ALL,
            counts=(2, 4, 8, 16, 32),
            draws=10,
        ),
        presets=("paper",),
        why="Seeds, learning rate and length of training are ours: the slides name none.",
    ),
}


@dataclass(frozen=True)
class Command:
    """What was asked for on the command line, files by their absolute paths; 0 seeds: as usual."""

    target: str
    scale_name: str
    out: Path
    workers: int
    seeds: int = 0
    digits: str = "bundled"
    patches: str = ""
    backend: str = "numpy"
    plan: bool = False
    rgb: str = ""
    flow: str = ""
    folds: int = 10
    lists: str = ""
    partly: bool = False

    @property
    def scale(self) -> Scale:
        """The Scale of that name."""
        return SCALES[self.scale_name]

    def repetitions(self, data: str = "digits") -> range:
        """The seeds of a table, or the draws of Figure 12."""
        usual = self.scale.patch_seeds if data == "patches" else self.scale.seeds
        if self.target == "fig12":
            usual = self.scale.actions.draws
        return range(self.seeds or usual)

    def trial(self, data: str, row: str, seed: int = 0, layers: int = 2, wider: int = 1) -> Trial:
        """The run of a row of Table 2, or with other layers and units, on "digits" or "patches"."""
        scale, about = self.scale, table2.ROWS[row]
        presets = [about.preset, *scale.presets]
        own, source = scale.digits, {"digits": self.digits}
        if data == "patches":
            presets.append("patches")
            own, source = scale.patches, {"path": self.patches}
        overrides = {name: dict(values) for name, values in own.items()}
        overrides["data"] = overrides.get("data", {}) | source
        overrides["run"] = overrides["run"] | {"seed": seed, "backend": self.backend}
        settings = config.load(presets, overrides=overrides)
        hidden = wider * settings.model.hidden
        model = dataclasses.replace(settings.model, layers=layers, hidden=hidden)
        feeding = settings.feeding
        if about.ours:
            steps = 3 * settings.run.steps // 4
            feeding = config.Feeding(inputs="scheduled", truth_steps=steps)
        settings = dataclasses.replace(settings, model=model, feeding=feeding)
        name = f"{data}-{row}-{layers}x{hidden}-seed{seed}"
        return Trial(self.out / "runs" / name, settings)

    def recognition_plan(self) -> tuple[Plan, range, str]:
        """What a table of accuracies is made from, how often, and what a repetition is called."""
        effort, drawn = self.scale.percepts, self.target == "fig12"
        folders = {"rgb": self.rgb, "flow": self.flow}
        folders = {stream: Path(folder) for stream, folder in folders.items() if folder}
        if not folders:
            plan = Plan(self.out, self.scale.actions, self.digits, self.backend)
            return plan, self.repetitions(), "draw" if drawn else "seed"
        if self.target == "table4" and len(folders) < 2:
            raise ConfigError("expected --rgb and --flow for table4, got one of them: give both")
        if self.seeds and not drawn:
            raise ConfigError(
                "expected no --seeds for a table of percepts, which has a repetition for each "
                f"fold, got {self.seeds}: give --folds"
            )
        plan = recorded(
            self.out, effort, self.backend, folders, self.folds, self.lists, self.partly
        )
        folds = len(plan.folds)
        if not drawn:
            return plan, range(folds), "split" if self.lists else "fold"
        rounds = math.ceil((self.seeds or effort.draws) / folds)  # every fold as often
        return plan, range(rounds * folds), "draw"

    def train(self, trials: list[Trial]) -> None:
        """Say what is asked for and what it costs; train it unless only the plan is wanted."""
        print(cost_in_words(trials), flush=True)
        if not self.plan:
            train_all(trials, self.workers)


def cost_in_words(trials: list[Trial]) -> str:
    """What training costs, before it begins: runs, steps, arithmetic, memory."""
    left, gflop, most, done = 0, 0.0, 0, 0
    for trial in trials:
        settings, made = trial.config, steps_made(trial) or 0
        steps = settings.run.steps - made
        done += not steps
        left += steps
        D = math.prod(build.open_source(settings, "train").frame_shape)
        model = build.build_model(settings, D, Blank())
        gflop += steps * resources.gflop_per_step(model, settings)
        most = max(most, resources.weights_memory(settings, D))
    return (
        f"{len(trials)} runs, {done} of them finished: {left:,} steps to go, {gflop / 1e3:,.3g} "
        f"TFLOP of matrix products in all: {_hours(gflop, 20)} at 20 GFLOP/s, about one core of a "
        f"CPU; {_hours(gflop, 5000)} at 5 TFLOP/s, about a good GPU. Weights and optimizer of a "
        f"run take up to {resources.in_words(most)}."
    )


def _hours(gflop, rate):
    hours = gflop / rate / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


# ---------------------------------------------------------------- Table 2


def table_2(command: Command) -> str:
    """Train and judge all rows, on digits and, where a file of them is given, on patches."""
    kinds = ["digits", *["patches"] * bool(command.patches)]
    trials = {
        (data, row, seed): command.trial(data, row, seed)
        for data in kinds
        for seed in command.repetitions(data)  # whole seeds first: what is stopped early has pairs
        for row in table2.ROWS
    }
    command.train(list(trials.values()))
    if command.plan:
        return ""
    judged = evaluate_all(list(trials.values()), command.workers, command.scale.evaluated)
    judged = dict(zip(trials, judged, strict=True))
    results = {
        data: {
            row: [judged[data, row, seed] for seed in command.repetitions(data)]
            for row in table2.ROWS
        }
        for data in kinds
    }
    about = {
        "scale": command.scale_name,
        "why": command.scale.why,
        "trained": {data: _trained_on(trials[data, "composite", 0].config) for data in kinds},
    }
    found = table2.analyse(results, about)
    rows, caption, zero = table2.chart(found)
    for kind in ("png", "pdf"):
        tables.dots(rows, command.out / f"table2.{kind}", caption, zero)
    written = table2.text(found)
    _write(command, "table2", written, found)
    return written


def _trained_on(*configs):
    """What all of them were trained on, and how large they are."""
    r, d = configs[0].run, configs[0].data
    sizes = [f"{count(c.model.layers, 'layer')} of {c.model.hidden} units" for c in configs]
    return (
        f"{r.steps * r.batch_size:,} sequences ({r.steps:,} steps of {r.batch_size}), with "
        f"{' or '.join(dict.fromkeys(sizes))}, {d.past} frames in and {d.future} predicted"
    )


# ---------------------------------------------------------------- action recognition


def _recognition(command: Command) -> str:
    """Train, fit and judge what Table 1, 3, 4 or Figure 12 asks for."""
    target = command.target
    plan, repetitions, each = command.recognition_plan()
    table, asked = TABLES[target](plan.effort, plan.streams)
    wanted = dict.fromkeys(fit for _, many in asked.values() for fit in many)
    fits = {(fit, n): plan.fit(*fit, n) for n in repetitions for fit in wanted}
    trials = {}
    for (method, stream, _), n in fits:
        if method in METHODS:
            trials[method, stream, n] = plan.pretraining(method, stream, n)
    command.train(list(trials.values()))
    print(f"{len(dict(fits.values()))} fits after that", flush=True)
    if command.plan:
        return ""
    results = fit_all(dict(fits.values()), command.out / "fits", command.workers)
    values = {
        cell: [accuracy([results[fits[fit, n][0]] for fit in many], name) for n in repetitions]
        for cell, (name, many) in asked.items()
    }
    about = plan.about(table) | {"scale": command.scale_name, "each": each}
    found = accuracy_table.analyse(table, values, about)
    written = accuracy_table.text(table, found)
    for kind in ("png", "pdf"):
        path = command.out / f"{target}.{kind}"
        if target == "fig12":
            curves, caption, xlabel, zero = accuracy_table.curves(table, found)
            tables.error_bars(curves, path, caption, xlabel, zero)
        else:
            rows, caption, zero = accuracy_table.chart(table, found)
            tables.dots(rows, path, caption, zero)
    _write(command, target, written, found)
    return written


def _write(command, name, written, found):
    """The text with its picture, and the numbers."""
    write_file(command.out / f"{name}.json", json.dumps(clean(found), indent=2))
    write_file(command.out / f"{name}.md", f"{written}\n![{name}]({name}.png)\n")


# ---------------------------------------------------------------- Figures 5 to 10


def _figure(command: Command) -> str:
    """Train what a figure shows and have visualize.py draw it, with captions in Markdown."""
    if command.target == "fig6" and not command.patches:
        raise ConfigError(
            "expected --patches FILE for fig6, got none: make one with "
            "python -m data_tools.extract_patches"
        )
    shown = {
        "fig5": {
            "1 layer": command.trial("digits", "composite", layers=1),
            "2 layers": command.trial("digits", "composite"),
            "2 layers, conditional": command.trial("digits", "conditional-composite"),
        },
        "fig6": {
            f"{wider * command.trial('patches', 'composite').config.model.hidden} units":
            command.trial("patches", "composite", wider=wider)
            for wider in (1, 2)
        },
        "fig7": {"Future Predictor": command.trial("digits", "predictor")},
        "fig8": {"Composite Model": command.trial("digits", "composite")},
        "fig9": {"Composite Model": command.trial("digits", "composite")},
    }[command.target]  # fmt: skip
    command.train(list(shown.values()))
    if command.plan:
        return ""
    runs = [visualize.open_run(trial.path, name) for name, trial in shown.items()]
    plate = visualize.Plate(command.out)
    names = ("fig9", "fig10") if command.target == "fig9" else (command.target,)
    visualize.draw(runs, plate, names)
    written = visualize.captions(runs, plate)
    configs = [trial.config for trial in shown.values()]
    written += f"\nTrained on {_trained_on(*configs)}, seed {configs[0].run.seed}"
    written += f" ({command.target}, scale {command.scale_name}).\n"
    write_file(command.out / f"{command.target}.md", written)
    return written


# ---------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.reproduce",
        description="Repeat a table or figure of the slides: train, judge, draw, and say how it "
        "compares.",
    )
    parser.add_argument("target", metavar="TARGET", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="small",
        help="smoke: seconds, learns nothing; small: 45 minutes on two cores at most (default); "
        "paper: the slides' size, days even on a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_positive, metavar="N", default=0,
        help="repetitions of a table, seeds 0 to N - 1 (default: "
        f"{_each(lambda scale: scale.seeds)}; on patches {_each(lambda scale: scale.patch_seeds)}; "
        f"of fig12 {_each(lambda scale: scale.actions.draws)})",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER",
        help="where runs, tables and figures go (default: runs/reproduce-SCALE)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_positive, metavar="N", default=os.cpu_count() or 1,
        help="runs at a time, of one thread each (default: the number of cores)",
    )  # fmt: skip
    parser.add_argument("--digits", metavar="DIR", help="a folder of MNIST's full IDX files")
    parser.add_argument(
        "--patches", metavar="FILE",
        help="patches of natural video (data_tools/extract_patches.py), for table2 and fig6",
    )  # fmt: skip
    for stream, of in (("rgb", "the frames"), ("flow", "the optical flow")):
        parser.add_argument(
            f"--{stream}", metavar="FOLDER",
            help=f"percepts of {of} of recorded clips (data_tools/extract_"
            f"{'percepts' if stream == 'rgb' else 'flow'}.py), for tables 1, 3, 4 and fig12 in "
            "place of the synthetic clips; with both, a third stream is made of them joined",
        )  # fmt: skip
    parser.add_argument(
        "--folds", type=_positive, metavar="N", default=10,
        help="with percepts: parts of the recordings, each held out once (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--lists", metavar="FOLDER",
        help="with percepts: the official lists of UCF-101 or HMDB-51, whose three splits take the "
        "place of folds",
    )  # fmt: skip
    parser.add_argument(
        "--partly",
        action="store_true",
        help="with --lists: leave out listed clips that are missing",
    )
    parser.add_argument(
        "--backend", choices=("numpy", "cupy"), default="numpy", help="array library of the runs"
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what would be trained and its cost; train nothing"
    )
    options = parser.parse_args(arguments)
    command = Command(
        options.target,
        options.scale,
        Path(options.out or f"runs/reproduce-{options.scale}").resolve(),
        options.workers,
        options.seeds,
        str(Path(options.digits).resolve()) if options.digits else "bundled",
        str(Path(options.patches).resolve()) if options.patches else "",
        options.backend,
        options.plan,
        str(Path(options.rgb).resolve()) if options.rgb else "",
        str(Path(options.flow).resolve()) if options.flow else "",
        options.folds,
        str(Path(options.lists).resolve()) if options.lists else "",
        options.partly,
    )
    if command.target in FIGURES:
        print(_figure(command))
    else:
        print(table_2(command) if command.target == "table2" else _recognition(command))
    if not command.plan:
        print(f"written to {command.out}")
    return 0


def _each(number):
    return ", ".join(f"{name} {number(scale)}" for name, scale in SCALES.items())


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
