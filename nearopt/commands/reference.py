"""Remakes the stored reference of an objective: its optimum and random's quantiles, instance by instance.

objective=NAME[,NAME ...]    objective=all: every one that is listed
"""

from __future__ import annotations

import sys
import time

from nearopt import catalogue
from nearopt.catalogue import UserError

HELP = "remake an objective's stored reference"
USAGE = "objective=NAME"


def main(words: list[str]) -> int:
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if set(given) != {"objective"} or not given["objective"]:
        raise UserError("reference needs objective=NAME")
    from bench.reference import make

    names = (
        catalogue.names("objective") if given["objective"] == "all" else catalogue.split(given["objective"])
    )
    left = 0
    for name in names:
        clock = time.perf_counter()
        try:
            path = make(catalogue.build(catalogue.entry("objective", name).settings))
        except UserError as error:  # an extra or data that is not there: the others are still made
            if len(names) == 1:
                raise
            left += 1
            print(f"{name}: left as it is: {error}", file=sys.stderr)
            continue
        print(f"{name}: {path} ({time.perf_counter() - clock:.1f} s)", flush=True)
    return 1 if left else 0
