"""A results folder as data frames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench import store


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
