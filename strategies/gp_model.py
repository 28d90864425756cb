"""A Gaussian process with a Matern-5/2 kernel, its hyperparameters by MAP.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithms 2.1 and 5.1. Priors:
Hvarfner, Hellsten and Nardi, "Vanilla Bayesian Optimization Performs Great in High Dimensions", 2024,
arXiv 2402.02229, with BoTorch's constants for the lengths; that of the noise is wider. MAP by Rprop: Blum and
Riedmiller, "Optimization of Gaussian Process Hyperparameters using Rprop", ESANN 2013.

Tables have a fixed number of rows, a multiple of LEAF; rows that are not `used` have covariance 1 with
themselves and 0 with the others, so they change nothing. All arrays are f64 unless said otherwise.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LEAF = 32  # rows of the matrices that the library factorises; larger ones are joined by products
LENGTH_MEAN, LENGTH_VARIANCE = math.sqrt(2.0), 3.0  # of log length, + .5 log d (BoTorch >= 0.12)
# Of log noise variance. BoTorch's -4 and 1 hold the noise of a function without any far above 0, and the
# search then ends half a decade further from the optimum; a mean of -6 loses a tenth of one under noise.
NOISE_MEAN, NOISE_VARIANCE = -5.0, 4.0
LOG_LENGTH = (math.log(5e-3), math.log(1e2))
LOG_NOISE = (math.log(1e-7), math.log(1.0))  # the lower end keeps the Cholesky factor safe in float64
FLOOR = 1e-14  # of a posterior variance, against rounding below 0
CORNER = 1e9  # above the largest eigenvalue of any inverse covariance, 1 / the least noise


class Axes(NamedTuple):
    """What the kernel knows of the d axes. mask bool[d]: real · unordered bool[d]: compared by equality."""

    mask: Any
    unordered: Any


class Search(NamedTuple):
    """Rprop between calls. theta [d+1]: log lengths, then log noise variance · step [d+1] · slope [d+1]."""

    theta: Any
    step: Any
    slope: Any


class Posterior(NamedTuple):
    """A fitted process, in standardised units.

    theta [d+1] · mean []: the constant · weight [n]: inverse covariance times residuals · inverse [n, n].
    """

    theta: Any
    mean: Any
    weight: Any
    inverse: Any


def matern(square: jax.Array) -> jax.Array:
    """Matern-5/2 correlation at a squared scaled distance."""
    s = jnp.sqrt(5.0 * square)
    return (1.0 + s + s * s / 3.0) * jnp.exp(-s)


def matern_slope(square: jax.Array) -> jax.Array:
    """Derivative of `matern` by the squared distance, finite at 0 too."""
    s = jnp.sqrt(5.0 * square)
    return -5.0 / 6.0 * (1.0 + s) * jnp.exp(-s)


def precisions(theta: jax.Array, axes: Axes) -> jax.Array:
    """Inverse squared length scales, [d]; 0 on padded axes."""
    return jnp.where(axes.mask, jnp.exp(-2.0 * theta[:-1]), 0.0)


def _squares(x: jax.Array, z: jax.Array, weight: jax.Array, unordered: jax.Array) -> jax.Array:
    """Squared differences of coordinates x and z, times `weight`; `weight` where a choice differs.

    A minimum costs less than a comparison. The difference is taken first, so that it is exactly 0 between
    equal points: of scaled coordinates a fused multiply-add would leave a rounding."""
    scale, most = jnp.where(unordered, 1e30, weight), jnp.where(unordered, weight, jnp.inf)
    gap = x - z
    return jnp.minimum(gap * gap * scale, most)


def distances(x: jax.Array, z: jax.Array, theta: jax.Array, axes: Axes) -> jax.Array:
    """Squared distances [n, m] in length scales of x [n, d] and z [m, d]; 0 only between equal points."""
    weight = precisions(theta, axes)
    total = jnp.zeros((x.shape[0], z.shape[0]), x.dtype)
    for i in range(x.shape[1]):  # as a sum over an axis of [n, m, d] it takes ten times as long
        total = total + _squares(x[:, None, i], z[None, :, i], weight[i], axes.unordered[i])
    return total


def inverse_root(matrix: jax.Array) -> jax.Array:
    """Inverse of the lower Cholesky factor of `matrix` [n, n], n a multiple of LEAF.

    Of a leaf A it is read off the factor of ((A, 1), (1, c)), whose lower left block is its transpose: one
    library call, where a batched triangular solve is slow to compile and, with several threads, to run.
    Larger ones are joined from two by products."""
    n, dtype = matrix.shape[0], matrix.dtype
    if n <= LEAF:
        eye = jnp.eye(n, dtype=dtype)
        whole = jnp.concatenate(
            [jnp.concatenate([matrix, eye], 1), jnp.concatenate([eye, CORNER * eye], 1)], 0
        )
        return jax.lax.linalg.cholesky(whole, symmetrize_input=False)[n:, :n].T
    half = n // LEAF // 2 * LEAF
    upper = inverse_root(matrix[:half, :half])
    side = matrix[half:, :half] @ upper.T
    lower = inverse_root(matrix[half:, half:] - side @ side.T)
    top = jnp.concatenate([upper, jnp.zeros((half, n - half), dtype)], 1)
    return jnp.concatenate([top, jnp.concatenate([-lower @ (side @ upper), lower], 1)], 0)


def priors(axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of the normal priors over theta, [d+1] each."""
    d = jnp.maximum(jnp.sum(axes.mask), 1).astype(jnp.float64)
    noise = jnp.arange(axes.mask.shape[0] + 1) == axes.mask.shape[0]
    centre = jnp.where(noise, NOISE_MEAN, LENGTH_MEAN + 0.5 * jnp.log(d))
    return centre, jnp.where(noise, jnp.float64(NOISE_VARIANCE), LENGTH_VARIANCE)


def objective(
    x: jax.Array, y: jax.Array, used: jax.Array, theta: jax.Array, axes: Axes
) -> tuple[jax.Array, jax.Array, Posterior]:
    """Negative log posterior of theta, its gradient [d+1], and the process at theta.

    x [n, d], y [n] standardised (0 where not `used` bool[n]). The constant mean is at its best value for
    theta, so by the envelope theorem its own derivative drops out. The gradient is the analytic one: one
    factor and one inverse, where differentiating through the factor costs many times more.
    """
    distance = distances(x, x, theta, axes)
    both = used[:, None] & used[None, :]
    noise = jnp.exp(theta[-1])
    root = inverse_root(jnp.where(both, matern(distance), 0.0) + jnp.diag(jnp.where(used, noise, 1.0)))
    inverse = root.T @ root
    one = used.astype(y.dtype)
    total = inverse @ one
    mean = (total @ y) / jnp.maximum(total @ one, 1e-12)
    rest = y - mean * one
    weight = inverse @ rest
    fit = 0.5 * (rest @ weight) - jnp.sum(jnp.log(jnp.diagonal(root)))

    centre, spread = priors(axes)
    live = jnp.concatenate([axes.mask, jnp.ones((1,), bool)])
    # A density over the value, not over its logarithm (as BoTorch): hence the + theta.
    prior = jnp.sum(jnp.where(live, theta + (theta - centre) ** 2 / (2.0 * spread), 0.0))

    slope = 0.5 * (inverse - weight[:, None] * weight[None, :])  # of the fit by the covariance
    inner = jnp.where(both, slope * matern_slope(distance), 0.0)

    def along(axis):
        column, weight_of, unordered = axis
        return jnp.sum(inner * _squares(column[:, None], column[None, :], weight_of, unordered))

    # An axis at a time: all of them at once are a table [d, n, n], which beyond 128 rows leaves the caches.
    by_length = -2.0 * jax.lax.map(along, (x.T, precisions(theta, axes), axes.unordered))
    by_noise = noise * jnp.sum(jnp.where(used, jnp.diagonal(slope), 0.0))
    gradient = jnp.concatenate([by_length, by_noise[None]]) + 1.0 + (theta - centre) / spread
    return fit + prior, jnp.where(live, gradient, 0.0), Posterior(theta, mean, weight, inverse)


def start_search(axes: Axes) -> Search:
    """Rprop before its first step."""
    centre, spread = priors(axes)
    theta = centre - spread  # the mode
    return Search(theta, jnp.full(theta.shape, 0.3, jnp.float64), jnp.zeros(theta.shape, jnp.float64))


def advance(search: Search, gradient: jax.Array) -> Search:
    """One step of Rprop (iRprop-, factors 1.2 and .5) within the bounds."""
    turn = gradient * search.slope
    step = jnp.clip(search.step * jnp.where(turn > 0, 1.2, jnp.where(turn < 0, 0.5, 1.0)), 0.01, 1.0)
    gradient = jnp.where((turn < 0) | ~jnp.isfinite(gradient), 0.0, gradient)
    noise = jnp.arange(gradient.shape[0]) == gradient.shape[0] - 1
    low = jnp.where(noise, LOG_NOISE[0], jnp.float64(LOG_LENGTH[0]))
    high = jnp.where(noise, LOG_NOISE[1], jnp.float64(LOG_LENGTH[1]))
    return Search(jnp.clip(search.theta - jnp.sign(gradient) * step, low, high), step, gradient)


def fit(
    x: jax.Array,
    y: jax.Array,
    told: jax.Array,
    pending: jax.Array,
    axes: Axes,
    search: Search,
    steps: int,
) -> tuple[Posterior, Search]:
    """Runs `steps` evaluations of the objective from `search`; the process at the best of them.

    Where rows are pending bool[n], its `inverse` takes them in as if each had been told its posterior mean
    (the kriging believer: Ginsbourger, Le Riche and Carraro 2010). Their weights would be 0: the mean stays,
    only the variance shrinks, and the hyperparameters never see a loss that is not one.
    """
    n, d = x.shape

    def body(i, carry):
        search, lowest, best, _ = carry
        last = i == steps  # the same code once more, at the best theta: it costs no second compilation
        search = Search(*search)
        theta = jnp.where(last, best[: d + 1], search.theta)
        # Never 0, but changing with i: else XLA would make tables of all differences before the loop, which
        # take longer to read than to make.
        here = jnp.where(i < 0, 0.0, x)
        value, gradient, process = objective(here, y, told | (pending & last), theta, axes)
        better = ~last & (value < lowest)
        found = jnp.concatenate([theta, process.mean[None], process.weight])
        return (
            jnp.where(last, jnp.stack(search), jnp.stack(advance(search, gradient))),
            jnp.where(better, value, lowest),
            jnp.where(better, found, best),
            process.inverse,
        )

    best = jnp.concatenate([search.theta, jnp.zeros((n + 1,), jnp.float64)])
    carry = jnp.stack(search), jnp.float64(jnp.inf), best, jnp.zeros((n, n), jnp.float64)
    search, _, best, inverse = jax.lax.fori_loop(0, steps + 1, body, carry)
    return Posterior(best[: d + 1], best[d + 1], best[d + 2 :], inverse), Search(*search)


def predict(process: Posterior, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Posterior mean and variance (without noise), [m], from correlations k [m, n] with the table's rows."""
    variance = 1.0 - jnp.sum(k * (k @ process.inverse), -1)
    return process.mean + k @ process.weight, jnp.maximum(variance, FLOOR)


def joint(process: Posterior, x: jax.Array, k: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Posterior mean [m] and covariance [m, m] (without noise) at x [m, d], from its correlations k [m, n]
    with the table's rows."""
    covariance = matern(distances(x, x, process.theta, axes)) - k @ process.inverse @ k.T
    return process.mean + k @ process.weight, covariance
