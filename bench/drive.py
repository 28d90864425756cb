"""The loop that both drivers share: who tells, who asks, what is charged, what the trace says.

A `Player` holds the strategies of all lanes (one lane a seed), a `Trainer` trains their slices; `drive`
knows neither how. `bench.simulate` gives it compiled programs over blocks of lanes, `bench.loop` host code
of one lane; so the two agree job for job by construction.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bench.cluster import (
    FINISH,
    JOB,
    LOST,
    SOURCE,
    START,
    STARTED,
    TOOK,
    TRIAL,
    UNTIL,
    Cluster,
    ClusterSettings,
)
from bench.protocols import NONE, Feedback, Job, budget_epochs, lacking
from bench.space import Float, Space

STATUS = ["finished", "lost", "given up", "raised"]  # all but the first are told, if at all, as infinity
FINISHED, LOST_AGAIN, GIVEN_UP, RAISED = range(4)


class Run(NamedTuple):
    """What a cell's block leaves: its trace, seconds spent compiling and running, and the tracebacks of
    jobs that raised, as (seed, job, text)."""

    trace: pd.DataFrame
    compile_s: float
    run_s: float
    errors: list


class Prior(NamedTuple):
    """Trials made elsewhere, which a strategy is told before its first ask: they cost no budget and have no
    rows in the trace; new trials count on from n. For each lane, in order: x f32[lanes, n, d], in the padded
    cube · loss, true_loss f64[lanes, n], the latter nan where unknown · until i32[lanes, n], epochs trained.
    """

    x: np.ndarray
    loss: np.ndarray
    true_loss: np.ndarray
    until: np.ndarray

    @property
    def trials(self) -> int:
        return self.loss.shape[1]


class Hint(NamedTuple):
    """What a learning-rate finder found, told before the first ask to a strategy that has a `finder`, as the
    job (0, NONE, x, 0), which trains nothing and takes no slot: x f32[lanes, d], the default configuration
    with the rate that it suggests, nan there where it suggests none · epochs: what it cost, charged to every
    lane."""

    x: np.ndarray
    epochs: int = 1


class NotApplicable(ValueError):
    """The strategy needs what the objective does not offer."""


class Player(Protocol):
    """Strategies of all lanes. `staged`: whether `stage` has something to say; `recommends`: whether `turn`
    returns recommended trials."""

    staged: bool
    recommends: bool

    def turn(
        self, go: np.ndarray, tell: Job, feedback: Feedback, granted: np.ndarray
    ) -> tuple[Job, np.ndarray]:
        """Tells each lane its job (NONE: nothing), then asks it; only lanes of `go` bool[lanes] count.
        Returns (jobs, recommended trials i32[lanes])."""
        ...

    def stage(self, granted: np.ndarray) -> np.ndarray:
        """i64[lanes]: lanes of different stages cannot take a turn together."""
        ...


class Trainer(Protocol):
    """Trains slices for all lanes; what they gave is kept at the job's place in the cluster."""

    ready: np.ndarray  # bool[places]
    result: np.ndarray  # f64[places, 2]: loss, true loss
    failed: np.ndarray  # bool[places]: the program raised

    def submit(self, cluster: Cluster, places: np.ndarray) -> np.ndarray:
        """Starts the jobs that the cluster holds there; returns their cost f64, simulated seconds."""
        ...

    def step(self) -> None:
        """Works until at least one more result is ready."""
        ...

    def commit(self, cluster: Cluster, places: np.ndarray) -> None:
        """These jobs' checkpoints count from now on."""
        ...


class _Told(NamedTuple):
    """What one round of tells leaves for the trace: rows of the lanes that told."""

    place: np.ndarray
    whole: np.ndarray
    real: np.ndarray
    x: np.ndarray
    result: np.ndarray
    status: np.ndarray  # places in STATUS
    recommended: np.ndarray  # f64: the true loss of what the strategy would deploy


def drive(
    cluster: Cluster,
    player: Player,
    trainer: Trainer,
    progress: Callable[[float], None] | None = None,
    prior: Prior | None = None,
) -> dict[str, np.ndarray]:
    """Runs every lane to its end; returns the trace as columns, unsorted, with `lane` and `x`. The player
    has been told of `prior` already."""
    rows: list[_Told] = []
    last_true = np.full((cluster.lanes, cluster.num_trials), np.nan)
    if prior is not None:
        last_true[:, : prior.trials] = prior.true_loss
    said = np.full(cluster.lanes, np.nan)  # the true loss of what each lane's strategy recommended last
    none = np.zeros(cluster.lanes, bool)
    # Most rounds take microseconds of arithmetic a lane: what counts here is the number of calls.
    while True:
        tells, place, asks = cluster.plan(trainer.ready)
        acts = tells | asks
        if not acts.any():
            if not cluster.busy.any():
                break
            trainer.step()
            continue
        if player.staged:
            stages = player.stage(cluster.granted)
            if (stages[acts] != stages[acts][0]).any():
                acts &= stages == stages[acts].min()
                tells, asks = tells & acts, asks & acts
        now = _Told(
            place, cluster.whole[place], cluster.real[place], cluster.x[place], trainer.result[place],
            np.where(trainer.failed[place], RAISED, FINISHED), said.copy(),
        )  # fmt: skip
        trial, dead = np.where(tells, now.whole[:, TRIAL], NONE), none
        if cluster.unlucky:
            again, dead = cluster.lose(tells, place)
            asks = asks & cluster.asking  # a lost job may have ended it
            if again.any():
                cluster.retry(np.flatnonzero(again), place[again])
                tells, acts = tells & ~again, acts & ~again
                asks = asks & acts
            gone = again | dead
            now.result[gone] = np.inf
            now.status[again], now.status[dead] = LOST_AGAIN, GIVEN_UP
            trial = np.where(tells, trial, NONE)
        tell = Job(trial, now.whole[:, SOURCE], now.x, now.whole[:, UNTIL].copy())
        if cluster.unlucky:  # the trace says how far it came
            short = gone & (now.whole[:, LOST] > 0)
            now.whole[short, UNTIL] = now.whole[short, START] + now.whole[short, LOST]
            if again.any():
                rows.append(_Told(*(a[again] for a in now)))
            if not acts.any():
                continue
        lanes = np.flatnonzero(tells)
        if len(lanes):
            trainer.commit(cluster, place[tells & ~dead])
            cluster.release(lanes, place[lanes], dead[lanes])
        job, recommended = player.turn(
            acts, tell, Feedback(now.result[:, 0], now.real[:, TOOK]), cluster.granted
        )
        if len(lanes):
            if player.recommends:
                last_true[lanes, trial[lanes]] = now.result[lanes, 1]
                known = lanes[recommended[lanes] != NONE]
                now.recommended[known] = said[known] = last_true[known, recommended[known]]
            rows.append(now if len(lanes) == len(place) else _Told(*(a[lanes] for a in now)))
        started = cluster.grant(asks, job)
        if len(started):
            cluster.run(started, trainer.submit(cluster, started))
        if progress is not None:
            progress(float(cluster.spent.mean()) / max(cluster.epochs, 1))
    if not rows:
        return {}
    told = _Told(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    lane, worker = np.divmod(told.place, cluster.workers)
    whole, real = told.whole.T, told.real.T
    return {
        "lane": lane, "job": whole[JOB].astype(np.int64), "trial": whole[TRIAL], "source": whole[SOURCE],
        "start": whole[START], "until": whole[UNTIL], "loss": told.result[:, 0],
        "true_loss": told.result[:, 1], "recommended_true_loss": told.recommended, "cost": real[TOOK],
        "worker": worker, "started": real[STARTED], "finished": real[FINISH], "status": told.status,
        "x": told.x,
    }  # fmt: skip


def seed_keys(seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A seed's keys for the strategy's init, its asks, and the objective."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), seed), 3)
    return keys[0], keys[1], keys[2]


def instance_key(index: jax.Array) -> jax.Array:
    """The key with which instance `index` is drawn: independent of every seed's."""
    return jax.random.fold_in(jax.random.key(1, impl="threefry2x32"), index)


def instances_of(
    seeds: Sequence[int] | np.ndarray, first_instance: int = 1000, seeds_per_instance: int = 1
) -> np.ndarray:
    """The instance i64[seeds] that each seed gets."""
    return first_instance + np.asarray(seeds, np.int64) // seeds_per_instance


def prior_of_configs(
    space: Space, configs: Sequence[Mapping], losses: Sequence[float], max_epoch: int, lanes: int = 1
) -> Prior:
    """The same (config, loss) pairs for every lane, each trained for `max_epoch` epochs; an axis that a
    config leaves out has its default."""
    if len(configs) != len(losses):
        raise ValueError(f"configs and losses must be as many, got {len(configs)} and {len(losses)}")
    if not len(configs):
        raise ValueError("a prior needs at least one trial, got none")
    x = np.stack([space.encode(config) for config in configs])
    shape = (lanes, len(configs))
    return Prior(
        np.broadcast_to(x, (lanes, *x.shape)),
        np.broadcast_to(np.asarray(losses, np.float64), shape),
        np.full(shape, np.nan),
        np.full(shape, max_epoch, np.int32),
    )


def prior_of_trace(
    space: Space, trace: pd.DataFrame, seeds: Sequence[int], trials: int | None = None
) -> Prior:
    """What each seed's run in a trace of the same objective and instances told: its first `trials` trials
    (None: all), each with its last loss. Raises where a seed has fewer, or another number than the rest."""
    last = trace.sort_values(["seed", "trial", "job"]).drop_duplicates(["seed", "trial"], keep="last")
    lanes = []
    for seed in seeds:
        run = last[last["seed"] == seed]
        run = run if trials is None else run[:trials]
        wanted = trials or (len(lanes[0]) if lanes else max(len(run), 1))
        if len(run) != wanted:
            raise ValueError(f"the trace must have {wanted} trials of seed {seed}, got {len(run)}")
        lanes.append(run)
    x = [
        [space.encode(dict(zip(space.names, row, strict=True))) for row in rows]
        for rows in (run[[f"hp_{name}" for name in space.names]].itertuples(index=False) for run in lanes)
    ]

    def column(name, dtype):
        return np.stack([run[name].to_numpy(dtype) for run in lanes])

    return Prior(
        np.array(x, np.float32),
        column("loss", np.float64),
        column("true_loss", np.float64),
        column("until", np.int32),
    )


def hint_of_rates(space: Space, rates: Sequence[float] | np.ndarray) -> Hint:
    """The finder's hint from a learning rate f64[lanes] a lane, nan where it suggests none: the default
    configuration at that rate, at the nearest end of an axis that does not reach it."""
    x = np.tile(space.cube().default, (len(rates), 1))
    for i, axis in enumerate(space.axes.values()):
        if axis.role == "rate" and isinstance(axis, Float):
            inside = [r if np.isnan(r) else axis.encode(min(max(r, axis.low), axis.high)) for r in rates]
            x[:, i] = inside
    return Hint(x)


def takes_prior(factory: Callable[..., Any]) -> bool:
    """Whether a factory's strategies can be told trials made elsewhere."""
    try:
        inspect.signature(factory).bind_partial(prior_trials=1)
    except TypeError:
        return False
    return True


def with_prior(
    factory: Callable[..., Any], prior: Prior | None, lanes: int, max_epoch: int
) -> Callable[..., Any]:
    """The factory of strategies that know how many trials they will be told of first. Raises ValueError for
    one that cannot be told of any, for a prior of other than `lanes` lanes and for one of partial trainings,
    which no strategy that takes a prior could tell from full ones."""
    if prior is None:
        return factory
    if len(prior.loss) != lanes:
        raise ValueError(f"the prior must have one row a seed, {lanes}, got {len(prior.loss)}")
    if not takes_prior(factory):
        raise ValueError("this strategy cannot be told trials made elsewhere: it has no setting prior_trials")
    if (np.asarray(prior.until) != max_epoch).any():
        least = np.min(prior.until)
        raise ValueError(f"the prior's trials must be trained to epoch {max_epoch}, got {least}")
    return partial(factory, prior_trials=prior.trials)


def tell_prior(strategy, cube, state, prior: Prior):
    """One lane's state after its prior's trials."""
    strategy = dataclasses.replace(strategy, cube=cube)

    def one(state, told):
        k, x, loss, until = told
        job = Job(k, jnp.int32(NONE), x, until)
        return strategy.tell(state, job, Feedback(loss, jnp.float64(0.0))), None

    k = jnp.arange(prior.loss.shape[0], dtype=jnp.int32)
    x, loss = jnp.asarray(prior.x, jnp.float32), jnp.asarray(prior.loss, jnp.float64)
    return jax.lax.scan(one, state, (k, x, loss, jnp.asarray(prior.until, jnp.int32)))[0]


def tell_hint(strategy, cube, state, x):
    """One lane's state after a finder's hint x f32[d]."""
    job = Job(jnp.int32(0), jnp.int32(NONE), jnp.asarray(x, jnp.float32), jnp.int32(0))
    feedback = Feedback(jnp.float64(jnp.nan), jnp.float64(0.0))
    return dataclasses.replace(strategy, cube=cube).tell(state, job, feedback)


def takes_hint(strategy: Any) -> bool:
    """Whether a strategy wants a learning-rate finder to be run before it is first asked."""
    return getattr(strategy, "finder", "none") != "none"


def turn_lane(strategy, stage, cube, ask_key, state, tell, feedback, granted):
    """One lane's turn: at most one tell, then one ask; `stage` below 0: the strategy has no stages."""
    strategy = dataclasses.replace(strategy, cube=cube)
    state = strategy.tell(state, tell, feedback)
    recommended = strategy.recommend(state).trial if hasattr(strategy, "recommend") else jnp.int32(NONE)
    key = jax.random.fold_in(ask_key, granted)
    job, state = strategy.ask(key, state) if stage < 0 else strategy.ask(key, state, stage=stage)
    return job, recommended, state


def frame(columns: dict[str, np.ndarray], space: Space, seeds, instances, budget) -> pd.DataFrame:
    """The trace as the store keeps it: one row a granted job, by seed and job."""
    columns = dict(columns)
    if not columns:
        raise ValueError(f"a budget of {budget:g} full trainings does not pay for a single job")
    x, lane, status = columns.pop("x"), columns.pop("lane"), columns.pop("status")
    data = {
        "seed": np.asarray(seeds, np.int64)[lane],
        "instance": np.asarray(instances, np.int64)[lane],
        "budget": np.full(len(lane), float(budget)),
        **columns,
        "status": pd.array(STATUS, dtype="str").take(status),
        **{f"hp_{name}": values for name, values in space.decode_many(x).items()},
    }
    order = [
        "seed", "instance", "budget", "job", "trial", "source", "start", "until", "loss", "true_loss",
        "recommended_true_loss", "cost", "worker", "started", "finished", "status",
    ]  # fmt: skip
    order += [name for name in data if name.startswith("hp_")]
    rows = np.lexsort((data["job"], data["seed"]))
    # Without a copy: joining the columns into one block would take longer than many a run.
    return pd.DataFrame({name: data[name][rows] for name in order}, copy=False)


def applicable(strategy, objective) -> None:
    """Raises NotApplicable, with the reason, where the strategy needs more than the objective offers."""
    missing = lacking(strategy.needs, objective.offers, objective.max_epoch)
    if missing:
        raise NotApplicable(f"needs {', '.join(missing)}, which the objective does not offer")


def make_cluster(
    strategy,
    objective,
    seeds: Sequence[int] | np.ndarray,
    settings: ClusterSettings,
    budget: float,
    charged: int = 0,
) -> Cluster:
    """The cluster for a strategy's runs, a lane a seed, `charged` epochs of the budget spent beforehand;
    raises ValueError where the budget is below one epoch."""
    epochs = budget_epochs(budget, objective.max_epoch)
    if epochs < 1:
        raise ValueError(f"a budget of {budget:g} full trainings is less than one epoch")
    cube = objective.space.cube()
    cluster = Cluster(
        np.asarray(seeds, np.int64), settings, strategy.num_trials, cube.width, epochs, objective.max_epoch,
        np.asarray(cube.change), "resume" in strategy.needs, "copy" in strategy.needs,
    )  # fmt: skip
    cluster.spent += charged
    return cluster
