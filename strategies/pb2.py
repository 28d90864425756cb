"""Population-based bandits: PBT whose exploring is led by a Gaussian process.

Parker-Holder, Nguyen and Roberts 2020, Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits, arXiv:2002.02518. What a member's loss fell by over a round, standardised, is a
function of its hyperparameters x and of the round t; its process has the kernel

    k((x, t), (x', t')) = exp(-|x - x'|^2 / length) (1 - forget)^(|t - t'| / 2)

and a copy trains on at the x whose upper bound, mean + sqrt(beta) standard deviations, is highest. Copies of
the same round are told to the process without a value, so that they spread.

Where paper and released code differ: the bound is the paper's, with the standard deviation, which has the
mean's unit, where the code adds the variance; beta = .2 log(.4 n) after n observations is the code's, since
the paper's holds for constants that nobody knows. Departures: x is in the unit cube, log axes on their log
scale; length, forget and noise climb the marginal likelihood by a step a round on a lattice of powers of two;
the last `rows` observations count, of the same population. Continuous axes that may change are the process's,
the others explore as in `pbt` (the paper's own treatment of choices came later, as PB2-Mix), and so do all
before the process has two observations. A loss that is not finite counts as the worst change known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job
from bench.space import FLOAT, Cube
from strategies import pbt
from strategies.gp_model import FLOOR, LEAF, inverse_root

CANDIDATES, AROUND, REACH = 256, 64, 0.05  # uniform points, then normal ones around the best of them
# Of (length, decay rate -log(1 - forget) a round, noise variance): first, least and greatest.
FIRST, LEAST, MOST = (0.25, 0.125, 0.125), (2**-7, 2**-10, 2**-10), (4.0, 2.0, 1.0)


class Table(NamedTuple):
    """Observations, and after them the copies that are under way. x f64[n, d], 0 but on the process's axes ·
    t f64[n] round · y f64[n], -inf: diverged · owner i32[n], first trial of the population, NONE: empty."""

    x: Any
    t: Any
    y: Any
    owner: Any


class State(NamedTuple):
    """population: PBT's state · before f64[trials]: loss that a trial's running slice began with, nan if none
    · table · seen, copied i32[]: observations and copies so far · fitted f64[]: round of the last fit · theta
    f64[3]: log of length, rate and noise."""

    population: Any
    before: Any
    table: Any
    seen: Any
    copied: Any
    fitted: Any
    theta: Any


def correlation(x: Any, t: Any, z: Any, s: Any, theta: Any) -> jax.Array:
    """The kernel's matrix f64[n, m] between x f64[n, d] at t f64[n] and z f64[m, d] at s f64[m]."""
    square = jnp.sum((x[:, None] - z[None]) ** 2, -1)
    apart = jnp.abs(t[:, None] - s[None])
    return jnp.exp(-square / jnp.exp(theta[0]) - jnp.exp(theta[1]) * apart / 2.0)


def standardise(y: jax.Array, told: jax.Array) -> jax.Array:
    """y f64[n] at mean 0 and variance 1 over those told bool[n], 0 elsewhere; -inf is the worst of the
    rest."""
    finite = told & jnp.isfinite(y)
    worst = jnp.min(jnp.where(finite, y, jnp.inf))
    y = jnp.where(finite, y, jnp.where(jnp.isfinite(worst), worst, 0.0))
    count = jnp.maximum(jnp.sum(told), 1)
    mean = jnp.sum(jnp.where(told, y, 0.0)) / count
    rest = jnp.where(told, y - mean, 0.0)
    spread = jnp.sqrt(jnp.sum(rest**2) / count)
    return rest / jnp.where(spread > 0, spread, 1.0)


def inverse_of(table: Table, used: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Root of the inverse covariance f64[n, n] of the rows that are used bool[n] (unit rows elsewhere), and
    the logarithm of its determinant."""
    both = used[:, None] & used[None, :]
    k = jnp.where(both, correlation(table.x, table.t, table.x, table.t, theta), 0.0)
    own = jnp.where(used, jnp.exp(theta[2]), 1.0)
    root = inverse_root(k + jnp.diag(own))
    return root, 2.0 * jnp.sum(jnp.log(jnp.diagonal(root)))


def likelihood(table: Table, y: jax.Array, used: jax.Array, theta: jax.Array) -> jax.Array:
    """Log marginal likelihood f64[] of standardised y f64[n], but for a constant."""
    root, log = inverse_of(table, used, theta)
    return 0.5 * log - 0.5 * jnp.sum((root @ y) ** 2)


def _key(words: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _where_needed(needed: jax.Array, function: Any, data: Any, otherwise: Any) -> Any:
    """function(data) where needed bool[], else `otherwise`, of the same structure.

    Under vmap a loop's body runs only where some lane needs it, which a choice's does not. What does not
    change in a loop is moved out of it, and would run all the same: so the data pass through a choice that
    only a turn of the loop decides."""

    def body(carry):
        going = carry[0]
        return jnp.bool_(False), function(jax.tree.map(lambda a: jnp.where(going, a, 0), data))

    return jax.lax.while_loop(lambda carry: carry[0], body, (needed, otherwise))[1]


@dataclass(frozen=True)
class PB2:
    """As `pbt.PBT`, whose settings it has; copies choose their continuous hyperparameters by the process.

    `rows`: observations that the process keeps, together with a round's copies, a multiple of 32."""

    population: int | None = None
    intervals: int = 20
    selection: str = "truncation"
    fraction: float = 0.2
    factors: tuple[float, float] = (0.8, 1.2)
    resample_probability: float = 0.25
    rows: int = 64
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    def __post_init__(self):
        object.__setattr__(self, "factors", tuple(float(f) for f in self.factors))
        pbt.check_settings(self)
        if self.rows < LEAF or self.rows % LEAF:
            raise ValueError(f"rows must be a positive multiple of {LEAF}, got {self.rows}")
        if self._pbt.copies > self.rows // 2:
            raise ValueError(
                f"rows must be at least twice the copies of a round, {self._pbt.copies}, got {self.rows}"
            )

    @property
    def _pbt(self) -> pbt.PBT:
        return pbt.PBT(
            self.population, self.intervals, self.selection, self.fraction, self.factors,
            self.resample_probability, cube=self.cube, max_epoch=self.max_epoch, budget=self.budget,
        )  # fmt: skip

    @property
    def num_trials(self) -> int:
        return self._pbt.num_trials

    @property
    def anytime(self) -> bool:
        return self._pbt.anytime

    @property
    def needs(self) -> frozenset[str]:
        return self._pbt.needs

    @property
    def _axes(self) -> jax.Array:
        """bool[d]: those of the process."""
        return jnp.asarray((self.cube.kind == FLOAT) & self.cube.change)

    @property
    def _kept(self) -> int:
        """Rows of the table for observations; the others are for copies under way."""
        return self.rows - self._pbt.copies

    def init(self, key: jax.Array) -> State:
        n, width = self.rows, self.cube.width
        return State(
            population=self._pbt.init(key),
            before=jnp.full((self.num_trials,), jnp.nan, jnp.float64),
            table=Table(
                x=jnp.zeros((n, width), jnp.float64),
                t=jnp.zeros((n,), jnp.float64),
                y=jnp.zeros((n,), jnp.float64),
                owner=jnp.full((n,), NONE, jnp.int32),
            ),
            seen=jnp.int32(0),
            copied=jnp.int32(0),
            fitted=jnp.float64(-1.0),
            theta=jnp.log(jnp.array(FIRST, jnp.float64)),
        )

    def _round(self, until: jax.Array) -> jax.Array:
        ends = jnp.array(pbt.round_ends(self.max_epoch, self._pbt.rounds), jnp.int32)
        return jnp.sum(ends < until).astype(jnp.float64)

    def _owner(self, trial: jax.Array) -> jax.Array:
        return (trial // self._pbt.members * self._pbt.members).astype(jnp.int32)

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        n = self.num_trials
        job, population = self._pbt.ask(key, state.population)
        moves = (job.trial != NONE) & (job.source != NONE)
        copy = moves & (job.source != job.trial)
        owner, t = self._owner(job.trial), self._round(job.until)

        observed = jnp.arange(self.rows) < self._kept
        enough = jnp.sum(observed & (state.table.owner == owner)) >= 2

        proposing = copy & enough
        fitting = proposing & (t != state.fitted)
        (theta,) = _where_needed(
            fitting, lambda data: (self._fit(data, owner, state.theta),), state.table, (state.theta,)
        )
        (proposed,) = _where_needed(
            proposing,
            lambda data: (self._propose(_key(data[0]), data[1], owner, t, theta),),
            (jax.random.key_data(key), state.table),
            (jnp.zeros_like(job.x),),
        )
        x = jnp.where(proposing & self._axes, proposed, job.x)
        before = population.score[job.source - self._owner(job.source)]
        row = jnp.where(job.trial == NONE, n, job.trial)
        slot = jnp.where(copy, self._kept + state.copied % max(self._pbt.copies, 1), self.rows)
        return job._replace(x=x), State(
            population=population._replace(x=population.x.at[jnp.where(copy, row, n)].set(x, mode="drop")),
            before=state.before.at[row].set(jnp.where(moves, before, jnp.nan), mode="drop"),
            table=self._put(state.table, slot, x, t, jnp.float64(0.0), owner),
            seen=state.seen,
            copied=state.copied + copy.astype(jnp.int32),
            fitted=jnp.where(fitting, t, state.fitted),
            theta=theta,
        )

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        before = state.before[jnp.maximum(job.trial, 0)]
        known = (job.trial != NONE) & ~jnp.isnan(before)
        loss = jnp.asarray(feedback.loss, jnp.float64)
        y = jnp.where(jnp.isfinite(loss) & (before < pbt.DIVERGED), before - loss, -jnp.inf)
        slot = jnp.where(known, state.seen % self._kept, self.rows)
        t, owner = self._round(job.until), self._owner(job.trial)
        return state._replace(
            population=self._pbt.tell(state.population, job, feedback),
            table=self._put(state.table, slot, job.x, t, y, owner),
            seen=state.seen + known.astype(jnp.int32),
        )

    def _put(self, table: Table, row: Any, x: Any, t: Any, y: Any, owner: Any) -> Table:
        x = jnp.where(self._axes, x, 0.0).astype(jnp.float64)
        return Table(*(a.at[row].set(b, mode="drop") for a, b in zip(table, (x, t, y, owner), strict=True)))

    def _told(self, table: Table, owner: Any) -> jax.Array:
        """bool[rows]: this population's observations."""
        return (jnp.arange(self.rows) < self._kept) & (table.owner == owner)

    def _fit(self, table: Table, owner: Any, theta: Any) -> jax.Array:
        """theta f64[3] after a step of the lattice along one axis, or none, that makes the observations
        likeliest."""
        told = self._told(table, owner)
        y = standardise(table.y, told)
        step = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3), -jnp.eye(3)]) * math.log(2.0)
        near = jnp.clip(theta + step.astype(jnp.float64), jnp.log(jnp.array(LEAST)), jnp.log(jnp.array(MOST)))
        return near[jnp.argmax(jax.lax.map(lambda each: likelihood(table, y, told, each), near))]

    def _propose(self, key: jax.Array, table: Table, owner: Any, t: Any, theta: Any) -> jax.Array:
        """The point f32[d] of the highest bound in round t."""
        told = self._told(table, owner)
        running = (jnp.arange(self.rows) >= self._kept) & (table.owner == owner) & (table.t == t)
        y = standardise(table.y, told)
        # The mean is that of the told rows alone, the variance that of the running ones too: with values
        # equal to their means they would have no weight.
        # One after the other: two factorisations at once can wait for each other's threads for ever.
        masks = jnp.stack([told, told | running])
        alone, both = jax.lax.map(lambda used: inverse_of(table, used, theta)[0], masks)
        weight = alone.T @ (alone @ y)
        beta = jnp.maximum(0.2 * jnp.log(0.4 * jnp.sum(told)), 0.0)

        def bound(x):
            k = correlation(x, jnp.full((len(x),), t, jnp.float64), table.x, table.t, theta)
            mean = jnp.where(told, k, 0.0) @ weight
            variance = 1.0 - jnp.sum((jnp.where(told | running, k, 0.0) @ both.T) ** 2, -1)
            return mean + jnp.sqrt(beta * jnp.maximum(variance, FLOOR))

        width = self.cube.width
        u = jax.random.uniform(key, ((CANDIDATES + AROUND) * width,), jnp.float32).reshape(-1, width)
        wide = jnp.where(self._axes, u[:CANDIDATES], 0.0).astype(jnp.float64)
        best = wide[jnp.argmax(bound(wide))]
        # Beyond an end is the end: a bound is often highest there.
        close = best + REACH * jax.scipy.special.ndtri(jnp.clip(u[CANDIDATES:], 1e-6, 1 - 1e-6))
        close = jnp.where(self._axes, jnp.clip(close.astype(jnp.float64), 0.0, 1.0), 0.0).at[0].set(best)
        return close[jnp.argmax(bound(close))].astype(jnp.float32)

    def describe(self) -> str:
        """One line: what the budget means."""
        return self._pbt.describe().replace("pbt: ", "pb2: ", 1)
