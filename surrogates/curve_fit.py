"""How a surrogate is fitted to recorded trainings, and judged, on the host: see surrogates/fitted.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.space import Choice, Float, Int, Space

Arrays = Mapping[str, Any]  # of numpy arrays
KINDS = {"Float": Float, "Int": Int, "Choice": Choice}
COMPONENTS = 5  # of the curves
CAP = 0.95  # quantile of the losses after the first epoch
SEARCHED = 512  # configurations whose likelihood chooses the lengthscales; the fit itself uses all
ITERATIONS = 60
PAD = 128  # configurations are padded to a multiple, so that fits share a program
LEAST_NOISE = 1e-4  # of a process's variance: less would cost float32's digits
HELD_OUT = 5  # one configuration in so many is held out, to judge a fit to the others
TRUSTED = 0.8  # rank correlation on held-out forks from which on dynamics are offered
RIDGE = 1e-4  # on the coefficients of the dynamics


def space_of(axes: Mapping[str, Mapping[str, Any]]) -> Space:
    """The space that a recording's card describes."""
    return Space(
        {n: KINDS[a["kind"]](**{k: v for k, v in a.items() if k != "kind"}) for n, a in axes.items()}
    )


def features(space: Space, hp: Mapping[str, Any]) -> list[Any]:
    """What the processes see of hyperparameters as `space.decode_array` gives them: each number on the scale
    of its axis from -1 to 1, an unordered choice as one number a value."""
    found = []
    for name, axis in space.axes.items():
        value, (low, high) = jnp.asarray(hp[name]), axis.edges
        if isinstance(axis, Choice) and not axis.ordered:
            found += [jnp.where(value == k, 1.0, -1.0).astype(jnp.float32) for k in range(axis.levels)]
            continue
        value = value.astype(jnp.float32)
        value = jnp.log(value) if axis.log else value
        found.append(2.0 * (value - np.float32(low)) / np.float32(high - low) - 1.0)
    return found


def table_features(space: Space, table: Any) -> np.ndarray:
    """`features` of a recorded table, f64[rows, features]."""
    columns = {}
    for name, axis in space.axes.items():
        values = table[f"hp_{name}"].to_numpy()
        if isinstance(axis, Choice):
            values = np.array([axis.values.index(v) for v in values.tolist()], np.int32)
        columns[name] = values
    return np.stack([np.asarray(f, np.float64) for f in features(space, columns)], -1)


def _matern(a: Any, b: Any, scale: Any) -> Any:
    """Matern 5/2 kernel [n, m] of a [n, d], b [m, d] at inverse lengthscales [d]."""
    a, b = a * scale, b * scale
    square = (a * a).sum(-1)[:, None] + (b * b).sum(-1) - 2.0 * a @ b.T
    r = jnp.sqrt(jnp.maximum(5.0 * square, 1e-10))
    return (1.0 + r + r * r / 3.0) * jnp.exp(-r)


@jax.jit
def _evidence(parameters: Any, x: Any, y: Any, real: Any) -> Any:
    """Negative log marginal likelihood, with its gradient; parameters: log lengthscales [d], log variance,
    log noise. A wide prior about e keeps lengthscales of axes that do nothing from running away. Rows that
    are not `real` bool[n] are padding: independent, of variance 1 and value 0, and so without a say."""

    def value(p):
        kernel = jnp.exp(p[-2]) * _matern(x, x, jnp.exp(-p[:-2])) * (real[:, None] & real)
        own = jnp.where(real, jnp.exp(p[-1]) + LEAST_NOISE, 1.0)
        chol = jnp.linalg.cholesky(kernel + jnp.diag(own))
        half = jax.scipy.linalg.solve_triangular(chol, y, lower=True)
        return 0.5 * half @ half + jnp.log(jnp.diag(chol)).sum() + ((p[:-2] - 1.0) ** 2).sum() / 8.0

    return jax.value_and_grad(value)(parameters)


def fit_process(x: np.ndarray, y: np.ndarray) -> Arrays:
    """A Gaussian process of y f64[n], nan: unknown, at x f64[n, d]. scale f64[d], inverse lengthscales ·
    weights f64[n], 0 where y is unknown · offset f64[]; predicts offset + kernel(., x) @ weights."""
    from scipy.optimize import minimize

    known, every = np.isfinite(y), np.zeros(len(x))
    x, y = x[known], y[known]
    offset, spread = float(y.mean()), float(y.std())
    if spread < 1e-9:
        return {"scale": np.zeros(x.shape[1]), "weights": every, "offset": np.float64(offset)}
    z = (y - offset) / spread
    few = min(len(z), SEARCHED)
    pad = -few % PAD
    shown = np.pad(x[:few], ((0, pad), (0, 0))), np.pad(z[:few], (0, pad)), np.arange(few + pad) < few
    start = np.concatenate([np.ones(x.shape[1]), [0.0, np.log(0.1)]])

    def negative(p):
        value, slope = _evidence(p, *shown)
        return float(value), np.asarray(slope, np.float64)

    bounds = [(-2.5, 5.0)] * x.shape[1] + [(-4.0, 4.0), (-12.0, 2.0)]
    p = minimize(
        negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}
    ).x
    scale = np.exp(-p[:-2])
    kernel = np.exp(p[-2]) * np.asarray(_matern(x, x, scale))
    weights = np.linalg.solve(kernel + (np.exp(p[-1]) + LEAST_NOISE) * np.eye(len(x)), z)
    every[known] = spread * np.exp(p[-2]) * weights
    return {"scale": scale, "weights": every, "offset": np.float64(offset)}


def predict(process: Arrays, x: np.ndarray) -> np.ndarray:
    """f64[m] at x f64[m, d], as the objective has it."""
    return process["offset"] + np.asarray(_matern(x, process["x"], process["scale"])) @ process["weights"]


class _Rows(NamedTuple):
    """A recorded table as the fit sees it. x f64[configurations, features] · place i64[rows], each row's
    configuration · told, true f64[rows, epochs], log losses up to the cap, 0 where not sound · sound
    bool[rows]: the training converged · cap f64[]."""

    x: np.ndarray
    place: np.ndarray
    told: np.ndarray
    true: np.ndarray
    sound: np.ndarray
    cap: float

    def mean(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Means [configurations, ...] of values [rows, ...] over those rows of each that are in `rows`; nan
        where none is."""
        total = np.zeros((len(self.x), *values.shape[1:]))
        np.add.at(total, self.place[rows], values[rows])
        count = np.bincount(self.place[rows], minlength=len(self.x)).astype(np.float64)
        count[count == 0] = np.nan
        return total / count.reshape(-1, *[1] * (values.ndim - 1))


def _rows(space: Space, curves: Any) -> _Rows:
    loss, true_loss = (np.stack(curves[n].tolist()).astype(np.float64) for n in ("loss", "true_loss"))
    sound = np.asarray(np.isfinite(loss).all(1) & np.isfinite(true_loss).all(1))
    if not sound.any() or min(loss[sound].min(), true_loss[sound].min()) <= 0:
        raise ValueError(
            "a surrogate is fitted to logarithms: losses that converge must be there and above 0"
        )
    cap = float(np.log(np.quantile(true_loss[sound, 0], CAP)))
    told, true = (np.minimum(np.log(np.where(sound[:, None], v, 1.0)), cap) for v in (loss, true_loss))
    number = curves["configuration"].to_numpy()
    ids, first = np.unique(number, return_index=True)
    return _Rows(table_features(space, curves)[first], np.searchsorted(ids, number), told, true, sound, cap)


def fit(space: Space, curves: Any, forks: Any | None = None) -> Arrays:
    """The arrays of a surrogate, from recorded tables of at least two seeds; deterministic. Raises ValueError
    where it cannot be fitted."""
    with jax.enable_x64(True):
        rows = _rows(space, curves)
        y = rows.mean((rows.told + rows.true) / 2.0, rows.sound)
        good = np.isfinite(y[:, 0])
        middle = y[good].mean(0)
        basis = np.linalg.svd(y[good] - middle, full_matrices=False)[2][:COMPONENTS]
        off = _scatter(rows)
        size = np.log(np.sqrt(np.mean(off**2, 1)) + 1e-4)  # a row's, so that the mean is over logs
        noisy = rows.mean(size, np.isfinite(size))
        ended = np.log(curves["cost"].to_numpy(np.float64) / rows.told.shape[1])
        targets = [
            *((y - middle) @ basis.T).T,
            rows.mean(1.0 - rows.sound, np.ones(len(rows.place), bool)),
            rows.mean(ended, np.ones(len(rows.place), bool)),
            noisy,
        ]
        found = [fit_process(rows.x, target) for target in targets]
        arrays: dict[str, Any] = {k: np.stack([process[k] for process in found]) for k in found[0]}
        arrays |= {"x": rows.x, "middle": middle, "basis": basis, "cap": np.float64(rows.cap)}
        begun = _first_lost(curves)  # none: no matter when
        when = np.bincount(begun, minlength=len(middle)) if len(begun) else np.eye(len(middle))[0]
        arrays |= {"when": when / when.sum()}
        arrays |= _noise(rows, off, arrays)
        if forks is not None and len(forks):
            arrays |= {"dynamics": _dynamics(space, rows, curves, forks, arrays)}
        return {k: np.asarray(v, np.float32) for k, v in arrays.items()}


def _first_lost(curves: Any) -> np.ndarray:
    """The epoch i64[diverged], counted from 0, after which each training that diverges has its first loss
    that is not finite."""
    loss, true_loss = (np.stack(curves[n].tolist()) for n in ("loss", "true_loss"))
    lost = ~(np.isfinite(loss) & np.isfinite(true_loss))
    return np.argmax(lost[lost.any(1)], 1)


def _scatter(rows: _Rows) -> np.ndarray:
    """What told log losses f64[rows, epochs] are off the true ones of the configuration's other seeds, made
    smaller by what these scatter themselves; nan where there is no other."""
    count = np.bincount(rows.place[rows.sound], minlength=len(rows.x))[rows.place]
    if not (rows.sound & (count > 1)).any():
        raise ValueError("a surrogate needs a second seed of some configurations, to know their noise")
    others = np.where(rows.sound & (count > 1), count - 1, np.nan)[:, None]
    total = (rows.mean(rows.true, rows.sound)[rows.place]) * count[:, None] - rows.true
    return (rows.told - total / others) / np.sqrt(1.0 + 1.0 / others)


def _noise(rows: _Rows, off: np.ndarray, arrays: Arrays) -> Arrays:
    """gain f64[]: what the fitted scatter is multiplied by, so that its square is right in the mean ·
    constant f64[]: the share of it that stays with a training · least, most f64[]: bounds of its log."""
    logs = predict(_part(arrays, -1), rows.x)
    low, high = np.quantile(logs, [0.01, 0.99])
    scaled = off / np.exp(np.clip(logs, low, high))[rows.place][:, None]
    scaled = np.clip(scaled[np.isfinite(scaled).all(1)], -20.0, 20.0)
    square, epochs = float((scaled**2).mean()), scaled.shape[1]
    # The mean over epochs has all of what stays and 1/epochs of the rest.
    mean_square = float((scaled.mean(1) ** 2).mean())
    constant = 1.0 if epochs == 1 else (mean_square - square / epochs) / (1.0 - 1.0 / epochs) / square
    return {
        "gain": np.float64(np.sqrt(square)), "constant": np.float64(np.clip(constant, 0.0, 1.0)),
        "least": np.float64(low), "most": np.float64(high),
    }  # fmt: skip


def curve_at(arrays: Arrays, x: np.ndarray) -> np.ndarray:
    """Predicted mean log losses f64[m, epochs] at x f64[m, features]."""
    parts = [predict(_part(arrays, i), x) for i in range(len(arrays["basis"]))]
    return np.minimum(arrays["middle"] + np.stack(parts, 1) @ arrays["basis"], arrays["cap"])


def shrinkage(dynamics: Any, x: Any, epochs: int) -> Any:
    """Sums [2, epochs + 1], from the first epoch on, of the logs of the factors by which what a checkpoint's
    log loss is above (first) or below its mean curve shrinks in each epoch, for features x [features]."""
    time = (jnp.arange(epochs) + 0.5) / epochs
    fixed = jnp.concatenate([jnp.ones(1), x, x * x])
    n = fixed.shape[0]
    speed = (dynamics[:, :n] @ fixed)[:, None] + dynamics[:, n:] @ jnp.stack([time, time**2])
    return jnp.concatenate([jnp.zeros((2, 1)), -jnp.cumsum(jax.nn.softplus(speed), 1)], 1)


class _Forks(NamedTuple):
    """Recorded continuations that converge, f of them. x f64[f, features], after the change · start i64[f]:
    the epoch of the checkpoint · level f64[f]: its log loss · later f64[f, epochs]: log losses, nan up to
    the start · configuration i64[f]."""

    x: np.ndarray
    start: np.ndarray
    level: np.ndarray
    later: np.ndarray
    configuration: np.ndarray


def _fork_rows(space: Space, rows: _Rows, curves: Any, forks: Any) -> _Forks:
    row_of = {pair: i for i, pair in enumerate(zip(curves["configuration"], curves["seed"], strict=True))}
    start = forks["epoch"].to_numpy(np.int64)
    base = [row_of.get(pair, -1) for pair in zip(forks["configuration"], forks["seed"], strict=True)]
    epochs = rows.told.shape[1]
    later = np.full((len(forks), epochs), np.nan)
    for i, (told, true) in enumerate(zip(forks["loss"], forks["true_loss"], strict=True)):
        with np.errstate(invalid="ignore", divide="ignore"):
            later[i, start[i] :] = (
                np.minimum(np.log(told), rows.cap) + np.minimum(np.log(true), rows.cap)
            ) / 2
    sound = np.array([b >= 0 and rows.sound[b] for b in base]) & np.array(
        [np.isfinite(np.asarray(v)).all() for v in forks["loss"]]
    )
    base, kept = np.array(base)[sound], np.flatnonzero(sound)
    level = ((rows.told + rows.true) / 2.0)[base, start[sound] - 1]
    x = table_features(space, forks)[kept]
    return _Forks(x, start[sound], level, later[kept], forks["configuration"].to_numpy(np.int64)[sound])


def follow(dynamics: Any, curve: Any, x: Any, start: Any, level: Any) -> Any:
    """Predicted log losses [epochs] of a checkpoint of log loss `level` at epoch `start`, continued under
    features x with the mean curve [epochs]; those before the start mean nothing."""
    epochs = curve.shape[0]
    off = level - curve[start - 1]
    total = jnp.where(off > 0, *shrinkage(dynamics, x, epochs))
    return curve + off * jnp.exp(total[1:] - total[start])


def _dynamics(
    space: Space, rows: _Rows, curves: Any, forks: Any, arrays: dict[str, np.ndarray]
) -> np.ndarray:
    """Coefficients f64[2, n] of `shrinkage`, least squares on forks, with a ridge."""
    from scipy.optimize import minimize

    data = _fork_rows(space, rows, curves, forks)
    curve = curve_at(arrays, data.x)
    seen = np.isfinite(data.later)
    later = np.where(seen, data.later, 0.0)
    shape = (2, 1 + 2 * data.x.shape[1] + 2)
    inputs = [jnp.asarray(v) for v in (curve, data.x, data.start, data.level)]

    @jax.jit
    def objective(flat):
        def value(flat):
            dynamics = flat.reshape(shape)
            found = jax.vmap(lambda *row: follow(dynamics, *row))(*inputs)
            error = jnp.where(seen, found - later, 0.0) ** 2
            ridge = (dynamics[:, 1:] ** 2).sum() * RIDGE
            return (error.sum(1) / seen.sum(1)).mean() + ridge

        return jax.value_and_grad(value)(flat)

    def slope(flat):
        value, gradient = objective(flat)
        return float(value), np.asarray(gradient, np.float64)

    start = np.zeros(shape)
    start[:, 0] = -2.0
    return minimize(slope, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(
        shape
    )


def judge(space: Space, curves: Any, forks: Any | None = None) -> dict[str, Any]:
    """Fits to all but one configuration in HELD_OUT and says how well that predicts those: `said`, as (what,
    value), and `forks`, the rank correlation on continuations of theirs (0: none were recorded)."""
    out = curves["configuration"].to_numpy() % HELD_OUT == HELD_OUT - 1
    kept = None
    if forks is not None:
        kept = forks[forks["configuration"].to_numpy() % HELD_OUT != HELD_OUT - 1]
    arrays = fit(space, curves[~out], kept)
    with jax.enable_x64(True):
        return _judge(space, curves, out, forks, arrays)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return (
        float(np.asarray(spearmanr(a, b))[0])
        if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0
        else float("nan")
    )


def _part(arrays: Arrays, i: int) -> Arrays:
    """One process of a fit."""
    return {k: arrays[k][i] for k in ("scale", "weights", "offset")} | {"x": arrays["x"]}


def _judge(space: Space, curves: Any, out: np.ndarray, forks: Any, arrays: Arrays) -> dict[str, Any]:
    rows = _rows(space, curves[out])
    true = rows.mean(np.minimum((rows.told + rows.true) / 2.0, arrays["cap"]), rows.sound)
    sound = np.isfinite(true[:, 0])
    true, found = true[sound], curve_at(arrays, rows.x)[sound]
    epochs, best = true.shape[1], true[:, -1] <= np.quantile(true[:, -1], 0.25)
    middle = max(epochs // 3, 1) - 1
    seeds = curves[out]["seed"].to_numpy()
    pair = [rows.mean(rows.true, rows.sound & (seeds == s))[:, -1] for s in np.unique(seeds)[:2]]
    both = np.isfinite(pair[0]) & np.isfinite(pair[1])
    picked = int(np.argmin(found[:, -1]))
    number = int((true[:, -1] < true[picked, -1]).sum()) + 1
    ranks = [
        f"{_correlation(found[at], true[at]):.3f} {where}"
        for where, at in {
            "at the end": np.s_[:, -1],
            f"at epoch {middle + 1}": np.s_[:, middle],
            "at the end among the best quartile": np.s_[best, -1],
        }.items()
    ]
    scatter = np.clip(predict(_part(arrays, -1), rows.x), arrays["least"], arrays["most"])
    off = np.abs(_scatter(rows)) / (arrays["gain"] * np.exp(scatter))[rows.place][:, None]
    within = 100 * np.mean(off[np.isfinite(off)] < 1.2816)
    lost = rows.mean(1.0 - rows.sound, np.ones(len(rows.place), bool))
    diverged = f"{100 * lost.mean():.2g} % of trainings"
    if 0 < lost.mean() < 1:
        fits = _correlation(predict(_part(arrays, -3), rows.x), lost)
        diverged += f"; correlation of predicted and recorded shares {fits:.2f}"
    said = [
        ("recorded", f"{curves['configuration'].nunique()} configurations of {epochs} epochs, "
                     f"{len(np.unique(seeds))} seeds each; judged on {len(true)} that a fit has not seen"),
        ("ranks", f"correlation of predicted and recorded losses {', '.join(ranks)}"),
        ("", f"two seeds of the task agree by {_correlation(pair[0][both], pair[1][both]):.3f} at the end"),
        ("regret", f"the predicted best of them is number {number}, with a loss of "
                   f"{np.exp(true[picked, -1]):.4g} against {np.exp(true[:, -1].min()):.4g}"),
        ("noise", f"{within:.0f} % of told losses lie within the 80 % interval"),
        ("diverged", diverged),
    ]  # fmt: skip
    if "dynamics" not in arrays:
        return {"said": [*said, ("forks", "none recorded: no copy, no change")], "forks": 0.0}
    data = _fork_rows(space, _rows(space, curves), curves, forks)
    unseen = data.configuration % HELD_OUT == HELD_OUT - 1
    data = _Forks(*(v[unseen] for v in data))
    curve, real = curve_at(arrays, data.x), data.later[:, -1]
    inputs = [jnp.asarray(v) for v in (curve, data.x, data.start, data.level)]
    ends = np.asarray(jax.vmap(lambda *row: follow(arrays["dynamics"], *row)[-1])(*inputs))
    rank = _correlation(ends, real)
    said += [
        ("forks", f"correlation of predicted and recorded ends {rank:.3f}, {len(ends)} forks of those"),
        ("", f"by the checkpoint's loss alone {_correlation(data.level, real):.3f}, by the new "
             f"hyperparameters alone {_correlation(curve[:, -1], real):.3f}"),
    ]  # fmt: skip
    if not rank >= TRUSTED:
        said.append(("", f"below {TRUSTED}: no copy, no change"))
    return {"said": said, "forks": rank if np.isfinite(rank) else 0.0}
