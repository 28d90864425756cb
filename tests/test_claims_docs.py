"""The pages on reproducing and on research run, command by command, in an empty folder."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from nearopt import experiment
from nearopt.claims import claim
from nearopt.commands import module

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"```(\w*)(?: file=(\S+))?\n(.*?)```", re.S)


def run_page(name: str, run: bool = True) -> list[str]:
    """Writes the page's files, a file's parts joined, and runs its commands here. Returns the commands."""
    ran = []
    for language, path, body in BLOCK.findall((DOCS / f"{name}.md").read_text(encoding="utf-8")):
        if path:
            file = Path(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text() + "\n\n" if file.exists() else ""
            file.write_text(before + body)
        elif language == "sh":
            for line in body.strip().splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "nearopt"
                assert not run or module(words[0]).main(words[1:]) == 0, line
                ran.append(line)
    return ran


@pytest.fixture
def here(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's file of that name
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_page_on_reproducing_runs(here, capsys):
    assert len(run_page("reproduce")) == 9
    out = capsys.readouterr().out
    assert "2 of 2 cells reproduced" in out and "identical" in out
    assert "other seeds" in out or "first_instance 1000 -> 2000" in out
    assert "PBT's toy" in out and (here / "results" / "claims" / "claims.html").exists()


def test_the_files_of_the_page_on_research_fit_its_commands(here):
    for line in run_page("research", run=False):
        command, *words = line.split()[1:]
        if command == "run":
            cells = experiment.cells(experiment.read(words))
            assert cells and all(experiment.work(cell).todo for cell in cells)
    assert claim.read("narrowing_helps").strategies == ("narrowing", "random")


@pytest.mark.slow  # what compiles is the contract's test of a strategy and an objective
def test_the_page_on_research_runs(here, capsys):
    assert len(run_page("research")) == 6
    out = capsys.readouterr().out
    assert "narrowing: this strategy keeps the rules" in out and "valley: this objective keeps" in out
    assert (here / "results" / "mine" / "report.html").exists()
    assert {p.parent.name for p in (here / "results" / "mine" / "valley").glob("*/cell.json")} == {
        "narrowing", "narrowing,window=0.2", "narrowing,window=0.5", "random"
    }  # fmt: skip
    assert "Narrowing beats random search in a valley: SUPPORTED" in out
