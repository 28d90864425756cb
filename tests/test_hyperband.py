"""Hyperband against the paper's tables and against an independent synchronous implementation."""

from functools import partial
from itertools import pairwise

import jax
import numpy as np
import pytest

from bench.protocols import NONE, Feedback, Job
from bench.space import Float, Space
from strategies import brackets
from strategies.hyperband import Hyperband

CUBE = Space({"a": Float(0.0, 1.0), "b": Float(1e-3, 1.0, log=True)}).cube()


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_algorithm_1_of_the_paper():
    table = brackets.brackets(81, 3)
    assert [[tuple(rung) for rung in bracket] for bracket in table] == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert [brackets.epochs(b, resume=False) for b in table] == [405, 363, 351, 378, 405]
    assert [brackets.epochs(b) for b in table] == [297, 276, 279, 324, 405]
    assert sum(b[0].members for b in table) == 143


def test_table_1_of_the_paper():
    table = brackets.brackets(81, 3, rule="table1")
    assert [b[0].members for b in table] == [81, 27, 9, 6, 5]
    assert sum(brackets.epochs(b, resume=False) for b in table) == 1701


@pytest.mark.parametrize("eta", range(2, 11))
def test_s_max_is_exact(eta):
    for k in range(21):
        assert brackets.s_max(eta**k, eta) == k
        if k:
            assert brackets.s_max(eta**k + 1, eta) == k
            assert brackets.s_max(eta**k - 1, eta) == k - 1


@pytest.mark.parametrize("rule", brackets.RULES)
@pytest.mark.parametrize("eta", [2, 3, 4, 7])
def test_brackets_of_any_max_epoch(eta, rule):
    for max_epoch in range(1, 400):
        for least in {1, min(2, max_epoch), max_epoch // 5 + 1}:
            table = brackets.brackets(max_epoch, eta, least, rule)
            assert [len(b) for b in table] == list(range(len(table), 0, -1))
            for bracket in table:
                ends = [rung.until for rung in bracket]
                assert ends[0] >= least and ends[-1] == max_epoch and ends == sorted(set(ends))
                for low, high in pairwise(bracket):
                    assert high.members == low.members // eta >= 1


def test_a_round_costs_at_most_the_papers_bound():
    # (s_max + 1) brackets of B = (s_max + 1) R, where R is a power of eta
    for eta in range(2, 11):
        for k in range(9):
            for rule in brackets.RULES:
                table = brackets.brackets(eta**k, eta, rule=rule)
                total = sum(brackets.epochs(b, resume=False) for b in table)
                assert total <= (k + 1) * (k + 1) * eta**k


def losses_of(seed, size=4000):
    """loss(trial, until): unrelated from rung to rung, with ties, nan and both infinities."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=size), 1)
    values[rng.random(size) < 0.15] = np.nan
    values[rng.random(size) < 0.05] = np.inf
    values[rng.random(size) < 0.05] = -np.inf
    return lambda trial, until: values[(31 * trial + 977 * until) % size]


def expected(max_epoch, epochs, eta, rule, loss):
    """Synchronous Hyperband as the paper's pseudocode, jobs (trial, source, until) in order."""
    largest = max(s for s in range(30) if eta**s <= max_epoch)
    jobs, spent, trials = [], 0, 0
    while True:
        for s in reversed(range(largest + 1)):
            if rule == "algorithm1":
                n = int(np.ceil((largest + 1) * eta**s / (s + 1) - 1e-9))
            else:
                n = int((largest + 1) / (s + 1)) * eta**s
            members, start = list(range(trials, trials + n)), 0
            trials += n
            for i in range(s + 1):
                until = int(max_epoch * float(eta) ** (i - s) + 1e-9)
                for trial in members:
                    spent += until - start
                    if spent > epochs:
                        return jobs
                    jobs.append((trial, trial if i else NONE, until))
                scores = [loss(trial, until) for trial in members]
                scores = [score if np.isfinite(score) else np.inf for score in scores]
                order = sorted(zip(scores, members, strict=True))
                members, start = [t for _, t in order][: int(n / eta ** (i + 1) + 1e-9)], until


def compiled(strategy):
    return jax.jit(strategy.init), jax.jit(strategy.ask), jax.jit(strategy.tell)


def drive(strategy, loss, workers=1, seed=0, programs=None):
    """Asks while a worker is idle, tells running jobs in shuffled order; returns granted jobs, the state."""
    init, ask, tell = programs or compiled(strategy)
    rng = np.random.default_rng(seed)
    state, running, granted = init(jax.random.key(seed)), [], []
    while True:
        waits = False
        while len(running) < workers and not waits:
            job, after = ask(jax.random.key(len(granted)), state)
            job = Job(int(job.trial), int(job.source), np.asarray(job.x), int(job.until))
            waits = job.trial == NONE
            if waits:
                assert jax.tree.all(jax.tree.map(np.array_equal, state, after))
            else:
                granted.append(job)
                running.append(job)
            state = after
        if not running:
            return granted, state
        job = running.pop(rng.integers(len(running)))
        value = np.float64(loss(job.trial, job.until))
        done = Job(np.int32(job.trial), np.int32(job.source), job.x, np.int32(job.until))
        state = tell(state, done, Feedback(value, 1.0))


@pytest.mark.parametrize(
    "max_epoch, budget, eta, rule",
    [
        (1, 7, 3, "algorithm1"),
        (27, 21.3, 3, "algorithm1"),
        (50, 20, 4, "table1"),
        (52, 9, 2, "algorithm1"),
        (81, 30, 3, "algorithm1"),
    ],
)
def test_jobs_are_those_of_the_pseudocode(max_epoch, budget, eta, rule):
    strategy = Hyperband(eta=eta, bracket_rule=rule, cube=CUBE, max_epoch=max_epoch, budget=budget)
    loss, programs = losses_of(max_epoch), compiled(strategy)
    want = expected(max_epoch, int(budget * max_epoch + 1e-9), eta, rule, loss)
    for workers in (1, 5):
        granted, _ = drive(strategy, loss, workers, programs=programs)
        assert [(j.trial, j.source, j.until) for j in granted] == want
    assert strategy.num_trials == 1 + max(trial for trial, _, _ in want)


def test_configurations_are_the_shared_design_and_stay():
    strategy = Hyperband(cube=CUBE, max_epoch=9, budget=7)
    granted, _ = drive(strategy, losses_of(1), workers=3, seed=4)
    design = np.asarray(CUBE.start(jax.random.key(4), strategy.num_trials))
    for job in granted:
        assert np.array_equal(job.x, design[job.trial])


def test_one_epoch_is_random_search_and_keeps_every_worker_busy():
    strategy = Hyperband(cube=CUBE, max_epoch=1, budget=6)
    init, ask, _ = compiled(strategy)
    state, trials = init(jax.random.key(0)), []
    for _ in range(6):  # nothing is ever told
        job, state = ask(jax.random.key(0), state)
        trials.append(int(job.trial))
    assert trials == list(range(6))


def test_a_larger_budget_begins_with_the_same_jobs():
    make = partial(Hyperband, cube=CUBE, max_epoch=27)
    small, large = (drive(make(budget=b), losses_of(3))[0] for b in (6, 12))
    assert len(large) > len(small)
    for a, b in zip(small, large, strict=False):
        assert a[:2] == b[:2] and a.until == b.until and np.array_equal(a.x, b.x)


def test_the_end_waits_and_a_tell_of_none_changes_nothing():
    strategy = Hyperband(cube=CUBE, max_epoch=9, budget=3)
    init, ask, tell = programs = compiled(strategy)
    _, state = drive(strategy, losses_of(2), programs=programs)
    job, after = ask(jax.random.key(9), state)
    assert int(job.trial) == NONE and int(job.source) == NONE and int(job.until) == 0
    told = tell(state, job, Feedback(np.float64(-5.0), np.float64(1.0)))
    fresh = init(jax.random.key(0))
    told_first = tell(fresh, job, Feedback(np.float64(-5.0), np.float64(1.0)))
    for a, b in [(state, after), (state, told), (fresh, told_first)]:
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for left, right in zip(a, b, strict=True):
            assert left.dtype == right.dtype and np.array_equal(left, right)


def test_what_a_budget_means():
    def describe(r, b, **more):
        return Hyperband(cube=CUBE, max_epoch=r, budget=b, **more).describe()

    assert describe(81, 30) == (
        "hyperband: 30 trainings = 2,430 epochs: all five brackets once (143 configurations), "
        "then part of a second round"
    )
    assert describe(81, 1) == (
        "hyperband: 1 training = 81 epochs: part of the first of five brackets (81 configurations)"
    )
    assert describe(81, 8) == (
        "hyperband: 8 trainings = 648 epochs: the first two of five brackets (115 configurations), "
        "then part of the next"
    )
    assert describe(81, 39.04) == (
        "hyperband: 39.04 trainings = 3,162 epochs: all five brackets twice (286 configurations)"
    )
    assert describe(1, 5).endswith("random search of 5 configurations")


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"eta": 1}, "eta must be an integer of at least 2, got 1"),
        ({"eta": 2.5}, "got 2.5"),
        ({"min_epoch": 0}, "min_epoch must be an integer from 1 to max_epoch=9, got 0"),
        ({"min_epoch": 10}, "got 10"),
        ({"bracket_rule": "table2"}, "algorithm1 or table1, got 'table2'"),
        ({"budget": 0.05}, "budget must pay for a job of 1 of 9 epochs, got 0.05"),
    ],
)
def test_bad_settings_are_named(bad, says):
    with pytest.raises(ValueError, match=says):
        Hyperband(**({"cube": CUBE, "max_epoch": 9, "budget": 3} | bad))
