"""Figures of runs on the simulated clock; no statistics here."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.plots import BANDS, INK, _figure, _log_axis, colour, dash, rank, svg


def clock_figure(curves: Any, use: Any, ratio: bool) -> str:
    """Left: loss against simulated seconds, a line and its band a label. Right: how busy the workers were.

    curves: as from `bench.timelines.clock_curves` · use: label -> f64[runs], shares · ratio: over the best
    constant configuration's loss, not above it."""
    labels = sorted(use, key=rank)
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(8, int(150 / (longest + 8)), len(labels)))
    height = 3.3 + 0.2 * (-(-len(labels) // columns) - 1) + 0.12 * max(len(labels) - 8, 0)
    figure, (left, right) = _figure(11.0, height, 2)
    top, margin = 1 - (0.33 + 0.2 * -(-len(labels) // columns)) / height, 0.008 * min(longest, 40)
    left.set_position([0.075, 0.53 / height, 0.66 - margin, top - 0.53 / height])
    right.set_position([0.79, 0.53 / height, 0.195, top - 0.53 / height])
    shown = curves[np.isfinite(curves["middle"]) & (curves["middle"] > 0)]
    handles = []
    for label in labels:
        part: Any = shown[shown["label"] == label]
        line = left.plot(
            part["seconds"], part["middle"], drawstyle="steps-post", color=colour(label),
            linestyle=dash(label), linewidth=1.7, label=label,
        )  # fmt: skip
        handles += line
        band = np.isfinite(part["low"]) & np.isfinite(part["high"]) & (part["low"] > 0)
        if len(labels) <= BANDS:
            left.fill_between(
                part["seconds"], part["low"].where(band, np.nan), part["high"].where(band, np.nan),
                step="post", color=colour(label), alpha=0.11, linewidth=0,
            )  # fmt: skip
    if len(shown):
        _log_axis(left, float(shown["middle"].min()) / 1.2, float(shown["middle"].max()) * 1.2)
        left.set_xscale("log")
    if ratio:
        left.axhline(1, color=INK, linestyle=(0, (4, 2)), linewidth=0.9)
    left.set_xlabel("simulated seconds")
    left.set_ylabel("loss / best constant's" if ratio else "loss above the optimum")
    rows = np.arange(len(labels))[::-1]
    for y, label in zip(rows, labels, strict=True):
        share = 100 * use[label][np.isfinite(use[label])]
        if len(share):
            right.barh(y, np.median(share), color=colour(label), height=0.62, alpha=0.85)
            right.plot([share.min(), share.max()], [y, y], color="#555555", linewidth=1)
    right.set_yticks(rows, labels)
    right.tick_params(axis="y", labelsize=8)
    right.set_xlim(0, 103)
    right.set_xlabel("% of the workers' time in training")
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.06, 1.0), ncols=columns,
        frameon=False, fontsize=9.5,
    )  # fmt: skip
    return svg(figure, "clock")


def run_figure(label: str, timeline: Any) -> str:
    """One run, job by job: who worked on what (several workers), how far each trial came by when, and, where
    trials copy one another, the hyperparameter that they change. Bold: what led to the winner. Crosses: lost.

    timeline: a `bench.timelines.Timeline`."""
    panels = [_progress_panel]
    if timeline.workers > 1:
        panels.insert(0, _gantt_panel)
    if timeline.axis is not None:
        panels.append(_schedule_panel)
    figure, axes = _figure(11.0, 3.3, len(panels))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.16, top=0.87, wspace=0.2)
    for ax, panel in zip(axes, panels, strict=True):
        panel(ax, timeline, colour(label))
    return svg(figure, f"run-{label}")


def _gantt_panel(ax: Any, timeline: Any, tint: str) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    jobs, most = timeline.jobs, float(timeline.jobs["until"].max())
    shades = colormaps["viridis_r"](0.1 + 0.85 * jobs["until"].to_numpy() / most)
    bars = [
        [(a, w - 0.4), (b, w - 0.4), (b, w + 0.4), (a, w + 0.4)]
        for a, b, w in zip(jobs["started"], jobs["finished"], jobs["worker"], strict=True)
    ]
    ax.add_collection(PolyCollection(bars, facecolors=shades, edgecolors="white", linewidths=0.4))
    gone = jobs[jobs["status"] != "finished"]
    ax.plot(gone["finished"], gone["worker"], "x", color="#d55e00", markersize=4)
    chain = timeline.chain
    bold = [b for b, job in zip(bars, jobs["job"], strict=True) if job in set(chain["job"])]
    ax.add_collection(PolyCollection(bold, facecolors="none", edgecolors=INK, linewidths=1.1))
    ax.set_xlim(0, float(jobs["finished"].max()) * 1.01)
    ax.set_ylim(timeline.workers - 0.4, -0.6)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("simulated seconds")
    ax.set_ylabel("worker")
    ax.set_title("jobs (darker: to a later epoch)")


def _segments(ax: Any, x: Any, y: Any, **look: Any) -> None:
    """One line a row of x and y f64[n, 2]."""
    from matplotlib.collections import LineCollection

    lines = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], -1)
    ax.add_collection(LineCollection(list(lines), **look))


def _progress_panel(ax: Any, timeline: Any, tint: str) -> None:
    jobs, chain = timeline.jobs, timeline.chain
    for part, look in (
        (jobs, dict(colors="#9a9a9a", linewidths=0.8)),
        (chain, dict(colors=tint, linewidths=2.4)),
    ):
        _segments(ax, part[["started", "finished"]], part[["start", "until"]], **look)
    gone = jobs[jobs["status"] != "finished"]
    ax.plot(gone["finished"], gone["until"], "x", color="#d55e00", markersize=4)
    ax.set_xlim(0, float(jobs["finished"].max()) * 1.01)
    ax.set_ylim(0, float(jobs["until"].max()) * 1.04)
    ax.set_xlabel("simulated seconds")
    ax.set_ylabel("epoch")
    ax.set_title("how far each job trained")


def _schedule_panel(ax: Any, timeline: Any, tint: str) -> None:
    jobs, chain, axis = timeline.jobs, timeline.chain, timeline.axis
    for part, look in (
        (jobs, dict(colors="#9a9a9a", linewidths=0.8)),
        (chain, dict(colors=tint, linewidths=2.4)),
    ):
        _segments(ax, part[["start", "until"]], part[[axis, axis]], **look)
    values = jobs[axis].to_numpy(np.float64)
    ax.set_xlim(0, float(jobs["until"].max()))
    if values.min() > 0 and values.max() / values.min() > 20:
        _log_axis(ax, float(values.min()) / 1.3, float(values.max()) * 1.3)
    else:
        pad = 0.05 * (np.ptp(values) or 1.0)
        ax.set_ylim(values.min() - pad, values.max() + pad)
    ax.set_xlabel("epoch")
    ax.set_ylabel(axis.removeprefix("hp_"))
    ax.set_title("what they trained with")
