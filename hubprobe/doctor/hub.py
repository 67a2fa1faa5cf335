"""The Hub and what comes from it: variables, whether it answers, whose token this is, the encoder, the probe images."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size
from workspace.endpoint import Access, access, checked, is_loopback
from workspace.errors import ConfigError, HubprobeError

T = TypeVar("T")

CLOCK_SECONDS = 60.0
"""A clock that is further off confuses certificates, and histories written by several machines."""

_BODY_BYTES = 1 << 20
_OFFLINE = "datasets and encoders that are not on disk will not be fetched: unset it before probes build or index"
_TRUE = {"1", "true", "yes", "on"}
_IN_THE_WAY = {
    "HF_HUB_OFFLINE": _OFFLINE,
    "TRANSFORMERS_OFFLINE": _OFFLINE,
    "HF_DATASETS_OFFLINE": _OFFLINE,
    "HF_HUB_ENABLE_HF_TRANSFER": "huggingface_hub 1 and later do not know it, hf_xet took its place: unset it",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "a saved token is not sent for datasets and encoders: unset it, or pass --token",
}
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def environment(_: Setting) -> Iterator[Check]:
    """Variables that change what the Hub's libraries do. Only names are told, and values that cannot be secret."""
    set_here = sorted(name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "HUGGINGFACE_")))
    fine = True
    for name, advice in _IN_THE_WAY.items():
        if os.environ.get(name, "").lower() in _TRUE:
            fine = False
            yield Check(name, "warn", f"{name}={os.environ[name]}", advice)
    for name in _FILES:
        if (path := os.environ.get(name)) and not Path(path).exists():
            fine = False
            yield Check(name, "fail", f"{name} names {path}, which is not there", f"unset {name}, or mend the path")
    if fine:
        found = f"set: {', '.join(set_here)}" if set_here else "no HF_ variable is set"
        yield Check("environment", "ok", f"{found}; none in the way")


def contact(setting: Setting) -> Iterator[Check]:
    """Whether a crawl says whom to write to."""
    from crawler.hub.client import CONTACT, user_agent

    stated = os.environ.get(CONTACT, "").strip()
    address = setting.endpoint or setting.own.endpoint
    if not stated and is_loopback(address):
        yield Check("contact", "ok", "nobody is named; a hub on this machine need not be told")
        return
    advice = "" if stated else f"before a crawl: export {CONTACT}=you@example.org, sent with every request"
    yield Check("contact", "ok" if stated else "warn", user_agent() if stated else "nobody is named", advice)


def reach(setting: Setting) -> Iterator[Check]:
    """Endpoint, latency, clock, listing, token, rate limits: three small requests, the first without the token."""
    from crawler.listing.rows import Query

    own = setting.own.endpoint if setting.has_workspace else setting.endpoint or setting.own.endpoint
    address = (setting.endpoint or own).rstrip("/")
    if setting.offline:
        yield Check("endpoint", "ok", f"{address}, not asked: --offline")
        return
    try:
        address = checked(address)
    except ConfigError as error:
        setting.learned["silent"] = True
        yield Check("endpoint", "fail", str(error), "write one as https://huggingface.co")
        return
    problem = ""
    try:
        given = access(address, setting.token, named=setting.endpoint is not None)
    except ConfigError as error:
        given, problem = Access(None), str(error)
    token = given.token
    setting.learned["token"] = token or ""
    listing = Query(setting.own.crawl.pipeline_tag or None).url(address, 1)  # what a crawl begins with, for one row
    try:
        first = _Asked.of(address, listing, None, setting.seconds)
    except (HubprobeError, OSError) as error:
        setting.learned["silent"] = True
        yield _unreachable(setting, f"{address}: {_said(error, token)}")
        yield Check("token", "warn", f"{'one is set' if token else 'none'}, not checked: no endpoint to ask")
        return
    yield _endpoint(address, own, first)
    yield from _clock(first)
    yield _listing(setting, first)
    if token is None:
        yield _no_token(address, given.withheld, problem)
        yield _limits(first)
        return
    check = _token(address, token, setting.seconds)
    yield check
    try:
        yield _limits(first if check.state == "fail" else _Asked.of(address, listing, token, setting.seconds))
    except (HubprobeError, OSError) as error:
        yield Check("rate limits", "warn", _said(error, token), "wait some minutes")


def _listing(setting: Setting, first: _Asked) -> Check:
    what = setting.own.crawl.pipeline_tag or "any task"
    try:
        rows = json.loads(first.body)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        advice = "name a Hub that lists, or crawl a snapshot of one: hubprobe crawl --from hf://datasets/..."
        return Check("listing", setting.bad, "this endpoint lists no models: its answer is no list", advice)
    if not rows:
        advice = "look at [crawl] pipeline_tag in hubprobe.toml, and at --endpoint"
        return Check("listing", "warn", f"no model of {what} is listed: there would be nothing to probe", advice)
    return Check("listing", "ok", f"models of {what} are listed")


def _unreachable(setting: Setting, found: str) -> Check:
    """Say that the Hub does not answer: to a workspace that is searched already that is no failure."""
    if setting.bad == "fail":
        return Check("endpoint", "fail", found, _advice())
    if is_loopback(setting.endpoint or setting.own.endpoint):
        advice = "searching needs none; to crawl again start that hub (hubprobe demo starts its own), or use --endpoint"
    else:
        advice = f"searching needs none; to crawl again {_advice()}"
    return Check("endpoint", "warn", found, advice)


class _Asked:
    def __init__(self, headers: Mapping[str, str], body: bytes, seconds: float) -> None:
        self.headers, self.body, self.seconds = headers, body, seconds

    @classmethod
    def of(cls, address: str, url: str, token: str | None, seconds: float) -> _Asked:
        """GET ``url`` once; raises `HubprobeError` for a refusal and `OSError` for silence, within ``seconds``."""
        from crawler.hub.client import HubClient, bounded
        from crawler.hub.transport import BROKEN, RetryError, exchange

        def ask() -> _Asked:
            client = HubClient(address, token)
            try:
                with exchange(seconds):
                    started = time.monotonic()
                    with client.open(url) as (answer, chunks):
                        took = time.monotonic() - started
                        return cls(answer.headers, bounded(answer, chunks, _BODY_BYTES, None, None), took)
            except RetryError as error:
                raise error.problem from None
            except BROKEN as error:
                raise OSError(str(error) or type(error).__name__) from None
            finally:
                client.close()

        return within(seconds, ask)


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what ``function`` does, or raise `TimeoutError`: looking a name up cannot be given a time limit."""
    done: list[T] = []
    broken: list[BaseException] = []

    def run() -> None:
        try:
            done.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again below
            broken.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a lookup that hangs must not keep the process
    thread.start()
    thread.join(seconds)
    if broken:
        raise broken[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done[0]


def _endpoint(address: str, own: str, first: _Asked) -> Check:
    found = f"{address} answers in {first.seconds * 1000:.0f} ms"
    if not is_loopback(address) and address.startswith("http:"):
        return Check("endpoint", "warn", f"{found}, over plain HTTP", "use https: the token can be read on its way")
    if address != own.rstrip("/"):
        advice = "HF_ENDPOINT or --endpoint wins over the workspace: unset it if that is not meant"
        return Check("endpoint", "ok", f"{found}; the workspace itself names {own}", advice)
    return Check("endpoint", "ok", found)


def _clock(first: _Asked) -> Iterator[Check]:
    try:
        theirs = parsedate_to_datetime(first.headers["date"])
        ahead = (datetime.now(timezone.utc) - theirs).total_seconds()
    except (KeyError, ValueError, TypeError):  # it states no time, or one without a zone
        return
    off = abs(ahead) > CLOCK_SECONDS
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the endpoint's"
    yield Check("clock", "warn" if off else "ok", found, "set it: timedatectl set-ntp true" if off else "")


def _no_token(address: str, withheld: str, problem: str) -> Check:
    if problem:
        return Check("token", "fail", problem, "copy it again: no spaces, no line break; https for the endpoint")
    if withheld:
        return Check("token", "warn", "one is set, and not sent to this endpoint", withheld)
    if is_loopback(address):
        return Check("token", "ok", "none; a hub on this machine needs none")
    advice = f"make a read token at {address}/settings/tokens, then: export HF_TOKEN=hf_..."
    return Check("token", "warn", "none: the lowest rate limits", advice)


def _token(address: str, token: str, seconds: float) -> Check:
    """Ask whose token it is and what it may; hubprobe only reads, so a token that may write is too much."""
    from crawler.hub.transport import UnansweredError

    again = f"make a new read token at {address}/settings/tokens, or unset HF_TOKEN and run 'hf auth logout'"
    try:
        answer = json.loads(_Asked.of(address, f"{address}/api/whoami-v2", token, seconds).body)
        name, role, may_write = _whose(answer)
    except UnansweredError as error:
        if error.http in (401, 403):
            return Check("token", "fail", f"refused: {_said(error, token)}", again)
        if error.http == 404:
            return Check("token", "warn", "one is set; this endpoint does not say whose it is")
        return Check("token", "warn", f"not checked: {_said(error, token)}", "try again later")
    except (HubprobeError, OSError, ValueError) as error:
        return Check("token", "warn", f"not checked: {_said(error, token)}", "try again later")
    found = f"valid, of {name}, {role}".replace(token, "[token]")
    if may_write:
        return Check("token", "warn", found, "only release --push needs to write: for the rest use a read token")
    return Check("token", "ok", found)


def _whose(answer: Any) -> tuple[str, str, bool]:
    """Return user, role and whether the token may write, from a whoami answer; a `ValueError` if it is none."""
    if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
        raise ValueError("an answer that makes no sense")
    auth = answer.get("auth")
    about = auth.get("accessToken") if isinstance(auth, dict) else None
    role = about.get("role") if isinstance(about, dict) else None
    if role == "read":
        return answer["name"], "may only read", False
    if role == "write":
        return answer["name"], "may write", True
    if role == "fineGrained" and isinstance(about, dict):
        may_write = "write" in json.dumps(about.get("fineGrained"))
        return answer["name"], f"fine-grained, {'may write' if may_write else 'may only read'}", may_write
    return answer["name"], "the endpoint does not say what it may", False


def _limits(asked: _Asked) -> Check:
    from crawler.hub.pacing import standing

    told = standing(asked.headers)
    if told is None:
        return Check("rate limits", "ok", "the endpoint states none: requests are not paced")
    found = f"{told.resource_type}: {told.remaining}"
    found += f" of {told.limit} requests left in {told.window_seconds} s" if told.limit else " requests left"
    if told.remaining == 0:
        return Check("rate limits", "warn", found, f"wait {told.reset_in_seconds} s; a crawl would do so by itself")
    return Check("rate limits", "ok", found)


def _advice() -> str:
    proxies = [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if os.environ.get(name)]
    through = f" and the proxy in {proxies[0]}" if proxies else ""
    return f"check the network{through}, or name another address with --endpoint; what is on disk works without"


def _said(error: BaseException, token: str | None) -> str:
    text = str(error) or type(error).__name__
    return text.replace(token, "[token]") if token else text


# ── the encoders ──────────────────────────────────────────────────────────────────────────────────────────────────────


_ENCODER_SECONDS = 60.0  # for a handful of small requests
_ENCODER_ADVICE = (
    "name another in [search] encoder of hubprobe.toml (docs/encoders.md), or auto, or none for no text queries"
)


def encoders(setting: Setting) -> Iterator[Check]:
    """One row for texts, one for example images where the configuration names an eye of their own."""
    search = setting.own.search
    for check, name in (("encoder", search.encoder), ("image encoder", search.image_encoder)):
        if name:
            yield _encoder(setting, check, name)


def _encoder(setting: Setting, check: str, name: str) -> Check:
    from search.text import encoder_choice

    workspace = setting.workspace
    if name == encoder_choice.NONE:
        return Check(check, "ok", "none: this index will answer logit queries only")
    try:
        if built := encoder_choice.built_with(workspace, name, check.replace(" ", "_")):
            return Check(check, "ok", f"{built[0]} at {built[1][:12]}, as the index was built; its files are on disk")
        if not setting.is_asked:
            return Check(check, "ok", f"{name}, not looked at: the Hub is not asked")
        token = setting.learned.get("token", setting.token)
        found = within(_ENCODER_SECONDS, lambda: encoder_choice.choose(workspace, name, token))
    except (HubprobeError, OSError) as error:
        return Check(check, setting.bad, setting.without_token(str(error)), _ENCODER_ADVICE)
    about = f"{found.name} at {found.commit[:12]}" if found.commit else found.name
    if found.is_here:
        return Check(check, "ok", f"{about}, on disk")
    assert found.files is not None
    setting.learned["encoder_bytes"] = setting.learned.get("encoder_bytes", 0) + found.files.bytes
    about += f", {size(found.files.bytes)} to fetch"
    if found.files.converted:
        about += ", its weights from a pull request of the conversion bot"
    if found.passed_over:
        about += "; not taken: " + "; ".join(f"{other}: {why}" for other, why in found.passed_over)
    return Check(check, "ok", about)


# ── the probe images ──────────────────────────────────────────────────────────────────────────────────────────────────


_IMAGES_SECONDS = 120.0  # the first images of a data set lie behind a few requests and some megabytes
_IMAGES_ADVICE = "name a folder of images, a Parquet file or a data set: hubprobe run --probes-from PLACE"


def probe_images(setting: Setting) -> Iterator[Check]:
    """Whether a probe set is there, or its source: split, columns, and an image that opens."""
    from probing.probes import wanted
    from probing.sources import glance

    if (setting.root / "probes" / "current.json").exists():
        setting.learned["has_probes"] = True
        yield Check("probe images", "ok", "built: the workspace has its probe set")
        return
    place = wanted(setting.workspace, setting.probes_from, token=setting.learned.get("token", setting.token))
    where = f"{place.source}, split {place.split}"
    if not (place.is_local or setting.is_asked):
        yield Check("probe images", "ok", f"{where}, not looked at: the Hub is not asked")
        return
    try:
        found = within(_IMAGES_SECONDS, lambda: glance(place))
    except (HubprobeError, OSError) as error:
        yield Check("probe images", "fail", setting.without_token(str(error)), _IMAGES_ADVICE)
        return
    about = f"{where}: column {found.image_column}" if found.image_column else f"{place.source}: {found.total:,} images"
    about += f", the first of {found.width} x {found.height} pixels"
    about += f", captions in {found.caption_column}" if found.caption_column else ""
    if found.caption_column is None and found.columns and setting.own.search.encoder.startswith("captions:"):
        advice = "name the column: hubprobe probes build --caption-column NAME; or choose a clip: encoder"
        yield Check("probe images", "fail", f"{about}; no captions, which {setting.own.search.encoder} reads", advice)
        return
    yield Check("probe images", "ok", about)
