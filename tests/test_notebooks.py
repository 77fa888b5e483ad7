from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CLP_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("CLP_NOTEBOOK_STEPS", "12")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.get("text", "") for output in outputs)
    assert "Use linear" in text
    summaries = [output["data"].get("text/plain", "") for output in outputs if "data" in output]
    assert any("'state': 'finished'" in summary for summary in summaries)
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 4
