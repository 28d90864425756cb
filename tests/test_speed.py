"""`nearopt speed`: what is asked for, what is charged to whom, and the table."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.plots import colour
from nearopt import catalogue
from nearopt.catalogue import UserError
from nearopt.commands import speed
from nearopt.commands.speed import RACES, Race, Row, Timed, Timing

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_without_words_every_kind_of_strategy_races_and_all_names_are_listed():
    races, settings = speed.read([])
    assert races == list(RACES)
    assert settings == {
        "peer_seeds": 16, "peer_seconds": 60.0, "name": "speed", "grow": (), "grow_seconds": 60.0,
    }  # fmt: skip
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


@pytest.mark.parametrize("text", ["branin+discretised,levels=[4,0]", "[branin+discretised,levels=[4,0]]"])
def test_a_list_ends_with_its_own_bracket_not_with_a_settings(text):
    races, _ = speed.read([f"objective={text}", "strategy=gp"])
    assert [race.objective for race in races] == ["branin+discretised,levels=[4,0]"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=4", "no setting 'seed'; did you mean seeds"),
        ("seeds=0", "seeds must be a number above 0"),
        ("seeds=2.5", "seeds must be a whole number"),
        ("budgets=[ten]", "budgets must be a number above 0"),
        ("name=a/b", "name must be a folder's name"),
        ("gp", "expected key=value"),
        ("grows=gp", "no setting 'grows'; did you mean grow"),
        ("grow_second=9", "no setting 'grow_second'; did you mean grow_seconds"),
        ("grow=", "grow must be strategies or true"),
        ("grow_seconds=5", "grow_seconds goes with grow"),
    ],
)
def test_bad_words_are_refused_in_one_line(word, said):
    with pytest.raises(UserError, match=said):
        speed.read([word])


def test_grow_names_strategies_and_runs_no_race():
    races, settings = speed.read(["grow=gp,start=10,random", "grow_seconds=.5", "name=mine"])
    assert races == [] and settings["grow"] == ("gp,start=10", "random")
    assert (settings["grow_seconds"], settings["name"]) == (0.5, "mine")
    assert speed.read(["grow=true"])[1]["grow"] == ("gp", "tpe", "random", "hyperband", "asha")
    races, settings = speed.read(["grow=false"])
    assert races == list(RACES) and settings["grow"] == ()
    for words, said in {
        "grow=gp seeds=4": "it goes with grow_seconds and name, not with seeds",
        "grow=gp grow_seconds=0": "grow_seconds must be a number above 0",
    }.items():
        with pytest.raises(UserError, match=said):
            speed.read(words.split())
    with pytest.raises(UserError, match="no strategy 'randm'; did you mean random"):
        speed.main(["grow=randm"])


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
    ours = [optimum + regret for regret in (0.01, 0.02, 0.02, 0.02, 0.04, 0.04)] + [7.0]
    peers = [optimum + regret for regret in (0.1, 0.2, 0.2, 0.2, 0.4, 0.4)]
    mine, other, (mean, low, high) = speed.regrets(entry, ours, peers, tmp_path / "a.parquet")
    assert (mine, other) == (pytest.approx(0.02), pytest.approx(0.2))
    assert (mean, low, high) == pytest.approx((-1.0, -1.0, -1.0))
    # Of two or five runs the interval would hold the mean far too rarely (.51 and .84).
    _, _, (mean, low, high) = speed.regrets(entry, ours, peers[:5], tmp_path / "a.parquet")
    assert mean == pytest.approx(-1.0) and np.isnan(low) and np.isnan(high)
    # At the optimum: the floor, a millionth of a gap that on Branin's instances is 10 to 200.
    _, _, (mean, _, _) = speed.regrets(entry, [optimum] * 3, [optimum + 1] * 3, tmp_path / "a.parquet")
    assert -5.0 < mean < -3.7


def test_a_run_that_never_had_a_finite_loss_is_infinitely_far(tmp_path):
    entry, cache, far = catalogue.entry("objective", "branin"), tmp_path / "a.parquet", np.inf
    for ours, peers, wanted in [([1.0, far], [2.0, 1.0], far), ([1.0, 1.0], [2.0, far], -far)]:
        _, _, (mean, low, high) = speed.regrets(entry, ours, peers, cache)
        assert mean == wanted and np.isnan(low) and np.isnan(high)
    _, _, interval = speed.regrets(entry, [1.0, far], [1.0, far], cache)
    assert interval[0] == 0.0


def test_where_most_configurations_diverge_regrets_still_compare(tmp_path, monkeypatch):
    entry = catalogue.entry("objective", "branin+infeasible,share=0.45+infeasible,share=0.45")
    # 70 % diverge, so the median is infinite; 4,096 samples tell as well as 65,536.
    monkeypatch.setattr("bench.reference.SAMPLES", 4096)
    optimum = 0.39788735772973816
    _, _, (mean, _, _) = speed.regrets(
        entry, [optimum + 0.01] * 2, [optimum + 0.1] * 2, tmp_path / "a.parquet"
    )
    assert mean == pytest.approx(-1.0)


def test_what_a_library_raises_or_a_missing_reference_costs_no_other_row(tmp_path, capsys):
    def call(function, *arguments):
        if function is speed.time_ours:
            return Timing(8, 0.5, 0.5, 1.0, [1.0, 2.0])
        if function is speed.regrets:
            raise ValueError("no stored reference")
        if arguments[1].name == "sobol":
            raise RuntimeError("singular\nmatrix")
        return Timing(2, 5.0, 5.0, float("nan"), [1.0, 2.0])

    settings = {"peer_seeds": 2, "peer_seconds": 1.0}
    race = Race("branin", 4, "random", ("sobol", "grid"))
    ours, broken, other = speed.run_race(race, settings, tmp_path, call, lambda row: None)
    assert ours.status == "measured" and broken.status == "not measured: RuntimeError: singular"
    assert other.status == "measured" and other.ratio == 10.0 and other.compared == 0
    assert "no regrets: no stored reference" in capsys.readouterr().err


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


# Growth -------------------------------------------------------------------------------------------------


def test_a_power_goes_on_and_what_falls_stays():
    cube = [(x, 2.0 * x**3) for x in (25.0, 50.0, 100.0, 400.0)]
    assert speed.extrapolate(cube[:2], 100.0) == pytest.approx(2e6)
    assert speed.extrapolate(cube, 200.0) == pytest.approx(1.6e7)  # from below only
    assert speed.extrapolate(cube[:1], 100.0) == pytest.approx(4 * cube[0][1])
    assert speed.extrapolate([(2, 3.0), (4, 2.0)], 8) == 2.0
    assert speed.extrapolate([(64, 9.0), (64, 5.0)], 256) == 20.0  # of one size twice, no slope
    assert np.isnan(speed.extrapolate(cube[1:], 25.0))


GRID = {"trials": (2, 4, 8, 16), "dimension": (4,), "seeds": (1, 16, 64, 128, 512), "workers": (1, 2)}
BASE = {"trials": 4, "dimension": 4, "seeds": 64, "workers": 1}


def test_a_point_that_the_slope_puts_above_the_limit_is_skipped_and_those_after_it(monkeypatch):
    """Cost: trials squared x lanes / 1024 CPU seconds a call, so 1 a call at the base; a call per size."""
    monkeypatch.setattr(speed, "GRID", GRID)
    monkeypatch.setattr(speed, "BASE", BASE)
    called, said = [], []

    def call(function, objective, strategy, trials, seeds, compared, workers):
        assert function is speed.time_ours and strategy.label == "random"
        assert objective.label == "curves"
        called.append((trials, seeds, workers))
        cpu = trials**2 * max(seeds, 64) / 1024 / seeds
        return speed.Timing(seeds, cpu, cpu, 0.25, [])

    rows = speed.grow(catalogue.entry("strategy", "random"), 9.0, call, said.append)
    assert called == [(2, 64, 1), (4, 64, 1), (8, 64, 1), (4, 1, 1), (4, 16, 1), (4, 128, 1), (4, 64, 2)]
    assert len(said) == 9  # what four curves share is said once
    found = {(r.axis, r.at): r for r in rows}
    assert list(found) == [(axis, at) for axis, values in GRID.items() for at in values]
    skipped = [key for key, r in found.items() if r.status != "measured"]
    assert skipped == [("trials", 16), ("seeds", 512)]
    assert {found[key].status for key in skipped} == {"skipped"}
    # Both calls: 2 x 16^2 x 64 / 1024 and 2 x 4^2 x 512 / 1024.
    assert [found[key].estimate_s for key in skipped] == pytest.approx([32.0, 16.0])
    assert all(np.isnan(found[key].cpu_s) for key in skipped)
    assert found["trials", 8].slope == pytest.approx(2.0) and found["trials", 8].compile_cpu_s == 0.25
    assert found["seeds", 64].slope == pytest.approx(-1.0) and found["seeds", 128].slope == pytest.approx(0)
    assert found["seeds", 64].cpu_s == found["dimension", 4].cpu_s == found["workers", 1].cpu_s
    assert found["seeds", 128].seeds == 128 and found["workers", 2].workers == 2


def test_a_timing_is_of_as_many_runs_and_workers_as_were_asked_for(monkeypatch):
    from bench import simulate

    real, used = simulate.simulate, []

    def watched(*arguments, **settings):
        found = real(*arguments, **settings)
        used.append((found.trace["seed"].nunique(), found.trace["worker"].nunique(), len(found.trace)))
        return found

    monkeypatch.setattr(simulate, "simulate", watched)
    entries = catalogue.entry("objective", "levy,dimension=4"), catalogue.entry("strategy", "random")
    timing = speed.time_ours(*entries, 6, 3, 1, 2)
    assert set(used) == {(3, 2, 18)} and len(used) > 1
    assert (timing.runs, len(timing.final)) == (3, 1)


def test_a_strategy_that_cannot_be_measured_says_why_at_each_point(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "GRID", {"trials": (2, 4)})
    monkeypatch.setattr(speed, "BASE", BASE)

    def call(*_):
        raise UserError("it runs on the host")

    rows = speed.grow(catalogue.entry("strategy", "random"), 9.0, call, lambda _: None)
    assert [r.status for r in rows] == ["not measured: it runs on the host"] * 2
    text = speed.write_growth(rows, {}, tmp_path, 9.0).read_text()
    assert text.count("not measured: it runs on the host") == 2


GROWN = [
    speed.Growth("gp", "trials", 25, 25, 5, 64, 1, cpu_s=0.01, wall_s=0.01, compile_cpu_s=4.0),
    speed.Growth("gp", "trials", 50, 50, 5, 64, 1, cpu_s=0.04, wall_s=0.04, compile_cpu_s=7.0, slope=2.0),
    speed.Growth("gp", "trials", 100, 100, 5, 64, 1, "skipped", estimate_s=128.0),
    speed.Growth("random", "trials", 25, 25, 5, 64, 1, cpu_s=1e-5),
    speed.Growth("random", "trials", 50, 50, 5, 64, 1, cpu_s=2e-5, slope=1.0),
    speed.Growth("random", "trials", 100, 100, 5, 64, 1, cpu_s=4e-5, slope=1.0),
]


def test_growth_is_a_table_a_csv_and_a_figure_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = speed.write_growth(GROWN, {"date": "2026-01-01"}, tmp_path, 60.0)
    lines = path.read_text().split("\n\n")[0].splitlines()
    assert {line.count("|") for line in lines} == {6} and len(lines) == 5
    assert lines[3] == "| trials | 50 | 64 | 0.04 (slope +2.0) | 2.0e-05 (slope +1.0) |"
    assert "| skipped (about 128 s in all) | 4.0e-05" in lines[4]
    assert path.read_text().endswith("Measured: date 2026-01-01.\n")
    names = ["growth.csv", "growth.md", "growth.svg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert pd.read_csv(tmp_path / "growth.csv")["status"].tolist().count("skipped") == 1
    figure = (tmp_path / "growth.svg").read_text()
    assert colour("gp") in figure and colour("random") in figure
    for text in ("CPU seconds a run", "trials", "linear", "cubic", "skipped, estimate"):
        assert f">{text}<" in figure, text
    before = [(tmp_path / name).read_text() for name in names]
    real = Path.write_text

    def full(self, text, **settings):  # the disk is, before the last file
        if ".svg" in self.name:
            raise OSError("no space left")
        real(self, text, **settings)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        speed.write_growth(GROWN[:1], {}, tmp_path, 60.0)
    assert before == [(tmp_path / name).read_text() for name in names]


def test_curves_of_random_search_from_words_to_files(tmp_path, monkeypatch):
    grid = {"trials": (2,), "dimension": (4, 9), "seeds": (3,), "workers": (2,)}  # each size compiles anew
    monkeypatch.setattr(speed, "GRID", grid)
    monkeypatch.setattr(speed, "BASE", {"trials": 2, "dimension": 4, "seeds": 3, "workers": 1})
    monkeypatch.chdir(tmp_path)
    for name in speed.THREADS:
        monkeypatch.setenv(name, "")
    assert speed.main(["grow=random", "name=mine"]) == 0
    folder = tmp_path / "results" / "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["growth.csv", "growth.md", "growth.svg"]
    table = pd.read_csv(folder / "growth.csv")
    assert table["axis"].tolist() == ["trials", "dimension", "dimension", "seeds", "workers"]
    assert set(table["status"]) == {"measured"} and (table["cpu_s"] > 0).all()
    assert table["trials"].tolist() == [2] * 5 and table["workers"].tolist() == [1] * 4 + [2]
    assert table["dimension"].tolist() == [4, 4, 9, 4, 4]
    assert table["cpu_s"][3] == table["cpu_s"][0]
