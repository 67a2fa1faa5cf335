"""The notebooks run, from top to bottom, on the demo's index; what is committed of them can be shown to anybody."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _refresh():
    spec = spec_from_file_location("notebooks_refresh", ROOT / "notebooks" / "refresh.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = _refresh()


def test_there_are_three_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["analyst_sql", "first_search", "paper_tables"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("HUBPROBE_WORKSPACE", str(demo.cwd / "demo-index"))
    monkeypatch.setenv("HUBPROBE_RESULTS", str(ROOT / "benchmarks" / "accuracy" / "results"))
    monkeypatch.setenv("PYTHONPATH", str(demo.site))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert _kinds(notebook) == _kinds(nbformat.read(path, as_version=4)), "run notebooks/refresh.py"


def _kinds(notebook):
    """What every cell puts out: numbers may differ from machine to machine, tables and pictures do not come or go."""
    # a warning about the environment, on stderr, is no output of the notebook's
    outputs = [[o for o in cell.get("outputs", []) if o.get("name") != "stderr"] for cell in notebook.cells]
    return [[sorted(o["data"]) if "data" in o else o.output_type for o in some] for some in outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_committed_is_whole_small_and_names_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < refresh.MOST_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run notebooks/refresh.py"
    assert sum(bool(cell.outputs) for cell in code) >= 8
    said = "\n".join(refresh.texts(notebook))
    assert refresh.MACHINE_PATH.findall(said) == []
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr" or o.output_type == "error"]


@pytest.mark.parametrize(
    ("text", "names_one"),
    [
        ("Index('/tmp/plots-index')", True),
        ('File "/home/ann/hubprobe/x.py"', True),
        ("(/root/.venv/lib)", True),
        (r"C:\\Users", True),
        ("../demo-index", False),
        ("/trouble/file-missing-vision/resolve/main", False),
        ("https://example.org/home/page", False),
        ("hf://datasets/opt/data", False),
    ],
)
def test_a_machine_path_is_known_from_others(text, names_one):
    assert bool(refresh.MACHINE_PATH.search(text)) is names_one
