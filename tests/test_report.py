"""The report, from folders made here: losses are known functions of uniform draws, so every number is too."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bench import measures, metrics, plots, plots_measures, report, summary
from bench.page.data import Page, clear_best
from bench.panel import join, panel
from bench.protocols import LEVELS
from bench.ranking import friedman, win_matrix
from bench.reading import load_folder

BUDGETS = (8, 16, 32, 64)


def quantile(u, instance, power):
    """True loss of a random configuration at quantile u: p(t) = ((t - optimum) / 10)^(1 / power)."""
    return instance % 7 + 1.0 + 10.0 * np.asarray(u) ** power


def trace_of(rng, seeds, budget, power, skill=0.0, epochs=(1,), diverged=0.0):
    """Runs that draw quantiles u, shrunk by `skill` as trials go by, each trained in the given rungs."""
    blocks = []
    for seed in seeds:
        n = int(budget * max(epochs)) // max(epochs)
        u = rng.random(n) / (1 + skill * np.maximum(np.arange(n) - 6, 0)) ** 3
        true = quantile(u, 1000 + seed, power)
        parts, job, clock = [], 0, 0.0
        spent = 0
        for k in range(n):
            start = 0
            for r, until in enumerate(epochs):
                if r and u[k] > np.median(u[: k + 1]) / 2**r:
                    break
                if spent + until - start > budget * max(epochs):
                    break
                spent += until - start
                clock += until - start
                loss = true[k] + (max(epochs) - until) / max(epochs)
                bad = rng.random() < diverged
                parts.append(
                    [
                        seed,
                        1000 + seed,
                        budget,
                        job,
                        k,
                        -1 if r == 0 else k,
                        start,
                        until,
                        np.nan if bad else loss,
                        np.nan if bad else loss,
                        np.nan,
                        float(until - start),
                        0,
                        clock - until + start,
                        clock,
                        "finished",
                    ]
                )
                job, start = job + 1, until
        blocks += parts
    names = [
        "seed",
        "instance",
        "budget",
        "job",
        "trial",
        "source",
        "start",
        "until",
        "loss",
        "true_loss",
        "recommended_true_loss",
        "cost",
        "worker",
        "started",
        "finished",
        "status",
    ]
    return pd.DataFrame(blocks, columns=names).assign(hp_x=0.5)


def write_reference(folder, power, seeds, dynamic=np.nan):
    folder.mkdir(parents=True, exist_ok=True)
    instances = 1000 + np.arange(seeds)
    table = pd.DataFrame({"instance": instances, "optimum_static": instances % 7 + 1.0})
    table["optimum_dynamic"] = table["optimum_static"] + dynamic
    levels = {f"q_{i}": quantile(level, instances, power) for i, level in enumerate(LEVELS)}
    table = pd.concat([table, pd.DataFrame(levels)], axis=1)
    table.attrs = {"how": "optimum: formula"}
    table.to_parquet(folder / "reference.parquet", index=False)


def write_cell(folder, traces=None, **info):
    folder.mkdir(parents=True)
    info = {
        "status": "complete",
        "objective": folder.parent.name,
        "label": folder.name,
        "strategy": folder.name.split(",")[0],
        "compile_s": 0.5,
        "run_s": 0.1,
        "budgets": list(BUDGETS),
        "anytime": True,
        "max_epoch": 1,
        "fidelity": "training",
        "scale": "linear",
        "device": "cpu",
        "settings": {"eta": 3},
        "versions": {"jax": "0.0"},
    } | info
    (folder / "cell.json").write_text(json.dumps(info))
    for budget, trace in (traces or {}).items():
        (folder / "trace" / f"{budget}").mkdir(parents=True)
        last = int(trace["seed"].max())
        trace.to_parquet(folder / "trace" / f"{budget}" / f"0-{last}.parquet", index=False)


def synthetic(root, objectives=2, seeds=16, strategies=("grid", "random", "gp", "hyperband", "pbt")):
    """A folder with everything in it: also a failed cell, one that does not apply, and divergence."""
    rng = np.random.default_rng(0)
    every = range(seeds)
    names = ["branin", "curves,rank=low", "digits", "quadratic", *(f"f{i}" for i in range(6))][:objectives]
    for i, name in enumerate(names):
        folder, power = root / name, 0.5 + 0.35 * i
        curve = i % 2 == 1
        extra = {
            "max_epoch": 9 if curve else 1,
            "fidelity": "proxy" if curve else "training",
            "scale": "log" if i % 4 == 3 else "linear",
        }
        write_reference(folder, power, seeds, dynamic=-0.4 if curve else np.nan)
        full = (9,) if curve else (1,)
        for strategy in strategies:
            if strategy == "pbt" and not curve:
                write_cell(folder / strategy, status="not applicable", reason="needs copy, change, which …")
            elif strategy == "pbt" and i == 1:
                write_cell(folder / strategy, status="failed", error="Traceback:\n  f()\nValueError: <boom>")
            elif strategy in ("grid", "pbt"):
                traces = {b: trace_of(rng, every, b, power, 0.02, full) for b in BUDGETS}
                write_cell(folder / strategy, traces, anytime=False, **extra)
            else:
                skill = {"gp": 0.15, "hyperband": 0.08, "sobol": 0.01}.get(strategy, 0.0)
                rungs = (1, 3, 9) if curve and strategy == "hyperband" else full
                note = (
                    {} if curve or strategy != "hyperband" else {"fair_note": "a formula: random search here"}
                )
                trace = trace_of(rng, every, 64, power, skill, rungs, diverged=0.05)
                write_cell(
                    folder / strategy,
                    {64: trace},
                    **extra,
                    **note,
                    describe={b: f"{b} trainings = {b} configurations" for b in BUDGETS},
                )
    info = {
        "name": root.name,
        "budgets": list(BUDGETS),
        "objectives": names,
        "seeds": seeds,
        "wall_s": 12.3,
        "command": "nearopt run experiment=first",
        "versions": {"nearopt": "0.1.0"},
        "device": "cpu",
    }
    (root / "experiment.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("results") / "first"
    root.mkdir()
    synthetic(root)
    broken = root / "branin" / "random" / "trace" / "64" / "16-31.parquet"
    whole = (root / "branin" / "random" / "trace" / "64" / "0-15.parquet").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    report.build(root, pdf=False)
    return root


def test_objective_by_objective_it_says_what_one_reading_of_the_folder_says(built):
    """What is kept of each objective, the ends of its runs, is all that the measures need."""
    results, page = load_folder(built), Page(built)
    scored, goals, warnings = metrics.evaluate(results)
    whole, found = panel(scored, page.objectives, page.labels), page.measures
    assert sorted(page.warnings) == sorted([*results.warnings, *warnings]) != []
    assert page.goals.keys() == goals.keys() and whole.budgets.tolist() == found.panel.budgets.tolist()
    efficiency = measures.efficiency(measures.factors(whole, "random"), whole)
    for one, other, by in (
        (page.table, summary.summary(scored, goals), ["objective", "label", "budget", "target"]),
        (found.times, measures.times(whole), ["objective", "label", "target"]),
        (found.tuned, measures.tuned_too_far(whole), ["objective", "label"]),
        (found.runtime, measures.runtime_distribution(whole), ["label", "budget"]),
        (found.middles, measures.middle_halves(whole), ["label"]),
        (found.leaders, measures.leaders(whole), ["objective", "budget"]),
        (found.pairs, measures.against_leaders(whole), ["objective", "label"]),
        (found.efficiency, efficiency, ["objective", "label"]),
    ):
        a, b = (t.sort_values(by, ignore_index=True) for t in (one, other))
        assert len(a) > 3
        pd.testing.assert_frame_equal(a, b)


def test_of_each_objective_it_is_known_who_trained_in_slices(built):
    sliced = {o: p.sliced for o, p in Page(built).parts.items()}
    assert sliced["branin"] == set() and sliced["curves,rank=low"] == {"hyperband"}


def test_budgets_that_nobody_has_runs_of_are_no_steps(built):
    scored = [s for s in metrics.evaluate(load_folder(built))[0] if s.cell.objective == "branin"]
    alone = panel(scored, ["branin"], ["random", "gp"], np.array([8.0, 64.0, 99.0]))
    found = join([alone], ["random", "gp"])
    assert found.budgets.tolist() == [8.0, 64.0] and {len(e) for e in found.ends.values()} == {2}


def test_summary_has_the_agreed_columns_and_rows(built):
    table = pd.read_csv(built / "summary.csv")
    assert list(table.columns) == summary.SUMMARY
    none = table[table["status"] != "complete"]
    assert set(zip(none["objective"], none["label"], none["runs"], strict=True)) == {
        ("branin", "pbt", 0),
        ("curves,rank=low", "pbt", 0),
    }
    rows = table[(table["objective"] == "branin") & (table["label"] == "grid")]
    assert len(rows) == len(BUDGETS) * len(metrics.TARGETS) and (rows["runs"] == 16).all()
    near = rows[rows["target"] == metrics.NEAR]
    assert near["p"].to_numpy() == pytest.approx(0.5 * 0.05**2, rel=0.02)
    assert (near["epochs_spent"] == near["budget"]).all()


def test_an_easier_target_is_reached_at_least_as_often(built):
    table = pd.read_csv(built / "summary.csv").dropna(subset=["budget"])
    wide = table.pivot_table(index=["objective", "label", "budget"], columns="target", values="reached")
    assert (wide["p=0.1"] >= wide["p=0.01"]).all() and (wide["p=0.01"] >= wide["p=0.001"]).all()


def test_numbers_do_not_depend_on_who_takes_part(tmp_path):
    synthetic(tmp_path / "a", objectives=1, seeds=8, strategies=("random", "gp"))
    report.build(tmp_path / "a", pdf=False)
    both = pd.read_csv(tmp_path / "a" / "summary.csv")
    shutil.rmtree(tmp_path / "a" / "branin" / "gp")
    report.build(tmp_path / "a", pdf=False)
    alone = pd.read_csv(tmp_path / "a" / "summary.csv")
    left = both[both["label"] == "random"].reset_index(drop=True)
    pd.testing.assert_frame_equal(left, alone)


def test_an_anytime_cut_is_the_run_planned_for_it(tmp_path):
    folder = tmp_path / "branin"
    write_reference(folder, 0.5, 8)
    long = trace_of(np.random.default_rng(5), range(8), 64, 0.5)
    short = long[long["job"] < 16].assign(budget=16)
    write_cell(folder / "cut", {64: long}, budgets=[16, 64])
    write_cell(folder / "run", {16: short, 64: long}, budgets=[16, 64], anytime=False)
    scored, goals, warnings = metrics.evaluate(load_folder(tmp_path))
    table = summary.summary(scored, goals).drop(columns="label")
    half = len(table) // 2
    pd.testing.assert_frame_equal(table[:half].reset_index(drop=True), table[half:].reset_index(drop=True))
    assert not warnings


def test_the_page_is_one_file_and_says_everything(built):
    page = (built / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!#)[^"]*"|url\((?!#)|@import|https?://', text)
    assert set(re.findall(r"<script([^>]*)>", page)) == {
        "",
        ' type="application/json" id="budget-data"',
        ' type="text/html"',
    }
    # A sentence that slips into an attribute is not seen.
    assert set(re.findall(r'<p class="([^"]*)"', page)) <= {"", "sub", "small"}
    for words in (
        "not applicable",
        "needs copy, change, which …",
        "ValueError: &lt;boom&gt;",
        "within a run",
        "16-31.parquet cannot be read",
        "a formula: random search here",
        "nearopt run experiment=first",
        "64 trainings = 64 configurations",
        "not reached in",
        "so random search is expected to need",
        "<b>To plan</b>: the smallest budget",
        "Left: the true loss of the best found",
        "Equal gaps are not equally hard",
    ):
        assert words in page, words
    markdown = (built / "report.md").read_text(encoding="utf-8")
    assert "16-31.parquet" in markdown and "(<figures/curves,rank=low.svg>)" in markdown
    for name in ("headline", "branin", "curves,rank=low"):
        ElementTree.fromstring((built / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
    assert not [p for p in built.rglob(".*")]


def test_the_same_folder_gives_the_same_bytes(built):
    before = {p: p.read_bytes() for p in built.rglob("*") if p.is_file()}
    report.build(built, pdf=False)
    assert {p: p.read_bytes() for p in built.rglob("*") if p.is_file()} == before


def test_one_objective_one_strategy_one_seed(tmp_path):
    write_reference(tmp_path / "mine", 0.5, 1)
    trace = trace_of(np.random.default_rng(6), [0], 10, 0.5)
    write_cell(tmp_path / "mine" / "own", {10: trace}, budgets=[10])
    page = report.build(tmp_path, pdf=False).read_text(encoding="utf-8")
    assert "1 strategy on 1 objective, 1 run a cell" in page and "nothing is emphasised" in page


def test_divergence_alone_and_missing_parts_still_make_a_report(tmp_path):
    write_reference(tmp_path / "hard", 0.5, 8)
    trace = trace_of(np.random.default_rng(7), range(8), 8, 0.5).assign(loss=np.nan, true_loss=np.nan)
    write_cell(tmp_path / "hard" / "random", {8: trace}, budgets=[8])
    write_cell(tmp_path / "hard" / "gp", budgets=[8])  # complete, but its trace is gone
    write_cell(tmp_path / "lost" / "gp", {8: trace}, budgets=[8])  # no reference
    (tmp_path / "hard" / "bad").mkdir()
    (tmp_path / "hard" / "bad" / "cell.json").write_text('{"status": "compl')
    page = report.build(tmp_path, pdf=False).read_text(encoding="utf-8")
    for words in (
        "not reached in 8 of 8",
        "bad/cell.json cannot be read",
        "nothing on lost can be scored",
        "complete, but no trace of it can be scored",
        "8 of 8 runs",
    ):
        assert words in page, words
    row = pd.read_csv(tmp_path / "summary.csv").query("label == 'random'").iloc[0]
    assert row["reached"] == 0 and np.isinf(row["budget_needed"]) and row["trials_restricted_mean"] == 8


def test_no_folder_and_an_empty_one_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results folder"):
        report.build(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no cell of results"):
        report.build(tmp_path, pdf=False)


def test_emphasis_only_where_intervals_are_apart():
    rows = pd.DataFrame(
        {
            "label": ["a", "b"],
            "runs": [64, 64],
            "budget": 64.0,
            "trials_median": [10.0, 20.0],
            "ci_low": [8.0, 15.0],
            "ci_high": [14.0, 25.0],
        }
    )
    assert clear_best(rows, "within a run") == "a"
    assert clear_best(rows.assign(ci_high=[15.0, 25.0]), "within a run") is None
    assert clear_best(rows.assign(runs=[64, 5]), "within a run") is None
    assert clear_best(rows[:1], "within a run") is None
    never = rows.assign(trials_median=[10.0, np.inf], ci_low=[8.0, np.inf], ci_high=[14.0, np.inf])
    assert clear_best(never, "within a run") == "a"
    assert clear_best(never.assign(trials_median=np.inf, ci_low=np.inf), "within a run") is None


def test_a_cell_is_not_called_slower_than_what_it_was_given():
    rows = pd.DataFrame({"label": ["a", "b"], "runs": 12, "budget": [30.0, 8.0]})
    rows = rows.assign(trials_median=[12.0, np.inf], ci_low=[10.0, np.inf], ci_high=[14.0, np.inf])
    assert clear_best(rows, "within a run") is None  # b was stopped at 8: it may need 9
    assert clear_best(rows.assign(budget=30.0), "within a run") == "a"


def test_a_strategys_colour_is_its_names():
    assert plots.colour("gp") == plots.colour("gp,workers=16") != plots.colour("random")
    assert plots.dash("gp") == "-" != plots.dash("gp,workers=16")
    names = ["mine", "random", "pbt", "defaults", "asha"]
    assert sorted(names, key=plots.rank) == ["defaults", "random", "asha", "pbt", "mine"]
    assert len(set(plots.COLOURS.values()) | set(plots.OTHERS)) == len(plots.COLOURS) + len(plots.OTHERS)


def test_labels_keep_their_decimals():
    curve = pd.DataFrame({"label": "random", "budget": [1.0, 2.0, 4.0], "middle": [0.05, 0.01, 0.002]})
    curve = curve.assign(low=curve["middle"] / 1.2, high=curve["middle"] * 1.2)
    shown = plots.objective_figure(
        "x", curve, curve.assign(middle=0.5), curve[:0], curve[:0],
        ratio=False, goal=0.01, dynamic=np.nan, max_epoch=1,
    )  # fmt: skip
    assert {"0.002", "0.005", "0.01"} <= set(re.findall(r">([\d.]+)</text>", shown))


def test_a_block_without_a_column_is_named(tmp_path):
    trace = trace_of(np.random.default_rng(0), range(2), 8, 1.0)
    write_reference(tmp_path / "f", 1.0, 2)
    for label, column in (("a", "status"), ("b", "loss")):
        write_cell(tmp_path / "f" / label, {8: trace.drop(columns=column)}, budgets=[8])
    said = load_folder(tmp_path).warnings
    assert [f"{c} and is left out" in w for c, w in zip(("status", "loss"), said, strict=True)] == [
        True,
        True,
    ]


def axes_of(monkeypatch, draw, *given):
    monkeypatch.setattr(plots_measures, "svg", lambda figure, name: figure)
    return draw(*given).axes


def test_ticks_of_many_budgets_can_be_read(monkeypatch):
    for last, ticks in ((20, [1, 2, 4, 8, 16, 20]), (18, [1, 2, 4, 8, 18]), (16, [1, 2, 4, 8, 16])):
        line = pd.DataFrame({"label": "a", "budget": np.geomspace(1, last, 60), "rank": 1.0, "share": 0.5})
        line.loc[59, "budget"] = last
        for ax in axes_of(monkeypatch, plots_measures.over_budget_figure, line, line):
            assert ax.get_xticks().tolist() == ticks


@pytest.mark.parametrize(
    ("factor", "width"), [(0.002, 1e5), (0.4, 1.1), (1.0, 1e5), (3.0, 1.1), (700.0, 1e5)]
)
def test_all_factors_and_the_baseline_are_within_the_figure(monkeypatch, factor, width):
    rows = [("a", "f", factor, np.nan, np.nan), ("a", "all", factor, factor / width, factor * width)]
    table = pd.DataFrame(rows, columns=pd.Index(["label", "objective", "factor", "low", "high"]))
    (ax,) = axes_of(monkeypatch, plots_measures.efficiency_figure, table, "random")
    left, right = ax.get_xlim()
    assert left < min(factor, 1) <= max(factor, 1) < right and right / left < 2e5


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b"],
        ["gp", "a_strategy_with_a_long_name,setting=12345", "x,workers=8"],
        [f"hyperband,eta=4,startup=0.25,workers={i}" for i in range(40)],
    ],
    ids=len,
)
def test_no_text_of_a_figure_is_cut(monkeypatch, labels):
    k = len(labels)
    test = friedman(np.arange(40 * k).reshape(40, k) % k * 1.0 + np.eye(40, k))
    table = pd.DataFrame({"label": labels, "objective": "all", "factor": 0.5, "low": 0.4, "high": 0.7})
    wins = win_matrix([[np.full(6, float(i)) for i in range(k)]], ["f"], 0.01)
    line = pd.DataFrame({"label": labels, "budget": 8.0, "rank": 1.0, "share": 0.5})
    line = pd.concat([line.assign(budget=1.0), line])
    for draw, *given in (
        (plots_measures.critical_difference_figure, labels, test),
        (plots_measures.efficiency_figure, table, "random"),
        (plots_measures.wins_figure, labels, wins),
        (plots_measures.over_budget_figure, line, line),
    ):
        figure = axes_of(monkeypatch, draw, *given)[0].figure
        renderer = FigureCanvasAgg(figure).get_renderer()
        whole, texts = figure.bbox, [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
        figure.draw(renderer)
        for text in texts:
            box = text.get_window_extent(renderer)
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, (
                text
            )
