"""Checks the demo hub through olah, a Hub proxy that nobody here wrote: it has to read every answer to pass it on.

Usage::

    python3 -m venv olah-env && olah-env/bin/pip install olah
    python benchmarks/second_client/olah_proxy.py --olah olah-env/bin/olah-cli

olah has no ``/api/models`` list and drops ``blobs``; everything a download needs goes through it.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

from hubprobe.demo.server import serve_demo

SETTINGS = """[basic]
host = "127.0.0.1"
port = {port}
repos-path = "repos"
hf-scheme = "http"
hf-netloc = "{hub}"
hf-lfs-netloc = "{hub}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
[accessibility]
offline = false
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(download: Callable[[], Any], error: type[Exception]) -> bool:
    """Return whether ``download`` raises ``error``, itself or as the cause of what it raises."""
    try:
        download()
    except Exception as raised:  # noqa: BLE001 - which one it is, is the question
        return isinstance(raised, error) or isinstance(raised.__cause__, error)
    return False


def check(hub: HfApi, proxy: HfApi) -> dict[str, bool]:
    """Return what agreed between the hub asked directly and through the proxy."""
    direct = next(m for m in hub.list_models(filter="transformers", full=True) if not m.id.startswith("trouble/"))
    repo_id, folder = direct.id, tempfile.mkdtemp()

    def get(name: str, file: str) -> str:
        return hf_hub_download(name, file, endpoint=proxy.endpoint, cache_dir=folder, token=False)

    [weights] = hub.get_paths_info(repo_id, "model.safetensors")
    path = Path(snapshot_download(repo_id, revision=direct.sha, endpoint=proxy.endpoint, cache_dir=folder, token=False))
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    names = [sibling.rfilename for sibling in direct.siblings or []]
    return {
        "model_info": proxy.model_info(repo_id).sha == direct.sha,
        "list_repo_tree": [entry.path for entry in proxy.list_repo_tree(repo_id, recursive=True)] == names,
        "get_paths_info": proxy.get_paths_info(repo_id, "model.safetensors") == [weights],
        "list_repo_refs": proxy.list_repo_refs(repo_id).branches[0].target_commit == direct.sha,
        "list_repo_commits": proxy.list_repo_commits(repo_id)[0].commit_id == direct.sha,
        "get_safetensors_metadata": bool(proxy.get_safetensors_metadata(repo_id).parameter_count),
        "snapshot_download": sorted(p.name for p in path.iterdir()) == names,
        "sha256 of the weights": weights.lfs is not None and digest == weights.lfs.sha256,
        "gone": refused(lambda: get("trouble/gone-vision", "config.json"), RepositoryNotFoundError),
        "gated": refused(lambda: get("trouble/gated-vision", "config.json"), GatedRepoError),
        "disabled": refused(lambda: get("trouble/disabled-vision", "config.json"), DisabledRepoError),
        "missing file": refused(lambda: get(repo_id, "nothing.json"), RemoteEntryNotFoundError),
    }


@click.command()
@click.option("--olah", required=True, help="The olah-cli program.")
def main(olah: str) -> None:
    """Serve the demo hub, put olah before it, and ask both."""
    with serve_demo(with_lite0=False) as server, tempfile.TemporaryDirectory() as folder:
        port = free_port()
        settings = Path(folder) / "olah.toml"
        settings.write_text(SETTINGS.format(port=port, hub=server.url.removeprefix("http://")), encoding="utf-8")
        with (Path(folder) / "out").open("wb") as out:
            process = subprocess.Popen(
                [olah, "--config", str(settings), "--log-path", "logs"], cwd=folder, stdout=out, stderr=out
            )
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            else:
                raise click.ClickException("olah did not start")
            results = check(
                HfApi(endpoint=server.url, token=False), HfApi(endpoint=f"http://127.0.0.1:{port}", token=False)
            )
        finally:
            process.terminate()
            process.wait(10)
    for what, agreed in results.items():
        click.echo(f"{'ok' if agreed else 'WRONG':5s} {what}")
    if not all(results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
