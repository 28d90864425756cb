"""The noisy quadratic model: training dynamics in closed form, with a known best schedule.

Zhang et al. 2019, Which Algorithmic Choices Matter at Which Batch Sizes?, arXiv:1907.04164. The loss is
.5 sum h_i theta_i^2 with h_i = 1/i, i up to 10^4; a batch of B examples gives the gradient h_i theta_i plus
noise of variance h_i / B; the optimiser is SGD with momentum, v' = mu v - a g, theta' = theta + v'. The
second moments of every eigenvalue then follow an affine map, so that the expected loss is known without
simulating a step.

What an objective needs beyond the paper, and what was chosen:

- An epoch is a fixed number of examples (`examples`) at a constant rate, that is examples/B steps, whose map
  is found by doubling. 81 epochs of 16,384 are the paper's range, 1.3 million in all.
- 24 weighted eigenvalues stand for 10^4: the first eight as they are, for the others Gauss-Legendre nodes in
  log i. The loss differs from the exact spectrum's by less than 1e-3, which the tests hold it to.
- Instances differ (`vary`): the spectrum decays as i^-.8 to i^-1.2; its scale, and with it the rate that
  diverges, moves by a factor of 3 either way, the noise by one of 4; training starts at E theta^2 = i^-.2 to
  i^.2. With `vary` false each is the paper's.
- Moments are float64, as the losses are: far from the noise floor they are sums of terms that cancel.
- The rate follows a `schedule` whose hyperparameters are axes of the space (see `schedules`). Its shape is
  chosen once, with max_epoch as horizon; `learning_rate`, which may change during training, multiplies it.
  Instances know nothing of it: index by index they are the same under every schedule, so that losses compare
  across schedules, and so is `optimum_dynamic`, the best that free rates can do. `optimum_static` is that of
  the space: the best hyperparameters of the schedule.
- `batch` and `momentum` can be fixed. Plain SGD (momentum 0) over 50 epochs has the regimes of 20,000 steps
  of 16 examples, which noise limits (`batch` 16, `examples` 6400), of 20,000 of 1024, which it does not
  (409600), and of 5,000 of 64, which are few (6400).
- An unstable quadratic only grows, where a network's weights would be lost: a loss above DIVERGED times that
  of fresh weights is infinite, and so are the moments, from then on.

The model's own laws shape what there is to tune: with examples fixed, small batches do as well as large ones
at proportional rates, up to a critical batch, and there momentum only rescales the rate. So good
configurations form a ridge in (rate, momentum, batch) rather than a point. And a lower rate lowers the loss
at once but costs later progress, so whoever selects during training is misled (short-horizon bias, Wu et al.
2018, arXiv:1803.02021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Reference
from bench.space import Choice, Float, Space, check_real, check_whole
from surrogates import evolution, schedules

EIGENVALUES = 10_000
SINGLE, NODES = 8, 16  # eigenvalues kept one by one, and nodes that stand for all others
DIVERGED = 1e3  # times the loss of fresh weights
BATCHES = tuple(2**i for i in range(3, 12))
SECONDS = 1e-4  # simulated, of one example
UPDATE = 64  # examples that take as long as one update of the weights, whatever its batch

# The reference's searches: sizes at which neither gains from being larger (see the tests).
POPULATION, GENERATIONS = 64, 200
DESCENT, STRIDE = 300, 0.2
FREE_BATCH = BATCHES.index(64)
FEWEST_UPDATES = 8  # of an epoch, for the sequence to be searched
LEAST_RATE = 1e-7  # of the sequences looked at: a schedule may go far below the least learning rate


class Instance(NamedTuple):
    """Per eigenvalue, f64[n]: curvature h · count, how many it stands for · noise, the variance of one
    example's gradient · start, E theta^2 of fresh weights."""

    curvature: Any
    count: Any
    noise: Any
    start: Any


class Moments(NamedTuple):
    """Per eigenvalue, f64[n]: E theta^2, E v^2, E theta v."""

    theta: Any
    velocity: Any
    cross: Any


def spectrum(
    exponent: Any = 1.0, scale: Any = 1.0, noise: Any = 1.0, tilt: Any = 0.0, exact: bool = False
) -> Instance:
    """The instance with h_i = scale i^-exponent, a gradient's variance noise h_i and E theta^2 = i^tilt.

    The defaults are the paper's; `exact` has all 10^4 eigenvalues in place of 24 weighted ones."""
    if exact:
        log_index, count = np.log(np.arange(1, EIGENVALUES + 1)), np.ones(EIGENVALUES)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        low, high = math.log(SINGLE + 0.5), math.log(EIGENVALUES + 0.5)
        rest = low + (nodes + 1.0) / 2.0 * (high - low)
        log_index = np.concatenate([np.log(np.arange(1, SINGLE + 1)), rest])
        # A sum over the others is the integral of its terms times i over log i.
        count = np.concatenate([np.ones(SINGLE), weights / 2.0 * (high - low) * np.exp(rest)])
    log_index = jnp.asarray(log_index, jnp.float64)
    curvature = scale * jnp.exp(-exponent * log_index)
    return Instance(curvature, jnp.asarray(count, jnp.float64), noise * curvature, jnp.exp(tilt * log_index))


def expected_loss(instance: Instance, moments: Moments) -> jax.Array:
    """f64[]."""
    return 0.5 * jnp.sum(instance.count * instance.curvature * moments.theta)


def train_steps(
    instance: Instance,
    moments: Moments,
    rate: Any,
    momentum: Any,
    batch: Any,
    doublings: Any,
    most: int,
    times: int = 1,
) -> Moments:
    """The moments after times 2^doublings steps of constant rate, momentum and batch size; doublings i32[] is
    at most the static `most`, and `times` is static too.

    A step maps (theta, v) by M = [[1-x, mu], [-x, mu]], x = rate h, and adds the variance q = rate^2 noise /
    batch to all three moments. Hence the matrix of moments S becomes S* + M^k (S - S*) (M^k)^T after k steps,
    S* being the fixed point. By Cayley and Hamilton M^k = p M + r for two numbers, M^2 = (trace M) M - mu."""
    x = rate * instance.curvature
    trace = 1.0 + momentum - x

    def double(p, r):
        return p * (p * trace + 2.0 * r), r * r - momentum * p * p

    def maybe(i, power):
        more = i < doublings
        return tuple(jnp.where(more, a, b) for a, b in zip(double(*power), power, strict=True))

    p, r = jnp.ones_like(x), jnp.zeros_like(x)
    for bit in f"{times:b}"[1:]:
        p, r = double(p, r)
        if bit == "1":
            p, r = p * trace + r, -momentum * p
    p, r = jax.lax.fori_loop(0, most, maybe, (p, r))
    a, b = p * (1.0 - x) + r, p * momentum
    c, d = -p * x, p * momentum + r
    # At the fixed point E theta v = E v^2 / 2 and x E theta^2 = (1 + mu) E v^2 / 2; unit = x E v^2 / (2 x^2).
    unit = rate * (instance.noise / instance.curvature)
    unit = unit / (batch * (1.0 - momentum) * (2.0 * (1.0 + momentum) - x))
    fixed = Moments((1.0 + momentum) * unit, 2.0 * x * unit, x * unit)
    theta, velocity, cross = (m - f for m, f in zip(moments, fixed, strict=True))
    return Moments(
        fixed.theta + a * a * theta + 2.0 * a * b * cross + b * b * velocity,
        fixed.velocity + c * c * theta + 2.0 * c * d * cross + d * d * velocity,
        fixed.cross + a * c * theta + (a * d + b * c) * cross + b * d * velocity,
    )


@dataclass(frozen=True)
class NoisyQuadratic:
    """SGD with momentum on a noisy quadratic; the checkpoint is the weights' second moments.

    `max_epoch` epochs of `examples` examples, a multiple of every batch size · `schedule`: constant, cosine,
    linear, step, power or piecewise, with so many `pieces` · `batch`, `momentum`: fixed; null: an axis of the
    space · `noise`: relative standard deviation of the told loss, drawn anew each epoch (the model's own loss
    is an expectation, and the true loss is that) · `vary`: instances differ (see the module).

    Rate, momentum and batch size may change during training, the schedule's shape may not. Momentum's axis is
    one minus it, on whose log scale 0, .9 and .99 are evenly spaced and which multiplies as rates do."""

    name: str = "noisy_quadratic"
    max_epoch: int = 81
    examples: int = 16384
    schedule: str = "power"
    pieces: int = 5
    batch: int | None = None
    momentum: float | None = None
    noise: float = 0.01
    vary: bool = True

    fidelity = "training"
    scale = "log"
    offers = frozenset({"stop", "resume", "copy", "change"})
    # More would take most of the reference's time; the quantile at .001 is the 16th loss.
    reference_samples = 2**14

    def __post_init__(self):
        check_whole("max_epoch", self.max_epoch, 1)
        schedules.check_schedule(self.schedule)
        check_whole("pieces", self.pieces, 2)
        check_whole("examples", self.examples, 1)
        if self.batch is not None:
            check_whole("batch", self.batch, 1)
        largest = self.batch or BATCHES[-1]
        if self.examples % largest:
            raise ValueError(f"examples must be a multiple of the batch size {largest}, got {self.examples}")
        if self.momentum is not None:
            check_real("momentum", self.momentum, 0, 0.99)
        check_real("noise", self.noise, 0)

    @property
    def space(self) -> Space:
        axes: dict[str, Any] = dict(schedules.rate_axes(self.schedule, self.pieces, 1e-3, 10.0, 0.1))
        if self.momentum is None:
            axes["one_minus_momentum"] = Float(0.01, 1.0, 0.1, log=True, change=True)
        if self.batch is None:
            axes["batch_size"] = Choice(BATCHES, 128, ordered=True, change=True, role="batch")
        return Space(axes | schedules.shape_axes(self.schedule))

    @property
    def _least_steps(self) -> tuple[int, int]:
        """(odd, n): steps in an epoch of the largest batch are odd 2^n."""
        steps = self.examples // (self.batch or BATCHES[-1])
        twos = (steps & -steps).bit_length() - 1
        return steps >> twos, twos

    def _size(self, index: Any) -> jax.Array:
        """Examples in a batch f64[]; index i32[] of the batch size, unused where it is fixed."""
        if self.batch is not None:
            return jnp.float64(self.batch)
        return jnp.asarray(BATCHES, jnp.float64)[index]

    def _values(self, hp: Mapping) -> dict[str, jax.Array]:
        """Hyperparameters in float64, with those that are fixed."""
        values = {name: v if name == "batch_size" else v.astype(jnp.float64) for name, v in hp.items()}
        if self.momentum is not None:
            values["one_minus_momentum"] = jnp.float64(1.0 - self.momentum)
        return {"batch_size": jnp.int32(0)} | values

    def draw(self, key: jax.Array) -> Instance:
        if not self.vary:
            return spectrum()
        u = jax.random.uniform(key, (4,), jnp.float64, -1.0, 1.0)
        return spectrum(1.0 + 0.2 * u[0], 3.0 ** u[1], 4.0 ** u[2], 0.2 * u[3])

    def init(self, instance: Instance, key: jax.Array) -> Moments:
        still = jnp.zeros_like(instance.start)
        return Moments(instance.start, still, still)

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: SECONDS an example, and UPDATE examples' time an update."""
        return (until - start).astype(jnp.float64) * SECONDS * (self.examples + UPDATE * self.updates(hp))

    def updates(self, hp: Mapping) -> jax.Array:
        """f64[]: updates of the weights in an epoch."""
        return self.examples / self._size(hp.get("batch_size"))

    def rate(self, hp: Mapping, epoch: jax.Array) -> jax.Array:
        """The learning rate f64[] in an epoch f64[], the first being 0."""
        return schedules.learning_rate(self.schedule, self.pieces, hp, (epoch + 0.5) / self.max_epoch)

    def _epoch(self, instance: Instance, moments: Moments, rate, one_minus_momentum, index) -> Moments:
        """One epoch at a constant rate; index i32[] of the batch size."""
        odd, twos = self._least_steps
        largest = len(BATCHES) - 1 if self.batch is None else 0
        return train_steps(
            instance, moments, rate, 1.0 - one_minus_momentum, self._size(index),
            twos + largest - index, twos + largest, odd,
        )  # fmt: skip

    def _scheduled(self, instance: Instance, hp: Mapping, epoch: jax.Array, moments: Moments):
        """The moments after an epoch of a configuration (f64), infinite once it has diverged; its loss."""
        rate = self.rate(hp, epoch.astype(jnp.float64))
        after = self._epoch(instance, moments, rate, hp["one_minus_momentum"], hp["batch_size"])
        loss, fresh = expected_loss(instance, after), self.init(instance, epoch)
        sound = loss < DIVERGED * expected_loss(instance, fresh)  # false for nan
        return jax.tree.map(lambda a: jnp.where(sound, a, jnp.inf), after), jnp.where(sound, loss, jnp.inf)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: Moments,
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[Moments, jax.Array, jax.Array]:
        hp = self._values(hp)
        moments = jax.lax.fori_loop(
            start, until, lambda e, m: self._scheduled(instance, hp, e, m)[0], checkpoint
        )
        true_loss = expected_loss(instance, moments)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            loss = loss * jnp.exp(self.noise * jax.random.normal(epoch_key, (), jnp.float64))
        return moments, loss, true_loss

    def range_test(self, instance: Instance, key: jax.Array, hp: Mapping, rates: jax.Array) -> jax.Array:
        """Losses f32[steps], each before the step: one at each of rates f32[steps], which grow."""
        hp = self._values(hp)
        size, momentum = self._size(hp["batch_size"]), 1.0 - hp["one_minus_momentum"]

        def step(moments, rate):
            after = train_steps(instance, moments, rate, momentum, size, 0, 0)
            return after, expected_loss(instance, moments)

        _, losses = jax.lax.scan(step, self.init(instance, key), rates.astype(jnp.float64))
        wobble = jnp.exp(self.noise * jax.random.normal(key, losses.shape, jnp.float64))
        return (losses * wobble).astype(jnp.float32)

    def reference(self, instance: Instance) -> Reference:
        return self.make_reference(instance, jax.random.key(0, impl="threefry2x32"))

    def make_reference(self, instance: Instance, key: jax.Array) -> Reference:
        """The best constant configuration by differential evolution, the best sequence by descent.

        optimum_dynamic is nan where a fixed batch leaves an epoch fewer than FEWEST_UPDATES updates: there
        the best sequence passes through rates at which each update is unstable (as Chebyshev's), where the
        descent does not look."""
        static = self._best_constant(instance, key)
        if self.batch is not None and self.examples // self.batch < FEWEST_UPDATES:
            return Reference(static, jnp.full_like(static, jnp.nan))
        return Reference(static, jnp.minimum(static, self._best_sequence(instance)))

    def _best_constant(self, instance: Instance, key: jax.Array) -> jax.Array:
        """By differential evolution; the loss is the lowest after any epoch."""

        def loss(x):
            hp = self._values(self.space.decode_array(x))

            def epoch(e, carry):
                moments, after = self._scheduled(instance, hp, jnp.asarray(e), carry[0])
                return moments, jnp.minimum(carry[1], after)

            start = self.init(instance, key), jnp.float64(jnp.inf)
            return jax.lax.fori_loop(0, self.max_epoch, epoch, start)[1]

        return evolution.minimise(loss, key, self.space.dimension, POPULATION, GENERATIONS)

    def _best_sequence(self, instance: Instance) -> jax.Array:
        """Lowest loss at max_epoch over rate and momentum of each epoch, at the batch size FREE_BATCH where
        it is not fixed: Adam in their logarithms. On instances tried, no other batch size, nor a change of it
        in each epoch, does better by .1 %."""
        rest = Float(0.01, 1.0).edges if self.momentum is None else (1.0 - self.momentum,) * 2
        low, high = (np.log([rate, edge]) for rate, edge in zip((LEAST_RATE, 10.0), rest, strict=True))
        index = FREE_BATCH if self.batch is None else 0

        def inside(z):
            # Kept stable: gradients are not finite far beyond. To go there for a while and be repaired later
            # gains .3 % where an epoch has eight steps, and nothing where it has hundreds.
            z = jnp.clip(z, low, high)
            border = jnp.log(1.9999 * (2.0 - jnp.exp(z[:, 1])) / instance.curvature[0])
            return z.at[:, 0].min(border)

        def log_loss(z):
            def epoch(moments, z):
                rate, rest = jnp.exp(z)
                return self._epoch(instance, moments, rate, rest, index), None

            moments, _ = jax.lax.scan(epoch, self.init(instance, z), z)
            return jnp.log(expected_loss(instance, moments))

        def descend(i, state):
            z, mean, square, best = state
            value, slope = jax.value_and_grad(log_loss)(z)
            slope = jnp.clip(jnp.nan_to_num(slope), -0.1, 0.1)
            mean, square = 0.9 * mean + 0.1 * slope, 0.98 * square + 0.02 * slope**2
            mean_now, square_now = mean / (1 - 0.9 ** (i + 1)), square / (1 - 0.98 ** (i + 1))
            z = z - STRIDE * (1.0 - i / DESCENT) * mean_now / (jnp.sqrt(square_now) + 1e-8)
            return inside(z), mean, square, jnp.fmin(best, value)

        # A rate that falls by e^3, from a quarter of the largest stable one; momentum .7.
        time = jnp.linspace(0.0, 1.0, self.max_epoch, dtype=jnp.float64)
        rate = jnp.log(0.5 / instance.curvature[0]) - 3.0 * time
        z = inside(jnp.stack([rate, jnp.full_like(rate, math.log(0.3))], -1))
        state = z, jnp.zeros_like(z), jnp.zeros_like(z), jnp.float64(jnp.inf)
        return jnp.exp(jax.lax.fori_loop(0, DESCENT, descend, state)[3])
