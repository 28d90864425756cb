"""The simulated cluster: stragglers, losses, retries, overheads and thinking, against laws and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import pytest

from bench import loop
from bench.cluster import ClusterSettings
from bench.contract import Probe
from bench.simulate import simulate
from nearopt import experiment
from strategies.asha import ASHA
from strategies.hyperband import Hyperband
from strategies.pbt import PBT
from strategies.random_search import RandomSearch

EPOCHS = Probe().max_epoch


@dataclass(frozen=True)
class Staged(Hyperband):
    """Hyperband whose asks pass through two programs, the second from job `switch` on."""

    switch: int = 65

    def stage(self, granted: int) -> int:
        return int(granted >= self.switch)

    def ask(self, key, state, stage=0):
        return super().ask(key, state)


def trace(factory=RandomSearch, seeds=range(64), budget=8, **cluster):
    return simulate(factory, Probe(), seeds=seeds, budget=budget, cluster=ClusterSettings(**cluster)).trace


def test_stragglers_take_one_plus_half_a_normal_as_long():
    plain, slow = trace(workers=4), trace(workers=4, straggle=0.5)
    rows = slow.merge(plain, on=["seed", "trial"], suffixes=("", "_plain"))
    factor = rows["cost"] / rows["cost_plain"]
    assert (factor >= 1).all() and (rows["loss"] == rows["loss_plain"]).all()
    # E|z| = sd sqrt(2 / pi), sd |z| = sd sqrt(1 - 2 / pi): 512 jobs, three sigmas.
    assert factor.mean() == pytest.approx(1 + 0.5 * np.sqrt(2 / np.pi), abs=3 * 0.5 * 0.603 / np.sqrt(512))
    np.testing.assert_allclose(slow["finished"], slow["started"] + slow["cost"])


def test_a_seed_has_the_same_luck_alone_and_beside_others():
    setup = dict(workers=3, straggle=0.3, drop=0.02, retries=1)
    together, alone = trace(seeds=range(20), **setup), trace(seeds=[7], **setup)
    assert together[together["seed"] == 7].reset_index(drop=True).equals(alone)


def test_losses_follow_the_geometric_law_and_only_what_was_trained_is_charged():
    run = trace(seeds=range(128), budget=12, workers=4, drop=0.05)
    lost = run["status"] == "given up"
    expected = 1 - 0.95**EPOCHS  # .37; of 1,600 jobs or so: three sigmas are .036
    assert lost.mean() == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / len(run)))
    assert np.isposinf(run["loss"][lost]).all() and np.isfinite(run["loss"][~lost]).mean() > 0.8
    spent = (run["until"] - run["start"]).groupby(run["seed"]).sum()
    assert (spent <= 12 * EPOCHS).all()
    share = (run["until"] - run["start"])[lost] / EPOCHS
    full = run["cost"][~lost] / (0.5 + 0.1 * run["hp_layers"][~lost])
    np.testing.assert_allclose(run["cost"][lost] / (0.5 + 0.1 * run["hp_layers"][lost]), share * full.iloc[0])


def test_a_lost_job_runs_again_with_the_result_that_it_would_have_had():
    plain, run = trace(workers=4), trace(workers=4, drop=0.05, retries=50, budget=16)
    assert set(run["status"]) == {"finished", "lost", "given up"}
    spent = (run["until"] - run["start"]).groupby(run["seed"]).sum()
    given_up = set(run[run["status"] == "given up"]["seed"])  # only where the budget pays for no more tries
    assert len(given_up) < 64 and (spent[sorted(given_up)] > 15 * EPOCHS).all()
    finished = run[run["status"] == "finished"].merge(plain, on=["seed", "trial"], suffixes=("", "_plain"))
    assert len(finished) > 300 and (finished["loss"] == finished["loss_plain"]).all()
    for _, rows in run.groupby("seed"):
        for _, tries in rows.sort_values("job").groupby("trial"):
            assert (tries["status"].to_numpy()[:-1] == "lost").all()
            assert tries["worker"].nunique() == 1
            assert (tries["started"].to_numpy()[1:] == tries["finished"].to_numpy()[:-1]).all()
        assert sorted(rows["job"]) == list(range(len(rows)))


@pytest.mark.parametrize("factory", [Hyperband, partial(PBT, intervals=4)])
@pytest.mark.parametrize(
    "setup", [dict(straggle=1.0), dict(straggle=0.33, drop=0.05), dict(drop=0.05, retries=2)]
)
def test_synchronous_strategies_never_hang_and_go_on_without_what_was_lost(factory, setup):
    run = trace(factory, seeds=range(256), workers=5, budget=8, **setup)
    spent = (run["until"] - run["start"]).groupby(run["seed"]).sum()
    assert len(spent) == 256 and (spent <= 8 * EPOCHS).all()
    # All is planned beforehand, so that what a lost job did not train stays unspent.
    assert (spent >= (0.45 if "drop" in setup else 0.85) * 8 * EPOCHS).all()
    gone = run["status"] == "given up"
    assert np.isinf(run["loss"][gone | (run["status"] == "lost")]).all()


def test_what_was_given_up_stays_lost_until_it_copies_another():
    run = trace(partial(PBT, intervals=4, population=8), seeds=range(64), workers=8, drop=0.05)
    revived = 0
    for _, rows in run.sort_values("finished", kind="stable").groupby(["seed"]):
        dead: set[int] = set()
        for row in rows.sort_values(["finished", "job"]).itertuples():
            if row.status == "given up":
                dead.add(row.trial)
            elif row.trial in dead:
                dead.discard(row.trial)
                revived += 1
    assert revived > 20


def test_both_drivers_agree_on_a_bad_cluster():
    setup = ClusterSettings(
        workers=3, straggle=0.4, drop=0.04, retries=1, startup=0.5, copy=0.2, thinking=0.1
    )
    factory = partial(PBT, intervals=3)
    a = simulate(factory, Probe(), seeds=[3, 4], budget=5, cluster=setup).trace
    b = loop.run(factory, Probe(), seeds=[3, 4], budget=5, cluster=setup).trace
    whole = ["seed", "job", "trial", "source", "start", "until", "worker", "status"]
    assert a[whole].equals(b[whole]) and {"lost"} < set(a["status"])
    np.testing.assert_allclose(a["finished"], b["finished"], rtol=1e-9)


def test_a_job_is_dead_by_what_it_started_from_not_by_what_its_source_became():
    setup = dict(workers=8, drop=0.03, straggle=0.33)
    run = trace(partial(PBT, intervals=4), seeds=range(64), budget=16, **setup)
    for seed, rows in run.groupby("seed"):
        chance = np.random.default_rng([7, seed])
        chance.standard_normal(256)
        epoch = np.floor(np.log1p(-chance.random(256)) / np.log1p(-0.03)) + 1  # in which job k is lost
        told: dict[int, list[tuple[float, bool]]] = {}  # trial -> (when, whether it is dead since)
        for row in rows.sort_values(["finished", "job"]).itertuples():
            before = [dead for when, dead in told.get(row.source, []) if when <= row.started]
            doomed = row.source != -1 and before[-1]
            lost = row.until - row.start == epoch[row.job]
            assert (row.status == "given up") == (doomed or lost)
            told.setdefault(row.trial, []).append((row.finished, row.status == "given up"))


def test_a_retry_that_does_not_fit_ends_the_asking():
    run = trace(ASHA, budget=6, drop=0.08, retries=50)
    given_up = run[run["status"] == "given up"].groupby("seed")["job"].min()
    assert len(given_up) > 5 and (run.groupby("seed")["job"].max()[given_up.index] == given_up).all()


def test_lanes_of_another_stage_are_left_alone():
    """With several workers waits leave lanes behind; a stage's program must not run for them."""
    factory = partial(Staged, switch=65)
    together = simulate(factory, Probe(), seeds=range(12), budget=40, workers=4).trace
    for seed in (0, 5, 11):
        alone = simulate(factory, Probe(), seeds=[seed], budget=40, workers=4).trace
        assert together[together["seed"] == seed].reset_index(drop=True).equals(alone)


def test_runs_that_lose_jobs_are_no_beginnings_of_larger_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["name=a", "strategy=random", "objective=curves", "cluster=failing", "budgets=[4,8]"]
    (cell,) = experiment.cells(experiment.read(words))
    assert [budget for budget, _ in experiment.work(cell).todo] == [4, 8]
    (cell,) = experiment.cells(experiment.read([*words, "cluster.drop=0"]))
    assert [budget for budget, _ in experiment.work(cell).todo] == [8]


def test_overheads_are_those_of_a_checkpoints_way():
    plain = trace(partial(PBT, intervals=3), seeds=range(8))
    run = trace(partial(PBT, intervals=3), seeds=range(8), startup=1.0, load=10.0, copy=100.0, save=1000.0)
    added = (run["cost"] - plain["cost"]).to_numpy()
    fresh, copied = run["source"] == -1, (run["source"] != -1) & (run["source"] != run["trial"])
    np.testing.assert_allclose(added, 1001.0 + 10.0 * ~fresh + 100.0 * copied, atol=1e-6)
    assert copied.any()
    # Random search neither resumes nor copies, so it keeps no checkpoint.
    extra = trace(seeds=range(8), startup=1.0, save=1000.0)["cost"] - trace(seeds=range(8))["cost"]
    np.testing.assert_allclose(extra, 1.0)


def test_a_strategy_thinks_about_one_job_at_a_time():
    run = trace(seeds=[0], workers=4, thinking=3.0)
    first = run.sort_values("job")["started"].to_numpy()[:4]
    np.testing.assert_allclose(first, [3.0, 6.0, 9.0, 12.0])
    free = 0.0
    for _, row in run.sort_values("job").iterrows():  # idle since when its worker's last job ended
        before = run[(run["worker"] == row["worker"]) & (run["job"] < row["job"])]["finished"]
        free = max(free, before.max() if len(before) else 0.0) + 3.0
        assert row["started"] == pytest.approx(free)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (dict(workers=0), "workers must be an integer of at least 1, got 0"),
        (dict(workers=True), "workers must be an integer"),
        (dict(straggle=-1), "straggle must be a number of at least 0, got -1"),
        (dict(drop=1.0), "drop must be a probability below 1"),
        (dict(thinking=float("nan")), "thinking must be a number"),
    ],
)
def test_bad_settings_are_refused(setup, words):
    with pytest.raises(ValueError, match=words):
        ClusterSettings(**setup)


def test_a_functions_jobs_cannot_be_lost():
    objective = loop.Callable(lambda config: 0.0, Probe().space)
    with pytest.raises(ValueError, match="drop must be 0"):
        loop.run(RandomSearch, objective, seeds=[0], budget=2, cluster=ClusterSettings(drop=0.1))


def test_importing_the_cluster_changes_no_setting_of_jax():
    assert jax.config.jax_enable_x64 is False
