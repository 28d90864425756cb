"""How often a comparison of a usual size would have named the wrong winner, by drawing such from a large one:
5 to 30 seeds, 5 to 35 objectives. Writes replicability.csv and replicability.md into the folder."""

from __future__ import annotations

from pathlib import Path

from nearopt.catalogue import UserError

HELP = "how often fewer seeds and objectives would name the wrong winner"
USAGE = "FOLDER"


def main(words: list[str]) -> int:
    if len(words) != 1:
        raise UserError("replicability needs one folder: nearopt replicability results/NAME")
    from bench.measures import panel
    from bench.metrics import evaluate, load_folder
    from bench.replicability import cube_of, wrong_winners

    try:
        results = load_folder(words[0])
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    scored, _, _ = evaluate(results)
    names = [list(dict.fromkeys(getattr(c, kind) for c in results.cells)) for kind in ("objective", "label")]
    shown = panel(scored, *names)
    try:
        values, labels, objectives = cube_of(shown)
    except ValueError as error:
        raise UserError(str(error)) from None
    table = wrong_winners(values)
    if not len(table):
        raise UserError(
            f"{words[0]} has {values.shape[1]} objectives and {values.shape[2]} seeds: too few to draw from"
        )
    head = (
        f"{len(labels)} strategies on {len(objectives)} objectives, {values.shape[2]} seeds; in truth "
        f"(all of it) {labels[int(values.mean((1, 2)).argmin())]} has the smallest mean gap left."
    )
    print(head + "\n" + table.round(3).to_string(index=False))
    folder = Path(words[0])
    table.to_csv(folder / "replicability.csv", index=False)
    lines = [
        "# How often is the wrong winner named?", "", head, "",
        "Experiments of these sizes drawn from it. Wrong: the smallest mean is not the true winner's. "
        "Declared: its lead over every other is significant at 5 % over the objectives.", "",
        "| objectives | seeds | wrong | gap lost | declared | declared and wrong |", "|" + " --- |" * 6,
        *(
            f"| {r['tasks']} | {r['seeds']} | {100 * r['wrong']:.1f} % | {r['loss']:.4f} | "
            f"{100 * r['declared']:.1f} % | {100 * r['declared_wrong']:.1f} % |"
            for r in table.to_dict("records")
        ),
    ]  # fmt: skip
    (folder / "replicability.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0
