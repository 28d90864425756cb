"""Successive halving against its theorem and an independent implementation; Hyperband against its bounds."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hyperband import compiled, drive, losses_of

from bench.cluster import ClusterSettings
from bench.contract import Probe
from bench.protocols import NONE, Feedback
from bench.simulate import simulate
from bench.space import Float, Space
from strategies import brackets, successive_halving
from strategies.brackets import Rung
from strategies.hyperband import Hyperband
from strategies.random_search import RandomSearch
from strategies.successive_halving import SuccessiveHalving

CUBE = Space({"a": Float(0.0, 1.0)}).cube()


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def expected(n, eta, ends, epochs, loss):
    """Jobs (trial, source, until) by plain sorts, of brackets of n one after the other."""
    jobs, first = [], 0
    while True:
        members, start = list(range(first, first + n)), 0
        for i, until in enumerate(ends):
            for trial in members:
                epochs -= until - start
                if epochs < 0:
                    return jobs
                jobs.append((trial, trial if i else NONE, until))
            score = {t: loss(t, until) if np.isfinite(loss(t, until)) else np.inf for t in members}
            members = sorted(members, key=lambda t: (score[t], t))[: n // eta ** (i + 1)]
            start = until
        first += n


@pytest.mark.parametrize(
    "members, n, eta, ends",
    [(None, 27, 3, [1, 3, 9, 27]), (50, 50, 3, [1, 3, 9, 27]), (9, 9, 2, [1, 2, 4, 9])],
)
def test_brackets_one_after_the_other(members, n, eta, ends):
    strategy = SuccessiveHalving(members=members, eta=eta, cube=CUBE, max_epoch=ends[-1], budget=15)
    loss, programs = losses_of(n), compiled(strategy)
    want = expected(n, eta, ends, 15 * ends[-1], loss)
    assert want[-1][0] > n
    for workers in (1, 4):
        granted, _ = drive(strategy, loss, workers, programs=programs)
        assert [(j.trial, j.source, j.until) for j in granted] == want
    assert strategy.num_trials == 1 + max(trial for trial, _, _ in want)


def test_a_diverged_member_goes_on_only_where_no_other_waits():
    strategy = SuccessiveHalving(cube=CUBE, max_epoch=9, budget=3)
    for finite in (4, 2):
        granted, _ = drive(
            strategy, lambda t, until, k=finite: float(-t) if t < k else [np.nan, np.inf][t % 2]
        )
        promoted = [job.trial for job in granted if job.until == 3]
        assert promoted == ([3, 2, 1] if finite == 4 else [1, 0, 2])


@partial(jax.jit, static_argnums=0)
def survivors(n, losses):
    """The one trial of n that successive halving (eta 2) leaves, i32[k]; losses f64[k, n, log2 n]."""
    table = tuple(Rung(n >> i, i + 1) for i in range(n.bit_length()))
    epochs = brackets.epochs(table)
    whole = successive_halving.plan((table,), epochs)

    def one(losses):
        def job(state, _):
            job, state = successive_halving.ask(whole, CUBE, state)
            told = losses[job.trial, jnp.minimum(job.until - 1, losses.shape[1] - 1)]
            state = successive_halving.tell(whole, table[-1].until, state, job, Feedback(told, 1.0))
            return state, job.trial

        start = successive_halving.begin(whole, jnp.zeros((n, CUBE.width), jnp.float32))
        return jax.lax.scan(job, start, length=len(whole.jobs) - 1)[1][-1]

    return jax.vmap(one)(losses)


def test_theorem_1_on_adversarial_instances():
    """JMLR 18:185, Theorem 1: with a budget B > 2 ceil(log2 n) max_i i (1 + gamma^-1(max(eps/4, (nu_i -
    nu_1)/2))) what is left is within eps/2 of the best, whatever losses do within gamma of their limits."""
    rng, n, instances = np.random.default_rng(0), 32, 200
    rounds = n.bit_length() - 1
    excess = {1.01: [], 0.02: []}
    for share, found in excess.items():
        tables, limits, epsilons = [], [], []
        for _ in range(instances):
            nu = np.cumsum(np.append(0.0, rng.exponential(size=n - 1) ** 3 * rng.choice([0.01, 0.1, 1.0])))
            power, scale, epsilon = rng.uniform(0.3, 2), rng.uniform(0.1, 10), rng.uniform(0.02, 1)
            gap = np.maximum(epsilon / 4, (nu - nu[0]) / 2)
            inverse = np.ceil((scale / gap) ** (1 / power))  # least j with gamma(j) = scale j^-power <= gap
            enough = 2 * rounds * np.max(np.arange(1, n + 1) * (1 + inverse))
            budget = np.floor(share * enough)
            pulls = np.cumsum([np.maximum(np.floor(budget / ((n >> k) * rounds)), 1) for k in range(rounds)])
            # The worst case: the best looks as bad as it may, the others as good; and others, in between.
            side = np.where(np.arange(n) == 0, 1.0, -1.0)[:, None]
            if rng.random() < 0.5:
                side = side * rng.uniform(0, 1, (n, rounds))
            losses, order = nu[:, None] + side * scale * pulls**-power, rng.permutation(n)
            tables.append(losses[order])
            limits.append(nu[order])
            epsilons.append(epsilon)
        left = np.asarray(survivors(n, np.array(tables)))
        value = np.array(limits)[np.arange(instances), left] - np.min(limits, 1)
        found.append(value - np.array(epsilons) / 2)
    assert (excess[1.01][0] <= 1e-12).all()
    assert (excess[0.02][0] > 0).mean() > 0.1  # a fiftieth of the budget is too little, so the test can fail


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_a_round_of_hyperband_costs_at_most_its_bound(eta):
    """(s_max + 1) B epochs, B = (s_max + 1) max_epoch, also where max_epoch is no power of eta."""
    for max_epoch in range(1, 500):
        table = brackets.brackets(max_epoch, eta)
        bound = len(table) ** 2 * max_epoch
        assert sum(brackets.epochs(b) for b in table) <= bound
        # Rounded up, a bracket of algorithm 1 may have one member too many, which costs one training more.
        assert all(brackets.epochs(b, resume=False) <= (len(table) + 1) * max_epoch for b in table)


@dataclass(frozen=True)
class Crossing(Probe):
    """Until the last epoch the best configurations look worst; one second an epoch."""

    name: str = "crossing"
    max_epoch: int = 27
    space: ClassVar = Space({"a": Float(0.0, 1.0)})

    def cost(self, instance, key, hp, start, until):
        return (until - start).astype(jnp.float64)

    def train(self, instance, key, checkpoint, hp, start, until):
        a = hp["a"].astype(jnp.float64)
        loss = jnp.where(until == self.max_epoch, a, 1.0 - a)
        return checkpoint, loss, loss


def test_hyperband_loses_where_curves_cross_late_but_by_a_bounded_factor():
    def reached(factory, budget):
        """Median epochs until a configuration of the best 10 % was trained in full."""
        run = simulate(factory, Crossing(), seeds=range(256), budget=budget).trace
        run["spent"] = (run["until"] - run["start"]).groupby(run["seed"]).cumsum()
        good = run[(run["until"] == 27) & (run["true_loss"] < 0.1)]
        first = good.groupby("seed")["spent"].first().reindex(range(256), fill_value=np.inf)
        return first.median()

    random, hyperband = reached(RandomSearch, 40), reached(Hyperband, 120)
    table = brackets.brackets(27)
    loop = sum(map(brackets.epochs, table))
    assert random == pytest.approx(27 * 7, abs=27)  # geometric: .5 = .9^n, n = 6.6
    assert 1.5 * random < hyperband <= len(table) * random + loop


@pytest.mark.parametrize("straggle", [0.0, 1.0])
def test_workers_wait_for_the_slowest_of_a_rung(straggle):
    cluster = ClusterSettings(workers=9, straggle=straggle)
    run = simulate(SuccessiveHalving, Crossing(), seeds=range(16), budget=24, cluster=cluster).trace
    ends = run.groupby("seed")["finished"].max()
    busy = (run["finished"] - run["started"]).groupby(run["seed"]).sum() / (9 * ends)
    assert (busy < (0.75 if straggle else 0.9)).all()


def test_what_a_budget_means():
    def describe(r, b, **more):
        return SuccessiveHalving(cube=CUBE, max_epoch=r, budget=b, **more).describe()

    assert describe(81, 8) == (
        "successive_halving: 8 trainings = 648 epochs: two brackets of 81, 27, 9, 3, 1 members at epochs "
        "1, 3, 9, 27, 81 (162 configurations), then part of the next"
    )
    assert describe(81, 2).endswith("part of a bracket of 81, 27, 9, 3, 1 members at epochs 1, 3, 9, 27, 81 "
                                    "(81 configurations)")  # fmt: skip
    assert describe(1, 5).endswith("random search of 5 configurations")


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"eta": 1}, "eta must be an integer of at least 2, got 1"),
        (
            {"members": 8},
            "members must be an integer of at least 9, so that one reaches the last rung, got 8",
        ),
        ({"members": 9.5}, "got 9.5"),
        ({"min_epoch": 10}, "got 10"),
        ({"budget": 0.05}, "budget must pay for a job of 1 of 9 epochs, got 0.05"),
    ],
)
def test_bad_settings_are_named(bad, says):
    with pytest.raises(ValueError, match=says):
        SuccessiveHalving(**({"cube": CUBE, "max_epoch": 9, "budget": 3} | bad))
