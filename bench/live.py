"""One run of a strategy on the wall clock: jobs are told in their real order of finish.

The rules are those of `bench.drive`, kept by the same `Cluster`: who may ask, what is charged, what a job may
start from. That order is the only thing that chance decides, so a run is a function of its list of events:
the same events again make the same jobs, which is how a study goes on after it was killed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.cluster import FINISH, SOURCE, START, TRIAL, UNTIL, Cluster, ClusterSettings
from bench.drive import Prior, seed_keys, tell_hint, tell_prior
from bench.loop import host_factory, own_settings
from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import Space


class Granted(NamedTuple):
    """A job that was granted, in plain numbers: its number, `start` the epoch that its source has reached,
    x f32[d] in the padded cube."""

    job: int
    trial: int
    source: int
    start: int
    until: int
    x: np.ndarray


@functools.partial(jax.jit, static_argnums=(0, 1))
def _ask(strategy, stage, cube, ask_key, state, granted):
    strategy = replace(strategy, cube=cube)
    key = jax.random.fold_in(ask_key, granted)
    return strategy.ask(key, state) if stage < 0 else strategy.ask(key, state, stage=stage)


@functools.partial(jax.jit, static_argnums=0)
def _tell(strategy, cube, state, job, feedback):
    return replace(strategy, cube=cube).tell(state, job, feedback)


@functools.partial(jax.jit, static_argnums=0)
def _recommend(strategy, cube, state):
    return replace(strategy, cube=cube).recommend(state).trial


@contextlib.contextmanager
def _strategy_mode() -> Iterator[None]:
    """64-bit, and on the CPU whatever else there is: only while a strategy computes, so that a function that
    runs in the same process finds JAX as its author left it."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


class Run:
    """A strategy's run that may be replayed, extended and resumed.

    `factory` is already one of `with_prior`; `prior` and `hint` (its x) are of one lane. At most `workers`
    jobs are granted and not told; both that number and `epochs` may be changed between events."""

    def __init__(
        self,
        factory: Callable[..., Any],
        space: Space,
        max_epoch: int,
        budget: float,
        seed: int,
        prior: Prior | None = None,
        hint: np.ndarray | None = None,
        most: int = 1,
        charged: int = 0,
    ):
        """`most`: workers that the run will ever have · `charged`: epochs of the budget spent beforehand."""
        cube = space.cube()
        made: dict[str, Any] = dict(max_epoch=max_epoch, budget=budget)
        self.host = host_factory(factory)
        with _strategy_mode():
            if self.host:
                self.strategy = factory(cube=cube, **made, **own_settings(factory, cube, seed))
            else:
                self.cube = jax.tree.map(jnp.asarray, cube)
                self.strategy = factory(cube=self.cube, **made)
                self.settings = replace(self.strategy, cube=None)
        self.seed, self.max_epoch, self.width = seed, max_epoch, cube.width
        self.cluster = Cluster(
            np.zeros(1, np.int64), ClusterSettings(most), self.strategy.num_trials, cube.width,
            budget_epochs(budget, max_epoch), max_epoch, np.asarray(cube.change),
            "resume" in self.strategy.needs, "copy" in self.strategy.needs,
        )  # fmt: skip
        self.cluster.spent += charged
        self.outstanding: dict[int, tuple[int, Granted]] = {}  # job -> its place and itself
        self.prior, self.hint = prior, hint
        self.begun = False

    def _begin(self) -> None:
        """Compiles and tells what was made elsewhere, when the first job is asked for."""
        self.begun = True
        if self.host:
            if self.prior is not None:
                for k, (x, loss, _, until) in enumerate(zip(*self.prior, strict=True)):
                    self.strategy.tell(Job(k, NONE, x.copy(), int(until)), Feedback(float(loss), 0.0))
            return
        init_key, self.ask_key, _ = seed_keys(jnp.uint32(self.seed))
        self.state = self.strategy.init(init_key)
        if self.prior is not None:
            told = jax.tree.map(jnp.asarray, self.prior)
            self.state = tell_prior(self.settings, self.cube, self.state, told)
        if self.hint is not None:
            self.state = tell_hint(self.settings, self.cube, self.state, jnp.asarray(self.hint))

    @property
    def spent(self) -> int:
        """Epochs charged so far."""
        return int(self.cluster.spent[0])

    @property
    def granted(self) -> int:
        """Jobs granted so far."""
        return int(self.cluster.granted[0])

    @property
    def asking(self) -> bool:
        """Whether it may ask for more; False once a job did not fit."""
        return bool(self.cluster.asking[0])

    @asking.setter
    def asking(self, value: bool) -> None:
        self.cluster.asking[0] = value

    def ask(self, workers: int) -> Granted | None:
        """The next job, charged; None where none can be had before something is told: `workers` are busy, the
        strategy waits, or asks no more, since the next job does not fit into the budget."""
        cluster = self.cluster
        if not self.asking or cluster.waiting[0] or len(self.outstanding) >= workers:
            return None
        number = self.granted
        with _strategy_mode():
            if not self.begun:
                self._begin()
            job, after = self._asked(number)
        places = cluster.grant(np.ones(1, bool), job)
        if not len(places):
            # A wait, or a job that does not fit, which is as if it was not asked for.
            return None
        if not self.host:
            self.state = after
        place = int(places[0])
        row = cluster.whole[place]
        granted = Granted(
            number,
            int(row[TRIAL]),
            int(row[SOURCE]),
            int(row[START]),
            int(row[UNTIL]),
            cluster.x[place].copy(),
        )
        self.outstanding[number] = place, granted
        return granted

    def _asked(self, number: int) -> tuple[Job, Any]:
        if self.host:
            job, after = self.strategy.ask(), None
        else:
            stage = self.strategy.stage(number) if hasattr(self.strategy, "stage") else -1
            job, after = _ask(self.settings, stage, self.cube, self.ask_key, self.state, jnp.uint32(number))
        x = np.full(self.width, 0.5, np.float32)
        x[: len(job.x)] = job.x
        columns = (np.asarray(v, np.int32).reshape(1) for v in (job.trial, job.source, job.until))
        trial, source, until = columns
        return Job(trial, source, x[None], until), after

    def tell(self, job: int, loss: float, cost: float, now: float, x: np.ndarray | None = None) -> Granted:
        """Tells the result of a granted job; `cost` in seconds, `now` on the run's clock. `x`: as it is on
        record, where another machine's rounding makes the strategy ask for it a little otherwise."""
        place, granted = self.outstanding.pop(job)
        cluster, places, lanes = self.cluster, np.array([place]), np.zeros(1, np.int64)
        if x is not None:
            cluster.x[place] = x
        cluster.real[place, FINISH] = now
        cluster.release(lanes, places, np.zeros(1, bool))
        x = cluster.x[place].copy()
        with _strategy_mode():
            if self.host:
                told = Job(granted.trial, granted.source, x, granted.until)
                self.strategy.tell(told, Feedback(loss, cost))
            else:
                whole = (jnp.int32(v) for v in (granted.trial, granted.source, granted.until))
                trial, source, until = whole
                feedback = Feedback(jnp.float64(loss), jnp.float64(cost))
                told = Job(trial, source, jnp.asarray(x), until)
                self.state = _tell(self.settings, self.cube, self.state, told, feedback)
        return granted._replace(x=x)

    def recommended(self) -> int:
        """The trial that the strategy would deploy; NONE where it does not say."""
        if not self.begun or not hasattr(self.strategy, "recommend"):
            return NONE
        if self.host:
            recommended: Any = self.strategy
            return int(recommended.recommend().trial)
        with _strategy_mode():
            return int(_recommend(self.settings, self.cube, self.state))

    def trial_seed(self, trial: int) -> int:
        """A trial's seed for a function, whatever the number of workers: as `bench.loop` gives it."""
        with _strategy_mode():
            return seed_of(seed_keys(jnp.uint32(self.seed))[2], trial)


def seed_of(key: jax.Array, trial: int) -> int:
    return int(jax.random.bits(jax.random.fold_in(key, trial), (), jnp.uint32)) >> 1
