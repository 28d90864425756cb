"""A claim's file: an experiment's settings, what is recorded for it, and its `claim:` block.

Files are conf/experiment/claims/NAME.yaml, one's own ./conf included: `nearopt claims` measures them. Any
other experiment may have the block too, and its own report then opens with the verdict (see `front`). Of an
experiment: strategy, objective, cluster, seeds, budgets, per_objective. Beside them `record` (configurations
and seeds of the trainings whose whole curves are kept, for measures that look at random configurations) and

    claim:
      number, title, statement, source
      parts:      name, statement, measure, its settings, rule (see `verdict`), objective: some of them only
      published:  figures of others, and beside which of our numbers they stand: a part's, or `ours`, a
                  measure on one objective
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest
from nearopt.claims.verdict import Rule

FOLDER = "claims"
KEYS = (
    "strategy", "objective", "cluster", "seeds", "budgets", "per_objective", "record", "kinds", "claim"
)  # fmt: skip
BLOCK = ("number", "title", "statement", "source", "parts", "published")
PART = ("name", "statement", "measure", "settings", "rule", "objective")


@dataclass(frozen=True)
class Part:
    """name: unique in its claim · statement: what of the claim it tests · objectives: as an experiment has
    them."""

    name: str
    statement: str
    measure: str
    settings: dict[str, Any]
    rule: Rule
    objectives: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """See the module. `published`: entries with what, value and part, or ours {measure, objective, ...}."""

    name: str
    number: str
    title: str
    statement: str
    source: str
    parts: tuple[Part, ...]
    published: tuple[dict[str, Any], ...]
    strategies: tuple[str, ...]
    objectives: tuple[str, ...]
    clusters: tuple[str, ...]
    seeds: int
    budgets: tuple[float, ...]
    per_objective: dict[str, dict[str, Any]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def looks(self) -> list[tuple[str, str, dict[str, Any], bool]]:
        """What is measured, of the parts and of the published figures: (measure, objective, settings, whether
        on a log scale)."""
        found = [
            (p.measure, text, p.settings, p.rule.scale == "log") for p in self.parts for text in p.objectives
        ]
        for figure in self.published:
            settings = dict(figure.get("ours") or {})
            if settings:
                found.append((settings.pop("measure"), settings.pop("objective"), settings, False))
        return found

    def own(self, objective: str, block: dict[str, Any], key: str, otherwise: Any) -> Any:
        """A setting of an objective alone, by its text or by its name."""
        name = objective.partition(",")[0].partition("+")[0]
        mine = block.get(objective) or block.get(name) or {}
        return mine.get(key, otherwise)


def _files() -> dict[str, Path]:
    found = {}
    for folder in catalogue.folders():
        found |= {p.stem: p for p in sorted((folder / "experiment" / FOLDER).glob("*.yaml"))}
    return found


def _list(value: Any) -> tuple[str, ...]:
    return tuple(str(v) for v in (value if isinstance(value, list) else [value] if value else []))


def read(name: str) -> Claim:
    """A claim by its name; raises UserError in one line."""
    files = _files()
    if name not in files:
        raise UserError(f"no claim {name!r}{nearest(name, files)}")
    return read_file(files[name], name)


def read_file(path: Path, name: str) -> Claim:
    """A claim of a file; raises UserError in one line."""
    import yaml

    where = f"{path.parent.name}/{path.name}"
    try:
        made = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _claim(name, made)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        line = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(f"{where}: {line}") from None


def _known(what: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in what:
        if key not in keys:
            raise ValueError(f"{where} has no {key!r}{nearest(key, keys)}")


def _claim(name: str, made: dict[str, Any]) -> Claim:
    from nearopt.claims.measures import MEASURES

    _known(made, (*KEYS, *(k for k in catalogue.ROOT if k not in KEYS)), "a claim's file")
    block = made["claim"]
    _known(block, BLOCK, "claim")
    objectives, parts = _list(made["objective"]), []
    for part in block["parts"]:
        _known(part, PART, f"part {part.get('name')!r}")
        if part["measure"] not in MEASURES:
            raise ValueError(f"no measure {part['measure']!r}{nearest(part['measure'], MEASURES)}")
        mine = _list(part.get("objective")) or objectives
        unknown = [o for o in mine if o not in objectives]
        if unknown:
            raise ValueError(f"part {part['name']}: {unknown[0]!r} is not among the claim's objectives")
        parts.append(
            Part(part["name"], part["statement"], part["measure"], dict(part.get("settings") or {}),
                 Rule(**part["rule"]), mine)
        )  # fmt: skip
    if len({p.name for p in parts}) < len(parts) or not parts:
        raise ValueError("parts must be there and have names of their own")
    published = tuple(block.get("published") or ())
    for figure in published:
        if ("part" in figure) == ("ours" in figure):
            raise ValueError(f"published figure {figure.get('what')!r} needs either part or ours")
        if "part" in figure and figure["part"] not in {p.name for p in parts}:
            raise ValueError(f"published figure {figure['what']!r}: no part {figure['part']!r}")
    return Claim(
        name, str(block["number"]), block["title"], block["statement"], block["source"], tuple(parts),
        published, _list(made.get("strategy")), objectives, _list(made.get("cluster", "single")),
        int(made.get("seeds", 8)), tuple(float(b) for b in made.get("budgets", [])),
        dict(made.get("per_objective") or {}), dict(made.get("record") or {}), dict(made.get("kinds") or {}),
    )  # fmt: skip


def names() -> list[str]:
    """All claims, in the order of their numbers."""

    def order(claim: Claim) -> tuple:
        head = claim.number.rstrip("0123456789")
        return head, int(claim.number[len(head) :] or 0), claim.name

    return [c.name for c in sorted((read(n) for n in _files()), key=order)]
