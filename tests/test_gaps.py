"""The share of the gap between constant hyperparameters and the best sequence, on constructed runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from bench.gaps import Ends, Gap, Group, answer_table, answers, difference, gap_table, groups, shares, verdict
from bench.plots import gap_figure

GOALS = pd.DataFrame(
    {"optimum": [0.1, 1.0, 0.5], "dynamic": [0.001, 0.01, 0.4999]}, index=pd.Index([1000, 1001, 1002])
)
SEEDS = np.arange(40)


def gap(**entries):
    """A gap of entries label__schedule=shares; those of pbt change in training."""
    made = {tuple(name.split("__")): (SEEDS[: len(v)], np.asarray(v, float)) for name, v in entries.items()}
    changers = [e for e in made if e[0].startswith("pbt")]
    group = Group("sgd", {"constant": "sgd", "cosine": "sgd,schedule=cosine"})
    return Gap(group, 16.0, made, changers, [e for e in made if e not in changers])


def test_objectives_that_differ_in_their_schedule_alone_are_a_group():
    made = {
        f"sgd,schedule={s},batch={b}": {"name": "sgd", "schedule": s, "batch": b}
        for b in (16, 64)
        for s in ("cosine", "constant")
    }
    made |= {"other": {"name": "other", "schedule": "constant"}, "none": {"name": "none"}}
    made |= {
        "free": {"name": "free", "schedule": "cosine"},
        "free,schedule=step": {"name": "free", "schedule": "step"},
    }
    found = groups(made)
    assert [g.name for g in found] == ["sgd,schedule=constant,batch=16", "sgd,schedule=constant,batch=64"]
    assert found[0].members == {
        "constant": "sgd,schedule=constant,batch=16",
        "cosine": "sgd,schedule=cosine,batch=16",
    }


def test_a_share_is_of_the_log_gap_of_the_runs_own_instance():
    true = np.array([0.1, 0.001, 0.01, 1.0, np.inf, 0.1, 0.4])
    ends = Ends(np.arange(7), np.array([1000, 1000, 1000, 1000, 1000, 1001, 1002]), true)
    found = shares(ends, GOALS)
    np.testing.assert_allclose(found[[0, 1, 2, 3, 5]], [0, 1, 0.5, -0.5, 0.5], atol=1e-12)
    assert np.isneginf(found[4])  # diverged: worst
    assert np.isnan(found[6])  # the best constant is the best sequence: there is nothing to close


def test_the_table_has_medians_with_exact_intervals_and_says_who_was_left_out():
    share = np.linspace(-1, 1, 40)
    table = gap_table([gap(gp__cosine=share, pbt__constant=np.r_[share[:20], [np.nan] * 20])])
    row = table.set_index("label").loc["gp"]
    k = int(binom.ppf(0.025, 40, 0.5))  # order statistics k and 41 - k hold the median in 95 % of samples
    assert row["share"] == pytest.approx(0) and row["runs"] == 40
    assert (row["low"], row["high"]) == (share[k - 1], share[40 - k])
    other = table.set_index("label").loc["pbt"]
    assert (other["runs"], other["left_out"], other["changes"]) == (20, 20, True)
    figure = gap_figure(table)
    for text in ("gp", "pbt", "cosine", "constant", "16 trainings"):
        assert text in figure


@pytest.mark.parametrize(
    ("lead", "beats", "beaten"), [(0.2, True, False), (0.0, False, False), (-0.2, False, True)]
)
def test_who_beats_whom_flips_with_the_data(lead, beats, beaten):
    rng = np.random.default_rng(0)
    level = rng.normal(0.5, 1.0, 40)  # of the seed, shared: only a paired difference can see a lead of .2
    noise = rng.normal(0, 0.05, (3, 40))
    made = gap(
        gp__cosine=level + noise[0], random__constant=level - 0.3, pbt__constant=level + lead + noise[1]
    )
    (answer,) = answers(made)
    assert (answer.beats, answer.beaten, answer.by) == (beats, beaten, ("gp", "cosine"))
    assert answer.margin == pytest.approx(lead, abs=0.05) and answer.low <= answer.margin <= answer.high
    table = answer_table([made])
    row = table.iloc[0]
    assert (row["beat"], row["beaten"], row["of"]) == (beats, beaten, 1) and row["tuned"] == "gp on cosine"
    word = "yes" if beats else "no" if beaten else "undecided"
    assert verdict(table).endswith(f"in the same 16 trainings? {word} on sgd.")


def test_to_win_against_the_best_only_is_not_enough_and_diverged_runs_tie():
    level = np.linspace(0, 1, 40)
    one_sided = gap(gp__cosine=level, tpe__cosine=level[::-1] * 0.9, pbt__constant=level + 0.01)
    (answer,) = answers(one_sided)
    assert not answer.beats and answer.by == ("gp", "cosine") and answer.low > 0
    lost = np.r_[[-np.inf] * 40]
    assert (
        difference(gap(gp__cosine=lost, pbt__constant=lost), ("pbt", "constant"), ("gp", "cosine"), 0.95)[0]
        == 0
    )
    assert answers(gap(pbt__constant=level)) == []  # nobody to beat
    assert verdict(answer_table([gap(pbt__constant=level)])) == ""
