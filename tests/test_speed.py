"""`nearopt speed`: what is asked for, what is charged to whom, and the table."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nearopt import catalogue
from nearopt.catalogue import UserError
from nearopt.commands import speed
from nearopt.commands.speed import RACES, Row, Timed

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_without_words_every_kind_of_strategy_races_and_all_names_are_listed():
    races, settings = speed.read([])
    assert races == list(RACES) and settings == {"peer_seeds": 16, "peer_seconds": 60.0, "name": "speed"}
    for race in races:
        catalogue.entry("objective", race.objective)
        for name in (race.strategy, *race.peers):
            catalogue.entry("strategy", name)


def test_words_replace_what_they_name_and_leave_the_rest():
    races, settings = speed.read(["strategy=gp,start=6,random", "budgets=[20,30]", "seeds=64", "name=mine"])
    assert [(r.strategy, r.budget, r.seeds) for r in races] == [
        ("gp,start=6", 20, 64), ("gp,start=6", 30, 64), ("random", 20, 64), ("random", 30, 64),
    ]  # fmt: skip
    assert races[0].peers == ("optuna_gp", "botorch_logei") and settings["name"] == "mine"
    races, _ = speed.read(["strategy=grid", "objective=branin,hartmann3", "peers=optuna_tpe,start=5"])
    assert [(r.objective, r.peers) for r in races] == [
        ("branin", ("optuna_tpe,start=5",)), ("hartmann3", ("optuna_tpe,start=5",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=4", "no setting 'seed'; did you mean seeds"),
        ("seeds=0", "seeds must be a number above 0"),
        ("seeds=2.5", "seeds must be a whole number"),
        ("budgets=[ten]", "budgets must be a number above 0"),
        ("name=a/b", "name must be a folder's name"),
        ("gp", "expected key=value"),
    ],
)
def test_bad_words_are_refused_in_one_line(word, said):
    with pytest.raises(UserError, match=said):
        speed.read([word])


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Slow:
    """Spends .05 CPU seconds when it is made, asked and told, and five times that in `recommend`."""

    num_trials, anytime, needs = 4, True, frozenset()

    def __init__(self, cube, design):
        self.first = design(2)
        burn(0.05)

    def ask(self):
        burn(0.05)
        return "job"

    def tell(self, job, feedback):
        burn(0.05)

    def recommend(self):
        burn(0.25)


def test_a_peer_is_charged_for_making_asking_and_telling_and_not_for_the_drivers_part():
    """Relative to one another, so that it holds on a loaded machine: .15 s of its own against .3 of ours."""

    def design(n):
        burn(0.3)
        return np.zeros((n, 8), np.float32)

    timed = Timed(Slow, design, cube=None)
    assert timed.ask() == "job"
    timed.tell("job", None)
    assert 0.15 <= timed.cpu < 0.25
    assert timed.inner.first.shape == (2, 8) and not hasattr(timed, "recommend")
    assert (timed.num_trials, timed.anytime, timed.needs) == (4, True, frozenset())


def test_regret_ten_times_lower_is_one_decade_and_a_floor_ends_it(tmp_path):
    entry = catalogue.entry("objective", "branin")
    optimum = 0.39788735772973816  # shifted or not
    ours = [optimum + 0.01, optimum + 0.02, optimum + 0.04, 7.0]
    peers = [optimum + 0.1, optimum + 0.2, optimum + 0.4]
    mine, other, (mean, low, high) = speed.regrets(entry, ours, peers, tmp_path / "a.parquet")
    assert (mine, other) == (pytest.approx(0.02), pytest.approx(0.2))
    assert (mean, low, high) == pytest.approx((-1.0, -1.0, -1.0))
    # At the optimum: the floor, a millionth of a gap that on Branin's instances is 10 to 200.
    _, _, (mean, _, _) = speed.regrets(entry, [optimum] * 3, [optimum + 1] * 3, tmp_path / "a.parquet")
    assert -5.0 < mean < -3.7


ROWS = [
    Row("branin", 20, "gp", "nearopt", runs=256, cpu_s=0.0412, compile_cpu_s=4.5),
    Row(
        "branin", 20, "optuna_gp", "optuna", runs=8, cpu_s=3.9, ratio=94.66, compared=8, regret_ours=1e-5,
        regret=3e-5, decades=-0.477, decades_low=-0.9, decades_high=-0.1,
    ),
    Row("branin", 20, "botorch_logei", "botorch", status='not installed (pip install "nearopt[peers]")'),
]  # fmt: skip


def test_the_table_is_markdown_with_as_many_cells_in_each_line():
    text = speed.markdown(ROWS, {"date": "2026-01-01", "processor": "a chip"})
    table = text.split("\n\n")[0].splitlines()
    assert {line.count("|") for line in table} == {12}
    assert "| 256 | 0.0412 |  | 4.5 |" in table[2]
    assert "| 94.7 × |" in table[3] and "-0.48 (-0.90 to -0.10)" in table[3]
    assert "not installed" in table[4]
    assert text.endswith("Measured: date 2026-01-01; processor a chip.\n")
    wide = speed.markdown(ROWS, {}, wall=True).splitlines()
    assert {line.count("|") for line in wide[:5]} == {13}


def test_the_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = speed.write(ROWS, {}, tmp_path, False)
    before = path.read_text(), (tmp_path / "speed.csv").read_text()
    assert pd.read_csv(tmp_path / "speed.csv")["cpu_s"][1] == 3.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["speed.csv", "speed.md"]
    real = Path.write_text

    def full(self, text, **settings):  # the disk is, after half of the second file
        real(self, text[:10] if ".md" in self.name else text, **settings)
        if ".md" in self.name:
            raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        speed.write(ROWS[:1], {}, tmp_path, False)
    assert before == (path.read_text(), (tmp_path / "speed.csv").read_text())


def test_a_whole_run_beside_a_host_strategy_of_ones_own(tmp_path, monkeypatch, capsys):
    """The measuring process is another one, on one thread; the host strategy comes from ./conf."""
    own = tmp_path / "conf" / "strategy"
    own.mkdir(parents=True)
    own.joinpath("mine.yaml").write_text("_target_: halving_numpy.HalvingNumpy\n_partial_: true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in speed.THREADS:
        monkeypatch.setenv(name, "")
    words = "strategy=random objective=branin budgets=[4] seeds=8 peers=mine peer_seeds=3".split()
    assert speed.main(words) == 0
    table = pd.read_csv(tmp_path / "results" / "speed" / "speed.csv")
    assert table["strategy"].tolist() == ["random", "mine"]
    assert table["library"].tolist() == ["nearopt", "halving_numpy"]
    assert table["runs"].tolist() == [8, 3] and table["compared"][1] == 3
    assert (table["cpu_s"] > 0).all() and np.isfinite(table["decades"][1])
    assert table["ratio"][1] == pytest.approx(table["cpu_s"][1] / table["cpu_s"][0])
    assert "results/speed/speed.md" in capsys.readouterr().out.replace("\\", "/")
