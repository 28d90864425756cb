"""A study's log: one JSON object a line, appended and on disk before anything is built on it.

The log is the study: what a rerun does follows from it alone. Lines are of the kinds `session` (a call of
tune: its settings, versions, budget), `plan` (what the strategy was given), `trial` (a finished slice of
training), `ended` (no more jobs were asked for), `error` (what stopped the study) and `test`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
NAME = "trials.jsonl"


class Log:
    """The lines of a study, and the file that they are appended to. Open it within `opened`."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = read(path)
        self._file: int | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Log]:
        """Holds the study for this process alone; cuts a line that a crash left unfinished. Raises ValueError
        where another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(file, self.path)
            self.lines = read(self.path)
            whole = self.path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.ftruncate(file, end)
            if new:
                _sync_folder(self.path.parent)
            self._file = file
            yield self
        finally:
            self._file = None
            os.close(file)  # and with it goes the lock

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Writes a line and waits until the disk has it."""
        assert self._file is not None
        line = {"kind": kind, **{k: _plain(v) for k, v in fields.items()}}
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:  # what is there of the line is cut when the log is opened again
            why = f"{error.strerror}; with room for it the same call of tune goes on"
            raise OSError(error.errno, why, str(self.path)) from None
        self.lines.append(line)
        return line


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; an unfinished last one is as if it were not there. Raises ValueError with the number
    of a line that is damaged."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    found = []
    for i, raw in enumerate(whole):
        try:
            line = json.loads(raw)
            if not isinstance(line, dict) or "kind" not in line:
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}: line {i + 1} is damaged: mend it or take it out") from None
        found.append(line)
    if found and found[0].get("format") != FORMAT:
        raise ValueError(f"{path} has format {found[0].get('format')}, this nearopt reads {FORMAT}")
    return found


def _plain(value: Any) -> Any:
    """As JSON has it: numpy's numbers as Python's, a number that is not finite as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system: one has to take care oneself
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"the study {path.parent} is open in another process") from None


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def now() -> str:
    """The time as the log notes it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
