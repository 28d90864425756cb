"""Trials whose curves are looked at every so many epochs; each trains on to the next look or is stopped.

Shared by the rules that stop a run early by its curve (patience, median stopping). An idle worker takes the
trial that was told last and may train on, else it begins a new one, so nobody ever waits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Job, wait
from bench.space import Cube
from strategies.successive_halving import amount


class Turns(NamedTuple):
    """x f32[trials, d] · started i32[], trials · top i32[], the trial that trains on next, NONE: none · below
    i32[trials, 2], the one that trains on after it, and the number of the look to which it goes."""

    x: Any
    started: Any
    top: Any
    below: Any


def looks(max_epoch: int, checks: int) -> tuple[int, ...]:
    """Epochs of `checks` looks, evenly apart, rounded up, the last at max_epoch; never two at one epoch."""
    return tuple(sorted({-(-max_epoch * i // checks) for i in range(1, checks + 1)}))


def check_settings(max_epoch: int, epochs: int, checks: int, budget: float, **counts: int) -> None:
    """Raises ValueError for settings that allow no look; `counts` are integers of at least 0."""
    if int(checks) != checks or checks < 1:
        raise ValueError(f"checks must be an integer of at least 1, got {checks}")
    for name, value in counts.items():
        if int(value) != value or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value}")
    first = looks(max_epoch, checks)[0]
    if epochs < first:
        raise ValueError(f"budget must pay for a job of {first} of {max_epoch} epochs, got {budget}")


def begin(x: jax.Array) -> Turns:
    """Before anything is asked; x f32[trials, d]."""
    return Turns(x, jnp.int32(0), jnp.int32(NONE), jnp.full((x.shape[0], 2), NONE, jnp.int32))


def ask(cube: Cube, ends: tuple[int, ...], turns: Turns) -> tuple[Job, Turns]:
    """The next job, to one of the looks at epochs `ends`."""
    trials = turns.x.shape[0]
    on = turns.top != NONE
    fresh = ~on & (turns.started < trials)
    trial = jnp.where(on, turns.top, jnp.minimum(turns.started, trials - 1))
    under, look = turns.below[trial]
    until = jnp.asarray(ends, jnp.int32)[jnp.where(on, look, 0)]
    idle = wait(cube)
    job = Job(
        trial=jnp.where(on | fresh, trial, idle.trial),
        source=jnp.where(on, trial, NONE),
        x=jnp.where(on | fresh, turns.x[trial], idle.x),
        until=jnp.where(on | fresh, until, idle.until),
    )
    top = jnp.where(on, under, turns.top)
    return job, turns._replace(started=turns.started + fresh.astype(jnp.int32), top=top)


def look_of(ends: tuple[int, ...], job: Job) -> jax.Array:
    """The number i32[] of the look that a job reached, from 0."""
    return jnp.sum(jnp.asarray(ends, jnp.int32) < job.until, dtype=jnp.int32)


def train_on(turns: Turns, on: jax.Array, trial: jax.Array, look: jax.Array) -> Turns:
    """Where `on`, the trial, which reached that look, trains on to the next one."""
    row = jnp.where(on, trial, turns.x.shape[0])
    below = turns.below.at[row].set(jnp.stack([turns.top, look + 1]), mode="drop")
    return turns._replace(top=jnp.where(on, trial, turns.top), below=below)


def describe(name: str, budget: float, max_epoch: int, ends: tuple[int, ...], most: int, rule: str) -> str:
    """One line: what the budget means; `rule` says when a trial is stopped."""
    start = amount(name, budget, max_epoch)
    if len(ends) == 1:
        return start + f"nothing stops early: random search of {most:,} configurations"
    least = max(1, int(budget + 1e-9))
    text = f"{least:,} (none stopped) to {most:,} configurations (all stopped at once), looked at "
    return start + text + f"{len(ends)} times in {max_epoch:,} epochs and stopped {rule}"
