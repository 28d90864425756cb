"""The learning-rate finder: fastai's own numbers on given curves, the noisy quadratic's laws, the command."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from bench.drive import instance_key
from bench.lr_finder import RULES, check, find, range_tests, test_rates, updates
from nearopt.commands import main
from surrogates.functions import Function
from surrogates.noisy_quadratic import Moments, NoisyQuadratic, expected_loss, spectrum, train_steps

test_rates.__test__ = False  # a function of the module, no test
CONF = Path(__file__).parent.parent / "conf" / "objective"


def curve(kind: str, rates: np.ndarray) -> np.ndarray:
    """Closed forms of what range tests look like."""
    log, i = np.log10(rates), np.arange(len(rates))
    wave, drop = np.sin(37.0 * i) + np.sin(11.3 * i), 1.0 / (1.0 + np.exp(-2.5 * (log + 3.0)))
    blow = np.exp(np.minimum(6.0 * (log + 0.5), 60.0))
    early = 1.0 / (1.0 + np.exp(-4.0 * (log + 5.0)))
    return {
        "smooth": 2.3 - 1.5 * drop + blow,
        "noisy": 2.3 - 1.2 * drop + 0.15 * wave + 0.3 * blow,
        "early": 9.0 - 8.0 * early + np.exp(np.minimum(8.0 * (log + 2.5), 60.0)),
        "tame": 1.0 - 0.4 * drop + 0.02 * wave + 0.3 * np.maximum(log + 0.3, 0.0),
        "cliff": np.where(log < -1.0, 2.0 - 1.0 * drop + 0.05 * wave, 1e6),
    }[kind]


# Steps until the test stopped, then minimum, steep, valley and slide, by fastai 2.8.12's functions, its
# smoothed loss and its stopping rule, on these curves at so many rates.
FASTAI = [
    (100, "smooth", 91, 0.0242013, 0.0048626, 0.000298365, 0.0033516),
    (100, "noisy", 94, 0.0351119, 0.00278256, 0.0033516, 0.00849753),
    (100, "early", 65, 0.000403702, 2.20513e-05, 4.64159e-05, 1.04762e-05),
    (100, "tame", 100, 0.107227, 0.00278256, 0.0033516, 0.0657933),
    (100, "cliff", 76, 0.00453488, 0.00278256, 0.000628029, 0.00278256),
    (60, "smooth", 55, 0.0235983, 0.00407539, 0.000335292, 0.00116895),
    (60, "noisy", 57, 0.0322459, 0.00556881, 0.00218264, 0.000855467),
    (60, "early", 40, 0.000407539, 2.01876e-05, 2.75853e-05, 6.50968e-07),
    (60, "tame", 60, 0.153617, 0.00556881, 0.00298247, 0.00556881),
    (60, "cliff", 46, 0.00265295, 0.00556881, 0.00045816, 4.23759e-06),
]


@pytest.mark.parametrize(("steps", "kind", "stop", "low", "steep", "valley", "slide"), FASTAI)
def test_suggestions_are_fastais(steps, kind, stop, low, steep, valley, slide):
    rates = test_rates(steps=steps).astype(np.float64)
    finding = find(rates, curve(kind, rates))
    assert len(finding.rates) == stop and finding.stopped == (stop < steps) and finding.sound
    found = [finding.suggestions[rule] for rule in RULES[1:]]
    np.testing.assert_allclose(found, [low, steep, valley, slide], rtol=1e-5)


def test_the_guides_rate_is_a_tenth_of_where_the_loss_starts_to_rise():
    # The slope 1.5 * 2.5 s (1 - s) per decade of the fall meets that of the rise, 6 e^{6 (log + .5)}, there.
    logs = np.linspace(-3, 0, 30001)
    s = 1.0 / (1.0 + np.exp(-2.5 * (logs + 3.0)))
    turn = logs[np.argmax(6.0 * np.exp(6.0 * (logs + 0.5)) > 1.5 * 2.5 * s * (1 - s))]
    rates = test_rates(steps=1000)
    guide = find(rates, curve("smooth", rates.astype(float))).suggestions["guide"]
    assert np.log10(guide) == pytest.approx(turn - 1.0, abs=0.01)


RATES = test_rates().astype(np.float64)
NOISE = 2.3 + 0.05 * np.random.default_rng(0).normal(size=100)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (np.full(100, np.inf), "diverged from the start"),
        (np.full(100, np.nan), "diverged from the start"),
        (np.where(np.arange(100) > 9, np.nan, 2.0), "diverged from the start"),
        (np.full(100, 2.3), "flat"),
        (NOISE, "flat"),
        (NOISE + np.exp(RATES), "without falling first"),
        (np.zeros(100), "flat"),
    ],
)
def test_a_curve_with_nothing_to_read_off_says_so(losses, words):
    finding = find(RATES, losses)
    assert words in finding.words and not finding.sound
    assert np.isnan(list(finding.suggestions.values())).all()


def test_a_curve_that_does_not_rise_has_no_guides_rate():
    finding = find(RATES, 3.0 - np.log10(RATES))
    assert "has not risen by 10" in finding.words and not finding.stopped
    assert np.isnan(finding.suggestions["guide"]) and np.isfinite(finding.suggestions["steepest"])
    # Losses below zero have a best, too: four times that would be below it.
    assert len(find(RATES, -3.0 - np.log10(RATES)).rates) == 100
    broken = find(RATES, np.where(RATES > 0.1, np.nan, 3.0 - np.log10(RATES)))
    assert broken.stopped and "diverged at" in broken.words and len(broken.rates) == (RATES < 0.1).sum() + 1
    assert broken.suggestions["guide"] == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("settings", [{"low": 0.0}, {"low": 1.0, "high": 0.1}, {"steps": 5}])
def test_rates_that_make_no_test_are_refused(settings):
    with pytest.raises(ValueError, match=r"rates must grow|steps must be"):
        test_rates(**settings)


def test_a_tenth_of_the_minimum_costs_up_to_many_times_the_best_loss_on_the_noisy_quadratic():
    """Plain SGD on the paper's spectrum: the loss of a test turns up about 2 / h_max = 2, and what a tenth of
    that costs against the best constant rate depends on batch and horizon."""
    paper = NoisyQuadratic(vary=False, noise=0.0, momentum=0.0, schedule="constant")
    grid = np.geomspace(1e-3, 1.99, 200)
    costs = {}
    with jax.enable_x64(True):
        still = jnp.zeros(len(spectrum().start))
        fresh = Moments(spectrum().start, still, still)

        @jax.jit
        def losses(rates, batch, doublings):
            def loss(rate):
                after = train_steps(spectrum(), fresh, rate, 0.0, batch, doublings, 5, 625)
                return expected_loss(spectrum(), after)

            return jax.vmap(loss)(rates)

        turn = 10.0 * range_tests(paper, [0], test_rates()).findings[0].suggestions["guide"]
        assert 1.5 < turn < 2.8
        for batch in (16, 1024):
            for doublings in (0, 5):  # 625 and 20,000 steps
                found = losses(np.append(grid, 0.1 * turn), float(batch), doublings)
                costs[batch, doublings] = float(found[-1] / found[:-1].min())
    assert all(1.1 < cost < 4 for at, cost in costs.items() if at != (1024, 5)) and 15 < costs[1024, 5] < 35


def test_the_command_values_suggestions_on_the_same_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "noisy_quadratic,max_epoch=3,examples=2048"
    words = [f"objective={name}", "sweep=true", "seed=3", "seeds=2", "points=9", "steps=60"]
    assert main(["lr-finder", *words]) == 0
    folder = tmp_path / "results" / "lr-finder" / name
    said = capsys.readouterr().out
    assert "the loss falls from" in said and "60 steps" not in said and "epochs of a budget" in said
    assert "| guide |" in (folder / "lr-finder.md").read_text()
    assert (folder / "lr-finder.svg").read_text().startswith("<svg")
    curves, table = pd.read_csv(folder / "curve.csv"), pd.read_csv(folder / "sweep.csv")
    assert set(curves["seed"]) == {3, 4} and (curves.groupby("seed")["learning_rate"].count() <= 60).all()
    assert set(table["what"]) == {"sweep", *RULES} and set(table["seed"]) == {3, 4}
    rate, value = table[(table["seed"] == 4) & (table["what"] == "guide")].iloc[0][
        ["learning_rate", "true_loss"]
    ]
    best = table[table["what"] == "sweep"].groupby("seed")["true_loss"].min()
    ratio = table[table["what"] == "guide"].set_index("seed")["true_loss"] / best
    assert f"| {ratio.min():.3g} to {ratio.max():.3g} |" in (folder / "lr-finder.md").read_text()
    objective = NoisyQuadratic(max_epoch=3, examples=2048)
    assert updates(objective) == 2048 / 128
    with jax.enable_x64(True):
        hp = objective.space.decode_array(jnp.asarray(objective.space.cube().default))
        hp |= {"learning_rate": jnp.float32(rate)}
        instance = objective.draw(instance_key(jnp.uint32(1004)))
        fresh = objective.init(instance, jax.random.key(0))
        loss = objective.train(instance, jax.random.key(0), fresh, hp, jnp.int32(0), jnp.int32(3))[2]
    assert value == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["objective=branin"], "branin has no learning-rate range test"),
        ([], "lr-finder needs objective=NAME"),
        (["objective=noisy_quadratic", "sweep=perhaps"], "sweep must be true or false"),
        (["objective=noisy_quadratic", "step=100"], "did you mean steps?"),
        (["objective=noisy_quadratic", "steps=5"], "steps must be a whole number of at least 10"),
        (["objective=noisy_quadratic", "low=20"], "rates must grow"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, sentence, capsys):
    assert main(["lr-finder", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_an_objective_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="no `range_test`"):
        check(Function("branin"))
    with pytest.raises(ValueError, match="has no learning rate"):
        check(_Rateless())


class _Rateless:
    name = "rateless"
    space = Function("branin").space

    def range_test(self, instance, key, hp, rates):
        return rates


def with_range_test() -> list:
    """Each class of conf/ that has a range test, once; real training is slow."""
    seen, found = set(), []
    for path in sorted(CONF.glob("*.yaml")):
        target = OmegaConf.load(path)["_target_"]
        kind = get_class(target)
        if target not in seen and hasattr(kind, "range_test"):
            found.append(pytest.param(path, marks=[pytest.mark.slow] if hasattr(kind, "chunk") else []))
        seen.add(target)
    return found


@pytest.mark.parametrize("path", with_range_test(), ids=lambda path: path.stem)
def test_every_listed_range_test_keeps_the_contract(path):
    """f32[steps], finite at the least rates; a step's loss knows neither later rates nor the axis's own."""
    objective = instantiate(OmegaConf.load(path))
    rates = test_rates(steps=12)
    with jax.enable_x64(True):
        instance, key = objective.draw(instance_key(jnp.uint32(1))), jax.random.key(3, impl="threefry2x32")
        x = objective.space.cube().default
        test = jax.jit(
            lambda x, rates: objective.range_test(instance, key, objective.space.decode_array(x), rates)
        )
        first = np.asarray(test(x, rates))
        later = np.asarray(test(x, np.where(np.arange(12) < 6, rates, 1e-3).astype(np.float32)))
        rated = np.asarray(objective.space.cube().role == 0)  # of the role `rate`
        other = np.asarray(test(np.where(rated, 0.9, x).astype(np.float32), rates))
    assert first.shape == (12,) and first.dtype == np.float32 and np.isfinite(first[:3]).all()
    assert (first[:6] == later[:6]).all() and (first == other).all()
    if hasattr(objective, "updates"):
        assert updates(objective) >= 1
