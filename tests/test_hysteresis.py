"""Damage that stays: against the recursion by hand, independent optimisers, and all that could go below."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from bench.contract import check_objective
from bench.drive import instance_key
from bench.reference import reference_table
from surrogates import schedules
from surrogates.drifting import STEPS
from surrogates.hysteresis import HARM, HEALING, HIGH, LOW, Hysteresis

KEY = jax.random.key(0)
STORED, STILL = Hysteresis(), Hysteresis(noise=0.0)  # references are of the true loss, whatever the noise


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


def share(warmup, epochs=81):
    """What a warm-up multiplies the rate by, [epochs]."""
    return np.minimum((np.arange(epochs) + 0.5) / np.maximum(warmup * epochs, 1e-9), 1)


def final(instance, hysteresis, log_rates):
    """The model over again, in numpy, from log rates [81]: the final loss and its slope."""
    inverse, pace, intolerance = instance
    rate = np.exp(log_rates)
    ratio = rate * inverse
    factor = 1 - pace * ratio * (2 - ratio)
    strain = np.maximum(rate * intolerance - 1, 0)
    left = np.arange(81)[::-1]
    count = HARM * (hysteresis + (1 - hysteresis) * HEALING**left)
    excess = np.exp(STEPS * np.log(factor).sum())
    slope = excess * STEPS * 2 * pace * ratio * (ratio - 1) / factor
    return excess + (count * strain**2).sum(), slope + 2 * count * strain * rate * intolerance


def test_training_is_the_recursion_by_hand():
    x = np.array([[0.55, 0.0], [0.7, 0.2]], np.float32)
    for hysteresis, until in ((0.3, 6), (0.8, 81)):
        objective = Hysteresis(noise=0.0, hysteresis=hysteresis)
        instance = instance_of(objective)
        losses = []
        for u in x:
            excess, permanent, passing = 1.0, 0.0, 0.0
            for epoch, part in enumerate(share(0.5 * u[1])[:until]):
                rate = LOW * (HIGH / LOW) ** u[0] * part
                damage = HARM * max(0, rate * instance.intolerance[epoch] - 1) ** 2
                ratio = rate * instance.inverse
                excess *= (1 - instance.pace * ratio * (2 - ratio)) ** STEPS
                permanent += hysteresis * damage
                passing = HEALING * passing + (1 - hysteresis) * damage
            losses.append(excess + permanent + passing)
        weights, _, found = train(objective, instance, x, 0, until)
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        np.testing.assert_allclose(weights.permanent[1], permanent, rtol=1e-4)
        np.testing.assert_allclose(weights.passing[1], passing, rtol=1e-4)
        assert permanent > 1e-4 and passing > 0


def test_a_bad_phase_is_never_repaired_but_where_damage_heals():
    """Four epochs at the best rate of progress before a good training: what is left of their damage."""
    left = {}
    for hysteresis in (0.0, 0.5, 1.0):
        objective = Hysteresis(noise=0.0, hysteresis=hysteresis)
        instance = instance_of(objective)
        best = float(np.log(1 / instance.inverse / LOW) / np.log(HIGH / LOW))
        phases = [[best, 0.0], [best - 0.4, 0.0]]  # rates a factor 40 apart
        after = train(objective, instance, phases, 0, 4)[0]
        damage = float(after.permanent[0] + after.passing[0])
        assert damage > 0.005
        assert after.excess[0] < after.excess[1], "it looks better at first"
        gentle = [[best - 0.1, 0.0]] * 2
        end = train(objective, instance, gentle, 4, 81, after)[0]
        left[hysteresis] = (
            float(end.permanent[0] + end.passing[0] - end.permanent[1] - end.passing[1]) / damage
        )
    assert abs(left[0.0]) < 1e-9
    assert left[1.0] == pytest.approx(1, rel=1e-6)
    assert 0.5 < left[0.5] < 0.8


def test_an_early_high_rate_lures():
    """Of 4,096 configurations, the one that leads after nine epochs ends several times worse than another."""
    ratios = []
    for index in (1000, 1001, 1002, 1003):
        instance = instance_of(STILL, index)
        x = np.random.default_rng(index).random((4096, 2))
        early, late = (np.asarray(train(STILL, instance, x, 0, until)[2]) for until in (9, 81))
        ratios.append(late[np.argmin(early)] / late.min())
    assert np.median(ratios) > 3


@pytest.mark.parametrize("hysteresis", [0.0, 0.8])
def test_the_best_sequence_is_reached_and_bounded_from_below(hysteresis):
    """On 16 instances. Its rates have its loss; and at the price of its end the Lagrangian, minimised over a
    grid of all rates in every epoch, is no lower: so no sequence is. L-BFGS-B finds the same, on three."""
    objective = Hysteresis(hysteresis=hysteresis)
    draws = jax.vmap(lambda i: objective.draw(instance_key(i)))(jnp.arange(1000, 1016, dtype=jnp.uint32))
    bound, best = jax.jit(jax.vmap(objective._best_sequence))(draws)
    count = HARM * (hysteresis + (1 - hysteresis) * HEALING ** np.arange(81)[::-1])
    grid = np.geomspace(LOW / 10, HIGH, 4000)[:, None]
    for i, (loss, rates) in enumerate(zip(bound, best, strict=True)):
        instance = jax.tree.map(lambda a, i=i: np.asarray(a[i]), draws)
        value, _ = final(instance, hysteresis, np.log(rates))
        assert value == pytest.approx(float(loss), rel=1e-9)
        ratio = np.asarray(rates) * instance.inverse
        price = np.exp(STEPS * np.log1p(-instance.pace * ratio * (2 - ratio)).sum())
        logs = STEPS * np.log1p(-instance.pace * grid * instance.inverse * (2 - grid * instance.inverse))
        strain = np.maximum(grid * instance.intolerance - 1, 0)
        least = (price * logs + count * strain**2).min(0).sum()
        assert least + price * (1 - np.log(price)) > value * (1 - 1e-9)
        if i < 3:
            start = np.log(0.3 / instance.inverse) + np.random.default_rng(i).normal(-1, 0.5, 81)
            fun = partial(final, instance, hysteresis)
            bounds, options = [(np.log(LOW / 100), 0)] * 81, dict(maxiter=1000, ftol=1e-15, gtol=1e-10)
            found = minimize(fun, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun
            assert 1 - 1e-9 < found / value < 1 + 1e-4


def test_a_dense_grid_finds_the_best_constant():
    """400 rates by 100 warm-ups by every epoch to stop at, on four instances."""
    rate, part = np.geomspace(LOW, 0.3, 400)[:, None], np.stack([share(w) for w in np.linspace(0, 0.5, 100)])
    table = reference_table(STORED, range(1000, 1064))
    for index in (1000, 1007, 1020, 1063):
        instance = instance_of(STILL, index)
        excess, damage, passing, least = np.ones((400, 100)), 0.0, 0.0, np.inf
        for epoch in range(81):
            ratio = rate * part[:, epoch] * instance.inverse
            excess = excess * (1 - instance.pace * ratio * (2 - ratio)) ** STEPS
            new = HARM * np.maximum(rate * part[:, epoch] * instance.intolerance[epoch] - 1, 0) ** 2
            damage, passing = damage + 0.8 * new, HEALING * passing + 0.2 * new
            least = min(least, (excess + damage + passing).min())
        stored = table.set_index("instance").loc[index]
        assert 1 - 1e-9 < least / stored["optimum_static"] < 1.005


@pytest.mark.parametrize(
    ("max_epoch", "hysteresis"), [pytest.param(27, 0.0, marks=pytest.mark.slow), (4, 0.8)]
)
def test_no_constant_configuration_is_below_the_best_constant(max_epoch, hysteresis):
    """4,096 at every epoch, on 64 instances, with short trainings, some of which have several basins."""
    objective = Hysteresis(max_epoch=max_epoch, hysteresis=hysteresis, noise=0.0)
    u = jax.random.uniform(jax.random.key(3), (8192, 2), jnp.float32)[:4096]

    @jax.jit
    def both(index):
        instance = objective.draw(instance_key(index))

        def lowest(x):
            hp = objective.space.decode_array(x)

            def epoch(weights, e):
                weights, _, true_loss = objective.train(instance, KEY, weights, hp, e, e + 1)
                return weights, true_loss

            epochs = jnp.arange(max_epoch, dtype=jnp.int32)
            return jnp.min(jax.lax.scan(epoch, objective.init(instance, KEY), epochs)[1])

        return jnp.min(jax.vmap(lowest)(u)), objective._best_constant(instance)

    found, best = np.array([both(jnp.uint32(i)) for i in range(1000, 1064)]).T
    assert (found > best * (1 - 1e-6)).all() and np.median(found / best) < 1.02


def test_no_job_goes_below_the_optima():
    """Random configurations; a random walk of rates; a population that copies and perturbs by .8 or 1.2."""
    instance, rng = instance_of(STILL, 1005), np.random.default_rng(1)
    static, dynamic = reference_table(STORED, [1005]).iloc[0][["optimum_static", "optimum_dynamic"]]
    x = rng.random((4096, 2), dtype=np.float32)
    losses = np.asarray(train(STILL, instance, x)[2])
    assert static * (1 - 1e-9) < np.nanmin(losses) < 1.1 * static
    member = x[np.argsort(losses)[:256]]
    walker, state, walk, least = member, None, None, np.inf
    for epoch in range(0, 81, 3):
        state, _, loss = train(STILL, instance, member, epoch, epoch + 3, state)
        walk, _, walked = train(STILL, instance, walker, epoch, epoch + 3, walk)
        least = min(least, np.min(loss), np.min(walked))
        order = np.argsort(loss)
        order[-51:] = order[:51]
        state = jax.tree.map(lambda a, o=order: a[o], state)
        member = member[order]
        member[205:, 0] += rng.choice(np.log([0.8, 1.2]) / np.log(HIGH / LOW), 51)
        walker[:, 0] = np.clip(walker[:, 0] + rng.normal(0, 0.02, 256), 0, 1)
    assert dynamic < least < 2 * static


def test_slices_agree_bit_for_bit_and_whoever_is_beside():
    objective = Hysteresis()
    instance, x = instance_of(objective), np.random.default_rng(2).random((64, 2))
    whole = train(objective, instance, x)
    half = train(objective, instance, x, 0, 29)[0]
    jax.tree.map(np.testing.assert_array_equal, whole, train(objective, instance, x, 29, 81, half))
    # In another place of the block, beside others.
    other = train(objective, instance, np.concatenate([np.ones((7, 2)), x[:57]]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[7:], b[:57]), other, whole)


def test_what_diverged_stays_so():
    instance = instance_of(STILL)
    weights, _, loss = train(STILL, instance, [[1.0, 0.0]], 0, 20)
    assert np.isinf(loss).all() and all(np.isinf(w).all() for w in weights)
    assert np.isinf(train(STILL, instance, [[0.1, 0.0]], 20, 81, weights)[2]).all()


@pytest.mark.slow
def test_keeps_the_contract():
    assert check_objective(Hysteresis(max_epoch=6)) == []


def test_stored_references_are_in_order():
    table = reference_table(STORED, range(1000, 1064))
    assert (table["optimum_dynamic"] < table["optimum_static"]).all()
    assert (table["optimum_static"] < table["q_0"]).all()


@pytest.mark.parametrize("settings", [{"max_epoch": 3}, {"hysteresis": 1.5}, {"noise": -0.1}])
def test_bad_settings_name_themselves(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        Hysteresis(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "step"])
def test_a_schedule_multiplies_the_rate_and_its_search_finds_the_best(schedule):
    objective, mine = Hysteresis(schedule=schedule, noise=0.0), instance_of(STILL)
    time = (np.arange(81) + 0.5) / 81
    x = np.random.default_rng(0).uniform(size=(2048, objective.space.dimension)).astype(np.float32)
    true = np.asarray(train(objective, mine, x)[2])
    at = int(np.nanargmin(true))
    hp = objective.space.decode(x[at])
    shape = np.array([float(schedules.multiplier(schedule, hp, t)) for t in time])
    assert true[at] == pytest.approx(final(mine, 0.8, np.log(shape * hp["learning_rate"]))[0], rel=1e-4)
    static, dynamic = (float(v) for v in jax.jit(objective.reference)(mine))
    assert dynamic < static < np.nanmin(true)
    found = minimize(  # another optimiser, from the best of those
        lambda u: np.log(float(train(objective, mine, np.clip(u, 0, 1)[None])[2][0])),
        x[np.nanargmin(true)],
        method="Nelder-Mead",
        options={"maxiter": 600},
    )
    assert static * (1 - 1e-6) <= np.exp(found.fun) < static * 1.05
