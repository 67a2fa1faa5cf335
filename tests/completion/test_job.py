import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import completion
from completion import responses as galleries
from completion.complete import Describer
from completion.factors import load
from hubprobe.cli.app import cli
from tests.completion.conftest import PROBE_SET, N, commit, new_workspace, rows_of, subset, truth
from workspace import ConfigError, WorkspaceError, records
from workspace.files import read_table, table_files, write_table


def descriptors(workspace):
    return read_table(workspace.descriptors_dir(PROBE_SET), records.descriptors(N)).sort_by(
        [("repo_id", "ascending"), ("logit", "ascending")]
    )


def vectors(table):
    return np.stack([np.asarray(v.values, np.float32) for v in table["vector"]])


def run(workspace, **options):
    return completion.complete(workspace, completion.Settings(device="cpu", **options), progress=False)


def test_partial_models_are_completed_and_full_ones_pass_bit_equal(gallery):
    workspace, responses = gallery
    summary = run(workspace)
    assert (summary.models, summary.partial, summary.completed, summary.refused) == (20, 16, 16, 0)
    assert summary.logits == 160
    assert summary.rank > 0
    table = descriptors(workspace)
    found = vectors(table)
    for i in range(4):
        ran = rows_of(i, responses[i], np.arange(N))["response"]
        assert [np.asarray(v.values).tobytes() for v in ran] == [
            np.asarray(v.values).tobytes() for v in table["vector"].slice(8 * i, 8)
        ]
    error = power = 0.0
    for i in range(4, 20):
        ids = subset(i, 1 / 3)
        part = responses[i][:, ids]
        scaled = (responses[i] - part.mean(1, keepdims=True)) / part.std(1, keepdims=True)
        rows = found[8 * i : 8 * i + 8]
        assert np.array_equal(rows[:, ids], scaled[:, ids].astype(np.float16).astype(np.float32))
        gone = np.setdiff1d(np.arange(N), ids)
        error += ((scaled - rows)[:, gone] ** 2).sum()
        power += (scaled[:, gone] ** 2).sum()
        bits = np.unpackbits(np.frombuffer(table["observed"][8 * i].as_py(), np.uint8), count=N)
        assert np.array_equal(np.flatnonzero(bits), ids)
        deviation = np.asarray(table["deviation"][8 * i].values, np.float32)
        assert (deviation[ids] == 0).all()
        assert (deviation[gone] > 0.2).all()
        assert table["deviation"][8 * i + 1].as_py() is None
        assert table["variance"][8 * i].as_py() == pytest.approx((deviation[gone] ** 2).mean(), rel=0.01)
    assert 1 - error / power > 0.1  # 160 logits of 20 models are few
    assert table["deviation"][0].as_py() is None


def test_nothing_is_fitted_to_spare_where_no_model_is_partial(tmp_path):
    workspace, responses = new_workspace(tmp_path / "w"), truth(models=6)
    for i in range(5):
        commit(workspace, i, rows_of(i, responses[i], np.arange(N)))
    settings, factors = completion.Settings(device="cpu"), workspace.factors_path(PROBE_SET)
    spared = completion.complete(workspace, settings, spare=True, progress=False)
    assert (spared.models, spared.logits, spared.refused, spared.rank) == (5, 40, 0, 0)
    assert not factors.exists()
    plain = vectors(descriptors(workspace))
    assert run(workspace).unchanged == 5  # the same descriptors, and factors for 'probe --adaptive'
    assert factors.exists()
    commit(workspace, 5, rows_of(5, responses[5], subset(5, 1 / 3)))
    factors.unlink()
    partial = completion.complete(workspace, settings, spare=True, progress=False)
    assert (partial.completed, factors.exists()) == (1, True)
    assert np.array_equal(vectors(descriptors(workspace))[:40], plain)


def test_a_manifest_says_how_well_it_went(gallery):
    workspace, _ = gallery
    summary = run(workspace)
    said = json.loads((workspace.runs_dir / f"{summary.run_id}.json").read_text())
    assert said["fit"]["r2"] == summary.r2 == pytest.approx(0.2, abs=0.15)
    assert said["fit"]["r2_per_iteration"]
    assert len(said["fit"]["r2_by_model_quantiles"]) == 7
    assert said["settings"]["method"] == "em"


def test_a_second_run_writes_nothing_and_another_setting_only_partial_models(gallery):
    workspace, _ = gallery
    run(workspace)
    folder = workspace.descriptors_dir(PROBE_SET)
    before = {p.name: p.stat().st_mtime_ns for p in table_files(folder)}
    factors = workspace.factors_path(PROBE_SET).read_bytes()
    assert run(workspace).unchanged == 20
    assert before == {p.name: p.stat().st_mtime_ns for p in table_files(folder)}
    assert workspace.factors_path(PROBE_SET).read_bytes() == factors
    assert run(workspace, method="mean").unchanged == 4  # the fully probed
    assert workspace.factors_path(PROBE_SET).read_bytes() != factors


def test_a_few_new_models_are_completed_by_the_old_factors_and_many_start_warm(gallery):
    workspace, _ = gallery
    run(workspace)
    factors = workspace.factors_path(PROBE_SET).read_bytes()
    more = truth(models=32, seed=0)
    commit(workspace, 20, rows_of(20, more[20], subset(20, 0.3)))
    summary = run(workspace)
    assert (summary.completed, summary.unchanged) == (17, 20)
    assert workspace.factors_path(PROBE_SET).read_bytes() == factors
    for i in range(21, 32):
        commit(workspace, i, rows_of(i, more[i], subset(i, 0.3)))
    summary = run(workspace)
    assert (summary.completed, summary.unchanged) == (28, 4)
    said = json.loads((workspace.runs_dir / f"{summary.run_id}.json").read_text())
    assert any("earlier factors" in line for line in said["fit"]["choices"])


def test_chosen_probes_do_not_bias_mean_and_deviation(gallery):
    workspace, responses = gallery
    values = responses[19]
    random = subset(19, 0.2)
    strong = np.argsort(-values.max(0), kind="stable")[:60]
    ids = np.union1d(random, strong)
    commit(workspace, 19, rows_of(19, values, ids, random.tolist()))
    run(workspace)
    table = descriptors(workspace).slice(19 * 8, 8)
    part = values[:, random]
    assert np.allclose(table["mean"].to_numpy(), part.mean(1), atol=2e-3)
    assert np.allclose(table["std"].to_numpy(), part.std(1), atol=2e-3)
    expected = (values[:, ids] - part.mean(1, keepdims=True)) / part.std(1, keepdims=True)
    assert np.allclose(vectors(table)[:, ids], expected, atol=5e-3)


def test_models_run_on_too_few_probes_are_refused_with_a_reason(gallery, caplog):
    workspace, responses = gallery
    commit(workspace, 5, rows_of(5, responses[5], np.arange(20)))
    summary = run(workspace)
    assert (summary.models, summary.completed, summary.refused) == (19, 15, 1)
    assert "o/m005 is refused: it was run on 20 of 200 probes, completing takes 32" in caplog.text
    said = json.loads((workspace.runs_dir / f"{summary.run_id}.json").read_text())
    assert [r["repo_id"] for r in said["refused"]] == ["o/m005"]
    assert "o/m005" not in descriptors(workspace)["repo_id"].to_pylist()


def test_a_gallery_too_small_to_fit_says_what_to_do(tmp_path, caplog):
    workspace = new_workspace(tmp_path / "w")
    commit(workspace, 0, rows_of(0, truth(models=1)[0], subset(0, 0.5)))
    summary = run(workspace)
    assert (summary.models, summary.refused, summary.rank) == (0, 1, 0)
    assert "probe more models" in caplog.text


def test_a_compacted_file_and_an_unsorted_one_give_the_same_blocks(gallery, tmp_path, monkeypatch):
    import pyarrow as pa

    from workspace.files import write_table

    workspace, _ = gallery
    files = table_files(workspace.responses_dir(PROBE_SET))
    table = pa.concat_tables([read_table(workspace.responses_dir(PROBE_SET), records.RESPONSES)])
    monkeypatch.setattr(galleries, "_ROWS", 5)  # no multiple of a model's 8 logits
    write_table(tmp_path / "one" / "all.parquet", table)
    write_table(tmp_path / "two" / "all.parquet", table.take(np.random.default_rng(0).permutation(len(table))))
    known = [k for f in files for k in galleries.overview(f, {m.key for m in galleries.models_in(f)})[0]]
    by_key = {b.key: b for b in galleries.Gallery(files, known)()}
    for folder in ("one", "two"):
        for cached in (0, 1 << 30):
            read = galleries.Gallery(table_files(tmp_path / folder), known, cached=cached)
            for _ in range(2):
                found = list(read())
                assert len(found) == 20
                for b in found:
                    assert torch.equal(b.observed, by_key[b.key].observed)
                    assert torch.equal(b.values, by_key[b.key].values)


def test_streaming_gives_the_factors_of_a_gallery_in_memory(gallery, monkeypatch):
    workspace, _ = gallery
    run(workspace, rank=5, iterations=2)
    held, _ = load(workspace.factors_path(PROBE_SET), PROBE_SET, N)
    monkeypatch.setattr("completion.responses.Gallery.__init__.__kwdefaults__", {"cached": 0})
    run(workspace, rank=5, iterations=2, refit=True)
    streamed, _ = load(workspace.factors_path(PROBE_SET), PROBE_SET, N)
    assert torch.equal(held.basis, streamed.basis)
    assert torch.equal(held.noise, streamed.noise)


KILLED = """
import os, signal, sys
import torch
import completion
from completion.complete import Describer
from workspace import Workspace
torch.set_num_threads(1)  # sums in another order differ in their last bits
calls = 0
real = Describer.describe
def describe(*args, **options):
    global calls
    calls += 1
    if calls > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
Describer.describe = describe
completion.complete(Workspace.open(sys.argv[1]), completion.Settings(device="cpu"), progress=False)
"""


def test_a_killed_run_goes_on_and_ends_like_an_undisturbed_one(gallery, tmp_path):
    workspace, responses = gallery
    ended = subprocess.run([sys.executable, "-c", KILLED, str(workspace.root)], check=False, timeout=600)
    assert ended.returncode == -signal.SIGKILL
    done = {path: path.read_bytes() for path in table_files(workspace.descriptors_dir(PROBE_SET))}
    assert len(done) == 7
    assert run(workspace).unchanged == 7
    assert all(path.read_bytes() == content for path, content in done.items())
    other = new_workspace(tmp_path / "other")
    for i, values in enumerate(responses):
        commit(other, i, rows_of(i, values, np.arange(N) if i < 4 else subset(i, 1 / 3)))
    run(other)
    mended, whole = descriptors(workspace), descriptors(other)
    vectors = [np.array(table.column("vector").to_pylist()) for table in (mended, whole)]
    # MKL's last bits depend on where memory happens to lie in a process: two float16 of 32,000 differed so
    np.testing.assert_allclose(*vectors, rtol=2e-3, atol=1e-5)
    assert mended.drop_columns(["vector"]).equals(whole.drop_columns(["vector"]))
    assert not list(workspace.descriptors_dir(PROBE_SET).glob(".tmp*"))


@pytest.mark.parametrize("method", ["mean", "soft-impute", "anchors"])
def test_every_baseline_completes(gallery, method):
    summary = run(gallery[0], method=method)
    assert (summary.completed, summary.refused) == (16, 0)


def test_settings_out_of_range_are_refused(gallery):
    for wrong in ({"rank": 0}, {"ridge": 0.0}, {"iterations": -1}):
        with pytest.raises(ConfigError):
            completion.Settings(**wrong)
    with pytest.raises(ConfigError, match="rank 900"):
        run(gallery[0], rank=900)


def test_a_dry_run_fits_and_writes_nothing(gallery):
    workspace, _ = gallery
    summary = completion.complete(workspace, dry_run=True, progress=False)
    assert (summary.models, summary.completed, summary.run_id) == (20, 16, "")
    assert not workspace.factors_path(PROBE_SET).exists()
    assert not workspace.descriptors_dir(PROBE_SET).exists()


def test_damaged_responses_are_named(gallery):
    workspace, _ = gallery
    path = table_files(workspace.responses_dir(PROBE_SET))[3]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WorkspaceError, match=path.name):
        run(workspace)


def test_the_command_line_takes_the_options(gallery):
    command = ["complete", "--workspace", str(gallery[0].root), "--quiet"]
    options = ["--format", "json", "--rank", "4", "--iterations", "1", "--method", "em", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*command, *options])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)[0]["rank"] == 4


@pytest.mark.parametrize("size", [1, 8, 11, 16, 1024])
def test_descriptors_are_written_in_row_groups_and_none_is_lost(tmp_path, monkeypatch, size):
    monkeypatch.setattr(sys.modules[Describer.__module__], "_ROW_GROUP", size)
    tables = [rows_of(i, values, np.arange(N)) for i, values in enumerate(truth(models=5))]
    source, target = tmp_path / "compacted-0.parquet", tmp_path / "out.parquet"
    write_table(source, pa.concat_tables(tables))
    keys = [(f"o/m{i:03d}", "0" * 40) for i in range(5)]
    counts = Describer(N, None, (), "cpu").describe(source, keys, target, "d")
    assert (counts["models"], counts["logits"]) == (5, 40)
    found = pq.read_table(target)
    assert list(zip(found["repo_id"].to_pylist(), found["logit"].to_pylist(), strict=True)) == [
        (key[0], logit) for key in keys for logit in range(8)
    ]
    assert found["vector"].to_pylist() == pa.concat_tables(tables)["response"].to_pylist()
    sizes = [
        pq.ParquetFile(target).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(target).num_row_groups)
    ]
    assert max(sizes) == min(size, 40)
