"""The Hub's token: where it comes from. Where it goes is `client`'s business: to the endpoint's own origin only."""

from __future__ import annotations

from huggingface_hub import get_token

from workspace import ConfigError


def resolve_token(token: str | bool | None) -> str | None:
    """Return the token to send: the one given, the machine's own for None or True, none for False or empty text.

    Raises `ConfigError`, which does not repeat it, for one that no header can carry.
    """
    if token is False:
        return None
    found = (token if isinstance(token, str) else get_token() or "").strip()
    if found and not (found.isascii() and found.isprintable() and " " not in found):
        raise ConfigError("the Hub's token holds characters that no token has: check --token or HF_TOKEN")
    return found or None
