"""Results run again, compared and merged: small real cells, and traces that depart where it is known."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bench import store
from nearopt import reproduce, results
from nearopt.catalogue import UserError
from nearopt.commands import compare, report, verify
from nearopt.importer import import_traces
from nearopt.reproduce import DIFFERENT, DISTRIBUTION, IDENTICAL, ROUNDING


def runs(rng, seeds=range(12), jobs=16):
    """A trace of random draws, as a frame."""
    seeds = np.asarray(list(seeds))
    n = len(seeds) * jobs
    job, loss = np.tile(np.arange(jobs), len(seeds)), rng.random(n)
    return pd.DataFrame({
        "seed": np.repeat(seeds, jobs), "instance": 1000, "budget": float(jobs), "job": job, "trial": job,
        "source": -1, "start": 0, "until": 1, "loss": loss, "cost": 1.0, "worker": 0, "status": "finished",
        "true_loss": loss, "recommended_true_loss": np.nan, "started": job * 1.0, "finished": job + 1.0,
    })  # fmt: skip


def test_four_answers_and_the_job_of_the_first_departure():
    old = runs(np.random.default_rng(0))
    assert reproduce.compare_traces(old, old[::-1]).answer == IDENTICAL  # whatever the rows' order
    near = reproduce.compare_traces(old, old.assign(loss=old["loss"] * (1 + 1e-7)))
    assert near.answer == ROUNDING and near.seed == -1
    other = runs(np.random.default_rng(1))
    kept = (old["job"] < 5) | (old["seed"] == 3)  # from job 5 on runs are others, but for seed 3
    mixed = old.where(kept, other)
    found = reproduce.compare_traces(old, mixed.astype(old.dtypes))
    assert (found.answer, found.seed, found.job) == (DISTRIBUTION, 0, 5) and found.what.startswith("loss")
    worse = old.assign(loss=old["loss"] + (old["job"] >= 2), true_loss=old["true_loss"] + (old["job"] >= 2))
    assert reproduce.compare_traces(old, worse).answer == DIFFERENT
    shorter = reproduce.compare_traces(old, old[old["job"] < 9])
    assert shorter.answer == DIFFERENT and (shorter.job, shorter.what) == (9, "16 -> 9 jobs")
    few = old[old["seed"] < 3]
    assert reproduce.compare_traces(few, few.assign(trial=0)).answer == DIFFERENT  # too few to say more
    with pytest.raises(ValueError, match="share no seed"):
        reproduce.compare_traces(old, runs(np.random.default_rng(0), range(50, 60)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A real cell: random search on Branin, four trainings."""
    from nearopt import experiment

    root = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        words = ["name=x", "strategy=random", "objective=branin", "budgets=[4]", "seeds=8", "processes=1"]
        assert experiment.run(experiment.read(words))
    return root / "results" / "x"


def test_verify_runs_a_cell_again(small, tmp_path, capsys):
    assert verify.main([str(small)]) == 0
    assert "branin/random, budget 4: identical in 8 runs" in capsys.readouterr().out
    copy = tmp_path / "x"
    shutil.copytree(small, copy)
    block = copy / "branin" / "random" / "trace" / "4" / "0-7.parquet"
    trace = pd.read_parquet(block)
    trace.loc[(trace["seed"] == 5) & (trace["job"] == 2), "loss"] += 1.0
    trace.to_parquet(block, index=False)
    verify.main([str(copy), "seeds=8", "cells=1"])
    said = capsys.readouterr().out
    assert "seed 5 departs at job 2 (loss" in said and "were they of one distribution" in said
    imported = pd.DataFrame({"task": "t", "seed": [0, 1], "method": "m", "evaluation": 1, "loss": 1.0})
    assert verify.main([str(import_traces(imported, tmp_path / "y"))]) == 1
    assert "not run again: its cell.json says no settings" in capsys.readouterr().out
    for words, said in (
        ([], "one folder"),
        ([str(small), "cells=0"], "at least 1"),
        ([str(tmp_path / "z")], "no results"),
    ):
        with pytest.raises(UserError, match=said):
            verify.main(words)


def test_compare_tells_noise_from_change(tmp_path, capsys):
    rng = np.random.default_rng(0)

    def traces(better):
        rows = [(t, s, m, e + 1, v) for t in "uv" for s in range(20) for m in ("a", "b")
                for e, v in enumerate(rng.random((16, 8 if m == better else 1)).min(1))]  # fmt: skip
        return pd.DataFrame(rows, columns=["task", "seed", "method", "evaluation", "loss"])

    known = {t: (0.0, np.linspace(0, 1, 1000)) for t in "uv"}
    one = import_traces(traces(None), tmp_path / "one", references=known)
    two = import_traces(traces("b"), tmp_path / "two", references=known)
    shutil.rmtree(two / "v" / "a")
    found = reproduce.compare_folders(one, two)
    assert found.only_a == ["v/a"] and not found.only_b and not found.settings
    table = found.cells.set_index(["objective", "label"])
    assert table.loc[("u", "a"), "noise"] and not table.loc[("u", "b"), "noise"]
    assert table.loc[("u", "b"), "difference"] < 0 and table.loc[("u", "b"), "job"] == 0
    assert compare.main([str(one), str(two)]) == 0
    said = capsys.readouterr().out
    assert "more than noise" in said and "may be noise" in said and "only in" in said
    # A cell that failed since is no noise, and another reference is named: gaps are measured by it.
    info = json.loads((two / "u" / "a" / "cell.json").read_text())
    (two / "u" / "a" / "cell.json").write_text(json.dumps(info | {"status": "failed"}))
    reference = pd.read_parquet(two / "v" / "reference.parquet")
    reference.assign(optimum_static=-0.5).to_parquet(two / "v" / "reference.parquet", index=False)
    compare.main([str(one), str(two)])
    said = capsys.readouterr().out
    assert "u/a: status changed, complete -> failed\n" in said and "3 changed, of which 3 by more" in said
    assert "optimum_static of instance 1000 0 -> -0.5 (1 of 1 instances)" in said
    same = reproduce.compare_folders(one, one).cells
    assert (same["answer"] == IDENTICAL).all() and same["noise"].all()
    with pytest.raises(UserError, match="two folders"):
        compare.main([str(one)])


def cells(root, rng, seeds, **more):
    """A folder with one cell of these seeds."""
    cell = root / "obj" / "s"
    store.write_block(cell, 16.0, runs(rng, seeds), {})
    info = {"status": "complete", "settings": {"eta": 3}, "budgets": [16.0], "run_s": 1.0, "anytime": True,
            "max_epoch": 1, "fidelity": "training", "scale": "linear", "device": root.name}  # fmt: skip
    store.write_json(cell / "cell.json", info | more)
    store.write_json(root / "experiment.json", {"seeds": len(list(seeds)), "command": f"run {root.name}"})
    return root


def test_two_folders_merge(tmp_path):
    one = cells(tmp_path / "one", np.random.default_rng(0), range(0, 6))
    two = cells(tmp_path / "two", np.random.default_rng(1), range(6, 10), budgets=[8.0, 16.0])
    before = {p: p.read_bytes() for p in [*one.rglob("*"), *two.rglob("*")] if p.is_file()}
    whole = results.merge([one, two], tmp_path / "both")
    frame = results.load(whole)
    parts = pd.concat([results.load(one), results.load(two)], ignore_index=True)
    pd.testing.assert_frame_equal(frame, parts)
    info = json.loads((whole / "obj" / "s" / "cell.json").read_text())
    assert info["budgets"] == [8.0, 16.0] and info["run_s"] == 2.0 and info["device"] == "one; two"
    assert before == {p: p.read_bytes() for p in before}
    results.merge([one, two], one)  # into the first: the same
    pd.testing.assert_frame_equal(results.load(one), frame)
    assert len(list((one / "obj" / "s" / "trace" / "16").glob("*"))) == 1
    again = results.merge([one, two], one)  # what is there already is no conflict
    assert len(results.load(again)) == len(frame)


def test_what_contradicts_is_not_merged(tmp_path):
    one = cells(tmp_path / "one", np.random.default_rng(0), range(0, 6))
    two = cells(tmp_path / "two", np.random.default_rng(1), range(4, 10))
    with pytest.raises(ValueError, match="seed 4 is another run there from job 0"):
        results.merge([one, two], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    four = cells(tmp_path / "four", np.random.default_rng(1), range(6, 10))
    for root, optimum in ((one, 0.25), (four, 0.5)):
        table = pd.DataFrame({"instance": [1000], "optimum_static": [optimum], "q_0": [1.0]})
        table.to_parquet(root / "obj" / "reference.parquet", index=False)
    with pytest.raises(
        ValueError, match=r"optimum_static of instance 1000 is 0.25 in one and 0.5 in another"
    ):
        results.merge([one, four], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    three = cells(tmp_path / "three", np.random.default_rng(1), range(6, 10), settings={"eta": 4})
    with pytest.raises(UserError, match="eta=4, not 3"):
        report.main([str(one), str(three), "--merge", str(tmp_path / "both")])
    with pytest.raises(UserError, match="unrecognized arguments: --mrge; usage: nearopt report FOLDER"):
        report.main(["--mrge", str(one)])
    with pytest.raises(FileNotFoundError, match="no cell"):
        results.merge([one, tmp_path / "none"], tmp_path / "both")
