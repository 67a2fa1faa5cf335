"""The files of a release: a manifest with the hash of each; found in a folder or on a Hub, and uploaded to one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hubprobe.release.tables import NAMES
from workspace import HubError, WorkspaceError
from workspace.endpoint import token_for, transport_errors
from workspace.files import canonical_json, sha256_of, short_hash, write_json
from workspace.records import SCHEMA_VERSION
from workspace.text import printable

FILE = "manifest.json"
FORMAT = 2
"""Of the folder's layout; a release of another one is refused. 2: `repo_id` in every table, log-sum-exp."""

MAX_BYTES = 16 * 1024**2
"""Size of a manifest that is read; one of a thousand files has 200 KB."""

MAX_PROBES = 1_000_000

_PATH = re.compile(
    rf"(?:(?:{'|'.join(NAMES)})/train-[0-9]{{5}}-of-[0-9]{{5}}\.parquet|encoders/[0-9a-f]{{16}}\.safetensors"
    r"|figures/[a-z]{1,40}\.png|README\.md|croissant\.json|CITATION\.cff)"
)
_CONTENT = (*(f"{name}/" for name in NAMES), "encoders/")
_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
_Count = Annotated[int, Field(ge=0, le=2**40)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class FileFacts(_Part):
    """Size in bytes and sha256 of a file."""

    bytes: _Count
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class TableFacts(_Part):
    """A file of a table, and its rows."""

    path: Annotated[str, StringConstraints(max_length=200)]
    rows: _Count


class EncoderFacts(_Part):
    """The encoder of an index, and the file of the probes' embeddings under it."""

    name: Annotated[str, StringConstraints(max_length=200)]
    commit: Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]
    dim: Annotated[int, Field(ge=1, le=65_536)]
    file: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}\.safetensors$")]


class PredecessorFacts(_Part):
    """The release before this one, and how many repositories have changed since, by kind (`diff.KINDS`)."""

    release_id: _Hash
    same_probes: bool
    changes: dict[str, _Count]


class Manifest(_Part):
    """What is used of a manifest; what else it says is for people to read."""

    release_id: _Hash
    probe_set: _Hash
    n_probes: Annotated[int, Field(ge=2, le=MAX_PROBES)]
    probe_images: bool
    rows: dict[str, _Count]
    tables: dict[str, list[TableFacts]]
    files: dict[str, FileFacts]
    encoder: EncoderFacts | None = None
    image_encoder: EncoderFacts | None = None
    probe_source: Annotated[str, StringConstraints(max_length=500)] = ""
    predecessor: PredecessorFacts | None = None
    config: dict[str, Any] = {}


def file_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return ``{"bytes": ..., "sha256": ...}`` of every file below ``folder`` but the manifest, by path, sorted."""
    names = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {
        name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in names.items()
        if name != FILE and not name.startswith(".")
    }


def release_id(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the hash that names the content of the tables, 16 hex digits; card and figures have no part in it."""
    return short_hash(canonical_json({name: files[name] for name in files if name.startswith(_CONTENT)}))


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, its files' hashes added."""
    stamp = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    write_json(folder / FILE, {**content, **stamp, "files": file_hashes(folder)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder, which may come from a stranger, and check that it can be followed.

    Raises `WorkspaceError` for a release of a later format or schema, for a path that no release has, for counts that
    contradict each other, and for what is no manifest.
    """
    content = _parsed(folder)
    if not isinstance(content, dict) or "format" not in content or "files" not in content:
        raise WorkspaceError(f"{folder / FILE} is no manifest of a hubprobe release")
    if content["format"] != FORMAT or str(content.get("schema_version")) != SCHEMA_VERSION:
        made_by = content.get("versions")
        version = made_by.get("hubprobe") if isinstance(made_by, dict) else None
        raise WorkspaceError(
            f"the release has format {printable(content['format'], 10)} and schema "
            f"{printable(content.get('schema_version'), 10)}, this hubprobe reads {FORMAT} and {SCHEMA_VERSION}: "
            f"it was made by hubprobe {printable(version or 'of an unknown version', 20)}; update hubprobe with "
            "pip install --upgrade, or release it again where it was made"
        )
    try:
        manifest = Manifest.model_validate(content)
    except RecursionError as error:
        raise _unusable(folder, "it is nested too deeply") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(printable(part, 80) for part in problem["loc"])
        raise _unusable(folder, f"'{where}': {printable(problem['msg'], 120)}") from error
    _check_names(folder, manifest)
    return manifest


def check_file(folder: Path, name: str, facts: FileFacts) -> Path:
    """Return the path of a file of a release, of the size and the sha256 that its manifest states.

    Raises `WorkspaceError` when it is not, or is no plain file of the folder's own: a link may lead anywhere, and what
    is no file may never end.
    """
    path = folder / name
    if not path.is_file():
        raise WorkspaceError(f"the release lacks {name}, which its manifest names")
    if path.resolve() != folder.resolve() / name:
        raise WorkspaceError(
            f"{name} is a link: a release has files of its own; copy it with 'cp -rL' and use the copy"
        )
    if path.stat().st_size != facts.bytes or sha256_of(path) != facts.sha256:
        raise WorkspaceError(f"{name} is not what the release's manifest says: damaged or changed; get it again")
    return path


def _parsed(folder: Path) -> Any:
    path = folder / FILE
    if not path.is_file() or path.is_symlink():
        why = f"it has no {FILE}" if folder.is_dir() else "there is no such folder"
        raise WorkspaceError(f"{folder} holds no release: {why}; name a folder with one, or hf://datasets/OWNER/NAME")
    if path.stat().st_size > MAX_BYTES:
        raise _unusable(folder, f"it has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # of UTF-8, JSON, numbers, surrogates; nested too deeply
        raise _unusable(folder, f"it is no valid JSON ({printable(error, 120)})") from error
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _PATH.fullmatch(name):
            raise _unusable(folder, f"it names {printable(name)!r}, which no release holds")
    for table in NAMES:
        parts, rows = manifest.tables.get(table), manifest.rows.get(table)
        if not parts or rows is None:
            raise _unusable(folder, f"it has no table {table}")
        stated = [part.path for part in parts]
        listed = sorted(name for name in manifest.files if name.startswith(f"{table}/"))
        expected = [f"{table}/train-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
        if stated != expected or listed != expected:
            raise _unusable(folder, f"the files of {table} are not the {len(parts)} that it counts")
        if sum(part.rows for part in parts) != rows:
            raise _unusable(folder, f"the rows of the files of {table} do not add up to {rows:,}")
    for side in ("encoder", "image_encoder"):
        about: EncoderFacts | None = getattr(manifest, side)
        if about is not None and f"encoders/{about.file}" not in manifest.files:
            raise _unusable(folder, f"the file of {side} is not among its files")
    if release_id({name: facts.model_dump() for name, facts in manifest.files.items()}) != manifest.release_id:
        raise _unusable(folder, "'release_id' is not that of its files")
    if manifest.rows["probes"] != manifest.n_probes:
        raise _unusable(folder, f"it counts {manifest.n_probes:,} probes and {manifest.rows['probes']:,} rows of them")


def _unusable(folder: Path, why: str) -> WorkspaceError:
    return WorkspaceError(f"the manifest of {folder} is not what hubprobe writes: {why}; get another copy")


# ── in a folder, or on a Hub ─────────────────────────────────────────────────────────────────────────────────────────

_COMMIT = re.compile("[0-9a-f]{40}")
_ADDRESS = re.compile(r"hf://datasets/([^/@\s]+/[^/@\s]+?)(?:@([^@\s]+?))?/?")


@dataclass(frozen=True)
class ReleaseSource:
    """A release that can be read; no file of it is used before its hash was checked."""

    where: str  # as it was named
    folder: Path  # where its files lie, or are put
    manifest: Manifest  # what it says of itself, checked
    repo: str = ""  # ``owner/name`` on a Hub; empty for a folder
    revision: str = ""  # the commit, 40 hex digits; empty for a folder
    endpoint: str = ""  # of the Hub
    token: str | None = None  # for it; none is sent when it is None or ""
    progress: bool = True  # whether the Hub's client draws its progress bars

    def file(self, name: str) -> Path:
        """Return the path of a file of the release, fetched if need be, its sha256 checked.

        Raises `WorkspaceError` when it is not what the manifest says, `HubError` when it cannot be fetched.
        """
        facts = self.manifest.files[name]
        if not self.repo:
            return check_file(self.folder, name, facts)
        self._download(name)
        try:
            return check_file(self.folder, name, facts)
        except WorkspaceError:  # cut short by a full disk or changed behind the client's back: once more, from nothing
            (self.folder / name).unlink(missing_ok=True)
            self._download(name)
            return check_file(self.folder, name, facts)

    def _download(self, name: str) -> None:
        _download(self.repo, self.revision, name, self.folder, self.endpoint, self.token, self.progress)


def open_source(
    where: str, cache: Path, *, endpoint: str, token: str | None = None, progress: bool = True
) -> ReleaseSource:
    """Return the release at ``where``: a folder, or ``hf://datasets/OWNER/NAME[@revision]``.

    What is fetched goes to ``cache`` and stays there, so that an interrupted import goes on. Without ``token`` none is
    sent: the machine's own is not looked for here.

    Raises `WorkspaceError` for what is no release or a later one, `HubError` when the Hub does not give it.
    """
    address = _ADDRESS.fullmatch(where)
    if address is None:
        if "://" in where:
            raise WorkspaceError(f"{printable(where)} is not understood: name a folder or hf://datasets/OWNER/NAME")
        return ReleaseSource(where, Path(where), read_manifest(Path(where)))
    from huggingface_hub import HfApi

    repo, revision = address[1], address[2]
    api = HfApi(endpoint=endpoint, token=token or False)
    try:
        about = api.dataset_info(repo, revision=revision, files_metadata=True)
    except transport_errors() as error:
        raise HubError(f"the dataset {repo} cannot be read from {endpoint}: {printable(error, 300)}") from error
    sizes = {file.rfilename: file.size for file in about.siblings or ()}
    if (sizes.get(FILE) or 0) > MAX_BYTES:
        raise WorkspaceError(f"the {FILE} of {repo} has {sizes[FILE]:,} bytes: no hubprobe release")
    sha = str(about.sha)
    if not _COMMIT.fullmatch(sha):  # it will be the name of a folder
        raise HubError(f"{endpoint} names no commit of the dataset {repo}: it cannot be read from there")
    _download(repo, sha, FILE, cache / sha, endpoint, token, progress)
    content = read_manifest(cache / sha)
    for name, facts in content.files.items():
        if sizes.get(name) not in (None, facts.bytes):  # before it fills the disk
            raise WorkspaceError(f"{name} of {repo} has {sizes[name]:,} bytes, where its manifest says {facts.bytes:,}")
    return ReleaseSource(where, cache / sha, content, repo, sha, endpoint, token, progress)


def _download(
    repo: str, revision: str, name: str, folder: Path, endpoint: str, token: str | None, progress: bool
) -> None:
    from huggingface_hub import hf_hub_download

    try:
        with _bars(progress):
            hf_hub_download(
                repo, name, repo_type="dataset", revision=revision, local_dir=folder, endpoint=endpoint,
                token=token or False,
            )  # fmt: skip
    except transport_errors() as error:
        raise HubError(
            f"{name} of {repo} cannot be fetched from {endpoint}: {printable(error, 300)}; "
            "run the same command again to go on"
        ) from error


@contextmanager
def _bars(drawn: bool) -> Iterator[None]:
    """Let huggingface_hub draw progress bars, or not, while the block runs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if drawn or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


# ── upload ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_OURS = [
    *(f"{name}/*.parquet" for name in NAMES),
    "encoders/*.safetensors",
    "figures/*.png",
    "croissant.json",
    "CITATION.cff",
    "index/*",
    "hubprobe.toml",
]
"""What an earlier release may have left in the dataset, and this one deletes unless it holds it too."""

_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(f"{_REPO_PART}/{_REPO_PART}")


@dataclass(frozen=True)
class PushSummary:
    """What a push did."""

    repo: str  # the dataset
    commit: str  # its commit now
    url: str  # where to look at it
    created: bool  # whether the dataset is new
    changed: bool  # whether there was anything to commit
    private: bool  # whether only its owners see it


def check_repo(repo: str) -> None:
    """Raise `WorkspaceError` unless ``repo`` is ``owner/name`` as the Hub takes it."""
    if not _REPO.fullmatch(repo) or any(part in repo for part in ("--", "..")) or repo.endswith(".git"):
        raise WorkspaceError(
            f"'{printable(repo)}' is no name of a dataset: OWNER/NAME, of letters, digits, '-', '_' and '.'"
        )


def push(
    folder: str | Path,
    repo: str,
    *,
    endpoint: str,
    token: str | None = None,
    public: bool = False,
    progress: bool = True,
    confirm: Callable[[str], object] = lambda _: None,
) -> PushSummary:
    """Upload the release in ``folder`` to the dataset ``repo``, made when it does not exist.

    Every file is checked against the manifest first. Files that the Hub holds already are not sent again: an
    interrupted push goes on where it was, and one without changes makes no commit.

    Args:
        folder: of the release.
        repo: ``owner/name``.
        endpoint: of the Hub.
        token: with the right to write; the machine's own when None, see `workspace.endpoint`.
        public: make a new dataset public; an existing one stays as visible as it is.
        progress: let the Hub's client draw its progress bars.
        confirm: called with what is about to happen; raises to stop it.

    Raises `WorkspaceError` for a damaged release, `HubError` when the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    check_repo(repo)
    home = Path(folder)
    content = read_manifest(home)
    for name, facts in content.files.items():
        check_file(home, name, facts)
    api = HfApi(endpoint=endpoint, token=token_for(endpoint, token) or False)
    refusals: tuple[type[Exception], ...] = (*transport_errors(), RuntimeError, ValueError)  # as the client raises them
    try:
        try:
            before = api.dataset_info(repo)
        except RepositoryNotFoundError:
            before = None
        private = not public if before is None else bool(before.private)
        size = sum(facts.bytes for facts in content.files.values())
        confirm(
            f"upload {len(content.files) + 1} files, {size / 1e6:,.1f} MB, to the "
            f"{'new' if before is None else 'existing'} {'private' if private else 'public'} dataset {repo} "
            f"on {endpoint}"
        )
        if before is None:
            api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        with _bars(progress):
            done = api.upload_folder(
                repo_id=repo,
                folder_path=home,
                repo_type="dataset",
                allow_patterns=[*content.files, FILE, "index/*", "hubprobe.toml"],  # the index, where it carries one
                delete_patterns=_OURS,
                commit_message=f"Release {content.release_id}",
            )
    except refusals as error:
        raise HubError(
            f"pushing to {repo} on {endpoint} failed: {printable(error, 400)}; with a token that may write "
            "(HF_TOKEN), run the same command again to go on"
        ) from error
    changed = before is None or done.oid != before.sha
    return PushSummary(repo, done.oid, f"{endpoint}/datasets/{repo}", before is None, changed, private)
