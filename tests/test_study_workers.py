"""tune's processes, kills and the forms of functions."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import nearopt
from bench.space import Float, Space
from nearopt import forms
from nearopt.forms import CHECKPOINT, CONFIG, GENERATOR, Function, Task
from nearopt.study_log import NAME, read
from nearopt.workers import Inline, Processes

SPACE = Space({"rate": Float(1e-4, 1.0, log=True), "decay": Float(0.0, 0.5)})


def f(config):
    return config["rate"]


def seeded(config, seed=3):
    return config["rate"] + seed


def epochs(config):
    for epoch in range(6):
        yield config["rate"] + epoch


def stored(config, checkpoint_dir, start, until, seed):
    return config["rate"]


class Trainer:
    def __call__(self, config):
        return 1.0

    def epochs(self, config, *, seed):
        yield 1.0


@pytest.mark.parametrize(
    ("function", "form", "takes_seed"),
    [
        (f, CONFIG, False),
        (seeded, CONFIG, True),
        (epochs, GENERATOR, False),
        (stored, CHECKPOINT, True),
        (lambda a, b, c, d, e: 0.0, CHECKPOINT, True),
        (lambda *all: 0.0, CONFIG, False),
        (functools.partial(lambda config, data: 0.0, data=1), CONFIG, False),
        (functools.partial(epochs), GENERATOR, False),
        (Trainer(), CONFIG, False),
        (Trainer().epochs, GENERATOR, True),
        (math.fsum, CONFIG, False),
    ],
)
def test_a_form_is_recognised(function, form, takes_seed):
    assert forms.recognise(function) == Function(function, form, takes_seed)


def test_what_is_no_training_function_is_refused():
    async def later(config):
        return 1.0

    for function, words in ((later, "asynchronous"), (lambda: 0, r"f\(config\) -> loss, got"), (3, "got 3")):
        with pytest.raises(ValueError, match=words):
            forms.recognise(function)
    with pytest.raises(ValueError, match=r"f\(config, checkpoint_dir, start, until, seed\) -> loss, got f"):
        forms.recognise(f, "checkpoint")


def test_a_version_is_that_of_the_source():
    assert forms.code_version(f) == forms.code_version(functools.partial(f)) != forms.code_version(epochs)
    assert forms.code_version(functools.partial(seeded, seed=1)) != forms.code_version(seeded)
    assert len(forms.code_version(math.fsum)) == 12


def task(trial, start, until, **more):
    return Task(0, trial, (({"rate": 0.5}, start, until),), 7, **more)


def test_a_generator_goes_on_is_trained_again_or_has_stopped_early():
    held = {}
    function = forms.recognise(epochs)
    assert forms.run_task(function, task(1, 0, 2), held).curve == (0.5, 1.5)
    first = held[1][0]
    assert forms.run_task(function, task(1, 2, 3), held).curve == (2.5,) and held[1][0] is first
    # Of another process, or killed: drawn anew up to where it was.
    again = forms.run_task(function, task(1, 3, 5), {})
    assert again.curve == (3.5, 4.5)
    # It ends by itself after six epochs: its last loss stays.
    assert forms.run_task(function, task(1, 3, 9, final=True), held).curve == (3.5, 4.5, 5.5, 5.5, 5.5, 5.5)
    assert 1 not in held and forms.run_task(function, task(2, 7, 9), {}).curve == (5.5, 5.5)
    outcome = forms.run_task(forms.recognise(lambda config: iter(()), GENERATOR), task(1, 0, 1), {})
    assert outcome.status == "raised" and "before its first loss" in outcome.error


def by_fold(config, fold, seed=0):
    return config["rate"] + fold


def epochs_by_fold(config, fold):
    yield from (fold, 10.0 * fold)


def stored_by_fold(config, checkpoint_dir, start, until, seed, fold):
    path = Path(checkpoint_dir) / "fold"
    assert path.exists() == (start > 0)
    path.write_text(str(fold))
    return float(fold)


def test_k_fold_in_all_forms(tmp_path):
    fold = nearopt.kfold(by_fold, 3)
    assert fold({"rate": 0.5}) == 1.5 and forms.recognise(fold) == Function(fold, CONFIG, True, 3)
    fold = nearopt.kfold(epochs_by_fold, 3)
    assert list(fold({})) == [1.0, 10.0] and forms.recognise(fold).form == GENERATOR
    fold = nearopt.kfold(stored_by_fold, 3)
    assert fold({}, str(tmp_path), 0, 1, 5) == fold({}, str(tmp_path), 1, 2, 5) == 1.0
    assert forms.recognise(fold) == Function(fold, CHECKPOINT, True, 3)
    for bad, words in (((by_fold, 1), "at least 2, got 1"), ((f, 3), "an argument named fold, got f")):
        with pytest.raises(ValueError, match=words):
            nearopt.kfold(*bad)


def test_a_fold_is_charged_as_a_training(tmp_path):
    calls = []

    def count(config, fold):
        calls.append(fold)
        return config["rate"]

    study = nearopt.tune(nearopt.kfold(count, 4), SPACE, trials=14, strategy=Uniform, folder=tmp_path,
                         confirm=None, quiet=True, name="s")  # fmt: skip
    assert study.spent == len(calls) == 12 and calls == [0, 1, 2, 3] * 3


class Uniform:
    """Random search without JAX."""

    anytime, needs = True, frozenset()

    def __init__(self, cube, max_epoch, budget, seed):
        self.x = np.random.default_rng(seed).random((99, int(cube.mask.sum()))).astype(np.float32)
        self.max_epoch, self.num_trials, self.asked = max_epoch, 99, 0

    def ask(self):
        from bench.protocols import NONE, Job

        self.asked += 1
        return Job(self.asked - 1, NONE, self.x[self.asked - 1], self.max_epoch)

    def tell(self, job, feedback):
        pass


def test_preflight_says_what_a_budget_would_be_spent_on():
    good = nearopt.preflight(epochs, SPACE)
    assert (good.form, good.ok, good.picklable) == (GENERATOR, True, True)
    assert good.value == pytest.approx(0.01)
    for bad, words in (
        (lambda config: math.nan, "diverged, loss none"),
        (lambda config: config["x"], "KeyError: 'x'"),
        (lambda config: "one", "must give a number, got 'one'"),
    ):
        found = nearopt.preflight(bad, SPACE)
        assert not found.ok and words in str(found) and not found.picklable


# Processes ----------------------------------------------------------------------------------------------


def where(config):
    return float(os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))


def misbehaves(config):
    if config["rate"] == 1:
        time.sleep(60)
    if config["rate"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if config["rate"] == 3:
        os._exit(4)
    if config["rate"] == 4:
        sys.exit("no data")
    return config["rate"]


def counted(config):
    """The epochs that this process drew so far, of all generators."""
    for epoch in range(9):
        yield os.getpid() + epoch / 100


def run(pool, tasks):
    for each in tasks:
        pool.submit(each)
    found = {}
    while len(found) < len(tasks):
        found |= {outcome.id: outcome for outcome in pool.finished()}
    return found


def slow_task(id, rate, trial=None, start=0, until=1):
    return Task(id, trial, (({"rate": rate}, start, until),), 0)


def test_workers_see_their_devices_and_nothing_that_they_do_is_lost():
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    pool = Processes(forms.recognise(where), 2, [5, 7], None)
    try:
        found = run(pool, [slow_task(i, 0.0) for i in range(12)])
        assert {outcome.value for outcome in found.values()} <= {5.0, 7.0} and len(found) == 12
        assert [worker.device for worker in pool.workers] == [5, 7]
    finally:
        pool.close()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    pool = Processes(forms.recognise(misbehaves), 1, None, 1.0)
    try:
        found = run(pool, [slow_task(i, rate) for i, rate in enumerate((0.5, 1, 2, 3, 4, 0.25))])
        status = [found[i].status for i in range(6)]
        assert status == ["finished", "timed out", "out of memory", "raised", "raised", "finished"]
        assert "SystemExit: no data" in found[4].error
        assert found[1].seconds >= 1.0 and "exit code 4" in found[3].error
    finally:
        pool.close()
    assert not any(worker.process.is_alive() for worker in pool.workers)


def with_children(config):
    """Starts a process, as a subprocess and as PyTorch's loaders of data do, and may not come back."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(config["rate"],))
    child.start()
    with open(os.environ["NEAROPT_TEST_PIDS"], "a") as file:
        file.write(f"{child.pid} {subprocess.Popen(['sleep', str(config['rate'])]).pid}\n")
    child.join()
    return config["rate"]


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon_gone(pids):
    end = time.monotonic() + 20
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(running, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_what_a_training_has_started_ends_with_its_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("NEAROPT_TEST_PIDS", str(tmp_path / "pids"))
    pool = Processes(forms.recognise(with_children), 1, None, 2.0)
    try:
        found = run(pool, [slow_task(0, 0.0), slow_task(1, 100.0)])
        assert [found[i].status for i in (0, 1)] == ["finished", "timed out"], found[0].error
    finally:
        pool.close()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4 and soon_gone(pids)


def test_a_worker_that_died_idle_is_replaced():
    pool = Processes(forms.recognise(f), 1, None, None)
    try:
        assert run(pool, [slow_task(0, 0.5)])[0].value == 0.5
        pool.workers[0].process.kill()
        pool.workers[0].process.join()
        assert run(pool, [slow_task(1, 0.25)])[1].value == 0.25
    finally:
        pool.close()


def test_a_generator_goes_on_where_it_lives():
    pool = Processes(forms.recognise(counted), 2, None, None)
    try:
        begun = run(pool, [slow_task(i, 0.5, i, 0, 2) for i in range(4)])
        more = run(pool, [slow_task(i, 0.5, i, 2, 4) for i in (3, 2, 1, 0)])
        assert all(math.floor(begun[i].value) == math.floor(more[i].value) for i in range(4))
        assert all(round(more[i].value % 1 * 100) == 3 for i in range(4))
    finally:
        pool.close()


def test_functions_that_other_processes_cannot_have():
    with pytest.raises(ValueError, match="define it at the top of a module"):
        Processes(forms.recognise(lambda config: 0.0), 2, None, None)
    assert run(Inline(forms.recognise(f)), [slow_task(0, 0.5)])[0].value == 0.5


# Scripts ------------------------------------------------------------------------------------------------


def script(folder: Path, text: str, *words: str, **more) -> subprocess.CompletedProcess:
    (folder / "mine.py").write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "mine.py", *words], cwd=folder, capture_output=True, text=True, timeout=900, **more
    )


def test_packages_of_the_same_name_end_in_one_sentence(tmp_path):
    for name in ("bench", "strategies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    done = script(tmp_path, "import nearopt\nnearopt.tune(abs, {}, trials=3)")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the package 'bench' in") and "hides nearopt's own" in last


def test_importing_nearopt_loads_nothing_heavy(tmp_path):
    text = """
        import sys, nearopt, nearopt.workers
        print([m for m in ("jax", "numpy", "pandas", "scipy", "sklearn", "hydra") if m in sys.modules])
    """
    assert script(tmp_path, text).stdout == "[]\n"


UNGUARDED = """
    import nearopt
    from nearopt import Float
    def f(config):
        return 1.0
    nearopt.tune(f, {"rate": Float(0, 1)}, trials=3, workers=2, strategy="random")
"""


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path):
    last = script(tmp_path, UNGUARDED).stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ") and "__main__" in last


# The child notes the start of each training; the parent kills it at any moment. Children are forked before
# JAX runs anything, so that they need not import all anew.
KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    import nearopt.study, bench.live, bench.lr_finder
    sys.path.insert(0, {tests!r})
    from test_study import Twice, loss, SPACE

    def f(config, checkpoint_dir, start, until, seed):
        with open("calls.log", "a") as file:
            file.write(f"{{os.getpid()}} {{seed}} {{start}}\\n")
        file = Path(checkpoint_dir) / "epochs"
        done = len(file.read_text()) if start else 0
        assert done == start, (done, start)
        time.sleep(0.02)
        file.write_text("x" * until)
        time.sleep(0.02)
        return loss(config) + 1 / until

    def study(name):
        more = dict(max_epoch=9, name=name, quiet=True, confirm=(1, 2))
        nearopt.tune(f, SPACE, trials={trials}, strategy=Twice, **more)
        os._exit(0)

    random.seed({kills})
    Path("calls.log").touch()
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            study("killed")
        if kills < {kills}:
            # From when it trains.
            before, ended = os.path.getsize("calls.log"), 0
            while not ended and os.path.getsize("calls.log") == before:
                time.sleep(0.002)
                ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(random.random() * 0.12)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        kills += 1
    print(kills)
    os.rename("calls.log", "killed.log")
    child = os.fork()
    if child == 0:
        study("whole")
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("kills", "trials"), [(2, 5), pytest.param(20, 24, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_study_loses_nothing_and_does_nothing_twice(tmp_path, kills, trials):
    text = KILLED.format(tests=str(Path(__file__).parent), kills=kills, trials=trials)
    done = script(tmp_path, text)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == kills, done.stderr[-2000:]
    lines = {name: read(tmp_path / "studies" / name / NAME) for name in ("killed", "whole")}
    keep = ["trial", "stage", "start", "until", "value", "config", "slot", "job", "seed"]
    rows = {
        name: [[line[k] for k in keep] for line in each if line["kind"] == "trial"]
        for name, each in lines.items()
    }
    assert rows["killed"] == rows["whole"] and len(rows["whole"]) > 2 * trials
    starts = [len((tmp_path / name).read_text().splitlines()) for name in ("killed.log", "calls.log")]
    assert starts[1] == len(rows["whole"])
    # Once each, and again only what a kill interrupted.
    assert starts[1] <= starts[0] <= starts[1] + kills
    calls = [tuple(line.split()[1:]) for line in (tmp_path / "killed.log").read_text().splitlines()]
    in_order = [c for i, c in enumerate(calls) if i == 0 or c != calls[i - 1]]
    assert in_order == [tuple(line.split()[1:]) for line in (tmp_path / "calls.log").read_text().splitlines()]


INTERRUPTED = """
    import os, subprocess, sys
    from pathlib import Path
    import nearopt
    sys.path.insert(0, {tests!r})
    from test_study import Random, loss, SPACE

    def f(config):
        with open("pids", "a") as file:
            file.write(str(os.getpid()) + "\\n")
        subprocess.run(["sleep", "0.3"], check=True)
        return loss(config)

    if __name__ == "__main__":
        workers = int(sys.argv[1])
        nearopt.tune(f, SPACE, trials=30, workers=workers, strategy=Random, name="s", confirm=None)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_at_any_moment_is_one_clear_end_that_leaves_nothing_running(tmp_path, workers, group):
    (tmp_path / "mine.py").write_text(textwrap.dedent(INTERRUPTED.format(tests=str(Path(__file__).parent))))
    log, pids = tmp_path / "studies" / "s" / NAME, tmp_path / "pids"
    for kind, after in (("session", 0.0), ("session", 0.3), ("session", 0.8), ("trial", 0.0), ("trial", 0.1)):
        before = len(read(log)) if log.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "mine.py", str(workers)], cwd=tmp_path, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while not any(line["kind"] == kind for line in read(log)[before:]):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(after)
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and text.count("interrupted") == 1, text
        assert "Traceback" not in text and "Error" not in text, text
        there = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
        mine = [p for p in there if running(p) and _session(p) == process.pid]
        assert soon_gone(mine)
    lines = [line for line in read(log) if line["kind"] == "trial"]
    assert all(line["status"] == "finished" for line in lines)
    assert len({line["trial"] for line in lines}) == len(lines) >= 2 and pids.exists()


def _session(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0


SIDE_BY_SIDE = """
    import random, sys, time
    from pathlib import Path
    import nearopt
    sys.path.insert(0, {tests!r})
    from test_study import Stubborn, loss, SPACE

    def f(config, checkpoint_dir, start, until, seed):
        file = Path(checkpoint_dir) / "epochs"
        done = len(file.read_text()) if start else 0
        assert done == start, (done, start)
        time.sleep(0.05 + 0.1 * random.random())
        file.write_text("x" * until)
        return loss(config) + 1 / until

    if __name__ == "__main__":
        nearopt.tune(f, SPACE, trials=20, workers=3, strategy=Stubborn, max_epoch=9, name="s", quiet=True)
"""


@pytest.mark.slow
def test_workers_side_by_side_killed_and_gone_on_with(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent(SIDE_BY_SIDE.format(tests=str(Path(__file__).parent))))
    log, kills = tmp_path / "studies" / "s" / NAME, 0
    while True:
        size = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen([sys.executable, "mine.py"], cwd=tmp_path)
        while process.poll() is None and kills < 3 and (not log.exists() or log.stat().st_size < size + 1500):
            time.sleep(0.01)
        if kills == 3:
            assert process.wait(120) == 0
            break
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        kills += 1
    lines = [line for line in read(log) if line["kind"] == "trial"]
    search = [line for line in lines if line["stage"] == "search"]
    assert all(line["status"] == "finished" for line in lines)
    assert sorted(line["job"] for line in search) == list(range(len(search)))
    assert sum(line["trainings"] for line in lines) == pytest.approx(20, abs=1)
    # Told in their order of finish, which is not that of their start.
    assert [line["job"] for line in search] != list(range(len(search)))
    assert len({(line["trial"], line["until"]) for line in search}) == len(search)
    # A whole-run orphan would still be training: nobody writes any more.
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size
