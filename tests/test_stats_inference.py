"""Two strategies, many objectives: A/A calibration, scipy, statsmodels, and cases by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench import inference
from bench.inference import ALIKE, BETTER, OPEN, WORSE, Difference, Interval


def lifetimes(rng, shape, p=0.02, limit=60):
    """Random search's trials to a target that 2 % reach, cut at 60: 30 % are censored."""
    return np.minimum(rng.geometric(p, shape), limit).astype(float)


@pytest.mark.parametrize("runs", [8, 64])
def test_the_same_strategy_is_declared_different_in_5_percent(runs):
    # 1,000 comparisons, seed 0; the test is exact, so 5 % with a standard error of .7 %.
    rng = np.random.default_rng(0)
    found = inference.differences(lifetimes(rng, (1000, runs)), lifetimes(rng, (1000, runs)))
    assert 0.03 <= (found.p <= 0.05).mean() <= 0.065
    assert ((found.p <= 0.05) == ((found.low > 0) | (found.high < 0))).all()


def test_the_interval_excludes_zero_exactly_where_p_is_5_percent():
    p, critical = inference._from_permutations(np.arange(20.0, 0, -1)[None])  # what was seen is the largest
    assert p[0] == 0.05 and 19 <= critical[0] < 19.01
    assert inference._from_permutations(np.ones((1, 20)))[0] == 1


def test_pairs_and_unequal_numbers_calibrate_too():
    # 500 comparisons each, seed 1: 5 % with a standard error of 1 %.
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 3, (500, 20))
    a, b = (shared + rng.lognormal(0, 1, (500, 20)) for _ in "ab")
    paired = inference.differences(a, b, paired=True)
    assert 0.02 <= (paired.p <= 0.05).mean() <= 0.08
    apart = inference.differences(a, b)
    assert (paired.high - paired.low).mean() < 0.85 * (apart.high - apart.low).mean()
    few = inference.differences(lifetimes(rng, (500, 30)), lifetimes(rng, (500, 9)))
    assert 0.02 <= (few.p <= 0.05).mean() <= 0.08


def test_intervals_of_differences_cover_from_64_runs():
    # Laws of different mean, spread and skewness, 500 samples, seed 2: at least 93.5 %, less 3 sigma.
    rng = np.random.default_rng(2)
    found = inference.differences(lifetimes(rng, (500, 64)), lifetimes(rng, (500, 64), 0.1))
    truth = (1 - 0.98**60) / 0.02 - (1 - 0.9**60) / 0.1
    assert ((found.low <= truth) & (truth <= found.high)).mean() > 0.935 - 3 * np.sqrt(0.06 / 500)


def test_without_skewness_it_is_welchs_t():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 40), rng.normal(0.5, 2, 50)
    found, theirs = inference.difference(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.error == pytest.approx(found.mean / theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.03)
    low, high = theirs.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low, abs=0.12), pytest.approx(high, abs=0.12))
    all_splits = inference.difference([1.0, 2, 3, 4], [5.0, 6, 7, 9])  # 70 splits: 2 are as far apart
    assert all_splits.p == pytest.approx(2 / 70)


def test_what_cannot_be_said_has_a_reason():
    assert "one run a side" in inference.difference([1.0], [2.0]).reason
    assert "too few" in inference.difference([1.0, 2.0], [2.0, 5.0]).reason
    assert "no runs" in inference.difference([], [2.0]).reason
    assert "not finite" in inference.difference([1.0, np.inf], [2.0, 3.0]).reason
    assert inference.answer(inference.difference([1.0], [2.0]), 0.5) == OPEN
    # Eight runs a side that never arrive do not say that nobody would: a third of either may.
    never = inference.difference([60.0] * 8, [60.0] * 8, width=60.0)
    assert never.p == 1 and never.high == pytest.approx(60 * (1 - 0.025 ** (1 / 8)))
    same = np.arange(20.0)  # many runs that are the same one by one: nothing is unseen
    assert inference.difference(same, same, same, same)[1:4] == (0.0, 0.0, 1.0)


def test_pairs_are_made_of_shared_seeds_with_their_correlation():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 5, 30)
    a, b = shared + rng.normal(0, 1, 30), shared + rng.normal(1, 1, 30)
    found = inference.difference(a, b[::-1], np.arange(30), np.arange(30)[::-1])
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1]) and found.p < 0.05
    assert found.error == pytest.approx(scipy_stats.sem(a - b))
    apart = inference.difference(a, b, np.arange(30), np.arange(30) + 30)
    assert np.isnan(apart.correlation) and apart.p > 0.05


def test_answers():
    def d(low, high):
        return Difference((low + high) / 2, low, high, 0.01, 20, 20, np.nan, 1.0)

    assert inference.answer(d(-3, -1), 0.5) == BETTER and inference.answer(d(1, 3), 0.5) == WORSE
    assert inference.answer(d(-1, 3), 0.5) == OPEN
    assert inference.answer(d(-0.4, 0.3), 0.5) == inference.answer(d(0.1, 0.3), 0.5) == ALIKE
    assert inference.answer(d(-3, -1), 0.5, p=0.06) == OPEN  # after correction
    assert inference.answer(Interval(0, np.nan, np.nan, 1), 0.5) == OPEN


def test_holm_is_statsmodels():
    found = inference.holm([0.01, 0.04, 0.03, np.nan, 0.005, 0.2])
    assert found == pytest.approx([0.04, 0.09, 0.09, np.nan, 0.025, 0.2], nan_ok=True)


def test_tukey_is_of_all_pairs_and_its_level_the_inverse():
    # scipy's tukey_hsd of large groups: its p values are those of the studentised range.
    rng = np.random.default_rng(3)
    groups = [rng.normal(m, 1, 20000) for m in (0, 0, 0.02, 0.04)]
    hsd = scipy_stats.tukey_hsd(*groups).pvalue
    pairs = [(i, j) for i in range(4) for j in range(i)]
    p = [scipy_stats.ttest_ind(groups[i], groups[j]).pvalue for i, j in pairs]
    assert inference.tukey(p, 4) == pytest.approx([hsd[i, j] for i, j in pairs], abs=0.01)
    assert inference.tukey([0.03, np.nan], 2) == pytest.approx([0.03, np.nan], nan_ok=True)
    assert inference.tukey(inference.tukey_level(7), 7) == pytest.approx(0.05, abs=1e-3)
    assert (
        inference.tukey(1e-7, 20) < 1e-3 < 0.05 < inference.tukey(0.0005, 20)
    )  # beyond the draws there is p


def test_many_equal_strategies_are_rarely_declared_worse_than_the_one_that_leads():
    rng, declared = np.random.default_rng(4), 0
    for _ in range(120):
        x = rng.normal(size=(8, 12))
        best = x.mean(1).argmin()
        p = inference.differences(np.delete(x, best, 0), np.repeat(x[best][None], 7, 0)).p
        declared += (inference.tukey(p, 8) <= 0.05).any()
    assert declared / 120 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)  # Holm over the 7 others: 12 %


def test_the_best_is_found_by_dunnetts_critical_values():
    # Dunnett 1955, table 1a: one-sided, 5 %, infinitely many degrees of freedom, p treatments and a control.
    for others, critical in ((1, 1.64), (2, 1.92), (3, 2.06), (6, 2.29), (9, 2.42)):
        p = 2 * scipy_stats.norm.sf(critical)  # of the pair, two-sided
        assert inference.not_the_best(p, others + 1) == pytest.approx(0.05, abs=0.001)
    found = inference.not_the_best([1e-9, 0.2, np.nan], 7)
    assert found[0] < 1e-7 and 0.1 < found[1] < 0.5 and np.isnan(found[2])


def test_the_true_best_is_called_so_in_all_but_5_percent():
    """The first of 8 is best by nothing, by a little, by much; 4 sigma over 1,000 each."""
    rng = np.random.default_rng(5)
    for ahead in (0.0, 0.1, 1.0):
        x = rng.normal(size=(1000, 8)) - ahead * (np.arange(8) == 0)  # means with standard error 1
        away = (x[:, 0] - x.min(1)) / np.sqrt(2)
        missed = (inference.not_the_best(2 * scipy_stats.norm.sf(away), 8) <= 0.05) & (away > 0)
        assert missed.mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1000)
        if ahead == 0:  # and not much rarer than that where all are the same
            assert missed.mean() > 0.02


def test_what_never_varied_has_no_interval_of_no_width():
    seeds = np.arange(8)
    varied = np.random.default_rng(0).random(8)
    for a, b in ((varied, varied), (np.full(8, 0.3), np.full(8, 0.3))):
        found = inference.difference(a, b, seeds, seeds, width=2.0)
        assert found.low < -0.1 and found.high > 0.1 and inference.answer(found, 0.01, found.p) == OPEN
    ahead = inference.difference(varied, varied + 0.2, seeds, seeds, width=2.0)
    assert ahead.p <= 0.05 and ahead.low < -0.2 and ahead.high == 0  # what is sure has no zero inside
    levels = np.arange(3)[:, None].repeat(2, 0)
    alike = inference.in_general(np.ones(6), levels, width=2.0)
    assert alike.low < 0 < alike.high and alike.p > 0.05
    nothing = inference.in_general(np.zeros(6), levels, width=2.0)
    assert inference.answer(nothing, 0.01, nothing.p) == OPEN
    many = inference.in_general(np.ones(40), np.arange(40)[:, None], width=2.0)
    assert many.low > 0 and many.p < 0.05


def test_seeds_needed_settle_it_with_the_stated_power():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, 4000), rng.normal(0.7, 1, 4000)
    runs, says = inference.seeds_needed(inference.difference(a, b), 0.01)
    assert says == BETTER
    # scipy has no power of its own: count, 300 experiments with so many runs, within 4 sigma of 80 %.
    n = int(runs)
    found = inference.differences(rng.normal(0, 1, (300, n)), rng.normal(0.7, 1, (300, n)))
    assert abs((found.p <= 0.05).mean() - 0.8) < 4 * np.sqrt(0.16 / 300)
    runs, says = inference.seeds_needed(inference.difference(a, a + rng.normal(0, 0.1, 4000)), 0.5)
    assert says == ALIKE and runs < 100
    runs, why = inference.seeds_needed(inference.difference([1.0], [2.0]), 0.5)
    assert np.isnan(runs) and "one run" in why


def test_win_probability_is_mann_whitneys():
    rng = np.random.default_rng(6)
    a, b = np.round(rng.normal(0, 2, 30)), np.round(rng.normal(1, 2, 25))
    theirs = scipy_stats.mannwhitneyu(b, a).statistic / (30 * 25)
    found = inference.win_probability(a, b)
    assert found.value == pytest.approx(theirs) and found.low < theirs < found.high
    brunner = scipy_stats.brunnermunzel(a, b)
    # Its statistic is (1/2 - wins) / error times sqrt(...): the same error gives the same t.
    error = np.log(found.high / (1 - found.high) / (found.value / (1 - found.value))) * theirs * (1 - theirs)
    error /= scipy_stats.t.ppf(0.975, 24)
    assert (found.value - 0.5) / error == pytest.approx(abs(brunner.statistic), rel=1e-6)
    assert inference.win_probability(a, b, equal=100).value == 0.5  # practically equal: all tied
    sure = inference.win_probability([1.0] * 8, [2.0] * 8)
    assert sure.value == sure.high == 1 and sure.low == pytest.approx(0.025 ** (1 / 8))
    assert inference.win_probability([np.inf, 1.0], [np.inf, np.inf]).value == 0.75
    assert inference.win_probability([1.0], [2.0]).reason


def test_intervals_in_general_cover_and_say_when_there_is_none():
    # Families with sd 1, objectives .5, seeds 2; 300 experiments, seed 7: over-coverage is allowed.
    rng, hits = np.random.default_rng(7), 0
    levels = np.stack([np.repeat(np.arange(6), 16), np.repeat(np.arange(12), 8)], 1)
    for _ in range(300):
        y = rng.normal(0, 1, 6)[levels[:, 0]] + rng.normal(0, 0.5, 12)[levels[:, 1]] + rng.normal(0, 2, 96)
        found = inference.in_general(y, levels)
        hits += found.low <= 0 <= found.high
    assert hits / 300 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    one = inference.in_general(y, np.zeros((96, 1), int))
    assert "one family" in one.reason and one.value == pytest.approx(y.mean())


def test_the_error_in_general_is_the_nested_bootstraps():
    # Resampled in so many words, 8,000 times (sd .8 %), seed 11: families, objectives within, seeds within.
    rng = np.random.default_rng(11)
    sizes = [[5, 1, 7], [4], [1, 1], [6, 2]]
    levels = np.array(
        [(f, o) for f, objectives in enumerate(sizes) for o, n in enumerate(objectives) for _ in range(n)]
    )
    y = rng.normal(0, 1, 4)[levels[:, 0]] + rng.normal(0, 1, len(levels))
    tree = [
        [y[(levels == (f, o)).all(1)] for o in range(len(objectives))] for f, objectives in enumerate(sizes)
    ]

    def drawn(units, mean):  # a level of one unit is passed over
        return np.mean([mean(units[i]) for i in (rng.integers(0, len(units), len(units)))])

    means = [drawn(tree, lambda f: drawn(f, lambda o: drawn(o, float))) for _ in range(8000)]
    found = inference.in_general(y, levels)
    half = scipy_stats.t.ppf(0.975, 3) * np.std(means) * np.sqrt(4 / 3)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.03)
    assert found.value == pytest.approx(np.mean(means), abs=4 * np.std(means) / np.sqrt(8000))


def test_units_of_a_level_count_the_same():
    values = np.array([1.0, 1, 1, 1, 5, 9])
    levels = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 1], [1, 2]])
    assert inference.tree_mean(values, levels) == pytest.approx((1 + (5 + 9) / 2) / 2)
    assert inference.in_general(values, levels).value == pytest.approx(4.0)


def test_variance_components_of_a_balanced_design_are_those_of_the_analysis_of_variance():
    rng = np.random.default_rng(8)
    s, o, r = 4, 6, 5
    strategy, objective = np.repeat(np.arange(s), o * r), np.tile(np.repeat(np.arange(o), r), s)
    y = rng.normal(0, 1, s)[strategy] + rng.normal(0, 2, o)[objective] + rng.normal(0, 1, s * o * r)
    y += rng.normal(0, 1, (s, o))[strategy, objective]
    cube = y.reshape(s, o, r)
    cell, by_s, by_o = cube.mean(2), cube.mean((1, 2)), cube.mean((0, 2))
    rest = cube.var(axis=2, ddof=1).mean()
    both = r * ((cell - by_s[:, None] - by_o + y.mean()) ** 2).sum() / ((s - 1) * (o - 1))
    expected = [
        (o * r * by_s.var(ddof=1) - both) / (o * r),
        (s * r * by_o.var(ddof=1) - both) / (s * r),
        (both - rest) / r,
        rest,
    ]
    terms = {"strategy": strategy, "settings": strategy, "objective": objective,
             "both": list(zip(strategy, objective, strict=True))}  # fmt: skip
    table = inference.variance_components(y, terms).set_index("term")
    assert table["variance"].drop("settings").to_numpy() == pytest.approx(expected)
    assert table["share"].sum() == pytest.approx(1)
    assert table.loc["settings", "reason"] == "the same groups as strategy"
    alone = inference.variance_components([1.0, 2.0], {"strategy": ["a", "a"]})
    assert alone["reason"].tolist() == ["one level only", ""]


def test_variance_components_of_an_unbalanced_design_are_unbiased():
    rng, found = np.random.default_rng(9), []
    s, o = np.repeat(np.arange(5), 40), np.tile(np.arange(8), 25)
    for _ in range(150):
        y = rng.normal(0, 1, 5)[s] + rng.normal(0, 2, 8)[o] + rng.normal(0, 1, 200)
        kept = rng.random(200) < np.where(s < 2, 0.3, 0.9)
        table = inference.variance_components(y[kept], {"strategy": s[kept], "objective": o[kept]})
        found.append(table["variance"])
    error = np.std(found, axis=0) / np.sqrt(150)
    assert (np.abs(np.mean(found, axis=0) - [1, 4, 1]) < 4 * error).all()
