"""Curves of LC-PFN's and ifBO's priors: their laws, their optima, and what early losses tell of late ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, spearmanr

from bench.drive import instance_key
from bench.reference import reference_table
from surrogates import ifbo, lcpfn
from surrogates.curves import Curves
from surrogates.ifbo import IfBO
from surrogates.lcpfn import LCPFN

SPEARMAN = (0.755, 0.934, 0.965, 0.985, 0.998)  # LC-PFN's prior, epochs 1, 5, 10, 20, 50 of 100
EPOCHS = (1, 5, 10, 20, 50, 100)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def losses(objective, instances, configurations, epochs, seed=0):
    """True losses [instances, configurations, epochs] of random configurations, and the instances."""

    @jax.jit
    @jax.vmap
    def run(key):
        instance = objective.draw(key)
        u = jax.random.uniform(
            jax.random.fold_in(key, 1), (configurations, objective.space.dimension), jnp.float32
        )

        def one(u, t):
            hp = objective.space.decode_array(u)
            return objective.train(instance, key, (), hp, jnp.int32(0), t)[2]

        over = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        return over(u, jnp.array(epochs, jnp.int32)), instance

    values, instance = run(jax.random.split(jax.random.key(seed), instances))
    return np.asarray(values), instance


def ranks(values):
    """Spearman correlation of each column but the last with the last."""
    return np.array([spearmanr(column, values[:, -1])[0] for column in values.T[:-1]])


def noise_of(objective, instance, x, trials, until):
    """Told minus true losses [trials, 2] of one configuration at `until` and at the epoch before."""
    slices = jnp.array([[0, until], [until // 2, until], [0, until - 1]], jnp.int32)

    @jax.jit
    def run(keys):
        hp = objective.space.decode_array(jnp.asarray(x))

        def train(key, cut):
            return objective.train(instance, key, (), hp, cut[0], cut[1])[1:]

        return jax.vmap(jax.vmap(train, (None, 0)), (0, None))(keys, slices)

    told, true = map(np.asarray, run(jax.random.split(jax.random.key(8), trials)))
    np.testing.assert_array_equal(told[:, 0], told[:, 1])
    return (told - true)[:, [0, 2]]


# LC-PFN


@pytest.fixture(scope="module")
def prior():
    """Loss curves [n, 100] of the prior, drawn independently of the code: plain numpy, 40,000 proposals."""
    rng, n, t = np.random.default_rng(0), 40_000, np.arange(1, 101.0)

    def uniform(low, high):
        return rng.uniform(low, high, (n, 1))

    def lognormal(mean, deviation):
        return rng.lognormal(mean, deviation, (n, 1))

    y = uniform(0, 1) * (uniform(0, 1.25) - uniform(-0.6, 0.6) * t ** -lognormal(0, 2))
    y += uniform(0, 1) * (uniform(0, 1) - uniform(-0.5, 0.5) / np.log(t + 1))
    top, bottom = uniform(0, 1), uniform(0, 2)
    y += uniform(0, 1) * (top - (top - bottom) * np.exp(-lognormal(-2, 1) * t ** lognormal(0, 0.5)))
    accepted = (y[:, -1] > y[:, 0]) & (y >= 0).all(1) & (y <= 1).all(1)
    assert abs(accepted.mean() - 0.206) < 4 * np.sqrt(0.206 * 0.794 / n)
    return 1 - y[accepted]


def test_lcpfn_proposals_follow_the_prior_and_its_published_correlations(prior):
    proposed, accepted = jax.jit(lambda k: lcpfn.proposals(k, 60_000, 100))(jax.random.key(1))
    # The parameters' own laws, before any curve is rejected.
    for name, mean, deviation in (("alpha", 0, 2), ("k", -2, 1), ("delta", 0, 0.5)):
        logs = np.log(np.asarray(getattr(proposed, name)))
        assert kstest((logs - mean) / deviation, "norm").pvalue > 1e-3
    # A weight U(0, 1) times a uniform or a difference of two.
    for name, mean, variance in (
        ("power", 0, 0.04),
        ("logarithm", 0, 1 / 36),
        ("exponential", -0.25, 23 / 144),
    ):
        values = np.asarray(getattr(proposed, name))
        assert abs(values.mean() - mean) < 4 * np.sqrt(variance / 60_000)
        assert values.var() == pytest.approx(variance, rel=0.03)
    kept = jax.tree.map(lambda c: np.asarray(c)[np.asarray(accepted)], proposed)
    curves = np.stack([np.asarray(kept.loss(float(t))) for t in EPOCHS], axis=1)
    assert abs(float(accepted.mean()) - 0.206) < 4 * np.sqrt(0.206 * 0.794 / 60_000)
    np.testing.assert_allclose(ranks(curves), SPEARMAN, atol=0.02)
    np.testing.assert_allclose(ranks(prior[:, np.array(EPOCHS) - 1]), SPEARMAN, atol=0.02)
    for i, epoch in enumerate(EPOCHS):  # the whole marginal law, two samples of 8,000 and 12,000
        low, mid, high = np.quantile(prior[:, epoch - 1], [0.1, 0.5, 0.9])
        share = [(curves[:, i] < q).mean() for q in (low, mid, high)]
        np.testing.assert_allclose(share, [0.1, 0.5, 0.9], atol=0.03)


@pytest.fixture(scope="module")
def lcpfn_losses():
    """256 instances of 32 configurations at EPOCHS."""
    with jax.enable_x64(True):
        return losses(LCPFN(), 256, 32, EPOCHS)


def test_lcpfn_as_an_objective_keeps_the_priors_law(prior, lcpfn_losses):
    """Within .02 of the prior's correlations, .04 of its law."""
    values, instance = lcpfn_losses
    assert values.dtype == np.float64 and (values >= np.asarray(instance.best)[:, None, None]).all()
    assert (values >= 0).all() and (values <= 1).all() and (values[..., -1] < values[..., 0]).all()
    pooled = values.reshape(-1, len(EPOCHS))
    np.testing.assert_allclose(ranks(pooled), SPEARMAN, atol=0.02)
    for i in (0, -1):
        quantiles = np.quantile(prior[:, EPOCHS[i] - 1], np.arange(0.05, 1, 0.05))
        share = (pooled[:, i, None] < quantiles).mean(0)
        np.testing.assert_allclose(share, np.arange(0.05, 1, 0.05), atol=0.04)


def test_lcpfn_optimum_is_attained_and_never_undercut(lcpfn_losses):
    objective, instances = LCPFN(), jax.tree.map(lambda a: a[:4], lcpfn_losses[1])
    epochs = jnp.arange(1, 101, dtype=jnp.int32)

    @jax.jit
    @jax.vmap
    def run(instance, key):
        x = jax.random.uniform(key, (600, 4), jnp.float32)
        near = instance.place.astype(jnp.float32) + 0.02 * (x[:300] - 0.5)
        x = jnp.concatenate([instance.place[None].astype(jnp.float32), near, x[300:]])

        def one(u, t):
            hp = objective.space.decode_array(u)
            return objective.train(instance, key, (), hp, jnp.int32(0), t)[2]

        values = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(x, epochs)
        return values, objective.reference(instance).optimum_static

    values, best = map(np.asarray, run(instances, jax.random.split(jax.random.key(2), 4)))
    np.testing.assert_allclose(values[:, 0].min(1), best, atol=1e-12)
    assert (values >= best[:, None, None]).all()
    steps = np.abs(values[:, 1:301, -1] - values[:, :1, -1])
    assert np.median(steps) < 0.05, "smooth: near the optimum lie good configurations"
    assert len(np.unique(best)) == 4


def test_lcpfn_noise_is_the_epochs_and_its_deviation_lognormal(lcpfn_losses):
    """4,000 trials; 4 sigma. Over instances, log deviation at a configuration is normal, -4 and 1."""
    objective = LCPFN()
    instance = jax.tree.map(lambda a: a[0], lcpfn_losses[1])
    x = np.full(4, 0.3, np.float32)
    fields = jax.jit(lcpfn.fields)
    deviation = float(np.exp(fields(instance, jnp.asarray(x, jnp.float64))[2] - 4))
    noise = noise_of(objective, instance, x, 4000, 40)
    assert (np.abs(noise.mean(0)) < 4 * deviation / np.sqrt(4000)).all()
    assert (np.abs(noise.std(0) / deviation - 1) < 4 / np.sqrt(8000)).all()
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(4000)
    rng = np.random.default_rng(0)
    drawn = [
        fields(instance._replace(weights=jnp.asarray(rng.normal(size=(3, 32)))), jnp.full(4, 0.7))
        for _ in range(300)
    ]
    assert kstest(np.array(drawn).ravel(), "norm").pvalue > 1e-3


# ifBO

# Values of the authors' code (ifbo 0.4.1, priors.ftpfn_prior.comb) at shares .02, .2, .5, 1 of the epochs. A
# few of the basis curves run backwards, in the first case beyond their start.
PUBLISHED = [
    (
        dict(low=0.1, top=0.9, weight=(0.4, 0.3, 0.2, 0.1), shape=(2.0, 0.8, 1.02, 1.5)),
        dict(
            saturation=(0.3, 0.5, 2.0, 0.2), precision=(100.0, 20.0, 300.0, 5.0), rate=(0.5, -1.5, 0.2, -4.0)
        ),
        [0.5109182458834081, 0.8197016430287986, 0.8052073299466701, 0.5480333692433297],
    ),
    (
        dict(low=0.3, top=0.7, weight=(0.1, 0.2, 0.3, 0.4), shape=(0.6, 2.0, 1.3, 0.7)),
        dict(
            saturation=(0.05, 0.1, 0.4, 3.0), precision=(2.0, 900.0, 50.0, 10.0), rate=(-0.5, 0.9, -2.0, 0.3)
        ),
        [0.4824624438727425, 0.5720086196950441, 0.5826867252405555, 0.38905922288598993],
    ),
]


@pytest.fixture(scope="module")
def ifbo_losses():
    """128 instances of 128 configurations without noise."""
    with jax.enable_x64(True):
        return losses(IfBO(), 128, 128, (1, 5, 10, 25, 50))


def test_ifbo_curves_are_the_authors():
    curve = jax.jit(jax.vmap(ifbo.accuracy, (None, None, 0)))
    for rise, clock, values in PUBLISHED:
        settings = {k: jnp.asarray(v, jnp.float64) for k, v in (rise | clock).items()}
        # Of the instance only the first accuracy is read.
        instance = ifbo.Instance(*[None] * 6, low=settings.pop("low"), high=None)
        parameters = ifbo.Parameters(deviation=jnp.float64(0), **settings)
        got = curve(instance, parameters, jnp.array([0.02, 0.2, 0.5, 1.0]))
        np.testing.assert_allclose(got, values, atol=1e-5)


def test_ifbo_outputs_become_uniform():
    """Over 8,192 instances, one configuration each: within the fit's .002 and 4 sigma."""
    objective = IfBO(dimension=1)

    @jax.jit
    @jax.vmap
    def run(key):
        x = jax.random.uniform(jax.random.fold_in(key, 2), (1,), jnp.float32)
        return ifbo.uniforms(ifbo.network(objective.draw(key), x))

    below, above = map(np.asarray, run(jax.random.split(jax.random.key(4), 8192)))
    np.testing.assert_allclose(below + above, 1.0, atol=1e-6)
    assert below.min() > 0 and above.min() > 0
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        # The outputs of one instance share its weights' scale: 8,192 times 23 are not independent.
        share = (below < q).mean(1)
        assert abs(share.mean() - q) < 0.003 + 4 * share.std() / np.sqrt(8192)


def test_ifbo_curves_cross_saturate_and_diverge(ifbo_losses, lcpfn_losses):
    values, _ = ifbo_losses
    assert values.dtype == np.float64 and (values >= 0).all() and (values <= 1).all()
    found = np.array([ranks(v) for v in values])
    median = np.nanmedian(found, axis=0)
    # The table of the module, whose median's own error is about .05.
    np.testing.assert_allclose(median, [0.52, 0.78, 0.85, 0.95], atol=0.15)
    assert (np.diff(median) > 0).all() and (np.nanquantile(found, 0.1, axis=0)[0] < 0), "some turn over"
    order = np.sign(values[:, :64] - values[:, 64:])
    cross = np.median((order[..., :-1] * order[..., -1:] < 0).mean(1), axis=0)
    np.testing.assert_allclose(cross, [0.31, 0.19, 0.14, 0.06], atol=0.08)
    assert (np.diff(cross) < 0).all()
    # More cross than LC-PFN's after a tenth and half of the way, the third and fifth of its epochs.
    other = lcpfn_losses[0]
    order = np.sign(other[:, :16] - other[:, 16:])
    fewer = np.median((order[..., :-1] * order[..., -1:] < 0).mean(1), axis=0)
    assert fewer[2] < cross[1] - 0.05 and fewer[4] < cross[3] - 0.03
    rise = (values[..., -1] - values.min(-1) > 0.05).mean()
    assert 0.1 < rise < 0.7, "curves that end worse than they have been"


@pytest.mark.slow
def test_ifbo_noise_is_the_epochs_and_stays_within_the_unit_interval(ifbo_losses):
    """4,000 trials; 4 sigma of the uncut noise."""
    objective = IfBO()
    instance = jax.tree.map(lambda a: a[2], ifbo_losses[1])
    x = np.full(4, 0.5, np.float32)
    deviation = float(jax.jit(ifbo.parameters)(instance, jnp.asarray(x)).deviation)
    noise = noise_of(objective, instance, x, 4000, 40)
    assert (np.abs(noise.mean(0)) < 4 * deviation / np.sqrt(4000)).all()
    assert (np.abs(noise.std(0) / deviation - 1) < 4 / np.sqrt(8000)).all()
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(4000)
    loud = IfBO(noise=1e3)
    hp = loud.space.decode_array(jnp.asarray(x))
    keys = jax.random.split(jax.random.key(0), 50)
    told = jax.jit(jax.vmap(lambda k: loud.train(instance, k, (), hp, jnp.int32(0), jnp.int32(9))[1]))(keys)
    assert told.min() == 0 and told.max() == 1, "cut, not rejected"


@pytest.mark.slow
def test_ifbo_reference_is_below_other_random_configurations():
    """The stored optima against 4,096 random configurations an instance at 10 epochs, of another seed."""
    objective, indices = IfBO(), range(1000, 1004)
    stored = reference_table(objective, indices)

    @jax.jit
    @jax.vmap
    def lowest(index):
        instance = objective.draw(instance_key(index))
        x = jax.random.uniform(jax.random.fold_in(jax.random.key(77), index), (4096, 4), jnp.float32)
        t = jnp.arange(5, 51, 5) / 50.0

        def one(u):
            p = ifbo.parameters(instance, u)
            return jnp.min(1 - jax.vmap(lambda s: ifbo.accuracy(instance, p, s))(t))

        return jnp.min(jax.vmap(one)(x))

    found = np.asarray(lowest(jnp.asarray(indices, jnp.uint32)))
    best = stored["optimum_static"].to_numpy()
    assert (found >= best).all() and (best >= 0).all()
    assert (stored["q_0"].to_numpy() >= best).all()


def test_ifbo_reference_is_below_configurations_that_one_search_missed():
    """Losses from other searches, among them a corner of the cube and an early epoch."""
    found = {
        1025: ([0.16427004, 1.0, 0.37099063, 0.0], 0.591720),
        1036: ([0.4605409, 0.99560857, 0.59299827, 0.23927975], 0.0922591),
        1051: ([0.9533789, 0.6946864, 0.3250481, 0.2975384], 0.1078),
    }
    objective = IfBO()
    stored = reference_table(objective, list(found)).set_index("instance")["optimum_static"]

    @jax.jit
    def lowest(index, x):
        p = ifbo.parameters(instance := objective.draw(instance_key(index)), x)
        return jnp.min(1 - jax.vmap(lambda t: ifbo.accuracy(instance, p, t))(jnp.arange(1, 51) / 50.0))

    for index, (x, loss) in found.items():
        value = float(lowest(jnp.uint32(index), jnp.asarray(x, jnp.float32)))
        assert value == pytest.approx(loss, abs=5e-5)
        assert stored[index] < value


# The dials of `curves`


@pytest.mark.parametrize(
    ("settings", "correlations"),
    [
        pytest.param(dict(rank=0.5), (0.32, 0.56, 0.82, 0.96), marks=pytest.mark.slow),
        (dict(rank=0.8, crossing=0.75), (-0.54, -0.11, 0.51, 0.90)),
    ],
)
def test_dials_of_curves_give_the_stated_rank_correlations(settings, correlations):
    """The module's table, median of 32 instances: its error is about .03 where instances spread most."""
    values, _ = losses(Curves(noise=0.0, diverge=0.0, **settings), 32, 256, (1, 3, 9, 27, 81))
    median = np.median([ranks(v) for v in values], axis=0)
    np.testing.assert_allclose(median, correlations, atol=0.1)


@pytest.mark.parametrize("kind", [LCPFN, IfBO])
@pytest.mark.parametrize("settings", [{"dimension": 0}, {"max_epoch": 1}, {"noise": -0.5}])
def test_bad_settings_name_themselves(kind, settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        kind(**settings)
