"""Gradio's side: records over HTTP, through its client, and as tools over MCP; and what nobody gets."""

import asyncio
import base64
import io
import time

import httpx
import pytest
from PIL import Image

from hubprobe.page.limits import Limits
from tests.page.conftest import Served, bridged, serving
from tests.search.conftest import probe_png


@pytest.fixture(scope="module")
def http(served: Served):
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
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


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("search", ["", "", "logit", 5], "nothing to search for"),
        ("search", ["dog", "drop table models", "logit", 5], "filter"),
        ("search", ["dog", "", "galaxy", 5], "by 'logit'"),
        ("search", ["dog", "", "logit", 101], "limit"),
        ("search", ["dog", "", "logit", "5"], "whole number"),
        ("search", ["x" * 20_000, "", "logit", 5], "characters"),
        ("search", [{"path": "/etc/passwd"}, "", "logit", 5], "text"),
        ("search_image", ["%%%", "", "logit", 5], "base64"),
        ("search_image", [base64.b64encode(b"x").decode(), "", "logit", 5], "no image"),
        ("similar", ["no/such", 0, "", "logit", 5], "not in the index"),
        ("describe", ["../../etc"], "not in the index"),
    ],
)
def test_errors_say_what_to_do_and_nothing_of_the_inside(http: httpx.Client, name: str, data: list, said: str) -> None:
    answer = call(http, name, *data)
    assert answer.status_code >= 400
    assert said in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_gradio_client(served: Served) -> None:
    from gradio_client import Client

    client = Client(served.url, verbose=False)
    found = client.predict("dog", where="downloads > 100", limit=3, api_name="/search")
    expected = served.made.open().search("dog").where("downloads > 100").limit(3).to_dicts()
    assert [(h["repo_id"], h["logit"]) for h in found] == [(h["repo_id"], h["logit"]) for h in expected]
    with pytest.raises(Exception, match="limit"):
        client.predict("dog", limit=1000, api_name="/search")


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


def test_health_and_a_page_that_does_not_exist(http: httpx.Client, served: Served) -> None:
    assert http.get("health").json() == {"status": "ok", "index": served.current.get().index.version, "names": True}
    assert http.get("no-such-page").status_code == 404


def test_a_new_index_is_picked_up(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubprobe.page.opened.CHECK_S", 0.05)
    made = bridged(tmp_path / "growing", models=6, n=120)
    made.index()
    with serving(made, Limits(rate=0)) as one, httpx.Client(base_url=one.url, trust_env=False, timeout=30) as http:
        before = http.get("health").json()["index"]
        assert "owner1/model-006" not in http.get("?q=dog&by=model&n=100").text
        made.add(range(6, 8))
        made.index()
        until = time.monotonic() + 60
        while http.get("health").json()["index"] == before and time.monotonic() < until:
            time.sleep(0.1)
        assert http.get("health").json()["index"] == made.open().version != before
        assert "owner1/model-006" in http.get("?q=dog&by=model&n=100").text


def test_an_error_inside_is_logged_and_not_shown(http: httpx.Client, served: Served, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of /home/me")

    monkeypatch.setattr("hubprobe.page.answers.records", broken)
    page = http.get("?q=zebra")
    assert page.status_code == 500
    assert "secret" not in page.text
    answer = call(http, "search", "zebra", "", "logit", 5)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "the secret of" in caplog.text
