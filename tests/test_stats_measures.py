"""Measures over folders made here, where it is known who wins; the importer, replicability."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import measures, metrics, replicability
from bench.inference import ALIKE, OPEN
from bench.panel import panel
from bench.reading import load_folder
from nearopt import replicability as command
from nearopt.importer import BORROWED, import_traces


def published(methods, tasks=4, seeds=12, evaluations=32, rng=None):
    """Traces as others publish them: method i's losses are the best of i + 1 draws from a law of the task."""
    rng = rng or np.random.default_rng(0)
    rows = []
    for t in range(tasks):
        for name, strength in methods.items():
            for seed in range(seeds):
                loss = t + rng.random((evaluations, strength)).min(1)
                rows += [(f"task{t}/v1", seed, name, e + 1, v) for e, v in enumerate(loss)]
    return pd.DataFrame(rows, columns=["task", "seed", "method", "evaluation", "loss"])


def known(tasks=4):
    """The law's optimum and random losses of each task."""
    return {f"task{t}/v1": (float(t), t + (np.arange(20000) + 0.5) / 20000) for t in range(tasks)}


def shown(folder):
    results = load_folder(folder)
    scored, _, warnings = metrics.evaluate(results)
    assert not warnings
    names = [sorted({getattr(c, kind) for c in results.cells}) for kind in ("objective", "label")]
    return panel(scored, *names)


@pytest.mark.parametrize("strategies", [2, 3, pytest.param(10, marks=pytest.mark.slow)])
def test_every_measure_points_at_the_known_winner(tmp_path, strategies):
    methods = {f"m{i}": {2: 16, 3: 4, 10: 2}[strategies] ** i for i in range(strategies)}
    panel = shown(import_traces(published(methods, 3), tmp_path / "x", references=known()))
    best, worst, at = f"m{strategies - 1}", "m0", "budget == 32"
    last = measures.leaders(panel).query(at)
    assert len(last) == 3 and (strategies > 3 or (last["first"] == best).all())
    assert (last["difference"] <= 0).all()
    general = measures.general_leaders(panel).query(at).iloc[0]
    assert general["first"] == best and general["families"] == 3
    ranks = measures.rank_over_budget(panel).query(at).set_index("label")["rank"]
    assert ranks.idxmin() == best and ranks.idxmax() == worst
    named, wins = measures.wins(panel)
    order = named.index(best), named.index(worst)
    assert wins.value[order] > 0.85 and wins.low[order] > 0.5 and wins.value[order[::-1]] < 0.15
    labels, test = measures.rank_test(panel)
    assert labels[int(test.ranks.argmin())] == best and test.objectives == 3
    middle = measures.middle_halves(panel).set_index("label")["iqm"]
    assert middle.idxmin() == best and middle.idxmax() == worst
    shares = measures.runtime_distribution(panel).groupby("label")["share"].mean()
    assert shares.idxmax() == best and shares.idxmin() == worst
    times = measures.times(panel).query("target == 'p=0.01'").groupby("label")
    assert times["ert"].mean().idxmin() == best and times["restricted_mean"].mean().idxmin() == best
    efficiency = measures.efficiency(measures.factors(panel, worst), panel)
    factors = efficiency.query("objective == 'all'").set_index("label")["factor"]
    assert factors[best] < 0.6 and (strategies > 3 or factors.idxmin() == best)
    against = measures.against_leaders(panel).query("objective == @panel.objectives[0]").set_index("label")
    assert against.loc[worst, "answer"] == "worse" and against.loc[worst, "time_difference"] > 0


def test_absolute_measures_do_not_depend_on_who_takes_part(tmp_path):
    frame = published({"good": 8, "random": 1, "other": 3})
    whole = shown(import_traces(frame, tmp_path / "a", references=known()))
    fewer = shown(import_traces(frame[frame["method"] != "other"], tmp_path / "b", references=known()))
    for measure in (measures.times, measures.middle_halves, measures.tuned_too_far,
                    measures.runtime_distribution, measures.gaps_over_budget):  # fmt: skip
        one, two = measure(whole), measure(fewer)
        pd.testing.assert_frame_equal(one[one["label"] != "other"].reset_index(drop=True), two)


def test_imported_traces_by_hand(tmp_path):
    """Three evaluations; the second of seed 1 is left out, as where only improvements are published."""
    rows = [("t", 0, "a", 1, 5.0), ("t", 0, "a", 2, 3.0), ("t", 0, "a", 3, 4.0), ("t", 1, "a", 1, 6.0),
            ("t", 1, "a", 3, 1.0)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["task", "seed", "method", "evaluation", "loss"])
    panel = shown(import_traces(frame, tmp_path / "x", references={"t": (0.0, [0, 5, 10])}, budgets=[2, 3]))
    s = panel.cells["t", "a"].scores[3.0]
    assert s.true.tolist() == [[5, 3, 3], [6, 6, 1]] and s.runs.spent.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert panel.cells["t", "a"].scores[2.0].regret.tolist() == [3, 6]
    turned = frame.assign(loss=-frame["loss"])
    up = {"t": (0.0, [0, -5, -10])}  # references turn with the losses
    again = shown(import_traces(turned, tmp_path / "y", maximize=True, references=up))
    assert again.cells["t", "a"].scores[3.0].gap_left(np.array([[2.5], [5.0]])).tolist() == [[0.5], [1.0]]
    assert again.cells["t", "a"].scores[3.0].true.tolist() == s.true.tolist()
    borrowed = import_traces(frame, tmp_path / "z")
    assert json.loads((borrowed / "t" / "a" / "cell.json").read_text())["fair_note"] == BORROWED
    assert load_folder(borrowed).references["t"]["optimum_static"].tolist() == [1.0]


def test_imports_that_cannot_be_read_say_why(tmp_path):
    frame = published({"a": 1}, tasks=1, seeds=2, evaluations=3)
    for bad, words in (
        (frame.drop(columns="loss"), "loss is not there"),
        (pd.concat([frame, frame[:1]]), "there twice"),
        (frame.assign(evaluation=frame["evaluation"] + 0.5), "whole numbers"),
        (frame[:-1], "end after 2 to 3"),
        (frame.assign(evaluation="last"), "evaluation must be numbers"),
        (frame.assign(loss="low"), "loss must be numbers"),
        (frame.assign(method=[None, *frame["method"][1:]]), "row 0 has no method"),
        (frame.assign(seed=[*frame["seed"][:-1].astype(float), np.nan]), "row 5 has no seed"),
        (frame.assign(cost=[np.nan, 1, 1, 1, 1, 1]), "cost must be"),
        (
            pd.concat([frame, frame.assign(method="b", evaluation=frame["evaluation"] - 1)]),
            "b counts .* from 0",
        ),
        (frame.assign(loss=np.nan), "no loss of task0/v1 is finite"),
        (pd.concat([frame, frame.assign(method="a/"), frame.assign(method="a_")]), "two methods differ"),
    ):
        with pytest.raises(ValueError, match=words):
            import_traces(bad, tmp_path / "x")
    for more, words in (
        ({"budgets": [2, 4]}, "budget of 4"),
        ({"references": {"task7": (0.0, [1.0])}}, "no such task"),
        ({"references": {"task0/v1": (0.0, [])}}, "need a finite optimum"),
        ({"references": {"task0/v1": (0.9, [0.8, 0.5])}}, "optimum is worse than the median"),
        ({"maximize": True, "references": {"task0/v1": (0.0, [0.8, 0.5])}}, "turn their sign with the loss"),
    ):
        with pytest.raises(ValueError, match=words):
            import_traces(frame, tmp_path / "x", **more)
    assert not (tmp_path / "x").exists()  # nothing half written
    import_traces(frame, tmp_path / "x")
    with pytest.raises(ValueError, match="not empty"):
        import_traces(frame, tmp_path / "x")


def test_seeds_and_tasks_may_have_any_names(tmp_path):
    frame = published({"a": 1, "b": 2}, tasks=2, seeds=3, evaluations=4)
    plain = shown(import_traces(frame, tmp_path / "plain", references=known()))
    named = frame.assign(
        seed=frame["seed"].map("run {}".format),
        method=pd.Categorical(frame["method"], ["b", "a", "unused"]),
        task=frame["task"].astype("category"),
    )
    other = shown(import_traces(named, tmp_path / "named", references=known()))
    pd.testing.assert_frame_equal(measures.gaps_over_budget(plain), measures.gaps_over_budget(other))
    tenths = import_traces(frame.assign(seed=frame["seed"] / 10), tmp_path / "tenths", references=known())
    assert [len(c.scores[4.0].runs.seeds) for c in shown(tenths).cells.values()] == [3] * 4
    one = frame[frame["task"] == "task0/v1"].assign(task=7)
    numbered = shown(import_traces(one, tmp_path / "number", references={7: (0.0, [0, 1, 2])}))
    assert numbered.cells["7", "a"].scores[4.0].median.tolist() == [1.0] * 3


def test_from_one_objective_one_strategy_one_seed(tmp_path):
    one = shown(import_traces(published({"a": 2}, 1, 1), tmp_path / "x", references=known()))
    assert (measures.leaders(one)["answer"] == OPEN).all()
    assert "nothing to compare" in measures.leaders(one)["reason"].iloc[0]
    assert len(measures.rank_over_budget(one)) == 0 and measures.rank_test(one)[1].reason
    two = shown(import_traces(published({"a": 2, "b": 1}, 1, 1), tmp_path / "y", references=known()))
    assert "one run a side" in measures.leaders(two)["reason"].iloc[-1]
    assert "one family" in measures.general_leaders(two)["reason"].iloc[-1]
    assert np.isnan(measures.against_leaders(two)["p"]).all()
    assert measures.variance(two)["reason"].str.len().gt(0).any()


def test_practically_equal_is_an_answer(tmp_path):
    frame = published({"a": 64, "b": 65}, seeds=64)
    panel = shown(import_traces(frame, tmp_path / "x", references=known()))
    last = measures.leaders(panel).groupby("objective").last()
    assert (last["answer"] == ALIKE).all() and (last["high"] < 0.01).all()


def test_a_plan_counts_from_its_budget_on_only(tmp_path):
    folder = import_traces(
        published({"a": 1, "b": 4}, 1), tmp_path / "x", references=known(), budgets=[8, 32]
    )
    cell = folder / "task0_v1" / "b" / "cell.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"anytime": False, "budgets": [32]}))
    panel = shown(folder)
    found = {b: set(panel.at("task0_v1", i)) for i, b in enumerate(panel.budgets)}
    assert found[8.0] == {"a"} and found[32.0] == {"a", "b"}


def test_variance_is_where_it_was_put(tmp_path):
    # Strategies that differ much, tasks alike: the share of the strategy is far above the objective's.
    panel = shown(import_traces(published({"a": 1, "b": 30}, 6, 20, 4), tmp_path / "x", references=known(6)))
    share = measures.variance(panel).set_index("term")["share"]
    assert share["strategy"] > 0.4 > 10 * share["objective"]


def test_wrong_winners_against_a_law():
    # Two strategies, tasks alike, differences normal with mean .3 and sd 1 a seed: one task of n seeds names
    # the wrong one in P(N < -.3 sqrt(n)); a task is hardly drawn twice.
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1 / np.sqrt(2), (2, 200, 400))
    values[1] += 0.3
    found = replicability.wrong_winners(values, seeds=(5,), tasks=(2,), draws=2000).iloc[0]
    from scipy.special import ndtr

    law = ndtr(-0.3 * np.sqrt(10))
    assert abs(found["wrong"] - law) < 4 * np.sqrt(law * (1 - law) / 2000) + 0.02
    assert found["declared_wrong"] <= found["declared"] and found["loss"] == pytest.approx(
        0.3 * law, abs=0.03
    )
    assert found["swapped"] == found["wrong"]  # of two, that is the same
    assert not len(replicability.wrong_winners(values, seeds=(5000,)))
    # Drawn with replacement: as many as there are may be wrong too.
    assert replicability.wrong_winners(values[:, :5, :5], seeds=(5,), tasks=(5,))["wrong"].iloc[0] > 0


def test_replicability_writes_what_it_says(tmp_path):
    import_traces(published({"a": 1, "b": 4}, 5, 12), tmp_path / "x", references=known(5))
    assert "b has the smallest mean gap left" in command.write(tmp_path / "x")
    table = pd.read_csv(tmp_path / "x" / "replicability.csv")
    assert set(zip(table["tasks"], table["seeds"], strict=True)) == {(5, 5), (5, 10)}
    assert (table["wrong"] < 0.05).all() and "| 5 | 10 |" in (tmp_path / "x" / "replicability.md").read_text()


def flat(losses, evaluations=8, seeds=12):
    """Traces that stay at a level: losses[task, method] a number, or one a seed."""
    rows = [
        (task, seed, method, e + 1, loss)
        for (task, method), of in losses.items()
        for seed, loss in (of if isinstance(of, dict) else {s: of + 0.001 * s for s in range(seeds)}).items()
        for e in range(evaluations)
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "method", "evaluation", "loss"])


UNIT = {f"t{i}": (0.0, (np.arange(2000) + 0.5) / 2000) for i in range(9)}


def test_who_leads_in_general_must_beat_whoever_varies_most(tmp_path):
    rng = np.random.default_rng(0)
    losses = {}
    for t in range(8):
        a, b, c = rng.normal([0.1, 0.2, 0.21], 0.005)
        losses |= {(f"t{t}", "a"): a, (f"t{t}", "b"): b, (f"t{t}", "c"): c, (f"t{t}", "d"): 0.45 * (t % 2)}
    panel = shown(import_traces(flat(losses), tmp_path / "x", references=UNIT))
    row = measures.general_leaders(panel).query("budget == 8").iloc[0]
    assert row["first"] == "a" and row["second"] == "b" and row["high"] < 0  # sure of the next one
    assert row["p"] > 0.05 and row["answer"] == OPEN  # not of d, which wins on every second


def test_who_leads_and_by_how_much_are_said_of_the_same_runs(tmp_path):
    a = {s: 0.05 if s < 3 else 0.31 for s in range(12)}
    b = {s: 0.29 + 0.001 * (s % 2) for s in range(3, 15)}
    frame = flat({("t0", "a"): a, ("t0", "b"): b})
    panel = shown(import_traces(frame, tmp_path / "x", references=UNIT))
    row = measures.leaders(panel).iloc[-1]
    assert (row["first"], row["runs"], row["p"] <= 0.05) == ("b", 9, True) and row["high"] <= 0
    assert row["difference"] == pytest.approx(row["gap_first"] - row["gap_second"])
    pair = measures.against_leaders(panel).query("objective == 't0'").set_index("label").loc["a"]
    assert pair["against"] == "b" and pair["difference"] > 0 and pair["runs"] == 9
    assert pair["gap_left"] < 0.5  # its own, of all its runs


def test_strategies_are_compared_at_a_budget_that_all_have(tmp_path):
    late = {s: 0.3 for s in range(12)}
    frame = flat({("t0", "a"): late, ("t0", "random"): 0.4, ("t1", "a"): 0.1, ("t1", "random"): 0.4})
    longer = frame[frame["task"] == "t0"][lambda f: f["method"] == "a"].copy()
    longer = longer.assign(evaluation=longer["evaluation"] + 8, loss=0.001)
    panel = shown(import_traces(pd.concat([frame, longer]), tmp_path / "x", references=UNIT))
    pair = measures.against_leaders(panel).query("objective == 't0'").set_index("label").loc["random"]
    assert pair["budget"] == 8 and pair["difference"] == pytest.approx(0.2, abs=0.02)
    assert measures.wins(panel)[1].objectives.max() == 2
    runtime = measures.runtime_distribution(panel).groupby("label")["budget"].max()
    assert runtime.to_dict() == pytest.approx({"a": 16, "random": 8})  # no line beyond what was run
    general = measures.general_leaders(panel).set_index("budget")
    assert general.loc[16, "absent"] == "t1" and general.loc[16, "objectives"] == 1
    assert general.loc[8, "absent"] == "" and general.loc[8, "families"] == 2
    last = measures.leaders(panel).query("budget == 16").iloc[0]
    assert last["left_out"] == "random" and last["strategies"] == 1


def test_a_strategy_without_results_is_named_not_counted(tmp_path):
    losses = {("t0", "gp"): np.nan, ("t0", "random"): 0.4, ("t1", "gp"): 0.2, ("t1", "random"): 0.4}
    panel = shown(import_traces(flat(losses), tmp_path / "x", references=UNIT))
    factors = measures.efficiency(measures.factors(panel, "random"), panel).set_index("objective")
    assert np.isnan(factors.loc["t0", "factor"]) and "no result" in factors.loc["t0", "reason"]
    assert factors.loc["all", "factor"] == 1 and "without t0" in factors.loc["all", "reason"]
    assert factors.loc["t0", "behind"] == 1 and factors.loc["t1", "behind"] == 0
    assert factors.loc["all", ["behind", "objectives"]].tolist() == [1, 2]


def test_an_anytime_run_of_several_workers_has_all_that_a_budget_pays_for(tmp_path):
    """Eight workers: when the first result comes in all eight trainings are charged, yet of a budget of
    eight all eight come in."""
    root = import_traces(published({"a": 1}, 1, 4, 16), tmp_path / "x", budgets=[8, 16], references=known())
    block = next(root.glob("*/a/trace/16/*.parquet"))
    trace = pd.read_parquet(block)
    trace["worker"] = trace["job"] % 8
    trace["started"], trace["finished"] = trace["job"] // 8 * 1.0, trace["job"] // 8 + 1.0
    trace.to_parquet(block, index=False)
    panel = shown(root)
    item = panel.cells[panel.objectives[0], "a"]
    best = trace[trace["job"] < 8].groupby("seed")["loss"].min()
    assert item.scores[8.0].true[:, -1] == pytest.approx(best)
    for budget in (4.0, 8.0, 12.0, 16.0):
        if budget not in panel.budgets:
            continue
        of = panel.ends[panel.objectives[0], "a"][int(np.searchsorted(panel.budgets, budget))].gap
        best = trace[trace["job"] < budget].groupby("seed")["loss"].min().to_numpy()
        assert of == pytest.approx(item.scores[16.0].gap_left(best))


def test_the_gap_is_a_number_where_half_of_random_is_optimal(tmp_path):
    frame = flat({("t0", "a"): 0.0, ("t0", "b"): 1.0}, seeds=1)
    panel = shown(import_traces(frame, tmp_path / "x", references={"t0": (0.0, [0, 0, 0, 1.0])}))
    assert [panel.ends["t0", v][-1].gap.tolist() for v in "ab"] == [[0.0], [1.0]]
