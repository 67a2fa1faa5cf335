"""The lists of the page, as pages and as files: models, outputs of a model, comparisons, concepts."""

import csv
import io

import httpx
import pyarrow.parquet as pq
import pytest

from tests.page.conftest import Served

ONE, OTHER = "owner1/model-001", "owner1/model-006"


@pytest.fixture(scope="module")
def http(served: Served):
    with httpx.Client(base_url=served.url, timeout=300, trust_env=False) as client:
        yield client


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text[-500:]
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_models_are_listed_by_downloads_and_found_by_name(http: httpx.Client) -> None:
    every = rows(http.get("models?format=csv"))
    assert [int(row["downloads"]) for row in every] == [100 * i for i in range(15, -1, -1)]
    some = rows(http.get("models?find=OWNER1&format=csv"))
    assert [row["repo_id"] for row in some] == [row["repo_id"] for row in every if row["repo_id"].startswith("owner1/")]
    page = http.get("models?find=owner1").text
    assert all(row["repo_id"] in page for row in some)
    assert "owner2/" not in page


def test_outputs_of_a_model_are_found_by_label_or_name(http: httpx.Client, served: Served) -> None:
    labels = [row["label"] for row in rows(http.get(f"model?repo={ONE}&format=csv"))]
    logits = served.made.truth["models"][ONE]["logits"]
    assert labels == logits
    found = rows(http.get(f"model?repo={ONE}&find={logits[3]}&format=csv"))
    assert logits[3] in [row["label"] for row in found]
    assert len(found) < len(labels)
    assert {"name", "name_confidence", "evidence"} <= found[0].keys()
    assert logits[3] in http.get(f"model?repo={ONE}&find={logits[3]}").text


def test_models_are_compared_side_by_side(http: httpx.Client, served: Served) -> None:
    truth = served.made.truth["models"]
    both = set(truth[ONE]["logits"]) & set(truth[OTHER]["logits"])
    assert len(both) > 1
    asked = f"compare?model={ONE}&model={OTHER}"
    found = rows(http.get(f"{asked}&format=csv"))
    pairs = [(truth[ONE]["logits"][int(row["a_logit"])], truth[OTHER]["logits"][int(row["b_logit"])]) for row in found]
    assert {(concept, concept) for concept in both} <= set(pairs)
    page = http.get(asked).text
    assert ONE in page
    assert OTHER in page
    for wrong in (f"compare?model={ONE}", f"compare?model={ONE}&model={ONE}"):
        answer = http.get(wrong)
        assert 400 <= answer.status_code < 500
        assert "two to" in answer.text


def test_concepts_by_kind_by_name_and_those_that_nobody_answers(http: httpx.Client, served: Served) -> None:
    whole = pq.read_table(io.BytesIO(http.get("concepts?format=parquet").content)).to_pylist()
    for asked, kept in {
        "kind=animal": lambda row: row["kind"] == "animal",
        "find=Dog": lambda row: "dog" in row["concept"],
        "show=missing": lambda row: row["models"] == 0 and not row["covered"],
        "kind=food&find=pi": lambda row: row["kind"] == "food" and "pi" in row["concept"],
    }.items():
        found = http.get(f"concepts?{asked}&format=json").json()
        assert [row["concept"] for row in found] == [row["concept"] for row in whole if kept(row)], asked
        assert 0 < len(found) < len(whole), asked
    page = http.get("concepts?find=dog").text
    assert "dog" in page
    assert "pizza" not in page


def test_a_format_or_model_that_is_not_there(http: httpx.Client) -> None:
    for wrong in ("models?format=xls", "model?repo=no/such", "concepts?kind=nonsense&format=csv&start=x"):
        answer = http.get(wrong)
        assert answer.status_code < 500
        assert "Traceback" not in answer.text
    assert "there is no format" in http.get("models?format=xls").text
