"""The learning-rate range test: one mock epoch whose rate grows from step to step, and what to read off it.

Smith 2017, Cyclical Learning Rates, arXiv:1506.01186, whose rate grows linearly and who looks at the
accuracy; exponential growth, smoothing, the end at four times the best loss and four of the rules are those
of fastai's `lr_find` (Howard & Gugger 2020, arXiv:2002.04688; version 2.8), to which they are held by test.
The rule `guide` is the tuning guides': one order of magnitude below the rate where the loss starts to rise.

Departures from fastai: both ends of the range belong to it; the steps after the end are computed and thrown
away, since a compiled program does not stop half-way, but not charged; a curve without a fall, or without a
rise where a rule needs one, gets a sentence and no number. `guide` looks at a centred mean: fastai's
smoothing remembers 50 steps, half of its test, and so sees the rise late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.drive import instance_key, instances_of, seed_keys
from bench.simulate import LESS
from bench.space import Float

LOW, HIGH, STEPS = 1e-7, 10.0, 100  # of the rates: fastai's
MEMORY = 0.98  # of the exponential mean, fastai's
EXPLODED = 4.0  # times the best smoothed loss ends the test, fastai's
SKIPPED = 10, 5  # fastai reads no rule off the first tenth of the steps nor off the last five
LEAP, SLOPE = 15, 0.005  # of the rule `slide`, fastai's
WIDTH = 5  # steps of the centred mean
FALL = 4.0  # standard deviations that count as a fall, the lowest of many means being looked at
RULES = ("guide", "minimum", "steepest", "valley", "slide")


class Finding(NamedTuple):
    """What one test showed. rates, losses, smoothed f64[n]: of the steps up to the end of the test, the last
    losses may be infinite · stopped: the test ended before its last rate · words: what the curve looks like ·
    sound: it has a fall to read rules off · suggestions: a rate for each of RULES, nan where it has none."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    stopped: bool
    sound: bool
    words: str
    suggestions: dict[str, float]


def rate_axes(space: Any) -> list[str]:
    """The names of the axes that are learning rates: real, of role `rate`."""
    return [name for name, axis in space.axes.items() if isinstance(axis, Float) and axis.role == "rate"]


def test_rates(low: float = LOW, high: float = HIGH, steps: int = STEPS) -> np.ndarray:
    """The rates of a test, f32[steps], growing exponentially from `low` to `high`."""
    if not 0 < low < high:
        raise ValueError(f"rates must grow from above 0, got low={low:g}, high={high:g}")
    if steps < 2 * WIDTH:
        raise ValueError(f"steps must be at least {2 * WIDTH}, got {steps}")
    return np.geomspace(low, high, steps).astype(np.float32)


def smooth(losses: np.ndarray, memory: float = MEMORY) -> np.ndarray:
    """Exponential mean f64[n] of losses f64[n] up to each step, without the pull of its start at zero."""
    total, found = 0.0, np.empty(len(losses))
    for i, loss in enumerate(losses):
        total = memory * total + (1.0 - memory) * loss
        found[i] = total / (1.0 - memory ** (i + 1))
    return found


def centred(losses: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """Mean f64[n] over `width` steps around each step, over fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    at, half = np.arange(len(losses)), width // 2
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(losses))
    return (total[last] - total[first]) / (last - first)


def end_of_test(losses: np.ndarray) -> int:
    """How many steps of losses f64[n] the test runs: to the first whose loss is not finite or whose smoothed
    loss is EXPLODED times its best, that one included."""
    sound = np.isfinite(losses)
    finite = len(losses) if sound.all() else int(np.argmin(sound))
    smoothed = smooth(losses[:finite])
    best = np.minimum.accumulate(smoothed)
    # Where losses may be negative, as far above the best as four times it would be above a positive one.
    beyond = smoothed > best + (EXPLODED - 1.0) * np.abs(best)
    return int(np.argmax(beyond)) + 1 if beyond.any() else min(finite + 1, len(losses))


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate of the lowest loss."""
    return float(rates[np.argmin(losses)]) / 10.0


def steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate from which the loss falls most per log rate."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))]) if len(rates) > 1 else math.nan


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """The middle of the longest valley: of as many steps as the longest falling subsequence has, up to where
    that ends. (Two thirds along, says fastai's text; its code goes one third and half a third.)"""
    length = np.ones(len(losses), np.int64)
    for i in range(1, len(losses)):
        length[i] = 1 + max(length[:i][losses[:i] > losses[i]], default=0)
    end = int(np.argmax(length))
    if length[end] == 1:
        return math.nan
    third = length[end] / 3.0
    return float(rates[end - int(length[end]) + int(third) + int(third / 2.0)])


def slide(rates: np.ndarray, losses: np.ndarray) -> float:
    """Two points LEAP steps apart slide down from the last step while the slopes of the loss differ there;
    the rate where the lower one last was. nan for fewer than LEAP + 2 steps."""
    if len(rates) < LEAP + 2:
        return math.nan
    slope = np.gradient(losses)
    uneven = np.abs(slope[LEAP:] - slope[:-LEAP])[::-1] > SLOPE  # of the lower points n - 1 - LEAP, ... 0
    slid = len(uneven) if uneven.all() else int(np.argmin(uneven))
    return float(rates[len(rates) - 1 - LEAP - max(slid - 1, 0)])


def find(rates: np.ndarray, losses: np.ndarray) -> Finding:
    """Reads the rules off losses f[n] at growing rates f[n]."""
    rates, losses = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    steps = len(losses)
    end = end_of_test(losses)
    stopped = end < steps or not np.isfinite(losses[-1])
    finite = end if np.isfinite(losses[end - 1]) else end - 1
    smoothed = np.append(smooth(losses[:finite]), np.full(end - finite, np.inf))
    none: dict[str, float] = dict.fromkeys(RULES, math.nan)
    seen, curve, tenth = rates[:finite], centred(losses[:finite]), max(steps // SKIPPED[0], 2)

    def finding(sound: bool, words: str, suggestions: dict[str, float]) -> Finding:
        return Finding(rates[:end], losses[:end], smoothed, stopped, sound, words, suggestions)

    if finite <= tenth + SKIPPED[1]:
        return finding(False, f"diverged from the start: the loss is lost at {rates[end - 1]:.2g}", none)
    lowest = int(np.argmin(curve))
    start, fall = float(losses[:tenth].mean()), float(losses[:tenth].mean() - curve[lowest])
    # Of a step's loss: from step to step the trend moves little, and the median leaves out where it does.
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses[:finite])))) / math.sqrt(2.0)
    noise *= math.sqrt(1.0 / WIDTH + 1.0 / tenth)
    if fall <= FALL * noise or fall <= 1e-3 * abs(start):
        shape = f"rises from {start:.3g} without falling first" if stopped else f"stays at {start:.3g}: flat"
        return finding(False, f"the loss {shape}; nothing can be read off it", none)
    falls = f"falls from {start:.3g} to {curve[lowest]:.3g} at {seen[lowest]:.2g}"
    rises = lowest < finite - 1 - WIDTH // 2
    if rises:
        words = f"{falls}, then rises" + (f"; exploded at {rates[end - 1]:.2g}" if stopped else "")
    elif finite < end:
        words = f"{falls}, diverged at {rates[end - 1]:.2g}"
        rises = True
    else:
        words = f"{falls} and has not risen by {rates[end - 1]:.2g}: go to higher rates"
    kept = slice(steps // SKIPPED[0], end - SKIPPED[1])
    shown = rates[kept], smoothed[kept]
    return finding(
        True,
        f"the loss {words}",
        {
            "guide": float(seen[lowest]) / 10.0 if rises else math.nan,
            "minimum": minimum(*shown),
            "steepest": steepest(*shown),
            "valley": valley(*shown),
            "slide": slide(*shown),
        },
    )


# On an objective --------------------------------------------------------------------------------------


class Tests(NamedTuple):
    """Range tests of an objective's default configuration, one a seed. rates f32[steps] · losses f64[seeds,
    steps] · findings: one a seed · epochs f64[seeds]: what each cost, the steps after its end not counted;
    nan where the objective does not say how many updates an epoch has."""

    rates: np.ndarray
    losses: np.ndarray
    findings: list[Finding]
    epochs: np.ndarray


class Sweep(NamedTuple):
    """What the suggestions are worth. rates f64[r] · losses f64[seeds, r]: true losses at max_epoch of the
    default configuration at constant rates, infinite where it diverged · best f64[seeds]: the lowest ·
    suggested f64[seeds, RULES]: true losses at the suggestions, nan where there is none."""

    rates: np.ndarray
    losses: np.ndarray
    best: np.ndarray
    suggested: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """f64[seeds, RULES]: loss at the suggestion over the best of the sweep."""
        return self.suggested / self.best[:, None]


def check(objective: Any) -> None:
    """Raises ValueError, in one sentence, where the finder has nothing to work with."""
    name = getattr(objective, "name", type(objective).__name__)
    if not hasattr(objective, "range_test"):
        raise ValueError(
            f"{name} has no learning-rate range test: it offers no `range_test` (see the contract)"
        )
    if not rate_axes(objective.space):
        raise ValueError(f"{name} has no learning rate: no real axis of its space has the role `rate`")


def _at(objective: Any, rate: Any) -> dict[str, Any]:
    """The default configuration at a learning rate, which may lie outside its axis."""
    hp = objective.space.decode_array(jnp.asarray(objective.space.cube().default))
    return hp | {name: jnp.asarray(rate, jnp.float32) for name in rate_axes(objective.space)}


def _draw(objective: Any, seed: Any, instance: Any) -> tuple[Any, jax.Array]:
    """A seed's instance, and the key of its first trial, as the drivers have them."""
    return objective.draw(instance_key(instance)), jax.random.fold_in(seed_keys(seed)[2], 0)


def updates(objective: Any) -> float:
    """Updates in an epoch of the default configuration; nan where the objective has no `updates(hp)`."""
    if not hasattr(objective, "updates"):
        return math.nan
    with jax.enable_x64(True):
        return float(objective.updates(_at(objective, LOW)))


def range_tests(
    objective: Any, seeds: Sequence[int], rates: np.ndarray, instances: np.ndarray | None = None
) -> Tests:
    """The range test of each seed, at rates f32[steps]; `instances` i64[seeds], by default those that runs
    have. Raises ValueError as `check`."""
    check(objective)
    instances = instances_of(seeds) if instances is None else instances

    def one(seed, instance):
        instance, key = _draw(objective, seed, instance)
        return objective.range_test(instance, key, _at(objective, LOW), jnp.asarray(rates, jnp.float32))

    with jax.enable_x64(True):
        losses = np.asarray(
            jax.jit(jax.vmap(one))(np.asarray(seeds, np.uint32), np.asarray(instances)), np.float64
        )
    findings = [find(rates, row) for row in losses]
    steps = np.array([len(finding.rates) for finding in findings])
    return Tests(rates, losses, findings, steps / updates(objective))


def sweep(objective: Any, seeds: Sequence[int], tests: Tests, points: int = 65) -> Sweep:
    """Trains the default configuration of each seed at `points` rates over its axis and at each suggestion: a
    seed's trainings share instance and key, so that they differ in nothing but the rate."""
    axis = objective.space.axes[rate_axes(objective.space)[0]]
    grid = np.geomspace(axis.low, axis.high, points)
    asked = np.array([[f.suggestions[rule] for rule in RULES] for f in tests.findings])
    rates = np.concatenate([np.tile(grid, (len(seeds), 1)), np.nan_to_num(asked, nan=axis.low)], 1)
    which = np.repeat(np.asarray(seeds, np.uint32), rates.shape[1])
    block = int(getattr(objective, "pool", 64)) if hasattr(objective, "chunk") else 512
    end = jnp.int32(objective.max_epoch)

    @partial(jax.jit, compiler_options=LESS if jax.default_backend() == "cpu" else {})
    @jax.vmap
    def train(seed, instance, rate):
        instance, key = _draw(objective, seed, instance)
        checkpoint = objective.init(instance, key)
        return objective.train(instance, key, checkpoint, _at(objective, rate), jnp.int32(0), end)[2]

    found = []
    with jax.enable_x64(True):
        for first in range(0, len(which), block):
            rows = np.minimum(np.arange(first, first + block), len(which) - 1)
            part = train(which[rows], instances_of(which[rows]), rates.ravel()[rows].astype(np.float32))
            found.append(np.asarray(part, np.float64)[: len(which) - first])
    losses = np.concatenate(found).reshape(rates.shape)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    suggested = np.where(np.isnan(asked), np.nan, losses[:, points:])
    return Sweep(grid, losses[:, :points], losses[:, :points].min(1), suggested)
