"""Configuration: one field per setting, read from ``hubprobe.toml``, checked by pydantic, hashed into manifests."""

from __future__ import annotations

import reprlib
import sys
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict, StrictBool, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from workspace.conversions import CONVERTERS
from workspace.errors import ConfigError
from workspace.files import canonical_json, require_file, short_hash, using

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


MAX_BYTES = 1024**2
"""Size of a ``hubprobe.toml`` that is read."""

MAX_NUMBER = 10**15
"""Largest setting: a petabyte; seconds, images and parameters are fewer."""

_STRICT = ConfigDict(extra="forbid")

Count = Annotated[int, Strict(), Field(ge=1, le=MAX_NUMBER)]
FromZero = Annotated[int, Strict(), Field(ge=0, le=MAX_NUMBER)]
Seconds = Annotated[float, Strict(), Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)]
Texts = tuple[StrictStr, ...]


def _about(meaning: str) -> Any:
    """Return the meaning of a setting, as it stands beside it in ``hubprobe.toml``, and in the documentation."""
    return Field(description=meaning)


@dataclass(frozen=True, config=_STRICT)
class CrawlConfig:
    """What is listed, and the caps that decide eligibility before any weights are fetched."""

    pipeline_tag: Annotated[StrictStr, _about('task to list; "" for any')] = "image-classification"
    max_parameters: Annotated[Count, _about("most parameters of a model that is probed")] = 2_000_000_000
    max_weights_bytes: Annotated[Count, _about("most bytes of its weights")] = 8 * 1024**3
    max_labels: Annotated[Count, _about("most outputs")] = 200_000
    max_image_size: Annotated[Count, _about("largest edge of its input, in pixels")] = 1024
    cards: Annotated[
        StrictBool, _about("read the top of an eligible repository's card, one request, for full-text search")
    ] = True
    converted: Annotated[
        StrictBool, _about("of pickled weights, use the safetensors that a conversion bot offers in a pull request")
    ] = True
    converters: Annotated[Texts, _about("accounts whose conversions are taken")] = CONVERTERS
    excluded_licenses: Annotated[Texts, _about('licences left out, as the Hub tags them: "cc-by-nc-4.0"')] = ()
    opt_out: Annotated[Texts, _about("owners, or owner/name, that are left alone")] = ()


@dataclass(frozen=True, config=_STRICT)
class ProbesConfig:
    """Where the probe images come from when none were built: COCO 2017 validation, as in the published method."""

    source: Annotated[StrictStr, _about("folder, Parquet or dataset of the Hub")] = "lmms-lab/COCO-Caption2017"
    split: Annotated[StrictStr, _about("part of the dataset")] = "val"
    n: Annotated[Count, _about("how many images")] = 4000
    seed: Annotated[FromZero, _about("seed of the sample")] = 0


@dataclass(frozen=True, config=_STRICT)
class ProbeConfig:
    """How models are run."""

    batch_size: Annotated[Count, _about("images in a forward pass; halved when memory runs out")] = 64
    seconds_per_model: Annotated[Seconds, _about("deadline of one model: all phases but the fetch, together")] = 1800.0


@dataclass(frozen=True, config=_STRICT)
class SearchConfig:
    """How queries are answered."""

    encoder: Annotated[StrictStr, _about("what reads texts: auto, clip:, captions: or none; docs/encoders.md")] = "auto"
    image_encoder: Annotated[StrictStr, _about("images:OWNER/NAME sees example images in place of the encoder")] = ""
    scoring: Annotated[StrictStr, _about('beats the published "probelog"; docs/results.md has the figures')] = "bridged"
    k: Annotated[
        FromZero, _about("probes compared, the query's strongest; 0: as many as the scoring takes by itself")
    ] = 0


@dataclass(frozen=True, config=_STRICT)
class ReleaseConfig:
    """What `hubprobe release` publishes; see docs/release.md."""

    license: Annotated[StrictStr, _about("licence of the measurements, as the Hub tags it")] = "cc-by-4.0"
    licenses: Annotated[Texts, _about("classes or tags of licences whose models are kept")] = (
        "permissive", "copyleft", "responsible", "none",
    )  # fmt: skip
    probes_license: Annotated[StrictStr, _about("licence that you state for probe images whose source states none")] = (
        ""
    )
    opt_out: Annotated[Texts, _about("owners, or owner/name, that are left out")] = ()
    author: Annotated[StrictStr, _about("whom the card says to cite; the owner of the dataset when empty")] = ""


@dataclass(frozen=True, config=_STRICT)
class WorkspaceConfig:
    """Where the workspace's files lie beside this folder; see docs/sync.md."""

    remote: Annotated[
        StrictStr, _about("s3://, gs://, az://, hf:// or file:// that verbs pull from and push to; docs/sync.md")
    ] = ""


_CAME_LATER = (("crawl", "converted"), ("crawl", "converters"))
"""Settings that earlier hashes know nothing of."""


@dataclass(frozen=True, config=_STRICT)
class Config:
    """All settings of a workspace."""

    endpoint: Annotated[StrictStr, _about("address of the Hub; HF_ENDPOINT and --endpoint go before it")] = (
        "https://huggingface.co"
    )
    crawl: CrawlConfig = field(default_factory=CrawlConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    workspace: WorkspaceConfig = field(default_factory=WorkspaceConfig)

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON.

        What measures nothing is left out: the addresses, and ``[release]``. So is a setting that came later,
        at its default: what was measured before keeps its hash.
        """
        settings, defaults = asdict(self), asdict(Config())
        del settings["endpoint"], settings["release"], settings["workspace"]
        for section, name in _CAME_LATER:
            if settings[section][name] == defaults[section][name]:
                del settings[section][name]
        return short_hash(canonical_json(settings))

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read ``path``; defaults where it, or a setting in it, is missing.

        Raises `ConfigError` for an unknown name or a value of the wrong type or out of range.
        """
        if not path.exists():
            return cls()
        require_file(path)
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; settings take less than {MAX_BYTES}")
        try:
            with using(path, "read"):
                raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # no TOML, not UTF-8, numbers of 5,000 digits, lists in lists
            raise ConfigError(f"{path}: {str(error)[:300]}") from error
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            raise ConfigError(_sentence(path, error)) from error

    def to_toml(self) -> str:
        """Return the settings as TOML text that `load` reads back to an equal object; beside each, what it means."""
        import tomlkit

        text: Any = tomlkit.parse(tomlkit.dumps(asdict(self)))
        sections = [(text.item(f.name).value, getattr(self, f.name)) for f in fields(self) if f.name != "endpoint"]
        for table, settings in ((text, self), *sections):
            for name, known in type(settings).__pydantic_fields__.items():
                if known.description:
                    table.item(name).comment(known.description)
        return tomlkit.dumps(text)


def _sentence(path: Path, error: ValidationError) -> str:
    """Return what is wrong with the first setting that is, and what it should be."""
    first = error.errors(include_url=False)[0]
    section, name = ("", first["loc"][0]) if len(first["loc"]) == 1 else first["loc"][:2]
    where = f"{path} [{section}]" if section else str(path)
    bounds = first.get("ctx", {})
    kind, value = first["type"], reprlib.repr(first["input"])
    if kind == "unexpected_keyword_argument":
        settings = getattr(Config(), str(section)) if section else Config()
        return f"{where}: unknown setting '{name}'; known here: {', '.join(sorted(f.name for f in fields(settings)))}"
    if kind == "dataclass_type":
        return f"{where}: '{name}' is a section: write [{name}]"
    if kind == "greater_than_equal":
        return f"{where}: '{name}' must be at least {bounds['ge']:g}, not {value}"
    if kind == "greater_than":
        return f"{where}: '{name}' must be more than {bounds['gt']:g}, not {value}"
    if kind in ("less_than_equal", "finite_number"):
        return f"{where}: '{name}' must be a number of at most {MAX_NUMBER}, not {value}"
    wanted = {"string_type": "str", "bool_type": "bool", "float_type": "float", "tuple_type": "a list of str"}
    return f"{where}: '{name}' must be {wanted.get(kind, 'int')}, not {value}"
