"""Are the statistics right? Random search against itself: how often is it declared different, and how often
does each interval hold the truth. `python -m nearopt.calibration` writes results/reference/calibration.

A/A: two sides of disjoint seeds of one strategy have the same law, so whatever is declared is an error. The
target is one that 2 % of random configurations reach, and the budget 60 trials, so that 30 % of the runs are
censored. The truth of an interval is what all runs together give, or a law. Of a thousand comparisons a share
of 5 % has a standard error of .7 points; how far the tests are from 5 % is seen by drawing the two sides of
many more comparisons from the same runs.
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
MANY = {8: 20_000, 20: 20_000, 64: 8_000}  # comparisons redrawn from the same runs, by number of runs
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


def redrawn(runs: Ended, comparisons=MANY) -> pd.DataFrame:
    """How often two sides of runs, drawn from all without replacement, are declared different: one row a
    number of runs and statement, as of `calibrate`, and how many comparisons. A run is in several of them, in
    few together with the same others."""
    rows, rng = [], np.random.default_rng(5)
    for n, count in comparisons.items():
        drawn = np.stack([rng.choice(len(runs.gap), 2 * n, replace=False) for _ in range(count)])
        gap, time = runs.gap[drawn], runs.time[drawn]
        for statement, p in (
            ("gap left", differences(gap[:, :n], gap[:, n:], width=2.0).p),
            ("gap left, as pairs", differences(gap[:, :n], gap[:, n:], paired=True, width=2.0).p),
            ("E[min(T, B)]", differences(time[:, :n], time[:, n:], width=BUDGET).p),
        ):
            share = float((p <= 0.05).mean())
            error = np.sqrt(share * (1 - share) / count)
            rows.append({"runs": n, "statement": f"declared different, redrawn: {statement}",
                         "share": round(share, 4), "error": error, "comparisons": count})  # fmt: skip
    return pd.DataFrame(rows)


def _lines(table: pd.DataFrame, digits: int) -> list[str]:
    wide = table.pivot(index="statement", columns="runs", values="share").reindex(table["statement"].unique())
    return [
        "| statement | " + " | ".join(f"{n} runs" for n in wide.columns) + " |",
        "| --- |" + " --- |" * len(wide.columns),
        *(
            f"| {name} | " + " | ".join(f"{100 * share:.{digits}f} %" for share in row) + " |"
            for name, row in zip(wide.index, wide.to_numpy(), strict=True)
        ),
    ]


def write(table: pd.DataFrame, many: pd.DataFrame, censored: float, folder: Path) -> Path:
    """calibration.csv and calibration.md in a folder; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = pd.concat([table.assign(comparisons=COMPARISONS), many], ignore_index=True)
    whole.round(5).to_csv(folder / "calibration.csv", index=False)
    lines = [
        "# Calibration of the statistics",
        "",
        f"Random search on Branin against itself, {COMPARISONS:,} comparisons for each number of runs, "
        f"budget {BUDGET}, {100 * censored:.0f} % of the runs censored; made by "
        "`python -m nearopt.calibration`. Declared different should be 5 %, an interval should hold "
        "the truth in 95 %; the standard error of a number here is about .7 points. With fewer than "
        "20 runs an interval is labelled: small sample.",
        "",
        *_lines(table, 1),
        "",
        "Shares beyond 5 % above may be that error: of "
        + ", ".join(
            f"{c:,} comparisons of {n} runs"
            for n, c in many[["runs", "comparisons"]].drop_duplicates().to_numpy()
        )
        + ", drawn from the same runs again and again, with standard errors of "
        f"{100 * many['error'].min():.2f} to {100 * many['error'].max():.2f} points:",
        "",
        *_lines(many, 2),
    ]
    path = folder / "calibration.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def main() -> int:
    runs = random_runs(2 * COMPARISONS * sum(SIZES))
    print(
        write(
            calibrate(runs),
            redrawn(runs),
            1 - float(runs.reached.mean()),
            Path("results/reference/calibration"),
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
