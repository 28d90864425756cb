"""Cells side by side: what each run is worth at each budget, and which cells are rivals.

The value that strategies are compared by is the *gap left* (`Score.gap_left`): it depends on the run and the
stored reference only. A run planned for a budget counts at that budget; an anytime strategy's at every one
up to it; where a strategy lays out its budget beforehand, its largest plan that a budget pays for counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bench.cluster import split_labels
from bench.metrics import Score, Scored, incumbents, step_values
from bench.protocols import budget_epochs

POINTS = 16  # budgets of the slider, at most, beside those planned


class Ends(NamedTuple):
    """A cell at one budget: seeds, instances i64[runs] · gap f64[runs], the gap left."""

    seeds: np.ndarray
    instances: np.ndarray
    gap: np.ndarray


class Panel(NamedTuple):
    """Cells side by side. objectives, labels: names · families: each objective's · cells: (objective, label)
    -> scored cell · budgets: the slider's, ascending · ends: (objective, label) -> one `Ends` a budget, None
    where the budget pays for no run of it or exceeds the largest that was run."""

    objectives: list[str]
    labels: list[str]
    families: dict[str, str]
    cells: dict[tuple[str, str], Scored]
    budgets: np.ndarray
    ends: dict[tuple[str, str], list[Ends | None]]

    def at(self, objective: str, index: int) -> dict[str, Ends]:
        """The labels that have runs on an objective at one of the budgets."""
        found = {label: self.ends.get((objective, label)) for label in self.labels}
        return {label: end for label, e in found.items() if e and (end := e[index]) is not None}

    def last(self, objective: str) -> int:
        """Index of the largest budget at which all labels of an objective have runs; -1 where there is none:
        what one was given more of it is not compared by."""
        mine = [self.ends[objective, v] for v in self.labels if (objective, v) in self.ends]
        return max((i for i in range(len(self.budgets)) if all(e[i] is not None for e in mine)), default=-1)


def by_cluster(panel: Panel) -> dict[str, Panel]:
    """The panel of each cluster, fewest workers first: who has more workers is no rival."""
    return {c: panel._replace(labels=labels) for c, labels in split_labels(panel.labels).items()}


def family(objective: str) -> str:
    """An objective's family: its name before wrappers and settings (`bbob,function=8` is one of bbob)."""
    return objective.partition(",")[0].partition("+")[0]


def budget_grid(planned: Iterable[float], points: int = POINTS) -> np.ndarray:
    """Budgets of the slider: all that were planned, and whole ones between 1 and the largest."""
    planned = sorted(set(planned))
    if not planned:
        return np.empty(0)
    between = np.round(np.geomspace(min(1.0, planned[0]), planned[-1], points), 0)
    return np.unique(np.concatenate([planned, between[between >= 1]]))


def _ends(item: Scored, budgets: np.ndarray) -> list[Ends | None]:
    def of(s: Score, gap: np.ndarray) -> Ends:
        return Ends(s.runs.seeds, s.runs.instance, gap)

    out: list[Ends | None] = []
    if item.cell.info.get("anytime"):
        several = any(t["worker"].max(initial=0) > 0 for t in item.cell.traces.values())
        planned = np.array(list(item.scores))
        which = np.searchsorted(planned, budgets - 1e-9)
        for i, p in enumerate(planned):
            s, mine = item.scores[p], budgets[which == i]
            gaps = _cuts(item, s, mine) if several else step_values(
                s, s.gap_left(s.true), mine, item.max_epoch, 1.0
            )  # fmt: skip
            out += [of(s, gaps[:, k]) for k in range(len(mine))]
        return out + [None] * int((which == len(planned)).sum())
    last = {b: of(s, s.gap_left(s.true[:, -1])) for b, s in item.scores.items()}
    for b in budgets:
        paid = [planned for planned in last if planned <= b + 1e-9]
        out.append(last[max(paid)] if paid and b <= item.largest + 1e-9 else None)
    return out


def _cuts(item: Scored, s: Score, budgets: np.ndarray) -> np.ndarray:
    """Gap left f64[runs, g] of the runs of `s` when only so much is granted. All jobs that a budget pays for
    finish, as where it was planned: of several workers more was granted before the last of them came in."""
    ends = []
    for budget in budgets:
        paid = s.runs.granted <= budget_epochs(float(budget), item.max_epoch)
        loss = np.where(paid, s.runs.loss, np.inf)
        last = incumbents(loss, s.runs.until, item.cell.info.get("fidelity") or "training")[:, -1:]
        true = np.take_along_axis(s.runs.true_loss, np.maximum(last, 0), axis=1)[:, 0]
        ends.append(s.gap_left(np.where(last[:, 0] >= 0, true, np.inf)))
    return np.stack(ends, 1) if ends else np.empty((len(s.runs.seeds), 0))


def panel(
    scored: Sequence[Scored],
    objectives: Sequence[str],
    labels: Sequence[str],
    budgets: np.ndarray | None = None,
) -> Panel:
    """The scored cells that did not fail, in the order of `objectives` and `labels`; `budgets`: the slider's,
    where other cells have a say in them."""
    cells = {(s.cell.objective, s.cell.label): s for s in scored if s.scores and s.cell.status != "failed"}
    if budgets is None:
        budgets = budget_grid(b for item in cells.values() for b in item.scores)
    there = [o for o in objectives if any((o, label) in cells for label in labels)]
    mine = [label for label in labels if any((o, label) in cells for o in there)]
    ends = {key: _ends(item, budgets) for key, item in cells.items()}
    return Panel(there, mine, {o: family(o) for o in there}, cells, budgets, ends)


def join(panels: Sequence[Panel], labels: Sequence[str]) -> Panel:
    """Panels of single objectives as one, in their order. Their budgets are the same; those at which nothing
    has runs are left out."""
    cells = {key: item for p in panels for key, item in p.cells.items()}
    ends = {key: e for p in panels for key, e in p.ends.items()}
    there = [i for i in range(len(panels[0].budgets)) if any(e[i] is not None for e in ends.values())]
    return Panel(
        [o for p in panels for o in p.objectives],
        [v for v in labels if any(v in p.labels for p in panels)],
        {o: f for p in panels for o, f in p.families.items()},
        cells, panels[0].budgets[there], {key: [e[i] for i in there] for key, e in ends.items()},
    )  # fmt: skip
