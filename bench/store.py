"""Cells of results: where they lie, what is in them, what is missing, written whole or not at all.

A cell is one objective, strategy and cluster with their settings: results/NAME/OBJECTIVE/LABEL/. Seeds and
budgets are no part of its identity: `trace/BUDGET/FIRST-LAST.parquet` holds one block of seeds under one
planned budget, so that more of either adds files and touches nothing. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet as parquet

FORMAT = 1  # of traces and cell.json
COMPLETE, FAILED, NOT_APPLICABLE = "complete", "failed", "not applicable"
BLOCK_NAME = re.compile(r"(\d+)-(\d+)\.parquet")


class SettingsDiffer(ValueError):
    """A cell of this label exists with other settings."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_cell(folder: Path) -> dict[str, Any] | None:
    """What `cell.json` says; None where there is none or it cannot be read."""
    try:
        return json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raises SettingsDiffer, in one line, where the cell there was run with other settings."""
    there = read_cell(folder)
    if there is None or "settings" not in there:
        return
    old, new = _flat(there["settings"]), _flat(json.loads(json.dumps(settings, default=str)))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise SettingsDiffer(
                f"{folder} was run with {key}={old.get(key)}, not {new.get(key)}: "
                "give this run another name=..., or delete that folder"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


def block_path(folder: Path, budget: float, first: int, last: int) -> Path:
    return folder / "trace" / f"{budget:g}" / f"{first}-{last}.parquet"


def write_block(folder: Path, budget: float, trace: pd.DataFrame, about: dict[str, Any]) -> Path:
    """Writes one block of seeds, with `about` (versions, device) in the file's metadata."""
    seeds = trace["seed"].to_numpy()
    path = block_path(folder, budget, int(seeds.min()), int(seeds.max()))
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pandas(trace, preserve_index=False)
    metadata = {b"nearopt": json.dumps({"format": FORMAT, **about}, default=str).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    parquet.write_table(table, temporary)
    os.replace(temporary, path)
    return path


def blocks(folder: Path, budget: float) -> list[tuple[int, int, Path]]:
    """The (first seed, last seed, path) of the blocks under a planned budget, by first seed."""
    found = []
    for path in (folder / "trace" / f"{budget:g}").glob("*.parquet"):
        match = BLOCK_NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def budgets(folder: Path) -> list[float]:
    """The planned budgets that have a folder of traces."""
    names = [path.name for path in (folder / "trace").glob("*") if path.is_dir()]
    return sorted(float(name) for name in names if re.fullmatch(r"[0-9.e+]+", name))


def missing(folder: Path, budget: float, seeds: int, larger: bool = False) -> tuple[list[range], list[str]]:
    """Which of the seeds 0..seeds-1 have no block under this budget, as ranges, and warnings. With `larger`
    one under a larger budget will do, as it does for an anytime strategy.

    A trace file that cannot be read is set aside (its name gains .broken) and its seeds count as missing."""
    have: set[int] = set()
    warnings = []
    planned = [budget, *(b for b in budgets(folder) if larger and b > budget)]
    for first, last, path in (block for b in planned for block in blocks(folder, b)):
        try:
            rows = parquet.read_table(path, columns=["seed"])["seed"].unique().to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException):
            os.replace(path, path.with_suffix(".parquet.broken"))
            warnings.append(f"{path} cannot be read (cut short?): set aside, its seeds are run again")
            continue
        have.update(set(rows) & set(range(first, last + 1)))
    ranges: list[range] = []
    for seed in range(seeds):
        if seed in have:
            continue
        if ranges and ranges[-1].stop == seed:
            ranges[-1] = range(ranges[-1].start, seed + 1)
        else:
            ranges.append(range(seed, seed + 1))
    return ranges, warnings


def read_trace(folder: Path, budget: float) -> pd.DataFrame:
    """All blocks under a planned budget in one frame, by seed and job, each job once."""
    parts = [pd.read_parquet(path) for _, _, path in blocks(folder, budget)]
    if not parts:
        raise FileNotFoundError(f"{folder} holds no trace for budget {budget:g}")
    # Two commands at once may have left a seed in two blocks.
    trace = pd.concat(parts).drop_duplicates(["seed", "job"])
    return trace.sort_values(["seed", "job"], ignore_index=True)
