"""Builds the report of a results folder again, from what lies on disk: report.html, report.md, summary.csv,
figures/."""

from __future__ import annotations

from nearopt.catalogue import UserError

HELP = "the report of a results folder again, from disk"
USAGE = "FOLDER [FOLDER ...]"


def main(words: list[str]) -> int:
    if not words:
        raise UserError("report needs a folder: nearopt report results/NAME")
    from bench.report import build

    for word in words:
        try:
            print(f"report: {build(word)}")
        except FileNotFoundError as error:
            raise UserError(str(error)) from None
    return 0
