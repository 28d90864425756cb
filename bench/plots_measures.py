"""Figures of the measures: ranks, wins, runtime distribution, efficiency, critical difference; no statistics
here."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.plots import FAINT, INK, _budget_axis, _figure, colour, dash, legend_columns, rank, svg

MOST_OFF = (0.01, 100.0)  # factors of trainings: intervals of few families go far beyond what can be told


def _legend(figure: Any, handles: list[Any]) -> float:
    """A legend above the axes, for whose rows the figure grows; returns the top that is left for them."""
    columns = legend_columns([h.get_label() for h in handles], 0.93 * figure.get_figwidth())
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.26 * (rows - 1))
    figure.legend(
        handles, [h.get_label() for h in handles], loc="upper left", bbox_to_anchor=(0.05, 1.0),
        ncols=columns, frameon=False, fontsize=9, handlelength=2.0, columnspacing=1.3,
    )  # fmt: skip
    return 1 - (0.26 * rows + 0.2) / figure.get_figheight()


def over_budget_figure(ranks: Any, runtime: Any) -> str:
    """Left: mean rank over objectives against budget, columns label, budget, rank (relative). Right: runtime
    distribution, columns label, budget, share (absolute). Either may be empty."""
    figure, (left, right) = _figure(10.4, 3.9, 2)
    handles = {}
    for ax, table, value in ((left, ranks, "rank"), (right, runtime, "share")):
        for label in sorted(table["label"].unique(), key=rank):
            part = table[table["label"] == label]
            handles[label] = ax.plot(
                part["budget"], part[value], drawstyle="steps-post", color=colour(label),
                linestyle=dash(label), linewidth=1.6, label=label,
            )[0]  # fmt: skip
        if len(table):
            budgets = np.unique(table["budget"].to_numpy(float))
            _budget_axis(ax, budgets, float(budgets.min()))
        else:
            ax.set(xticks=[], yticks=[])
            ax.text(0.5, 0.5, "nothing to compare", transform=ax.transAxes, ha="center", color=FAINT)
    top = _legend(figure, [handles[v] for v in sorted(handles, key=rank)])
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.51 / height, top=top - 0.27 / height, wspace=0.16)
    left.invert_yaxis()
    left.set_ylabel("mean rank (1: best)")
    left.set_title("Rank of the mean gap left (relative)", color=INK, loc="left")
    if len(runtime):
        right.set_ylim(-0.02, 1.02)
        right.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    right.set_title("Targets reached: best 10, 1 and 0.1 % of random", color=INK, loc="left")
    return svg(figure, "over_budget")


def wins_figure(labels: list[str], wins: Any) -> str:
    """Win probabilities f64[k, k] of rows against columns as a coloured table; bold where the interval
    excludes one half. Blue: the row wins; orange: the column does."""
    from matplotlib.colors import LinearSegmentedColormap

    k = len(labels)
    letters = 0.078 * max(map(len, labels))  # inches; the names above lean to the right
    left, up, right = 0.2 + letters, 0.2 + 0.65 * letters, max(0.77 * letters - 0.2, 0.1)
    width, height = left + 0.52 * k + right, up + 0.52 * k + 0.1
    figure, (ax,) = _figure(width, height, 1)
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - up / height, bottom=0.1 / height
    )
    shades = LinearSegmentedColormap.from_list("wins", ["#d55e00", "#f7f7f5", "#0072b2"])
    edges = np.arange(k + 1) - 0.5
    shown = np.ma.masked_invalid(wins.value)
    ax.pcolormesh(edges, edges, shown, cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(k), labels)
    ax.set_xticks(range(k), labels, rotation=40, ha="left", rotation_mode="anchor")
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    for i in range(k):
        for j in range(k):
            value = wins.value[i, j]
            if np.isnan(value):
                continue
            sure = wins.low[i, j] > 0.5 or wins.high[i, j] < 0.5
            ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5,
                    fontweight="bold" if sure else "normal",
                    color="white" if abs(value - 0.5) > 0.33 else INK)  # fmt: skip
    return svg(figure, "wins")


def critical_difference_figure(labels: list[str], test: Any) -> str:
    """Mean ranks on a line; bars join strategies that Nemenyi's test does not tell apart at 5 % (Demsar
    2006)."""
    order = np.argsort(test.ranks, kind="stable")
    k = len(labels)
    groups = []
    for i in range(k):
        j = max(j for j in range(i, k) if test.ranks[order[j]] - test.ranks[order[i]] < test.critical)
        if j > i and not any(a <= i and j <= b for a, b in groups):
            groups.append((i, j))
    lines = (k + 1) // 2
    names = [labels[at] for at in order]
    margins = [0.3 + 0.07 * (max(map(len, side)) + 6) for side in (names[:lines], names[lines:])]  # inches
    line = max(8.6 - sum(margins), 3.0)
    width, height = line + sum(margins), 1.02 + 0.15 * len(groups) + 0.24 * lines
    figure, (ax,) = _figure(width, height, 1)
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    ax.set_axis_off()
    end = 0.08 * (k - 1)  # where the names' lines end, beyond the ranks
    inch = (k - 1 + 2 * end) / line
    ax.set_xlim(1 - end - margins[0] * inch, k + end + margins[1] * inch)
    ax.set_ylim(-(0.5 + 0.15 * len(groups) + 0.24 * lines), 0.52)
    ax.plot([1, k], [0, 0], color=INK, linewidth=1)
    for r in range(1, k + 1):
        ax.plot([r, r], [0, 0.06], color=INK, linewidth=1)
        ax.text(r, 0.1, str(r), ha="center", va="bottom", fontsize=9, color="#555555")
    if test.critical < k - 1:
        ax.plot([1, 1 + test.critical], [0.33, 0.33], color=FAINT, linewidth=2)
        ax.text(1 + test.critical / 2, 0.345, "critical difference", ha="center", va="bottom", fontsize=8)
    for row, (i, j) in enumerate(groups):
        y = -0.14 - 0.15 * row
        ax.plot([test.ranks[order[i]] - 0.03, test.ranks[order[j]] + 0.03], [y, y], color=INK, linewidth=3,
                solid_capstyle="round")  # fmt: skip
    base = -0.3 - 0.15 * len(groups)
    for place, at in enumerate(order):
        left = place < lines
        y, x = base - 0.24 * (place if left else k - 1 - place), test.ranks[at]
        to, beside = (1 - end, -0.08 * inch) if left else (k + end, 0.08 * inch)
        ax.plot([x, x, to], [0, y, y], color=colour(labels[at]), linewidth=1.2)
        text = f"{labels[at]}  {x:.2f}" if left else f"{x:.2f}  {labels[at]}"
        ax.text(to + beside, y, text, ha="right" if left else "left", va="center", fontsize=9)
    return svg(figure, "critical_difference")


def efficiency_figure(table: Any, baseline: str) -> str:
    """Factor of trainings that each strategy needs of the baseline's, over all objectives, with its interval
    (an arrow where it goes on, beyond a hundredth or a hundredfold), and faint dots for single objectives;
    columns label, objective, factor, low, high."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    labels = sorted(table["label"].unique(), key=rank)
    seen = table[["factor", "low", "high"]].to_numpy(float)
    seen = seen[np.isfinite(seen) & (seen > 0)]
    factors = table["factor"].to_numpy(float)
    factors = np.append(factors[np.isfinite(factors)], 1.0)  # the baseline's own: all of these are shown
    left = min(max(seen.min(), MOST_OFF[0]), factors.min()) / 1.3
    right = max(min(seen.max(), MOST_OFF[1]), factors.max()) * 1.3
    names = max(1.72, 0.2 + 0.078 * max(map(len, labels)))  # inches
    width, height = names + 6.88, 0.9 + 0.3 * len(labels)
    figure, (ax,) = _figure(width, height, 1)
    figure.subplots_adjust(left=names / width, right=1 - 0.43 / width, top=0.97, bottom=0.62 / height)
    for y, label in enumerate(labels):
        mine = table[table["label"] == label]
        single, whole = mine[mine["objective"] != "all"], mine[mine["objective"] == "all"]
        ax.plot(single["factor"], np.full(len(single), y), "o", color=colour(label), markersize=4, alpha=0.3)
        for row in whole.to_dict("records"):
            if np.isfinite(row["low"]) and np.isfinite(row["high"]):
                ax.plot([row["low"], row["high"]], [y, y], color=colour(label), linewidth=2)
                if row["low"] < left:
                    ax.plot([left], [y], "<", color=colour(label), markersize=6, clip_on=False)
                if row["high"] > right:
                    ax.plot([right], [y], ">", color=colour(label), markersize=6, clip_on=False)
            ax.plot([row["factor"]], [y], "D", color=colour(label), markersize=7)
    ax.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right / left < 200 else (1,)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:,.4g} %"))
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlabel(f"of the trainings that {baseline} needs")
    return svg(figure, "efficiency")
