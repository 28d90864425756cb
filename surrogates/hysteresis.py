"""Training that remembers: a phase at too high a rate does damage that no later phase repairs.

Networks have critical periods, early above all, in which a bad phase costs for good (Achille, Rovere & Soatto
2019, Critical Learning Periods in Deep Networks, arXiv:1711.08856), and it is early that they bear the least
learning rate, which is what warm-up is for (Gilmer et al. 2021, arXiv:2110.04369). In closed form, of our own
making:

    loss = excess + permanent + passing                    1 at the start
    excess'    = excess (1 - p u (2 - u))^STEPS            u = rate / best rate: progress, see `drifting`
    permanent' = permanent + hysteresis damage             damage = HARM max(0, rate / tolerance - 1)^2
    passing'   = HEALING passing + (1 - hysteresis) damage

The tolerated rate rises over the training, from far below the best rate to above it, with a dip in the
middle: a second critical period. At `hysteresis` 0 all damage heals, and what was done early is forgotten at
the end; at 1 none heals. What lures: a high early rate lowers the loss at once, since the excess falls faster
than the damage rises, and only at the end does the damage show. Whoever selects during training keeps the
harmed.

The best sequence is exact: a damage done in epoch t counts at the end by
c_t = hysteresis + (1 - hysteresis) HEALING^(T-1-t), and the excess is a product over epochs, so that the
final loss is the exponential of a sum of convex functions of one epoch's rate each, plus a sum of such. Its
dual is concave in one number q, the price of a lower log excess:

    max over q of   sum over epochs of min over a of (q STEPS log f(a) + c_t damage_t(a))  +  q (1 - log q)

Whatever q is, it is below any loss, and the rates of the best q reach it.

A `schedule` other than constant (see `schedules`) multiplies the rate by a shape with a warm-up of its own;
instances and the best sequence are the same under each.
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
from surrogates import evolution, schedules
from surrogates.drifting import (
    GENERATIONS,
    POPULATION,
    SHAPES,
    STEPS,
    bisect,
    epoch_factor,
    golden_section,
    pace_of,
)

LOW, HIGH = 1e-4, 1.0  # of the learning rate
HARM = 1e-3  # damage of an epoch at twice the tolerated rate
HEALING = 0.7  # share of passing damage that is left an epoch later
DIVERGED = 10.0  # loss
SECONDS = 1.0  # simulated, of an epoch
LEAST_EPOCHS = 4
# The static search: points a side of a first grid, from how many of the best it goes on, points a side of
# the grid around each, and times that this is narrowed.
WIDE, STARTS, SIDE, ROUNDS = (129, 65), 64, 9, 32


class Instance(NamedTuple):
    """inverse f64[], 1 / the best rate of progress · pace f64[], p in the module's formula ·
    intolerance f64[epochs], 1 / the tolerated rate."""

    inverse: Any
    pace: Any
    intolerance: Any


class Weights(NamedTuple):
    """excess, permanent, passing f64[]: see the module."""

    excess: Any
    permanent: Any
    passing: Any


@dataclass(frozen=True)
class Hysteresis:
    """One learning rate, which may change during training, and a linear warm-up (a share of max_epoch), which
    may not: it is part of a schedule whose horizon is max_epoch, and multiplies the rate.

    `max_epoch`: at least LEAST_EPOCHS · `hysteresis` in [0, 1]: share of the damage that is permanent ·
    `schedule`: one of SHAPES; constant is so once the warm-up is over, which may be longer than the others' ·
    `noise`: relative standard deviation of the told loss, drawn anew each epoch. The checkpoint is `Weights`,
    infinite once the loss has passed DIVERGED."""

    name: str = "hysteresis"
    max_epoch: int = 81
    hysteresis: float = 0.8
    schedule: str = "constant"
    noise: float = 0.01

    fidelity = "training"
    scale = "log"
    offers = frozenset({"stop", "resume", "copy", "change"})

    def __post_init__(self):
        check_whole("max_epoch", self.max_epoch, LEAST_EPOCHS)
        check_real("hysteresis", self.hysteresis, 0, 1)
        schedules.check_schedule(self.schedule, SHAPES)
        check_real("noise", self.noise, 0)

    @property
    def space(self) -> Space:
        shape = {"warmup": Float(0.0, 0.5, 0.05, role="schedule")}
        if self.schedule != "constant":
            shape = schedules.shape_axes(self.schedule)
        return Space({"learning_rate": Float(LOW, HIGH, log=True, change=True, role="rate")} | shape)

    def draw(self, key: jax.Array) -> Instance:
        u = jax.random.uniform(key, (8,), jnp.float64)
        time = (jnp.arange(self.max_epoch, dtype=jnp.float64) + 0.5) / self.max_epoch
        best = jnp.log(0.02) + jnp.log(10.0) * u[0]
        # Log tolerance against the best rate: from -lag up to head, soonest at `middle`.
        lag, head = jnp.log(10.0) + jnp.log(3.0) * u[1], jnp.log(1.2) + jnp.log(2.0) * u[2]
        middle, width = 0.05 + 0.25 * u[3], 0.03 + 0.05 * u[4]
        rise = jax.nn.sigmoid((time - middle) / width)
        dip = (0.5 + 1.5 * u[5]) * jnp.exp(-(((time - 0.5 - 0.3 * u[6]) / 0.05) ** 2))
        return Instance(
            inverse=jnp.exp(-best),
            pace=pace_of(5.0 + 3.0 * u[7], self.max_epoch),
            intolerance=jnp.exp(lag - (lag + head) * rise + dip - best),
        )

    def init(self, instance: Instance, key: jax.Array) -> Weights:
        return Weights(jnp.float64(1.0), jnp.float64(0.0), jnp.float64(0.0))

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: SECONDS an epoch."""
        return SECONDS * (until - start).astype(jnp.float64)

    def _harm(self) -> float:
        """An epoch's damage scales with its length."""
        return HARM * 81 / self.max_epoch

    def _epoch(self, instance: Instance, rate: jax.Array, epoch: Any, weights: Weights) -> Weights:
        strain = jnp.maximum(rate * instance.intolerance[epoch] - 1.0, 0.0)
        damage = self._harm() * strain * strain
        after = Weights(
            weights.excess * epoch_factor(instance.pace, rate * instance.inverse),
            weights.permanent + self.hysteresis * damage,
            HEALING * weights.passing + (1.0 - self.hysteresis) * damage,
        )
        sound = self.loss(after) < DIVERGED  # false for nan
        return Weights(*(jnp.where(sound, value, jnp.inf) for value in after))

    def loss(self, weights: Weights) -> jax.Array:
        """f64[]."""
        return weights.excess + (weights.permanent + weights.passing)

    def _shape(self, hp: Mapping, epoch: Any) -> jax.Array:
        """What the schedule multiplies the rate by in an epoch, f64[]; read at its middle."""
        if self.schedule == "constant":
            return jnp.minimum((epoch + 0.5) / jnp.maximum(hp["warmup"] * self.max_epoch, 1e-9), 1.0)
        return schedules.multiplier(self.schedule, hp, (epoch + 0.5) / self.max_epoch)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: Weights,
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[Weights, jax.Array, jax.Array]:
        hp = {name: value.astype(jnp.float64) for name, value in hp.items()}

        def epoch(e, weights):
            rate = hp["learning_rate"] * self._shape(hp, e.astype(jnp.float64))
            return self._epoch(instance, rate, e, weights)

        weights = jax.lax.fori_loop(start, until, epoch, checkpoint)
        true_loss = self.loss(weights)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            loss = loss * jnp.exp(self.noise * jax.random.normal(epoch_key, (), jnp.float64))
        return weights, loss, true_loss

    def reference(self, instance: Instance) -> Reference:
        return self.make_reference(instance, jax.random.key(0, impl="threefry2x32"))

    def make_reference(self, instance: Instance, key: jax.Array) -> Reference:
        """The best sequence is exact; the best rate and warm-up are searched for on grids, the best
        hyperparameters of another schedule by differential evolution."""
        constant = self.schedule == "constant"
        static = self._best_constant(instance) if constant else self._best_schedule(instance, key)
        return Reference(static, self._best_sequence(instance)[0])

    def _lowest(self, instance: Instance, hp: Mapping) -> jax.Array:
        """Lowest loss f64[...] over epochs of hyperparameters f64[...]."""

        def epoch(e, carry):
            weights, best = carry
            weights = self._epoch(instance, hp["learning_rate"] * self._shape(hp, e), e, weights)
            return weights, jnp.minimum(best, self.loss(weights))

        blank = jnp.zeros_like(hp["learning_rate"])
        fresh = Weights(blank + 1.0, blank, blank)
        return jax.lax.fori_loop(0, self.max_epoch, epoch, (fresh, blank + jnp.inf))[1]

    def _best_schedule(self, instance: Instance, key: jax.Array) -> jax.Array:
        def loss(x):
            hp = self.space.decode_array(x)
            return self._lowest(instance, {name: v.astype(jnp.float64) for name, v in hp.items()})

        return evolution.minimise(loss, key, self.space.dimension, POPULATION, GENERATIONS)

    def _best_constant(self, instance: Instance) -> jax.Array:
        """Lowest loss over rate, warm-up and epochs: on a wide grid, then on one around each of its best
        points that narrows by a third each time."""
        low = jnp.asarray([math.log(LOW), 0.0], jnp.float64)
        high = jnp.asarray([math.log(HIGH), 0.5], jnp.float64)

        def grid(sides):  # f64[points, 2] on [-1, 1]
            axes = [jnp.linspace(-1.0, 1.0, side, dtype=jnp.float64) for side in sides]
            return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

        def lowest(point):  # f64[points, 2] -> f64[points]
            hp = {"learning_rate": jnp.exp(point[:, 0]), "warmup": point[:, 1]}
            return self._lowest(instance, hp)

        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        wide = middle + half * grid(WIDE)
        losses = lowest(wide)
        chosen = jnp.argsort(losses)[:STARTS]
        near = grid((SIDE, SIDE))

        def narrow(i, state):
            centre, width, best = state
            points = jnp.clip(centre[:, None] + width * near, low, high)
            found = lowest(points.reshape(-1, 2)).reshape(STARTS, -1)
            at = jnp.argmin(found, 1)
            return points[jnp.arange(STARTS), at], width * (2.0 / 3.0), jnp.minimum(best, jnp.min(found))

        # Four points of the wide grid to either side.
        width = 4.0 * (high - low) / (jnp.asarray(WIDE, jnp.float64) - 1.0)
        return jax.lax.fori_loop(0, ROUNDS, narrow, (wide[chosen], width, losses[chosen[0]]))[2]

    def _best_sequence(self, instance: Instance) -> tuple[jax.Array, jax.Array]:
        """By the dual (see the module): the lowest loss f64[] over all sequences of rates, and the rates
        f64[epochs]."""
        left = jnp.arange(self.max_epoch - 1, -1, -1, dtype=jnp.float64)
        count = self._harm() * (self.hysteresis + (1.0 - self.hysteresis) * HEALING**left)
        best = 1.0 / instance.inverse
        # No lower end: a warm-up goes below the least learning rate. Beyond the best rate nothing is gained.
        start = jnp.minimum(jnp.minimum(1.0 / instance.intolerance, best), HIGH)

        def rates(price):  # f64[] -> f64[epochs]
            def slope(rate):
                ratio = rate * instance.inverse
                gain = 2.0 * STEPS * instance.pace * instance.inverse * (ratio - 1.0)
                gain = gain / (1.0 - instance.pace * ratio * (2.0 - ratio))
                strain = jnp.maximum(rate * instance.intolerance - 1.0, 0.0)
                return price * gain + 2.0 * count * instance.intolerance * strain

            return bisect(slope, start, jnp.full_like(start, jnp.minimum(best, HIGH)))

        def dual(log_price):
            price = jnp.exp(log_price)
            rate = rates(price)
            ratio = rate * instance.inverse
            logs = STEPS * jnp.log1p(-instance.pace * ratio * (2.0 - ratio))
            strain = jnp.maximum(rate * instance.intolerance - 1.0, 0.0)
            return price * (jnp.sum(logs) + 1.0 - log_price) + jnp.sum(count * strain**2)

        # The price is the final excess: below that of fresh weights.
        found = golden_section(lambda z: -dual(z), jnp.float64(-40.0), jnp.float64(0.0), 80)
        return dual(found), rates(jnp.exp(found))
