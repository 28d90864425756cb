"""Worker processes that end with their parent: at once if it raises, is interrupted or killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import Any


@contextmanager
def pool(
    processes: int, start: Callable[..., Any] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes for the block; each begins with `start(*given)`."""
    # A process that JAX has threads in must not be forked.
    made = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (start, given))
    try:
        with deaf():  # what a process inherits until it has begun: else Ctrl-C ends it in a traceback
            for _ in range(processes):
                made.submit(_nothing)
        yield made
    except BaseException:
        for worker in list((made._processes or {}).values()):
            worker.terminate()
        made.shutdown(wait=False, cancel_futures=True)
        raise
    made.shutdown()


@contextmanager
def deaf() -> Iterator[None]:
    """Holds Ctrl-C back for the block, from this thread, which hears it afterwards, and from the processes
    that it starts, also while these import the caller's script."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it is started with the first process, and ends being deaf
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing() -> None:
    pass


def _begin(start: Callable[..., Any] | None, given: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*given)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, which would go on writing into its results."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
