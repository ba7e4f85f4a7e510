"""Tables of accuracies, like the slides' Tables 1, 3 and 4: rows, columns, repetitions, claims.

A Table holds titles and claims. `analyse` takes the accuracy of every cell and repetition, as a
share of the test clips, and `text` writes the table and its verdicts. Accuracies on different clips
than the slides' can't be compared with theirs. The gains from row to row can.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next:
table_definitions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import number_of
from . import verdicts
from .markdown import plus_minus, table_row
from .significance import mean_of
from .verdicts import Families

Cell = tuple[str, str]  # row, column


@dataclass(frozen=True)
class Table:
    """A table without its numbers: titles of rows and columns by their keys, and claims.

    names          names of rows by their keys, where the name is not the key
    published      the slides' accuracies in per cent, for the cells that they have
    as_published   the title of the slides' column beside each of ours
    quoted         lines of the slides' table that are not repeated here, shown as published
    """

    title: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    families: Families
    published: Mapping[Cell, float] = field(default_factory=dict)
    as_published: Mapping[str, str] = field(default_factory=dict)
    quoted: Sequence[tuple[object, ...]] = ()
    quoted_columns: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, row: str) -> str:
        """Return the name of a row, the same in the table, the picture and the verdicts."""
        return self.names.get(row, row.replace("-", " "))


def analyse(table: Table, values: Mapping[Cell, Sequence[float]], about: Mapping[str, str]) -> dict:
    """Return the numbers and verdicts of the table, ready for JSON.

    values[row, column] are the accuracies of all repetitions, in the same order in every cell,
    because gains are taken repetition by repetition. `about` is passed on, and needs: scale,
    trained, shared, each (the noun of a repetition), remarks.
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
    """Return the table, its verdicts, and the differences from the slides, in Markdown."""
    about, accuracies = found["about"], found["accuracies"]
    n = max(len(x) for row in accuracies.values() for x in row.values())
    heads = ["method", "description"]
    for column, title in table.columns.items():
        heads.append(title)
        if column in table.as_published:
            heads.append(f"slides: {table.as_published[column]}")
    lines = [
        f"# {table.title}", "",
        f"Accuracy on test clips, means ± standard errors over "
        f"{number_of(n, about['each'])}. {about['trained']}", "",
        table_row(*heads), table_row(*["---"] * len(heads)),
    ]  # fmt: skip
    for row, title in table.rows.items():
        values = []
        for column in table.columns:
            values.append(_with_error(accuracies[row].get(column)))
            if column in table.as_published:
                values.append(table.published.get((row, column), ""))
        lines.append(table_row(table.name(row), title, *values))
    if table.quoted:
        lines += ["", "Quoted from the slides, for the data sets named:", ""]
        lines += [table_row(*table.quoted_columns), table_row(*["---"] * len(table.quoted_columns))]
        lines += [table_row(*quoted) for quoted in table.quoted]
    tested = found["claims"]
    lines += [
        "", *verdicts.lines(tested, "percentage points"), "",
        verdicts.method(n, about["shared"], tested, about["each"]), "",
        "## Differences from the slides", "",
        *(verdicts.differing(tested) or ["The slides give no numbers for these claims."]), "",
        about["remarks"], "",
    ]  # fmt: skip
    return "\n".join(lines)


def _with_error(values):
    if not values:
        return ""
    m = mean_of(values)
    return plus_minus(m._replace(mean=100 * m.mean, error=100 * m.error)) + " %"
