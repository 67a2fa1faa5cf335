"""The card: read by machines, and not to be written by strangers."""

import re
from datetime import datetime, timezone

import pyarrow as pa
import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from hubprobe.front import StatusReport
from hubprobe.release.card import author_of, card, citation, code, croissant, validate
from hubprobe.release.tables import NAMES, schemas
from workspace import WorkspaceError

HOSTILE = "mit` | <img src=x onerror=alert(1)> [click](http://evil.example) \n# heading\n--- \u202e \x1b[31m"


CONTENT = {
    "rows": dict.fromkeys(NAMES, 1_234),
    "left_out": {"gated": 1},
    "licences": ["none", "permissive"],
    "license": "cc-by-4.0",
    "n_probes": 100,
    "probe_images": True,
    "probe_source": HOSTILE,
    "encoder": {"name": HOSTILE, "commit": "0" * 40},
    "versions": {"hubprobe": "0.1.0"},
    "release_id": "0123456789abcdef",
    "tables": {"descriptors": [{}]},
    "author": HOSTILE,
    "predecessor": None,
}


def stated(**changes):
    return {**CONTENT, **changes}


def drawn(**changes):
    row = {"outcome": "ok", "status": "ok", "repositories": 3, "meaning": "probed"}
    days = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 1, 2)]
    return card(
        stated(**changes),
        StatusReport(4, 3, 4, 3, 1, 0, 0, 30, [row]),
        models=pa.table({"license": ["mit", HOSTILE, None], "crawled_at": days}),
        probes=pa.chunked_array([[HOSTILE]]),
        repo="OWNER/NAME",
    )


def test_front_matter_is_what_datasets_reads():
    data = DatasetCard(drawn()).data
    configs = MetadataConfigs.from_dataset_card_data(data)
    assert list(configs) == list(NAMES)
    assert configs.get_default_config_name() == "models"
    assert configs["probes"]["data_files"] == [{"split": "train", "path": "probes/*.parquet"}]
    assert (data.license, data.size_categories) == ("cc-by-4.0", ["1K<n<10K"])


def test_strangers_text_is_shown_and_does_nothing():
    text = drawn()
    _, front, body = text.split("---\n", 2)
    assert "evil" not in front
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert "\n# heading" not in body
    assert not set("\u202e\x1b") & set(text)
    # outside of code nothing of it is left
    plain = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", body, flags=re.DOTALL))
    for part in ("<img", "evil", "onerror"):
        assert part in body
        assert part not in plain
    table = [line for line in body.splitlines() if "onerror" in line and line.startswith("|")]
    assert [line.count("|") for line in table] == [3]  # two columns: no bar of its own


@pytest.mark.parametrize("text", ["`", "``x``", "a|b", "", "\n\n", "x" * 500])
def test_code_is_one_span(text):
    shown = code(text)
    assert shown[0] == shown[-1] == "`"
    assert not set("`|\n") & set(shown[1:-1])
    assert 3 <= len(shown) <= 62


def test_a_card_that_names_other_files_is_refused():
    with pytest.raises(WorkspaceError, match="read back"):
        validate(drawn(), ["models"])
    with pytest.raises(WorkspaceError, match="read back"):
        validate("# no front matter", NAMES)


def test_it_says_when_nothing_is_left_out_and_when_images_are():
    text = drawn(left_out={}, probe_images=False, encoder=None)
    assert "every repository that was listed is in the tables" in text
    assert "hash, size and source only" in text
    assert "Text goes through" not in text


def test_whom_to_cite_is_in_the_entry_and_ends_it_nowhere():
    assert author_of("", "lab/rows") == "lab"
    assert author_of("A {B}\\x}", "lab/rows") == "A Bx"
    about = yaml.safe_load(
        citation(stated(author="Ada: a lab", license="mit"), ("2026-01-01", "2026-01-02"), "lab/rows")
    )
    assert about["authors"] == [{"name": "Ada: a lab"}]
    assert (about["license"], about["date-released"], about["cff-version"]) == ("MIT", "2026-01-02", "1.2.0")
    assert "license" not in yaml.safe_load(citation(stated(license="other"), ("unknown", "unknown"), "lab/rows"))
    assert "author = {{Ada}}" in drawn(author="Ada")


def test_every_column_is_explained():
    text = drawn()
    for schema in schemas(100, images=True).values():
        for field in schema:
            assert f"| `{field.name}` |" in text
            assert field.metadata[b"doc"].decode() in text, field.name


def test_croissant_names_columns_that_are_there():
    made = croissant(CONTENT, ("2026-01-01", "2026-01-02"), "lab/rows")
    assert made["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    files = {one["@id"]: one for one in made["distribution"]}
    tables = schemas(100, images=True)
    assert [one["@id"] for one in made["recordSet"]] == list(tables)
    for one in made["recordSet"]:
        for field in one["field"]:
            source = field["source"]
            assert files[source["fileSet"]["@id"]]["includes"] == f"{one['@id']}/*.parquet"
            kind = tables[one["@id"]].field(source["extract"]["column"]).type
            assert field.get("isArray", False) == (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))
            assert field["dataType"].partition(":")[0] in made["@context"]
    assert {"models/repo_id", "descriptors/vector", "probes/image"} <= {
        field["@id"] for one in made["recordSet"] for field in one["field"]
    }


def test_it_says_what_has_changed_since():
    before = {"release_id": "f" * 16, "same_probes": False, "changes": {"added": 3}}
    text = drawn(predecessor=before)
    assert "Compared with release `ffffffffffffffff`, which was of other probes" in text
    assert "| repositories that the earlier one has not | 3 |" in text
    assert "Since the last" not in drawn()
