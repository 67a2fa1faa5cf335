import pytest

from workspace import Outcome, Status
from workspace.status import MEANING


def test_every_status_has_a_meaning_and_eligible_is_no_end():
    assert set(MEANING) == set(Status) - {Status.ELIGIBLE}
    with pytest.raises(ValueError, match="verdict"):
        _ = Status.ELIGIBLE.outcome


def test_only_ok_is_ok_and_sentences_differ():
    assert [s for s in MEANING if s.outcome is Outcome.OK] == [Status.OK]
    sentences = [m.sentence for m in MEANING.values()]
    assert len(set(sentences)) == len(sentences)
    assert {m.stage for m in MEANING.values()} == {"list", "config", "weights", "fetch", "load", "run"}


def test_skips_are_decided_before_weights_are_fetched():
    for status, meaning in MEANING.items():
        early = meaning.stage in {"list", "config", "weights"}
        assert early == (meaning.outcome is Outcome.SKIPPED), status
