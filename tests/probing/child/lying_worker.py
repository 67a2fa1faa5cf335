"""A worker that answers what no worker should, by the name of the model's folder; it runs nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def say(value: object) -> None:
    sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
    sys.stdout.flush()


def main() -> None:
    sys.stdin.readline()
    say({"ready": 1, "walls": "\x1b[2J"})
    for line in sys.stdin:
        job = json.loads(line)
        from workspace import model_file_name

        stem = model_file_name(job["fields"]["repo_id"], job["fields"]["sha"])
        fine = {"id": stem, "fields": {"status": "ok", "probes_run": 3, "num_logits": 2}}
        name = Path(job["folder"]).name
        before: list[object] = {
            "unknown": [{"id": "nobody", "fields": {}}, {"id": "nobody", "phase": "load"}, {"fields": {}}],
            "odd-id": [{"id": [stem], "fields": {}}, {"id": {"a": 1}}, {"id": None}],
            "odd-phase": [{"id": stem, "phase": {"a": 1}}, {"id": stem, "phase": "sleep"}],
            "not-json": ["rubbish"],
            "a-list": ["[1]"],
            "long": ["x" * 3_000_000],
            "endless": [{"id": stem, "fields": {"status": "ok", "reason": "y" * 3_000_000}}],
            "deep": ["[" * 200_000],
            "binary": ["\udcff\x00"],
            "twice": [fine],
        }.get(name, [])
        changed = {
            "empty": {"fields": {}},
            "none": {"fields": None},
            "no-such-status": {"fields": {"status": "wonderful"}},
            "eligible": {"fields": {"status": "eligible"}},
            "list-status": {"fields": {"status": ["ok"]}},
            "words": {"fields": {"status": "ok", "num_logits": "many"}},
            "huge": {"fields": {"status": "ok", "num_logits": 10**30}},
            "nested": {"fields": {"status": "ok", "architecture": {"a": [1]}}},
            "another": {
                "fields": {
                    "status": "ok", "outcome": "failed", "repo_id": "somebody/else", "sha": "b" * 40, "attempt": 99,
                    "rank": 77, "run_id": "forged", "config_hash": "0", "seconds_fetch": -1.0, "not_a_column": 1,
                }
            },
            "escapes": {"fields": {"status": "load_error", "reason": "\x1b]0;owned\x07" + "z" * 10_000}},
        }.get(name, {})  # fmt: skip
        for message in before:
            say(message)
        say(fine | changed)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    main()
