"""Wrappers: an objective with noise, moved, discretised, embedded, with infeasible regions or a price.

    Noisy(sd=0.1)(Discretised(levels=6)(Function("branin")))

A wrapper is a frozen dataclass of settings; called with an objective it returns a `Wrapped` one, so that
any wrapper goes around any objective, another wrapped one included. In an entry of an experiment the same
stands as `branin+discretised,levels=6+noisy,sd=0.1`, from the inside outwards.

What a wrapper may say, each method optional; `part` is its share of the instance, u f64[d] the point of the
unit cube as the wrapper's own space has it, discrete axes at the middle of their level:

    check(base)                                  raises ValueError where it makes no sense on this objective
    space(base) -> Space                         where it is not the base's
    draw(base, key) -> part
    place(base, part, u) -> f64[base d]          the point of the base's unit cube that is trained
    diverges(base, part, u) -> bool[]            training ends in an infinite loss
    price(base, part, u) -> f64[]                factor on the cost of an epoch
    tell(base, instance, key, loss, true_loss) -> f64[]     the told loss; the key is the trial's and epoch's
    keeps_optimum, keeps_law: bool               the lowest true loss, the law of random configurations' true
                                                 losses, is the base's (default: no)

The base's instance is drawn with the key that the bare objective would get, so instance i of
`hartmann6+noisy` is instance i of `hartmann6`, whatever is wrapped around it; a wrapper's part depends on its
kind and on how many of its kind are beneath.

The optimum. Where a wrapper maps the cube onto the base's cube (or only adds noise or a price), the optimum
is the base's, exactly. Where it does not (a rotation cuts corners off, a grid has holes), `make_reference`
finds it: by enumeration where all axes are discrete and the grid has at most ENUMERATED times the random
configurations of a reference, else by differential evolution (Storn & Price 1997, mutation towards the best
as in JADE, Zhang & Sanderson 2009), over epochs up to max_epoch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Reference
from bench.space import UNORDERED, Axis, Choice, Float, Int, Space

# Where the base has them. Asked for by hasattr, hence not methods that are always there.
OPTIONAL = (
    "chunk", "pool", "light", "reference_samples", "range_test", "updates", "reference", "make_reference",
    "make_reference_table",
)  # fmt: skip
STAGES = 9  # epochs at which a search looks at a training, evenly spaced, the last included
SAMPLES = 2**16  # random configurations of a reference, unless the base sets `reference_samples`
ENUMERATED = 4
SEARCHED = 2  # evaluations of the differential evolution, likewise
DEAR = 256  # `reference_samples` where training is dear and the base's table does not apply
ISLANDS, MEMBERS = 2, 128
CONVERGED = 1e-9


def label(wrapper: Any) -> str:
    """A wrapper's name with the settings that differ from its defaults: `noisy,sd=0.2`."""
    text = type(wrapper).__name__.lower()
    for f in dataclasses.fields(wrapper):
        value = getattr(wrapper, f.name)
        if value != f.default:
            text += f",{f.name}={list(value) if isinstance(value, tuple) else value}"
    return text.replace(" ", "").replace("'", "")


def _level(axis: Int | Choice, u: jax.Array) -> jax.Array:
    """Index i32[] of the level that u f64[] lies in."""
    low, high = axis.edges
    value = low + u * (high - low)
    first = axis.low if isinstance(axis, Int) else 0
    whole = jnp.floor((jnp.exp(value) if axis.log else value) + 0.5) - first
    return jnp.clip(whole, 0, axis.levels - 1).astype(jnp.int32)


def _middle(axis: Int | Choice, level: jax.Array) -> jax.Array:
    """Unit coordinate f64[] that stands for a level."""
    low, high = axis.edges
    value = level.astype(jnp.float64) + (axis.low if isinstance(axis, Int) else 0)
    return ((jnp.log(value) if axis.log else value) - low) / (high - low)


def positions(space: Space, hp: Mapping) -> jax.Array:
    """Unit-cube point f64[d] of decoded values: `Space.encode` in JAX."""
    u = []
    for name, axis in space.axes.items():
        value = jnp.asarray(hp[name]).astype(jnp.float64)
        low, high = axis.edges
        u.append(((jnp.log(value) if axis.log else value) - low) / (high - low))
    return jnp.stack(u)


def _floats(base: Any) -> list[int]:
    """Indices of the continuous axes."""
    return [i for i, a in enumerate(base.space.axes.values()) if isinstance(a, Float)]


def _axes(base: Any) -> list[Axis]:
    return list(base.space.axes.values())


def _named(base: Any, name: str) -> int:
    """Index of the axis of that name."""
    if name not in base.space.axes:
        raise ValueError(f"axis must be one of {', '.join(base.space.axes)}, got {name!r}")
    return base.space.names.index(name)


def _settings(objective: Any) -> Any:
    fields = {f.name: getattr(objective, f.name) for f in dataclasses.fields(objective)}
    return json.loads(json.dumps(fields, default=str))


# The optimum ----------------------------------------------------------------------------------------------


def lowest(objective: Any, instance: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    """Lowest true loss f64[] that the constant configuration x f32[d] has at one of STAGES epochs; only the
    last one's where fewer epochs are a proxy."""
    end = objective.max_epoch
    staged = objective.fidelity == "training" and (end == 1 or "resume" in objective.offers)
    untils = np.unique(np.ceil(end * np.arange(1, STAGES + 1) / STAGES)) if staged else np.array([end])
    hp = objective.space.decode_array(x)

    def stage(carry, until):
        checkpoint, start = carry
        checkpoint, _, true_loss = objective.train(instance, key, checkpoint, hp, start, until)
        return (checkpoint, until), true_loss

    begin = objective.init(instance, key), jnp.int32(0)
    _, losses = jax.lax.scan(stage, begin, jnp.asarray(untils, jnp.int32))
    return jnp.min(jnp.where(jnp.isfinite(losses), losses, jnp.inf))


def grid_size(space: Space) -> int | None:
    """Number of configurations, None where an axis is continuous."""
    levels = [axis.levels for axis in space.axes.values()]
    return math.prod(levels) if all(levels) else None


def enumerate_grid(objective: Any, instance: Any, key: jax.Array) -> jax.Array:
    """Lowest true loss f64[] of all configurations of a discrete space."""
    axes, count = _axes(objective), grid_size(objective.space)
    assert count is not None

    def one(index):
        u = []
        for axis in axes:
            assert not isinstance(axis, Float)
            u.append(_middle(axis, index % axis.levels))
            index = index // axis.levels
        return lowest(objective, instance, key, jnp.stack(u).astype(jnp.float32))

    return jnp.min(jax.lax.map(one, jnp.arange(count, dtype=jnp.int32), batch_size=1024))


def evolve(objective: Any, instance: Any, key: jax.Array, generations: int) -> jax.Array:
    """Lowest true loss f64[] that differential evolution finds, ISLANDS apart, MEMBERS on each; an island
    ends early where its members' losses agree to CONVERGED of their first spread."""
    d = objective.space.dimension
    value = jax.vmap(lambda x: lowest(objective, instance, key, x))
    better = MEMBERS // 8

    def generation(carry):
        key, count, x, losses, spread = carry
        draws = jax.random.uniform(jax.random.fold_in(key, count), (MEMBERS, 2 * d + 6), jnp.float32)
        gates, fresh, rest = draws[:, :d], draws[:, d : 2 * d], draws[:, 2 * d :]
        # Towards one of the best eighth, plus the difference of two others.
        order = jnp.argsort(losses)
        aim = x[order[(rest[:, 0] * better).astype(jnp.int32)]]
        one, two = (x[(rest[:, i] * MEMBERS).astype(jnp.int32)] for i in (1, 2))
        scale = 0.4 + 0.5 * rest[:, 3:4]
        mutant = x + scale * (aim - x) + scale * (one - two)
        # Few axes at a time suit separable functions, nearly all suit valleys.
        rate = jnp.where(rest[:, 4:5] < 0.5, 0.25, 0.95)
        forced = jnp.arange(d) == (rest[:, 5:6] * d).astype(jnp.int32)
        child = jnp.where((gates < rate) | forced, mutant, x)
        # Levels of unordered axes have no differences to follow: now and then a coordinate is drawn anew.
        child = jnp.where(gates > 0.99, fresh, child)
        # The first generation are the members themselves: compiling the objective twice would take longer.
        child = jnp.where(count == 0, x, jnp.clip(child, 0.0, 1.0))
        told = value(child)
        won = told <= losses
        x, losses = jnp.where(won[:, None], child, x), jnp.where(won, told, losses)
        first = jnp.median(losses) - jnp.min(losses)
        spread = jnp.where(count == 0, jnp.where(jnp.isfinite(first), first, 0.0), spread)
        return key, count + 1, x, losses, spread

    def goes_on(carry):
        _, count, _, losses, spread = carry
        agreed = jnp.max(losses) - jnp.min(losses) <= CONVERGED * spread
        return (count == 0) | (count < generations) & ~agreed

    def island(key):
        x = jax.random.uniform(key, (MEMBERS, d), jnp.float32)
        losses = jnp.full((MEMBERS,), jnp.inf, jnp.float64)
        carry = jax.lax.while_loop(goes_on, generation, (key, jnp.int32(0), x, losses, jnp.float64(0)))
        return jnp.min(carry[3])

    return jnp.min(jax.vmap(island)(jax.random.split(key, ISLANDS)))


# The wrapped objective ------------------------------------------------------------------------------------


class Diverged(NamedTuple):
    """A checkpoint of the base, and whether training has diverged on the way to it."""

    base: Any
    dead: Any


@dataclass(frozen=True)
class Wrapped:
    """An objective with one wrapper around it; an instance is (the base's instance, the wrapper's part).

    `range_test` is there only where the wrapper leaves hyperparameters as they are: rates of the base would
    not be the wrapped axis's. `make_reference_table` (real training, dear) only where the base's table
    holds for the wrapped objective too.
    """

    base: Any
    wrapper: Any
    name: str = ""

    def __post_init__(self):
        if not (hasattr(self.base, "draw") and hasattr(self.base, "train")):
            raise ValueError(f"a wrapper goes around an objective with draw and train, got {self.base!r}")
        if hasattr(self.wrapper, "check"):
            self.wrapper.check(self.base)
        if not self.name:
            object.__setattr__(self, "name", f"{self.base.name}+{label(self.wrapper)}")

    def __getattr__(self, name: str) -> Any:
        # Drivers ask by hasattr whether an objective has these, so what the base lacks must be absent here.
        if name not in OPTIONAL:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        base, found = self.base, None
        keeps = bool(getattr(self.wrapper, "keeps_optimum", False))
        law = keeps and bool(getattr(self.wrapper, "keeps_law", False))
        table = hasattr(base, "make_reference_table")
        if name in ("chunk", "pool", "light"):
            found = getattr(base, name, None)
        elif name == "reference_samples":
            found = DEAR if table and not law else getattr(base, name, None)
        elif name in ("range_test", "updates"):
            own = self._range_test if name == "range_test" else getattr(base, name, None)
            found = own if hasattr(base, name) and not self._maps else None
        elif name == "reference":
            found = self._reference if keeps and hasattr(base, name) else None
        elif name == "make_reference":
            there = hasattr(base, name) if keeps else not table
            found = self._make_reference if there else None
        elif table and law:
            found = self._make_reference_table
        if found is None:
            raise AttributeError(f"{self.name} has no {name}")
        return found

    @property
    def max_epoch(self) -> int:
        return self.base.max_epoch

    @property
    def fidelity(self) -> str:
        return self.base.fidelity

    @property
    def scale(self) -> str:
        return self.base.scale

    @property
    def offers(self) -> frozenset[str]:
        return self.base.offers

    @property
    def space(self) -> Space:
        return self.wrapper.space(self.base) if hasattr(self.wrapper, "space") else self.base.space

    @property
    def tag(self) -> int:
        """Sets this wrapper's randomness apart from the base's and from other wrappers'."""
        kind, depth, inner = type(self.wrapper), 0, self.base
        while isinstance(inner, Wrapped):
            depth, inner = depth + (type(inner.wrapper) is kind), inner.base
        return zlib.crc32(f"{kind.__name__} {depth}".encode()) & 0x7FFFFFFF

    @property
    def _maps(self) -> bool:
        return hasattr(self.wrapper, "place")

    @property
    def _persists(self) -> bool:
        """Whether divergence must be remembered: where x may change, a later one may be feasible."""
        return hasattr(self.wrapper, "diverges") and "change" in self.offers

    def _inner(self, part: Any, hp: Mapping) -> Mapping:
        """The base's hyperparameters."""
        if not self._maps:
            return hp
        u = self.wrapper.place(self.base, part, positions(self.space, hp))
        return self.base.space.decode_array(u.astype(jnp.float32))

    def draw(self, key: jax.Array) -> tuple[Any, Any]:
        own = jax.random.fold_in(key, self.tag)
        part = self.wrapper.draw(self.base, own) if hasattr(self.wrapper, "draw") else ()
        return self.base.draw(key), part

    def init(self, instance: tuple[Any, Any], key: jax.Array) -> Any:
        checkpoint = self.base.init(instance[0], key)
        return Diverged(checkpoint, jnp.bool_(False)) if self._persists else checkpoint

    def cost(
        self, instance: tuple[Any, Any], key: jax.Array, hp: Mapping, start: Any, until: Any
    ) -> jax.Array:
        """f64[]: simulated seconds, the base's times the wrapper's price."""
        cost = self.base.cost(instance[0], key, self._inner(instance[1], hp), start, until)
        if hasattr(self.wrapper, "price"):
            cost = cost * self.wrapper.price(self.base, instance[1], positions(self.space, hp))
        return cost

    def train(
        self, instance: tuple[Any, Any], key: jax.Array, checkpoint: Any, hp: Mapping, start: Any, until: Any
    ) -> tuple[Any, jax.Array, jax.Array]:
        inner, part = instance
        below = checkpoint.base if self._persists else checkpoint
        below, loss, true_loss = self.base.train(inner, key, below, self._inner(part, hp), start, until)
        if hasattr(self.wrapper, "diverges"):
            dead = self.wrapper.diverges(self.base, part, positions(self.space, hp))
            if self._persists:
                dead = dead | checkpoint.dead
                below = Diverged(below, dead)
            loss, true_loss = (jnp.where(dead, jnp.inf, v) for v in (loss, true_loss))
        if hasattr(self.wrapper, "tell"):
            # Of the trial and the epoch, not of the slice: resuming tells what training through tells.
            epoch_key = jax.random.fold_in(jax.random.fold_in(key, self.tag), until)
            loss = self.wrapper.tell(self.base, inner, epoch_key, loss, true_loss)
        return below, loss, true_loss

    def _range_test(self, instance, key, hp, rates):
        return self.base.range_test(instance[0], key, hp, rates)

    def _reference(self, instance: tuple[Any, Any]) -> Reference:
        return self.base.reference(instance[0])

    def _make_reference(self, instance: tuple[Any, Any], key: jax.Array) -> Reference:
        if getattr(self.wrapper, "keeps_optimum", False):
            return self.base.make_reference(instance[0], key)
        samples = int(getattr(self, "reference_samples", SAMPLES))
        size = grid_size(self.space)
        if size is not None and size <= ENUMERATED * samples:
            found = enumerate_grid(self, instance, key)
        else:
            generations = max(1, SEARCHED * samples // (ISLANDS * MEMBERS))
            found = evolve(self, instance, key, generations)
        return Reference(found, jnp.float64(jnp.nan))

    def _make_reference_table(self) -> dict[str, Any]:
        return self.base.make_reference_table() | {"settings": _settings(self)}


# The wrappers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noisy:
    """Noise on what is told, normal, anew for each trial and epoch; the referee keeps the true loss.

    Its standard deviation is sqrt(sd^2 + (growth * regret)^2 + (relative * |true loss|)^2): `sd` in the
    loss's units, `growth` for each unit above the instance's optimum, `relative` a share of the true loss.
    """

    sd: float = 0.1
    growth: float = 0.0
    relative: float = 0.0

    keeps_optimum = True
    keeps_law = True

    def __post_init__(self):
        for name in ("sd", "growth", "relative"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be finite and at least 0, got {value!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def check(self, base: Any) -> None:
        if self.growth and not hasattr(base, "reference"):
            raise ValueError(
                f"growth needs an objective whose optimum a formula knows, which {base.name} is not; "
                "`relative` does without"
            )

    def tell(
        self, base: Any, instance: Any, key: jax.Array, loss: jax.Array, true_loss: jax.Array
    ) -> jax.Array:
        if not (self.sd or self.growth or self.relative):
            return loss
        variance = self.sd**2 + (self.relative * true_loss) ** 2
        if self.growth:
            regret = true_loss - base.reference(instance).optimum_static
            variance = variance + (self.growth * regret) ** 2
        # Where training diverged the loss stays infinite; inf times a draw that is negative would be -inf.
        sd = jnp.where(jnp.isfinite(variance), jnp.sqrt(variance), 0.0)
        return loss + sd * jax.random.normal(key, (), jnp.float64)


@dataclass(frozen=True)
class Shifted:
    """Moves the optimum, by maps of the cube onto itself, so that its value stays what it was.

    A plain translation would push part of the cube out, where a generic objective has no values, and bring
    in points that it never had. So a continuous axis is translated on the logit scale, u -> sigmoid(logit(u)
    + s), s uniform in [-by, by]: smooth, increasing, onto, with slopes between exp(-by) and exp(by); and with
    `reflect` it is turned round by the toss of a coin. Ordered levels are turned round, those of an
    unordered choice are rotated. For formulas that have a shift of their own, that one bends nothing.
    """

    by: float = 1.0
    reflect: bool = True

    keeps_optimum = True

    def __post_init__(self):
        if not (isinstance(self.by, int | float) and 0 <= self.by <= 10):
            raise ValueError(f"by must lie in [0, 10], got {self.by!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def draw(self, base: Any, key: jax.Array) -> jax.Array:
        """f64[2, d] in [0, 1): the coin, and how far."""
        return jax.random.uniform(key, (2, base.space.dimension), jnp.float64)

    def place(self, base: Any, part: jax.Array, u: jax.Array) -> jax.Array:
        out = []
        for i, axis in enumerate(_axes(base)):
            turned = (part[0, i] < 0.5) & self.reflect
            if isinstance(axis, Float):
                v = jnp.where(turned, 1.0 - u[i], u[i])
                factor = jnp.exp(self.by * (2.0 * part[1, i] - 1.0))
                out.append(factor * v / (1.0 + (factor - 1.0) * v))
                continue
            level = _level(axis, u[i])
            if axis.kind == UNORDERED:
                step = jnp.floor(part[1, i] * axis.levels).astype(jnp.int32) if self.by else 0
                level = (level + step) % axis.levels
            else:
                level = jnp.where(turned, axis.levels - 1 - level, level)
            out.append(_middle(axis, level))
        return jnp.stack(out)


@dataclass(frozen=True)
class Permuted:
    """Axes that are alike (kind, levels, role, may change or not) trade places, per instance.

    What an axis is called stays where it was: only the unit interval behind it moves.
    """

    keeps_optimum = True
    keeps_law = True

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def groups(self, base: Any) -> list[list[int]]:
        """Indices of axes that may trade places, groups of at least two."""
        found: dict[tuple, list[int]] = {}
        for i, a in enumerate(_axes(base)):
            # Levels of a logarithmic integer axis lie unevenly: only its equal fits.
            alike = (a.kind, a.levels, a.change, a.role, a.edges if a.levels and a.log else None)
            found.setdefault(alike, []).append(i)
        return [g for g in found.values() if len(g) > 1]

    def check(self, base: Any) -> None:
        if not self.groups(base):
            raise ValueError(f"permuted needs two axes that are alike, {base.name} has none")

    def draw(self, base: Any, key: jax.Array) -> jax.Array:
        """i32[d]: the axis that each of the base's axes reads."""
        order = jnp.arange(base.space.dimension, dtype=jnp.int32)
        draws = jax.random.uniform(key, order.shape, jnp.float64)
        for group in self.groups(base):
            at = np.array(group, np.int32)
            order = order.at[at].set(jnp.asarray(at)[jnp.argsort(draws[at])])
        return order

    def place(self, base: Any, part: jax.Array, u: jax.Array) -> jax.Array:
        return u[part]


@dataclass(frozen=True)
class Rotated:
    """A random rotation (or reflection) of the continuous axes around the cube's centre, per instance.

    Axes that may change during training are rotated among themselves, and so are the others. A point that
    leaves the cube is moved to the nearest point of it, so that every value is one of the base's. The
    base's corners may then be out of reach: the optimum is searched.
    """

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def groups(self, base: Any) -> list[list[int]]:
        axes, floats = _axes(base), _floats(base)
        split = [[i for i in floats if axes[i].change == change] for change in (False, True)]
        return [g for g in split if len(g) > 1]

    def check(self, base: Any) -> None:
        if not self.groups(base):
            raise ValueError(f"rotated needs two continuous axes, {base.name} has {len(_floats(base))}")

    def draw(self, base: Any, key: jax.Array) -> jax.Array:
        """f64[d, d], orthogonal, uniform on each group of axes."""
        matrix = jnp.eye(base.space.dimension, dtype=jnp.float64)
        for n, group in enumerate(self.groups(base)):
            shape = (len(group), len(group))
            normal = jax.random.normal(jax.random.fold_in(key, n), shape, jnp.float64)
            q, r = jnp.linalg.qr(normal)
            # Uniform only with the signs of the diagonal taken out (Mezzadri 2007).
            q = q * jnp.sign(jnp.diagonal(r))
            matrix = matrix.at[np.ix_(group, group)].set(q)
        return matrix

    def place(self, base: Any, part: jax.Array, u: jax.Array) -> jax.Array:
        return jnp.clip(0.5 + part @ (u - 0.5), 0.0, 1.0)


@dataclass(frozen=True)
class Discretised:
    """Continuous axes become axes of `levels` levels, each the middle of its share of the axis.

    `levels`: a number for every continuous axis, or one an axis, 0 for those that stay as they are.
    `kind`: int (0, 1, ..), ordered (a choice among the values) or unordered (a choice among labels; which
    label means which value is drawn per instance, so that their order tells nothing), for all or one an axis.
    """

    levels: int | tuple[int, ...] = 8
    kind: str | tuple[str, ...] = "int"

    def __post_init__(self):
        for name in ("levels", "kind"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for n in self.levels if isinstance(self.levels, tuple) else (self.levels or 1,):
            if not isinstance(n, int) or isinstance(n, bool) or n < 0 or n == 1:
                raise ValueError(f"levels must be integers of at least 2 (0: as it is), got {self.levels!r}")
        for word in self.kind if isinstance(self.kind, tuple) else (self.kind,):
            if word not in ("int", "ordered", "unordered"):
                raise ValueError(f"kind must be int, ordered or unordered, got {word!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def _each(self, base: Any) -> list[tuple[int, str]]:
        """(levels, kind) of each axis, levels 0 for those that stay."""
        d, floats = base.space.dimension, _floats(base)
        levels, kinds = self.levels, self.kind
        if isinstance(levels, int):
            levels = tuple(levels if i in floats else 0 for i in range(d))
        return list(zip(levels, (kinds,) * d if isinstance(kinds, str) else kinds, strict=True))

    def check(self, base: Any) -> None:
        d, floats = base.space.dimension, _floats(base)
        for name in ("levels", "kind"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != d:
                raise ValueError(f"{name} must be one or {d}, as {base.name} has axes, got {len(value)}")
        if isinstance(self.levels, tuple):
            for i, (axis, n) in enumerate(zip(base.space.names, self.levels, strict=True)):
                if n and i not in floats:
                    raise ValueError(
                        f"axis {axis!r} of {base.name} is discrete already; levels there must be 0"
                    )
        if not any(n for n, _ in self._each(base)):
            raise ValueError(f"discretised finds no continuous axis to discretise in {base.name}")

    def space(self, base: Any) -> Space:
        axes: dict[str, Axis] = {}
        for (name, axis), (n, kind) in zip(base.space.axes.items(), self._each(base), strict=True):
            axes[name] = axis
            if not n or not isinstance(axis, Float):
                continue
            same: dict[str, Any] = {"change": axis.change, "role": axis.role}
            level = None if axis.default is None else min(int(axis.encode(axis.default) * n), n - 1)
            if kind == "int":
                axes[name] = Int(0, n - 1, default=level, **same)
            elif kind == "ordered":
                values = tuple(float(f"{axis.decode((k + 0.5) / n):.6g}") for k in range(n))
                default = None if level is None else values[level]
                axes[name] = Choice(values, default=default, ordered=True, **same)
            else:
                axes[name] = Choice(tuple(f"c{k}" for k in range(n)), **same)
        return Space(axes)

    def draw(self, base: Any, key: jax.Array) -> tuple[jax.Array, ...]:
        """i32[levels] of each unordered axis: the level that a label means."""
        each = [n for n, kind in self._each(base) if n and kind == "unordered"]
        keys = [jax.random.fold_in(key, i) for i in range(len(each))]
        return tuple(
            jnp.argsort(jax.random.uniform(k, (n,), jnp.float64)).astype(jnp.int32)
            for k, n in zip(keys, each, strict=True)
        )

    def place(self, base: Any, part: tuple[jax.Array, ...], u: jax.Array) -> jax.Array:
        out, order = [], iter(part)
        for i, (n, kind) in enumerate(self._each(base)):
            v = u[i]
            if n and kind == "unordered":
                v = (next(order)[jnp.floor(v * n).astype(jnp.int32)] + 0.5) / n
            out.append(v)
        return jnp.stack(out)


@dataclass(frozen=True)
class Embedded:
    """Low effective dimension: `extra` axes that do not matter, hidden among the continuous ones.

    The continuous axes, old and new, become one set of axes on [0, 1], z0, z1, ..; which of them the base
    reads, and in which order, is drawn per instance. They may change during training only if all of the
    base's may, and have a role only if it is the same for all. With `+rotated` around it the effective
    subspace is a random one.
    """

    extra: int = 4

    keeps_optimum = True
    keeps_law = True

    def __post_init__(self):
        if not isinstance(self.extra, int) or self.extra < 1:
            raise ValueError(f"extra must be an integer of at least 1, got {self.extra!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def check(self, base: Any) -> None:
        if not _floats(base):
            raise ValueError(f"embedded needs a continuous axis, {base.name} has none")

    def space(self, base: Any) -> Space:
        axes, floats = _axes(base), _floats(base)
        change = all(axes[i].change for i in floats)
        roles = {axes[i].role for i in floats}
        one = Float(0.0, 1.0, change=change, role=roles.pop() if len(roles) == 1 else "other")
        letter = "z"
        while any(n.startswith(letter) for n, a in base.space.axes.items() if not isinstance(a, Float)):
            letter += "z"
        unit: dict[str, Axis] = {f"{letter}{i}": one for i in range(len(floats) + self.extra)}
        return Space(unit | {n: a for n, a in base.space.axes.items() if not isinstance(a, Float)})

    def draw(self, base: Any, key: jax.Array) -> jax.Array:
        """i32[continuous axes]: the axis that each of them reads."""
        count = len(_floats(base))
        draws = jax.random.uniform(key, (count + self.extra,), jnp.float64)
        return jnp.argsort(draws)[:count].astype(jnp.int32)

    def place(self, base: Any, part: jax.Array, u: jax.Array) -> jax.Array:
        floats = _floats(base)
        read, rest = iter(u[part]), iter(u[len(floats) + self.extra :])
        return jnp.stack([next(read if i in floats else rest) for i in range(base.space.dimension)])


class Border(NamedTuple):
    """axis i32[], whose end is infeasible · low bool[], its lower end · waves f64[d], phase f64[]: how the
    border runs along the other axes."""

    axis: Any
    low: Any
    waves: Any
    phase: Any


@dataclass(frozen=True)
class Infeasible:
    """A region where training diverges: `share` of the space, at one end of a continuous axis.

    Which axis and which end (`axis` and `end` say, else the instance) and how the border waves along
    the other axes are drawn. What is left of the axis is stretched to the base's whole axis, so that the
    feasible region is the base's cube, bent: the optimum is feasible, and its value known, whatever the base.
    Divergence stays where a checkpoint goes on with other hyperparameters.
    """

    share: float = 0.25
    axis: str | None = None
    end: str | None = None

    keeps_optimum = True

    def __post_init__(self):
        # The border lies between 0 and twice the share from the end.
        if not (isinstance(self.share, int | float) and 0 <= self.share <= 0.45):
            raise ValueError(f"share must lie in [0, 0.45], got {self.share!r}")
        if self.end not in (None, "low", "high"):
            raise ValueError(f"end must be low or high (null: drawn), got {self.end!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def check(self, base: Any) -> None:
        if not _floats(base):
            raise ValueError(f"infeasible needs a continuous axis, {base.name} has none")
        if self.axis is not None and _named(base, self.axis) not in _floats(base):
            raise ValueError(f"infeasible needs a continuous axis, {self.axis!r} of {base.name} is not")

    def draw(self, base: Any, key: jax.Array) -> Border:
        axes, floats = _axes(base), _floats(base)
        d = len(axes)
        draws = jax.random.uniform(key, (4 + 2 * d,), jnp.float64)
        choices = floats if self.axis is None else [_named(base, self.axis)]
        axis = jnp.asarray(choices, jnp.int32)[jnp.floor(draws[0] * len(choices)).astype(jnp.int32)]
        low = draws[1] < 0.5 if self.end is None else jnp.bool_(self.end == "low")
        # An axis that may not change must not move in the base when another one changes.
        change = np.array([a.change for a in axes])
        usable = np.array([i in floats for i in range(d)])[None] & (change[:, None] | ~change[None])
        usable = jnp.asarray(usable & ~np.eye(d, dtype=bool))[axis]
        waves = jnp.floor(3.0 * draws[4 : 4 + d]) - 1.0
        # Not all 0: whole waves have mean 0 over the cube, which makes `share` exact.
        sure = jnp.argmax(jnp.where(usable, draws[4 + d :], -1.0))
        waves = jnp.where(usable, waves.at[sure].set(1.0), 0.0)
        return Border(axis, low, waves, 2.0 * math.pi * draws[2])

    def _depth(self, part: Border, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(place on the axis counted from the feasible end, where the border is), both f64[]."""
        wave = jnp.cos(2.0 * math.pi * jnp.sum(part.waves * u) + part.phase)
        wave = jnp.where(jnp.any(part.waves != 0), wave, 0.0)
        v = u[part.axis]
        return jnp.where(part.low, 1.0 - v, v), 1.0 - self.share * (1.0 + wave)

    def diverges(self, base: Any, part: Border, u: jax.Array) -> jax.Array:
        v, border = self._depth(part, u)
        return v > border

    def place(self, base: Any, part: Border, u: jax.Array) -> jax.Array:
        v, border = self._depth(part, u)
        v = jnp.minimum(v / border, 1.0)
        return u.at[part.axis].set(jnp.where(part.low, 1.0 - v, v))


@dataclass(frozen=True)
class Priced:
    """Epochs cost what an axis says: log-linear, `spread` times as much at its upper end as at its lower,
    the base's cost in the middle. `axis`: its name, else the instance draws one that has an order.
    """

    spread: float = 10.0
    axis: str | None = None

    keeps_optimum = True
    keeps_law = True

    def __post_init__(self):
        if not (isinstance(self.spread, int | float) and 0 < self.spread < math.inf):
            raise ValueError(f"spread must be finite and above 0, got {self.spread!r}")

    def __call__(self, base: Any, name: str = "") -> Wrapped:
        return Wrapped(base, self, name)

    def choices(self, base: Any) -> list[int]:
        if self.axis is not None:
            return [_named(base, self.axis)]
        return [i for i, a in enumerate(_axes(base)) if a.kind != UNORDERED]

    def check(self, base: Any) -> None:
        if not self.choices(base):
            raise ValueError(f"priced needs an axis with an order, {base.name} has none")

    def draw(self, base: Any, key: jax.Array) -> jax.Array:
        """i32[]: the axis."""
        choices = self.choices(base)
        at = jnp.floor(jax.random.uniform(key, (), jnp.float64) * len(choices)).astype(jnp.int32)
        return jnp.asarray(choices, jnp.int32)[at]

    def price(self, base: Any, part: jax.Array, u: jax.Array) -> jax.Array:
        return self.spread ** (u[part] - 0.5)
