"""Samplers, the Hyperband and the ASHA pruner of Optuna, through its ask-and-tell interface.

Akiba et al. 2019, "Optuna", arXiv 1907.10902; https://optuna.readthedocs.io. Defaults are the library's own.
Departures, for the comparison's sake: the start-up trials are the shared design's, enqueued; a loss that is
not finite is told as infinity, which Optuna's samplers rank last, where `nan` would make the trial a failed
one, which they forget.
"""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any

import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import Cube
from strategies.adapters import Design, axes, first_points, needed, point, wait

MODULES = {
    "gp": ("optuna", "scipy", "torch"),
    "tpe": ("optuna",),
    "random": ("optuna",),
    "cmaes": ("optuna", "cmaes"),
}
ETA = 3  # HyperbandPruner's default; SuccessiveHalvingPruner is given it


class Optuna:
    """One study in memory. Without a pruner each trial is one full training.

    sampler: gp, tpe, random or cmaes · pruner: none, or hyperband or asha (SuccessiveHalvingPruner), which
    train each trial from rung to rung (1, 3, 9 ... epochs) until it is pruned · start: trials of the shared
    design before the sampler's own · multivariate: tpe's, null for the library's default · deterministic:
    gp's, true: losses have no noise.
    """

    anytime = True

    def __init__(
        self,
        sampler: str = "tpe",
        pruner: str = "none",
        start: int = 10,
        multivariate: bool | None = None,
        deterministic: bool = False,
        *,
        cube: Cube,
        max_epoch: int,
        budget: float,
        seed: int,
        design: Design | None = None,
    ):
        if sampler not in MODULES:
            raise ValueError(f"sampler must be one of {', '.join(MODULES)}, got {sampler!r}")
        if pruner not in ("none", "hyperband", "asha"):
            raise ValueError(f"pruner must be none, hyperband or asha, got {pruner!r}")
        if start < 0:
            raise ValueError(f"start must be at least 0, got {start}")
        optuna, *_ = needed(f"Optuna's sampler {sampler}", *MODULES[sampler])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.cube, self.max_epoch, self.budget = cube, max_epoch, budget
        self.pruning = pruner != "none"
        self.rungs = self._rungs() if self.pruning else [max_epoch]
        self.axes = axes(cube)
        self.pruned = optuna.trial.TrialState.PRUNED
        self.distributions = {f"x{i}": _distribution(optuna, axis) for i, axis in enumerate(self.axes)}
        chosen = {
            "none": lambda made: made.NopPruner(),
            "hyperband": lambda made: made.HyperbandPruner(1, max_epoch, ETA),
            "asha": lambda made: made.SuccessiveHalvingPruner(1, ETA),
        }[pruner]
        self.study = optuna.create_study(
            sampler=_sampler(optuna, sampler, start, multivariate, deterministic, seed),
            pruner=chosen(optuna.pruners),
            study_name=f"seed {seed}",  # the pruner draws a trial's bracket from it
        )
        self.design = first_points(cube, min(start, self.num_trials), seed, design)
        for x in self.design:
            self.study.enqueue_trial({f"x{i}": axis.value(x[i]) for i, axis in enumerate(self.axes)})
        # The GP's sampler warns with every model that it clips a diverged loss to the worst one: it should.
        warnings.filterwarnings("ignore", "Clip non-finite values", UserWarning)
        self.trials: list[Any] = []
        self.x: list[np.ndarray] = []
        self.promoted: deque[tuple[int, int]] = deque()  # trial, epoch to train to

    def _rungs(self) -> list[int]:
        """Epochs at which the pruner is asked."""
        rungs, until = [], 1
        while until < self.max_epoch:
            rungs.append(until)
            until *= ETA
        return [*rungs, self.max_epoch]

    @property
    def num_trials(self) -> int:
        return budget_epochs(self.budget, self.max_epoch) if self.pruning else int(self.budget + 1e-9)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"stop", "resume"}) if self.pruning else frozenset()

    def ask(self) -> Job:
        if self.promoted:
            k, until = self.promoted.popleft()
            return Job(k, k, self.x[k], until)
        k = len(self.trials)
        if k >= self.num_trials:
            return wait(self.cube)
        trial = self.study.ask(self.distributions)
        self.trials.append(trial)
        units = [axis.unit(trial.params[f"x{i}"]) for i, axis in enumerate(self.axes)]
        self.x.append(self.design[k] if k < len(self.design) else point(self.cube, units))
        return Job(k, NONE, self.x[k], self.rungs[0])

    def tell(self, job: Job, feedback: Feedback) -> None:
        trial, loss = self.trials[job.trial], float(feedback.loss)
        finite = bool(np.isfinite(loss))
        if job.until >= self.max_epoch:
            self.study.tell(trial, loss if finite else float("inf"))
            return
        trial.report(loss if finite else float("nan"), job.until)  # nan: the pruner's word for a lost trial
        if trial.should_prune():
            self.study.tell(trial, state=self.pruned)
        else:
            self.promoted.append((job.trial, self.rungs[self.rungs.index(job.until) + 1]))


def _distribution(optuna: Any, axis: Any) -> Any:
    if axis.unordered:
        return optuna.distributions.CategoricalDistribution(tuple(range(axis.first, axis.last + 1)))
    if axis.whole:
        return optuna.distributions.IntDistribution(axis.first, axis.last, log=axis.log)
    return optuna.distributions.FloatDistribution(axis.first, axis.last, log=axis.log)


def _sampler(optuna: Any, name: str, start: int, multivariate: bool | None, exact: bool, seed: int) -> Any:
    samplers = optuna.samplers
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=start, deterministic_objective=exact)
    if name == "tpe":
        options = {} if multivariate is None else {"multivariate": multivariate}
        return samplers.TPESampler(seed=seed, n_startup_trials=start, **options)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=max(start, 1))
    return samplers.RandomSampler(seed=seed)
