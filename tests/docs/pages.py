"""The documentation as the tests see it: pages, their code blocks, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN = ("bash", "python", "sql")
"""Languages whose blocks are run; a block without a language, or in another, is output, a synopsis or a file."""

_FENCE = re.compile(r"^(```+|~~~+)\s*(\w*)")
_MARK = re.compile(r"^<!-- not run: (.+) -->$")
_OUTPUT = "<!-- output -->"
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*<?([^()\s<>]*(?:\([^()]*\))?[^()\s<>]*)>?(?:\s+\"[^\"]*\")?\s*\)"
)
_IMG = re.compile(r"<(?:img|source)\b[^>]*?\b(?:src|srcset)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, why it is not run when its page says so, and whether it is what was said."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str | None = None
    is_output: bool = False

    @property
    def name(self) -> str:
        """As an editor finds it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the pages whose blocks are run: the README, what contributors read, and every page of docs/."""
    return [p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if p.exists()] + sorted(DOCS.glob("*.md"))


def written() -> list[Path]:
    """Return every Markdown file whose links are checked."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "benchmarks").glob("*/*.md"))]


@cache
def _parts(page: Path) -> tuple[list[Block], list[tuple[int, str]]]:
    """Split a page into its fenced blocks and the numbered lines of its prose."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    fence, language, start, excuse, is_output = "", "", 0, None, False
    held: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        found = _FENCE.match(line)
        if fence:
            if found and line.strip() == fence:
                blocks.append(Block(page, start, language, "\n".join(held) + "\n", excuse, is_output))
                fence, excuse, is_output, held = "", None, False, []
            else:
                held.append(line)
        elif found:
            fence, language, start = found.group(1), found.group(2), number
        else:
            prose.append((number, line))
            if line.strip():
                mark = _MARK.match(line.strip())
                excuse = mark.group(1) if mark else None
                is_output = line.strip() == _OUTPUT
    assert not fence, f"{page}: the block that begins in line {start} does not end"
    return blocks, prose


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of ``page`` in order."""
    return _parts(page)[0]


def links(page: Path) -> list[tuple[int, str, bool]]:
    """Return line, target and whether it is an image, of every link of ``page`` outside its code."""
    found: list[tuple[int, str, bool]] = []
    for number, line in _parts(page)[1]:
        bare = re.sub(r"`[^`]*`", "``", line)
        found += [(number, m.group(3), m.group(1) == "!") for m in _LINK.finditer(bare)]
        # an image that is a link itself, [![...](picture)](page): the picture is inside the text of the link
        found += [(number, n.group(3), True) for m in _LINK.finditer(bare) for n in _LINK.finditer(m.group(2))]
        found += [(number, target, True) for target in _IMG.findall(bare)]
    return found


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives the headings of ``page``, and those it sets itself."""
    seen: dict[str, int] = {}
    names: set[str] = set()
    for _, line in _parts(page)[1]:
        names |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
        heading = _HEADING.match(line)
        if heading:
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(2))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            names.add(slug if count == 0 else f"{slug}-{count}")
    return frozenset(names)
