"""Ctrl-C while something is at work: one KeyboardInterrupt, which is not lost, and one clear end."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

AGAIN = 0.5  # seconds within which a second signal is the same Ctrl-C: wrappers such as `uv run` pass it on
COLLECTING = "_xla_gc_callback"  # JAX's, at each garbage collection: what is raised there is only printed
EXIT = 130  # as shells have it: 128 and the signal's number


def _put_off(frame: FrameType | None) -> bool:
    """Whether a signal falls where an exception would be swallowed; then it comes again in a moment."""
    if frame is None or frame.f_code.co_name != COLLECTING:
        return False
    timer = threading.Timer(0.02, _press)
    timer.daemon = True
    timer.start()
    return True


def _press() -> None:
    """Ctrl-C for the main thread: a signal, which wakes it where it waits."""
    main = threading.main_thread().ident
    if main is None or not hasattr(signal, "pthread_kill"):  # Windows
        _thread.interrupt_main()
    else:
        signal.pthread_kill(main, signal.SIGINT)


def _mine() -> bool:
    """Whether nobody else handles Ctrl-C here."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def heard() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, wherever it falls."""

    def pressed(number: int, frame: FrameType | None) -> None:
        if not _put_off(frame):
            raise KeyboardInterrupt

    mine = _mine()
    if mine:
        signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Interrupts:
    """Within it Ctrl-C raises KeyboardInterrupt, and is remembered: one that falls into a bare `except:` is
    swallowed there, and comes back at the next `check`. What is left of it at the end becomes one line and
    exit code 130.

    A program that handles the signal itself keeps its handler, as does one that runs this in a thread."""

    def __init__(self, say: bool):
        self.say, self.closing = say, False
        self.at: float | None = None  # when it was pressed
        self.mine = False

    def __enter__(self) -> Interrupts:
        self.mine = _mine()
        if self.mine:
            signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            if self.say:
                print("\ninterrupted before anything was trained; the same call of tune goes on", flush=True)
            sys.exit(EXIT)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if _put_off(frame):
            return
        before, self.at = self.at, time.monotonic()
        if before is not None and self.at - before < AGAIN:
            return
        if self.closing:  # it takes too long for somebody
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises the KeyboardInterrupt that somebody swallowed."""
        if self.at is not None and not self.closing:
            raise KeyboardInterrupt
