"""The tables as pictures: the numbers and verdicts that figures/tables.py draws.

The files of tables and verdicts do not draw. Each function here takes the result of `analyse`, and
returns the arguments of `dots` or `error_bars`.

Read next: figures/tables.py, which draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..figures.tables import Dots
from .accuracy_table import Table
from .significance import mean_of
from .table2 import DATA_TITLES, ROWS, published_shares

MOST = 100.0  # per cent: of an accuracy, and of a gain in accuracy


def gain_dots(claim: Mapping) -> Dots:
    """Return the gains of a tested claim as one line of a picture, in per cent."""
    d, published = claim["difference"], claim["published"]
    low, high = _cut(100 * d["low"], 100 * d["high"], -MOST)
    return Dots(
        100 * np.array(claim["gains"]), low, high,
        None if math.isnan(published) else 100 * published, min(100 * claim["detectable"], MOST),
    )  # fmt: skip


def _cut(low, high, least):
    """Cut an interval at the least and the largest possible value, so that the axis stays short."""
    return max(low, least), min(high, MOST)


def table2_chart(found: dict) -> tuple[list, str, list[str]]:
    """Return Table 2 for `dots`: rows of panels, the caption, and the panels with a line at 0."""
    rows, zero = [], []
    for data, part in found["data"].items():
        levels, published = {}, published_shares(data)
        for row, losses in part["rows"].items():
            shares = np.array(losses["free_running"]) / part["baselines"]["mean image"]
            m = mean_of(shares)
            levels[ROWS[row].short] = Dots(shares, m.low, m.high, published.get(row))
        gains = {name: gain_dots(claim) for name, claim in part["claims"].items()}
        left = f"{DATA_TITLES[data]}:\nloss, share of the mean image"
        right = f"{DATA_TITLES[data]}:\ngain, % of the mean image"
        rows.append({left: levels} | ({right: gains} if gains else {}))
        if gains:
            zero.append(right)
    caption = (
        f"Slides, Table 2, at scale {found['about']['scale']}: free-running prediction of the "
        "future. Left: the loss as a share of the mean image's loss; smaller is better."
    )
    if zero:
        caption += (
            " Right: the gain of each claim, seed by seed; gains right of 0 support the claim. The "
            "verdicts are in the table."
        )
    return rows, caption, zero


def accuracy_chart(table: Table, found: dict) -> tuple[list, str, list[str]]:
    """Return a table for `dots`: accuracies by column, below them the gains, and the caption.

    The last value names the panels with a line at 0.
    """
    levels = {
        f"{title}:\naccuracy, %": _levels(table, found, column)
        for column, title in table.columns.items()
    }
    gains: dict[str, dict] = {}
    for name, claim in found["claims"].items():
        family = claim["family"]
        if family.endswith("'"):  # the slides'
            family += " claims"
        gains.setdefault(f"{family}:\ngain, percentage points", {})[name] = gain_dots(claim)
    about = found["about"]
    caption = (
        f"{table.title}, at scale {about['scale']}. Above: accuracy on the test clips. Below: the "
        f"gain of each claim, {about['each']} by {about['each']}; gains right of 0 support the "
        "claim. Intervals are cut at the smallest and the largest possible value. The verdicts are "
        "in the table."
    )
    rows = []
    for panels in (list(levels.items()), list(gains.items())):
        rows += [dict(panels[k : k + 2]) for k in range(0, len(panels), 2)]  # two side by side
    return rows, caption, list(gains)


def accuracy_curves(table: Table, found: dict) -> tuple[dict, str, str, list[str]]:
    """Return a table whose columns are numbers of labels, for `error_bars`.

    The values are: panels, the caption, the name of the horizontal axis, and the panels with a line
    at 0. The first family of claims has one claim for each column, in their order.
    """
    levels: dict[str, dict] = {table.name(row): {} for row in table.rows}
    for column in table.columns:
        for name, point in _levels(table, found, column).items():
            levels[name][float(column)] = point
    first, *_ = table.families.values()
    gains = {
        float(column): gain_dots(found["claims"][name])
        for column, name in zip(table.columns, first, strict=True)
    }
    about = found["about"]
    caption = (
        f"{table.title}, at scale {about['scale']}. Bars are 95 % confidence intervals over the "
        f"{about['each']}s, dots are single values. Right: the gain of pretraining, "
        f"{about['each']} by {about['each']}."
    )
    right = "gain of pretraining, percentage points"
    return (
        {"accuracy, %": levels, right: {"gain": gains}},
        caption,
        "labelled clips per class",
        [right],
    )


def _levels(table, found, column):
    """Return {name of a row: Dots} of a column, in per cent."""
    panel = {}
    for row in table.rows:
        if x := found["accuracies"][row].get(column):
            m = mean_of(x)
            panel[table.name(row)] = Dots(100 * np.array(x), *_cut(100 * m.low, 100 * m.high, 0.0))
    return panel
