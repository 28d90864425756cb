"""CMA-ES: evolution of a normal distribution whose covariance adapts.

Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772, figure 6 and table 1 with its default
parameters of its first version (the second adds a quarter to mu_eff in c_mu), negative weights included.
Letters there and names here: lambda `population`, m `mean`, sigma `sigma`, C `covariance`, p_sigma and p_c
`sigma_path` and `covariance_path`.

What the tutorial leaves open. Bounds: a point outside the unit cube is drawn again, up to RESAMPLES times in
all, and then clipped to it; the update sees the point that was trained. Discrete axes: the nearest value is
trained, the update sees the point before rounding; an unordered choice is taken in the order of its values.
A loss that is not finite is ranked last, and a generation without a finite one moves nothing. Equal losses
rank in the order of their trials. sigma stays in SIGMA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job, wait
from bench.space import Cube
from strategies.design import trainings

RESAMPLES = 10
SIGMA = (1e-8, 1.0)  # float32 tells no more points of the unit cube apart; the cube is no wider
STARTS = ("design", "default")


class Parameters(NamedTuple):
    """Table 1 for d real axes and a population; f64[] but for weight, f64[rows], of the ranks, best first."""

    weight: Any
    parents: Any
    mass: Any
    c_sigma: Any
    damping: Any
    c_path: Any
    c_one: Any
    c_mu: Any
    length: Any


def parameters(d: jax.Array, population: jax.Array, rows: int) -> Parameters:
    """Default parameters for d i32[] axes, population i32[] at most `rows`; `mass` is mu_eff, `length` the
    expected length of a standard normal vector, `parents` mu."""
    d, population = jnp.asarray(d, jnp.float64), jnp.asarray(population, jnp.float64)
    rank = jnp.arange(1, rows + 1, dtype=jnp.float64)
    raw = jnp.where(rank <= population, jnp.log((population + 1.0) / 2.0) - jnp.log(rank), 0.0)
    parents = jnp.floor(population / 2.0)
    best = jnp.where(rank <= parents, raw, 0.0)
    worst = jnp.where(rank > parents, raw, 0.0)
    mass = jnp.sum(best) ** 2 / jnp.sum(best**2)
    worst_mass = jnp.sum(worst) ** 2 / jnp.sum(worst**2)
    c_sigma = (mass + 2.0) / (d + mass + 5.0)
    damping = 1.0 + 2.0 * jnp.maximum(0.0, jnp.sqrt((mass - 1.0) / (d + 1.0)) - 1.0) + c_sigma
    c_path = (4.0 + mass / d) / (d + 4.0 + 2.0 * mass / d)
    c_one = 2.0 / ((d + 1.3) ** 2 + mass)
    c_mu = 2.0 * (mass - 2.0 + 1.0 / mass) / ((d + 2.0) ** 2 + mass)
    c_mu = jnp.minimum(1.0 - c_one, c_mu)
    # How much the negative weights may weigh.
    least = jnp.minimum(1.0 + c_one / c_mu, 1.0 + 2.0 * worst_mass / (mass + 2.0))
    least = jnp.minimum(least, (1.0 - c_one - c_mu) / (d * c_mu))
    weight = jnp.where(
        raw >= 0, raw / jnp.sum(jnp.maximum(raw, 0.0)), least * raw / -jnp.sum(jnp.minimum(raw, 0.0))
    )
    length = jnp.sqrt(d) * (1.0 - 1.0 / (4.0 * d) + 1.0 / (21.0 * d * d))
    return Parameters(weight, parents, mass, c_sigma, damping, c_path, c_one, c_mu, length)


class State(NamedTuple):
    """x f64[rows, d]: the running generation's points before rounding · loss f64[rows], infinity where not
    told · asked, told i32[]: of this generation · first i32[]: its first trial · generation i32[] · mean
    f64[d] · sigma f64[] · covariance, root f64[d, d]: the latter's symmetric root · inverse f64[d, d]: of the
    root · sigma_path, covariance_path f64[d] · design f32[rows, d]: the first generation, where it is the
    design."""

    x: Any
    loss: Any
    asked: Any
    told: Any
    first: Any
    generation: Any
    mean: Any
    sigma: Any
    covariance: Any
    root: Any
    inverse: Any
    sigma_path: Any
    covariance_path: Any
    design: Any


@dataclass(frozen=True)
class CMAES:
    """Generations of full trainings; a generation waits for all of the one before it.

    `population`: points of a generation; None: 4 + floor(3 ln d) for d axes · `sigma`: first standard
    deviation, in unit cubes · `start`: "design", the first generation is the shared start-up design, which is
    taken as draws around the middle of the cube (its standard deviation is .29), or "default", drawn around
    the default configuration."""

    population: int | None = None
    sigma: float = 0.3
    start: str = "design"
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    anytime = True
    needs = frozenset()

    def __post_init__(self):
        trainings(self.budget)
        if self.population is not None and (int(self.population) != self.population or self.population < 4):
            raise ValueError(f"population must be an integer of at least 4, got {self.population}")
        if not SIGMA[0] <= self.sigma <= SIGMA[1]:
            raise ValueError(f"sigma must lie in [{SIGMA[0]:g}, {SIGMA[1]:g}], got {self.sigma}")
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")

    @property
    def num_trials(self) -> int:
        return trainings(self.budget)

    @property
    def _rows(self) -> int:
        """Points of a generation at most: those of a space that has all the axes of the padded one."""
        if self.population is not None:
            return int(self.population)
        return 4 + math.floor(3.0 * math.log(self.cube.width))

    @property
    def _axes(self) -> jax.Array:
        return jnp.sum(jnp.asarray(self.cube.mask), dtype=jnp.int32)

    @property
    def _size(self) -> jax.Array:
        """Points of a generation, i32[]."""
        if self.population is not None:
            return jnp.int32(self.population)
        return jnp.int32(4) + jnp.floor(3.0 * jnp.log(self._axes.astype(jnp.float64))).astype(jnp.int32)

    def init(self, key: jax.Array) -> State:
        rows, width = self._rows, self.cube.width
        eye = jnp.eye(width, dtype=jnp.float64)
        default = jnp.asarray(self.cube.default, jnp.float64)
        return State(
            x=jnp.full((rows, width), 0.5, jnp.float64),
            loss=jnp.full((rows,), jnp.inf, jnp.float64),
            asked=jnp.int32(0),
            told=jnp.int32(0),
            first=jnp.int32(0),
            generation=jnp.int32(0),
            mean=jnp.full((width,), 0.5, jnp.float64) if self.start == "design" else default,
            sigma=jnp.float64(self.sigma),
            covariance=eye,
            root=eye,
            inverse=eye,
            sigma_path=jnp.zeros((width,), jnp.float64),
            covariance_path=jnp.zeros((width,), jnp.float64),
            design=self.cube.start(key, rows),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        trial = state.first + state.asked
        ready = (state.asked < self._size) & (trial < self.num_trials)
        normal = jax.random.normal(key, (RESAMPLES * self.cube.width,), jnp.float32)
        steps = normal.reshape(RESAMPLES, -1).astype(jnp.float64) @ state.root
        tries = jnp.where(self.cube.mask, state.mean + state.sigma * steps, 0.5)
        inside = jnp.all((tries >= 0) & (tries <= 1), axis=1)
        x = tries[jnp.where(jnp.any(inside), jnp.argmax(inside), RESAMPLES - 1)]
        if self.start == "design":
            row = jnp.minimum(state.asked, self._rows - 1)
            x = jnp.where(state.generation == 0, state.design[row].astype(jnp.float64), x)
        # As it is trained, in float32.
        x = self.cube.fix(x.astype(jnp.float32))
        nothing = wait(self.cube)
        job = Job(
            trial=jnp.where(ready, trial, nothing.trial),
            source=jnp.int32(NONE),
            x=jnp.where(ready, self.cube.snap(x), nothing.x),
            until=jnp.where(ready, self.max_epoch, nothing.until).astype(jnp.int32),
        )
        row = jnp.where(ready, state.asked, self._rows)
        return job, state._replace(
            x=state.x.at[row].set(x.astype(jnp.float64), mode="drop"),
            asked=state.asked + ready.astype(jnp.int32),
        )

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        counts = job.trial != NONE
        row = jnp.where(counts, job.trial - state.first, self._rows)
        state = state._replace(
            loss=state.loss.at[row].set(jnp.asarray(feedback.loss, jnp.float64), mode="drop"),
            told=state.told + counts.astype(jnp.int32),
        )
        # Under vmap a loop's body runs only where some lane needs it, which a choice's does not.
        return jax.lax.while_loop(lambda s: s.told == self._size, self._next, state)

    def _next(self, state: State) -> State:
        """The next generation."""
        p = parameters(self._axes, self._size, self._rows)
        d = self._axes.astype(jnp.float64)
        mask = jnp.asarray(self.cube.mask)
        mine = jnp.arange(self._rows) < self._size
        finite = mine & jnp.isfinite(state.loss)
        # Those that failed come after all others, those beyond the generation last.
        loss = jnp.where(finite, state.loss, jnp.inf)
        order = jnp.lexsort((loss, ~finite, ~mine))
        steps = (state.x[order] - state.mean) / state.sigma
        move = jnp.where(p.weight > 0, p.weight, 0.0) @ steps
        white = steps @ state.inverse

        sigma_path = (1.0 - p.c_sigma) * state.sigma_path
        sigma_path += jnp.sqrt(p.c_sigma * (2.0 - p.c_sigma) * p.mass) * (move @ state.inverse)
        norm = jnp.sqrt(jnp.sum(sigma_path**2))
        sigma = state.sigma * jnp.exp(p.c_sigma / p.damping * (norm / p.length - 1.0))
        decay = 1.0 - (1.0 - p.c_sigma) ** (2.0 * (state.generation + 1.0))
        stalled = norm / jnp.sqrt(decay) >= (1.4 + 2.0 / (d + 1.0)) * p.length
        covariance_path = (1.0 - p.c_path) * state.covariance_path
        covariance_path += jnp.where(stalled, 0.0, jnp.sqrt(p.c_path * (2.0 - p.c_path) * p.mass)) * move
        lost = jnp.where(stalled, p.c_path * (2.0 - p.c_path), 0.0)

        squares = jnp.maximum(jnp.sum(white**2, axis=1), 1e-30)
        weight = p.weight * jnp.where(p.weight >= 0, 1.0, d / squares)
        covariance = (1.0 + p.c_one * lost - p.c_one - p.c_mu * jnp.sum(p.weight)) * state.covariance
        covariance += p.c_one * covariance_path[:, None] * covariance_path[None, :]
        covariance += p.c_mu * (steps.T * weight) @ steps
        # Padded axes stay apart, at variance 1.
        both = mask[:, None] & mask[None, :]
        covariance = jnp.where(both, (covariance + covariance.T) / 2.0, jnp.eye(len(mask), dtype=jnp.float64))
        values, vectors = jnp.linalg.eigh(covariance)
        values = jnp.maximum(values, 1e-14 * jnp.max(values))
        root = (vectors * jnp.sqrt(values)) @ vectors.T
        after = state._replace(
            mean=jnp.where(mask, state.mean + state.sigma * move, 0.5),
            sigma=jnp.clip(sigma, *SIGMA),
            covariance=covariance,
            root=root,
            inverse=(vectors / jnp.sqrt(values)) @ vectors.T,
            sigma_path=sigma_path,
            covariance_path=covariance_path,
        )
        after = jax.tree.map(lambda a, b: jnp.where(jnp.any(finite), a, b), after, state)
        return after._replace(
            loss=jnp.full_like(state.loss, jnp.inf),
            asked=jnp.int32(0),
            told=jnp.int32(0),
            first=state.first + state.told,
            generation=state.generation + 1,
        )

    def describe(self) -> str:
        """One line: what the budget means."""
        size = "4 + floor(3 ln d)" if self.population is None else f"{self.population}"
        n = self.num_trials
        return f"cmaes: {n} full training{'s' * (n != 1)}, in generations of {size}"
