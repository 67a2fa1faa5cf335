"""A small workspace with structured descriptors, written as the other rooms would write it."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import search
from probing.images.pictures import read
from tests.hubs import encoders
from workspace import Config, SearchConfig, Workspace, model_file_name, records
from workspace.files import short_hash, write_table
from workspace.runs import now

CONCEPTS = [
    "dog", "cat", "car", "tree", "house", "boat", "pizza", "apple", "chair", "guitar", "bus", "horse", "bird", "fish",
    "cup", "shoe", "clock", "phone", "flower", "cloud",
]  # fmt: skip


@dataclass
class Made:
    """A generated workspace and what is true of it."""

    workspace: Workspace
    truth: dict
    vectors: dict = field(default_factory=dict)  # (repo_id, sha, logit) -> float16 descriptor
    encoder: object = None
    content: np.ndarray = None

    def distances(self, vector: np.ndarray, k: int) -> list[tuple[float, tuple]]:
        """The obviously correct search: every logit with its distance by the definition, nearest first, ties by key."""
        order = sorted(range(len(vector)), key=lambda j: (-vector[j], j))[:k]
        q = vector[order].astype(np.float64)
        exact = {key: float(np.mean((q - g[order].astype(np.float64)) ** 2)) for key, g in self.vectors.items()}
        return sorted((d, key) for key, d in exact.items())

    def write(self, name: str, rows: list[dict]) -> None:
        """Write a descriptor file; a row needs its key and its vector, the rest has defaults."""
        default = {"sha": "f" * 40, "label": None, "mean": 0.0, "std": 1.0, "variance": 0.0}
        write_descriptors(self.workspace, [{**default, **row} for row in rows], len(self.content), name)

    def index(self, **options) -> search.IndexSummary:
        return search.index(self.workspace, **{"encoder": self.encoder, "names": False, "progress": False, **options})

    def open(self) -> "search.Index":
        return search.open(self.workspace, encoder=self.encoder)

    def add(self, numbers: range) -> None:
        add_models(self, numbers, n=len(self.content), content=self.content)


class FakeEncoder:
    """An encoder whose image space is known: a probe's colour code is its embedding."""

    def __init__(self, commit: str = "c" * 40, concepts: tuple = tuple(CONCEPTS)):
        self.name, self.commit, self.concepts = "clip:fake/encoder", commit, concepts

    def _axis(self, text: str) -> np.ndarray:
        found = [i for i, c in enumerate(self.concepts) if c in text.lower()]
        if found:
            return np.eye(len(self.concepts), dtype=np.float32)[found].mean(0)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        return np.random.default_rng(seed).standard_normal(len(self.concepts)).astype(np.float32)

    def kept(self, text):
        return text[:400]

    def encode_texts(self, texts):
        rows = np.stack([self._axis(t) for t in texts]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_images(self, images):
        rows = [np.asarray(i.resize((len(self.concepts), 1)), np.float32)[0, :, 0] + 1e-3 for i in images]
        rows = np.stack(rows)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def probe_png(weights: np.ndarray) -> bytes:
    grey = np.clip(weights * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.repeat(grey[None, :, None], 3, axis=2), "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_probes(workspace: Workspace, content: np.ndarray) -> None:
    n = len(content)
    strongest = content.argmax(1)
    images = [probe_png(row) for row in content]
    hashes = [read(image).image_hash for image in images]
    probe_set = short_hash("".join(hashes))
    table = pa.table(
        {
            "probe_id": pa.array(range(n), pa.int32()),
            "image": [{"bytes": image, "path": None} for image in images],
            "image_hash": hashes,
            "width": pa.array([len(CONCEPTS)] * n, pa.int32()),
            "height": pa.array([1] * n, pa.int32()),
            "caption": [f"a {CONCEPTS[c]}" for c in strongest],
            "source": ["made"] * n,
            "license": ["CC0-1.0"] * n,
        },
        schema=records.PROBES,
    )
    write_table(workspace.probes_dir(probe_set) / "probes.parquet", table)
    workspace.use_probe_set(probe_set)


def write_descriptors(workspace: Workspace, rows: list[dict], n: int, name: str) -> None:
    vectors = np.stack([r["vector"] for r in rows]).astype(np.float16)
    columns = {key: [r[key] for r in rows] for key in ("repo_id", "sha", "logit", "label", "mean", "std", "variance")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n)
    columns["observed"] = [r.get("observed") for r in rows]
    columns["deviation"] = [r.get("deviation") for r in rows]
    columns["logsumexp"] = [r.get("logsumexp") for r in rows]
    table = pa.table({f: columns[f] for f in records.descriptors(n).names}, schema=records.descriptors(n))
    write_table(workspace.descriptors_dir(workspace.probe_set) / f"{name}.parquet", table)


def write_responses(workspace: Workspace, rows: list[dict], n: int, name: str) -> None:
    """Write what descriptors of fully probed models were made from."""
    probes = [list(range(n)), *[None] * (len(rows) - 1)]
    made = [{**row, "response": row["vector"], "probe_ids": ids} for row, ids in zip(rows, probes, strict=True)]
    names = records.RESPONSES.names
    table = pa.Table.from_pylist([{k: row.get(k) for k in names} for row in made], schema=records.RESPONSES)
    write_table(workspace.responses_dir(workspace.probe_set) / f"{name}.parquet", table)


def add_models(made: Made, numbers: range, *, n: int, content: np.ndarray, seed: int = 0) -> None:
    """Write catalog, attempts and descriptors of some models; model i knows ten concepts, some shared."""
    catalog, attempts = [], []
    for i in numbers:
        rng = np.random.default_rng([seed, i])
        repo, sha = f"owner{i % 5}/model-{i:03d}", hashlib.sha1(f"{seed}-{i}".encode()).hexdigest()
        chosen = rng.choice(len(CONCEPTS), 10, replace=False)
        rows = []
        for logit, concept in enumerate(chosen):
            raw = np.maximum(content[:, concept], 0) * rng.uniform(4, 8) + rng.standard_normal(n) * 0.8
            mean, std = float(raw.mean()), float(raw.std())
            vector = ((raw - mean) / std).astype(np.float16)
            made.vectors[repo, sha, logit] = vector
            label = CONCEPTS[concept] if i % 2 else f"LABEL_{logit}"
            row = {"repo_id": repo, "sha": sha, "logit": logit, "label": label, "mean": mean, "std": std}
            rows.append({**row, "variance": 0.0, "vector": vector})
        write_descriptors(made.workspace, rows, n, model_file_name(repo, sha))
        write_responses(made.workspace, rows, n, model_file_name(repo, sha))
        made.truth["models"][repo] = {"logits": [CONCEPTS[c] for c in chosen]}
        catalog.append(
            {
                "id": repo, "sha": sha, "author": repo.split("/")[0], "downloads": 100 * i, "likes": i,
                "license": "mit" if i % 3 else "apache-2.0", "tags": ["image-classification", f"t{i % 4}"],
                "library_name": "transformers", "model_type": "vit", "architectures": ["ViTForImageClassification"],
                "label_quality": "named" if i % 2 else "LABEL_i", "crawled_at": now(), "eligibility": "eligible",
                "card_summary": f"Sorts pictures from survey{i}." if i % 5 else None,
                "reason": "", "createdAt": now(), "lastModified": now(), "num_labels": 10,
            }
        )  # fmt: skip
        attempts.append(
            {
                "repo_id": repo, "sha": sha, "attempt": 1, "outcome": "ok", "status": "ok", "reason": "",
                "started_at": now(), "parameters": 1000 + i, "num_logits": 10, "seconds_forward": 0.5,
                "architecture": "ViTForImageClassification", "probe_set": made.workspace.probe_set, "probes_run": n,
            }
        )  # fmt: skip
    for folder, rows, schema in (
        (made.workspace.catalog_dir, catalog, records.CATALOG),
        (made.workspace.attempts_dir, attempts, records.ATTEMPTS),
    ):
        write_table(folder / f"part-{numbers.start:04d}.parquet", pa.Table.from_pylist(rows, schema=schema))


def make(root: Path, *, models: int = 12, n: int = 300, seed: int = 0) -> Made:
    # the published scoring, whose definition is short enough to be written again as an oracle
    workspace = Workspace.create(root, Config(search=SearchConfig(scoring="probelog")))
    rng = np.random.default_rng(seed)
    content = rng.uniform(0, 0.15, (n, len(CONCEPTS)))
    content[np.arange(n), np.arange(n) % len(CONCEPTS)] = rng.uniform(0.6, 1.0, n)
    write_probes(workspace, content)
    made = Made(workspace, {"concepts": {c: {"name": c, "synonyms": []} for c in CONCEPTS}, "models": {}})
    made.encoder, made.content = FakeEncoder(), content
    add_models(made, range(models), n=n, content=content, seed=seed)
    return made


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    """A workspace that no test changes, indexed."""
    made = make(tmp_path_factory.mktemp("made") / "workspace")
    made.index()
    return made


@pytest.fixture(scope="session")
def opened(made) -> "search.Index":
    return made.open()


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A CLIP as OpenAI's repositories have it."""
    return encoders.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip(tmp_path_factory) -> Path:
    """A SigLIP as Google's repositories have it."""
    return encoders.siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def siglip2(tmp_path_factory) -> Path:
    """A SigLIP2 of fixed size as Google's repositories have it."""
    return encoders.siglip2(tmp_path_factory.mktemp("siglip2"))


@pytest.fixture
def fresh(tmp_path) -> Made:
    """A workspace of the test's own, not indexed."""
    return make(tmp_path / "workspace", models=5, n=120)
