"""The workflow: its stages, the finder's hint in both drivers' terms, what it is told beforehand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import loop
from bench.contract import check_strategy
from bench.drive import hint_of_rates, prior_of_configs
from bench.loop import Callable
from bench.protocols import NONE, Feedback, Job
from bench.space import Float, Int, Space
from strategies.workflow import APART, Workflow

SPACE = Space(
    {
        "rate": Float(1e-5, 1.0, default=1e-3, log=True, role="rate"),
        "decay": Float(0.0, 1.0, default=0.25, role="regularisation"),
        "layers": Int(1, 5, default=2),
    }
)
COLUMNS = ["hp_rate", "hp_decay", "hp_layers"]


def loss(config):
    away = np.log10(config["rate"]) + 2
    return away**2 + (config["decay"] - 0.75) ** 2 + 0.1 * (config["layers"] - 4) ** 2


def run(budget=12, hint=None, max_epoch=1, prior=None, **settings):
    form = "config" if max_epoch == 1 else "generator"
    f = loss if max_epoch == 1 else lambda config: (loss(config) for _ in range(max_epoch))
    objective = Callable(f, SPACE, max_epoch, form)
    factory = partial(Workflow, **settings)
    return loop.run(factory, objective, seeds=[1], budget=budget, hint=hint, prior=prior).trace


@pytest.mark.slow
def test_the_stages_follow_each_other_within_the_budget():
    trace = run(important=["rate", "regularisation"])
    assert len(trace) == 12 and (trace["until"] == 1).all()
    default, random, model = trace[:1], trace[1:8], trace[8:]
    np.testing.assert_allclose(default[COLUMNS].to_numpy(), [[1e-3, 0.25, 2]], rtol=1e-5)
    # Random over the axes that are important, the others as they are by default.
    assert (random["hp_layers"] == 2).all() and random["hp_rate"].nunique() == random[
        "hp_decay"
    ].nunique() == 7
    assert model["hp_layers"].nunique() > 1
    # The model knows the random trials: on this bowl it is at once better than their median (seed 1).
    assert model["loss"].iloc[0] < random["loss"].median() and model["loss"].min() < random["loss"].min()


@pytest.mark.parametrize(
    ("budget", "settings", "stages"),
    [
        (30, {}, (1, 17, 12)),
        (51, {}, (1, 30, 20)),
        (100, {}, (1, 30, 69)),
        (8, {}, (1, 5, 2)),
        (4, {}, (1, 3, 0)),
        (50, {"random": 25, "bayesian": 15}, (1, 25, 15)),
        (10, {"default": False, "random": 0}, (0, 0, 10)),
        (40, {"prior_trials": 8}, (0, 21, 19)),  # of 48 in all: 1 and 28 less 8, 19
    ],
)
def test_the_lengths_of_the_stages(budget, settings, stages):
    strategy = Workflow(cube=SPACE.cube(), max_epoch=9, budget=budget, **settings)
    names = ["the default"] if stages[0] else []
    assert (
        strategy.describe()
        == f"workflow: {', '.join([*names, f'{stages[1]} random'])}, {stages[2]} by the model"
    )
    assert strategy.num_trials == sum(stages) + settings.get("prior_trials", 0)
    assert strategy.anytime == ("random" in settings)


def test_a_hint_narrows_the_rates_axis_and_costs_an_epoch():
    hint = hint_of_rates(SPACE, [3e-2])
    trace = run(5, hint, max_epoch=9, random=9)
    # Half a decade to each side, but for the default; the last training is an epoch short.
    assert trace["hp_rate"].iloc[0] == pytest.approx(1e-3)
    rates = np.log10(trace["hp_rate"][1:] / 3e-2)
    assert (rates.abs() <= 0.5 + 1e-4).all() and rates.max() - rates.min() > 0.4
    assert trace["until"].tolist() == [9] * 4 + [8]
    fixed = run(5, hint, max_epoch=9, finder="fix", random=9)
    np.testing.assert_allclose(fixed["hp_rate"][1:], 3e-2, rtol=1e-4)


@pytest.mark.slow
def test_without_a_finder_there_is_no_hint_and_one_without_a_rate_takes_budget_alone():
    free = run(8, hint_of_rates(SPACE, [3e-2]), max_epoch=9, finder="none", random=9)
    assert free["until"].tolist() == [9] * 8 and np.ptp(np.log10(free["hp_rate"][1:])) > 1.5
    none = run(8, hint_of_rates(SPACE, [np.nan]), max_epoch=9, random=9)
    assert none["hp_rate"].equals(free["hp_rate"]) and none["until"].iloc[-1] == 8


def test_what_lies_outside_the_narrowed_axis_is_not_the_models():
    strategy = Workflow(cube=jax.tree.map(jnp.asarray, SPACE.cube()), max_epoch=9, budget=8.0, random=9)
    with jax.enable_x64(True):
        state, tell = jax.jit(strategy.init)(jax.random.key(0)), jax.jit(strategy.tell)
        x = jnp.asarray(hint_of_rates(SPACE, [3e-2]).x[0])
        state = tell(state, Job(jnp.int32(0), jnp.int32(NONE), x, jnp.int32(0)), Feedback(jnp.nan, 0.0))
        width = np.log(10) / (np.log(1.0) - np.log(1e-5))
        centre = (np.log(3e-2) - np.log(1e-5)) / (np.log(1.0) - np.log(1e-5))
        np.testing.assert_allclose(
            [state.low[0], state.high[0]], [centre - width / 2, centre + width / 2], rtol=1e-5
        )
        assert (state.low[1:] == 0).all() and (state.high[1:] == 1).all() and (state.gp.status == 0).all()
        for k, rate in enumerate((1e-3, 3e-2)):
            point = jnp.asarray(SPACE.encode({"rate": rate}))
            job = Job(jnp.int32(k), jnp.int32(NONE), point, jnp.int32(9))
            state = tell(state, job, Feedback(jnp.float64(k), jnp.float64(1)))
        assert state.gp.status[:2].tolist() == [APART, 2]
        np.testing.assert_allclose(state.gp.x[1, 0], 0.5, atol=1e-4)
        # Deployed may be one that lies outside.
        assert int(strategy.recommend(state).trial) == 0


def test_trials_made_elsewhere_stand_for_the_default_and_the_first_random_ones():
    configs = [{"rate": 10.0**-k} for k in range(1, 5)]
    prior = prior_of_configs(SPACE, configs, [0.5, 0.25, 0.5, 1.0], 1)
    trace = run(4, prior=prior, random=9)
    assert trace["trial"].tolist() == [4, 5, 6, 7] and trace["hp_rate"].iloc[0] != pytest.approx(1e-3)
    strategy = Workflow(cube=SPACE.cube(), max_epoch=1, budget=6.0, random=5, prior_trials=4)
    assert [strategy.stage(k) > 0 for k in range(7)] == [False, False, True, True, True, True, False]


@pytest.mark.slow
def test_the_rules_hold_with_the_model_in_play():
    assert check_strategy(partial(Workflow, random=2)) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finder": "yes"}, "finder must be one of narrow, fix, none, got 'yes'"),
        ({"random": -1}, "random must be a whole number of at least 0"),
        ({"width": -1.0}, "width must be a finite number at least 0"),
        ({"important": ["rates"]}, "important must be roles out of rate, .*, got 'rates'"),
        ({"budget": 0.5}, "at least 1 full training, got 0.5"),
        ({"default": False, "random": 0, "bayesian": 0}, "must leave a trial to make"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(ValueError, match=words):
        Workflow(**{"cube": SPACE.cube(), "max_epoch": 1, "budget": 8.0} | settings)
