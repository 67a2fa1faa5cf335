"""Every way a repository can end, once: the value that lands in the tables, its outcome, and what it means.

``catalog.eligibility`` holds ``eligible``, one of the *skipped* values, or the *failed* value of a request that the
next crawl makes again; ``attempts.status`` holds any value but ``eligible``. Every attempted model has exactly one row,
so ``attempted = ok + skipped + failed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(str, Enum):
    """The three kinds of end an attempt can have."""

    OK = "ok"
    SKIPPED = "skipped"  # decided without running the model: nothing is wrong with us
    FAILED = "failed"  # we tried: fetching, loading or running it went wrong


class Status(str, Enum):
    """The status enum of the catalog and of the attempts. `MEANING` explains each."""

    ELIGIBLE = "eligible"
    OK = "ok"
    # skipped: decided from the listing, the file tree, the config and the safetensors header
    GATED = "gated"
    DISABLED = "disabled"
    GONE = "gone"
    RENAMED = "renamed"
    MALFORMED_ROW = "malformed_row"
    UNSAFE_PATH = "unsafe_path"
    OPTED_OUT = "opted_out"
    LICENCE_EXCLUDED = "licence_excluded"
    NO_CONFIG = "no_config"
    MALFORMED_CONFIG = "malformed_config"
    CUSTOM_CODE = "custom_code"
    ADAPTER = "adapter"
    PICKLE_ONLY = "pickle_only"
    ONNX_ONLY = "onnx_only"
    FOREIGN_FORMAT = "foreign_format"
    NO_WEIGHTS = "no_weights"
    ZERO_SHOT = "zero_shot"
    REGRESSION = "regression"
    NOT_A_CLASSIFIER = "not_a_classifier"
    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    QUANTISED = "quantised"
    TOO_MANY_PARAMETERS = "too_many_parameters"
    TOO_MANY_LABELS = "too_many_labels"
    TOO_MANY_BYTES = "too_many_bytes"
    IMAGE_TOO_LARGE = "image_too_large"
    TRUNCATED_WEIGHTS = "truncated_weights"
    INVALID_HEADER = "invalid_header"
    HEAD_MISSING = "head_missing"
    HEAD_MISMATCH = "head_mismatch"
    # failed: fetch
    FILE_MISSING = "file_missing"
    RATE_LIMITED = "rate_limited"
    NETWORK_ERROR = "network_error"
    SERVER_ERROR = "server_error"
    CORRUPT_FILE = "corrupt_file"
    DISK_FULL = "disk_full"
    # failed: load
    LOAD_ERROR = "load_error"
    PROCESSOR_ERROR = "processor_error"
    NONFINITE_WEIGHTS = "nonfinite_weights"
    EXCEEDS_MEMORY = "exceeds_memory"
    # failed: run
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    NONFINITE_OUTPUT = "nonfinite_output"
    CONSTANT_OUTPUT = "constant_output"
    WRONG_SHAPE = "wrong_shape"
    FORWARD_ERROR = "forward_error"
    INTERNAL_ERROR = "internal_error"

    @property
    def outcome(self) -> Outcome:
        """Return ok, skipped or failed. ``eligible`` is not an end and raises `ValueError`."""
        if self is Status.ELIGIBLE:
            raise ValueError("'eligible' is a verdict of the catalog, not the end of an attempt")
        return MEANING[self].outcome

    @property
    def meaning(self) -> str:
        """One sentence a person understands."""
        return MEANING[self].sentence


@dataclass(frozen=True)
class Meaning:
    """What a status says of a repository."""

    outcome: Outcome
    stage: str  # list, config, weights (decided by the crawler); fetch, load, run (met by the prober)
    sentence: str


_SKIP, _FAIL = Outcome.SKIPPED, Outcome.FAILED

MEANING: dict[Status, Meaning] = {
    Status.OK: Meaning(Outcome.OK, "run", "probed: its responses are in the workspace"),
    Status.GATED: Meaning(_SKIP, "list", "gated: its author wants to be asked before anyone downloads it"),
    Status.DISABLED: Meaning(_SKIP, "list", "disabled by the Hub"),
    Status.GONE: Meaning(_SKIP, "list", "deleted or made private after it was listed"),
    Status.RENAMED: Meaning(_SKIP, "list", "renamed after it was listed; the new name is probed when it is listed"),
    Status.MALFORMED_ROW: Meaning(_SKIP, "list", "the Hub's row for it cannot be read"),
    Status.UNSAFE_PATH: Meaning(_SKIP, "list", "a file name in it would leave its folder"),
    Status.OPTED_OUT: Meaning(_SKIP, "list", "its author asked not to be probed"),
    Status.LICENCE_EXCLUDED: Meaning(_SKIP, "list", "its licence is on this workspace's exclusion list"),
    Status.NO_CONFIG: Meaning(_SKIP, "list", "has no config.json, so nothing says how to build it"),
    Status.MALFORMED_CONFIG: Meaning(_SKIP, "config", "its config.json is not a JSON object of a sane size"),
    Status.CUSTOM_CODE: Meaning(_SKIP, "config", "needs Python code from its own repository, which is never run"),
    Status.ADAPTER: Meaning(_SKIP, "list", "a PEFT adapter, not a whole model"),
    Status.PICKLE_ONLY: Meaning(_SKIP, "list", "has weights only as pickles, which can run code when opened"),
    Status.ONNX_ONLY: Meaning(_SKIP, "list", "has weights only as ONNX"),
    Status.FOREIGN_FORMAT: Meaning(_SKIP, "list", "has weights only in a format that is not read here"),
    Status.NO_WEIGHTS: Meaning(_SKIP, "list", "has no weights at all"),
    Status.ZERO_SHOT: Meaning(_SKIP, "config", "a zero-shot image-text model: it has no outputs of its own"),
    Status.REGRESSION: Meaning(_SKIP, "config", "a regression head: its output is a quantity, not a class"),
    Status.NOT_A_CLASSIFIER: Meaning(_SKIP, "config", "its architecture is not an image classifier"),
    Status.UNKNOWN_ARCHITECTURE: Meaning(_SKIP, "config", "its architecture is unknown to transformers and timm"),
    Status.QUANTISED: Meaning(_SKIP, "config", "quantised weights that need a special runtime"),
    Status.TOO_MANY_PARAMETERS: Meaning(_SKIP, "config", "more parameters than this workspace allows"),
    Status.TOO_MANY_LABELS: Meaning(_SKIP, "config", "more labels than this workspace allows"),
    Status.TOO_MANY_BYTES: Meaning(_SKIP, "list", "more bytes of weights than this workspace allows"),
    Status.IMAGE_TOO_LARGE: Meaning(_SKIP, "config", "wants larger images than this workspace allows"),
    Status.TRUNCATED_WEIGHTS: Meaning(_SKIP, "weights", "its safetensors file is shorter than its own header says"),
    Status.INVALID_HEADER: Meaning(_SKIP, "weights", "its safetensors header cannot be read"),
    Status.HEAD_MISSING: Meaning(_SKIP, "weights", "the weights hold no classification head: outputs would be random"),
    Status.HEAD_MISMATCH: Meaning(_SKIP, "weights", "the head has another number of rows than the config has labels"),
    Status.FILE_MISSING: Meaning(_FAIL, "fetch", "a file that its listing names is not there"),
    Status.RATE_LIMITED: Meaning(_FAIL, "fetch", "the Hub kept asking us to slow down; run again later"),
    Status.NETWORK_ERROR: Meaning(_FAIL, "fetch", "the connection failed repeatedly; run again later"),
    Status.SERVER_ERROR: Meaning(_FAIL, "fetch", "the Hub answered with an error repeatedly; run again later"),
    Status.CORRUPT_FILE: Meaning(_FAIL, "fetch", "a downloaded file does not have the hash its repository states"),
    Status.DISK_FULL: Meaning(_FAIL, "fetch", "this machine's disk is full"),
    Status.LOAD_ERROR: Meaning(_FAIL, "load", "transformers or timm could not build it from its files"),
    Status.PROCESSOR_ERROR: Meaning(_FAIL, "load", "its image processor cannot prepare the probes"),
    Status.NONFINITE_WEIGHTS: Meaning(_FAIL, "load", "weights that are NaN or infinite"),
    Status.EXCEEDS_MEMORY: Meaning(_FAIL, "load", "its weights and outputs do not fit into this machine's memory"),
    Status.OUT_OF_MEMORY: Meaning(_FAIL, "run", "did not fit into memory, even one image at a time"),
    Status.TIMEOUT: Meaning(_FAIL, "run", "took longer than its deadline"),
    Status.CRASHED: Meaning(_FAIL, "run", "ended the process that ran it, twice"),
    Status.NONFINITE_OUTPUT: Meaning(_FAIL, "run", "outputs that are NaN or infinite"),
    Status.CONSTANT_OUTPUT: Meaning(_FAIL, "run", "every output is the same for all probes"),
    Status.WRONG_SHAPE: Meaning(_FAIL, "run", "outputs that are not one number per label and image"),
    Status.FORWARD_ERROR: Meaning(_FAIL, "run", "raised an error when it was run"),
    Status.INTERNAL_ERROR: Meaning(_FAIL, "run", "an error of hubprobe's own: please report it"),
}
"""Outcome, stage and sentence of every status but ``eligible``."""


class LabelQuality(str, Enum):
    """How far a model's label names can be trusted to be names at all."""

    NAMED = "named"
    LABEL_I = "LABEL_i"
    NUMERIC = "numeric"
    MISSING = "missing"
    INFERRED = "inferred"  # worked out: ImageNet's names by a timm model's tag, or labels that do not fit its outputs
    GUESSED_BY_COUNT = "guessed_by_count"  # timm picks ImageNet's names from the number of classes alone
