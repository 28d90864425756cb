"""The contract between strategies, objectives and drivers: the one file that a newcomer must read.

One abstraction covers grid, random, Bayesian, Hyperband and PBT. A *job* says which checkpoint to start
from, which hyperparameters to use, how far to train and where to keep the result:

    new trial    Job(k, NONE, x, r)          resume   Job(k, k, x, later r)
    PBT exploit  Job(k, j, perturbed x, r)   wait     Job(NONE, NONE, x, 0): ask again after the next tell

A strategy says which slice of training comes next, an objective trains it, a driver holds the clock, the
workers, the budget and the checkpoints, and metrics score. Nobody else holds a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # who only reads results does without JAX
    import jax

    from bench.space import Cube, Space

NONE = -1  # no such slot: a wait (trial), fresh weights (source)
ABILITIES = ("stop", "resume", "copy", "change")


class MissingExtra(ImportError, ValueError):
    """A setting needs a library that is not installed; the message names the extra that brings it."""


class MissingData(ValueError):
    """A setting needs a file that is not there; the message names the file, where to get it and the setting
    that names its folder."""


class Job(NamedTuple):
    """One slice of training.

    trial i32[]: slot of the checkpoint table that the job writes, or NONE to wait ·
    source i32[]: slot whose checkpoint it starts from, or NONE for fresh weights ·
    x f32[d]: hyperparameters in the (padded) unit cube ·
    until i32[]: epoch to train to, counted from fresh weights; exceeds the source's epoch.
    """

    trial: Any
    source: Any
    x: Any
    until: Any


class Feedback(NamedTuple):
    """loss f64[]: validation loss at `until`, lower is better, not finite: diverged · cost f64[]: simulated
    seconds that the slice took."""

    loss: Any
    cost: Any


# Shares of random configurations at which the quantiles of their true loss are kept: fine where targets lie.
LEVELS: tuple[float, ...] = (*np.geomspace(1e-4, 0.1, 31).tolist(), *np.linspace(0.15, 1.0, 18).tolist())


class Reference(NamedTuple):
    """What is known of an instance. optimum_static f64[]: the lowest true loss of a constant configuration
    over epochs up to max_epoch · optimum_dynamic f64[]: the lowest that any sequence of jobs can reach,
    nan where it is not known or not different in kind."""

    optimum_static: Any
    optimum_dynamic: Any


class Strategy(Protocol):
    """A frozen dataclass of settings, built as `factory(cube=..., max_epoch=..., budget=...)`.

    `max_epoch` and `budget` (full trainings) are Python numbers; `cube` holds arrays and is traced, so no
    Python branch may depend on it. The state is a pytree whose structure, shapes and dtypes never change.
    All randomness is in `init` and `ask`. `ask` is called with each tell done before it, and may be called
    after the last trial: it then waits. `tell` of trial NONE and an `ask` that waits return the state as
    it was, bit for bit. A loss may be nan or infinite: worse than any number.

    Optional: `recommend(state) -> Job` (the trained trial that it would deploy), `alive(state) ->
    bool[num_trials]` (the rows that may still be a source). Optional class attribute `note: str` says in one
    line what a budget means, or a method `describe() -> str` does. Optional `lanes: int`, how many seeds at
    most share one program (default 64): more where no bit of a lane depends on how many there are, as it
    does in linear algebra. Optional `light: bool` (default True): its programs are compiled in a hurry.
    Optional `draws: range`: trials whose configurations are independent draws of one law, whatever is told.
    """

    cube: Cube
    max_epoch: int
    budget: float

    @property
    def num_trials(self) -> int: ...
    @property
    def anytime(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]: ...
    def init(self, key: jax.Array) -> Any: ...
    def ask(self, key: jax.Array, state: Any) -> tuple[Job, Any]: ...
    def tell(self, state: Any, job: Job, feedback: Feedback) -> Any: ...


class Objective(Protocol):
    """Something to be tuned: a family of instances, each trained from checkpoint to checkpoint.

    `fidelity` is "training" (a checkpoint at any epoch can be deployed) or "proxy" (fewer epochs only
    stand for the full ones). `scale` is "linear", or "log" where losses span decades and the optimum is
    positive. `hp` is `space.decode_array(x)`. The key is the trial's, the same for each of its slices:
    fold epochs into it, so that train(0->r) equals train(0->s) then train(s->r). `start` and `until` are
    traced i32[]; `true_loss` is for the referee and never told. A schedule's horizon is max_epoch.

    Optional: `chunk: int`, the most epochs of one compiled call, where training is a real loop (default
    max_epoch); `pool: int`, lanes trained side by side (default 64); `light: bool`, as a
    strategy's (default: unless it has a `chunk`); `range_test(instance, key, hp, rates)
    -> losses f32[steps]`, the learning-rate finder's epoch, and `updates(hp) -> f64[]`, updates in an epoch,
    by which it is charged; `trust() -> [(what, value)]`, how far to trust a fitted one, in words;
    `law(instance) -> f64[n]`, the true losses of all
    configurations, where they are finitely many and equally likely.
    """

    max_epoch: int
    fidelity: str
    scale: str
    offers: frozenset[str]

    @property
    def space(self) -> Space: ...
    def draw(self, key: jax.Array) -> Any: ...
    def reference(self, instance: Any) -> Reference: ...
    def init(self, instance: Any, key: jax.Array) -> Any: ...
    def cost(self, instance: Any, key: jax.Array, hp: Mapping, start: Any, until: Any) -> jax.Array: ...
    def train(
        self, instance: Any, key: jax.Array, checkpoint: Any, hp: Mapping, start: Any, until: Any
    ) -> tuple[Any, jax.Array, jax.Array]: ...


@runtime_checkable
class HostStrategy(Protocol):
    """The stateful twin, for numpy prototypes and libraries that are not JAX.

    Built as `factory(cube=..., max_epoch=..., budget=..., seed=...)`, driven by `loop`; it too has
    `num_trials`, `anytime` and `needs`. Arrays are numpy. A factory that takes `design=` is given the seed's
    shared start-up design as a function: n -> its first n rows, f32[n, d].
    """

    def ask(self) -> Job: ...
    def tell(self, job: Job, feedback: Feedback) -> None: ...


def wait(cube: Cube) -> Job:
    """The job that says: nothing until some running job is told."""
    import jax.numpy as jnp

    return Job(jnp.int32(NONE), jnp.int32(NONE), jnp.full((cube.width,), 0.5, jnp.float32), jnp.int32(0))


def budget_epochs(budget: float, max_epoch: int) -> int:
    """Whole epochs that a budget of full trainings pays for."""
    return int(np.floor(budget * max_epoch + 1e-9))


def lacking(needs: frozenset[str], offers: frozenset[str], max_epoch: int) -> list[str]:
    """What a strategy needs and an objective does not offer, in ABILITIES' order.

    A formula (max_epoch 1) is exempt from stop and resume: there is nothing to stop."""
    exempt = {"stop", "resume"} if max_epoch == 1 else set()
    return [a for a in ABILITIES if a in needs and a not in offers and a not in exempt]
