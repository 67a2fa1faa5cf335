"""Run the notebooks on a demo's workspace and keep their outputs: python notebooks/refresh.py demo-index [NAME ...]."""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
MOST_BYTES = 300_000
_TOPS = "root|home|Users|tmp|var|work|mnt|opt|usr|private"
MACHINE_PATH = re.compile(rf"(?<![\w.~/:-])/(?:{_TOPS})/[^\s'\"<>]+|[A-Z]:\\\\\w+")
"""An absolute path of somebody's machine; what follows a host name, or is relative, is none."""


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """Return everything that the outputs of a notebook say in words."""
    found = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return found


def smaller(encoded: str) -> str:
    """Return a picture, PNG in base64, with 200 colours: plots need no more, and the repository keeps every version."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB").quantize(200).save(buffer, "PNG", optimize=True)
    return min(encoded, base64.b64encode(buffer.getvalue()).decode(), key=len)


def refresh(path: Path, workspace: Path) -> None:
    """Execute the notebook at ``path`` beside links to ``workspace`` and the records, and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "notebooks").mkdir()
        (root / "demo-index").symlink_to(workspace.resolve())
        (root / "benchmarks").symlink_to(HERE.parent / "benchmarks")
        resources = {"metadata": {"path": str(root / "notebooks")}}
        NotebookClient(notebook, timeout=600, resources=resources, record_timing=False).execute()
    said = []
    for cell in notebook.cells:
        warned = [o["text"] for o in cell.get("outputs", []) if o.get("name") == "stderr"]
        said += [text for text in warned if "IProgress" not in text]  # whether ipywidgets is installed is no news
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    named = [match.group() for text in texts(notebook) for match in MACHINE_PATH.finditer(text)]
    if said or named:
        raise SystemExit(f"{path.name}: outputs hold warnings or paths of this machine: {said + named}")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = smaller(output["data"]["image/png"])
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",)}
    notebook.metadata["language_info"] = {"name": "python"}
    written = nbformat.writes(notebook)
    if len(written.encode()) > MOST_BYTES:
        raise SystemExit(f"{path.name}: {len(written.encode())} bytes are too many: draw smaller pictures")
    path.write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    chosen = [HERE / f"{name}.ipynb" for name in sys.argv[2:]] or sorted(HERE.glob("*.ipynb"))
    for notebook_path in chosen:
        refresh(notebook_path, Path(sys.argv[1]))
        sys.stderr.write(f"{notebook_path.name}: {notebook_path.stat().st_size} bytes\n")
