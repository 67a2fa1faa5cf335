"""What is kept of a card: its first sentences as plain text; and what is not asked for, or not there, costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import yaml

import crawler
from crawler.decide.repository import READ, SUMMARY, reported, summary
from crawler.listing.rows import parse
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from workspace import Workspace
from workspace.reported import of_eval_results, of_prose

Open = Callable[..., Workspace]
CARD = b"""---
license: mit
---
# My *model*
<!-- hidden -->
[![badge](http://x/y.svg)](http://z) Recognises **dogs** &amp; `cats`, see [the paper](http://p "t").

| a | b |
|---|---|
```python
code()
```
<div align='center'><img src=x onerror=alert(1)></div>
- [More Information Needed]
"""


def test_a_summary_is_prose():
    assert summary(CARD) == "My model Recognises dogs & cats, see the paper."


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (b"vit_base_patch16_224 by timm", "vit_base_patch16_224 by timm"),
        (b"a _fine_ and __very__ good ___model___", "a fine and very good model"),
        (b"_vit_tiny_ and (_resnet_18_), num_labels=5", "vit_tiny and (resnet_18), num_labels=5"),
        (b"`__init__` takes ``_private_`` and `a*b`", "__init__ takes _private_ and a*b"),
        (b"vit\\_base \\*starred\\*", "vit_base *starred*"),
        (b"**snake_case** in *image_net_1k*", "snake_case in image_net_1k"),
        (b"about ~5 of ~~old~~ new", "about ~5 of old new"),
        (b"\n  \n---\nlicense: mit\n---\nDogs.", "Dogs."),
        (b"\xef\xbb\xbf---  \r\nlicense: mit\r\n---\r\nDogs.", "Dogs."),
        (b"\n---\nlicense: mit\n", None),
    ],
)
def test_identifiers_stay_whole_and_front_matter_goes(card: bytes, found: str | None) -> None:
    assert summary(card) == found


@pytest.mark.parametrize("card", [b"", b"---\nlicense: mit", b"---\nlicense: mit\n---\n", b"| a |\n|---|\n", b"<br>"])
def test_a_card_without_prose_has_none(card):
    assert summary(card) is None


def test_a_summary_is_cut_at_a_word():
    found = summary(b"word " * 1_000)
    assert found is not None
    assert len(found) <= SUMMARY + 1
    assert found.endswith(" word…")


@pytest.mark.parametrize(
    "mark",
    ["<", "[", "![", "*", "|", "<!--", "```", "> ", "&", "[](", "<a", "1. ", "\xff", "\n", "\n \n", "\t", "~~~\n", "_",
     "_a", "`a", "\\", "---\n", " "],
)  # fmt: skip
def test_no_card_takes_long(mark):
    started = time.process_time()
    summary((mark * READ).encode("latin-1")[:READ])
    assert time.process_time() - started < 10, "more than linear"


@pytest.mark.parametrize("card", [" " * (READ - 1) + "x", ("-" * 100 + "x\n") * 160, "\xa0" * (READ // 2)])
def test_no_run_of_one_character_takes_long(card):
    started = time.process_time()
    summary(card.encode())
    assert time.process_time() - started < 1.0


def _card(results: object) -> bytes:
    return f"---\n{yaml.safe_dump({'model-index': [{'name': 'm', 'results': results}]})}---\nText".encode()


METRIC = {"type": "accuracy", "value": 0.913}


@pytest.mark.parametrize(
    ("results", "found"),
    [
        (
            [{"task": {"type": "image-classification"}, "dataset": {"name": "beans"}, "metrics": [METRIC]}],
            (0.913, "beans"),
        ),
        ([{"dataset": {"type": "cifar10"}, "metrics": [{"type": "acc@1", "value": 91.3}]}], (0.913, "cifar10")),
        ([{"metrics": [{"name": "Accuracy", "value": 91}]}], (0.91, None)),
        ([{"task": {"type": "text-classification"}, "metrics": [METRIC]}], None),
        ([{"metrics": [{"type": "f1", "value": 0.9}, {"type": "accuracy", "value": "0.9"}]}], None),
        ([{"metrics": [{"type": "accuracy", "value": value} for value in (True, -1, 101, float("nan"))]}], None),
        ([{"metrics": "accuracy"}, 3, None], None),
        ({"metrics": [METRIC]}, None),
    ],
)
def test_a_reported_accuracy(results: object, found: tuple[float, str | None] | None) -> None:
    said = reported(_card(results))
    assert said == (None if found is None else (pytest.approx(found[0]), found[1], "model-index"))


@pytest.mark.parametrize(
    "card",
    [b"model-index", b"---\nmodel-index: [\n---\n", b"---\nmodel-index: " + b"[" * 9_000 + b"\n---\n",
     b"---\nmodel-index: 2001-99-99\n---\n", b"---\n- model-index\n---\n", b"---\nmodel-index: 1"],
)  # fmt: skip
def test_a_card_that_reports_nothing_readable(card: bytes) -> None:
    assert reported(card) is None


@pytest.fixture
def server(make_repo: Callable[..., Repo]) -> Iterator[HubServer]:
    with HubServer([make_repo("acme/told"), make_repo("acme/broken")]) as server:
        yield server


def test_the_crawl_keeps_it_of_eligible_repositories(server: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(server.url)
    crawler.crawl(workspace, token=False, progress=False)
    rows = {r["id"]: r for r in workspace.catalog().to_pylist()}
    assert rows["acme/told"]["eligibility"] == "eligible"
    assert rows["acme/told"]["card_summary"]
    assert "---" not in rows["acme/told"]["card_summary"]
    assert [asked for asked in server.requests if asked.target.endswith("README.md")]


BEANS = {"dataset": {"id": "acme/beans", "task_id": "default"}}


@pytest.mark.parametrize(("entries", "found"), [
    ([{"filename": "a.yaml", "error": "no value"}, {"filename": "b.yaml", "data": {**BEANS, "value": 91.5}}],
     (0.915, "acme/beans")),
    ([{**BEANS, "value": "high"}, {**BEANS, "value": True}, {"value": 0.7}], (0.7, None)),
    ([{**BEANS, "value": float("nan")}, {"data": 3}, None, {**BEANS, "value": -1}], None),
    ({"value": 0.7}, None),
    (None, None),
])  # fmt: skip
def test_results_of_the_hub(entries: object, found: tuple[float, str | None] | None) -> None:
    assert of_eval_results(entries) == (None if found is None else (pytest.approx(found[0]), found[1], "evalResults"))


@pytest.mark.parametrize(("said", "value"), [
    ("Loss: 0.08 - Accuracy: 0.9715 on", 0.9715), ("reaches an accuracy of 93.5%.", 0.935), ("accuracy is 71", 0.71),
    ("accuracy: 1500", None), ("accuracy: 150%", None), ("accurate in all cases", None), ("Accuracy: 0", None),
    (None, None),
])  # fmt: skip
def test_the_accuracy_that_a_card_claims(said: str | None, value: float | None) -> None:
    found = of_prose(said)
    assert (found and found.accuracy) == value


def test_what_the_hub_reports_is_kept_with_where_it_is_said(
    make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    results = [{"filename": "x.yaml", "data": {**BEANS, "value": 88}}]
    made = make_repo("acme/said")
    with HubServer([replace(made, facts={**made.facts, "evalResults": results})]) as server:
        workspace = open_workspace(server.url)
        crawler.crawl(workspace, token=False, progress=False)
    (row,) = workspace.catalog(["reported_accuracy", "reported_on", "reported_by"]).to_pylist()
    assert list(row.values()) == [pytest.approx(0.88), "acme/beans", "evalResults"]
    assert parse({"id": "acme/x", "pipeline_tag": "text-classification", "evalResults": results}).reported is None


def test_cards_can_be_left_out(server: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(server.url)
    config = replace(workspace.config, crawl=replace(workspace.config.crawl, cards=False))
    workspace = Workspace(workspace.root, config)
    crawler.crawl(workspace, token=False, progress=False)
    assert workspace.catalog(["card_summary"]).column(0).null_count == 2
    assert not [asked for asked in server.requests if asked.target.endswith("README.md")]
