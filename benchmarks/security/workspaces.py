"""Somebody else's folder: a small workspace in which files were damaged, emptied, swapped or replaced, then used.

Asked are ``status``, opening the index and a search, ``index --verify`` and ``complete``; each answers, or says in a
sentence what is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from tests.search.conftest import make
from workspace import HubprobeError, Workspace

TOML = (
    'endpoint = "http://127.0.0.1:9"\n',
    "[probe]\nseconds_per_model = nan\n",
    "[probe]\nbatch_size = -1\n",
    "a" * 10_000,
    "[[[[",
    "[probes]\nn = 99999999999999999999\n",
    '[search]\nencoder = "../../x"\n',
    "x = " + "[" * 5_000,
    "\x00",
    "[crawl]\ncards = 3\n",
)


def run(count: int, seed: int) -> Report:
    """Try ``count`` damaged folders; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, folder = Path(scratch) / "whole", Path(scratch) / "damaged"
        made = make(whole, models=4, n=64)
        made.index()
        files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
        _use(whole, made.encoder)
        with watching("workspaces", seed) as report:
            for number in range(seed, seed + count):
                chance = Random(number)
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(whole, folder)
                hurt = [_hurt(folder, chance.choice(files), chance) for _ in range(chance.choice((1, 1, 2)))]
                attempt(report, lambda: _use(folder, made.encoder), f"seed {number}: {hurt}", HubprobeError)
    return report


def _use(folder: Path, encoder: object) -> None:
    """Ask everything; the first refusal is raised at the end, so that none hides what comes after it."""
    import completion
    import search
    from hubprobe import status

    refused: list[HubprobeError] = []
    for step in (
        lambda: status(folder),
        lambda: search.open(Workspace.open(folder), encoder=encoder).search("dog").limit(3).to_arrow(),  # type: ignore[arg-type]
        lambda: search.verify(Workspace.open(folder)),
        lambda: completion.complete(Workspace.open(folder), progress=False),
    ):
        try:
            step()
        except HubprobeError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _hurt(folder: Path, name: Path, chance: Random) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} gone"
    kind = chance.choice(("flip", "flip", "damage", "cut", "empty", "delete", "json", "swap", "folder", "pipe", "toml"))
    raw = path.read_bytes()
    if kind == "flip" and raw:
        at = chance.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 :])
    elif kind == "damage":
        path.write_bytes(odd.damaged(raw, chance))
    elif kind == "cut":
        path.write_bytes(raw[: chance.randrange(len(raw) + 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "json":
        path.write_text(json.dumps(odd.value(chance)), encoding="utf-8")
    elif kind == "toml":
        (folder / "hubprobe.toml").write_text(chance.choice(TOML), encoding="utf-8")
    elif kind == "swap":
        others = [p for p in sorted(folder.rglob(f"*{path.suffix}")) if p.is_file() and p != path]
        if others:
            shutil.copy(chance.choice(others), path)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
    return f"{name} {kind}"
