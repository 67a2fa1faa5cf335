"""Probe repositories the way everybody does, and hold each response against what its library answers itself."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import reduce
from operator import add
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

import probing
from benchmarks.zoo.repositories import SIZES, Case, pictures
from crawler.decide.rules import CONFIG_RULES, WEIGHTS_RULES, Facts, first_refusal
from crawler.listing.rows import Listed
from workspace import CrawlConfig, ModelError, Workspace, records
from workspace.architectures import Architectures
from workspace.files import write_table
from workspace.model_config import parse_config
from workspace.safetensors_header import read_header
from workspace.seams import Fetched

TOLERANCE = 2.0**-9
"""Largest error of a response in standard deviations of its logit over the probes: two units of float16 around 2."""

SHA = "0" * 40


@dataclass(frozen=True)
class Result:
    """What became of one repository.

    Attributes:
        case: the repository.
        crawled: the crawler's verdict on its files, ``eligible`` or a status.
        status: how probing it ended; reason: why.
        error: largest difference of a response from the library's own, in standard deviations of its logit over the
            probes; None where there is nothing to compare.
        noise: how far the library's own answers in float32 and in float64 are apart, in the same unit; asked only where
            the error is large.
        assumed: what the attempt's row says was assumed, and which pictures were refused.
        refused: what the library itself said, where it does not run it.
    """

    case: Case
    crawled: str
    status: str
    reason: str
    error: float | None
    assumed: str
    refused: str
    noise: float = 0.0

    @property
    def right(self) -> bool:
        """Whether it ended as it must: like the library's own answer where that is ``ok``."""
        if self.crawled not in ("eligible", self.status) or self.crawled == "not built":
            return False
        if self.case.ends is not None and self.status != self.case.ends:
            return False
        if self.case.ends is None and self.refused:
            return self.status != "ok"
        return self.status == self.case.ends or (self.error is not None and self.error <= TOLERANCE + 2 * self.noise)


def run(
    cases: Sequence[Case], root: Path, *, count: int = len(SIZES), isolate: bool = True, say: Any = None
) -> list[Result]:
    """Write all repositories under ``root``, ask the library about each, probe them all, and compare.

    Args:
        cases: the repositories.
        root: a folder for them, ``count`` pictures and a workspace.
        count: how many pictures.
        isolate: probe in a child process, as everybody does.
        say: called with a line of text for each.
    """
    torch.set_num_threads(1)
    workspace = _workspace(root, count)
    images = _images(workspace)
    wanted: dict[str, np.ndarray[Any, Any] | str] = {}
    crawled = {}
    for case in cases:
        folder = root / "repos" / case.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started = perf_counter()
        try:
            case.write(folder)
            crawled[case.name] = crawl(folder)
            wanted[case.name] = _asked(case, folder, images)
        except Exception as error:  # noqa: BLE001 - a benchmark goes on and tells it
            wanted[case.name] = f"not built: {type(error).__name__}: {error}"
            crawled.setdefault(case.name, "not built")
        if say:
            found = wanted[case.name]
            answer = found if isinstance(found, str) else f"answers {found.shape}"
            say(f"{case.name}: {answer} {perf_counter() - started:.1f} s")
    rows = _probed(workspace, root, [c for c in cases if crawled[c.name] == "eligible"], isolate)
    return [
        _result(workspace, c, root / "repos" / c.name, crawled[c.name], rows.get(c.name), wanted[c.name]) for c in cases
    ]


def crawl(folder: Path) -> str:
    """Return what the crawler decides of a repository's config and of its weights' header."""
    limits = CrawlConfig()
    try:
        config = parse_config((folder / "config.json").read_bytes(), limits.max_labels)
        facts = Facts(Listed("zoo/model", SHA), limits, Architectures.here(), config)
        verdict = first_refusal(CONFIG_RULES, facts)
        if verdict is None:
            header = reduce(add, map(read_header, sorted(folder.glob("*.safetensors"))))
            facts = Facts(Listed("zoo/model", SHA), limits, Architectures.here(), config, header)
            verdict = first_refusal(WEIGHTS_RULES, facts)
    except ModelError as error:
        return error.status.value
    return "eligible" if verdict is None else verdict.status.value


def _workspace(root: Path, count: int) -> Workspace:
    shutil.rmtree(root / "work", ignore_errors=True)
    made = Workspace.create(root / "work")
    folder = root / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for i, encoded in enumerate(pictures(count)):
        (folder / f"{i}.png").write_bytes(encoded)
    probing.probes.build(made, folder, n=100, progress=False)
    return made


def _images(workspace: Workspace) -> list[Image.Image]:
    """Return the probes in their order, decoded by Pillow alone."""
    encoded = workspace.probes(["image"])["image"].to_pylist()
    return [Image.open(io.BytesIO(value["bytes"])).convert("RGB") for value in encoded]


def _asked(case: Case, folder: Path, images: list[Image.Image]) -> np.ndarray[Any, Any] | str:
    if case.oracle is None:
        return ""
    try:
        with torch.inference_mode():
            return np.asarray(case.oracle(folder, images), np.float64)
    except Exception as error:  # noqa: BLE001 - whatever it is: the library does not run it
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _probed(workspace: Workspace, root: Path, cases: Sequence[Case], isolate: bool) -> dict[str, dict[str, Any]]:
    def row(case: Case) -> dict[str, Any]:
        size = sum(path.stat().st_size for path in (root / "repos" / case.name).glob("*.safetensors"))
        return {
            "id": case.name, "sha": SHA, "eligibility": "eligible", "reason": "",
            "crawled_at": datetime(2026, 1, 1, tzinfo=timezone.utc), "weights_bytes": size,
        }  # fmt: skip

    def fetch(listed: Mapping[str, Any]) -> Fetched:
        return Fetched(root / "repos" / str(listed["id"]), 1, 0.0, lambda: None)

    rows = [{name: row(case).get(name) for name in records.CATALOG.names} for case in cases]
    write_table(workspace.catalog_dir / "rows.parquet", pa.Table.from_pylist(rows, schema=records.CATALOG))
    probing.probe(workspace, fetch, progress=False, isolate=isolate, precision="float32", device="cpu")
    return {found["repo_id"]: found for found in workspace.attempts().to_pylist()}


def _result(
    workspace: Workspace, case: Case, folder: Path, crawled: str, row: Mapping[str, Any] | None, wanted: Any
) -> Result:
    said = wanted if isinstance(wanted, str) else ""
    if row is None:
        return Result(case, crawled, crawled, "", None, "", said)
    assumed = str(row.get("processor_assumed") or "")
    if row["probes_refused"]:
        assumed += f" pictures {row['probes_refused']} refused: {row['refused_reason']}"
    error, noise = None, 0.0
    if row["status"] == "ok" and not said:
        error = _error(workspace, case.name, wanted, row["probes_refused"] or [])
        if TOLERANCE < error < float("inf") and case.exactly:
            with torch.inference_mode():
                exact = np.asarray(case.exactly(folder, _images(workspace)), np.float64)
            noise = float((np.abs(exact - wanted) / wanted.std(axis=0)).max())
    return Result(case, crawled, row["status"], row["reason"] or "", error, assumed, said, noise)


def _error(workspace: Workspace, name: str, wanted: np.ndarray[Any, Any], refused: Sequence[int]) -> float:
    """Return the largest difference of a stored response from the library's, in deviations of its logit.

    Infinite where the two answer for other pictures, those refused apart, or one of them with a constant.
    """
    columns = ["repo_id", "logit", "response", "mean", "std", "excluded", "probe_ids"]
    rows = [r for r in workspace.responses(columns).to_pylist() if r["repo_id"] == name]
    if len(rows) != wanted.shape[1]:
        return float("inf")
    ids = next((r["probe_ids"] for r in rows if r["probe_ids"]), range(len(wanted)))
    answered = np.setdiff1d(np.flatnonzero(~np.isnan(wanted).any(axis=1)), np.array(refused, int))
    if list(ids) != answered.tolist():
        return float("inf")
    worst = 0.0
    for row in rows:
        theirs = wanted[answered, row["logit"]]
        if row["excluded"]:
            if row["excluded"] != "constant" or theirs.std() > 1e-5 * np.abs(theirs).max():
                return float("inf")
            continue
        ours = np.asarray(row["response"], np.float64)
        worst = max(worst, float(np.abs((theirs - row["mean"]) / row["std"] - ours).max()))
    return worst


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table, those that are not as they must be first."""
    lines = ["| repository | of | ended in | error | note |", "|---|---|---|---|---|"]
    for result in sorted(results, key=lambda r: (r.right, r.case.name)):
        error = "" if result.error is None else f"{result.error:.1e}"
        noise = f"the library's own float32 and float64 are {result.noise:.1e} apart" if result.noise else ""
        note = "; ".join(x for x in (result.case.why, noise, result.reason, result.refused, result.assumed) if x)
        mark = "" if result.right else "**"
        note = note.replace("|", "/")[:300]
        lines.append(f"| {result.case.name} | {result.case.of} | {mark}{result.status}{mark} | {error} | {note} |")
    return "\n".join(lines)


def dump(results: Sequence[Result], path: Path) -> None:
    """Write the results as JSON lines."""
    path.write_text("".join(json.dumps(_plain(r)) + "\n" for r in results), encoding="utf-8")


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.case.name, "of": result.case.of, "right": result.right, "crawled": result.crawled,
        "status": result.status, "error": result.error, "reason": result.reason, "refused": result.refused,
        "assumed": result.assumed, "noise": result.noise, "why": result.case.why,
    }  # fmt: skip
