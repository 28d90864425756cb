"""The control: the default configuration, trained once in full, whatever the budget.

What a tuner must beat before it has earned its budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from bench.protocols import Feedback, Job
from bench.space import Cube
from strategies import design


@dataclass(frozen=True)
class Defaults:
    """Trains the default configuration to max_epoch, then waits for ever."""

    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    note = "one training, of the default configuration, whatever the budget"
    anytime = True
    needs = frozenset()
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        design.trainings(self.budget)

    @property
    def num_trials(self) -> int:
        return 1

    def init(self, key: jax.Array) -> design.Design:
        """The one-point design; uses no randomness."""
        return design.lay_out(self.cube.fix(jnp.asarray(self.cube.default, jnp.float32))[None])

    def ask(self, key: jax.Array, state: design.Design) -> tuple[Job, design.Design]:
        return design.ask(self.cube, self.max_epoch, state)

    def tell(self, state: design.Design, job: Job, feedback: Feedback) -> design.Design:
        return design.tell(state, job)
