"""A target box somewhere in the unit cube: random search against grid search at its barest.

Bergstra & Bengio 2012 (JMLR 13:281): a box of 1 % of the volume, a cube or elongated, that a
strategy must hit. Their miss tells nothing; here it tells, above a step, how far away the box is, so
that strategies with a model have something to fit. The step is what makes "near-optimal" (5 % of the
gap from the optimum to the median) mean the box itself, with p its volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Float, Space


class Instance(NamedTuple):
    """low, high f64[d]: the box's corners in the unit cube."""

    low: Any
    high: Any


@dataclass(frozen=True)
class Box:
    """Loss 0 inside the box, .5 + .5 distance / sqrt(dimension) outside.

    The box lies uniformly inside the cube. `elongated`: its sides are volume^e, e ~ Dirichlet(1, .., 1), so
    that few axes matter much; else it is a cube.
    """

    name: str = "box"
    dimension: int = 3
    volume: float = 0.01
    elongated: bool = False

    max_epoch = 1
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        if self.dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {self.dimension}")
        if not 0 < self.volume < 1:
            raise ValueError(f"volume must lie between 0 and 1, got {self.volume}")

    @property
    def space(self) -> Space:
        return Space({f"x{i}": Float(0.0, 1.0) for i in range(self.dimension)})

    def draw(self, key: jax.Array) -> Instance:
        side_key, place_key = jax.random.split(key)
        share = jnp.full((self.dimension,), 1.0 / self.dimension, jnp.float64)
        if self.elongated:
            # Dirichlet(1): normalised exponentials.
            share = jax.random.exponential(side_key, (self.dimension,), jnp.float64)
            share = share / jnp.sum(share)
        side = self.volume**share
        low = jax.random.uniform(place_key, (self.dimension,), jnp.float64) * (1.0 - side)
        return Instance(low, low + side)

    def reference(self, instance: Instance) -> Reference:
        return Reference(jnp.float64(0.0), jnp.float64(jnp.nan))

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
        x = jnp.stack([hp[f"x{i}"] for i in range(self.dimension)]).astype(jnp.float64)
        outside = jnp.maximum(jnp.maximum(instance.low - x, x - instance.high), 0.0)
        distance = jnp.sqrt(jnp.sum(outside**2) / self.dimension)
        loss = jnp.where(distance > 0, 0.5 + 0.5 * distance, 0.0)
        return (), loss, loss
