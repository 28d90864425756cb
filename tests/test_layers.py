"""Fairness is an import rule: who may import what, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACT = ("bench.space", "bench.protocols")
OWN = ("nearopt", "bench", "strategies", "surrogates", "conf")
RULES = [  # layer, what it may import of our own, what it may not even so
    ("strategies", ("strategies", *CONTRACT), ()),
    ("surrogates", ("surrogates", *CONTRACT), ()),
    ("bench/tasks", ("bench.tasks", "bench.reference", *CONTRACT), ()),
    ("bench", ("bench",), ("bench.tasks",)),
    ("nearopt", ("nearopt", "bench", "conf"), ("bench.tasks",)),
]
LAYERS = [layer for layer, _, _ in RULES]


def within(name, packages):
    return any(name == p or name.startswith(p + ".") for p in packages)


def imports(path, source):
    """Full names that the file imports, at its top or inside a function."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(layer, path, source):
    _, allowed, refused = RULES[LAYERS.index(layer)]
    names = [name for name in imports(path, source) if within(name, OWN)]
    return [name for name in names if not within(name, allowed) or within(name, refused)]


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer):
    files = list((ROOT / layer).rglob("*.py"))
    if layer == "bench":
        files = [path for path in files if ROOT / "bench" / "tasks" not in path.parents]
    found = {path.name: violations(layer, path, path.read_text(encoding="utf-8")) for path in files}
    assert files and not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("strategies", "from surrogates.functions import Function"),
        ("strategies", "def f():\n    import bench.tasks.digits"),
        ("surrogates", "from strategies import gp"),
        ("bench", "from bench import tasks"),
        ("bench", "from .tasks import digits"),
        ("bench/tasks", "from bench import simulate"),
        ("nearopt", "import strategies.gp"),
    ],
)
def test_a_breach_is_seen(layer, line):
    assert violations(layer, ROOT / layer / "x.py", line)
