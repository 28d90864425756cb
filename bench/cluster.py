"""Workers on a virtual clock: who is idle, who finishes when, what the budget still pays for.

All of it is numpy over lanes (one lane a seed), float64, never traced: simulated time cannot depend on
the host, and the compiled programs need not know how many workers there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.protocols import NONE, Job


class ContractError(ValueError):
    """A strategy broke a rule of the contract; the message names the rule and the job."""


# Columns of the tables of running jobs: whole numbers i32, reals f64.
JOB, TRIAL, SOURCE, START, UNTIL = range(5)
STARTED, FINISH, COST = range(3)


@dataclass
class Cluster:
    """W workers in each of L lanes, with their budgets.

    Worker w of lane l has the *place* l * W + w; its running job is row `place` of the tables `whole`, `real`
    and `x`, and its checkpoint counts from the moment when the clock reaches its finish. `trial`, `source`,
    `start`, `until` and `cost` [lanes, workers] are views of the tables. `reached[lane, trial]` is the epoch
    of the committed checkpoint, 0 where there is none.
    """

    lanes: int
    workers: int
    num_trials: int
    width: int
    epochs: int  # the budget of a lane, in epochs
    max_epoch: int
    change: np.ndarray  # bool[width]: axes that may change during training
    resumes: bool  # whether a job may start from its own trial's checkpoint
    copies: bool  # whether a job may start from another trial's checkpoint

    now: np.ndarray = field(init=False)
    spent: np.ndarray = field(init=False)
    granted: np.ndarray = field(init=False)
    asking: np.ndarray = field(init=False)
    waiting: np.ndarray = field(init=False)

    def __post_init__(self):
        lanes, workers = self.lanes, self.workers
        self.now = np.zeros(lanes)
        self.spent = np.zeros(lanes, np.int64)
        self.granted = np.zeros(lanes, np.int64)
        self.asking = np.ones(lanes, bool)
        self.waiting = np.zeros(lanes, bool)
        self.whole = np.full((lanes * workers, 5), NONE, np.int32)
        self.real = np.full((lanes * workers, 3), np.inf)
        self.x = np.zeros((lanes * workers, self.width), np.float32)
        table = self.whole.reshape(lanes, workers, -1)
        self.trial, self.source = table[..., TRIAL], table[..., SOURCE]
        self.start, self.until = table[..., START], table[..., UNTIL]
        self.cost = self.real.reshape(lanes, workers, -1)[..., COST]
        self.first = np.arange(lanes) * workers  # each lane's first place
        self.reached = np.zeros((lanes, self.num_trials), np.int32)
        # What a trial's checkpoint was trained with; read only where a job may start from one.
        kept = self.num_trials if self.resumes or self.copies else 0
        self.last_x = np.zeros((lanes, kept, self.width), np.float32)

    @property
    def busy(self) -> np.ndarray:
        """bool[lanes, workers]"""
        return (self.whole[:, JOB] != NONE).reshape(self.lanes, self.workers)

    def earliest(self, busy: np.ndarray) -> np.ndarray:
        """The place whose job finishes first, ties by job number: i64[lanes] (any, where all are idle)."""
        if self.workers == 1:
            return self.first
        finish = self.real[:, FINISH].reshape(busy.shape)
        tied = busy & (finish == finish.min(1, keepdims=True))
        job = self.whole[:, JOB].reshape(busy.shape)
        return self.first + np.where(tied, job, np.iinfo(np.int32).max).argmin(1)

    def plan(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which lanes tell (and from which place), and which ask: (tells bool[lanes], place i64[lanes],
        asks bool[lanes]). `ready` bool[places]: the results known so far."""
        busy = self.busy
        running = busy.any(1)
        self.asking &= running | ~self.waiting  # a wait with nothing running ends the run
        due = running & (busy.all(1) | self.waiting | ~self.asking)
        place = self.earliest(busy)
        tells = due & ready[place]
        asks = self.asking & (tells | ~due)
        return tells, place, asks

    def release(self, lanes: np.ndarray, places: np.ndarray) -> None:
        """The clock reaches the finish of the jobs at these places, one a lane: their checkpoints count,
        their workers are idle."""
        trial = self.whole[places, TRIAL]
        self.now[lanes] = self.real[places, FINISH]
        self.reached[lanes, trial] = self.whole[places, UNTIL]
        if self.last_x.size:
            self.last_x[lanes, trial] = self.x[places]
        self.whole[places, JOB] = NONE
        self.real[places, FINISH] = np.inf
        self.waiting[lanes] = False

    def grant(self, asks: np.ndarray, job: Job) -> np.ndarray:
        """Charges and places the jobs that the lanes of `asks` proposed; returns the places of the granted
        ones. The first job that does not fit ends a lane's asking. Raises ContractError."""
        idle = job.trial == NONE
        self.waiting |= asks & idle
        lanes = np.flatnonzero(asks & ~idle)
        if not len(lanes):
            return lanes
        trial, source, until, x = job.trial[lanes], job.source[lanes], job.until[lanes], job.x[lanes]
        start = self._check(lanes, trial, source, until, x)
        charge = until - start
        fits = self.spent[lanes] + charge <= self.epochs
        if not fits.all():
            self.asking[lanes[~fits]] = False
            lanes, trial, source, until, x, start, charge = (
                a[fits] for a in (lanes, trial, source, until, x, start, charge)
            )
        places = self.first[lanes]
        if self.workers > 1:
            places = places + (~self.busy[lanes]).argmax(1)
        self.spent[lanes] += charge
        self.whole[places] = np.stack([self.granted[lanes], trial, source, start, until], 1)
        self.granted[lanes] += 1
        self.x[places] = x
        self.real[places, STARTED] = self.now[lanes]
        return places

    def run(self, places: np.ndarray, cost: np.ndarray) -> None:
        """The granted jobs take `cost` f64 simulated seconds."""
        if not (cost.min() >= 0 and cost.max() < np.inf):
            raise ContractError(f"an objective's cost must be finite and not negative, got {cost.min()}")
        self.real[places, COST] = cost
        self.real[places, FINISH] = self.real[places, STARTED] + cost

    def _check(self, lanes, trial, source, until, x) -> np.ndarray:
        """The epochs i32 from which the jobs start. Raises ContractError with the first to break a rule."""

        def forbid(broken, what, rows=None):
            if broken.any():
                i = int(np.flatnonzero(broken)[0])
                i = i if rows is None else int(rows[i])
                job = f"job {self.granted[lanes[i]]} (trial {trial[i]}, source {source[i]}, until {until[i]})"
                raise ContractError(f"{job}: {what}")

        n = self.num_trials
        after = f"trial must lie in [0, {n}), after the last one an ask waits (trial {NONE})"
        forbid(trial.astype(np.uint32) >= n, after)  # what is negative becomes large
        forbid(until > self.max_epoch, f"until exceeds max_epoch {self.max_epoch}")
        if not (x.min() >= 0 and x.max() <= 1):
            forbid(~((x >= 0) & (x <= 1)).all(1), "x leaves the unit cube")
        if self.workers > 1:
            running = (self.trial[lanes] == trial[:, None]) & self.busy[lanes]
            forbid(running.any(1), "its trial is still running")
        start = np.zeros(len(lanes), np.int32)
        used = np.flatnonzero(source != NONE)
        if len(used):
            lane, parent = lanes[used], source[used]
            forbid(parent.astype(np.uint32) >= n, f"source must lie in [-1, {n})", used)
            start[used] = epoch = self.reached[lane, parent]
            forbid(epoch == 0, "its source has no checkpoint yet", used)
            if not self.copies:
                forbid(parent != trial[used], "copies a checkpoint, but its strategy needs no 'copy'", used)
            if not self.resumes:
                forbid(parent == trial[used], "continues a trial, but its strategy needs no 'resume'", used)
            moved = (self.last_x[lane, parent] != x[used]) & ~self.change
            what = "x differs from its source's on an axis that may not change during training"
            forbid(moved.any(1), what, used)
        forbid(until <= start, "until must exceed the epoch of its source")
        return start
