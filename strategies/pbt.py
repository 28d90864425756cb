"""Population-based training, synchronous.

Jaderberg et al. 2017, Population Based Training of Neural Networks, arXiv:1711.09846, section 4.1. Truncation
selection: the worst fraction copies weights and hyperparameters of a member drawn from the best fraction,
then explores from there. Binary tournament: each member draws another, and copies it if it is better.
Departures: all members wait for each other (`pbt_async` does not); a hyperparameter that may not change keeps
the source's value, which belongs to the copied weights.

Perturbing multiplies: an axis at 0 stays at 0, however long it runs (resampling alone gets it away), and on
an axis that reaches across 0 no value changes its sign. Put what should change by orders of magnitude on a
log axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs, wait
from bench.space import ORDERED, UNORDERED, Cube

DIVERGED = float(np.finfo(np.float64).max)  # worse than any number; infinity is a loss not told yet
NEVER = 2**30
SELECTIONS = ("truncation", "tournament")


class Plan(NamedTuple):
    """The schedule, known before any loss; numpy, on the host. A loss *counts* unless it is at max_epoch.

    jobs i32[jobs + 1, 6], one row a job in the order of asking: its trial (NONE: the member of that rank),
    rank of the member in the round before (0 best), which copy it is (NONE: none; in a tournament it may be
    that one), its population's first trial, until, counting losses that must be told before it; then a row
    that waits for ever · losses i32[counting losses + 1, 2], in the order of telling: first trial of the
    population, whether this loss completes its round · trials: begun · copies: in all, at most.
    """

    jobs: np.ndarray
    losses: np.ndarray
    trials: int
    copies: int


def round_ends(max_epoch: int, rounds: int) -> list[int]:
    """Epochs at which the rounds end, equally long to an epoch."""
    return [(i + 1) * max_epoch // rounds for i in range(rounds)]


@lru_cache(maxsize=256)
def plan(max_epoch: int, epochs: int, population: int, rounds: int, copies: int, most: int) -> Plan:
    """The jobs of up to `most` populations in turn, up to the first that does not fit into `epochs`."""
    ends = round_ends(max_epoch, rounds)
    # A round's copies come before its continuations: a source must be read before it trains on. Where a
    # source may itself copy (a tournament: copies = population - 1), that is the worst first, since it copies
    # a better one.
    ranks = [*range(population - 1, population - 1 - copies, -1), *range(population - copies)]
    jobs, losses, spent, trials, copied = [], [], 0, 0, 0
    for first in range(0, most * population, population):
        for i, until in enumerate(ends):
            slice_, needed = until - (ends[i - 1] if i else 0), len(losses) if i else 0
            for j, rank in enumerate(ranks):
                if spent + slice_ > epochs:
                    return _plan(jobs, losses, trials, copied)
                spent += slice_
                trials += i == 0
                copy = i > 0 and j < copies
                new, nth = NONE if i else first + j, copied if copy else NONE
                jobs.append((new, rank, nth, first, until, needed))
                copied += copy
                if until < max_epoch:
                    losses.append((first, j + 1 == population))
    return _plan(jobs, losses, trials, copied)


def _plan(jobs: list, losses: list, trials: int, copies: int) -> Plan:
    return Plan(
        jobs=np.array([*jobs, (NONE, 0, NONE, 0, 0, NEVER)], np.int32),
        losses=np.array([*losses, (0, 0)], np.int32),
        trials=trials,
        copies=copies,
    )


class State(NamedTuple):
    """x f32[trials, d]: hyperparameters of every trial, now · draws f32[copies, d + 1]: the uniform numbers
    of each copy · loss f64[population]: losses of the running round, infinity where not told · rank
    i32[population]: ranks among those · order i32[population], score f64[population]: ranks and losses of the
    last complete round · asked, told i32[]: jobs asked; counting losses told."""

    x: Any
    draws: Any
    loss: Any
    rank: Any
    order: Any
    score: Any
    asked: Any
    told: Any


@dataclass(frozen=True)
class PBT:
    """A population trains in rounds; after each its worst members copy its best ones and explore from there.

    `population`: members; None: the whole trainings of the budget. A smaller one is followed by new
    populations until the budget is spent, a larger one is an error · `intervals`: rounds of equal length (to
    an epoch) from 0 to max_epoch, one an epoch if there are more. 20 because a lineage moves by one factor a
    round at most, and .8^20 = 1/87 lets a rate fall by about two decades, as schedules do; the paper's toy
    has 20 too. It makes 20 exploits at most, whatever max_epoch is: rounds of 4 or 5 epochs of 81, 2 or 3 of
    50, 1 or 2 of 27 · `selection`: truncation, or tournament, in which each member draws another at random
    and copies it if its loss is lower · `fraction`: of the population copied from and replaced by truncation,
    at least one member if there are two · `factors`: an exploring axis is multiplied by one of them, at even
    odds · `resample_probability`: an axis is drawn anew instead · `exploit=False`: the control, the same
    population without copies (nor exploring) · `explore=False`: copies keep the source's hyperparameters ·
    `copy_hyperparameters=False`: copies take the weights alone (and what may not change, which belongs to
    them) and explore from their own hyperparameters, as in the paper's toy.

    Exploring moves only axes that may change, an integer by at least one; an ordered choice steps to a
    neighbour, an unordered one is drawn anew. Trial k begins at row k of the shared start-up design."""

    population: int | None = None
    intervals: int = 20
    selection: str = "truncation"
    fraction: float = 0.2
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    exploit: bool = True
    explore: bool = True
    copy_hyperparameters: bool = True
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        object.__setattr__(self, "factors", tuple(float(f) for f in self.factors))
        check_settings(self)

    @property
    def members(self) -> int:
        """Size of a population."""
        return population_size(self)

    @property
    def copies(self) -> int:
        """Members that a round replaces; of a tournament, those that it may replace."""
        if not self.exploit or self.members < 2:
            return 0
        if self.selection == "tournament":
            return self.members - 1  # the best one has nobody to copy
        return max(1, math.floor(self.fraction * self.members + 1e-9))

    @property
    def rounds(self) -> int:
        return int(min(self.intervals, self.max_epoch))

    @property
    def _plan(self) -> Plan:
        epochs = budget_epochs(self.budget, self.max_epoch)
        most = 1 if self.population is None else -(-epochs // (self.members * self.max_epoch))
        return plan(int(self.max_epoch), epochs, self.members, self.rounds, self.copies, most)

    @property
    def num_trials(self) -> int:
        return self._plan.trials

    @property
    def anytime(self) -> bool:
        """Only a population that is not the budget makes the same jobs under a larger budget."""
        return self.population is not None

    @property
    def needs(self) -> frozenset[str]:
        if not self.exploit:
            return frozenset({"stop", "resume"})
        change = {"change"} if self.explore or not self.copy_hyperparameters else set()
        return frozenset({"stop", "resume", "copy"} | change)

    def init(self, key: jax.Array) -> State:
        # Drawn here at once, since a draw in each ask would cost more than all the rest of it; flat, since
        # that compiles several times faster. An element depends on the key and its place only, so row c does
        # not depend on how many there are. Folding beyond the trials' numbers keeps it off the design.
        apart = jax.random.fold_in(key, NEVER)
        copies, size = self._plan.copies, self.cube.width + 1
        draws = jax.random.uniform(apart, (copies * size,), jnp.float32).reshape(copies, size)
        return State(
            x=self.cube.start(key, self.num_trials),
            draws=draws,
            loss=jnp.full((self.members,), jnp.inf, jnp.float64),
            rank=jnp.zeros((self.members,), jnp.int32),
            order=jnp.zeros((self.members,), jnp.int32),
            score=jnp.zeros((self.members,), jnp.float64),
            asked=jnp.int32(0),
            told=jnp.int32(0),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        new, rank, nth, first, until, needed = jnp.asarray(self._plan.jobs)[state.asked]
        ready = state.told >= needed
        trial = jnp.where(new == NONE, first + _seat(state.order, rank), new)
        source, x, table = trial, state.x[trial], state.x
        if self._plan.copies:
            copy = ready & (nth != NONE)
            u = state.draws[jnp.maximum(nth, 0)]
            if self.selection == "tournament":
                drawn = jnp.floor(u[-1] * (self.members - 1)).astype(jnp.int32)
                opponent = _seat(state.order, drawn + (drawn >= rank))
                copy &= state.score[opponent] < state.score[trial - first]
                parent = first + opponent
            else:
                # A diverged member is no source while there is another.
                finite = jnp.sum(state.score < DIVERGED, dtype=jnp.int32)
                best = jnp.clip(finite, 1, self.copies)
                parent = first + _seat(state.order, jnp.floor(u[-1] * best).astype(jnp.int32))
            source = jnp.where(copy, parent, trial)
            x = state.x[source]
            if not self.copy_hyperparameters:
                x = jnp.where(self.cube.change, state.x[trial], x)
            if self.explore:
                moved = explore(self.cube, self.factors, self.resample_probability, u[:-1], x)
                x = jnp.where(copy, moved, x)
            table = table.at[jnp.where(copy, trial, self.num_trials)].set(x, mode="drop")
        idle = wait(self.cube)
        job = Job(
            trial=jnp.where(ready, trial, idle.trial),
            source=jnp.where(ready & (new == NONE), source, NONE),
            x=jnp.where(ready, x, idle.x),
            until=jnp.where(ready, until, idle.until),
        )
        return job, state._replace(x=table, asked=state.asked + ready.astype(jnp.int32))

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        # A last round is copied by nobody, and rounds that count are never open two at a time, so the number
        # of losses told says which round this is. Ranks grow loss by loss, so nothing is ever sorted.
        counts = (job.trial != NONE) & (job.until < self.max_epoch)
        first, last = jnp.asarray(self._plan.losses)[state.told]
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, DIVERGED).astype(jnp.float64)
        seat, mine = jnp.arange(self.members, dtype=jnp.int32), job.trial - first
        known = jnp.isfinite(state.loss)
        ahead = (state.loss < loss) | ((state.loss == loss) & (seat < mine))
        place = jnp.sum(known & ahead, dtype=jnp.int32)
        rank = jnp.where(seat == mine, place, state.rank + (known & ~ahead).astype(jnp.int32))
        rank = jnp.where(counts, rank, state.rank)
        losses = jnp.where(counts & (seat == mine), loss, state.loss)
        complete = counts & (last == 1)
        return state._replace(
            loss=jnp.where(complete, jnp.inf, losses),
            rank=rank,
            order=jnp.where(complete, rank, state.order),
            score=jnp.where(complete, losses, state.score),
            told=state.told + counts.astype(jnp.int32),
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        epochs = budget_epochs(self.budget, self.max_epoch)
        name = "pbt" if self.exploit else "population"
        short, long = self.max_epoch // self.rounds, -(-self.max_epoch // self.rounds)
        length = f"{short}" if short == long else f"{short} or {long}"
        full, left = divmod(epochs, self.members * self.max_epoch)
        populations = f"{full} population{'s' * (full != 1)} of {self.members}"
        if left and self.population is not None:
            populations += ", then part of another"
        line = f"{name}: {self.budget:g} training{'s' * (self.budget != 1)} = {epochs:,} epochs: "
        line += populations
        line += f"; {self.rounds} round{'s' * (self.rounds != 1)} of {length} epoch{'s' * (long != 1)}"
        if not self.copies:
            return line + ", without copies"
        if self.selection == "tournament":
            return line + ", between them each copies a random other one that is better"
        if self.copies == 1:
            return line + ", between them the worst copies the best"
        return line + f", between them the worst {self.copies} copy among the best {self.copies}"


def _seat(order: jax.Array, rank: jax.Array) -> jax.Array:
    """The seat i32[] that has this rank."""
    seat = jnp.arange(order.shape[0], dtype=jnp.int32)
    return jnp.sum(jnp.where(order == rank, seat, 0), dtype=jnp.int32)


def explore(cube: Cube, factors: tuple[float, float], p: float, u: jax.Array, x: jax.Array) -> jax.Array:
    """x f32[d] moved on the axes that may change, by one uniform number u f32[d] an axis.

    Below the resampling probability `p` the number is itself the new value, as u / p; above it, its side of
    the middle of [p, 1] is the factor. Fewer draws, the same distribution."""
    span = jnp.where(cube.mask, cube.high - cube.low, 1.0)
    scaled = cube.low + x * span
    up = u >= (1 + p) / 2
    factor = jnp.where(up, factors[1], factors[0]).astype(jnp.float32)
    continuous = jnp.where(cube.log, scaled + jnp.log(factor), scaled * factor)
    # Discrete axes: on whole numbers, as Cube.snap counts them.
    lowest = jnp.floor(jnp.where(cube.log, jnp.exp(cube.low), cube.low) + 1.0 - 1e-3)
    highest = lowest + jnp.maximum(cube.levels - 1, 0)
    value = jnp.clip(jnp.floor(jnp.where(cube.log, jnp.exp(scaled), scaled) + 0.5), lowest, highest)
    step = jnp.where(up == (value >= 0), 1.0, -1.0)
    whole = jnp.floor(value * factor + 0.5)
    whole = jnp.where((whole == value) | (cube.kind == ORDERED), value + step, whole)
    whole = jnp.clip(whole, lowest, highest)
    whole = jnp.where(cube.log, jnp.log(jnp.maximum(whole, 1e-30)), whole)
    moved = (jnp.where(cube.levels > 0, whole, continuous) - cube.low) / span
    if p > 0:
        moved = jnp.where(u < p, u / p, moved)
    moved = jnp.where(cube.kind == UNORDERED, u, moved)
    return jnp.where(cube.change & cube.mask, cube.fix(moved), x)


def population_size(strategy: Any) -> int:
    """Members: as set, or the whole trainings of the budget."""
    s = strategy
    return int(math.floor(s.budget + 1e-9) if s.population is None else s.population)


def check_settings(strategy: Any) -> None:
    """Raises ValueError for a setting of a population that makes no sense, naming it."""
    s = strategy
    if s.budget < 1:
        raise ValueError(f"budget must be at least 1 training for a population, got {s.budget}")
    if s.population is not None:
        if int(s.population) != s.population or s.population < 1:
            raise ValueError(f"population must be an integer of at least 1, got {s.population}")
        if s.population > s.budget:
            raise ValueError(
                f"population must be at most the budget, {s.budget:g} trainings, got {s.population}"
            )
    if int(s.intervals) != s.intervals or s.intervals < 1:
        raise ValueError(f"intervals must be an integer of at least 1, got {s.intervals}")
    if s.selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {s.selection!r}")
    if not 0 < s.fraction <= 0.5:
        raise ValueError(f"fraction must be above 0 and at most .5, got {s.fraction}")
    if len(s.factors) != 2 or not 0 < s.factors[0] < 1 < s.factors[1]:
        raise ValueError(f"factors must be one below and one above 1, got {s.factors}")
    if not 0 <= s.resample_probability <= 1:
        raise ValueError(f"resample_probability must lie in [0, 1], got {s.resample_probability}")
