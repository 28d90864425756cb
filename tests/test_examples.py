"""The examples keep the rules that they are meant to teach."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contract import Probe, check_objective, check_strategy
from bench.simulate import simulate

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(group: str, name: str):
    return instantiate(OmegaConf.load(EXAMPLES / "conf" / group / f"{name}.yaml"))


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize("name", ["halving", "halving_numpy"])
def test_the_example_strategies_keep_the_rules(name):
    assert check_strategy(load("strategy", name)) == []


def test_the_example_objective_keeps_the_rules():
    assert check_objective(load("objective", "ridge")) == []


def test_halving_finishes_the_better_two_of_each_four():
    run = simulate(load("strategy", "halving"), Probe(), seeds=range(8), budget=8).trace
    for _, rows in run[run["trial"] < 4].groupby("seed"):
        short, long = rows[rows["until"] == 3], rows[rows["until"] == 9]
        assert set(long["trial"]) == set(short.sort_values("loss")["trial"][:2])
