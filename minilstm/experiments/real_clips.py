"""Transfer learning on recorded clips: folds of recordings, within which everything is chosen.

Percepts of the clips (data/percepts.py) take the place of pixels. Clips of one recording are never
in training and test at once, and what is judged on a fold has seen nothing of it: neither in the
runs without labels, nor in the scale of the inputs, nor in the choice of settings.

Slides: "Input at each timestep", "Transfer Learning for Action Recognition". Read next:
table_definitions.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import config
from ..classify import few
from ..config import Classify
from ..data import Clips, read_percepts, write_percepts
from ..data.splits import SPLITS, grouped_folds, hmdb51_split, ucf101_split
from ..errors import DataError, RunError
from ..files import write_file
from .action_experiments import ALL, METHODS, Effort, Fit, Plan
from .many_runs import Trial
from .verdicts import count

JOINED = "joined"
INNER = 3  # folds within the clips to learn from


@dataclass(frozen=True)
class Recorded(Plan):
    """The same on percepts of recorded clips; repetition n holds out fold n of the recordings.

    After the last comes the first again, with other labelled clips and first weights.

    folders, seen   of percepts by stream, all of the same clips; and what is in them
    folds        (clips to learn from, clips to be judged on)
    partly       whether official lists may name clips that are not there
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    seen: Mapping[str, Clips] = field(default_factory=dict)
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    partly: bool = False

    @property
    def streams(self) -> dict[str, str]:
        names = {"rgb": "RGB", "flow": "flow", JOINED: "RGB and flow, joined"}
        return {stream: names[stream] for stream in self.folders}

    @property
    def clips(self) -> Clips:
        """The clips as the first stream shows them: labels and recordings are those of all."""
        return next(iter(self.seen.values()))

    def _fold(self, stream, n):
        return f"{stream}-fold{n % len(self.folds) + 1}of{len(self.folds)}"

    def _name(self, stream, n):
        draw = n // len(self.folds)
        return self._fold(stream, n) + f"-draw{draw + 1}" * (draw > 0)

    def about(self, table) -> dict[str, str]:
        """What is said of a table: what was trained, what pairs share, and what to think of it."""
        trial = self.pretraining("composite", next(iter(self.folders)), 0).config
        s = Classify(**self.fit("baseline", next(iter(self.folders)), ALL, 0)[1].settings)
        recordings = len(np.unique(self.clips.groups))
        return {
            "trained": f"{count(len(self.clips), 'clip')} of {len(self.clips.classes)} classes, "
            f"{count(recordings, 'recording')}; each fold leaves recordings out, and is judged on "
            f"those{' (listed clips that are not there are left out)' * self.partly}. Nothing sees "
            "them before: pretraining "
            f"({trial.run.steps * trial.run.batch_size:,} sequences, {trial.model.layers} layer of "
            f"{trial.model.hidden} units), the scale of the inputs and the choice of settings "
            f"({len(self.effort.candidates)} candidates, {INNER} folds of the other recordings) "
            f"have the other recordings alone. {INNER} classifiers, each of which stopped by the "
            f"fold that it did not learn from ({s.steps} steps at most), are asked together; so "
            "are the baselines'. Those that were pretrained began with the best readout of the "
            "encoder as it came.",
            "shared": "the same clips to learn from and to be judged on, and of those with an LSTM "
            "the scale of the inputs",
            "remarks": "Folds share most of the clips that they learn from, so their differences "
            "are not quite independent, and the intervals somewhat too narrow. Size and length of "
            "a clip tell much where clips were cut to the event: compare with that row first.",
        }

    def pretraining(self, method: str, stream: str, n: int) -> Trial:
        """The run without labels, on the clips to learn from alone: a folder of just those."""
        folder = self.out / "percepts" / self._fold(stream, n)
        learn, _ = self.folds[n % len(self.folds)]
        # `Percepts` keeps recordings number 8 and 9 of every ten apart: let the last ones be those
        numbers, rank = np.unique(self.clips.groups[learn], return_inverse=True)
        _write_once(folder, self.seen[stream], learn, rank + -len(numbers) % 10)
        overrides = {name: dict(values) for name, values in self.effort.pretraining.items()}
        overrides["model"] = overrides.get("model", {}) | METHODS[method]
        overrides["data"] = overrides.get("data", {}) | {"source": "percepts", "path": str(folder)}
        overrides["run"] = overrides["run"] | {"seed": n, "backend": self.backend}
        settings = config.load(overrides=overrides)
        return Trial(self.out / "runs" / f"{method}-{self._name(stream, n)}", settings)

    def fit(self, method: str, stream: str, labels: int, n: int) -> tuple[str, Fit]:
        """A fit and its name, of at most so many labelled clips of each class."""
        learn, judged = self.folds[n % len(self.folds)]
        learn = learn[few(self.clips.labels[learn], labels, n)]
        recordings = self.clips.groups[learn]
        inner = grouped_folds(recordings, min(INNER, len(np.unique(recordings))))
        settings, run = self._settings(method, stream, n)
        fit = Fit(
            dataclasses.asdict(Classify(**settings)), run, method == "baselines",
            percepts=str(self.folders[stream]), learn=learn.tolist(), judged=judged.tolist(),
            folds=[learn[fold].tolist() for _, fold in inner], candidates=self.effort.candidates,
        )  # fmt: skip
        return f"{method}-{labels}labels-{self._name(stream, n)}", fit


def join(first: Clips, second: Clips) -> Clips:
    """The same clips with the numbers of both, frame by frame; what one has longer is left out.

    Raises DataError for other clips.
    """
    if first.names != second.names or (first.labels != second.labels).any():
        raise DataError(
            "expected two streams of the same clips in the same order, got other names or labels: "
            "extract both from the same videos"
        )
    lengths = np.minimum(first.lengths, second.lengths)
    frames = [
        np.concatenate([first.clip(n)[:T], second.clip(n)[:T]], axis=1)
        for n, T in enumerate(lengths)
    ]
    return dataclasses.replace(first, frames=np.concatenate(frames), lengths=lengths)


def recorded(
    out: Path,
    effort: Effort,
    backend: str,
    folders: Mapping[str, Path],
    folds: int,
    lists: str = "",
    partly: bool = False,
) -> Recorded:
    """The plan for folders of percepts, {"rgb": ..., "flow": ...}.

    Repetitions are so many folds of recordings, or the three official splits whose `lists` are in
    that folder, UCF-101's or HMDB-51's; with `partly` these may name clips that are not there. Two
    streams give a third, both joined frame by frame, which is written beside the runs. Of the
    effort's numbers of labelled clips those remain that a class has. Raises DataError, and
    RunError where `out` has results of other percepts.
    """
    folders = dict(folders)
    seen = {stream: read_percepts(folder) for stream, folder in folders.items()}
    first, *second = seen.values()
    if (first.labels < 0).any():
        raise DataError("expected labelled clips only, got others among them: leave those out")
    if second:
        folders[JOINED] = out / "percepts" / JOINED
        seen[JOINED] = join(first, *second)
        _write_once(folders[JOINED], seen[JOINED], np.arange(len(first)), first.groups)
    _same_percepts(out / "percepts" / "digests.json", seen)
    names, groups = first.names, first.groups
    if not lists:
        splits = list(grouped_folds(groups, folds))
    else:
        ucf101 = (Path(lists) / "trainlist01.txt").exists()
        official = ucf101_split if ucf101 else hmdb51_split
        splits = [official(names, lists, n, partly) for n in SPLITS]
    most = min(np.bincount(first.labels[learn]).max() for learn, _ in splits)
    counts = tuple(n for n in effort.counts if n <= most)
    if len(counts) > 1:
        effort = dataclasses.replace(effort, counts=counts)
    return Recorded(out, effort, "", backend, folders, seen, splits, partly)


def _write_once(folder, clips, which, groups):
    """A folder of percepts of some clips, unless they are there, whole: features.h5 comes last."""
    if not (folder / "features.h5").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_percepts(folder, dataclasses.replace(clips.select(which), groups=groups))
        return
    names = (folder / "names.txt").read_text("utf-8").split("\n")[:-1]
    if names != [clips.names[n] for n in which]:
        raise RunError(
            f"expected {folder} to hold the clips that this command asks for, got others: choose "
            "another --out"
        )


def _same_percepts(path, seen):
    """Write down what the streams hold, or see that it is what is written there."""
    found = {stream: _digest(clips) for stream, clips in seen.items()}
    there = json.loads(path.read_text()) if path.exists() else {}
    if other := [stream for stream in found if there.get(stream, found[stream]) != found[stream]]:
        raise RunError(
            f"{path}: expected the percepts that the results beside it were made of, got other "
            f"{', '.join(other)}: choose another --out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(there | found, indent=1))


def _digest(clips):
    """SHA-256 of all that is known of some clips."""
    found = hashlib.sha256(json.dumps([clips.names, clips.classes]).encode())
    for array in (clips.labels, clips.groups, clips.lengths, clips.sizes, clips.frames):
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()
