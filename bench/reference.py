"""What is known of an objective's instances before any comparison: optimum and random's quantiles.

A reference never comes from the comparison that it judges. It is stored beside the objective
(`reference/NAME.parquet`, remade by `nearopt reference objective=NAME`) for the instances that reports use
first; what is missing is computed the same way and kept with the results.

An objective says its optimum by `reference(instance)` where a formula knows it, by
`make_reference(instance, key)` where a search has to find it (traced, one instance), or, where instances
are alike and training is dear, hands over a whole table by `make_reference_table()`. With both of the last
the table is of the mean instance, and an instance is that one moved to its own optimum (see `moved`). An
objective without any of them gets the best of the random configurations, and `how` says so. Quantiles are of
a sample of random configurations, but exact where the objective knows them all: `law(instance)` -> the true
losses f64[n] at max_epoch of n configurations that are equally likely under a uniform draw.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bench.drive import instance_key
from bench.protocols import LEVELS, Reference
from bench.store import write_json

FIRST, STORED = 1000, 64  # the instances that are shipped
SAMPLES = 2**16  # random configurations an instance; an objective may set `reference_samples`
CHUNK = 2048


def name_of(objective: Any) -> str:
    """An objective's name: its own, or its class's."""
    return str(getattr(objective, "name", type(objective).__name__))


def settings_of(objective: Any) -> dict[str, Any]:
    """The settings that decide a reference, as JSON values: the fields by which an objective is compared."""
    if not dataclasses.is_dataclass(objective):
        return {"name": name_of(objective)}
    fields = {f.name: getattr(objective, f.name) for f in dataclasses.fields(objective) if f.compare}
    return json.loads(json.dumps(fields, default=str))


def stored_path(objective: Any) -> Path:
    """Where an objective's reference is stored: beside the module that defines it."""
    module = sys.modules[type(objective).__module__]
    suffix = "json" if hasattr(objective, "make_reference_table") else "parquet"
    return Path(str(module.__file__)).parent / "reference" / f"{name_of(objective)}.{suffix}"


def quantiles(losses: np.ndarray) -> np.ndarray:
    """Order statistics f64[..., levels] of losses [..., n] at LEVELS; not finite counts as worst (inf)."""
    ordered = np.sort(np.where(np.isfinite(losses), losses, np.inf), axis=-1)
    n = ordered.shape[-1]
    rank = np.clip(np.ceil(np.array(LEVELS) * n - 1e-9).astype(int) - 1, 0, n - 1)
    return ordered[..., rank]


def _true_loss(objective, instance, key, x):
    """True loss of a constant configuration x, trained to max_epoch from fresh weights."""
    hp = objective.space.decode_array(x)
    checkpoint = objective.init(instance, key)
    end = jnp.int32(objective.max_epoch)
    return objective.train(instance, key, checkpoint, hp, jnp.int32(0), end)[2].astype(jnp.float64)


def _random_losses(objective, index, chunk, size: int):
    instance = objective.draw(instance_key(index))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2, impl="threefry2x32"), index), chunk)
    x = jax.random.uniform(key, (size, objective.space.dimension), jnp.float32)
    keys = jax.random.split(key, size)
    return jax.vmap(lambda k, u: _true_loss(objective, instance, k, u))(keys, x)


def _optimum(objective, index):
    instance = objective.draw(instance_key(index))
    key = jax.random.fold_in(jax.random.key(3, impl="threefry2x32"), index)
    found = (
        objective.make_reference(instance, key)
        if hasattr(objective, "make_reference")
        else objective.reference(instance)
    )
    return Reference(*(jnp.asarray(v, jnp.float64) for v in found))


def own_optima(objective: Any, instances: Sequence[int]) -> dict[str, float]:
    """The optimum of each instance, by its number, where training is dear: one instance after the other."""
    with jax.enable_x64(True):
        optimum = jax.jit(lambda index: _optimum(objective, index).optimum_static)
        return {str(int(i)): float(optimum(np.uint32(i))) for i in instances}


def moved(row: pd.DataFrame, optima: Mapping[str, float]) -> pd.DataFrame:
    """One row an instance: the `row` of the mean instance, all of it moved by what the instance's optimum is
    above or below the mean's. That is a model, loss = configuration + instance: good configurations bear an
    instance's luck alike, and targets lie among those; docs/tasks.md says how far it holds."""
    index, optimum = np.array([int(i) for i in optima], np.int64), np.array(list(optima.values()), np.float64)
    values = row.to_numpy(np.float64) + (optimum - float(row["optimum_static"].iloc[0]))[:, None]
    table = pd.DataFrame(values, columns=row.columns)
    table.insert(0, "instance", index)
    table.attrs = row.attrs
    return table


def compute(objective: Any, instances: Sequence[int]) -> pd.DataFrame:
    """The reference of these instances, computed now: one row each."""
    if hasattr(objective, "make_reference_table"):
        return moved(_table(objective)[0], own_optima(objective, instances))
    samples = int(getattr(objective, "reference_samples", SAMPLES))
    size = min(CHUNK, samples)
    indices = np.asarray(instances, np.uint32)
    exact = hasattr(objective, "law")
    chunks = 1 if exact else -(-samples // size)

    def part_of_law(index, chunk):
        if exact:
            return objective.law(objective.draw(instance_key(index)))
        return _random_losses(objective, index, chunk, size)

    with jax.enable_x64(True):
        block = jax.jit(jax.vmap(part_of_law, in_axes=(0, None)))
        known = hasattr(objective, "make_reference") or hasattr(objective, "reference")
        optimum = jax.jit(jax.vmap(lambda i: _optimum(objective, i)))
        rows = []
        for first in range(0, len(indices), 16):
            part = indices[first : first + 16]
            padded = np.concatenate([part, np.repeat(part[-1:], 16 - len(part))])
            losses = [np.asarray(block(padded, np.uint32(c))) for c in range(chunks)]
            losses = np.concatenate(losses, 1)[: len(part)]
            if known:
                static, dynamic = (np.asarray(v)[: len(part)] for v in optimum(padded))
            else:
                static = np.where(np.isfinite(losses), losses, np.inf).min(1)
                dynamic = np.full(len(part), np.nan)
            columns = {
                "instance": part.astype(np.int64),
                "optimum_static": static,
                "optimum_dynamic": dynamic,
            }
            columns |= {f"q_{i}": q for i, q in enumerate(quantiles(losses).T)}
            rows.append(pd.DataFrame(columns))
    table = pd.concat(rows, ignore_index=True)
    source = "the objective's own search" if hasattr(objective, "make_reference") else "formula"
    source = source if known else "best of the random configurations"
    law = "all configurations" if exact else f"{samples} random configurations an instance"
    table.attrs = {
        "how": f"optimum: {source}; quantiles: {law}, at max_epoch",
        "settings": settings_of(objective),
    }
    return table


def _table(objective: Any) -> tuple[pd.DataFrame, dict[str, float]]:
    """What `make_reference_table` left: its one row, and the optima that are stored of instances, by number.
    Raises ValueError where it was not made for these settings."""
    path = stored_path(objective)
    stored = json.loads(path.read_text()) if path.exists() else None
    if stored is None or stored["settings"] != settings_of(objective):
        raise ValueError(
            f"{name_of(objective)} has no stored reference for these settings: "
            f"run `nearopt reference objective={name_of(objective)}` first"
        )
    row = {"optimum_static": stored["optimum_static"], "optimum_dynamic": stored["optimum_dynamic"]}
    row |= {f"q_{i}": np.inf if q is None else q for i, q in enumerate(stored["quantiles"])}
    table = pd.DataFrame([row]).astype(float)
    own = " Of each instance the optimum is its own, and the quantiles are moved by as much."
    how = stored["how"] + own * hasattr(objective, "make_reference")
    table.attrs = {"how": how, "settings": stored["settings"]}
    return table, stored.get("optima", {})


def _load(objective: Any) -> pd.DataFrame | None:
    """The stored table, where it was made for these settings; without a column `instance`: of every one."""
    if hasattr(objective, "make_reference_table"):
        row, optima = _table(objective)
        return moved(row, optima) if hasattr(objective, "make_reference") else row
    path = stored_path(objective)
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    return table if table.attrs.get("settings") == settings_of(objective) else None


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)


def make(objective: Any) -> Path:
    """Remakes an objective's stored reference and returns its path."""
    path = stored_path(objective)
    if hasattr(objective, "make_reference_table"):
        write_json(path, objective.make_reference_table())
        make_optima(objective)
    else:
        write_table(compute(objective, range(FIRST, FIRST + STORED)), path)
    return path


def make_optima(objective: Any) -> None:
    """Adds to a stored table the optima of the instances that are shipped, where they have their own."""
    path = stored_path(objective)
    if hasattr(objective, "make_reference"):
        optima = own_optima(objective, range(FIRST, FIRST + STORED))
        write_json(path, json.loads(path.read_text()) | {"optima": optima})


def reference_table(objective: Any, instances: Sequence[int], cache: Path | None = None) -> pd.DataFrame:
    """References of these instances, one row each: instance, optimum_static, optimum_dynamic, q_0 .. at
    LEVELS; `attrs["how"]` says how they were found. Looks into the stored table, then into `cache`, computes
    the rest and leaves all of it in `cache`, beside what was there: the results that it lies with may have
    more instances than are asked for."""
    asked = np.unique(np.asarray(instances, np.int64))
    cached = None
    if cache is not None and cache.exists():
        try:
            cached = pd.read_parquet(cache)
        except (OSError, ValueError):
            pass  # unreadable: computed again
    if cached is not None and cached.attrs.get("settings") != settings_of(objective):
        cached = None
    wanted = asked if cached is None else np.union1d(asked, cached["instance"].to_numpy(np.int64))
    stored = _load(objective)
    if stored is not None and "instance" not in stored:  # one row for every instance
        table = stored.loc[np.zeros(len(wanted), int)].reset_index(drop=True)
        table.insert(0, "instance", wanted)
        table.attrs = stored.attrs
        parts, how = [table], stored.attrs["how"]
    else:
        if cached is not None and stored is not None and cached.attrs.get("how") != stored.attrs.get("how"):
            cached = None  # of another search: what is not stored is found again
        parts, how = [], None
        left = wanted
        for part in (stored, cached):
            if part is not None:
                parts.append(part[part["instance"].isin(left.tolist())])
                left = np.setdiff1d(left, part["instance"].to_numpy())
                how = how or part.attrs.get("how")
        if len(left):
            parts.append(compute(objective, left.tolist()))
            how = how or parts[-1].attrs["how"]
    table = pd.concat([p.astype({"instance": np.int64}) for p in parts]).sort_values("instance")
    table = table.reset_index(drop=True)
    table.attrs = {"how": how, "settings": settings_of(objective)}
    if cache is not None:
        write_table(table, cache)
    part: Any = table[table["instance"].isin(asked.tolist())]
    part = part.reset_index(drop=True)
    part.attrs = table.attrs
    return part
