"""Tuning one kind of hyperparameter after the other, in the guides' order, the best so far held fixed.

The order is that of the tuning guides: learning rate, then schedule, batch size, regularisation,
architecture. Against it stands `random_search`, which tunes all jointly: the same random numbers, another
order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job, wait
from bench.space import ROLES, Cube
from strategies import design


class State(NamedTuple):
    """points f32[n, d], the shared start-up design · order i32[d]: the stage that tunes each axis, -1 of
    padded ones · stages i32[] · following i32[] · best f32[d], loss f64[], trial i32[]: of the trials
    told."""

    points: Any
    order: Any
    stages: Any
    following: Any
    best: Any
    loss: Any
    trial: Any


@dataclass(frozen=True)
class Staged:
    """Random search over the axes of one role at a time, from the best of the stages before.

    order: roles in their order; axes of other roles come last, together. The first trial is the default
    configuration, the others are shared among the stages that have axes, as evenly as they can be. Of the
    row of the shared start-up design that a trial has, it takes the axes of its stage."""

    order: tuple[str, ...] = ("rate", "schedule", "batch", "regularisation", "architecture")
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    note = "the default, then random trials over the axes of one role after the other, each trained in full"
    anytime = False  # the stages' lengths follow the budget
    needs = frozenset()
    lanes = 1024  # nothing here depends on how many there are: only comparisons and counts

    def __post_init__(self):
        object.__setattr__(self, "order", tuple(self.order))
        design.trainings(self.budget)
        unknown = [role for role in self.order if role not in ROLES]
        if unknown:
            raise ValueError(f"order must name roles out of {', '.join(ROLES)}, got {unknown[0]!r}")
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"order must name a role once, got {', '.join(self.order)}")

    @property
    def num_trials(self) -> int:
        return design.trainings(self.budget)

    def init(self, key: jax.Array) -> State:
        """Which axis belongs to which stage is read off the cube."""
        cube = self.cube
        last = len(self.order)
        place = jnp.array([self.order.index(r) if r in self.order else last for r in ROLES], jnp.int32)
        wanted = place[jnp.asarray(cube.role)]
        kinds = jnp.arange(last + 1, dtype=jnp.int32)
        there = jnp.any((wanted[None, :] == kinds[:, None]) & cube.mask, -1)
        number = jnp.cumsum(there, dtype=jnp.int32) - 1
        return State(
            points=cube.start(key, self.num_trials),
            order=jnp.where(cube.mask, number[wanted], NONE).astype(jnp.int32),
            stages=jnp.sum(there, dtype=jnp.int32),
            following=jnp.int32(0),
            best=cube.fix(jnp.asarray(cube.default, jnp.float32)),
            loss=jnp.float64(jnp.inf),
            trial=jnp.int32(NONE),
        )

    def ask(self, key: jax.Array, state: State) -> tuple[Job, State]:
        k, n = state.following, self.num_trials
        stage = jnp.where(k == 0, NONE - 1, (k - 1) * state.stages // max(n - 1, 1))
        x = jnp.where(state.order == stage, state.points[jnp.minimum(k, n - 1)], state.best)
        job = Job(k, jnp.int32(NONE), x, jnp.int32(self.max_epoch))
        job = jax.tree.map(lambda a, b: jnp.where(k < n, a, b), job, wait(self.cube))
        return job, state._replace(following=jnp.where(k < n, k + 1, k))

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        """The best so far is where later trials start from."""
        better = (job.trial != NONE) & (feedback.loss < state.loss)
        return state._replace(
            best=jnp.where(better, job.x, state.best),
            loss=jnp.where(better, feedback.loss, state.loss).astype(jnp.float64),
            trial=jnp.where(better, job.trial, state.trial).astype(jnp.int32),
        )

    def recommend(self, state: State) -> Job:
        """The told trial of the lowest loss."""
        return Job(state.trial, jnp.int32(NONE), state.best, jnp.int32(self.max_epoch))
