from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probing import responses
from workspace import ModelError, Status, records


def _raw(probes: int = 40, logits: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 5, (probes, logits)).astype(np.float32)


def _table(raw: np.ndarray, labels: list[str] | None = None) -> list[dict]:
    table = responses.table("a/b", "c" * 40, raw, np.arange(len(raw)), labels)
    assert table.schema.equals(records.RESPONSES)
    table.validate(full=True)
    return table.to_pylist()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (12, 3), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
def test_raw_outputs_and_softmax_can_be_rebuilt(raw: np.ndarray) -> None:
    try:
        rows = _table(raw)
    except ModelError as error:
        assert error.status is Status.CONSTANT_OUTPUT  # noqa: PT017
        return
    for i, row in enumerate(rows):
        if row["excluded"] is None:
            z = np.asarray(row["response"], np.float64)
            assert abs(z.mean()) < 0.01
            assert abs(z.std() - 1) < 0.01
            np.testing.assert_allclose(z * row["std"] + row["mean"], raw[:, i], atol=4e-3 * row["std"] + 1e-6)
        else:
            assert row["response"] is None
    wide = raw.astype(np.float64)
    top = wide.max(1)
    wanted = top + np.log(np.exp(wide - top[:, None]).sum(1))
    np.testing.assert_allclose(rows[0]["logsumexp"], wanted, rtol=1e-6, atol=1e-6)


def test_constant_and_nonfinite_logits_are_excluded_and_the_rest_kept() -> None:
    raw = _raw()
    raw[:, 1] = 2.5
    raw[:, 2] = np.float32(1000) + np.tile([0, 6e-5], 20)  # one unit in the last place: a sum's order, not an answer
    raw[3, 4] = np.nan
    raw[:, 5] = -np.inf
    rows = _table(raw, ["", "b", "c", "d", "e", "f"])
    assert [r["excluded"] for r in rows] == [None, "constant", "constant", None, "nonfinite", "nonfinite"]
    assert rows[1]["mean"] == 2.5
    assert rows[4]["mean"] is None
    assert [r["label"] for r in rows] == [None, "b", "c", "d", "e", "f"]
    assert np.isfinite(rows[0]["logsumexp"]).all(), "a masked logit does not spoil the softmax of the others"


def test_nothing_to_search_is_an_end() -> None:
    with pytest.raises(ModelError) as error:
        _table(np.ones((9, 3), np.float32))
    assert error.value.status is Status.CONSTANT_OUTPUT
    with pytest.raises(ModelError) as error:
        _table(np.full((9, 3), np.nan, np.float32))
    assert error.value.status is Status.NONFINITE_OUTPUT


def test_a_small_scale_is_not_constant() -> None:
    assert _table(_raw() * np.float32(1e-20))[0]["excluded"] is None


def test_files_are_equal_for_equal_outputs_and_read_back(tmp_path: Path) -> None:
    raw = _raw()
    for name in "ab":
        table = responses.table("a/b", "c" * 40, raw, np.arange(len(raw)), None)
        responses.write(tmp_path / f"{name}.parquet", table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_schema(tmp_path / "a.parquet").equals(records.RESPONSES)
    earlier = responses.read_earlier(tmp_path / "a.parquet")
    assert earlier is not None
    np.testing.assert_allclose(earlier.raw, raw, atol=0.03)
    merged, ids = earlier.merged(raw[:2], np.array([-2, -1], np.int32))
    assert ids.tolist() == [-2, -1, *range(40)]
    assert np.array_equal(merged[:2], raw[:2])
    with pytest.raises(ModelError, match="outputs now"):
        earlier.merged(raw[:2, :3], np.array([-2, -1], np.int32))


def test_what_cannot_be_read_is_run_again(tmp_path: Path) -> None:
    assert responses.read_earlier(tmp_path / "missing.parquet") is None
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    assert responses.read_earlier(tmp_path / "torn.parquet") is None


def test_a_wide_and_long_model_is_made_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _raw(700, 7)  # log-sum-exp in parts of 256 probes
    raw[:, 3], raw[5, 5] = 1.0, np.inf
    whole = _table(raw)
    monkeypatch.setattr(responses, "_CHUNK", 2)
    assert _table(raw) == whole
    finite = np.where(np.isfinite(raw), raw, -np.inf).astype(np.float64)
    np.testing.assert_allclose(whole[0]["logsumexp"], np.log(np.exp(finite).sum(1)), rtol=1e-5)
    for i, row in enumerate(whole):
        if i == 5:
            assert (row["excluded"], row["mean"], row["std"], row["response"]) == ("nonfinite", None, None, None)
            continue
        column = raw[:, i].astype(np.float64)
        assert row["mean"] == pytest.approx(column.mean(), rel=1e-6)
        assert row["std"] == pytest.approx(column.std(), rel=1e-6)
        assert row["excluded"] == ("constant" if i == 3 else None)
        if i != 3:
            np.testing.assert_allclose(row["response"], (column - column.mean()) / column.std(), atol=2e-3)
    assert [row["probe_ids"] is None for row in whole] == [False] + [True] * 6
    assert [row["logsumexp"] is None for row in whole] == [False] + [True] * 6


@pytest.mark.parametrize(("spread", "constant"), [(2.0**-19, False), (2.0**-21, True)])
def test_an_output_is_constant_by_its_deviation_beside_its_largest_magnitude(spread: float, constant: bool) -> None:
    raw = _raw(40, 2).astype(np.float64)
    raw[:, 1] = -8.0 * (1.0 - spread * np.tile([0.0, 2.0], 20))  # a deviation of that share
    rows = _table(raw.astype(np.float32))
    assert (rows[1]["excluded"] == "constant") is constant


def test_what_an_earlier_attempt_left_is_rebuilt(tmp_path: Path) -> None:
    raw = _raw(40, 4)
    raw[:, 1], raw[:, 2] = 2.5, np.nan
    ids = np.arange(0, 80, 2, dtype=np.int32)
    responses.write(tmp_path / "a.parquet", responses.table("a/b", "c" * 40, raw, ids, None, ids[:7]))
    earlier = responses.read_earlier(tmp_path / "a.parquet")
    assert earlier is not None
    assert (earlier.probe_ids.tolist(), earlier.random_ids.tolist()) == (ids.tolist(), ids[:7].tolist())  # type: ignore[union-attr]
    assert np.isnan(earlier.raw[:, 2]).all()
    assert (earlier.raw[:, 1] == 2.5).all()
    for i in (0, 3):
        away = np.abs(earlier.raw[:, i] - raw[:, i])
        assert (away <= 2.0**-11 * np.abs(raw[:, i] - raw[:, i].mean()) + 1e-3 * raw[:, i].std()).all()
    more, every = earlier.merged(raw[:3] + 1, np.array([1, 79, 3], np.int32))
    assert every.tolist() == sorted([*ids.tolist(), 1, 3, 79])
    for place, row in ((1, 0), (3, 2), (42, 1)):
        np.testing.assert_array_equal(more[place], raw[row] + 1)


def test_row_groups_are_of_about_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = responses.table("a/b", "c" * 40, _raw(40, 30), np.arange(40), None)
    for size, groups in ((10, 30), (1_000, 3), (10**6, 1)):  # a row's vector takes 80 bytes and its offset
        monkeypatch.setattr(responses, "ROW_GROUP_BYTES", size)
        path = tmp_path / f"{size}.parquet"
        assert responses.write(path, table) == path.stat().st_size
        found = pq.ParquetFile(path).metadata.num_row_groups
        assert found == groups
        assert pq.read_table(path).equals(table)


def test_files_are_grouped_to_about_the_size_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "SHARD_BYTES", 10)
    files = []
    for i, size in enumerate((4, 5, 1, 10, 11, 9, 0, 3)):
        files.append(tmp_path / str(i))
        files[-1].write_bytes(b"x" * size)
    assert [[int(f.name) for f in group] for group in responses._shards(files)] == [[0, 1, 2], [3], [4], [5, 6, 7]]
    assert [[int(f.name) for f in group] for group in responses._shards(files[:2])] == [[0, 1]]
    assert list(responses._shards([])) == []
