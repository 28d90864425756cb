"""Where a claim's numbers come from: runs of strategies, recorded curves, the objective itself.

Everything lies under one folder and is kept: runs/ is a results folder like any other, shared by all claims,
curves/NAME/ a recording. A recording that nearopt ships serves in place of training anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import nearopt
from bench.panel import family
from nearopt import catalogue
from nearopt.catalogue import UserError
from nearopt.claims.claim import Claim
from nearopt.claims.measures import MEASURES, Effect, Missing, Sample, labels_of

if TYPE_CHECKING:
    from bench.metrics import Score

SHIPPED = Path(nearopt.__file__).parent.parent / "surrogates" / "recorded"
# Whose trainings an objective stands for, by where its class is defined.
KIND_OF = {
    "bench.tasks": "real",
    "surrogates.tables": "published",
    "surrogates.taskset": "published",
    "surrogates.lcbench": "published",  # read through YAHPO's fit of the published curves
}
CONFIGURATIONS, SEEDS = 256, 3
RUNS, CURVES, MEASURED = "runs", "curves", "measured"


def kind_of(claim: Claim, text: str) -> str:
    """Of an objective's text: as the claim says, else by its class."""
    name = family(text)
    if name in claim.kinds:
        return claim.kinds[name]
    target = str(catalogue.load("objective", name).get("_target_"))
    plain = "+" not in text  # a wrapper makes something else of it
    return next((k for where, k in KIND_OF.items() if target.startswith(where) and plain), "surrogate")


def _space(axes: dict[str, dict[str, Any]]) -> Any:
    """A space from the JSON of `nearopt.recording.axes_of`."""
    from bench import space

    made = {
        n: getattr(space, a["kind"])(**{k: v for k, v in a.items() if k != "kind"}) for n, a in axes.items()
    }
    return space.Space(made)


def _units(axis: Any, values: np.ndarray) -> np.ndarray:
    """Unit-interval coordinates f64[n] of an axis's values [n], which may have been rounded to float32."""
    if hasattr(axis, "values"):
        known = list(axis.values)
        if all(isinstance(v, int | float) for v in known):
            away = np.abs(np.asarray(values, np.float64)[:, None] - np.array(known, np.float64))
            return (away.argmin(1) + 0.5) / len(known)
        return np.array([(known.index(v) + 0.5) / len(known) for v in values])
    low, high = axis.edges
    inside = np.clip(np.asarray(values, np.float64), axis.low, axis.high)
    return ((np.log(inside) if axis.log else inside) - low) / (high - low)


def read_recording(folder: Path, alike: bool, optimum: np.ndarray | None = None) -> Sample:
    """A recording as a `Sample`: configurations that every seed has."""
    card = json.loads((folder / "recording.json").read_text())
    table: Any = pd.read_parquet(folder / "curves.parquet").sort_values(["seed", "configuration"])
    seeds = len(np.unique(table["seed"]))
    number, count = np.unique(table["configuration"], return_counts=True)
    kept = number[count == seeds]
    table = table[table["configuration"].isin(kept.tolist())]

    def curves(name: str) -> np.ndarray | None:
        if name not in table:
            return None
        return np.stack(table[name].tolist()).reshape(seeds, len(kept), -1).astype(np.float64)

    space = _space(card["axes"])
    first = table[: len(kept)]  # of one seed; by name, since a card may list axes in another order
    x = np.stack([_units(a, first[f"hp_{n}"].to_numpy()) for n, a in space.axes.items()], 1)
    told, true = curves("loss"), curves("true_loss")
    assert told is not None and true is not None
    return Sample(
        tuple(space.names), tuple(a.role for a in space.axes.values()),
        x, told, true,
        curves("true_error"), alike, np.full(seeds, np.nan) if optimum is None else optimum,
        hashlib.sha256((folder / "curves.parquet").read_bytes()).hexdigest(),
    )  # fmt: skip


class Sources:
    """`folder`: where everything is kept · places: objective's name -> folder of its data (`data_dir`) · at:
    a results folder whose runs are looked at; runs/ in `folder` unless it is given."""

    def __init__(self, folder: Path, places: dict[str, str] | None = None, at: Path | None = None):
        self.folder, self.places, self.at = folder, places or {}, at or folder / RUNS
        self._samples: dict[tuple, Sample] = {}
        self._objectives: dict[str, Any] = {}

    def entry(self, text: str) -> catalogue.Entry:
        """An objective's entry, with the folder of its data."""
        place = self.places.get(family(text))
        return catalogue.entry("objective", text, {"data_dir": place} if place else None)

    def objective(self, text: str) -> Any:
        """Raises Missing where it cannot be made: its data or a package is not there."""
        if text not in self._objectives:
            from bench.protocols import MissingData, MissingExtra

            try:
                self._objectives[text] = catalogue.build(self.entry(text).settings)
            except UserError as error:
                cause = error.__cause__
                while cause is not None and not isinstance(cause, MissingData | MissingExtra):
                    cause = cause.__cause__
                if cause is None:
                    raise
                self._objectives[text] = Missing(str(cause).splitlines()[0])
        found = self._objectives[text]
        if isinstance(found, Missing):
            raise found
        return found

    def kept(self, measure: str, settings: dict[str, Any], about: Any, find: Callable[[], Any]) -> Any:
        """A JSON value that takes long to find, kept under what was asked: the measure, its settings, what it
        looks at, versions and the code that finds it."""
        from bench import importance, lr_finder
        from bench.store import write_json
        from nearopt.claims import measures
        from nearopt.experiment import versions

        code = hashlib.sha256()
        for module in (measures, importance, lr_finder):
            code.update(Path(str(module.__file__)).read_bytes())
        asked = {"measure": measure, "settings": settings, "about": about, "versions": versions()}
        text = json.dumps(asked | {"code": code.hexdigest()}, sort_keys=True, default=str)
        path = self.folder / MEASURED / f"{measure}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if path.exists():
            return json.loads(path.read_text())["value"]
        found = find()
        write_json(path, asked | {"value": found})
        return found

    def of_objective(self, measure: str, text: str, settings: dict[str, Any]) -> Effect:
        """A measure of the objective itself."""
        from bench.reference import settings_of

        objective, function = self.objective(text), MEASURES[measure].function
        about = settings_of(objective)
        return Effect(*self.kept(measure, settings, about, lambda: function(objective, **settings)))

    def of_sample(self, claim: Claim, measure: str, text: str, settings: dict[str, Any]) -> np.ndarray:
        """A measure of random configurations, f64[seeds]."""
        sample, function = self.sample(claim, text), MEASURES[measure].function
        return np.array(
            self.kept(measure, settings, sample.digest, lambda: function(sample, **settings).tolist())
        )

    # Recorded curves

    def shipped(self, text: str) -> Path | None:
        """The recording of an objective that nearopt ships."""
        folder = SHIPPED / text
        return folder if (folder / "curves.parquet").is_file() else None

    def sample(self, claim: Claim, text: str) -> Sample:
        """Random configurations with their curves, recorded now where none are; raises Missing."""
        shipped = self.shipped(text)
        per_objective = claim.record.get("per_objective") or {}
        configurations, seeds = (
            int(claim.own(text, per_objective, key, claim.record.get(key, otherwise)))
            for key, otherwise in (("configurations", CONFIGURATIONS), ("seeds", SEEDS))
        )
        key = (text, 0, 0) if shipped is not None else (text, configurations, seeds)
        if key in self._samples:
            return self._samples[key]
        if shipped is not None:
            self._samples[key] = read_recording(shipped, True)
            return self._samples[key]
        from nearopt.recording import record

        objective, folder = self.objective(text), self.folder / CURVES / self.entry(text).label
        for _ in record(objective, folder, configurations, seeds):
            pass
        alike = kind_of(claim, text) == "real"
        found = read_recording(folder, alike, self._optimum(objective, seeds, alike))
        if getattr(objective, "loss_is_error", False):
            found = dataclasses.replace(found, error=found.true, digest=f"{found.digest}, an error")
        self._samples[key] = found
        return self._samples[key]

    def _optimum(self, objective: Any, seeds: int, alike: bool) -> np.ndarray | None:
        """The instances' lowest loss f64[seeds], where all configurations are known or a formula says it."""
        import jax
        import jax.numpy as jnp

        from bench.drive import instance_key

        if alike or hasattr(objective, "make_reference") or not hasattr(objective, "reference"):
            return None
        with jax.enable_x64(True):
            found = [
                objective.reference(objective.draw(instance_key(jnp.uint32(s)))).optimum_static
                for s in range(seeds)
            ]
        return np.array([float(v) for v in found])

    # Runs

    def experiment(self, claim: Claim) -> Any:
        """What a claim needs to be run, of the objectives that are there; None where that is nothing."""
        from nearopt import experiment

        entries = []
        for text in dict.fromkeys(t for name, t, *_ in claim.looks() if MEASURES[name].looks == "runs"):
            try:
                self.objective(text)
                entries.append(self.entry(text))
            except Missing:
                continue
        if not claim.strategies or not entries:
            return None
        words = [
            "experiment=smoke", f"strategy={','.join(claim.strategies)}",
            f"objective={','.join(e.text for e in entries)}", f"cluster={','.join(claim.clusters)}",
            f"seeds={claim.seeds}", f"budgets=[{','.join(f'{b:g}' for b in claim.budgets)}]",
        ]  # fmt: skip
        made = experiment.read(words)
        own = {
            name: claim.per_objective[name]
            for e in entries
            if (name := family(e.label)) in claim.per_objective
        }
        return dataclasses.replace(made, name=f"{self.folder.name}/{RUNS}", per_objective=own)

    def run(self, claims: Sequence[Claim]) -> None:
        """Runs what claims look at and lack, side by side; a cell that fails is its objective's loss."""
        from nearopt import experiment

        made = [found for found in map(self.experiment, claims) if found is not None]
        looked = {
            (self.entry(text).label, label)
            for one in claims
            for measure, text, settings, _ in one.looks()
            if MEASURES[measure].looks == "runs"
            for label in labels_of(settings)
        }

        def wanted(cell: experiment.Cell) -> bool:
            return (cell.objective.label, cell.label) in looked

        # Where nothing is lacking, no processes start and no line is printed.
        if any(experiment.work(c).todo for one in made for c in experiment.cells(one) if wanted(c)):
            experiment.run(*made, only=wanted)

    def runs(self, claim: Claim, text: str) -> Folder:
        """An objective's runs; raises Missing where it is not there."""
        return Folder(self, claim, text, self.objective(text))


class Folder:
    """The runs of one objective that a claim asks for, on disk: see `nearopt.claims.measures.Runs`."""

    def __init__(self, sources: Sources, claim: Claim, text: str, objective: Any):
        self.sources, self.claim, self.text, self.objective = sources, claim, text, objective
        self.path = sources.at / sources.entry(text).label
        own = claim.per_objective.get(family(text)) or {}
        self.seeds = int(own.get("seeds", claim.seeds))
        self.max_epoch = int(objective.max_epoch)
        rates = [name for name, axis in objective.space.axes.items() if axis.role == "rate"]
        self.rate = f"hp_{rates[0]}" if rates else None

    def _cell(self, label: str) -> dict[str, Any]:
        from bench import store

        info = store.read_cell(self.path / label)
        if info is None:
            raise Missing(f"{label} was not run")
        if info.get("status") == store.NOT_APPLICABLE:
            raise Missing(f"{label}: {info.get('reason')}")
        if info.get("status") != store.COMPLETE:
            lines = str(info.get("error") or "it failed").strip().splitlines()
            raise Missing(f"{label}: {lines[-1]}")
        return info

    def trace(self, label: str, budget: float) -> pd.DataFrame:
        """The runs planned for a budget; of an anytime strategy the smallest plan that holds them. Only
        the seeds that the claim asks for: others may be there of another claim."""
        from bench import store

        info, there = self._cell(label), store.budgets(self.path / label)
        fits = [b for b in there if (b >= budget if info.get("anytime") else b == budget)]
        if not fits:
            raise Missing(f"{label} has no runs planned for {budget:g} full trainings")
        trace = store.read_trace(self.path / label, min(fits))
        return trace[trace["seed"] < self.seeds].reset_index(drop=True)  # type: ignore[return-value]

    @cached_property
    def goals(self) -> pd.DataFrame:
        """Targets of the instances. Where no reference is stored, the best constant configuration and the
        median random one are those of recorded curves: see `Sample.best`."""
        from bench.drive import instances_of
        from bench.metrics import targets
        from bench.reference import quantiles, reference_table

        instances = np.unique(instances_of(np.arange(self.seeds))).astype(np.int64)
        try:
            table = reference_table(self.objective, instances.tolist(), self.path / "reference.parquet")
        except ValueError:
            if kind_of(self.claim, self.text) != "real":
                raise Missing("no reference of it is stored") from None
            sample = self.sources.sample(self.claim, self.text)
            row = {"optimum_static": sample.best(sample.true).mean(), "optimum_dynamic": np.nan}
            row |= {f"q_{i}": q for i, q in enumerate(quantiles(sample.true[..., -1].ravel()))}
            table = pd.DataFrame([row] * len(instances)).assign(instance=instances)
        return targets(table, self.objective.scale)

    def score(self, label: str, budget: float) -> Score:
        """The runs of a strategy, cut to a budget, scored; raises Missing."""
        from bench.metrics import runs_of, score
        from bench.protocols import budget_epochs

        trace = self.trace(label, budget)
        columns = {str(c): trace[c].to_numpy() for c in trace}
        cut = budget_epochs(budget, self.max_epoch) if trace["budget"].iloc[0] > budget else None
        return score(
            runs_of(columns, cut), self.goals, self.objective.fidelity, self.max_epoch, self.objective.scale
        )
