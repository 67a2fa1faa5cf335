"""Picks of visitors: what is refused, what is bounded, what is left behind. The picking itself: tests/end_to_end."""

import io
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from hubprobe.page import picks as module
from hubprobe.page.limits import Limits
from hubprobe.page.opened import Current
from hubprobe.page.picks import MOST, Picks
from tests.page.conftest import Served, serving
from tests.search.conftest import Made
from workspace import QueryError, Workspace


def picture(seed: int, edge: int = 40, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (edge, edge, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


TWO = [("a.png", picture(0)), ("b.png", picture(1))]


@pytest.fixture
def held(page_made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Picks of which none gets its turn, so that they wait as they came."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    picks = Picks(Current(page_made.workspace, encoder=page_made.encoder))
    assert picks._turn.acquire(blocking=False)
    yield picks
    picks.close()
    assert not list(tmp_path.iterdir())  # nothing of anybody's images is left


@pytest.mark.parametrize(
    ("concepts", "files", "where", "said"),
    [
        ("dog", TWO, "", "2 to 20 things"),
        ("dog, DOG , dog", TWO, "", "2 to 20 things"),
        (",".join(f"c{i}" for i in range(30)), TWO, "", "2 to 20 things"),
        ("dog, " + "x" * 90, TWO, "", "at most 80 characters"),
        ("dog, \u202e\x00", TWO, "", "2 to 20 things"),
        ("dog, cat", TWO[:1], "", "2 to 100 images, not 1"),
        ("dog, cat", TWO * 51, "", "2 to 100 images, not 102"),
        ("dog, cat", [("a", b"x"), ("../b", b"y"), TWO[0]], "", "b cannot be read"),
        ("dog, cat", TWO, "1; DROP TABLE models", "condition"),
    ],
)
def test_what_makes_no_pick_is_a_sentence(held: Picks, concepts: str, files: list, where: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        held.start(concepts, files, 20, 25, where)
    assert not held._picks


def test_images_are_bounded_in_pixels(held: Picks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUM_PIXELS", 2 * 40 * 40 - 1)
    with pytest.raises(QueryError, match="million pixels"):
        held.start("dog, cat", TWO, 20, 25, "")
    assert not list(held._root.iterdir())  # what is refused is not kept


def test_what_is_kept_is_small_and_named_by_us(held: Picks) -> None:
    key = held.start("dog, cat", [("../../<b>.png", picture(3, 900)), *TWO, ("x.jpg", b"none")], 10, 0, "")
    pick = held.get(key)
    assert pick.state == "waiting"
    assert [path.name for path in sorted((pick.folder / "images").iterdir())] == ["0000.png", "0001.png", "0002.png"]
    with Image.open(pick.folder / "images" / "0000.png") as kept:
        assert kept.size == (module.EDGE, module.EDGE)
    assert pick.names == ["<b>.png", "a.png", "b.png"]
    assert pick.notes[0].startswith("x.jpg cannot be read")
    assert (pick.folder.stat().st_mode & 0o777) == 0o700
    assert len(key) >= 32  # whoever has it may see the images
    held.stop(key)
    assert not pick.folder.exists()  # before anybody is told that it ended
    assert held.get(key).shown == "stopped"
    pick.ended.clear()
    assert pick.shown == "ending"
    held.forget(key)
    with pytest.raises(QueryError, match="not there any more"):
        held.get(key)


def test_how_many_wait_and_how_long_they_are_kept(held: Picks, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [held.start("dog, cat", TWO, 20, 25, "") for _ in range(module._WAITING + 1)]
    with pytest.raises(QueryError, match="waiting already"):
        held.start("dog, cat", TWO, 20, 25, "")
    monkeypatch.setattr(module, "_IDLE_S", 0.0)
    time.sleep(0.01)
    with pytest.raises(QueryError, match="not there any more"):
        held.get(keys[0])
    assert not held._picks


def test_folders_of_killed_pages_go(held: Picks, tmp_path) -> None:
    left, others = tmp_path / "hubprobe-page-999999999-x", tmp_path / "hubprobe-page-1-x"
    left.mkdir()
    others.mkdir()
    held.start("dog, cat", TWO, 20, 25, "")
    assert not left.exists()
    assert others.exists()  # its process lives
    others.rmdir()


CHILD = """
import json, sys
request = json.loads(sys.stdin.readline())
print(json.dumps({"ask": "images/0001.png"}), flush=True)
label = json.loads(sys.stdin.readline())
{end}
"""
ENDS = {
    "done": (
        'print(json.dumps({"done": {"models": [], "labelled": label, "images": [{"source": "x/0000.png"}]}}))',
        "",
    ),
    "error": ("print(json.dumps({\"error\": f\"nothing in {request['options']['images']}\"}))", "nothing in …/images"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "it was ended: it may take 60 minutes"),
    "silent": ("", "ended without an answer"),
    "no line of ours": ("print('}')", "failed inside"),
}


def started(monkeypatch: pytest.MonkeyPatch, made: Made, end: str) -> tuple[Picks, module.Pick]:
    """Start a pick whose process asks about one image and then does ``end``; return it when the question is there."""
    spawn = module.subprocess.Popen
    code = CHILD.replace("{end}", end)
    monkeypatch.setattr(module, "_answers", lambda _: True)
    monkeypatch.setattr(module.subprocess, "Popen", lambda command, **how: spawn([command[0], "-c", code], **how))
    picks = Picks(Current(made.workspace, encoder=made.encoder))
    pick = picks.get(picks.start("dog, cat", TWO, 5, 25, ""))
    while pick.state in ("waiting", "running"):
        assert not pick.ended.wait(0.01)
    assert (pick.shown, pick.asked, pick.progress()) == ("asking", 1, (0, 0))
    return picks, pick


@pytest.mark.parametrize("end", ENDS)
def test_a_question_is_answered_once_and_every_end_is_said(
    end: str, page_made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = ENDS[end]
    picks, pick = started(monkeypatch, page_made, code)
    with pytest.raises(QueryError, match="none of the concepts"):
        picks.answer(pick.key, 1, 2)
    picks.answer(pick.key, 0, 1)  # a question that is not asked
    assert pick.state == "asking"
    picks.answer(pick.key, 1, 1)
    picks.answer(pick.key, 1, 0)  # the button was pressed twice
    assert pick.ended.wait(60)
    assert pick.shown == ("done" if end == "done" else "failed")
    assert said in pick.error
    assert not pick.folder.exists()
    if end == "done":
        assert pick.result == {"models": [], "labelled": 1, "images": [{"image": 0}]}
        assert pick.labels == 1
    picks.close()


def test_a_question_that_nobody_answers_is_taken_back(page_made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    picks, pick = started(monkeypatch, page_made, ENDS["done"][0])
    picks._answered(pick, 0, None)  # one that was asked before
    assert pick.state == "asking"
    picks._answered(pick, 1, None)
    assert pick.ended.wait(60)
    assert pick.result is not None
    assert (pick.result["labelled"], pick.labels) == (None, 0)  # no more are wanted
    picks.close()


def test_a_pick_that_is_stopped_leaves_no_process(page_made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    picks, pick = started(monkeypatch, page_made, "sys.stdin.read()")
    picks.stop(pick.key)
    assert pick.ended.wait(60)
    assert pick.process is not None
    assert pick.process.poll() is not None
    assert pick.shown == "stopped"
    picks.stop(pick.key)  # it has ended already
    picks.close()


@pytest.fixture(scope="module")
def http(served: Served):
    with httpx.Client(base_url=served.url, timeout=300, trust_env=False) as client:
        yield client


def test_odd_requests(http: httpx.Client) -> None:
    def post(**data: str) -> httpx.Response:
        return http.post("pick", data=data)

    assert http.get("pick").status_code == 200
    for answer in (
        http.get("pick?key=nope"),
        http.get("pick?key="),
        http.get("pick?key=nope&format=csv"),
        http.get("pick-image?key=nope&n=0"),
        post(do="answer", key="nope", image="0", label="1"),
        post(do="answer", key="nope", image="x", label="none"),
        post(do="answer", key="nope", image="0", label="-2"),
        post(do="stop", key="../.."),
        post(do="dance"),
        post(concepts="dog, cat"),
        post(concepts="dog, cat", candidates="7"),
        http.post("pick", files=[("images", ("a", b"x"))] * (MOST + 2), data={"concepts": "dog, cat"}),
        http.post("pick", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"}),
        http.post("pick", json={"do": "start"}),
    ):
        assert 400 <= answer.status_code < 500, answer.text[-500:]
        assert "Traceback" not in answer.text
    assert post(do="forget", key="nope").status_code == 303
    evil = http.get("pick", params={"concepts": '"><script>x</script>', "where": "<img src=x onerror=y>"})
    assert "<script>x" not in evil.text
    assert "<img src=x" not in evil.text


def test_a_page_that_others_reach_does_not_pick_unless_told_to(page_made: Made) -> None:
    with serving(page_made, pick=False) as one:
        for answer in (
            httpx.get(f"{one.url}pick", trust_env=False),
            httpx.post(f"{one.url}pick", data={"concepts": "a,b"}, trust_env=False),
            httpx.get(f"{one.url}pick-image?key=x&n=0", trust_env=False),
        ):
            assert answer.status_code == 404
            assert "hubprobe pick" in answer.text
        assert 'href="pick"' not in httpx.get(one.url, trust_env=False).text


def test_a_hub_that_cannot_be_reached_is_a_sentence(page_made: Made) -> None:
    workspace = Workspace(page_made.workspace.root, replace(page_made.workspace.config, endpoint="http://127.0.0.1:9"))
    made = replace(page_made, workspace=workspace)
    with serving(made, Limits(rate=0)) as one, httpx.Client(base_url=one.url, timeout=60, trust_env=False) as http:
        files = [("images", (name, data)) for name, data in TWO]
        started = http.post("pick", data={"concepts": "dog, cat", "candidates": "5", "budget": "0"}, files=files)
        address = started.headers["location"]
        while "http-equiv" in (page := http.get(address).text):
            time.sleep(0.5)
    assert "This pick did not work" in page
    assert "does not answer" in page
    assert str(workspace.root.parent) not in page
