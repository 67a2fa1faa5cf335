"""A zoo of hostile repositories, run: each ends in one booked row, and nothing of them reaches what it should not."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

import probing
from probing import prober
from probing.child import runners
from tests.probing.child import hostile
from tests.probing.conftest import Repos, png
from workspace import Config, ProbeConfig, Workspace

ROOT = Path(probing.__file__).parents[1]
RECORDED = Path(__file__).with_name("recorded_worker.py")
LIBRARIES = (
    sys.prefix,
    sys.base_prefix,
    str(ROOT),
    *filter(None, sys.path),
    "/usr",
    "/lib",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
)

RUN = {"healthy", "labels-of-escapes", "labels-lone-surrogate", "labels-long", "beside-code", "beside-pickles",
       "beside-odd-names", "beside-generation", "name-or-path"}  # fmt: skip
"""Those that nothing is wrong with but what is not used."""

REFUSED = {
    "code": "custom_code", "weights-empty": "truncated_weights", "weights-cut": "truncated_weights",
    "weights-nan": "nonfinite_weights", "weights-no-head": "head_missing", "beside-pickles-only": "no_weights",
    "long-json": "malformed_config", "list-json": "malformed_config", "image": "image_too_large",
    "quantised": "quantised", "weights-eight-bit": "quantised",
}  # fmt: skip
"""Those whose end is one and no other; the rest may end in several ways, some even ``ok`` without what was asked."""

NEVER = {"internal_error", "crashed", "timeout", "out_of_memory", "disk_full"}
"""Ends that none of them is worth: what is refused is refused for what it is, in milliseconds."""

NOT_OK = {
    "weights-complex", "weights-integers", "weights-boolean", "weights-infinite", "weights-no-body",
    "weights-other-shape", "weights-transposed", "weights-more-rows", "weights-unknown-type", "weights-are-a-link",
    "weights-are-a-pickle", "weights-elsewhere", "weights-in-pickles", "timm-checkpoint", "timm-not-strict",
    "wrapper-checkpoint", "deep", "wide", "nested-deep", "labels-beside", "processor-huge",
    "processor-is-a-model", "processor-std-zero", "processor-mean-nan",
}  # fmt: skip
"""Those whose outputs would not be the model's, or whose files are not all that is opened."""


def _tree(folder: Path) -> dict[str, str]:
    """Return the hash of every file beneath a folder, and where links point."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _children() -> set[int]:
    return {int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == os.getpid()}


def _parent(stat: Path) -> int:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[1]) if fields[0] != "Z" else 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hostile_repositories_end_in_a_row_and_reach_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repos: Repos
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.png").write_bytes(png(i))
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_secret")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folders = hostile.make(repos.root, tmp_path / "bait")
    assert len(folders) >= 140
    workspace = Workspace.create(tmp_path / "work", Config(probe=ProbeConfig(seconds_per_model=120.0)))
    probing.probes.build(workspace, pictures, n=6, progress=False)
    for name in folders:
        repos.list(name)
    repos.write_catalog(workspace)
    opened = tmp_path / "opened.txt"
    monkeypatch.setattr(prober, "Child", partial(runners.Child, command=(sys.executable, str(RECORDED), str(opened))))
    before = {folder: _tree(folder) for folder in (repos.root, tmp_path / "bait", home)}
    children = _children()

    summary = probing.probe(workspace, repos.fetch, progress=False)

    rows = {row["repo_id"]: row for row in workspace.attempts().to_pylist()}
    ends = {name: row["status"] for name, row in rows.items()}
    told = {name: (row["status"], row["reason"]) for name, row in rows.items()}
    assert summary.attempted == summary.ok + summary.skipped + summary.failed == len(folders) == len(rows)
    assert {name: told[name] for name in ends if ends[name] in NEVER} == {}
    assert {name: told[name] for name in RUN if ends[name] != "ok"} == {}
    assert {name: told[name] for name, end in REFUSED.items() if ends[name] != end} == {}
    assert {name: told[name] for name in NOT_OK if ends[name] == "ok"} == {}
    assert all(row["reason"].isprintable() and len(row["reason"]) <= 500 for row in rows.values())
    assert not (tmp_path / "bait" / hostile.CANARY).exists(), "code of a repository was run"
    assert {folder: _tree(folder) for folder in before} == before, "something was changed"

    allowed = (str(workspace.root), str(repos.root), str(temporary), *LIBRARIES)
    paths = {path for path in opened.read_text(errors="surrogateescape").splitlines() if path}
    assert len(paths) > 50
    assert {path for path in paths if not path.startswith(allowed)} == set()
    assert not list(temporary.iterdir())
    assert not list(workspace.root.rglob(".tmp-*"))
    assert not list(workspace.attempts_dir.glob(".*"))
    assert _children() <= children
    assert sorted(repos.released) == sorted(folders)
