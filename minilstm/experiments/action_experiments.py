"""Tables 1, 3, 4 and Figure 12 of the slides: does learning without labels help to recognise?

The runs without labels are trials of many_runs.py; each classifier is fitted in its own process:

    python -m minilstm.experiments.action_experiments FIT.json    prints the result as JSON

Repetition number n of everything has its own pretraining, its own labelled clips and its own first
weights, all from seed n; rows of a table share these, so that they can be compared pair by pair.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next: real_clips.py (real
clips), table_definitions.py, classify.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import classify, config
from ..command import Parser, run_command
from ..config import Classify
from ..data import Clips, read_percepts
from ..data.actions import CLASSES
from ..errors import RunError, named
from ..files import write_file
from .many_runs import Task, Trial, run_all
from .verdicts import percent

METHODS = {  # of pretraining: settings of the model
    "autoencoder": {"kind": "autoencoder"},
    "predictor": {"kind": "predictor"},
    "conditional-autoencoder": {"kind": "autoencoder", "conditional": "reconstruction"},
    "conditional-predictor": {"kind": "predictor", "conditional": "future"},
    "composite": {"kind": "composite"},
    "conditional-composite": {"kind": "composite", "conditional": "future"},
}
ALL = 10**6  # labelled clips of each class: those there are
STREAMS = {"rgb": "actions", "flow": "action-changes"}  # of the synthetic set: pixels, changes


@dataclass(frozen=True)
class Effort:
    """How much is done at a scale: `pretraining` and `classifier` settings, and clips per class."""

    pretraining: Mapping[str, Mapping]
    classifier: Mapping[str, object]
    small: int
    full: int
    counts: tuple[int, ...]
    draws: int
    candidates: tuple[Mapping[str, object], ...] = ({},)


# ---------------------------------------------------------------- one fit


@dataclass(frozen=True)
class Fit:
    """A classifier to be fitted and judged, or the baselines; all of it fits into JSON.

    run          the run folder that the encoder comes from, from scratch only its sizes; or ""
    baselines    whether it is these, without any LSTM
    percepts     a folder of percepts of recorded clips, or "": the synthetic ones of `settings`
    learn, judged, folds   of these: the clips to learn from, those to be judged on, and parts of
                 the first that each serve once for validation
    candidates   settings to choose from, by what the validation clips cost on average
    """

    settings: Mapping[str, object]
    run: str = ""
    baselines: bool = False
    percepts: str = ""
    learn: Sequence[int] = ()
    judged: Sequence[int] = ()
    folds: Sequence[Sequence[int]] = ()
    candidates: Sequence[Mapping[str, object]] = ({},)


def open_parts(fit: Fit) -> tuple[list[tuple[Clips, Clips]], Clips]:
    """Pairs of clips, to learn from and to choose and stop by; and the clips to be judged on."""
    if not fit.percepts:
        train, validation, test = classify.open_clips(Classify(**fit.settings))
        return [(train, validation)], test
    needed = np.union1d(fit.learn, fit.judged)  # of a large set with few labels, a small part
    clips = read_percepts(fit.percepts, needed)

    def those(indices):
        return clips.select(np.searchsorted(needed, indices))

    parts = [(those(np.setdiff1d(fit.learn, fold)), those(fold)) for fold in fit.folds]
    return parts, those(fit.judged)


def judge(fit: Fit) -> dict:
    """Fit, and say how the test clips came out: labels (N,), and by name probabilities (N, K).

    Where there are several folds, those who learned without one each are asked together: the mean
    of their probabilities. The settings are the candidates' that cost least on what each did not
    see. So nothing is chosen by the test clips.
    """
    parts, test = open_parts(fit)
    chosen = {}
    if fit.baselines:
        found = [classify.baselines(train, validation, test) for train, validation in parts]
    else:
        least = np.inf
        for candidate in fit.candidates:
            settings = Classify(**{**fit.settings, **candidate})
            fitted = [classify.fit(settings, *part, fit.run or None) for part in parts]
            costs = [
                classify.cross_entropy(one.predict(validation), validation.labels)
                for one, (_, validation) in zip(fitted, parts, strict=True)
            ]
            if np.mean(costs) < least:
                least, chosen = np.mean(costs), dict(candidate)
                found = [{"lstm": one.predict(test)} for one in fitted]
    return {
        "fit": dataclasses.asdict(fit),
        "chosen": chosen,
        "labels": test.labels.tolist(),
        "probabilities": {
            name: np.mean([one[name] for one in found], axis=0).round(6).tolist()
            for name in found[0]
        },
    }


def accuracy(results: Sequence[Mapping], name: str = "lstm") -> float:
    """The share of test clips recognised by what `judge` found, or by several, averaged."""
    mean = np.mean([result["probabilities"][name] for result in results], axis=0)
    return classify.accuracy(mean, np.array(results[0]["labels"]))


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.experiments.action_experiments",
        description="Fit and judge one classifier, as python -m minilstm.reproduce asks for.",
    )
    parser.add_argument("fit", metavar="FIT.json", help="a Fit (see action_experiments.py)")
    path = Path(parser.parse_args(arguments).fit)
    try:
        fit = Fit(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: expected a fit in JSON, got {named(error)}: see action_experiments.py"
        ) from error
    print(json.dumps(judge(fit)))
    return 0


# ---------------------------------------------------------------- what a table needs


@dataclass(frozen=True)
class Plan:
    """The runs without labels and the fits that a target asks for, by their names."""

    out: Path
    effort: Effort
    digits: str
    backend: str

    @property
    def streams(self) -> dict[str, str]:
        """What there is to see, and what to call it."""
        return {"rgb": "pixels", "flow": "changes of pixels"}

    def pretraining(self, method: str, stream: str, seed: int) -> Trial:
        """The run without labels of a method, on a stream."""
        overrides = {name: dict(values) for name, values in self.effort.pretraining.items()}
        overrides["model"] = overrides.get("model", {}) | METHODS[method]
        source = {"source": STREAMS[stream], "digits": self.digits}
        overrides["data"] = overrides.get("data", {}) | source
        overrides["run"] = overrides["run"] | {"seed": seed, "backend": self.backend}
        settings = config.load(["actions"], overrides=overrides)
        return Trial(self.out / "runs" / f"{STREAMS[stream]}-{method}-seed{seed}", settings)

    def fit(self, method: str, stream: str, labels: int, seed: int) -> tuple[str, Fit]:
        """A fit and its name; `method` is one of METHODS, "baseline" (no pretraining: new weights)
        or "baselines" (no LSTM)."""
        settings, run = self._settings(method, stream, seed)
        settings |= {"changes": stream == "flow", "digits": self.digits, "labels": labels}
        fit = Fit(dataclasses.asdict(Classify(**settings)), run, method == "baselines")
        return f"{STREAMS[stream]}-{method}-{labels}labels-seed{seed}", fit

    def _settings(self, method, stream, seed):
        """Settings of a fit, and the run that its encoder comes from.

        The baseline has the sizes of the composite's and the scale of its inputs, so that the two
        differ in their first weights alone.
        """
        settings = {"seed": seed, "backend": self.backend} | self.effort.classifier
        if method == "baselines":
            return settings, ""
        pretrained = method in METHODS
        run = self.pretraining(method if pretrained else "composite", stream, seed).path
        return settings | {"encoder": "finetuned" if pretrained else "scratch"}, str(run)

    def about(self, table) -> dict[str, str]:
        """What is said of a table: what was trained, what pairs share, and what to think of it."""
        trial = self.pretraining("composite", "rgb", 0).config
        s = Classify(**self.fit("baseline", "rgb", self.effort.small, 0)[1].settings)
        K = len(CLASSES)
        return {
            "trained": f"The clips are synthetic: {K} actions of MNIST digits, {s.length} frames "
            f"of {s.frame_size}x{s.frame_size} pixels. Every pretraining saw "
            f"{trial.run.steps * trial.run.batch_size:,} clips without labels "
            f"({trial.model.layers} layer of {trial.model.hidden} units). Classifiers learned for "
            f"{s.steps} steps at most and stopped by {s.validation * K} validation clips; those "
            "that were pretrained began with the best readout of the encoder as it came. All are "
            f"judged on the same {s.test * K} test clips, of other digits: intervals say what "
            "other seeds would change, not what other test clips would.",
            "shared": "the same labelled clips, and where both are pretrained the same clips "
            "without labels",
            "remarks": f"One frame of pixels tells nothing of the action, by design: that row is "
            f"chance there (1 of {K}, {percent(1 / K)}), and no evidence. The mean over a clip's "
            "frames does tell something: how much a digit wanders. *Changes* are the differences "
            "from frame to frame, a stand-in for optical flow; of them even one may tell. The "
            "slides' clips are real, and one frame of them tells much: compare gains, if "
            "anything, not levels.",
        }


def fit_all(fits: Mapping[str, Fit], folder: Path, workers: int) -> dict[str, dict]:
    """What `judge` says of each fit by name; kept in `folder`, where finished ones are found.

    Raises RunError for a result that is there of another fit, and for a fit that fails, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.result.json" for name in fits}
    tasks = []
    for name, fit in fits.items():
        about = json.loads(json.dumps(dataclasses.asdict(fit)))
        if not paths[name].exists():
            write_file(folder / f"{name}.json", json.dumps(about, indent=2))
            words = ["minilstm.experiments.action_experiments", str(folder / f"{name}.json")]
            tasks.append(Task(name, words, output=paths[name]))
        elif (there := json.loads(paths[name].read_text())["fit"]) != about:
            other = [key for key in about if there.get(key) != about[key]]
            raise RunError(
                f"expected {paths[name]} to be the fit that this command asks for, got another "
                f"{', '.join(other)}: choose another --out"
            )
    run_all(tasks, workers, "recognition", "fit", len(fits) - len(tasks))
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


if __name__ == "__main__":
    sys.exit(run_command(main))
