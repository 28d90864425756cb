"""Differential evolution over the unit cube, for references that no formula gives.

Storn & Price 1997, Differential Evolution, J. Global Optimization 11:341, with the mutation
current-to-pbest/1 of Zhang & Sanderson 2009, JADE, IEEE Trans. Evol. Comput. 13:945: members are pulled to
any of the best few, since those that are all pulled to the best one soon stand where it does. Points are
clipped to the cube because schedules are best at its faces.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

ELITE, CROSSOVER = 0.3, 0.7


def minimise(
    loss: Callable[[jax.Array], jax.Array], key: jax.Array, dimension: int, population: int, generations: int
) -> jax.Array:
    """The lowest loss f64[] seen of a function of x f64[dimension]; traced."""
    losses, d, few = jax.vmap(loss), dimension, max(2, int(ELITE * population))
    member = jnp.arange(population)

    def generation(i, state):
        x, value = state
        u = jax.random.uniform(jax.random.fold_in(key, i), (population, d + 5), jnp.float64)
        # Donors at distinct random distances around the ring of members.
        one = (member + 1 + (u[:, -1] * (population // 2 - 1)).astype(int)) % population
        two = (member - 1 - (u[:, -2] * (population // 2 - 1)).astype(int)) % population
        pull, spread = 0.3 + 0.6 * u[:, -3:-2], 0.3 + 0.6 * u[:, -4:-3]
        towards = jnp.argsort(value)[(u[:, -5] * few).astype(int)]
        trial = x + pull * (x[towards] - x) + spread * (x[one] - x[two])
        trial = jnp.clip(jnp.where(u[:, :d] < CROSSOVER, trial, x), 0.0, 1.0)
        found = losses(trial)
        better = found <= value
        return jnp.where(better[:, None], trial, x), jnp.where(better, found, value)

    x = jax.random.uniform(jax.random.fold_in(key, generations), (population, d), jnp.float64)
    return jnp.min(jax.lax.fori_loop(0, generations, generation, (x, losses(x)))[1])
