"""What a report has done beside its main course, in other processes where that is wanted: figures, and frames
that need little of what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench.processes import pool

FEW = 48  # cells: a report of fewer is there before other processes have started
Beside = Callable[..., Callable[[], Any]]  # beside(f, *given, **settings)() is f(*given, **settings)


class Task(NamedTuple):
    """A figure to be drawn: draw(*given, **settings) of `bench.plots`, and whether as PDF too."""

    draw: Callable[..., Any]
    given: tuple[Any, ...]
    settings: dict[str, Any] = {}  # noqa: RUF012
    pdf: bool = True


class Drawn(NamedTuple):
    """An <svg> element, and the bytes of a PDF, empty where none was wanted."""

    svg: str
    pdf: bytes


def later(f: Callable[..., Any], *given: Any, **settings: Any) -> Callable[[], Any]:
    """A call that is made, in this process, when its result is asked for."""
    return lambda: f(*given, **settings)


@contextmanager
def beside(processes: int) -> Iterator[Beside]:
    """How calls are made within the block: in that many other processes, or `later` where it is one."""
    if processes < 2:
        yield later
        return
    with pool(processes) as others:
        yield lambda f, *given, **settings: others.submit(f, *given, **settings).result


def _draw(task: Task) -> Drawn:
    drawing = task.draw(*task.given, **task.settings)
    return Drawn(str(drawing), drawing.pdf() if task.pdf else b"")


def begin(
    tasks: Iterable[tuple[str, Task]], pdf: bool = True, run: Beside = later
) -> dict[str, Callable[[], Drawn]]:
    """Every figure by name, each begun as soon as its task is there; without `pdf` none as PDF."""
    return {name: run(_draw, task if pdf else task._replace(pdf=False)) for name, task in tasks}
