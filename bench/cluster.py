"""Workers on a virtual clock: who is idle, who finishes when, what is lost, what the budget still pays for.

All of it is numpy over lanes (one lane a seed), float64, never traced: simulated time cannot depend on
the host, and the compiled programs need not know how many workers there are.

Stragglers and losses are those of the ASHA paper (Li et al. 2020, MLSys, appendix A.1): a job takes 1 + |z|
times as long, z ~ N(0, straggle), and is lost in each of its epochs with probability `drop`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np

from bench.protocols import NONE, Job


class ContractError(ValueError):
    """A strategy broke a rule of the contract; the message names the rule and the job."""


# Columns of the tables of running jobs: whole numbers i32, reals f64.
JOB, TRIAL, SOURCE, START, UNTIL, LOST, TRIES = range(7)
STARTED, FINISH, TOOK, COST = range(4)
LUCK = 256  # jobs of a lane whose luck is drawn at once


@dataclass(frozen=True)
class ClusterSettings:
    """A simulated cluster; times in simulated seconds.

    `workers` · `straggle`: standard deviation of z, a job takes 1 + |z| times as long · `drop`: probability
    that a job is lost in an epoch; what it trained is charged · `retries`: how often a lost job is run again
    before it is given up, and told as infinity; 0: at once · `startup`: of every job, before it trains ·
    `load`, `copy`, `save`: of a checkpoint that a job continues from, that it continues from another trial's,
    that it leaves (where its strategy resumes or copies any) · `thinking`: the strategy's own, before each
    job; it decides on one job at a time."""

    workers: int = 1
    straggle: float = 0.0
    drop: float = 0.0
    retries: int = 0
    startup: float = 0.0
    load: float = 0.0
    copy: float = 0.0
    save: float = 0.0
    thinking: float = 0.0

    def __post_init__(self):
        for name, least in (("workers", 1), ("retries", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("straggle", "drop", "startup", "load", "copy", "save", "thinking"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if self.drop >= 1:
            raise ValueError(f"drop must be a probability below 1, got {self.drop}")


def split_label(label: str) -> tuple[str, str]:
    """(strategy, cluster) of a cell's label: `asha,eta=4,workers=8` is `asha,eta=4` on `8 workers`."""
    of_cluster = {f.name for f in fields(ClusterSettings)}
    words, said = label.split(","), []
    while len(words) > 1 and words[-1].partition("=")[0] in of_cluster:
        said.insert(0, words.pop())
    workers = next((w.partition("=")[2] for w in said if w.startswith("workers=")), "1")
    others = [w for w in said if not w.startswith("workers=")]
    return ",".join(words), ", ".join([f"{workers} worker{'' if workers == '1' else 's'}", *others])


def split_labels(labels: Iterable[str]) -> dict[str, list[str]]:
    """The labels of each cluster, fewest workers first."""
    found: dict[str, list[str]] = {}
    for label in labels:
        found.setdefault(split_label(label)[1], []).append(label)
    return {cluster: found[cluster] for cluster in sorted(found, key=lambda c: (int(c.split()[0]), c))}


@dataclass
class Cluster:
    """W workers in each of L lanes, one lane a seed, with their budgets.

    Worker w of lane l has the *place* l * W + w; its running job is row `place` of the tables `whole`, `real`
    and `x`, and its checkpoint counts from the moment when the clock reaches its finish. `trial`, `source`,
    `start` and `until` [lanes, workers] are views of the tables. `reached[lane, trial]` is the epoch of the
    committed checkpoint, 0 where there is none. A job that is given up leaves its trial `dead`: like a
    diverged one it may be trained on, at full cost, and every loss of it is infinite, until it copies
    another's checkpoint.
    """

    seeds: np.ndarray  # i64[lanes]
    settings: ClusterSettings
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
        lanes, workers = self.lanes, self.workers = len(self.seeds), self.settings.workers
        self.now = np.zeros(lanes)
        self.spent = np.zeros(lanes, np.int64)
        self.granted = np.zeros(lanes, np.int64)
        self.asking = np.ones(lanes, bool)
        self.waiting = np.zeros(lanes, bool)
        self.whole = np.full((lanes * workers, 7), NONE, np.int32)
        self.real = np.full((lanes * workers, 4), np.inf)
        self.x = np.zeros((lanes * workers, self.width), np.float32)
        table = self.whole.reshape(lanes, workers, -1)
        self.trial, self.source = table[..., TRIAL], table[..., SOURCE]
        self.start, self.until = table[..., START], table[..., UNTIL]
        self.first = np.arange(lanes) * workers  # each lane's first place
        self.reached = np.zeros((lanes, self.num_trials), np.int32)
        # What a trial's checkpoint was trained with; read only where a job may start from one.
        kept = self.num_trials if self.resumes or self.copies else 0
        self.last_x = np.zeros((lanes, kept, self.width), np.float32)
        self.dead = np.zeros((lanes, self.num_trials), bool)
        self.doomed = np.zeros(lanes * workers, bool)  # jobs that started from a dead trial
        self.thinks = np.zeros(lanes)  # until when the strategy thinks
        self.unlucky = self.settings.straggle > 0 or self.settings.drop > 0
        self.chance = [np.random.default_rng([7, seed]) for seed in self.seeds] if self.unlucky else []
        self.luck = np.empty((lanes, 0, 2))  # z and u of each job, drawn as they are needed

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

    def lose(self, tells: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the jobs that the lanes of `tells` would tell next: which are lost and run again, and which are
        given up. (bool[lanes], bool[lanes])"""
        job = self.whole[places]
        lost = tells & (job[:, LOST] > 0)
        length = job[:, UNTIL] - job[:, START]
        self.spent -= np.where(lost, length - job[:, LOST], 0)  # only what it trained is charged
        entitled = lost & (job[:, TRIES] < self.settings.retries)
        again = entitled & (self.spent + length <= self.epochs)
        self.asking &= again | ~entitled  # the first job that does not fit ends the asking
        return again, (lost & ~again) | (tells & self.doomed[places] & ~again)

    def retry(self, lanes: np.ndarray, places: np.ndarray) -> None:
        """The jobs lost at these places, one a lane, start again, as new jobs."""
        self.now[lanes] = self.real[places, FINISH]
        self.whole[places, JOB] = self.granted[lanes]
        self.whole[places, TRIES] += 1
        self.granted[lanes] += 1
        self.spent[lanes] += self.whole[places, UNTIL] - self.whole[places, START]
        self.real[places, STARTED] = self.now[lanes]
        self.run(places, self.real[places, COST])

    def release(self, lanes: np.ndarray, places: np.ndarray, dead: np.ndarray) -> None:
        """The clock reaches the finish of the jobs at these places, one a lane: their checkpoints count, save
        of those that are `dead`, and their workers are idle."""
        trial = self.whole[places, TRIAL]
        self.now[lanes] = self.real[places, FINISH]
        self.reached[lanes, trial] = self.whole[places, UNTIL]
        if self.unlucky:
            self.dead[lanes, trial] = dead
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
        none = np.zeros(len(lanes), np.int32)
        self.whole[places] = np.stack([self.granted[lanes], trial, source, start, until, none, none], 1)
        self.granted[lanes] += 1
        self.x[places] = x
        if self.unlucky:
            self.doomed[places] = (source != NONE) & self.dead[lanes, np.maximum(source, 0)]
        if self.settings.thinking:
            self.thinks[lanes] = np.maximum(self.thinks[lanes], self.now[lanes]) + self.settings.thinking
            self.real[places, STARTED] = self.thinks[lanes]
        else:
            self.real[places, STARTED] = self.now[lanes]
        return places

    def run(self, places: np.ndarray, cost: np.ndarray) -> None:
        """The jobs at these places take `cost` f64 simulated seconds, and what the cluster adds."""
        if not (cost.min() >= 0 and cost.max() < np.inf):
            raise ContractError(f"an objective's cost must be finite and not negative, got {cost.min()}")
        self.real[places, COST] = cost
        took = self._took(places, cost) if self._adds else cost
        self.real[places, TOOK] = took
        self.real[places, FINISH] = self.real[places, STARTED] + took

    @property
    def _adds(self) -> bool:
        s = self.settings
        return self.unlucky or s.startup + s.load + s.copy + s.save > 0

    def _took(self, places: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Simulated seconds f64 that jobs take, stragglers and losses included; notes the losses."""
        s, lanes = self.settings, places // self.workers
        job, trial, source, start, until = self.whole[places, :LOST].T
        kept = True
        if self.unlucky:
            while job.max() >= self.luck.shape[1]:
                more = [np.stack([g.standard_normal(LUCK), g.random(LUCK)], 1) for g in self.chance]
                self.luck = np.concatenate([self.luck, more], 1)
            z, u = self.luck[lanes, job].T
            cost = cost * (1 + np.abs(s.straggle * z))
            length = until - start
            # The epoch in which a job is lost is geometric.
            epoch = np.floor(np.log1p(-u) / np.log1p(-s.drop)) + 1 if s.drop else np.full(len(u), np.inf)
            kept = epoch > length
            self.whole[places, LOST] = np.where(kept, 0, np.minimum(epoch, length))
            cost = cost * np.where(kept, 1.0, self.whole[places, LOST] / length)
        added = s.startup + s.load * (source != NONE) + s.copy * ((source != NONE) & (source != trial))
        if self.resumes or self.copies:
            added = added + s.save * np.asarray(kept)
        return cost + added

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
