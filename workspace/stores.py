"""Where the files of a remote lie: object stores through obstore, the Hugging Face Hub through its own library.

A store lists, reads and writes objects by name. Throttling (503 SlowDown, 429) and cut connections are waited out, for
minutes. Credentials are found by the libraries, where they always look: ``AWS_*``, ``GOOGLE_*``, ``AZURE_*``, the
machine's own role, ``HF_TOKEN``; no error says any of them.
"""

from __future__ import annotations

import builtins
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from workspace.errors import ConfigError, RemoteError
from workspace.text import printable

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "hf", "file", "http", "https")
"""Of addresses that are understood; the last two can only be read."""

PATIENCE = timedelta(minutes=4)
"""How long one request is tried again; above five minutes its signature may have run out."""

IMPATIENT = timedelta(seconds=15)
"""The same where somebody waits for an answer."""

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_AGAIN = "nothing here is lost: check the address and the network, then run the same command again"
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY|SAS", re.IGNORECASE)


class Object(NamedTuple):
    """One object: its name below the remote's address, and its size in bytes."""

    name: str
    size: int


class Store(Protocol):
    """What a remote needs of the place its files lie in. Errors are `RemoteError`; ``requests`` counts the calls."""

    requests: int

    def list(self, prefix: str, after: str = "") -> Iterator[Object]:
        """Yield the objects in the folder ``prefix``, by name, those that come after the name ``after``."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``start`` to ``stop`` of an object; raises `FileNotFoundError` when there is none."""

    def fetch(self, name: str, path: Path, most: int) -> None:
        """Write an object to a file; raises `RemoteError` when it is longer than ``most`` bytes."""

    def tagged(self, name: str) -> tuple[bytes, Any] | None:
        """Return an object and a tag of this very version of it; None when there is none."""

    def write(self, files: Mapping[str, Path | bytes]) -> None:
        """Write objects, in this order: the last is there only when all others are."""

    def swap(self, name: str, content: bytes, tag: Any) -> bool:
        """Write an object if it is still the one of ``tag`` (None: if there is none); return whether it was."""


def open_store(url: str, patience: timedelta = PATIENCE) -> Store:
    """Return the store at ``url``, asked again for ``patience`` while it is busy or away.

    Raises `ConfigError` for an address that is not understood.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not (parts.netloc or parts.path):
        raise ConfigError(f"a remote is {', '.join(f'{s}://' for s in SCHEMES[:5])}..., not '{safe(url)}'")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            "a remote's address holds no credentials and no parameters: put those where its tools look for them, such "
            f"as AWS_ACCESS_KEY_ID, and write {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        )
    return _HubStore(url, patience) if parts.scheme == "hf" else _ObjectStore(url, patience)


def safe(text: object, limit: int = 300) -> str:
    """Return a library's message on one line, without passwords, parameters of addresses and this machine's secrets."""
    said = re.sub(r"(\w://)[^\s/@]*@", r"\1", str(text).partition("\n\n")[0])
    said = re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "?...", said)
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            said = said.replace(value, "...")
    return printable(said, limit)


class _ObjectStore:
    """S3 and what speaks it, Google Cloud Storage, Azure, a folder; http(s) to read from. See `Store`."""

    def __init__(self, url: str, patience: timedelta = PATIENCE) -> None:
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError as error:
            raise ConfigError("a remote needs obstore: pip install 'hubprobe[remote]'") from error
        self.url, self.requests = url, 0
        self._do, self._errors = obstore, exceptions
        options: dict[str, Any] = {}
        if not url.startswith("file:"):
            plain = any(address.startswith("http:") for address in (url, *map(os.environ.get, _ENDPOINTS)) if address)
            client = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=120), "allow_http": plain}
            options = {"client_options": client}
            most = min(timedelta(seconds=15), patience / 8)
            # a random time up to ``base`` times the last one: on average twice as long
            backoff = {"init_backoff": timedelta(milliseconds=500), "max_backoff": most, "base": 4}
            options["retry_config"] = {"backoff": backoff, "max_retries": 60, "retry_timeout": patience}
            if url.startswith("s3:") and (provider := _aws_profile()):
                options["credential_provider"] = provider
        else:
            options["mkdir"] = True
        with self._wrapped():
            self._store = store.from_url(url, **options)

    def list(self, prefix: str, after: str = "") -> Iterator[Object]:
        # a request for every thousand
        with self._wrapped():
            pages = self._do.list(self._store, prefix, offset=after or None, chunk_size=1000)
            for page in pages:
                self.requests += 1
                for entry in page:
                    yield Object(entry["path"], int(entry["size"]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        self.requests += 1
        with self._wrapped():
            if stop is None and not start:
                return bytes(self._do.get(self._store, name).bytes())
            return bytes(self._do.get_range(self._store, name, start=start, end=stop))

    def fetch(self, name: str, path: Path, most: int) -> None:
        self.requests += 1
        with self._wrapped():
            found = self._do.get(self._store, name)
            if found.meta["size"] > most:
                raise RemoteError(f"{name} in the remote has {found.meta['size']} bytes; at most {most} are read")
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=1 << 20):
                    file.write(chunk)

    def tagged(self, name: str) -> tuple[bytes, Any] | None:
        self.requests += 1
        try:
            with self._wrapped():
                found = self._do.get(self._store, name)
                return bytes(found.bytes()), _tag(found.meta)
        except FileNotFoundError:
            return None

    def write(self, files: Mapping[str, Path | bytes]) -> None:
        for name, content in files.items():
            self.requests += 1
            with self._wrapped(writes=True):
                self._do.put(self._store, name, content)

    def swap(self, name: str, content: bytes, tag: Any) -> bool:
        self.requests += 1
        if tag is not None and self.url.startswith("file:"):  # a folder knows no condition but that of making
            current = self.tagged(name)
            if current is None or current[1] != tag:
                return False
            self.write({name: content})
            return True
        try:
            with self._wrapped(writes=True):
                self._do.put(self._store, name, content, mode="create" if tag is None else tag, use_multipart=False)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _wrapped(self, *, writes: bool = False) -> Iterator[None]:
        found = self._errors
        try:
            yield
        except (FileNotFoundError, found.NotFoundError) as error:
            if writes or "NoSuchBucket" in str(error):
                raise RemoteError(f"{self.url} is not there: make the bucket first ({safe(error)})") from None
            raise FileNotFoundError(safe(error)) from None
        except (found.AlreadyExistsError, found.PreconditionError) as error:
            raise FileExistsError(safe(error)) from None
        except (found.UnauthenticatedError, found.PermissionDeniedError) as error:
            raise RemoteError(
                f"{self.url} refuses: {safe(error)}; are this machine's credentials for it set?"
            ) from None
        except found.BaseError as error:  # its cause holds the request
            raise RemoteError(f"{self.url}: {safe(error)}; {_AGAIN}") from None


def _tag(meta: Any) -> dict[str, str]:
    return {name: str(meta[name]) for name in ("e_tag", "version") if meta.get(name)}


def _aws_profile() -> Any:
    """Return boto3's credentials where the environment names none: profiles, SSO. None where boto3 is not there."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (Path.home() / ".aws").is_dir():
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except (ImportError, ValueError):
        return None


class _HubStore:
    """A dataset repository or a bucket of the Hugging Face Hub: ``hf://datasets/ORG/NAME``, ``hf://buckets/ORG/NAME``.

    Writing to a dataset is a commit, which is conditional and takes all files of a write at once; a bucket knows no
    condition, and the last writer of a name wins. See `Store`.
    """

    def __init__(self, url: str, patience: timedelta = PATIENCE) -> None:
        from huggingface_hub import HfApi, HfFileSystem, constants

        from workspace.endpoint import token_for

        kind, _, rest = url.removeprefix("hf://").partition("/")
        place = rest.split("/")
        if kind not in ("datasets", "buckets") or len(place) < 2 or not all(place[:2]):
            raise ConfigError(f"an address on the Hub is hf://datasets/ORG/NAME or hf://buckets/ORG/NAME, not '{url}'")
        token = token_for(constants.ENDPOINT) or False
        self.url, self.requests, self.bucket, self._patience = url, 0, kind == "buckets", patience.total_seconds()
        self.repo, self._below = "/".join(place[:2]), "/".join(p for p in place[2:] if p)
        self._api = HfApi(token=token)
        self._files = HfFileSystem(token=token, use_listings_cache=False)

    def list(self, prefix: str, after: str = "") -> Iterator[Object]:
        # the Hub lists whole folders only
        base = self._path("")
        try:
            found: Any = self._calm(lambda: self._files.find(self._path(prefix), detail=True, refresh=True))
        except FileNotFoundError:
            return
        for path in sorted(found):
            if (name := path.removeprefix(base).lstrip("/")) > after:
                yield Object(name, int(found[path]["size"]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        content: bytes = self._calm(lambda: self._files.cat_file(self._path(name), start=start or None, end=stop))
        return content

    def fetch(self, name: str, path: Path, most: int) -> None:
        about: Any = self._calm(lambda: self._files.info(self._path(name)))
        size = int(about["size"])
        if size > most:
            raise RemoteError(f"{name} in the remote has {size} bytes; at most {most} are read")
        self._calm(lambda: self._files.get_file(self._path(name), str(path)))

    def tagged(self, name: str) -> tuple[bytes, Any] | None:
        # the tag of a dataset's file is its repository's commit
        try:
            tag = None if self.bucket else self._calm(lambda: self._api.dataset_info(self.repo)).sha
            return self.read(name), tag or ""
        except FileNotFoundError:
            return None

    def write(self, files: Mapping[str, Path | bytes]) -> None:
        # all in one commit
        self._write(files, None)

    def swap(self, name: str, content: bytes, tag: Any) -> bool:
        try:
            if tag is None and self.tagged(name) is not None:
                return False
            self._write({name: content}, tag or None)
        except FileExistsError:
            return False
        return True

    def _write(self, files: Mapping[str, Path | bytes], parent: str | None) -> None:
        from huggingface_hub import CommitOperationAdd

        below = f"{self._below}/" if self._below else ""
        if self.bucket:
            added: builtins.list[tuple[str | Path | bytes, str]] = [
                (content, below + name) for name, content in files.items()
            ]
            self._calm(lambda: self._api.batch_bucket_files(self.repo, add=added))
            return
        said = f"hubprobe: {len(files)} files"
        adds = [CommitOperationAdd(below + name, content) for name, content in files.items()]
        self._calm(
            lambda: self._api.create_commit(
                self.repo, adds, repo_type="dataset", commit_message=said, parent_commit=parent
            )
        )

    def _path(self, name: str) -> str:
        kind = "buckets" if self.bucket else "datasets"
        return "/".join(part for part in (kind, self.repo, self._below, name) if part)

    def _calm(self, ask: Callable[[], T]) -> T:
        """Return what ``ask`` returns, tried again while the Hub is busy or cannot be reached."""
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

        from workspace.endpoint import transport_errors

        until, wait = time.monotonic() + self._patience, 0.5
        while True:
            self.requests += 1
            try:
                return ask()
            except (EntryNotFoundError, RepositoryNotFoundError, FileNotFoundError) as error:
                raise FileNotFoundError(safe(error)) from None
            except transport_errors() as error:
                code = getattr(getattr(error, "response", None), "status_code", 503)
                if code == 412:
                    raise FileExistsError(safe(error)) from None
                if code not in (408, 429, 500, 502, 503, 504) or time.monotonic() > until:
                    raise RemoteError(f"{self.url}: {safe(error)}; {_AGAIN}") from None
            time.sleep(wait)
            wait = min(2 * wait, 30.0)
