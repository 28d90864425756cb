"""Recorded real trainings as an objective: a surrogate fitted to the tables that `nearopt record` writes.

The mean log loss of a configuration over the epochs is a mean curve plus a few principal components, whose
weights are Gaussian processes of the configuration (Matern 5/2 with a lengthscale an axis, by their marginal
likelihood: Rasmussen & Williams 2006, chapters 4 and 5). Whether a training diverges, what it costs and how
much its told losses scatter are processes likewise. A table of published surrogates is in Zela et al. 2022,
arXiv:2008.09777, whose rule is kept here: judge the fit on configurations that it has not seen.

What was chosen:

- Validation and test losses estimate the same curve, which is their mean over seeds and splits; the true loss
  is that mean, and all instances are alike. Told losses scatter log-normally, by a factor that stays with the
  training (its weights, its split) and one of each epoch; the true loss is the mean of what may be told.
- Losses above `cap`, the 95 % quantile of all configurations after the first epoch, count as the cap: how far
  beyond guessing a training went teaches nothing about good ones, and would take most of the fit.
- A training diverges with its configuration's probability, at an epoch of those at which recorded ones did.
- Memoryless, a curve offers stop and resume. Dynamics are fitted to recorded forks: a checkpoint carries its
  log loss, and what that is above or below the mean curve of the hyperparameters it is trained with shrinks
  by a factor each epoch, which depends on them, on the epoch and on the side. They are offered, and with them
  copy and change, only if they predict the final losses of forks of configurations that the fit has not seen
  with a rank correlation of at least .8.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import LEVELS, MissingData, Reference
from bench.space import Space
from surrogates.curve_fit import TRUSTED, features, fit, judge, shrinkage, space_of
from surrogates.evolution import minimise

CURVES, FORKS, CARD, FIT, TRUST = "curves.parquet", "forks.parquet", "recording.json", "fit.npz", "fit.json"
RARE = 0.05  # a probability of diverging below it is none: the process is not exactly 0 where nothing does
SAMPLES, POPULATION, GENERATIONS = 2**15, 96, 150  # of the reference


class State(NamedTuple):
    """A checkpoint. level f64[]: its mean log loss (0 before the first epoch) · diverged bool[]."""

    level: Any
    diverged: Any


class _Loaded(NamedTuple):
    """A fit with its recording's card. forks: rank correlation on held-out continuations."""

    card: dict[str, Any]
    space: Space
    arrays: dict[str, np.ndarray]
    forks: float


@lru_cache(maxsize=16)
def _load(folder: Path, digest: str) -> _Loaded:
    card = json.loads((folder / CARD).read_text())
    with np.load(folder / FIT) as file:
        arrays = {name: file[name] for name in file.files}
    return _Loaded(card, space_of(card["axes"]), arrays, json.loads((folder / TRUST).read_text())["forks"])


@dataclass(frozen=True)
class Fitted:
    """A surrogate of the recorded objective `table`: the folder of that name in `data_dir`, by default those
    that are shipped, made by `nearopt record objective=... fit=...`. `digest` is that of the fit's file,
    since the objective is its content and not its place."""

    name: str
    table: str
    data_dir: InitVar[str | None] = None
    digest: str = field(init=False, repr=False)
    _folder: Path = field(init=False, repr=False, compare=False)

    fidelity = "training"

    def __post_init__(self, data_dir: str | None):
        within = Path(__file__).parent / "recorded" if data_dir is None else Path(data_dir).expanduser()
        folder = (within / self.table).resolve()
        for name in (CARD, FIT, TRUST):
            if not (folder / name).is_file():
                raise MissingData(
                    f"no file {name} in {folder}: record and fit with `nearopt record objective={self.table} "
                    f"fit={self.name}`, and set data_dir to the folder that holds {self.table}"
                )
        object.__setattr__(self, "_folder", folder)
        object.__setattr__(self, "digest", hashlib.sha256((folder / FIT).read_bytes()).hexdigest()[:16])

    @staticmethod
    def make(folder: Path) -> None:
        """Fits to the recording in a folder and judges the fit: writes FIT and TRUST there."""
        import pandas as pd

        card = json.loads((folder / CARD).read_text())
        space, curves = space_of(card["axes"]), pd.read_parquet(folder / CURVES)
        forks = pd.read_parquet(folder / FORKS) if (folder / FORKS).is_file() else None
        trust, arrays = judge(space, curves, forks), fit(space, curves, forks)
        temporary = folder / f".{FIT}.{os.getpid()}.npz"
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        (folder / TRUST).write_text(json.dumps(trust, indent=1) + "\n")
        os.replace(temporary, folder / FIT)

    @property
    def _fit(self) -> _Loaded:
        return _load(self._folder, self.digest)

    @property
    def space(self) -> Space:
        return self._fit.space

    @property
    def max_epoch(self) -> int:
        return len(self._fit.arrays["middle"])

    @property
    def scale(self) -> str:
        return self._fit.card["scale"]

    @property
    def changes(self) -> bool:
        """Dynamics were fitted and predict held-out forks."""
        return "dynamics" in self._fit.arrays and self._fit.forks >= TRUSTED

    @property
    def offers(self) -> frozenset[str]:
        return frozenset({"stop", "resume"} | ({"copy", "change"} if self.changes else set()))

    def trust(self) -> list[tuple[str, str]]:
        """How far to believe it: what was measured when it was fitted, as (what, value)."""
        said = json.loads((self._folder / TRUST).read_text())["said"]
        return [(name, value) for name, value in said]

    def add_trust(self, said: list[tuple[str, str]]) -> None:
        """Keeps what was measured on the task itself."""
        known = json.loads((self._folder / TRUST).read_text())
        known["said"] += said
        (self._folder / TRUST).write_text(json.dumps(known, indent=1) + "\n")

    def _processes(self, x: jax.Array, which: slice) -> jax.Array:
        """Predictions f32[processes] at features x f32[features]."""
        a = self._fit.arrays
        away = (x - jnp.asarray(a["x"])) * jnp.asarray(a["scale"])[which, None]
        r = jnp.sqrt(jnp.maximum(5.0 * (away * away).sum(-1), 1e-10))
        kernel = (1.0 + r + r * r / 3.0) * jnp.exp(-r)
        return jnp.asarray(a["offset"])[which] + (kernel * jnp.asarray(a["weights"])[which]).sum(-1)

    def _predict(self, hp: Mapping) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Features f32[features], mean log losses f64[epochs], probability that a training diverges and the
        scatter of its told log losses, f64[]."""
        a, x = self._fit.arrays, jnp.stack(features(self.space, hp))
        n = len(a["basis"])
        found = self._processes(x, slice(n + 3))
        curve = jnp.minimum(a["middle"] + found[:n] @ a["basis"], a["cap"])
        lost = jnp.clip((found[n] - RARE) / (1.0 - 2.0 * RARE), 0.0, 1.0)
        scatter = a["gain"] * jnp.exp(jnp.clip(found[n + 2], a["least"], a["most"]))
        curve, lost, scatter = (jnp.asarray(v, jnp.float64) for v in (curve, lost, scatter))
        return x, curve, lost, scatter

    def draw(self, key: jax.Array) -> tuple[()]:
        return ()

    def init(self, instance: tuple[()], key: jax.Array) -> State:
        return State(jnp.float64(0.0), jnp.bool_(False))

    def cost(self, instance: tuple[()], key: jax.Array, hp: Mapping, start: Any, until: Any) -> jax.Array:
        """f64[]: simulated seconds, the recorded task's for that configuration, alike in each epoch."""
        n = len(self._fit.arrays["basis"])
        epoch = self._processes(jnp.stack(features(self.space, hp)), slice(n + 1, n + 2))[0]
        return jnp.asarray(until - start, jnp.float64) * jnp.exp(epoch.astype(jnp.float64))

    def train(
        self, instance: tuple[()], key: jax.Array, checkpoint: State, hp: Mapping, start: Any, until: Any
    ) -> tuple[State, jax.Array, jax.Array]:
        a, epochs = self._fit.arrays, self.max_epoch
        x, curve, lost, scatter = self._predict(hp)
        # One draw for all epochs: what an epoch gets depends on the key and its number alone.
        u = jax.random.uniform(key, (2, epochs + 1), jnp.float64, 1e-12)
        # Of those that have not diverged before an epoch, who does in it.
        within = lost * jnp.asarray(a["when"], jnp.float64)
        hazard = within / jnp.maximum(1.0 - (jnp.cumsum(within) - within), 1e-9)
        number = jnp.arange(epochs)
        struck = (u[0, :-1] < hazard) & (number >= start) & (number < until)
        diverged = checkpoint.diverged | struck.any()
        level = curve[until - 1]
        if self.changes:
            off = jnp.where(start > 0, checkpoint.level - curve[start - 1], 0.0)
            total = jnp.where(off > 0, *shrinkage(jnp.asarray(a["dynamics"], jnp.float64), x, epochs))
            level = level + off * jnp.exp(total[until] - total[start])
        stays, moves = jax.scipy.special.ndtri(u[1, -1]), jax.scipy.special.ndtri(u[1, until - 1])
        constant = jnp.asarray(a["constant"], jnp.float64)
        noise = scatter * (jnp.sqrt(constant) * stays + jnp.sqrt(1.0 - constant) * moves)
        mean = level + scatter**2 / 2.0  # of the told losses, not of their logs
        loss, true_loss = (jnp.where(diverged, jnp.inf, jnp.exp(v)) for v in (level + noise, mean))
        return State(level, diverged), loss, true_loss

    def reference(self, instance: tuple[()]) -> Reference:
        """The stored search's optimum; all instances are alike. Raises ValueError where none is stored."""
        path = Path(__file__).parent / "reference" / f"{self.name}.json"
        if not path.is_file():
            raise ValueError(
                f"no reference of {self.name}: make it with: nearopt reference objective={self.name}"
            )
        found = jnp.asarray(json.loads(path.read_text())["optimum_static"], jnp.float64)
        return Reference(found, jnp.full_like(found, jnp.nan))

    def make_reference_table(self) -> dict[str, Any]:
        """The lowest mean curve by differential evolution, and quantiles of random configurations."""
        key = jax.random.key(5, impl="threefry2x32")

        def random(key):
            x = jax.random.uniform(key, (self.space.dimension,), jnp.float32)
            end = jnp.int32(self.max_epoch)
            hp = self.space.decode_array(x)
            return self.train((), key, self.init((), key), hp, jnp.int32(0), end)[2]

        def lowest(x):
            _, curve, lost, scatter = self._predict(self.space.decode_array(x))
            return jnp.where(lost > 0.5, jnp.inf, jnp.exp(curve.min() + scatter**2 / 2.0))

        with jax.enable_x64(True):
            keys = jax.random.split(key, SAMPLES)
            true = np.sort(np.asarray(jax.lax.map(jax.jit(random), keys, batch_size=512)))
            best = float(
                jax.jit(lambda: minimise(lowest, key, self.space.dimension, POPULATION, GENERATIONS))()
            )
        rank = np.clip(np.ceil(np.array(LEVELS) * SAMPLES - 1e-9).astype(int) - 1, 0, SAMPLES - 1)
        return {
            "how": (
                f"optimum: differential evolution of the mean curve's lowest epoch, {POPULATION} members, "
                f"{GENERATIONS} generations; quantiles: {SAMPLES} random configurations, at max_epoch"
            ),
            "settings": {"name": self.name, "table": self.table, "digest": self.digest},
            "optimum_static": best,
            "optimum_dynamic": None,
            "levels": list(LEVELS),
            "quantiles": [float(q) if np.isfinite(q) else None for q in true[rank]],  # None: diverged
        }  # fmt: skip
