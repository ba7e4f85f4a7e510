"""What a handful of seeds can say: means with their errors, orderings with a verdict.

An ordering such as "A costs less than B" is tested on PAIRED differences: run by run of the same
seed, which saw the same data, so that what both share cancels out. The interval is Student's t.

    found = judge({"A costs less than B": [2.1, 1.7, 2.4, 1.9, 2.2]})   # B - A of five seeds
    found["A costs less than B"].verdict                                # "holds"

A verdict without the test's strength says little: "not decided" can mean that there is nothing, or
that five seeds could not have seen it. So each comes with the smallest true difference that would
have been found in four of five such experiments (power 0.8).

Read next: verdicts.py, which says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # of every family of tests, two-sided
POWER = 0.8
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
ROUNDING = 1e-12  # relative to the largest number: scatter below it comes from rounding


class Mean(NamedTuple):
    """A mean over `n` values, its standard error, and its t interval; NaN where n = 1."""

    mean: float
    error: float
    low: float
    high: float
    n: int


class Finding(NamedTuple):
    """What the differences of a claim came to, of which it says that they are positive.

    `p` is that of this test alone and `adjusted` by Holm's method for all in its family; the
    interval is of this one at 95 %. `detectable` is the smallest true difference that the first
    step of Holm's method would find with probability 0.8, given the scatter that was observed.
    """

    difference: Mean
    p: float
    adjusted: float
    detectable: float
    verdict: str


def mean_of(values: Sequence[float], level: float = LEVEL, largest: float = 0.0) -> Mean:
    """Return the mean of independent values with its interval at `level`.

    The interval covers the true mean with probability 1 - level. Where the values are differences,
    `largest` is the largest number that was subtracted. Differences that are equal within its
    rounding have no scatter: their error is 0.
    """
    values = np.asarray(values, float)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Mean(mean, math.nan, math.nan, math.nan, n)
    from scipy import stats

    deviation = float(np.std(values, ddof=1))
    if deviation <= ROUNDING * max(largest, float(abs(values).max())):
        deviation = 0.0
    error = deviation / math.sqrt(n)
    reach = float(stats.t.ppf(1 - level / 2, n - 1)) * error
    return Mean(mean, error, mean - reach, mean + reach, n)


def judge(
    claims: Mapping[str, Sequence[float]], level: float = LEVEL, largest: float = 0.0
) -> dict[str, Finding]:
    """Test a family of claims, each by the differences that it says are positive on average.

    `largest` is the largest number that was subtracted, as in `mean_of`.

    All verdicts of a family together are wrong with a probability of `level` at most, if nothing
    is there (Holm 1979): the smallest p is multiplied by their number, the next by one less, and
    so on, and none gets below the one before it.
    """
    means = {name: mean_of(differences, largest=largest) for name, differences in claims.items()}
    ps = {name: _p(mean) for name, mean in means.items()}
    adjusted, before = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.get)):
        before = max(before, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = before
    found = {}
    for name, mean in means.items():
        verdict = OPEN
        if adjusted[name] < level:
            verdict = HOLDS if mean.mean > 0 else FAILS
        least = detectable(mean.error, mean.n, level / len(claims))
        found[name] = Finding(mean, ps[name], adjusted[name], least, verdict)
    return found


def _p(mean):
    """Two-sided, of a mean of 0. One value, or several without scatter, decide nothing: 1."""
    if not mean.error > 0:
        return 1.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean.mean) / mean.error, mean.n - 1))


def detectable(error: float, n: int, level: float = LEVEL, power: float = POWER) -> float:
    """The true mean that a two-sided t test at `level` on n values finds with this power.

    `error` is the standard error of the mean. NaN where n = 1 or nothing scatters.
    """
    if not error > 0:
        return math.nan
    from scipy import optimize, stats

    # T = (Z + shift) / sqrt(v), v the mean of n - 1 squares: how large Z must be, averaged over v
    limit = stats.t.isf(level / 2, n - 1)
    v = stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, n - 1) / (n - 1)

    def missing(shift):  # of the power, where the true mean is so many errors above 0
        return stats.norm.sf(limit * np.sqrt(v) - shift).mean() - power

    return float(error * optimize.brentq(missing, 0, 10 * limit + 10))
