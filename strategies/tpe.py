"""The tree-structured Parzen estimator (TPE).

Bergstra, Bardenet, Bengio and Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4;
multivariate after Falkner, Klein and Hutter, "BOHB", 2018, arXiv 1807.01774. The defaults are those of Optuna
5.0's TPESampler, where `multivariate` and `constant_liar` are on (both are off up to its version 4); the two
densities are in `kde`.

A loss that is not finite is worse than any number and always in the bad set, however few good ones there are.
It counts in the number of told trials, of which a share is good. (Optuna forgets a nan.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job
from bench.space import Cube
from strategies import kde

UNSEEN, PENDING, TOLD = 0, 1, 2
FLAT = 25  # trials of full weight, the newest of their set


class State(NamedTuple):
    """n = num_trials rows, one a trial.

    x f32[n, d], until a trial is granted a row of the random design · loss f64[n] ·
    rank i32[n], told trials of lower loss, earlier ones first among equals · status i32[n], UNSEEN, PENDING
    or TOLD · count i32[], trials granted or told elsewhere.
    """

    x: Any
    loss: Any
    rank: Any
    status: Any
    count: Any


def block(rows: int) -> int:
    """Points of the smallest table that holds `rows`, one less than a power of two for the prior: each size
    is one more program, and costs grow with the square of the rows."""
    size = 64
    while size - 1 < rows:
        size *= 2
    return size - 1


@dataclass(frozen=True)
class TPE:
    """Proposes the candidate of highest good over bad density; each trial is one full training.

    start: trials told, those from elsewhere included, before the densities are used; until then the rows of
    the shared random design · candidates: drawn from the good density · fraction, most: of n told trials the
    min(ceil(fraction n), most) best are good · multivariate: one joint density, else one an axis, each with
    its own candidates · constant_liar: running trials count as bad · endpoints, magic_clip, prior_weight: of
    the bandwidths and the prior, see `kde` · prior_trials: trials to be told before the first ask.
    """

    start: int = 10
    candidates: int = 24
    fraction: float = 0.1
    most: int = 25
    multivariate: bool = True
    constant_liar: bool = True
    endpoints: bool = False
    magic_clip: bool = True
    prior_weight: float = 1.0
    prior_trials: int = 0
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    light = False  # compiled in a hurry, its densities take three times as long

    def __post_init__(self):
        least = {"start": 1, "candidates": 1, "most": 1, "prior_trials": 0, "max_epoch": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0.0 < self.fraction < 1.0:
            raise ValueError(f"fraction must lie between 0 and 1, got {self.fraction}")
        if not (math.isfinite(self.prior_weight) and self.prior_weight > 0.0):
            raise ValueError(f"prior_weight must be above 0, got {self.prior_weight}")
        if not (math.isfinite(self.budget) and self.budget + 1e-9 >= 1.0):
            raise ValueError(f"tpe needs a budget of at least 1 full training, got {self.budget}")

    @property
    def num_trials(self) -> int:
        return math.floor(self.budget + 1e-9) + self.prior_trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def describe(self) -> str:
        new = self.num_trials - self.prior_trials
        design = min(max(self.start - self.prior_trials, 0), new)
        return f"tpe: {new} full trainings, {design} of a random design, {new - design} by the densities"

    def stage(self, granted: int) -> int:
        """Points of the densities' table for a turn in which no lane was granted more than `granted` jobs
        before: a static argument of `ask`. 0: the start-up design needs no density, and none is compiled."""
        granted = granted + self.prior_trials
        # After the last trial an ask only waits.
        return 0 if granted < self.start or granted >= self.num_trials else block(granted)

    def good(self, told: int) -> int:
        """How many of `told` trials are good."""
        # In Python's floats, as Optuna's: the product is rounded before it is rounded up.
        return min(math.ceil(self.fraction * told), self.most)

    def init(self, key: jax.Array) -> State:
        """The state before anything is told; `key` draws the design."""
        n = self.num_trials
        return State(
            x=self.cube.start(key, n),
            loss=jnp.full((n,), jnp.inf, jnp.float64),
            rank=jnp.zeros((n,), jnp.int32),
            status=jnp.full((n,), UNSEEN, jnp.int32),
            count=jnp.int32(0),
        )

    def ask(self, key: jax.Array, state: State, stage: int | None = None) -> tuple[Job, State]:
        """The next trial; waits after the last one. `stage` (static): rows, by default the full table."""
        n, k = self.num_trials, state.count
        done = k >= n
        x = state.x[jnp.minimum(k, n - 1)]
        if stage is None:
            stage = block(n) if n > self.start else 0
        if stage:
            modelled = jnp.sum(state.status == TOLD) >= self.start
            x = jnp.where(modelled, self._propose(key, state, stage), x)
        x = jnp.where(done, jnp.float32(0.5), x)
        row = jnp.where(done, n, k)
        state = state._replace(
            x=state.x.at[row].set(x, mode="drop"),
            status=state.status.at[row].set(PENDING, mode="drop"),
            count=jnp.where(done, k, k + 1),
        )
        trial = jnp.where(done, NONE, k).astype(jnp.int32)
        until = jnp.where(done, 0, self.max_epoch).astype(jnp.int32)
        return Job(trial, jnp.int32(NONE), x, until), state

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        """Notes a loss; also that of a trial made elsewhere and never asked for."""
        n = self.num_trials
        row = jnp.where(job.trial < 0, n, job.trial)
        loss = jnp.asarray(feedback.loss, jnp.float64)
        loss = jnp.where(jnp.isfinite(loss), loss, jnp.inf)
        index, told = jnp.arange(n), state.status == TOLD
        ahead = (state.loss < loss) | ((state.loss == loss) & (index < row))
        rank = jnp.where((row < n) & told & ~ahead, state.rank + 1, state.rank)
        return State(
            x=state.x.at[row].set(job.x, mode="drop"),
            loss=state.loss.at[row].set(loss, mode="drop"),
            rank=rank.at[row].set(jnp.sum(told & ahead).astype(jnp.int32), mode="drop"),
            status=state.status.at[row].set(TOLD, mode="drop"),
            count=jnp.maximum(state.count, jnp.where(row < n, row + 1, 0).astype(jnp.int32)),
        )

    def recommend(self, state: State) -> Job:
        """The told trial of the lowest loss."""
        told = state.status == TOLD
        best = jnp.argmax(told & (state.rank == 0))
        trial = jnp.where(jnp.any(told), best, NONE).astype(jnp.int32)
        return Job(trial, jnp.int32(NONE), state.x[best], jnp.int32(self.max_epoch))

    def _groups(self, state: State, rows: int) -> jax.Array:
        """GOOD, BAD or UNUSED of the first `rows` of the table, i32[rows]."""

        def table(a, fill):
            a = a[:rows]
            return jnp.pad(a, (0, rows - len(a)), constant_values=fill)

        status = table(state.status, UNSEEN)
        told = status == TOLD
        sizes = np.array([self.good(n) for n in range(rows + 1)], np.int32)
        good = told & jnp.isfinite(table(state.loss, np.inf))
        good &= table(state.rank, 0) < jnp.asarray(sizes)[jnp.sum(told)]
        used = told | (status == PENDING) if self.constant_liar else told
        return jnp.where(good, kde.GOOD, jnp.where(used, kde.BAD, kde.UNUSED)).astype(jnp.int32)

    def _propose(self, key: jax.Array, state: State, rows: int) -> jax.Array:
        """The densities' point f32[d] from the first `rows` of the table."""
        x = self.cube.snap(state.x[:rows])
        x = jnp.pad(x, [(0, rows - len(x)), (0, 0)], constant_values=0.5)
        mixtures = kde.fit(
            x,
            self._groups(state, rows),
            flat=FLAT,
            endpoints=self.endpoints,
            magic_clip=self.magic_clip,
            prior_weight=self.prior_weight,
        )
        width = self.cube.width
        picks = 1 if self.multivariate else width
        u = kde.uniforms(key, (self.candidates, picks + width))
        points = kde.sample(mixtures, self.cube, u[:, :picks], u[:, picks:], self.good(rows))
        densities = kde.log_densities(mixtures, self.cube, points.astype(jnp.float64), self.multivariate)
        good, bad = densities
        # In float32, or points that are equally good would be told apart by the last bits of a sum, which
        # depend on the program around it.
        best = jnp.argmax((good - bad).astype(jnp.float32), -1)
        return points[best] if self.multivariate else points[best, jnp.arange(width)]
