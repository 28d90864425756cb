"""Are the statistics right? Random search against itself: how often is it declared different, and how often
does each interval hold the truth. `python -m nearopt.calibration` writes results/reference/calibration.

A/A: two sides of disjoint seeds of one strategy have the same law, so whatever is declared is an error. The
target is one that 2 % of random configurations reach, and the budget 60 trials, so that 30 % of the runs are
censored. The truth of an interval is what all runs together give, or a law.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.inference import differences
from bench.stats import (
    clopper_pearson,
    expected_running_time,
    mean_interval,
    median_interval,
    median_lifetime,
    pseudo_lifetimes,
    restricted_mean_interval,
)

BUDGET, SIZES, COMPARISONS = 60, (8, 20, 64), 1000
BLOCK = 4096  # seeds of one instance


class Ended(NamedTuple):
    """Runs: time f64[n], trials until near-optimal or BUDGET · reached bool[n] · gap f64[n], the gap left."""

    time: np.ndarray
    reached: np.ndarray
    gap: np.ndarray


def random_runs(runs: int) -> Ended:
    """So many runs of random search on Branin, a seed each, an instance for each BLOCK of them."""
    from bench.metrics import runs_of, score, targets
    from bench.reference import reference_table
    from bench.simulate import simulate
    from nearopt import catalogue

    objective = catalogue.build(catalogue.entry("objective", "branin").settings)
    factory = catalogue.strategy_factory(catalogue.entry("strategy", "random").settings)
    parts = []
    for first in range(0, runs, BLOCK):
        seeds = range(first, min(first + BLOCK, runs))
        run = simulate(factory, objective, seeds=seeds, budget=BUDGET, seeds_per_instance=BLOCK)
        instances = np.unique(run.trace["instance"]).tolist()
        goals = targets(reference_table(objective, instances), objective.scale)
        trace = {str(name): run.trace[name].to_numpy() for name in run.trace}
        scored = score(runs_of(trace), goals, objective.fidelity, objective.max_epoch, objective.scale)
        parts.append((scored.reached[0], scored.gap_left(scored.true[:, -1])))
    reached, gap = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Neighbouring seeds share an instance: mixed, so that a comparison's runs are draws of the family.
    order = np.random.default_rng(0).permutation(runs)
    reached, gap = reached[order], gap[order]
    return Ended(np.minimum(reached, BUDGET), np.isfinite(reached), gap)


def calibrate(runs: Ended, sizes=SIZES, comparisons: int = COMPARISONS) -> pd.DataFrame:
    """One row a number of runs and statement: runs, statement, share (of the comparisons), error (its
    standard error). "declared different" should be 5 %, what begins with "holds" 95 %."""
    rows, at, rng = [], 0, np.random.default_rng(1)
    truth = Ended(runs.time.mean(), runs.reached.mean(), runs.gap.mean())  # type: ignore[arg-type]
    # The median lifetime lies between two trials; an interval that reaches either holds it.
    median = float(np.median(np.where(runs.reached, runs.time, np.inf)))
    for n in sizes:
        take = slice(at, at + 2 * n * comparisons)
        at = take.stop
        if at > len(runs.time):
            raise ValueError(f"{comparisons} comparisons of {n} runs need {at} runs, got {len(runs.time)}")
        time, reached, gap = (v[take].reshape(2, comparisons, n) for v in runs)
        apart = differences(time[0], time[1], width=BUDGET)
        paired = differences(gap[0], gap[1], paired=True, width=2.0)
        gaps = differences(gap[0], gap[1], width=2.0)
        lifetimes = [median_lifetime(t, r) for t, r in zip(time[0], reached[0], strict=True)]
        restricted = [
            restricted_mean_interval(t, r, BUDGET) for t, r in zip(time[0], reached[0], strict=True)
        ]
        ert = [expected_running_time(t, r) for t, r in zip(time[0], reached[0], strict=True)]
        low, high = clopper_pearson(reached[0].sum(1), n)
        # Runs that are also cut off at random before the limit, as imported ones may be.
        cut = rng.uniform(20, 4 * BUDGET, time.shape)
        early = np.array([
            [pseudo_lifetimes(np.minimum(t, c), r & (t <= c), BUDGET) for t, c, r in zip(*side, strict=True)]
            for side in zip(time, cut, reached, strict=True)
        ])  # fmt: skip
        # A side with another law: what is done in 3 trials takes this one 1.
        quick = np.ceil(time[1] / 3)
        other = differences(time[0], quick)
        between = truth.time - np.ceil(runs.time / 3).mean()

        def holds(value, found):
            found = np.asarray(found, np.float64)
            return (found[:, 1] <= value) & (value <= found[:, 2])

        said = {
            "declared different: E[min(T, B)]": apart.p <= 0.05,
            "declared different: gap left": gaps.p <= 0.05,
            "declared different: gap left, as pairs": paired.p <= 0.05,
            "declared different: E[min(T, B)], also cut off early": differences(*early).p <= 0.05,
            "holds: median lifetime (Kaplan-Meier)": holds(median, lifetimes),
            "holds: E[min(T, B)]": holds(truth.time, restricted),
            "holds: ERT": holds(truth.time / truth.reached, ert),
            "holds: success share": (low <= truth.reached) & (truth.reached <= high),
            "holds: mean gap left": holds(truth.gap, np.stack(mean_interval(gap[0].T), 1)),
            "holds: median gap left": holds(np.median(runs.gap), np.stack(median_interval(gap[0].T), 1)),
            "holds: difference of two laws": (other.low <= between) & (between <= other.high),
        }
        for statement, hits in said.items():
            share = float(np.mean(hits))
            error = np.sqrt(max(share * (1 - share), 1e-4) / comparisons)
            rows.append({"runs": n, "statement": statement, "share": share, "error": error})
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, censored: float, folder: Path) -> Path:
    """calibration.csv and calibration.md in a folder; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    table.round(5).to_csv(folder / "calibration.csv", index=False)
    wide = table.pivot(index="statement", columns="runs", values="share").reindex(table["statement"].unique())
    lines = [
        "# Calibration of the statistics",
        "",
        f"Random search on Branin against itself, {COMPARISONS:,} comparisons for each number of runs, "
        f"budget {BUDGET}, {100 * censored:.0f} % of the runs censored; made by "
        "`python -m nearopt.calibration`. Declared different should be 5 %, an interval should hold "
        "the truth in 95 %; the standard error of a number here is about .7 points. With fewer than "
        "20 runs an interval is labelled: small sample.",
        "",
        "| statement | " + " | ".join(f"{n} runs" for n in wide.columns) + " |",
        "| --- |" + " --- |" * len(wide.columns),
        *(
            f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in row) + " |"
            for name, row in zip(wide.index, wide.to_numpy(), strict=True)
        ),
    ]
    path = folder / "calibration.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def main() -> int:
    runs = random_runs(2 * COMPARISONS * sum(SIZES))
    print(write(calibrate(runs), 1 - float(runs.reached.mean()), Path("results/reference/calibration")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
