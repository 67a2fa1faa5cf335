"""HTML is escaped unless it was made here; questions and addresses are the same thing."""

import html.parser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from hubprobe.page.opened import Strong
from hubprobe.page.question import Question, count, literal, read
from hubprobe.page.views import ENVIRONMENT, card, exact, hub_address, short, shown
from hubprobe.usage import Facts, usage
from search.naming import Name
from workspace import QueryError

NASTY = st.text() | st.sampled_from(
    ["<img src=x onerror=alert(1)>", "\"'><script>", "</h3>", "&lt;", "javascript:x", "\u202e<b>"]
)


class Elements(html.parser.HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs


@settings(deadline=None)
@given(NASTY, NASTY)
def test_what_a_template_writes_is_escaped(child: str, value: str) -> None:
    drawn = ENVIRONMENT.from_string(
        "<p title=\"{{ value }}\" class='{{ child }}'>{{ child }}<i>{{ value|exact }}</i></p>"
    )
    made = Elements(drawn.render(child=child, value=value))
    assert made.names == {"p", "i"}
    assert [name for name, _ in made.attributes] == ["title", "class"]


def test_only_what_was_made_here_is_not_escaped_again() -> None:
    drawn = ENVIRONMENT.from_string("{{ one }}{{ two }}{{ nothing }}{{ zero }}")
    assert drawn.render(one=Markup("<i>x</i>"), two="<b>\u202ey\n", nothing=None, zero=0) == "<i>x</i>&lt;b&gt;y0"
    assert exact("\u202e<\n") == "\u202e&lt;\n"
    assert shown(None) == ""


@settings(max_examples=60, deadline=None)
@given(NASTY, NASTY, NASTY, NASTY, NASTY)
def test_a_card_of_hostile_text_has_only_our_elements(
    label: str, repo: str, caption: str, name: str, licence: str
) -> None:
    hit = {
        "rank": 1, "score": 0.5, "repo_id": repo, "sha": "f" * 40, "logit": 3, "label": label, "found_by": [name],
        "parameters": 1_200_000, "downloads": 9, "license": licence, "copies": [repo],
        "names": [Name(name, 0.5, "labels"), Name(label, 0.2, "labels")], "evidence": (Strong(0, caption, 3.0),),
    }  # fmt: skip
    listed = {"license": licence, "weights_sha": "0", "weights_ref": name}
    tried = {"processor": name, "processor_assumed": caption, "processor_settings": "{}", "label_quality": label}
    found = usage(Facts(repo, "f" * 40, 3, label, listed, tried), ((name, 0.5),))
    made = Elements(card(hit, Question(q=label), "ab12", usage=found))
    shown = {"li", "article", "div", "span", "h3", "p", "a", "b", "ul", "img", "label", "input"}
    assert made.names <= shown | {"details", "summary", "pre", "code"}
    assert [value for name, value in made.attributes if name == "value"] == [f"{repo}@{'f' * 40}"]
    assert not [name for name, _ in made.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith(("model?", "./?")) for name, value in made.attributes if name == "href" and value)
    assert [value for name, value in made.attributes if name == "src"] == ["probe/ab12/0.webp"]


def test_the_hub_is_linked_only_where_it_is_a_web_address() -> None:
    assert hub_address("https://huggingface.co/", 'a/"b<', "f0") == "https://huggingface.co/a/%22b%3C/tree/f0"
    assert hub_address("http://hub.example.org", "a/b") == "http://hub.example.org/a/b"
    assert hub_address("http://127.0.0.1:8600", "a/b") is None  # of this machine: a visitor's is another
    assert hub_address("javascript:alert(1)//", "a/b") is None


def test_an_output_without_a_label_says_so() -> None:
    for empty in (None, "", " \n\u202e"):
        assert "no label" in ENVIRONMENT.get_template("parts.html").module.label(empty)


def test_addresses_and_questions_are_the_same() -> None:
    question = read(
        {"q": " a red car ", "license": "mit", "min_downloads": "25k", "by": "model", "n": "20", "utm": "x"}
    )
    assert question == Question(q="a red car", license="mit", min_downloads=25_000, by="model", n=20)
    assert question.url() == "./?q=a+red+car&by=model&license=mit&min_downloads=25000&n=20"
    assert question.url(n=10, by="logit") == "./?q=a+red+car&license=mit&min_downloads=25000"
    assert Question(like="a/b", logit=0).url() == "./?like=a%2Fb&logit=0"
    assert read({"like": "a/b", "logit": "0"}) == Question(like="a/b", logit=0)
    assert question.unfiltered() == "./?q=a+red+car"


def test_what_is_asked_first_counts() -> None:
    assert Question(q="x", image="k", like="a/b", logit=0).kind == "text"
    assert Question(image="k", like="a/b", logit=0).kind == "like"
    assert Question(image="k", like="a/b").kind == "image"
    assert Question(like="a/b").kind == Question().kind == "nothing"


@pytest.mark.parametrize(
    "values",
    [{"by": "galaxy"}, {"n": "0"}, {"n": "101"}, {"n": "x"}, {"min_downloads": "1e9"}, {"max_parameters": "-1"},
     {"logit": "-1"}, {"q": "x" * 10_001}],
)  # fmt: skip
def test_values_that_cannot_be_meant(values: dict[str, str]) -> None:
    with pytest.raises(QueryError):
        read(values)


def test_counts_as_people_write_them() -> None:
    assert [count("n", v) for v in ("7", "1,000", "25k", "1.5M", "2 b", "0.5K")] == [
        7,
        1000,
        25_000,
        1_500_000,
        2 * 10**9,
        500,
    ]
    assert [short(v) for v in (7, 1500, 187_372, 4_652_008, 2e9)] == ["7", "1.5 k", "187 k", "4.7 M", "2.0 B"]


def test_filters_are_one_checked_condition() -> None:
    from search import filters

    question = Question(library="it's", quality="named", max_parameters=5, where="likes > 1 OR likes < 0 -- so")
    assert question.condition() == (
        "library_name = 'it''s' AND label_quality = 'named' AND parameters <= 5 AND (likes > 1 OR likes < 0 -- so\n)"
    )
    filters.parse(question.condition())
    for where in ("1=1) OR (1=1", "1; DROP TABLE models", "likes > (SELECT 1)"):
        with pytest.raises(QueryError):
            filters.parse(Question(license="mit", where=where).condition())


@settings(deadline=None)
@given(st.text(max_size=50))
def test_a_licence_of_any_text_is_only_a_text(value: str) -> None:
    from search import filters

    assert filters.parse(f"license = {literal(value)}").on_logits is False
