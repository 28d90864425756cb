"""Runs the contract's rules on a strategy or an objective, by its name in conf/ (./conf included) or as
module.Class, and names the first job that breaks one. Ends with status 1 if a rule is broken."""

from __future__ import annotations

import re

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "the contract's rules on one's own strategy or objective"
USAGE = "NAME [NAME ...]"


def main(words: list[str]) -> int:
    if not words:
        raise UserError("check needs a name: nearopt check NAME")
    from bench.contract import check_objective, check_strategy

    broken = 0
    for word in words:
        name = re.split("[,+]", word)[0]
        group = next((g for g in ("strategy", "objective") if name in catalogue.names(g)), None)
        if group == "strategy":
            found = check_strategy(catalogue.strategy_factory(catalogue.entry(group, word).settings))
        elif group == "objective":
            found = check_objective(catalogue.build(catalogue.entry(group, word).settings))
        elif "." in word:
            settings = {"_target_": word}
            try:
                group, made = "objective", catalogue.build(settings)
                found = check_objective(made)
            except UserError:
                group = "strategy"
                found = check_strategy(catalogue.strategy_factory(settings | {"_partial_": True}))
        else:
            known = [*catalogue.names("strategy"), *catalogue.names("objective")]
            raise UserError(f"no strategy or objective {word!r}{nearest(word, known)}")
        for violation in found:
            print(f"{word}: {violation}")
        if not found:
            print(f"{word}: this {group} keeps the rules")
        broken += bool(found)
    return 1 if broken else 0
