"""The sizes at which the slides' tables and figures can be reproduced: smoke, small, paper.

A scale holds presets, settings of every model and the number of repetitions. `smoke` shows in
seconds that the commands run. `small` takes at most 45 minutes for a table on two cores. `paper`
has the slides' model size, for a GPU. There models of digits are trained by our recipe `large`.

Read next: targets.py, which makes runs of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALL = 10**6  # labelled clips per class: all there are


@dataclass(frozen=True)
class ActionScale:
    """Settings of an action experiment.

    pretraining, classifier   settings of config/schema.py
    small, full               labelled clips per class in Table 3: few and many
    counts                    labelled clips per class in Figure 12
    draws                     repetitions of Figure 12, each with other labelled clips
    candidates                changes of the classifier's settings to choose from, by validation
    """

    pretraining: Mapping[str, Mapping]
    classifier: Mapping[str, Any]
    small: int
    full: int
    counts: tuple[int, ...]
    draws: int
    candidates: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class ExperimentScale:
    """Settings of all experiments of one scale.

    seeds, patch_seeds   repetitions of Table 2, on digits and on patches, where seeds differ more
    evaluated            test sequences of Table 2
    digits, patches      settings of the models of Table 2 and Figures 5 to 10
    actions, percepts    Tables 1, 3, 4 and Figure 12, on synthetic clips and on real ones
    presets              presets that all models start from
    digit_preset         a preset for models of digits, in place of `presets` and `digits`
    why                  a remark on how far this scale is from the slides
    """

    seeds: int
    patch_seeds: int
    evaluated: int
    digits: Mapping[str, Mapping]
    patches: Mapping[str, Mapping]
    actions: ActionScale
    percepts: ActionScale
    presets: tuple[str, ...] = ()
    digit_preset: str = ""
    why: str = ""


def _lengths(steps: int, batch_size: int = 40, **schedule) -> dict:
    """Return settings of a run of `steps`, whose learning-rate schedule ends with its last step."""
    return {
        "optimizer": {"schedule_steps": steps} | schedule,
        "run": {"steps": steps, "batch_size": batch_size, "checkpoint_every": 200},
    }


SCALES = {
    "smoke": ExperimentScale(
        seeds=2,
        patch_seeds=2,
        evaluated=20,
        digits=_lengths(20, 4, warmup_steps=2)
        | {
            "data": {"frame_size": 12, "digit_size": 7, "past": 4, "future": 3},
            "model": {"hidden": 8},
        },
        patches=_lengths(20, 4, warmup_steps=2) | {"model": {"hidden": 8}},
        actions=ActionScale(
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
        percepts=ActionScale(
            pretraining=_lengths(4, 4, warmup_steps=2)
            | {"data": {"past": 3, "future": 2}, "model": {"layers": 1, "hidden": 4}},
            classifier={"window": 4, "stride": 4, "steps": 4, "validate_every": 2, "batch_size": 6},
            small=2,
            full=ALL,
            counts=(2, 4),
            draws=2,
        ),
        why="At this scale nothing is learned. It only shows that the command runs.",
    ),
    "small": ExperimentScale(
        seeds=5,
        patch_seeds=8,
        evaluated=1000,
        digits=_lengths(1600)
        | {"data": {"frame_size": 32, "digit_size": 14}, "model": {"hidden": 128}},
        patches=_lengths(450) | {"model": {"hidden": 128}},
        actions=ActionScale(
            pretraining=_lengths(1000) | {"model": {"hidden": 128}},
            classifier={},
            small=10,
            full=100,
            counts=(1, 2, 5, 10, 20, 50),
            draws=10,
        ),
        percepts=ActionScale(
            pretraining=_lengths(400, 20)
            | {"data": {"past": 8, "future": 8}, "model": {"layers": 1, "hidden": 64}},
            classifier={"window": 16, "stride": 7, "steps": 200, "batch_size": 12},
            small=4,
            full=ALL,
            counts=(2, 4, 8, 16),
            draws=10,
            candidates=({}, {"dropout": 0.5}, {"dropout": 0.5, "learning_rate": 1e-3}),
        ),
        why="The scales differ: the slides' models have 2048 units and frames of 64x64 pixels "
        "(patches: 32x32 in colour). The slides do not say how long these models were trained. A "
        "public log of the authors' first release has 2 million sequences. Our models have 128 "
        "units and were trained on a thirtieth of them or less. A gain after long training need "
        "not be visible early, and a gain that is visible early need not last.",
    ),
    "paper": ExperimentScale(
        seeds=5,
        patch_seeds=5,
        evaluated=10_000,
        digits={"run": {"steps": 20_000}},
        patches={"run": {"steps": 20_000}},
        actions=ActionScale(
            pretraining=_lengths(20_000) | {"model": {"hidden": 2048}},
            classifier={},
            small=10,
            full=100,
            counts=(1, 2, 5, 10, 20, 50, 100),
            draws=10,
        ),
        percepts=ActionScale(
            pretraining=_lengths(20_000, 128)
            | {"data": {"past": 16, "future": 13}, "model": {"layers": 1, "hidden": 2048}},
            classifier={"window": 16, "stride": 8, "steps": 5000, "batch_size": 128},
            small=10,
            full=ALL,
            counts=(2, 4, 8, 16, 32),
            draws=10,
        ),
        presets=("paper",),
        digit_preset="large",
        why="Seeds, learning rate and length of training are our choice: the slides give none.",
    ),
}
