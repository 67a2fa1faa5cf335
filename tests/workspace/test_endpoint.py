"""Which Hub is sent a token: the user's choice, never a workspace's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from workspace import ConfigError
from workspace.endpoint import access, checked, is_loopback, origin, token_for

HUB = "https://huggingface.co"
LOOPBACK = "http://127.0.0.1:8600"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_machine")


@pytest.mark.parametrize("endpoint", [HUB, HUB + "/", "https://HuggingFace.co", HUB + ":443", "https://hf.co"])
def test_the_machines_token_goes_to_the_hugging_face_hub(endpoint: str) -> None:
    assert access(endpoint).token == "hf_machine"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://hub.example",
        "http://huggingface.co",
        "https://huggingface.co:8443",
        "https://huggingface.co.hub.example",
        "https://hub.example/huggingface.co",
        "https://xhuggingface.co",
        "https://hf.co.example",
        LOOPBACK,
        "http://localhost:8600",
        "http://[::1]:8600",
        "http://127.0.0.1.hub.example",
    ],
)
def test_the_machines_token_goes_nowhere_else_by_itself(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv(name, "hf_machine")
        assert access(endpoint).token is None
        assert access(endpoint, True).token is None
    with caplog.at_level(logging.WARNING):
        assert token_for(endpoint) is None
        assert token_for(endpoint) is None
    assert caplog.text.count("is not sent to") == 1
    assert "--endpoint" in caplog.text
    assert "hf_machine" not in caplog.text


def test_a_token_file_is_a_machines_token_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_file")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert access(HUB).token == "hf_file"
    refused = access("https://hub.example")
    assert (refused.token, bool(refused.withheld)) == (None, True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert not access("https://hub.example").withheld


@pytest.mark.parametrize("endpoint", ["https://hub.example", "https://hub.example/hf/", LOOPBACK, "http://[::1]:8600"])
def test_an_endpoint_the_user_named_gets_it(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert access(endpoint, named=True).token == "hf_machine"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert access(endpoint).token == "hf_machine"
    assert access("https://other.example").token is None


def test_plain_http_gets_none_but_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("http://hub.example", "http://127.0.0.1.hub.example", "http://huggingface.co"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert access(endpoint, named=True).token is None
        assert "plain http" in access(endpoint, named=True).withheld
        with pytest.raises(ConfigError, match="plain http") as caught:
            access(endpoint, "hf_given", named=True)
        assert "hf_given" not in str(caught.value)
    assert access(LOOPBACK, "hf_given").token == "hf_given"


def test_a_given_token_goes_where_it_is_given_for() -> None:
    assert access("https://hub.example", " hf_given\n").token == "hf_given"
    for none in (False, ""):
        assert access(HUB, none).token is None
    assert "hf_given" not in repr(access(HUB, "hf_given"))


def test_the_implicit_token_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert access(HUB).token is None
    assert access(HUB, True).token == "hf_machine"
    assert access(HUB, "hf_given").token == "hf_given"


def test_a_token_that_no_header_can_carry_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError) as caught:
        access(HUB, "hf_secret\r\nX-Evil: 1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "hf-mirror.example", "hf-mirror.example/api", "127.0.0.1:8600", "//hub.example", "ftp://hub.example", "https://",
        "https://user:word@hub.example", "http://127.0.0.1\\@hub.example", "https://hub.example/?x=", "", "https://a b",
        "https://hub.example:99999", "https://hub.example/\x1b[2J", "https://hub.example#x", "file:///etc",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_a_sentence(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a Hub") as caught:
        checked(endpoint)
    assert "\x1b" not in str(caught.value)


def test_an_endpoint_without_a_scheme_is_told_how_to_have_one() -> None:
    with pytest.raises(ConfigError, match=r"https://hf-mirror\.example"):
        checked("hf-mirror.example/")


def test_origins() -> None:
    assert origin("HTTPS://Hub.Example/x") == ("https", "hub.example", 443)
    assert origin("http://[::1") != origin("http://[::2")
    assert is_loopback("http://127.8.9.1:80")
    assert not is_loopback("http://127.0.0.1.hub.example")
