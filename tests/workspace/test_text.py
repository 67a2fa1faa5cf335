import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from workspace.text import printable


@given(st.text(), st.integers(1, 100))
def test_printable_is_one_short_line_without_controls(text, limit):
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)


def test_escapes_and_overrides_go_and_words_stay():
    assert printable("dog\x1b[31m\n\tred\u202egnp.exe") == "dog[31m redgnp.exe"
    assert printable("chien 犬 🐶") == "chien 犬 🐶"
    assert printable("x" * 100, 5) == "xxxx…"
    assert printable(None) == "None"
