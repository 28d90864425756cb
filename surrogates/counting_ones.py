"""Counting ones: bits and probabilities, the latter seen through samples, of which an epoch draws some.

Falkner et al. 2018 (BOHB, arXiv:1807.01774): minimise -(sum of the categorical bits + sum over the
continuous p_i of the mean of b Bernoulli(p_i)). The paper's budgets b = 9 ... 729 are epochs 1 ... 81 of 9
samples each, so that eta = 3 has the rungs 1, 3, 9, 27, 81; its sizes are 4, 8, 16 and 32 of either kind.

A proxy fidelity: the true value, -(sum of bits + sum of p_i), is the same at every epoch, but what is told
early is a noisier stand-in for it, of variance sum p_i (1 - p_i) / b. Among all told losses the lowest would
be a lucky one of b = 9; the proxy's rule, the lowest of the highest epoch reached, is the paper's.

Departures. A checkpoint holds how many samples were 1: a resumed trial adds to them, where the paper's code
draws all b afresh and charges all of them. And an instance takes some bits and probabilities the other way
round, so that no corner of the cube is a gift; the sum being symmetric, more would change nothing.

The samples are exact, to 2^-30: an epoch's share of an axis is Binomial(9, p), by inversion from 32 random
bits that depend on the trial's key, the epoch and the axis only. The bits are a hash of a counter (two rounds
of a 32-bit finaliser, seeded from the key) rather than Threefry's, which would cost several times as much as
all the rest; only sums of many of them are ever seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Axis, Choice, Float, Space, check_whole

BITS = 30  # of a random word that are compared: thresholds up to 2^30 fit an i32


class Instance(NamedTuple):
    """flipped_bits bool[categorical] · flipped bool[continuous]: axes whose best end is 0."""

    flipped_bits: Any
    flipped: Any


def mixed(word: jax.Array) -> jax.Array:
    """A bijection of u32[...] after which each bit depends on every bit (Wellons 2018, lowbias32)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def thresholds(p: jax.Array, samples: int) -> jax.Array:
    """Distribution function of Binomial(samples, p) at 0 ... samples - 1 in units of 2^-BITS, i32[...,
    samples].

    Exact at p = 0 (all 1) and p = 1 (all 0)."""
    rest = 1.0 - p
    ones, zeros = [jnp.ones_like(p)], [jnp.ones_like(p)]
    for _ in range(samples):
        ones.append(ones[-1] * p)
        zeros.append(zeros[-1] * rest)
    masses = [math.comb(samples, k) * ones[k] * zeros[samples - k] for k in range(samples)]
    below = jnp.cumsum(jnp.stack(masses, -1), axis=-1)
    return jnp.round(jnp.minimum(below, 1.0) * 2.0**BITS).astype(jnp.int32)


@dataclass(frozen=True)
class CountingOnes:
    """Counting ones of `categorical` bits and `continuous` probabilities, at least one of the latter.

    `samples` of every probability an epoch, 1 to 32, and `max_epoch` epochs. `flip` false: 1 is the best end
    of every axis, for tests. The checkpoint is i32[], the samples so far that were 1, over all axes."""

    name: str = "counting_ones"
    categorical: int = 4
    continuous: int = 4
    samples: int = 9
    max_epoch: int = 81
    flip: bool = True

    fidelity = "proxy"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        check_whole("categorical", self.categorical, 0)
        check_whole("continuous", self.continuous, 1)
        check_whole("samples", self.samples, 1, 32)
        check_whole("max_epoch", self.max_epoch, 1)

    @property
    def space(self) -> Space:
        axes: dict[str, Axis] = {f"bit{i}": Choice((0, 1)) for i in range(self.categorical)}
        return Space(axes | {f"p{i}": Float(0.0, 1.0) for i in range(self.continuous)})

    def draw(self, key: jax.Array) -> Instance:
        if not self.flip:
            return Instance(jnp.zeros((self.categorical,), bool), jnp.zeros((self.continuous,), bool))
        flips = jax.random.bits(key, (self.categorical + self.continuous,), jnp.uint32) >> 31 == 1
        return Instance(flips[: self.categorical], flips[self.categorical :])

    def reference(self, instance: Instance) -> Reference:
        return Reference(jnp.float64(-(self.categorical + self.continuous)), jnp.float64(jnp.nan))

    def init(self, instance: Instance, key: jax.Array) -> jax.Array:
        return jnp.int32(0)

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: one second an epoch."""
        return (until - start).astype(jnp.float64)

    def _drawn(self, key: jax.Array, p: jax.Array, start: jax.Array, until: jax.Array) -> jax.Array:
        """How many samples i32[] of the epochs after `start` up to `until` are 1, over all axes, p f64[n]."""
        # Barriers, else the compiler computes these anew for every sample.
        seeds, levels = jax.lax.optimization_barrier(
            (jax.random.bits(key, (2,), jnp.uint32), thresholds(p, self.samples))
        )
        epoch = jnp.arange(self.max_epoch, dtype=jnp.int32)
        counts = jnp.zeros((self.max_epoch,), jnp.int32)
        # Axis by axis and without a reduction inside: the one form, of those tried, that runs as vectors.
        for axis in range(self.continuous):
            counter = epoch.astype(jnp.uint32) + jnp.uint32(axis * self.max_epoch)
            words = mixed(mixed(counter + seeds[0]) ^ seeds[1])
            words = (words >> (32 - BITS)).astype(jnp.int32)
            for k in range(self.samples):
                counts = counts + (words >= levels[axis, k]).astype(jnp.int32)
        return jnp.sum(jnp.where((epoch >= start) & (epoch < until), counts, 0), dtype=jnp.int32)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: jax.Array,
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        p = jnp.stack([hp[f"p{i}"] for i in range(self.continuous)]).astype(jnp.float64)
        p = jnp.where(instance.flipped, 1.0 - p, p)
        ones = jnp.float64(0)
        if self.categorical:
            bits = jnp.stack([hp[f"bit{i}"] for i in range(self.categorical)]) == 1
            ones = jnp.sum(bits ^ instance.flipped_bits, dtype=jnp.float64)
        count = checkpoint + self._drawn(key, p, start, until)
        mean = count.astype(jnp.float64) / (self.samples * until).astype(jnp.float64)
        return count, -(ones + mean), -(ones + jnp.sum(p))
