"""report.md: the report as text."""

from __future__ import annotations

from collections.abc import Collection

from bench.gaps import verdict as gap_verdict
from bench.page import about, leaders
from bench.page.about import CELL_COLUMNS, HOW
from bench.page.budget import rows_at
from bench.page.data import GAP_COLUMNS, READING, Page
from bench.page.html import GAPS, dials_said
from bench.page.measures import efficiency_said, percent, ranked_by_cluster
from bench.page.verdict import meaning, verdict
from bench.page.words import interval, trials


def _md_table(names: list[str], rows: list[list[str]]) -> str:
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(names), "|" + " --- |" * len(names), *(line(r) for r in rows)])


def _md_cell(page: Page, objective: str, label: str, reading: str) -> str:
    status, _ = page.state(objective, label)
    r = page.row(objective, label)
    if r is None or status == "failed":
        return status
    value, low, high = READING[reading]
    limit, runs = float(r["budget"]), int(r["runs"])
    text = trials(r[value], limit)
    if label in page.best[objective, reading]:
        text = f"**{text}**"
    spread = interval(r[low], r[high])
    text += f" ({spread})" if spread else ""
    if r["reached"] < runs:
        text += f"; not reached in {runs - int(r['reached'])} of {runs}"
    return text


def _leaders(page: Page) -> list[str]:
    """Who leads at each planned budget, all objectives together, and at the largest on each."""
    found = page.measures
    if len(page.labels) < 2 or not len(found.panel.budgets):
        return []
    planned = sorted({b for item in found.panel.cells.values() for b in item.scores})
    steps = {b: rows_at(found.leaders, found.general, b) for b in planned}
    rows = [(f"{b:g}", r) for b, step in steps.items() for r in step if r["whole"]]
    last = [r for r in steps[planned[-1]] if not r["whole"]]
    rows += [(f"{b:g}", r) for b in (planned if len(last) == 1 else planned[-1:])
             for r in steps[b] if not r["whole"]]  # fmt: skip
    return [
        "## Who leads, by how much, how surely",
        "",
        "Relative: depends on who takes part. By the mean gap left: 0 is the best constant "
        "configuration, 1 the "
        "median random one.",
        "",
        _md_table(
            ["budget", "objective", "leads", "gap left", "ahead of", "by", "95 % interval", "how surely", ""],
            [
                [b, *(r[k] for k in ("objective", "first", "gap", "second", "by", "interval", "sure", "why"))]
                for b, r in rows
            ],
        ),
        "",
    ]


def _measures(page: Page, figures: Collection[str]) -> list[str]:
    """The measures that text can hold; the frames are in measures/."""
    found = page.measures
    out = ["## All measures", "", "Every frame is in measures/ as CSV.", ""]
    said = efficiency_said(found)
    out += [*(f"- {s}." for s in said), ""] if said else []
    for name, text in (
        ("over_budget", "Rank over budget (relative); runtime distribution (absolute)"),
        ("wins", "Who beats whom, in % (relative)"),
        *((name, "Critical difference (relative)") for name in ranked_by_cluster(found)),
    ):
        out += [f"![{text}](figures/{name}.svg)", ""] if name in figures else []
    if len(found.variance):
        rows = [[r["term"], percent(r["share"]), r["reason"]] for r in found.variance.to_dict("records")]
        out += ["Shares of the variance of the gap left:", "", _md_table(["term", "share", ""], rows), ""]
    return out


def render_markdown(page: Page, figures: Collection[str]) -> str:
    """The report as text, with the figures beside it, whose names are given."""
    out = [f"# {page.name}: what budget does each strategy need?", *(f"- {s}" for s in verdict(page))]
    out = [out[0], "", *out[1:], ""]
    if page.warnings:
        out += ["Warnings:", "", *(f"- {w}" for w in page.warnings), ""]
    out += _leaders(page)
    if leaders.tells(page.leaders):
        out += ["## Who leads, with and without informative curves", "", leaders.table(page.leaders)]
        out += [f"Relative. {leaders.RULE}", "", f"{leaders.CURVES} {leaders.described(page.curves)}", ""]
    for reading in READING:
        rows = [[o, *(_md_cell(page, o, label, reading) for label in page.labels)] for o in page.objectives]
        title = "budget to plan" if reading == "to plan" else reading
        out += [
            f"## Full trainings until near-optimal: {title}",
            "",
            _md_table(["objective", *page.labels], rows),
            "",
        ]
    out += [
        HOW + " In brackets: 95 % interval; bold only where it lies below all others' on that objective.",
        "",
    ]
    for status in ("failed", "no result", "not applicable", "not run"):
        found = about.troubles(page, status)
        if found:
            out += [
                f"{status.capitalize()}:",
                "",
                *(f"- {label} on {on}: {why}" for label, on, why in found),
                "",
            ]
    notes = about.notes(page)
    if notes:
        out += ["Notes:", "", *(f"- {label} on {on}: {note}" for label, on, note in notes), ""]
    if "headline" in figures:
        out += ["![Full trainings until near-optimal](figures/headline.svg)", ""]
    if "dials" in figures:
        out += ["## What each dial decides", "", dials_said(page), "", "![Dials](figures/dials.svg)", ""]
    if "gaps" in figures:
        out += ["## Does changing hyperparameters in training beat a tuned schedule?", ""]
        out += [gap_verdict(page.gap_answers), "", _md_table(GAP_COLUMNS, page.gap_rows()), "", GAPS, ""]
        out += ["![Gaps](figures/gaps.svg)", ""]
    for objective in page.objectives:
        out += [f"## {objective}", "", meaning(page, objective), ""]
        if objective in figures:
            out += [f"![{objective}](<figures/{objective}.svg>)", "", _md_table(*page.details(objective)), ""]
    out += _measures(page, figures)
    out += [
        "## Settings and provenance",
        "",
        _md_table(["", ""], [[k, v] for k, v in about.provenance(page)]),
        "",
    ]
    out += [_md_table(CELL_COLUMNS, about.cell_rows(page)), ""]
    return "\n".join(out)
