"""Texts whose embedding is kept: what is asked twice needs the encoder once, and damage changes no answer."""

import sqlite3

import numpy as np
import pytest

import search
from search.text.embeddings import FILE, MOST_ASKED, Known, KnownTexts
from tests.search.conftest import FakeEncoder
from workspace import QueryError

ABOUT = {"name": "clip:fake/encoder", "commit": "c" * 40, "templates": ["{}", "a photo of a {}"]}


class Counting(FakeEncoder):
    asked = 0

    def encode_texts(self, texts):
        self.asked += len(texts)
        return super().encode_texts(texts)


@pytest.fixture
def rows():
    """Three texts, of which the encoder read all but the last letter."""
    row = lambda i: np.random.default_rng(i).standard_normal(8).astype(np.float32)  # noqa: E731
    return {f"text {i}": Known(row(i), "text ") for i in range(3)}


def same(a: Known, b: Known) -> bool:
    return np.array_equal(a.row, b.row) and a.read == b.read


def test_a_text_that_was_asked_needs_no_encoder_again_and_finds_the_same(fresh):
    fresh.index()
    before = fresh.open().search("a red thing").limit(5).to_dicts()
    again = search.open(fresh.workspace, encoder=(counting := Counting()))
    assert again.search("a red thing").limit(5).to_dicts() == before
    assert counting.asked == 0
    again.search("another thing").to_arrow()
    assert counting.asked == 4  # a text in each of the prompts


def test_nothing_that_is_asked_is_kept_where_strangers_ask(fresh):
    fresh.index()
    for _ in range(2):
        index = search.open(fresh.workspace, encoder=(counting := Counting()), keep_texts=False)
        index.search("a red thing").to_arrow()
        assert counting.asked == 4


def test_an_encoder_of_another_commit_is_refused_for_a_known_text_too(fresh):
    fresh.index()
    fresh.open().search("a red thing").to_arrow()
    with pytest.raises(QueryError, match="the index was built with"):
        search.open(fresh.workspace, encoder=FakeEncoder("d" * 40)).search("a red thing").to_arrow()


def test_the_whole_bank_is_known_when_the_index_is_built(fresh):
    fresh.index(names=True)
    index = search.open(fresh.workspace, encoder=(counting := Counting()))
    index.describe("owner1/model-001", progress=False)
    index.search("zebra").to_arrow()
    assert counting.asked == 0


def test_rows_come_back_exactly_and_only_under_their_encoder(tmp_path, rows):
    texts = KnownTexts(tmp_path, ABOUT)
    texts.keep(rows, "bank")
    found = texts.get([*rows, "unknown"])
    assert set(found) == set(rows)
    assert all(same(found[text], one) for text, one in rows.items())
    for change in ({"commit": "d" * 40}, {"name": "clip:other/encoder"}, {"templates": ["{}"]}):
        assert KnownTexts(tmp_path, {**ABOUT, **change}).get(list(rows)) == {}


def test_the_last_that_were_asked_stay_and_the_bank_always(tmp_path, rows):
    texts = KnownTexts(tmp_path, ABOUT)
    texts.keep(rows, "bank")
    row = Known(np.ones(8, np.float32), "asked")
    texts.keep({f"asked {i}": row for i in range(MOST_ASKED)}, "asked")
    texts.keep({"one more": row}, "asked")
    assert set(texts.get(["asked 0", "asked 1", "one more", *rows])) == {"asked 1", "one more", *rows}


def test_a_flipped_bit_makes_a_text_unknown_never_another(tmp_path, rows):
    texts = KnownTexts(tmp_path, ABOUT)
    texts.keep(rows, "bank")
    whole = (tmp_path / FILE).read_bytes()
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        (tmp_path / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        found = texts.get(list(rows))
        seen.add(len(found))
        assert all(same(one, rows[text]) for text, one in found.items())
    assert min(seen) < len(rows)  # some flips were met


def test_a_file_that_is_no_database_is_made_again(tmp_path, rows):
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    texts = KnownTexts(tmp_path, ABOUT)
    assert texts.get(list(rows)) == {}
    texts.keep(rows, "asked")
    assert set(texts.get(list(rows))) == set(rows)


def test_what_cannot_be_written_is_not_kept_and_no_error(tmp_path, rows):
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE texts (encoder TEXT)")  # of another shape, and locked
        other.execute("BEGIN EXCLUSIVE")
        KnownTexts(tmp_path, ABOUT).keep(rows, "asked")
        assert KnownTexts(tmp_path, ABOUT).get(list(rows)) == {}
    KnownTexts(tmp_path / "nowhere", ABOUT).keep(rows, "asked")
    assert not (tmp_path / "nowhere").exists()
