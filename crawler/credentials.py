"""The Hub's token: where it comes from. Where it goes is `client`'s business: to the endpoint's own origin only."""

from __future__ import annotations

from huggingface_hub import get_token


def resolve_token(token: str | bool | None) -> str | None:
    """Return the token to send: the one given, the machine's own for None or True, none for False."""
    if token is False:
        return None
    return token if isinstance(token, str) else get_token()
