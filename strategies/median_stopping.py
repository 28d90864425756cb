"""Random search with the median stopping rule: a run ends where its best loss is worse than others' median.

Golovin et al. 2017, Google Vizier, KDD, section 3.2.2 (`rule=vizier`): a trial's best loss so far against the
median of the *running averages*, to the same step, of all completed trials. Optuna's MedianPruner
(`rule=optuna`): against the median of their losses *at* that step; its five start-up trials are the default
of both. Completed are the trials trained to max_epoch, not those that were stopped (the paper does not say;
Optuna's code does). The median of an even number is the mean of the two in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import Cube
from strategies import curve_checks
from strategies.curve_checks import Turns

RULES = ("vizier", "optuna")


class State(NamedTuple):
    """turns · curve f64[trials, looks + 2]: what others would compare with at each look, then the best loss
    and the sum of all · sorted f64[looks, completed]: the completed trials' at each look, lowest first, then
    infinity · completed i32[]."""

    turns: Turns
    curve: Any
    sorted: Any
    completed: Any


@dataclass(frozen=True)
class MedianStopping:
    """Stops a trial at a look where its best loss is above the completed trials' median, or once it diverges.

    `rule`: vizier or optuna · `start`: completed trials before any is stopped · `warmup`: looks at which no
    trial is stopped · `checks`: looks at a full training, evenly apart. Trial k is row k of the shared
    start-up design, so it is random search's trial k."""

    rule: str = "vizier"
    start: int = 5
    warmup: int = 0
    checks: int = 20
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: each sum runs along a lane, in order

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"rule must be {' or '.join(RULES)}, got {self.rule!r}")
        counts = dict(start=self.start, warmup=self.warmup)
        curve_checks.check_settings(self.max_epoch, self._epochs, self.checks, self.budget, **counts)

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
        looks, most = len(self._ends), max(1, self._epochs // self.max_epoch)
        row = jnp.asarray(np.append(np.full(looks + 1, np.inf), 0.0), jnp.float64)
        return State(
            turns=curve_checks.begin(self.cube.start(key, self.num_trials)),
            curve=jnp.tile(row, (self.num_trials, 1)),
            sorted=jnp.full((looks, most), jnp.inf, jnp.float64),
            completed=jnp.int32(0),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        job, turns = curve_checks.ask(self.cube, self._ends, state.turns)
        return job, state._replace(turns=turns)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        looks, most = state.sorted.shape
        told, look = job.trial != NONE, curve_checks.look_of(self._ends, job)
        loss = jnp.asarray(feedback.loss, jnp.float64)
        finite = told & jnp.isfinite(loss)
        curve = state.curve[jnp.maximum(job.trial, 0)]
        best, total = jnp.minimum(curve[looks], loss), curve[looks + 1] + loss
        value = total / (look + 1) if self.rule == "vizier" else loss
        place = np.arange(looks + 2)
        curve = jnp.where(place == look, value, curve)
        curve = jnp.where(place == looks, best, jnp.where(place == looks + 1, total, curve))

        n, column = state.completed, state.sorted[look]
        low, high = column[jnp.maximum(n - 1, 0) // 2], column[jnp.minimum(n // 2, most - 1)]
        median = high - (high - low) * 0.5  # as numpy rounds it
        worse = (n >= self.start) & (n > 0) & (look >= self.warmup) & (best > median)
        on = finite & ~worse & (job.until < self.max_epoch)

        done = finite & (job.until == self.max_epoch)
        mine = curve[:looks, None]
        at = jnp.sum(state.sorted <= mine, 1, dtype=jnp.int32)[:, None]
        later = jnp.concatenate([state.sorted[:, :1], state.sorted[:, :-1]], 1)
        index = np.arange(most)
        merged = jnp.where(index < at, state.sorted, jnp.where(index == at, mine, later))
        return State(
            turns=curve_checks.train_on(state.turns, on, job.trial, look),
            curve=state.curve.at[jnp.where(told, job.trial, self.num_trials)].set(curve, mode="drop"),
            sorted=jnp.where(done, merged, state.sorted),
            completed=n + done.astype(jnp.int32),
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        rule = f"above the median ({self.rule}'s rule) once {self.start} are complete"
        return curve_checks.describe(
            "median_stopping", self.budget, self.max_epoch, self._ends, self.num_trials, rule
        )
