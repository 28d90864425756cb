"""How often a comparison of a usual size would have named the wrong winner, by drawing such from a large one:
5 to 30 seeds, 5 to 35 objectives. Writes replicability.csv and replicability.md into the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.metrics import evaluate
from bench.panel import by_cluster, panel
from bench.reading import load_folder
from bench.replicability import cube_of, wrong_winners


def write(path: str | Path) -> str:
    """Writes both files and returns the table as text; of several clusters, of the one with the most
    strategies. Raises ValueError where there is too little to draw from, FileNotFoundError where there is no
    such folder."""
    results = load_folder(path)
    scored, _, _ = evaluate(results)
    names = [dict.fromkeys(c.objective for c in results.cells), dict.fromkeys(c.label for c in results.cells)]
    clusters = by_cluster(panel(scored, list(names[0]), list(names[1])))
    if not clusters:
        raise ValueError(f"{path} has no results that can be scored: nothing to draw from")
    cluster, shown = max(clusters.items(), key=lambda item: len(item[1].labels))
    values, labels, objectives = cube_of(shown)
    table = wrong_winners(values)
    if not len(table):
        raise ValueError(
            f"{path} has {values.shape[1]} objectives and {values.shape[2]} seeds: too few to draw from"
        )
    on = f" with {cluster}" if len(clusters) > 1 else ""
    truth = values.mean((1, 2))
    first, second = np.argsort(truth, kind="stable")[:2]
    head = (
        f"{len(labels)} strategies{on} on {len(objectives)} objectives, {values.shape[2]} seeds; in truth "
        f"(all of it) {labels[first]} has the smallest mean gap left, {truth[first]:.3f}, then "
        f"{labels[second]}, {truth[second]:.3f}."
    )
    folder = Path(path)
    table.to_csv(folder / "replicability.csv", index=False)
    lines = [
        "# How often is the wrong winner named?", "", head, "",
        "Experiments of these sizes drawn from it, with replacement. Wrong: the smallest mean is not the "
        "true winner's. Gap lost: by how much the named one is worse in truth, on average. Declared: its "
        "lead over every other is significant at 5 % over the objectives (Student's t). Swapped: of all "
        "pairs of strategies, those in the wrong order.", "",
        "| objectives | seeds | wrong | gap lost | declared | declared and wrong | swapped |",
        "|" + " --- |" * 7,
        *(
            f"| {r['tasks']} | {r['seeds']} | {100 * r['wrong']:.1f} % | {r['loss']:.4f} | "
            f"{100 * r['declared']:.1f} % | {100 * r['declared_wrong']:.1f} % | {100 * r['swapped']:.1f} % |"
            for r in table.to_dict("records")
        ),
    ]  # fmt: skip
    (folder / "replicability.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return head + "\n" + table.round(3).to_string(index=False)
