"""A disk that takes no more is said to be full, by the path that could not be written, and nothing else is blamed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import completion
from tests.search.conftest import Made, make
from workspace.files import table_files

CHILD = """
    import resource, signal, sys
    import completion, search
    from tests.search.conftest import FakeEncoder
    from workspace import HubprobeError, Workspace
    workspace, verb, limit = Workspace.open(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    search.load_encoder  # what is imported late writes compiled files of its own
    import lancedb, torch, numba, search.build
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        if verb == "complete":
            completion.complete(workspace, progress=False)
        else:
            search.index(workspace, encoder=FakeEncoder(), progress=False)
    except HubprobeError as error:
        print(type(error).__name__, error)
"""


def run(root: Path, verb: str, limit: int) -> str:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(root), verb, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "w", models=4, n=60)


@pytest.mark.parametrize(("limit", "written"), [(1_500, "factors"), (6_000, "descriptors")])
def test_completing_on_a_full_disk_blames_the_disk(made: Made, limit: int, written: str) -> None:
    workspace = made.workspace
    shutil.rmtree(workspace.root / "descriptors")
    before = {path: path.read_bytes() for path in table_files(workspace.responses_dir(workspace.probe_set))}
    said = run(workspace.root, "complete", limit)
    assert said.startswith("DiskError cannot write")
    assert f"/{written}/" in said
    assert "delete" not in said
    assert before == {path: path.read_bytes() for path in table_files(workspace.responses_dir(workspace.probe_set))}
    assert not list(workspace.root.rglob(".tmp-*"))
    assert completion.complete(workspace, progress=False).models == 4


@pytest.mark.parametrize("limit", [100, 3_000, 6_000])
def test_indexing_on_a_full_disk_blames_the_disk(made: Made, limit: int) -> None:
    made.index()
    version = made.open().version
    made.add(range(4, 6))
    said = run(made.workspace.root, "index", limit)
    assert said.startswith("DiskError cannot write"), said
    assert "encoder" not in said.partition(":")[2]
    assert made.open().version == version, "readers go on with the old one"
