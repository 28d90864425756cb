"""TaskSet: the nearest record, both layouts of its files, divergence; on runs made here and on real ones."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import reference
from bench.contract import check_objective
from bench.protocols import MissingData
from surrogates.taskset import COLLECTED, COMPLEMENTS, EVALUATIONS, PREFIX, SPACE, TASKS, Instance, TaskSet

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / COLLECTED).is_file(), reason=f"no {DATA / COLLECTED}")
CONFIGURATIONS = 30


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs made here: (folder with the publisher's files, folder with the collected one, u, losses f64[tasks,
    2, configurations, evaluations]). Configuration 3 diverges from evaluation 7 on, 4 at 9 only."""
    rng = np.random.default_rng(0)
    u = rng.random((CONFIGURATIONS, len(SPACE.axes)))
    values = SPACE.decode_many(u)
    hp = {COMPLEMENTS.get(n, n): 1 - v if n in COMPLEMENTS else v for n, v in values.items()}
    losses = rng.random((len(TASKS), 2, CONFIGURATIONS, EVALUATIONS))
    losses[:, :, 3, 7:] = np.nan
    losses[:, :, 4, 9] = np.inf
    losses[2, 0, 5, 20] = 1e30
    losses[:, :, 6, 0] = -1.0  # the lowest, but of fresh weights
    published, collected = (tmp_path_factory.mktemp(name) for name in ("published", "collected"))
    arrays = {"hp_names": sorted(hp), "task_names": TASKS}
    for task, (valid, test) in zip(TASKS, losses, strict=True):
        runs = [
            {
                "hp": {name: float(hp[name][i]) for name in hp},
                **{
                    k: {"loss": v[i].tolist()}
                    for k, v in (("train", valid), ("valid", valid), ("test", test))
                },
            }
            for i in range(CONFIGURATIONS)
        ]
        (published / f"{PREFIX}{task}.json").write_text(json.dumps(runs))
        arrays[f"{task}/hp"] = np.stack([hp[name] for name in sorted(hp)], 1).astype(np.float32)
        for name, part in (("train", valid), ("valid", valid), ("test", test)):
            arrays[f"{task}/{name}_loss"] = part.astype(np.float32)
    np.savez_compressed(collected / COLLECTED, **arrays)
    return published, collected, u, losses


def trained(objective, points, task: int, epochs):
    """Told and true losses [points, epochs] of unit-cube points, from the first epoch and from one before."""

    @jax.jit
    def run(points, epochs):
        def one(u, until):
            hp, key = SPACE.decode_array(u), jax.random.key(0)
            instance = Instance(jnp.int32(task))
            return objective.train(instance, key, (), hp, until - 1, until)[1:]

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(points, epochs)

    return map(np.asarray, run(jnp.asarray(points, jnp.float32), jnp.asarray(epochs, jnp.int32)))


def test_a_recorded_configuration_gets_its_own_curve_in_both_layouts(made):
    published, collected, u, losses = made
    first, second = TaskSet(data_dir=str(published)), TaskSet(data_dir=str(collected))
    assert first == second and hash(first) == hash(second) and first.digest == second.digest
    assert reference.settings_of(first) == {"name": "taskset", "task": None, "digest": first.digest}
    told, true = trained(first, u, 2, range(1, 51))
    valid, test = losses[2][:, :, 1:].astype(np.float32).copy()
    for curve in (valid, test):
        curve[3, 6:] = curve[4, 8:] = np.inf  # once diverged, diverged for good
    np.testing.assert_array_equal(told, valid)
    np.testing.assert_array_equal(true, test)
    assert told[5, 19] == np.float32(1e30)
    best = first.reference(Instance(jnp.int32(2))).optimum_static
    assert best == test.min() and best.dtype == np.float64
    assert first.max_epoch == 50 and float(first.cost(Instance(jnp.int32(0)), None, {}, 3, 50)) == 47.0


def test_settings_and_missing_files_are_one_line(made, tmp_path):
    published, _, _, _ = made
    source = r"set it to the folder data/taskset of github\.com/releaunifreiburg/DPL$"
    with pytest.raises(MissingData, match=rf"^no file {PREFIX}{TASKS[0]}\.json in data_dir=null: {source}"):
        TaskSet()
    for task in TASKS[:-1]:
        (tmp_path / f"{PREFIX}{task}.json").symlink_to(published / f"{PREFIX}{task}.json")
    with pytest.raises(MissingData, match=rf"^no file {PREFIX}{TASKS[-1]}\.json in data_dir=.*: {source}"):
        TaskSet(data_dir=str(tmp_path))
    (tmp_path / f"{PREFIX}{TASKS[-1]}.json").write_text("[]")
    with pytest.raises(ValueError, match=r"does not hold TaskSet's runs: "):
        TaskSet(data_dir=str(tmp_path))
    runs = json.loads((published / f"{PREFIX}{TASKS[-1]}.json").read_text())
    runs[0]["hp"]["l1"] *= 2
    (tmp_path / f"{PREFIX}{TASKS[-1]}.json").write_text(json.dumps(runs))
    with pytest.raises(ValueError, match=r"does not hold TaskSet's runs: .*tasks differ in l1"):
        TaskSet(data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^task must be one of imdb_.*, or null for all, got 'mnist'$"):
        TaskSet(task="mnist", data_dir=str(published))


# The real runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objective():
    return TaskSet(data_dir=str(DATA))


@needs_data
def test_the_nearest_record_by_brute_force(objective):
    data = np.load(DATA / COLLECTED)
    names = [str(name) for name in data["hp_names"]]
    places = []
    for name, axis in SPACE.axes.items():
        value = data[f"{TASKS[0]}/hp"][:, names.index(COMPLEMENTS.get(name, name))].astype(np.float64)
        value = np.clip(1 - value if name in COMPLEMENTS else value, axis.low, axis.high)
        places.append(np.log(value / axis.low) / np.log(axis.high / axis.low))
    places = np.stack(places, 1)
    # The recorded configurations fill the space that is declared, evenly: 1,000 uniform draws, 5 sigma.
    assert places.min(0).max() < 0.01 and places.max(0).min() > 0.99
    assert np.abs(places.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / 1000)

    x = np.random.default_rng(1).random((3000, 8)).astype(np.float32)
    squares = ((x[:, None].astype(np.float64) - places) ** 2).sum(2)
    nearest = jax.jit(jax.vmap(lambda u: objective.nearest(SPACE.decode_array(u))))
    found = np.asarray(nearest(x))
    # Where two are as near to float32's digits, either will do.
    assert (squares[np.arange(3000), found] - squares.min(1)).max() < 1e-5
    assert (found == squares.argmin(1)).mean() > 0.998
    np.testing.assert_array_equal(nearest(places.astype(np.float32)), np.arange(1000))


@needs_data
def test_the_optimum_is_exact_and_divergence_stays(objective):
    data = np.load(DATA / COLLECTED)
    x = np.random.default_rng(2).random((500, 8))
    for number in (0, 5):
        valid, test = (data[f"{TASKS[number]}/{part}_loss"] for part in ("valid", "test"))
        best = float(objective.reference(Instance(jnp.int32(number))).optimum_static)
        assert best == np.nanmin(test[:, 1:])
        told, true = trained(objective, x, number, range(1, 51))
        assert not np.isnan(told).any() and true.min() >= best
        share = np.isnan(valid[:, -1]).mean()
        assert abs(np.isinf(told[:, -1]).mean() - share) < 5 * np.sqrt(share * (1 - share) / 500)
        assert not np.isfinite(told[np.isinf(told[:, 0])]).any()


@needs_data
def test_stored_reference_and_rules(objective):
    stored = reference.reference_table(objective, range(1000, 1064))
    draw = jax.jit(jax.vmap(lambda i: objective.draw(reference.instance_key(i)).task))
    tasks = np.asarray(draw(np.arange(1000, 1064, dtype=np.uint32)))
    assert set(tasks) == set(range(len(TASKS)))
    optima = [float(objective.reference(Instance(jnp.int32(i))).optimum_static) for i in range(len(TASKS))]
    np.testing.assert_array_equal(stored["optimum_static"], np.array(optima)[tasks])
    assert (stored["q_0"] >= stored["optimum_static"]).all()
    assert check_objective(objective) == []
