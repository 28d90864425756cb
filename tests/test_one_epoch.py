"""1-Epoch: its jobs, its arithmetic, and what a budget means."""

import jax
import numpy as np
import pytest
from test_hyperband import compiled, drive, losses_of

from bench.protocols import NONE
from bench.space import Float, Space
from strategies import brackets
from strategies.one_epoch import OneEpoch

CUBE = Space({"a": Float(0.0, 1.0)}).cube()


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def test_all_for_one_epoch_then_the_best_in_full():
    strategy = OneEpoch(cube=CUBE, max_epoch=9, budget=8)
    loss, programs = losses_of(3), compiled(strategy)
    n = 8 * 9 - 3 * 8
    score = [loss(t, 1) if np.isfinite(loss(t, 1)) else np.inf for t in range(n)]
    best = sorted(range(n), key=lambda t: (score[t], t))[:3]
    for workers in (1, 7):
        granted, _ = drive(strategy, loss, workers, programs=programs)
        want = [(k, NONE, 1) for k in range(n)] + [(k, k, 9) for k in best]
        assert [(j.trial, j.source, j.until) for j in granted] == want


@pytest.mark.parametrize("keep", [1, 3, 10])
def test_the_budget_is_spent_and_never_passed(keep):
    for max_epoch in (1, 2, 9, 50, 81):
        for first in {1, max(1, max_epoch // 4), max_epoch}:
            for epochs in range(max_epoch, 12 * max_epoch, 7):
                bracket = brackets.screening(max_epoch, epochs, keep, first)
                assert epochs - first < brackets.epochs(bracket) <= epochs
                assert bracket[-1].until == max_epoch and bracket[-1].members <= bracket[0].members
                if first < max_epoch:
                    assert bracket[1].members == max(1, min(keep, epochs // max_epoch // 2))


def test_what_a_budget_means():
    def describe(r, b, **more):
        return OneEpoch(cube=CUBE, max_epoch=r, budget=b, **more).describe()

    assert describe(81, 8) == (
        "one_epoch: 8 trainings = 648 epochs: 408 configurations of 1 epoch, the best 3 of them in full"
    )
    assert describe(1, 5).endswith("random search of 5 configurations")


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"keep": 0}, "keep must be an integer of at least 1, got 0"),
        ({"first_epoch": 10}, "first_epoch must be an integer from 1 to max_epoch=9, got 10"),
        ({"budget": 0.5}, "budget must be at least 1 full training, got 0.5"),
    ],
)
def test_bad_settings_are_named(bad, says):
    with pytest.raises(ValueError, match=says):
        OneEpoch(**({"cube": CUBE, "max_epoch": 9, "budget": 3} | bad))
