"""Runs on the simulated clock: by hand, and in the report of a small run on a bad cluster."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench import store
from bench.metrics import evaluate
from bench.plots_time import clock_figure, run_figure
from bench.reading import load_folder
from bench.timelines import clock_curves, largest_trace, timeline, worker_use
from nearopt.commands import main


def test_worker_use_is_busy_time_over_all_time():
    trace = {
        "seed": np.array([0, 0, 0, 1, 1]),
        "started": np.array([0.0, 0.0, 2.0, 0.0, 3.0]),
        "finished": np.array([2.0, 4.0, 6.0, 1.0, 4.0]),
    }
    # Seed 0: 2 + 4 + 4 of 2 x 6; seed 1: 1 + 1 of 2 x 4.
    np.testing.assert_allclose(worker_use(trace, 2), [10 / 12, 2 / 8])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clock")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["run", "name=a", "strategy=random,pbt", "objective=noisy_quadratic", "cluster=failing"]
        assert main([*words, "budgets=[6]", "seeds=8", "processes=1"]) == 0
    return load_folder(folder / "results" / "a")


def test_the_curve_is_what_had_finished_by_then(results):
    scored = {s.cell.strategy: s for s in evaluate(results)[0]}
    curves = clock_curves([scored["random"]], ratio=False)
    score = scored["random"].scores[6.0]
    for row in curves.iloc[:: len(curves) // 6].itertuples():
        each = []
        for i, n in enumerate(score.runs.count):
            done = score.runs.finished[i, :n] <= row.seconds
            # The incumbent after the last job that had finished by then.
            each.append(score.true[i, done.sum() - 1] - score.optimum[i] if done.any() else np.inf)
        each = np.sort(each)
        assert row.middle == (each[3] if each[3] == each[4] else (each[3] + each[4]) / 2)
    assert (np.diff(curves["seconds"]) > 0).all()


def test_a_run_is_pictured_with_what_was_lost_and_the_winners_way(results):
    (item,) = [s for s in evaluate(results)[0] if s.cell.strategy == "pbt"]
    folder = results.path / item.cell.objective / item.cell.label
    found = timeline(folder, 6.0, "training", 16)
    assert found is not None and found.copies and found.axis == "hp_learning_rate"
    assert found.chain["source"].iloc[0] == -1 and (found.chain["status"] == "finished").all()
    assert (found.chain["start"].to_numpy()[1:] == found.chain["until"].to_numpy()[:-1]).all()
    figure = run_figure(item.cell.label, found)
    for word in ("worker", "how far each job trained", "learning_rate"):
        assert word in figure
    use = {item.cell.label: worker_use(largest_trace(item), 16)}
    assert ((use[item.cell.label] > 0) & (use[item.cell.label] < 1)).all()
    assert "time in training" in clock_figure(clock_curves([item], True), use, True)


def test_the_report_shows_the_clock_and_its_files(results):
    page = (results.path / "report.html").read_text()
    assert "On the simulated clock" in page and "One run of each strategy, job by job" in page
    names = {path.name for path in (results.path / "figures").glob("*.svg")}
    assert "noisy_quadratic.clock.svg" in names and sum(n.endswith(".run.svg") for n in names) == 2


def test_nothing_to_draw_is_no_error(tmp_path):
    assert timeline(tmp_path, 8.0, "training", 1) is None
    assert isinstance(clock_curves([], ratio=False), pd.DataFrame)


def test_a_copy_that_brings_another_word_is_no_schedule(tmp_path):
    trace = {
        "seed": [0] * 4, "job": [0, 1, 2, 3], "trial": [0, 1, 0, 1], "source": [-1, -1, 1, 1],
        "start": [0, 0, 1, 1], "until": [1, 1, 2, 2], "loss": [2.0, 1.0, 0.5, 0.4],
        "status": ["finished"] * 4, "true_loss": [2.0, 1.0, 0.5, 0.4], "worker": [0] * 4,
        "started": [0.0, 1, 2, 3], "finished": [1.0, 2, 3, 4], "cost": [1.0] * 4,
        "hp_optimiser": ["adam", "sgd", "sgd", "sgd"], "hp_rate": [0.1, 0.2, 0.16, 0.2],
    }  # fmt: skip
    jobs = pd.DataFrame(trace)
    store.write_block(tmp_path, 2, jobs, {})
    found = timeline(tmp_path, 2, "training", 1)
    assert found is not None and (found.copies, found.axis) == (True, "hp_rate")
    store.write_block(tmp_path, 3, jobs.drop(columns="hp_rate"), {})
    found = timeline(tmp_path, 3, "training", 1)
    assert found is not None and found.axis is None
