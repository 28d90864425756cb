"""Learning curves over a landscape: loss(x, epoch) in closed form, with a known optimum and dials.

    loss(x, t) = end(x) + (start - end(x)) * left(t, x),     left(0) = 1 > left(t) > left(T) = 0

`end` is a landscape with a known minimum, `left` the share of the way still to go: a curve family of Domhan
et al. 2015 (IJCAI), normalised to its first and last epoch, T = max_epoch. So the loss falls in t, ends on
the landscape whatever the speed, and its lowest value over all x and t is the landscape's minimum, exactly.

Families, with k the speed: pow3 (t+1)^-k · pow4 (k t+1)^-a · exp4, weibull, janoschek exp(-(k t)^a) ·
ilog2 1/ln(k t+e) · mmf 1/(1+(k t)^a). Shifts of t keep the curves finite at 0, asymptote and height come from
the normalisation. After it exp4, weibull and janoschek are one formula; here they differ in the exponent:
a = .5 (long tail), 1 and 1.5 (S-shaped). pow4 has a = 1, mmf 1.5.

The speed depends on x (log k, in e-folds): (1 - rank) * SPREAD * a random smooth function of x, plus
crossing * CROSS * (the normalised end loss - .5), so that good ends come late. Spearman correlation with the
end over 512 random configurations, median of 64 instances, family pow4, max_epoch 81, no noise:

    rank  crossing   epoch 1      3      9     27
    1     0             1.00   1.00   1.00   1.00
    .8    0              .83    .89    .96   1.00
    .5    0              .32    .56    .82    .96
    0     0              .06    .28    .61    .88
    .8    .25            .33    .65    .89    .99
    .8    .5            -.31    .21    .71    .97
    .8    .75           -.54   -.11    .51    .90
    .8    1             -.58   -.26    .36    .83

Departs from ifBO's prior (Rakotoarison et al. 2024, arXiv 2404.16795), whose curves also change their slope:
here every curve falls, which is what keeps the optimum exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Choice, Float, Int, Space

START = 0.9  # loss of fresh weights: guessing among ten classes
WORST = 0.85  # least upper bound of the landscape: nothing ends worse than it started
FEATURES = 16  # cosines in a random smooth function
SPREAD = 2.5  # standard deviation of log speed at rank 0, e-folds
LEVEL = 5.0  # log speed between the best and the worst end at rank 0, which evens out early differences
CROSS = 8.0  # log speed between the best and the worst end at crossing 1, e-folds
PACE = 12.0  # typical speed: that many time constants in max_epoch

# The axes in order of `dimension`; further ones are Float on [0, 1], named x6, x7, ...
_AXES = {
    "learning_rate": Float(1e-4, 1.0, log=True, role="rate"),
    "units": Int(16, 512, log=True, role="architecture"),
    "weight_decay": Float(1e-6, 1e-2, log=True, role="regularisation"),
    "dropout": Float(0.0, 0.8, role="regularisation"),
    "activation": Choice(("relu", "tanh", "gelu"), role="architecture"),
    "momentum": Float(0.0, 0.99, role="other"),
}
_EXPONENTS = {"pow4": 1.0, "exp4": 0.5, "weibull": 1.0, "janoschek": 1.5, "mmf": 1.5}
FAMILIES = ("pow3", "pow4", "exp4", "ilog2", "weibull", "janoschek", "mmf")


class Instance(NamedTuple):
    """best f64[], lowest end loss · place f64[d], its configuration in the unit cube · factor f64[d, d],
    the landscape is 1 - exp(-|factor (x - place)|^2) between best and WORST · penalty f64[3], of each
    activation · waves f64[FEATURES, d], phases f64[FEATURES] of the random part of the speed."""

    best: Any
    place: Any
    factor: Any
    penalty: Any
    waves: Any
    phases: Any


def _position(axis: Float | Int | Choice, value: jax.Array) -> jax.Array:
    """Unit-interval coordinate f64[] of a decoded value: `axis.encode` in JAX."""
    low, high = axis.edges
    value = value.astype(jnp.float64)
    return ((jnp.log(value) if axis.log else value) - low) / (high - low)


@dataclass(frozen=True)
class Curves:
    """Learning curves whose early ranks predict late ones to a dialled degree.

    `rank` in [0, 1]: 1, all curves share one speed and ranks never change; 0, speeds differ by orders of
    magnitude. `crossing` in [0, 1]: how much faster those are that end worse; early ranks turn over.
    `noise`: standard deviation of the told loss, drawn anew each epoch. `diverge` in [0, .9]: the share of
    the space, at its highest learning rates, where training ends in an infinite loss, the earlier the
    higher the rate. `cost_spread`: cost of an epoch with the most units over that with the fewest.
    `family`: see the module. At least two axes.
    """

    name: str = "curves"
    dimension: int = 4
    max_epoch: int = 81
    family: str = "pow4"
    rank: float = 0.8
    crossing: float = 0.0
    noise: float = 0.005
    diverge: float = 0.1
    cost_spread: float = 2.0

    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        if self.dimension < 2:
            raise ValueError(f"dimension must be at least 2, got {self.dimension}")
        if self.max_epoch < 2:
            raise ValueError(f"max_epoch must be at least 2, got {self.max_epoch}")
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        for name, top in (("rank", 1.0), ("crossing", 1.0), ("diverge", 0.9)):
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"{name} must lie in [0, {top:g}], got {getattr(self, name)}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")
        if not 1 <= self.cost_spread < math.inf:
            raise ValueError(f"cost_spread must be finite and at least 1, got {self.cost_spread}")

    @property
    def space(self) -> Space:
        named = dict(list(_AXES.items())[: self.dimension])
        return Space(named | {f"x{i}": Float(0.0, 1.0) for i in range(len(_AXES), self.dimension)})

    def _positions(self, hp: Mapping) -> jax.Array:
        return jnp.stack([_position(axis, hp[name]) for name, axis in self.space.axes.items()])

    def draw(self, key: jax.Array) -> Instance:
        d, space = self.dimension, self.space
        # One draw, cut to pieces: each draw in a traced program costs compile time.
        sizes = (d, d, 1, 3, FEATURES, d * d, FEATURES * d)
        uniforms = jax.random.uniform(key, (sum(sizes),), jnp.float64)
        cuts = list(accumulate(sizes))[:-1]
        where, order, level, dear, phase, mixing, waves = jnp.split(uniforms, cuts)
        # The best place is never in the unstable range. Going through the values puts discrete axes on a
        # level, so that the minimum is attained.
        place = (0.05 + 0.9 * where).at[0].multiply(1.0 - self.diverge)
        place = self._positions(space.decode_array(place.astype(jnp.float32)))
        # Axes matter unequally (a factor 4 from each to the next, in random order) and interact.
        weight = 0.25 ** jnp.argsort(order).astype(jnp.float64)
        factor = jnp.sqrt(weight)[:, None] * (jnp.eye(d, dtype=jnp.float64) + mixing.reshape(d, d) - 0.5)
        penalty = jnp.zeros((3,), jnp.float64)
        if "activation" in space.axes:
            # Its levels have no order: each costs something, the best nothing, and no distance counts.
            at = list(space.axes).index("activation")
            best = jnp.round(place[at] * 3 - 0.5).astype(jnp.int32)
            penalty = (0.05 + 0.45 * dear).at[best].set(0.0)
            factor = factor.at[:, at].set(0.0)
        # Scaled so that the exponent is 1.5 on average over the cube: variance plus squared mean.
        mean = jnp.sum(factor**2) / 12 + jnp.sum((factor @ (0.5 - place)) ** 2)
        return Instance(
            best=0.05 + 0.1 * level[0],
            place=place,
            factor=factor * jnp.sqrt(1.5 / mean),
            penalty=penalty,
            waves=10.0 * (waves.reshape(FEATURES, d) - 0.5),
            phases=2 * math.pi * phase,
        )

    def reference(self, instance: Instance) -> Reference:
        return Reference(instance.best, jnp.float64(jnp.nan))

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: simulated seconds, one an epoch for the middle number of units."""
        middle = _position(_AXES["units"], hp["units"]) - 0.5
        return (until - start).astype(jnp.float64) * self.cost_spread**middle

    def landscape(self, instance: Instance, hp: Mapping) -> jax.Array:
        """Loss f64[] at max_epoch of a configuration that does not diverge."""
        steps = instance.factor @ (self._positions(hp) - instance.place)
        exponent = jnp.sum(steps**2)
        if "activation" in self.space.axes:
            exponent = exponent + instance.penalty[hp["activation"]]
        return instance.best - (WORST - instance.best) * jnp.expm1(-exponent)

    def speed(self, instance: Instance, hp: Mapping) -> jax.Array:
        """Log speed f64[] against the typical one."""
        u = self._positions(hp)
        smooth = jnp.sqrt(2.0 / FEATURES) * jnp.sum(jnp.cos(instance.waves @ u + instance.phases))
        height = (self.landscape(instance, hp) - instance.best) / (WORST - instance.best)
        slope = (1.0 - self.rank) * LEVEL + self.crossing * CROSS
        return (1.0 - self.rank) * SPREAD * smooth + slope * (height - 0.5)

    def _raw(self, speed: jax.Array, epoch: jax.Array) -> jax.Array:
        """The family's curve before it is normalised, falling in epoch."""
        if self.family == "pow3":
            return (epoch + 1.0) ** -speed
        k = speed * PACE / self.max_epoch
        if self.family == "ilog2":
            return 1.0 / jnp.log(k * epoch + math.e)
        a = _EXPONENTS[self.family]
        if self.family == "pow4":
            return (k * epoch + 1.0) ** -a
        if self.family == "mmf":
            return 1.0 / (1.0 + (k * epoch) ** a)
        return jnp.exp(-((k * epoch) ** a))

    def left(self, log_speed: jax.Array, epoch: jax.Array) -> jax.Array:
        """Share f64[] of the way from the first to the last loss that is left at `epoch` f64[]."""
        speed = jnp.exp(log_speed)
        first, last = self._raw(speed, jnp.float64(0)), self._raw(speed, jnp.float64(self.max_epoch))
        share = (self._raw(speed, epoch) - last) / (first - last)
        # A clip for rounding only: very slow curves have nearly equal ends.
        return jnp.where(epoch < self.max_epoch, jnp.clip(share, 0.0, 1.0), 0.0)

    def end_of_training(self, hp: Mapping) -> jax.Array:
        """First epoch f64[] with an infinite loss: max_epoch at the border of the unstable region, 1 at the
        highest rate, geometric between; infinite where training is stable."""
        if self.diverge == 0:
            return jnp.float64(jnp.inf)
        depth = (_position(_AXES["learning_rate"], hp["learning_rate"]) - 1.0) / self.diverge + 1.0
        epoch = jnp.ceil(self.max_epoch ** (1.0 - depth))
        return jnp.where(depth > 0, epoch, jnp.inf)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: tuple[()],
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        epoch = until.astype(jnp.float64)
        end = self.landscape(instance, hp)
        true_loss = end + (START - end) * self.left(self.speed(instance, hp), epoch)
        true_loss = jnp.where(epoch < self.end_of_training(hp), true_loss, jnp.inf)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            loss = loss + self.noise * jax.random.normal(epoch_key, (), jnp.float64)
        return (), loss, true_loss
