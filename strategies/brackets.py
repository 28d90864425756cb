"""Rungs and brackets of successive halving, in integers only.

Li et al. 2018, Hyperband, JMLR 18:185, Algorithm 1 and Table 1, which contradict each other; both are here.
The paper's R is `max_epoch`, its n_i and r_i are a rung's `members` and `until`. Floating-point logarithms
are avoided: floor(log(243) / log(3)) is 4.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

RULES = ("algorithm1", "table1")


class Rung(NamedTuple):
    """`members` configurations, each trained until epoch `until`."""

    members: int
    until: int


Bracket = tuple[Rung, ...]


def check(max_epoch: int, eta: int, min_epoch: int, rule: str = "algorithm1") -> None:
    """Raises ValueError for settings that make no brackets."""
    if int(eta) != eta or eta < 2:
        raise ValueError(f"eta must be an integer of at least 2, got {eta}")
    if int(max_epoch) != max_epoch or max_epoch < 1:
        raise ValueError(f"max_epoch must be an integer of at least 1, got {max_epoch}")
    check_epoch("min_epoch", min_epoch, max_epoch)
    if rule not in RULES:
        raise ValueError(f"bracket_rule must be {' or '.join(RULES)}, got {rule!r}")


def check_epoch(name: str, epoch: int, max_epoch: int) -> None:
    """Raises ValueError for an epoch at which nobody can be."""
    if int(epoch) != epoch or not 1 <= epoch <= max_epoch:
        raise ValueError(f"{name} must be an integer from 1 to max_epoch={max_epoch}, got {epoch}")


def s_max(max_epoch: int, eta: int, min_epoch: int = 1) -> int:
    """The largest s with min_epoch * eta^s <= max_epoch: promotions in the longest bracket."""
    s, epochs = 0, min_epoch * eta
    while epochs <= max_epoch:
        s, epochs = s + 1, epochs * eta
    return s


def rungs(max_epoch: int, eta: int, s: int) -> tuple[int, ...]:
    """Epochs floor(max_epoch * eta^(i - s)) for i in 0..s: strictly increasing, the last is max_epoch.

    With s <= s_max(max_epoch, eta, min_epoch) the first is at least min_epoch."""
    return tuple(max_epoch // eta ** (s - i) for i in range(s + 1))


def promoted(members: int, eta: int, rung: int) -> int:
    """How many of a bracket's first `members` reach its rung number `rung`."""
    return members // eta**rung


def width(largest: int, eta: int, s: int, rule: str = "algorithm1") -> int:
    """Configurations that bracket s of 0..largest starts with.

    algorithm1: ceil((largest + 1) eta^s / (s + 1)); table1: floor((largest + 1) / (s + 1)) eta^s."""
    if rule == "algorithm1":
        return -(-(largest + 1) * eta**s // (s + 1))
    return (largest + 1) // (s + 1) * eta**s


def brackets(
    max_epoch: int, eta: int = 3, min_epoch: int = 1, rule: str = "algorithm1"
) -> tuple[Bracket, ...]:
    """One round of Hyperband: brackets s_max..0, each a tuple of rungs. Raises ValueError (see `check`)."""
    check(max_epoch, eta, min_epoch, rule)
    largest = s_max(max_epoch, eta, min_epoch)
    table = []
    for s in range(largest, -1, -1):
        n = width(largest, eta, s, rule)
        table.append(tuple(Rung(promoted(n, eta, i), r) for i, r in enumerate(rungs(max_epoch, eta, s))))
    return tuple(table)


def halving(max_epoch: int, eta: int = 3, min_epoch: int = 1, members: int | None = None) -> Bracket:
    """The longest bracket by itself, of `members`, by default eta^s_max. Raises ValueError (see `check`)."""
    check(max_epoch, eta, min_epoch)
    s = s_max(max_epoch, eta, min_epoch)
    n = eta**s if members is None else members
    return tuple(Rung(promoted(n, eta, i), r) for i, r in enumerate(rungs(max_epoch, eta, s)))


def screening(max_epoch: int, epochs: int, keep: int, first_epoch: int = 1) -> Bracket:
    """As many members to first_epoch as `epochs` pay for beside `keep` of them trained on to max_epoch.

    At most half of the trainings that the epochs pay for are kept, and at least one."""
    if first_epoch == max_epoch:
        return (Rung(epochs // max_epoch, max_epoch),)
    keep = max(1, min(keep, epochs // max_epoch // 2))
    members = (epochs - keep * (max_epoch - first_epoch)) // first_epoch
    return Rung(members, first_epoch), Rung(keep, max_epoch)


def epochs(bracket: Bracket, resume: bool = True) -> int:
    """Epochs that a bracket trains: with resuming a promoted member pays only for those after its last
    rung."""
    before = (0, *(rung.until for rung in bracket[:-1])) if resume else (0,) * len(bracket)
    return sum(rung.members * (rung.until - start) for rung, start in zip(bracket, before, strict=True))


def picture(bracket: Bracket) -> str:
    """A bracket in words: "81, 27, 9, 3, 1 members at epochs 1, 3, 9, 27, 81"."""
    members, ends = (", ".join(f"{n:,}" for n in column) for column in zip(*bracket, strict=True))
    return f"{members} members at epochs {ends}"


def started(rungs: tuple[int, ...], eta: int, epochs: int) -> int:
    """Configurations that `epochs` pay for, rounded down, where one in eta of each rung goes on."""
    s = len(rungs) - 1
    each = sum(eta ** (s - i) * (b - a) for i, (a, b) in enumerate(pairwise((0, *rungs))))
    return epochs * eta**s // each


def turns(shares: tuple[int, ...]) -> tuple[int, ...]:
    """An order of sum(shares) turns in which each has its share, as evenly as can be, the first the first."""
    total, credit, order = sum(shares), [0] * len(shares), []
    for _ in range(total):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        nxt = credit.index(max(credit))
        credit[nxt] -= total
        order.append(nxt)
    return tuple(order)
