"""The wire: proxies of every form, what a mirror makes of addresses, bodies that are not what they say."""

from __future__ import annotations

import base64
import gzip
import select
import socket
import socketserver
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub.utils import httpx

import crawler
from crawler.decide.repository import Whereabouts, new_name
from crawler.hub import client as client_module
from crawler.hub.client import HubClient, decoded
from crawler.hub.transport import UnansweredError
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.demo.wire import Response
from tests.hubs import faults
from tests.hubs.faults import Fault, Faults
from workspace import ConfigError, HubError, Status, Workspace
from workspace.endpoint import access, agree_on_proxies, proxy_for

Open = Callable[..., Workspace]
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(name.lower() for name in VARIABLES)):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client_module, "PATIENCE_SECONDS", 0.5)


class _Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that keeps the heads it was sent; every host is the hub behind it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behind: str, *, socks: bool = False) -> None:
        self.behind = (urlsplit(behind).hostname or "", urlsplit(behind).port or 0)
        self.heads: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Socks if socks else _Http)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


def _join(one: socket.socket, other: socket.socket) -> None:
    while True:
        for ready in select.select([one, other], [], [], 5)[0]:
            data = ready.recv(65536)
            if not data:
                return
            (other if ready is one else one).sendall(data)


class _Http(socketserver.BaseRequestHandler):
    server: _Proxy

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(65536)
        self.server.heads.append(head)
        with socket.create_connection(self.server.behind) as behind:
            line, _, rest = head.partition(b"\r\n")
            method, target, version = line.split(b" ")
            path = target.partition(b"://")[2].partition(b"/")[2]
            behind.sendall(b" ".join((method, b"/" + path, version)) + b"\r\nConnection: close\r\n" + rest)
            _join(self.request, behind)


class _Socks(socketserver.BaseRequestHandler):
    server: _Proxy

    def handle(self) -> None:
        self.request.recv(self.request.recv(2)[1])
        self.request.sendall(b"\x05\x00")
        kind = self.request.recv(4)[3]
        length = {1: 4, 4: 16}.get(kind) or self.request.recv(1)[0]
        self.server.heads.append(self.request.recv(length))
        self.request.recv(2)
        self.request.sendall(b"\x05\x00\x00\x01" + struct.pack("!4sH", b"\x00" * 4, 0))
        with socket.create_connection(self.server.behind) as behind:
            _join(self.request, behind)


@pytest.fixture
def hub(make_repo: Callable[..., Repo]) -> Iterator[HubServer]:
    with HubServer([make_repo("acme/m")]) as server:
        yield server


def ask(endpoint: str, token: str | None = None) -> int:
    hub = HubClient(endpoint, token)
    try:
        return hub.read(f"{hub.endpoint}/api/models?limit=1", limit=10**6).status
    finally:
        hub.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", "", "HTTP://", "socks5://", "socks5h://", "socks://"])
def test_a_proxy_of_any_form_is_used(
    variable: str, scheme: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _Proxy(hub.url, socks="socks" in scheme) as proxy:
        monkeypatch.setenv(variable, f"{scheme}{proxy.address}")
        assert ask("http://hub.example") == 200
        assert len(proxy.heads) == 1
        assert b"hub.example" in proxy.heads[0]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask(hub.url) == 200
        assert len(proxy.heads) == 1
        proxy.shutdown()


def test_a_proxys_password_is_given(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with _Proxy(hub.url) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"somebody:word@{proxy.address}")
        assert ask("http://hub.example") == 200
        assert b"Basic " + base64.b64encode(b"somebody:word") in proxy.heads[0]
        proxy.shutdown()


def test_the_token_is_not_shown_to_a_proxy_elsewhere(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def found(host: Any, *rest: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "proxy.example" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with _Proxy(hub.url) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"proxy.example:{proxy.server_address[1]}")
        assert ask("http://127.0.0.1:8600", "hf_secret") == 200
        assert b"hf_secret" not in proxy.heads[0]
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        assert ask("http://127.0.0.1:8600", "hf_secret") == 200
        assert b"hf_secret" in proxy.heads[1]
        proxy.shutdown()


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "ftp://127.0.0.1:1", "quic://x", "http://", "://x"])
def test_a_proxy_that_cannot_be_spoken_to_is_refused_in_a_sentence(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="proxy of a kind"):
        ask("https://hub.example")


@pytest.mark.parametrize(
    ("entries", "url", "direct"),
    [
        ("hub.example", "https://hub.example", True),
        ("hub.example", "https://a.hub.example", True),
        (".hub.example", "https://a.hub.example", True),
        ("*.hub.example", "https://a.hub.example", True),
        ("other.example, HUB.example:443", "https://hub.example", True),
        ("other.example hub.example", "https://hub.example", True),
        ("hub.example:8443", "https://hub.example", False),
        ("ub.example", "https://hub.example", False),
        ("*", "https://hub.example", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("::1", "http://[::1]:80", True),
        ("[::1]:8600", "http://[::1]:8600", True),
        ("127.0.0.1:8600", "http://127.0.0.1:8600", True),
        ("127.0.0.1:8601", "http://127.0.0.1:8600", False),
        ("hub.example:x", "https://hub.example", False),
        ("", "https://hub.example", False),
        (",, ,", "https://hub.example", False),
    ],
)
def test_no_proxy(entries: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", entries)
    assert proxy_for(url) == ("" if direct else "http://proxy.example:3128")


@pytest.mark.parametrize(
    ("proxy", "entries", "through"),
    [
        ("socks://proxy.example:3128", "", "socks5h://proxy.example:3128"),
        ("proxy.example:3128", "other.example 10.0.0.0/8", "http://proxy.example:3128"),
        ("proxy.example:3128", "172.16.0.0/12", ""),
        ("proxy.example:3128", "other.example hub.example", ""),
        ("SOCKS5://proxy.example:3128", "*", ""),
    ],
)
def test_huggingface_hub_goes_the_same_way(
    proxy: str, entries: str, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoders, data sets and snapshots are fetched by other libraries: httpx is asked what it would do."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", entries)
    endpoint = "https://172.16.3.4" if "172" in entries else "https://hub.example"
    agree_on_proxies(endpoint)
    assert proxy_for(endpoint) == through
    with httpx.Client() as client:
        route = client._transport_for_url(httpx.URL(endpoint))
        pool = route._pool
        assert hasattr(pool, "_proxy_url") is bool(through)
        if through:
            found = pool._proxy_url
            assert (found.host.decode(), found.port) == ("proxy.example", 3128)


def test_a_proxy_of_another_kind_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:1")
    with pytest.raises(ConfigError, match="proxy of a kind"):
        access("https://hub.example", False)


def test_each_scheme_has_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://hub.example") == ""
    monkeypatch.setenv("ALL_PROXY", "socks5://one:1")
    monkeypatch.setenv("HTTPS_PROXY", "https://two:2")
    assert proxy_for("http://hub.example") == "socks5://one:1"
    assert proxy_for("https://hub.example") == "https://two:2"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nothing_and_says_so(
    variable: str, hub: HubServer, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    for dry in (True, False):
        with pytest.raises(HubError, match=variable):
            crawler.crawl(open_workspace(hub.url), token=False, progress=False, dry_run=dry)
    with pytest.raises(HubError, match=variable):
        crawler.explain(open_workspace(hub.url), "acme/m", token=False)
    assert len(hub.requests) == 0


# ── mirrors under a path ────────────────────────────────────────────────────────────────────────────────────────────
PREFIX = "/artifactory/api/huggingfaceml/hub"


@pytest.mark.parametrize("how", ["with the path", "without it", "the Hub's own address"])
def test_a_mirror_under_a_path_with_renames(how: str, make_repo: Callable[..., Repo], open_workspace: Open) -> None:
    seen: list[str] = []

    def under(bucket: str, request: Any, answer: Any) -> Any:
        if bucket == "cdn":
            return answer(request)
        assert request.path.startswith(PREFIX + "/"), request.target
        seen.append(request.target)
        bare = replace(
            request,
            target=request.target.removeprefix(PREFIX),
            path=request.path.removeprefix(PREFIX),
            segments=request.segments[PREFIX.count("/") :],
        )
        response = answer(bare)
        response.headers = [(name, moved(name, value)) for name, value in response.headers]
        return response

    def moved(name: str, value: str) -> str:
        if name != "Location" or server.cdn_url in value:
            return value
        path = value.removeprefix(server.url)
        if how == "the Hub's own address" and path.startswith("/api/models/"):  # others have to be followed
            return f"https://huggingface.co{path}"
        return path if how == "without it" else f"{server.url}{PREFIX}{path}"

    renamed = Repo("acme/old", {}, renamed_to="acme/m")
    with HubServer([make_repo("acme/m"), renamed], intercept=under) as server:
        workspace = open_workspace(server.url + PREFIX)
        summary = crawler.crawl(workspace, token=False, progress=False)
        assert summary.finished
        rows = {row["id"]: row for row in workspace.catalog().to_pylist()}
        assert rows["acme/m"]["eligibility"] == "eligible"
        found = crawler.explain(workspace, "acme/old", token=False)
        assert (found.status, "acme/m" in found.reason) == (Status.RENAMED, True)
        crawler.Fetcher(workspace, token=False)(rows["acme/m"]).release()
    assert seen


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/api/models/new/name/paths-info/abc", "new/name"),
        ("/api/models/name/paths-info/abc", "name"),
        ("/new/name/resolve/abc/config.json", "new/name"),
        ("/artifactory/x/api/models/new/name", "new/name"),
        ("/api/models/../../etc", ""),
        ("/", ""),
    ],
)
def test_new_names(location: str, name: str) -> None:
    assert new_name(location) == name


def test_a_renaming_elsewhere_is_none() -> None:
    hub = HubClient("https://mirror.example/hf")
    for location, status in (
        ("https://huggingface.co/api/models/new/name", Status.RENAMED),
        ("https://mirror.example/hf/api/models/new/name", Status.RENAMED),
        ("http://huggingface.co/api/models/new/name", Status.SERVER_ERROR),
        ("https://evil.example/api/models/new/name", Status.SERVER_ERROR),
        ("https://mirror.example/hf/api/models/a/b", Status.SERVER_ERROR),
    ):
        assert Whereabouts.of_redirect(hub, "a/b", location).status is status


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_bomb_costs_no_memory() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(10**7)) for _ in range(100)) + packer.flush()  # a gigabyte in a megabyte
    tracemalloc.start()
    total = sum(len(piece) for piece in decoded(iter([bomb]), "gzip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 10**9
    assert peak < 10 * 2**20


CODINGS = {
    "cut": (gzip.compress(b"[]" * 1000)[:-9], "gzip", Status.NETWORK_ERROR),
    "no gzip": (b"[]", "gzip", Status.NETWORK_ERROR),
    "one in another": (gzip.compress(gzip.compress(b"[]")), "gzip, gzip", Status.SERVER_ERROR),
    "not asked for": (b"\x28\xb5\x2f\xfd", "zstd", Status.SERVER_ERROR),
    "unknown": (b"[]", "x" * 1000, Status.SERVER_ERROR),
    "endless": (gzip.compress(bytes(10**7)), "gzip", Status.TOO_MANY_BYTES),
}


@pytest.mark.parametrize("name", CODINGS)
def test_bodies_that_are_not_what_they_say(name: str, hub: HubServer) -> None:
    body, coding, status = CODINGS[name]
    hub.intercept = Faults(Fault(lambda *_: Response(200, body, [("Content-Encoding", coding)]), times=None))
    with pytest.raises(UnansweredError) as caught:
        ask(hub.url)
    assert caught.value.status is status


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://a:99999999/", "http://\x7f\x80/", "//", "http://" + "a" * 70_000, "gopher://x", "http://%/",
     "http://xn--\u00fc/", "http:// /"],
)  # fmt: skip
def test_redirects_to_what_is_no_address(location: str, hub: HubServer) -> None:
    where = location.encode("utf-8", "replace").decode("latin-1")
    hub.intercept = Faults(Fault(faults.status(302, [("Location", where)]), times=None))
    with pytest.raises(UnansweredError):
        ask(hub.url)


def test_cookies_do_not_follow_us(hub: HubServer) -> None:
    client = HubClient(hub.url)

    def baked(request: Any, answer: Any) -> Any:
        response = answer(request)
        response.headers.append(("Set-Cookie", "who=you; Path=/"))
        return response

    hub.intercept = Faults(Fault(baked, times=None))
    for _ in range(2):
        client.read(f"{hub.url}/api/models", limit=10**6)
    assert not any("cookie" in asked.headers for asked in hub.requests)


def test_a_head_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2_000_000)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(UnansweredError):
        ask(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert time.monotonic() - began < 120
    listener.close()
