"""What claims are measured by: functions of random configurations with their curves, or of scored runs.

Those of a `Sample` return one value a seed, f64[seeds]; those of runs and of the objective itself return an
`Effect`. Each is named in a claim's file with its settings, and each looks at one objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from bench.importance import MATTERS, Importance, importance, ranks, whole_and_best
from bench.inference import win_probability
from bench.metrics import Score, step_values
from bench.ranking import log_efficiency_interval
from bench.stats import mean_interval, wilson

GUIDE = ("rate", "schedule", "batch", "regularisation", "architecture")  # the guide's order
TIED = 1e-3  # of the gap: ends that near are a tie
DRAWS = 200  # groups of random configurations that are drawn from a recording


class Missing(ValueError):
    """An objective cannot be measured, and why."""


class Effect(NamedTuple):
    """A number with its 95 % interval over `runs` runs (nan where there is none)."""

    value: float
    low: float
    high: float
    runs: int
    note: str = ""


@dataclass(frozen=True, eq=False)  # equal to itself only, so that what is found of it can be kept
class Sample:
    """Random configurations of an objective, trained to the end.

    roles: of each axis · x f64[n, d] in the unit cube · told, true f64[seeds, n, epochs], infinite: diverged
    · error: the metric beside the loss, f64[seeds, n, epochs], or None · alike: seeds are repetitions of one
    problem, not problems · optimum f64[seeds] where it is known, else nan · digest: of the recording."""

    names: tuple[str, ...]
    roles: tuple[str, ...]
    x: np.ndarray
    told: np.ndarray
    true: np.ndarray
    error: np.ndarray | None
    alike: bool
    optimum: np.ndarray
    digest: str = ""

    def best(self, values: np.ndarray) -> np.ndarray:
        """The lowest end of values f64[seeds, n, epochs], f64[seeds]. Of repetitions it is the value in one
        seed of the configuration that is best in the others: else it would be the luckiest."""
        known = self.optimum
        ends = np.where(np.isfinite(values[..., -1]), values[..., -1], np.inf)
        if values is self.true and np.isfinite(known).all():
            return known
        if not self.alike or len(ends) < 2:
            return ends.min(1)
        left = np.arange(len(ends))
        return np.array([ends[s, ends[left != s].mean(0).argmin()] for s in left])

    def gap(self, values: np.ndarray) -> np.ndarray:
        """The scale of differences f64[seeds]: from the best to the median random configuration; of
        repetitions the mean."""
        ends = np.where(np.isfinite(values[..., -1]), values[..., -1], np.inf)
        gap = np.median(ends, 1) - self.best(values)
        gap = np.full(len(gap), gap.mean()) if self.alike else gap
        if not (np.isfinite(gap) & (gap > 0)).all():
            raise Missing("there is no gap from the best to the median random configuration to measure in")
        return gap


def over_seeds(values: np.ndarray, log: bool = False, note: str = "") -> Effect:
    """Mean of values f64[seeds] with its interval; of ratios, `log`, the geometric one."""
    values = np.asarray(values, np.float64)
    if len(values) > 1 and np.ptp(values) == 0:  # nothing varies: an interval of no width
        same = float(values[0])
        return Effect(same, same, same, len(values), note)
    found = mean_interval(np.log(values) if log else values)
    value, low, high = (float(np.exp(v)) if log else float(v) for v in found)
    return Effect(value, low, high, len(values), note)


def epoch_at(share: float, epochs: int) -> int:
    """Index of the epoch after a share of the training, at least the first; raises Missing for one epoch."""
    if epochs < 2:
        raise Missing("one epoch: there is no curve")
    return max(int(np.floor(share * epochs + 0.5)), 1) - 1


# Importance ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _importance(sample: Sample, space: str, at: float) -> list[Importance]:
    """Shares of the variance of ranks in each seed, over the whole space or within the best quartile."""
    epochs = sample.true.shape[2]
    index = epochs - 1 if at == 1 else epoch_at(at, epochs)
    losses = np.where(np.isfinite(sample.true[..., index]), sample.true[..., index], np.inf)
    if losses.shape[1] < 32:
        raise Missing(f"{losses.shape[1]} configurations: too few for importance")
    if space == "whole":
        return [importance(sample.x, ranks(row)) for row in losses]
    return [whole_and_best(sample.x, row)[1] for row in losses]


def _shares(sample: Sample, space: str, at: float) -> list[np.ndarray]:
    """Shares f64[d] that each axis explains alone, in each seed."""
    return [found.first for found in _importance(sample, space, at)]


def _of_role(sample: Sample, shares: np.ndarray, role: str) -> float:
    return float(shares[[r == role for r in sample.roles]].sum())


def role_lead(sample: Sample, role: str = "rate", space: str = "whole", at: float = 1.0) -> np.ndarray:
    """The share of a role's most important axis less that of the most important axis of other roles."""
    if role not in sample.roles:
        raise Missing(f"its space has no axis of the role {role}")
    mine = np.array([r == role for r in sample.roles])
    if mine.all():
        raise Missing(f"its space has no other role than {role}")
    return np.array([s[mine].max() - s[~mine].max() for s in _shares(sample, space, at)])


def role_share(sample: Sample, role: str, space: str = "whole", at: float = 1.0) -> np.ndarray:
    """The share of the variance of ranks that a role's axes explain, each alone."""
    if role not in sample.roles:
        raise Missing(f"its space has no axis of the role {role}")
    return np.array([_of_role(sample, s, role) for s in _shares(sample, space, at)])


def role_growth(sample: Sample, role: str, early: float = 0.2) -> np.ndarray:
    """How much more of the variance a role explains at the end of training than after a share of it."""
    return role_share(sample, role) - role_share(sample, role, at=early)


def guide_order(sample: Sample) -> np.ndarray:
    """Kendall's rank correlation of the guide's order of roles with the order of their shares, over the roles
    that the space has: 1, the same; -1, turned round."""
    there = [r for r in GUIDE if r in sample.roles]
    if len(there) < 3:
        raise Missing(f"its space has {len(there)} of the guide's roles: no order")
    pairs = [(i, j) for i in range(len(there)) for j in range(i + 1, len(there))]
    found = []
    for s in _shares(sample, "whole", 1.0):
        share = [_of_role(sample, s, r) for r in there]
        found.append(np.mean([np.sign(share[i] - share[j]) for i, j in pairs]))
    return np.array(found)


def axes_that_matter(sample: Sample, space: str = "whole") -> np.ndarray:
    """The share of the axes that explain more than 5 % of the variance of ranks, each alone."""
    return np.array([(s > MATTERS).mean() for s in _shares(sample, space, 1.0)])


def interaction(sample: Sample, one: str = "rate", two: str = "batch") -> np.ndarray:
    """The share of the variance of ranks that two roles' axes explain together, beyond each alone."""
    for role in (one, two):
        if role not in sample.roles:
            raise Missing(f"its space has no axis of the role {role}")
    a, b = ([i for i, r in enumerate(sample.roles) if r == role] for role in (one, two))
    return np.array([found.pairs[np.ix_(a, b)].sum() for found in _importance(sample, "whole", 1.0)])


# Random configurations ------------------------------------------------------------------------------------


def _groups(n: int, trials: int) -> np.ndarray:
    """Random groups i64[DRAWS, trials] of n configurations; raises Missing where there are too few."""
    if n < trials:
        raise Missing(f"{n} configurations were recorded, fewer than {trials} trials")
    rng = np.random.default_rng([n, trials])
    return rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)[:, :trials]


def _chosen(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The configuration i64[draws] of the lowest value f64[n] in each group."""
    value = np.where(np.isfinite(values), values, np.inf)
    return groups[np.arange(len(groups)), value[groups].argmin(1)]


def shortfall(sample: Sample, trials: int = 50, of: str = "gap") -> np.ndarray:
    """How far the best of so many random configurations, chosen by the told loss, is from the best known one.
    of "gap": in units of the gap to the median random configuration · "metric": of the metric beside the
    loss, its difference; where there is none, the loss's excess over the best, relative, at most 1."""
    values = sample.error if of == "metric" and sample.error is not None else sample.true
    groups = _groups(sample.told.shape[1], trials)
    best = sample.best(values)
    ends = [v[_chosen(t, groups)].mean() for v, t in zip(values[..., -1], sample.told[..., -1], strict=True)]
    away = np.array(ends) - best
    if of == "gap":
        return away / sample.gap(values)
    if values is sample.error:
        return away
    if (best <= 0).any():
        raise Missing("the best loss is not above 0: there is no relative excess")
    return np.minimum(away / best, 1.0)


def winner_kept(sample: Sample, at: float = 0.2, runs: int = 50, keep: float = 1 / 3) -> np.ndarray:
    """How often the run that ends best of so many is among the best share `keep` of them after a share of
    the training, by told losses, ties counting against it."""
    early = sample.told[..., epoch_at(at, sample.told.shape[2])]
    groups = _groups(early.shape[1], runs)
    found = []
    for row, last in zip(np.where(np.isfinite(early), early, np.inf), sample.told[..., -1], strict=True):
        winner = _chosen(last, groups)
        before = (row[groups] <= row[winner][:, None]).sum(1)
        found.append((before <= max(int(keep * runs), 1)).mean())
    return np.array(found)


def winner_lost(sample: Sample, at: float = 0.2, runs: int = 50, keep: float = 1 / 3) -> np.ndarray:
    """What stopping all but the best share `keep` of so many runs after a share of the training costs: the
    true loss of the best that is left above that of the best of all, by told losses, in units of the gap."""
    early = sample.told[..., epoch_at(at, sample.told.shape[2])]
    groups, found = _groups(early.shape[1], runs), []
    left = max(int(keep * runs), 1)
    for s, row in enumerate(np.where(np.isfinite(early), early, np.inf)):
        last, true = sample.told[s, :, -1], sample.true[s, :, -1]
        order = np.take_along_axis(groups, row[groups].argsort(1, kind="stable"), 1)[:, :left]
        found.append((true[_chosen(last, order)] - true[_chosen(last, groups)]).mean())
    return np.array(found) / sample.gap(sample.true)


def early_ranks(sample: Sample, at: float = 0.2) -> np.ndarray:
    """Spearman's correlation of told losses after a share of the training with those at its end."""
    from bench.describe import spearman

    index = epoch_at(at, sample.told.shape[2])
    return np.array([spearman(t[:, index], t[:, -1]) for t in sample.told])


def optimism(sample: Sample, trials: int = 50) -> np.ndarray:
    """What choosing by the test loss promises beyond what is true: the test loss of the best of so many
    configurations, chosen by it, in other seeds (fresh splits and weights), less that which it was chosen by,
    less what splits and weights do to a configuration that was not chosen; in units of the gap."""
    ends = np.where(np.isfinite(sample.true[..., -1]), sample.true[..., -1], np.inf)
    if not sample.alike or len(ends) < 2:
        raise Missing("it has no second test of the same configuration")
    groups, found = _groups(ends.shape[1], trials), []
    finite = np.isfinite(ends).all(0)
    for s in range(len(ends)):
        others = ends[np.arange(len(ends)) != s].mean(0)
        usual = np.median((others - ends[s])[finite])
        chosen = _chosen(np.where(finite, ends[s], np.inf), groups)
        found.append((others - ends[s])[chosen].mean() - usual)
    return np.array(found) / sample.gap(sample.true)


def overtuning_grows(sample: Sample, few: int = 10, many: int = 100) -> np.ndarray:
    """Over-tuning after many random trials less that after few: by how much the test loss of the incumbent,
    chosen by validation, is above that of the best incumbent so far, in units of the gap."""
    found = [
        np.nanmean(lost[:, many - 1]) - np.nanmean(lost[:, few - 1]) for lost in _overtuning(sample, many)
    ]
    return np.array(found) / sample.gap(sample.true)


def _overtuning(sample: Sample, trials: int) -> list[np.ndarray]:
    """Over-tuning f64[DRAWS, trials] of each seed's groups after each trial."""
    from bench.metrics import overtuning

    groups, found = _groups(sample.told.shape[1], trials), []
    for told, true in zip(sample.told[..., -1], sample.true[..., -1], strict=True):
        value = np.where(np.isfinite(told), told, np.inf)[groups]
        best = np.minimum.accumulate(value, axis=1)
        new = np.concatenate([np.ones((len(groups), 1), bool), value[:, 1:] < best[:, :-1]], 1)
        at = np.maximum.accumulate(np.where(new, np.arange(trials), 0), axis=1)
        found.append(overtuning(true[np.take_along_axis(groups, at, 1)])[0])
    return found


def not_overtuned(sample: Sample, trials: int = 100) -> np.ndarray:
    """How often the incumbent of so many random trials, chosen by the told loss, is the one that has the best
    true loss of all that were."""
    return np.array([(lost[:, -1] == 0).mean() for lost in _overtuning(sample, trials)])


def first_below(sample: Sample, loss: float, unit: float = 1.0) -> np.ndarray:
    """Epochs f64[seeds] until the fastest of the configurations has a true loss of at most `loss`, times
    `unit`, what is counted in an epoch."""
    there = np.any(sample.true <= loss, axis=1)
    if not np.any(there, axis=1).all():
        raise Missing(f"no configuration reaches a loss of {loss:g}")
    return (there.argmax(1) + 1.0) * unit


# Runs -------------------------------------------------------------------------------------------------------


class Runs(Protocol):
    """Scored runs of strategies on one objective. rate: the trace's column of the learning rate, or None."""

    max_epoch: int
    rate: str | None

    def score(self, label: str, budget: float) -> Score: ...
    def trace(self, label: str, budget: float) -> pd.DataFrame: ...


def labels_of(settings: dict[str, Any]) -> list[str]:
    """The labels whose runs a measure of runs looks at, by its settings."""
    named = [settings[key] for key in ("strategy", "one", "two", "many", "less") if settings.get(key)]
    return [label for found in named for label in ([found] if isinstance(found, str) else found)]


def _left(score: Score) -> np.ndarray:
    """Gap left f64[runs] by the last incumbent."""
    return score.gap_left(score.true[:, -1])


def wins(runs: Runs, one: str, two: str | Sequence[str], budget: float) -> Effect:
    """The least probability, over the strategies `two`, that a run of `one` ends with the lower true loss at
    the same budget; within TIED of the gap of each other they are tied."""
    others = [two] if isinstance(two, str) else list(two)
    mine = _left(runs.score(one, budget))
    found = [(win_probability(mine, _left(runs.score(label, budget)), TIED), label) for label in others]
    least, label = min(found, key=lambda f: f[0].value)
    return Effect(least.value, least.low, least.high, len(mine), f"against {label}" if len(found) > 1 else "")


def trainings_factor(runs: Runs, one: str, two: str, budget: float) -> Effect:
    """The factor of trainings that `one` needs of those of `two`, read at the level that the worse of their
    median runs ends with; below 1: it needs fewer."""
    curves = []
    grid = np.unique(np.concatenate([np.arange(1, budget + 0.5), np.geomspace(1, budget, 40)]))
    for label in (one, two):
        score = runs.score(label, budget)
        gap = np.where(np.isfinite(score.true), score.gap_left(score.true), np.inf)
        curves.append(step_values(score, np.minimum.accumulate(gap, 1), grid, runs.max_epoch, np.inf))
    found = log_efficiency_interval(curves[0], curves[1], grid)
    if np.isnan(found.value):
        raise Missing("neither has a result")
    value, low, high = (float(np.exp(v)) for v in (found.value, found.low, found.high))
    return Effect(value, low, high, found.units, found.reason)


def gap_left(runs: Runs, strategy: str, budget: float) -> Effect:
    """The gap that a strategy leaves at a budget: 0 the best constant configuration, 1 the median random."""
    return over_seeds(_left(runs.score(strategy, budget)))


def share_of_the_way(runs: Runs, strategy: str, budget: float) -> Effect:
    """The share of the way from the median random to the best constant configuration that it goes."""
    return over_seeds(1.0 - _left(runs.score(strategy, budget)))


def success(runs: Runs, strategy: str, budget: float, less: str | None = None) -> Effect:
    """The share of runs that end at the optimum (within TIED of the gap), or that share less another's."""
    from bench.inference import difference

    hit = (runs.score(strategy, budget).regret <= TIED).astype(np.float64)
    if less is None:
        low, high = wilson(hit.sum(), len(hit))
        return Effect(float(hit.mean()), float(low), float(high), len(hit))
    found = difference(hit, (runs.score(less, budget).regret <= TIED).astype(np.float64), width=1.0)
    return Effect(found.mean, found.low, found.high, found.n, found.reason)


def normalised_regret(runs: Runs, strategy: str, budget: float, span: float) -> Effect:
    """The mean regret over the span of the losses that there are."""
    return over_seeds(runs.score(strategy, budget).regret / span)


def loss_factor(runs: Runs, one: str, two: str, budget: float) -> Effect:
    """The factor by which the true loss that `one` ends with is above that of `two`; runs of a seed against
    each other, geometric mean."""
    ends = [runs.score(label, budget).true[:, -1] for label in (one, two)]
    if not (np.isfinite(ends) & (np.array(ends) > 0)).all():
        raise Missing("a run ends without a loss above 0: there is no factor")
    return over_seeds(ends[0] / ends[1], log=True)


def dearer_pays(runs: Runs, one: str, two: str, budget: float, cheap: float, dear: float) -> Effect:
    """By how much the share of `two`'s time that `one` saves, at the level of `trainings_factor`, is larger
    where a training takes `dear` seconds than where it takes `cheap` ones: thinking is what `nearopt speed`
    recorded of either."""
    from nearopt.experiment import recorded_thinking

    thinking = [recorded_thinking(label) for label in (one, two)]
    ratios = [(seconds + thinking[0]) / (seconds + thinking[1]) for seconds in (cheap, dear)]
    found, growth = trainings_factor(runs, one, two, budget), ratios[0] - ratios[1]
    value, *ends = (growth * v for v in (found.value, found.low, found.high))
    said = ", ".join(f"{v} thinks {s:.2g} s a trial" for v, s in zip((one, two), thinking, strict=True))
    return Effect(value, min(ends), max(ends), found.runs, "; ".join(filter(None, (said, found.note))))


def speedup(runs: Runs, one: str, many: str, budget: float) -> Effect:
    """The factor of simulated time in which more workers reach the gap that the median run of one worker
    ends with; runs of a seed against each other, both of which must get there."""
    alone, crowd = runs.score(one, budget), runs.score(many, budget)
    goal = np.median(_left(alone))

    def times(score: Score) -> np.ndarray:
        there = score.gap_left(score.true) <= goal
        first = there.argmax(1)
        return np.where(there.any(1), score.runs.finished[np.arange(len(first)), first], np.inf)

    a, b = times(alone), times(crowd)
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2:
        raise Missing("fewer than two runs reach the level with either number of workers")
    return over_seeds(a[both] / b[both], log=True)


def spent_on_lost(runs: Runs, strategy: str, budget: float, guess: float | None = None) -> Effect:
    """The share of trainings that were lost (diverged, or no better than `guess`) at a learning rate at which
    every training before them had been lost, and one had."""
    trace = runs.trace(strategy, budget)
    if runs.rate is None:
        raise Missing("its space has no learning rate")
    shares = []
    for _, run in trace.groupby("seed"):
        seen: dict[Any, list[bool]] = {}
        wasted = 0
        for value, loss in zip(run[runs.rate], run["loss"], strict=True):
            lost = not np.isfinite(loss) or (guess is not None and loss >= guess)
            before = seen.setdefault(value, [])
            wasted += lost and bool(before) and all(before)
            before.append(lost)
        shares.append(wasted / len(run))
    return over_seeds(np.array(shares))


# The objective itself -----------------------------------------------------------------------------------


def finder_ratio(objective: Any, rule: str = "guide", seeds: int = 8, points: int = 17, cap: float = 10.0):
    """True loss at the learning-rate finder's suggestion over the best of a sweep of constant rates, all else
    at its default; at most `cap`, which a rate that diverges costs too. Seeds without a suggestion are left
    out."""
    from bench.lr_finder import HIGH, LOW, RULES, STEPS, check, range_tests, sweep, test_rates, updates

    try:
        check(objective)
    except ValueError as error:
        raise Missing(str(error)) from None
    epoch = updates(objective)
    steps = STEPS if np.isnan(epoch) else max(STEPS, round(epoch))
    tests = range_tests(objective, range(seeds), test_rates(LOW, HIGH, steps))
    ratios = sweep(objective, range(seeds), tests, points).ratios[:, RULES.index(rule)]
    given = ratios[~np.isnan(ratios)]
    if not len(given):
        raise Missing(f"the rule {rule} suggests nothing in any of {seeds} seeds")
    note = f"no suggestion in {seeds - len(given)} of {seeds}" if len(given) < seeds else ""
    return over_seeds(np.clip(given, None, cap), log=True, note=note)


def grid_size(objective: Any, levels: int = 3, trials: float = 50) -> Effect:
    """Trainings of a grid with so many values an axis (fewer where an axis has fewer) over `trials`."""
    sizes = [min(levels, a.levels) if a.levels else levels for a in objective.space.axes.values()]
    factor = float(np.prod(np.array(sizes, np.float64))) / trials
    return Effect(factor, factor, factor, 1, f"{len(sizes)} axes")


def copies_gain(objective: Any, members: Sequence[Sequence[float]], copy: bool | None = None) -> Effect:
    """The lowest true loss that members of given hyperparameters (in the unit cube) end with, trained side by
    side, less what they end with where after each epoch the worst takes the weights of the best; with `copy`
    given, what they end with so or so."""
    import jax
    import jax.numpy as jnp

    from bench.drive import instance_key

    key = jax.random.key(0, impl="threefry2x32")

    def end(copy: bool) -> float:
        weights = [objective.init(instance, key) for _ in members]
        losses: list[float] = []
        for epoch in range(objective.max_epoch):
            losses = []
            for i, x in enumerate(members):
                hp = objective.space.decode_array(jnp.asarray(x, jnp.float32))
                weights[i], _, true = objective.train(
                    instance, key, weights[i], hp, jnp.int32(epoch), jnp.int32(epoch + 1)
                )
                losses.append(float(true))
            if copy:
                order = np.argsort(losses, kind="stable")  # of equals the first is copied
                weights[order[-1]] = weights[order[0]]
        return min(losses)

    with jax.enable_x64(True):
        instance = objective.draw(instance_key(jnp.uint32(1000)))
        value = end(False) - end(True) if copy is None else end(copy)
    return Effect(value, value, value, 1)


class Measure(NamedTuple):
    """looks: at a "sample", at "runs" or at the "objective" · function."""

    looks: str
    function: Callable[..., Any]


MEASURES = {
    f.__name__: Measure(looks, f)
    for looks, functions in (
        ("sample", (role_lead, role_share, role_growth, guide_order, axes_that_matter, interaction,
                    shortfall, winner_kept, winner_lost, early_ranks, optimism, overtuning_grows,
                    not_overtuned, first_below)),
        ("runs", (wins, trainings_factor, gap_left, share_of_the_way, success, normalised_regret, loss_factor,
                  dearer_pays, speedup, spent_on_lost)),
        ("objective", (finder_ratio, grid_size, copies_gain)),
    )
    for f in functions
}  # fmt: skip
