"""Configuration: frozen dataclasses, one field per setting, read from ``hubprobe.toml`` and hashed into manifests."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from workspace.disk import require_file, using
from workspace.errors import ConfigError
from workspace.files import canonical_json, short_hash

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


T = TypeVar("T")

MAX_BYTES = 1024**2
"""Size of a ``hubprobe.toml`` that is read."""

MAX_NUMBER = 10**15
"""Largest setting: a petabyte; seconds, images and parameters are fewer."""


@dataclass(frozen=True)
class CrawlConfig:
    """What is listed, and the caps that decide eligibility before any weights are fetched."""

    pipeline_tag: str = "image-classification"  # task to list; "" for any
    max_parameters: int = 2_000_000_000  # of a model that is probed
    max_weights_bytes: int = 8 * 1024**3  # bytes of its weights
    max_labels: int = 200_000  # outputs
    max_image_size: int = 1024  # pixels, the edge of its input
    cards: bool = True  # read the top of an eligible repository's card, one request, for full-text search
    excluded_licenses: tuple[str, ...] = ()  # as the Hub tags them: "cc-by-nc-4.0"
    opt_out: tuple[str, ...] = ()  # owners, or owner/name, that are left alone


@dataclass(frozen=True)
class ProbesConfig:
    """Where the probe images come from when none were built: COCO 2017 validation, as in the published method."""

    source: str = "lmms-lab/COCO-Caption2017"  # folder, Parquet or dataset of the Hub
    split: str = "val"  # of the dataset
    n: int = 4000  # images
    seed: int = 0  # of the sample


@dataclass(frozen=True)
class ProbeConfig:
    """How models are run."""

    batch_size: int = 64  # images; halved when memory runs out
    seconds_per_model: float = 1800.0  # deadline of one model, all phases


@dataclass(frozen=True)
class SearchConfig:
    """How queries are answered."""

    encoder: str = "clip:openai/clip-vit-base-patch16"  # what reads texts: clip:, captions: or none
    image_encoder: str = ""  # images:OWNER/NAME sees example images in place of the encoder
    scoring: str = "bridged"  # beats the published "probelog"; docs/results.md has the figures
    k: int = 0  # probes compared, the query's strongest; 0: as many as the scoring takes by itself


@dataclass(frozen=True)
class ReleaseConfig:
    """What `hubprobe release` publishes; see docs/release.md."""

    license: str = "cc-by-4.0"  # of the measurements, as the Hub tags it
    licenses: tuple[str, ...] = ("permissive", "copyleft", "responsible", "none")  # classes or tags of models kept
    probes_license: str = ""  # stated by you, for probe images whose source states none
    opt_out: tuple[str, ...] = ()  # owners, or owner/name


@dataclass(frozen=True)
class Config:
    """All settings of a workspace."""

    endpoint: str = "https://huggingface.co"  # of the Hub; HF_ENDPOINT and --endpoint go before it
    crawl: CrawlConfig = field(default_factory=CrawlConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON.

        What measures nothing is left out: the endpoint, an address, and ``[release]``.
        """
        settings = asdict(self)
        del settings["endpoint"], settings["release"]
        return short_hash(canonical_json(settings))

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read ``path``; defaults where it, or a setting in it, is missing.

        Raises `ConfigError` for an unknown name or a value of the wrong type.
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
        return _fill(cls(), raw, str(path))

    def to_toml(self) -> str:
        """Return the settings as TOML text that `load` reads back to an equal object."""
        lines = [f"endpoint = {_toml(self.endpoint)}"]
        for section in ("crawl", "probes", "probe", "search", "release"):
            lines.append(f"\n[{section}]")
            lines += [f"{name} = {_toml(value)}" for name, value in asdict(getattr(self, section)).items()]
        return "\n".join(lines) + "\n"


def _fill(default: T, raw: dict[str, Any], where: str) -> T:
    known = {f.name: getattr(default, f.name) for f in fields(default)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown setting '{name}'; known here: {', '.join(sorted(known))}")
        old = known[name]
        if hasattr(old, "__dataclass_fields__"):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: '{name}' is a section: write [{name}]")
            changes[name] = _fill(old, value, f"{where} [{name}]")
        else:
            changes[name] = _checked(name, value, old, where)
    return replace(default, **changes)  # type: ignore[type-var]


_MAY_BE_ZERO = ("seed", "k")


def _checked(name: str, value: Any, old: Any, where: str) -> Any:
    if isinstance(old, tuple) and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if type(value) in (int, float) and not -MAX_NUMBER <= value <= MAX_NUMBER:  # nan is in no range
        raise ConfigError(f"{where}: '{name}' must be a number of at most {MAX_NUMBER}")
    if isinstance(old, float) and type(value) in (int, float):
        value = float(value)
    if type(value) is not type(old):
        raise ConfigError(f"{where}: '{name}' must be {type(old).__name__}, not {value!r}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < (0 if name in _MAY_BE_ZERO else 1):
        raise ConfigError(f"{where}: '{name}' must be at least {0 if name in _MAY_BE_ZERO else 1}, not {value!r}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
