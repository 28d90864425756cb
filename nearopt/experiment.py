"""An experiment: which cells it has, what is missing of them, and running that.

Cells of one objective run in one process one after the other, so that its compiled training serves every
strategy; objectives run in parallel processes, since one compiled program runs at a time in a process.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench import store
from bench.processes import pool
from nearopt import __version__, catalogue
from nearopt.catalogue import ROOT, Entry, UserError, nearest


@dataclass(frozen=True)
class Experiment:
    """A comparison: every strategy on every objective and cluster."""

    name: str
    strategies: tuple[Entry, ...]
    objectives: tuple[Entry, ...]
    clusters: tuple[Entry, ...]
    seeds: int
    budgets: tuple[float, ...]
    per_objective: dict[str, dict[str, Any]]
    first_instance: int = 1000
    seeds_per_instance: int = 1
    processes: int = 0  # 0: one a core, at most four
    debug: bool = False

    @property
    def folder(self) -> Path:
        return Path("results") / self.name

    def _own(self, objective: Entry) -> dict[str, Any]:
        """What is set for this objective alone, by its whole name or by what its wrappers go around."""
        bare = self.per_objective.get(objective.name.partition("+")[0], {})
        return self.per_objective.get(objective.name, bare)

    def seeds_of(self, objective: Entry) -> int:
        return int(self._own(objective).get("seeds", self.seeds))

    def budgets_of(self, objective: Entry) -> tuple[float, ...]:
        return tuple(sorted({float(b) for b in self._own(objective).get("budgets", self.budgets)}))


@dataclass(frozen=True)
class Cell:
    """One strategy on one objective and cluster, and what is wanted of it."""

    strategy: Entry
    objective: Entry
    cluster: Any  # bench.cluster.ClusterSettings
    label: str
    folder: Path
    seeds: int
    budgets: tuple[float, ...]
    first_instance: int
    seeds_per_instance: int
    debug: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What the cell's identity is made of."""
        return {
            "strategy": self.strategy.settings,
            "objective": self.objective.settings,
            "cluster": asdict(self.cluster),
            "first_instance": self.first_instance,
            "seeds_per_instance": self.seeds_per_instance,
        }


def overrides(words: list[str]) -> dict[str, str]:
    """`key=value` words as a mapping; raises UserError."""
    found = {}
    for word in words:
        if word in ("-m", "--multirun"):  # every run may sweep: accepted by habit
            continue
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        known = [*ROOT, *catalogue.GROUPS]
        if key.split(".")[0] not in known or ("." in key and key.split(".")[0] not in catalogue.GROUPS[:3]):
            raise UserError(f"no setting {key!r}{nearest(key, known)}")
        found[key] = value
    return found


def _typed(key: str, given: Any) -> Any:
    kind: Any = ROOT[key]
    value: Any = [given] if kind is list and not isinstance(given, list) else given
    value = str(value) if kind is str else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{key} must be {kind.__name__}, got {value!r}")
    if key == "budgets" and not all(isinstance(b, int | float) and b > 0 for b in value):
        raise UserError(f"budgets must be numbers of full trainings above 0, got {value}")
    if kind is int and value < (0 if key in ("processes", "first_instance") else 1):
        raise UserError(f"{key} must be at least 1, got {value}")
    if key == "name" and (value in ("", "..") or Path(value).name != value):
        raise UserError(f"name must be a folder's name, got {value!r}")
    return value


def _entries(group: str, texts: list[str], given: dict[str, str]) -> tuple[Entry, ...]:
    """The entries of a group with the command line's `group.setting=a,b`, which go to each entry that has the
    setting; one that nobody has is an error."""
    found = catalogue.entries(group, texts)
    for key, text in given.items():
        owner, _, setting = key.partition(".")
        if owner != group or not setting:
            continue
        if not any(setting in e.known for e in found):
            have = dict.fromkeys(s for e in found for s in e.known)
            who = found[0].name if len(found) == 1 else f"none of {', '.join(e.name for e in found)}"
            verb = "has no setting" if len(found) == 1 else "has a setting"
            raise UserError(f"{who} {verb} {setting!r}{nearest(setting, have) if have else ''}")
        swept = []
        for e in found:
            if setting not in e.known:
                swept.append(e)
                continue
            for value in catalogue.split(text):
                swept.append(catalogue.entry(group, e.text, {setting: catalogue.parse(value)}))
        found = swept
    return tuple({e.label: e for e in found}.values())


def _unbracketed(text: str) -> str:
    """A list as Hydra writes it, [a,b], without its brackets."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def read(words: list[str]) -> Experiment:
    """The experiment that the words of a command line describe; raises UserError."""
    given = overrides(words)
    base = {"cluster": "single", "per_objective": {}, "first_instance": 1000, "seeds_per_instance": 1}
    name = given.get("experiment", "first")
    if name.startswith("claims/"):
        raise UserError(f"{name} is a claim, which has a command of its own: claims {name[7:]}")
    base |= catalogue.load("experiment", name)
    known = [*ROOT, *catalogue.GROUPS, *(("claim", "record", "kinds") if "claim" in base else ())]
    unknown = [k for k in base if k not in known]
    if unknown:
        raise UserError(f"experiment {name}: no key {unknown[0]!r}{nearest(unknown[0], ROOT)}")
    plain = {k: _typed(k, v if ROOT[k] is str else catalogue.parse(v)) for k, v in given.items() if k in ROOT}
    named = {k: _typed(k, base[k]) for k in ROOT if k in base} | plain
    groups = {}
    for group in ("strategy", "objective", "cluster"):
        texts = given.get(group)
        listed = base[group] if texts is None else catalogue.split(_unbracketed(texts))
        groups[group] = _entries(
            group, [str(t) for t in ([listed] if isinstance(listed, str) else listed)], given
        )
    per_objective = {}
    for name, own in named["per_objective"].items():
        if not isinstance(own, dict):
            raise UserError(f"per_objective: {name} must have settings, {{seeds: 8}}, got {own!r}")
        for key in own:
            if key not in ("seeds", "budgets"):
                raise UserError(f"per_objective: {name} has no {key!r}{nearest(key, ('seeds', 'budgets'))}")
        per_objective[name] = {k: _typed(k, v) for k, v in own.items() if k not in plain}
        if name.partition("+")[0] not in catalogue.names("objective"):
            raise UserError(
                f"per_objective: no objective {name!r}{nearest(name, catalogue.names('objective'))}"
            )
    return Experiment(
        named["name"], groups["strategy"], groups["objective"], groups["cluster"], named["seeds"],
        tuple(float(b) for b in named["budgets"]), per_objective, named["first_instance"],
        named["seeds_per_instance"], named.get("processes", 0), named.get("debug", False),
    )  # fmt: skip


def cells(experiment: Experiment) -> list[Cell]:
    """Every cell, objective by objective; raises UserError where a folder holds other settings."""
    found = []
    for objective in experiment.objectives:
        for strategy in experiment.strategies:
            for cluster in experiment.clusters:
                made, said = _cluster(cluster, strategy)
                label = ",".join([strategy.label, *said])
                folder = experiment.folder / objective.label / label
                cell = Cell(
                    strategy, objective, made, label, folder, experiment.seeds_of(objective),
                    experiment.budgets_of(objective), experiment.first_instance,
                    experiment.seeds_per_instance, experiment.debug,
                )  # fmt: skip
                try:
                    store.check_settings(folder, cell.settings)
                except store.SettingsDiffer as error:
                    raise UserError(str(error)) from None
                found.append(cell)
    return found


@lru_cache(maxsize=64)
def _built(settings: str) -> Any:
    """What settings, as JSON, make: cells share it, and Hydra takes a hundredth of a second for each."""
    return catalogue.build(json.loads(settings))


def _cluster(entry: Entry, strategy: Entry) -> tuple[Any, list[str]]:
    """The settings of a cluster under a strategy, and those that differ from one undisturbed worker, as they
    stand in a label. Raises UserError."""
    from bench.cluster import ClusterSettings

    settings = dict(entry.settings)
    if settings.get("thinking") == "recorded":
        settings["thinking"] = recorded_thinking(strategy.label)
    made = _built(json.dumps(settings))
    if not isinstance(made, ClusterSettings):
        raise UserError(f"cluster {entry.name}: its _target_ must be bench.cluster.ClusterSettings")
    usual = asdict(ClusterSettings())
    shown = {k: entry.settings.get(k, v) for k, v in asdict(made).items() if v != usual[k]}
    return made, [f"{k}={v}" for k, v in shown.items()]


def recorded_thinking(label: str) -> float:
    """Seconds that a strategy thinks for a job: CPU seconds of a run over its jobs, as `nearopt speed`
    measured it here (results/speed) or in the results that nearopt ships; UserError where it did not."""
    import pandas as pd

    for root in (Path("results"), Path(__file__).parent.parent / "results" / "reference"):
        path = root / "speed" / "speed.csv"
        table: Any = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if "jobs" not in table:
            continue
        table = table[table["cpu_s"].notna() & (table["jobs"] > 0)]
        bare = table["strategy"].str.partition(",")[0] == label.partition(",")[0]
        for rows in (table[table["strategy"] == label], table[bare]):
            if len(rows):
                row = rows.iloc[0]
                return float(f"{row['cpu_s'] / row['jobs']:.3g}")
    raise UserError(f"thinking=recorded: nearopt speed has not measured {label}; give seconds instead")


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("nearopt", "jax", "jaxlib", "numpy")} | {
        "python": sys.version.split()[0]
    }


def device() -> str:
    import jax

    d = jax.devices()[0]
    return f"{d.platform} {d.device_kind}"


@dataclass(frozen=True)
class Work:
    """What a cell still needs: (budget, seeds) blocks, or why it is not applicable."""

    todo: tuple[tuple[float, range], ...]
    reason: str = ""
    describe: dict[str, str] | None = None
    anytime: bool = False
    needs: frozenset[str] = frozenset()
    finder: bool = False
    warnings: tuple[str, ...] = ()


def work(cell: Cell) -> Work:
    """Looks up what is missing; raises ValueError for settings that a strategy or an objective refuses."""
    from bench.drive import NotApplicable, applicable, make_cluster, takes_hint
    from bench.loop import host_factory

    objective = _built(json.dumps(cell.objective.settings))
    factory = catalogue.strategy_factory(cell.strategy.settings)
    extra = {"seed": 0} if host_factory(factory) else {}
    made = {
        b: factory(cube=objective.space.cube(), max_epoch=objective.max_epoch, budget=b, **extra)
        for b in cell.budgets
    }
    for budget, strategy in made.items():
        make_cluster(strategy, objective, [0], cell.cluster, budget)
    top = made[max(made)]
    try:
        applicable(top, objective)
    except NotApplicable as error:
        return Work((), str(error), needs=top.needs)
    planned = list(cell.budgets)
    # What lost jobs leave unspent depends on the budget, so such a run is the beginning of no other.
    anytime = bool(top.anytime) and not cell.cluster.drop
    if anytime:
        planned = [max(planned)]
    todo, warnings = [], []
    for budget in planned:
        ranges, said = store.missing(cell.folder, budget, 1 if cell.debug else cell.seeds, anytime)
        warnings += said
        todo += [(budget, r) for r in ranges]
    say = {f"{b:g}": _say(s, objective) for b, s in made.items()}
    return Work(tuple(todo), "", say, anytime, top.needs, takes_hint(top), tuple(warnings))


def _hint(cell: Cell, objective: Any, seeds: range) -> Any:
    """What the learning-rate finder tells each seed's strategy (`bench.drive.Hint`): a rate by the guide's
    rule; None where the objective has no range test."""
    from bench import lr_finder
    from bench.drive import hint_of_rates, instances_of

    if not (hasattr(objective, "range_test") and lr_finder.rate_axes(objective.space)):
        return None
    instances = instances_of(seeds, cell.first_instance, cell.seeds_per_instance)
    tests = lr_finder.range_tests(objective, seeds, lr_finder.test_rates(), instances)
    return hint_of_rates(objective.space, [f.suggestions["guide"] for f in tests.findings])


def _say(strategy: Any, objective: Any) -> str:
    """What a budget means to a strategy, and how many checkpoints it keeps: those that it may resume or copy
    are all kept."""
    describe = getattr(strategy, "describe", None)
    text = str(describe() if callable(describe) else getattr(strategy, "note", ""))
    if text and objective.max_epoch > 1 and {"resume", "copy"} & strategy.needs:
        text += f"; up to {strategy.num_trials:,} checkpoints kept"
    return text


def run_cell(
    cell: Cell, progress: Callable[[float], None] | None = None
) -> tuple[str, float, float, list[str]]:
    """Runs what a cell lacks and writes it; returns (status, seconds compiling, seconds running, warnings).
    What it raises becomes a failed cell with its traceback, and what was there stays. `progress` is called
    with the share of the cell that is done."""
    from bench import loop, simulate

    before = store.read_cell(cell.folder) or {}
    record = {
        "format": store.FORMAT, "objective": cell.objective.label, "label": cell.label,
        "strategy": cell.strategy.name, "settings": cell.settings,
        "budgets": before.get("budgets") or [],
        "trainings": before.get("trainings", 0.0), "raised": before.get("raised", 0),
        "compile_s": before.get("compile_s", 0.0), "run_s": before.get("run_s", 0.0),
        "versions": versions(), "device": device(),
    }  # fmt: skip
    # What the traces that are there must be read with, should this run fail before it is known again.
    told = ("max_epoch", "fidelity", "scale", "anytime", "needs", "describe", "fair_note")
    record |= {k: before[k] for k in told if before.get(k) is not None}
    compile_s = run_s = 0.0
    warnings: list[str] = []
    try:
        objective = catalogue.build(cell.objective.settings)
        record |= {k: getattr(objective, k) for k in ("max_epoch", "fidelity", "scale")}
        wanted = work(cell)
        warnings += wanted.warnings
        record |= {"anytime": wanted.anytime, "needs": sorted(wanted.needs)}
        record["describe"] = {**(before.get("describe") or {}), **(wanted.describe or {})}
        if "stop" in wanted.needs and objective.max_epoch == 1:
            record["fair_note"] = "a formula has one epoch and nothing to stop: this is its first rung only"
        if not wanted.todo:  # nothing is run by these versions
            record |= {k: before[k] for k in ("versions", "device") if k in before}
        if wanted.reason:
            record |= {"status": store.NOT_APPLICABLE, "reason": wanted.reason}
        else:
            factory = catalogue.strategy_factory(cell.strategy.settings)
            compiled = hasattr(objective, "draw") and not loop.host_factory(factory) and not cell.debug
            settings: dict[str, Any] = dict(
                cluster=cell.cluster,
                first_instance=cell.first_instance,
                seeds_per_instance=cell.seeds_per_instance,
            )
            total = sum(budget * len(seeds) for budget, seeds in wanted.todo)
            done = 0.0
            for budget, seeds in wanted.todo:
                share = budget * len(seeds)

                def part(fraction: float, done=done, share=share) -> None:
                    if progress is not None:
                        progress((done + fraction * share) / total)

                settings["progress"] = part
                settings["hint"] = _hint(cell, objective, seeds) if wanted.finder else None
                if compiled:
                    run = simulate.simulate(factory, objective, seeds=seeds, budget=budget, **settings)
                else:
                    run = loop.run(
                        factory, objective, seeds=seeds, budget=budget, debug=cell.debug, **settings
                    )
                about = {"versions": record["versions"], "device": record["device"]}
                if not cell.debug:
                    store.write_block(cell.folder, budget, run.trace, about)
                done += share
                record["trainings"] += share
                record["raised"] += len(run.errors)
                warnings += [
                    f"seed {s} job {j}: {text.strip().splitlines()[-1]}" for s, j, text in run.errors[:3]
                ]
                compile_s, run_s = compile_s + run.compile_s, run_s + run.run_s
            # Earlier budgets stay wanted: an anytime strategy is to be read at each of them, like a grid.
            record["budgets"] = sorted({*record["budgets"], *cell.budgets})
            record["status"] = store.COMPLETE
    except Exception as error:
        record |= {"status": store.FAILED, "error": traceback.format_exc()}
        warnings.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    record["compile_s"] += compile_s
    record["run_s"] += run_s
    if not cell.debug:
        store.write_json(cell.folder / "cell.json", record)
    return record["status"], compile_s, run_s, warnings


# Takes ("share", label of the cell, share done) or ("done", label, line, notes, whether it ran).
Say = Callable[[tuple], None]


def _run_objective(group: list[Cell], cache: str, say: Say) -> None:
    """One objective's cells, and its reference."""
    import numpy as np

    from bench.drive import instances_of
    from bench.reference import reference_table

    _use_cache(cache)
    for cell in group:
        name = f"{cell.objective.label:<20} {cell.label:<24}"
        said = 0.0

        def share(done: float, name=name) -> None:
            nonlocal said
            if time.monotonic() - said > 0.2:
                said = time.monotonic()
                say(("share", name, done))

        status, compile_s, run_s, warnings = run_cell(cell, share)
        what = f"{compile_s + run_s:6.1f} s ({compile_s:.1f} compiling)" if compile_s + run_s else ""
        if status == store.COMPLETE:
            what = what or "already complete"
        else:
            what = status
        say(("done", name, what, warnings, bool(compile_s + run_s)))
    cell = group[0]
    if cell.debug:
        return
    try:
        objective = catalogue.build(cell.objective.settings)
        seeds = np.arange(max(c.seeds for c in group))
        instances = instances_of(seeds, cell.first_instance, cell.seeds_per_instance)
        reference_table(objective, instances.tolist(), cell.folder.parent / "reference.parquet")
    except Exception as error:
        say(("done", "", f"{cell.objective.label}: no reference: {error}", [], False))


def cores() -> int:
    """Processes at a time unless it is said: more than four would want much memory."""
    return min(os.cpu_count() or 1, 4)


def _use_cache(folder: str) -> None:
    """Compiled programs are kept on disk: a second run does not compile again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "nearopt" / "jax")


class _Progress:
    """A line for each cell that ends; under them, where a person looks on, a bar of what is done."""

    def __init__(self, total: int):
        from tqdm import tqdm

        self.total, self.done, self.shares, self.ran = total, 0, {}, False
        self.bar = tqdm(
            total=float(total),
            disable=None,
            leave=False,
            bar_format="{percentage:3.0f} % |{bar:40}| {elapsed}",
        )

    def __call__(self, message: tuple) -> None:
        kind, name, *rest = message
        if kind == "share":
            self.shares[name] = rest[0]
        else:
            what, notes, ran = rest
            self.ran |= ran
            self.shares.pop(name, None)
            self.done += bool(name)
            line = f"[{self.done:>3}/{self.total}] {name} {what}" if name else what
            for text in [line, *(f"          {note}" for note in notes)]:
                self.bar.write(text)
            sys.stdout.flush()
        self.bar.n = self.done + sum(self.shares.values())
        self.bar.refresh()


_put: Any = None  # in a worker process: what its messages go through


def _start_process(put: Say) -> None:
    global _put
    _put = put


def _process(group: list[Cell], cache: str) -> None:
    _run_objective(group, cache, _put)


def _run_parallel(groups: list[list[Cell]], processes: int, say: Say) -> None:
    """Objectives in processes of their own; what they say is said here."""
    # One thread each: several compiled programs on a few cores would only get in each other's way.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    messages: Any = get_context("spawn").Queue()
    try:
        with pool(processes, _start_process, messages.put) as workers:
            left = {workers.submit(_process, group, cache_folder()) for group in groups}
            while left or not messages.empty():
                try:
                    say(messages.get(timeout=0.1))
                except queue.Empty:
                    ended = {future for future in left if future.done()}
                    for future in ended:
                        future.result()
                    left -= ended
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps for want of memory; finished cells are kept: "
            "the same command with processes=1 completes the rest"
        ) from None


def run(*experiments: Experiment, only: Callable[[Cell], bool] = lambda cell: True) -> bool:
    """Runs what is missing, one line a cell; returns whether no cell failed. Several experiments that share a
    folder are run as one, so that no core waits for the end of each; `only`: which of their cells. Raises
    KeyboardInterrupt with every finished cell kept."""
    todo = [cell for experiment in experiments for cell in cells(experiment) if only(cell)]
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    clock = time.perf_counter()
    groups: dict[str, list[Cell]] = {}
    for cell in todo:
        groups.setdefault(cell.objective.label, []).append(cell)
    # The longest first, so that no process is left with it at the end: real training, then long curves.
    order = sorted(groups.values(), key=lambda group: -sum(_weight(cell) for cell in group))
    first = experiments[0]
    processes = first.processes or cores()
    processes = 1 if first.debug else min(processes, len(order))
    progress = _Progress(len(todo))
    try:
        if processes == 1:
            for group in order:
                _run_objective(group, cache_folder(), progress)
        else:
            _run_parallel(order, processes, progress)
    finally:
        progress.bar.close()
    record = first.folder / "experiment.json"
    if not first.debug and (progress.ran or not record.exists()):
        objectives = [o.label for experiment in experiments for o in experiment.objectives]
        about = {
            "name": first.name, "seeds": max(e.seeds for e in experiments),
            "budgets": sorted({b for e in experiments for b in e.budgets}),
            "per_objective": {k: v for e in experiments for k, v in e.per_objective.items()},
            "objectives": list(dict.fromkeys(objectives)),
            "strategies": list(dict.fromkeys(c.label for c in todo)), "versions": versions(),
            "started": started, "wall_s": round(time.perf_counter() - clock, 1), "processes": processes,
            "command": " ".join(["nearopt", *sys.argv[1:]]), "nearopt": __version__,
        }  # fmt: skip
        store.write_json(record, about)
    return all((store.read_cell(c.folder) or {}).get("status") != store.FAILED for c in todo)


def _weight(cell: Cell) -> float:
    """A guess of how long an objective takes: real training above all, then epochs."""
    try:
        objective = catalogue.build(cell.objective.settings)
    except UserError:
        return 0.0
    loop = 1000.0 if hasattr(objective, "chunk") else 1.0
    return loop * getattr(objective, "max_epoch", 1) * max(cell.budgets) * cell.seeds
