"""Is a result reproduced, and what changed between two folders: cells run again, traces and cells compared.

A rerun takes its settings from `cell.json` and everything else from what is installed now. On one machine
type and one lock file the same seed gives the same bytes; elsewhere rounding may differ, and one differing
choice changes the rest of a run, after which only distributions can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import store
from bench.inference import differences, holm
from bench.metrics import incumbents, runs_of
from bench.ranking import ranks
from nearopt.catalogue import UserError

IDENTICAL, ROUNDING, DISTRIBUTION, DIFFERENT = (
    "identical", "same up to rounding", "same in distribution", "different",
)  # fmt: skip
STATUS = "status changed"
DECISIONS = ["trial", "source", "start", "until", "worker", "status"]
NUMBERS = ["loss", "true_loss", "recommended_true_loss", "cost", "started", "finished"]
NEAR = 1e-5  # of a column's largest absolute value: float32 training, summed in another order
LEAST = 6  # with fewer pairs no test rejects at 5 %


class Same(NamedTuple):
    """answer: one of the four · seed, job: where the runs first depart, -1 where they do not · what: the
    column and both values there · p: of the same distribution, nan where it was not asked · runs
    compared."""

    answer: str
    seed: int = -1
    job: int = -1
    what: str = ""
    p: float = np.nan
    runs: int = 0


def _departures(old: pd.DataFrame, new: pd.DataFrame, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """(bool[jobs], index of the first column that differs) of two frames whose rows are the same jobs."""
    columns = [c for c in old if c in new and c not in ("seed", "job", "budget")]
    first = np.full(len(old), len(columns))
    for i, name in enumerate(columns):
        a, b = old[name].to_numpy(), new[name].to_numpy()
        numeric = all(np.issubdtype(v.dtype, np.number) for v in (a, b))
        if numeric:
            a, b = a.astype(np.float64), b.astype(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            if not exact and name not in DECISIONS:
                finite = np.concatenate([a[np.isfinite(a)], b[np.isfinite(b)]])
                with np.errstate(invalid="ignore"):
                    same |= np.abs(a - b) <= NEAR * np.abs(finite).max(initial=0.0)
        else:
            same = pd.Series(a).astype(str).to_numpy() == pd.Series(b).astype(str).to_numpy()
        first = np.where(~same & (first == len(columns)), i, first)
    return first < len(columns), first


def compare_traces(old: Any, new: Any, fidelity: str = "training") -> Same:
    """Compares the runs of the seeds that both traces have; raises ValueError where there are none."""
    seeds = np.intersect1d(old["seed"], new["seed"])
    if not len(seeds):
        raise ValueError("the two traces share no seed")
    old, new = (t[t["seed"].isin(seeds)].sort_values(["seed", "job"], ignore_index=True) for t in (old, new))
    jobs = [t.groupby("seed")["job"].max().to_numpy() for t in (old, new)]
    keys = ["seed", "job"]
    both: Any = old[keys].merge(new[keys])
    a: Any = both.merge(old, on=keys, how="left")
    b: Any = both.merge(new, on=keys, how="left")
    names = [c for c in a if c in b and c not in ("seed", "job", "budget")]
    for exact, answer in ((True, IDENTICAL), (False, ROUNDING)):
        departs, column = _departures(a, b, exact)
        if not departs.any() and (jobs[0] == jobs[1]).all():
            return Same(answer, runs=len(seeds))
    if departs.any():
        # The earliest job of any run: what comes after it may follow from it.
        at = int(np.lexsort((both["seed"], np.where(departs, both["job"], np.iinfo(np.int64).max)))[0])
        name = names[int(column[at])]
        seed, job = int(both["seed"][at]), int(both["job"][at])
        what = f"{name} {a[name][at]} -> {b[name][at]}"
    else:
        i = int((jobs[0] != jobs[1]).argmax())
        seed, job = int(seeds[i]), int(min(jobs[0][i], jobs[1][i])) + 1
        what = f"{jobs[0][i] + 1} -> {jobs[1][i] + 1} jobs"
    p = same_distribution(old, new, fidelity)
    return Same(DISTRIBUTION if p > 0.05 else DIFFERENT, seed, job, what, p, len(seeds))


def same_distribution(old: pd.DataFrame, new: pd.DataFrame, fidelity: str) -> float:
    """p of a paired permutation test of the ranks of the last incumbents' true losses and of the jobs'
    number; the smaller of two, doubled. 0 below LEAST seeds: that they are the same cannot be said."""
    ends, counts = [], []
    for trace in (old, new):
        runs = runs_of({str(c): trace[c].to_numpy() for c in trace})
        index = incumbents(runs.loss, runs.until, fidelity)[:, -1]
        true = runs.true_loss[np.arange(len(index)), np.maximum(index, 0)]
        ends.append(np.where(index >= 0, true, np.inf))
        counts.append(runs.count.astype(np.float64))
    if len(ends[0]) < LEAST:
        return 0.0
    p = []
    for one, two in (ends, counts):
        order = ranks(np.concatenate([one, two]))
        p.append(float(differences(order[: len(one)], order[len(one) :], paired=True).p[0]))
    return min(1.0, 2 * min(p))


def rerun(info: dict[str, Any], seeds: Sequence[int], budget: float) -> pd.DataFrame:
    """The trace of these seeds under a planned budget, from a cell's `cell.json`. Raises UserError where its
    settings cannot be built (imported traces, a strategy that is not there)."""
    from bench import loop, simulate
    from bench.cluster import ClusterSettings
    from nearopt import catalogue

    settings = info.get("settings") or {}
    if "_target_" not in (settings.get("objective") or {}) or "_target_" not in (
        settings.get("strategy") or {}
    ):
        raise UserError("its cell.json says no settings to run it by")
    objective = catalogue.build(settings["objective"])
    factory = catalogue.strategy_factory(settings["strategy"])
    cluster = settings.get("cluster") or {"workers": settings.get("workers", 1)}
    given: dict[str, Any] = dict(
        seeds=seeds, budget=budget, cluster=ClusterSettings(**cluster),
        first_instance=int(settings.get("first_instance", 1000)),
        seeds_per_instance=int(settings.get("seeds_per_instance", 1)),
    )  # fmt: skip
    if hasattr(objective, "draw") and not loop.host_factory(factory):
        return simulate.simulate(factory, objective, **given).trace
    return loop.run(factory, objective, **given).trace


class Verified(NamedTuple):
    """objective, label, budget of a cell and what its rerun gave; error: why there was none."""

    objective: str
    label: str
    budget: float
    found: Same | None
    error: str = ""


def sample(folder: Path, cells: int) -> list[Path]:
    """So many cells of a results folder, evenly over objectives and labels: the same ones every time."""
    there = [
        p.parent
        for p in sorted(folder.glob("*/*/cell.json"))
        if (store.read_cell(p.parent) or {}).get("status") == store.COMPLETE and store.budgets(p.parent)
    ]
    left = [there[i] for i in np.random.default_rng(0).permutation(len(there))]

    def seen(path: Path, taken: list[Path]) -> int:
        return sum(path.parent.name == t.parent.name for t in taken) + sum(path.name == t.name for t in taken)

    picked: list[Path] = []
    while left and len(picked) < cells:  # first those whose objective and label are both new
        best = min(left, key=lambda p: seen(p, picked))
        left.remove(best)
        picked.append(best)
    return picked


def verify(
    folder: str | Path, cells: int = 6, seeds: int = 8, say: Callable[[Verified], None] | None = None
) -> list[Verified]:
    """Runs a sample of cells again, the first seeds of their smallest budget on disk, and compares. Raises
    FileNotFoundError where there is nothing to run again."""
    root, out = Path(folder), []
    if not root.is_dir():
        raise FileNotFoundError(f"no results folder {root}")
    chosen = sample(root, cells)
    if not chosen:
        raise FileNotFoundError(f"no complete cell with traces in {root}")
    for path in chosen:
        info = store.read_cell(path) or {}
        budget = store.budgets(path)[0]
        old = store.read_trace(path, budget)
        first: Any = np.unique(old["seed"])[:seeds]
        try:
            new = rerun(info, [int(s) for s in first], budget)
            kept: Any = old[old["seed"].isin(first)]
            found = compare_traces(kept, new, str(info.get("fidelity") or "training"))
            result = Verified(path.parent.name, path.name, budget, found)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            result = Verified(path.parent.name, path.name, budget, None, line)
        out.append(result)
        if say is not None:
            say(result)
    return out


# Two folders --------------------------------------------------------------------------------------------


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


class Changed(NamedTuple):
    """cells: a row a cell of both, with objective, label, answer, seed, job, what, gap_a, gap_b, difference,
    low, high, p, p_holm, noise (whether the difference may be chance; never where a cell's status changed) ·
    only_a, only_b: cells of one · settings, references, versions: lines that say what differs."""

    cells: pd.DataFrame
    only_a: list[str]
    only_b: list[str]
    settings: list[str]
    references: list[str]
    versions: list[str]


def compare_folders(a: str | Path, b: str | Path) -> Changed:
    """What changed from results folder a to b. Cells are compared at the largest budget that both have: run
    by run on shared seeds, and by the gap left. Raises FileNotFoundError."""
    from bench.inference import difference
    from bench.metrics import evaluate
    from bench.reading import load_folder

    sides = [load_folder(a), load_folder(b)]
    scored = [{(s.cell.objective, s.cell.label): s for s in evaluate(r)[0]} for r in sides]
    only = [[f"{o}/{v}" for o, v in one if (o, v) not in two] for one, two in (scored, scored[::-1])]
    settings, versions, rows = [], {}, []
    for key in scored[0]:
        if key not in scored[1]:
            continue
        one, two = scored[0][key], scored[1][key]
        said, whole = [], f"{key[0]}/{key[1]}"
        old, new = (_flat(s.cell.info.get("settings") or {}) for s in (one, two))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                said.append(f"{whole}: {name} {old.get(name)} -> {new.get(name)}")
        settings += said
        for name in {**(one.cell.info.get("versions") or {}), **(two.cell.info.get("versions") or {})}:
            pair = [str((s.cell.info.get("versions") or {}).get(name)) for s in (one, two)]
            if pair[0] != pair[1]:
                versions[f"{name} {pair[0]} -> {pair[1]}"] = None
        row: dict[str, Any] = {"objective": key[0], "label": key[1]}
        if one.cell.status != two.cell.status:
            what = f"{one.cell.status} -> {two.cell.status}"
            rows.append({**row, "answer": STATUS, "seed": -1, "job": -1, "what": what})
            continue
        budgets = [x for x in one.scores if x in two.scores]
        if not budgets:
            what = "no budget that both have runs of"
            rows.append({**row, "answer": "not compared", "seed": -1, "job": -1, "what": what})
            continue
        budget = max(budgets)
        s, t = one.scores[budget], two.scores[budget]
        planned = [x for x in one.cell.traces if x in two.cell.traces]
        same_seeds = len(np.intersect1d(s.runs.seeds, t.runs.seeds)) > 0
        if planned and same_seeds:
            old, new = (pd.DataFrame(side.cell.traces[max(planned)]) for side in (one, two))
            same = compare_traces(old, new, str(one.cell.info.get("fidelity") or "training"))
            row |= {"answer": same.answer, "seed": same.seed, "job": same.job, "what": same.what}
        else:
            answer = "planned for other budgets" if same_seeds else "other seeds"
            row |= {"answer": answer, "seed": -1, "job": -1, "what": ""}
        gaps = [side.gap_left(side.true[:, -1]) for side in (s, t)]
        d = difference(gaps[1], gaps[0], t.runs.seeds, s.runs.seeds, width=2.0)
        row |= {"budget": budget, "gap_a": gaps[0].mean(), "gap_b": gaps[1].mean(), "difference": d.mean,
                "low": d.low, "high": d.high, "p": d.p}  # fmt: skip
        rows.append(row)
    columns = ["objective", "label", "answer", "seed", "job", "what", "budget", "gap_a", "gap_b",
               "difference", "low", "high", "p"]  # fmt: skip
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    table["noise"] = ~(table["p_holm"] <= 0.05) & (table["answer"] != STATUS)
    return Changed(table, only[0], only[1], settings, _references_apart(sides), list(versions))


def _references_apart(sides: Sequence[Any]) -> list[str]:
    """Which objectives' stored optima or quantiles differ, by which near-optimal and the gap are measured."""
    lines = []
    for objective, old in sides[0].references.items():
        new = sides[1].references.get(objective)
        if new is None or not len(old) or not len(new):
            continue
        both: Any = old.merge(new, on="instance", suffixes=("", " new"))
        for name in (c for c in old if c != "instance" and f"{c} new" in both):
            a, b = both[name].to_numpy(np.float64), both[f"{name} new"].to_numpy(np.float64)
            apart = ~np.isclose(a, b, rtol=NEAR, atol=0, equal_nan=True)
            if apart.any():
                i = int(apart.argmax())
                lines.append(f"{objective}: {name} of instance {both['instance'][i]} {a[i]:g} -> {b[i]:g}"
                             f" ({apart.sum()} of {len(both)} instances)")  # fmt: skip
                break
    return lines
