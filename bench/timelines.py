"""Runs on the simulated clock: the loss found by a moment, how busy the workers were, one run job by job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from bench.lineage import lineage
from bench.metrics import Scored, longest
from bench.protocols import NONE
from bench.reading import Trace
from bench.stats import median_interval
from bench.store import blocks
from bench.summary import stacked


def worker_use(trace: Trace, workers: int) -> np.ndarray:
    """f64[runs]: the share of its workers' time, until its last job finished, in which a run trained."""
    seeds, row = np.unique(np.asarray(trace["seed"]), return_inverse=True)
    started, finished = (np.asarray(trace[c], np.float64) for c in ("started", "finished"))
    busy = np.bincount(row, weights=finished - started, minlength=len(seeds))
    end = np.full(len(seeds), -np.inf)
    np.maximum.at(end, row, finished)
    return busy / np.where(end > 0, workers * end, np.nan)


def clock_curves(items: Sequence[Scored], ratio: bool, points: int = 90) -> pd.DataFrame:
    """The true loss of the best found against simulated seconds, of runs of the largest budget: columns
    label, seconds, middle, low, high; above the best constant configuration's, or over it where `ratio`;
    median over runs with its 95 % interval, infinite while half of the runs have nothing yet."""
    scores = [(item.cell.label, item.scores[item.largest]) for item in items]
    ends = [s.runs.finished[np.isfinite(s.runs.finished)] for _, s in scores]
    ends = [e[e > 0] for e in ends if (e > 0).any()]
    if not ends:
        return stacked([], "seconds")
    grid = np.geomspace(min(e.min() for e in ends), max(e.max() for e in ends), points)
    parts = []
    for label, s in scores:
        optimum = s.optimum[:, None]
        value = s.true / optimum if ratio else s.true - optimum
        runs, jobs = value.shape
        # How many results each run has by each moment; what never came in is beyond the last.
        first = np.searchsorted(grid, s.runs.finished) + np.arange(runs)[:, None] * (points + 1)
        there = np.arange(jobs) < s.runs.count[:, None]
        came = np.bincount(first[there], minlength=runs * (points + 1)).reshape(runs, points + 1)
        at = np.cumsum(came[:, :points], axis=1) - 1
        rows = np.where(at >= 0, np.take_along_axis(value, np.maximum(at, 0), axis=1), np.inf)
        parts.append((label, grid, *median_interval(rows)))
    return stacked(parts, "seconds")


class Timeline(NamedTuple):
    """One run, job by job. jobs: its rows of the trace, by job number · chain: those that made the winner's
    weights, empty where nothing finished · workers · copies: whether a job started from another trial's
    checkpoint · axis: the first hyperparameter that a copy changed, None where there is none."""

    jobs: pd.DataFrame
    chain: pd.DataFrame
    workers: int
    copies: bool
    axis: str | None


def timeline(folder: Path, budget: float, fidelity: str, workers: int) -> Timeline | None:
    """The first run under a cell's folder that was planned for `budget`; None where it cannot be read."""
    found = blocks(folder, budget)
    if not found:
        return None
    first, _, path = found[0]
    try:
        jobs = parquet.read_table(path, filters=[("seed", "==", first)]).to_pandas()
    except (OSError, ValueError):
        return None
    if not len(jobs):
        return None
    jobs = jobs.sort_values("job", ignore_index=True)
    try:
        chain = lineage(jobs, first, fidelity=fidelity)
    except ValueError:
        chain = jobs.iloc[:0]
    copied = (jobs["source"] != NONE) & (jobs["source"] != jobs["trial"])
    # Only numbers are drawn as a schedule: a copy may also bring another choice, a word.
    moved: list[Any] = [
        c for c in jobs if str(c).startswith("hp_") and pd.api.types.is_numeric_dtype(jobs[c])
    ]
    moved = [c for c in moved if (jobs.groupby("trial")[c].nunique() > 1).any()]
    return Timeline(jobs, chain, workers, bool(copied.any()), str(moved[0]) if moved else None)


def largest_trace(item: Scored) -> Trace:
    """The trace of a cell's largest budget."""
    return longest(item.cell.traces, item.largest)
