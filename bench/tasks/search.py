"""The stored search behind a real task's reference: its optimum and the spread of random configurations.

The best constant configuration is chosen on one half of many fresh seeds and splits and valued on the other
half, so that the luck of the choice does not make the optimum look lower than it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import isotonic_regression

from bench.protocols import LEVELS

ROOT_SEED = 20_240_607  # of every draw here; experiments start from other roots


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
    known: Mapping[str, Any] | None = None,
    random: int = 2048,
    better: int = 256,
    best: int = 32,
    survivors: int = 64,
    repeats: int = 8,
    rounds: int = 6,
    children: int = 48,
    finalists: int = 16,
    final_repeats: int = 64,
) -> dict[str, Any]:
    """Samples and searches; the result is what `load` reads.

    Two sets of `final_repeats` / 2 seeds and splits are set apart: what is valued on one was chosen on the
    other, so that no value is the luck of its choice.

    `random` configurations are trained with one seed and split each, the `better` best by test loss with
    `repeats` fresh ones, the `best` of those with both sets: ordered by the one, valued on the other, and
    neighbours out of order pooled. Each counts with its last mean at max_epoch (diverged: worst), so the
    quantiles are of what a configuration is worth over seeds and splits, as the optimum is.

    The `survivors` best by validation, with the configuration `known` to be good, and in each of `rounds`
    `children` of the best `finalists` so far (perturbed, half of them mixed of two) are trained with
    `repeats` fresh seeds and splits and ranked by their mean validation loss at the epoch where that is
    lowest. The best `finalists` are trained with both sets: configuration and epoch are chosen by the mean
    test loss on the one and valued on the other. But for the first sample, all configurations of a step
    share their seeds and splits: good ones differ by less than the luck of a split.

    `known` is what an earlier search found: a remade optimum is never worse than the last for want of luck.
    `share` takes that part of the counts of configurations, where a training is dear; repeats stay.
    """
    counts = (random, better, best, survivors, children, finalists)
    shares = [max(round(share * count), 4) for count in counts]
    sizes = Sizes._make([*shares, repeats, rounds, final_repeats // 2])
    with jax.enable_x64(True):
        return _make_table(objective, settings, known, sizes)


class Sizes(NamedTuple):
    """The counts of `make_table`; half: seeds in each of the two sets."""

    random: int
    better: int
    best: int
    survivors: int
    children: int
    finalists: int
    repeats: int
    rounds: int
    half: int


def _make_table(
    objective: Any, settings: Mapping[str, Any], known: Mapping[str, Any] | None, sizes: Sizes
) -> dict[str, Any]:
    random, better, best, survivors, children, finalists, repeats, rounds, half = sizes
    cube = objective.space.cube()
    lanes, chunk = getattr(objective, "pool", 64), getattr(objective, "chunk", objective.max_epoch)
    run = _compile(objective, lanes, chunk)
    draw = np.random.default_rng(ROOT_SEED)
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
    sets = np.stack([fresh(half), fresh(half)])
    rows = np.argsort(value, kind="stable")[:better]
    value[rows] = ends(score(points[rows], fresh(repeats))[1])
    rows = np.argsort(value, kind="stable")[:best]
    true = score(points[rows], sets.ravel())[1]
    rows, true = (part[np.argsort(ends(true[:, :half]), kind="stable")] for part in (rows, true))
    value[rows] = isotonic(ends(true[:, half:]))
    ordered = np.sort(value)
    quantiles = ordered[np.clip(np.ceil(np.array(LEVELS) * random - 1e-9).astype(int) - 1, 0, random - 1)]

    pool = points[np.argsort(first, kind="stable")[:survivors]]
    if known:
        pool = np.concatenate([pool, fix(objective.space.encode(known)[None])])
    shared = fresh(repeats)
    value = worth(score(pool, shared)[0])
    for number in range(rounds):
        ahead = pool[np.argsort(value, kind="stable")[:finalists]]
        one, other = ahead[draw.integers(0, len(ahead), (2, children))]
        mixed = draw.random(one.shape) < np.where(np.arange(children) % 2, 0.5, 0.0)[:, None]
        step = 0.1 * 0.75**number
        born = fix(np.where(mixed, other, one) + step * draw.standard_normal(one.shape))
        pool = np.concatenate([pool, born])
        value = np.concatenate([value, worth(score(born, shared)[0])])

    finals = pool[np.argsort(value, kind="stable")[:finalists]]
    true = score(finals, sets.ravel())[1]
    mean = np.where(np.isfinite(true), true, np.inf)[:, :half].mean(axis=1)
    chosen = np.unravel_index(mean.argmin(), mean.shape)
    judged = true[chosen[0], half:, chosen[1]]
    epoch = min((int(chosen[1]) + 1) * chunk, objective.max_epoch)
    config = objective.space.decode(finals[chosen[0]])
    how = (
        f"quantiles: mean test loss at epoch {objective.max_epoch} of {random} uniform random "
        f"configurations, each with its own seed and split, the best {better} with {repeats} shared ones, "
        f"the best {best} of those ordered on {half} others and valued on the {half} on which the optimum "
        f"is; diverged = worst. optimum_static: the best {survivors} by validation"
        f"{', what an earlier search found' if known else ''} and {rounds} rounds of {children} children of "
        f"the best {finalists} so far, with {repeats} shared seeds and splits; configuration and epoch of "
        f"the best {finalists} chosen by mean test loss on {half} others, valued on another {half}: epoch "
        f"{epoch}; standard error {judged.std(ddof=1) / np.sqrt(len(judged)):.4f}, standard deviation over "
        f"seeds and splits {judged.std(ddof=1):.4f}. {trainings} trainings."
    )
    return {
        "how": how,
        "settings": dict(settings),
        "optimum_static": float(judged.mean()),
        "optimum_dynamic": None,
        "epoch": epoch,
        "config": {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in config.items()},
        "levels": [float(level) for level in LEVELS],
        "quantiles": [float(q) if np.isfinite(q) else None for q in quantiles],  # None: diverged
    }


def isotonic(values: np.ndarray) -> np.ndarray:
    """The closest nondecreasing f64[n] to values, by least squares; not finite stays at the end, as it is."""
    out, sound = np.sort(values), np.isfinite(values)
    if sound.any():
        out[: sound.sum()] = isotonic_regression(values[sound]).x
    return out
