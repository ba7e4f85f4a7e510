"""Runs and fits for Tables 1, 3, 4 and Figure 12: does pretraining help to recognise actions?

The pretraining runs are trials of many_runs.py. Each classifier is fitted in a process of its own,
action_fit.py.

Repetition n of everything has its own pretraining, its own labelled clips and its own initial
weights, all drawn from seed n. The rows of a table share these, so that they can be compared pair
by pair.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next: real_clips.py (real
clips), table_definitions.py, action_fit.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..config import ClassifySettings
from ..data.actions import CLASSES
from ..errors import RunError
from ..files import read_json, write_file
from ..runs.run_folder import RunFolder
from .action_fit import Fit
from .many_runs import Task, Trial, run_all
from .markdown import percent
from .scales import ActionScale

METHODS = {  # of pretraining: settings of the model
    "autoencoder": {"kind": "autoencoder"},
    "predictor": {"kind": "predictor"},
    "conditional-autoencoder": {"kind": "autoencoder", "conditional": "reconstruction"},
    "conditional-predictor": {"kind": "predictor", "conditional": "future"},
    "composite": {"kind": "composite"},
    "conditional-composite": {"kind": "composite", "conditional": "future"},
}
STREAMS = {"rgb": "actions", "flow": "action-changes"}  # data sources: pixels, changes of pixels


@dataclass(frozen=True)
class Plan:
    """The pretraining runs and fits that a table needs, on the synthetic clips.

    out       folder of all runs and fits
    digits    "bundled", or a folder of MNIST's IDX files
    backend   "numpy" or "cupy"
    """

    out: Path
    scale: ActionScale
    digits: str
    backend: str

    @property
    def streams(self) -> dict[str, str]:
        """The streams, each with its title."""
        return {"rgb": "pixels", "flow": "changes of pixels"}

    def pretraining(self, method: str, stream: str, seed: int) -> Trial:
        """Return the pretraining run of a method on a stream."""
        overrides = {name: dict(values) for name, values in self.scale.pretraining.items()}
        overrides["model"] = overrides.get("model", {}) | METHODS[method]
        source = {"source": STREAMS[stream], "digits": self.digits}
        overrides["data"] = overrides.get("data", {}) | source
        overrides["run"] = overrides["run"] | {"seed": seed, "backend": self.backend}
        settings = config.load(["actions"], overrides=overrides)
        return Trial(self.out / "runs" / f"{STREAMS[stream]}-{method}-seed{seed}", settings)

    def fit(self, method: str, stream: str, labels: int, seed: int) -> tuple[str, Fit]:
        """Return a fit with its name, for so many labelled clips per class.

        `method` is one of METHODS, "baseline" (an LSTM without pretraining) or "baselines" (no
        LSTM).
        """
        settings, run = self.classifier(method, stream, seed)
        settings |= {"changes": stream == "flow", "digits": self.digits, "labels": labels}
        fit = Fit(dataclasses.asdict(ClassifySettings(**settings)), run, method == "baselines")
        return f"{STREAMS[stream]}-{method}-{labels}labels-seed{seed}", fit

    def classifier(self, method: str, stream: str, seed: int) -> tuple[dict, str]:
        """Return the settings of a fit, and the run folder of its encoder.

        The baseline takes its sizes and the scale of its inputs from the composite's run, so that
        the two differ only in their initial weights.
        """
        settings = {"seed": seed, "backend": self.backend} | self.scale.classifier
        if method == "baselines":
            return settings, ""
        pretrained = method in METHODS
        run = self.pretraining(method if pretrained else "composite", stream, seed).path
        return settings | {"encoder": "finetuned" if pretrained else "scratch"}, str(run)

    def about(self) -> dict[str, str]:
        """Describe what was trained, what the pairs share, and how to read the numbers."""
        trial = self.pretraining("composite", "rgb", 0).config
        s = ClassifySettings(**self.fit("baseline", "rgb", self.scale.small, 0)[1].settings)
        K = len(CLASSES)
        return {
            "trained": f"The clips are synthetic: {K} actions of MNIST digits, {s.length} frames "
            f"of {s.frame_size}x{s.frame_size} pixels. Every pretraining run saw "
            f"{trial.run.steps * trial.run.batch_size:,} clips without labels "
            f"({trial.model.layers} layer of {trial.model.hidden} units). Classifiers were trained "
            f"for at most {s.steps} steps, with early stopping on {s.validation * K} validation "
            "clips. Pretrained classifiers started from the best readout of the pretrained "
            f"encoder. All are judged on the same {s.test * K} test clips, of other digits, so "
            "intervals show the variation between seeds, not between test clips.",
            "shared": "the labelled clips, and the clips without labels if both are pretrained",
            "remarks": "By design one frame of pixels says nothing about the action. So the middle "
            f"frame is at chance (1 of {K}, {percent(1 / K)}) and is no evidence. The mean over a "
            "clip's frames says something: how far a digit moves. *Changes* are the differences "
            "from frame to frame, in place of optical flow; a single one may say something about "
            "the action. The slides' clips are real, and one frame of them says much. Compare "
            "gains, not levels.",
        }


def fit_all(fits: Mapping[str, Fit], folder: Path, workers: int) -> dict[str, dict]:
    """Return the result of `run_fit` for each fit, by name. Finished results stay in `folder`.

    Raises RunError if `folder` has a result of that name for another fit, and for a fit that fails,
    by name.
    """
    paths = {name: folder / f"{name}.result.json" for name in fits}
    for name, path in paths.items():
        if not path.exists():
            continue
        there, about = _result(path)["fit"], _in_json(fits[name])
        other = [k for k in about if _without_place(k, there.get(k)) != _without_place(k, about[k])]
        if other:
            raise RunError(
                f"expected {path} to be the fit that this command asks for, got a fit with other "
                f"{', '.join(other)}: delete this file to make this fit anew, or choose another "
                "--out"
            )
    if not all(path.exists() for path in paths.values()):
        with RunFolder(folder).claim():  # no other process may work in this folder
            _fit_unfinished(fits, folder, paths, workers)
    return {name: _result(path) for name, path in paths.items()}


def _fit_unfinished(fits, folder, paths, workers):
    tasks = []
    for name, path in paths.items():
        if not path.exists():
            settings = folder / f"{name}.json"
            write_file(settings, json.dumps(_in_json(fits[name]), indent=2))
            words = ["minilstm.experiments.action_fit", str(settings)]
            tasks.append(Task(name, words, output=path))
    run_all(tasks, workers, "recognition", "fit", len(fits) - len(tasks))


def _without_place(key, value):
    """Return a value of a fit without places, threads and CUDA graphs: they change no result.

    plan_real_clips compares the percepts themselves.
    """
    if key == "run":
        return Path(str(value)).name
    if key == "percepts":
        return bool(value)
    if key == "settings" and isinstance(value, dict):
        digits = "bundled" if value.get("digits") == "bundled" else "of a folder"
        return value | {"digits": digits} | dict.fromkeys(("threads", "graph"))
    return value


def _in_json(fit):
    return json.loads(json.dumps(dataclasses.asdict(fit)))


def _result(path):
    found = read_json(path, remedy := "delete it: the same command writes it again")
    if not isinstance(found.get("fit"), dict):
        raise RunError(f"{path}: expected the result of a fit, got other JSON: {remedy}")
    return found
