"""Differential evolution over the unit cube, for references that no formula gives.

Storn & Price 1997, Differential Evolution, J. Global Optimization 11:341, variant current-to-best/1/bin;
points are clipped to the cube because schedules are best at its faces.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def minimise(
    loss: Callable[[jax.Array], jax.Array], key: jax.Array, dimension: int, population: int, generations: int
) -> jax.Array:
    """The lowest loss f64[] seen of a function of x f64[dimension]; traced."""
    losses, d = jax.vmap(loss), dimension

    def generation(i, state):
        x, value = state
        u = jax.random.uniform(jax.random.fold_in(key, i), (population, d + 4), jnp.float64)
        # Donors at distinct random distances around the ring of members.
        one = (jnp.arange(population) + 1 + (u[:, -1] * (population // 2 - 1)).astype(int)) % population
        two = (jnp.arange(population) - 1 - (u[:, -2] * (population // 2 - 1)).astype(int)) % population
        pull, spread = 0.3 + 0.6 * u[:, -3:-2], 0.3 + 0.6 * u[:, -4:-3]
        trial = x + pull * (x[jnp.argmin(value)] - x) + spread * (x[one] - x[two])
        trial = jnp.clip(jnp.where(u[:, :d] < 0.9, trial, x), 0.0, 1.0)
        found = losses(trial)
        better = found <= value
        return jnp.where(better[:, None], trial, x), jnp.where(better, found, value)

    x = jax.random.uniform(jax.random.fold_in(key, generations), (population, d), jnp.float64)
    return jnp.min(jax.lax.fori_loop(0, generations, generation, (x, losses(x)))[1])
