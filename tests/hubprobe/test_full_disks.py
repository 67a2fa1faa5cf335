"""A disk that takes no more is said to be full, by the path that could not be written, and nothing else is blamed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import completion
from tests.search.conftest import Made, make
from workspace.files import table_files

CHILD = """
    import json, resource, signal, sys
    import completion, search
    from tests.search.conftest import FakeEncoder
    from workspace import HubprobeError, Workspace
    search.load_encoder  # what is imported late writes compiled files of its own
    import lancedb, torch, numba, search.build
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for line in sys.stdin:
        root, verb, limit = json.loads(line)
        said = ""
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            if verb == "complete":
                completion.complete(Workspace.open(root), progress=False)
            else:
                search.index(Workspace.open(root), encoder=FakeEncoder(), names=False, progress=False)
        except HubprobeError as error:
            said = f"{type(error).__name__} {error}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(json.dumps(said), flush=True)
"""

Run = Callable[[Path, str, int], str]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Do a verb in a process whose files may only be so large, and return its error; one process for all."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(root: Path, verb: str, limit: int) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([str(root), verb, limit]) + "\n")
            process.stdin.flush()
            return str(json.loads(process.stdout.readline()))

        yield ask


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "w", models=4, n=60)


@pytest.mark.parametrize(("limit", "written"), [(1_500, "factors"), (6_000, "descriptors")])
def test_completing_on_a_full_disk_blames_the_disk(made: Made, run: Run, limit: int, written: str) -> None:
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
def test_indexing_on_a_full_disk_blames_the_disk(made: Made, run: Run, limit: int) -> None:
    made.index()
    version = made.open().version
    made.add(range(4, 6))
    said = run(made.workspace.root, "index", limit)
    assert said.startswith("DiskError cannot write"), said
    assert "encoder" not in said.partition(":")[2]
    assert made.open().version == version, "readers go on with the old one"
