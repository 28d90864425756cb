"""A results folder that is added to, taken less of, and broken in between: its report stays true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import metrics, reference, store
from bench.page.words import interval
from nearopt import catalogue, experiment
from nearopt.commands import main

ROOT = Path(__file__).parent.parent
WORDS = ["run", "name=a", "strategy=random,grid", "objective=branin", "processes=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


def summary() -> Any:
    return pd.read_csv("results/a/summary.csv")


def near() -> Any:
    """The near-optimal rows of the summary, by label and budget."""
    table = summary()
    return table[table["target"] == "near-optimal"].set_index(["label", "budget"])


def cell(label: str) -> dict:
    return json.loads(open(f"results/a/branin/{label}/cell.json").read())


def test_fewer_seeds_later_leave_every_run_scored():
    assert main([*WORDS, "budgets=[4]", "seeds=20"]) == 0
    before = near()
    assert main([*WORDS, "budgets=[4]", "seeds=3"]) == 0
    pd.testing.assert_frame_equal(near(), before)
    assert (before["runs"] == 20).all()


def test_a_reference_table_asked_for_less_keeps_what_it_has(tmp_path):
    """For instances one by one, and for a task whose one row serves them all."""
    for name in ("branin", "digits"):
        objective, cache = catalogue.build(catalogue.load("objective", name)), tmp_path / f"{name}.parquet"
        whole = reference.reference_table(objective, range(1000, 1006), cache)
        part = reference.reference_table(objective, [1002], cache)
        assert part["instance"].tolist() == [1002] and part.attrs["how"] == whole.attrs["how"]
        pd.testing.assert_frame_equal(pd.read_parquet(cache), whole)


def test_other_budgets_later_leave_the_earlier_ones_read():
    assert main([*WORDS, "budgets=[4,8,16]", "seeds=6"]) == 0
    before = near()
    assert main([*WORDS, "budgets=[6]", "seeds=6"]) == 0
    for label in ("random", "grid"):
        assert near().loc[label].index.tolist() == [4, 6, 8, 16]
        assert set(cell(label)["describe"]) == {"4", "6", "8", "16"}
    same = [i for i in before.index if i[1] != 6]
    columns = ["runs", "reached", "trials_median", "regret_mean"]
    pd.testing.assert_frame_equal(near().loc[same, columns], before.loc[same, columns])


@pytest.mark.slow
def test_a_larger_budget_with_fewer_seeds_takes_nothing_away(capsys):
    assert main([*WORDS, "budgets=[4,8]", "seeds=10"]) == 0
    before = near()
    assert main([*WORDS, "budgets=[16]", "seeds=3"]) == 0
    after = near()
    columns = ["runs", "reached", "trials_median", "regret_mean", "epochs_spent"]
    pd.testing.assert_frame_equal(after.loc[before.index, columns], before[columns])
    assert after.loc[("random", 16), "runs"] == 3
    assert "fewer than 10 runs with a budget of 16" in open("results/a/report.md").read()
    capsys.readouterr()
    assert main(["plan", *WORDS[1:], "budgets=[4,8]", "seeds=10"]) == 0
    assert "nothing to run" in capsys.readouterr().out


def test_who_diverges_has_reached_nothing():
    """Where fewer random configurations end than a target asks for, it is infinite."""
    true, spent = np.array([[np.inf, np.inf], [np.inf, 3.0]]), np.array([[1, 2], [1, 2]])
    found = metrics.reached_after(true, np.full(2, np.inf), spent, np.array([2, 2]))
    assert found.tolist() == [np.inf, 2]


def test_the_longest_run_of_each_seed_is_read():
    def trace(seeds, jobs):
        grid = np.stack(np.meshgrid(seeds, range(jobs), indexing="ij"), -1).reshape(-1, 2)
        return {"seed": grid[:, 0], "job": grid[:, 1]}

    traces = {8.0: trace([0, 1, 2], 2), 16.0: trace([1], 4), 4.0: trace([3], 1)}
    found = metrics.longest(traces, 8.0)
    assert dict(zip(*np.unique(found["seed"], return_counts=True), strict=True)) == {0: 2, 1: 4, 2: 2}


@pytest.mark.slow
def test_a_cell_that_fails_later_is_still_read_with_its_own_epochs(monkeypatch):
    words = ["run", "name=a", "strategy=random", "objective=curves", "budgets=[16]", "seeds=4", "processes=1"]
    assert main(words) == 0
    before = summary()
    assert np.isfinite(before["trials_median"]).any()

    build = catalogue.build

    def broken(settings):
        if "cluster" in settings["_target_"]:
            return build(settings)
        raise catalogue.UserError("broken since")

    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "build", broken)
        assert main([*words, "budgets=[4,16]"]) == 1
    after = summary()
    pd.testing.assert_frame_equal(after.drop(columns="status"), before.drop(columns="status"))
    assert (after["status"] == "failed").all()
    assert main(words) == 0
    pd.testing.assert_frame_equal(summary(), before)


def test_the_record_says_what_ran_and_with_which_versions(monkeypatch):
    assert main([*WORDS, "budgets=[4]", "seeds=4"]) == 0
    first = cell("grid")
    monkeypatch.setattr(experiment, "versions", lambda: {"nearopt": "another"})
    assert main([*WORDS, "budgets=[4]", "seeds=4"]) == 0
    assert cell("grid") == first
    assert main([*WORDS, "budgets=[4,8]", "seeds=4"]) == 0
    assert cell("grid")["versions"] == {"nearopt": "another"}
    assert cell("grid")["trainings"] == 4 * 4 + 4 * 8


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("name=..", "name must be a folder's name"),
        ("per_objective={branin: {seed: 8}}", "no 'seed'; did you mean seeds?"),
        ("per_objective={branin: {budgets: [x]}}", "budgets must be numbers"),
        ("per_objective={branin: 8}", "must have settings"),
        ("per_objective={branin: {seeds: x}}", "seeds must be int"),
    ],
)
def test_bad_settings_get_one_line(folder, capsys, word, line):
    assert main(["run", "strategy=random", "objective=branin", word]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and not list(folder.iterdir())


def test_a_name_is_taken_as_it_is_written():
    assert experiment.read(["name=on"]).name == "on"
    assert experiment.read(["name=my x"]).name == "my x"


def test_a_folder_that_cannot_be_written_says_so(folder, capsys):
    (folder / "results").write_text("in the way")
    assert main([*WORDS, "budgets=[4]", "seeds=2"]) == 1
    said = capsys.readouterr().err
    assert "results" in said and "Traceback" not in said


OWN = """
import dataclasses
import jax.numpy as jnp
from bench.space import Float, Space

@dataclasses.dataclass(frozen=True)
class Slope:
    max_epoch = 1
    fidelity, scale, offers = "training", "linear", frozenset()

    @property
    def space(self):
        return Space({"x": Float(0.0, 1.0)})

    def draw(self, key):
        return jnp.float32(0)

    def init(self, instance, key):
        return ()

    def cost(self, instance, key, hp, start, until):
        return jnp.float32(1)

    def train(self, instance, key, checkpoint, hp, start, until):
        return checkpoint, jnp.float32(hp["x"]), jnp.float32(hp["x"])
"""


def test_ones_own_formula_needs_no_name_and_no_float64(folder):
    (folder / "slope.py").write_text(OWN)
    (folder / "conf/objective").mkdir(parents=True)
    (folder / "conf/objective/slope.yaml").write_text("_target_: slope.Slope\n")
    words = [w for w in WORDS if not w.startswith("objective")]
    assert main([*words, "objective=slope", "budgets=[64]", "seeds=8"]) == 0
    table = near()
    assert (table["runs"] == 8).all() and (table["status"] == "complete").all()
    assert table["p"].iloc[0] == pytest.approx(0.02, rel=0.1)


def test_seeds_that_lie_in_two_blocks_count_once(folder):
    """As two commands at once leave them."""
    assert main([*WORDS, "budgets=[4]", "seeds=6"]) == 0
    path = folder / "results/a/branin/random/trace/4/0-5.parquet"
    trace: Any = pd.read_parquet(path)
    store.write_block(path.parents[2], 4, trace[trace["seed"] < 4], {})
    pd.testing.assert_frame_equal(store.read_trace(path.parents[2], 4), trace)


ASLEEP = """
import os, pathlib, time

def asleep(cube, max_epoch, budget, seed):
    pathlib.Path(f"{os.getpid()}.pid").touch()
    time.sleep(120)
"""


def test_workers_end_with_a_killed_parent(folder):
    (folder / "own.py").write_text(ASLEEP)
    (folder / "conf/strategy").mkdir(parents=True)
    (folder / "conf/strategy/asleep.yaml").write_text("_target_: own.asleep\n_partial_: true\n")
    words = ["run", "name=a", "strategy=asleep", "objective=branin,box", "seeds=2", "processes=2"]
    command = [sys.executable, "-m", "nearopt", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while len(workers := [int(path.stem) for path in folder.glob("*.pid")]) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(alive(pid) for pid in workers):
        time.sleep(0.1)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interval_that_excludes_nothing_is_not_shown():
    assert interval(0.0, np.inf) == "" and interval(2.0, np.inf) == "≥ 2"
