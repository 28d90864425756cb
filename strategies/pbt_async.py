"""Population-based training, asynchronous.

Jaderberg et al. 2017, Population Based Training of Neural Networks, arXiv:1711.09846, algorithm 1: a member
that has trained an interval compares itself with the latest losses of all others, whatever their epoch,
copies one or not, and trains on. Nobody waits. Selections, exploring and their departures are those of `pbt`.

Copying jumps epochs, which the paper, counting wall-clock time, need not mind. Here a member ends where its
weights have max_epoch epochs, whoever trained them. One that copies ahead ends before it has had its share of
the budget, and what is left of that stays unspent; one that copies back takes more than its share, and the
budget may end before others reach max_epoch. A member at max_epoch is neither copied (its weights cannot
train on) nor compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job, budget_epochs, wait
from bench.space import Cube
from strategies.pbt import DIVERGED, NEVER, check_settings, explore, population_size, round_ends


class State(NamedTuple):
    """x f32[trials, d]: hyperparameters of every trial's checkpoint, before that of the start-up design ·
    draws f32[jobs, d + 1]: the uniform numbers of each job · loss f64[trials]: latest, infinity where not
    told · step i32[trials]: intervals that the checkpoint was trained for · jobs i32[trials]: asked of the
    trial · running bool[trials] · asked i32[]: jobs in all."""

    x: Any
    draws: Any
    loss: Any
    step: Any
    jobs: Any
    running: Any
    asked: Any


@dataclass(frozen=True)
class AsynchronousPBT:
    """A population whose members copy and explore when they are ready, without waiting for each other.

    Settings as in `pbt.PBT`: `intervals` is the number of ready intervals from 0 to max_epoch. An idle worker
    takes the idle member that was asked least often. With truncation, a member copies one of the best
    `fraction` of the members told so far if it is among as many worst. A population smaller than the budget
    is followed by others, begun as soon as a worker finds no idle member; members copy within their own."""

    population: int | None = None
    intervals: int = 20
    selection: str = "truncation"
    fraction: float = 0.2
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    anytime = False  # populations begin by the number that the budget pays for
    needs = frozenset({"stop", "resume", "copy", "change"})
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        object.__setattr__(self, "factors", tuple(float(f) for f in self.factors))
        check_settings(self)

    @property
    def members(self) -> int:
        """Size of a population."""
        return population_size(self)

    @property
    def rounds(self) -> int:
        """Intervals from 0 to max_epoch."""
        return int(min(self.intervals, self.max_epoch))

    @property
    def num_trials(self) -> int:
        if self.population is None:
            return self.members
        return (
            -(-budget_epochs(self.budget, self.max_epoch) // (self.members * self.max_epoch)) * self.members
        )

    def init(self, key: jax.Array) -> State:
        # All draws at once and off the start-up design, as in pbt.
        jobs = budget_epochs(self.budget, self.max_epoch) // (self.max_epoch // self.rounds)
        apart, size, n = jax.random.fold_in(key, NEVER), self.cube.width + 1, self.num_trials
        return State(
            x=self.cube.start(key, n),
            draws=jax.random.uniform(apart, (jobs * size,), jnp.float32).reshape(jobs, size),
            loss=jnp.full((n,), jnp.inf, jnp.float64),
            step=jnp.zeros((n,), jnp.int32),
            jobs=jnp.zeros((n,), jnp.int32),
            running=jnp.zeros((n,), bool),
            asked=jnp.int32(0),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        n, members = self.num_trials, self.members
        trials = jnp.arange(n, dtype=jnp.int32)
        ends = jnp.array([*round_ends(self.max_epoch, self.rounds), self.max_epoch], jnp.int32)
        idle = ~state.running & (state.step < self.rounds)
        # Older populations first, then who was asked least: an earlier seat where equal.
        order = trials // members * 2**16 + jnp.minimum(state.jobs, 2**16 - 1)
        trial = jnp.argmin(jnp.where(idle, order, NEVER)).astype(jnp.int32)
        ready = idle[trial]
        begun = state.step[trial] > 0

        u = state.draws[jnp.minimum(state.asked, state.draws.shape[0] - 1)]
        mine = state.loss[trial]
        others = (trials // members == trial // members) & (state.step > 0) & (state.step < self.rounds)
        # The rank of each among those told and not ended; equal losses in the order of their seats.
        ahead = (state.loss[:, None] < state.loss[None, :]) | (
            (state.loss[:, None] == state.loss[None, :]) & (trials[:, None] < trials[None, :])
        )
        rank = jnp.sum(ahead & others[:, None], axis=0, dtype=jnp.int32)
        count = jnp.sum(others, dtype=jnp.int32)
        if self.selection == "tournament":
            drawn = jnp.floor(u[-1] * jnp.maximum(count - 1, 1)).astype(jnp.int32)
            parent = jnp.argmax(others & (rank == drawn + (drawn >= rank[trial]))).astype(jnp.int32)
            copy = count > 1
        else:
            most = jnp.maximum(1, jnp.floor(self.fraction * count + 1e-6).astype(jnp.int32))
            drawn = jnp.floor(u[-1] * most).astype(jnp.int32)
            parent = jnp.argmax(others & (rank == drawn)).astype(jnp.int32)
            copy = (count > 1) & (rank[trial] >= count - most)
        # Only from a better one: neither from an equal, nor from another that diverged.
        copy &= ready & begun & (state.loss[parent] < mine)

        source = jnp.where(copy, parent, trial)
        x = state.x[source]
        x = jnp.where(copy, explore(self.cube, self.factors, self.resample_probability, u[:-1], x), x)
        nothing = wait(self.cube)
        job = Job(
            trial=jnp.where(ready, trial, nothing.trial),
            source=jnp.where(ready & begun, source, NONE),
            x=jnp.where(ready, x, nothing.x),
            until=jnp.where(ready, ends[jnp.where(begun, state.step[source], 0)], nothing.until),
        )
        row = jnp.where(ready, trial, n)
        return job, state._replace(
            jobs=state.jobs.at[row].add(1, mode="drop"),
            running=state.running.at[row].set(True, mode="drop"),
            asked=state.asked + ready.astype(jnp.int32),
        )

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        ends = jnp.array(round_ends(self.max_epoch, self.rounds), jnp.int32)
        row = jnp.where(job.trial == NONE, self.num_trials, job.trial)
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, DIVERGED).astype(jnp.float64)
        return state._replace(
            # Of the checkpoint: that of a running job is another's business until it is told.
            x=state.x.at[row].set(job.x, mode="drop"),
            loss=state.loss.at[row].set(loss, mode="drop"),
            step=state.step.at[row].set(jnp.sum(ends <= job.until, dtype=jnp.int32), mode="drop"),
            running=state.running.at[row].set(False, mode="drop"),
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        epochs = budget_epochs(self.budget, self.max_epoch)
        full = self.num_trials // self.members
        short, long = self.max_epoch // self.rounds, -(-self.max_epoch // self.rounds)
        length = f"{short}" if short == long else f"{short} or {long}"
        return (
            f"pbt_async: {self.budget:g} training{'s' * (self.budget != 1)} = {epochs:,} epochs at most: "
            f"{full} population{'s' * (full != 1)} of {self.members}, each member ready every {length} "
            f"epoch{'s' * (long != 1)} until its weights have {self.max_epoch}"
        )
