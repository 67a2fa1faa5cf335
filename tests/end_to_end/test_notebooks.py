"""The notebooks run, from top to bottom, on the demo's index."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("HUBPROBE_WORKSPACE", str(demo.cwd / "demo-index"))
    monkeypatch.setenv("PYTHONPATH", str(demo.site))
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 1_000_000
    assert any(cell.get("outputs") for cell in notebook.cells), "commit it with its outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
