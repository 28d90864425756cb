"""Search spaces and their map to the unit cube.

An axis maps the unit interval to its values; a `Space` names axes; a `Cube` is what a strategy sees of
a space: per axis its kind, bounds and flags as arrays, and no names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROLES = ("rate", "schedule", "batch", "regularisation", "architecture", "other")
PADDED, FLOAT, INT, ORDERED, UNORDERED = -1, 0, 1, 2, 3
PAD = 8  # cubes are padded to a multiple of this many axes, so that many objectives share a program


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")


def _check_bounds(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"bounds must be finite, got low={low}, high={high}")
    if not low < high:
        raise ValueError(f"low must be below high, got low={low}, high={high}")
    if log and low <= 0:
        raise ValueError(f"a log axis needs low above 0, got low={low}")


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises ValueError unless a setting's value is an int (no bool) of at least `low`, at most `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        span = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {span}, got {value!r}")


def check_real(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """Raises ValueError unless a setting's value is a finite number (no bool) on [low, high]."""
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or (low is not None and value < low) or (high is not None and value > high):
        ends = [f"{word} {end:g}" for word, end in (("at least", low), ("at most", high)) if end is not None]
        span = f" {' and '.join(ends)}" if ends else ""
        raise ValueError(f"{name} must be a finite number{span}, got {value!r}")


@dataclass(frozen=True)
class Float:
    """A real axis on [low, high]; `default` is the middle (of the log scale if `log`) unless given."""

    low: float
    high: float
    default: float | None = None
    log: bool = False
    change: bool = False
    role: str = "other"

    def __post_init__(self):
        _check_role(self.role)
        _check_bounds(self.low, self.high, self.log)
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"default must lie in [{self.low}, {self.high}], got {self.default}")

    kind = FLOAT
    levels = 0

    @property
    def edges(self) -> tuple[float, float]:
        """The ends of the axis on the scale on which the unit interval is linear."""
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def decode(self, u: float) -> float:
        low, high = self.edges
        value = low + min(max(float(u), 0.0), 1.0) * (high - low)
        return min(max(math.exp(value) if self.log else value, self.low), self.high)

    def encode(self, value: Any) -> float:
        if not self.low <= value <= self.high:
            raise ValueError(f"value must lie in [{self.low}, {self.high}], got {value}")
        low, high = self.edges
        return ((math.log(value) if self.log else float(value)) - low) / (high - low)


@dataclass(frozen=True)
class Int:
    """An integer axis on low..high, both ends included; each integer owns a bin of the unit interval.

    Bins are equal on a linear axis; on a log axis integer k owns log(k-.5)..log(k+.5).
    """

    low: int
    high: int
    default: int | None = None
    log: bool = False
    change: bool = False
    role: str = "other"

    def __post_init__(self):
        _check_role(self.role)
        _check_bounds(self.low, self.high, self.log)
        if int(self.low) != self.low or int(self.high) != self.high:
            raise ValueError(f"bounds must be integers, got low={self.low}, high={self.high}")
        if self.default is not None and int(self.default) != self.default:
            raise ValueError(f"default must be an integer, got {self.default}")
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"default must lie in [{self.low}, {self.high}], got {self.default}")

    kind = INT

    @property
    def levels(self) -> int:
        return int(self.high) - int(self.low) + 1

    @property
    def edges(self) -> tuple[float, float]:
        low, high = self.low - 0.5, self.high + 0.5
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def decode(self, u: float) -> int:
        low, high = self.edges
        value = low + min(max(float(u), 0.0), 1.0) * (high - low)
        value = math.floor((math.exp(value) if self.log else value) + 0.5)
        return int(min(max(value, self.low), self.high))

    def encode(self, value: Any) -> float:
        if not self.low <= value <= self.high or int(value) != value:
            raise ValueError(f"value must be an integer in [{self.low}, {self.high}], got {value}")
        low, high = self.edges
        return ((math.log(value) if self.log else float(value)) - low) / (high - low)


@dataclass(frozen=True)
class Choice:
    """One of `values`; `ordered` if neighbours are alike. In JAX its value is the index i32[]."""

    values: tuple
    default: Any = None
    ordered: bool = False
    change: bool = False
    role: str = "other"

    def __post_init__(self):
        _check_role(self.role)
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) < 2:
            raise ValueError(f"a choice needs at least two values, got {self.values}")
        if len(set(map(repr, self.values))) < len(self.values):
            raise ValueError(f"values must differ, got {self.values}")
        if self.default is not None and self.default not in self.values:
            raise ValueError(f"default must be one of {self.values}, got {self.default!r}")

    log = False

    @property
    def kind(self) -> int:
        return ORDERED if self.ordered else UNORDERED

    @property
    def levels(self) -> int:
        return len(self.values)

    @property
    def edges(self) -> tuple[float, float]:
        return -0.5, len(self.values) - 0.5

    def index(self, u: float) -> int:
        return min(max(math.floor(float(u) * self.levels), 0), self.levels - 1)

    def decode(self, u: float) -> Any:
        return self.values[self.index(u)]

    def encode(self, value: Any) -> float:
        if value not in self.values:
            raise ValueError(f"value must be one of {self.values}, got {value!r}")
        return (self.values.index(value) + 0.5) / self.levels


Axis = Float | Int | Choice


def _default(axis: Axis) -> float:
    """Unit-cube coordinate of an axis's default: as given, else the middle."""
    return 0.5 if axis.default is None else axis.encode(axis.default)


class Cube(NamedTuple):
    """What a strategy sees of a space: arrays over d padded axes, first the real ones, no names.

    kind i32[d] (PADDED, FLOAT, INT, ORDERED, UNORDERED) · low, high f32[d], the axis's ends on its linear
    scale (log of the value where `log`) · log bool[d] · levels i32[d], number of values, 0 if continuous ·
    default f32[d] in the unit cube · change bool[d] · role i32[d], index into ROLES.
    Padded axes are fixed at .5.
    """

    kind: Any
    low: Any
    high: Any
    log: Any
    levels: Any
    default: Any
    change: Any
    role: Any

    @property
    def mask(self) -> Any:
        """bool[d]: the real axes."""
        return self.kind != PADDED

    @property
    def width(self) -> int:
        """Number of axes, padded ones included (static)."""
        return self.kind.shape[-1]

    def fix(self, x: jax.Array) -> jax.Array:
        """Clips x f32[..., d] to the cube and sets padded axes to .5."""
        return jnp.where(self.mask, jnp.clip(x, 0.0, 1.0), 0.5).astype(jnp.float32)

    def snap(self, x: jax.Array) -> jax.Array:
        """Moves discrete axes of x f32[..., d] to the point that stands for their value, so that two x
        that decode alike are equal."""
        span = jnp.where(self.mask, self.high - self.low, 1.0)
        value = self.low + x * span
        whole = jnp.floor(jnp.where(self.log, jnp.exp(value), value) + 0.5)
        first = jnp.floor(jnp.where(self.log, jnp.exp(self.low), self.low) + 1.0 - 1e-3)
        whole = jnp.clip(whole, first, first + jnp.maximum(self.levels - 1, 0))
        back = (jnp.where(self.log, jnp.log(jnp.maximum(whole, 1e-30)), whole) - self.low) / span
        return self.fix(jnp.where(self.levels > 0, back, x))

    def start(self, key: jax.Array, n: int) -> jax.Array:
        """The shared random start-up design: n uniform points, f32[n, d]; row k depends on (key, k) only,
        so every strategy given the same key starts with the same configurations."""
        # Drawn flat: it compiles in a third of the time, and with JAX's partitionable threefry (its default)
        # an element depends on the key and its place only, not on n.
        flat = jax.random.uniform(key, (n * self.width,), jnp.float32)
        return self.fix(flat.reshape(n, self.width))


@dataclass(frozen=True)
class Space:
    """Named axes in order: `Space({"lr": Float(1e-5, 1, log=True), "layers": Int(1, 4)})`."""

    axes: Mapping[str, Axis] = field(default_factory=dict)

    def __post_init__(self):
        if not self.axes:
            raise ValueError("a space needs at least one axis")
        for name, axis in self.axes.items():
            if not isinstance(axis, Float | Int | Choice):
                raise ValueError(f"axis {name!r} must be Float, Int or Choice, got {axis!r}")
        object.__setattr__(self, "axes", dict(self.axes))

    def __hash__(self):
        return hash(tuple(self.axes.items()))

    @property
    def names(self) -> list[str]:
        return list(self.axes)

    @property
    def dimension(self) -> int:
        return len(self.axes)

    def cube(self) -> Cube:
        """The space as arrays (numpy), padded to a multiple of PAD axes."""
        axes = list(self.axes.values())
        pad = -len(axes) % PAD

        def column(values, fill, dtype):
            return np.array([*values, *[fill] * pad], dtype)

        return Cube(
            kind=column([a.kind for a in axes], PADDED, np.int32),
            low=column([a.edges[0] for a in axes], 0.0, np.float32),
            high=column([a.edges[1] for a in axes], 1.0, np.float32),
            log=column([a.log for a in axes], False, np.bool_),
            levels=column([a.levels for a in axes], 0, np.int32),
            default=column([_default(a) for a in axes], 0.5, np.float32),
            change=column([a.change for a in axes], False, np.bool_),
            role=column([ROLES.index(a.role) for a in axes], ROLES.index("other"), np.int32),
        )

    def decode_array(self, x: jax.Array) -> dict[str, jax.Array]:
        """Values at x f32[>=d] in JAX: f32[] for Float, i32[] for Int, the index i32[] for Choice."""
        hp = {}
        for i, (name, axis) in enumerate(self.axes.items()):
            low, high = axis.edges
            value = low + jnp.clip(x[i], 0.0, 1.0) * (high - low)
            if isinstance(axis, Choice):
                value = jnp.clip(jnp.floor(x[i] * axis.levels), 0, axis.levels - 1).astype(jnp.int32)
            elif isinstance(axis, Int):
                value = jnp.floor((jnp.exp(value) if axis.log else value) + 0.5)
                value = jnp.clip(value, axis.low, axis.high).astype(jnp.int32)
            else:
                value = jnp.clip(jnp.exp(value) if axis.log else value, axis.low, axis.high)
            hp[name] = value
        return hp

    def decode(self, x: Any) -> dict[str, Any]:
        """Values at x (d or more unit-cube coordinates) in plain Python."""
        return {name: axis.decode(x[i]) for i, (name, axis) in enumerate(self.axes.items())}

    def decode_many(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Values at x [n, >=d] as columns of n; as `decode`, for whole traces."""
        columns = {}
        for i, (name, axis) in enumerate(self.axes.items()):
            u = np.clip(np.asarray(x[:, i], np.float64), 0.0, 1.0)
            low, high = axis.edges
            value = low + u * (high - low)
            if isinstance(axis, Choice):
                index = np.clip(np.floor(u * axis.levels), 0, axis.levels - 1).astype(np.int64)
                columns[name] = np.array(axis.values)[index]
            elif isinstance(axis, Int):
                value = np.floor((np.exp(value) if axis.log else value) + 0.5)
                columns[name] = np.clip(value, axis.low, axis.high).astype(np.int64)
            else:
                columns[name] = np.clip(np.exp(value) if axis.log else value, axis.low, axis.high)
        return columns

    def encode(self, config: Mapping[str, Any]) -> np.ndarray:
        """Unit-cube point f32[padded d] of a configuration; an absent axis takes its default.

        Raises ValueError, naming the axis, for an unknown name or a value outside the axis."""
        unknown = [name for name in config if name not in self.axes]
        if unknown:
            raise ValueError(f"no axis {unknown[0]!r}; the axes are {', '.join(self.axes)}")
        x = self.cube().default.copy()
        for i, (name, axis) in enumerate(self.axes.items()):
            if name in config:
                try:
                    x[i] = axis.encode(config[name])
                except (ValueError, TypeError) as error:
                    raise ValueError(f"axis {name!r}: {error}") from None
        return x
