"""`nearopt speed train=...`: what is asked for, what is counted, and the table."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nearopt import catalogue, throughput
from nearopt.catalogue import UserError
from nearopt.throughput import BARE, JAX, OURS, TORCH, Limit, Throughput

SMALL = "breast_cancer,max_epoch=2,training=64,validation=32,test=32,width=8"


def test_what_the_words_ask_for():
    entries, settings = throughput.read([f"train=digits,width=64,blocks=0,{SMALL}", "cores=3", "name=mine"])
    assert [entry.text for entry in entries] == ["digits,width=64,blocks=0", SMALL]
    assert settings == {"name": "mine", "cores": 3, "lanes": 0, "seconds": 5.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train=branin"], "train must be real tasks, which branin is not"),
        (["train=digit"], "no objective 'digit'"),
        (["train=digits,width=0"], "width must be a whole number of at least 1, got 0"),
        (["train=digits", "core=2"], "no setting 'core'; did you mean cores"),
        (["train=digits", "lanes=2.5"], "lanes must be a whole number"),
        (["train=digits", "name=a/b"], "name must be a folder's name"),
        (["train=digits", "64"], "expected key=value"),
    ],
)
def test_a_mistake_is_one_line(words, said):
    with pytest.raises(UserError) as error:
        throughput.read(words)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_operations_of_a_linear_model_by_hand(monkeypatch):
    """64 x 10 multiplications an example, 4 operations each; 650 weights, 12 operations, 40 bytes an update;
    768 examples in 24 micro-batches, 27 epochs."""
    monkeypatch.setattr(throughput, "SIDE", 64)
    monkeypatch.setattr(throughput, "LENGTH", 2**10)
    found = throughput.measure_limit(catalogue.entry("objective", "digits,model=logistic").settings)
    assert found["operations"] == 27 * (768 * 4 * 640 + 12 * 650 * 24)
    assert found["bytes"] == 27 * (40 * 650 * 24 + 4 * 768 * 64)
    assert found["arithmetic"] > 0 and found["bandwidth"] > 0 and found["device"] == "cpu"


def test_a_row_of_two_processes():
    """Rates add, milliseconds are of one, CPU time of all."""
    found = [
        {"trainings": 10, "wall": 1.0, "cpu": 0.9, "loss": 0.2, "compile_s": 3.0},
        {"trainings": 10, "wall": 2.0, "cpu": 1.1, "loss": 0.4, "compile_s": 2.0},
    ]
    row = throughput._row("digits", OURS, 1, found)
    assert (row.trainings, row.processes, row.threads) == (20, 2, 1)
    assert row.per_second == 15.0 and row.wall_ms == pytest.approx(150) and row.cpu_ms == pytest.approx(100)
    assert row.loss == pytest.approx(0.3) and row.compile_s == 3.0


def test_the_table_says_who_was_how_fast_and_what_limits(tmp_path):
    ours = Throughput("digits", OURS, trainings=64, per_second=100.0, wall_ms=10.0, cpu_ms=9.0, loss=0.3)
    peer = replace(ours, trainer=TORCH, per_second=8.0, ratio=12.5)
    missing = Throughput("digits", BARE, "not installed")
    limit = Limit("digits", "cpu", 4e8, 1e8, 8e10, 1e10, 0.5)
    rows = [ours, peer, missing]
    path = throughput.write(rows, [limit, replace(limit, device="H100")], {"date": "today"}, tmp_path)
    text = path.read_text()
    assert "| digits | PyTorch | 1 x 1 | 64 | 8 | 10 | 9 | 12.5 | 0.3 |" in text
    assert "| digits | PyTorch, bare | not installed |" in text
    assert "0.4 billion operations and moves 0.1 GB" in text and "for 200 and 100 trainings" in text
    assert "reached are 50 % of it" in text and "Reached are 50 % of the smaller one." in text
    assert list(pd.read_csv(tmp_path / "throughput.csv")["trainer"]) == [OURS, TORCH, BARE]


def test_a_failing_peer_keeps_the_other_rows():
    def missing():
        raise ModuleNotFoundError("torch")

    def broken():
        raise RuntimeError("no device\nno more")

    assert throughput._try("digits", TORCH, missing).status == "not installed"
    assert throughput._try("digits", JAX, broken).status == "not measured: RuntimeError: no device"


@pytest.mark.slow
def test_everybody_trains_the_same_task(tmp_path, monkeypatch):
    """Measured in processes of their own; mean test losses of a few short trainings lie together."""
    monkeypatch.chdir(tmp_path)
    entry = catalogue.entry("objective", SMALL + ",max_epoch=9")
    rows, limit = throughput.measure(entry, 64, 1, 0.5)
    assert [row.trainer for row in rows] == [OURS, JAX, TORCH, BARE] and 0 < limit.share
    there = rows[:2] if find_spec("torch") is None else rows
    assert all(row.status == "measured" and row.per_second > 0 for row in there)
    assert np.ptp([row.loss for row in there[:3]]) < 0.3


def test_the_page_on_tasks_shows_the_table_that_was_measured():
    root = Path(__file__).parent.parent
    table = (root / "results/reference/throughput/throughput.md").read_text().split("\n\n")[0]
    assert table in (root / "docs/tasks.md").read_text()
    rows = pd.read_csv(root / "results/reference/throughput/throughput.csv").set_index("trainer")
    assert table.count("\n") == 1 + len(rows) and rows["status"].eq("measured").all()
