"""Recorded trainings: Sobol configurations of an objective, every epoch of them, as tables for others.

A recording is a folder with two tables, each written in blocks as they are done, so that a kill loses the
block under way and no more, and more configurations or seeds add to what is there:

    curves   one row a training: configuration, seed, the hyperparameters (`hp_NAME`, in their own units),
             cost (simulated seconds) and, as lists over epochs 1 to max_epoch, loss (validation), true_loss
             (test) and, where the objective's `evaluate` gives them, error and true_error; infinite: diverged
    forks    one row a continuation: from the checkpoint of `configuration` and `seed` at `epoch`, with
             hyperparameters `hp_NAME` (those that may change, changed) to the end; the lists begin at
             epoch + 1; `change` 0 leaves all as it was and shows what chance does

The seed's instance is the one of its number, so 0, 1, ...: instances under 1000 are for developing, and no
report uses them. A fork has a key of its own from its epoch on, as a copy made by a strategy has.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BLOCK = 64  # trainings in a block, about
SHARES = (1 / 9, 1 / 3, 2 / 3)  # of max_epoch, where forks begin
CHANGES = 3  # forks of one checkpoint: unchanged, a small change and a large one
SMALL = 0.1  # standard deviation of a small change, in the unit cube; a large one draws anew
SCORES = ("loss", "true_loss", "error", "true_error")
FORKED = 2**20  # added to the number of a fork for its key: beyond any configuration's


def axes_of(space: Any) -> dict[str, dict[str, Any]]:
    """A space as JSON values: per axis its class's name and its fields."""
    return {
        name: {"kind": type(axis).__name__} | json.loads(json.dumps(dataclasses.asdict(axis)))
        for name, axis in space.axes.items()
    }


def design(dimension: int, configurations: int) -> np.ndarray:
    """The first points f32[configurations, d] of a scrambled Sobol sequence in the unit cube."""
    from scipy.stats.qmc import Sobol

    doublings = max(configurations - 1, 1).bit_length()
    return (
        Sobol(dimension, rng=np.random.default_rng(0))
        .random_base2(doublings)[:configurations]
        .astype(np.float32)
    )


def program(objective: Any, lanes: int) -> Callable[..., dict[str, np.ndarray]]:
    """Trains rows in blocks of `lanes` of one compiled program: (seed, trial, x, x after the fork, its epoch,
    its trial) -> SCORES f32[rows, max_epoch], cost f32[rows]."""
    import jax
    import jax.numpy as jnp

    from bench.drive import instance_key, seed_keys
    from bench.simulate import LESS

    options = LESS if jax.default_backend() == "cpu" and not hasattr(objective, "chunk") else {}

    @partial(jax.jit, compiler_options=options)
    @jax.vmap
    def train(seed, trial, x, later, fork, fork_trial):
        root = seed_keys(seed)[2]
        instance = objective.draw(instance_key(seed))
        first, second = jax.random.fold_in(root, trial), jax.random.fold_in(root, fork_trial)

        def epoch(checkpoint, number):
            forked = number >= fork
            hp = objective.space.decode_array(jnp.where(forked, later, x))
            key = jax.random.wrap_key_data(
                jnp.where(forked, jax.random.key_data(second), jax.random.key_data(first)),
                impl="threefry2x32",
            )
            checkpoint, loss, true_loss = objective.train(instance, key, checkpoint, hp, number, number + 1)
            scores = (loss, true_loss)
            if hasattr(objective, "evaluate"):
                scores = objective.evaluate(instance, checkpoint)
            return checkpoint, jnp.stack([jnp.asarray(s, jnp.float32) for s in scores])

        start = objective.init(instance, first)
        _, scores = jax.lax.scan(epoch, start, jnp.arange(objective.max_epoch, dtype=jnp.int32))
        hp = objective.space.decode_array(x)
        cost = objective.cost(instance, first, hp, jnp.int32(0), jnp.int32(objective.max_epoch))
        return scores, jnp.asarray(cost, jnp.float32)

    def run(*columns: np.ndarray) -> dict[str, np.ndarray]:
        found, costs, n = [], [], len(columns[0])
        with jax.enable_x64(True):
            for begin in range(0, n, lanes):
                rows = np.minimum(np.arange(begin, begin + lanes), n - 1)
                scores, cost = train(*(column[rows] for column in columns))
                found.append(np.asarray(scores)[: n - begin])
                costs.append(np.asarray(cost)[: n - begin])
        scores = np.concatenate(found)
        names = SCORES[: scores.shape[2]]
        return {name: scores[:, :, i] for i, name in enumerate(names)} | {"cost": np.concatenate(costs)}

    return run


def _values(space: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    columns = space.decode_many(x)
    return {
        f"hp_{name}": v.astype(np.float32) if v.dtype == np.float64 else v.astype(np.int32)
        if v.dtype == np.int64 else v
        for name, v in columns.items()
    }  # fmt: skip


def _write(table: pd.DataFrame, path: Path, about: dict[str, Any] | None = None) -> None:
    """Writes a table whole or not at all; `about` goes into its metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.Table.from_pandas(table, preserve_index=False)
    if about is not None:
        made = made.replace_schema_metadata({**(made.schema.metadata or {}), b"nearopt": json.dumps(about)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Losses have as many values as rows: their bytes are told apart, which packs them by a third.
    split = [f"{name}.list.element" for name in SCORES[:2] if name in made.column_names]
    others = [name for name in made.column_names if name not in SCORES[:2]]
    others = [f"{name}.list.element" if name in SCORES else name for name in others]
    write: Any = pyarrow.parquet.write_table
    write(
        made, temporary, compression="zstd", compression_level=15,
        use_dictionary=others, use_byte_stream_split=split,
    )  # fmt: skip
    os.replace(temporary, path)


def _changed(space: Any, x: np.ndarray, change: int, draw: np.random.Generator) -> np.ndarray:
    """A configuration f32[d] with the axes that may change moved: 0 none, 1 a little, 2 drawn anew."""
    free = np.array([axis.change for axis in space.axes.values()])
    moved = x + SMALL * draw.standard_normal(len(x)) if change == 1 else draw.random(len(x))
    # Off the faces by what float32 may round, so that no axis leaves the cube.
    return x if change == 0 else np.where(free, np.clip(moved, 0.0, 1.0), x).astype(np.float32)


def fork_plan(objective: Any, x: np.ndarray, forks: int) -> pd.DataFrame:
    """Which continuations are recorded: of configurations f32[n, d], `forks` in all, with columns
    configuration, epoch, change and x. Configuration after configuration, so that more add to fewer."""
    epochs = sorted(
        {min(max(1, round(share * objective.max_epoch)), objective.max_epoch - 1) for share in SHARES}
    )
    rows, configuration = [], 0
    while len(rows) < forks and configuration < len(x):
        draw = np.random.default_rng([17, configuration])
        for epoch in epochs:
            for change in range(CHANGES):
                moved = _changed(objective.space, x[configuration], change, draw)
                rows.append((configuration, epoch, change, moved))
        configuration += 1
    return pd.DataFrame(rows[:forks], columns=pd.Index(["configuration", "epoch", "change", "x"]))


def record(
    objective: Any, folder: Path, configurations: int, seeds: int, forks: int = 0
) -> Iterator[tuple[str, int, int]]:
    """Records into `folder`, yielding (table, trainings done, trainings in all) after each block. Raises
    ValueError where the folder holds a recording of another objective."""
    from bench.reference import name_of, settings_of

    space = objective.space
    about = {"objective": name_of(objective), "settings": settings_of(objective), "axes": axes_of(space)}
    about |= {"max_epoch": int(objective.max_epoch), "scale": objective.scale}
    card = folder / "recording.json"
    # As text, since points of the design go to axes in their order.
    if card.exists() and card.read_text() != json.dumps(about, indent=1) + "\n":
        raise ValueError(f"{folder} holds a recording with other settings: remove it, or give another name")
    folder.mkdir(parents=True, exist_ok=True)
    card.write_text(json.dumps(about, indent=1) + "\n")
    x = design(space.dimension, configurations)
    lanes = min(int(getattr(objective, "pool", BLOCK)), configurations)
    size = lanes * max(1, round(BLOCK / lanes))
    run = program(objective, lanes)
    plan = fork_plan(objective, x, forks)
    for name, length in (("curves", configurations), ("forks", len(plan))):
        for seed in range(seeds):
            for begin in range(0, length, size):
                rows = np.arange(begin, min(begin + size, length))
                path = folder / name / f"{seed}-{begin}-{rows[-1]}.parquet"
                if not path.exists():
                    table = _curves(space, run, seed, x, rows) if name == "curves" else _forks(
                        space, run, seed, x, plan.iloc[rows], rows, int(objective.max_epoch)
                    )  # fmt: skip
                    _write(table, path)
                yield name, seed * length + int(rows[-1]) + 1, seeds * length
        if length:
            parts = [
                pd.read_parquet(folder / name / f"{seed}-{begin}-{min(begin + size, length) - 1}.parquet")
                for seed in range(seeds)
                for begin in range(0, length, size)
            ]
            _write(pd.concat(parts, ignore_index=True), folder / f"{name}.parquet", about)


def _curves(space: Any, run: Callable, seed: int, x: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    n, points = len(rows), x[rows]
    trial = rows.astype(np.uint32)
    none = np.full(n, np.iinfo(np.int32).max, np.int32)  # no fork
    found = run(np.full(n, seed, np.uint32), trial, points, points, none, trial)
    ids = {"configuration": rows.astype(np.int32), "seed": np.full(n, seed, np.int16)}
    lists = {name: list(found[name]) for name in SCORES if name in found}
    return pd.DataFrame(ids | _values(space, points) | {"cost": found["cost"]} | lists)


def _forks(
    space: Any, run: Callable, seed: int, x: np.ndarray, plan: pd.DataFrame, rows: np.ndarray, max_epoch: int
) -> pd.DataFrame:
    n, configuration = len(plan), plan["configuration"].to_numpy(np.int32)
    later, epoch = np.stack(plan["x"].tolist()), plan["epoch"].to_numpy(np.int32)
    trial = configuration.astype(np.uint32)
    own = (FORKED + rows).astype(np.uint32)
    found = run(np.full(n, seed, np.uint32), trial, x[configuration], later, epoch, own)
    ids = {
        "configuration": configuration,
        "seed": np.full(n, seed, np.int16),
        "epoch": epoch.astype(np.int16),
    }
    ids |= {"change": plan["change"].to_numpy(np.int8)}
    lists = {k: [v[e:] for v, e in zip(found[k], epoch, strict=True)] for k in SCORES if k in found}
    return pd.DataFrame(ids | _values(space, later) | lists)
