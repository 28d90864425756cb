"""The 24 noiseless BBOB functions, with COCO's own instances.

Hansen, Finck, Ros & Auger 2009, Real-parameter black-box optimization benchmarking 2009: noiseless functions
definitions (INRIA RR-6829). Its T_osz is `_oscillate` here, T_asy `_asymmetric`, Lambda `_conditioned`; its
rotations R and Q are an instance's `matrices`, multiplied out where nothing comes between them. Where report
and COCO's code part (the Gallagher peaks' conditions, the sign of f4's optimum, which rotation is used
where), the code is followed, because published results are its results (Hansen et al. 2021, COCO,
Optimization Methods and Software 36:114).

Departures: no penalties for leaving [-5, 5]^d, where the space ends. Every function is written in the
distance from its optimum, so that it is f_opt there, to the last bits, and nowhere less. COCO has at most 40
dimensions; beyond, these are the report's formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Reference
from bench.space import Float, Space, check_whole

INSTANCES = 10_000  # instance numbers are drawn from 1 to this
MODULUS, MULTIPLIER, TABLE = 2**31 - 1, 16807, 32
FIRST = 1_000_000  # what the first rotation's seed has over the second's
SEED = {4: 3, 18: 17}  # these share the seeds of the function that they vary
SCHWEFEL = 4.2096874637  # twice the distance of f20's optimum from 0 along each axis, rounded as COCO has it
BASIN = 2.5  # mu_0, twice the distance of f24's optimum from 0 along each axis


def uniforms(seed: Any, count: int) -> jax.Array:
    """f64[count] in (0, 1): COCO's generator from seed i64[], at least 1 and below 2^31 - 1.

    Park & Miller's minimal standard (1988, CACM 31:1192), its first eight numbers dropped, shuffled through a
    table of 32 as by Bays & Durham. An earlier number does not depend on how many are drawn.
    """
    powers = [pow(MULTIPLIER, k, MODULUS) for k in range(9, 9 + TABLE + count)]
    stream = jnp.asarray(seed, jnp.int64) * np.array(powers, np.int64) % MODULUS  # below 2^62

    def shuffle(carry, fresh):
        table, last = carry
        place = last // 67108865
        drawn = table[place]
        return (table.at[place].set(fresh), drawn), drawn

    table = stream[:TABLE][::-1]
    return jax.lax.scan(shuffle, (table, table[0]), stream[TABLE:])[1] / MODULUS


def _normals(u):
    """Box and Muller's f64[n] from u f64[2n]."""
    n = len(u) // 2
    return jnp.sqrt(-2 * jnp.log(u[:n])) * jnp.cos(2 * math.pi * u[n:])


def _rotation(u, d: int):
    """f64[d, d] from u f64[2 d^2 or more]: the orthonormalised columns of a normal matrix."""
    q, r = jnp.linalg.qr(_normals(u[: 2 * d * d]).reshape(d, d).T)
    return q * jnp.sign(jnp.diagonal(r))  # Gram and Schmidt's signs


class _Random(NamedTuple):
    """What a seed decides of an instance: optimum f64[] · usual f64[2, d], two places in [-4, 4]^d, the
    second for f12 · first, second f64[d, d], rotations · uniforms f64[101 d or more]."""

    optimum: Any
    usual: Any
    first: Any
    second: Any
    uniforms: Any


@partial(jax.jit, static_argnums=1)  # so that functions drawn one by one share it
def _random(seed: jax.Array, d: int) -> _Random:
    count = max(2 * d * d, 101 * d)  # for two normal numbers an entry of a rotation, or for 101 peaks
    u, beside, other = jax.vmap(lambda s: uniforms(s, count))(seed + jnp.array([0, 1, FIRST]))
    ratio = _normals(u[:2])[0] / _normals(beside[:2])[0]
    optimum = jnp.clip(_round(10_000 * ratio) / 100, -1000, 1000)
    grid = jnp.floor(10_000 * jnp.stack([u[:d], other[:d]])) - 5000  # whole, so that 0 is met exactly
    usual = jnp.where(grid == 0, -1e-5, grid / 1250)
    return _Random(optimum, usual, _rotation(other, d), _rotation(u, d), u)


def _powers(base: float, d: int) -> np.ndarray:
    """f64[d]: base^0 to base^1, the exponent in equal steps."""
    return base ** np.linspace(0, 1, d)


def _conditioned(condition: float, z):
    """z f64[d], or the rows of z f64[d, d], times 1 to the root of the condition."""
    return (_powers(math.sqrt(condition), len(z)) * z.T).T


def _stretch(d: int) -> float:
    """Of the Rosenbrock functions: keeps their valley inside the box in high dimension."""
    return max(1.0, math.sqrt(d) / 8)


# On a CPU, XLA computes neither float64 sines nor what goes straight into a sum several numbers at a time.
# Hence a polynomial and products with ones: together they make the functions up to ten times faster.


def _half_turn(r):
    """sin(pi r) for r in [-.5, .5]: the Taylor series, whose next term is below 2e-18."""
    total, square = 0.0, r**2
    for k in reversed(range(11)):
        total = total * square + (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1)
    return total * r


def _sine(x):
    turns = x / math.pi
    whole = jnp.round(turns)
    return _half_turn(turns - whole) * (1 - 2 * (whole % 2))


def _ripple(turns):
    """1 - cos(2 pi turns), accurate near 0 and never below."""
    return 2 * _half_turn(turns - jnp.round(turns)) ** 2


def _sum(terms):
    return terms @ np.ones(len(terms))


def _oscillate(x):
    log = jnp.log(jnp.where(x == 0, 1.0, jnp.abs(x)))
    one, two = jnp.where(x > 0, 10.0, 5.5), jnp.where(x > 0, 7.9, 3.1)
    return x * jnp.exp(0.049 * (_sine(one * log) + _sine(two * log)))


def _asymmetric(x, beta: float):
    above = jnp.where(x > 0, x, 1.0)
    return x * jnp.exp(beta * np.linspace(0, 1, len(x)) * jnp.sqrt(above) * jnp.log(above))


def _round(x):
    return jnp.floor(x + 0.5)  # halves go up, as in COCO


# What is left when the transformations are done: of z f64[d], 0 where z is 0.


def _sphere(z):
    return _sum(z**2)


def _ellipsoid(z):
    return _sum(_powers(1e6, len(z)) * z**2)


def _rastrigin(z):
    return _sum(10 * _ripple(z) + z**2)


def _rosenbrock_terms(y):
    z = y + 1
    return 100 * (z[:-1] ** 2 - z[1:]) ** 2 + y[:-1] ** 2


def _discus(z):
    return 1e6 * z[0] ** 2 + _sum(z[1:] ** 2)


def _bent_cigar(z):
    return z[0] ** 2 + 1e6 * _sum(z[1:] ** 2)


def _sharp_ridge(z):
    return z[0] ** 2 + 100 * jnp.sqrt(_sum(z[1:] ** 2))


def _different_powers(z):
    exponents = np.linspace(2, 6, len(z))
    return jnp.sqrt(_sum(jnp.exp(exponents * jnp.log(jnp.abs(z)))))  # exp(-inf) at 0


def _weierstrass(z):
    # Each cos(2 pi 3^k (z + .5)) is -cos(2 pi 3^k z), and in the optimum's value, to be taken off, it is -1.
    total = sum(0.5**k * _ripple(3.0**k * z) for k in range(12))
    return 10 * (_sum(total) / len(z)) ** 3


def _schaffers(z):
    radius = jnp.sqrt(z[:-1] ** 2 + z[1:] ** 2)
    waves = _ripple(50 / math.pi * jnp.exp(0.2 * jnp.log(radius)))
    return (_sum(jnp.sqrt(radius) * (1 + waves / 2)) / len(radius)) ** 2


def _griewank_rosenbrock(y):
    terms = _rosenbrock_terms(y)
    return 10 * _sum(terms / 4000 + _ripple(terms / (2 * math.pi))) / len(terms)


def _katsuura(z):
    d, rough = len(z), 0.0
    for j in range(1, 33):
        rough = rough + jnp.abs(2.0**j * z - _round(2.0**j * z)) / 2.0**j
    return 10 / d**2 * jnp.expm1(10 / d**1.2 * _sum(jnp.log1p(np.arange(1, d + 1) * rough)))


class Peaks(NamedTuple):
    """Gallagher's peaks: the logarithm of their heights above the rotated z f64[d] is f64[p],
    top f64[p] + slope f64[p, 2d] @ [z^2, z]. The first is the highest, with its summit at 0."""

    top: Any
    slope: Any


class Instance(NamedTuple):
    """number i64[], COCO's · optimum f64[] · minimiser f64[d] · matrices, none, one or two of f64[d, d], the
    inner one first · peaks of f21 and f22, else None."""

    number: Any
    optimum: Any
    minimiser: Any
    matrices: tuple
    peaks: Peaks | None


# The functions, of y f64[d], the distance from the optimum, and the instance.


def _rotated(shape: Callable[[Any], Any]):
    return lambda y, instance: shape(instance.matrices[0] @ y)


def _bueche_rastrigin(y, instance):
    z = _oscillate(y)
    skewed = (z > 0) & (np.arange(len(y)) % 2 == 0)
    return _rastrigin(_conditioned(10, z) * jnp.where(skewed, 10.0, 1.0))


def _attractive_sector(y, instance):
    z = instance.matrices[0] @ y
    inside = _sphere(z * jnp.where(z * instance.minimiser > 0, 100.0, 1.0))
    return _oscillate(inside) ** 0.9


def _step_ellipsoid(y, instance):
    inner, outer = instance.matrices
    slope = inner @ y
    steps = jnp.where(jnp.abs(slope) > 0.5, _round(slope), _round(10 * slope) / 10)
    value = _sum(_powers(100, len(y)) * (outer @ steps) ** 2)
    return 0.1 * jnp.maximum(jnp.abs(slope[0]) * 1e-4, value)


def _rastrigin_rotated(y, instance):
    inner, outer = instance.matrices
    return _rastrigin(outer @ _asymmetric(_oscillate(inner @ y), 0.2))


def _bent_cigar_rotated(y, instance):
    rotation = instance.matrices[0]
    return _bent_cigar(rotation @ _asymmetric(rotation @ y, 0.5))


def _weierstrass_rotated(y, instance):
    inner, outer = instance.matrices
    return _weierstrass(outer @ _oscillate(inner @ y))


def _schaffers_rotated(y, instance):
    inner, outer = instance.matrices
    return _schaffers(outer @ _asymmetric(inner @ y, 0.5))


def _schwefel(y, instance):
    towards = 2 * jnp.sign(instance.minimiser) * y
    chained = towards.at[1:].add(0.25 * towards[:-1])
    z = 100 * (_conditioned(10, chained) + SCHWEFEL)
    penalty = _sum(jnp.maximum(jnp.abs(z) - 500, 0) ** 2)
    return 0.01 * (penalty + 418.9828872724339 - _sum(z * _sine(jnp.sqrt(jnp.abs(z)))) / len(z))


def _gallagher(y, instance):
    peaks, z = instance.peaks, instance.matrices[0] @ y
    highest = jnp.max(peaks.top + peaks.slope @ jnp.concatenate([z**2, z]))
    return _oscillate(-10 * jnp.expm1(highest - math.log(10))) ** 2


def _lunacek(y, instance):
    d = len(y)
    shrink = 1 - 0.5 / (math.sqrt(d + 20) - 4.1)
    other = -math.sqrt((BASIN**2 - 1) / shrink)
    towards = 2 * jnp.sign(instance.minimiser) * y
    bowls = jnp.minimum(_sphere(towards), d + shrink * _sphere(towards + (BASIN - other)))
    return bowls + 10 * _sum(_ripple(instance.matrices[0] @ towards))


class _Formula(NamedTuple):
    """`value(y f64[d], instance) -> f64[]`, without f_opt; `matrices(first, second)` makes an instance's of
    its two rotations; `minimiser(second, usual, u)` its place from the second rotation, the usual place in
    [-4, 4]^d and uniform numbers f64[101 d or more]; `peaks`: how many."""

    name: str
    value: Callable[[Any, Instance], Any]
    matrices: Callable[[Any, Any], tuple] | None = None
    minimiser: Callable[[Any, Any, Any], Any] = lambda second, usual, u: usual
    peaks: int = 0


def _one(first, second):
    return (first,)


def _stretched(first, second):
    return (_stretch(len(second)) * second,)


def _product(condition: float):
    return lambda first, second: (first @ _conditioned(condition, second),)


def _one_and_product(condition: float):
    return lambda first, second: (first, first @ _conditioned(condition, second))


def _one_and_other(condition: float):
    return lambda first, second: (first, _conditioned(condition, second))


def _valley(second, usual, u):
    """Where the rotated Rosenbrock valley, which is put at .5 along each axis, has its 1."""
    return jnp.sum(second, axis=0) / (2 * _stretch(len(usual)))


def _bowl(second, usual, u):
    return jnp.where(_normals(u[: 2 * len(usual)]) < 0, -BASIN / 2, BASIN / 2)


_FORMULAS = (
    _Formula("sphere", lambda y, _: _sphere(y)),
    _Formula("ellipsoid_separable", lambda y, _: _ellipsoid(_oscillate(y))),
    _Formula(
        "rastrigin_separable", lambda y, _: _rastrigin(_conditioned(10, _asymmetric(_oscillate(y), 0.2)))
    ),
    _Formula(
        "bueche_rastrigin",
        _bueche_rastrigin,
        minimiser=lambda _, usual, u: jnp.where(np.arange(len(usual)) % 2 == 0, jnp.abs(usual), usual),
    ),
    _Formula(
        "linear_slope",
        lambda y, _: _sum(_powers(10, len(y)) * jnp.abs(y)),
        minimiser=lambda _, usual, u: 5 * jnp.sign(usual),
    ),
    _Formula("attractive_sector", _attractive_sector, _product(10)),
    _Formula("step_ellipsoid", _step_ellipsoid, lambda first, second: (_conditioned(10, second), first)),
    _Formula(
        "rosenbrock",
        lambda y, _: _sum(_rosenbrock_terms(_stretch(len(y)) * y)),
        minimiser=lambda _, usual, u: 0.75 * usual,
    ),
    _Formula("rosenbrock_rotated", _rotated(lambda y: _sum(_rosenbrock_terms(y))), _stretched, _valley),
    _Formula("ellipsoid", _rotated(lambda y: _ellipsoid(_oscillate(y))), _one),
    _Formula("discus", _rotated(lambda y: _discus(_oscillate(y))), _one),
    _Formula("bent_cigar", _bent_cigar_rotated, _one),
    _Formula("sharp_ridge", _rotated(_sharp_ridge), _product(10)),
    _Formula("different_powers", _rotated(_different_powers), _one),
    _Formula("rastrigin", _rastrigin_rotated, _one_and_product(10)),
    _Formula("weierstrass", _weierstrass_rotated, _one_and_product(0.01)),
    _Formula("schaffers", _schaffers_rotated, _one_and_other(10)),
    _Formula("schaffers_ill_conditioned", _schaffers_rotated, _one_and_other(1000)),
    _Formula("griewank_rosenbrock", _rotated(_griewank_rosenbrock), _stretched, _valley),
    _Formula(
        "schwefel",
        _schwefel,
        minimiser=lambda _, usual, u: jnp.where(u[: len(usual)] < 0.5, -SCHWEFEL / 2, SCHWEFEL / 2),
    ),
    _Formula(
        "gallagher_101",
        _gallagher,
        lambda first, second: (second,),
        lambda _, usual, u: 8 * (u[: len(usual)] - 0.5),
        peaks=101,
    ),
    _Formula(
        "gallagher_21",
        _gallagher,
        lambda first, second: (second,),
        lambda _, usual, u: 7.84 * (u[: len(usual)] - 0.5),
        peaks=21,
    ),
    _Formula("katsuura", _rotated(_katsuura), _product(100)),
    _Formula("lunacek_bi_rastrigin", _lunacek, _product(100), _bowl),
)


@partial(jax.jit, static_argnums=0)
def _peaks(p: int, seed: Any, u: Any, rotation: Any) -> Peaks:
    """The p peaks of f21 or f22, from the seed, its uniform numbers and the rotation."""
    d = len(rotation)
    side, highest = (10.0, math.sqrt(1000)) if p == 101 else (9.8, 1000.0)
    # Sorting gives random orders: of the conditions over the lower peaks, and for each peak over its axes.
    lower = 1000.0 ** (jnp.argsort(u[: p - 1]) / (p - 2))
    condition = jnp.concatenate([jnp.full((1,), highest), lower])
    axes = jnp.argsort(jax.vmap(lambda i: uniforms(seed + 1000 * i, d))(jnp.arange(p)), axis=-1)
    spread = condition[:, None] ** (axes / (d - 1) - 0.5) / (2 * d)
    place = side * (u[: p * d].reshape(p, d) - 0.5)
    centre = (place - 0.8 * place[0]).at[0].set(0.0) @ rotation.T  # seen from the optimum, the first
    height = np.concatenate([[10.0], np.linspace(1.1, 9.1, p - 1)])
    top = np.log(height) - jnp.sum(spread * centre**2, axis=-1)
    return Peaks(top, jnp.concatenate([-spread, 2 * spread * centre], axis=-1))


@dataclass(frozen=True)
class BBOB:
    """A BBOB function as an objective of one epoch.

    `function` is a number from 1 to 24 or a name as in `_FORMULAS`; `dimension` is at least 2. `instance` is
    COCO's number of the only instance; None: each draw takes one from 1 to 10,000, so that COCO's own code
    can confirm every value. The loss is COCO's f, its offset f_opt included; since that may be negative, the
    scale is linear, although some of the functions span decades.
    """

    name: str
    function: int | str = 1
    dimension: int = 5
    instance: int | None = None

    max_epoch = 1
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        names = [formula.name for formula in _FORMULAS]
        if self.function in names:
            object.__setattr__(self, "function", names.index(str(self.function)) + 1)
        if self.function not in range(1, 25):
            raise ValueError(f"function must be 1 to 24 or one of {', '.join(names)}, got {self.function!r}")
        check_whole("dimension", self.dimension, 2)
        if self.instance is not None:
            check_whole("instance", self.instance, 1, INSTANCES)

    @property
    def space(self) -> Space:
        return Space({f"x{i}": Float(-5.0, 5.0) for i in range(self.dimension)})

    def draw(self, key: jax.Array) -> Instance:
        if self.instance is not None:
            return self.numbered(self.instance)
        u = jax.random.uniform(key, (), jnp.float64)
        return self.numbered(1 + jnp.floor(INSTANCES * u))

    def numbered(self, number: Any) -> Instance:
        """COCO's instance of this number, i64[] from 1 to 10,000."""
        f, d = int(self.function), self.dimension
        formula, number = _FORMULAS[f - 1], jnp.asarray(number, jnp.int64)
        seed = SEED.get(f, f) + 10_000 * number
        random = _random(seed, d)
        minimiser = formula.minimiser(random.second, random.usual[int(f == 12)], random.uniforms)
        matrices = formula.matrices(random.first, random.second) if formula.matrices else ()
        peaks = _peaks(formula.peaks, seed, random.uniforms, random.second) if formula.peaks else None
        return Instance(number, random.optimum, minimiser, matrices, peaks)

    def value(self, instance: Instance, x: jax.Array) -> jax.Array:
        """f64[] at x f64[d] in [-5, 5]^d."""
        return _FORMULAS[int(self.function) - 1].value(x - instance.minimiser, instance) + instance.optimum

    def reference(self, instance: Instance) -> Reference:
        return Reference(instance.optimum, jnp.float64(jnp.nan))

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
        x = jnp.stack([hp[f"x{i}"] for i in range(self.dimension)]).astype(jnp.float64)
        loss = self.value(instance, x)
        return (), loss, loss
