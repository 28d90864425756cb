"""Runs a sample of a results folder's cells again and compares job by job.

  cells=6     how many cells, evenly over objectives and strategies
  seeds=8     how many of each cell's seeds

Each cell is *identical*, *same up to rounding*, *same in distribution* (runs depart, their ends do not
differ more than by chance: few seeds see large differences only) or *different* (p at most 5 %, a cell at a
time: of many that depart by rounding, one in 20); where runs depart it says at which job first. Exits with 1
where one differs."""

from __future__ import annotations

from nearopt.catalogue import UserError

HELP = "run a sample of a results folder again: is it the same?"
USAGE = "FOLDER [cells=6] [seeds=8]"


def main(words: list[str]) -> int:
    folders = [w for w in words if "=" not in w]
    given = {w.partition("=")[0]: w.partition("=")[2] for w in words if "=" in w}
    if len(folders) != 1 or not set(given) <= {"cells", "seeds"}:
        raise UserError("verify needs one folder: nearopt verify results/NAME [cells=6] [seeds=8]")
    numbers = {}
    for key, text in given.items():
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"{key} must be a number of at least 1, got {text!r}")
        numbers[key] = int(text)
    from nearopt import reproduce

    def say(one: reproduce.Verified) -> None:
        name = f"{one.objective}/{one.label}, budget {one.budget:g}"
        if one.found is None:
            print(f"{name}: not run again: {one.error}", flush=True)
            return
        found, text = one.found, f"{name}: {one.found.answer} in {one.found.runs} runs"
        if found.seed >= 0:
            text += f"; seed {found.seed} departs at job {found.job} ({found.what})"
            if found.runs < reproduce.LEAST:
                text += f"; {found.runs} runs are too few to compare distributions"
            else:
                text += f"; were they of one distribution, ends so far apart would have p = {found.p:.3g}"
        print(text, flush=True)

    try:
        found = reproduce.verify(folders[0], say=say, **numbers)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    bad = [v for v in found if v.found is None or v.found.answer == reproduce.DIFFERENT]
    print(f"{len(found) - len(bad)} of {len(found)} cells reproduced")
    return 1 if bad else 0
