"""The training loop that the real tasks share: one lane of it, to be vmapped.

AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with linear warm-up and cosine decay (1608.03983).
Lanes with different batch sizes walk through an epoch in the same micro-batches: gradients are summed, and
a lane's weights move whenever its own batch is full, so that none waits for another.

The order of the examples comes from a swap-or-not shuffle (Hoang, Morris and Rogaway 2012,
arXiv:1208.1176) and dropout from a counter hash, both seeded with a few words of threefry an epoch: sorting
and drawing every bit by threefry would take as long as the training itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

ROUNDS = 32  # of the shuffle; at 768 examples the place of an example is uniform long before that


class Checkpoint(NamedTuple):
    """params: pytree of f32 · moments: Adam's state (count i32[], two trees like params) ·
    diverged bool[]: training met a number that is not finite, and everything stays as it was before the
    epoch in which it did."""

    params: Any
    moments: Any
    diverged: Any


class Setup(NamedTuple):
    """What one lane trains with, each f32[] but `steps`: rate, the peak learning rate · warm_up, fraction
    of the horizon · final_rate, the last rate as a fraction of the peak · decay, of weights · dropout,
    probability · steps i32[], micro-batches in a batch, a divisor of those in an epoch."""

    rate: Any
    warm_up: Any
    final_rate: Any
    decay: Any
    dropout: Any
    steps: Any


# loss(params, inputs f32[n, ...], labels i32[n], mask f32[n, units]) -> mean loss f32[]
Loss = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


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


def epoch_words(key: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All randomness of an epoch in one draw: words for `shuffle` and for `dropout_mask`."""
    words = jax.random.bits(jax.random.fold_in(key, epoch), (ROUNDS + 1, 2), jnp.uint32)
    return words[:ROUNDS], words[ROUNDS]


def schedule(setup: Setup, position: jax.Array) -> jax.Array:
    """The learning rate f32[] at `position` f32[] in [0, 1] of the horizon."""
    ramp = jnp.minimum(1.0, position / jnp.maximum(setup.warm_up, 1e-6))
    past = jnp.clip((position - setup.warm_up) / (1.0 - setup.warm_up), 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * past))
    return (setup.rate * ramp * (setup.final_rate + (1.0 - setup.final_rate) * cosine)).astype(jnp.float32)


def optimiser(rate: Any = 0.0, decay: Any = 0.0) -> optax.GradientTransformation:
    """AdamW whose rate and decay may be traced: neither is part of its state. Biases are not decayed."""

    def matrices(tree):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)

    return optax.chain(
        optax.scale_by_adam(),
        optax.masked(optax.add_decayed_weights(decay), matrices),
        optax.scale(-rate),
    )


def fresh(params: Any) -> Checkpoint:
    """The checkpoint before the first epoch."""
    return Checkpoint(params, optimiser().init(params), jnp.zeros((), jnp.bool_))


def _choose(flag: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def finite(tree: Any) -> jax.Array:
    """bool[]: every number in the tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def micro_step(
    loss: Loss, carry: tuple, batch: tuple, last: jax.Array, rate: jax.Array, setup: Setup
) -> tuple[tuple, jax.Array]:
    """Adds the gradient of one micro-batch to the total of carry = (params, moments, total); where it is the
    `last` bool[] of its batch, moves the weights by the mean gradient and empties the total. Returns (carry,
    loss f32[])."""
    params, moments, total = carry
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    total = jax.tree.map(jnp.add, total, gradient)
    mean = jax.tree.map(lambda leaf: leaf / setup.steps.astype(jnp.float32), total)
    update, after = optimiser(rate, setup.decay).update(mean, moments, params)
    params = _choose(last, optax.apply_updates(params, update), params)
    moments = _choose(last, after, moments)
    total = jax.tree.map(lambda leaf: jnp.where(last, 0.0, leaf).astype(leaf.dtype), total)
    return (params, moments, total), value


def train_epoch(
    loss: Loss,
    key: jax.Array,
    checkpoint: Checkpoint,
    inputs: jax.Array,
    labels: jax.Array,
    setup: Setup,
    epoch: jax.Array,
    horizon: int,
    micro_batch: int,
    units: int,
) -> Checkpoint:
    """One pass over inputs f32[n, ...] and labels i32[n] in an order of its own; n is a multiple of every
    batch, so no gradient is left over. `key` is the trial's, `epoch` i32[] counts from 0."""
    n = labels.shape[0]
    steps = n // micro_batch
    order_words, mask_words = epoch_words(key, epoch)
    order = shuffle(order_words, n)
    cut = (steps, micro_batch)
    batches = (
        inputs[order].reshape(*cut, *inputs.shape[1:]),
        labels[order].reshape(cut),
        dropout_mask(mask_words, (*cut, units), setup.dropout),
    )

    def step(carry, xs):
        index, batch = xs
        position = (epoch.astype(jnp.float32) + (index + 1).astype(jnp.float32) / steps) / horizon
        last = (index + 1) % setup.steps == 0
        rate = schedule(setup, position)
        return micro_step(loss, carry, batch, last, rate, setup)[0], None

    zero = jax.tree.map(jnp.zeros_like, checkpoint.params)
    carry = (checkpoint.params, checkpoint.moments, zero)
    (params, moments, _), _ = jax.lax.scan(step, carry, (jnp.arange(steps, dtype=jnp.int32), batches))
    sound = ~checkpoint.diverged & finite((params, moments))
    params = _choose(sound, params, checkpoint.params)
    moments = _choose(sound, moments, checkpoint.moments)
    return Checkpoint(params, moments, ~sound)


def range_test(
    loss: Loss,
    key: jax.Array,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    setup: Setup,
    rates: jax.Array,
    micro_batch: int,
    units: int,
) -> jax.Array:
    """Training loss f32[steps] of one batch per rate of f32[steps], before the step at that rate; infinite
    from the first that is not finite on. Batches follow one another through one order of the examples, again
    and again."""
    n = labels.shape[0]
    order_words, mask_words = epoch_words(key, jnp.int32(0))
    order = shuffle(order_words, n)
    zero = jax.tree.map(jnp.zeros_like, params)

    def test(carry, xs):
        params, moments, sound = carry
        number, rate = xs

        def add(index, inner):
            carry, mean = inner
            count = number * setup.steps + index
            rows = jax.lax.dynamic_slice_in_dim(order, count * micro_batch % n, micro_batch)
            salt = mask_words + mix(count.astype(jnp.uint32))  # the masks of a step, as of an epoch, differ
            mask = dropout_mask(salt, (micro_batch, units), setup.dropout)
            batch = (inputs[rows], labels[rows], mask)
            last = index + 1 == setup.steps
            carry, value = micro_step(loss, carry, batch, last, rate, setup)
            return carry, mean + value / setup.steps.astype(jnp.float32)

        inner = ((params, moments, zero), jnp.zeros((), jnp.float32))
        (params, moments, _), mean = jax.lax.fori_loop(jnp.int32(0), setup.steps, add, inner)
        sound = sound & jnp.isfinite(mean)
        return (params, moments, sound), jnp.where(sound, mean, jnp.inf).astype(jnp.float32)

    xs = (jnp.arange(rates.shape[0], dtype=jnp.int32), rates.astype(jnp.float32))
    carry = (params, optimiser().init(params), jnp.ones((), jnp.bool_))
    return jax.lax.scan(test, carry, xs)[1]
