"""The two-parameter example of population-based training: what copying weights does alone.

Jaderberg et al. 2017, Population Based Training of Neural Networks, arXiv:1711.09846, figure 2.
The model's quality is Q = 1.2 - |theta|^2, but it is trained by gradient ascent on the surrogate
1.2 - sum h_i theta_i^2 with step .01 (so theta_i' = theta_i (1 - .02 h_i)), from theta = (.9, .9), 200 steps.
A member with h = (1, 0) improves the first parameter only, one with (0, 1) the second; alone each ends at
Q = .389749. A lineage that was trained under both in turn gets on with both.

Here loss = 1.2 - Q = |theta|^2: lower is better and 0 is perfect. An epoch is ten steps, so that max_epoch 20
has the paper's 200 steps and 20 rounds of one epoch exploit as often as its population does.

The trap: exploring by factors leaves an h of 0 at 0. A copy that takes over the hyperparameters with the
weights, and perturbs them by factors, makes the population one lineage that never trains its other parameter,
and all end where they would have ended alone. In the figure, exploit copies weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Float, Space

START = 0.9  # both parameters of fresh weights
STEP = 0.01  # of gradient ascent
STEPS = 10  # an epoch


@dataclass(frozen=True)
class PopulationToy:
    """Two parameters theta f64[2] are the checkpoint, two weights of the training objective the space.

    Every instance is the same and nothing is random. The best is h = (1, 1) throughout, so the constant and
    the changing optimum agree: what this example asks is whether a strategy gets there."""

    name: str = "population_toy"
    max_epoch: int = 20

    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume", "copy", "change"})

    def __post_init__(self):
        if self.max_epoch < 1:
            raise ValueError(f"max_epoch must be at least 1, got {self.max_epoch}")

    @property
    def space(self) -> Space:
        return Space({f"h{i}": Float(0.0, 1.0, change=True) for i in range(2)})

    def draw(self, key: jax.Array) -> jax.Array:
        """f64[2]: the parameters of fresh weights."""
        return jnp.full((2,), START, jnp.float64)

    def reference(self, instance: jax.Array) -> Reference:
        # Each parameter shrinks by 1 - .02 h_i a step, whatever was before: h = 1 in all steps is best.
        best = jnp.sum(instance**2) * (1.0 - 2.0 * STEP) ** (2 * STEPS * self.max_epoch)
        return Reference(best, best)

    def init(self, instance: jax.Array, key: jax.Array) -> jax.Array:
        return instance

    def cost(
        self, instance: jax.Array, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: one second an epoch."""
        return (until - start).astype(jnp.float64)

    def train(
        self,
        instance: jax.Array,
        key: jax.Array,
        checkpoint: jax.Array,
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        h = jnp.stack([hp["h0"], hp["h1"]]).astype(jnp.float64)
        steps = STEPS * (until - start).astype(jnp.float64)
        theta = checkpoint * (1.0 - 2.0 * STEP * h) ** steps
        loss = jnp.sum(theta**2)
        return theta, loss, loss
