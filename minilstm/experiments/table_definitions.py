"""Definitions of the slides' Tables 1, 3, 4 and Figure 12: rows, columns, claims, their numbers.

Each function takes an ActionScale and the streams {name: title}. It returns a Table, and for every
cell the results that it needs: the name of a result, and the (method, stream, labels per class) of
the fits whose probabilities are averaged.

Slides: "Transfer Learning for Action Recognition", "Benchmarking". Read next:
action_experiments.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import number_of
from .accuracy_table import Cell, Table
from .scales import ALL, ActionScale

Needed = dict[Cell, tuple[str, list[tuple[str, str, int]]]]

METHOD_ROWS = {  # pretraining: (title, the four numbers in its row of the slides' Table 3)
    "baseline": ("Baseline LSTM", (63.7, 74.5, 25.3, 42.8)),
    "autoencoder": ("Autoencoder", (66.2, 75.1, 28.6, 44.0)),
    "predictor": ("Future Predictor", (64.9, 74.9, 27.3, 43.1)),
    "conditional-autoencoder": ("Conditional Autoencoder", (65.8, 74.8, 27.9, 43.1)),
    "conditional-predictor": ("Conditional Future Predictor", (65.1, 74.9, 27.4, 43.4)),
    "composite": ("Composite Model", (67.0, 75.8, 29.1, 44.1)),
    "conditional-composite": (
        "Composite Model with Conditional Future Predictor", (67.1, 75.8, 29.2, 44.0),
    ),
}  # fmt: skip


def _gain(better, worse, column):
    """Return a claim: one row beats another in a column."""
    return lambda a: a[better, column] - a[worse, column]


def _shrinks(first, last):
    """Return a claim: the Composite Model gains less in the last column than in the first."""
    early, late = (_gain("composite", "baseline", column) for column in (first, last))
    return lambda a: early(a) - late(a)


def table_1(scale: ActionScale, streams: Mapping[str, str]) -> tuple[Table, Needed]:
    """Return Table 1: single frame, LSTM, and LSTM with pretraining, on every stream."""
    rows = {
        "middle frame": "Middle frame alone (ours)",
        "single frame": "Single frame (averaged over all frames of a clip)",
        "mean frame": "Mean of all frames (ours)",
        "most frequent class": "Chance: the most frequent class (ours)",
        "size and length": "Size and length of the clip (ours)",
        "baseline": "LSTM classifier",
        "composite": "Composite LSTM Model + finetuning",
    }
    needed, claims = {}, {}
    for stream in streams:
        for row in rows:
            lstm = row in ("baseline", "composite")
            fit = (row if lstm else "baselines", stream, scale.full)  # one fit has all baselines
            needed[row, stream] = ("lstm" if lstm else row, [fit])
        of = streams[stream]
        claims[f"LSTM beats single frame, {of}"] = _gain("baseline", "single frame", stream)
        claims[f"composite beats single frame, {of}"] = _gain("composite", "single frame", stream)
        claims[f"composite beats LSTM, {of}"] = _gain("composite", "baseline", stream)
    table = Table(
        "Table 1 of the slides: action recognition", rows, streams, {"the slides'": claims},
        published={
            ("single frame", "rgb"): 72.2, ("single frame", "flow"): 72.2,
            ("baseline", "rgb"): 74.5, ("baseline", "flow"): 74.3,
            ("composite", "rgb"): 75.8, ("composite", "flow"): 74.9,
        },
        as_published={"rgb": "UCF-101 RGB", "flow": "UCF-101 1-frame flow"},
        quoted=[("Single Frame", 40.1), ("LSTM classifier", 42.8),
                ("Composite LSTM Model + Finetuning", 44.1)],
        quoted_columns=("method", "HMDB-51 RGB"),
        names={"baseline": "LSTM"},
    )  # fmt: skip
    return table, needed


def table_3(scale: ActionScale, streams: Mapping[str, str]) -> tuple[Table, Needed]:
    """Return Table 3: seven pretraining methods, with few labels and many, on the first stream."""
    labels = {"small": scale.small, "full": scale.full}
    columns = {
        name: f"{name}: "
        + ("all labelled clips" if n >= ALL else f"{number_of(n, 'labelled clip')} per class")
        for name, n in labels.items()
    }
    stream = next(iter(streams))
    needed, slides, families = {}, {}, {}
    for place, (column, n) in enumerate(labels.items()):
        family = families[f"pretraining, {column} set"] = {}
        for row, (_, published) in METHOD_ROWS.items():
            needed[row, column] = ("lstm", [(row, stream, n)])
            slides[row, column] = published[place]
            if row != "baseline":
                family[f"{row.replace('-', ' ')} beats baseline, {column}"] = _gain(
                    row, "baseline", column
                )
    families["ways of pretraining"] = {
        f"composite beats {row}, {column}": _gain("composite", row, column)
        for column in labels
        for row in ("autoencoder", "predictor")
    }
    families["labels"] = {"the composite's gain shrinks as labels grow": _shrinks("small", "full")}
    table = Table(
        "Table 3 of the slides: pretraining methods",
        {row: title for row, (title, _) in METHOD_ROWS.items()}, columns, families,
        published=slides,
        as_published={"small": "UCF-101 small", "full": "UCF-101"},
        quoted=[(title, *published[2:]) for title, published in METHOD_ROWS.values()],
        quoted_columns=("method", "HMDB-51 small", "HMDB-51"),
    )  # fmt: skip
    return table, needed


def table_4(scale: ActionScale, streams: Mapping[str, str]) -> tuple[Table, Needed]:
    """Return Table 4: each stream and both together, beside published results of others."""
    streams = {stream: streams[stream] for stream in ("rgb", "flow") if stream in streams}
    rows = {"baseline": "LSTM classifier (ours)", "composite": "Composite LSTM Model"}
    columns = {**streams, "both": "both, probabilities averaged"}
    needed = {
        (row, column): (
            "lstm", [(row, s, scale.full) for s in (streams if column == "both" else (column,))]
        )
        for row in rows
        for column in columns
    }  # fmt: skip
    claims = {
        f"both beat {title} alone": (
            lambda a, stream=stream: a["composite", "both"] - a["composite", stream]
        )
        for stream, title in streams.items()
    }
    quoted = [
        ("RGB", "Spatial Convolutional Net (Simonyan & Zisserman, 2014a)", 73.0, 40.5),
        ("RGB", "C3D (Tran et al., 2014)", 72.3, "-"),
        ("RGB", "C3D + fc6 (Tran et al., 2014)", 76.4, "-"),
        ("RGB", "LRCN (Donahue et al., 2014)", 71.1, "-"),
        ("RGB", "Composite LSTM Model", 75.8, 44.0),
        ("flow", "Temporal Convolutional Net (Simonyan & Zisserman, 2014a)", 83.7, 54.6),
        ("flow", "LRCN (Donahue et al., 2014)", 77.0, "-"),
        ("flow", "Composite LSTM Model", 77.7, "-"),
        ("both", "LRCN (Donahue et al., 2014)", 82.9, "-"),
        ("both", "Two-stream Convolutional Net (Simonyan & Zisserman, 2014a)", 88.0, 59.4),
        ("both", "Multi-skip feature stacking (Lan et al., 2014)", 89.1, 65.1),
        ("both", "Composite LSTM Model", 84.3, "-"),
    ]
    slides = {("composite", "rgb"): 75.8, ("composite", "flow"): 77.7, ("composite", "both"): 84.3}
    table = Table(
        "Table 4 of the slides: beside other methods", rows, columns, {"the slides'": claims},
        published=slides,
        as_published={name: f"UCF-101, {name}" for name in columns},
        quoted=quoted,
        quoted_columns=("input", "method", "UCF-101", "HMDB-51"),
        names={"baseline": "LSTM"},
    )  # fmt: skip
    return table, needed


def figure_12(scale: ActionScale, streams: Mapping[str, str]) -> tuple[Table, Needed]:
    """Return Figure 12: with and without pretraining as labels grow, on the first stream."""
    stream, counts = next(iter(streams)), {str(n): n for n in scale.counts}
    first, *_, last = counts
    families = {
        "pretraining": {
            f"pretraining helps with {n}": _gain("composite", "baseline", n) for n in counts
        },
        "labels": {f"its gain shrinks from {first} to {last}": _shrinks(first, last)},
    }
    rows = {"baseline": "LSTM, not pretrained", "composite": "Composite Model + finetuning"}
    needed = {
        (row, name): ("lstm", [(row, stream, n)]) for row in rows for name, n in counts.items()
    }
    title = "Figure 12 of the slides: accuracy with and without pretraining as labels grow"
    return Table(title, rows, {name: name for name in counts}, families), needed


TABLES = {"table1": table_1, "table3": table_3, "table4": table_4, "fig12": figure_12}
