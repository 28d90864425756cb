"""The strategies that do not learn: defaults, grid, random search (uniform and Sobol)."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, qmc

from bench.protocols import NONE, Feedback, Job
from bench.space import Choice, Float, Int, Space
from strategies.defaults import Defaults
from strategies.grid import Grid, level_counts, level_points
from strategies.random_search import RandomSearch, scramble, sobol_integers

MIXED = Space(
    {
        "rate": Float(1e-5, 1.0, log=True),
        "width": Int(1, 100, log=True),
        "kind": Choice(("a", "b", "c")),
        "drop": Float(0.0, 0.5, default=0.1),
        "layers": Int(1, 4),
        "flag": Choice((False, True), ordered=True),
    }
)
REAL = Space({f"x{i}": Float(0.0, 1.0) for i in range(6)})
SETTINGS = [(Defaults, {}), (Grid, {}), (RandomSearch, {}), (RandomSearch, {"design": "sobol"})]


def keys(n):
    return jax.vmap(lambda i: jax.random.key(i, impl="threefry2x32"))(jnp.arange(n))


def inits(strategy, n):
    """The states of n seeds, as the driver makes them: the cube traced, 64-bit mode on."""
    with jax.enable_x64(True):
        each = jax.vmap(lambda k, c: dataclasses.replace(strategy, cube=c).init(k), in_axes=(0, None))
        return jax.tree.map(np.asarray, jax.jit(each)(keys(n), strategy.cube))


def most_even(limits, budget):
    """By brute force: of all level counts within limits and budget, the one whose sorted counts come last."""
    tables = [()]
    for n in limits:
        tables = [(*t, g) for t in tables for g in range(1, min(n, budget // math.prod(t)) + 1)]
    return max(map(sorted, tables))


@pytest.fixture(scope="module")
def counts():
    """Level counts of 20 seeds, i32[20, d]: one program for all cases, since padded axes have one level."""
    program = jax.jit(jax.vmap(level_counts, in_axes=(None, 0, None)))
    generator = np.random.default_rng(0)
    ranks = np.array([generator.permutation(6) for _ in range(20)], np.int32)

    def of(limits, budget):
        padded = np.array([*limits, *[1] * (6 - len(limits))], np.int32)
        found = np.asarray(program(padded, ranks, np.int32(budget)))
        assert (found[:, len(limits) :] == 1).all()
        return found[:, : len(limits)]

    return of


@pytest.mark.parametrize(("d", "budget"), [(1, 7), (2, 8), (2, 50), (3, 32), (4, 50), (6, 20)])
def test_level_counts_are_the_most_even_ones(counts, d, budget):
    found = counts([budget] * d, budget)
    assert (np.sort(found, axis=1) == most_even([budget] * d, budget)).all()
    if d > 1 and len(set(found[0])) > 1:
        assert len({tuple(row) for row in found}) > 1, "which axes are finer is drawn per seed"


@pytest.mark.parametrize(("limits", "budget"), [((2, 3, 50, 50), 50), ((2, 64, 1), 64), ((3, 3, 2, 4), 100)])
def test_level_counts_keep_to_the_number_of_values(counts, limits, budget):
    found = counts(limits, budget)
    assert (found <= limits).all() and (found.prod(1) <= budget).all()
    assert most_even(limits, budget) in np.sort(found, axis=1).tolist()
    for row in found:  # no axis can be made finer, not even at the expense of one two levels finer
        for i in np.flatnonzero(row < limits):
            more = row.copy()
            more[i] += 1
            assert more.prod() > budget
            for j in np.flatnonzero(row > row[i] + 1):
                assert more.prod() // more[j] * (more[j] - 1) > budget


@pytest.mark.parametrize("budget", [2, 50])
def test_a_grid_is_a_full_product_of_distinct_values(budget):
    state = inits(Grid(cube=MIXED.cube(), max_epoch=3, budget=budget), 20)
    orders = set()
    for points, count in zip(state.points, state.count, strict=True):
        assert 2 <= count <= budget, "never a single point"
        configurations = [tuple(MIXED.decode(x).values()) for x in points[:count]]
        assert len(set(configurations)) == count
        levels = [sorted({c[i] for c in configurations}) for i in range(6)]
        assert math.prod(map(len, levels)) == count
        assert set(configurations) == set(itertools.product(*levels))
        assert (points[:, 6:] == 0.5).all()
        orders.add(configurations[0])
    assert len(orders) > 10 or budget == 2


def test_levels_lie_at_i_plus_offset_over_g():
    state = inits(Grid(offset="centre", cube=REAL.cube(), max_epoch=1, budget=729), 1)
    assert np.allclose(np.unique(state.points[0, :, :6]), [1 / 6, 3 / 6, 5 / 6])
    state = inits(Grid(cube=REAL.cube(), max_epoch=1, budget=64), 400)
    offsets = np.sort(state.points[:, :, 0], axis=1)[:, 0] * 2
    assert np.allclose(np.sort(state.points[:, :, 0], axis=1)[:, -1] * 2 - 1, offsets, atol=1e-6)
    assert kstest(offsets, "uniform").pvalue > 0.003  # 3 sigma, seeds 0..399
    # The order is random: the first point is as often on a low as on a high level (4 sigma).
    low = (state.points[:, 0, :6] < 0.5).sum()
    assert abs(low - 1200) < 4 * math.sqrt(2400) / 2


def test_levels_of_a_log_integer_axis_are_different_integers():
    cube = Space({"n": Int(1, 100, log=True)}).cube()
    for g in (2, 5, 20, 99, 100):
        counts = jnp.asarray([g] + [1] * 7, jnp.int32)
        for offset in (0.0, 0.5, 0.999):
            x = level_points(cube, counts, jnp.full((8,), offset, jnp.float32), 100)
            values = [Int(1, 100, log=True).decode(u) for u in np.asarray(x)[:g, 0]]
            assert values == sorted(set(values)) and values[0] >= 1 and values[-1] <= 100


def test_uniform_is_the_shared_start_and_uniform():
    state = inits(RandomSearch(cube=REAL.cube(), max_epoch=1, budget=50.9), 64)
    with jax.enable_x64(True):
        assert (state.points[3] == np.asarray(REAL.cube().start(keys(64)[3], 50))).all()
    x = state.points[:, :, :6].astype(np.float64)
    assert kstest(x.ravel(), "uniform").pvalue > 0.003  # 3 sigma, seeds 0..63
    correlation = np.corrcoef(x.reshape(-1, 6).T)[np.triu_indices(6, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(x.size / 6)  # 4 sigma for each of 15 pairs


def test_unscrambled_sobol_is_scipys():
    ours = sobol_integers(37, 8) / 2**24
    assert (ours == qmc.Sobol(8, scramble=False).random_base2(6)[:37]).all()
    assert sobol_integers(1, 40).shape == (1, 40)


def test_scrambled_sobol_is_a_net_and_as_even_as_scipys():
    with jax.enable_x64(True):
        one = jax.jit(jax.vmap(lambda k: scramble(k, jnp.asarray(sobol_integers(64, 8)))))
        x = np.asarray(one(keys(200)))
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() < 1
    strata = np.sort((x * 64).astype(int), axis=1)
    assert (strata == np.arange(64)[None, :, None]).all(), "one point in each of 64 strata of every axis"
    # The first two axes are a (0, 6, 2)-net: each of the dyadic boxes of area 1/64 holds one point.
    for a in range(7):
        box = (x[:, :, 0] * 2**a).astype(int) * 2 ** (6 - a) + (x[:, :, 1] * 2 ** (6 - a)).astype(int)
        assert (np.sort(box, axis=1) == np.arange(64)).all()
    # One by one uniform (3 sigma, seeds 0..199), lanes different.
    for k in (0, 1, 37):
        assert kstest(x[:, k].ravel(), "uniform").pvalue > 0.003
    ours = [qmc.discrepancy(p.astype(np.float64), method="CD") for p in x[:40]]
    theirs = [qmc.discrepancy(qmc.Sobol(8, rng=s).random(64), method="CD") for s in range(40)]
    error = math.hypot(np.std(ours), np.std(theirs)) / math.sqrt(40)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error  # 4 sigma
    uniform = np.random.default_rng(0).random((40, 64, 8))
    assert max(ours) < min(qmc.discrepancy(p, method="CD") for p in uniform)


def test_anytime_designs_are_prefixes():
    search = RandomSearch(design="sobol", cube=REAL.cube(), max_epoch=1, budget=20)
    short, long = inits(dataclasses.replace(search, budget=10), 2), inits(search, 2)
    assert (short.points == long.points[:, :10]).all()  # uniform: cube.start's own property


@pytest.mark.parametrize(("cls", "settings"), SETTINGS)
def test_each_point_is_trained_once_in_full_then_it_waits(cls, settings):
    strategy = cls(**settings, cube=MIXED.cube(), max_epoch=3, budget=7.5)
    count = 1 if cls is Defaults else 6 if cls is Grid else 7
    with jax.enable_x64(True):
        key = keys(1)[0]
        state = start = jax.jit(strategy.init)(key)
        ask, tell = jax.jit(strategy.ask), jax.jit(strategy.tell)
        jobs = []
        for k in range(count):
            job, state = ask(key, state)
            assert (int(job.trial), int(job.source), int(job.until)) == (k, NONE, 3)
            assert job.x.dtype == jnp.float32 and job.trial.dtype == job.until.dtype == jnp.int32
            state = tell(state, job, Feedback(jnp.float64(jnp.nan), jnp.float64(1.0)))
            jobs.append(job)
        idle, after = ask(key, state)
        assert int(idle.trial) == NONE
        after = tell(after, idle, Feedback(jnp.float64(0.0), jnp.float64(0.0)))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
        # Told a trial made elsewhere, it goes on after it.
        elsewhere = Job(jnp.int32(0), jnp.int32(NONE), jobs[0].x, jnp.int32(3))
        told = tell(start, elsewhere, Feedback(jnp.float64(1.0), jnp.float64(1.0)))
        assert int(ask(key, told)[0].trial) == (NONE if cls is Defaults else 1)
    assert strategy.num_trials == (1 if cls is Defaults else 7)
    assert strategy.anytime is (cls is not Grid) and strategy.needs == frozenset()
    if cls is Defaults:
        assert MIXED.decode(jobs[0].x)["drop"] == pytest.approx(0.1)


@pytest.mark.parametrize(("cls", "settings"), [SETTINGS[1], SETTINGS[3]])
def test_a_seed_is_the_same_alone_and_beside_others(cls, settings):
    strategy = cls(**settings, cube=MIXED.cube(), max_epoch=3, budget=12)
    alone, beside = inits(strategy, 1), inits(strategy, 5)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(beside), strict=True):
        assert a[0].tobytes() == b[0].tobytes()
    assert (beside.points[0] != beside.points[1]).any()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (Defaults, {"budget": 0.5}, "budget must be at least 1 full training, got 0.5"),
        (RandomSearch, {"budget": float("nan")}, "budget must be"),
        (RandomSearch, {"design": "halton"}, "design must be one of uniform, sobol, got 'halton'"),
        (Grid, {"offset": 0.5}, "offset must be one of random, centre, got 0.5"),
    ],
)
def test_bad_settings_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**{"cube": MIXED.cube(), "max_epoch": 1, "budget": 8, **settings})


def test_grid_says_what_its_budget_means():
    grid = Grid(cube=REAL.cube(), max_epoch=1, budget=50)
    expected = "50 trainings = a grid of 3 x 2 x 2 x 2 x 2 x 1 = 48 points, 2 trainings left over"
    assert grid.describe() == expected
