"""Samplers of other libraries as host strategies, a module for each library, imported when one is made.

A peer sees what its users would give it: values on their own scale, integers as integers, choices without an
order as categories.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from bench.protocols import NONE, Job, MissingExtra
from bench.space import UNORDERED, Cube

Design = Callable[[int], np.ndarray]  # n -> the first n rows of the shared start-up design, f32[n, d]


def needed(library: str, *modules: str) -> list[ModuleType]:
    """The modules of a library; raises MissingExtra where it is not installed."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'{error.name} is not installed, which {library} needs: pip install "nearopt[peers]"'
        ) from error


class Axis(NamedTuple):
    """One real axis of a cube on its own scale: values from `first` to `last`, integers where `whole`;
    `low`, `high` are the ends on the scale on which the unit interval is linear."""

    first: Any
    last: Any
    whole: bool
    log: bool
    unordered: bool
    low: float
    high: float

    def value(self, u: float) -> Any:
        """The value at u of the unit interval, as `bench.space` decodes it."""
        value = self.low + min(max(float(u), 0.0), 1.0) * (self.high - self.low)
        value = math.exp(value) if self.log else value
        value = math.floor(value + 0.5) if self.whole else value
        return min(max(value, self.first), self.last)

    def unit(self, value: Any) -> float:
        """Where in the unit interval a value lies; a whole one at the point that stands for it."""
        value = math.log(value) if self.log else float(value)
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def axes(cube: Cube) -> list[Axis]:
    """The real axes of a cube, in order."""
    found = []
    for i in range(int(np.sum(np.asarray(cube.mask)))):
        low, high = float(cube.low[i]), float(cube.high[i])
        log, levels = bool(cube.log[i]), int(cube.levels[i])
        ends = (math.exp(low), math.exp(high)) if log else (low, high)
        if levels:
            least = round(ends[0] + 0.5)
            ends = least, least + levels - 1
        found.append(Axis(*ends, levels > 0, log, int(cube.kind[i]) == UNORDERED, low, high))
    return found


def point(cube: Cube, units: Any) -> np.ndarray:
    """x f32[d] of the real axes' coordinates, padded axes at .5."""
    x = np.full(cube.width, 0.5, np.float32)
    x[: len(units)] = units
    return x


def wait(cube: Cube) -> Job:
    """The job that says: nothing until some running job is told."""
    return Job(NONE, NONE, np.full(cube.width, 0.5, np.float32), 0)


def first_points(cube: Cube, n: int, seed: int, design: Design | None) -> np.ndarray:
    """n start-up points f32[n, d]: the shared design's where the driver gives it, else uniform by `seed`."""
    if design is not None:
        return np.asarray(design(n), np.float32)
    units = np.random.default_rng(seed).random((n, cube.width), np.float32)
    return np.where(np.asarray(cube.mask), units, np.float32(0.5))
