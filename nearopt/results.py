"""A results folder as data frames, and several folders as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.reference import write_table


def load(folder: str | Path) -> pd.DataFrame:
    """All traces of results/NAME in one frame, with the columns `objective` and `label` before a trace's own.

    An anytime strategy has its largest budget only. Raises FileNotFoundError where there is nothing."""
    root, parts = Path(folder), []
    for file in sorted(root.glob("*/*/cell.json")):
        cell = file.parent
        for budget in store.budgets(cell):
            if store.blocks(cell, budget):
                trace = store.read_trace(cell, budget)
                trace.insert(0, "label", cell.name)
                trace.insert(0, "objective", cell.parent.name)
                parts.append(trace)
    if not parts:
        raise FileNotFoundError(f"no traces in {root}")
    return pd.concat(parts, ignore_index=True)


def merge(folders: Sequence[str | Path], into: str | Path) -> Path:
    """Joins results made on several machines: cells, budgets and seeds of all in the folder `into`, which
    may be the first of them. Seeds that two have must be the same runs. The folders that are read are left
    as they are.

    Raises FileNotFoundError for a folder that is not there, ValueError, before anything is written, where a
    cell was run with other settings, a seed has other runs elsewhere, or an instance another reference."""
    roots, target = [Path(f) for f in folders], Path(into)
    for root in roots:
        if not any(root.glob("*/*/cell.json")):
            raise FileNotFoundError(f"no cell of results in {root}")
    names = sorted({f.parent.relative_to(root) for root in roots for f in root.glob("*/*/cell.json")})
    plan: list[tuple[Path, list[Path], dict[float, pd.DataFrame]]] = []
    for name in names:
        cells = [root / name for root in roots if (root / name / "cell.json").exists()]
        if (target / name / "cell.json").exists() and target not in roots:
            cells.insert(0, target / name)
        settings = next((s for c in cells if (s := (store.read_cell(c) or {}).get("settings"))), None)
        traces: dict[float, pd.DataFrame] = {}
        for cell in cells:
            if settings is not None:
                store.check_settings(cell, settings)
            for budget in store.budgets(cell):
                if store.blocks(cell, budget):
                    traces[budget] = _joined(traces.get(budget), store.read_trace(cell, budget), cell)
        plan.append((target / name, cells, traces))
    references = {
        o: _references([root / o / "reference.parquet" for root in dict.fromkeys([target, *roots])])
        for o in sorted({name.parent for name in names})
    }
    for cell, parts, traces in plan:
        infos = [store.read_cell(part) or {} for part in parts]
        if all(part == cell for part in parts):
            continue
        for budget, trace in traces.items():
            about = {"merged": [str(p) for p in parts], "versions": [i.get("versions") for i in infos]}
            written = store.write_block(cell, budget, trace, about)
            for _, _, path in store.blocks(cell, budget):  # only now: an interruption must lose nothing
                if path != written:
                    path.unlink()
        store.write_json(cell / "cell.json", _cell(infos))
    for objective, table in references.items():
        if table is not None:
            write_table(table, target / objective / "reference.parquet")
    store.write_json(target / "experiment.json", _experiment([target, *roots], target.name))
    return target


def _joined(there: Any, more: Any, cell: Path) -> pd.DataFrame:
    """Two traces of one planned budget; a seed that both have counts once."""
    if there is None:
        return more
    shared = there["seed"][there["seed"].isin(more["seed"])].unique().tolist()
    if shared:
        from nearopt.reproduce import DIFFERENT, DISTRIBUTION, compare_traces

        found = compare_traces(there, more)
        if found.answer in (DIFFERENT, DISTRIBUTION):
            raise ValueError(
                f"{cell}: seed {found.seed} is another run there from job {found.job} on ({found.what}): "
                "merge folders of other seeds, or of one machine type and one version"
            )
    left: Any = more[~more["seed"].isin(shared)]
    return pd.concat([there, left]).sort_values(["seed", "job"], ignore_index=True)


def _cell(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """One cell.json of several: complete where one is, with all budgets and what all took."""
    order = sorted(infos, key=lambda i: i.get("status") != store.COMPLETE)
    whole = dict(order[0])
    whole["budgets"] = sorted({float(b) for i in infos for b in i.get("budgets") or []})
    for key in ("trainings", "raised", "compile_s", "run_s"):
        whole[key] = sum(i.get(key) or 0 for i in infos)
    whole["describe"] = {
        k: v for i in infos if isinstance(i.get("describe"), dict) for k, v in i["describe"].items()
    }
    devices = dict.fromkeys(str(i["device"]) for i in infos if i.get("device"))
    return whole | ({"device": "; ".join(devices)} if devices else {})


def _references(paths: list[Path]) -> pd.DataFrame | None:
    """The instances of all references; ValueError where two have one instance otherwise."""
    tables = {p: pd.read_parquet(p) for p in paths if p.exists()}
    if not tables:
        return None
    whole = pd.concat(tables.values(), ignore_index=True)
    numbers: Any = whole.select_dtypes("number").groupby(whole["instance"])
    low, high = numbers.min(), numbers.max()
    apart: Any = (high - low) > 1e-4 * high.abs().combine(low.abs(), np.maximum)
    if apart.to_numpy().any():
        instance = apart.index[apart.any(axis=1)][0]
        name = apart.columns[apart.loc[instance]][0]
        raise ValueError(
            f"{', '.join(str(p) for p in tables)}: {name} of instance {instance} is "
            f"{low[name][instance]:g} in one and {high[name][instance]:g} in another: merge results of one "
            "version"
        )
    first = next(iter(tables.values()))
    whole = whole.drop_duplicates("instance").sort_values("instance", ignore_index=True)
    whole.attrs = first.attrs
    return whole


def _experiment(roots: list[Path], name: str) -> dict[str, Any]:
    infos = [i for root in dict.fromkeys(roots) if (i := _json(root / "experiment.json"))]
    first = dict(infos[0]) if infos else {}
    lists = {
        key: list(dict.fromkeys(v for i in infos for v in i.get(key) or []))
        for key in ("objectives", "strategies")
    }
    return {
        **first, **lists, "name": name, "seeds": max((int(i.get("seeds") or 0) for i in infos), default=0),
        "budgets": sorted({float(b) for i in infos for b in i.get("budgets") or []}),
        "command": " ; ".join(dict.fromkeys(str(i["command"]) for i in infos if i.get("command"))),
        "wall_s": sum(float(i.get("wall_s") or 0) for i in infos),
    }  # fmt: skip


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def early_ranks() -> dict[str, float]:
    """Objective -> rank correlation of the told loss at a ninth of training with the true one at the end, as
    `nearopt describe` measured it here (results/describe) or in the results that nearopt ships; of a real
    task, what its recorded trainings say."""
    shipped = Path(__file__).parent.parent / "results" / "reference"
    tables = [shipped / "tasks" / "tasks.csv", *sorted((shipped / "describe").glob("*.csv"))]
    found: dict[str, float] = {}
    for path in [*tables, *sorted(Path("results/describe").glob("*/describe.csv"))]:
        try:
            table = pd.read_csv(path).rename(columns={"task": "objective"})
            table = table[["objective", "rank_at_ninth"]].dropna()
        except (KeyError, OSError, ValueError):  # none of ours, or being written at this moment
            continue
        found |= dict(zip(table["objective"], table["rank_at_ninth"].astype(float), strict=True))
    return found
