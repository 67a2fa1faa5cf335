"""The verb: what it says, where it listens, how it ends."""

import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from PIL import Image

import hubprobe.page as server
from hubprobe.cli.app import cli
from hubprobe.page.opened import Current
from tests.page.conftest import ENCODER, bridged
from tests.search.conftest import Made
from workspace import MissingStepError, QueryError, Workspace, WorkspaceError
from workspace.endpoint import is_local


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose index needs no encoder."""
    made = bridged(tmp_path_factory.mktemp("blind") / "blind-index", models=4, n=80)
    made.index(encoder="none")
    return made.workspace.root


def test_without_its_encoder_it_answers_what_the_index_knows(page_made: Made, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(page_made.workspace.config, endpoint="http://127.0.0.1:9")  # nobody listens there
    opened = Current(Workspace(page_made.workspace.root, config), token="").get()
    assert "new texts and images cannot be asked" in caplog.text
    opened.prepare()
    assert opened.names.state == "ready"
    assert len(opened.index.search("dog").limit(3).to_dicts()) == 3
    assert len(opened.index.similar("owner1/model-001", 2).limit(3).to_dicts()) == 3
    assert opened.index.sql("SELECT count(*) AS n FROM models")["n"][0].as_py() == 16
    for asked in ("a text that nobody has asked for", Image.new("RGB", (8, 8))):
        with pytest.raises(QueryError, match=f"{ENCODER}, could not be had when the page was started"):
            opened.index.search(asked)


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
