"""What a report says, from one reading of a results folder: tables, sentences, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from bench import measures
from bench.dials import End, dial_table, dials
from bench.gaps import Ends, Gap, answer_table, gap_table, groups, shares
from bench.leaders import curves_table, leaders_table
from bench.metrics import (
    LEVELS,
    MOST,
    NEAR,
    SHARES,
    TARGETS,
    Results,
    Score,
    Scored,
    curves,
    evaluate,
    summary,
)
from bench.page.budget import ALONE, CHANCE, CLOSE, rows_at, said
from bench.page.budget import SURE as SURELY
from bench.page.draw import Beside, Task, later
from bench.page.measures import Measures, compute
from bench.page.words import last_line, listed, number, percent
from bench.plots import (
    dial_figure,
    gap_figure,
    headline_figure,
    objective_figure,
    rank,
)
from bench.plots_many import clock_sketch, objective_sketch
from bench.plots_time import clock_figure, run_figure
from bench.timelines import Timeline, clock_curves, largest_trace, timeline, worker_use

NAMED = 6  # strategies that the verdict names of more; the tables have all
LEGIBLE = 300  # cells: more cannot be drawn as dots that a person can tell apart
SOME = 24  # objectives: the figures of more are drawn by hand, without PDF
DRAWN = 6  # dials
FEW = 8  # strategies: of more, curves have fewer points
SURE = 6  # fewer runs have no 95 % interval of a median: nothing is emphasised
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


def _some(names: list[str], most: int = 8) -> str:
    """All names where they are few, else how many."""
    return listed(names) if len(names) <= most else f"{len(names)} objectives"


def _for_curves(item: Scored) -> Scored:
    """What `curves` and `clock_curves` need of a cell: it may have to go to another process."""
    nothing = np.empty((0, 0))

    def part(s: Score, last: bool) -> Score:
        runs = s.runs._replace(granted=nothing, loss=nothing, true_loss=nothing, until=nothing)
        if not last:  # only how the runs of a smaller budget end is drawn
            runs = runs._replace(spent=nothing, finished=nothing)
        return s._replace(runs=runs, told=nothing, true=s.true if last else s.true[:, -1:])

    scores = {b: part(s, b == item.largest) for b, s in item.scores.items()}
    return item._replace(cell=item.cell._replace(traces={}), scores=scores)


def _curves_drawn(
    picture: Callable[..., Any],
    objective: str,
    items: list[Scored],
    ratio: bool,
    points: int,
    **settings: Any,
) -> Any:
    return picture(objective, *curves(items, ratio, points), **(settings | {"ratio": ratio}))


def _clock_drawn(picture: Callable[..., Any], items: list[Scored], use: Any, ratio: bool, points: int) -> Any:
    return picture(clock_curves(items, ratio, points), use, ratio)


class Page:
    """Everything that both report files say, from one reading of the folder."""

    def __init__(self, results: Results, ranks: Mapping[str, float] | None = None, run: Beside = later):
        """`ranks`: objective -> rank correlation at a ninth of training, where it is known; `run`: how what
        can be is computed beside the rest."""
        self.results = results
        self.ranks = ranks or {}
        self.run = run
        self.scored, self.goals, more = evaluate(results)
        self.warnings = [*results.warnings, *more]
        self.table = summary(self.scored, self.goals)
        # A failed cell may hold older traces: summary.csv keeps their numbers, the page says that it failed.
        self.head = headline(self.table[self.table["status"] != "failed"])
        named = list(results.experiment.get("objectives") or [])
        found = list(dict.fromkeys(c.objective for c in results.cells))
        # The order in which the experiment lists its objectives, settings after their name.
        self.objectives = sorted(
            found,
            key=lambda o: (
                next((i for i, n in enumerate(named) if o == n or o.split(",")[0] == str(n)), len(named)),
                o,
            ),
        )
        self.labels = sorted({c.label for c in results.cells}, key=rank)
        self.cells = {
            (s.cell.objective, s.cell.label): s._replace(scores={}) if s.cell.status == "failed" else s
            for s in self.scored
        }
        rows: Any = self.head
        self.rows = {(r["objective"], r["label"]): r for r in rows.to_dict("records")}
        parts: dict[Any, Any] = dict(iter(self.head.groupby("objective", sort=False)))
        self.best = {
            (objective, reading): clear_best(parts.get(objective, self.head[:0]), reading)
            for objective in self.objectives
            for reading in READING
        }

    @property
    def name(self) -> str:
        return str(self.results.experiment.get("name") or self.results.path.name)

    def row(self, objective: str, label: str) -> dict[str, Any] | None:
        return self.rows.get((objective, label))

    @cached_property
    def measures(self) -> Measures:
        """All frames of `bench.measures`, computed when they are first asked for."""
        return compute(measures.panel(self.scored, self.objectives, self.labels), self.run)

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

    def leading(self) -> list[str]:
        """Who leads at the largest budget, in general and objective by objective, each at the largest with
        which all its strategies were run, and how surely."""
        found = self.measures
        if len(self.labels) < 2 or not len(found.panel.budgets):
            return []
        clusters = measures.by_cluster(found.panel)
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
            parts = self._leads(mine)
            if parts and len(rows) > 1:
                on = f" ({cluster})" if len(clusters) > 1 else ""
                out.append(f"By the gap left with {top:g} full trainings{on}: {'; '.join(parts)}.")
        return out

    @staticmethod
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

    def verdict(self) -> list[str]:
        """The answer in sentences (plain text)."""
        head = self.head
        if not len(head):
            return ["No cell of this folder has a result that can be scored."]
        out = self.leading()
        counts = {}
        for label in self.labels:
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
        clear: dict[str, list[str]] = {}
        open_ = []
        nobody = []
        for objective in self.objectives:
            rows: Any = head[head["objective"] == objective]
            if not len(rows):
                continue
            winners = {self.best[objective, reading] for reading in READING} - {None}
            winner = winners.pop() if len(winners) == 1 else None
            if not np.isfinite(rows["trials_median"]).any() and not np.isfinite(rows["budget_needed"]).any():
                nobody.append(objective)
            elif winner:
                clear.setdefault(winner, []).append(objective)
            elif len(rows) > 1 and (rows["runs"] >= SURE).all():
                open_.append(objective)
        for label in sorted(clear, key=lambda v: (-len(clear[v]), rank(v))):
            where = _some(clear[label])
            out.append(
                f"{label} needs the fewest on {where}: within a run or to plan, its 95 % interval lies "
                "below all others'."
            )
        if open_:
            out.append(f"By what it needs, none is clearly ahead on {_some(open_)}: intervals overlap.")
        if nobody:
            out.append(f"No strategy gets half of its runs near-optimal on {_some(nobody)}.")
        few = sorted({int(n) for n in head["runs"] if n < SURE})
        if few:
            out.append(
                f"With fewer than {SURE} runs a cell there is no 95 % interval, and nothing is emphasised."
            )
        return out

    def meaning(self, objective: str) -> str:
        """What near-optimal means on an objective, in its own units (plain text)."""
        goals: Any = self.goals.get(objective)
        if goals is None or not len(goals):
            return "There is no stored reference, so nothing can be scored."
        ratio, items = self.scale(objective)
        ran = [s.runs.instance for item in items for s in item.scores.values()]
        instances = np.unique(np.concatenate(ran or [goals.index.to_numpy()]))
        goals = goals.loc[goals.index.intersection(instances)]
        n = len(goals)
        columns = {
            name: goals[name].to_numpy(np.float64) for name in ("optimum", "median", NEAR, f"p:{NEAR}")
        }
        columns["above"] = columns[NEAR] - columns["optimum"]

        def over(column, show=number):
            there = columns[column][~np.isnan(columns[column])]
            low, middle, high = (f(there) if len(there) else np.nan for f in (np.min, np.median, np.max))
            return (
                show(middle) if show(low) == show(high) else f"{show(middle)} ({show(low)} to {show(high)})"
            )

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
        if unknown and any(
            (regret < -0.01 * float(np.nanmedian(columns["above"]))).any() for regret in finals
        ):
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

    def scale(self, objective: str) -> tuple[bool, list[Scored]]:
        found = (self.cells.get((objective, label)) for label in self.labels)
        items = [s for s in found if s is not None and s.scores]
        log = bool(items) and items[0].cell.info.get("scale") == "log"
        goals = self.goals.get(objective)
        return log and goals is not None and bool((goals["optimum"] > 0).all()), items

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
        few = len(self.objectives) <= SOME
        for objective in self.objectives:
            ratio, items = self.scale(objective)
            if not items:
                continue
            points = 90 if len(items) <= FEW else 40
            instances = np.unique(np.concatenate([s.scores[s.largest].runs.instance for s in items]))
            goals = self.goals[objective].loc[instances]

            def level(name, ratio=ratio, goals=goals):
                return float(
                    (goals[name] / goals["optimum"] if ratio else goals[name] - goals["optimum"]).median()
                )

            settings = {
                "goal": level(NEAR),
                "dynamic": level("dynamic"),
                "max_epoch": items[0].max_epoch,
            }
            picture = objective_figure if few else objective_sketch
            drawn = [_for_curves(item) for item in items]
            yield objective, Task(_curves_drawn, (picture, objective, drawn, ratio, points), settings, few)
            if not few and max(self.workers(i.cell) for i in items) == 1:
                continue  # one worker is always busy: its clock shows little that the budget does not
            use = {i.cell.label: worker_use(largest_trace(i), self.workers(i.cell)) for i in items}
            picture = clock_figure if few else clock_sketch
            yield f"{objective}.clock", Task(_clock_drawn, (picture, drawn, use, ratio, points), {}, few)
        for label, (_, found) in self.pictures.items():
            yield f"{label}.run", Task(run_figure, (label, found))

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
                whole = all((t["until"] == item.max_epoch).all() for t in cell.traces.values())
                if whole and self.workers(cell) == 1:
                    continue  # one full training after the other
                folder = self.results.path / objective / label
                fidelity = str(cell.info.get("fidelity") or "training")
                found = timeline(folder, item.largest, fidelity, self.workers(cell))
                if found is None or (found.workers == 1 and set(found.jobs["until"]) == {item.max_epoch}):
                    continue
                out[label] = objective, found
        return {label: out[label] for label in sorted(out, key=rank)}

    @staticmethod
    def workers(cell: Any) -> int:
        settings = cell.info.get("settings") or {}
        return int((settings.get("cluster") or {}).get("workers") or settings.get("workers") or 1)

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

    def troubles(self, status: str) -> list[tuple[str, str, str]]:
        """Cells of a status with their reason: (label, objectives, reason), alike ones together."""
        groups: dict[tuple[str, str], list[str]] = {}
        for objective in self.objectives:
            for label in self.labels:
                found, reason = self.state(objective, label)
                if found == status:
                    groups.setdefault((label, reason), []).append(objective)
        return [(label, listed(objectives), reason) for (label, reason), objectives in groups.items()]

    def notes(self) -> list[tuple[str, str, str]]:
        groups: dict[tuple[str, str], list[str]] = {}
        for objective in self.objectives:
            for label in self.labels:
                item = self.cells.get((objective, label))
                if item is not None and item.cell.info.get("fair_note"):
                    groups.setdefault((label, str(item.cell.info["fair_note"])), []).append(objective)
        return [(label, listed(objectives), note) for (label, note), objectives in groups.items()]

    def said(self) -> list[tuple[str, str, str, str]]:
        """What a budget means to each strategy: (label, objectives, budget, text), alike ones together."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for objective in self.objectives:
            for label in self.labels:
                item = self.cells.get((objective, label))
                text = item.cell.info.get("describe") if item is not None else None
                if isinstance(text, str):
                    text = {"": text}
                for budget, line in (text or {}).items():
                    if line:
                        groups.setdefault((label, str(budget), str(line)), []).append(objective)
        return [(label, listed(o), budget, line) for (label, budget, line), o in groups.items()]

    def provenance(self) -> list[tuple[str, str]]:
        info = self.results.experiment
        cells = [c.info for c in self.results.cells]

        def total(name):
            return sum(float(c.get(name) or 0) for c in cells)

        versions = dict.fromkeys(
            ", ".join(f"{k} {v}" for k, v in dict(c["versions"]).items()) for c in cells if c.get("versions")
        )
        devices = list(dict.fromkeys(str(c["device"]) for c in cells if c.get("device")))
        if info.get("device") and str(info["device"]) not in devices:
            devices.insert(0, str(info["device"]))
        rows = [
            ("command", info.get("command")),
            ("started", info.get("started")),
            ("wall clock", f"{float(info['wall_s']):.1f} s" if info.get("wall_s") else None),
            ("compiling, all cells", f"{total('compile_s'):.1f} s"),
            ("running, all cells", f"{total('run_s'):.1f} s"),
            ("budgets", ", ".join(f"{float(b):g}" for b in info.get("budgets") or []) or None),
            ("seeds", info.get("seeds")),
            ("per objective", json.dumps(info["per_objective"]) if info.get("per_objective") else None),
            ("device", "; ".join(devices) or None),
            ("versions", "; ".join(versions) or None),
        ]
        return [(k, str(v)) for k, v in rows if v not in (None, "", [])]

    def cell_rows(self) -> list[list[str]]:
        rows = []
        for objective in self.objectives:
            for label in self.labels:
                item = self.cells.get((objective, label))
                if item is None:
                    continue
                info = item.cell.info
                runs = {len(s.runs.seeds) for s in item.scores.values()}
                rows.append(
                    [
                        objective,
                        label,
                        item.cell.status,
                        "/".join(map(str, sorted(runs))) or "0",
                        ", ".join(f"{b:g}" for b in item.scores) or "–",
                        str(item.max_epoch) if item.scores else "–",
                        f"{float(info.get('compile_s') or 0):.1f}",
                        f"{float(info.get('run_s') or 0):.1f}",
                    ]
                )
        return rows


GAP_COLUMNS = [
    "objective", "trainings", "best tuned beforehand", "share", "changed in training, nearest to it", "share",
    "difference", "beats every tuned one?",
]  # fmt: skip
CELL_COLUMNS = [
    "objective",
    "strategy",
    "status",
    "runs",
    "budgets",
    "max_epoch",
    "compiling, s",
    "running, s",
]
HOW = (
    "Budgets are counted in full trainings: epochs spent, divided by an objective's max_epoch. "
    "To plan: the smallest budget of this experiment such that, there and at every larger one, at least half "
    "of the runs planned for it end near-optimal. Within a run of the largest budget: the median of what was "
    "spent until the best found stayed near-optimal (Kaplan–Meier; runs that never arrive count as censored)."
)
