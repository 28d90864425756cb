"""A look at a training function before a budget is spent on it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.space import Space
from nearopt import forms
from nearopt.forms import FINISHED, SIGNATURES, Task
from nearopt.study_result import complete, number
from nearopt.workers import transportable


@dataclass(frozen=True)
class Preflight:
    """form, seeded: what the function is · status, value, seconds: of the shortest call that its form
    allows · picklable: worker processes can have it · troubles: sentences, none if all is well · error: the
    traceback, if it raised."""

    form: str
    seeded: bool
    status: str
    value: float
    seconds: float
    picklable: bool
    troubles: tuple[str, ...]
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.troubles

    def __str__(self) -> str:
        seed = "takes a seed" if self.seeded else "takes no seed"
        short = {forms.CONFIG: "a full training", forms.GENERATOR: "one epoch", forms.CHECKPOINT: "one epoch"}
        lines = [
            f"form      {self.form}: {SIGNATURES[self.form]}; {seed}",
            f"call      {short[self.form]} of the default configuration: {self.status}, "
            f"loss {number(self.value)} in {number(self.seconds)} s",
            f"workers   {'other processes can have it' if self.picklable else 'this process only'}",
            *(f"trouble   {t}" for t in self.troubles),
        ]
        return "\n".join([*lines, self.error] if self.error else lines)


def preflight(
    f: Callable[..., Any], space: Space | Mapping[str, Any], *, form: str | None = None, seed: int = 0
) -> Preflight:
    """Calls a training function once with the default configuration, for as short as its form allows: a full
    training of `f(config)`, one epoch of the others. Raises ValueError, in one line, for what is no training
    function; what goes wrong within the call is in the result."""
    function = forms.recognise(f, form)
    space = space if isinstance(space, Space) else Space(space)
    config = complete(space, {})
    with tempfile.TemporaryDirectory(prefix="nearopt-") as folder:
        task = Task(0, None, ((config, 0, 1),), seed, None, f"{folder}/checkpoint")
        outcome = forms.run_task(function, task, {})
    trouble = transportable(function)
    troubles = []
    if outcome.status != FINISHED:
        last = outcome.error.strip().splitlines()
        what = last[-1] if last else f"the loss is {outcome.value}"
        troubles.append(f"the default configuration {outcome.status}: {what}")
    if trouble:
        troubles.append(f"more than one worker, devices and timeout are not for it: {trouble}")
    value = outcome.value if math.isfinite(outcome.value) else math.nan
    return Preflight(
        function.form, function.seeded, outcome.status, value, outcome.seconds, trouble is None,
        tuple(troubles), outcome.error,
    )  # fmt: skip
