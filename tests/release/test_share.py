"""The verbs `release` and `import` as they are typed."""

import json

import pytest
from click.testing import CliRunner

from hubprobe.cli.app import cli
from tests.release.conftest import change_catalog


@pytest.fixture
def run():
    def run(*arguments, **options):
        return CliRunner().invoke(cli, [str(a) for a in arguments], **options)

    return run


def test_a_dry_run_tells_rows_sizes_and_who_is_left_out(made, tmp_path, run):
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    where = ["-w", made.workspace.root]
    told = run("release", tmp_path / "out", *where, "--dry-run", "--push", "a/b")
    assert told.exit_code == 0, told.output
    assert "left out: gated" in told.stdout
    assert "would upload" in told.stderr
    assert not (tmp_path / "out").exists()
    rows = json.loads(run("release", tmp_path / "out", *where, "--dry-run", "--format", "json").stdout)
    assert rows[0]["left_out"] == {"gated": 1}
    assert rows[0]["rows"]["descriptors"] == 110


def test_released_pushed_and_imported_by_command(shared, hub, tmp_path, run):
    made, _ = shared
    to = ["--endpoint", hub.url, "--token", "hf_a", "--quiet"]
    out = ["release", tmp_path / "out", "-w", made.workspace.root, "--push", "some-lab/rows", *to]
    refused = run(*out, input="n\n")
    assert refused.exit_code != 0
    assert "to the new private dataset some-lab/rows" in refused.stderr
    assert {r.method for r in hub.requests} == {"GET"}
    done = run(*out, "--format", "json", input="y\n")
    assert done.exit_code == 0, done.output
    pushed = json.loads(done.stdout)[0]["push"]
    assert (pushed["created"], pushed["private"]) == (True, True)
    again = run(*out, "--yes")
    assert "nothing to upload" in again.stderr
    assert 'load_dataset("some-lab/rows", "models"' in (tmp_path / "out" / "README.md").read_text()
    where = f"hf://datasets/some-lab/rows@{pushed['commit']}"
    copied = run("import", where, "-w", tmp_path / "copy", "--encoder", "none", *to, "--format", "json")
    assert copied.exit_code == 0, copied.output
    assert json.loads(copied.stdout)[0]["logits"] == 120


def test_a_wrong_name_is_refused_before_anything_is_written(shared, tmp_path, run):
    done = run("release", tmp_path / "out", "-w", shared[0].workspace.root, "--push", "noowner")
    assert "no name of a dataset" in str(done.exception)
    assert not (tmp_path / "out").exists()
