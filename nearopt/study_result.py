"""What a study's log says: the best trial, its confirmation, what it gained, in words.

All from the lines of the log (`study_log`) and the space as it is now; trials outside it do not count.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.space import Choice, Space
from nearopt.forms import FINISHED

Line = dict[str, Any]
LEVEL = 0.95  # of the interval that a gain must leave


def number(value: Any) -> str:
    """A value for people: four digits of a real one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def inside(space: Space, config: Mapping[str, Any]) -> np.ndarray | None:
    """A logged configuration as a point of a space; None where it lies outside. An axis that the space got
    since then counts as its default."""
    values = {}
    for key, value in config.items():
        axis = space.axes.get(key)
        if isinstance(axis, Choice):  # JSON knows no tuples
            alike = [v for v in axis.values if json.dumps(v, default=str) == json.dumps(value, default=str)]
            value = alike[0] if alike else value
        values[key] = value
    try:
        return space.encode(values)
    except ValueError:
        return None


def as_space(space: Any) -> Space:
    """A space from itself or from a dict of axes."""
    if isinstance(space, Space):
        return space
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise ValueError(f"space must be a Space or a dict of axes by name, got {space!r:.80}")
    return Space(dict(space))


def complete(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of the axes that it leaves out, values as they were given. Raises
    ValueError, naming the axis, for what is outside the space."""
    defaults = space.decode(space.encode(config))  # also checks it
    given = {name: axis.default for name, axis in space.axes.items() if axis.default is not None}
    return defaults | given | dict(config)


def trials_of(lines: list[Line], space: Space) -> list[Line]:
    """Finished slices inside the space, without the confirmations."""
    return [
        line
        for line in lines
        if line["kind"] == "trial"
        and line["stage"] != "confirm"
        and line["status"] == FINISHED
        and inside(space, line["config"]) is not None
    ]


def _sign(lines: list[Line]) -> float:
    last = next((x for x in reversed(lines) if x["kind"] == "session"), {"maximize": False})
    return -1.0 if last["maximize"] else 1.0


def best_of(lines: list[Line], space: Space) -> Line | None:
    """The finished slice with the best loss, the first of equals."""
    sign = _sign(lines)
    return min(trials_of(lines, space), key=lambda line: sign * line["value"], default=None)


def ranking(lines: list[Line], space: Space) -> list[Line]:
    """The best slice of each trial, the best trial first; a configuration counts once."""
    sign, seen, found = _sign(lines), set(), []
    for line in sorted(trials_of(lines, space), key=lambda line: sign * line["value"]):
        config = json.dumps(line["config"], sort_keys=True)
        if not {line["trial"], config} & seen:
            seen |= {line["trial"], config}
            found.append(line)
    return found


def draws_of(lines: list[Line]) -> np.ndarray:
    """Losses f64[n], lower is better, infinite without one, of full trainings of independent random
    configurations of one law: the last that the study drew from, if its space, function and data are as in
    the last call of tune.

    Of each plan they are the first so many: behind one that still runs, those that are there already would
    be chosen by how long they take."""
    sessions = {x["session"]: x for x in lines if x["kind"] == "session"}
    last, fixed = sessions[max(sessions)], ("space", "max_epoch", "folds", "code", "data")
    same = {i for i, x in sessions.items() if all(x[k] == last[k] for k in fixed)}
    # Of a plan's identity are the space, the strategy with its settings and the finder's rate.
    identity = {x["segment"]: x["identity"] for x in lines if x["kind"] == "plan"}
    # Logs of earlier versions do not say which trials were drawn.
    drawn = [x for x in lines if x["kind"] == "trial" and x.get("draw") is not None]
    drawn = [x for x in drawn if x["start"] == 0 and x["whole"]]
    found = []
    for segment in identity:
        mine = {x["draw"]: x for x in drawn if x["segment"] == segment}
        if mine and identity[segment] == identity[drawn[-1]["segment"]]:
            first = itertools.takewhile(mine.__contains__, itertools.count())
            found += [mine[k] for k in first if mine[k]["session"] in same]
    return _values(found, _sign(lines))


def schedule(lines: list[Line], line: Line, space: Space) -> list[tuple[Mapping[str, Any], int, int]]:
    """What was trained on the way to a slice's weights, copies followed back to fresh weights: (config,
    start, until), neighbours with one configuration joined."""
    jobs = {x["job"]: x for x in lines if x["kind"] == "trial" and x["segment"] == line["segment"]}
    chain = [line]
    while line["segment"] is not None and chain[-1]["parent"] is not None:
        chain.append(jobs[chain[-1]["parent"]])
    found: list[tuple[Mapping[str, Any], int, int]] = []
    for part in reversed(chain):
        config = space.decode(np.array(part["x"], np.float32)) if _current(part, space) else part["config"]
        if found and found[-1][0] == config:
            found[-1] = (config, found[-1][1], part["until"])
        else:
            found.append((config, part["start"], part["until"]))
    return found


def _current(line: Line, space: Space) -> bool:
    """Whether a line's point is one of this space, not of an earlier one of the study."""
    config = space.decode(np.array(line["x"], np.float32))
    return json.dumps(config, default=str) == json.dumps(line["config"], default=str)


def confirmations(lines: list[Line], line: Line) -> list[Line]:
    """The trainings of a slice's configuration with fresh seeds."""
    return [
        x
        for x in lines
        if x["kind"] == "trial"
        and x["stage"] == "confirm"
        and (x["trial"], x["until"]) == (line["trial"], line["until"])
    ]


@dataclass(frozen=True)
class Result:
    """line: of the best trial · schedule: its (config, start, until), one unless hyperparameters changed on
    the way · value: its loss, the mean of `runs` confirmations if there are any · spread: standard deviation
    of a training's loss over seeds, pooled over what was confirmed, nan where unknown · default: the default
    configuration's loss, nan without · gain: what the best is better than that · margin: what noise alone
    reaches one time in twenty, nan where unknown."""

    line: Line
    schedule: list[tuple[Mapping[str, Any], int, int]]
    value: float
    runs: int
    spread: float
    default: float
    gain: float
    margin: float


def result_of(lines: list[Line], space: Space) -> Result | None:
    """None where nothing has finished.

    The best is that of the confirmed with the best mean, if the best of the search is one of them."""
    order = ranking(lines, space)
    if not order:
        return None
    sign = _sign(lines)
    runs = {line["trial"]: _values(confirmations(lines, line), sign) for line in order}
    confirmed = [line for line in order if len(runs[line["trial"]])]
    best = order[0]
    if best in confirmed:
        most = max(len(runs[line["trial"]]) for line in confirmed)
        full = [line for line in confirmed if len(runs[line["trial"]]) == most]
        best = min(full, key=lambda line: runs[line["trial"]].mean())
        if not math.isfinite(runs[best["trial"]].mean()):  # none of them is one to rely on: the next is
            best = next((line for line in order if line not in confirmed), best)
    mine = runs[best["trial"]]
    loss = float(mine.mean()) if len(mine) else sign * best["value"]
    point = complete(space, {})
    default_line = next((x for x in order if x["stage"] == "default"), None) or next(
        (x for x in order if x["config"] == json.loads(json.dumps(point, default=str))), None
    )
    default, of_default = math.nan, 1
    if default_line is not None:
        again = runs[default_line["trial"]]
        default, of_default = (again.mean(), len(again)) if len(again) else (sign * default_line["value"], 1)
    spread, freedom = _pooled([values for values in runs.values() if len(values) > 1])
    margin = math.nan
    if repeats_itself(lines, space):
        spread = margin = 0.0
    elif freedom:
        from scipy.stats import t

        both = math.sqrt(1 / max(len(mine), 1) + 1 / of_default)
        margin = float(t.ppf(0.5 + LEVEL / 2, freedom)) * spread * both
    return Result(
        best, schedule(lines, best, space), sign * loss, len(mine), spread, sign * float(default),
        float(default) - loss, margin,
    )  # fmt: skip


def repeats_itself(lines: list[Line], space: Space) -> bool:
    """Whether every confirmation gave its trial's loss again: nothing is random in the function."""
    values = {line["trial"]: line["value"] for line in ranking(lines, space)}
    again = [x for x in lines if x["kind"] == "trial" and x["stage"] == "confirm" and x["trial"] in values]
    return bool(again) and all(x["value"] == values[x["trial"]] for x in again)


def _values(lines: list[Line], sign: float) -> np.ndarray:
    return np.array([math.inf if x["value"] is None else sign * x["value"] for x in lines])


def _pooled(groups: list[np.ndarray]) -> tuple[float, int]:
    """(standard deviation within groups, degrees of freedom)"""
    groups = [g for g in groups if np.isfinite(g).all()]
    freedom = sum(len(g) - 1 for g in groups)
    if not freedom:
        return math.nan, 0
    return math.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / freedom), freedom


def gain_in_words(result: Result) -> str:
    """Whether the best is better than the default, and whether that is more than noise."""
    if math.isnan(result.default):
        return "the default configuration has no loss to compare with"
    if result.gain == 0:
        return "nothing was better than the default configuration"
    which = "better" if result.gain > 0 else "worse"
    words = f"{number(abs(result.gain))} {which} than the default's {number(result.default)}"
    if math.isnan(result.margin):
        return f"{words}; how much of that is noise was not measured"
    if result.margin == 0:
        return f"{words}; a configuration's loss is the same each time"
    if abs(result.gain) > result.margin:
        return f"{words}, which exceeds the noise (95 %: {number(result.margin)})"
    return f"{words}, which noise alone may do (95 %: {number(result.margin)})"


def summary(folder: Path, lines: list[Line], result: Result | None, opened: str | None) -> str:
    """How a study stands, for people."""
    trainings = sum(x["trainings"] for x in lines if x["kind"] in ("trial", "finder"))
    seconds = sum(x["seconds"] for x in lines if x["kind"] == "trial")
    trials = {x["trial"] for x in lines if x["kind"] == "trial"}
    spent = f"{number(float(trainings))} trainings, {duration(seconds)}, {len(trials)} configurations"
    test = "unopened" if opened is None else f"opened {opened}"
    end = [f"spent       {spent}", f"test        {test}", f"page        {folder / 'study.html'}"]
    if result is None:
        return "\n".join(["no training has finished with a loss", *end])
    runs = f", the mean of {result.runs} runs with fresh seeds" if result.runs > 1 else ""
    best = [f"best        {dict(result.schedule[-1][0])!r}"]
    if len(result.schedule) > 1:
        best = [f"best        to epoch {until}: {dict(config)}" for config, _, until in result.schedule]
    until = f" (epoch {result.line['until']})" if result.line["until"] > 1 else ""
    word = "value" if _sign(lines) < 0 else "loss"
    found = [
        *best,
        f"{word:<10}  {number(result.value)} in trial {result.line['trial']}{until}{runs}",
        f"            {gain_in_words(result)}",
    ]
    if result.line["checkpoint"]:
        found.append(f"checkpoint  {folder / 'checkpoints' / result.line['checkpoint']}")
    return "\n".join(found + end)


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def opened(path: Path) -> str | None:
    """When a test was opened and what it showed, in words; None: it was not."""
    if not path.exists():
        return None
    try:
        what = json.loads(path.read_text())
        shown = "it ended without a result" if what["value"] is None else f"{number(what['value'])}"
        return f"on {what['opened']}, trial {what['trial']}: {shown}"
    except (ValueError, KeyError):
        return f"see {path}"
