from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import probing
from tests.probing.conftest import png
from workspace import ConfigError, Workspace, WorkspaceError, records
from workspace.files import short_hash


def _build(root: Path, source: Path, **options: object) -> tuple[probing.ProbesSummary, Workspace]:
    workspace = Workspace.create(root)
    return probing.probes.build(workspace, source, progress=False, **options), workspace  # type: ignore[arg-type]


def test_a_folder_is_sampled_by_seed(tmp_path: Path, pictures: Path) -> None:
    first, workspace = _build(tmp_path / "a", pictures, n=20, seed=1)
    again, _ = _build(tmp_path / "b", pictures, n=20, seed=1)
    other, _ = _build(tmp_path / "c", pictures, n=20, seed=2)
    assert first.probe_set == again.probe_set != other.probe_set
    table = workspace.probes()
    assert table.schema.equals(records.PROBES)
    assert workspace.probe_set == first.probe_set == short_hash("".join(table["image_hash"].to_pylist()))
    assert table["probe_id"].to_pylist() == list(range(20))
    manifest = json.loads((workspace.probes_dir(first.probe_set) / "manifest.json").read_text())
    assert (manifest["n"], manifest["seed"]) == (20, 1)


def test_copies_broken_files_and_bombs_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for i in range(4):
        (source / f"{i}.png").write_bytes(png(i))
    (source / "copy.png").write_bytes(png(0))
    (source / "broken.png").write_bytes(png(9)[:50])
    (source / "huge.bmp").write_bytes(b"BM" + bytes(8) + bytes([54, 0, 0, 0, 40, 0, 0, 0]) + b"\xff\xff\x00\x00" * 2
                                      + bytes([1, 0, 24, 0]) + bytes(24))  # fmt: skip
    summary, _ = _build(tmp_path / "w", source, n=10)
    assert (summary.n, summary.duplicates, summary.broken, summary.too_large) == (4, 1, 1, 1)
    assert summary.seen == summary.n + summary.duplicates + summary.broken + summary.too_large
    assert "holds 4" in summary.notes[0]


def test_parquet_of_datasets_with_classes_and_captions(tmp_path: Path) -> None:
    rows = {"img": [{"bytes": png(i), "path": None} for i in range(12)], "label": [i % 2 for i in range(12)]}
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    summary, workspace = _build(tmp_path / "w", path, n=12)
    assert summary.captions == 12
    assert set(workspace.probes()["caption"].to_pylist()) == {"cat", "dog"}
    table = pa.table({"image": [{"bytes": png(1), "path": ""}], "sentences": [["a cat", "some cat"]]})
    pq.write_table(table, tmp_path / "coco.parquet")
    _, workspace = _build(tmp_path / "w2", tmp_path / "coco.parquet", n=12)
    assert workspace.probes()["caption"].to_pylist() == ["a cat"]


def test_class_folders_name_what_they_hold(tmp_path: Path) -> None:
    for name, seed in (("red_fox", 1), ("owl", 2)):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_bytes(png(seed))
    _, workspace = _build(tmp_path / "w", tmp_path / "images")
    assert set(workspace.probes()["caption"].to_pylist()) == {"red fox", "owl"}


def test_a_stream_is_read_no_further_than_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(30)], "text": [f"number {i}" for i in range(30)]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    stream = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: stream if options["streaming"] else None)
    workspace = Workspace.create(tmp_path / "w")
    first = probing.probes.build(workspace, "someone/pictures", n=7, progress=False)
    again = probing.probes.build(workspace, "someone/pictures", n=7, progress=False, dry_run=True)
    assert first.seen == 7
    assert first.probe_set == again.probe_set
    assert again.path is None
    assert workspace.probes()["source"].to_pylist()[0].startswith("pictures#")


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, pictures: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkspaceError, match="holds no images"):
        probing.probes.build(workspace, tmp_path / "empty")
    with pytest.raises(WorkspaceError, match="nothing at"):
        probing.probes.build(workspace, tmp_path / "missing")
    with pytest.raises(ConfigError):
        probing.probes.build(workspace, pictures, n=0)
