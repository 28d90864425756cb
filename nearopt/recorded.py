"""What recorded trainings say of their task: how early ranks predict the end, and which axes matter.

`nearopt record show=...` prints it; results/reference/tasks/ holds it for the tables that are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIMES = (0.1, 0.2, 0.5)  # of the training, at which ranks are compared with the end's
GROUP, DRAWS = 50, 2000  # configurations whose final best is looked for early, and how often such are drawn
EARLY = 0.2  # of the training, when it is looked for


def shipped() -> list[Path]:
    """The folders of the recordings that are shipped."""
    from importlib import resources

    here = Path(str(resources.files("surrogates"))) / "recorded"
    return sorted(path.parent for path in here.glob("*/recording.json"))


def epoch_of(time: float, epochs: int) -> int:
    """The epoch, at least the first, after which a share `time` of the training is done."""
    return max(1, round(time * epochs))


def kept_share(early: np.ndarray, late: np.ndarray, share: float, rng: np.random.Generator) -> float:
    """How often the best of GROUP random configurations by losses `late` f64[n] is in their best `share` by
    losses `early` f64[n]; what is not finite is worst."""
    early, late = (np.where(np.isfinite(v), v, np.inf) for v in (early, late))
    group = min(GROUP, len(late))
    drawn = np.argsort(rng.random((DRAWS, len(late))), 1)[:, :group]
    best = np.take_along_axis(drawn, np.argmin(late[drawn], 1)[:, None], 1)
    ahead = (early[drawn] < early[best]).sum(1)  # ties are no one's fault: they count as kept
    return float((ahead < group * share).mean())


def early_ranks(table: pd.DataFrame) -> dict[str, float]:
    """Means over seeds of the rank correlation of told losses at TIMES with those of the end, at a ninth with
    the true ones of the end (rank_at_ninth), and of how
    often the final best of GROUP is in their top third and top ninth at EARLY."""
    from bench.describe import spearman

    rows: list[dict[str, float]] = []
    for seed, part in table.groupby("seed"):
        loss = np.stack(part["loss"].tolist()).astype(np.float64)
        epochs, end = loss.shape[1], loss[:, -1]
        row = {f"ranks_{t:g}": spearman(loss[:, epoch_of(t, epochs) - 1], end) for t in TIMES}
        true = np.array([v[-1] for v in part["true_loss"]], np.float64)
        row["rank_at_ninth"] = spearman(
            loss[:, epoch_of(1 / 9, epochs) - 1], true
        )  # as `nearopt describe` has it
        early = loss[:, epoch_of(EARLY, epochs) - 1]
        for word, share in (("third", 1 / 3), ("ninth", 1 / 9)):
            draw = np.random.default_rng([3, int(str(seed))])
            row[f"best_in_top_{word}"] = kept_share(early, end, share, draw)
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def configurations(table: pd.DataFrame, axes: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(x f64[n, d] in the unit cube, mean log of validation and test loss at the end f64[n], infinite where a
    seed diverged) of the recorded configurations."""
    from bench import space

    made = {
        n: getattr(space, a["kind"])(**{k: v for k, v in a.items() if k != "kind"}) for n, a in axes.items()
    }
    ends = np.log(np.stack([np.array([v[-1] for v in table[c]], np.float64) for c in ("loss", "true_loss")]))
    losses: Any = table.assign(end=ends.mean(0)).groupby("configuration")["end"].mean()
    first: Any = table.drop_duplicates("configuration").sort_values("configuration")
    columns = []
    for name, axis in made.items():
        values = first[f"hp_{name}"].tolist()
        if isinstance(axis, space.Float):  # recorded in float32, which may lie a little outside
            values = np.clip(values, axis.low, axis.high).tolist()
        columns.append([axis.encode(value) for value in values])
    return np.array(columns).T, losses.to_numpy(np.float64)


def summary(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """One row on a recording, and a table of its axes: their shares of the variance of ranks, over the whole
    space and among the best quartile."""
    from bench.importance import whole_and_best

    card = json.loads((folder / "recording.json").read_text())
    table = pd.read_parquet(folder / "curves.parquet")
    task, names = str(card["objective"]), list(card["axes"])
    whole, best = whole_and_best(*configurations(table, card["axes"]))
    i, j = np.unravel_index(np.argmax(whole.pairs), whole.pairs.shape)
    row: dict[str, Any] = {
        "task": task,
        "configurations": table["configuration"].nunique(),
        "seeds": table["seed"].nunique(),
        "epochs": len(table["loss"].iloc[0]),
    }
    row |= early_ranks(table)
    row |= {"axes": len(names), "above_5_percent": whole.count, "above_5_percent_best": best.count}
    row |= {"pair": f"{names[i]} x {names[j]}", "pair_share": float(whole.pairs[i, j])}
    axes = {"task": task, "axis": names, "whole": whole.first, "best_quartile": best.first}
    return row, pd.DataFrame(axes).sort_values("whole", ascending=False, kind="stable")


def tables(folders: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row a task, one row an axis of a task) of recordings."""
    found = [summary(folder) for folder in folders]
    return pd.DataFrame([row for row, _ in found]), pd.concat([axes for _, axes in found], ignore_index=True)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def ranks_table(tasks: pd.DataFrame) -> str:
    """How early ranks predict the end, as a table for people."""
    head = ["task", "recorded", *(f"ranks at {100 * t:g} %" for t in TIMES)]
    head += ["final best in the top third", "in the top ninth"]
    rows = []
    for r in tasks.to_dict("records"):
        recorded = f"{r['configurations']} x {r['seeds']}, {r['epochs']} epochs"
        ranks = [f"{r[f'ranks_{t:g}']:.2f}" for t in TIMES]
        kept = [f"{100 * r[f'best_in_top_{word}']:.0f} %" for word in ("third", "ninth")]
        rows.append([r["task"], recorded, *ranks, *kept])
    return _markdown(head, rows)


def importance_table(tasks: pd.DataFrame, axes: pd.DataFrame) -> str:
    """Which axes matter, as a table for people: a column a task, shares over the whole space / in the best
    quartile."""
    names = list(dict.fromkeys(axes["axis"]))
    shares = {(r["task"], r["axis"]): r for r in axes.to_dict("records")}
    labels = tasks["task"].tolist()
    rows = []
    for name in names:
        cells = [shares.get((task, name)) for task in labels]
        shown = [
            "-" if c is None else f"{100 * c['whole']:.0f} / {100 * c['best_quartile']:.0f}" for c in cells
        ]
        rows.append([name, *shown])
    records = tasks.to_dict("records")
    counts = [f"{r['above_5_percent']} / {r['above_5_percent_best']} of {r['axes']}" for r in records]
    rows.append(["more than 5 %", *counts])
    rows.append(["largest pair", *(f"{r['pair']} {100 * r['pair_share']:.0f}" for r in records)])
    return _markdown(["axis", *labels], rows)
