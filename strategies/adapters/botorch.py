"""BoTorch's Gaussian process with LogEI, set up as its documentation does.

Balandat et al. 2020, "BoTorch", arXiv 1910.06403; Ament et al. 2023 (LogEI), arXiv 2310.20708; Hvarfner et
al. 2024 (dimension-scaled priors, the library's defaults), arXiv 2402.02229. Inputs lie in the unit cube,
outcomes are standardised by the model. With choices that have no order the model is MixedSingleTaskGP; where
an axis is discrete, the acquisition is maximised by `optimize_acqf_mixed_alternating`. A loss that is not
finite counts as the worst finite one.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np

from bench.protocols import NONE, Feedback, Job
from bench.space import Cube
from strategies.adapters import Design, axes, first_points, needed, point, wait

ACQUISITIONS = ("logei", "lognei")


class BoTorch:
    """One full training a trial; runs on one thread, which it sets for the process.

    acquisition: logei (with trials pending: its Monte-Carlo form, which integrates over them) or lognei, for
    noisy losses · start: trials of the shared design before the model · restarts, raw_samples: of the
    acquisition's maximisation. Recommends the told trial of the lowest posterior mean.
    """

    anytime, needs = True, frozenset()

    def __init__(
        self,
        acquisition: str = "logei",
        start: int = 10,
        restarts: int = 10,
        raw_samples: int = 512,
        *,
        cube: Cube,
        max_epoch: int,
        budget: float,
        seed: int,
        design: Design | None = None,
    ):
        if acquisition not in ACQUISITIONS:
            raise ValueError(f"acquisition must be one of {', '.join(ACQUISITIONS)}, got {acquisition!r}")
        for name, value in (("start", start), ("restarts", restarts), ("raw_samples", raw_samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.torch, self.fit, self.optim, self.models, self.mlls, self.acquisitions = needed(
            "BoTorch", "torch", "botorch.fit", "botorch.optim", "botorch.models", "gpytorch.mlls",
            "botorch.acquisition",
        )  # fmt: skip
        self.torch.set_num_threads(1)
        self.cube, self.max_epoch, self.budget, self.seed = cube, max_epoch, budget, seed
        self.acquisition, self.restarts, self.raw_samples = acquisition, restarts, raw_samples
        self.axes = axes(cube)
        self.design = first_points(cube, min(start, self.num_trials), seed, design)
        self.x: list[np.ndarray] = []
        self.loss: dict[int, float] = {}
        self.fitted: tuple[int, Any] = (-1, None)  # number of losses told, model

    @property
    def num_trials(self) -> int:
        return int(self.budget + 1e-9)

    def ask(self) -> Job:
        k = len(self.x)
        if k >= self.num_trials:
            return wait(self.cube)
        if k < len(self.design):
            self.x.append(self.design[k])
        elif not np.isfinite(list(self.loss.values())).any():  # nothing to model
            units = np.random.default_rng((self.seed, k)).random(len(self.axes))
            self.x.append(point(self.cube, units))
        else:
            with _quiet(self.torch, self.seed, k):
                self.x.append(self._propose())
        return Job(k, NONE, self.x[k], self.max_epoch)

    def tell(self, job: Job, feedback: Feedback) -> None:
        self.loss[job.trial] = float(feedback.loss)

    def recommend(self) -> Job:
        """The told trial of the lowest posterior mean; of the lowest loss while there is no model."""
        told = sorted(self.loss)
        if not told:
            return wait(self.cube)
        losses = np.array([self.loss[k] for k in told])
        if np.isfinite(losses).any() and len(told) >= len(self.design):
            with _quiet(self.torch, self.seed, len(self.x)):
                model = self._model()
                with self.torch.no_grad():
                    mean = model.posterior(self._tensor(told)).mean[:, 0].numpy()
            losses = np.where(np.isfinite(losses), -mean, np.inf)
        best = told[int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))]
        return Job(best, NONE, self.x[best], self.max_epoch)

    def _features(self, x: np.ndarray) -> list[float]:
        """x as the model sees it: an unordered choice by its number, other values by their place in the unit
        interval, discrete ones at the point that stands for them."""
        found = []
        for axis, u in zip(self.axes, x, strict=False):
            value = axis.value(u)
            found.append(float(value) if axis.unordered else axis.unit(value) if axis.whole else float(u))
        return found

    def _tensor(self, trials: list[int]) -> Any:
        return self.torch.tensor([self._features(self.x[k]) for k in trials], dtype=self.torch.float64)

    def _model(self) -> Any:
        """The model of all losses told, fitted once for each number of them."""
        if self.fitted[0] == len(self.loss):
            return self.fitted[1]
        told = sorted(self.loss)
        losses = np.array([self.loss[k] for k in told])
        losses = np.where(np.isfinite(losses), losses, losses[np.isfinite(losses)].max())
        y = -self.torch.tensor(losses, dtype=self.torch.float64)[:, None]
        choices = [i for i, axis in enumerate(self.axes) if axis.unordered]
        x = self._tensor(told)
        models = self.models
        model = models.MixedSingleTaskGP(x, y, choices) if choices else models.SingleTaskGP(x, y)
        with contextlib.suppress(self.fit.ModelFittingError):  # then the priors' modes have to do
            self.fit.fit_gpytorch_mll(self.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
        self.fitted = len(self.loss), model
        return model

    def _acquisition(self, model: Any) -> Any:
        told = sorted(self.loss)
        pending = [k for k in range(len(self.x)) if k not in self.loss]
        waiting = self._tensor(pending) if pending else None
        if self.acquisition == "lognei":
            return self.acquisitions.qLogNoisyExpectedImprovement(
                model, self._tensor(told), X_pending=waiting, prune_baseline=True
            )
        best = -min(loss for loss in self.loss.values() if np.isfinite(loss))
        if waiting is None:
            return self.acquisitions.LogExpectedImprovement(model, best)
        return self.acquisitions.qLogExpectedImprovement(model, best, X_pending=waiting)

    def _propose(self) -> np.ndarray:
        acquisition = self._acquisition(self._model())
        bounds = self.torch.zeros(2, len(self.axes), dtype=self.torch.float64)
        bounds[1] = self.torch.tensor([float(a.last) if a.unordered else 1.0 for a in self.axes])
        search: dict[str, Any] = dict(q=1, num_restarts=self.restarts, raw_samples=self.raw_samples)
        if any(axis.whole for axis in self.axes):
            levels = {i: list(range(a.first, a.last + 1)) for i, a in enumerate(self.axes) if a.whole}
            ordered = {i: [self.axes[i].unit(v) for v in vs] for i, vs in levels.items()}
            choices = {i: [float(v) for v in vs] for i, vs in levels.items() if self.axes[i].unordered}
            ordered = {i: units for i, units in ordered.items() if i not in choices}
            for i, units in ordered.items():  # the ends of the unit interval stand for no value
                bounds[0, i], bounds[1, i] = units[0], units[-1]
            found, _ = self.optim.optimize_acqf_mixed_alternating(
                acquisition, bounds, discrete_dims=ordered, cat_dims=choices, **search
            )
        else:
            found, _ = self.optim.optimize_acqf(acquisition, bounds, **search)
        units = [
            axis.unit(round(v)) if axis.unordered else v
            for axis, v in zip(self.axes, found[0].tolist(), strict=True)
        ]
        return point(self.cube, units)


@contextlib.contextmanager
def _quiet(torch: Any, seed: int, k: int):
    """Torch's generator seeded for this trial and restored, and the library's warnings unheard: of scaling,
    of restarts, of jitter."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(1_000_003 * seed + k)
        yield
