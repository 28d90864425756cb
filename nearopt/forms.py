"""A user's training function: which of the three forms it is, how one slice of it is run, k-fold.

Standard library only: worker processes import this, and must not start JAX.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import math
import os
import shutil
import statistics
import time
import tokenize
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG, GENERATOR, CHECKPOINT = "config", "generator", "checkpoint"
SIGNATURES = {
    CONFIG: "f(config) -> loss",
    GENERATOR: "f(config) that yields the loss after each epoch",
    CHECKPOINT: "f(config, checkpoint_dir, start, until, seed) -> loss",
}
FINISHED, DIVERGED, RAISED, LATE, MEMORY = "finished", "diverged", "raised", "timed out", "out of memory"


@dataclass(frozen=True)
class Function:
    """A training function with its form; `seeded`: it takes a seed; `folds`: fits that one call makes."""

    f: Callable[..., Any]
    form: str
    seeded: bool
    folds: int = 1


@dataclass(frozen=True)
class Task:
    """Slices to train one after the other, (config, start, until) each; the last one's loss counts. `trial`
    names the weights that a generator holds, None: nobody goes on from these · source, folder: of
    checkpoints, to copy from and to train in (the checkpoint form) · final: nobody goes on from here."""

    id: int
    trial: int | None
    slices: tuple[tuple[dict[str, Any], int, int], ...]
    seed: int
    source: str | None = None
    folder: str | None = None
    final: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a task gave. `value`: the last loss in the user's sign, nan where there is none · `curve`: those
    of the epochs after the task's start, as far as they are known, of every epoch or of none."""

    id: int
    status: str
    value: float
    seconds: float
    curve: tuple[float, ...] = ()
    error: str = ""


def _inner(f: Any) -> Any:
    """The function behind partial objects and instances with `__call__`."""
    while isinstance(f, functools.partial):
        f = f.func
    plain = inspect.isroutine(f) or inspect.isclass(f) or not callable(f)
    return f if plain else type(f).__call__


def name_of(f: Any) -> str:
    """How messages call a function."""
    inner = f.f if isinstance(f, KFold) else _inner(f)
    return getattr(inner, "__qualname__", None) or type(f).__name__


def _parameters(f: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # some of those written in C
        return [inspect.Parameter("config", inspect.Parameter.POSITIONAL_ONLY)]


def _needed(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in parameters if p.kind in kinds and p.default is p.empty]


def recognise(f: Any, form: str | None = None) -> Function:
    """A training function as what it is: a generator function, one that takes a `checkpoint_dir`, else one of
    a configuration; or as the `form` that is given. Raises ValueError for what cannot be called so."""
    if isinstance(f, KFold):
        form = form or f.form
        seeded = form == CHECKPOINT or "seed" in [p.name for p in _parameters(f.f)]
        return Function(f, form, seeded, f.folds)
    if not callable(f):
        raise ValueError(f"f must be a function, got {f!r}")
    if form is not None and form not in SIGNATURES:
        raise ValueError(f"form must be one of {', '.join(SIGNATURES)}, got {form!r}")
    inner, parameters = _inner(f), _parameters(f)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise ValueError(f"{name_of(f)} is asynchronous: f must be an ordinary function")
    names, needed = [p.name for p in parameters], _needed(parameters)
    if form is None:
        stored = "checkpoint_dir" in names or len(needed) == 5
        form = GENERATOR if inspect.isgeneratorfunction(inner) else CHECKPOINT if stored else CONFIG
    most = 5 if form == CHECKPOINT else 2 if len(needed) == 2 and needed[1].name == "seed" else 1
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = math.inf if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(places)
    if len(needed) > most or taken < (5 if form == CHECKPOINT else 1):
        got = f"{name_of(f)}({', '.join(names)})"
        raise ValueError(f"a function of the {form} form is {SIGNATURES[form]}, got {got}")
    return Function(f, form, form == CHECKPOINT or "seed" in names)


def code_version(f: Any) -> str:
    """A hash of the function's source (of its bytecode, where there is no source), 12 digits."""
    extra = ""
    while isinstance(f, functools.partial | KFold):
        given = f.folds if isinstance(f, KFold) else (f.args, f.keywords)
        extra += repr(given) if given != ((), {}) else ""
        f = f.func if isinstance(f, functools.partial) else f.f
    kind = f if inspect.isroutine(f) or inspect.isclass(f) else type(f)
    try:
        source = inspect.getsource(kind).encode()
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # not in a file, or not as it stands there
        source = getattr(getattr(f, "__code__", None), "co_code", b"")
    return hashlib.sha256(source + extra.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class KFold:
    """The mean over folds of a function of a fold; see `kfold`."""

    f: Callable[..., Any]
    folds: int
    form: str

    def __call__(self, config: Mapping[str, Any], *args: Any, **seed: Any) -> Any:
        if self.form == GENERATOR:
            return self._epochs(config, **seed)
        if self.form == CHECKPOINT:
            folder, *rest = args
            return self._mean(
                self.f(config, self._folder(folder, k), *rest, fold=k) for k in range(self.folds)
            )
        return self._mean(self.f(config, fold=k, **seed) for k in range(self.folds))

    def _mean(self, values: Any) -> float:
        return statistics.fmean(number(value) for value in values)

    def _folder(self, folder: str, k: int) -> str:
        path = Path(folder) / f"fold{k}"
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _epochs(self, config, **seed):
        for values in zip(*(self.f(config, fold=k, **seed) for k in range(self.folds)), strict=False):
            yield self._mean(values)


def kfold(f: Callable[..., Any], folds: int = 5) -> KFold:
    """A training function of all folds from one that also takes `fold`, 0 to folds - 1, in any of the three
    forms: `f(config, fold)`, a generator of it, or `f(config, checkpoint_dir, start, until, seed, fold)`.

    The loss is the mean over the folds, which are trained one after the other in one job (a generator's side
    by side, an epoch of each at a time). Each fold is a training and is charged as one: with trials=30 and 5
    folds there are 6 configurations."""
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds must be a whole number of at least 2, got {folds!r}")
    if not callable(f) or "fold" not in [p.name for p in _parameters(f)]:
        raise ValueError(f"kfold needs a function with an argument named fold, got {name_of(f)}")
    generator = inspect.isgeneratorfunction(_inner(f))
    stored = "checkpoint_dir" in [p.name for p in _parameters(f)]
    return KFold(f, folds, GENERATOR if generator else CHECKPOINT if stored else CONFIG)


def number(value: Any) -> float:
    """A loss as a float; raises TypeError in words for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the function must give a number, got {value!r:.80}") from None


def run_task(function: Function, task: Task, held: dict[Any, Any]) -> Outcome:
    """Trains a task. `held`: generators by trial, each with its last loss; one
    that is not held is begun anew, and drawn to the epoch at which the task starts."""
    clock, curve = time.perf_counter(), []
    try:
        for config, start, until in task.slices:
            if function.form == CHECKPOINT:
                curve = [_stored(function.f, task, config, start, until)]
            else:
                seed = {"seed": task.seed} if function.seeded else {}
                if function.form == GENERATOR:
                    curve = _drawn(function.f, task, config, start, until, seed, held)
                else:
                    curve = [number(function.f(dict(config), **seed))]
    except (Exception, SystemExit) as error:  # scripts of training call sys.exit
        held.pop(task.trial, None)
        text = "".join(traceback.format_exception(error))
        return Outcome(task.id, _kind(error), math.nan, time.perf_counter() - clock, error=text)
    seconds, value = time.perf_counter() - clock, curve[-1]
    status = FINISHED if math.isfinite(value) else DIVERGED
    whole = function.form == GENERATOR or task.slices[-1][2] == 1
    return Outcome(task.id, status, value, seconds, tuple(curve) if whole else ())


def _stored(f, task, config, start, until) -> float:
    folder = Path(task.folder)
    if task.source is not None and start == task.slices[0][1]:
        shutil.copytree(task.source, folder, dirs_exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    value = number(f(dict(config), str(folder), start, until, task.seed))
    _on_disk(folder)
    return value


def _on_disk(folder: Path) -> None:
    """Waits until the disk has what is in a folder: the log will say that it is there."""
    for path in folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError), open(path, "rb") as file:
                os.fsync(file.fileno())


def _drawn(f, task, config, start, until, seed, held) -> list[float]:
    generator, last = held.pop(task.trial, (None, None))
    if generator is None:
        generator, last = iter(f(dict(config), **seed)), None
        for value in itertools.islice(generator, start):
            last = number(value)
    curve = [number(value) for value in itertools.islice(generator, until - start)]
    last = curve[-1] if curve else last
    if last is None:
        raise ValueError("the generator ended before its first loss")
    curve += [last] * (until - start - len(curve))  # it has stopped early: its last loss stays its loss
    if task.final or task.trial is None:
        getattr(generator, "close", int)()  # an iterator of another make has none
    else:
        held[task.trial] = (generator, last)
    return curve


def _kind(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".lower()
    full = isinstance(error, MemoryError) or "outofmemory" in text or "out of memory" in text
    return MEMORY if full or "resource_exhausted" in text else RAISED


def call_test(test: Callable[..., Any], config: Any, folder: str | None) -> float:
    """`test(config)`, or `test(config, checkpoint_dir)` for one that takes both."""
    return number(test(config, folder) if len(_needed(_parameters(test))) > 1 else test(config))
