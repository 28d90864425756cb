"""The verdict in an experiment's own report: an experiment file with a `claim:` block has one.

`nearopt run` keeps the file beside its runs as claim.yaml; whenever the report is built, it is measured on
what lies there and stands first. What its measures train beside the runs is kept under claim/.
"""

from __future__ import annotations

from pathlib import Path

from nearopt import catalogue

FILE, KEPT = "claim.yaml", "claim"
STYLE = """<style>section.claim>p.verdict{font-size:17px;font-weight:700}
section.claim>.scroll{overflow-x:auto}
section.claim>.scroll th,section.claim>.scroll td{padding:4px 14px 4px 0;text-align:left;vertical-align:top}
</style><section class="claim">"""


def keep(experiment: str, folder: Path) -> None:
    """Copies an experiment's file to its results, if it states a claim; raises UserError where that makes no
    sense, before anything is run."""
    import yaml

    from nearopt.claims import claim

    for place in reversed(catalogue.folders()):
        path = place / "experiment" / f"{experiment}.yaml"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if "claim" in (yaml.safe_load(text) or {}):
                claim.read_file(path, experiment)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / FILE).write_text(text, encoding="utf-8")
            return


def first(folder: Path) -> str | None:
    """Puts the verdict first in the report.html and report.md that lie in a folder; returns it in a sentence,
    None where no claim is there. Raises UserError for a claim that cannot be read."""
    from nearopt.claims import claim, measuring, page
    from nearopt.claims.sources import Sources

    if not (folder / FILE).is_file():
        return None
    one = claim.read_file(folder / FILE, folder.name)
    measured = measuring.measure(Sources(folder / KEPT, at=folder), one)
    picture = page.figure(measured)
    opening = '<?xml version="1.0" encoding="utf-8"?>\n'
    page.put(folder / "figures" / f"{one.name}.svg", opening + picture)
    page.put(folder / "effects.csv", measured.rows.to_csv(index=False, float_format="%.6g"))
    _before(folder / "report.html", "<main>", STYLE + page.section(measured, picture) + "</section>")
    _before(folder / "report.md", "", page.markdown(measured, 1, "figures") + "\n")
    return page.sentence(measured)


def _before(path: Path, mark: str, text: str) -> None:
    """Puts a text into a file after a mark, the first of its kind."""
    from nearopt.claims import page

    page.put(path, path.read_text(encoding="utf-8").replace(mark, mark + text, 1))
