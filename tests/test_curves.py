"""Learning curves: the optimum is exact, slices agree, and every dial does what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from surrogates.curves import FAMILIES, START, Curves

EPOCHS = (1, 3, 9, 27, 81)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def losses(objective, instances=16, configurations=256, epochs=EPOCHS, seed=0, told=False):
    """True (or told) losses [instances, configurations, epochs], x of those, each instance's optimum."""

    @jax.jit
    @jax.vmap
    def run(key):
        instance = objective.draw(key)
        x = jax.random.uniform(jax.random.fold_in(key, 1), (configurations, objective.dimension), jnp.float32)
        keys = jax.random.split(key, configurations)

        def one(k, u, t):
            out = objective.train(instance, k, (), objective.space.decode_array(u), jnp.int32(0), t)
            return out[1] if told else out[2]

        row = jax.vmap(one, (None, None, 0))
        values = jax.vmap(row, (0, 0, None))(keys, x, jnp.array(epochs, jnp.int32))
        return values, x, objective.reference(instance).optimum_static

    return map(np.asarray, run(jax.random.split(jax.random.key(seed), instances)))


def ranks(**settings):
    """Median Spearman correlation of the losses at epochs 1, 3, 9, 27 with the end."""
    values, *_ = losses(Curves(noise=0.0, diverge=0.0, **settings))
    return np.median([[spearmanr(v[:, i], v[:, -1])[0] for i in range(4)] for v in values], axis=0)


@pytest.mark.parametrize(
    ("family", "dimension"),
    [
        pytest.param(family, dimension, marks=[pytest.mark.slow] * (dimension not in (2, 8)))
        for family, dimension in zip(FAMILIES, (4, 8, 2, 3, 5, 6, 7), strict=True)
    ],
)
def test_curves_fall_to_a_landscape_with_an_exact_optimum(family, dimension):
    objective = Curves(family=family, dimension=dimension, rank=0.3, crossing=0.4)
    epochs = jnp.arange(1, 82, 8, dtype=jnp.int32)

    @jax.jit
    @jax.vmap
    def run(key):
        instance = objective.draw(key)
        x = jax.random.uniform(key, (1000, dimension), jnp.float32)
        # The first row is the optimum itself.
        x = x.at[0].set(instance.place.astype(jnp.float32))

        def one(u):
            hp = objective.space.decode_array(u)
            losses = jax.vmap(lambda t: objective.train(instance, key, (), hp, jnp.int32(0), t)[2])(epochs)
            return losses, objective.left(objective.speed(instance, hp), jnp.float64(0))

        return *jax.vmap(one)(x), objective.reference(instance).optimum_static

    values, fresh, best = map(np.asarray, run(jax.random.split(jax.random.key(0), 16)))
    finite = np.isfinite(values)
    assert values.dtype == best.dtype == np.float64 and not np.isnan(values).any()
    assert (values >= best[:, None, None]).all(), "the optimum is never undercut"
    # It is read through float32 hyperparameters, hence not to the last bit.
    np.testing.assert_allclose(values[:, 0, -1], best, atol=1e-9)
    np.testing.assert_allclose(fresh, 1.0, atol=1e-9)
    assert values[finite].max() < START
    with np.errstate(invalid="ignore"):
        fall = np.diff(values, axis=2)
    assert (fall[finite[..., 1:]] <= 0).all()


@pytest.mark.parametrize(
    ("family", "formula"),
    [
        ("pow3", lambda t, k, kt: (t + 1) ** -k),
        ("pow4", lambda t, k, kt: 1 / (kt + 1)),
        ("exp4", lambda t, k, kt: np.exp(-np.sqrt(kt))),
        ("ilog2", lambda t, k, kt: 1 / np.log(kt + np.e)),
        ("weibull", lambda t, k, kt: np.exp(-kt)),
        ("janoschek", lambda t, k, kt: np.exp(-(kt**1.5))),
        ("mmf", lambda t, k, kt: 1 / (1 + kt**1.5)),
    ],
)
def test_families_are_those_of_the_literature(family, formula):
    t, k = np.arange(82.0), 1.7
    raw = formula(t, k, k * t * 12 / 81)
    left = jax.vmap(lambda e: Curves(family=family).left(jnp.log(k), e))(jnp.asarray(t))
    np.testing.assert_allclose(left, (raw - raw[-1]) / (raw[0] - raw[-1]), atol=1e-12)


@pytest.mark.slow
def test_slices_agree_and_noise_is_the_epochs():
    """2,000 trials; tolerances of 4 sigma."""
    objective = Curves(noise=0.02, diverge=0.0)
    instance = objective.draw(jax.random.key(1))
    hp = objective.space.decode_array(jnp.full((8,), 0.4, jnp.float32))

    @jax.jit
    @jax.vmap
    def run(key):
        def train(start, until):
            return objective.train(instance, key, (), hp, jnp.int32(start), jnp.int32(until))[1:]

        return train(0, 27), train(9, 27), train(0, 9)

    whole, second, first = run(jax.random.split(jax.random.key(2), 2000))
    np.testing.assert_array_equal(whole, second)
    noise = np.array([whole[0] - whole[1], first[0] - first[1]])
    assert np.ptp(np.asarray(whole[1])) == 0
    assert abs(noise.mean()) < 4 * 0.02 / np.sqrt(4000)
    assert abs(noise.std() / 0.02 - 1) < 4 / np.sqrt(2 * 4000)
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / np.sqrt(2000)


@pytest.mark.slow
def test_rank_dial():
    """The higher `rank`, the better early losses predict the end, at every epoch before it."""
    found = np.array([ranks(rank=r) for r in (0.0, 0.5, 0.8, 1.0)])
    assert (np.diff(found, axis=0) > 0).all()
    np.testing.assert_allclose(found[-1], 1.0, atol=1e-9)
    assert found[2, 0] > 0.7 and found[0, 0] < 0.25
    assert (np.diff(found[:3], axis=1) > 0).all(), "later epochs tell more"


def test_crossing_dial():
    """The higher `crossing`, the worse; at the default rank early ranks turn over, late ones do not."""
    found = np.array([ranks(crossing=c) for c in (0.0, 0.35, 0.75)])
    assert (np.diff(found, axis=0) < 0).all()
    assert found[-1, 0] < -0.3 and found[-1, -1] > 0.5


@pytest.mark.slow
def test_divergence_is_a_share_of_the_space_and_starts_earlier_at_higher_rates():
    share = 0.25
    objective = Curves(diverge=share)
    values, x, best = losses(objective, 8, 2000, told=True)
    dead = np.isinf(values)
    np.testing.assert_array_equal(dead[..., -1], x[..., 0] > 1 - share)
    assert abs(dead[..., -1].mean() - share) < 4 * np.sqrt(share * (1 - share) / 16_000)
    assert (dead[..., 1:] >= dead[..., :-1]).all(), "what diverged stays so"
    rate = [x[..., 0][dead[..., i] & ~dead[..., :i].any(-1)].mean() for i in range(5) if dead[..., i].any()]
    assert len(rate) >= 4 and (np.diff(rate) < 0).all()
    assert np.isfinite(best).all() and not np.isnan(values).any()
    assert not np.isinf(np.concatenate([v.ravel() for v in losses(Curves(diverge=0.0), 2, 200)])).any()


def test_cost_is_known_and_spreads_with_the_units():
    objective = Curves(cost_spread=4.0)
    instance, key = objective.draw(jax.random.key(0)), jax.random.key(0)

    def cost(units, start, until):
        hp = {"units": jnp.int32(units)}
        return float(objective.cost(instance, key, hp, jnp.int32(start), jnp.int32(until)))

    assert cost(512, 0, 81) / cost(16, 0, 81) == pytest.approx(4.0, rel=0.03)  # bins end half a unit beyond
    assert cost(64, 0, 27) + cost(64, 27, 81) == pytest.approx(cost(64, 0, 81), rel=1e-12)
    assert (
        float(
            Curves(cost_spread=1.0).cost(instance, key, {"units": jnp.int32(77)}, jnp.int32(0), jnp.int32(9))
        )
        == 9.0
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 1},
        {"max_epoch": 1},
        {"family": "pow5"},
        {"rank": 1.2},
        {"crossing": -0.1},
        {"noise": -1.0},
        {"diverge": 0.95},
        {"cost_spread": 0.5},
    ],
)
def test_bad_settings_name_themselves(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got '?{value}"):
        Curves(**settings)
