"""A release that carries its index is searched where it lies, and holds nobody whom the release leaves out."""

import search
from hubprobe.release import release
from hubprobe.release.write import carry_index
from tests.release.conftest import change_catalog, repos_in
from tests.release.test_importing import COLUMNS
from workspace.published import Published


def test_it_answers_as_the_workspace_does(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    change_catalog(made.workspace, "owner3/model-003", gated="manual")
    release(made.workspace, out, progress=False)
    assert carry_index(out, encoder=made.encoder, progress=False) > 1000
    there = Published(out.as_uri())
    index = search.open(there.workspace, source=there, encoder=made.encoder)
    assert set(index.gallery.models["repo_id"].to_pylist()) == repos_in(out)
    assert "owner3/model-003" not in repos_in(out)
    here = search.open(made.workspace, encoder=made.encoder)
    for query in ("dog", "a cup"):
        one, two = (
            i.search(query, scoring="probelog").limit(200).to_arrow().select(COLUMNS[1:]) for i in (here, index)
        )
        kept = [row for row in one.to_pylist() if row["repo_id"] != "owner3/model-003"]
        assert kept == two.to_pylist()
    assert (
        search.open(there.workspace, source=there, encoder=made.encoder).search("dog", hybrid=True).limit(3).to_arrow()
    )
