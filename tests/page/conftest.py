"""A small workspace behind a real server, a hostile one, and a browser that never leaves this machine."""

import os
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hubprobe.page.limits import Limits
from hubprobe.page.opened import Current
from tests.once import once
from tests.search.conftest import CONCEPTS, Made, make
from workspace import Config, SearchConfig, Workspace, records
from workspace.files import write_table
from workspace.runs import now

ENCODER = "clip:fake/encoder"
ATTACK = "<img src=x onerror=\"window.hacked='label'\">"
REPO = "evil/\"><script>window.hacked='repo'</script>"
ARGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def bridged(root: Path, **options: Any) -> Made:
    """A workspace of tests/search, with the scoring that is used by default."""
    made = make(root, **options)
    config = Config(search=SearchConfig(encoder=ENCODER))
    (root / "hubprobe.toml").write_text(config.to_toml(), encoding="utf-8")
    made.workspace = Workspace.open(root)
    return made


@pytest.fixture(scope="session")
def page_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A workspace with labels, names and evidence that mean something; no test changes it."""

    def build(folder: Path) -> None:
        made = bridged(folder / "small-index", models=16, n=300)
        made.index(names=True)
        (folder / "made").write_bytes(pickle.dumps(made))

    return pickle.loads((once(tmp_path_factory, "page", build) / "made").read_bytes())


@pytest.fixture(scope="session")
def hostile_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A workspace whose every text from outside tries to become HTML."""
    made = bridged(tmp_path_factory.mktemp("hostile") / "hostile-index", models=6, n=200)
    sha = "e" * 40
    rng = np.random.default_rng(1)
    rows = []
    for logit, label in enumerate((ATTACK, "dog", "</h3><script>window.hacked='h3'</script>", "\u202edog\u202c", None)):
        vector = np.maximum(made.content[:, logit], 0) * 6 + rng.standard_normal(len(made.content)) * 0.5
        vector = ((vector - vector.mean()) / vector.std()).astype(np.float16)
        rows.append({"repo_id": REPO, "sha": sha, "logit": logit, "label": label, "vector": vector})
    made.write("evil", rows)
    listed = {
        "id": REPO, "sha": sha, "author": "evil", "downloads": 7, "likes": 1, "license": "'\"><b onclick=x>",
        "library_name": ATTACK, "tags": [ATTACK], "label_quality": "named", "crawled_at": now(),
        "eligibility": "eligible", "reason": "", "card_summary": f"{ATTACK} [x](javascript:alert(1))",
        "base_models": [f"{ATTACK}/base", "javascript:alert(1)"], "num_labels": 5,
    }  # fmt: skip
    tried = {
        "repo_id": REPO, "sha": sha, "attempt": 1, "outcome": "ok", "status": "ok", "reason": ATTACK,
        "started_at": now(), "num_logits": 5, "architecture": ATTACK,
    }  # fmt: skip
    for folder, row, schema in (
        (made.workspace.catalog_dir, listed, records.CATALOG),
        (made.workspace.attempts_dir, tried, records.ATTEMPTS),
    ):
        write_table(folder / "part-evil.parquet", pa.Table.from_pylist([row], schema=schema))
    path = made.workspace.probes_dir(made.workspace.probe_set) / "probes.parquet"
    probes = made.workspace.probes()
    captions = pa.array([f"{ATTACK} {i}" for i in range(probes.num_rows)])
    write_table(
        path, probes.set_column(probes.column_names.index("caption"), records.PROBES.field("caption"), captions)
    )
    made.index(names=True)
    return made


@dataclass
class Served:
    """A page that is being served."""

    url: str
    current: Current
    made: Made


@pytest.fixture(scope="session")
def served(page_made: Made) -> Iterator[Served]:
    with serving(page_made) as one:
        yield one


@pytest.fixture(scope="session")
def hostile(hostile_made: Made) -> Iterator[Served]:
    with serving(hostile_made) as one:
        yield one


class serving:  # noqa: N801 - used as a function
    """Serve a workspace from a thread of this process."""

    def __init__(self, made: Made, limits: Limits | None = None, *, pick: bool = True) -> None:
        self._made, self._limits, self._pick = made, limits or Limits(rate=0), pick

    def __enter__(self) -> Served:
        import uvicorn

        from hubprobe.page.app import application
        from hubprobe.page.limits import protocol

        current = Current(self._made.workspace, encoder=self._made.encoder)
        # as `serve` does: of a socket that does not name TCP, asyncio lets every answer wait 40 ms for the next
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        app = application(current, self._limits, hosts=["search.example.org"], pick=self._pick)
        config = uvicorn.Config(
            app, http=protocol(self._limits), ws="none", log_level="error", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        current.prepare().join(600)
        while not self._server.started:
            time.sleep(0.01)
        return Served(f"http://127.0.0.1:{listening.getsockname()[1]}/", current, self._made)

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@dataclass
class Visit:
    """A tab, everything it asked for, and everything its console said."""

    page: Any
    url: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def go(self, path: str = "") -> Any:
        self.page.goto(self.url + path)
        return self.page


@pytest.fixture(scope="module")  # while Playwright is open an event loop runs in this thread, which others want too
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGS))
        yield browser
        browser.close()


def visiting(chromium: Any, url: str, **options: Any) -> Iterator[Visit]:
    """Open a tab that records; afterwards nothing may have left this machine, and no script may have failed."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    visit = Visit(context.new_page(), url)
    visit.page.set_default_timeout(120_000)
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    yield visit
    context.close()
    away = [one for one in visit.requests if not one.startswith((visit.url, "data:"))]
    assert not away, f"the page asked others: {away}"
    assert not visit.errors


def eventually(page: Any, expression: str, seconds: float = 60.0) -> None:
    """Wait until an expression holds: Playwright's own wait evaluates it inside the page, which our policy forbids."""
    until = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < until, expression
        page.wait_for_timeout(50)


@pytest.fixture
def visit(chromium: Any, served: Served) -> Iterator[Visit]:
    yield from visiting(chromium, served.url)


@pytest.fixture
def phone(chromium: Any, served: Served) -> Iterator[Visit]:
    yield from visiting(chromium, served.url, viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True)


@pytest.fixture
def attacked(chromium: Any, hostile: Served) -> Iterator[Visit]:
    yield from visiting(chromium, hostile.url)


__all__ = ["CONCEPTS"]
