"""The referee: what a run's trace is worth. Incumbents, regret, targets, trials-to-near-optimal.

Everything derives from traces and stored references, so no number here depends on who else took part.
Definitions are this project's own; see `target`, `incumbents` and `score`. Budgets are counted in full
trainings (epochs charged / max_epoch), losses and regret are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.protocols import LEVELS, budget_epochs
from bench.reading import Cell, Results, Trace, by_job

NEAR = "near-optimal"
SHARES = (0.1, 0.01, 0.001)  # targets of the aggregates: the best 10 %, 1 %, .1 % of random configurations
TARGETS = (NEAR, *(f"p={p:g}" for p in SHARES))
GAP, MOST = 0.05, 0.02  # near-optimal: 5 % of the gap, or the best 2 % where more are that good


class Runs(NamedTuple):
    """The runs planned for one budget, one row a run, jobs in the order in which they finished.

    seeds, instance i64[runs] · count i64[runs], jobs · spent i64[runs, jobs], epochs charged when that
    job's result came in · granted i64[runs, jobs], epochs of this job and all of lower number · loss (told,
    inf: not finite or not finished), true_loss f64[runs, jobs] · until i64[runs, jobs] · finished f64[runs,
    jobs], simulated seconds · total i64[runs], epochs charged in all · recommended f64[runs], true loss of
    what the strategy recommends in the end, nan where it does not · failed bool[runs], a job's program
    raised. Columns past `count` repeat the last spent and have an infinite loss and finish.
    """

    seeds: np.ndarray
    instance: np.ndarray
    count: np.ndarray
    spent: np.ndarray
    granted: np.ndarray
    loss: np.ndarray
    true_loss: np.ndarray
    until: np.ndarray
    finished: np.ndarray
    total: np.ndarray
    recommended: np.ndarray
    failed: np.ndarray


BY_JOB = ("spent", "granted", "loss", "true_loss", "until", "finished")


class Score(NamedTuple):
    """The runs planned for one budget, scored.

    runs · true, told f64[runs, jobs], the incumbent's true and told loss after each job (inf: none yet) ·
    optimum, median f64[runs], the best constant and the median random configuration's · reached
    f64[targets, runs], full trainings spent until the target of TARGETS was reached for good, inf where it
    never was · log: whether gaps are measured on a log scale."""

    runs: Runs
    true: np.ndarray
    told: np.ndarray
    optimum: np.ndarray
    median: np.ndarray
    reached: np.ndarray
    log: bool

    @property
    def regret(self) -> np.ndarray:
        """f64[runs]: true loss of the last incumbent above the best constant configuration's."""
        return self.true[:, -1] - self.optimum

    @property
    def recommended_regret(self) -> np.ndarray:
        """f64[runs]: the same of what the strategy recommends in the end, nan where it recommends nothing."""
        return self.runs.recommended - self.optimum

    def ended(self) -> Score:
        """Of each run its last result only, as if there had been one job: all that measures of how runs end
        need, in a hundredth of the space."""
        last = {name: getattr(self.runs, name)[:, -1:] for name in BY_JOB}
        runs = self.runs._replace(count=np.minimum(self.runs.count, 1), **last)
        return self._replace(runs=runs, true=self.true[:, -1:], told=self.told[:, -1:])

    def gap_left(self, loss: np.ndarray) -> np.ndarray:
        """True losses f64[runs, ...] in units of the gap: 0 the best constant configuration, 1 the median
        random one, on the objective's scale; worse than that, diverged and none yet are 1 too, so that means
        exist. Where half of random configurations diverge, or are as good as the best, the gap has no number:
        1 above the optimum."""
        shape = (-1,) + (1,) * (loss.ndim - 1)
        optimum, median = self.optimum.reshape(shape), self.median.reshape(shape)
        with np.errstate(all="ignore"):
            if self.log:
                left = np.log(loss / optimum) / np.log(median / optimum)
                left = np.where(loss <= 0, -np.inf, left)  # far below an optimum that is positive
            else:
                left = (loss - optimum) / (median - optimum)
            plain = np.isfinite(median) & (median > optimum)
            left = np.where(plain, left, np.where(loss <= optimum, 0.0, 1.0))
        return np.clip(np.where(np.isnan(left), 1.0, left), -1.0, 1.0)


# Targets ------------------------------------------------------------------------------------------------


def share_below(value: float, quantiles: np.ndarray, levels: np.ndarray | None = None) -> float:
    """Share of random configurations whose true loss is at most `value`, by interpolation of log p in the
    table of quantiles f64[levels]; where the table begins above `value`, its first level: an upper bound."""
    levels = np.asarray(LEVELS if levels is None else levels, np.float64)
    i = int(np.searchsorted(quantiles, value, side="right")) - 1
    if i < 0:
        return float(levels[0])
    if i + 1 >= len(levels) or not np.isfinite(quantiles[i + 1]):
        return float(levels[i])
    part = (value - quantiles[i]) / (quantiles[i + 1] - quantiles[i])
    return float(levels[i] * (levels[i + 1] / levels[i]) ** part)


def quantile(p: float, quantiles: np.ndarray, levels: np.ndarray | None = None) -> Any:
    """The loss that the best share p of random configurations reach, of each table f64[..., levels]: a float
    of one, else f64[...]; interpolated in log p."""
    levels, quantiles = np.asarray(LEVELS if levels is None else levels, np.float64), np.asarray(quantiles)
    i = int(np.searchsorted(levels, p * (1 + 1e-9), side="right")) - 1
    here = quantiles[..., max(i, 0)]
    if i >= 0 and i + 1 < len(levels):
        after = quantiles[..., i + 1]
        part = max(np.log(p / levels[i]) / np.log(levels[i + 1] / levels[i]), 0.0)
        with np.errstate(invalid="ignore"):
            here = np.where(np.isfinite(after), here + part * (after - here), here)
    return here if quantiles.ndim > 1 else float(here)


def within_gap(
    optimum: float, quantiles: np.ndarray, scale: str, levels: np.ndarray | None = None
) -> tuple[float, float]:
    """5 % of the gap from the optimum to the median of random configurations, on the objective's scale, and
    the share of random configurations within it: (true loss, share); (nan, 1) where the gap is not a number
    (half of them diverge, the optimum is unknown). Raises ValueError for a scale that does not exist."""
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be linear or log, got {scale!r}")
    quantiles = np.asarray(quantiles, np.float64)
    median = quantile(0.5, quantiles, levels)
    with np.errstate(all="ignore"):
        if scale == "log" and optimum > 0:
            value = float(np.exp(np.log(optimum) + GAP * (np.log(median) - np.log(optimum))))
        elif scale == "log":
            value = np.nan  # log of an optimum that is not positive
        else:
            value = float(optimum + GAP * (median - optimum))
    return (value, share_below(value, quantiles, levels)) if np.isfinite(value) else (np.nan, 1.0)


def target(
    optimum: float, quantiles: np.ndarray, scale: str, levels: np.ndarray | None = None
) -> tuple[float, float]:
    """Near-optimal on one instance: (target, p), the true loss to reach and the share of random
    configurations that reach it: `within_gap`, or, where more than 2 % of random configurations are that good
    or the gap is not a number, their best 2 %."""
    value, p = within_gap(optimum, quantiles, scale, levels)
    if p <= MOST:
        return value, p
    value = quantile(MOST, quantiles, levels)
    # Where losses are tied, more than 2 % may share the value that the best 2 % reach.
    return value, max(MOST, share_below(value, quantiles, levels)) if np.isfinite(value) else 1.0


def targets(reference: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Targets of every instance: index instance, ascending; columns optimum, dynamic, median (of random
    configurations), and for each of TARGETS `TARGET` (true loss) and `p:TARGET`."""
    names = [f"q_{i}" for i in range(len(LEVELS))]
    reference = reference.drop_duplicates("instance").sort_values("instance") if len(reference) else reference
    table = reference[names].to_numpy(np.float64) if len(reference) else np.empty((0, len(LEVELS)))
    table = np.where(np.isnan(table), np.inf, table)
    known = ("instance", "optimum_static", "optimum_dynamic")
    instance, optimum, dynamic = (reference[c].to_numpy() if len(reference) else np.empty(0) for c in known)
    near = [target(float(o), quantiles, scale) for o, quantiles in zip(optimum, table, strict=True)]
    reach, p = np.array(near).reshape(-1, 2).T
    columns = {"optimum": optimum, "dynamic": dynamic, "median": quantile(0.5, table), NEAR: reach}
    for name, share in zip(TARGETS[1:], SHARES, strict=True):
        columns |= {name: quantile(share, table), f"p:{name}": share}
    columns[f"p:{NEAR}"] = p
    index = pd.Index(instance.astype(np.int64), name="instance")
    return pd.DataFrame(columns, index=index, dtype=np.float64)


def longest(traces: dict[float, Trace], budget: float) -> Trace:
    """Of each seed the run with the largest budget, at least `budget`: an anytime run planned for less is its
    beginning."""
    parts, seen = [], np.empty(0, np.int64)
    enough = sorted((b for b in traces if b >= budget), reverse=True)
    if len(enough) == 1:
        return traces[enough[0]]
    for planned in enough:
        new = ~np.isin(traces[planned]["seed"], seen)
        parts.append({name: column[new] for name, column in traces[planned].items()})
        seen = np.union1d(seen, traces[planned]["seed"])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# Runs ---------------------------------------------------------------------------------------------------


def runs_of(trace: Trace, epochs: int | None = None) -> Runs:
    """A trace as runs, cut to a smaller budget where `epochs` is given.

    The cut is in job order, as the driver charges: the first job that does not fit ends it. Results count in
    the order of virtual finish, ties by job. `spent` is what the driver had charged when the result came in:
    with one worker the epochs of all jobs up to this one, with several also those of jobs still running.
    """
    seed, job = np.asarray(trace["seed"]), np.asarray(trace["job"])
    sorted_by = by_job(seed, job)
    order = np.arange(len(seed)) if sorted_by is None else sorted_by
    instance = np.asarray(trace["instance"])[order]
    seeds, first, jobs = np.unique(seed[order], return_index=True, return_counts=True)
    charge = (np.asarray(trace["until"]) - np.asarray(trace["start"]))[order].astype(np.int64)
    cumulated = np.cumsum(charge)
    cumulated -= np.repeat(cumulated[first] - charge[first], jobs)
    known_until = np.full(len(seeds), np.inf)  # later, a cut run's strategy knows of jobs beyond the cut
    if epochs is not None:
        fits = cumulated <= epochs
        beyond = np.searchsorted(seeds, seed[order[~fits]])
        np.minimum.at(known_until, beyond, np.asarray(trace["finished"], np.float64)[order[~fits]])
        order, charge, cumulated = order[fits], charge[fits], cumulated[fits]
    row = np.searchsorted(seeds, seed[order])
    count = np.bincount(row, minlength=len(seeds))
    width = max(int(count.max(initial=0)), 1)
    finished = np.asarray(trace["finished"])[order].astype(np.float64)
    in_turn = (
        (np.diff(finished) >= 0) | (np.diff(row) > 0)
    ).all()  # with one worker they finish as they began
    by_finish = None if in_turn else np.lexsort((job[order], finished, row))
    column = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    alike = len(order) > 0 and (count == width).all()

    def matrix(values, fill, dtype):
        values = values if by_finish is None else values[by_finish]
        if alike:
            return values.reshape(len(seeds), width).astype(dtype)
        out = np.full((len(seeds), width), fill, dtype)
        out[row, column] = values
        return out

    loss = np.asarray(trace["loss"])[order].astype(np.float64)
    ended = np.asarray(trace["status"])[order]
    loss = np.where(np.isfinite(loss) & (ended == "finished"), loss, np.inf)
    true_loss = np.asarray(trace["true_loss"])[order].astype(np.float64)
    until = np.asarray(trace["until"])[order].astype(np.int64)
    spent = np.cumsum(matrix(charge, 0, np.int64), axis=1)
    if len(order) and np.asarray(trace["worker"])[order].max() > 0:
        # Jobs need not start in the order of their numbers, where the strategy thinks or jobs are lost.
        begun = np.asarray(trace["started"])[order].astype(np.float64)
        by_start = np.lexsort((np.arange(len(order)), begun, row))
        started = np.full((len(seeds), width), np.inf)
        started[row, column] = begun[by_start]
        granted = np.zeros((len(seeds), width + 1), np.int64)
        granted[row, column + 1] = charge[by_start]
        before = _earlier(started, matrix(finished, np.inf, np.float64))
        granted = np.take_along_axis(np.cumsum(granted, axis=1), before, axis=1)
        there = np.arange(width) < count[:, None]
        spent = np.where(there, np.maximum(spent, granted), spent)
    recommended = np.full(len(seeds), np.nan)
    last = (matrix(finished, np.nan, np.float64) <= known_until[:, None]).sum(1) - 1
    said = matrix(np.asarray(trace["recommended_true_loss"])[order].astype(np.float64), np.nan, np.float64)
    recommended[:] = np.where(last >= 0, said[np.arange(len(seeds)), np.maximum(last, 0)], np.nan)
    return Runs(
        seeds=seeds,
        instance=instance[first].astype(np.int64),
        count=count,
        spent=spent,
        granted=matrix(cumulated, 0, np.int64),
        loss=matrix(loss, np.inf, np.float64),
        true_loss=matrix(np.where(np.isnan(true_loss), np.inf, true_loss), np.inf, np.float64),
        until=matrix(until, 0, np.int64),
        finished=matrix(finished, np.inf, np.float64),
        total=spent[:, -1],
        recommended=recommended,
        failed=np.bincount(row, weights=ended == "raised", minlength=len(seeds)) > 0,
    )


def _earlier(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """How many of each row of `one` f64[runs, n] lie below each of the same row of `two` f64[runs, m], both
    ascending: i64[runs, m]."""
    # Merged, with those of `two` first where they are equal.
    order = np.argsort(np.concatenate([two, one], axis=1), axis=1, kind="stable")
    of_one = order >= two.shape[1]
    below = np.cumsum(of_one, axis=1)
    return below[~of_one].reshape(two.shape)


def beginning(runs: Runs, trace: Trace, epochs: int) -> Runs | None:
    """`runs_of(trace, epochs)` from `runs` = `runs_of(trace)`, whose columns it shares, where jobs came in
    one after the other, in the order of their numbers; None where they did not."""
    there = np.arange(runs.loss.shape[1]) < runs.count[:, None]
    in_turn = ~there | ((runs.spent == runs.granted) & np.isfinite(runs.finished))
    if runs.failed.any() or not in_turn.all() or runs.count.sum() != len(trace["seed"]):
        return None
    inside = there & (runs.granted <= epochs)
    count = inside.sum(1)
    width = max(int(count.max(initial=0)), 1)
    inside = inside[:, :width]
    last = np.cumsum(runs.count) - runs.count + count - 1  # the row of each run's last job, of a sorted trace
    said = np.asarray(trace["recommended_true_loss"], np.float64)[last]
    total = np.where(count > 0, runs.spent[np.arange(len(count)), count - 1], 0)

    def cut(values, fill):
        return values[:, :width] if inside.all() else np.where(inside, values[:, :width], fill)

    return runs._replace(
        count=count, spent=cut(runs.spent, total[:, None]), granted=cut(runs.granted, 0),
        loss=cut(runs.loss, np.inf), true_loss=cut(runs.true_loss, np.inf), until=cut(runs.until, 0),
        finished=cut(runs.finished, np.inf), total=total, recommended=np.where(count > 0, said, np.nan),
    )  # fmt: skip


def incumbents(loss: np.ndarray, until: np.ndarray, fidelity: str) -> np.ndarray:
    """The incumbent after each result: index i64[runs, jobs] of a column, -1 while there is none.

    fidelity "training": the lowest told loss so far; "proxy": the lowest among the jobs of the highest
    `until` reached so far by a finite loss. A loss that is not finite is never the incumbent; the earlier
    of equal losses stays. Raises ValueError for another fidelity.
    """
    if fidelity not in ("training", "proxy"):
        raise ValueError(f"fidelity must be training or proxy, got {fidelity!r}")
    finite = np.isfinite(loss)
    loss = np.where(finite, loss, np.inf)
    epoch = np.where(finite, until, 0) if fidelity == "proxy" else np.zeros_like(until)
    highest = np.maximum.accumulate(epoch, axis=1)
    index = np.full(loss.shape, -1, np.int64)
    column = np.arange(loss.shape[1])
    for level in np.unique(highest):
        mine = np.where(epoch == level, loss, np.inf)
        best = np.minimum.accumulate(mine, axis=1)
        before = np.concatenate([np.full((len(mine), 1), np.inf), best[:, :-1]], axis=1)
        at = np.maximum.accumulate(np.where(mine < before, column, -1), axis=1)
        index = np.where(highest == level, at, index)
    return index


def reached_after(true: np.ndarray, goal: np.ndarray, spent: np.ndarray, count: np.ndarray) -> np.ndarray:
    """What was spent f64[runs] at the first moment after which the incumbent's true loss f64[runs, jobs]
    stays within the goal f64[runs] to the end; inf where it does not end within it."""
    # A goal is infinite where too few random configurations do not diverge: whoever does has not reached it.
    bad = ~((true <= goal[:, None]) & np.isfinite(true))
    jobs = true.shape[1]
    start = np.where(bad.any(1), jobs - bad[:, ::-1].argmax(1), 0)
    there = (start < jobs) & (count > 0)
    at = spent[np.arange(len(true)), np.minimum(start, jobs - 1)]
    return np.where(there, at.astype(np.float64), np.inf)


def overtuning(test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What choosing by validation lost f64[runs, jobs] of the test (or true) losses of the incumbents
    f64[runs, jobs], (absolute, relative): by how much the incumbent is worse than the best that has been
    one; relative to the gain from the first incumbent to that best, nan where the gain is below .001
    (Schneider, Bischl and Feurer 2025, arXiv:2506.19540). inf: no incumbent yet."""
    test = np.asarray(test, np.float64)
    best = np.minimum.accumulate(test, axis=1)
    here = np.isfinite(test)
    first = np.where(here.any(1), test[np.arange(len(test)), here.argmax(1)], np.nan)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.where(here, test - best, np.where(np.isfinite(best), np.inf, np.nan))
        gain = first - best
        return lost, np.where(gain >= 0.001, lost / gain, np.nan)


def _places(instance: np.ndarray, goals: pd.DataFrame) -> np.ndarray:
    """The row of each instance in a table of `targets`, -1 where it has none."""
    there = goals.index.to_numpy()
    if not len(there):
        return np.full(len(instance), -1)
    at = np.minimum(np.searchsorted(there, instance), len(there) - 1)
    return np.where(there[at] == instance, at, -1)


def score(runs: Runs, goals: pd.DataFrame, fidelity: str, max_epoch: int, scale: str = "linear") -> Score:
    """Scores runs by `goals`, the table of `targets` (every instance must be in it)."""
    index = incumbents(runs.loss, runs.until, fidelity)

    def of_incumbent(values):
        return np.where(index >= 0, np.take_along_axis(values, np.maximum(index, 0), axis=1), np.inf)

    true = of_incumbent(runs.true_loss)
    at = _places(runs.instance, goals)
    if (at < 0).any():
        raise KeyError(f"no targets for instance {runs.instance[at < 0][0]}")
    table, place = goals.to_numpy(np.float64)[at], {name: i for i, name in enumerate(goals.columns)}

    def of_instance(name):
        return table[:, place[name]]

    reached = [reached_after(true, of_instance(name), runs.spent, runs.count) for name in TARGETS]
    optimum, median = of_instance("optimum"), of_instance("median")
    log = scale == "log" and bool((optimum > 0).all())
    return Score(runs, true, of_incumbent(runs.loss), optimum, median, np.stack(reached) / max_epoch, log)


class Scored(NamedTuple):
    """A cell, scored at each of its budgets (ascending). Empty where it left no trace that can be scored."""

    cell: Cell
    max_epoch: int
    scores: dict[float, Score]

    @property
    def largest(self) -> float:
        return max(self.scores)


def _select(runs: Runs, keep: np.ndarray) -> Runs:
    return Runs(*(column[keep] for column in runs))


def planned(cell: Cell, experiment: Mapping[str, Any]) -> list[float]:
    """The budgets that a cell's runs were planned for, ascending."""
    return sorted(float(b) for b in cell.info.get("budgets") or experiment.get("budgets") or [])


def scored_at(cell: Cell, experiment: Mapping[str, Any], there: Iterable[float]) -> list[float]:
    """The budgets, ascending, at which a cell with traces of the budgets `there` is scored: an anytime
    strategy's runs are cut to every smaller one that was planned."""
    there = set(there)
    top = max(there, default=-np.inf)
    cut = planned(cell, experiment) if cell.info.get("anytime") else []
    return sorted(there | {budget for budget in cut if budget <= top})


def evaluate(results: Results) -> tuple[list[Scored], dict[str, pd.DataFrame], list[str]]:
    """Scores every cell: (cells, targets of each objective, warnings beyond those of reading)."""
    warnings: list[str] = []
    goals: dict[str, pd.DataFrame] = {}
    out = []
    for cell in results.cells:
        info, name = cell.info, f"{cell.objective}/{cell.label}"
        scale, fidelity = info.get("scale") or "linear", info.get("fidelity") or "training"
        max_epoch = int(info.get("max_epoch") or 1)
        if cell.objective not in goals and cell.traces:
            reference = results.references.get(cell.objective, pd.DataFrame())
            goals[cell.objective] = targets(reference, scale)
            if scale == "log" and (goals[cell.objective]["optimum"].to_numpy() <= 0).any():
                warnings.append(
                    f"{cell.objective}: an optimum is not positive on a log scale; "
                    "near-optimal is the best 2 % of random configurations there"
                )
        scores: dict[float, Score] = {}
        whole: Runs | None = None
        seeds = max((len(np.unique(t["seed"])) for t in cell.traces.values()), default=0)
        there = scored_at(cell, results.experiment, cell.traces)
        if cell.status == "complete":
            warnings += [
                f"{name}: no runs planned for {budget:g} full trainings"
                for budget in planned(cell, results.experiment)
                if budget not in there
            ]
        for budget in there:
            if info.get("anytime"):
                runs, epochs = None, budget_epochs(budget, max_epoch)
                if len(cell.traces) == 1:
                    (trace,) = cell.traces.values()
                    whole = runs_of(trace) if whole is None else whole
                    runs = beginning(whole, trace, epochs)
                runs = runs_of(longest(cell.traces, budget), epochs) if runs is None else runs
            else:
                runs = runs_of(cell.traces[budget])
            known = _places(runs.instance, goals[cell.objective]) >= 0
            if not known.all():
                warnings.append(
                    f"{name}: {(~known).sum()} of {len(known)} runs with a budget of "
                    f"{budget:g} have no stored reference for their instance and are not scored"
                )
                runs = _select(runs, known)
            if len(runs.seeds):
                scores[budget] = score(runs, goals[cell.objective], fidelity, max_epoch, scale)
        fewer = [f"{b:g}" for b, s in scores.items() if len(s.runs.seeds) < seeds]
        if fewer:
            warnings.append(f"{name}: fewer than {seeds} runs with a budget of {', '.join(fewer)}")
        if cell.status == "complete" and not scores:
            warnings.append(f"{name}: complete, but no trace of it can be scored")
        out.append(Scored(cell, max_epoch, scores))
    return out, goals, warnings


def step_values(s: Score, values: np.ndarray, grid: np.ndarray, max_epoch: int, before: float) -> np.ndarray:
    """Each run's step function at budgets grid f64[g] (full trainings): values f64[runs, jobs] hold from
    the moment of their job on, `before` until the first: f64[runs, g]."""
    at = np.floor(grid * max_epoch + 1e-9)
    runs, jobs = values.shape
    # All runs in one search: each has a stretch of the number line to itself.
    row = np.arange(runs)[:, None] * (max(float(s.runs.spent.max(initial=0)), float(at.max(initial=0))) + 1.0)
    found = np.searchsorted((s.runs.spent + row).ravel(), (at + row).ravel(), side="right")
    index = np.minimum(found.reshape(runs, -1) - np.arange(runs)[:, None] * jobs, s.runs.count[:, None]) - 1
    return np.where(index >= 0, np.take_along_axis(values, np.maximum(index, 0), axis=1), before)
