"""A Gaussian process with a Matern-5/2 kernel, its hyperparameters by MAP, and the acquisition LogEI.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithms 2.1 and 5.1. Priors:
Hvarfner, Hellsten and Nardi, "Vanilla Bayesian Optimization Performs Great in High Dimensions", 2024,
arXiv 2402.02229, with BoTorch's constants. LogEI: Ament, Daulton, Eriksson, Balandat and Bakshy, "Unexpected
Improvements to Expected Improvement for Bayesian Optimization", 2023, arXiv 2310.20708; its tail is a
continued fraction here, where the paper uses erfcx and an asymptote. MAP by Rprop: Blum and Riedmiller,
"Optimization of Gaussian Process Hyperparameters using Rprop", ESANN 2013.

Tables have a fixed number of rows, 16, 32 or a multiple of 32; rows that are not `used` have covariance 1
with themselves and 0 with the others, so they change nothing. All arrays are f64 unless said otherwise.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LEAF = 32  # triangular blocks of this size are solved by the library, larger ones joined by products
LENGTH_MEAN, LENGTH_VARIANCE = math.sqrt(2.0), 3.0  # of log length, + .5 log d (BoTorch >= 0.12)
NOISE_MEAN, NOISE_VARIANCE = -4.0, 1.0  # of log noise variance (BoTorch)
LOG_LENGTH = (math.log(5e-3), math.log(1e2))
LOG_NOISE = (math.log(1e-6), math.log(1.0))  # the lower end keeps the Cholesky factor safe in float64
TAIL = -5.0  # below this LogEI's continued fraction is exact to rounding with TERMS terms
TERMS = 24
FLOOR = 1e-14  # of a posterior variance, against rounding below 0


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


def squares(x: jax.Array, z: jax.Array, axes: Axes) -> jax.Array:
    """Squared differences by axis, [d, n, m], of x [n, d] and z [m, d]; 1 where a choice differs."""
    gap = x.T[:, :, None] - z.T[:, None, :]
    return jnp.where(axes.unordered[:, None, None], (gap != 0.0).astype(gap.dtype), gap * gap)


def precisions(theta: jax.Array, axes: Axes) -> jax.Array:
    """Inverse squared length scales, [d]; 0 on padded axes."""
    return jnp.where(axes.mask, jnp.exp(-2.0 * theta[:-1]), 0.0)


def distances(x: jax.Array, z: jax.Array, theta: jax.Array, axes: Axes) -> jax.Array:
    """Squared distances [n, m] in length scales of x [n, d] and z [m, d]; 0 only between equal points."""
    return jnp.sum(squares(x, z, axes) * precisions(theta, axes)[:, None, None], 0)


def inverse_factor(factor: jax.Array) -> jax.Array:
    """Inverse of a lower triangular matrix [n, n], n at most LEAF or a multiple of it.

    Blocks of LEAF are solved, then joined in pairs: on a CPU several times cheaper than one batched solve."""
    n = factor.shape[-1]
    solve = partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)
    if n <= LEAF:
        return solve(factor, jnp.eye(n, dtype=factor.dtype))
    leaves = jnp.stack([factor[i : i + LEAF, i : i + LEAF] for i in range(0, n, LEAF)])
    eye = jnp.broadcast_to(jnp.eye(LEAF, dtype=factor.dtype), leaves.shape)
    leaves = solve(leaves, eye)
    parts, starts = list(leaves), list(range(0, n, LEAF))
    while len(parts) > 1:
        joined, begins = [], []
        for i in range(0, len(parts) - 1, 2):
            upper, lower, a = parts[i], parts[i + 1], starts[i]
            b, c = a + upper.shape[0], a + upper.shape[0] + lower.shape[0]
            corner = -lower @ (factor[b:c, a:b] @ upper)
            top = jnp.concatenate([upper, jnp.zeros((b - a, c - b), factor.dtype)], 1)
            joined.append(jnp.concatenate([top, jnp.concatenate([corner, lower], 1)], 0))
            begins.append(a)
        if len(parts) % 2:
            joined.append(parts[-1])
            begins.append(starts[-1])
        parts, starts = joined, begins
    return parts[0]


def priors(axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of the normal priors over theta, [d+1] each."""
    d = jnp.maximum(jnp.sum(axes.mask), 1).astype(jnp.float64)
    noise = jnp.arange(axes.mask.shape[0] + 1) == axes.mask.shape[0]
    centre = jnp.where(noise, NOISE_MEAN, LENGTH_MEAN + 0.5 * jnp.log(d))
    return centre, jnp.where(noise, jnp.float64(NOISE_VARIANCE), LENGTH_VARIANCE)


def objective(
    square: jax.Array, y: jax.Array, used: jax.Array, theta: jax.Array, axes: Axes
) -> tuple[jax.Array, jax.Array, Posterior]:
    """Negative log posterior of theta, its gradient [d+1], and the process at theta.

    square [d, n, n] from `squares`, y [n] standardised (0 where not `used` bool[n]). The constant mean is at
    its best value for theta, so by the envelope theorem its own derivative drops out. The gradient is the
    analytic one: one factor and one inverse, where differentiating through the factor costs many times more.
    """
    # Products, not sums, here and below: XLA would work out the summands anew for each use.
    flat = square.reshape(square.shape[0], -1)
    distance = (precisions(theta, axes) @ flat).reshape(square.shape[1:])
    both = used[:, None] & used[None, :]
    noise = jnp.exp(theta[-1])
    k = jnp.where(both, matern(distance), 0.0) + jnp.diag(jnp.where(used, noise, 1.0))
    factor = jnp.linalg.cholesky(k, symmetrize_input=False)
    root = inverse_factor(factor)
    inverse = root.T @ root
    one = used.astype(y.dtype)
    total = inverse @ one
    mean = (total @ y) / jnp.maximum(total @ one, 1e-12)
    rest = y - mean * one
    weight = inverse @ rest
    fit = 0.5 * (rest @ weight) + jnp.sum(jnp.log(jnp.diagonal(factor)))

    centre, spread = priors(axes)
    live = jnp.concatenate([axes.mask, jnp.ones((1,), bool)])
    # A density over the value, not over its logarithm (as BoTorch): hence the + theta.
    prior = jnp.sum(jnp.where(live, theta + (theta - centre) ** 2 / (2.0 * spread), 0.0))

    slope = 0.5 * (inverse - weight[:, None] * weight[None, :])  # of the fit by the covariance
    inner = jnp.where(both, slope * matern_slope(distance), 0.0)
    by_length = -2.0 * precisions(theta, axes) * (flat @ inner.reshape(-1))
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
    square: jax.Array,
    y: jax.Array,
    told: jax.Array,
    pending: jax.Array,
    axes: Axes,
    search: Search,
    steps: jax.Array,
) -> tuple[Posterior, Search]:
    """Runs `steps` i32[] (at least 1) evaluations from `search`; the process at the last one evaluated.

    Where rows are pending bool[n], its `inverse` then takes them in as if each had been told its posterior
    mean (the kriging believer: Ginsbourger, Le Riche and Carraro 2010). Their weights would be 0: the mean
    stays, only the variance shrinks, and the hyperparameters never see a loss that is not one.
    """
    n, width = y.shape[0], search.theta.shape[0]
    empty = Posterior(
        jnp.zeros((width,), jnp.float64),
        jnp.zeros((), jnp.float64),
        jnp.zeros((n,), jnp.float64),
        jnp.zeros((n, n), jnp.float64),
    )

    def body(carry):
        i, search, before = carry
        extra = i >= steps  # the believer's: one more turn of the same code costs no second compilation
        theta = jnp.where(extra, before.theta, search.theta)
        _, gradient, process = objective(square, y, told | (pending & extra), theta, axes)
        ahead = advance(search, gradient)
        search = jax.tree.map(lambda old, new: jnp.where(extra, old, new), search, ahead)
        process = process._replace(
            mean=jnp.where(extra, before.mean, process.mean),
            weight=jnp.where(extra, before.weight, process.weight),
        )
        return i + 1, search, process

    turns = steps + jnp.any(pending).astype(jnp.int32)
    _, search, process = jax.lax.while_loop(lambda c: c[0] < turns, body, (jnp.int32(0), search, empty))
    return process, search


def predict(process: Posterior, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Posterior mean and variance (without noise), [m], from correlations k [m, n] with the table's rows."""
    variance = 1.0 - jnp.sum(k * (k @ process.inverse), -1)
    return process.mean + k @ process.weight, jnp.maximum(variance, FLOOR)


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


def log_ei(mean: jax.Array, variance: jax.Array, best: jax.Array) -> jax.Array:
    """Logarithm of the expected improvement below `best`."""
    deviation = jnp.sqrt(variance)
    return log_h((best - mean) / deviation) + jnp.log(deviation)


def log_ei_slope(
    process: Posterior, x: jax.Array, place: jax.Array, taken: jax.Array, best: jax.Array, axes: Axes
) -> jax.Array:
    """Gradient [m, d] of `log_ei` by the place of x [m, d], for a table at place [n, d] with rows `taken`.

    Written out, since it needs one product where differentiation takes two and many more kernels; 0 along
    unordered axes."""
    square = distances(x, place, process.theta, axes)
    k = jnp.where(taken, matern(square), 0.0)
    product = k @ process.inverse
    deviation = jnp.sqrt(jnp.maximum(1.0 - jnp.sum(k * product, -1), FLOOR))
    u = (best - process.mean - k @ process.weight) / deviation
    slope = log_h_slope(u)
    by_mean = -slope / deviation
    by_variance = 0.5 * (1.0 - slope * u) / deviation**2
    by_k = by_mean[:, None] * process.weight - 2.0 * by_variance[:, None] * product
    by_square = jnp.where(taken, by_k * matern_slope(square), 0.0)
    scale = jnp.where(axes.unordered, 0.0, 2.0 * precisions(process.theta, axes))
    return scale * (x * jnp.sum(by_square, -1, keepdims=True) - by_square @ place)
