"""What a report needs of one objective's traces. They are read, scored and let go objective by objective, in
processes side by side where there are many: those of a large folder would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import measures
from bench.metrics import NEAR, Scored, evaluate
from bench.page.draw import Task
from bench.panel import Panel, panel
from bench.plots import objective_figure
from bench.plots_many import clock_sketch, objective_sketch
from bench.plots_time import clock_figure
from bench.reading import Cell, Results, with_traces
from bench.summary import curves, rows
from bench.timelines import clock_curves, largest_trace, worker_use

FEW = 8  # strategies: of more, curves have fewer points
BASELINE = "random"


class Part(NamedTuple):
    """One objective. scored: its cells, of whose runs only the ends are kept (`Score.ended`) · goals: its
    targets by instance, None where nothing can be scored · ratio: whether its losses are shown over the
    optimum, not minus it · warnings · rows: of summary.csv · panel: of the cells that did not fail · times,
    tuned, pairs, factors: frames of `bench.measures` · drawings: what is to be drawn, with its file name ·
    sliced: the labels of which some job was not a whole training."""

    scored: list[Scored]
    goals: pd.DataFrame | None
    ratio: bool
    warnings: list[str]
    rows: list[dict[str, Any]]
    panel: Panel
    times: pd.DataFrame
    tuned: pd.DataFrame
    pairs: pd.DataFrame
    factors: pd.DataFrame
    drawings: list[tuple[str, Task]]
    sliced: set[str]


def part(
    results: Results, objective: str, labels: Sequence[str], budgets: np.ndarray, draws: int, few: bool
) -> Part:
    """Reads and scores the cells of `results`, all of one objective. labels: the whole report's, in order ·
    budgets: f64[g], the slider's · draws: resamples of an efficiency · few: whether objectives are few enough
    to be drawn with matplotlib, as PDF too."""
    read = with_traces(results)
    scored, goals, warnings = evaluate(read)
    found = goals.get(objective)
    scored.sort(key=lambda s: labels.index(s.cell.label))
    items = [s for s in scored if s.scores and s.cell.status != "failed"]
    log = bool(items) and items[0].cell.info.get("scale") == "log"
    ratio = log and found is not None and bool((found["optimum"] > 0).all())
    shown = panel(items, [objective], labels, budgets)
    slim = {(objective, s.cell.label): _slim(s) for s in scored}
    whole = {s.cell.label for s in scored if all(_whole(t, s) for t in s.cell.traces.values())}
    return Part(
        list(slim.values()), found, ratio, [*read.warnings, *warnings], rows(scored, goals),
        shown._replace(cells={key: slim[key] for key in shown.cells}),
        measures.times(shown), measures.tuned_too_far(shown),
        measures.against_leaders(shown),
        measures.factors(shown, BASELINE, draws), list(_drawings(objective, items, found, ratio, few)),
        {s.cell.label for s in scored} - whole,
    )  # fmt: skip


def _slim(item: Scored) -> Scored:
    scores = {budget: score.ended() for budget, score in item.scores.items()}
    return item._replace(cell=item.cell._replace(traces={}), scores=scores)


def _whole(trace: Any, item: Scored) -> bool:
    return bool((trace["until"] == item.max_epoch).all())


def workers(cell: Cell) -> int:
    settings = cell.info.get("settings") or {}
    return int((settings.get("cluster") or {}).get("workers") or settings.get("workers") or 1)


def _drawings(
    objective: str, items: list[Scored], goals: Any, ratio: bool, few: bool
) -> Iterator[tuple[str, Task]]:
    """The curves of an objective, OBJECTIVE, and its simulated clock, OBJECTIVE.clock."""
    if not items:
        return
    points = 90 if len(items) <= FEW else 40
    instances = np.unique(np.concatenate([s.scores[s.largest].runs.instance for s in items]))
    mine = goals.loc[instances]

    def level(name: str) -> float:
        return float((mine[name] / mine["optimum"] if ratio else mine[name] - mine["optimum"]).median())

    settings = {
        "goal": level(NEAR), "dynamic": level("dynamic"), "max_epoch": items[0].max_epoch, "ratio": ratio,
    }  # fmt: skip
    picture = objective_figure if few else objective_sketch
    yield objective, Task(picture, (objective, *curves(items, ratio, points)), settings, few)
    if not few and max(workers(item.cell) for item in items) == 1:
        return  # one worker is always busy: its clock shows little that the budget does not
    use = {item.cell.label: worker_use(largest_trace(item), workers(item.cell)) for item in items}
    picture = clock_figure if few else clock_sketch
    yield f"{objective}.clock", Task(picture, (clock_curves(items, ratio, points), use, ratio), {}, few)
