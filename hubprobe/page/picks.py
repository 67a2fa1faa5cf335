"""Picks of visitors: their images, in a folder that goes when the pick ends, and what came of it, in memory.

A pick runs in a process of its own, `hubprobe.page.pick_child`; what is kept, how many there are and how long each may
take is bounded here.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from hubprobe.page.opened import small
from search import filters
from workspace import Config, HubprobeError, QueryError, Workspace
from workspace.endpoint import is_local, token_for
from workspace.files import num_rows, table_files
from workspace.images import MAX_PIXELS, read_image
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.page.opened import Current

FEWEST, MOST = 2, 100
"""Images of a pick."""

CONCEPTS = 20
"""Concepts of a pick, at most."""

CONCEPT_LONGEST = 80
"""Characters of a concept."""

CANDIDATES = (5, 10, 20)
"""How many models may be tried."""

BUDGETS = (25, 10, 0)
"""How many labels a visitor may be asked for."""

EDGE = 640
"""Longer edge that an image is shrunk to, in pixels: more than usual models read."""

SUM_PIXELS = 8 * MAX_PIXELS
"""Pixels of all images of a pick, as they came: what is decoded for one request."""

FOREIGN = -2
"""The label of an image that shows none of the concepts, as `hubprobe.pick` has it."""

_THUMB = 320  # pixels: large enough to be labelled
_WAITING, _KEPT = 4, 16  # picks that wait for their turn; picks that are remembered
_IDLE_S = 3_600.0  # after which a pick that nobody looks at is forgotten
_ASK_S = 900.0  # in which a question is answered, else no more are asked
_RUN_S = 3_600.0  # of a whole pick
_END_S = 15.0  # in which a process that is told to end does
_DISK_BYTES = 16 * 10**9  # of the models' files
_PREFIX = "hubprobe-page-"
_LOG = logging.getLogger(__name__)


@dataclass
class Pick:
    """One pick of a visitor."""

    key: str
    concepts: tuple[str, ...]  # what is told apart
    names: list[str]  # what each image was called, disarmed
    thumbnails: list[bytes] = field(repr=False)  # each image as a small WebP
    folder: Path
    budget: int
    candidates: int
    where: str
    notes: list[str]  # images that could not be used
    state: str = "waiting"  # ``waiting``, ``running``, ``asking``, ``done``, ``failed`` or ``stopped``
    asked: int | None = None  # the image that a label is asked for, while ``asking``
    labels: int = 0  # how many were given
    # what `hubprobe.page.pick_child` found, once ``done``
    result: dict[str, Any] | None = field(default=None, repr=False)
    error: str = ""  # why it ended, when it failed
    seen: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "stopped")

    @property
    def shown(self) -> str:
        """The state as a visitor is told it: ``ending`` until the images are gone, which the end is said to mean."""
        return "ending" if self.over and not self.ended.is_set() else self.state

    def progress(self) -> tuple[int, int]:
        """Return how many models were run, and how many will be; zeros before that is known."""
        inner = Workspace(self.folder / "pick" / "work", Config())
        try:
            count = sum(num_rows(file) for file in table_files(inner.catalog_dir))
            return min(inner.attempts(["repo_id"]).num_rows, count), count
        except (HubprobeError, OSError):
            return 0, 0


class Picks:
    """All picks of a page. One runs at a time, in its own process; the others wait for their turn."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._picks: dict[str, Pick] = {}
        self._lock, self._turn = threading.Lock(), threading.BoundedSemaphore(1)
        self._root: Path | None = None

    def start(self, concepts: str, files: Sequence[tuple[str, bytes]], candidates: int, budget: int, where: str) -> str:
        """Keep the images and start a pick; return its key, which is the right to see it.

        Raises `QueryError` for what makes no pick, and when too many wait.
        """
        words = _concepts(concepts)
        if candidates not in CANDIDATES or budget not in BUDGETS:
            raise QueryError(f"candidates are {CANDIDATES}, labels {BUDGETS}")
        if where:
            filters.parse(where)
        if not FEWEST <= len(files) <= MOST:
            raise QueryError(f"a pick takes {FEWEST} to {MOST} images, not {len(files)}")
        with self._lock:
            self._forget_idle()
            if sum(not one.over for one in self._picks.values()) > _WAITING:
                raise QueryError("other picks are waiting already: try again in some minutes")
            for old in sorted((p for p in self._picks.values() if p.over), key=lambda p: p.seen)[: 1 - _KEPT]:
                del self._picks[old.key]
            key = secrets.token_urlsafe(24)
            folder = self._place() / key
            folder.mkdir(mode=0o700)
            pick = Pick(key, words, [], [], folder, budget=budget, candidates=candidates, where=where, notes=[])
            self._picks[key] = pick
        try:
            _keep(pick, files)
        except BaseException:
            self.forget(key)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        threading.Thread(target=self._run, args=(pick,), name="pick", daemon=True).start()
        return key

    def get(self, key: str) -> Pick:
        """Return a pick; raises `QueryError` when there is none, or no longer."""
        with self._lock:
            self._forget_idle()
            pick = self._picks.get(key)
            if pick is None:
                raise QueryError("this pick is not there any more: start it again with your images")
            pick.seen = time.monotonic()
            return pick

    def answer(self, key: str, image: int, label: int | None) -> None:
        """Hand on what an image shows: its concept, `FOREIGN` for none of them, None when no more are wanted.

        An answer to a question that is no longer asked, as of a button pressed twice, is left aside.
        """
        pick = self.get(key)
        if label is not None and not (label == FOREIGN or 0 <= label < len(pick.concepts)):
            raise QueryError("this is none of the concepts")
        self._answered(pick, image, label)

    def _answered(self, pick: Pick, image: int, label: int | None) -> None:
        with self._lock:
            if pick.asked != image or pick.state != "asking":
                return
            pick.state, pick.asked = "running", None
            pick.labels += label is not None
        _say(pick, label)

    async def soon(self, key: str, seconds: float = 3.0) -> None:
        """Wait a moment for the next question or the end, so that a visitor need not look again."""
        pick, until = self.get(key), time.monotonic() + seconds
        while pick.shown in ("running", "ending") and time.monotonic() < until:
            await asyncio.sleep(0.05)

    def stop(self, key: str) -> None:
        """End a pick; nothing of it is kept but that it was stopped."""
        pick = self.get(key)
        with self._lock:
            if pick.over:
                return
            pick.state, pick.asked = "stopped", None
        _end(pick)
        pick.ended.wait(_END_S)

    def forget(self, key: str) -> None:
        """End a pick and remember nothing of it."""
        with self._lock:
            pick = self._picks.pop(key, None)
            if pick is None:
                return
            if not pick.over:
                pick.state = "stopped"
        _end(pick)

    def close(self) -> None:
        """End all picks and remove what they kept."""
        for key in list(self._picks):
            self.forget(key)
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _place(self) -> Path:
        """Return this page's temporary folder; those of pages that were killed are removed."""
        if self._root is None:
            for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
                match = re.fullmatch(rf"{_PREFIX}(\d+)-.*", old.name)
                if match and not _lives(int(match[1])):
                    shutil.rmtree(old, ignore_errors=True)  # another's cannot be removed, and stays
            self._root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        return self._root

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for pick in [p for p in self._picks.values() if now - p.seen > _IDLE_S]:
            del self._picks[pick.key]
            if not pick.over:
                pick.state = "stopped"
            threading.Thread(target=_end, args=(pick,), daemon=True).start()

    def _run(self, pick: Pick) -> None:
        while not self._turn.acquire(timeout=1.0):
            if pick.over:
                break
        else:
            try:
                if not pick.over:
                    self._work(pick)
            except Exception:  # noqa: BLE001 - the visitor is told, the log has it
                _LOG.exception("a pick failed")
                self._ends(pick, "failed", "this failed inside; the server's log says why")
            finally:
                self._turn.release()
        shutil.rmtree(pick.folder, ignore_errors=True)
        pick.ended.set()

    def _work(self, pick: Pick) -> None:
        workspace = self._current.workspace
        endpoint = workspace.config.endpoint
        if not _answers(endpoint):
            start = "that of the demo is started by 'python -m hubprobe.demo.server'"
            self._ends(pick, "failed", f"the Hub of this index, {printable(endpoint, 100)}, does not answer; {start}")
            return
        options = {
            "images": str(pick.folder / "images"), "concepts": pick.concepts, "budget": pick.budget,
            "candidates": pick.candidates, "where": pick.where or None, "max_images": MOST + 1, "progress": False,
            "max_disk_bytes": _DISK_BYTES, "token": token_for(endpoint, self._current.token) or "",
        }  # fmt: skip
        request = {"workspace": str(workspace.root.resolve()), "endpoint": endpoint, "options": options}
        request["folder"] = str(pick.folder / "pick")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "hubprobe.page.pick_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, encoding="utf-8", env=environment, cwd=pick.folder,
        )  # fmt: skip
        alarm = threading.Timer(_RUN_S, process.kill)
        alarm.daemon = True
        alarm.start()
        with self._lock:
            pick.process = process
            if not pick.over:
                pick.state = "running"
        try:
            _say(pick, request)
            if pick.over:  # stopped while it was started
                _end(pick)
            assert process.stdout is not None
            for line in process.stdout:
                self._heard(pick, json.loads(line))
            process.wait()
            if process.returncode < 0:
                self._ends(pick, "failed", f"it was ended: it may take {_RUN_S / 60:.0f} minutes, or memory ran out")
            self._ends(pick, "failed", "its process ended without an answer; the server's log may say why")
        finally:
            alarm.cancel()
            _end(pick)

    def _heard(self, pick: Pick, message: dict[str, Any]) -> None:
        if "ask" in message:
            image = _number(message["ask"])
            with self._lock:
                if pick.over:
                    return
                pick.state, pick.asked = "asking", image
            late = threading.Timer(_ASK_S, self._answered, (pick, image, None))
            late.daemon = True
            late.start()
        elif "done" in message:
            pick.result = message["done"]
            for row in pick.result["images"]:
                row["image"] = _number(row.pop("source"))
            self._ends(pick, "done")
        else:
            self._ends(pick, "failed", self._current.public(QueryError(str(message.get("error")))))

    def _ends(self, pick: Pick, state: str, error: str = "") -> None:
        with self._lock:
            if not pick.over:
                pick.state, pick.error, pick.asked = state, error.replace(str(pick.folder), "…"), None


def _concepts(text: str) -> tuple[str, ...]:
    """Read concepts as they are written, with commas or on lines; raises `QueryError`."""
    words = [" ".join(word.split()) for word in re.split(r"[,;\n]", text[: CONCEPTS * 4 * CONCEPT_LONGEST])]
    kept = tuple({word.casefold(): word for word in words if printable(word, CONCEPT_LONGEST)}.values())
    if not 2 <= len(kept) <= CONCEPTS:
        raise QueryError(
            f"name 2 to {CONCEPTS} things that are to be told apart, with commas between them, such as: dog, cat, bird"
        )
    if max(map(len, kept)) > CONCEPT_LONGEST:
        raise QueryError(f"a concept has at most {CONCEPT_LONGEST} characters")
    return kept


def _keep(pick: Pick, files: Sequence[tuple[str, bytes]]) -> None:
    """Write the images that can be read, shrunk to `EDGE`; raises `QueryError` when fewer than two can."""
    (pick.folder / "images").mkdir()
    left = SUM_PIXELS
    for name, data in files:
        shown = printable(name.replace("\\", "/").rpartition("/")[2], 60) or "image"
        try:
            left -= _pixels(data)
            if left < 0:
                raise QueryError(f"all images together have more than {SUM_PIXELS / 1e6:,.0f} million pixels")
            image = read_image(data, shown)
        except QueryError as error:
            if left < 0:
                raise
            pick.notes.append(str(error))
            continue
        image.thumbnail((EDGE, EDGE))
        image.save(pick.folder / "images" / f"{len(pick.names):04}.png", compress_level=1)
        pick.names.append(shown)
        pick.thumbnails.append(small(image, _THUMB))
    if len(pick.names) < FEWEST:
        raise QueryError(
            f"{len(pick.names)} of the images can be read, and two are needed: {'; '.join(pick.notes[:3])}"
        )


def _pixels(data: bytes) -> int:
    """Return how many pixels an image says that it has; 0 when it is none, which `read_image` says."""
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return image.width * image.height
    return 0


def _number(source: str) -> int:
    return int(Path(source).stem)


def _say(pick: Pick, message: Any) -> None:
    process = pick.process
    if process is not None and process.stdin is not None:
        with suppress(OSError, ValueError):  # it is gone, or was told to end
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()


def _end(pick: Pick) -> None:
    """Have the process of a pick end, as on Ctrl-C, or else at once."""
    process = pick.process
    if process is None:
        return
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(endpoint: str) -> bool:
    """Say whether somebody listens at an endpoint of this machine; others may be behind a proxy, and are believed."""
    parts = urlsplit(endpoint)
    if not is_local(parts.hostname or ""):
        return True
    try:
        socket.create_connection((parts.hostname, parts.port or 80), timeout=5.0).close()
    except (OSError, ValueError):
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True
