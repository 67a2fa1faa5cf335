"""Releases made to do harm, or damaged on a disk: each is refused in one sentence, and leaves nothing."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from hubprobe.front import status
from hubprobe.release import import_release, release
from hubprobe.release.checks import MAX_GROUP
from tests.release.forging import (
    change_manifest,
    change_table,
    file_of,
    put,
    put_bytes,
    retype,
    scale,
    seal,
    seal_bytes,
)
from tests.search.conftest import make, probe_png
from workspace import Config, HubprobeError, Workspace, WorkspaceError
from workspace.files import sha256_of

N = 64
BITS = bytes([255, 0, 0, 0, 0, 0, 0, 0])
NAN = float("nan")


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    root = tmp_path_factory.mktemp("genuine")
    made = make(root / "workspace", models=4, n=N)
    made.index()
    release(made.workspace, root / "release", progress=False)
    return made, root / "release"


@pytest.fixture
def forged(genuine, tmp_path):
    return shutil.copytree(genuine[1], tmp_path / "forged")


def refused(folder, target, encoder, match):
    """Import a folder: refused in one sentence, and nothing is left."""
    with pytest.raises(WorkspaceError, match=match) as caught:
        import_release(str(folder), target, encoder=encoder, progress=False)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not target.exists()
    with pytest.raises(HubprobeError):
        Workspace.open(target)


VALUES = [
    # descriptors
    ("descriptors", "logit", -5, r"'logit' is not from 0"),
    ("descriptors", "logit", 10**6, r"'logit' is not from 0"),
    ("descriptors", "logit", 77, r"logit 77: the model has fewer outputs"),
    ("descriptors", "logit", 1, r"the same key twice"),
    ("descriptors", "logit", 0, r"rows out of order"),
    ("descriptors", "label", "x" * 5_000_000, r"'label' has more than 1,000 characters"),
    ("descriptors", "mean", NAN, r"'mean' is not a finite number"),
    ("descriptors", "std", -1.0, r"'std' is not a finite number"),
    ("descriptors", "std", 0.0, r"'std' is not a finite number from 1e-45"),
    ("descriptors", "std", float("inf"), r"'std' is not a finite number"),
    ("descriptors", "variance", NAN, r"'variance' is not a finite number"),
    ("descriptors", "variance", 3.0, r"'variance' is not 0 where all"),
    ("descriptors", "variance", None, r"'variance' is null"),
    ("descriptors", "position", -1, r"'position' is not from"),
    ("descriptors", "position", 0, r"'position' 0 stands twice"),
    ("descriptors", "vector", [0.0] * N, r"'vector' is zero"),
    ("descriptors", "vector", [1.0] * N, r"has mean 1 and standard deviation 0"),
    ("descriptors", "vector", [NAN] + [0.0] * (N - 1), r"'vector\[\]' is not from"),
    ("descriptors", "vector", [float("inf")] + [0.0] * (N - 1), r"'vector\[\]' is not from"),
    ("descriptors", "vector", [None] + [0.0] * (N - 1), r"'vector\[\]' is null"),
    ("descriptors", "vector", None, r"'vector' is null"),
    ("descriptors", "observed_bits", b"", r"'observed_bits' is not one bit"),
    ("descriptors", "observed_bits", BITS + b"\xff", r"'observed_bits' is not one bit"),
    ("descriptors", "observed_bits", bytes(8), r"'observed_bits' is not one bit"),
    ("descriptors", "deviation", [0.5] * N, r"'deviation' is not one number"),
    ("descriptors", "logsumexp", [99.0] * N, r"'logsumexp' stands on another row than its model's first"),
    ("descriptors", "repo_id", "owner0/model-000x", r"the model was not probed"),
    ("descriptors", "repo_id", None, r"'repo_id' is null"),
    ("descriptors", "sha", "F" * 40, r"'sha' is no commit"),
    ("descriptors", "sha", "f" * 39, r"'sha' is no commit"),
    # models
    ("models", "repo_id", "../../etc/passwd", r"'repo_id' is no repository"),
    ("models", "repo_id", "owner/..", r"'repo_id' is no repository"),
    ("models", "repo_id", "owner/a\x1b[31m", r"'repo_id' is no repository"),
    ("models", "repo_id", "owner/" + "x" * 200, r"'repo_id' is no repository"),
    ("models", "repo_id", "owner/name\n", r"'repo_id' is no repository"),
    ("models", "repo_id", "", r"'repo_id' is no repository"),
    ("models", "sha", "main", r"'sha' is no commit"),
    ("models", "tags", ["x"] * 3_000, r"'tags' has more than 2,000 entries"),
    ("models", "tags", ["x" * 1_000_000], r"'tags\[\]' has more than 4,096 characters"),
    ("models", "id2label", ["x" * 5_000_000], r"'id2label\[\]' has more than 1,000 characters"),
    ("models", "id2label", ["x"] * 200_001, r"'id2label' has more than 200,000 entries"),
    ("models", "num_labels", -1, r"'num_labels' is not from 0"),
    ("models", "image_size", -1, r"'image_size' is not from 0"),
    ("models", "weights_bytes", -1, r"'weights_bytes' is not a finite number from 0"),
    ("models", "eligibility", "fine", r"'eligibility' is no verdict"),
    ("models", "eligibility", None, r"'eligibility' is null"),
    ("models", "label_quality", "superb", r"'label_quality' is no label quality"),
    ("models", "problem_type", "x", r"'problem_type' is no kind"),
    ("models", "crawled_at", None, r"'crawled_at' is null"),
    ("models", "card_summary", "x" * 10_000, r"'card_summary' has more than"),
    ("models", "files", [{"path": "x" * 5_000}], r"'files\[\].path' has more than"),
    ("models", "files", [None], r"'files\[\]' is null"),
    ("models", "safetensors", {"parameters": [{"key": None, "value": 1}]}, r"'safetensors.parameters\[\].key' is null"),
    # attempts
    ("attempts", "repo_id", "owner2/model-002x", r"its repository is not in the table models"),
    ("attempts", "outcome", "failed", r"'ok' is not the status of an attempt that ended failed"),
    ("attempts", "outcome", "great", r"'outcome' is no outcome"),
    ("attempts", "status", "eligible", r"'status' is no status"),
    ("attempts", "num_logits", 10**9, r"'num_logits' is not from"),
    ("attempts", "num_logits", -1, r"'num_logits' is not from"),
    ("attempts", "num_logits", 3, r"has fewer outputs"),
    ("attempts", "attempt", 0, r"'attempt' is not"),
    ("attempts", "seconds_load", NAN, r"'seconds_load' is not"),
    ("attempts", "seconds_load", -1.0, r"'seconds_load' is not"),
    ("attempts", "parameters", -1, r"'parameters' is not"),
    ("attempts", "reason", "x" * 10_000, r"'reason' has more than"),
    ("attempts", "versions", [{"key": "x" * 9_000, "value": ""}], r"'versions\[\].key' has more than"),
    ("attempts", "versions", [{"key": None, "value": ""}], r"'versions\[\].key' is null"),
    ("attempts", "probe_set", "../x", r"'probe_set' is no hash"),
    # probes
    ("probes", "probe_id", 7, r"is probe 7, where 2 belongs"),
    ("probes", "probe_id", -1, r"'probe_id' is not"),
    ("probes", "image_hash", "0" * 64, r"its image is another than"),
    ("probes", "image_hash", "0" * 63, r"'image_hash' is no sha256"),
    ("probes", "width", 3, r"its image is another than"),
    ("probes", "height", 10**6, r"'height' is not from"),
    ("probes", "caption", "x" * 10_000, r"'caption' has more than"),
    ("probes", "image", None, r"has no image"),
    ("probes", "image", {"bytes": None}, r"has no image"),
    ("probes", "image", {"bytes": b""}, r"its image cannot be used"),
    ("probes", "image", {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, r"its image cannot be used"),
    ("probes", "image", {"bytes": probe_png(np.ones(20))}, r"its image is another than"),
]


@pytest.mark.parametrize(("table", "column", "value", "match"), VALUES)
def test_one_value_is_refused_by_file_and_row(genuine, forged, tmp_path, table, column, value, match):
    put(forged, table, column, value)
    at = "descriptors" if column == "num_logits" and value == 3 else table
    row = r"row \d+: " if at != table or match.startswith("'position' 0") else "row 2: "
    refused(forged, tmp_path / "copy", genuine[0].encoder, rf"{at}/train-00000-of-00001.parquet, {row}.*{match}")


def test_descriptors_of_a_model_that_failed(genuine, forged, tmp_path):
    put(forged, "attempts", "status", "timeout")
    put(forged, "attempts", "outcome", "failed")
    refused(
        forged, tmp_path / "copy", genuine[0].encoder, r"descriptors/.*, row \d+: logit \d+: the model was not probed"
    )


def test_a_release_raises_no_cap(genuine, forged, tmp_path):
    def edit(content):
        content["config"]["crawl"] |= {"max_parameters": 10**15, "max_image_size": 10**6, "max_labels": 10}
        content["config"]["probe"] |= {"seconds_per_model": 10.0**9}

    change_manifest(forged, edit)
    import_release(str(forged), tmp_path / "copy", encoder="none", progress=False)
    config = Workspace.open(tmp_path / "copy").config
    own = Config()
    assert (config.crawl.max_parameters, config.crawl.max_image_size) == (2 * 10**9, own.crawl.max_image_size)
    assert (config.crawl.max_labels, config.probe.seconds_per_model) == (10, own.probe.seconds_per_model)


@pytest.mark.parametrize(("table", "column"), [("descriptors", "label"), ("models", "repo_id"), ("attempts", "reason")])
def test_text_that_is_no_text(genuine, forged, tmp_path, table, column):
    put_bytes(forged, table, column, b"\xff\xfe\x80")
    refused(forged, tmp_path / "copy", genuine[0].encoder, rf"{table}/.*, row 2: '{column}' is not UTF-8 text")


@pytest.mark.parametrize("factor", [1_000, -1_000, 1.05, 0.9, 0])
def test_vectors_that_are_no_z_scores(genuine, forged, tmp_path, factor):
    scale(forged, factor)
    refused(forged, tmp_path / "copy", genuine[0].encoder, r"descriptors/.*, row 2: 'vector' ")


@pytest.mark.parametrize("factor", [1_000, 0])
def test_partly_probed_vectors_that_are_no_z_scores(genuine, forged, tmp_path, factor):
    scale(forged, factor, observed_bits=b"\xff" * 4 + bytes(4), variance=0.5)
    refused(forged, tmp_path / "copy", genuine[0].encoder, r"descriptors/.*, row 2: 'vector' has a mean square")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([99.0] * (N - 1), "is not one number for each probe that was run"),
        ([-99.0] * N, "is below an output that it sums over"),
        ([NAN] * N, r"\[\]' is not a finite"),
        ([None] * N, r"\[\]' is null"),
    ],
)
def test_log_sum_exp_that_no_outputs_have(genuine, forged, tmp_path, values, says):
    put(forged, "descriptors", "logsumexp", [99.0] * N, row=0)
    import_release(str(forged), tmp_path / "taken", encoder="none", progress=False)
    put(forged, "descriptors", "logsumexp", values, row=0)
    refused(forged, tmp_path / "copy", genuine[0].encoder, rf"row 0: 'logsumexp.*{says}")


def test_a_genuine_release_leaves_nothing_to_do(genuine, tmp_path):
    import_release(str(genuine[1]), tmp_path / "copy", encoder="none", progress=False)
    report = status(Workspace.open(tmp_path / "copy"))
    assert (report.attempted, report.ok, report.waiting) == (4, 4, 0)


def test_partly_probed_vectors_are_taken(genuine, forged, tmp_path):
    scale(forged, 0.9, observed_bits=b"\xff" * 4 + bytes(4), variance=0.5, deviation=[0.5] * N)
    import_release(str(forged), tmp_path / "copy", encoder="none", progress=False)


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        ("models", "downloads", pa.string()),
        ("models", "tags", pa.string()),
        ("models", "created_at", pa.int64()),
        ("attempts", "versions", pa.string()),
        ("probes", "probe_id", pa.float64()),
        ("descriptors", "vector", pa.list_(pa.float32(), N)),
        ("descriptors", "vector", pa.list_(pa.float16(), N + 1)),
        ("descriptors", "vector", pa.list_(pa.float16())),
        ("descriptors", "logit", pa.int64()),
        ("descriptors", "position", pa.timestamp("us")),
        ("descriptors", "label", pa.list_(pa.string())),
        ("descriptors", "repo_id", pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_columns_of_another_type(genuine, forged, tmp_path, table, column, kind):
    retype(forged, table, column, kind)
    refused(forged, tmp_path / "copy", genuine[0].encoder, rf"{table}/train-.*: has '{column}' as ")


def _append(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows.slice(rows.num_rows - 1)])


def _two_columns(rows: pa.Table) -> pa.Table:
    return rows.append_column(rows.schema.field("logit"), rows["logit"])


def _with_probe(rows: pa.Table, row: int, other: int) -> pa.Table:
    values = rows.to_pylist()
    values[row] = {**values[other], "probe_id": row}
    return pa.Table.from_pylist(values, schema=rows.schema)


TABLES = [
    ("descriptors", lambda rows: rows.drop_columns(["vector"]), "lacks the column 'vector'"),
    ("descriptors", lambda rows: rows.replace_schema_metadata({}), r"has schema version \?"),
    ("descriptors", lambda rows: rows.replace_schema_metadata({"hubprobe.schema_version": "9"}), "schema version 9"),
    ("descriptors", _two_columns, "has the column 'logit' twice"),
    ("descriptors", _append, "stands twice"),
    ("descriptors", lambda rows: rows.take(pa.array(range(rows.num_rows))[::-1]), "rows out of order"),
    ("models", _append, "the same key twice"),
    ("models", lambda rows: rows.slice(1), "is not in the table models"),
    ("attempts", _append, "the same key twice"),
    ("attempts", lambda rows: rows.slice(1), "the model was not probed"),
    ("probes", lambda rows: rows.slice(0, N - 1), r"counts 64 probes and 63 rows"),
    ("probes", lambda rows: _with_probe(rows, 9, 3), "row 9: is the same image as an earlier probe"),
    ("probes", lambda rows: rows.take(pa.array(range(N))[::-1]), "is probe 63, where 0 belongs"),
]


@pytest.mark.parametrize(("table", "edit", "match"), TABLES)
def test_tables_that_do_not_hold_together(genuine, forged, tmp_path, table, edit, match):
    change_table(forged, table, edit)
    refused(forged, tmp_path / "copy", genuine[0].encoder, match)


def test_three_hundred_thousand_equal_rows(genuine, forged, tmp_path):
    change_table(forged, "descriptors", lambda rows: rows.take(pa.array([0] * 300_000)), row_group_size=1_000)
    refused(forged, tmp_path / "copy", genuine[0].encoder, "descriptors/.*, row 1: 'position' 10 stands twice")


def test_the_probe_set_is_the_hash_of_its_probes(genuine, forged, tmp_path):
    change_manifest(forged, lambda content: content.update(probe_set="0123456789abcdef"))
    refused(forged, tmp_path / "copy", "none", "'probe_set' is not the hash of the probes")


# ── files that unpack to more than they are ──────────────────────────────────────────────────────────────────────────


def allocated():
    return pa.default_memory_pool().max_memory()


BOMBS = {
    "one value a billion times": (
        "models", "downloads", lambda: pa.array(np.zeros(40_000_000, np.int64)), {"row_group_size": 10**8},
    ),
    "nulls that take no byte": (
        "models", "likes", lambda: pa.nulls(60_000_000, pa.int64()), {"row_group_size": 10**8},
    ),
    "a long text in every row": (
        "models", "license", lambda: pa.array(["x" * 4_000]).take(pa.array(np.zeros(100_000, np.int32))),
        {"use_dictionary": True, "row_group_size": 10**6},
    ),
    "a text of gigabytes": (
        "models", "author", lambda: pa.array(["x" * 300_000_000]), {},
    ),
    "a long text in every list": (
        "models", "tags", lambda: pa.array([["x" * 100_000]]).take(pa.array([0] * 1_000)), {"use_dictionary": True},
    ),
    "a long image in every row": (
        "probes", "image", lambda: pa.array([{"bytes": b"x" * 100_000, "path": None}]).take(pa.array([0] * 1_000)),
        {"use_dictionary": True},
    ),
    "prefixes of prefixes": (
        "models", "reason", lambda: pa.array(["x" * 3_000]).take(pa.array([0] * 10_000)),
        {"column_encoding": {"reason": "DELTA_BYTE_ARRAY"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_not_unpacked(genuine, forged, tmp_path, name):
    table, column, values, writing = BOMBS[name]

    def edit(rows: pa.Table) -> pa.Table:
        array = values()
        rows = rows.take(pa.array(np.zeros(len(array), np.int32))) if len(array) < 10**6 else None
        if rows is None:  # only the column that matters, and those that may not be absent
            short = pq.read_table(file_of(forged, table))
            empty = {pa.string(): pa.scalar(""), short.schema.field("crawled_at").type: short["crawled_at"][0]}
            kept = {f.name: pa.repeat(empty[f.type], len(array)) for f in short.schema if not f.nullable}
            schema = pa.schema([f for f in short.schema if f.name in kept or f.name == column], short.schema.metadata)
            return pa.table([kept.get(f.name, array) for f in schema], schema=schema)
        field = rows.schema.field(column)
        return rows.set_column(rows.column_names.index(column), field, array.cast(field.type))

    change_table(forged, table, edit, **writing)
    if table == "probes":
        count = pq.read_metadata(file_of(forged, "probes")).num_rows
        change_manifest(forged, lambda content: content.update(n_probes=count))
    assert file_of(forged, table).stat().st_size < 2_000_000
    pa.default_memory_pool().release_unused()
    before = allocated()
    refused(forged, tmp_path / "copy", genuine[0].encoder, f"{table}/.*(unpacks to|bytes of text|encoding|twice)")
    assert allocated() - before < 1024**3


def test_a_page_that_lies_about_its_size(genuine, forged, tmp_path):
    """The footer may state small sizes; the header of a page is what a decoder believes."""
    values = [np.random.default_rng(i).bytes(3_000_000) for i in range(3)]

    def edit(rows: pa.Table) -> pa.Table:
        images = pa.array([{"bytes": value, "path": None} for value in values], rows.schema.field("image").type)
        return rows.slice(0, 3).set_column(1, rows.schema.field("image"), images)

    change_table(forged, "probes", edit, write_batch_size=1, data_page_size=1_000)
    path = file_of(forged, "probes")
    data = bytearray(path.read_bytes())
    stated = bytes([0x15, 0x00, 0x15])  # a data page; then its size, a number of four bytes
    at, patched = data.find(stated), 0
    while at >= 0:
        if all(data[at + 3 + i] & 0x80 for i in range(3)) and not data[at + 6] & 0x80:
            data[at + 3 : at + 7] = bytes([0xFE, 0xFF, 0xFF, 0x7F])  # 134,217,727
            patched += 1
        at = data.find(stated, at + 1)
    assert patched >= 3
    path.write_bytes(data)
    seal(forged)
    change_manifest(forged, lambda content: content.update(n_probes=3))
    refused(
        forged, tmp_path / "copy", "none", f"probes/.*, row 0: a row group unpacks to more than {MAX_GROUP:,} bytes"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"PARE" + data[4:-4] + b"PARE",
        lambda data: data[:-8] + (2**31).to_bytes(4, "little") + b"PAR1",
        lambda data: data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :],
        lambda data: b"PAR1" + bytes(40_000_000) + (20_000_000).to_bytes(4, "little") + b"PAR1",
        lambda data: b"x" * 1_000,
    ],
)
def test_files_that_are_no_tables(genuine, forged, tmp_path, damage):
    path = file_of(forged, "descriptors")
    rows = pq.read_metadata(path).num_rows
    path.write_bytes(damage(path.read_bytes()))
    size, digest = path.stat().st_size, sha256_of(path)
    name = path.relative_to(forged).as_posix()
    seal_bytes(forged, name, {"bytes": size, "sha256": digest})
    assert rows
    refused(forged, tmp_path / "copy", genuine[0].encoder, "descriptors/train-00000-of-00001.parquet")


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _with(rows, row, value):
    changed = rows.copy()
    changed[row] = value
    return {"probes": changed}


EMBEDDINGS = [
    (lambda rows: _with(rows, 5, np.nan), "row 5: is not of unit length"),
    (lambda rows: _with(rows, 5, np.inf), "row 5: is not of unit length"),
    (lambda rows: _with(rows, 5, 0), "row 5: is not of unit length"),
    (lambda rows: _with(rows, 5, rows[5] * 1_000), "row 5: is not of unit length"),
    (lambda rows: {"probes": rows.astype(np.float16)}, "does not hold 64 rows of 20"),
    (lambda rows: {"probes": rows.astype(np.float64)}, "does not hold 64 rows of 20"),
    (lambda rows: {"probes": rows[:-1]}, "does not hold 64 rows of 20"),
    (lambda rows: {"probes": rows.T.copy()}, "does not hold 64 rows of 20"),
    (lambda rows: {"probes": rows.reshape(-1)}, "does not hold 64 rows of 20"),
    (lambda rows: {"probes": rows.view(np.int32)}, "does not hold 64 rows of 20"),
    (lambda rows: {"other": rows}, "cannot be read|does not hold"),
    (lambda rows: {"probes": rows, "more": rows}, "does not hold"),
]


@pytest.mark.parametrize(("edit", "match"), EMBEDDINGS)
def test_embeddings_that_are_none(genuine, forged, tmp_path, edit, match):
    path = file_of(forged, "encoders")
    save_file(edit(load_file(path)["probes"]), path)
    seal(forged)
    refused(forged, tmp_path / "copy", genuine[0].encoder, rf"encoders/.*{match}")


@pytest.mark.parametrize(
    "data", [b"", b"\x08", b"\xff" * 8, b"\x02" + bytes(7) + b"{}", b"\x80" + bytes(7) + b"{" * 128]
)
def test_embeddings_that_are_no_safetensors(genuine, forged, tmp_path, data):
    file_of(forged, "encoders").write_bytes(data)
    seal(forged)
    refused(forged, tmp_path / "copy", genuine[0].encoder, "encoders/")


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────────

MANIFESTS = [
    (lambda c: c.update(rows={**c["rows"], "descriptors": 41}), "do not add up to 41"),
    (lambda c: c["rows"].update(models=-1), r"'rows.models'"),
    (lambda c: c["rows"].update(models=True), r"'rows.models'"),
    (lambda c: c["rows"].update(models=4.0), r"'rows.models'"),
    (lambda c: c["rows"].update(models=10**30), r"'rows.models'"),
    (lambda c: c["rows"].update(models="4"), r"'rows.models'"),
    (lambda c: c.update(rows=[]), r"'rows'"),
    (lambda c: c.update(rows=None), r"'rows'"),
    (lambda c: c.pop("rows"), r"'rows'"),
    (lambda c: c.pop("tables"), r"'tables'"),
    (lambda c: c.update(tables={}), "has no table models"),
    (lambda c: c["tables"]["models"].append(c["tables"]["models"][0]), "the files of models are not the 2"),
    (lambda c: c["tables"]["models"][0].update(path="../../x"), "the files of models are not the 1"),
    (lambda c: c.update(n_probes=-64), r"'n_probes'"),
    (lambda c: c.update(n_probes=10**9), r"'n_probes'"),
    (lambda c: c.update(n_probes=65), "counts 65 probes and 64 rows"),
    (lambda c: c.update(probe_images="yes"), r"'probe_images'"),
    (lambda c: c.update(release_id="0" * 16), "'release_id' is not that of its files"),
    (lambda c: c.update(release_id="\x1b[31mred"), r"'release_id'"),
    (lambda c: c.update(probe_set="A" * 16), r"'probe_set'"),
    (lambda c: c.update(encoder=[]), r"'encoder'"),
    (lambda c: c["encoder"].update(commit="main"), r"'encoder.commit'"),
    (lambda c: c["encoder"].update(dim=10**9), r"'encoder.dim'"),
    (lambda c: c["encoder"].update(dim=21), "does not hold"),
    (lambda c: c["encoder"].update(file="../../../etc/passwd"), r"'encoder.file'"),
    (lambda c: c["encoder"].update(file="0" * 16 + ".safetensors"), "the file of encoder"),
    (lambda c: c["encoder"].update(name="x" * 5_000_000), r"'encoder.name'"),
    (lambda c: c.update(config=[]), r"'config'"),
    (lambda c: c.update(config={"probe": {"batch_size": -5}}), r"its settings cannot be used \(\[probe\] batch_size"),
    (lambda c: c.update(config={"probe": {"seconds_per_model": 0.0}}), r"\(\[probe\] seconds_per_model"),
    (lambda c: c.update(config={"crawl": {"max_labels": 10**30}}), r"\(\[crawl\] max_labels"),
    (lambda c: c["files"].update({"Models/train-00000-of-00001.parquet": c["files"]["README.md"]}), "no release holds"),
    (lambda c: c["files"].update({"models\\x.parquet": c["files"]["README.md"]}), "no release holds"),
    (
        lambda c: c["files"].update({"models/train-00000-of-00001.parquet\n": c["files"]["README.md"]}),
        "no release holds",
    ),
    (lambda c: c["files"].update({"models/train-00001-of-00002.parquet": c["files"]["README.md"]}), "are not the 1"),
    (lambda c: c["files"].update({"README.md": {"bytes": -1, "sha256": "0" * 64}}), r"'files.README.md.bytes'"),
    (lambda c: c["files"].update({"README.md": {"bytes": 1, "sha256": "0" * 63}}), r"'files.README.md.sha256'"),
    (lambda c: c["files"].update({"README.md": None}), r"'files.README.md'"),
    (lambda c: c["files"].pop("models/train-00000-of-00001.parquet"), "the files of models"),
    (lambda c: c.update(versions="1", format=3), "of an unknown"),
]


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_manifests_that_contradict_themselves(genuine, forged, tmp_path, number):
    edit, match = MANIFESTS[number]
    change_manifest(forged, edit)
    refused(forged, tmp_path / "copy", genuine[0].encoder, match)


TEXTS = {
    "nothing": "",
    "no JSON": "x",
    "a list": "[]",
    "a number of many digits": '{"format": ' + "9" * 5_000 + "}",
    "NaN": '{"format": NaN}',
    "Infinity": '{"format": -Infinity}',
    "a name twice": '{"format": 1, "format": 2}',
    "a lone surrogate": '{"format": "\\ud800"}',
    "deep": '{"format":' + "[" * 200_000 + "]" * 200_000 + "}",
    "huge": '{"format": "' + "x" * 17 * 1024**2 + '"}',
    "a byte order mark": "\ufeff{}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_manifests_that_are_none(forged, tmp_path, name):
    (forged / "manifest.json").write_text(TEXTS[name], encoding="utf-8")
    refused(forged, tmp_path / "copy", "none", "manifest")


def test_a_manifest_that_is_not_utf8(forged, tmp_path):
    (forged / "manifest.json").write_bytes(b'{"format": "\xff"}')
    refused(forged, tmp_path / "copy", "none", "no valid JSON")


def _link(path, to):
    path.unlink()
    path.symlink_to(to)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")
@pytest.mark.parametrize(
    "what", ["fifo manifest", "fifo table", "linked manifest", "linked table", "linked folder", "endless"]
)
def test_files_that_are_none(genuine, forged, tmp_path, what):
    table = file_of(forged, "models")
    if what.startswith("fifo"):
        path = table if what == "fifo table" else forged / "manifest.json"
        path.unlink()
        os.mkfifo(path)
    elif what == "endless":
        _link(table, "/dev/zero")
    elif what == "linked folder":
        (forged / "models").rename(tmp_path / "elsewhere")
        (forged / "models").symlink_to(tmp_path / "elsewhere")
    else:
        path = table if what == "linked table" else forged / "manifest.json"
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    refused(forged, tmp_path / "copy", genuine[0].encoder, "is a link|lacks models|holds no release")


def test_a_refused_release_leaves_other_files_alone(genuine, forged, tmp_path):
    put(forged, "attempts", "attempt", 0)
    target = tmp_path / "copy"
    (target / "cache" / "mine").mkdir(parents=True)
    (target / "cache" / "mine" / "model").write_text("fetched before")
    with pytest.raises(WorkspaceError, match="'attempt'"):
        import_release(str(forged), target, encoder=genuine[0].encoder, progress=False)
    assert [p.name for p in target.rglob("*") if p.is_file()] == ["model"]


def test_embeddings_that_are_no_file_are_not_released(genuine, tmp_path):
    copy = shutil.copytree(genuine[0].workspace.root, tmp_path / "w")
    for path in (copy / "index" / "encoders").glob("*.safetensors"):
        path.unlink()
        path.symlink_to(path)
    with pytest.raises(WorkspaceError, match="where a regular file should be"):
        release(Workspace.open(copy), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
