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


@dataclass
class Cluster:
    """W workers in each of L lanes, with their budgets.

    A running job sits at [lane, worker]; its checkpoint counts from the moment when the clock reaches its
    finish. `reached[lane, trial]` is the epoch of the committed checkpoint, 0 where there is none.
    """

    lanes: int
    workers: int
    num_trials: int
    width: int
    epochs: int  # the budget of a lane, in epochs
    max_epoch: int
    change: np.ndarray  # bool[width]: axes that may change during training
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
        self.finish = np.full((lanes, workers), np.inf)
        self.started = np.zeros((lanes, workers))
        self.cost = np.zeros((lanes, workers))
        self.job = np.full((lanes, workers), NONE, np.int64)
        self.trial = np.full((lanes, workers), NONE, np.int32)
        self.source = np.full((lanes, workers), NONE, np.int32)
        self.start = np.zeros((lanes, workers), np.int32)
        self.until = np.zeros((lanes, workers), np.int32)
        self.x = np.zeros((lanes, workers, self.width), np.float32)
        self.reached = np.zeros((lanes, self.num_trials), np.int32)
        self.last_x = np.zeros((lanes, self.num_trials, self.width), np.float32)

    @property
    def busy(self) -> np.ndarray:
        """bool[lanes, workers]"""
        return self.job != NONE

    def earliest(self) -> np.ndarray:
        """The worker whose job finishes first, ties by job number: i64[lanes] (0 where all are idle)."""
        if self.workers == 1:
            return np.zeros(self.lanes, np.int64)
        first = np.where(self.busy, self.finish, np.inf)
        tied = self.busy & (first == first.min(1, keepdims=True))
        return np.where(tied, self.job, np.iinfo(np.int64).max).argmin(1)

    def plan(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which lanes tell (and from which worker), and which ask: (tells bool[lanes], worker i64[lanes],
        asks bool[lanes]). `ready` bool[lanes, workers]: the results known so far."""
        busy = self.busy
        running = busy.any(1)
        self.asking &= ~(self.waiting & ~running)  # a wait with nothing running ends the run
        due = running & (busy.all(1) | self.waiting | ~self.asking)
        worker = self.earliest()
        tells = due & ready[np.arange(self.lanes), worker]
        asks = self.asking & (tells | ~due)
        return tells, worker, asks

    def release(self, lanes: np.ndarray, workers: np.ndarray) -> None:
        """The clock reaches the finish of these jobs: their checkpoints count, their workers are idle."""
        trial = self.trial[lanes, workers]
        self.now[lanes] = self.finish[lanes, workers]
        self.reached[lanes, trial] = self.until[lanes, workers]
        self.last_x[lanes, trial] = self.x[lanes, workers]
        self.job[lanes, workers] = NONE
        self.finish[lanes, workers] = np.inf
        self.waiting[lanes] = False

    def grant(self, asks: np.ndarray, job: Job) -> tuple[np.ndarray, np.ndarray]:
        """Charges and places the jobs that the lanes of `asks` proposed; returns (lanes, workers) of the
        granted ones. The first job that does not fit ends a lane's asking. Raises ContractError."""
        self.waiting[asks & (job.trial == NONE)] = True
        lanes = np.flatnonzero(asks & (job.trial != NONE))
        if not len(lanes):
            return lanes, lanes
        trial, source, until = job.trial[lanes], job.source[lanes], job.until[lanes]
        inside = np.clip(source, 0, self.num_trials - 1)
        start = np.where(source == NONE, 0, self.reached[lanes, inside])
        self._check(lanes, trial, source, until, job.x[lanes], start)
        charge = until - start
        fits = self.spent[lanes] + charge <= self.epochs
        self.asking[lanes[~fits]] = False
        lanes, start, charge = lanes[fits], start[fits], charge[fits]
        workers = (~self.busy[lanes]).argmax(1)
        at = lanes, workers
        self.spent[lanes] += charge
        self.job[at] = self.granted[lanes]
        self.granted[lanes] += 1
        self.trial[at], self.source[at] = job.trial[lanes], job.source[lanes]
        self.start[at], self.until[at], self.x[at] = start, job.until[lanes], job.x[lanes]
        self.started[at] = self.now[lanes]
        return at

    def run(self, lanes: np.ndarray, workers: np.ndarray, cost: np.ndarray) -> None:
        """The granted jobs take `cost` f64 simulated seconds."""
        if not (np.isfinite(cost).all() and (cost >= 0).all()):
            raise ContractError(f"an objective's cost must be finite and not negative, got {cost.min()}")
        self.cost[lanes, workers] = cost
        self.finish[lanes, workers] = self.now[lanes] + cost

    def _check(self, lanes, trial, source, until, x, start) -> None:
        parent = np.clip(source, 0, self.num_trials - 1)
        used = source != NONE
        moved = ((self.last_x[lanes, parent] != x) & ~self.change).any(1)
        rules = [
            (
                (trial < 0) | (trial >= self.num_trials),
                f"trial must lie in [0, {self.num_trials}), after the last one an ask waits (trial {NONE})",
            ),
            ((source < NONE) | (source >= self.num_trials), f"source must lie in [-1, {self.num_trials})"),
            (until > self.max_epoch, f"until exceeds max_epoch {self.max_epoch}"),
            (~((x >= 0) & (x <= 1)).all(1), "x leaves the unit cube"),
            (((self.trial[lanes] == trial[:, None]) & self.busy[lanes]).any(1), "its trial is still running"),
            (used & (start == 0), "its source has no checkpoint yet"),
            (until <= start, "until must exceed the epoch of its source"),
            (used & moved, "x differs from its source's on an axis that may not change during training"),
        ]
        if not self.copies:
            rules.append((used & (source != trial), "copies a checkpoint, but its strategy needs no 'copy'"))
        for broken, what in rules:
            if broken.any():
                i = np.flatnonzero(broken)[0]
                job = f"job {self.granted[lanes[i]]} (trial {trial[i]}, source {source[i]}, until {until[i]})"
                raise ContractError(f"{job}: {what}")
