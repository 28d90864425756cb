"""From a table of effects to a verdict, by one rule for every claim.

An effect is one number an objective, found by a named measure. A part of a claim says on which side of which
threshold, and by which margin, the effect must lie. The rule stands in the claim's file before the result:

    SUPPORTED     the 95 % interval over families of objectives lies beyond the threshold by the margin
    REFUTED       it lies short of that: on the other side, or so near that the difference does not count
    INCONCLUSIVE  it holds both, or there are fewer than LEAST families to take an interval over

What is claimed of the world is judged on real, recorded and published rows; rows of surrogates say where it
holds and where not. A claim of several parts is supported where all are, each at its own level (Berger 1982),
and refuted where one is, at a level corrected for their number (Bonferroni). A published figure that is about
the very objective it was measured on is judged on that objective's runs, every row having to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from bench.inference import in_general

SUPPORTED, REFUTED, OPEN = "SUPPORTED", "REFUTED", "INCONCLUSIVE"
HOLDS, FAILS, UNSURE = "holds", "does not hold", "open"
LEAST = 3  # families: of two, an interval reaches 13 standard errors either way
WORLD, KINDS = ("real", "recorded", "published"), ("real", "recorded", "published", "surrogate")
SIDES, SCALES, SCOPES = ("above", "below"), ("linear", "log"), ("families", "setting")
COLUMNS = [
    "claim", "part", "family", "objective", "kind", "effect", "low", "high", "runs", "holds", "note"
]  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """side: where the effect must lie of `threshold` · margin: by how much it must exceed that to count, a
    difference, or on the scale "log", where effects are ratios, a factor of at least 1 · scope: "families" of
    objectives, or "setting", the very objectives that a paper measured."""

    side: str
    threshold: float
    margin: float
    scale: str = "linear"
    scope: str = "families"

    def __post_init__(self):
        for name, known in (("side", SIDES), ("scale", SCALES), ("scope", SCOPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")
        least = 1.0 if self.scale == "log" else 0.0
        for name, low in (("threshold", 0.0 if self.scale == "log" else -np.inf), ("margin", least)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= low:
                raise ValueError(f"{name} must be a number of at least {low:g}, got {value!r}")
        if self.scale == "log" and self.threshold == 0:
            raise ValueError("threshold must be above 0 on a log scale, got 0")

    @property
    def limit(self) -> float:
        """Beyond which an effect counts, in the effect's units."""
        up = self.side == "above"
        if self.scale == "log":
            return self.threshold * self.margin if up else self.threshold / self.margin
        return self.threshold + self.margin if up else self.threshold - self.margin

    def words(self) -> str:
        """The rule in a sentence."""
        over = "over families of objectives" if self.scope == "families" else "of each row"
        where = f"the interval {over} lies {self.side} {self.limit:.3g}"
        return f"supported where {where}, refuted where it does not reach that"

    def beyond(self, low: float, high: float) -> str:
        """What an interval says of the rule: HOLDS, FAILS or UNSURE."""
        if np.isnan(low) or np.isnan(high):
            return UNSURE
        if self.side == "above":
            return HOLDS if low > self.limit else FAILS if high <= self.limit else UNSURE
        return HOLDS if high < self.limit else FAILS if low >= self.limit else UNSURE


class Judged(NamedTuple):
    """A part's verdict: effect, low, high over families; families, rows that were judged; reason: why no
    interval can be had, else empty."""

    part: str
    verdict: str
    effect: float
    low: float
    high: float
    families: int
    rows: int
    reason: str = ""


def _wider(low: float, middle: float, high: float, families: int, parts: int) -> tuple[float, float]:
    """Student's interval at a level that is corrected for so many parts."""
    factor = special.stdtrit(families - 1, 1 - 0.025 / parts) / special.stdtrit(families - 1, 0.975)
    return middle - factor * (middle - low), middle + factor * (high - middle)


def judge(name: str, rule: Rule, rows: pd.DataFrame, parts: int = 1) -> Judged:
    """The verdict on one part of a claim that has so many, from its rows, COLUMNS."""
    if rule.scope == "setting":
        return _judge_setting(name, rule, rows)
    there: Any = rows[rows["kind"].isin(WORLD) & rows["effect"].notna()]
    values = there["effect"].to_numpy(np.float64)
    families = int(there["family"].nunique())
    log = rule.scale == "log"
    with np.errstate(divide="ignore", invalid="ignore"):
        found = in_general(np.log(values) if log else values, there[["family"]].to_numpy(str))
    back = np.exp if log else float
    if len(values) and not np.isfinite(np.log(values) if log else values).all():
        return Judged(name, OPEN, np.nan, np.nan, np.nan, families, len(there), "an effect is not finite")
    effect = float(back(found.value))
    if families < LEAST:
        of = "surrogates only" if not families else f"{families} famil{'y' if families == 1 else 'ies'}"
        reason = f"{of} of real, recorded or published data: no interval over families can be had"
        return Judged(name, OPEN, effect, np.nan, np.nan, families, len(there), reason)
    low, high = float(back(found.low)), float(back(found.high))
    wide = [float(back(v)) for v in _wider(found.low, found.value, found.high, families, parts)]
    verdict = OPEN
    if rule.beyond(low, high) == HOLDS:
        verdict = SUPPORTED
    elif rule.beyond(wide[0], wide[1]) == FAILS:
        verdict = REFUTED
    return Judged(name, verdict, effect, low, high, families, len(there))


def _judge_setting(name: str, rule: Rule, rows: pd.DataFrame) -> Judged:
    """Every row has to hold by its own interval; one that surely does not refutes."""
    there: Any = rows[rows["effect"].notna()]
    said = [rule.beyond(r["low"], r["high"]) for r in there.to_dict("records")]
    verdict = REFUTED if FAILS in said else SUPPORTED if said and set(said) == {HOLDS} else OPEN
    if not said:
        return Judged(name, OPEN, np.nan, np.nan, np.nan, 0, 0, "no row could be measured")
    weakest = there["effect"].idxmin() if rule.side == "above" else there["effect"].idxmax()
    row = there.loc[weakest]
    return Judged(
        name, verdict, row["effect"], row["low"], row["high"], there["family"].nunique(), len(there)
    )


def together(parts: Sequence[Judged]) -> str:
    """A claim's verdict from its parts'."""
    said = {p.verdict for p in parts}
    return REFUTED if REFUTED in said else SUPPORTED if said == {SUPPORTED} else OPEN
