"""Random search itself against itself, 1,000 comparisons: minutes, so among the slow."""

import numpy as np
import pytest

from nearopt import calibration


@pytest.mark.slow
def test_random_search_against_itself():
    runs = calibration.random_runs(2 * calibration.COMPARISONS * sum(calibration.SIZES))
    assert 0.25 < 1 - runs.reached.mean() < 0.35
    table = calibration.calibrate(runs).set_index(["statement", "runs"])["share"]
    for (statement, n), share in table.items():
        if statement.startswith("declared"):
            assert 0.03 <= share <= (0.065 if "min(T, B)" in statement else 0.072), (statement, n)
        elif n >= 64:
            assert share >= 0.935, (statement, n)


def test_a_small_calibration_from_the_law(tmp_path):
    """The same table from draws of the law: 100 comparisons of 8, and 3 sigma."""
    rng = np.random.default_rng(0)
    life = rng.geometric(0.02, 20_000)
    runs = calibration.Ended(np.minimum(life, 60).astype(float), life <= 60, rng.random(20_000))
    table = calibration.calibrate(runs, sizes=(8,), comparisons=100)
    for row in table.itertuples():
        if row.statement.startswith("declared"):
            assert row.share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
        else:
            assert row.share >= 0.92 - 3 * np.sqrt(0.08 * 0.92 / 100)
    many = calibration.redrawn(runs, {8: 400, 20: 200})
    for row in many.itertuples():
        count = {8: 400, 20: 200}[row.runs]
        assert abs(row.share - 0.05) < 3.5 * np.sqrt(0.05 * 0.95 / count) and row.comparisons == count
    text = calibration.write(table, many, 0.3, tmp_path).read_text()
    assert "| holds: ERT |" in text and "30 % of the runs" in text
    assert "400 comparisons of 8 runs, 200 comparisons of 20 runs" in text and "redrawn: gap left |" in text
    with pytest.raises(ValueError, match="need 12800 runs"):
        calibration.calibrate(calibration.Ended(*(v[:99] for v in runs)), sizes=(64,), comparisons=100)
