"""What a report says in numbers, from one reading of a folder; `verdict` and `about` put it in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.cluster import split_labels
from bench.dials import End, dial_table, dials
from bench.gaps import Ends, Gap, answer_table, gap_table, groups, shares
from bench.leaders import curves_table, leaders_table
from bench.metrics import NEAR, SHARES, TARGETS, Scored, scored_at
from bench.page.draw import Beside, Task, later
from bench.page.measures import Measures, compute
from bench.page.part import part, workers
from bench.page.words import last_line, number
from bench.panel import budget_grid
from bench.plots import dial_figure, gap_figure, headline_figure, rank
from bench.plots_time import run_figure
from bench.reading import outline
from bench.summary import SUMMARY
from bench.timelines import Timeline, timeline

LEGIBLE = 300  # cells: more cannot be drawn as dots that a person can tell apart
SOME = 24  # objectives: the figures of more are drawn by hand, without PDF
DRAWN = 6  # dials
SURE = 6  # fewer runs have no 95 % interval of a median: nothing is emphasised
RESAMPLED, DRAWS = 150, 200  # of more cells, the efficiency on one objective is not resampled
READING = {
    "to plan": ("budget_needed", "budget_needed_low", "budget_needed_high"),
    "within a run": ("trials_median", "ci_low", "ci_high"),
}


def headline(table: Any) -> pd.DataFrame:
    """One row a scored cell: its summary row of the largest budget and the near-optimal target."""
    near = table[table["target"] == NEAR]
    return near.loc[near.groupby(["objective", "label"], sort=False)["budget"].idxmax()].reset_index(
        drop=True
    )


def clear_best(rows: Any, reading: str) -> str | None:
    """The label whose interval lies below all the others' on one objective; None where intervals overlap,
    where there is nothing to compare, or where a cell has too few runs. A cell that did not arrive is known
    to need its own budget, no more."""
    if len(rows) < 2 or rows["runs"].min() < SURE:
        return None
    value, low, high, budget = (rows[c].to_numpy(np.float64) for c in (*READING[reading], "budget"))
    if np.isnan(low).any() or np.isnan(high).any():
        return None
    apart = (high[:, None] < np.minimum(low, budget)) | (np.isinf(low) & (high[:, None] <= budget))
    ahead = np.isfinite(value) & (apart | np.eye(len(rows), dtype=bool)).all(1)
    return str(rows["label"].iloc[int(ahead.argmax())]) if ahead.any() else None


class Page:
    """Everything that both report files say, from one reading of the folder."""

    def __init__(self, folder: str | Path, ranks: Mapping[str, float] | None = None, run: Beside = later):
        """`ranks`: objective -> rank correlation at a ninth of training, where it is known; `run`: how what
        can be is computed beside the rest.

        Raises FileNotFoundError where there is no such folder or no cell in it."""
        self.results = outline(folder)
        self.ranks = ranks or {}
        self.run = run
        experiment, cells = self.results.experiment, self.results.cells
        named = list(experiment.get("objectives") or [])
        # The order in which the experiment lists its objectives, settings after their name.
        self.objectives = sorted(
            dict.fromkeys(c.objective for c in cells),
            key=lambda o: (
                next((i for i, n in enumerate(named) if o == n or o.split(",")[0] == str(n)), len(named)),
                o,
            ),
        )
        self.labels = sorted({c.label for c in cells}, key=rank)
        able = [c for c in cells if c.status != "failed"]
        budgets = budget_grid(b for c in able for b in scored_at(c, experiment, c.budgets))
        draws = DRAWS if len(able) <= RESAMPLED else 0
        self.few = few = len(self.objectives) <= SOME
        begun = [run(part, self.results.of(o), o, self.labels, budgets, draws, few) for o in self.objectives]
        self.parts = dict(zip(self.objectives, (ready() for ready in begun), strict=True))
        parts = list(self.parts.values())
        self.warnings = [*self.results.warnings, *(line for p in parts for line in p.warnings)]
        self.goals = {o: p.goals for o, p in self.parts.items() if p.goals is not None}
        self.table = pd.DataFrame([r for p in parts for r in p.rows], columns=pd.Index(SUMMARY))
        # A failed cell may hold older traces: summary.csv keeps their numbers, the page says that it failed.
        self.head = headline(self.table[self.table["status"] != "failed"])
        scored = {(s.cell.objective, s.cell.label): s for p in parts for s in p.scored}
        self.cells = {
            key: s._replace(scores={}) if s.cell.status == "failed" else s for key, s in scored.items()
        }
        rows: Any = self.head
        self.rows = {(r["objective"], r["label"]): r for r in rows.to_dict("records")}
        heads: dict[Any, Any] = dict(iter(self.head.groupby("objective", sort=False)))
        # Those whose interval lies below all others' of their cluster.
        self.best: dict[tuple[str, str], set[str | None]] = {}
        for objective, reading in product(self.objectives, READING):
            rows = heads.get(objective, self.head[:0])
            rivals = [rows[rows["label"].isin(mine)] for mine in split_labels(self.labels).values()]
            self.best[objective, reading] = {clear_best(of_one, reading) for of_one in rivals} - {None}

    @property
    def name(self) -> str:
        return str(self.results.experiment.get("name") or self.results.path.name)

    def row(self, objective: str, label: str) -> dict[str, Any] | None:
        return self.rows.get((objective, label))

    @cached_property
    def measures(self) -> Measures:
        """All frames of `bench.measures`, computed when they are first asked for."""
        return compute(list(self.parts.values()), self.labels, self.run)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """`bench.leaders.curves_table`"""
        return curves_table(self.measures.panel, self.ranks)

    @cached_property
    def leaders(self) -> pd.DataFrame:
        """`bench.leaders.leaders_table` at the experiment's budgets."""
        found = self.measures.panel
        planned = [float(b) for b in self.results.experiment.get("budgets") or []]
        planned = planned or [b for item in found.cells.values() for b in item.scores]
        return leaders_table(found, self.curves, sorted(set(planned) & set(found.budgets.tolist())))

    def state(self, objective: str, label: str) -> tuple[str, str]:
        """(status, reason) of a cell that has nothing to show, or that failed; ("complete", "") else."""
        item = self.cells.get((objective, label))
        if item is None:
            return "not run", "no such cell in this folder"
        if item.cell.status == "not applicable":
            return "not applicable", str(item.cell.info.get("reason") or "no reason was recorded")
        if item.cell.status == "failed":
            return "failed", last_line(item.cell.info.get("error"))
        return ("complete", "") if item.scores else ("no result", "no trace of it can be scored")

    def scale(self, objective: str) -> tuple[bool, list[Scored]]:
        """(whether losses are shown over the optimum, not minus it; the cells that have runs)."""
        found = (self.cells.get((objective, label)) for label in self.labels)
        return self.parts[objective].ratio, [s for s in found if s is not None and s.scores]

    def drawings(self) -> Iterator[tuple[str, Task]]:
        """What is to be drawn, with its file name: headline, dials, gaps, OBJECTIVE, OBJECTIVE.clock,
        LABEL.run. As PDF too: all of it where objectives are few, else what is over all of them."""
        if 0 < len(self.head) <= LEGIBLE:
            head = self.head.rename(
                columns={
                    "trials_median": "median",
                    "ci_low": "low",
                    "ci_high": "high",
                    "budget_needed": "needed",
                    "budget": "limit",
                }
            )
            order = {objective: i for i, objective in enumerate(self.objectives)}
            head = head.sort_values("objective", key=lambda c: c.map(order))
            yield "headline", Task(headline_figure, (head,))
        if len(self.dials):
            shown = list(dict.fromkeys(self.dials["dial"]))[:DRAWN]
            yield "dials", Task(dial_figure, (self.dials[self.dials["dial"].isin(shown)],))
        closed = gap_table(self.gaps)
        if len(closed):
            yield "gaps", Task(gap_figure, (closed,))
        for found in self.parts.values():
            yield from found.drawings
        for label, (_, found) in self.pictures.items():
            yield f"{label}.run", Task(run_figure, (label, found), {}, self.few)

    @cached_property
    def pictures(self) -> dict[str, tuple[str, Timeline]]:
        """One run of each label that stops, resumes, copies or has several workers, on the first objective
        with more than one epoch where it was run: label -> (objective, its jobs)."""
        out: dict[str, tuple[str, Timeline]] = {}
        for objective in self.objectives:
            for item in self.scale(objective)[1]:
                label, cell = item.cell.label, item.cell
                if label in out or item.max_epoch == 1:
                    continue
                if label not in self.parts[objective].sliced and workers(cell) == 1:
                    continue  # one full training after the other
                folder = self.results.path / objective / label
                fidelity = str(cell.info.get("fidelity") or "training")
                found = timeline(folder, item.largest, fidelity, workers(cell))
                if found is None or (found.workers == 1 and set(found.jobs["until"]) == {item.max_epoch}):
                    continue
                out[label] = objective, found
        return {label: out[label] for label in sorted(out, key=rank)}

    @cached_property
    def dials(self) -> pd.DataFrame:
        """What each setting decides in which several objectives differ: `bench.dials.dial_table`."""
        settings = {
            c.objective: (c.info.get("settings") or {}).get("objective") or {} for c in self.results.cells
        }
        found = dials(settings, self.objectives)
        ends = {}
        for objective in {label for dial in found for _, label in dial.values}:
            ratio, items = self.scale(objective)
            for item in items:
                score = item.scores[item.largest]
                loss, optimum = score.true[:, -1], score.optimum
                ends[objective, item.cell.label] = End(loss / optimum if ratio else loss - optimum, ratio)
        return dial_table(self.head, found, ends)

    @cached_property
    def gaps(self) -> list[Gap]:
        """What changing in training gains over schedules tuned beforehand, by group and budget."""
        settings = {
            c.objective: (c.info.get("settings") or {}).get("objective") or {} for c in self.results.cells
        }
        found = []
        for group in groups({o: settings[o] for o in self.objectives}):
            goals = self.goals.get(group.name)
            if goals is None:
                continue
            items = [
                (item, schedule)
                for schedule, objective in group.members.items()
                for item in self.scale(objective)[1]
                if item.cell.info.get("needs") is not None
            ]
            for budget in sorted({b for item, _ in items for b in item.scores}):
                entries = {}
                for item, schedule in items:
                    score = item.scores.get(budget)
                    if score is not None:
                        ends = Ends(score.runs.seeds, score.runs.instance, score.true[:, -1])
                        entries[item.cell.label, schedule] = (ends.seeds, shares(ends, goals))
                changing = {item.cell.label for item, _ in items if "change" in item.cell.info["needs"]}
                changers = [e for e in entries if e[0] in changing]
                tuned = [e for e in entries if e[0] not in changing]
                if changers and any(np.isfinite(share).any() for _, share in entries.values()):
                    found.append(Gap(group, budget, entries, changers, tuned))
        return found

    @cached_property
    def gap_answers(self) -> pd.DataFrame:
        """Whether changing in training beats tuned schedules: `bench.gaps.answer_table`."""
        return answer_table(self.gaps)

    def gap_rows(self) -> list[list[str]]:
        """`gap_answers` as GAP_COLUMNS."""
        rows = []
        for r in self.gap_answers.to_dict("records"):
            answer = (
                f"yes: {r['beat']} of {r['of']} beat every tuned one"
                if r["beat"]
                else f"no: each of {r['of']} is beaten"
                if r["beaten"] == r["of"]
                else f"undecided: {r['beaten']} of {r['of']} are beaten"
            )
            rows.append([
                r["group"], f"{r['budget']:g}", r["tuned"], number(r["tuned_share"], 2), r["changing"],
                number(r["changing_share"], 2),
                f"{number(r['margin'], 2)} ({number(r['low'], 2)} to {number(r['high'], 2)})", answer,
            ])  # fmt: skip
        return rows

    def shares(self) -> pd.DataFrame:
        """Mean over objectives of the share of runs that reach the best 10, 1 and .1 % of random
        configurations, a row a label."""
        rows = []
        for label in self.labels:
            items = [s for (_, name), s in self.cells.items() if name == label and s.scores]
            if items:
                means = [
                    np.mean(
                        [
                            np.isfinite(s.scores[s.largest].reached[TARGETS.index(f"p={p:g}")]).mean()
                            for s in items
                        ]
                    )
                    for p in SHARES
                ]
                rows.append(
                    {
                        "label": label,
                        "objectives": len(items),
                        **{f"{p:g}": m for p, m in zip(SHARES, means, strict=True)},
                    }
                )
        return pd.DataFrame(rows)

    def details(self, objective: str) -> tuple[list[str], list[list[str]]]:
        """The table under an objective's figure: (header, rows of plain text)."""
        _, items = self.scale(objective)
        budgets = sorted({b for s in items for b in s.scores})
        recommends = any(np.isfinite(s.scores[s.largest].recommended_regret).any() for s in items)
        names = [
            "strategy",
            *(f"near-optimal at {b:g}" for b in budgets),
            "E[min(T, B)]",
            "final regret (mean)",
        ]
        names += ["regret of what it recommends"] if recommends else []
        rows = []
        for item in items:
            s, label = item.scores[item.largest], item.cell.label
            r = self.row(objective, label)
            assert r is not None  # scored cells have a row
            cells = [label]
            for b in budgets:
                there = item.scores.get(b)
                cells.append(
                    "–"
                    if there is None
                    else f"{np.isfinite(there.reached[0]).sum()} of {len(there.reached[0])}"
                )
            cells.append(number(r["trials_restricted_mean"]))
            spread = (
                ""
                if np.isnan(r["regret_ci_low"])
                else f" ({number(r['regret_ci_low'])} to {number(r['regret_ci_high'])})"
            )
            cells.append(number(r["regret_mean"]) + spread)
            if recommends:
                said = s.recommended_regret
                cells.append(number(np.nanmean(said)) if np.isfinite(said).any() else "–")
            rows.append(cells)
        return names, rows


GAP_COLUMNS = [
    "objective", "trainings", "best tuned beforehand", "share", "changed in training, nearest to it", "share",
    "difference", "beats every tuned one?",
]  # fmt: skip
