"""The page of the demo index, served from the wheel: quick in a browser, its snippets and the documented calls true."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from hubprobe.demo.run import PROBES
from hubprobe.demo.server import serve_demo
from tests.docs.pages import blocks
from tests.page.conftest import chromium, eventually, visiting
from tests.seconds import seconds_of

__all__ = ["chromium"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SERVE = Path(__file__).parents[2] / "docs" / "serve.md"
HIT = re.compile(r'<article aria-labelledby="hit-\d+".*?</article>', re.S)


@dataclass
class Served:
    url: str
    pid: int


@pytest.fixture(scope="module")
def served(demo: Any) -> Iterator[Served]:
    hub = serve_demo()
    hub.start()
    command = [sys.executable, "-m", "hubprobe", "serve", "--workspace", "demo-index", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(demo.site)}
    server = subprocess.Popen(
        [*command, "--endpoint", hub.url], cwd=demo.cwd, env=environment, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "http://" not in said:
        line = server.stderr.readline()
        assert line, said
        said += line
    address = re.search(r"http://\S+/", said)[0]
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            httpx.get(f"{address}?q=dog", trust_env=False, timeout=6000).raise_for_status()
            break
        except httpx.ConnectError:
            time.sleep(0.2)
    yield Served(address, server.pid)
    server.terminate()
    server.communicate(timeout=60)
    hub.stop()
    assert not list(Path(tempfile.gettempdir()).glob(f"hubprobe-page-{server.pid}-*"))


@pytest.fixture
def url(served: Served) -> str:
    return served.url


def page_hits(page: str) -> list[tuple[str, int, str]]:
    """Repository, logit and score of every card."""
    found = []
    for card in HIT.findall(page):
        repo = re.search(r'class="repo"><a [^>]*>([^<]+)<', card)[1]
        found.append((repo, int(re.search(r"logit (\d+)", card)[1]), re.search(r"score <b>([\d.]+)</b>", card)[1]))
    return found


def plain(rows: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(row["repo_id"], row["logit"], f"{row['score']:.3f}") for row in rows]


def test_it_is_there_in_under_two_seconds(served: Served, chromium: Any) -> None:
    visits = visiting(chromium, served.url)  # at its end: nothing was asked of anybody else
    visit = next(visits)
    for path, shown in (("", ".tiles img"), ("?q=strawberry", ".card img")):
        started = seconds_of(served.pid)
        page = visit.go(path)
        eventually(page, f"document.querySelector('{shown}').naturalWidth > 0")
        assert seconds_of(served.pid) - started < 2.0  # of a processor: a busy machine is not its slowness
    assert next(visits, None) is None


@pytest.mark.parametrize("path", ["?q=dog&license=apache-2.0&by=model", "?like=emoji-zoo/animal-resnet&logit=0"])
def test_its_snippets_find_the_same(demo: Any, url: str, chromium: Any, path: str) -> None:
    visits = visiting(chromium, url)
    page = next(visits).go(path)
    expected = page_hits(page.content())
    assert len(expected) == 10
    page.locator(".snippets summary").click()
    python, sql, shell = (page.locator(".snippet code").nth(i).inner_text() for i in range(3))
    assert next(visits, None) is None
    # the shell itself splits its line into words
    split = ["bash", "-c", shell.strip().replace("hubprobe ", "printf '%s\\0' ", 1)]
    words = subprocess.run(split, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    code = python.replace("print(hits)", "print(hits.to_json(orient='records'))")
    asked = ["sql", "--workspace", "demo-index", sql], words
    for done in demo.together(code, *([verb, "--format", "json", *rest] for verb, *rest in asked)):
        assert done.returncode == 0, done.stderr
        assert plain(json.loads(done.stdout)) == expected


def test_documented_calls(url: str) -> None:
    calls = [block for block in blocks(SERVE) if block.excuse and "test_page" in block.excuse]
    assert [block.language for block in calls] == ["bash", "python", "bash"]
    plain_call, python, curl = (block.text.replace("http://127.0.0.1:7860/", url) for block in calls)
    assert all(url in text for text in (plain_call, python, curl))
    said = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=600)
    answers = [
        subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=600) for text in (plain_call, curl)
    ]
    assert len(json.loads(answers[0].stdout)) == 5
    hits = json.loads(answers[1].stdout)["data"][0]
    assert len(hits) == 5
    assert [line.split()[0] for line in said.stdout.splitlines() if "/" in line.split()[0]] == [
        h["repo_id"] for h in hits
    ]


def test_a_text_that_it_does_not_cover(url: str) -> None:
    assert "Probably not covered." in httpx.get(f"{url}?q=quantum+chromodynamics", trust_env=False, timeout=600).text


CONCEPTS = ("tiger", "car", "airplane")
DROP = """files => {
    const transfer = new DataTransfer();
    for (const [name, data] of files)
        transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type: "image/png"}));
    return transfer;
}"""


def dropped(page: Any, each: int) -> None:
    """Drop drawings of every concept anywhere on the form of a pick, and wait for their previews."""
    counts = dict.fromkeys(CONCEPTS, 0)
    files = []
    for row in pq.read_table(PROBES, columns=["image", "caption"]).to_pylist():
        name = row["caption"]
        if counts.get(name, each) < each:
            files.append((f"{name}-{counts[name]}.png", base64.b64encode(row["image"]["bytes"]).decode()))
            counts[name] += 1
    page.dispatch_event("h1", "drop", {"dataTransfer": page.evaluate_handle(DROP, files)})
    page.locator("#previews li").nth(len(files) - 1).wait_for()


def test_a_model_is_picked_with_twelve_dropped_images(served: Served, chromium: Any) -> None:
    visits = visiting(chromium, served.url)
    page = next(visits).go("pick")
    page.get_by_label("What should be told apart?").fill(", ".join(CONCEPTS))
    page.get_by_label("Models to try").select_option("5")
    dropped(page, 4)
    assert page.locator("#chosen").inner_text().startswith("12 images")
    page.get_by_role("button", name="Pick", exact=True).click()
    asked = 0
    while "Best:" not in (heading := page.locator("h1").inner_text()):
        assert "did not work" not in heading, page.locator("main").inner_text()
        if heading == "What does this show?":
            shown = page.locator("figcaption").inner_text().partition("-")[0]
            page.keyboard.press(str(CONCEPTS.index(shown) + 1))  # a key answers, and the page asks the next
            asked += 1
        page.wait_for_timeout(500)
    assert asked
    rows = page.locator(".list tbody tr")
    assert rows.count() == 5
    with page.expect_download() as got:
        page.get_by_role("link", name="JSON", exact=True).click()
    models = json.loads(Path(got.value.path()).read_text("utf-8"))
    assert [row["rank"] for row in models] == [1, 2, 3, 4, 5]
    assert heading == f"Best: {models[0]['repo_id']}"
    assert models[0]["accuracy"] > 0.6  # three concepts: a third is chance
    page.locator("summary", has_text="Use the best").click()
    assert models[0]["sha"] in page.locator(".use code").first.inner_text()
    until = time.monotonic() + 300
    while list(Path(tempfile.gettempdir()).glob(f"hubprobe-page-{served.pid}-*/*")):  # its process is about to end
        assert time.monotonic() < until
        time.sleep(0.2)
    address = page.url
    page.get_by_role("button", name="Forget it now").click()
    page.wait_for_url("**/pick")
    assert "not there any more" in page.goto(address).text()
    assert next(visits, None) is None


def test_a_pick_is_stopped(served: Served, chromium: Any) -> None:
    visits = visiting(chromium, served.url)
    page = next(visits).go(f"pick?concepts={','.join(CONCEPTS)}")
    dropped(page, 1)
    page.get_by_role("button", name="Pick", exact=True).click()
    page.wait_for_selector("progress")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped")
    assert not list(Path(tempfile.gettempdir()).glob(f"hubprobe-page-{served.pid}-*/*/images/*"))
    assert next(visits, None) is None
