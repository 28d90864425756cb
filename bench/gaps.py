"""What changing hyperparameters in training gains over schedules that are tuned beforehand.

Objectives that differ in their `schedule` alone are the same instances, and so have the same best sequence of
hyperparameters. Between the loss of the best constant configuration and that of the best sequence lies a gap;
a run is worth the share of it, on a log scale, that it closes: 0 is the best constant configuration, 1 the
best sequence, below 0 what a constant one would have beaten. A schedule does not see the best sequence: it is
tuned, by any strategy that leaves hyperparameters alone in training, inside the same total budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.stats import median_interval

LEAST = 0.01  # of the log gap of an instance: where it is smaller, there is nothing to close
COLUMNS = [
    "group", "budget", "label", "schedule", "changes", "runs", "share", "low", "high", "left_out"
]  # fmt: skip


class Group(NamedTuple):
    """name: of the objective with a constant schedule · members: schedule -> objective, that one first."""

    name: str
    members: dict[str, str]


class Ends(NamedTuple):
    """The ends of the runs planned for one budget: seeds i64[runs], instance i64[runs], true f64[runs], the
    last incumbent's true loss."""

    seeds: np.ndarray
    instance: np.ndarray
    true: np.ndarray


def groups(objectives: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Objectives, given as label -> settings, that differ in `schedule` alone, one of them constant."""
    found: dict[str, dict[str, str]] = {}
    for label, settings in objectives.items():
        if isinstance(settings.get("schedule"), str):
            rest = repr(sorted((k, repr(v)) for k, v in settings.items() if k not in ("schedule", "name")))
            found.setdefault(f"{settings.get('name')} {rest}", {})[settings["schedule"]] = label
    made = []
    for members in found.values():
        if "constant" in members and len(members) > 1:
            rest = {schedule: label for schedule, label in members.items() if schedule != "constant"}
            made.append(Group(members["constant"], {"constant": members["constant"]} | rest))
    return made


def shares(ends: Ends, goals: pd.DataFrame) -> np.ndarray:
    """The share f64[runs] of its instance's log gap that each run closes; nan where there is no gap, -inf
    where it has no finite loss. goals: `bench.metrics.targets` of the constant schedule."""
    mine = goals.reindex(ends.instance)
    static, dynamic = (mine[name].to_numpy(np.float64) for name in ("optimum", "dynamic"))
    with np.errstate(all="ignore"):
        gap = np.log(static) - np.log(dynamic)
        share = (np.log(static) - np.log(ends.true)) / gap
    share = np.where(np.isnan(share), -np.inf, share)
    return np.where(gap > LEAST, share, np.nan)


class Gap(NamedTuple):
    """One group at one budget. entries: (label, schedule) -> (seeds, shares) of what took part, `changers`
    and `tuned` those of them that change hyperparameters in training, and that do not."""

    group: Group
    budget: float
    entries: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    changers: list[tuple[str, str]]
    tuned: list[tuple[str, str]]


def gap_table(gaps: Iterable[Gap]) -> pd.DataFrame:
    """COLUMNS, one row an entry: the median share over runs with its 95 % interval (order statistics);
    left_out: runs on instances without a gap."""
    rows = []
    for gap in gaps:
        for (label, schedule), (_, share) in gap.entries.items():
            kept = share[~np.isnan(share)]
            middle = [float(v) for v in median_interval(kept)] if len(kept) else [np.nan] * 3
            rows.append(
                (gap.group.name, gap.budget, label, schedule, (label, schedule) in gap.changers,
                 len(kept), *middle, int(np.isnan(share).sum()))
            )  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def difference(gap: Gap, one: tuple[str, str], other: tuple[str, str], level: float) -> tuple[float, ...]:
    """Median over common seeds of the share of `one` less that of `other`, with its interval; runs of a seed
    share their instance. Two runs without a finite loss are equal."""
    (seeds, share), (others, theirs) = gap.entries[one], gap.entries[other]
    _, i, j = np.intersect1d(seeds, others, return_indices=True)
    with np.errstate(invalid="ignore"):
        d = share[i] - theirs[j]
    d = np.where(np.isneginf(share[i]) & np.isneginf(theirs[j]), 0.0, d)
    d = d[~np.isnan(d)]
    return tuple(float(v) for v in median_interval(d, level)) if len(d) else (np.nan,) * 3


class Answer(NamedTuple):
    """changer: the (label, schedule) asked about · beats: every tuned schedule · beaten: by some tuned one ·
    by: the tuned one with the best median · margin, low, high: the median difference in share to it, with its
    95 % interval."""

    changer: tuple[str, str]
    beats: bool
    beaten: bool
    by: tuple[str, str]
    margin: float
    low: float
    high: float


def _middle(gap: Gap, entry: tuple[str, str]) -> float:
    """The median share of an entry, -inf where it has no run that counts."""
    share = gap.entries[entry][1]
    share = share[~np.isnan(share)]
    return float(median_interval(share)[0]) if len(share) else -np.inf


def answers(gap: Gap) -> list[Answer]:
    """Does changing in training beat tuned schedules? To beat every one, the interval of the difference must
    lie above 0 against each, at a level that is corrected for how many change (Bonferroni: the best of them
    is looked at). To be beaten, it must lie below 0 against one, corrected for how many are tuned."""
    if not gap.tuned:
        return []

    best = max(gap.tuned, key=lambda entry: _middle(gap, entry))
    many, strict = 1 - 0.05 / len(gap.changers), 1 - 0.05 / len(gap.tuned)
    found = []
    for changer in gap.changers:
        beats = all(difference(gap, changer, t, many)[1] > 0 for t in gap.tuned)
        beaten = any(difference(gap, changer, t, strict)[2] < 0 for t in gap.tuned)
        found.append(Answer(changer, beats, beaten, best, *difference(gap, changer, best, 0.95)))
    return found


def answer_table(gaps: Iterable[Gap]) -> pd.DataFrame:
    """One row a group and budget: group, budget, tuned (label on schedule) and its median share, changing:
    the one whose difference to that is highest, and its median share; margin, low, high: that difference with
    its 95 % interval; beat: how many of `of` beat every tuned schedule; beaten: how many one of them
    beats."""
    rows = []
    for gap in gaps:
        found = answers(gap)
        if not found:
            continue
        near = max(found, key=lambda a: (a.margin, a.low))
        rows.append({
            "group": gap.group.name, "budget": gap.budget,
            "tuned": " on ".join(near.by), "tuned_share": _middle(gap, near.by),
            "changing": " on ".join(near.changer), "changing_share": _middle(gap, near.changer),
            "margin": near.margin, "low": near.low, "high": near.high,
            "beat": sum(a.beats for a in found), "beaten": sum(a.beaten for a in found), "of": len(found),
        })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(answered: pd.DataFrame) -> str:
    """The answer at the largest budget in one sentence (plain text); empty where there is none."""
    if not len(answered):
        return ""
    last: Any = answered[answered["budget"] == answered["budget"].max()]
    yes = last.loc[last["beat"] > 0, "group"].tolist()
    no = last.loc[last["beaten"] == last["of"], "group"].tolist()
    rest = [g for g in last["group"] if g not in yes and g not in no]
    parts = [
        f"{word} on {', '.join(groups)}"
        for word, groups in (("yes", yes), ("no", no), ("undecided", rest))
        if groups
    ]
    budget = f"{last['budget'].iloc[0]:g}"
    return (
        "Does changing hyperparameters in training beat every schedule tuned in the same "
        f"{budget} trainings? {'; '.join(parts)}."
    )
