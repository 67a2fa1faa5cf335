"""The download path against olah, a hub nobody here wrote: plain git + LFS folders served offline.

::

    python3 -m venv olah && olah/bin/pip install olah        # and git-lfs, from the distribution
    python benchmarks/crawler/conformance.py olah/bin/olah-cli

olah 0.5.4 has no listing, ignores Range, and its GET answers state neither size nor hash, so it cannot be crawled; the
row is made here. Fetching asks it for size and hash (paths-info) and for the files, pinned, and verifies them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

import crawler
from crawler.catalog import row_of
from crawler.decide.inspection import Decision
from crawler.hub.client import HubClient
from crawler.hub.transport import UnansweredError
from crawler.listing.rows import parse
from hubprobe.demo import tiny
from workspace import Config, Workspace
from workspace.runs import now

_TOML = """
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{root}/olah_repos"
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = ["{root}/mirrors"]
[accessibility]
offline = true
"""


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder."""
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.invalid", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def mirror(root: Path) -> str:
    """Make a git + LFS repository of the demo's tiny model; return its commit."""
    folder = root / "mirrors" / "models" / "acme" / "tiny-vit"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "lfs", "install", "--local")
    git(folder, "lfs", "track", "*.safetensors")
    for name, content in tiny.files().items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Upload model")
    return git(folder, "rev-parse", "HEAD")


@click.command()
@click.argument("olah", type=click.Path(exists=True, path_type=Path, resolve_path=True))
@click.option("--port", default=18_090, show_default=True)
def main(olah: Path, port: int) -> None:
    """Serve a model with OLAH, decide it and fetch it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sha = mirror(root)
        (root / "olah.toml").write_text(_TOML.format(port=port, root=root))
        arguments = [str(olah), "--config", str(root / "olah.toml"), "--log-path", str(root / "logs")]
        with (root / "out").open("wb") as out:
            server = subprocess.Popen(arguments, cwd=root, stdout=out, stderr=out)
        try:
            check(root, sha, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait()


def check(root: Path, sha: str, endpoint: str) -> None:
    """Decide the model and fetch it."""
    workspace = Workspace.create(root / "workspace", Config(endpoint=endpoint))
    client = HubClient(endpoint)
    listed = parse({"id": "acme/tiny-vit", "sha": sha, "siblings": [{"rfilename": n} for n in tiny.files()]})
    wait_for(client, client.resolve_url(listed.id, sha, "config.json"))
    fetched = crawler.Fetcher(workspace, token=False)(row_of(Decision(listed), now()))
    for name, content in tiny.files().items():
        same = (fetched.folder / name).read_bytes() == content
        click.echo(f"{name}: {'the very bytes' if same else 'OTHER BYTES'}")
        if not same:
            sys.exit(1)


def wait_for(client: HubClient, url: str) -> None:
    """Wait until the server is up."""
    for _ in range(60):
        try:
            client.read(url, limit=1 << 20)
            return
        except UnansweredError as error:
            click.echo(f"not yet: {error.reason}", err=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
