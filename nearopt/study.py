"""`tune`: spends a budget of trainings on one's own function; a study is its log, and can be gone on with.

A study lives in studies/NAME: `trials.jsonl` (the log, see `study_log`), `study.html`, `checkpoints/`, and
`test.json` once its test was opened. How it is run: `tuning`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.space import Space, check_whole
from nearopt import forms, study_page, study_result
from nearopt.forms import DIVERGED, FINISHED, SIGNATURES, Function
from nearopt.interrupt import Interrupts
from nearopt.study_log import NAME, Log, now, read
from nearopt.study_result import as_space, complete, inside, opened
from nearopt.tuning import Settings, StudyStopped, Tuning
from nearopt.workers import refuse_import

__all__ = ["Study", "StudyStopped", "tune"]


def tune(
    f: Callable[..., Any],
    space: Space | Mapping[str, Any],
    test: Callable[..., Any] | None = None,
    *,
    trials: float | None = None,
    hours: float | None = None,
    strategy: str | Callable[..., Any] = "workflow",
    workers: int | None = None,
    devices: Sequence[int | str] | None = None,
    start: Sequence[Mapping[str, Any]] = (),
    history: Any = None,
    name: str | None = None,
    maximize: bool = False,
    confirm: tuple[int, int] | None = (3, 3),
    max_epoch: int | None = None,
    form: str | None = None,
    range_test: Callable[..., Any] | None = None,
    data: Any = None,
    timeout: float | None = None,
    seed: int = 0,
    folder: str | Path = "studies",
    quiet: bool = False,
) -> Study:
    """Tunes a training function within a budget, and goes on where an earlier call of this name ended.

    f: `f(config) -> loss`, a generator that yields the loss after each epoch, or `f(config, checkpoint_dir,
    start, until, seed) -> loss`; recognised, unless `form` says which. One that takes `seed` is given one.
    space: a `Space` or a dict of axes. test: `test(config)` or `test(config, checkpoint_dir)`, never called
    before `study.open_test()`.
    trials: the study's budget in full trainings; or hours: in wall-clock hours, all calls together.
    strategy: a listed name, with settings if you like ("gp,start=10"), or a factory. workers: processes
    (default one for each of `devices`; without them 1, in this process). devices: each worker sees its own.
    start: configurations to try first. history: trials made elsewhere, as (config, loss) pairs or another
    study's folder; told to a strategy that can learn from them, not charged.
    confirm: (k, n), the best k are trained n times with fresh seeds, charged. max_epoch: epochs of a full
    training (1 for the first form). range_test: `range_test(config, rates) -> losses`, the learning-rate
    finder's epoch. data: what to note the hash of: an array, a file's path, or a list of these. timeout:
    seconds after which a job is given up. seed: of all randomness. folder: where studies lie.

    Raises ValueError, in one line, for bad input, and StudyStopped where the function's first training or
    three trainings in a row raise.
    """
    refuse_import()
    function = forms.recognise(f, form)
    if devices is not None and not isinstance(devices, list | tuple | range):
        raise ValueError(f"devices must be a list, got {devices!r}: write [{devices!r}]")
    settings = Settings(
        name=_check_name(forms.name_of(f).replace("<", "").replace(">", "") if name is None else name),
        space=as_space(space),
        max_epoch=_check_epochs(function, max_epoch),
        trials=trials,
        hours=hours,
        workers=workers if workers is not None else len(devices) if devices else 1,
        devices=tuple(devices) if devices else None,
        maximize=maximize,
        confirm=(0, 0) if confirm is None else confirm,
        timeout=timeout,
        seed=seed,
    )
    if settings.trials is not None and settings.trials + 1e-9 < function.folds:
        raise ValueError(
            f"trials must pay for a configuration, which is {function.folds} folds: got {settings.trials:g}"
        )
    if isinstance(start, Mapping) or not all(isinstance(config, Mapping) for config in start):
        raise ValueError(f"start must be a list of configurations, got {start!r:.80}")
    starts = [complete(settings.space, config) for config in start]
    if range_test is not None and not callable(range_test):
        raise ValueError(f"range_test must be a function, got {range_test!r}")
    if test is not None and not callable(test):
        raise ValueError(f"test must be a function, got {test!r}")
    log = Log(Path(folder) / settings.name / NAME)
    with Interrupts(say=not quiet) as interrupts:
        _jax_on_cpu(inline=settings.inline, say=not quiet)
        factory, label = _strategy(strategy)
        with log.opened():
            study = Tuning(log, function, settings, factory, label, quiet, interrupts)
            study.history, outside = _history(history, settings)
            if outside:
                study.say(
                    f"history: {outside} of {outside + len(study.history)} lie outside the space: left out"
                )
            study.run(starts, range_test, _data_hash(data))
    return Study(log.path.parent, settings.space, test)


def _check_name(name: Any) -> str:
    fit = isinstance(name, str) and 0 < len(name.encode()) <= 200 and not name.startswith(".")
    if not fit or any(c in name for c in '/\\:*?"<>|\n\0'):
        raise ValueError(f"name must be fit for a folder, got {name!r}")
    return name


def _check_epochs(function: Function, max_epoch: int | None) -> int:
    if max_epoch is None:
        if function.form != forms.CONFIG:
            raise ValueError(
                f"max_epoch is needed: how many epochs has a full training of {SIGNATURES[function.form]}?"
            )
        return 1
    check_whole("max_epoch", max_epoch, 1)
    if function.form == forms.CONFIG and max_epoch > 1:
        raise ValueError(
            f"a function of the form {SIGNATURES[forms.CONFIG]} has no epochs: leave max_epoch out"
        )
    return max_epoch


def _strategy(strategy: str | Callable[..., Any]) -> tuple[Callable[..., Any], str]:
    """(factory, label)"""
    if callable(strategy):
        inner = strategy
        settings = ",".join(f"{k}={v}" for k, v in getattr(inner, "keywords", {}).items())
        return strategy, ",".join(filter(None, [getattr(inner, "func", inner).__name__, settings]))
    if not isinstance(strategy, str):
        raise ValueError(f"strategy must be a listed name or a factory, got {strategy!r}")
    from nearopt import catalogue

    entry = catalogue.entry("strategy", strategy)
    return catalogue.strategy_factory(entry.settings), entry.label


def _jax_on_cpu(inline: bool, say: bool) -> None:
    """The strategy is small and runs on the CPU: JAX is not started on a GPU for it, unless it runs there
    already or the user says where it shall."""
    import importlib.util

    import jax
    from jax._src import xla_bridge  # no public name says whether JAX has started

    if jax.config.jax_platforms or getattr(xla_bridge, "backends_are_initialized", bool)():  # type: ignore
        return
    jax.config.update("jax_platforms", "cpu")
    if inline and say and any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        print("JAX is kept on the CPU in this process; a function that uses it on a GPU wants devices=[0]")


def _data_hash(data: Any) -> str | None:
    """sha256 of arrays, files (by path) and lists of these, 12 digits."""
    if data is None:
        return None
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, str | Path):
            if not Path(part).is_file():
                raise ValueError(f"data: no file {part}")
            digest.update(Path(part).read_bytes())
        elif isinstance(part, list | tuple):
            for inner in part:
                add(inner)
        elif hasattr(part, "to_numpy"):
            add(part.to_numpy())
        else:
            array = np.asarray(part)
            digest.update(f"{array.dtype}{array.shape}".encode())
            objects = array.dtype == object
            digest.update(repr(array.tolist()).encode() if objects else np.ascontiguousarray(array).tobytes())

    add(data)
    return digest.hexdigest()[:12]


def _history(history: Any, settings: Settings) -> tuple[list[tuple[dict[str, Any], float]], int]:
    """(config, value) pairs in the user's sign, those inside the space; how many lie outside."""
    if history is None:
        return [], 0
    if isinstance(history, str | Path):
        path = Path(history) / NAME
        if not path.exists():
            raise ValueError(f"history: no study in {history}")
        lines = [line for line in read(path) if line["kind"] == "trial" and line["whole"]]
        history = [
            (line["config"], line["value"]) for line in lines if line["status"] in (FINISHED, DIVERGED)
        ]
    found, outside = [], 0
    for pair in history:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], Mapping)):
            raise ValueError(f"history must be (config, loss) pairs or a study's folder, got {pair!r:.80}")
        try:
            value = settings.sign * math.inf if pair[1] is None else float(pair[1])
        except (TypeError, ValueError):
            raise ValueError(f"history: a loss must be a number or None, got {pair[1]!r:.80}") from None
        if inside(settings.space, pair[0]) is None:
            outside += 1
        else:
            found.append((dict(pair[0]), value))
    return found, outside


@dataclass
class Study:
    """What a study found. `open_test()` is there once."""

    folder: Path
    space: Space
    test: Callable[..., Any] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __post_init__(self):
        self.lines = self.lines or read(self.folder / NAME)
        self.result = study_result.result_of(self.lines, self.space)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best configuration (of a schedule, the last one); None where nothing has finished."""
        return dict(self.result.schedule[-1][0]) if self.result else None

    @property
    def value(self) -> float:
        """Its loss in the user's sign: the mean of its confirmations, where there are some."""
        return self.result.value if self.result else math.nan

    @property
    def checkpoint(self) -> Path | None:
        """The folder of its checkpoint, where the function leaves some."""
        name = self.result.line["checkpoint"] if self.result else None
        return None if name is None else self.folder / "checkpoints" / name

    @property
    def trials(self) -> Any:
        """One row a finished slice of training, as a data frame; `hp_NAME` columns."""
        import pandas as pd

        keep = ["trial", "stage", "source", "start", "until", "value", "status", "seconds", "trainings", "at"]
        rows = [line for line in self.lines if line["kind"] == "trial"]
        return pd.DataFrame(
            [{k: r[k] for k in keep} | {f"hp_{k}": v for k, v in r["config"].items()} for r in rows]
        )

    @property
    def spent(self) -> float:
        """Full trainings charged."""
        return sum(line["trainings"] for line in self.lines if line["kind"] in ("trial", "finder"))

    def open_test(self) -> float:
        """Evaluates the best configuration by the test function: once a study, and never again.

        Raises ValueError where it was opened before, with when and what it showed. A test that raises has
        shown nothing and counts as unopened."""
        if self.test is None:
            raise ValueError("the study has no test: call tune with test=")
        if self.result is None:
            raise ValueError("there is no trained configuration to test")
        path = self.folder / "test.json"
        what = {"opened": now(), "trial": self.result.line["trial"], "config": self.best, "value": None}
        try:
            with open(path, "x") as file:  # made by one process only
                json.dump(what, file, default=str)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            raise ValueError(
                f"the test of study {self.folder.name} was opened before: {opened(path)}"
            ) from None
        try:
            checkpoint = None if self.checkpoint is None else str(self.checkpoint)
            value = forms.call_test(self.test, dict(self.best or {}), checkpoint)
        except BaseException:
            path.unlink()
            raise
        temporary = self.folder / ".test.json"
        temporary.write_text(json.dumps(what | {"value": value}, default=str))
        os.replace(temporary, path)
        study_page.write(self.folder, self.lines, self.space)
        return value

    def __str__(self) -> str:
        return study_result.summary(self.folder, self.lines, self.result, opened(self.folder / "test.json"))
