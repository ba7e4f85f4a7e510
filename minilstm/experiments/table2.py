"""The slides' Table 2: its rows, what they claim, and what became of both here.

    found = analyse(results, about)     # of judging.py's results of every row and seed
    print(text(found))
    rows, caption, zero = chart(found)  # for tables.dots

Only free-running numbers decide: the slides' are. Losses of other frames and other data don't
compare in nats, so both sides are also given as a share of what predicting the mean image costs.

Slides: "Benchmarking". Read next: significance.py; reproduce.py, which trains the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..figures.tables import Dots
from . import verdicts
from .significance import mean_of
from .verdicts import cells, count, plus_minus

MARGIN = 0.1  # below the mean image: what every row is asked for


class Row(NamedTuple):
    """A row: its title, a short name, its preset, whether it is ours, and the slides' numbers."""

    title: str
    short: str
    preset: str
    ours: bool
    published: Mapping[str, float]


def _row(title, short, digits, patches):
    preset = "table2-" + short.replace(" ", "-")
    return Row(title, short, preset, False, {"digits": digits, "patches": patches})


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
# ours: conditional decoders that learn to live with their own frames
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
TITLES = {"digits": "Moving MNIST", "patches": "natural image patches"}
# What the mean image costs on the slides' data. Digits: measured on 64x64 frames of the paper's
# generator. Patches: half the squared error of 3072 numbers of variance 1; an upper bound.
MEAN_IMAGE = {"digits": 629.0, "patches": 1536.0}


def analyse(results: Mapping[str, Mapping[str, Sequence[dict]]], about: Mapping) -> dict:
    """Everything the table says, as plain numbers, ready for JSON.

    results[data][row] are the results of `evaluate` of its seeds, in the same order in every row:
    the differences between rows are taken seed by seed. `about` is kept as it is.
    """
    found = {"about": dict(about), "data": {}}
    for data, rows in results.items():
        seeds = next(iter(rows.values()))  # of any row: all were judged by the same frames
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
            "claims": verdicts.tested(CLAIMS, shares, published_shares(data)),
        }
    return found


def published_shares(data: str) -> dict[str, float]:
    """The slides' losses of the rows that they have, as shares of the mean image's."""
    return {
        row: about.published[data] / MEAN_IMAGE[data]
        for row, about in ROWS.items()
        if about.published
    }


# ---------------------------------------------------------------- in words


def text(found: dict) -> str:
    """The table, the verdicts and where they differ from the slides, as Markdown."""
    lines = [f"# Table 2 of the slides, scale {found['about']['scale']}", ""]
    for data, part in found["data"].items():
        lines += _section(data, part, found["about"])
    lines += [
        "‡ computed, not published: see the notes in table2.py. † fed the true frame before each "
        "one it predicts: another quantity, never compared with the others.",
        "",
    ]
    return "\n".join(lines)


def _section(data, part, about):
    seeds = len(part["rows"]["predictor"]["free_running"])
    shape = "x".join(map(str, part["frame_shape"][:2]))
    mean = part["baselines"]["mean image"]
    lines = [
        f"## The future on {TITLES[data]}", "",
        f"{part['unit'].capitalize()}, means ± standard errors over {count(seeds, 'seed')}, on "
        f"{part['test_sequences']} test sequences of {shape} pixels, the same for all: intervals "
        "say what other seeds would change, not what other sequences would. Every row trained on "
        f"{about['trained'][data]}.", "",
        "| model | free-running | of the mean image | teacher-forced † | slides | "
        "of the mean image ‡ |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row, losses in part["rows"].items():
        free, forced = mean_of(losses["free_running"]), losses.get("teacher_forced")
        published = ROWS[row].published.get(data)
        lines.append(cells(
            ROWS[row].title + " (ours)" * ROWS[row].ours,
            plus_minus(free), f"{free.mean / mean:.3f}",
            plus_minus(mean_of(forced)) if forced else "",
            published or "", f"{published / MEAN_IMAGE[data]:.3f}" if published else "",
        ))  # fmt: skip
    for name, value in part["baselines"].items():
        slides = f"{MEAN_IMAGE[data]:.0f} ‡" if name == "mean image" else ""
        share = "1" if slides else ""
        lines.append(cells(f"*{name}*", f"{value:.1f}", f"{value / mean:.3f}", "", slides, share))
    tested = part["claims"]
    shared = "the same training sequences, and the same first weights in every array that both have"
    return [
        *lines, "", _margin(part), "",
        *verdicts.lines(tested, "% of the mean image"), "",
        verdicts.method(seeds, shared, tested), "",
        "### Where this differs from the slides", "", *verdicts.differing(tested), "",
        *_exposed(part), about["why"], "",
    ]  # fmt: skip


def _exposed(part):
    """Where conditional models do better when fed the truth and worse when not: said why."""
    free = {row: np.mean(losses["free_running"]) for row, losses in part["rows"].items()}
    said = []
    for model in ("predictor", "composite"):
        row = f"conditional-{model}"
        forced = np.mean(part["rows"][row]["teacher_forced"])
        if forced < free[model] < free[row]:
            said.append(
                f"Fed the true frame before each, the {ROWS[row].short} costs {forced:.1f}, less "
                f"than the {model}'s {free[model]:.1f}; fed its own, {free[row]:.1f} (and "
                f"{free[f'scheduled-{model}']:.1f} after scheduled sampling)."
            )
    if not said:
        return []
    said.append(
        "It learned from true frames only, and never to live with its own: exposure bias (tutorial "
        "10)."
    )
    return [" ".join(said), ""]


def _margin(part):
    """Whether every row beats the mean image by the margin, and the best guess at all."""
    losses = {row: np.mean(modes["free_running"]) for row, modes in part["rows"].items()}
    guesses = {name: x for name, x in part["baselines"].items() if name != "entropy bound"}
    mean, best = guesses["mean image"], min(guesses, key=guesses.get)

    def named(rows, none, every, some):
        if not rows:
            return none
        return every if len(rows) == len(losses) else some + "; ".join(ROWS[r].title for r in rows)

    short = [row for row, loss in losses.items() if loss > (1 - MARGIN) * mean]
    if short:
        said = f"Asked for: {100 * MARGIN:.0f} % or more below the mean image; "
        said += named(short, "", "no row is", "not so: ")
    else:
        least = math.floor(100 * (1 - max(losses.values()) / mean))
        said = f"Every row is {least} % or more below the mean image"
    if best != "mean image":
        worse = [row for row, loss in losses.items() if loss >= guesses[best]]
        said += f"; the {best} costs less than that, and less than "
        said += named(worse, "no row", "every row", "these rows: ")
    return said + "."


def chart(found: dict) -> tuple[list, str, list[str]]:
    """What `tables.dots` draws of it: rows of panels, caption, and the panels with a line at 0."""
    rows, zero = [], []
    for data, part in found["data"].items():
        levels, published = {}, published_shares(data)
        for row, losses in part["rows"].items():
            shares = np.array(losses["free_running"]) / part["baselines"]["mean image"]
            m = mean_of(shares)
            levels[ROWS[row].short] = Dots(shares, m.low, m.high, published.get(row))
        gains = {name: verdicts.dots(claim) for name, claim in part["claims"].items()}
        left, right = (
            f"{TITLES[data]}:\n{of} mean image" for of in ("loss, share of the", "gain, % of the")
        )
        rows.append({left: levels, right: gains})
        zero.append(right)
    caption = (
        f"Slides, Table 2, at scale {found['about']['scale']}: the free-running future. Left, the "
        "loss as a share of what predicting the mean image costs: less is better. Right, the gain "
        "that each claim speaks of, seed by seed: right of 0 is as claimed. The verdicts are in "
        "the table."
    )
    return rows, caption, zero
