"""Who leads, at each planned budget, with and without informative curves, on each cluster; or nobody.

The rule is the report's own (`bench.measures`): strategies are compared by the mean gap left, families of
objectives are the sample, and a leader must beat every other. Since all cells of the table are read at
once, p is corrected for how many there are (Holm). Where nobody surely leads, those are named that may be the
best: a set that holds the true best of the cell with 95 % (Hsu's comparisons with the best).

Curves are informative where early ranks tell of the end: the rank correlation of the told loss at a ninth of
training with the true loss at the end, over random configurations, is at least INFORMATIVE. From there on,
halving that keeps one in nine at that point keeps the best of 81 more often than not (51 % at .5 where ranks
are those of a bivariate normal law; 11 % at 0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.cluster import split_label
from bench.inference import EQUAL, WORSE, Difference, Interval, answer, holm, in_general, not_the_best
from bench.measures import RANGE, Together, apart, run_levels, shared
from bench.panel import Ends, Panel, by_cluster
from bench.stats import mean_interval

INFORMATIVE = 0.5
WITH, WITHOUT, UNKNOWN = "informative curves", "no informative curves", "curves not described"
LEADS, FIRST, BEHIND, LEFT_OUT = "leads", "among the first", "behind", "left out"
COLUMNS = [
    "curves", "cluster", "budget", "strategy", "place", "gap_left", "gap_low", "gap_high", "against",
    "difference", "low", "high", "p", "p_best", "p_lead", "objectives", "families", "runs", "reason",
]  # fmt: skip


def curves_of(max_epoch: int, rank: float) -> str:
    """Which column an objective belongs to: a formula has no curve; `rank` is nan where it is not known."""
    if max_epoch == 1:
        return WITHOUT
    return UNKNOWN if np.isnan(rank) else WITH if rank >= INFORMATIVE else WITHOUT


def curves_table(panel: Panel, ranks: Mapping[str, float]) -> pd.DataFrame:
    """Which column each objective belongs to: objective, max_epoch, rank_at_ninth, curves; `ranks`: the rank
    correlations that are known (`nearopt describe`)."""
    epochs = {o: item.max_epoch for (o, _), item in panel.cells.items()}
    rows = [
        (o, epochs[o], float(ranks.get(o, np.nan)) if epochs[o] > 1 else np.nan) for o in panel.objectives
    ]
    columns = pd.Index(["objective", "max_epoch", "rank_at_ninth", "curves"])
    return pd.DataFrame([(*row, curves_of(*row[1:])) for row in rows], columns=columns)


def leaders_table(panel: Panel, described: pd.DataFrame, budgets: Sequence[float]) -> pd.DataFrame:
    """COLUMNS, a row for each cell of the table (curves, cluster, budget) and strategy. gap_left with its
    interval is absolute, over the objectives that the strategy has; all that follows is relative: `against`,
    the one with the smallest mean, difference (positive: behind it) with its interval; p_best: that it is not
    the best of its cell (`not_the_best`); p_lead: of the first, against all others, corrected for the number
    of cells. `described`: `curves_table`."""
    kinds = dict(zip(described["objective"], described["curves"], strict=True))
    groups = {c: [o for o in panel.objectives if kinds[o] == c] for c in (WITH, WITHOUT, UNKNOWN)}
    found = []
    for curves, objectives in groups.items():
        for cluster, part in by_cluster(panel._replace(objectives=objectives)).items():
            for budget in budgets:
                rows = _compared(part, int(np.flatnonzero(panel.budgets == budget)[0]))
                head = {"curves": curves, "cluster": cluster, "budget": budget}
                found += [[{**head, **r} for r in rows]] if rows else []
    for rows, p in zip(found, holm([_lead_p(rows) for rows in found]), strict=True):
        _place(rows, p)
    return pd.DataFrame([r for rows in found for r in rows], columns=pd.Index(COLUMNS))


def _compared(part: Panel, index: int) -> list[dict[str, Any]]:
    """The rows of one cell, by mean gap left, those that lack an objective last; `found`: the difference."""
    there = {o: f for o in part.objectives if (f := part.at(o, index))}
    labels = [v for v in part.labels if any(v in f for f in there.values())]
    whole = [v for v in labels if all(v in f for f in there.values())]
    rows = {v: _own(part, {o: f[v] for o, f in there.items() if v in f}, v) for v in labels}
    for v in labels:
        if v not in whole:
            rows[v] |= {"place": LEFT_OUT, "reason": f"lacks {len(there) - rows[v]['objectives']} objectives"}
    if len(whole) < 2:
        return [r | {"place": LEFT_OUT, "reason": r["reason"] or "nobody to compare with"}
                for r in rows.values()]  # fmt: skip
    means, against = _pairs(part, {o: {v: f[v] for v in whole} for o, f in there.items()})
    order = sorted(whole, key=lambda v: means[v])
    for v in order[1:]:
        d = against(v, order[0])
        value = d.mean if isinstance(d, Difference) else d.value
        rows[v] |= {"against": rows[order[0]]["strategy"], "difference": value, "low": d.low, "high": d.high,
                    "p": d.p, "reason": d.reason, "found": d}  # fmt: skip
    corrected = not_the_best([rows[v]["p"] for v in order[1:]], len(whole))
    for v, p in zip(order[1:], corrected, strict=True):
        rows[v]["p_best"] = p
    return [rows[v] for v in [*order, *(v for v in labels if v not in whole)]]


def _own(part: Panel, ends: dict[str, Ends], label: str) -> dict[str, Any]:
    """What a strategy alone decides: the mean gap left over its objectives, families counting the same."""
    families = [part.families[o] for o in ends]
    if len(ends) == 1:
        value, low, high = (float(v) for v in mean_interval(next(iter(ends.values())).gap))
    else:
        codes = np.unique(families, return_inverse=True)[1].tolist()
        levels = run_levels(codes, [e.instances for e in ends.values()])
        found = in_general(np.concatenate([e.gap for e in ends.values()]), levels, RANGE)
        value, low, high = found.value, found.low, found.high
    return {
        "strategy": split_label(label)[0], "gap_left": value, "gap_low": low, "gap_high": high, "p": np.nan,
        "objectives": len(ends), "families": len(set(families)), "reason": "",
        "runs": min(len(e.gap) for e in ends.values()),
    }  # fmt: skip


def _pairs(
    part: Panel, there: dict[str, dict[str, Ends]]
) -> tuple[dict[str, float], Callable[[str, str], Interval | Difference]]:
    """(mean gap left of each label, how two are compared): over families of objectives; on a single
    objective, over its runs."""
    cut = [shared(ends) for ends in there.values()]
    labels = list(cut[0][0])
    if len(cut) == 1:
        ends, paired = cut[0]
        return {v: float(ends[v].gap.mean()) for v in labels}, lambda a, b: apart(ends[a], ends[b], paired)
    codes = np.unique([part.families[o] for o in there], return_inverse=True)[1].tolist()
    together = Together(codes, [ends for ends, _ in cut], [paired for _, paired in cut])
    return {v: together.mean(together.means(v)) for v in labels}, together.apart


def _lead_p(rows: list[dict[str, Any]]) -> float:
    """The largest p of the first against any other: it leads where that is small."""
    p = [r["p"] for r in rows if "found" in r]
    return max(p) if p and not np.isnan(p).any() else np.nan


def _place(rows: list[dict[str, Any]], p: float) -> None:
    """Says of each row of a cell where its strategy stands; `p`: of the first, corrected."""
    rivals = [r for r in rows if "found" in r]
    if not rivals:
        return
    sure = all(answer(r["found"], EQUAL, p) == WORSE for r in rivals)
    rows[0] |= {"place": LEADS if sure else FIRST, "p_lead": p}
    for r in rivals:
        behind = answer(r.pop("found"), EQUAL, r["p_best"]) == WORSE
        r["place"] = BEHIND if sure or behind else FIRST
    # Where nobody leads, the next is not behind either, with all that tie: the tests differ in what they are
    # corrected for.
    if not sure and all(r["place"] == BEHIND for r in rivals):
        for r in rivals:
            if np.isclose(r["difference"], rivals[0]["difference"], rtol=1e-9, atol=0):
                r["place"] = FIRST
