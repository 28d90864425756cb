"""Learning curves of ifBO's prior: a random network turns hyperparameters into curves that cross and diverge.

Rakotoarison et al. 2024 (arXiv:2404.16795), appendix, and where that is silent the authors' released code.
At the share t = epoch / max_epoch an accuracy curve is the sum, with weights Dirichlet(1, 1, 1, 1), of

    pow    1 - ((P^(1/a) - 1) t/s + 1)^-a,            a ~ LogNormal(1, 1)
    exp    1 - P^-((t/s)^a),                          a ~ LogNormal(0, 1)
    log    1 - ln a / ln((a^P - a) t/s + a),          a ~ 1 + LogNormal(-4, 1)
    hill   1 - 1 / ((P - 1) (t/s)^a + 1),             a ~ LogNormal(.5, .5)

each scaled to rise from Y0 towards Yinf, of which it has left 1/P at its saturation s, P ~ 10^U(0, 3) and s
the curve's share (exponential, over the largest of the four) of 10^N(0, 1). Beyond s its clock runs at the
rate 1 - Exp(1): mostly slower, often backwards, so that the curve falls again, and before its start it drops
to 0 as an exponential. Y0 is the instance's, the lesser of two uniforms, Yinf ~ U(Y0, Ymax), Ymax the greater
of the two with probability 1/4, else 1. Told losses have a standard deviation LogNormal(-5, 1) and are cut to
[0, 1].

All of these, but for Y0 and Ymax, come out of a network of tanh units with random weights, fed with the
hyperparameters; its outputs become uniform through their own distribution function, then whatever law is
asked for. Within one instance they hence need not be uniform: some instances are nearly flat, others rugged.

Departures: the network has WIDTH units where the authors' has 36 to 149, its weights scaled so that the sums
have the same variance (of the outputs' law, nothing is seen to change); no weight is dropped, and the network
has no noise of its own (theirs is a thousandth). The loss is 1 - accuracy.

Spearman correlation with the loss at the last epoch of 50 and the share of pairs of curves that change their
order after an epoch; 256 random configurations, median and quartiles of 256 instances:

    after epoch                1          2          5         10         25
    Spearman, median         .52        .64        .78        .85        .95
    quartiles            .07 .77    .21 .83    .43 .90    .67 .94    .89 .98
    pairs that cross         .31        .25        .19        .14        .06

One instance in ten is so flat that all its ends lie within .03. Values are those of the authors' code to
rounding, but within .01 where a curve runs back past its start: they take its slope there by a difference.

There is no formula for the optimum. `make_reference` searches it, often rather than long, since on a rugged
instance one search in three misses the lowest basin: the best of random configurations, then differential
evolution (Storn & Price 1997), the loss of a configuration being its lowest over the epochs.
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
from bench.space import Float, Space, check_real, check_whole

WIDTH, OUTPUTS = 16, 23
LAYERS = (8, 15)  # of weights, least and most
UNITS = (36, 149)  # of the authors' network
SCALE = (0.089, 0.193)  # standard deviation of its weights
EPSILON = 2e-6  # uniforms keep that far from 0 and 1, as in the authors' table of outputs: normals are finite
START = 1.5e-9  # where the slope at a curve's start is taken: some have none at 0
# The reference: so many searches, of so many configurations tried, with a tenth of the coordinates at 0 or 1,
# and their evolution.
SEARCHES, SEARCHED, MEMBERS, GENERATIONS, FACES = 48, 2048, 32, 80, 0.1


class Instance(NamedTuple):
    """first f64[WIDTH, d], hidden f64[most - 2, WIDTH, WIDTH], last f64[OUTPUTS, WIDTH]: weights · biases
    f64[most - 1, WIDTH], offsets f64[OUTPUTS] · layers i32[], how many of the hidden count · low, high f64[]:
    accuracy of fresh weights, and the highest that any configuration may strive for."""

    first: Any
    hidden: Any
    last: Any
    biases: Any
    offsets: Any
    layers: Any
    low: Any
    high: Any


class Parameters(NamedTuple):
    """A configuration's curves. saturation, precision, rate, shape, weight f64[4]: s, P, the clock's rate
    beyond s, a and the weight of pow, exp, log, hill · top f64[]: Yinf · deviation f64[]: of the noise."""

    saturation: Any
    precision: Any
    rate: Any
    shape: Any
    weight: Any
    top: Any
    deviation: Any


def uniforms(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The distribution function of the network's outputs at f32[...], and one minus it.

    Fitted to this network's at 1 to 8 inputs, from which it is nowhere off by more than .002: on either side
    an exponential law, its rate 2 near 0 and 1.67 far out."""
    size = jnp.abs(outputs)
    tail = 0.5 * jnp.exp(-size * (1.669 + 0.370 * jnp.exp(-((size / 0.760) ** 2))))
    tail = jnp.maximum(tail, EPSILON)
    return jnp.where(outputs > 0, 1.0 - tail, tail), jnp.where(outputs > 0, tail, 1.0 - tail)


def network(instance: Instance, x: jax.Array) -> jax.Array:
    """Outputs f32[OUTPUTS] at x f32[d] in the unit cube.

    Sums in double, rounded to single precision before each tanh: the layers amplify rounding up to a
    thousandfold, and sums of another order, in another program, would else give another loss in the fifth
    digit."""

    def layer(weights, biases, h):
        return (weights @ h.astype(jnp.float64) + biases).astype(jnp.float32)

    def hidden(i, h):
        return jnp.tanh(layer(instance.hidden[i], instance.biases[i + 1], h))

    h = jnp.tanh(layer(instance.first, instance.biases[0], (x - 0.5) * math.sqrt(12.0)))
    h = jax.lax.fori_loop(0, instance.layers - 2, hidden, h)
    return layer(instance.last, instance.offsets, h)


def parameters(instance: Instance, x: jax.Array) -> Parameters:
    """The curves of the configuration at x f32[d] in the unit cube."""
    u, tail = uniforms(network(instance, x))
    normal = jax.scipy.special.ndtri(u[:6])
    weight, share, rate = -jnp.log(tail[6:10]), -jnp.log(tail[10:14]), 1.0 + jnp.log(tail[14:18])
    longest = 10.0 ** normal[4]
    shape = jnp.exp(jnp.array([1.0, 0.0, -4.0, 0.5]) + jnp.array([1.0, 1.0, 1.0, 0.5]) * normal[:4])
    found = Parameters(
        saturation=longest * share / jnp.max(share),
        precision=10.0 ** (3.0 * u[18:22]),
        rate=rate,
        shape=shape + jnp.array([0.0, 0.0, 1.0, 0.0]),
        weight=weight / jnp.sum(weight),
        top=u[22],
        deviation=jnp.exp(normal[5] - 5.0),
    )
    found = jax.tree.map(lambda a: a.astype(jnp.float64), found)
    return found._replace(top=instance.low + (instance.high - instance.low) * found.top)


def accuracy(instance: Instance, p: Parameters, t: jax.Array) -> jax.Array:
    """Accuracy f64[] before noise at t f64[], the share of max_epoch, above 0."""
    x = jnp.where(t < p.saturation, t, p.saturation + p.rate * (t - p.saturation))
    late = jnp.maximum(x, START)
    s, log_p, a = p.saturation, jnp.log(p.precision), p.shape
    # For each family, what is left of the way, and how fast it falls at START; pow and log by their argument,
    # exp and hill by their power of time.
    speed = (jnp.exp(jnp.minimum(log_p[0] / a[0], 600.0)) - 1.0) / s[0]
    base = jnp.stack([late[0], jnp.float64(START)]) * speed + 1.0
    left_pow = jnp.exp(-a[0] * jnp.log(base))
    power = jnp.exp(a[1] * jnp.log(jnp.stack([late[1], jnp.float64(START)]) / s[1]))
    left_exp = jnp.exp(-log_p[1] * power)
    log_a = jnp.log(a[2])
    width = (jnp.exp(jnp.minimum(log_a * p.precision[2], 600.0)) - a[2]) / s[2]
    argument = width * jnp.stack([late[2], jnp.float64(START)]) + a[2]
    left_log = log_a / jnp.log(argument)
    odds = (p.precision[3] - 1.0) * jnp.exp(a[3] * jnp.log(jnp.stack([late[3], jnp.float64(START)]) / s[3]))
    left_hill = 1.0 / (odds + 1.0)
    left = jnp.stack([left_pow[0], left_exp[0], left_log[0], left_hill[0]])
    slope = jnp.stack(
        [
            a[0] * speed * left_pow[1] / base[1],
            a[1] * log_p[1] * power[1] * left_exp[1] / START,
            left_log[1] ** 2 * width / (log_a * argument[1]),
            a[3] * odds[1] * left_hill[1] ** 2 / START,
        ]
    )
    rise = p.top - instance.low
    # Before the start an exponential with the start's slope.
    early = instance.low * jnp.exp(jnp.minimum(x, 0.0) * slope * rise / instance.low)
    return jnp.sum(p.weight * jnp.where(x > 0, p.top - rise * left, early))


@dataclass(frozen=True)
class IfBO:
    """Curves of ifBO's prior over `dimension` axes, at least 1.

    `max_epoch` at least 2, which is 1 on the prior's clock. `noise`: the told loss's standard deviation over
    the prior's, which differs between configurations."""

    name: str = "ifbo"
    dimension: int = 4
    max_epoch: int = 50
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
        d, depth = self.dimension, LAYERS[1] - 2
        u = jax.random.uniform(jax.random.fold_in(key, 0), (6,), jnp.float64)
        layers = LAYERS[0] + jnp.floor(u[0] * (LAYERS[1] + 1 - LAYERS[0])).astype(jnp.int32)
        units = UNITS[0] + jnp.floor(u[1] * (UNITS[1] + 1 - UNITS[0]))
        scale = SCALE[0] + u[2] * (SCALE[1] - SCALE[0])
        # Sums over fewer units, of as much variance.
        narrow = scale * jnp.sqrt(units / WIDTH)
        shapes = ((WIDTH, d), (depth, WIDTH, WIDTH), (OUTPUTS, WIDTH), (depth + 1, WIDTH), (OUTPUTS,))
        sizes = [math.prod(shape) for shape in shapes]
        normal = jax.random.normal(jax.random.fold_in(key, 1), (sum(sizes),), jnp.float64)
        parts = jnp.split(normal, np.cumsum(sizes)[:-1])
        first, hidden, last, biases, offsets = (
            part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
        )
        return Instance(
            first=scale * first,
            hidden=narrow * hidden,
            last=narrow * last,
            biases=scale * biases,
            offsets=scale * offsets,
            layers=layers,
            low=jnp.minimum(u[3], u[4]),
            high=jnp.where(u[5] < 0.25, jnp.maximum(u[3], u[4]), 1.0),
        )

    def make_reference(self, instance: Instance, key: jax.Array) -> Reference:
        """The lowest loss over configurations and epochs that a search finds (see the module)."""
        epochs = jnp.arange(1, self.max_epoch + 1, dtype=jnp.float64) / self.max_epoch
        d = self.dimension

        def lowest(x):
            p = parameters(instance, x)
            best = jnp.max(jax.vmap(lambda t: accuracy(instance, p, t))(epochs))
            return 1.0 - jnp.clip(best, 0.0, 1.0)

        batch = jax.vmap(lowest)

        def search(key):
            # Many optima lie on a face of the cube, where none of the uniform points does.
            u = jax.random.uniform(jax.random.fold_in(key, GENERATIONS), (SEARCHED, 2 * d), jnp.float32)
            x, face = u[:, :d], u[:, d:]
            x = jnp.where(face < FACES, jnp.round(x), x)
            losses = jax.lax.map(batch, x.reshape(-1, MEMBERS, d)).reshape(SEARCHED)
            # The best, and as many that are there by chance, lest all lie in one basin.
            order = jnp.argsort(losses)
            chosen = jnp.concatenate([order[: MEMBERS // 2], jnp.arange(MEMBERS // 2)])

            def generation(i, state):
                x, losses = state
                u = jax.random.uniform(jax.random.fold_in(key, i), (MEMBERS, d + 4), jnp.float32)
                aim = x[jnp.argsort(losses)[(u[:, -1] * MEMBERS / 8).astype(jnp.int32)]]
                one, two = (x[(u[:, -k] * MEMBERS).astype(jnp.int32)] for k in (2, 3))
                scale = 0.3 + 0.6 * u[:, -4:-3]
                child = x + scale * (aim - x) + scale * (one - two)
                child = jnp.clip(jnp.where(u[:, :d] < 0.9, child, x), 0.0, 1.0)
                found = batch(child)
                better = found <= losses
                return jnp.where(better[:, None], child, x), jnp.where(better, found, losses)

            state = x[chosen], losses[chosen]
            return jnp.min(jax.lax.fori_loop(0, GENERATIONS, generation, state)[1])

        best = jnp.min(jax.vmap(search)(jax.random.split(key, SEARCHES)))
        return Reference(best, jnp.float64(jnp.nan))

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
        x = jnp.stack([hp[name] for name in self.space.axes]).astype(jnp.float32)
        p = parameters(instance, x)
        value = accuracy(instance, p, until.astype(jnp.float64) / self.max_epoch)
        true_loss = 1.0 - jnp.clip(value, 0.0, 1.0)
        loss = true_loss
        if self.noise > 0:
            # Of the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(key, until)
            noise = jax.random.normal(epoch_key, (), jnp.float64)
            loss = jnp.clip(loss + self.noise * p.deviation * noise, 0.0, 1.0)
        return (), loss, true_loss
