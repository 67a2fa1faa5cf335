"""Uploading with the real client, and importing what was uploaded."""

import shutil

import pytest
from huggingface_hub import HfApi

import search
from hubprobe.demo import uploads
from hubprobe.demo.wire import Response
from hubprobe.release import import_release, push, release, tables
from tests.release.conftest import change_catalog
from workspace import HubError, Workspace, WorkspaceError

REPO = "some-lab/classifiers"


def uploaded(hub):
    return [r.target for r in hub.requests if r.method == "PUT"]


def test_pushed_and_imported_it_answers_the_same(shared, hub, tmp_path):
    made, folder = shared
    asked = []
    done = push(folder, REPO, endpoint=hub.url, token="hf_a", confirm=asked.append)
    assert (done.created, done.changed, done.private) == (True, True, True)
    assert f"new private dataset {REPO}" in asked[0]
    where = f"hf://datasets/{REPO}"
    import_release(where, tmp_path / "copy", endpoint=hub.url, token="hf_a", encoder=made.encoder, progress=False)
    one, two = (
        search.open(w, encoder=made.encoder).search("dog", hybrid=True).limit(50).to_arrow()
        for w in (made.workspace, Workspace.open(tmp_path / "copy"))
    )
    assert one.equals(two)
    assert not (tmp_path / "copy" / "cache" / "release").exists()


def test_a_private_one_is_nobody_elses(shared, hub, tmp_path):
    push(shared[1], REPO, endpoint=hub.url, token="hf_a")
    with pytest.raises(HubError, match="cannot be read"):
        import_release(f"hf://datasets/{REPO}", tmp_path / "copy", endpoint=hub.url, token="")
    push(shared[1], "some-lab/open", endpoint=hub.url, token="hf_a", public=True)
    import_release("hf://datasets/some-lab/open", tmp_path / "copy", endpoint=hub.url, token="", encoder="none")


def test_pushed_again_nothing_is_sent(shared, hub):
    first = push(shared[1], REPO, endpoint=hub.url, token="hf_a")
    hub.requests.clear()
    second = push(shared[1], REPO, endpoint=hub.url, token="hf_a", public=True)
    assert (second.created, second.changed, second.commit) == (False, False, first.commit)
    assert second.private
    assert uploaded(hub) == []


def test_a_new_version_takes_the_old_files_away_and_the_old_one_stays(made, hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tables, "SHARD_BYTES", 2 * 200 * 25)
        release(made.workspace, tmp_path / "out", progress=False)
    first = push(tmp_path / "out", REPO, endpoint=hub.url, token="hf_a")
    api = HfApi(endpoint=hub.url, token="hf_a")
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id=REPO, repo_type="dataset")
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    release(made.workspace, tmp_path / "out", progress=False)
    push(tmp_path / "out", REPO, endpoint=hub.url, token="hf_a")
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert set(api.list_repo_files(REPO, repo_type="dataset")) == names | {".gitattributes", "NOTES.md"}
    rows = {}
    for what, revision in (("old", f"@{first.commit}"), ("new", "")):
        where = f"hf://datasets/{REPO}{revision}"
        done = import_release(where, tmp_path / what, endpoint=hub.url, token="hf_a", encoder="none", progress=False)
        rows[what] = done.logits
    assert rows == {"old": 120, "new": 110}


def test_it_goes_on_where_it_was(shared, hub, monkeypatch):
    monkeypatch.setattr(uploads, "PART", 16 * 1024)  # so that some files go up in parts
    refused = []

    def fault(bucket, request, answer):
        if request.method == "PUT" and "/parts/" in request.target and len(refused) < 1:
            refused.append(request.target)
            return Response.json({"error": "Forbidden"}, 403)
        return answer(request)

    hub.intercept = fault
    with pytest.raises(HubError, match="run the same command again to go on"):
        push(shared[1], REPO, endpoint=hub.url, token="hf_a")
    assert HfApi(endpoint=hub.url, token="hf_a").list_repo_files(REPO, repo_type="dataset") == [".gitattributes"]
    sent = {t for t in uploaded(hub) if "/whole/" in t}
    assert sent
    hub.requests.clear()
    assert push(shared[1], REPO, endpoint=hub.url, token="hf_a").changed
    assert not sent & set(uploaded(hub))
    assert any("/parts/" in target for target in uploaded(hub))


def test_a_file_damaged_on_its_way_is_fetched_again(shared, hub, tmp_path):
    push(shared[1], REPO, endpoint=hub.url, token="hf_a", public=True)
    damaged = []

    def fault(bucket, request, answer):
        response = answer(request)
        if bucket == "cdn" and request.method == "GET" and not damaged:
            damaged.append(request.target)
            body = b"".join(response.body)
            response.body = body[:-1] + bytes([body[-1] ^ 1])
        return response

    hub.intercept = fault
    import_release(f"hf://datasets/{REPO}", tmp_path / "copy", endpoint=hub.url, token="", encoder="none")
    assert damaged


def test_what_is_pushed_is_what_was_released(shared, hub, tmp_path):
    folder = shutil.copytree(shared[1], tmp_path / "copied")
    with (folder / "models" / "train-00000-of-00001.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WorkspaceError, match="is not what the release's manifest says"):
        push(folder, REPO, endpoint=hub.url, token="hf_a")
    assert len(hub.requests) == 0


@pytest.mark.parametrize("repo", ["noowner", "a/b/c", "-x/y", "a/..", "a b/c", ""])
def test_a_name_that_is_none(shared, hub, repo):
    with pytest.raises(WorkspaceError, match="OWNER/NAME, of letters"):
        push(shared[1], repo, endpoint=hub.url, token="hf_a")


def test_who_says_no_uploads_nothing(shared, hub):
    def no(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(shared[1], REPO, endpoint=hub.url, token="hf_a", confirm=no)
    assert {r.method for r in hub.requests} == {"GET"}
