"""Statistics of a few seeds: means with standard errors, and paired tests with a verdict.

A claim such as "A costs less than B" is tested on PAIRED differences: each difference is between
two runs of one seed, which saw the same data. What both runs share cancels out. The interval is
Student's t interval.

    found = judge({"A costs less than B": [2.1, 1.7, 2.4, 1.9, 2.2]})   # B - A of five seeds
    found["A costs less than B"].verdict                                # "holds"

"undecided" can mean that there is no difference, or that five seeds are too few to detect it. So
each verdict comes with the minimum detectable effect: the smallest true difference that such an
experiment detects with 80 % power.

Read next: verdicts.py, which puts the verdicts into words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05  # of every family of two-sided tests: the probability of any false verdict
POWER = 0.8  # the probability to detect a true difference of the minimum detectable size
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
ROUNDING = 1e-12  # relative to the largest number: scatter below it comes from rounding


class Mean(NamedTuple):
    """A mean of `n` values, its standard error, and its t interval; NaN where n = 1."""

    mean: float
    error: float
    low: float
    high: float
    n: int


class Finding(NamedTuple):
    """The test of one claim, which says that the mean of some differences is positive.

    difference   their mean, with a 95 % interval for this claim alone
    p            two-sided, for this claim alone
    adjusted     p, corrected by Holm's method for all claims of its family
    detectable   the smallest true difference that the first step of Holm's method detects with 80 %
                 power, given the observed scatter
    verdict      HOLDS, FAILS (the opposite holds) or OPEN
    """

    difference: Mean
    p: float
    adjusted: float
    detectable: float
    verdict: str


def mean_of(values: ArrayLike, largest: float = 0.0) -> Mean:
    """Return the mean of independent values, with its 95 % interval.

    Where the values are differences, `largest` is the largest number that was subtracted.
    Differences that are equal within its rounding have no scatter: their error is 0.
    """
    x = np.asarray(values, float)
    n, mean = len(x), float(np.mean(x))
    if n < 2:
        return Mean(mean, math.nan, math.nan, math.nan, n)
    from scipy import stats

    deviation = float(np.std(x, ddof=1))
    if deviation <= ROUNDING * max(largest, float(abs(x).max())):
        deviation = 0.0
    error = deviation / math.sqrt(n)
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    return Mean(mean, error, mean - reach, mean + reach, n)


def judge(claims: Mapping[str, ArrayLike], largest: float = 0.0) -> dict[str, Finding]:
    """Test a family of claims: each claims that its differences have a positive mean.

    `largest` is the largest number that was subtracted, as in `mean_of`.

    Holm's method (1979) multiplies the smallest p by the number m of claims, the next one by m - 1,
    and so on. No product may be smaller than the one before it. So if no claim is true, the
    probability of any verdict other than OPEN is at most LEVEL.
    """
    means = {name: mean_of(differences, largest=largest) for name, differences in claims.items()}
    ps = {name: _p(mean) for name, mean in means.items()}
    adjusted, before = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.__getitem__)):
        before = max(before, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = before
    found = {}
    for name, mean in means.items():
        verdict = OPEN
        if adjusted[name] < LEVEL:
            verdict = HOLDS if mean.mean > 0 else FAILS
        least = detectable(mean.error, mean.n, LEVEL / len(claims))
        found[name] = Finding(mean, ps[name], adjusted[name], least, verdict)
    return found


def _p(mean):
    """Return the two-sided p of a mean of 0. A single value, or no scatter, decides nothing: 1."""
    if not mean.error > 0:
        return 1.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean.mean) / mean.error, mean.n - 1))


def detectable(error: float, n: int, level: float = LEVEL) -> float:
    """Return the true mean that a two-sided t test of n values detects with 80 % power.

    `error` is the standard error of the mean. Returns NaN where n = 1 or nothing scatters.
    """
    if not error > 0:
        return math.nan
    from scipy import optimize, stats

    # T = (Z + shift) / sqrt(v), where v is the mean of n - 1 squares of normal numbers. The power
    # is P(T > limit), averaged over v
    limit = stats.t.isf(level / 2, n - 1)
    v = stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, n - 1) / (n - 1)

    def missing(shift):  # power that is missing if the true mean is `shift` standard errors
        return stats.norm.sf(limit * np.sqrt(v) - shift).mean() - POWER

    return float(error * optimize.brentq(missing, 0, 10 * limit + 10))
