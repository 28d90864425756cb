"""The example notebook runs, cell by cell, and shows what it says."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent / "examples" / "results.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]  # made by whoever runs it
            exec("".join(cell["source"]), names)
    assert (tmp_path / "results" / "imported" / "report.html").exists()
    leaders = names["leaders"]
    assert (leaders[leaders["budget"] == 16]["first"] == "lucky").all()
    assert set(names["summary"]["label"]) == {"random", "careful", "lucky"}
    assert names["found"].mean < 0 and "runs each" in capsys.readouterr().out
