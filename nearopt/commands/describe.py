"""Describes objectives: axes, optimum, how rare near-optimal configurations are, how early ranks predict late
ones, what a training costs, how many axes matter, and a picture.

  objective=curves                    one objective's page; settings as in an experiment
  objective=curves,rank=low,branin    several: one line each
  experiment=suite                    all objectives of an experiment
  instances=16 samples=512            how many instances, and random configurations of each
  name=NAME                           results/describe/NAME/ gets describe.md and .csv, and pictures
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "an objective's page: optimum, difficulty, ranks by epoch, effects, a picture"
USAGE = "objective=NAME[,NAME ...] | experiment=NAME  [key=value ...]"
KNOWN = ("objective", "experiment", "instances", "samples", "name")


def _count(given: dict[str, str], key: str) -> int | None:
    if key not in given:
        return None
    value = catalogue.parse(given[key])
    if not isinstance(value, int) or isinstance(value, bool) or value < (2 if key == "samples" else 1):
        raise UserError(
            f"{key} must be an integer of at least {2 if key == 'samples' else 1}, got {given[key]}"
        )
    return value


def _entries(given: dict[str, str]) -> tuple[str, list[catalogue.Entry]]:
    if ("objective" in given) == ("experiment" in given):
        raise UserError("describe needs objective=NAME or experiment=NAME")
    if "experiment" in given:
        from nearopt import experiment

        return given["experiment"], list(experiment.read([f"experiment={given['experiment']}"]).objectives)
    texts = catalogue.split(given["objective"])
    entries = catalogue.entries("objective", texts)
    return entries[0].label if len(entries) == 1 else "objectives", entries


def number(x: float) -> str:
    """Three digits."""
    return "inf" if np.isinf(x) else "-" if np.isnan(x) else f"{x:.3g}"


def spread(values: np.ndarray) -> str:
    """Median, and the range where the instances differ."""
    low, middle, high = number(np.min(values)), number(np.median(values)), number(np.max(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def percents(values: np.ndarray) -> str:
    text = spread(100 * values)
    return text.replace("(", "% (").replace(")", " %)") if "(" in text else f"{text} %"


def axis(name: str, a: Any) -> str:
    """One line on an axis of a space."""
    kind = type(a).__name__
    if kind == "Choice":
        options = ", ".join(str(v) for v in a.values) if len(a.values) < 9 else f"{len(a.values)} values"
        text = f"{'ordered ' if a.ordered else ''}Choice of {options}"
    else:
        text = f"{kind} {a.low:g} to {a.high:g}" + (", log" if a.log else "")
    default = a.decode(a.encode(a.default)) if a.default is not None else a.decode(0.5)
    default = f"{default:.4g}" if isinstance(default, float) else default
    text += f"; default {default}; {a.role}"
    return f"{name:<20} {text}" + ("; may change in training" if a.change else "")


def page(objective: Any, entry: catalogue.Entry, profile: Any) -> str:
    """An objective's page as text."""
    from bench.describe import default_share, near_share, uncapped_share
    from bench.metrics import MOST, NEAR
    from bench.protocols import LEVELS

    space, goals = objective.space, profile.goals
    shown = list(space.axes.items())
    lines = [f"{entry.label}: {catalogue.purpose('objective', entry.name.split('+')[0])}"]
    for i, (name, a) in enumerate(shown[:12]):
        lines.append(f"  {'axes' if i == 0 else '':<13} {axis(name, a)}")
    if len(shown) > 12:
        lines.append(f"  {'':<13} ... {len(shown)} axes in all")

    def say(word: str, text: str) -> None:
        lines.append(f"  {word:<13} {text}")

    offers = ", ".join(a for a in ("stop", "resume", "copy", "change") if a in objective.offers) or "nothing"
    epochs = "1 epoch" if objective.max_epoch == 1 else f"{objective.max_epoch} epochs"
    say("training", f"{epochs}; fidelity {objective.fidelity}; offers {offers}; {objective.scale} scale")
    say("optimum", spread(goals["optimum"].to_numpy()) + f"  [{profile.how}]")
    if np.isfinite(goals["dynamic"]).all():
        say("", f"{spread(goals['dynamic'].to_numpy())} where hyperparameters change during training")
    quantiles = [
        f"{word} {spread(goals[key].to_numpy())}"
        for word, key in (("median", "median"), ("best 10 %", "p=0.1"), ("best 1 %", "p=0.01"))
    ]
    say("random", " · ".join(quantiles))
    p = near_share(profile)
    most = "at most " if p.min() <= LEVELS[0] else ""  # rarer ones than the table of quantiles knows
    say("near-optimal", f"loss {spread(goals[NEAR].to_numpy())}")
    say(
        "",
        f"p = {most}{percents(p)} of random ones are: random search needs {spread(1 / p)} trials in the mean",
    )
    uncapped = uncapped_share(profile, objective.scale)
    if np.median(uncapped) == 1:
        say("", "(their best 2 %: half of them diverge, so that there is no gap to take 5 % of)")
    elif np.median(uncapped) > MOST:
        say("", f"(their best 2 %: within 5 % of the gap are {percents(uncapped)})")
    say("default", f"{spread(profile.default)}; as good: {percents(default_share(profile))} of random ones")
    if len(profile.epochs) > 1:
        middle = np.median(profile.rank, 0)
        ranks = " · ".join(f"{e}: {number(r)}" for e, r in zip(profile.epochs, middle, strict=True))
        say("ranks", f"correlation with the end at epoch {ranks}")
    diverged = 1 - np.isfinite(profile.end).mean(1)
    if diverged.any():
        say("diverged", f"{percents(diverged)} of random ones")
    cost = np.quantile(profile.cost, [0.05, 0.5, 0.95])
    say(
        "cost",
        f"{number(cost[1])} simulated seconds a training, 5 to 95 %: {number(cost[0])} to {number(cost[2])}",
    )
    total = np.median(np.nan_to_num(profile.total), 0)
    order = np.argsort(-total, kind="stable")[:6]
    say("effects", "total, of ranks: " + " · ".join(f"{space.names[i]} {total[i]:.2f}" for i in order))
    say(
        "dimension",
        f"{spread(profile.dimension)} of {space.dimension} axes carry 95 % of the ranks' variance",
    )
    if hasattr(objective, "trust"):
        lines.append("how far to trust it:")
        for what, value in objective.trust():
            say(what, value)
    return "\n".join(lines)


def row(objective: Any, entry: catalogue.Entry, profile: Any) -> dict[str, Any]:
    """An objective as one row of a table; medians over instances."""
    from bench.describe import default_share, near_share, uncapped_share

    kinds = [f"{'log ' * a.log}{type(a).__name__}" for a in objective.space.axes.values()]
    counts = {k: kinds.count(k) for k in sorted(set(kinds))}
    cost = np.quantile(profile.cost, [0.05, 0.95])
    early = int(np.argmin(np.abs(profile.epochs - objective.max_epoch / 9)))
    p = near_share(profile)
    return {
        "objective": entry.label,
        "axes": objective.space.dimension,
        "kinds": " ".join(f"{n} {k}" for k, n in counts.items()),
        "effective_axes": float(np.median(profile.dimension)),
        "epochs": objective.max_epoch,
        "fidelity": objective.fidelity,
        "rank_at_ninth": float(np.median(profile.rank[:, early])) if objective.max_epoch > 1 else np.nan,
        "cost_spread": float(cost[1] / cost[0]) if cost[0] > 0 else np.nan,
        "diverged": float(1 - np.isfinite(profile.end).mean()),
        "default_share": float(np.median(default_share(profile))),
        "p_uncapped": float(np.median(uncapped_share(profile, objective.scale))),
        "p": float(np.median(p)),
        "p_low": float(p.min()),
        "p_high": float(p.max()),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people; shares in per cent."""

    def share(x: float) -> str:
        return f"{100 * x:.2g} %"

    names = [
        "objective", "axes", "matter", "epochs", "fidelity", "ranks at a ninth", "cost 95 / 5 %",
        "diverged", "p", "before the cap",
    ]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for r in rows:
        cells = [
            r["objective"], r["kinds"], f"{r['effective_axes']:g} of {r['axes']}", str(r["epochs"]),
            r["fidelity"] if r["epochs"] > 1 else "-", number(r["rank_at_ninth"]), number(r["cost_spread"]),
            share(r["diverged"]) if r["diverged"] else "-", share(r["p"]),
            share(r["p_uncapped"]) if r["p_uncapped"] < 1 else "no gap",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KNOWN:
            raise UserError(f"no setting {key!r}{nearest(key, KNOWN)}")
        given[key] = value
    name, entries = _entries(given)
    name = given.get("name", name)
    if name in ("", "..") or Path(name).name != name:
        raise UserError(f"name must be a folder's name, got {name!r}")
    instances, samples = _count(given, "instances"), _count(given, "samples")
    objectives = [catalogue.build(entry.settings) for entry in entries]

    import pandas as pd

    from bench.describe import describe
    from bench.plots_describe import describe_figure
    from bench.reference import FIRST

    folder = Path("results") / "describe" / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for entry, objective in zip(entries, objectives, strict=True):
        clock = time.perf_counter()
        chosen = None if instances is None else range(FIRST, FIRST + instances)
        try:
            profile = describe(objective, chosen, samples)
        except ValueError as error:
            raise UserError(f"{entry.label}: {error}") from None
        picture = folder / f"{entry.label}.svg"
        picture.write_text(describe_figure(profile, list(objective.space.names), objective.scale) + "\n")
        rows.append(row(objective, entry, profile))
        table = folder / "describe.csv"
        pd.DataFrame(rows).to_csv(table, index=False, float_format="%.4g")
        written: Any = pd.read_csv(table)  # the same digits in both
        (folder / "describe.md").write_text(markdown(written.to_dict("records")))
        if len(entries) == 1:
            print(page(objective, entry, profile))
        else:
            r = rows[-1]
            print(
                f"{entry.label:<30} {r['axes']:>3} axes ({r['effective_axes']:g} matter), "
                f"p = {100 * r['p']:.2g} % ({100 * r['p_uncapped']:.2g} % before the cap), "
                f"ranks {number(r['rank_at_ninth'])}, {time.perf_counter() - clock:.1f} s",
                flush=True,
            )
    print(f"picture{'s' * (len(entries) > 1)} and table: {folder}")
    return 0
