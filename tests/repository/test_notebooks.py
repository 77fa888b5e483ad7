from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.tiny_models import put_short_text

from clp_core.jobs.allocator import ALLOCATOR

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {  # what each notebook says on the way, and how many figures it draws
    "01_first_transfer": (("Use linear", "'state': 'finished'"), 4),
    "03_train_and_compare": (
        ("stopped on request, saved", "attempts: 2", "linear rows saves", "saves 90 % of the tokens"),
        3,
    ),
    "04_paper_experiment": (("The paper's experiment on the demo pair", "auto-taught", "saved against, %"), 1),
    "02_explore": (("1,378 of 6,144", "E_{", "in common", "fit"), 5),
}


@pytest.mark.notebook
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CLP_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("CLP_NOTEBOOK_STEPS", "6")
    for name, value in ALLOCATOR.items():  # as jobs have it
        monkeypatch.setenv(name, value)
    put_short_text(tmp_path / "texts", 24)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.get("text", "") for output in outputs)
    text += "".join(output["data"].get("text/plain", "") for output in outputs if "data" in output)
    said, figures = EXPECTED[path.stem]
    assert [words for words in said if words not in text] == []
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == figures
