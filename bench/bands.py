"""Exact bands for random search's tuning curve: the loss of the best of k, for every k at once.

Lourie, Cho and He 2024, arXiv:2311.09480 (from a simultaneous band of a distribution function to one of the
tuning curve); Kolmogorov 1933 in its exact finite form (the band of constant width; Dvoretzky, Kiefer and
Wolfowitz 1956 and Massart 1990 bound it); Aldor-Noiman et al. 2013 (equal tails: every order statistic has
the same pointwise level, so the band is narrow where it matters, in the tail); Moscovich and Nadler 2017
(the probability that uniform order statistics stay within bounds, by a Poisson process conditioned on its
end). Distribution-free: the losses are independent draws of one law, ties and infinities (diverged)
included, in which case they cover at least."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special, stats

MOST_EQUAL = 1000  # draws that equal tails are computed for


class Band(NamedTuple):
    """k f64[g], trials · middle f64[g], the median of the best of k draws, estimated · low, high f64[g]: at
    once for all k, with the stated level; infinite where the draws do not bound it."""

    k: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def staying_within(low: np.ndarray, high: np.ndarray) -> float:
    """Probability that the order statistics of n uniform draws satisfy low[i] <= U_(i) <= high[i] for all i
    (both ascending f64[n])."""
    low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    n = len(low)
    times = np.unique(np.concatenate([low, high, [1.0]]))
    # At least as many points up to t as have an upper bound at t or before, at most as have a lower one.
    least = np.searchsorted(high, times, side="right")
    most = np.searchsorted(low, times, side="left")
    # A Poisson process of rate n: the probability of each number of points below t that is allowed, which
    # are few of the n + 1.
    count = np.arange(n + 1)
    factorial = special.gammaln(count + 1)
    state, first, now = np.ones(1), 0, 0.0
    for t, fewest, largest in zip(times, least, most, strict=True):
        if fewest > largest:
            return 0.0
        mean, new = n * (t - now), count[: largest - first + 1]
        step = np.exp(special.xlogy(new, mean) - mean - factorial[: len(new)])
        state = np.convolve(state, step)[max(fewest - first, 0) : largest - first + 1]
        first, now = max(fewest, first), t
    whole = np.exp(-n + n * np.log(n) - special.gammaln(n + 1))
    return float(min(state[n - first] / whole, 1.0))


@lru_cache(maxsize=32)
def ranks_band(n: int, level: float = 0.95, kind: str = "equal tails") -> tuple[np.ndarray, np.ndarray]:
    """Bounds f64[n] of the n uniform order statistics that hold all at once with probability `level`. kind:
    "equal tails" or "constant width". Raises ValueError for another kind, and for equal tails of more than
    1,000 draws, which take too long."""
    i = np.arange(1, n + 1)
    if kind == "constant width":
        d = float(stats.kstwo.ppf(level, n))
        return np.maximum(i / n - d, 0.0), np.minimum((i - 1) / n + d, 1.0)
    if kind != "equal tails":
        raise ValueError(f"kind must be equal tails or constant width, got {kind!r}")
    if n > MOST_EQUAL:
        raise ValueError(f"equal tails are for at most {MOST_EQUAL:,} draws, got {n}; take constant width")

    def bounds(tail):
        return special.betaincinv(i, n + 1 - i, tail), special.betaincinv(i, n + 1 - i, 1 - tail)

    below, above = (1 - level) / 2 / n, (1 - level) / 2  # Bonferroni's tail, and a single one's
    for _ in range(30):
        middle = np.sqrt(below * above)
        below, above = (middle, above) if staying_within(*bounds(middle)) >= level else (below, middle)
    return bounds(below)


def tuning_curve(losses, k, level: float = 0.95, kind: str = "equal tails") -> Band:
    """Median of the best of k random configurations, from n of their losses f64[n] (not finite: diverged),
    with a band that holds for all k at once. The best of k is as good as the share 1 - .5^(1/k) of
    configurations. Raises ValueError where there is no loss or a k is below 1."""
    losses = np.asarray(losses, np.float64)
    k = np.asarray(k, np.float64)
    if not len(losses) or (k < 1).any():
        raise ValueError(f"a tuning curve needs losses and k of at least 1, got {len(losses)} and {k.min()}")
    ordered = np.sort(np.where(np.isfinite(losses), losses, np.inf))
    n = len(ordered)
    low, high = ranks_band(n, level, kind)
    share = 1 - 0.5 ** (1 / k)
    # The law's quantile q lies above every order statistic whose share is surely at most q, and below the
    # first whose share is surely at least q.
    at_low = np.searchsorted(high, share, side="right") - 1
    at_high = np.searchsorted(low, share, side="left")
    middle = ordered[np.clip(np.ceil(share * n).astype(int) - 1, 0, n - 1)]
    return Band(
        k, middle,
        np.where(at_low >= 0, ordered[np.maximum(at_low, 0)], -np.inf),
        np.where(at_high < n, ordered[np.minimum(at_high, n - 1)], np.inf),
    )  # fmt: skip
