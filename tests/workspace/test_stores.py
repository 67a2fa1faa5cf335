"""Stores: an S3 server that throttles and is cut off, conditions, ranges, and what is never said."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from benchmarks.remote.proxy import Proxy
from workspace import ConfigError
from workspace.errors import RemoteError
from workspace.stores import open_store, safe

SECRET = "wJalrXUtnFEMI-a-secret-of-this-machine"


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def proxy(moto, monkeypatch):
    """The way to an S3 server with a bucket, which every store of the test takes."""
    import boto3

    with Proxy(moto) as way:
        names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
        for name, value in (names | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{moto[0]}:{moto[1]}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield way


class FakeHub:
    """What is used of huggingface_hub's API, of one dataset repository or bucket; the first calls find it busy."""

    def __init__(self, kind):
        self.base, self.files, self.commit, self.busy = f"{kind}/org/name/", {}, 1, 2

    def __call__(self, **options):  # both clients are made of it
        return self

    def _error(self, code):
        return HfHubHTTPError(f"{code}", response=SimpleNamespace(status_code=code, headers={}, request=None))

    def _ask(self):
        if self.busy:
            self.busy -= 1
            raise self._error(503)

    def dataset_info(self, repo):
        self._ask()
        return SimpleNamespace(sha=f"{self.commit:040d}")

    def create_commit(self, repo, operations, *, repo_type, commit_message, parent_commit):
        self._ask()
        assert (repo, repo_type) == ("org/name", "dataset")
        if parent_commit not in (None, f"{self.commit:040d}"):
            raise self._error(412)
        self._add([(o.path_or_fileobj, o.path_in_repo) for o in operations])

    def batch_bucket_files(self, repo, *, add):
        self._ask()
        self._add(add)

    def _add(self, files):
        for content, name in files:
            self.files[self.base + name] = content if isinstance(content, bytes) else Path(content).read_bytes()
        self.commit += 1

    def find(self, path, *, detail, refresh):
        self._ask()
        return {n: {"size": len(c)} for n, c in self.files.items() if n.startswith(f"{path}/")}

    def cat_file(self, path, *, start, end):
        self._ask()
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][start:end]

    def info(self, path):
        return {"size": len(self.cat_file(path, start=None, end=None))}

    def get_file(self, path, to):
        Path(to).write_bytes(self.cat_file(path, start=None, end=None))


@pytest.fixture
def place(request, monkeypatch):
    """The address of a store."""
    if request.param.startswith("s3"):
        request.getfixturevalue("proxy")
    else:
        hub = FakeHub(request.param.split("/")[2])
        for client in ("HfApi", "HfFileSystem"):
            monkeypatch.setattr(huggingface_hub, client, hub)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return request.param


@pytest.mark.parametrize(
    "place", ["s3://bucket/one", "hf://datasets/org/name/one", "hf://buckets/org/name"], indirect=True
)
def test_objects_are_listed_read_in_parts_and_exchanged_on_condition(place, tmp_path):
    store = open_store(place)
    store.write({"a/1": b"first", "a/2": b"second", "b/1": b"third"})
    assert [(o.name, o.size) for o in store.list("a")] == [("a/1", 5), ("a/2", 6)]
    assert [o.name for o in store.list("a", "a/1")] == ["a/2"]
    assert store.read("a/2", 1, 3) == b"ec"
    with pytest.raises(FileNotFoundError):
        store.read("a/3")
    with pytest.raises(RemoteError, match="6 bytes; at most 5"):
        store.fetch("a/2", tmp_path / "file", 5)
    assert store.swap("current.json", b"1", None)
    assert not store.swap("current.json", b"2", None)
    _, tag = store.tagged("current.json")
    assert store.swap("current.json", b"3", tag)
    if "buckets" in place:  # a bucket of the Hub knows no condition: the last writer wins
        return
    assert not store.swap("current.json", b"4", tag)
    assert store.tagged("current.json")[0] == b"3"


def test_throttling_and_a_cut_are_waited_out(proxy):
    store = open_store("s3://bucket/two")
    proxy.throttle = 0.4
    store.write({f"a/{i}": b"x" for i in range(10)})
    proxy.throttle = 0.0
    assert proxy.counts["503"] > 0
    proxy.cut(3600.0)
    thread = threading.Thread(target=store.write, args=({"a/late": b"x"},))
    thread.start()
    until = time.monotonic() + 120
    while proxy.counts["cut"] < 3 and time.monotonic() < until:
        time.sleep(0.01)
    proxy.cut(0.0)
    thread.join()
    assert proxy.counts["cut"] >= 3
    assert len(list(store.list("a"))) == 11


@pytest.mark.parametrize(
    "address", ["s3://key:word@bucket/x", "s3://bucket/x?token=1", "ftp://x/y", "my-folder", "s3://", "hf://models/a/b"]
)
def test_addresses_that_are_not_understood_or_hold_credentials_are_refused(address):
    with pytest.raises(ConfigError) as caught:
        open_store(address)
    assert "word" not in str(caught.value).replace("password", "")


def test_no_message_holds_a_secret(monkeypatch, proxy):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=abcdefghij")
    said = safe(
        f"GET https://me:pass@host/x?sig=abcdef&st=1 failed with {SECRET} and sv=2024&sig=abcdefghij\n\nDebug: {SECRET}"
    )
    assert SECRET not in said
    assert "pass" not in said
    assert "abcdef" not in said
    with pytest.raises(RemoteError) as caught:
        open_store("s3://no-such-bucket/x").write({"a": b""})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
