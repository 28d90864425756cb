"""Says what `nearopt run` with the same words would run, what each budget means, and for how long.

Times are scaled from cells of the same strategy and objective that were run before, here or in the results
that nearopt ships; a cell that nobody has run yet is said to be unknown.
"""

from __future__ import annotations

from pathlib import Path

import nearopt
from bench import store
from nearopt import experiment
from nearopt.catalogue import UserError
from nearopt.commands import count

HELP = "what would run, and for how long"
USAGE = "[experiment=NAME] [key=value ...]"


def seconds(cell: experiment.Cell, blocks) -> tuple[float, float] | None:
    """(compiling, running) seconds of these blocks, scaled from the same cell run before; None: unknown."""
    shipped = Path(nearopt.__file__).parent.parent / "results" / "reference"
    own = sorted(Path("results").glob("*")) if Path("results").is_dir() else []
    for root in [*own, *sorted(shipped.glob("*"))]:
        known = store.read_cell(root / cell.objective.label / cell.label)
        if known and known.get("status") == store.COMPLETE and known.get("run_s") and known.get("trainings"):
            trainings = sum(budget * len(seeds) for budget, seeds in blocks)
            return float(known["compile_s"]), float(known["run_s"]) * trainings / float(known["trainings"])
    return None


def main(words: list[str]) -> int:
    wanted = experiment.read(words)
    todo = experiment.cells(wanted)
    print(f"{wanted.name}: {count(len(todo), 'cell')}, into {wanted.folder}")
    said: set[str] = set()
    total, unknown, left, failing = 0.0, 0, 0, 0
    for cell in todo:
        try:
            need = experiment.work(cell)
        except (ValueError, UserError) as error:
            print(f"  {cell.objective.label:<20} {cell.label:<24} fails: {error}")
            failing += 1
            continue
        if need.reason:
            print(f"  {cell.objective.label:<20} {cell.label:<24} not applicable: {need.reason}")
            continue
        blocks = ", ".join(f"seeds {r.start}-{r.stop - 1} at {b:g}" for b, r in need.todo)
        guess = seconds(cell, need.todo) if need.todo else None
        left += bool(need.todo)
        unknown += bool(need.todo and guess is None)
        total += sum(guess or (0.0, 0.0))
        time = "" if not need.todo else f"  about {sum(guess):.1f} s" if guess else "  time unknown"
        print(f"  {cell.objective.label:<20} {cell.label:<24} {blocks or 'complete'}{time}")
        for text in (need.describe or {}).values():
            if text and text not in said:
                said.add(text)
                print(f"      {text}")
    if not left:
        fails = f", or fails ({failing} of {len(todo)})" if failing else ""
        print(f"nothing to run: every cell is complete or not applicable{fails}")
        return 0
    known = f"about {total:.0f} s of one core" if left > unknown else "time unknown"
    if unknown and left > unknown:
        known = f"{left - unknown} of them timed, {known}; the others never yet, so more"
    print(f"{count(left, 'cell')} to run, {known}")
    return 0
