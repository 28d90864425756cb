"""A results folder -> report.html (one self-contained file), report.md, summary.csv, figures/*.svg.

The report is built from disk alone, so a sweep of which half has failed has one too. It answers first: what
budget each strategy needs on each objective, and how sure that is. Files are written whole or not at all.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.dials import End, dial_table, dials
from bench.gaps import Ends, Gap, answers, gap_table, groups, shares
from bench.metrics import (
    LEVELS,
    MOST,
    NEAR,
    SHARES,
    TARGETS,
    Results,
    Scored,
    curves,
    evaluate,
    load_folder,
    summary,
)
from bench.plots import (
    clock_figure,
    colour,
    dial_figure,
    gap_figure,
    headline_figure,
    objective_figure,
    rank,
    run_figure,
)
from bench.timelines import clock_curves, largest_trace, timeline, worker_use

SURE = 6  # fewer runs have no 95 % interval of a median: nothing is emphasised
READING = {
    "to plan": ("budget_needed", "budget_needed_low", "budget_needed_high"),
    "within a run": ("trials_median", "ci_low", "ci_high"),
}


# Words --------------------------------------------------------------------------------------------------


def number(x: Any, digits: int = 3) -> str:
    """A number for people: three digits, no trailing zeros, a dash for nan."""
    x = float(x)
    if np.isnan(x):
        return "–"
    if np.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    text = f"{x:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        if abs(int(exponent)) < 6 and abs(x) >= 1:
            return f"{x:,.0f}"
        return f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def percent(p: float) -> str:
    """A share of random configurations; the table of quantiles begins at its first level."""
    return f"≤ {100 * LEVELS[0]:g} %" if p <= LEVELS[0] * (1 + 1e-9) else f"{100 * p:.2g} %"


def trials(x: float, limit: float) -> str:
    """Trials-to-near-optimal, beyond the largest budget as such."""
    return "–" if np.isnan(x) else number(x) if np.isfinite(x) else f"> {limit:g}"


def interval(low: float, high: float) -> str:
    """A 95 % interval of trials; empty where there is none, where it excludes nothing, or
    nothing but what lies beyond the budget."""
    if np.isnan(low) or np.isnan(high) or np.isinf(low) or (low <= 0 and np.isinf(high)):
        return ""
    return f"≥ {number(low)}" if np.isinf(high) else f"{number(low)}–{number(high)}"


def listed(words: Iterable[str]) -> str:
    """a, b and c"""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def _last_line(text: Any) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "no reason was recorded"


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


# The tables behind the page -----------------------------------------------------------------------------


def headline(table: Any) -> pd.DataFrame:
    """One row a scored cell: its summary row of the largest budget and the near-optimal target."""
    near = table[table["target"] == NEAR]
    return near.loc[near.groupby(["objective", "label"], sort=False)["budget"].idxmax()].reset_index(
        drop=True
    )


def clear_best(rows: Any, reading: str) -> str | None:
    """The label whose interval lies below all the others' on one objective; None where intervals overlap,
    where there is nothing to compare, or where a cell has too few runs."""
    value, low, high = READING[reading]
    if len(rows) < 2 or rows["runs"].min() < SURE or np.isnan(rows[[low, high]].to_numpy(float)).any():
        return None
    for i in range(len(rows)):
        rest = rows.drop(rows.index[i])
        if np.isfinite(rows[value].iloc[i]) and (rows[high].iloc[i] < rest[low]).all():
            return str(rows["label"].iloc[i])
    return None


class Page:
    """Everything that both report files say, from one reading of the folder."""

    def __init__(self, results: Results):
        self.results = results
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
        self.best = {
            (objective, reading): clear_best(self.head[self.head["objective"] == objective], reading)
            for objective in self.objectives
            for reading in READING
        }

    @property
    def name(self) -> str:
        return str(self.results.experiment.get("name") or self.results.path.name)

    def row(self, objective: str, label: str) -> dict[str, Any] | None:
        found: Any = self.head[(self.head["objective"] == objective) & (self.head["label"] == label)]
        return found.to_dict("records")[0] if len(found) else None

    def state(self, objective: str, label: str) -> tuple[str, str]:
        """(status, reason) of a cell that has nothing to show, or that failed; ("complete", "") else."""
        item = self.cells.get((objective, label))
        if item is None:
            return "not run", "no such cell in this folder"
        if item.cell.status == "not applicable":
            return "not applicable", str(item.cell.info.get("reason") or "no reason was recorded")
        if item.cell.status == "failed":
            return "failed", _last_line(item.cell.info.get("error"))
        return ("complete", "") if item.scores else ("no result", "no trace of it can be scored")

    def verdict(self) -> list[str]:
        """The answer in sentences (plain text)."""
        head = self.head
        if not len(head):
            return ["No cell of this folder has a result that can be scored."]
        out = []
        counts = {}
        for label in self.labels:
            rows = head[head["label"] == label]
            if len(rows):
                counts[label] = (int(np.isfinite(rows["budget_needed"]).sum()), len(rows))
        order = sorted(counts, key=lambda label: (-counts[label][0] / counts[label][1], rank(label)))
        told = listed(
            f"{label} on {counts[label][0]} of {counts[label][1]}{'' if i else ' objectives'}"
            for i, label in enumerate(order)
        )
        limits = sorted({float(b) for b in head["budget"]})
        most = f"{limits[-1]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"
        out.append(f"Half of the runs or more are near-optimal with at most {most} full trainings: {told}.")
        clear: dict[str, list[str]] = {}
        open_ = []
        nobody = []
        for objective in self.objectives:
            rows = head[head["objective"] == objective]
            if not len(rows):
                continue
            winner = self.best[objective, "within a run"] or self.best[objective, "to plan"]
            if not np.isfinite(rows["trials_median"]).any() and not np.isfinite(rows["budget_needed"]).any():
                nobody.append(objective)
            elif winner:
                clear.setdefault(winner, []).append(objective)
            elif len(rows) > 1:
                open_.append(objective)
        for label in sorted(clear, key=lambda v: (-len(clear[v]), rank(v))):
            where = listed(clear[label])
            out.append(
                f"{label} needs the fewest on {where}: within a run or to plan, its 95 % interval lies "
                "below all others'."
            )
        if open_:
            out.append(f"No strategy is clearly ahead on {listed(open_)}: intervals overlap.")
        if nobody:
            out.append(f"No strategy gets half of its runs near-optimal on {listed(nobody)}.")
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
        instances = np.unique(
            np.concatenate(
                [
                    s.runs.instance
                    for (o, _), item in self.cells.items()
                    if o == objective
                    for s in item.scores.values()
                ]
                or [goals.index.to_numpy()]
            )
        )
        goals = goals.loc[goals.index.intersection(instances)]
        n = len(goals)

        def over(column, show=number):
            low, middle, high = goals[column].min(), goals[column].median(), goals[column].max()
            return (
                show(middle) if show(low) == show(high) else f"{show(middle)} ({show(low)} to {show(high)})"
            )

        p = goals[f"p:{NEAR}"]
        capped = p >= MOST * (1 - 1e-9)
        log = " (on a log scale)" if self.scale(objective)[0] else ""
        rule = f"within 5 % of the gap{log} to the median random configuration's"
        if capped.all():
            rule = "what the best 2 % of random configurations reach; the median one has"
        elif capped.any():
            rule = f"what the best 2 % of random ones reach ({capped.sum()} of {n} instances) or {rule}"
        spread = "" if n == 1 else f" (medians over {n} instances, range in brackets)"
        need = number(1 / p.median(), 2)
        finals = [
            s.scores[s.largest].regret for (o, _), s in self.cells.items() if o == objective and s.scores
        ]
        alike = n > 1 and goals[[NEAR, "optimum"]].nunique().max() == 1
        lucky = ""
        if alike and any((regret < 0).any() for regret in finals):
            lucky = " These are means over instances: on a lucky one a run may end below the optimum."
        prefix = "more than " if p.median() <= LEVELS[0] * (1 + 1e-9) else ""
        goals = goals.assign(above=goals[NEAR] - goals["optimum"])
        return (
            f"Near-optimal is a true loss of at most {over(NEAR)}. That is {over('above')} above the best "
            f"constant configuration's {over('optimum')}: {rule} {over('median')}{spread}. "
            f"Of random configurations {over(f'p:{NEAR}', percent)} are that good, so random search is "
            f"expected to need {prefix}{need} full trainings.{lucky}"
        )

    def scale(self, objective: str) -> tuple[bool, list[Scored]]:
        items = [s for (o, _), s in self.cells.items() if o == objective and s.scores]
        items = sorted(items, key=lambda s: rank(s.cell.label))
        log = bool(items) and items[0].cell.info.get("scale") == "log"
        goals = self.goals.get(objective)
        return log and goals is not None and bool((goals["optimum"] > 0).all()), items

    def figures(self) -> dict[str, str]:
        """Figures by file name (without .svg), as <svg> elements."""
        out = {}
        if len(self.head):
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
            out["headline"] = headline_figure(head.sort_values("objective", key=lambda c: c.map(order)))
        turned = self.dials()
        if len(turned):
            out["dials"] = dial_figure(turned)
        closed = gap_table(self.gaps)
        if len(closed):
            out["gaps"] = gap_figure(closed)
        for objective in self.objectives:
            ratio, items = self.scale(objective)
            if not items:
                continue
            shown = curves(items, ratio)
            instances = np.unique(np.concatenate([s.scores[s.largest].runs.instance for s in items]))
            goals = self.goals[objective].loc[instances]

            def level(name, ratio=ratio, goals=goals):
                return float(
                    (goals[name] / goals["optimum"] if ratio else goals[name] - goals["optimum"]).median()
                )

            out[objective] = objective_figure(
                objective,
                *shown,
                ratio=ratio,
                goal=level(NEAR),
                dynamic=level("dynamic"),
                max_epoch=items[0].max_epoch,
            )
        return out

    def clocks(self) -> dict[str, str]:
        """The figure on the simulated clock of each objective."""
        out = {}
        for objective in self.objectives:
            ratio, items = self.scale(objective)
            if items:
                use = {i.cell.label: worker_use(largest_trace(i), self.workers(i.cell)) for i in items}
                out[objective] = clock_figure(clock_curves(items, ratio), use, ratio)
        return out

    def pictures(self) -> dict[str, tuple[str, str]]:
        """One run of each label that stops, resumes, copies or has several workers, on the first objective
        with more than one epoch where it was run: label -> (objective, figure)."""
        out: dict[str, tuple[str, str]] = {}
        for objective in self.objectives:
            for item in self.scale(objective)[1]:
                label, cell = item.cell.label, item.cell
                if label in out or item.max_epoch == 1:
                    continue
                folder = self.results.path / objective / label
                fidelity = str(cell.info.get("fidelity") or "training")
                found = timeline(folder, item.largest, fidelity, self.workers(cell))
                if found is None or (found.workers == 1 and set(found.jobs["until"]) == {item.max_epoch}):
                    continue
                out[label] = objective, run_figure(label, found)
        return {label: out[label] for label in sorted(out, key=rank)}

    @staticmethod
    def workers(cell: Any) -> int:
        settings = cell.info.get("settings") or {}
        return int((settings.get("cluster") or {}).get("workers") or settings.get("workers") or 1)

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

    def gap_answers(self) -> list[str]:
        """Whether changing in training beats tuned schedules, in sentences (plain text), one a group."""
        told: dict[str, list[str]] = {}
        for gap in self.gaps:
            found = answers(gap)
            if not found:
                continue
            winners = [a.changer for a in found if a.beats]
            lost, near = sum(a.beaten for a in found), max(found, key=lambda a: (a.margin, a.low))
            text = f"With {gap.budget:g} trainings "
            if winners:
                beat = "beats" if len(winners) == 1 else "beat"
                text += f"{listed(' on '.join(w) for w in winners)} {beat} every tuned schedule"
            elif lost == len(found):
                text += f"nothing that changes in training does: tuned schedules beat each of {lost}"
            else:
                text += f"nothing that changes in training clearly does: {lost} of {len(found)} are beaten"
            side = "higher" if near.margin > 0 else "lower"
            text += (
                f"; the best tuned is {' on '.join(near.by)}, the nearest to it {' on '.join(near.changer)}, "
                f"whose share of the log gap is {number(abs(near.margin), 2)} {side} "
                f"({number(near.low, 2)} to {number(near.high, 2)})"
            )
            told.setdefault(gap.group.name, []).append(text)
        return [f"{group}: {'. '.join(texts)}." for group, texts in told.items()]

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


# HTML ---------------------------------------------------------------------------------------------------

STYLE = """
:root{--ink:#1d1d1b;--soft:#6b6b66;--line:#dcdcd6;--tint:#e3f0e4;--warn:#8a3b12}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 28px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:21px;margin:52px 0 10px;padding-top:14px;border-top:2px solid var(--ink)}
h3{font-size:18px;margin:38px 0 6px}
p,li{max-width:84ch}
.sub{color:var(--soft);margin:0 0 22px}
.verdict{font-size:17.5px;
margin:18px 0 26px;padding:0 0 0 20px;border-left:4px solid var(--ink);list-style:none}
.verdict li{margin:5px 0}
.small{font-size:14px;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600}
.head{width:100%;font-size:15px}
.head thead th{border-bottom:1.5px solid var(--ink);padding:6px 8px;vertical-align:bottom;white-space:nowrap}
.head tbody tr{border-bottom:1px solid var(--line)}
.head td,.head tbody th{padding:8px;vertical-align:top;line-height:22px}
.head tbody th{min-width:125px}
.head .which{color:var(--soft);font-size:13px;white-space:nowrap;line-height:22px}
.chip{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:6px}
.v{display:block;white-space:nowrap;height:22px}
.v b{font-weight:500}
.ci{color:var(--soft);font-size:12.5px;margin-left:4px}
.far b{color:var(--soft);font-weight:400}
.best b{font-weight:750}
.best{background:var(--tint);border-radius:4px;box-shadow:0 0 0 3px var(--tint)}
.miss,.none{color:var(--soft);font-size:12.5px;line-height:16px;display:block}
.none{line-height:22px;font-size:14px;display:inline;text-decoration:underline dotted;
text-underline-offset:3px;cursor:help}
.failed{color:var(--warn)}
.key{background:#f6f6f3;padding:10px 16px;border-radius:6px;font-size:14.5px;margin:14px 0}
.key p{margin:4px 0;max-width:none}
.rows{font-size:14px;margin:8px 0}
.rows th,.rows td{
padding:3px 18px 3px 0;border-bottom:1px solid var(--line);vertical-align:top;text-align:left}
.rows td.n{white-space:nowrap}
figure{margin:10px 0 4px}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:13.5px;color:var(--soft);max-width:100ch}
pre{font:12.5px/1.45 ui-monospace,Menlo,Consolas,monospace;background:#f6f6f3;
padding:10px 14px;overflow-x:auto;white-space:pre-wrap}
details{margin:6px 0}summary{cursor:pointer;font-size:14.5px}
.warnings{border-left:4px solid var(--warn);padding-left:16px;font-size:14.5px}
@media print{body{font-size:11pt}main{max-width:none;padding:0}
h3,figure,tr{break-inside:avoid}details>*{display:block}
.head{font-size:9pt}.head td,.head tbody th{padding:4px}.ci,.miss{font-size:8pt}}
"""


def _e(text: Any) -> str:
    return html.escape(str(text), quote=True)


def _table(names: list[str], rows: list[list[str]], labels: int | None = None) -> str:
    """A plain table; column `labels` holds strategies, shown with their colour."""
    head = "".join(f"<th>{_e(n)}</th>" for n in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="n">{_label(c) if i == labels else _e(c)}</td>' for i, c in enumerate(r))
        + "</tr>"
        for r in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="rows">{inside}</table></div>'


def _label(label: str) -> str:
    return f'<span class="chip" style="background:{colour(label)}"></span>{_e(label)}'


def _cell(page: Page, objective: str, label: str) -> str:
    status, reason = page.state(objective, label)
    r = page.row(objective, label)
    if r is None or status == "failed":
        extra = " failed" if status == "failed" else ""
        return f'<td><span class="none{extra}" title="{_e(reason)}">{status}</span></td>'
    limit, runs = float(r["budget"]), int(r["runs"])
    lines = []
    for reading, (value, low, high) in READING.items():
        kind = "far" if np.isinf(r[value]) else "best" if page.best[objective, reading] == label else ""
        spread = interval(r[low], r[high])
        spread = f'<span class="ci">{spread}</span>' if spread else ""
        text = f"<b>{trials(r[value], limit)}</b>{spread}"
        lines.append(f'<span class="v"><span class="{kind}">{text}</span></span>')
    if r["reached"] < runs:
        lines.append(f'<span class="miss">not reached in {runs - int(r["reached"])} of {runs}</span>')
    if r["failed"]:
        lines.append(f'<span class="miss failed">{_plural(int(r["failed"]), "run")} raised an error</span>')
    return f"<td>{''.join(lines)}</td>"


def _headline_table(page: Page) -> str:
    head = "".join(f"<th>{_label(label)}</th>" for label in page.labels)
    rows = []
    for objective in page.objectives:
        heads: Any = page.head[page.head["objective"] == objective]
        p = f"best {percent(float(heads['p'].iloc[0]))} of random" if len(heads) else ""
        cells = "".join(_cell(page, objective, label) for label in page.labels)
        rows.append(
            f'<tr><th scope="row"><a href="#{_e(objective)}" style="color:inherit;text-decoration:none">'
            f'{_e(objective)}</a><span class="miss" style="font-weight:400">{p}</span></th>'
            f'<td class="which">to plan<br>within a run</td>{cells}</tr>'
        )
    return (
        f'<div class="scroll"><table class="head"><thead><tr><th>objective</th><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _trouble_list(page: Page) -> str:
    parts = []
    for status in ("failed", "no result", "not applicable", "not run"):
        found = page.troubles(status)
        if found:
            items = "".join(f"<li><b>{_e(label)}</b> on {_e(on)}: {_e(why)}</li>" for label, on, why in found)
            parts.append(f"<p><b>{status.capitalize()}</b></p><ul>{items}</ul>")
    notes = "".join(
        f"<li><b>{_e(label)}</b> on {_e(on)}: {_e(note)}</li>" for label, on, note in page.notes()
    )
    if notes:
        parts.append(f"<p><b>To be read with the table</b></p><ul>{notes}</ul>")
    return f'<div class="small">{"".join(parts)}</div>' if parts else ""


def _prose(*text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{" ".join(text)}</p>'


def _fold(title: str, body: str) -> str:
    return f"<details><summary>{_e(title)}</summary>{body}</details>"


def _list(items: Iterable[str]) -> str:
    return '<ul class="small">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _answer(page: Page, figures: dict[str, str]) -> list[str]:
    """What the page says first: the verdict, what went wrong, the table, its figure."""
    budgets = sorted({float(b) for b in page.table["budget"].dropna()})
    runs = sorted({int(n) for n in page.head["runs"]})
    strategies = "1 strategy" if len(page.labels) == 1 else f"{len(page.labels)} strategies"
    size = f"{' or '.join(map(str, runs))} run{'' if runs == [1] else 's'} a cell" if runs else "no runs"
    out = [
        "<h1>What budget does each strategy need?</h1>",
        _prose(
            f"Experiment <b>{_e(page.name)}</b>: {strategies}",
            f"on {_plural(len(page.objectives), 'objective')}, {size}, budgets",
            f"{', '.join(f'{b:g}' for b in budgets) or 'none'} (in full trainings).",
            kind="sub",
        ),
        '<ul class="verdict">' + "".join(f"<li>{_e(s)}</li>" for s in page.verdict()) + "</ul>",
    ]
    if page.warnings:
        items = "".join(f"<li>{_e(w)}</li>" for w in page.warnings)
        title = _plural(len(page.warnings), "warning")
        out.append(f'<div class="warnings"><b>{title}</b><ul>{items}</ul></div>')
    limit = f"{budgets[-1]:g}" if budgets else "64"
    out += [
        '<h2 id="headline">Full trainings until near-optimal</h2><div class="key">',
        _prose(
            "<b>To plan</b>: the smallest budget at which, and at every larger one, at least half of the",
            "runs planned for it end near-optimal. <b>Within a run</b> of the largest budget: the median",
            "spent until the best found stays near-optimal. Small type: 95 % interval.",
        ),
        _prose(
            'Fewer is better; <span class="best"><b>shaded</b></span> only where the interval lies below all',
            f"others' on that objective. “&gt; {limit}”: {limit} were not enough for half of the runs.",
            "“best 2 % of random”: how many random configurations are near-optimal.",
        ),
        "</div>",
        _headline_table(page),
        _trouble_list(page),
    ]
    if "headline" in figures:
        caption = (
            "The same table drawn. Dot and line: within a run, median and 95 % interval (an arrow: open "
            "towards larger budgets). Diamond: budget to plan. Cross: fewer than half of the runs reached "
            "it (how many, where any)."
        )
        out.append(f"<figure>{figures['headline']}<figcaption>{caption}</figcaption></figure>")
    return out


DIALS = (
    "Objectives that differ in one setting only, a column a setting; runs of the largest budget B. Above: "
    "how many end near-optimal, with the 95 % interval (Wilson). Middle: E[min(T, B)], what a run spends on "
    "average until it is near-optimal or at its end. Below: the true loss at the end, above the best "
    "constant configuration's or over it, median with its 95 % interval. The target is each objective's own: "
    "compare strategies at one setting, and how their order changes with it."
)


def _dials(figures: dict[str, str]) -> list[str]:
    if "dials" not in figures:
        return []
    return [
        '<h2 id="dials">What each dial decides</h2>',
        _prose(_e(DIALS), kind="small"),
        f"<figure>{figures['dials']}</figure>",
    ]


GAPS = (
    "The share of the gap, on a log scale, between the best constant configuration (0) and the best sequence "
    "of hyperparameters (1) that runs close; median and 95 % interval over runs, an arrow where it lies "
    "further to the left. Hollow: the schedule's hyperparameters tuned beforehand, in the same total budget; "
    "full: changed in training, on top of the schedule where that is not constant. The best sequence is a "
    "bound, not a competitor. To beat every tuned schedule, the 95 % interval of the difference over the "
    "same seeds must lie above 0 against each; to be beaten, below 0 against one, corrected for their "
    "number."
)


def _gaps(page: Page, figures: dict[str, str]) -> list[str]:
    if "gaps" not in figures:
        return []
    return [
        '<h2 id="gaps">Does changing hyperparameters in training beat a tuned schedule?</h2>',
        _list(_e(s) for s in page.gap_answers()),
        _prose(_e(GAPS), kind="small"),
        f"<figure>{figures['gaps']}</figure>",
    ]


def _objectives(page: Page, figures: dict[str, str]) -> list[str]:
    out = [
        '<h2 id="objectives">Objective by objective</h2>',
        _prose(
            "Left: the true loss of the best found (the one with the lowest told loss), above that of",
            "the best constant configuration; median over runs and its 95 % interval. Dashed: near-optimal",
            "(median over instances). Right: share of the runs that are near-optimal for good, with its 95 %",
            "interval (Wilson). Lines run within the largest budget; open dots are the ends of runs planned",
            "for exactly that budget, by strategies that lay out their budget beforehand. In the tables,",
            "E[min(T, B)] is what a run of the largest budget B spends on average until it is near-optimal",
            "or at its end.",
            kind="small",
        ),
    ]
    for objective in page.objectives:
        out.append(f'<h3 id="{_e(objective)}">{_e(objective)}</h3><p>{_e(page.meaning(objective))}</p>')
        if objective in figures:
            out.append(f"<figure>{figures[objective]}</figure>")
            out.append(_table(*page.details(objective), labels=0))
    shares = page.shares()
    if len(shares):
        rows = [
            [r["label"], str(r["objectives"]), *(f"{100 * r[f'{p:g}']:.0f} %" for p in SHARES)]
            for r in shares.to_dict("records")
        ]
        out += [
            '<h2 id="together">All objectives together</h2>',
            _prose(
                "Equal gaps are not equally hard, so objectives are averaged at targets that equally",
                "few random configurations reach: the mean share of runs of the largest budget that end as",
                "good as the best 10 %, 1 % and 0.1 % of them. Compare only rows over the same objectives.",
                kind="small",
            ),
            _table(["strategy", "objectives", *(f"best {100 * p:g} %" for p in SHARES)], rows, labels=0),
        ]
    return out


CLOCK = (
    "Left: the true loss of the best found against simulated time, runs of the largest budget, median with "
    "its 95 % interval. Right: the share of the workers' time, until the last job of a run, in which they "
    "trained: median and range over runs."
)
PICTURES = (
    "The first seed's run of the largest budget. Grey: all jobs; bold: those that made the winner's weights; "
    "crosses: jobs that were lost, given up or raised."
)


def _clock(page: Page, clocks: dict[str, str], pictures: dict[str, tuple[str, str]]) -> list[str]:
    if not clocks:
        return []
    out = ['<h2 id="clock">On the simulated clock</h2>']
    figures = [f"<h4>{_e(objective)}</h4><figure>{text}</figure>" for objective, text in clocks.items()]
    out.append(
        _fold("Loss against time, and how busy the workers were", _prose(_e(CLOCK)) + "".join(figures))
    )
    if pictures:
        figures = [
            f"<h4>{_e(label)} on {_e(objective)}</h4><figure>{text}</figure>"
            for label, (objective, text) in pictures.items()
        ]
        out.append(_fold("One run of each strategy, job by job", _prose(_e(PICTURES)) + "".join(figures)))
    return out


def _origins(page: Page) -> list[str]:
    rows = "".join(f"<tr><th>{_e(k)}</th><td>{_e(v)}</td></tr>" for k, v in page.provenance())
    out = [
        '<h2 id="provenance">Settings and provenance</h2>',
        f'<div class="scroll"><table class="rows">{rows}</table></div>',
    ]
    said = [
        f"<b>{_e(label)}</b>{', budget ' + _e(budget) if budget else ''}: {_e(text)} ({_e(on)})"
        for label, on, budget, text in page.said()
    ]
    if said:
        out.append(_fold("What a budget means to each strategy", _list(said)))
    table = _table(CELL_COLUMNS, page.cell_rows(), labels=1)
    out.append(_fold("Every cell: runs, budgets, seconds compiling and running", table))
    hows = [
        f"<b>{_e(o)}</b>: {_e(t.attrs['how'])}"
        for o, t in page.results.references.items()
        if t.attrs.get("how")
    ]
    if hows:
        out.append(_fold("How the references were found", _list(hows)))
    settings: dict[str, list[str]] = {}
    for cell in page.results.cells:
        if cell.info.get("settings"):
            text = json.dumps(cell.info["settings"], indent=1, default=str)
            settings.setdefault(text, []).append(f"{cell.objective}/{cell.label}")
    blocks = [
        _prose(_e(", ".join(names)), kind="small") + f"<pre>{_e(text)}</pre>"
        for text, names in settings.items()
    ]
    if blocks:
        out.append(_fold("Settings of every cell", "".join(blocks)))
    for cell in page.results.cells:
        if cell.status == "failed":
            text = str(cell.info.get("error") or "no reason was recorded")
            out.append(_fold(f"Why {cell.objective}/{cell.label} failed", f"<pre>{_e(text)}</pre>"))
    out.append(
        _prose(_e(HOW), "All numbers are in summary.csv and derive from the traces beside it.", kind="small")
    )
    return out


def render_html(
    page: Page, figures: dict[str, str], clocks: dict[str, str], pictures: dict[str, tuple[str, str]]
) -> str:
    """The whole page; nothing outside it is needed."""
    body = [*_answer(page, figures), *_dials(figures), *_gaps(page, figures), *_objectives(page, figures)]
    body = "".join([*body, *_clock(page, clocks, pictures), *_origins(page)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_e(page.name)}: trials to near-optimal</title><style>{STYLE}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


# Markdown -----------------------------------------------------------------------------------------------


def _md_table(names: list[str], rows: list[list[str]]) -> str:
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(names), "|" + " --- |" * len(names), *(line(r) for r in rows)])


def _md_cell(page: Page, objective: str, label: str, reading: str) -> str:
    status, _ = page.state(objective, label)
    r = page.row(objective, label)
    if r is None or status == "failed":
        return status
    value, low, high = READING[reading]
    limit, runs = float(r["budget"]), int(r["runs"])
    text = trials(r[value], limit)
    if page.best[objective, reading] == label:
        text = f"**{text}**"
    spread = interval(r[low], r[high])
    text += f" ({spread})" if spread else ""
    if r["reached"] < runs:
        text += f"; not reached in {runs - int(r['reached'])} of {runs}"
    return text


def render_markdown(page: Page, figures: dict[str, str]) -> str:
    """The report as text, with the figures beside it."""
    out = [f"# {page.name}: what budget does each strategy need?", *(f"- {s}" for s in page.verdict())]
    out = [out[0], "", *out[1:], ""]
    if page.warnings:
        out += ["Warnings:", "", *(f"- {w}" for w in page.warnings), ""]
    for reading in READING:
        rows = [[o, *(_md_cell(page, o, label, reading) for label in page.labels)] for o in page.objectives]
        title = "budget to plan" if reading == "to plan" else reading
        out += [
            f"## Full trainings until near-optimal: {title}",
            "",
            _md_table(["objective", *page.labels], rows),
            "",
        ]
    out += [
        HOW + " In brackets: 95 % interval; bold only where it lies below all others' on that objective.",
        "",
    ]
    for status in ("failed", "no result", "not applicable", "not run"):
        found = page.troubles(status)
        if found:
            out += [
                f"{status.capitalize()}:",
                "",
                *(f"- {label} on {on}: {why}" for label, on, why in found),
                "",
            ]
    notes = page.notes()
    if notes:
        out += ["Notes:", "", *(f"- {label} on {on}: {note}" for label, on, note in notes), ""]
    if "headline" in figures:
        out += ["![Full trainings until near-optimal](figures/headline.svg)", ""]
    if "dials" in figures:
        out += ["## What each dial decides", "", DIALS, "", "![Dials](figures/dials.svg)", ""]
    if "gaps" in figures:
        out += ["## Does changing hyperparameters in training beat a tuned schedule?", ""]
        out += [*(f"- {s}" for s in page.gap_answers()), "", GAPS, "", "![Gaps](figures/gaps.svg)", ""]
    for objective in page.objectives:
        out += [f"## {objective}", "", page.meaning(objective), ""]
        if objective in figures:
            out += [f"![{objective}](<figures/{objective}.svg>)", "", _md_table(*page.details(objective)), ""]
    out += ["## Settings and provenance", "", _md_table(["", ""], [[k, v] for k, v in page.provenance()]), ""]
    out += [_md_table(CELL_COLUMNS, page.cell_rows()), ""]
    return "\n".join(out)


# Files --------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def build(folder: str | Path) -> Path:
    """Builds the report of results/NAME from what lies there; returns the path of report.html.

    Raises FileNotFoundError where there is no such folder or no cell in it."""
    results = load_folder(folder)
    page = Page(results)
    figures, clocks, pictures = page.figures(), page.clocks(), page.pictures()
    root = results.path
    _write(root / "summary.csv", page.table.to_csv(index=False))
    for name, text in figures.items():
        _write(root / "figures" / f"{name}.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + text)
    for name, text in {
        **{f"{objective}.clock": text for objective, text in clocks.items()},
        **{f"{label}.run": text for label, (_, text) in pictures.items()},
    }.items():
        _write(root / "figures" / f"{name}.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + text)
    if page.gaps:
        _write(root / "gaps.csv", gap_table(page.gaps).to_csv(index=False))
    _write(root / "report.md", render_markdown(page, figures))
    _write(root / "report.html", render_html(page, figures, clocks, pictures))
    return root / "report.html"
