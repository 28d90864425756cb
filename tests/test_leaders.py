"""The table of who leads, from traces where it is known in each cell who does, or that nobody does."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import leaders, measures, report, store
from bench.inference import Interval
from bench.page import leaders as shown
from bench.page.budget import SURE, rows_at
from bench.page.data import Page
from bench.page.html import render_html
from bench.page.measures import drawings
from bench.page.verdict import verdict
from bench.protocols import LEVELS
from bench.replicability import by_size
from nearopt import replicability
from nearopt.results import early_ranks

ROOT = Path(__file__).parent.parent
ONE, EIGHT = "1 worker", "8 workers"
RANKS = {f"curve{i}": 0.9 for i in range(5)} | {"curve4": 0.49, "formula0": 0.9}  # a formula has no curve
# Gap left of (fast, slow) at budgets 10 and 20, in each column; a number: both have it, but for chance.
TRUTH = {
    (leaders.WITH, ONE): [(0.3, 0.5), (0.3, 0.1)],
    (leaders.WITH, EIGHT): [0.6, (0.2, 0.4)],
    (leaders.WITHOUT, ONE): [(0.7, 0.5), 0.2],
    (leaders.WITHOUT, EIGHT): [(0.1, 0.2), (0.1, 0.2)],
}


def write(root, strategy, cluster, objective, gaps, seeds=16):
    """Runs whose best is near gaps[0] of the gap with 10 trainings and near gaps[1] with 20."""
    rng = np.random.default_rng(list(f"{strategy} {cluster} {objective}".encode()))
    epochs, workers = 9 if objective.startswith("curve") else 1, 8 if cluster == EIGHT else 1
    job = np.tile(np.arange(20), seeds)
    level = np.where(job < 10, 0.9, gaps[1])
    level[job == workers % 8] = gaps[0]
    start = job // workers * epochs * 1.0
    trace = pd.DataFrame({
        "seed": np.repeat(np.arange(seeds), 20), "instance": 1000 + np.repeat(np.arange(seeds), 20),
        "budget": 20.0, "job": job, "trial": job, "source": -1, "start": 0, "until": epochs,
        "true_loss": level + rng.normal(0, 0.02, len(job)), "recommended_true_loss": np.nan,
        "cost": float(epochs), "worker": job % workers, "started": start, "finished": start + epochs,
        "status": "finished",
    })  # fmt: skip
    label = strategy + (",workers=8" if workers == 8 else "")
    folder = root / objective / label
    store.write_block(folder, 20.0, trace.assign(loss=trace["true_loss"]), {})
    store.write_json(folder / "cell.json", {
        "status": "complete", "objective": objective, "label": label, "strategy": strategy, "anytime": True,
        "budgets": [10, 20], "max_epoch": epochs, "fidelity": "training", "scale": "linear",
        "settings": {"cluster": {"workers": workers}},
    })  # fmt: skip
    # The optimum is 0 and random configurations are uniform in (0, 2): the median one has 1.
    table = pd.DataFrame(
        {"instance": 1000 + np.arange(seeds), "optimum_static": 0.0, "optimum_dynamic": np.nan}
    )
    table = table.assign(**{f"q_{i}": 2 * level for i, level in enumerate(LEVELS)})
    table.attrs = {"how": "optimum: formula"}
    table.to_parquet(root / objective / "reference.parquet", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("leaders")
    for (curves, cluster), truth in TRUTH.items():
        mine = [f"curve{i}" for i in range(4)]
        mine = mine if curves == leaders.WITH else ["curve4", *(f"formula{i}" for i in range(4))]
        for place, objective in enumerate(mine):
            chance = 0.1 * (-1) ** place * (place < 4)
            for who, strategy in enumerate(("fast", "slow")):
                gaps = [p + chance * who if isinstance(p, float) else p[who] for p in truth]
                write(root, strategy, cluster, objective, gaps)
    write(root, "part", ONE, "formula0", (0.0, 0.0))
    return root


def table_of(root):
    page = Page(root, RANKS)
    return page.leaders, page


def test_each_cell_names_the_known_leader_or_nobody(folder):
    table, page = table_of(folder)
    text = shown.table(table)
    for (curves, cluster), truth in TRUTH.items():
        for budget, pair in zip((10.0, 20.0), truth, strict=True):
            mine = table[(table["curves"] == curves) & (table["cluster"] == cluster)]
            rows = mine[mine["budget"] == budget].set_index("strategy")
            if isinstance(pair, float):
                assert set(rows.loc[["fast", "slow"], "place"]) == {leaders.FIRST}
                continue
            first, second = ("fast", "slow") if pair[0] < pair[1] else ("slow", "fast")
            assert rows.loc[first, "place"] == leaders.LEADS and rows.loc[second, "place"] == leaders.BEHIND
            # The best of ten draws with sd .02 lies below their mean where all ten are near the level.
            assert rows.loc[second, "difference"] == pytest.approx(abs(pair[0] - pair[1]), abs=0.05)
            assert rows.loc[second, "low"] > 0 and rows.loc[first, "p_lead"] < 0.05
    assert (table.loc[table["strategy"] == "part", "place"] == leaders.LEFT_OUT).all()
    header, _, ten, twenty, _, sizes = text.splitlines()
    assert header == (
        "| trainings | informative curves, 1 worker | informative curves, 8 workers "
        "| no informative curves, 1 worker | no informative curves, 8 workers |"
    )
    assert [c.split(" by ")[0].strip() for c in ten.split("|")[1:-1]] == [
        "10", "**fast** leads", "no difference: fast, slow (all that are compared)", "**slow** leads",
        "**fast** leads",
    ]  # fmt: skip
    assert [c.split(" by ")[0].strip() for c in twenty.split("|")[1:-1]][:3] == [
        "20", "**slow** leads", "**fast** leads",
    ]  # fmt: skip
    assert "informative curves: 4 objectives of 4 families, 16 runs each" in sizes
    assert (
        "no informative curves: 5 objectives of 5 families" in sizes
        and "part with no informative curves (1 objective)" in sizes
    )
    html = shown.section(table, page.curves)
    assert html.count('class="sure"') == 6 and html.count("no difference: <") == 2
    assert "curve4 0.49" in html and "formulas without any: formula0, formula1, formula2 and formula3" in html


def test_slider_and_verdict_compare_within_one_cluster(folder):
    _, page = table_of(folder)
    rows = {r["objective"]: r for r in rows_at(page.measures.leaders, page.measures.general, 20.0)}
    assert len([r for r in rows.values() if r["whole"]]) == 2 and len(rows) == 2 + 9 * 2
    # With one worker slow ends at .1 and with eight fast does at .2: neither is the other's rival.
    assert (rows["curve0 (1 worker)"]["first"], rows["curve0 (1 worker)"]["sure"]) == ("slow", SURE)
    assert rows["curve0 (8 workers)"]["first"] == "fast,workers=8"
    assert rows["curve0 (8 workers)"]["second"] == "slow,workers=8"
    assert rows["curve0 (8 workers)"]["sure"] == SURE
    said = verdict(page)
    assert "over all objectives (1 worker)" in said[0] and "over all objectives (8 workers)" in said[0]
    for row in page.measures.leaders.to_dict("records"):
        assert {leaders.split_label(row[k])[1] for k in ("first", "second")} == {row["cluster"]}


def test_relative_measures_compare_within_one_cluster(folder):
    _, page = table_of(folder)
    found = page.measures
    of = leaders.split_label
    pairs = found.pairs
    assert all(of(r["label"])[1] == of(r["against"])[1] == r["cluster"] for r in pairs.to_dict("records"))
    answers = pairs[pairs["objective"] == "curve0"].set_index("label")["answer"]
    assert answers.to_dict() == {
        "fast": "worse", "slow": "leads", "fast,workers=8": "leads", "slow,workers=8": "worse",
    }  # fmt: skip
    ranks = found.ranks[found.ranks["budget"] == 20].set_index("label")["rank"]
    assert ranks.max() <= 2 and ranks["fast,workers=8"] < ranks["slow,workers=8"]
    labels, wins = found.wins
    assert labels == ["fast", "part", "slow", "fast,workers=8", "slow,workers=8"]
    apart = np.array([[of(a)[1] != of(b)[1] for b in labels] for a in labels])
    assert np.isnan(wins.value[apart]).all() and not wins.objectives[apart].any()
    assert wins.value[labels.index("fast,workers=8"), labels.index("slow,workers=8")] > 0.9
    assert {c: ranked for c, (ranked, _) in found.tests.items()} == {
        ONE: ["fast", "slow"], EIGHT: ["fast,workers=8", "slow,workers=8"],
    }  # fmt: skip
    factors = measures.factors(found.panel, "slow", draws=0)
    assert set(factors["label"]) == {"fast", "fast,workers=8", "part"}
    # With one worker on curve0 fast has .3 at once and slow .1 in the end; with eight fast leads all along.
    behind = factors[factors["objective"] == "curve0"].set_index("label")["behind"]
    assert behind.to_dict() == {"fast": True, "fast,workers=8": False}
    text = render_html(page, {})
    assert "Critical difference diagram: 8 workers" in text and "(8 workers)" in " ".join(verdict(page))


def test_who_needs_the_fewest_is_said_of_each_cluster(tmp_path):
    for cluster, quick in ((ONE, "fast"), (EIGHT, "slow")):
        for strategy in ("fast", "slow"):
            level = 0.0 if strategy == quick else 0.5
            write(tmp_path, strategy, cluster, "curve0", (level, level))
    page = Page(tmp_path)
    assert page.best["curve0", "within a run"] == {"fast", "slow,workers=8"}
    said = " ".join(verdict(page))
    assert "fast needs the fewest on curve0: within a run or to plan, its 95 % interval" in said
    assert "slow,workers=8 needs the fewest on curve0" in said and "others' (8 workers)." in said
    assert len(re.findall('class="best"', render_html(page, {}))) >= 2


def test_who_takes_part_does_not_change_the_others_scores(folder, tmp_path):
    before, _ = table_of(folder)
    for file in folder.rglob("*"):
        if file.is_file():
            (tmp_path / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_to(folder)).write_bytes(file.read_bytes())
    for objective in sorted({p.parent.name for p in folder.glob("*/fast")}):
        for cluster in (ONE, EIGHT):
            write(tmp_path, "strongest", cluster, objective, (0.0, 0.0))
    after, _ = table_of(tmp_path)
    absolute = ["curves", "cluster", "budget", "strategy", "gap_left", "gap_low", "gap_high", "runs"]
    kept = after[after["strategy"] != "strongest"]
    order = absolute[:4]
    pd.testing.assert_frame_equal(
        before[absolute].sort_values(order, ignore_index=True),
        kept[absolute].sort_values(order, ignore_index=True),
    )
    assert (after.loc[after["place"] == leaders.LEADS, "strategy"] == "strongest").all()


def test_one_objective_is_judged_by_its_runs_and_one_family_not_at_all(tmp_path):
    for strategy, gap in (("fast", 0.2), ("slow", 0.4)):
        write(tmp_path, strategy, ONE, "curve0", (gap, gap))
    table, page = table_of(tmp_path)
    assert (table.loc[table["strategy"] == "fast", "place"] == leaders.LEADS).all()
    assert "curves not described" in shown.table(Page(tmp_path).leaders)
    for strategy, gap in (("fast", 0.2), ("slow", 0.4)):
        write(tmp_path, strategy, ONE, "curve0,dial=1", (gap, gap))
    table = leaders.leaders_table(page.measures.panel, page.curves, [10.0])
    described = Page(tmp_path, {**RANKS, "curve0,dial=1": 0.9})
    assert "nothing can be said: one family" in shown.table(described.leaders)


def test_a_label_says_strategy_and_cluster():
    assert leaders.split_label("asha,eta=4,workers=8") == ("asha,eta=4", "8 workers")
    assert leaders.split_label("gp,workers=16,straggle=0.33") == ("gp", "16 workers, straggle=0.33")
    assert leaders.split_label("random") == ("random", "1 worker")
    assert leaders.curves_of(81, 0.5) == leaders.WITH and leaders.curves_of(81, 0.49) == leaders.WITHOUT
    assert leaders.curves_of(81, np.nan) == leaders.UNKNOWN and leaders.curves_of(1, 0.9) == leaders.WITHOUT


def test_the_report_shows_the_table_and_writes_it(folder, undrawn):
    report.build(folder, pdf=False, ranks=RANKS)
    table = shown.table(pd.read_csv(folder / "leaders.csv"))
    assert table in (folder / "report.md").read_text(encoding="utf-8")
    assert 'id="leaders"' in (folder / "report.html").read_text(encoding="utf-8")
    curves = pd.read_csv(folder / "measures" / "curves.csv").set_index("objective")
    assert curves.loc["curve4", "rank_at_ninth"] == 0.49


def test_what_was_described_here_goes_before_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = early_ranks()
    assert shipped["lcpfn"] > 0.5 and "branin" not in shipped
    (tmp_path / "results" / "describe" / "x").mkdir(parents=True)
    (tmp_path / "results" / "describe" / "x" / "describe.csv").write_text(
        "objective,rank_at_ninth\nlcpfn,0.1\n"
    )
    assert early_ranks() == {**shipped, "lcpfn": 0.1}


def test_the_readmes_table_is_the_shipped_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped = pd.read_csv(ROOT / "results" / "reference" / "leaders" / "leaders.csv")
    assert f"<!-- nearopt leaders -->\n{shown.table(shipped)}<!-- end -->" in readme
    folder = ROOT / "results" / "reference" / "replicability"
    drawn = pd.read_csv(folder / "replicability.csv")
    assert f"<!-- nearopt replicability -->\n{by_size(drawn)}<!-- end -->" in readme
    assert (drawn["declared_wrong"] == 0).all()
    general = pd.read_csv(folder / "measures" / "leaders_in_general.csv").set_index("budget")
    surely = (general["answer"] == "better") & (general["first"] == "gp")
    assert surely.loc[13.0:].all() and not surely.loc[:12.0].any() and (general["families"] == 33).all()
    lead = "with 32 by {:.2g} of the gap ({:.2g} to {:.2g})"
    assert lead.format(*-general.loc[32.0, ["difference", "high", "low"]]) in " ".join(readme.split())


def test_a_cell_names_some_of_many():
    row = {"place": leaders.FIRST, "reason": "", "difference": 0.1}
    rows = [row | {"strategy": f"s{i}"} for i in range(11)]
    assert shown.said(rows) == (shown.NONE, [f"s{i}" for i in range(8)], "and 3 more, all that are compared")
    rows[10]["place"] = leaders.BEHIND
    assert shown.said(rows)[2] == "and 2 more"


def test_replicability_is_of_one_cluster(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "x")
    said = replicability.write(tmp_path / "x")
    assert said.startswith("2 strategies with 1 worker on 9 objectives, 16 seeds")


def test_who_is_alone_on_its_cluster_is_compared_with_nobody(tmp_path):
    for cluster in (ONE, EIGHT):
        write(tmp_path, "fast", cluster, "curve0", (0.3, 0.1))
    tasks = drawings(Page(tmp_path).measures)
    assert tasks.keys() == {"over_budget"}
    task = tasks["over_budget"]
    assert "nothing to compare" in task.draw(*task.given)
    with pytest.raises(ValueError, match="got 1, 1 and 16"):
        replicability.write(tmp_path)
    for file in tmp_path.rglob("cell.json"):
        file.write_text('{"status": "failed"}')
    with pytest.raises(ValueError, match="no results that can be scored"):
        replicability.write(tmp_path)


def test_who_ties_with_the_next_stands_beside_it():
    """Two with the same runs, both behind by their own test, where nobody leads by the stricter one."""

    def row(name, value):
        found = Interval(value, value / 2, 2 * value, 9)
        return {"strategy": name, "difference": value, "p_best": 0.01, "found": found}

    rows = [{"strategy": "a"}, row("b", 0.1), row("c", 0.1), row("d", 0.2)]
    leaders._place(rows, 0.2)
    assert [r["place"] for r in rows] == [leaders.FIRST, leaders.FIRST, leaders.FIRST, leaders.BEHIND]
    rows = [{"strategy": "a"}, row("b", 0.1), row("c", 0.1)]
    leaders._place(rows, 0.01)
    assert [r["place"] for r in rows] == [leaders.LEADS, leaders.BEHIND, leaders.BEHIND]
