"""What is in a release, what is not, and that its bytes depend on nothing but the workspace."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubprobe.release import release, source, tables
from hubprobe.release.plan import OPT_OUT, scrub
from tests.release.conftest import change_catalog, change_probes, questions_of, released, repos_in
from workspace import ConfigError, MissingStepError, Workspace, WorkspaceError, records
from workspace.files import table_files, write_table


def bytes_of(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "reader.lock"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def merge(folder, schema=None):
    """Make one file of all, rows in another order, under another name: as a compaction may leave them."""
    files = table_files(folder)
    table = pa.concat_tables([pq.read_table(path, schema=schema) for path in reversed(files)])
    for path in files:
        path.unlink()
    write_table(folder / "compacted-0000.parquet", table, row_group_rows=37)


def test_same_bytes_elsewhere_and_after_a_compaction(made, tmp_path):
    release(made.workspace, tmp_path / "one", progress=False)
    merge(made.workspace.catalog_dir, records.CATALOG)
    merge(made.workspace.attempts_dir, records.ATTEMPTS)
    merge(made.workspace.descriptors_dir(made.workspace.probe_set))
    moved = made.workspace.root.rename(tmp_path / "moved")
    release(Workspace.open(moved), tmp_path / "deep" / "two", progress=False)
    one, two = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "deep" / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_the_tables_hold_what_the_workspace_holds(shared):
    made, folder = shared
    models, logits, vectors = (released(folder, name) for name in ("models", "logits", "descriptors"))
    assert models["repo_id"].to_pylist() == sorted(made.truth["models"])
    assert models.column_names[0] == "repo_id"
    assert not {"id", "createdAt"} & set(models.column_names)
    assert set(made.vectors) == {tuple(row.values()) for row in logits.select(["repo_id", "sha", "logit"]).to_pylist()}
    for row in vectors.slice(5, 20).to_pylist():
        assert row["vector"] == made.vectors[row["repo_id"], row["sha"], row["logit"]].tolist()
    keys = list(zip(*(vectors[name].to_pylist() for name in ("repo_id", "sha", "logit")), strict=True))
    assert keys == sorted(keys)
    assert sorted(vectors["position"].to_pylist()) == list(range(len(keys)))


def test_files_are_cut_small_with_a_page_index(shared):
    _, folder = shared
    for path in folder.rglob("*.parquet"):
        file = pq.ParquetFile(path)
        column = file.metadata.row_group(0).column(0)
        assert column.has_offset_index, path
        assert column.compression == "ZSTD"
        assert max(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)) <= 10_485


def test_excluded_outputs_are_told(made, tmp_path):
    repo, sha = next(iter(made.vectors))[:2]
    row = {"repo_id": repo, "sha": sha, "logit": 10, "label": "flat", "mean": 1.0, "std": 0.0, "excluded": "constant"}
    folder = made.workspace.responses_dir(made.workspace.probe_set)
    write_table(folder / "a.parquet", pa.Table.from_pylist([row], schema=records.RESPONSES))
    release(made.workspace, tmp_path / "out", progress=False)
    rows = released(tmp_path / "out", "logits").to_pylist()
    assert [r for r in rows if r["excluded"]] == [{**row, "observed": None, "variance": None}]
    assert len(rows) == len(made.vectors) + 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gated": "manual"}, "gated"),
        ({"eligibility": "malformed_row"}, "malformed_row"),
        ({"gated": "false", "private": True}, "private"),
        ({"gated": "false", "disabled": True}, "disabled"),
        ({"gated": "false", "eligibility": "gone"}, "gone"),
        ({"gated": "false", "license": "cc-by-nc-4.0"}, "licence_noncommercial"),
        ({"gated": "false", "license": "CC-BY-ND-4.0"}, "licence_noderivatives"),
        ({"gated": "false", "license": "other"}, "licence_other"),
        ({"gated": "false", "license": "my-own-terms"}, "licence_other"),
        ({"gated": "false", "license": "llama3"}, "licence_vendor"),
        ({"gated": "false", "license": "mit", "licenses": ["mit", "cc-by-nc-4.0"]}, "licence_noncommercial"),
    ],
)
def test_left_out_means_no_row_anywhere(made, tmp_path, values, reason):
    repo = "owner1/model-006"
    change_catalog(made.workspace, repo, **values)
    summary = release(made.workspace, tmp_path / "out", progress=False)
    assert summary.left_out == {reason: 1}
    assert repo not in repos_in(tmp_path / "out")
    assert len(repos_in(tmp_path / "out")) == 11
    for path in (tmp_path / "out").rglob("*.*"):
        assert repo.encode() not in path.read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`{reason}`" in card
    assert "12 were listed" in card


def test_no_licence_is_kept_unless_told_otherwise(made, tmp_path):
    change_catalog(made.workspace, "owner1/model-006", license=None)
    assert release(made.workspace, tmp_path / "out", progress=False).left_out == {}
    strict = release(made.workspace, tmp_path / "strict", keep=("permissive",), progress=False)
    assert strict.left_out == {"licence_none": 1}
    change_catalog(made.workspace, "owner1/model-006", license="cc-by-nc-4.0")
    for keep in (("all",), ("permissive", "cc-by-nc-4.0")):
        assert release(made.workspace, tmp_path / "all", keep=keep, dry_run=True).left_out == {}
    with pytest.raises(ConfigError, match="unknown licence 'permisive'"):
        release(made.workspace, tmp_path / "typo", keep=("permisive",))


def test_who_opted_out_is_left_out(made, tmp_path):
    (made.workspace.root / OPT_OUT).write_text("Owner2  # asked on 3 March\n\nowner1/MODEL-006\n", encoding="utf-8")
    change_catalog(made.workspace, "owner3/model-003", renamed_to="owner2/model-003")
    summary = release(made.workspace, tmp_path / "out", progress=False)
    assert summary.left_out == {"opted_out": 4}  # owner2 has models 2 and 7
    assert not any(repo.startswith("owner2/") for repo in repos_in(tmp_path / "out"))
    assert "owner1/model-006" not in repos_in(tmp_path / "out")
    assert "owner2" not in (tmp_path / "out" / "manifest.json").read_text().lower()


def test_many_files_hold_the_same_rows(shared, tmp_path, monkeypatch):
    made, folder = shared
    monkeypatch.setattr(tables, "SHARD_BYTES", 2 * 200 * 25)  # 25 logits: two models of ten a file
    monkeypatch.setitem(tables._SHARD_ROWS, "models", 5)
    release(made.workspace, tmp_path / "out", progress=False)
    assert len(table_files(tmp_path / "out" / "descriptors")) == 6
    assert len(table_files(tmp_path / "out" / "models")) == 3
    for name in tables.NAMES:
        assert released(tmp_path / "out", name).equals(released(folder, name))
    assert not list((tmp_path / "out").rglob(".tmp*"))


def test_images_need_a_licence(made, tmp_path):
    with_images = release(made.workspace, tmp_path / "a", progress=False)
    assert with_images.probe_images
    assert "caption" in released(tmp_path / "a", "probes").column_names
    change_probes(made.workspace, license=None)
    without = release(made.workspace, tmp_path / "b", progress=False)
    assert not without.probe_images
    assert released(tmp_path / "b", "probes").column_names == [
        "probe_id", "image_hash", "width", "height", "source", "license",
    ]  # fmt: skip
    assert release(made.workspace, tmp_path / "c", probes_license="cc-by-4.0", dry_run=True).probe_images
    assert not release(made.workspace, tmp_path / "c", probes_license="cc-by-nc-4.0", dry_run=True).probe_images


def test_a_dry_run_writes_nothing(made, tmp_path):
    before = bytes_of(made.workspace.root)
    told = release(made.workspace, tmp_path / "out", dry_run=True)
    real = release(made.workspace, tmp_path / "real", progress=False)
    assert not (tmp_path / "out").exists()
    assert bytes_of(made.workspace.root) == before
    assert told.rows == real.rows
    size = real.files["descriptors/train-00000-of-00001.parquet"]
    assert 0.5 < told.files["descriptors"] / size < 2


def test_only_a_release_is_replaced(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkspaceError, match="holds no release"):
        release(made.workspace, tmp_path / "mine", progress=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    first = release(made.workspace, tmp_path / "out", progress=False)
    change_catalog(made.workspace, "owner1/model-006", gated="auto")
    second = release(made.workspace, tmp_path / "out", progress=False)
    assert first.release_id != second.release_id
    assert source.read_manifest(tmp_path / "out").release_id == second.release_id
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out", "workspace"]


def test_without_an_index_it_says_what_to_do(fresh_workspace, tmp_path):
    with pytest.raises(MissingStepError, match="hubprobe index"):
        release(fresh_workspace, tmp_path / "out")


def test_a_full_disk_is_noticed_before(made, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(WorkspaceError, match="name another disk"):
        release(made.workspace, tmp_path / "out", progress=False)


def test_every_question_of_the_card_has_an_answer(shared, monkeypatch):
    _, folder = shared
    monkeypatch.chdir(folder)
    questions = questions_of(folder)
    assert len(questions) == 10
    for sql in questions.values():
        duckdb.sql(sql).fetchall()


def test_no_folder_of_this_machine_is_told(made, tmp_path):
    path = table_files(made.workspace.attempts_dir)[0]
    rows = pq.read_table(path).to_pylist()
    rows[0]["reason"] = f"cannot open {made.workspace.root}/cache/models/x.safetensors: No such file"
    write_table(path, pa.Table.from_pylist(rows, schema=records.ATTEMPTS))
    release(made.workspace, tmp_path / "out", progress=False)
    reasons = [r for r in released(tmp_path / "out", "attempts")["reason"].to_pylist() if r]
    assert reasons == ["cannot open …/x.safetensors: No such file"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/ada/x/y.bin is bad", "…/y.bin is bad"),
        ("C:\\Users\\ada\\y.bin is bad", "…/y.bin is bad"),
        ("/owner/name/resolve/main/model.safetensors is not there", None),
        ("see https://host/home/x", None),
        ("3/home/4", None),
        ("", None),
    ],
)
def test_scrub(text, clean):
    assert scrub(text) == (text if clean is None else clean)
