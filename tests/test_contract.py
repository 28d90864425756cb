"""The rules, over everything that conf/ lists, and over strategies and objectives made to break them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contract import HALF, Probe, check_objective, check_strategy
from bench.drive import instance_key
from bench.loop import host_factory
from bench.protocols import NONE, Job, MissingData, MissingExtra
from bench.space import Cube

CONF = Path(__file__).parent.parent / "conf"


def listed(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load(group: str, name: str) -> Any:
    return instantiate(OmegaConf.load(CONF / group / f"{name}.yaml"))


# Much compiling each; what they add to the jobs of hyperband, asha, pbt and random has tests of its own.
DEAR = {"async_hyperband", "bohb", "cmaes", "median_stopping", "pb2", "pbt_async"}

# What is trained for real is trained less in the default run; `slow` runs it as it is listed.
SHORT = {"breast_cancer": {"model": "logistic", "max_epoch": 4, "micro_batch": 8, "training": 64}}


def a_class_once(group: str) -> list[Any]:
    """The names of a group; those whose class an earlier one has, in other settings, are slow."""
    seen, found = set(), []
    for name in listed(group):
        target = OmegaConf.load(CONF / group / f"{name}.yaml")["_target_"]
        slow = target in seen or name in DEAR or name in SHORT
        found.append(pytest.param(name, marks=[pytest.mark.slow] if slow else []))
        seen.add(target)
    return found


@pytest.mark.parametrize("name", a_class_once("strategy"))
def test_every_listed_strategy_keeps_the_rules(name):
    factory = load("strategy", name)
    try:  # an adapter whose library is missing
        extra = {"seed": 0} if host_factory(factory) else {}
        factory(cube=Probe().space.cube(), max_epoch=9, budget=6.0, **extra)
    except MissingExtra as error:
        pytest.skip(str(error))
    assert check_strategy(factory) == []


@pytest.mark.parametrize("name", SHORT)
def test_a_short_one_of_what_is_trained_for_real_keeps_the_rules(name):
    assert check_objective(dataclasses.replace(load("objective", name), **SHORT[name])) == []


@pytest.mark.parametrize("name", a_class_once("objective"))
def test_every_listed_objective_keeps_the_rules(name):
    try:  # a table whose library is missing, or a surrogate whose files are
        objective = load("objective", name)
    except Exception as error:
        if not isinstance(error.__cause__, MissingExtra | MissingData):
            raise
        pytest.skip(str(error.__cause__))
    assert check_objective(objective) == []


def rules(violations) -> str:
    return " | ".join(map(str, violations))


@dataclass(frozen=True)
class Broken:
    """One trial after the other, with one fault."""

    fault: str
    cube: Cube = None  # type: ignore[assignment]
    max_epoch: int = 1
    budget: float = 1.0
    anytime = True
    needs = frozenset({"stop", "resume"})

    @property
    def num_trials(self):
        return int(self.budget)

    def init(self, key):
        return jnp.int32(0), jnp.float64(0.0)

    def ask(self, key, state):
        n, total = state
        over = n >= self.num_trials
        x = self.cube.fix(jnp.full((self.cube.width,), 0.3, jnp.float32))
        trial = jnp.where(over, NONE, n).astype(jnp.int32)
        until = jnp.int32(self.max_epoch)
        source = jnp.int32(NONE)
        count = jnp.where(over, n, n + 1).astype(jnp.int32)
        if self.fault == "outside":
            x = x + 1.0
        if self.fault == "too far":
            until = until + 1
        if self.fault == "no such source":
            source = jnp.where(n == 1, 3, NONE).astype(jnp.int32)
        if self.fault == "wait moves":
            count = n + 1
        if self.fault == "dtype":
            count = count.astype(jnp.float32)
        if self.fault == "infinite":
            x = x + jnp.isinf(total)
        if self.fault == "planned":
            x = jnp.where(self.cube.mask, x * self.budget / 100.0, x)
        return Job(trial, source, x, until), (count, total)

    def tell(self, state, job, feedback):
        n, total = state
        if self.fault == "none counts":
            return n, total + 1.0
        if self.fault == "infinite":
            return n, jnp.where(job.trial == NONE, total, total + feedback.loss)
        return state


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("outside", "x leaves the unit cube"),
        ("too far", "until exceeds max_epoch"),
        ("no such source", "job 1"),
        ("wait moves", "an ask that waits"),
        ("dtype", "shapes and dtypes never change"),
        ("planned", "anytime"),
        ("none counts", "tell of trial NONE"),
        ("infinite", "x leaves the unit cube"),
    ],
)
def test_a_broken_strategy_is_found_with_its_job(fault, words):
    def factory(**settings):
        return Broken(fault, **settings)

    assert words in rules(check_strategy(factory))


def test_both_kinds_of_instances_are_among_those_that_are_checked():
    with jax.enable_x64(True):
        finite = [bool(HALF.draw(instance_key(jnp.uint32(1000 + seed)))[1]) for seed in range(4)]
    assert finite[2] and not finite[1] and not finite[3]


class Gives(Exception):
    pass


@pytest.mark.parametrize("fault", ["", "infinite"])
def test_a_strategy_of_the_host_that_fails_where_all_diverges_is_found(fault):
    class Host:
        num_trials, needs, anytime = 6, frozenset(), True

        def __init__(self, cube, max_epoch, budget, seed):
            self.cube, self.max_epoch, self.n, self.lost = cube, max_epoch, 0, 0

        def ask(self):
            if self.n >= 6:
                return Job(NONE, NONE, np.full(self.cube.width, 0.5, np.float32), 0)
            self.n += 1
            x = np.asarray(self.cube.fix(jnp.full((self.cube.width,), 0.3, jnp.float32)))
            return Job(self.n - 1, NONE, x, self.max_epoch)

        def tell(self, job, feedback):
            self.lost += int(np.isinf(feedback.loss))
            if fault and self.lost >= 2:
                raise Gives("no loss to go by")

    found = rules(check_strategy(Host))
    assert ("Gives" in found) == bool(fault), found


def test_a_sound_strategy_of_the_same_make_passes():
    def factory(**settings):
        return Broken("none", **settings)

    assert check_strategy(factory) == []


@dataclass(frozen=True)
class Resumes(Probe):
    """A probe whose weights depend on where the slice started."""

    def train(self, instance, key, checkpoint, hp, start, until):
        theta, loss, true_loss = super().train(instance, key, checkpoint, hp, start, until)
        return theta + 0.01 * start, loss + 0.01 * start, true_loss


def test_an_objective_that_resumes_differently_is_found():
    assert "train(0->r)" in rules(check_objective(Resumes()))
    assert check_objective(Probe()) == []
