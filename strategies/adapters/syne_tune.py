"""Schedulers of Syne Tune: asynchronous successive halving (in brackets: Hyperband) and PBT.

Salinas et al. 2022, "Syne Tune", AutoML-Conf; ASHA of the stopping kind, Li et al. 2020, arXiv 1810.05934;
PBT, Jaderberg et al. 2017, arXiv 1711.09846. The schedulers are told and asked as the library's tuner does
it; its backends and its clock are not used. Departures: PBT's perturbed copy keeps its parent's values on
axes that may not change in training; a loss that is not finite is told as infinity. The schedulers draw from
numpy's global generator, which is seeded here and given back as it was after each call.
"""

from __future__ import annotations

import contextlib
from collections import deque
from datetime import datetime
from typing import Any

import numpy as np

from bench.protocols import NONE, Feedback, Job, budget_epochs
from bench.space import Cube
from strategies.adapters import Design, axes, first_points, needed, point, wait

SCHEDULERS = ("asha", "pbt")


class SyneTune:
    """One scheduler; as many trials run at a time as there are workers.

    scheduler: asha or pbt · eta, brackets: asha's · population, intervals: pbt's, which expects as many
    workers as members; null: the whole trainings of the budget · start: trials of the shared design before
    its own.
    """

    def __init__(
        self,
        scheduler: str = "asha",
        eta: int = 3,
        brackets: int = 1,
        population: int | None = None,
        intervals: int = 20,
        start: int = 0,
        *,
        cube: Cube,
        max_epoch: int,
        budget: float,
        seed: int,
        design: Design | None = None,
    ):
        if scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, got {scheduler!r}")
        for name, value, least in (("eta", eta, 2), ("brackets", brackets, 1), ("intervals", intervals, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        base = "syne_tune.optimizer.schedulers"
        trial_status, spaces, asha, pbt, searcher = needed(
            "Syne Tune", "syne_tune.backend.trial_status", "syne_tune.config_space", f"{base}.asha",
            f"{base}.pbt", f"{base}.searchers.last_value_multi_fidelity_searcher",
        )  # fmt: skip
        self.cube, self.max_epoch, self.budget, self.axes = cube, max_epoch, budget, axes(cube)
        self.copies = scheduler == "pbt"
        self.interval = max(1, max_epoch // intervals)
        self.eta = eta
        self.random = np.random.RandomState(seed).get_state()
        self.trial_type = trial_status.Trial
        self.space = {f"x{i}": _domain(spaces, axis) for i, axis in enumerate(self.axes)}
        self.design = first_points(cube, min(start, self.num_trials), seed, design)
        points = [{f"x{i}": a.value(x[i]) for i, a in enumerate(self.axes)} for x in self.design]
        settings: dict[str, Any] = dict(
            metric="loss", do_minimize=True, time_attr="epoch", max_t=max_epoch, random_seed=seed
        )  # fmt: skip
        with self._own_random():
            if self.copies:
                members = population or max(1, int(budget + 1e-9))
                self.scheduler: Any = pbt.PopulationBasedTraining(
                    self.space, **settings, population_size=members, perturbation_interval=self.interval,
                    searcher_kwargs={"points_to_evaluate": points},
                )  # fmt: skip
            else:
                random = searcher.LastValueMultiFidelitySearcher(
                    self.space, points_to_evaluate=points, random_seed=seed, searcher="random_search"
                )
                self.scheduler = asha.AsynchronousSuccessiveHalving(
                    self.space, **settings, searcher=random, reduction_factor=eta, brackets=brackets
                )
        self.trials: list[Any] = []
        self.x: list[np.ndarray] = []
        self.epoch: list[int] = []  # to which each trial's checkpoint is trained
        self.going: deque[int] = deque()  # trials that were told and go on

    @property
    def num_trials(self) -> int:
        shortest = self.interval if self.copies else 1
        return max(1, budget_epochs(self.budget, self.max_epoch) // shortest)

    @property
    def anytime(self) -> bool:
        return not self.copies

    @property
    def needs(self) -> frozenset[str]:
        both = {"stop", "resume"}
        return frozenset(both | {"copy", "change"} if self.copies else both)

    def ask(self) -> Job:
        if self.going:
            k = self.going.popleft()
            return Job(k, k, self.x[k], self._next(self.epoch[k]))
        k = len(self.trials)
        if k >= self.num_trials:
            return wait(self.cube)
        with self._own_random():
            suggestion = self.scheduler.suggest()
            trial = self.trial_type(k, suggestion.config, datetime.min)
            self.scheduler.on_trial_add(trial)
        x = point(self.cube, [a.unit(suggestion.config[f"x{i}"]) for i, a in enumerate(self.axes)])
        source = suggestion.checkpoint_trial_id
        if source is not None:
            x = np.where(self.cube.change, x, self.x[source])
        elif k < len(self.design):
            x = self.design[k]
        self.trials.append(trial)
        self.x.append(x)
        self.epoch.append(0 if source is None else self.epoch[source])
        return Job(k, NONE if source is None else source, x, self._next(self.epoch[k]))

    def tell(self, job: Job, feedback: Feedback) -> None:
        loss = float(feedback.loss)
        result = {"loss": loss if np.isfinite(loss) else np.inf, "epoch": job.until}
        self.epoch[job.trial] = job.until
        trial = self.trials[job.trial]
        with self._own_random():
            if self.scheduler.on_trial_result(trial, result) == "CONTINUE":
                self.going.append(job.trial)

    def _next(self, epoch: int) -> int:
        """The next epoch at which the scheduler can decide anything."""
        if self.copies:
            return min((epoch // self.interval + 1) * self.interval, self.max_epoch)
        until = 1
        while until <= epoch:
            until *= self.eta
        return min(until, self.max_epoch)

    @contextlib.contextmanager
    def _own_random(self):
        before = np.random.get_state()  # noqa: NPY002 (the library's own generator)
        np.random.set_state(self.random)  # noqa: NPY002
        try:
            yield
        finally:
            self.random = np.random.get_state()  # noqa: NPY002
            np.random.set_state(before)  # noqa: NPY002


def _domain(spaces: Any, axis: Any) -> Any:
    if axis.unordered:
        return spaces.choice(list(range(axis.first, axis.last + 1)))
    if axis.whole:
        return (spaces.lograndint if axis.log else spaces.randint)(axis.first, axis.last)
    return (spaces.loguniform if axis.log else spaces.uniform)(axis.first, axis.last)
