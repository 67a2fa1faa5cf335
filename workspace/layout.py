"""The workspace folder: where everything lies, and how its tables are opened."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from workspace import commits, records
from workspace.config import Config
from workspace.errors import MissingStepError, WorkspaceError
from workspace.files import damaged, read_file, read_json, read_table, replacing, short_hash, table_files, write_json
from workspace.holes import Key, holes
from workspace.text import printable, require_type

MARKER = "hubprobe.toml"

_PROBE_SET = re.compile("[0-9a-f]{16}")


class Workspace:
    """A folder with the layout of ``docs/architecture.md``.

    Args:
        root: the folder. It need not exist; `create` makes it.
        config: settings to use in place of those in ``hubprobe.toml``.
        remote: address of its remote; else ``HUBPROBE_REMOTE``, else the configuration's; empty when it has none.
    """

    def __init__(self, root: str | Path, config: Config | None = None, remote: str | None = None) -> None:
        self.root = Path(root)
        self.catalog_dir = self.root / "catalog"  # Parquet files, and the state of a crawl while it runs
        self.attempts_dir = self.root / "attempts"  # one file per attempt until they are compacted
        self.index_dir = self.root / "index"  # derived, rebuildable
        self.runs_dir = self.root / "runs"  # manifests
        self.cache_dir = self.root / "cache"  # fetched from the Hub, safe to delete at any time
        self.config = config if config is not None else Config.load(self.root / MARKER)
        named = os.environ.get("HUBPROBE_REMOTE") if remote is None else remote
        self.remote = (self.config.workspace.remote if named is None else named).rstrip("/")

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @classmethod
    def create(cls, root: str | Path, config: Config | None = None) -> Workspace:
        """Open the workspace at ``root``, making it first when there is none; ``config`` is written only then."""
        path = Path(root)
        if path.exists() and not path.is_dir():
            raise WorkspaceError(f"{path} is a file: a workspace is a folder; name another path")
        if not (path / MARKER).exists():
            if path.is_dir() and any(path.iterdir()):
                raise WorkspaceError(f"{path} is not empty and is no workspace: name an empty or a new folder")
            with replacing(path / MARKER) as temporary:
                temporary.write_text((config or Config()).to_toml(), encoding="utf-8")
        return cls(path, config)

    @classmethod
    def open(cls, root: str | Path) -> Workspace:
        """Open an existing workspace; raises `WorkspaceError` when ``root`` is none."""
        require_type(root, (str, Path), "a workspace is named by its folder, a text or a pathlib.Path")
        path = Path(root)
        if not (path / MARKER).exists():
            which = f"{path.absolute()} is not" if path.is_dir() else f"{path.absolute()} is not there, so it is not"
            raise WorkspaceError(
                f"{which} a hubprobe workspace, a folder that holds {MARKER}: name yours with --workspace, or make one "
                "with 'hubprobe crawl', 'hubprobe run', 'hubprobe import' or 'hubprobe demo'"
            )
        return cls(root)

    # ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────
    def probes_dir(self, probe_set: str) -> Path:
        """Folder of one probe set: ``probes.parquet`` and ``manifest.json``."""
        return self.root / "probes" / probe_set

    def responses_dir(self, probe_set: str) -> Path:
        """Responses to one probe set, one file per model until they are compacted."""
        return self.root / "responses" / probe_set

    def descriptors_dir(self, probe_set: str) -> Path:
        """Completed descriptors over one probe set."""
        return self.root / "descriptors" / probe_set

    def factors_path(self, probe_set: str) -> Path:
        """The completion's basis, noise and version."""
        return self.root / "factors" / f"{probe_set}.safetensors"

    # ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def probe_set(self) -> str:
        """The probe set in use: the one named by ``probes/current.json``."""
        path = self.root / "probes" / "current.json"
        if not path.exists():
            raise MissingStepError("probe set", "probes build --from FOLDER_OR_DATASET")
        name: str = read_json(path, {"probe_set": str})["probe_set"]
        if not _PROBE_SET.fullmatch(name):  # it becomes part of paths
            raise damaged(path, f"a probe set is named by 16 hex digits, not {printable(name)!r}")
        return name

    def use_probe_set(self, probe_set: str) -> None:
        """Make ``probe_set``, 16 hex digits, the one that the other verbs use."""
        if not _PROBE_SET.fullmatch(probe_set):
            raise WorkspaceError(f"a probe set is named by 16 hex digits, not {printable(probe_set)!r}")
        write_json(self.root / "probes" / "current.json", {"probe_set": probe_set})

    def probes(self, columns: list[str] | None = None) -> pa.Table:
        """Return the probe set in use, a table of `records.PROBES` in order of ``probe_id``.

        Raises `WorkspaceError` when it cannot be read, or when images are asked for that no release handed on.
        """
        path = self.probes_dir(self.probe_set) / "probes.parquet"
        table = read_file(path, records.PROBES, columns=columns)
        if "image" in table.column_names and pc.any(pc.is_null(pc.struct_field(table["image"], "bytes"))).as_py():
            raise WorkspaceError(
                f"the probe images are not in {self.root}: the release it was imported from holds only their hashes. "
                "Searching works without; evidence, example images of another encoder and probing do not"
            )
        return table

    def catalog(self, columns: list[str] | None = None, *, history: bool = False) -> pa.Table:
        """Return the catalog: the newest row of every repository, or every row ever written with ``history``."""
        if not table_files(self.catalog_dir):
            raise MissingStepError("catalog", "crawl")
        wanted = None if columns is None else list(dict.fromkeys([*columns, "id", "crawled_at"]))
        table = read_table(self.catalog_dir, records.CATALOG, columns=wanted)
        if not history:
            table = newest(table, ["id"], "crawled_at")
        return table if columns is None else table.select(columns)

    def attempts(self, columns: list[str] | None = None, *, history: bool = False) -> pa.Table:
        """Return the last attempt at every model, or all attempts with ``history``.

        Of attempts that lie in the remote only, the last ones have the columns that their names say, the others null.
        """
        wanted = None if columns is None else list(dict.fromkeys([*columns, "repo_id", "sha", "attempt"]))
        table = read_table(self.attempts_dir, records.ATTEMPTS, columns=wanted)
        if not history:
            if known := self.committed_elsewhere():
                models = read_table(self.catalog_dir, records.CATALOG, columns=["id", "sha"])
                pairs = zip(models["id"].to_pylist(), models["sha"].to_pylist(), strict=True)
                rows = commits.as_attempts(known.values(), {model_file_name(*key): key for key in pairs})
                table = pa.concat_tables([rows.select(table.column_names), table])  # of two equal ones the later counts
            table = newest(table, ["repo_id", "sha"], "attempt")
        return table if columns is None else table.select(columns)

    def committed_elsewhere(self) -> dict[commits.Place, commits.Commit]:
        """Return the attempts that are known to lie in the remote, by file stem and number; none without a remote."""
        return commits.load(commits.folder(self.cache_dir, self.remote)) if self.remote else {}

    def responses(self, columns: list[str] | None = None) -> pa.Table:
        """Return the responses to the probe set in use, one row per logit of every file present."""
        return read_table(self.responses_dir(self.probe_set), records.RESPONSES, columns=columns)

    def holes(self, probe_set: str | None = None, *, here: bool = False) -> dict[Key, str]:
        """Return the models whose last attempt is ``ok`` and whose responses are not what it committed, and why.

        They wait to be probed again, unless the remote has their responses: those count with ``here`` only. See
        `workspace.holes`.
        """
        chosen = self.probe_set if probe_set is None else probe_set
        columns = ["repo_id", "sha", "attempt", "status", "probe_set", "num_logits", "probes_run"]
        attempts = [a for a in self.attempts(columns).to_pylist() if a["probe_set"] == chosen]
        found = holes(attempts, self.responses_dir(chosen), self.descriptors_dir(chosen))
        if found and not here and (known := self.committed_elsewhere()):
            numbers = {(a["repo_id"], a["sha"]): a["attempt"] for a in attempts}
            found = {key: why for key, why in found.items() if (model_file_name(*key), numbers[key]) not in known}
        return found

    def owns(self, folder: Path) -> bool:
        """Return whether ``folder`` lies in this workspace, links followed: files elsewhere are never deleted."""
        return folder.resolve().is_relative_to(self.root.resolve())

    def require_own(self, folder: Path) -> None:
        """Raise `WorkspaceError` unless `owns`: call it before files are deleted there."""
        if not self.owns(folder):
            raise WorkspaceError(
                f"{folder} leads out of the workspace, to {folder.resolve()}: nothing is deleted there; "
                "make it a folder of the workspace, or delete by hand what it should not hold"
            )

    def require_own_files(self, folder: Path) -> None:
        """Raise `WorkspaceError` unless `owns` all in ``folder``: call it before files are written over by their names.

        A workspace may come from a stranger, with links in the places that a verb writes to.
        """
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink() and not self.owns(path):
                raise WorkspaceError(
                    f"{path} leads out of the workspace, to {path.resolve()}: nothing is written there; delete the link"
                )

    def manifest(self, run_id: str, content: dict[str, object]) -> None:
        """Write ``runs/<run_id>.json`` with the configuration and its hash beside ``content``."""
        config = {"config": asdict(self.config), "config_hash": self.config.hash}
        write_json(self.runs_dir / f"{run_id}.json", {"run_id": run_id, **config, **content})


def model_file_name(repo_id: str, sha: str) -> str:
    """Return the stem of a model's files: a hash, because a repository's name is untrusted text."""
    return short_hash(f"{repo_id}@{sha}")


def newest(table: pa.Table, key: list[str], by: str) -> pa.Table:
    """Return one row per ``key``: the one with the largest ``by``, the later one on a tie; sorted by ``key``."""
    if table.num_rows == 0:
        return table
    numbered = table.select([*key, by]).append_column("_row", pa.array(range(table.num_rows), pa.int64()))
    order = pc.sort_indices(
        numbered, sort_keys=[*((k, "ascending") for k in key), (by, "descending"), ("_row", "descending")]
    )
    ranked = numbered.take(order)
    keep = [True] * ranked.num_rows
    columns = [ranked.column(k).to_pylist() for k in key]
    for i in range(1, ranked.num_rows):
        keep[i] = any(column[i] != column[i - 1] for column in columns)
    return table.take(ranked.filter(pa.array(keep)).column("_row"))
