"""Probes chosen to cover a bank of concepts: the choice, its memory, kills, copies and licences."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import probing
from probing import cover
from probing.sources import licence_of
from workspace import Workspace
from workspace.seams import Sight

CONCEPTS, DIM = 12, 32


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def made_sight() -> tuple[Sight, list[int]]:
    """A sight that reads the concept from the caption, and how many pictures each call of it was shown."""
    texts = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, CONCEPTS)))[0].T.astype(np.float32)
    calls: list[int] = []

    def embed(pictures: Sequence[bytes], captions: Sequence[str | None]) -> np.ndarray:
        calls.append(len(pictures))
        rows = np.zeros((len(captions), DIM), np.float32)
        for row, caption in zip(rows, captions, strict=True):
            if caption:
                row += texts[int(caption.split()[0])]
        return rows

    return Sight("clip:test", "0" * 40, tuple(f"concept {i}" for i in range(CONCEPTS)), texts, embed), calls


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """300 pictures, nine of ten of concept 0; concept 11 is shown by none, every other by a few, with licences."""
    rng = np.random.default_rng(3)
    of = np.where(rng.random(300) < 0.9, 0, rng.integers(1, 11, 300))
    of[290:] = np.arange(1, 11)
    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(300)],
        "caption": [f"{c} picture {i}" for i, c in enumerate(of)],
        "license": [("cc0-1.0", "https://creativecommons.org/licenses/by-nc/2.0/")[i % 2] for i in range(300)],
    }
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table(rows), path)
    return path


def captions(workspace: Workspace) -> list[int]:
    return [int(c.split()[0]) for c in workspace.probes(["caption"])["caption"].to_pylist()]


def test_every_concept_that_the_pool_shows_is_shown_first(tmp_path: Path, pool: Path) -> None:
    sight, _ = made_sight()
    workspace = Workspace.create(tmp_path / "w")
    summary = probing.probes.build(workspace, pool, n=22, sight=sight, pool=300, progress=False)
    chosen = captions(workspace)
    assert sorted(chosen[:11]) == list(range(11))  # the first of each, before a second of any
    assert sorted(set(chosen)) == list(range(11))
    assert (summary.n, summary.seen, summary.shown, summary.concepts) == (22, 300, 11, 12)
    manifest = json.loads((workspace.probes_dir(summary.probe_set) / "manifest.json").read_text())
    assert manifest["cover"]["not_shown"] == ["concept 11"]
    assert manifest["cover"]["pool"] == 300
    sampled = Workspace.create(tmp_path / "s")
    probing.probes.build(sampled, pool, n=22, progress=False)
    assert len(set(captions(sampled))) < 8
    assert not list((workspace.cache_dir / "probes").iterdir())


def test_no_more_stays_than_shows_something_best(tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cover, "DEPTH", 2)
    sight, calls = made_sight()
    most = 0
    add = cover.Pool.add

    def counted(self: cover.Pool, *args: object) -> None:
        nonlocal most
        add(self, *args)  # type: ignore[arg-type]
        most = max(most, self._positions.size)

    monkeypatch.setattr(cover.Pool, "add", counted)
    probing.probes.build(Workspace.create(tmp_path / "w"), pool, n=11, sight=sight, pool=300, progress=False)
    assert sum(calls) == 300
    assert most <= CONCEPTS * 2 + 11


def test_a_kill_costs_a_batch_and_changes_nothing(tmp_path: Path, pool: Path) -> None:
    sight, calls = made_sight()
    whole = probing.probes.build(Workspace.create(tmp_path / "a"), pool, n=20, sight=sight, pool=300, progress=False)
    workspace = Workspace.create(tmp_path / "b")
    before = sum(calls)

    def stops(pictures: Sequence[bytes], told: Sequence[str | None]) -> np.ndarray:
        if sum(calls) - before >= 3 * cover.BATCH:
            raise KeyboardInterrupt
        return sight.embed(pictures, told)

    stopping = Sight(sight.encoder, sight.commit, sight.concepts, sight.texts, stops)
    with pytest.raises(KeyboardInterrupt):
        probing.probes.build(workspace, pool, n=20, sight=stopping, pool=300, progress=False)
    again = probing.probes.build(workspace, pool, n=20, sight=sight, pool=300, progress=False)
    assert again.probe_set == whole.probe_set
    assert (again.seen, again.duplicates) == (whole.seen, whole.duplicates)
    assert sum(calls) - before == 300


def test_copies_that_are_saved_anew_are_refused_and_likenesses_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for concept in range(3):
        (folder / str(concept)).mkdir(parents=True)
        (folder / str(concept) / "a.png").write_bytes(picture(concept))
        small = Image.open(io.BytesIO(picture(concept))).resize((40, 40))
        small.save(folder / str(concept) / "b.jpg", quality=80)
    (folder / "3").mkdir()
    (folder / "3" / "like.png").write_bytes(picture(0))  # looks the same, shows something else: an encoder's word
    (folder / "4").mkdir()
    for i in range(10, 14):
        (folder / "4" / f"{i}.png").write_bytes(picture(i))
    sight, _ = made_sight()
    summary = probing.probes.build(Workspace.create(tmp_path / "w"), folder, n=8, sight=sight, pool=300, progress=False)
    assert (summary.n, summary.duplicates) == (8, 3)


def test_licences(tmp_path: Path, pool: Path) -> None:
    sight, _ = made_sight()
    workspace = Workspace.create(tmp_path / "w")
    summary = probing.probes.build(workspace, pool, n=20, sight=sight, pool=300, licences=["cc0*"], progress=False)
    assert set(workspace.probes(["license"])["license"].to_pylist()) == {"cc0-1.0"}
    assert (summary.other_licences, summary.seen) == (150, 300)
    sampled = probing.probes.build(workspace, pool, n=20, licences=["CC-BY-NC-2.0"], progress=False)
    assert set(workspace.probes(["license"])["license"].to_pylist()) == {"cc-by-nc-2.0"}
    assert sampled.seen == sampled.n + sampled.other_licences


@pytest.mark.parametrize(
    ("row", "licence"),
    [
        ({"license": 4, "coco_url": "http://images.cocodataset.org/1.jpg"}, "cc-by-2.0"),
        ({"license": 99, "coco_url": "x"}, None),
        ({"license": 4}, None),
        ({"License": "http://creativecommons.org/publicdomain/zero/1.0/"}, "cc0-1.0"),
        ({"license_url": "https://creativecommons.org/licenses/by-sa/4.0/legalcode"}, "cc-by-sa-4.0"),
        ({"license": " Public  Domain "}, "Public Domain"),
        ({}, None),
    ],
)
def test_a_licence_is_read_as_data_sets_write_it(row: dict[str, object], licence: str | None) -> None:
    assert licence_of(row) == licence


def test_greedy_takes_what_adds_most_as_a_plain_loop_would() -> None:
    rng = np.random.default_rng(5)
    matrix = np.where(rng.random((40, 25)) < 0.3, rng.random((40, 25)), 0).astype(np.float32)
    shown = {i: np.flatnonzero(row) for i, row in enumerate(matrix)}
    scores = {i: row[row > 0] for i, row in enumerate(matrix)}
    best, plain = np.zeros(25, np.float32), []
    for _ in range(10):
        gains = np.maximum(matrix - best, 0).sum(axis=1)
        plain.append(int(gains.argmax()))
        best = np.maximum(best, matrix[plain[-1]])
    assert list(cover.greedy(shown, scores, 25, 10)) == plain
