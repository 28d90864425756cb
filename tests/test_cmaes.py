"""CMA-ES against the package cmaes (Optuna's), its parameters and an update step against it exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.protocols import NONE, Feedback
from bench.space import Choice, Float, Int, Space
from strategies.cmaes import CMAES, parameters

OPTIMUM = np.array([0.7, 0.35, 0.6, 0.45, 0.3, 0.5, 0.55, 0.4, 0.65, 0.38])
# On y = 8 (x - optimum), rosenbrock's with its optimum at 1: smooth, badly scaled, curved.
FUNCTIONS = {
    "sphere": lambda y, np: np.sum(y**2, -1),
    "ellipsoid": lambda y, np: np.sum(10 ** (4 * np.arange(y.shape[-1]) / (y.shape[-1] - 1)) * y**2, -1),
    "rosenbrock": lambda y, np: np.sum(
        100 * (y[..., 1:] + 1 - (y[..., :-1] + 1) ** 2) ** 2 + y[..., :-1] ** 2, -1
    ),
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def cube(d):
    return Space({f"x{i}": Float(0.0, 1.0) for i in range(d)}).cube()


def evolve(strategy, function, seeds=64):
    """Losses f64[seeds, trials] of runs told at once, and the last states."""

    def run(seed):
        key = jax.random.key(seed)

        def turn(state, k):
            job, state = strategy.ask(jax.random.fold_in(key, 1 + k), state)
            loss = function(job.x)
            return strategy.tell(state, job, Feedback(loss, jnp.float64(1.0))), loss

        return jax.lax.scan(turn, strategy.init(key), jnp.arange(strategy.num_trials, dtype=jnp.uint32))

    state, losses = jax.jit(jax.vmap(run))(jnp.arange(seeds, dtype=jnp.uint32))
    return np.asarray(losses), state


def library(d, population=None, seed=0, **more):
    cmaes = pytest.importorskip("cmaes")
    bounds = np.tile([0.0, 1.0], (d, 1))
    return cmaes.CMA(
        np.full(d, 0.5),
        0.3,
        bounds=bounds,
        n_max_resampling=10,
        seed=seed,
        population_size=population,
        **more,
    )


@pytest.mark.parametrize("d, population", [(1, None), (2, None), (5, None), (8, 9), (11, None), (40, 30)])
def test_the_parameters_are_the_packages(d, population):
    if d == 1:  # the package wants two axes: by hand, from table 1
        p = parameters(jnp.int32(1), jnp.int32(4), 6)
        weight = np.log(2.5) - np.log([1.0, 2.0])
        np.testing.assert_allclose(p.weight[:2], weight / weight.sum())
        return
    peer = library(d, population)
    strategy = CMAES(population, cube=cube(d), max_epoch=1, budget=10)
    size = int(strategy._size)
    assert size == peer.population_size
    p = parameters(strategy._axes, strategy._size, strategy._rows)
    np.testing.assert_allclose(p.weight[:size], peer._weights, rtol=1e-12)
    assert np.all(np.asarray(p.weight[size:]) == 0)
    ours = [p.mass, p.c_sigma, p.damping, p.c_path, p.c_one, p.c_mu, p.length]
    theirs = [peer._mu_eff, peer._c_sigma, peer._d_sigma, peer._cc, peer._c1, peer._cmu, peer._chi_n]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_generations_move_the_distribution_as_the_packages_do():
    """The same points and losses are told to both."""
    d, peer = 5, library(5)
    strategy = CMAES(start="default", cube=cube(d), max_epoch=1, budget=800)
    state, ask, tell = strategy.init(jax.random.key(0)), jax.jit(strategy.ask), jax.jit(strategy.tell)
    for generation in range(30):
        told = []
        for _ in range(peer.population_size):
            job, state = ask(jax.random.fold_in(jax.random.key(1), len(told) + 100 * generation), state)
            x = np.asarray(job.x[:d], np.float64)
            told.append((x, FUNCTIONS["rosenbrock"](8 * (x - OPTIMUM[:d]), np)))
            state = tell(state, job, Feedback(np.float64(told[-1][1]), np.float64(1.0)))
        peer.tell(told)
        np.testing.assert_allclose(state.mean[:d], peer.mean, rtol=1e-6)
        np.testing.assert_allclose(state.sigma, peer._sigma, rtol=1e-6)
        np.testing.assert_allclose(state.covariance[:d, :d], peer._C, rtol=1e-5, atol=1e-8)
    assert np.array_equal(state.covariance[d:, d:], np.eye(strategy.cube.width - d))
    assert state.sigma < 0.2


@pytest.mark.parametrize(
    "name, d, trials", [("sphere", 5, 320), ("ellipsoid", 10, 800), ("rosenbrock", 5, 480)]
)
def test_it_gets_as_far_as_the_package(name, d, trials):
    """Medians of log10 of the best loss over 64 seeds; the bootstrap's 99.9 % interval of their difference
    holds 0."""
    function, seeds = FUNCTIONS[name], 64
    library(d)
    strategy = CMAES(start="default", cube=cube(d), max_epoch=1, budget=trials)
    shift = jnp.asarray(OPTIMUM[:d])
    losses, _ = evolve(strategy, lambda x: function(8 * (x[:d].astype(jnp.float64) - shift), jnp), seeds)
    ours, theirs = np.log10(losses.min(1)), []
    for seed in range(seeds):
        peer, best = library(d, seed=seed), np.inf
        for _ in range(trials // peer.population_size):
            x = np.array([peer.ask() for _ in range(peer.population_size)])
            values = function(8 * (x - OPTIMUM[:d]), np)
            peer.tell(list(zip(x, values, strict=True)))
            best = min(best, values.min())
        theirs.append(np.log10(best))
    rng = np.random.default_rng(0)
    gap = [np.median(rng.choice(a, (4000, seeds)), 1) for a in (ours, np.array(theirs))]
    low, high = np.quantile(gap[0] - gap[1], [0.0005, 0.9995])
    assert low < 0 < high


@pytest.mark.slow
def test_failures_are_worst_and_a_generation_of_them_moves_nothing():
    strategy = CMAES(cube=cube(3), max_epoch=1, budget=700)
    plain = evolve(strategy, lambda x: jnp.sum((x[:3] - 0.6).astype(jnp.float64) ** 2), 4)[0]

    def half(x):
        return jnp.where(x[0] < 0.5, jnp.nan, jnp.sum((x[:3] - 0.6).astype(jnp.float64) ** 2))

    losses, state = evolve(strategy, half, 4)
    assert (np.nanmin(losses, 1) < 1e-9).all() and (plain.min(1) < 1e-9).all()
    assert np.isnan(losses[:, -50:]).mean() < 0.2
    _, state = evolve(strategy, lambda x: jnp.float64(jnp.inf), 2)
    assert (state.generation == 100).all() and (state.sigma == 0.3).all() and (state.mean == 0.5).all()
    assert np.array_equal(state.covariance[0], np.eye(8))


def test_the_first_generation_is_the_shared_design_and_a_generation_is_waited_for():
    strategy = CMAES(cube=cube(4), max_epoch=7, budget=30)
    state, ask, tell = strategy.init(jax.random.key(2)), jax.jit(strategy.ask), jax.jit(strategy.tell)
    jobs = []
    for k in range(8):
        job, state = ask(jax.random.key(k), state)
        jobs.append(job)
    assert [int(j.trial) for j in jobs] == [*range(8)]
    assert np.array_equal(np.stack([j.x for j in jobs]), strategy.cube.start(jax.random.key(2), 8))
    for job in jobs[::-1]:
        assert int(ask(jax.random.key(9), state)[0].trial) == NONE
        state = tell(state, job, Feedback(jnp.sum(job.x).astype(jnp.float64), 1.0))
    job, _ = ask(jax.random.key(9), state)
    assert int(job.trial) == 8 and int(job.until) == 7 and int(job.source) == NONE
    best = sorted(range(8), key=lambda k: float(jnp.sum(jobs[k].x)))[:4]
    weight = np.log(4.5) - np.log([1, 2, 3, 4])
    np.testing.assert_allclose(
        state.mean, weight / weight.sum() @ np.stack([jobs[k].x for k in best]), rtol=1e-6
    )
    assert not np.array_equal(strategy.cube.start(jax.random.key(2), 9)[8], job.x)


def test_discrete_axes_are_rounded_and_reached():
    space = Space(
        {
            "x": Float(0.0, 1.0, default=0.2),
            "n": Int(1, 64, log=True),
            "size": Choice(("s", "m", "l"), ordered=True),
            "kind": Choice(("a", "b", "c", "d")),
        }
    )
    strategy = CMAES(cube=space.cube(), max_epoch=1, budget=400)
    default = CMAES(start="default", cube=space.cube(), max_epoch=1, budget=8)
    assert np.array_equal(default.init(jax.random.key(0)).mean, space.cube().default.astype(np.float64))

    def loss(x):
        hp = space.decode_array(x)
        assert x.shape == (8,)
        gap = jnp.log(hp["n"] / 12.0) ** 2 + (hp["size"] - 2) ** 2 + (hp["kind"] != 1)
        wrong = jnp.any(x != strategy.cube.snap(x))
        return (gap + (hp["x"] - 0.3) ** 2).astype(jnp.float64) + 100.0 * wrong

    losses, _ = evolve(strategy, loss)
    assert losses.max() < 100
    assert np.mean(losses.min(1) < 1e-6) > 0.7  # of 64; the rest hold on to another kind


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"budget": 0.5}, "budget must be at least 1 full training, got 0.5"),
        ({"population": 3}, "population must be an integer of at least 4, got 3"),
        ({"sigma": 0.0}, "sigma must lie in"),
        ({"start": "middle"}, "start must be one of design, default, got 'middle'"),
    ],
)
def test_bad_settings_are_named(bad, says):
    with pytest.raises(ValueError, match=says):
        partial(CMAES, cube=cube(2), max_epoch=9)(**{"budget": 4} | bad)


def test_what_the_budget_means():
    make = partial(CMAES, cube=cube(2), max_epoch=9, budget=20)
    assert make().describe() == "cmaes: 20 full trainings, in generations of 4 + floor(3 ln d)"
    assert make(12).describe() == "cmaes: 20 full trainings, in generations of 12"
