"""Builds the report of a results folder again, from what lies on disk: report.html, report.md, summary.csv,
figures/.

  merge=results/NAME   first joins the folders that are named, made on several machines, in this one: their
                       cells, budgets and seeds; a seed that two have must be the same run
"""

from __future__ import annotations

import os

from nearopt.catalogue import UserError

HELP = "the report of a results folder again, from disk"
USAGE = "FOLDER [FOLDER ...] [merge=FOLDER]"


def main(words: list[str]) -> int:
    folders = [w for w in words if not w.startswith("merge=")]
    into = [w.partition("=")[2] for w in words if w.startswith("merge=")]
    if not folders or len(into) > 1 or "" in into:
        raise UserError("report needs a folder: nearopt report results/NAME")
    from bench.report import build

    try:
        if into:
            from nearopt.results import merge

            folders = [str(merge(folders, into[0]))]
        for folder in folders:
            print(f"report: {build(folder, processes=min(os.cpu_count() or 1, 4))}")
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    return 0
