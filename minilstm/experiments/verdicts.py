"""Verdicts on the claims of a table: tested, and put into words beside the slides' numbers.

A claim is a function of a table's numbers that is positive where the claim is true:

    families = {"the slides'": {"B beats A": lambda loss: loss["A"] - loss["B"]}}
    found = tested(families, {"A": [...], "B": [...]}, published={"A": 0.55, "B": 0.54})
    lines(found, "% of the mean image"), differing(found)     # Markdown

The same function of the slides' numbers gives the slides' gain. All gains are shares, shown in per
cent. Read next: table2.py and accuracy_table.py, the tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import number_of
from .markdown import p_value, percent, table_row
from .significance import FAILS, HOLDS, LEVEL, POWER, judge

# {name of a family: {claim: function of the numbers}}
Families = Mapping[str, Mapping[str, Callable[[Mapping], np.ndarray]]]


def tested(
    families: Families, values: Mapping[Any, ArrayLike], published: Mapping[Any, float]
) -> dict[str, dict]:
    """Test every claim. Returns {claim: its family, gains, Finding, and the slides' gain}.

    values[key] are the numbers of all repetitions, in the same order for every key. The slides'
    gain, "published", is NaN if the slides do not have the numbers.
    """
    arrays = {key: np.asarray(x, float) for key, x in values.items()}
    largest = max((float(abs(x).max()) for x in arrays.values()), default=0.0)
    found = {}
    for family, claims in families.items():
        gains = {name: gain(arrays) for name, gain in claims.items()}
        for name, finding in judge(gains, largest=largest).items():
            try:
                slides = float(claims[name](published))
            except KeyError:
                slides = math.nan
            found[name] = finding._asdict() | {
                "family": family,
                "difference": finding.difference._asdict(),
                "gains": gains[name].tolist(),
                "published": slides,
            }
    return found


def lines(found: Mapping[str, Mapping], unit: str) -> list[str]:
    """Return a Markdown table of tested claims, line by line. `unit` is the unit of the gains."""
    written = [
        f"| claim | gain, {unit} [95 % interval] | p, Holm | detectable with {100 * POWER:.0f} % "
        "power | slides | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, claim in found.items():
        d = claim["difference"]
        written.append(table_row(
            name, f"{percent(d['mean'])} [{percent(d['low'])}, {percent(d['high'])}]",
            p_value(claim["adjusted"]), _detectable(claim), percent(claim["published"]),
            f"**{claim['verdict']}**",
        ))  # fmt: skip
    return written


def _detectable(claim):
    """The smallest detectable gain; above 100 % the exact number says nothing."""
    least = claim["detectable"]
    return "over 100 %" if least > 1 else percent(least)


def differing(found: Mapping[str, Mapping]) -> list[str]:
    """Compare each claim that the slides' numbers support with the verdict here, line by line."""
    written = []
    for name, claim in found.items():
        if not claim["published"] > 0:
            continue
        seen = percent(claim["difference"]["mean"])
        if claim["verdict"] == HOLDS:
            said = "as in the slides."
        elif claim["verdict"] == FAILS:
            said = f"holds in the slides, NOT here. Here the opposite holds: {seen}."
        else:
            said = f"holds in the slides; undecided here. The gain is {seen}"
            if not math.isnan(claim["detectable"]):
                said += f", and this experiment can only detect gains above {_detectable(claim)}"
            said += "."
        written.append(f"- {name}: {said}")
    return written


def method(pairs: int, shared: str, found: Mapping[str, Mapping], each: str = "seed") -> str:
    """Describe the test: the number of pairs, what each pair shares, families and corrections.

    `each` is the noun of a repetition.
    """
    sizes = Counter(claim["family"] for claim in found.values())
    families = "; ".join(f"{family} ({size})" for family, size in sizes.items())
    return (
        f"Gains are differences within {number_of(pairs, 'pair')}, one pair for each {each}. "
        f"A pair shares {shared}. A positive gain supports the claim. The "
        f"tests are two-sided t tests "
        f"at {100 * LEVEL:.0f} %, corrected by Holm's method within each family of claims: "
        f"{families}. An interval is for one test alone. *Detectable*: the smallest true gain that "
        f"such an experiment detects with {100 * POWER:.0f} % power, as the first of its family. "
        "Smaller gains may exist and stay undetected."
    )
