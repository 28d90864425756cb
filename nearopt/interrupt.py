"""Ctrl-C while something is at work: one KeyboardInterrupt, which is not lost, and one clear end."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

REPEAT = 0.02  # seconds until a signal comes again that could not be heard
AGAIN = 0.5  # seconds within which a second signal is the same Ctrl-C: wrappers such as `uv run` pass it on
COLLECTING = "_xla_gc_callback"  # JAX's, at each garbage collection: what is raised there is only printed
EXIT = 130  # as shells have it: 128 and the signal's number


def _swallowed(frame: FrameType | None) -> bool:
    """Whether an exception raised here would be printed and lost."""
    while frame is not None:
        if frame.f_code.co_name == COLLECTING:
            return True
        frame = frame.f_back
    return False


class Heard:
    """Within it Ctrl-C raises KeyboardInterrupt, once and wherever it falls: one that falls where it would be
    swallowed, or as this ends without an error, is raised right after.

    A program that handles the signal itself keeps its handler, as does one that runs this in a thread."""

    def __init__(self) -> None:
        self.at: float | None = None  # when it was pressed
        self.mine = self.leaving = False
        self.owed = False  # it was pressed and could not be heard
        self._lock = threading.Lock()  # around a look at `owed` and the signal; no signal handler takes it

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        self.mine = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.mine:
            signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.leaving = True  # from here on signals are noted only, until the handler is the usual one again
        with self._lock:
            unheard, self.owed = self.owed, False
        time.sleep(0)  # a signal under way is delivered at the end of a system call at the latest
        if self.mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if (unheard or self.owed) and kind is None:
            raise KeyboardInterrupt

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self._new(frame):
            raise KeyboardInterrupt

    def _new(self, frame: FrameType | None) -> bool:
        """Whether a signal is to be heard here and now."""
        if not self.leaving and _swallowed(frame):
            # One step, since another signal may come within this very function.
            first, self.owed = not self.owed, True
            if first:
                threading.Thread(target=self._press, daemon=True).start()
            return False
        before, self.at = self.at, time.monotonic()
        new = before is None or self.at - before >= AGAIN
        self.owed = self.leaving and (self.owed or new)
        return new and not self.leaving

    def _press(self) -> None:
        """Presses Ctrl-C again until the main thread has heard it. Once would not do: a signal between the
        interpreter's last look at its signals and a system call that waits does not end that wait."""
        main = threading.main_thread().ident
        while True:
            time.sleep(REPEAT)
            with self._lock:
                if not self.owed or self.leaving:
                    return
                if main is None or not hasattr(signal, "pthread_kill"):  # Windows
                    _thread.interrupt_main()
                else:
                    signal.pthread_kill(main, signal.SIGINT)


class Interrupts(Heard):
    """Ctrl-C during a study, which is remembered: one that falls into a bare `except:` is swallowed there,
    and comes back at the next `check`. What is left of it at the end becomes one line and exit code 130."""

    def __init__(self, say: bool):
        super().__init__()
        self.say, self.closing = say, False

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            if self.say:
                print("\ninterrupted before anything was trained; the same call of tune goes on", flush=True)
            sys.exit(EXIT)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if not self._new(frame):
            return
        if self.closing:  # it takes too long for somebody
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises the KeyboardInterrupt that somebody swallowed."""
        if self.at is not None and not self.closing:
            raise KeyboardInterrupt
