"""Intervals, survival and bands against lifelines, cocopp, rliable, scipy: values stored from their runs on
the data made here (ties, censoring), and compared live where they are installed."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench import bands, stats


def lifetimes(seed=11, n=40):
    rng = np.random.default_rng(seed)
    life, cut = np.round(rng.exponential(10, n)) + 1, np.round(rng.exponential(25, n)) + 1
    return np.minimum(life, cut), life <= cut


def scores(seed=13):
    return np.round(np.random.default_rng(seed).gamma(2, 1, (10, 6)), 1)


def attempts():
    rng = np.random.default_rng(15)
    return rng.integers(1, 60, 20).astype(float), rng.random(20) < 0.6


def test_kaplan_meier_and_restricted_mean_are_lifelines():
    time, event = lifetimes()
    curve = stats.kaplan_meier(time, event)
    at = np.searchsorted(curve.time, [3, 8, 15, 25], side="right") - 1
    assert curve.survival[at] == pytest.approx([0.7572857143, 0.4852173913, 0.2911304348, 0.1164521739])
    assert (curve.low[at[1]], curve.high[at[1]]) == pytest.approx((0.3035502689, 0.6449087262))
    assert stats.median_lifetime(time, event)[0] == 7.0
    assert stats.restricted_mean(time, event, 20) == pytest.approx(9.810444720496893)
    lifelines = pytest.importorskip("lifelines")
    from lifelines.utils import restricted_mean_survival_time

    theirs = lifelines.KaplanMeierFitter().fit(time, event)
    assert stats.restricted_mean(time, event, 20) == pytest.approx(
        restricted_mean_survival_time(theirs, t=20)
    )


def test_pseudo_lifetimes_have_the_restricted_mean_and_its_error():
    time, event = lifetimes()
    pseudo = stats.pseudo_lifetimes(time, event, 20)
    assert pseudo.mean() == pytest.approx(stats.restricted_mean(time, event, 20))
    # Greenwood's variance of the area: sum of area beyond each event, squared, times d / (n (n - d)).
    curve = stats.kaplan_meier(time, event)
    grid = np.concatenate([curve.time[curve.time < 20], [20.0]])
    area = np.cumsum((np.diff(grid) * curve.survival[: len(grid) - 1])[::-1])[::-1]
    dead = np.array([(event & (time == t)).sum() for t in grid[:-1]])
    risk = np.array([(time >= t).sum() for t in grid[:-1]])
    greenwood = (area**2 * dead / (risk * (risk - dead))).sum()
    assert pseudo.var(ddof=1) / len(time) == pytest.approx(greenwood * 40 / 39, rel=0.05)
    plain = np.minimum(time, 20)
    assert stats.pseudo_lifetimes(plain, time < 20, 20).tolist() == plain.tolist()


def test_expected_running_time_is_cocopps():
    spent, arrived = attempts()
    assert stats.expected_running_time(spent, arrived)[0] == 65.9
    limited = np.where(arrived, spent, 60.0)
    value, low, high = stats.expected_running_time(limited, arrived)
    assert value == 90.0 and low < 90 < high
    assert stats.expected_running_time([60.0] * 8, [False] * 8)[::2] == (np.inf, np.inf)
    assert stats.expected_running_time([9.0, 60.0], [True, False])[2] == np.inf
    toolsstats = pytest.importorskip("cocopp.toolsstats")
    assert value == toolsstats.sp(limited, issuccessful=arrived)[0]


def test_expected_running_time_covers():
    # 3,000 samples of 64 geometric lifetimes, 30 % cut at 60, seed 0: the law's ERT is E[min(T, B)] / P(T <=
    # B).
    rng, p, limit, hits = np.random.default_rng(0), 0.02, 60, 0
    truth = 1 / p
    for life in rng.geometric(p, (3000, 64)):
        _, low, high = stats.expected_running_time(np.minimum(life, limit), life <= limit)
        hits += low <= truth <= high
    assert 0.935 < hits / 3000 < 0.965


def test_interquartile_mean_is_rliables():
    value, low, high = stats.interquartile_mean(scores())
    assert value == pytest.approx(1.7466666666666664)
    assert low < 1.37333333 and high > 2.19  # its percentile interval, too narrow for ten runs, lies within
    assert (low, high) == pytest.approx((1.37333333, 2.19), abs=0.14)
    assert value == pytest.approx(scipy_stats.trim_mean(scores(), 0.25, axis=None))
    assert np.isnan(stats.interquartile_mean(scores()[:1])[1])
    metrics = pytest.importorskip("rliable.metrics")
    assert value == pytest.approx(metrics.aggregate_iqm(scores()))


@pytest.mark.parametrize("law", ["exponential", "lognormal", "lifetime"])
def test_intervals_of_means_cover_from_64_runs(law):
    # 4,000 samples each, seed 1: at least 93.5 %, less 3 standard errors of the count.
    rng = np.random.default_rng(1)
    draw, mean = {
        "exponential": (lambda s: rng.exponential(1, s), 1.0),
        "lognormal": (lambda s: rng.lognormal(0, 1, s), np.exp(0.5)),
        "lifetime": (lambda s: np.minimum(rng.geometric(0.02, s), 60), (1 - 0.98**60) / 0.02),
    }[law]
    _, low, high = stats.mean_interval(draw((64, 4000)))
    assert ((low <= mean) & (mean <= high)).mean() > 0.935 - 3 * np.sqrt(0.935 * 0.065 / 4000)


def test_mean_interval_is_students_without_skewness():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    theirs = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    assert stats.mean_interval(values)[1:] == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    mean, low, high = stats.mean_interval(values**4)  # skewed to the right: further up than down
    assert high - mean > mean - low
    assert np.isnan(stats.mean_interval([3.0])[1]) and np.isinf(stats.mean_interval([1.0, np.inf])[0])
    assert np.isnan(stats.mean_interval(np.empty((0, 2)))[0]).all()


def test_budget_needed_covers_with_few_runs():
    # 2,000 experiments of 8 runs, seed 2. The law: shares .2, .45, .6, .9 of runs are near-optimal; needed:
    # 32.
    u = np.random.default_rng(2).random((2000, 8, 1))
    hits = 0
    for success in u < np.array([0.2, 0.45, 0.6, 0.9]):
        _, low, high = stats.budget_needed(success.astype(float), [8, 16, 32, 64])
        hits += low <= 32 <= high
    assert hits / 2000 > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 2000)


def test_bands_are_exact():
    for n in (5, 64):  # Kolmogorov's law, which scipy computes another way
        d, i = scipy_stats.kstwo.ppf(0.95, n), np.arange(1, n + 1)
        assert bands.staying_within(i / n - d, (i - 1) / n + d) == pytest.approx(0.95, abs=1e-9)
    # Two draws within [.1, .5] and [.4, .9] by hand: both below .5 but the larger above .4, or one each side.
    by_hand = 2 * (0.4 * 0.1 - 0.1**2 / 2 + 0.4 * 0.4)
    assert bands.staying_within(np.array([0.1, 0.4]), np.array([0.5, 0.9])) == pytest.approx(by_hand)
    low, high = bands.ranks_band(30)
    assert bands.staying_within(low, high) == pytest.approx(0.95, abs=1e-6)
    # Narrower in the tail than a band of constant width.
    assert high[0] < bands.ranks_band(30, kind="constant width")[1][0]


def test_tuning_curve_bounds_the_median_of_the_best_of_k():
    # 2,000 experiments of 30 draws of exp(uniform), seed 3; the whole curve within the band in 95 %, less 4
    # sigma.
    rng, k = np.random.default_rng(3), np.arange(1, 31)
    truth = np.exp(1 - 0.5 ** (1 / k))
    found = [bands.tuning_curve(np.exp(rng.random(30)), k) for _ in range(2000)]
    inside = np.mean([((b.low <= truth) & (truth <= b.high)).all() for b in found])
    assert inside > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 2000)
    diverged = bands.tuning_curve([np.nan] * 29 + [1.0], [1])
    assert diverged.middle[0] == np.inf and diverged.high[0] == np.inf
    with pytest.raises(ValueError, match="k of at least 1"):
        bands.tuning_curve([1.0], [0])
    with pytest.raises(ValueError, match="equal tails or constant width"):
        bands.ranks_band(5, kind="both")


@pytest.mark.parametrize("n", [1, 5, 6, 9, 40, 101])
def test_the_median_lifetime_is_the_curves_where_nothing_is_cut_off_early(n):
    """The short way beside the whole curve, with ties, and runs that outlive all deaths."""
    rng = np.random.default_rng(n)
    for share in (0.0, 0.2, 0.5, 0.9):
        time = rng.integers(1, 8, n).astype(float)
        event = rng.random(n) >= share
        time[~event] = 9.0
        found = stats.survival_median(stats.kaplan_meier(time, event))
        assert stats.median_lifetime(time, event) == (found if n >= 6 else (found[0], 0.0, np.inf))
