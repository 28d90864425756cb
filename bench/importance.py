"""Which hyperparameters matter, from a table of configurations and losses: functional ANOVA of a forest.

Hutter, Hoos & Leyton-Brown 2014, An Efficient Approach for Assessing Hyperparameter Importance, ICML: a tree
is constant on boxes, so the variance of its marginals is a sum and no sampling; shares are means over trees.
The forest's sizes are Optuna's (64 trees grown to the end).

Departure: *within the best quartile* the paper caps the loss, and whether a configuration is good at all then
still decides most. Here the forest is fitted to the best quartile alone, and variances are taken over the
values that its configurations have on each axis, the axes being independent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TREES = 64
BEST = 0.25  # the share of configurations that are looked at once more by themselves
MATTERS = 0.05  # the share of the variance from which on an axis is counted


class Importance(NamedTuple):
    """Shares of the variance. first f64[d]: of each axis alone · pairs f64[d, d]: of what two axes do beyond
    that, symmetric, 0 on the diagonal; what is left to 1 is of three or more axes."""

    first: np.ndarray
    pairs: np.ndarray

    @property
    def count(self) -> int:
        """How many axes have more than MATTERS alone."""
        return int((self.first > MATTERS).sum())


class _Boxes(NamedTuple):
    """The leaves of a tree: low, high f64[leaves, d], inside the unit cube · value f64[leaves]."""

    low: np.ndarray
    high: np.ndarray
    value: np.ndarray


def _boxes(tree: Any, dimension: int) -> _Boxes:
    low, high = np.zeros((tree.node_count, dimension)), np.ones((tree.node_count, dimension))
    for node in range(tree.node_count):  # parents come before their children
        left, right, axis = tree.children_left[node], tree.children_right[node], tree.feature[node]
        if left < 0:
            continue
        low[left] = low[right] = low[node]
        high[left] = high[right] = high[node]
        high[left, axis] = low[right, axis] = tree.threshold[node]
    leaf = tree.children_left < 0
    return _Boxes(low[leaf], high[leaf], tree.value[leaf, 0, 0])


def _below(x: np.ndarray | None, edges: np.ndarray) -> np.ndarray:
    """The measure below edges f64[...] of one axis: their own values, or the share of x f64[n] there."""
    # On an edge is left of it, as in the tree.
    return edges if x is None else np.searchsorted(np.sort(x), edges, "right") / len(x)


def _tree_shares(boxes: _Boxes, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Variances of a tree: of each axis alone f64[d], of two axes together f64[d, d], of all."""
    dimension = boxes.low.shape[1]
    edges, first, last, size = [], [], [], []
    for i in range(dimension):
        cuts = np.unique(np.concatenate([boxes.low[:, i], boxes.high[:, i]]))
        first.append(np.searchsorted(cuts, boxes.low[:, i]))
        last.append(np.searchsorted(cuts, boxes.high[:, i]))
        measure = _below(None if x is None else x[:, i], cuts)
        measure[0], measure[-1] = 0.0, 1.0
        edges.append(np.diff(measure))
        size.append(measure[last[i]] - measure[first[i]])
    volume = np.prod(size, axis=0)
    value = boxes.value - volume @ boxes.value
    inside = volume > 0  # where the best have no values, nothing counts
    weight = np.where(inside, value * volume, 0.0)

    def marginal(axes: tuple[int, ...]) -> float:
        """Variance of the mean over all other axes: a sum of boxes, by differences at their corners."""
        shape = tuple(len(edges[i]) + 1 for i in axes)
        height = weight / np.where(inside, np.prod([size[i] for i in axes], axis=0), 1.0)
        total = np.zeros(int(np.prod(shape)))
        for corner in np.ndindex(*(2,) * len(axes)):
            place = [(last if c else first)[i] for c, i in zip(corner, axes, strict=True)]
            at = np.ravel_multi_index(tuple(place), shape)
            total += np.bincount(at, (-1.0) ** sum(corner) * height, len(total))
        total = total.reshape(shape)
        for k in range(len(axes)):
            total = np.cumsum(total, k)
        square = total[tuple(slice(-1) for _ in axes)] ** 2
        for i in axes:
            square = np.tensordot(edges[i], square, 1)
        return float(square)

    alone = np.array([marginal((i,)) for i in range(dimension)])
    both = np.zeros((dimension, dimension))
    for i in range(dimension):
        for j in range(i):
            both[i, j] = both[j, i] = marginal((j, i))
    return alone, both, float(volume @ value**2)


def importance(x: np.ndarray, y: np.ndarray, uniform: bool = True, trees: int = TREES) -> Importance:
    """Shares of the variance of y f64[n], finite, over x f[n, d] in the unit cube: over the cube, or, unless
    `uniform`, over the values that x has on each axis. All zero where y is constant."""
    from sklearn.ensemble import RandomForestRegressor  # late: takes a second to import

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) != len(y) or len(x) < 2 or not np.isfinite(y).all():
        raise ValueError(
            f"importance needs at least 2 finite losses, one a row, got {len(y)} for {len(x)} rows"
        )
    dimension = x.shape[1]
    firsts, pairs = [np.zeros(dimension)], [np.zeros((dimension, dimension))]
    forest: Any = RandomForestRegressor(trees, random_state=0).fit(x, y)
    for estimator in forest.estimators_:
        alone, both, whole = _tree_shares(_boxes(estimator.tree_, dimension), None if uniform else x)
        if whole <= 1e-24:
            continue
        firsts.append(alone / whole)
        pairs.append((both - (alone[:, None] + alone)) / whole)
    counted = max(len(firsts) - 1, 1)
    # Below 0 by rounding, and on the diagonal, where there is no pair.
    return Importance(np.sum(firsts, 0) / counted, np.clip(np.sum(pairs, 0) / counted, 0.0, None))


def ranks(losses: np.ndarray) -> np.ndarray:
    """Shares f64[n] of losses f64[n] that are lower, ties halved; what is not finite is worst. So a few huge
    losses do not decide."""
    value = np.where(np.isfinite(losses), losses, np.inf)
    ordered = np.sort(value)
    both = np.searchsorted(ordered, value, "left") + np.searchsorted(ordered, value, "right")
    return both / (2.0 * len(value))


def whole_and_best(x: np.ndarray, losses: np.ndarray) -> tuple[Importance, Importance]:
    """Importance for the ranks of losses f64[n] at x f[n, d]: over the whole space, and within the best
    quartile of the configurations."""
    rank = ranks(np.asarray(losses, np.float64))
    best = rank <= np.quantile(rank, BEST)
    return importance(x, rank), importance(x[best], rank[best], uniform=False)
