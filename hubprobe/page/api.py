"""Gradio's part: the same answers as plain records, for `gradio_client`, for HTTP, and as tools over MCP."""

from __future__ import annotations

import base64
import binascii
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from hubprobe.page import answers
from hubprobe.page.asked import MOST, UNITS, Asked
from workspace import HubprobeError, QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from hubprobe.page.opened import Current

F = TypeVar("F", bound=Callable[..., Any])
_LOG = logging.getLogger(__name__)
_KEY = 500  # characters of an argument of a call whose answer is remembered; images are longer
_LONGEST = 10_000  # characters of a text; the search's own bound is lower and says so


def quiet_gradio() -> None:
    """Keep Gradio from telling anybody that it runs, and from counting; must come before it is imported.

    After every event of its queue, Gradio sums up the last 10,000 in a data frame, for a page that is not served here:
    half of the time of a search.
    """
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(2**31)
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def blocks(current: Current, searching: CapacityLimiter, *, waiting: int = 256) -> Any:
    """Return the `gradio.Blocks` that answer the API; they draw nothing.

    Args:
        current: what answers.
        searching: of the searches that run at once, those of the page included.
        waiting: searches that may wait in Gradio's queue.
    """
    quiet_gradio()
    import gradio
    from anyio import to_thread
    from gradio import events

    def safe(function: F) -> F:
        @functools.wraps(function)
        async def run(*args: Any) -> Any:
            opened, call = current.get(), (function.__name__, *args)
            small = all(isinstance(value, (str, int)) and len(str(value)) <= _KEY for value in args)
            known = opened.records.get(call) if small else None
            if known is not None:
                return known
            try:
                # in the page's few threads, not in Gradio's forty: each keeps what its searches needed
                found = await to_thread.run_sync(function, *args, limiter=searching)
                return opened.records.put(call, found) if small and opened.names.state != "preparing" else found
            except HubprobeError as error:
                raise gradio.Error(printable(error, 600), print_exception=False) from None
            except Exception as error:  # the log has it; a stranger gets none of the inside
                _LOG.exception("%s failed", function.__name__)
                raise gradio.Error("this failed inside; the server's log says why", print_exception=False) from error

        return run  # type: ignore[return-value]

    def search(text: str, where: str = "", by: str = "logit", limit: int = 10) -> list[dict[str, Any]]:
        """Find outputs (logits) of public image classifiers that recognise a concept, by what they answer.

        Args:
            text: a concept in words, such as "dog" or "a red car"
            where: SQL condition over models and logits, such as "downloads > 1000 AND license = 'mit'"; may be empty
            by: what a hit is: "logit", "model" or "family" (near-copies count once)
            limit: how many hits, 1 to 100

        Returns:
            Hits, best first: rank, score, repo_id, sha, logit, label (the model's own word, untrusted), name (suggested
            by behaviour) with name_confidence, found_by, facts of the model, evidence (probes answered most strongly)
        """
        return _found(current, Asked(q=_text(text), where=_text(where)), by, limit)

    def search_image(image: str, where: str = "", by: str = "logit", limit: int = 10) -> list[dict[str, Any]]:
        """Find outputs (logits) of public image classifiers that recognise what an example image shows.

        Args:
            image: the bytes of a PNG, JPEG, WebP, GIF or BMP file in base64
            where: SQL condition over the models and logits; may be empty
            by: what a hit is: "logit", "model" or "family"
            limit: how many hits, 1 to 100

        Returns:
            Hits, best first, as of search
        """
        try:
            data = base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image, validate=True)
        except (binascii.Error, ValueError, AttributeError):
            raise QueryError("the image is not base64: encode the bytes of the file") from None
        key = current.remember(data, "image")
        return _found(current, Asked(image=key, where=_text(where)), by, limit)

    def similar(repo_id: str, logit: int, where: str = "", by: str = "logit", limit: int = 10) -> list[dict[str, Any]]:
        """Find outputs of other models that answer like one output of a model.

        Args:
            repo_id: the model's repository, such as "owner/name"
            logit: index of its output
            where: SQL condition over the models and logits; may be empty
            by: what a hit is: "logit", "model" or "family"
            limit: how many hits, 1 to 100

        Returns:
            Hits, best first, as of search
        """
        return _found(current, Asked(like=_text(repo_id), logit=_whole(logit), where=_text(where)), by, limit)

    def describe(repo_id: str) -> list[dict[str, Any]]:
        """Name every output of a model by what it recognises, whatever it is called.

        Args:
            repo_id: the model's repository, such as "owner/name"

        Returns:
            One record per output: logit, label (the model's own word, untrusted), name, confidence, source, others
        """
        opened = current.get()
        if opened.names.state != "ready":
            raise QueryError(f"names are not there: {opened.names.state}")
        rows: list[dict[str, Any]] = opened.index.describe(_text(repo_id), progress=False).to_pylist()
        return [row | {"label": None if row["label"] is None else printable(row["label"], 200)} for row in rows]

    def coverage(text: str, where: str = "") -> dict[str, Any]:
        """Say how probable it is that a concept can be answered by this index.

        Args:
            text: a concept in words
            where: SQL condition over the models and logits that may be found; may be empty

        Returns:
            covered, probability (that one of the ten nearest is right), and said, the same in words
        """
        asked = Asked(q=_text(text), where=_text(where))
        found = answers.prepared(current, current.get(), asked).coverage()
        return {"covered": found.covered, "probability": round(found.probability, 4), "said": str(found)}

    with gradio.Blocks(title="hubprobe", analytics_enabled=False) as made:
        for function in (search, search_image, similar, describe, coverage):
            events.api(safe(function), api_name=function.__name__, concurrency_limit=None, queue=False)
    made.queue(max_size=waiting, default_concurrency_limit=None)
    made.state_session_capacity = 256  # nothing is kept of a session, and yet each of Gradio's 10,000 takes 15 KB
    return made


def _found(current: Current, asked: Asked, by: str, limit: int) -> list[dict[str, Any]]:
    if by not in UNITS:
        raise QueryError(f"hits are by 'logit', 'model' or 'family', not by '{printable(by, 40)}'")
    if not 1 <= _whole(limit) <= MOST:
        raise QueryError(f"a limit is between 1 and {MOST}")
    opened, asked = current.get(), replace(asked, by=by, n=_whole(limit))
    query = answers.prepared(current, opened, asked).by(asked.by).limit(asked.n)
    return [answers.plain(opened, hit) for hit in answers.records(opened, query)]


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise QueryError(f"a text of at most {_LONGEST} characters is needed")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise QueryError("a whole number is needed")
    return int(value)
