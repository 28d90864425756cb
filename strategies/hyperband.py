"""Hyperband: successive halving in brackets that trade configurations for epochs, synchronous.

Li et al. 2018, Hyperband, JMLR 18:185, Algorithm 1. Departures: a promoted trial resumes from its checkpoint
and costs only the epochs after it; the rounds of brackets repeat, with new trials, until the budget is spent;
a bracket may start while the last rung of the one before it still runs, since nothing is promoted from there
(so that with one epoch it is random search for any number of workers).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax

from bench.protocols import Feedback, Job, budget_epochs
from bench.space import Cube
from strategies import brackets, successive_halving
from strategies.successive_halving import Plan, State, ordinal, word


@dataclass(frozen=True)
class Hyperband:
    """Asks all jobs of a rung, waits until they are told, promotes the best (ties by trial number).

    `eta`: one in eta is promoted · `min_epoch`: the least first rung · `bracket_rule`: "algorithm1" or
    "table1", how many configurations a bracket starts with (the paper has both). A diverged loss is worst but
    counts. Trial k is row k of the shared start-up design, so it is random search's trial k."""

    eta: int = 3
    min_epoch: int = 1
    bracket_rule: str = "algorithm1"
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        brackets.check(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)
        if self.num_trials < 1:
            first = brackets.rungs(self.max_epoch, self.eta, self._largest)[0]
            raise ValueError(
                f"budget must pay for a job of {first} of {self.max_epoch} epochs, got {self.budget}"
            )

    @property
    def _largest(self) -> int:
        return brackets.s_max(self.max_epoch, self.eta, self.min_epoch)

    @property
    def plan(self) -> Plan:
        """The jobs that the budget pays for."""
        table = brackets.brackets(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)
        return successive_halving.plan(table, budget_epochs(self.budget, self.max_epoch))

    @property
    def num_trials(self) -> int:
        return self.plan.trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> State:
        return successive_halving.begin(self.plan, self.cube.start(key, self.num_trials))

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        return successive_halving.ask(self.plan, self.cube, state)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        return successive_halving.tell(self.plan, self.max_epoch, state, job, feedback)

    def describe(self) -> str:
        """One line: what the budget means."""
        epochs = budget_epochs(self.budget, self.max_epoch)
        start = successive_halving.amount("hyperband", self.budget, self.max_epoch)
        if self._largest == 0:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        table = brackets.brackets(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)
        rounds, left = divmod(epochs, sum(map(brackets.epochs, table)))
        if rounds:
            times = {1: "once", 2: "twice"}.get(rounds, f"{rounds} times")
            configurations = rounds * sum(bracket[0].members for bracket in table)
            text = f"all {word(len(table))} brackets {times} ({configurations:,} configurations)"
            part = left >= table[0][0].until
            return start + text + (f", then part of a {ordinal(rounds + 1)} round" if part else "")
        complete = 0
        while left >= brackets.epochs(table[complete]):
            left -= brackets.epochs(table[complete])
            complete += 1
        if not complete:
            text = f"part of the first of {word(len(table))} brackets"
            return start + f"{text} ({self.num_trials:,} configurations)"
        configurations = sum(bracket[0].members for bracket in table[:complete])
        text = f"the first {word(complete)} of {word(len(table))} brackets"
        text += f" ({configurations:,} configurations)"
        return start + text + (", then part of the next" if left >= table[complete][0].until else "")
