"""The training loop that all real tasks share: one lane of it, to be vmapped.

SGD with momentum .9 (Sutskever et al. 2013), Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov
and Hutter 2019, arXiv:1711.05101), with a linear warm-up and a constant, linear, cosine (arXiv:1608.03983) or
stepped rate. Lanes with different batch sizes walk through an epoch in the same micro-batches: gradients are
summed, and a lane's weights move whenever its own batch is full, so that none waits for another.

The order of the examples comes from a swap-or-not shuffle (Hoang, Morris and Rogaway 2012,
arXiv:1208.1176) and dropout from a counter hash, both seeded with a few words of threefry an epoch: sorting
and drawing every bit by threefry would take as long as the training itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.tasks.models import Dropout

ROUNDS = 32  # of the shuffle; at 768 examples the place of an example is uniform long before that
OPTIMISERS = ("sgd", "adam", "adamw")
SGD, ADAMW = 0, 2
SCHEDULES = ("constant", "linear", "cosine", "step")
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's; the first is SGD's momentum too


class Moments(NamedTuple):
    """count i32[], updates so far · first, second: means of the gradient and of its square, trees like the
    parameters; of SGD first is the momentum, and second is not used."""

    count: Any
    first: Any
    second: Any


class Checkpoint(NamedTuple):
    """params: pytree of f32 · moments · diverged bool[]: training met a number that is not finite, and
    everything stays as it was before the epoch in which it did."""

    params: Any
    moments: Moments
    diverged: Any


class Setup(NamedTuple):
    """What one lane trains with, each f32[] but the first and last three. optimiser i32[]: its place in
    OPTIMISERS · rate: the peak learning rate · shape i32[]: place in SCHEDULES · warm_up: fraction of the
    horizon · final_rate: the last rate as a fraction of the peak · decay, of weights · dropout, probability ·
    smoothing, of labels · clip: largest norm of a gradient · steps i32[]: micro-batches in a batch, a divisor
    of those in an epoch."""

    optimiser: Any
    rate: Any
    shape: Any
    warm_up: Any
    final_rate: Any
    decay: Any
    dropout: Any
    smoothing: Any
    clip: Any
    steps: Any


class Examples(NamedTuple):
    """The training set: inputs [all, ...] and labels [all, ...] of the whole data, and which rows i32[n] of
    them are trained on."""

    inputs: Any
    labels: Any
    rows: Any


# loss(params, inputs [n, ...], labels [n, ...], smoothing f32[], dropout) -> mean loss f32[]
Loss = Callable[[Any, jax.Array, jax.Array, jax.Array, Dropout], jax.Array]


def mix(x: jax.Array) -> jax.Array:
    """A bijection of u32 in which each bit depends on all (lowbias32, Wellons 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def shuffle(words: jax.Array, n: int) -> jax.Array:
    """A random permutation of 0..n-1, i32[n], seeded with words u32[ROUNDS, 2], without sorting.

    Each round pairs x with turn - x (mod n) and swaps both or neither, by a coin of the pair."""
    size = jnp.uint32(n)

    def swap(x, word):
        turn = word[0] % size
        partner = jnp.where(turn >= x, turn - x, turn + (size - x))
        coin = mix(jnp.maximum(x, partner) ^ word[1]) >> 31
        return jnp.where(coin == 1, partner, x), None

    x, _ = jax.lax.scan(swap, jnp.arange(n, dtype=jnp.uint32), words)
    return x.astype(jnp.int32)


def dropout_mask(words: jax.Array, shape: tuple[int, ...], rate: jax.Array) -> jax.Array:
    """f32[shape], seeded with words u32[2]: 0 with probability `rate` (rounded to 1/65,536, below 1), else
    1/(1 - rate)."""
    count = 1
    for side in shape:
        count *= side
    bits = mix(mix(jnp.arange(count, dtype=jnp.uint32) ^ words[0]) + words[1]) >> 16
    threshold = (rate * 65536.0).astype(jnp.uint32)
    return jnp.where(bits.reshape(shape) >= threshold, 1.0 / (1.0 - rate), 0.0).astype(jnp.float32)


def dropout_of(words: jax.Array, step: jax.Array, rate: jax.Array) -> Dropout:
    """The dropout of one micro-batch: masks differ by step i32[] and by place in the network."""

    def dropout(place: int, activations: jax.Array) -> jax.Array:
        salt = mix(jnp.uint32(64) * step.astype(jnp.uint32) + jnp.uint32(place))
        return activations * dropout_mask(words + salt, activations.shape, rate)

    return dropout


def keep_all(place: int, activations: jax.Array) -> jax.Array:
    """The dropout of an evaluation."""
    return activations


def epoch_words(key: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All randomness of an epoch in one draw: words for `shuffle` and for `dropout_mask`."""
    words = jax.random.bits(jax.random.fold_in(key, epoch), (ROUNDS + 1, 2), jnp.uint32)
    return words[:ROUNDS], words[ROUNDS]


def schedule(setup: Setup, position: jax.Array) -> jax.Array:
    """The learning rate f32[] at `position` f32[] in [0, 1] of the horizon: a ramp up to the peak, then one
    of SCHEDULES over what is left. Steps go down to the final rate by the same factor at one half and at
    three quarters of it."""
    ramp = jnp.minimum(1.0, position / jnp.maximum(setup.warm_up, 1e-6))
    past = jnp.clip((position - setup.warm_up) / (1.0 - setup.warm_up), 0.0, 1.0)
    linear, cosine = 1.0 - past, 0.5 * (1.0 + jnp.cos(jnp.pi * past))
    step = setup.final_rate ** (0.5 * ((past >= 0.5).astype(jnp.float32) + (past >= 0.75)))
    falls = [setup.final_rate + (1.0 - setup.final_rate) * fall for fall in (linear, cosine)]
    shape = jnp.select([setup.shape == i for i in range(3)], [jnp.ones_like(past), *falls], step)
    return (setup.rate * ramp * shape).astype(jnp.float32)


def fresh(params: Any) -> Checkpoint:
    """The checkpoint before the first epoch."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Checkpoint(params, Moments(jnp.zeros((), jnp.int32), zeros, zeros), jnp.zeros((), jnp.bool_))


def _choose(flag: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def finite(tree: Any) -> jax.Array:
    """bool[]: every number in the tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def update(
    params: Any, moments: Moments, total: Any, last: jax.Array, rate: jax.Array, setup: Setup
) -> tuple[Any, Moments]:
    """Weights and moments after the step by the mean of `total`, a sum over a batch's micro-batches, where
    that is the `last` bool[] of its batch; else as they are. Biases and gains are not decayed; decay is part
    of the gradient, but of AdamW's step."""
    size = jnp.sqrt(sum((leaf * leaf).sum() for leaf in jax.tree.leaves(total)))
    steps = setup.steps.astype(jnp.float32)
    factor = 1.0 / jnp.maximum(steps, size / setup.clip)
    count = moments.count + last
    sgd, apart = setup.optimiser == SGD, setup.optimiser == ADAMW
    share = jnp.where(sgd, 1.0, 1.0 - FIRST_DECAY).astype(jnp.float32)
    seen = count.astype(jnp.float32)
    first_bias, second_bias = 1.0 - FIRST_DECAY**seen, 1.0 - SECOND_DECAY**seen
    inside, outside = (jnp.where(flag, setup.decay, 0.0) for flag in (~apart, apart))

    def leaf(weight, first, second, gradient):
        gradient = gradient * factor
        if weight.ndim > 1:
            gradient = gradient + inside * weight
        new_first = FIRST_DECAY * first + share * gradient
        new_second = SECOND_DECAY * second + (1.0 - SECOND_DECAY) * gradient * gradient
        adam = (new_first / first_bias) / (jnp.sqrt(new_second / second_bias) + EPSILON)
        step = jnp.where(sgd, new_first, adam)
        if weight.ndim > 1:
            step = step + outside * weight
        new = (weight - rate * step, new_first, jnp.where(sgd, second, new_second))
        old = (weight, first, second)
        return tuple(jnp.where(last, a, b).astype(jnp.float32) for a, b in zip(new, old, strict=True))

    leaves, form = jax.tree.flatten(params)
    parts = [jax.tree.leaves(tree) for tree in (moments.first, moments.second, total)]
    after = [leaf(*each) for each in zip(leaves, *parts, strict=True)]
    weights, first, second = (jax.tree.unflatten(form, part) for part in zip(*after, strict=True))
    return weights, Moments(count, first, second)


def micro_step(
    loss: Loss, carry: tuple, batch: tuple, place: jax.Array, rate: jax.Array, setup: Setup
) -> tuple[tuple, jax.Array]:
    """Adds the gradient of one micro-batch, the `place` i32[]-th of its batch, to the total of carry =
    (params, moments, total), and moves the weights where the batch is full. `batch`: the arguments of the
    loss after the parameters. Returns (carry, loss f32[])."""
    params, moments, total = carry
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    total = jax.tree.map(lambda a, b: jnp.where(place == 0, 0.0, a).astype(b.dtype) + b, total, gradient)
    params, moments = update(params, moments, total, place + 1 == setup.steps, rate, setup)
    return (params, moments, total), value


def train_epoch(
    loss: Loss,
    key: jax.Array,
    checkpoint: Checkpoint,
    examples: Examples,
    setup: Setup,
    epoch: jax.Array,
    horizon: int,
    micro_batch: int,
) -> Checkpoint:
    """One pass over the examples in an order of its own; their number is a multiple of every batch, so no
    gradient is left over. `key` is the trial's, `epoch` i32[] counts from 0."""
    n = examples.rows.shape[0]
    steps = n // micro_batch
    order_words, mask_words = epoch_words(key, epoch)
    order = examples.rows[shuffle(order_words, n)].reshape(steps, micro_batch)

    def step(carry, xs):
        index, rows = xs
        position = (epoch.astype(jnp.float32) + (index + 1).astype(jnp.float32) / steps) / horizon
        dropout = dropout_of(mask_words, index, setup.dropout)
        batch = (examples.inputs[rows], examples.labels[rows], setup.smoothing, dropout)
        rate = schedule(setup, position)
        return micro_step(loss, carry, batch, index % setup.steps, rate, setup)[0], None

    zero = jax.tree.map(jnp.zeros_like, checkpoint.params)
    carry = (checkpoint.params, checkpoint.moments, zero)
    (params, moments, _), _ = jax.lax.scan(step, carry, (jnp.arange(steps, dtype=jnp.int32), order))
    sound = ~checkpoint.diverged & finite((params, moments))
    params = _choose(sound, params, checkpoint.params)
    moments = _choose(sound, moments, checkpoint.moments)
    return Checkpoint(params, moments, ~sound)


def range_test(
    loss: Loss,
    key: jax.Array,
    params: Any,
    examples: Examples,
    setup: Setup,
    rates: jax.Array,
    micro_batch: int,
) -> jax.Array:
    """Training loss f32[steps] of one batch per rate of f32[steps], before the step at that rate; infinite
    from the first that is not finite on. Batches follow one another through one order of the examples, again
    and again."""
    n = examples.rows.shape[0]
    order_words, mask_words = epoch_words(key, jnp.int32(0))
    order = examples.rows[shuffle(order_words, n)].reshape(-1, micro_batch)
    zero = jax.tree.map(jnp.zeros_like, params)

    def test(carry, xs):
        params, moments, sound = carry
        number, rate = xs

        def add(index, inner):
            carry, mean = inner
            count = number * setup.steps + index
            rows = order[count % order.shape[0]]
            dropout = dropout_of(mask_words, count, setup.dropout)
            batch = (examples.inputs[rows], examples.labels[rows], setup.smoothing, dropout)
            carry, value = micro_step(loss, carry, batch, index, rate, setup)
            return carry, mean + value / setup.steps.astype(jnp.float32)

        inner = ((params, moments, zero), jnp.zeros((), jnp.float32))
        (params, moments, _), mean = jax.lax.fori_loop(jnp.int32(0), setup.steps, add, inner)
        sound = sound & jnp.isfinite(mean)
        return (params, moments, sound), jnp.where(sound, mean, jnp.inf).astype(jnp.float32)

    xs = (jnp.arange(rates.shape[0], dtype=jnp.int32), rates.astype(jnp.float32))
    carry = (params, fresh(params).moments, jnp.ones((), jnp.bool_))
    return jax.lax.scan(test, carry, xs)[1]
