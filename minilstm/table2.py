"""The slides' Table 2: its rows, what they claim, and what became of both here.

    found = analyse(results, trained)   # from evaluate.py's results of every row and seed
    print(text(found))
    panels.dots(*chart(found, path))

Only free-running numbers decide: the slides' are. Losses of other frames and other data don't
compare in nats, so both sides are also given as a share of what predicting the mean image costs.

Slides: "Benchmarking". Read next: statistics.py; reproduce.py, which trains the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .panels import Dots
from .statistics import FAILS, HOLDS, LEVEL, POWER, Mean, judge, mean_of

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
    return {f"{better.replace('-', ' ')} beats {worse.replace('-', ' ')}": (worse, better)
            for worse, better in pairs}  # fmt: skip


# What costs more, and what less. The slides' four hold in both columns of Table 2.
CLAIMS = _claims(
    ("predictor", "composite"),
    ("conditional-predictor", "conditional-composite"),
    ("predictor", "conditional-predictor"),
    ("composite", "conditional-composite"),
)
OUR_CLAIMS = _claims(("predictor", "scheduled-predictor"), ("composite", "scheduled-composite"))
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
        one = next(iter(rows.values()))
        means = {
            name: float(np.mean([result["baselines"][name]["mean"] for result in one]))
            for name in one[0]["baselines"]
        }
        losses = {
            row: {
                mode: [result["future"][mode]["mean"] for result in seeds]
                for mode in ("free_running", "teacher_forced")
                if mode in seeds[0]["future"]
            }
            for row, seeds in rows.items()
        }
        found["data"][data] = {
            "unit": one[0]["unit"],
            "test_sequences": one[0]["sequences"],
            "frame_shape": one[0]["frame_shape"],
            "baselines": means,
            "rows": losses,
            "claims": _tested(data, losses, CLAIMS) | _tested(data, losses, OUR_CLAIMS),
        }
    return found


def _tested(data, losses, claims):
    """The findings of one family of claims, with the slides' own difference."""

    def free(row):
        return np.array(losses[row]["free_running"])

    found = judge({name: free(worse) - free(better) for name, (worse, better) in claims.items()})
    tested = {}
    for name, (worse, better) in claims.items():
        published = [ROWS[row].published.get(data, math.nan) for row in (worse, better)]
        tested[name] = found[name]._asdict() | {
            "difference": found[name].difference._asdict(),
            "differences": (free(worse) - free(better)).tolist(),
            "published": published[0] - published[1],
        }
    return tested


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
        f"{part['test_sequences']} test sequences of {shape} pixels. Every row trained on "
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
    lines += ["", _margin(part), "", *_gains(data, part, mean), ""]
    return [*lines, "### Where this differs from the slides", "", *_differs(part, mean, about), ""]


def _margin(part):
    """Whether every row beats the mean image by the margin, and the better baseline at all."""
    mean = part["baselines"]["mean image"]
    shares = {r: np.mean(losses["free_running"]) / mean for r, losses in part["rows"].items()}
    short = [ROWS[row].title for row, share in shares.items() if share > 1 - MARGIN]
    said = f"Every row is {100 * (1 - max(shares.values())):.0f} % or more below the mean image"
    if short:
        which = "no row is" if len(short) == len(shares) else f"not so: {'; '.join(short)}"
        said = f"Asked for: {100 * MARGIN:.0f} % or more below the mean image; {which}"
    models = {name: x for name, x in part["baselines"].items() if name != "entropy bound"}
    best = min(models, key=models.get)
    if best != "mean image":
        worse = [ROWS[r].title for r, share in shares.items() if share * mean >= models[best]]
        said += f"; the {best} costs less than that, and less than "
        every = len(worse) == len(shares)
        said += "every row" if every else f"these rows: {'; '.join(worse)}" if worse else "no row"
    return said + "."


def _gains(data, part, mean):
    n = len(part["rows"]["predictor"]["free_running"])
    lines = [
        "| claim | gain, % of the mean image [95 % interval] | p, Holm | could be found from | "
        "slides ‡ | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, claim in part["claims"].items():
        d, published = claim["difference"], claim["published"]
        lines.append(cells(
            name + " (ours)" * (name in OUR_CLAIMS),
            f"{percent(d['mean'], mean)} [{percent(d['low'], mean)}, {percent(d['high'], mean)}]",
            p_value(claim["adjusted"]), percent(claim["detectable"], mean),
            percent(published, MEAN_IMAGE[data]), f"**{claim['verdict']}**",
        ))  # fmt: skip
    return [*lines, "", method(n, f"the slides' {len(CLAIMS)} claims, and our {len(OUR_CLAIMS)}")]


def method(n: int, families: str, each: str = "seed", shared: str = "") -> str:
    """How verdicts come about, in words; `n` pairs, one for `each`."""
    shared = shared or "the same training sequences, and encoders that start from the same weights"
    return (
        f"Gains are differences {each} by {each}, {n} pairs ({shared}); a positive one is what the "
        f"claim says. Two-sided t tests at {100 * LEVEL:.0f} %, corrected by Holm's method within "
        f"{families}; each interval is of one test alone. *Could be found from*: a true "
        f"difference of that size would be found by such an experiment with a probability of "
        f"{100 * POWER:.0f} %, as the first of its family; what is smaller may be there unseen."
    )


def _differs(part, mean, about):
    lines = []
    for name in CLAIMS:
        claim = part["claims"][name]
        d = claim["difference"]
        if claim["verdict"] == HOLDS:
            lines.append(f"- {name}: as in the slides.")
        elif claim["verdict"] == FAILS:
            lines.append(
                f"- {name}: NOT here. It is the other way round, by {percent(-d['mean'], mean)} of "
                "the mean image."
            )
        else:
            lines.append(
                f"- {name}: in the slides; not decided here. {100 * POWER:.0f} of 100 such "
                f"experiments would find a difference of {percent(claim['detectable'], mean)} of "
                f"the mean image; the one seen is {percent(d['mean'], mean)}."
            )
    return [*lines, "", about["why"]]


def chart(found: dict) -> tuple[list, str, list[str]]:
    """What `panels.dots` draws of it: rows of panels, caption, and the panels with a line at 0."""
    rows, zero = [], []
    for data, part in found["data"].items():
        mean = part["baselines"]["mean image"]
        levels, differences = {}, {}
        for row, losses in part["rows"].items():
            shares = np.array(losses["free_running"]) / mean
            m, published = mean_of(shares), ROWS[row].published.get(data)
            published = published and published / MEAN_IMAGE[data]
            levels[ROWS[row].short] = Dots(shares, m.low, m.high, published)
        for name, claim in part["claims"].items():
            d, scale = claim["difference"], 100 / mean
            published = 100 * claim["published"] / MEAN_IMAGE[data]
            differences[name] = Dots(
                np.array(claim["differences"]) * scale, d["low"] * scale, d["high"] * scale,
                None if math.isnan(published) else published, claim["detectable"] * scale,
            )  # fmt: skip
        left, right = (
            f"{TITLES[data]}:\n{of} mean image" for of in ("loss, share of the", "gain, % of the")
        )
        rows.append({left: levels, right: differences})
        zero.append(right)
    caption = (
        f"Slides, Table 2, at scale {found['about']['scale']}: the free-running future. Left, the "
        "loss as a share of what predicting the mean image costs: less is better. Right, the gain "
        "that each claim speaks of, from paired differences: a claim holds where the whole "
        "interval is right of 0 after correction for the number of claims."
    )
    return rows, caption, zero


# ---------------------------------------------------------------- words and numbers


def cells(*values: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, values)) + " |"


def count(n: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} {noun}{'s' * (n != 1)}"


def plus_minus(mean: Mean, digits: int = 1) -> str:
    """A mean with its standard error, if it has one."""
    error = "" if math.isnan(mean.error) else f" ± {mean.error:.{digits}f}"
    return f"{mean.mean:.{digits}f}{error}"


def percent(value: float, whole: float = 1.0) -> str:
    """A share of `whole` in per cent; a dash for what isn't known."""
    if math.isnan(value):
        return "-"
    return f"{round(100 * value / whole, 1) + 0.0:.1f} %"  # + 0.0: no -0.0


def p_value(p: float) -> str:
    """A probability, as exact as anybody wants it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
