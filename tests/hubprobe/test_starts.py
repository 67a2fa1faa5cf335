"""What a verb imports decides how quickly it answers: torch takes two seconds, LanceDB one, numba a third."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hubprobe import front
from hubprobe.cli.app import cli
from hubprobe.demo.run import PROBES
from hubprobe.demo.server import HubServer, demo_repos
from hubprobe.output import chance
from tests.hubs import encoders
from tests.search.conftest import make
from workspace import Config, SearchConfig, Workspace

HEAVY = {"duckdb", "lancedb", "numba", "pandas", "PIL", "scipy", "tokenizers", "torch", "torchvision", "transformers"}

SCRIPT = """
import contextlib, io, json, sys
from hubprobe.cli.app import cli

for verb in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(verb, standalone_mode=False)
    print(json.dumps([verb, sorted(set(json.loads(sys.argv[2])) & set(sys.modules)), out.getvalue().count("\\n")]))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> str:
    made = make(tmp_path_factory.mktemp("starts") / "w", models=4, n=60)
    made.index()
    made.open().prepare(["a thing that no list holds", "dog"])
    return str(made.workspace.root)


def test_verbs_import_what_their_answer_needs_and_no_more(workspace: str) -> None:
    """One process runs them all, each after those that need less, so that what a verb adds is its own."""
    here = ["-w", workspace]
    count = ["sql", *here, "--format", "json", "--out", "/dev/null"]
    needs: list[tuple[list[str], set[str]]] = [
        (["status", *here], set()),
        ([*count, "SELECT count(*) FROM attempts"], {"duckdb"}),
        ([*count, "SELECT count(*) FROM models JOIN logits USING (repo_id, sha)"], {"duckdb"}),
        (["index", "info", *here], {"duckdb"}),
        (["similar", *here, "owner1/model-001"], {"duckdb"}),
        (["search", *here, "a thing that no list holds"], {"duckdb", "numba"}),
        (["search", *here, "dog", "--where", "downloads > 0", "--by", "model"], {"duckdb", "numba"}),
        (["similar", *here, "owner1/model-001", "0"], {"duckdb", "numba"}),
    ]
    imports_no_more(needs)


def test_a_texts_hits_are_shown_with_how_probable_each_is(workspace: str) -> None:
    asked = ["search", "-w", workspace, "dog", "--limit", "3", "--scoring", "bridged"]
    heading, _, *rows = CliRunner().invoke(cli, asked).stdout.splitlines()
    hits = json.loads(CliRunner().invoke(cli, [*asked, "--format", "json"]).stdout)
    assert "likely right" not in hits[0]
    at = heading.index("likely right")
    for row, hit in zip(rows, hits, strict=True):
        assert row[at:].split("%")[0].strip() == f"{100 * min(max(hit['probability'], 0.01), 0.99):.0f}"
    assert [chance(p) for p in (0.0, 0.004, 0.624, 0.999, 1.0)] == ["1 %", "1 %", "62 %", "99 %", "99 %"]
    like = CliRunner().invoke(cli, ["similar", "-w", workspace, "owner1/model-001", "0"]).stdout
    assert "likely right" not in like  # of texts alone


def test_a_text_that_was_never_asked_needs_no_torch(tmp_path) -> None:
    made = make(tmp_path / "w", models=4, n=60)
    made.index(encoder=f"clip:{encoders.siglip2(tmp_path)}")
    assert "torch" in sys.modules  # which made the index
    needs = {"duckdb", "numba", "tokenizers"}
    imports_no_more([(["search", "-w", str(made.workspace.root), "a thing that nobody asked for"], needs)])


def test_a_verb_with_nothing_to_do_imports_no_torch(tmp_path: Path, names: Path) -> None:
    with HubServer(demo_repos(with_lite0=False)[:4]) as server:
        config = Config(endpoint=server.url, search=SearchConfig(encoder=f"clip:{encoders.siglip2(tmp_path)}"))
        workspace = Workspace.create(tmp_path / "w", config)
        shutil.copytree(names, workspace.cache_dir, dirs_exist_ok=True)
        front.run(workspace, token="", probes_from=str(PROBES), progress=False, check=False)
        here = ["-w", str(workspace.root), "-q", "--format", "json"]
        needs: list[tuple[list[str], set[str]]] = [
            (["status", *here[:2]], set()),
            (["crawl", *here], {"duckdb"}),
            (["probe", *here], {"duckdb", "PIL"}),
            (["index", *here], {"duckdb", "PIL"}),
            (["run", *here], {"duckdb", "PIL"}),
        ]
        imports_no_more(needs)


def imports_no_more(needs: list[tuple[list[str], set[str]]]) -> None:
    verbs = json.dumps([verb for verb, _ in needs])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, verbs, json.dumps(sorted(HEAVY))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(needs)
    for (verb, loaded, printed), (_, allowed) in zip(lines, needs, strict=True):
        assert set(loaded) <= allowed, f"{verb} imports {set(loaded) - allowed}"
        assert printed > 1 or verb[0] == "sql", verb
