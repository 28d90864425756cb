"""Spends a budget on a simulated clock, vectorised over seeds.

One host loop over two compiled programs: `turn` (at most one tell, then one ask; one for each strategy's
settings, padded dimension and budget) and `train` (train a slice; one for each objective, with a gather
and a scatter of checkpoints around it). Neither knows the other, the clock, or the number of workers. The
loop itself is `bench.drive`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.cluster import LOST, TRIAL, ClusterSettings
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
from bench.protocols import NONE, Feedback, Job

BLOCK = 64  # lanes of one program: the last bits of batched linear algebra depend on how many there are
WIDE = (BLOCK, 4 * BLOCK, 16 * BLOCK)  # lanes of a training table, and of a strategy that says `lanes`


# What goes to and from the programs at each turn is packed into few arrays: handing one over takes as long as
# many a turn's arithmetic.


def _turn_block(strategy, stage, select, cube, ask_keys, state, whole, x, real):
    """whole i32[5, lanes]: whether a lane acts, jobs granted to it, and of the job that it is told trial,
    source and until; x f32[lanes, d] · real f64[2, lanes]: loss, cost. Returns i32[4, lanes] (trial, source,
    until, recommended trial), x and the state."""
    go, granted, trial, source, until = whole[0] != 0, whole[1].astype(jnp.uint32), *whole[2:]
    turn = jax.vmap(partial(turn_lane, strategy, stage, cube))
    tell, feedback = Job(trial, source, x, until), Feedback(real[0], real[1])
    job, recommended, after = turn(ask_keys, state, tell, feedback, granted)
    if select:

        def pick(new, old):
            return jnp.where(jnp.expand_dims(go, tuple(range(1, new.ndim))), new, old)

        after = jax.tree.map(pick, after, state)
    asked = jnp.stack([a.astype(jnp.int32) for a in (job.trial, job.source, job.until, recommended)])
    return asked, job.x, after


def _train(objective, instance, key, checkpoint, fresh, trial, x, start, stop, first, until):
    key = jax.random.fold_in(key, trial)
    hp = objective.space.decode_array(x)
    if jax.tree.leaves(checkpoint):
        initial = objective.init(instance, key)
        checkpoint = jax.tree.map(lambda a, b: jnp.where(fresh, a, b), initial, checkpoint)
    checkpoint, loss, true_loss = objective.train(instance, key, checkpoint, hp, start, stop)
    cost = objective.cost(instance, key, hp, first, until)
    # An objective that computes in float32 need not widen what it returns: the other driver takes any float.
    loss, true_loss, cost = (jnp.asarray(a, jnp.float64) for a in (loss, true_loss, cost))
    return checkpoint, loss, true_loss, cost


class _Entries(NamedTuple):
    """Slices to be trained, i32[entries] each. `first` and `until` are the epochs of the whole job, `start`
    and `stop` those of this call; source_row -1: fresh weights, a target_row past the table: written
    nowhere."""

    lane: Any
    trial: Any
    source_row: Any
    target_row: Any
    start: Any
    stop: Any
    first: Any
    until: Any


def _train_blocks(objective, pool, blocks, instances, keys, checkpoint, whole, x):
    """Trains the first `blocks` i32[] blocks of `pool` entries: whole i32[8, entries], the `_Entries`, and
    x f32[entries, d]. Returns the checkpoints and f64[3, entries]: loss, true loss, cost. One program for any
    number of blocks, since the last bits of arithmetic depend on how many lanes are compiled side by side."""
    train = jax.vmap(partial(_train, objective))

    def block(i, done):
        def part(a, axis=0):
            return jax.lax.dynamic_slice_in_dim(a, i * pool, pool, axis)

        def put(a, b, axis=0):
            return jax.lax.dynamic_update_slice_in_dim(a, b, i * pool, axis)

        e = _Entries(*part(whole, 1))
        instance = jax.tree.map(lambda a: a[e.lane], instances)
        key, fresh, before = keys[e.lane], e.source_row < 0, jax.tree.map(part, done[0])
        after, *real = train(
            instance, key, before, fresh, e.trial, part(x), e.start, e.stop, e.first, e.until
        )
        return jax.tree.map(put, done[0], after), put(done[1], jnp.stack(real), 1)

    zero = jnp.zeros((3, whole.shape[1]), jnp.float64)
    return jax.lax.fori_loop(jnp.int32(0), blocks, block, (checkpoint, zero))


# Apart from training, so that its program does not depend on the size of a strategy's table.
def _exchange(store, written, checkpoint, whole):
    """Puts `checkpoint`, trained by the entries `written`, into the table; takes what the entries `whole`
    start from. Returns both."""
    put, take = _Entries(*written), _Entries(*whole)
    store = jax.tree.map(lambda a, b: a.at[put.lane, put.target_row].set(b, mode="drop"), store, checkpoint)
    return store, jax.tree.map(lambda a: a[take.lane, jnp.maximum(take.source_row, 0)], store)


def _draw(objective, indices):
    return jax.vmap(lambda i: objective.draw(instance_key(i)))(indices)


def _init(strategy, cube, keys):
    return jax.vmap(dataclasses.replace(strategy, cube=cube).init)(keys)


def _hint(strategy, cube, state, x):
    return jax.vmap(partial(tell_hint, strategy, cube))(state, x)


def _prior(strategy, cube, state, prior):
    return jax.vmap(partial(tell_prior, strategy, cube))(state, prior)


# Optimising harder takes up to twice as long to compile and makes no program of ours faster. Without the
# fusion emitters a light program compiles in two thirds of the time and runs as fast, a heavy one slower.
LESS = {"xla_backend_optimization_level": 1}
LIGHT = {**LESS, "xla_cpu_use_fusion_emitters": False}
# A third less again, for programs up to six times slower: for runs that are over at once.
HURRIED = {**LIGHT, "xla_backend_optimization_level": 0}


@functools.cache
def _known(option: str, value: Any) -> bool:
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda: jnp.int32(0), compiler_options={option: value}).lower().compile()
    except Exception:  # which error it is differs between versions
        return False
    return True


class _Programs(NamedTuple):
    """The jitted functions of one way to compile."""

    keys: Any
    draw: Any
    init: Any
    prior: Any
    hint: Any
    turn: Any
    train: Any
    exchange: Any


@functools.cache
def programs(light: bool, hurried: bool) -> _Programs:
    """The compiled functions; `light`: where compiling counts for more than running, `hurried`: where only
    compiling counts."""
    options = {} if jax.default_backend() != "cpu" else HURRIED if hurried else LIGHT if light else LESS
    jit = partial(jax.jit, compiler_options={k: v for k, v in options.items() if _known(k, v)})
    return _Programs(
        keys=jit(jax.vmap(seed_keys)),
        draw=jit(_draw, static_argnums=0),
        init=jit(_init, static_argnums=0),
        prior=jit(_prior, static_argnums=0),
        hint=jit(_hint, static_argnums=0),
        turn=jit(_turn_block, static_argnums=(0, 1, 2), donate_argnums=5),
        train=jit(_train_blocks, static_argnums=(0, 1)),
        exchange=jit(_exchange, donate_argnums=0),
    )


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


def block_width(lanes: int, limit: int) -> int:
    """Lanes of a block: the narrowest of WIDE that holds them all, at most `limit`, at least BLOCK."""
    return max(BLOCK, min([w for w in WIDE if w >= lanes] + [WIDE[-1], limit]))


def _pad(a: np.ndarray, n: int) -> np.ndarray:
    """Repeats the last row up to n rows."""
    return a if len(a) == n else np.concatenate([a, np.repeat(a[-1:], n - len(a), 0)])


class CompiledPlayer:
    """A JAX strategy in blocks of lanes; `select` where lanes may take turns at different times."""

    def __init__(
        self,
        factory,
        cube,
        max_epoch,
        budget,
        seeds: np.ndarray,
        select: bool,
        watch: Stopwatch,
        prior: Prior | None = None,
        hint: Hint | None = None,
        hurried: bool = False,
    ):
        strategy = factory(cube=cube, max_epoch=max_epoch, budget=budget)
        self.strategy = dataclasses.replace(strategy, cube=None)
        self.lanes, self.select, self.watch = len(seeds), select, watch
        self.cube = jax.tree.map(jnp.asarray, cube)
        self.staged, self.recommends = hasattr(strategy, "stage"), hasattr(strategy, "recommend")
        self.program = programs(bool(getattr(strategy, "light", True)), hurried).turn
        light = programs(True, hurried)
        self.width = width = block_width(len(seeds), int(getattr(strategy, "lanes", BLOCK)))
        padded = _pad(seeds, -(-len(seeds) // width) * width)
        self.blocks = [slice(i, i + width) for i in range(0, len(padded), width)]
        keys = [watch(light.keys, padded[b].astype(np.uint32)) for b in self.blocks]
        self.ask_keys = [k[1] for k in keys]
        self.states = [watch(light.init, self.strategy, cube, k[0]) for k in keys]
        if prior is not None:
            told = jax.tree.map(lambda a: _pad(np.asarray(a), len(padded)), prior)
            self.states = [
                watch(light.prior, self.strategy, cube, state, jax.tree.map(lambda a, b=b: a[b], told))
                for state, b in zip(self.states, self.blocks, strict=True)
            ]

        if hint is not None and takes_hint(strategy):
            x = _pad(np.asarray(hint.x), len(padded))
            self.states = [
                watch(light.hint, self.strategy, cube, state, x[b])
                for state, b in zip(self.states, self.blocks, strict=True)
            ]

    def stage(self, granted):
        stages = {int(n): self.strategy.stage(int(n)) for n in np.unique(granted)}
        return np.array([stages[int(n)] for n in granted], np.int64)

    def turn(self, go, tell, feedback, granted):
        stage = int(self.stage(granted[go][:1])[0]) if self.staged else -1
        out = []
        for i, b in enumerate(self.blocks):
            if not go[b].any():
                out.append(None)
                continue

            whole, real = np.zeros((5, self.width), np.int32), np.zeros((2, self.width))
            size = len(go[b])
            for row, a in zip(whole, (go, granted, tell.trial, tell.source, tell.until), strict=True):
                row[:size], row[size:] = a[b], a[b][-1]
            for row, a in zip(real, feedback, strict=True):
                row[:size], row[size:] = a[b], a[b][-1]
            asked, x, self.states[i] = self.watch(
                self.program, self.strategy, stage, self.select, self.cube, self.ask_keys[i], self.states[i],
                whole, _pad(tell.x[b], self.width), real,
            )  # fmt: skip
            out.append((np.asarray(asked), np.asarray(x)))
        columns = [self._idle if o is None else o for o in out]
        asked = columns[0][0] if len(columns) == 1 else np.concatenate([c[0] for c in columns], 1)
        x = columns[0][1] if len(columns) == 1 else np.concatenate([c[1] for c in columns])
        trial, source, until, recommended = asked[:, : self.lanes]
        return Job(trial, source, x[: self.lanes], until), recommended

    @functools.cached_property
    def _idle(self) -> tuple[np.ndarray, np.ndarray]:
        """What a block of lanes returns that takes no turn."""
        asked = np.array([[NONE], [NONE], [0], [NONE]], np.int32)
        x = np.full((self.width, self.cube.kind.shape[-1]), 0.5, np.float32)
        return np.broadcast_to(asked, (4, self.width)), x


class CompiledTrainer:
    """A JAX objective: checkpoints in donated tables [lanes, rows, ...], one a block of up to 1,024 lanes.

    A running job writes its worker's spare row; commit swaps two entries of `row`, copying nothing. Jobs
    wait in a queue, oldest first, and advance by at most `chunk` epochs a call, so that short ones do not
    wait for long ones."""

    def __init__(
        self, objective, seeds, instances, workers, num_trials, keep: bool, watch: Stopwatch, hurried=False
    ):
        self.objective, self.watch, self.workers = objective, watch, workers
        self.pool = int(getattr(objective, "pool", BLOCK))
        self.chunk = int(getattr(objective, "chunk", objective.max_epoch))
        light = bool(getattr(objective, "light", not hasattr(objective, "chunk")))
        self.program = programs(light, hurried).train
        self.light = programs(True, hurried)
        lanes = len(seeds)
        # Without resume or copy no committed checkpoint is ever read: a row for each worker is enough.
        any_key = instance_key(jnp.uint32(0))
        checkpoint = jax.eval_shape(lambda: objective.init(objective.draw(any_key), any_key))
        self.keep = keep = keep and bool(jax.tree.leaves(checkpoint))
        self.base, self.rows = num_trials * keep, num_trials * keep + workers
        self.row = np.tile(np.arange(self.rows, dtype=np.int32), (lanes, 1))
        self.width = block_width(lanes, WIDE[-1])
        self.most = -(-self.width // self.pool) * self.pool  # entries of one call
        padded = _pad(seeds, -(-lanes // self.width) * self.width).astype(np.uint32)
        indices = _pad(instances, len(padded)).astype(np.uint32)
        self.keys, self.instances, self.stores = [], [], []
        for i in range(0, len(padded), self.width):
            drawn = [watch(self.light.draw, objective, indices[j : j + BLOCK])
                     for j in range(i, i + self.width, BLOCK)]  # fmt: skip
            self.keys.append(watch(self.light.keys, padded[i : i + self.width])[2])
            self.instances.append(jax.tree.map(lambda *a: jnp.concatenate(a), *drawn))
            self.stores.append(self._table(checkpoint, min(self.width, -(-(lanes - i) // 8) * 8)))
        self.ready = np.zeros(lanes * workers, bool)
        self.result = np.full((lanes * workers, 2), np.nan)
        self.failed = np.zeros(lanes * workers, bool)
        self.queue: list[list] = [[] for _ in self.stores]

    def _table(self, checkpoint, lanes: int):
        """An empty table, and what was trained last and is not yet in it: entries and checkpoints."""
        # One block more than can be used: a loop over a single one would be compiled as if there were none.
        size = self.most + self.pool
        nothing = np.zeros((8, size), np.int32)
        nothing[3] = self.rows
        empty = jax.tree.map(lambda s: jnp.zeros((lanes, self.rows, *s.shape), s.dtype), checkpoint)
        return empty, nothing, jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), checkpoint)

    def submit(self, cluster, places):
        """Queues the jobs and runs each one's first chunk, from which their cost is known."""
        self.ready[places] = False
        lane, worker = np.divmod(places, self.workers)
        _, trial, source, start, until = cluster.whole[places, :LOST].T
        target = self.row[lane, self.base + worker]
        if self.keep:
            source = np.where(source == NONE, NONE, self.row[lane, np.maximum(source, 0)])
        table, lane = np.divmod(lane, self.width)
        stop = np.minimum(until, start + self.chunk)
        whole = _Entries(lane, trial, source, target, start, stop, first=start, until=until)
        whole, x, cost = np.stack(whole), cluster.x[places], np.empty(len(places))
        for b in range(len(self.stores)):
            mine = np.flatnonzero(table == b)
            for i in range(0, len(mine), self.most):
                part = mine[i : i + self.most]
                cost[part] = self._train(b, places[part], whole[:, part], x[part])
        return cost

    def _train(self, b, places, entries, x) -> np.ndarray:
        """One chunk for at most `most` entries of table b, i32[8, n]; unfinished ones go back to the
        queue. Returns the cost of their whole jobs."""
        n = len(places)
        store, last, checkpoint = self.stores[b]
        size, blocks = last.shape[1], np.int32(-(-n // self.pool))
        whole, padded = np.zeros((8, size), np.int32), np.full((size, x.shape[1]), 0.5, np.float32)
        whole[2], whole[3] = NONE, self.rows
        whole[:, :n], padded[:n] = entries, x
        memoryless = not jax.tree.leaves(store)
        if not memoryless:
            store, checkpoint = self.watch(self.light.exchange, store, last, checkpoint, whole)
        checkpoint, real = self.watch(
            self.program, self.objective, self.pool, blocks, self.instances[b], self.keys[b], checkpoint,
            whole, padded,
        )  # fmt: skip
        self.stores[b] = store, whole, checkpoint
        real = np.asarray(real)
        job = _Entries(*entries)
        done = job.stop >= job.until
        at = places[done]
        self.result[at], self.ready[at] = real[:2, :n].T[done], True
        if len(at) < n:
            job = job._replace(
                source_row=job.target_row, start=job.stop, stop=np.minimum(job.until, job.stop + self.chunk)
            )
            left = np.stack(job)
            self.queue[b] += [(places[i], left[:, i], x[i]) for i in np.flatnonzero(~done)]
        return real[2, :n]

    def step(self):
        for b, queue in enumerate(self.queue):
            if queue:
                part, self.queue[b] = queue[: self.most], queue[self.most :]
                places, entries, x = (np.stack(column) for column in zip(*part, strict=True))
                self._train(b, places, entries.T, x)

    def commit(self, cluster, places):
        if not self.keep:
            return
        lane, worker = np.divmod(places, self.workers)
        trial, spare = cluster.whole[places, TRIAL], self.base + worker
        self.row[lane, trial], self.row[lane, spare] = self.row[lane, spare], self.row[lane, trial].copy()


def simulate(
    factory: Callable[..., Any],
    objective: Any,
    *,
    seeds: Sequence[int],
    budget: float,
    workers: int = 1,
    cluster: ClusterSettings | None = None,
    first_instance: int = 1000,
    seeds_per_instance: int = 1,
    prior: Prior | None = None,
    hint: Hint | None = None,
    progress: Callable[[float], None] | None = None,
    hurried: bool = False,
) -> Run:
    """Runs a JAX strategy on a JAX objective for every seed, each a lane.

    `factory(cube=, max_epoch=, budget=)` makes the strategy; `budget` counts full trainings, those of `prior`
    (`bench.drive.prior_of_trace`, `prior_of_configs`) apart; `cluster`, where given, stands for `workers`;
    `hint` (`bench.drive.hint_of_rates`) is told and charged where the strategy has a finder;
    `hurried`: compile in the least time, for a few short runs.
    Raises NotApplicable, ContractError (a broken rule, with the job) and ValueError (no job fits the budget,
    or the strategy takes no prior).
    """
    clock = time.perf_counter()
    lanes = np.asarray(list(seeds), np.int64)
    instances = instances_of(lanes, first_instance, seeds_per_instance)
    cube = objective.space.cube()
    factory = with_prior(factory, prior, len(lanes), objective.max_epoch)
    strategy = factory(cube=cube, max_epoch=objective.max_epoch, budget=budget)
    applicable(strategy, objective)
    settings = ClusterSettings(workers) if cluster is None else cluster
    charged = hint.epochs if hint is not None and takes_hint(strategy) else 0
    state = make_cluster(strategy, objective, lanes, settings, budget, charged)
    watch = Stopwatch()
    with jax.enable_x64(True):
        # Lanes take turns at different times where some wait for training, for a lost job to end again, or
        # for those of a lower stage, which waits can leave behind.
        select = hasattr(objective, "chunk") or (settings.drop > 0 and settings.retries > 0)
        select |= hasattr(strategy, "stage") and settings.workers > 1
        keep = bool({"resume", "copy"} & strategy.needs) and objective.max_epoch > 1
        player = CompiledPlayer(
            factory, cube, objective.max_epoch, budget, lanes, select, watch, prior, hint, hurried
        )
        trainer = CompiledTrainer(
            objective, lanes, instances, settings.workers, strategy.num_trials, keep, watch, hurried
        )
        columns = drive(state, player, trainer, progress, prior)
    trace = frame(columns, objective.space, lanes, instances, budget)
    return Run(trace, watch.compiling, time.perf_counter() - clock - watch.compiling, [])
