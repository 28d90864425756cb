"""Grid search with a random offset and a random order, for any number of trainings on any number of axes.

The grid of Bergstra & Bengio 2012 (JMLR 13:281). They take the same number of levels on each axis, which
needs B = g^d trainings; here the level counts may differ, else 50 trainings on 6 axes would be one point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Feedback, Job
from bench.space import Cube
from strategies import design

OFFSETS = ("random", "centre")


def level_limits(cube: Cube, budget: int) -> jax.Array:
    """The most levels that an axis can use, i32[d]: its number of values, the budget if continuous."""
    limits = jnp.where(cube.levels > 0, jnp.minimum(cube.levels, budget), budget)
    return jnp.where(cube.mask, limits, 1).astype(jnp.int32)


def level_counts(limits: jax.Array, rank: jax.Array, budget: int) -> jax.Array:
    """The most even level counts with a product of at most `budget`, i32[d], none above limits i32[d].

    Most even: the coarsest axis is as fine as can be, then the next coarsest, and so on. Reached by
    raising the coarsest axis that can be raised, one level at a time; of equally coarse axes the one of
    lowest rank i32[d] (a permutation)."""
    width = limits.shape[-1]

    def open_axes(carry):
        return jnp.any(carry[1])

    def raise_coarsest(carry):
        counts, is_open = carry
        axis = jnp.argmin(jnp.where(is_open, counts * width + rank, np.iinfo(np.int32).max))
        raised = counts.at[axis].add(1)
        # What does not fit now never will: the product only grows.
        fits = (jnp.prod(counts, dtype=jnp.int32) // counts[axis] * raised[axis]) <= budget
        counts = jnp.where(fits, raised, counts)
        return counts, is_open.at[axis].set(fits & (counts[axis] < limits[axis]))

    first = jnp.ones_like(limits), limits > 1
    return jax.lax.while_loop(open_axes, raise_coarsest, first)[0]


_compiled = jax.jit(level_counts)


def level_points(cube: Cube, counts: jax.Array, offset: jax.Array, n: int) -> jax.Array:
    """Levels f32[n, d] of each axis, level i of g at (i + offset) / g; rows beyond an axis's count are idle.

    On a discrete axis a level stands for a value, and all levels for different ones: on a log scale the
    first integers own bins wider than a level, so they are moved on to the next value not yet taken."""
    i = jnp.arange(n, dtype=jnp.int32)[:, None]
    even = (i.astype(jnp.float32) + offset) / counts.astype(jnp.float32)
    span = jnp.where(cube.mask, cube.high - cube.low, 1.0)
    first = jnp.round(jnp.where(cube.log, jnp.exp(cube.low), cube.low) + 0.5)
    value = cube.low + even * span
    value = jnp.floor(jnp.where(cube.log, jnp.exp(jnp.minimum(value, cube.high)), value) + 0.5)
    index = (value - first).astype(jnp.int32)
    index = jnp.minimum(i + jax.lax.cummax(index - i, axis=0), cube.levels - counts + i)
    value = first + jnp.maximum(index, 0)
    chosen = (jnp.where(cube.log, jnp.log(jnp.maximum(value, 1.0)), value) - cube.low) / span
    return cube.fix(jnp.where(cube.levels > 0, chosen, even))


@dataclass(frozen=True)
class Grid:
    """Trains the points of one grid in full, in random order; no more points than the budget.

    Per seed are drawn: which axes are finer where not all can be, the order, and with `offset` random
    where in their cells the levels lie (else centre). Trainings that the grid leaves over are not used."""

    offset: str = "random"
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    anytime = False
    needs = frozenset()
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        if self.offset not in OFFSETS:
            raise ValueError(f"offset must be one of {', '.join(OFFSETS)}, got {self.offset!r}")
        design.trainings(self.budget)

    @property
    def num_trials(self) -> int:
        return design.trainings(self.budget)

    def describe(self) -> str:
        """What the budget buys, in one line."""
        n = self.num_trials
        counts = _compiled(level_limits(self.cube, n), jnp.arange(self.cube.width, dtype=jnp.int32), n)
        counts = sorted(np.asarray(counts)[np.asarray(self.cube.mask)].tolist(), reverse=True)
        points = int(np.prod(counts))
        unused = f", {n - points} trainings left over" if points < n else ""
        return f"{n} trainings = a grid of {' x '.join(map(str, counts))} = {points} points{unused}"

    def init(self, key: jax.Array) -> design.Design:
        """Draws the grid and the order in which its points are visited."""
        n, d = self.num_trials, self.cube.width
        draw = jax.random.uniform(key, (2 * d + n,), jnp.float32)  # one draw: cheap to compile
        ties, offset, order = draw[:d], draw[d : 2 * d], draw[2 * d :]
        if self.offset == "centre":
            offset = jnp.full((d,), 0.5, jnp.float32)
        rank = jnp.sum(ties[None, :] < ties[:, None], axis=1, dtype=jnp.int32)
        counts = level_counts(level_limits(self.cube, n), rank, n)
        size = jnp.prod(counts, dtype=jnp.int32)
        cell = jnp.argsort(jnp.where(jnp.arange(n) < size, order, 2.0)).astype(jnp.int32)
        stride = jnp.cumprod(counts, dtype=jnp.int32) // counts
        level = cell[:, None] // stride % counts
        points = jnp.take_along_axis(level_points(self.cube, counts, offset, n), level, axis=0)
        return design.lay_out(points, size)

    def ask(self, key: jax.Array, state: design.Design) -> tuple[Job, design.Design]:
        return design.ask(self.cube, self.max_epoch, state)

    def tell(self, state: design.Design, job: Job, feedback: Feedback) -> design.Design:
        return design.tell(state, job)
