"""Figures written by hand: read back with their own ticks, they say what was drawn."""

import re
from typing import Any

import numpy as np
import pandas as pd

from bench.plots_many import Axis, clock_sketch, objective_sketch

TEXT = r'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="(\w+)">([^<]+)</text>'


def curve(label, budget, middle) -> Any:
    middle = np.asarray(middle, float)
    return pd.DataFrame(
        {"label": label, "budget": budget, "middle": middle, "low": 0.9 * middle, "high": 1.1 * middle}
    )


def scale(marks, values):
    """The line through marks (pixel, value) on which an axis' pixels lie."""
    slope, at = np.polyfit([p for p, _ in marks], values, 1)
    return lambda pixel: at + slope * np.asarray(pixel)


def read(panel_ticks, points, log_y):
    """Budgets and values of the corners of a polyline, by the ticks of its panel."""
    xs, ys = panel_ticks
    x = scale(xs, [np.log2(v) for _, v in xs])
    y = scale(ys, [np.log10(v) if log_y else v for _, v in ys])
    pairs = np.array([[float(v) for v in p.split(",")] for p in points.split()])
    values = y(pairs[:, 1])
    return 2 ** x(pairs[:, 0]), 10**values if log_y else values


def ticks_of(svg):
    """(left panel's, right panel's) marks (pixel, value) of x and y."""
    marks = [(float(x), float(y), a, t) for x, y, a, t in re.findall(TEXT, svg)]
    below = [(x, float(t)) for x, _, a, t in marks if a == "middle" and re.fullmatch(r"[\d.]+", t)]
    beside = [(x, y, t) for x, y, a, t in marks if a == "end"]
    middle = 545
    left_y = [(y - 4, float(t)) for x, y, t in beside if x < middle]
    right_y = [(y - 4, float(t.rstrip(" %")) / 100) for x, y, t in beside if x > middle]
    return ([m for m in below if m[0] < middle], left_y), ([m for m in below if m[0] > middle], right_y)


def test_an_objective_is_read_back():
    budget = np.array([1.0, 2, 4, 8])
    loss, share = [3.0, 1.0, 0.5, 0.02], [0.0, 0.25, 0.5, 1.0]
    regret: Any = pd.concat([curve("gp", budget, loss), curve("random", budget, np.array(loss) * 1.5)])
    shares: Any = pd.concat([curve("gp", budget, share), curve("random", budget, np.array(share) / 2)])
    nothing = regret[:0]
    svg = objective_sketch(
        "x", regret, shares, nothing, nothing, ratio=False, goal=0.1, dynamic=np.nan, max_epoch=1
    )
    left, right = ticks_of(svg)
    lines = re.findall(r'<polyline points="([^"]+)"/>', svg)
    assert len(lines) == 4  # random before gp, as everywhere
    for line, values, marks, log_y in ((lines[1], loss, left, True), (lines[3], share, right, False)):
        at, seen = read(marks, line, log_y)
        np.testing.assert_allclose(at, np.repeat(budget, 2)[1:], rtol=0.01)
        np.testing.assert_allclose(seen, np.repeat(values, 2)[:-1], rtol=0.02, atol=0.005)  # to a pixel
    assert "near-optimal" in svg and "best schedule known" not in svg and svg.count("<polygon") == 4


def test_an_axis_clips_far_values_and_has_few_ticks():
    for axis in (
        Axis("linear", -3.0, 40.0, 0, 100), Axis("log", 1e-9, 1e3, 0, 100), Axis("log", 1.1, 1.9, 0, 100),
        Axis("doubling", 0.5, 2048.0, 0, 100), Axis("symlog", -30.0, 2000.0, 0, 100, 0.1),
    ):  # fmt: skip
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 10 and all(axis.low <= v <= axis.high for v, _ in ticks), axis
        pixels = axis([v for v, _ in ticks])
        assert (np.diff(pixels) > 5).all() and axis(axis.low) == 0 and axis(axis.high) == 100
        assert np.isfinite(axis([np.inf, -np.inf])).all()


def test_a_clock_shows_what_there_is():
    curves: Any = pd.concat([curve(v, [1.0, 10, 100], [1.0, np.inf, 0.1]) for v in ("a<b", "gp")])
    curves = curves.rename(columns={"budget": "seconds"})
    svg = clock_sketch(curves, {"a<b": np.array([0.5, 0.7]), "gp": np.array([np.nan])}, ratio=False)
    assert svg.count("a&lt;b") == 2 and "a<b" not in svg
    assert svg.count('fill-opacity=".85"') == 1
    nothing = clock_sketch(curves[:0], {"gp": np.array([1.0])}, ratio=True)
    assert nothing.count("<polyline") == 0 and "simulated seconds" not in nothing


def test_half_a_figure_is_no_error():
    one = curve("gp", [4.0], [np.inf])
    svg = objective_sketch("x", one, curve("gp", [4.0], [0.0]), one[:0], one[:0], ratio=True, goal=np.nan,
                           dynamic=np.nan, max_epoch=9)  # fmt: skip
    assert svg.startswith("<svg") and "nan" not in svg


def test_dashes_tell_settings_apart():
    budget = np.array([1.0, 8])
    two: Any = pd.concat([curve(v, budget, [1, 0.5]) for v in ("gp", "gp,workers=8")])
    svg = objective_sketch(
        "x", two, two, two[:0], two[:0], ratio=False, goal=0.1, dynamic=np.nan, max_epoch=1
    )
    assert 0 < svg.count("stroke-dasharray=") and svg.count("#0072b2") >= 4
