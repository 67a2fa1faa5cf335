"""What the openclipart drawings show: file-name beginnings and the caption they stand for.

The file names are in English, Italian and French and end in pieces of author names, so the captions
were written by hand, in ``clipart_captions.txt``. One line per caption, ``caption = beginning
beginning ...``: the longest beginning wins, digits and case are ignored, and a file that matches no
line is not used at all.
"""

from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")


def captions() -> list[tuple[str, str]]:
    """Return (beginning of a file stem, caption) pairs, longest beginning first; "." marks the stem's end."""
    pairs: list[tuple[str, str]] = []
    for line in FILE.read_text("utf-8").splitlines():
        caption, beginnings = line.split(" = ")
        pairs.extend((beginning, caption) for beginning in beginnings.split())
    return sorted(pairs, key=lambda pair: (-len(pair[0]), pair))
