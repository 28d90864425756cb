"""`nearopt describe`: closed forms for effects, scipy for ranks, and the page as a person reads it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.describe import default_share, describe, effects, epochs_of, spearman
from nearopt import catalogue
from nearopt.commands import main


def test_epochs_fall_by_three():
    assert epochs_of(81).tolist() == [1, 3, 9, 27, 81] and epochs_of(1).tolist() == [1]
    assert epochs_of(50).tolist() == [1, 2, 6, 17, 50]


def test_rank_correlation_is_scipys_and_takes_what_diverged_as_worst():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200)).round(1)  # with ties
    assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0], abs=1e-12)
    worst = np.where(a > 1, np.nan, a), np.where(a > 1, 99.0, a)
    assert spearman(worst[0], b) == pytest.approx(spearmanr(worst[1], b)[0], abs=1e-12)
    assert np.isnan(spearman(np.zeros(4), np.arange(4)))


@pytest.mark.parametrize(
    ("loss", "total", "dimension"),
    [
        (lambda x: x[:, 1], [0, 1, 0], 1),
        (lambda x: -np.exp(5 * x[:, 2]), [0, 0, 1], 1),  # ranks do not see the exponential
        # Ranks of the lesser of two: E var(F(min) | the other) / var F = 4/7 for each, by integration.
        (lambda x: np.minimum(x[:, 0], x[:, 1]), [4 / 7, 4 / 7, 0], 2),
        (lambda x: np.where(x[:, 0] > 0.5, np.inf, x[:, 0]), [1, 0, 0], 1),
    ],
)
def test_effects_are_those_of_closed_forms(loss, total, dimension):
    found, few = effects(loss, 3, 4096, np.random.default_rng(1))
    # Jansen's estimator has a relative error of about sqrt(2 / n) = 2 %: three of them.
    np.testing.assert_allclose(found, total, atol=0.06)
    assert few == dimension


def test_a_flat_objective_has_no_effects():
    found, few = effects(lambda x: np.full(len(x), np.inf), 2, 16, np.random.default_rng(1))
    assert np.isnan(found).all() and few == 0


@pytest.fixture(scope="module")
def curves():
    return describe(catalogue.build(catalogue.entry("objective", "curves").settings), [1000, 1001], 256)


def test_curves_have_the_table_of_their_docstring(curves):
    # rank .8 without crossing: .83 .89 .96 1.00 among what converges; a tenth diverges.
    assert curves.epochs.tolist() == [1, 3, 9, 27, 81]
    assert (np.diff(curves.rank, axis=1) > -0.02).all() and (curves.rank[:, -1] > 0.99).all()
    assert 0.02 < 1 - np.isfinite(curves.end).mean() < 0.2
    assert (curves.end >= curves.goals["optimum"].to_numpy()[:, None] - 1e-9).all()


def test_the_default_is_as_good_as_its_share_says(curves):
    # 256 draws: a share of p is off by at most three times sqrt(p (1 - p) / 256) = .1.
    better = (curves.end <= curves.default[:, None]).mean(1)
    np.testing.assert_allclose(default_share(curves), better, atol=0.1)


def test_the_page_says_what_one_asks_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "objective=branin", "instances=2", "samples=64"]) == 0
    out = capsys.readouterr().out
    for word in (
        "x0",
        "Float -5 to 10",
        "optimum       0.398",
        "near-optimal",
        "random search needs",
        "2 of 2",
    ):
        assert word in out
    folder = tmp_path / "results" / "describe" / "branin"
    assert (folder / "branin.svg").read_text().startswith("<svg")
    assert (folder / "describe.csv").read_text().startswith("objective,axes,kinds")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "needs objective=NAME or experiment=NAME"),
        (["objective=brannin"], "did you mean branin?"),
        (["objective=branin", "sample=3"], "did you mean samples?"),
        (["objective=branin", "samples=1"], "samples must be an integer of at least 2"),
        (["experiment=frist"], "did you mean first?"),
    ],
)
def test_bad_words_get_one_line(words, line, capsys):
    assert main(["describe", *words]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_the_suites_page_shows_the_table_that_was_measured():
    from pathlib import Path

    import pandas as pd

    from nearopt.commands.describe import markdown
    from nearopt.experiment import read

    root = Path(__file__).parent.parent
    rows = pd.read_csv(root / "results" / "reference" / "describe" / "suite.csv").to_dict("records")
    text = (root / "docs" / "suite.md").read_text()
    assert f"<!-- nearopt describe experiment=suite -->\n{markdown(rows)}<!-- end -->" in text
    assert [r["objective"] for r in rows] == [e.label for e in read(["experiment=suite"]).objectives]
    # None is trivial: before the cap, at most one random configuration in twenty, where there is a gap.
    assert all(r["p_uncapped"] <= 0.05 or r["p_uncapped"] == 1 for r in rows)
