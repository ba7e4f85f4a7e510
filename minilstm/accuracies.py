"""Tables of accuracies, like the slides' Tables 1, 3 and 4: rows, columns, repetitions, claims.

A Table says what there is; `analyse` takes the accuracies, shares of the test clips that were
recognised, of every cell and repetition; `text` and `chart` say and show it. Accuracies
on other clips than the slides' can't be compared with theirs; gains from row to row can be looked
at side by side.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next: transfer.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import claims
from .claims import Families, cells, count, percent
from .panels import Dots
from .statistics import mean_of

Cell = tuple[str, str]  # row, column


@dataclass(frozen=True)
class Table:
    """What a table has: titles of rows and columns by their names, claims, the slides' numbers.

    `published` has the slides' accuracies in per cent, of the cells that they have; `as_published`
    says what the slides' column is that stands beside each of ours; `quoted` are lines of their
    table that nobody repeats here, shown as published.
    """

    title: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    families: Families
    published: Mapping[Cell, float] = field(default_factory=dict)
    as_published: Mapping[str, str] = field(default_factory=dict)
    quoted: Sequence[tuple[str, ...]] = ()
    quoted_columns: Sequence[str] = ()


def analyse(table: Table, values: Mapping[Cell, Sequence[float]], about: Mapping[str, str]) -> dict:
    """Everything the table says, as plain numbers. `about`: scale, trained, shared, each, remarks.

    values[row, column] are the accuracies of all repetitions, in the same order in every cell: the
    gains are taken repetition by repetition.
    """
    published = {cell: percent / 100 for cell, percent in table.published.items()}
    return {
        "title": table.title,
        "about": dict(about),
        "accuracies": {
            row: {c: list(map(float, values[row, c])) for c in table.columns if (row, c) in values}
            for row in table.rows
        },
        "claims": claims.tested(table.families, values, published),
    }


def text(table: Table, found: dict) -> str:
    """The table, its verdicts and where they differ from the slides, as Markdown."""
    about, accuracies = found["about"], found["accuracies"]
    n = max(len(x) for row in accuracies.values() for x in row.values())
    heads = ["method"]
    for column, title in table.columns.items():
        heads.append(title)
        if column in table.as_published:
            heads.append(f"slides: {table.as_published[column]}")
    lines = [
        f"# {table.title}", "",
        f"Test clips recognised, means ± standard errors over {count(n, about['each'])}. "
        f"{about['trained']}", "",
        cells(*heads), cells(*["---"] * len(heads)),
    ]  # fmt: skip
    for row, title in table.rows.items():
        values = []
        for column in table.columns:
            values.append(_with_error(accuracies[row].get(column)))
            if column in table.as_published:
                values.append(table.published.get((row, column), ""))
        lines.append(cells(title, *values))
    if table.quoted:
        lines += ["", "As published, quoted from the slides, of the data sets named:", ""]
        lines += [cells(*table.quoted_columns), cells(*["---"] * len(table.quoted_columns))]
        lines += [cells(*quoted) for quoted in table.quoted]
    tested = found["claims"]
    lines += [
        "", *claims.lines(tested, "points"), "",
        claims.method(n, about["shared"], tested, about["each"]), "",
        "## Where this differs from the slides", "", *claims.differing(tested), "",
        about["remarks"], "",
    ]  # fmt: skip
    return "\n".join(lines)


def _with_error(values):
    if not values:
        return ""
    m = mean_of(values)
    return (
        percent(m.mean)
        if math.isnan(m.error)
        else f"{percent(m.mean)[:-2]} ± {100 * m.error:.1f} %"
    )


def chart(table: Table, found: dict) -> tuple[list, str, list[str]]:
    """What `panels.dots` draws of it: levels by column, below them the gains; and its caption."""
    levels: dict[str, dict] = {}
    for column, title in table.columns.items():
        panel = levels[f"{title}: recognised, %"] = {}
        for row, name in table.rows.items():
            if x := found["accuracies"][row].get(column):
                m = mean_of(x)
                panel[name] = Dots(100 * np.array(x), 100 * m.low, 100 * m.high)
    gains: dict[str, dict] = {}
    for name, claim in found["claims"].items():
        gains.setdefault(f"gains, points: {claim['family']}", {})[name] = claims.dots(claim)
    caption = (
        f"{table.title}, at scale {found['about']['scale']}. Above, how many of the test clips were "
        f"recognised; below, the gain that each claim speaks of, {found['about']['each']} by "
        f"{found['about']['each']}: right of 0 is as claimed. The verdicts are in the table."
    )
    rows = [levels, *({title: panel} for title, panel in gains.items())]
    return rows, caption, list(gains)
