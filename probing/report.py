"""What a run says of itself: the summary, the manifest in ``runs/``, the bar on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probing.attempts import PHASES as _PHASES
from probing.fetching import THREADS
from workspace import Outcome, Status, Workspace, runs
from workspace.files import canonical_json, replacing


@dataclass(frozen=True)
class ProbeSummary:
    """What `probe` did, and what stands now.

    Attributes:
        run_id: name of the manifest in ``runs/``.
        probe_set: the probes that were run.
        attempted, ok, skipped, failed: models of the whole catalog by their last attempt;
            attempted = ok + skipped + failed.
        by_status: the same, by status.
        run: models this run ran; images: probes it passed through them; logits: outputs it wrote.
        seconds: wall time of the run.
        seconds_by_phase: sums over models and processes; phases overlap, so they can exceed ``seconds``.
        bytes_fetched: size of the files of the models run.
        processes: how many took part.
        device: of the first process.
        peak_memory_bytes: largest of any process (or device) that ran a model.
        selection: which probes: ``all``, ``random`` or ``adaptive``; with the reason where that is not what was asked.
        duplicates: models this run ran that another job had committed by then; their rows are the other's.
        manifest: the file that records all this; a page to read lies beside it, ending in ``.md``.
    """

    run_id: str
    probe_set: str
    attempted: int
    ok: int
    skipped: int
    failed: int
    by_status: Mapping[str, int]
    run: int
    images: int
    logits: int
    seconds: float
    seconds_by_phase: Mapping[str, float]
    bytes_fetched: int
    processes: int
    device: str
    peak_memory_bytes: int
    manifest: Path
    failures: Mapping[str, int] = field(default_factory=dict)
    selection: str = "all"
    duplicates: int = 0

    @property
    def models_per_hour(self) -> float:
        """Models run, in models per hour of wall time."""
        return 3600 * self.run / self.seconds if self.seconds else 0.0

    @property
    def roofline_seconds(self) -> float:
        """Time the run would take if all but its slowest resource cost nothing: fetching, preparing, forward, writing.

        A process fetches several models at once and does one of each of the others at a time.
        """
        phases = self.seconds_by_phase
        lanes = (phases["fetch"] / THREADS, phases["load"] + phases["preprocess"], phases["forward"], phases["write"])
        return max(lanes) / self.processes

    @property
    def images_per_second(self) -> float:
        """Forward passes, in images per second of wall time."""
        return self.images / self.seconds if self.seconds else 0.0


_COLUMNS = [
    "repo_id", "sha", "attempt", "outcome", "status", "run_id", "probes_run", "num_logits", "bytes_fetched", "rank",
    "seconds_fetch", "seconds_load", "seconds_preprocess", "seconds_forward", "seconds_write", "peak_memory_bytes",
]  # fmt: skip


def summarise(workspace: Workspace, run_id: str, probe_set: str, **figures: Any) -> ProbeSummary:
    """Count the attempts table, and the rows of this run in it; ``figures`` are the summary's fields that it lacks."""
    listed = {(r["id"], r["sha"]) for r in workspace.catalog(["id", "sha"]).to_pylist()}
    rows = [r for r in workspace.attempts(_COLUMNS).to_pylist() if (r["repo_id"], r["sha"]) in listed]
    outcomes = Counter(r["outcome"] for r in rows)
    # a skipped row was decided without a fetch; a row of this run with any time in it was run
    mine = [r for r in rows if r["run_id"] == run_id and r["rank"] is not None]
    ended_ok = [r for r in mine if r["outcome"] == Outcome.OK.value]
    return ProbeSummary(
        run_id=run_id,
        probe_set=probe_set,
        attempted=len(rows),
        ok=outcomes[Outcome.OK.value],
        skipped=outcomes[Outcome.SKIPPED.value],
        failed=outcomes[Outcome.FAILED.value],
        by_status=dict(sorted(Counter(r["status"] for r in rows).items())),
        run=len(mine),
        images=sum(r["probes_run"] or 0 for r in mine),
        logits=sum(r["num_logits"] or 0 for r in ended_ok),
        seconds_by_phase={p: round(sum(r[f"seconds_{p}"] or 0.0 for r in mine), 3) for p in _PHASES},
        bytes_fetched=sum(r["bytes_fetched"] or 0 for r in mine),
        peak_memory_bytes=max((r["peak_memory_bytes"] or 0 for r in mine), default=0),
        manifest=workspace.runs_dir / f"{run_id}.json",
        failures=dict(sorted(Counter(r["status"] for r in mine if r["outcome"] != Outcome.OK.value).items())),
        **figures,
    )


def write_manifest(workspace: Workspace, summary: ProbeSummary, started_at: str, settings: Mapping[str, Any]) -> None:
    """Write ``runs/<run_id>.json``: counts, rates, seconds by phase, versions, device and settings."""
    content = {k: v for k, v in asdict(summary).items() if k not in ("run_id", "manifest")}
    workspace.manifest(
        summary.run_id,
        {
            "verb": "probe",
            "started_at": started_at,
            "ended_at": runs.now().isoformat(),
            **content,
            "models_per_hour": round(summary.models_per_hour, 1),
            "images_per_second": round(summary.images_per_second, 1),
            "roofline_seconds": round(summary.roofline_seconds, 3),
            "settings": dict(settings),
            "versions": runs.versions(),
        },
    )
    with replacing(summary.manifest.with_suffix(".md")) as temporary:
        temporary.write_text(as_markdown(summary), encoding="utf-8")


def as_markdown(summary: ProbeSummary) -> str:
    """Return the page of a run: how models ended, time by phase, and the distance to the roofline."""
    wall = summary.seconds or 1e-9
    lines = [
        f"# {summary.run_id}",
        "",
        f"{summary.run} models run on probe set `{summary.probe_set}` by {summary.processes} process(es) on "
        f"{summary.device}, in {wall:.1f} s: {summary.models_per_hour:.0f} models/h, "
        f"{summary.images_per_second:.0f} images/s, {summary.logits} logits, {summary.bytes_fetched / 1e6:.1f} MB "
        f"fetched, peak memory {summary.peak_memory_bytes / 1e9:.2f} GB. Probes: {summary.selection}."
        + (f" {summary.duplicates} more were committed by another job first." if summary.duplicates else ""),
        "",
        "| phase | seconds, all processes | share of wall time |",
        "|---|---|---|",
        *(
            f"| {name} | {seconds:.1f} | {100 * seconds / wall / summary.processes:.0f} % |"
            for name, seconds in summary.seconds_by_phase.items()
        ),
        "",
        f"Phases overlap. The slowest alone would take {summary.roofline_seconds:.1f} s: the run is at "
        f"{100 * summary.roofline_seconds / wall:.0f} % of its roofline, start of processes included.",
        "",
        f"The catalog now: {summary.attempted} attempted = {summary.ok} ok + {summary.skipped} skipped + "
        f"{summary.failed} failed.",
        "",
        "| status | models | what it means |",
        "|---|---|---|",
        *(f"| {name} | {count} | {Status(name).meaning} |" for name, count in summary.by_status.items()),
        "",
    ]
    return "\n".join(lines)


class Log:
    """One JSON line per model that ended here, in ``runs/<run_id>-<rank>.jsonl``: what a dashboard can follow."""

    def __init__(self, workspace: Workspace, run_id: str, rank: int) -> None:
        self._path = workspace.runs_dir / f"{run_id}-{rank}.jsonl"

    def add(self, fields: Mapping[str, Any]) -> None:
        """Write the line of one attempt."""
        line = {name: fields.get(name) for name in _LOGGED} | {"ended_at": runs.now().isoformat()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(canonical_json(line) + "\n")


_LOGGED = (
    "repo_id", "sha", "attempt", "status", "reason", "rank", "ended_in", "architecture", "parameters", "num_logits",
    "probes_run",
    "bytes_fetched", *(f"seconds_{p}" for p in _PHASES),
)  # fmt: skip


class Bar:
    """A tqdm bar on stderr: models an hour, images a second, share of the time in forward passes, bytes, failures.

    Models, and models an hour, are of all processes; the rest is of this one. tqdm's own time left is too long at
    first, for the largest models are run first.
    """

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm import tqdm

        self._counts: Counter[str] = Counter()
        self._images = self._bytes = 0
        self._busy = 0.0
        self._bar = tqdm(total=total, desc="probe", unit="model", disable=None if shown else True)

    def add(self, fields: Mapping[str, Any], booked: int) -> None:
        """Count one model that ended here; ``booked`` models have ended in all processes together."""
        self._counts["ok" if fields["outcome"] == Outcome.OK.value else str(fields["status"])] += 1
        self._images += fields.get("probes_run") or 0
        self._bytes += fields.get("bytes_fetched") or 0
        self._busy += fields.get("seconds_forward") or 0.0
        elapsed = self._bar.format_dict["elapsed"] or 1e-9
        self._bar.set_postfix_str(
            f"{3600 * booked / elapsed:.0f} models/h, {self._images / elapsed:.0f} images/s, "
            f"{min(1.0, self._busy / elapsed):.0%} busy, {self._bytes / 1e9:.2f} GB, "
            + ", ".join(f"{n} {status}" for status, n in sorted(self._counts.items())),
            refresh=False,
        )
        self.show(booked)

    def show(self, booked: int) -> None:
        """Move the bar to ``booked`` models; more than were expected are help for other jobs."""
        self._bar.total = max(self._bar.total or 0, booked)
        self._bar.update(booked - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
