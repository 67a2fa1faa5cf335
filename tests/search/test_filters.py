"""SQL conditions: what they select, and what they refuse."""

import pytest

from search.filters import parse
from workspace import QueryError


@pytest.mark.parametrize(
    ("condition", "meets"),
    [
        ("downloads > 500", lambda h: h["downloads"] > 500),
        ("downloads > 200 and license = 'apache-2.0'", lambda h: h["downloads"] > 200 and h["license"] == "apache-2.0"),
        ("label = 'dog' or label ilike '%CAT%'", lambda h: h["label"] in ("dog", "cat")),
        ("list_contains(tags, 't1') AND NOT likes IN (1, 5)", lambda h: "t1" in h["tags"] and h["likes"] not in (1, 5)),
        ("logit between 2 and 3 and LIKES >= 4", lambda h: h["logit"] in (2, 3) and h["likes"] >= 4),
        ("createdAt > '2020-01-01' and gated is null", lambda h: True),
        ("repo_id like 'owner1/%'", lambda h: h["repo_id"].startswith("owner1/")),
        ("label = 'it''s' OR author = 'owner2' -- a comment", lambda h: h["author"] == "owner2"),
    ],
)
def test_a_filter_selects_exactly(opened, condition, meets):
    every = opened.search("dog").limit(1000).to_dicts()
    expected = [(h["repo_id"], h["logit"]) for h in every if meets(h)]
    found = opened.search("dog").where(condition).limit(1000).to_dicts()
    assert [(h["repo_id"], h["logit"]) for h in found] == expected


def test_filters_chain_with_and(opened):
    both = opened.search("dog").where("downloads > 300").where("license = 'mit'").limit(1000).to_dicts()
    assert both
    assert all(h["downloads"] > 300 and h["license"] == "mit" for h in both)


def test_a_filter_that_nothing_meets(opened):
    assert opened.search("dog").where("downloads < 0").to_dicts() == []
    assert opened.search("dog").where("downloads < 0").by("model").to_dicts() == []


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "   ",
        "1=1; DROP TABLE models",
        "1=1 UNION SELECT 1",
        "1=1 ORDER BY 1",
        "1=1 LIMIT 1",
        "1=1 GROUP BY likes",
        "1=1 GROUP BY likes HAVING count(*) > 1",
        "1=1 QUALIFY row_number() OVER () = 1",
        "1=1) OR (1=1",
        "likes IN (SELECT 1)",
        "EXISTS (SELECT * FROM read_csv('/etc/passwd'))",
        "read_text('/etc/passwd') = 'x'",
        "getenv('HOME') = 'x'",
        "pg_sleep(10) = 1",
        "password = 'x'",
        "models.likes > 1",
        "position > 1",
        "model = 1",
        "count(*) > 1",
        "row_number() OVER () > 1",
        "likes > ?",
        "likes > $1",
        "COLUMNS(*) > 1",
        "list_filter(tags, x -> x = 'a') IS NOT NULL",
        "downloads >",
        "'unclosed",
        "likes > 1" + " and likes > 1" * 1000,
        "(" * 5000 + "likes" + ")" * 5000,
    ],
)
def test_a_filter_refuses_what_is_no_condition(condition):
    with pytest.raises(QueryError):
        parse(condition)


@pytest.mark.parametrize("condition", ["downloads > 'many'", "tags > 3", "regexp_matches(label, '(')"])
def test_a_filter_that_cannot_be_computed(opened, condition):
    with pytest.raises(QueryError, match="cannot be computed"):
        opened.search("dog").where(condition).to_dicts()
