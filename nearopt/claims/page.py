"""The claims' pages: claims.md, claims.csv, effects.csv, claims.html, and NAME/report.html and .md of each
claim; from what was measured, no word of a verdict is typed here."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nearopt.claims.measuring import Measured
from nearopt.claims.verdict import FAILS, HOLDS, KINDS, OPEN, REFUTED, SUPPORTED, UNSURE, WORLD

TINTS = {"real": "#0072b2", "recorded": "#009e73", "published": "#d55e00", "surrogate": "#8a8a8a"}
SUMMARY = [
    "number", "claim", "title", "verdict", "part", "statement", "rule", "part_verdict", "effect", "low",
    "high", "families", "rows", "reason", "holds", "does_not_hold", "open", "missing",
]  # fmt: skip
COLOURS = {SUPPORTED: "#1b6b3a", REFUTED: "#9b2d1f", OPEN: "#6b5a1e"}


def number(x: Any) -> str:
    """Three digits, a dash for nan."""
    x = float(x)
    return "–" if np.isnan(x) else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}".replace("-", "−")


def spread(effect: float, low: float, high: float) -> str:
    """An effect with its interval."""
    same = low == high == effect
    return number(effect) + ("" if np.isnan(low) or same else f" ({number(low)} to {number(high)})")


def _named(rows: pd.DataFrame, said: str) -> str:
    mine: Any = rows[rows["holds"] == said]
    return "; ".join(f"{r['objective']} [{r['kind']}]" for r in mine.to_dict("records"))


def summary(measured: Sequence[Measured]) -> pd.DataFrame:
    """SUMMARY, a row a part of each claim."""
    rows = []
    for m in measured:
        for part, judged in zip(m.claim.parts, m.parts, strict=True):
            mine: Any = m.rows[m.rows["part"] == part.name]
            gone = mine[mine["effect"].isna()].to_dict("records")
            rows.append({
                "number": m.claim.number, "claim": m.claim.name, "title": m.claim.title, "verdict": m.verdict,
                "part": part.name, "statement": part.statement, "rule": part.rule.words(),
                "part_verdict": judged.verdict, "effect": judged.effect, "low": judged.low,
                "high": judged.high, "families": judged.families, "rows": judged.rows,
                "reason": judged.reason, "holds": _named(mine, HOLDS), "does_not_hold": _named(mine, FAILS),
                "open": _named(mine, UNSURE),
                "missing": "; ".join(f"{r['objective']}: {r['note']}" for r in gone),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(SUMMARY))


def table(rows: pd.DataFrame) -> str:
    """The claims' table in Markdown, a row a claim, from `summary` or the file claims.csv: the README's."""
    lines = ["| | claim | verdict | its parts: effect (95 % interval over families) |", "|---|---|---|---|"]
    for _, mine in rows.groupby("claim", sort=False):
        first = mine.iloc[0]
        parts = "; ".join(
            f"{r['part']}: {r['part_verdict'].lower()}, {spread(r['effect'], r['low'], r['high'])}"
            for r in mine.to_dict("records")
        )
        lines.append(f"| {first['number']} | {first['title']} | **{first['verdict']}** | {parts} |")
    return "\n".join(lines) + "\n"


# A claim in Markdown ------------------------------------------------------------------------------------


def _part_rows(m: Measured) -> list[list[str]]:
    return [
        [
            part.name, part.statement, judged.verdict, spread(judged.effect, judged.low, judged.high),
            f"{judged.families}", judged.reason or part.rule.words(),
        ]
        for part, judged in zip(m.claim.parts, m.parts, strict=True)
    ]  # fmt: skip


PART_HEAD = [
    "part",
    "what it says",
    "verdict",
    "effect (95 %)",
    "families",
    "rule, or why there is no interval",
]
WHERE_HEAD = ["part", "holds on", "does not hold on", "open on"]
FIGURE_HEAD = ["published figure", "published", "ours", "source"]


def _where_rows(m: Measured) -> list[list[str]]:
    rows = []
    for part in m.claim.parts:
        mine: Any = m.rows[m.rows["part"] == part.name]
        said = []
        for answer in (HOLDS, FAILS, UNSURE):
            there = mine[mine["holds"] == answer].to_dict("records")
            said.append(
                "; ".join(f"{r['objective']} {number(r['effect'])} [{r['kind']}]" for r in there) or "–"
            )
        rows.append([part.name, *said])
    return rows


def _figure_rows(m: Measured) -> list[list[str]]:
    return [
        [f.what, f.value, spread(f.ours.value, f.ours.low, f.ours.high)
         + (f": {f.ours.note}" if np.isnan(f.ours.value) and f.ours.note else ""), f.source]
        for f in m.figures
    ]  # fmt: skip


def _missing(m: Measured) -> list[str]:
    gone: Any = m.rows[m.rows["effect"].isna()]
    found: dict[str, list[str]] = {}
    for r in gone.to_dict("records"):
        found.setdefault(f"{r['objective']}: {r['note']}", []).append(r["part"])
    return [f"{what} ({', '.join(parts)})" for what, parts in found.items()]


def sentence(m: Measured) -> str:
    """The verdict in a sentence."""
    told = ", ".join(f"{p.part}: {p.verdict.lower()} at {spread(p.effect, p.low, p.high)}" for p in m.parts)
    return f"{m.verdict}. {told}."


def _md(head: list[str], rows: list[list[str]]) -> list[str]:
    clean = [[c.replace("|", "\\|").replace("\n", " ") for c in row] for row in rows]
    return [
        "| " + " | ".join(head) + " |", "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in clean), "",
    ]  # fmt: skip


def markdown(m: Measured, level: int = 1, figures: str = "../figures") -> str:
    """A claim's report: verdict first; `figures`: the folder of its picture, as seen from it."""
    out = [f"{'#' * level} {m.claim.number}. {m.claim.title}: {m.verdict}", "", sentence(m), ""]
    out += [f"*{m.claim.statement}* ({m.claim.source})", ""]
    out += [*_md(PART_HEAD, _part_rows(m)), "Where it holds and where not:", ""]
    out += _md(WHERE_HEAD, _where_rows(m))
    if m.figures:
        out += ["Published figures beside ours:", "", *_md(FIGURE_HEAD, _figure_rows(m))]
    if gone := _missing(m):
        out += ["Not measured:", "", *(f"- {line}" for line in gone), ""]
    return "\n".join([*out, f"![{m.claim.title}]({figures}/{m.claim.name}.svg)", ""])


# A figure -----------------------------------------------------------------------------------------------


def figure(m: Measured) -> str:
    """Effects by objective, one panel a part, with the line that the rule draws, as <svg>."""
    from bench.plots import _figure, svg

    labels = list(dict.fromkeys(m.rows[m.rows["effect"].notna()]["objective"]))
    kinds = {r["objective"]: r["kind"] for r in m.rows.to_dict("records")}
    labels.sort(key=lambda o: KINDS.index(kinds[o]))
    columns = len(m.parts)
    drawing, axes = _figure(2.6 + 2.2 * columns, 1.5 + 0.27 * (len(labels) + 1), columns)
    for ax, part, judged in zip(axes, m.claim.parts, m.parts, strict=True):
        mine: Any = m.rows[(m.rows["part"] == part.name) & m.rows["effect"].notna()]
        for r in mine.to_dict("records"):
            _mark(ax, labels.index(r["objective"]), r["effect"], r["low"], r["high"], TINTS[r["kind"]], "o")
        if np.isfinite(judged.effect):
            _mark(ax, len(labels), judged.effect, judged.low, judged.high, COLOURS[judged.verdict], "D")
        ax.axvline(part.rule.limit, color="#222222", linewidth=1, linestyle=(0, (4, 2)))
        _fit(ax, [*mine["effect"], judged.low, judged.effect, judged.high, part.rule.limit], part.rule.scale)
        ax.set_title(f"{part.name}\n{judged.verdict}", fontsize=8.5, color=COLOURS[judged.verdict])
        ax.set_yticks(range(len(labels) + 1))
        first = ax is axes[0]
        ax.set_yticklabels([*(_short(v) for v in labels), "over families"] if first else [])
        ax.set_ylim(len(labels) + 0.6, -0.6)
        arrow = "→" if part.rule.side == "above" else "←"
        ax.set_xlabel(f"claimed {arrow} {number(part.rule.limit)}", fontsize=8)
        ax.tick_params(labelsize=7.5)
    for tick, label in zip(axes[0].get_yticklabels(), labels, strict=False):
        tick.set_color(TINTS[kinds[label]])
    drawing.subplots_adjust(left=1.75 / (2.6 + 2.2 * columns), right=0.985, wspace=0.12)
    drawing.subplots_adjust(bottom=0.55 / drawing.get_figheight(), top=1 - 0.55 / drawing.get_figheight())
    return svg(drawing, m.claim.name)


def _fit(ax: Any, values: list[float], scale: str) -> None:
    """Shows all effects and the interval over families; those of single objectives may reach further."""
    shown = np.array([v for v in values if np.isfinite(v)])
    if scale == "log":
        ax.set_xscale("log")
        shown = np.log(shown)
    room = 0.12 * max(np.ptp(shown), 1e-3)
    low, high = shown.min() - room, shown.max() + room
    ax.set_xlim(*((np.exp(low), np.exp(high)) if scale == "log" else (low, high)))


def _short(label: str) -> str:
    return label if len(label) <= 30 else label[:29] + "…"


def _mark(ax: Any, y: float, x: float, low: float, high: float, tint: str, shape: str) -> None:
    if np.isfinite(low) and np.isfinite(high):
        ax.plot([low, high], [y, y], color=tint, linewidth=1.6, solid_capstyle="butt")
    ax.plot([x], [y], shape, color=tint, markersize=5 if shape == "o" else 6)


# Pages ------------------------------------------------------------------------------------------------------

STYLE = """
:root{--ink:#1d1d1b;--soft:#6b6b66;--line:#dcdcd6}
body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 28px 80px}
h1{font-size:29px;margin:0 0 6px}h2{font-size:20px;margin:50px 0 6px;padding-top:14px;
border-top:2px solid var(--ink)}
p{max-width:90ch}.soft{color:var(--soft)}.verdict{font-size:17px;font-weight:700}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px;margin:10px 0}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
figure{margin:12px 0}figure svg{max-width:100%;height:auto}li{font-size:13.5px;color:var(--soft)}
"""


def _e(text: Any) -> str:
    return html.escape(str(text), quote=True)


def _tinted(verdict: str) -> str:
    return f'<span style="color:{COLOURS[verdict]}">{verdict}</span>'


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{_e(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_tinted(c) if c in COLOURS else _e(c)}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def section(m: Measured, picture: str) -> str:
    """A claim on a page: the verdict first."""
    out = [
        f'<h2 id="{_e(m.claim.name)}">{_e(m.claim.number)}. {_e(m.claim.title)}</h2>',
        f'<p class="verdict">{_tinted(m.verdict)}</p>',
        f"<p>{_e(m.claim.statement)} <span class=soft>({_e(m.claim.source)})</span></p>",
        _html_table(PART_HEAD, _part_rows(m)), f"<figure>{picture}</figure>",
        _html_table(WHERE_HEAD, _where_rows(m)),
    ]  # fmt: skip
    if m.figures:
        out.append(_html_table(FIGURE_HEAD, _figure_rows(m)))
    if gone := _missing(m):
        out.append(
            "<p class=soft>Not measured:</p><ul>" + "".join(f"<li>{_e(g)}</li>" for g in gone) + "</ul>"
        )
    return "".join(out)


INTRO = (
    "Verdicts are computed by a rule that stands in each claim's file: supported where the 95 % interval "
    "over families of objectives lies beyond the stated limit, refuted where it does not reach that, else "
    "inconclusive. A claim is supported where all its parts are, refuted where one is. Claims about the "
    f"world are judged on {', '.join(WORLD)} data; surrogates show where they hold. P1 and on are published "
    "comparisons, most of them judged on the very objective that they were measured on."
)


def page(measured: Sequence[Measured], pictures: dict[str, str], title: str = "Claims, measured") -> str:
    """All claims on one page; nothing outside it is needed."""
    rows = [
        [
            m.claim.number,
            m.claim.title,
            m.verdict,
            "; ".join(f"{p.part}: {p.verdict.lower()}" for p in m.parts),
        ]
        for m in measured
    ]
    body = [f"<h1>{_e(title)}</h1><p>{_e(INTRO)}</p>"]
    key = " · ".join(f'<span style="color:{tint}">{kind}</span>' for kind, tint in TINTS.items())
    body += [
        _html_table(["", "claim", "verdict", "parts"], rows),
        f"<p class=soft>In the figures: {key}.</p>",
    ]
    body += [section(m, pictures[m.claim.name]) for m in measured]
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    head += f"<title>{_e(title)}</title><style>{STYLE}</style></head>"
    return f"{head}\n<body><main>{''.join(body)}</main></body></html>\n"


def put(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write(folder: Path, measured: Sequence[Measured]) -> Path:
    """Writes all files; returns the path of claims.html."""
    pictures = {m.claim.name: figure(m) for m in measured}
    for m in measured:
        xml = '<?xml version="1.0" encoding="utf-8"?>\n'
        picture = pictures[m.claim.name]
        put(folder / "figures" / f"{m.claim.name}.svg", xml + picture)
        put(folder / m.claim.name / "report.md", markdown(m))
        put(folder / m.claim.name / "report.html", page([m], pictures, f"{m.claim.title}: {m.verdict}"))
    rows = summary(measured)
    put(folder / "claims.csv", rows.to_csv(index=False, float_format="%.6g"))
    effects = pd.concat([m.rows for m in measured], ignore_index=True)
    put(folder / "effects.csv", effects.to_csv(index=False, float_format="%.6g"))
    text = ["# Claims, measured", "", INTRO, "", table(rows), *(markdown(m, 2, "figures") for m in measured)]
    put(folder / "claims.md", "\n".join(text))
    put(folder / "claims.html", page(measured, pictures))
    return folder / "claims.html"
