"""A results folder -> report.html (one self-contained file), report.md, summary.csv, leaders.csv, figures/
and measures/.

The report is built from disk alone, so a sweep of which half has failed has one too. It answers first: who
leads, what budget each strategy needs on each objective, and how sure that is. Files are written whole or not
at all.
What it says is in `bench.page`: part (one objective, read and scored), data (tables), verdict and about
(sentences), budget (the slider), leaders, measures, html, markdown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bench.gaps import gap_table
from bench.page import measures
from bench.page.data import Page
from bench.page.draw import FEW, begin, beside
from bench.page.html import render_html
from bench.page.markdown import render_markdown


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


def build(
    folder: str | Path, processes: int = 1, pdf: bool = True, ranks: Mapping[str, float] | None = None
) -> Path:
    """Builds the report of results/NAME from what lies there; returns the path of report.html. With several
    processes a large one is made side by side (from a script, behind `if __name__ == "__main__"`). `pdf`:
    figures as PDF too. `ranks`: objective -> rank correlation of losses at a ninth of training with those at
    its end, where it is known.

    Raises FileNotFoundError where there is no such folder or no cell in it."""
    root = Path(folder)
    with beside(processes if len(list(root.glob("*/*/cell.json"))) >= FEW else 1) as run:
        page = Page(root, ranks, run)
        begun = begin(page.drawings(), pdf, run)  # first, so that they are drawn beside what follows
        begun |= begin(measures.drawings(page.measures).items(), pdf, run)
        for name, table in _tables(page).items():
            _write(root / name, table)
        _write(root / "report.md", render_markdown(page, begun.keys()))
        drawn = {name: ready() for name, ready in begun.items()}
    for name, (text, whole) in drawn.items():
        _write(root / "figures" / f"{name}.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + text)
        if whole:
            _write(root / "figures" / f"{name}.pdf", whole)
    _write(root / "report.html", render_html(page, {name: text for name, (text, _) in drawn.items()}))
    return root / "report.html"


def _tables(page: Page) -> dict[str, str]:
    """Every table as CSV, by its name in the folder."""
    found = {**measures.frames(page.measures), "curves": page.curves}
    if len(page.dials):
        found["dials"] = page.dials
    if page.gaps:
        found["gaps"] = gap_table(page.gaps)
    return {
        "summary.csv": page.table.to_csv(index=False),
        "leaders.csv": page.leaders.to_csv(index=False, float_format="%.6g"),
        **{f"measures/{name}.csv": table.to_csv(index=False) for name, table in found.items()},
    }
