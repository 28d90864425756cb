"""Trainings a second of a real task's lanes beside one at a time: `nearopt speed train=digits,width=64`.

Everybody trains the same network, the task's at its largest, on the same examples with its default
configuration: the same batches, dropout, clipping, decay and schedule. Ours is the driver's whole work for
the strategy `defaults`, compiling apart. Peers: a loop in JAX, an epoch of which is one jitted scan over its
batches with optax, and PyTorch, also without clipping, decay and schedule (*bare*). Peers evaluate once, at
the end. On a CPU ours are as many processes as cores, as a sweep's cells are; a peer has all cores and the
number of threads that serves it best. On a GPU everybody has one process.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import pool
from nearopt import catalogue
from nearopt.catalogue import Entry, UserError, nearest
from nearopt.commands import speed

KEYS = ("train", "cores", "lanes", "seconds", "name")
OURS, JAX, TORCH, BARE = "nearopt", "JAX, one at a time", "PyTorch", "PyTorch, bare"
ASKED = {"cpu": 5.0, "gpu": 200.0}  # times PyTorch's trainings a second that are asked for
SIDE, LENGTH = 1024, 2**26  # of the matrices and of the array by which a device's limits are measured
BYTES = 40.0  # of a step and weight: the two moments, the total and the weight are read and written, the
# gradient written and read, 4 bytes each


@dataclass(frozen=True)
class Throughput:
    """One line of the table. status: measured, or why not · trainings: that were timed · processes, threads:
    side by side, and of each · wall_ms, cpu_ms: of one training · per_second: of all processes · ratio: our
    trainings a second over its · loss: mean true loss at the end · compile_s: once, apart from the rest."""

    task: str
    trainer: str
    status: str = "measured"
    trainings: int = 0
    processes: int = 1
    threads: int = 1
    wall_ms: float = math.nan
    cpu_ms: float = math.nan
    per_second: float = math.nan
    ratio: float = math.nan
    loss: float = math.nan
    compile_s: float = math.nan


@dataclass(frozen=True)
class Limit:
    """What a device allows. device: its kind · operations, bytes: of one training, counted · arithmetic,
    bandwidth: operations and bytes a second of one process, as a large product of f32 matrices and a large
    sum of f32 arrays reach them · share: of the nearer limit that our trainings reach."""

    task: str
    device: str
    operations: float
    bytes: float
    arithmetic: float
    bandwidth: float
    share: float = math.nan


# In the measuring process -------------------------------------------------------------------------------


def _default(objective: Any) -> dict[str, Any]:
    """The default configuration as a program gets it, and by name."""
    import jax.numpy as jnp

    x = objective.space.encode({})
    return {"hp": objective.space.decode_array(jnp.asarray(x)), "named": objective.space.decode(x)}


def measure_ours(settings: dict[str, Any], lanes: int) -> dict[str, float]:
    """Trains `lanes` lanes, twice: the first time compiles."""
    from bench.simulate import simulate

    objective = catalogue.build(settings)
    factory = catalogue.strategy_factory(catalogue.load("strategy", "defaults"))

    def run() -> Any:
        return simulate(factory, objective, seeds=range(lanes), budget=1.0)

    first = run()
    again, cpu, wall = speed._clocked(run)
    loss = float(np.mean(again.trace["true_loss"]))
    return {"trainings": lanes, "cpu": cpu, "wall": wall, "loss": loss, "compile_s": first.compile_s}


def _timed(train: Callable[[int], float], seconds: float) -> dict[str, float]:
    """Trainings with seeds 0, 1, ... until `seconds` are over, at least two, after one that is not timed."""
    clock = time.perf_counter()
    train(0)
    compiling = time.perf_counter() - clock
    losses, cpu, wall = [], time.process_time(), time.perf_counter()
    while len(losses) < 2 or time.perf_counter() - wall < seconds:
        losses.append(train(len(losses)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    counts = {"trainings": len(losses), "cpu": cpu, "wall": wall, "loss": float(np.mean(losses))}
    return counts | {"compile_s": compiling - wall / len(losses)}


def _parts(objective: Any, seed: int) -> tuple[Any, list[np.ndarray]]:
    """(split, batches i32[steps, batch] of each epoch), which peers are given: they do not shuffle."""
    import jax
    import jax.numpy as jnp

    from bench.drive import instance_key

    split = jax.tree.map(np.asarray, objective.draw(instance_key(jnp.uint32(seed))))
    batch = _default(objective)["named"]["batch_size"]
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(split.training).reshape(-1, batch) for _ in range(objective.max_epoch)]
    return split, orders


def measure_jax(settings: dict[str, Any], seconds: float) -> dict[str, float]:
    """One training after the other, an epoch a jitted scan with optax."""
    import jax
    import jax.numpy as jnp
    import optax

    objective = catalogue.build(settings)
    hp, named = (_default(objective)[key] for key in ("hp", "named"))
    inputs, labels = (jax.device_put(a) for a in objective.examples())
    steps = objective.max_epoch * objective.training // named["batch_size"]
    peak, warm = named["learning_rate"], round(named["warm_up"] * steps)
    rates = optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps, named["final_rate"] * peak)
    network = objective.network
    form = jax.eval_shape(network.init, jax.random.key(0))
    decayed = jax.tree.map(lambda leaf: len(leaf.shape) > 1, form)
    optimiser = optax.chain(
        optax.clip_by_global_norm(named["clip"]),
        optax.add_decayed_weights(named["weight_decay"], decayed),
        optax.adam(rates),
    )
    keep = 1.0 - named.get("dropout", 0.0)

    @jax.jit
    def epoch(params: Any, state: Any, key: Any, rows: Any) -> Any:
        def step(carry: Any, xs: Any) -> Any:
            params, state = carry
            rows, key = xs

            def dropout(place: int, hidden: Any) -> Any:
                mask = jax.random.bernoulli(jax.random.fold_in(key, place), keep, hidden.shape)
                return jnp.where(mask, hidden / keep, 0.0)

            smoothing = jnp.float32(named.get("label_smoothing", 0.0))
            gradient = jax.grad(objective.loss)(params, inputs[rows], labels[rows], smoothing, dropout)
            change, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(step, (params, state), (rows, jax.random.split(key, rows.shape[0])))[0]

    @jax.jit
    def begin(key: Any) -> Any:
        params = network.begin(network.init(key), hp)
        return params, optimiser.init(params)

    @jax.jit
    def final(params: Any, rows: Any) -> Any:
        return objective.loss(params, inputs[rows], labels[rows], jnp.float32(0.0), lambda place, a: a)

    prepared = [_parts(objective, seed) for seed in range(4)]  # before the clock starts

    def train(seed: int) -> float:
        split, orders = prepared[seed % len(prepared)]
        key = jax.random.key(seed)
        params, state = begin(key)
        for number, rows in enumerate(orders):
            params, state = epoch(params, state, jax.random.fold_in(key, number), rows)
        return float(final(params, split.test))

    return _timed(train, seconds)


def _torch_network(objective: Any) -> Any:
    """The task's network as a PyTorch module; raises UserError for one that has none here."""
    torch = import_module("torch")
    nn = torch.nn
    network = objective.network
    dropout = _default(objective)["named"].get("dropout", 0.0)
    if objective.model == "logistic":
        layer = nn.Linear(network.inputs, network.outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.Flatten(), layer)
    if objective.model != "mlp":
        raise UserError(f"no {objective.model} is written for PyTorch here")

    class Branch(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width, bias=False)
            self.drop = nn.Dropout(dropout)
            nn.init.kaiming_normal_(self.inner.weight)
            nn.init.zeros_(self.outer.weight)

        def forward(self, hidden: Any) -> Any:
            return hidden + self.outer(self.drop(torch.relu(self.inner(hidden))))

    depth = _default(objective)["named"].get("depth", network.blocks)
    width = _default(objective)["named"].get("width", network.width)
    first, last = nn.Linear(network.inputs, width), nn.Linear(width, network.outputs)
    nn.init.kaiming_normal_(first.weight)
    nn.init.normal_(last.weight, std=width**-0.5)
    for layer in (first, last):
        nn.init.zeros_(layer.bias)
    branches = [Branch(width) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(dropout), *branches, last)


def measure_torch(settings: dict[str, Any], seconds: float, threads: int, bare: bool) -> dict[str, float]:
    """One training after the other by PyTorch's own Adam, fused."""
    torch = import_module("torch")
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    objective = catalogue.build(settings)
    named = _default(objective)["named"]
    inputs, labels = (torch.as_tensor(np.array(a), device=device) for a in objective.examples())
    regression = labels.dtype == torch.float32
    labels = labels if regression else labels.long()
    steps = objective.max_epoch * objective.training // named["batch_size"]
    peak, final = named["learning_rate"], named["final_rate"]
    warm = max(round(named["warm_up"] * steps), 1)

    def loss_of(net: Any, rows: Any) -> Any:
        outputs = net(inputs[rows])
        if regression:
            return torch.nn.functional.mse_loss(outputs[:, 0], labels[rows])
        return torch.nn.functional.cross_entropy(outputs, labels[rows])

    prepared = []
    for seed in range(4):
        split, orders = _parts(objective, seed)
        rows = [torch.as_tensor(order.astype(np.int64), device=device) for order in orders]
        prepared.append((torch.as_tensor(split.test.astype(np.int64), device=device), rows))

    def train(seed: int) -> float:
        torch.manual_seed(seed)
        net = _torch_network(objective).to(device)
        decay = 0.0 if bare else named["weight_decay"]
        matrices = [p for p in net.parameters() if p.ndim > 1]
        rest = [p for p in net.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": rest}]
        optimiser = torch.optim.Adam(groups, lr=peak, fused=True)
        test, orders = prepared[seed % len(prepared)]
        step = 0
        for order in orders:
            for rows in order:
                step += 1
                optimiser.zero_grad()
                loss_of(net, rows).backward()
                if not bare:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), named["clip"])
                    past = max(step - warm, 0) / max(steps - warm, 1)
                    fall = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * past))
                    for group in optimiser.param_groups:
                        group["lr"] = peak * min(step / warm, 1.0) * fall
                optimiser.step()
        net.eval()
        with torch.no_grad():
            return float(loss_of(net, test))

    return _timed(train, seconds)


def measure_limit(settings: dict[str, Any]) -> dict[str, Any]:
    """The device's arithmetic and bandwidth, and what one training needs of both."""
    import jax
    import jax.numpy as jnp

    objective = catalogue.build(settings)
    with jax.enable_x64(True):
        work = [float(part) for part in objective.network.work({})]  # the largest network: zeros cost too
        steps = objective.training / objective.micro_batch
    first, rest, weights = work
    operations = objective.training * (4.0 * first + 6.0 * rest) + 12.0 * weights * steps
    row = math.prod(np.shape(objective.examples().inputs)[1:])
    moved = BYTES * weights * steps + 4.0 * objective.training * row

    def best(call: Callable[[], Any]) -> float:
        call()
        return min(speed._clocked(call)[2] for _ in range(5))

    product = jax.jit(lambda a: a @ a)
    square = jnp.full((SIDE, SIDE), 1e-3, jnp.float32)
    total = jax.jit(lambda a: a + 1.0)
    long = jnp.zeros((LENGTH,), jnp.float32)
    device = jax.devices()[0]
    return {
        "device": device.platform if device.platform == "cpu" else device.device_kind,
        "operations": operations * objective.max_epoch * objective.folds,
        "bytes": moved * objective.max_epoch * objective.folds,
        "arithmetic": 2.0 * SIDE**3 / best(lambda: product(square).block_until_ready()),
        "bandwidth": 8.0 * LENGTH / best(lambda: total(long).block_until_ready()),
    }


# Who is measured ----------------------------------------------------------------------------------------


def _bind(first: int, cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[first : first + cores]))


@contextmanager
def processes(count: int, cores: int) -> Iterator[list[Callable[..., Any]]]:
    """`count` processes of `cores` cores each, as functions that call there."""
    threads = {name: "" if name == "XLA_FLAGS" else str(cores) for name in speed.THREADS}
    os.environ.update(speed.THREADS if cores == 1 else threads)
    with ExitStack() as stack:
        pools = [stack.enter_context(pool(1, _bind, i * cores, cores)) for i in range(count)]
        yield [lambda f, *a, pool=pool: pool.submit(f, *a).result() for pool in pools]


def _together(calls: list[Callable[..., Any]], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The function's results in all processes, called at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(function, *arguments), calls))


def _row(task: str, trainer: str, threads: int, found: list[dict[str, float]]) -> Throughput:
    trainings = int(sum(f["trainings"] for f in found))
    return Throughput(
        task, trainer, trainings=trainings, processes=len(found), threads=threads,
        wall_ms=1e3 * float(np.mean([f["wall"] / f["trainings"] for f in found])),
        cpu_ms=1e3 * sum(f["cpu"] for f in found) / trainings,
        per_second=sum(f["trainings"] / f["wall"] for f in found),
        loss=float(np.mean([f["loss"] for f in found])),
        compile_s=max(f["compile_s"] for f in found),
    )  # fmt: skip


def _try(task: str, trainer: str, measure: Callable[[], Throughput]) -> Throughput:
    try:
        return measure()
    except ImportError:
        return Throughput(task, trainer, "not installed")
    except Exception as error:  # the other rows must not be lost
        return Throughput(task, trainer, f"not measured: {speed._line(error)}")


def measure(entry: Entry, lanes: int, cores: int, seconds: float) -> tuple[list[Throughput], Limit]:
    """All lines of one task."""
    settings, task = entry.settings, entry.label
    gpu = speed._accelerated()
    alone = 1 if gpu else cores
    peers = ((JAX, measure_jax, ()), (TORCH, measure_torch, (1, False)), (BARE, measure_torch, (1, True)))

    def beside(call: Callable[..., Any], threads: int) -> list[Throughput]:
        found = []
        for name, function, more in peers:
            more = (threads, *more[1:]) if more else ()
            job = partial(call, function, settings, seconds, *more)
            found.append(_try(task, name, lambda job=job, name=name: _row(task, name, threads, [job()])))
        return found

    with processes(alone, 1) as calls:
        limit = Limit(task, **calls[0](measure_limit, settings))
        ours = _try(task, OURS, lambda: _row(task, OURS, 1, _together(calls, measure_ours, settings, lanes)))
        rows = beside(calls[0], 1)
    if alone > 1:  # the same peers with all cores: each keeps what served it better
        with processes(1, cores) as (call,):
            wide = beside(call, cores)
        rows = [b if b.per_second > a.per_second else a for a, b in zip(rows, wide, strict=True)]
    rows = [replace(row, ratio=ours.per_second / row.per_second) for row in rows]
    nearer = min(limit.arithmetic / limit.operations, limit.bandwidth / limit.bytes if gpu else math.inf)
    limit = replace(limit, share=ours.per_second / ours.processes / nearer)
    return [ours, *rows], limit


def read(words: list[str]) -> tuple[list[Entry], dict[str, Any]]:
    """(tasks, settings) that the words ask for; raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KEYS:
            raise UserError(f"train measures no races: no setting {key!r}{nearest(key, KEYS)}")
        given[key] = value
    text = given["train"]
    whole = text.startswith("[") and text.endswith("]")
    texts = catalogue.split(text[1:-1] if whole else text)
    if not all(texts):
        raise UserError(f"train must be real tasks, got {text!r}")
    entries = catalogue.entries("objective", texts)
    for entry in entries:
        if "model" not in entry.settings or "micro_batch" not in entry.settings:
            raise UserError(f"train must be real tasks, which {entry.label} is not")
        catalogue.build(entry.settings)
    settings: dict[str, Any] = {"name": given.get("name", "throughput")}
    if Path(settings["name"]).name != settings["name"] or settings["name"] in ("", ".", ".."):
        raise UserError(f"name must be a folder's name, got {settings['name']!r}")
    for key, usual in (("cores", os.cpu_count() or 1), ("lanes", 0), ("seconds", 5)):
        value = speed._positive(key, given[key]) if key in given else float(usual)
        if key != "seconds" and value != int(value):
            raise UserError(f"{key} must be a whole number, got {given[key]!r}")
        settings[key] = value if key == "seconds" else int(value)
    return entries, settings


# The table ----------------------------------------------------------------------------------------------


def markdown(rows: list[Throughput], limits: list[Limit], about: dict[str, str]) -> str:
    """The table, what the numbers mean, the reckoning of the limits, and where they were measured."""
    number = speed._number
    lines = [
        ["task", "trained by", "processes x threads", "trainings", "trainings a second", "ms", "CPU ms",
         "ours, times as many", "test loss", "compile s"],
        [":--", ":--", "--:", "--:", "--:", "--:", "--:", "--:", "--:", "--:"],
    ]  # fmt: skip
    for row in rows:
        if row.status != "measured":
            lines.append([row.task, row.trainer, row.status, *[""] * 7])
            continue
        cells = [
            number(v) for v in (row.per_second, row.wall_ms, row.cpu_ms, row.ratio, row.loss, row.compile_s)
        ]
        lines.append([row.task, row.trainer, f"{row.processes} x {row.threads}", str(row.trainings), *cells])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    reckoned = []
    for limit in limits:
        arithmetic = limit.arithmetic / limit.operations
        bandwidth = limit.bandwidth / limit.bytes
        said = (
            f"{limit.task} on {limit.device}: a training of the largest network takes "
            f"{limit.operations / 1e9:.3g} billion operations and moves {limit.bytes / 1e9:.3g} GB of "
            f"weights, moments, gradients and inputs. One process multiplies f32 matrices of {SIDE} at "
            f"{limit.arithmetic / 1e9:.3g} billion operations a second and streams "
            f"{limit.bandwidth / 1e9:.3g} GB a second, for {arithmetic:.3g} and {bandwidth:.3g} trainings."
        )
        if limit.device == "cpu":
            said += (
                f" Lanes of a block stay in a core's caches, so that arithmetic is the limit: reached are "
                f"{100 * limit.share:.0f} % of it."
            )
        else:
            said += f" Reached are {100 * limit.share:.0f} % of the smaller one."
        reckoned.append(said)
    notes = (
        "Milliseconds are of one training in one process; *ours, times as many*: our trainings a second of "
        f"all processes over a peer's. Asked: {ASKED['cpu']:g} times PyTorch on two cores with a perceptron "
        f"of width 64, {ASKED['gpu']:g} times on a GPU. Ours includes the driver and an evaluation every "
        "ninth of the training. *bare*: without clipping, decay and schedule."
    )
    where = "; ".join(f"{name} {value}" for name, value in about.items())
    return "\n\n".join([table, notes, *reckoned, f"Measured: {where}."]) + "\n"


def write(rows: list[Throughput], limits: list[Limit], about: dict[str, str], folder: Path) -> Path:
    """Writes throughput.csv, throughput_limits.csv and throughput.md, each whole."""
    import pandas as pd

    texts = {
        "throughput.csv": pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False),
        "throughput_limits.csv": pd.DataFrame([asdict(limit) for limit in limits]).to_csv(index=False),
        "throughput.md": markdown(rows, limits, about),
    }
    speed._write_whole(texts, folder)
    return folder / "throughput.md"


def main(words: list[str]) -> int:
    entries, settings = read(words)
    folder, about = Path("results") / settings["name"], speed.provenance()
    rows: list[Throughput] = []
    limits: list[Limit] = []
    for entry in entries:
        objective = catalogue.build(entry.settings)
        lanes = settings["lanes"] or max(64, objective.pool)
        found, limit = measure(entry, lanes, settings["cores"], settings["seconds"])
        rows += found
        limits.append(limit)
        for row in found:
            said = row.status
            if said == "measured":
                said = f"{speed._number(row.per_second)} trainings a second"
                said += f"; ours are {speed._number(row.ratio)} times as many" * (row.ratio == row.ratio)
            print(f"{row.task}, {row.trainer}: {said}", flush=True)
    path = write(rows, limits, about, folder)
    print(f"\n{path.read_text(encoding='utf-8')}\ntable: {path}")
    torch = [
        row
        for row in rows
        if row.trainer == TORCH and row.ratio < ASKED["gpu" if speed._accelerated() else "cpu"]
    ]
    if torch:
        print(f"{len(torch)} of {len(entries)} below what is asked", file=sys.stderr)
    return 0
