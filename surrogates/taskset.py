"""TaskSet: recorded Adam runs on 12 text classifiers, 1,000 configurations each, evaluated at 51 times.

Metz et al. 2020, Using a Thousand Optimization Tasks to Learn Hyperparameter Search Strategies,
arXiv:2002.11887: recurrent networks on IMDB reviews, 10,000 steps of Adam with eight hyperparameters drawn
log-uniformly from wide ranges (adam8p), evaluated before the first step and every 200. The files are those
of DyHPO (Wistuba et al. 2022, arXiv:2202.09774) and DPL (Kadra et al. 2023, arXiv:2302.00441): means of five
runs.

What an objective needs beyond the records, and what was chosen:

- The configurations are a sample and no grid. A point of the space is answered with the recorded
  configuration that is nearest in the unit cube, on whose log scales they were drawn; a choice among 1,000
  names would have no geometry to search. Of the geometry this much is left: the final losses of a
  configuration and of its nearest neighbour have a rank correlation of .5. A configuration answers for .1 %
  of the cube on average, for .25 % at most: the law of random configurations is sampled, the optimum exact.
- Epoch e is the e-th evaluation after the one of fresh weights: max_epoch is 50, of 200 steps each.
- Told is the validation loss, the true loss is the test loss, both in nats. A loss that is not a number has
  diverged and stays so, as recorded (up to a quarter of a task's configurations); large finite ones stand as
  they are. The optimum is the lowest test loss, so it includes the luck of the test data.
- Times were not recorded: every epoch of every configuration costs one simulated second.
- The runs cannot be branched: stop and resume are offered, copy and change are not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import MissingData, Reference
from bench.space import Float, Space
from surrogates.wrappers import positions

SOURCE = "folder data/taskset of github.com/releaunifreiburg/DPL"
PREFIX = "FixedTextRNNClassification_"  # of a task's file, which ends in .json
COLLECTED = "taskset_rnn_text_adam8p.npz"  # the same tasks in one file of arrays
TASKS = (
    "imdb_patch128_LSTM128_avg_bs64", "imdb_patch128_LSTM128_bs64", "imdb_patch128_LSTM128_embed128_bs64",
    "imdb_patch32_GRU128_bs128", "imdb_patch32_GRU64_avg_bs128", "imdb_patch32_IRNN64_relu_avg_bs128",
    "imdb_patch32_IRNN64_relu_last_bs128", "imdb_patch32_LSTM128_E128_bs128", "imdb_patch32_LSTM128_bs128",
    "imdb_patch32_VRNN128_tanh_bs128", "imdb_patch32_VRNN64_relu_avg_bs128",
    "imdb_patch32_VRNN64_tanh_avg_bs128",
)  # fmt: skip
EVALUATIONS = 51
BLOCK = 256  # points searched at once
FAR = 1e9  # more than any squared distance in the cube
COMPLEMENTS = {"one_minus_beta1": "beta1", "one_minus_beta2": "beta2"}  # our axes: one minus what is recorded

# The ranges that the recorded configurations fill evenly; the defaults are Adam's.
SPACE = Space(
    {
        "learning_rate": Float(1e-8, 10.0, 1e-3, log=True, role="rate"),
        "one_minus_beta1": Float(1e-4, 1.0, 0.1, log=True),
        "one_minus_beta2": Float(1e-6, 1.0, 1e-3, log=True),
        "epsilon": Float(1e-10, 1e3, 1e-8, log=True),
        "l1": Float(1e-8, 10.0, log=True, role="regularisation"),
        "l2": Float(1e-8, 10.0, log=True, role="regularisation"),
        "linear_decay": Float(1e-7, 1e-4, log=True, role="schedule"),
        "exponential_decay": Float(1e-6, 1e-3, log=True, role="schedule"),
    }
)


class Runs(NamedTuple):
    """What was recorded, on the host. places f32[configurations, axes] in the unit cube, the same for every
    task · losses f32[tasks, configurations, evaluations, 2], validation and test, inf once diverged · digest
    of both."""

    places: np.ndarray
    losses: np.ndarray
    digest: str


class Instance(NamedTuple):
    """task i32[]: index into TASKS."""

    task: Any


def _files(data_dir: str | None) -> list[Path]:
    """The files of a folder that holds all tasks; raises MissingData with the first that is not there."""
    folder = Path(str(data_dir)).expanduser()
    files = [folder / f"{PREFIX}{task}.json" for task in TASKS]
    if data_dir is not None and (folder / COLLECTED).is_file():
        return [folder / COLLECTED]
    for file in files:
        if data_dir is None or not file.is_file():
            raise MissingData(f"no file {file.name} in data_dir={data_dir or 'null'}: set it to the {SOURCE}")
    return files


def _read(file: Path) -> list[tuple[dict[str, np.ndarray], list[np.ndarray]]]:
    """Of each task in a file its hyperparameters by name [configurations], and its validation and test losses
    [configurations, evaluations]."""
    if file.name == COLLECTED:
        data = np.load(file)
        names = [str(name) for name in data["hp_names"]]
        return [
            (
                dict(zip(names, data[f"{task}/hp"].T, strict=True)),
                [data[f"{task}/{part}_loss"] for part in ("valid", "test")],
            )
            for task in TASKS
        ]
    runs = json.loads(file.read_text())
    values = {name: np.array([run["hp"][name] for run in runs], np.float64) for name in runs[0]["hp"]}
    return [(values, [np.array([run[part]["loss"] for run in runs]) for part in ("valid", "test")])]


@lru_cache(maxsize=4)
def load(files: tuple[Path, ...]) -> Runs:
    """Everything that was recorded. Raises ValueError where the files hold something else."""
    try:
        tasks = [task for file in files for task in _read(file)]
        values, _ = tasks[0]
        places = []
        for name, axis in SPACE.axes.items():
            assert isinstance(axis, Float)
            recorded = COMPLEMENTS.get(name, name)
            if any((other[recorded] != values[recorded]).any() for other, _ in tasks):
                raise ValueError(f"tasks differ in {recorded}")
            # The collected file is float32, and both layouts are to give the same places.
            value = values[recorded].astype(np.float32).astype(np.float64)
            value = np.clip(1.0 - value if name in COMPLEMENTS else value, axis.low, axis.high)
            places.append([axis.encode(v) for v in value])
        with np.errstate(over="ignore"):
            losses = np.stack([np.stack(parts, -1) for _, parts in tasks]).astype(np.float32)
        if losses.shape != (len(TASKS), len(values["l1"]), EVALUATIONS, 2):
            raise ValueError(f"losses have the shape {losses.shape}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{files[0].parent} does not hold TaskSet's runs: {error!r}") from None
    places = np.array(places, np.float32).T
    losses = np.where(np.logical_or.accumulate(~np.isfinite(losses), 2), np.float32(np.inf), losses)
    digest = hashlib.sha256(places.tobytes() + losses.tobytes()).hexdigest()[:16]
    for array in (places, losses):
        array.flags.writeable = False  # shared by every objective
    return Runs(places, losses, digest)


def _lowest(values: jax.Array) -> jax.Array:
    """Index i32[] of the (first) lowest of f32[n]."""
    index = jnp.arange(values.shape[0], dtype=jnp.int32)
    return jnp.min(jnp.where(values == jnp.min(values), index, values.shape[0] - 1))


@dataclass(frozen=True)
class TaskSet:
    """Recorded learning curves of Adam; an instance is a task, drawn from all 12, or the one of `task`.

    `data_dir`: a folder of the publisher's files · `task`: one of TASKS, None: the instance draws it.
    `digest` is that of the records, since the objective is their content and not their place.
    """

    name: str = "taskset"
    task: str | None = None
    data_dir: InitVar[str | None] = None
    digest: str = field(init=False, repr=False)
    _files: tuple[Path, ...] = field(init=False, repr=False, compare=False)

    max_epoch = EVALUATIONS - 1
    fidelity = "training"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self, data_dir: str | None):
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, or null for all, got {self.task!r}")
        object.__setattr__(self, "_files", tuple(file.resolve() for file in _files(data_dir)))
        object.__setattr__(self, "digest", self.runs.digest)

    @property
    def runs(self) -> Runs:
        return load(self._files)

    @property
    def space(self) -> Space:
        return SPACE

    def draw(self, key: jax.Array) -> Instance:
        if self.task is not None:
            return Instance(jnp.int32(TASKS.index(self.task)))
        return Instance((jax.random.bits(key, (), jnp.uint32) % len(TASKS)).astype(jnp.int32))

    def nearest(self, hp: Mapping) -> jax.Array:
        """Index i32[] of the recorded configuration that is nearest in the unit cube."""
        places = self.runs.places
        u = jnp.concatenate([positions(SPACE, hp).astype(jnp.float32), jnp.ones((1,), jnp.float32)])
        # |place - u|^2 less |u|^2 as one product, then the lowest of a square's rows and of the row: half the
        # time of one search, which itself takes a tenth of XLA's argmin. What fills the square is far away.
        side = math.isqrt(len(places) - 1) + 1
        weights = np.concatenate([-2.0 * places, (places**2).sum(1, keepdims=True)], 1)
        fill = np.tile(np.float32([0.0] * places.shape[1] + [FAR]), (side * side - len(places), 1))
        weights = np.concatenate([weights, fill]).T

        def search(u):
            distance = jnp.matmul(u, jnp.asarray(weights), precision=jax.lax.Precision.HIGHEST)
            distance = distance.reshape(side, side)
            row = _lowest(jnp.min(distance, 1))
            return row * side + _lowest(distance[row])

        blocked = jax.custom_batching.custom_vmap(search)
        # Many points at once block by block: distances of all to all would not stay in the cache.
        blocked.def_vmap(lambda size, batched, us: (jax.lax.map(search, us, batch_size=BLOCK), True))
        return blocked(u)

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: simulated seconds, one an epoch."""
        return jnp.asarray(until - start, jnp.float64)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: tuple[()],
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        pair = jnp.asarray(self.runs.losses)[instance.task, self.nearest(hp), until]
        return (), pair[0].astype(jnp.float64), pair[1].astype(jnp.float64)

    def reference(self, instance: Instance) -> Reference:
        """The lowest test loss that is recorded of the task, after any epoch."""
        best = jnp.min(jnp.asarray(self.runs.losses)[instance.task, :, 1:, 1])
        return Reference(best.astype(jnp.float64), jnp.asarray(jnp.nan, jnp.float64))
