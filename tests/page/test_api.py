"""The API: records over HTTP, through Gradio's client, and as tools over MCP; and what nobody gets."""

import asyncio
import base64
import io
import json
import re
import time

import httpx
import numpy as np
import pytest
from anyio import CapacityLimiter
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hubprobe.page.api import Endpoints, GradioCalls
from hubprobe.page.limits import Limits
from hubprobe.page.opened import Remembered
from search.naming import Namer
from search.text.bank import fold
from tests.page.conftest import Served, bridged, serving
from tests.search.conftest import Made, probe_png
from workspace import QueryError


@pytest.fixture(scope="module")
def http(served: Served):
    with httpx.Client(base_url=served.url, timeout=300, trust_env=False) as client:
        yield client


def call(http: httpx.Client, name: str, *data: object) -> httpx.Response:
    return http.post(f"gradio_api/run/{name}", json={"data": list(data)})


def test_search(http: httpx.Client, served: Served) -> None:
    found = call(http, "search", "dog", "license = 'mit'", "logit", 5).json()["data"][0]
    expected = served.made.open().search("dog").where("license = 'mit'").limit(5).to_dicts()
    assert [(h["repo_id"], h["logit"], h["score"]) for h in found] == [
        (h["repo_id"], h["logit"], h["score"]) for h in expected
    ]
    first = found[0]
    assert {"rank", "label", "name", "name_confidence", "found_by", "downloads", "license", "evidence"} <= first.keys()
    assert len(first["evidence"]) == 8
    thumbnail = http.get(first["evidence"][0]["image"])
    assert thumbnail.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(thumbnail.content)).format == "WEBP"


def test_similar_describe_coverage_and_image(http: httpx.Client, served: Served) -> None:
    index = served.made.open()
    found = call(http, "similar", "owner1/model-001", 3, "", "model", 4).json()["data"][0]
    assert [h["repo_id"] for h in found] == [
        h["repo_id"] for h in index.similar("owner1/model-001", 3).by("model").limit(4).to_dicts()
    ]
    described = call(http, "describe", "owner1/model-001").json()["data"][0]
    assert described == index.describe("owner1/model-001", progress=False).to_pylist()
    said = call(http, "coverage", "dog", "").json()["data"][0]
    assert said["covered"] == index.coverage("dog").covered
    data = probe_png(served.made.content[2])
    found = call(http, "search_image", base64.b64encode(data).decode(), "", "logit", 3).json()["data"][0]
    expected = index.search(Image.open(io.BytesIO(data))).limit(3).to_dicts()
    assert [(h["repo_id"], h["logit"]) for h in found] == [(h["repo_id"], h["logit"]) for h in expected]


def test_a_text_that_is_cut_is_said_to_be(http: httpx.Client) -> None:
    assert call(http, "coverage", "dog", "").json()["data"][0]["notes"] == []
    long = "dog " * 150
    (note,) = call(http, "coverage", long, "").json()["data"][0]["notes"]
    assert "longer than the encoder reads" in note
    assert "longer than the encoder reads" in http.get("", params={"q": long}).text
    assert "longer than the encoder reads" not in http.get("", params={"q": "dog"}).text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("search", ["", "", "logit", 5], "nothing to search for"),
        ("search", ["dog", "drop table models", "logit", 5], "filter"),
        ("search", ["dog", "", "galaxy", 5], "'by' must be 'logit'"),
        ("search", ["dog", "", "logit", 101], "limit"),
        ("search", ["dog", "", "logit", "5"], "whole number"),
        ("search", ["x" * 20_000, "", "logit", 5], "characters"),
        ("search", ["dog", "", "logit", True], "whole number"),
        ("search", ["dog", "", "logit", 5.0], "whole number"),
        ("search", ["dog", "", "logit", 10**40], "whole number"),
        ("search", ["dog", "", "logit", None], "whole number"),
        ("search", ["dog", "", ["logit"], 5], "'by'"),
        ("search", ["dog", "", "logit", 5, "more"], "at most 4 arguments"),
        ("search", [], "'text' is needed"),
        ("search_image", ["%%%", "", "logit", 5], "base64"),
        ("search_image", [base64.b64encode(b"x").decode(), "", "logit", 5], "no image"),
        ("similar", ["no/such", 0, "", "logit", 5], "not in the index"),
        ("describe", ["../../etc"], "not in the index"),
    ],
)
def test_errors_say_what_to_do_and_nothing_of_the_inside(http: httpx.Client, name: str, data: list, said: str) -> None:
    answer = call(http, name, *data)
    assert 400 <= answer.status_code < 500
    assert said in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def ways(name: str, data: list, fields: list[str]) -> list[tuple[str, dict]]:
    """Every address under which a function can be called, with the body it takes."""
    index = ["search", "search_image", "similar", "describe", "coverage"].index(name)
    arguments = dict(zip(fields, data, strict=True))
    tool = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    return [
        (f"gradio_api/run/{name}", {"data": data}),
        (f"gradio_api/call/{name}", {"data": data}),
        ("gradio_api/queue/join", {"data": data, "fn_index": index, "session_hash": "abc"}),
        (f"api/{name}", arguments),
        ("gradio_api/mcp/", tool),
        ("mcp", tool),
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"path": "FILE", "meta": {"_type": "gradio.FileData"}},
        {"path": "/dev/zero", "meta": {"_type": "gradio.FileData"}},
        {"url": "http://127.0.0.1:9/x", "path": None, "meta": {"_type": "gradio.FileData"}},
        {"x": [{"path": "FILE", "meta": {"_type": "gradio.FileData"}}]},
        [["FILE"]],
        {"__type__": "update"},
        True,
        None,
        1.5,
        ["dog"],
    ],
    ids=repr,
)
def test_no_argument_is_anything_but_its_scalar(http: httpx.Client, tmp_path, value: object) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret", encoding="utf-8")
    value = json.loads(json.dumps(value).replace("FILE", str(secret)))
    calls = {
        "search": (["text", "where", "by", "limit"], ["dog", "", "logit", 3]),
        "search_image": (["image", "where", "by", "limit"], ["aGk=", "", "logit", 3]),
        "similar": (["repo_id", "logit", "where", "by", "limit"], ["owner1/model-001", 3, "", "logit", 3]),
        "describe": (["repo_id"], ["owner1/model-001"]),
        "coverage": (["text", "where"], ["dog", ""]),
    }
    for name, (fields, good) in calls.items():
        for i, field in enumerate(fields):
            data = [*good[:i], value, *good[i + 1 :]]
            for path, body in ways(name, data, fields):
                found = http.post(path, json=body, headers={"accept": "application/json, text/event-stream"})
                assert "the secret" not in found.text
                if "mcp" in path:
                    assert found.json()["result"]["isError"]
                    assert f"'{field}' must be" in found.json()["result"]["content"][0]["text"]
                else:
                    assert found.status_code == (422 if "join" in path else 400), (path, found.text)
                    assert f"'{field}' must be" in found.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b"null", b'{"data": {}}', b'{"data": ["\\ud800", "", "logit", 5]}', b'{"data": [NaN]}',
     b"\xff\xfe", b"[" * 100_000, b'{"data": [' + b"[" * 50_000 + b"]}", b'{"data": [' + b"9" * 50_000 + b"]}"],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_bodies_that_are_not_what_they_should_be(http: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    for path in ("gradio_api/run/search", "gradio_api/call/search", "gradio_api/queue/join", "api/search", "mcp/"):
        found = http.post(path, content=body, headers=headers)
        assert 400 <= found.status_code < 500, (path, found.text)
        assert found.json()["error"]
        assert http.post(path, content=body, headers=headers | {"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("kind", [b"[]", b"{}", b'"a"', b'{"a":{"b":1}}'])
def test_values_by_the_million_are_counted_before_they_are_made(http: httpx.Client, kind: bytes) -> None:
    many = b"[" + (kind + b",") * (5_000_000 // len(kind)) + kind + b"]"
    tool = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"text":%b}}}' % many
    bodies = {
        "api/search": b'{"text":' + many + b"}", "gradio_api/run/search": b'{"data":' + many + b"}",
        "gradio_api/call/search": b'{"data":' + many + b"}", "mcp": tool,
        "gradio_api/queue/join": b'{"fn_index":0,"session_hash":"s","data":' + many + b"}",
    }  # fmt: skip
    headers = {"content-type": "application/json", "accept": "application/json"}
    for path, body in bodies.items():
        answer = http.post(path, content=body, headers=headers)
        assert answer.status_code == 413
        assert "values" in answer.json()["error"]


def test_what_is_remembered_is_bounded_in_bytes() -> None:
    kept: Remembered[str, bytes] = Remembered(100, len)
    for i in range(50):
        assert kept.put(str(i), b"x" * 40) == b"x" * 40
    assert kept.put("large", b"x" * 101) == b"x" * 101
    assert kept.get("large") is None
    assert sum(len(kept.get(str(i)) or b"") for i in range(50)) == 80


def test_an_answer_too_large_to_wait_says_where_it_is(served: Served) -> None:
    calls = GradioCalls(Endpoints(served.current, CapacityLimiter(1)), event_bytes=3_000)
    with TestClient(Starlette(routes=calls.routes)) as client:
        key = client.post("/gradio_api/call/search", json={"data": ["dog", "", "logit", 20]}).json()["event_id"]
        assert "ask /api/search" in client.get(f"/gradio_api/call/search/{key}").text


def test_the_plain_api(http: httpx.Client, served: Served) -> None:
    asked = {"text": "dog", "where": "license = 'mit'", "limit": 4}
    found = http.get("api/search", params=asked).json()
    assert found == http.post("api/search", json=asked).json()
    assert found == call(http, "search", "dog", "license = 'mit'", "logit", 4).json()["data"][0]
    described = http.get("api/openapi.json").json()
    names = ("search", "search_image", "similar", "describe", "coverage")
    assert set(described["paths"]) == {f"/api/{name}" for name in names}
    parameters = {one["name"]: one for one in described["paths"]["/api/similar"]["get"]["parameters"]}
    assert parameters["logit"]["required"]
    assert parameters["limit"]["schema"]["maximum"] == 100
    for wrong in ("api/search?text=dog&limit=five", "api/search?text=dog&text=cat", "api/search?text=dog&n=3",
                  "api/search", "api/nothing", "api/search?text=dog&limit=" + "9" * 5000):  # fmt: skip
        answer = http.get(wrong)
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]


def test_gradio_client(served: Served) -> None:
    from gradio_client import Client

    client = Client(served.url, verbose=False)
    found = client.predict("dog", where="downloads > 100", limit=3, api_name="/search")
    expected = served.made.open().search("dog").where("downloads > 100").limit(3).to_dicts()
    assert [(h["repo_id"], h["logit"]) for h in found] == [(h["repo_id"], h["logit"]) for h in expected]
    with pytest.raises(Exception, match="limit"):
        client.predict("dog", limit=1000, api_name="/search")


def test_gradio_client_asks_many_things_at_once(served: Served) -> None:
    from gradio_client import Client

    client = Client(served.url, verbose=False)
    texts = ("dog", "cat", "car", "tree", "house", "boat", "pizza", "apple") * 4
    jobs = [client.submit(text, limit=1, api_name="/search") for text in texts]
    found = [job.result(60)[0] for job in jobs]
    index = served.made.open()
    expected = {text: index.search(text).limit(1).to_dicts()[0] for text in set(texts)}
    assert [(h["repo_id"], h["logit"]) for h in found] == [
        (expected[text]["repo_id"], expected[text]["logit"]) for text in texts
    ]


def test_an_answer_is_fetched_once_and_by_whom_it_is_for(http: httpx.Client) -> None:
    event = http.post("gradio_api/call/search", json={"data": ["dog"]}).json()["event_id"]
    assert http.get(f"gradio_api/call/coverage/{event}").status_code == 404
    assert "event: complete" in http.get(f"gradio_api/call/search/{event}").text
    assert http.get(f"gradio_api/call/search/{event}").status_code == 404
    event = http.post("gradio_api/call/search", json={"data": ["dog", "no condition"]}).json()["event_id"]
    assert "event: error" in http.get(f"gradio_api/call/search/{event}").text
    joined = {"data": ["dog"], "fn_index": 0, "session_hash": "mine"}
    http.post("gradio_api/queue/join", json=joined)
    for other in ("", "?session_hash=", "?session_hash=other"):
        assert "process_completed" not in http.get(f"gradio_api/queue/data{other}").text
    assert "process_completed" in http.get("gradio_api/queue/data?session_hash=mine").text
    wrongs = ({"fn_index": True}, {"fn_index": 5}, {"fn_index": -1}, {"session_hash": 3}, {"session_hash": "x" * 200})
    for wrong in wrongs:
        assert http.post("gradio_api/queue/join", json=joined | wrong).status_code in (400, 422)


def test_who_may_ask(http: httpx.Client, served: Served) -> None:
    port = served.url.rstrip("/").rpartition(":")[2]
    body = {"data": ["dog", "", "logit", 1]}

    def ask(**headers: str) -> httpx.Response:
        return http.post("gradio_api/run/search", json=body, headers=headers)

    for host in ("localhost", "LOCALHOST.", f"localhost:{port}", "127.0.0.1:99", "[::1]:80", "search.example.org"):
        assert ask(host=host).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "10.0.0.1"):
        answer = ask(host=host)
        assert answer.status_code == 421
        assert f"--allow-host {host}" in answer.json()["error"]
    for host in ("a b", "localhost:x", "localhost/", "", "user@localhost", "[::1"):
        assert ask(host=host).status_code == 400, host
    assert ask(origin=served.url.rstrip("/")).status_code == 200
    assert ask(host="search.example.org", origin="https://search.example.org").status_code == 200
    assert ask(origin="https://search.example.org").status_code == 200  # of a proxy that does not hand the name on
    for origin in ("http://evil.example", "null", "", "http://localhost:1", f"http://127.0.0.1:{port}.evil.example",
                   "file://", "http://[::1"):  # fmt: skip
        assert ask(origin=origin).status_code == 403, origin
        assert http.get("?q=dog", headers={"origin": origin}).status_code == 403


def test_mcp(served: Served) -> None:
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask() -> tuple[set[str], str]:
        async with (
            streamablehttp_client(f"{served.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            search = next(tool for tool in tools if tool.name.endswith("search"))
            assert "what they answer" in (search.description or "")
            assert "SQL condition" in str(search.inputSchema)
            answer = await session.call_tool(search.name, {"text": "dog", "limit": 2})
            return {tool.name for tool in tools}, str(answer.content)

    names, answer = asyncio.run(ask())
    assert {"search", "search_image", "similar", "describe", "coverage"} == names
    assert served.made.open().search("dog").limit(1).to_dicts()[0]["repo_id"] in answer


def test_nothing_of_the_workspace_is_served(http: httpx.Client, served: Served) -> None:
    root = served.made.workspace.root
    for path in (f"gradio_api/file={root}/hubprobe.toml", f"file={root}/hubprobe.toml", "gradio_api/upload",
                 "static/..%2fapp.py", "static/%2e%2e/app.py", "probe/0123456789abcdef/999999999999.webp",
                 "gradio_api/proxy=https://huggingface.co/", "monitoring/summary"):  # fmt: skip
        for method in ("GET", "POST"):
            answer = http.request(method, path)
            assert answer.status_code in (404, 405), (method, path)


def test_pages_may_run_no_script_from_text(http: httpx.Client) -> None:
    for path in ("", "?q=dog", "model?repo=owner1/model-001", "about", "?q=dog&where=x"):
        policy = http.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy


def test_a_model_without_an_output_leads_to_its_page(http: httpx.Client) -> None:
    answer = http.get("?like=owner1/model-001")
    assert answer.status_code == 303
    assert answer.headers["location"] == "model?repo=owner1%2Fmodel-001"
    assert "10 outputs" in http.get(answer.headers["location"]).text


def test_models_are_headed_by_the_model(http: httpx.Client) -> None:
    page = http.get("?q=dog&by=model&n=1").text
    assert re.search(r'<h3 id="hit-1" class="repo"><a [^>]*>owner\d+/model-\d+</a></h3>', page)
    assert "its best output:" in page
    assert "applied" not in page  # what a hit is filters nothing
    assert "What follows" not in http.get("?q=quantum+law&min_downloads=999B").text  # nothing follows


def test_a_page_deep_below_finds_its_style(http: httpx.Client) -> None:
    page = http.get("a/b/no-such-page").text
    assert 'href="../../static/page.css' in page
    assert 'action="../.././"' in page


def test_pages_that_do_not_exist(http: httpx.Client) -> None:
    for path in ("no-such-page", "a/b/c", "%ff", "%00", "model/x", "probe/x/" + "9" * 5000 + ".webp", "static/x"):
        assert http.get(path).status_code == 404, path
    assert "There is no such page" in http.get("no-such-page").text
    assert http.get("gradio_api/nothing").json()["error"]
    assert http.post("model").status_code == 405


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"no form"),
        ("multipart/form-data; boundary=b", b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n: x\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b; charset=idna",
         b"--b\r\ncontent-disposition: form-data; name=\"\xff..\"\r\n\r\n\xff..\r\n--b--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 9000, b"--b"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"a: b\r\n" * 9000 + b"\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b",
         b"".join(b"--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nx\r\n" for _ in range(99))),
    ],
    ids=range(8),
)  # fmt: skip
def test_forms_that_cannot_be_read(http: httpx.Client, kind: str, body: bytes) -> None:
    answer = http.post("image", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert "choose" in answer.text
    for other in ("application/x-www-form-urlencoded", "text/plain", ""):
        assert http.post("image", content=body, headers={"content-type": other}).status_code == 415


def test_no_path_of_the_server_is_told(http: httpx.Client, served: Served, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise QueryError(f"cannot read {served.made.workspace.root.resolve()}/index/x.parquet")

    monkeypatch.setattr("hubprobe.page.question.records", broken)
    for answer in (http.get("?q=lion"), call(http, "search", "lion"), http.get("api/search?text=lion")):
        assert answer.status_code == 400
        assert f"cannot read {served.made.workspace.root.name}/index" in answer.text
        assert str(served.made.workspace.root.parent) not in answer.text
    event = http.post("gradio_api/call/search", json={"data": ["lion"]}).json()["event_id"]
    assert str(served.made.workspace.root.parent) not in http.get(f"gradio_api/call/search/{event}").text


def test_health_and_a_page_that_does_not_exist(http: httpx.Client, served: Served) -> None:
    assert http.get("health").json() == {"status": "ok", "index": served.current.get().index.version, "names": True}
    assert http.get("no-such-page").status_code == 404


def test_a_new_index_is_picked_up(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubprobe.page.opened.CHECK_S", 0.05)
    made = bridged(tmp_path / "growing", models=6, n=120)
    made.index()
    with serving(made, Limits(rate=0)) as one, httpx.Client(base_url=one.url, trust_env=False, timeout=300) as http:
        before = http.get("health").json()["index"]
        assert "owner1/model-006" not in http.get("?q=dog&by=model&n=100").text
        made.add(range(6, 8))
        made.index()
        until = time.monotonic() + 300
        while http.get("health").json()["index"] == before and time.monotonic() < until:
            time.sleep(0.1)
        assert http.get("health").json()["index"] == made.open().version != before
        assert "owner1/model-006" in http.get("?q=dog&by=model&n=100").text


def test_an_error_inside_is_logged_and_not_shown(http: httpx.Client, served: Served, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of /home/me")

    monkeypatch.setattr("hubprobe.page.question.records", broken)
    page = http.get("?q=zebra")
    assert page.status_code == 500
    assert "secret" not in page.text
    answer = call(http, "search", "zebra", "", "logit", 5)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "the secret of" in caplog.text


def test_files_of_what_pages_show(http: httpx.Client, hostile: Served) -> None:
    listed = http.get("models", params={"find": "model-00", "format": "json"}).json()
    assert len(listed) == 10
    assert {"repo_id", "outputs", "downloads"} <= listed[0].keys()
    outputs = http.get("model", params={"repo": listed[0]["repo_id"], "format": "json"}).json()
    assert [row["logit"] for row in outputs] == list(range(10))
    none = http.get("", params={"q": "dog", "min_downloads": "999B", "format": "csv"})
    assert none.text.startswith("rank,score,")
    assert none.text.count("\n") == 1
    assert http.get("", params={"q": "dog", "format": "exe"}).status_code == 400
    evil = httpx.get(hostile.url, params={"q": "dog", "n": "50", "format": "csv"}, trust_env=False)
    assert evil.headers["content-type"].startswith("text/csv")
    assert evil.headers["content-disposition"] == 'attachment; filename="hubprobe-hits.csv"'
    assert evil.headers["x-content-type-options"] == "nosniff"
    assert "\u202e" not in evil.text


def test_metrics_count_what_was_answered(page_made: Made) -> None:
    with serving(page_made, Limits(rate=1, burst=3)) as one:
        for path in ("?q=dog", "nope/1", "nope/2", "?q=cat", "metrics"):
            httpx.get(f"{one.url}{path}", trust_env=False)
        answer = httpx.get(f"{one.url}metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = {
        (s.labels["kind"], s.labels["status"]): s.value
        for s in families["hubprobe_requests"].samples
        if s.name.endswith("_total")
    }
    assert requests == {
        ("search", "200"): 1, ("other", "404"): 2, ("search", "429"): 1, ("metrics", "200"): 1
    }  # fmt: skip
    assert families["hubprobe_index_models"].samples[0].value == 16
    assert families["hubprobe_index_info"].samples[0].labels["version"] == one.current.get().index.version
    assert "dog" not in answer.text


def test_a_name_contradicts_no_label_that_is_trusted_more(served: Served) -> None:
    index = served.current.get().index
    rows = index.gallery.bridge.rows
    namer = Namer(index.gallery, index.texts, progress=False)
    labels = index.gallery.logits.column("label").to_pylist()
    suggested = namer.names(rows)
    own = 0
    for row, trust, before, after in zip(
        rows.tolist(), index.gallery.bridge.weights.tolist(), suggested, namer.with_own_labels(rows), strict=True
    ):
        first = max((one for one in before if fold(one.name) != fold(labels[row])), key=lambda one: one.confidence)
        assert (after[0].source == "own label") == (trust >= first.confidence)
        assert [one.confidence for one in after] == sorted((one.confidence for one in after), reverse=True)
        own += after[0].source == "own label"
    assert own > 10
    unlabelled = np.setdiff1d(np.arange(len(index.gallery)), rows)[:20]
    assert namer.with_own_labels(unlabelled) == namer.names(unlabelled)
