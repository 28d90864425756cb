"""The page on tuning one's own model runs; the user's day: three examples, killed at random."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearopt.study_log import NAME, read

ROOT = Path(__file__).parent.parent


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tune.md").read_text(encoding="utf-8"), re.S)
    scope: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/tune.md", "exec"), scope)
    text = capsys.readouterr().out
    spent = {path.name: read(path / NAME) for path in (tmp_path / "studies").iterdir()}
    for name, most in {"boosting": 16, "network": 9, "stored": 5, "folds": 12}.items():
        trainings = sum(line.get("trainings", 0) for line in spent[name])
        assert most - 1 < trainings <= most, name
        assert f"study {name}: " in text
    assert "runs with fresh seeds" in text and "test        unopened" in text
    assert (tmp_path / "studies" / "boosting" / "test.json").exists()


def rows(folder: Path) -> list:
    keep = ["trial", "stage", "start", "until", "value", "config", "slot", "job", "seed", "status"]
    return [[line[k] for k in keep] for line in read(folder / NAME) if line["kind"] == "trial"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boosting", "mlp", "checkpoint"])
def test_the_examples_killed_seven_times_give_what_they_give_undisturbed(tmp_path, name):
    script = shutil.copy(ROOT / "examples" / f"tune_{name}.py", tmp_path)
    chance = random.Random(7)

    def begin(where):
        (tmp_path / where).mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, script], cwd=tmp_path / where, stdout=subprocess.DEVNULL)

    assert begin("whole").wait(900) == 0
    log = tmp_path / "killed" / "studies" / name / NAME
    kills = 0
    while kills < 7:
        size = os.path.getsize(log) if log.exists() else 0
        process = begin("killed")
        while process.poll() is None and (not log.exists() or os.path.getsize(log) == size):
            time.sleep(0.01)
        if process.poll() is not None:
            break
        time.sleep(chance.random() * 1.5)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert begin("killed").wait(900) == 0
    whole, killed = (rows(tmp_path / where / "studies" / name) for where in ("whole", "killed"))
    assert killed == whole and kills >= 3
    lines = read(log)
    assert len({json.dumps([s["code"], s["data"]]) for s in lines if s["kind"] == "session"}) == 1
