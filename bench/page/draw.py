"""Draws a report's figures, in several processes where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

SOME = 24  # figures: fewer are drawn before other processes have started


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


def _draw(task: Task) -> Drawn:
    drawing = task.draw(*task.given, **task.settings)
    return Drawn(str(drawing), drawing.pdf() if task.pdf else b"")


def draw(tasks: Mapping[str, Task], processes: int = 1, pdf: bool = True) -> dict[str, Drawn]:
    """Every figure by name; without `pdf` none as PDF."""
    if not pdf:
        tasks = {name: task._replace(pdf=False) for name, task in tasks.items()}
    if processes > 1 and len(tasks) >= SOME:
        # A process that JAX has threads in must not be forked.
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            return dict(zip(tasks, pool.map(_draw, tasks.values(), chunksize=4), strict=True))
    return {name: _draw(task) for name, task in tasks.items()}
