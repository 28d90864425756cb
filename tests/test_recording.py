"""`nearopt record`: rows against trainings made one at a time, forks likewise, and what a kill leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench.drive import instance_key, seed_keys
from bench.space import Choice, Float, Space
from nearopt.commands import main
from nearopt.recorded import configurations, early_ranks, importance_table, kept_share, ranks_table, tables
from nearopt.recording import FORKED, design, fork_plan, record


@dataclass(frozen=True)
class Walk:
    """A loss that falls by a rate and wobbles with the trial's key; too large a rate diverges."""

    name: str = "walk"
    max_epoch: int = 6
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume", "copy", "change"})
    pool = 8

    @property
    def space(self):
        return Space(
            {
                "rate": Float(0.01, 1.0, log=True, change=True, role="rate"),
                "width": Choice(("small", "large"), role="architecture"),
            }
        )

    def draw(self, key):
        return jax.random.uniform(key, (), jnp.float64)

    def init(self, instance, key):
        return 3.0 + instance

    def cost(self, instance, key, hp, start, until):
        return (1.0 + hp["width"]) * (until - start).astype(jnp.float64)

    def train(self, instance, key, checkpoint, hp, start, until):
        def epoch(number, loss):
            noise = jax.random.normal(jax.random.fold_in(key, number), (), jnp.float64)
            loss = loss * (1.0 - 0.5 * hp["rate"]) + 0.01 * noise
            return jnp.where(hp["rate"] > 0.9, jnp.inf, loss)

        loss = jax.lax.fori_loop(start, until, epoch, checkpoint)
        return loss, loss, 2.0 * loss

    def evaluate(self, instance, checkpoint):
        return checkpoint, 2.0 * checkpoint, checkpoint / 10, checkpoint / 5


@jax.jit
def one_epoch(instance, key, loss, x, number):
    hp = Walk().space.decode_array(x)
    return Walk().train(instance, key, loss, hp, number, number + 1)[0]


def slices(seed: int, parts: list) -> np.ndarray:
    """Losses of one training from slice to slice: (trial, x, start, until), each epoch by itself."""
    walk, losses = Walk(), []
    with jax.enable_x64(True):
        instance = walk.draw(instance_key(jnp.uint32(seed)))
        loss = walk.init(instance, None)
        for trial, x, start, until in parts:
            key = jax.random.fold_in(seed_keys(jnp.uint32(seed))[2], jnp.uint32(trial))
            for number in range(start, until):
                loss = one_epoch(instance, key, loss, jnp.asarray(x), jnp.int32(number))
                losses.append(float(loss))
    return np.array(losses)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    steps = list(record(Walk(), folder, 80, 2, forks=12))
    return folder, steps


def test_every_row_is_the_training_that_it_names(recorded):
    folder, steps = recorded
    assert steps[-1] == ("forks", 24, 24) and ("curves", 160, 160) in steps
    table, x = pd.read_parquet(folder / "curves.parquet"), design(2, 80)
    assert len(table) == 160 and set(table["hp_width"]) == {"small", "large"}
    assert table["loss"][0].dtype == np.float32 and table["hp_rate"].dtype == np.float32
    for row in (3, 77, 140):
        trial, seed = int(table["configuration"][row]), int(table["seed"][row])
        expected = slices(seed, [(trial, x[trial], 0, 6)])
        np.testing.assert_allclose(table["loss"][row], expected, rtol=1e-6)
        np.testing.assert_allclose(table["true_error"][row], expected / 5, rtol=1e-6)
        np.testing.assert_allclose(table["true_loss"][row], expected * 2, rtol=1e-6)
    width = (table["hp_width"] == "large").to_numpy()
    assert (table["cost"] == np.where(width, 12.0, 6.0)).all()
    diverged = ~np.isfinite(np.stack(table["loss"].tolist())).all(1)
    assert (diverged == (table["hp_rate"] > 0.9)).all() and diverged.any()


def test_forks_go_on_from_the_checkpoint_with_a_key_of_their_own(recorded):
    folder, _ = recorded
    table, x = pd.read_parquet(folder / "forks.parquet"), design(2, 80)
    assert set(table["epoch"]) == {1, 2, 4} and set(table["change"]) == {0, 1, 2}
    plan = fork_plan(Walk(), x, 12)
    for row in range(24):
        fork = table.iloc[row]
        number, start, trial = row % 12, int(fork["epoch"]), int(fork["configuration"])
        later = np.asarray(plan["x"][number], np.float32)
        parts = [(trial, x[trial], 0, start), (FORKED + number, later, start, 6)]
        np.testing.assert_allclose(fork["loss"], slices(int(fork["seed"]), parts)[start:], rtol=1e-6)
        assert fork["hp_rate"] == pytest.approx(Walk().space.axes["rate"].decode(later[0]), rel=1e-6)
        assert later[1] == x[trial][1]  # a width cannot change
        assert (later[0] == x[trial][0]) == (fork["change"] == 0)


def test_a_kill_loses_the_block_under_way_only(recorded, tmp_path):
    whole = pd.read_parquet(recorded[0] / "curves.parquet")
    list(islice(record(Walk(), tmp_path, 80, 2), 2))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "curves").glob("*.parquet")}
    assert len(kept) == 2 and not (tmp_path / "curves.parquet").exists()
    (tmp_path / "curves" / ".half").write_text("killed")
    list(record(Walk(), tmp_path, 80, 2))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "curves.parquet"), whole)
    about = json.loads((tmp_path / "recording.json").read_text())
    assert about["axes"]["rate"]["high"] == 1.0 and about["axes"]["width"]["values"] == ["small", "large"]
    with pytest.raises(ValueError, match="other settings"):
        next(record(Walk(max_epoch=7), tmp_path, 80, 2))


def test_more_configurations_and_forks_begin_with_the_fewer():
    assert (design(5, 100) == design(5, 300)[:100]).all() and design(3, 2).dtype == np.float32
    few, more = (fork_plan(Walk(), design(2, 40), n) for n in (10, 50))
    for name in ("configuration", "epoch", "change"):
        assert (few[name] == more[name][:10]).all()
    assert (np.stack(few["x"]) == np.stack(more["x"][:10])).all()
    assert len(fork_plan(Walk(), design(2, 4), 50)) == 4 * 9


def test_how_often_the_final_best_is_ahead_early():
    draw = np.random.default_rng(1)
    late = draw.normal(size=400)
    assert kept_share(late, late, 1 / 9, np.random.default_rng(0)) == 1
    # Without any relation it is anywhere: 17 of 50 places are in the top third, 6 in the top ninth. The
    # best few of 400 are the best of most groups, so blind orders are averaged.
    for share, places in ((1 / 3, 17), (1 / 9, 6)):
        found = [kept_share(draw.normal(size=400), late, share, np.random.default_rng(i)) for i in range(40)]
        assert np.mean(found) == pytest.approx(places / 50, abs=4 * np.std(found) / np.sqrt(40))
    assert kept_share(-late, late, 1 / 3, np.random.default_rng(0)) == 0
    assert kept_share(late, np.where(late < 0, np.inf, late), 1 / 3, np.random.default_rng(0)) < 1


def test_recordings_in_tables(recorded):
    folder, _ = recorded
    table = pd.read_parquet(folder / "curves.parquet")
    found = early_ranks(table)
    assert list(found)[:3] == ["ranks_0.1", "ranks_0.2", "ranks_0.5"] and found["ranks_0.5"] > 0.9
    axes = json.loads((folder / "recording.json").read_text())["axes"]
    x, losses = configurations(table, axes)
    np.testing.assert_allclose(x[:, 0], design(2, 80)[:, 0], atol=1e-5)
    assert set(x[:, 1]) == {0.25, 0.75} and (x[:, 1] == np.floor(design(2, 80)[:, 1] * 2) / 2 + 0.25).all()
    first = table[table["configuration"] == 7]
    expected = np.mean([[np.log(v[-1]) for v in first[c]] for c in ("loss", "true_loss")])
    assert losses[7] == pytest.approx(expected, rel=1e-6)
    tasks, shares = tables([folder])
    assert tasks["axes"].item() == 2 and tasks["above_5_percent"].item() == 1
    assert shares["axis"].iloc[0] == "rate" and shares["whole"].iloc[0] > 0.9
    assert "| walk | 80 x 2, 6 epochs |" in ranks_table(tasks)
    assert "| rate | 100 / 99 |" in importance_table(tasks, shares)


def test_the_page_of_the_shipped_recordings_shows_their_csv():
    root = Path(__file__).parent.parent
    page = (root / "docs" / "recorded.md").read_text()
    folder = root / "results" / "reference" / "tasks"
    tasks, axes = pd.read_csv(folder / "tasks.csv"), pd.read_csv(folder / "axes.csv")
    assert ranks_table(tasks) in page and importance_table(tasks, axes) in page
    assert (folder.parent / "lr-finder" / "sweep.md").read_text() in page
    shipped = sorted(path.parent.name for path in (root / "surrogates" / "recorded").glob("*/recording.json"))
    assert sorted(tasks["task"]) == shipped and len(shipped) >= 4
    fits = sorted((root / "surrogates" / "recorded").glob("*/fit.json"))
    assert len(fits) >= 4
    for path in fits:
        name, said = path.parent.name, dict(json.loads(path.read_text())["said"])
        for what in ("ranks", "forks", "best", "strategies"):
            assert said[what] in page, (name, what)
        references = "bench/tasks/reference", "surrogates/reference"
        files = (root / references[0] / f"{name}.json", root / references[1] / f"{name}_fitted.json")
        optima = [json.loads(file.read_text())["optimum_static"] for file in files]
        assert f"| {name} | {optima[0]:.3g} | {optima[1]:.3g} |" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "record needs objective=NAME or show=all"),
        (["show=nowhere"], "no recording in nowhere"),
        (["objective=branin", "config=4"], "did you mean configs?"),
        (["objective=branin", "configs=1"], "configs must be a whole number of at least 2"),
        (["objective=lcpfn", "forks=4"], "does not offer change and copy: forks must be 0"),
        (["objective=branin", "name=a/b"], "name must be a folder's name"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, sentence, capsys):
    assert main(["record", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_command_records(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["record", "objective=branin", "configs=8", "seeds=1"]) == 0
    said = capsys.readouterr().out
    assert "curves: 8 of 8" in said and "kB" in said
    table = pd.read_parquet(tmp_path / "results" / "record" / "branin" / "curves.parquet")
    assert len(table) == 8 and [len(v) for v in table["loss"]] == [1] * 8 and "error" not in table
