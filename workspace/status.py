"""Every way a repository can end, once: the value that lands in the tables, its outcome, and what it means.

``catalog.eligibility`` holds ``eligible``, one of the *skipped* values, or the *failed* value of a request that the
next crawl makes again; ``attempts.status`` holds any value but ``eligible``. Every attempted model has exactly one row,
so ``attempted = ok + skipped + failed``.
"""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """The three kinds of end an attempt can have."""

    OK = "ok"
    SKIPPED = "skipped"  # decided without running the model: nothing is wrong with us
    FAILED = "failed"  # we tried: fetching, loading or running it went wrong


class Status(str, Enum):
    """The status enum of the catalog and of the attempts: its value, the stage that decides it, and a sentence.

    Attributes:
        stage: list, config, weights (decided by the crawler) or fetch, load, run (met by the prober).
        meaning: one sentence a person understands.
    """

    _value_: str
    stage: str
    meaning: str

    ELIGIBLE = "eligible", "", ""
    OK = "ok", "run", "probed: its responses are in the workspace"
    # skipped: decided from the listing, the file tree, the config and the safetensors header
    GATED = "gated", "list", "gated: its author wants to be asked before anyone downloads it"
    DISABLED = "disabled", "list", "disabled by the Hub"
    GONE = "gone", "list", "deleted or made private after it was listed"
    RENAMED = "renamed", "list", "renamed after it was listed; the new name is probed when it is listed"
    MALFORMED_ROW = "malformed_row", "list", "the Hub's row for it cannot be read"
    UNSAFE_PATH = "unsafe_path", "list", "a file name in it would leave its folder"
    OPTED_OUT = "opted_out", "list", "its author asked not to be probed"
    LICENCE_EXCLUDED = "licence_excluded", "list", "its licence is on this workspace's exclusion list"
    NO_CONFIG = "no_config", "list", "has no config.json, so nothing says how to build it"
    MALFORMED_CONFIG = "malformed_config", "config", "its config.json is not a JSON object of a sane size"
    CUSTOM_CODE = "custom_code", "config", "needs Python code from its own repository, which is never run"
    ADAPTER = "adapter", "list", "a PEFT adapter, not a whole model"
    PICKLE_ONLY = "pickle_only", "list", "has weights only as pickles, which can run code when opened"
    ONNX_ONLY = "onnx_only", "list", "has weights only as ONNX"
    FOREIGN_FORMAT = "foreign_format", "list", "has weights only in a format that is not read here"
    NO_WEIGHTS = "no_weights", "list", "has no weights at all"
    ZERO_SHOT = "zero_shot", "config", "a zero-shot image-text model: it has no outputs of its own"
    REGRESSION = "regression", "config", "a regression head: its output is a quantity, not a class"
    NOT_A_CLASSIFIER = "not_a_classifier", "config", "its architecture is not an image classifier"
    UNKNOWN_ARCHITECTURE = "unknown_architecture", "config", "its architecture is unknown to transformers and timm"
    QUANTISED = "quantised", "config", "quantised weights that need a special runtime"
    TOO_MANY_PARAMETERS = "too_many_parameters", "config", "more parameters than this workspace allows"
    TOO_MANY_LABELS = "too_many_labels", "config", "more labels than this workspace allows"
    TOO_MANY_BYTES = "too_many_bytes", "list", "more bytes of weights than this workspace allows"
    IMAGE_TOO_LARGE = "image_too_large", "config", "wants larger images than this workspace allows"
    TRUNCATED_WEIGHTS = "truncated_weights", "weights", "its safetensors file is shorter than its own header says"
    INVALID_HEADER = "invalid_header", "weights", "its safetensors header cannot be read"
    HEAD_MISSING = "head_missing", "weights", "the weights hold no classification head: outputs would be random"
    HEAD_MISMATCH = "head_mismatch", "weights", "the head has another number of rows than the config has labels"
    # failed: we tried
    FILE_MISSING = "file_missing", "fetch", "a file that its listing names is not there"
    RATE_LIMITED = "rate_limited", "fetch", "the Hub kept asking us to slow down; run again later"
    NETWORK_ERROR = "network_error", "fetch", "the connection failed repeatedly; run again later"
    SERVER_ERROR = "server_error", "fetch", "the Hub answered with an error repeatedly; run again later"
    CORRUPT_FILE = "corrupt_file", "fetch", "a downloaded file does not have the hash its repository states"
    DISK_FULL = "disk_full", "fetch", "this machine's disk is full"
    LOAD_ERROR = "load_error", "load", "transformers or timm could not build it from its files"
    PROCESSOR_ERROR = "processor_error", "load", "its image processor cannot prepare the probes"
    NONFINITE_WEIGHTS = "nonfinite_weights", "load", "weights that are NaN or infinite"
    EXCEEDS_MEMORY = "exceeds_memory", "load", "its weights and outputs do not fit into this machine's memory"
    OUT_OF_MEMORY = "out_of_memory", "run", "did not fit into memory, even one image at a time"
    TIMEOUT = "timeout", "run", "took longer than its deadline"
    CRASHED = "crashed", "run", "ended the process that ran it, twice"
    NONFINITE_OUTPUT = "nonfinite_output", "run", "outputs that are NaN or infinite"
    CONSTANT_OUTPUT = "constant_output", "run", "every output is the same for all probes"
    WRONG_SHAPE = "wrong_shape", "run", "outputs that are not one number per label and image"
    FORWARD_ERROR = "forward_error", "run", "raised an error when it was run"
    INTERNAL_ERROR = "internal_error", "run", "an error of hubprobe's own: please report it"

    def __new__(cls, value: str, stage: str = "", meaning: str = "") -> Status:  # noqa: PYI034 - Self needs Python 3.11
        """Return the member of ``value``."""
        made = str.__new__(cls, value)
        made._value_, made.stage, made.meaning = value, stage, meaning
        return made

    @property
    def outcome(self) -> Outcome:
        """Return ok, skipped or failed. ``eligible`` is not an end and raises `ValueError`."""
        if self is Status.ELIGIBLE:
            raise ValueError("'eligible' is a verdict of the catalog, not the end of an attempt")
        if self is Status.OK:
            return Outcome.OK
        return Outcome.SKIPPED if self.stage in ("list", "config", "weights") else Outcome.FAILED


class LabelQuality(str, Enum):
    """How far a model's label names can be trusted to be names at all."""

    NAMED = "named"
    LABEL_I = "LABEL_i"
    NUMERIC = "numeric"
    MISSING = "missing"
    INFERRED = "inferred"  # worked out: ImageNet's names by a timm model's tag, or labels that do not fit its outputs
    GUESSED_BY_COUNT = "guessed_by_count"  # timm picks ImageNet's names from the number of classes alone
