"""Transfer learning on real clips: folds of recordings, and all choices made within the folds.

Percepts of the clips (data/percepts.py) take the place of pixels. Clips of one recording are never
in training and test at once. A test fold influences nothing that is judged on it: not the
pretraining, not the scale of the inputs, not the choice of settings.

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
from ..config import ClassifySettings
from ..data import Clips, read_percepts, write_percepts
from ..data.clips import expect_classes
from ..data.splits import OFFICIAL_SPLITS, few_per_class, grouped_folds, hmdb51_split, ucf101_split
from ..errors import DataError, RunError, named, number_of
from ..files import make_folder, read_json, write_file
from .action_experiments import METHODS, Plan
from .action_fit import Fit
from .many_runs import Trial
from .scales import ALL, ActionScale

JOINED = "joined"
INNER = 3  # folds within the training clips


@dataclass(frozen=True)
class RealClipsPlan(Plan):
    """A plan on percepts of real clips; repetition n holds out fold n of the recordings.

    With F folds, repetition F holds out fold 0 again, with other labelled clips and other initial
    weights.

    folders   {stream: folder of percepts}, all of the same clips
    seen      {stream: the clips in its folder}
    folds     pairs (training clips, test clips) of numbers of clips
    partly    official lists may name clips that are missing
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    seen: Mapping[str, Clips] = field(default_factory=dict)
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    partly: bool = False

    @property
    def streams(self) -> dict[str, str]:
        """The streams, each with its title."""
        names = {"rgb": "RGB", "flow": "flow", JOINED: "RGB and flow, joined"}
        return {stream: names[stream] for stream in self.folders}

    @property
    def clips(self) -> Clips:
        """The clips of the first stream. Labels and recordings are the same in every stream."""
        return next(iter(self.seen.values()))

    def _fold_name(self, stream, n):
        return f"{stream}-fold{n % len(self.folds) + 1}of{len(self.folds)}"

    def _draw_name(self, stream, n):
        draw = n // len(self.folds)
        return self._fold_name(stream, n) + (f"-draw{draw + 1}" if draw else "")

    def about(self) -> dict[str, str]:
        """Describe what was trained, what the pairs share, and how to read the numbers."""
        trial = self.pretraining("composite", next(iter(self.folders)), 0).config
        s = ClassifySettings(**self.fit("baseline", next(iter(self.folders)), ALL, 0)[1].settings)
        recordings = len(np.unique(self.clips.groups))
        missing = " (listed clips that are missing are left out)" if self.partly else ""
        return {
            "trained": f"{number_of(len(self.clips), 'clip')} of "
            f"{number_of(len(self.clips.classes), 'class')}, "
            f"{number_of(recordings, 'recording')}. Each fold holds out some recordings and is "
            f"judged on them{missing}. Only the other recordings are used for pretraining "
            f"({trial.run.steps * trial.run.batch_size:,} sequences, {trial.model.layers} layer of "
            f"{trial.model.hidden} units), for the scale of the inputs, and for the choice of "
            f"settings ({len(self.scale.candidates)} candidates, {INNER} folds of the other "
            f"recordings). The probabilities of {INNER} classifiers are averaged. Each was trained "
            f"without one of these folds (at most {s.steps} steps) and stopped early on it. The "
            "same holds for the baselines. Pretrained classifiers started from the best readout of "
            "the pretrained encoder.",
            "shared": "the training clips and the test clips, and with an LSTM the scale of the "
            "inputs",
            "remarks": "The folds share most of their training clips, so their differences are not "
            "quite independent, and the intervals are somewhat too narrow. Where clips were cut to "
            "the event, size and length of a clip say much: compare with that row first.",
        }

    def pretraining(self, method: str, stream: str, n: int) -> Trial:
        """Return the pretraining run. Its folder of percepts holds only the training clips."""
        folder = self.out / "percepts" / self._fold_name(stream, n)
        learn, _ = self.folds[n % len(self.folds)]
        # `Percepts` takes recordings 8 and 9 of every ten for validation and test. Number the
        # recordings so that these are the last ones.
        numbers, rank = np.unique(self.clips.groups[learn], return_inverse=True)
        _write_once(folder, self.seen[stream], learn, rank + -len(numbers) % 10)
        overrides = {name: dict(values) for name, values in self.scale.pretraining.items()}
        overrides["model"] = overrides.get("model", {}) | METHODS[method]
        overrides["data"] = overrides.get("data", {}) | {"source": "percepts", "path": str(folder)}
        overrides["run"] = overrides["run"] | {"seed": n, "backend": self.backend}
        settings = config.load(overrides=overrides)
        return Trial(self.out / "runs" / f"{method}-{self._draw_name(stream, n)}", settings)

    def fit(self, method: str, stream: str, labels: int, n: int) -> tuple[str, Fit]:
        """Return a fit with its name, for at most so many labelled clips per class."""
        learn, judged = self.folds[n % len(self.folds)]
        learn = learn[few_per_class(self.clips.labels[learn], labels, n)]
        recordings = self.clips.groups[learn]
        inner = grouped_folds(recordings, min(INNER, len(np.unique(recordings))))
        settings, run = self.classifier(method, stream, n)
        fit = Fit(
            dataclasses.asdict(ClassifySettings(**settings)), run, method == "baselines",
            percepts=str(self.folders[stream]), learn=learn.tolist(), judged=judged.tolist(),
            folds=[learn[fold].tolist() for _, fold in inner], candidates=self.scale.candidates,
        )  # fmt: skip
        return f"{method}-{labels}labels-{self._draw_name(stream, n)}", fit


def join(first: Clips, second: Clips) -> Clips:
    """Join two streams of the same clips frame by frame. The longer one is cut.

    Raises DataError if the clips are not the same, or if their lengths differ by more than a frame
    and by more than a tenth: then frames of different times would be joined.
    """
    if first.names != second.names or (first.labels != second.labels).any():
        raise DataError(
            "expected two streams of the same clips in the same order, got other names or labels: "
            "extract both from the same videos"
        )
    lengths, longer = (f(first.lengths, second.lengths) for f in (np.minimum, np.maximum))
    apart = (longer > lengths + 1) & (longer > 1.1 * lengths)
    if apart.any():
        n = int(apart.argmax())
        raise DataError(
            f"expected two streams with the same number of frames, got {first.lengths[n]} and "
            f"{second.lengths[n]} in {first.names[n]}: extract both with the same --fps"
        )
    frames = [
        np.concatenate([first.clip(n)[:T], second.clip(n)[:T]], axis=1)
        for n, T in enumerate(lengths)
    ]
    return dataclasses.replace(first, frames=np.concatenate(frames), lengths=lengths)


def plan_real_clips(
    out: Path,
    scale: ActionScale,
    backend: str,
    folders: Mapping[str, Path],
    folds: int,
    lists: str = "",
    partly: bool = False,
    needed: int = 1,
) -> RealClipsPlan:
    """Return the plan for folders of percepts, {"rgb": ..., "flow": ...}.

    The recordings are dealt into `folds` folds. Or `lists` is a folder with the three official
    splits of UCF-101 or HMDB-51; with `partly` these may name clips that are missing. Two streams
    give a third one, both joined frame by frame, which is written beside the runs. Numbers of
    labelled clips in `scale` that exceed the largest class are dropped. Raises DataError, also for
    clips of one class, or if the largest class has fewer than `needed` training clips. Raises
    RunError if `out` has results of other percepts. Nothing is written before these checks.
    """
    folders = dict(folders)
    seen = {stream: read_percepts(folder) for stream, folder in folders.items()}
    first, *second = seen.values()
    if (first.labels < 0).any():
        raise DataError("expected only labelled clips, got some without a label: leave them out")
    expect_classes(first)
    if second:
        seen[JOINED] = join(first, *second)
    names, groups = first.names, first.groups
    if not lists:
        splits = list(grouped_folds(groups, folds))
    else:
        ucf101 = (Path(lists) / "trainlist01.txt").exists()
        official = ucf101_split if ucf101 else hmdb51_split
        splits = [official(names, lists, n, partly) for n in OFFICIAL_SPLITS]
    most = min(int(np.bincount(first.labels[learn]).max()) for learn, _ in splits)
    if most < needed:
        raise DataError(
            f"expected at least {needed} training clips in the largest class, because few labels "
            f"are compared with many, got {most}: extract percepts of more clips"
        )
    _same_percepts(out / "percepts" / "digests.json", seen)
    if second:
        folders[JOINED] = out / "percepts" / JOINED
        _write_once(folders[JOINED], seen[JOINED], np.arange(len(first)), groups)
    scale = dataclasses.replace(scale, counts=tuple(n for n in scale.counts if n <= most))
    return RealClipsPlan(out, scale, "", backend, folders, seen, splits, partly)


def _write_once(folder, clips, which, groups):
    """Write a folder of percepts of some clips, or check that it holds these clips.

    features.h5 is written last. So a folder that has it is complete.
    """
    if not (folder / "features.h5").exists():
        make_folder(folder)
        write_percepts(folder, dataclasses.replace(clips.select(which), groups=groups))
        return
    try:
        names = (folder / "names.txt").read_text("utf-8").split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected {folder} to hold percepts, got {named(error)}: remove it, and it is made "
            "anew"
        ) from error
    if names != [clips.names[n] for n in which]:
        raise RunError(
            f"expected {folder} to hold the clips that this command asks for, got others: choose "
            "another --out"
        )


def _same_percepts(path, seen):
    """Write the digests of the streams to a file, or check them against that file."""
    found = {stream: _digest(clips) for stream, clips in seen.items()}
    there = read_json(path, "choose another --out") if path.exists() else {}
    if other := [stream for stream in found if there.get(stream, found[stream]) != found[stream]]:
        raise RunError(
            f"{path}: expected the percepts from which the results beside it were made, got other "
            f"{', '.join(other)}: choose another --out"
        )
    make_folder(path.parent)
    write_file(path, json.dumps(there | found, indent=1))


def _digest(clips):
    """Return the SHA-256 of frames, labels, recordings, lengths, sizes and names of some clips."""
    found = hashlib.sha256(json.dumps([clips.names, clips.classes]).encode())
    for array in (clips.labels, clips.groups, clips.lengths, clips.sizes, clips.frames):
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()
