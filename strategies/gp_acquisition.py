"""What a Gaussian process's next trial is worth, and where it is worth most.

LogEI: Ament, Daulton, Eriksson, Balandat and Bakshy, "Unexpected Improvements to Expected Improvement for
Bayesian Optimization", 2023, arXiv 2310.20708; its tail is a continued fraction here, where the paper uses
erfcx and an asymptote. UCB (for minimisation a lower confidence bound): Srinivas, Krause, Kakade and Seeger,
ICML 2010; with Vizier's constant coefficient, 1.8 (Song et al. 2024, arXiv 2408.11527), where the paper lets
it grow. Thompson sampling: Kandasamy, Krishnamurthy, Schneider and Poczos, AISTATS 2018.

All arrays are f64 unless said otherwise; every acquisition is to be maximised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from strategies import gp_model as model

TAIL = -5.0  # below this LogEI's continued fraction is exact to rounding with TERMS terms
TERMS = 24
JITTER = 1e-8  # of a joint covariance: near points' values are equal to rounding
GROW, SHRINK, REACH = 1.5, 0.4, 0.2  # Rprop's factors and its longest step


class Worth(NamedTuple):
    """An acquisition at some points: value, its derivatives by mean and by variance; [m] each."""

    value: Any
    by_mean: Any
    by_variance: Any


class Found(NamedTuple):
    """Points x [m, d] with their value, posterior mean and variance, [m] each."""

    x: Any
    value: Any
    mean: Any
    variance: Any


def _normal(u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """For u f64[...]: density and distribution at max(u, TAIL); and, for u below TAIL, t=-u and c(t) with
    Mills' ratio = 1 / (t + c), c = 1 / (t + 2 / (t + 3 / ...))."""
    near = jnp.maximum(u, TAIL)
    density = jnp.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)
    below = 0.5 * jax.lax.erfc(-near / math.sqrt(2.0))
    t = jnp.maximum(-u, -TAIL)
    c = t
    for i in range(TERMS, 1, -1):
        c = t + i / c
    return density, below, t, 1.0 / c


@jax.custom_jvp
def log_h(u: jax.Array) -> jax.Array:
    """log(phi(u) + u Phi(u)) without cancellation: in the tail it is phi(u) c / (t + c)."""
    density, below, t, c = _normal(u)
    near = jnp.log(density + jnp.maximum(u, TAIL) * below)
    far = -0.5 * t * t - 0.5 * math.log(2.0 * math.pi) + jnp.log(c) - jnp.log(t + c)
    return jnp.where(u > TAIL, near, far)


def log_h_slope(u: jax.Array) -> jax.Array:
    """Derivative of `log_h`, Phi(u) / h(u); 1 / c in the tail."""
    density, below, _, c = _normal(u)
    return jnp.where(u > TAIL, below / (density + jnp.maximum(u, TAIL) * below), 1.0 / c)


log_h.defjvps(lambda dot, _, u: log_h_slope(u) * dot)


def log_ei(mean: jax.Array, variance: jax.Array, best: jax.Array) -> Worth:
    """Logarithm of the expected improvement below `best`."""
    deviation = jnp.sqrt(variance)
    u = (best - mean) / deviation
    slope = log_h_slope(u)
    return Worth(log_h(u) + jnp.log(deviation), -slope / deviation, 0.5 * (1.0 - slope * u) / variance)


def ucb(mean: jax.Array, variance: jax.Array, coefficient: float) -> Worth:
    """The confidence bound `coefficient` standard deviations below the mean, its sign turned."""
    deviation = jnp.sqrt(variance)
    return Worth(coefficient * deviation - mean, jnp.full_like(mean, -1.0), 0.5 * coefficient / deviation)


def slope(
    process: model.Posterior,
    worth: Callable[[jax.Array, jax.Array], Worth],
    x: jax.Array,
    place: jax.Array,
    taken: jax.Array,
    barred: jax.Array,
    axes: model.Axes,
) -> tuple[Found, jax.Array]:
    """`worth(mean, variance)` at x [m, d] and its gradient [m, d], for a table at place [n, d] with rows
    `taken` bool[n]; a point equal to a row `barred` bool[n] is worth -inf.

    Written out, since it needs one product where differentiation takes two and many more kernels; 0 along
    unordered axes."""
    square = model.distances(x, place, process.theta, axes)
    k = jnp.where(taken, model.matern(square), 0.0)
    product = k @ process.inverse
    mean = process.mean + k @ process.weight
    variance = jnp.maximum(1.0 - jnp.sum(k * product, -1), model.FLOOR)
    value, by_mean, by_variance = worth(mean, variance)
    by_k = by_mean[:, None] * process.weight - 2.0 * by_variance[:, None] * product
    by_square = jnp.where(taken, by_k * model.matern_slope(square), 0.0)
    scale = jnp.where(axes.unordered, 0.0, 2.0 * model.precisions(process.theta, axes))
    gradient = scale * (x * jnp.sum(by_square, -1, keepdims=True) - by_square @ place)
    value = jnp.where(jnp.any(barred & (square == 0.0), -1) | jnp.isnan(value), -jnp.inf, value)
    return Found(x, value, mean, variance), gradient


def climb(
    evaluate: Callable[[jax.Array], tuple[Found, jax.Array]],
    snap: Callable[[jax.Array], jax.Array],
    pool: jax.Array,
    step: jax.Array,
    turns: int,
) -> Found:
    """The best of pool f64[chunks, m, d], snapped, and of `turns` steps of Rprop [m, d] from the best of each
    of its m columns, within the unit cube and with first steps `step` [d].

    One loop does both, so that they are one compiled program. Discrete axes climb too: the search walks
    between their levels and looks at the nearest."""
    chunks, m, d = pool.shape

    def body(i, carry):
        best, walk, step, last = carry
        searching = i < chunks
        x = jnp.where(searching, pool[jnp.minimum(i, chunks - 1)], snap(walk))
        found, gradient = evaluate(x)
        found = jnp.concatenate([found.x, jnp.stack(found[1:], -1)], -1)
        best = jnp.where(found[:, d : d + 1] > best[:, d : d + 1], found, best)
        turn = gradient * last
        stride = jnp.minimum(step * jnp.where(turn > 0, GROW, jnp.where(turn < 0, SHRINK, 1.0)), REACH)
        gradient = jnp.where((turn < 0) | ~jnp.isfinite(gradient), 0.0, gradient)
        ahead = jnp.clip(walk + jnp.sign(gradient) * stride, 0.0, 1.0)
        return (
            best,
            jnp.where(searching, best[:, :d], ahead),
            jnp.where(searching, step, stride),
            jnp.where(searching, last, gradient),
        )

    none = jnp.broadcast_to(jnp.array([-jnp.inf, 0.0, 1.0], jnp.float64), (m, 3))
    start = jnp.concatenate([pool[0], none], -1)
    carry = start, pool[0], jnp.broadcast_to(step, pool[0].shape), jnp.zeros_like(pool[0])
    best, *_ = jax.lax.fori_loop(0, chunks + turns + (turns > 0), body, carry)
    best = best[jnp.argmax(best[:, d])]
    return Found(best[:d], *best[d:])


def draw(
    process: model.Posterior,
    pool: jax.Array,
    normals: jax.Array,
    place: jax.Array,
    taken: jax.Array,
    barred: jax.Array,
    axes: model.Axes,
) -> Found:
    """The minimum over pool f64[m, d] of one draw from the exact joint posterior there (m a multiple of
    gp_model.LEAF), from standard normals [m]; not at a point equal to a row `barred` bool[n]."""
    square = model.distances(pool, place, process.theta, axes)
    mean, covariance = model.joint(process, pool, jnp.where(taken, model.matern(square), 0.0), axes)
    covariance = covariance + JITTER * jnp.eye(len(pool), dtype=pool.dtype)
    # The factor is covariance times its own inverse, transposed.
    path = mean + covariance @ (model.inverse_root(covariance).T @ normals)
    value = jnp.where(jnp.any(barred & (square == 0.0), -1) | jnp.isnan(path), -jnp.inf, -path)
    chosen = jnp.argmax(value)
    variance = jnp.maximum(jnp.diagonal(covariance), model.FLOOR)
    return Found(pool[chosen], value[chosen], mean[chosen], variance[chosen])
