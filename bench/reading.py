"""A results folder as the referee reads it: cells, their traces as columns, stored references.

What is missing, cut short or failed becomes a line of `warnings`: a report is built of what is there.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet

COLUMNS = [
    "seed", "instance", "job", "start", "until", "loss", "true_loss", "recommended_true_loss", "worker",
    "started", "finished", "status",
]  # fmt: skip
Trace = dict[str, np.ndarray]


class Cell(NamedTuple):
    """One cell as found on disk: its folder's names, `cell.json`, the planned budgets that have a folder of
    traces, ascending, and of each that was read its trace (columns by name). An anytime strategy has its
    largest only."""

    objective: str
    label: str
    info: dict[str, Any]
    budgets: tuple[float, ...]
    traces: dict[float, Trace]

    @property
    def status(self) -> str:
        return self.info.get("status", "failed")

    @property
    def strategy(self) -> str:
        return str(self.info.get("strategy") or self.label.split(",")[0])


class Results(NamedTuple):
    """A results folder as it was read; `warnings` says in one line each what could not be used."""

    path: Path
    experiment: dict[str, Any]
    cells: list[Cell]
    references: dict[str, pd.DataFrame]
    warnings: list[str]

    def of(self, objective: str) -> Results:
        """What is there of one objective, without warnings."""
        cells = [cell for cell in self.cells if cell.objective == objective]
        references = {k: v for k, v in self.references.items() if k == objective}
        return self._replace(cells=cells, references=references, warnings=[])


def _json(path: Path, warnings: list[str], root: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        warnings.append(f"{path.relative_to(root)} cannot be read and is left out ({_line(error)})")
        return None
    return value if isinstance(value, dict) else None


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _column(column: Any) -> np.ndarray:
    """A column as an array; words, which are few, of a fixed width: a million strings cost seconds."""
    if not pyarrow.types.is_dictionary(column.type):
        return column.to_numpy()
    chunks = [np.array(c.dictionary.to_pylist() or [""])[c.indices.to_numpy()] for c in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty(0, "U1")


def _read_blocks(folder: Path, warnings: list[str], root: Path) -> Trace | None:
    """The blocks of seeds of one planned budget, joined; None where none can be read."""
    parts = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            file = parquet.ParquetFile(path, read_dictionary=["status"])
            table = file.read(columns=COLUMNS, use_threads=False)  # files are small: threads cost more
        except KeyError:  # pyarrow's, where there is no column for read_dictionary
            warnings.append(f"{path.relative_to(root)} has no column status and is left out")
            continue
        except (OSError, ValueError) as error:
            warnings.append(f"{path.relative_to(root)} cannot be read and is left out ({_line(error)})")
            continue
        part = {name: _column(table[name]) for name in table.column_names}
        missing = [name for name in COLUMNS if name not in part and name != "recommended_true_loss"]
        if missing:
            warnings.append(f"{path.relative_to(root)} has no column {missing[0]} and is left out")
            continue
        part.setdefault("recommended_true_loss", np.full(len(part["seed"]), np.nan))
        parts.append(part)
    if not parts:
        return None
    trace = {
        name: np.concatenate([p[name] for p in parts]) if len(parts) > 1 else parts[0][name]
        for name in COLUMNS
    }
    index = by_job(trace["seed"], trace["job"])
    if index is not None:
        trace = {name: column[index] for name, column in trace.items()}
    twice = (np.diff(trace["seed"]) == 0) & (np.diff(trace["job"]) == 0)
    if twice.any():
        warnings.append(f"{folder.relative_to(root)}: {twice.sum()} jobs are there twice and count once")
        trace = {name: column[np.concatenate([[True], ~twice])] for name, column in trace.items()}
    return trace


def _read_traces(folder: Path, root: Path) -> tuple[dict[float, Trace], list[str]]:
    """The traces of a cell by planned budget, and warnings."""
    traces: dict[float, Trace] = {}
    warnings: list[str] = []
    for planned in folder.glob("*"):
        budget = _budget(planned.name)
        trace = None if budget is None else _read_blocks(planned, warnings, root)
        if budget is not None and trace is not None:
            traces[budget] = trace
    return traces, warnings


def by_job(seed: np.ndarray, job: np.ndarray) -> np.ndarray | None:
    """The order of rows by seed, then job; None where they are so, as they are written."""
    apart = np.diff(seed)
    if ((apart > 0) | ((apart == 0) & (np.diff(job) >= 0))).all():
        return None
    return np.lexsort((job, seed))


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


def _budget(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def outline(path: str | Path) -> Results:
    """results/NAME without its traces, whose budgets each cell knows.

    Raises FileNotFoundError where there is no such folder or no cell in it."""
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no results folder {root}")
    warnings: list[str] = []
    stated = root / "experiment.json"
    experiment = _json(stated, warnings, root) if stated.exists() else {}
    cells, references = [], {}
    for file in sorted(root.glob("*/*/cell.json")):
        info = _json(file, warnings, root)
        objective, label = file.parent.parent.name, file.parent.name
        if info is None:
            info = {"status": "failed", "error": "cell.json cannot be read"}
        there = tuple(sorted(b for b in map(_budget, _names(file.parent / "trace")) if b is not None))
        cells.append(Cell(objective, label, info, there, {}))
        if objective not in references:
            reference = file.parent.parent / "reference.parquet"
            try:
                references[objective] = pd.read_parquet(reference)
            except (OSError, ValueError) as error:
                references[objective] = pd.DataFrame()
                if info.get("status") != "not applicable":
                    warnings.append(
                        f"{reference.relative_to(root)} cannot be read: nothing on {objective} can be scored "
                        f"({_line(error)})"
                    )
    for folder in sorted(root.glob("*/*/trace")):
        if not (folder.parent / "cell.json").exists():
            warnings.append(f"{folder.parent.relative_to(root)} has traces but no cell.json and is left out")
    if not cells:
        raise FileNotFoundError(f"no cell of results in {root}")
    return Results(root, experiment or {}, cells, references, warnings)


def with_traces(results: Results, threads: int = 1) -> Results:
    """The same with the traces of its cells."""
    folders = [results.path / cell.objective / cell.label / "trace" for cell in results.cells]
    with ThreadPoolExecutor(threads) as ahead:  # Arrow decodes without Python's lock
        read = list(ahead.map(lambda folder: _read_traces(folder, results.path), folders))
    cells = [cell._replace(traces=traces) for cell, (traces, _) in zip(results.cells, read, strict=True)]
    said = [line for _, lines in read for line in lines]
    return results._replace(cells=cells, warnings=[*results.warnings, *said])


def load_folder(path: str | Path) -> Results:
    """Reads results/NAME whole; raises as `outline`."""
    return with_traces(outline(path), 2)
