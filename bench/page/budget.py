"""The budget slider: at this budget, who leads, by how much, how surely.

Everything is computed beforehand, a budget a step; the script only shows it, so that the page says the same
without one, at the largest budget.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from bench.inference import ALIKE, BETTER, EQUAL
from bench.page.words import RELATIVE, escape, number
from bench.plots import colour

ALL = "all objectives together"
SURE, CLOSE, CHANCE, ALONE = "surely", "practically equal", "may be chance", "–"


def how_surely(row: Any) -> str:
    """A leader's row in words."""
    if not isinstance(row["second"], str):
        return ALONE
    if row["answer"] == BETTER:
        return SURE
    return CLOSE if row["answer"] == ALIKE else CHANCE


def rows_at(leaders: pd.DataFrame, general: pd.DataFrame, budget: float) -> list[dict[str, Any]]:
    """What stands under the slider at one budget, a row a cluster where there are several: all objectives
    together first, where they are of several families, since of one nothing can be said in general; in the
    end objectives without runs there."""
    found, several = [], len(set(leaders["cluster"])) > 1

    def named(name: str, cluster: str) -> str:
        return f"{name} ({cluster})" if several else name

    for table, whole in ((general[general["families"] > 1], True), (leaders, False)):
        part: Any = table[table["budget"] == budget]
        for row in part.to_dict("records"):
            there = isinstance(row["first"], str)
            found.append({
                "objective": named(_together(row) if whole else row["objective"], row["cluster"]),
                "of": (row["objective"], row["cluster"]), "whole": whole,
                "left": row["left_out"] if not whole and isinstance(row["left_out"], str) else "",
                "first": row["first"] if there else "",
                "second": row["second"] if isinstance(row["second"], str) else "",
                "gap": number(row["gap_first"], 2) if there else "–",
                "by": "–" if np.isnan(row["difference"]) else _rounded(-row["difference"]),
                "interval": "" if np.isnan(row["low"]) or np.isinf(row["low"])
                else f"{_rounded(-row['high'])} to {_rounded(-row['low'])}",
                "sure": how_surely(row),
                "why": _why(row, whole),
            })  # fmt: skip
    ends: Any = leaders.groupby(["objective", "cluster"], sort=False)["budget"].agg(["min", "max"])
    for of, least, most in ends.itertuples():
        if not least <= budget <= most:
            why = f"run with at most {most:g}" if budget > most else f"run with {least:g} or more"
            found.append({"objective": named(*of), "of": of, "whole": False, "left": "", "first": "",
                          "second": "", "gap": "–", "by": "–", "interval": "", "sure": ALONE,
                          "why": why})  # fmt: skip
    return found


def _rounded(x: float) -> str:
    """A gap or a difference of gaps: what is below rounding is 0."""
    return number(0.0 if abs(x) < 1e-9 else x, 2)


def _together(row: dict[str, Any]) -> str:
    absent = len(row["absent"].split(", ")) if isinstance(row["absent"], str) and row["absent"] else 0
    return (
        f"{row['objectives']:.0f} of {row['objectives'] + absent:.0f} objectives together" if absent else ALL
    )


def _why(row: dict[str, Any], whole: bool) -> str:
    """What a reader needs beside the word: why nothing can be said, small samples, runs needed."""
    said = []
    if isinstance(row["reason"], str) and row["reason"]:
        said.append(row["reason"])
    elif not np.isnan(row["p_holm"]):
        said.append("p < 0.001" if row["p_holm"] < 0.001 else f"p = {number(row['p_holm'], 2)}")
    if row["gap_first"] >= 1 and isinstance(row["second"], str):
        said.append("no better than the median random configuration")
    if isinstance(row["left_out"], str) and row["left_out"]:
        said.append(f"{'not on every objective' if whole else 'no runs at this budget'}: {row['left_out']}")
    if not whole and row["answer"] not in (BETTER, ALIKE) and row["seeds_needed"] == row["seeds_needed"]:
        says = "that it leads" if row["would_say"] == BETTER else "that they are practically equal"
        said.append(f"if it stays so, {row['seeds_needed']:,.0f} runs each would show {says}")
    sample = [f"{row['families']:.0f} families"] if whole and row["families"] < 20 else []
    if row["runs"] < 20:
        sample.append("1 run" if row["runs"] == 1 else f"{row['runs']:.0f} runs")
    if sample and isinstance(row["second"], str):
        said.append(f"small sample: {', '.join(sample)}")
    return "; ".join(said)


def sentence(row: dict[str, Any], budget: float) -> str:
    """The first line under the slider (plain text); the script writes the same one."""
    at = f"With {budget:g} full training{'' if budget == 1 else 's'}, "
    over = row["objective"].replace(" together", "", 1) if row["whole"] else row["objective"]
    if not row["first"]:
        return f"{at}nothing can be said of {over}: {row['why']}."
    where = f"{'over' if row['whole'] else 'on'} {over}"
    if not row["second"]:
        return f"{at}{where}, {row['first']} is the only one that has runs."
    at += _without([row])
    interval = f" ({row['interval']})" if row["interval"] else ""
    if row["by"] == "0" and row["sure"] != SURE:
        ends = " and are practically equal" if row["sure"] == CLOSE else ""
        return f"{at}{row['first']} and {row['second']} are level {where}{interval}{ends}."
    ahead = {SURE: "leads", CLOSE: "is practically equal to"}.get(row["sure"], "is ahead of")
    tail = ", which may be chance" if row["sure"] == CHANCE else ""
    by = f"{': ahead' if row['sure'] == CLOSE else ''} by {row['by']} of the gap{interval}"
    return f"{at}{row['first']} {ahead} {row['second']} {where}{by}{tail}."


def _without(rows: list[dict[str, Any]]) -> str:
    """Which rivals have no runs at a budget, so that who leads there may trail them with less."""
    left = dict.fromkeys(v for row in rows for v in row["left"].split(", ") if v)
    return f"of those that have runs there (not {', '.join(left)}), " if left else ""


def said(rows: list[dict[str, Any]], budget: float) -> str:
    """The line under the slider (plain text): all objectives together, the only one, or how many of which."""
    first = [row for row in rows if row["whole"]] or (rows if len(rows) == 1 else [])
    if first:
        return " ".join(sentence(row, budget) for row in first)
    counts: dict[str, int] = {}
    for row in rows:
        words = {SURE: f"{row['first']} surely leads", CLOSE: "the first two are practically equal"}
        other = "the lead may be chance" if row["second"] else "there is no rival"
        text = words.get(row["sure"], other if row["first"] else "there are no runs")
        counts[text] = counts.get(text, 0) + 1
    parts = [f"{text} on {n} of {len(rows)} objectives" for text, n in counts.items()]
    return f"With {budget:g} full training{'' if budget == 1 else 's'}, {_without(rows)}{'; '.join(parts)}."


HEAD = ("objective", "leads", "gap left", "ahead of", "by", "how surely")
KEYS = ("objective", "first", "gap", "second", "by", "sure")


def slider(leaders: pd.DataFrame, general: pd.DataFrame) -> str:
    """The part of the page (html) with its data; empty where there is nothing to lead."""
    budgets = sorted({float(b) for b in leaders["budget"]})
    if not budgets or leaders["strategies"].to_numpy().max() < 2:
        return ""
    steps = {b: rows_at(leaders, general, b) for b in budgets}
    last = steps[budgets[-1]]
    order = ["objective", "first", "second", "gap", "by", "interval", "sure", "why", "whole"]
    labels = sorted({r[k] for rows in steps.values() for r in rows for k in ("first", "second") if r[k]})
    data = {
        "budgets": budgets, "keys": order, "colours": {v: colour(v) for v in labels},
        "rows": [[[r[k] for k in order] for r in steps[b]] for b in budgets],
        "said": [said(steps[b], b) for b in budgets],
    }  # fmt: skip
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in HEAD)
    ticks = "".join(f'<option value="{i}" label="{b:g}"></option>' for i, b in enumerate(budgets))
    return (
        '<h2 id="budget">At your budget: who leads, by how much, how surely</h2>'
        f'<p class="small">{RELATIVE} Strategies are compared by the <i>gap left</i>: the true loss of the '
        "best found, 0 where it is the best constant configuration's and 1 where it is no better than the "
        "median random one's; mean over runs. <i>Surely</i>: the leader beats every other at the 5 % level, "
        "corrected for the number of objectives and clusters, of which each is compared by itself; "
        "the interval is that of the lead over the next one alone. "
        "<i>Practically equal</i>: the 95 % interval of the lead "
        "lies "
        f"within {100 * EQUAL:g} % of the gap. All objectives together: families of objectives are the "
        "sample, so what is said is about others like them.</p>"
        '<div class="slider noprint"><label for="budget-range">budget, in full trainings</label>'
        f'<input type="range" id="budget-range" min="0" max="{len(budgets) - 1}" step="1" '
        f'value="{len(budgets) - 1}" list="budget-ticks" aria-valuetext="{budgets[-1]:g} full trainings">'
        f'<output id="budget-value" for="budget-range">{budgets[-1]:g}</output>'
        f'<datalist id="budget-ticks">{ticks}</datalist></div>'
        f'<p id="budget-said" class="said" aria-live="polite">{escape(said(last, budgets[-1]))}</p>'
        f'<div class="scroll tall"><table class="rows lead"><thead><tr>{head}</tr></thead>'
        f'<tbody id="budget-rows">{"".join(_row(r) for r in last)}</tbody></table></div>'
        f'<script type="application/json" id="budget-data">{text}</script>'
    )


def _row(row: dict[str, Any]) -> str:
    cells = []
    for key in KEYS:
        value = escape(row[key])
        if key in ("first", "second") and row[key]:
            value = f'<span class="chip" style="background:{colour(row[key])}"></span>{value}'
        if key == "by" and row["interval"]:
            value += f' <span class="ci">{escape(row["interval"])}</span>'
        if key == "sure" and row["why"]:
            value += f' <span class="ci">{escape(row["why"])}</span>'
        cells.append(f"<td>{value}</td>")
    whole = " whole" if row["whole"] else ""
    return f'<tr class="{row["sure"].split()[0]}{whole}">{"".join(cells)}</tr>'


SCRIPT = """
(function () {
  var source = document.getElementById('budget-data');
  if (source) {
    var data = JSON.parse(source.textContent), at = {};
    data.keys.forEach(function (k, i) { at[k] = i; });
    var range = document.getElementById('budget-range'), body = document.getElementById('budget-rows');
    var add = function (parent, kind, text, style) {
      var e = parent.appendChild(document.createElement(kind));
      if (style) e.className = style;
      e.textContent = text;
      return e;
    };
    var show = function () {
      var i = +range.value, budget = String(data.budgets[i]);
      document.getElementById('budget-value').textContent = budget;
      range.setAttribute('aria-valuetext', budget + ' full trainings');
      document.getElementById('budget-said').textContent = data.said[i];
      body.textContent = '';
      data.rows[i].forEach(function (row) {
        var tr = add(body, 'tr', '', row[at.sure].split(' ')[0] + (row[at.whole] ? ' whole' : ''));
        ['objective', 'first', 'gap', 'second', 'by', 'sure'].forEach(function (key) {
          var td = add(tr, 'td', ''), colour = data.colours[row[at[key]]];
          if ((key === 'first' || key === 'second') && colour) {
            add(td, 'span', '', 'chip').style.background = colour;
          }
          td.appendChild(document.createTextNode(row[at[key]]));
          var more = key === 'by' ? row[at.interval] : key === 'sure' ? row[at.why] : '';
          if (more) { td.appendChild(document.createTextNode(' ')); add(td, 'span', more, 'ci'); }
        });
      });
    };
    range.addEventListener('input', show);
    show();
  }
  // What is heavy and folded is text until it is wanted.
  var fill = function (fold) {
    var text = fold.querySelector(':scope > script[type="text/html"]');
    if (text) text.outerHTML = text.textContent.replace(/<\\\\\\/script/g, '<' + '/script');
  };
  var unfold = function (fold) { fill(fold); fold.open = true; };
  document.addEventListener('toggle', function (event) {
    if (event.target.tagName === 'DETAILS' && event.target.open) fill(event.target);
  }, true);
  var sort = function (head) {
    var table = head.closest('table'), body = table.tBodies[0], heads = table.tHead.rows[0].cells;
    var column = head.cellIndex;
    var down = head.getAttribute('aria-sort') === 'ascending', rows = Array.from(body.rows);
    var value = function (row) {
      var v = row.cells[column].dataset.v;
      return v === undefined ? row.cells[column].textContent : v === '' ? NaN : +v;
    };
    rows.sort(function (a, b) {
      var x = value(a), y = value(b);
      if (typeof x === 'string') return down ? y.localeCompare(x) : x.localeCompare(y);
      if (x !== x || y !== y) return (x !== x) - (y !== y);
      return x === y ? 0 : (x < y) === down ? 1 : -1;
    });
    Array.prototype.forEach.call(heads, function (h) { h.removeAttribute('aria-sort'); });
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    rows.forEach(function (r) { body.appendChild(r); });
  };
  var download = function (button) {
    var fold = document.getElementById('numbers-rows');
    if (fold) fill(fold);
    var rows = Array.from(document.getElementById(button.dataset.csv).rows).map(function (row) {
      return Array.from(row.cells).map(function (cell) {
        var v = cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
        return /[",\\n]/.test(v) ? '"' + v.replace(/"/g, '""') + '"' : v;
      }).join(',');
    });
    var link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([rows.join('\\n') + '\\n'], {type: 'text/csv'}));
    link.download = button.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  document.addEventListener('click', function (event) {
    var button = event.target.closest('button');
    if (button && button.dataset.csv) download(button);
    else if (button && button.closest('table.sortable thead')) sort(button.closest('th'));
  });
  window.addEventListener('beforeprint', function () {
    document.querySelectorAll('details').forEach(unfold);
  });
  // A closed part is not printed, and one that is linked to must open.
  var open = function () {
    var at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var e = at; e; e = e.parentElement) if (e.tagName === 'DETAILS') unfold(e);
    if (at) at.scrollIntoView();
  };
  window.addEventListener('hashchange', open);
  if (location.hash) open();
})();
"""
