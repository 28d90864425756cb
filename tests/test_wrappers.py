"""Wrappers: algebraic laws, optima against brute force, the contract, and entries of the command line."""

import dataclasses
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.contract import Probe, check_objective
from bench.drive import instance_key
from bench.reference import _optimum, settings_of
from bench.space import Choice, Float, Int
from nearopt import catalogue
from surrogates.curves import Curves
from surrogates.functions import Function
from surrogates.wrappers import (
    Discretised,
    Embedded,
    Infeasible,
    Noisy,
    Permuted,
    Priced,
    Rotated,
    Shifted,
    positions,
)

BRANIN, HARTMANN, CURVES = Function("branin"), Function("hartmann6"), Curves(max_epoch=9)
MIXED = Discretised((0, 6, 0, 5, 0, 4), ("int", "int", "int", "ordered", "int", "unordered"))
WRAPPERS = {
    "noisy": Noisy(0.1, 0.05, 0.05),
    "shifted": Shifted(),
    "permuted": Permuted(),
    "rotated": Rotated(),
    "discretised": Discretised(6),
    "embedded": Embedded(3),
    "infeasible": Infeasible(),
    "priced": Priced(),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnums=(0, 1))
def _look(objective, told, instance, x, keys, until):
    def one(u, key):
        hp = objective.space.decode_array(u)
        out = objective.train(instance, key, objective.init(instance, key), hp, jnp.int32(0), until)
        return out[1] if told else out[2]

    return jax.vmap(one)(x, keys)


def look(objective, instance, x, told=False, until=None):
    """True (or told) losses f64[n] at unit-cube points x f32[n, d], each of a trial of its own."""
    keys = jax.random.split(jax.random.key(0), len(x))
    end = jnp.int32(objective.max_epoch if until is None else until)
    return np.asarray(_look(objective, told, instance, jnp.asarray(x, jnp.float32), keys, end))


def uniform(objective, n, seed=1):
    return jax.random.uniform(jax.random.key(seed), (n, objective.space.dimension), jnp.float32)


@partial(jax.jit, static_argnums=0)
def _drawn(objective, index):
    return objective.draw(instance_key(index))


def drawn(objective, index=7):
    return _drawn(objective, jnp.uint32(index))


# The contract ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("base", [HARTMANN, CURVES], ids=lambda o: o.name)
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_objectives_keep_the_rules(name, base):
    wrapped = WRAPPERS[name](base)
    assert wrapped.name.startswith(f"{base.name}+{name}")
    assert check_objective(wrapped) == []
    hash(wrapped)


def test_a_noisy_mixed_space_keeps_the_rules():
    assert check_objective(Noisy()(MIXED(HARTMANN))) == []


@pytest.mark.slow
def test_all_of_them_over_a_training_process_keep_the_rules():
    objective = Curves(max_epoch=9, noise=0.0)
    for wrapper in (
        Rotated(), Permuted(), Shifted(), Embedded(2), Infeasible(), Discretised((4, 0, 0, 5, 0, 0)),
        Priced(), Noisy(),
    ):  # fmt: skip
        objective = wrapper(objective)
    assert check_objective(objective) == []


@pytest.mark.slow
def test_a_stack_over_a_mixed_training_process_that_offers_all_keeps_the_rules():
    stack = Priced()(Noisy()(Infeasible(0.3)(Shifted()(Probe()))))
    assert stack.offers == Probe().offers and stack.max_epoch == 9
    assert check_objective(stack) == []


def test_what_drivers_ask_for_is_there_only_where_the_base_has_it():
    class Dear(Probe):
        chunk, pool, reference_samples = 3, 8, 512

        def range_test(self, instance, key, hp, rates):
            return rates * instance[0]

        def make_reference_table(self):
            return {"settings": {}, "optimum_static": 0.5}

    dear = Dear()
    for wrapper in (Noisy(), Priced()):
        wrapped = wrapper(dear)
        assert (wrapped.chunk, wrapped.pool, wrapped.reference_samples) == (3, 8, 512)
        instance = drawn(wrapped)
        np.testing.assert_array_equal(
            wrapped.range_test(instance, None, {}, np.ones(2)), np.ones(2) * np.asarray(instance[0][0])
        )
        # The base's law holds, so its table does; under the wrapped objective's own settings.
        assert wrapped.make_reference_table() == {"settings": settings_of(wrapped), "optimum_static": 0.5}
        assert not hasattr(wrapped, "make_reference")
    grid = Discretised()(dear)
    for absent in ("range_test", "reference", "make_reference", "make_reference_table"):
        assert not hasattr(grid, absent)
    assert grid.chunk == 3 and grid.reference_samples == 256
    plain = Noisy()(BRANIN)
    assert not any(hasattr(plain, n) for n in ("chunk", "pool", "range_test", "reference_samples"))
    with pytest.raises(ValueError, match="draw and train"):
        Noisy()(object())


def test_settings_cover_base_and_wrapper():
    found = [
        settings_of(o)
        for o in (
            Noisy(0.1)(BRANIN),
            Noisy(0.2)(BRANIN),
            Noisy(0.1)(HARTMANN),
            Noisy(0.1)(Permuted()(BRANIN)),
        )
    ]
    assert len({str(f) for f in found}) == 4


def test_the_base_instance_is_that_of_the_bare_objective_and_parts_are_independent():
    bare = drawn(HARTMANN)
    stack = Permuted()(Noisy()(Permuted()(HARTMANN)))
    outer = drawn(stack)
    (inner, first), _ = outer[0]
    np.testing.assert_array_equal(inner.shift, bare.shift)
    alone = drawn(Permuted()(HARTMANN))
    np.testing.assert_array_equal(alone[1], first)
    # Two permutations of the same kind are different draws, and noise in between changes neither.
    np.testing.assert_array_equal(drawn(Permuted()(Permuted()(HARTMANN)))[1], outer[1])
    assert (np.asarray(outer[1]) != np.asarray(first)).any()


# Noise ----------------------------------------------------------------------------------------------------


def test_no_noise_is_the_identity():
    still = Noisy(0.0)(CURVES)
    x = uniform(CURVES, 64)
    a, b = (look(o, drawn(o), x, told=True) for o in (still, CURVES))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("base", "wrapper"),
    [
        (BRANIN, Noisy(0.3)),
        (BRANIN, Noisy(0.0, growth=0.5)),
        (Curves(max_epoch=9, noise=0.0, diverge=0.0), Noisy(0.0, relative=0.2)),
        (Curves(max_epoch=9, noise=0.0, diverge=0.0), Noisy(0.1, 0.2, 0.3)),
    ],
)
def test_noise_has_the_stated_standard_deviation(base, wrapper):
    """4,000 trials of three configurations; 4 sigma."""
    wrapped = wrapper(base)
    instance, n = drawn(wrapped), 4000
    optimum = float(base.reference(instance[0]).optimum_static)
    for x in uniform(base, 3):
        rows = jnp.tile(x, (n, 1))
        true = look(wrapped, instance, rows)
        assert np.ptp(true) == 0, "the referee's loss has no noise"
        np.testing.assert_array_equal(true, look(base, instance[0], rows))
        told = look(wrapped, instance, rows, told=True) - true
        parts = wrapper.sd, wrapper.growth * (true[0] - optimum), wrapper.relative * true[0]
        sd = math.hypot(*parts)
        assert abs(told.std() / sd - 1) < 4 / math.sqrt(2 * n)
        assert abs(told.mean()) < 4 * sd / math.sqrt(n)


def test_noise_is_the_trials_and_the_epochs_and_each_wrappers_own():
    """4,000 trials; correlations within 4 sigma."""
    base = Curves(max_epoch=9, noise=0.05, diverge=0.0)
    twice = Noisy(0.2)(Noisy(0.1)(base))
    instance = drawn(twice)
    rows = jnp.tile(uniform(base, 1), (4000, 1))
    last = look(twice, instance, rows, told=True) - look(twice, instance, rows)
    middle = look(twice, instance, rows, told=True, until=5) - look(twice, instance, rows, until=5)
    own = look(base, instance[0][0], rows, told=True) - look(base, instance[0][0], rows)
    assert abs(np.corrcoef(last, middle)[0, 1]) < 4 / math.sqrt(4000)
    assert abs(last.std() / math.hypot(0.2, 0.1, 0.05) - 1) < 4 / math.sqrt(8000)
    rest = last - own
    assert abs(np.corrcoef(rest, own)[0, 1]) < 4 / math.sqrt(4000)
    np.testing.assert_array_equal(last, look(twice, instance, rows, told=True) - look(twice, instance, rows))


def test_diverged_stays_infinite_under_noise():
    wrapped = Noisy(1.0, 1.0, 1.0)(Infeasible(0.4)(BRANIN))
    told = look(wrapped, drawn(wrapped), uniform(wrapped, 500), told=True)
    true = look(wrapped, drawn(wrapped), uniform(wrapped, 500))
    assert not np.isnan(told).any() and (told[np.isinf(true)] == np.inf).all()
    assert np.isinf(true).any() and np.isfinite(told[np.isfinite(true)]).all()


# Maps of the cube -----------------------------------------------------------------------------------------


def test_shifting_maps_the_cube_onto_itself_and_back():
    base = MIXED(HARTMANN)
    shifted = Shifted(2.0)(base)
    for index in range(4):
        part = drawn(shifted, index)[1]
        place = jax.jit(jax.vmap(lambda u, part=part: shifted.wrapper.place(base, part, u)))
        x = jax.vmap(lambda x: positions(base.space, base.space.decode_array(x)))(uniform(base, 2000))
        y = np.asarray(place(x))
        assert (y >= 0).all() and (y <= 1).all()
        for i, axis in enumerate(base.space.axes.values()):
            u, v = np.asarray(x[:, i]), y[:, i]
            if isinstance(axis, Float):
                # A shift of the logit, by the same amount everywhere, after a turn of the axis or not.
                with np.errstate(divide="ignore"):
                    logit = np.log(v / (1 - v))
                steps = [logit - s * np.log(u / (1 - u)) for s in (1, -1)]
                assert min(np.ptp(s) for s in steps) < 1e-6 and abs(steps[0].mean()) < 4
            else:
                pairs = set(zip(np.round(u, 6), np.round(v, 6), strict=True))
                assert len(pairs) == axis.levels == len({b for _, b in pairs}), "levels trade places"
                centres = {round((k + 0.5) / axis.levels, 6) for k in range(axis.levels)}
                assert {b for _, b in pairs} == centres
    still = Shifted(0.0, reflect=False)(base)
    x = uniform(base, 300)
    instance = drawn(still)
    np.testing.assert_allclose(look(still, instance, x), look(base, instance[0], x), atol=1e-5)


def test_shifting_moves_the_optimum_of_a_fixed_function():
    base = Function("sphere", dimension=2, shift=False)
    shifted = Shifted()(base)
    x = uniform(base, 20_000)
    places = np.array([np.asarray(x)[look(shifted, drawn(shifted, i), x).argmin()] for i in range(8)])
    assert np.ptp(places, axis=0).min() > 0.2
    assert (np.abs(places - 0.5) < 1 / (1 + math.exp(-1)) - 0.5 + 0.02).all(), (
        "at most by, on the logit scale"
    )


def test_permuting_and_permuting_back():
    wrapped = Permuted()(HARTMANN)
    inner, order = drawn(wrapped)
    assert sorted(np.asarray(order)) == list(range(6))
    twice = Permuted()(wrapped)
    back = jnp.argsort(order).astype(jnp.int32)
    x = uniform(HARTMANN, 500)
    # The outer one is applied to what the strategy asks, the inner one to what comes of it.
    undone = look(twice, ((inner, order), back), x)
    np.testing.assert_allclose(undone, look(HARTMANN, inner, x), rtol=1e-5)
    moved = look(wrapped, (inner, order), x)
    np.testing.assert_allclose(moved, look(HARTMANN, inner, x[:, order]), rtol=1e-5)


def test_only_axes_that_are_alike_trade_places():
    base = MIXED(HARTMANN)
    groups = Permuted().groups(base)
    assert groups == [[0, 2, 4]]
    for index in range(5):
        order = np.asarray(drawn(Permuted()(base), index)[1])
        assert (order[[1, 3, 5]] == [1, 3, 5]).all()
    with pytest.raises(ValueError, match="two axes that are alike, curves has none"):
        Permuted()(Curves(dimension=2))


def test_a_sphere_about_its_centre_is_unchanged_by_rotation():
    base = Function("sphere", dimension=5, shift=False)
    rotated = Rotated()(base)
    x = np.asarray(jax.random.normal(jax.random.key(0), (500, 5)))
    # Inside the ball of radius .5 nothing leaves the cube.
    x = 0.5 + 0.5 * x / np.linalg.norm(x, axis=1, keepdims=True) * np.linspace(0, 1, 500)[:, None]
    x = jnp.asarray(x, jnp.float32)
    for index in range(3):
        inner, matrix = drawn(rotated, index)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-12)
        a = look(rotated, (inner, matrix), x)
        np.testing.assert_allclose(a, look(base, inner, x), rtol=1e-4, atol=1e-6)
    # A function that is not round does change; turning back undoes it.
    round_not = Function("hartmann6", shift=False)
    once = Rotated()(round_not)
    inner, matrix = drawn(once)
    y = 0.5 + 0.2 * (uniform(round_not, 200) - 0.5)
    there = look(once, (inner, matrix), y)
    assert (np.abs(there - look(round_not, inner, y)) > 1e-3).mean() > 0.5
    back = look(Rotated()(once), ((inner, matrix), matrix.T), y)
    np.testing.assert_allclose(back, look(round_not, inner, y), rtol=1e-4, atol=1e-6)


def test_rotations_are_uniform():
    """1,000 matrices: entries have mean 0, variance 1/d, within 4 sigma; half have determinant 1."""
    base = Function("sphere", dimension=3)
    rotated = Rotated()(base)
    q = np.asarray(jax.vmap(lambda i: rotated.wrapper.draw(base, instance_key(i)))(jnp.arange(1000)))
    n, d = 1000, 3
    assert (np.abs(q.mean(0)) < 4 / math.sqrt(d * n)).all()
    fourth = 3 / (d * (d + 2)) - 1 / d**2  # variance of the square of an entry
    assert (np.abs((q**2).mean(0) - 1 / d) < 4 * math.sqrt(fourth / n)).all()
    assert abs((np.linalg.det(q) > 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("kind", ["int", "ordered"])
def test_many_levels_tend_to_the_base(kind):
    x = uniform(BRANIN, 1000)
    inner = drawn(BRANIN)
    base = look(BRANIN, inner, x)
    errors = []
    for levels in (8, 64, 512):
        grid = Discretised(levels, kind)(BRANIN)
        errors.append(np.abs(look(grid, (inner, ()), x) - base).max() / np.ptp(base))
    # Halves of a step times the slope: eight times the levels, an eighth of the error.
    assert errors[0] > 0.05 and errors[1] < errors[0] / 4 and errors[2] < errors[1] / 4


def test_levels_are_middles_of_their_bins():
    grid = MIXED(HARTMANN)
    axes = list(grid.space.axes.values())
    assert [type(a) for a in axes] == [Float, Int, Float, Choice, Float, Choice]
    assert axes[3].values == (0.1, 0.3, 0.5, 0.7, 0.9) and axes[3].ordered and not axes[5].ordered
    instance = drawn(grid)
    means = np.asarray(instance[1][0])
    assert sorted(means) == [0, 1, 2, 3]
    config = {"x0": 0.3, "x1": 2, "x2": 0.9, "x3": 0.3, "x4": 0.1, "x5": "c1"}
    x = jnp.asarray(grid.space.encode(config))[None]
    expected = np.array([[0.3, 2.5 / 6, 0.9, 0.3, 0.1, (means[1] + 0.5) / 4]], np.float32)
    np.testing.assert_allclose(
        look(grid, instance, x), look(HARTMANN, instance[0], jnp.asarray(expected)), rtol=1e-5
    )
    labels = {tuple(np.asarray(drawn(grid, i)[1][0])) for i in range(20)}
    assert len(labels) > 5, "what a label means differs between instances"


def test_defaults_flags_and_roles_stay():
    base = Probe()
    axes = Discretised((5, 4, 0, 0, 0), "ordered")(base).space.axes
    assert axes["rate"].change and axes["rate"].role == "rate" and axes["layers"] == base.space.axes["layers"]

    class Given(Probe):
        space = type(base.space)(
            dict(base.space.axes) | {"rate": Float(1e-4, 1.0, default=0.9, log=True, change=True)}
        )

    assert Discretised(5)(Given()).space.axes["rate"].default == 4


def test_embedded_axes_do_not_matter():
    wrapped = Embedded(3)(BRANIN)
    assert wrapped.space.names == [f"z{i}" for i in range(5)]
    inner, order = drawn(wrapped)
    read = np.asarray(order)
    x, other = uniform(wrapped, 200), uniform(wrapped, 200, seed=2)
    mixed = other.at[:, read].set(x[:, read])
    np.testing.assert_array_equal(look(wrapped, (inner, order), x), look(wrapped, (inner, order), mixed))
    assert (look(wrapped, (inner, order), x) != look(wrapped, (inner, order), other)).all()
    np.testing.assert_allclose(
        look(wrapped, (inner, order), x), look(BRANIN, inner, x[:, read]), rtol=1e-4, atol=1e-4
    )
    orders = {tuple(np.asarray(drawn(wrapped, i)[1])) for i in range(60)}
    assert len(orders) > 12, "of 20"


def test_embedding_beside_discrete_axes():
    base = MIXED(HARTMANN)
    wrapped = Embedded(2)(base)
    assert wrapped.space.names == ["z0", "z1", "z2", "z3", "z4", "x1", "x3", "x5"]
    inner, order = drawn(wrapped)
    x = uniform(wrapped, 100)
    read = [*np.asarray(order), 5, 6, 7]
    at = jnp.stack([x[:, read[i]] for i in (0, 3, 1, 4, 2, 5)], 1)
    np.testing.assert_allclose(look(wrapped, (inner, order), x), look(base, inner, at), rtol=1e-4)


@pytest.mark.parametrize(
    "base",
    [
        MIXED(HARTMANN),
        *(pytest.param(o, marks=pytest.mark.slow) for o in (HARTMANN, Curves(max_epoch=9, diverge=0.0))),
    ],
)
def test_infeasible_share_is_as_stated(base):
    """2^16 points on 8 instances; 4 sigma."""
    wrapped = Infeasible(0.3)(base)
    n, shares = 2**16, []
    x = uniform(wrapped, n)
    for index in range(8):
        losses = look(wrapped, drawn(wrapped, index), x)
        assert not np.isnan(losses).any()
        shares.append(np.isinf(losses).mean())
    assert (np.abs(np.array(shares) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)).all()
    axes = {int(drawn(wrapped, i)[1].axis) for i in range(60)}
    assert axes == {i for i, a in enumerate(base.space.axes.values()) if isinstance(a, Float)}


def test_infeasible_end_and_the_feasible_region_is_the_whole_base():
    wrapped = Infeasible(0.2, axis="x1", end="high")(BRANIN)
    x = uniform(wrapped, 4000)
    for index in range(4):
        inner, border = drawn(wrapped, index)
        losses = look(wrapped, (inner, border), x)
        dead = np.isinf(losses)
        assert np.asarray(x[:, 1])[dead].min() >= 1 - 2 * 0.2 - 1e-6 and int(border.axis) == 1
        # Each point of the base has its one point of the feasible region: x1 shrinks to the border.
        y = uniform(BRANIN, 500, seed=3)
        edge = 1 - 0.2 * (1 + np.cos(2 * np.pi * float(border.waves[0]) * y[:, 0] + border.phase))
        inside = jnp.stack([y[:, 0], y[:, 1] * edge.astype(jnp.float32)], 1)
        np.testing.assert_allclose(
            look(wrapped, (inner, border), inside), look(BRANIN, inner, y), rtol=1e-3, atol=1e-3
        )


def test_divergence_stays_where_a_checkpoint_changes_its_hyperparameters():
    wrapped = Infeasible(0.3, axis="decay", end="high")(Probe())
    instance, key = drawn(wrapped), jax.random.key(0)
    x = jnp.full((5,), 0.3, jnp.float32)
    high, low = (wrapped.space.decode_array(x.at[1].set(u)) for u in (0.9999, 0.3))
    fresh = wrapped.init(instance, key)
    dead, loss, _ = wrapped.train(instance, key, fresh, high, jnp.int32(0), jnp.int32(3))
    _, after, true = wrapped.train(instance, key, dead, low, jnp.int32(3), jnp.int32(9))
    _, never, _ = wrapped.train(instance, key, fresh, low, jnp.int32(0), jnp.int32(9))
    assert np.isinf([loss, after, true]).all() and np.isfinite(never)


def test_price_is_log_linear_in_its_axis():
    base = Curves(max_epoch=9, cost_spread=2.0)
    wrapped = Priced(16.0, "dropout")(base)
    instance, key = drawn(wrapped), jax.random.key(0)

    def cost(objective, instance, dropout, until=9):
        hp = {"learning_rate": 0.01, "units": 64, "weight_decay": 1e-4, "dropout": dropout}
        hp = objective.space.decode_array(jnp.asarray(objective.space.encode(hp)))
        return float(objective.cost(instance, key, hp, jnp.int32(0), jnp.int32(until)))

    ratios = [cost(wrapped, instance, v) / cost(base, instance[0], v) for v in (0.0, 0.4, 0.8)]
    np.testing.assert_allclose(ratios, [0.25, 1.0, 4.0], rtol=1e-5)
    assert cost(wrapped, instance, 0.8, 3) == pytest.approx(cost(wrapped, instance, 0.8) / 3)
    assert {int(drawn(Priced()(MIXED(HARTMANN)), i)[1]) for i in range(60)} == {0, 1, 2, 3, 4}
    same = [o.train(i, key, (), _middle(o), jnp.int32(0), jnp.int32(9))[2] for o, i in (
        (wrapped, instance), (base, instance[0])
    )]  # fmt: skip
    assert same[0] == same[1]


def _middle(objective):
    return objective.space.decode_array(jnp.full((objective.space.dimension,), 0.5, jnp.float32))


# The optimum ----------------------------------------------------------------------------------------------


_searched = jax.jit(_optimum, static_argnums=0)


def optimum(objective, index=7):
    return float(_searched(objective, jnp.uint32(index)).optimum_static)


@pytest.mark.parametrize(
    "wrapper",
    [Noisy(), Shifted(), Permuted(), Embedded(), Infeasible(), Priced()],
    ids=lambda w: type(w).__name__,
)
@pytest.mark.parametrize(
    "base", [HARTMANN, pytest.param(CURVES, marks=pytest.mark.slow)], ids=lambda o: o.name
)
def test_a_known_optimum_is_kept_and_never_beaten(wrapper, base):
    wrapped = wrapper(base)
    for index in range(3):
        instance = drawn(wrapped, index)
        known = float(wrapped.reference(instance).optimum_static)
        assert known == float(base.reference(instance[0]).optimum_static)
        losses = look(wrapped, instance, uniform(wrapped, 2**16, seed=index))
        assert losses.min() >= known - 1e-12
        assert (losses.min() - known) / (np.median(losses[np.isfinite(losses)]) - known) < 0.4


@pytest.mark.parametrize(
    "wrapper", [pytest.param(Rotated(), marks=pytest.mark.slow), Discretised(5), MIXED], ids=lambda w: str(w)
)
def test_a_searched_optimum_is_never_beaten_nor_below_the_bases(wrapper):
    wrapped = wrapper(HARTMANN)
    assert not hasattr(wrapped, "reference")
    for index in range(3):
        found = optimum(wrapped, index)
        assert found >= HARTMANN.optimum - 1e-12
        assert look(wrapped, drawn(wrapped, index), uniform(wrapped, 2**16, seed=index)).min() >= found


def test_enumeration_against_brute_force():
    """Every configuration of a grid, made by hand in the base's units."""
    base = Curves(max_epoch=9)
    wrapped = Discretised((7, 0, 5, 4), ("int", "int", "unordered", "ordered"))(Curves(max_epoch=9))
    wrapped_units = base.space.axes["units"]
    for index in range(2):
        inner = drawn(base, index)
        rows = itertools.product(np.arange(7), np.arange(16, 513), np.arange(5), np.arange(4))
        rows = np.array(list(rows), np.float64)
        x = (rows + 0.5) / [7, 1, 5, 4]
        low, high = wrapped_units.edges
        x[:, 1] = (np.log(rows[:, 1]) - low) / (high - low)
        losses = look(base, inner, jnp.asarray(x, jnp.float32))
        assert optimum(wrapped, index) == pytest.approx(losses.min(), rel=1e-7)


def test_search_against_brute_force_on_a_mixed_space():
    """Branin with one axis of six levels: a fine grid of the other axis, then a finer one about the best."""
    wrapped = Discretised((0, 6), "unordered")(BRANIN)
    for index in range(3):
        inner = drawn(BRANIN, index)
        best = np.inf
        for level in range(6):
            side, width = np.linspace(0, 1, 4001), 1 / 4000
            for _ in range(3):
                x = np.stack([side, np.full_like(side, (level + 0.5) / 6)], 1)
                losses = look(BRANIN, inner, jnp.asarray(x, jnp.float32))
                centre = side[losses.argmin()]
                side = np.clip(centre + width * np.linspace(-1, 1, 4001), 0, 1)
                width /= 400
            best = min(best, losses.min())
        assert optimum(wrapped, index) == pytest.approx(best, abs=1e-6)


def test_search_finds_a_known_optimum():
    """A rotation leaves the optimum's value where its place stays in the cube: a valley that is turned."""
    for index in range(3):
        base = Function("rosenbrock", dimension=3, shift=False)
        found = optimum(Rotated()(base), index)
        # The minimiser, (.4, .4, .4) in the cube, stays inside under every rotation.
        assert 0 <= found < 1e-6


def test_a_search_sees_every_epoch_and_ends_over_a_training_process():
    class Overfits(Probe):
        """A probe whose loss is lowest in the middle of training."""

        def train(self, instance, key, checkpoint, hp, start, until):
            checkpoint, loss, _ = super().train(instance, key, checkpoint, hp, start, until)
            loss = 1e-3 * loss + jnp.abs(until - 4).astype(jnp.float64)
            return checkpoint, loss, loss

    assert (
        optimum(Discretised(6)(Overfits(reference_samples=0)) if False else Discretised(3)(Overfits())) < 0.5
    )


# Entries --------------------------------------------------------------------------------------------------


def made(text, changes=None):
    entry = catalogue.entry("objective", text, changes)
    return entry, catalogue.build(entry.settings)


def test_entries_and_their_labels():
    entry, objective = made("hartmann6+noisy,sd=.2")
    assert entry.label == objective.name == "hartmann6+noisy,sd=0.2"
    assert entry.name == "hartmann6+noisy" and objective == Noisy(0.2)(Function("hartmann6"))
    entry, objective = made("branin + discretised, levels=6 + noisy")
    assert entry.label == objective.name == "branin+discretised,levels=6+noisy"
    assert objective.wrapper == Noisy() and objective.base.wrapper == Discretised(6)
    assert objective.base.name == "branin+discretised,levels=6"
    # What is as in the YAML is left out; a number with a plus is a number.
    assert made("branin+noisy,sd=0.1")[0].label == "branin+noisy"
    assert made("branin+noisy,sd=1e+2,growth=1e-3")[0].label == "branin+noisy,sd=100.0,growth=0.001"
    entry, objective = made("ackley,dimension=3+discretised,levels=[0, 5, 4],kind=[int,int,unordered]")
    assert entry.label == "ackley,dimension=3+discretised,levels=[0,5,4],kind=[int,int,unordered]"
    assert objective.wrapper.levels == (0, 5, 4) and hash(objective)
    assert made(entry.label)[0] == entry, "a label is an entry"
    # Further settings go to the outermost part that has them.
    assert made("ackley+noisy", {"sd": 0.3, "dimension": 4})[0].label == "ackley,dimension=4+noisy,sd=0.3"
    assert made("branin")[0].settings["_target_"] == "surrogates.functions.Function"


def test_lists_of_entries():
    assert catalogue.split("branin+noisy,sd=.1,ackley,dimension=3+rotated,levy") == [
        "branin+noisy,sd=.1",
        "ackley,dimension=3+rotated",
        "levy",
    ]
    assert catalogue.split("3,4") == ["3", "4"] and catalogue.split("[1,2],x") == ["[1,2]", "x"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("branin+nosiy", "no wrapper 'nosiy'; did you mean noisy?"),
        ("brannin+noisy", "no objective 'brannin'; did you mean branin?"),
        ("branin+noisy,ds=1", "noisy has no setting 'ds'; did you mean sd?"),
        ("branin+noisy,sd", "expected setting=value after the comma, got 'sd'"),
        ("branin+permuted,sd=1", "permuted has no setting 'sd'; it has none"),
        ("branin+discretised+discretised", "no continuous axis to discretise in branin.discretised"),
        ("branin+discretised,levels=[0,3]+discretised,levels=[3,3]", "axis 'x1' of .* is discrete already"),
        ("branin+discretised,levels=[3]", "levels must be one or 2, as branin has axes, got 1"),
        ("branin+discretised,levels=1", "at least 2 .*, got 1"),
        ("branin+discretised,kind=choice", "kind must be int, ordered or unordered, got 'choice'"),
        ("branin+rotated+noisy,growth=1", "growth needs an objective whose optimum a formula knows"),
        ("branin+noisy,sd=-1", "sd must be finite and at least 0, got -1"),
        ("branin+priced,axis=x7", "axis must be one of x0, x1, got 'x7'"),
        ("branin+priced,spread=0", "spread must be finite and above 0, got 0"),
        ("branin+infeasible,share=.5", r"share must lie in \[0, 0.45\], got 0.5"),
        ("curves+infeasible,axis=units", "'units' of curves is not"),
        ("branin+discretised+infeasible", "infeasible needs a continuous axis"),
        ("branin+discretised+rotated", "rotated needs two continuous axes, branin.discretised has 0"),
        ("branin+embedded,extra=0", "extra must be an integer of at least 1, got 0"),
        ("branin+shifted,by=-1", r"by must lie in \[0, 10\], got -1"),
    ],
)
def test_errors_in_one_line(text, words):
    with pytest.raises(catalogue.UserError, match=words) as caught:
        made(text)
    assert "\n" not in str(caught.value)


def test_a_wrapper_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "conf" / "wrapper").mkdir(parents=True)
    (tmp_path / "conf" / "wrapper" / "doubled.yaml").write_text(
        "# Twice the loss.\n_target_: doubled_by.Doubled\nfactor: 2.0\n"
    )
    (tmp_path / "doubled_by.py").write_text(
        "from dataclasses import dataclass\n"
        "from surrogates.wrappers import Wrapped\n\n"
        "@dataclass(frozen=True)\n"
        "class Doubled:\n"
        "    factor: float = 2.0\n"
        "    keeps_optimum = True\n\n"
        "    def __call__(self, base, name=''):\n"
        "        return Wrapped(base, self, name)\n\n"
        "    def tell(self, base, instance, key, loss, true_loss):\n"
        "        return self.factor * loss\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        "doubled" in catalogue.names("wrapper")
        and catalogue.purpose("wrapper", "doubled") == "Twice the loss."
    )
    entry, objective = made("branin+doubled,factor=3+noisy,sd=0")
    assert entry.label == "branin+doubled,factor=3+noisy,sd=0"
    x = uniform(objective, 16)
    instance = drawn(objective)
    told, true = (look(objective, instance, x, told=t) for t in (True, False))
    np.testing.assert_allclose(told, 3 * true)
    assert check_objective(objective) == []


def test_every_wrapper_lists_its_settings():
    """A setting that its YAML lacks could not be given on the command line."""
    assert sorted(WRAPPERS) == catalogue.names("wrapper")
    for name, wrapper in WRAPPERS.items():
        settings = catalogue.load("wrapper", name)
        fields = {f.name: f.default for f in dataclasses.fields(wrapper)}
        assert {k: v for k, v in settings.items() if not k.startswith("_")} == fields
        assert catalogue.purpose("wrapper", name).endswith((".", "search"))
