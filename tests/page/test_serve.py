"""The verb: what it says, where it listens, how it ends."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

import hubprobe.page as server
from hubprobe.cli.app import cli
from tests.page.conftest import bridged
from workspace import MissingStepError, WorkspaceError
from workspace.endpoint import is_local


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose index needs no encoder."""
    made = bridged(tmp_path_factory.mktemp("blind") / "blind-index", models=4, n=80)
    made.index(encoder="none")
    return made.workspace.root


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_serves_until_it_is_interrupted(blind: Path, host: str) -> None:
    command = [sys.executable, "-m", "hubprobe", "serve", "--workspace", str(blind), "--host", host, "--port", "0"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while "http://" not in said:
            line = done.stderr.readline()
            assert line, said
            said += line
        url = re.search(r"http://\S+/", said)[0]
        assert url.startswith("http://127.0.0.1:")
        assert ("other machines" in said) == (host == "0.0.0.0")
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                page = httpx.get(url, trust_env=False)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert "4 models" in page.text
        assert "without an encoder" in httpx.get(f"{url}?q=dog", trust_env=False).text
        like = httpx.get(f"{url}?like=owner1/model-001&logit=2", trust_env=False)
        assert 'id="hit-1"' in like.text
    finally:
        done.send_signal(signal.SIGINT)
        out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert out == ""  # stdout is for data
    assert "Traceback" not in err


def test_a_workspace_without_an_index(tmp_path: Path) -> None:
    from workspace import Workspace

    Workspace.create(tmp_path / "w")
    with pytest.raises(MissingStepError, match="hubprobe index"):
        server.serve(tmp_path / "w")
    with pytest.raises(WorkspaceError, match="not a hubprobe workspace"):
        server.serve(tmp_path / "nothing")


def test_a_port_that_is_taken(blind: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(WorkspaceError, match="--port"):
        server.serve(blind, port=taken.getsockname()[1])


def test_the_libraries_of_the_page_are_missing(blind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(WorkspaceError, match=re.escape("pip install 'hubprobe[page]'")):
        server.serve(blind)


def test_loopback() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))


def test_help_names_every_option() -> None:
    said = CliRunner().invoke(cli, ["serve", "--help"])
    assert said.exit_code == 0
    for option in (
        "--workspace",
        "--host",
        "--port",
        "--open / --no-browser",
        "--rate",
        "--allow-host",
        "--mcp / --no-mcp",
        "--token",
    ):
        assert option in said.output
    assert "Examples:" in said.output
