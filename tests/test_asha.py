"""ASHA against the paper's pseudocode, Optuna's and Syne Tune's decisions; asynchronous Hyperband."""

from functools import partial

import jax
import numpy as np
import pytest
from test_hyperband import compiled, drive, losses_of
from test_successive_halving import Crossing

from bench.cluster import ClusterSettings
from bench.contract import Probe
from bench.protocols import NONE, Feedback
from bench.simulate import simulate
from bench.space import Float, Space
from strategies import brackets
from strategies.asha import ASHA
from strategies.async_hyperband import AsyncHyperband
from strategies.successive_halving import SuccessiveHalving

CUBE = Space({"a": Float(0.0, 1.0)}).cube()


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


class Plain:
    """Algorithm 2 of the paper, with sorts: (trial, source, until) of the next job. `variant` as in ASHA."""

    def __init__(self, ends, eta, trials, variant):
        self.ends, self.eta, self.trials, self.variant = ends, eta, trials, variant
        self.rungs = [{} for _ in ends]
        self.left = [set() for _ in ends]
        self.started, self.going = 0, []

    def ask(self):
        if self.variant == "stopping" and self.going:
            trial, k = self.going.pop()
            return trial, trial, self.ends[k + 1]
        if self.variant == "promotion":
            for k in reversed(range(len(self.ends) - 1)):
                # Among equals those that went on come first, then the earlier trial.
                told = sorted((v, t not in self.left[k], t) for t, v in self.rungs[k].items())
                for value, waits, trial in told[: len(told) // self.eta]:
                    if waits and np.isfinite(value):
                        self.left[k].add(trial)
                        return trial, trial, self.ends[k + 1]
        if self.started == self.trials:
            return NONE, NONE, 0
        self.started += 1
        return self.started - 1, NONE, self.ends[0]

    def tell(self, trial, until, loss):
        k, loss = self.ends.index(until), loss if np.isfinite(loss) else np.inf
        self.rungs[k][trial] = loss
        if k == len(self.ends) - 1 or not np.isfinite(loss):
            return
        told = sorted(self.rungs[k].values())
        if loss <= told[max(len(told) // self.eta, 1) - 1]:
            self.going.append((trial, k))


def events(strategy, loss, workers, epochs, plain=None, seed=0, programs=None):
    """Runs until the epochs are spent, jobs told in shuffled order; each must be `plain`'s. Returns what was
    told: (trial, until, loss, whether the trial was resumed by the next ask)."""
    init, ask, tell = programs or compiled(strategy)
    rng, state = np.random.default_rng(seed), init(jax.random.key(seed))
    running, told, reached = [], [], {}
    while True:
        while len(running) < workers:
            job, state = ask(jax.random.key(0), state)
            mine = int(job.trial), int(job.source), int(job.until)
            if plain is not None:
                assert mine == plain.ask()
            epochs -= mine[2] - reached.get(mine[1], 0)
            if mine[0] == NONE or epochs < 0:
                break
            if told and workers == 1:
                told[-1] += (mine[1] == told[-1][0],)
            running.append((job, mine))
        if not running:
            return told
        job, (trial, _, until) = running.pop(rng.integers(len(running)))
        reached[trial], value = until, loss(trial, until)
        told.append((trial, until, value))
        if plain is not None:
            plain.tell(trial, until, value)
        state = tell(state, job, Feedback(np.float64(value), 1.0))
        if epochs < 0:
            return told


@pytest.mark.parametrize("variant", ["promotion", "stopping"])
@pytest.mark.parametrize(
    "max_epoch, eta, ends, trials", [(27, 3, [1, 3, 9, 27], None), (9, 2, [1, 2, 4, 9], 70)]
)
def test_jobs_are_those_of_the_pseudocode(variant, max_epoch, eta, ends, trials):
    strategy = ASHA(eta=eta, variant=variant, trials=trials, cube=CUBE, max_epoch=max_epoch, budget=25)
    programs = compiled(strategy)
    for workers in (1, 6):
        for seed in (0, 1):
            plain = Plain(ends, eta, strategy.num_trials, variant)
            loss = losses_of(100 * workers + seed)
            told = events(strategy, loss, workers, 25 * max_epoch, plain, seed, programs)
            assert {until for _, until, _, *_ in told} == set(ends)
            assert len(told) > 100


def test_the_stopping_variant_decides_as_optunas_pruner():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    strategy = ASHA(variant="stopping", cube=CUBE, max_epoch=27, budget=20)
    values = np.random.default_rng(5).normal(size=(600, 28))
    told = events(strategy, lambda t, until: values[t, until], 1, 20 * 27)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study, trials = optuna.create_study(pruner=pruner), {}
    compared = 0
    for trial, until, loss, *resumed in told:
        theirs = trials.setdefault(trial, None) or study.ask()
        trials[trial] = theirs
        theirs.report(loss, until)
        if until < 27 and resumed:
            assert resumed[0] == (not theirs.should_prune())
            compared += 1
    assert compared > 150


def test_the_stopping_variant_against_syne_tunes():
    """Syne Tune lets one more of the rung pass, as floor(n / eta) + 1: ours continue there too, and apart
    from that one the decisions are the same."""
    asha = pytest.importorskip("syne_tune.optimizer.schedulers.asha")
    strategy = ASHA(variant="stopping", cube=CUBE, max_epoch=27, budget=20)
    values = np.random.default_rng(6).normal(size=(600, 28))
    told = events(strategy, lambda t, until: values[t, until], 1, 20 * 27)
    bracket, rungs, differ = asha.Bracket(1, 27, 3, 0), {}, 0
    assert [int(milestone) for milestone, _ in bracket.rungs] == [27, 9, 3, 1]
    for trial, until, loss, *resumed in told:
        theirs = bracket.on_result(str(trial), until, {"loss": loss}) == "CONTINUE"
        rung = rungs.setdefault(until, [])
        rung.append(loss)
        if until < 27 and resumed:
            boundary = sum(v < loss for v in rung) == len(rung) // 3
            assert resumed[0] == theirs or (theirs and boundary)
            differ += resumed[0] != theirs
    assert len(told) > 150 and differ < 0.2 * len(told)


@pytest.mark.slow
def test_the_promoted_set_tends_to_successive_halvings():
    """Of a rung's n trials ASHA promotes the best n / eta, and beside them a share that falls with n."""

    def extra(n):
        strategy = ASHA(trials=n, cube=CUBE, max_epoch=3, budget=n)
        values, share = np.random.default_rng(n).random((10, n)), []
        programs = compiled(strategy)
        for row in values:
            told = events(strategy, lambda t, until, row=row: row[t], 1, 3 * n, programs=programs)
            promoted = {t for t, until, *_ in told if until == 3}
            best = set(np.argsort(row)[: n // 3])
            assert best <= promoted
            share.append(len(promoted - best) / len(best))
        return np.mean(share)

    shares = [extra(n) for n in (30, 120, 360)]
    assert shares[0] > 1.2 * shares[1] > 1.2**2 * shares[2] and shares[2] < 0.15, shares


def test_no_worker_ever_idles():
    cluster = ClusterSettings(workers=9)
    run = simulate(ASHA, Crossing(), seeds=range(16), budget=24, cluster=cluster).trace
    for _, rows in run.groupby(["seed", "worker"]):
        rows = rows.sort_values("started")
        assert rows["started"].iloc[0] == 0
        np.testing.assert_array_equal(rows["started"].to_numpy()[1:], rows["finished"].to_numpy()[:-1])


def unharmed(factory, seeds, straggle, drop):
    """Runs on a bad cluster: none hangs, spends too much, or goes on with what was lost."""
    cluster = ClusterSettings(workers=9, straggle=straggle, drop=drop)
    run = simulate(factory, Probe(), seeds=range(seeds), budget=8, cluster=cluster).trace
    spent = (run["until"] - run["start"]).groupby(run["seed"]).sum()
    assert len(spent) == seeds and (spent <= 8 * 9).all()
    assert (run.groupby("seed").size() > 8).all()
    bad = run[~np.isfinite(run["loss"])].groupby(["seed", "trial"])["finished"].min().rename("gone")
    after = run.join(bad, on=["seed", "trial"])
    resumed = (after["source"] != NONE) & (after["started"] >= after["gone"])
    return run, int(resumed.sum())


BAD = [(s, d) for s in (0.1, 0.33, 1.0) for d in (0.0, 0.01, 0.05)]


@pytest.mark.parametrize("variant", ["promotion", "stopping"])
def test_stragglers_and_losses(variant):
    run, resumed = unharmed(partial(ASHA, variant=variant), 64, 0.33, 0.05)
    assert resumed == 0 and (run["status"] == "given up").mean() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("straggle, drop", BAD)
@pytest.mark.parametrize("variant", ["promotion", "stopping"])
def test_a_thousand_seeds_of_stragglers_and_losses(variant, straggle, drop):
    _, resumed = unharmed(partial(ASHA, variant=variant), 1000, straggle, drop)
    assert resumed == 0


@pytest.mark.slow
@pytest.mark.parametrize("straggle, drop", BAD)
def test_a_thousand_seeds_of_synchronous_halving(straggle, drop):
    unharmed(SuccessiveHalving, 1000, straggle, drop)


@pytest.mark.slow
def test_stragglers_and_losses_hurt_synchronous_halving_more():
    """Trainings completed by a given time (as in the paper's appendix A.1), with and without bad luck."""

    def completed(factory, **bad):
        cluster = ClusterSettings(workers=9, **bad)
        run = simulate(factory, Crossing(), seeds=range(64), budget=30, cluster=cluster).trace
        done = run[(run["until"] == 27) & (run["finished"] <= 60) & (run["status"] == "finished")]
        return len(done)

    kept = [completed(f, straggle=1.0, drop=0.02) / completed(f) for f in (ASHA, SuccessiveHalving)]
    assert kept[0] > 1.2 * kept[1]


def test_hyperbands_rungs_are_those_of_other_libraries():
    asha = pytest.importorskip("syne_tune.optimizer.schedulers.asha")
    table = brackets.brackets(81)
    for s, bracket in enumerate(table):
        theirs = asha.Bracket(1, 81, 3, s)
        if s < 4:  # one of them takes a floating-point logarithm, exact here
            assert [int(milestone) for milestone, _ in reversed(theirs.rungs)] == [r.until for r in bracket]


def test_what_a_budget_means():
    def describe(r, b, **more):
        return ASHA(cube=CUBE, max_epoch=r, budget=b, **more).describe()

    assert describe(81, 40) == (
        "asha: 40 trainings = 3,240 epochs: about 883 configurations (at most 3,240), of which one in 3 is "
        "promoted at epochs 1, 3, 9, 27, up to 81"
    )
    assert describe(9, 4, variant="stopping", trials=7).endswith(
        "about 7 configurations (at most 7), of which one in 3 trains on at epochs 1, 3, up to 9; "
        "the others are stopped for good"
    )
    assert describe(1, 5).endswith("random search of 5 configurations")


def test_one_epoch_is_random_search():
    granted, _ = drive(ASHA(cube=CUBE, max_epoch=1, budget=6), losses_of(1), workers=2)
    assert [(j.trial, j.source, j.until) for j in granted] == [(k, NONE, 1) for k in range(6)]


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"eta": 1}, "eta must be an integer of at least 2, got 1"),
        ({"variant": "both"}, "variant must be promotion or stopping, got 'both'"),
        ({"trials": 0}, "trials must be an integer of at least 1 or null, got 0"),
        ({"min_epoch": 10}, "got 10"),
        ({"budget": 0.05}, "budget must pay for a job of 1 of 9 epochs, got 0.05"),
    ],
)
def test_bad_settings_are_named(bad, says):
    with pytest.raises(ValueError, match=says):
        ASHA(**({"cube": CUBE, "max_epoch": 9, "budget": 3} | bad))


@pytest.mark.parametrize("shares", [(1,), (3, 1), (81, 34, 15, 8, 5), (7, 7, 7)])
def test_brackets_take_turns_by_their_shares(shares):
    order, total = np.array(brackets.turns(shares)), sum(shares)
    assert np.bincount(order).tolist() == list(shares) and order[0] == 0
    for n in range(total + 1):
        have = np.bincount(order[:n], minlength=len(shares))
        assert np.abs(have - n * np.array(shares) / total).max() < 2


class PlainBrackets:
    """A `Plain` for each bracket: the highest promotable rung of all, else the next bracket's new trial."""

    def __init__(self, table, eta, trials, variant, order):
        self.table = [Plain([rung.until for rung in b], eta, 0, variant) for b in table]
        self.order, self.trials, self.started, self.recent = order, trials, 0, []

    def ask(self):
        offers = []
        for s, plain in enumerate(self.table):
            before = [set(left) for left in plain.left]
            offer = plain.ask()
            if offer[0] != NONE:
                offers.append((-offer[2], -plain.ends.index(offer[2]), s, offer))
                plain.left = before
        if offers:
            _, _, s, offer = min(offers)
            assert self.table[s].ask() == offer
            return offer
        if self.started == self.trials:
            return NONE, NONE, 0
        k, self.started = self.started, self.started + 1
        return k, NONE, self.table[self.order[k % len(self.order)]].ends[0]

    def tell(self, trial, until, loss):
        self.table[self.order[trial % len(self.order)]].tell(trial, until, loss)


def test_asynchronous_hyperband_is_an_asha_a_bracket():
    strategy = AsyncHyperband(cube=CUBE, max_epoch=27, budget=40)
    table = brackets.brackets(27)
    order = brackets.turns(tuple(b[0].members for b in table))
    programs = compiled(strategy)
    for workers in (1, 6):
        plain = PlainBrackets(table, 3, strategy.num_trials, "promotion", order)
        told = events(strategy, losses_of(workers), workers, 40 * 27, plain, programs=programs)
        begun = {trial for trial, *_ in told}
        assert len(begun) > 80 and {order[t % len(order)] for t in begun} == {0, 1, 2, 3}


@pytest.mark.parametrize("variant", ["promotion", "stopping"])
def test_asynchronous_hyperband_on_a_bad_cluster(variant):
    run, resumed = unharmed(partial(AsyncHyperband, variant=variant), 64, 0.33, 0.05)
    assert resumed == 0 and (run["status"] == "given up").mean() > 0.02


def test_what_a_budget_means_to_asynchronous_hyperband():
    assert AsyncHyperband(cube=CUBE, max_epoch=81, budget=40).describe() == (
        "async_hyperband: 40 trainings = 3,240 epochs: at most 497 configurations in five brackets, "
        "81 : 34 : 15 : 8 : 5, which begin at epochs 1, 3, 9, 27, 81; one in 3 goes on from each rung"
    )
