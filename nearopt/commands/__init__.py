"""The one console command, `nearopt`; each subcommand is a module here with `HELP` and `main(words)`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

COMMANDS = (
    "run", "list", "plan", "describe", "check", "reference", "report", "verify", "compare", "claims", "speed",
    "lr-finder", "record",
)  # fmt: skip
USAGE, INTERRUPTED = 2, 130


def module(name: str) -> Any:
    """A command's module: its name with dashes as underlines."""
    return importlib.import_module(f"nearopt.commands.{name.replace('-', '_')}")


def program() -> str:
    """How the user calls this command in their shell."""
    return os.environ.get("NEAROPT_COMMAND", "nearopt")


def count(n: int, word: str) -> str:
    """`1 strategy`, `2 strategies`."""
    return f"{n} {word}" if n == 1 else f"{n} {word[:-1]}ies" if word.endswith("y") else f"{n} {word}s"


def usage() -> str:
    lines = [
        f"usage: {program()} [COMMAND] [...]",
        "",
        "Compares hyperparameter-tuning strategies under fixed budgets. Without arguments: the default",
        "comparison, then its report. A word with '=' implies run.",
        "",
    ]
    for name in COMMANDS:
        lines.append(f"  {name:<10} {module(name).HELP}")
    return "\n".join([*lines, "", f"{program()} COMMAND --help tells more; --version prints the version."])


def _foreign() -> str | None:
    """A package of the user's that hides one of ours, in one sentence."""
    for name in ("bench", "strategies", "surrogates", "conf"):
        spec = importlib.util.find_spec(name)
        places = [*(spec.submodule_search_locations or [])] if spec else []
        marker = {
            "bench": "protocols.py",
            "strategies": "random_search.py",
            "surrogates": "functions.py",
        }.get(name)
        if not places:
            return f"nearopt's own package {name!r} cannot be found: install nearopt again"
        if marker and not any((Path(place) / marker).exists() for place in places):
            return (
                f"the package {name!r} in {places[0]} hides nearopt's own package of that name: "
                "run nearopt from another folder, or rename yours"
            )
    return None


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns 0 done, 1 a cell failed, 2 bad input, 130 interrupted."""
    from nearopt import __version__

    words = [*(sys.argv[1:] if words is None else words)]  # once imported, our module `list` hides the type
    if words and words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words and words[0] in ("-V", "--version", "version"):
        print(f"nearopt {__version__}")
        return 0
    name = "run" if not words or "=" in words[0] or words[0] in ("-m", "--multirun") else words.pop(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(COMMANDS)}"
        print(f"nearopt: no command {name!r}{hint}", file=sys.stderr)
        return USAGE
    hidden = _foreign()
    if hidden:
        print(f"nearopt: {hidden}", file=sys.stderr)
        return USAGE
    command = module(name)
    if any(w in ("-h", "--help") for w in words):
        print(f"usage: {program()} {name} {command.USAGE}\n\n{(command.__doc__ or '').strip()}")
        return 0
    from nearopt.catalogue import UserError
    from nearopt.interrupt import Heard

    try:
        with Heard():
            return command.main(words)
    except UserError as error:
        print(f"nearopt: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        again = " ".join([program(), *sys.argv[1:]])
        print(
            f"\nnearopt: interrupted; finished cells are kept, `{again}` completes the rest", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:  # an OSError too: before it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # no room, no right to write
        print(f"nearopt: {error}", file=sys.stderr)
        return 1
