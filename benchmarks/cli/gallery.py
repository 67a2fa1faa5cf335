"""A workspace with an index at size, for ``benchmarks.cli``: ``python -m benchmarks.cli.gallery FOLDER ROWS [PROBES]``.

Structured synthetic descriptors and an encoder of words (`benchmarks.search.data`), built as any index is, text side
included. A million logits over 1,000 probes take 6 GB.
"""

from __future__ import annotations

import sys
from pathlib import Path

import search
from benchmarks.search.data import World, WorldEncoder, write_workspace


def main() -> None:
    folder, rows, probes = Path(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or ["1000"])[0])
    world = World.make(probes)
    workspace = write_workspace(folder, world, 0, rows)
    encoder = WorldEncoder(world)
    sys.stdout.write(f"{search.index(workspace, encoder=encoder)}\n")
    search.open(workspace, encoder=encoder).prepare(["dog", "concept 7"])


if __name__ == "__main__":
    main()
