"""A claim measured: its table of effects, its verdicts, the published figures beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.panel import family
from bench.processes import pool
from nearopt import catalogue
from nearopt.claims.claim import Claim, Part
from nearopt.claims.measures import MEASURES, Effect, Missing, over_seeds
from nearopt.claims.sources import Sources, kind_of
from nearopt.claims.verdict import COLUMNS, Judged, judge, together


class Figure(NamedTuple):
    """A published figure beside ours: what, value, source: as published · ours: nan where there is none, and
    why."""

    what: str
    value: str
    source: str
    ours: Effect


class Measured(NamedTuple):
    """claim · rows: COLUMNS, effects nan where an objective could not be measured, `note` says why · parts ·
    figures."""

    claim: Claim
    rows: pd.DataFrame
    parts: list[Judged]
    figures: list[Figure]

    @property
    def verdict(self) -> str:
        return together(self.parts)


def _call(
    sources: Sources, claim: Claim, measure: str, text: str, settings: dict[str, Any], log: bool
) -> Effect:
    """One measure on one objective. Settings: those of the measure; `own` {objective: settings} for one
    objective alone; `variants` {objective: another}, whose values, measured with `variant_settings`, count
    less the objective's own or, on a log scale, over them."""
    settings = dict(settings)
    variants, own = settings.pop("variants", None), settings.pop("own", {})
    changes = settings.pop("variant_settings", {})
    settings |= own.get(text) or own.get(family(text)) or {}
    looks, function = MEASURES[measure]
    if looks == "runs":
        return function(sources.runs(claim, text), **settings)
    if looks == "objective":
        return sources.of_objective(measure, text, settings)
    values = sources.of_sample(claim, measure, text, settings)
    if variants is not None:
        other = variants.get(text) or variants.get(family(text))
        if other is None:
            raise Missing("no variant of it is named")
        base, values = values, sources.of_sample(claim, measure, other, {**settings, **changes})
        n = min(len(base), len(values))
        values = values[:n] / base[:n] if log else values[:n] - base[:n]
    return over_seeds(values, log)


def effect(
    sources: Sources, claim: Claim, measure: str, text: str, settings: dict[str, Any], log: bool
) -> Effect:
    """One measure on one objective; where it cannot be had, nan and the reason."""
    try:
        return _call(sources, claim, measure, text, settings, log)
    except Missing as error:
        return Effect(np.nan, np.nan, np.nan, 0, str(error))


def ahead(sources: Sources, claims: list[Claim], processes: int) -> None:
    """Finds what needs no runs, of all claims, in several processes: random configurations are trained and
    measured, and kept where `measure` looks. A family is one process's, so that nothing is trained twice."""
    asked: dict[str, list[tuple]] = {}
    for claim in claims:
        for measure, text, settings, log in claim.looks():
            if MEASURES[measure].looks != "runs":
                asked.setdefault(family(text), []).append((claim, measure, text, settings, log))
    if processes < 2 or len(asked) < 2:
        return  # as well found where they are asked for
    first = sorted(asked.values(), key=len, reverse=True)
    with pool(min(processes, len(first))) as workers:
        for done in [workers.submit(_find, sources.folder, sources.places, tasks) for tasks in first]:
            done.result()


def _find(folder: Path, places: dict[str, str], tasks: list[tuple]) -> None:
    from nearopt.experiment import _use_cache, cache_folder

    _use_cache(cache_folder())
    sources = Sources(folder, places)
    for task in tasks:
        effect(sources, *task)


def measure(sources: Sources, claim: Claim) -> Measured:
    """Measures a claim whose runs are there; records curves where they are asked for and lacking."""
    rows, parts = [], []
    for part in claim.parts:
        mine = [_row(sources, claim, part, text) for text in part.objectives]
        table = pd.DataFrame(mine, columns=pd.Index(COLUMNS))
        table["holds"] = [
            part.rule.beyond(r["low"], r["high"]) if np.isfinite(r["effect"]) else "" for r in mine
        ]
        parts.append(judge(part.name, part.rule, table, len(claim.parts)))
        rows.append(table)
    figures = [_figure(sources, claim, parts, given) for given in claim.published]
    return Measured(claim, pd.concat(rows, ignore_index=True), parts, figures)


def _row(sources: Sources, claim: Claim, part: Part, text: str) -> dict[str, Any]:
    found = effect(sources, claim, part.measure, text, part.settings, part.rule.scale == "log")
    looks = MEASURES[part.measure].looks
    kind = kind_of(claim, text)
    if kind == "real" and looks == "sample" and sources.shipped(text) is not None:
        kind = "recorded"
    label = catalogue.entry("objective", text).label
    return {
        "claim": claim.name, "part": part.name, "family": family(text), "objective": label, "kind": kind,
        "effect": found.value, "low": found.low, "high": found.high, "runs": found.runs, "note": found.note,
    }  # fmt: skip


def _figure(sources: Sources, claim: Claim, parts: list[Judged], given: dict[str, Any]) -> Figure:
    head = str(given["what"]), str(given["value"]), str(given.get("source", claim.source))
    if "part" in given:
        judged = next(p for p in parts if p.part == given["part"])
        return Figure(*head, Effect(judged.effect, judged.low, judged.high, judged.rows, judged.reason))
    settings = {k: v for k, v in given["ours"].items() if k not in ("measure", "objective")}
    ours = effect(sources, claim, given["ours"]["measure"], given["ours"]["objective"], settings, False)
    return Figure(*head, ours)
