"""Hyperband: successive halving in brackets that trade configurations for epochs, synchronous.

Li et al. 2018, Hyperband, JMLR 18:185, Algorithm 1. Departures: a promoted trial resumes from its checkpoint
and costs only the epochs after it; the rounds of brackets repeat, with new trials, until the budget is spent;
a bracket may start while the last rung of the one before it still runs, since nothing is promoted from there
(so that with one epoch it is random search for any number of workers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs, wait
from bench.space import Cube
from strategies import brackets

DIVERGED = float(np.finfo(np.float64).max)  # worse than any number, but a member; infinity is none
NEVER = 2**30
WORDS = "no one two three four five six seven eight nine ten eleven twelve".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


class Plan(NamedTuple):
    """The schedule of a budget, known before any loss; numpy, on the host.

    Only which trials are promoted depends on losses. A loss *counts* if its rung is not the last of its
    bracket. jobs i32[jobs + 1, 5], one row a job in the order of asking: its trial (NONE: a promotion), its
    bracket's first trial, its rung (counted on through all brackets), until, counting losses that must be
    told before it; then a row that waits for ever · losses i32[counting losses + 1], in the order of telling:
    first trial of the bracket · trials: begun · seats: members of the widest rung.
    """

    jobs: np.ndarray
    losses: np.ndarray
    trials: int
    seats: int


@lru_cache(maxsize=256)
def plan(max_epoch: int, epochs: int, eta: int, min_epoch: int, rule: str) -> Plan:
    """The jobs of repeated rounds, up to the first that does not fit into `epochs`."""
    jobs, losses, seats = [], [], 1
    trials = spent = counted = rungs = 0
    table = brackets.brackets(max_epoch, eta, min_epoch, rule)
    while True:
        for bracket in table:
            first, start = trials, 0
            for i, rung in enumerate(bracket):
                needed = counted if i else 0
                for member in range(rung.members):
                    if spent + rung.until - start > epochs:
                        jobs.append((NONE, trials, rungs, max_epoch, NEVER))
                        losses.append(trials)
                        return Plan(np.array(jobs, np.int32), np.array(losses, np.int32), trials, seats)
                    spent += rung.until - start
                    jobs.append((NONE if i else first + member, first, rungs, rung.until, needed))
                    if i == 0:
                        trials, seats = trials + 1, max(seats, member + 1)
                    if i + 1 < len(bracket):
                        losses.append(first)
                        counted += 1
                start, rungs = rung.until, rungs + 1


class State(NamedTuple):
    """x f32[trials, d]: every configuration · loss f64[seats]: the last told · rung i32[seats]: the last that
    it was asked to, so that one rung can be promoted from while the next fills · asked, told i32[]: jobs
    asked; counting losses told. A seat is a trial less its bracket's first."""

    x: Any
    loss: Any
    rung: Any
    asked: Any
    told: Any


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
    def _plan(self) -> Plan:
        epochs = budget_epochs(self.budget, self.max_epoch)
        return plan(int(self.max_epoch), epochs, int(self.eta), int(self.min_epoch), self.bracket_rule)

    @property
    def num_trials(self) -> int:
        return self._plan.trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> State:
        return State(
            x=self.cube.start(key, self.num_trials),
            loss=jnp.full((self._plan.seats,), jnp.inf, jnp.float64),
            rung=jnp.full((self._plan.seats,), NONE, jnp.int32),
            asked=jnp.int32(0),
            told=jnp.int32(0),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        new, first, rung, until, needed = jnp.asarray(self._plan.jobs)[state.asked]
        ready, seats = state.told >= needed, self._plan.seats
        # The first seat with the least loss: two plain reductions cost less than an argmin.
        waiting = jnp.where(state.rung == rung - 1, state.loss, jnp.inf)
        seat = jnp.arange(seats, dtype=jnp.int32)
        best = jnp.min(jnp.where(waiting == jnp.min(waiting), seat, seats - 1))
        promote = ready & (new == NONE)
        trial = jnp.where(new == NONE, first + best, new)
        idle = wait(self.cube)
        job = Job(
            trial=jnp.where(ready, trial, idle.trial),
            source=jnp.where(promote, trial, NONE),
            x=jnp.where(ready, state.x[trial], idle.x),
            until=jnp.where(ready, until, idle.until),
        )
        moves = state.rung.at[jnp.where(ready, trial - first, seats)].set(rung, mode="drop")
        return job, state._replace(rung=moves, asked=state.asked + ready.astype(jnp.int32))

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        # Only a bracket's last rung ends at max_epoch, and from there nothing is promoted. Rungs that count
        # are never open two at a time, so the number of losses told says which bracket this is.
        counts = (job.trial != NONE) & (job.until < self.max_epoch)
        first = jnp.asarray(self._plan.losses)[state.told]
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, DIVERGED).astype(jnp.float64)
        seat = jnp.where(counts, job.trial - first, self._plan.seats)
        return state._replace(
            loss=state.loss.at[seat].set(loss, mode="drop"),
            told=state.told + counts.astype(jnp.int32),
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        epochs = budget_epochs(self.budget, self.max_epoch)
        start = f"hyperband: {self.budget:g} training{'s' * (self.budget != 1)} = {epochs:,} epochs: "
        if self._largest == 0:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        table = brackets.brackets(self.max_epoch, self.eta, self.min_epoch, self.bracket_rule)
        rounds, left = divmod(epochs, sum(map(brackets.epochs, table)))
        if rounds:
            times = {1: "once", 2: "twice"}.get(rounds, f"{rounds} times")
            configurations = rounds * sum(bracket[0].members for bracket in table)
            text = f"all {_word(len(table))} brackets {times} ({configurations:,} configurations)"
            part = left >= table[0][0].until
            return start + text + (f", then part of a {_ordinal(rounds + 1)} round" if part else "")
        complete = 0
        while left >= brackets.epochs(table[complete]):
            left -= brackets.epochs(table[complete])
            complete += 1
        if not complete:
            text = f"part of the first of {_word(len(table))} brackets"
            return start + f"{text} ({self.num_trials:,} configurations)"
        configurations = sum(bracket[0].members for bracket in table[:complete])
        text = f"the first {_word(complete)} of {_word(len(table))} brackets"
        text += f" ({configurations:,} configurations)"
        return start + text + (", then part of the next" if left >= table[complete][0].until else "")


def _word(n: int) -> str:
    return WORDS[n] if n < len(WORDS) else f"{n:,}"


def _ordinal(n: int) -> str:
    if n <= len(ORDINALS):
        return ORDINALS[n - 1]
    return f"{n:,}{'th' if 10 < n % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
