"""Where a study's tasks run: in this process, or in processes of their own, spawned.

Standard library only, as in `forms` and `bench.processes`: the processes import nothing else of ours.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol

from bench.processes import deaf
from nearopt.forms import LATE, MEMORY, RAISED, Function, Outcome, Task, name_of, run_task

GUARD = '`if __name__ == "__main__":`'


class Pool(Protocol):
    """Runs tasks, `size` at a time."""

    size: int

    def submit(self, task: Task) -> None: ...
    def finished(self) -> list[Outcome]:
        """Waits until at least one submitted task has ended; those that have, in their order of finish."""
        ...

    def close(self) -> None: ...


class Inline:
    """One worker, in this process and thread: the function sees what the caller sees, and Ctrl-C ends it."""

    size = 1

    def __init__(self, function: Function):
        self.function, self.held, self.tasks = function, {}, []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def finished(self) -> list[Outcome]:
        return [run_task(self.function, self.tasks.pop(0), self.held)]

    def close(self) -> None:
        self.held.clear()


def _serve(connection: Any, pickled: bytes) -> None:
    """A worker's life: a function, then task after task."""
    grouped = hasattr(os, "setpgid")
    if grouped:  # a group of its own: what the function starts can be ended with it
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it leaves no worker behind that would train on
        sentinel = parent.sentinel

        def follow() -> None:
            wait([sentinel])
            if grouped:
                os.killpg(0, signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    held: dict[Any, Any] = {}
    try:
        function = pickle.loads(pickled)
    except Exception:
        connection.send(traceback.format_exc())
        return
    connection.send(None)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(run_task(function, connection.recv(), held))


@contextlib.contextmanager
def _visible(device: int | str | None) -> Iterator[None]:
    """Processes started within see this device only: also while they import the caller's script."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    try:
        yield
    finally:
        if device is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


class _Worker:
    """A process with what it does: `task` and since when, `held` trials whose generators live in it."""

    def __init__(self, pickled: bytes, device: int | str | None):
        context = multiprocessing.get_context("spawn")
        self.device, self.task, self.since, self.held = device, None, 0.0, set()
        self.connection, theirs = context.Pipe()
        # Not as a daemon: that could have no processes of its own, as PyTorch's loaders of data are.
        self.process = context.Process(target=_serve, args=(theirs, pickled), daemon=False)
        with _visible(device), deaf():
            self.process.start()
        theirs.close()

    def ready(self) -> None:
        """Waits until it has the function; raises ValueError in one line where it cannot have it."""
        try:
            trouble = self.connection.recv()
        except EOFError:
            raise ValueError(
                "a worker process ended while it started (its own message stands above); workers import your "
                f"script, so the call must stand under {GUARD}"
            ) from None
        if trouble:
            raise ValueError(f"a worker process cannot import the function: {trouble.splitlines()[-1]}")

    def end(self) -> None:
        """Kills it and whatever the function has started in it."""
        if hasattr(os, "killpg") and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group of its own yet
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def refuse_import() -> None:
    """Raises ValueError in a worker that is still importing the caller's script, which would start anew."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValueError(f"worker processes import your script: put the call under {GUARD}")


def transportable(function: Function) -> str | None:
    """Why other processes cannot have the function, in words; None: they can."""
    name = name_of(function.f)
    try:
        pickle.dumps(function)
    except Exception:
        return f"other processes cannot import {name}: define it at the top of a module"
    main = sys.modules["__main__"]
    module = getattr(getattr(function.f, "f", function.f), "__module__", None)
    if module == "__main__" and not hasattr(main, "__file__"):
        return f"other processes cannot import {name} from a notebook or prompt: write it to a .py file"
    return None


class Processes:
    """Workers as spawned processes, each with its device; a generator goes on in the process that holds
    it."""

    def __init__(
        self, function: Function, size: int, devices: Sequence[int | str] | None, timeout: float | None
    ):
        trouble = transportable(function)
        if trouble:
            raise ValueError(trouble)
        self.size, self.timeout, self.queue = size, timeout, []
        self.pickled = pickle.dumps(function)
        self.workers: list[_Worker] = []
        given = [devices[i % len(devices)] if devices else None for i in range(size)]
        atexit.register(self.close)  # before multiprocessing waits for them at the end of the program
        try:
            for device in given:
                self.workers.append(_Worker(self.pickled, device))
            for worker in self.workers:
                worker.ready()
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> None:
        self.queue.append(task)
        self._dispatch()

    def _dispatch(self) -> None:
        for worker in list(self.workers):
            if worker.task is None:
                others = {t for w in self.workers if w is not worker for t in w.held}
                # Where it lives elsewhere it waits for that worker rather than being trained again.
                task = next((t for t in self.queue if t.trial not in others), None)
                if task is not None:
                    self.queue.remove(task)
                    try:
                        worker.connection.send(task)
                    except OSError:  # killed while it had nothing to do
                        worker = self._replace(worker)
                        worker.connection.send(task)
                    worker.task, worker.since = task, time.monotonic()

    def finished(self) -> list[Outcome]:
        found: list[Outcome] = []
        while not found:
            busy = [w for w in self.workers if w.task is not None]
            limit = None
            if self.timeout is not None:
                limit = max(0.0, min(w.since for w in busy) + self.timeout - time.monotonic())
            ready = wait([w.connection for w in busy], limit)
            for worker in busy:
                task: Any = worker.task
                seconds = time.monotonic() - worker.since
                if worker.connection in ready:
                    found.append(self._receive(worker, task, seconds))
                elif self.timeout is not None and seconds >= self.timeout:
                    found.append(Outcome(task.id, LATE, math.nan, seconds))
                    self._replace(worker)
            self._dispatch()
        return found

    def _receive(self, worker: _Worker, task: Task, seconds: float) -> Outcome:
        try:
            outcome = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode
            self._replace(worker)
            # The system kills what takes too much memory with signal 9.
            text = f"the worker process ended with exit code {code}\n"
            return Outcome(
                task.id, MEMORY if code == -signal.SIGKILL else RAISED, math.nan, seconds, (), text
            )
        worker.task = None
        if task.trial is not None and not task.final:
            worker.held.add(task.trial)
        return outcome

    def _replace(self, worker: _Worker) -> _Worker:
        worker.end()
        new = _Worker(self.pickled, worker.device)
        self.workers[self.workers.index(worker)] = new
        new.ready()
        return new

    def close(self) -> None:
        while self.workers:
            self.workers[-1].end()
            self.workers.pop()
        atexit.unregister(self.close)
