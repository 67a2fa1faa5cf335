"""How probes lie under an encoder: kept, made again when damaged, by their captions where the encoder reads only."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from search.text.embeddings import cache, embed_probes, read_embeddings, sight
from tests.search.conftest import FakeEncoder, probe_png
from workspace import WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import write_table, write_tensors


class Reading(FakeEncoder):
    """The same, of captions."""

    of_captions = True

    def encode_images(self, images):
        raise AssertionError("it reads captions")


def captioned(made, captions):
    path = made.workspace.probes_dir(made.workspace.probe_set) / "probes.parquet"
    probes = made.workspace.probes()
    field = probes.schema.field("caption")
    at = probes.column_names.index("caption")
    write_table(path, probes.set_column(at, field, pa.array(captions, field.type)))


@pytest.mark.parametrize(
    "harm", [lambda path: path.write_bytes(b"x"), lambda path: write_tensors(path, {"other": np.ones(2)}, {})]
)
def test_what_is_damaged_is_made_again_and_said(fresh, caplog, harm):
    about = embed_probes(fresh.workspace, fresh.encoder, progress=False)
    path = cache(fresh.workspace) / about["file"]
    before = read_embeddings(path)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, atol=1e-6)
    harm(path)
    with pytest.raises(DamagedFileError):
        read_embeddings(path)
    with caplog.at_level(logging.WARNING):
        assert embed_probes(fresh.workspace, fresh.encoder, progress=False)["file"] == about["file"]
    assert "is made again: it is damaged" in caplog.text
    np.testing.assert_array_equal(read_embeddings(path), before)


def test_a_probe_without_a_caption_is_like_no_text(fresh):
    captions = fresh.workspace.probes(["caption"])["caption"].to_pylist()
    captioned(fresh, [None, " ", *captions[2:]])
    about = embed_probes(fresh.workspace, Reading(), progress=False)
    assert about["templates"] == ["{}"]
    rows = read_embeddings(cache(fresh.workspace) / about["file"])
    assert not rows[:2].any()
    np.testing.assert_array_equal(rows[2:], Reading().encode_texts(captions[2:]))


def test_without_any_caption_it_is_a_sentence(fresh):
    captioned(fresh, [None] * len(fresh.content))
    with pytest.raises(WorkspaceError, match=r"have no captions.*--caption-column"):
        embed_probes(fresh.workspace, Reading(), progress=False)


def test_images_are_seen_or_their_captions_read(fresh):
    pictures, told = [probe_png(row) for row in fresh.content[:3]], ["a dog", None, ""]
    seen = sight(fresh.workspace, fresh.encoder, progress=False)
    assert len(seen.concepts) == len(seen.texts)
    assert (seen.embed(pictures, told).argmax(axis=1) == fresh.content[:3].argmax(axis=1)).all()
    rows = sight(fresh.workspace, Reading("d" * 40), progress=False).embed(pictures, told)
    np.testing.assert_array_equal(rows[0], Reading().encode_texts(["a dog"])[0])
    assert not rows[1:].any()
