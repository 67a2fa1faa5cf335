"""A workspace made from a release finds what the original finds, and a bad release makes none."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import pytest

import search
from hubprobe.release import import_release, read, release, tables
from hubprobe.release.read import NOTE
from tests.release.conftest import change_catalog, change_probes
from workspace import HubError, HubprobeError, Workspace, WorkspaceError

COLUMNS = ["rank", "score", "distance", "repo_id", "sha", "logit", "label"]


def answers(workspace, encoder):
    """Return hits of text, hybrid, filtered and logit queries, as tables."""
    index = search.open(workspace, encoder=encoder)
    queries = [index.search(text, hybrid=hybrid, scoring=scoring) for text in ("dog", "pizza", "a cup")
               for hybrid in (False, True) for scoring in ("bridged", "probelog")]  # fmt: skip
    queries += [index.search("dog").where("downloads > 300").by("model"), index.similar("owner1/model-006", 3)]
    return [query.limit(40).to_arrow().select(COLUMNS) for query in queries]


@pytest.fixture(autouse=True)
def nameless(request, monkeypatch):
    """Have an import make no list of concepts, which takes most of its time; one test has all of it."""
    if request.node.name.partition("@")[0] != "test_search_is_equal":
        monkeypatch.setattr(search, "index", partial(search.index, names=False))


@pytest.fixture
def copied(shared, tmp_path):
    """The shared release, to be damaged."""
    return shutil.copytree(shared[1], tmp_path / "copied")


def change_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_search_is_equal(shared, tmp_path):
    made, folder = shared
    summary = import_release(str(folder), tmp_path / "copy", encoder=made.encoder, progress=False)
    assert (summary.models, summary.logits, summary.probes) == (12, 120, 200)
    copy = Workspace.open(tmp_path / "copy")
    for one, two in zip(answers(made.workspace, made.encoder), answers(copy, made.encoder), strict=True):
        assert one.num_rows
        assert one.equals(two)
    assert copy.config.search.scoring == "probelog"
    assert copy.catalog().equals(made.workspace.catalog())
    assert copy.attempts().equals(made.workspace.attempts())
    assert copy.probes().equals(made.workspace.probes())
    assert not (tmp_path / "copy" / NOTE).exists()


def test_the_order_is_that_of_the_index_and_not_of_the_names(made, tmp_path, monkeypatch):
    """An index whose models came in two builds is in no order of names; many small files must not matter."""
    made.add(range(12, 16))
    made.index()
    release(made.workspace, tmp_path / "out", progress=False)
    monkeypatch.setattr(read, "SHARD_BYTES", 2 * 200 * 25)
    import_release(str(tmp_path / "out"), tmp_path / "copy", encoder=made.encoder, progress=False)
    rows = range(160)
    one, two = (search.open(w, encoder=made.encoder).gallery for w in (made.workspace, Workspace(tmp_path / "copy")))
    assert one.keys(rows) == two.keys(rows)
    assert one.keys(rows) != sorted(one.keys(rows))


def test_a_release_of_an_import_is_the_release(shared, tmp_path):
    made, folder = shared
    import_release(str(folder), tmp_path / "copy", encoder=made.encoder, progress=False)
    release(Workspace.open(tmp_path / "copy"), tmp_path / "again", progress=False)
    for name in (*tables.NAMES, "encoders"):
        for path in (folder / name).iterdir():
            assert path.read_bytes() == (tmp_path / "again" / name / path.name).read_bytes(), path


def test_without_images_search_works_and_evidence_says_why_not(made, tmp_path):
    change_probes(made.workspace, license=None)
    release(made.workspace, tmp_path / "out", progress=False)
    import_release(str(tmp_path / "out"), tmp_path / "copy", encoder=made.encoder, progress=False)
    index = search.open(Workspace.open(tmp_path / "copy"), encoder=made.encoder)
    for one, two in zip(
        answers(made.workspace, made.encoder), answers(Workspace.open(tmp_path / "copy"), made.encoder), strict=True
    ):
        assert one.equals(two)
    with pytest.raises(WorkspaceError, match="holds only their hashes"):
        index.contact_sheet(index.search("dog"), tmp_path / "dog.png")
    assert index.sql("SELECT count(*) AS n FROM probes").to_pylist() == [{"n": 200}]


def test_who_was_left_out_is_not_in_the_copy(made, tmp_path):
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    release(made.workspace, tmp_path / "out", progress=False)
    import_release(str(tmp_path / "out"), tmp_path / "copy", encoder=made.encoder, progress=False)
    index = search.open(Workspace.open(tmp_path / "copy"), encoder=made.encoder)
    found = index.search("dog").limit(500).to_arrow()
    assert found.num_rows == 110
    assert "owner1/model-006" not in found["repo_id"].to_pylist()


def test_without_an_encoder_logits_are_found(shared, tmp_path):
    summary = import_release(str(shared[1]), tmp_path / "copy", encoder="none", progress=False)
    assert summary.encoder is None
    copy = search.open(Workspace.open(tmp_path / "copy"))
    assert copy.similar("owner1/model-006", 3, scoring="full").limit(5).to_arrow().num_rows == 5


@pytest.mark.parametrize("table", ["models", "attempts", "descriptors", "probes", "encoders"])
def test_a_changed_file_is_refused(copied, tmp_path, table, shared):
    path = next((copied / table).iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkspaceError, match="is not what the release's manifest says"):
        import_release(str(copied), tmp_path / "copy", encoder=shared[0].encoder, progress=False)
    with pytest.raises(WorkspaceError, match="is not a hubprobe workspace"):
        Workspace.open(tmp_path / "copy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 3}, "update hubprobe with pip install --upgrade"),
        ({"schema_version": "2"}, "schema 2, this hubprobe reads 2 and 1"),
        ({"probe_set": "../../../etc"}, "'probe_set'"),
        ({"n_probes": 0}, "'n_probes'"),
        ({"n_probes": "many"}, "'n_probes'"),
        ({"rows": {}}, "has no table models"),
        ({"files": {"../../evil.parquet": {"bytes": 1, "sha256": "0" * 64}}}, "which no release holds"),
        ({"files": {"models/../../x.parquet": {"bytes": 1, "sha256": "0" * 64}}}, "which no release holds"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "which no release holds"),
        ({"files": {}}, "the files of models are not the 1"),
        ({"files": []}, "'files'"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_refused(copied, tmp_path, values, message):
    change_manifest(copied, **values)
    with pytest.raises(WorkspaceError, match=message):
        import_release(str(copied), tmp_path / "copy", progress=False)
    assert not (tmp_path / "copy").exists()


def test_settings_of_strangers_name_no_folder_and_no_address(shared, tmp_path, copied):
    content = json.loads((copied / "manifest.json").read_text())
    settings = {"search": {"encoder": "clip:/etc", "scoring": "full", "k": "x"}, "endpoint": "http://evil.example"}
    settings |= {"crawl": {"opt_out": "x", "unknown": 1}, "later": {}}
    change_manifest(copied, config=settings, encoder={**content["encoder"], "name": "clip:/etc"})
    import_release(str(copied), tmp_path / "copy", progress=False)
    config = Workspace.open(tmp_path / "copy").config
    assert config.endpoint == "https://huggingface.co"
    assert config.search.encoder == "auto"
    assert (config.search.scoring, config.search.k, config.crawl.opt_out) == ("full", 0, ())


def test_it_goes_on_after_an_interruption(shared, tmp_path, monkeypatch):
    made, folder = shared

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(search, "index", stop)
        with pytest.raises(KeyboardInterrupt):
            import_release(str(folder), tmp_path / "copy", encoder=made.encoder, progress=False)
    with pytest.raises(HubprobeError, match="is not a hubprobe workspace"):
        Workspace.open(tmp_path / "copy")
    import_release(str(folder), tmp_path / "copy", encoder=made.encoder, progress=False)
    for one, two in zip(
        answers(made.workspace, made.encoder), answers(Workspace.open(tmp_path / "copy"), made.encoder), strict=True
    ):
        assert one.equals(two)


def test_it_fills_no_folder_that_holds_something(shared, tmp_path, copied):
    made, folder = shared
    with pytest.raises(WorkspaceError, match="is a workspace already"):
        import_release(str(folder), made.workspace.root)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(WorkspaceError, match="is not empty"):
        import_release(str(folder), tmp_path / "mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / NOTE).write_text('{"manifest": "another"}')
    with pytest.raises(WorkspaceError, match="from another release"):
        import_release(str(folder), tmp_path / "half", progress=False)


@pytest.mark.parametrize("where", ["nowhere", "https://host/x", "hf://models/a/b", "hf://datasets/justone"])
def test_where_there_is_no_release(where, tmp_path):
    with pytest.raises(WorkspaceError, match=r"holds no release|is not understood"):
        import_release(where, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_full_disk_is_noticed_before(shared, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(WorkspaceError, match="name another disk"):
        import_release(str(shared[1]), tmp_path / "copy", progress=False)
    assert not (tmp_path / "copy").exists()


def test_a_hub_that_names_a_folder_for_a_commit_writes_nowhere(tmp_path, monkeypatch):
    about = SimpleNamespace(sha="../../../evil", siblings=[])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: about)
    with pytest.raises(HubError, match="names no commit"):
        import_release("hf://datasets/acme/rows", tmp_path / "a" / "b", endpoint="https://hub.example", token="")
    assert not list(tmp_path.rglob("*evil*"))
