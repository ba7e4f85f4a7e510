"""Tables of accuracies, like the slides' Tables 1, 3 and 4: rows, columns, repetitions, claims.

A Table says what there is; `analyse` takes the accuracies, shares of the test clips that were
recognised, of every cell and repetition; `text` and `chart` say and show it. Accuracies on other
clips than the slides' can't be compared with theirs; gains from row to row can be looked at side by
side.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next:
action_experiments.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..figures.tables import Dots
from . import verdicts
from .significance import mean_of
from .verdicts import Families, cells, count, plus_minus

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
    published = {cell: x / 100 for cell, x in table.published.items()}
    return {
        "title": table.title,
        "about": dict(about),
        "accuracies": {
            row: {c: list(map(float, values[row, c])) for c in table.columns if (row, c) in values}
            for row in table.rows
        },
        "claims": verdicts.tested(table.families, values, published),
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
        "", *verdicts.lines(tested, "points"), "",
        verdicts.method(n, about["shared"], tested, about["each"]), "",
        "## Where this differs from the slides", "",
        *(verdicts.differing(tested) or ["The slides give no numbers of this."]), "",
        about["remarks"], "",
    ]  # fmt: skip
    return "\n".join(lines)


def _with_error(values):
    if not values:
        return ""
    m = mean_of(values)
    return plus_minus(m._replace(mean=100 * m.mean, error=100 * m.error)) + " %"


def _levels(table, found, column):
    """{row: Dots} of a column, in per cent; rows by their names, for a chart has little room."""
    panel = {}
    for row in table.rows:
        if x := found["accuracies"][row].get(column):
            m = mean_of(x)
            panel[row.replace("-", " ")] = Dots(100 * np.array(x), 100 * m.low, 100 * m.high)
    return panel


def chart(table: Table, found: dict) -> tuple[list, str, list[str]]:
    """What `tables.dots` draws of it: levels by column, below them the gains; and its caption."""
    levels = {
        f"{title}:\nrecognised, %": _levels(table, found, column)
        for column, title in table.columns.items()
    }
    gains: dict[str, dict] = {}
    for name, claim in found["claims"].items():
        gains.setdefault(f"{claim['family']}:\ngains, points", {})[name] = verdicts.dots(claim)
    about = found["about"]
    caption = (
        f"{table.title}, at scale {about['scale']}. Above, how many of the test clips were "
        f"recognised; below, the gain that each claim speaks of, {about['each']} by "
        f"{about['each']}: right of 0 is as claimed. The verdicts are in the table."
    )
    rows = []
    for panels in (list(levels.items()), list(gains.items())):
        rows += [dict(panels[k : k + 2]) for k in range(0, len(panels), 2)]  # two side by side
    return rows, caption, list(gains)


def curves(table: Table, found: dict) -> tuple[dict, str, str, list[str]]:
    """What `tables.error_bars` draws of a table whose columns are numbers of labels.

    The first family of claims has one claim for each column, in their order.
    """
    levels: dict[str, dict] = {row: {} for row in table.rows}
    for column in table.columns:
        for name, point in _levels(table, found, column).items():
            levels[name][float(column)] = point
    first, *_ = table.families.values()
    gains = {float(c): verdicts.dots(found["claims"][name])
             for c, name in zip(table.columns, first, strict=True)}  # fmt: skip
    about = found["about"]
    caption = (
        f"{table.title}, at scale {about['scale']}. Bars are 95 % intervals over the "
        f"{about['each']}s, dots single values. Right, the gain of pretraining, {about['each']} by "
        f"{about['each']}."
    )
    right = "gain of pretraining, points"
    return (
        {"recognised, %": levels, right: {"gain": gains}},
        caption,
        "labelled clips of each class",
        [right],
    )
