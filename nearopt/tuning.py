"""A call of `tune` at work: what it trains, in which order, for what budget.

Jobs are told to the strategy in their real order of finish, which the log keeps. So a rerun replays the log
through the strategy and goes on as if it had never stopped; what was under way starts again.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.space import Space, check_real, check_whole
from nearopt import __version__, forms, study_page, study_result
from nearopt.forms import DIVERGED, FINISHED, LATE, MEMORY, RAISED, SIGNATURES, Function, Outcome, Task
from nearopt.interrupt import EXIT, Interrupts
from nearopt.study_log import Log, now
from nearopt.study_result import complete, duration, inside, number, opened, repeats_itself
from nearopt.workers import Inline, Pool, Processes

IN_A_ROW = 3  # trainings that raise one after the other stop a study
CONFIRM_SHARE = 1 / 3  # of a budget, at most
LOST = (RAISED, LATE, MEMORY)  # left no weights to go on with
PAGE_EVERY = 2.0  # seconds, unless writing it takes long
MOST = 2000  # trainings that a plan by the hour foresees at once


class StudyStopped(RuntimeError):
    """The function raises: what stopped the study, with the function's traceback."""


@dataclass(frozen=True)
class Settings:
    """What a call of tune asks for, checked."""

    name: str
    space: Space
    max_epoch: int
    trials: float | None
    hours: float | None
    workers: int
    devices: tuple[int | str, ...] | None
    maximize: bool
    confirm: tuple[int, int]
    timeout: float | None
    seed: int

    def __post_init__(self):
        if (self.trials is None) == (self.hours is None):
            raise ValueError("give the budget as trials= (full trainings) or as hours=, one of them")
        if self.trials is not None:
            check_real("trials", self.trials, 1)
        if self.hours is not None:
            check_real("hours", self.hours)
            if self.hours <= 0:
                raise ValueError(f"hours must be above 0, got {self.hours}")
        check_whole("workers", self.workers, 1)
        check_whole("seed", self.seed, 0, 2**31 - 1)
        if not isinstance(self.maximize, bool):
            raise ValueError(f"maximize must be True or False, got {self.maximize!r}")
        if not isinstance(self.confirm, tuple | list) or len(self.confirm) != 2:
            raise ValueError(f"confirm must be (configurations, seeds) or None, got {self.confirm}")
        check_whole("confirm's configurations", self.confirm[0], 0)
        check_whole("confirm's seeds", self.confirm[1], 0)
        if self.timeout is not None:
            check_real("timeout", self.timeout)
            if self.timeout <= 0:
                raise ValueError(f"timeout must be above 0 seconds, got {self.timeout}")

    @property
    def inline(self) -> bool:
        """Whether the function runs in this process."""
        return self.workers == 1 and self.devices is None and self.timeout is None

    @property
    def sign(self) -> float:
        """Losses are lower-is-better inside."""
        return -1.0 if self.maximize else 1.0


class Tuning:
    """One call of tune at work."""

    def __init__(
        self,
        log: Log,
        function: Function,
        settings: Settings,
        factory: Callable[..., Any],
        label: str,
        quiet: bool,
        interrupts: Interrupts,
    ):
        self.interrupts = interrupts
        self.log, self.function, self.settings, self.label, self.quiet = log, function, settings, label, quiet
        self.factory, self.folder = factory, log.path.parent
        self.space, self.max_epoch, self.sign = settings.space, settings.max_epoch, settings.sign
        self.history: list[tuple[dict[str, Any], float]] = []
        self.clock = time.monotonic()
        self.past = 0.0  # seconds of earlier calls
        self.session = 0
        self.pool: Pool | None = None
        self.page_at, self.page_took = -math.inf, 0.0
        self.live_folders: set[str] = set()  # checkpoints of running jobs and of their sources

    # What the log says ---------------------------------------------------------------------------------

    @property
    def trials(self) -> list[dict[str, Any]]:
        return [line for line in self.log.lines if line["kind"] == "trial"]

    def spent(self) -> float:
        """Full trainings charged so far."""
        return sum(line["trainings"] for line in self.log.lines if line["kind"] in ("trial", "finder"))

    def hours_spent(self) -> float:
        return (self.past + time.monotonic() - self.clock) / 3600

    def next_trial(self) -> int:
        return 1 + max((line["trial"] for line in self.trials), default=-1)

    def seconds_of_training(self) -> float:
        """Median seconds of a full training, from what was trained."""
        per = [t["seconds"] / (t["until"] - t["start"]) for t in self.trials if t["status"] != LATE]
        return statistics.median(per) * self.max_epoch if per else 0.0

    # The study -----------------------------------------------------------------------------------------

    def run(self, starts: list[dict[str, Any]], range_test: Any, data: str | None) -> None:
        sessions = [line for line in self.log.lines if line["kind"] == "session"]
        if sessions and sessions[-1]["maximize"] != self.settings.maximize:
            before = sessions[-1]["maximize"]
            raise ValueError(f"study {self.settings.name} has maximize={before}: give another name")
        # Before anything is trained, with what will be left for it after the default configuration.
        left = 30.0 if self.settings.trials is None else self.settings.trials / self.function.folds - 1
        strategy = self.make(max(1.0, left - math.prod(self.reserve())))
        try:
            self.begin(sessions, data)
            self.say(self.opening(strategy, sessions))
            self.pool = self.make_pool()
            self.first(starts)
            rate = self.find_rate(strategy, range_test)
            self.search(rate)
            self.confirm()
            if math.prod(self.reserved()) and self._repeats_itself():
                self.search(rate, left=True)
            self.end_pool()
            self.collect()
            self.write_page(now=True)
            self.say(self.summary())
        except KeyboardInterrupt:
            self.interrupts.closing = True
            if not self.log.lines:
                raise
            self.end_pool()
            self.write_page(now=True)
            self.say(
                f"\ninterrupted; what was trained is kept, the same call of tune goes on\n{self.summary()}"
            )
            raise SystemExit(EXIT) from None
        except StudyStopped:
            self.write_page(now=True)
            raise
        finally:
            self.end_pool()

    def begin(self, sessions: list[dict[str, Any]], data: str | None) -> None:
        """Notes this call of tune."""
        self.past = sum(self._length(i) for i in range(len(sessions)))
        self.session = len(sessions)
        version = forms.code_version(self.function.f)
        for what, mine in (("code", version), ("data", data)):
            if sessions and sessions[-1][what] != mine and None not in (sessions[-1][what], mine):
                thing = forms.name_of(self.function.f) if what == "code" else "data"
                self.say(
                    f"{thing} changed since the last call ({sessions[-1][what]}, now {mine}): its trials are "
                    "taken as comparable; another name= starts anew"
                )
        self.log.append(
            "session", **({} if sessions else {"format": 1}), session=self.session, at=now(),
            nearopt=__version__, python=platform.python_version(), function=forms.name_of(self.function.f),
            form=self.function.form, folds=self.function.folds, code=version, data=data,
            strategy=self.label, space={k: repr(a) for k, a in self.space.axes.items()},
            max_epoch=self.max_epoch, trials=self.settings.trials, hours=self.settings.hours,
            workers=self.settings.workers, devices=self.settings.devices, maximize=self.settings.maximize,
            confirm=self.settings.confirm, timeout=self.settings.timeout, seed=self.settings.seed,
        )  # fmt: skip

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def opening(self, strategy: Any, sessions: list) -> str:
        s = self.settings
        budget = f"{s.trials:g} trainings" if s.trials is not None else f"{s.hours:g} hours"
        folds = f", {self.function.folds} for each configuration" if self.function.folds > 1 else ""
        where = "" if s.inline else f" on {s.workers} worker{'s' * (s.workers > 1)}"
        done = f"; {number(self.spent())} trainings are done" if sessions else ""
        return f"study {s.name}: {budget}{folds}, {self.label}{where}{done}; log and page in {self.folder}"

    def _length(self, session: int) -> float:
        return max((x.get("clock", 0.0) for x in self.log.lines if x.get("session") == session), default=0.0)

    def make(self, budget: float) -> Any:
        """The strategy, to look at; raises ValueError where this function does not offer what it needs."""
        from bench.loop import FORMS, host_factory
        from bench.protocols import lacking

        seed = {"seed": 0} if host_factory(self.factory) else {}
        strategy = self.factory(cube=self.space.cube(), max_epoch=self.max_epoch, budget=budget, **seed)
        missing = lacking(strategy.needs, FORMS[self.function.form], self.max_epoch)
        if missing:
            form = "checkpoint" if {"copy", "change"} & set(missing) else "generator or the checkpoint"
            raise ValueError(
                f"{self.label} needs {', '.join(missing)}, which {SIGNATURES[self.function.form]} does not "
                f"offer: write the function in the {form} form"
            )
        return strategy

    def make_pool(self) -> Pool:
        s = self.settings
        return (
            Inline(self.function) if s.inline else Processes(self.function, s.workers, s.devices, s.timeout)
        )

    def end_pool(self) -> None:
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    # Trials outside the strategy -----------------------------------------------------------------------

    def first(self, starts: list[dict[str, Any]]) -> None:
        """The default configuration, then those to start with; what is there already is not trained again."""
        default = complete(self.space, {})
        for stage, wanted in (("default", [default]), ("start", starts)):
            tasks = []
            for config in wanted:
                x = self.space.encode(config)
                if not any(np.allclose(place, x, atol=1e-5) for place in self.trained()):
                    tasks.append((config, x))
            trial = self.next_trial()
            self.train_all(
                [
                    dict(
                        stage=stage, trial=trial + i, config=config, x=x, start=0, until=self.max_epoch,
                        slices=((config, 0, self.max_epoch),), seed=self.seed_of(trial + i),
                    )
                    for i, (config, x) in enumerate(tasks)
                ],
                limited=stage == "start",
            )  # fmt: skip

    def trained(self) -> list[np.ndarray]:
        """Points of the space that were trained in full."""
        lines = [t for t in self.trials if t["stage"] != "confirm" and t["until"] == self.max_epoch]
        places = [inside(self.space, t["config"]) for t in lines]
        return [place for place in places if place is not None]

    def seed_of(self, trial: int, repeat: int | None = None) -> int:
        """A training's seed; `repeat`: of a confirmation, the same for all that are confirmed."""
        text = f"{self.settings.seed}/{trial}" if repeat is None else f"{self.settings.seed}/confirm/{repeat}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def train_all(self, jobs: list[dict[str, Any]], limited: bool = True) -> None:
        """Trains jobs that no strategy asked for; `limited`: as far as the budget reaches."""
        assert self.pool is not None
        waiting, running = list(jobs), {}
        while waiting or running:
            while waiting and len(running) < self.pool.size:
                job = waiting.pop(0)
                job["trainings"] = self.trainings(0, job["until"])
                under_way = sum(j["trainings"] for j in running.values())
                if limited and not self.affordable(under_way + job["trainings"]):
                    if job["stage"] == "start":
                        self.say(
                            f"{len(waiting) + 1} of start= are not tried: the budget does not pay for them"
                        )
                    waiting.clear()
                    break
                number = len(running) and max(running) + 1
                folder = self.new_folder(f"{job['stage']}{job['trial']}-{job.get('repeat', 0)}")
                running[number] = job | {"checkpoint": folder}
                self.pool.submit(Task(number, None, job["slices"], job["seed"], None, self.path(folder)))
            if running:
                for outcome in self.pool.finished():
                    job = running.pop(outcome.id)
                    del job["slices"]
                    self.note(outcome, source=-1, **job)

    def affordable(self, trainings: float) -> bool:
        s = self.settings
        if s.trials is not None:
            return self.spent() + trainings <= s.trials + 1e-9
        assert s.hours is not None
        return self.hours_spent() < s.hours

    def trainings(self, start: int, until: int) -> float:
        return (until - start) / self.max_epoch * self.function.folds

    def find_rate(self, strategy: Any, range_test: Any) -> float | None:
        """The rate that the learning-rate finder suggests, where the strategy wants one and the function has
        a range test (or had one in an earlier call); it costs an epoch."""
        from bench.drive import takes_hint
        from bench.lr_finder import find, rate_axes, test_rates

        if not takes_hint(strategy):
            return None
        found = [line for line in self.log.lines if line["kind"] == "finder"]
        if found or range_test is None:
            return found[-1]["rate"] if found else None
        if not rate_axes(self.space):
            raise ValueError("range_test needs a learning rate: a Float axis with role='rate'")
        config = complete(self.space, {})
        rates = test_rates()
        given = range_test(dict(config), rates.tolist())
        if not hasattr(given, "__len__") or not 0 < len(given) <= len(rates):
            got = f"{len(given)} for {len(rates)}" if hasattr(given, "__len__") else repr(given)
            raise ValueError(f"range_test must give a loss for each rate, got {got}")
        losses = np.array([forms.number(v) for v in given])
        finding = find(rates[: len(losses)], self.sign * losses)
        rate = finding.suggestions["guide"]
        self.log.append(
            "finder", session=self.session, at=now(), clock=time.monotonic() - self.clock, rate=rate,
            words=finding.words, rates=rates[: len(losses)], losses=losses, trainings=self.trainings(0, 1),
        )  # fmt: skip
        self.say(f"learning-rate finder: {finding.words}" + (f"; suggests {rate:.2g}" if rate > 0 else ""))
        return self.log.lines[-1]["rate"]

    # The strategy's trials -----------------------------------------------------------------------------

    @property
    def plans(self) -> list[dict[str, Any]]:
        return [line for line in self.log.lines if line["kind"] == "plan"]

    def reserve(self) -> tuple[int, int]:
        """How many configurations a plan made now leaves to be confirmed, with how many seeds: for at most a
        third of the budget, or of what was added to it."""
        k, n = self.settings.confirm
        if k == 0 or n == 0 or self._repeats_itself():
            return 0, 0
        if self.settings.trials is not None:
            before = next((plan["total"] for plan in reversed(self.plans) if plan["total"]), 0.0)
            most = (self.settings.trials - before) * CONFIRM_SHARE / self.function.folds
        else:
            most = self._hours() * CONFIRM_SHARE / max(self.hours_of_training(), 1e-9)
        k = max(min(k, math.floor(most / n + 1e-9)), 0)
        return (k, n) if k else (0, 0)

    def reserved(self) -> tuple[int, int]:
        """What the last plan left to be confirmed."""
        k, n = self.plans[-1]["reserve"] if self.plans else (0, 0)
        return k, n

    def _repeats_itself(self) -> bool:
        """Whether nothing is random in the function, so that there is no noise to look for."""
        return not self.function.seeded and repeats_itself(self.log.lines, self.space)

    def _hours(self) -> float:
        assert self.settings.hours is not None
        return self.settings.hours

    def hours_of_training(self) -> float:
        """Wall-clock hours that a full training costs with all workers busy."""
        return self.seconds_of_training() / 3600 / self.settings.workers

    def in_time(self) -> bool:
        """Whether the hours, where the budget is in hours, allow for more before the confirmation."""
        if self.settings.hours is None:
            return True
        kept = self.reserved() if self.plans else self.reserve()
        left = self.settings.hours - math.prod(kept) * self.hours_of_training()
        return self.hours_spent() < left

    def budget(self, plan: dict[str, Any] | None, anytime: bool) -> float:
        """Trainings of a configuration that the whole of a plan (None: a new one) may cost."""
        folds = self.function.folds
        if plan is None:
            own = self.trainings(0, self._unclaimed())
        else:
            lines = [t for t in self.trials if t["segment"] == plan["segment"]]
            own = sum(line["trainings"] for line in lines) + self.trainings(0, plan["charged"])
        if self.settings.trials is not None:
            outside = self.spent() - own
            return (self.settings.trials - outside) / folds - math.prod(self.reserve())
        hours = self._hours() - self.hours_spent() - math.prod(self.reserve()) * self.hours_of_training()
        left = min(hours / max(self.hours_of_training(), 1e-9), MOST)
        # The clock ends what can be cut anywhere; the rest must be laid out for what is likely to fit.
        return own / folds + (min(2 * left, MOST) if anytime else math.floor(left))

    def search(self, rate: float | None, left: bool = False) -> None:
        """The strategy's trials; `left`: with what the confirmation turned out not to need."""
        plan = self.plan_now(rate, left)
        while plan is not None:
            trained = self.follow(plan)
            plan = self.plan_next(plan, trained, rate)

    def _identity(self, rate: float | None) -> str:
        """What a plan depends on, beside its budget."""
        axes = {k: repr(a) for k, a in self.space.axes.items()}
        folds, seed = self.function.folds, self.settings.seed
        what = [self.label, axes, self.max_epoch, self.function.form, folds, seed, self.history, rate]
        return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:12]

    def plan_now(self, rate: float | None, left: bool) -> dict[str, Any] | None:
        """The plan to go on with: the last one, enlarged if there is more budget and the strategy is anytime
        (a run for less is the beginning of a run for more), else a new one. What is `left` goes only to
        strategies that can use what is known by then."""
        from bench.drive import takes_prior

        plan = self.plans[-1] if self.plans else None
        if plan is None or plan["identity"] != self._identity(rate) or self._departed(plan):
            return self.plan_anew(rate)
        if self._anytime(plan):
            return self.enlarge(plan) if left or self._grown(plan) else plan
        return self.plan_anew(rate) if left and takes_prior(self.factory) else plan

    def plan_next(self, plan: dict[str, Any], trained: int, rate: float | None) -> dict[str, Any] | None:
        """What follows a plan that has been followed to its end."""
        if self._departed(plan):
            return self.plan_anew(rate)
        if self.settings.trials is not None:
            return self.plan_anew(rate) if self._grown(plan) and not self._anytime(plan) else None
        if not trained or not self.in_time():
            return None
        return self.enlarge(plan) if self._anytime(plan) else self.plan_anew(rate)

    def _departed(self, plan: dict[str, Any]) -> bool:
        gone = [line["segment"] for line in self.log.lines if line["kind"] == "departed"]
        return plan["segment"] in gone

    def _grown(self, plan: dict[str, Any]) -> bool:
        trials, before = self.settings.trials, plan["total"]
        return trials is not None and (before is None or trials > before + 1e-9)

    def _anytime(self, plan: dict[str, Any]) -> bool:
        return bool(self.make(plan["budget"]).anytime)

    def enlarge(self, plan: dict[str, Any]) -> dict[str, Any]:
        budget = self.budget(plan, True)
        if budget <= plan["budget"] * (1 + 1e-9):
            return plan
        changed = dict(plan, budget=budget, total=self.settings.trials, session=self.session)
        changed["reserve"] = self.reserve()
        return self.log.append(**changed)

    def _unclaimed(self) -> int:
        """Epochs that a finder cost and no plan has on its account."""
        cost = sum(line["kind"] == "finder" for line in self.log.lines)
        return cost - sum({plan["segment"]: plan["charged"] for plan in self.plans}.values())

    def plan_anew(self, rate: float | None) -> dict[str, Any] | None:
        """A new run of the strategy, told of what is known already if it can be told; None where the budget
        does not pay for a training."""
        from bench.drive import takes_prior

        strategy = self.make(max(1.0, self.budget(None, False)))
        budget = self.budget(None, bool(strategy.anytime))
        segment = len(self.plans)
        if budget + 1e-9 < 1:
            if not self.plans or self._grown(self.plans[-1]):
                self.say(f"what is left does not pay for a training by {self.label}: more trials are needed")
            return None
        takes = takes_prior(self.factory)
        if self.history and not takes:
            raise ValueError(
                f"history: {self.label} cannot be told trials made elsewhere; gp, tpe and workflow can"
            )
        told = self.told() if takes else []
        return self.log.append(
            "plan", session=self.session, segment=segment, strategy=self.label, identity=self._identity(rate),
            budget=budget, total=self.settings.trials, reserve=self.reserve(), charged=self._unclaimed(),
            seed=self.settings.seed + segment, rate=rate,
            told_x=[x for x, _ in told], told_loss=[loss for _, loss in told],
        )  # fmt: skip

    def told(self) -> list[tuple[np.ndarray, float]]:
        """Full trainings inside the space, made before: (x, loss)."""
        found = []
        lines = [t for t in self.trials if t["stage"] != "confirm" and t["until"] == self.max_epoch]
        pairs = [(t["config"], t["value"]) for t in lines if t["whole"] and t["status"] != RAISED]
        for config, value in self.history + pairs:
            x = inside(self.space, config)
            if x is not None:
                found.append((x, self._loss(value)))
        return found

    def _loss(self, value: float | None) -> float:
        """As it is told: lower is better, infinite where there is none."""
        return math.inf if value is None or not math.isfinite(value) else self.sign * value

    def follow(self, plan: dict[str, Any]) -> int:
        """Replays what the log has of a plan, then goes on with it to its end; returns the number of new
        jobs. Where the log does not follow from the strategy (another version of it), that is noted and the
        plan is left."""
        work = Work(self, plan)
        lines, segment = self.log.lines, plan["segment"]
        first = next(i for i, x in enumerate(lines) if x["kind"] == "plan" and x["segment"] == segment)
        workers = next(x["workers"] for x in reversed(lines[:first]) if x["kind"] == "session")
        for line in lines[first:]:
            if line["kind"] == "session":
                work.grant(workers)
                workers, work.run.asking = line["workers"], True
            elif line["kind"] == "plan" and line is not lines[first]:  # enlarged, since there is no later one
                work.run.asking = True
            elif line["kind"] == "ended" and line["segment"] == segment:
                work.grant(workers, line["granted"])
                work.run.asking = False
            elif line["kind"] == "trial" and line["segment"] == segment:
                work.grant(workers)
                if not work.replay(line):
                    self.log.append("departed", segment=segment, session=self.session)
                    self.say(
                        f"the log does not follow from {self.label} as it is now (another version?): it "
                        "starts anew, told of the trials so far where it learns from them"
                    )
                    return 0
        return work.go_on(workers)

    def note(self, outcome: Outcome, **job: Any) -> dict[str, Any]:
        """Logs a result, shows it, and stops the study where the function raises too often."""
        if outcome.status == RAISED:
            self._raised(outcome, job)
        known = {"segment": None, "job": None, "slot": None, "parent": None, "repeat": None, "draw": None}
        known |= job
        line = self.log.append(
            "trial", session=self.session, **known, whole=job["until"] == self.max_epoch,
            status=outcome.status, value=outcome.value, seconds=outcome.seconds, curve=outcome.curve,
            error=outcome.error[-2000:], clock=time.monotonic() - self.clock, at=now(),
        )  # fmt: skip
        self.say(self.line_of(line))
        self.write_page()
        self.interrupts.check()
        return line

    def _raised(self, outcome: Outcome, job: dict[str, Any]) -> None:
        before = [line["status"] == RAISED for line in self.trials[1 - IN_A_ROW :]]
        if self.trials and not (len(before) == IN_A_ROW - 1 and all(before)):
            return
        what = f"{IN_A_ROW} trainings in a row raised" if self.trials else "the first training raised"
        config = job["config"]
        self.log.append("error", session=self.session, config=config, error=outcome.error, at=now())
        self.end_pool()
        raise StudyStopped(f"{what}; with {config}:\n{outcome.error}")

    def line_of(self, line: dict[str, Any]) -> str:
        """What is printed of a trial."""
        best = study_result.best_of(self.log.lines, self.space)
        value = number(line["value"]) if line["status"] == FINISHED else line["status"]
        epochs = "" if line["whole"] else f"  epoch {line['until']}/{self.max_epoch}"
        stage = "" if line["stage"] == "search" else f"  {line['stage']}"
        so_far = f"best {number(best['value'])} (trial {best['trial']})" if best else "no best yet"
        if self.settings.trials is not None:
            share = f"{number(self.spent())}/{self.settings.trials:g}"
        else:
            share = f"{self.hours_spent():.2g}/{self.settings.hours:g} h"
        config = " ".join(f"{k}={number(v)}" for k, v in line["config"].items())
        seconds = duration(line["seconds"])
        result = f"trial {line['trial']:<3} {value:<10} {so_far:<26} {seconds:<7}"
        return f"{share:>8}  {result} {config}{epochs}{stage}"

    # The end -------------------------------------------------------------------------------------------

    def confirm(self) -> None:
        """Trains the best configurations again with fresh seeds."""
        k, n = self.reserved()
        top = study_result.ranking(self.log.lines, self.space)[:k]
        wanted = []
        for line in top:
            slices = tuple(study_result.schedule(self.log.lines, line, self.space))
            done = {t["repeat"] for t in study_result.confirmations(self.log.lines, line)}
            for repeat in range(n):
                if repeat not in done:
                    wanted.append(
                        dict(
                            stage="confirm", trial=line["trial"], config=line["config"], x=line["x"], start=0,
                            until=line["until"], slices=slices, seed=self.seed_of(0, repeat), repeat=repeat,
                        )
                    )  # fmt: skip
        for some in (wanted[:1], wanted[1:]):  # one shows whether there is any noise; a killed call knows it
            if not self._repeats_itself():
                self.train_all(some)

    def new_folder(self, name: str) -> str | None:
        return f"{name}-{self.session}" if self.function.form == forms.CHECKPOINT else None

    def path(self, folder: str | None) -> str | None:
        return None if folder is None else str(self.folder / "checkpoints" / folder)

    def collect(self) -> None:
        """Removes the checkpoints that nothing needs: neither a job, nor the best trials, one of which the
        confirmation will choose."""
        root = self.folder / "checkpoints"
        if not root.is_dir():
            return
        best = study_result.ranking(self.log.lines, self.space)[: max(self.settings.confirm[0], 1)]
        result = study_result.result_of(self.log.lines, self.space)
        keep = self.live_folders | {line["checkpoint"] for line in best}
        keep |= {result.line["checkpoint"]} if result else set()
        for folder in root.iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def write_page(self, now: bool = False) -> None:
        """study.html, unless it was written a moment ago; its time is at most a twentieth of the study's."""
        clock = time.monotonic()
        if now or clock - self.page_at > max(PAGE_EVERY, 20 * self.page_took):
            study_page.write(self.folder, self.log.lines, self.space)
            self.page_at = time.monotonic()
            self.page_took = self.page_at - clock

    def summary(self) -> str:
        result = study_result.result_of(self.log.lines, self.space)
        return study_result.summary(self.folder, self.log.lines, result, opened(self.folder / "test.json"))


class Work:
    """A plan at work: the strategy's run, and what this study calls its jobs."""

    def __init__(self, study: Tuning, plan: dict[str, Any]):
        from bench.drive import Prior, hint_of_rates, with_prior
        from bench.live import Run

        self.study, self.segment = study, plan["segment"]
        told = len(plan["told_loss"])
        prior = None
        if told:
            loss = np.array([np.inf if v is None else v for v in plan["told_loss"]])
            x = np.array(plan["told_x"], np.float32)
            prior = Prior(x, loss, np.full(told, np.nan), np.full(told, study.max_epoch, np.int32))
        lanes = None if prior is None else Prior(*(a[None] for a in prior))
        rate = math.nan if plan["rate"] is None else plan["rate"]
        hint = hint_of_rates(study.space, [rate]) if plan["charged"] or rate > 0 else None
        most = max(line["workers"] for line in study.log.lines if line["kind"] == "session")
        budget, charged = plan["budget"], plan["charged"]
        if hint is not None and not charged:  # paid by an earlier plan; a strategy expects it in its budget
            budget, charged = budget + 1 / study.max_epoch, 1
        self.run = Run(
            with_prior(study.factory, lanes, 1, study.max_epoch), study.space, study.max_epoch,
            budget, plan["seed"], prior, None if hint is None else hint.x[0], most, charged,
        )  # fmt: skip
        self.trial: dict[int, int] = {}  # slot of the strategy -> trial of the study
        self.last: dict[int, tuple[int, str | None, str]] = {}  # slot -> its last job, checkpoint, status
        self.parent: dict[int, tuple[int, str | None, str] | None] = {}  # job -> what it starts from
        self.folders: dict[int, str | None] = {}  # running job -> its checkpoint
        self.results: list[Outcome] = []
        self.new = 0

    def grant(self, workers: int, limit: float = math.inf) -> list[Any]:
        """Lets the strategy ask as often as it may, up to `limit` jobs in all."""
        found = []
        while self.run.granted < limit and (job := self.run.ask(workers)) is not None:
            self.parent[job.job] = self.last.get(job.source)
            found.append(job)
        return found

    def replay(self, line: dict[str, Any]) -> bool:
        """Tells a logged result; False where no such job was asked for."""
        held = self.run.outstanding.get(line["job"])
        x = np.array(line["x"], np.float32)
        if held is None:
            return False
        job = held[1]
        same = (job.trial, job.source, job.start, job.until) == tuple(
            line[k] for k in ("slot", "source", "start", "until")
        )
        if not same or np.abs(job.x - x).max() > 1e-4:
            return False
        self.trial[job.trial] = line["trial"]
        self._tell(line, x)
        return True

    def _tell(self, line: dict[str, Any], x: np.ndarray | None = None) -> None:
        loss = self.study._loss(line["value"])
        self.run.tell(line["job"], loss, line["seconds"], line["clock"], x)
        self.last[line["slot"]] = line["job"], line["checkpoint"], line["status"]

    def go_on(self, workers: int) -> int:
        """Trains what was under way, then whatever the strategy asks for."""
        study = self.study
        for job in [granted for _, (_, granted) in sorted(self.run.outstanding.items())]:
            self._submit(job)
        ended = False
        while True:
            if self.run.asking and not study.in_time():
                self.run.asking = False
            for job in self.grant(workers):
                self._submit(job)
            if not self.run.asking and not ended:
                ended = True
                study.log.append(
                    "ended", session=study.session, segment=self.segment, granted=self.run.granted
                )
            study.live_folders = self._needed()
            if not self.run.outstanding:
                return self.new
            study.interrupts.check()
            if not self.results:
                assert study.pool is not None
                self.results = study.pool.finished()
            self._take(self.results.pop(0))
            study.collect()

    def _needed(self) -> set[str]:
        """Checkpoints of this plan that a job has, starts from, or may start from."""
        sources = [self.parent[job] for job in self.run.outstanding]
        names = [folder for _, folder, _ in [*self.last.values(), *filter(None, sources)]]
        return {name for name in [*names, *self.folders.values()] if name is not None}

    def _submit(self, job: Any) -> None:
        study = self.study
        if job.trial not in self.trial:
            self.trial[job.trial] = max(study.next_trial(), 1 + max(self.trial.values(), default=-1))
        trial, parent = self.trial[job.trial], self.parent[job.job]
        if parent is not None and parent[2] in LOST:
            # Nothing to go on from; the strategy hears that it diverged, as it had heard before.
            self.results.append(Outcome(job.job, DIVERGED, math.nan, 0.0))
            self.folders[job.job] = None
            return
        folder = self.folders[job.job] = study.new_folder(f"{self.segment}-{job.job}")
        slices = ((study.space.decode(job.x), job.start, job.until),)
        source = None if parent is None else study.path(parent[1])
        assert study.pool is not None
        held = trial if study.function.form == forms.GENERATOR else None
        study.pool.submit(
            Task(
                job.job, held, slices, self.run.trial_seed(job.trial), source, study.path(folder),
                job.until == study.max_epoch,
            )
        )  # fmt: skip

    def _take(self, outcome: Outcome) -> None:
        study, job = self.study, self.run.outstanding[outcome.id][1]
        parent = self.parent[job.job]
        folder = self.folders.pop(job.job)
        kept = folder if outcome.status not in LOST else None
        draws = getattr(self.run.strategy, "draws", range(0))
        line = study.note(
            outcome, stage="search", segment=self.segment, job=job.job, slot=job.trial,
            draw=draws.index(job.trial) if job.trial in draws else None,
            trial=self.trial[job.trial], source=job.source, parent=None if parent is None else parent[0],
            start=job.start, until=job.until, config=study.space.decode(job.x), x=job.x,
            trainings=study.trainings(job.start, job.until), seed=self.run.trial_seed(job.trial),
            checkpoint=kept,
        )  # fmt: skip
        self.new += 1
        self._tell(line)
