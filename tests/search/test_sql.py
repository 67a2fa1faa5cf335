"""SQL: searches inside it, and everything it must not do. The questions of the documentation: `tests/docs`."""

import os
import re
import resource
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.version import Version

import search
from search.answers import sql_rows
from search.statements import statements_of
from search.views import VIEWS, attach
from workspace import MissingStepError, QueryError, records
from workspace.files import write_table


def test_a_search_in_sql_is_the_search(opened):
    table = opened.sql(
        "SELECT repo_id, sha, logit, score FROM search('dog', n := 7, filter := 'likes > 3') ORDER BY rank"
    )
    expected = opened.search("dog").where("likes > 3").limit(7).to_arrow()
    assert table.to_pylist() == expected.select(["repo_id", "sha", "logit", "score"]).to_pylist()
    near = opened.sql("FROM similar('owner1/model-001', 0, n := 3, whole := true)")
    assert near.num_rows == 3


def test_the_sides_that_found_a_hit_can_be_asked(opened):
    table = opened.sql("FROM search('dog', n := 7, scoring := 'bridged')")
    hits = opened.search("dog", scoring="bridged").limit(7).to_arrow()
    assert table.select(hits.column_names).to_pylist() == hits.to_pylist()
    sides = opened.sql(
        "SELECT side, count(*) AS hits FROM (SELECT unnest(found_by) AS side FROM search('dog', scoring := 'bridged')) "
        "GROUP BY side"
    )
    assert set(sides.column("side").to_pylist()) <= {"zero-shot", "labels", "map"}
    assert sides.num_rows > 0


def test_joins_aliases_and_subqueries(opened):
    table = opened.sql(
        "SELECT s.rank, l.std, m.parameters FROM search('dog''s', n := 5) AS s "
        "JOIN models m USING (repo_id, sha) JOIN logits l USING (repo_id, sha, logit) "
        "WHERE s.rank <= (SELECT max(rank) FROM search('cat', n := 3)) ORDER BY 1"
    )
    assert table.column("rank").to_pylist() == [1, 2, 3]
    assert opened.sql("SELECT * FROM search('dog') WHERE search.rank = 1").num_rows == 1


def test_the_shape_of_the_workspace_can_be_asked(opened):
    assert opened.sql("SHOW TABLES;").column("name").to_pylist() == sorted(search.statements.VIEWS)
    assert "downloads" in opened.sql("DESCRIBE models").column("column_name").to_pylist()
    assert opened.sql("SUMMARIZE logits").num_rows > 5
    assert opened.sql("SELECT count(*) AS n FROM LOGITS").to_pylist() == [{"n": 120}]


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "DROP TABLE models",
        "INSERT INTO models SELECT * FROM models",
        "CREATE TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO '/tmp/hubprobe-never.csv'",
        "ATTACH '/tmp/hubprobe-never.db'",
        "INSTALL httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE models",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM opened",
        "SELECT * FROM _found_0",
        "SELECT * FROM search('dog', m := 3)",
        "SELECT * FROM search('dog', 'cat')",
        "SELECT * FROM search()",
        "SELECT * FROM search('dog', n := 0)",
        "SELECT * FROM search('dog', n := 'many')",
        "SELECT * FROM search('dog', filter := 'x; DROP TABLE models')",
        "SELECT * FROM models, search(models.repo_id)",
        "SELECT * FROM similar('nobody/here', 0)",
        "SELECT * FROM similar('owner1/model-001')",
        "SELECT 1 + ",
        "SELECT \ud800",
        "SELECT " + "1 + " * 60_000 + "1",
        pytest.param(
            "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
            marks=pytest.mark.skipif(
                Version(duckdb.__version__).major < 2, reason="DuckDB 1 reads it, and rightly says 1"
            ),
        ),
    ],
)
def test_what_sql_refuses(opened, statement):
    with pytest.raises(QueryError):
        opened.sql(statement)
    assert not Path("/tmp/hubprobe-never.csv").exists()


def test_a_long_statement_is_interrupted(opened):
    with pytest.raises(QueryError, match="longer than"):
        opened.sql("SELECT count(*) FROM range(1000000000000) a WHERE hash(a.range) % 7 = 3", timeout_s=0.2)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT repeat('x', 9000000000)",
        "SELECT repeat('x', 100000) FROM range(1000000)",
        "FROM range(100000000000)",
        "SELECT list_reverse(range(3000000000))",
        "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)",
        "SELECT lpad('x', 2000000000, 'y') || rpad('x', 2000000000, 'y') || lpad('x', 2000000000, 'z')",
        "SELECT CAST('[]' AS INTEGER[99999][99999])",
        "WITH RECURSIVE t(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM t) SELECT max(len(x)) FROM t",
        "SELECT count(*) FROM range(1000000000) WHERE regexp_matches(repeat('a', 1000) || range, '(a?a?a?){1000}b')",
        "SELECT regexp_matches(repeat('a', 100000), '(a?a?a?a?){1000}b')",
        "SELECT regexp_replace(repeat('a', 100000), '', repeat('b', 100000), 'g')",
        "SELECT list_sum(list_transform(range(1000000000), x -> x * x))",
    ],
)
def test_no_statement_takes_more_than_its_limits(opened, statement):
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(QueryError, match=r"longer than|memory|larger than|[Ee]rror"):
        opened.sql(statement, timeout_s=1)
    assert time.monotonic() - begun < 60, "nothing ended it"
    # kilobytes, of the largest child so far: those of other tests in this process may have been larger
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 4.2 * 1024 * 1024)
    assert opened.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_a_statement_that_would_keep_the_parser_busy(opened):
    with pytest.raises(QueryError, match="brackets inside one another"):
        opened.sql("SELECT " + "(" * 40_000 + "1 =" + ")" * 40_000)


@pytest.mark.parametrize(
    "arguments",
    [
        "7", "true", "['dog']", "'dog', n := 'many'", "'dog', n := 2.5", "'dog', n := true", "'dog', k := 'x'",
        "'dog', by := 3",
        "'dog', hybrid := 'yes'", "'dog', all_of := 'cat'", "'dog', all_of := [1, 2]", "'dog', filter := 7",
        "'dog', scoring := 1",
        "CAST('dog' AS JSON)", "TRY_CAST(1 AS STRUCT(a INTEGER))", "'dog', n := CAST(1 AS INTEGER[9])",
    ],
)  # fmt: skip
def test_arguments_of_a_search_have_types(opened, arguments):
    with pytest.raises(QueryError):
        opened.sql(f"SELECT * FROM search({arguments})")


@pytest.mark.parametrize(
    "arguments", ["'a/b', true", "7, 7", "'a/b', '7'", "'a/b', CAST(1 AS DATE)", "'a/b', 0, sha := 3"]
)
def test_arguments_of_similar_have_types(opened, arguments):
    with pytest.raises(QueryError):
        opened.sql(f"SELECT * FROM similar({arguments})")


def test_in_python_a_wrong_type_is_a_type_error_in_words(opened):
    for value in (123, 1.5, ["dog"], b"dog"):
        with pytest.raises(TypeError, match="a search asks for words"):
            opened.search(value)


def test_searches_are_inside_the_clock_and_counted(opened):
    searches = [f"SELECT count(*) FROM search('dog {i}', n := 5)" for i in range(100)]
    with pytest.raises(QueryError, match="at most 32 searches"):
        opened.sql(" UNION ALL ".join(searches))
    with pytest.raises(QueryError, match=r"took longer than 0\.001 s"):
        opened.sql(" UNION ALL ".join(searches[:30]), timeout_s=0.001)
    same = " UNION ALL ".join(["SELECT count(*) AS n FROM search('dog', n := 5)"] * 100)
    assert opened.sql(same).column("n").to_pylist() == [5] * 100
    with pytest.raises(QueryError, match="hits together"):
        opened.sql("SELECT 1 FROM search('dog', n := 900000), search('cat', n := 900000)")


@pytest.mark.parametrize(
    ("statement", "advice"),
    [
        ("FROM modles", "did you mean models?"),
        ("FROM serch('dog')", "did you mean search?"),
        ("SELECT id FROM models", "models has repo_id"),
        ("SELECT created FROM catalog", "created_at"),
        ("SELECT * FROM 'things.parquet'", "--allow"),
        ("FROM search('dog', n = 3)", "n := ..."),
        ("FROM search('dog', limit = 3)", "limit := ..."),
        ("FROM search('dog', limit := 'a')", "limit must be a whole number"),
        ("FROM search('dog', size := 3)", "limit, none_of, scoring, where"),
        ("PIVOT (FROM search('dog')) ON label USING count(*)", "PIVOT and a search do not go together"),
        ("PIVOT attempts ON outcome USING count(*); DROP TABLE attempts", "read-only"),
        ("EXPLAIN COPY attempts TO 'x.csv'", "read-only"),
    ],
)
def test_what_is_wrong_with_a_statement_is_said_in_our_words(opened, statement, advice):
    with pytest.raises(QueryError, match=re.escape(advice)):
        opened.sql(statement)


@pytest.mark.parametrize("table", ["x.parquet", "/nowhere/else/x.csv"])
def test_no_error_shows_a_path_of_the_machine(opened, table, tmp_path):
    with pytest.raises(QueryError) as refused:
        opened.sql(f"SELECT * FROM '{table}'", allow=[str(tmp_path)])
    assert str(Path.home()) not in str(refused.value)
    assert str(Path(search.__file__).parent) not in str(refused.value)


def test_a_statement_sees_no_secret_and_leaves_no_process(opened, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    before = set(children.read_text().split()) if children.exists() else set()  # of other tests of this process
    with sql_rows(opened.workspace, "SELECT range FROM range(1000000)", index=opened) as answer:
        first = next(answer.batches)  # and the rest is given up
    assert 0 < first.num_rows < 1_000_000
    assert not children.exists() or set(children.read_text().split()) <= before


def test_only_allowed_folders_are_read(opened, tmp_path):
    inside, outside = tmp_path / "in" / "x.parquet", tmp_path / "out.parquet"
    inside.parent.mkdir()
    for path in (inside, outside):
        pq.write_table(pa.table({"repo_id": ["owner1/model-001"], "note": ["good"]}), path)
    table = opened.sql(
        f"SELECT m.downloads, n.note FROM '{inside}' n JOIN models m USING (repo_id)", allow=[str(inside.parent)]
    )
    assert table.to_pylist() == [{"downloads": 100, "note": "good"}]
    for path in (outside, inside.parent / ".." / "out.parquet"):
        with pytest.raises(QueryError):
            opened.sql(f"SELECT * FROM '{path}'", allow=[str(inside.parent)])


def test_sql_before_there_is_an_index(fresh):
    assert search.sql(fresh.workspace, "SELECT count(*) AS n FROM attempts").to_pylist() == [{"n": 5}]
    with pytest.raises(MissingStepError):
        search.sql(fresh.workspace, "SELECT * FROM models")


def test_limit_where_and_by_are_called_so_in_sql_too(opened):
    asked = "SELECT * FROM search('dog', limit := 3, where := 'downloads > 200', by := 'model') LIMIT 2"
    hits = opened.search("dog").where("downloads > 200").by("model").limit(3).to_arrow()
    assert opened.sql(asked).select(hits.column_names).to_pylist() == hits.slice(0, 2).to_pylist()
    text = "SELECT 'limit := 3' AS a, 'where => 5' AS b -- limit := 7"
    assert opened.sql(text).to_pylist() == [{"a": "limit := 3", "b": "where => 5"}]
    wide = opened.sql("SELECT 'ü' AS ü, count(*) AS n FROM search('dog', LIMIT := 4)")
    assert wide.to_pylist() == [{"ü": "ü", "n": 4}]


def test_every_table_has_repo_id_and_everyday_names(opened):
    for table in ("models", "logits", "catalog", "attempts"):
        columns = opened.sql(f"DESCRIBE {table}").column("column_name").to_pylist()
        assert columns[:2] == ["repo_id", "sha"]
        named = [name for name in columns if name != "id" and name == name.lower()]
        assert all(name in named or name in ("id", "createdAt", "lastModified", "transformersInfo") for name in columns)
    same = opened.sql("SELECT count(*) AS n FROM catalog WHERE repo_id = id AND created_at = createdAt")
    assert same.column("n").to_pylist() == [opened.sql("SELECT * FROM catalog").num_rows]
    for condition in ("created_at > '2020-01-01'", "createdAt > '2020-01-01'"):
        assert opened.search("dog").where(condition).limit(3).to_arrow().num_rows == 3


def test_is_gated_is_true_or_false(fresh):
    rows = fresh.workspace.catalog().to_pylist()
    for row, gated in zip(rows, ("false", "auto", "manual", None), strict=False):
        row["gated"] = gated
    for path in fresh.workspace.catalog_dir.glob("*.parquet"):
        path.unlink()
    write_table(fresh.workspace.catalog_dir / "a.parquet", pa.Table.from_pylist(rows, schema=records.CATALOG))
    table = search.sql(fresh.workspace, "SELECT gated, is_gated FROM catalog WHERE gated IS NOT NULL ORDER BY 1")
    assert table.to_pylist() == [
        {"gated": "auto", "is_gated": True},
        {"gated": "false", "is_gated": False},
        {"gated": "manual", "is_gated": True},
    ]


def test_pivots_and_explanations(opened):
    wide = opened.sql("PIVOT (SELECT repo_id, logit FROM logits) ON logit USING count(*)")
    assert (wide.num_rows, wide.num_columns) == (12, 11)
    assert "SCAN" in str(opened.sql("EXPLAIN SELECT count(*) FROM attempts").column(1)[0]).upper()
    assert opened.sql("EXPLAIN SELECT * FROM search('dog', limit := 2)").num_rows > 0


def test_a_script_is_read_statement_by_statement():
    script = "SELECT 1; -- one; two\nSELECT 'a;b' AS c;\nFROM search('dog', limit := 3)"
    assert statements_of(script)[1:] == ["-- one; two\nSELECT 'a;b' AS c", "FROM search('dog', \"limit\" := 3)"]
    assert statements_of(" ;; ") == []
    for bad in ("SELECT 1; nonsense", "(" * 200, "SELECT '\ud800'"):
        with pytest.raises(QueryError):
            statements_of(bad)


def test_a_duckdb_file_of_all_tables_opens_without_us(fresh, tmp_path):
    import duckdb

    before = attach(fresh.workspace, tmp_path / "early.duckdb")
    assert set(before) == {"attempts", "catalog", "probes", "runs"}
    fresh.index(names=True)
    rows = attach(fresh.workspace, tmp_path / "all.duckdb")
    with duckdb.connect(str(tmp_path / "all.duckdb"), read_only=True) as client:
        counted = {name: client.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in VIEWS}
        best = client.execute("SELECT repo_id, label FROM logits JOIN models USING (repo_id, sha) LIMIT 1").fetchone()
    assert counted == rows
    assert rows["logits"] == 50
    assert best is not None
