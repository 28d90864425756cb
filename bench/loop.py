"""Spends a budget from the host: any Python callable as objective, any ask/tell library as strategy.

The loop is `bench.drive`, one lane at a time, on the same virtual clock; a pool of threads or processes
computes ahead. A user's function comes in one of three forms (`Callable`), each enough for what it allows.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable as Function
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bench import processes
from bench.cluster import JOB, ClusterSettings
from bench.drive import (
    Hint,
    Prior,
    Run,
    applicable,
    drive,
    frame,
    instance_key,
    instances_of,
    make_cluster,
    seed_keys,
    takes_hint,
    tell_hint,
    tell_prior,
    turn_lane,
    with_prior,
)
from bench.protocols import NONE, Feedback, HostStrategy, Job
from bench.space import Space

FORMS = {
    "config": frozenset(),
    "generator": frozenset({"stop", "resume"}),
    "checkpoint": frozenset({"stop", "resume", "copy", "change"}),
}


@dataclass(frozen=True)
class Callable:
    """A Python function as an objective.

    form "config": `f(config) -> loss`, full trainings only · "generator": `f(config)` yields the validation
    loss after each epoch (stop; resume within the process, so threads only) · "checkpoint":
    `f(config, checkpoint_dir, start, until, seed) -> loss`, which loads what it finds in the folder if
    start > 0 and leaves its checkpoint there (everything, also PBT).

    `seconds(config, start, until) -> float` is the simulated cost, one second an epoch unless given; host
    time never enters the clock. A function that raises is a failed job, told as infinity.
    """

    f: Function[..., Any]
    space: Space
    max_epoch: int = 1
    form: str = "config"
    seconds: Function[..., float] | None = None
    name: str = "callable"
    fidelity: str = "training"
    scale: str = "linear"

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if self.max_epoch < 1:
            raise ValueError(f"max_epoch must be at least 1, got {self.max_epoch}")

    @property
    def offers(self) -> frozenset[str]:
        return FORMS[self.form]


def _checkpoint_call(f, config, source, target, start, until, seed):
    """In a worker: copies the source's checkpoint folder, then trains in the copy."""
    if source is not None:
        shutil.copytree(source, target, dirs_exist_ok=True)
    Path(target).mkdir(parents=True, exist_ok=True)
    return float(f(config, target, start, until, seed))


def _plain_call(f, config):
    return float(f(config))


def _advance(f, config, iterator, start, until):
    """Draws a generator's losses up to epoch `until`; returns (iterator, last loss)."""
    if iterator is None and start:
        raise RuntimeError("its generator ended with the error of an earlier job")
    iterator = iter(f(config)) if iterator is None else iterator
    loss = math.nan
    for _ in range(start, until):
        loss = float(next(iterator))
    return iterator, loss


class CallTrainer:
    """One lane of a Python function, on a pool that computes ahead of the virtual clock."""

    def __init__(self, objective: Callable, pool: Executor, key: jax.Array, workers: int, folder: str):
        self.objective, self.pool, self.key, self.folder = objective, pool, key, Path(folder)
        self.names = objective.space.names
        self.futures: dict[int, Future] = {}
        self.checkpoints: dict[int, Any] = {}  # trial -> folder or iterator
        self.written: dict[int, Any] = {}  # worker -> the same, not yet committed
        self.ready, self.failed = np.zeros(workers, bool), np.zeros(workers, bool)
        self.result = np.full((workers, 2), np.nan)
        self.errors: list[tuple[int, str]] = []
        self.jobs = np.zeros(workers, np.int64)

    def submit(self, cluster, places):
        cost = []
        for w in places.tolist():  # with one lane a place is its worker
            trial, source = int(cluster.trial[0, w]), int(cluster.source[0, w])
            start, until = int(cluster.start[0, w]), int(cluster.until[0, w])
            config = self.objective.space.decode(cluster.x[w])
            held = None if source == NONE else self.checkpoints.get(source)
            f, form = self.objective.f, self.objective.form
            self.ready[w], self.failed[w], self.jobs[w] = False, False, cluster.whole[w, JOB]
            if form == "config":
                self.futures[w] = self.pool.submit(_plain_call, f, config)
            elif form == "generator":
                self.futures[w] = self.pool.submit(_advance, f, config, held, start, until)
            else:
                target = str(self.folder / f"job{self.jobs[w]}")
                seed = int(jax.random.bits(jax.random.fold_in(self.key, trial), (), jnp.uint32)) >> 1
                self.futures[w] = self.pool.submit(
                    _checkpoint_call, f, config, held, target, start, until, seed
                )
                self.written[w] = target
            seconds = self.objective.seconds
            cost.append(float(until - start if seconds is None else seconds(config, start, until)))
        return np.array(cost)

    def step(self):
        wait(self.futures.values(), return_when="FIRST_COMPLETED")
        for w, future in [(w, f) for w, f in self.futures.items() if f.done()]:
            del self.futures[w]
            try:
                result = future.result()
                if self.objective.form == "generator":
                    self.written[w], result = result
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                self.errors.append((int(self.jobs[w]), text))
                self.failed[w], result = True, math.inf
            self.result[w], self.ready[w] = result, True

    def commit(self, cluster, places):
        for w in places.tolist():
            trial = int(cluster.trial[0, w])
            old, new = self.checkpoints.get(trial), self.written.pop(w, None)
            if new is None:  # nothing to keep, or it raised: what was kept before stays
                continue
            self.checkpoints[trial] = new
            pending = any(f for f in self.futures.values())
            if isinstance(old, str) and not pending:  # a copy under way may still read it
                shutil.rmtree(old, ignore_errors=True)


class HostPlayer:
    """One lane of a `HostStrategy`."""

    staged = False

    def __init__(self, strategy: HostStrategy, width: int, prior: Prior | None = None):
        """`prior`: one lane's."""
        self.strategy, self.width = strategy, width
        self.recommends = hasattr(strategy, "recommend")
        if prior is not None:
            for k, (x, loss, _, until) in enumerate(zip(*prior, strict=True)):
                strategy.tell(Job(k, NONE, x.copy(), int(until)), Feedback(float(loss), 0.0))

    def stage(self, granted):
        raise AssertionError("a host strategy has no stages")

    def turn(self, go, tell, feedback, granted):
        if tell.trial[0] != NONE:
            told = Job(int(tell.trial[0]), int(tell.source[0]), tell.x[0].copy(), int(tell.until[0]))
            self.strategy.tell(told, Feedback(float(feedback.loss[0]), float(feedback.cost[0])))
        job = self.strategy.ask()
        x = np.full(self.width, 0.5, np.float32)
        x[: len(job.x)] = job.x
        columns = (np.array([job.trial]), np.array([job.source]), x[None], np.array([job.until]))
        recommended: Any = self.strategy
        return Job(*columns), np.array([recommended.recommend().trial if self.recommends else NONE])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _turn_compiled(strategy, stage, cube, ask_key, state, tell, feedback, granted):
    return turn_lane(strategy, stage, cube, ask_key, state, tell, feedback, granted)


_prior_compiled = jax.jit(tell_prior, static_argnums=0)
_hint_compiled = jax.jit(tell_hint, static_argnums=0)


class PlainPlayer:
    """One lane of a JAX strategy; uncompiled, it is called as it is written."""

    def __init__(
        self,
        factory,
        cube,
        max_epoch,
        budget,
        seed: int,
        compiled: bool = True,
        prior: Prior | None = None,
        hint: np.ndarray | None = None,
    ):
        """`prior` and `hint`: one lane's."""
        self.cube = jax.tree.map(jnp.asarray, cube)
        self.strategy = factory(cube=self.cube, max_epoch=max_epoch, budget=budget)
        self.settings = replace(self.strategy, cube=None)
        self.staged, self.recommends = hasattr(self.strategy, "stage"), hasattr(self.strategy, "recommend")
        self.call = _turn_compiled if compiled else turn_lane
        init_key, self.ask_key, _ = seed_keys(jnp.uint32(seed))
        self.state = self.strategy.init(init_key)
        if prior is not None:
            tell = _prior_compiled if compiled else tell_prior
            self.state = tell(self.settings, self.cube, self.state, jax.tree.map(jnp.asarray, prior))
        if hint is not None and takes_hint(self.strategy):
            tell = _hint_compiled if compiled else tell_hint
            self.state = tell(self.settings, self.cube, self.state, jnp.asarray(hint))

    def stage(self, granted):
        return np.full(1, self.strategy.stage(int(granted[0])))

    def turn(self, go, tell, feedback, granted):
        trial, source, until = (jnp.int32(a[0]) for a in (tell.trial, tell.source, tell.until))
        told = Job(trial, source, jnp.asarray(tell.x[0], jnp.float32), until)
        back = Feedback(jnp.float64(feedback.loss[0]), jnp.float64(feedback.cost[0]))
        stage = int(self.stage(granted)[0]) if self.staged else -1
        count = jnp.uint32(granted[0])
        job, recommended, self.state = self.call(
            self.settings, stage, self.cube, self.ask_key, self.state, told, back, count
        )
        return Job(*(np.asarray(a)[None] for a in job)), np.asarray(recommended)[None]


class PlainTrainer:
    """One lane of a JAX objective; uncompiled, it is called as it is written."""

    def __init__(self, objective, seed: int, instance: int, workers: int, compiled: bool = True):
        self.objective = objective
        self.key = seed_keys(jnp.uint32(seed))[2]
        self.instance = objective.draw(instance_key(jnp.uint32(instance)))
        self.train = _train_compiled if compiled else _train_lane
        self.checkpoints: dict[int, Any] = {}
        self.written: dict[int, Any] = {}
        self.ready, self.failed = np.zeros(workers, bool), np.zeros(workers, bool)
        self.result = np.full((workers, 2), np.nan)

    def submit(self, cluster, places):
        cost = []
        for w in places.tolist():
            source, trial = int(cluster.source[0, w]), int(cluster.trial[0, w])
            start, until = jnp.int32(cluster.start[0, w]), jnp.int32(cluster.until[0, w])
            key = jax.random.fold_in(self.key, trial)
            fresh = source not in self.checkpoints  # one that was given up has none
            before = self.objective.init(self.instance, key) if fresh else self.checkpoints[source]
            x = jnp.asarray(cluster.x[w])
            after, loss, true_loss, seconds = self.train(
                self.objective, self.instance, key, before, x, start, until
            )
            self.written[w] = after
            self.result[w], self.ready[w] = (float(loss), float(true_loss)), True
            cost.append(float(seconds))
        return np.array(cost)

    def step(self):
        raise AssertionError("every job is trained when it is submitted")

    def commit(self, cluster, places):
        for w in places.tolist():
            self.checkpoints[int(cluster.trial[0, w])] = self.written.pop(w)


def _train_lane(objective, instance, key, before, x, start, until):
    hp = objective.space.decode_array(x)
    trained = objective.train(instance, key, before, hp, start, until)
    return *trained, objective.cost(instance, key, hp, start, until)


_train_compiled = jax.jit(_train_lane, static_argnums=0)


def host_factory(factory: Function[..., Any]) -> bool:
    """Whether a factory makes a `HostStrategy`: it takes a `seed`, since its randomness is its own."""
    return "seed" in inspect.signature(factory).parameters


def own_settings(factory: Function[..., Any], cube, seed: int) -> dict[str, Any]:
    """What a `HostStrategy` factory is given besides: its seed and, if it takes it, the shared design."""
    if "design" not in inspect.signature(factory).parameters:
        return {"seed": seed}

    def design(n: int) -> np.ndarray:
        return np.asarray(cube.start(seed_keys(jnp.uint32(seed))[0], n))

    return {"seed": seed, "design": design}


def run(
    factory: Function[..., Any],
    objective: Any,
    *,
    seeds: Sequence[int],
    budget: float,
    workers: int = 1,
    cluster: ClusterSettings | None = None,
    first_instance: int = 1000,
    seeds_per_instance: int = 1,
    executor: str = "threads",
    debug: bool = False,
    prior: Prior | None = None,
    hint: Hint | None = None,
    progress: Function[[float], None] | None = None,
) -> Run:
    """Runs any strategy on any objective, one seed after the other, in host code.

    Strategies are JAX ones or `HostStrategy` factories (which also take `seed=`); objectives are JAX ones or
    a `Callable`, whose jobs run on `workers` threads or processes (`executor`). With `debug` only the first
    seed runs and nothing is compiled, so that print and a debugger work inside. `prior` and what
    is raised: as in `simulate`, and `cluster` too; but no job of a `Callable` can be lost. `hint`: told and
    charged where the strategy has a finder.
    """
    if executor not in ("threads", "processes"):
        raise ValueError(f"executor must be threads or processes, got {executor!r}")
    clock = time.perf_counter()
    settings = ClusterSettings(workers) if cluster is None else cluster
    workers = settings.workers
    called = isinstance(objective, Callable)
    if called and settings.drop:
        raise ValueError(
            f"a function's jobs cannot be lost on a simulated cluster: drop must be 0, got {settings.drop}"
        )
    if called and executor == "processes" and objective.form == "generator":
        raise ValueError("a generator cannot leave its process: use executor=threads, or the checkpoint form")
    lanes = list(seeds)[:1] if debug else list(seeds)
    instances = instances_of(lanes, first_instance, seeds_per_instance).tolist()
    cube = objective.space.cube()
    if prior is not None and debug:
        prior = jax.tree.map(lambda a: a[:1], prior)
    factory = with_prior(factory, prior, len(seeds), objective.max_epoch)
    made: dict[str, Any] = dict(cube=cube, max_epoch=objective.max_epoch, budget=budget)
    frames, errors = [], []
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.disable_jit(debug))
        if not called:
            pool = None
        elif executor == "threads":
            pool = stack.enter_context(ThreadPoolExecutor(workers))
        else:
            pool = stack.enter_context(processes.pool(workers))
        for i, (seed, instance) in enumerate(zip(lanes, instances, strict=True)):
            lane = None if prior is None else jax.tree.map(lambda a, i=i: np.asarray(a)[i], prior)
            if host_factory(factory):
                strategy = factory(**made, **own_settings(factory, cube, seed))
                player: Any = HostPlayer(strategy, cube.width, lane)
            else:
                found = None if hint is None else np.asarray(hint.x)[i]
                player = PlainPlayer(factory, seed=seed, compiled=not debug, prior=lane, hint=found, **made)
                strategy = player.strategy
            applicable(strategy, objective)
            charged = hint.epochs if hint is not None and takes_hint(strategy) else 0
            state = make_cluster(strategy, objective, [seed], settings, budget, charged)
            if pool is not None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nearopt-"))
                trainer: Any = CallTrainer(objective, pool, seed_keys(jnp.uint32(seed))[2], workers, folder)
            else:
                trainer = PlainTrainer(objective, seed, instance, workers, compiled=not debug)
            told = None if lane is None else jax.tree.map(lambda a: a[None], lane)
            columns = drive(state, player, trainer, None, told)
            errors += [(seed, *error) for error in getattr(trainer, "errors", [])]
            frames.append(frame(columns, objective.space, [seed], [instance], budget))
            if progress is not None:
                progress((i + 1) / len(lanes))
    return Run(pd.concat(frames, ignore_index=True), 0.0, time.perf_counter() - clock, errors)
