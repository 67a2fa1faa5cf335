"""Whatever strangers write into ids, file names, tags, labels and configs: it is booked as data and does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.catalog import malformed_row, row_of
from crawler.decide.inspection import Decision
from crawler.decide.repository import entries, new_name
from crawler.decide.rules import is_safe_path
from crawler.hub.client import Answer, HubClient, bounded
from crawler.hub.pacing import standing, stated_wait
from crawler.hub.transport import RetryError, UnansweredError
from crawler.listing.pages import read_rows
from crawler.listing.rows import Listed, MalformedRowError, is_repo_id, parse
from workspace import ModelError, Status
from workspace.files import write_table
from workspace.model_config import parse_config
from workspace.model_labels import MAX_LABEL, from_id2label
from workspace.records import CATALOG
from workspace.safetensors_header import header_length, parse_header, shards

NOW = datetime(2026, 11, 23, tzinfo=timezone.utc)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["../../x", "\x1b[2J\x07", "\u202egnp.exe", "=cmd|' /C calc'!A0", "'; DROP TABLE--", "<script>", "\ud800", "\0"]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4), max_leaves=12)
COLUMNS = (
    "id", "sha", "author", "createdAt", "lastModified", "pipeline_tag", "library_name", "tags", "downloads", "likes",
    "private", "gated", "disabled", "safetensors", "siblings",
)  # fmt: skip
rows = st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, values))
sound = {"id": "acme/model", "sha": "0" * 40}
nearly = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(values, max_size=5),
        "siblings": st.lists(st.fixed_dictionaries({"rfilename": texts}) | values, max_size=5),
        "safetensors": st.dictionaries(st.sampled_from(["parameters", "total"]), values),
        "createdAt": texts | st.datetimes().map(str),
        "downloads": values,
        "gated": values,
    },
).map(lambda row: sound | row)


CLIENT = HubClient("https://hub.example")
HEADER_ENDS = (None, Status.INVALID_HEADER, Status.TRUNCATED_WEIGHTS)


def end_of(call: Callable[[], object]) -> Status | None:
    """The status a call ends in; None when it succeeds."""
    try:
        call()
    except (ModelError, UnansweredError) as error:
        return error.status
    return None


def as_table(row: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([row], schema=CATALOG)


@quick
@given(rows | nearly | values)
def test_any_row_is_read_or_booked_as_malformed(row: Any) -> None:
    try:
        listed = parse(row)
    except MalformedRowError as error:
        booked = malformed_row(error, NOW)
        assert booked["eligibility"] == "malformed_row"
        as_table(booked).validate(full=True)
        return
    assert is_repo_id(listed.id)
    as_table(row_of(Decision(listed, Status.GATED, "x"), NOW)).validate(full=True)


@quick
@given(st.dictionaries(texts, values, max_size=6) | values, texts)
def test_any_config_is_read_or_malformed(config: Any, label: str) -> None:
    if isinstance(config, dict):
        config |= {"id2label": {"0": label}, "model_type": "vit"}
    raw = json.dumps(config).encode()
    if end_of(lambda: parse_config(raw, 100)) is Status.MALFORMED_CONFIG:
        return
    parsed = parse_config(raw, 100)
    decision = Decision(Listed("acme/model", "0" * 40), config=parsed)
    as_table(row_of(decision, NOW)).validate(full=True)


@quick
@given(st.binary(max_size=400), st.integers(0, 500))
def test_any_bytes_are_a_header_or_none(raw: bytes, size: int) -> None:
    assert end_of(lambda: header_length(raw, size)) in HEADER_ENDS
    assert end_of(lambda: parse_header(raw, size)) in HEADER_ENDS


@quick
@given(st.dictionaries(texts, values, max_size=4))
def test_any_json_is_a_header_or_none(content: dict[str, Any]) -> None:
    raw = json.dumps(content).encode()
    assert end_of(lambda: parse_header(raw, 8 + len(raw))) in HEADER_ENDS


@quick
@given(st.dictionaries(texts | st.integers().map(str), values, max_size=8) | st.lists(values, max_size=8))
def test_any_labels_keep_their_places_and_stay_short(id2label: Any) -> None:
    labels = from_id2label(id2label, 5).names
    for label in labels or ():
        assert label is None or len(label) <= MAX_LABEL
        assert label is None or label.encode("utf-8") is not None
    assert len(labels or ()) <= 5


@quick
@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
def test_any_page_is_rows_or_an_error(body: bytes) -> None:
    try:
        found: object = read_rows(body)
    except ValueError:
        found = []
    assert isinstance(found, list)


@quick
@given(
    st.lists(st.dictionaries(texts, texts | st.integers(-9, 9), max_size=3), min_size=1, max_size=5), st.integers(0, 4)
)
def test_one_broken_row_leaves_the_others(good: list[Any], at: int) -> None:
    pieces = [json.dumps(value).encode() for value in good]
    pieces.insert(at % (len(pieces) + 1), b'{"id": broken}')
    found = read_rows(b"[" + b", ".join(pieces) + b"]")
    assert len(found) == len(pieces)
    assert json.dumps([value for value in found if value != '{"id": broken}']) == json.dumps(good)


@quick
@given(texts)
def test_a_safe_path_stays_inside(path: str) -> None:
    if is_safe_path(path):
        root = Path("/root/of/repo")
        assert (root / path).resolve().is_relative_to(root)
        assert "\\" not in path


@quick
@given(texts, texts, texts)
def test_addresses_stay_on_the_endpoint(repo_id: str, sha: str, path: str) -> None:
    url = CLIENT.resolve_url(*(part.encode("utf-8", "replace").decode() for part in (repo_id, sha, path)))
    assert url.startswith("https://hub.example/")
    assert CLIENT.same_origin(url)
    assert url.isascii()
    assert not any(character in url for character in "\r\n \x00")


@quick
@given(values.map(json.dumps), texts)
def test_other_answers_are_read_or_refused(text: str, location: str) -> None:
    assert end_of(lambda: entries(text.encode())) in (None, Status.SERVER_ERROR)
    assert end_of(lambda: shards(text.encode())) in (None, Status.INVALID_HEADER)
    name = new_name("https://hub.example/" + location.encode("utf-8", "replace").decode())
    assert name == "" or is_repo_id(name)


@quick
@given(st.dictionaries(st.sampled_from(["ratelimit", "ratelimit-policy", "retry-after"]), texts))
def test_any_headers_are_read_as_a_wait_or_none(headers: dict[str, str]) -> None:
    assert standing(headers) is None
    wait = stated_wait(headers)
    assert wait is None or 0 <= wait <= 3601


@pytest.mark.parametrize(
    "name", ["a/b", "a", "A-b.c_d/e.f-g_h", "timm/tf_efficientnet_lite0.in1k", "0-hero/Matter-0.1"]
)
def test_ids_the_hub_gives_are_taken(name: str) -> None:
    assert is_repo_id(name)


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../b", "a/..", "a b", "a/b\n", "a/" + "x" * 200, "a--b/c", "/b", "a/", 5]
)
def test_ids_no_hub_gives_are_not(name: object) -> None:
    assert not is_repo_id(name)


def test_hostile_text_comes_back_from_parquet_as_it_went_in(tmp_path: Path) -> None:
    label = "\x1b[31mred\u202e=1+1\0</td>"
    config = parse_config(json.dumps({"model_type": "vit", "id2label": {"0": label, "1": "\ud800"}}).encode(), 9)
    row = row_of(Decision(Listed("a/b", "0" * 40), config=config), NOW)
    write_table(tmp_path / "x.parquet", pa.Table.from_pylist([row], schema=CATALOG))
    assert pq.read_table(tmp_path / "x.parquet").column("id2label").to_pylist() == [[label, "?"]]


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    def endless() -> Any:
        while True:
            yield b"x" * 1000

    with pytest.raises(UnansweredError):
        bounded(Answer(200, {}), endless(), 10_000, None, None)
    part = bounded(Answer(200, {"content-length": str(10**12)}), endless(), 50, 10, 60)
    assert part == b"x" * 50
    with pytest.raises(RetryError):
        bounded(Answer(206, {"content-range": "bytes 20-60/100"}), endless(), 50, 10, 60)


def test_json_of_too_many_values_is_read_by_nobody() -> None:
    """Each takes 6 MB as text; before there was a cap, 32 MB of the kind took a gigabyte of memory and 7 s."""
    many = b"[" + b"[]," * 2_000_000 + b"[]]"
    assert end_of(lambda: parse_config(b'{"model_type": "vit", "x": ' + many + b"}", 5)) == Status.MALFORMED_CONFIG
    header = b'{"__metadata__": ' + many + b"}"
    assert end_of(lambda: parse_header(header, 8 + len(header))) == Status.INVALID_HEADER
    with pytest.raises(ModelError):
        shards(b'{"weight_map": {"a": "a.safetensors"}, "x": ' + many + b"}")
    with pytest.raises(ValueError, match="values"):
        read_rows(many)


def test_names_of_tensors_are_not_searched_without_end() -> None:
    """24,000 names of 950 characters kept the search for a head busy for seconds."""
    tensors = {f"{i}." + "head_." * 150: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(6_000)}
    raw = json.dumps(tensors).encode()
    assert end_of(lambda: parse_header(raw, 8 + len(raw))) == Status.INVALID_HEADER
