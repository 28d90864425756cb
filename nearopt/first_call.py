"""A look at a training function before a budget is spent on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.space import Space
from nearopt import forms
from nearopt.forms import FINISHED, SIGNATURES, Task
from nearopt.study_result import as_space, complete, duration, number
from nearopt.workers import transportable


@dataclass(frozen=True)
class Preflight:
    """form, seeded: what the function is · status, value, seconds: of the shortest call that its form
    allows · picklable: worker processes can have it; alone: why not · error: the traceback, if it raised."""

    form: str
    seeded: bool
    status: str
    value: float
    seconds: float
    picklable: bool
    alone: str | None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call gave a finite loss."""
        return self.status == FINISHED

    def __str__(self) -> str:
        seed = "takes a seed" if self.seeded else "takes no seed"
        short = {forms.CONFIG: "a full training", forms.GENERATOR: "one epoch", forms.CHECKPOINT: "one epoch"}
        lines = [
            f"form      {self.form}: {SIGNATURES[self.form]}; {seed}",
            f"call      {short[self.form]} of the default configuration: {self.status}, "
            f"loss {number(self.value)} in {duration(self.seconds)}",
            f"workers   {'as many as you like' if self.picklable else f'this process only: {self.alone}'}",
        ]
        return "\n".join([*lines, self.error] if self.error else lines)


def preflight(
    f: Callable[..., Any], space: Space | Mapping[str, Any], *, form: str | None = None, seed: int = 0
) -> Preflight:
    """Calls a training function once with the default configuration, for as short as its form allows: a full
    training of `f(config)`, one epoch of the others. Raises ValueError, in one line, for what is no training
    function; what goes wrong within the call is in the result."""
    function = forms.recognise(f, form)
    space = as_space(space)
    config = complete(space, {})
    with tempfile.TemporaryDirectory(prefix="nearopt-") as folder:
        task = Task(0, None, ((config, 0, 1),), seed, None, f"{folder}/checkpoint")
        outcome = forms.run_task(function, task, {})
    alone = transportable(function)
    return Preflight(
        function.form, function.seeded, outcome.status, outcome.value, outcome.seconds, alone is None, alone,
        outcome.error,
    )  # fmt: skip
