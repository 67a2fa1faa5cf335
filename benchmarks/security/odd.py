"""Odd values: what a stranger writes where something else belongs; every choice comes from a `random.Random`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 64, 224, 1000, 3_000, 20_000, 10**7, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5,
    1e-300, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", " ", "0", "LABEL_0", "class_0", "cat", "null", "None", "../../../etc/passwd", "/etc/passwd", "a/b", "a" * 5_000,
    "\u202edog\u202c", "\x1b[31mred\x1b]0;title\x07", "\x00", "\ud800", "😀" * 50, "http://127.0.0.1:9/x",
    "file:///etc/passwd", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "'; DROP TABLE models; --", "%s%n", "{}",
    "resnet18", "timm/resnet50",
    "modeling.Net", "torch.load", "os.system", "kernels-community/flash-attn", "sdpa", "flash_attention_2", "auto",
)  # fmt: skip


def value(chance: Random, depth: int = 3) -> Any:
    """Return any JSON value, nested at most ``depth`` levels."""
    kind = chance.randrange(10 if depth else 6)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind < 4:
        return chance.choice(TEXTS)
    if kind < 6:
        return chance.choice((None, True, False, [], {}))
    if kind < 8:
        return [value(chance, depth - 1) for _ in range(chance.choice((1, 2, 3, 3, 4, 30)))]
    return {chance.choice((*TEXTS, "a", "1", "size", "height")): value(chance, depth - 1) for _ in range(4)}


def deep(levels: int, kind: str = "[") -> str:
    """Return JSON text of lists or objects inside one another."""
    return "[" * levels + "]" * levels if kind == "[" else '{"a":' * levels + "1" + "}" * levels


def changed(given: dict[str, Any], keys: Sequence[str], chance: Random) -> dict[str, Any]:
    """Return ``given`` with one to four settings made odd, set, or taken away, at the root or inside."""
    made: dict[str, Any] = json.loads(json.dumps(given))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        place = made
        while (inner := [v for v in place.values() if isinstance(v, dict) and v]) and chance.random() < 0.3:
            place = chance.choice(inner)
        key = chance.choice((*keys, *place)) if chance.random() < 0.9 else chance.choice(TEXTS)
        if chance.random() < 0.1:
            place.pop(key, None)
        else:
            place[key] = value(chance)
    return made


def encoded(made: Any, chance: Random) -> bytes:
    """Return ``made`` as JSON, now and then cut, with bytes changed, in another encoding, or too deep."""
    text = json.dumps(made, ensure_ascii=chance.random() < 0.8)
    raw = text.encode("utf-8", "surrogatepass")
    kind = chance.randrange(20)
    if kind == 0:
        return raw[: chance.randrange(len(raw) + 1)]
    if kind == 1:
        return damaged(raw, chance)
    if kind == 2:
        return text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")), "surrogatepass")
    if kind == 3:
        return deep(chance.choice((10, 60, 1_000, 200_000)), chance.choice("[{")).encode()
    if kind == 4:
        return b'{"num_labels": ' + b"9" * chance.choice((30, 5_000, 1_000_000)) + b"}"
    return raw


def damaged(raw: bytes, chance: Random) -> bytes:
    """Return ``raw`` with bytes changed, cut out, doubled or put in."""
    made = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        if not made:
            break
        at, length = chance.randrange(len(made)), chance.choice((1, 1, 2, 4, 64))
        kind = chance.randrange(5)
        if kind == 0:
            del made[at : at + length]
        elif kind == 1:
            made[at:at] = chance.randbytes(length)
        elif kind == 2:
            made[at : at + length] = b"\xff" * length
        elif kind == 3:
            made[at:at] = made[at : at + length]
        else:
            made[at] ^= 1 << chance.randrange(8)
    return bytes(made)
