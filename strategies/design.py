"""A design laid out before the first training: a table of points, each trained once in full, in order.

Shared by the strategies that do not learn (defaults, grid, random search).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Job, wait
from bench.space import Cube


class Design(NamedTuple):
    """points f32[n, d] in the unit cube · count i32[]: how many of them, from the first, are visited ·
    following i32[]: the next one."""

    points: Any
    count: Any
    following: Any


def trainings(budget: float) -> int:
    """Whole trainings that a budget (full trainings) pays for; raises ValueError below one."""
    if not (math.isfinite(budget) and budget >= 1):
        raise ValueError(f"budget must be at least 1 full training, got {budget}")
    return math.floor(budget + 1e-9)


def lay_out(points: jax.Array, count: Any = None) -> Design:
    """The design that visits the first `count` (all unless given) of points f32[n, d]."""
    count = jnp.int32(points.shape[0]) if count is None else jnp.asarray(count, jnp.int32)
    return Design(points, count, jnp.int32(0))


def ask(cube: Cube, max_epoch: int, design: Design) -> tuple[Job, Design]:
    """Trains the next point from fresh weights to max_epoch; waits once all are granted."""
    more = design.following < design.count
    job = Job(design.following, jnp.int32(NONE), design.points[design.following], jnp.int32(max_epoch))
    job = jax.tree.map(lambda a, b: jnp.where(more, a, b), job, wait(cube))
    return job, design._replace(following=design.following + more.astype(jnp.int32))


def tell(design: Design, job: Job) -> Design:
    """Learns nothing. A trial told before the first ask, made elsewhere, takes its row, which is skipped."""
    return design._replace(following=jnp.maximum(design.following, job.trial + 1).astype(jnp.int32))
