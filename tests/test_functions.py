"""Test functions and boxes against their published optima and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogates.boxes import Box
from surrogates.functions import Function

OPTIMA = {
    "branin": (2, 0.397887358),
    "hartmann3": (3, -3.862779787),
    "hartmann6": (6, -3.322368011),
    "ackley": (5, 0.0),
    "rosenbrock": (4, 0.0),
    "levy": (8, 0.0),
    "griewank": (6, 0.0),
    "rastrigin": (4, 0.0),
    "styblinski_tang": (5, -39.166165704 * 5),
    "sphere": (3, 0.0),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def function(name, **settings):
    d = OPTIMA[name][0]
    fixed = name in ("branin", "hartmann3", "hartmann6")
    return Function(name=name, dimension=None if fixed else d, **settings)


def values(objective, instance, hp):
    """Losses of hp, a dict of columns."""
    key, start, until = jax.random.key(0), jnp.int32(0), jnp.int32(1)
    return jax.vmap(lambda h: objective.train(instance, key, (), h, start, until)[1])(hp)


def at(objective, instance, x):
    """Losses at unit-cube points x f32[n, d]."""
    return values(objective, instance, jax.vmap(objective.space.decode_array)(x))


@pytest.mark.parametrize("name", OPTIMA)
def test_optimum_is_published_attained_and_never_undercut(name):
    d, optimum = OPTIMA[name]
    plain, moved = function(name, shift=False), function(name)
    assert moved.space.dimension == d

    @jax.jit
    def look(key):
        x = jax.random.uniform(key, (5000, d), jnp.float32)
        out = []
        for objective in (plain, moved):
            instance = objective.draw(key)
            best = objective.minimiser + instance.shift
            near = best + 1e-3 * jax.random.normal(key, (500, d), jnp.float64)
            rows = jnp.concatenate([best[None], near])
            hp = {f"x{i}": rows[:, i] for i in range(d)}
            reference = objective.reference(instance)
            lowest = jnp.minimum(values(objective, instance, hp).min(), at(objective, instance, x).min())
            exact = values(objective, instance, {n: v[:1] for n, v in hp.items()})[0]
            out.append((reference.optimum_static, exact, lowest, best))
        return out

    places = []
    low, high = np.array([a.edges for a in plain.space.axes.values()]).T
    for seed in range(4):
        for known, exact, lowest, best in look(jax.random.key(seed)):
            assert known.dtype == exact.dtype == jnp.float64
            np.testing.assert_allclose(known, optimum, atol=1e-6)
            np.testing.assert_allclose(exact, known, atol=1e-12 * max(1, abs(optimum)))
            assert lowest >= known - 1e-12 * max(1, abs(optimum))
            place = (np.asarray(best) - low) / (high - low)
            assert (place > 0.05 - 1e-9).all() and (place < 0.95 + 1e-9).all()
            places.append(place)
    assert np.ptp(np.array(places[1::2]), axis=0).min() > 0.02, "each instance has its optimum elsewhere"


@pytest.mark.parametrize(
    ("name", "values_at"),
    [
        ("branin", {(-np.pi, 12.275): 0.397887358, (3 * np.pi, 2.475): 0.397887358, (-5.0, 0.0): 308.129096}),
        ("hartmann6", {(0.4047, 0.8824, 0.8461, 0.5740, 0.1389, 0.0385): -3.203161918}),
        ("levy", {(1.0,) * 7 + (2.0,): (1 / 16) * 2}),
        ("rosenbrock", {(0.0,) * 4: 3.0, (2.0, 1.0, 1.0, 1.0): 901.0}),
        ("rastrigin", {(1.0, 0.5, 0.0, 0.0): 1.0 + 0.25 + 20.0}),
        ("ackley", {(1.0,) * 5: 20 * (1 - np.exp(-0.2))}),
        ("griewank", {(np.pi, 0, 0, 0, 0, 0): np.pi**2 / 4000 + 2}),
    ],
)
def test_values_by_hand(name, values_at):
    objective = function(name, shift=False)
    rows = jnp.array(list(values_at), jnp.float64)
    hp = {f"x{i}": rows[:, i] for i in range(rows.shape[1])}
    got = values(objective, objective.draw(jax.random.key(0)), hp)
    np.testing.assert_allclose(got, list(values_at.values()), rtol=1e-6)


@pytest.mark.parametrize(("name", "regret"), [("branin", 1.02), ("hartmann3", 0.419), ("hartmann6", 1.566)])
def test_random_search_best_of_fifty(name, regret):
    """2,000 seeds of 50 trials; the standard error is 1 to 2 %, the tolerance 5 %."""
    objective = function(name, shift=False)
    instance = objective.draw(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (100_000, objective.space.dimension), jnp.float32)
    loss = jax.jit(lambda x: at(objective, instance, x))(x)
    best = np.asarray(loss).reshape(2000, 50).min(1) - objective.optimum
    assert best.mean() == pytest.approx(regret, rel=0.05)


def test_sublevel_volume_of_branin_and_the_geometric_law():
    objective = function("branin", shift=False)
    instance = objective.draw(jax.random.key(0))
    side = (jnp.arange(1000, dtype=jnp.float32) + 0.5) / 1000
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    look = jax.jit(lambda x: at(objective, instance, x))
    p = float((look(grid) < objective.optimum + 0.1).mean())
    assert p == pytest.approx(0.00192, abs=1e-5)
    # Share of random searches of n trials that hit: 1 - (1-p)^n, at 4 sigma, 1,000 searches.
    x = jax.random.uniform(jax.random.key(2), (1_000_000, 2), jnp.float32)
    hit = np.asarray(look(x) < objective.optimum + 0.1).reshape(1000, 1000)
    for n in (100, 300, 1000):
        law = 1 - (1 - p) ** n
        assert abs(hit[:, :n].any(1).mean() - law) < 4 * np.sqrt(law * (1 - law) / 1000)


def test_extra_axes_do_not_matter_and_move_with_the_instance():
    objective = Function("low", function="branin", extra=3)
    assert objective.space.names == [f"x{i}" for i in range(5)]
    draw = jax.jit(jax.vmap(objective.draw))
    instances = draw(jax.random.split(jax.random.key(0), 200))
    order = np.asarray(instances.order)
    assert (order[:, 0] != order[:, 1]).all()
    counts = np.bincount(order.ravel(), minlength=5)
    assert (np.abs(counts - 80) < 4 * np.sqrt(200 * 0.4 * 0.6)).all(), "4 sigma"

    instance = jax.tree.map(lambda a: a[0], instances)
    x = jax.random.uniform(jax.random.key(1), (2, 64, 5), jnp.float32)
    other = x[0].at[:, order[0]].set(x[1][:, order[0]])
    loss = jax.jit(lambda x: at(objective, instance, x))
    mixed = x[1].at[:, order[0]].set(x[0][:, order[0]])
    np.testing.assert_array_equal(loss(x[0]), loss(mixed))
    assert (np.asarray(loss(x[0])) != np.asarray(loss(other))).all()
    best = (objective.minimiser + instance.shift - np.array([-5, 0])) / 15
    hp = {f"x{i}": jnp.full((1,), 0.3, jnp.float64) for i in range(5)}
    hp |= {f"x{a}": best[i][None] for i, a in enumerate(order[0])}
    np.testing.assert_allclose(values(objective, instance, hp)[0], objective.optimum, atol=1e-12)


@pytest.mark.parametrize("elongated", [False, True])
def test_random_hits_the_box_as_its_volume_says(elongated):
    """Bergstra and Bengio's figure: 64 trials in three dimensions hit 1 % with 1 - .99^64 = .474."""
    box = Box(elongated=elongated)

    @jax.jit
    @jax.vmap
    def run(key):
        instance = box.draw(key)
        x = jax.random.uniform(jax.random.fold_in(key, 1), (64, 3), jnp.float32)
        side = instance.high - instance.low
        middle = {f"x{i}": (instance.low + instance.high)[i : i + 1] / 2 for i in range(3)}
        return at(box, instance, x), side, values(box, instance, middle)[0]

    loss, side, inside = map(np.asarray, run(jax.random.split(jax.random.key(5), 4000)))
    assert (loss == 0).any(1).mean() == pytest.approx(0.474, abs=0.03)  # 3.8 sigma
    np.testing.assert_allclose(side.prod(1), 0.01, rtol=1e-9)
    assert (inside == 0).all() and (np.ptp(side, axis=1).mean() > 0.1) == elongated
    missed = loss[loss != 0]
    assert missed.min() >= 0.5 and missed.max() < 1.0
    # Near-optimal, 5 % of the gap to the median, is the box and nothing beside it.
    assert 0.05 * np.median(missed) < missed.min()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Function("brannin"), "brannin"),
        (lambda: Function("branin", dimension=3), "must be 2, got 3"),
        (lambda: Function("rosenbrock", dimension=1), "at least 2, got 1"),
        (lambda: Function("ackley", extra=-1), "at least 0, got -1"),
        (lambda: Box(volume=1.5), "got 1.5"),
        (lambda: Box(dimension=0), "got 0"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()
