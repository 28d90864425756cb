"""Analytic test functions with known optima, moved at random from instance to instance.

Formulas and domains: Surjanovic & Bingham, Virtual Library of Simulation Experiments (2013). Branin
and Hartmann as in Dixon & Szego 1978, Ackley 1987, Rosenbrock 1960, Levy & Montalvo 1985, Griewank 1981,
Rastrigin 1974, Styblinski & Tang 1990. Irrelevant axes after Bergstra & Bengio 2012 (JMLR 13:281).

Instances are translations, as in BBOB (Hansen et al. 2009, RR-6829): the minimiser lands uniformly in the
inner [.05, .95] of each axis and the formula is read beyond its usual domain. That is safe because each of
these functions has its lowest value over all of R^d inside its domain: Branin is a square plus
s (1 - t) (1 + cos x0) plus the constant s t; Hartmann is minus a sum of Gaussians with their centres in
the unit cube, so that moving a point into the cube coordinate by coordinate never raises it; the others are
sums of terms that are nowhere below their optimum. A translation keeps the function smooth and, where it
stays inside the cube, the volume of every sublevel set around the minimiser, which wrapping (a seam),
mirroring (a kink, copies of the optimum) and warping (a new shape) do not. Its price: quantiles of random
configurations differ between instances, and Branin's other minimisers may leave the domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Reference
from bench.space import Float, Space

MARGIN = 0.05  # of an axis, that the minimiser keeps from its ends


def _branin(z):
    b, c, r, s, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 6.0, 10.0, 1 / (8 * math.pi)
    return (z[1] - b * z[0] ** 2 + c * z[0] - r) ** 2 + s * (1 - t) * (1 + jnp.cos(z[0])) + s * t


_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_WIDTHS_3 = np.array([[3.0, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
_CENTRES_3 = 1e-4 * np.array(
    [[3689.0, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]
)
_WIDTHS_6 = np.array(
    [
        [10.0, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_CENTRES_6 = 1e-4 * np.array(
    [
        [1312.0, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def _hartmann(widths, centres):
    def value(z):
        exponents = jnp.sum(widths * (z - centres) ** 2, axis=-1)
        return -jnp.sum(_ALPHA * jnp.exp(-exponents))

    return value


def _ackley(z):
    # Written with expm1 so that rounding never takes it below 0.
    radius = jnp.sqrt(jnp.mean(z**2))
    return -20 * jnp.expm1(-0.2 * radius) - math.e * jnp.expm1(jnp.mean(jnp.cos(2 * math.pi * z)) - 1)


def _rosenbrock(z):
    return jnp.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)


def _levy(z):
    w = 1 + (z - 1) / 4
    middle = jnp.sum((w[:-1] - 1) ** 2 * (1 + 10 * jnp.sin(math.pi * w[:-1] + 1) ** 2))
    return jnp.sin(math.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + jnp.sin(2 * math.pi * w[-1]) ** 2)


def _griewank(z):
    scale = np.sqrt(np.arange(1.0, z.shape[-1] + 1))
    return jnp.sum(z**2) / 4000 + 1 - jnp.prod(jnp.cos(z / scale))


def _rastrigin(z):
    return jnp.sum(z**2 + 10 * (1 - jnp.cos(2 * math.pi * z)))


def _styblinski_tang(z):
    return 0.5 * jnp.sum(z**4 - 16 * z**2 + 5 * z)


def _sphere(z):
    return jnp.sum(z**2)


class _Formula(NamedTuple):
    """`value(z f64[d]) -> f64[]` on [low, high]^d (a number or one an axis); `minimiser` and `optimum` are
    those of one axis where `least`, the lowest dimension, is given, else those of the whole function."""

    value: Callable[[Any], Any]
    low: tuple[float, ...]
    high: tuple[float, ...]
    minimiser: tuple[float, ...]
    optimum: float
    least: int = 0


# Minimisers of Hartmann and Styblinski-Tang: Newton's method in float64 to a zero gradient.
_FORMULAS = {
    "branin": _Formula(_branin, (-5.0, 0.0), (10.0, 15.0), (math.pi, 2.275), 10 / (8 * math.pi)),
    "hartmann3": _Formula(
        _hartmann(_WIDTHS_3, _CENTRES_3),
        (0.0,) * 3,
        (1.0,) * 3,
        (0.11458887665506896, 0.5556488946169301, 0.8525469846866774),
        -3.862779787332663,
    ),
    "hartmann6": _Formula(
        _hartmann(_WIDTHS_6, _CENTRES_6),
        (0.0,) * 6,
        (1.0,) * 6,
        (
            0.20168951100670543,
            0.15001069182345797,
            0.47687397422189703,
            0.2753324304940561,
            0.31165161660011326,
            0.6573005340656204,
        ),
        -3.322368011415515,
    ),
    "ackley": _Formula(_ackley, (-32.768,), (32.768,), (0.0,), 0.0, 1),
    "rosenbrock": _Formula(_rosenbrock, (-5.0,), (10.0,), (1.0,), 0.0, 2),
    "levy": _Formula(_levy, (-10.0,), (10.0,), (1.0,), 0.0, 1),
    "griewank": _Formula(_griewank, (-600.0,), (600.0,), (0.0,), 0.0, 1),
    "rastrigin": _Formula(_rastrigin, (-5.12,), (5.12,), (0.0,), 0.0, 1),
    "styblinski_tang": _Formula(
        _styblinski_tang, (-5.0,), (5.0,), (-2.903534027771177,), -39.16616570377141, 1
    ),
    "sphere": _Formula(_sphere, (-5.12,), (5.12,), (0.0,), 0.0, 1),
}


class Instance(NamedTuple):
    """shift f64[d], the translation in the function's own units · order i32[d], the axes that matter."""

    shift: Any
    order: Any


@dataclass(frozen=True)
class Function:
    """A test function as an objective of one epoch.

    `function` is one of branin, hartmann3, hartmann6, ackley, rosenbrock, levy, griewank, rastrigin,
    styblinski_tang, sphere (None: the one that `name` says). `dimension` is free for all but the first
    three (None: the only one, else 2). `extra` adds axes that do not matter: the space is then the unit
    cube of dimension + extra axes, and the instance says which of them the function reads. `shift` false:
    the textbook form, neither moved nor permuted, for tests.
    """

    name: str
    function: str | None = None
    dimension: int | None = None
    extra: int = 0
    shift: bool = True

    max_epoch = 1
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        known = self.function or self.name
        if known not in _FORMULAS:
            raise ValueError(f"function must be one of {', '.join(_FORMULAS)}, got {known!r}")
        f = self._formula
        if f.least == 0 and self.dimension not in (None, len(f.low)):
            raise ValueError(f"dimension of {known} must be {len(f.low)}, got {self.dimension}")
        if f.least > 0 and self.dimension is not None and self.dimension < f.least:
            raise ValueError(f"dimension of {known} must be at least {f.least}, got {self.dimension}")
        if self.extra < 0:
            raise ValueError(f"extra must be at least 0, got {self.extra}")

    @property
    def _formula(self) -> _Formula:
        return _FORMULAS[self.function or self.name]

    @property
    def relevant(self) -> int:
        """Number of axes that the function reads."""
        return len(self._formula.low) if self._formula.least == 0 else self.dimension or 2

    def _axes(self, values) -> np.ndarray:
        return np.broadcast_to(np.array(values, np.float64), (self.relevant,))

    @property
    def optimum(self) -> float:
        """The lowest value, exact to float64."""
        f = self._formula
        # Of the functions of free dimension, Styblinski-Tang is a sum over axes and the others reach 0.
        return f.optimum if f.least == 0 else f.optimum * self.relevant

    @property
    def minimiser(self) -> np.ndarray:
        """f64[d], where the unshifted function has its lowest value, in its own units."""
        return self._axes(self._formula.minimiser)

    @property
    def space(self) -> Space:
        if self.extra:
            return Space({f"x{i}": Float(0.0, 1.0) for i in range(self.relevant + self.extra)})
        low, high = self._axes(self._formula.low), self._axes(self._formula.high)
        return Space({f"x{i}": Float(float(low[i]), float(high[i])) for i in range(self.relevant)})

    def draw(self, key: jax.Array) -> Instance:
        d, count = self.relevant, self.relevant + self.extra
        if not self.shift:
            return Instance(jnp.zeros((d,), jnp.float64), jnp.arange(d, dtype=jnp.int32))
        uniforms = jax.random.uniform(key, (d + count,), jnp.float64)
        low, high = self._axes(self._formula.low), self._axes(self._formula.high)
        place = MARGIN + (1 - 2 * MARGIN) * uniforms[:d]
        order = jnp.arange(d, dtype=jnp.int32)
        if self.extra:
            order = jnp.argsort(uniforms[d:])[:d].astype(jnp.int32)
        return Instance(low + place * (high - low) - self.minimiser, order)

    def reference(self, instance: Instance) -> Reference:
        return Reference(jnp.float64(self.optimum), jnp.float64(jnp.nan))

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: one second an epoch."""
        return (until - start).astype(jnp.float64)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: tuple[()],
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        z = jnp.stack([hp[f"x{i}"] for i in range(self.relevant + self.extra)]).astype(jnp.float64)
        if self.extra:
            low, high = self._axes(self._formula.low), self._axes(self._formula.high)
            z = low + z[instance.order] * (high - low)
        loss = self._formula.value(z - instance.shift)
        return (), loss, loss
