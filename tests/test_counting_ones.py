"""Counting ones: exact samples, their variance, the published sizes and random search's regret on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, chisquare

from surrogates.counting_ones import BITS, CountingOnes, thresholds


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_thresholds_are_the_binomials_distribution():
    p = np.array([0.0, 1e-4, 0.3, 0.5, 0.99, 1.0])
    got = np.asarray(thresholds(jnp.asarray(p), 9)) / 2.0**BITS
    np.testing.assert_allclose(got, binom.cdf(np.arange(9), 9, p[:, None]), atol=2.0**-BITS)
    assert (got[0] == 1).all() and (got[-1] == 0).all()


def test_samples_are_binomial_of_the_right_variance_in_every_slice():
    """20,000 trials of one configuration; 4 sigma. Slices of a trial are independent and add up exactly."""
    objective, n = CountingOnes(categorical=0, continuous=3, flip=False), 20_000
    p = np.array([0.2, 0.55, 0.9], np.float32).astype(float)
    hp = {f"p{i}": jnp.float32(v) for i, v in enumerate(p)}
    instance = objective.draw(jax.random.key(0))

    @jax.jit
    def run(keys, start, until, checkpoint):
        def one(key, checkpoint):
            return objective.train(instance, key, checkpoint, hp, start, until)

        return jax.vmap(one)(keys, checkpoint)

    keys, fresh = jax.random.split(jax.random.key(1), n), jnp.zeros((n,), jnp.int32)
    epoch = {e: jnp.int32(e) for e in (0, 1, 9, 81)}
    whole = run(keys, epoch[0], epoch[81], fresh)
    first = run(keys, epoch[0], epoch[9], fresh)
    second = run(keys, epoch[9], epoch[81], first[0])
    for a, b in zip(whole, second, strict=True):
        np.testing.assert_array_equal(a, b)

    variance = np.sum(p * (1 - p))
    noise = {}
    for e, out in ((1, run(keys, epoch[0], epoch[1], fresh)), (9, first), (81, whole)):
        told, true = np.asarray(out[1]), np.asarray(out[2])
        np.testing.assert_allclose(true, -p.sum(), rtol=1e-12)
        np.testing.assert_allclose(np.round(-told * 9 * e), -told * 9 * e, atol=1e-9)
        noise[e] = told - true
        expected = variance / (9 * e)
        assert abs(noise[e].mean()) < 4 * np.sqrt(expected / n)
        assert abs(noise[e].var() / expected - 1) < 4 * np.sqrt(2 / n)
    rest = np.asarray(whole[0] - first[0])
    assert abs(np.corrcoef(rest, first[0])[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(first[0][1:], first[0][:-1])[0, 1]) < 4 / np.sqrt(n), "of neighbouring trials"

    # The whole law of an epoch, three binomials added up.
    mass = np.ones(1)
    for q in p:
        mass = np.convolve(mass, binom.pmf(np.arange(10), 9, q))
    counts = np.bincount(np.round(-(noise[1] - p.sum()) * 9).astype(int), minlength=28)
    usual = mass * n > 20
    observed = np.append(counts[usual], counts[~usual].sum())
    expected = np.append(mass[usual], mass[~usual].sum()) * n
    assert chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("size", "regrets"),
    [(4, (0.278, 0.185, 0.156)), pytest.param(8, (0.342, 0.274, 0.251), marks=pytest.mark.slow)],
)
def test_random_search_regret_on_the_published_sizes(size, regrets):
    """Normalised regret after 10, 50 and 100 full evaluations, 1,000 searches of different instances."""
    objective, d = CountingOnes(categorical=size, continuous=size), 2 * size

    @jax.jit
    @jax.vmap
    def run(key):
        instance = objective.draw(key)
        x = jax.random.uniform(jax.random.fold_in(key, 1), (100, d), jnp.float32)

        keys = jax.random.split(key, 100)

        def trial(k, u):
            hp = objective.space.decode_array(u)
            return objective.train(instance, k, jnp.int32(0), hp, jnp.int32(0), jnp.int32(81))[1:]

        # The best corner of the cube.
        best = ~jnp.concatenate([instance.flipped_bits, instance.flipped])
        attained = trial(key, best.astype(jnp.float32))
        return *jax.vmap(trial)(keys, x), *attained, objective.reference(instance).optimum_static

    told, true, told_best, true_best, known = map(np.asarray, run(jax.random.split(jax.random.key(0), 1000)))
    assert (known == -d).all() and (true_best == -d).all() and (told_best == -d).all()
    assert (true > -d).all()
    for n, expected in zip((10, 50, 100), regrets, strict=True):
        chosen = true[np.arange(1000), told[:, :n].argmin(1)]
        assert ((chosen + d) / d).mean() == pytest.approx(expected, abs=0.01)


def test_axes_are_flipped_by_instance():
    objective = CountingOnes(categorical=8, continuous=8)
    instances = jax.vmap(objective.draw)(jax.random.split(jax.random.key(0), 500))
    flips = np.concatenate(instances, axis=1)
    assert (abs(flips.mean(0) - 0.5) < 4 * 0.5 / np.sqrt(500)).all()
    assert len({f.tobytes() for f in flips}) > 490
    assert not np.concatenate(CountingOnes(flip=False).draw(jax.random.key(0))).any()
    assert objective.space.dimension == 16 and objective.fidelity == "proxy"


@pytest.mark.parametrize(
    "settings", [{"categorical": -1}, {"continuous": 0}, {"samples": 40}, {"max_epoch": 0}]
)
def test_bad_settings_name_themselves(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        CountingOnes(**settings)
