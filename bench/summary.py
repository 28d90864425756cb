"""What scored runs say in numbers: the rows of summary.csv, the curves of an objective's figure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.metrics import TARGETS, Score, Scored, step_values
from bench.stats import (
    budget_needed,
    mean_interval,
    median_interval,
    median_lifetime,
    restricted_mean,
    wilson,
)

SUMMARY = [
    "objective", "label", "status", "budget", "target", "p", "runs", "failed", "reached", "budget_needed",
    "budget_needed_low", "budget_needed_high", "trials_median", "ci_low", "ci_high", "trials_restricted_mean",
    "regret_mean", "regret_ci_low", "regret_ci_high", "epochs_spent",
]  # fmt: skip


def planned_success(scored: Scored) -> np.ndarray:
    """Whether the run of each seed planned for each budget ends within each of TARGETS:
    f64[targets, seeds, budgets], nan where there is no such run."""
    seeds = np.unique(np.concatenate([s.runs.seeds for s in scored.scores.values()]))
    success = np.full((len(TARGETS), len(seeds), len(scored.scores)), np.nan)
    for j, s in enumerate(scored.scores.values()):
        success[:, np.searchsorted(seeds, s.runs.seeds), j] = np.isfinite(s.reached)
    return success


def summary(scored: list[Scored], goals: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The table of summary.csv: `rows` with the columns SUMMARY."""
    return pd.DataFrame(rows(scored, goals), columns=pd.Index(SUMMARY))


def rows(scored: list[Scored], goals: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """One row per objective, label, budget and target; a cell without scored runs has one row with runs 0.

    p is the median over the instances that were run · reached counts the runs that end within the target ·
    budget_needed is the planned reading, the same in each of a cell's budgets · trials_median and
    trials_restricted_mean are within a run of that row's budget, so the headline is the largest budget's ·
    regret_mean in the objective's units · epochs_spent is a run's mean."""
    found: list[dict[str, Any]] = []
    shares: dict[tuple[str, str, bytes], float] = {}
    for item in scored:
        cell = item.cell
        head = {"objective": cell.objective, "label": cell.label, "status": cell.status}
        if not item.scores:
            found.append({**head, "runs": 0})
            continue
        budgets = np.array(list(item.scores))
        regret = {b: mean_interval(s.regret) for b, s in item.scores.items()}
        success = planned_success(item)
        for which, name in enumerate(TARGETS):
            needed = budget_needed(success[which], budgets)
            for budget, s in item.scores.items():
                time = s.reached[which]
                event = np.isfinite(time)
                lifetime = np.where(event, time, budget)
                median, low, high = median_lifetime(lifetime, event)
                mean, mean_low, mean_high = regret[budget]
                key = (cell.objective, name, s.runs.instance.tobytes())
                if key not in shares:
                    p = goals[cell.objective].loc[np.unique(s.runs.instance), f"p:{name}"]
                    shares[key] = float(p.median())
                found.append({
                    **head, "budget": budget, "target": name, "p": shares[key],
                    "runs": len(time), "failed": int(s.runs.failed.sum()), "reached": int(event.sum()),
                    "budget_needed": needed[0], "budget_needed_low": needed[1],
                    "budget_needed_high": needed[2], "trials_median": median, "ci_low": low, "ci_high": high,
                    "trials_restricted_mean": restricted_mean(lifetime, event, budget),
                    "regret_mean": float(mean), "regret_ci_low": float(mean_low),
                    "regret_ci_high": float(mean_high),
                    "epochs_spent": float(s.runs.total.mean()),
                })  # fmt: skip
    return found


class Curves(NamedTuple):
    """What a figure of one objective shows, as frames with columns label, budget, middle, low, high: medians
    of regret with their interval and shares of near-optimal runs with Wilson's, within runs of the largest
    budget, and (`planned_*`) at the end of the runs planned for each budget where that differs."""

    regret: pd.DataFrame
    share: pd.DataFrame
    planned_regret: pd.DataFrame
    planned_share: pd.DataFrame


def curves(items: list[Scored], ratio: bool, points: int = 90) -> Curves:
    """Curves of the scored cells of one objective; `ratio`: loss over the static optimum, not minus it."""
    parts: dict[str, list[tuple]] = {name: [] for name in Curves._fields}

    def add(name, label, budget, middle, low, high):
        parts[name].append((label, budget, middle, low, high))

    for item in items:
        label, top = item.cell.label, item.largest
        s = item.scores[top]
        grid = np.geomspace(0.25, top, points) if item.max_epoch > 1 else np.arange(1, top + 0.5)
        grid = np.union1d(np.ceil(grid * item.max_epoch - 1e-9) / item.max_epoch, [*item.scores, top])
        grid = grid[grid <= top]

        def values(s: Score) -> np.ndarray:
            optimum = s.optimum[:, None]
            return s.true / optimum if ratio else s.true - optimum

        steps = step_values(s, values(s), grid, item.max_epoch, np.inf)
        add("regret", label, grid, *median_interval(steps))
        near = (s.reached[0][:, None] <= grid + 1e-9).sum(0)
        add("share", label, grid, near / len(s.reached[0]), *wilson(near, len(s.reached[0])))
        if not item.cell.info.get("anytime"):
            for budget, s in item.scores.items():
                near, n = int(np.isfinite(s.reached[0]).sum()), len(s.reached[0])
                add("planned_share", label, [budget], [near / n], *([v] for v in wilson(near, n)))
                add("planned_regret", label, [budget], *([v] for v in median_interval(values(s)[:, -1])))
    return Curves(*(stacked(rows, "budget") for rows in parts.values()))


def stacked(rows: list[tuple], place: str) -> pd.DataFrame:
    """Curves as one frame, of (label, places, middle, low, high), arrays: columns label, `place`, middle,
    low, high. At once: thousands of small frames, and words one by one, take seconds."""
    labels = pd.Series([row[0] for row in rows], dtype=str).repeat([len(row[1]) for row in rows])
    columns = {
        name: np.concatenate([np.asarray(row[1 + i], np.float64) for row in rows]) if rows else np.empty(0)
        for i, name in enumerate((place, "middle", "low", "high"))
    }
    return pd.DataFrame({"label": labels.reset_index(drop=True), **columns})
