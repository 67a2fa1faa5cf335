"""Every dependency at the lower bound that ``pyproject.toml`` states, as constraints for pip.

::

    python requirements/lowest.py            # writes requirements/lowest.txt
    python requirements/lowest.py --check    # exit code 1 when lowest.txt is not what it would write
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
TARGET = Path(__file__).parent / "lowest.txt"
EXTRAS = ("page", "plots", "ray", "remote")
"""The extras whose bounds count; those of ``dev`` are tools, which a user never installs."""

HEADER = "# Written by requirements/lowest.py from pyproject.toml: change it there, then `make lowest`.\n"
_BOUNDED = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<low>[\w.]+)(,[<!][^;]*)?(?P<marker>;.*)?")


def lowest(project: dict[str, object]) -> str:
    """Return ``name==bound`` for each dependency, sorted by name; one without a lower bound is a `ValueError`."""
    table = project["project"]
    optional = table["optional-dependencies"]  # type: ignore[index]
    lines = []
    for text in [*table["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]:  # type: ignore[index]
        found = _BOUNDED.fullmatch(text)
        if found is None:
            raise ValueError(f"pyproject.toml: {text!r} has no lower bound: write name>=version")
        marker = f" {found['marker']}" if found["marker"] else ""
        lines.append(f"{found['name']}=={found['low']}{marker}")
    return HEADER + "\n".join(sorted(lines, key=str.lower)) + "\n"


def main() -> int:
    """Write the file, or compare with it; return the exit code."""
    wanted = lowest(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    if "--check" in sys.argv[1:]:
        same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == wanted
        if not same:
            print(f"{TARGET.relative_to(ROOT)} is out of date: run `make lowest`", file=sys.stderr)  # noqa: T201
        return 0 if same else 1
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
