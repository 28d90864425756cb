"""Successive halving, synchronous: of a rung's members the best 1/eta go on, to eta times as many epochs.

Jamieson & Talwalkar 2016, arXiv:1502.07943, in the form of Li et al. 2018, Hyperband, JMLR 18:185, whose
inner loop it is: brackets of `members` configurations, one after the other, until the budget is spent.
Departures: a promoted trial resumes from its checkpoint and costs only the epochs after it; a bracket may
start while the last rung of the one before it still runs, since nothing is promoted from there.
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
from strategies.brackets import Bracket

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
def plan(table: tuple[Bracket, ...], epochs: int) -> Plan:
    """The jobs of the table's brackets, repeated, up to the first that does not fit into `epochs`."""
    jobs, losses, seats = [], [], 1
    trials = spent = counted = rungs = 0
    while True:
        for bracket in table:
            first, start = trials, 0
            for i, rung in enumerate(bracket):
                needed = counted if i else 0
                for member in range(rung.members):
                    if spent + rung.until - start > epochs:
                        jobs.append((NONE, trials, rungs, rung.until, NEVER))
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
    """What is known of the bracket that is open.

    x f32[trials, d]: every configuration · loss f64[seats]: the last told · rung i32[seats]: the last that
    it was asked to, so that one rung can be promoted from while the next fills · asked, told i32[]: jobs
    asked; counting losses told. A seat is a trial less its bracket's first."""

    x: Any
    loss: Any
    rung: Any
    asked: Any
    told: Any


def begin(plan: Plan, x: jax.Array) -> State:
    """The state before anything is asked; x f32[plan.trials, d], the configurations."""
    return State(
        x=x,
        loss=jnp.full((plan.seats,), jnp.inf, jnp.float64),
        rung=jnp.full((plan.seats,), NONE, jnp.int32),
        asked=jnp.int32(0),
        told=jnp.int32(0),
    )


def ask(plan: Plan, cube: Cube, state: State) -> tuple[Job, State]:
    """The plan's next job: a new trial, or the best that waits in the rung before."""
    new, first, rung, until, needed = jnp.asarray(plan.jobs)[state.asked]
    ready, seats = state.told >= needed, plan.seats
    # The first seat with the least loss: two plain reductions cost less than an argmin.
    waiting = jnp.where(state.rung == rung - 1, state.loss, jnp.inf)
    seat = jnp.arange(seats, dtype=jnp.int32)
    best = jnp.min(jnp.where(waiting == jnp.min(waiting), seat, seats - 1))
    promote = ready & (new == NONE)
    trial = jnp.where(new == NONE, first + best, new)
    idle = wait(cube)
    job = Job(
        trial=jnp.where(ready, trial, idle.trial),
        source=jnp.where(promote, trial, NONE),
        x=jnp.where(ready, state.x[trial], idle.x),
        until=jnp.where(ready, until, idle.until),
    )
    moves = state.rung.at[jnp.where(ready, trial - first, seats)].set(rung, mode="drop")
    return job, state._replace(rung=moves, asked=state.asked + ready.astype(jnp.int32))


def tell(plan: Plan, max_epoch: int, state: State, job: Job, feedback: Feedback) -> State:
    """Notes a loss that counts."""
    # Only a bracket's last rung ends at max_epoch, and from there nothing is promoted. Rungs that count
    # are never open two at a time, so the number of losses told says which bracket this is.
    counts = (job.trial != NONE) & (job.until < max_epoch)
    first = jnp.asarray(plan.losses)[state.told]
    loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, DIVERGED).astype(jnp.float64)
    seat = jnp.where(counts, job.trial - first, plan.seats)
    return state._replace(
        loss=state.loss.at[seat].set(loss, mode="drop"),
        told=state.told + counts.astype(jnp.int32),
    )


def amount(name: str, budget: float, max_epoch: int) -> str:
    """How a line that says what a budget means begins."""
    epochs = budget_epochs(budget, max_epoch)
    return f"{name}: {budget:g} training{'s' * (budget != 1)} = {epochs:,} epochs: "


def word(n: int) -> str:
    return WORDS[n] if n < len(WORDS) else f"{n:,}"


def ordinal(n: int) -> str:
    if n <= len(ORDINALS):
        return ORDINALS[n - 1]
    return f"{n:,}{'th' if 10 < n % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asks all jobs of a rung, waits until they are told, promotes the best (ties by trial number).

    `eta`: one in eta is promoted · `min_epoch`: the least first rung · `members`: configurations that a
    bracket starts with; null: as few as leave one for the last rung. A diverged loss is worst but counts.
    Trial k is row k of the shared start-up design, so it is random search's trial k."""

    eta: int = 3
    min_epoch: int = 1
    members: int | None = None
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        brackets.check(self.max_epoch, self.eta, self.min_epoch)
        least = self.eta ** brackets.s_max(self.max_epoch, self.eta, self.min_epoch)
        if self.members is not None and (int(self.members) != self.members or self.members < least):
            raise ValueError(
                f"members must be an integer of at least {least}, so that one reaches the last rung, "
                f"got {self.members}"
            )
        if self.num_trials < 1:
            first = self._bracket[0].until
            raise ValueError(
                f"budget must pay for a job of {first} of {self.max_epoch} epochs, got {self.budget}"
            )

    @property
    def _bracket(self) -> Bracket:
        return brackets.halving(self.max_epoch, self.eta, self.min_epoch, self.members)

    @property
    def _plan(self) -> Plan:
        return plan((self._bracket,), budget_epochs(self.budget, self.max_epoch))

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
        return begin(self._plan, self.cube.start(key, self.num_trials))

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        return ask(self._plan, self.cube, state)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        return tell(self._plan, self.max_epoch, state, job, feedback)

    def describe(self) -> str:
        """One line: what the budget means."""
        start, bracket = amount("successive_halving", self.budget, self.max_epoch), self._bracket
        if len(bracket) == 1:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        whole, left = divmod(budget_epochs(self.budget, self.max_epoch), brackets.epochs(bracket))
        shape = f"of {brackets.picture(bracket)}"
        if not whole:
            return start + f"part of a bracket {shape} ({self.num_trials:,} configurations)"
        configurations = f"({whole * bracket[0].members:,} configurations)"
        text = f"{word(whole)} bracket{'s' * (whole > 1)} {shape} {configurations}"
        return start + text + (", then part of the next" if left >= bracket[0].until else "")
