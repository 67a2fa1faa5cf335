"""Python and the libraries, against the ranges that hubprobe's own metadata states."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hubprobe.doctor.check import Check, Setting
from workspace.version import __version__

SHOWN = ("torch", "torchvision", "transformers", "timm", "huggingface_hub", "lancedb", "duckdb")
"""Libraries with a row of their own; the others get one when something is wrong with them."""

_TOOLS = "dev"  # an extra for those who change hubprobe


def python(_: Setting) -> Iterator[Check]:
    """Python's version, and whether the installed hubprobe is the one that runs."""
    try:
        about = metadata.metadata("hubprobe")
    except metadata.PackageNotFoundError:
        yield Check("hubprobe", "warn", f"{__version__}, not installed, only importable", "pip install hubprobe")
        return
    same = about["Version"] == __version__
    advice = "" if same else "install it again: pip install --force-reinstall --no-deps hubprobe"
    found = f"{__version__}" if same else f"{__version__} runs, {about['Version']} is installed"
    yield Check("hubprobe", "ok" if same else "warn", found, advice)
    allowed = SpecifierSet(about["Requires-Python"] or "")
    version = platform.python_version()
    fits = allowed.contains(version, prereleases=True)
    tested = {c.rpartition(" ")[2] for c in about.get_all("Classifier") or [] if "Python :: 3." in c}
    found = f"{version}, {platform.python_implementation()} on {platform.system()} {platform.machine()}"
    if not fits:
        yield Check("python", "fail", f"{found}; hubprobe needs {allowed}", f"use a Python {allowed}")
    elif ".".join(map(str, sys.version_info[:2])) not in tested:
        found = f"{found}; tried with {', '.join(sorted(tested))}"
        yield Check("python", "warn", found, "if it fails, use one of those")
    else:
        yield Check("python", "ok", found)


def packages(_: Setting) -> Iterator[Check]:
    """Every library that hubprobe needs, and whether torchvision was built for this torch."""
    required = _required(lambda r: r.marker is None or r.marker.evaluate({"extra": ""}))
    fine = []
    for need in required:
        check = _judged(need)
        if check.state != "ok" or need.name.replace("-", "_") in SHOWN:
            yield check
        else:
            fine.append(need.name)
    if fine:
        yield Check("other libraries", "ok", f"{len(fine)} in their ranges: {', '.join(sorted(fine))}")
    yield from _torchvision()


def extras(_: Setting) -> Iterator[Check]:
    """What can be added, and whether it is there."""
    try:
        names = metadata.metadata("hubprobe").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in (name for name in names if name != _TOOLS):
        needs = _required(lambda r, e=extra: r.marker is not None and _only_with(r, e))
        judged = [_judged(need) for need in needs]
        bad = [check for check in judged if check.state != "ok"]
        missing = [check for check in bad if check.found.startswith("missing")]
        install = f"pip install 'hubprobe[{extra}]'"
        if missing and len(missing) == len(judged):
            yield Check(f"extra {extra}", "ok", "not installed, not needed for the rest", f"if you want it: {install}")
        elif bad:
            yield Check(f"extra {extra}", "warn", "; ".join(f"{c.check} {c.found}" for c in bad), install)
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(f"{c.check} {c.found}" for c in judged))


def _judged(need: Requirement) -> Check:
    wanted = f"{need.name}{need.specifier}"
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Check(need.name, "fail", f"missing; hubprobe needs {wanted}", f"pip install '{wanted}'")
    if need.specifier.contains(version, prereleases=True):
        return Check(need.name, "ok", f"{version} ({_range(need.specifier)})" if need.specifier else version)
    return Check(need.name, "fail", f"{version}; hubprobe needs {_range(need.specifier)}", f"pip install '{wanted}'")


def _range(specifiers: SpecifierSet) -> str:
    return ", ".join(sorted(map(str, specifiers), reverse=True))  # the lower bound first


def _torchvision() -> Iterator[Check]:
    try:
        needs = [Requirement(text) for text in metadata.requires("torchvision") or []]
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:  # said above
        return
    for need in needs:
        if need.name == "torch" and not need.specifier.contains(version, prereleases=True):
            found = f"torchvision was built for torch{need.specifier}, and torch {version} is here"
            advice = "install both at once: pip install -U torch torchvision"
            yield Check("torch with torchvision", "fail", found, advice)


def _required(wanted: object) -> list[Requirement]:
    try:
        texts: Iterable[str] = metadata.requires("hubprobe") or []
    except metadata.PackageNotFoundError:
        return []
    return [need for need in map(Requirement, texts) if wanted(need)]  # type: ignore[operator]


def _only_with(need: Requirement, extra: str) -> bool:
    marker = need.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
