"""Random search that stops a run whose own validation loss has not improved for a while.

Prechelt 1998, Early Stopping - But When?, in Neural Networks: Tricks of the Trade; counted as Keras's
EarlyStopping does: a look improves if its loss is lower than the best by more than min_delta, and `patience`
looks in a row that do not end the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import Cube
from strategies import curve_checks
from strategies.curve_checks import Turns


class State(NamedTuple):
    """turns · curve f64[trials, 2]: a trial's best loss, and its looks since."""

    turns: Turns
    curve: Any


@dataclass(frozen=True)
class Patience:
    """Stops a trial after `patience` looks without improvement by more than `min_delta`, or once it diverges.

    `checks`: looks at a full training, evenly apart. Nothing is compared between trials. Trial k is row k of
    the shared start-up design, so it is random search's trial k."""

    patience: int = 3
    min_delta: float = 0.0
    checks: int = 20
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: only comparisons and counts

    def __post_init__(self):
        if int(self.patience) != self.patience or self.patience < 1:
            raise ValueError(f"patience must be an integer of at least 1, got {self.patience}")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ValueError(f"min_delta must be at least 0, got {self.min_delta}")
        curve_checks.check_settings(self.max_epoch, self._epochs, self.checks, self.budget)

    @property
    def _epochs(self) -> int:
        return budget_epochs(self.budget, self.max_epoch)

    @property
    def _ends(self) -> tuple[int, ...]:
        return curve_checks.looks(self.max_epoch, self.checks)

    @property
    def num_trials(self) -> int:
        return self._epochs // self._ends[0]

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> State:
        none = jnp.stack([jnp.full((self.num_trials,), jnp.inf), jnp.zeros((self.num_trials,))], 1)
        return State(curve_checks.begin(self.cube.start(key, self.num_trials)), none.astype(jnp.float64))

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        job, turns = curve_checks.ask(self.cube, self._ends, state.turns)
        return job, state._replace(turns=turns)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        told = job.trial != NONE
        best, since = state.curve[jnp.maximum(job.trial, 0)]
        loss = jnp.asarray(feedback.loss, jnp.float64)
        improved = loss < best - self.min_delta
        best, since = jnp.where(improved, loss, best), jnp.where(improved, 0.0, since + 1.0)
        on = told & jnp.isfinite(loss) & (since < self.patience) & (job.until < self.max_epoch)
        row = jnp.where(told, job.trial, self.num_trials)
        return State(
            turns=curve_checks.train_on(state.turns, on, job.trial, curve_checks.look_of(self._ends, job)),
            curve=state.curve.at[row].set(jnp.stack([best, since]), mode="drop"),
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        rule = f"after {self.patience} look{'s' * (self.patience > 1)} without improvement"
        return curve_checks.describe(
            "patience", self.budget, self.max_epoch, self._ends, self.num_trials, rule
        )
