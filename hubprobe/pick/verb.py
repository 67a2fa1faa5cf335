"""The verb: shortlist, run in rounds, ask for labels where they pay, rank, and keep what was found."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hubprobe.comparison import speed
from hubprobe.pick.candidates import Candidate, shortlist
from hubprobe.pick.images import FOREIGN, Task, disagreements, prepare
from hubprobe.pick.scores import UNKNOWN, Belief, answers, believe, concept_scores, interval
from workspace import QueryError, Status, Workspace
from workspace.files import write_json, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

_log = logging.getLogger(__name__)

IN_FULL = 20
"""Models that are run on all images; of more, the worse half leaves after each round."""

FEWEST = 12
"""Images of the first round, at least: fewer tell no two models apart."""

SURE = 0.95
"""Probability of being the best from which no more labels are asked for ..."""

LEAST = 10
"""... but not before so many: what the models say together may be wrong, and only labels know."""

REFINED = 2
"""Times that each model's outputs are chosen anew by what all models believe the images to show ..."""

FEWEST_FAMILIES = 3
"""... where so many families are there: two models would only confirm their own mistakes."""

Ask = Callable[[str, bytes, Sequence[str]], "int | None"]
"""Asks a person which concept an image shows, given its path, its encoded bytes and the concepts.

Returns the concept's place, `FOREIGN` for none of them, None when no more questions are wanted.
"""


@dataclass(frozen=True, eq=False)
class PickSummary:
    """What was found."""

    # a dict a model, best first: ``rank, repo_id, sha, accuracy, low, high``, ``basis`` (``labels`` where all images
    # have one, else ``estimated``), ``agreement`` (share of images on which it says what the models say together),
    # ``labelled_right``, ``images``, ``per_concept``, ``outputs``, ``images_per_second``, ``peak_memory_bytes``,
    # ``parameters``, ``license``, ``gated``, ``downloads``, ``search_score``, ``family``
    models: list[dict[str, Any]]
    failed: list[dict[str, Any]]  # a dict a model that could not be run: ``repo_id, status, reason``
    concepts: tuple[str, ...]  # what was told apart
    images: int  # how many there are
    labelled: int  # how many have a label
    asked: int  # how many were asked about in this run
    sure: float  # probability that the first model is the best, as far as the images tell
    notes: tuple[str, ...]  # what a user should know
    folder: Path  # where it is kept: ``models.parquet``, ``images.parquet``, ``disagreements.png``


def pick(
    workspace: Workspace,
    images: str | Path,
    concepts: Sequence[str] = (),
    *,
    labels: Path | None = None,
    budget: int = 0,
    ask: Ask | None = None,
    candidates: int = 20,
    models: Collection[str] = (),
    where: str | None = None,
    max_images: int = 1_000,
    seed: int = 0,
    name: str | None = None,
    folder: Path | None = None,
    token: str | None = None,
    device: str | None = None,
    max_disk_bytes: int | None = None,
    keep: bool = False,
    isolate: bool = True,
    progress: bool = True,
) -> PickSummary:
    """Pick the best model of the index for one's own images.

    The images stay on this machine: they become the probe set of a small workspace in ``picks/<name>/``, on which the
    candidates are run as any model is (isolated, with deadlines, resumed after a kill). Of more than `IN_FULL`
    candidates all are run on a few images, and the better half goes on with twice as many.

    Args:
        workspace: has an index; the catalog says where models' files are.
        images: folder of images, a folder for each class, a Parquet file or a data set.
        concepts: what is to be told apart, in words; the labels when empty.
        labels: CSV with the columns ``path`` and ``label``, for some images or all.
        budget: labels that may be asked for.
        ask: asks them; nothing is asked when None.
        candidates: models to try.
        models: repositories to keep to, in place of a search.
        where: SQL condition on the metadata.
        max_images: images used at most, a seeded sample.
        seed: of the sample.
        name: folder of the pick; the same arguments go on with the same pick when None.
        folder: where the pick is kept, in place of ``picks/<name>/``.
        token: for the Hub.
        device: as `probing.probe` has it.
        max_disk_bytes: what fetched files may take.
        keep: keep models' files.
        isolate: run models in a process of their own.
        progress: show bars on stderr.

    Raises `QueryError` when the question makes no task or no model can be run, `MissingStepError` without an index.
    """
    import search

    if budget < 0 or candidates < 1 or max_images < 2:
        raise QueryError("a pick needs a budget of 0 or more labels, at least 1 candidate and at least 2 images")
    index = search.open(workspace, token=token)
    kept: dict[str, Any] = {"limit": max_images, "seed": seed, "name": name, "folder": folder}
    task = prepare(workspace, images, concepts, labels=labels, progress=progress, **kept)
    found = shortlist(index, task.concepts, count=candidates, where=where, models=models)
    _hand_over(workspace, task.inner, found)
    notes = [*task.notes, *_uncovered(index, task.concepts)]
    options = {"token": token, "device": device, "max_disk_bytes": max_disk_bytes, "isolate": isolate}
    ran = _rounds(task, found, progress=progress, **options)
    if not ran:
        raise QueryError(f"none of the {len(found)} candidates could be run: {_ends(task.inner, found)}")
    asked = 0
    jury = _Jury(task, ran)
    while ask is not None and asked < budget:
        left = np.flatnonzero((jury.labels == UNKNOWN) & jury.counted)
        alike = bool((jury.votes == jury.votes[0]).all())
        if not left.size or alike or (asked >= LEAST and jury.belief.best.max() >= SURE):
            break
        image = int(left[0])  # images are in seeded order; asking where models disagree was measured to lose more
        label = ask(task.sources[image], _encoded(task.inner, image), task.concepts)
        if label is None:
            break
        task.learn(image, label)
        asked += 1
        jury = _Jury(task, ran)
    if not (task.labels >= 0).any() and (foreign := int((task.labels == FOREIGN).sum())):
        said = f"none of the {foreign} images you were asked about shows any of the concepts"
        notes.append(f"{said}: what is estimated means little")
    summary = _summary(task, found, jury, notes, asked)
    _keep(task, jury, summary)
    if not keep:
        shutil.rmtree(task.inner.cache_dir / "models", ignore_errors=True)
    return summary


def _hand_over(workspace: Workspace, inner: Workspace, found: Sequence[Candidate]) -> None:
    import pyarrow.compute as pc

    keys = {(c.repo_id, c.sha) for c in found}
    catalog = workspace.catalog()
    rows = catalog.filter(pc.is_in(catalog.column("id"), pa.array(sorted({k[0] for k in keys}))))
    mask = [(r["id"], r["sha"]) in keys for r in rows.select(["id", "sha"]).to_pylist()]
    missing = len(keys) - sum(mask)
    if missing:
        _log.warning(
            "%d candidates are in the index, and not in the catalog at that commit: they are left out", missing
        )
    write_table(inner.catalog_dir / "candidates.parquet", rows.filter(pa.array(mask, pa.bool_())))


def _uncovered(index: Index, concepts: Sequence[str]) -> list[str]:
    if index.gallery.calibration is None:
        return []
    return [f"{c}: {cover}" for c in concepts if not (cover := index.coverage(c)).covered]


@dataclass(frozen=True, eq=False)
class _Ran:
    """A candidate and its answers: float32 [images, outputs] raw, NaN where it was not run, and the images it was."""

    candidate: Candidate
    raw: NDArray[np.float32]
    done: NDArray[np.bool_]


def _rounds(task: Task, found: Sequence[Candidate], *, progress: bool, **options: Any) -> list[_Ran]:
    """Run the candidates, all on a few images, then the better half on twice as many; return those run on all."""
    from hubprobe import front

    alive, images = list(found), len(task.sources)
    count = images if len(alive) <= IN_FULL else max(FEWEST, images * IN_FULL // len(alive))
    while True:
        count = min(count, images)
        names = {f"{c.repo_id}@{c.sha}" for c in alive}
        front.probe(
            task.inner, keep=True, models=names, probes_per_model=count, core=count, progress=progress, **options
        )
        ran = _read(task, alive)
        if count >= images or not ran:
            return ran
        jury = _Jury(task, ran)
        order = np.argsort(-jury.belief.accuracy, kind="stable")
        alive = [ran[i].candidate for i in order[: max(len(ran) // 2, min(IN_FULL, len(ran)))]]
        count = images if len(alive) <= IN_FULL else 2 * count


def _read(task: Task, found: Sequence[Candidate]) -> list[_Ran]:
    """Return the answers of those of ``found`` that were run, from one reading of the responses."""
    by_model: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    columns = ["repo_id", "sha", "logit", "mean", "std", "response", "probe_ids"]
    for row in task.inner.responses(columns).to_pylist():
        by_model.setdefault((row["repo_id"], row["sha"]), {})[row["logit"]] = row
    ran = []
    for candidate in found:
        rows = by_model.get((candidate.repo_id, candidate.sha))
        if rows is None:
            continue
        ids = np.array(rows[0]["probe_ids"], np.int64)
        raw = np.full((len(task.sources), len(candidate.logits)), np.nan, np.float32)
        for i, logit in enumerate(candidate.logits.tolist()):
            row = rows.get(logit)
            if row is None or row["mean"] is None:
                continue
            z = row["response"]
            raw[ids, i] = row["mean"] if z is None else np.asarray(z, np.float32) * row["std"] + row["mean"]
        done = np.zeros(len(task.sources), bool)
        done[ids] = True
        ran.append(_Ran(candidate, raw, done))
    return ran


class _Jury:
    """The models' answers, and what is believed of them with the labels known now."""

    def __init__(self, task: Task, ran: Sequence[_Ran]) -> None:
        self.ran = ran
        self.labels = np.where(task.labels == FOREIGN, UNKNOWN, task.labels)
        self.counted = task.labels != FOREIGN
        sizes = Counter(r.candidate.family for r in ran)
        self._voices = np.array([1.0 / sizes[r.candidate.family] for r in ran])
        self._known = np.zeros((len(self.labels), len(task.concepts)))
        labelled = np.flatnonzero(self.labels != UNKNOWN)
        self._known[labelled, self.labels[labelled]] = 1.0
        fitted = [self._fitted(r) for r in ran]
        self._hear([self._better(r, r.candidate.outputs(), own) for r, own in zip(ran, fitted, strict=True)])
        for _ in range(REFINED if len(sizes) >= FEWEST_FAMILIES else 0):
            shown = self.belief.images * self.counted[:, None]
            together = [r.candidate.outputs(r.raw[r.done], shown[r.done]) for r in ran]
            self._hear([self._better(r, own, by) for r, own, by in zip(ran, together, fitted, strict=True)])

    def _hear(self, outputs: list[list[NDArray[np.int64]]]) -> None:
        """Take the models to answer with these outputs."""
        self.outputs = outputs
        self.scores = [concept_scores(r.raw, own) for r, own in zip(self.ran, outputs, strict=True)]
        votes = np.stack([answers(s) for s in self.scores])
        for i, r in enumerate(self.ran):
            votes[i, ~r.done | ~self.counted] = UNKNOWN
        self.votes = votes
        self.belief: Belief = believe(np.stack(self.scores), votes, self.labels, self._voices)

    def _fitted(self, ran: _Ran) -> list[NDArray[np.int64]] | None:
        """Return the outputs that labels speak for; None when there are too few labels to say."""
        shown = self._known[ran.done]
        if shown.sum() < 4 or shown.any(axis=0).sum() < 2:
            return None
        return ran.candidate.outputs(ran.raw[ran.done], shown)

    def _better(
        self, ran: _Ran, plain: list[NDArray[np.int64]], fitted: list[NDArray[np.int64]] | None
    ) -> list[NDArray[np.int64]]:
        """Return ``fitted`` where it is right about more labels, by two at least, else ``plain``."""
        if fitted is None:
            return plain
        known = np.flatnonzero((self.labels != UNKNOWN) & ran.done)
        right = [
            int((answers(concept_scores(ran.raw[known], own)) == self.labels[known]).sum()) for own in (plain, fitted)
        ]
        return fitted if right[1] > right[0] + 1 else plain


def _summary(task: Task, found: Sequence[Candidate], jury: _Jury, notes: list[str], asked: int) -> PickSummary:
    known = np.flatnonzero(jury.labels != UNKNOWN)
    complete = len(known) == int(jury.counted.sum())
    consensus = jury.belief.images.argmax(axis=1)
    attempts = {(a["repo_id"], a["sha"]): a for a in task.inner.attempts().to_pylist()}
    catalog = {
        (r["id"], r["sha"]): r for r in task.inner.catalog(["id", "sha", "license", "gated", "downloads"]).to_pylist()
    }
    rows = []
    for i, ran in enumerate(jury.ran):
        key = ran.candidate.repo_id, ran.candidate.sha
        votes = jury.votes[i]
        if complete:
            right = float((votes[known] == jury.labels[known]).sum())
            accuracy, (low, high) = right / max(len(known), 1), interval(right, len(known))
        else:
            right = float(jury.belief.right[i])
            wrong = float(jury.belief.wrong[i])
            accuracy, (low, high) = right / (right + wrong), interval(right, right + wrong)
        given = votes != UNKNOWN
        truth = np.where(jury.labels != UNKNOWN, jury.labels, consensus)
        per_concept = {
            concept: round(float((votes[own] == c).mean()), 3)
            for c, concept in enumerate(task.concepts)
            if (own := given & (truth == c)).any()
        }
        attempt = attempts.get(key, {})
        rows.append(
            {
                "repo_id": key[0], "sha": key[1], "accuracy": round(accuracy, 4), "low": round(low, 4),
                "high": round(high, 4), "basis": "labels" if complete else "estimated",
                "agreement": round(float((votes[given] == consensus[given]).mean()), 4) if given.any() else 0.0,
                "labelled_right": int((votes[known] == jury.labels[known]).sum()), "images": int(ran.done.sum()),
                "per_concept": per_concept,
                "outputs": {
                    concept: [int(n) for n in ran.candidate.logits[own]]
                    for concept, own in zip(task.concepts, jury.outputs[i], strict=True)
                },
                "images_per_second": speed(attempt),
                "peak_memory_bytes": attempt.get("peak_memory_bytes"), "parameters": attempt.get("parameters"),
                "license": catalog[key]["license"], "gated": catalog[key]["gated"],
                "downloads": catalog[key]["downloads"], "search_score": round(ran.candidate.score, 4),
                "family": ran.candidate.family,
            }
        )  # fmt: skip
    rows.sort(key=lambda r: (-r["accuracy"], -r["agreement"], -r["search_score"], r["repo_id"]))
    rows = [{"rank": n, **row} for n, row in enumerate(rows, 1)]
    names = {r["repo_id"] for r in rows}
    failed = [
        {"repo_id": c.repo_id, "status": a["status"], "reason": a["reason"]}
        for c in found
        if c.repo_id not in names
        and (a := attempts.get((c.repo_id, c.sha))) is not None
        and a["status"] != Status.OK.value
    ]
    if len(rows) > 1 and all((jury.votes == jury.votes[0]).all(axis=1)):
        notes.append("all candidates give the same answers: any of them will do")
    elif not complete and not len(known):
        notes.append(
            "no image has a label: accuracies are estimated from what the models say together; --budget 25 asks you"
        )
    counts = {"images": len(task.sources), "labelled": len(known), "asked": asked}
    sure = float(jury.belief.best.max())
    return PickSummary(rows, failed, task.concepts, **counts, sure=sure, notes=tuple(notes), folder=task.root)


def _keep(task: Task, jury: _Jury, summary: PickSummary) -> None:
    """Write the tables, and a sheet of the images on which the leaders disagree."""
    flat = [
        row | {"per_concept": list(row["per_concept"].items()), "outputs": list(row["outputs"].items())}
        for row in summary.models
    ]
    kinds = {"per_concept": pa.map_(pa.string(), pa.float64()), "outputs": pa.map_(pa.string(), pa.list_(pa.int32()))}
    columns = {n: pa.array([row[n] for row in flat], kinds.get(n)) for n in flat[0]}
    write_table(task.root / "models.parquet", pa.table(columns))
    order = {(row["repo_id"], row["sha"]): row["rank"] for row in summary.models}
    ranked = sorted(range(len(jury.ran)), key=lambda i: order[jury.ran[i].candidate.repo_id, jury.ran[i].candidate.sha])
    names = [*task.concepts, None]  # UNKNOWN is -1, the last

    def words(values: NDArray[np.int64]) -> list[str | None]:
        return [names[v] for v in values.tolist()]

    belief = jury.belief.images
    table = pa.table(
        {
            "image": pa.array(range(len(task.sources)), pa.int32()),
            "source": pa.array(task.sources),
            "label": pa.array(words(jury.labels), pa.string()),
            "consensus": pa.array(words(belief.argmax(axis=1)), pa.string()),
            "confidence": pa.array(belief.max(axis=1)),
            "answers": pa.array(
                [
                    [(jury.ran[m].candidate.repo_id, names[jury.votes[m, i]]) for m in ranked]
                    for i in range(len(task.sources))
                ],
                pa.map_(pa.string(), pa.string()),
            ),
        }
    )
    write_table(task.root / "images.parquet", table)
    leaders = ranked[:5]
    disagreements(
        task, [jury.ran[i].candidate.repo_id for i in leaders], jury.votes[leaders], task.root / "disagreements.png"
    )
    kept = {n: getattr(summary, n) for n in ("concepts", "images", "labelled", "sure", "notes", "failed")}
    write_json(task.root / "pick.json", kept | {"best": summary.models[0]["repo_id"]})


def _encoded(inner: Workspace, image: int) -> bytes:
    return bytes(inner.probes(["image"])["image"][image].as_py()["bytes"])


def _ends(inner: Workspace, found: Sequence[Candidate]) -> str:
    ends = Counter(a["status"] for a in inner.attempts(["status"]).to_pylist())
    return ", ".join(f"{count} {status}" for status, count in ends.most_common()) or f"{len(found)} have no catalog row"
