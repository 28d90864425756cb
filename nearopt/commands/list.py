"""Names the strategies, objectives, wrappers, clusters and experiments that there are, ./conf included."""

from __future__ import annotations

from nearopt import catalogue
from nearopt.catalogue import LISTED, UserError, nearest

HELP = "what there is: strategies, objectives, wrappers, clusters, experiments"
USAGE = "[strategy|objective|wrapper|cluster|experiment]"


def main(words: list[str]) -> int:
    for word in words:
        if word not in LISTED:
            raise UserError(f"no group {word!r}{nearest(word, LISTED)}")
    for group in words or LISTED:
        # Wrappers go around an objective: objective=branin+noisy,sd=.1
        print(f"{group}=" if group != "wrapper" else "objective=NAME+")
        for name in catalogue.names(group):
            print(f"  {name:<20} {catalogue.purpose(group, name)}")
    return 0
