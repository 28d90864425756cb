"""tune: budgets, resuming, failures, the one-time test; one worker, in this process."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import nearopt
from bench import loop
from bench.protocols import NONE, Job
from bench.space import Choice, Float, Int, Space
from nearopt.study_log import NAME, Log, read
from nearopt.study_result import result_of
from strategies.random_search import RandomSearch
from strategies.workflow import Workflow

SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, default=1e-3, log=True, role="rate"),
        "depth": Int(1, 6),
        "kind": Choice(("a", "b"), default="a"),
    }
)


class Twice:
    """Without JAX: random configurations, each to a third, the better half of them on."""

    anytime, needs = True, frozenset({"stop", "resume"})

    def __init__(self, cube, max_epoch, budget, seed):
        self.random = np.random.default_rng(seed)
        self.width, self.max_epoch = int(cube.mask.sum()), max_epoch
        self.num_trials, self.told, self.asked, self.queue = int(3 * budget), {}, 0, []
        self.x = self.random.random((self.num_trials, self.width)).astype(np.float32)

    def ask(self):
        if self.queue:
            k = self.queue.pop(0)
            return Job(k, k, self.x[k], self.max_epoch)
        if self.asked == self.num_trials:
            return Job(NONE, NONE, self.x[0], 0)
        self.asked += 1
        return Job(self.asked - 1, NONE, self.x[self.asked - 1], max(self.max_epoch // 3, 1))

    def tell(self, job, feedback):
        if job.until < self.max_epoch:
            self.told[job.trial] = feedback.loss
            if feedback.loss < np.median(list(self.told.values())):
                self.queue.append(job.trial)


class Random(Twice):
    """The same in full trainings."""

    needs = frozenset()

    def ask(self):
        job = super().ask()
        return job._replace(until=self.max_epoch) if job.trial != NONE else job


def loss(config):
    return (
        (math.log10(config["rate"]) + 2) ** 2 + 0.1 * abs(config["depth"] - 3) + 0.2 * (config["kind"] == "b")
    )


def by_epoch(config):
    for epoch in range(1, 10):
        yield loss(config) + 1 / epoch


def stored(config, checkpoint_dir, start, until, seed):
    file = Path(checkpoint_dir) / "epochs.json"
    done = json.loads(file.read_text()) if start else []
    assert len(done) == start
    done += [loss(config)] * (until - start)
    file.write_text(json.dumps(done))
    return sum(done) / len(done) + 1 / until + seed % 7 / 1e3


def trials(study):
    """What must be the same however often a study was stopped."""
    keep = ["trial", "stage", "source", "start", "until", "config", "value", "status", "slot", "job"]
    return [{k: line[k] for k in keep} for line in study.lines if line["kind"] == "trial"]


@pytest.fixture
def tune(tmp_path):
    return partial(nearopt.tune, folder=tmp_path, strategy=Random, confirm=None, quiet=True)


@pytest.mark.parametrize(("f", "form"), [(by_epoch, "generator"), (stored, "checkpoint")])
def test_a_study_makes_the_jobs_of_a_run_on_the_virtual_clock(tune, f, form):
    study = tune(f, SPACE, trials=5, strategy=Twice, max_epoch=9)
    run = loop.run(Twice, loop.Callable(f, SPACE, 9, form), seeds=[0], budget=4).trace
    mine = study.trials[study.trials["stage"] == "search"].reset_index(drop=True)
    assert (mine["trial"] - 1).tolist() == run["trial"].tolist() and len(mine) > 6
    for name in ("start", "until", "hp_rate", "hp_depth"):
        assert mine[name].tolist() == run[name].tolist()
    np.testing.assert_array_equal(mine["value"], run["loss"])
    assert mine["until"].max() == 9 and study.spent <= 5


def test_a_jax_strategy_makes_them_too(tune):
    study = tune(loss, SPACE, trials=6, strategy=RandomSearch)
    run = loop.run(RandomSearch, loop.Callable(loss, SPACE), seeds=[0], budget=5).trace
    np.testing.assert_array_equal(study.trials["value"][1:], run["loss"])
    # A budget is the study's: the same call does nothing, a larger one goes on with the same trials.
    assert trials(tune(loss, SPACE, trials=6, strategy=RandomSearch)) == trials(study)
    more = tune(loss, SPACE, trials=9, strategy=RandomSearch)
    assert trials(more)[:6] == trials(study) and more.spent == 9
    assert len({line["trial"] for line in trials(more)}) == 9


def test_the_default_configuration_is_trial_0_as_it_was_written(tune):
    seen = []
    study = tune(lambda config: seen.append(dict(config)) or loss(config), SPACE, trials=3, name="x")
    assert seen[0] == {"rate": 1e-3, "depth": 4, "kind": "a"}
    assert trials(study)[0]["stage"] == "default" and trials(study)[0]["trial"] == 0


def stop_after(f, calls, error=KeyboardInterrupt):
    """f, which ends with an error instead of its nth result; of a generator, its nth epoch."""
    left = [calls]

    def count(value):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return value

    if f is by_epoch:
        return lambda config: (count(value) for value in f(config))
    if f is stored:
        return lambda config, checkpoint_dir, start, until, seed: count(
            stored(config, checkpoint_dir, start, until, seed)
        )
    return lambda config: count(f(config))


@pytest.mark.parametrize(
    ("f", "form", "confirm"),
    [
        (loss, "config", None),
        (by_epoch, "generator", None),
        (stored, "checkpoint", None),
        (loss, "config", (1, 2)),  # which shows that nothing is random, and that must not be forgotten
        pytest.param(stored, "checkpoint", (1, 2), marks=pytest.mark.slow),
    ],
)
def test_stopped_anywhere_a_study_goes_on_as_if_it_was_not(tune, f, form, confirm):
    other = dict(trials=5 if confirm is None else 9, form=form, max_epoch=None if f is loss else 9)
    other |= dict(strategy=Random if f is loss else Twice, confirm=confirm)
    whole = tune(f, SPACE, name="whole", **other)
    for calls in (2, 1, 3, 0, 7) if confirm is None else (5, *(1,) * (5 if f is loss else 40)):
        try:
            tune(stop_after(f, calls), SPACE, name="stopped", **other)
        except SystemExit as end:
            assert end.code == 130
    again = tune(f, SPACE, name="stopped", **other)
    assert trials(again) == trials(whole)
    assert (again.best, again.value, again.spent) == (whole.best, whole.value, whole.spent)


def test_a_torn_last_line_is_as_if_it_was_not_written(tune, tmp_path):
    whole = tune(loss, SPACE, name="s", trials=5)
    path = tmp_path / "s" / NAME
    text = path.read_bytes()
    path.write_bytes(text[: text.rindex(b'"kind": "trial"') + 9])
    assert len(trials(nearopt.study.Study(tmp_path / "s", SPACE))) == 4
    again = tune(loss, SPACE, name="s", trials=5)
    assert trials(again) == trials(whole) and read(path) == again.lines
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{", *lines[2:]]))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        tune(loss, SPACE, name="s", trials=5)


def test_a_study_is_held_by_one_process(tune, tmp_path):
    tune(loss, SPACE, name="s", trials=2)
    with Log(tmp_path / "s" / NAME).opened(), pytest.raises(ValueError, match="open in another process"):
        tune(loss, SPACE, name="s", trials=2)


def test_ctrl_c_says_what_there_is_and_how_to_go_on(tune, capsys):
    with pytest.raises(SystemExit):
        tune(stop_after(loss, 2), SPACE, trials=5, name="s", quiet=False)
    text = capsys.readouterr().out
    assert (
        "the same call of tune goes on" in text
        and "best        {" in text
        and "spent       2 trainings" in text
    )


# Failures -----------------------------------------------------------------------------------------------


def test_the_first_training_that_raises_stops_the_study(tune):
    def broken(config):
        return 1 / (config["depth"] - 4)

    with pytest.raises(nearopt.StudyStopped, match=r"(?s)the first training raised.*ZeroDivisionError"):
        tune(broken, SPACE, trials=5, name="s")
    # Mended, it starts anew.
    assert len(trials(tune(loss, SPACE, trials=5, name="s"))) == 5


def test_three_in_a_row_stop_it_and_fewer_are_data(tune):
    bad = {2, 3, 5, 6, 7}
    count = iter(range(100))

    def sometimes(config):
        if next(count) in bad:
            raise RuntimeError("no such file")
        return loss(config)

    with pytest.raises(nearopt.StudyStopped, match=r"(?s)3 trainings in a row raised.*no such file"):
        tune(sometimes, SPACE, trials=12, name="s")
    bad.clear()
    study = tune(sometimes, SPACE, trials=12, name="s")
    status = [line["status"] for line in trials(study)]
    assert status == ["finished"] * 2 + ["raised"] * 2 + ["finished"] + ["raised"] * 2 + ["finished"] * 5
    assert trials(study)[2]["value"] is None


def test_divergence_and_memory_are_data(tune):
    values = iter([1.0, math.nan, math.inf, -math.inf, None, 0.5])

    def diverges(config):
        value = next(values)
        if value is None:
            raise MemoryError
        return value

    study = tune(diverges, SPACE, trials=6)
    expected = ["finished", "diverged", "diverged", "diverged", "out of memory", "finished"]
    assert [line["status"] for line in trials(study)] == expected and study.value == 0.5


class Stubborn(Twice):
    def tell(self, job, feedback):
        if job.until < self.max_epoch:
            self.queue.append(job.trial)


def test_what_left_no_weights_is_not_gone_on_with(tune):
    calls = []

    def fails(config, checkpoint_dir, start, until, seed):
        calls.append(start)
        if len(calls) == 2:
            raise RuntimeError("gone")
        return stored(config, checkpoint_dir, start, until, seed)

    study = tune(fails, SPACE, trials=3, strategy=Stubborn, max_epoch=9)
    mine = [(line["until"], line["status"]) for line in trials(study)]
    assert mine == [(9, "finished"), (3, "raised"), (9, "diverged"), (3, "finished"), (9, "finished")]
    assert calls == [0, 0, 0, 3] and study.spent == 3


def test_a_function_that_gives_no_number_is_told_so(tune):
    with pytest.raises(nearopt.StudyStopped, match="must give a number, got None"):
        tune(lambda config: None, SPACE, trials=3, name="s")


# Budgets, strategies, spaces ----------------------------------------------------------------------------


def test_maximize_keeps_the_users_sign(tune):
    down = tune(loss, SPACE, trials=6, name="down")
    up = tune(lambda config: -loss(config), SPACE, trials=6, name="up", maximize=True)
    assert up.best == down.best and up.value == -down.value
    assert "\nvalue  " in str(up) and "\nloss  " in str(down)
    assert result_of(up.lines, SPACE).gain == result_of(down.lines, SPACE).gain > 0
    with pytest.raises(ValueError, match="has maximize=True"):
        tune(loss, SPACE, trials=7, name="up")


class Planned(Random):
    anytime = False


def test_a_strategy_that_is_not_anytime_begins_anew_with_what_is_added(tune):
    first = tune(loss, SPACE, trials=5, name="s", strategy=Planned)
    second = tune(loss, SPACE, trials=9, name="s", strategy=Planned)
    assert trials(second)[:5] == trials(first) and second.spent == 9
    plans = [line for line in second.lines if line["kind"] == "plan"]
    assert [plan["budget"] for plan in plans] == [4, 4] and plans[0]["seed"] != plans[1]["seed"]
    assert [line["job"] for line in trials(second)[5:]] == [0, 1, 2, 3]


class Listens(Random):
    """Notes what it is told before it is asked."""

    heard: list = []  # noqa: RUF012

    def __init__(self, prior_trials=0, **settings):
        super().__init__(**settings)
        self.num_trials += prior_trials
        self.asked = prior_trials
        self.x = self.random.random((self.num_trials, self.width)).astype(np.float32)

    def tell(self, job, feedback):
        Listens.heard.append((job.trial, feedback.loss))


def listens(cube, max_epoch, budget, seed, prior_trials=0):
    return Listens(cube=cube, max_epoch=max_epoch, budget=budget, seed=seed, prior_trials=prior_trials)


def test_trials_made_before_are_told_those_inside_the_space(tune, tmp_path):
    Listens.heard.clear()
    start = [{"rate": 0.01, "kind": "b"}]
    history = [({"rate": 0.1}, 0.25), ({"rate": 3.0}, 0.125)]
    study = tune(loss, SPACE, trials=4, name="s", strategy=listens, start=start, history=history)
    assert [line["stage"] for line in trials(study)] == ["default", "start", "search", "search"]
    assert trials(study)[1]["config"] == {"rate": 0.01, "depth": 4, "kind": "b"}
    assert [h[0] for h in Listens.heard] == [0, 1, 2, 3, 4]
    assert Listens.heard[0][1] == 0.25
    assert Listens.heard[1][1] == pytest.approx(loss({"rate": 1e-3, "depth": 4, "kind": "a"}))
    # A narrower space: what lies outside stays in the log.
    Listens.heard.clear()
    narrow = Space(
        {"rate": Float(1e-4, 5e-3, default=1e-3, log=True), "depth": Int(1, 6), "kind": SPACE.axes["kind"]}
    )
    more = tune(loss, narrow, trials=6, name="s", strategy=listens)
    inside = [line for line in trials(study) if line["config"]["rate"] <= 5e-3]
    assert trials(more)[:4] == trials(study) and 0 < len(inside) < 4
    assert [h[1] for h in Listens.heard[: len(inside)]] == [line["value"] for line in inside]
    assert more.best["rate"] <= 5e-3
    # Another study as history.
    Listens.heard.clear()
    tune(loss, SPACE, trials=2, name="t", strategy=listens, history=tmp_path / "s")
    assert [h[1] for h in Listens.heard[:6]] == [line["value"] for line in trials(more)]
    with pytest.raises(ValueError, match="cannot be told trials made elsewhere"):
        tune(loss, SPACE, trials=4, name="u", history=history)


def test_a_log_that_does_not_follow_from_the_strategy_is_left_as_it_is(tune, capsys):
    first = tune(loss, SPACE, trials=4, name="s")

    class Changed(Random):
        def __init__(self, cube, max_epoch, budget, seed):
            super().__init__(cube, max_epoch, budget, seed + 5)

    Changed.__name__ = "Random"
    second = tune(loss, SPACE, trials=7, name="s", strategy=Changed, quiet=False)
    assert "does not follow" in capsys.readouterr().out
    assert trials(second)[:4] == trials(first) and second.spent == 7


def test_hours(tune, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("nearopt.tuning.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("nearopt.forms.time.perf_counter", lambda: clock[0])

    def slow(config):
        clock[0] += 600.0
        return loss(config)

    study = tune(slow, SPACE, hours=1, name="s")
    assert study.spent == 6
    assert tune(slow, SPACE, hours=1, name="s").spent == 6
    more = tune(slow, SPACE, hours=1.5, name="s")
    assert more.spent == 9 and trials(more)[:6] == trials(study)


# The end of a study -------------------------------------------------------------------------------------


def noisy(config, seed):
    return loss(config) + np.random.default_rng(seed).normal(0, 0.01)


def test_the_best_are_confirmed_with_fresh_seeds_within_the_budget(tune):
    study = tune(noisy, SPACE, trials=27, confirm=(3, 3))
    confirmed = [line for line in study.lines if line.get("stage") == "confirm"]
    assert len(confirmed) == 9 and study.spent == 27
    assert len({line["trial"] for line in confirmed}) == 3 and len({line["seed"] for line in confirmed}) == 3
    result = study.result
    values = [line["value"] for line in confirmed if line["trial"] == result.line["trial"]]
    assert study.value == pytest.approx(np.mean(values)) and result.runs == 3
    # By hand: 6 degrees of freedom, t = 2.447; three runs against the default's one.
    groups = [[c["value"] for c in confirmed if c["trial"] == t] for t in {c["trial"] for c in confirmed}]
    spread = math.sqrt(sum(np.var(g) * 3 for g in groups) / 6)
    assert result.spread == pytest.approx(spread)
    assert result.margin == pytest.approx(2.447 * spread * math.sqrt(1 / 3 + 1), rel=1e-3)
    assert "which exceeds the noise" in str(study)
    # A third of the budget at most: here one configuration.
    small = tune(noisy, SPACE, trials=9, confirm=(3, 3), name="small")
    assert sum(line.get("stage") == "confirm" for line in small.lines) == 3


def test_what_diverges_when_it_is_confirmed_is_not_the_best(tune):
    values = iter([1.0, 0.9, 0.5, *[0.8] * 5, *[math.nan] * 3])
    study = tune(lambda config, seed: next(values), SPACE, trials=11, confirm=(1, 3), name="s")
    assert [line["stage"] for line in trials(study)[8:]] == ["confirm"] * 3
    assert trials(study)[8]["trial"] == 2 and study.result.line["trial"] != 2 and study.value == 0.8


def test_the_checkpoint_that_the_confirmation_chooses_is_kept(tune):
    """Here it is the default's, which no job needs any more: the best of the search was lucky."""

    calls = []

    def lucky(config, checkpoint_dir, start, until, seed):
        (Path(checkpoint_dir) / "seed").write_text(str(seed))
        calls.append(config)
        return 0.5 if config == calls[0] else 0.1 if len(calls) == 2 else 0.9

    study = tune(lucky, SPACE, trials=15, confirm=(2, 2), max_epoch=1, form="checkpoint", name="s")
    assert study.result.line["stage"] == "default" and study.result.runs == 2
    assert study.checkpoint is not None and (study.checkpoint / "seed").exists()


def test_what_is_added_is_split_like_a_budget_of_its_own(tune):
    first = tune(noisy, SPACE, trials=9, confirm=(3, 3))
    more = tune(noisy, SPACE, trials=12, confirm=(3, 3))  # a third of three pays for no confirmation
    assert trials(more)[:9] == trials(first) and more.spent == 12
    assert [line["stage"] for line in trials(more)[9:]] == ["search"] * 3
    again = tune(noisy, SPACE, trials=30, confirm=(3, 3))
    stages = [line["stage"] for line in trials(again)[12:]]
    assert stages == ["search"] * 12 + ["confirm"] * (len(stages) - 12) and 3 <= len(stages) - 12 <= 6


def test_a_function_that_repeats_itself_is_confirmed_once(tune):
    study = tune(loss, SPACE, trials=12, confirm=(3, 3))
    assert sum(line.get("stage") == "confirm" for line in study.lines) == 1 and study.spent == 12
    assert "the same each time" in str(study)


def test_the_test_opens_once(tune, tmp_path):
    calls = []

    def test(config):
        calls.append(config)
        return 0.75

    study = tune(loss, SPACE, test, trials=4, name="s")
    assert not calls and "test        unopened" in str(study)

    def fails(config):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        tune(loss, SPACE, fails, trials=4, name="s").open_test()
    assert study.open_test() == 0.75 and calls == [study.best]
    for again in (study, tune(loss, SPACE, test, trials=4, name="s")):
        with pytest.raises(ValueError, match=r"opened before: on 20..-.*, trial \d+: 0.75"):
            again.open_test()
    assert len(calls) == 1 and "0.75" in str(study)
    assert "opened on" in (tmp_path / "s" / "study.html").read_text()


def test_a_page_says_at_once_that_the_test_was_opened(tune):
    study = tune(loss, SPACE, lambda config: 0.75, trials=3)
    study.open_test()
    assert "0.75" in (study.folder / "study.html").read_text()


def test_the_best_checkpoint_is_kept_and_tested(tune):
    study = tune(stored, SPACE, lambda config, checkpoint_dir: len(list(Path(checkpoint_dir).iterdir())),
                 trials=6, strategy=Twice, max_epoch=9)  # fmt: skip
    assert study.checkpoint is not None and study.open_test() == 1
    assert len(json.loads((study.checkpoint / "epochs.json").read_text())) == study.result.line["until"]
    # Of a trial that went on, the earlier checkpoint is gone.
    kept = {path.name for path in (study.folder / "checkpoints").iterdir()}
    last = {line["trial"]: line["checkpoint"] for line in study.lines if line.get("stage") == "search"}
    assert kept == set(last.values()) | {study.checkpoint.name}


def test_the_page_is_one_file_and_says_what_the_study_says(tune, tmp_path):
    space = {"<rate>": Float(1e-4, 1.0, log=True), "width": Int(1, 900), "kind": Choice(("a", "<b>"))}
    values = iter([math.nan, *range(30)])
    study = tune(lambda c: next(values), space, trials=12, name="a<b" if False else "page")
    text = (tmp_path / "page" / "study.html").read_text()
    assert "<script" not in text and "http" not in text and "<b>" not in text.split("<pre>")[1]
    for title in ("History", "Parallel coordinates", "Slices", "Importance", "Best trials"):
        assert f"<h2>{title}</h2>" in text
    assert f"loss {study.value:.4g}" in text and "×" in text and "nan" not in text


def range_test(config, rates):
    """Falls to 0.1, then explodes."""
    return [2 - 1.5 / (1 + math.exp(-3 * (math.log10(r) + 2.5))) + (r / 0.1) ** 4 * 0.3 for r in rates]


@pytest.mark.slow
def test_the_finder_is_run_once_charged_and_told(tune):
    asked = []

    def finder(config, rates):
        asked.append(config)
        return range_test(config, rates)

    rest = dict(strategy=partial(Workflow, random=20), max_epoch=9, name="s")
    study = tune(by_epoch, SPACE, trials=6, range_test=finder, **rest)
    line = next(line for line in study.lines if line["kind"] == "finder")
    assert asked == [{"rate": 1e-3, "depth": 4, "kind": "a"}] and line["trainings"] == pytest.approx(1 / 9)
    assert 1e-3 < line["rate"] < 3e-2 and study.spent == pytest.approx(6)
    rates = study.trials["hp_rate"][1:] / line["rate"]
    assert len(rates) == 5 and (np.abs(np.log10(rates)) <= 0.5 + 1e-3).all()
    assert study.trials["until"].tolist() == [9] * 5 + [8]
    more = tune(by_epoch, SPACE, trials=8, range_test=finder, **rest)
    assert trials(more)[:6] == trials(study) and len(asked) == 1


@pytest.mark.slow
def test_what_a_finder_cost_is_missing_once_not_in_every_plan(tune):
    rest = dict(strategy=Workflow, max_epoch=9, name="s", range_test=range_test)
    first = tune(by_epoch, SPACE, trials=4, **rest)
    more = tune(by_epoch, SPACE, trials=7, **rest)
    assert first.trials["until"].tolist() == [9, 9, 9, 8] and more.spent == pytest.approx(7)
    assert more.trials["until"].tolist() == [9, 9, 9, 8, 9, 9, 9]


# Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": None}, "trials= .* or as hours="),
        ({"hours": 1}, "one of them"),
        ({"trials": 0}, "trials must be a finite number at least 1, got 0"),
        ({"trials": "many"}, "trials must be a finite number"),
        ({"strategy": "hyprband"}, "no strategy 'hyprband'; did you mean hyperband"),
        ({"strategy": "random,desing=sobol"}, "no setting 'desing'; did you mean design"),
        ({"strategy": 3}, "strategy must be a listed name"),
        ({"strategy": "pbt", "f": by_epoch, "max_epoch": 9}, "needs copy, change, .* the checkpoint form"),
        ({"workers": 0}, "workers must be a whole number"),
        ({"workers": 2}, "define it at the top of a module"),
        ({"max_epoch": 5}, "has no epochs: leave max_epoch out"),
        ({"form": "generator"}, "max_epoch is needed"),
        ({"form": "iterator"}, "form must be one of config, generator, checkpoint"),
        ({"start": [{"rat": 1}]}, "no axis 'rat'; the axes are rate, depth, kind"),
        ({"start": [{"depth": 9}]}, "axis 'depth': value must be an integer in"),
        ({"history": [1]}, "history must be .config, loss. pairs"),
        ({"history": "nowhere"}, "no study in nowhere"),
        ({"confirm": (1, 2, 3)}, "confirm must be"),
        ({"timeout": -1}, "timeout must be above 0"),
        ({"test": 3}, "test must be a function"),
        ({"data": "nowhere.csv"}, "data: no file nowhere.csv"),
        ({"space": {}}, "at least one axis"),
        ({"space": {"rate": 3}}, "must be Float, Int or Choice"),
        ({"name": "a/b"}, "fit for a folder"),
        ({"space": [("rate", 3)]}, "space must be a Space or a dict of axes by name"),
        ({"space": {1: Float(0, 1)}}, "space must be a Space or a dict of axes by name"),
        ({"name": 3}, "fit for a folder"),
        ({"name": "x" * 300}, "fit for a folder"),
        ({"start": {"rate": 0.1}}, "start must be a list of configurations"),
        ({"history": [({"rate": 0.1, "depth": 2, "kind": "a"}, "x")]}, "a loss must be a number or None"),
        ({"confirm": 3}, "confirm must be"),
        ({"devices": 0}, r"devices must be a list, got 0: write \[0\]"),
        ({"maximize": "yes"}, "maximize must be True or False"),
        ({"f": nearopt.kfold(lambda config, fold: 0.0, 5)}, "which is 5 folds: got 3"),
        ({"strategy": Workflow, "range_test": lambda config, rates: None}, "a loss for each rate, got None"),
        ({"f": 3}, "f must be a function, got 3"),
        ({"f": lambda a, b, c: 0}, "a function of the config form is f.config. -> loss, got"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(tune, change, words):
    given = {"f": lambda config: 0.0, "space": SPACE, "trials": 3, "name": "s"} | change
    with pytest.raises(ValueError, match=words) as caught:
        tune(**given)
    assert "\n" not in str(caught.value)
