"""Drifting best rates against simulated SGD, independent optimisers, and everything that could go below."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import differential_evolution, minimize

from bench.contract import check_objective
from bench.drive import instance_key
from bench.protocols import LEVELS
from bench.reference import reference_table
from surrogates import schedules
from surrogates.drifting import HIGH, LOW, STEPS, Drifting, epoch_factor, pace_of

KEY = jax.random.key(0)
STORED, STILL = Drifting(), Drifting(noise=0.0)  # references are of the true loss, whatever the noise


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def instance_of(objective, index=1000):
    return jax.tree.map(np.asarray, objective.draw(instance_key(jnp.uint32(index))))


@partial(jax.jit, static_argnums=0)
def _train(objective, instance, checkpoint, x, begin, until):
    one = partial(objective.train, instance, KEY)
    return jax.vmap(lambda c, u: one(c, objective.space.decode_array(u), begin, until))(checkpoint, x)


def train(objective, instance, x, begin=0, until=81, checkpoint=None):
    """Trains n configurations f32[n, d] side by side: (checkpoints, losses, true losses)."""
    x = jnp.asarray(x, jnp.float32)
    if checkpoint is None:
        fresh = objective.init(instance, KEY)
        checkpoint = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(x), *a.shape)), fresh)
    return _train(objective, instance, checkpoint, x, jnp.int32(begin), jnp.int32(until))


def log_losses(instance, log_rates):
    """The model over again in numpy, from log rates [epochs, groups]: log of each group's loss, its slope."""
    inverse, pace, weight = instance
    h = pace * inverse
    second = pace * inverse**2
    rate = np.exp(log_rates)[..., None]
    factor = 1 - 2 * rate * h + rate**2 * second
    gradient = (-2 * rate * h + 2 * rate**2 * second) / factor
    modes = np.log(weight) + STEPS * np.log(factor).sum(0)
    value = np.logaddexp(modes[..., 0], modes[..., 1])
    return value, STEPS * (np.exp(modes - value[..., None]) * gradient).sum(-1)


def test_an_epoch_is_sixteen_steps_of_sgd_with_vanishing_noise():
    """200,000 replicas of a weight, seed 0, 5 sigma."""
    rng = np.random.default_rng(0)
    h, c, rate = 2.0, 30.0, 0.01
    theta = np.ones(200_000)
    for _ in range(STEPS):
        theta = theta - rate * (h * theta + np.sqrt(c) * theta * rng.standard_normal(len(theta)))
    best, pace = h / (h**2 + c), h**2 / (h**2 + c)
    found = float(epoch_factor(jnp.float64(pace), jnp.float64(rate / best)))
    assert abs((theta**2).mean() - found) < 5 * (theta**2).std() / np.sqrt(len(theta))
    assert float(epoch_factor(pace_of(7.0, 81), 1.0)) ** 81 == pytest.approx(np.exp(-7), rel=1e-12)


def test_training_is_the_model():
    instance = instance_of(STILL)
    x = np.array([[0.4, 0.5], [0.5, 0.3]], np.float32)
    rates = np.log(LOW) + x * (np.log(HIGH) - np.log(LOW))
    expected = [np.exp(log_losses(instance, np.tile(r, (81, 1)))[0]).sum() for r in rates]
    np.testing.assert_allclose(train(STILL, instance, x)[2], expected, rtol=1e-4)


@pytest.mark.slow
def test_without_drift_the_best_constant_is_the_best_sequence():
    """Two searches that share nothing but the model; with drift they part."""

    def both(drift):
        objective = Drifting(drift=drift)
        draws = [instance_of(objective, i) for i in range(1000, 1004)]
        return jax.jit(jax.vmap(objective.reference))(jax.tree.map(lambda *a: jnp.stack(a), *draws))

    still, moved = both(0.0), both(0.7)
    np.testing.assert_allclose(still.optimum_static, still.optimum_dynamic, rtol=1e-9)
    assert (moved.optimum_dynamic < 0.6 * moved.optimum_static).all()


def test_an_independent_optimiser_finds_the_best_sequence():
    """L-BFGS-B over 162 log rates from three random starts: never below, and within 1e-5."""
    instance = instance_of(STILL, 1003)
    stored = reference_table(STORED, [1003]).iloc[0]
    rng = np.random.default_rng(0)

    def fun(z, group):
        part = jax.tree.map(lambda a: a[..., group : group + 1, :], instance)
        value, slope = log_losses(part, z[:, None])
        return value[0], slope[:, 0]

    found = 0.0
    for group in range(2):
        centre = -np.log(instance.inverse[:, group].max())
        ends = [
            minimize(
                fun, centre + rng.normal(-1, 0.5, 81), (group,), jac=True, method="L-BFGS-B",
                bounds=[(np.log(LOW), np.log(HIGH))] * 81, options=dict(maxiter=500, ftol=1e-14),
            ).fun
            for _ in range(3)
        ]  # fmt: skip
        assert np.ptp(ends) < 1e-5, "one minimum"
        found += np.exp(min(ends))
    assert 1 - 1e-9 < found / stored["optimum_dynamic"] < 1 + 1e-5


def test_a_dense_grid_finds_the_best_constant():
    """20,000 rates a group, and every epoch to stop at."""
    instance = instance_of(STILL, 1003)
    rates = np.geomspace(LOW, HIGH, 20_000)[:, None, None]
    sums, least = np.zeros((20_000, 2, 2)), []
    for inverse in instance.inverse:
        ratio = rates * inverse
        sums = sums + STEPS * np.log1p(-instance.pace * ratio * (2 - ratio))
        least.append((instance.weight * np.exp(np.minimum(sums, 99))).sum(-1).min(0).sum())
    stored = reference_table(STORED, [1003]).iloc[0]
    assert 1 - 1e-9 < min(least) / stored["optimum_static"] < 1 + 1e-5


def test_the_best_sequence_is_reached_and_bounded_from_below():
    """On 16 instances at the strongest drift. Its rates have its loss; and at the multipliers of its end the
    Lagrangian, minimised over a grid of all rates in every epoch, is no lower: so no sequence is."""
    objective = Drifting(drift=1.0)
    draws = jax.vmap(lambda i: objective.draw(instance_key(i)))(jnp.arange(1000, 1016, dtype=jnp.uint32))
    bound, best = jax.jit(jax.vmap(objective._best_sequence))(draws)
    grid = np.geomspace(LOW, HIGH, 500)[:, None, None]
    for instance, loss, rates in zip(zip(*map(np.asarray, draws), strict=True), bound, best, strict=True):
        value, slope = log_losses(instance, np.log(rates))
        assert np.exp(value).sum() == pytest.approx(float(loss), rel=1e-9)
        inside = np.asarray(rates) < HIGH * (1 - 1e-9)  # at the bound it may still fall outwards
        assert np.abs(slope[inside]).max() < 1e-6 and (slope < 1e-6).all() and inside.mean() > 0.9
        inverse, pace, weight = instance
        inside = rates[..., None] * inverse
        modes = np.log(weight) + STEPS * np.log1p(-pace * inside * (2 - inside)).sum(0)
        q = np.exp(modes - value[:, None])
        least = 0.0
        for m in range(2):
            ratio = grid * inverse[..., m]
            least = least + q[:, m] * np.log1p(-pace[:, m] * ratio * (2 - ratio))
        dual = STEPS * least.min(0).sum(0) + (q * np.log(weight / q)).sum(-1)
        assert (dual > value - 1e-9).all()


@pytest.mark.slow
def test_the_shortest_training_still_has_its_bound_reached():
    """On 64 instances at the strongest drift, where the steps are longest."""
    objective = Drifting(drift=1.0, max_epoch=8)
    draws = jax.vmap(lambda i: objective.draw(instance_key(i)))(jnp.arange(1000, 1064, dtype=jnp.uint32))
    bound, best = jax.jit(jax.vmap(objective._best_sequence))(draws)
    for instance, loss, rates in zip(zip(*map(np.asarray, draws), strict=True), bound, best, strict=True):
        value = np.exp(log_losses(instance, np.log(rates))[0]).sum()
        assert value == pytest.approx(float(loss), rel=1e-9)


def test_no_job_goes_below_the_optima():
    """Random configurations; a random walk of rates; a population that copies and perturbs by .8 or 1.2."""
    instance, rng = instance_of(STILL, 1005), np.random.default_rng(1)
    static, dynamic = reference_table(STORED, [1005]).iloc[0][["optimum_static", "optimum_dynamic"]]
    x = rng.random((4096, 2), dtype=np.float32)
    losses = np.asarray(train(STILL, instance, x)[2])
    assert static * (1 - 1e-9) < np.nanmin(losses) < 1.1 * static
    member = x[np.argsort(losses)[:256]]
    step = np.log([0.8, 1.2]) / np.log(HIGH / LOW)
    state, walk, walker = None, None, member
    for epoch in range(0, 81, 3):
        state, _, loss = train(STILL, instance, member, epoch, epoch + 3, state)
        walk, _, walked = train(STILL, instance, walker, epoch, epoch + 3, walk)
        assert min(np.min(loss), np.min(walked)) > dynamic
        order = np.argsort(loss)
        order[-51:] = order[:51]
        state = jax.tree.map(lambda a, o=order: a[o], state)
        member = member[order] + np.where(np.arange(256) < 205, 0, 1)[:, None] * rng.choice(step, (256, 2))
        walker = np.clip(walker + rng.normal(0, 0.02, (256, 2)), 0, 1)
    assert np.min(loss) < static, "and the population passes the best constant"


def test_slices_agree_bit_for_bit_and_whoever_is_beside():
    objective = Drifting()
    instance, x = instance_of(objective), np.random.default_rng(2).random((64, 2))
    whole = train(objective, instance, x)
    half = train(objective, instance, x, 0, 29)[0]
    jax.tree.map(np.testing.assert_array_equal, whole, train(objective, instance, x, 29, 81, half))
    # In another place of the block, beside others.
    other = train(objective, instance, np.concatenate([np.ones((7, 2)), x[:57]]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[7:], b[:57]), other, whole)


def test_what_diverged_stays_so():
    instance = instance_of(STILL)
    state, _, loss = train(STILL, instance, [[1.0, 0.1]], 0, 20)
    assert np.isinf(loss).all() and np.isinf(state).all()
    assert np.isinf(train(STILL, instance, [[0.1, 0.1]], 20, 81, state)[2]).all()
    assert np.isfinite(train(STILL, instance, [[0.1, 0.1]])[2]).all()


@pytest.mark.slow
def test_keeps_the_contract():
    assert check_objective(Drifting(groups=1, max_epoch=8)) == []


def test_stored_references_are_in_order():
    table = reference_table(STORED, range(1000, 1064))
    assert (table["optimum_dynamic"] < table["optimum_static"]).all()
    assert (table["optimum_static"] < table["q_0"]).all()
    assert np.isfinite(table[f"q_{LEVELS.index(0.5)}"]).all(), "less than half of the configurations diverge"


@pytest.mark.parametrize("settings", [{"groups": 0}, {"max_epoch": 7}, {"drift": 1.1}, {"noise": -0.1}])
def test_bad_settings_name_themselves(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        Drifting(**settings)


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("step", marks=pytest.mark.slow)])
def test_a_schedule_multiplies_all_rates_and_its_search_finds_the_best(schedule):
    objective, mine = Drifting(schedule=schedule, noise=0.0), instance_of(STILL)
    axes, time = objective.space.names, (np.arange(81) + 0.5) / 81
    assert jax.tree.all(jax.tree.map(np.array_equal, instance_of(objective), mine))

    def loss(x):
        hp = objective.space.decode(np.asarray(x, np.float32))
        shape = np.array([float(schedules.multiplier(schedule, hp, t)) for t in time])
        rates = np.array([hp["learning_rate_0"], hp["learning_rate_1"]])
        return np.exp(log_losses(mine, np.log(shape[:, None] * rates))[0]).sum()

    x = np.random.default_rng(0).uniform(size=(2048, len(axes))).astype(np.float32)
    true = np.asarray(train(objective, mine, x)[2])
    some = np.flatnonzero(np.isfinite(true))[:3]
    np.testing.assert_allclose(true[some], [loss(x[i]) for i in some], rtol=1e-4)
    static, dynamic = (float(v) for v in jax.jit(objective.reference)(mine))
    assert dynamic < static < np.nanmin(true)
    found = differential_evolution(  # scipy's
        lambda u: np.log(np.asarray(train(objective, mine, u.T)[2])),
        [(0, 1)] * len(axes),
        popsize=16,
        maxiter=80,
        tol=0,
        seed=0,
        polish=False,
        vectorized=True,
        updating="deferred",
    )
    few = 0.05 if schedule == "step" else 1e-6  # drops are at whole epochs: many valleys
    assert static * (1 - few) <= np.exp(found.fun) < static * 1.02
