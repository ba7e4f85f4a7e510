"""Means, paired tests and verdicts: against SciPy, and against thousands of drawn experiments."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from minilstm.experiments import verdicts
from minilstm.experiments.markdown import without_nan
from minilstm.experiments.significance import FAILS, HOLDS, OPEN, detectable, judge, mean_of


@pytest.mark.parametrize("n", [2, 5, 30])
def test_means_errors_and_intervals_are_those_of_scipy(n):
    values = np.random.default_rng(0).normal(3, 2, n)
    found = mean_of(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.error == pytest.approx(stats.sem(values))
    expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.n == n


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_p_is_that_of_scipys_paired_test(n):
    a, b = np.random.default_rng(1).normal(0, 1, (2, n))
    found = judge({"a > b": a - b})["a > b"]
    assert found.p == found.adjusted == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_holms_method_is_that_of_the_textbook():
    # 5 differences each, scaled so that their p are known
    claims, ps = {}, {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    shape = np.array([-1.0, -0.5, 0, 0.5, 1])
    for name, p in ps.items():
        claims[name] = shape / stats.sem(shape) + stats.t.isf(p / 2, 4)
    found = judge(claims)
    assert {name: f.p for name, f in found.items()} == pytest.approx(ps)
    adjusted = {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}  # b: 0.04, but not below c
    assert {name: f.adjusted for name, f in found.items()} == pytest.approx(adjusted)
    verdicts = {name: f.verdict for name, f in found.items()}
    assert verdicts == {"a": HOLDS, "b": OPEN, "c": OPEN, "d": HOLDS}


def test_every_verdict_can_occur():
    found = judge({
        "up": [2.1, 1.7, 2.4, 1.9, 2.2],
        "down": [-2.1, -1.7, -2.4, -1.9, -2.2],
        "nowhere": [2.1, -1.7, 0.4, -1.9, 1.2],
    })  # fmt: skip
    verdicts = {name: f.verdict for name, f in found.items()}
    assert verdicts == {"up": HOLDS, "down": FAILS, "nowhere": OPEN}


def test_one_seed_decides_nothing_nor_do_seeds_without_scatter():
    for differences in ([3.0], [3.0, 3.0, 3.0]):
        found = judge({"claim": differences})["claim"]
        assert (found.verdict, found.adjusted) == (OPEN, 1.0)
        assert math.isnan(found.detectable)


def test_equal_gains_that_differ_by_a_rounding_have_no_scatter():
    right, more = np.array([40, 39]), np.array([42, 41])  # clips of 90, for two seeds
    values = {"without": right / 90, "with": more / 90}
    assert np.ptp(values["with"] - values["without"]) > 0
    claims = {"the slides'": {"with beats without": lambda x: x["with"] - x["without"]}}
    found = verdicts.tested(claims, values, published={})["with beats without"]
    assert (found["verdict"], found["p"]) == (OPEN, 1.0)
    assert (found["difference"]["error"], math.isnan(found["detectable"])) == (0, True)
    # small gains, large numbers: the rounding is that of the numbers
    losses = {"with": np.array([1e6 + 0.1, 1e6 + 0.3]), "without": np.array([1e6, 1e6 + 0.2])}
    assert verdicts.tested(claims, losses, published={})["with beats without"]["verdict"] == OPEN
    # scatter of a single clip in a million is scatter
    values["with"] = values["without"] + [2 / 90, 2 / 90 + 1e-6]
    assert verdicts.tested(claims, values, published={})["with beats without"]["verdict"] == HOLDS


@pytest.mark.parametrize("n, level", [(3, 0.05), (5, 0.05), (5, 0.0125), (10, 0.01)])
def test_the_detectable_effect_agrees_with_the_noncentral_t(n, level):
    shift, limit = detectable(1.0, n, level), stats.t.isf(level / 2, n - 1)
    assert stats.nct.sf(limit, n - 1, shift) == pytest.approx(0.8, abs=1e-3)
    assert detectable(3.0, n, level) == pytest.approx(3 * shift)


def test_four_of_five_experiments_detect_a_detectable_effect():
    n, sd = 5, 2.0
    true = detectable(sd / math.sqrt(n), n)
    draws = np.random.default_rng(2).normal(true, sd, (20_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_few_families_without_any_effect_have_a_verdict():
    rng, with_verdict = np.random.default_rng(3), 0
    for _ in range(400):
        found = judge({name: rng.normal(0, 1, 5) for name in "abcd"})
        with_verdict += any(f.verdict != OPEN for f in found.values())
    assert 4 <= with_verdict <= 36  # 20 expected, standard deviation 4.4


def test_nan_is_null_in_json():
    values = {"a": [1.0, math.nan], "b": (2, "x", None)}
    assert (
        json.dumps(without_nan(values), allow_nan=False)
        == '{"a": [1.0, null], "b": [2, "x", null]}'
    )
