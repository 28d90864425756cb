"""The Parzen estimators and the strategy TPE."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from bench.protocols import NONE, Feedback, Job
from bench.space import Choice, Float, Int, Space
from strategies import kde
from strategies.tpe import TPE

AXES = {
    "real": Float(-2.0, 3.0),
    "rate": Float(1e-4, 10.0, log=True),
    "whole": Int(-3, 5),
    "size": Int(1, 300, log=True),
    "choice": Choice(tuple("abcde")),
    "ordered": Choice((2, 3, 5, 7), ordered=True),
}
MIXED = Space(AXES)
SETTINGS = ({}, {"endpoints": True}, {"magic_clip": False}, {"prior_weight": 2.5})


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def exact(space):
    """The cube with its ends in float64."""
    ends = np.zeros((space.cube().width, 2))
    ends[:, 1] = 1.0
    ends[: space.dimension] = [axis.edges for axis in space.axes.values()]
    return jax.tree.map(jnp.asarray, space.cube()._replace(low=ends[:, 0], high=ends[:, 1]))


def history(space, n, seed=0):
    """n random configurations and their points [n, d], which stand for the value on discrete axes."""
    u = np.random.default_rng(seed).random((n, space.dimension))
    values = [space.decode(row) for row in u]
    x = np.full((n, space.cube().width), 0.5)
    for i, config in enumerate(values):
        x[i, : space.dimension] = [axis.encode(config[name]) for name, axis in space.axes.items()]
    return values, x


def plain_kernels(axis, values, at, endpoints=False, magic_clip=True, prior_weight=1.0):
    """By the published description, in loops, on the axis's own scale: log kernels of the points and the
    prior [len(at), n + 1], densities on the scale on which the axis is linear."""
    n = len(values)
    if isinstance(axis, Choice) and not axis.ordered:
        c = len(axis.values)
        rows = [[(v == w) + prior_weight / (n + 1) for w in axis.values] for v in values] + [[1.0] * c]
        table = np.array(rows) / np.sum(rows, 1, keepdims=True)
        return np.log(table[:, [axis.values.index(v) for v in at]]).T
    discrete = not isinstance(axis, Float)
    if isinstance(axis, Choice):
        values, at = ([axis.values.index(v) for v in vs] for vs in (values, at))
    scale = np.log if axis.log else np.asarray
    low, high = axis.edges
    mean = list(scale(np.asarray(values, float)))
    width = []
    for i in range(n):
        order = sorted(range(n), key=lambda k: (mean[k], k))
        p = order.index(i)
        gaps = []
        if p > 0 or endpoints or n == 1:
            gaps.append(mean[i] - (mean[order[p - 1]] if p > 0 else low))
        if p < n - 1 or endpoints or n == 1:
            gaps.append((mean[order[p + 1]] if p < n - 1 else high) - mean[i])
        least = (high - low) / min(100, n + 2) if magic_clip else 1e-12 * (high - low)
        width.append(min(max(*gaps, least), high - low))
    mean, width = np.array([*mean, (low + high) / 2]), np.array([*width, high - low])
    inside = norm.cdf(high, mean, width) - norm.cdf(low, mean, width)
    at = np.asarray(at, float)[:, None]
    if not discrete:
        return norm.logpdf(scale(at), mean, width) - np.log(inside)
    a, b = (scale(at - 0.5) - mean) / width, (scale(at + 0.5) - mean) / width
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)  # the left tail is the accurate one
    with np.errstate(divide="ignore"):
        return np.log(norm.cdf(b) - norm.cdf(a)) - np.log(inside)


def plain_mixture(kernels, prior_weight=1.0):
    n = kernels.shape[1] - 1
    ramp = np.linspace(1 / n, 1, n - 25) if n > 25 else []
    weight = np.array([*ramp, *np.ones(min(n, 25)), prior_weight])
    return np.log(np.exp(kernels) @ (weight / weight.sum()))


def stretch(space):
    """Log of the length of each axis on its linear scale, where its density is one: 0 on discrete axes."""
    ends = [axis.edges if isinstance(axis, Float) else (0, 1) for axis in space.axes.values()]
    return np.log([high - low for low, high in ends])


@lru_cache
def densities(settings):
    """Compiled: (cube, x, group, at) -> the log densities, multivariate and not."""

    def both(cube, x, group, at):
        mixtures = kde.fit(x, group, **dict(settings))
        return tuple(kde.log_densities(mixtures, cube, at, multivariate) for multivariate in (True, False))

    return jax.jit(both)


def compare(space, n, settings, peer):
    """Largest difference between our log densities and peer(names, values, at) -> [len(at)]."""
    values, x = history(space, n + 30, seed=n)
    group = np.random.default_rng(n).integers(0, 3, n)
    table = np.full((127, x.shape[1]), 0.5)
    table[:n] = x[:n]
    groups = np.append(group, np.full(127 - n, kde.UNUSED))
    joint, single = densities(tuple(settings.items()))(exact(space), table, groups, x[n:])
    at, names, worst = values[n:], list(space.axes), 0.0
    for multivariate, ours in ((True, np.asarray(joint)), (False, np.asarray(single))):
        for g in (kde.GOOD, kde.BAD):
            mine = [values[i] for i in np.flatnonzero(group == g)]
            if multivariate:
                truth = peer(names, mine, at) + stretch(space).sum()
            else:
                truth = np.stack([peer([name], mine, at) for name in names]) + stretch(space)[:, None]
                assert np.abs(ours[g, len(names) :]).max() < 1e-14  # padded axes
            worst = max(worst, np.abs(ours[g][: len(truth)] - truth).max())
    return worst


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("n", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 27, 120))])
def test_densities_are_those_of_the_description(n, settings):
    weight = settings.get("prior_weight", 1.0)

    def peer(names, values, at):
        columns = [([v[k] for v in values], [v[k] for v in at]) for k in names]
        kernels = sum(plain_kernels(AXES[k], *c, **settings) for k, c in zip(names, columns, strict=True))
        return plain_mixture(kernels, weight)

    assert compare(MIXED, n, settings, peer) < 1e-10


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_densities_are_optunas(settings, monkeypatch):
    optuna = pytest.importorskip("optuna", minversion="5.0")
    from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
    from optuna.samplers._tpe.sampler import default_weights

    # Its order of equal points is numpy's unstable one, which differs between machines.
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda a, **more: argsort(a, **{**more, "kind": "stable"}))
    space = Space({name: axis for name, axis in AXES.items() if name != "ordered"})
    theirs = optuna_space(optuna, space)
    parameters = _ParzenEstimatorParameters(
        settings.get("prior_weight", 1.0),
        settings.get("magic_clip", True),
        settings.get("endpoints", False),
        default_weights,
        True,
    )

    def columns(names, values):
        return {k: np.array([theirs[k].to_internal_repr(v[k]) for v in values], float) for k in names}

    def peer(names, values, at):
        estimator = _ParzenEstimator(columns(names, values), {k: theirs[k] for k in names}, parameters)
        return estimator.log_pdf(columns(names, at))

    for n in (1, 2, 3, 10, 25, 26, 27, 60, 80, 120):
        assert compare(space, n, settings, peer) < 1e-10, n


def optuna_space(optuna, space):
    made = {}
    for name, axis in space.axes.items():
        if isinstance(axis, Choice):
            made[name] = optuna.distributions.CategoricalDistribution(axis.values)
        elif isinstance(axis, Int):
            made[name] = optuna.distributions.IntDistribution(axis.low, axis.high, log=axis.log)
        else:
            made[name] = optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
    return made


def test_log_mass_in_the_tails():
    low, width = np.meshgrid(np.linspace(-36.0, 36.0, 145), [1e-6, 1e-3, 0.1, 2.0])
    high = low + width
    ours = np.asarray(kde.log_mass(jnp.asarray(low), jnp.asarray(high)))
    a, b = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    truth = norm.logcdf(b) + np.log1p(-np.exp(norm.logcdf(a) - norm.logcdf(b)))
    # A difference of masses loses 1e-16 / (the share that remains), at least 1e-6 here.
    np.testing.assert_allclose(ours, truth, rtol=1e-8, atol=1e-9)
    assert float(kde.log_mass(jnp.float64(90.0), jnp.float64(91.0))) > -691


@pytest.mark.parametrize("multivariate", [pytest.param(True, marks=pytest.mark.slow), False])
def test_samples_follow_the_good_density(multivariate):
    # Seed 3, 20,000 draws an axis; a false alarm (p < 1e-4 on one of 6 axes) is a matter of 4 sigma.
    _, x = history(MIXED, 40, seed=3)
    group = jnp.asarray(np.arange(40) % 3)
    mixtures = jax.jit(kde.fit)(jnp.asarray(x), group)
    picks = 1 if multivariate else 8
    u = kde.uniforms(jax.random.key(3), (20_000, picks + 8))
    sample = jax.jit(kde.sample, static_argnums=4)
    drawn = np.asarray(sample(mixtures, exact(MIXED), u[:, :picks], u[:, picks:], 20))
    assert np.all(drawn[:, 6:] == 0.5)
    weight = np.asarray(mixtures.weight[kde.GOOD])
    for j, (name, axis) in enumerate(AXES.items()):
        if name == "choice":
            continue
        mean, width = np.asarray(mixtures.mean[j]), np.asarray(mixtures.width[j])

        def cdf(v, mean=mean, width=width):
            v = np.asarray(v)[:, None]
            whole = norm.cdf(1, mean, width) - norm.cdf(0, mean, width)
            return ((norm.cdf(v, mean, width) - norm.cdf(0, mean, width)) / whole) @ weight

        assert kstest(drawn[:, j], cdf).pvalue > 1e-4, name
        assert axis.decode(float(drawn[0, j])) is not None
    points = jnp.full((5, 8), 0.5).at[:, 4].set((jnp.arange(5) + 0.5) / 5)
    log = jax.jit(kde.log_densities, static_argnums=3)(mixtures, exact(MIXED), points, False)
    share = np.exp(np.asarray(log)[kde.GOOD, 4])
    seen = np.bincount((drawn[:, 4] * 5).astype(int), minlength=5)
    assert abs(share.sum() - 1.0) < 1e-12
    assert np.sum((seen - 20_000 * share) ** 2 / (20_000 * share)) < 23.5  # chi2 of 4: p = 1e-4


def test_uniforms_are_uniform_and_depend_on_the_key():
    u = np.asarray(jax.vmap(lambda k: kde.uniforms(k, (100,)))(jax.random.split(jax.random.key(0), 400)))
    assert u.min() > 0 and u.max() < 1 and len(np.unique(u)) == u.size
    assert kstest(u.ravel(), "uniform").pvalue > 1e-4  # seed 0, 40,000 numbers
    # Neighbours in the counter and in the key are uncorrelated: 4 sigma.
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / math.sqrt(a.size)


KEYS = 64


def tpe(space=MIXED, budget=50, **settings):
    return TPE(cube=jax.tree.map(jnp.asarray, space.cube()), max_epoch=3, budget=budget, **settings)


@lru_cache
def machine(space=MIXED, budget=50, **settings):
    """(strategy, tell(state, told), ask(keys [KEYS], state, stage)), the last two compiled once: a table of
    jobs and losses is told in order, from one state every key asks."""
    strategy = tpe(space, budget, **settings)

    def one(state, told):
        trial, x, loss = told
        job = Job(trial, jnp.int32(NONE), x, jnp.int32(strategy.max_epoch))
        return strategy.tell(state, job, Feedback(loss, jnp.float64(1.0))), None

    tell = jax.jit(lambda state, told: jax.lax.scan(one, state, told)[0])
    ask = jax.vmap(strategy.ask, (0, None, None))
    return strategy, tell, jax.jit(ask, static_argnums=2)


def keys(seed):
    return jax.random.split(jax.random.key(seed), KEYS)


def first(tree):
    return jax.tree.map(lambda a: a[0], tree)


def tell_all(strategy, tell, x, loss):
    """The state after trials (i, NONE, x[i], max_epoch), in order; the rest of the table is told NONE."""
    n, more = len(loss), strategy.num_trials - len(loss)
    trials = np.append(np.arange(n), np.full(more, NONE)).astype(np.int32)
    x = np.pad(np.asarray(x, np.float32), [(0, more), (0, 0)], constant_values=0.5)
    loss = np.append(np.asarray(loss, np.float64), np.zeros(more))
    return tell(strategy.init(jax.random.key(0)), (trials, x, loss))


def test_good_and_bad():
    strategy, tell, ask = machine()
    _, x = history(MIXED, 45)
    loss = np.random.default_rng(1).normal(size=45).round(1)  # with ties: the earlier one is better
    loss[[3, 8]], loss[11] = np.inf, np.nan
    loss[20] = loss[30] = -9.0
    state = first(ask(keys(1), tell_all(strategy, tell, x, loss), 63)[1])  # one pending
    group = np.asarray(strategy._groups(state, 63))
    order = np.argsort(np.where(np.isfinite(loss), loss, np.inf), kind="stable")
    assert sorted(np.flatnonzero(group == kde.GOOD)) == sorted(order[:5])
    assert np.all(group[order[5:]] == kde.BAD) and group[45] == kde.BAD
    assert np.all(group[46:] == kde.UNUSED)
    assert int(strategy.recommend(state).trial) == 20
    assert np.asarray(tpe(constant_liar=False)._groups(state, 63))[45] == kde.UNUSED


def test_a_diverged_trial_is_never_good():
    strategy, tell, ask = machine()
    _, x = history(MIXED, 12)
    state = tell_all(strategy, tell, x, [math.nan, math.inf] * 6)
    assert not np.any(np.asarray(strategy._groups(state, 63)) == kde.GOOD)
    assert np.all(np.isfinite(ask(keys(1), state, 63)[0].x))


def test_how_many_are_good():
    assert [tpe().good(n) for n in (0, 1, 10, 11, 50, 240, 250, 400)] == [0, 1, 1, 2, 5, 24, 25, 25]
    pytest.importorskip("optuna", minversion="5.0")
    from optuna.samplers._tpe.sampler import default_gamma

    assert [tpe().good(n) for n in range(401)] == [default_gamma(n) for n in range(401)]


@pytest.mark.parametrize("multivariate", [True, False])
def test_suggestions_are_distributed_as_optunas(multivariate):
    # 512 of ours against 500 of Optuna's from one history, seeds 5 to 12; p < 1e-4 on one of 5 axes: 4 sigma.
    from scipy.stats import chi2_contingency, ks_2samp

    optuna = pytest.importorskip("optuna", minversion="5.0")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space({name: axis for name, axis in AXES.items() if name != "ordered"})
    values, x = history(space, 30, seed=5)
    loss = [abs(v["real"] - 1) + abs(math.log(v["rate"])) + v["whole"] % 3 for v in values]
    strategy, tell, ask = machine(space, multivariate=multivariate)
    state = tell_all(strategy, tell, x, loss)
    ours = np.concatenate([ask(keys(5 + i), state, 63)[0].x for i in range(8)])
    ours = space.decode_many(ours)

    sampler = optuna.samplers.TPESampler(seed=5, multivariate=multivariate, constant_liar=False)
    study, theirs = optuna.create_study(sampler=sampler), optuna_space(optuna, space)
    for config, value in zip(values, loss, strict=True):
        study.add_trial(optuna.trial.create_trial(params=config, distributions=theirs, value=value))
    asked = [study.ask(theirs).params for _ in range(500)]
    for name, axis in space.axes.items():
        a, b = ours[name], [p[name] for p in asked]
        if isinstance(axis, Float):
            p = ks_2samp(a, b).pvalue
        else:
            kinds = sorted({*a.tolist(), *b})
            if len(kinds) > 12:  # bins of about a twelfth
                kinds = sorted(set(np.quantile(kinds, np.linspace(0, 1, 12), method="lower").tolist()))
                a, b = np.searchsorted(kinds, a), np.searchsorted(kinds, b)
                kinds = sorted({*a.tolist(), *b.tolist()})
            counts = np.array([[list(v).count(k) for k in kinds] for v in (a, b)])
            many = counts[:, counts.sum(0) >= 10]
            rest = counts[:, counts.sum(0) < 10].sum(1, keepdims=True)
            counts = np.hstack([many, rest]) if rest.sum() else many
            p = chi2_contingency(counts).pvalue if counts.shape[1] > 1 else 1.0
        assert p > 1e-4, name


def nasty_losses(n):
    rng = np.random.default_rng(7)
    base = rng.normal(size=n)
    huge = np.where(rng.random(n) < 0.3, 1e30, base)
    mixed = np.where(rng.random(n) < 0.5, [np.inf, np.nan, -1e30, 1e308] * (n // 4), base)
    return [base, np.zeros(n), huge, mixed, np.full(n, np.nan)]


@pytest.mark.parametrize(
    ("d", "multivariate"),
    [
        (2, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, False), (20, True), (20, False))),
    ],
)
def test_suggestions_stay_in_the_cube_whatever_was_told(d, multivariate):
    # 2,688 suggestions a case: histories of 1 to 400 trials, of distinct, equal and nearly equal points.
    kinds = list(AXES.values())
    space = Space({f"x{i}": kinds[i % 6] if d == 20 else Float(0.0, 1.0) for i in range(d)})
    strategy, tell, ask = machine(space, budget=401, start=1, multivariate=multivariate)
    width, rng = strategy.cube.width, np.random.default_rng(d)
    points = [rng.random((400, width)), np.ones((400, width)), 0.3 + 1e-7 * rng.random((400, width))]
    seen = 0
    for c, n in enumerate([1, 2, 40, 60, 400]):
        for i, loss in enumerate(nasty_losses(400)):
            if n == 400 and i != 3:
                continue
            x = strategy.cube.fix(jnp.asarray(points[(c + i) % 3][:n], jnp.float32))
            state = tell_all(strategy, tell, x, loss[:n])
            for seed in (n, n + 1):
                out = np.asarray(ask(keys(seed), state, strategy.stage(n))[0].x)
                assert np.all((out >= 0) & (out <= 1)), (n, i)  # nan fails as well
                assert np.all(out[:, d:] == 0.5)
                seen += len(out)
    assert seen == 2688


def test_starts_with_the_shared_design_and_ends_waiting():
    strategy, tell, ask = machine()
    key = jax.random.key(4)
    state, design = strategy.init(key), strategy.cube.start(key, 10)
    for n in range(50):
        job, state = first(ask(keys(n), state, strategy.stage(n)))
        assert int(job.trial) == n and int(job.source) == NONE and int(job.until) == 3
        assert n >= 10 or np.array_equal(job.x, design[n])
        told = np.full(50, NONE, np.int32), np.full((50, 8), 0.5, np.float32), np.zeros(50)
        told[0][0], told[1][0], told[2][0] = n, job.x, np.sum(job.x)
        state = tell(state, told)
    job, after = first(ask(keys(0), state, 63))
    assert int(job.trial) == NONE
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(state, after, strict=True))


def test_until_enough_is_told_the_design_goes_on():
    strategy, _, ask = machine()
    state, design = strategy.init(jax.random.key(4)), strategy.cube.start(jax.random.key(4), 50)
    for n in range(16):  # sixteen workers, nothing told
        job, state = first(ask(keys(n), state, strategy.stage(n)))
        assert np.array_equal(job.x, design[n])


@pytest.mark.slow
def test_points_of_one_batch_differ_and_the_liar_spreads_them():
    # 64 keys, seed 9: with the liar the points of a batch lie further apart, by 3 sigma.
    space = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
    x = np.full((20, 8), 0.5, np.float32)
    x[:, :2] = np.random.default_rng(9).random((20, 2))
    loss = ((x[:, :2] - 0.4) ** 2).sum(1)
    far = []
    for liar in (True, False):
        strategy, tell, _ = machine(space, constant_liar=liar)
        state = tell_all(strategy, tell, x, loss)
        batch = jax.jit(jax.vmap(lambda key, state, s=strategy: s.ask(key, state, 63)))
        state, out = jax.tree.map(lambda a: jnp.broadcast_to(a, (KEYS, *a.shape)), state), []
        for i in range(6):
            job, state = batch(keys(9 + i), state)
            out.append(np.asarray(job.x[:, :2]))
        gaps = np.linalg.norm(np.stack(out[1:]) - np.stack(out[:-1]), axis=-1)
        assert gaps.min() > 0
        far.append(gaps.mean(0))
    gain = far[0] - far[1]
    assert gain.mean() > 3 * gain.std() / math.sqrt(KEYS)


def test_trials_made_elsewhere():
    _, x = history(MIXED, 14)
    loss = np.arange(14.0)[::-1]
    strategy, tell, ask = machine(budget=6, prior_trials=14)
    assert strategy.num_trials == 20 and "6 full trainings, 0 of a random design" in strategy.describe()
    assert strategy.stage(0) == 63
    state = tell_all(strategy, tell, x, loss)
    job = first(ask(keys(1), state, 63)[0])
    assert int(job.trial) == 14 and int(strategy.recommend(state).trial) == 13
    # The same trials asked for, not told from elsewhere, lead to the same point.
    other, tell, ask = machine()
    assert np.allclose(first(ask(keys(1), tell_all(other, tell, x, loss), 63)[0]).x, job.x, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_size_of_the_table_changes_nothing():
    _, x = history(MIXED, 30)
    strategy, tell, ask = machine()
    state = tell_all(strategy, tell, x, np.random.default_rng(0).random(30))
    small, large = (ask(keys(2), state, rows)[0].x for rows in (63, 127))
    np.testing.assert_allclose(small, large, rtol=0, atol=1e-6)


def test_no_loss_no_recommendation():
    strategy = tpe()
    assert int(strategy.recommend(strategy.init(jax.random.key(0))).trial) == NONE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0}, "start must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"fraction": 1.0}, "fraction must lie between 0 and 1, got 1.0"),
        ({"prior_weight": 0.0}, "prior_weight must be above 0, got 0.0"),
        ({"prior_trials": -1}, "prior_trials must be at least 0, got -1"),
        ({"budget": 0.5}, "a budget of at least 1 full training, got 0.5"),
    ],
)
def test_errors_say_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        tpe(**settings)
