"""Worker processes that end with their parent: at once if it raises, is interrupted or killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any


@contextmanager
def pool(
    processes: int, start: Callable[..., Any] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes for the block; each begins with `start(*given)`."""
    made = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (start, given))
    try:
        yield made
    except BaseException:
        for worker in list((made._processes or {}).values()):
            worker.terminate()
        made.shutdown(wait=False, cancel_futures=True)
        raise
    made.shutdown()


def _begin(start: Callable[..., Any] | None, given: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*given)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, which would go on writing into its results."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
