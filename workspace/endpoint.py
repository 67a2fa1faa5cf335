"""Addresses of Hubs, which of them is sent this machine's token, and through which proxy: one answer for every room.

A workspace may come from a stranger, and with it the endpoint in its ``hubprobe.toml``. So a token that was found on
this machine and not given for this very command goes to the Hugging Face Hub, or to an endpoint that the user named,
and nowhere else.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from workspace.errors import ConfigError
from workspace.text import printable

logger = logging.getLogger(__name__)

Origin = tuple[str, str, int]
"""Scheme, host and port."""

_PORTS = {"http": 80, "https": 443}
_HUB: frozenset[Origin] = frozenset({("https", "huggingface.co", 443), ("https", "hf.co", 443)})
_PROXIES = ("http", "https", "socks5", "socks5h")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def origin(url: str) -> Origin:
    """Return scheme, host and port of ``url``; an origin that equals no other where it has none that can be."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme.lower(), -1)
    except ValueError:
        return "", url, -1


def is_loopback(url: str) -> bool:
    """Return whether ``url`` is on this very machine."""
    return is_local(origin(url)[1])


def is_local(host: str) -> bool:
    """Return whether ``host``, a name or an address, can be reached from this very machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_hugging_face(url: str) -> bool:
    """Return whether ``url`` is on the Hugging Face Hub itself, over https."""
    return origin(url) in _HUB


def is_on(variable: str) -> bool:
    """Return whether an environment variable is set to what huggingface_hub takes for true."""
    return os.environ.get(variable, "").upper() in _TRUE


def checked(endpoint: str) -> str:
    """Return the address of a Hub without its last slash. Raises `ConfigError` when it is no address of one."""
    address = endpoint.strip().rstrip("/")
    shown = printable(endpoint, 100)
    scheme, host, port = origin(address)
    if scheme not in _PORTS or not host or not 0 < port < 65536:
        example = f"https://{address}" if "://" not in address and host == "" and address else "https://huggingface.co"
        raise ConfigError(
            f"the endpoint '{shown}' is no address of a Hub: write it with its scheme, as {printable(example, 100)} "
            "(--endpoint, HF_ENDPOINT, or endpoint in hubprobe.toml)"
        )
    odd = not address.isascii() or not address.isprintable() or any(mark in address for mark in " \\?#@")
    if odd:
        raise ConfigError(
            f"the endpoint '{shown}' is no address of a Hub: it may hold a scheme, a host, a port and a path, and "
            "no user name, question or fragment"
        )
    return address


@dataclass(frozen=True)
class Access:
    """What a Hub is sent: a token or none, and why the machine's own is kept from it, if it is."""

    token: str | None = field(repr=False)
    withheld: str = ""


def token_for(endpoint: str, token: str | bool | None = None, *, named: bool = False) -> str | None:
    """Return the token to send to ``endpoint``, or None; warn when the machine's own is withheld. See `access`."""
    given = access(endpoint, token, named=named)
    if given.withheld:
        _warn(f"your Hugging Face token is not sent to {printable(endpoint, 100)}: {given.withheld}")
    return given.token


def access(endpoint: str, token: str | bool | None = None, *, named: bool = False) -> Access:
    """Decide whether ``endpoint`` is sent a token, and which.

    One that is given goes to any Hub over https, and to this machine. The machine's own (``HF_TOKEN``, ``hf auth
    login``) goes to the Hugging Face Hub, and to an endpoint that the user named for this command.

    Args:
        endpoint: address of the Hub.
        token: one given for this command; None or True for the one this machine has, False or "" for none.
        named: whether the user named ``endpoint``. ``HF_ENDPOINT`` names one too; a workspace does not.

    Whoever asks a Hub asks here first, so this is also where the environment's proxies are read: `agree_on_proxies`.

    Raises `ConfigError`, which does not repeat the token, for one that no header can carry, for one given for a Hub
    over plain http, for an ``endpoint`` that is no address, and for a proxy that nobody can speak to.
    """
    address = checked(endpoint)
    agree_on_proxies(address)
    private = origin(address)[0] == "https" or is_loopback(address)
    if token is False or token == "" or (token is None and is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return Access(None)
    if isinstance(token, str):
        if not private:
            raise ConfigError(
                f"a token is not sent to {printable(address, 100)} over plain http, where everybody on the way can "
                "read it: use https, or leave --token away"
            )
        return Access(_sendable(token))
    by_user = named or origin(address) == origin(os.environ.get("HF_ENDPOINT", ""))
    if private and (by_user or is_hugging_face(address)):
        from huggingface_hub import get_token

        return Access(_sendable(get_token() or ""))
    if not _machine_has_one():
        return Access(None)
    if by_user:
        return Access(None, "over plain http everybody on the way can read it; use https")
    return Access(None, "its workspace names that Hub and you did not; name it with --endpoint, or give --token")


def _sendable(token: str) -> str | None:
    kept = token.strip()
    if kept and not (kept.isascii() and kept.isprintable() and " " not in kept):
        raise ConfigError("the Hub's token holds characters that no token has: check --token or HF_TOKEN")
    return kept or None


def _machine_has_one() -> bool:
    """Return whether the machine has a token, without what `get_token` may ask of the network for it."""
    from huggingface_hub import constants

    named = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")
    return any(os.environ.get(name) for name in named) or Path(constants.HF_TOKEN_PATH).is_file()


@cache
def _warn(sentence: str) -> None:
    logger.warning("%s", sentence)  # once, however often the rooms ask


# ── the way there ────────────────────────────────────────────────────────────────────────────────────────────────
def proxy_for(url: str) -> str:
    """Return the address of the environment's proxy for ``url``; empty when it is asked directly.

    ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``ALL_PROXY`` name http, https and SOCKS 5 proxies, http where they name no
    scheme; ``NO_PROXY`` names hosts with all below them, addresses, networks (CIDR), each with a port or without, or
    ``*``. Raises `ConfigError` for a proxy of another kind.
    """
    scheme, host, port = origin(url)
    named = getproxies()
    address = (named.get(scheme) or named.get("all") or "").strip()
    if not address or any(_covers(entry, host, port) for entry in _entries(named.get("no", ""))):
        return ""
    kind, _, rest = _written_out(address).partition("://")
    if kind not in _PROXIES or origin(f"http://{rest}")[1] == "":
        raise ConfigError(
            f"the environment names a proxy of a kind that is not understood ({kind}://): "
            f"{', '.join(_PROXIES)} are; change HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or name the Hub in NO_PROXY"
        )
    return f"{kind}://{rest}"


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    parts = urlsplit(f"//{entry}")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # not both are addresses
        name = (parts.hostname or "").lstrip("*").lstrip(".")
    try:
        stated = parts.port
    except ValueError:
        return False
    return bool(name) and stated in (None, port) and (host == name or host.endswith(f".{name}"))


def agree_on_proxies(endpoint: str) -> None:
    """Make the environment say to every library what `proxy_for` says of ``endpoint``.

    huggingface_hub, datasets and child processes take ``socks://`` for an error, and networks or blanks in ``NO_PROXY``
    for nothing. Raises `ConfigError` as `proxy_for` does.
    """
    direct = not proxy_for(endpoint)
    named = [name for lower in _PROXY_VARIABLES for name in (lower, lower.upper()) if os.environ.get(name, "").strip()]
    for name in named:
        os.environ[name] = _written_out(os.environ[name].strip())
    entries = _entries(getproxies().get("no", ""))
    if named and direct and "*" not in entries:
        entries.append(origin(endpoint)[1])
    if entries:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(dict.fromkeys(entries))


def _written_out(address: str) -> str:
    """Return a proxy's address with its scheme: http where none is named."""
    kind, mark, rest = address.partition("://")
    if not mark:
        return f"http://{address}"
    return f"{ {'socks': 'socks5h'}.get(kind.lower(), kind.lower()) }://{rest}"


def _entries(text: str) -> list[str]:
    return [entry for entry in re.split(r"[\s,]+", text) if entry]


T = TypeVar("T")

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses of a Hub that may answer when it is asked again."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before it is asked again, where it does not say how long to wait."""

LONGEST = 310.0
"""Seconds waited at most: a window of the Hub's rate limits is five minutes."""


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error comes of, however deep a library wrapped it; None where there was none."""
    answer = _answer(error)
    return None if answer is None else int(answer.status_code)


def patiently(call: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Return what ``call`` does; where it fails at a Hub that is only busy, wait as it asks and call once more."""
    for pause in PAUSES:
        try:
            return call()
        except Exception as error:
            if status_of(error) not in PASSING:
                raise
            wait = _stated(_answer(error))
            wait = min(pause if wait is None else wait, LONGEST)
            logger.info("the Hub answers %s: asked again in %.0f s", status_of(error), wait)
        sleep(wait)
    return call()


def _answer(error: BaseException | None) -> Any:
    seen = 0
    while error is not None and seen < 10:
        answer = getattr(error, "response", None)
        if isinstance(getattr(answer, "status_code", None), int):
            return answer
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _stated(answer: Any) -> float | None:
    from huggingface_hub import utils

    client: Any = utils
    told = client.parse_ratelimit_headers(answer.headers)
    if told is not None and told.remaining == 0:
        return float(told.reset_in_seconds)
    after = str(answer.headers.get("retry-after", ""))
    return float(after) if after.isdecimal() and len(after) < 6 else None
