"""The tables of a workspace, as Arrow schemas: the one place where names, units and meaning are written.

A model is keyed by ``(repo_id, sha)``, a logit by ``(repo_id, sha, logit)``, a probe by ``probe_id``, its position in
the probe set. Never by a row number across files. Field metadata carries ``doc`` and, where there is one, ``unit``.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"
"""Part of every schema's metadata; a reader refuses tables of another major version."""


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"doc": doc} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def _schema(name: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"hubprobe.table": name, "hubprobe.schema_version": SCHEMA_VERSION})


_TIME = pa.timestamp("us", tz="UTC")
_MODEL_KEY = [
    _field("repo_id", pa.string(), "repository, as the Hub names it: owner/name", nullable=False),
    _field("sha", pa.string(), "commit of the repository, 40 hex digits", nullable=False),
]
_LOGIT_KEY = [*_MODEL_KEY, _field("logit", pa.int32(), "index of the output within its model", nullable=False)]

FILE = pa.struct(
    [
        pa.field("path", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("oid", pa.string()),  # git blob sha1; null where the Hub did not say
        pa.field("sha256", pa.string()),  # of the content, for LFS and Xet files; null for small files
    ]
)
"""One file of a repository: ``path``, ``size`` in bytes, ``oid`` (git blob sha1), ``sha256`` (LFS)."""

CATALOG = _schema(
    "catalog",
    [
        _field("id", pa.string(), "repository, as the Hub names it: owner/name", nullable=False),
        _field("sha", pa.string(), "commit listed; empty when not given", nullable=False),
        _field("author", pa.string(), "owner of the repository"),
        _field("createdAt", _TIME, "creation of the repository"),
        _field("lastModified", _TIME, "last commit"),
        _field("pipeline_tag", pa.string(), "task the Hub lists it under"),
        _field("library_name", pa.string(), "library the Hub lists it under"),
        _field("tags", pa.list_(pa.string()), "all tags"),
        _field("downloads", pa.int64(), "downloads", "downloads in 30 days"),
        _field("likes", pa.int64(), "likes"),
        _field("private", pa.bool_(), "whether it is private"),
        _field("gated", pa.string(), "'false', 'auto' or 'manual'"),
        _field("disabled", pa.bool_(), "whether the Hub disabled it"),
        _field("license", pa.string(), "licence named by its tag; the first of several"),
        _field("licenses", pa.list_(pa.string()), "all licences named by its tags"),
        _field("base_models", pa.list_(pa.string()), "models it says it was made from"),
        _field(
            "safetensors",
            pa.struct([pa.field("parameters", pa.map_(pa.string(), pa.int64())), pa.field("total", pa.int64())]),
            "parameters by dtype, and in all, as the Hub counts them",
            "parameters",
        ),
        _field("model_type", pa.string(), "transformers' model_type, or 'timm'"),
        _field("architectures", pa.list_(pa.string()), "classes named by the config; timm's architecture for timm"),
        _field("num_labels", pa.int32(), "number of outputs the config announces"),
        _field("id2label", pa.list_(pa.string()), "label of each output; null when not given"),
        _field("label_quality", pa.string(), "named, LABEL_i, numeric, missing, inferred or guessed_by_count"),
        _field("problem_type", pa.string(), "single_label_classification, multi_label_classification or regression"),
        _field("image_size", pa.int32(), "edge of the input the config announces", "pixels"),
        _field("files", pa.list_(FILE), "files of the commit, and the weights at weights_sha"),
        _field("weights_ref", pa.string(), "refs/pr/N, when its weights are in a conversion bot's pull request"),
        _field("weights_sha", pa.string(), "commit of weights_ref, 40 hex digits"),
        _field("weights_bytes", pa.int64(), "size of the weights a probe would fetch", "bytes"),
        _field("card_summary", pa.string(), "first sentences of its card, when eligible"),
        _field("reported_accuracy", pa.float32(), "accuracy that is reported of it, 0 to 1; unverified"),
        _field("reported_on", pa.string(), "data set that it is reported on; untrusted text"),
        _field("reported_by", pa.string(), "where: its card's model-index, the Hub's evalResults, or its card's prose"),
        _field("crawled_at", _TIME, "when this row was read from the Hub", nullable=False),
        _field("eligibility", pa.string(), "'eligible', or the status that says why not", nullable=False),
        _field("reason", pa.string(), "a sentence about this repository; empty when eligible", nullable=False),
        _field("renamed_to", pa.string(), "its new name, when it was renamed"),
    ],
)
"""One row per repository and crawl that saw it change; the newest ``crawled_at`` of an ``id`` is its state."""

PROBES = _schema(
    "probes",
    [
        _field("probe_id", pa.int32(), "position in the probe set, from 0", nullable=False),
        _field(
            "image",
            pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]),
            "encoded image (PNG, JPEG or WebP)",
            nullable=False,
        ),
        _field("image_hash", pa.string(), "sha256 of its RGB pixels and size, 64 hex digits", nullable=False),
        _field("width", pa.int32(), "width", "pixels", nullable=False),
        _field("height", pa.int32(), "height", "pixels", nullable=False),
        _field("caption", pa.string(), "what it shows, when the source says"),
        _field("source", pa.string(), "where it came from"),
        _field("license", pa.string(), "its licence, when the source says"),
    ],
)
"""The probe set: one row per image. ``probe_set`` is the hash of the ordered ``image_hash`` column."""

ATTEMPTS = _schema(
    "attempts",
    [
        *_MODEL_KEY,
        _field("attempt", pa.int32(), "1 for the first attempt at this model, counting up", nullable=False),
        _field("outcome", pa.string(), "ok, skipped or failed", nullable=False),
        _field("status", pa.string(), "the status enum's value", nullable=False),
        _field("reason", pa.string(), "a sentence about this model; empty when ok", nullable=False),
        _field("error_class", pa.string(), "class of the exception, when there was one"),
        _field("ended_in", pa.string(), "fetch, load, preprocess, forward or write: where it failed; null when ok"),
        _field("started_at", _TIME, "start of the attempt", nullable=False),
        _field("seconds_fetch", pa.float32(), "time to fetch and verify the files", "seconds"),
        _field("seconds_load", pa.float32(), "time to build the model", "seconds"),
        _field("seconds_preprocess", pa.float32(), "time to prepare the probes", "seconds"),
        _field("seconds_forward", pa.float32(), "time of the forward passes", "seconds"),
        _field("seconds_write", pa.float32(), "time to write the responses", "seconds"),
        _field("bytes_fetched", pa.int64(), "size of the files used", "bytes"),
        _field("parameters", pa.int64(), "parameters of the model built", "parameters"),
        _field("dtype", pa.string(), "dtype the forward passes ran in"),
        _field("half_error", pa.float32(), "error of half precision on the first batch, relative to float32's spread"),
        _field("batch_size", pa.int32(), "images in a forward pass", "images"),
        _field("device", pa.string(), "cpu, cuda:0, mps ...; several with + where the weights were spread"),
        _field("kernels", pa.string(), "what else of the arithmetic was fixed: TF32, determinism, threads a batch"),
        _field("architecture", pa.string(), "class of the model built"),
        _field("processor", pa.string(), "class of its image processor"),
        _field("processor_hash", pa.string(), "hash of the processor's configuration, 16 hex digits"),
        _field("processor_source", pa.string(), "repo, timm, or default (the repository has none)"),
        _field("processor_assumed", pa.string(), "what the repository does not say of it; null if all is said"),
        _field("processor_settings", pa.string(), "its configuration as JSON; mode: what pictures are converted to"),
        _field("input_dtype", pa.string(), "uint8, or float32 where 8-bit pixels cannot give what its processor gives"),
        _field("probe_set", pa.string(), "hash of the probe set, 16 hex digits"),
        _field("probes_run", pa.int32(), "probes that were run", "probes"),
        _field("probes_refused", pa.list_(pa.int32()), "probes its processor failed on; else null"),
        _field("refused_reason", pa.string(), "why it failed on the first of them"),
        _field("num_logits", pa.int32(), "outputs of the model"),
        _field("num_excluded", pa.int32(), "outputs that were constant or not finite"),
        _field("label_quality", pa.string(), "named, LABEL_i, numeric, missing, inferred or guessed_by_count"),
        _field("problem_type", pa.string(), "single_label_classification, multi_label_classification or regression"),
        _field("peak_memory_bytes", pa.int64(), "peak memory of the process (CPU) or the device", "bytes"),
        _field("rank", pa.int32(), "process that ran it"),
        _field("run_id", pa.string(), "name of the run's manifest in runs/"),
        _field("config_hash", pa.string(), "hash of the configuration, 16 hex digits"),
        _field("versions", pa.map_(pa.string(), pa.string()), "versions of the libraries that ran it"),
    ],
)
"""One row per attempt at a model, always: ok, skipped and failed alike."""

RESPONSES = _schema(
    "responses",
    [
        *_LOGIT_KEY,
        _field("label", pa.string(), "the model's own name for this output; untrusted text; null when it has none"),
        _field("mean", pa.float32(), "mean of the raw responses over the probes run", "logit units"),
        _field("std", pa.float32(), "standard deviation (ddof = 0) of the raw responses", "logit units"),
        _field("excluded", pa.string(), "'constant' or 'nonfinite' when the output cannot be searched, else null"),
        _field(
            "response",
            pa.list_(pa.float16()),
            "z-scored responses, (raw - mean) / std, one per probe run, in the order of probe_ids; null if excluded",
            "standard deviations",
        ),
        _field("probe_ids", pa.list_(pa.int32()), "probes run, ascending; on the model's logit 0 only, else null"),
        _field(
            "logsumexp",
            pa.list_(pa.float32()),
            "log-sum-exp over the model's raw outputs, per probe run; on logit 0 only, else null",
            "logit units",
        ),
        _field(
            "random_ids",
            pa.list_(pa.int32()),
            "those of probe_ids that were drawn at random, where the others were chosen; on logit 0 only, else null. "
            "Only means over these are unbiased",
        ),
    ],
)
"""One row per logit of a probed model: ``raw = response * std + mean``; softmax is ``exp(raw - logsumexp)``."""


def descriptors(n_probes: int) -> pa.Schema:
    """Return the schema of ``descriptors/<probe_set>/``: one row per searchable logit, vectors of ``n_probes``."""
    return _schema(
        "descriptors",
        [
            *_LOGIT_KEY,
            _field("label", pa.string(), "the model's own name for this output; untrusted text"),
            _field("mean", pa.float32(), "mean of the raw responses", "logit units"),
            _field("std", pa.float32(), "standard deviation of the raw responses", "logit units"),
            _field(
                "vector",
                pa.list_(pa.float16(), n_probes),
                "the logit descriptor: z-scored response to every probe, observed or completed",
                "standard deviations",
                nullable=False,
            ),
            _field(
                "observed", pa.binary(), "bit per probe, most significant first: 1 if it was run; null means all were"
            ),
            _field(
                "variance",
                pa.float32(),
                "mean posterior variance of the entries that were not run; 0 if none",
                "squared standard deviations",
                nullable=False,
            ),
            _field(
                "deviation",
                pa.list_(pa.float16()),
                "posterior standard deviation of every entry, 0 where it was run; on the model's first row, else null",
                "standard deviations",
            ),
            _field(
                "logsumexp",
                pa.list_(pa.float32()),
                "log-sum-exp over all raw outputs, per probe run, by probe_id; on the model's first row, else null",
                "logit units",
            ),
        ],
    )


TABLES: dict[str, pa.Schema] = {
    "catalog": CATALOG,
    "probes": PROBES,
    "attempts": ATTEMPTS,
    "responses": RESPONSES,
}
"""The fixed schemas by table name; `descriptors` depends on the number of probes."""
