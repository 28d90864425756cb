"""report.html: one page that needs nothing beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bench.gaps import verdict as gap_verdict
from bench.metrics import SHARES
from bench.page import about, leaders
from bench.page.about import CELL_COLUMNS, HOW
from bench.page.budget import SCRIPT, slider
from bench.page.data import DRAWN, GAP_COLUMNS, READING, Page
from bench.page.measures import pair_rows, sections
from bench.page.verdict import meaning, verdict
from bench.page.words import (
    ABSOLUTE,
    RELATIVE,
    bullets,
    chip,
    escape,
    fold,
    interval,
    number,
    percent,
    plain_table,
    plural,
    prose,
    trials,
)

STYLE = """
:root{--ink:#1d1d1b;--soft:#6b6b66;--line:#dcdcd6;--tint:#e3f0e4;--warn:#8a3b12}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 28px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:21px;margin:52px 0 10px;padding-top:14px;border-top:2px solid var(--ink)}
h3{font-size:18px;margin:38px 0 6px}
p,li{max-width:84ch}
.sub{color:var(--soft);margin:0 0 22px}
.verdict{font-size:17.5px;
margin:18px 0 26px;padding:0 0 0 20px;border-left:4px solid var(--ink);list-style:none}
.verdict li{margin:5px 0}
.small{font-size:14px;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600}
.head{width:100%;font-size:15px}
.head thead th{border-bottom:1.5px solid var(--ink);padding:6px 8px;vertical-align:bottom;white-space:nowrap}
.head tbody tr{border-bottom:1px solid var(--line)}
.head td,.head tbody th{padding:8px;vertical-align:top;line-height:22px}
.head tbody th{min-width:125px}
.head .which{color:var(--soft);font-size:13px;white-space:nowrap;line-height:22px}
.chip{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:6px}
.v{display:block;white-space:nowrap;height:22px}
.v b{font-weight:500}
.ci{color:var(--soft);font-size:12.5px;margin-left:4px}
.far b{color:var(--soft);font-weight:400}
.best b{font-weight:750}
.best{background:var(--tint);border-radius:4px;box-shadow:0 0 0 3px var(--tint)}
.miss,.none{color:var(--soft);font-size:12.5px;line-height:16px;display:block}
.none{line-height:22px;font-size:14px;display:inline;text-decoration:underline dotted;
text-underline-offset:3px;cursor:help}
.failed{color:var(--warn)}
.key{background:#f6f6f3;padding:10px 16px;border-radius:6px;font-size:14.5px;margin:14px 0}
.key p{margin:4px 0;max-width:none}
.rows{font-size:14px;margin:8px 0}
.rows th,.rows td{
padding:3px 18px 3px 0;border-bottom:1px solid var(--line);vertical-align:top;text-align:left}
.rows td.n{white-space:nowrap}
.tag{font-size:11.5px;color:#7a4a00;border:1px solid #e0c58f;border-radius:9px;
padding:0 7px;white-space:nowrap}
.tag.own{color:#2a5a3a;border-color:#a9cdb3}
.slider{display:flex;gap:14px;align-items:center;margin:14px 0 6px;font-size:15px;flex-wrap:wrap}
.slider input{flex:1 1 320px;max-width:620px;accent-color:#0072b2;height:28px}
.slider output{font-size:22px;font-weight:700;min-width:3ch}
.said{font-size:17.5px;font-weight:600;margin:6px 0}
.tall{max-height:520px;overflow-y:auto}
.tall thead th{position:sticky;top:0;background:#fff}
.lead tr.whole td{font-weight:600}
.lead tr.surely td:last-child{background:var(--tint)}
.lead td:nth-child(1),.lead td:nth-child(3),.lead td:nth-child(5){white-space:nowrap}
.lead td:nth-child(2),.lead td:nth-child(4){min-width:185px;overflow-wrap:anywhere}
.lead td:last-child{min-width:230px}
.leads td,.leads th{padding-top:6px;padding-bottom:6px}
.leads td,.leads th{padding-right:12px}.leads td{min-width:125px}
.leads .n{white-space:nowrap}.leads .sure{background:var(--tint)}
.sortable thead th{white-space:nowrap}
.sortable button{font:inherit;font-weight:600;background:none;border:0;padding:0;cursor:pointer;color:inherit}
.sortable button::after{content:" \\2195";color:#b0b0a8}
.sortable [aria-sort=ascending] button::after{content:" \\2191";color:var(--ink)}
.sortable [aria-sort=descending] button::after{content:" \\2193";color:var(--ink)}
.sortable td{white-space:nowrap}
.act{font:inherit;font-size:14px;padding:4px 12px;border:1px solid var(--line);border-radius:6px;
background:#f6f6f3;cursor:pointer}
:focus-visible{outline:2.5px solid #0072b2;outline-offset:2px}
section{content-visibility:auto;contain-intrinsic-size:auto 500px}
nav.small a{margin-right:14px;color:inherit}
figure{margin:10px 0 4px}
figure svg{width:100%;height:auto;display:block}
.natural svg{width:auto;max-width:100%}
figcaption{font-size:13.5px;color:var(--soft);max-width:100ch}
pre{font:12.5px/1.45 ui-monospace,Menlo,Consolas,monospace;background:#f6f6f3;
padding:10px 14px;overflow-x:auto;white-space:pre-wrap}
details{margin:6px 0}summary{cursor:pointer;font-size:14.5px}
.warnings{border-left:4px solid var(--warn);padding-left:16px;font-size:14.5px}
@media print{body{font-size:11pt}main{max-width:none;padding:0}
h3,figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.noprint{display:none}
details::details-content{content-visibility:visible;height:auto}.tall{max-height:none;overflow:visible}
.scroll{overflow:visible}section{content-visibility:visible}summary{font-weight:600}
.sortable button::after{content:""}.rows{font-size:8.5pt}.rows td.n{white-space:normal}
.rows.sortable{font-size:6.2pt}.sortable th,.sortable td{padding:2px 5px 2px 0}
.head{font-size:9pt}.head td,.head tbody th{padding:4px}.ci,.miss{font-size:8pt}}
"""


def _cell(page: Page, objective: str, label: str) -> str:
    status, reason = page.state(objective, label)
    r = page.row(objective, label)
    if r is None or status == "failed":
        extra = " failed" if status == "failed" else ""
        return f'<td><span class="none{extra}" title="{escape(reason)}">{status}</span></td>'
    limit, runs = float(r["budget"]), int(r["runs"])
    lines = []
    for reading, (value, low, high) in READING.items():
        kind = "far" if np.isinf(r[value]) else "best" if label in page.best[objective, reading] else ""
        spread = interval(r[low], r[high])
        spread = f'<span class="ci">{spread}</span>' if spread else ""
        text = f"<b>{trials(r[value], limit)}</b>{spread}"
        lines.append(f'<span class="v"><span class="{kind}">{text}</span></span>')
    if r["reached"] < runs:
        lines.append(f'<span class="miss">not reached in {runs - int(r["reached"])} of {runs}</span>')
    if r["failed"]:
        lines.append(f'<span class="miss failed">{plural(int(r["failed"]), "run")} raised an error</span>')
    return f"<td>{''.join(lines)}</td>"


def _headline_table(page: Page) -> str:
    head = "".join(f"<th>{chip(label)}</th>" for label in page.labels)
    rows = []
    for objective in page.objectives:
        heads: Any = page.head[page.head["objective"] == objective]
        p = f"best {percent(float(heads['p'].iloc[0]))} of random" if len(heads) else ""
        cells = "".join(_cell(page, objective, label) for label in page.labels)
        rows.append(
            f'<tr><th scope="row"><a href="#{escape(objective)}" style="color:inherit;text-decoration:none">'
            f'{escape(objective)}</a><span class="miss" style="font-weight:400">{p}</span></th>'
            f'<td class="which">to plan<br>within a run</td>{cells}</tr>'
        )
    return (
        f'<div class="scroll"><table class="head"><thead><tr><th>objective</th><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _trouble_list(page: Page) -> str:
    parts = []
    for status in ("failed", "no result", "not applicable", "not run"):
        found = about.troubles(page, status)
        if found:
            items = "".join(
                f"<li><b>{escape(label)}</b> on {escape(on)}: {escape(why)}</li>" for label, on, why in found
            )
            parts.append(f"<p><b>{status.capitalize()}</b></p><ul>{items}</ul>")
    notes = "".join(
        f"<li><b>{escape(label)}</b> on {escape(on)}: {escape(note)}</li>"
        for label, on, note in about.notes(page)
    )
    if notes:
        parts.append(f"<p><b>To be read with the table</b></p><ul>{notes}</ul>")
    return f'<div class="small">{"".join(parts)}</div>' if parts else ""


def _answer(page: Page, figures: dict[str, str]) -> list[str]:
    """What the page says first: the verdict, what went wrong, the table, its figure."""
    budgets = sorted({float(b) for b in page.table["budget"].dropna()})
    runs = sorted({int(n) for n in page.head["runs"]})
    strategies = "1 strategy" if len(page.labels) == 1 else f"{len(page.labels)} strategies"
    size = f"{' or '.join(map(str, runs))} run{'' if runs == [1] else 's'} a cell" if runs else "no runs"
    out = [
        "<h1>What budget does each strategy need?</h1>",
        prose(
            f"Experiment <b>{escape(page.name)}</b>: {strategies}",
            f"on {plural(len(page.objectives), 'objective')}, {size}, budgets",
            f"{', '.join(f'{b:g}' for b in budgets) or 'none'} (in full trainings).",
            kind="sub",
        ),
        '<ul class="verdict">' + "".join(f"<li>{escape(s)}</li>" for s in verdict(page)) + "</ul>",
    ]
    if page.warnings:
        items = "".join(f"<li>{escape(w)}</li>" for w in page.warnings)
        title = plural(len(page.warnings), "warning")
        out.append(f'<div class="warnings"><b>{title}</b><ul>{items}</ul></div>')
    if "headline" in figures:
        out.append(f"<figure>{figures['headline']}<figcaption>{HEADLINE}</figcaption></figure>")
    elif "over_budget" in figures:
        out.append(f"<figure>{figures['over_budget']}<figcaption>{OVER}</figcaption></figure>")
    out.append(slider(page.measures.leaders, page.measures.general))
    out.append(leaders.section(page.leaders, page.curves))
    limit = f"{budgets[-1]:g}" if budgets else "64"
    whole = _headline_table(page)
    if len(page.labels) > WIDE:
        whole = fold("Objectives by strategies", whole)
    out += [
        '<h2 id="headline">Full trainings until near-optimal</h2><div class="key">',
        prose(
            "<b>To plan</b>: the smallest budget at which, and at every larger one, at least half of the",
            "runs planned for it end near-optimal. <b>Within a run</b> of the largest budget: the median",
            "spent until the best found stays near-optimal. Small type: 95 % interval.",
        ),
        prose(
            'Fewer is better; <span class="best"><b>shaded</b></span> only where the interval lies below all',
            f"others' on that objective and cluster. “&gt; {limit}”: {limit} were not enough for half of the",
            "runs. “best 2 % of random”: how many random configurations are near-optimal.",
        ),
        "</div>",
        whole,
        _trouble_list(page),
        _numbers(page),
    ]
    return out


def _numbers(page: Page) -> str:
    """One row a cell, to sort and to download."""
    gaps = {(r["objective"], r["label"]): r for r in page.measures.pairs.to_dict("records")}
    names = ["objective", "strategy", "status", "runs", "budget", "reached", "to plan", "plan from",
             "plan to", "within a run", "within from", "within to", "E[min(T, B)]", "regret", "gap left",
             "gap from", "gap to"]  # fmt: skip
    rows = []
    for objective in page.objectives:
        for label in page.labels:
            r, gap = page.row(objective, label), gaps.get((objective, label), {})
            status = page.state(objective, label)[0]
            head = f'<tr><th scope="row">{escape(objective)}</th><td>{chip(label)}</td><td>{status}</td>'
            if r is None or status == "failed":
                rows.append(head + '<td data-v=""></td>' * (len(names) - 3) + "</tr>")
                continue
            values = [r[k] for k in ("runs", "budget", "reached")]
            values += [r[k] for reading in READING.values() for k in reading]
            values += [r["trials_restricted_mean"], r["regret_mean"]]
            values += [gap.get(k, np.nan) for k in ("gap_left", "gap_low", "gap_high")]
            rows.append(head + "".join(_value(float(v)) for v in values) + "</tr>")
    head = "".join(f'<th scope="col"><button type="button">{n}</button></th>' for n in names)
    table = (
        '<div class="scroll tall"><table class="rows sortable" id="numbers-table"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return (
        '<section><h2 id="numbers">Every number</h2>'
        + prose(
            ABSOLUTE,
            "Runs of the largest budget: a row a cell; click a heading to sort. From and to: 95 %",
            "interval. Every budget and target is in summary.csv.",
            '<button type="button" class="act noprint" data-csv="numbers-table" '
            f'data-name="{escape(page.name)}.csv">Download as CSV</button>',
            kind="small",
        )
        + (table if len(rows) <= ROWS else fold(f"The {len(rows):,} rows", table, name="numbers-rows"))
        + "</section>"
    )


def _value(x: float) -> str:
    """A number to be sorted by what it is; nothing where there is none."""
    return '<td data-v=""></td>' if np.isnan(x) else f'<td data-v="{_plain(x)}">{number(x)}</td>'


def _plain(x: float) -> str:
    """As a script reads it."""
    return "Infinity" if np.isposinf(x) else "-Infinity" if np.isneginf(x) else f"{x:.6g}"


WIDE = 12  # strategies: more make a table of objectives by strategies too wide to read at once
MANY = 12  # objectives: more are folded, each by itself
ROWS = 400  # cells: the table of more is folded
HEADLINE = (
    "Full trainings until near-optimal. Dot and line: within a run, median and 95 % interval (an arrow: open "
    "towards larger budgets). Diamond: budget to plan. Cross: fewer than half of the runs reached it "
    "(how many, "
    "where any). Fewer is better; the table below has the numbers."
)
OVER = (
    "Left: rank over budget (relative: depends on who takes part). Right: share of the targets reached, the "
    "best 10, 1 and 0.1 % of random configurations on every objective."
)
DIALS = (
    "Objectives that differ in one setting only, a column a setting; runs of the largest budget B. Above: "
    "how many end near-optimal, with the 95 % interval (Wilson). Middle: E[min(T, B)], what a run spends on "
    "average until it is near-optimal or at its end. Below: the true loss at the end, above the best "
    "constant configuration's or over it, median with its 95 % interval. The target is each objective's own: "
    "compare strategies at one setting, and how their order changes with it."
)


def dials_said(page: Page) -> str:
    """What the figure of dials shows, and of how many (plain text)."""
    n = len(set(page.dials["dial"]))
    return DIALS + (f" The first {DRAWN} of {n} are drawn; measures/dials.csv has all." if n > DRAWN else "")


def _dials(page: Page, figures: dict[str, str]) -> list[str]:
    if "dials" not in figures:
        return []
    return [
        '<h2 id="dials">What each dial decides</h2>',
        prose(escape(dials_said(page)), kind="small"),
        f"<figure>{figures['dials']}</figure>",
    ]


GAPS = (
    "The share of the gap, on a log scale, between the best constant configuration (0) and the best sequence "
    "of hyperparameters (1) that runs close; median and 95 % interval over runs, an arrow where it lies "
    "further to the left. Hollow: the schedule's hyperparameters tuned beforehand, in the same total budget; "
    "full: changed in training, on top of the schedule where that is not constant. The best sequence is a "
    "bound, not a competitor. To beat every tuned schedule, the interval of the difference over the same "
    "seeds must lie above 0 against each, corrected for how many are tried; to be beaten, below 0 against "
    "one, corrected for how many are tuned."
)


def _gaps(page: Page, figures: dict[str, str]) -> list[str]:
    if "gaps" not in figures:
        return []
    return [
        '<h2 id="gaps">Does changing hyperparameters in training beat a tuned schedule?</h2>',
        prose(escape(gap_verdict(page.gap_answers))),
        plain_table(GAP_COLUMNS, page.gap_rows(), labels=None),
        prose(escape(GAPS), kind="small"),
        f"<figure>{figures['gaps']}</figure>",
    ]


def _objectives(page: Page, figures: dict[str, str]) -> list[str]:
    out = [
        '<h2 id="objectives">Objective by objective</h2>',
        prose(
            "Left: the true loss of the best found (the one with the lowest told loss), above that of",
            "the best constant configuration; median over runs and its 95 % interval. Dashed: near-optimal",
            "(median over instances). Right: share of the runs that are near-optimal for good, with its 95 %",
            "interval (Wilson). Lines run within the largest budget; open dots are the ends of runs planned",
            "for exactly that budget, by strategies that lay out their budget beforehand. In the tables,",
            "E[min(T, B)] is what a run of the largest budget B spends on average until it is near-optimal",
            "or at its end.",
            kind="small",
        ),
    ]
    many = len(page.objectives) > MANY
    if many:
        links = "".join(f'<a href="#{escape(o)}">{escape(o)}</a> ' for o in page.objectives)
        out.append(f'<nav class="small noprint">{links}</nav>')
    pairs: dict[str, list[dict[str, Any]]] = {}
    records: Any = page.measures.pairs.to_dict("records")
    for row in records:
        pairs.setdefault(row["objective"], []).append(row)
    for objective in page.objectives:
        body = [f"<p>{escape(meaning(page, objective))}</p>"]
        if objective in figures:
            body.append(f"<figure>{figures[objective]}</figure>")
            body.append(prose(ABSOLUTE, kind="small") + plain_table(*page.details(objective), labels=0))
            names, rows = pair_rows(pairs.get(objective, []))
            if len(rows) > 1:
                body.append(prose(RELATIVE, PAIRS, kind="small") + plain_table(names, rows, labels=0))
        name, inside = escape(objective), "".join(body)
        out.append(
            fold(objective, inside, name=objective)
            if many
            else f'<section><h3 id="{name}">{name}</h3>{inside}</section>'
        )
    shares = page.shares()
    if len(shares):
        rows = [
            [r["label"], str(r["objectives"]), *(f"{100 * r[f'{p:g}']:.0f} %" for p in SHARES)]
            for r in shares.to_dict("records")
        ]
        out += [
            '<h2 id="together">All objectives together</h2>',
            prose(
                "Equal gaps are not equally hard, so objectives are averaged at targets that equally",
                "few random configurations reach: the mean share of runs of the largest budget that end as",
                "good as the best 10 %, 1 % and 0.1 % of them. Compare only rows over the same objectives.",
                kind="small",
            ),
            plain_table(["strategy", "objectives", *(f"best {100 * p:g} %" for p in SHARES)], rows, labels=0),
        ]
    return out


PAIRS = (
    "Gap left: each strategy's own at its largest budget. Against the one with the smallest mean of those "
    "on the same cluster, at the largest budget B that all of these have: difference with its 95 % interval "
    "(runs of one seed share instance and "
    "start, so where all have the same seeds they are compared in pairs; the correlation is what was "
    "measured), p corrected for the number of strategies and for the choice of the leader by these runs "
    "(Tukey), by which it is better or worse."
)


def _measures(page: Page, figures: dict[str, str]) -> list[str]:
    parts = list(sections(page.measures, figures))
    return ['<h2 id="measures">All measures</h2>', *parts] if parts else []


CLOCK = (
    "Left: the true loss of the best found against simulated time, runs of the largest budget, median with "
    "its 95 % interval. Right: the share of the workers' time, until the last job of a run, in which they "
    "trained: median and range over runs. Where objectives are many, only those that had several workers."
)
PICTURES = (
    "The first seed's run of the largest budget. Grey: all jobs; bold: those that made the winner's weights; "
    "crosses: jobs that were lost, given up or raised."
)


def _clock(page: Page, figures: dict[str, str]) -> list[str]:
    clocks = {o: figures[f"{o}.clock"] for o in page.objectives if f"{o}.clock" in figures}
    if not clocks:
        return []
    out = ['<h2 id="clock">On the simulated clock</h2>']
    body = [f"<h4>{escape(objective)}</h4><figure>{text}</figure>" for objective, text in clocks.items()]
    out.append(fold("Loss against time, and how busy the workers were", prose(escape(CLOCK)) + "".join(body)))
    if page.pictures:
        body = [
            f"<h4>{escape(label)} on {escape(objective)}</h4><figure>{figures[f'{label}.run']}</figure>"
            for label, (objective, _) in page.pictures.items()
        ]
        out.append(fold("One run of each strategy, job by job", prose(escape(PICTURES)) + "".join(body)))
    return out


def _origins(page: Page) -> list[str]:
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in about.provenance(page))
    out = [
        '<h2 id="provenance">Settings and provenance</h2>',
        f'<div class="scroll"><table class="rows">{rows}</table></div>',
    ]
    said = [
        f"<b>{escape(label)}</b>{', budget ' + escape(budget) if budget else ''}: {escape(text)} "
        f"({escape(on)})"
        for label, on, budget, text in about.said(page)
    ]
    if said:
        out.append(fold("What a budget means to each strategy", bullets(said)))
    table = plain_table(CELL_COLUMNS, about.cell_rows(page), labels=1)
    out.append(fold("Every cell: runs, budgets, seconds compiling and running", table))
    hows = [
        f"<b>{escape(o)}</b>: {escape(t.attrs['how'])}"
        for o, t in page.results.references.items()
        if t.attrs.get("how")
    ]
    if hows:
        out.append(fold("How the references were found", bullets(hows)))
    settings: dict[str, list[str]] = {}
    for cell in page.results.cells:
        if cell.info.get("settings"):
            text = json.dumps(cell.info["settings"], indent=1, default=str)
            settings.setdefault(text, []).append(f"{cell.objective}/{cell.label}")
    blocks = [
        prose(escape(", ".join(names)), kind="small") + f"<pre>{escape(text)}</pre>"
        for text, names in settings.items()
    ]
    if blocks:
        out.append(fold("Settings of every cell", "".join(blocks)))
    for cell in page.results.cells:
        if cell.status == "failed":
            text = str(cell.info.get("error") or "no reason was recorded")
            out.append(fold(f"Why {cell.objective}/{cell.label} failed", f"<pre>{escape(text)}</pre>"))
    out.append(
        prose(
            escape(HOW),
            "All numbers are in summary.csv and measures/, and derive from the traces beside them.",
            kind="small",
        )
    )
    return out


def render_html(page: Page, figures: dict[str, str]) -> str:
    """The whole page; nothing outside it is needed."""
    body = [
        *_answer(page, figures),
        *_dials(page, figures),
        *_gaps(page, figures),
        *_objectives(page, figures),
    ]
    body += [*_measures(page, figures), *_clock(page, figures), *_origins(page)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(page.name)}: trials to near-optimal</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main><script>{SCRIPT}</script></body></html>\n"
    )
