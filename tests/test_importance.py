"""Importance by functional ANOVA: closed forms, Optuna's evaluator, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from bench.importance import Importance, _boxes, _tree_shares, importance, ranks, whole_and_best


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, d))


def test_a_sum_and_a_product():
    """a1 x1 + a2 x2 + b x1 x2 on U(-1, 1): a1^2 / 3 : a2^2 / 3 : b^2 / 9."""
    x = points(1024, 3)
    u = 2 * x - 1
    found = importance(x, u[:, 0] + 0.5 * u[:, 1] + u[:, 0] * u[:, 1], trees=16)
    parts = np.array([1 / 3, 0.25 / 3, 1 / 9])
    seen = [found.first[0], found.first[1], found.pairs[0, 1]]
    np.testing.assert_allclose(seen, parts / parts.sum(), atol=0.02)
    assert found.first[2] < 0.005 and found.pairs[2].max() < 0.005 and found.count == 2
    assert found.pairs[0, 1] == found.pairs[1, 0] and (np.diag(found.pairs) == 0).all()


def test_ishigami():
    """a = 7, b = .1: S1 .3139, S2 .4424, S3 0, S13 .2437. A forest of 2,048 points smooths the waves of x2,
    so its shares are a fifth too small at most."""
    x = points(2048, 3)
    z = np.pi * (2 * x - 1)
    y = np.sin(z[:, 0]) + 7 * np.sin(z[:, 1]) ** 2 + 0.1 * z[:, 2] ** 4 * np.sin(z[:, 0])
    found = importance(x, y, trees=8)
    np.testing.assert_allclose(found.first, [0.3139, 0.4424, 0.0], atol=0.09)
    assert found.pairs[0, 2] == pytest.approx(0.2437, abs=0.03)
    assert found.pairs[0, 1] < 0.04 and found.pairs[1, 2] < 0.06


def test_a_tree_is_integrated_exactly():
    """Against sums over a fine grid on which every cut of the tree falls between two points."""
    from sklearn.tree import DecisionTreeRegressor

    x = (points(300, 2) * 64).round() / 64
    y = np.sin(5 * x[:, 0]) * x[:, 1] + x[:, 0]
    tree = DecisionTreeRegressor(max_leaf_nodes=20, random_state=0).fit(x, y)
    middles = (np.arange(128) + 0.5) / 128  # cuts are at multiples of 1 / 128
    table = tree.predict(np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2))
    table = table.reshape(128, 128)
    alone, both, whole = _tree_shares(_boxes(tree.tree_, 2), None)
    np.testing.assert_allclose(alone, [table.mean(1).var(), table.mean(0).var()], rtol=1e-9)
    assert whole == pytest.approx(table.var(), rel=1e-9) and both[0, 1] == pytest.approx(whole, rel=1e-9)
    # And over the points' own values on each axis.
    weight = np.array(
        [np.bincount((x[:, i] * 128 + 0.5).astype(int).clip(0, 128), minlength=129) for i in (0, 1)]
    )
    values = [np.flatnonzero(w) / 128 for w in weight]
    first, second = (w[w > 0] / len(x) for w in weight)
    table = tree.predict(np.stack(np.meshgrid(*values, indexing="ij"), -1).reshape(-1, 2))
    table = table.reshape(len(first), len(second))
    mean = first @ table @ second
    alone, _, whole = _tree_shares(_boxes(tree.tree_, 2), x)
    assert alone[0] == pytest.approx(first @ (table @ second - mean) ** 2, rel=1e-9)
    assert whole == pytest.approx(first @ (table - mean) ** 2 @ second, rel=1e-9)


def test_first_order_shares_are_optunas():
    optuna = pytest.importorskip("optuna")
    x = points(256, 3, 1)
    y = np.abs(x[:, 0] - 0.3) + 2 * x[:, 1] * x[:, 2] + 0.1 * x[:, 2]
    study = optuna.create_study()
    axes = {f"x{i}": optuna.distributions.FloatDistribution(0.0, 1.0) for i in range(3)}
    for row, value in zip(x, y, strict=True):
        params = {f"x{i}": float(v) for i, v in enumerate(row)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=axes, value=float(value)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = evaluator.evaluate(study)
    np.testing.assert_allclose(importance(x, y).first, [theirs[f"x{i}"] for i in range(3)], atol=0.02)


def test_what_decides_among_the_best_may_be_another_axis():
    """Axis 0 says whether a configuration is any good, axis 1 which of the good ones is best."""
    x = points(512, 3, 2)
    losses = np.where(x[:, 0] > 0.3, np.where(x[:, 0] > 0.9, np.inf, 10.0 + 5 * x[:, 0]), x[:, 1])
    whole, best = whole_and_best(x, losses)
    assert whole.first[0] > 0.6 and whole.first[0] > 4 * whole.first[1]
    assert best.first[1] > 0.7 and best.first[0] < 0.1
    quartile = ranks(losses) <= 0.25  # over its own values, of which axis 0 has few
    alone = importance(x[quartile], ranks(losses)[quartile], uniform=False)
    assert (best.first == alone.first).all()


def test_ranks_take_what_diverged_as_worst_and_halve_ties():
    assert ranks(np.array([3.0, 1.0, np.nan, np.inf, 1.0])).tolist() == [0.5, 0.2, 0.8, 0.8, 0.2]


def test_nothing_to_explain():
    found = importance(points(32, 2), np.ones(32), trees=4)
    assert isinstance(found, Importance) and (found.first == 0).all() and found.count == 0
    with pytest.raises(ValueError, match="at least 2 finite losses"):
        importance(points(3, 2), np.array([1.0, np.nan, 2.0]))
