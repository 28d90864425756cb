"""Trains Sobol configurations of an objective and keeps every epoch of them as a table.

  objective=NAME     settings as in an experiment
  configs=512        configurations
  seeds=3            trainings of each, every one with a split and weights of its own
  forks=0            continuations from common checkpoints under changed hyperparameters, per seed
  name=NAME          the folder results/record/NAME/ that gets curves.parquet and forks.parquet

What is there is kept: a run that was killed goes on, and more configs, seeds or forks add to it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "train Sobol configurations of an objective, all epochs, to a table"
USAGE = "objective=NAME [configs=N] [seeds=N] [forks=N] [key=value ...]"
KNOWN = ("objective", "configs", "seeds", "forks", "name")
CONFIGS, SEEDS = 512, 3


def _settings(words: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KNOWN:
            raise UserError(f"no setting {key!r}{nearest(key, KNOWN)}")
        given[key] = value if key in ("objective", "name") else catalogue.parse(value)
    if not given.get("objective"):
        raise UserError("record needs objective=NAME")
    for key, least in (("configs", 2), ("seeds", 1), ("forks", 0)):
        value = given.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    return given


def main(words: list[str]) -> int:
    given = _settings(words)
    entry = catalogue.entry("objective", given["objective"])
    objective = catalogue.build(entry.settings)
    name = given.get("name", entry.label)
    if name in ("", "..") or Path(name).name != name:
        raise UserError(f"name must be a folder's name, got {name!r}")

    from nearopt.recording import record

    forks = given.get("forks", 0)
    lacking = sorted({"copy", "change"} - objective.offers)
    if forks and (lacking or objective.max_epoch == 1):
        raise UserError(f"{entry.label} does not offer {' and '.join(lacking) or 'epochs'}: forks must be 0")
    folder, clock = Path("results") / "record" / name, time.perf_counter()
    try:
        done = record(objective, folder, given.get("configs", CONFIGS), given.get("seeds", SEEDS), forks)
        for table, count, whole in done:
            print(f"\r{table}: {count} of {whole}, {time.perf_counter() - clock:.0f} s", end="", flush=True)
            if count == whole:
                print()
    except ValueError as error:
        raise UserError(str(error)) from None
    for path in sorted(folder.glob("*.parquet")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0
