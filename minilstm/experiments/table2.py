"""The slides' Table 2: its rows, its claims, and the verdicts of our runs.

    found = analyse(results, about)     # results of `evaluate` for every row and seed
    print(text(found))

Verdicts rest on free-running losses only, as in the slides. Losses of other frames and other data
can't be compared in nats. So both ours and the slides' are also given as a share of the loss of the
mean image.

Slides: "Benchmarking". Read next: significance.py; targets.py, which trains the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import number_of
from . import verdicts
from .markdown import plus_minus, table_row
from .significance import mean_of

MARGIN = 0.1  # the share by which every row should be below the mean image


class TableRow(NamedTuple):
    """A row of Table 2: a model.

    title       name in the slides
    short       name in the table, the picture and the verdicts
    ours        the slides do not have this row
    published   the slides' losses, by "digits" and "patches"
    """

    title: str
    short: str
    preset: str
    ours: bool
    published: Mapping[str, float]


def _row(title, short, digits, patches):
    preset = "table2-" + short.replace(" ", "-")
    return TableRow(title, short, preset, False, {"digits": digits, "patches": patches})


ROWS = {
    row.short.replace(" ", "-"): row
    for row in (
        _row("Future Predictor", "predictor", 350.2, 225.2),
        _row("Composite Model", "composite", 344.9, 210.7),
        _row("Conditional Future Predictor", "conditional predictor", 343.5, 221.3),
        _row(
            "Composite Model with Conditional Future Predictor", "conditional composite",
            341.2, 208.1,
        ),
    )
}  # fmt: skip
# ours: conditional decoders that are trained with scheduled sampling
ROWS |= {
    f"scheduled-{model}": ROWS[f"conditional-{model}"]._replace(
        title=ROWS[f"conditional-{model}"].title + ", scheduled sampling",
        short=f"scheduled {model}",
        ours=True,
        published={},
    )
    for model in ("predictor", "composite")
}


def _claims(*pairs):
    return {
        f"{better.replace('-', ' ')} beats {worse.replace('-', ' ')}": (
            lambda loss, worse=worse, better=better: loss[worse] - loss[better]
        )
        for worse, better in pairs
    }


# The slides' four claims hold in both columns of their Table 2.
CLAIMS = {
    "the slides'": _claims(
        ("predictor", "composite"),
        ("conditional-predictor", "conditional-composite"),
        ("predictor", "conditional-predictor"),
        ("composite", "conditional-composite"),
    ),
    "ours": _claims(
        ("predictor", "scheduled-predictor"),
        ("composite", "scheduled-composite"),
        ("conditional-predictor", "scheduled-predictor"),
        ("conditional-composite", "scheduled-composite"),
        ("scheduled-predictor", "scheduled-composite"),
    ),
}
DATA_TITLES = {"digits": "Moving MNIST", "patches": "natural image patches"}
# The loss of the mean image on the slides' data. Digits: measured on 64x64 frames of the paper's
# generator. Patches: half the squared error of 3072 numbers of variance 1, an upper bound.
MEAN_IMAGE = {"digits": 629.0, "patches": 1536.0}


def analyse(results: Mapping[str, Mapping[str, Sequence[dict]]], about: Mapping) -> dict:
    """Return the numbers and verdicts of the table, ready for JSON.

    results[data][row] is a list of results of `evaluate`, one for each seed, in the same order in
    every row, because differences between rows are taken seed by seed. Rows may be missing; a claim
    is tested if its rows are there, in two seeds or more. `about` is passed on: the name of the
    scale, the remark `why`, and {data: what the rows were `trained` on}, one text for all rows or
    {row: text}.
    """
    found = {"about": dict(about), "data": {}}
    for data, rows in results.items():
        seeds = next(iter(rows.values()))  # of any row: all were judged on the same frames
        baselines = {
            name: float(np.mean([result["baselines"][name]["mean"] for result in seeds]))
            for name in seeds[0]["baselines"]
        }
        losses = {
            row: {
                mode: [result["future"][mode]["mean"] for result in results_of_row]
                for mode in ("free_running", "teacher_forced")
                if mode in results_of_row[0]["future"]
            }
            for row, results_of_row in rows.items()
        }
        shares = {
            row: np.array(loss["free_running"]) / baselines["mean image"]
            for row, loss in losses.items()
        }
        found["data"][data] = {
            "unit": seeds[0]["unit"],
            "test_sequences": seeds[0]["sequences"],
            "frame_shape": seeds[0]["frame_shape"],
            "baselines": baselines,
            "rows": losses,
            "claims": verdicts.tested(_testable(shares), shares, published_shares(data)),
        }
    return found


def _testable(shares):
    """Return the claims whose rows are there. None for one seed, whose variation is unknown."""
    if len(next(iter(shares.values()))) < 2:
        return {}
    return {
        family: {name: gain for name, gain in claims.items() if _compares(gain, shares)}
        for family, claims in CLAIMS.items()
    }


def _compares(gain, shares):
    try:
        gain(shares)
    except KeyError:
        return False
    return True


def published_shares(data: str) -> dict[str, float]:
    """Return the slides' losses as shares of the mean image's, for the rows that they have."""
    return {
        row: about.published[data] / MEAN_IMAGE[data]
        for row, about in ROWS.items()
        if about.published
    }


# ---------------------------------------------------------------- in words


def text(found: dict) -> str:
    """Return the table, its verdicts, and the differences from the slides, in Markdown."""
    lines = [f"# Table 2 of the slides, scale {found['about']['scale']}", ""]
    for data, part in found["data"].items():
        lines += _section(data, part, found["about"])
    lines += [
        "‡ computed by us, not published: see experiments/table2.py. † given the true frame before "
        "each one that it predicts: a different quantity, not to be compared with the others.",
        "",
    ]
    return "\n".join(lines)


def _section(data, part, about):
    seeds = len(next(iter(part["rows"].values()))["free_running"])
    shape = "x".join(map(str, part["frame_shape"][:2]))
    mean = part["baselines"]["mean image"]
    lines = [
        f"## The future on {DATA_TITLES[data]}", "",
        f"{part['unit'].capitalize()}{_repeated(seeds)} "
        f"{number_of(part['test_sequences'], 'test sequence')} of {shape} pixels. "
        f"{_shared(seeds)}{_trained(about['trained'][data])}", "",
        "| model | name in the slides | free-running | of the mean image | teacher-forced † | "
        "slides | of the mean image ‡ |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row, title in ROWS.items():
        ours = ["", "", ""]  # stay empty for a row that was not trained
        if losses := part["rows"].get(row):
            free, forced = mean_of(losses["free_running"]), losses.get("teacher_forced")
            ours = [plus_minus(free), f"{free.mean / mean:.3f}"]
            ours.append(plus_minus(mean_of(forced)) if forced else "")
        published = title.published.get(data)
        lines.append(table_row(
            title.short, f"{title.title} (ours)" if title.ours else title.title, *ours,
            published or "", f"{published / MEAN_IMAGE[data]:.3f}" if published else "",
        ))  # fmt: skip
    for name, value in part["baselines"].items():
        slides = f"{MEAN_IMAGE[data]:.0f} ‡" if name == "mean image" else ""
        share = "1" if slides else ""
        lines.append(
            table_row(f"*{name}*", "", f"{value:.1f}", f"{value / mean:.3f}", "", slides, share)
        )
    tested = part["claims"]
    if not tested:
        return [*lines, "", _margin(part), "", _untested(seeds), "", about["why"], ""]
    shared = "the training sequences, and the initial weights of every array that both have"
    return [
        *lines, "", _margin(part), "",
        *verdicts.lines(tested, "% of the mean image"), "",
        verdicts.method(seeds, shared, tested), "",
        "### Differences from the slides", "", *verdicts.differing(tested), "",
        *_exposure_bias(part), about["why"], "",
    ]  # fmt: skip


def _repeated(seeds):
    if seeds == 1:
        return " of one seed, on"
    return f", means ± standard errors over {number_of(seeds, 'seed')}, on"


def _shared(seeds):
    """Say what the errors of several seeds show; "" for one seed, which has none."""
    if seeds == 1:
        return ""
    return (
        "All seeds are judged on the same sequences, so errors and intervals show the variation "
        "between seeds, not between test sequences. "
    )


def _trained(about):
    """Say what the rows were trained on: `about` is a text, or {row: text} where they differ."""
    if isinstance(about, str):
        return f"Every row was trained on {about}."
    rows = "; ".join(f"{ROWS[row].short}: {text}" for row, text in about.items())
    return f"THE ROWS DIFFER in what they were trained on. {rows}."


def _untested(seeds):
    """Say why no claim is tested."""
    if seeds == 1:
        return (
            "No ordering of the rows is tested: with one seed nobody knows how much of a "
            "difference between two rows comes from the seed."
        )
    return "No ordering of the rows is tested: no claim has all its rows here."


def _exposure_bias(part):
    """Explain conditional models that do better with teacher forcing and worse free-running."""
    free = {row: np.mean(losses["free_running"]) for row, losses in part["rows"].items()}
    said = []
    for model in ("predictor", "composite"):
        row = f"conditional-{model}"
        if not {row, model, f"scheduled-{model}"} <= free.keys():
            continue
        forced = np.mean(part["rows"][row]["teacher_forced"])
        if forced < free[model] < free[row]:
            said.append(
                f"With teacher forcing the {ROWS[row].short} has a loss of {forced:.1f}, less than "
                f"the {model}'s {free[model]:.1f}. Free-running it has {free[row]:.1f} (and "
                f"{free[f'scheduled-{model}']:.1f} after scheduled sampling)."
            )
    if not said:
        return []
    said.append(
        "This is exposure bias (tutorial 10): in training it saw true frames only, and never its "
        "own predictions."
    )
    return [" ".join(said), ""]


def _margin(part):
    """Say which rows beat the mean image by the margin, and which beat the best baseline."""
    losses = {row: np.mean(modes["free_running"]) for row, modes in part["rows"].items()}
    baselines = {name: x for name, x in part["baselines"].items() if name != "entropy bound"}
    mean, best = baselines["mean image"], min(baselines, key=baselines.get)

    def named(rows, none, every, some):
        if not rows:
            return none
        return every if len(rows) == len(losses) else some + "; ".join(ROWS[r].short for r in rows)

    every_row = "Every row" if len(losses) == len(ROWS) else "Every row that was trained"
    short = [row for row, loss in losses.items() if loss > (1 - MARGIN) * mean]
    if short:
        said = f"{every_row} should be {100 * MARGIN:.0f} % or more below the mean image; "
        said += named(short, "", "no row is", "these are not: ")
    else:
        least = math.floor(100 * (1 - max(losses.values()) / mean))
        said = f"{every_row} is {least} % or more below the mean image"
    if best != "mean image":
        worse = [row for row, loss in losses.items() if loss >= baselines[best]]
        said += f"; the {best} has a smaller loss than the mean image, and smaller than "
        said += named(worse, "no row", "every row", "these rows: ")
    return said + "."
