"""What the cells of a folder say of themselves: failures, notes, what a budget means, provenance."""

from __future__ import annotations

import json

from bench.page.data import Page
from bench.page.words import listed

CELL_COLUMNS = [
    "objective",
    "strategy",
    "status",
    "runs",
    "budgets",
    "max_epoch",
    "compiling, s",
    "running, s",
]
HOW = (
    "Budgets are counted in full trainings: epochs spent, divided by an objective's max_epoch. "
    "To plan: the smallest budget of this experiment such that, there and at every larger one, at least half "
    "of the runs planned for it end near-optimal. Within a run of the largest budget: the median of what was "
    "spent until the best found stayed near-optimal (Kaplan–Meier; runs that never arrive count as censored)."
)


def troubles(page: Page, status: str) -> list[tuple[str, str, str]]:
    """Cells of a status with their reason: (label, objectives, reason), alike ones together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for objective in page.objectives:
        for label in page.labels:
            found, reason = page.state(objective, label)
            if found == status:
                groups.setdefault((label, reason), []).append(objective)
    return [(label, listed(objectives), reason) for (label, reason), objectives in groups.items()]


def notes(page: Page) -> list[tuple[str, str, str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for objective in page.objectives:
        for label in page.labels:
            item = page.cells.get((objective, label))
            if item is not None and item.cell.info.get("fair_note"):
                groups.setdefault((label, str(item.cell.info["fair_note"])), []).append(objective)
    return [(label, listed(objectives), note) for (label, note), objectives in groups.items()]


def said(page: Page) -> list[tuple[str, str, str, str]]:
    """What a budget means to each strategy: (label, objectives, budget, text), alike ones together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for objective in page.objectives:
        for label in page.labels:
            item = page.cells.get((objective, label))
            text = item.cell.info.get("describe") if item is not None else None
            if isinstance(text, str):
                text = {"": text}
            for budget, line in (text or {}).items():
                if line:
                    groups.setdefault((label, str(budget), str(line)), []).append(objective)
    return [(label, listed(o), budget, line) for (label, budget, line), o in groups.items()]


def provenance(page: Page) -> list[tuple[str, str]]:
    info = page.results.experiment
    cells = [c.info for c in page.results.cells]

    def total(name):
        return sum(float(c.get(name) or 0) for c in cells)

    versions = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in dict(c["versions"]).items()) for c in cells if c.get("versions")
    )
    devices = list(dict.fromkeys(str(c["device"]) for c in cells if c.get("device")))
    if info.get("device") and str(info["device"]) not in devices:
        devices.insert(0, str(info["device"]))
    rows = [
        ("command", info.get("command")),
        ("started", info.get("started")),
        ("wall clock", f"{float(info['wall_s']):.1f} s" if info.get("wall_s") else None),
        ("compiling, all cells", f"{total('compile_s'):.1f} s"),
        ("running, all cells", f"{total('run_s'):.1f} s"),
        ("budgets", ", ".join(f"{float(b):g}" for b in info.get("budgets") or []) or None),
        ("seeds", info.get("seeds")),
        ("per objective", json.dumps(info["per_objective"]) if info.get("per_objective") else None),
        ("device", "; ".join(devices) or None),
        ("versions", "; ".join(versions) or None),
    ]
    return [(k, str(v)) for k, v in rows if v not in (None, "", [])]


def cell_rows(page: Page) -> list[list[str]]:
    rows = []
    for objective in page.objectives:
        for label in page.labels:
            item = page.cells.get((objective, label))
            if item is None:
                continue
            info = item.cell.info
            runs = {len(s.runs.seeds) for s in item.scores.values()}
            rows.append(
                [
                    objective,
                    label,
                    item.cell.status,
                    "/".join(map(str, sorted(runs))) or "0",
                    ", ".join(f"{b:g}" for b in item.scores) or "–",
                    str(item.max_epoch) if item.scores else "–",
                    f"{float(info.get('compile_s') or 0):.1f}",
                    f"{float(info.get('run_s') or 0):.1f}",
                ]
            )
    return rows
