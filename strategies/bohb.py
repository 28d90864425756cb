"""BOHB: Hyperband whose new configurations are proposed by Parzen estimators.

Falkner, Klein & Hutter 2018, BOHB: Robust and Efficient Hyperparameter Optimization at Scale, ICML,
arXiv:1807.01774, Algorithm 2; what the paper leaves open is as in HpBandSter, its authors' code.
The model is fitted to the losses told at one rung, the highest epoch at which both of its sets have d + 1
points: of n told, the max(d + 1, floor(.15 n)) best are good, the rest bad. Bandwidths are
1.06 sigma n^(-1/(4 + d)), per axis and set, at least 1e-3; a candidate is a good point moved by a normal
truncated to the cube, three bandwidths wide; that of the highest ratio of the densities is proposed. One in
three configurations is random.

Departures: integers and ordered choices are continuous in the unit cube, at their values, as there; the
bandwidth of an unordered choice of c values is at most (c - 1) / c, which is uniform (there the kernel turns
negative). The densities are the published ones, so the kernels of `kde`, which have other bandwidths, a prior
and truncated tails, are not used. A loss that is not finite is worse than any number, hence bad unless good
points run out. Random configurations are rows of the shared start-up design.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job
from bench.space import UNORDERED, Cube
from strategies import brackets, kde, successive_halving
from strategies.hyperband import Hyperband
from strategies.successive_halving import Plan


class State(NamedTuple):
    """rungs: of successive halving · loss f64[epochs, trials], told at each rung's epoch, else infinity ·
    told bool[epochs, trials] · counts i32[epochs]."""

    rungs: successive_halving.State
    loss: Any
    told: Any
    counts: Any


class Sets(NamedTuple):
    """The model. x f64[r, d] · good, bad bool[r] · width f64[2, d], bandwidths of the good and of the bad."""

    x: Any
    good: Any
    bad: Any
    width: Any


def bandwidths(cube: Cube, x: jax.Array, member: jax.Array, least: float) -> jax.Array:
    """The normal reference rule's widths f64[d] of the points x f64[r, d] that are members bool[r]."""
    n = jnp.maximum(jnp.sum(member), 1).astype(jnp.float64)
    levels = jnp.maximum(cube.levels, 1)
    # Of a choice its number counts, as in statsmodels.
    value = jnp.where(cube.kind == UNORDERED, x * levels - 0.5, x)
    mean = jnp.sum(jnp.where(member[:, None], value, 0.0), 0) / n
    spread = jnp.sqrt(jnp.sum(jnp.where(member[:, None], (value - mean) ** 2, 0.0), 0) / n)
    width = jnp.maximum(1.06 * spread * n ** (-1.0 / (4.0 + jnp.sum(cube.mask))), least)
    return jnp.where(cube.kind == UNORDERED, jnp.minimum(width, (levels - 1.0) / levels), width)


def log_density(cube: Cube, at: jax.Array, x: jax.Array, member: jax.Array, width: jax.Array) -> jax.Array:
    """Log of the product-kernel density f64[m] at `at` f64[m, d]."""
    levels = jnp.maximum(cube.levels, 2).astype(jnp.float64)
    choice = cube.kind == UNORDERED
    real = cube.mask & ~choice
    constant = jnp.where(real, -jnp.log(width) - 0.5 * math.log(2.0 * math.pi), 0.0)
    sharp = jnp.where(real, 1.0 / width, 0.0)
    same, other = jnp.log(1.0 - width), jnp.log(width / (levels - 1.0))

    def with_choice(j, logs):
        equal = jnp.abs(at[:, j, None] - x[:, j]) < 0.5 / levels[j]
        return logs + jnp.where(choice[j], jnp.where(equal, same[j], other[j]), 0.0)

    logs = -0.5 * sum(jnp.square((at[:, j, None] - x[:, j]) * sharp[j]) for j in range(x.shape[1]))
    # Where no axis is a choice, the branch costs nothing.
    logs = jax.lax.cond(
        jnp.any(choice),
        lambda logs: jax.lax.fori_loop(0, x.shape[1], with_choice, logs),
        lambda logs: logs,
        logs,
    )
    logs = jnp.where(member, logs + jnp.sum(constant), -jnp.inf)
    most = jnp.max(logs, 1, keepdims=True)
    most = jnp.where(jnp.isfinite(most), most, 0.0)
    total = jnp.sum(jnp.exp(logs - most), 1)
    return jnp.log(jnp.maximum(total, 1e-300)) + most[:, 0] - jnp.log(jnp.maximum(jnp.sum(member), 1))


def sample(cube: Cube, sets: Sets, factor: float, u: jax.Array) -> jax.Array:
    """Candidates f32[m, d] from u f64[m, 1 + 2 d]: a good point each, moved."""
    d = sets.x.shape[1]
    ends = jnp.cumsum(sets.good.astype(jnp.int32))
    pick = jnp.floor(u[:, :1] * ends[-1]).astype(jnp.int32)
    row = jnp.sum(ends <= pick, 1)
    mean, width = sets.x[jnp.minimum(row, len(ends) - 1)], sets.width[0] * factor
    low, high = (0.5 * jax.lax.erfc(-(edge - mean) / width / kde.ROOT) for edge in (0.0, 1.0))
    z = kde.ROOT * jax.lax.erf_inv(jnp.clip(2.0 * (low + u[:, 1 : d + 1] * (high - low)) - 1.0, -1.0, 1.0))
    levels = jnp.maximum(cube.levels, 1).astype(jnp.float64)
    anywhere = (jnp.floor(jnp.minimum(u[:, 1 : d + 1], 1 - 1e-9) * levels) + 0.5) / levels
    # A choice keeps its value with probability 1 - width, else takes any, its own included.
    choice = jnp.where(u[:, d + 1 :] < 1.0 - sets.width[0], mean, anywhere)
    moved = jnp.where(cube.kind == UNORDERED, choice, mean + z * width)
    return cube.fix(moved)


@dataclass(frozen=True)
class BOHB:
    """Hyperband's jobs; a new configuration is the model's where it has enough points, else random.

    `eta`, `min_epoch`, `bracket_rule`: as in Hyperband · `top`: share of the points that is good ·
    `candidates`: drawn from the good density · `random_fraction`: of configurations that are random ·
    `bandwidth_factor`: of the candidates' kernels · `min_bandwidth` · `min_points`: of each set; null: d + 1.
    """

    eta: int = 3
    min_epoch: int = 1
    bracket_rule: str = "algorithm1"
    top: float = 0.15
    candidates: int = 64
    random_fraction: float = 1 / 3
    bandwidth_factor: float = 3.0
    min_bandwidth: float = 1e-3
    min_points: int | None = None
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    light = False  # compiled in a hurry, its densities take longer

    def __post_init__(self):
        self._hyperband()  # whose checks are those of what they share
        for name, value in (("top", self.top), ("random_fraction", self.random_fraction)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        for name, value in (
            ("bandwidth_factor", self.bandwidth_factor),
            ("min_bandwidth", self.min_bandwidth),
        ):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.min_points is not None and self.min_points < 1:
            raise ValueError(f"min_points must be at least 1 or null, got {self.min_points}")

    def _hyperband(self) -> Hyperband:
        """The one whose jobs these are."""
        return Hyperband(
            self.eta, self.min_epoch, self.bracket_rule,
            cube=self.cube, max_epoch=self.max_epoch, budget=self.budget,
        )  # fmt: skip

    @property
    def _plan(self) -> Plan:
        return self._hyperband().plan

    @property
    def _ends(self) -> np.ndarray:
        """Epochs of the rungs, i32[epochs]."""
        longest = brackets.s_max(self.max_epoch, self.eta, self.min_epoch)
        return np.array(brackets.rungs(self.max_epoch, self.eta, longest), np.int32)

    @property
    def num_trials(self) -> int:
        return self._plan.trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"})

    def stage(self, granted: int) -> int:
        """Rows of the model's table for a turn before which no lane was granted more than `granted` jobs."""
        rows = 64
        while rows < min(granted, self.num_trials):
            rows *= 2
        return min(rows, self.num_trials) if granted >= 2 else 0

    def init(self, key: jax.Array) -> State:
        shape = len(self._ends), self.num_trials
        return State(
            rungs=successive_halving.begin(self._plan, self.cube.start(key, self.num_trials)),
            loss=jnp.full(shape, jnp.inf, jnp.float64),
            told=jnp.zeros(shape, bool),
            counts=jnp.zeros(shape[:1], jnp.int32),
        )

    def ask(self, key: jax.Array, state: State, stage: int | None = None) -> tuple[Job, State]:
        """The plan's next job. `stage` (static): rows that the model looks at, by default the full table."""
        job, rungs = successive_halving.ask(self._plan, self.cube, state.rungs)
        rows = self.num_trials if stage is None else stage
        if rows:
            enough, x = self._propose(key, state, rows)
            new = enough & (job.trial != NONE) & (job.source == NONE)
            x = jnp.where(new, x, job.x)
            row = jnp.where(new, job.trial, self.num_trials)
            job, rungs = job._replace(x=x), rungs._replace(x=rungs.x.at[row].set(x, mode="drop"))
        return job, state._replace(rungs=rungs)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        here = (job.until == self._ends) & (job.trial != NONE)
        row = jnp.where(here, np.arange(len(self._ends)), len(self._ends)).min()
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, jnp.inf).astype(jnp.float64)
        return State(
            rungs=successive_halving.tell(self._plan, self.max_epoch, state.rungs, job, feedback),
            loss=state.loss.at[row, job.trial].set(loss, mode="drop"),
            told=state.told.at[row, job.trial].set(True, mode="drop"),
            counts=state.counts + here.astype(jnp.int32),
        )

    def good(self, n: jax.Array, least: jax.Array) -> jax.Array:
        """How many of n points are good."""
        return jnp.maximum(least, jnp.floor(self.top * n + 1e-9).astype(jnp.int32))

    def _sets(self, state: State, rows: int) -> tuple[jax.Array, Sets]:
        """Whether there is a model, and its sets."""
        dimension = jnp.sum(self.cube.mask, dtype=jnp.int32)
        least = dimension + 1 if self.min_points is None else jnp.int32(self.min_points)
        n = state.counts
        enough = n - self.good(n, least) >= least
        at = jnp.max(jnp.where(enough, np.arange(len(self._ends)), 0))
        loss, told = state.loss[at, :rows], state.told[at, :rows]
        index = np.arange(rows)
        ahead = (loss[:, None] > loss) | ((loss[:, None] == loss) & (index[:, None] > index))
        rank = jnp.sum(ahead & told, 1, dtype=jnp.int32)
        good = told & (rank < self.good(n[at], least))
        bad = told & ~good
        x = self.cube.snap(state.rungs.x[:rows]).astype(jnp.float64)
        width = [bandwidths(self.cube, x, member, self.min_bandwidth) for member in (good, bad)]
        return jnp.any(enough), Sets(x, good, bad, jnp.stack(width))

    def _propose(self, key: jax.Array, state: State, rows: int) -> tuple[jax.Array, jax.Array]:
        """Whether the model proposes, and its point f32[d]."""
        enough, sets = self._sets(state, rows)
        u = kde.uniforms(key, (self.candidates + 1, 1 + 2 * self.cube.width))
        points = sample(self.cube, sets, self.bandwidth_factor, u[1:])
        at = self.cube.snap(points).astype(jnp.float64)
        good = log_density(self.cube, at, sets.x, sets.good, sets.width[0])
        bad = log_density(self.cube, at, sets.x, sets.bad, sets.width[1])
        # In float32, or points that are equally good would be told apart by the last bits of a sum, which
        # depend on the program around it.
        best = jnp.argmax((good - bad).astype(jnp.float32))
        return enough & (u[0, 0] >= self.random_fraction), points[best]

    def describe(self) -> str:
        """One line: what the budget means."""
        line = self._hyperband().describe().replace("hyperband", "bohb", 1)
        return (
            f"{line}; {self.random_fraction:.0%} of them random, the others by the model once it has points"
        )
