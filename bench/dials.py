"""Objectives of one experiment that differ in one setting only: a dial, and what turning it decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.metrics import NEAR
from bench.stats import median_interval, wilson

LEAST = 3  # settings of a dial: fewer show no course


class Dial(NamedTuple):
    """name: of the objectives, without settings, and in brackets the settings that are fixed here and vary
    elsewhere · setting: the one that they differ in · values: ascending numbers, each with the objective that
    has it, its settings included."""

    name: str
    setting: str
    values: tuple[tuple[float, str], ...]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by name, a wrapped objective's with `base.` before them."""
    found = {}
    for key, value in settings.items():
        if key == "base" and isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}base.")
        elif key != "name":
            found[prefix + key] = tuple(value) if isinstance(value, list) else value
    return found


def dials(objectives: Mapping[str, Mapping[str, Any]], order: Iterable[str] = ()) -> list[Dial]:
    """The dials among objectives, given as label -> settings; in `order` of their first objective. Where two
    settings vary, each is a dial over those objectives that agree in all others."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for label, settings in objectives.items():
        groups.setdefault(label.partition(",")[0], {})[label] = _flat(settings)
    found = []
    for name, members in groups.items():
        keys = dict.fromkeys(k for own in members.values() for k in own)
        varying = [k for k in keys if len({repr(own.get(k)) for own in members.values()}) > 1]
        for setting in varying:
            alike: dict[tuple[tuple[str, str], ...], dict[float, str]] = {}
            for label, own in members.items():
                value = own.get(setting)
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    rest = tuple((k, str(own.get(k))) for k in varying if k != setting)
                    alike.setdefault(rest, {})[float(value)] = label
            found += [
                (name, setting, rest, tuple(sorted(values.items())))
                for rest, values in alike.items()
                if len(values) >= LEAST
            ]
    made = []
    for name, setting, rest, values in found:
        shown = setting.replace("base.", "")
        if any(n == name and s != setting and s.replace("base.", "") == shown for n, s, *_ in found):
            shown = setting
        twins = [r for n, s, r, _ in found if (n, s) == (name, setting)]
        fixed = [f"{k}={v}" for k, v in rest if len({dict(r)[k] for r in twins}) > 1]
        made.append(Dial(f"{name} ({', '.join(fixed)})" if fixed else name, shown, values))
    place = {label: i for i, label in enumerate(order)}
    return sorted(made, key=lambda d: min(place.get(label, len(place)) for _, label in d.values))


class End(NamedTuple):
    """The true losses f64[runs] at the end of a cell's largest budget: over the best constant configuration's
    where `ratio`, else above it."""

    loss: np.ndarray
    ratio: bool


def dial_table(
    head: pd.DataFrame, found: Iterable[Dial], ends: Mapping[tuple[str, str], End]
) -> pd.DataFrame:
    """One row a dial, value and label, from the headline rows of `summary.csv` (near-optimal, the largest
    budget) and the runs' ends by (objective, label): dial (`NAME: SETTING`), value, label, budget, share of
    runs that are near-optimal in the end with its 95 % interval (Wilson) low, high; trials, E[min(T, B)];
    end, the median end with its 95 % interval end_low, end_high; ratio bool."""
    rows = []
    near: Any = head[head["target"] == NEAR]
    for dial in found:
        for value, objective in dial.values:
            for r in near[near["objective"] == objective].to_dict("records"):
                if not r["runs"] or not np.isfinite(r["budget"]):
                    continue
                low, high = (float(v) for v in wilson(int(r["reached"]), int(r["runs"])))
                end = ends[objective, r["label"]]
                middle = [float(v) for v in median_interval(end.loss)]
                rows.append({
                    "dial": f"{dial.name}: {dial.setting}", "value": value, "label": r["label"],
                    "budget": r["budget"], "share": r["reached"] / r["runs"], "low": low, "high": high,
                    "trials": r["trials_restricted_mean"], "end": middle[0], "end_low": middle[1],
                    "end_high": middle[2], "ratio": end.ratio,
                })  # fmt: skip
    names = ["dial", "value", "label", "budget", "share", "low", "high", "trials", "end", "end_low",
             "end_high", "ratio"]  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(names))
