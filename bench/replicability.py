"""How often a comparison of a usual size names the wrong winner: a large experiment, subsampled.

The large experiment stands for the world: in truth that strategy is best which has the smallest mean gap left
over its tasks and seeds. Smaller ones draw tasks and seeds from it, the same for all strategies, with
replacement: so they are independent samples of that world at every size, as a paper's are of the real one
(without it, as many tasks as there are would always be right). Each names a winner in two ways: whoever has
the smallest mean, and, more careful, only if its lead over every other has p <= .05 over the tasks (Student's
t of the differences of task means, the usual practice; an intersection-union test, so the number of
strategies needs no correction)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from bench.panel import Panel

SHOWN = ("wrong", "declared", "swapped")
SEEDS, TASKS, DRAWS = (5, 10, 20, 30), (5, 10, 20, 35), 1000


def cube_of(panel: Panel) -> tuple[np.ndarray, list[str], list[str]]:
    """(gap left f64[labels, objectives, seeds], labels, objectives) of the labels that every objective has,
    at the largest budget at which all of an objective's have runs; the seeds that all cells have. Raises
    ValueError where there is no such budget, or fewer than two labels, objectives or seeds are left."""
    labels = [v for v in panel.labels if all((o, v) in panel.cells for o in panel.objectives)]
    places = {o: panel.last(o) for o in panel.objectives}
    if min(places.values(), default=0) < 0:
        without = ", ".join(o for o, i in places.items() if i < 0)
        raise ValueError(f"replicability needs a budget that all strategies have, there is none on {without}")
    ends = {(o, v): panel.at(o, places[o])[v] for o in panel.objectives for v in labels}
    seeds: np.ndarray | None = None
    for e in ends.values():
        seeds = e.seeds if seeds is None else np.intersect1d(seeds, e.seeds)
    count = 0 if seeds is None else len(seeds)
    if seeds is None or min(len(labels), len(panel.objectives), count) < 2:
        raise ValueError(
            "replicability needs two strategies that every objective has, two objectives and two seeds, got "
            f"{len(labels)}, {len(panel.objectives)} and {count}"
        )
    values = [
        [e.gap[np.isin(e.seeds, seeds)] for e in (ends[o, v] for o in panel.objectives)] for v in labels
    ]
    return np.array(values), labels, panel.objectives


def wrong_winners(
    values: np.ndarray,
    seeds: Sequence[int] = SEEDS,
    tasks: Sequence[int] = TASKS,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """A row for each size that values f64[labels, objectives, seeds] have: seeds, tasks, wrong (share of
    the experiments whose smallest mean is not the true winner's), loss (by how much the named one is worse
    in truth, mean), declared (share that are sure), declared_wrong (share of all that are sure and
    wrong), swapped (share of pairs of strategies that are in the wrong order)."""
    _, objectives, runs = values.shape
    truth = values.mean((1, 2))
    winner, rng, rows = int(truth.argmin()), np.random.default_rng(0), []
    one, two = np.triu_indices(len(truth), 1)
    for t in tasks:
        for n in seeds:
            if t > objectives or n > runs:
                continue
            named, sure, swapped = np.empty(draws, np.int64), np.empty(draws, bool), np.empty(draws)
            for d in range(draws):
                chosen, columns = rng.integers(objectives, size=t), rng.integers(runs, size=n)
                means = values[:, chosen][:, :, columns].mean(2)
                whole = means.mean(1)
                first = int(whole.argmin())
                swapped[d] = ((whole[one] < whole[two]) != (truth[one] < truth[two])).mean()
                apart = np.delete(means - means[first], first, axis=0)
                error = apart.std(1, ddof=1) / np.sqrt(t)
                with np.errstate(divide="ignore", invalid="ignore"):
                    nearest = np.where(error > 0, apart.mean(1) / error, np.inf * (apart.mean(1) > 0)).min()
                named[d] = first
                sure[d] = 2 * special.stdtr(t - 1, -nearest) <= 0.05
            wrong = named != winner
            rows.append({
                "tasks": t, "seeds": n, "wrong": wrong.mean(), "loss": (truth[named] - truth[winner]).mean(),
                "declared": sure.mean(), "declared_wrong": (sure & wrong).mean(),
                "swapped": swapped.mean(), "draws": draws,
            })  # fmt: skip
    columns = ["tasks", "seeds", "wrong", "loss", "declared", "declared_wrong", "swapped", "draws"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def by_size(table: pd.DataFrame) -> str:
    """`wrong_winners` as a table of tasks by seeds (markdown): the shares of experiments that name the wrong
    winner and that declare one, and of pairs in the wrong order."""
    seeds = sorted(table["seeds"].unique())
    lines = ["| | " + " | ".join(f"{n} seeds" for n in seeds) + " |", "|" + " --- |" * (len(seeds) + 1)]
    for tasks, part in table.groupby("tasks"):
        rows: dict[Any, Any] = {r["seeds"]: r for r in part.to_dict("records")}
        cells = [" / ".join(f"{100 * rows[n][c]:.0f} %" for c in SHOWN) if n in rows else "–" for n in seeds]
        lines.append(f"| {tasks} tasks | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
