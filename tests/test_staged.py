"""Tuning in stages: whose axes move when, from where, and what that misses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bench import loop, simulate
from bench.loop import Callable
from bench.space import Float, Int, Space
from strategies.random_search import RandomSearch
from strategies.staged import Staged
from surrogates.functions import Function

SPACE = Space(
    {
        "layers": Int(1, 9, default=2, role="architecture"),
        "rate": Float(0.0, 1.0, default=0.5, role="rate"),
        "batch": Float(0.0, 1.0, default=0.5, role="batch"),
        "seed": Float(0.0, 1.0, default=0.25),
        "final": Float(0.0, 1.0, default=0.5, role="rate"),
    }
)
STAGES = [["rate", "final"], ["batch"], ["layers"], ["seed"]]


def test_each_stage_moves_its_axes_from_the_best_so_far():
    def loss(config):
        return (
            sum(abs(config[name] - 0.1) for name in ("rate", "batch", "seed", "final")) + config["layers"] / 9
        )

    trace = loop.run(Staged, Callable(loss, SPACE), seeds=[3], budget=21).trace
    columns = [f"hp_{name}" for name in SPACE.names]
    np.testing.assert_allclose(trace[columns].to_numpy()[0], [2, 0.5, 0.5, 0.25, 0.5], rtol=1e-6)
    for k in range(1, 21):
        best = trace[:k].sort_values("loss", kind="stable").iloc[0]
        moved = {name for name in SPACE.names if trace[f"hp_{name}"][k] != best[f"hp_{name}"]}
        stage = STAGES[(k - 1) // 5]
        assert moved <= set(stage) and (moved or stage == ["layers"])
    # The same random numbers as random search, of the axes that move.
    random = loop.run(RandomSearch, Callable(loss, SPACE), seeds=[3], budget=21).trace
    assert trace["hp_batch"][6:11].tolist() == random["hp_batch"][6:11].tolist()


def test_the_order_is_a_setting_and_a_space_without_roles_is_one_stage():
    order = partial(Staged, order=["batch", "rate"])
    trace = loop.run(order, Callable(lambda c: c["batch"], SPACE), seeds=[3], budget=10).trace
    changes = [trace[f"hp_{name}"].nunique() for name in ("batch", "rate", "layers")]
    assert changes[0] >= 4 and trace["hp_rate"][:4].nunique() == 1 and trace["hp_layers"][:7].nunique() == 1
    run = simulate.simulate(Staged, Function("branin"), seeds=[0], budget=8).trace
    random = simulate.simulate(RandomSearch, Function("branin"), seeds=[0], budget=8).trace
    later = run["trial"] > 0
    np.testing.assert_array_equal(run["loss"][later], random["loss"][later])


def test_one_after_the_other_misses_the_best_of_axes_that_interact():
    """A valley along rate = batch, falling towards (1, 1): from (.1, .1) no single axis leads far down. 16
    seeds: staged stays above .6 in all of them, random search is better by more than .1 in most."""
    space = Space(
        {
            "rate": Float(0.0, 1.0, default=0.1, role="rate"),
            "batch": Float(0.0, 1.0, default=0.1, role="batch"),
        }
    )

    def loss(config):
        return 10 * abs(config["rate"] - config["batch"]) + 1 - config["rate"]

    def best(strategy):
        trace = loop.run(strategy, Callable(loss, space), seeds=range(16), budget=40).trace
        return trace.groupby("seed")["loss"].min()

    staged, random = best(Staged), best(RandomSearch)
    assert (staged > 0.6).all() and (staged - random).median() > 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"order": ["rates"]}, "order must name roles out of rate, .*, got 'rates'"),
        ({"order": ["rate", "rate"]}, "order must name a role once"),
        ({"budget": 0.5}, "at least 1 full training"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(ValueError, match=words):
        Staged(**{"cube": SPACE.cube(), "max_epoch": 1, "budget": 8.0} | settings)
