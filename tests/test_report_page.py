"""The page's words and its slider, from traces where it is known who wins, and from those that say little."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from bench import measures, report
from bench.page import budget
from bench.page import measures as measured
from bench.page.data import Page
from bench.page.html import render_html
from bench.page.markdown import render_markdown
from bench.page.verdict import leading, verdict
from nearopt.importer import import_traces


def traces(strengths, tasks=3, seeds=24, evaluations=32):
    """A strategy's losses are the best of strengths[name] uniform draws: the stronger is better."""
    rng, rows = np.random.default_rng(0), []
    for t in range(tasks):
        for name, strength in strengths.items():
            loss = rng.random((seeds, evaluations, strength)).min(2)
            rows += [(f"t{t}", s, name, e + 1, loss[s, e]) for s in range(seeds) for e in range(evaluations)]
    return pd.DataFrame(rows, columns=["task", "seed", "method", "evaluation", "loss"])


KNOWN = {f"t{i}": (0.0, (np.arange(20000) + 0.5) / 20000) for i in range(9)}


def page_of(folder):
    page = Page(folder)
    return page, render_html(page, {}), render_markdown(page, {})


def data_of(html):
    return json.loads(re.search(r'id="budget-data">(.*?)</script>', html)[1])


@pytest.mark.parametrize("strategies", [2, 3, 10])
def test_words_slider_and_tables_name_the_known_winner(tmp_path, strategies, undrawn):
    strengths = {f"m{i}": 3**i if strategies < 10 else 2**i for i in range(strategies)}
    page, html, markdown = page_of(import_traces(traces(strengths), tmp_path / "x", references=KNOWN))
    best, data = f"m{strategies - 1}", data_of(html)
    at = {k: i for i, k in enumerate(data["keys"])}
    assert data["budgets"][-1] == 32 and len(data["said"]) == len(data["budgets"]) == len(data["rows"])
    last = data["rows"][-1]
    assert len(last) == 4 and last[0][at["objective"]] == budget.ALL and last[0][at["first"]] == best
    assert all(float(row[at["gap"]].replace("−", "-")) < 0.1 for row in last)
    assert not [row for row in last if row[at["by"]].startswith("−")]  # by how much it is ahead
    # Nine times the draws is seen at once; twice as many, near the optimum, need not be.
    first = [row[at["first"]] for row in data["rows"][0][1:]]
    assert strategies == 10 or first == [best] * 3
    assert data["said"][-1] == verdict(page)[0] and f"32 full trainings, {best} " in data["said"][-1]
    assert f"| 32 | {budget.ALL} | {best} |" in markdown
    table = html[html.index('id="numbers-table"') :]
    table = table[: table.index("</table>")]
    assert table.count('<tr><th scope="row">') == 3 * strategies  # every number
    widths = {len(re.findall(r"<t[hd]\b", row)) for row in table.split("<tr>")[1:]}
    assert widths == {17}
    for name, value in data["colours"].items():
        assert f"background:{value}" in html, name


def test_surely_chance_and_practically_equal_are_told_apart(tmp_path):
    tasks = [
        traces({"a": 1, "b": 9}, 1, 32),
        traces({"a": 400, "b": 401}, 1, 32),
        traces({"a": 2, "b": 2}, 1, 32),
    ]
    frame = pd.concat([t.assign(task=f"t{i}") for i, t in enumerate(tasks)])
    page, html, _ = page_of(import_traces(frame, tmp_path / "x", references=KNOWN, budgets=[4, 32]))
    rows = {r["objective"]: r for r in budget.rows_at(page.measures.leaders, page.measures.general, 4.0)}
    assert rows["t0"]["sure"] == budget.SURE and rows["t0"]["first"] == "b"
    assert rows["t1"]["sure"] == budget.CLOSE
    assert rows["t2"]["sure"] == budget.CHANCE and "runs each would show" in rows["t2"]["why"]
    assert budget.sentence(rows["t2"], 4.0).endswith("which may be chance.")
    top = " ".join(leading(page))
    assert "practically equal on" in top and "t1" in top
    assert "relative: depends on who takes part" in html and "absolute: a strategy alone decides it" in html


def test_level_strategies_and_objectives_that_were_run_with_less_are_said(tmp_path):
    flat = traces({"a": 1, "b": 1}, 2, 8).assign(loss=0.25)
    frame = pd.concat([flat, traces({"a": 1, "b": 9}, 1, 24, 8).assign(task="t2")])
    page, html, markdown = page_of(import_traces(frame, tmp_path / "x", references=KNOWN))
    said = verdict(page)
    assert said[0].startswith("With 32 full trainings, a and b are level over 2 of 3 objectives (")
    assert "With 32" in said[1] or "with 32 full trainings: inconclusive on t0 and t1" in said[1]
    assert "with 8 full trainings: b surely leads on t2" in said[2]
    rows = budget.rows_at(page.measures.leaders, page.measures.general, 32.0)
    assert rows[-1]["objective"] == "t2" and rows[-1]["why"] == "run with at most 8"
    assert "2 of 3 objectives together" in html and "2 of 3 objectives together" in markdown
    assert not [s for s in said if "level" in s and "leads" in s]
    nothing = traces({"a": 1, "b": 1}, 2, 8).assign(loss=np.nan)
    page, html, _ = page_of(import_traces(nothing, tmp_path / "y", references=KNOWN))
    assert "practically equal" not in " ".join(verdict(page))
    rows = budget.rows_at(page.measures.leaders, page.measures.general, 32.0)
    assert all("no better than the median random" in r["why"] for r in rows)


def test_who_was_run_with_more_does_not_lead_who_was_not(tmp_path):
    # c is far better with 8 than the others with 32, and was not run with more.
    frame = pd.concat([traces({"a": 1, "b": 3}, 1, 24), traces({"c": 300}, 1, 24, 8)])
    page, html, _ = page_of(import_traces(frame, tmp_path / "x", references=KNOWN))
    assert verdict(page)[0].startswith("With 8 full trainings, c leads b on t0 by ")
    said = data_of(html)["said"][-1]
    assert said.startswith("With 32 full trainings, of those that have runs there (not c), b ")


def test_few_runs_say_so(tmp_path):
    page, html, _ = page_of(import_traces(traces({"a": 1, "b": 9}, 2, 1), tmp_path / "x", references=KNOWN))
    rows = budget.rows_at(page.measures.leaders, page.measures.general, 32.0)
    assert rows[1]["sure"] == budget.CHANCE and "one run a side" in rows[1]["why"]
    assert "may be chance" in verdict(page)[0] and "one run a side" in html
    page, html, _ = page_of(import_traces(traces({"a": 1, "b": 9}, 1, 8), tmp_path / "y", references=KNOWN))
    rows = budget.rows_at(page.measures.leaders, page.measures.general, 32.0)
    assert len(rows) == 1 and "small sample: 8 runs" in rows[0]["why"]  # one family: nothing in general
    assert verdict(page)[0] == budget.sentence(rows[0], 32.0)
    two = budget.said([rows[0], {**rows[0], "objective": "other"}], 32.0)
    assert two == "With 32 full trainings, b surely leads on 2 of 2 objectives."
    page, html, _ = page_of(import_traces(traces({"a": 1}, 1, 8), tmp_path / "z", references=KNOWN))
    assert 'id="budget-range"' not in html and leading(page) == []


def test_borrowed_references_are_said_on_the_page(tmp_path):
    _, html, markdown = page_of(import_traces(traces({"random": 1, "b": 9}), tmp_path / "x"))
    assert "targets depend on who took part" in html and "targets depend on who took part" in markdown


def test_names_cannot_break_the_page(tmp_path):
    frame = traces({"a": 1, "b": 9}, 1, 8).assign(task="t0")
    folder = import_traces(frame, tmp_path / "x", references=KNOWN)
    hostile = "</script><script>alert(1)"
    leaders = measures.leaders(Page(folder).measures.panel).assign(first=hostile)
    text = budget.slider(leaders, leaders.assign(families=1, left_out=""))
    assert text.count("</script>") == 1 and "<script>alert" not in text
    assert data_of(text)["rows"][-1][0][1] == hostile


def check_large(folder, processes):
    path = report.build(folder, processes)
    page, found = path.read_text(encoding="utf-8"), Page(folder)
    assert len(found.objectives) == 26 and len(found.labels) == 16
    # Every figure is there, without PDF where it is one of an objective.
    for objective in found.objectives:
        assert ">m15<" in (folder / "figures" / f"{objective}.svg").read_text()
        assert not (folder / "figures" / f"{objective}.pdf").exists()
    assert (folder / "figures" / "over_budget.pdf").exists()
    # What is heavy and folded is text: outside of it there are few elements, and in it is all.
    shown = re.sub(r'<script type="text/html">.*?</script>', "", page, flags=re.S)
    assert shown.count("<td") < 1000 < page.count("<td") / 10 and page.count("<svg") > 26
    assert shown.count("<noscript>") == page.count('<script type="text/html">') >= 26 + 1
    rows = page[page.index('id="numbers-table"') :].split("</table>")[0].count("<tr>")
    assert rows == 1 + 26 * 16
    # The verdict names the best, and how many more there are.
    said = " ".join(verdict(found))
    assert "With 8 full trainings, m15 " in said and "and 10 others on no larger share." in said
    assert " on 26 of 26 objectives" in said and "m0 " not in said


def large(folder):
    known = {f"t{i}": (0.0, (np.arange(20000) + 0.5) / 20000) for i in range(26)}
    strengths = {f"m{i}": 1 + i * i for i in range(16)}
    return import_traces(traces(strengths, 26, 6, 8), folder, references=known)


@pytest.mark.slow
def test_a_report_of_many_objectives_says_as_much(tmp_path):
    check_large(large(tmp_path / "x"), 1)


@pytest.mark.slow
def test_a_large_report_is_the_same_from_several_processes(tmp_path):
    folder = large(tmp_path / "x")
    check_large(folder, 1)
    alone = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".html", ".md", ".csv", ".svg")}
    check_large(folder, 2)
    assert alone == {p: p.read_bytes() for p in alone}


def test_everything_is_written_beside_the_page(tmp_path):
    folder = import_traces(traces({"random": 1, "b": 4}, 2, 8, 4), tmp_path / "x", references=KNOWN)
    report.build(folder)
    for name in ("leaders", "leaders_in_general", "against_leader", "times", "runtime_distribution", "wins",
                 "ranks", "efficiency", "variance", "overtuning", "interquartile_means"):  # fmt: skip
        assert len(pd.read_csv(folder / "measures" / f"{name}.csv")), name
    for name in ("headline", "t0", "over_budget", "wins", "critical_difference", "efficiency"):
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF"), name
        assert (folder / "figures" / f"{name}.svg").exists()
    draw = measured.drawings(Page(folder).measures)["wins"]
    assert draw.draw(*draw.given).pdf() == (folder / "figures" / "wins.pdf").read_bytes()  # the same bytes
    wins = pd.read_csv(folder / "measures" / "wins.csv").set_index(["label", "against"])
    row, back = wins.loc[("b", "random")], wins.loc[("random", "b")]
    assert 0.5 < row["probability"] <= row["high"] and row["low"] <= row["probability"]
    assert [back["probability"], back["low"]] == pytest.approx([1 - row["probability"], 1 - row["high"]])
