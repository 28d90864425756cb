"""Intervals and survival in plain numpy: nothing here knows what a strategy is.

Kaplan and Meier 1958 (survival with censoring), Greenwood 1926 (its variance, used on the log-log scale),
Brookmeyer and Crowley 1982 (interval of a median survival time), Clopper and Pearson 1934 and Wilson 1927
(intervals of a proportion), Efron 1979 (percentile bootstrap). Every bootstrap draws from a generator with a
fixed seed, so that the same runs give the same interval. All arrays are float64 unless stated.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

DRAWS = 2000  # bootstrap resamples


class Survival(NamedTuple):
    """A survival curve at its event times: time f64[k] ascending · survival f64[k], the share still without
    the event just after it · low, high f64[k], 95 % interval of the survival."""

    time: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray


def clopper_pearson(k, n, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval of a proportion, k of n (arrays broadcast): covers at least `level`; n = 0: (0, 1)."""
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    tail = (1 - level) / 2
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1), np.maximum(n - k, 0) + 1, tail), 0.0)
    high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return low, high


def wilson(k, n, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a proportion, k of n (arrays broadcast); n = 0: (0, 1)."""
    k, n = np.asarray(k, np.float64), np.asarray(n, np.float64)
    z = special.ndtri(0.5 + level / 2)
    safe = np.maximum(n, 1)
    share = k / safe
    middle = (share + z**2 / (2 * safe)) / (1 + z**2 / safe)
    half = z / (1 + z**2 / safe) * np.sqrt(share * (1 - share) / safe + z**2 / (4 * safe**2))
    low = np.where(n > 0, np.clip(middle - half, 0, 1), 0.0)
    return low, np.where(n > 0, np.clip(middle + half, 0, 1), 1.0)


def kaplan_meier(time, event, level: float = 0.95) -> Survival:
    """Survival curve of n lifetimes f64[n]; event bool[n] is False where one was cut off (censored).

    Where nothing was censored before the last event the survival is a plain proportion and its interval
    exact (Clopper-Pearson); else Greenwood's variance on the log-log scale. Raises ValueError where a time
    is negative or nan.
    """
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    if np.isnan(time).any() or (time < 0).any():
        raise ValueError("lifetimes must not be negative or nan")
    if not event.any():
        empty = np.empty(0)
        return Survival(empty, empty, empty, empty)
    at, events = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), at, side="left")
    survival = np.cumprod(1 - events / at_risk)
    n, dead = len(time), np.cumsum(events)
    if not (time[~event] < at[-1]).any():
        low, high = clopper_pearson(n - dead, n, level)
        return Survival(at, survival, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        width = special.ndtri(0.5 + level / 2) * np.sqrt(greenwood) / np.log(survival)
        low, high = survival ** np.exp(-width), survival ** np.exp(width)
    ended = survival <= 0  # Greenwood has no variance there
    low = np.where(ended, 0.0, low)
    high = np.where(ended, np.min(high[~ended], initial=1.0), high)
    return Survival(at, survival, low, high)


def _first(curve: np.ndarray, time: np.ndarray, level: float) -> float:
    below = curve <= level + 1e-12
    return float(time[below.argmax()]) if below.any() else np.inf


def survival_median(curve: Survival) -> tuple[float, float, float]:
    """Median lifetime with the interval of its curve: (median, low, high); infinite where the curve never
    comes down to one half, low = 0 where there are too few lifetimes to exclude it."""
    if not len(curve.time):
        return np.inf, np.inf, np.inf
    low = _first(curve.low, curve.time, 0.5)
    return _first(curve.survival, curve.time, 0.5), low, _first(curve.high, curve.time, 0.5)


def median_lifetime(time, event) -> tuple[float, float, float]:
    """Kaplan-Meier median of lifetimes f64[n] with its 95 % interval. Below six lifetimes no interval of
    that level exists: (median, 0, inf)."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    median, low, high = survival_median(kaplan_meier(time, event))
    return (median, 0.0, np.inf) if len(time) < 6 else (median, low, high)


def restricted_mean(time, event, limit: float) -> float:
    """E[min(T, limit)]: the area under the Kaplan-Meier curve from 0 to `limit`."""
    curve = kaplan_meier(time, event)
    edges = np.concatenate([[0.0], np.minimum(curve.time, limit), [limit]])
    return float(np.sum(np.diff(edges) * np.concatenate([[1.0], curve.survival])))


@lru_cache(maxsize=64)
def resamples(n: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each of n runs appears in each bootstrap resample: f64[draws, n], rows sum to n."""
    counts = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)
    counts.setflags(write=False)
    return counts


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The two order statistics that hold the middle `level` of values f64[n]; infinity is a value."""
    ordered, n = np.sort(values), len(values)
    tail = int(np.floor((1 - level) / 2 * n))
    return float(ordered[tail]), float(ordered[n - 1 - tail])


def bootstrap_mean(values) -> tuple[float, float, float]:
    """Mean of f64[n] with its 95 % percentile bootstrap interval. One infinity makes a mean infinite; nan
    where there is no value, an interval of nan where there is only one."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0 or np.isnan(values).any():
        return np.nan, np.nan, np.nan
    if n == 1:
        return float(values[0]), np.nan, np.nan
    counts, lost = resamples(n), ~np.isfinite(values)
    means = counts @ np.where(lost, 0.0, values) / n
    means = np.where(counts @ lost.astype(np.float64) > 0, np.inf, means)
    return (float(values.mean()), *percentiles(means))


@lru_cache(maxsize=256)
def _rank(n: int, level: float) -> int:
    """Largest k so that the k-th lowest and k-th highest of n values hold the median; 0: none."""
    k = np.arange(n // 2 + 1)
    inside = special.bdtr(np.maximum(k - 1, 0), n, 0.5) * (k > 0) <= (1 - level) / 2
    return int(k[inside].max())


def median_interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median over the first axis of f64[n, ...] with its distribution-free interval (order statistics);
    infinity is a value. Below six values no 95 % interval exists: nan."""
    ordered, n = np.sort(values, axis=0), len(values)
    with np.errstate(invalid="ignore"):
        lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
        middle = np.where(lower == upper, lower, (lower + upper) / 2)
    k = _rank(n, level)
    if k == 0:
        return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    return middle, ordered[k - 1], ordered[n - k]


def smallest_lasting(share: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """The smallest of the ascending budgets f64[b] such that there and at every larger one the share
    f64[..., b] is at least one half: f64[...], infinite where it is not so at the largest."""
    good = np.logical_and.accumulate(share[..., ::-1] >= 0.5 - 1e-12, axis=-1)
    return np.concatenate([budgets, [np.inf]])[len(budgets) - good.sum(-1)]


def budget_needed(success: np.ndarray, budgets) -> tuple[float, float, float]:
    """`smallest_lasting` of the runs' success f64[runs, b] (1, 0, nan: no run planned for it) with its 95 %
    bootstrap interval over runs. A run is resampled with all its budgets, since an anytime run's are cuts of
    one; the interval is nan below two runs."""
    success, budgets = np.asarray(success, np.float64), np.asarray(budgets, np.float64)
    there = ~np.isnan(success)
    kept = there.any(0)
    if not kept.any():
        return np.nan, np.nan, np.nan
    success, there, budgets = np.where(there, success, 0.0)[:, kept], there[:, kept], budgets[kept]
    value = float(smallest_lasting(success.sum(0) / there.sum(0), budgets))
    if len(success) < 2:
        return value, np.nan, np.nan
    counts = resamples(len(success))
    planned = counts @ there.astype(np.float64)
    # A resample may miss every run of a budget that few runs were planned for: it says nothing against it.
    share = np.where(planned > 0, counts @ success / np.maximum(planned, 1), 1.0)
    return (value, *percentiles(smallest_lasting(share, budgets)))
