"""study.html: how a study stands, one self-contained file without scripts.

Drawn by hand as SVG: no plotting library is imported into the process that trains, and a page takes
milliseconds.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.space import Choice, Float, Int, Space
from nearopt.forms import FINISHED
from nearopt.study_result import (
    draws_of,
    gain_in_words,
    inside,
    number,
    opened,
    ranking,
    result_of,
    trials_of,
)

if TYPE_CHECKING:  # it needs scipy, which a page of few trials can do without
    from bench.bands import Band

INK, FAINT, RULE, BEST = "#222222", "#777777", "#e2e2e2", "#d55e00"
SHADES = ("#08306b", "#2171b5", "#6baed6", "#b5cfe3", "#d9d9d9")  # from the best fifth of trials to the worst
WIDTH = 940
FEWEST = 8  # trials from which on importance says anything, and random draws bound anything
SHOWN = 300  # trials drawn at most in the busiest figures: the best of them


class Scale:
    """Values to pixels. What lies beyond `high`, as diverged and very bad losses do, is drawn at the edge."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self.low, self.high = low, high if high > low else low + 1.0
        self.first, self.last = first, last

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values, at most `most` + 1."""
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def span(values: np.ndarray) -> tuple[float, float]:
    """The range to show of losses: from the best to twice as far as the median, at least the middle half."""
    best, middle, upper = np.min(values), np.median(values), np.quantile(values, 0.75)
    high = min(np.max(values), max(best + 2.5 * (middle - best), upper))
    pad = 0.04 * (high - best)
    return float(best - pad), float(high + pad)


# Pieces of SVG ------------------------------------------------------------------------------------------


def _text(x: float, y: float, text: Any, anchor: str = "start", colour: str = FAINT, more: str = "") -> str:
    words = html.escape(str(text))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>{words}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = RULE, width: float = 1) -> str:
    return _path([(x1, y1), (x2, y2)], colour, width)


def _path(points: Any, colour: str, width: float, opacity: float = 1.0) -> str:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{d}" stroke="{colour}" stroke-width="{width}" fill="none" opacity="{opacity:g}"/>'


def _dot(x: float, y: float, colour: str, size: float = 3, title: str = "") -> str:
    words = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}">{words}</circle>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    body = "\n".join(parts)
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    return f'<svg {size} role="img" aria-label="{label}">\n{body}\n</svg>'


def _frame(x: Scale, y: Scale, xlabel: str, ylabel: str, xticks: Sequence[tuple[float, str]]) -> list[str]:
    left, right, bottom, top = x.first, x.last, y.first, y.last
    parts = []
    for value in y.ticks(4):
        parts += [
            _line(left, y(value), right, y(value)),
            _text(left - 6, y(value) + 4, number(float(value)), "end"),
        ]
    for place, text in xticks:
        parts.append(_text(place, bottom + 17, text, "middle"))
    parts.append(_text((left + right) / 2, bottom + 35, xlabel, "middle", INK))
    parts.append(_text(left - 6, top - 10, ylabel, "start", INK) if ylabel else "")
    return parts


# Figures ------------------------------------------------------------------------------------------------


class Data:
    """What the figures share: finished slices by time, the last of each trial by rank, as losses (lower is
    better) and in the user's sign."""

    def __init__(self, lines: list[dict[str, Any]], space: Space):
        self.lines, self.space = lines, space
        session = next(x for x in reversed(lines) if x["kind"] == "session")
        self.sign = -1.0 if session["maximize"] else 1.0
        self.max_epoch = session["max_epoch"]
        self.slices = trials_of(lines, space)
        self.order = ranking(lines, space)
        self.place = {line["trial"]: i for i, line in enumerate(self.order)}
        self.word = "value" if session["maximize"] else "loss"
        self.low, self.high = 0.0, 1.0
        if self.slices:
            self.low, self.high = self._span(self.order)

    def _span(self, lines: list[dict[str, Any]]) -> tuple[float, float]:
        return span(np.array([self.sign * line["value"] for line in lines]))

    def scale(self, bottom: float, top: float, by_epoch: bool = False) -> Scale:
        """Of values as the user has them, the range cut on the bad side; `by_epoch`: all slices count, not
        only the best of each trial."""
        ends = self._span(self.slices) if by_epoch and self.slices else (self.low, self.high)
        low, high = sorted(self.sign * end for end in ends)
        return Scale(low, high, bottom, top)

    def shade(self, trial: int) -> str:
        """A trial's colour by its rank."""
        place = self.place.get(trial, len(self.order))
        return BEST if place == 0 else SHADES[min(5 * place // max(len(self.order), 1), 4)]

    def point(self, line: dict[str, Any]) -> np.ndarray:
        """A slice's place in the cube."""
        point = inside(self.space, line["config"])
        assert point is not None  # those outside are left out from the start
        return point

    def title(self, line: dict[str, Any]) -> str:
        config = ", ".join(f"{k}={number(v)}" for k, v in line["config"].items())
        return f"trial {line['trial']}: {number(line['value'])}; {config}"


def history(data: Data) -> str:
    """Every finished slice by what was spent until then, and the best so far."""
    y = data.scale(190, 24, by_epoch=True)
    charged = [line for line in data.lines if line["kind"] in ("trial", "finder")]
    total = sum(line["trainings"] for line in charged)
    x = Scale(0.0, total, 58, WIDTH - 12)
    parts = _frame(x, y, "full trainings spent", data.word, [(x(t), number(float(t))) for t in x.ticks(8)])
    spent, best, steps = 0.0, math.inf, []
    shown = {id(line) for line in data.slices}
    for line in charged:
        spent += line["trainings"]
        if line["kind"] == "trial" and line["stage"] != "confirm":
            if id(line) in shown:
                loss = data.sign * line["value"]
                parts.append(_dot(x(spent), y(line["value"]), data.shade(line["trial"]), 3, data.title(line)))
                if loss < best:
                    steps += [(x(spent), y(data.sign * best))] if steps else []
                    best = loss
                    steps.append((x(spent), y(line["value"])))
            elif line["status"] != FINISHED:
                parts.append(_text(x(spent), 24, "×", "middle", BEST, ""))
    if steps:
        steps.append((x(total), steps[-1][1]))
        parts.append(_path(steps, INK, 1.6))
    return _svg(WIDTH, 234, parts, "history")


def curves(data: Data) -> str:
    """Loss by epoch of each trial, as far as it is known."""
    y = data.scale(190, 24, by_epoch=True)
    x = Scale(0.0 if data.max_epoch < 20 else 1.0, data.max_epoch, 58, WIDTH - 12)
    ticks = [t for t in x.ticks(8) if t == int(t)]
    parts = _frame(x, y, "epoch", data.word, [(x(t), f"{t:g}") for t in ticks])
    for first in reversed(data.order[:SHOWN]):
        points = []
        for line in (s for s in data.slices if s["trial"] == first["trial"]):
            known = line["curve"] or [line["value"]]
            epochs = range(line["until"] - len(known) + 1, line["until"] + 1)
            points += [(x(e), y(v)) for e, v in zip(epochs, known, strict=True) if v is not None]
        best = data.place[first["trial"]] == 0
        if len(points) == 1:
            (at, height) = points[0]
            parts.append(_dot(at, height, data.shade(first["trial"]), 2.5, data.title(first)))
        elif points:
            parts.append(_path(points, data.shade(first["trial"]), 2.2 if best else 1, 1 if best else 0.8))
    return _svg(WIDTH, 234, parts, "learning curves")


def _ends(axis: Any) -> list[tuple[float, str]]:
    """Places on the unit interval that are labelled, with their values."""
    if isinstance(axis, Choice):
        return [(axis.encode(v), str(v)) for v in axis.values[:12]]
    values = [axis.low, axis.high]
    if isinstance(axis, Float) and axis.log and axis.high / axis.low >= 100:
        first, last = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        step = max(1, (last - first) // 3)
        values = [10.0**k for k in range(first, last + 1, step)]
    elif isinstance(axis, Int) and axis.high - axis.low < 6:
        values = list(range(axis.low, axis.high + 1))
    return [(axis.encode(min(max(v, axis.low), axis.high)), number(v)) for v in values]


def parallel(data: Data) -> str:
    """Each trial a line through its values, the best in front."""
    names, top, bottom = data.space.names, 30.0, 210.0
    gap = (WIDTH - 120) / max(len(names), 1)
    y = data.scale(bottom, top)
    parts = []
    for line in reversed(data.order[:SHOWN]):
        point = data.point(line)
        places = [
            (50 + i * gap, bottom + (top - bottom) * float(u)) for i, u in enumerate(point[: len(names)])
        ]
        places.append((50 + len(names) * gap, y(line["value"])))
        best = data.place[line["trial"]] == 0
        parts.append(_path(places, data.shade(line["trial"]), 2.4 if best else 1.2, 1 if best else 0.7))
    for i, (name, axis) in enumerate(data.space.axes.items()):
        x = 50 + i * gap
        title = _text(x, top - 12, _short(name, gap), "middle", INK)
        if i == 0:  # in the middle of the first axis a long name would be cut off
            title = _text(2, top - 12, _short(name, gap), "start", INK)
        parts += [_line(x, top, x, bottom, FAINT), title]
        halo = ' stroke="white" stroke-width="3" paint-order="stroke"'
        for u, text in _ends(axis):
            parts.append(_text(x + 4, bottom + (top - bottom) * u + 4, _short(text, gap), "start", INK, halo))
    x = 50 + len(names) * gap
    parts += [_line(x, top, x, bottom, FAINT), _text(x, top - 12, data.word, "middle", INK)]
    parts += [_text(x + 6, y(v) + 4, number(float(v))) for v in y.ticks(4)]
    return _svg(WIDTH, 226, parts, "parallel coordinates")


def _short(text: str, gap: float) -> str:
    most = max(int(gap / 6.8), 4)
    return text if len(text) <= most else text[: most - 1] + "…"


def slices(data: Data) -> str:
    """Loss by the value of each hyperparameter."""
    columns = 3
    wide, high = WIDTH / columns, 168
    parts = []
    for i, (name, axis) in enumerate(data.space.axes.items()):
        left, top = (i % columns) * wide, (i // columns) * high
        y = data.scale(top + 118, top + 26)
        x = Scale(0.0, 1.0, left + 58, left + wide - 14)
        parts += _frame(x, y, name, "", [(x(u), _short(t, wide / 4)) for u, t in _ends(axis)])
        for line in reversed(data.order):
            point = data.point(line)
            parts.append(
                _dot(x(float(point[i])), y(line["value"]), data.shade(line["trial"]), 2.6, data.title(line))
            )
    rows = -(-len(data.space.axes) // columns)
    return _svg(WIDTH, rows * high, parts, "slices")


def importances(data: Data) -> dict[str, float] | None:
    """The share of the variance of the trials' ranks that each hyperparameter alone accounts for; None where
    there are too few trials."""
    if len(data.order) < FEWEST:
        return None
    from bench.importance import importance, ranks

    x = np.stack([data.point(line) for line in data.order])[:, : data.space.dimension]
    shares = importance(x, ranks(np.array([data.sign * line["value"] for line in data.order]))).first
    return dict(zip(data.space.names, shares.tolist(), strict=True))


def bars(shares: dict[str, float]) -> str:
    """Importance as bars, the largest first."""
    parts, x = [], Scale(0.0, 1.0, 190, WIDTH - 60)
    for i, (name, share) in enumerate(sorted(shares.items(), key=lambda pair: -pair[1])):
        y = 6 + 24 * i
        parts.append(_text(182, y + 13, _short(name, 180), "end", INK))
        width = x(share) - x(0.0)
        parts.append(f'<rect x="{x(0.0):.1f}" y="{y}" width="{width:.1f}" height="16" fill="{SHADES[1]}"/>')
        parts.append(_text(x(share) + 6, y + 13, f"{100 * share:.0f} %"))
    return _svg(WIDTH, 12 + 24 * len(shares), parts, "importance")


def _bounded(band: Band) -> int:
    """The largest k whose band has a better end: it falls with k, in the end below all bounds."""
    return int((band.low > -np.inf).sum())


def random_trials(data: Data, band: Band) -> str:
    """The median of the best of k random trials, and its band."""
    from_k, to_k = 62.0, WIDTH - 14.0
    y, n = data.scale(190, 24), len(band.k)
    round_ones = [k * 10**p for p in range(len(str(n))) for k in (1, 2, 5)]
    ticks = [*(k for k in round_ones if k < 0.8 * n), n]
    x = Scale(0.0, math.log(n), from_k, to_k)
    parts = _frame(
        x, y, "random trials k", f"best {data.word} of k", [(x(math.log(k)), str(k)) for k in ticks]
    )
    places = [x(math.log(k)) for k in band.k]
    ends = [
        list(zip(places, (y(data.sign * v) for v in values), strict=True))
        for values in (band.low, band.middle, band.high)
    ]
    low, middle, high = ends
    outline = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*high, *reversed(low)]) + "Z"
    parts.append(f'<path d="{outline}" fill="{SHADES[2]}" opacity="0.35"/>')
    bounded = _bounded(band)
    if 0 < bounded < n:
        at = places[bounded - 1]
        parts.append(_line(at, y.first, at, y.last, FAINT))
        clear = y.last + 12 if data.sign > 0 else y.first - 6  # the worse side
        parts.append(_text(at + 6, clear, f"no better end beyond {bounded}"))
    parts.append(_path(middle, SHADES[0], 2))
    return _svg(WIDTH, 234, parts, "what random trials bring")


def random_in_words(data: Data, band: Band) -> str:
    """What the band says, and nothing that it does not."""

    def value(loss: float) -> str:
        return number(float(data.sign * loss)) if math.isfinite(loss) else f"no {data.word}"

    n, bounded = len(band.k), _bounded(band)
    words = [
        f"The best of {n} random trials has a {data.word} of about {value(band.middle[-1])} in the median, "
        f"at worst {value(band.high[-1])}."
    ]
    if bounded >= 2:
        k = bounded // 2
        ends = sorted((band.low[k - 1], band.high[k - 1]), key=lambda v: data.sign * v)
        words.append(
            f"{2 * k} trials instead of {k} bring it from between {value(ends[0])} and {value(ends[1])} to "
            f"at best {value(band.low[2 * k - 1])}."
        )
    if bounded < n:
        words.append(
            f"Beyond {bounded} trial{'s' * (bounded != 1)} the band has no better end: {n} draws do not "
            "exclude that more trials find something much better."
        )
    words.append(
        f"Whatever the law, {n} further ones beat the best of the first {n} in at most one study of two."
    )
    return " ".join(words)


# The page -----------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 940px }
body { margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem }
p { margin: .3rem 0 } .faint { color: #666 } svg { max-width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif }
pre { background: #f5f5f5; padding: .7rem; white-space: pre-wrap }
table { border-collapse: collapse; font-size: 13px } .wide { overflow-x: auto }
th, td { text-align: right; padding: .15rem .7rem .15rem 0; white-space: nowrap }
td { border-bottom: 1px solid #e6e6e6 }
@media print { details { display: none } body { margin: 0 } }
"""


def _table(lines: Sequence[dict[str, Any]], space: Space, word: str) -> str:
    names = ["trial", "stage", "epoch", word, "seconds", *space.names]
    rows = [
        [
            line["trial"], line["stage"], line["until"],
            number(line["value"]) if line["status"] == FINISHED else line["status"], number(line["seconds"]),
            *(number(line["config"].get(name, "")) for name in space.names),
        ]
        for line in lines
    ]  # fmt: skip
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def _section(title: str, text: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n" + (f'<p class="faint">{text}</p>\n' if text else "") + body


def render(name: str, lines: list[dict[str, Any]], space: Space, test: str | None = None) -> str:
    """The page of a study as its log stands."""
    data, result = Data(lines, space), result_of(lines, space)
    session = next(x for x in reversed(lines) if x["kind"] == "session")
    spent = sum(x["trainings"] for x in lines if x["kind"] in ("trial", "finder"))
    budget = (
        f"{session['trials']:g} trainings" if session["trials"] is not None else f"{session['hours']:g} hours"
    )
    parts = [f"<h1>{html.escape(name)}</h1>"]
    parts.append(
        f'<p class="faint">{html.escape(session["function"])} by {html.escape(session["strategy"])}; '
        f"{number(float(spent))} trainings of {budget} spent; test "
        f"{'unopened' if test is None else 'opened ' + html.escape(test)}</p>"
    )
    if result is None:
        parts.append("<p>No training has finished with a loss yet.</p>")
    else:
        runs = f", the mean of {result.runs} runs with fresh seeds" if result.runs > 1 else ""
        parts.append(
            f"<p><b>{data.word} {number(result.value)}</b> in trial {result.line['trial']}{runs}: "
            f"{html.escape(gain_in_words(result))}.</p>"
        )
        paste = "\n".join(
            f"{f'to epoch {until}: ' if len(result.schedule) > 1 else ''}{dict(config)!r}"
            for config, _, until in result.schedule
        )
        parts.append(f"<pre>{html.escape(paste)}</pre>")
        parts.append(
            _section("History", "Dark: the best trials, orange: the best one; × has no loss.", history(data))
        )
        if data.max_epoch > 1:
            parts.append(_section("Learning curves", "", curves(data)))
        parts.append(_section("Parallel coordinates", "", parallel(data)))
        parts.append(_section("Slices", "", slices(data)))
        shares = importances(data)
        if shares:
            text = (
                "Share of the variance of ranks that each axis accounts for alone (functional ANOVA of a "
                "random forest); what is left to 100 % is of several axes together."
            )
            parts.append(_section("Importance", text, bars(shares)))
        losses = draws_of(lines)
        if len(losses) >= FEWEST and np.isfinite(losses).any():
            from bench.bands import MOST_EQUAL, tuning_curve

            kind = "equal tails" if len(losses) <= MOST_EQUAL else "constant width"
            band = tuning_curve(losses, np.arange(1, len(losses) + 1), kind=kind)
            clock = "" if session["hours"] is None else " (roughly: the clock decided how many there are)"
            text = (
                "The best of k random configurations, in the median; in 95 % of studies the band holds for "
                f"all k at once{clock}. From the {len(losses)} trials that were drawn at random and trained "
                f"in full, by the {data.word} of that one training; one without counts as the worst. The "
                f"default and trials chosen by a model are not among them."
            )
            body = f"<p>{html.escape(random_in_words(data, band))}</p>\n{random_trials(data, band)}"
            parts.append(_section("What random trials bring", text, body))
        parts.append(_section("Best trials", "", _table(data.order[:10], space, data.word)))
    done = [x for x in lines if x["kind"] == "trial"]
    body = _table(done, space, data.word) if done else ""
    parts.append(f"<details><summary>All {len(done)} slices of training</summary>{body}</details>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def write(folder: Path, lines: list[dict[str, Any]], space: Space) -> None:
    """Writes study.html into a study's folder, whole or not at all."""
    page = render(folder.name, lines, space, opened(folder / "test.json"))
    temporary = folder / ".study.html"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, folder / "study.html")
