"""Claims: verdicts follow from effects and effects from data, and both turn round when the data do."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench.metrics import runs_of, score, targets
from bench.protocols import LEVELS
from nearopt import catalogue
from nearopt.catalogue import UserError
from nearopt.claims import claim as claims
from nearopt.claims import measures
from nearopt.claims.measures import MEASURES, Missing, Sample, over_seeds
from nearopt.claims.page import table
from nearopt.claims.verdict import COLUMNS, FAILS, HOLDS, OPEN, REFUTED, SUPPORTED, Rule, judge, together
from nearopt.commands import report, run

ROOT = Path(__file__).parent.parent


# Verdicts -----------------------------------------------------------------------------------------------


def rows(effects, kind="real", half=0.01):
    made = [
        ("c", "p", family, f"{family}{i}", kind, value, value - half, value + half, 8, "", "")
        for family, values in effects.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(made, columns=pd.Index(COLUMNS))


NEAR = {"a": [0.2, 0.22], "b": [0.21], "c": [0.19], "d": [0.2]}


def turned(effects, by):
    return {f: [by(v) for v in values] for f, values in effects.items()}


def test_a_verdict_turns_round_with_the_effects():
    rule = Rule("above", 0.0, 0.1)
    assert judge("p", rule, rows(NEAR)).verdict == SUPPORTED
    assert judge("p", rule, rows(turned(NEAR, lambda v: -v))).verdict == REFUTED
    assert judge("p", rule, rows(turned(NEAR, lambda v: v / 4))).verdict == REFUTED  # too small to count
    apart = {"a": [0.5], "b": [-0.4], "c": [0.3]}
    assert judge("p", rule, rows(apart)).verdict == OPEN
    below = Rule("below", 0.0, 0.1)
    assert judge("p", below, rows(NEAR)).verdict == REFUTED
    assert judge("p", below, rows(turned(NEAR, lambda v: -v))).verdict == SUPPORTED


def test_the_interval_is_students_over_families_not_over_objectives():
    found = judge("p", Rule("above", 0.0, 0.0), rows({"a": [1.0, 3.0], "b": [4.0], "c": [3.0]}))
    assert found.effect == pytest.approx(3.0) and found.families == 3 and found.rows == 4
    # The means of families are 2, 4, 3: their standard error is 1 / sqrt 3; drawing within a widens it.
    assert found.high - 3.0 >= 4.3027 / np.sqrt(3) * 0.97
    many = rows({"a": [1.0 + 0.001 * i for i in range(50)], "b": [1.1], "c": [-1.0]})
    assert judge("p", Rule("above", 0.0, 0.0), many).verdict == OPEN


@pytest.mark.parametrize("families", [1, 2])
def test_few_families_are_inconclusive_whatever_their_effects(families):
    few = {f: NEAR[f] for f in list(NEAR)[:families]}
    found = judge("p", Rule("above", 0.0, 0.1), rows(few))
    assert found.verdict == OPEN and "no interval over families" in found.reason and found.effect > 0.1


def test_surrogates_do_not_judge_the_world_but_say_where_it_holds():
    rule = Rule("above", 0.0, 0.1)
    both = pd.concat([rows(NEAR), rows({"s": [-9.0], "t": [-9.0], "u": [-9.0]}, "surrogate")])
    assert judge("p", rule, both).verdict == SUPPORTED
    alone = judge("p", rule, rows(NEAR, "surrogate"))
    assert alone.verdict == OPEN and "surrogates only" in alone.reason
    assert judge("p", rule, rows(NEAR, "published")).verdict == SUPPORTED
    assert [rule.beyond(*v) for v in ((0.2, 0.3), (-0.3, 0.1), (0, 0.2), (np.nan, 1))] == [
        HOLDS, FAILS, "open", "open"
    ]  # fmt: skip


def test_ratios_are_judged_on_a_log_scale():
    rule = Rule("below", 1.0, 1.1, "log")
    assert rule.limit == pytest.approx(1 / 1.1)
    half = {"a": [0.5], "b": [0.45], "c": [0.55], "d": [0.5]}
    found = judge("p", rule, rows(half))
    assert found.verdict == SUPPORTED
    assert found.effect == pytest.approx(np.exp(np.mean(np.log([0.5, 0.45, 0.55, 0.5]))))
    assert judge("p", rule, rows(turned(half, lambda v: 1 / v))).verdict == REFUTED
    assert judge("p", rule, rows(half | {"e": [np.inf]})).verdict == OPEN


def test_a_claim_needs_all_its_parts_and_falls_with_one_at_a_corrected_level():
    up, down = rows(NEAR), rows(turned(NEAR, lambda v: -v))
    rule = Rule("above", 0.0, 0.1)
    supported, refuted = judge("p", rule, up, 2), judge("p", rule, down, 2)
    open_ = judge("p", rule, rows({"a": [0.1]}), 2)
    assert together([supported, supported]) == SUPPORTED
    assert together([supported, open_]) == OPEN
    assert together([supported, open_, refuted]) == REFUTED
    barely = rows({"a": [0.0], "b": [-0.22], "c": [-0.12], "d": [-0.05]})
    level = judge("p", Rule("above", 0.08, 0.0), barely, 1), judge("p", Rule("above", 0.08, 0.0), barely, 9)
    assert [found.verdict for found in level] == [REFUTED, OPEN]


def test_a_published_setting_is_judged_row_by_row():
    rule = Rule("above", 0.0, 0.1, scope="setting")
    assert judge("p", rule, rows({"s": [0.2, 0.3]}, "surrogate")).verdict == SUPPORTED
    assert judge("p", rule, rows({"s": [0.2, 0.105]}, "surrogate")).verdict == OPEN
    found = judge("p", rule, rows({"s": [0.2, -0.2]}, "surrogate"))
    assert (found.verdict, found.effect) == (REFUTED, -0.2)
    assert judge("p", rule, rows({})).verdict == OPEN


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("over", 0.0, 0.0), "side must be above or below"),
        (("above", 0.0, -0.1), "margin must be a number of at least 0"),
        (("above", 1.0, 0.5, "log"), "margin must be a number of at least 1"),
        (("above", 0.0, 1.0, "log"), "threshold must be above 0"),
        (("above", "0", 0.0), "threshold must be a number"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Rule(*settings)


# Measures of random configurations --------------------------------------------------------------------------

RNG = np.random.default_rng(0)
N = 64
X = RNG.random((N, 4))
ROLES = ("rate", "batch", "regularisation", "architecture")


def sample(ends, early=None, told=None, roles=ROLES, alike=True, optimum=None):
    """Two or more seeds of ends f64[seeds, n]; told the same, and early ones like the end, unless given."""
    true = np.stack([np.full_like(ends, 9.0) if early is None else early, ends, ends], -1)
    told_ends = ends if told is None else told
    told_early = told_ends if early is None else early
    told = np.stack([told_early, told_ends, told_ends], -1)
    known = np.full(len(ends), np.nan) if optimum is None else np.full(len(ends), optimum)
    return Sample(("a", "b", "c", "d"), roles, X, told, true, None, alike, known)


def of(*weights):
    """Losses in two seeds, additive in the axes with such weights."""
    return np.stack([X @ np.array(weights) + 0.01 * RNG.normal(size=N) for _ in range(2)])


NOISE = RNG.normal(size=(3, N))
FLAT = np.tile(np.linspace(1.0, 2.0, N), (3, 1))
PEAK = np.where(np.arange(N) == 5, 0.0, 1.0 + np.linspace(0, 1, N))[None].repeat(3, 0)
PAIR = np.abs(X[:, 0] - X[:, 1])[None].repeat(2, 0)

TURNS = [  # measure, settings, a sample with a high value, one with a low value
    ("role_lead", {"role": "rate"}, sample(of(5, 1, 1, 1)), sample(of(1, 1, 1, 5))),
    ("role_lead", {"role": "rate", "space": "best"}, sample(of(9, 0, 0, 1)), sample(of(0, 0, 0, 9))),
    ("role_share", {"role": "batch"}, sample(of(0, 5, 0, 1)), sample(of(5, 0, 0, 1))),
    ("role_growth", {"role": "architecture"}, sample(of(0, 0, 0, 1), of(1, 0, 0, 0)),
     sample(of(1, 0, 0, 0), of(0, 0, 0, 1))),
    ("guide_order", {}, sample(of(8, 4, 2, 1)), sample(of(1, 2, 4, 8))),
    ("axes_that_matter", {}, sample(of(1, 1, 1, 1)), sample(of(1, 0, 0, 0))),
    ("interaction", {}, sample(PAIR), sample(of(1, 1, 0, 0))),
    ("shortfall", {"trials": 20}, sample(PEAK), sample(FLAT)),
    ("shortfall", {"trials": 20, "of": "metric"}, sample(PEAK, optimum=0.5), sample(FLAT, optimum=1.0)),
    ("winner_kept", {"runs": 30}, sample(FLAT, FLAT), sample(FLAT, -FLAT)),
    ("winner_lost", {"runs": 30}, sample(FLAT, -FLAT), sample(FLAT, FLAT)),
    ("early_ranks", {}, sample(FLAT, FLAT), sample(FLAT, -FLAT)),
    ("optimism", {"trials": 30}, sample(9 * FLAT + NOISE), sample(9 * FLAT)),
    ("overtuning_grows", {"few": 5, "many": 60}, sample(FLAT, told=FLAT + 3 * np.abs(NOISE) - 2 * FLAT**2),
     sample(FLAT)),
    ("not_overtuned", {"trials": 30}, sample(FLAT), sample(FLAT, told=NOISE)),
    ("first_below", {"loss": 1.5}, sample(FLAT), sample(FLAT, FLAT)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "high", "low"), TURNS, ids=[t[0] for t in TURNS])
def test_a_measure_of_configurations_turns_round_with_them(name, settings, high, low):
    function = MEASURES[name].function
    a, b = function(high, **settings), function(low, **settings)
    assert len(a) == len(high.told) and a.min() > b.max() + 0.02


def test_every_measure_of_configurations_is_turned_round():
    assert {t[0] for t in TURNS} == {n for n, m in MEASURES.items() if m.looks == "sample"}


def test_the_best_of_repetitions_is_chosen_in_the_others():
    lucky = np.array([[1.0, 5.0, 5.0], [5.0, 1.0, 4.0], [3.0, 3.0, 2.0]])
    made = Sample(
        ("a",), ("rate",), X[:3, :1], lucky[..., None], lucky[..., None], None, True, np.full(3, np.nan)
    )
    # Means of the other two: (4, 2, 3), (2, 4, 3.5), (3, 3, 4.5).
    np.testing.assert_allclose(made.best(made.true), [5.0, 5.0, 3.0])


def test_a_recording_is_read_by_the_names_of_its_axes(tmp_path):
    """A card may list axes in another order than the recorded design had them."""
    import json

    from nearopt import Choice, Float, Int, Space
    from nearopt.claims.sources import read_recording
    from nearopt.recording import axes_of

    space = Space(
        {
            "kind": Choice(("a", "b"), role="schedule"),
            "rate": Float(1e-3, 1.0, log=True, role="rate"),
            "size": Choice((16, 32, 64), ordered=True, role="batch"),
            "depth": Int(1, 4, role="architecture"),
        }
    )
    x = np.random.default_rng(3).random((9, 4))
    values = {f"hp_{k}": v for k, v in space.decode_many(x).items()}
    values["hp_rate"] = values["hp_rate"].astype(np.float32)
    lists = {name: list(np.tile(x[:, 1:2], (2, 3))) for name in ("loss", "true_loss")}
    rows = {k: np.tile(v, 2) for k, v in values.items()} | lists
    rows |= {"configuration": np.tile(np.arange(9), 2), "seed": np.repeat([0, 1], 9)}
    table = pd.DataFrame(rows)
    table[table.index != 12].to_parquet(tmp_path / "curves.parquet")  # one that a seed lacks is left out
    card = {"axes": dict(reversed(axes_of(space).items()))}
    (tmp_path / "recording.json").write_text(json.dumps(card))
    found = read_recording(tmp_path, True)
    assert found.names == ("depth", "size", "rate", "kind")
    assert found.roles == ("architecture", "batch", "rate", "schedule")
    kept = np.delete(x, 3, axis=0)
    assert found.told.shape == (2, 8, 3) and found.error is None
    np.testing.assert_allclose(found.x[:, 2], kept[:, 1], atol=1e-6)
    np.testing.assert_allclose(found.true[1, :, -1], kept[:, 1])
    again = space.decode_many(found.x[:, ::-1])
    for name, value in space.decode_many(kept).items():
        if name != "rate":
            assert (again[name] == value).all()


def test_what_cannot_be_measured_says_why():
    for call, words in [
        (lambda: measures.role_lead(sample(FLAT, roles=("batch",) * 4)), "no axis of the role rate"),
        (lambda: measures.guide_order(sample(FLAT, roles=("rate", "batch", "other", "other"))), "no order"),
        (lambda: measures.shortfall(sample(FLAT), trials=500), "fewer than 500 trials"),
        (lambda: measures.optimism(sample(FLAT, alike=False)), "no second test"),
        (lambda: measures.first_below(sample(FLAT), loss=0.5), "no configuration reaches"),
        (lambda: measures.epoch_at(0.2, 1), "no curve"),
    ]:
        with pytest.raises(Missing, match=words):
            call()


# Measures of runs -------------------------------------------------------------------------------------------


class Made:
    """Runs of labels: true losses f64[runs, jobs] a label, told alike, a training each; a second a job."""

    max_epoch, rate = 1, "hp_rate"

    def __init__(self, pace=1.0, rates=None, **losses):
        self.losses = {k: np.asarray(v, float) for k, v in losses.items()}
        self.pace, self.rates = pace, rates
        quantiles = {f"q_{i}": [1.0 if p >= 0.5 else p] for i, p in enumerate(LEVELS)}
        reference = pd.DataFrame({"instance": [1000], "optimum_static": [0.0], "optimum_dynamic": [np.nan]})
        self.goals = targets(reference.assign(**quantiles), "linear")

    def trace(self, label, budget):
        value = self.losses[label][:, : int(budget)]
        n, jobs = value.shape
        pace = self.pace if label == "many" else 1.0
        job = np.tile(np.arange(jobs), n)
        made = {
            "seed": np.repeat(np.arange(n), jobs), "instance": 1000, "job": job, "start": 0, "until": 1,
            "loss": value.ravel(), "true_loss": value.ravel(), "recommended_true_loss": np.nan, "worker": 0,
            "started": job / pace, "finished": (job + 1) / pace, "status": "finished",
        }  # fmt: skip
        if self.rates is not None:
            made["hp_rate"] = np.tile(np.asarray(self.rates)[:jobs], n)
        return pd.DataFrame(made)

    def score(self, label, budget):
        return score(runs_of({c: v.to_numpy() for c, v in self.trace(label, budget).items()}), self.goals,
                     "training", 1)  # fmt: skip


STEPS = np.minimum.accumulate(RNG.random((16, 16)) * 0.2 + np.geomspace(0.8, 0.01, 16), 1)
SLOW = np.repeat(STEPS[:, ::4], 4, 1)[:, :16] * 0 + np.minimum.accumulate(
    RNG.random((16, 16)) * 0.2 + np.linspace(0.8, 0.3, 16), 1
)
HIT = np.where(np.arange(16)[:, None] < 14, 0.0, 0.7) * np.ones((16, 4))
LOST = np.full((8, 8), np.inf)

RUNS = [
    ("wins", {"one": "a", "two": "b", "budget": 16}, Made(a=STEPS, b=SLOW), Made(a=SLOW, b=STEPS)),
    ("wins", {"one": "a", "two": ["b", "c"], "budget": 16}, Made(a=STEPS, b=SLOW, c=SLOW),
     Made(a=STEPS, b=SLOW, c=STEPS - 0.2)),
    ("trainings_factor", {"one": "a", "two": "b", "budget": 16}, Made(a=SLOW, b=STEPS),
     Made(a=STEPS, b=SLOW)),
    ("gap_left", {"strategy": "a", "budget": 16}, Made(a=SLOW), Made(a=STEPS)),
    ("share_of_the_way", {"strategy": "a", "budget": 16}, Made(a=STEPS), Made(a=SLOW)),
    ("success", {"strategy": "a", "budget": 4}, Made(a=HIT), Made(a=1 - HIT)),
    ("success", {"strategy": "a", "budget": 4, "less": "b"}, Made(a=HIT, b=HIT + 0.1),
     Made(a=HIT + 0.1, b=HIT)),
    ("normalised_regret", {"strategy": "a", "budget": 16, "span": 2}, Made(a=SLOW), Made(a=STEPS)),
    ("loss_factor", {"one": "a", "two": "b", "budget": 16}, Made(a=SLOW, b=STEPS), Made(a=STEPS, b=SLOW)),
    ("speedup", {"one": "a", "many": "many", "budget": 16}, Made(4.0, a=SLOW, many=SLOW),
     Made(0.5, a=SLOW, many=SLOW)),
    ("spent_on_lost", {"strategy": "a", "budget": 8}, Made(a=LOST, rates=[1, 1, 1, 1, 2, 2, 2, 2]),
     Made(a=LOST, rates=range(8))),
    ("spent_on_lost", {"strategy": "a", "budget": 8, "guess": 0.5}, Made(a=np.ones((4, 8)), rates=[1] * 8),
     Made(a=np.full((4, 8), 0.4), rates=[1] * 8)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "high", "low"), RUNS, ids=[t[0] for t in RUNS])
def test_a_measure_of_runs_turns_round_with_them(name, settings, high, low):
    function = MEASURES[name].function
    a, b = function(high, **settings), function(low, **settings)
    assert a.value > b.value + 0.02 and a.low > b.high


class Watched:
    """Runs, and whose were asked for."""

    def __init__(self, runs):
        self.runs, self.asked, self.max_epoch, self.rate = runs, set(), runs.max_epoch, runs.rate

    def score(self, label, budget):
        self.asked.add(label)
        return self.runs.score(label, budget)

    def trace(self, label, budget):
        self.asked.add(label)
        return self.runs.trace(label, budget)


@pytest.mark.parametrize(("name", "settings", "runs", "_"), RUNS, ids=[t[0] for t in RUNS])
def test_what_a_measure_of_runs_looks_at_is_known_from_its_settings(name, settings, runs, _):
    """Else a claim would not run it."""
    watched = Watched(runs)
    MEASURES[name].function(watched, **settings)
    assert watched.asked == set(measures.labels_of(settings))


def test_every_measure_of_runs_is_turned_round():
    there = {n for n, m in MEASURES.items() if m.looks == "runs"}
    assert {t[0] for t in RUNS} == there - {"dearer_pays"}  # which the next test turns round


def test_by_hand():
    assert MEASURES["spent_on_lost"].function(RUNS[-2][2], "a", 8).value == pytest.approx(6 / 8)
    assert measures.speedup(Made(4.0, a=SLOW, many=SLOW), "a", "many", 16).value == pytest.approx(4.0)
    doubled = measures.loss_factor(Made(a=2 * STEPS, b=STEPS), "a", "b", 16)
    assert doubled.value == pytest.approx(2.0) and doubled.runs == 16
    with pytest.raises(Missing, match="no factor"):
        measures.loss_factor(Made(a=LOST, b=LOST), "a", "b", 8)
    # A rate that was good once is not known to be bad.
    once = np.tile([0.1, np.inf, np.inf, np.inf], (4, 1))
    assert measures.spent_on_lost(Made(a=once, rates=[1, 1, 2, 2]), "a", 4).value == pytest.approx(0.25)


def test_thinking_decides_whether_dear_trainings_pay(monkeypatch):
    from nearopt import experiment

    seconds = {"gp": 0.03, "random": 0.0}
    monkeypatch.setattr(experiment, "recorded_thinking", lambda label: seconds[label])
    same = Made(gp=STEPS, random=STEPS)  # as many trainings: what remains is the time
    assert measures.dearer_pays(same, "gp", "random", 16, 0.01, 60).value == pytest.approx(4 - 60.03 / 60)
    fewer, more = Made(gp=STEPS, random=SLOW), Made(gp=SLOW, random=STEPS)
    a, b = (measures.dearer_pays(runs, "gp", "random", 16, 0.01, 60) for runs in (fewer, more))
    assert a.high < 4 - 60.03 / 60 < b.low and a.low > 0
    seconds |= {"gp": 0.0, "random": 0.03}
    c = measures.dearer_pays(more, "gp", "random", 16, 0.01, 60)
    assert c.value < 0 and c.low <= c.value <= c.high


# Measures of an objective -----------------------------------------------------------------------------------


def test_a_grid_grows_with_the_axes_and_copies_gain_only_where_members_differ():
    def build(text):
        return catalogue.build(catalogue.entry("objective", text).settings)

    assert measures.grid_size(build("levy,dimension=8"), 3, 50).value == pytest.approx(3**8 / 50)
    assert measures.grid_size(build("branin"), 3, 50).value == pytest.approx(9 / 50)
    toy = build("population_toy")
    # Jaderberg's grid ends at Q = .389749; copies bring both parameters down.
    assert measures.copies_gain(toy, [[1, 0], [0, 1]], False).value == pytest.approx(1.2 - 0.389749, abs=1e-6)
    assert measures.copies_gain(toy, [[1, 0], [0, 1]]).value > 0.5
    assert measures.copies_gain(toy, [[1, 0], [1, 0]]).value == pytest.approx(0)


class Bowl:
    """A range test's curve with its minimum at `turn`, and a final loss that is least at `best`."""

    max_epoch = 1

    def __init__(self, turn, best):
        from nearopt import Float, Space

        self.turn, self.best, self.name = turn, best, "bowl"
        self.space = Space({"rate": Float(1e-5, 1.0, log=True, role="rate")})

    def draw(self, key):
        return ()

    def init(self, instance, key):
        return ()

    def range_test(self, instance, key, hp, rates):
        return 1.0 + jnp.minimum(0.1 * jnp.log10(rates / self.turn) ** 2, 100.0)

    def train(self, instance, key, checkpoint, hp, start, until):
        loss = 1.0 + jnp.log10(hp["rate"] / self.best).astype(jnp.float64) ** 2
        return (), loss, loss


def test_the_finder_is_near_where_the_best_rate_is_a_tenth_of_the_turn():
    near = measures.finder_ratio(Bowl(1e-2, 1e-3), seeds=2)
    far = measures.finder_ratio(Bowl(1e-2, 1e-1), seeds=2)
    assert near.value < 1.1 < 3 < far.value


def test_values_all_alike_have_an_interval_of_no_width():
    found = over_seeds(np.ones(3))
    assert (found.value, found.low, found.high, found.runs) == (1.0, 1.0, 1.0, 3)
    assert np.isnan(over_seeds(np.ones(1)).low)


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", claims.names())
def test_a_claims_file_is_read_and_names_what_there_is(name):
    claim = claims.read(name)
    for text in claim.objectives:
        catalogue.entry("objective", text)
    labels = {catalogue.entry("strategy", t).label for t in claim.strategies}
    for part in claim.parts:
        said = [part.settings.get(k) for k in ("one", "two", "strategy", "less")]
        for label in (v for s in said for v in (s if isinstance(s, list) else [s])):
            assert label is None or label in labels or MEASURES[part.measure].looks == "sample"
            assert label is None or label in labels or part.measure == "interaction"
        assert part.rule.words()
    assert claim.source and claim.statement


def test_all_claims_of_the_guide_and_the_published_comparisons_are_there():
    numbers = [claims.read(n).number for n in claims.names()]
    assert numbers == [*map(str, range(1, 12)), *(f"P{i}" for i in range(1, 7))]


TINY = """
strategy: [random, defaults, sobol]
seeds: 24
budgets: [6]
objective: [branin, taskset]
record: {configurations: 32, seeds: 2}
kinds: {branin: real}
claim:
  number: 12
  title: Random search beats the default
  statement: Six random trials end better than the default.
  source: here
  parts:
    - name: better
      statement: It ends better.
      measure: wins
      settings: {one: random, two: defaults, budget: 6}
      rule: {side: SIDE, threshold: 0.5, margin: 0, scope: setting}
    - name: short
      statement: The best of ten random ones leaves something.
      measure: shortfall
      settings: {trials: 10}
      rule: {side: above, threshold: 0, margin: 0}
      objective: [branin]
  published:
    - {what: another's, value: "1", part: better}
    - {what: ours, value: "0.5", ours: {measure: gap_left, objective: branin, strategy: random, budget: 6}}
"""


def test_a_claim_of_ones_own_from_file_to_page(tmp_path, monkeypatch, capsys):
    from nearopt.commands import claims as command

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "claims" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TINY.replace("SIDE", "above"))
    assert command.main(["tiny", "name=mine"]) == 0
    folder = tmp_path / "results" / "mine"
    ran = {p.parent.name for p in (folder / "runs" / "branin").glob("*/cell.json")}
    assert ran == {"random", "defaults"}  # nothing looks at the third strategy
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    found = pd.read_csv(folder / "claims.csv")
    better, short = found.to_dict("records")
    assert better["part_verdict"] == SUPPORTED and better["low"] > 0.5
    assert short["part_verdict"] == OPEN and "1 family" in short["reason"]  # one is not enough for the world
    assert better["verdict"] == OPEN and "branin [real]" in better["holds"]
    assert "no file" in better["missing"] and "taskset" in better["missing"]
    text = (folder / "claims.md").read_text()
    assert "## 12. Random search beats the default: INCONCLUSIVE" in text and "another's" in text
    assert "<svg" in (folder / "claims.html").read_text()
    assert len(pd.read_csv(folder / "effects.csv")) == 3
    report = (folder / "tiny" / "report.md").read_text()
    assert report.startswith("# 12. Random search beats the default: INCONCLUSIVE")
    assert (folder / "tiny" / "../figures/tiny.svg").exists() and "../figures/tiny.svg" in report
    # The rule turned round: the same trainings, the opposite verdict.
    path.write_text(TINY.replace("SIDE", "below"))
    assert command.main(["tiny", "name=mine"]) == 0
    assert pd.read_csv(folder / "claims.csv")["part_verdict"].tolist() == [REFUTED, OPEN]
    runs = {p: t for p, t in before.items() if "runs" in p.parts and "trace" in p.parts}
    assert runs and all(p.stat().st_mtime_ns == t for p, t in runs.items())
    assert "REFUTED" in capsys.readouterr().out


def test_what_needs_no_runs_is_found_ahead_in_processes(tmp_path, monkeypatch):
    from nearopt.claims import claim, measuring
    from nearopt.claims.sources import Sources

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "claims" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    text = TINY.replace("SIDE", "above").replace("[branin, taskset]", "[branin, levy]")
    path.write_text(text.replace("objective: [branin]", "objective: [branin, levy]"))
    one, kept = claim.read("tiny"), tmp_path / "kept"
    measuring.ahead(Sources(kept), [one], 2)

    def times():  # of what was measured, and of each block that was trained
        there = [*kept.glob("measured/*"), *kept.glob("curves/*/curves/*")]
        return {p: p.stat().st_mtime_ns for p in there}

    found = times()
    assert sum(p.parent.name == "measured" for p in found) == 2 < len(found)
    rows = measuring.measure(Sources(kept), one).rows.set_index(["part", "family"])
    assert np.isfinite(rows.loc["short", "effect"].to_numpy(float)).all()
    assert times() == found  # nothing was trained or measured again


@pytest.mark.slow
def test_an_experiment_that_states_a_claim_has_its_verdict_first_in_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    folder, said = tmp_path / "results" / "mine", {}
    words = ["experiment=mine", "objective=branin", "processes=1"]
    for side, verdict in (("above", OPEN), ("below", REFUTED)):
        path.write_text("name: mine\n" + TINY.replace("SIDE", side))
        assert run.main(words) == 0
        text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
        assert text.startswith(f"# 12. Random search beats the default: {verdict}")
        assert "trials to near-optimal" in page and page.count(f">{verdict}</span></p>") == 1
        assert page.index("Random search beats the default") < page.index(
            "What budget does each strategy need?"
        )
        assert pd.read_csv(folder / "effects.csv")["part"].tolist()[0] == "better"
        said[side] = capsys.readouterr().out
        assert f"claim:  {verdict}" in said[side]
    assert report.main(["results/mine"]) == 0  # from disk, once more
    assert (folder / "report.md").read_text().count("# 12. Random search") == 1
    path.write_text("name: mine\n" + TINY.replace("SIDE", "over"))
    with pytest.raises(UserError, match="side must be above or below"):
        run.main(words)
    with pytest.raises(UserError, match="a command of its own: claims hyperband_random"):
        run.main(["experiment=claims/hyperband_random"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("measure: wins", "measure: win"), "no measure 'win'; did you mean wins?"),
        (("side: SIDE", "side: over"), "side must be above or below"),
        (("statement: Six", "stated: Six"), "claim has no 'stated'"),
        (("objective: [branin]\n  published", "objective: [ackley]\n  published"), "'ackley' is not among"),
        (("part: better}", "part: best}"), "no part 'best'"),
        (("  number: 12\n", ""), "it lacks 'number'"),
    ],
)
def test_a_claims_file_that_makes_no_sense_is_one_line(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "claims" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TINY.replace(*change).replace("SIDE", "above"))
    with pytest.raises(UserError, match=r"tiny\.yaml: ") as error:
        claims.read("tiny")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_bad_words_get_one_line():
    from nearopt.commands import claims as command

    for words, line in [
        (["tinny"], "no claim 'tinny'"),
        (["nme=x"], "did you mean name?"),
        (["branin=x"], "no setting 'branin'"),
        (["objective=text"], "no claim looks at"),
    ]:
        with pytest.raises(UserError, match=line.replace("?", r"\?")):
            command.main(words)


# What is shipped --------------------------------------------------------------------------------------------


def test_the_shipped_verdicts_follow_from_the_shipped_effects_and_rules():
    """No verdict is typed by hand: each follows from effects.csv by the rule in the claim's file."""
    folder = ROOT / "results" / "reference" / "claims"
    shown, effects = pd.read_csv(folder / "claims.csv"), pd.read_csv(folder / "effects.csv")
    for name, mine in shown.groupby("claim"):
        claim = claims.read(str(name))
        parts = []
        for part, row in zip(claim.parts, mine.to_dict("records"), strict=True):
            of_part = effects[(effects["claim"] == name) & (effects["part"] == part.name)]
            parts.append(judge(part.name, part.rule, of_part, len(claim.parts)))
            assert (row["part"], row["part_verdict"]) == (part.name, parts[-1].verdict)
            np.testing.assert_allclose(row["effect"], parts[-1].effect, rtol=1e-3, atol=1e-6)
        assert set(mine["verdict"]) == {together(parts)}
    assert sorted(shown["claim"].unique()) == sorted(claims.names())
    text = (folder / "claims.md").read_text()
    assert table(shown) in text


def test_the_readmes_table_is_the_shipped_one():
    readme = (ROOT / "README.md").read_text()
    if "<!-- nearopt claims -->" not in readme:
        pytest.skip("the README shows no table of claims")
    shown = pd.read_csv(ROOT / "results" / "reference" / "claims" / "claims.csv")
    assert f"<!-- nearopt claims -->\n{table(shown)}<!-- end -->" in readme
