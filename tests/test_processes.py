"""Worker processes and Ctrl-C, which a terminal sends to all of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import signal, time
from bench.processes import pool

def late(*_):  # as of a parent that is busy when the signal comes
    time.sleep(2)
    raise KeyboardInterrupt

if __name__ == "__main__":
    signal.signal(signal.SIGINT, late)
    with pool(2) as workers:
        if {ready}:
            workers.submit(time.sleep, 0).result()
        found = [workers.submit(time.sleep, 60) for _ in range(4)]
        print("begun", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("ready", [False, True])
def test_ctrl_c_ends_the_parent_alone_and_the_parent_its_workers(tmp_path, ready):
    script = tmp_path / "it.py"
    script.write_text(SCRIPT.format(ready=ready))
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    made = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert made.stdout is not None and made.stdout.readline() == "begun\n"
    begun = time.monotonic()
    os.killpg(made.pid, signal.SIGINT)
    _, said = made.communicate(timeout=50)
    assert time.monotonic() - begun < 50  # what was submitted takes two minutes
    assert said.count("Traceback") == 1 and "spawn" not in said
    with pytest.raises(ProcessLookupError):  # none of the group is left
        for _ in range(100):
            os.killpg(made.pid, 0)
            time.sleep(0.1)
