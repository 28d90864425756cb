"""The strategy of halving_numpy.py in JAX: every seed a lane of one compiled program."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Job
from bench.space import Cube


class State(NamedTuple):
    x: jnp.ndarray  # f32[num_trials, d]
    loss: jnp.ndarray  # f64[num_trials], of the short training, inf until told
    told: jnp.ndarray  # bool[num_trials]
    step: jnp.ndarray  # i32[], jobs asked


@dataclass(frozen=True)
class Halving:
    """Trains four configurations for a `fraction`, finishes the better two, and starts again."""

    fraction: float = 1 / 3
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    anytime = True
    needs = frozenset({"stop", "resume"})

    def __post_init__(self):
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {self.fraction}")

    @property
    def num_trials(self):
        return 4 * int(np.ceil(self.budget))

    def init(self, key):
        n = self.num_trials
        x = self.cube.start(key, n)
        return State(x, jnp.full(n, jnp.inf, jnp.float64), jnp.zeros(n, bool), jnp.int32(0))

    def ask(self, key, state):
        short = max(1, int(self.max_epoch * self.fraction))
        jobs = 6 if short < self.max_epoch else 4  # of a group: four short ones, then two to the end
        first, i = state.step // jobs * 4, state.step % jobs
        group = jnp.minimum(first, self.num_trials - 4) + jnp.arange(4, dtype=jnp.int32)
        best = group[jnp.argsort(state.loss[group])[jnp.clip(i - 4, 0, 3)]]
        new = i < 4
        waits = (first >= self.num_trials) | (~new & ~state.told[group].all())
        trial = jnp.where(waits, NONE, jnp.where(new, first + i, best)).astype(jnp.int32)
        source = jnp.where(waits | new, NONE, best).astype(jnp.int32)
        until = jnp.where(new, short, self.max_epoch).astype(jnp.int32)
        x = state.x[jnp.clip(trial, 0, self.num_trials - 1)]
        return Job(trial, source, x, until), state._replace(step=jnp.where(waits, state.step, state.step + 1))

    def tell(self, state, job, feedback):
        index = jnp.where((job.trial == NONE) | (job.source != NONE), self.num_trials, job.trial)
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, jnp.inf)
        return state._replace(
            loss=state.loss.at[index].set(loss, mode="drop"), told=state.told.at[index].set(True, mode="drop")
        )
