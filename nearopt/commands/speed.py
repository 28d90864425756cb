"""Times nearopt's strategies against peers that are installed: same objective, budget and core, in one run.

  strategy=gp,start=10,random         instead of the default races; a setting follows its strategy
  objective=hartmann6 budgets=[50]    likewise, for every race
  peers=optuna_gp,botorch_logei       likewise
  seeds=256                           runs of ours, side by side in one program
  peer_seeds=16 peer_seconds=60       runs of a peer, one after the other: until so many or so long
  name=speed                          the folder under results/ that gets speed.md and speed.csv

CPU seconds of a process with one thread. Ours are those of whole runs: strategy, objective, clock and trace;
compiling is the first call's excess over the later ones. A peer's are those inside the library only, making
it, asking and telling, after a warm-up run; the driver and the objective are not charged to it.
"""

from __future__ import annotations

import datetime
import inspect
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
FLOOR = 1e-6  # of the gap between the optimum and random's median: regret below it counts as this much


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
    Race("curves", 40, "hyperband", ("optuna_hyperband", "syne_tune_hyperband"), 1024),
    Race("noisy_quadratic,max_epoch=50", 16, "pbt,intervals=50", ("syne_tune_pbt,intervals=50",), 256, 16),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. status: measured, or why not · runs, workers · cpu_s, wall_s: of one run ·
    compile_cpu_s: once, ours only · ratio: a peer's cpu_s over ours · regret_ours, regret: medians over the
    `compared` seeds that both ran · decades: mean of log10 regret, ours less the peer's, with its 95 %
    bootstrap interval."""

    objective: str
    budget: float
    strategy: str
    library: str
    status: str = "measured"
    runs: int = 0
    workers: int = 1
    cpu_s: float = float("nan")
    wall_s: float = float("nan")
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
    """What a measurement leaves: Row's fields of these names, and the true loss of the last incumbent of each
    of the first seeds."""

    runs: int
    cpu_s: float
    wall_s: float
    compile_cpu_s: float
    final: list[float]


# In the measuring process -------------------------------------------------------------------------------


def _one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


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


def time_ours(objective: Entry, strategy: Entry, budget: float, seeds: int, compared: int) -> Timing:
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
        return simulate.simulate(factory, made, seeds=range(seeds), budget=budget)

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
    return Timing(seeds, usual / seeds, float(np.median(wall)) / seeds, first - usual, final)


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
    the seeds 0, 1 ... that both ran."""
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
    floor = FLOOR * (goals["median"].to_numpy(np.float64) - optimum)
    mine, other = np.array(ours[:n]) - optimum, np.array(peers[:n]) - optimum
    decades = np.log10(np.maximum(mine, floor)) - np.log10(np.maximum(other, floor))
    return float(np.median(mine)), float(np.median(other)), bootstrap_mean(decades)


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
        "mean difference of log10 regret over the same seeds with its 95 % bootstrap interval, regret "
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


KEYS = ("strategy", "objective", "budgets", "seeds", "peers", "peer_seeds", "peer_seconds", "name")


def _positive(key: str, text: str) -> float:
    value = catalogue.parse(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{key} must be a number above 0, got {text!r}")
    if key != "peer_seconds" and value != int(value):
        raise UserError(f"{key} must be a whole number, got {text!r}")
    return float(value)


def read(words: list[str]) -> tuple[list[Race], dict[str, Any]]:
    """The races that the words ask for, and peer_seeds, peer_seconds, name; raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KEYS:
            raise UserError(f"no setting {key!r}{nearest(key, KEYS)}")
        given[key] = value

    def listed(text: str) -> tuple[str, ...]:
        return tuple(catalogue.split(text.strip("[]")))

    races = list(RACES)
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
    }


def run_race(
    race: Race, settings: dict[str, Any], folder: Path, call: Callable[..., Any], say: Callable[[Row], None]
) -> list[Row]:
    """Measures one race; `call(function, *arguments)` runs in the measuring process."""
    objective = catalogue.entry("objective", race.objective)
    strategy = catalogue.entry("strategy", race.strategy)
    peers = [catalogue.entry("strategy", peer) for peer in race.peers]
    base = Row(objective.label, race.budget, strategy.label, "nearopt")
    compared = settings["peer_seeds"]
    ours: Timing | None = None
    row = base
    try:
        made: Timing = call(time_ours, objective, strategy, race.budget, race.seeds, compared)
        ours = made
        row = replace(
            row, runs=made.runs, cpu_s=made.cpu_s, wall_s=made.wall_s, compile_cpu_s=made.compile_cpu_s
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
        except ValueError as error:
            theirs, row = None, replace(row, status=f"not measured: {error}")
        if ours is not None and isinstance(theirs, Timing):
            cache = folder / "reference" / f"{objective.label}.parquet"
            mine, other, (mean, low, high) = call(regrets, objective, ours.final, theirs.final, cache)
            row = replace(
                row, ratio=theirs.cpu_s / ours.cpu_s, compared=min(len(ours.final), len(theirs.final)),
                regret_ours=mine, regret=other, decades=mean, decades_low=low, decades_high=high,
            )  # fmt: skip
        rows.append(row)
        say(row)
    return rows


def write(rows: list[Row], about: dict[str, str], folder: Path, wall: bool) -> Path:
    """Writes speed.csv and speed.md, each whole."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "speed.csv": pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False),
        "speed.md": markdown(rows, about, wall),
    }
    for name, text in texts.items():
        (folder / f"{name}.part").write_text(text, encoding="utf-8")
    for name in texts:
        os.replace(folder / f"{name}.part", folder / name)
    return folder / "speed.md"


def _accelerated() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def main(words: list[str]) -> int:
    races, settings = read(words)
    for race in races:  # before anything is measured
        catalogue.entry("objective", race.objective)
        for name in (race.strategy, *race.peers):
            catalogue.entry("strategy", name)
    folder = Path("results") / settings["name"]
    os.environ.update(THREADS)  # read by libraries when the measuring process imports them
    about = provenance()
    pool = ProcessPoolExecutor(1, get_context("spawn"), _one_core)
    rows: list[Row] = []

    def say(row: Row) -> None:
        what = f"{_number(row.cpu_s)} CPU s a run ({row.runs:,} runs)"
        what += f", {_number(row.ratio)} times ours" * (row.ratio == row.ratio)
        print(
            f"{row.objective:<20} {row.strategy:<24} {what if row.status == 'measured' else row.status}",
            flush=True,
        )

    try:
        for race in races:
            rows += run_race(race, settings, folder, lambda f, *a: pool.submit(f, *a).result(), say)
        wall = pool.submit(_accelerated).result()
    except BaseException:
        for worker in list((pool._processes or {}).values()):
            worker.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    path = write(rows, about, folder, wall)
    print(f"\n{path.read_text(encoding='utf-8')}\ntable: {path}")
    return 0
