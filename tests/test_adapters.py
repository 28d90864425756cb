"""Peers as host strategies: what they see of a space, what they start with, and what is told to them.

A test is skipped where its library is missing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bench import loop
from bench.contract import Probe
from bench.drive import seed_keys
from bench.protocols import NONE, Feedback, MissingExtra
from bench.simulate import simulate
from bench.space import Choice, Float, Int, Space
from nearopt import catalogue
from strategies import adapters

SPACE = Space(
    {
        "rate": Float(1e-5, 1.0, log=True),
        "momentum": Float(-0.5, 0.99),
        "units": Int(8, 256, log=True),
        "layers": Int(1, 4),
        "activation": Choice(("relu", "tanh", "gelu")),
        "size": Choice(("small", "middle", "large"), ordered=True),
    }
)
ADAPTERS = [n for n in catalogue.names("strategy") if n.startswith(("optuna", "botorch", "syne_tune"))]
MODEL_BASED = [n for n in ADAPTERS if n in ("optuna_gp", "optuna_tpe", "botorch_logei", "botorch_lognei")]


def factory(text):
    """The factory of an entry; skips the test where its library is missing."""
    made = catalogue.strategy_factory(catalogue.entry("strategy", text).settings)
    try:
        made(cube=SPACE.cube(), max_epoch=9, budget=3.0, seed=0)
    except MissingExtra as error:
        pytest.skip(str(error))
    return made


def test_the_axes_of_a_cube_decode_as_the_space_does():
    random = np.random.default_rng(0)
    points = random.random((500, SPACE.cube().width), np.float32)
    found = adapters.axes(SPACE.cube())
    assert [a.whole for a in found] == [False, False, True, True, True, True]
    assert [a.unordered for a in found] == [False, False, False, False, True, False]
    assert [(a.first, a.last) for a in found[2:]] == [(8, 256), (1, 4), (0, 2), (0, 2)]
    for x in points:
        config = SPACE.decode(x)
        seen = [axis.value(u) for axis, u in zip(found, x[:6], strict=True)]
        assert seen[:2] == pytest.approx([config["rate"], config["momentum"]], rel=2e-6, abs=1e-7)
        assert seen[2:4] == [config["units"], config["layers"]]
        assert seen[4:] == [
            SPACE.axes["activation"].values.index(config["activation"]),
            SPACE.axes["size"].values.index(config["size"]),
        ]


def test_a_value_goes_to_the_point_that_stands_for_it_and_back():
    cube, found = SPACE.cube(), adapters.axes(SPACE.cube())
    for x in np.random.default_rng(1).random((200, cube.width), np.float32):
        units = [axis.unit(axis.value(u)) for axis, u in zip(found, x[:6], strict=True)]
        snapped = np.asarray(cube.snap(jnp.asarray(x)))
        np.testing.assert_allclose(adapters.point(cube, units), snapped, atol=2e-6)
        assert SPACE.decode(adapters.point(cube, units))["units"] == SPACE.decode(x)["units"]


def test_a_missing_library_is_one_sentence_that_names_the_extra():
    with pytest.raises(
        MissingExtra, match=r'^no_such_library is not installed.*"nearopt\[peers\]"$'
    ) as caught:
        adapters.needed("No such library's sampler", "no_such_library")
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("name", MODEL_BASED)
def test_the_first_trials_are_the_shared_design(name):
    objective = catalogue.build(catalogue.entry("objective", "branin").settings)
    peer = loop.run(factory(f"{name},start=4"), objective, seeds=[5, 6], budget=4).trace
    ours = simulate(factory_of_ours("random"), objective, seeds=[5, 6], budget=4).trace
    assert (peer[["seed", "trial", "hp_x0", "hp_x1"]] == ours[["seed", "trial", "hp_x0", "hp_x1"]]).all(None)


def factory_of_ours(name):
    return catalogue.strategy_factory(catalogue.entry("strategy", name).settings)


@pytest.mark.parametrize("name", ADAPTERS)
def test_mixed_spaces_diverged_losses_and_workers(name):
    """Every proposed value of a discrete axis is one of its values, with three workers and losses of infinity
    and nan among those told."""
    strategy = factory(f"{name},start=3")(
        cube=SPACE.cube(), max_epoch=9, budget=6.0, seed=1, design=lambda n: design(n, 1)
    )
    found, pending, asked = adapters.axes(SPACE.cube()), [], 0
    while asked < 8:
        job = strategy.ask()
        if job.trial != NONE:
            asked += 1
            pending.append(job)
            assert job.x.dtype == np.float32 and job.x.shape == (SPACE.cube().width,)
            assert ((job.x >= 0) & (job.x <= 1)).all() and (job.x[6:] == 0.5).all()
            if job.trial >= 3 and job.source == NONE:
                on_point = [axis.unit(axis.value(u)) for axis, u in zip(found, job.x, strict=False)]
                np.testing.assert_allclose(job.x[2:6], on_point[2:], atol=2e-6)
        if len(pending) == 3 or job.trial == NONE:
            if not pending:
                break
            told = pending.pop(0)
            loss = {1: np.inf, 3: np.nan}.get(told.trial, float(told.x[0]))
            strategy.tell(told, Feedback(loss, 1.0))
    assert asked >= 6


def design(n, seed):
    return np.asarray(SPACE.cube().start(seed_keys(jnp.uint32(seed))[0], n))


@pytest.mark.parametrize(
    "name", [n for n in ADAPTERS if n.startswith("optuna") and "hyperband" not in n and "asha" not in n]
)
def test_optuna_is_told_the_losses_of_the_values_that_it_proposed(name):
    strategy = factory(f"{name},start=2")(cube=SPACE.cube(), max_epoch=1, budget=5.0, seed=3)
    told = []
    for k in range(5):
        job = strategy.ask()
        told.append(np.inf if k == 1 else SPACE.decode(job.x)["momentum"] + SPACE.decode(job.x)["layers"])
        strategy.tell(job, Feedback(np.nan if k == 1 else told[-1], 1.0))
    trials = strategy.study.trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 5
    assert [t.value for t in trials] == told
    seen = [t.params["x1"] + t.params["x3"] for t in trials]
    np.testing.assert_allclose([v for k, v in enumerate(seen) if k != 1], np.delete(told, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["optuna_gp", "botorch_logei", "botorch_lognei"])
def test_a_model_finds_the_bottom_of_a_bowl(name):
    """Ends within a disc that 12 random points hit with probability .02 (each with that of its area)."""
    area = 1 - 0.98 ** (1 / 12)
    square = Space({"a": Float(0, 1), "b": Float(0, 1)})
    bowl = loop.Callable(lambda c: (c["a"] - 0.3) ** 2 + (c["b"] - 0.6) ** 2, square)
    trace = loop.run(factory(f"{name},start=5"), bowl, seeds=[0], budget=12).trace
    assert trace["loss"].min() < area / np.pi < trace["loss"][:5].min()


def test_botorch_recommends_the_lowest_posterior_mean_not_the_luckiest_loss():
    strategy = factory("botorch_logei,start=8")(
        cube=Space({"a": Float(0, 1)}).cube(), max_epoch=1, budget=8.0, seed=0, design=line
    )
    for k in range(8):
        job = strategy.ask()
        lucky = -0.4 if k == 7 else 0.0  # its neighbour at .9 says .36, it says -.03
        strategy.tell(job, Feedback(float((job.x[0] - 0.3) ** 2) + lucky, 1.0))
    assert strategy.ask().trial == NONE
    assert int(np.argmin([strategy.loss[k] for k in range(8)])) == 7
    assert strategy.recommend().trial == 2  # at .3


def line(n):
    x = np.full((n, 8), 0.5, np.float32)
    x[:, 0] = [0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.91][:n]
    return x


@pytest.mark.parametrize("name", ["optuna_hyperband", "optuna_asha", "syne_tune_asha", "syne_tune_hyperband"])
def test_a_pruner_stops_most_trials_early_and_keeps_the_better(name):
    objective = Probe(max_epoch=27)
    trace = loop.run(factory(name), objective, seeds=[0, 1], budget=12).trace
    last = trace.groupby(["seed", "trial"])["until"].max()
    assert set(last) <= {1, 3, 9, 27} and (last < 27).mean() > 0.5
    first = trace[trace["until"] == 1].set_index(["seed", "trial"])["loss"]
    stopped, went_on = first[last[first.index] == 1], first[last[first.index] > 1]
    assert stopped.median() > went_on.median()


def test_syne_tunes_pbt_copies_and_changes_only_what_may_change():
    objective = Probe(max_epoch=20)
    trace = loop.run(factory("syne_tune_pbt,intervals=10"), objective, seeds=[0], budget=8, workers=8).trace
    copies = trace[(trace["source"] != trace["trial"]) & (trace["source"] != NONE)]
    assert len(copies) > 0
    fixed = [f"hp_{n}" for n, axis in objective.space.axes.items() if not axis.change]
    by_trial = trace.drop_duplicates("trial").set_index("trial")
    for _, row in copies.iterrows():
        assert (row[fixed] == by_trial.loc[row["source"], fixed]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optuna_tpe,sampler=nsga", "sampler must be one of"),
        ("optuna_tpe,start=-1", "start must be at least 0"),
        ("botorch_logei,acquisition=ei", "acquisition must be one of"),
        ("botorch_logei,restarts=0", "restarts must be at least 1"),
        ("syne_tune_asha,eta=1", "eta must be at least 2"),
        ("syne_tune_pbt,scheduler=pb2", "scheduler must be one of"),
    ],
)
def test_bad_settings_are_refused_before_any_library_is_looked_for(text, words):
    made = catalogue.strategy_factory(catalogue.entry("strategy", text).settings)
    with pytest.raises(ValueError, match=words):
        made(cube=SPACE.cube(), max_epoch=9, budget=3.0, seed=0)
