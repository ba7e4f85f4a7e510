"""What a table claims, tested, and said in words beside what the slides have.

A claim is a function of a table's numbers that is positive where the claim is true:

    families = {"the slides'": {"B beats A": lambda loss: loss["A"] - loss["B"]}}
    found = tested(families, {"A": [...], "B": [...]}, published={"A": 0.55, "B": 0.54})
    lines(found, "% of the mean image"), differing(found)     # of Markdown

The same function of the slides' numbers says how large the gain was there. All gains are shares,
shown in per cent. Read next: table2.py and accuracy_table.py, the tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..figures.tables import Dots
from .significance import FAILS, HOLDS, LEVEL, POWER, Mean, judge

# {name of a family: {claim: function of the numbers}}
Families = Mapping[str, Mapping[str, Callable[[Mapping], np.ndarray]]]


def tested(
    families: Families, values: Mapping[object, Sequence[float]], published: Mapping[object, float]
) -> dict[str, dict]:
    """Every claim with its family, gains, Finding, and the slides' gain (NaN if they have none).

    values[key] are the numbers of all repetitions, in the same order for every key.
    """
    values = {key: np.asarray(x, float) for key, x in values.items()}
    largest = max((float(abs(x).max()) for x in values.values()), default=0.0)
    found = {}
    for family, claims in families.items():
        gains = {name: gain(values) for name, gain in claims.items()}
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
    """A table of claims; `unit` is what their gains are given in."""
    written = [
        f"| claim | gain, {unit} [95 % interval] | p, Holm | could be found from | slides | "
        "verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, claim in found.items():
        d = claim["difference"]
        written.append(cells(
            name, f"{percent(d['mean'])} [{percent(d['low'])}, {percent(d['high'])}]",
            p_value(claim["adjusted"]), _from(claim["detectable"]), percent(claim["published"]),
            f"**{claim['verdict']}**",
        ))  # fmt: skip
    return written


def _from(least):
    """The smallest gain that could be found, unless it is absurd."""
    return "over 100 %" if least > 1 else percent(least)


def differing(found: Mapping[str, Mapping]) -> list[str]:
    """A line for each claim that the slides' numbers make: as there, the other way, or open."""
    written = []
    for name, claim in found.items():
        if not claim["published"] > 0:
            continue
        seen, least = percent(claim["difference"]["mean"]), _from(claim["detectable"])
        if claim["verdict"] == HOLDS:
            said = "as in the slides."
        elif claim["verdict"] == FAILS:
            said = f"NOT here. It is the other way round: {seen}."
        else:
            said = f"in the slides; not decided here: {seen}, and could be found from {least}."
        written.append(f"- {name}: {said}")
    return written


def method(pairs: int, shared: str, found: Mapping[str, Mapping], each: str = "seed") -> str:
    """How verdicts come about: `pairs`, one for `each`, which have in common what `shared` says."""
    sizes = Counter(claim["family"] for claim in found.values())
    families = "; ".join(f"{family} ({size})" for family, size in sizes.items())
    return (
        f"Gains are differences within {count(pairs, 'pair')}, one for each {each}: {shared}. A "
        f"positive gain is what the claim says. Two-sided t tests at {100 * LEVEL:.0f} %, "
        f"corrected by Holm's method within each family of claims: {families}; an interval is of "
        "one test alone. *Could be found from*: a true gain of that size would be found by such an "
        f"experiment with a probability of {100 * POWER:.0f} %, as the first of its family; what "
        "is smaller may be there unseen."
    )


def dots(claim: Mapping) -> Dots:
    """What `tables.dots` draws of a claim, in per cent."""
    d, published = claim["difference"], claim["published"]
    return Dots(
        100 * np.array(claim["gains"]), 100 * d["low"], 100 * d["high"],
        None if math.isnan(published) else 100 * published, 100 * claim["detectable"],
    )  # fmt: skip


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


def percent(share: float) -> str:
    """A share in per cent; a dash for what isn't known."""
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f} %"  # no -0.0


def p_value(p: float) -> str:
    """A probability, as exact as anybody wants it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def clean(value: object) -> object:
    """The same nested values for JSON, which knows no NaN: None in their place."""
    if isinstance(value, Mapping):
        return {key: clean(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
