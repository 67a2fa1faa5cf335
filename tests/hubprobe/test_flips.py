"""One flipped bit in any file of a workspace is noticed by a verb that names it, or provably changes nothing."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import completion
import search
from hubprobe.doctor.check import Setting
from hubprobe.doctor.folder import workspace as examine
from hubprobe.front import status
from search.info import verify
from tests.search.conftest import FakeEncoder, Made, make
from workspace import HubprobeError, Workspace, WorkspaceError, records
from workspace.files import read_table

FLIPS = 2
"""Bits flipped in a file of every kind, one at a time."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A workspace whose every file was made by the verbs."""
    made = make(tmp_path_factory.mktemp("flips") / "w", models=4, n=60)
    shutil.rmtree(made.workspace.root / "descriptors")
    completion.complete(made.workspace, progress=False)
    made.index()
    return made


def everything(root: Path) -> dict[str, Any]:
    """Return what every reader makes of a workspace; what one of them says instead raises `HubprobeError`."""
    workspace = Workspace.open(root)
    folder = workspace.descriptors_dir(workspace.probe_set)
    n = workspace.probes(["probe_id"]).num_rows
    seen: dict[str, Any] = {"config": workspace.config, "status": asdict(status(workspace))}
    if seen["status"]["holes"]:
        raise HubprobeError("a hole is counted")
    done = completion.complete(workspace, progress=False)
    seen["complete"] = {k: v for k, v in asdict(done).items() if k not in ("run_id", "unchanged")}
    seen |= {"descriptors": read_table(folder, records.descriptors(n)), "responses": workspace.responses()}
    seen |= {"catalog": workspace.catalog(history=True), "attempts": workspace.attempts(history=True)}
    seen |= {"probes": workspace.probes()}
    verify(workspace)
    index = search.open(workspace, encoder=FakeEncoder())
    hits = index.search("dog").limit(5).to_dicts()
    seen["hits"] = hits
    seen["similar"] = index.similar(hits[0]["repo_id"], hits[0]["logit"]).limit(5).to_dicts()
    for check in examine(Setting(root, None, None, True, 5.0, 1)):
        assert "check itself broke" not in check.found
    return seen


def kinds(root: Path) -> dict[str, list[Path]]:
    """Return the files of a workspace by where they lie and how they end."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size):
        inner = path.relative_to(root)
        kind = "/".join([*inner.parts[:2], *(p for p in inner.parts[2:-1] if not p[:2].isdigit())]) + path.suffix
        found.setdefault(kind, []).append(inner)
    return found


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_noticed_or_harmless(whole: Made, tmp_path: Path) -> None:
    root, rng = whole.workspace.root, random.Random(7)
    before, silent, noticed = everything(root), [], 0
    del before["config"]  # settings are their owner's to edit: no checksum could tell
    for kind, files in kinds(root).items():
        for _ in range(FLIPS):
            path = rng.choice(files)
            copy = tmp_path / "copy"
            shutil.copytree(root, copy)
            content = bytearray((copy / path).read_bytes())
            place, bit = rng.randrange(len(content)), rng.randrange(8)
            content[place] ^= 1 << bit
            (copy / path).write_bytes(content)
            try:
                after = everything(copy)
            except HubprobeError:
                noticed += 1
            else:
                silent += [(kind, str(path), place, bit, name) for name in before if after[name] != before[name]]
            shutil.rmtree(copy)
    assert not silent
    assert noticed > 20


@pytest.mark.slow
@pytest.mark.parametrize("table", ["models", "logits", "vectors"])
def test_a_flip_anywhere_in_the_head_of_a_table_is_damage_and_no_panic(whole: Made, tmp_path: Path, table: str) -> None:
    """LanceDB's own code panics at some flips; whatever it raises, the table is named, or the answer is as before."""
    rng = random.Random(3)
    root = tmp_path / "w"
    shutil.copytree(whole.workspace.root, root)
    path = min(root.glob(f"index/versions/*/lance/{table}.lance/_versions/*.manifest"))  # the newest: they count down
    raw = path.read_bytes()
    named: list[str] = []
    for _ in range(24):
        at = rng.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :])
        try:
            index = search.open(Workspace.open(root), encoder=FakeEncoder())
            index.search("dog", hybrid=True).limit(3).to_dicts()
            index.similar("owner0/model-000", 0, whole=True).limit(3).to_dicts()
        except WorkspaceError as error:
            named.append(str(error))
    assert named
    assert all(table in sentence for sentence in named), named
