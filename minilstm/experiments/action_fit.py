"""One classifier, fitted and judged in a process of its own.

    python -m minilstm.experiments.action_fit FIT.json    prints the result as JSON

This is not a command for users: many_runs.py starts it for each Fit that a table needs.

Slides: "Transfer Learning for Action Recognition". Read next: action_experiments.py, which says
what is fitted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..command import Parser, run_command
from ..config import ClassifySettings
from ..data import Clips, read_percepts
from ..errors import RunError, named
from ..evaluation import baselines, clip_scores
from ..runs import build
from ..training import classifier


@dataclass(frozen=True)
class Fit:
    """A classifier, or the baselines, to be fitted and judged. All of it can be written as JSON.

    run                    run folder of the encoder, or "". A classifier that starts from scratch
                           takes only the sizes and the input scale from it
    baselines              fit the baselines, which have no LSTM, in place of a classifier
    percepts               folder of percepts of real clips; "" for the synthetic clips
    learn, judged, folds   numbers of these clips: to learn from, to be judged on, and parts of
                           `learn`, each of which serves once for validation
    candidates             changes of settings to choose from, by mean validation loss
    """

    settings: Mapping[str, Any]
    run: str = ""
    baselines: bool = False
    percepts: str = ""
    learn: Sequence[int] = ()
    judged: Sequence[int] = ()
    folds: Sequence[Sequence[int]] = ()
    candidates: Sequence[Mapping[str, Any]] = ({},)


def open_parts(fit: Fit) -> tuple[list[tuple[Clips, Clips]], Clips]:
    """Return pairs of (training, validation) clips, and the test clips."""
    if not fit.percepts:
        train, validation, test = build.open_clips(ClassifySettings(**fit.settings))
        return [(train, validation)], test
    needed = np.union1d(fit.learn, fit.judged)  # with few labels, a small part of a large set
    clips = read_percepts(fit.percepts, needed)

    def chosen(indices):
        return clips.select(np.searchsorted(needed, indices))

    parts = [(chosen(np.setdiff1d(fit.learn, fold)), chosen(fold)) for fold in fit.folds]
    return parts, chosen(fit.judged)


def run_fit(fit: Fit) -> dict:
    """Fit and judge. Returns the test clips' labels (N,), and {name: probabilities (N, K)}.

    With several folds, one classifier is fitted for each, and the probabilities are averaged over
    the classifiers. Of the candidate settings, those with the smallest mean loss on the validation
    clips are taken. So the test clips choose nothing.
    """
    parts, test = open_parts(fit)
    chosen = {}
    if fit.baselines:
        found = [baselines.clip_baselines(train, validation, test) for train, validation in parts]
    else:
        least = np.inf
        for candidate in fit.candidates:
            settings = ClassifySettings(**{**fit.settings, **candidate})
            fitted = [classifier.fit(settings, *part, fit.run or None) for part in parts]
            losses = [
                clip_scores.nats_per_clip(one.predict(validation), validation.labels)
                for one, (_, validation) in zip(fitted, parts, strict=True)
            ]
            if np.mean(losses) < least:
                least, chosen = np.mean(losses), dict(candidate)
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


def mean_accuracy(results: Sequence[Mapping], name: str = "lstm") -> float:
    """Average the probabilities `name` of several results of `run_fit`; return their accuracy."""
    mean = np.mean([result["probabilities"][name] for result in results], axis=0)
    return clip_scores.accuracy(mean, np.array(results[0]["labels"]))


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.experiments.action_fit",
        description="Fit and judge one classifier. python -m minilstm.reproduce starts this.",
    )
    parser.add_argument("fit", metavar="FIT.json", help="a Fit (see experiments/action_fit.py)")
    path = Path(parser.parse_args(arguments).fit)
    try:
        fit = Fit(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: expected a Fit in JSON, got {named(error)}: see experiments/action_fit.py"
        ) from error
    print(json.dumps(run_fit(fit)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
