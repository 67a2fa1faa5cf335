"""The card: read by machines, and not to be written by strangers."""

import re
from datetime import datetime, timezone

import pyarrow as pa
import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from hubprobe.front import StatusReport
from hubprobe.release.tables import NAMES
from hubprobe.release.write import card, code, validate
from workspace import WorkspaceError

HOSTILE = "mit` | <img src=x onerror=alert(1)> [click](http://evil.example) \n# heading\n--- \u202e \x1b[31m"


def drawn(**changes):
    row = {"outcome": "ok", "status": "ok", "repositories": 3, "meaning": "probed"}
    content = {
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
    }
    days = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 1, 2)]
    return card(
        {**content, **changes},
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
