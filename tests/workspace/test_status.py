import pickle

import pytest

from workspace import Outcome, Status

ENDS = [status for status in Status if status is not Status.ELIGIBLE]


def test_eligible_is_no_end():
    with pytest.raises(ValueError, match="verdict"):
        _ = Status.ELIGIBLE.outcome


def test_a_status_is_its_value():
    assert Status("no_config") is Status.NO_CONFIG == "no_config"
    assert pickle.loads(pickle.dumps(Status.GATED)) is Status.GATED
    assert all(s.value == s.name.lower() for s in Status)
    with pytest.raises(ValueError, match="gatd"):
        Status("gatd")


def test_only_ok_is_ok_and_sentences_differ():
    assert [s for s in ENDS if s.outcome is Outcome.OK] == [Status.OK]
    sentences = [s.meaning for s in ENDS]
    assert all(sentences)
    assert len(set(sentences)) == len(sentences)
    assert {s.stage for s in ENDS} == {"list", "config", "weights", "fetch", "load", "run"}


def test_skips_are_decided_before_weights_are_fetched():
    for status in ENDS:
        early = status.stage in {"list", "config", "weights"}
        assert early == (status.outcome is Outcome.SKIPPED), status
