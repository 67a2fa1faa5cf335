"""Safetensors that the Hub's conversion bot offers in a pull request, of repositories whose weights are pickles.

Many repositories before 2024 hold a ``pytorch_model.bin`` alone, which is a pickle and never opened here; for many of
them the bot has opened a pull request that adds the same weights as safetensors, and nobody has merged it. Its weights
are used when nothing but safetensors was added to what the main branch holds now.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

CONVERTERS = ("SFconvertbot",)
"""Accounts of the Hub whose conversions are taken: its own bot."""

_CONFIG = "config.json"
_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json", re.ASCII)
_PICKLES = re.compile(r"pytorch_model(?:-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json", re.ASCII)


def pickles(paths: Iterable[str]) -> list[str]:
    """Return the files that hold pickled weights as transformers writes them, at the root: what the bot converts."""
    return sorted(path for path in paths if _PICKLES.fullmatch(path))


def weights(paths: Iterable[str]) -> list[str]:
    """Return the files that hold weights as the bot writes them, and their index."""
    return sorted(path for path in paths if _WEIGHTS.fullmatch(path))


def number(discussions: Any, authors: Collection[str] = CONVERTERS) -> int | None:
    """Return the number of the newest open pull request by one of ``authors``; None when there is none.

    ``discussions`` are those of the API's answer to ``/api/models/{id}/discussions``, untrusted.

    >>> bot = {"num": 4, "isPullRequest": True, "status": "open", "author": {"name": "SFconvertbot"}}
    >>> number([bot, bot | {"num": 7, "author": {"name": "somebody"}}, bot | {"num": 9, "status": "closed"}, None])
    4
    """
    found = [
        entry["num"]
        for entry in (discussions if isinstance(discussions, list) else ())
        if isinstance(entry, Mapping)
        and entry.get("isPullRequest") is True
        and entry.get("status") == "open"
        and isinstance(author := entry.get("author"), Mapping)
        and author.get("name") in authors
        and type(entry.get("num")) is int
        and 0 < entry["num"] < 10**9
    ]
    return max(found, default=None)


def objection(main: Mapping[str, str | None], offered: Mapping[str, str | None]) -> str | None:
    """Return why the weights of a pull request are not those of the main branch, in half a sentence; None if they are.

    Both are git blob sha1 by file; None for one of the main branch that is not known (yet): it is not compared.

    >>> main = {"config.json": "a", "pytorch_model.bin": "b", "README.md": "c"}
    >>> objection(main, main | {"model.safetensors": "d"})
    >>> objection(main, main | {"model.safetensors": "d", "pytorch_model.bin": "e"})
    'its pytorch_model.bin is not the one of the main branch'
    """
    added = sorted(offered.keys() - main.keys())
    if not any(path.endswith(".safetensors") for path in weights(added)):
        return "it adds no weights"
    if odd := [path for path in added if not _WEIGHTS.fullmatch(path)]:
        return f"it adds more than weights: {odd[0]}"
    for path in (_CONFIG, *pickles(main)):
        known = main.get(path)
        if path not in offered or (known is not None and known != offered[path]):
            return f"its {path} is not the one of the main branch"
    return None


def find(api: HfApi, main: ModelInfo, authors: Collection[str] = CONVERTERS) -> ModelInfo | None:
    """Return what the Hub says of the pull request whose safetensors are those of ``main``; None when there is none.

    Asks twice: for the pull requests, and for the files of the newest one by ``authors``. Its ``sha`` pins it, its
    ``siblings`` name its files with their hashes.

    Args:
        api: the Hub; raises what its methods raise.
        main: the repository as ``api.model_info(repo, files_metadata=True)`` has it.
        authors: names of accounts.
    """
    listed = api.get_repo_discussions(
        main.id,
        author=next(iter(authors)) if len(authors) == 1 else None,
        discussion_type="pull_request",
        discussion_status="open",
    )
    found = number(
        [{**vars(d), "isPullRequest": d.is_pull_request, "author": {"name": d.author}} for d in listed], authors
    )
    if found is None:
        return None
    offer = api.model_info(main.id, revision=f"refs/pr/{found}", files_metadata=True)
    return None if objection(_hashes(main), _hashes(offer)) else offer


def _hashes(info: ModelInfo) -> dict[str, str | None]:
    return {file.rfilename: file.blob_id for file in info.siblings or ()}
