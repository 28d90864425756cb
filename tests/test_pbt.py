"""PBT: its lineage against an independent truncation selection, and the law of each axis's exploring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.protocols import NONE, Feedback, Job
from bench.space import Choice, Float, Int, Space
from strategies.pbt import PBT, explore
from strategies.pbt_async import AsynchronousPBT

SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True, change=True),
        "dropout": Float(0.0, 0.8, change=True),
        "offset": Float(-2.0, 2.0, change=True),
        "batch": Int(1, 64, log=True, change=True),
        "steps": Int(0, 9, change=True),
        "size": Choice(("s", "m", "l", "xl"), ordered=True, change=True),
        "schedule": Choice(("cosine", "linear", "none"), change=True),
        "layers": Int(1, 4),
        "width": Float(8.0, 64.0, log=True),
    }
)
CUBE = SPACE.cube()
FIXED = np.array([7, 8])


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def loss_of(seed, diverge=0.2):
    """loss(trial, until), with ties and losses that are not finite."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=5000), 1)
    values[rng.random(5000) < diverge] = np.nan
    values[rng.random(5000) < diverge / 4] = -np.inf
    return lambda trial, until: values[(37 * trial + 911 * until) % 5000]


def compiled(strategy):
    return jax.jit(strategy.init), jax.jit(strategy.ask), jax.jit(strategy.tell)


def drive(strategy, loss, workers=1, seed=0, programs=None, design=None, seen=None):
    """A small event loop with checkpoints, committed when a job is told; checks the contract on the way.

    A checkpoint is (epoch, its whole history). `loss` is a function of (trial, until), or of a history where
    a `design` f32[trials, d] to begin with is given. Returns granted jobs, final checkpoints, final state;
    appends to the list `seen` what was known when each job was asked: trial -> (epoch, loss, x, running)."""
    init, ask, tell = programs or compiled(strategy)
    rng = np.random.default_rng(seed + 100)
    state, running, granted, table, known = init(jax.random.key(seed)), [], [], {}, {}
    spent, most = 0, int(strategy.budget * strategy.max_epoch + 1e-9)
    if design is not None:
        state = state._replace(x=jnp.asarray(design, jnp.float32))
    while True:
        waits = False
        while len(running) < workers and not waits:
            job, after = ask(jax.random.fold_in(jax.random.key(seed + 1), len(granted)), state)
            job = Job(int(job.trial), int(job.source), np.asarray(job.x), int(job.until))
            waits = job.trial == NONE
            if waits:
                assert all(np.array_equal(a, b) for a, b in zip(state, after, strict=True))
            else:
                assert 0 <= job.trial < strategy.num_trials
                assert job.trial not in [other.trial for other, _ in running]
                epoch, history = (0, ()) if job.source == NONE else table[job.source]
                assert job.until > epoch
                spent += job.until - epoch
                if spent > most:
                    break
                busy = {other.trial for other, _ in running}
                if seen is not None:
                    seen.append({trial: (*k, trial in busy) for trial, k in known.items()})
                granted.append(job)
                running.append((job, (job.until, (*history, (job.until, tuple(job.x.tolist()))))))
            state = after
        if not running:
            return granted, table, state
        job, checkpoint = running.pop(rng.integers(len(running)))
        table[job.trial] = checkpoint
        value = np.float64(loss(job.trial, job.until) if design is None else loss(checkpoint[1]))
        known[job.trial] = (job.until, value if np.isfinite(value) else np.inf, job.x)
        done = Job(np.int32(job.trial), np.int32(job.source), job.x, np.int32(job.until))
        state = tell(state, done, Feedback(value, 1.0))


@pytest.mark.parametrize("population, budget, intervals, max_epoch", [(None, 16, 20, 27), (5, 12, 4, 9)])
def test_the_same_trials_with_any_number_of_workers(population, budget, intervals, max_epoch):
    strategy = PBT(population=population, intervals=intervals, cube=CUBE, max_epoch=max_epoch, budget=budget)
    programs = compiled(strategy)
    one, table, _ = drive(strategy, loss_of(1), programs=programs)
    for workers in (3, 16):
        many, other, _ = drive(strategy, loss_of(1), workers, programs=programs)
        assert other == table
        for a, b in zip(one, many, strict=True):
            assert (a.trial, a.source, a.until) == (b.trial, b.source, b.until) and np.array_equal(a.x, b.x)
    # a slice costs only its own epochs, copied or not, so the whole budget is spent
    ends = [i * max_epoch // min(intervals, max_epoch) for i in range(intervals + 1)]
    spent = sum(job.until - max(e for e in ends if e < job.until) for job in one)
    assert budget * max_epoch - max_epoch < spent <= budget * max_epoch


@pytest.mark.parametrize("members, fraction, copies", [(2, 0.2, 1), (4, 0.2, 1), (10, 0.2, 2), (10, 0.5, 5)])
def test_a_round_is_truncation_selection(members, fraction, copies):
    strategy = PBT(fraction=fraction, intervals=6, cube=CUBE, max_epoch=12, budget=members)
    loss = loss_of(members)
    granted, _, _ = drive(strategy, loss, workers=3)
    rounds = [granted[i : i + members] for i in range(0, len(granted), members)]
    assert len(rounds) == 6
    x = {job.trial: job.x for job in rounds[0]}
    assert [(j.trial, j.source) for j in rounds[0]] == [(m, NONE) for m in range(members)]
    for i, jobs in enumerate(rounds[1:], 1):
        assert {job.until for job in jobs} == {2 * (i + 1)}
        scores = [loss(m, 2 * i) for m in range(members)]
        ranked = sorted(range(members), key=lambda m: (scores[m] if np.isfinite(scores[m]) else np.inf, m))
        best = [m for m in ranked[:copies] if np.isfinite(scores[m])] or ranked[:1]
        assert [job.trial for job in jobs[:copies]] == ranked[::-1][:copies]  # copies come first, worst first
        assert [job.trial for job in jobs[copies:]] == ranked[: members - copies]
        for job in jobs[:copies]:
            assert job.source in best
            assert np.array_equal(job.x[FIXED], x[job.source][FIXED])  # rule 9
            assert np.all((job.x >= 0) & (job.x <= 1)) and np.all(job.x[len(SPACE.axes) :] == 0.5)
        for job in jobs[copies:]:
            assert job.source == job.trial and np.array_equal(job.x, x[job.trial])
        x |= {job.trial: job.x for job in jobs}


@pytest.mark.parametrize("members, workers", [(2, 1), (7, 3)])
def test_a_tournament_copies_a_random_other_that_is_better(members, workers):
    settings = {"selection": "tournament", "intervals": 40, "cube": CUBE, "max_epoch": 40, "budget": members}
    loss, opponents = loss_of(members), []
    granted, _, _ = drive(PBT(**settings), loss, workers)
    assert len(granted) == 40 * members
    for i in range(1, 40):
        now = granted[i * members : (i + 1) * members]
        before = {j.trial: j for j in granted[(i - 1) * members : i * members]}
        score = [loss(m, i) if np.isfinite(loss(m, i)) else np.inf for m in range(members)]
        assert [score[j.trial] for j in now] == sorted(score, reverse=True)  # the worst first
        for job in now:
            if job.source != job.trial:
                assert score[job.source] < score[job.trial]
                assert np.array_equal(job.x[FIXED], before[job.source].x[FIXED])
            else:
                assert np.array_equal(job.x, before[job.trial].x)
            better = [m for m in range(members) if score[m] < score[job.trial]]
            opponents.append((len(better) / (members - 1), job.source != job.trial))
    # A member with b better ones of m - 1 others copies with probability b / (m - 1): within 4 sigma.
    chance, copied = np.array(opponents).T
    assert abs(np.sum(copied - chance)) < 4 * np.sqrt(np.sum(chance * (1 - chance))) + 1e-9
    assert copied.sum() > 10


TOY = Space({"h0": Float(0.0, 1.0, change=True), "h1": Float(0.0, 1.0, change=True)}).cube()


@pytest.mark.parametrize(
    "settings, low, high",
    [
        ({"exploit": False}, 0.389748, 0.389750),
        # Weights alone: the members train both parameters in turn, exploring or not.
        ({"explore": False, "copy_hyperparameters": False}, 1.15, 1.2),
        ({"resample_probability": 0.0, "copy_hyperparameters": False}, 1.05, 1.2),
        # The trap: with h copied as well, a lineage trains one parameter for ever; times a factor, 0 stays 0.
        ({"explore": False}, 0.389748, 0.389750),
        ({"resample_probability": 0.0}, 0.3, 0.389750),
        # Resampling is the way out.
        ({}, 0.6, 1.2),
    ],
)
@pytest.mark.parametrize("kind", ["truncation", pytest.param("tournament", marks=pytest.mark.slow)])
def test_what_is_copied_decides_the_toy_of_the_paper(settings, low, high, kind):
    """Jaderberg et al. 2017, figure 2: Q = 1.2 - |theta|^2, theta_i' = theta_i (1 - .02 h_i), 200 steps."""

    def loss(history):
        ends = [0, *[until for until, _ in history]]
        h = np.array([x for _, x in history])[:, :2]
        theta = 0.9 * np.prod((1 - 0.02 * h) ** (10 * np.diff(ends))[:, None], axis=0)
        # Truncation breaks the tie that the symmetric start is; a tournament copies none that is as good.
        return np.sum(theta**2 * (1.0, 1.0 + 1e-9 * (kind == "tournament")))

    design = np.full((2, TOY.width), 0.5)
    design[:, :2] = np.eye(2)
    strategy = PBT(selection=kind, cube=TOY, max_epoch=20, budget=2, **settings)
    _, table, _ = drive(strategy, loss, design=design)
    assert low < 1.2 - min(loss(history) for _, history in table.values()) < high


@pytest.mark.parametrize("selection", ["truncation", "tournament"])
@pytest.mark.parametrize("population, budget, workers", [(None, 10, 1), (None, 10, 4), (4, 10, 6)])
def test_an_asynchronous_member_compares_itself_with_the_latest_losses(
    selection, population, budget, workers
):
    strategy = AsynchronousPBT(
        population, intervals=9, selection=selection, fraction=0.3, cube=CUBE, max_epoch=28, budget=budget
    )
    seen, members, ends = [], strategy.members, [(i + 1) * 28 // 9 for i in range(9)]
    granted, _, _ = drive(strategy, loss_of(5), workers, seen=seen)
    design, asked = np.asarray(CUBE.start(jax.random.key(0), strategy.num_trials)), {}
    copies, jumps = 0, 0
    for job, known in zip(granted, seen, strict=True):
        # whose turn it is: of the first population with an idle member the one asked least often
        idle = [
            t
            for t in range(strategy.num_trials)
            if (t not in asked) or (t in known and not known[t][3] and known[t][0] < 28)
        ]
        idle = [t for t in idle if t // members == idle[0] // members]
        assert job.trial == min(idle, key=lambda t: (asked.get(t, 0), t))
        asked[job.trial] = asked.get(job.trial, 0) + 1
        if job.trial not in known:
            assert job.source == NONE and np.array_equal(job.x, design[job.trial]) and job.until == ends[0]
            continue
        epoch, _, x, _ = known[job.source]
        assert job.until == min(e for e in ends if e > epoch)  # the next interval of the weights' own count
        pool = [t for t in known if t // members == job.trial // members and known[t][0] < 28]
        ranked = sorted(pool, key=lambda t: (known[t][1], t))
        most = max(1, int(0.3 * len(pool) + 1e-6))
        if job.source != job.trial:
            copies += 1
            jumps += known[job.source][0] != known[job.trial][0]
            assert job.source in pool and known[job.source][1] < known[job.trial][1]
            assert np.array_equal(job.x[FIXED], x[FIXED])
            if selection == "truncation":
                assert job.source in ranked[:most] and job.trial in ranked[len(pool) - most :]
        else:
            assert np.array_equal(job.x, x)
            if selection == "truncation" and len(pool) > 1 and job.trial in ranked[len(pool) - most :]:
                # None that it might have drawn is better (or the one that it drew is as bad: only ties).
                assert any(known[t][1] >= known[job.trial][1] for t in ranked[:most])
    assert copies > 5 and (jumps > 0 or workers == 1)
    spent = sum(
        job.until - (0 if job.source == NONE else known[job.source][0])
        for job, known in zip(granted, seen, strict=True)
    )
    assert 0.5 * budget * 28 < spent <= budget * 28


def test_sources_are_drawn_evenly_from_the_best():
    strategy = PBT(fraction=0.5, intervals=5, cube=CUBE, max_epoch=5, budget=80)
    granted, _, _ = drive(strategy, lambda trial, until: float(trial))
    sources = [job.source for job in granted if job.source not in (NONE, job.trial)]
    assert len(sources) == 160 and max(sources) < 40
    # tens of them: chi-squared on 3 degrees of freedom, mean 3, sd 2.45; bound at 4 sigma
    assert np.sum((np.bincount(np.array(sources) // 10, minlength=4) - 40) ** 2 / 40) < 12.8


@pytest.mark.parametrize("explore", [False, True])
def test_exploit_copies_the_configuration_and_explore_moves_it(explore):
    strategy = PBT(explore=explore, intervals=4, cube=CUBE, max_epoch=8, budget=6)
    granted, _, _ = drive(strategy, loss_of(2))
    x = {}
    for job in granted:
        if job.source not in (NONE, job.trial):
            assert np.array_equal(job.x, x[job.source]) != explore
        x[job.trial] = job.x


@pytest.mark.parametrize("settings", [{"exploit": False}, {"budget": 1}])
def test_without_exploit_every_member_trains_through(settings):
    strategy = PBT(**({"intervals": 3, "cube": CUBE, "max_epoch": 9, "budget": 4} | settings))
    granted, table, _ = drive(strategy, loss_of(3), workers=2)
    design = np.asarray(CUBE.start(jax.random.key(0), strategy.num_trials))
    for trial, (epoch, history) in table.items():
        assert epoch == 9 and history == tuple((e, tuple(design[trial].tolist())) for e in (3, 6, 9))
    assert all(job.source in (NONE, job.trial) for job in granted)


def explored(config, n=4000, **settings):
    """n explored children of one configuration, decoded; their x too."""
    s = PBT(cube=CUBE, max_epoch=9, budget=4, **settings)
    x = jnp.asarray(SPACE.encode(config))
    u = jax.random.uniform(jax.random.key(5), (n, CUBE.width), jnp.float32)
    children = jax.vmap(lambda row: explore(CUBE, s.factors, s.resample_probability, row, x))
    children = jax.jit(children)(u)
    assert children.dtype == jnp.float32
    values = {name: np.asarray(v) for name, v in jax.vmap(SPACE.decode_array)(children).items()}
    return values, np.asarray(children), x


MIDDLE = {"rate": 1e-2, "dropout": 0.5, "offset": -1.0, "batch": 32, "steps": 2, "size": "m", "layers": 3}


def test_each_axis_moves_by_its_own_law():
    value, children, x = explored(MIDDLE, resample_probability=0.0)
    assert np.allclose(np.unique(np.round(value["rate"], 6)), [0.008, 0.012])
    assert np.allclose(np.unique(np.round(value["dropout"], 4)), [0.4, 0.6])
    assert np.allclose(np.unique(np.round(value["offset"], 4)), [-1.2, -0.8])
    assert set(value["batch"]) == {26, 38}  # 25.6 and 38.4
    assert set(value["steps"]) == {1, 3}  # 1.6 and 2.4 both round to 2: one step at least
    assert set(value["size"]) == {0, 2}
    assert set(value["schedule"]) == {0, 1, 2}
    assert np.all(children[:, FIXED] == np.asarray(x)[FIXED])
    # even odds: 4,000 draws, sd 31.6; 4 sigma
    assert abs(np.sum(value["rate"] > 0.01) - 2000) < 127
    # unordered: each of three, sd 29.8; 4 sigma
    assert np.all(np.abs(np.bincount(value["schedule"]) - 4000 / 3) < 120)


def test_ends_hold_and_zero_is_a_trap():
    low = {"rate": 1e-4, "dropout": 0.0, "offset": -2.0, "batch": 1, "steps": 0, "size": "s"}
    value, children, _ = explored(low, resample_probability=0.0)
    assert np.all(value["dropout"] == 0.0)  # multiplied from 0
    assert set(value["steps"]) == {0, 1} and set(value["size"]) == {0, 1} and set(value["batch"]) == {1, 2}
    assert value["rate"].min() >= np.float32(1e-4) and value["offset"].min() >= -2.0
    assert children.min() >= 0 and children.max() <= 1
    high = {"rate": 1.0, "dropout": 0.8, "offset": 2.0, "batch": 64, "steps": 9, "size": "xl"}
    value, children, _ = explored(high, resample_probability=0.0)
    assert set(value["batch"]) == {51, 64} and set(value["steps"]) == {7, 9} and set(value["size"]) == {2, 3}
    assert children.min() >= 0 and children.max() <= 1


def test_resampling_is_uniform_and_as_often_as_said():
    _, children, x = explored(MIDDLE, n=8000, resample_probability=0.25)
    rate = children[:, 0]
    shift = np.log(np.array([0.8, 1.2])) / np.log(1e4)
    kept = np.min(np.abs(rate[:, None] - (float(x[0]) + shift)), axis=1) < 1e-5
    drawn = np.sort(rate[~kept])
    assert abs(len(drawn) - 2000) < 4 * np.sqrt(8000 * 0.25 * 0.75)  # 4 sigma
    # Kolmogorov-Smirnov: P(D > 2.2 / sqrt(n)) = 1.3e-4
    assert np.abs(drawn - (np.arange(len(drawn)) + 0.5) / len(drawn)).max() < 2.2 / np.sqrt(len(drawn))
    _, all_new, _ = explored(MIDDLE, resample_probability=1.0)
    assert abs(all_new[:, 0].mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)


def test_the_end_waits_and_a_tell_of_none_changes_nothing():
    strategy = PBT(intervals=3, cube=CUBE, max_epoch=9, budget=4)
    init, ask, tell = programs = compiled(strategy)
    _, _, state = drive(strategy, loss_of(2), programs=programs)
    job, after = ask(jax.random.key(9), state)
    assert int(job.trial) == NONE and int(job.source) == NONE and int(job.until) == 0
    told = tell(state, job, Feedback(np.float64(-5.0), np.float64(1.0)))
    fresh = init(jax.random.key(0))
    told_first = tell(fresh, job, Feedback(np.float64(-5.0), np.float64(1.0)))
    for a, b in [(state, after), (state, told), (fresh, told_first)]:
        for left, right in zip(a, b, strict=True):
            assert left.dtype == right.dtype and np.array_equal(left, right)


def test_a_smaller_population_starts_again():
    strategy = PBT(population=4, intervals=3, cube=CUBE, max_epoch=9, budget=10)
    granted, table, _ = drive(strategy, loss_of(4), workers=4)
    assert strategy.num_trials == 12 and strategy.anytime
    assert [job.trial for job in granted if job.source == NONE] == list(range(12))
    ends = [table[t][0] for t in range(12)]
    # 90 epochs: two populations whole, four members to epoch 3, of which two go on to 6
    assert ends[:8] == [9] * 8 and sorted(ends[8:]) == [3, 3, 6, 6]
    assert not PBT(cube=CUBE, max_epoch=9, budget=10).anytime
    assert PBT(cube=CUBE, max_epoch=9, budget=10.9).num_trials == 10


def test_needs_and_description():
    def make(**more):
        return PBT(**({"cube": CUBE, "max_epoch": 81, "budget": 16} | more))

    assert make().needs == {"stop", "resume", "copy", "change"}
    assert make(explore=False).needs == {"stop", "resume", "copy"}
    assert make(exploit=False).needs == {"stop", "resume"}
    assert make().describe() == (
        "pbt: 16 trainings = 1,296 epochs: 1 population of 16; 20 rounds of 4 or 5 epochs, "
        "between them the worst 3 copy among the best 3"
    )
    assert make(copy_hyperparameters=False, explore=False).needs == {"stop", "resume", "copy", "change"}
    assert make(selection="tournament").describe().endswith("each copies a random other one that is better")
    settings = {"cube": CUBE, "max_epoch": 81, "budget": 16}
    assert AsynchronousPBT(5, **settings).describe() == (
        "pbt_async: 16 trainings = 1,296 epochs at most: 4 populations of 5, each member ready every "
        "4 or 5 epochs until its weights have 81"
    )
    assert make(population=5, exploit=False).describe() == (
        "population: 16 trainings = 1,296 epochs: 3 populations of 5, then part of another; "
        "20 rounds of 4 or 5 epochs, without copies"
    )


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"budget": 0.5}, "budget must be at least 1 training for a population, got 0.5"),
        ({"population": 5}, "population must be at most the budget, 4 trainings, got 5"),
        ({"population": 0}, "population must be an integer of at least 1, got 0"),
        ({"intervals": 0}, "intervals must be an integer of at least 1, got 0"),
        ({"selection": "best"}, "selection must be one of truncation, tournament, got 'best'"),
        ({"fraction": 0.6}, "got 0.6"),
        ({"factors": (1.2, 0.8)}, "factors must be one below and one above 1"),
        ({"resample_probability": 1.5}, "got 1.5"),
    ],
)
@pytest.mark.parametrize("kind", [PBT, AsynchronousPBT])
def test_bad_settings_are_named(kind, bad, says):
    with pytest.raises(ValueError, match=says):
        kind(**({"cube": CUBE, "max_epoch": 9, "budget": 4} | bad))
