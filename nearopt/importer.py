"""Traces of optimizers that others published -> a results folder that `nearopt report` reads.

A frame has one row an evaluation: task (what is tuned), seed (the repetition), method (who tunes),
evaluation (its number, from 0 or 1), loss (lower is better, nan: failed). Every evaluation counts as one
full training. Optional columns: true_loss (test or noise-free loss, else the loss itself) and cost (seconds,
else 1).

Near-optimal and the gap need the task's optimum and what random configurations reach. Give them
(`references`), or they come from the traces: then targets depend on who took part, and every page says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.reference import FIRST, quantiles, write_table

COLUMNS = ("task", "seed", "method", "evaluation", "loss")
BORROWED = "optimum and random's quantiles are those of the imported traces: targets depend on who took part"


def import_traces(
    frame: pd.DataFrame,
    folder: str | Path,
    *,
    maximize: bool = False,
    budgets: Sequence[float] = (),
    references: Mapping[str, tuple[float, Sequence[float]]] | None = None,
    random: str = "random",
    scale: str = "linear",
) -> Path:
    """Writes results/NAME from a frame of traces; returns the folder, for `nearopt report`.

    maximize: turn the sign of loss, true_loss and references. budgets: the evaluations at which to report,
    else quarter, half and whole. references: task -> (optimum, losses of random configurations), of the
    frame's sign; where it is not given the lowest finite true loss of any trace is the optimum, and the
    losses of the method named `random`, or of all methods where there is none, are the random ones.
    Evaluations that a trace leaves out (published traces may hold improvements only) count as spent and
    found nothing. Seeds that are no whole numbers are numbered in their order, all tasks alike.

    Raises ValueError for a missing column, a row without task, seed or method, a row twice, an evaluation
    that is no whole number, methods that begin to count at 0 and at 1, a loss that is no number, a cost that
    is none or negative, a budget that no trace has, references of no task that is there or whose optimum is
    worse than random, an existing folder, or seeds of a method on one task that end at different
    evaluations."""
    root = Path(folder)
    lacking = [c for c in COLUMNS if c not in frame]
    if lacking:
        raise ValueError(f"a trace needs the columns {', '.join(COLUMNS)}; {lacking[0]} is not there")
    if any(root.glob("*")):
        raise ValueError(f"{root} exists and is not empty: give the import another folder")
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be linear or log, got {scale!r}")
    table: Any = frame.reset_index(drop=True)
    for column in ("task", "method"):  # a categorical column would bring its unused names
        table[column] = table[column].astype(object)
    for column in ("task", "seed", "method"):
        if table[column].isna().any():
            raise ValueError(f"row {int(table[column].isna().argmax())} has no {column}")
    number = _numbers(table, "evaluation")
    if not len(table) or np.isnan(number).any() or (number != np.floor(number)).any() or number.min() < 0:
        raise ValueError("evaluation must be whole numbers from 0 or 1")
    table["evaluation"] = number.astype(np.int64)
    table["seed"] = _seeds(table["seed"])
    twice = table.duplicated(["task", "seed", "method", "evaluation"])
    if twice.any():
        row = table[twice].iloc[0]
        raise ValueError(f"evaluation {row['evaluation']} of {row['method']} on {row['task']}, seed "
                         f"{row['seed']}, is there twice")  # fmt: skip
    starts: Any = table.groupby("method")["evaluation"].min()
    if starts.min() == 0 and starts.max() == 1:
        raise ValueError(f"{starts.idxmin()} counts evaluations from 0, {starts.idxmax()} from 1")
    table["evaluation"] -= 1 if starts.min() >= 1 else 0
    sign = -1.0 if maximize else 1.0
    table["loss"] = sign * _numbers(table, "loss")
    table["true_loss"] = sign * _numbers(table, "true_loss") if "true_loss" in table else table["loss"]
    table["cost"] = _numbers(table, "cost") if "cost" in table else 1.0
    if not (table["cost"].to_numpy() >= 0).all():
        raise ValueError("cost must be numbers of at least 0")
    longest = int(table["evaluation"].max()) + 1
    for budget in budgets:
        if not 1 <= budget <= longest:
            raise ValueError(f"a budget of {budget:g}: the traces have 1 to {longest} evaluations")
    known = {str(task): given for task, given in (references or {}).items()}
    if known and not known.keys() & {str(task) for task in table["task"]}:
        raise ValueError(f"references of {', '.join(sorted(known)[:3])}: no such task in the traces")
    names = {task: _folder(task) for task in table["task"].unique()}
    for kind, given in (("task", names), ("method", {m: _folder(m) for m in table["method"].unique()})):
        if len(set(given.values())) < len(given):
            raise ValueError(f"two {kind}s differ only in signs that a folder's name cannot hold")
    for task, part in table.groupby("task", sort=True):
        for method, rows in part.groupby("method"):
            ends = np.array([p["evaluation"].max() for _, p in rows.groupby("seed")]) + 1
            if ends.min() < ends.max():
                raise ValueError(f"{method} on {task}: seeds end after {ends.min()} to {ends.max()} "
                                 "evaluations; cut them alike first")  # fmt: skip
    tables = {
        task: _reference(str(task), part, known.get(str(task)), sign, random)
        for task, part in table.groupby("task")
    }
    for task, part in table.groupby("task", sort=True):
        given = known.get(str(task))
        write_table(tables[task], root / names[task] / "reference.parquet")
        for method, rows in part.groupby("method", sort=True):
            _write_cell(root / names[task] / _folder(method), rows, str(task), budgets, scale, given is None)
    planned = list(budgets) or _thirds(int(table["evaluation"].max()) + 1)
    store.write_json(
        root / "experiment.json",
        {
            "name": root.name,
            "budgets": [float(b) for b in planned],
            "objectives": list(names.values()),
            "strategies": sorted({_folder(m) for m in table["method"].unique()}),
            "seeds": int(table.groupby(["task", "method"])["seed"].nunique().max()),
            "command": "nearopt.importer.import_traces",
        },
    )
    return root


def _folder(name: object) -> str:
    """A name that a folder may have: no separators, not hidden."""
    return re.sub(r"[^\w.,=+ -]", "_", str(name)).strip(". ") or "_"


def _thirds(length: int) -> list[int]:
    return sorted({max(length // 4, 1), max(length // 2, 1), length})


def _numbers(table: Any, column: str) -> np.ndarray:
    try:
        return table[column].to_numpy(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{column} must be numbers (nan where there is none)") from None


def _seeds(column: Any) -> np.ndarray:
    """Whole numbers as they are, other names numbered in their order."""
    try:
        number = column.to_numpy(np.float64)
    except (TypeError, ValueError):
        number = np.array([0.5])
    if (number == np.floor(number)).all() and (np.abs(number) < 2**53).all():
        return number.astype(np.int64)
    return np.unique(column.astype(str), return_inverse=True)[1].astype(np.int64)


def _reference(task: str, part: Any, given: Any, sign: float, random: str) -> pd.DataFrame:
    if given is not None:
        optimum, losses = sign * float(given[0]), sign * np.asarray(given[1], np.float64)
        how = "given with the import"
        if not len(losses) or not np.isfinite(optimum):
            raise ValueError(f"references of {task} need a finite optimum and random losses")
        if optimum > np.median(np.where(np.isfinite(losses), losses, np.inf)):
            turned = "lower must be better" if sign > 0 else "they turn their sign with the loss"
            raise ValueError(
                f"references of {task}: the optimum is worse than the median random loss; {turned}"
            )
    else:
        own = part[part["method"] == random]
        losses = (own if len(own) else part)["true_loss"].to_numpy(np.float64)
        every = part["true_loss"].to_numpy(np.float64)
        optimum, how = float(np.min(every[np.isfinite(every)], initial=np.inf)), BORROWED
        if np.isinf(optimum):
            raise ValueError(f"no loss of {task} is finite: give its references")
    row = {"instance": [FIRST], "optimum_static": [optimum], "optimum_dynamic": [np.nan]}
    row |= {f"q_{i}": [q] for i, q in enumerate(quantiles(losses))}
    table = pd.DataFrame(row)
    table.attrs = {"how": how}
    return table


def _write_cell(
    folder: Path, rows: Any, task: str, budgets: Sequence[float], scale: str, borrowed: bool
) -> None:
    length = int(rows["evaluation"].max()) + 1
    seeds = np.sort(rows["seed"].unique())
    row = np.searchsorted(seeds, rows["seed"].to_numpy())
    at = row * length + rows["evaluation"].to_numpy()

    def whole(column: str, fill: float) -> np.ndarray:
        out = np.full(len(seeds) * length, fill)
        out[at] = rows[column].to_numpy(np.float64)
        return out

    job = np.tile(np.arange(length), len(seeds))
    cost = whole("cost", 0.0)
    clock = np.cumsum(cost.reshape(len(seeds), length), axis=1).ravel()
    trace = pd.DataFrame({
        "seed": np.repeat(seeds, length).astype(np.int64), "instance": FIRST, "budget": float(length),
        "job": job, "trial": job, "source": -1, "start": 0, "until": 1, "loss": whole("loss", np.nan),
        "true_loss": whole("true_loss", np.nan), "recommended_true_loss": np.nan, "cost": cost, "worker": 0,
        "started": clock - cost, "finished": clock, "status": "finished",
    })  # fmt: skip
    store.write_block(folder, float(length), trace, {"imported": True})
    planned = [float(b) for b in budgets if b <= length] or [float(b) for b in _thirds(length)]
    store.write_json(
        folder / "cell.json",
        {
            "format": store.FORMAT,
            "objective": folder.parent.name,
            "label": folder.name,
            "strategy": folder.name,
            "settings": {"imported": True, "task": task},
            "budgets": planned,
            "status": store.COMPLETE,
            "anytime": True,
            "max_epoch": 1,
            "fidelity": "training",
            "scale": scale,
            **({"fair_note": BORROWED} if borrowed else {}),
        },
    )
