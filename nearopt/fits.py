"""A recorded objective against the surrogate fitted to it: are good configurations the same ones, and does a
comparison of strategies end alike on both?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nearopt import catalogue
from nearopt.recording import program

STRATEGIES = ("random", "gp", "hyperband", "asha", "successive_halving", "pbt")
BUDGET, SEEDS = 8.0, 12
ASKED = 4096  # random configurations whose best, by the surrogate, is trained on the task
FRESH, RETRAINED = 100, 16  # seeds of the retraining: the first, and how many; none of them was recorded
INSTANCES = 500  # the first of the comparison's: developing instances, but no recorded ones


def _mean_loss(run: Any, x: np.ndarray) -> tuple[float, float]:
    """Mean true loss of a configuration f32[d] at max_epoch over fresh seeds, and its standard error."""
    n = RETRAINED
    seeds, points = np.arange(FRESH, FRESH + n, dtype=np.uint32), np.repeat(x[None], n, 0).astype(np.float32)
    trial, none = np.zeros(n, np.uint32), np.full(n, np.iinfo(np.int32).max, np.int32)
    loss = run(seeds, trial, points, points, none, trial)["true_loss"][:, -1].astype(np.float64)
    return float(loss.mean()), float(loss.std(ddof=1) / np.sqrt(n))


def _best(objective: Any, fitted: Any, folder: Path) -> list[tuple[str, str]]:
    """What the surrogate's best configuration is worth on the task, beside the best recorded one."""
    import jax
    import jax.numpy as jnp
    import pandas as pd

    x = np.random.default_rng(11).random((ASKED, objective.space.dimension)).astype(np.float32)
    with jax.enable_x64(True):
        key, end = jax.random.key(0, impl="threefry2x32"), jnp.int32(fitted.max_epoch)

        def true_loss(u):
            hp = fitted.space.decode_array(u)
            return fitted.train((), key, fitted.init((), key), hp, jnp.int32(0), end)[2]

        predicted = np.asarray(jax.lax.map(jax.jit(true_loss), jnp.asarray(x), batch_size=512))
    table = pd.read_parquet(folder / "curves.parquet")
    # Of validation and test, since two tests alone leave much to luck.
    ends = table.assign(end=[a[-1] + b[-1] for a, b in zip(table["loss"], table["true_loss"], strict=True)])
    recorded: Any = ends.groupby("configuration")["end"].mean()
    row = table[table["configuration"] == recorded.idxmin()].iloc[0]
    config = {name: _plain(row[f"hp_{name}"]) for name in objective.space.names}
    run = program(objective, min(int(getattr(objective, "pool", 64)), RETRAINED))
    picked, picked_error = _mean_loss(run, x[int(np.argmin(predicted))])
    known, known_error = _mean_loss(run, objective.space.encode(config)[: objective.space.dimension])
    text = (
        f"its best of {ASKED} random configurations has a loss of {picked:.4g} +- {picked_error:.2g} on the "
        f"task ({RETRAINED} fresh seeds), where it says {predicted.min():.4g}; the best recorded one of "
        f"{len(recorded)} has {known:.4g} +- {known_error:.2g}"
    )
    return [("best", text)]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def final_losses(objective: Any, strategy: str) -> np.ndarray:
    """True losses f64[seeds] of a strategy's last incumbents."""
    from bench.metrics import incumbents
    from bench.simulate import simulate

    factory = catalogue.strategy_factory(catalogue.entry("strategy", strategy).settings)
    trace = simulate(factory, objective, seeds=range(SEEDS), budget=BUDGET, first_instance=INSTANCES).trace
    found = []
    for _, run in trace.groupby("seed"):
        loss, until = (run[c].to_numpy()[None] for c in ("loss", "until"))
        last = int(incumbents(loss, until, objective.fidelity)[0, -1])
        found.append(float(run["true_loss"].iloc[last]) if last >= 0 else np.inf)
    return np.array(found)


def _orders(objective: Any, fitted: Any) -> list[tuple[str, str]]:
    """Whether strategies end in the same order on both."""
    from bench.describe import spearman
    from bench.protocols import lacking

    means: dict[str, list[float]] = {}
    for name in STRATEGIES:
        settings = catalogue.entry("strategy", name).settings
        made = catalogue.strategy_factory(settings)(
            cube=objective.space.cube(), max_epoch=objective.max_epoch, budget=BUDGET
        )
        if any(lacking(made.needs, o.offers, o.max_epoch) for o in (objective, fitted)):
            continue
        means[name] = [float(np.median(final_losses(o, name))) for o in (objective, fitted)]
    real, modelled = np.array(list(means.values())).T
    listed = ", ".join(f"{n} {a:.4g} ({b:.4g})" for n, (a, b) in sorted(means.items(), key=lambda p: p[1][0]))
    return [
        (
            "strategies",
            f"correlation {spearman(real, modelled):.2f} of the median final losses of {len(means)} at a "
            f"budget of {BUDGET:g}, {SEEDS} seeds: on the task (on the surrogate)",
        ),
        ("", listed),
    ]


def compare(objective: Any, fitted: Any, folder: Path) -> list[tuple[str, str]]:
    """Trains on both: seconds to minutes. Returns what was found, as (what, value)."""
    return [*_best(objective, fitted, folder), *_orders(objective, fitted)]
