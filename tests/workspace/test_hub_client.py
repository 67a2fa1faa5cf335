"""When the Hub's own client is asked again, and when not."""

from __future__ import annotations

import pytest

from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.demo.wire import Response
from workspace.endpoint import PAUSES, patiently, status_of, transport_errors


def limited(times: int, headers: list[tuple[str, str]], status: int = 429):
    """A hub that answers this ``times`` before it answers."""
    left = [times]

    def act(bucket, request, answer):
        if left[0]:
            left[0] -= 1
            return Response(status, b"<html>busy</html>", headers)
        return answer(request)

    return act


def info(hub: HubServer):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token=False).model_info("acme/model").id


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ([("RateLimit", '"api";r=0;t=7'), ("RateLimit-Policy", '"fixed window";"api";q=500;w=300')], [7.0, 7.0]),
        ([("Retry-After", "3")], [3.0, 3.0]),
        ([("Retry-After", "Fri, 27 Nov 2026 12:00:00 GMT")], list(PAUSES[:2])),
        ([], list(PAUSES[:2])),
    ],
)
def test_it_waits_as_it_is_told(headers, waits):
    slept: list[float] = []
    with HubServer([Repo.of("acme/model", {"config.json": b"{}"})], intercept=limited(2, headers)) as hub:
        assert patiently(lambda: info(hub), sleep=slept.append) == "acme/model"
    assert slept == waits


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_what_passes_is_asked_again(status):
    slept: list[float] = []
    repo = Repo.of("acme/model", {"config.json": b"{}"})
    with HubServer([repo], intercept=limited(1, [], status)) as hub:
        assert patiently(lambda: info(hub), sleep=slept.append) == "acme/model"
    assert len(slept) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_one(status):
    with HubServer([], intercept=limited(9, [], status)) as hub:
        with pytest.raises(transport_errors()) as caught:
            patiently(lambda: info(hub), sleep=pytest.fail)
        assert status_of(caught.value) == status
        assert len(hub.requests) == 1


def test_a_hub_that_stays_busy_is_given_up_and_silence_is_not_waited_for():
    slept: list[float] = []
    with HubServer([], intercept=limited(99, [("Retry-After", "99999")])) as hub:
        with pytest.raises(transport_errors()):
            patiently(lambda: info(hub), sleep=slept.append)
        assert slept == [310.0] * len(PAUSES)
    with pytest.raises(transport_errors()) as caught:
        patiently(lambda: info(hub), sleep=pytest.fail)  # it is gone by now
    assert status_of(caught.value) is None


def test_what_a_library_wrapped_is_found():
    with HubServer([], intercept=limited(9, [], 503)) as hub:
        try:
            info(hub)
        except transport_errors() as error:
            wrapped = ValueError("cannot open the data set")
            wrapped.__cause__ = ConnectionError("and again")
            wrapped.__cause__.__cause__ = error
    assert status_of(wrapped) == 503
    assert status_of(ValueError("else")) is None
