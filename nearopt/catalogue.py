"""What conf/ lists, one's own ./conf included, and how its entries become cells.

Entries are `NAME` or `NAME,setting=value,...`, as they stand in experiment files and name the folders of
results. Hydra composes each one; the sweep over them is ours, because a failing Hydra job ends the sweep
without its callbacks, and one strategy's setting cannot be swept beside another strategy.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import conf as shipped

GROUPS = ("strategy", "objective", "cluster", "experiment")
ROOT = {
    "name": str, "seeds": int, "budgets": list, "processes": int, "first_instance": int,
    "seeds_per_instance": int, "debug": bool, "per_objective": dict,
}  # fmt: skip


class UserError(ValueError):
    """One clear line for the person at the keyboard."""


def folders() -> list[Path]:
    """Where configurations are looked up: those that nearopt ships, then ./conf where it exists."""
    own = Path.cwd() / "conf"
    here = Path(next(iter(shipped.__path__)))
    return [here] + ([own] if own.is_dir() and own.resolve() != here.resolve() else [])


def names(group: str) -> list[str]:
    """What a group lists, by name."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, where a known name is near."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


@cache
def _compose(group: str, name: str, where: tuple[Path, ...]) -> Any:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    base, *own = where
    override = [f"{group}={name}", *(f"hydra.searchpath=[file://{folder}]" for folder in own)]
    with initialize_config_dir(config_dir=str(base), version_base="1.3"):
        return OmegaConf.to_container(compose("config", override)[group], resolve=True)


def load(group: str, name: str) -> dict[str, Any]:
    """The settings of one listed name; raises UserError with the nearest name."""
    if name not in names(group):
        raise UserError(f"no {group} {name!r}{nearest(name, names(group))}")
    try:
        found = _compose(group, name, tuple(folders()))
    except Exception as error:
        raise UserError(f"conf/{group}/{name}.yaml cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"conf/{group}/{name}.yaml holds no settings")
    return dict(found)


def parse(text: str) -> Any:
    """A value as YAML reads it: 4, .5, null, true, word, [1, 2]."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


@dataclass(frozen=True)
class Entry:
    """One strategy or objective with its settings; `label` is its name and what differs from its YAML."""

    group: str
    name: str
    label: str
    settings: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.label


def entry(group: str, text: str, changes: dict[str, Any] | None = None) -> Entry:
    """Reads `NAME,setting=value,...`; `changes` are further settings. Raises UserError."""
    name, *parts = split(text)
    base = load(group, name)
    wanted = dict(changes or {})
    for part in parts:
        setting, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{group} {text!r}: expected setting=value after the comma, got {part!r}")
        wanted[setting] = parse(value)
    settings = [k for k in base if not k.startswith("_")]
    label = name
    for setting, value in wanted.items():
        if setting not in settings:
            hint = nearest(setting, settings) if settings else "; it has none"
            raise UserError(f"{name} has no setting {setting!r}{hint}")
        if value != base[setting]:
            label += f",{setting}={value}".replace(" ", "").replace("/", "_")
        base[setting] = value
    return Entry(group, name, label, base)


def split(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    parts, depth, word = [], 0, ""
    for c in str(text):
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            parts.append(word)
            word = ""
        else:
            word += c
    return [p.strip() for p in [*parts, word]]


def build(settings: dict[str, Any]) -> Any:
    """Makes what a YAML's `_target_` names; raises UserError in one line."""
    from hydra.utils import instantiate

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return instantiate(settings, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise UserError(f"{settings.get('_target_')}: {line}") from error


def strategy_factory(settings: dict[str, Any]) -> Any:
    """A strategy's factory, its lists turned into tuples, since settings must be hashable."""
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    made = build(settings)
    if not callable(made):
        raise UserError(f"{settings.get('_target_')}: a strategy's YAML needs `_partial_: true`")
    return made


def purpose(group: str, name: str) -> str:
    """One line on what a name is: its YAML's first comment, else its class's docstring."""
    for folder in folders():
        path = folder / group / f"{name}.yaml"
        if path.exists():
            first = path.read_text().lstrip().splitlines()[0]
            if first.startswith("#"):
                return first.lstrip("# ").strip()
    from hydra.utils import get_class

    try:
        doc = get_class(load(group, name)["_target_"]).__doc__ or ""
    except Exception as error:
        return f"(cannot be loaded: {str(error).splitlines()[0]})"
    return " ".join(doc.strip().split("\n\n")[0].split())
