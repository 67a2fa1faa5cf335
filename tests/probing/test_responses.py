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
