"""The tuning guides' workflow as one strategy: default, learning-rate finder, random search, Bayesian trials.

The order and the sizes (20 to 30 random trials over the important axes, then 10 to 20 Bayesian ones that
start from them) are those of the guides that this project tests; the model is `gp`'s. The finder is run by
the driver before the first ask, for one epoch; its rate is told as the job (0, NONE, x, 0), which trains
nothing. The guides' last step, one evaluation on test data, is no strategy's business.

Departures: the stages' lengths follow the budget unless they are given; what is important is what the space
holds, unless roles are named, and the Bayesian trials vary every axis in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import FLOAT, ROLES, Cube, check_real, check_whole
from strategies import gp

FINDERS = ("narrow", "fix", "none")
LEAST = 5  # random trials: a model of fewer would be none
RANDOM_SHARE, RANDOM_MOST = 0.6, 30  # of the trials after the default one: 29 random and 20 Bayesian of 50
APART = 3  # status of a trial outside the narrowed axis: the model does not look at it
TOLERANCE = 1e-5  # of the unit interval: where a point still lies inside


class State(NamedTuple):
    """gp: the model's, in coordinates of the window · low, high f32[d]: the window in the cube, the whole of
    it until a finder narrows the learning rate's axis · hinted bool[] · best_loss f64[], best_trial i32[],
    best_x f32[d]: of the trials told.
    """

    gp: gp.State
    low: Any
    high: Any
    hinted: Any
    best_loss: Any
    best_trial: Any
    best_x: Any


@dataclass(frozen=True)
class Workflow:
    """The default configuration, random trials, then Bayesian ones that know them all.

    default: begin with the default configuration, unless trials made elsewhere were told · finder: what a
    learning-rate finder's suggestion does to that axis: "narrow" it, "fix" it, or "none", which runs none ·
    width: of the narrowed axis, in decades, the suggestion in its middle · random: trials; null: six in ten
    of those after the default, 5 to 30 · bayesian: trials; null: all that are left · important: roles of
    the axes that random trials vary (all, where no axis has one of them); null: all · prior_trials: trials
    told before the first ask, which count towards the default and the random ones."""

    default: bool = True
    finder: str = "narrow"
    width: float = 1.0
    random: int | None = None
    bayesian: int | None = None
    important: tuple[str, ...] | None = None
    prior_trials: int = 0
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    def __post_init__(self):
        if self.finder not in FINDERS:
            raise ValueError(f"finder must be one of {', '.join(FINDERS)}, got {self.finder!r}")
        if not isinstance(self.default, bool):
            raise ValueError(f"default must be true or false, got {self.default!r}")
        check_real("width", self.width, 0)
        for name in ("random", "bayesian"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 0)
        check_whole("prior_trials", self.prior_trials, 0)
        if self.important is not None:
            object.__setattr__(self, "important", tuple(self.important))
        unknown = [role for role in self.important or () if role not in ROLES]
        if unknown:
            raise ValueError(f"important must be roles out of {', '.join(ROLES)}, got {unknown[0]!r}")
        if not (math.isfinite(self.budget) and self.budget + 1e-9 >= 1.0):
            raise ValueError(f"workflow needs a budget of at least 1 full training, got {self.budget}")
        if self._trials < 1:
            raise ValueError("one of default, random and bayesian must leave a trial to make")

    @property
    def _designed(self) -> int:
        """Trials of the default and the random stage, those told from elsewhere included."""
        afford = math.floor(self.budget + 1e-9) + self.prior_trials - self.default
        by_budget = min(max(math.floor(RANDOM_SHARE * afford + 0.5), LEAST), RANDOM_MOST)
        return self.default + (by_budget if self.random is None else self.random)

    @property
    def _trials(self) -> int:
        """New trials."""
        afford = math.floor(self.budget + 1e-9)
        if self.bayesian is None:
            return afford
        return min(afford, max(self._designed - self.prior_trials, 0) + self.bayesian)

    @property
    def num_trials(self) -> int:
        return self._trials + self.prior_trials

    @property
    def draws(self) -> range:
        """The random stage; a finder narrows it before the first of them."""
        return range(max(self.prior_trials, int(self.default)), min(self._designed, self.num_trials))

    @property
    def anytime(self) -> bool:
        """Only stages of given length do not depend on the budget."""
        return self.random is not None

    @property
    def needs(self) -> frozenset[str]:
        # The last trial is an epoch short where the finder has cost one.
        return frozenset() if self.finder == "none" else frozenset({"stop"})

    def describe(self) -> str:
        designed = min(max(self._designed - self.prior_trials, 0), self._trials)
        first = int(self.default and not self.prior_trials and designed > 0)
        words = (["the default"] if first else []) + [f"{designed - first} random"]
        return f"workflow: {', '.join(words)}, {self._trials - designed} by the model"

    @property
    def _gp(self) -> gp.GP:
        return gp.GP(
            start=max(self._designed, 1), prior_trials=self.prior_trials, cube=self.cube,
            max_epoch=self.max_epoch, budget=float(self._trials),
        )  # fmt: skip

    def stage(self, granted: int) -> int:
        """As the model's."""
        return self._gp.stage(granted)

    def init(self, key: jax.Array) -> State:
        """The design of the random trials, in which axes that are not important have their default."""
        cube, inner = self.cube, self._gp.init(key)
        roles = jnp.array([ROLES.index(role) for role in self.important or ROLES], jnp.int32)
        chosen = cube.mask & jnp.any(jnp.asarray(cube.role)[:, None] == roles[None, :], -1)
        chosen = jnp.where(jnp.any(chosen), chosen, cube.mask)
        default = jnp.asarray(cube.default, jnp.float32)
        design = jnp.where(chosen, inner.design, default)
        if self.default and not self.prior_trials:
            design = design.at[0].set(default)
        inner = inner._replace(design=design, x=inner.x.at[: len(design)].set(cube.snap(design)))
        width = cube.width
        return State(
            gp=inner,
            low=jnp.zeros((width,), jnp.float32),
            high=jnp.ones((width,), jnp.float32),
            hinted=jnp.bool_(False),
            best_loss=jnp.float64(jnp.inf),
            best_trial=jnp.int32(NONE),
            best_x=jnp.full((width,), 0.5, jnp.float32),
        )

    def ask(self, key: jax.Array, state: State, stage: int | None = None) -> tuple[Job, State]:
        job, inner = self._gp.ask(key, state.gp, stage)
        waits = job.trial == NONE
        x = self.cube.fix(state.low + job.x * (state.high - state.low))
        if self.default and not self.prior_trials:
            x = jnp.where(job.trial == 0, self.cube.fix(jnp.asarray(self.cube.default)), x)
        x = jnp.where(waits, jnp.float32(0.5), x)
        last = state.hinted & (job.trial == self.num_trials - 1)
        until = jnp.where(last, max(self.max_epoch - self._short, 1), job.until).astype(jnp.int32)
        return job._replace(x=x, until=until), state._replace(gp=inner)

    @property
    def _short(self) -> int:
        """Epochs that the last trial lacks after a finder: its own, unless the budget has some left over."""
        over = budget_epochs(self.budget, self.max_epoch) - self._trials * self.max_epoch
        return max(1 - over, 0)

    def tell(self, state: State, job: Job, feedback: Feedback) -> State:
        """Notes a loss, or (until 0) narrows the learning rate's axis around a finder's suggestion."""
        cube, n = self.cube, self.num_trials
        hint = (job.trial != NONE) & (job.until == 0)
        low, high = self._window(job.x)
        narrowed = hint & (jnp.asarray(cube.role) == ROLES.index("rate")) & (cube.kind == FLOAT)
        narrowed &= jnp.isfinite(job.x)
        state = state._replace(
            low=jnp.where(narrowed, low, state.low),
            high=jnp.where(narrowed, high, state.high),
            hinted=state.hinted | hint,
        )
        trial = jnp.where(hint, NONE, job.trial).astype(jnp.int32)
        span = state.high - state.low
        inside = (job.x >= state.low - TOLERANCE) & (job.x <= state.high + TOLERANCE)
        u = cube.fix(jnp.where(span > 0, (job.x - state.low) / jnp.where(span > 0, span, 1.0), 0.5))
        u = jnp.where(hint, jnp.float32(0.5), u)
        inner = self._gp.tell(state.gp, job._replace(trial=trial, x=u), feedback)
        row = jnp.where((trial == NONE) | jnp.all(inside | ~cube.mask), n, trial)
        loss = jnp.where(jnp.isfinite(feedback.loss), feedback.loss, jnp.inf).astype(jnp.float64)
        better = (trial != NONE) & ((loss < state.best_loss) | (state.best_trial == NONE))
        return state._replace(
            gp=inner._replace(status=inner.status.at[row].set(APART, mode="drop")),
            best_loss=jnp.where(better, loss, state.best_loss),
            best_trial=jnp.where(better, trial, state.best_trial),
            best_x=jnp.where(better, job.x, state.best_x),
        )

    def _window(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Ends f32[d] of the axes when they are narrowed around x f32[d]."""
        half = 0.0 if self.finder == "fix" else self.width / 2.0
        cube, step = self.cube, jnp.float32(half * math.log(10.0))
        span = jnp.where(cube.mask, cube.high - cube.low, 1.0)
        value = cube.low + x * span
        low = jnp.where(cube.log, x - step / span, (value * jnp.exp(-step) - cube.low) / span)
        high = jnp.where(cube.log, x + step / span, (value * jnp.exp(step) - cube.low) / span)
        if half == 0.0:
            low = high = x
        return jnp.clip(low, 0.0, 1.0).astype(jnp.float32), jnp.clip(high, 0.0, 1.0).astype(jnp.float32)

    def recommend(self, state: State) -> Job:
        """The told trial of the lowest loss."""
        return Job(state.best_trial, jnp.int32(NONE), state.best_x, jnp.int32(self.max_epoch))
