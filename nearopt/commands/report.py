"""Builds the report of a results folder again, from what lies on disk: report.html, report.md, summary.csv,
leaders.csv, figures/, measures/.

  --merge FOLDER    first joins the folders that are named, made on several machines, in this one: their
                    cells, budgets and seeds; a seed that two have must be the same run
  --replicability   how often a comparison of a usual size, 5 to 30 seeds and 5 to 35 objectives, drawn from
                    this one would have named the wrong winner: replicability.csv and .md
"""

from __future__ import annotations

import argparse
import os

from nearopt.catalogue import UserError
from nearopt.claims import front

HELP = "the report of a results folder again, from disk"
USAGE = "FOLDER [FOLDER ...] [--merge FOLDER] [--replicability]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"report: {message}; usage: nearopt report {USAGE}")


def main(words: list[str]) -> int:
    parser = _Parser(add_help=False)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--merge")
    parser.add_argument("--replicability", action="store_true")
    given = parser.parse_args(words)
    if not given.folders:
        raise UserError("report needs a folder: nearopt report results/NAME")
    from bench.report import build
    from nearopt.results import early_ranks

    folders = given.folders
    try:
        if given.merge:
            from nearopt.results import merge

            folders = [str(merge(folders, given.merge))]
        for folder in folders:
            path = build(folder, min(os.cpu_count() or 1, 4), ranks=early_ranks())
            verdict = front.first(path.parent)
            print(f"report: {path}" + (f"; {verdict}" if verdict else ""))
            if given.replicability:
                from nearopt import replicability

                print(replicability.write(folder))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    return 0
