"""Runs the learning-rate range test on an objective's default configuration and suggests rates.

  objective=NAME[,NAME ...]   settings as in an experiment
  seed=0                      the seed whose instance, weights and batches are taken
  steps=100 low=1e-7 high=10  the test's rates; without steps: one epoch's updates, but at least 100
  sweep=true                  also train at each suggestion and over a fine sweep of rates, on several seeds:
                              the loss ratio of each suggestion to the best of the sweep
  seeds=8 points=65           of the sweep

Writes curve.csv, lr-finder.svg and lr-finder.md, with sweep=true also sweep.csv, to results/lr-finder/NAME/;
for several objectives with sweep=true also their ratios side by side, results/lr-finder/sweep.md and .csv.
Epochs are what the test costs of a budget: the steps up to its end.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "suggest learning rates by a range test; what the suggestions are worth"
USAGE = "objective=NAME[,NAME ...] [sweep=true] [key=value ...]"
KNOWN = ("objective", "seed", "seeds", "steps", "low", "high", "sweep", "points")
SEEDS, POINTS = 8, 65


def _settings(words: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KNOWN:
            raise UserError(f"no setting {key!r}{nearest(key, KNOWN)}")
        given[key] = value if key == "objective" else catalogue.parse(value)
    if not given.get("objective"):
        raise UserError("lr-finder needs objective=NAME")
    for key, least in (("seed", 0), ("seeds", 1), ("steps", 10), ("points", 2)):
        value = given.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key in ("low", "high"):
        if not isinstance(given.get(key, 1.0), int | float) or isinstance(given.get(key), bool):
            raise UserError(f"{key} must be a number, got {given[key]!r}")
    if not isinstance(given.get("sweep", False), bool):
        raise UserError(f"sweep must be true or false, got {given['sweep']!r}")
    return given


def number(x: float) -> str:
    """Three digits."""
    return "-" if math.isnan(x) else "diverged" if math.isinf(x) else f"{x:.3g}"


def table(tests: Any, swept: Any) -> list[list[str]]:
    """Rows of strings, the head first: each rule with its rate and, after a sweep, the median and range of
    its ratios and how many seeds it made diverge."""
    import numpy as np

    from bench.lr_finder import RULES

    head = ["rule", "learning rate"]
    if swept is not None:
        head = ["rule", "learning rate (median)", "loss / best: median", "range", "diverged", "none"]
    rows = [head]
    for i, rule in enumerate(RULES):
        rates = np.array([f.suggestions[rule] for f in tests.findings])
        if swept is None:
            rows.append([rule, number(rates[0])])
            continue
        ratio = swept.ratios[:, i]
        given = ratio[~np.isnan(ratio)]
        middle, low, high = (
            np.quantile(given, [0.5, 0, 1], method="nearest") if len(given) else [math.nan] * 3
        )
        rate = float(np.nanmedian(rates)) if len(given) else math.nan
        rows.append(
            [
                rule, number(rate), number(middle), f"{number(low)} to {number(high)}" if len(given) else "-",
                f"{int(np.isinf(given).sum())} of {len(given)}", str(len(ratio) - len(given)),
            ]
        )  # fmt: skip
    return rows


def markdown(rows: list[list[str]]) -> str:
    """The rows as a table for people."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def aligned(rows: list[list[str]]) -> str:
    """The rows as text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(f"{c:<{w}}" for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )


def _write(folder: Path, label: str, objective: Any, seeds: list[int], tests: Any, swept: Any) -> str:
    """Writes the files of one objective; returns what is printed."""
    import numpy as np
    import pandas as pd

    from bench.figures_lr import lr_finder_figure
    from bench.lr_finder import RULES

    folder.mkdir(parents=True, exist_ok=True)
    curves = [
        pd.DataFrame({"seed": s, "learning_rate": f.rates, "loss": f.losses, "smoothed": f.smoothed})
        for s, f in zip(seeds, tests.findings, strict=True)
    ]
    pd.concat(curves).to_csv(folder / "curve.csv", index=False, float_format="%.6g")
    (folder / "lr-finder.svg").write_text(lr_finder_figure(tests, swept, objective.scale) + "\n")
    epochs = float(tests.epochs[0])
    cost = "" if math.isnan(epochs) else (
        f", {epochs:.3g} epochs of a budget ({epochs / objective.max_epoch:.2g} trainings)"
    )  # fmt: skip
    rows = table(tests, swept)
    title = f"{label}: {tests.findings[0].words}"
    note = f"{len(tests.findings[0].rates)} steps{cost}; {'median of ' * (len(seeds) > 1)}seed"
    note += f"s {seeds[0]} to {seeds[-1]}." if len(seeds) > 1 else f" {seeds[0]}."
    if swept is not None:
        frames = []
        for k, seed in enumerate(seeds):
            what = [*["sweep"] * len(swept.rates), *RULES]
            asked = [tests.findings[k].suggestions[rule] for rule in RULES]
            columns = {
                "seed": seed,
                "what": what,
                "learning_rate": np.concatenate([swept.rates, asked]),
                "true_loss": np.concatenate([swept.losses[k], swept.suggested[k]]),
            }
            frames.append(pd.DataFrame(columns))
        pd.concat(frames).to_csv(folder / "sweep.csv", index=False, float_format="%.6g")
        note += (
            f" True loss after {objective.max_epoch} epochs over the best of {len(swept.rates)} rates from "
            f"{swept.rates[0]:g} to {swept.rates[-1]:g}, all else at its default, a seed's trainings alike."
        )
    (folder / "lr-finder.md").write_text(f"{title}\n\n{markdown(rows)}\n{note}\n\n![](lr-finder.svg)\n")
    return f"{title}\n{aligned(rows)}\n  {note}"


def side_by_side(labels: list[str], swept: list[Any]) -> list[list[str]]:
    """Rows of strings, the head first: each objective's median ratio for each rule."""
    import numpy as np

    from bench.lr_finder import RULES

    rows = [["objective", "best rate", *RULES]]
    for label, found in zip(labels, swept, strict=True):
        best = float(np.median(found.rates[found.losses.argmin(1)]))
        columns = [column[~np.isnan(column)] for column in found.ratios.T]
        middles = [np.quantile(c, 0.5, method="nearest") if len(c) else math.nan for c in columns]
        rows.append([label, number(best), *(number(float(m)) for m in middles)])
    return rows


def main(words: list[str]) -> int:
    given = _settings(words)
    entries = catalogue.entries("objective", catalogue.split(given["objective"]))
    objectives = [catalogue.build(entry.settings) for entry in entries]

    from bench.lr_finder import HIGH, LOW, STEPS, check, range_tests, sweep, test_rates, updates

    sweeps = given.get("sweep", False)
    first = given.get("seed", 0)
    seeds = list(range(first, first + (given.get("seeds", SEEDS) if sweeps else 1)))
    for objective in objectives:
        try:
            check(objective)
        except ValueError as error:
            raise UserError(str(error)) from None
    found = []
    for entry, objective in zip(entries, objectives, strict=True):
        epoch = updates(objective)
        steps = given.get("steps", STEPS if math.isnan(epoch) else max(STEPS, round(epoch)))
        try:
            rates = test_rates(given.get("low", LOW), given.get("high", HIGH), steps)
        except ValueError as error:
            raise UserError(str(error)) from None
        tests = range_tests(objective, seeds, rates)
        swept = sweep(objective, seeds, tests, given.get("points", POINTS)) if sweeps else None
        folder = Path("results") / "lr-finder" / entry.label
        print(_write(folder, entry.label, objective, seeds, tests, swept), flush=True)
        print(f"  {folder}", flush=True)
        found.append(swept)
    if sweeps and len(entries) > 1:
        rows = side_by_side([entry.label for entry in entries], found)
        folder = Path("results") / "lr-finder"
        (folder / "sweep.csv").write_text("".join(",".join(row) + "\n" for row in rows))
        (folder / "sweep.md").write_text(markdown(rows))
        print(f"loss / best, median of {len(seeds)} seeds\n{aligned(rows)}\n  {folder}")
    return 0
