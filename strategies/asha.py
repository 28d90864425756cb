"""Asynchronous successive halving (ASHA): a trial goes on once it is among the best 1/eta of its rung so far.

Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, MLSys, arXiv:1810.05934, Algorithm 2.
Two variants: *promotion*, the paper's, where a trial waits at its rung and may be resumed at any later time,
and *stopping*, for trainings that cannot be paused: at a rung a trial trains on or is stopped for good. Its
rule is that of Optuna's SuccessiveHalvingPruner: of the rung's n losses so far, its own included, fewer than
max(floor(n / eta), 1) are lower.

Departures: the top rung is max_epoch and the others are max_epoch / eta^k, rounded down; a promoted trial
resumes from its checkpoint; a trial whose loss is not finite counts in its rung but never goes on.

A rung is never sorted. It keeps, of the trials that wait, the least loss of each block of 64, and the losses
of those that went on: the best that waits is promotable if fewer than floor(n / eta) of these are as low.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs, wait
from bench.space import Cube
from strategies import brackets
from strategies.successive_halving import amount

VARIANTS = ("promotion", "stopping")
BLOCK = 64  # trials whose least waiting loss is noted


class Ladders(NamedTuple):
    """Rungs from which trials may go on, of all brackets, the highest first; numpy, on the host.

    bracket, until, following i32[rows]: a rung's bracket, epoch and the next rung's epoch (one row that no
    job ever reaches where there is none) · order i32[round]: brackets of new trials, in turn for ever · first
    i32[round]: epochs of their first rungs · trials: new ones that the epochs pay for · reaches, passes:
    trials that can come to a rung and go on from one, at most.
    """

    bracket: np.ndarray
    until: np.ndarray
    following: np.ndarray
    order: np.ndarray
    first: np.ndarray
    trials: int
    reaches: int
    passes: int


@lru_cache(maxsize=256)
def ladders(
    rungs: tuple[tuple[int, ...], ...], order: tuple[int, ...], epochs: int, most: int | None
) -> Ladders:
    """Of brackets with these epochs as rungs; at most `most` trials."""
    rows = [(a, b, s) for s, ends in enumerate(rungs) for a, b in pairwise(ends)]
    rows = sorted(rows, key=lambda row: (-row[0], row[2])) or [(0, 1, 0)]
    until, following, bracket = np.array(rows, np.int32).T
    first = np.array([rungs[s][0] for s in order], np.int32)
    rounds, left = divmod(epochs, int(first.sum()))
    trials = rounds * len(order) + int((np.cumsum(first) <= left).sum())
    trials = trials if most is None else min(trials, most)
    reaches, passes = (max(1, min(trials, epochs // max(1, int(a.min())))) for a in (until, following))
    return Ladders(bracket, until, following, np.array(order, np.int32), first, trials, reaches, passes)


def row_of(plan: Ladders, job: Job) -> jax.Array:
    """The row i32[] of the rung that a job reached, the number of rows where nothing follows."""
    bracket = jnp.asarray(plan.order)[jnp.maximum(job.trial, 0) % len(plan.order)]
    here = (job.until == plan.until) & (bracket == plan.bracket) & (job.trial != NONE)
    return jnp.min(jnp.where(here, np.arange(len(plan.until), dtype=np.int32), len(plan.until)))


class Waiting(NamedTuple):
    """State of the promotion variant.

    x f32[trials, d] · started i32[], trials · waits f64[blocks, BLOCK, 2], a trial's loss at the rung where
    it waits, else infinity, and that rung · least f64[rows, blocks], of the losses that wait there · best
    f64[rows], the least of all · ahead i32[rows], trials that went on with a loss as low · told i32[rows] ·
    passed f64[rows, passes], losses of the trials that went on · promoted i32[rows], their number.
    """

    x: Any
    started: Any
    waits: Any
    least: Any
    best: Any
    ahead: Any
    told: Any
    passed: Any
    promoted: Any


def begin_waiting(plan: Ladders, x: jax.Array) -> Waiting:
    """The promotion variant's state before anything is asked; x f32[plan.trials, d]."""
    rows, blocks = len(plan.until), -(-plan.trials // BLOCK)
    none = jnp.full((rows,), jnp.inf, jnp.float64)
    zero = jnp.zeros((rows,), jnp.int32)
    return Waiting(
        x=x,
        started=jnp.int32(0),
        waits=jnp.full((blocks, BLOCK, 2), jnp.inf, jnp.float64),
        least=jnp.full((rows, blocks), jnp.inf, jnp.float64),
        best=none,
        ahead=zero,
        told=zero,
        passed=jnp.full((rows, plan.passes), jnp.inf, jnp.float64),
        promoted=zero,
    )


def ask_waiting(plan: Ladders, eta: int, cube: Cube, state: Waiting) -> tuple[Job, Waiting]:
    """The best that waits in the highest rung where it is promotable, else a new trial."""
    rows, blocks = state.least.shape
    ready = (state.best < jnp.inf) & (state.ahead < state.told // eta)
    row = jnp.min(jnp.where(ready, np.arange(rows, dtype=np.int32), rows))
    promote, row = row < rows, jnp.minimum(row, rows - 1)
    best, least = state.best[row], state.least[row]
    # Plain reductions cost less than an argmin; ties go by trial number.
    block = jnp.min(jnp.where(least == best, np.arange(blocks, dtype=np.int32), blocks - 1))
    waits = state.waits[block]
    waiting = jnp.where(waits[:, 1] == row, waits[:, 0], jnp.inf)
    place = jnp.min(jnp.where(waiting == best, np.arange(BLOCK, dtype=np.int32), BLOCK - 1))

    fresh = ~promote & (state.started < plan.trials)
    going = promote | fresh
    trial = jnp.where(promote, block * BLOCK + place, jnp.minimum(state.started, plan.trials - 1))
    first = jnp.asarray(plan.first)[state.started % len(plan.first)]
    idle = wait(cube)
    job = Job(
        trial=jnp.where(going, trial, idle.trial),
        source=jnp.where(promote, trial, NONE),
        x=jnp.where(going, state.x[trial], idle.x),
        until=jnp.where(promote, jnp.asarray(plan.following)[row], jnp.where(fresh, first, idle.until)),
    )
    # Without the one that leaves:
    left = jnp.min(jnp.where(np.arange(BLOCK) == place, jnp.inf, waiting))
    after = jnp.min(jnp.where(np.arange(blocks) == block, left, least))
    ahead = 1 + jnp.sum(state.passed[row] <= after, dtype=jnp.int32)
    # Where to write depends on the count, else the table might be copied to be counted after it is written.
    to = jnp.where(promote & (ahead >= 0), row, rows)
    here = np.arange(rows) == to
    return job, state._replace(
        started=state.started + fresh.astype(jnp.int32),
        waits=state.waits.at[jnp.where(promote, block, blocks), place, 0].set(jnp.inf, mode="drop"),
        least=state.least.at[to, block].set(left, mode="drop"),
        best=jnp.where(here, after, state.best),
        ahead=jnp.where(here, ahead, state.ahead),
        passed=state.passed.at[to, state.promoted[row]].set(best, mode="drop"),
        promoted=state.promoted + here.astype(jnp.int32),
    )


def tell_waiting(plan: Ladders, state: Waiting, job: Job, feedback: Feedback) -> Waiting:
    """Notes a loss at its rung."""
    rows, blocks = state.least.shape
    row = row_of(plan, job)
    loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, jnp.inf).astype(jnp.float64)
    at, trial = jnp.minimum(row, rows - 1), jnp.maximum(job.trial, 0)
    block, place = trial // BLOCK, trial % BLOCK
    ahead = jnp.sum(state.passed[at] <= loss, dtype=jnp.int32)
    here = np.arange(rows) == row
    better = here & (loss < state.best)
    seen = jnp.stack([loss, row.astype(jnp.float64)])
    return state._replace(
        waits=state.waits.at[jnp.where(row < rows, block, blocks), place].set(seen, mode="drop"),
        least=state.least.at[row, block].min(loss, mode="drop"),
        best=jnp.where(better, loss, state.best),
        ahead=jnp.where(better, ahead, state.ahead),
        told=state.told + here.astype(jnp.int32),
    )


class Running(NamedTuple):
    """State of the stopping variant.

    x f32[trials, d] · started i32[], trials · losses f64[rows, reaches], all that were told at a rung · told
    i32[rows], their number · top i32[], the trial that goes on next, NONE: none · below i32[trials, 2], the
    one that goes on after it, and the epoch to which it goes.
    """

    x: Any
    started: Any
    losses: Any
    told: Any
    top: Any
    below: Any


def begin_running(plan: Ladders, x: jax.Array) -> Running:
    """The stopping variant's state before anything is asked; x f32[plan.trials, d]."""
    return Running(
        x=x,
        started=jnp.int32(0),
        losses=jnp.full((len(plan.until), plan.reaches), jnp.inf, jnp.float64),
        told=jnp.zeros((len(plan.until),), jnp.int32),
        top=jnp.int32(NONE),
        below=jnp.full((plan.trials, 2), NONE, jnp.int32),
    )


def ask_running(plan: Ladders, cube: Cube, state: Running) -> tuple[Job, Running]:
    """The trial that passed its rung last and has not yet gone on, else a new one."""
    on = state.top != NONE
    fresh = ~on & (state.started < plan.trials)
    going = on | fresh
    trial = jnp.where(on, state.top, jnp.minimum(state.started, plan.trials - 1))
    first = jnp.asarray(plan.first)[state.started % len(plan.first)]
    idle = wait(cube)
    under, until = state.below[trial]
    job = Job(
        trial=jnp.where(going, trial, idle.trial),
        source=jnp.where(on, trial, NONE),
        x=jnp.where(going, state.x[trial], idle.x),
        until=jnp.where(on, until, jnp.where(fresh, first, idle.until)),
    )
    top = jnp.where(on, under, state.top)
    return job, state._replace(started=state.started + fresh.astype(jnp.int32), top=top)


def tell_running(plan: Ladders, eta: int, state: Running, job: Job, feedback: Feedback) -> Running:
    """Notes a loss at its rung; the trial goes on or is stopped."""
    rows, row = len(plan.until), row_of(plan, job)
    at = jnp.minimum(row, rows - 1)
    loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, jnp.inf).astype(jnp.float64)
    lower = jnp.sum(state.losses[at] < loss, dtype=jnp.int32)
    on = (row < rows) & (loss < jnp.inf) & (lower < jnp.maximum((state.told[at] + 1) // eta, 1))
    below = jnp.stack([state.top, jnp.asarray(plan.following)[at]])
    return state._replace(
        # Where to write depends on the count, as above.
        losses=state.losses.at[jnp.where(lower >= 0, row, rows), state.told[at]].set(loss, mode="drop"),
        told=state.told + (np.arange(rows) == row).astype(jnp.int32),
        top=jnp.where(on, job.trial, state.top),
        below=state.below.at[jnp.where(on, job.trial, plan.trials)].set(below, mode="drop"),
    )


def check(max_epoch: int, eta: int, min_epoch: int, variant: str, trials: int | None) -> None:
    """Raises ValueError for settings that make no rungs."""
    brackets.check(max_epoch, eta, min_epoch)
    if variant not in VARIANTS:
        raise ValueError(f"variant must be {' or '.join(VARIANTS)}, got {variant!r}")
    if trials is not None and (int(trials) != trials or trials < 1):
        raise ValueError(f"trials must be an integer of at least 1 or null, got {trials}")


@dataclass(frozen=True)
class ASHA:
    """Gives an idle worker the best promotable trial of the highest rung, else a new one at the lowest.

    `eta`: one in eta goes on · `min_epoch`: the least first rung · `variant`: promotion or stopping ·
    `trials`: the most that are begun; null: as many as the budget pays for. No worker ever waits before all
    are begun. Trial k is row k of the shared start-up design, so it is random search's trial k."""

    eta: int = 3
    min_epoch: int = 1
    variant: str = "promotion"
    trials: int | None = None
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    lanes = 1024  # nothing here depends on how many there are: only comparisons and counts

    def __post_init__(self):
        check(self.max_epoch, self.eta, self.min_epoch, self.variant, self.trials)
        if self.num_trials < 1:
            raise ValueError(
                f"budget must pay for a job of {self._rungs[0]} of {self.max_epoch} epochs, got {self.budget}"
            )

    @property
    def _rungs(self) -> tuple[int, ...]:
        longest = brackets.s_max(self.max_epoch, self.eta, self.min_epoch)
        return brackets.rungs(self.max_epoch, self.eta, longest)

    @property
    def _epochs(self) -> int:
        return budget_epochs(self.budget, self.max_epoch)

    @property
    def _ladders(self) -> Ladders:
        return ladders((self._rungs,), (0,), self._epochs, self.trials)

    @property
    def num_trials(self) -> int:
        return self._ladders.trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def init(self, key: jax.Array) -> Waiting | Running:
        return begin(self._ladders, self.variant, self.cube.start(key, self.num_trials))

    def ask(self, key: jax.Array, state: Any) -> tuple[Job, Any]:
        return ask(self._ladders, self.eta, self.cube, state)

    def tell(self, state: Any, job: Job, feedback: Feedback) -> Any:
        return tell(self._ladders, self.eta, state, job, feedback)

    def describe(self) -> str:
        """One line: what the budget means."""
        start = amount("asha", self.budget, self.max_epoch)
        if len(self._rungs) == 1:
            return start + f"nothing stops early: random search of {self.num_trials:,} configurations"
        likely = min(brackets.started(self._rungs, self.eta, self._epochs), self.num_trials)
        verb, rest = {
            "promotion": ("is promoted", ""),
            "stopping": ("trains on", "; the others are stopped for good"),
        }[self.variant]
        ends = ", ".join(f"{until:,}" for until in self._rungs[:-1])
        text = f"about {likely:,} configurations (at most {self.num_trials:,}), of which one in {self.eta}"
        text += f" {verb} at epoch{'s' * (len(self._rungs) > 2)} {ends}, up to {self.max_epoch:,}{rest}"
        return start + text


def begin(plan: Ladders, variant: str, x: jax.Array) -> Waiting | Running:
    """A variant's state before anything is asked."""
    return begin_waiting(plan, x) if variant == "promotion" else begin_running(plan, x)


def ask(plan: Ladders, eta: int, cube: Cube, state: Waiting | Running) -> tuple[Job, Any]:
    """The next job of the state's variant."""
    return (
        ask_waiting(plan, eta, cube, state) if isinstance(state, Waiting) else ask_running(plan, cube, state)
    )


def tell(plan: Ladders, eta: int, state: Waiting | Running, job: Job, feedback: Feedback) -> Any:
    """Notes a loss in the state of either variant."""
    if isinstance(state, Waiting):
        return tell_waiting(plan, state, job, feedback)
    return tell_running(plan, eta, state, job, feedback)
