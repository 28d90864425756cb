"""Ctrl-C at its worst moments; each in a process of its own, which has a handler of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """
import os, signal, threading, time
from nearopt.interrupt import Heard

def press():
    os.kill(os.getpid(), signal.SIGINT)
"""

LEAVING = """
class Lock:  # held while the end of the block looks at what is owed
    def __enter__(self): press()
    def __exit__(self, *_): pass

heard = Heard()
heard._lock = Lock()
try:
    with heard:
        pass
    print("lost")
except KeyboardInterrupt:
    print("heard")
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""

TWICE = """
def _xla_gc_callback():
    press()
    time.sleep(0.1)

class Thread(threading.Thread):
    def __init__(self, **settings):
        press()
        super().__init__(**settings)

threading.Thread, heard = Thread, 0
try:
    with Heard():
        _xla_gc_callback()
        time.sleep(30)
except KeyboardInterrupt:
    heard += 1
end = time.monotonic() + 0.3
while time.monotonic() < end:
    try:
        time.sleep(0.01)
    except KeyboardInterrupt:
        heard += 1
print(heard)
"""


def said(script: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert (run.stderr, run.returncode) == ("", 0)
    return run.stdout.split()


def test_as_the_block_ends_it_is_raised_after_it_and_the_handler_is_the_usual_one():
    assert said(LEAVING) == ["heard", "True"]


def test_twice_within_a_garbage_collection_it_is_heard_once_and_no_more_after_the_block():
    assert said(TWICE) == ["1"]
