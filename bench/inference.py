"""What may be said of two strategies from their runs: differences, their tests, and when nothing can be said.

Janssen 1997 (Statistics & Probability Letters 36) and Chung and Romano 2013 (Annals of Statistics 41): the
permutation test of Welch's studentised difference, exact where both sides have one law and right for many
runs where only their means agree; Holm 1979; Brunner and Munzel 2000 (variance of a win probability);
Schuirmann 1987 (practical equality: the interval lies within a stated region); Hall 1992 and Zhou and Dinh
2005 (Biostatistics 6: skewness removed from the difference by a monotone cubic); Davison and Hinkley 1997,
section 3.8 (nested bootstrap); Rao 1971 (MINQUE with weight on the residual: variance components without a
likelihood, equal to those of the analysis of variance where the design is balanced). Lower values are better
throughout. Every draw comes from a generator with a fixed seed. What cannot be said is a `reason`, beside
numbers that are nan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

DRAWS = 1999  # permutations and resamples
EQUAL = 0.01  # practically equal: means this close, in units of the gap from optimum to median random
BETTER, WORSE, ALIKE, OPEN = "better", "worse", "practically equal", "inconclusive"
SMALL = 20  # runs: with fewer an interval's coverage is measured, not promised


class Difference(NamedTuple):
    """Mean of one side less that of the other: low, high its 95 % interval, p two-sided; n, m runs of each ·
    correlation of the pairs, nan where nothing is paired · error: its standard error · reason: why nothing
    can be said (then low, high and p are nan), else empty."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    m: int
    correlation: float
    error: float
    reason: str = ""


class Interval(NamedTuple):
    """A value with its 95 % interval; units: how many independent units it rests on; reason as above."""

    value: float
    low: float
    high: float
    units: int
    reason: str = ""

    @property
    def p(self) -> float:
        """Two-sided p of zero, where the interval is Student's with units - 1 degrees of freedom."""
        half = (self.high - self.low) / 2
        if self.units < 2 or np.isnan(half):
            return np.nan
        t = abs(self.value) / half * special.stdtrit(self.units - 1, 0.975)
        return float(2 * special.stdtr(self.units - 1, -t))


# Two strategies on one objective ------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _splits(n: int, m: int) -> np.ndarray:
    """Which of n + m runs go to the first side, f64[draws, n+m]: the true split first, then all others, or
    DRAWS drawn at random where there are more."""
    if comb(n + m, n) <= DRAWS + 1:
        rows = np.zeros((comb(n + m, n), n + m))
        for row, chosen in zip(rows, combinations(range(n + m), n), strict=True):
            row[list(chosen)] = 1
    else:
        rng = np.random.default_rng([n, m])
        order = rng.permuted(np.tile(np.arange(n + m), (DRAWS, 1)), axis=1)
        rows = np.concatenate([np.arange(n + m)[None], order]) < n
    rows = rows.astype(np.float64)
    rows.setflags(write=False)
    return rows


@lru_cache(maxsize=32)
def _signs(n: int) -> np.ndarray:
    """Signs of n pairs, f64[draws, n]: as they are first, then all others, or DRAWS drawn at random."""
    if 2**n <= DRAWS + 1:
        rows = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        rows = np.random.default_rng([n]).choice((1.0, -1.0), (DRAWS + 1, n))
        rows[0] = 1.0
    rows.setflags(write=False)
    return rows


def _central(one, two, three, n):
    """(mean, variance with n - 1, third central moment) from raw sums of powers."""
    mean = one / n
    second = two / n - mean**2
    return mean, np.maximum(second, 0) * n / (n - 1), three / n - 3 * mean * second - mean**3


def _statistic(difference, error, skewness) -> np.ndarray:
    """|Hall's cubic of difference / error|; 0 where there is none, infinite where there is one and no
    error."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = difference / error
        cubic = t + skewness / 3 * t**2 + skewness**2 / 27 * t**3 + skewness / 6
    return np.where(error > 0, np.abs(cubic), np.where(difference == 0, 0.0, np.inf))


def _error(variance, third, still):
    """Standard error and skewness of a difference from its variance and third central moment; no error where
    the variance is rounding only."""
    error = np.where(variance > still, np.sqrt(np.maximum(variance, 0)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return error, np.where(error > 0, third / error**3, 0.0)


def _from_permutations(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, critical value) of a statistic f64[pairs, draws], whose first column is what was seen. They agree:
    p is at most .05 exactly where the seen value exceeds the critical one."""
    draws = t.shape[1]
    seen = t[:, :1]
    p = (t >= seen * (1 - 1e-9)).mean(1)
    k = int(np.floor(0.05 * draws + 1e-9))  # p <= .05: at most k draws, itself one of them, are as large
    if k == 0:
        return p, np.full(len(t), np.inf)
    return p, -np.partition(-t, k, axis=1)[:, k] * (1 + 1e-9)  # equal but for rounding is not above


def _beyond(p: np.ndarray, t: np.ndarray, freedom: int) -> np.ndarray:
    """p where what was seen is beyond all DRAWS: Student's tail. Else a correction for many strategies could
    never reject."""
    at = (p * t.shape[1] < 1.5) & np.isfinite(t[:, 0])
    return np.where(at, np.minimum(p, 2 * special.stdtr(freedom, -t[:, 0])), p)


class Differences(NamedTuple):
    """Arrays f64[pairs] of `Difference`'s numbers."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    error: np.ndarray


def differences(a: np.ndarray, b: np.ndarray, paired: bool = False, width: float = np.inf) -> Differences:
    """The mean of each row of finite a f64[pairs, n] less that of b f64[pairs, m], with permutation-t
    interval and p; `paired`: column i of both shares something (n = m), and signs are permuted.

    `width`: the range that values can have. Where neither side varies, or no pair differs from another, the
    interval is what unseen values could do: their share is at most 1 - .025^(1/n); it ends at zero where the
    test rejects."""
    a, b = np.atleast_2d(np.asarray(a, np.float64)), np.atleast_2d(np.asarray(b, np.float64))
    n, m = a.shape[1], b.shape[1]
    mean = a.mean(1) - b.mean(1)
    if min(n, m) < 2:
        nothing = np.full(len(a), np.nan)
        return Differences(mean, nothing, nothing, nothing, nothing)
    both = a - b if paired else np.concatenate([a, b], axis=1)
    if not paired:
        both = both - both.mean(1, keepdims=True)  # for the powers' sake
    size = np.abs(both).max(1, keepdims=True)
    both = both / np.where(size > 0, size, 1.0)
    p, critical, error, skewness = (np.empty(len(a)) for _ in range(4))
    every = (2**n if paired else comb(n + m, n)) <= DRAWS + 1
    for first in range(0, len(a), 256):  # in parts, for memory's sake
        x = both[first : first + 256]
        if paired:
            signs = _signs(n)
            moved, variance, third = _central(x @ signs.T, (x**2).sum(1, keepdims=True), x**3 @ signs.T, n)
            # As good as all alike: raw sums of powers round at 1e-16.
            e, s = _error(variance / n, third / n**2, 1e-14)
        else:
            split = _splits(n, m)
            s1, s2, s3 = (x**k @ split.T for k in (1, 2, 3))
            r1, r2, r3 = ((x**k).sum(1, keepdims=True) for k in (1, 2, 3))
            one, two = _central(s1, s2, s3, n), _central(r1 - s1, r2 - s2, r3 - s3, m)
            moved = one[0] - two[0]
            e, s = _error(one[1] / n + two[1] / m, one[2] / n**2 - two[2] / m**2, 1e-24)
        moved = np.where(np.abs(moved) < 1e-12, 0.0, moved)
        part = slice(first, first + len(x))
        t = _statistic(moved, e, s)
        p[part], critical[part] = _from_permutations(t)
        if not every:
            p[part] = _beyond(p[part], t, min(n, m) - 1)
        error[part], skewness[part] = e[:, 0], s[:, 0]
    size = size[:, 0]

    def back(y):
        """The t whose cubic is y."""
        z = y - skewness / 6
        flat = np.abs(skewness) < 1e-6
        slope = np.where(flat, 1.0, skewness / 3)
        return np.where(flat, z, (np.cbrt(1 + 3 * slope * z) - 1) / slope)

    with np.errstate(invalid="ignore"):
        low, high = mean - size * error * back(critical), mean - size * error * back(-critical)
    none = np.isinf(critical)
    unseen = np.where(none, np.inf, width * (1 - 0.025 ** (1 / min(n, m))))
    if (
        paired and n >= SMALL
    ):  # many runs that vary and are the same on both sides, pair by pair: one strategy
        unseen = np.where(~none & (size == 0) & (np.ptp(a, axis=1) > 0), 0.0, unseen)
    still = none | (error == 0)
    apart = ~none & (p <= 0.05)
    ends = np.where(apart & (mean > 0), np.maximum(mean - unseen, 0), mean - unseen)
    low = np.where(still, ends, low)
    ends = np.where(apart & (mean < 0), np.minimum(mean + unseen, 0), mean + unseen)
    high = np.where(still, ends, high)
    return Differences(mean, low, high, p, size * error)


def difference(a, b, seeds_a=None, seeds_b=None, width: float = np.inf) -> Difference:
    """`differences` of one pair f64[n], f64[m]. With the runs' seeds (which share instances and start
    designs) given, runs are paired by seed where at least two, and most of either side, are in both; else
    not."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = len(a), len(b)
    correlation, paired = np.nan, False
    if seeds_a is not None and seeds_b is not None:
        shared, at_a, at_b = np.intersect1d(seeds_a, seeds_b, return_indices=True)
        if len(shared) >= 2 and 2 * len(shared) > max(n, m):
            a, b, paired = a[at_a], b[at_b], True
            if a.std() > 0 and b.std() > 0:
                correlation = float(np.corrcoef(a, b)[0, 1])
    mean = float(a.mean() - b.mean()) if n and m else np.nan
    reason = ""
    if not n or not m:
        reason = "one side has no runs"
    elif not (np.isfinite(a).all() and np.isfinite(b).all()):
        reason = "a value is not finite"
    elif min(n, m) < 2:
        reason = "one run a side: its spread is unknown, so no interval and no test"
    if reason:
        return Difference(mean, np.nan, np.nan, np.nan, n, m, correlation, np.nan, reason)
    found = differences(a, b, paired, width)
    if np.isinf(found.low[0]):
        reason = f"{n} and {m} runs: too few for a test at the 5 % level"
    low, high, p, error = (float(v[0]) for v in (found.low, found.high, found.p, found.error))
    return Difference(mean, low, high, p, n, m, correlation, error, reason)


def answer(found: Difference | Interval, equal: float, p: float | None = None, level: float = 0.05) -> str:
    """Which of four words: practically equal where the interval lies within -equal and equal (a difference
    that is sure but smaller is no reason to choose); better or worse where zero is excluded, by `p`
    (corrected for the number of comparisons) if it is given; else inconclusive."""
    low, high = found.low, found.high
    if found.reason or np.isnan(low) or np.isnan(high):
        return OPEN
    if -equal <= low and high <= equal:
        return ALIKE
    sure = (low > 0 or high < 0) if p is None else bool(p <= level)
    value = found.mean if isinstance(found, Difference) else found.value
    return (BETTER if value < 0 else WORSE) if sure and value != 0 else OPEN


def holm(p) -> np.ndarray:
    """Holm's corrected p values of f64[k]; nan stays, and is not counted."""
    p = np.asarray(p, np.float64)
    out = np.full(p.shape, np.nan)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return out


@lru_cache(maxsize=64)
def _tukey_table(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal deviates f64[g] and log of the corrected p of a pair that far apart, of k alike."""
    z = np.linspace(0.0, 8.0, 161)
    with np.errstate(divide="ignore"):
        tail = stats.studentized_range.sf(np.sqrt(2) * z, k, np.inf)
    return z, np.log(np.maximum(tail, 1e-13))


def tukey(p, k: int) -> np.ndarray:
    """p values of pairs among k strategies, corrected as if every pair had been looked at: what must be done
    where one side of a pair, the leader, was chosen by these very runs (Tukey 1953, by way of the normal
    deviate of p; Holm over the k - 1 others declares one of 10 equal strategies worse in 14 %). nan stays."""
    p = np.asarray(p, np.float64)
    if k <= 2:
        return p
    z, tail = _tukey_table(k)
    corrected = np.exp(np.interp(special.ndtri(1 - np.clip(p, 1e-15, 1) / 2), z, tail))
    return np.where(np.isnan(p), np.nan, np.clip(corrected, p, 1.0))


def tukey_level(k: int, level: float = 0.05) -> float:
    """The p of a single pair that `tukey` corrects to `level`."""
    if k <= 2:
        return level
    z, tail = _tukey_table(k)
    return float(2 * special.ndtr(-np.interp(-np.log(level), -tail, z)))


@lru_cache(maxsize=64)
def _dunnett_table(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal deviates f64[g] and log of the chance that any of k - 1 others looks that much better than one
    that is as good: each difference shares that one's error, so that they correlate by .5."""
    z, x = np.linspace(0.0, 8.0, 161), np.linspace(-9.0, 9.0, 2001)
    inside = special.ndtr(np.sqrt(2) * z[:, None] + x) ** (k - 1) * stats.norm.pdf(x)
    return z, np.log(np.maximum(1 - np.trapezoid(inside, x, axis=1), 1e-13))


def not_the_best(p, k: int) -> np.ndarray:
    """p values that a strategy which looks worse than the leader is not the best of k: corrected so that the
    true best, whoever it is, falls below a level with that probability at most. Hsu 1984, multiple
    comparisons with the best, with Dunnett's critical values (1955), by way of the normal deviate of the
    two-sided p of its pair with the leader. Those above the level are a confidence set for the best, smaller
    than the set that `tukey` leaves, which asks that no two equal ones be told apart. nan stays."""
    p = np.asarray(p, np.float64)
    z, tail = _dunnett_table(max(k, 2))
    corrected = np.exp(np.interp(special.ndtri(1 - np.clip(p, 1e-15, 1) / 2), z, tail))
    return np.where(np.isnan(p), np.nan, np.clip(corrected, p / 2, 1.0))


def seeds_needed(
    found: Difference, equal: float, level: float = 0.05, power: float = 0.8
) -> tuple[float, str]:
    """How many runs a side would settle an undecided pair with probability `power`, if the true difference
    and spread are what was seen: (runs, answer). `answer` is what they would then say: better or worse, or,
    where that takes fewer, practically equal. `level`: that of a single test, smaller where it is one of
    many. (nan, reason) where nothing can be said."""
    if found.reason or not found.error > 0:
        return np.nan, found.reason or "no run differs from another: there is no spread to go by"
    variance = found.error**2 * (2 * found.n * found.m / (found.n + found.m))  # of one run, both sides
    z = special.ndtri(1 - level / 2) + special.ndtri(power)
    size = abs(found.mean)
    apart = variance * z**2 / size**2 if size > 0 else np.inf
    inside = np.inf
    if size < equal:
        # The 95 % interval must end within the region on either side; near its middle both sides may fail.
        z_inside = special.ndtri(0.975) + special.ndtri((1 + power) / 2 if size == 0 else power)
        inside = variance * z_inside**2 / (equal - size) ** 2
    runs, says = (inside, ALIKE) if inside < apart else (apart, BETTER if found.mean < 0 else WORSE)
    # Guenther 1981: Student's quantile in place of the normal one. With fewer than six no test can reject.
    return float(np.ceil(max(runs + special.ndtri(1 - level / 2) ** 2 / 2, 6))), says


def win_probability(a, b, equal: float = 0.0) -> Interval:
    """Probability that a run of a f64[n] is lower than one of b f64[m], ties counting half (Mann-Whitney);
    values within `equal` of each other are tied, infinity is a value. The interval is Brunner and Munzel's on
    the logit scale, with Student's quantile for the smaller side."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = len(a), len(b)
    if not n or not m:
        return Interval(np.nan, np.nan, np.nan, 0, "one side has no runs")
    with np.errstate(invalid="ignore"):
        gap = b[None, :] - a[:, None]
    gap = np.where(a[:, None] == b[None, :], 0.0, gap)
    wins = (gap > equal) + 0.5 * (np.abs(gap) <= equal)
    value = float(wins.mean())
    if min(n, m) < 2:
        return Interval(value, np.nan, np.nan, min(n, m), "one run a side: its spread is unknown")
    error = np.sqrt(wins.mean(1).var(ddof=1) / n + wins.mean(0).var(ddof=1) / m)
    quantile = special.stdtrit(min(n, m) - 1, 0.975)
    if value in (0.0, 1.0) or error == 0:
        # Complete separation: as many independent pairs as the smaller side has, none of which went the
        # other way.
        other = 1 - 0.025 ** (1 / min(n, m))
        return Interval(value, max(value - other, 0.0), min(value + other, 1.0), min(n, m))
    half = quantile * error / (value * (1 - value))
    middle = np.log(value / (1 - value))
    low, high = float(special.expit(middle - half)), float(special.expit(middle + half))
    return Interval(value, low, high, min(n, m))


# Many objectives ----------------------------------------------------------------------------------------


def _tree(values: np.ndarray, levels: np.ndarray) -> tuple[float, float]:
    """(mean, variance of its bootstrap) of a tree: units of the first column of levels i64[n, depth] are
    drawn with replacement, within each its own, and so on; at the end single values. Each unit counts the
    same. A level that has one unit is passed over: it was not sampled here. What endless resampling would
    find is computed: of n units drawn, the variance is that of one over n, and that of one is the mean of the
    variances within units plus the variance of their means."""
    variance = np.zeros(len(values))
    for depth in range(levels.shape[1], -1, -1):
        unit = np.zeros(len(values), np.int64)
        for column in levels[:, :depth].T:
            unit = np.unique(unit * (int(column.max()) + 1) + column, return_inverse=True)[1]
        n = np.bincount(unit)
        mean = np.bincount(unit, weights=values) / n
        within = np.bincount(unit, weights=variance) / n
        between = np.bincount(unit, weights=(values - mean[unit]) ** 2) / n
        values, variance = mean, np.where(n > 1, (within + between) / n, within)
        levels = levels[np.unique(unit, return_index=True)[1]]
    return float(values[0]), float(variance[0])


def tree_mean(values: np.ndarray, levels: np.ndarray) -> float:
    """Mean of values f64[n] in which units of each level, the columns of i64[n, depth] from the outermost,
    count the same."""
    if levels.shape[1] == 1 and (np.diff(levels[:, 0]) > 0).all():  # a run each, as most often
        return float(np.cumsum(values)[-1] / len(values))  # summed in the same order
    return _tree(values, levels)[0]


def in_general(values, levels, width: float = np.inf) -> Interval:
    """The mean over a population of families, of which these are a sample: values f64[n], one a run; levels
    i64[n, depth], the run's family, then the objective and instance within it (the last level's runs are
    seeds). Families are resampled, then what is within each. The interval is the bootstrap's standard error,
    enlarged by sqrt(F/(F-1)), with Student's quantile for F families: the percentiles of so few are too
    narrow. Resampling every level counts the inner ones twice: it is too wide rather than too narrow. Where
    nothing varies it is what families that were not seen could do, within the range `width` of values."""
    values, levels = np.asarray(values, np.float64), np.asarray(levels)
    levels = np.stack([np.unique(c, return_inverse=True)[1] for c in levels.T], 1)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0, "no runs")
    families = len(np.unique(levels[:, 0]))
    if not np.isfinite(values).all():
        return Interval(float(np.mean(values)), np.nan, np.nan, families, "a value is not finite")
    value, variance = _tree(values, levels)
    if families < 2:
        reason = "one family of objectives: what holds on it need not hold on another"
        return Interval(value, np.nan, np.nan, families, reason)
    half = special.stdtrit(families - 1, 0.975) * np.sqrt(variance * families / (families - 1))
    if half <= 1e-12 * max(1.0, abs(value)):
        half = width * (1 - 0.025 ** (1 / families))
    return Interval(value, value - half, value + half, families)


# Variance -----------------------------------------------------------------------------------------------


def variance_components(values, terms: dict[str, Sequence]) -> pd.DataFrame:
    """How much of the variance of values f64[n] each random term explains: one row a term and one for the
    rest ("seed": what is left between runs that agree in all terms); columns term, levels, variance, share,
    reason.

    terms: name -> a label for each run; an interaction's labels are pairs. y = mean + one effect for each
    level of each term + rest, all independent. Method of moments on centred quadratic forms (MINQUE), for any
    design, balanced or not. A negative estimate is shown as 0 in `share`; a term with one level, or with the
    same groups as an earlier one, has nan and its reason."""
    y = np.asarray(values, np.float64)
    n = len(y)
    kept, groups, rows = [], [], {}
    for name, labels in terms.items():
        code = pd.factorize(pd.Series(list(labels)))[0]
        count = int(code.max(initial=-1)) + 1
        reason = ""
        if count < 2:
            reason = "one level only"
        elif count == n:
            reason = "a level for every run: not to be told from the rest"
        else:
            same = [k for k, other in zip(kept, groups, strict=True) if _alike(code, other)]
            reason = f"the same groups as {same[0]}" if same else ""
        rows[name] = {"term": name, "levels": count, "reason": reason}
        if not reason:
            kept.append(name)
            groups.append(code)
    size = len(kept) + 1
    moments, forms = np.zeros((size, size)), np.zeros(size)
    centred = y - y.mean()
    for i, g in enumerate(groups):
        counts = np.bincount(g).astype(np.float64)
        forms[i] = (np.bincount(g, weights=centred) ** 2).sum()
        moments[i, -1] = moments[-1, i] = n - (counts**2).sum() / n
        for j, h in enumerate(groups[: i + 1]):
            other = np.bincount(h).astype(np.float64)
            cells = pd.Series(g * len(other) + h).value_counts()
            inside = (cells.to_numpy(np.float64) ** 2).sum()
            index = cells.index.to_numpy()
            cross = (cells.to_numpy() * counts[index // len(other)] * other[index % len(other)]).sum() / n
            outside = (counts**2).sum() * (other**2).sum() / n**2
            moments[i, j] = moments[j, i] = inside - 2 * cross + outside
    forms[-1], moments[-1, -1] = (centred**2).sum(), n - 1
    found = np.full(size, np.nan)
    if n > 1 and np.linalg.matrix_rank(moments) == size:
        found = np.linalg.solve(moments, forms)
    total = np.maximum(found, 0).sum()
    for name, variance in zip(kept, found, strict=False):
        rows[name] |= {"variance": variance}
    rows["seed"] = {"term": "seed", "levels": n, "reason": "", "variance": found[-1]}
    table = pd.DataFrame(list(rows.values()), columns=pd.Index(["term", "levels", "variance", "reason"]))
    table["share"] = table["variance"].clip(lower=0) / total if total > 0 else np.nan
    if np.isnan(found).any():
        table.loc[table["reason"] == "", "reason"] = "the terms cannot be told apart in this design"
    return table.reindex(columns=["term", "levels", "variance", "share", "reason"])


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = len(np.unique(one.astype(np.int64) * (int(other.max()) + 1) + other))
    return pairs == len(np.unique(one)) == len(np.unique(other))
