"""Figures of commands other than the report: one objective described, and how costs grow."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.plots import FAINT, INK, _figure, colour, dash, rank, svg

GROWS = {
    "trials": ("trials", (1, 3)),
    "dimension": ("dimensions (axes)", (1,)),
    "seeds": ("seeds (runs side by side)", (-1,)),
    "workers": ("workers (simulated)", (1,)),
}
SLOPES = {-1: "shared by all", 1: "linear", 3: "cubic"}


def growth_figure(table: Any) -> str:
    """What a run costs against what grows, a panel an axis, log-log, with dashed guides of known slopes.

    table: a data frame, columns strategy, axis (a key of GROWS), at, cpu_s (CPU seconds a run) and measured
    bool; points that are not measured are estimates, drawn hollow."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    labels = sorted(table["strategy"].unique(), key=rank)
    names = [name for name in GROWS if name in set(table["axis"])]
    figure, axes = _figure(11.0, 3.6, max(len(names), 1))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.15, top=0.87, wspace=0.14)
    low, high = (float(table["cpu_s"].min()), float(table["cpu_s"].max())) if len(table) else (1.0, 1.0)
    for ax, name in zip(axes, names, strict=False):
        here = table[table["axis"] == name]
        title, slopes = GROWS[name]
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(low / 2, high * 2)
        for label in labels:
            part: Any = here[here["strategy"] == label].sort_values("at")
            tint, seen = colour(label), part["measured"].to_numpy(bool)
            first = int(np.argmin(seen)) if not seen.all() else len(part)  # the first estimate
            ax.plot(
                part["at"][:first], part["cpu_s"][:first], color=tint, linestyle=dash(label), linewidth=1.7
            )
            ax.plot(part["at"][max(first - 1, 0) :], part["cpu_s"][max(first - 1, 0) :], ":", color=tint)
            ax.plot(part["at"][seen], part["cpu_s"][seen], "o", color=tint, markersize=4.6, zorder=4)
            ax.plot(
                part["at"][~seen], part["cpu_s"][~seen], "o", color=tint, markersize=4.6, zorder=4,
                markerfacecolor="white",
            )  # fmt: skip
        start = here.loc[here["cpu_s"].idxmax()]["strategy"]  # guides start where the dearest curve does
        dearest = here[here["strategy"] == start].sort_values("at")
        x0, y0 = float(dearest["at"].iloc[0]), float(dearest["cpu_s"].iloc[0])
        right = float(here["at"].max())
        for slope in slopes:
            # Within the axes; a falling one ends before it crosses the other curves.
            x1 = min(right, x0 * (high * 1.2 / y0) ** (1 / slope)) if slope > 0 else x0 * (right / x0) ** 0.7
            y1 = y0 * (x1 / x0) ** slope
            ax.plot([x0, x1], [y0, y1], color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
            place, side = ((x1, y1), "right") if slope > 0 else ((np.sqrt(x0 * x1), np.sqrt(y0 * y1)), "left")
            ax.annotate(
                SLOPES[slope], place, xytext=(-3 if slope > 0 else 5, 3), textcoords="offset points",
                fontsize=8, ha=side, va="bottom", color="#555555",
            )  # fmt: skip
        ticks = np.unique(here["at"])
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(LogLocator(numticks=12))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(title)
        if ax is not axes[0]:
            ax.tick_params(axis="y", labelleft=False)
    axes[0].set_ylabel("CPU seconds a run")
    handles = [
        Line2D([], [], color=colour(v), marker="o", linestyle=dash(v), markersize=4.6, label=v)
        for v in labels
    ]
    if not table["measured"].all():
        handles.append(
            Line2D([], [], color=INK, marker="o", linestyle=":", markerfacecolor="white", markersize=4.6,
                   label="skipped, estimate")
        )  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.06, 1.0), ncols=min(len(handles), 8),
        frameon=False, fontsize=9.5,
    )  # fmt: skip
    return svg(figure, "growth")


def describe_figure(profile: Any, names: list[str], scale: str) -> str:
    """An objective in a row of panels: curves of random configurations and how early ranks predict late ones
    (where there is more than one epoch), how rare good ones are, what each axis does, and a slice.

    profile: a `bench.describe.Profile` · names: of the axes · scale: the objective's, linear or log."""
    fidelity = len(profile.epochs) > 1
    figure, axes = _figure(15.0 if fidelity else 9.6, 3.2, 5 if fidelity else 3)
    figure.subplots_adjust(left=0.045 if fidelity else 0.07, right=0.99, bottom=0.17, top=0.87, wspace=0.36)
    panels = list(axes)
    if fidelity:
        _curves_panel(panels.pop(0), profile, scale)
        _rank_panel(panels.pop(0), profile)
    _rarity_panel(panels[0], profile)
    _effects_panel(panels[1], profile, names)
    _slice_panel(figure, panels[2], profile, names, scale)
    return svg(figure, "describe")


def _curves_panel(ax: Any, profile: Any, scale: str) -> None:
    told, end = profile.told[0][:48], profile.end[0][:48]
    order = np.argsort(np.argsort(np.where(np.isfinite(end), end, np.inf)))
    from matplotlib import colormaps

    for curve, place in zip(told, order, strict=True):
        seen = np.isfinite(curve)
        tint = colormaps["viridis"](place / max(len(order) - 1, 1))
        ax.plot(profile.epochs[seen], curve[seen], color=tint, linewidth=0.8)
    ax.axhline(profile.goals["optimum"].iloc[0], color=INK, linestyle=(0, (4, 2)), linewidth=0.9)
    ax.set_xscale("log")
    ax.set_xticks(profile.epochs, [f"{e}" for e in profile.epochs])
    ax.minorticks_off()
    finite = told[np.isfinite(told)]
    if scale == "log" and len(finite) and finite.min() > 0:
        ax.set_yscale("log")
    elif len(finite):
        low = min(float(finite.min()), float(profile.goals["optimum"].iloc[0]))
        high = float(np.quantile(finite, 0.97))
        ax.set_ylim(low - 0.04 * (high - low), high)
    ax.set_xlabel("epoch")
    ax.set_ylabel("told loss")
    ax.set_title("48 random ones (dark: best end)")


def _rank_panel(ax: Any, profile: Any) -> None:
    ax.fill_between(
        profile.epochs, profile.rank.min(0), profile.rank.max(0), color="#56b4e9", alpha=0.35, linewidth=0
    )
    ax.plot(profile.epochs, np.median(profile.rank, 0), "o-", color="#0072b2", markersize=4)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xticks(profile.epochs, [f"{e}" for e in profile.epochs])
    ax.minorticks_off()
    ax.set_ylim(min(-0.05, float(np.nanmin(profile.rank)) - 0.05), 1.03)
    ax.set_xlabel("epoch")
    ax.set_title("rank correlation with the end")


def _rarity_panel(ax: Any, profile: Any) -> None:
    from bench.metrics import NEAR
    from bench.protocols import LEVELS

    goals, at = profile.goals, 100 * np.array(LEVELS)
    optimum = goals["optimum"].to_numpy()[:, None]
    gap = goals["median"].to_numpy()[:, None] - optimum
    # Half of the random ones diverge where the median is not finite: then in units of the best fifth's gap.
    fifth = profile.quantiles[:, int(np.searchsorted(LEVELS, 0.2 - 1e-9))][:, None] - optimum
    gap = np.where(np.isfinite(gap), gap, fifth)
    with np.errstate(all="ignore"):
        share = (profile.quantiles - optimum) / gap
        near = (goals[NEAR].to_numpy() - optimum[:, 0]) / gap[:, 0]
    for row in share:
        seen = np.isfinite(row) & (row > 0)
        ax.plot(row[seen], at[seen], color="#0072b2", linewidth=0.7, alpha=0.7)
    p = 100 * goals[f"p:{NEAR}"].to_numpy()
    seen = np.isfinite(near) & (near > 0)
    ax.plot(near[seen], p[seen], "o", color="#d55e00", markersize=4, zorder=4, label="near-optimal")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    ax.set_xlabel("loss above the optimum / median's")
    ax.set_title("% of random ones that good")
    ax.legend(frameon=False, fontsize=8, loc="lower right", handletextpad=0.2)


def _effects_panel(ax: Any, profile: Any, names: list[str]) -> None:
    total = np.nan_to_num(profile.total)
    order = np.argsort(-np.median(total, 0), kind="stable")[:10][::-1]
    rows = np.arange(len(order))
    middle = np.median(total, 0)[order]
    spread = np.abs(np.stack([total.min(0)[order], total.max(0)[order]]) - middle)
    ax.barh(rows, middle, color="#56b4e9", xerr=spread, error_kw={"linewidth": 0.8, "ecolor": "#555555"})
    ax.set_yticks(rows, [names[i] if len(names[i]) < 15 else names[i][:13] + "…" for i in order])
    ax.tick_params(axis="y", labelsize=8)
    ax.set_xlabel("share of the ranks' variance")
    ax.set_title("total effect of an axis")


def _slice_panel(figure: Any, ax: Any, profile: Any, names: list[str], scale: str) -> None:
    from matplotlib.colors import LogNorm, Normalize

    plane = np.where(np.isfinite(profile.slice), profile.slice, np.nan)
    first, second = profile.axes
    ax.grid(False)
    if np.isfinite(plane).any():
        low, high = np.nanmin(plane), np.nanquantile(plane, 0.95)
        high = high if high > low else low + 1e-9
        norm = LogNorm(low, high) if scale == "log" and low > 0 else Normalize(low, high)
        ax.set_facecolor("#999999")  # diverged
        shown = ax.imshow(
            plane, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=norm, aspect="auto"
        )
        figure.colorbar(shown, ax=ax, pad=0.02).ax.tick_params(labelsize=7)
    ax.plot(profile.centre[first], profile.centre[second], "o", color="#d55e00", markersize=5)
    ax.set_xticks([0, 1], ["low", "high"])
    ax.set_yticks([0, 1], ["low", "high"])
    ax.set_xlabel(names[first])
    ax.set_ylabel(names[second] if second != first else "", labelpad=-12)
    ax.set_title("slice through the best seen")
