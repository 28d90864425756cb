"""What changed between two results folders, and whether it is noise: settings, versions, cells of one only,
and for each cell of both whether its runs are the same and by how much the mean gap left differs at the
largest budget that both have (p corrected for the number of cells, Holm)."""

from __future__ import annotations

from nearopt.catalogue import UserError

HELP = "what changed between two results folders, and is it noise"
USAGE = "FOLDER FOLDER"


def main(words: list[str]) -> int:
    if len(words) != 2:
        raise UserError("compare needs two folders: nearopt compare results/A results/B")
    from nearopt.reproduce import STATUS, compare_folders

    try:
        found = compare_folders(*words)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    for title, lines in (
        (f"only in {words[0]}", found.only_a),
        (f"only in {words[1]}", found.only_b),
        ("settings", found.settings),
        ("references, by which gaps are measured", found.references),
        ("versions", found.versions),
    ):
        if lines:
            print(f"{title}:\n" + "\n".join(f"  {line}" for line in lines))
    table = found.cells
    if not len(table):
        print("no cell is in both folders")
        return 0
    for row in table.to_dict("records"):
        text = f"{row['objective']}/{row['label']}: {row['answer']}"
        text += f", {row['what']} (seed {row['seed']}, job {row['job']})" if row.get("seed", -1) >= 0 else ""
        text += f", {row['what']}" if row["answer"] in ("not compared", STATUS) else ""
        if row["p"] == row["p"] and row["answer"] != "identical":
            text += (
                f"; gap left {row['gap_a']:.4f} -> {row['gap_b']:.4f}, difference {row['difference']:.4f} "
                f"({row['low']:.4f} to {row['high']:.4f}), p = {row['p_holm']:.3g}: "
                + ("may be noise" if row["noise"] else "more than noise")
            )
        print(text)
    changed = table[table["answer"] != "identical"]
    loud = table[~table["noise"].astype(bool)]
    left = table[table["answer"] == "not compared"]
    print(
        f"{len(table)} cells in both: {len(table) - len(changed)} identical, {len(changed) - len(left)} "
        f"changed, of which {len(loud)} by more than noise"
        + (f"; {len(left)} not compared" if len(left) else "")
    )
    return 0
