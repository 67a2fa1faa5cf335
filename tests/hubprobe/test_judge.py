"""The verbs that judge, and what search says of itself, from the command line to stdout, stderr and exit code."""

import csv
import io
import json
import logging
import sys

import pyarrow.parquet as pq
import pytest

from hubprobe.cli import main
from tests.search.conftest import CONCEPTS, make
from workspace import model_file_name
from workspace.files import write_table

ROOMS = ("completion", "crawler", "hubprobe", "probing", "search", "workspace")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An indexed workspace of 12 models, every other one labelled; logit 0 of model-005 lies."""
    made = make(tmp_path_factory.mktemp("judged") / "workspace")
    (key,) = {(repo, sha) for repo, sha, _ in made.vectors if repo.endswith("model-005")}
    path = made.workspace.descriptors_dir(made.workspace.probe_set) / f"{model_file_name(*key)}.parquet"
    table = pq.read_table(path)
    truth = table.column("label").to_pylist()
    made.lie, made.honest = next(c for c in CONCEPTS if c not in truth), truth[0]
    at = table.column_names.index("label")
    write_table(path, table.set_column(at, table.schema.field(at), [[made.lie, *truth[1:]]]))
    made.index()
    (made.workspace.root / "truth.json").write_text(json.dumps(made.truth))
    return made


@pytest.fixture
def say(monkeypatch, capsys):
    """Return what ``hubprobe VERB ...`` does in this process: exit code, stdout, stderr."""
    state = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in ROOMS}

    def run(workspace, verb, *args):
        monkeypatch.setattr("search.texts.load_tower", lambda *_a, **_k: None)
        monkeypatch.setattr("search.texts.load_encoder", lambda *_a, **_k: workspace.encoder)
        monkeypatch.setattr(sys, "argv", ["hubprobe", verb, "--workspace", str(workspace.workspace.root), *args])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    yield run
    for name, (handlers, propagate) in state.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def records(said):
    code, out, err = said
    assert code == 0, err
    return json.loads(out)


def test_describe_names_every_output_of_a_model_without_labels(made, say):
    repo = next(r for r in made.truth["models"] if r.endswith("model-004"))
    rows = records(say(made, "describe", repo, "--quiet", "--format", "json"))
    truth = made.truth["models"][repo]["logits"]
    assert [row["logit"] for row in rows] == list(range(len(truth)))
    assert all(row["label"].startswith("LABEL_") for row in rows)
    assert sum(row["name"] == concept for row, concept in zip(rows, truth, strict=True)) >= 0.7 * len(truth)
    assert {row["source"] for row in rows} <= {"labels", "zero-shot"}
    assert all(len(row["others"]) == 2 for row in rows)
    code, out, _ = say(made, "describe", repo, "--names", "1", "--quiet")
    assert code == 0
    assert out.splitlines()[0].split() == ["logit", "label", "name", "confidence", "source", "others"]


def test_audit_lists_a_lie_first(made, say):
    rows = records(say(made, "audit", "--quiet", "--format", "json"))
    assert rows[0]["repo_id"].endswith("model-005")
    assert (rows[0]["logit"], rows[0]["label"], rows[0]["name"]) == (0, made.lie, made.honest)
    assert [row["doubt"] for row in rows] == sorted((row["doubt"] for row in rows), reverse=True)
    one = records(say(made, "audit", "--repo", rows[0]["repo_id"], "--limit", "1", "--quiet", "--format", "json"))
    assert [(row["logit"], row["label"]) for row in one] == [(0, made.lie)]


@pytest.mark.parametrize(
    ("verb", "args", "why"),
    [
        ("describe", ["nobody/here"], "nobody/here"),
        ("audit", ["--repo", "nobody/here"], "nobody/here"),
        ("describe", ["{repo}", "--sha", "0" * 40], "000"),
    ],
)
def test_a_repository_that_is_not_there_is_a_sentence(made, say, verb, args, why):
    repo = next(iter(made.truth["models"]))
    code, out, err = say(made, verb, *[a.replace("{repo}", repo) for a in args])
    assert (code, out) == (1, "")
    assert err.startswith("hubprobe: ")
    assert err.count("\n") == 1
    assert why in err


def test_an_index_without_an_encoder_says_what_it_cannot_do(say, tmp_path):
    mute = make(tmp_path / "workspace", models=3, n=120)
    mute.index(encoder="none")
    repo = next(iter(mute.truth["models"]))
    for verb, args in (("describe", [repo]), ("audit", []), ("search", ["dog"])):
        code, out, err = say(mute, verb, *args)
        assert (code, out) == (1, "")
        assert "without an encoder" in err
    rows = records(say(mute, "similar", repo, "0", "--format", "json"))
    assert rows
    assert "found_by" not in rows[0]


def test_a_hit_says_which_side_found_it(made, say):
    code, out, err = say(made, "search", "dog", "--scoring", "bridged")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["rank", "repo_id", "logit", "label", "score", "likely", "right", "found_by"]
    assert "labels" in out
    rows = records(say(made, "search", "dog", "--scoring", "bridged", "--format", "json"))
    assert all(set(row["found_by"]) <= {"zero-shot", "labels", "map"} for row in rows)
    assert "found_by" not in say(made, "search", "dog", "--scoring", "probelog")[1]


def test_a_query_that_is_not_covered_is_answered_with_a_note_on_stderr(made, say):
    unknown = "an isosceles tax return"
    code, out, err = say(made, "search", unknown, "--scoring", "bridged", "--format", "csv")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == 10
    assert err.startswith(f"{unknown}: probably not covered")
    assert say(made, "search", unknown, "--scoring", "probelog")[2] == ""  # the score is of the bridged search


def test_evaluate_writes_runs_and_qrels_that_it_reads_back(made, say, tmp_path):
    truth, asked = made.workspace.root / "truth.json", ["--scoring", "bridged", "--quiet", "--format", "json"]
    code, out, err = say(made, "evaluate", "--truth", str(truth), *asked, "--trec", str(tmp_path / "runs"))
    assert code == 0, err
    assert "2 files" in err
    rows = json.loads(out)
    assert [row["task"] for row in rows] == ["text", "text, unlabelled", "logit"]
    assert rows[0]["queries"] == len(CONCEPTS)
    assert rows[0]["top1"] > 0.9
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["bridged.run", "truth.qrels"]
    qrels = tmp_path / "runs" / "truth.qrels"
    again = records(say(made, "evaluate", "--truth", str(qrels), *asked))
    for name in ("queries", "top1", "top5", "top10", "mrr", "chance"):
        assert again[0][name] == pytest.approx(rows[0][name]), name


def test_a_truth_that_cannot_be_read(made, say, tmp_path):
    (tmp_path / "bad.qrels").write_text("dog 0 owner/model 1\n")
    (tmp_path / "bad.json").write_text("dog 0 owner/model#1 1\n")
    (tmp_path / "other.json").write_text('{"concepts": {}}')
    code, _, err = say(made, "evaluate", "--truth", str(tmp_path / "bad.qrels"))
    assert (code, "line 1" in err) == (1, True)
    code, _, err = say(made, "evaluate", "--truth", str(tmp_path / "bad.json"))
    assert (code, ".qrels" in err) == (2, True)
    assert say(made, "evaluate", "--truth", str(tmp_path / "other.json"))[0] == 1


def test_models_like_a_whole_model(made, say):
    repo = next(r for r in made.truth["models"] if r.endswith("model-004"))
    rows = records(say(made, "similar", repo, "--limit", "3", "--format", "json"))
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert repo not in {row["repo_id"] for row in rows}
    code, out, _ = say(made, "similar", repo)
    assert code == 0
    assert "shared" in out
    code, _, err = say(made, "similar", repo, "--whole")
    assert code == 2
    assert "LOGIT" in err
