"""Names the strategies, objectives, clusters and experiments that there are, ./conf included."""

from __future__ import annotations

from nearopt import catalogue
from nearopt.catalogue import GROUPS, UserError, nearest

HELP = "what there is: strategies, objectives, clusters, experiments"
USAGE = "[strategy|objective|cluster|experiment]"


def main(words: list[str]) -> int:
    for word in words:
        if word not in GROUPS:
            raise UserError(f"no group {word!r}{nearest(word, GROUPS)}")
    for group in words or GROUPS:
        print(f"{group}=")
        for name in catalogue.names(group):
            print(f"  {name:<20} {catalogue.purpose(group, name)}")
    return 0
