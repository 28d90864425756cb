"""MF-Hartmann: the published values, an exact optimum at the last epoch, and a dial from good to terrible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from surrogates.functions import Function
from surrogates.mf_hartmann import QUALITIES, MFHartmann

# Values of mf-prior-bench 1.10.0 (mfpbench.synthetic.hartmann.generators) without noise, of 100 fidelities,
# at (.1, .25, .4, ...), (.9, .79, .68, ...) and its minimiser.
PUBLISHED = {
    (3, 1, 2.5): (0.6047215678935814, 0.17616753558966286, 0.07018756612775545),
    (3, 1, 4.0): (1.2317693870107222, 0.8836394688023429, 2.4299679779740107),
    (3, 33, 2.5): (-0.18876247735592355, -0.7190874582901807, -2.915945309238345),
    (3, 100, 4.0): (-0.44035813063498624, -1.002952353098137, -3.8627797869493365),
    (6, 7, 2.5): (0.020350545575414707, -0.0171865643016899, -1.32264400286304),
    (6, 7, 4.0): (0.1560024707121053, -0.007745457328536277, -0.12280959774606046),
    (6, 33, 4.0): (-0.05492490124775877, -0.02242558722888679, -1.9884515162321832),
    (6, 100, 2.5): (-0.20573599631906964, -0.032921742590279274, -3.322368011391339),
}
MINIMISERS = {3: (0.114614, 0.555649, 0.852547), 6: (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows(d):
    return np.array([0.1 + 0.15 * np.arange(d), 0.9 - 0.11 * np.arange(d), MINIMISERS[d]])


def evaluated(objective, x, epochs, key=None):
    """Told and true losses [points, epochs] at x f64[points, d], each point a trial of its own."""
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def run(x):
        instance = objective.draw(key)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(x))

        def one(k, u, t):
            hp = {f"x{i}": u[i] for i in range(objective.dimension)}
            return objective.train(instance, k, (), hp, jnp.int32(0), t)[1:]

        over = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))
        return over(keys, x, jnp.array(epochs, jnp.int32))

    return map(np.asarray, run(jnp.asarray(x)))


@pytest.mark.parametrize("dimension", [3, 6])
@pytest.mark.parametrize("bias", [2.5, 4.0])
def test_values_are_the_published_ones(dimension, bias):
    cases = [case for case in PUBLISHED if case[0] == dimension and case[2] == bias]
    objective = MFHartmann(dimension=dimension, bias=bias, noise=0.0, shift=False)
    told, true = evaluated(objective, rows(dimension), [epoch for _, epoch, _ in cases])
    np.testing.assert_allclose(told.T, [PUBLISHED[case] for case in cases], atol=1e-12)
    last, _ = evaluated(objective, rows(dimension), [100])
    # The true loss is the value at the last epoch.
    np.testing.assert_allclose(true, np.broadcast_to(last, true.shape), rtol=1e-12)


def test_values_are_the_librarys():
    generators = pytest.importorskip("mfpbench.synthetic.hartmann.generators")
    x = np.random.default_rng(0).uniform(size=(20, 3))
    told, _ = evaluated(MFHartmann(bias=3.5, noise=0.0, shift=False), x, [1, 10, 100])
    peer = generators.MFHartmann3(100, 3.5, 0.0, seed=1)
    np.testing.assert_allclose(told, [[peer(z, tuple(u)) for z in (1, 10, 100)] for u in x], atol=1e-12)


@pytest.mark.parametrize("dimension", [3, 6])
def test_instances_are_moved_hartmann_functions_with_its_optimum(dimension):
    objective = MFHartmann(dimension=dimension, quality="terrible")
    key = jax.random.key(4)
    x = np.random.default_rng(1).uniform(size=(20_000, dimension))
    instance = objective.draw(key)
    best = np.asarray(objective.function.minimiser + instance.shift)
    assert (best > 0.04).all() and (best < 0.96).all()
    told, true = evaluated(objective, np.vstack([best, x]), [1, 100], key)
    known = float(objective.reference(instance).optimum_static)
    assert true[0, 0] == pytest.approx(known, abs=1e-12) and true.min() >= known - 1e-12
    np.testing.assert_array_equal(told[:, 1], true[:, 1], "no bias or noise at the end")
    plain = Function(f"hartmann{dimension}")
    hp = {f"x{i}": jnp.asarray(x[:50, i]) for i in range(dimension)}
    moved = jax.vmap(lambda h: plain.train(plain.draw(key), key, (), h, jnp.int32(0), jnp.int32(1))[1])(hp)
    np.testing.assert_allclose(true[1:51, 0], moved, atol=1e-12)


def test_noise_only_raises_falls_to_zero_and_is_the_epochs():
    """8,000 trials; tolerances of 4 sigma. |N(0, 1)| has mean sqrt(2/pi) and variance 1 - 2/pi."""
    objective = MFHartmann(noise=2.0, bias=0.0)
    told, true = evaluated(objective, np.full((8000, 3), 0.4), [1, 10, 31, 100])
    noise = told - true
    assert noise.min() >= 0 and (noise[:, -1] == 0).all()
    for i, share in enumerate((1.0, 0.5, 1 - np.log(31) / np.log(100))):
        mean, deviation = 2 * share * np.sqrt(2 / np.pi), 2 * share * np.sqrt(1 - 2 / np.pi)
        assert abs(noise[:, i].mean() - mean) < 4 * deviation / np.sqrt(8000)
        assert abs(noise[:, i].std() / deviation - 1) < 0.05
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 4 / np.sqrt(8000)

    hp, key = {f"x{i}": jnp.float32(0.3) for i in range(3)}, jax.random.key(2)
    instance = objective.draw(key)

    def train(start, until):
        return objective.train(instance, key, (), hp, jnp.int32(start), jnp.int32(until))[1]

    assert train(0, 31) == train(10, 31)


def test_quality_is_a_dial_on_the_rank_correlation():
    """The worse the quality, the lower the correlation of early losses with the last, down to inverted."""
    x = np.random.default_rng(3).uniform(size=(4096, 3))
    found = {}
    for quality in QUALITIES:
        told, true = evaluated(MFHartmann(quality=quality, noise=0.0), x, [1, 4, 11, 33, 100])
        found[quality] = [spearmanr(told[:, i], true[:, 0])[0] for i in range(5)]
    values = np.array([found[q] for q in ("plain", "good", "moderate", "bad", "terrible")])
    assert (np.diff(values[:, :4], axis=0) < 0).all()
    assert (np.diff(values, axis=1) > 0).all(), "later epochs tell more"
    np.testing.assert_allclose(values[:, 4], 1.0)
    assert values[0, 0] > 0.95 and values[-1, 0] < -0.4
    told, true = evaluated(MFHartmann(), x, [11])
    assert spearmanr(told[:, 0], true[:, 0])[0] < found["good"][2] - 0.1, "noise costs correlation"


def test_cost_is_kandasamys():
    objective = MFHartmann()
    instance, key = objective.draw(jax.random.key(0)), jax.random.key(0)

    def cost(start, until):
        return float(objective.cost(instance, key, {}, jnp.int32(start), jnp.int32(until)))

    assert [cost(0, z) for z in (1, 10, 100)] == pytest.approx([5.0095, 5.95, 100.0])
    assert cost(0, 10) + cost(10, 100) == pytest.approx(cost(0, 100), rel=1e-12)
    assert objective.fidelity == "proxy"


@pytest.mark.parametrize(
    "settings",
    [{"dimension": 4}, {"quality": "fair"}, {"bias": -1.0}, {"noise": float("inf")}, {"max_epoch": 1}],
)
def test_bad_settings_name_themselves(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got '?{value}"):
        MFHartmann(**settings)
