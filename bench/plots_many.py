"""Figures of one objective among many, as SVG written by hand: a report over a hundred objectives has two
hundred, and matplotlib takes half a second for each. They show what `bench.plots` shows of few."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.plots import BANDS, FAINT, INK, colour, dash, power, rank, regret_scale

WIDTH, LINE = 1040, 17  # of a figure, of a row of the legend; in units of its view box
LETTER = 6.3  # mean width of a letter
TOP, BOTTOM, PANEL = 30, 46, 250  # title, axis, and height of a panel


class Axis(NamedTuple):
    """low..high of an axis, shown from `start` to `end`; kind: linear, log, doubling (log, with powers of 2),
    or symlog, which is linear within `near` of 0."""

    kind: str
    low: float
    high: float
    start: float
    end: float
    near: float = 1.0

    def __call__(self, values: Any) -> np.ndarray:
        low, high, v = (self._flat(x) for x in (self.low, self.high, values))
        # Far outside is as good as infinite, and keeps numbers short.
        part = np.clip((v - low) / (float(high - low) or 1.0), -9, 9)
        return self.start + part * (self.end - self.start)

    def _flat(self, values: Any) -> np.ndarray:
        v = np.asarray(values, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind in ("log", "doubling"):
                return np.log(np.maximum(v, 1e-300))
            return np.arcsinh(v / self.near * 2) if self.kind == "symlog" else v

    def ticks(self) -> list[tuple[float, str]]:
        """(value, text), few enough to be read."""
        if self.kind == "linear":
            step = 10.0 ** np.floor(np.log10((self.high - self.low) / 4))
            step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 6)
            values = step * np.arange(np.ceil(self.low / step), self.high / step + 1e-9)
            return [(float(v), f"{v:.6g}") for v in values]
        if self.kind == "symlog":
            top = max(abs(self.low), abs(self.high), self.near)
            powers = 10.0 ** np.arange(np.ceil(np.log10(self.near)), np.log10(top) + 1e-9)
            values = [0.0, *powers[:: len(powers) // 4 + 1]]
            values = sorted({*values, *(-v for v in values)})
            return [(v, power(v)) for v in values if self.low <= v <= self.high]
        if self.kind == "doubling":
            powers = 2.0 ** np.arange(np.ceil(np.log2(self.low)), np.log2(self.high) + 1e-9)
            return [(float(v), f"{v:g}") for v in powers[:: len(powers) // 9 + 1]]
        first, last = np.log10(self.low), np.log10(self.high)
        decades = 10.0 ** np.arange(np.ceil(first), last + 1e-9)
        if last - first > 2.7:
            return [(float(v), power(v)) for v in decades[:: len(decades) // 7 + 1]]
        subs = (1, 1.2, 1.5, 2, 3, 5) if last - first < 0.7 else (1, 2, 5)
        values = [10.0**k * m for k in range(int(np.floor(first)), int(last) + 1) for m in subs]
        return [(v, f"{v:g}") for v in values if self.low <= v <= self.high]


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _steps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a step function that keeps its value until the next one."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _stretches(good: np.ndarray) -> Iterable[slice]:
    """Slices of bool[n] in which it is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    return (slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _dashes(label: str) -> str:
    style = dash(label)
    return "" if style == "-" else f' stroke-dasharray="{" ".join(f"{2 * v:g}" for v in style[1])}"'


def _line(label: str, x: np.ndarray, y: np.ndarray, there: np.ndarray) -> str:
    """The steps of one label where they are there, as they are on the page."""
    lines = "".join(f'<polyline points="{_points(*_steps(x[s], y[s]))}"/>' for s in _stretches(there))
    return f'<g fill="none" stroke="{colour(label)}" stroke-width="2.3"{_dashes(label)}>{lines}</g>'


def _band(label: str, x: np.ndarray, low: np.ndarray, high: np.ndarray, there: np.ndarray) -> str:
    out = []
    for s in _stretches(there):
        (a, b), (_, c) = _steps(x[s], low[s]), _steps(x[s], high[s])
        out.append(f'<polygon points="{_points(np.r_[a, a[::-1]], np.r_[b, c[::-1]])}"/>')
    return f'<g fill="{colour(label)}" fill-opacity=".11">{"".join(out)}</g>'


def _text(x: float, y: float, text: str, anchor: str = "start", **more: str) -> str:
    kinds = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kinds}>{escape(text)}</text>'


def _level(axis: Axis, left: float, right: float, level: float, text: str, tint: str = INK) -> str:
    """A dashed line at a level, and what it is."""
    if not np.isfinite(level):
        return ""
    y = float(axis(level))
    return f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{tint}" stroke-dasharray="5 4"/>' + _text(
        left + 5, y - 4, text, font_size="11", fill=tint
    )


class Panel(NamedTuple):
    """A panel: its axes, what they are called, and its title."""

    x: Axis
    y: Axis
    below: str
    beside: str
    title: str

    def draw(self, inside: str, ticks: Sequence[tuple[float, str]] | None = None) -> str:
        """With `inside` cut at the panel's edges, and `ticks` beside it instead of the axis' own."""
        x, y = self.x, self.y
        wide, high = x.end - x.start, y.start - y.end
        out = []
        for at, text in x.ticks():
            a = float(x(at))
            out.append(f'<path d="M{a:.1f} {y.end:.1f}V{y.start:.1f}" stroke="#e6e6e6"/>')
            out.append(_text(a, y.start + 17, text, "middle"))
        for at, text in y.ticks() if ticks is None else ticks:
            b = float(y(at))
            out.append(f'<path d="M{x.start:.1f} {b:.1f}H{x.end:.1f}" stroke="#e6e6e6"/>')
            out.append(_text(x.start - 6, b + 4, text, "end"))
        out.append(
            f'<svg x="{x.start:.1f}" y="{y.end:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'viewBox="{x.start:.1f} {y.end:.1f} {wide:.1f} {high:.1f}">{inside}</svg>'
        )
        out.append(
            f'<path d="M{x.start:.1f} {y.end:.1f}V{y.start:.1f}H{x.end:.1f}" stroke="{FAINT}" fill="none"/>'
        )
        out.append(_text((x.start + x.end) / 2, y.start + 36, self.below, "middle", fill=INK))
        if self.beside:
            at = f"rotate(-90 {x.start - 58:.1f} {(y.start + y.end) / 2:.1f})"
            out.append(
                _text(x.start - 58, (y.start + y.end) / 2, self.beside, "middle", transform=at, fill=INK)
            )
        out.append(_text(x.start, y.end - 10, self.title, font_size="14", fill=INK))
        return "".join(out)


def _legend(labels: Sequence[str]) -> tuple[str, int]:
    """(names with their lines, rows)."""
    x, row, out = 62.0, 0, []
    for label in labels:
        room = 34 + LETTER * len(label) + 16
        if x + room > WIDTH and x > 62:
            x, row = 62.0, row + 1
        y = 14 + LINE * row
        out.append(
            f'<path d="M{x:.1f} {y - 4}h26" stroke="{colour(label)}" stroke-width="2.3"{_dashes(label)}/>'
            + _text(x + 32, y, label, fill=INK)
        )
        x += room
    return "".join(out), row + 1


def _svg(height: float, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="Helvetica Neue,Helvetica,Arial,Liberation Sans,sans-serif" '
        f'font-size="12.5" fill="#555555">{body}</svg>'
    )


def _parts(table: Any) -> dict[str, Any]:
    parts: dict[Any, Any] = dict(iter(table.groupby("label", sort=False)))
    return {label: parts[label] for label in sorted(parts, key=rank)}


def _lines(panel: Panel, curves: pd.DataFrame, planned: pd.DataFrame) -> str:
    """A step line with its band a label; dots where runs were planned for exactly that budget."""
    out, dots = [], []
    parts, most = _parts(curves), _parts(planned)
    for label, part in parts.items():
        at, middle, low, high = (part[c].to_numpy() for c in ("budget", "middle", "low", "high"))
        x = panel.x(at)
        if len(parts) <= BANDS:
            out.insert(0, _band(label, x, panel.y(low), panel.y(high), np.isfinite(low) & (high > low)))
        out.append(_line(label, x, panel.y(middle), np.isfinite(middle)))
        mine = most[label].to_dict("records") if label in most else []
        for r in mine:
            if np.isfinite(r["middle"]):
                a, b, c, d = (float(v) for v in (
                    panel.x(r["budget"]), panel.y(r["middle"]),
                    panel.y(r["low"] if np.isfinite(r["low"]) else r["middle"]),
                    panel.y(r["high"] if np.isfinite(r["high"]) else r["middle"]),
                ))  # fmt: skip
                dots.append(
                    f'<g stroke="{colour(label)}" fill="#fff"><path d="M{a:.1f} {c:.1f}V{d:.1f}"/>'
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.2" stroke-width="1.6"/></g>'
                )
    return "".join(out + dots)


def objective_sketch(
    name: str,
    regret: pd.DataFrame,
    share: pd.DataFrame,
    planned_regret: pd.DataFrame,
    planned_share: pd.DataFrame,
    *,
    ratio: bool,
    goal: float,
    dynamic: float,
    max_epoch: int,
) -> str:
    """What `bench.plots.objective_figure` shows, of the same frames."""
    start = 1.0 if max_epoch == 1 else 0.5
    budgets = np.concatenate([planned_share["budget"], [regret["budget"].max()]])
    start = min(start, float(budgets.min()))
    legend, rows = _legend(list(_parts(share)))
    top = 14 + LINE * rows + TOP
    end = top + PANEL
    shown: Any = regret[regret["budget"] >= start]
    kind, low, high = regret_scale(shown, planned_regret, goal, dynamic, ratio)
    most = float(budgets.max()) * 1.02
    spent = "budget spent (full trainings)"
    left = Panel(
        Axis("doubling", start, most, 78, 500), Axis(kind or "linear", low, high, end, top, max(goal, 1e-12)),
        spent, "true loss / best constant's" if ratio else "regret (units of the loss)",
        "How good is the best found? (lower is better)",
    )  # fmt: skip
    right = Panel(
        Axis("doubling", start, most, 590, 1026), Axis("linear", -0.02, 1.03, end, top), spent, "",
        "How many runs are near-optimal? (higher is better)",
    )  # fmt: skip
    levels = _level(left.y, 78, 500, goal, "near-optimal")
    levels += _level(left.y, 78, 500, dynamic, "best schedule known", "#7b3294")
    half = _level(right.y, 590, 1026, 0.5, "half of the runs")
    percents = [(v / 4, f"{25 * v} %") for v in range(5)]
    body = legend + left.draw(_lines(left, regret, planned_regret) + levels)
    body += right.draw(_lines(right, share, planned_share) + half, percents)
    return _svg(end + BOTTOM, body)


def clock_sketch(curves: pd.DataFrame, use: Mapping[str, np.ndarray], ratio: bool) -> str:
    """What `bench.plots_time.clock_figure` shows, of the same frames."""
    labels = sorted(use, key=rank)
    legend, rows = _legend(labels)
    top = 14 + LINE * rows + 14
    end = top + max(PANEL, 15 * len(labels))
    names = LETTER * max((len(v) for v in labels), default=1)
    shown: Any = curves[np.isfinite(curves["middle"]) & (curves["middle"] > 0)]
    body = legend
    if len(shown):
        least, most = float(shown["middle"].min()) / 1.2, float(shown["middle"].max()) * 1.2
        first, last = float(shown["seconds"].min()), float(shown["seconds"].max())
        left = Panel(
            Axis("log", first, max(last, 1.01 * first), 78, 770 - names), Axis("log", least, most, end, top),
            "simulated seconds", "loss / best constant's" if ratio else "loss above the optimum", "",
        )  # fmt: skip
        parts, lines = _parts(shown), []
        for label, part in parts.items():
            at, middle, low, high = (part[c].to_numpy() for c in ("seconds", "middle", "low", "high"))
            x = left.x(at)
            if len(parts) <= BANDS:
                there = np.isfinite(low) & np.isfinite(high) & (low > 0)
                lines.insert(0, _band(label, x, left.y(low), left.y(high), there))
            lines.append(_line(label, x, left.y(middle), np.isfinite(middle)))
        one = _level(left.y, 78, 770 - names, 1.0, "") if ratio else ""
        body += left.draw("".join(lines) + one)
    right = Panel(
        Axis("linear", 0, 103, 800, 1026), Axis("linear", len(labels) - 0.4, -0.6, end, top),
        "% of the workers' time in training", "", "",
    )  # fmt: skip
    bars = []
    for i, label in enumerate(labels):
        busy = 100 * use[label][np.isfinite(use[label])]
        if len(busy):
            half, middle = (end - top) / (len(labels) + 0.2) * 0.31, float(right.y(i))
            a, b, c = (float(v) for v in right.x([np.median(busy), busy.min(), busy.max()]))
            bars.append(
                f'<path d="M800 {middle - half:.1f}H{a:.1f}v{2 * half:.1f}H800z" fill="{colour(label)}" '
                f'fill-opacity=".85"/><path d="M{b:.1f} {middle:.1f}H{c:.1f}" stroke="#555555"/>'
            )
    body += right.draw("".join(bars), [(float(i), v) for i, v in enumerate(labels)])
    return _svg(end + BOTTOM, body)
