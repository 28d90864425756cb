"""Several strategies against each other: ranks, their test, wins, efficiency. All of it is relative: who else
takes part decides it, as it never does for the measures of `bench.metrics`.

Friedman 1937 (with the correction for ties, which raises chi2, by 20 to 30 % where many are tied), Iman and
Davenport 1980 (its F form), Nemenyi 1963 and Demsar 2006 (critical difference of mean ranks), Mann and
Whitney 1947 averaged over objectives (Agarwal et al. 2021, arXiv:2108.13264: probability of improvement),
Song et al. 2024, arXiv:2408.11527 (log-efficiency of convergence curves). Departure in log-efficiency: it is
read at the level that the worse of the two ends with, so that swapping the two turns its sign. Lower values
are better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from bench.inference import Interval, differences, in_general, win_probability
from bench.stats import resamples


class Friedman(NamedTuple):
    """ranks f64[strategies], means over objectives (1: best) · chi2, p: Friedman's, ties corrected ·
    chi2_plain: without that correction · f, f_p: Iman and Davenport's · critical: difference of two mean
    ranks from which on Nemenyi's test calls them different at 5 % · pairs f64[k, k]: its p values ·
    objectives: how many have all strategies · reason: why there is no test, else empty."""

    ranks: np.ndarray
    chi2: float
    p: float
    chi2_plain: float
    f: float
    f_p: float
    critical: float
    pairs: np.ndarray
    objectives: int
    reason: str = ""


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over the last axis of f64[..., k], 1 the lowest, ties their mean; nan stays and ranks nobody."""
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        lower = (values[..., None, :] < values[..., :, None]).sum(-1)
        equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return np.where(np.isnan(values), np.nan, lower + (equal + 1) / 2)


def friedman(values: np.ndarray) -> Friedman:
    """Friedman's and Nemenyi's tests of values f64[objectives, k]; objectives on which one is nan are left
    out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values).any(1)]
    n, k = values.shape
    table = ranks(values)
    mean = table.mean(0) if n else np.full(k, np.nan)
    nan = np.nan
    nothing = Friedman(mean, nan, nan, nan, nan, nan, nan, np.full((k, k), nan), n)
    if k < 2 or n < 2:
        return nothing._replace(reason=f"{k} strategies on {n} objectives: ranks need two of each")
    square = n * ((mean - (k + 1) / 2) ** 2).sum()
    plain = 12 * square / (k * (k + 1))
    _, tied = np.unique(
        np.concatenate([row + i * (k + 1) for i, row in enumerate(table)]), return_counts=True
    )
    share = 1 - (tied.astype(np.float64) ** 3 - tied).sum() / (n * k * (k**2 - 1))
    if share <= 0:
        return nothing._replace(reason="all strategies are tied on every objective")
    chi2 = plain / share
    with np.errstate(divide="ignore"):
        f = (n - 1) * chi2 / np.maximum(n * (k - 1) - chi2, 0.0)
    error = np.sqrt(k * (k + 1) / (6 * n))
    apart = np.abs(mean[:, None] - mean[None, :]) / error
    pairs = stats.studentized_range.sf(apart * np.sqrt(2), k, np.inf)
    critical = float(stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2) * error)
    return Friedman(
        mean, float(chi2), float(stats.chi2.sf(chi2, k - 1)), float(plain), float(f),
        float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))), critical, np.clip(pairs, 0, 1), n,
    )  # fmt: skip


class Wins(NamedTuple):
    """value f64[k, k]: probability that a run of the row's strategy beats one of the column's, mean over the
    objectives that both have; low, high: 95 % interval over families of objectives, or, with one objective,
    over its runs; nan where nothing can be said · objectives i64[k, k]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    objectives: np.ndarray


def win_matrix(values: Sequence[Sequence[np.ndarray | None]], families: Sequence, equal: float) -> Wins:
    """Wins among k strategies: values[objective][strategy] f64[runs] or None; values within `equal` are tied.
    families: each objective's."""
    k = len(values[0]) if values else 0
    family = np.unique(np.asarray(families, str), return_inverse=True)[1]
    empty = np.full((k, k), np.nan)
    out = Wins(empty, empty.copy(), empty.copy(), np.zeros((k, k), np.int64))
    for i in range(k):
        for j in range(i):
            found = [
                (g, win_probability(row[i], row[j], equal))
                for g, row in zip(family, values, strict=True)
                if row[i] is not None and row[j] is not None
            ]
            if not found:
                continue
            shares = np.array([w.value for _, w in found])
            whole = found[0][1] if len(found) == 1 else _over_families(shares, [g for g, _ in found])
            for (r, c), value, low, high in (
                ((i, j), whole.value, whole.low, whole.high),
                ((j, i), 1 - whole.value, 1 - whole.high, 1 - whole.low),
            ):
                out.value[r, c], out.objectives[r, c] = value, len(found)
                out.low[r, c], out.high[r, c] = max(low, 0.0), min(high, 1.0)
                if np.isnan(low):
                    out.low[r, c] = out.high[r, c] = np.nan
    return out


def _over_families(values: np.ndarray, families: Sequence[int]) -> Interval:
    return in_general(values, np.stack([np.asarray(families), np.arange(len(values))], 1), width=1.0)


def log_efficiency(one: np.ndarray, two: np.ndarray, grid: np.ndarray) -> float:
    """log of the factor of trainings that strategy `one` needs of `two`'s: best-so-far curves f64[g] (they
    never rise) at ascending budgets. log(.4): it reaches at 40 % of the largest budget what the other ends
    with; log(2.5): the other way round; nan where one has nothing to the end. Whoever ends better is never
    the slower one, though the other may have been first at the level where it then stayed."""
    if not (np.isfinite(one[-1]) and np.isfinite(two[-1])):
        return np.nan
    better, worse, sign = (one, two, 1.0) if one[-1] <= two[-1] else (two, one, -1.0)
    if better[-1] == worse[-1] and np.argmax(one <= one[-1]) > np.argmax(two <= two[-1]):
        better, worse, sign = two, one, -1.0
    end = worse[-1]
    # Both at the moment when they reach that level: a curve that has long been flat is not slow.
    at_better, at_worse = grid[np.argmax(better <= end)], grid[np.argmax(worse <= end)]
    return float(sign * min(np.log(at_better / at_worse), 0.0))


def _medians(curves: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Lower median over runs of curves f64[runs, g]: f64[g], or f64[draws, g] of resamples' counts."""
    order = np.argsort(curves, axis=0, kind="stable")
    ordered = np.take_along_axis(curves, order, axis=0)
    middle = (len(curves) + 1) // 2
    if counts is None:
        return ordered[middle - 1]
    at = (np.cumsum(counts[:, order], axis=1) >= middle).argmax(1)  # [draws, runs, g] -> [draws, g]
    return ordered[at, np.arange(curves.shape[1])]


def log_efficiency_interval(one: np.ndarray, two: np.ndarray, grid: np.ndarray, draws: int = 400) -> Interval:
    """Log-efficiency of the median curves of runs f64[runs, g] with its 95 % percentile bootstrap interval
    over runs; of fewer than six runs no interval of a median exists."""

    value = log_efficiency(_medians(one), _medians(two), grid)
    units = min(len(one), len(two))
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, units, "half of the runs of one have no result")
    if units < 6 or not draws:
        reason = "fewer than 6 runs: no 95 % interval of a median exists" if draws else "not resampled"
        return Interval(value, np.nan, np.nan, units, reason)
    first = _medians(one, resamples(len(one), draws, 1))
    second = _medians(two, resamples(len(two), draws, 2))
    drawn = np.array([log_efficiency(a, b, grid) for a, b in zip(first, second, strict=True)])
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if len(drawn) < draws // 2:
        return Interval(value, np.nan, np.nan, units, "in most resamples one side has nothing")
    tail = int(0.025 * len(drawn))
    return Interval(value, float(drawn[tail]), float(drawn[-1 - tail]), units)


def surely_first(values: Sequence[np.ndarray], paired: bool, width: float) -> tuple[int, int, float]:
    """(first, second, p) of several strategies' values f64[runs], finite: who has the lowest and the next
    mean, and the largest p of the first against any other. It leads surely where that is at most .05: for
    this every test must reject, so the choice of the first and the number of others need no correction (an
    intersection-union test, Berger 1982). Only the nearest two others, by Welch's t, are tested, since the
    largest p is theirs. p is nan where there is one strategy or one run."""
    means = np.array([v.mean() for v in values])
    order = np.argsort(means, kind="stable")
    first = int(order[0])
    if len(values) < 2:
        return first, first, np.nan
    second = int(order[1])
    if min(len(v) for v in values) < 2:
        return first, second, np.nan

    if paired:
        table = np.stack(values)
        error = np.std(table[first] - table, axis=1, ddof=1) / np.sqrt(table.shape[1])
    else:
        of = np.array([np.var(v, ddof=1) / len(v) for v in values])
        error = np.sqrt(of[first] + of)
    gap = means - means[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(error > 0, gap / error, np.where(gap > 0, np.inf, 0.0))

    near = sorted((int(i) for i in order[1:]), key=lambda i: distance[i])[:2]
    if len({len(values[i]) for i in near}) == 1:  # both at once
        p = differences(
            np.stack([values[first]] * len(near)), np.stack([values[i] for i in near]), paired, width
        ).p
    else:
        p = [differences(values[first], values[i], paired, width).p[0] for i in near]
    return first, second, float(max(p))


def rank_table(values: pd.DataFrame) -> pd.DataFrame:
    """Mean ranks over objectives of a frame with columns objective, label, budget, value: columns label,
    budget, rank, objectives. At each budget only labels that have all objectives there."""
    rows = []
    for budget, part in values.groupby("budget", sort=True):
        wide = part.pivot_table(index="objective", columns="label", values="value", aggfunc="mean")
        wide = wide.dropna(axis=1)
        if len(wide) and wide.shape[1] > 1:
            mean = ranks(wide.to_numpy()).mean(0)
            rows += [
                {"label": label, "budget": budget, "rank": r, "objectives": len(wide)}
                for label, r in zip(wide.columns, mean, strict=True)
            ]
    return pd.DataFrame(rows, columns=pd.Index(["label", "budget", "rank", "objectives"]))
