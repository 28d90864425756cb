"""Dials: which objectives of an experiment differ in one setting, and what the report draws of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from bench.dials import Dial, End, dial_table, dials
from bench.plots import dial_figure

LEVY = {f"levy,dimension={d}": {"name": "levy", "dimension": d, "shift": True} for d in (8, 2, 4)}


def test_what_differs_in_one_number_is_a_dial_in_the_order_of_its_values():
    (found,) = dials(LEVY)
    assert found == Dial(
        "levy", "dimension", ((2, "levy,dimension=2"), (4, "levy,dimension=4"), (8, "levy,dimension=8"))
    )


def test_two_settings_that_cross_are_two_dials():
    base = {"name": "curves", "rank": 0.8, "crossing": 0.0, "family": "pow4"}
    made = {"curves": base}
    made |= {f"curves,rank={r}": {**base, "rank": r} for r in (0.0, 0.5)}
    made |= {f"curves,crossing={c}": {**base, "crossing": c} for c in (0.5, 1.0)}
    found = {d.setting: [v for v, _ in d.values] for d in dials(made)}
    assert found == {"rank": [0, 0.5, 0.8], "crossing": [0, 0.5, 1]}


def test_a_wrapped_objective_turns_by_the_wrapper_and_words_and_pairs_are_no_dials():
    noisy = {
        f"branin+noisy,sd={s}": {"_target_": "w", "sd": s, "base": {"_target_": "b", "extra": 0}}
        for s in (0, 1, 3)
    }
    (found,) = dials(noisy)
    assert found.setting == "sd" and found.name == "branin+noisy"
    words = {f"c,family={f}": {"family": f} for f in ("a", "b", "c")}
    flags = {f"s,flag={f}": {"flag": f} for f in (True, False, None)}
    pair = {k: v for k, v in LEVY.items() if v["dimension"] < 8}
    assert dials(words | flags | pair) == []


def test_the_table_has_shares_with_their_intervals_and_the_figure_every_label():
    head = pd.DataFrame([
        {"objective": name, "label": label, "target": "near-optimal", "budget": 32.0, "runs": 20,
         "reached": reached, "trials_restricted_mean": 30.0 - reached}
        for (name, reached) in zip(LEVY, (2, 20, 9), strict=True) for label in ("random", "gp")
    ])  # fmt: skip
    ends = {
        (o, label): End(np.arange(1.0, 21.0), o.endswith("8")) for o in LEVY for label in ("random", "gp")
    }
    table = dial_table(head, dials(LEVY), ends)
    gp = table[table["label"] == "gp"]
    assert gp["value"].tolist() == [2, 4, 8] and gp["share"].tolist() == [1, 0.45, 0.1]
    middle = binomtest(9, 20).proportion_ci(method="wilson")
    np.testing.assert_allclose(gp[["low", "high"]].to_numpy()[1], [middle.low, middle.high], atol=1e-9)
    figure = dial_figure(table)
    assert figure.startswith("<svg") and "levy" in figure and ">gp<" in figure and ">8<" in figure
    assert not math.isnan(table["trials"].sum())
    assert gp["end"].tolist() == [10.5] * 3 and gp["ratio"].tolist() == [False, False, True]


def test_settings_that_cross_are_a_dial_each_with_the_others_value_in_its_name():
    made = {
        f"curves,rank={r},crossing={c}": {"rank": r, "crossing": c}
        for r in (0.0, 0.5, 1.0)
        for c in (0.0, 0.5, 1.0)
    }
    found = dials(made)
    assert len(found) == 6 and len({(d.name, d.setting) for d in found}) == 6
    assert {d.name for d in found if d.setting == "rank"} == {
        f"curves (crossing={c})" for c in (0.0, 0.5, 1.0)
    }


def test_what_is_no_number_on_an_axis_is_no_value_of_a_dial():
    assert dials({f"a,s={v}": {"s": v} for v in (1.0, math.inf, math.nan, 2.0)}) == []
    later = {"a": {}} | {f"a,y={v}": {"y": v} for v in (1, 2, 3)}
    assert [d.setting for d in dials(later)] == ["y"]
