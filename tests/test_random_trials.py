"""What a study says of its random trials: which they are, and that what the page says of them is true."""

from __future__ import annotations

import copy
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

import nearopt
from bench import loop
from bench.bands import tuning_curve
from bench.loop import Callable
from bench.space import Float, Space
from nearopt import study_page
from nearopt.study_page import Data, random_in_words
from nearopt.study_result import draws_of
from strategies.random_search import RandomSearch
from strategies.workflow import Workflow

SPACE = Space({"a": Float(0.0, 1.0, default=0.5), "b": Float(0.0, 1.0, default=0.5)})
TITLE = "What random trials bring"


def loss(config):
    return math.exp(config["a"])


def a_log(losses, maximize=False, hours=None):
    """The log of a study of random trials, as short as it may be."""
    sign = -1 if maximize else 1
    session = dict(
        kind="session", session=0, space={}, max_epoch=1, folds=1, code=None, data=None, maximize=maximize,
        function="f", strategy="random", trials=None if hours else len(losses), hours=hours,
    )  # fmt: skip
    trials = [
        dict(
            kind="trial", session=0, stage="search", segment=0, job=k, slot=k, trial=k, draw=k, start=0,
            until=1, whole=True, config={"a": k / len(losses), "b": 0.5}, x=[k / len(losses), 0.5],
            parent=None, status="finished" if np.isfinite(v) else "diverged",
            value=sign * v if np.isfinite(v) else None, trainings=1.0, seconds=1.0, curve=None,
        )
        for k, v in enumerate(losses)
    ]  # fmt: skip
    return [session, dict(kind="plan", segment=0, identity="i"), *trials]


@pytest.mark.parametrize("maximize", [False, True])
def test_random_trials_of_a_study(tmp_path, maximize):
    def f(config):
        return math.nan if config["a"] > 0.9 else (-1 if maximize else 1) * loss(config)

    rest: dict[str, Any] = dict(strategy="random", confirm=None, maximize=maximize, name="s", folder=tmp_path)
    rest |= dict(quiet=True, seed=1)
    study = nearopt.tune(f, SPACE, trials=12, **rest)
    search = study.trials[study.trials["stage"] == "search"]
    a = search["hp_a"].to_numpy()
    assert len(a) == 11 and (a > 0.9).any()
    # The default is no draw, nor is a start by hand; diverged is the worst.
    np.testing.assert_allclose(draws_of(study.lines), np.where(a > 0.9, np.inf, np.exp(a)), rtol=1e-6)
    page = (study.folder / "study.html").read_text()
    assert f"<h2>{TITLE}</h2>" in page and "From the 11 trials" in page
    word = "value" if maximize else "loss"
    best = f"{'-' if maximize else ''}{math.exp(a.min()):.4g}"
    assert f"The best of 11 random trials has a {word} of about {best} in the median" in page
    # A larger budget goes on with the same law; other data do not.
    more = nearopt.tune(f, SPACE, trials=14, start=[{"a": 0.2}], **rest)
    assert len(draws_of(more.lines)) == 12 and (more.trials["stage"] == "start").sum() == 1
    other = nearopt.tune(f, SPACE, trials=16, data=[np.arange(3)], **rest)
    assert len(draws_of(other.lines)) == 2 and TITLE not in (other.folder / "study.html").read_text()


def test_what_is_no_draw():
    lines = a_log(np.arange(10.0))
    assert draws_of(lines).tolist() == list(range(10))
    sooner = [x for x in lines if x.get("draw") not in (4, 9)]  # the fifth still runs, the last is not there
    assert draws_of(sooner).tolist() == [0, 1, 2, 3]
    for change in ({"draw": None}, {"whole": False}, {"start": 1}):  # a model's; stopped early; gone on with
        changed = copy.deepcopy(lines)
        changed[-1] |= change
        assert draws_of(changed).tolist() == list(range(9))
    earlier = [{k: v for k, v in x.items() if k != "draw"} for x in lines]  # a log of a version before
    assert not len(draws_of(earlier)) and TITLE not in study_page.render("s", earlier, SPACE)
    for now in ({"space": {"a": "Float(0, 2)"}}, {"max_epoch": 2}, {"folds": 2}):
        assert not len(draws_of([*lines, lines[0] | {"session": 1} | now]))
    again = [x | {"segment": 1} for x in lines[1:6]]
    assert draws_of([*lines, *again]).tolist() == [*range(10), *range(4)]
    # Another strategy's law: the last is shown.
    assert draws_of([*lines, again[0] | {"identity": "j"}, *again[1:]]).tolist() == [0, 1, 2, 3]
    assert TITLE not in study_page.render("s", a_log(np.arange(7.0)), SPACE)
    assert TITLE not in study_page.render("s", a_log([1.0, *[np.nan] * 9])[:2] + lines[2:8], SPACE)
    assert "the clock decided" in study_page.render("s", a_log(np.arange(9.0), hours=1.0), SPACE)


@pytest.mark.parametrize(
    ("factory", "budget", "drawn"),
    [
        (RandomSearch, 12, range(12)),
        pytest.param(partial(Workflow, random=8), 11, range(1, 9), marks=pytest.mark.slow),
    ],
)
def test_draws_are_those_whatever_is_told(factory, budget, drawn):
    def asked(f):
        objective = Callable(f, SPACE, 1, "config")
        run = loop.run(factory, objective, seeds=[1], budget=budget)
        return run.trace.sort_values("trial")[["hp_a", "hp_b"]].to_numpy()

    made = factory(cube=SPACE.cube(), max_epoch=1, budget=budget)
    assert made.draws == drawn and made.num_trials == budget
    # Two losses that send a model to opposite corners.
    up, down = asked(loss), asked(lambda config: -loss(config))
    same = (up == down).all(1)
    assert same[list(drawn)].all() and not (same[drawn.stop :]).any()
    assert len(np.unique(up[list(drawn)], axis=0)) == len(drawn)


def test_draws_by_settings():
    made: dict[str, Any] = dict(cube=SPACE.cube(), max_epoch=1, budget=12)
    assert len(RandomSearch(design="sobol", **made).draws) == 0
    told = Workflow(random=8, prior_trials=3, **made)  # 3 of the 9 of the default and the random stage
    assert told.draws == range(3, 9)
    assert Workflow(random=8, **dict(made, budget=4)).draws == range(1, 4)
    assert not len(Workflow(random=2, prior_trials=5, **made).draws)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_sentence_is_true(maximize):
    # 1,000 studies of 40 draws of a law with ties and diverged trials, seed 5: all that the sentence says at
    # once in at least 95 %, less 4 sigma. The law: uniform, in steps of .01 up to .8, the rest diverges.
    rng, n, sign, right = np.random.default_rng(5), 40, -1 if maximize else 1, 0

    def median(k):
        share = 1 - 0.5 ** (1 / k)
        return np.ceil(share * 100) / 100 if share <= 0.8 else np.inf

    data = Data(a_log([1.0], maximize), SPACE)
    pattern = (
        r"at worst (\S+)\. (\d+) trials instead of (\d+) bring it from between (.+) and (.+) to at best "
        r"(\S+)\. Beyond"
    )

    def number(text):
        return np.inf if text.startswith("no ") else sign * float(text)

    for _ in range(1000):
        u = np.ceil(rng.random(n) * 100) / 100
        words = random_in_words(data, tuning_curve(np.where(u <= 0.8, u, np.inf), np.arange(1, n + 1)))
        found = re.search(pattern, words)
        assert found, words
        worst, twice, k, *ends, best = found.groups()
        assert int(twice) == 2 * int(k)
        low, high = sorted(map(number, ends))
        right += (
            median(n) <= number(worst)
            and low <= median(int(k)) <= high
            and number(best) <= median(int(twice))
        )
    assert right / 1000 > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("n", [8, 12, 40, 200])
def test_what_is_not_bounded_is_said(n):
    losses = np.arange(1.0, n + 1)
    band = tuning_curve(losses, np.arange(1, n + 1))
    page = study_page.render("s", a_log(losses), SPACE)
    found = re.search(r"Beyond (\d+) trials? the band has no better end", page)
    assert found
    beyond = int(found[1])
    # No band of this level bounds more: all of n draws are worse than the median of the best of k with this
    # probability.
    assert np.isneginf(band.low[beyond:]).all() and np.isfinite(band.low[:beyond]).all()
    assert 0.5 ** (n / beyond) < 0.05
    assert ("trials instead of" in page) == (beyond >= 2)
    assert 'aria-label="what random trials bring"' in page and "nan" not in page and "inf" not in page
