"""The rules of the contract as checks that anybody can run: `nearopt check NAME`, or from a test.

Each check yields `Violation`s; none means that the rule was kept on a small probe, not that it always is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench import loop, simulate
from bench.cluster import ContractError
from bench.drive import instance_key, seed_keys
from bench.protocols import ABILITIES, NONE, Feedback, Job, Reference, lacking
from bench.space import Choice, Cube, Float, Int, Space


class Violation(NamedTuple):
    """A broken rule and what broke it, with the first violating job where there is one."""

    rule: str
    what: str

    def __str__(self):
        return f"{self.rule}: {self.what}"


PROBE_SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True, change=True, role="rate"),
        "decay": Float(0.0, 0.5, change=True, role="regularisation"),
        "layers": Int(1, 4, role="architecture"),
        "units": Int(4, 64, log=True, role="architecture"),
        "activation": Choice(("relu", "tanh", "gelu")),
    }
)


@dataclass(frozen=True)
class Probe:
    """A tiny training process of a mixed space; `diverging`: share of the instances on which no loss is ever
    finite."""

    name: str = "probe"
    max_epoch: int = 9
    diverging: float = 0.0
    fidelity = "training"
    scale = "linear"
    offers = frozenset(ABILITIES)
    space = PROBE_SPACE

    def draw(self, key):
        finite = jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float32) >= self.diverging
        return jax.random.uniform(key, (2,), jnp.float32, 0.2, 0.8), finite

    def reference(self, instance):
        return Reference(jnp.float64(0.0), jnp.float64(jnp.nan))

    def init(self, instance, key):
        return jnp.full((2,), 2.0, jnp.float64)

    def cost(self, instance, key, hp, start, until):
        return (until - start).astype(jnp.float64) * (0.5 + 0.1 * hp["layers"])

    def train(self, instance, key, checkpoint, hp, start, until):
        rate = hp["rate"].astype(jnp.float64)
        factor = jnp.where(rate > 0.9, jnp.inf, 1.0 - 0.5 * rate)
        centre, finite = instance
        target = jnp.stack([centre[0].astype(jnp.float64), hp["decay"].astype(jnp.float64)])

        def epoch(e, theta):
            live = (e >= start) & (e < until)
            return jnp.where(live, target + (theta - target) * factor, theta)

        theta = jax.lax.fori_loop(0, self.max_epoch, epoch, checkpoint)
        loss = jnp.sum((theta - target[0]) ** 2) + 0.01 * hp["activation"] + 0.01 * jnp.abs(hp["layers"] - 2)
        loss = jnp.where(jnp.isfinite(loss) & finite, loss, jnp.inf)
        return theta, loss, loss


@dataclass(frozen=True)
class TwoSlices:
    """Random configurations, each trained in two slices where that is allowed: the probe for objectives."""

    split: bool = True
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)
    anytime = True

    @property
    def needs(self):
        return frozenset({"stop", "resume"}) if self.split else frozenset()

    @property
    def num_trials(self):
        return max(1, math.ceil(self.budget))

    def init(self, key):
        return jnp.int32(0), self.cube.start(key, self.num_trials)

    def ask(self, key, state):
        n, design = state
        half = self.max_epoch // 2 if self.split and self.max_epoch > 1 else 0
        parts = 2 if half else 1
        trial, second = n // parts, n % parts == parts - 1
        over = trial >= self.num_trials
        source = jnp.where((n % parts > 0) & ~over, trial, NONE)
        job = Job(
            jnp.where(over, NONE, trial).astype(jnp.int32),
            source.astype(jnp.int32),
            design[jnp.minimum(trial, self.num_trials - 1)],
            jnp.where(second, self.max_epoch, half).astype(jnp.int32),
        )
        return job, (jnp.where(over, n, n + 1).astype(jnp.int32), design)

    def tell(self, state, job, feedback):
        return state


DIVERGES = ", half of the instances without a finite loss"
HALF = Probe(diverging=0.5)  # seed 2 has losses, 1 and 3 have none


def _same(a: Any, b: Any) -> bool:
    """Bit-for-bit equality of two pytrees."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(_equal(x, y) for x, y in leaves)


def _equal(a, b) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)


def first_difference(a: Any, b: Any, columns: list[str], tolerance: float = 0.0) -> str | None:
    """The first job at which two data frames of traces differ in `columns`, in words; None: nowhere."""
    if len(a) != len(b):
        return f"{len(a)} jobs against {len(b)}"
    for name in columns:
        x, y = a[name].to_numpy(), b[name].to_numpy()
        if x.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                equal = (
                    (x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= tolerance * (1 + np.abs(x)))
                )
        else:
            equal = x == y
        if not equal.all():
            i = int(np.flatnonzero(~equal)[0])
            return f"seed {a['seed'].iloc[i]} job {a['job'].iloc[i]}: {name} is {x[i]} against {y[i]}"
    return None


def check_strategy(factory: Callable[..., Any], budget: float = 6.0) -> list[Violation]:
    """Runs a strategy's factory against the rules on small probes; an empty list means all were kept."""
    if loop.host_factory(factory):
        return list(_host_strategy(factory, budget))
    found = list(_declared(factory, budget))
    if found:
        return found
    with jax.enable_x64(True):
        found += _protocol(factory, budget)
    return found + list(_runs(factory, budget))


def _declared(factory, budget) -> Iterator[Violation]:
    cube = PROBE_SPACE.cube()
    strategy: Any = factory(cube=cube, max_epoch=9, budget=budget)
    if not hasattr(strategy, "__dataclass_fields__"):
        yield Violation("a strategy is a frozen dataclass", f"got {type(strategy).__name__}")
        return
    try:
        hash(dataclasses.replace(strategy, cube=None))
    except TypeError as error:
        yield Violation("settings are hashable (tuples, not lists)", str(error))
    if strategy.num_trials < 1:
        yield Violation("num_trials is at least 1", f"got {strategy.num_trials} for a budget of {budget:g}")
    unknown = set(strategy.needs) - set(ABILITIES)
    if unknown:
        yield Violation(f"needs is a subset of {', '.join(ABILITIES)}", f"got {', '.join(sorted(unknown))}")
    if not isinstance(strategy.anytime, bool):
        yield Violation("anytime is True or False", f"got {strategy.anytime!r}")


def _protocol(factory, budget) -> Iterator[Violation]:
    cube = jax.tree.map(jnp.asarray, PROBE_SPACE.cube())
    strategy = factory(cube=cube, max_epoch=9, budget=budget)
    init_key, ask_key, _ = seed_keys(jnp.uint32(7))
    init, ask, tell = jax.jit(strategy.init), jax.jit(strategy.ask), jax.jit(strategy.tell)
    state = init(init_key)
    shapes = _shapes(state)
    if not _same(state, init(init_key)):
        yield Violation("init depends on its key only", "two calls with one key differ")
    blank = Job(jnp.int32(NONE), jnp.int32(NONE), jnp.full((cube.width,), 0.5, jnp.float32), jnp.int32(0))
    epochs, waits = np.zeros(strategy.num_trials, int), 0
    for n in range(4 * strategy.num_trials + 40):
        key = jax.random.fold_in(ask_key, n)
        job, after = ask(key, state)
        again, _ = ask(key, state)
        name = f"job {n} (trial {int(job.trial)}, source {int(job.source)}, until {int(job.until)})"
        if not _same(job, again):
            yield Violation("ask depends on key and state only", f"{name}: two calls differ")
            return
        if _shapes(after) != shapes:
            yield Violation(
                "the state's shapes and dtypes never change", f"{name}: {_shapes(after)} after ask"
            )
            return
        if job.x.dtype != jnp.float32 or job.x.shape != (cube.width,):
            yield Violation("x is f32[d]", f"{name}: {job.x.dtype}{list(job.x.shape)}")
            return
        if int(job.trial) == NONE:
            if not _same(after, state):
                yield Violation("an ask that waits returns the state bit for bit", name)
                return
            waits += 1
            break  # every job was told at once, so a wait is the end
        loss = np.inf if n % 5 == 3 else float(np.sin(3.0 * n))
        told = tell(after, job, Feedback(jnp.float64(loss), jnp.float64(1.0)))
        if _shapes(told) != shapes:
            yield Violation(
                "the state's shapes and dtypes never change", f"{name}: {_shapes(told)} after tell"
            )
            return
        if not _same(tell(told, blank, Feedback(jnp.float64(0.0), jnp.float64(0.0))), told):
            yield Violation("tell of trial NONE returns the state bit for bit", f"after {name}")
            return
        if 0 <= int(job.trial) < len(epochs):
            epochs[int(job.trial)] = int(job.until)
        state = told


COLUMNS = ["trial", "source", "start", "until", "worker", "started", "finished", "loss"]


def _runs(factory, budget) -> Iterator[Violation]:
    strategy = factory(cube=PROBE_SPACE.cube(), max_epoch=9, budget=budget)
    # Compiled in a hurry: what is asked is which jobs, not how fast. Half of the instances diverge.
    run = functools.partial(simulate.simulate, factory, hurried=True)
    short = None  # runs with one worker
    for objective, workers in [(HALF, 3), (HALF, 1), (Probe(max_epoch=1), 1)]:
        if lacking(strategy.needs, objective.offers, objective.max_epoch):
            continue
        where = f"max_epoch {objective.max_epoch}, {workers} worker(s){DIVERGES * (objective is HALF)}"
        try:
            # Beyond one block, where the strategy says that the width of its blocks does not matter.
            lanes = 66 if workers == 3 and getattr(strategy, "lanes", simulate.BLOCK) > simulate.BLOCK else 4
            trace = run(objective, seeds=range(lanes), budget=budget, workers=workers).trace
        except ContractError as error:
            yield Violation("jobs keep the contract", f"{where}: {error}")
            return  # the first violating job; what follows it would break for the same reason
        except ValueError as error:
            if "does not pay for a single job" not in str(error) and "population" not in str(error):
                yield Violation("runs", f"{where}: {error}")
            continue
        if workers == 3:
            other = loop.run(factory, objective, seeds=[1, 2], budget=budget, workers=workers).trace
            first = trace[trace["seed"].isin([1, 2])].reset_index(drop=True)
            difference = first_difference(first, other, COLUMNS[:4])
            if difference:
                yield Violation("both drivers agree job for job", f"{where}: {difference}")
            alone = run(objective, seeds=[2], budget=budget, workers=workers).trace
            beside = trace[trace["seed"] == 2].reset_index(drop=True)
            columns = COLUMNS + [c for c in trace if c.startswith("hp_")]
            difference = first_difference(alone, beside, columns)
            if difference:
                yield Violation("the same seed gives the same run, alone or beside others", difference)
        elif objective is HALF:
            short = trace
    if strategy.anytime and short is not None:
        long = run(HALF, seeds=range(4), budget=2 * budget).trace
        begun = long.merge(short[["seed", "job"]], on=["seed", "job"])
        # Other table sizes are other programs: what is proposed may differ by rounding, not by more.
        what = COLUMNS[:4] + [c for c in short if c.startswith("hp_")]
        difference = first_difference(short, begun, what, tolerance=1e-3)
        if difference:
            yield Violation("anytime: a run planned for B is the beginning of one planned for 2B", difference)


def _host_strategy(factory, budget) -> Iterator[Violation]:
    for objective, workers in [(HALF, 1), (HALF, 3), (Probe(max_epoch=1), 1)]:
        where = f"max_epoch {objective.max_epoch}, {workers} worker(s){DIVERGES * (objective is HALF)}"
        try:
            runs = [
                loop.run(factory, objective, seeds=[2, 3], budget=budget, workers=workers).trace
                for _ in range(2)
            ]
        except ContractError as error:
            yield Violation("jobs keep the contract", f"{where}: {error}")
            continue
        except Exception as error:
            yield Violation("runs", f"{where}: {type(error).__name__}: {error}")
            continue
        difference = first_difference(runs[0], runs[1], COLUMNS)
        if difference:
            yield Violation("the same seed gives the same run", f"{where}: {difference}")


def check_objective(objective: Any) -> list[Violation]:
    """Runs an objective against the rules on a few instances; an empty list means all were kept."""
    found = list(_objective_declared(objective))
    if found:
        return found
    with jax.enable_x64(True):
        found += _objective_training(objective)
    return found + list(_objective_runs(objective))


def _objective_declared(objective) -> Iterator[Violation]:
    if not isinstance(objective.space, Space):
        yield Violation("space is a Space", f"got {type(objective.space).__name__}")
    if objective.fidelity not in ("training", "proxy"):
        yield Violation("fidelity is training or proxy", f"got {objective.fidelity!r}")
    if objective.scale not in ("linear", "log"):
        yield Violation("scale is linear or log", f"got {objective.scale!r}")
    if not (isinstance(objective.max_epoch, int) and objective.max_epoch >= 1):
        yield Violation("max_epoch is an integer of at least 1", f"got {objective.max_epoch!r}")
    unknown = set(objective.offers) - set(ABILITIES)
    if unknown:
        yield Violation(f"offers is a subset of {', '.join(ABILITIES)}", f"got {', '.join(sorted(unknown))}")
    try:
        hash(objective)
    except TypeError as error:
        yield Violation("an objective is hashable (tuples, not lists)", str(error))


def _objective_training(objective) -> Iterator[Violation]:
    instance = jax.jit(objective.draw)(instance_key(jnp.uint32(3)))
    key = seed_keys(jnp.uint32(5))[2]
    design = jax.tree.map(jnp.asarray, objective.space.cube()).start(key, 4)

    @jax.jit
    def train(checkpoint, x, start, until):
        hp = objective.space.decode_array(x)
        out = objective.train(instance, key, checkpoint, hp, start, until)
        return *out, objective.cost(instance, key, hp, start, until)

    fresh = jax.jit(lambda: objective.init(instance, key))()
    end = objective.max_epoch
    for i, x in enumerate(design):
        name = f"configuration {i}, epochs 0 to {end}"
        checkpoint, loss, true_loss, cost = train(fresh, x, jnp.int32(0), jnp.int32(end))
        for what, value in (("loss", loss), ("true_loss", true_loss), ("cost", cost)):
            if value.shape != () or value.dtype != jnp.float64:
                yield Violation(f"{what} is f64[]", f"{name}: {value.dtype}{list(value.shape)}")
                return
        if _shapes(checkpoint) != _shapes(fresh):
            yield Violation("a checkpoint's shapes and dtypes never change", name)
            return
        if not (np.isfinite(cost) and cost > 0):
            yield Violation("cost is finite and above 0", f"{name}: {cost}")
        if end > 1 and "resume" in objective.offers:
            middle = max(1, end // 3)
            half, _, _, first = train(fresh, x, jnp.int32(0), jnp.int32(middle))
            _, loss2, true2, second = train(half, x, jnp.int32(middle), jnp.int32(end))
            if not np.isclose(first + second, cost, rtol=1e-9):
                yield Violation(
                    "the cost of two slices is the cost of the whole",
                    f"{name}: {first + second} against {cost}",
                )
            close = [
                np.isclose(a, b, rtol=1e-6, equal_nan=True) for a, b in ((loss, loss2), (true_loss, true2))
            ]
            if not all(close):
                yield Violation(
                    "train(0->r) equals train(0->s) then train(s->r)",
                    f"configuration {i}, s={middle}, r={end}: loss {loss} against {loss2}",
                )


def _objective_runs(objective) -> Iterator[Violation]:
    split = "resume" in objective.offers and objective.max_epoch > 1

    def factory(**settings):
        return TwoSlices(split, **settings)

    try:
        # More than a block, since that is another program.
        run = simulate.simulate(factory, objective, seeds=range(simulate.BLOCK + 1), budget=3.0).trace
        alone = simulate.simulate(factory, objective, seeds=[1], budget=3.0).trace
    except Exception as error:
        yield Violation("runs under random search", f"{type(error).__name__}: {error}")
        return
    difference = first_difference(
        alone, run[run["seed"] == 1].reset_index(drop=True), [*COLUMNS, "true_loss"]
    )
    if difference:
        yield Violation("the same seed gives the same run, alone or beside others", difference)
