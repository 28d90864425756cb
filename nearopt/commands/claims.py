"""Measures the tuning guide's claims and published comparisons, and says SUPPORTED, REFUTED or INCONCLUSIVE.

  NAME ...           these claims alone (a file of conf/experiment/claims each); default: all of them
  name=claims        the folder under results/
  lcbench=FOLDER     where the data of an objective lie, for each that needs some (lcbench, taskset)
  objective=a,b      these objectives alone, by name: a quick look, which few families make inconclusive

Writes claims.html, claims.md, claims.csv, effects.csv and figures/. What was trained is kept: a run that was
killed goes on, and what is there is not trained again. Objectives whose data or packages are not there are
named, and left out.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from nearopt import catalogue
from nearopt.catalogue import UserError, nearest

HELP = "the guide's claims and published comparisons, measured: a verdict each"
USAGE = "[NAME ...] [name=FOLDER] [objective=NAME,...] [lcbench=FOLDER] [taskset=FOLDER]"


def _settings(words: list[str]) -> tuple[list[str], dict[str, str]]:
    given, wanted = {}, []
    known = ("name", "objective")
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            wanted.append(word)
            continue
        if key not in known and not (
            key in catalogue.names("objective") and "data_dir" in catalogue.load("objective", key)
        ):
            raise UserError(f"no setting {key!r}{nearest(key, (*known, 'lcbench', 'taskset'))}")
        given[key] = value
    folder = given.get("name", "claims")
    if folder in ("", "..") or Path(folder).name != folder:
        raise UserError(f"name must be a folder's name, got {folder!r}")
    return wanted, given


def only(claim, names: list[str]):
    """A claim on some of its objectives, by their names; None where it has none of them in any part."""
    from bench.panel import family

    parts = [
        dataclasses.replace(p, objectives=tuple(o for o in p.objectives if family(o) in names))
        for p in claim.parts
    ]
    if not any(p.objectives for p in parts):
        return None
    figures = tuple(f for f in claim.published if "part" in f or family(f["ours"]["objective"]) in names)
    return dataclasses.replace(claim, parts=tuple(parts), published=figures)


def main(words: list[str]) -> int:
    wanted, given = _settings(words)
    # Lanes of one program, and forests: several threads would get in each other's way.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    from nearopt.claims import claim, measuring, page
    from nearopt.claims.sources import Sources
    from nearopt.experiment import _use_cache, cache_folder, cores

    claims = [claim.read(name) for name in wanted or claim.names()]
    if "objective" in given:
        names = [t.partition(",")[0] for t in catalogue.split(given["objective"])]
        claims = [c for c in (only(c, names) for c in claims) if c is not None]
        if not claims:
            raise UserError(f"no claim looks at {given['objective']}")
    folder = Path("results") / given.get("name", "claims")
    places = {k: v for k, v in given.items() if k not in ("name", "objective")}
    sources, clock = Sources(folder, places), time.perf_counter()
    _use_cache(cache_folder())
    print("training random configurations, and measuring them", flush=True)
    measuring.ahead(sources, claims, cores())
    sources.run(claims)
    measured = []
    for one in claims:
        measured.append(measuring.measure(sources, one))
        print(f"{one.number:>3} {one.title}: {page.sentence(measured[-1])}", flush=True)
    path = page.write(folder, measured)
    print(f"\n{len(measured)} claims, {time.perf_counter() - clock:.0f} s: {path}")
    return 0
