"""The page in a real browser."""

import csv
import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from hubprobe import front
from hubprobe.comparison import compare
from hubprobe.usage import use
from search.text.calibration import Certainty
from tests.page.conftest import REPO, Served, Visit, eventually
from tests.search.conftest import probe_png

PAIR = "compare?model=owner1/model-001&model=owner2/model-002"


def test_search_shows_cards_with_everything_on_them(visit: Visit, served: Served) -> None:
    page = visit.go()
    assert page.title() == "hubprobe"
    page.get_by_label("What should an output recognise?").fill("pizza")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector(".card")
    assert page.url == f"{visit.url}?q=pizza"  # an address that can be sent to somebody
    expected = served.made.open().search("pizza").to_dicts()
    cards = page.locator(".card")
    assert cards.count() == len(expected) == 10
    for i, hit in enumerate(expected):
        text = cards.nth(i).inner_text()
        assert hit["repo_id"] in text
        assert f"logit {hit['logit']}" in text
        assert (hit["label"] or "no label") in text
        assert f"score {hit['score']:.3f}" in re.sub(r"\s+", " ", text)
        assert all(side in text for side in hit["found_by"])
    first = cards.first
    assert re.search(r"(answers like .+|its answers fit its label) \(\d+\s% sure\)", first.inner_text())
    assert first.locator(".strip img").count() == 8
    eventually(page, "[...document.querySelectorAll('.cards > li:first-child img')].every(i => i.naturalWidth > 0)")
    assert "a pizza" in first.locator(".strip").inner_text()  # its evidence, with captions
    assert page.locator(".sure").inner_text().startswith("How sure:")


def test_an_address_is_a_search(visit: Visit) -> None:
    page = visit.go("?q=guitar&license=mit&min_downloads=500")
    assert page.get_by_label("What should an output recognise?").input_value() == "guitar"
    assert page.get_by_label("Licence").input_value() == "mit"
    assert "guitar" in page.title()


def test_filters_leave_only_what_passes(visit: Visit, served: Served) -> None:
    page = visit.go("?q=dog")
    page.locator("summary", has_text="Filters").click()
    page.get_by_label("Licence").select_option("apache-2.0")
    page.get_by_label("Downloads, at least").fill("0.5k")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_selector("text=2 applied")
    assert page.url == f"{visit.url}?q=dog&license=apache-2.0&min_downloads=0.5k"
    expected = served.made.open().search("dog").where("license = 'apache-2.0' AND downloads >= 500").to_dicts()
    assert _keys(page) == [(hit["repo_id"], hit["logit"]) for hit in expected]
    page.get_by_role("link", name="Clear").click()
    page.wait_for_selector("text=2 applied", state="detached")
    assert page.url == f"{visit.url}?q=dog"


def test_a_condition_of_ones_own_and_one_that_is_none(visit: Visit) -> None:
    page = visit.go("?q=dog&where=label_quality+%3D+'named'+OR+downloads+%3C+0&license=mit")
    assert page.locator(".card").count() == 10
    page = visit.go("?q=dog&where=1)+OR+(SELECT+1")
    assert page.get_by_role("alert").inner_text().startswith("This cannot be answered")
    assert "Traceback" not in page.content()
    assert page.get_by_label("What should an output recognise?").input_value() == "dog"


def test_models_and_more_hits(visit: Visit) -> None:
    page = visit.go("?q=dog&by=model&n=6")
    repos = [repo for repo, _ in _keys(page)]
    assert len(repos) == len(set(repos)) == 6
    page.get_by_role("link", name="More", exact=True).click()
    page.wait_for_url("**n=12**", wait_until="load")
    assert page.locator(".card").count() == 12


def test_example_image(visit: Visit, served: Served) -> None:
    page = visit.go()
    data = probe_png(served.made.content[6])  # what probe 6 shows is concept 6
    page.get_by_label("or search by an example image").set_input_files(
        {"name": "<b>my.png", "mimeType": "image/png", "buffer": data}
    )
    page.wait_for_selector(".card")
    expected = served.made.open().search(Image.open(io.BytesIO(data))).to_dicts()
    assert _keys(page) == [(hit["repo_id"], hit["logit"]) for hit in expected]
    assert "<b>my.png" in page.locator(".asked").inner_text()
    page.locator("summary", has_text="Filters").click()
    page.get_by_label("Licence").select_option("mit")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_selector("text=1 applied")
    assert "image=" in page.url  # still the same image
    assert page.locator(".asked img").count() == 1


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"0" * 99])
def test_what_is_no_image(visit: Visit, data: bytes) -> None:
    page = visit.go()
    page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": data})
    assert "x.png cannot be read" in page.get_by_role("alert").inner_text()


def test_a_decompression_bomb_is_refused(visit: Visit) -> None:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    page = visit.go()
    page.locator("#file").set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    assert "b.png" in page.get_by_role("alert").inner_text()


def test_model_page(visit: Visit, served: Served) -> None:
    page = visit.go("?q=dog")
    page.locator(".card .repo a").first.click()
    page.wait_for_selector(".outputs")
    repo = page.locator("h1").inner_text()
    described = served.made.open().describe(repo, progress=False).to_pylist()
    lines = page.locator(".outputs > li")
    assert lines.count() == len(described) == 10
    for i, one in enumerate(described):
        text = lines.nth(i).inner_text()  # every logit is named, by its label where that fits
        assert one["name"] in text or "its answers fit its label" in text or "nothing that stands out" in text
    assert {"The model", "How it was probed", "Related models"} <= set(page.locator("h2").all_inner_texts())
    assert "ViTForImageClassification" in page.content()
    attempt = page.locator("section", has=page.get_by_role("heading", name="How it was probed"))
    assert "0.50 s" in attempt.inner_text()
    assert page.locator(".columns a").count() >= 1  # models that recognise the same


def test_find_an_output_of_a_model(visit: Visit) -> None:
    page = visit.go("model?repo=owner1/model-001&find=zebra-crossing")
    assert "No output is called that" in page.content()
    page = visit.go("model?repo=no/such")
    assert "not in the index" in page.get_by_role("alert").inner_text()


def test_more_like_this(visit: Visit, served: Served) -> None:
    page = visit.go("?q=guitar")
    repo, logit = _keys(page)[0]
    page.get_by_role("link", name="More like this").first.click()
    page.wait_for_selector(".asked")
    expected = served.made.open().similar(repo, logit).to_dicts()
    assert _keys(page) == [(hit["repo_id"], hit["logit"]) for hit in expected]
    assert page.locator(".asked .strip img").count() == 8


def test_not_covered(visit: Visit, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = served.current.get().index.gallery  # too small to have learned what it does not cover
    monkeypatch.setattr(gallery, "bridge", replace(gallery.bridge, certainty=Certainty(answer=1.1)))
    page = visit.go("?q=tax+law")
    assert page.get_by_role("note").inner_text().startswith("Probably not covered.")
    assert page.locator(".card").count() == 10  # the nearest are shown all the same


def test_nothing_passes(visit: Visit) -> None:
    page = visit.go("?q=dog&min_downloads=999B")
    assert "No output passes the filters." in page.content()
    page.get_by_role("link", name="Ask without filters").click()
    page.wait_for_selector(".card")


def test_keyboard_only(visit: Visit) -> None:
    page = visit.go()
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("piano guitar")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    assert page.locator("[role=status]").inner_text().startswith("10 outputs")
    page.keyboard.press("/")  # to the box, from anywhere
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("Filters")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "library"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        shown = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.textContent.trim(), s.outlineStyle !== 'none' || e.id === 'file']; })()"
        )
        assert shown[1], f"no focus is seen on {shown[0]!r}"
        seen.add(shown[0])
        if shown[0] == "More like this":
            break
    assert "More like this" in seen
    page.keyboard.press("Enter")
    page.wait_for_selector(".asked")


def test_every_field_has_a_label_and_headings_are_in_order(visit: Visit) -> None:
    for path in ("", "?q=dog&license=mit", "model?repo=owner1/model-001", "models", "about", "concepts", "pick", PAIR):
        page = visit.go(path)
        assert page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')].every(e => e.labels.length)"
        )
        assert page.evaluate("[...document.images].every(i => i.alt)")
        assert page.locator("main").count() == 1
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))


def test_snippets_can_be_copied(visit: Visit) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.go("?q=dog&license=mit")
    page.locator("summary", has_text="The same question").click()
    page.get_by_role("button", name="Copy Command line").click()
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "hubprobe search --workspace small-index --where 'license = '\"'\"'mit'\"'\"'' --limit 10 dog\n"


def test_what_is_shown_can_be_copied_and_downloaded(visit: Visit, tmp_path: Path) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.go("?q=dog&n=4")
    expected = _keys(page)
    page.get_by_role("button", name="Copy", exact=True).click()
    page.wait_for_selector("text=Copied")
    copied = csv.DictReader(io.StringIO(page.evaluate("navigator.clipboard.readText()")))
    assert [(row["repo_id"], int(row["logit"])) for row in copied] == expected
    readers = {
        "CSV": lambda path: list(csv.DictReader(path.open(encoding="utf-8"))),
        "JSON": lambda path: json.loads(path.read_text("utf-8")),
        "Parquet": lambda path: pq.read_table(path).to_pylist(),
    }
    for kind, read in readers.items():
        with page.expect_download() as got:
            page.get_by_role("link", name=kind, exact=True).click()
        assert got.value.suggested_filename == f"hubprobe-hits.{kind.lower()}"
        got.value.save_as(tmp_path / kind)
        rows = read(tmp_path / kind)
        assert [(row["repo_id"], int(row["logit"])) for row in rows] == expected
        assert rows[0]["name"]


def test_two_ticked_cards_are_compared(visit: Visit, served: Served) -> None:
    page = visit.go("?q=dog&by=model&n=6")
    tray = page.locator("#compare button")
    assert not tray.is_visible()
    repos = [repo for repo, _ in _keys(page)]
    page.locator(".tick input").nth(0).focus()
    page.keyboard.press("Space")  # by keyboard alone
    assert tray.inner_text() == "Tick another to compare"
    assert tray.is_disabled()
    page.locator(".tick input").nth(2).check()
    tray.click()
    page.wait_for_url("**/compare?**")
    asked = [repos[0], repos[2]]
    assert page.locator("main table thead").first.locator("a").all_inner_texts() == asked
    expected = compare(served.made.open(), asked)
    said = page.locator(".says").inner_text()
    assert f"{expected.pairs[0]['same']} outputs" in said
    assert page.locator(".divided > li").count() == min(24, len(expected.differences))
    with page.expect_download() as got:
        page.get_by_role("link", name="JSON", exact=True).click()
    rows = json.loads(Path(got.value.path()).read_text("utf-8"))
    assert len(rows) == expected.pairs[0]["same"]


def test_each_card_says_how_it_is_used(visit: Visit, served: Served) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.go("?q=dog&n=3")
    repo, logit = _keys(page)[1]
    card = page.locator(".card").nth(1)
    card.locator("summary", has_text="Use it").click()
    card.get_by_role("button", name="Copy Python").click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == use(served.made.open(), repo, logit).code
    assert "licence:" in card.locator(".says").inner_text()


def test_concepts(visit: Visit, served: Served) -> None:
    page = visit.go("concepts?kind=animal")
    expected = front.concepts(served.made.workspace, kind="animal")
    assert f"{expected.num_rows} concepts" in page.locator("[role=status]").inner_text()
    assert page.locator(".list tbody tr").first.locator("th").inner_text() == expected["concept"][0].as_py()
    page.get_by_label("Show").select_option("missing")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**show=missing**")
    missing = front.concepts(served.made.workspace, kind="animal", missing=True).num_rows
    assert f"{missing} concepts" in page.locator("[role=status]").inner_text()
    page = visit.go("concepts?find=dog")
    page.get_by_role("link", name="dog", exact=True).click()
    page.wait_for_selector(".card")
    assert page.url == f"{visit.url}?q=dog"


def test_the_list_of_models(visit: Visit) -> None:
    page = visit.go()
    page.get_by_role("navigation", name="Site").get_by_role("link", name="Models").click()
    assert page.locator(".list tbody tr").count() == 16
    assert page.locator("nav [aria-current=page]").inner_text() == "Models"
    page.get_by_label("Repository contains").fill("MODEL-003")
    page.keyboard.press("Enter")
    page.wait_for_url("**find=MODEL-003")
    assert page.locator(".list tbody tr").count() == 1
    page.get_by_role("link", name="owner", exact=False).click()
    page.wait_for_selector(".outputs")
    assert "model-003" in page.locator("h1").inner_text()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "?q=dog&license=mit",
        "model?repo=owner1/model-001",
        "models",
        "about",
        "?q=" + "w" * 200,
        "concepts",
        "pick",
        PAIR,
    ],
)
def test_phone(phone: Visit, path: str) -> None:
    page = phone.go(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.get_by_label("What should an output recognise?").is_visible() or path == "pick"
    small = page.evaluate(
        "Math.min(...[...document.querySelectorAll('button')].filter(b => b.offsetHeight).map(b => b.offsetHeight))"
    )
    assert small >= 24


@pytest.mark.parametrize(
    "path",
    [
        "",
        "?q=dog&n=100",
        "?q=<img src=x onerror=window.hacked=1>",
        "?like=x&logit=1",
        "about",
        "models",
        "MODEL",
        "FIND",
        "PAIR",
        "concepts?find=<img src=x onerror=window.hacked=1>",
        'pick?concepts="><img src=x onerror=window.hacked=1>',
    ],
)
def test_hostile_text_stays_text(attacked: Visit, path: str) -> None:
    from urllib.parse import urlencode

    address = {"MODEL": {"repo": REPO}, "FIND": {"repo": REPO, "find": "\"><script>window.hacked='find'</script>"}}
    pair = f"compare?{urlencode({'model': [REPO, 'owner1/model-001']}, doseq=True)}"
    page = attacked.go(f"model?{urlencode(address[path])}" if path in address else pair if path == "PAIR" else path)
    page.wait_for_timeout(150)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], [onerror], [onclick], main script").count() == 0
    assert page.locator("script").count() == 1  # ours
    assert not page.evaluate("[...document.links].some(a => !['http:', 'https:'].includes(a.protocol))")
    if path in ("MODEL", "PAIR", "?q=dog&n=100"):
        assert "<img src=x" in page.locator("main").inner_text()  # shown, as the text it is
        assert "\u202e" not in page.content()  # nothing that turns the text around it


def test_loads_in_under_two_seconds(visit: Visit) -> None:
    for path in ("", "?q=chair"):
        started = time.process_time()  # the server is a thread of this process; a busy machine is not its slowness
        visit.go(path)
        assert time.process_time() - started < 2.0


def test_without_scripts(chromium, served: Served) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.url)
    page.get_by_label("What should an output recognise?").fill("dog")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    page.locator("#file").set_input_files(
        {"name": "x.png", "mimeType": "image/png", "buffer": probe_png(served.made.content[3])}
    )
    page.get_by_role("button", name="Search by image").click()
    page.wait_for_selector(".asked img")
    context.close()


def _keys(page) -> list[tuple[str, int]]:
    found = []
    for card in page.locator(".card").all():
        logit = re.search(r"logit (\d+)", card.locator(".facts").first.inner_text())
        found.append((card.locator(".repo").inner_text(), int(logit[1])))
    return found
