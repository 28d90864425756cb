"""The stored search behind a real task's reference: its optimum and the spread of random configurations.

The best constant configuration is chosen on one half of many fresh seeds and splits and valued on the other
half, so that the luck of the choice does not make the optimum look lower than it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT_SEED = 20_240_607  # of every draw here; experiments start from other roots
# bench.reference.LEVELS, which tasks may not import; a test keeps the two equal
LEVELS: tuple[float, ...] = (*np.geomspace(1e-4, 0.1, 31).tolist(), *np.linspace(0.15, 1.0, 18).tolist())


def load(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The stored table of a task; ValueError, naming the command, if none is stored for these settings."""
    file = resources.files("bench.tasks").joinpath("reference", f"{name}.json")
    remake = f"make it with: nearopt reference objective={name}"
    if not file.is_file():
        raise ValueError(f"no reference is stored for {name}; {remake}")
    table = json.loads(file.read_text())
    for setting, value in settings.items():
        if table["settings"].get(setting) != value:
            stored = table["settings"].get(setting)
            raise ValueError(f"the stored reference of {name} has {setting}={stored}, got {value}; {remake}")
    return table


def _compile(objective: Any, lanes: int, chunk: int) -> Callable:
    def begin(key):
        split_key, trial_key = jax.random.split(key)
        instance = objective.draw(split_key)
        return instance, trial_key, objective.init(instance, trial_key)

    def advance(state, x, start):
        instance, key, checkpoint = state
        hp = objective.space.decode_array(x)
        until = jnp.minimum(start + chunk, objective.max_epoch).astype(jnp.int32)
        checkpoint, loss, true_loss = objective.train(instance, key, checkpoint, hp, start, until)
        return (instance, key, checkpoint), loss, true_loss

    begin_all = jax.jit(jax.vmap(begin))
    advance_all = jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))

    def run(x: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Validation and test losses f64[rows, stops] of x f32[rows, d], each row with a seed and split of
        its own, at every `chunk` epochs and at the last."""
        told, true = [], []
        root = jax.random.key(ROOT_SEED, impl="threefry2x32")
        for first in range(0, len(x), lanes):
            rows = np.minimum(np.arange(first, first + lanes), len(x) - 1)
            keys = jax.vmap(lambda seed: jax.random.fold_in(root, seed))(jnp.asarray(seeds[rows], jnp.uint32))
            state, curve = begin_all(keys), []
            for start in range(0, objective.max_epoch, chunk):
                state, loss, true_loss = advance_all(state, jnp.asarray(x[rows]), jnp.int32(start))
                curve.append((np.asarray(loss), np.asarray(true_loss)))
            fresh = min(lanes, len(x) - first)
            told.append(np.stack([loss for loss, _ in curve], 1)[:fresh])
            true.append(np.stack([true_loss for _, true_loss in curve], 1)[:fresh])
        return np.concatenate(told), np.concatenate(true)

    return run


def make_table(
    objective: Any,
    settings: Mapping[str, Any],
    share: float = 1.0,
    random: int = 2048,
    better: int = 256,
    survivors: int = 64,
    repeats: int = 8,
    rounds: int = 3,
    finalists: int = 16,
    final_repeats: int = 64,
) -> dict[str, Any]:
    """Samples and searches; the result is what `load` reads.

    `random` configurations are trained with one seed and split each; the best `better` by test loss with
    `repeats` fresh ones, the best `survivors` of those with `final_repeats` / 2 fresh ones again. Each counts
    with its last mean at max_epoch (diverged: worst), so the quantiles are of what a configuration is worth
    over seeds and splits, as the optimum is, and not of lucky splits.

    The `survivors` best by validation, and in each of `rounds` as many perturbations of the best so far, are
    trained with `repeats` fresh seeds and splits and ranked by their mean validation loss at the epoch where
    that is lowest. The best `finalists` are retrained with `final_repeats` fresh seeds and splits:
    configuration and epoch are chosen by the mean test loss on one half and valued on the other half, on
    which the best random configurations are valued too. But for the first sample, all configurations of a
    step share their seeds and splits: good ones differ by less than the luck of a split.

    `share` takes that part of the counts of configurations, where a training is dear; repeats stay.
    """
    random, better, survivors, finalists = (
        max(round(share * count), 4) for count in (random, better, survivors, finalists)
    )
    sizes = (random, better, survivors, repeats, rounds, finalists, final_repeats)
    with jax.enable_x64(True):
        return _make_table(objective, settings, *sizes)


def _make_table(objective, settings, random, better, survivors, repeats, rounds, finalists, final_repeats):
    cube = objective.space.cube()
    lanes, chunk = getattr(objective, "pool", 64), getattr(objective, "chunk", objective.max_epoch)
    run = _compile(objective, lanes, chunk)
    draw = np.random.default_rng(ROOT_SEED)
    half = final_repeats // 2
    trainings = 0

    def score(points, seeds):
        """Losses f64[points, seeds, stops], told and true, of each point with each seed."""
        nonlocal trainings
        x, count = np.repeat(points, len(seeds), axis=0), (len(points), len(seeds), -1)
        trainings += len(x)
        told, true = run(x, np.tile(seeds, len(points)))
        return told.reshape(count), true.reshape(count)

    given = 0

    def fresh(copies):
        nonlocal given
        given += copies
        return given - copies + np.arange(copies)

    def fix(x):
        return np.asarray(cube.fix(jnp.asarray(x, jnp.float32)))

    def worth(told):
        """A configuration's mean validation loss at its best common epoch; not finite is worst."""
        return np.where(np.isfinite(told), told, np.inf).mean(axis=1).min(axis=1)

    points = fix(draw.random((random, cube.width)))
    told, true = (losses[:, None] for losses in run(points, fresh(random)))
    trainings += random

    def ends(true):
        """Mean test loss f64[points] at max_epoch; not finite is worst."""
        return np.where(np.isfinite(true[..., -1]), true[..., -1], np.inf).mean(axis=1)

    first, value = worth(told), ends(true)
    chosen_on, valued_on = fresh(half), fresh(half)
    for count, seeds in ((better, fresh(repeats)), (survivors, valued_on)):
        rows = np.argsort(value, kind="stable")[:count]
        value[rows] = ends(score(points[rows], seeds)[1])
    ordered = np.sort(value)
    quantiles = ordered[np.clip(np.ceil(np.array(LEVELS) * random - 1e-9).astype(int) - 1, 0, random - 1)]

    pool = points[np.argsort(first, kind="stable")[:survivors]]
    shared = fresh(repeats)
    value = worth(score(pool, shared)[0])
    for number in range(rounds):
        parents = pool[np.argsort(value, kind="stable")[:finalists]][draw.integers(0, finalists, survivors)]
        step = 0.1 * 0.6**number
        children = fix(parents + step * draw.standard_normal(parents.shape))
        pool = np.concatenate([pool, children])
        value = np.concatenate([value, worth(score(children, shared)[0])])

    best = pool[np.argsort(value, kind="stable")[:finalists]]
    true = score(best, np.concatenate([chosen_on, valued_on]))[1]
    chosen = np.unravel_index(true[:, :half].mean(axis=1).argmin(), true[:, 0].shape)
    judged = true[chosen[0], half:, chosen[1]]
    epoch = min((int(chosen[1]) + 1) * chunk, objective.max_epoch)
    config = objective.space.decode(best[chosen[0]])
    shown = ", ".join(f"{name}={v if isinstance(v, str) else f'{v:.3g}'}" for name, v in config.items())
    how = (
        f"quantiles: mean test loss at epoch {objective.max_epoch} of {random} uniform random "
        f"configurations, each with its own seed and split, the best {better} with {repeats} shared ones, "
        f"the best {survivors} of those with the {half} on which the optimum is valued; diverged = worst. "
        f"optimum_static: the best {survivors} by validation and {rounds} rounds of {survivors} "
        f"perturbations of the best {finalists} so far, with {repeats} shared seeds and splits; the best "
        f"{finalists} retrained with {2 * half} others; configuration and epoch chosen by mean test loss on "
        f"{half}, valued on the other {half}: {shown}, epoch {epoch}; standard error "
        f"{judged.std(ddof=1) / np.sqrt(len(judged)):.4f}, standard deviation over seeds and splits "
        f"{judged.std(ddof=1):.4f}. {trainings} trainings."
    )
    return {
        "how": how,
        "settings": dict(settings),
        "optimum_static": float(judged.mean()),
        "optimum_dynamic": None,
        "levels": [float(level) for level in LEVELS],
        "quantiles": [float(q) if np.isfinite(q) else None for q in quantiles],  # None: diverged
    }
