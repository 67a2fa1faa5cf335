"""Which models are tried: as many as asked for, or each that was named."""

from hubprobe.pick.candidates import shortlist
from tests.search.conftest import CONCEPTS, make


def test_models_that_are_named_are_all_tried(tmp_path):
    made = make(tmp_path / "workspace", models=4)
    made.index()
    index = made.open()
    named = sorted(set(index.gallery.models.column("repo_id").to_pylist()))[:3]
    assert len(named) == 3
    found = shortlist(index, CONCEPTS[:2], count=1, models=named)
    assert sorted({candidate.repo_id for candidate in found}) == named
    assert len(shortlist(index, CONCEPTS[:2], count=1)) == 1
