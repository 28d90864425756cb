"""Figures from data frames; no statistics here.

Every strategy has one colour everywhere, found from its name alone, so that a figure keeps its colours when
strategies join or leave. The palette is that of Okabe and Ito (2008), made for colour-blind readers, with
dark colours of Tol (2021) for the strategies that are not built in; settings of one strategy differ in dash.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

ORDER = (
    "defaults", "grid", "random", "sobol", "gp", "tpe", "cmaes", "workflow", "staged", "one_epoch",
    "patience", "median_stopping",
    "successive_halving", "hyperband", "asha", "asha_stopping", "async_hyperband", "bohb", "population",
    "pbt", "pbt_async", "pb2",
)  # fmt: skip
COLOURS = {
    "defaults": "#7a7a7a",
    "grid": "#e69f00",
    "random": "#111111",
    "sobol": "#56b4e9",
    "gp": "#0072b2",
    "hyperband": "#d55e00",
    "pbt": "#009e73",
    "tpe": "#cc79a7",
    "cmaes": "#999933",
    "one_epoch": "#661100",
    "patience": "#b8a37e",
    "median_stopping": "#bb5566",
    "successive_halving": "#ee9977",
    "asha": "#882255",
    "asha_stopping": "#c2568f",
    "async_hyperband": "#ffab4d",
    "bohb": "#332288",
    "population": "#b5b5b5",
    "pbt_async": "#66ccaa",
    "pb2": "#117733",
    "workflow": "#c44536",
    "staged": "#8c6bb1",
}
OTHERS = ("#6699cc", "#aa4499", "#447a5f", "#7a4444", "#8f5fb0", "#5f7d8f", "#b08f2f", "#44447a")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)))
MARKED = 8  # budgets: so many are the ticks of their axis, where they are no powers of two
BANDS = 8  # strategies: the bands of more cover each other, and the tables have the intervals
WITHIN, TO_PLAN = "within a run, 95 %", "budget to plan"
INK, FAINT = "#222222", "#8a8a8a"


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


def colour(label: str) -> str:
    """A strategy's colour, from its name (what stands before the first comma of a label)."""
    name = label.split(",")[0]
    return COLOURS.get(name) or OTHERS[_hash(name) % len(OTHERS)]


def dash(label: str) -> Any:
    """A label's line style: solid for a built-in strategy with its own settings, else by name."""
    return "-" if label in COLOURS else DASHES[_hash(label) % (len(DASHES) - 1) + 1]


def rank(label: str) -> tuple:
    """Sorts labels: built-in strategies in their fixed order, then the others by name."""
    name = label.split(",")[0]
    return (ORDER.index(name) if name in ORDER else len(ORDER), label)


def _figure(width: float, height: float, columns: int, rows: int = 1):
    # Without pyplot: no global state, no window, and import stays short.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, axis="both", color="#e6e6e6", linewidth=0.6, zorder=0)
        ax.set_axisbelow(True)
    return figure, axes


_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.linewidth": 0.7,
    "svg.fonttype": "none",
    "axes.titlepad": 9,
}


class Drawing(str):
    """An <svg> element for a page, which can be had as PDF too."""

    figure: Any

    def pdf(self) -> bytes:
        """The same figure as the bytes of a PDF."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        with rc_context(_STYLE):
            self.figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        return buffer.getvalue()


def svg(figure: Any, name: str) -> Drawing:
    """The figure as an <svg> element for a page: no prologue, no metadata, two decimals, own ids."""
    import logging

    from matplotlib import rc_context

    buffer = io.StringIO()
    # A font of the list that this machine lacks is no news: the reader's browser picks its own.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'<g id="[A-Za-z]+\d*_\d+">', "<g>", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    # Within tags only: between them stand the labels, where .005 is not .00.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(-?\d+\.\d\d)\d+", r"\1", tag[0]), text)
    drawing = Drawing(text)
    drawing.figure = figure
    return drawing


def legend_columns(names: Sequence[str], inches: float) -> int:
    """How many columns of a legend in 9 points fit, which matplotlib fills one after the other."""
    for columns in range(len(names), 1, -1):
        rows, more = divmod(len(names), columns)
        ends = np.cumsum([rows + (c < more) for c in range(columns)])
        longest = [max(map(len, names[end - rows - (c < more) : end])) for c, end in enumerate(ends)]
        if sum(0.075 * letters + 0.5 for letters in longest) <= inches:
            return columns
    return 1


def _budget_axis(ax: Any, budgets: np.ndarray, left: float) -> None:
    from matplotlib.ticker import NullLocator

    right = float(budgets.max())
    ax.set_xscale("log", base=2)
    ax.set_xlim(left, right * 1.02)
    powers = 2.0 ** np.arange(np.ceil(np.log2(left)), np.log2(right) + 1e-9)
    if len(powers) > 3 and right in powers:
        ticks = powers
    elif len(budgets) <= MARKED:
        ticks = np.union1d(powers[powers < budgets.min()], budgets)
    else:
        ticks = np.append(powers[powers < right / 1.2], right)
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("budget spent (full trainings)")


def _lines(ax: Any, curves: pd.DataFrame, planned: pd.DataFrame) -> list[Any]:
    """One step line with its band a label; dots where runs were planned for exactly that budget."""
    handles = []
    parts: dict[Any, Any] = dict(iter(curves.groupby("label", sort=False)))
    planned_parts: dict[Any, Any] = dict(iter(planned.groupby("label", sort=False)))
    for label in sorted(parts, key=rank):
        budget, middle, low, high = (parts[label][c].to_numpy() for c in ("budget", "middle", "low", "high"))
        tint = colour(label)
        line = ax.plot(
            budget,
            np.where(np.isfinite(middle), middle, np.nan),
            drawstyle="steps-post",
            color=tint,
            linestyle=dash(label),
            linewidth=1.7,
            label=label,
            zorder=3,
        )[0]
        handles.append(line)
        band = np.isfinite(low) & (high > low)
        if band.any() and len(parts) <= BANDS:
            # An open band leaves the axes at their top; its height must not overflow there.
            top = np.where(np.isfinite(high), high, 100 * np.abs(low[band]).max() + 100)
            ax.fill_between(
                budget,
                low,
                top,
                where=band,
                step="post",
                color=tint,
                alpha=0.11,
                linewidth=0,
                zorder=1,
            )
        dots: Any = planned_parts.get(label)
        dots = None if dots is None else dots[np.isfinite(dots["middle"])]
        if dots is not None and len(dots):
            down = np.maximum(dots["middle"] - dots["low"], 0).fillna(0)
            up = np.where(np.isfinite(dots["high"]), dots["high"] - dots["middle"], 0)
            ax.errorbar(
                dots["budget"],
                dots["middle"],
                yerr=[down, np.maximum(up, 0)],
                fmt="o",
                markersize=4.6,
                color=tint,
                markerfacecolor="white",
                elinewidth=1,
                zorder=4,
            )
    return handles


def regret_scale(
    shown: Any, planned: pd.DataFrame, goal: float, dynamic: float, ratio: bool
) -> tuple[str, float, float]:
    """(log, symlog, linear or nothing to show; lowest, highest) of an axis of regret; frames as for
    `objective_figure`."""
    levels = np.concatenate([shown["middle"], planned["middle"], [goal, dynamic]]).astype(float)
    levels = levels[np.isfinite(levels)]
    edges = np.concatenate([levels, shown["low"], shown["high"]])
    edges = edges[np.isfinite(edges)]
    positive = levels[levels > 0]
    decades = np.log10(positive.max() / positive.min()) if len(positive) else 0.0
    lowest = edges.min(initial=0)
    if ratio and len(positive):
        above = edges[edges > 0]
        return "log", above.min() / 1.15, above.max() * 1.15
    if lowest >= 0 and decades > 1.3:
        above = edges[edges > 0]
        return "log", max(above.min(), positive.max() * 1e-8) / 1.3, above.max() * 1.3
    if lowest < 0 and decades > 1.3 and goal > 0:
        return "symlog", 1.5 * lowest, 1.5 * edges.max()
    if len(edges):
        room = 0.05 * max(edges.max() - lowest, 1e-12)
        return "linear", lowest - room * (lowest < 0), edges.max() + room
    return "", 0.0, 1.0


def objective_figure(
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
    """One objective's figure: regret against budget (left), share of runs near-optimal (right).

    The frames have columns label, budget, middle, low, high; `planned_*` hold the runs planned for each
    budget of strategies that are not anytime. `ratio`: regret is a loss over the static optimum. `goal`: the
    level of near-optimal, `dynamic`: of the dynamic optimum, nan where there is none."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    labels = sorted(regret["label"].unique(), key=rank)
    columns = min(len(labels), max(2, int(110 / (max(map(len, labels), default=1) + 6))), 8)
    more = 0.19 * (-(-len(labels) // columns) - 1)  # inches: a legend of many rows needs room
    height = 3.75 + more
    figure, (left, right) = _figure(10.4, height, 2)
    figure.subplots_adjust(
        left=0.075, right=0.985, bottom=0.5625 / height, top=1 - (0.7875 + more) / height, wspace=0.2
    )
    budgets = np.unique(np.concatenate([planned_share["budget"], [regret["budget"].max()]]))
    start = 1.0 if max_epoch == 1 else 0.5
    handles = _lines(left, regret, planned_regret)
    _lines(right, share, planned_share)
    for ax in (left, right):
        _budget_axis(ax, budgets, min(start, float(budgets.min())))

    kind, low, high = regret_scale(
        regret[regret["budget"] >= min(start, float(budgets.min()))], planned_regret, goal, dynamic, ratio
    )
    if kind == "log":
        _log_axis(left, low, high)
    elif kind == "symlog":
        left.set_yscale("symlog", linthresh=goal, linscale=0.6)
        left.set_ylim(low, high)
        left.yaxis.set_major_formatter(FuncFormatter(power))
    elif kind:
        left.set_ylim(low, high)
        left.yaxis.set_major_locator(MaxNLocator(6))
    if np.isfinite(goal):
        left.axhline(goal, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        _tag(left, goal, "near-optimal")
    if np.isfinite(dynamic):
        left.axhline(dynamic, color="#7b3294", linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
        _tag(left, dynamic, "best schedule known", "#7b3294")
    left.set_title("How good is the best found? (lower is better)", color=INK, loc="left", y=1.02)
    left.set_ylabel("true loss / best constant's" if ratio else "regret (units of the loss)")

    right.set_ylim(-0.02, 1.03)
    right.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    right.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    _tag(right, 0.5, "half of the runs")
    right.set_title("How many runs are near-optimal? (higher is better)", color=INK, loc="left", y=1.02)
    figure.legend(
        handles,
        [h.get_label() for h in handles],
        loc="upper left",
        bbox_to_anchor=(0.068, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        handlelength=2.2,
        columnspacing=1.4,
    )
    return svg(figure, name)


def _log_axis(ax: Any, low: float, high: float) -> None:
    """A log axis from low to high; over few decades its ticks are plain numbers, not powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.set_yscale("log")
    ax.set_ylim(low, high)
    if high / low > 500:
        ax.yaxis.set_major_formatter(FuncFormatter(power))
        if high / low > 1e4:
            ax.yaxis.set_minor_locator(NullLocator())
        return
    subs = [1, 1.2, 1.5, 2, 3, 5] if high / low < 5 else [1, 2, 5]
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float, _: Any = None) -> str:
    """A power of ten, in plain letters: each that is set as a formula costs a tenth of a second."""
    if value == 0:
        return "0"
    return f"{'−' if value < 0 else ''}10{str(round(np.log10(abs(value)))).translate(_RAISED)}"


def _tag(ax: Any, level: float, text: str, tint: str = INK) -> None:
    ax.annotate(
        text,
        (0.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(4, 2.5),
        fontsize=8,
        textcoords="offset points",
        color=tint,
        zorder=5,
    )


def headline_figure(table: Any) -> str:
    """Trials-to-near-optimal of every strategy on every objective, as dots with intervals.

    table: a data frame, one row a cell, columns objective, label, median, low, high (within a run), needed
    (planned; inf: not reached), limit (largest budget), runs, reached. Objectives keep their order."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    objectives = list(dict.fromkeys(table["objective"]))
    labels = sorted(table["label"].unique(), key=rank)
    step = 0.8 / max(len(labels), 1)
    height = max(1.7, 0.32 + len(objectives) * max(0.11 * len(labels) + 0.12, 0.4))
    columns = legend_columns([*labels, WITHIN, TO_PLAN], 9.2)
    head, foot = max(0.62, 0.2 + 0.19 * -(-(len(labels) + 2) // columns)), 0.63  # inches: legend, axis
    whole = height + head + foot
    figure, (ax,) = _figure(9.4, whole, 1)
    figure.subplots_adjust(left=0.2, right=0.97, top=1 - head / whole, bottom=foot / whole)
    limit = float(table["limit"].max())
    edge = limit * 1.5
    for i, objective in enumerate(objectives):
        if i % 2 == 0:
            ax.axhspan(i - 0.5, i + 0.5, color="#f5f5f3", zorder=0, linewidth=0)
        for record in table[table["objective"] == objective].to_dict("records"):
            y = i + (labels.index(record["label"]) - (len(labels) - 1) / 2) * step
            tint, own = colour(record["label"]), record["limit"]
            if np.isfinite(record["median"]):
                low = max(record["low"], 0.5) if np.isfinite(record["low"]) else record["median"]
                high = record["high"] if np.isfinite(record["high"]) else own
                ax.plot(
                    [low, high],
                    [y, y],
                    color=tint,
                    linestyle=dash(record["label"]),
                    linewidth=1.5,
                    alpha=0.75,
                    zorder=2,
                    solid_capstyle="butt",
                )
                if not np.isfinite(record["high"]):
                    ax.plot([own], [y], marker=">", color=tint, markersize=3.5, zorder=2)
                ax.plot([record["median"]], [y], "o", color=tint, markersize=5.5, zorder=4)
            else:
                ax.plot([edge], [y], "x", color=tint, markersize=4.5, markeredgewidth=1.3, zorder=3)
                if record["reached"]:
                    ax.annotate(
                        f"{record['reached']:.0f} of {record['runs']:.0f}",
                        (edge, y),
                        xytext=(6, -2.6),
                        textcoords="offset points",
                        fontsize=7,
                        color="#555555",
                    )
            if np.isfinite(record["needed"]):
                ax.plot(
                    [record["needed"]],
                    [y],
                    "D",
                    color=tint,
                    markerfacecolor="none",
                    markersize=6,
                    markeredgewidth=1.1,
                    zorder=3,
                )
    ax.set_xscale("log", base=2)
    low = table[["median", "low"]].replace([np.inf, -np.inf], np.nan).min().min()
    left = 2.0 ** np.floor(np.log2(max(min(low if np.isfinite(low) else 1, limit / 8), 0.25))) * 0.9
    ax.set_xlim(left, limit * 2.1)
    ax.axvline(limit * 1.2, color=FAINT, linewidth=0.8)
    ticks = [t for t in 2.0 ** np.arange(-1, 12) if left < t <= limit]
    ax.set_xticks([*ticks, edge], [*(f"{t:g}" for t in ticks), "not\nreached"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(len(objectives) - 0.5, -0.5)
    # A long name goes on below, setting by setting, rather than beyond the figure's edge.
    names = [o if len(o) < 24 else o.replace(",", ",\n") for o in objectives]
    ax.set_yticks(range(len(objectives)), names, fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.set_xlabel("full trainings until near-optimal (further left is better)")
    handles = [
        Line2D([], [], color=colour(v), marker="o", linestyle=dash(v), markersize=5, label=v) for v in labels
    ]
    handles += [
        Line2D([], [], color=INK, marker="o", linewidth=1.5, markersize=5, label=WITHIN),
        Line2D(
            [],
            [],
            color=INK,
            marker="D",
            markerfacecolor="none",
            linestyle="",
            markersize=5.5,
            label=TO_PLAN,
        ),
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.01, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1.8,
        columnspacing=1.3,
    )
    return svg(figure, "headline")


def dial_figure(table: Any) -> str:
    """What turning each dial decides, a column a dial: the share of runs that end near-optimal, E[min(T, B)]
    full trainings until then, and the loss in the end, with intervals.

    table: as from `bench.dials.dial_table`."""
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(table["dial"]))
    labels = sorted(table["label"].unique(), key=rank)
    figure, axes = _figure(max(2.8 * len(names) + 0.9, 5.0), 7.4, len(names), 3)
    figure.subplots_adjust(left=0.8 / figure.get_size_inches()[0], right=0.985, bottom=0.07, top=0.88,
                           wspace=0.3, hspace=0.14)  # fmt: skip
    most = float(table["budget"].max())
    for i, name in enumerate(names):
        here = table[table["dial"] == name]
        above, middle, below = column = axes[i :: len(names)]
        for label in labels:
            part: Any = here[here["label"] == label].sort_values("value")
            look: Any = dict(
                color=colour(label), linestyle=dash(label), marker="o", markersize=3.8, linewidth=1.6
            )
            band: Any = dict(color=colour(label), alpha=0.12, linewidth=0)
            if len(labels) <= BANDS:
                above.fill_between(part["value"], 100 * part["low"], 100 * part["high"], **band)
            above.plot(part["value"], 100 * part["share"], **look)
            middle.plot(part["value"], part["trials"], **look)
            end = part[(part["end"] > 0) & np.isfinite(part["end"])]  # on a log axis
            high = np.where(np.isfinite(end["end_high"]), end["end_high"], end["end"])
            low = np.where(end["end_low"] > 0, end["end_low"], end["end"])
            if len(labels) <= BANDS:
                below.fill_between(end["value"], low, high, **band)
            below.plot(end["value"], end["end"], **look)
        values = np.unique(here["value"])
        spread = values[values > 0]
        wide = spread.max() / spread.min() > 10 if len(spread) else False
        for ax in column:
            if wide and len(spread) == len(values):
                ax.set_xscale("log")
            elif wide:
                ax.set_xscale("symlog", linthresh=float(spread.min()))
            ax.set_xticks(values, [f"{v:g}" for v in values])
            ax.minorticks_off()
        above.set_title(name.replace(": ", ":\n"), fontsize=9.5)
        above.set_ylim(-3, 103)
        middle.set_yscale("log", base=2)
        middle.set_ylim(0.9, most * 1.1)
        ticks = 2.0 ** np.arange(0, np.log2(most) + 1e-9)
        middle.set_yticks(ticks, [f"{t:g}" for t in ticks])
        middle.minorticks_off()
        seen = np.concatenate(
            [here[c][(here[c] > 0) & np.isfinite(here[c])] for c in ("end", "end_low", "end_high")]
        )
        if len(seen):
            _log_axis(below, float(seen.min()) / 1.3, float(seen.max()) * 1.3)
        if here["ratio"].any():
            below.axhline(1, color=INK, linestyle=(0, (4, 2)), linewidth=0.9)
        below.set_ylabel(
            "loss / best constant's" if here["ratio"].any() else "loss above the optimum", labelpad=1
        )
        below.set_xlabel(name.split(": ")[-1])
        for ax in (above, middle):
            ax.tick_params(axis="x", labelbottom=False)
            ax.tick_params(axis="y", labelleft=i == 0)
    axes[0].set_ylabel("% of runs near-optimal")
    axes[len(names)].set_ylabel("full trainings, E[min(T, B)]")
    handles = [
        Line2D([], [], color=colour(v), marker="o", linestyle=dash(v), markersize=4, label=v) for v in labels
    ]
    figure.legend(handles=handles, loc="upper left", ncols=min(len(handles), 8), frameon=False, fontsize=9.5)
    return svg(figure, "dials")


SCHEDULE_MARKS = {"constant": "o", "linear": "^", "cosine": "s", "step": "D", "power": "v"}
CLOSED = (-1.5, 1.05)  # of the log gap: what lies outside is drawn as an arrow at the edge


def gap_figure(table: Any) -> str:
    """The share of the log gap between best constant configuration and best sequence that runs close, a row
    of panels a group of objectives, a column a budget: median with its interval, a mark a schedule.

    table: as from `bench.gaps.gap_table`."""
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys(table["group"]))
    budgets = sorted(table["budget"].unique())
    labels = sorted(table["label"].unique(), key=rank)
    schedules = list(dict.fromkeys(table["schedule"]))
    panel = 0.27 * len(labels) + 0.1
    height = len(groups) * (panel + 0.62) + 1.0
    figure, axes = _figure(max(2.1 * len(budgets) + 1.6, 9.0), height, len(budgets), len(groups))
    figure.subplots_adjust(left=1.55 / figure.get_size_inches()[0], right=0.985, wspace=0.08,
                           bottom=0.5 / height, top=1 - 0.85 / height, hspace=0.62 / panel)  # fmt: skip
    low, high = CLOSED
    for ax, (group, budget) in zip(axes, ((g, b) for g in groups for b in budgets), strict=True):
        here = table[(table["group"] == group) & (table["budget"] == budget)]
        for record in here.to_dict("records"):
            i, j = labels.index(record["label"]), schedules.index(record["schedule"])
            y = i + 0.66 * ((j + 0.5) / len(schedules) - 0.5)
            tint, x = colour(record["label"]), record["share"]
            ends = np.clip([record["low"], record["high"]], low, high)
            if np.isfinite(ends).all():
                ax.plot(ends, [y, y], color=tint, linewidth=1.3, alpha=0.7, solid_capstyle="butt")
            if np.isnan(x):
                continue
            mark = "<" if x < low else SCHEDULE_MARKS.get(record["schedule"], "P")
            full = tint if record["changes"] else "white"
            ax.plot(np.clip(x, low, high), y, marker=mark, markersize=3.9, color=tint, markerfacecolor=full,
                    markeredgewidth=1.0, linestyle="none", clip_on=False, zorder=3)  # fmt: skip
        for level in (0, 1):
            ax.axvline(level, color=INK, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
        ax.set_xlim(low, high)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.set_yticks(range(len(labels)), labels)
        ax.tick_params(axis="y", labelleft=budget == budgets[0], length=0)
        name = f"{group}\n" * bool(budget == budgets[0])
        ax.set_title(f"{name}{budget:g} trainings", fontsize=9.5, loc="left")
    for ax in axes[-len(budgets) :]:
        ax.set_xlabel("share of the log gap closed")
    kinds = [(v, SCHEDULE_MARKS.get(v, "P"), INK) for v in schedules]
    kinds += [("tuned beforehand", "o", "white"), ("changed in training", "o", INK)]
    handles = [
        Line2D([], [], color=INK, marker=m, markerfacecolor=face, linestyle="none", markersize=4.5, label=v)
        for v, m, face in kinds
    ]
    figure.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=9.5,
                  columnspacing=1.2, handletextpad=0.3)  # fmt: skip
    return svg(figure, "gaps")
