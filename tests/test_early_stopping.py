"""Patience and the median stopping rule against plain loops, and against Optuna's median pruner."""

import jax
import numpy as np
import pytest
from test_asha import events
from test_hyperband import compiled

from bench.cluster import ClusterSettings
from bench.contract import Probe
from bench.protocols import NONE
from bench.simulate import simulate
from bench.space import Float, Space
from strategies import curve_checks
from strategies.median_stopping import MedianStopping
from strategies.patience import Patience

CUBE = Space({"a": Float(0.0, 1.0)}).cube()


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


class Plain:
    """Trials looked at `ends`; stops(curve, completed curves) -> bool decides."""

    def __init__(self, ends, trials, stops):
        self.ends, self.trials, self.stops = ends, trials, stops
        self.going, self.curves, self.completed, self.started = [], {}, [], 0

    def ask(self):
        if self.going:
            trial = self.going.pop()
            return trial, trial, self.ends[len(self.curves[trial])]
        if self.started == self.trials:
            return NONE, NONE, 0
        self.started += 1
        return self.started - 1, NONE, self.ends[0]

    def tell(self, trial, until, loss):
        curve = self.curves.setdefault(trial, [])
        curve.append(loss)
        assert self.ends[len(curve) - 1] == until
        if not np.isfinite(loss):
            return
        if len(curve) == len(self.ends):
            self.completed.append(curve)
        elif not self.stops(curve, self.completed):
            self.going.append(trial)


def impatient(patience, min_delta):
    def stops(curve, _):
        best, since = np.inf, 0
        for loss in curve:
            if loss < best - min_delta:
                best, since = loss, 0
            else:
                since += 1
        return since >= patience

    return stops


def above_median(rule, start, warmup):
    def stops(curve, completed):
        k = len(curve)
        if len(completed) < max(start, 1) or k <= warmup:
            return False
        others = [np.cumsum(c)[k - 1] / k if rule == "vizier" else c[k - 1] for c in completed]
        return min(curve) > np.median(others)

    return stops


def noisy(seed, scale=0.3):
    """Curves that fall towards their own level, with noise; some diverge."""
    rng = np.random.default_rng(seed)
    level, noise = rng.normal(size=4000), rng.normal(size=(4000, 21))
    gone = rng.random((4000, 21)) < 0.004
    return lambda t, until: np.nan if gone[t, until] else level[t] + 3 / (1 + until) + scale * noise[t, until]


@pytest.mark.parametrize("max_epoch, checks, ends", [(20, 20, range(1, 21)), (20, 6, [4, 7, 10, 14, 17, 20])])
@pytest.mark.parametrize("patience, min_delta", [(3, 0.0), (1, 0.1)])
def test_patience_is_that_of_a_plain_loop(max_epoch, checks, ends, patience, min_delta):
    settings = dict(patience=patience, min_delta=min_delta, checks=checks)
    strategy = Patience(**settings, cube=CUBE, max_epoch=max_epoch, budget=25)
    programs = compiled(strategy)
    for workers in (1, 5):
        plain = Plain(list(ends), strategy.num_trials, impatient(patience, min_delta))
        events(strategy, noisy(workers, 0.05), workers, 25 * max_epoch, plain, programs=programs)
        assert plain.started > 20 and len(plain.completed) >= 2 * (patience == 3)


@pytest.mark.parametrize("rule, start, warmup", [("vizier", 5, 0), ("optuna", 5, 0), ("vizier", 1, 3)])
def test_the_median_is_that_of_a_plain_loop(rule, start, warmup):
    settings = dict(rule=rule, start=start, warmup=warmup)
    strategy = MedianStopping(**settings, cube=CUBE, max_epoch=20, budget=25)
    programs = compiled(strategy)
    for workers in (1, 5):
        plain = Plain(list(range(1, 21)), strategy.num_trials, above_median(rule, start, warmup))
        events(strategy, noisy(workers), workers, 25 * 20, plain, programs=programs)
        assert plain.started > 20 and len(plain.completed) >= 5


def test_decisions_are_those_of_optunas_median_pruner():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(2)
    values = rng.normal(size=(400, 1)) + 0.5 * rng.normal(size=(400, 21))
    strategy = MedianStopping(rule="optuna", cube=CUBE, max_epoch=20, budget=25)
    told = events(strategy, lambda t, until: values[t, until], 1, 25 * 20)
    study, trials = optuna.create_study(pruner=optuna.pruners.MedianPruner()), {}
    stopped = 0
    for trial, until, loss, *resumed in told:
        if trial not in trials:
            trials[trial] = study.ask()
        trials[trial].report(loss, until)
        if until == 20:
            study.tell(trials[trial], loss)
        elif resumed:
            assert resumed[0] == (not trials[trial].should_prune())
            stopped += not resumed[0]
    assert stopped > 20 and len(study.trials) > 40


def test_looks_are_even_and_never_two_at_one_epoch():
    for max_epoch in range(1, 130):
        for checks in (1, 3, 20, 200):
            ends = np.array(curve_checks.looks(max_epoch, checks))
            assert ends[-1] == max_epoch and len(ends) == min(checks, max_epoch)
            gaps = np.diff(ends, prepend=0)
            assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("factory", [Patience, MedianStopping])
def test_nothing_lost_trains_on_and_all_is_spent(factory):
    cluster = ClusterSettings(workers=5, straggle=0.33, drop=0.02)
    run = simulate(factory, Probe(), seeds=range(32), budget=8, cluster=cluster).trace
    gone = run[~np.isfinite(run["loss"])].groupby(["seed", "trial"])["finished"].min().rename("gone")
    after = run.join(gone, on=["seed", "trial"])
    assert not ((after["source"] != NONE) & (after["started"] >= after["gone"])).any()
    assert (run["status"] == "given up").any()


@pytest.mark.parametrize("factory", [Patience, MedianStopping])
def test_one_epoch_is_random_search(factory):
    run = simulate(factory, Probe(max_epoch=1), seeds=[0], budget=6, workers=2).trace.sort_values("job")
    assert list(run["trial"]) == list(range(6)) and (run["source"] == NONE).all()


def test_what_a_budget_means():
    assert Patience(cube=CUBE, max_epoch=81, budget=8).describe() == (
        "patience: 8 trainings = 648 epochs: 8 (none stopped) to 129 configurations (all stopped at once), "
        "looked at 20 times in 81 epochs and stopped after 3 looks without improvement"
    )
    assert MedianStopping(cube=CUBE, max_epoch=81, budget=8).describe().endswith(
        "stopped above the median (vizier's rule) once 5 are complete"
    )  # fmt: skip


@pytest.mark.parametrize(
    "factory, bad, says",
    [
        (Patience, {"patience": 0}, "patience must be an integer of at least 1, got 0"),
        (Patience, {"min_delta": -1.0}, "min_delta must be at least 0, got -1.0"),
        (Patience, {"checks": 0}, "checks must be an integer of at least 1, got 0"),
        (MedianStopping, {"rule": "mean"}, "rule must be vizier or optuna, got 'mean'"),
        (MedianStopping, {"start": -1}, "start must be an integer of at least 0, got -1"),
        (MedianStopping, {"budget": 0.05}, "budget must pay for a job of 1 of 9 epochs, got 0.05"),
    ],
)
def test_bad_settings_are_named(factory, bad, says):
    with pytest.raises(ValueError, match=says):
        factory(**({"cube": CUBE, "max_epoch": 9, "budget": 3} | bad))
