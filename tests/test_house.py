"""The rules of the house: who imports whom, how long a file may be, that no room hides a name."""

import ast
import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("crawler", "probing", "completion", "search")
PACKAGES = (*ROOMS, "workspace", "hubprobe")
FILES = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = {"workspace": {"workspace"}, "hubprobe": set(PACKAGES)}.get(package, {package, "workspace"})
    assert imported(path) & set(PACKAGES) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arguments_beyond_eight_have_names(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if len(node.args) > 8] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_true(package):
    module = importlib.import_module(package)
    # as ruff sorts: CONSTANTS, then Classes, then functions
    assert module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(getattr(module, name, None) is not None for name in module.__all__)


def test_no_module_hides_a_verb():
    """``hubprobe.status`` must stay a function after ``hubprobe/status.py``, or its like, was imported."""
    for path in sorted((ROOT / "hubprobe").rglob("*.py")):
        if path.stem not in {"__init__", "__main__"}:
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    hubprobe = importlib.import_module("hubprobe")
    for name in (
        "crawl",
        "probe",
        "complete",
        "index",
        "evaluate",
        "open",
        "run",
        "status",
        "use",
        "compare",
        "concepts",
    ):
        assert callable(getattr(hubprobe, name)), name


def test_files_stay_short():
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert not {p: length for p, length in lengths.items() if length > 700}


MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}


def needed(module: str) -> set[str]:
    """Return our modules that ``module`` imports, anywhere: inside functions and for type checking only, too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # a package's own file counts only for names that are no module in it
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        found |= {name for name in names if name in MODULES}
    return found - {module}


def test_no_imports_run_in_a_circle():
    left = {module: needed(module) for module in MODULES}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_the_wheel_names_every_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith('packages = ["completion')]
    assert line == f"packages = {json.dumps(sorted(PACKAGES))}"
    assert all((folder / "__init__.py").exists() for folder in {p.parent for p in FILES})
