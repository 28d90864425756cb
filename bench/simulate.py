"""Spends a budget on a simulated clock, vectorised over seeds.

One host loop over two compiled programs: `turn` (at most one tell, then one ask; one for each strategy's
settings, padded dimension and budget) and `train` (gather a checkpoint, train a slice, scatter it; one for
each objective). Neither knows the other, the clock, or the number of workers. `drive` is that loop;
`bench.loop` runs the same one over host code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bench.cluster import Cluster
from bench.protocols import NONE, Feedback, Job, budget_epochs, lacking
from bench.space import Space

BLOCK = 64  # lanes of one program: the last bits of batched linear algebra depend on how many there are
FINISHED, GIVEN_UP = "finished", "given up"


class Run(NamedTuple):
    """What a cell's block leaves: its trace, seconds spent compiling and running, and the tracebacks of
    jobs that raised, as (seed, job, text)."""

    trace: pd.DataFrame
    compile_s: float
    run_s: float
    errors: list


class NotApplicable(ValueError):
    """The strategy needs what the objective does not offer."""


class Player(Protocol):
    """Strategies of all lanes. `recommends` says whether `turn` returns recommended trials."""

    def turn(self, go: np.ndarray, tell: Job, feedback: Feedback, granted: np.ndarray) -> tuple[Job, np.ndarray]:
        """Tells each lane its job (NONE: nothing), then asks it; only lanes of `go` bool[lanes] count.
        Returns (jobs, recommended trials i32[lanes])."""
        ...

    def stage(self, granted: np.ndarray) -> np.ndarray:
        """i64[lanes]: lanes of different stages cannot take a turn together."""
        ...


class Trainer(Protocol):
    """Trains slices for all lanes; results are kept at [lane, worker]."""

    ready: np.ndarray  # bool[lanes, workers]
    loss: np.ndarray  # f64[lanes, workers]
    true_loss: np.ndarray
    failed: np.ndarray  # bool[lanes, workers]: the program raised

    def submit(self, cluster: Cluster, lanes: np.ndarray, workers: np.ndarray) -> np.ndarray:
        """Starts the jobs that the cluster holds there; returns their cost f64, simulated seconds."""
        ...

    def step(self) -> None:
        """Works until at least one more result is ready."""
        ...

    def commit(self, cluster: Cluster, lanes: np.ndarray, workers: np.ndarray) -> None:
        """These jobs' checkpoints count from now on."""
        ...


def drive(
    cluster: Cluster,
    player: Player,
    trainer: Trainer,
    progress: Callable[[float], None] | None = None,
) -> dict[str, np.ndarray]:
    """Runs every lane to its end; returns the trace as columns, unsorted, with `lane` and `x`."""
    rows: dict[str, list] = {}
    last_true = np.full((cluster.lanes, cluster.num_trials), np.nan)
    everyone = np.arange(cluster.lanes)
    while True:
        tells, worker, asks = cluster.plan(trainer.ready)
        acts = tells | asks
        if not acts.any():
            if not cluster.busy.any():
                break
            trainer.step()
            continue
        stages = player.stage(cluster.granted)
        if (stages[acts] != stages[acts][0]).any():
            acts &= stages == stages[acts].min()
            tells, asks = tells & acts, asks & acts
        at = everyone, worker
        tell = Job(
            np.where(tells, cluster.trial[at], NONE).astype(np.int32),
            cluster.source[at],
            cluster.x[at],
            cluster.until[at],
        )
        feedback = Feedback(trainer.loss[at], cluster.cost[at])
        lanes = np.flatnonzero(tells)
        done = lanes, worker[lanes]
        if len(lanes):
            record = {
                "lane": lanes, "job": cluster.job[done], "trial": cluster.trial[done],
                "source": cluster.source[done], "start": cluster.start[done], "until": cluster.until[done],
                "loss": trainer.loss[done], "true_loss": trainer.true_loss[done], "cost": cluster.cost[done],
                "worker": worker[lanes], "started": cluster.started[done], "finished": cluster.finish[done],
                "failed": trainer.failed[done], "x": cluster.x[done],
            }  # fmt: skip
            last_true[lanes, record["trial"]] = record["true_loss"]
            trainer.commit(cluster, *done)
            cluster.release(*done)
        job, recommended = player.turn(acts, tell, feedback, cluster.granted)
        if len(lanes):
            chosen = recommended[lanes]
            value = last_true[lanes, np.clip(chosen, 0, cluster.num_trials - 1)]
            record["recommended_true_loss"] = np.where(chosen == NONE, np.nan, value)
            for name, column in record.items():
                rows.setdefault(name, []).append(column)
        started = cluster.grant(asks, job)
        if len(started[0]):
            cluster.run(*started, trainer.submit(cluster, *started))
        if progress is not None:
            progress(float(cluster.spent.mean()) / max(cluster.epochs, 1))
    return {name: np.concatenate(columns) for name, columns in rows.items()}


def seed_keys(seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A seed's keys for the strategy's init, its asks, and the objective."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), seed), 3)
    return keys[0], keys[1], keys[2]


def instance_key(index: jax.Array) -> jax.Array:
    """The key with which instance `index` is drawn: independent of every seed's."""
    return jax.random.fold_in(jax.random.key(1, impl="threefry2x32"), index)


def instances_of(seeds: Sequence[int], first_instance: int = 1000, seeds_per_instance: int = 1) -> np.ndarray:
    """The instance i64[seeds] that each seed gets."""
    return first_instance + np.asarray(seeds, np.int64) // seeds_per_instance


def _turn(strategy, stage, cube, ask_key, state, tell, feedback, granted):
    strategy = dataclasses.replace(strategy, cube=cube)
    state = strategy.tell(state, tell, feedback)
    recommended = strategy.recommend(state).trial if hasattr(strategy, "recommend") else jnp.int32(NONE)
    key = jax.random.fold_in(ask_key, granted)
    job, state = strategy.ask(key, state) if stage < 0 else strategy.ask(key, state, stage=stage)
    return job, recommended, state


def _turn_block(strategy, stage, select, cube, ask_keys, state, go, tell, feedback, granted):
    turn = jax.vmap(partial(_turn, strategy, stage, cube))
    job, recommended, after = turn(ask_keys, state, tell, feedback, granted)
    if select:

        def pick(new, old):
            return jnp.where(jnp.expand_dims(go, tuple(range(1, new.ndim))), new, old)

        after = jax.tree.map(pick, after, state)
    return job, recommended, after


def _train(objective, instance, key, checkpoint, fresh, trial, x, start, stop, first, until):
    key = jax.random.fold_in(key, trial)
    hp = objective.space.decode_array(x)
    if jax.tree.leaves(checkpoint):
        initial = objective.init(instance, key)
        checkpoint = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), initial, checkpoint)
    checkpoint, loss, true_loss = objective.train(instance, key, checkpoint, hp, start, stop)
    return checkpoint, loss, true_loss, objective.cost(instance, key, hp, first, until)


class _Entries(NamedTuple):
    """A pool of slices: i32[pool] each, x f32[pool, d]. `first` and `until` are the whole job's epochs,
    `start` and `stop` those of this call; row -1: fresh weights, a row past the table: written nowhere."""

    lane: Any
    trial: Any
    source_row: Any
    target_row: Any
    x: Any
    start: Any
    stop: Any
    first: Any
    until: Any


def _train_pool(objective, store, instances, keys, e: _Entries):
    checkpoint = jax.tree.map(lambda a: a[e.lane, jnp.maximum(e.source_row, 0)], store)
    instance = jax.tree.map(lambda a: a[e.lane], instances)
    train = jax.vmap(partial(_train, objective))
    checkpoint, loss, true_loss, cost = train(
        instance, keys[e.lane], checkpoint, e.source_row < 0, e.trial, e.x, e.start, e.stop, e.first, e.until
    )
    store = jax.tree.map(lambda a, b: a.at[e.lane, e.target_row].set(b, mode="drop"), store, checkpoint)
    return store, loss, true_loss, cost


def _draw(objective, indices):
    return jax.vmap(lambda i: objective.draw(instance_key(i)))(indices)


_keys = jax.jit(jax.vmap(seed_keys))
_draw_block = jax.jit(_draw, static_argnums=0)
_init_block = jax.jit(
    lambda strategy, cube, keys: jax.vmap(dataclasses.replace(strategy, cube=cube).init)(keys), static_argnums=0
)
_turn_program = jax.jit(_turn_block, static_argnums=(0, 1, 2), donate_argnums=5)
_train_program = jax.jit(_train_pool, static_argnums=0, donate_argnums=1)


class Stopwatch:
    """Seconds that calls of jitted functions spent compiling: those that grew the function's cache."""

    def __init__(self):
        self.compiling = 0.0

    def __call__(self, program, *args):
        before, clock = program._cache_size(), time.perf_counter()
        out = program(*args)
        if program._cache_size() > before:
            self.compiling += time.perf_counter() - clock
        return out


def _blocks(n: int) -> list[slice]:
    return [slice(i, i + BLOCK) for i in range(0, n, BLOCK)]


def _pad(a: np.ndarray, n: int) -> np.ndarray:
    """Repeats the last row up to n rows."""
    return a if len(a) == n else np.concatenate([a, np.repeat(a[-1:], n - len(a), 0)])


class CompiledPlayer:
    """A JAX strategy in blocks of lanes; `select` where lanes may take turns at different times."""

    def __init__(self, factory, cube, max_epoch, budget, seeds: np.ndarray, select: bool, watch: Stopwatch):
        strategy = factory(cube=cube, max_epoch=max_epoch, budget=budget)
        self.strategy = dataclasses.replace(strategy, cube=None)
        self.lanes, self.select, self.watch, self.cube = len(seeds), select, watch, cube
        self.staged = hasattr(strategy, "stage")
        padded = _pad(seeds, -(-len(seeds) // BLOCK) * BLOCK)
        self.blocks = _blocks(len(padded))
        keys = [watch(_keys, padded[b].astype(np.uint32)) for b in self.blocks]
        self.ask_keys = [k[1] for k in keys]
        self.states = [watch(_init_block, self.strategy, cube, k[0]) for k in keys]

    def stage(self, granted):
        if not self.staged:
            return np.full(self.lanes, -1)
        stages = {int(n): self.strategy.stage(int(n)) for n in np.unique(granted)}
        return np.array([stages[int(n)] for n in granted], np.int64)

    def turn(self, go, tell, feedback, granted):
        stage = int(self.stage(granted[go][:1])[0]) if self.staged else -1
        out = []
        for i, b in enumerate(self.blocks):
            if not go[b].any():
                out.append(None)
                continue

            def block(a, dtype, b=b):
                return _pad(np.asarray(a[b], dtype), BLOCK)

            told = Job(*(block(a, t) for a, t in zip(tell, (np.int32, np.int32, np.float32, np.int32), strict=True)))
            back = Feedback(*(block(a, np.float64) for a in feedback))
            job, recommended, self.states[i] = self.watch(
                _turn_program, self.strategy, stage, self.select, self.cube, self.ask_keys[i], self.states[i],
                block(go, np.bool_), told, back, block(granted, np.uint32),
            )  # fmt: skip
            out.append((*job, recommended))
        width = self.cube.width
        empty = (np.full(BLOCK, NONE, np.int32),) * 2 + (np.full((BLOCK, width), 0.5, np.float32),)
        empty = (*empty, np.zeros(BLOCK, np.int32), np.full(BLOCK, NONE, np.int32))
        host = [empty if o is None else jax.device_get(o) for o in out]
        columns = [np.concatenate(c)[: self.lanes] if len(host) > 1 else c[0][: self.lanes] for c in zip(*host, strict=True)]
        return Job(*columns[:4]), columns[4]


class CompiledTrainer:
    """A JAX objective: checkpoints in donated tables [lanes, rows, ...], one a block of lanes.

    A running job writes its worker's spare row; commit swaps two entries of `row`, copying nothing. Jobs
    wait in a queue, oldest first, and advance by at most `chunk` epochs a call, so that short ones do not
    wait for long ones."""

    def __init__(self, objective, seeds, instances, workers, num_trials, keep: bool, watch: Stopwatch):
        self.objective, self.watch, self.workers = objective, watch, workers
        self.pool = int(getattr(objective, "pool", BLOCK))
        self.chunk = int(getattr(objective, "chunk", objective.max_epoch))
        lanes = len(seeds)
        # Without resume or copy no committed checkpoint is ever read: a row for each worker is enough.
        self.keep, self.rows = keep, (num_trials if keep else 0) + workers
        self.base = num_trials if keep else 0
        self.row = np.tile(np.arange(self.rows, dtype=np.int32), (lanes, 1))
        size = BLOCK if lanes > BLOCK else -(-lanes // 8) * 8
        padded = _pad(seeds, -(-lanes // size) * size)
        indices = _pad(instances, len(padded))
        self.size = size
        self.keys, self.instances, self.stores = [], [], []
        for i in range(0, len(padded), size):
            block = slice(i, i + size)
            self.keys.append(watch(_keys, _pad(padded[block], BLOCK).astype(np.uint32))[2][:size])
            self.instances.append(watch(_draw_block, objective, indices[block].astype(np.uint32)))
            self.stores.append(self._table(self.instances[-1], self.keys[-1]))
        shape = (lanes, workers)
        self.ready = np.zeros(shape, bool)
        self.loss, self.true_loss = np.full(shape, np.nan), np.full(shape, np.nan)
        self.failed = np.zeros(shape, bool)
        self.queue: list[list] = [[] for _ in self.stores]

    def _table(self, instances, keys):
        shapes = jax.eval_shape(jax.vmap(self.objective.init), instances, keys)
        return jax.tree.map(lambda s: jnp.zeros((self.size, self.rows, *s.shape[1:]), s.dtype), shapes)

    def submit(self, cluster, lanes, workers):
        """Queues the jobs and runs each one's first chunk, from which their cost is known."""
        self.ready[lanes, workers] = False
        source = cluster.source[lanes, workers]
        spare = self.row[lanes, self.base + workers]
        rows = np.where(source == NONE, NONE, self.row[lanes, np.maximum(source, 0)] if self.keep else NONE)
        cost = np.zeros(len(lanes))
        start, until = cluster.start[lanes, workers], cluster.until[lanes, workers]
        trial, x = cluster.trial[lanes, workers], cluster.x[lanes, workers]
        for b in np.unique(lanes // self.size):
            mine = np.flatnonzero(lanes // self.size == b)
            for i in range(0, len(mine), self.pool):
                part = mine[i : i + self.pool]
                entries = dict(
                    lane=lanes[part], worker=workers[part], trial=trial[part], source_row=rows[part],
                    target_row=spare[part], x=x[part], start=start[part], first=start[part], until=until[part],
                )  # fmt: skip
                cost[part] = self._train(b, entries)
        return cost

    def _train(self, b, entries) -> np.ndarray:
        """One chunk for at most `pool` entries of block b; unfinished ones go back to the queue."""
        n = len(entries["lane"])
        stop = np.minimum(entries["until"], entries["start"] + self.chunk)

        def pad(a, fill, dtype=np.int32):
            out = np.full((self.pool, *a.shape[1:]), fill, dtype)
            out[:n] = a
            return out

        e = _Entries(
            lane=pad(entries["lane"] - b * self.size, 0),
            trial=pad(entries["trial"], 0),
            source_row=pad(entries["source_row"], NONE),
            target_row=pad(entries["target_row"], self.rows),
            x=pad(entries["x"], 0.5, np.float32),
            start=pad(entries["start"], 0),
            stop=pad(stop, 0),
            first=pad(entries["first"], 0),
            until=pad(entries["until"], 0),
        )
        self.stores[b], loss, true_loss, cost = self.watch(
            _train_program, self.objective, self.stores[b], self.instances[b], self.keys[b], e
        )
        loss, true_loss, cost = jax.device_get((loss, true_loss, cost))
        done = stop >= entries["until"]
        at = entries["lane"][done], entries["worker"][done]
        self.loss[at], self.true_loss[at] = loss[:n][done], true_loss[:n][done]
        self.ready[at] = True
        for i in np.flatnonzero(~done):
            rest = {name: column[i] for name, column in entries.items()}
            self.queue[b].append(rest | {"source_row": rest["target_row"], "start": stop[i]})
        return cost[:n].astype(np.float64)

    def step(self):
        for b, queue in enumerate(self.queue):
            if queue:
                part, self.queue[b] = queue[: self.pool], queue[self.pool :]
                self._train(b, {name: np.array([p[name] for p in part]) for name in part[0]})

    def commit(self, cluster, lanes, workers):
        if not self.keep:
            return
        trial = cluster.trial[lanes, workers]
        spare = self.base + workers
        self.row[lanes, trial], self.row[lanes, spare] = self.row[lanes, spare], self.row[lanes, trial].copy()


class PlainPlayer:
    """One lane of a JAX strategy, called as it is: for debugging."""

    def __init__(self, factory, cube, max_epoch, budget, seed: int):
        self.strategy = factory(cube=jax.tree.map(jnp.asarray, cube), max_epoch=max_epoch, budget=budget)
        init_key, self.ask_key, _ = seed_keys(jnp.uint32(seed))
        self.state = self.strategy.init(init_key)

    def stage(self, granted):
        return np.full(1, self.strategy.stage(int(granted[0])) if hasattr(self.strategy, "stage") else -1)

    def turn(self, go, tell, feedback, granted):
        told = Job(jnp.int32(tell.trial[0]), jnp.int32(tell.source[0]), jnp.asarray(tell.x[0]), jnp.int32(tell.until[0]))
        back = Feedback(jnp.float64(feedback.loss[0]), jnp.float64(feedback.cost[0]))
        stage = int(self.stage(granted)[0])
        job, recommended, self.state = _turn(
            self.strategy, stage, self.strategy.cube, self.ask_key, self.state, told, back, jnp.uint32(granted[0])
        )
        return Job(*(np.asarray(a)[None] for a in job)), np.asarray(recommended)[None]


class PlainTrainer:
    """One lane of a JAX objective, called as it is: for debugging."""

    def __init__(self, objective, seed: int, instance: int, workers: int):
        self.objective = objective
        self.key = seed_keys(jnp.uint32(seed))[2]
        self.instance = objective.draw(instance_key(jnp.uint32(instance)))
        self.checkpoints: dict[int, Any] = {}
        self.written: dict[int, Any] = {}
        self.ready = np.zeros((1, workers), bool)
        self.loss, self.true_loss = np.full((1, workers), np.nan), np.full((1, workers), np.nan)
        self.failed = np.zeros((1, workers), bool)

    def submit(self, cluster, lanes, workers):
        cost = []
        for w in workers:
            source, trial = int(cluster.source[0, w]), int(cluster.trial[0, w])
            start, until = jnp.int32(cluster.start[0, w]), jnp.int32(cluster.until[0, w])
            key = jax.random.fold_in(self.key, trial)
            fresh = source == NONE
            before = self.objective.init(self.instance, key) if fresh else self.checkpoints[source]
            hp = self.objective.space.decode_array(jnp.asarray(cluster.x[0, w]))
            after, loss, true_loss = self.objective.train(self.instance, key, before, hp, start, until)
            self.written[int(w)] = after
            self.loss[0, w], self.true_loss[0, w] = float(loss), float(true_loss)
            self.ready[0, w] = True
            cost.append(float(self.objective.cost(self.instance, key, hp, start, until)))
        return np.array(cost)

    def step(self):
        raise AssertionError("every job is trained when it is submitted")

    def commit(self, cluster, lanes, workers):
        for w in workers:
            self.checkpoints[int(cluster.trial[0, w])] = self.written.pop(int(w))


def frame(columns: dict[str, np.ndarray], space: Space, seeds, instances, budget) -> pd.DataFrame:
    """The trace as the store keeps it: one row a granted job, by seed and job."""
    columns = dict(columns)
    if not columns:
        raise ValueError(f"a budget of {budget:g} full trainings does not pay for a single job")
    x, lane, failed = columns.pop("x"), columns.pop("lane"), columns.pop("failed")
    data = {
        "seed": np.asarray(seeds, np.int64)[lane],
        "instance": np.asarray(instances, np.int64)[lane],
        "budget": np.full(len(lane), float(budget)),
        **columns,
        "status": np.where(failed, GIVEN_UP, FINISHED),
        **{f"hp_{name}": values for name, values in space.decode_many(x).items()},
    }
    order = [
        "seed", "instance", "budget", "job", "trial", "source", "start", "until", "loss", "true_loss",
        "recommended_true_loss", "cost", "worker", "started", "finished", "status",
    ]  # fmt: skip
    order += [name for name in data if name.startswith("hp_")]
    rows = np.lexsort((data["job"], data["seed"]))
    return pd.DataFrame({name: data[name][rows] for name in order})


def applicable(strategy, objective) -> None:
    """Raises NotApplicable, with the reason, where the strategy needs more than the objective offers."""
    missing = lacking(strategy.needs, objective.offers, objective.max_epoch)
    if missing:
        raise NotApplicable(f"needs {', '.join(missing)}, which the objective does not offer")


def make_cluster(strategy, objective, lanes: int, workers: int, budget: float) -> Cluster:
    """The cluster for a strategy's run; raises ValueError where the budget is below one epoch."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    epochs = budget_epochs(budget, objective.max_epoch)
    if epochs < 1:
        raise ValueError(f"a budget of {budget:g} full trainings is less than one epoch")
    cube = objective.space.cube()
    return Cluster(
        lanes, workers, strategy.num_trials, cube.width, epochs, objective.max_epoch, np.asarray(cube.change),
        "copy" in strategy.needs,
    )  # fmt: skip


def simulate(
    factory: Callable[..., Any],
    objective: Any,
    *,
    seeds: Sequence[int],
    budget: float,
    workers: int = 1,
    first_instance: int = 1000,
    seeds_per_instance: int = 1,
    debug: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """Runs a JAX strategy on a JAX objective for every seed, each a lane.

    `factory(cube=, max_epoch=, budget=)` makes the strategy; `budget` counts full trainings. With `debug`
    only the first seed runs, uncompiled, so that print and a debugger work inside. Raises NotApplicable,
    ContractError (a broken rule, with the job) and ValueError (no job fits the budget).
    """
    clock = time.perf_counter()
    seeds = np.asarray(list(seeds)[:1] if debug else list(seeds), np.int64)
    instances = instances_of(seeds, first_instance, seeds_per_instance)
    cube = objective.space.cube()
    strategy = factory(cube=cube, max_epoch=objective.max_epoch, budget=budget)
    applicable(strategy, objective)
    cluster = make_cluster(strategy, objective, len(seeds), workers, budget)
    watch = Stopwatch()
    with jax.enable_x64(True):
        if debug:
            with jax.disable_jit():
                player = PlainPlayer(factory, cube, objective.max_epoch, budget, int(seeds[0]))
                trainer = PlainTrainer(objective, int(seeds[0]), int(instances[0]), workers)
                columns = drive(cluster, player, trainer, progress)
        else:
            select = hasattr(objective, "chunk")
            keep = bool({"resume", "copy"} & strategy.needs) and objective.max_epoch > 1
            player = CompiledPlayer(factory, cube, objective.max_epoch, budget, seeds, select, watch)
            trainer = CompiledTrainer(objective, seeds, instances, workers, strategy.num_trials, keep, watch)
            columns = drive(cluster, player, trainer, progress)
    trace = frame(columns, objective.space, seeds, instances, budget)
    return Run(trace, watch.compiling, time.perf_counter() - clock - watch.compiling, [])
