"""A small workspace to release, with repositories of every kind, and a hub to push it to."""

import re
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hubprobe.demo.listing import FolderCatalog
from hubprobe.demo.server import HubServer
from hubprobe.release import release
from tests.search.conftest import make
from workspace import Workspace, records
from workspace.files import table_files, write_table


def change_catalog(workspace, repo_id: str, **values) -> None:
    """Rewrite the catalog row of one repository."""
    for path in table_files(workspace.catalog_dir):
        rows = pq.read_table(path, schema=records.CATALOG).to_pylist()
        changed = [{**row, **values} if row["id"] == repo_id else row for row in rows]
        write_table(path, pa.Table.from_pylist(changed, schema=records.CATALOG))


def change_probes(workspace, **columns) -> None:
    """Give every probe these values."""
    path = workspace.probes_dir(workspace.probe_set) / "probes.parquet"
    rows = [{**row, **columns} for row in pq.read_table(path).to_pylist()]
    write_table(path, pa.Table.from_pylist(rows, schema=records.PROBES))


def released(folder: Path, table: str) -> pa.Table:
    """Read a table of a release."""
    return pa.concat_tables([pq.read_table(path) for path in table_files(folder / table)])


def repos_in(folder: Path) -> set[str]:
    """Return every repository that any table of a release has a row of."""
    found = set(released(folder, "models")["repo_id"].to_pylist())
    for table in ("logits", "attempts", "descriptors"):
        found |= set(pc.unique(released(folder, table)["repo_id"]).to_pylist())
    return found


def questions_of(folder: Path) -> dict[str, str]:
    """Return the questions that a release's card asks, and the SQL of each."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\d+\. ([^\n]+)\n\n```sql\n(.+?)\n```$", card, re.MULTILINE | re.DOTALL))


@pytest.fixture
def made(shared, tmp_path):
    """A workspace of the test's own with an index over 12 models."""
    root = shutil.copytree(shared[0].workspace.root, tmp_path / "workspace")
    return replace(deepcopy(shared[0]), workspace=Workspace.open(root))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The same, and its release, which no test changes."""
    root = tmp_path_factory.mktemp("shared")
    made = make(root / "workspace", models=12, n=200)
    made.index()
    release(made.workspace, root / "release", progress=False)
    return made, root / "release"


@pytest.fixture
def hub(monkeypatch):
    """An empty hub; the client is told not to speak Xet, which it does not know."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer(FolderCatalog()) as server:
        yield server


@pytest.fixture
def fresh_workspace(tmp_path):
    """A workspace without an index."""
    return make(tmp_path / "fresh", models=2, n=100).workspace
