"""Ranks, wins and efficiency against scipy, scikit-posthocs and rliable, and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench import ranking


def table(seed=12, n=15, k=5):
    return np.round(np.random.default_rng(seed).normal(0, 1, (n, k)) + np.arange(k) * 0.3, 0)


def test_friedman_and_nemenyi():
    found = ranking.friedman(table())
    theirs = scipy_stats.friedmanchisquare(*table().T)
    assert (found.chi2, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert found.chi2_plain == pytest.approx(11.68) and found.chi2 > 1.2 * found.chi2_plain  # ties
    stored = [
        1.0,
        1.0,
        0.9281849208997692,
        0.5617225250975592,
        0.031829497227632175,
    ]  # scikit-posthocs 0.17.1
    assert found.pairs[0] == pytest.approx(stored, abs=1e-6)
    assert found.ranks == pytest.approx(scipy_stats.rankdata(table(), axis=1).mean(0))
    # Demsar 2006, table 5: q = 2.728 for five strategies.
    assert found.critical == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 15)), abs=1e-3)
    assert "two of each" in ranking.friedman(table()[:, :1]).reason
    assert "tied" in ranking.friedman(np.zeros((4, 3))).reason
    holes = table()
    holes[0, 0] = np.nan
    assert ranking.friedman(holes).objectives == 14
    posthocs = pytest.importorskip("scikit_posthocs")
    assert found.pairs == pytest.approx(posthocs.posthoc_nemenyi_friedman(table()).to_numpy(), abs=1e-6)


def test_ranks_are_scipys_and_nan_ranks_nobody():
    assert ranking.ranks(table()) == pytest.approx(scipy_stats.rankdata(table(), axis=1))
    assert ranking.ranks(np.array([3.0, np.nan, 1.0, 1.0])) == pytest.approx(
        [3, np.nan, 1.5, 1.5], nan_ok=True
    )


def test_win_matrix_is_rliables_probability_of_improvement():
    a, b = (np.round(np.random.default_rng(s).gamma(2, 1, (10, 6)), 1) for s in (13, 14))
    values = [[a[:, j], b[:, j]] for j in range(6)]
    found = ranking.win_matrix(values, list("uvwxyz"), 0.0)
    # rliable: higher is better, so its P(a > b) is ours of b.
    assert found.value[1, 0] == pytest.approx(0.48166666666666663)
    assert found.value + found.value.T == pytest.approx(np.where(np.eye(2), np.nan, 1.0), nan_ok=True)
    assert found.low[1, 0] < found.value[1, 0] < found.high[1, 0]
    assert ranking.win_matrix(values, list("uvwxyz"), 100.0).value[0, 1] == 0.5
    one = ranking.win_matrix([[a[:, 0], b[:, 0], None]], ["u"], 0.0)
    assert np.isfinite(one.low[0, 1]) and np.isnan(one.value[0, 2])
    rliable = pytest.importorskip("rliable.metrics")
    assert found.value[1, 0] == pytest.approx(rliable.probability_of_improvement(a, b))


def test_log_efficiency_by_hand():
    grid = np.array([1.0, 2, 4, 8, 16])
    random, model = np.array([9.0, 8, 6, 5, 3]), np.array([9.0, 5, 3, 2, 1])
    # The model has at 4 what random has at 16; the other way round it is the inverse.
    assert np.exp(ranking.log_efficiency(model, random, grid)) == pytest.approx(4 / 16)
    assert np.exp(ranking.log_efficiency(random, model, grid)) == pytest.approx(4)
    assert ranking.log_efficiency(random, random, grid) == 0
    nothing = np.full(5, np.inf)
    assert all(np.isnan(ranking.log_efficiency(a, nothing, grid)) for a in (nothing, random))
    assert "no result" in ranking.log_efficiency_interval(random[None], nothing[None], grid).reason
    # What is first at a level and stays there is not the quicker one: the other ends far below.
    stuck = np.full(5, 5.5)
    assert ranking.log_efficiency(stuck, random, grid) == -ranking.log_efficiency(random, stuck, grid) == 0
    rng = np.random.default_rng(0)
    runs = np.minimum.accumulate(rng.exponential(1, (40, 64)), axis=1)
    budgets = np.arange(1.0, 65)
    same = ranking.log_efficiency_interval(
        runs, np.minimum.accumulate(rng.exponential(1, (40, 64)), 1), budgets
    )
    assert same.low < 0 < same.high
    # A strategy that sees four draws a trial needs a quarter of the trials.
    quick = np.minimum.accumulate(rng.exponential(1, (40, 64, 4)).min(2), axis=1)
    faster = ranking.log_efficiency_interval(quick, runs, budgets)
    assert faster.low < np.log(0.25) < faster.high < 0
    assert ranking.log_efficiency_interval(runs[:3], runs, budgets).reason


@pytest.mark.parametrize("strategies", [2, 3, 10])
def test_the_known_winner_leads(strategies):
    rng = np.random.default_rng(strategies)
    values = [rng.exponential(1 + i, 30) for i in range(strategies)][::-1]
    values[-1] *= 0.2
    first, second, p = ranking.surely_first(values, False, np.inf)
    assert first == strategies - 1 and second == strategies - 2 and p < 0.05
    assert np.isnan(ranking.surely_first([values[0]], False, np.inf)[2])


def test_the_leader_must_beat_all_others():
    rng = np.random.default_rng(0)
    close = [rng.normal(0, 1, 20), rng.normal(0.05, 1, 20), rng.normal(9, 1, 20)]
    assert ranking.surely_first(close, False, np.inf)[2] > 0.05


def test_who_leads_among_equals_is_rarely_sure():
    # Ten times the same law, 400 experiments, seed 1: the choice of the first is paid for.
    rng = np.random.default_rng(1)
    p = [ranking.surely_first(list(rng.exponential(1, (10, 12))), False, np.inf)[2] for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_rank_table_points_the_right_way():
    rows = [{"objective": o, "label": label, "budget": b, "value": v}
            for o in "xy" for b in (1, 2) for label, v in (("good", 1 / b), ("bad", 2 / b))]  # fmt: skip
    rows.append({"objective": "x", "label": "late", "budget": 2, "value": 0.0})  # not on y
    found = ranking.rank_table(pd.DataFrame(rows)).set_index(["label", "budget"])["rank"]
    assert found["good", 1] == 1 and found["bad", 1] == 2
    assert "late" not in found.index.get_level_values("label") and found["bad", 2] == 2
