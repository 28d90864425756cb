"""Asynchronous Hyperband: ASHA in several brackets at once, which differ in their lowest rung.

Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, MLSys, arXiv:1810.05934; Klein et al.
2020, arXiv:2003.10865, who give each bracket a share of the new configurations in proportion to the number
that Hyperband starts it with. Departure: the shares are kept by turns, where they draw the bracket at random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from bench.protocols import Feedback, Job, budget_epochs
from bench.space import Cube
from strategies import asha, brackets
from strategies.successive_halving import amount, word


@dataclass(frozen=True)
class AsyncHyperband:
    """Gives an idle worker the best promotable trial of the highest rung of all brackets, else a new one.

    `eta`, `min_epoch`, `variant`, `trials`: as in ASHA · `bracket_rule`: as in Hyperband. Trials compete
    within their bracket only. Trial k is row k of the shared start-up design."""

    eta: int = 3
    min_epoch: int = 1
    variant: str = "promotion"
    bracket_rule: str = "algorithm1"
    trials: int | None = None
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: only comparisons and counts

    def __post_init__(self):
        brackets.check(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)
        asha.check(self.max_epoch, self.eta, self.min_epoch, self.variant, self.trials)
        if self.num_trials < 1:
            first = self._table[0][0].until
            raise ValueError(
                f"budget must pay for a job of {first} of {self.max_epoch} epochs, got {self.budget}"
            )

    @property
    def _table(self) -> tuple[brackets.Bracket, ...]:
        return brackets.brackets(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)

    @property
    def _ladders(self) -> asha.Ladders:
        rungs = tuple(tuple(rung.until for rung in bracket) for bracket in self._table)
        order = brackets.turns(tuple(bracket[0].members for bracket in self._table))
        return asha.ladders(rungs, order, budget_epochs(self.budget, self.max_epoch), self.trials)

    @property
    def num_trials(self) -> int:
        return self._ladders.trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> asha.Waiting | asha.Running:
        return asha.begin(self._ladders, self.variant, self.cube.start(key, self.num_trials))

    def ask(self, key: jax.Array, state: Any) -> tuple[Job, Any]:
        return asha.ask(self._ladders, self.eta, self.cube, state)

    def tell(self, state: Any, job: Job, feedback: Feedback) -> Any:
        return asha.tell(self._ladders, self.eta, state, job, feedback)

    def describe(self) -> str:
        """One line: what the budget means."""
        start, table = amount("async_hyperband", self.budget, self.max_epoch), self._table
        if len(table) == 1:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        shares = " : ".join(f"{bracket[0].members:,}" for bracket in table)
        ends = ", ".join(f"{bracket[0].until:,}" for bracket in table)
        return start + (
            f"at most {self.num_trials:,} configurations in {word(len(table))} brackets, {shares}, which "
            f"begin at epochs {ends}; one in {self.eta} goes on from each rung"
        )
