"""Trains Sobol configurations of an objective and keeps every epoch of them as a table.

  objective=NAME     settings as in an experiment
  configs=512        configurations
  seeds=3            trainings of each, every one with a split and weights of its own
  forks=0            continuations from common checkpoints under changed hyperparameters, per seed
  name=NAME          the folder results/record/NAME/ that gets curves.parquet and forks.parquet
  fit=SURROGATE      then fit that objective to it, as its YAML has it (digits_fitted), and judge the fit:
                     on configurations that it has not seen, and strategies on it against the task

  show=all           instead: how early ranks predict the end, and which axes matter, of the recordings that
                     are shipped; or of one folder, show=results/record/NAME; with name=NAME also as tasks.csv
                     and axes.csv in results/NAME/

What is there is kept: a run that was killed goes on, and more configs, seeds or forks add to it. What was
fitted is an objective with data_dir=results/record; describe says how far to trust it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "train Sobol configurations of an objective, all epochs, to a table"
USAGE = "objective=NAME [configs=N] [seeds=N] [forks=N] [fit=NAME] | show=all|FOLDER  [name=NAME]"
KNOWN = ("objective", "configs", "seeds", "forks", "name", "fit", "show")
CONFIGS, SEEDS = 512, 3


def _settings(words: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"expected key=value, got {word!r}")
        if key not in KNOWN:
            raise UserError(f"no setting {key!r}{nearest(key, KNOWN)}")
        given[key] = value if key in ("objective", "name", "fit", "show") else catalogue.parse(value)
    if bool(given.get("objective")) == bool(given.get("show")):
        raise UserError("record needs objective=NAME or show=all")
    for key, least in (("configs", 2), ("seeds", 1), ("forks", 0)):
        value = given.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    return given


def main(words: list[str]) -> int:
    given = _settings(words)
    if "show" in given:
        return _show(given["show"], given.get("name"))
    entry = catalogue.entry("objective", given["objective"])
    objective = catalogue.build(entry.settings)
    name = _folder(given.get("name", entry.label))

    maker = _maker(given["fit"], name) if "fit" in given else None

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
    if maker is not None:
        _fit(maker, given["fit"], name, objective, folder)
    return 0


def _folder(name: str) -> str:
    if name in ("", "..") or Path(name).name != name:
        raise UserError(f"name must be a folder's name, got {name!r}")
    return name


def _show(which: str, name: str | None) -> int:
    from nearopt.recorded import importance_table, ranks_table, shipped, tables

    folders = shipped() if which == "all" else [Path(which)]
    for folder in folders:
        if not (folder / "recording.json").is_file() or not (folder / "curves.parquet").is_file():
            raise UserError(f"no recording in {folder}: it has recording.json and curves.parquet")
    tasks, axes = tables(folders)
    print(ranks_table(tasks))
    print("Shares of the variance of ranks in per cent: over the whole space / in the best quartile\n")
    print(importance_table(tasks, axes))
    if name is not None:
        folder = Path("results") / _folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        tasks.to_csv(folder / "tasks.csv", index=False, float_format="%.4g")
        axes.to_csv(folder / "axes.csv", index=False, float_format="%.4g")
        print(folder)
    return 0


def _maker(fit: str, name: str) -> Any:
    """What fits: the `make` of the class that the surrogate's YAML names."""
    from hydra.utils import get_class

    settings = catalogue.entry("objective", fit).settings
    made = get_class(settings["_target_"])
    if not hasattr(made, "make") or settings.get("table") != name:
        raise UserError(
            f"fit={fit} is not fitted to {name}: its YAML names {settings.get('table', 'no table')}"
        )
    return made.make


def _fit(maker: Any, fit: str, name: str, objective: Any, folder: Path) -> None:
    from nearopt.fits import compare

    try:
        maker(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    fitted = catalogue.build(catalogue.entry("objective", fit, {"data_dir": str(folder.parent)}).settings)
    fitted.add_trust(compare(objective, fitted, folder))
    for what, value in fitted.trust():
        print(f"  {what:<13} {value}")
