"""What a results folder says beyond summary.csv, as data frames: who leads at each budget and how surely,
wins, ranks, runtime distributions, efficiency, over-tuning, shares of variance.

All are of a `bench.panel`, by the gap left. Frames named relative depend on who takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from bench.cluster import split_label
from bench.inference import (
    EQUAL,
    OPEN,
    Difference,
    Interval,
    answer,
    difference,
    holm,
    in_general,
    seeds_needed,
    tree_mean,
    tukey,
    tukey_level,
    variance_components,
)
from bench.metrics import (
    SHARES,
    TARGETS,
    Scored,
    overtuning,
    step_values,
)
from bench.panel import Ends, Panel, by_cluster
from bench.ranking import (
    Friedman,
    Wins,
    friedman,
    log_efficiency_interval,
    rank_table,
    surely_first,
    win_matrix,
)
from bench.stats import (
    clopper_pearson,
    expected_running_time,
    interquartile_mean,
    mean_interval,
)

RANGE = 2.0  # gaps left lie within -1 and 1


# Who leads ----------------------------------------------------------------------------------------------

LEADERS = [
    "objective", "cluster", "budget", "first", "second", "gap_first", "gap_second", "difference", "low",
    "high", "p", "p_holm", "answer", "runs", "strategies", "left_out", "correlation", "seeds_needed",
    "would_say", "reason",
]  # fmt: skip


def shared(ends: dict[str, Ends]) -> tuple[dict[str, Ends], bool]:
    """(ends, whether their runs are pairs): cut to the seeds that all have, where these are most of each
    one's; else as they are. So who leads, by how much and how surely are said of the same runs."""
    common: np.ndarray = next(iter(ends.values())).seeds
    if len(common) > 1 and all(np.array_equal(e.seeds, common) for e in ends.values()):
        return ends, True
    for e in ends.values():
        common = np.intersect1d(common, e.seeds)
    if len(common) < 2 or 2 * len(common) <= max(len(e.seeds) for e in ends.values()):
        return ends, False
    return {v: Ends(*(c[np.isin(e.seeds, common)] for c in e)) for v, e in ends.items()}, True


def leaders(panel: Panel) -> pd.DataFrame:
    """Relative. At each budget who of a cluster's has the smallest mean gap left on each objective, and by
    how much it leads the next: a row an objective, cluster and budget with LEADERS. p: the largest of the
    leader's against its nearest rivals (`surely_first`); p_holm: corrected for the number of objectives and
    clusters, as the level that seeds_needed goes by. runs: fewest of a strategy, of the seeds that all have
    where these are most. left_out: strategies without runs at that budget."""
    rows, clusters = [], by_cluster(panel)
    for index, budget in enumerate(panel.budgets):
        part = []
        for objective, (cluster, mine) in product(panel.objectives, clusters.items()):
            there = mine.at(objective, index)
            if there:
                left = [v for v in mine.labels if (objective, v) in panel.cells and v not in there]
                head = {"objective": objective, "cluster": cluster, "budget": budget}
                part.append({**head, "left_out": ", ".join(left), **_lead(there)})
        corrected = holm([r["p"] for r in part])
        for row, p in zip(part, corrected, strict=True):
            found = row.pop("found")
            row["p_holm"] = p
            row["answer"] = OPEN
            if found is not None:
                row["answer"] = answer(found, EQUAL, p)
                row["seeds_needed"], row["would_say"] = seeds_needed(found, EQUAL, 0.05 / len(part))
        rows += part
    return pd.DataFrame(rows, columns=pd.Index(LEADERS))


def _lead(there: dict[str, Ends]) -> dict:
    there, paired = shared(there)
    labels, ends = list(there), list(there.values())
    first, second, p = surely_first([e.gap for e in ends], paired, RANGE)
    row = {"first": labels[first], "gap_first": float(ends[first].gap.mean()), "p": p,
           "runs": min(len(e.gap) for e in ends), "strategies": len(labels), "found": None}  # fmt: skip
    if len(labels) == 1:
        return {**row, "reason": "one strategy: nothing to compare with"}
    found = apart(ends[first], ends[second], paired)
    return {
        **row, "second": labels[second], "gap_second": float(ends[second].gap.mean()),
        "difference": found.mean, "low": found.low, "high": found.high, "correlation": found.correlation,
        "reason": found.reason, "found": found,
    }  # fmt: skip


def apart(one: Ends, two: Ends, paired: bool) -> Difference:
    """Gap left of `one` less that of `two` on one objective; `paired`: by seed."""
    seeds = (one.seeds, two.seeds) if paired else (None, None)
    return difference(one.gap, two.gap, *seeds, width=RANGE)


def run_levels(families: Sequence[int], instances: Sequence[np.ndarray]) -> np.ndarray:
    """Levels i64[runs, 2 or 3] of the runs on several objectives: family, objective, and instance where one
    has several seeds."""
    columns = [
        np.stack([np.full(len(i), family), np.full(len(i), place), i], 1)
        for place, (family, i) in enumerate(zip(families, instances, strict=True))
    ]
    whole = np.concatenate(columns)
    return whole[:, :2] if all(len(np.unique(i)) == len(i) for i in instances) else whole


@dataclass(frozen=True)
class Together:
    """Labels that have runs on the same objectives at one budget: for each objective its family's number,
    their ends, whether these are pairs."""

    families: list[int]
    ends: list[dict[str, Ends]]
    paired: list[bool]

    @cached_property
    def _means(self) -> dict[str, np.ndarray]:
        labels = self.ends[0] if self.ends else {}
        return {
            v: np.array([tree_mean(e[v].gap, e[v].instances[:, None]) for e in self.ends]) for v in labels
        }

    def means(self, label: str) -> np.ndarray:
        """Mean gap left on each objective, instances counting the same."""
        return self._means[label]

    def mean(self, by_objective: np.ndarray) -> float:
        return tree_mean(by_objective, np.array(self.families)[:, None])

    def distance(self, one: str, two: str) -> float:
        """By how many standard errors over families the mean of `two` lies above that of `one`."""
        apart = self.means(two) - self.means(one)
        of = np.array(self.families)
        over = np.array([apart[of == f].mean() for f in np.unique(of)])
        if len(over) < 2:
            return 0.0
        error = over.std(ddof=1) / np.sqrt(len(over))
        if error <= 1e-12:  # as in `in_general`, where nothing varies
            error = RANGE * (1 - 0.025 ** (1 / len(over))) / special.stdtrit(len(over) - 1, 0.975)
        return over.mean() / error

    def apart(self, one: str, two: str) -> Interval:
        """Mean gap left of `one` less that of `two` over families: run by run where they are pairs, else of
        means."""
        values, instances = [], []
        for ends, paired in zip(self.ends, self.paired, strict=True):
            a, b = ends[one], ends[two]
            if paired:
                values.append(a.gap - b.gap)
                instances.append(a.instances)
            else:
                means = [tree_mean(e.gap, e.instances[:, None]) for e in (a, b)]
                values.append(np.array([means[0] - means[1]]))
                instances.append(np.array([0]))
        return in_general(np.concatenate(values), run_levels(self.families, instances), RANGE)


def general_leaders(panel: Panel) -> pd.DataFrame:
    """Relative. `leaders` over all objectives together: a row a budget and cluster, of the strategies that
    have all objectives that any of that cluster has at that budget; columns as there, and families,
    objectives (how many), absent (objectives without runs at that budget). left_out: labels that lack an
    objective. p: the largest of the leader's against the next and the two that are nearest by their standard
    error."""
    rows = []
    codes = {f: i for i, f in enumerate(dict.fromkeys(panel.families.values()))}
    for (index, budget), (cluster, mine) in product(enumerate(panel.budgets), by_cluster(panel).items()):
        there = {
            o: mine.at(o, index) for o in mine.objectives if any((o, v) in panel.cells for v in mine.labels)
        }
        absent = [o for o, found in there.items() if not found]
        there = {o: found for o, found in there.items() if found}
        if not there:
            continue
        whole = [v for v in mine.labels if all(v in found for found in there.values())]
        left_out = [v for v in mine.labels if v not in whole and any(v in f for f in there.values())]
        row = {"objective": "all", "cluster": cluster, "budget": budget, "answer": OPEN,
               "strategies": len(whole), "families": len({panel.families[o] for o in there}),
               "objectives": len(there), "left_out": ", ".join(left_out),
               "absent": ", ".join(absent)}  # fmt: skip
        if not whole:
            rows.append({**row, "reason": "no strategy has runs on every objective at this budget"})
            continue
        cut = [shared({v: found[v] for v in whole}) for found in there.values()]
        together = Together(
            [codes[panel.families[o]] for o in there], [ends for ends, _ in cut], [p for _, p in cut]
        )
        means = {v: together.mean(together.means(v)) for v in whole}
        order = sorted(means, key=lambda v: means[v])
        first = order[0]
        row |= {"first": first, "gap_first": means[first]}
        row["runs"] = min(len(e.gap) for ends in together.ends for e in ends.values())
        if len(order) == 1:
            rows.append({**row, "reason": "one strategy has all objectives: nothing to compare with"})
            continue
        found = together.apart(first, order[1])
        near = sorted(order[1:], key=lambda v: together.distance(first, v))[:2]
        rivals = [found, *(together.apart(first, v) for v in near if v != order[1])]
        p = max(r.p for r in rivals) if not found.reason else np.nan
        rows.append({
            **row, "second": order[1], "gap_second": means[order[1]], "difference": found.value,
            "low": found.low, "high": found.high, "p": p, "p_holm": p,
            "answer": answer(found, EQUAL, p), "reason": found.reason,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index([*LEADERS, "families", "objectives", "absent"]))


PAIRS = [
    "objective", "cluster", "label", "against", "gap_left", "gap_low", "gap_high", "budget", "difference",
    "low", "high", "p", "p_tukey", "answer", "time_difference", "time_low", "time_high", "time_p",
    "correlation", "runs", "seeds_needed", "would_say", "reason",
]  # fmt: skip


def against_leaders(panel: Panel) -> pd.DataFrame:
    """Relative but for gap_left, which is each strategy's own at its largest budget. Each strategy against
    the one of its cluster with the smallest mean gap left, on each objective, at the largest `budget` at
    which all of the cluster have runs: PAIRS. p_tukey: p corrected for the number of strategies, one of which
    was chosen as the leader, as the level that seeds_needed goes by; time: the difference in E[min(T, B)] of
    the near-optimal target, in full trainings, where both have runs of that budget B."""
    there = product(panel.objectives, by_cluster(panel).items())
    frames = [_against_leader(mine, objective, cluster) for objective, (cluster, mine) in there]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=pd.Index(PAIRS))


def _against_leader(panel: Panel, objective: str, cluster: str) -> pd.DataFrame:
    items = {v: panel.cells[objective, v] for v in panel.labels if (objective, v) in panel.cells}
    index = panel.last(objective)
    there, paired = shared(panel.at(objective, index)) if index >= 0 else ({}, False)
    budget = float(panel.budgets[index]) if index >= 0 else np.nan
    best = min(there, key=lambda v: there[v].gap.mean()) if there else ""
    times = {
        v: (np.minimum(item.scores[budget].reached[0], budget), item.scores[budget].runs.seeds)
        for v, item in items.items()
        if budget in item.scores
    }
    rows, apart_by = [], {}
    for label, item in items.items():
        s = item.scores[item.largest]
        gaps = s.gap_left(s.true[:, -1])
        mean, low, high = (float(v) for v in mean_interval(gaps))
        row = {"objective": objective, "cluster": cluster, "label": label, "against": best,
               "gap_left": mean, "gap_low": low, "gap_high": high, "runs": len(gaps)}  # fmt: skip
        if not best:
            row["reason"] = "no budget at which all have runs"
        elif label != best:
            d = apart_by[label] = apart(there[label], there[best], paired)
            needed, says = seeds_needed(d, EQUAL, tukey_level(len(items)))
            row |= {"budget": budget, "difference": d.mean, "low": d.low, "high": d.high, "p": d.p,
                    "reason": d.reason, "correlation": d.correlation, "runs": d.n, "seeds_needed": needed,
                    "would_say": says}  # fmt: skip
            if label in times and best in times:
                row |= _time_apart(*times[label], *times[best], budget)
        else:
            row |= {"budget": budget, "runs": len(there[best].gap)}
        rows.append(row)
    table = pd.DataFrame(rows, columns=pd.Index(PAIRS))
    table["p_tukey"] = tukey(table["p"].to_numpy(np.float64), len(items))
    table["answer"] = [
        answer(apart_by[label], EQUAL, p) if label in apart_by else "leads" if label == best else OPEN
        for label, p in zip(table["label"], table["p_tukey"], strict=True)
    ]
    return table


def _time_apart(
    mine: np.ndarray, seeds: np.ndarray, theirs: np.ndarray, others: np.ndarray, limit: float
) -> dict[str, float]:
    t = difference(mine, theirs, seeds, others, width=limit)
    return {"time_difference": t.mean, "time_low": t.low, "time_high": t.high, "time_p": t.p}


# Measures of one strategy -------------------------------------------------------------------------------


def times(panel: Panel) -> pd.DataFrame:
    """Absolute. Cost to target, a row a cell and target: success share with its exact interval, ERT and
    E[min(T, B)] with theirs, in full trainings; largest budget B."""
    rows = []
    for (objective, label), item in panel.cells.items():
        s, limit = item.scores[item.largest], item.largest
        # Nothing is cut off before the limit, so restricted means are means: of all targets at once.
        lifetimes = np.minimum(np.where(np.isfinite(s.reached), s.reached, limit), limit)
        means, lows, highs = mean_interval(lifetimes.T)
        lows, highs = np.maximum(lows, 0.0), np.minimum(highs, limit)
        for which, target in enumerate(TARGETS):
            reached = np.isfinite(s.reached[which])
            spent = np.where(reached, s.reached[which], s.runs.total / item.max_epoch)
            low, high = clopper_pearson(reached.sum(), len(reached))
            ert = expected_running_time(spent, reached)
            rows.append({
                "objective": objective, "label": label, "target": target, "budget": limit,
                "runs": len(reached), "success": reached.mean(), "success_low": float(low),
                "success_high": float(high), "ert": ert[0], "ert_low": ert[1], "ert_high": ert[2],
                "restricted_mean": float(means[which]), "restricted_mean_low": float(lows[which]),
                "restricted_mean_high": float(highs[which]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def runtime_distribution(panel: Panel, points: int = 60) -> pd.DataFrame:
    """Absolute, over the objectives that a label has. Share of (objective, target, run) that are reached
    within a budget, up to the label's largest, targets p = .1, .01, .001, objectives counting the same:
    columns label, budget, share, objectives. What an objective's own budget ends before is not reached."""
    which = [TARGETS.index(f"p={p:g}") for p in SHARES]
    rows = []
    for label in panel.labels:
        shares, top = [], max(item.largest for (_, v), item in panel.cells.items() if v == label)
        grid = np.geomspace(min(1.0, top), top, points)
        for objective in panel.objectives:
            item = panel.cells.get((objective, label))
            if item is not None:
                reached = item.scores[item.largest].reached[which].ravel()
                shares.append(np.searchsorted(np.sort(reached), grid + 1e-9, side="right") / len(reached))
        mean = np.mean(shares, axis=0)
        rows.append(pd.DataFrame({"label": label, "budget": grid, "share": mean, "objectives": len(shares)}))
    columns = pd.Index(["label", "budget", "share", "objectives"])
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def middle_halves(panel: Panel) -> pd.DataFrame:
    """Absolute, over the objectives that a label has: interquartile mean of the gap left at the largest
    budget over runs and objectives, with its stratified bootstrap interval."""
    rows = []
    for label in panel.labels:
        items = [panel.cells[o, label] for o in panel.objectives if (o, label) in panel.cells]
        gaps = [s.gap_left(s.true[:, -1]) for s in (item.scores[item.largest] for item in items)]
        n = min(len(g) for g in gaps)
        value, low, high = interquartile_mean(np.stack([g[:n] for g in gaps], 1))
        rows.append({"label": label, "objectives": len(gaps), "runs": n,
                     "iqm": value, "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)


def tuned_too_far(panel: Panel) -> pd.DataFrame:
    """Absolute. A row a cell at its largest budget, means over runs in units of the gap: optimism, by how
    much the incumbent's told loss lies below its true one; overtuning, by how much its true loss is worse
    than the best incumbent's so far; overtuned, the share of runs where it is; relative, the median of
    relative over-tuning; recommended_gap, the gap left by what the strategy recommends, nan where it does
    not."""
    rows = []
    for (objective, label), item in panel.cells.items():
        s = item.scores[item.largest]
        gap, recommended = s.gap_left(s.true), s.runs.recommended
        lost, relative = overtuning(s.true)
        there = np.isfinite(s.true[:, -1])
        said = np.isfinite(recommended)
        with np.errstate(invalid="ignore"):
            told = s.gap_left(np.where(np.isfinite(s.told), s.told, np.inf))[:, -1]
        relative = relative[there, -1]
        relative = relative[~np.isnan(relative)]
        rows.append({
            "objective": objective, "label": label,
            "optimism": float((gap[:, -1] - told)[there].mean()) if there.any() else np.nan,
            "overtuning": float((gap[:, -1] - np.minimum.accumulate(gap, axis=1)[:, -1]).mean()),
            "overtuned": float((lost[there, -1] > 0).mean()) if there.any() else np.nan,
            "relative": float(np.median(relative)) if len(relative) else np.nan,
            "gap_left": float(gap[:, -1].mean()),
            "recommended_gap": float(s.gap_left(recommended)[said].mean()) if said.any() else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


# Relative measures --------------------------------------------------------------------------------------


def gaps_over_budget(panel: Panel) -> pd.DataFrame:
    """Absolute. Mean gap left: columns objective, label, budget, value."""
    rows = [
        {"objective": o, "label": label, "budget": b, "value": float(e.gap.mean())}
        for (o, label), ends in panel.ends.items()
        for b, e in zip(panel.budgets, ends, strict=True)
        if e is not None
    ]
    return pd.DataFrame(rows, columns=pd.Index(["objective", "label", "budget", "value"]))


def rank_over_budget(panel: Panel) -> pd.DataFrame:
    """Relative. Mean rank of the mean gap left among its cluster's at each budget: label, budget, rank,
    objectives."""
    gaps: Any = gaps_over_budget(panel)
    clusters = by_cluster(panel).values()
    tables = [rank_table(gaps[gaps["label"].isin(mine.labels)]) for mine in clusters]
    return pd.concat([t for t in tables if len(t)] or [rank_table(gaps[:0])], ignore_index=True)


def _finals(panel: Panel, objective: str) -> dict[str, np.ndarray]:
    """Gap left of each label at the largest budget at which all labels of the objective have runs."""
    index = panel.last(objective)
    return {v: e.gap for v, e in panel.at(objective, index).items()} if index >= 0 else {}


def wins(panel: Panel) -> tuple[list[str], Wins]:
    """Relative. (labels, one cluster's after the other; their win probabilities) by the gap left at the
    largest budget that all of a cluster have; within EQUAL of each other is a tie. nan between clusters."""
    clusters = list(by_cluster(panel).values())
    labels = [v for mine in clusters for v in mine.labels]
    families = [panel.families[o] for o in panel.objectives]
    value, low, high = np.full((3, len(labels), len(labels)), np.nan)
    out = Wins(value, low, high, np.zeros((len(labels), len(labels)), np.int64))
    for mine in clusters:
        finals = [_finals(mine, o) for o in mine.objectives]
        found = win_matrix([[there.get(v) for v in mine.labels] for there in finals], families, EQUAL)
        place = slice(labels.index(mine.labels[0]), labels.index(mine.labels[-1]) + 1)
        for into, part in zip(out, found, strict=True):
            into[place, place] = part
    return labels, out


def rank_tests(panel: Panel) -> dict[str, tuple[list[str], Friedman]]:
    """Relative. `rank_test` of each cluster."""
    return {cluster: rank_test(mine) for cluster, mine in by_cluster(panel).items()}


def rank_test(panel: Panel) -> tuple[list[str], Friedman]:
    """Relative. (labels, Friedman's and Nemenyi's tests) of mean gaps left at the largest budget that
    all have; labels that have all objectives."""
    whole = [v for v in panel.labels if all((o, v) in panel.cells for o in panel.objectives)]
    finals = [_finals(panel, o) for o in panel.objectives]
    table = np.array([[there[v].mean() if v in there else np.nan for v in whole] for there in finals])
    return whole, friedman(table.reshape(len(panel.objectives), len(whole)))


FACTORS = ["label", "objective", "log_factor", "low", "high", "reason", "behind"]


def factors(panel: Panel, baseline: str, draws: int = 200, points: int = 40) -> pd.DataFrame:
    """Relative to one strategy. log of the factor of trainings that each label needs of the baseline's on
    each objective, on the same cluster, with its interval from so many resamples: FACTORS. behind: whether
    its median run ends behind the baseline's, so that it never has what that ends with."""
    rows = []
    based = {split_label(v)[1]: v for v in panel.labels if split_label(v)[0] == baseline}
    for label, objective in product(panel.labels, panel.objectives):
        base = based.get(split_label(label)[1], "")
        one, two = (panel.cells.get((objective, v)) for v in (label, base))
        if label == base or one is None or two is None:
            continue
        top = min(one.largest, two.largest)
        grid = np.geomspace(min(1.0, top), top, points)
        curves = _best_so_far(one, grid), _best_so_far(two, grid)
        found = log_efficiency_interval(curves[0], curves[1], grid, draws)
        ends = [np.sort(c[:, -1])[(len(c) - 1) // 2] for c in curves]
        rows.append((label, objective, found.value, found.low, found.high, found.reason, ends[0] > ends[1]))
    return pd.DataFrame(rows, columns=pd.Index(FACTORS))


def efficiency(factors: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Relative to one strategy. `factors` as factors, and of each label ("all") over families: label,
    objective, factor, low, high, behind (on how many objectives), objectives, reason."""
    rows = []
    codes = {f: i for i, f in enumerate(dict.fromkeys(panel.families.values()))}
    place = {o: i for i, o in enumerate(panel.objectives)}
    for label in panel.labels:
        mine: Any = factors[factors["label"] == label]
        mine = sorted(mine.to_dict("records"), key=lambda r: place[r["objective"]])
        rows += [(label, *(r[c] for c in FACTORS[1:6]), int(r["behind"]), 1) for r in mine]
        kept = [r for r in mine if np.isfinite(r["log_factor"])]
        if kept:
            levels = np.array([[codes[panel.families[r["objective"]]], i] for i, r in enumerate(kept)])
            whole = in_general(np.array([r["log_factor"] for r in kept]), levels)
            lacking = [r["objective"] for r in mine if not np.isfinite(r["log_factor"])]
            without = f"without {', '.join(lacking)}, where half of the runs of one have no result"
            reason = "; ".join(filter(None, [whole.reason, without if lacking else ""]))
            behind = sum(bool(r["behind"]) for r in mine)
            rows.append((label, "all", whole.value, whole.low, whole.high, reason, behind, len(mine)))
    columns = ["label", "objective", "factor", "low", "high", "reason", "behind", "objectives"]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    logs = columns[2:5]
    table[logs] = np.exp(table[logs].astype(np.float64))
    return table


def _best_so_far(item: Scored, grid: np.ndarray) -> np.ndarray:
    """Gap left f64[runs, g] of the runs of the largest budget, its best until then, infinite before the first
    result."""
    s = item.scores[item.largest]
    best = np.where(np.isfinite(s.true), s.gap_left(s.true), np.inf)
    best = np.minimum.accumulate(best, axis=1)
    return step_values(s, best, grid, item.max_epoch, np.inf)


def variance(panel: Panel) -> pd.DataFrame:
    """Shares of variance of the gap left at the largest budget that all have: strategy, its settings (labels
    of one strategy), objective, strategy and objective together, and seed (the rest, instances included)."""
    gaps, strategy, label_of, objective_of = [], [], [], []
    finals = {o: _finals(panel, o) for o in dict.fromkeys(o for o, _ in panel.cells)}
    for (objective, label), item in panel.cells.items():
        gap = finals[objective].get(label)
        if gap is None:
            continue
        gaps.append(gap)
        strategy += [item.cell.strategy] * len(gap)
        label_of += [label] * len(gap)
        objective_of += [objective] * len(gap)
    if not gaps:
        return pd.DataFrame(columns=pd.Index(["term", "levels", "variance", "share", "reason"]))
    return variance_components(
        np.concatenate(gaps),
        {
            "strategy": strategy,
            "settings": label_of,
            "objective": objective_of,
            "strategy x objective": list(zip(label_of, objective_of, strict=True)),
        },
    )
