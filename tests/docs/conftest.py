"""A finished workspace for every page to play with, and what the pages left out, said at the end."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.demo_run import linked
from tests.docs.reader import Reader, environment
from tests.documentation import DOCUMENTATION
from tests.once import once

if TYPE_CHECKING:
    from hubprobe.demo.server import HubServer

_readers: list[Reader] = []


@pytest.fixture(scope="session")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it after the README: ``my-index`` and ``demo-index``, some images, the truth.

    ``HUBPROBE_DEMO_INDEX`` names a finished demo's workspace to copy, in place of running the demo.
    """
    given = os.environ.get("HUBPROBE_DEMO_INDEX")
    source = Path(given) if given else request.getfixturevalue("ran") / "demo-index"
    return once(tmp_path_factory, "docs", lambda folder: _finish(source, folder))


def _finish(source: Path, folder: Path) -> None:
    import hubprobe

    shutil.copytree(source, folder / "my-index")
    hubprobe.open(folder / "my-index").audit(limit=1, progress=False)  # embeds the bank's names, once for all pages
    shutil.copytree(folder / "my-index", folder / "demo-index", copy_function=linked)
    from hubprobe.demo.run import TRUTH

    shutil.copy(TRUTH, folder / "truth.json")
    _pictures(folder)


def _pictures(folder: Path) -> None:
    import pyarrow.parquet as pq
    from PIL import Image

    from hubprobe.demo.run import PROBES

    rows = pq.read_table(PROBES, columns=["image", "caption"]).slice(0, 40).to_pylist()
    (folder / "my-images").mkdir()
    for number, row in enumerate(rows):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            image.convert("RGB").save(folder / "my-images" / f"{number:03}.png")
            if number == 0:
                image.convert("RGB").save(folder / "cat.jpg")


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """The demo hub, served by this process."""
    from hubprobe.demo.server import serve_demo

    with serve_demo() as server:
        yield server


@pytest.fixture
def reader(finished: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in a folder of its own. Files are links, but for `linked`'s: others are replaced, never changed."""
    folder = tmp_path / "page"
    shutil.copytree(finished, folder, copy_function=linked)
    for name in ("my-index", "demo-index"):  # the page's hub is where the workspace says the Hub is
        settings = (folder / name / "hubprobe.toml").read_text("utf-8")
        (folder / name / "hubprobe.toml").unlink()
        settings = re.sub(r"http://127\.0\.0\.1:\d+", hub.url, settings)
        (folder / name / "hubprobe.toml").write_text(settings, encoding="utf-8")
    monkeypatch.chdir(folder)
    found = Reader(folder, environment(hub.url))
    _keep_registries(monkeypatch)
    kept = dict(os.environ)  # libraries set variables of their own
    os.environ.update({"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "MPLBACKEND": "Agg"})
    yield found
    os.environ.clear()
    os.environ.update(kept)
    _readers.append(found)


def _keep_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back afterwards what a page adds to the lists of encoders, scorings and rules."""
    from crawler.decide import inspection
    from search.scan import scoring
    from search.text import encoders

    for module, name in ((encoders, "KINDS"), (inspection, "LIST_RULES"), (inspection, "STAGES")):
        monkeypatch.setattr(module, name, getattr(module, name))
    for table in (encoders.MODELS, scoring.SCORINGS, scoring.PROBES):
        for name in ("words", "evenly"):
            monkeypatch.setitem(table, name, None)  # so that it is taken out afterwards
            del table[name]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was run and what was not to whoever writes the end of the report."""
    if _readers:
        session.config.stash[DOCUMENTATION] = {
            "took": [entry for reader in _readers for entry in reader.took],
            "left_out": [entry for reader in _readers for entry in reader.left_out],
        }
