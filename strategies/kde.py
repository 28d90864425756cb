"""Parzen estimators on the unit cube: two mixtures, one of good points and one of bad, over one table.

Bergstra, Bardenet, Bengio and Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4;
Bergstra, Yamins and Cox, "Making a Science of Model Search", ICML 2013; Watanabe, "Tree-Structured Parzen
Estimator", 2023, arXiv 2304.11127. Bandwidths, weights and the treatment of each kind of axis are those of
Optuna 5.0, whose densities these are to rounding:

- A mixture has one kernel a point and a prior kernel. A point's weight is 1 for the last `flat` of its set,
  in order of trials, and rises linearly from 1/n before them; the prior's is `prior_weight`.
- A real axis has a normal kernel truncated to [0, 1]. Its width is the larger of the gaps to the next point
  of the same set on either side, the ends of the axis no neighbours unless `endpoints`, clipped to
  [1 / min(100, n + 2), 1] (`magic_clip`; else to [1e-12, 1]). The prior: mean .5, width 1.
- An integer, and an ordered choice taken as one, has that kernel's mass in the value's bin. (Optuna knows
  no ordered choices: here neighbours are alike, so they are not treated as unordered ones.)
- An unordered choice of c values, in a set of n points: 1 on the point's own value and prior_weight / (n + 1)
  on every value, normalised; the prior: 1/c.

The prior is the last row of every table. Sums are taken of kernels over the prior, which both mixtures hold:
log(kernel / prior) is at most 5 or so an axis (on a choice, the log of its values), so that a sum neither
vanishes nor overflows, and no maximum has to be taken out of it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.space import PADDED, UNORDERED, Cube

GOOD, BAD, UNUSED = 0, 1, 2
ROOT = math.sqrt(2.0)
LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
LEAST_WIDTH = 1e-12
CEILING = 700.0  # of log(kernel / prior): its exponential still is a number


class Mixtures(NamedTuple):
    """Kernels over d axes and r points, then the prior; f64 but for the counts.

    mean [d, r+1] · width [d, r+1] · below [d, r+1], the normal's mass below 0 · mass [d, r+1], its mass in
    [0, 1] · share [r+1], what a kernel puts on every value of a choice, not normalised · weight [2, r+1], of
    the GOOD and of the BAD mixture, each adding up to 1 · number i32[r+1], of a good point among them, else
    -1 · good i32[], number of good points.
    """

    mean: Any
    width: Any
    below: Any
    mass: Any
    share: Any
    weight: Any
    number: Any
    good: Any


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers strictly within (0, 1), f64[shape], by the finaliser of MurmurHash3 over a counter and the
    key's two words: a threefry draw would take longer to compile than much of the rest."""
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)

    def stir(h):
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return h ^ (h >> 16)

    counter = jnp.arange(1, math.prod(shape) + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    h = stir(stir(counter + words[0]) ^ words[-1])
    return ((h.astype(jnp.float64) + 0.5) * 2.0**-32).reshape(shape)


def trial_weight(number: jax.Array, count: jax.Array, flat: int) -> jax.Array:
    """Weight f64 of point `number` among `count`, oldest first."""
    number, count = number.astype(jnp.float64), count.astype(jnp.float64)
    ramp = count - flat  # points that lie on it
    first = 1.0 / jnp.maximum(count, 1.0)
    rise = first + (1.0 - first) * number / jnp.maximum(ramp - 1.0, 1.0)
    return jnp.where(number < ramp, rise, 1.0)


def _neighbours(x: jax.Array, group: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next lower and the next higher point of the same group on each axis, both [d, r], infinite where
    there is none, and a point's number in its group, i32[r]; x [d, r]. Equal points stand in order."""
    rows = x.shape[-1]
    index = jnp.arange(rows, dtype=jnp.int32)

    def against(j, carry):  # all points against point j: the work of a sort, which takes long to compile
        left, right, number = carry
        other, same = jax.lax.dynamic_slice_in_dim(x, j, 1, 1), group[j] == group
        lower = (other < x) | ((other == x) & (j < index))
        left = jnp.where(same & lower, jnp.maximum(left, other), left)
        right = jnp.where(same & (j != index) & ~lower, jnp.minimum(right, other), right)
        return left, right, number + (same & (j < index))

    none = jnp.full_like(x, jnp.inf)
    start = -none, none, jnp.zeros((rows,), jnp.int32)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(rows), against, start)


def fit(
    x: jax.Array,
    group: jax.Array,
    *,
    flat: int = 25,
    endpoints: bool = False,
    magic_clip: bool = True,
    prior_weight: float = 1.0,
) -> Mixtures:
    """The mixtures of x [r, d], snapped points in order of trials, each in its group i32[r]."""
    # The prior's row is there from the beginning.
    x = jnp.pad(x.T, [(0, 0), (0, 1)], constant_values=0.5)
    group = jnp.pad(group.astype(jnp.int32), (0, 1), constant_values=UNUSED)
    prior = jnp.arange(x.shape[-1]) == x.shape[-1] - 1
    left, right, number = _neighbours(x, group)
    x, left, right = (a.astype(jnp.float64) for a in (x, left, right))
    member = group == jnp.array([[GOOD], [BAD]])  # [2, r+1]
    count = jnp.sum(member, -1, dtype=jnp.int32)
    own = jnp.where(group == GOOD, count[GOOD], count[BAD])

    ends = (own <= 1) | endpoints  # a lone point has no other neighbours
    left = jnp.where(jnp.isinf(left), jnp.where(ends, 0.0, x), left)
    right = jnp.where(jnp.isinf(right), jnp.where(ends, 1.0, x), right)
    least = 1.0 / jnp.minimum(own + 2.0, 100.0) if magic_clip else LEAST_WIDTH
    width = jnp.clip(jnp.maximum(x - left, right - x), jnp.where(prior, 1.0, least), 1.0)

    below, above = 0.5 * jax.lax.erfc(jnp.stack([x, 1.0 - x]) / width / ROOT)
    weight = jnp.where(member, trial_weight(number, own, flat), 0.0)
    weight = jnp.where(prior, prior_weight, weight)
    return Mixtures(
        x, width, below, 1.0 - below - above,
        share=jnp.where(prior, 1.0, prior_weight / (own + 1.0)),
        weight=weight / jnp.sum(weight, -1, keepdims=True),
        number=jnp.where(group == GOOD, number, -1),
        good=count[GOOD],
    )  # fmt: skip


def log_mass(low: jax.Array, high: jax.Array) -> jax.Array:
    """Log of the standard normal's mass in [low, high], accurate in both tails; at least -690."""
    right = low + high > 0.0
    low, high = jnp.where(right, -high, low), jnp.where(right, -low, high)
    mass = 0.5 * (jax.lax.erfc(-high / ROOT) - jax.lax.erfc(-low / ROOT))
    return jnp.log(jnp.maximum(mass, 1e-300))


def log_densities(mixtures: Mixtures, cube: Cube, x: jax.Array, multivariate: bool) -> jax.Array:
    """Log densities of the good and of the bad mixture at x f64[m, d], in the unit cube: [2, m] where
    multivariate, of whole points, else [2, d, m], one an axis. On a discrete axis they are probabilities, on
    a padded one 1."""
    m = mixtures
    d, columns = x.shape[-1], m.mean.shape[-1]
    numeric = cube.levels == 0
    free = (numeric & (cube.kind != PADDED))[:, None]
    sharp = jnp.where(free, 1.0 / m.width, 0.0)
    least = jnp.where(free, jnp.log(m.width * m.mass) + LOG_ROOT_2PI, 0.0)

    def real(j):  # [m, r+1]
        return -0.5 * jnp.square((x[:, j, None] - m.mean[j]) * sharp[j])

    def none(j):
        return jnp.zeros((len(x), columns), x.dtype)

    def discrete(j):
        low, log = cube.low[j], cube.log[j]
        span = cube.high[j] - low
        value = low + x[:, j] * span
        whole = jnp.round(jnp.where(log, jnp.exp(value), value))
        edge = whole + jnp.array([[-0.5], [0.5]])
        edge = jnp.where(log, jnp.log(jnp.maximum(edge, 1e-30)), edge)
        bounds = jnp.clip((edge - low) / span, 0.0, 1.0)
        low, high = (bounds[:, :, None] - m.mean[j]) / m.width[j]
        return log_mass(low, high) - jnp.log(m.mass[j])

    def unordered(j):
        levels = cube.levels[j].astype(x.dtype)
        point = jnp.arange(columns) < columns - 1
        same = point & (jnp.floor(x[:, j] * levels)[:, None] == jnp.floor(m.mean[j] * levels))
        return jnp.log((same + m.share) / (point + levels * m.share))

    which = jnp.where(cube.kind == UNORDERED, 2, jnp.where(cube.levels > 0, 1, 0))

    def other(j):
        return jax.lax.switch(which[j], (none, discrete, unordered), j)

    # Where no axis is discrete, the branch costs nothing.
    if multivariate:
        logs = sum(real(j) for j in range(d)) - jnp.sum(least, 0)
        logs = jax.lax.cond(
            jnp.any(which > 0),
            lambda logs: jax.lax.fori_loop(0, d, lambda j, logs: logs + other(j), logs),
            lambda logs: logs,
            logs,
        )
    else:
        logs = -0.5 * jnp.square((x.T[:, :, None] - m.mean[:, None]) * sharp[:, None]) - least[:, None]
        logs = jax.lax.cond(
            jnp.any(which > 0),
            lambda logs: logs + jax.lax.map(other, jnp.arange(d)),
            lambda logs: logs,
            logs,
        )
    prior = logs[..., -1:]
    ratio = jnp.exp(jnp.minimum(logs - prior, CEILING))
    return jnp.moveaxis(jnp.log(ratio @ m.weight.T), -1, 0) + prior[..., 0]


def sample(mixtures: Mixtures, cube: Cube, pick: jax.Array, u: jax.Array, slots: int) -> jax.Array:
    """Draws from the good mixture, f32[m, d], by inversion of the uniforms `pick` [m, 1] (a kernel for a
    whole point: multivariate) or [m, d] (one an axis), and u [m, d]. `slots` (static): the most good points
    that there may be."""
    m = mixtures
    last = m.mean.shape[-1] - 1
    # Row of each good point, the prior's after the last.
    at = jnp.arange(slots)
    row = jnp.argmax(m.number == at[:, None], -1)
    weight = jnp.where(at < m.good, m.weight[GOOD][row], 0.0)
    ends = jnp.sum(jnp.where(at <= at[:, None], weight, 0.0), -1)
    slot = jnp.sum(ends <= pick[..., None], -1)
    row = jnp.where(slot < m.good, row[jnp.minimum(slot, slots - 1)], last)

    mean, width, below, mass = jnp.stack(m[:4])[:, jnp.arange(u.shape[-1]), row]
    z = ROOT * jax.lax.erf_inv(2.0 * (below + u * mass) - 1.0)
    levels = jnp.maximum(cube.levels, 1).astype(u.dtype)
    keep = jnp.where(row < last, 1.0 / (1.0 + levels * m.share[row]), 0.0)  # probability of its own value
    anywhere = jnp.clip((u - keep) / (1.0 - keep), 0.0, 1.0 - 1e-9)
    choice = jnp.where(u < keep, mean, (jnp.floor(anywhere * levels) + 0.5) / levels)
    return cube.fix(jnp.where(cube.kind == UNORDERED, choice, mean + z * width))
