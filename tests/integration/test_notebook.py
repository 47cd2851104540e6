"""The notebook, cell by cell: from twenty labelled frames to an adapted model with pictures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "twenty_frames.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_the_child_is_better_on_infants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "the notebook is kept without its results"
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    page = names["report"].read_text()
    change = re.search(r'verdict">infants: mean error ([\d.]+) % → ([\d.]+) % of the box', page)
    assert change is not None
    assert float(change[2]) < float(change[1])
    assert "Predictions on held-out pictures" in page
    assert page.count("<polyline") >= 1
    assert len(names["pictures"]) == 2
    first, second = (table.height for table in names["points"].values())
    assert first == second == 17
