"""Numbers and lists as people read them."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.plots import colour
from bench.protocols import LEVELS

RELATIVE = ' <span class="tag">relative: depends on who takes part</span>'
ABSOLUTE = ' <span class="tag own">absolute: a strategy alone decides it</span>'


def number(x: Any, digits: int = 3) -> str:
    """A number for people: three digits, no trailing zeros, a dash for nan."""
    x = float(x)
    if np.isnan(x):
        return "–"
    if np.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    text = f"{x:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        if abs(int(exponent)) < 6 and abs(x) >= 1:
            return f"{x:,.0f}"
        return f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def percent(p: float) -> str:
    """A share of random configurations; the table of quantiles begins at its first level."""
    return f"≤ {100 * LEVELS[0]:g} %" if p <= LEVELS[0] * (1 + 1e-9) else f"{100 * p:.2g} %"


def trials(x: float, limit: float) -> str:
    """Trials-to-near-optimal, beyond the largest budget as such."""
    return "–" if np.isnan(x) else number(x) if np.isfinite(x) else f"> {limit:g}"


def interval(low: float, high: float) -> str:
    """A 95 % interval of trials; empty where there is none, where it excludes nothing, or
    nothing but what lies beyond the budget."""
    if np.isnan(low) or np.isnan(high) or np.isinf(low) or (low <= 0 and np.isinf(high)):
        return ""
    return f"≥ {number(low)}" if np.isinf(high) else f"{number(low)}–{number(high)}"


def spread(low: float, high: float) -> str:
    """A 95 % interval of any number, in brackets; empty where there is none."""
    if np.isnan(low) or np.isnan(high):
        return ""
    return f" ({number(low)} to {number(high)})"


def listed(words: Iterable[str]) -> str:
    """a, b and c"""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def last_line(text: Any) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "no reason was recorded"


def plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def escape(text: Any) -> str:
    return html.escape(str(text), quote=True)


def chip(label: str) -> str:
    """A strategy's name with its colour."""
    return f'<span class="chip" style="background:{colour(label)}"></span>{escape(label)}'


def prose(*text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{" ".join(text)}</p>'


HEAVY = 20_000  # characters: a fold of more becomes elements when it is opened, else a page opens late


def fold(title: str, body: str, mark: str = "", name: str = "") -> str:
    """A part that opens; `mark` is a tag behind its title (html), `name` its id."""
    if len(body) > HEAVY:
        text = body.replace("</script", "<\\/script")
        body = (
            "<noscript><p>It takes a script to show this; summary.csv, measures/ and figures/ have it.</p>"
            f'</noscript><script type="text/html">{text}</script>'
        )
    name = f' id="{escape(name)}"' if name else ""
    return f"<details{name}><summary>{escape(title)}{mark}</summary>{body}</details>"


def bullets(items: Iterable[str]) -> str:
    return '<ul class="small">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def plain_table(names: list[str], rows: list[list[str]], labels: int | None = None) -> str:
    """A plain table; column `labels` holds strategies, shown with their colour."""
    head = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="n">{chip(c) if i == labels else escape(c)}</td>' for i, c in enumerate(r))
        + "</tr>"
        for r in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="rows">{inside}</table></div>'
