"""What a report says in sentences: who leads, what each needs, what near-optimal means (plain text)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from bench.cluster import split_labels
from bench.metrics import MOST, NEAR
from bench.page.budget import ALONE, CHANCE, CLOSE, rows_at, said
from bench.page.budget import SURE as SURELY
from bench.page.data import READING, SURE, Page
from bench.page.words import listed, number, percent
from bench.panel import by_cluster
from bench.plots import rank
from bench.protocols import LEVELS

NAMED = 6  # strategies that the verdict names of more; the tables have all


def _some(names: list[str], most: int = 8) -> str:
    """All names where they are few, else how many."""
    return listed(names) if len(names) <= most else f"{len(names)} objectives"


def leading(page: Page) -> list[str]:
    """Who leads at the largest budget, in general and objective by objective, each at the largest with
    which all its strategies were run, and how surely."""
    found = page.measures
    if len(page.labels) < 2 or not len(found.panel.budgets):
        return []
    clusters = by_cluster(found.panel)
    most: Any = found.leaders.groupby(["objective", "cluster"])["budget"].max()
    last = {(o, c): clusters[c].last(o) for o, c in most.index}
    most = {of: float(found.panel.budgets[i]) if i >= 0 else most[of] for of, i in last.items()}
    tops = sorted(set(most.values()), reverse=True)
    rows = rows_at(found.leaders, found.general, tops[0])
    out = [said(rows, tops[0])] if len(rows) == 1 or rows[0]["whole"] else []
    for top, cluster in product(tops, clusters):
        mine = [
            row
            for row in rows_at(found.leaders, found.general, top)
            if not row["whole"] and row["of"][1] == cluster and most[row["of"]] == top
        ]
        parts = _leads(mine)
        if parts and len(rows) > 1:
            on = f" ({cluster})" if len(clusters) > 1 else ""
            out.append(f"By the gap left with {top:g} full trainings{on}: {'; '.join(parts)}.")
    return out


def _leads(rows: list[dict[str, Any]]) -> list[str]:
    told: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        who = row["first"] if row["sure"] in (SURELY, ALONE) else ""
        told.setdefault(row["sure"], {}).setdefault(who, []).append(row["of"][0])
    parts = [
        f"{label} surely leads on {_some(objectives)}"
        for label, objectives in sorted(told.get(SURELY, {}).items(), key=lambda p: -len(p[1]))
    ]
    for sure, words in ((CLOSE, "the first two are practically equal on"), (CHANCE, "inconclusive on")):
        if sure in told:
            parts.append(f"{words} {_some(told[sure][''])}")
    return parts + [
        f"only {label} was run so far on {_some(objectives)}"
        for label, objectives in told.get(ALONE, {}).items()
    ]


def verdict(page: Page) -> list[str]:
    """The answer in sentences (plain text)."""
    head = page.head
    if not len(head):
        return ["No cell of this folder has a result that can be scored."]
    out = leading(page)
    counts = {}
    for label in page.labels:
        rows = head[head["label"] == label]
        if len(rows):
            counts[label] = (int(np.isfinite(rows["budget_needed"]).sum()), len(rows))
    order = sorted(counts, key=lambda label: (-counts[label][0] / counts[label][1], rank(label)))
    named = order if len(order) <= NAMED + 2 else order[:NAMED]
    told = [
        f"{label} on {counts[label][0]} of {counts[label][1]}{'' if i else ' objectives'}"
        for i, label in enumerate(named)
    ]
    others = len(order) - len(named)
    told += [f"{others} others on no larger share"] if others else []
    limits = sorted({float(b) for b in head["budget"]})
    most = f"{limits[-1]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"
    out.append(
        f"Half of the runs or more are near-optimal with at most {most} full trainings: {listed(told)}."
    )
    clusters = split_labels(counts)
    for cluster, labels in clusters.items():
        out += _needs(page, labels, f" ({cluster})" if len(clusters) > 1 else "")
    few = sorted({int(n) for n in head["runs"] if n < SURE})
    if few:
        out.append(
            f"With fewer than {SURE} runs a cell there is no 95 % interval, and nothing is emphasised."
        )
    return out


def _needs(page: Page, labels: list[str], on: str) -> list[str]:
    """Who of a cluster's needs the fewest trainings, and where nobody does."""
    clear: dict[str, list[str]] = {}
    open_, nobody = [], []
    mine: Any = page.head[page.head["label"].isin(labels)]
    for objective in page.objectives:
        rows: Any = mine[mine["objective"] == objective]
        if not len(rows):
            continue
        winners = {w for reading in READING for w in page.best[objective, reading] if w in labels}
        if not np.isfinite(rows["trials_median"]).any() and not np.isfinite(rows["budget_needed"]).any():
            nobody.append(objective)
        elif len(winners) == 1:
            clear.setdefault(str(winners.pop()), []).append(objective)
        elif len(rows) > 1 and (rows["runs"] >= SURE).all():
            open_.append(objective)
    out = [
        f"{label} needs the fewest on {_some(clear[label])}: within a run or to plan, its 95 % interval lies "
        f"below all others'{on}."
        for label in sorted(clear, key=lambda v: (-len(clear[v]), rank(v)))
    ]
    if open_:
        out.append(f"By what it needs, none is clearly ahead on {_some(open_)}{on}: intervals overlap.")
    if nobody:
        out.append(f"No strategy gets half of its runs near-optimal on {_some(nobody)}{on}.")
    return out


def meaning(page: Page, objective: str) -> str:
    """What near-optimal means on an objective, in its own units (plain text)."""
    goals: Any = page.goals.get(objective)
    if goals is None or not len(goals):
        return "There is no stored reference, so nothing can be scored."
    ratio, items = page.scale(objective)
    ran = [s.runs.instance for item in items for s in item.scores.values()]
    instances = np.unique(np.concatenate(ran or [goals.index.to_numpy()]))
    goals = goals.loc[goals.index.intersection(instances)]
    n = len(goals)
    columns = {name: goals[name].to_numpy(np.float64) for name in ("optimum", "median", NEAR, f"p:{NEAR}")}
    columns["above"] = columns[NEAR] - columns["optimum"]

    def over(column, show=number):
        there = columns[column][~np.isnan(columns[column])]
        low, middle, high = (f(there) if len(there) else np.nan for f in (np.min, np.median, np.max))
        return show(middle) if show(low) == show(high) else f"{show(middle)} ({show(low)} to {show(high)})"

    p = columns[f"p:{NEAR}"]
    capped = p >= MOST * (1 - 1e-9)
    log = " (on a log scale)" if ratio else ""
    rule = f"within 5 % of the gap{log} to the median random configuration's"
    if capped.all():
        rule = "what the best 2 % of random configurations reach; the median one has"
    elif capped.any():
        rule = f"what the best 2 % of random ones reach ({capped.sum()} of {n} instances) or {rule}"
    spread = "" if n == 1 else f" (medians over {n} instances, range in brackets)"
    middle = float(np.median(p)) if n else np.nan
    need = number(1 / middle, 2)
    finals = [item.scores[item.largest].regret for item in items]
    lucky = ""
    unknown = bool(goals["dynamic"].isna().all())  # how low a run can end
    if unknown and any((regret < -0.01 * float(np.nanmedian(columns["above"]))).any() for regret in finals):
        lucky = (
            " Some runs end below the best: by luck, by what they changed on the way, or because "
            "another configuration suits their instance better."
        )
    prefix = "more than " if middle <= LEVELS[0] * (1 + 1e-9) else ""
    return (
        f"Near-optimal is a true loss of at most {over(NEAR)}. That is {over('above')} above the best "
        f"constant configuration's {over('optimum')}: {rule} {over('median')}{spread}. "
        f"Of random configurations {over(f'p:{NEAR}', percent)} are that good, so random search is "
        f"expected to need {prefix}{need} full trainings.{lucky}"
    )
