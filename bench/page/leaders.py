"""The table of who leads: budgets down, curves and cluster across; as text and on the page, all of it from
the frame of `bench.leaders`, so that whoever has leaders.csv can show it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.leaders import FIRST, INFORMATIVE, LEADS, LEFT_OUT, UNKNOWN, WITH, WITHOUT
from bench.page.words import RELATIVE, chip, escape, listed, number, plural, prose

NONE = "no difference"
MOST = 8  # names in a cell
RULE = (
    "By the mean gap left, 0 where it is the best constant configuration's and 1 where it is no better than "
    "the median random one's; over families of objectives, or the runs of a single one. Who leads beats each "
    f"other at the 5 % level, corrected for the number of cells in this table, by the stated distance from "
    f"the next (95 % interval). Else there is {NONE}, and those follow, best first, who may be the best: a "
    "set that holds it with 95 % (Hsu 1984). It may be large for want of families, which does not make them "
    "equal. A budget counts trainings, "
    "however many workers share them."
)
CURVES = (
    "Curves are informative where the rank correlation of the told loss at a ninth of training with the true "
    f"one at the end, over random configurations, is at least {INFORMATIVE:g} (median over instances): from "
    "there on, halving that keeps one in nine there keeps the best of 81 more often than not."
)


def _cells(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str, float], list[dict[str, Any]]]]:
    key: Any  # a column's values, which pandas types as anything hashable
    for key, part in frame.groupby(["curves", "cluster", "budget"], sort=False):
        yield key, part.to_dict("records")


def said(rows: list[dict[str, Any]]) -> tuple[str, list[str], str]:
    """(what a cell says, of whom, by how much) from its rows of the frame, best first."""
    compared = [r for r in rows if r["place"] != LEFT_OUT]
    if not compared:
        return "–", [], ""
    rivals = compared[1:]
    if all(isinstance(r["reason"], str) and r["reason"] for r in rivals):
        return f"nothing can be said: {rivals[0]['reason']}", [], ""
    if compared[0]["place"] == LEADS:
        by = number(rivals[0]["difference"], 2)
        return LEADS, [compared[0]["strategy"]], f"{by} ({_ends(rivals[0])})"
    first = [r["strategy"] for r in compared if r["place"] == FIRST]
    more = ["all that are compared"] if len(first) == len(compared) else []
    if len(first) > MOST:
        more.insert(0, f"and {len(first) - MOST} more")
    return NONE, first[:MOST], ", ".join(more)


def _ends(row: dict[str, Any]) -> str:
    return f"{number(row['low'], 2)} to {number(row['high'], 2)}"


def _words(rows: list[dict[str, Any]]) -> str:
    what, who, more = said(rows)
    if what == LEADS:
        return f"**{who[0]}** leads by {more}"
    return f"{what}: {', '.join(who)}{f' ({more})' if more else ''}" if who else what


def _grid(frame: pd.DataFrame) -> tuple[list[tuple[str, str]], list[float], dict[Any, list[dict[str, Any]]]]:
    """(columns, budgets, rows of the frame of each cell)."""
    cells = dict(_cells(frame))
    return list(dict.fromkeys(key[:2] for key in cells)), sorted({key[2] for key in cells}), cells


def _between(values: list[int], word: str) -> str:
    low, most = values[0], plural(values[-1], word).replace("familys", "families")
    return most if low == values[-1] else f"{low} to {most}"


def sizes(frame: pd.DataFrame) -> str:
    """How much the table rests on, and who is not in it (plain text)."""
    parts, out = [], []
    compared: Any = frame[frame["place"] != LEFT_OUT]
    left: Any = frame[frame["place"] == LEFT_OUT]
    for curves, part in compared.groupby("curves", sort=False):
        objectives, families, runs = (
            _between(sorted({int(v) for v in part[c]}), w)
            for c, w in (("objectives", "objective"), ("families", "family"), ("runs", "run"))
        )
        parts.append(f"{curves}: {objectives} of {families}, {runs} each")
    for (curves, strategy), part in left.groupby(["curves", "strategy"], sort=False):
        mine = frame[(frame["curves"] == curves) & (frame["strategy"] == strategy)]
        if len(part) == len(mine):
            out.append(f"{strategy} with {curves} ({plural(int(part['objectives'].max()), 'objective')})")
    text = f"{'; '.join(parts)}." if parts else ""
    return text + (f" Not compared, as it does not run on all of them: {listed(out)}." if out else "")


def table(frame: pd.DataFrame) -> str:
    """The table in Markdown, from `bench.leaders` or the file leaders.csv: the report's and the README's."""
    columns, budgets, cells = _grid(frame)
    lines = [
        f"| trainings | {' | '.join(f'{curves}, {cluster}' for curves, cluster in columns)} |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    for b in budgets:
        words = [_words(cells[*key, b]) if (*key, b) in cells else "–" for key in columns]
        lines.append(f"| {b:g} | {' | '.join(words)} |")
    return "\n".join([*lines, "", sizes(frame), ""])


def tells(frame: pd.DataFrame) -> bool:
    """Whether two strategies are compared in any cell."""
    return bool((frame["place"] != LEFT_OUT).any())


def described(curves: pd.DataFrame) -> str:
    """Which objectives are in which column, and what was measured (plain text)."""
    out = []
    for kind in (WITH, WITHOUT, UNKNOWN):
        part: Any = curves[curves["curves"] == kind]
        mine = part.to_dict("records")
        ranked = [
            f"{r['objective']} {number(r['rank_at_ninth'])}" for r in mine if not np.isnan(r["rank_at_ninth"])
        ]
        plain = [r["objective"] for r in mine if np.isnan(r["rank_at_ninth"])]
        if kind == UNKNOWN:
            ranked = [f"{o} (nearopt describe objective={o})" for o in plain]
        elif plain:
            ranked.append(f"formulas without any: {listed(plain)}")
        if ranked:
            out.append(f"{kind}: {', '.join(ranked)}.")
    return " ".join(v[0].upper() + v[1:] for v in out)


def section(frame: pd.DataFrame, curves: pd.DataFrame) -> str:
    """The part of the page (html); empty where nobody is compared."""
    if not tells(frame):
        return ""
    size = sizes(frame)
    columns, budgets, cells = _grid(frame)
    head = "".join(f'<th scope="col">{escape(c)}<br>{escape(k)}</th>' for c, k in columns)
    rows = "".join(
        f'<tr><th scope="row">{b:g}</th>{"".join(_cell(cells.get((*key, b), [])) for key in columns)}</tr>'
        for b in budgets
    )
    return (
        '<h2 id="leaders">Who leads, with and without informative curves</h2>'
        + prose(RELATIVE, escape(RULE), kind="small")
        + '<div class="scroll"><table class="rows leads"><thead><tr><th scope="col">trainings</th>'
        + f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        + prose(escape(size[:1].upper() + size[1:]), escape(CURVES), escape(described(curves)), kind="small")
        + prose("Every strategy's own mean and its distance from the first are in leaders.csv.", kind="small")
    )


def _cell(rows: list[dict[str, Any]]) -> str:
    what, who, more = said(rows)
    names = ", ".join(f'<span class="n">{chip(v)}</span>' for v in who)
    if what == LEADS:
        return f'<td class="sure"><b>{names}</b> leads by <span class="ci">{escape(more)}</span></td>'
    text = escape(what) + (f": {names}" if who else "")
    return f"<td>{text}{f' <span class=ci>({escape(more)})</span>' if more else ''}</td>"
