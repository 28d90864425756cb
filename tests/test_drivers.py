"""Both drivers against an event simulation written independently, and against each other."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bench import loop
from bench.cluster import ContractError
from bench.contract import Probe, TwoSlices, first_difference
from bench.drive import NotApplicable, instances_of
from bench.protocols import NONE, Job, lacking
from bench.simulate import block_width, simulate
from bench.space import Float, Space


def two_slices(**settings):
    return TwoSlices(True, **settings)


def one_slice(**settings):
    return TwoSlices(False, **settings)


@dataclass(frozen=True)
class Scripted:
    """Plays (trial, source, until) jobs in order, all at the same x, then waits."""

    script: tuple
    cube: object = field(kw_only=True, default=None)
    max_epoch: int = field(kw_only=True, default=1)
    budget: float = field(kw_only=True, default=1.0)
    anytime = True
    needs = frozenset({"stop", "resume", "copy", "change"})

    @property
    def num_trials(self):
        return 1 + max(job[0] for job in self.script)

    def init(self, key):
        return jnp.int32(0)

    def ask(self, key, n):
        table = jnp.array([*self.script, (NONE, NONE, 0)], jnp.int32)
        trial, source, until = table[jnp.minimum(n, len(self.script))]
        x = self.cube.fix(jnp.full((self.cube.width,), 0.4, jnp.float32))
        return Job(trial, source, x, until), jnp.where(trial == NONE, n, n + 1).astype(jnp.int32)

    def tell(self, state, job, feedback):
        return state


def scripted(*script):
    return lambda **settings: Scripted(tuple(script), **settings)


def test_clock_charges_and_order_match_an_event_queue():
    run = simulate(one_slice, Probe(), seeds=range(3), budget=7, workers=3).trace
    for _, rows in run.groupby("seed"):
        idle, now = [(0.0, w) for w in range(3)], 0.0
        heapq.heapify(idle)
        for row in rows.itertuples():  # the queue hands each job to the worker that is idle first
            now, _ = heapq.heappop(idle)
            assert row.started == now
            assert row.finished == row.started + row.cost
            assert row.cost == pytest.approx(9 * (0.5 + 0.1 * row.hp_layers))
            heapq.heappush(idle, (row.finished, row.worker))
        assert len(rows) == 7 and (rows["until"] == 9).all()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("factory", [one_slice, two_slices])
def test_both_drivers_agree_job_for_job(factory, workers):
    if factory is two_slices and workers > 1:
        pytest.skip("its second slice needs the first one told")
    settings = dict(seeds=[0, 4], budget=5.5, workers=workers)
    a, b = simulate(factory, Probe(), **settings).trace, loop.run(factory, Probe(), **settings).trace
    exact = [
        "seed",
        "job",
        "trial",
        "source",
        "start",
        "until",
        "worker",
        "status",
        "hp_units",
        "hp_activation",
    ]
    assert first_difference(a, b, exact) is None
    assert first_difference(a, b, ["loss", "started", "finished", "hp_rate"], tolerance=1e-6) is None


def test_debug_runs_the_same_jobs_uncompiled():
    seen = []

    @dataclass(frozen=True)
    class Printing(Probe):
        def train(self, instance, key, checkpoint, hp, start, until):
            seen.append(float(hp["rate"]))  # fails on a traced value
            return super().train(instance, key, checkpoint, hp, start, until)

    plain = loop.run(one_slice, Printing(), seeds=[2, 3], budget=3, debug=True).trace
    assert (
        first_difference(
            plain, simulate(one_slice, Probe(), seeds=[2], budget=3).trace, ["until", "hp_units"]
        )
        is None
    )
    assert len(seen) == 3


def test_a_budget_is_charged_by_the_slice_and_the_first_job_that_does_not_fit_ends_it():
    run = simulate(
        two_slices, Probe(), seeds=[0], budget=2.6
    ).trace  # 23 epochs: 4+5, 4+5, 4, then 5 do not fit
    assert run["until"].tolist() == [4, 9, 4, 9, 4]
    assert run["start"].tolist() == [0, 4, 0, 4, 0]
    assert (run["until"] - run["start"]).sum() == 22


def test_resumed_training_equals_training_through():
    whole = simulate(one_slice, Probe(), seeds=range(4), budget=3).trace
    halves = simulate(two_slices, Probe(), seeds=range(4), budget=3).trace
    np.testing.assert_allclose(halves[halves["until"] == 9]["loss"], whole["loss"], rtol=1e-12)


def test_a_checkpoint_counts_from_its_finish_only():
    # Trial 0 trains on one worker while trial 1 is asked to copy it: it has not finished, so there is none.
    early = scripted((0, NONE, 9), (1, 0, 9))
    with pytest.raises(ContractError, match=r"job 1 .*no checkpoint yet"):
        simulate(early, Probe(), seeds=[0], budget=4, workers=2)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_copy_starts_from_what_its_source_was_when_asked(chunk):
    @dataclass(frozen=True)
    class Chunked(Probe):
        pass

    if chunk:
        Chunked.chunk, Chunked.pool = chunk, 2
    # 1 copies 0 at epoch 3; 0 goes on to 6 and 9; 2 copies 1 at epoch 5.
    script = scripted((0, NONE, 3), (1, 0, 5), (0, 0, 6), (2, 1, 9), (0, 0, 9))
    run = simulate(script, Chunked(), seeds=range(10), budget=9, workers=1).trace
    straight = simulate(scripted((0, NONE, 9)), Probe(), seeds=range(10), budget=1).trace
    last = run[run["job"] == 3]
    assert last["start"].tolist() == [5] * 10 and last["source"].tolist() == [1] * 10
    # Same x throughout and no noise: wherever the checkpoint came from, epoch 9 is epoch 9.
    np.testing.assert_allclose(last["loss"], straight["loss"], rtol=1e-9)
    np.testing.assert_allclose(run[run["job"] == 4]["loss"], straight["loss"], rtol=1e-9)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([(0, NONE, 4), (0, 0, 3)], "until must exceed"),
        ([(0, NONE, 4), (1, 7, 6)], "source must lie"),
        ([(0, NONE, 10)], "until exceeds max_epoch 9"),
        ([(0, NONE, 4), (1, 1, 6)], "no checkpoint yet"),
    ],
)
def test_broken_jobs_are_refused_with_their_number(jobs, words):
    with pytest.raises(ContractError, match=words):
        simulate(scripted(*jobs), Probe(), seeds=[0], budget=5)


@dataclass(frozen=True)
class Understated(Scripted):
    """Says that it needs less than it does."""

    needs: frozenset = frozenset({"stop"})


@pytest.mark.parametrize(("source", "words"), [(0, "needs no 'resume'"), (1, "needs no 'copy'")])
def test_what_a_strategy_does_not_say_it_needs_it_cannot_do(source, words):
    script = ((0, NONE, 4), (1, NONE, 4), (0, source, 6))
    with pytest.raises(ContractError, match=f"job 2 .*{words}"):
        simulate(lambda **settings: Understated(script, **settings), Probe(), seeds=[0], budget=5)


def test_a_trial_that_still_runs_cannot_be_written_again():
    with pytest.raises(ContractError, match="still running"):
        simulate(scripted((0, NONE, 4), (0, NONE, 5)), Probe(), seeds=[0], budget=5, workers=2)


def test_wide_blocks_give_the_bytes_of_narrow_ones():
    @dataclass(frozen=True)
    class WideProbe(Probe):
        pool: int = 1024

    @dataclass(frozen=True)
    class Wide(TwoSlices):
        lanes = 1024

    assert [block_width(n, 1024) for n in (1, 64, 65, 300, 5000)] == [64, 64, 256, 1024, 1024]
    wide = simulate(lambda **s: Wide(False, **s), WideProbe(), seeds=range(130), budget=3).trace
    alone = simulate(one_slice, Probe(), seeds=[101], budget=3).trace
    mine = wide[wide["seed"] == 101].reset_index(drop=True)
    assert mine.equals(alone)


def test_trial_k_is_the_same_run_whatever_the_number_of_workers():
    runs = [simulate(one_slice, Probe(), seeds=range(2), budget=6, workers=w).trace for w in (1, 4)]
    columns = ["seed", "trial", "loss", "hp_rate"]
    ordered = [r.sort_values(["seed", "trial"])[columns].reset_index(drop=True) for r in runs]
    assert ordered[0].equals(ordered[1])


def test_what_a_strategy_lacks_is_not_applicable_and_a_budget_below_an_epoch_an_error():
    @dataclass(frozen=True)
    class Memoryless(Probe):
        offers = frozenset({"stop", "resume"})

    with pytest.raises(NotApplicable, match="needs copy, change"):
        simulate(scripted((0, NONE, 9)), Memoryless(), seeds=[0], budget=2)
    with pytest.raises(ValueError, match="less than one epoch"):
        simulate(one_slice, Probe(), seeds=[0], budget=0.05)
    with pytest.raises(ValueError, match="does not pay for a single job"):
        simulate(one_slice, Probe(), seeds=[0], budget=0.5)
    assert lacking(frozenset({"stop", "copy"}), frozenset(), 1) == ["copy"]


def test_instances_follow_seeds():
    assert instances_of([0, 1, 5], 1000, 2).tolist() == [1000, 1000, 1002]


class Halving:
    """A numpy prototype: random configurations to epoch 3, the better half on to 9."""

    anytime, needs = True, frozenset({"stop", "resume"})

    def __init__(self, cube, max_epoch, budget, seed):
        self.random = np.random.default_rng(seed)
        self.width, self.num_trials = int(cube.mask.sum()), 4
        self.losses, self.asked = {}, 0
        self.x = self.random.random((4, self.width))

    def ask(self):
        if self.asked < 4:
            self.asked += 1
            return Job(self.asked - 1, NONE, self.x[self.asked - 1], 3)
        if len(self.losses) < 4 or self.asked == 6:
            return Job(NONE, NONE, self.x[0], 0)
        k = sorted(self.losses, key=self.losses.get)[self.asked - 4]
        self.asked += 1
        return Job(k, k, self.x[k], 9)

    def tell(self, job, feedback):
        self.losses.setdefault(int(job.trial), feedback.loss)


SPACE = Space({"rate": Float(0.1, 1.0), "bend": Float(0.0, 1.0)})


def quadratic(config):
    return (config["rate"] - 0.3) ** 2 + config["bend"]


def generator(config):
    for epoch in range(1, 10):
        yield quadratic(config) + 1.0 / epoch


def with_checkpoint(config, folder, start, until, seed):
    path = Path(folder) / "epoch.txt"
    assert (int(path.read_text()) if path.exists() else 0) == start
    path.write_text(str(until))
    return quadratic(config) + 1.0 / until


def sometimes_raises(config):
    if config["rate"] > 0.5:
        raise RuntimeError("out of memory")
    return quadratic(config)


@pytest.mark.parametrize("workers", [1, 3])
def test_generator_and_checkpoint_forms_train_alike(workers):
    forms = [
        loop.Callable(generator, SPACE, 9, "generator"),
        loop.Callable(with_checkpoint, SPACE, 9, "checkpoint"),
    ]
    a, b = (loop.run(Halving, f, seeds=[0, 1], budget=5, workers=workers).trace for f in forms)
    assert a.equals(b)
    assert sorted(a[a["seed"] == 0]["until"]) == [3, 3, 3, 3, 9, 9]
    resumed = a[a["until"] == 9]
    np.testing.assert_allclose(resumed["loss"], (resumed.hp_rate - 0.3) ** 2 + resumed.hp_bend + 1 / 9)


def test_processes_give_what_threads_give():
    objective = loop.Callable(quadratic, SPACE)
    a = loop.run(one_slice, objective, seeds=[0], budget=4, workers=2).trace
    b = loop.run(one_slice, objective, seeds=[0], budget=4, workers=2, executor="processes").trace
    assert a.equals(b)


def test_a_call_that_raises_is_recorded_and_told_as_infinity():
    run = loop.run(one_slice, loop.Callable(sometimes_raises, SPACE), seeds=[0], budget=12)
    bad = run.trace["hp_rate"] > 0.5
    assert bad.any() and (~bad).any()
    assert np.isinf(run.trace["loss"][bad]).all() and (run.trace["status"][bad] == "raised").all()
    assert len(run.errors) == bad.sum() and "out of memory" in run.errors[0][2]


def test_a_generator_that_raised_cannot_go_on_as_if_it_were_new():
    def breaks(config):
        yield 1.0
        raise RuntimeError("out of memory")

    def jobs(**settings):
        return Understated(((0, NONE, 3), (0, 0, 5)), needs=frozenset({"stop", "resume"}), **settings)

    run = loop.run(jobs, loop.Callable(breaks, SPACE, 9, "generator"), seeds=[0], budget=1)
    assert run.trace["status"].tolist() == ["raised"] * 2 and "earlier job" in run.errors[1][2]


def test_forms_that_cannot_do_what_is_needed_say_so():
    with pytest.raises(NotApplicable, match="resume"):
        loop.run(Halving, loop.Callable(quadratic, SPACE, 9), seeds=[0], budget=3)
    with pytest.raises(ValueError, match="form must be one of"):
        loop.Callable(quadratic, SPACE, form="iterator")
    with pytest.raises(ValueError, match="cannot leave its process"):
        objective = loop.Callable(generator, SPACE, 9, "generator")
        loop.run(Halving, objective, seeds=[0], budget=3, executor="processes")
