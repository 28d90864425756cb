"""What conf/ lists, one's own ./conf included, and how its entries become cells.

Entries are `NAME` or `NAME,setting=value,...`, as they stand in experiment files and name the folders of
results; an objective's may go on with wrappers, `NAME+WRAPPER,setting=value+WRAPPER`. Hydra composes each
name; the sweep over them is ours, because a failing Hydra job ends the sweep without its callbacks, and one
strategy's setting cannot be swept beside another strategy.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

GROUPS = ("strategy", "objective", "cluster", "experiment")
LISTED = ("strategy", "objective", "wrapper", "cluster", "experiment")  # wrappers: in an objective's entry
PLACES = ("data_dir",)  # settings that say where data lie: no part of a label, which names a folder
ROOT = {
    "name": str, "seeds": int, "budgets": list, "processes": int, "first_instance": int,
    "seeds_per_instance": int, "debug": bool, "per_objective": dict,
}  # fmt: skip


class UserError(ValueError):
    """One clear line for the person at the keyboard."""


def folders() -> list[Path]:
    """Where configurations are looked up: those that nearopt ships, then ./conf where it exists."""
    own = Path.cwd() / "conf"
    # Beside this module, not where `import conf` leads: to a user's own folder of that name, maybe.
    here = Path(__file__).resolve().parent.parent / "conf"
    return [here] + ([own] if own.is_dir() and own.resolve() != here.resolve() else [])


def names(group: str) -> list[str]:
    """What a group lists, by name."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, where a known name is near."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _composed(overrides: list[str], where: Iterable[Path]) -> Any:
    """config.yaml under these overrides; it takes Hydra a tenth of a second, however many they are."""
    from hydra import compose, initialize_config_dir

    base, *own = where
    overrides = [*overrides, *(f"hydra.searchpath=[file://{folder}]" for folder in own)]
    with initialize_config_dir(config_dir=str(base), version_base="1.3"):
        return compose("config", overrides)


def _settings(composed: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(composed, resolve=True)


@cache
def _compose(group: str, name: str, where: tuple[Path, ...]) -> Any:
    # Wrappers have no place among config.yaml's defaults, hence the plus.
    plus = "+" if group == "wrapper" else ""
    return _settings(_composed([f"{plus}{group}={name}"], where)[group])


_shipped: dict[tuple[str, str], Any] = {}  # what was composed together


def _ours(group: str, name: str) -> bool:
    """Whether nearopt ships it: then ./conf, which is looked up later, changes nothing in it."""
    return (folders()[0] / group / f"{name}.yaml").exists()


def compose_together(group: str, listed: Iterable[str]) -> None:
    """Composes in one call what nearopt ships of these names, for `load`."""
    left = [n for n in dict.fromkeys(listed) if (group, n) not in _shipped and _ours(group, n)]
    if len(left) > 1:
        found = _composed([f"+{group}@of{i}={n}" for i, n in enumerate(left)], folders()[:1])
        _shipped.update({(group, n): _settings(found[f"of{i}"]) for i, n in enumerate(left)})


def load(group: str, name: str) -> dict[str, Any]:
    """The settings of one listed name; raises UserError with the nearest name."""
    if (group, name) in _shipped:
        return dict(_shipped[group, name])
    if name not in names(group):
        raise UserError(f"no {group} {name!r}{nearest(name, names(group))}")
    try:
        found = _compose(group, name, tuple(folders()[:1] if _ours(group, name) else folders()))
    except Exception as error:
        raise UserError(f"conf/{group}/{name}.yaml cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"conf/{group}/{name}.yaml holds no settings")
    return dict(found)


def parse(text: str) -> Any:
    """A value as YAML reads it: 4, .5, null, true, word, [1, 2]."""
    import yaml

    # To Hydra a number, to YAML 1.1 a word.
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


@dataclass(frozen=True)
class Entry:
    """One strategy or objective with its settings; `label` is its name and what differs from its YAML, PLACES
    apart; `text` reads as this entry again.

    A wrapped objective's name includes its wrappers up to the first setting; its settings are those of the
    outermost wrapper, with `base`, the settings of what it goes around, and `name`, the label."""

    group: str
    name: str
    label: str
    settings: dict[str, Any]
    text: str

    @property
    def known(self) -> list[str]:
        """The settings that may be changed, of every part."""
        found, settings = [], self.settings
        while settings:
            found += [k for k in settings if not k.startswith("_") and k != "base"]
            settings = settings.get("base") if "_target_" in (settings.get("base") or ()) else None
        return list(dict.fromkeys(found))


class _Part(NamedTuple):
    """One name of an entry with its YAML and the settings that the text gives."""

    group: str
    name: str
    base: dict[str, Any]
    wanted: dict[str, Any]

    @property
    def known(self) -> list[str]:
        return [k for k in self.base if not k.startswith("_")]

    def settle(self) -> tuple[str, dict[str, Any]]:
        """(label, settings); raises UserError."""
        label, settings = self.name, dict(self.base)
        for setting, value in self.wanted.items():
            if setting not in self.known:
                hint = nearest(setting, self.known) if self.known else "; it has none"
                raise UserError(f"{self.name} has no setting {setting!r}{hint}")
            if value != settings[setting] and setting not in PLACES:
                label += f",{setting}={value}".replace(" ", "").replace("'", "").replace("/", "_")
            settings[setting] = value
        return label, settings

    @property
    def text(self) -> str:
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.wanted.items()}
        return ",".join([self.name, *(f"{k}={v}" for k, v in values.items())])


def entries(group: str, texts: Iterable[str]) -> list[Entry]:
    """Each text as `entry` reads it."""
    texts = list(texts)
    pieces = [_cut(text, "+") if group == "objective" else [text] for text in texts]
    heads = [[_cut(piece, ",")[0] for piece in parts] for parts in pieces]
    compose_together(group, [names[0] for names in heads])
    compose_together("wrapper", [name for names in heads for name in names[1:]])
    return [entry(group, text) for text in texts]


def entry(group: str, text: str, changes: dict[str, Any] | None = None) -> Entry:
    """Reads `NAME,setting=value,...`, an objective's with `+WRAPPER,setting=value,...` for each wrapper;
    `changes` are further settings, each for the outermost part that has it. Raises UserError."""
    pieces = _cut(text, "+") if group == "objective" else [text]
    parts = []
    for i, piece in enumerate(pieces):
        kind = "wrapper" if i else group
        name, *settings = _cut(piece, ",")
        wanted = {}
        for part in settings:
            setting, equals, value = part.partition("=")
            if not equals:
                raise UserError(f"{kind} {piece!r}: expected setting=value after the comma, got {part!r}")
            wanted[setting] = parse(value)
        parts.append(_Part(kind, name, load(kind, name), wanted))
    for setting, value in (changes or {}).items():
        owner = next((p for p in reversed(parts) if setting in p.known), parts[0])
        owner.wanted[setting] = value
    label, settings = parts[0].settle()
    for part in parts[1:]:
        own, outer = part.settle()
        label = f"{label}+{own}"
        settings = outer | {"base": settings, "name": label}
    return Entry(group, label.partition(",")[0], label, settings, "+".join(part.text for part in parts))


def _cut(text: str, mark: str) -> list[str]:
    """Cuts at a mark outside brackets; at a plus only before a name, since 1e+3 is a number."""
    parts, depth, word = [], 0, ""
    text = str(text)
    for i, c in enumerate(text):
        depth += (c in "[{(") - (c in "]})")
        if c == mark and depth == 0 and (mark != "+" or re.match(r"\s*[A-Za-z_]", text[i + 1 :])):
            parts.append(word)
            word = ""
        else:
            word += c
    return [p.strip() for p in [*parts, word]]


def split(text: str) -> list[str]:
    """Entries or values of a list: cut at commas outside brackets, but `setting=value` belongs to the entry
    before it."""
    found: list[str] = []
    for part in _cut(text, ","):
        if found and re.match(r"[A-Za-z_]\w*=", part):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def build(settings: dict[str, Any]) -> Any:
    """Makes what a YAML's `_target_` names. Where there is a `base`, it is a wrapper, which is called with
    the base, made first, and the name. Raises UserError in one line."""
    from hydra.utils import instantiate

    # A console script lacks the current folder, where one's own mine.py is; last, so that it hides nothing.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    own, base = settings, None
    if "_target_" in (settings.get("base") or ()):
        base = build(settings["base"])
        own = {k: v for k, v in settings.items() if k not in ("base", "name")}
    try:
        made = instantiate(own, _convert_="all")
        return made if base is None else made(base, settings["name"])
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
