"""Learning-rate schedules, their hyperparameters as axes: constant, cosine, linear, step, power, piecewise.

Cosine after Loshchilov & Hutter 2017 (SGDR, arXiv:1608.03983) without restarts, linear warm-up after Goyal et
al. 2017 (arXiv:1706.02677); step is the usual two drops by one factor. A schedule is a function of the share
of the training that is done, read at the middle of an epoch, and its horizon is max_epoch.

Every shape but piecewise multiplies `learning_rate`, which may change during training, by a number in (0, 1];
the shape itself is chosen once: moving a warm-up or a drop in the middle of training would make the rate jump
for no reason. So a strategy that changes the rate (PBT) scales what is left of the schedule. The rates of
`piecewise` are all free, and so each may change; a rate of a piece that is over changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bench.space import Float

SCHEDULES = ("constant", "cosine", "linear", "step", "power", "piecewise")


def check_schedule(schedule: str, allowed: tuple[str, ...] = SCHEDULES) -> None:
    """Raises ValueError for a schedule that is not among `allowed`."""
    if schedule not in allowed:
        raise ValueError(f"schedule must be one of {', '.join(allowed)}, got {schedule!r}")


def rate_axes(schedule: str, pieces: int, low: float, high: float, default: float) -> dict[str, Float]:
    """The axes of the rate on [low, high], log scale: `learning_rate`, or `rate_0` to `rate_K-1`."""
    axis = Float(low, high, default, log=True, change=True, role="rate")
    if schedule == "piecewise":
        return {f"rate_{k}": axis for k in range(pieces)}
    return {"learning_rate": axis}


def shape_axes(schedule: str) -> dict[str, Float]:
    """The axes of the shape. warmup: share of the training in which the rate rises · decay_power: 1 falls
    linearly, 2 as a parabola · final_rate: share of the top rate that is left at the end · first_drop: share
    of the training · second_drop: share of what is left then · drop: factor of each."""
    axes = {
        "warmup": Float(0.0, 0.3, 0.05, role="schedule"),
        "decay_power": Float(0.25, 4.0, 1.0, log=True, role="schedule"),
        "final_rate": Float(1e-3, 1.0, 0.01, log=True, role="schedule"),
        "first_drop": Float(0.1, 0.9, 0.5, role="schedule"),
        "second_drop": Float(0.0, 1.0, 0.5, role="schedule"),
        "drop": Float(0.01, 1.0, 0.1, log=True, role="schedule"),
    }
    names = {
        "cosine": ("warmup", "final_rate"),
        "linear": ("warmup", "final_rate"),
        "power": ("warmup", "decay_power", "final_rate"),
        "step": ("warmup", "first_drop", "second_drop", "drop"),
    }
    return {name: axes[name] for name in names.get(schedule, ())}


def multiplier(schedule: str, hp: Mapping, time: jax.Array) -> jax.Array:
    """What a shape multiplies the learning rate by; time f64[], the share of the training done, in (0, 1)."""
    if schedule == "constant":
        return jnp.ones_like(time)
    rise = jnp.minimum(time / jnp.maximum(hp["warmup"], 1e-9), 1.0)
    if schedule == "step":
        second = hp["first_drop"] + hp["second_drop"] * (1.0 - hp["first_drop"])
        first_factor = jnp.where(time > hp["first_drop"], hp["drop"], 1.0)
        return rise * first_factor * jnp.where(time > second, hp["drop"], 1.0)
    left = jnp.minimum((1.0 - time) / (1.0 - hp["warmup"]), 1.0)
    if schedule == "cosine":
        left = 0.5 - 0.5 * jnp.cos(jnp.pi * left)
    elif schedule == "power":
        left = left ** hp["decay_power"]
    return rise * (hp["final_rate"] + (1.0 - hp["final_rate"]) * left)


def learning_rate(schedule: str, pieces: int, hp: Mapping, time: jax.Array) -> jax.Array:
    """The rate at a time, of hyperparameters that hold `rate_axes` and `shape_axes`."""
    if schedule == "piecewise":
        rates = jnp.stack([hp[f"rate_{k}"] for k in range(pieces)])
        return rates[jnp.clip((time * pieces).astype(jnp.int32), 0, pieces - 1)]
    return hp["learning_rate"] * multiplier(schedule, hp, time)
