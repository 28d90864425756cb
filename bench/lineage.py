"""Where a run's winner comes from: the jobs that made its weights, and the hyperparameters they trained with.

All is read off a trace (`bench.drive.frame`). A job continues a slot's checkpoint; that checkpoint is of the
last job that wrote the slot before the job was asked, so the way back to fresh weights is unique, through
copies of copies. A job that was lost or given up leaves no checkpoint, so none is an ancestor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.metrics import incumbents
from bench.protocols import NONE

LEFT = ("finished", "raised")  # what leaves a checkpoint


def winner(trace: pd.DataFrame, seed: int, fidelity: str = "training") -> int:
    """The job number of a seed's last incumbent (`metrics.incumbents`), in the order of telling. Raises
    ValueError where the trace has no such seed, or no finished job with a finite loss."""
    run = _run(trace, seed)
    loss = np.where(run["status"] == "finished", run["loss"], np.inf)
    index = incumbents(loss[None], run["until"].to_numpy()[None], fidelity)[0, -1]
    if index == NONE:
        raise ValueError(f"seed {seed} has no winner: no job finished with a finite loss")
    return int(run["job"].iloc[index])


def lineage(
    trace: pd.DataFrame, seed: int, job: int | None = None, fidelity: str = "training"
) -> pd.DataFrame:
    """The trace's rows of the jobs that made a job's weights, from fresh weights to itself (default: the
    `winner`). Each row starts from the epoch at which the one before it ended. Raises ValueError where the
    trace does not hold them."""
    run = _run(trace, seed)
    job = winner(trace, seed, fidelity) if job is None else job
    rows = np.flatnonzero(run["job"] == job)
    if not len(rows):
        raise ValueError(f"seed {seed} has no job {job} in this trace")
    left = run["status"].isin(LEFT).to_numpy()
    trial, until, finished, number = (run[c].to_numpy() for c in ("trial", "until", "finished", "job"))
    chain = [int(rows[0])]
    while run.at[chain[-1], "source"] != NONE:
        child: Any = run.loc[_first_try(run, chain[-1])]
        # What was told at the very moment at which a job started may have been told after it was asked, and
        # where the strategy thinks, so may what was told just before: the epoch tells them apart.
        known = left & (trial == child["source"]) & (until == child["start"]) & (number < child["job"])
        known &= finished <= child["started"]
        if not known.any():
            what = f"the checkpoint of trial {child['source']} at epoch {child['start']}"
            raise ValueError(f"seed {seed} has no job that left {what}, from which job {child['job']} starts")
        chain.append(int(np.flatnonzero(known)[-1]))
    return run.loc[chain[::-1]].reset_index(drop=True)


def schedule(chain: pd.DataFrame) -> pd.DataFrame:
    """The hyperparameters of each epoch of a lineage, one row an epoch: epoch (1: the first), job, hp_*."""
    length = (chain["until"] - chain["start"]).to_numpy()
    columns: Any = ["job", *[name for name in chain if str(name).startswith("hp_")]]
    rows = chain.loc[np.repeat(chain.index.to_numpy(), length), columns].reset_index(drop=True)
    rows.insert(0, "epoch", np.arange(1, len(rows) + 1))
    return rows


def _first_try(run: pd.DataFrame, row: int) -> int:
    """The row of a job's first try: it took its source's checkpoint then, and a later one trains the same."""
    same = run["trial"].to_numpy()[:row] == run.at[row, "trial"]
    for earlier in np.flatnonzero(same)[::-1]:
        if run.at[earlier, "status"] != "lost":
            break
        row = int(earlier)
    return row


def _run(trace: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A seed's rows in the order of telling: by finish, ties by job number."""
    run: Any = trace[trace["seed"] == seed]
    if run.empty:
        raise ValueError(f"the trace has no seed {seed}")
    return run.sort_values(["finished", "job"], kind="stable", ignore_index=True)
