"""What the site needs beyond docs/: files of the repository that its pages link to, and a start page that is README.md.

mkdocs would start at index.md, which is the page of the verb `index`: here that is index_verb.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
_OUT = re.compile(r"(\]\(|src=\")\.\./([^)#\"\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside docs/ that a page links to, under ``repository/``, and the files that those link to."""
    start = files.get_file_from_path("README.md")
    assert start is not None
    start.inclusion = InclusionLevel.INCLUDED
    files.append(File.generated(config, "index_verb.md", abs_src_path=str(ROOT / "docs/index.md")))
    todo = [ROOT / "docs" / f.src_uri for f in files.documentation_pages() if f.src_uri != "index_verb.md"]
    todo.append(ROOT / "docs/index.md")
    seen: set[Path] = set()
    while todo:
        page = todo.pop()
        for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path in seen or not path.is_file() or ROOT / "docs" in path.parents:
                continue
            seen.add(path)
            uri = f"repository/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
            if path.suffix == ".md":
                todo.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ to the copies, and links of the copies back to docs/."""
    uri = page.file.src_uri
    if not uri.startswith("repository/"):
        markdown = _OUT.sub(r"\1repository/\2", markdown)
        return re.sub(r"\]\(index\.md", "](index_verb.md", markdown)
    here = (ROOT / uri.removeprefix("repository/")).parent

    def led(match: re.Match[str]) -> str:
        path = (here / match.group(2)).resolve()
        if not path.exists() or path.is_dir():
            return f"{match.group(1)}#"  # a folder of the repository: nothing to show
        inside = ROOT / "docs" in path.parents
        new = path.relative_to(ROOT / "docs") if inside else Path("repository") / path.relative_to(ROOT)
        if new == Path("index.md"):
            new = Path("index_verb.md")
        depth = len(Path(uri).parents) - 1
        return f"{match.group(1)}{'../' * depth}{new.as_posix()}"

    return re.sub(r"(\]\()(?![a-z]+:|#)([^)#\s]+)", led, markdown)
