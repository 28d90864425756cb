"""The learning-rate finder's figure; no statistics here."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.plots import FAINT, INK, _figure, svg

COLOURS = {
    "guide": "#d55e00",
    "minimum": "#0072b2",
    "steepest": "#009e73",
    "valley": "#cc79a7",
    "slide": "#e69f00",
}


def _rate_axis(ax: Any, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(LogLocator(numticks=12))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("learning rate")


def lr_finder_figure(tests: Any, swept: Any, scale: str) -> str:
    """Left, the loss of each step of the tests, the first one's smoothed and with its suggestions as lines;
    right, where there is a sweep, the true loss after training at each rate, with the first suggestions.

    tests: a `bench.lr_finder.Tests` · swept: a `bench.lr_finder.Sweep` or None · scale: linear or log, that
    of the objective's losses."""
    figure, axes = _figure(11.0 if swept is not None else 6.4, 3.6, 1 if swept is None else 2)
    wide = swept is not None
    figure.subplots_adjust(left=0.06 if wide else 0.1, right=0.98, bottom=0.15, top=0.8, wspace=0.18)
    ax, finding = axes[0], tests.findings[0]
    for other in tests.findings[1:]:
        seen = np.isfinite(other.losses)
        ax.plot(other.rates[seen], other.losses[seen], color=FAINT, linewidth=0.6, alpha=0.4)
    seen = np.isfinite(finding.losses)
    ax.plot(finding.rates[seen], finding.losses[seen], color=INK, linewidth=1.0, label="loss of a step")
    ax.plot(
        finding.rates[seen], finding.smoothed[seen], color=INK, linewidth=1.4, linestyle=(0, (4, 2)),
        label="smoothed",
    )  # fmt: skip
    top = float(np.max(finding.losses[: max(len(finding.losses) // 5, 2)]))
    low = float(np.min(finding.losses[seen]))
    ax.set_ylim(low - 0.08 * (top - low + 1e-12), top + 0.6 * (top - low + 1e-12))
    ax.set_ylabel("training loss")
    ax.set_title("range test")
    _rate_axis(ax, float(tests.rates[0]), float(tests.rates[-1]))
    if swept is not None:
        right = axes[1]
        for row in swept.losses[1:]:
            right.plot(
                swept.rates, np.where(np.isfinite(row), row, np.nan), color=FAINT, linewidth=0.6, alpha=0.4
            )
        first = swept.losses[0]
        right.plot(swept.rates, np.where(np.isfinite(first), first, np.nan), color=INK, linewidth=1.2)
        finite = first[np.isfinite(first)]
        if scale == "log" and len(finite) and finite.min() > 0:
            right.set_yscale("log")
        elif len(finite):
            least = float(finite.min())
            right.set_ylim(least - 0.04 * (finite.max() - least), float(np.quantile(finite, 0.9)) + 1e-12)
        _rate_axis(right, float(swept.rates[0]), float(swept.rates[-1]))
        right.set_ylabel("true loss in the end")
        right.set_title("trained at a rate")
    for name, rate in finding.suggestions.items():
        for panel in axes:
            shown = np.isfinite(rate) and panel.get_xlim()[0] <= rate <= panel.get_xlim()[1]
            panel.axvline(
                rate if shown else np.nan, color=COLOURS[name], linewidth=1.6,
                label=name if np.isfinite(rate) and panel is ax else None,
            )  # fmt: skip
    figure.legend(
        *ax.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.04, 1.0), ncols=7,
        frameon=False, fontsize=8.5, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip
    return svg(figure, "lr-finder")
