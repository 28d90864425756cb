"""Learning curves of LC-PFN's prior, laid out over a landscape whose optimum is exact.

Adriaensen et al. 2023 (arXiv:2310.20447): an accuracy curve over epochs 1 ... 100 is the sum, each with a
weight U(0, 1), of pow3 c - a t^-alpha, ilog2 c - a / ln(t + 1) and janoschek a - (a - beta) exp(-k t^delta);
it is drawn anew until it ends above its start and stays within [0, 1], which one in five does. What is told
has normal noise, of a standard deviation LogNormal(-4, 1). The laws of the parameters, as the authors' code
has them: pow3 c U(0, 1.25), a U(-.6, .6), alpha LogNormal(0, 2); ilog2 c U(0, 1), a U(-.5, .5); janoschek a
U(0, 1), beta U(0, 2), k LogNormal(-2, 1), delta LogNormal(0, .5). The loss is 1 - accuracy.

The prior knows no hyperparameters. Here an instance draws ROWS x COLUMNS curves from it, sorts them by their
last loss into rows and within each row by their first, and a configuration is a place on that sheet: its row
is the quantile of a landscape (a bowl with ripples), its column that of a random smooth function. Between
nodes curves are mixed. A mixture of curves that rise within [0, 1] is another such curve, no mixture is ever
below the best of its parts, and the row at the landscape's minimum holds nothing but the best curve. So the
optimum, over all configurations and epochs, is that curve's lowest loss, exactly.

Spearman correlation with the loss at epoch 100, over 16,384 curves: of the prior; of the objective, one
random configuration an instance; and within an instance, median of 64:

    epoch                  1     5    10    20    50
    prior               .764  .932  .965  .985  .998
    objective           .763  .943  .971  .988  .998
    within an instance  .79   .944  .971  .988  .998
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Float, Space, check_real, check_whole

ROWS, COLUMNS = 32, 16  # of the sheet of curves
PROPOSALS = 4096  # of which about 845 are accepted; 512 fail to be only 13 standard deviations below that
FEATURES = 16  # frequencies in a random smooth function
KNOTS, SAMPLES = 64, 1024  # quantiles of the landscape, and the random configurations that say them
STEEPNESS = 3  # of the step from a node to the next; 1 would be linear
RIPPLE = 0.5  # how much the landscape's ripples raise or lower it, at most


class Curves(NamedTuple):
    """Loss curves level + power t^-alpha + logarithm / ln(t + 1) + exponential exp(-k t^delta), f64[...]
    each: the weighted sum of the three families with its constants gathered."""

    level: Any
    power: Any
    alpha: Any
    logarithm: Any
    exponential: Any
    k: Any
    delta: Any

    def loss(self, epoch: Any) -> jax.Array:
        """f64[...] at epoch f64[]."""
        log = jnp.log(epoch)
        return (
            self.level
            + self.power * jnp.exp(-self.alpha * log)
            + self.logarithm / jnp.log(epoch + 1.0)
            + self.exponential * jnp.exp(-self.k * jnp.exp(self.delta * log))
        )


class Instance(NamedTuple):
    """curves f64[ROWS + 1, COLUMNS] each, row 0 the best · best f64[], its lowest loss · place f64[d], the
    best configuration in the unit cube · factor f64[d, d], of the bowl · knots f64[KNOTS + 1], its quantiles
    · waves f64[FEATURES, d] and weights f64[3, 2 FEATURES] of the ripples, the column and the noise."""

    curves: Curves
    best: Any
    place: Any
    factor: Any
    knots: Any
    waves: Any
    weights: Any


def proposals(key: jax.Array, n: int, max_epoch: int) -> tuple[Curves, jax.Array]:
    """n curves of the prior before any is rejected, and whether each is accepted, bool[n]."""
    u = jax.random.uniform(key, (12, n), jnp.float64)
    # An open interval: a normal quantile is infinite at 0.
    z = jax.scipy.special.ndtri(jnp.maximum(u[:3], 2.0**-54))
    alpha, k, delta = jnp.exp(2.0 * z[0]), jnp.exp(z[1] - 2.0), jnp.exp(0.5 * z[2])
    weights = u[3:6]
    pow_c, pow_a = 1.25 * u[6], 1.2 * u[7] - 0.6
    log_c, log_a = u[8], u[9] - 0.5
    top, bottom = u[10], 2.0 * u[11]
    level = 1.0 - (weights[0] * pow_c + weights[1] * log_c + weights[2] * top)
    curves = Curves(
        level, weights[0] * pow_a, alpha, weights[1] * log_a, weights[2] * (top - bottom), k, delta
    )
    # Only a comparison, so in single precision: it is most of what an instance costs.
    single = Curves(*(c.astype(jnp.float32)[:, None] for c in curves))
    losses = single.loss(jnp.arange(1, max_epoch + 1, dtype=jnp.float32))
    inside = (jnp.min(losses, axis=1) >= 0) & (jnp.max(losses, axis=1) <= 1)
    return curves, inside & (losses[:, -1] < losses[:, 0])


def fields(instance: Instance, x: jax.Array) -> jax.Array:
    """Three random smooth functions at x f64[d], f64[3]: over instances, each is standard normal anywhere."""
    # Single precision: cosines are most of what an evaluation costs.
    angles = (instance.waves @ x).astype(jnp.float32)
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)]).astype(jnp.float64)
    return instance.weights @ features * math.sqrt(1.0 / FEATURES)


def height(instance: Instance, x: jax.Array, ripple: jax.Array) -> jax.Array:
    """The landscape f64[] at x f64[d] with the ripples' field f64[] there: 0 at its only minimum."""
    steps = instance.factor @ (x - instance.place)
    return jnp.sum(steps**2) * (1.0 + RIPPLE * jnp.tanh(ripple))


def _steep(share: jax.Array) -> jax.Array:
    """A part of a mixture from the distance to its node, both in [0, 1]: flat near the nodes, so that most
    places are nearly one curve of the prior and its law is kept."""
    near, far = share**STEEPNESS, (1.0 - share) ** STEEPNESS
    return near / (near + far)


@dataclass(frozen=True)
class LCPFN:
    """Curves of LC-PFN's prior over `dimension` axes, at least 1.

    `max_epoch` at least 2; the prior is defined by epochs, and what it rejects by those up to the last.
    `noise`: the told loss's standard deviation over the prior's, which differs between configurations."""

    name: str = "lcpfn"
    dimension: int = 4
    max_epoch: int = 100
    noise: float = 1.0

    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        check_whole("dimension", self.dimension, 1)
        check_whole("max_epoch", self.max_epoch, 2)
        check_real("noise", self.noise, 0)

    @property
    def space(self) -> Space:
        return Space({f"x{i}": Float(0.0, 1.0) for i in range(self.dimension)})

    def draw(self, key: jax.Array) -> Instance:
        d = self.dimension
        proposed, accepted = proposals(jax.random.fold_in(key, 0), PROPOSALS, self.max_epoch)
        chosen = jnp.nonzero(accepted, size=ROWS * COLUMNS, fill_value=0)[0]
        curves = jax.tree.map(lambda c: c[chosen], proposed)
        epochs = jnp.arange(1, self.max_epoch + 1, dtype=jnp.float64)
        losses = jax.vmap(curves.loss, out_axes=1)(epochs)
        # By the last loss into rows, by the first within each.
        order = jnp.argsort(losses[:, -1]).reshape(ROWS, COLUMNS)
        order = jnp.take_along_axis(order, jnp.argsort(losses[order, 0], axis=1), axis=1)
        lowest = jnp.argmin(jnp.min(losses, axis=1))
        order = jnp.concatenate([jnp.full((1, COLUMNS), lowest, order.dtype), order])

        sizes = (d, d, d * d, FEATURES * d, SAMPLES * d)
        u = jax.random.uniform(jax.random.fold_in(key, 1), (sum(sizes),), jnp.float64)
        place, rank, mixing, waves, x = jnp.split(u, [sum(sizes[: i + 1]) for i in range(4)])
        # Axes matter unequally (a factor 4 from each to the next, in random order) and interact.
        weight = 0.25 ** jnp.argsort(rank).astype(jnp.float64)
        instance = Instance(
            curves=jax.tree.map(lambda c: c[order], curves),
            best=jnp.min(losses),
            # Rounded as hyperparameters are, so that the optimum is attained.
            place=(0.05 + 0.9 * place).astype(jnp.float32).astype(jnp.float64),
            factor=jnp.sqrt(weight)[:, None] * (jnp.eye(d, dtype=jnp.float64) + mixing.reshape(d, d) - 0.5),
            knots=jnp.zeros((KNOTS + 1,), jnp.float64),
            waves=10.0 * (waves.reshape(FEATURES, d) - 0.5),
            weights=jax.random.normal(jax.random.fold_in(key, 2), (3, 2 * FEATURES), jnp.float64),
        )
        heights = jax.vmap(lambda v: height(instance, v, fields(instance, v)[0]))(x.reshape(SAMPLES, d))
        quantiles = jnp.sort(heights).reshape(KNOTS, -1)[:, -1]
        return instance._replace(knots=jnp.concatenate([jnp.zeros((1,), jnp.float64), quantiles]))

    def reference(self, instance: Instance) -> Reference:
        return Reference(instance.best, jnp.float64(jnp.nan))

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: one second an epoch."""
        return (until - start).astype(jnp.float64)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: tuple[()],
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        x = jnp.stack([hp[name] for name in self.space.axes]).astype(jnp.float64)
        ripple, column, spread = fields(instance, x)
        at, knots = height(instance, x, ripple), instance.knots
        # The landscape's quantile: all knots are compared, which is faster than bisection.
        knot = jnp.clip(jnp.sum(at >= knots) - 1, 0, KNOTS - 1)
        share = jnp.clip((at - knots[knot]) / (knots[knot + 1] - knots[knot]), 0.0, 1.0)
        row = (knot + share) / KNOTS * ROWS
        # Rows and columns stand in the middle of their share of the space; the best curve, row 0, at its
        # edge.
        row = jnp.clip(jnp.minimum(2.0 * row, row + 0.5), 0.0, ROWS)
        column = jnp.clip(jax.scipy.special.ndtr(column) * COLUMNS - 0.5, 0.0, COLUMNS - 1)
        # The four curves around the place on the sheet, and their parts in the mixture.
        above = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, ROWS - 1)
        left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, COLUMNS - 2)
        down, right = _steep(row - above), _steep(column - left)
        rows, columns = above + jnp.array([0, 0, 1, 1]), left + jnp.array([0, 1, 0, 1])
        parts = jnp.stack([1.0 - down, 1.0 - down, down, down]) * jnp.stack(
            [1.0 - right, right, 1.0 - right, right]
        )
        curves = jax.tree.map(lambda c: c[rows, columns], instance.curves)
        mixture = jnp.sum(parts * curves.loss(until.astype(jnp.float64)))
        # For rounding only: equal parts of the best curve may add up to less than it.
        true_loss = jnp.maximum(mixture, instance.best)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            deviation = self.noise * jnp.exp(spread - 4.0)
            loss = loss + deviation * jax.random.normal(epoch_key, (), jnp.float64)
        return (), loss, true_loss
