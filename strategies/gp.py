"""Bayesian optimisation with a Gaussian process.

Jones, Schonlau and Welch, "Efficient Global Optimization of Expensive Black-Box Functions", J. Global Optim.
1998; Snoek, Larochelle and Adams, "Practical Bayesian Optimization of Machine Learning Algorithms", 2012,
arXiv 1206.2944. The model is in `gp_model`, the acquisitions and their maximiser in `gp_acquisition`.

Losses are made tame before the model sees them: from the median up, in units of the distance between the
median and the minimum, z becomes log(1 + z), at most 3 (z = 19); a loss that is not finite counts as the
worst finite one; then mean 0, variance 1. So neither 1e30 nor a diverged run flattens the good end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import NONE, Feedback, Job
from bench.space import UNORDERED, Cube
from strategies import gp_acquisition as acquisition
from strategies import gp_model as model

UNSEEN, PENDING, TOLD = 0, 1, 2
CEILING = 3.0  # of a tame loss above the median
TINY, LARGEST = 1e-300, 1e150
ACQUISITIONS = ("logei", "ucb", "thompson")
COLUMNS = 16  # of the candidates: from the best of each the search climbs
MOST = 2**30  # discrete points are numbered below this


class State(NamedTuple):
    """n = num_trials rows, one a trial.

    design f32[start, d] · x f32[n, d], snapped · loss f64[n] · status i32[n], UNSEEN, PENDING or TOLD · count
    i32[], trials granted or told elsewhere · fits i32[], models fitted · search: the MAP's, kept warm · warp
    f64[5], the last `_tame` · mean f64[n], posterior means at the last fit, in tame units · variance f64[n],
    of a proposed point when it was proposed, 1 if no model proposed it.
    """

    design: Any
    x: Any
    loss: Any
    status: Any
    count: Any
    fits: Any
    search: model.Search
    warp: Any
    mean: Any
    variance: Any


class Table(NamedTuple):
    """The trials that a turn looks at. x f32[rows, d] · loss, mean f64[rows] · told, running bool[rows] ·
    barred bool[rows]: not to be proposed again · free bool[]: a discrete space has a point that is not
    barred · spare f32[d]: such a point · cells f32[candidates / 2, d]: points of the discrete axes, all of
    them where they are few bool[]."""

    x: Any
    loss: Any
    mean: Any
    told: Any
    running: Any
    barred: Any
    free: Any
    spare: Any
    cells: Any
    few: Any


def block(rows: int) -> int:
    """Rows of the smallest table that holds `rows`: each size is one more program, and costs grow with the
    cube of the rows."""
    for size in (32, 64, 96, 128, 192, 256):
        if rows <= size:
            return size
    return -(-rows // 128) * 128


@lru_cache
def _lattice(n: int, width: int) -> np.ndarray:
    """Sobol points, f32[n, width]."""
    from scipy.stats import qmc  # here, since importing it takes a second

    return qmc.Sobol(width, scramble=False).random(n).astype(np.float32)


def _uniform(key: jax.Array, n: int) -> jax.Array:
    """n numbers in [0, 1), f32[n], mixed from the key's two words (the finaliser of MurmurHash3): a
    threefry draw here would double the time to compile."""
    words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)

    def mix(h):
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return h ^ (h >> 16)

    h = mix(jnp.arange(1, n + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) ^ words[0])
    h = mix(h + words[-1])
    return (h >> 8).astype(jnp.float32) * np.float32(2.0**-24)


def _normals(key: jax.Array, n: int) -> jax.Array:
    """n standard normals f64[n] by Box and Muller, independent of what `_uniform` gives for this key."""
    u = _uniform(jax.random.fold_in(key, 1), 2 * n).astype(jnp.float64)
    return jnp.sqrt(-2.0 * jnp.log(1.0 - u[:n])) * jnp.cos(2.0 * math.pi * u[n:])


def _measure(loss: jax.Array, told: jax.Array) -> jax.Array:
    """What `_tame` needs, f64[5]: median, unit, worst tame value, then mean and deviation of the tame."""
    good = told & jnp.isfinite(loss)
    count = jnp.sum(good)
    # The (lower) median by counting: a sort takes longer to compile than all the rest of this.
    lower = jnp.sum((loss[None, :] < loss[:, None]) & good[None, :], -1)
    middle = jnp.max(jnp.where(good & (lower <= (count - 1) // 2), loss, -jnp.inf))
    middle = jnp.where(count > 0, middle, 0.0)
    unit = jnp.where(count > 0, middle - jnp.min(jnp.where(good, loss, jnp.inf)), 0.0)
    # Half or more at the minimum: the spread above it is the only unit there is.
    above = jnp.where(good, loss - middle, 0.0)
    other = jnp.sum(jnp.maximum(above, 0.0)) / jnp.maximum(count, 1)
    unit = jnp.where(unit > 0.0, unit, other)
    unit = jnp.where(unit > TINY, unit, 1.0)
    first = jnp.stack([middle, unit, jnp.float64(jnp.inf), jnp.float64(0.0), jnp.float64(1.0)])
    tame = _tame(loss, first)
    worst = jnp.max(jnp.where(good, tame, -1.0))
    tame = jnp.where(told, jnp.where(good, tame, worst), 0.0)
    n = jnp.maximum(jnp.sum(told), 1)
    mean = jnp.sum(tame) / n
    deviation = jnp.sqrt(jnp.sum(jnp.where(told, (tame - mean) ** 2, 0.0)) / n)
    return jnp.stack([middle, unit, worst, mean, jnp.where(deviation > 1e-9, deviation, 1.0)])


def _bounded(loss: jax.Array) -> jax.Array:
    """Losses f64 within +-LARGEST, so that their differences are finite; those that are not stay."""
    return jnp.where(jnp.isfinite(loss), jnp.clip(loss, -LARGEST, LARGEST), jnp.inf)


def _tame(loss: jax.Array, warp: jax.Array) -> jax.Array:
    """Losses on the model's scale (see the module)."""
    middle, unit, worst, mean, deviation = warp
    z = jnp.where(jnp.isfinite(loss), (loss - middle) / unit, jnp.inf)
    z = jnp.where(z > 0.0, jnp.minimum(jnp.log1p(jnp.maximum(z, 0.0)), CEILING), z)
    z = jnp.where(jnp.isfinite(loss), z, jnp.minimum(worst, CEILING))
    return (z - mean) / deviation


@dataclass(frozen=True)
class GP:
    """Proposes where an acquisition is highest; each trial is one full training.

    start: trials of the shared random design before the model, those told from elsewhere included ·
    acquisition: "logei", "ucb" or "thompson" · coefficient: standard deviations of UCB · candidates: points
    to choose from, half of them over the whole cube, half around the best trial · refinements: gradient
    steps from the best of them · steps: evaluations of the MAP objective at each fit, which goes on from the
    one before · prior_trials: trials to be told before the first ask.

    Jobs that still run (more than one worker): LogEI and UCB take them as if told their posterior mean, the
    kriging believer. It costs one evaluation of a model that is there anyway, leaves the mean alone and
    takes the worth of what is under way to nothing, where averaging over fantasies would multiply the cost
    and a constant liar would bend the mean. A Thompson draw ignores them, since each ask draws anew
    (Kandasamy et al. 2018). No strategy proposes a point again, running or told, while a discrete space has
    others; when it has none, only those that run are barred.
    """

    start: int = 6
    acquisition: str = "logei"
    coefficient: float = 1.8
    candidates: int = 128
    refinements: int = 16
    steps: int = 5
    prior_trials: int = 0
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    def __post_init__(self):
        if self.acquisition not in ACQUISITIONS:
            raise ValueError(
                f"acquisition must be one of {', '.join(ACQUISITIONS)}, got {self.acquisition!r}"
            )
        for name, low in {"start": 1, "steps": 1, "refinements": 0, "prior_trials": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not (math.isfinite(self.coefficient) and self.coefficient >= 0.0):
            raise ValueError(f"coefficient must be at least 0, got {self.coefficient}")
        if self.candidates < 1 or self.candidates % (2 * COLUMNS):
            raise ValueError(
                f"candidates must be a positive multiple of {2 * COLUMNS}, got {self.candidates}"
            )
        if self.max_epoch < 1:
            raise ValueError(f"max_epoch must be at least 1, got {self.max_epoch}")
        if self.budget + 1e-9 < 1.0:
            raise ValueError(f"gp needs a budget of at least 1 full training, got {self.budget}")

    @property
    def num_trials(self) -> int:
        return int(np.floor(self.budget + 1e-9)) + self.prior_trials

    @property
    def anytime(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def describe(self) -> str:
        new = self.num_trials - self.prior_trials
        design = min(max(self.start - self.prior_trials, 0), new)
        return f"gp: {new} full trainings, {design} of a random design, {new - design} proposed by the model"

    def stage(self, granted: int) -> int:
        """Rows of the model for a turn in which no lane was granted more than `granted` jobs before: a static
        argument of `ask`. 0: the start-up design needs no model, and none is compiled."""
        granted = granted + self.prior_trials
        # After the last trial an ask only waits.
        return 0 if granted < self.start or granted >= self.num_trials else block(granted)

    @property
    def _axes(self) -> model.Axes:
        return model.Axes(jnp.asarray(self.cube.mask), jnp.asarray(self.cube.kind == UNORDERED))

    def init(self, key: jax.Array) -> State:
        """The state before anything is told; `key` draws the design."""
        n = self.num_trials
        design = self.cube.start(key, min(self.start, n))
        return State(
            design=design,
            x=jnp.full((n, self.cube.width), 0.5, jnp.float32).at[: len(design)].set(self.cube.snap(design)),
            loss=jnp.full((n,), jnp.inf, jnp.float64),
            status=jnp.full((n,), UNSEEN, jnp.int32),
            count=jnp.int32(0),
            fits=jnp.int32(0),
            search=model.start_search(self._axes),
            warp=jnp.array([0.0, 1.0, 0.0, 0.0, 1.0], jnp.float64),
            mean=jnp.zeros((n,), jnp.float64),
            variance=jnp.ones((n,), jnp.float64),
        )

    def ask(self, key: jax.Array, state: State, stage: int | None = None) -> tuple[Job, State]:
        """The next trial; waits after the last one. `stage` (static): rows, by default the full table."""
        n = self.num_trials
        state = jax.lax.optimization_barrier(state)
        k = state.count
        done = k >= n
        row = jnp.where(done, n, k)
        if stage is None:
            stage = block(n) if n > self.start else 0
        table = jax.lax.optimization_barrier(self._table(key, state, stage or n))
        x = state.design[jnp.minimum(k, state.design.shape[0] - 1)]
        repeated = jnp.any(table.barred & jnp.all(self.cube.snap(x) == table.x, -1))
        x = jnp.where(repeated & table.free, table.spare, x)
        if stage:
            modelled = (k >= self.start) & ~done
            proposal, state = self._propose(key, state, table, modelled)
            x = jnp.where(modelled, proposal, x)
        state = state._replace(
            x=state.x.at[row].set(self.cube.snap(x), mode="drop"),
            status=state.status.at[row].set(PENDING, mode="drop"),
            count=jnp.where(done, k, k + 1),
        )
        x = jnp.where(done, jnp.float32(0.5), x)
        trial = jnp.where(done, NONE, k).astype(jnp.int32)
        until = jnp.where(done, 0, self.max_epoch).astype(jnp.int32)
        return Job(trial, jnp.int32(NONE), x, until), state

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        """Notes a loss; also that of a trial made elsewhere and never asked for."""
        n = self.num_trials
        row = jnp.where(job.trial < 0, n, job.trial)
        safe = jnp.minimum(row, n - 1)
        # What one more observation does to a mean, until the next fit does it to all of them.
        gain = state.variance[safe] / (state.variance[safe] + jnp.exp(state.search.theta[-1]))
        loss = _bounded(jnp.asarray(feedback.loss, jnp.float64))
        value = _tame(loss, state.warp)
        mean = state.mean[safe] + gain * (value - state.mean[safe])
        return state._replace(
            x=state.x.at[row].set(self.cube.snap(job.x), mode="drop"),
            loss=state.loss.at[row].set(loss, mode="drop"),
            status=state.status.at[row].set(TOLD, mode="drop"),
            count=jnp.maximum(state.count, jnp.where(row < n, row + 1, 0).astype(jnp.int32)),
            mean=state.mean.at[row].set(mean, mode="drop"),
        )

    def recommend(self, state: State) -> Job:
        """The told trial of the lowest posterior mean (of the lowest loss before the first fit).

        Costs no fit: means are those of the last one, and a trial told since has updated its own."""
        told = state.status == TOLD
        value = jnp.where(state.fits > 0, state.mean, state.loss)
        value = jnp.where(told & jnp.isfinite(state.loss), value, jnp.inf)
        best = jnp.argmin(jnp.where(jnp.any(jnp.isfinite(value)), value, jnp.where(told, 0.0, jnp.inf)))
        trial = jnp.where(jnp.any(told), best, NONE).astype(jnp.int32)
        return Job(trial, jnp.int32(NONE), state.x[best], jnp.int32(self.max_epoch))

    @property
    def _strides(self) -> jax.Array:
        """i32[d+1]: points that the discrete axes before each make, at most MOST; all of them at the end."""
        sizes = jnp.cumprod(jnp.maximum(self.cube.levels, 1).astype(jnp.float64))
        sizes = jnp.concatenate([jnp.ones((1,), jnp.float64), sizes])
        return jnp.minimum(sizes, MOST).astype(jnp.int32)

    def _cells(self, index: jax.Array, shift: jax.Array) -> jax.Array:
        """Points f32[n, d] of the discrete axes by number i32[n], the other axes at `shift` f32[d]."""
        cube = self.cube
        digit = index[:, None] // self._strides[:-1] % jnp.maximum(cube.levels, 1)
        span = jnp.where(cube.mask, cube.high - cube.low, 1.0)
        least = jnp.floor(jnp.where(cube.log, jnp.exp(cube.low), cube.low) + 1.0 - 1e-3)
        value = least + digit.astype(jnp.float32)
        value = jnp.where(cube.log, jnp.log(jnp.maximum(value, 1e-30)), value)
        return cube.snap(jnp.where(cube.levels > 0, (value - cube.low) / span, shift))

    def _table(self, key: jax.Array, state: State, rows: int) -> Table:
        """The first `rows` trials, and what a discrete space still has: of any rows + 1 different points one
        at least is not taken."""
        cube = self.cube

        def top(a, fill):
            a = a[:rows]
            return jnp.pad(a, [(0, rows - a.shape[0])] + [(0, 0)] * (a.ndim - 1), constant_values=fill)

        x, status = top(state.x, 0.5), top(state.status, UNSEEN)
        taken, running = status != UNSEEN, status == PENDING
        size = jnp.where(jnp.any(cube.mask & (cube.levels == 0)), MOST, self._strides[-1])
        noise = _uniform(key, cube.width + 1)
        first = jnp.floor(noise[-1].astype(jnp.float64) * size).astype(jnp.int32)
        count = max(rows + 1, self.candidates // 2)
        cells = self._cells((first + jnp.arange(count, dtype=jnp.int32)) % size, noise[:-1])
        same = jnp.ones((count, rows), bool)
        for i in range(cube.width):
            same &= cells[:, None, i] == x[None, :, i]
        unseen = ~jnp.any(same & taken, -1)
        some = jnp.any(unseen)
        idle = unseen | (~some & ~jnp.any(same & running, -1))
        return Table(
            x=x,
            loss=top(state.loss, np.inf),
            mean=top(state.mean, 0.0),
            told=status == TOLD,
            running=running,
            barred=jnp.where(some, taken, running),
            free=jnp.any(idle),
            spare=cells[jnp.argmax(idle)],
            cells=cells[: self.candidates // 2],
            few=size <= self.candidates // 2,
        )

    def _propose(self, key: jax.Array, state: State, table: Table, wanted: jax.Array):
        """The model's point f32[d], and the state with what it learnt where `wanted` bool[]."""
        cube, axes, n = self.cube, self._axes, self.num_trials
        told, loss = table.told, table.loss
        place = table.x.astype(jnp.float64)
        warp = _measure(loss, told)
        y = jnp.where(told, _tame(loss, warp), 0.0)
        y, place = jax.lax.optimization_barrier((y, place))

        thompson = self.acquisition == "thompson"
        # A draw is of what is known; the believer's rows would make it one of what is not.
        pending = jnp.zeros_like(told) if thompson else table.running
        taken = told | pending
        process, search = model.fit(place, y, told, pending, axes, state.search, self.steps)
        smooth = y - jnp.exp(process.theta[-1]) * process.weight  # posterior means at the told points
        ranked = jnp.where(told, smooth, jnp.inf)
        best = jnp.where(jnp.any(told), jnp.min(ranked), 0.0)
        pool = self._pool(key, state.x[jnp.argmin(ranked)], table).astype(jnp.float64)
        process, pool, best = jax.lax.optimization_barrier((process, pool, best))

        if thompson:
            found = acquisition.draw(
                process, pool, _normals(key, len(pool)), place, taken, table.barred, axes
            )
        else:

            def worth(mean, variance):
                if self.acquisition == "ucb":
                    return acquisition.ucb(mean, variance, self.coefficient)
                return acquisition.log_ei(mean, variance, best)

            def evaluate(x):
                return acquisition.slope(process, worth, x, place, taken, table.barred, axes)

            def snap(x):
                return cube.snap(x.astype(jnp.float32)).astype(jnp.float64)

            step = jnp.minimum(0.03 * jnp.exp(process.theta[:-1]), 0.02)
            columns = pool.reshape(-1, COLUMNS, cube.width)
            found = acquisition.climb(evaluate, snap, columns, step, self.refinements)

        row = jnp.where(wanted, state.count, n)
        means = jnp.where(told, smooth, table.mean)[:n]
        state = state._replace(
            fits=jnp.where(wanted, state.fits + 1, state.fits),
            search=jax.tree.map(lambda a, b: jnp.where(wanted, a, b), search, state.search),
            warp=jnp.where(wanted, warp, state.warp),
            mean=state.mean.at[: len(means)]
            .set(jnp.where(wanted, means, state.mean[: len(means)]))
            .at[row]
            .set(found.mean, mode="drop"),
            variance=state.variance.at[row].set(found.variance, mode="drop"),
        )
        return found.x.astype(jnp.float32), state

    def _pool(self, key: jax.Array, base: jax.Array, table: Table) -> jax.Array:
        """Candidates f32[candidates, d], snapped: shifted Sobol points over the cube (all points of a space
        that has no more), then as many around `base` f32[d] at distances from .25 to .0005, along all axes or
        some; in place of the first, a point that nobody took."""
        cube, width, half = self.cube, self.cube.width, self.candidates // 2
        points = jnp.asarray(_lattice(half, 3 * width + 2)) + _uniform(key, 3 * width + 2)
        points = points - jnp.floor(points)
        whole, move, which = points[:, :width], points[:, width : 2 * width], points[:, 2 * width : -2]
        reach = 0.25 * jnp.exp(-math.log(500.0) * points[:, -2:-1])
        # A discrete axis moves by at least a level, or the point would snap back; and not always.
        discrete = cube.levels > 0
        reach = jnp.where(discrete, jnp.maximum(reach, 1.6 / jnp.maximum(cube.levels, 1)), reach)
        moved = jnp.where(cube.kind == UNORDERED, move, base + reach * (2.0 * move - 1.0))
        share = jnp.where(points[:, -1:] < 0.5, jnp.where(discrete, 0.5, 1.0), 0.35)
        whole = jnp.where(table.few, table.cells, whole)
        pool = cube.snap(jnp.concatenate([whole, jnp.where(which < share, moved, base)]))
        return pool.at[0].set(jnp.where(table.free, table.spare, pool[0])).astype(jnp.float32)
