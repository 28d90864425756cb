"""All measures of a report, folded: each says whether it is a strategy's own or relative to who takes
part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import measures
from bench.inference import EQUAL
from bench.metrics import NEAR
from bench.page.draw import Beside, Task, later
from bench.page.part import BASELINE, Part
from bench.page.words import (
    ABSOLUTE,
    RELATIVE,
    bullets,
    escape,
    fold,
    listed,
    number,
    plain_table,
    prose,
    spread,
)
from bench.panel import Panel, join
from bench.plots_measures import (
    critical_difference_figure,
    efficiency_figure,
    over_budget_figure,
    wins_figure,
)
from bench.ranking import Friedman, Wins

CRITICAL = "critical_difference"
MOST_ROWS = 400  # of a folded table on the page; summary.csv and measures/ have all
WINS = ["label", "against", "probability", "low", "high", "objectives"]


class Measures(NamedTuple):
    """Every frame of `bench.measures` for one panel."""

    panel: Panel
    leaders: pd.DataFrame
    general: pd.DataFrame
    times: pd.DataFrame
    runtime: pd.DataFrame
    middles: pd.DataFrame
    tuned: pd.DataFrame
    ranks: pd.DataFrame
    wins: tuple[list[str], Wins]
    tests: dict[str, tuple[list[str], Friedman]]
    efficiency: pd.DataFrame
    variance: pd.DataFrame
    pairs: pd.DataFrame


def compute(parts: Sequence[Part], labels: Sequence[str], run: Beside = later) -> Measures:
    """All frames of the objectives `parts`; what needs no more than the ends of runs may be made beside the
    rest."""
    panel = join([p.panel for p in parts], labels)
    ends: Any = panel._replace(cells=dict.fromkeys(panel.cells))
    leaders, general, wins = (
        run(f, ends) for f in (measures.leaders, measures.general_leaders, measures.wins)
    )
    times, tuned, pairs, factors = (
        _joined([getattr(p, name) for p in parts]) for name in ("times", "tuned", "pairs", "factors")
    )
    runtime, middles, ranks = (
        f(panel) for f in (measures.runtime_distribution, measures.middle_halves, measures.rank_over_budget)
    )
    efficiency, variance = measures.efficiency(factors, panel), measures.variance(panel)
    return Measures(
        panel, leaders(), general(), times, runtime, middles, tuned, ranks, wins(),
        measures.rank_tests(panel), efficiency, variance, pairs,
    )  # fmt: skip


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    there = [frame for frame in frames if len(frame)]
    return pd.concat(there, ignore_index=True) if there else frames[0]


def frames(found: Measures) -> dict[str, pd.DataFrame]:
    """What is written beside the report as measures/NAME.csv."""
    labels, wins = found.wins
    win_rows = [
        (labels[i], labels[j], wins.value[i, j], wins.low[i, j], wins.high[i, j], wins.objectives[i, j])
        for i, j in np.argwhere(wins.objectives)
    ]
    return {
        "leaders": found.leaders, "leaders_in_general": found.general, "against_leader": found.pairs,
        "times": found.times, "runtime_distribution": found.runtime, "interquartile_means": found.middles,
        "overtuning": found.tuned, "ranks": found.ranks, "efficiency": found.efficiency,
        "variance": found.variance, "wins": pd.DataFrame(win_rows, columns=pd.Index(WINS)),
    }  # fmt: skip


def drawings(found: Measures) -> dict[str, Task]:
    """What is to be drawn of the measures, by file name."""
    out = {}
    if len(found.runtime):
        out["over_budget"] = Task(over_budget_figure, (found.ranks, found.runtime))
    if found.wins[1].objectives.any():  # nobody has a rival where each is alone on its cluster
        out["wins"] = Task(wins_figure, found.wins)
    for name, (ranked, test) in ranked_by_cluster(found).items():
        if not test.reason:
            out[name] = Task(critical_difference_figure, (ranked, test))
    if len(found.efficiency) and np.isfinite(found.efficiency["factor"]).any():
        out["efficiency"] = Task(efficiency_figure, (found.efficiency, BASELINE))
    return out


def ranked_by_cluster(found: Measures) -> dict[str, tuple[list[str], Friedman]]:
    """The rank test of each cluster by the name of its figure, one worker's first."""
    return {
        CRITICAL if place == 0 else f"{CRITICAL}.{cluster.replace(', ', ',').replace(' ', '_')}": test
        for place, (cluster, test) in enumerate(found.tests.items())
    }


def _figure(figures: dict[str, str], name: str) -> str:
    kind = "" if name == "over_budget" else ' class="natural"'  # the others are small: not stretched
    return f"<figure{kind}>{figures[name]}</figure>" if name in figures else ""


def _rows(rows: list[dict[str, Any]], columns: dict[str, Any]) -> list[list[str]]:
    """Rows of text: column -> how it is shown, of a row."""
    return [[show(r) for show in columns.values()] for r in rows]


def _table(table: Any, columns: dict[str, Any], labels: int | None = None) -> str:
    """The first MOST_ROWS rows as a table, and how many more there are."""
    text = plain_table(list(columns), _rows(table[:MOST_ROWS].to_dict("records"), columns), labels)
    more = len(table) - MOST_ROWS
    return text + (prose(f"{more:,} more rows are in measures/.", kind="small") if more > 0 else "")


def percent(x: float) -> str:
    return "–" if np.isnan(x) else f"{100 * x:.0f} %"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else number(p, 2)


def efficiency_said(found: Measures) -> list[str]:
    """ "gp needs 40 % of random's trainings (30 % to 55 %)", over all objectives (plain text)."""
    rows: Any = found.efficiency[found.efficiency["objective"] == "all"]
    return [
        f"{r['label']} needs {percent(r['factor'])} of the trainings of {BASELINE}"
        + _unsure(r["low"], r["high"])
        + (f", and ends behind it on {r['behind']} of {r['objectives']} objectives" if r["behind"] else "")
        + (f", {r['reason']}" if r["reason"] else "")
        for r in rows.to_dict("records")
    ]


def _unsure(low: float, high: float) -> str:
    if np.isnan(low) or np.isinf(high):
        return ""
    return f" ({percent(low)} to {percent(high)}{'' if high < 1 or low > 1 else ': may be chance'})"


def open_pairs(found: Measures) -> pd.DataFrame:
    """Pairs with the leader of an objective that are undecided, and how many runs would settle them."""
    table: Any = found.pairs[(found.pairs["answer"] == "inconclusive") & found.pairs["seeds_needed"].notna()]
    return table.sort_values("seeds_needed", kind="stable")


def sections(found: Measures, drawn: dict[str, str]) -> Iterable[str]:
    """The folded parts (html)."""
    panel = found.panel
    if "over_budget" in drawn:
        yield fold(
            "Rank over budget, and runtime distribution",
            prose(
                "Left", RELATIVE, "the mean rank of the mean gap left among the strategies of a cluster that",
                "have every objective at that budget. Right", ABSOLUTE, "the share of (objective, target,",
                "run) reached, objectives counting the same, targets the best 10, 1 and 0.1 % of random",
                "configurations; runs of the largest budget, beyond which nothing is reached. Compare only",
                "strategies with the same objectives and budgets.", kind="small",
            ) + _figure(drawn, "over_budget"),
        )  # fmt: skip
    if "wins" in drawn:
        yield fold(
            "Who beats whom",
            prose(
                "The probability (in %) that a run of the row beats one of the column, mean over the",
                "objectives that both have (Mann–Whitney), at the largest budget that all of their cluster",
                "have; who has more workers is no rival. Gaps within",
                f"{EQUAL:g} of each other are a tie. Bold: the 95 % interval, over families of objectives",
                "or of a single objective's runs, excludes one half: a pair at a time, not corrected",
                "for their number.",
                kind="small",
            ) + _figure(drawn, "wins"), RELATIVE,
        )  # fmt: skip
    said = efficiency_said(found)
    if "efficiency" in drawn:
        yield fold(
            f"What each needs of the trainings of {BASELINE}",
            prose(
                "The factor of full trainings after which the median run has what the other's ends with, "
                "on the same cluster, read at",
                "the worse of the two ends (log-efficiency). Diamond: mean over families of objectives "
                "with its",
                "95 % interval; dots: single objectives.", kind="small",
            ) + bullets(escape(s) for s in said) + _figure(drawn, "efficiency"), RELATIVE,
        )  # fmt: skip
    for cluster, (name, (ranked, test)) in zip(found.tests, ranked_by_cluster(found).items(), strict=True):
        text = (
            f"No rank test: {test.reason}."
            if test.reason
            else f"Friedman: chi² = {number(test.chi2)} with ties corrected ({number(test.chi2_plain)} "
            "without), "
            f"p = {number(test.p, 2)}; Iman and Davenport: F = {number(test.f)}, p = {number(test.f_p, 2)}; "
            f"{test.objectives} objectives, {len(ranked)} strategies that have them all. Bars join "
            "what "
            "Nemenyi's test does not tell apart at 5 %. It sees neither by how much nor in how many families."
        )
        yield fold(
            "Critical difference diagram" + (f": {cluster}" if len(found.tests) > 1 else ""),
            prose(escape(text), kind="small") + _figure(drawn, name), RELATIVE,
        )  # fmt: skip
    near = found.times[found.times["target"] == NEAR] if len(found.times) else found.times
    for title, table in (("near-optimal", near), ("each share of random", found.times.drop(near.index))):
        if len(table):
            yield fold(
                f"Cost to target: {title}",
                prose(
                    "Runs of the largest budget B. Success: with its exact interval (Clopper–Pearson). "
                    "ERT: what",
                    "all runs spent over how many arrived. E[min(T, B)]: restricted mean. In full trainings.",
                    kind="small",
                ) + _table(table, {
                    "objective": lambda r: r["objective"], "strategy": lambda r: r["label"],
                    "target": lambda r: r["target"], "runs": lambda r: str(r["runs"]),
                    "success": lambda r: f"{percent(r['success'])} ({percent(r['success_low'])} to "
                                         f"{percent(r['success_high'])})",
                    "ERT": lambda r: number(r["ert"]) + spread(r["ert_low"], r["ert_high"]),
                    "E[min(T, B)]": lambda r: number(r["restricted_mean"])
                    + spread(r["restricted_mean_low"], r["restricted_mean_high"]),
                }, labels=1), ABSOLUTE,
            )  # fmt: skip
    if len(found.middles):
        yield fold(
            "Interquartile mean of the gap left",
            prose(
                "Of as many runs on each objective as a strategy has on all, the middle half; runs resampled",
                "within their objective. Compare only rows over the same objectives.", kind="small",
            ) + _table(found.middles, {
                "strategy": lambda r: r["label"], "objectives": lambda r: str(r["objectives"]),
                "runs each": lambda r: str(r["runs"]),
                "interquartile mean": lambda r: number(r["iqm"]) + spread(r["low"], r["high"]),
            }, labels=0), ABSOLUTE,
        )  # fmt: skip
    if len(found.tuned):
        yield fold(
            "Told against true, over-tuning, and what is recommended",
            prose(
                "Means over runs of the largest budget, in units of the gap. Optimism: by how much the "
                "best told",
                "loss flatters its configuration. Over-tuning: by how much the final choice is worse, in "
                "truth,",
                "than the best choice before it; in how many runs; relative to the gain since the first "
                "choice",
                "(median).", kind="small",
            ) + _table(found.tuned, {
                "objective": lambda r: r["objective"], "strategy": lambda r: r["label"],
                "optimism": lambda r: number(r["optimism"]), "over-tuning": lambda r: number(r["overtuning"]),
                "runs over-tuned": lambda r: percent(r["overtuned"]),
                "relative": lambda r: number(r["relative"]), "gap left": lambda r: number(r["gap_left"]),
                "gap left by what it recommends": lambda r: number(r["recommended_gap"]),
            }, labels=1), ABSOLUTE,
        )  # fmt: skip
    if len(found.variance):
        yield fold(
            "Where the variance is",
            prose(
                "Shares of the variance of the gap left at the largest budget that all have: random effects "
                "of strategy, its settings (workers among them), objective, both together, and the rest,",
                "which is the seed with its instance. Method of moments; a term that this design cannot show",
                "says why.", kind="small",
            ) + _table(found.variance, {
                "term": lambda r: r["term"], "levels": lambda r: str(r["levels"]),
                "share": lambda r: percent(r["share"]), "variance": lambda r: number(r["variance"]),
                "": lambda r: str(r["reason"]),
            }), RELATIVE,
        )  # fmt: skip
    undecided = open_pairs(found)
    if len(undecided):
        yield fold(
            "Undecided, and how many runs would settle it",
            prose(
                "Against the leader of the objective at the largest budget that all have. The number of runs",
                "each that would settle it in four of five experiments, corrected for the number of",
                "strategies, if difference and spread are what was seen, which a small sample says badly.",
                kind="small",
            ) + _table(undecided, {
                "objective": lambda r: r["objective"], "strategy": lambda r: r["label"],
                "against": lambda r: r["against"], "difference": lambda r: number(r["difference"])
                + spread(r["low"], r["high"]), "p (Tukey)": lambda r: _p(r["p_tukey"]),
                "correlation": lambda r: number(r["correlation"], 2), "runs": lambda r: str(r["runs"]),
                "needed": lambda r: f"{r['seeds_needed']:,.0f}", "would say": lambda r: r["would_say"],
            }, labels=1), RELATIVE,
        )  # fmt: skip
    families: dict[str, list[str]] = {}
    for objective, name in panel.families.items():
        families.setdefault(name, []).append(objective)
    if len(panel.objectives) > 1:
        yield fold(
            "Families of objectives",
            prose("What counts as one when something is said in general.", kind="small")
            + bullets(f"<b>{escape(f)}</b>: {escape(listed(v))}" for f, v in families.items()),
        )


def pair_rows(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The relative table of one objective, from its rows of `pairs`: (header, rows of plain text)."""
    several = len({r["cluster"] for r in rows}) > 1
    columns = {
        "strategy": lambda r: r["label"],
        **({"on": lambda r: r["cluster"]} if several else {}),
        "gap left": lambda r: number(r["gap_left"]) + spread(r["gap_low"], r["gap_high"]),
        "against the leader": lambda r: "leads" if r["answer"] == "leads" else number(r["difference"])
        + spread(r["low"], r["high"]),
        "p (Tukey)": lambda r: _p(r["p_tukey"]),
        "so it is": lambda r: "" if r["answer"] == "leads" else r["answer"],
        "E[min(T, B)] against it": lambda r: "" if r["answer"] == "leads" else number(r["time_difference"])
        + spread(r["time_low"], r["time_high"]),
        "correlation of pairs": lambda r: number(r["correlation"], 2),
        "": lambda r: r["reason"] if isinstance(r["reason"], str) else "",
    }  # fmt: skip
    return list(columns), _rows(rows, columns)
