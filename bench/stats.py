"""Intervals and survival in plain numpy: nothing here knows what a strategy is.

Kaplan and Meier 1958 (survival with censoring), Greenwood 1926 (its variance, used on the log-log scale),
Brookmeyer and Crowley 1982 (interval of a median survival time), Clopper and Pearson 1934 and Wilson 1927
(intervals of a proportion), Hall 1992 (JRSS B 54: interval of a mean, skewness removed by a monotone cubic),
Andersen, Klein and Rosthoj 2003 (pseudo-values of a restricted mean), Hansen et al. 2009 (expected running
time), Agarwal et al. 2021, arXiv:2108.13264 (interquartile mean, stratified bootstrap), Efron 1979
(percentile bootstrap). Departures: Hall's normal quantile is Student's here, and the stratified bootstrap
gives a standard error with Student's quantile, since its percentiles are too narrow for few runs. Every
bootstrap draws from a generator with a fixed seed, so that the same runs give the same interval. Arrays are
float64 unless stated."""

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
    of = n.flat[0] if n.size else 0.0
    if 0 < of <= 1000 and (n == of).all() and (k == np.floor(k)).all() and of == int(of):
        low, high = _exact(int(of), level)  # the same few n come again and again
        return low[k.astype(np.int64)], high[k.astype(np.int64)]
    return _clopper_pearson(k, n, level)


@lru_cache(maxsize=64)
def _exact(n: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = _clopper_pearson(np.arange(n + 1.0), np.full(n + 1, float(n)), level)
    low.setflags(write=False)
    high.setflags(write=False)
    return low, high


def _clopper_pearson(k: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
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
        low, high = (bound[n - dead] for bound in _exact(n, level))
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


@lru_cache(maxsize=64)
def _half_dead(n: int) -> tuple[int, int, int]:
    """After how many of n deaths, none of them unseen, survival, its lower and its upper bound are at most
    one half; n + 1: never."""
    low, high = _exact(n, 0.95)
    alive = np.arange(n - 1, -1, -1)
    curves = (alive / n, low[alive], high[alive])
    first = [int(below.argmax()) + 1 if (below := c <= 0.5 + 1e-12).any() else n + 1 for c in curves]
    return first[0], first[1], first[2]


def median_lifetime(time, event) -> tuple[float, float, float]:
    """Kaplan-Meier median of lifetimes f64[n] with its 95 % interval. Below six lifetimes no interval of
    that level exists: (median, 0, inf)."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    n = len(time)
    died = np.sort(time[event])
    if 0 < n <= 1000 and len(died) and (died[0] >= 0) and (time[~event] >= died[-1]).all():
        # As `survival_median` of `kaplan_meier`, whose bounds then are those of a proportion.
        ends = np.append(died, np.full(n + 1 - len(died), np.inf))
        median, low, high = (float(ends[k - 1]) for k in _half_dead(n))
    else:
        median, low, high = survival_median(kaplan_meier(time, event))
    return (median, 0.0, np.inf) if n < 6 else (median, low, high)


def restricted_mean(time, event, limit: float) -> float:
    """E[min(T, limit)]: the area under the Kaplan-Meier curve from 0 to `limit`. Where the longest lifetime
    was cut off before `limit` the curve stays there: too large rather than too small."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    if event[time < limit].all():
        return float(np.minimum(time, limit).mean())  # what the area is where nothing was cut off early
    curve = kaplan_meier(time, event)
    edges = np.concatenate([[0.0], np.minimum(curve.time, limit), [limit]])
    return float(np.sum(np.diff(edges) * np.concatenate([[1.0], curve.survival])))


def pseudo_lifetimes(time, event, limit: float) -> np.ndarray:
    """f64[n] whose mean is the restricted mean and whose spread is its: min(T, limit) itself where nothing
    was cut off before `limit`, else the jackknife's n R - (n-1) R without the one. What is said of means of
    independent values may be said of these."""
    time, event = np.asarray(time, np.float64), np.asarray(event, bool)
    if event[time < limit].all():
        return np.minimum(time, limit)
    n, every, whole = len(time), np.arange(len(time)), restricted_mean(time, event, limit)
    without = [restricted_mean(time[every != i], event[every != i], limit) for i in every] if n > 1 else [0.0]
    return n * whole - (n - 1) * np.array(without)


def restricted_mean_interval(time, event, limit: float) -> tuple[float, float, float]:
    """The restricted mean with its 95 % interval (`mean_interval` of the pseudo-values, within 0 and
    `limit`)."""
    low, high = mean_interval(pseudo_lifetimes(time, event, limit))[1:]
    return restricted_mean(time, event, limit), max(float(low), 0.0), min(float(high), limit)


def expected_running_time(spent, reached) -> tuple[float, float, float]:
    """ERT with its 95 % interval: what all runs spent f64[n] (a run that arrived, until then; another, in
    all) over how many arrived, bool[n]. Infinite where none did; without an upper end where fewer than two
    did."""
    spent, reached = np.asarray(spent, np.float64), np.asarray(reached, np.float64)
    n, arrived = len(spent), reached.sum()
    if n == 0 or arrived == 0:
        return np.inf, np.nan if n < 2 else float(spent.sum() / clopper_pearson(0, n)[1] / n), np.inf
    value = float(spent.sum() / arrived)
    if n < 2:
        return value, np.nan, np.nan
    # The logarithm of a ratio of two means, by its influence on each run.
    error = np.std(spent / spent.mean() - reached / reached.mean(), ddof=1) / np.sqrt(n)
    width = float(np.exp(special.stdtrit(n - 1, 0.975) * error))
    return value, value / width, value * width if arrived > 1 else np.inf


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


def mean_interval(values, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the first axis of f64[n, ...] with its interval: Student's, on the scale of Hall's cubic,
    which removes skewness. One infinity makes a mean infinite, a nan nan, and their interval nan, as that of
    a single value is; values that are all alike have an interval of no width, which claims too much where n
    is small."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing, nothing
    with np.errstate(invalid="ignore"):
        mean = values.mean(0)
        if n == 1:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        spread = values - mean
        deviation = np.sqrt((spread**2).sum(0) / (n - 1))
        skewness = (spread**3).mean(0) / np.maximum((spread**2).mean(0), 1e-300) ** 1.5
        slope, shift = skewness / 3, skewness / (6 * n)
        flat = np.abs(slope) < 1e-6
        safe = np.where(flat, 1.0, slope)

        def back(y):
            z = y - shift
            return np.where(flat, z, (np.cbrt(1 + 3 * safe * z) - 1) / safe)

        quantile = special.stdtrit(n - 1, 0.5 + level / 2) / np.sqrt(n)
        low, high = mean - deviation * back(quantile), mean - deviation * back(-quantile)
    return mean, np.where(np.isfinite(mean), low, np.nan), np.where(np.isfinite(mean), high, np.nan)


def interquartile_mean(values) -> tuple[float, float, float]:
    """Mean of the middle half of all of f64[runs, tasks] with its 95 % interval: runs are resampled within
    their task; the bootstrap's standard error, enlarged by sqrt(n/(n-1)), with Student's quantile for
    n = runs. An interval of nan below two runs."""
    values = np.asarray(values, np.float64)
    n, tasks = values.shape

    def middle(pooled):
        cut = int(0.25 * pooled.shape[-1])
        return np.sort(pooled, axis=-1)[..., cut : pooled.shape[-1] - cut].mean(-1)

    value = float(middle(values.ravel()))
    if n < 2:
        return value, np.nan, np.nan
    rng, drawn = np.random.default_rng([n, tasks]), []
    # 200 give a standard error to 5 %; more where they cost little.
    for _ in range(int(np.clip(2e6 / (20 * n * tasks), 10, DRAWS / 20))):
        rows = rng.integers(0, n, (20, n, tasks))  # in parts, for memory's sake
        drawn.append(middle(values[rows, np.arange(tasks)].reshape(20, -1)))
    drawn = np.concatenate(drawn)
    half = special.stdtrit(n - 1, 0.975) * drawn.std() * np.sqrt(n / (n - 1))
    return value, value - half, value + half


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
    interval: the budgets that the share's exact interval (Clopper-Pearson) at each does not exclude. nan
    below two runs."""
    success, budgets = np.asarray(success, np.float64), np.asarray(budgets, np.float64)
    there = ~np.isnan(success)
    kept = there.any(0)
    if not kept.any():
        return np.nan, np.nan, np.nan
    reached, runs, budgets = np.nansum(success, axis=0)[kept], there.sum(0)[kept], budgets[kept]
    value = float(smallest_lasting(reached / runs, budgets))
    if len(success) < 2:
        return value, np.nan, np.nan
    below, above = clopper_pearson(reached, runs)
    return value, float(smallest_lasting(above, budgets)), float(smallest_lasting(below, budgets))
