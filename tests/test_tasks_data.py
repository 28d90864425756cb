"""Data of the tasks: pinned, as their papers say, divided without overlap; and the page about them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.protocols import MissingExtra
from bench.space import Choice
from bench.tasks import data
from bench.tasks.task import Task

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tasks.md"
TASKS = [
    path.stem
    for path in sorted((ROOT / "conf" / "objective").glob("*.yaml"))
    if OmegaConf.load(path)["_target_"] == "bench.tasks.task.Task"
]
NETWORKS = {"mlp": "perceptron", "cnn": "convolutional", "transformer": "transformer", "logistic": "linear"}


def loaded(name):
    """A set's examples, held to its sha256; skips where its package is missing."""
    if find_spec(data.SETS[name].module) is None:
        pytest.skip(f"{data.SETS[name].package} is not installed")
    return data.load(name)


@pytest.mark.parametrize("name", data.SETS)
def test_a_set_is_what_it_is_said_to_be(name):
    chosen = data.SETS[name]
    inputs, labels = loaded(name)
    assert len(inputs) == len(labels) == chosen.examples and inputs.shape[1:] == chosen.shape
    assert np.isfinite(inputs).all()
    if chosen.kind == "regression":
        assert labels.dtype == np.float32 and labels.shape == (chosen.examples,)
        assert abs(labels.mean()) < 1e-3 and labels.std() == pytest.approx(1, abs=1e-3)
        return
    assert labels.dtype == np.int32 and set(np.unique(labels)) <= set(range(chosen.classes))
    if chosen.kind == "text":
        assert inputs.dtype == np.int32 and inputs.max() < chosen.classes and len(np.unique(inputs)) > 90
        assert np.array_equal(inputs[:, 1:], labels[:, :-1])  # a label is the next character
    else:
        assert inputs.dtype == np.float32 and len(np.unique(labels)) == chosen.classes
        assert abs(inputs.mean()) < 0.02 and 0.2 < inputs.std() < 1.01


def test_facts_of_the_sources():
    """Benign cases of breast cancer 357 (its authors); a third of Fair's women; 500 images a digit."""
    assert int(loaded("breast_cancer").labels.sum()) == 357
    assert {name: chosen.examples for name, chosen in data.SETS.items() if chosen.module == "sklearn"} == {
        "digits": 1797, "breast_cancer": 569, "diabetes": 442,
    }  # fmt: skip
    assert loaded("survey").labels.mean() == pytest.approx(2053 / 6366)
    assert (np.bincount(loaded("mnist_sample").labels) == 500).all()


def test_making_signals_leaves_the_global_generators_alone():
    if find_spec("mnist1d") is None:
        pytest.skip("mnist1d is not installed")
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    data.SETS["mnist1d"].read()
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra, match=r'^mnist1d is not installed.*of mnist1d: .*"nearopt\[tasks\]"$'):
        Task(data="mnist1d")


def rows_of_tasks():
    for name in TASKS:
        task = OmegaConf.load(ROOT / "conf" / "objective" / f"{name}.yaml")
        parts = " / ".join(f"{task[key]:,}" for key in ("training", "validation", "test"))
        size = f"{NETWORKS[task.model]}, width {task.width}, {task.blocks} block{'s' * (task.blocks > 1)}"
        sizes = [task.micro_batch << i for i in range(4)]
        batches = ", ".join(str(size) for size in sizes if task.training % size == 0)
        yield f"| {name} | {task.data} | {parts} | {size} | {task.max_epoch} | {batches} |"


def rows_of_sets():
    for name, chosen in data.SETS.items():
        yield f"| {name} | {chosen.package} | {chosen.source} | {chosen.licence} | `{chosen.sha256[:12]}` |"


def rows_of_axes():
    for name, axis in Task().space.axes.items():
        if isinstance(axis, Choice):
            values = ", ".join(map(str, axis.values))
        else:
            values = f"{axis.low:g} to {axis.high:g}" + ", log" * axis.log
        change = "yes" if axis.change else "no"
        yield f"| {name} | {values} | {axis.default} | {change} | {axis.role} |"


@pytest.mark.parametrize("rows", [rows_of_tasks, rows_of_sets, rows_of_axes])
def test_the_page_says_what_there_is(rows):
    """One row for each, as the page has them."""
    page = PAGE.read_text().splitlines()
    places = [page.index(row) for row in rows()]
    assert places == list(range(places[0], places[0] + len(places)))
    assert not page[places[-1] + 1]  # and no further one


@pytest.mark.parametrize("name", TASKS)
def test_listed_tasks_are_built_and_named_after_their_file(name):
    settings = OmegaConf.load(ROOT / "conf" / "objective" / f"{name}.yaml")
    if find_spec(data.SETS[settings.data].module) is None:
        pytest.skip(f"{settings.data} needs the extra tasks")
    task = instantiate(settings)
    assert task.name == name and task.max_epoch % 9 == 0 and task.space.dimension <= 16
    assert len(task.batches) >= 3
