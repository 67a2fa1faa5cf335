"""The worker, with a list of every file that it opens once its walls stand: ``python recorded_worker.py LIST``."""

from __future__ import annotations

import os
import sys
from typing import Any

from probing.child import walls, worker


def main(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    raise_walls = walls.raise_walls

    def hook(event: str, arguments: Any) -> None:
        """Note what is opened; what a wall refuses does not come this far, for its hook is asked first."""
        if event == "open" and not isinstance(arguments[0], int):
            os.write(log, os.fsencode(os.path.realpath(arguments[0])) + b"\n")

    def raise_and_record(*arguments: Any, **options: Any) -> list[str]:
        standing = raise_walls(*arguments, **options)
        sys.addaudithook(hook)
        return standing

    walls.raise_walls = raise_and_record
    worker.main()


if __name__ == "__main__":
    main(sys.argv[1])
