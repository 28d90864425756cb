"""Lineage: traces made by hand, and every job of bad clusters' runs trained again from what was recovered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench.cluster import ClusterSettings
from bench.drive import instance_key, seed_keys
from bench.lineage import lineage, schedule, winner
from bench.simulate import simulate
from strategies.pbt import PBT
from strategies.pbt_async import AsynchronousPBT
from surrogates.noisy_quadratic import NoisyQuadratic
from surrogates.population_toy import PopulationToy


def trace(*rows, seed=0):
    """Rows: (job, trial, source, start, until, loss, started, finished[, status])."""
    names = ["job", "trial", "source", "start", "until", "loss", "started", "finished", "status"]
    table = pd.DataFrame([(*row, "finished")[:9] for row in rows], columns=names)
    table.insert(0, "seed", seed)
    return table.assign(hp_rate=10.0 * table["job"])


def jobs(table, **more):
    return lineage(table, 0, **more)["job"].tolist()


def test_copies_of_copies_lead_back_to_fresh_weights():
    table = trace(
        (0, 0, -1, 0, 2, 3.0, 0.0, 2.0),
        (1, 1, -1, 0, 2, 4.0, 2.0, 4.0),
        (2, 1, 0, 2, 4, 2.0, 4.0, 6.0),
        (3, 0, 0, 2, 4, 9.0, 6.0, 8.0),
        (4, 0, 1, 4, 6, 1.0, 8.0, 10.0),
        (5, 1, 1, 4, 6, 2.5, 10.0, 12.0),
    )
    assert winner(table, 0) == 4 and jobs(table) == [0, 2, 4] and jobs(table, job=3) == [0, 3]
    assert jobs(table.sample(frac=1.0, random_state=0)) == [0, 2, 4]
    rows = schedule(lineage(table, 0))
    assert rows["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["hp_rate"].tolist() == [0.0, 0.0, 20.0, 20.0, 40.0, 40.0]
    other = trace((0, 0, -1, 0, 2, 0.5, 0.0, 2.0), seed=1)
    assert jobs(pd.concat([other, table])) == [0, 2, 4]


def test_a_slot_that_came_to_the_same_epoch_twice_gave_what_it_had_then():
    table = trace(
        (0, 0, -1, 0, 2, 3.0, 0.0, 1.0),
        (1, 1, -1, 0, 2, 1.0, 0.0, 1.5),
        (2, 0, 0, 2, 4, 4.0, 1.0, 2.0),
        (3, 2, 0, 4, 6, 0.5, 2.0, 9.0),  # copies trial 0 as job 2 left it,
        (4, 0, 1, 2, 4, 4.0, 2.5, 3.0),  # before that starts again from trial 1
        (5, 3, 0, 4, 6, 0.6, 3.0, 9.5),
    )
    assert jobs(table) == [0, 2, 3] and jobs(table, job=5) == [1, 4, 5]


def test_what_was_lost_is_no_ancestor_and_a_retry_starts_from_what_its_first_try_took():
    table = trace(
        (0, 0, -1, 0, 1, np.inf, 0.0, 1.0, "lost"),
        (1, 1, -1, 0, 2, 3.0, 0.0, 2.0),
        (2, 0, -1, 0, 2, 2.0, 1.0, 3.0),
        (3, 1, 0, 2, 3, np.inf, 3.0, 4.0, "lost"),
        (4, 0, 0, 2, 4, np.inf, 3.0, 4.5, "given up"),
        (9, 1, 0, 2, 4, 1.0, 6.0, 7.0),
        (6, 0, 1, 2, 4, 5.0, 5.0, 5.5),
    )
    assert jobs(table) == [2, 9]
    # Trial 0 began again between the two tries of job 9, and was at epoch 2 once more.
    again = trace((7, 0, -1, 0, 2, 5.0, 4.5, 5.8))
    assert jobs(pd.concat([table[table["job"] != 6], again])) == [2, 9]


def test_of_equal_losses_the_first_told_wins():
    table = trace(
        (0, 0, -1, 0, 2, 1.0, 0.0, 5.0), (1, 1, -1, 0, 2, 1.0, 0.0, 4.0), (2, 2, -1, 0, 2, 1.0, 0.0, 4.0)
    )
    assert winner(table, 0) == 1


def test_what_a_trace_does_not_hold_is_said():
    table = trace((0, 0, -1, 0, 2, np.inf, 0.0, 1.0), (1, 1, 0, 2, 4, np.nan, 1.0, 2.0))
    with pytest.raises(ValueError, match="seed 0 has no winner"):
        lineage(table, 0)
    with pytest.raises(ValueError, match="no seed 3"):
        lineage(table, 3)
    with pytest.raises(ValueError, match="seed 0 has no job 7"):
        lineage(table, 0, job=7)
    with pytest.raises(ValueError, match="no job that left the checkpoint of trial 0 at epoch 2, from which"):
        lineage(table[1:], 0, job=1)


@pytest.mark.parametrize(
    "factory, cluster",
    [
        pytest.param(
            partial(PBT, selection="tournament", intervals=10), dict(workers=1), marks=pytest.mark.slow
        ),
        pytest.param(
            partial(PBT, population=4, intervals=10),
            dict(workers=5, straggle=0.5, drop=0.02, retries=2),
            marks=pytest.mark.slow,
        ),
        (
            partial(AsynchronousPBT, population=4, fraction=0.5, intervals=10),
            dict(workers=5, straggle=2.0, drop=0.04, retries=1, thinking=0.1),
        ),
    ],
)
def test_every_job_trained_again_along_its_lineage_ends_at_its_loss(factory, cluster):
    """The toy has no noise, and its weights keep what they were trained with: a wrong ancestor shows."""
    run = simulate(
        factory, PopulationToy(), seeds=range(6), budget=8, cluster=ClusterSettings(**cluster)
    ).trace
    copied = 0
    for seed in range(6):
        mine = run[(run["seed"] == seed) & (run["status"] == "finished")]
        for job in mine[np.isfinite(mine["loss"])].itertuples():
            chain = lineage(run, seed, job=job.job)
            assert chain["start"].tolist() == [0, *chain["until"].tolist()[:-1]]
            epochs = schedule(chain)
            assert len(epochs) == job.until
            theta = 0.9 * np.prod((1 - 0.02 * epochs[["hp_h0", "hp_h1"]].to_numpy()) ** 10, axis=0)
            assert np.sum(theta**2) == pytest.approx(job.loss, rel=1e-9)
            copied += chain["trial"].nunique() > 2
        assert winner(run, seed) == mine.sort_values(["loss", "finished", "job"])["job"].iloc[0]
    assert copied > 50
    if "drop" in cluster:
        assert {"lost", "given up"} < set(run["status"])


def test_a_winners_schedule_trains_to_its_true_loss_from_fresh_weights():
    """Noise in the told loss is of the winner's own trial and epoch, so that with its key the told loss is
    the same too; the trace keeps decoded values, so either is as exact as their way through the unit cube."""
    objective = NoisyQuadratic(max_epoch=12, noise=0.1)
    run = simulate(partial(PBT, intervals=6), objective, seeds=[3], budget=6, workers=2).trace
    chain = lineage(run, 3)
    assert chain["trial"].nunique() > 1
    with jax.enable_x64(True):
        instance = objective.draw(instance_key(jnp.uint32(1003)))
        key = jax.random.fold_in(seed_keys(jnp.uint32(3))[2], int(chain["trial"].iloc[-1]))

        @jax.jit
        def train(checkpoint, x, start, until):
            return objective.train(instance, key, checkpoint, objective.space.decode_array(x), start, until)

        checkpoint, names = objective.init(instance, key), [c for c in chain if c.startswith("hp_")]
        for _, epoch in schedule(chain).iterrows():
            x = objective.space.encode({name[3:]: epoch[name] for name in names})
            end = jnp.int32(epoch["epoch"])
            checkpoint, loss, true_loss = train(checkpoint, x, end - 1, end)
    last = chain.iloc[-1]
    assert float(true_loss) == pytest.approx(last["true_loss"], rel=1e-5)
    assert float(loss) == pytest.approx(last["loss"], rel=1e-5)
    assert last["loss"] != pytest.approx(last["true_loss"], rel=1e-5)
