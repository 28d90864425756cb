"""An objective of one's own: a narrow ridge whose place differs by instance, trained in ten epochs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Float, Space


@dataclass(frozen=True)
class Ridge:
    """Loss (a - b - shift)^2 + (a - .5)^2 / 10, plus what a tenfold shorter training leaves undone."""

    name: str = "ridge"
    max_epoch: int = 10
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})
    space = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})

    def draw(self, key):
        return jax.random.uniform(key, (), jnp.float64, -0.3, 0.3)

    def reference(self, shift):
        return Reference(jnp.float64(0.0), jnp.float64(jnp.nan))  # a = .5, b = .5 - shift lies in the square

    def init(self, shift, key):
        return ()

    def cost(self, shift, key, hp, start, until):
        return (until - start).astype(jnp.float64)

    def train(self, shift, key, checkpoint, hp, start, until):
        a, b = hp["a"].astype(jnp.float64), hp["b"].astype(jnp.float64)
        undone = jnp.float64(1.0) - until / self.max_epoch
        loss = (a - b - shift) ** 2 + (a - 0.5) ** 2 / 10 + 0.1 * undone
        return (), loss, loss
