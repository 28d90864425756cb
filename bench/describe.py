"""What an objective is like, before any strategy touches it: how hard, how predictable, in how many axes.

Everything is measured on random configurations of several instances, with the true loss unless it says
*told*. Shares of variance are those of ranks (the share of random configurations that are better), so that a
few huge or diverged losses do not decide them. Total effects are estimated as in Jansen 1999 (Computer
Physics Communications 117), the effective dimension is that in the truncation sense of Caflisch, Morokoff and
Owen 1997: the fewest axes, in the order of their total effects, that carry 95 % of the variance together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bench.drive import instance_key
from bench.metrics import NEAR, share_below, targets, within_gap
from bench.protocols import LEVELS
from bench.reference import FIRST, reference_table
from bench.simulate import LESS

CARRIED = 0.95  # of the variance, by as many axes as the effective dimension counts
SLICE = 41  # points an axis of the picture's slice


class Profile(NamedTuple):
    """An objective described on m instances by n random configurations each, in a space of d axes.

    how: where the references are from · goals: `bench.metrics.targets`, one row an instance · quantiles
    f64[m, levels] of random configurations, at LEVELS · epochs i64[e] · told f64[m, n, e] losses · end f64[m,
    n] true losses at max_epoch · cost f64[m, n], simulated seconds of a full training · rank f64[m, e],
    Spearman correlation of the told loss with the true one at the end · default f64[m], true loss of the
    default configuration · total f64[m, d], total effects · dimension i64[m], effective dimension · slice
    f64[p, p], true losses of the first instance over its two axes of most effect, the others as in the best
    configuration seen there, second axis first · axes: their indices · centre f64[d], that configuration, in
    the unit cube.
    """

    how: str
    goals: pd.DataFrame
    quantiles: np.ndarray
    epochs: np.ndarray
    told: np.ndarray
    end: np.ndarray
    cost: np.ndarray
    rank: np.ndarray
    default: np.ndarray
    total: np.ndarray
    dimension: np.ndarray
    slice: np.ndarray
    axes: tuple[int, int]
    centre: np.ndarray


def epochs_of(max_epoch: int) -> np.ndarray:
    """Epochs at which curves are looked at: max_epoch / 3^k, rounded, ascending."""
    found, epoch = {max_epoch}, float(max_epoch)
    while epoch > 1.5:
        epoch /= 3
        found.add(max(1, round(epoch)))
    return np.array(sorted(found), np.int64)


def _curve(objective, instance, key, x, epochs):
    """(told losses f64[epochs], true loss at the end, cost) of one configuration."""
    hp = objective.space.decode_array(x)

    def one(checkpoint, span):
        checkpoint, loss, true_loss = objective.train(instance, key, checkpoint, hp, *span)
        return checkpoint, (jnp.asarray(loss, jnp.float64), jnp.asarray(true_loss, jnp.float64))

    spans = jnp.concatenate([jnp.zeros(1, jnp.int32), epochs[:-1]]), epochs
    _, (loss, true_loss) = jax.lax.scan(one, objective.init(instance, key), spans)
    cost = objective.cost(instance, key, hp, jnp.int32(0), epochs[-1])
    return loss, true_loss[-1], jnp.asarray(cost, jnp.float64)


class _Trained:
    """Trains any number of configurations of one instance, in blocks of one compiled program."""

    def __init__(self, objective):
        self.objective = objective
        self.block = int(getattr(objective, "pool", 64)) if hasattr(objective, "chunk") else 512
        options = LESS if jax.default_backend() == "cpu" else {}

        @partial(jax.jit, compiler_options=options)
        def program(index, trials, x, epochs):
            key = jax.random.fold_in(jax.random.key(4, impl="threefry2x32"), index)
            instance = objective.draw(instance_key(index))
            keys = jax.vmap(lambda t: jax.random.fold_in(key, t))(trials)
            return jax.vmap(lambda k, u: _curve(objective, instance, k, u, epochs))(keys, x)

        self.program = program

    def __call__(self, index: int, x: np.ndarray, epochs: np.ndarray, same: bool = False):
        """x f32[n, d] -> (told f64[n, epochs], true loss f64[n], cost f64[n]); `same`: one key for all, as if
        they were one trial, so that configurations alone make the difference."""
        told, end, cost = [], [], []
        for i in range(0, len(x), self.block):
            part = x[i : i + self.block]
            n = len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], self.block - n, 0)]).astype(np.float32)
            trials = (
                np.zeros(self.block, np.uint32) if same else np.arange(i, i + self.block, dtype=np.uint32)
            )
            out = self.program(np.uint32(index), trials, padded, epochs.astype(np.int32))
            for keep, values in zip((told, end, cost), out, strict=True):
                keep.append(np.asarray(values)[:n])
        return np.concatenate(told), np.concatenate(end), np.concatenate(cost)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; what is not finite is worst, ties share their mean rank; nan where one of the
    two is constant."""
    ranks = [
        pd.Series(np.where(np.isfinite(v), v, np.finfo(np.float64).max)).rank().to_numpy() for v in (a, b)
    ]
    spread = [np.std(r) for r in ranks]
    if min(spread) == 0:
        return float("nan")
    return float(np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())) / np.prod(spread))


def effects(loss, dimension: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """(total effects f64[d], effective dimension) of `loss`: f32[m, d] in the unit cube -> f64[m], on n pairs
    of random points; (nan, 0) where all losses are tied."""
    a, b = rng.random((2, n, dimension), np.float32)
    value = loss(np.concatenate([a, b]))
    ordered = np.sort(np.where(np.isfinite(value), value, np.inf))

    def ranks(v):
        v = np.where(np.isfinite(v), v, np.inf)
        return (np.searchsorted(ordered, v, "left") + np.searchsorted(ordered, v, "right")) / (4.0 * n)

    def taken(sets):
        """Share of the variance that is lost when each set of axes is not known."""
        x = np.concatenate([np.where(np.isin(np.arange(dimension), s), b, a) for s in sets])
        moved = ranks(loss(x)).reshape(len(sets), n)
        return ((moved - base[:n]) ** 2).mean(1) / (2 * variance)

    base = ranks(value)
    variance = base.var()
    if variance == 0:
        return np.full(dimension, np.nan), 0
    total = taken([[i] for i in range(dimension)])
    order = np.argsort(-total, kind="stable")
    if dimension == 1:
        return total, 1
    left = taken([order[k:].tolist() for k in range(1, dimension)])  # unknown: all but the first k
    enough = np.flatnonzero(1 - left >= CARRIED)
    return total, int(enough[0]) + 1 if len(enough) else dimension


def describe(objective: Any, instances: Sequence[int] | None = None, samples: int | None = None) -> Profile:
    """Measures an objective on `instances` (default: the first 16 that reports use, 4 where training is a
    real loop) with `samples` random configurations each (default 512, and 64). Raises ValueError where the
    objective has no reference."""
    slow = hasattr(objective, "chunk")
    chosen = list(range(FIRST, FIRST + (4 if slow else 16))) if instances is None else list(instances)
    n = (64 if slow else 512) if samples is None else samples
    if n < 2:
        raise ValueError(f"samples must be at least 2, got {n}")
    if not chosen:
        raise ValueError("describe needs at least one instance, got none")
    reference = reference_table(objective, chosen)
    dimension, max_epoch = objective.space.dimension, int(objective.max_epoch)
    epochs, last = epochs_of(max_epoch), np.array([max_epoch])
    told, end, cost, rank, default, total, fewest = [], [], [], [], [], [], []
    with jax.enable_x64(True):
        trained = _Trained(objective)
        usual = np.asarray(objective.space.encode({}), np.float32)[None, :dimension]
        for index in chosen:
            rng = np.random.default_rng([5, index])
            x = rng.random((n, dimension), np.float32)
            losses, true, seconds = trained(index, x, epochs)
            told.append(losses)
            end.append(true)
            cost.append(seconds)
            rank.append([spearman(losses[:, i], true) for i in range(len(epochs))])
            default.append(trained(index, usual, last)[1][0])

            def loss(points, index=index):
                return trained(index, points, last, same=True)[1]

            shares, few = effects(loss, dimension, n, rng)
            total.append(shares)
            fewest.append(few)
            if index == chosen[0]:
                centre = x[np.argmin(np.where(np.isfinite(true), true, np.inf))]
        known = np.nan_to_num(np.mean(total, 0))
        first, second = (int(i) for i in (*np.argsort(-known, kind="stable")[:2], 0)[:2])
        points = SLICE if not slow else 9
        grid = np.linspace(0, 1, points, dtype=np.float32)
        x = np.repeat(centre[None], points * points, 0)
        x[:, second] = np.repeat(grid, points)
        x[:, first] = np.tile(grid, points)
        plane = trained(chosen[0], x, last, same=True)[1].reshape(points, points)
    columns = [f"q_{i}" for i in range(len(LEVELS))]
    return Profile(
        str(reference.attrs.get("how")), targets(reference, objective.scale), reference[columns].to_numpy(),
        epochs, np.array(told), np.array(end), np.array(cost), np.array(rank), np.array(default),
        np.array(total), np.array(fewest), plane, (first, second), centre,
    )  # fmt: skip


def default_share(profile: Profile) -> np.ndarray:
    """f64[m]: the share of random configurations that are at least as good as the default one."""
    pairs = zip(profile.default, profile.quantiles, strict=True)
    return np.array([share_below(v, q) if np.isfinite(v) else 1.0 for v, q in pairs])


def uncapped_share(profile: Profile, scale: str) -> np.ndarray:
    """f64[m]: the share of random configurations within 5 % of the gap, before the cap of 2 %."""
    optimum = profile.goals["optimum"].to_numpy(np.float64)
    pairs = zip(optimum, profile.quantiles, strict=True)
    return np.array([within_gap(float(o), q, scale)[1] for o, q in pairs])


def near_share(profile: Profile) -> np.ndarray:
    """f64[m]: p, the share of random configurations that are near-optimal."""
    return profile.goals[f"p:{NEAR}"].to_numpy(np.float64)
