"""1-Epoch: train many configurations for one epoch each, keep the best K, train those in full.

Egele, Guyon, Sun & Balaprakash 2023, Is One Epoch All You Need For Multi-Fidelity Hyperparameter
Optimization?, arXiv:2307.15422: a baseline reported to be as good as multi-fidelity methods at about a tenth
of their cost. Departures: those kept resume from their checkpoints; the number of configurations is what the
budget leaves beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax

from bench.protocols import Feedback, Job, budget_epochs
from bench.space import Cube
from strategies import brackets, successive_halving
from strategies.brackets import Bracket
from strategies.successive_halving import Plan, State


@dataclass(frozen=True)
class OneEpoch:
    """One rung of configurations, then the `keep` best of them (ties by trial number) to max_epoch.

    `keep`: trained in full, but at most half of the budget's trainings, and at least one · `first_epoch`: to
    which all are trained. A diverged loss is worst but counts. Trial k is row k of the shared start-up
    design, so it is random search's trial k. What is spent first depends on the whole budget: not anytime."""

    keep: int = 3
    first_epoch: int = 1
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        if int(self.keep) != self.keep or self.keep < 1:
            raise ValueError(f"keep must be an integer of at least 1, got {self.keep}")
        brackets.check_epoch("first_epoch", self.first_epoch, self.max_epoch)
        if self._epochs < self.max_epoch:
            raise ValueError(f"budget must be at least 1 full training, got {self.budget}")

    @property
    def _epochs(self) -> int:
        return budget_epochs(self.budget, self.max_epoch)

    @property
    def _bracket(self) -> Bracket:
        return brackets.screening(self.max_epoch, self._epochs, self.keep, self.first_epoch)

    @property
    def _plan(self) -> Plan:
        return successive_halving.plan((self._bracket,), brackets.epochs(self._bracket))

    @property
    def num_trials(self) -> int:
        return self._plan.trials

    @property
    def anytime(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> State:
        return successive_halving.begin(self._plan, self.cube.start(key, self.num_trials))

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        return successive_halving.ask(self._plan, self.cube, state)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        return successive_halving.tell(self._plan, self.max_epoch, state, job, feedback)

    def describe(self) -> str:
        """One line: what the budget means."""
        start, bracket = successive_halving.amount("one_epoch", self.budget, self.max_epoch), self._bracket
        if len(bracket) == 1:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        epochs = f"{self.first_epoch:,} epoch{'s' * (self.first_epoch > 1)}"
        first, kept = bracket[0].members, bracket[1].members
        return start + f"{first:,} configurations of {epochs}, the best {kept:,} of them in full"
