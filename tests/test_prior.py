"""Trials made elsewhere, told before the first ask (rule 12), by both drivers."""

from functools import partial

import numpy as np
import pytest

from bench import loop, simulate
from bench.contract import first_difference
from bench.drive import Prior, prior_of_configs, prior_of_trace
from bench.space import Choice, Float, Space
from strategies.gp import GP
from strategies.random_search import RandomSearch
from surrogates.curves import Curves
from surrogates.functions import Function


@pytest.mark.slow
def test_a_run_seeded_with_random_trials():
    """20 random trials of Branin, then 10 of the seeded GP, 16 seeds from 0: it starts well at once (its
    first trial is below the prior's median in 80 % of the lanes), and at the end its mean log10 regret is
    lower than 30 random trials' by more than 5 sigma."""
    objective, seeds = Function("branin"), range(16)
    random = simulate.simulate(RandomSearch, objective, seeds=seeds, budget=30).trace
    prior = prior_of_trace(objective.space, random, seeds, trials=20)
    assert prior.x.shape == (16, 20, 8) and prior.trials == 20
    gp = partial(GP, start=3)
    run = simulate.simulate(gp, objective, seeds=seeds, budget=10, prior=prior).trace
    assert list(run["trial"][:10]) == list(range(20, 30)) and list(run["job"][:10]) == list(range(10))
    losses = random["loss"].to_numpy().reshape(16, 30)
    seeded = run["loss"].to_numpy().reshape(16, 10)
    assert np.mean(seeded[:, 0] < np.median(losses[:, :20], 1)) > 0.8
    seeded = np.minimum(seeded.min(1), losses[:, :20].min(1))
    gain = np.log10(losses.min(1) - objective.optimum) - np.log10(seeded - objective.optimum)
    assert gain.mean() > 5 * gain.std(ddof=1) / 4
    # Recommended is a trial whose true loss is known, be it the prior's.
    assert np.all(run["recommended_true_loss"] <= losses[:, :20].max(1).repeat(10))

    first = Prior(*(a[:2] for a in prior))
    host = loop.run(gp, objective, seeds=[0, 1], budget=3, prior=first).trace
    ours = run[(run["seed"] < 2) & (run["job"] < 3)].reset_index(drop=True)
    # Batched linear algebra rounds otherwise than a lane alone.
    assert first_difference(ours, host, ["trial", "source", "start", "until"]) is None
    assert first_difference(ours, host, ["hp_x0", "hp_x1", "loss"], 1e-2) is None


def test_a_prior_from_a_list():
    space = Space({"a": Float(0, 1), "b": Choice(tuple("xy"))})
    configs = [{"a": 0.25, "b": "y"}, {"a": 1.0}]
    prior = prior_of_configs(space, configs, [1.0, np.inf], max_epoch=9, lanes=3)
    assert prior.x.shape == (3, 2, 8) and np.all(prior.until == 9) and np.all(np.isnan(prior.true_loss))
    assert [space.decode(x) for x in prior.x[2]] == [{"a": 0.25, "b": "y"}, {"a": 1.0, "b": "y"}]
    objective = Function("branin")
    for driver in (simulate.simulate, loop.run):
        with pytest.raises(ValueError, match="it has no setting prior_trials"):
            driver(RandomSearch, objective, seeds=range(3), budget=2, prior=prior)
        with pytest.raises(ValueError, match="must have one row a seed, 2, got 3"):
            driver(GP, objective, seeds=range(2), budget=2, prior=prior)


def test_partial_trainings_are_refused():
    prior = prior_of_configs(Curves().space, [{}], [0.5], max_epoch=27)
    with pytest.raises(ValueError, match="must be trained to epoch 81, got 27"):
        simulate.simulate(partial(GP), Curves(), seeds=[0], budget=2, prior=prior)
