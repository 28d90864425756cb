"""Scores against what can be said without them: laws, scipy, and cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench import metrics, stats
from bench.protocols import LEVELS
from bench.reading import COLUMNS

L = np.array(LEVELS)


def trace(rows, seed=0, instance=1000):
    """A trace from rows (start, until, loss, true_loss, started, finished), in job order."""
    table = pd.DataFrame(rows, columns=["start", "until", "loss", "true_loss", "started", "finished"])
    table["seed"], table["instance"], table["job"] = seed, instance, np.arange(len(table))
    table["recommended_true_loss"], table["worker"], table["status"] = np.nan, 0, "finished"
    return {name: table[name].to_numpy() for name in COLUMNS}


def goals(optimum, power, instances=(1000,), scale="linear", size=10.0):
    """Targets where random configurations' true loss is optimum + size u^power, u uniform."""
    rows = [{"instance": i, "optimum_static": optimum, "optimum_dynamic": np.nan,
             **{f"q_{k}": optimum + size * level**power for k, level in enumerate(LEVELS)}}
            for i in instances]  # fmt: skip
    return metrics.targets(pd.DataFrame(rows), scale)


# Targets


@pytest.mark.parametrize("power", [0.5, 0.7])
def test_target_and_its_p_follow_a_known_law(power):
    value, p = metrics.target(-3.0, -3.0 + 10 * L**power, "linear")
    assert value == pytest.approx(-3 + 0.05 * 10 * 0.5**power, rel=1e-9)
    assert p == pytest.approx(0.5 * 0.05 ** (1 / power), rel=0.01)


def test_target_is_the_best_2_percent_where_more_are_that_good():
    value, p = metrics.target(0.0, 10 * L**2.0, "linear")  # 5 % of the gap: p = .11
    assert value == pytest.approx(10 * 0.02**2, rel=0.02) and p == 0.02


def test_target_on_a_log_scale():
    value, p = metrics.target(1e-4, 1e-4 * 10 ** (6 * L**0.5), "log")
    assert np.log10(value) == pytest.approx(-4 + 0.05 * 6 * 0.5**0.5, rel=1e-9)
    assert p == pytest.approx(0.5 * 0.05**2, rel=0.02)
    assert metrics.target(-1.0, -1 + 10 * L**0.5, "log")[1] == 0.02  # no logarithm: the best 2 %
    with pytest.raises(ValueError, match="scale must be linear or log, got 'root'"):
        metrics.target(0.0, L, "root")


def test_target_where_half_of_random_diverge():
    value, p = metrics.target(0.0, np.where(L <= 0.4, 10 * L, np.inf), "linear")
    assert value == pytest.approx(0.2, rel=0.02) and p == 0.02


def test_target_below_the_table_has_the_first_level_as_bound():
    assert metrics.target(0.0, 10 + L, "linear") == (pytest.approx(0.05 * 10.5), 1e-4)


def test_tied_losses_have_the_share_that_really_reaches_them():
    quantiles = np.where(L <= 0.3, 1.0, 2.0)
    value, p = metrics.target(1.0, quantiles, "linear")
    assert value == 1.0 and p == pytest.approx(0.3)


# Incumbents and what is reached


def test_incumbents_by_hand():
    loss = np.array([[np.inf, 5.0, 7.0, 4.0, 4.0, np.nan]])
    until = np.array([[9, 1, 3, 1, 1, 9]])
    assert metrics.incumbents(loss, until, "training").tolist() == [[-1, 1, 1, 3, 3, 3]]
    assert metrics.incumbents(loss, until, "proxy").tolist() == [[-1, 1, 2, 2, 2, 2]]
    with pytest.raises(ValueError, match="fidelity"):
        metrics.incumbents(loss, until, "both")


@pytest.mark.parametrize("fidelity", ["training", "proxy"])
def test_incumbents_against_a_loop(fidelity):
    rng = np.random.default_rng(1)
    loss = np.where(rng.random((40, 30)) < 0.2, np.nan, rng.integers(0, 9, (40, 30)).astype(float))
    until = rng.choice([1, 3, 9], (40, 30))
    got = metrics.incumbents(loss, until, fidelity)
    for r in range(40):
        for k in range(30):
            seen = [j for j in range(k + 1) if np.isfinite(loss[r, j])]
            if fidelity == "proxy" and seen:
                top = max(until[r, j] for j in seen)
                seen = [j for j in seen if until[r, j] == top]
            assert got[r, k] == (min(seen, key=lambda j: (loss[r, j], j)) if seen else -1)


def test_a_lucky_value_is_no_arrival():
    rows = [(0, 1, 5.0, 0.1, 0, 1), (0, 1, 4.0, 9.0, 1, 2), (0, 1, 3.0, 0.2, 2, 3), (0, 1, 6.0, 0.0, 3, 4)]
    runs = metrics.runs_of(trace(rows))
    scored = metrics.score(runs, goals(0.0, 0.5), "training", 1)  # near-optimal: at most .354
    assert scored.reached[0].tolist() == [3.0] and scored.regret.tolist() == [0.2]
    assert (
        metrics.score(metrics.runs_of(trace(rows[:2])), goals(0.0, 0.5), "training", 1).reached[0] == np.inf
    )


def test_cut_is_in_job_order_and_the_first_job_that_does_not_fit_ends_it():
    rows = [(0, 3, 5.0, 5.0, 0, 9), (0, 9, 4.0, 4.0, 0, 5), (3, 9, 3.0, 3.0, 9, 10), (0, 1, 2.0, 2.0, 5, 6)]
    runs = metrics.runs_of(trace(rows), epochs=17)
    assert runs.count.tolist() == [2] and runs.total.tolist() == [
        12
    ]  # the last would fit, but is asked later
    assert runs.loss[0, :2].tolist() == [4.0, 5.0]  # by finish
    nothing = metrics.runs_of(trace(rows), epochs=2)
    scored = metrics.score(nothing, goals(0.0, 0.5), "training", 9)
    assert nothing.count.tolist() == [0] and np.isinf(scored.reached).all() and np.isinf(scored.regret).all()


def test_spent_with_two_workers_includes_what_is_running():
    rows = [(0, 9, 5.0, 5.0, 0.0, 9.0), (0, 3, 4.0, 4.0, 0.0, 3.0), (0, 3, 3.0, 3.0, 3.0, 6.0)]
    columns = trace(rows)
    columns["worker"] = np.array([0, 1, 1])
    runs = metrics.runs_of(columns)
    assert runs.loss[0].tolist() == [4.0, 3.0, 5.0] and runs.spent[0].tolist() == [12, 15, 15]
    alone = metrics.runs_of(trace([(0, 9, 5.0, 5.0, 0, 9), (0, 3, 4.0, 4.0, 9, 12)]))
    assert alone.spent[0].tolist() == [9, 12]


def test_spent_counts_by_start_where_a_later_job_starts_first():
    # Job 1's strategy thinks until 5; job 2, a lost one's next try, starts at 1.
    columns = trace([(0, 3, 5.0, 5.0, 0.0, 10.0), (0, 4, 4.0, 4.0, 5.0, 6.0), (0, 2, 3.0, 3.0, 1.0, 3.0)])
    columns["worker"] = np.array([0, 1, 2])
    assert metrics.runs_of(columns).spent[0].tolist() == [5, 9, 9]


def test_what_did_not_finish_is_never_the_incumbent():
    columns = trace([(0, 1, 1.0, 1.0, 0, 1), (0, 1, np.nan, np.nan, 1, 2), (0, 1, 2.0, 2.0, 2, 3)])
    columns["status"] = np.array(["raised", "finished", "finished"], object)
    runs = metrics.runs_of(columns)
    assert runs.failed.tolist() == [True]
    columns["status"] = np.array(["given up", "finished", "lost"], object)  # the cluster's doing
    assert metrics.runs_of(columns).failed.tolist() == [False]
    assert metrics.score(runs, goals(0.0, 0.5), "training", 1).true[0].tolist() == [np.inf, np.inf, 2.0]


def test_random_search_follows_the_geometric_law():
    # 4,000 runs of 400 draws, seed 0: the share that reached p within k trials is 1-(1-p)^k, within 4 sigma.
    rng, runs, n = np.random.default_rng(0), 4000, 400
    table = goals(0.0, 0.5)
    p = 0.5 * 0.05**2
    true = 10 * rng.random((runs, n)) ** 0.5
    best = np.minimum.accumulate(true, 1)
    spent = np.tile(np.arange(1, n + 1), (runs, 1))
    time = metrics.reached_after(best, np.full(runs, table[metrics.NEAR].iloc[0]), spent, np.full(runs, n))
    for k in (50, 200, 400):
        law = 1 - (1 - p) ** k
        assert abs((time <= k).mean() - law) < 4 * np.sqrt(law * (1 - law) / runs)
    event = np.isfinite(time)
    mean = stats.restricted_mean(np.where(event, time, n), event, n)
    law = (1 - (1 - p) ** n) / p
    assert mean == pytest.approx(law, abs=4 * np.minimum(time, n).std() / np.sqrt(runs))


def test_overtuning_by_hand():
    # Schneider, Bischl and Feurer 2025: validation 5, 4, 3, 2 choose tests 5, 3, 4, 6.
    absolute, relative = metrics.overtuning(np.array([[5.0, 3, 4, 6], [np.inf, 2, 2, 1]]))
    assert absolute[0].tolist() == [0, 0, 1, 3] and relative[0, 1:].tolist() == [0, 0.5, 1.5]
    assert np.isnan(relative[0, 0])  # no gain yet
    assert np.isnan(absolute[1, 0]) and absolute[1, 1:].tolist() == [0, 0, 0]


def test_gap_left_by_hand():
    rows = [(0, 1, 5.0, 9.0, 0, 1), (0, 1, 4.0, 3.0, 1, 2), (0, 1, 3.0, -5.0, 2, 3)]
    s = metrics.score(metrics.runs_of(trace(rows)), goals(1.0, 1.0, size=8.0), "training", 1)
    assert s.told[0].tolist() == [5, 4, 3] and s.median[0] == pytest.approx(5.0)
    # 0 at the optimum 1, 1 at the median 5; worse is 1, far below -1.
    assert s.gap_left(s.true)[0] == pytest.approx([1, 0.5, -1])
    assert s.gap_left(np.array([np.inf])) == 1 and s.gap_left(np.array([np.nan])) == 1
    log = metrics.score(metrics.runs_of(trace(rows)), goals(1.0, 1.0, size=8.0), "training", 1, "log")
    assert log.gap_left(np.array([[1.0, np.sqrt(5.0), 5.0]]))[0] == pytest.approx([0, 0.5, 1])


def test_steps_of_all_runs_are_those_of_each():
    rng = np.random.default_rng(7)
    rows = []
    for seed in range(5):  # runs of different lengths, one without a job that fits
        ends = np.cumsum(rng.integers(1, 4, seed * 3 + 1))
        rows += [
            (seed, 0, int(n), rng.random(), rng.random(), i, i + 1) for i, n in enumerate(np.diff([0, *ends]))
        ]
    rows.append((5, 0, 50, 0.5, 0.5, 0, 1))
    table = pd.DataFrame(rows, columns=["seed", "start", "until", "loss", "true_loss", "started", "finished"])
    table["job"] = table.groupby("seed").cumcount()
    told = table[["start", "until", "loss", "true_loss", "started", "finished"]]
    columns = {**trace(told.to_numpy().tolist()),
               "seed": table["seed"].to_numpy(), "job": table["job"].to_numpy()}  # fmt: skip
    s = metrics.score(metrics.runs_of(columns, epochs=20), goals(0.0, 0.5), "training", 3)
    grid = np.array([0.1, 0.34, 1.0, 2.0, 5.0, 50.0])
    got = metrics.step_values(s, s.true, grid, 3, 9.0)
    for i, n in enumerate(s.runs.count):
        for j, budget in enumerate(grid):
            seen = [k for k in range(n) if s.runs.spent[i, k] <= np.floor(budget * 3 + 1e-9)]
            assert got[i, j] == (s.true[i, seen[-1]] if seen else 9.0)


# Statistics


def censored(rng, n):
    life, cut = np.round(rng.exponential(10, n)) + 1, np.round(rng.exponential(15, n)) + 1
    return np.minimum(life, cut), life <= cut


def test_kaplan_meier_is_scipys():
    time, event = censored(np.random.default_rng(2), 60)
    data = scipy_stats.CensoredData.right_censored(time, ~event)
    theirs = scipy_stats.ecdf(data).sf
    with pytest.warns(RuntimeWarning, match="undefined"):  # where nobody is left
        band = theirs.confidence_interval(method="log-log")
    ours = stats.kaplan_meier(time, event)
    at = np.searchsorted(theirs.quantiles, ours.time)
    assert ours.survival == pytest.approx(theirs.probabilities[at], abs=1e-12)
    inside = (ours.survival > 0) & (ours.survival < 1)
    assert ours.low[inside] == pytest.approx(band.low.probabilities[at][inside], abs=1e-9)
    assert ours.high[inside] == pytest.approx(band.high.probabilities[at][inside], abs=1e-9)


def test_restricted_mean_without_censoring_is_a_mean():
    time = np.array([1.0, 4.0, 4.0, 9.0, 20.0])
    assert stats.restricted_mean(time, np.ones(5, bool), 10.0) == pytest.approx(np.minimum(time, 10).mean())
    never = np.full(7, 64.0)
    assert stats.restricted_mean(never, np.zeros(7, bool), 64.0) == 64.0


def test_median_interval_covers():
    # 1,500 samples of 20 lifetimes cut at 12, seed 3: exact intervals cover at least 95 %, less 4 sigma.
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1500):
        life = rng.exponential(10, 20)
        _, low, high = stats.median_lifetime(np.minimum(life, 12), life <= 12)
        hits += low <= 10 * np.log(2) <= high
    assert hits / 1500 > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 1500)


def test_median_lifetime_of_few_and_of_never():
    assert stats.median_lifetime([3.0], [True]) == (3.0, 0.0, np.inf)
    assert stats.median_lifetime(np.full(64, 64.0), np.zeros(64, bool)) == (np.inf, np.inf, np.inf)
    assert stats.median_lifetime(np.ones(64), np.ones(64, bool)) == (1.0, 1.0, 1.0)


def test_proportions_are_scipys():
    for k, n in [(0, 8), (3, 8), (8, 8), (31, 64)]:
        test = scipy_stats.binomtest(k, n)
        for ours, method in [(stats.clopper_pearson(k, n), "exact"), (stats.wilson(k, n), "wilson")]:
            theirs = test.proportion_ci(method=method)
            assert (float(ours[0]), float(ours[1])) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_bootstrap_mean_is_the_normal_interval_of_many():
    values = np.random.default_rng(4).normal(3, 2, 400)
    mean, low, high = stats.bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(mean - half, abs=0.03), pytest.approx(mean + half, abs=0.03))
    assert stats.bootstrap_mean(values) == (mean, low, high)
    assert stats.bootstrap_mean([1.0, np.inf, 2.0])[0] == np.inf
    assert np.isnan(stats.bootstrap_mean([])[0]) and np.isnan(stats.bootstrap_mean([1.0])[1])


def test_budget_needed_by_hand():
    budgets = [8, 16, 32]
    lasting = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 0]])
    assert stats.budget_needed(lasting, budgets)[0] == 32  # half at 8, but not at 16
    assert stats.budget_needed(np.array([[0, 1, 1], [0, 0, 1]]), budgets)[0] == 16  # half is enough
    assert stats.budget_needed(np.zeros((8, 3)), budgets) == (np.inf, np.inf, np.inf)
    # None of five: a share of one half is not excluded.
    assert stats.budget_needed(np.zeros((5, 3)), budgets) == (np.inf, 8.0, np.inf)
    value, low, high = stats.budget_needed(np.ones((1, 3)), budgets)
    assert value == 8 and np.isnan(low) and np.isnan(high)
    mixed = np.repeat([[0, 1, 1], [0, 0, 1]], [11, 10], axis=0)
    assert stats.budget_needed(mixed, budgets) == (16, 16, 32)
    assert stats.budget_needed(np.array([[np.nan, 1.0], [np.nan, 1.0]]), [8, 16])[0] == 16


def test_median_interval_has_exact_ranks():
    values = np.arange(1.0, 65.0)[:, None]
    middle, low, high = stats.median_interval(values)
    rank = int(scipy_stats.binom.ppf(0.025, 64, 0.5))
    assert (middle[0], low[0], high[0]) == (32.5, rank, 65 - rank)
    assert np.isnan(stats.median_interval(values[:5])[1]).all()
    assert stats.median_interval(np.full((8, 1), np.inf))[0][0] == np.inf


def test_a_cut_run_recommends_only_what_it_knew():
    """Two workers: job 1 runs long, and job 2, beyond the cut, is told before it."""
    rows = [(0, 3, 5.0, 5.0, 0, 3), (0, 9, 4.0, 4.0, 0, 9), (0, 3, 3.0, 3.0, 3, 6)]
    told = {**trace(rows), "recommended_true_loss": np.array([5.0, 3.0, 3.0])}
    assert metrics.runs_of(told).recommended.tolist() == [3.0]
    assert metrics.runs_of(told, epochs=12).recommended.tolist() == [5.0]
    assert np.isnan(metrics.runs_of(told, epochs=2).recommended).all()


def test_the_beginning_of_runs_is_the_cut_of_their_trace():
    rng = np.random.default_rng(4)
    parts = []
    for seed, n in enumerate((7, 4, 7)):
        until = rng.integers(1, 5, n)
        ends = np.cumsum(until)
        rows = [(0, u, rng.random(), rng.random(), e - u, e) for u, e in zip(until, ends, strict=True)]
        parts.append({**trace(rows, seed, 1000 + seed), "recommended_true_loss": rng.random(n)})
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    whole["loss"][3] = np.nan
    runs = metrics.runs_of(whole)
    for epochs in (0, 3, 8, 11, 40):
        cut, begun = metrics.runs_of(whole, epochs), metrics.beginning(runs, whole, epochs)
        assert begun is not None
        for name in metrics.Runs._fields:
            np.testing.assert_array_equal(getattr(begun, name), getattr(cut, name), err_msg=name)
    two = trace([(0, 3, 5.0, 5.0, 0.0, 10.0), (0, 4, 4.0, 4.0, 5.0, 6.0)])  # the second comes in first
    assert metrics.beginning(metrics.runs_of(two), two, 3) is None


def test_targets_are_those_of_an_instance_whatever_the_references_order():
    rows = [{"instance": i, "optimum_static": o, "optimum_dynamic": np.nan,
             **{f"q_{k}": o + level for k, level in enumerate(LEVELS)}}
            for i, o in ((1003, 3.0), (1001, 1.0), (1003, 9.0), (1002, 2.0))]  # fmt: skip
    goals = metrics.targets(pd.DataFrame(rows), "linear")
    assert goals["optimum"].to_dict() == {1001: 1.0, 1002: 2.0, 1003: 3.0}  # the first of two counts
    parts = [trace([(0, 1, 9.0, 9.0, 0.0, 1.0)], seed, instance) for seed, instance in ((0, 1003), (1, 1001))]
    runs = metrics.runs_of({name: np.concatenate([p[name] for p in parts]) for name in COLUMNS})
    assert metrics.score(runs, goals, "training", 1).optimum.tolist() == [3.0, 1.0]
    for unknown in (1000, 1004):
        with pytest.raises(KeyError, match=f"no targets for instance {unknown}"):
            metrics.score(runs._replace(instance=np.array([1001, unknown])), goals, "training", 1)
