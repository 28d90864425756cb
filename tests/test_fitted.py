"""Surrogates fitted to recorded trainings: recordings made of formulas, whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench.protocols import MissingData
from bench.space import Choice, Float, Space
from nearopt.recording import axes_of
from surrogates import fitted
from surrogates.curve_fit import TRUSTED, features, fit, space_of, table_features
from surrogates.fitted import FIT, TRUST, Fitted

SPACE = Space(
    {
        "rate": Float(1e-3, 1.0, log=True, change=True, role="rate"),
        "kind": Choice(("a", "b", "c"), role="other"),
        "size": Choice((8, 16, 32), ordered=True, role="architecture"),
    }
)
EPOCHS, CONFIGURATIONS, SCATTER, STAYS = 6, 120, 0.05, 0.8
SHRINKS = 0.7  # what is off the mean curve keeps so much of it in an epoch


def truth(rate: np.ndarray, kind: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Mean log losses f64[n, EPOCHS] of the formula behind the recording."""
    best = (np.log10(rate) + 1.5 + 0.5 * (kind == "b")) ** 2
    floor = 0.3 * best + 0.2 * (kind == "c") - 0.1 * np.log2(size / 8)
    return floor[:, None] - 0.8 * np.log(np.arange(1, EPOCHS + 1))


def columns(x: np.ndarray) -> dict[str, np.ndarray]:
    return {f"hp_{name}": values for name, values in SPACE.decode_many(x).items()}


def recording() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves of two seeds each, and forks: rates above .5 diverge after epoch 2; told losses scatter by
    SCATTER, of which the share STAYS of the variance is a training's own."""
    draw = np.random.default_rng(0)
    x = draw.random((CONFIGURATIONS, 3)).astype(np.float32)
    hp = columns(x)
    mean = truth(*hp.values())
    rows, forks = [], []
    for i in range(CONFIGURATIONS):
        for s in range(2):
            stay, move = draw.normal(size=(2, 2, 1)), draw.normal(size=(2, EPOCHS))
            off = SCATTER * (np.sqrt(STAYS) * stay[0] + np.sqrt(1 - STAYS) * move)
            told, true = np.exp(mean[i] + off)
            if hp["hp_rate"][i] > 0.5:
                told[2:] = true[2:] = np.inf
            ids = {"configuration": i, "seed": s} | {k: v[i] for k, v in hp.items()}
            rows.append(ids | {"cost": 6.0, "loss": told, "true_loss": true})
            if i % 2 or hp["hp_rate"][i] > 0.5:
                continue
            for start in (2, 4):
                later = x[i].copy()
                later[0] = 0.85 * draw.random()
                after = columns(later[None])
                curve = truth(*after.values())[0]
                level = np.log(np.sqrt(told * true))[start - 1]
                keep = SHRINKS ** np.arange(1, EPOCHS - start + 1)
                ends = curve[start:] + keep * (level - curve[start - 1])
                ids = {"configuration": i, "seed": s, "epoch": start, "change": 2}
                ids |= {k: v[0] for k, v in after.items()}
                forks.append(ids | {"loss": np.exp(ends), "true_loss": np.exp(ends)})
    return pd.DataFrame(rows), pd.DataFrame(forks)


def write(folder: Path, curves: pd.DataFrame, forks: pd.DataFrame | None) -> Path:
    """A recording as `nearopt record` leaves it."""
    folder.mkdir(parents=True)
    curves.to_parquet(folder / "curves.parquet")
    if forks is not None:
        forks.to_parquet(folder / "forks.parquet")
    (folder / "recording.json").write_text(json.dumps({"axes": axes_of(SPACE), "scale": "linear"}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    curves, forks = recording()
    Fitted.make(write(folder / "formula", curves, forks))
    return Fitted("formula_fitted", "formula", str(folder))


def probe(n: int = 60, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Configurations that nothing has seen, rates that converge, with their true mean log losses."""
    x = np.random.default_rng(seed).random((n, 3)).astype(np.float32)
    x[:, 0] *= 0.85
    return x, truth(*columns(x).values())


def test_the_mean_curve_of_unseen_configurations(made):
    x, mean = probe()
    assert space_of(axes_of(SPACE)) == SPACE == made.space and made.max_epoch == EPOCHS
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def train(key, x):
            hp = made.space.decode_array(x)
            losses = [made.train((), key, made.init((), key), hp, jnp.int32(0), jnp.int32(e)) for e in (1, 6)]
            cost = made.cost((), key, hp, jnp.int32(1), jnp.int32(4))
            return jnp.stack([jnp.stack(v[1:]) for v in losses]), cost

        keys = jax.random.split(jax.random.key(0), 60)
        found, cost = (np.asarray(v) for v in train(keys, x))
    error = np.log(found[:, :, 1]) - mean[:, [0, 5]]
    assert (
        np.sqrt(np.median(error**2)) < 0.04 and np.corrcoef(np.log(found[:, 1, 1]), mean[:, 5])[0, 1] > 0.97
    )
    np.testing.assert_allclose(cost, 3.0, rtol=1e-4)
    noise = np.log(found[:, :, 0] / found[:, :, 1])
    assert 0.6 * SCATTER < noise.std() < 1.5 * SCATTER
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(STAYS, abs=0.25)


def test_rates_that_diverged_diverge_after_the_epoch_when_they_did(made):
    x = np.random.default_rng(3).random((40, 3)).astype(np.float32)
    x[:20, 0], x[20:, 0] = 0.97, 0.4
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def train(key, x):
            hp = made.space.decode_array(x)
            state, early, _ = made.train((), key, made.init((), key), hp, jnp.int32(0), jnp.int32(2))
            return early, made.train((), key, state, hp, jnp.int32(2), jnp.int32(6))[1]

        early, late = (np.asarray(v) for v in train(jax.random.split(jax.random.key(1), 40), x))
    assert np.isfinite(early).all() and np.isfinite(late[20:]).all()
    assert np.isinf(late[:20]).mean() > 0.8


def test_a_checkpoint_under_other_hyperparameters_nears_their_curve(made):
    """What is off the new curve keeps SHRINKS of itself in each epoch, as in the recorded forks."""
    assert made.changes and made.offers == {"stop", "resume", "copy", "change"}
    x = np.array([[0.75, 0.1, 0.9], [0.45, 0.1, 0.9]], np.float32)
    curve = truth(*columns(x).values())
    with jax.enable_x64(True):

        @jax.jit
        def train(before, after):
            hp, key = [made.space.decode_array(v) for v in (before, after)], jax.random.key(2)
            state = made.train((), key, made.init((), key), hp[0], jnp.int32(0), jnp.int32(2))[0]
            return jnp.log(made.train((), key, state, hp[1], jnp.int32(2), jnp.int32(6))[2])

        for first, second in ((0, 1), (1, 0)):
            end = train(x[first], x[second])
            expected = curve[second, 5] + SHRINKS**4 * (curve[first, 1] - curve[second, 1])
            assert float(end) == pytest.approx(expected, abs=0.08)


@pytest.mark.slow
def test_dynamics_that_predict_no_held_out_fork_are_not_offered(tmp_path):
    curves, forks = recording()
    draw = np.random.default_rng(7)
    ends = [np.exp(draw.normal(size=len(v))) for v in forks["loss"]]
    Fitted.make(write(tmp_path / "formula", curves, forks.assign(loss=ends, true_loss=ends)))
    blind = Fitted("formula_fitted", "formula", str(tmp_path))
    assert not blind.changes and blind.offers == {"stop", "resume"}
    assert any("no copy, no change" in value for _, value in blind.trust())
    assert json.loads((tmp_path / "formula" / TRUST).read_text())["forks"] < TRUSTED


def test_the_judge_says_what_held_out_configurations_say(made):
    said = dict(made.trust())
    assert "120 configurations of 6 epochs, 2 seeds each; judged on" in said["recorded"]
    end = float(said["ranks"].split("losses ")[1].split(" ")[0])
    assert 0.95 < end < 1.0
    assert 65 <= int(said["noise"].split(" %")[0]) <= 92
    assert "continu" not in said["diverged"] and float(said["forks"].split("ends ")[1].split(",")[0]) > 0.9


@pytest.mark.slow
def test_a_fit_is_deterministic_and_known_by_its_content(made, tmp_path):
    curves, forks = recording()
    again = fit(SPACE, curves, forks)
    assert all((again[name] == value).all() for name, value in made._fit.arrays.items())
    folder = tmp_path / "formula"
    folder.mkdir()
    for path in made._folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    twin = Fitted("formula_fitted", "formula", str(tmp_path))
    assert twin.digest == made.digest and twin == made
    np.savez(folder / FIT, **(again | {"cap": again["cap"] + 1}))
    assert Fitted("formula_fitted", "formula", str(tmp_path)) != made


@pytest.mark.slow
def test_the_reference_is_below_all_random_configurations(made, monkeypatch):
    monkeypatch.setattr(fitted, "SAMPLES", 1024)
    monkeypatch.setattr(fitted, "GENERATIONS", 60)
    table = made.make_reference_table()
    mean = probe(400)[1]
    quantiles = np.array([np.inf if q is None else q for q in table["quantiles"]])
    finite = quantiles[np.isfinite(quantiles)]
    assert table["optimum_static"] <= finite[0] and (np.diff(finite) >= 0).all() and np.isinf(quantiles[-1])
    assert table["optimum_static"] == pytest.approx(np.exp(mean[:, 5].min()), rel=0.1)


def test_features():
    table = pd.DataFrame(columns(np.array([[0.0, 0.5, 0.5], [1.0, 0.9, 0.1]], np.float32)))
    expected = [[-1, -1, 1, -1, 0.0], [1, -1, -1, 1, -2 / 3]]
    np.testing.assert_allclose(table_features(SPACE, table), expected, atol=1e-5)
    with jax.enable_x64(True):
        one = jax.jit(lambda x: jnp.stack(features(SPACE, SPACE.decode_array(x))))(jnp.array([1.0, 0.9, 0.1]))
    np.testing.assert_allclose(one, expected[1], atol=1e-5)


def test_what_cannot_be_fitted_is_refused_in_one_sentence(tmp_path):
    curves, _ = recording()
    with pytest.raises(ValueError, match="second seed"):
        fit(SPACE, curves[curves["seed"] == 0])
    with pytest.raises(ValueError, match="above 0"):
        fit(SPACE, curves.assign(loss=[-v for v in curves["loss"]]))
    with pytest.raises(MissingData, match="nearopt record objective=nothing fit=nothing_fitted"):
        Fitted("nothing_fitted", "nothing", str(tmp_path))
