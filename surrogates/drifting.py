"""Training whose best learning rate moves on its own: how far can a constant rate keep up?

Noise-free regression by SGD, where a gradient's noise vanishes with the error (interpolation: Ma, Bassily &
Belkin 2018, The Power of Interpolation, arXiv:1712.06559). Along an eigenvalue h, with gradient noise of
variance c theta^2, a step of rate a multiplies E theta^2 by 1 - 2 a h + a^2 (h^2 + c), that is by

    1 - p u (2 - u),    u = a / r,    best rate r = h / (h^2 + c),    p = h^2 / (h^2 + c)

As curvature sharpens or relaxes during training (Cohen et al. 2021, Gradient Descent on Neural Networks
Typically Occurs at the Edge of Stability, arXiv:2103.00065) r moves; p is kept. Weights come in `groups`,
each with a rate of its own and two modes, a sharp one and a flat one whose best rates differ: too high a rate
lets the sharp one grow, too low a one leaves the flat one behind. The loss is the weighted sum of all
E theta^2, 1 at the start; an epoch is STEPS steps.

Why both optima are exact. While |u - 1| < sqrt(1/p - 1) the logarithm of the factor is convex in the rate;
so is a sum of exponentials of sums of such: the final loss is convex in the rates of all epochs. Its dual,

    max over q in (0, 1) of   sum over epochs of min over a of q log f_1(a) + (1 - q) log f_2(a), times STEPS,
                              + q log(w_1 / q) + (1 - q) log(w_2 / (1 - q)),

is the logarithm of a group's least loss. Whatever q is, it is below any loss, convex or not; and the rates of
the best q reach it. At `drift` 0 the problem does not change when epochs are swapped: a constant rate is then
the best sequence. Greedy choices are not: they serve the mode that shows most.

A `schedule` other than constant (see `schedules`) multiplies the rates of all groups by one shape, whose
hyperparameters are axes; instances and the best sequence are the same under each.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Float, Space, check_real, check_whole
from surrogates import evolution, schedules

STEPS = 16  # an epoch: a power of two
LOW, HIGH = 1e-6, 0.3  # of the learning rates: so that less than half of the configurations diverge
LEAST_EPOCHS = 8
DIVERGED = 1e3  # times the loss of fresh weights
SECONDS = 1.0  # simulated, of an epoch
UNIFORMS = 14  # that draw a group
SHAPES = ("constant", "cosine", "linear", "step", "power")
POPULATION, GENERATIONS = 128, 400  # of the search for the best schedule; of steps within 5 % or so
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Instance(NamedTuple):
    """inverse f64[epochs, groups, 2], 1 / best rate of each mode in each epoch · pace f64[groups, 2], p in
    the module's formula · weight f64[groups, 2], share of the first loss."""

    inverse: Any
    pace: Any
    weight: Any


def epoch_factor(pace: jax.Array, ratio: jax.Array) -> jax.Array:
    """What an epoch at `ratio` times the best rate multiplies E theta^2 by: (1 - pace ratio (2 - ratio)) to
    the power STEPS, by squaring."""
    factor = 1.0 - pace * ratio * (2.0 - ratio)
    for _ in range(STEPS.bit_length() - 1):
        factor = factor * factor
    return factor


def pace_of(efolds: Any, max_epoch: int) -> jax.Array:
    """The pace f64 at which training at the best rate lowers E theta^2 by so many e-folds in all."""
    return -jnp.expm1(-efolds / (STEPS * max_epoch))


def golden_section(function: Any, low: Any, high: Any, rounds: int = 60) -> jax.Array:
    """Where a unimodal function of one variable is least, elementwise over arrays."""

    def step(i, ends):
        low, high = ends
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        lower = function(left) < function(right)
        return jnp.where(lower, low, left), jnp.where(lower, right, high)

    low, high = jax.lax.fori_loop(0, rounds, step, (low, high))
    return 0.5 * (low + high)


def bisect(slope: Any, low: Any, high: Any, rounds: int = 50) -> jax.Array:
    """Where an increasing function changes sign, elementwise; an end where it does not."""

    def step(i, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        up = slope(middle) < 0
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.fori_loop(0, rounds, step, (low, high))
    return 0.5 * (low + high)


def _paths(uniform: jax.Array, time: jax.Array) -> jax.Array:
    """Smooth random paths f64[epochs, n] from uniforms f64[n, 3]: a trend and a wave."""
    trend, frequency, phase = 3.0 * (uniform[:, 0] - 0.5), 0.5 + uniform[:, 1], uniform[:, 2]
    wave = jnp.cos(2.0 * math.pi * (frequency * time[:, None] + phase))
    return trend * (2.0 * time[:, None] - 1.0) + wave


@dataclass(frozen=True)
class Drifting:
    """SGD whose best rates move by `drift` e-folds (their standard deviation over the training); at 0 they
    stay, and the best constant configuration is the best sequence.

    `groups` of weights with a learning rate each, all of which may change during training · `schedule`: one
    of SHAPES · `max_epoch`: at least LEAST_EPOCHS · `noise`: relative standard deviation of the told loss,
    drawn anew each epoch. The checkpoint is E theta^2 of every mode, f64[groups, 2], as a share of its first
    value; infinite once the loss has passed DIVERGED."""

    name: str = "drifting"
    groups: int = 2
    max_epoch: int = 81
    drift: float = 0.7
    schedule: str = "constant"
    noise: float = 0.01

    fidelity = "training"
    scale = "log"
    offers = frozenset({"stop", "resume", "copy", "change"})

    def __post_init__(self):
        check_whole("groups", self.groups, 1)
        # Fewer epochs take steps so long that the best rates leave the region in which the dual is exact.
        check_whole("max_epoch", self.max_epoch, LEAST_EPOCHS)
        check_real("drift", self.drift, 0, 1)
        schedules.check_schedule(self.schedule, SHAPES)
        check_real("noise", self.noise, 0)

    @property
    def space(self) -> Space:
        axis = Float(LOW, HIGH, log=True, change=True, role="rate")
        rates = {f"learning_rate_{g}": axis for g in range(self.groups)}
        return Space(rates | schedules.shape_axes(self.schedule))

    def draw(self, key: jax.Array) -> Instance:
        u = jax.random.uniform(key, (self.groups, UNIFORMS), jnp.float64)
        time = (jnp.arange(self.max_epoch, dtype=jnp.float64) + 0.5) / self.max_epoch
        paths = _paths(u[:, 5:].reshape(-1, 3), time).reshape(self.max_epoch, self.groups, 3)
        # The modes of a group move together for the most part.
        paths = 0.9 * paths[..., :1] + 0.45 * paths[..., 1:]
        paths = paths - paths.mean(0)
        paths = self.drift * paths / jnp.sqrt((paths**2).mean(0))
        sharp = math.log(0.006) + math.log(5.0) * u[:, 0]
        flat = sharp + math.log(2.0) + math.log(2.0) * u[:, 1]
        efolds = jnp.stack([6.0 + 4.0 * u[:, 2], 5.0 + 4.0 * u[:, 3]], -1)
        share = 0.5 + 0.4 * u[:, 4]
        return Instance(
            inverse=jnp.exp(-jnp.stack([sharp, flat], -1) - paths),
            pace=pace_of(efolds, self.max_epoch),
            weight=jnp.stack([share, 1.0 - share], -1) / self.groups,
        )

    def init(self, instance: Instance, key: jax.Array) -> jax.Array:
        return jnp.ones_like(instance.weight)

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: SECONDS an epoch."""
        return SECONDS * (until - start).astype(jnp.float64)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: jax.Array,
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Mode by mode: arrays of one number a lane, which one fused loop passes over.
        modes = [(g, m) for g in range(self.groups) for m in range(2)]
        hp = {name: value.astype(jnp.float64) for name, value in hp.items()}
        rates = [hp[f"learning_rate_{g}"] for g, _ in modes]
        pace, weight = ([array[at] for at in modes] for array in (instance.pace, instance.weight))

        def total(state):
            return reduce(operator.add, [w * s for w, s in zip(weight, state, strict=True)])

        def epoch(e, state):
            ratios = [rate * instance.inverse[e, g, m] for rate, (g, m) in zip(rates, modes, strict=True)]
            if self.schedule != "constant":
                shape = schedules.multiplier(self.schedule, hp, (e + jnp.float64(0.5)) / self.max_epoch)
                ratios = [shape * ratio for ratio in ratios]
            state = [s * epoch_factor(*both) for s, *both in zip(state, pace, ratios, strict=True)]
            sound = total(state) < DIVERGED  # false for nan
            return [jnp.where(sound, s, jnp.inf) for s in state]

        state = jax.lax.fori_loop(start, until, epoch, [checkpoint[at] for at in modes])
        true_loss = total(state)
        state = jnp.stack(state).reshape(self.groups, 2)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            loss = loss * jnp.exp(self.noise * jax.random.normal(epoch_key, (), jnp.float64))
        return state, loss, true_loss

    def reference(self, instance: Instance) -> Reference:
        return self.make_reference(instance, jax.random.key(0, impl="threefry2x32"))

    def make_reference(self, instance: Instance, key: jax.Array) -> Reference:
        """Both are exact where the rates are constant; the best hyperparameters of another schedule are
        searched for (differential evolution, the lowest loss after any epoch)."""
        constant = self.schedule == "constant"
        static = self._best_constant(instance) if constant else self._best_schedule(instance, key)
        return Reference(static, self._best_sequence(instance)[0])

    def _best_schedule(self, instance: Instance, key: jax.Array) -> jax.Array:
        time = (jnp.arange(self.max_epoch, dtype=jnp.float64) + 0.5) / self.max_epoch

        def loss(x):
            hp = self.space.decode_array(x)
            rates = jnp.stack([hp[f"learning_rate_{g}"] for g in range(self.groups)])
            shape = jax.vmap(lambda t: schedules.multiplier(self.schedule, hp, t))(time)
            ratio = (shape[:, None] * rates)[..., None] * instance.inverse
            logs = STEPS * jnp.log1p(-instance.pace * ratio * (2.0 - ratio))
            return jnp.min(jnp.sum(instance.weight * jnp.exp(jnp.cumsum(logs, 0)), (1, 2)))

        return evolution.minimise(loss, key, self.space.dimension, POPULATION, GENERATIONS)

    def _best_constant(self, instance: Instance) -> jax.Array:
        """Lowest loss over constant rates and epochs: groups do not interact, so it is a minimum over one
        rate for every group and epoch, found on a grid and by golden section around its best point."""
        logs = jnp.linspace(math.log(LOW), math.log(HIGH), 257, dtype=jnp.float64)

        def log_factor(log_rate):  # f64[...] -> f64[epochs, ..., groups, 2] where log_rate ends in groups
            ratio = jnp.exp(log_rate)[..., None] * instance.inverse
            return STEPS * jnp.log1p(-instance.pace * ratio * (2.0 - ratio))

        grid = jax.vmap(lambda v: jnp.cumsum(log_factor(v[None]), 0))(logs)
        coarse = jnp.sum(instance.weight * jnp.exp(grid), -1)  # [rates, epochs, groups]
        centre = logs[jnp.argmin(coarse, 0)]

        until = jnp.arange(self.max_epoch)
        passed = (until[None, :] <= until[:, None])[..., None, None]

        def loss(log_rate):  # f64[epochs, groups], the first axis being the epoch trained to
            sums = jnp.sum(jnp.where(passed, log_factor(log_rate[:, None]), 0.0), 1)
            return jnp.sum(instance.weight * jnp.exp(sums), -1)

        width = (math.log(HIGH) - math.log(LOW)) / 256
        low, high = (jnp.clip(centre + side * width, logs[0], logs[-1]) for side in (-1, 1))
        return jnp.min(jnp.sum(loss(golden_section(loss, low, high, 40)), -1))

    def _best_sequence(self, instance: Instance) -> tuple[jax.Array, jax.Array]:
        """By the dual (see the module): the lowest loss f64[] over all sequences of rates, and the rates
        f64[epochs, groups]."""
        ends = jnp.sort(jnp.clip(1.0 / instance.inverse, LOW, HIGH), -1)

        def log_factor(rate):
            ratio = rate[..., None] * instance.inverse
            return jnp.log1p(-instance.pace * ratio * (2.0 - ratio))

        def rates(q):  # f64[groups, 2] -> f64[epochs, groups]
            def slope(rate):
                ratio = rate[..., None] * instance.inverse
                up = 2.0 * instance.pace * instance.inverse * (ratio - 1.0)
                return jnp.sum(q * up / jnp.exp(log_factor(rate)), -1)

            return bisect(slope, ends[..., 0], ends[..., 1])

        def dual(q):  # f64[groups] -> f64[groups]
            q = jnp.stack([q, 1.0 - q], -1)
            return jnp.sum(q * (STEPS * log_factor(rates(q)).sum(0) + jnp.log(instance.weight / q)), -1)

        zero = jnp.zeros((self.groups,), jnp.float64)
        q = golden_section(lambda q: -dual(q), zero + 1e-12, zero + 1.0 - 1e-12)
        return jnp.sum(jnp.exp(dual(q))), rates(jnp.stack([q, 1.0 - q], -1))
