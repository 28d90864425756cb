"""Runs what is missing of an experiment, then builds its report.

  experiment=NAME                     one of `nearopt list`; default: first
  name=mine                           the folder under results/
  strategy=random,gp objective=...    instead of the experiment's own
  strategy.eta=3,4                    a setting, for each strategy that has it; several values sweep
  objective.dimension=8               likewise
  budgets=[10,30] seeds=100           full trainings; seeds are lanes of one program
  cluster=single                      how many workers on the simulated clock
  processes=1 debug=true              one process; one seed without compiling, nothing written

A complete cell is not run again; more seeds and budgets add to it. Where the experiment's file has a `claim:`
block, the report opens with the verdict.
"""

from __future__ import annotations

import sys

from nearopt import experiment
from nearopt.claims import front
from nearopt.commands import count, program

HELP = "run an experiment, then build its report"
USAGE = "[experiment=NAME] [key=value ...]"


def main(words: list[str]) -> int:
    wanted = experiment.read(words)
    todo = experiment.cells(wanted)
    budgets = ", ".join(f"{b:g}" for b in wanted.budgets)
    print(
        f"{wanted.name}: {count(len(wanted.strategies), 'strategy')} on "
        f"{count(len(wanted.objectives), 'objective')} ({count(len(todo), 'cell')}), "
        f"{count(wanted.seeds, 'seed')}, budgets {budgets} full trainings",
        flush=True,
    )
    for name, own in wanted.per_objective.items():
        if own and any(name in (o.name, o.name.partition("+")[0]) for o in wanted.objectives):
            print(f"  {name}: " + ", ".join(f"{k} {v}" for k, v in own.items()), flush=True)
    if not wanted.debug:
        front.keep(experiment.overrides(words).get("experiment", "first"), wanted.folder)
    sound = experiment.run(wanted)
    if wanted.debug:
        return 0 if sound else 1
    from bench.report import build
    from nearopt.results import early_ranks

    path = build(wanted.folder, experiment.cores(), ranks=early_ranks())
    verdict = front.first(wanted.folder)
    if verdict:
        print(f"\nclaim:  {verdict}")
    if not sound:
        print("nearopt: some cells failed; the report says why", file=sys.stderr)
    print(f"\nreport: {path}")
    print(f"next:   {program()} run experiment=hyperband_vs_random     (more: {program()} list)")
    return 0 if sound else 1
