"""Make a table or figure of the slides by a Request: train its runs, judge them, draw them.

All runs of a scale lie in one folder and serve every target that needs them. An interrupted command
resumes, run by run and step by step.

Slides: all tables and figures. Read next: scales.py (sizes), many_runs.py (many runs),
significance.py (verdicts), table2.py (what is said of the numbers).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..errors import ConfigError, number_of
from ..figures import tables
from ..files import write_file
from ..layers.init import Blank
from ..runs import build
from ..streams import warn_instead
from ..training import resources
from . import accuracy_table, charts, run_figures, table2
from .action_experiments import METHODS, Plan, fit_all
from .action_fit import mean_accuracy
from .budget import cost_on_gpu, in_time
from .many_runs import Trial, evaluate_all, steps_made, train_all
from .markdown import without_nan
from .real_clips import plan_real_clips
from .scales import SCALES, ExperimentScale
from .table_definitions import TABLES

FIGURES = ("fig5", "fig6", "fig7", "fig8", "fig9")
TARGETS = ("table1", "table2", "table3", "table4", *FIGURES, "fig12")
CORE = 20  # GFLOP/s of a slow core of a CPU
MOST_HOURS = 24  # of training on a CPU; more needs --long


@dataclass(frozen=True)
class Request:
    """A target to reproduce, with the options of `python -m minilstm.reproduce`.

    target, scale_name   one of TARGETS, and a name of SCALES
    out                  folder for runs, tables and figures
    workers              runs at a time
    seeds                repetitions; 0 for those of the scale
    digits, patches      "bundled" or a folder of IDX files; a file of patches, or ""
    plan                 print the cost and train nothing
    long                 train for more than MOST_HOURS on a CPU
    only                 rows of Table 2 to train, or () for all
    minutes              minutes of training steps of each run, or 0 for the scale's steps
    precision            of the runs, or "" for that of the presets
    preset               "large" or "paper" for models of digits at scale paper, or "" for large
    rgb, flow            folders of percepts of real clips, or ""
    folds, lists, partly     how real clips are split: see real_clips.py
    captions             also write captions into the pictures

    Paths are absolute.
    """

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
    only: tuple[str, ...] = ()
    minutes: float = 0
    precision: str = ""
    preset: str = ""
    long: bool = False
    captions: bool = False

    @property
    def scale(self) -> ExperimentScale:
        """The scale of that name."""
        return SCALES[self.scale_name]

    def repetitions(self, data: str = "digits") -> range:
        """Return the seeds of a table, or the draws of Figure 12. On a GPU Table 2 has one."""
        usual = self.scale.patch_seeds if data == "patches" else self.scale.seeds
        if self.target == "table2" and self.backend == "cupy":
            usual = 1
        if self.target == "fig12":
            usual = self.scale.actions.draws
        return range(self.seeds or usual)

    def trial(self, data: str, row: str, seed: int = 0, layers: int = 2, wider: int = 1) -> Trial:
        """Return the run of a row of Table 2 on "digits" or "patches".

        `wider` multiplies the number of units.
        """
        scale, about = self.scale, table2.ROWS[row]
        presets = [about.preset, *scale.presets]
        own, source = scale.digits, {"digits": self.digits}
        if data == "patches":
            presets.append("patches")
            own, source = scale.patches, {"path": self.patches}
        elif scale.digit_preset and self.preset in ("", scale.digit_preset):
            presets, own = [about.preset, scale.digit_preset], {}
        overrides = {name: dict(values) for name, values in own.items()}
        overrides["data"] = overrides.get("data", {}) | source
        overrides["run"] = overrides.get("run", {}) | {"seed": seed, "backend": self.backend}
        if self.precision:
            overrides["run"]["precision"] = self.precision
        settings = config.load(presets, overrides=overrides)
        hidden = wider * settings.model.hidden
        model = dataclasses.replace(settings.model, layers=layers, hidden=hidden)
        feeding = settings.feeding
        if about.ours:
            steps = 3 * settings.run.steps // 4
            feeding = config.FeedingSettings(inputs="scheduled", truth_steps=steps)
        settings = dataclasses.replace(settings, model=model, feeding=feeding)
        name = f"{data}-{row}-{layers}x{hidden}-seed{seed}"
        return Trial(self.out / "runs" / name, settings)

    def action_plan(self) -> tuple[Plan, range, str]:
        """Return the plan of Table 1, 3, 4 or Figure 12, its repetitions, and their noun.

        Raises ConfigError for options that do not fit together, and what `plan_real_clips` raises.
        """
        scale, drawn = self.scale.percepts, self.target == "fig12"
        given = {"rgb": self.rgb, "flow": self.flow}
        folders = {stream: Path(folder) for stream, folder in given.items() if folder}
        if not folders:
            plan = Plan(self.out, self.scale.actions, self.digits, self.backend)
            return plan, self.repetitions(), "draw" if drawn else "seed"
        if self.target == "table4" and len(folders) < 2:
            raise ConfigError("expected --rgb and --flow for table4, got one of them: give both")
        if self.seeds and not drawn:
            raise ConfigError(
                "expected no --seeds for a table of percepts, which has one repetition for each "
                f"fold, got {self.seeds}: give --folds"
            )
        # Table 3 and Figure 12 compare few labels with many
        needed = {"table3": scale.small + 1, "fig12": sorted(scale.counts)[1]}.get(self.target, 1)
        plan = plan_real_clips(
            self.out, scale, self.backend, folders, self.folds, self.lists, self.partly, needed
        )
        folds = len(plan.folds)
        if not drawn:
            return plan, range(folds), "split" if self.lists else "fold"
        rounds = math.ceil((self.seeds or scale.draws) / folds)  # every fold equally often
        return plan, range(rounds * folds), "draw"

    def train(self, trials: list[Trial]) -> None:
        """Print the cost of the runs, and train them unless only the plan is wanted.

        Raises ConfigError if a CPU would take more than MOST_HOURS and `long` is not set.
        """
        said, gflop = cost_of(trials)
        print(said, flush=True)
        hours = gflop / CORE / self.workers / 3600
        if self.plan:
            if self.backend == "cupy":
                print(cost_on_gpu(trials), flush=True)
            return
        if self.backend == "numpy" and hours > MOST_HOURS and not self.long:
            raise ConfigError(
                f"expected runs of at most {MOST_HOURS} hours on this CPU, got about {hours:,.0f} "
                f"with --workers {self.workers}: take --scale small, or a GPU by --backend cupy, "
                "or start them nevertheless by --long"
            )
        train_all(trials, self.workers)


def reproduce(request: Request) -> str:
    """Reproduce a target. Returns its text in Markdown, or "" if only the plan was wanted.

    Writes the text, the numbers and the pictures to `request.out`, and prints the cost first.
    """
    if request.target in FIGURES:
        return draw_figure(request)
    return make_table2(request) if request.target == "table2" else make_action_table(request)


def cost_of(trials: list[Trial]) -> tuple[str, float]:
    """Return the cost of the training that is left: in words, and its matrix products in GFLOP."""
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
    hours = ""  # those of a GPU are measured: --plan, see budget.py
    if all(trial.config.run.backend == "numpy" for trial in trials):
        hours = (
            f": {_hours(gflop, CORE)} at {CORE} GFLOP/s, a slow core of a CPU; "
            f"{_hours(gflop, 5000)} at 5 TFLOP/s, about a GPU of 2016"
        )
    said = (
        f"{number_of(len(trials), 'run')}, {done} of them finished: "
        f"{number_of(left, 'step', ',')} to go, "
        f"{gflop / 1e3:,.3g} TFLOP of matrix products in all{hours}. Weights and optimizer of a "
        f"run take up to {resources.in_words(most)}."
    )
    return said, gflop


def _hours(gflop, rate):
    hours = gflop / rate / 3600
    return f"{hours:,.1f} hours" if hours >= 1 else number_of(round(60 * hours), "minute")


def make_table2(request: Request) -> str:
    """Train and judge the rows of Table 2, on digits and, if there is a file, on patches.

    A row that is not asked for is in the table if all its runs are finished.
    """
    kinds = ["digits", "patches"] if request.patches else ["digits"]
    keys = [
        (data, row, seed)
        for data in kinds
        for seed in request.repetitions(data)  # seed by seed, so that an early stop leaves pairs
        for row in table2.ROWS
    ]
    wanted = [key for key in keys if key[1] in (request.only or table2.ROWS)]
    others = [key for key in keys if key not in wanted]
    chosen = in_time([request.trial(*key) for key in wanted], request.minutes, request.plan)
    trials = dict(zip(wanted, chosen, strict=True))
    found = in_time([request.trial(*key) for key in others]) if others else []
    unfinished = {
        key[:2]
        for key, trial in zip(others, found, strict=True)
        if steps_made(trial) != trial.config.run.steps
    }
    request.train(chosen)
    if request.plan:
        return ""
    trials |= dict(zip(others, found, strict=True))
    trials = {key: trials[key] for key in keys if key[:2] not in unfinished}
    judged = evaluate_all(
        list(trials.values()), request.workers, request.scale.evaluated, request.backend
    )
    by_trial = dict(zip(trials, judged, strict=True))
    results = {
        data: {
            row: [by_trial[data, row, seed] for seed in request.repetitions(data)]
            for row in table2.ROWS
            if (data, row) not in unfinished
        }
        for data in kinds
    }
    about = {
        "scale": request.scale_name,
        "why": request.scale.why,
        "trained": {
            data: _trained_rows({row: trials[data, row, 0].config for row in results[data]})
            for data in kinds
        },
    }
    found = table2.analyse(results, about)
    rows, caption, zero = charts.table2_chart(found)
    with warn_instead("there is no picture of Table 2"):
        for kind in ("png", "pdf"):
            in_picture = caption if request.captions else ""
            tables.dots(rows, request.out / f"table2.{kind}", in_picture, zero)
    written = table2.text(found)
    _write(request, "table2", written, found, caption)
    return written


def _trained_rows(configs):
    """Describe the training of rows {row: its configuration}: one text, or one for each row."""
    texts = {row: _trained_on(config) for row, config in configs.items()}
    return texts if len(set(texts.values())) > 1 else next(iter(texts.values()))


def _trained_on(*configs):
    """Describe the training data and the sizes of some runs."""
    r, d = configs[0].run, configs[0].data
    sizes = [
        f"{number_of(c.model.layers, 'layer')} of {number_of(c.model.hidden, 'unit')}"
        for c in configs
    ]
    return (
        f"{number_of(r.steps * r.batch_size, 'sequence', ',')} "
        f"({number_of(r.steps, 'step', ',')} of {r.batch_size}), with "
        f"{' or '.join(dict.fromkeys(sizes))}, {number_of(d.past, 'frame')} in and {d.future} "
        "predicted"
    )


def make_action_table(request: Request) -> str:
    """Train, fit and judge what Table 1, 3, 4 or Figure 12 needs."""
    target = request.target
    plan, repetitions, each = request.action_plan()
    table, needed = TABLES[target](plan.scale, plan.streams)
    wanted = dict.fromkeys(fit for _, many in needed.values() for fit in many)
    fits = {(fit, n): plan.fit(*fit, n) for n in repetitions for fit in wanted}
    trials = {}
    for (method, stream, _), n in fits:
        if method in METHODS:
            trials[method, stream, n] = plan.pretraining(method, stream, n)
    request.train(list(trials.values()))
    print(f"{number_of(len(dict(fits.values())), 'fit')} after that", flush=True)
    if request.plan:
        return ""
    results = fit_all(dict(fits.values()), request.out / "fits", request.workers)
    values = {
        cell: [mean_accuracy([results[fits[fit, n][0]] for fit in many], name) for n in repetitions]
        for cell, (name, many) in needed.items()
    }
    about = plan.about() | {"scale": request.scale_name, "each": each}
    found = accuracy_table.analyse(table, values, about)
    written = accuracy_table.text(table, found)
    if target == "fig12":
        panels, caption, xlabel, zero = charts.accuracy_curves(table, found)
    else:
        rows, caption, zero = charts.accuracy_chart(table, found)
    in_picture = caption if request.captions else ""
    with warn_instead(f"there is no picture of {target}"):
        for kind in ("png", "pdf"):
            path = request.out / f"{target}.{kind}"
            if target == "fig12":
                tables.error_bars(panels, path, in_picture, xlabel, zero)
            else:
                tables.dots(rows, path, in_picture, zero)
    _write(request, target, written, found, caption)
    return written


def _write(request, name, written, found, caption):
    """Write the text with its picture and the caption, and the numbers."""
    write_file(request.out / f"{name}.json", json.dumps(without_nan(found), indent=2))
    write_file(request.out / f"{name}.md", f"{written}\n![{name}]({name}.png)\n\n{caption}\n")


def draw_figure(request: Request) -> str:
    """Train what Figure 5, 6, 7, 8 or 9 (with 10) shows, and draw it. Returns the captions."""
    if request.target == "fig6" and not request.patches:
        raise ConfigError(
            "expected --patches FILE for fig6, got none: make one with "
            "python -m data_tools.extract_patches"
        )
    # a scale with a preset for digits has one long run, which serves Figures 5 and 7 to 9
    predicts = "composite" if request.scale.digit_preset else "predictor"
    shown = {
        "fig5": {
            "1 layer": request.trial("digits", "composite", layers=1),
            "2 layers": request.trial("digits", "composite"),
            "2 layers, conditional": request.trial("digits", "conditional-composite"),
        },
        "fig6": {
            f"{wider * request.trial('patches', 'composite').config.model.hidden} units":
            request.trial("patches", "composite", wider=wider)
            for wider in (1, 2)
        },
        "fig7": {table2.ROWS[predicts].short: request.trial("digits", predicts)},
        "fig8": {"composite": request.trial("digits", "composite")},
        "fig9": {"composite": request.trial("digits", "composite")},
    }[request.target]  # fmt: skip
    trials = in_time(list(shown.values()), request.minutes, request.plan)
    shown = dict(zip(shown, trials, strict=True))
    request.train(trials)
    if request.plan:
        return ""
    runs = [run_figures.open_run(trial.path, name) for name, trial in shown.items()]
    folder = run_figures.FigureFolder(request.out, captioned=request.captions)
    names = ("fig9", "fig10") if request.target == "fig9" else (request.target,)
    run_figures.draw(runs, folder, names)
    written = run_figures.captions(runs, folder)
    configs = [trial.config for trial in shown.values()]
    written += f"\nTrained on {_trained_on(*configs)}, seed {configs[0].run.seed}"
    written += f" ({request.target}, scale {request.scale_name}).\n"
    write_file(request.out / f"{request.target}.md", written)
    return written
